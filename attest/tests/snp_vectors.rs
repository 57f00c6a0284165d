//! Reports that real machines signed, with their certificates: read in place, where they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::fs;
use std::path::PathBuf;

use attest::certificate::{ChainFault, Position};
use attest::crl::RevocationFault;
use attest::policy::{Demand, SnpPolicy, Tolerance};
use attest::snp::{
    Product, Report, SigningKey, SnpError, SnpEvidence, SnpSetting, VerifiedReport, verify,
};
use attest::{Digest, UnixTime};
use signer::{NOW, amd};
use signer::{read_vector as read, vectors};
use x509_cert::Certificate;
use x509_cert::der::{Encode as _, pem};

/// 2025-07-01: within the dates of the key of a cloud and of both revocation lists.
const JULY_2025: UnixTime = UnixTime::from_secs(1_751_328_000);

/// The report, wherever it stands in the file.
fn report(path: &str) -> Vec<u8> {
    let bytes = read(path);
    match bytes.len() {
        _ if path.ends_with(".hex") => {
            let text = String::from_utf8(bytes).unwrap();
            hex::decode(text.trim()).unwrap()
        }
        1184 => bytes,
        _ => bytes[32..32 + 1184].to_vec(), // behind the header of a paravisor's report
    }
}

/// The n-th certificate of a file, PEM or DER.
fn certificate(path: &str, index: usize) -> Vec<u8> {
    let bytes = read(path);
    if bytes.starts_with(b"-----") {
        Certificate::load_pem_chain(&bytes).unwrap()[index]
            .to_der()
            .unwrap()
    } else {
        bytes
    }
}

fn list(path: &str) -> Vec<u8> {
    pem::decode_vec(&read(path)).unwrap().1
}

/// Everything is relaxed that can be, and the root is AMD's.
fn policy(product: &str) -> SnpPolicy {
    let strict = amd::policy_toml(product, "amd").replace("'''\namd'''", "\"amd\"");
    let relaxed = strict
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"")
        .replace("[\"vcek\"]", "[\"vcek\", \"vlek\"]")
        .replace("vmpls = [0]", "vmpls = [0, 1]")
        .replace("[1, 55, 20]", "[0, 0, 0]")
        .replace("[1, 2]", "[0, 0]")
        .replace("mitigations = 2", "mitigations = 0")
        .replace("minimum_guest_svn = 3", "minimum_guest_svn = 0")
        .replace("boot_loader = 9", "boot_loader = 0")
        .replace("snp = 22", "snp = 0")
        .replace("microcode = 80", "microcode = 0");
    amd::snp_policy(&relaxed)
}

fn judge(
    evidence: &SnpEvidence,
    policy: &SnpPolicy,
    now: UnixTime,
) -> Result<VerifiedReport, SnpError> {
    let data = evidence.report[0x50..0x90].try_into().unwrap();
    verify(evidence, &data, policy, now)
}

/// Report, leaf and intermediate of each machine.
fn milan() -> SnpEvidence {
    SnpEvidence {
        report: report("dstack/sev_snp_report_1184.bin"),
        certificates: vec![
            certificate("dstack/sev_snp_vcek.pem", 0),
            certificate("dstack/sev_snp_ask.pem", 0),
        ],
        revocation_lists: Vec::new(),
    }
}

fn genoa() -> SnpEvidence {
    SnpEvidence {
        report: report("openpcc/azure_sevsnp_report__test_azure_sevsnp_report.bin"),
        certificates: vec![
            certificate("openpcc/sev_certificates__test_vcek.pem", 0),
            certificate("amd-roots/ask_ark_genoa.pem", 0),
        ],
        revocation_lists: vec![list("openpcc/sev_certificates__test_amd_genoa_crl.pem")],
    }
}

fn cloud() -> SnpEvidence {
    SnpEvidence {
        report: report("trustee/snp/test-vlek-report.bin"),
        certificates: vec![
            certificate("trustee/snp/test-vlek.der", 0),
            certificate("amd-roots/ask_ark_milan_vlek.pem", 0),
        ],
        revocation_lists: vec![list("openpcc/sev_certificates__test_amd_milan_crl.pem")],
    }
}

