//! What AMD says of the key that signed a report, and what the report says of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod common;

use attest::certificate::{ChainFault, Position};
use attest::snp::{Product, SigningKey, SnpError, TcbPart};
use attest::{Class, Refusal};
use common::{fault, judge, set};
use signer::NOW;
use signer::amd::{self, Machine, TCB, at};
use signer::authority::{self, der};

#[test]
fn what_amd_certified_is_what_the_report_says() {
    let leaf = |extensions| fault(|machine| machine.leaf.extensions = extensions);
    for missing in 0..10 {
        let mut extensions = amd::vcek("Genoa", &TCB, &amd::CHIP);
        extensions.remove(missing);
        let spare = (3..7).contains(&missing);
        if spare {
            let mut machine = Machine::new();
            machine.leaf.extensions = extensions;
            assert!(judge(&machine, &machine.policy(), NOW).is_ok(), "{missing}");
        } else {
            let error = leaf(extensions);
            assert!(
                matches!(error, SnpError::CertificateField { .. }),
                "{missing} {error}"
            );
        }
    }
    // An unused part that is there is zero, and a number at all.
    let mut garbled = amd::vcek("Genoa", &TCB, &amd::CHIP);
    garbled[4].2 = vec![4, 1, 0];
    let error = leaf(garbled);
    assert!(matches!(error, SnpError::CertificateField { .. }));
    let used = [10, 0, 0, 0, 1, 0, 23, 84];
    let error = leaf(amd::vcek("Genoa", &used, &amd::CHIP));
    assert!(matches!(error, SnpError::CertificateField { .. }));
    for (place, part) in [(0, "boot loader"), (1, "TEE"), (6, "SNP"), (7, "microcode")] {
        let mut tcb = TCB;
        tcb[place] += 1;
        let error = leaf(amd::vcek("Genoa", &tcb, &amd::CHIP));
        assert!(
            matches!(error, SnpError::CertificateTcb { .. }),
            "{part} {error}"
        );
        assert_eq!(Refusal::from(error).class(), Class::Signature);
    }
    for (name, found) in [
        ("Milan-B0", Some(Product::Milan)),
        ("Turin", Some(Product::Turin)),
        ("Venice", None),
        ("", None),
    ] {
        let expected = Product::Genoa;
        let error = leaf(amd::vcek(name, &TCB, &amd::CHIP));
        assert_eq!(error, SnpError::CertificateProduct { expected, found });
    }
    for name in ["Genoa-B1", "Bergamo-A0", "Siena"] {
        let mut machine = Machine::new();
        machine.leaf.extensions = amd::vcek(name, &TCB, &amd::CHIP);
        assert!(judge(&machine, &machine.policy(), NOW).is_ok(), "{name}");
    }
    let mut chip = amd::CHIP;
    chip[63] ^= 1;
    let error = leaf(amd::vcek("Genoa", &TCB, &chip));
    assert!(matches!(error, SnpError::Chip { .. }));
    let error = leaf(amd::vcek("Genoa", &TCB, &chip[..8])); // eight bytes, and the rest is not zero
    assert!(matches!(error, SnpError::Chip { .. }));
    let error = leaf(amd::vcek("Genoa", &TCB, &chip[..63]));
    assert!(matches!(error, SnpError::CertificateField { .. }));
    let mut like_der = amd::CHIP; // bare, and begins as DER would
    like_der[..2].copy_from_slice(&[4, 64]);
    let mut machine = Machine::new();
    machine.set(at::CHIP_ID, &like_der);
    machine.leaf.extensions = amd::vcek("Genoa", &TCB, &like_der);
    assert!(judge(&machine, &machine.policy(), NOW).is_ok());
    let wrapped = der(4, &[&amd::CHIP]);
    let mut machine = Machine::new();
    machine.leaf.extensions = amd::vcek("Genoa", &TCB, &wrapped);
    assert!(judge(&machine, &machine.policy(), NOW).is_ok());
    for (family, model) in [(0x19, 0x01), (0x1a, 0x02), (0x1a, 0x50), (0x17, 0x31)] {
        let expected = Product::Genoa;
        let error = set(at::CPUID, &[family, model]);
        assert_eq!(
            error,
            SnpError::Processor {
                expected,
                family,
                model
            }
        );
    }
}

