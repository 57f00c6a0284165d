//! The program over files: reports, quotes, evidence and capsules, of test machines and real ones.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::fs;

use attest::capsule::Capsule;
use common::{Behaviour, Outcome, Person, Server};
use serde_json::{Value, json};
use signer::amd::{self, Machine};
use signer::intel::{self, Domain};
use signer::vectors;
use signer::{NOW, World};

fn run(person: &Person, line: &str) -> Outcome {
    let words: Vec<&str> = line.split(' ').collect();
    person.run(&words, "")
}

#[track_caller]
fn expect(person: &Person, line: &str, code: i32, said: &str) -> Outcome {
    let outcome = run(person, line);
    let all = format!("{}{}", outcome.stdout, outcome.stderr);
    assert_eq!(outcome.code, code, "{line}\n{all}");
    assert!(all.contains(said), "{line}\n{all}");
    outcome
}

fn armored(label: &str, der: &[u8]) -> String {
    let text = base64(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let lines = lines.join("\n");
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut bits = [0; 4];
        bits[1..=group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes(bits);
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize];
            text.push(match place <= group.len() {
                true => digit.into(),
                false => '=',
            });
        }
    }
    text
}

/// A machine's report and, under names that say nothing, what belongs to it and what does not.
fn machine() -> Person {
    let person = Person::new();
    let machine = Machine::new();
    let evidence = machine.evidence();
    let policy = format!("version = 1\n{}", machine.policy_toml());
    person.write("machine.toml", policy);
    person.write("report", &evidence.report);
    person.write("report.hex", hex(&evidence.report));
    fs::create_dir(person.path("folder")).unwrap();
    let mut other = Machine::new();
    other.leaf.serial = vec![77];
    other.leaf.extensions = amd::vcek("Genoa", &[0; 8], &[0x77; 64]);
    person.write("folder/0", &other.evidence().certificates[0]);
    let [vcek, ask] = evidence.certificates.try_into().unwrap();
    person.write("folder/1", armored("CERTIFICATE", &vcek));
    person.write("folder/2", &ask);
    person.write("folder/3", hex(&evidence.revocation_lists[0]));
    person.write("folder/4", "neither of them\n");
    person
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_report_is_verified_from_files_of_any_form_and_name() {
    let person = machine();
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --snp-report");
    for report in ["report", "report.hex"] {
        let verified = format!("{line} {report} --certs folder");
        let verified = expect(&person, &verified, 0, "verified ✓ report of SEV-SNP");
        let said = verified.stdout.lines().last().unwrap();
        assert!(
            said.starts_with("left open  not checked: binding"),
            "{said}"
        );
    }
    let explained = format!("{line} report --collateral folder --explain");
    let explained = expect(&person, &explained, 0, "not checked: no --report-data");
    for what in ["revocation", "vmpl", "Test ARK", "expected", "rests on"] {
        let shown = explained.stdout.to_lowercase();
        assert!(shown.contains(&what.to_lowercase()), "{what}");
    }
    // One file after the other, instead of a folder.
    let each = format!("{line} report --certs folder/1 --certs folder/2 --certs folder/3");
    expect(&person, &each, 0, "judged at  2026");
    let data = hex(&Machine::new().report[0x50..0x90]);
    let bound = format!("{line} report --certs folder --report-data {data}");
    expect(&person, &bound, 0, "verified ✓");
    let other = format!(
        "{line} report --certs folder --report-data {}",
        "1".repeat(128)
    );
    expect(&person, &other, 2, "refused: ");
}

#[test]
fn a_report_is_refused_for_what_is_wrong_or_missing() {
    let person = machine();
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --snp-report report");
    expect(&person, &line, 3, "bring AMD's by --certs");
    let without_issuer = format!("{line} --certs folder/1 --certs folder/3");
    expect(&person, &without_issuer, 3, "bring ASK");
    let without_key = format!("{line} --certs folder/2 --certs folder/3");
    expect(&person, &without_key, 3, "bring AMD's by --certs");
    let without_list = format!("{line} --certs folder/1 --certs folder/2");
    expect(&person, &without_list, 3, "revocation list: required");
    let other_chip = format!("{line} --certs folder/0 --certs folder/2 --certs folder/3");
    expect(&person, &other_chip, 3, "bring AMD's by --certs");
    let late = line.replace(&at.to_string(), "2060-01-01");
    expect(&person, &format!("{late} --certs folder"), 3, "refused: ");
    expect(
        &person,
        &format!("{line} --certs folder/4"),
        1,
        "folder/4 does not read as collateral",
    );
    expect(
        &person,
        &format!("{line} --certs nowhere"),
        1,
        "no such file",
    );
    let no_report = line.replace("report report", "report folder/1");
    expect(&person, &no_report, 1, "no report of SEV-SNP");
    let no_table = line.replace("machine.toml", "policy.toml");
    expect(&person, &no_table, 1, "the policy has no table [snp]");
    expect(&person, "verify --policy machine.toml", 1, "<URL");
    expect(
        &person,
        "verify http://h --policy machine.toml --snp-report report",
        1,
        "cannot be used with",
    );
    let typo = fs::read_to_string(person.path("machine.toml")).unwrap();
    person.write("machine.toml", typo.replace("vmpls", "vmpl"));
    expect(&person, &line, 1, "unknown field `vmpl`");
}

/// Nothing of a folder is left out in silence.
#[test]
fn a_folder_that_holds_too_much_is_refused_and_says_so() {
    let person = machine();
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --snp-report report --certs folder");
    for number in 0..995 {
        person.write(&format!("folder/a{number}"), "neither");
    }
    expect(&person, &line, 0, "verified ✓");
    person.write("folder/one more", "neither");
    let many = expect(&person, &line, 1, "1001 files in folder");
    assert!(many.stderr.contains("name the files of this machine"));
    fs::remove_file(person.path("folder/one more")).unwrap();
    let vcek = fs::read_to_string(person.path("folder/1")).unwrap();
    person.write("folder/1", vcek.repeat(65));
    let many = expect(&person, &line, 1, "more than 64 certificates");
    assert!(many.stderr.contains("name the files of this machine"));
}

#[test]
fn the_json_of_a_report_has_a_stable_shape() {
    let person = machine();
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --snp-report report --json");
    let verified = run(&person, &format!("{line} --certs folder"));
    let mut value: Value = serde_json::from_str(&verified.stdout).unwrap();
    let claims = value["claims"].take();
    for claim in claims.as_array().unwrap() {
        let names: Vec<_> = claim.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names, ["expected", "found", "rests_on", "what"]);
    }
    assert!(value["root"].take().as_str().unwrap().contains("Test ARK"));
    let expected = json!({
        "schema": "cloister.report.v1",
        "verified": true,
        "subject": "snp-report",
        "at": NOW.to_string(),
        "root": null,
        "claims": null,
        "exit_code": 0,
    });
    assert_eq!(value, expected);
    let refused = run(&person, &line);
    let value: Value = serde_json::from_str(&refused.stdout).unwrap();
    assert_eq!(value["verified"], false);
    assert_eq!(value["failure"]["class"], "collateral");
    assert_eq!(value["exit_code"], 3);
}

