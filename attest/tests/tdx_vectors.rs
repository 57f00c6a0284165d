//! Quotes that real platforms signed, with what Intel said of them: read in place, where they are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::fs;
use std::path::PathBuf;

use attest::certificate::ChainFault;
use attest::crl::RevocationFault;
use attest::eventlog::EventLog;
use attest::policy::{TdxPolicy, Tolerance};
use attest::tdx::{
    Authority, Collateral, Document, DocumentFault, Evaluated, PlatformFlag, Quote, QuoteError,
    TcbStatus, TdxError, TdxEvidence, VerifiedQuote, verify,
};
use attest::tpm::Register;
use attest::{Digest, UnixTime};
use signer::intel;
use signer::{read_vector as read, vectors};
use x509_cert::Certificate;
use x509_cert::der::Encode as _;

/// Times at which the collateral of each vector held.
const JULY_2025: UnixTime = UnixTime::from_secs(1_751_328_000);
const JANUARY_2026: UnixTime = UnixTime::from_secs(1_768_262_400);
const FEBRUARY_2026: UnixTime = UnixTime::from_secs(1_772_000_000);
const OCTOBER_2026: UnixTime = UnixTime::from_secs(1_792_000_000);

/// The quote, in binary, in hexadecimal, or as a field of JSON.
fn quote(path: &str) -> Vec<u8> {
    let bytes = read(path);
    let text = |text: &str| hex::decode(text.trim().trim_start_matches("0x")).unwrap();
    if path.ends_with(".hex") {
        return text(std::str::from_utf8(&bytes).unwrap());
    }
    if path.ends_with(".json") {
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        return text(json["quote"].as_str().unwrap());
    }
    bytes
}

/// The form in which dcap-qvl keeps it.
fn collateral(path: &str) -> Collateral {
    let json: serde_json::Value = serde_json::from_slice(&read(path)).unwrap();
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

/// What stands under `name` in a response of Intel's service, byte for byte, and its signature.
fn response(path: &str, name: &str) -> (Vec<u8>, Vec<u8>) {
    let text = String::from_utf8(read(path)).unwrap();
    let start = text.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
    let end = text.rfind(",\"signature\"").unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let signature = hex::decode(json["signature"].as_str().unwrap()).unwrap();
    (text.as_bytes()[start..end].to_vec(), signature)
}

/// Intel's root, and everything relaxed that can be, but for versions.
fn policy() -> TdxPolicy {
    let strict = intel::policy_toml("intel").replace("'''\nintel'''", "\"intel\"");
    let relaxed = strict
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"");
    intel::tdx_policy(&relaxed)
}

fn evidence(quote: Vec<u8>, collateral: Collateral) -> TdxEvidence {
    TdxEvidence {
        quote,
        event_log: Vec::new(),
        collateral,
    }
}

/// The verdict for whatever the quote was made for.
fn judge(
    evidence: &TdxEvidence,
    policy: &TdxPolicy,
    now: UnixTime,
) -> Result<VerifiedQuote, TdxError> {
    let data = Quote::parse(&evidence.quote).map_or([0; 64], |quote| quote.report_data);
    verify(evidence, &data, policy, now)
}

const DCAP: &str = "dcap-qvl/tdx_quote_collateral.json";
const DCAP_OUTDATED: &str = "dcap-qvl/tdx_quote_outdated_collateral.json";
const DCAP_EX: &str = "dcap-qvl/tdx_quote_td15ex_collateral.json";
const INTEL_90C06F: &str = "intel-collateral/col_90c06f000000_platform.json";
const INTEL_00A06D: &str = "intel-collateral/col_00a06d080000_platform.json";

