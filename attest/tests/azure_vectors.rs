//! Evidence of real VMs in Azure and a real key of Google's cloud, which others have published.
//! They lie beside the checkout, and the tests that need them say so and are skipped where they do
//! not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::fs;
use std::path::PathBuf;

use attest::azure::{
    AzureError, AzureEvidence, AzureHardware, AzureSetting, HclError, VerifiedVm, verify,
    verify_hardware,
};
use attest::certificate::{ChainFault, Position, TrustAnchor};
use attest::eventlog::{EventLog, SecureBoot};
use attest::policy::{AzurePolicy, SnpPolicy, TdxPolicy};
use attest::snp::{SnpError, SnpEvidence};
use attest::tdx::{Collateral, TdxError, TdxEvidence};
use attest::tpm::google;
use attest::tpm::vtpm::{VtpmError, VtpmQuote};
use attest::{Digest, UnixTime};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use serde_json::Value;
use signer::azure::{POLICY, azure_policy, tpmt};
use signer::{amd, intel};
use signer::{read_vector as read, vectors};
use x509_cert::Certificate;
use x509_cert::der::Encode as _;

const JANUARY_2026: UnixTime = UnixTime::from_secs(1_768_262_400);
const NOVEMBER_2026: UnixTime = UnixTime::from_secs(1_795_219_200);
const YEAR_2100: UnixTime = UnixTime::from_secs(4_102_444_800);

fn certificates(path: &str) -> Vec<Vec<u8>> {
    let chain = match read(path) {
        pem if pem.starts_with(b"-----") => Certificate::load_pem_chain(&pem).unwrap(),
        der => return vec![der],
    };
    chain.iter().map(|one| one.to_der().unwrap()).collect()
}

/// A field in any of the forms that these files have: a list of bytes, hexadecimal, Base64.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::Array(bytes) => bytes
            .iter()
            .map(|byte| byte.as_u64().unwrap() as u8)
            .collect(),
        Value::String(text) => hex::decode(text)
            .or_else(|_| URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')))
            .or_else(|_| STANDARD_NO_PAD.decode(text.trim_end_matches('=')))
            .unwrap(),
        other => panic!("{other}"),
    }
}

/// A file of another verifier's, with the nonce that it was made for.
fn evidence(path: &str, ask: &str) -> (AzureEvidence, Vec<u8>) {
    let json: Value = serde_json::from_slice(&read(path)).unwrap();
    let quote = json.get("tpm_quote").or(json.get("quote")).unwrap();
    let report = json.get("hcl_report").or(json.get("report")).unwrap();
    let mut registers = [Digest([0; 32]); 24];
    for (register, value) in registers.iter_mut().zip(quote["pcrs"].as_array().unwrap()) {
        register.0 = bytes(value).try_into().unwrap();
    }
    let attest = bytes(&quote["message"]);
    let signer = usize::from(attest[7]) + 8; // behind magic, type and the signer's name
    let length = usize::from(attest[signer + 1]);
    let nonce = attest[signer + 2..signer + 2 + length].to_vec();
    let hardware = match json.get("vcek").and_then(Value::as_str) {
        Some(vcek) => {
            let leaf = match vcek.starts_with("-----") {
                true => Certificate::load_pem_chain(vcek.as_bytes()).unwrap()[0]
                    .to_der()
                    .unwrap(),
                false => bytes(&json["vcek"]),
            };
            AzureHardware::Snp(SnpEvidence {
                report: Vec::new(),
                certificates: vec![leaf, certificates(ask).remove(0)],
                revocation_lists: Vec::new(),
            })
        }
        None => AzureHardware::Tdx(TdxEvidence {
            quote: bytes(&json["td_quote"]),
            event_log: Vec::new(),
            collateral: collateral(),
        }),
    };
    let evidence = AzureEvidence {
        hcl_report: bytes(report),
        hardware,
        quote: VtpmQuote {
            signature: tpmt(&bytes(&quote["signature"])),
            attest,
            registers,
        },
        event_log: Vec::new(),
    };
    (evidence, nonce)
}