#[test]
fn reports_of_real_machines_verify() {
    if vectors().is_none() {
        return;
    }
    let verified = judge(&milan(), &policy("milan"), NOW).unwrap();
    let golden = "7f51e17f72a04d5422cb2c0099816653";
    assert!(
        verified
            .report()
            .measurement
            .to_string()
            .starts_with(golden)
    );
    assert_eq!((verified.report().version, verified.report().vmpl), (3, 0));
    assert!(
        verified.root().contains("CN=ARK-Milan"),
        "{}",
        verified.root()
    );

    let milan_of = |report_at: &str, leaf: &str, chain: &str| SnpEvidence {
        report: report(report_at),
        certificates: vec![certificate(leaf, 0), certificate(chain, 0)],
        revocation_lists: Vec::new(),
    };
    for evidence in [
        milan_of(
            "virtee-sev/report_milan.hex",
            "virtee-sev/vcek_milan.der",
            "virtee-sev/cert_chain_milan",
        ),
        milan_of(
            "trustee/snp/test-report.bin",
            "trustee/snp/test-vcek.der",
            "amd-roots/ask_ark_milan.pem",
        ),
    ] {
        let verified = judge(&evidence, &policy("milan"), NOW).unwrap();
        assert_eq!(verified.report().version, 2);
    }
    let mut strict = policy("genoa");
    strict.revocation_lists = Demand::Required;
    let verified = judge(&genoa(), &strict, JULY_2025).unwrap();
    assert!(verified.root().contains("CN=ARK-Genoa"));
    assert!(
        verified.claims()[0]
            .found
            .starts_with("list 4 until 2025-11-03")
    );

    let mut strict = policy("milan");
    strict.revocation_lists = Demand::Required;
    let verified = judge(&cloud(), &strict, JULY_2025).unwrap();
    assert_eq!(verified.report().signing_key, SigningKey::Vlek);
    let report = Report::parse(&report(
        "openpcc/gce_sevsnp_report__test_gce_sevsnp_report.bin",
    ));
    assert_eq!(report.unwrap().version, 4);
}

/// The same machines, and what a stricter policy says of them.
#[test]
fn reports_of_real_machines_are_refused_for_what_they_are() {
    if vectors().is_none() {
        return;
    }
    // Milan is refused unless the policy names it.
    let error = judge(&milan(), &policy("genoa"), NOW).unwrap_err();
    assert!(
        matches!(&error, SnpError::Chain(error) if error.position == Position::Intermediate(1))
    );
    // A guest that may be debugged.
    let debugged = SnpEvidence {
        report: report("go-sev-guest/attestation.bin"),
        certificates: vec![
            certificate("go-sev-guest/vcek.testcer", 0),
            certificate("go-sev-guest/milan.testcer", 0),
        ],
        revocation_lists: Vec::new(),
    };
    assert_eq!(
        judge(&debugged, &policy("milan"), NOW).unwrap_err(),
        SnpError::Debug
    );
    // The certificate of the cloud's key expired on 2025-12-10.
    let mut lenient = policy("milan");
    let mut expired = cloud();
    expired.revocation_lists.clear();
    let error = judge(&expired, &lenient, NOW).unwrap_err();
    let SnpError::Chain(error) = error else {
        panic!("{error}")
    };
    assert!(matches!(error.fault, ChainFault::Expired { .. }), "{error}");
    let error = judge(&cloud(), &lenient, UnixTime::from_secs(1_700_000_000)).unwrap_err();
    assert!(
        error.to_string().contains("not valid before 2024-12-10"),
        "{error}"
    );
    lenient.signing_keys = vec![SigningKey::Vcek].into();
    let error = judge(&cloud(), &lenient, JULY_2025).unwrap_err();
    assert_eq!(
        error,
        SnpError::SigningKey {
            found: SigningKey::Vlek
        }
    );
    let mut lenient = policy("milan");
    lenient.vmpls = vec![0];
    assert_eq!(
        judge(&cloud(), &lenient, JULY_2025).unwrap_err(),
        SnpError::Vmpl { found: 1 }
    );
    // Genoa's revocation list was due for renewal on 2025-11-03.
    let error = judge(&genoa(), &policy("genoa"), NOW).unwrap_err();
    assert!(
        matches!(
            &error,
            SnpError::RevocationList(RevocationFault::Expired { .. })
        ),
        "{error}"
    );
    // A machine with multithreading, and one whose memory was not checked for aliases.
    let mut strict = policy("genoa");
    strict.platform.ecc = Demand::Required;
    strict.platform.alias_check = Demand::Required;
    assert!(judge(&genoa(), &strict, JULY_2025).is_ok());
    strict.platform.tsme = Demand::Required;
    let error = judge(&genoa(), &strict, JULY_2025).unwrap_err();
    let setting = SnpSetting::PlatformTsme;
    assert_eq!(
        error,
        SnpError::Setting {
            setting,
            expected: true
        }
    );
    let mut strict = policy("milan");
    strict.platform.smt = Tolerance::Refused;
    let error = judge(&milan(), &strict, NOW).unwrap_err();
    let setting = SnpSetting::PlatformSmt;
    assert_eq!(
        error,
        SnpError::Setting {
            setting,
            expected: false
        }
    );
}

