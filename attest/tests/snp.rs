//! Every way in which evidence of SEV-SNP can be wrong, on a machine that is signed at run time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod common;

use attest::certificate::{ChainFault, Position};
use attest::crl::RevocationFault;
use attest::policy::{Demand, SnpPolicy};
use attest::snp::{Product, Report, ReportError, SigningKey, SnpError, verify};
use attest::{Class, Digest, Refusal, UnixTime};
use common::{fault, judge, set};
use p384::ecdsa::SigningKey as Key;
use signer::NOW;
use signer::amd::{self, Machine, at};
use signer::authority::{Known, der};

fn report(at: usize, bytes: &[u8]) -> ReportError {
    match set(at, bytes) {
        SnpError::Report(error) => error,
        other => panic!("{other}"),
    }
}

fn chain(change: impl FnOnce(&mut Machine)) -> (Position, ChainFault) {
    match fault(change) {
        SnpError::Chain(error) => (error.position, error.fault),
        other => panic!("{other}"),
    }
}

fn list(change: impl FnOnce(&mut Machine)) -> RevocationFault {
    match fault(change) {
        SnpError::RevocationList(fault) => fault,
        other => panic!("{other}"),
    }
}

#[test]
fn a_sound_machine_is_believed_and_every_check_is_shown() {
    let machine = Machine::new();
    let verified = judge(&machine, &machine.policy(), NOW).unwrap();
    assert_eq!(verified.report().measurement, Digest(amd::MEASUREMENT));
    assert_eq!(verified.report().signing_key, SigningKey::Vcek);
    assert!(verified.root().starts_with("CN=Test ARK (sha256:"));
    for what in [
        "revocation",
        "product",
        "signing key",
        "binding",
        "launch digest",
        "host data",
        "chip id",
        "reported TCB",
        "committed TCB",
        "launch TCB",
        "committed firmware",
        "guest policy: debugging",
        "guest policy: migration agent allowed",
        "VMPL",
        "guest SVN",
        "platform: memory alias check complete",
        "mitigations now",
    ] {
        let mut claims = verified.claims().iter();
        assert!(claims.any(|claim| claim.what == what), "{what}");
    }
    let mut claims = verified.claims().iter();
    assert!(claims.all(|claim| claim.rests_on.contains("Test ARK")));
}

#[test]
fn reports_of_versions_2_to_5_are_read_and_no_others() {
    let mut machine = Machine::new();
    let mut policy = machine.policy();
    policy.mitigations = 0;
    machine.set(at::LAUNCH_MITIGATIONS, &[0; 16]);
    for version in [4, 3] {
        machine.set(at::VERSION, &[version]);
        let verified = judge(&machine, &policy, NOW).unwrap();
        let claim = verified.claims().last().unwrap();
        let found = format!("not in a report of version {version}");
        assert_eq!(
            (claim.what.as_str(), &claim.found),
            ("mitigations now", &found)
        );
    }
    machine.set(at::VERSION, &[2]).set(at::CPUID, &[0; 3]);
    assert!(judge(&machine, &policy, NOW).is_ok());
    for found in [0, 1, 6, 255] {
        assert_eq!(
            report(at::VERSION, &[found]),
            ReportError::Version {
                found: found.into()
            }
        );
    }
}

#[test]
fn a_report_has_one_layout() {
    for found in [0, 1183, 1185] {
        assert_eq!(
            Report::parse(&vec![2; found]),
            Err(ReportError::Length { found })
        );
    }
    assert_eq!(
        report(at::ALGORITHM, &[2]),
        ReportError::Algorithm { found: 2 }
    );
    assert_eq!(
        report(at::FLAGS, &[0b1000]),
        ReportError::SigningKey { found: 2 }
    );
    assert_eq!(
        report(at::FLAGS, &[0b11100]),
        ReportError::SigningKey { found: 7 }
    );
    assert_eq!(report(at::FLAGS, &[0b10]), ReportError::MaskedKey);
    assert_eq!(
        report(at::FLAGS, &[0x20]),
        ReportError::Reserved { offset: 0x48 }
    );
    let offset = |at| ReportError::Reserved { offset: at };
    assert_eq!(report(0x4f, &[1]), offset(0x4c));
    assert_eq!(report(0x18b, &[1]), offset(0x18b));
    assert_eq!(report(0x19f, &[1]), offset(0x18b));
    assert_eq!(report(0x1eb, &[1]), offset(0x1eb));
    assert_eq!(report(0x1ef, &[1]), offset(0x1ef));
    assert_eq!(report(0x208, &[1]), offset(0x208));
    assert_eq!(report(0x29f, &[1]), offset(0x208));
    assert_eq!(report(at::VERSION, &[4]), offset(0x1f8)); // mitigations, before there were any
    let mut machine = Machine::new();
    machine
        .set(at::LAUNCH_MITIGATIONS, &[0; 16])
        .set(at::VERSION, &[2]);
    let error = Report::parse(&machine.signed_report());
    assert_eq!(error, Err(offset(0x188))); // CPUID, before it was there
    let bits = ReportError::GuestPolicy {
        found: 0x07d2_0102 | 1 << 16,
    };
    assert!(
        matches!(
            report(at::POLICY + 3, &[7]),
            ReportError::GuestPolicy { .. }
        ),
        "{bits}"
    );
    assert!(matches!(
        report(at::POLICY + 7, &[1]),
        ReportError::GuestPolicy { .. }
    ));
    assert!(matches!(
        report(at::POLICY + 2, &[0]),
        ReportError::GuestPolicy { .. }
    ));
    assert_eq!(
        report(at::PLATFORM_INFO, &[0x40]),
        ReportError::PlatformInfo { found: 0x40 }
    );
    assert!(matches!(
        report(at::PLATFORM_INFO + 7, &[1]),
        ReportError::PlatformInfo { .. }
    ));
}