/// As with AMD's own, which say nothing of what the key is for; what is said must fit.
#[test]
fn the_key_of_a_report_is_for_signatures_and_no_authority() {
    let with = |extension: authority::Extension| {
        let mut machine = Machine::new();
        machine.leaf.extensions.push(extension);
        judge(&machine, &machine.policy(), NOW).map(drop)
    };
    let refused = |extension| match with(extension).unwrap_err() {
        SnpError::Chain(error) => (error.position, error.fault),
        other => panic!("{other}"),
    };
    let usage = |bits: u8| (vec![0x55, 0x1d, 0x0f], true, vec![3, 2, 0, bits]);
    assert_eq!(with(usage(0x80)), Ok(()));
    let needed = "digitalSignature";
    let fault = ChainFault::KeyUsage { needed };
    assert_eq!(refused(usage(0x04)), (Position::Leaf, fault));
    let authority = |value: &[u8]| (vec![0x55, 0x1d, 0x13], true, value.to_vec());
    assert_eq!(with(authority(&[0x30, 0])), Ok(()));
    let fault = ChainFault::Authority;
    let is_one = authority(&[0x30, 3, 1, 1, 0xff]);
    assert_eq!(refused(is_one), (Position::Leaf, fault));
}

#[test]
fn a_clouds_key_is_taken_only_if_the_policy_names_it() {
    let mut machine = Machine::new();
    let mut extensions = amd::vcek("Genoa", &TCB, &amd::CHIP);
    extensions[9] = amd::amd(&[5], &der(0x16, &[b"CN=cloud.example.org"]));
    machine.leaf.extensions = extensions.clone();
    let (report, certificate) = (SigningKey::Vcek, SigningKey::Vlek);
    let mut policy = machine.policy();
    let error = judge(&machine, &policy, NOW).unwrap_err();
    assert_eq!(
        error,
        SnpError::KeyKind {
            report,
            certificate
        }
    );
    machine.set(at::FLAGS, &[4]);
    let error = judge(&machine, &policy, NOW).unwrap_err();
    assert_eq!(
        error,
        SnpError::SigningKey {
            found: SigningKey::Vlek
        }
    );
    assert_eq!(Refusal::from(error).class(), Class::Policy);
    policy.signing_keys.push(SigningKey::Vlek);
    let verified = judge(&machine, &policy, NOW).unwrap();
    let mut claims = verified.claims().iter();
    let claim = claims.find(|claim| claim.what == "signing key").unwrap();
    assert_eq!(claim.found, "CN=cloud.example.org");
    let any = "VLEK of any cloud (not pinned by the policy)";
    assert_eq!(claim.expected, any);
    // A certificate of a chip and of a cloud at once is one of neither.
    machine.leaf.extensions.push(amd::amd(&[4], &amd::CHIP));
    let error = judge(&machine, &policy, NOW).unwrap_err();
    assert!(matches!(error, SnpError::CertificateField { .. }));
    let (report, certificate) = (SigningKey::Vlek, SigningKey::Vcek);
    assert_eq!(
        set(at::FLAGS, &[4]),
        SnpError::KeyKind {
            report,
            certificate
        }
    );
}

#[test]
fn turin_lays_its_tcb_out_otherwise_and_has_short_chip_ids() {
    let mut machine = Machine::new();
    let tcb = [1, 10, 0, 23, 0, 0, 0, 84];
    let mut extensions = amd::vcek("Turin", &TCB, &amd::CHIP[..8]);
    extensions.push(amd::amd(&[3, 9], &amd::integer(1)));
    machine.leaf.extensions = extensions;
    machine
        .set(at::CPUID, &[0x1a, 0x02, 1])
        .set(at::CHIP_ID + 8, &[0; 56]);
    for at in [
        at::CURRENT_TCB,
        at::REPORTED_TCB,
        at::COMMITTED_TCB,
        at::LAUNCH_TCB,
    ] {
        machine.set(at, &tcb);
    }
    let tables = machine
        .policy_toml()
        .replace("\"genoa\"", "\"turin\"")
        .replace("fmc = 0", "fmc = 1");
    let policy = amd::snp_policy(&tables);
    assert!(judge(&machine, &policy, NOW).is_ok());
    // The chip's id stands there bare or as DER; one that begins as DER would is bare all the same.
    let like_der = [4, 8, 1, 2, 3, 4, 5, 6];
    for (id, written) in [
        (amd::CHIP[..8].to_vec(), der(4, &[&amd::CHIP[..8]])),
        (like_der.to_vec(), like_der.to_vec()),
    ] {
        let mut machine = machine.clone();
        machine.set(at::CHIP_ID, &id);
        machine.leaf.extensions[9] = amd::amd(&[4], &written);
        assert!(judge(&machine, &policy, NOW).is_ok(), "{written:?}");
    }
    machine.leaf.extensions.pop();
    let error = judge(&machine, &policy, NOW).unwrap_err();
    assert!(matches!(error, SnpError::CertificateField { .. }));
    let policy = amd::snp_policy(&tables.replace("fmc = 1", "fmc = 2"));
    machine
        .leaf
        .extensions
        .push(amd::amd(&[3, 9], &amd::integer(1)));
    let error = judge(&machine, &policy, NOW).unwrap_err();
    assert!(matches!(
        error,
        SnpError::Tcb {
            part: TcbPart::Fmc,
            minimum: 2,
            found: 1,
            ..
        }
    ));
}
