//! The program over files of TPMs, VMs in Azure and GPUs, of test machines and real ones.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::fs;

use attest::capsule::{Capsule, Purpose};
use common::{Outcome, Person};
use serde_json::{Value, json};
use signer::azure::{GoogleChain, POLICY, Vm, cloud_world, quote_policy, vm_evidence};
use signer::nvidia::{self, Rack};
use signer::{NOW, amd, authority, intel, vectors};

const NONCE: &[u8] = b"a nonce of the verifier's choice";

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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What tpm2-tools would write of a quote, and the policy that names its key.
fn quoted() -> Person {
    let (person, vm) = (Person::new(), Vm::new());
    let evidence = vm.evidence(NONCE);
    let values: Vec<u8> = evidence
        .quote
        .registers
        .iter()
        .flat_map(|one| one.0)
        .collect();
    person.write("quote.msg", &evidence.quote.attest);
    person.write("quote.sig", &evidence.quote.signature);
    person.write("quote.pcrs", values);
    person.write("log", &evidence.event_log);
    person.write("machine.toml", quote_policy(&vm.key));
    person
}

#[test]
fn a_tpms_quote_is_verified_from_the_files_of_its_tools() {
    let person = quoted();
    let at = NOW.as_secs();
    let line = format!("verify --policy machine.toml --at {at} --tpm-quote quote.msg");
    let parts = "--tpm-signature quote.sig --tpm-registers quote.pcrs --event-log log";
    let whole = format!("{line} {parts} --qualifying-data {}", hex(NONCE));
    let explained = expect(
        &person,
        &format!("{whole} --explain"),
        0,
        "verified ✓ quote of a TPM",
    );
    assert!(
        !explained.stdout.contains("not checked"),
        "{}",
        explained.stdout
    );
    let last = explained.stdout.lines().last().unwrap();
    assert!(last.starts_with("left open  not pinned: "), "{last}");
    for what in [
        "attestation key",
        "nonce",
        "Secure Boot",
        "PCR 9",
        "named by the policy",
    ] {
        assert!(explained.stdout.contains(what), "{what}");
    }
    expect(
        &person,
        &format!("{line} {parts} --explain"),
        0,
        "not checked: none was named",
    );
    let other = format!("{line} {parts} --qualifying-data 00");
    expect(&person, &other, 2, "made for another nonce");
    expect(&person, &line, 1, "--tpm-signature");
    expect(
        &person,
        &format!("{line} --tpm-signature quote.sig"),
        1,
        "--tpm-registers",
    );
    let none = whole.replace("--event-log log ", "");
    expect(&person, &none, 4, "--event-log");
    person.write("empty", "");
    let empty = whole.replace("--event-log log", "--event-log empty");
    expect(&person, &empty, 1, "the event log empty is empty");
    let wrong = whole.replace("registers quote.pcrs", "registers log");
    expect(&person, &wrong, 1, "log does not read as registers");
    let wrong = whole.replace("quote quote.msg", "quote log");
    expect(&person, &wrong, 1, "no quote of a TPM");
    expect(
        &person,
        &whole.replace("-data 61", "-data 6"),
        1,
        "even number",
    );
    let no_table = whole.replace("machine.toml", "policy.toml");
    expect(&person, &no_table, 1, "the policy has no table [tpm-quote]");
    expect(
        &person,
        &format!("{whole} --gpu-evidence log"),
        1,
        "cannot be used with",
    );
    let json = run(&person, &format!("{whole} --json"));
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["schema"], "cloister.report.v1");
    assert_eq!(
        (&value["subject"], &value["exit_code"]),
        (&json!("tpm-quote"), &json!(0))
    );
    // A key that is certified instead of named.
    let [leaf, above, root] = GoogleChain::new().certificates();
    fs::create_dir(person.path("folder")).unwrap();
    person.write("folder/1", &leaf);
    person.write("folder/2", authority::pem(&above));
    let policy = fs::read_to_string(person.path("machine.toml")).unwrap();
    let roots = format!("roots = ['''\n{}''']", authority::pem(&root));
    let start = policy.find("keys = ").unwrap();
    let end = policy.find("roots = []").unwrap();
    let rooted = [&policy[..start], "keys = []\n", &policy[end..]].concat();
    person.write("machine.toml", rooted.replace("roots = []", &roots));
    expect(
        &person,
        &format!("{whole} --certs folder"),
        0,
        "EK/AK CA Root",
    );
    expect(&person, &whole, 2, "none of the 0 that the policy names");
}

