//! Every way in which a quote of TDX, its certificates and Intel's documents can be wrong, on a
//! domain that is signed at run time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "common/tdx.rs"]
mod common;

use attest::certificate::{ChainFault, Position};
use attest::crl::RevocationFault;
use attest::tdx::{
    Authority, Document, DocumentFault, MAX_DOCUMENT_BYTES, MAX_QUOTE_BYTES, Part, Quote,
    QuoteError, TdxError, verify,
};
use attest::{Class, Digest, Refusal, UnixTime};
use common::{done, fault, judge, spoilt};
use signer::NOW;
use signer::authority::Known;
use signer::intel::{self, Domain, at, enclave, key};

fn quote(change: impl FnOnce(&mut Vec<u8>)) -> QuoteError {
    match spoilt(|evidence| change(&mut evidence.quote)) {
        TdxError::Quote(error) => error,
        other => panic!("{other}"),
    }
}

fn chain(change: impl FnOnce(&mut Domain)) -> (Position, ChainFault) {
    match fault(change) {
        TdxError::Chain(error) => (error.position, error.fault),
        other => panic!("{other}"),
    }
}

fn document(change: impl FnOnce(&mut Domain)) -> (Document, DocumentFault) {
    match fault(change) {
        TdxError::Document { document, fault } => (document, fault),
        other => panic!("{other}"),
    }
}

#[test]
fn a_sound_domain_is_believed_and_every_check_is_shown() {
    let domain = Domain::new();
    let verified = judge(&domain, &domain.policy(), NOW).unwrap();
    assert_eq!(verified.quote().mr_td, Digest(intel::MR_TD));
    assert!(verified.root().starts_with("CN=Test Root (sha256:"));
    for what in [
        "revocation by the root",
        "revocation by the authority of platform keys",
        "binding",
        "TCB info",
        "identity of the quoting enclave",
        "quoting enclave",
        "TDX module at launch",
        "platform at launch",
        "platform: adding packages",
        "FMSPC (model of the platform)",
        "platform instance",
        "attributes: debugging",
        "attributes: SEPT_VE_DISABLE",
        "attributes: MIGRATABLE",
        "TEE_TCB_SVN",
        "XFAM",
        "MRSEAM (TDX module)",
        "MRTD (firmware)",
        "RTMR3",
        "MROWNERCONFIG",
        "MRSERVICETD",
        "event log",
    ] {
        let mut claims = verified.claims().iter();
        assert!(claims.any(|claim| claim.what == what), "{what}");
    }
    let mut claims = verified.claims().iter();
    assert!(claims.all(|claim| claim.rests_on.contains("Test Root")));
}

#[test]
fn quotes_of_versions_4_and_5_are_read_and_no_others() {
    for kind in 2..=4 {
        let domain = Domain::of_version_5(kind);
        let verified = judge(&domain, &domain.policy(), NOW).unwrap();
        assert_eq!(verified.quote().version, 5);
        assert_eq!(verified.quote().current_tcb.is_some(), kind > 2);
    }
    for found in [0, 3, 6, 255] {
        let error = quote(|quote| quote[0] = found);
        let found = found.into();
        assert_eq!(error, QuoteError::Version { found });
    }
    for (kind, bytes) in [(1, 584), (2, 648), (3, 584), (3, 885), (4, 648), (5, 584)] {
        let mut domain = Domain::of_version_5(2);
        domain.header[48] = kind;
        domain.header[50..54].copy_from_slice(&u32::to_le_bytes(bytes));
        let error = Quote::parse(&domain.quote()).unwrap_err();
        let kind = kind.into();
        assert_eq!(error, QuoteError::Body { kind, bytes });
    }
}