#[test]
fn a_quote_is_verified_with_its_event_log_and_collateral() {
    let person = Person::new();
    let domain = Domain::new();
    let evidence = domain.evidence();
    person.write(
        "machine.toml",
        format!("version = 1\n{}", domain.policy_toml()),
    );
    person.write(
        "quote.json",
        json!({"quote": hex(&evidence.quote)}).to_string(),
    );
    let mut padded = evidence.event_log.clone();
    padded.resize(65_536, 0xff);
    person.write("log", padded);
    let given = evidence.collateral;
    let signed = |name: &str, document: &[u8], signature: &[u8]| {
        let document = std::str::from_utf8(document).unwrap();
        format!(
            "{{\"{name}\":{document},\"signature\":\"{}\"}}",
            hex(signature)
        )
    };
    fs::create_dir(person.path("c")).unwrap();
    let info = signed("tcbInfo", &given.tcb_info, &given.tcb_info_signature);
    person.write("c/a", &info);
    let identity = &given.enclave_identity;
    let signature = &given.enclave_identity_signature;
    person.write("c/b", signed("enclaveIdentity", identity, signature));
    person.write("c/c", armored("X509 CRL", &given.revocation_lists[0]));
    person.write("c/d", &given.revocation_lists[1]);
    person.write("c/e", armored("CERTIFICATE", &given.signer));
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --tdx-quote quote.json");
    let whole = format!("{line} --collateral c --event-log log");
    expect(&person, &whole, 0, "verified ✓ quote of TDX");
    expect(
        &person,
        &format!("{line} --collateral c"),
        4,
        "event log: required",
    );
    expect(
        &person,
        &format!("{line} --event-log log"),
        3,
        "collateral: required, found none",
    );
    expect(
        &person,
        &format!("{line} --event-log c/a"),
        1,
        "does not read as event log",
    );
    person.write("report", Machine::new().evidence().report);
    let other = line.replace("quote.json", "report");
    expect(&person, &other, 1, "give it by --snp-report");
    let signer = fs::read(person.path("c/e")).unwrap();
    fs::remove_file(person.path("c/e")).unwrap();
    expect(&person, &whole, 3, "header TCB-Info-Issuer-Chain");
    person.write("c/e", signer);
    fs::remove_file(person.path("c/d")).unwrap();
    expect(&person, &whole, 3, "revocation list: required");
}