#[test]
fn a_vm_in_azure_is_verified_with_as_much_as_there_is() {
    let person = Person::new();
    let at = NOW.as_secs();
    let evidence = Vm::new().evidence(NONCE);
    let attest::azure::AzureHardware::Snp(snp) = &evidence.hardware else {
        return;
    };
    fs::create_dir(person.path("certs")).unwrap();
    for (place, item) in snp
        .certificates
        .iter()
        .chain(&snp.revocation_lists)
        .enumerate()
    {
        person.write(&format!("certs/{place}"), item);
    }
    let pcrs: Vec<_> = evidence
        .quote
        .registers
        .iter()
        .map(|one| hex(&one.0))
        .collect();
    let quote = json!({
        "message": hex(&evidence.quote.attest),
        "signature": hex(&evidence.quote.signature),
        "pcrs": pcrs,
    });
    let whole = json!({ "hcl_report": hex(&evidence.hcl_report), "tpm_quote": quote });
    person.write("vm.json", whole.to_string());
    person.write("hcl", &evidence.hcl_report);
    person.write("log", &evidence.event_log);
    let table = amd::Machine::new().policy_toml();
    person.write("machine.toml", format!("version = 2\n{POLICY}\n{table}"));
    let line = format!("verify --policy machine.toml --at {at} --certs certs --azure");
    let nonce = hex(NONCE);
    let bound = format!("{line} vm.json --event-log log --qualifying-data {nonce}");
    expect(&person, &bound, 0, "verified ✓ VM in Azure on SEV-SNP");
    expect(
        &person,
        &format!("{line} vm.json --event-log log --qualifying-data 00"),
        2,
        "nonce",
    );
    expect(
        &person,
        &format!("{line} vm.json"),
        4,
        "event log: required",
    );
    expect(
        &person,
        &format!("{line} log"),
        1,
        "no report of Azure's paravisor",
    );
    let relaxed = POLICY.replace("event_log = \"required\"", "event_log = \"not-required\"");
    person.write("machine.toml", format!("version = 2\n{relaxed}\n{table}"));
    let bare = expect(
        &person,
        &format!("{line} hcl --explain"),
        0,
        "there is no quote of it",
    );
    assert!(bare.stdout.contains("rests on"), "{}", bare.stdout);
    for (stray, said) in [
        (
            "--qualifying-data 00",
            "--qualifying-data: there is no quote",
        ),
        ("--event-log log", "--event-log: there is no quote"),
        ("--tdx-quote log", "--tdx-quote: the VM is on SEV-SNP"),
    ] {
        expect(&person, &format!("{line} hcl {stray}"), 1, said);
    }
    let tdx = Vm::with_tdx().evidence(NONCE);
    person.write("hcl", &tdx.hcl_report);
    expect(&person, &format!("{line} hcl"), 1, "--tdx-quote");
}

#[test]
fn a_capsule_of_a_vm_in_azure_verifies_offline_at_its_time() {
    let (person, vm) = (Person::new(), Vm::new());
    let (world, policy) = cloud_world(&vm);
    let binding = world.nonce_binding([7; 32]);
    let capsule = Capsule {
        time: NOW,
        purpose: Purpose::Nonce([7; 32]),
        evidence: vm_evidence(&world, &vm, &binding),
    };
    person.write("capsule", capsule.encode());
    person.write("own.toml", &policy);
    let line = "verify --capsule capsule --policy own.toml";
    expect(&person, line, 0, "judged at 2026-11-21");
    expect(&person, &format!("{line} --at 2060-01-01"), 3, "refused: ");
    person.write(
        "own.toml",
        policy
            .replace("\"azure-snp\", ", "")
            .replace("[azure]", "[other]"),
    );
    expect(&person, line, 1, "does not read as policy");
}