#[test]
fn a_quote_has_one_layout() {
    let found = MAX_QUOTE_BYTES + 1;
    assert_eq!(
        quote(|quote| quote.resize(found, 0)),
        QuoteError::TooLarge { found }
    );
    assert_eq!(
        quote(|quote| quote[2] = 3),
        QuoteError::KeyType { found: 3 }
    );
    assert_eq!(quote(|quote| quote[4] = 0), QuoteError::Tee { found: 0 });
    assert!(matches!(
        quote(|quote| quote[12] ^= 1),
        QuoteError::Vendor { .. }
    ));
    let part = Part::Quote;
    assert_eq!(quote(|quote| quote.push(1)), QuoteError::Trailing { part });
    // Zeros pad a kernel's buffer.
    let mut padded = Domain::new().evidence();
    let length = padded.quote.len();
    padded.quote.resize(8000, 0);
    assert_eq!(Quote::unpadded(&padded.quote).len(), length);
    assert!(verify(&padded, &[0; 64], &Domain::new().policy(), NOW).is_ok());
    padded.quote[7999] = 1;
    assert_eq!(Quote::unpadded(&padded.quote).len(), 8000);
    for (bytes, part) in [
        (0, Part::Header),
        (47, Part::Header),
        (48, Part::Body),
        (631, Part::Body),
        (632, Part::Quote),
        (900, Part::Quote),
    ] {
        let error = quote(|quote| quote.truncate(bytes));
        assert_eq!(error, QuoteError::Truncated { part }, "{bytes}");
    }
    // Lengths inside: of the signature's part, of the report's, of the certificates.
    let (signature, report) = (632 + 4, 632 + 4 + 128 + 6);
    let cut = |length: u32, part| {
        let error = quote(|quote| {
            quote[632..636].copy_from_slice(&length.to_le_bytes());
            quote.truncate(636 + length as usize);
        });
        assert_eq!(error, QuoteError::Truncated { part }, "{length}");
    };
    cut(63, Part::Signature);
    cut(127, Part::Signature);
    cut(129, Part::EnclaveReport);
    cut(133, Part::EnclaveReport);
    cut(200, Part::EnclaveReport);
    let (expected, found) = (6, 5);
    let error = quote(|quote| quote[signature + 128] = 5);
    assert_eq!(error, QuoteError::Certification { expected, found });
    let place = report + 384 + 64 + 2 + 32;
    let (expected, found) = (5, 1);
    let error = quote(|quote| quote[place] = 1);
    assert_eq!(error, QuoteError::Certification { expected, found });
    let part = Part::Certificates;
    let error = quote(|quote| quote[place + 2] -= 1);
    assert_eq!(error, QuoteError::Trailing { part });
    let error = quote(|quote| quote[place + 2] += 1);
    assert_eq!(error, QuoteError::Truncated { part });
    let error = quote(|quote| quote[place + 6] = b'_');
    assert_eq!(error, QuoteError::Certificates);
    let error = quote(|quote| quote[place + 6 + 40] = b' ');
    assert_eq!(error, QuoteError::Certificates);
    for (place, part) in [
        (signature, Part::Signature),
        (report + 384, Part::EnclaveReport),
    ] {
        let error = quote(|quote| quote[place..place + 32].fill(0));
        assert_eq!(error, QuoteError::Signature { part });
    }
}

#[test]
fn every_signature_of_the_quote_counts() {
    let other = key(0x44);
    let error = fault(|domain| domain.platform_key = other);
    assert_eq!(error, TdxError::EnclaveSignature);
    assert_eq!(Refusal::from(error).class(), Class::Signature);
    let error = fault(|domain| done(domain.set_enclave(enclave::REPORT_DATA, &[1])));
    assert_eq!(error, TdxError::AttestationKey);
    let error = fault(|domain| done(domain.set_enclave(enclave::REPORT_DATA + 63, &[1])));
    assert_eq!(error, TdxError::AttestationKey);
    let body = spoilt(|evidence| evidence.quote[48 + at::MR_TD] ^= 1);
    assert_eq!(body, TdxError::Signature);
    let user_data = spoilt(|evidence| evidence.quote[30] ^= 1);
    assert_eq!(user_data, TdxError::Signature);
}

#[test]
fn the_chain_leads_to_a_root_of_the_policy() {
    let error = fault(|domain| domain.chain[2].0.subject = "Other".to_owned());
    assert_eq!(error, TdxError::Certificates { found: 3 });
    let stranger = chain(|domain| domain.chain[1].0.issuer = "Stranger".to_owned());
    assert!(matches!(stranger.1, ChainFault::UnknownRoot { .. }));
    let impostor = chain(|domain| domain.chain[1].1 = key(0x44));
    assert_eq!(impostor, (Position::Intermediate(1), ChainFault::Signature));
    let leaf = chain(|domain| domain.chain[0].1 = key(0x44));
    assert_eq!(leaf, (Position::Leaf, ChainFault::Signature));
    let other = chain(|domain| domain.chain[0].0.issuer = "Other".to_owned());
    assert!(matches!(other.1, ChainFault::Issuer { .. }));
    let none = chain(|domain| drop(domain.chain[1].0.extensions.remove(0)));
    assert_eq!(
        none,
        (Position::Intermediate(1), ChainFault::NotAnAuthority)
    );
    let ca: Known = signer::authority::AUTHORITY;
    let ca = (ca.0.to_vec(), ca.1, ca.2.to_vec());
    let authority = chain(|domain| domain.chain[0].0.extensions.push(ca));
    assert_eq!(authority, (Position::Leaf, ChainFault::Authority));
    let usage = chain(|domain| domain.chain[0].0.extensions.clear());
    assert!(matches!(usage.1, ChainFault::KeyUsage { .. }));
    let algorithm = signer::amd::PSS.to_vec();
    let algorithm = chain(|domain| {
        domain.chain[0].0.algorithms = [algorithm.clone(), algorithm];
    });
    assert!(matches!(algorithm.1, ChainFault::Algorithm { .. }));
    let short = chain(|domain| domain.chain[0].0.key.truncate(33));
    assert_eq!(short, (Position::Leaf, ChainFault::P256Key));
    // Intel's root knows nothing of this one.
    let intel = intel::policy_toml("intel").replace("'''\nintel'''", "\"intel\"");
    let error = judge(&Domain::new(), &intel::tdx_policy(&intel), NOW).unwrap_err();
    assert!(matches!(error, TdxError::Chain(_)), "{error}");
    // The root need not be shown, and its authority is checked where it is not.
    let mut domain = Domain::new();
    let root = &mut domain.chain[2].0;
    root.extensions[0].2 = vec![0x30, 6, 1, 1, 0xff, 2, 1, 0];
    let error = judge(&domain, &domain.policy(), NOW).unwrap_err();
    let TdxError::Chain(error) = error else {
        panic!("{error}")
    };
    let (allowed, found) = (0, 1);
    assert_eq!(error.fault, ChainFault::PathLength { allowed, found });
}