/// Of one model of platforms, in January 2026.
fn collateral() -> Collateral {
    let file = read("intel-collateral/col_90c06f000000_platform.json");
    let json: Value = serde_json::from_slice(&file).unwrap();
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    let bytes = |name: &str| hex::decode(text(name)).unwrap();
    let chain = Certificate::load_pem_chain(text("tcb_info_issuer_chain").as_bytes()).unwrap();
    Collateral {
        tcb_info: text("tcb_info").into_bytes(),
        tcb_info_signature: bytes("tcb_info_signature"),
        enclave_identity: text("qe_identity").into_bytes(),
        enclave_identity_signature: bytes("qe_identity_signature"),
        signer: chain[0].to_der().unwrap(),
        revocation_lists: vec![bytes("root_ca_crl"), bytes("pck_crl")],
    }
}

/// Everything relaxed that can be, and AMD's root.
fn snp_policy(product: &str) -> SnpPolicy {
    let strict = amd::policy_toml(product, "amd").replace("'''\namd'''", "\"amd\"");
    let relaxed = strict
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"")
        .replace("[1, 55, 20]", "[0, 0, 0]")
        .replace("[1, 2]", "[0, 0]")
        .replace("mitigations = 2", "mitigations = 0")
        .replace("minimum_guest_svn = 3", "minimum_guest_svn = 0")
        .replace("boot_loader = 9", "boot_loader = 0")
        .replace("snp = 22", "snp = 0")
        .replace("microcode = 80", "microcode = 0");
    amd::snp_policy(&relaxed)
}

fn tdx_policy() -> TdxPolicy {
    let strict = intel::policy_toml("intel").replace("'''\nintel'''", "\"intel\"");
    let relaxed = strict
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"");
    intel::tdx_policy(&relaxed)
}

fn relaxed() -> AzurePolicy {
    let text = POLICY.replace("\"refused\"", "\"accepted\"");
    azure_policy(&text.replace("event_log = \"required\"", "event_log = \"not-required\""))
}

fn judge(
    (evidence, nonce): &(AzureEvidence, Vec<u8>),
    product: &str,
    policy: &AzurePolicy,
    now: UnixTime,
) -> Result<VerifiedVm, AzureError> {
    let (snp, tdx) = (snp_policy(product), tdx_policy());
    verify(evidence, nonce, policy, (Some(&snp), Some(&tdx)), now)
}

const MILAN_ASK: &str = "amd-roots/ask_ark_milan.pem";
const GENOA_ASK: &str = "amd-roots/ask_ark_genoa.pem";
const FOLDER: &str = "trustee/az-snp-vtpm";

#[test]
fn real_vms_on_snp_verify_from_the_processor_to_the_registers() {
    if vectors().is_none() {
        return;
    }
    for (file, product, ask) in [
        ("evidence-v0.json", "milan", MILAN_ASK),
        ("evidence-v1.json", "milan", MILAN_ASK),
        ("evidence-v2.json", "milan", MILAN_ASK),
        ("evidence-genoa.json", "genoa", GENOA_ASK),
    ] {
        let given = evidence(&format!("{FOLDER}/{file}"), ask);
        let verdict = judge(&given, product, &relaxed(), NOVEMBER_2026);
        let verified = verdict.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(verified.registers().len(), 24, "{file}");
        assert!(
            verified
                .claims()
                .iter()
                .any(|claim| claim.rests_on.contains("CN=ARK-"))
        );
        // At another time, with another product's policy, for another nonce.
        let error = judge(&given, product, &relaxed(), YEAR_2100).unwrap_err();
        let AzureError::Snp(error) = error else {
            panic!("{file}: {error}")
        };
        assert!(matches!(*error, SnpError::Chain(_)), "{file}: {error}");
        let other = if product == "milan" { "genoa" } else { "milan" };
        assert!(judge(&given, other, &relaxed(), NOVEMBER_2026).is_err());
        let another = (given.0.clone(), b"another".to_vec());
        let error = judge(&another, product, &relaxed(), NOVEMBER_2026).unwrap_err();
        assert!(
            matches!(error, AzureError::Quote(VtpmError::Nonce { .. })),
            "{error}"
        );
        // The host has a console of each, and no log came with the files.
        let mut strict = relaxed();
        strict.console = attest::policy::Tolerance::Refused;
        let error = judge(&given, product, &strict, NOVEMBER_2026).unwrap_err();
        let (setting, expected) = (AzureSetting::Console, false);
        assert_eq!(error, AzureError::Setting { setting, expected });
    }
}