#[test]
fn gpus_are_verified_with_manifests_of_a_folder() {
    let person = Person::new();
    let at = NOW.as_secs();
    let rack = Rack::new();
    let evidence = rack.evidence(&[5; 32]);
    fs::create_dir(person.path("rim")).unwrap();
    for (place, item) in evidence
        .manifests
        .iter()
        .chain(&evidence.revocation_lists)
        .chain(&evidence.statuses)
        .enumerate()
    {
        person.write(&format!("rim/{place}"), item);
    }
    person.write("rim/other", "<SoftwareIdentity colloquialVersion=\"0\"/>");
    person.write("rim/text", "neither");
    person.write("report", hex(&evidence.devices[0].report));
    for (place, item) in evidence.devices[0].certificates.iter().enumerate() {
        person.write(&format!("chain-{place}"), item);
    }
    person.write(
        "machine.toml",
        format!("version = 3\n{}", rack.policy_toml()),
    );
    let line = format!("verify --policy machine.toml --at {at} --gpu-evidence report");
    let count = evidence.devices[0].certificates.len();
    let chain: String = (0..count)
        .map(|place| format!(" --certs chain-{place}"))
        .collect();
    let line = format!("{line}{chain}");
    let nonce = format!("--nonce {}", "05".repeat(32));
    expect(
        &person,
        &format!("{line} --rim rim {nonce}"),
        0,
        "verified ✓ 1 devices: GPU",
    );
    expect(
        &person,
        &format!("{line} --rim rim --explain"),
        0,
        "not checked: none was named",
    );
    let bare = line.replace(&chain, "");
    expect(
        &person,
        &format!("{bare} --rim rim"),
        3,
        "bring the device's certificates",
    );
    let other = format!("{line} --rim rim --nonce {}", "06".repeat(32));
    expect(&person, &other, 2, "nonce");
    let without = format!("{line} {nonce}");
    let outcome = run(&person, &without);
    assert!(outcome.code > 1, "{}{}", outcome.stdout, outcome.stderr);
    let none = line.replace("evidence report", "evidence rim/text");
    expect(&person, &none, 1, "rim/text does not read as GPU evidence");
    let json = run(&person, &format!("{line} --rim rim --json"));
    let value: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(value["subject"], "gpu-evidence");
}

/// Everything is relaxed that can be; the roots are the makers' own.
fn relaxed(product: &str, key: &str) -> String {
    let snp = amd::policy_toml(product, "amd").replace("'''\namd'''", "\"amd\"");
    let tdx = intel::policy_toml("intel").replace("'''\nintel'''", "\"intel\"");
    let snp = snp
        .replace("[1, 55, 20]", "[0, 0, 0]")
        .replace("[1, 2]", "[0, 0]")
        .replace("mitigations = 2", "mitigations = 0")
        .replace("minimum_guest_svn = 3", "minimum_guest_svn = 0")
        .replace("boot_loader = 9", "boot_loader = 0")
        .replace("snp = 22", "snp = 0")
        .replace("microcode = 80", "microcode = 0");
    let gpu = nvidia::FIELDS
        .replace("\"580.95.05\"", "\"535.0.0\"")
        .replace("\"96.9F.00.01.02\"", "\"96.00.00.00.00\"")
        .replace("\"ocsp\"", "\"not-required\"");
    let roots = "[gpu]\ndevice_roots = [\"nvidia\"]\nmanifest_roots = [\"nvidia\"]\n";
    let quote = format!(
        "[tpm-quote]\nkeys = [{key}]\nroots = [\"google\"]\nsecure_boot = \"required\"\n\
         event_log = \"required\"\npcrs = []\n"
    );
    format!("version = 3\n{quote}\n{POLICY}\n{roots}{gpu}\n{snp}\n{tdx}")
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"")
}