#[test]
fn the_key_of_the_documents_is_the_roots_own() {
    let signer = |change: fn(&mut Domain)| match fault(change) {
        TdxError::Signer(error) => error.fault,
        other => panic!("{other}"),
    };
    let missing = spoilt(|evidence| evidence.collateral.signer.clear());
    assert!(matches!(missing, TdxError::Signer(_)), "{missing}");
    let encoding = spoilt(|evidence| evidence.collateral.signer.push(0));
    assert!(matches!(encoding, TdxError::Signer(_)), "{encoding}");
    assert_eq!(
        signer(|domain| domain.signer.1 = key(0x44)),
        ChainFault::Signature
    );
    // A platform's authority cannot make one.
    let issuer = signer(|domain| {
        domain.signer.1 = domain.chain[0].1.clone();
        domain.signer.0.issuer = domain.chain[1].0.subject.clone();
    });
    assert!(matches!(issuer, ChainFault::Issuer { .. }));
    let expired = signer(|domain| domain.signer.0.validity[1] = "260101000000Z".to_owned());
    assert!(matches!(expired, ChainFault::Expired { .. }));
    // Nor can the root's other certificates be taken for one.
    let name = fault(|domain| domain.signer.0.subject = "Test PCK CA".to_owned());
    assert_eq!(name, TdxError::SignerName);
    let (at, found) = document(|domain| domain.document_key = key(0x44));
    assert_eq!((at, found), (Document::TcbInfo, DocumentFault::Signature));
}

#[test]
fn revocation_lists_are_demanded_and_must_be_sound() {
    for (place, authority) in [(0, Authority::Root), (1, Authority::Pck)] {
        let error = fault(|domain| drop(domain.lists.remove(place)));
        assert_eq!(error, TdxError::NoRevocationList { authority });
        assert_eq!(Refusal::from(error).class(), Class::Collateral);
        let error = fault(|domain| domain.lists[place].1 = key(0x44));
        let fault_found = RevocationFault::Signature;
        let fault_found = TdxError::RevocationList {
            authority,
            fault: fault_found,
        };
        assert_eq!(error, fault_found);
        let error = fault(|domain| domain.lists[place].0.until = Some("260101000000Z".to_owned()));
        let TdxError::RevocationList { fault: found, .. } = &error else {
            panic!("{error}")
        };
        assert!(matches!(found, RevocationFault::Expired { .. }));
        assert_eq!(Refusal::from(error).class(), Class::Collateral);
    }
    let error = fault(|domain| domain.lists[0].0.issuer = "Other".to_owned());
    assert_eq!(error, TdxError::StrayRevocationList);
    // Of one that cannot be read nobody can say whose it is.
    for place in 0..2 {
        let error = spoilt(|evidence| evidence.collateral.revocation_lists[place].push(0));
        let (authority, fault) = (Authority::Unknown, RevocationFault::Encoding);
        assert_eq!(error, TdxError::RevocationList { authority, fault });
    }
    let revoked = |list: usize, serial: u8| {
        fault(|domain| domain.lists[list].0.revoked.push((serial, Vec::new())))
    };
    let (position, authority) = (Position::Leaf, Authority::Pck);
    let error = TdxError::Revoked {
        position,
        authority,
    };
    assert_eq!(revoked(1, 1), error);
    let (position, authority) = (Position::Intermediate(1), Authority::Root);
    let error = TdxError::Revoked {
        position,
        authority,
    };
    assert_eq!(revoked(0, 2), error);
    assert_eq!(revoked(0, 3), TdxError::SignerRevoked);
    assert_eq!(Refusal::from(error).class(), Class::Signature);
}