#[test]
fn a_capsule_verifies_offline_at_its_time() {
    let (person, server) = (Person::new(), Server::start(Behaviour::default()));
    let url = server.url();
    let saved = format!("verify {url} --policy policy.toml --save capsule");
    expect(&person, &saved, 0, "verified ✓ machine");
    drop(server);
    let bytes = fs::read(person.path("capsule")).unwrap();
    assert!(bytes.len() < 200_000, "{}", bytes.len());
    let line = "verify --policy policy.toml --capsule capsule";
    let verified = expect(&person, &format!("{line} --explain"), 0, "verified ✓ log");
    assert!(verified.stdout.contains("PCR 11"), "{}", verified.stdout);
    let value = run(&person, &format!("{line} --json")).stdout;
    let value: Value = serde_json::from_str(&value).unwrap();
    assert_eq!(value["schema"], "cloister.report.v1");
    assert_eq!(
        (&value["subject"], &value["url"]),
        (&json!("evidence"), &Value::Null)
    );
    // At another time, for another policy, and for another handshake it says something else.
    let early = expect(
        &person,
        &format!("{line} --at 1999-12-31"),
        4,
        "release age",
    );
    assert!(!early.stderr.contains("nothing was sent"));
    let other = World::new()
        .policy_toml()
        .replace("\"cloister\"", "\"another\"");
    person.write("other.toml", other);
    expect(
        &person,
        &line.replace("policy.toml", "other.toml"),
        4,
        "refused: ",
    );
    let mut capsule = Capsule::decode(&bytes).unwrap();
    capsule.purpose = attest::capsule::Purpose::Nonce([0; 32]);
    person.write("capsule", capsule.encode());
    expect(&person, line, 2, "refused: ");
    person.write("capsule", &bytes[..bytes.len() - 1]);
    expect(&person, line, 1, "capsule does not read as capsule");
}