/// Real vectors: product, arguments, time, exit code, and a part of what is said.
const REAL: &[(&str, &str, &str, i32, &str)] = &[
    (
        "milan",
        "--tpm-quote trustee/tpm_evidence.json",
        "2026-01-13",
        0,
        "quote of a TPM over",
    ),
    (
        "milan",
        "--tpm-quote trustee/az-snp-vtpm/tpm-quote-v1.json",
        "2026-01-13",
        2,
        "none of the 1 that the policy names",
    ),
    (
        "milan",
        "--tpm-quote trustee/az-snp-vtpm/tpm-quote.msg \
         --tpm-signature trustee/az-snp-vtpm/tpm-quote.sig",
        "2026-01-13",
        1,
        "--tpm-registers",
    ),
    (
        "milan",
        "--azure trustee/az-snp-vtpm/evidence-v0.json --certs amd-roots",
        "2026-01-13",
        0,
        "VM in Azure on SEV-SNP",
    ),
    (
        "milan",
        "--azure trustee/az-snp-vtpm/evidence-v1.json --certs amd-roots",
        "2026-01-13",
        0,
        "CN=ARK-Milan",
    ),
    (
        "milan",
        "--azure trustee/az-snp-vtpm/evidence-v1.json",
        "2026-01-13",
        3,
        "bring ASK",
    ),
    (
        "milan",
        "--azure trustee/az-snp-vtpm/evidence-v2.json --certs amd-roots",
        "2026-01-13",
        0,
        "CN=ARK-Milan",
    ),
    (
        "genoa",
        "--azure trustee/az-snp-vtpm/evidence-genoa.json --certs amd-roots",
        "2026-01-13",
        0,
        "CN=ARK-Genoa",
    ),
    (
        "milan",
        "--azure trustee/az-snp-vtpm/evidence-v2.json --certs amd-roots",
        "2100-01-01",
        3,
        "refused",
    ),
    (
        "genoa",
        "--azure trustee/az-snp-vtpm/evidence-v2.json --certs amd-roots",
        "2026-01-13",
        2,
        "refused",
    ),
    (
        "milan",
        "--azure trustee/az-tdx-vtpm/evidence-v0.json --collateral intel-collateral",
        "2026-01-13",
        3,
        "of another platform",
    ),
    (
        "milan",
        "--azure trustee/az-tdx-vtpm/evidence-v1.json --collateral intel-collateral",
        "2026-01-13",
        3,
        "of another platform",
    ),
    (
        "milan",
        "--azure openpcc/azure_tdx_report__test_azure_tdx_report.bin \
         --tdx-quote openpcc/azure_tdx_report__test_azure_tdx_quote.bin \
         --collateral intel-collateral",
        "2026-01-13",
        0,
        "VM in Azure on TDX",
    ),
    (
        "milan",
        "--azure azure-cvm-tooling/hcl-report-snp.bin --certs azure-cvm-tooling",
        "2024-01-01",
        1,
        "do not name one RSA key",
    ),
    (
        "milan",
        "--azure azure-cvm-tooling/hcl-report-tdx.bin",
        "2024-01-01",
        1,
        "--tdx-quote",
    ),
    (
        "milan",
        "--gpu-evidence nvidia-attestation-sdk/multi_gpu_hopper.json",
        "2026-01-13",
        2,
        "switches stand between the GPUs, and none gave evidence",
    ),
    (
        "milan",
        "--gpu-evidence nvidia-attestation-sdk/multi_gpu_hopper.json \
         --gpu-evidence nvidia-attestation-sdk/multi_switch_ls10.json",
        "2026-01-13",
        2,
        "device 5: report: made for another nonce",
    ),
    (
        "milan",
        "--gpu-evidence nvtrust/gpu_evidence.json --gpu-evidence nvtrust/switch_evidence.json",
        "2026-01-13",
        0,
        "12 devices: GPU GH100",
    ),
    (
        "milan",
        "--gpu-evidence trustee/nvidia/hopper_coco_report1.txt \
         --certs trustee/nvidia/hopper_coco_certs1.txt",
        "2026-01-13",
        0,
        "GPU GH100",
    ),
    (
        "milan",
        "--gpu-evidence trustee/nvidia/hopper_coco_report1.txt \
         --certs trustee/nvidia/hopper_cert_chain_case1.txt",
        "2026-01-13",
        2,
        "refused",
    ),
];

#[test]
fn real_evidence_of_clouds_and_gpus_gets_its_verdict() {
    let Some(folder) = vectors() else { return };
    let person = Person::new();
    let evidence = fs::read(folder.join("trustee/tpm_evidence.json")).unwrap();
    let evidence: Value = serde_json::from_slice(&evidence).unwrap();
    let key = evidence["ak_public"].as_str().unwrap();
    let lines: Vec<_> = key
        .as_bytes()
        .chunks(64)
        .map(|line| String::from_utf8_lossy(line))
        .collect();
    let (begin, end) = ("-----BEGIN PUBLIC KEY-----", "-----END PUBLIC KEY-----");
    let key = format!("'''\n{begin}\n{}\n{end}\n'''", lines.join("\n"));
    for product in ["milan", "genoa"] {
        person.write(&format!("{product}.toml"), relaxed(product, &key));
    }
    let mut wrong = Vec::new();
    for (product, files, at, code, said) in REAL {
        let words = files.split(' ').map(|word| match word.starts_with("--") {
            true => word.to_owned(),
            false => folder.join(word).display().to_string(),
        });
        let words: Vec<String> = words.collect();
        let policy = format!("{product}.toml");
        let mut line = vec!["verify", "--policy", &policy, "--at", at];
        line.extend(words.iter().map(String::as_str));
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