#[test]
fn documents_are_signed_known_and_in_time() {
    for (place, which) in [(0, Document::TcbInfo), (1, Document::EnclaveIdentity)] {
        let error = spoilt(|evidence| {
            let collateral = &mut evidence.collateral;
            let bytes = [&mut collateral.tcb_info, &mut collateral.enclave_identity];
            bytes.into_iter().nth(place).unwrap().push(b' ');
        });
        let fault = DocumentFault::Signature;
        assert_eq!(
            error,
            TdxError::Document {
                document: which,
                fault
            }
        );
        let error = spoilt(|evidence| {
            let collateral = &mut evidence.collateral;
            let bytes = [&mut collateral.tcb_info, &mut collateral.enclave_identity];
            bytes
                .into_iter()
                .nth(place)
                .unwrap()
                .resize(MAX_DOCUMENT_BYTES + 1, b' ');
        });
        let fault = DocumentFault::TooLarge {
            found: MAX_DOCUMENT_BYTES + 1,
        };
        assert_eq!(
            error,
            TdxError::Document {
                document: which,
                fault
            }
        );
        let edited = |from: &str, to: &str| {
            let (at, found) = document(|domain| done(domain.edit(place, from, to)));
            assert_eq!(at, which);
            found
        };
        for (from, to) in [
            ("{\"id\"", "{\"more\":1,\"id\""),
            ("\"version\":", "\"versions\":"),
            ("{\"id\"", "{\"version\":3,\"id\""),
            ("T00:00:00Z\",\"nextUpdate", " 00:00:00\",\"nextUpdate"),
            ("UpToDate", "Perfect"),
            ("{\"isvsvn\":4}", "{\"isvsvn\":65536}"),
        ] {
            assert!(
                matches!(edited(from, to), DocumentFault::Json { .. }),
                "{from}"
            );
        }
        let version = if place == 0 {
            "\"version\":3"
        } else {
            "\"version\":2"
        };
        assert_eq!(edited(version, "\"version\":9"), DocumentFault::Kind);
        let id = if place == 0 { "\"TDX\"" } else { "\"TD_QE\"" };
        assert_eq!(edited(id, "\"SGX\""), DocumentFault::Kind);
        let mut least = Domain::new(); // exactly the least that the policy demands
        least.edit(place, "Number\":18", "Number\":17");
        assert!(judge(&least, &least.policy(), NOW).is_ok());
        let (minimum, found) = (17, 16);
        assert_eq!(
            edited("Number\":18", "Number\":16"),
            DocumentFault::Evaluation { minimum, found }
        );
    }
    assert_eq!(
        document(|domain| done(domain.edit(0, "\"tcbType\":0", "\"tcbType\":1"))).1,
        DocumentFault::Kind
    );
}

#[test]
fn dates_are_checked_at_the_given_time_in_everything() {
    let (domain, policy) = (Domain::new(), Domain::new().policy());
    let day = |number: u64| UnixTime::from_secs(1_793_491_200 + number * 86_400); // November
    let at = |now: UnixTime| judge(&domain, &policy, now);
    for number in [1, 29, 30] {
        assert!(at(day(number)).is_ok(), "{number}");
    }
    for (now, which) in [
        (UnixTime::from_secs(day(0).as_secs() - 1), Document::TcbInfo),
        (
            UnixTime::from_secs(day(1).as_secs() - 1),
            Document::EnclaveIdentity,
        ),
        (
            UnixTime::from_secs(day(30).as_secs() + 1),
            Document::TcbInfo,
        ),
    ] {
        let error = at(now).unwrap_err();
        let TdxError::Document { document, fault } = &error else {
            panic!("{error}")
        };
        assert_eq!(*document, which);
        assert!(matches!(
            fault,
            DocumentFault::NotYetValid { .. } | DocumentFault::Expired { .. }
        ));
        assert_eq!(Refusal::from(error).class(), Class::Collateral);
    }
    for place in 0..3 {
        let mut domain = Domain::new();
        let dates = ["261121000000Z".to_owned(), "261123000000Z".to_owned()];
        domain.chain[place].0.validity = dates;
        let policy = domain.policy();
        assert!(judge(&domain, &policy, NOW).is_ok());
        for now in [UnixTime::from_secs(NOW.as_secs() - 1), day(23)] {
            let error = judge(&domain, &policy, now).unwrap_err();
            assert_eq!(Refusal::from(error).class(), Class::Collateral, "{place}");
        }
    }
}