/// dcap-qvl 0.7.1 calls each of these up to date at the same time.
#[test]
fn quotes_of_real_platforms_verify() {
    if vectors().is_none() {
        return;
    }
    let mut v5 = collateral(DCAP_OUTDATED);
    (v5.tcb_info, v5.tcb_info_signature) =
        response("go-tdx-guest/sample_tcbinfo_response_v5", "tcbInfo");
    for (path, collateral, now, version) in [
        ("dcap-qvl/tdx_quote", collateral(DCAP), JULY_2025, 4),
        (
            "dstack/quote-report.json",
            collateral(INTEL_90C06F),
            JANUARY_2026,
            4,
        ),
        (
            "openpcc/azure_tdx_report__test_azure_tdx_quote.bin",
            collateral(INTEL_90C06F),
            JANUARY_2026,
            4,
        ),
        ("go-tdx-guest/quote_v5_sample.dat", v5, FEBRUARY_2026, 5),
        (
            "dcap-qvl/tdx_quote_td15ex",
            collateral(DCAP_EX),
            OCTOBER_2026,
            5,
        ),
    ] {
        let evidence = evidence(quote(path), collateral);
        let verified = judge(&evidence, &policy(), now).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(verified.quote().version, version, "{path}");
        assert!(verified.root().contains("CN=Intel SGX Root CA"));
        // At another time what Intel says does not hold.
        for (other, sooner) in [(1_600_000_000, true), (1_900_000_000, false)] {
            let error = judge(&evidence, &policy(), UnixTime::from_secs(other)).unwrap_err();
            let refusal = attest::Refusal::from(error);
            assert_eq!(
                refusal.class(),
                attest::Class::Collateral,
                "{path} {sooner}"
            );
        }
        // All of them can have packages added, and the strict policy says no to that.
        let mut strict = policy();
        strict.dynamic_platforms = Tolerance::Refused;
        let (flag, found) = (PlatformFlag::Dynamic, Some(true));
        assert_eq!(
            judge(&evidence, &strict, now).unwrap_err(),
            TdxError::Flag { flag, found },
            "{path}"
        );
    }
}

/// dcap-qvl 0.7.1 refuses each of these, for the same reason.
#[test]
fn quotes_of_real_platforms_are_refused_for_what_they_are() {
    if vectors().is_none() {
        return;
    }
    let verdict = |path: &str, from: &str, now: UnixTime| {
        let evidence = evidence(quote(path), collateral(from));
        judge(&evidence, &policy(), now).map(drop).unwrap_err()
    };
    let no_level = |part: Evaluated| TdxError::NoLevel { part };
    assert_eq!(
        verdict("dcap-qvl/tdx_quote_outdated", DCAP_OUTDATED, FEBRUARY_2026),
        no_level(Evaluated::Launch)
    );
    // Its TDX module is too old as well, which is found first.
    let (part, found) = (Evaluated::LaunchModule, TcbStatus::OutOfDate);
    assert_eq!(
        verdict("trustee/tdx/tdx_quote_5.dat", INTEL_90C06F, JANUARY_2026),
        TdxError::Status { part, found }
    );
    let (part, found) = (Evaluated::Launch, TcbStatus::OutOfDate);
    assert_eq!(
        verdict("trustee/tdx/tdx_quote_6.dat", INTEL_00A06D, JANUARY_2026),
        TdxError::Status { part, found }
    );
    let quote_6 = evidence(
        quote("trustee/tdx/tdx_quote_6.dat"),
        collateral(INTEL_00A06D),
    );
    let mut lenient = policy();
    lenient.tcb_statuses.push(TcbStatus::OutOfDate);
    assert!(judge(&quote_6, &lenient, JANUARY_2026).is_ok());
    for (path, from) in [
        ("trustee/tdx/tdx_quote_6.dat", INTEL_90C06F),
        ("trustee/tdx/tdx_quote_4.dat", INTEL_90C06F),
        ("trustee/tdx/tdx_quote_4.dat", INTEL_00A06D),
        ("trustee/az-tdx-vtpm/td-quote.bin", INTEL_90C06F),
        ("dcap-qvl/tdx-quote.hex", INTEL_90C06F),
        ("dcap-qvl/quote-from-tappd.hex", INTEL_90C06F),
        ("dcap-qvl/tdx_quote", INTEL_00A06D),
        (
            "openpcc/gce_tdx_report__test_gce_tdx_report.bin",
            INTEL_90C06F,
        ),
        ("go-tdx-guest/ccel/cos-113-tdx-quote.dat", INTEL_90C06F),
    ] {
        let error = verdict(path, from, JANUARY_2026);
        let TdxError::OtherPlatform { field, .. } = error else {
            panic!("{path}: {error}")
        };
        assert_eq!(field, "FMSPC", "{path}");
    }
    // The key of the platform was certified later.
    for path in [
        "dcap-qvl/tdx_quote_outdated",
        "go-tdx-guest/quote_v5_sample.dat",
    ] {
        let error = verdict(path, INTEL_90C06F, JANUARY_2026);
        let TdxError::Chain(error) = error else {
            panic!("{path}: {error}")
        };
        assert!(
            matches!(error.fault, ChainFault::NotYetValid { .. }),
            "{path}"
        );
    }
    let october_2025 = UnixTime::from_secs(1_760_000_000);
    let error = verdict("dcap-qvl/tdx_quote", DCAP, october_2025);
    let TdxError::RevocationList { authority, fault } = error else {
        panic!("{error}")
    };
    assert_eq!(authority, Authority::Pck);
    assert!(matches!(fault, RevocationFault::Expired { .. }));
    // Behind this quote stands a line of text.
    assert!(matches!(
        verdict("go-tdx-guest/tdx_prod_quote_SPR_E4.dat", DCAP, JULY_2025),
        TdxError::Quote(QuoteError::Trailing { .. })
    ));
    let error = verdict("dcap-qvl/sgx_quote", DCAP, JULY_2025);
    assert_eq!(error, TdxError::Quote(QuoteError::Version { found: 3 }));
}