/// Bytes behind the signed part that nobody signs have one value only.
#[test]
fn the_signature_has_one_encoding() {
    let genuine = Machine::new().evidence();
    for place in (0x2a0 + 48..0x2e8).chain(0x2e8 + 48..1184) {
        let mut report = genuine.report.clone();
        report[place] = 1;
        let error = Report::parse(&report).unwrap_err();
        assert!(matches!(error, ReportError::Reserved { .. }), "{place}");
    }
    let policy = Machine::new().policy();
    let mut evidence = genuine.clone();
    evidence.report[0x2a0..0x2d0].fill(0);
    let error = verify(&evidence, &[0; 64], &policy, NOW).unwrap_err();
    assert_eq!(error, SnpError::Report(ReportError::Signature));
    let mut evidence = genuine;
    evidence.report[0x2a0] ^= 1;
    let error = verify(&evidence, &[0; 64], &policy, NOW).unwrap_err();
    assert_eq!(error, SnpError::Signature);
    assert_eq!(Refusal::from(error).class(), Class::Signature);
}

#[test]
fn the_chain_has_two_certificates_below_a_root_of_the_policy() {
    let (machine, policy) = (Machine::new(), Machine::new().policy());
    let mut evidence = machine.evidence();
    evidence.certificates.pop();
    let error = verify(&evidence, &[0; 64], &policy, NOW).unwrap_err();
    assert_eq!(error, SnpError::Certificates { found: 1 });
    for place in 0..2 {
        let mut evidence = machine.evidence();
        evidence.certificates[place].push(0);
        let error = verify(&evidence, &[0; 64], &policy, NOW).unwrap_err();
        assert!(matches!(error, SnpError::Chain(_)), "{error}");
    }

    let stranger = chain(|machine| machine.intermediate.issuer = "Stranger".to_owned());
    assert!(matches!(stranger.1, ChainFault::UnknownRoot { .. }));
    let impostor = chain(|machine| machine.ark = machine.ask.clone());
    assert_eq!(impostor, (Position::Intermediate(1), ChainFault::Signature));
    let leaf = chain(|machine| machine.ask = machine.ark.clone());
    assert_eq!(leaf, (Position::Leaf, ChainFault::Signature));
    let other = chain(|machine| machine.leaf.issuer = "Other".to_owned());
    assert!(matches!(other.1, ChainFault::Issuer { .. }));
    let (position, fault) = chain(|machine| drop(machine.intermediate.extensions.remove(0)));
    assert_eq!(
        (position, fault),
        (Position::Intermediate(1), ChainFault::NotAnAuthority)
    );
    let ca: Known = signer::authority::AUTHORITY;
    let ca = (ca.0.to_vec(), ca.1, ca.2.to_vec());
    assert_eq!(
        chain(|machine| machine.leaf.extensions.push(ca)).1,
        ChainFault::Authority
    );
    let usage = (vec![0x55, 0x1d, 0x0f], true, vec![3, 2, 2, 4]);
    let found = chain(|machine| machine.leaf.extensions.push(usage)).1;
    assert!(matches!(found, ChainFault::KeyUsage { .. }));
    let unknown = (vec![0x55, 0x1d, 0x1e], true, vec![0x30, 0]);
    let found = chain(|machine| machine.leaf.extensions.push(unknown)).1;
    assert!(matches!(found, ChainFault::CriticalExtension { .. }));
    assert_eq!(
        chain(|machine| machine.leaf.key.truncate(49)).1,
        ChainFault::Key
    );
}