#[test]
fn evidence_for_a_nonce_is_verified_for_that_nonce() {
    let person = Person::new();
    let world = World::new();
    let evidence = world.evidence(&world.nonce_binding([7; 32]));
    person.write("evidence", evidence.encode());
    let line = "verify --policy policy.toml --evidence evidence";
    let at = NOW.as_secs();
    let right = format!("{line} --at {at} --nonce {}", "07".repeat(32));
    expect(&person, &right, 0, "verified ✓ machine");
    let wrong = format!("{line} --at {at} --nonce {}", "08".repeat(32));
    expect(&person, &wrong, 2, "refused: ");
    expect(&person, line, 1, "--nonce");
    expect(
        &person,
        &format!("{line} --nonce 07"),
        1,
        "64 hexadecimal digits",
    );
}

/// Everything is relaxed that can be; the roots are AMD's and Intel's.
fn relaxed(product: &str) -> String {
    let snp = amd::policy_toml(product, "amd").replace("'''\namd'''", "\"amd\"");
    let tdx = intel::policy_toml("intel").replace("'''\nintel'''", "\"intel\"");
    let snp = snp
        .replace("[\"vcek\"]", "[\"vcek\", \"vlek\"]")
        .replace("vmpls = [0]", "vmpls = [0, 1]")
        .replace("[1, 55, 20]", "[0, 0, 0]")
        .replace("[1, 2]", "[0, 0]")
        .replace("mitigations = 2", "mitigations = 0")
        .replace("minimum_guest_svn = 3", "minimum_guest_svn = 0")
        .replace("boot_loader = 9", "boot_loader = 0")
        .replace("snp = 22", "snp = 0")
        .replace("microcode = 80", "microcode = 0");
    format!("version = 1\n{snp}\n{tdx}")
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"")
}