/// Certificates of other chips, other products and of nobody.
#[test]
fn parts_of_two_real_machines_do_not_mix() {
    if vectors().is_none() {
        return;
    }
    let mut mixed = milan();
    mixed.certificates[0] = certificate("virtee-sev/vcek_milan.der", 0);
    mixed.certificates[1] = certificate("virtee-sev/cert_chain_milan", 0);
    let error = judge(&mixed, &policy("milan"), NOW).unwrap_err();
    assert!(matches!(error, SnpError::Chip { .. }), "{error}");
    let mut mixed = genoa();
    mixed.certificates[1] = certificate("amd-roots/ask_ark_milan.pem", 0);
    let both = {
        let mut both = policy("genoa");
        both.products.extend(policy("milan").products);
        both
    };
    let error = judge(&mixed, &both, JULY_2025).unwrap_err();
    let SnpError::Chain(error) = error else {
        panic!("{error}")
    };
    assert!(matches!(error.fault, ChainFault::Issuer { .. }), "{error}");
    for invalid in [
        "trustee/snp/test-vcek-invalid-legacy.der",
        "trustee/snp/test-vcek-invalid-new.der",
    ] {
        let evidence = SnpEvidence {
            report: report("trustee/snp/test-report.bin"),
            certificates: vec![
                certificate(invalid, 0),
                certificate("amd-roots/ask_ark_milan.pem", 0),
            ],
            revocation_lists: Vec::new(),
        };
        assert!(
            judge(&evidence, &policy("milan"), NOW).is_err(),
            "{invalid}"
        );
    }
    // Turin's signing key chains to Turin's root; there is no report of it, so another's is taken.
    let mut turin = milan();
    turin.certificates = vec![
        certificate("virtee-sev/vcek_turin.der", 0),
        certificate("virtee-sev/cert_chain_turin", 0),
    ];
    let error = judge(&turin, &policy("turin"), NOW).unwrap_err();
    let (expected, family, model) = (Product::Turin, 0x19, 1);
    assert_eq!(
        error,
        SnpError::Processor {
            expected,
            family,
            model
        }
    );
}

#[test]
fn no_flipped_bit_of_a_real_report_is_believed() {
    if vectors().is_none() {
        return;
    }
    let (genuine, policy) = (milan(), policy("milan"));
    let data = genuine.report[0x50..0x90].try_into().unwrap();
    for place in (0..1184).step_by(7) {
        let mut evidence = genuine.clone();
        evidence.report[place] ^= 1 << (place % 8);
        assert!(verify(&evidence, &data, &policy, NOW).is_err(), "{place}");
    }
}

#[test]
fn the_roots_are_those_of_the_readme() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/snp/roots");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let mut files = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.ends_with(".der") {
            let digest = Digest::sha256(&fs::read(folder.join(&name)).unwrap());
            assert!(table.contains(&format!("| {name} | {digest} |")), "{name}");
            files += 1;
        }
    }
    assert_eq!(files, table.matches(".der | ").count());
}
