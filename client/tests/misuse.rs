//! Options that do not belong to what is judged, and outputs that take nothing.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::fs::{self, File};
use std::process::{Command, Stdio};

use common::Person;
use signer::NOW;
use signer::amd::Machine;

/// The paths name nothing: an option that does not belong is found before anything is read.
const STRAY: &[(&str, &str)] = &[
    ("--capsule c --report-data DATA", "--report-data"),
    ("--capsule c --tpm-signature s", "--tpm-signature"),
    ("--capsule c --state s", "--state"),
    ("--capsule c --save s", "--save"),
    ("--capsule c --qualifying-data 00", "--qualifying-data"),
    (
        "--evidence e --nonce NONCE --report-data DATA",
        "--report-data",
    ),
    (
        "--evidence e --nonce NONCE --tpm-registers r",
        "--tpm-registers",
    ),
    ("--evidence e --nonce NONCE --save s", "--save"),
    ("--snp-report r --release b", "--release"),
    ("--snp-report r --state s", "--state"),
    ("--snp-report r --save s", "--save"),
    ("--snp-report r --tpm-signature s", "--tpm-signature"),
    ("--snp-report r --event-log l", "--event-log"),
    ("--tdx-quote q --qualifying-data 00", "--qualifying-data"),
    ("--tdx-quote q --save s", "--save"),
    ("--tdx-quote q --tpm-quote t", "--tpm-quote"),
    ("--tpm-quote t --report-data DATA", "--report-data"),
    ("--tpm-quote t --nonce NONCE", "--nonce"),
    ("--tpm-quote t --release b", "--release"),
    ("--azure a --report-data DATA", "--report-data"),
    ("--azure a --snp-report r", "--snp-report"),
    ("--azure a --save s", "--save"),
    ("--gpu-evidence g --tpm-signature s", "--tpm-signature"),
    ("--gpu-evidence g --save s", "--save"),
    ("--gpu-evidence g --report-data DATA", "--report-data"),
    ("--gpu-evidence g --tdx-quote q", "--tdx-quote"),
];

#[test]
fn an_option_that_would_not_enter_is_misuse() {
    let person = Person::new();
    for (line, stray) in STRAY {
        let line = line
            .replace("DATA", &"ff".repeat(64))
            .replace("NONCE", &"07".repeat(32));
        let mut words = vec!["verify", "--policy", "policy.toml"];
        words.extend(line.split(' '));
        let outcome = person.run(&words, "");
        assert_eq!(outcome.code, 1, "{line}\n{}", outcome.stderr);
        // By this program's check, or already by that of the command line.
        let told = outcome.stderr.contains("is not used with")
            || outcome.stderr.contains("cannot be used with");
        assert!(told, "{line}\n{}", outcome.stderr);
        assert!(outcome.stderr.contains(stray), "{line}\n{}", outcome.stderr);
    }
    assert!(!person.path("s").exists());
}

/// A report that is verified where `certs` is named.
fn reported() -> Person {
    let person = Person::new();
    let machine = Machine::new();
    let evidence = machine.evidence();
    let policy = format!("version = 1\n{}", machine.policy_toml());
    person.write("machine.toml", policy);
    person.write("report", &evidence.report);
    fs::create_dir(person.path("certs")).unwrap();
    let lists = &evidence.revocation_lists;
    for (place, item) in evidence.certificates.iter().chain(lists).enumerate() {
        person.write(&format!("certs/{place}"), item);
    }
    person
}

/// Runs the program with these outputs; gives its exit code and what it said on standard error.
fn run(person: &Person, more: &str, out: Stdio, error: Stdio) -> (i32, String) {
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --snp-report report{more}");
    let output = Command::new(env!("CARGO_BIN_EXE_cloister"))
        .args(line.split(' '))
        .current_dir(person.folder.path())
        .env_clear()
        .env("HOME", person.folder.path())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(error)
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

/// A pipe that nobody reads.
fn broken() -> Stdio {
    let (_, writer) = std::io::pipe().unwrap();
    writer.into()
}

fn full() -> Stdio {
    File::options()
        .write(true)
        .open("/dev/full")
        .unwrap()
        .into()
}

#[test]
fn the_verdict_stands_where_nobody_reads_on() {
    let person = reported();
    for more in ["", " --explain", " --json"] {
        let verified = format!(" --certs certs{more}");
        let outcome = run(&person, &verified, broken(), Stdio::piped());
        assert_eq!(outcome, (0, String::new()), "{more}");
        let (code, said) = run(&person, more, broken(), Stdio::piped());
        assert_eq!(code, 3, "{said}");
        assert!(said.starts_with("cloister: refused: "), "{said}");
        for error in [broken(), full()] {
            assert_eq!(run(&person, more, Stdio::null(), error).0, 3, "{more}");
        }
    }
}

#[test]
fn a_report_that_cannot_be_written_is_no_success() {
    let person = reported();
    for more in ["", " --explain", " --json"] {
        let verified = format!(" --certs certs{more}");
        let (code, said) = run(&person, &verified, full(), Stdio::piped());
        assert_eq!(code, 1, "{said}");
        let expected = "cloister: cannot write to standard output: ";
        assert!(said.starts_with(expected), "{said}");
        assert_eq!(run(&person, &verified, full(), full()).0, 1);
        let (code, said) = run(&person, more, full(), Stdio::piped());
        assert_eq!(code, 3, "{said}");
    }
}