/// Real vectors that these commands can take: arguments, time, exit code, and a part of what is
/// said.
const REAL: &[(&str, &str, &str, i32, &str)] = &[
    (
        "milan",
        "--snp-report dstack/sev_snp_report_1184.bin --certs dstack",
        "2026-09-21",
        0,
        "CN=ARK-Milan",
    ),
    (
        "milan",
        "--snp-report dstack/sev_snp_report_1184.bin --certs dstack",
        "2034-01-01",
        3,
        "refused",
    ),
    (
        "genoa",
        "--snp-report dstack/sev_snp_report_1184.bin --certs dstack",
        "2026-09-21",
        2,
        "refused",
    ),
    (
        "milan",
        "--snp-report virtee-sev/report_milan.hex --certs virtee-sev",
        "2026-09-21",
        0,
        "CN=ARK-Milan",
    ),
    (
        "milan",
        "--snp-report trustee/snp/test-report.bin --certs trustee/snp --certs amd-roots",
        "2026-09-21",
        0,
        "CN=ARK-Milan",
    ),
    (
        "milan",
        "--snp-report trustee/snp/test-vlek-report.bin --certs trustee/snp --certs amd-roots",
        "2025-07-01",
        0,
        "CN=ARK-Milan",
    ),
    (
        "milan",
        "--snp-report trustee/snp/test-vlek-report.bin --certs trustee/snp --certs amd-roots",
        "2026-01-01",
        3,
        "refused",
    ),
    (
        "milan",
        "--snp-report go-sev-guest/attestation.bin --certs go-sev-guest",
        "2026-09-21",
        4,
        "debug",
    ),
    (
        "genoa",
        "--snp-report openpcc/azure_sevsnp_report__test_azure_sevsnp_report.bin \
         --certs openpcc --certs amd-roots",
        "2025-07-01",
        0,
        "CN=ARK-Genoa",
    ),
    (
        "genoa",
        "--snp-report openpcc/azure_sevsnp_report__test_azure_sevsnp_report.pem \
         --certs openpcc --certs amd-roots",
        "2026-09-21",
        3,
        "renewal",
    ),
    (
        "milan",
        "--snp-report openpcc/gce_sevsnp_report__test_gce_sevsnp_report.bin --certs amd-roots",
        "2026-09-21",
        3,
        "bring AMD's by --certs",
    ),
    (
        "milan",
        "--snp-report azure-cvm-tooling/hcl-report-snp.bin --certs azure-cvm-tooling",
        "2024-01-01",
        3,
        "bring AMD's by --certs",
    ),
    (
        "milan",
        "--snp-report trustee/az-snp-vtpm/hcl-report.bin --certs trustee/az-snp-vtpm/vcek.pem",
        "2024-01-01",
        0,
        "CN=ARK-Milan",
    ),
    (
        "milan",
        "--tdx-quote dstack/quote-report.json --collateral intel-collateral",
        "2026-01-13",
        0,
        "Intel SGX Root CA",
    ),
    (
        "milan",
        "--tdx-quote dstack/quote-report.json --collateral intel-collateral",
        "2026-03-01",
        3,
        "renewal",
    ),
    (
        "milan",
        "--tdx-quote dstack/quote-report.json",
        "2026-01-13",
        3,
        "bring Intel's by --collateral",
    ),
    (
        "milan",
        "--tdx-quote dcap-qvl/tdx_quote --collateral dcap-qvl/tdx_quote_collateral.json",
        "2025-07-01",
        0,
        "Intel SGX Root CA",
    ),
    (
        "milan",
        "--tdx-quote dcap-qvl/tdx_quote_outdated \
         --collateral dcap-qvl/tdx_quote_outdated_collateral.json",
        "2026-02-25",
        4,
        "older than all that Intel states",
    ),
    (
        "milan",
        "--tdx-quote dcap-qvl/tdx_quote_td15ex \
         --collateral dcap-qvl/tdx_quote_td15ex_collateral.json",
        "2026-10-15",
        0,
        "Intel SGX Root CA",
    ),
    (
        "milan",
        "--tdx-quote dcap-qvl/sgx_quote --collateral dcap-qvl",
        "2025-07-01",
        2,
        "version 3, 4 or 5 expected",
    ),
    (
        "milan",
        "--tdx-quote trustee/tdx/tdx_quote_6.dat --collateral intel-collateral",
        "2026-01-13",
        4,
        "OutOfDate",
    ),
    (
        "milan",
        "--tdx-quote openpcc/azure_tdx_report__test_azure_tdx_quote.bin \
         --collateral intel-collateral",
        "2026-01-13",
        0,
        "Intel SGX Root CA",
    ),
    (
        "milan",
        "--tdx-quote openpcc/gce_tdx_report__test_gce_tdx_report.bin --collateral intel-collateral",
        "2026-01-13",
        3,
        "of another platform",
    ),
    (
        "milan",
        "--tdx-quote go-tdx-guest/tdx_prod_quote_SPR_E4.dat --collateral go-tdx-guest",
        "2023-07-01",
        2,
        "refused",
    ),
];

#[test]
fn real_evidence_gets_its_verdict_at_its_time_and_at_another() {
    let Some(folder) = vectors() else { return };
    let person = Person::new();
    for product in ["milan", "genoa"] {
        person.write(&format!("{product}.toml"), relaxed(product));
    }
    let mut wrong = Vec::new();
    for (product, files, at, code, said) in REAL {
        let files: Vec<String> = files
            .split(' ')
            .map(|word| match word.starts_with("--") {
                true => word.to_owned(),
                false => folder.join(word).display().to_string(),
            })
            .collect();
        let policy = format!("{product}.toml");
        let mut line = vec!["verify", "--policy", &policy, "--at", at];
        line.extend(files.iter().map(String::as_str));
        let outcome = person.run(&line, "");
        let all = format!("{}{}", outcome.stdout, outcome.stderr);
        if outcome.code != *code || !all.contains(said) {
            let got = outcome.code;
            wrong.push(format!(
                "{line:?}\n  {code} {said:?} expected, {got}: {all}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