#[test]
fn parts_of_two_real_vms_do_not_mix() {
    if vectors().is_none() {
        return;
    }
    let read = |file: &str, ask| evidence(&format!("{FOLDER}/{file}"), ask);
    let (one, two) = (
        read("evidence-v1.json", MILAN_ASK),
        read("evidence-v2.json", MILAN_ASK),
    );
    let mut mixed = one.clone();
    mixed.0.quote = two.0.quote.clone();
    mixed.1 = two.1.clone();
    let error = judge(&mixed, "milan", &relaxed(), NOVEMBER_2026).unwrap_err();
    assert_eq!(error, AzureError::Quote(VtpmError::Signature));
    // The runtime data of the one behind the processor's report of the other.
    let mut mixed = one.clone();
    mixed.0.hcl_report[32..1216].copy_from_slice(&two.0.hcl_report[32..1216]);
    mixed.0.hardware = two.0.hardware;
    let error = judge(&mixed, "milan", &relaxed(), NOVEMBER_2026).unwrap_err();
    let AzureError::Snp(error) = error else {
        panic!("{error}")
    };
    assert!(matches!(*error, SnpError::ReportData { .. }), "{error}");
    for place in (0..one.0.hcl_report.len()).step_by(23) {
        let mut flipped = one.clone();
        flipped.0.hcl_report[place] ^= 1 << (place % 8);
        let refused = judge(&flipped, "milan", &relaxed(), NOVEMBER_2026).is_err();
        assert!(refused || (8..32).contains(&place), "{place}");
    }
}

/// Azure's quotes of TDX that are at hand with Intel's collateral came without a quote of the
/// virtual TPM, and the one with it is of a platform whose collateral is not.
#[test]
fn real_vms_on_tdx_verify_as_far_as_their_collateral_goes() {
    if vectors().is_none() {
        return;
    }
    let hcl = read("openpcc/azure_tdx_report__test_azure_tdx_report.bin");
    let hardware = AzureHardware::Tdx(TdxEvidence {
        quote: read("openpcc/azure_tdx_report__test_azure_tdx_quote.bin"),
        event_log: Vec::new(),
        collateral: collateral(),
    });
    let policy = tdx_policy();
    let verdict = |hcl: &[u8], now| {
        let endorsed = verify_hardware(hcl, &hardware, (None, Some(&policy)), now)?;
        Ok::<_, AzureError>((endorsed.report.vm, endorsed.root))
    };
    let (vm, root) = verdict(&hcl, JANUARY_2026).unwrap();
    assert!(vm.secure_boot && vm.tpm);
    assert!(root.contains("CN=Intel SGX Root CA"), "{root}");
    assert!(verdict(&hcl, NOVEMBER_2026).is_err());
    let other = read("trustee/az-tdx-vtpm/hcl-report.bin");
    let error = verdict(&other, JANUARY_2026).unwrap_err();
    let AzureError::Tdx(error) = error else {
        panic!("{error}")
    };
    assert!(matches!(*error, TdxError::ReportData { .. }), "{error}");
    for file in ["evidence-v0.json", "evidence-v1.json"] {
        let given = evidence(&format!("trustee/az-tdx-vtpm/{file}"), "");
        let error = judge(&given, "milan", &relaxed(), JANUARY_2026).unwrap_err();
        let AzureError::Tdx(error) = error else {
            panic!("{file}: {error}")
        };
        assert!(
            matches!(*error, TdxError::OtherPlatform { .. }),
            "{file}: {error}"
        );
        // The virtual TPM's part, by the key that the paravisor's report names.
        let report = attest::azure::HclReport::parse(&given.0.hcl_report).unwrap();
        assert_eq!(
            given.0.quote.verify(&report.key, &given.1).unwrap().len(),
            24
        );
    }
}