#[test]
fn the_root_is_an_authority_for_a_chain_of_this_length() {
    let root = |change: fn(&mut Machine)| {
        let mut machine = Machine::new();
        change(&mut machine);
        match judge(&machine, &machine.policy(), NOW) {
            Err(SnpError::Chain(error)) => (error.position, error.fault),
            other => panic!("{other:?}"),
        }
    };
    let none = root(|machine| drop(machine.root.extensions.remove(0)));
    assert_eq!(none, (Position::Root, ChainFault::NotAnAuthority));
    let short = root(|machine| machine.root.extensions[0].2 = vec![0x30, 6, 1, 1, 0xff, 2, 1, 0]);
    let (allowed, found) = (0, 1);
    assert_eq!(
        short,
        (Position::Root, ChainFault::PathLength { allowed, found })
    );
}

/// The root that the policy names for a product is the only one for it.
#[test]
fn a_key_that_amd_did_not_certify_is_refused_by_amds_roots() {
    for product in ["milan", "genoa", "turin"] {
        let policy =
            amd::snp_policy(&amd::policy_toml(product, "amd").replace("'''\namd'''", "\"amd\""));
        let error = judge(&Machine::new(), &policy, NOW).unwrap_err();
        let SnpError::Chain(error) = error else {
            panic!("{error}")
        };
        assert!(
            matches!(error.fault, ChainFault::UnknownRoot { .. }),
            "{product}"
        );
    }
}

/// Hash, mask and salt are fixed, in the certificate as in the signature.
#[test]
fn signature_parameters_are_fixed() {
    let changed = |place: usize, value: u8| {
        let mut algorithm = amd::PSS.to_vec();
        algorithm[place] = value;
        algorithm
    };
    let sha256 = (29, 1);
    let mask_sha256 = (59, 1);
    let salt_32 = (66, 32);
    for (place, value) in [sha256, mask_sha256, salt_32, (12, 11)] {
        let algorithm = changed(place, value);
        let (_, fault) = chain(|machine| {
            machine.leaf.algorithms = [algorithm.clone(), algorithm.clone()];
        });
        assert!(
            matches!(fault, ChainFault::Algorithm { .. }),
            "{place} {fault}"
        );
        let (_, fault) = chain(|machine| machine.leaf.algorithms[1] = algorithm);
        assert!(
            matches!(fault, ChainFault::Algorithm { .. }),
            "{place} {fault}"
        );
    }
    let bare = vec![0x30, 11, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 10];
    let (_, fault) = chain(|machine| machine.leaf.algorithms = [bare.clone(), bare]);
    assert!(matches!(fault, ChainFault::Algorithm { .. }));
    // As AMD's own certificates have it: the trailer field with its default.
    let mut trailer = amd::PSS.to_vec();
    (trailer[1], trailer[14]) = (0x46, 57);
    trailer.extend([0xa3, 3, 2, 1, 1]);
    let mut machine = Machine::new();
    machine.leaf.algorithms = [trailer.clone(), trailer];
    assert!(judge(&machine, &machine.policy(), NOW).is_ok());

    let short = der(0x30, &[&der(2, &[&[0], &[0xaa; 256]]), &[2, 3, 1, 0, 1]]);
    let (position, fault) = chain(|machine| machine.intermediate.key = short);
    assert_eq!((position, fault), (Position::Leaf, ChainFault::RsaKey));
}

#[test]
fn dates_are_checked_at_the_given_time_in_the_whole_chain() {
    let at = |day: u64| UnixTime::from_secs(NOW.as_secs() + day * 86_400);
    let dates = |from: &str, until: &str| [from.to_owned(), until.to_owned()];
    let policy = |machine: &Machine| machine.policy();
    for part in 0..3 {
        let mut machine = Machine::new();
        let certificate = match part {
            0 => &mut machine.leaf,
            1 => &mut machine.intermediate,
            _ => &mut machine.root,
        };
        certificate.validity = dates("261121000000Z", "261123000000Z");
        let policy = policy(&machine);
        for day in [0, 1, 2] {
            assert!(judge(&machine, &policy, at(day)).is_ok(), "{part} {day}");
        }
        let error = judge(&machine, &policy, at(3)).unwrap_err();
        assert!(
            error.to_string().contains("expired at 2026-11-23"),
            "{error}"
        );
        assert_eq!(Refusal::from(error).class(), Class::Collateral);
        let error = judge(&machine, &policy, UnixTime::from_secs(NOW.as_secs() - 1)).unwrap_err();
        assert!(
            error.to_string().contains("not valid before 2026-11-21"),
            "{error}"
        );
    }
}