#[test]
fn stricter_policies_refuse_real_platforms() {
    if vectors().is_none() {
        return;
    }
    let genuine = evidence(quote("dcap-qvl/tdx_quote"), collateral(DCAP));
    let refused = |change: fn(&mut TdxPolicy)| {
        let mut policy = policy();
        change(&mut policy);
        judge(&genuine, &policy, JULY_2025).unwrap_err()
    };
    let error = refused(|policy| policy.minimum_tcb_evaluation = 18);
    let document = Document::TcbInfo;
    let (minimum, found) = (18, 17);
    let fault = DocumentFault::Evaluation { minimum, found };
    assert_eq!(error, TdxError::Document { document, fault });
    let error = refused(|policy| policy.event_log = attest::policy::Demand::Required);
    assert_eq!(error, TdxError::NoEventLog);
    // One platform under debug: an older one, whose TCB info is not here.
    let debugged = Quote::parse(&quote("trustee/tdx/tdx_quote_4.dat")).unwrap();
    assert_eq!(debugged.attributes & 1, 1);
    // What Intel says of one platform says nothing of another.
    let mut mixed = genuine.clone();
    mixed.collateral = collateral(DCAP_OUTDATED);
    let error = judge(&mixed, &policy(), FEBRUARY_2026).unwrap_err();
    assert!(matches!(error, TdxError::OtherPlatform { .. }), "{error}");
    let mut without = genuine.clone();
    without.collateral.revocation_lists.pop();
    let error = judge(&without, &policy(), JULY_2025).unwrap_err();
    assert!(
        matches!(error, TdxError::NoRevocationList { .. }),
        "{error}"
    );
}

#[test]
fn no_flipped_bit_of_a_real_quote_is_believed() {
    if vectors().is_none() {
        return;
    }
    let (genuine, policy) = (
        evidence(quote("dcap-qvl/tdx_quote"), collateral(DCAP)),
        policy(),
    );
    let data = Quote::parse(&genuine.quote).unwrap().report_data;
    for place in (0..genuine.quote.len()).step_by(7) {
        let mut evidence = genuine.clone();
        evidence.quote[place] ^= 1 << (place % 8);
        assert!(
            verify(&evidence, &data, &policy, JULY_2025).is_err(),
            "{place}"
        );
    }
}

/// A firmware's log in its padded buffer, and the quote of the domain that it started.
#[test]
fn the_log_of_a_real_domain_explains_its_registers() {
    if vectors().is_none() {
        return;
    }
    let quote = Quote::parse(&quote("go-tdx-guest/ccel/cos-113-tdx-quote.dat")).unwrap();
    let buffer = read("go-tdx-guest/ccel/ccel_data.dat");
    let written = EventLog::unpadded(&buffer).unwrap();
    assert!(written.len() < 32_768, "{}", written.len());
    let log = EventLog::parse_ccel(written).unwrap();
    for (register, expected) in (1..).map(Register).zip(quote.rtmrs) {
        assert_eq!(log.replay(register), expected, "{register}");
    }
    assert_ne!(quote.rtmrs[1], Digest::ZERO);
}

#[test]
fn the_root_is_that_of_the_readme() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/tdx/roots");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    let digest = Digest::sha256(&fs::read(folder.join("intel-sgx-root.der")).unwrap());
    assert!(table.contains(&format!("| intel-sgx-root.der | {digest} |")));
}
