//! `explain-mismatch`: for each thing that may differ, a report that differs in it, and the answer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::process::{Command, Output};

use common::ovmf;
use serde_json::Value;

struct Folder(tempfile::TempDir);

const SNP: &str = "--platform snp --vmm qemu --vcpus 2 --vcpu-type EPYC-v4 --guest-features 0x1 \
    --firmware ovmf.fd --kernel vmlinuz --initrd initrd --cmdline quiet";

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("ovmf.fd", &ovmf::firmware());
        let mut other = ovmf::firmware();
        other[0x2000] ^= 1;
        folder.write("old.fd", &other);
        folder.write("vmlinuz", &ovmf::kernel());
        folder.write("vmlinuz-old", b"another kernel");
        folder.write("initrd", b"an initrd");
        let predicted = folder.measure(SNP);
        folder.write("predicted.json", predicted.to_string().as_bytes());
        folder
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(name), bytes).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        command.args(arguments).current_dir(self.0.path());
        command.output().unwrap()
    }

    fn measure(&self, line: &str) -> Value {
        let words = ["measure", "--json"]
            .into_iter()
            .chain(line.split_whitespace());
        let output = self.run(&words.collect::<Vec<_>>());
        assert!(output.status.success(), "{line}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A report of a machine that was started so.
    fn report(&self, line: &str) {
        let measured = self.measure(line);
        let digest: attest::Digest<48> =
            measured["launch_digest"].as_str().unwrap().parse().unwrap();
        let mut report = [0; 1184];
        report[0x90..0xc0].copy_from_slice(digest.as_ref());
        self.write("report.bin", &report);
    }

    fn explain(&self, evidence: &str, more: &str) -> Value {
        let words = ["explain-mismatch", "--json", evidence, "predicted.json"];
        let words = words.into_iter().chain(more.split_whitespace());
        let output = self.run(&words.collect::<Vec<_>>());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn each_difference_is_found_and_named() {
    let folder = Folder::new();
    let others = "--firmware old.fd --firmware ovmf.fd --kernel vmlinuz-old --cmdline debug";
    let found = |from: &str, to: &str| -> Vec<(String, String)> {
        folder.report(&SNP.replacen(from, to, 1));
        let report = folder.explain("report.bin", others);
        let differences = report["differences"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |one: &Value| (text(&one["what"]), text(&one["found"]));
        differences.iter().map(one).collect()
    };
    let one = |what: &str, found: &str| vec![(what.to_owned(), found.to_owned())];
    assert_eq!(found("quiet", "quiet"), []);
    assert_eq!(found("--vcpus 2", "--vcpus 512"), one("vcpus", "512"));
    assert_eq!(
        found("EPYC-v4", "EPYC-Turin"),
        one("vcpu type", "EPYC-Turin")
    );
    assert_eq!(found("0x1", "0x21"), one("guest features", "0x21"));
    assert_eq!(found("--vmm qemu", "--vmm gce"), one("vmm", "gce"));
    let firmware = found("ovmf.fd", "old.fd");
    assert!(firmware[0].0 == "firmware" && firmware[0].1.starts_with("old.fd (sha256:"));
    let expected = "initrd as expected, command line as expected";
    let kernel = one("boot", &format!("kernel vmlinuz-old, {expected}"));
    assert_eq!(found("vmlinuz", "vmlinuz-old"), kernel);
    let empty = "kernel as expected, initrd as expected, command line empty";
    assert_eq!(found("--cmdline quiet", ""), one("boot", empty));
    let off = "no kernel hashes (kernel-hashes=off)";
    let without = "--kernel vmlinuz --initrd initrd --cmdline quiet";
    assert_eq!(found(without, ""), one("boot", off));
    let debug = "kernel as expected, initrd none, command line \"debug\"";
    assert_eq!(
        found("--initrd initrd --cmdline quiet", "--cmdline debug"),
        one("boot", debug)
    );
    // Two at once, as when another flavour of machine was taken.
    let two = found(
        "--vcpus 2 --vcpu-type EPYC-v4",
        "--vcpus 8 --vcpu-type EPYC-Genoa",
    );
    assert_eq!(
        two,
        [one("vcpu type", "EPYC-Genoa"), one("vcpus", "8")].concat()
    );
}

#[test]
fn what_nothing_explains_is_said_within_the_time() {
    let folder = Folder::new();
    folder.write("report.bin", &[7; 1184]);
    let arguments = [
        "explain-mismatch",
        "report.bin",
        "predicted.json",
        "--firmware",
        "ovmf.fd",
    ];
    let arguments = [&arguments[..], &["--seconds", "1"]].concat();
    let start = std::time::Instant::now();
    let output = folder.run(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with("searching: 0 of "), "{stderr}");
    assert!(
        stderr.contains("the time was over") || stderr.contains("no combination"),
        "{stderr}"
    );
    assert!(start.elapsed().as_secs() < 20);
    let output = folder.run(&["explain-mismatch", "report.bin", "predicted.json"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: predicted.json: it is not what `measure --json` prints, or lacks the --firmware \
         that it was made with\n \
         hint: predict it again: cloister-release measure … --json > predicted.json\n"
    );
    let output = folder.run(&["explain-mismatch", "initrd", "predicted.json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no report of SEV-SNP (1184 bytes), quote of TDX or event log"));
}

#[test]
fn the_first_event_that_differs_is_named() {
    let folder = Folder::new();
    let line = "--platform tdx --memory 2G --kernel vmlinuz --initrd initrd --cmdline quiet";
    let predicted = folder.measure(line);
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let utf16 = |text: &str| -> Vec<u8> {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    let options = utf16("debug initrd=initrd");
    folder.write(
        "ccel",
        &ovmf::ccel(&[(3, 6, &options), (3, 6, b"an initrd")]),
    );
    let report = folder.explain("ccel", "");
    let differences = report["differences"].as_array().unwrap();
    let [rtmr1, rtmr2] = &differences[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (&rtmr1["register"], &rtmr1["found"]),
        (&"rtmr1".into(), &"no further event".into())
    );
    assert_eq!(
        (&rtmr2["register"], &rtmr2["event"]),
        (&"rtmr2".into(), &1.into())
    );
    assert!(
        rtmr2["expected"]
            .as_str()
            .unwrap()
            .starts_with("command line initrd=initrd")
    );
    let options = utf16("quiet initrd=initrd");
    folder.write(
        "ccel",
        &ovmf::ccel(&[(3, 6, &options), (3, 6, b"an initrd")]),
    );
    let report = folder.explain("ccel", "");
    assert_eq!(
        report["differences"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    // The kernel is as predicted, in one of its two forms; what follows differs.
    let events = predicted["events"].as_array().unwrap().iter();
    let events: Vec<_> = events.filter(|one| one["register"] == "rtmr1").collect();
    let kernels: Vec<_> = events
        .iter()
        .filter(|one| one["what"].as_str().unwrap().starts_with("kernel, "))
        .collect();
    assert_eq!(kernels.len(), 2);
    for kernel in kernels {
        let mut log = ovmf::ccel(&[]);
        let others = events
            .iter()
            .filter(|one| !one["what"].as_str().unwrap().starts_with("kernel, "));
        let others: Vec<_> = others.collect();
        let digest = |one: &Value| -> attest::Digest<48> {
            one["sha384"].as_str().unwrap().parse().unwrap()
        };
        for digest in [digest(kernel), digest(others[0]), attest::Digest([7; 48])] {
            log.extend([2, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 12, 0]);
            log.extend(digest.0);
            log.extend([0; 4]);
        }
        folder.write("ccel", &log);
        let report = folder.explain("ccel", "");
        let first = &report["differences"][0];
        assert_eq!(
            (&first["register"], &first["event"]),
            (&"rtmr1".into(), &3.into())
        );
    }
}

#[test]
fn a_release_statement_names_the_shape_or_none() {
    let folder = Folder::new();
    folder.report(SNP);
    let digest = folder.measure(SNP)["launch_digest"].clone();
    let state = |digest: &Value| {
        let shape = serde_json::json!({ "machine": "qemu-epyc-v4-2", "digest": digest });
        let values = serde_json::json!({ "snp": { "launch_digests": [shape] } });
        let statement = serde_json::json!({ "predicate": { "reference_values": values } });
        folder.write("predicted.json", statement.to_string().as_bytes());
    };
    state(&digest);
    assert_eq!(
        folder.explain("report.bin", "")["machine"],
        "qemu-epyc-v4-2"
    );
    state(&"00".into());
    let output = folder.run(&["explain-mismatch", "report.bin", "predicted.json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with("error: none of the 1 shapes that the release states has"));
}

#[test]
fn a_quote_tells_which_register_differs() {
    let folder = Folder::new();
    let line = "--platform tdx --firmware ovmf.fd --memory 2G --kernel vmlinuz --cmdline quiet";
    let predicted = folder.measure(line);
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let mut quote = vec![0; 800];
    quote[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
    let mut put = |at: usize, value: &Value| {
        let digest: attest::Digest<48> = value.as_str().unwrap().parse().unwrap();
        quote[48 + at..48 + at + 48].copy_from_slice(digest.as_ref());
    };
    put(136, &predicted["mrtd"]["two_passes"]);
    put(376, &predicted["rtmr1"]["unchanged"]);
    put(424, &predicted["rtmr2"]);
    folder.write("quote", &quote);
    assert_eq!(folder.explain("quote", "")["matches"], true);
    quote[48 + 424] ^= 1;
    folder.write("quote", &quote);
    let report = folder.explain("quote", "");
    assert_eq!(report["differences"][0]["register"], "rtmr2");
    assert_eq!(report["differences"].as_array().unwrap().len(), 1);
    let cause = report["differences"][0]["causes"][0].as_str().unwrap();
    assert!(cause.starts_with("nothing near the prediction explains it"));
}

/// A quote of a machine that was started otherwise than predicted: the causes of each register.
#[test]
fn a_quote_is_explained_by_what_is_near() {
    let folder = Folder::new();
    let mut other = ovmf::kernel();
    *other.last_mut().unwrap() ^= 1;
    folder.write("vmlinuz-old", &other);
    let line = "--platform tdx --firmware ovmf.fd --memory 2G --kernel vmlinuz --initrd initrd \
        --cmdline quiet";
    let predicted = folder.measure(line);
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let causes = |from: &str, to: &str, more: &str| -> Vec<(String, String)> {
        let started = folder.measure(&line.replacen(from, to, 1));
        let mut quote = vec![0; 800];
        quote[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
        let mut put = |at: usize, value: &Value| {
            let digest: attest::Digest<48> = value.as_str().unwrap().parse().unwrap();
            quote[48 + at..48 + at + 48].copy_from_slice(digest.as_ref());
        };
        put(136, &started["mrtd"]["two_passes"]);
        put(376, &started["rtmr1"]["patched"]);
        put(424, &started["rtmr2"]);
        folder.write("quote", &quote);
        let report = folder.explain("quote", more);
        let differences = report["differences"].as_array().unwrap().iter();
        let one = |one: &Value| {
            let cause = one["causes"][0].as_str().unwrap().to_owned();
            (one["register"].as_str().unwrap().to_owned(), cause)
        };
        differences.map(one).collect()
    };
    let one = |register: &str, cause: &str| vec![(register.to_owned(), cause.to_owned())];
    assert_eq!(causes("quiet", "quiet", ""), []);
    assert_eq!(
        causes("ovmf.fd", "old.fd", "--firmware ovmf.fd --firmware old.fd"),
        one("mrtd", "it is that of the firmware old.fd (two-passes)")
    );
    let unknown = causes("ovmf.fd", "old.fd", "");
    assert!(unknown[0].1.starts_with("another firmware: name those"));
    let expected = "expected as expected";
    let text = |what: &str, event: &str, found: &str| {
        format!("{what}: {expected} ({event}), found {found}")
    };
    let event = "command line initrd=initrd, UTF-16 with NUL";
    let newline = causes("--cmdline quiet", "--cmdline debug", "--cmdline debug");
    let found = text("command line", event, "\"debug\"");
    assert_eq!(newline, one("rtmr2", &found));
    let empty = causes("--cmdline quiet", "", "");
    assert_eq!(empty, one("rtmr2", &text("command line", event, "empty")));
    // An initrd that was left out is left out of the command line, too.
    let none = causes("--initrd initrd ", "", "");
    let missing = format!(
        "{}; initrd",
        text(
            "command line",
            event,
            "as expected, nothing appended by firmware"
        )
    );
    assert_eq!(none.last().unwrap().0, "rtmr2");
    assert_eq!(none.last().unwrap().1, missing.split("; ").next().unwrap());
    let kernel = causes("vmlinuz", "vmlinuz-old", "--kernel vmlinuz-old");
    assert_eq!(kernel.len(), 1);
    assert!(kernel[0].0 == "rtmr1" && kernel[0].1.starts_with("kernel: expected as expected"));
    assert!(
        kernel[0]
            .1
            .ends_with("found vmlinuz-old, patched for 2048 MiB of memory")
    );
    let size = causes("--memory 2G", "--memory 1G", "--kernel vmlinuz");
    assert!(
        size[0]
            .1
            .ends_with("found vmlinuz, patched for 1024 MiB of memory")
    );
}

/// What a log says of the first event that differs.
#[test]
fn an_option_rom_and_secure_boot_are_named() {
    let folder = Folder::new();
    let variable = |name: &str, value: &[u8]| -> Vec<u8> {
        let letters: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let sizes = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes);
        [&[0x61; 16][..], &sizes.concat(), &letters, value].concat()
    };
    let (on, off) = (variable("SecureBoot", &[1]), variable("SecureBoot", &[0]));
    let (ours, theirs) = (variable("db", b"ours"), variable("db", b"theirs"));
    let log = |secure: &[u8], db: &[u8], acpi: &'static [u8]| {
        [
            (1, 0x8000_000b, b"hand-off".to_vec()),
            (1, 0x8000_0001, secure.to_vec()),
            (1, 0x8000_0001, db.to_vec()),
            (1, 10, acpi.to_vec()),
        ]
    };
    let write = |name: &str, events: &[(u32, u32, Vec<u8>)]| {
        let events: Vec<_> = events.iter().map(|(r, k, d)| (*r, *k, &d[..])).collect();
        folder.write(name, &ovmf::ccel(&events));
    };
    write("recorded", &log(&on, &ours, b"ACPI DATA"));
    let line = "--platform tdx --memory 2G --event-log recorded --kernel vmlinuz --cmdline quiet";
    let predicted = folder.measure(line);
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let cause = |register: &str, events: &[(u32, u32, Vec<u8>)]| {
        write("ccel", events);
        let report = folder.explain("ccel", "");
        let differences = report["differences"].as_array().unwrap();
        let one = differences.iter().find(|one| one["register"] == register);
        one.map(|one| {
            (
                one["found"].clone(),
                one["cause"].as_str().unwrap_or("").to_owned(),
            )
        })
    };
    assert!(cause("rtmr0", &log(&on, &ours, b"ACPI DATA")).is_none());
    let (found, text) = cause("rtmr0", &log(&off, &ours, b"ACPI DATA")).unwrap();
    assert!(
        found
            .as_str()
            .unwrap()
            .starts_with("variable of a driver SecureBoot")
    );
    assert_eq!(text, "Secure Boot is on in one case and off in the other");
    let (found, text) = cause("rtmr0", &log(&on, &theirs, b"ACPI DATA")).unwrap();
    assert!(
        found
            .as_str()
            .unwrap()
            .starts_with("variable of a driver db")
    );
    assert_eq!(text, "Secure Boot has other keys or lists");
    let (_, text) = cause("rtmr0", &log(&on, &ours, b"OTHER")).unwrap();
    assert!(text.starts_with("ACPI: vCPUs, memory, devices"), "{text}");
    // The option ROM of a network card, in front of what was expected.
    let action = b"Calling EFI Application from Boot Option".to_vec();
    let rom = (2, 0x8000_0004, b"ROM".to_vec());
    let (_, text) = cause("rtmr1", &[rom, (2, 0x8000_0007, action)]).unwrap();
    assert!(text.contains("the option ROM of a device ran"), "{text}");
    let command_line = "quiet\n".encode_utf16().chain([0]);
    let command_line: Vec<u8> = command_line.flat_map(u16::to_le_bytes).collect();
    let (_, text) = cause("rtmr2", &[(3, 6, command_line)]).unwrap();
    assert_eq!(text, "it is the command line with a newline at its end");
    let (_, text) = cause("rtmr1", &[(1, 4, vec![0; 4])]).unwrap();
    assert!(text.starts_with("the boot ended before"), "{text}");
}

/// Evidence as a client is given it holds a report or a log, which are explained alike.
#[test]
fn evidence_in_its_envelope_is_explained() {
    use attest::snp::SnpEvidence;
    use attest::tpm::TpmEvidence;
    use attest::{Evidence, Platform};
    let folder = Folder::new();
    let write = |platform| {
        let evidence = Evidence {
            gpu: attest::gpu::GpuEvidence::default(),
            platform,
            configuration: Vec::new(),
            release: Vec::new(),
        };
        folder.write("evidence", &evidence.encode());
    };
    folder.report(&SNP.replacen("--vcpus 2", "--vcpus 4", 1));
    write(Platform::Snp(SnpEvidence {
        report: fs::read(folder.0.path().join("report.bin")).unwrap(),
        certificates: Vec::new(),
        revocation_lists: Vec::new(),
    }));
    let report = folder.explain("evidence", "--firmware ovmf.fd");
    assert_eq!(report["differences"][0]["what"], "vcpus");

    let mut other = common::uki();
    *other.last_mut().unwrap() ^= 1;
    folder.write("cloister.efi", &common::uki());
    let predicted = folder.measure("--uki cloister.efi");
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let attempt = &b"Calling EFI Application from Boot Option"[..];
    let log = [
        (4, 0x8000_0007, attempt),
        (4, 4, &[0; 4]),
        (4, 0x8000_0004, &b"driver"[..]),
    ];
    write(Platform::Tpm(TpmEvidence {
        event_log: ovmf::ccel(&log),
        ..TpmEvidence::default()
    }));
    let report = folder.explain("evidence", "");
    let first = &report["differences"][0];
    assert_eq!(
        (&first["register"], &first["event"]),
        (&"pcr4".into(), &3.into())
    );
    assert!(first["cause"].as_str().unwrap().contains("option ROM"));
}

#[test]
fn a_tpms_log_is_compared_with_a_prediction_or_a_statement() {
    let folder = Folder::new();
    folder.write("cloister.efi", &common::uki());
    let predicted = folder.measure("--uki cloister.efi");
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let action = b"Calling EFI Application from Boot Option";
    folder.write(
        "log",
        &ovmf::ccel(&[(4, 0x8000_0007, action), (4, 4, &[0; 4])]),
    );
    let report = folder.explain("log", "");
    let first = &report["differences"][0];
    assert_eq!(
        (&first["register"], &first["event"]),
        (&"pcr4".into(), &3.into())
    );
    assert!(
        first["expected"]
            .as_str()
            .unwrap()
            .starts_with("UKI, Authenticode digest")
    );
    // What the host brought beside the UKI, into a register without predicted events.
    folder.write(
        "beside",
        &ovmf::ccel(&[(12, 0xd, b"debug"), (13, 0xd, b"a sysext")]),
    );
    let report = folder.explain("beside", "");
    let names = report["differences"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|one| one["register"].as_str().unwrap()).collect();
    assert!(
        names.contains(&"pcr12") && names.contains(&"pcr13"),
        "{report}"
    );
    let registers = &predicted["registers"];
    let statement =
        serde_json::json!({ "predicate": { "reference_values": { "tpm": registers } } });
    folder.write("predicted.json", statement.to_string().as_bytes());
    let report = folder.explain("log", "");
    let names = report["differences"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|one| one["register"].as_str().unwrap()).collect();
    assert_eq!(names, ["11", "4", "9"]);
    // A log whose registers are those of another UKI, which was named.
    let events = predicted["events"].as_array().unwrap().iter();
    let nine: Vec<_> = events.filter(|event| event["pcr"] == 9).collect();
    let mut log = ovmf::ccel(&[]);
    for event in nine {
        let digest: attest::Digest<48> = event["sha384"].as_str().unwrap().parse().unwrap();
        log.extend([9, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 12, 0]);
        log.extend(digest.0);
        log.extend([0; 4]);
    }
    folder.write("log", &log);
    let zero = "00".repeat(48);
    let tpm = serde_json::json!({ "sha384": { "pcr9": zero } });
    let values = serde_json::json!({ "reference_values": { "tpm": tpm } });
    let statement = serde_json::json!({ "predicate": values });
    folder.write("predicted.json", statement.to_string().as_bytes());
    let report = folder.explain("log", "--uki cloister.efi");
    assert_eq!(
        report["differences"][0]["cause"],
        "it is that of the UKI cloister.efi"
    );
}

#[test]
fn what_never_ends_is_no_evidence_and_no_statement() {
    let folder = Folder::new();
    folder.report(SNP);
    for words in [["/dev/zero", "predicted.json"], ["report.bin", "/dev/zero"]] {
        let output = folder.run(&[&["explain-mismatch"], &words[..]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("/dev/zero: it is no file"), "{stderr}");
    }
    let forever = ["--seconds", "18446744073709551615"];
    let output = folder.run(
        &[
            &["explain-mismatch", "report.bin", "predicted.json"],
            &forever[..],
        ]
        .concat(),
    );
    assert_eq!(output.status.code(), Some(1));
}