#[test]
fn revocation_lists_are_demanded_and_must_be_sound() {
    let (machine, mut policy) = (Machine::new(), Machine::new().policy());
    let mut evidence = machine.evidence();
    evidence.revocation_lists.clear();
    let without = |policy: &SnpPolicy| verify(&evidence, &[0; 64], policy, NOW);
    let error = without(&policy).unwrap_err();
    assert_eq!(
        error,
        SnpError::NoRevocationList {
            product: Product::Genoa
        }
    );
    assert_eq!(Refusal::from(error).class(), Class::Collateral);
    policy.revocation_lists = Demand::NotRequired;
    let verified = without(&policy).unwrap();
    let claim = &verified.claims()[0];
    assert_eq!(claim.expected, "not required (relaxed by the policy)");
    assert_eq!(claim.found, "none");

    let error = fault(|machine| machine.list.issuer = "Other".to_owned());
    assert!(matches!(error, SnpError::NoRevocationList { .. }));
    let revoked = fault(|machine| machine.list.revoked.push((7, Vec::new())));
    let position = Position::Intermediate(1);
    assert_eq!(revoked, SnpError::Revoked { position, list: 5 });
    assert_eq!(Refusal::from(revoked).class(), Class::Signature);
    // What is there counts, also where nothing is demanded.
    let mut revoking = Machine::new();
    revoking.list.revoked.push((7, Vec::new()));
    assert!(matches!(
        judge(&revoking, &policy, NOW),
        Err(SnpError::Revoked { .. })
    ));

    assert_eq!(
        list(|machine| machine.list.version = 0),
        RevocationFault::Encoding
    );
    let signer = |machine: &mut Machine| machine.list_signer = machine.ask.clone();
    assert_eq!(list(signer), RevocationFault::Signature);
    let sha256 = |machine: &mut Machine| machine.list.algorithms[0][29] = 1;
    assert_eq!(list(sha256), RevocationFault::Signature);
    let number = |machine: &mut Machine| machine.list.extensions[0].2[2] = 3;
    assert_eq!(
        list(number),
        RevocationFault::Stale {
            minimum: 4,
            found: 3
        }
    );
    let mut least = Machine::new(); // exactly the least that the policy demands
    least.list.extensions[0].2[2] = 4;
    assert!(judge(&least, &least.policy(), NOW).is_ok());
    let none = |machine: &mut Machine| machine.list.extensions[0].0[2] = 0x23;
    assert_eq!(list(none), RevocationFault::Number);
    let endless = |machine: &mut Machine| machine.list.until = None;
    assert_eq!(list(endless), RevocationFault::NoNextUpdate);
    let unknown = (vec![0x55, 0x1d, 0x21], true, vec![0x30, 0]);
    let critical = list(|machine| machine.list.extensions.push(unknown.clone()));
    assert!(matches!(
        critical,
        RevocationFault::CriticalExtension { .. }
    ));
    let entry = list(|machine| machine.list.revoked[0].1.push(unknown));
    assert!(matches!(entry, RevocationFault::CriticalExtension { .. }));
    let past = list(|machine| machine.list.until = Some("261120000000Z".to_owned()));
    assert!(matches!(past, RevocationFault::Expired { .. }));
    assert_eq!(
        Refusal::from(SnpError::from(past)).class(),
        Class::Collateral
    );
    let future = list(|machine| machine.list.from = "261122000000Z".to_owned());
    assert!(matches!(future, RevocationFault::NotYetValid { .. }));

    let mut machine = Machine::new(); // for this one second
    machine.list.from = "261121000000Z".to_owned();
    machine.list.until = Some(machine.list.from.clone());
    assert!(judge(&machine, &machine.policy(), NOW).is_ok());

    let mut machine = Machine::new();
    machine.root.extensions[1].2 = vec![3, 2, 2, 4]; // keyCertSign alone
    let error = judge(&machine, &machine.policy(), NOW).unwrap_err();
    assert_eq!(error, SnpError::RevocationList(RevocationFault::KeyUsage));
}

/// The machine's own report by another key, and by a key of another machine.
#[test]
fn a_report_by_another_key_is_refused() {
    let other = |machine: &mut Machine| machine.key = Key::from_slice(&[0x42; 48]).unwrap();
    assert_eq!(fault(other), SnpError::Signature);
}