#[test]
fn reports_of_other_paravisors_have_their_verdicts() {
    if vectors().is_none() {
        return;
    }
    // The first one named its key for encryption.
    let early = read("azure-cvm-tooling/hcl-report-snp.bin");
    let error = attest::azure::HclReport::parse(&early).map(drop);
    assert_eq!(error, Err(HclError::AttestationKey));
    let tdx = read("azure-cvm-tooling/hcl-report-tdx.bin");
    assert!(
        !attest::azure::HclReport::parse(&tdx)
            .unwrap()
            .vm
            .secure_boot
    );
    let hardware = AzureHardware::Snp(SnpEvidence {
        report: Vec::new(),
        certificates: vec![
            certificates("openpcc/sev_certificates__test_vcek.pem").remove(0),
            certificates(GENOA_ASK).remove(0),
        ],
        revocation_lists: Vec::new(),
    });
    let genoa = read("openpcc/azure_sevsnp_report__test_azure_sevsnp_report.bin");
    let policy = snp_policy("genoa");
    let policies = (Some(&policy), None);
    assert!(verify_hardware(&genoa, &hardware, policies, NOVEMBER_2026).is_ok());
    let milan = read("trustee/az-snp-vtpm/hcl-report.bin");
    assert!(verify_hardware(&milan, &hardware, policies, NOVEMBER_2026).is_err());
}

#[test]
fn a_real_key_of_googles_cloud_leads_to_its_root() {
    if vectors().is_none() {
        return;
    }
    let chain = [
        certificates("openpcc/gce_ak_certificates__test_gce_ak_cert.pem"),
        certificates("openpcc/gce_ak_certificates__test_gce_ak_intermediate_cert.pem"),
    ]
    .concat();
    let roots = [google::root().unwrap()];
    let key = google::verify(&chain, &roots, NOVEMBER_2026).unwrap();
    assert_eq!(key.instance.zone, "us-west1-b");
    assert_eq!(key.instance.project, "nonvolatile-dev");
    let early = google::verify(&chain, &roots, UnixTime::from_secs(1_700_000_000));
    assert!(early.map(drop).unwrap_err().fault.is_date());
    let alone = google::verify(&chain[..1], &roots, NOVEMBER_2026)
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(alone.fault, ChainFault::UnknownRoot { .. }),
        "{alone}"
    );
    // An older intermediate of the same name did not issue it; one for endorsement keys is another.
    for (name, position) in [
        ("gcp_ek_ak_ca_intermediate_v3.crt", Position::Leaf),
        ("tpm_ek_intermediate_2.crt", Position::Leaf),
    ] {
        let path = format!("go-tpm-tools/ca-certs/{name}");
        let mixed = [chain[0].clone(), certificates(&path).remove(0)];
        let error = google::verify(&mixed, &roots, NOVEMBER_2026)
            .map(drop)
            .unwrap_err();
        assert_eq!(error.position, position, "{name}: {error}");
    }
    let other = certificates("nvtrust/verifier_device_root.pem").remove(0);
    let other = [TrustAnchor::from_pem(&signer::authority::pem(&other)).unwrap()];
    assert!(google::verify(&chain, &other, NOVEMBER_2026).is_err());
    // Azure's own certificates name no instance of Google's.
    let azure = certificates("openpcc/azure_ak_certificates__test_azure_ak_certificate_01.pem");
    let error = google::verify(&azure, &roots, JANUARY_2026)
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error.fault, ChainFault::Extension { .. }),
        "{error}"
    );
}

/// Logs of virtual TPMs have three banks; each says what Secure Boot was.
#[test]
fn logs_of_real_clouds_replay_in_both_banks() {
    if vectors().is_none() {
        return;
    }
    for path in [
        "go-tpm-tools/ubuntu-2404-amd-sevsnp.bin",
        "openpcc/tcg_eventlog__test_tcg_event_log.bin",
    ] {
        let bytes = read(path);
        let log = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{path}: {error}"));
        let zero = Digest([0; 32]);
        let value = log.replay_sha256(attest::tpm::Register(4)).unwrap();
        assert_ne!(value, zero, "{path}");
        assert!(matches!(
            log.secure_boot_sha256().unwrap(),
            SecureBoot::Enabled | SecureBoot::Disabled
        ));
    }
}

#[test]
fn the_root_of_google_is_that_of_the_readme() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tpm/roots");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let digest = Digest::sha256(&fs::read(folder.join("google-ek-ak.der")).unwrap());
    assert!(table.contains(&format!("| google-ek-ak.der | {digest} |")));
}
