//! What a policy demands of a machine with SEV-SNP, each demand met and not met.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

mod common;

use attest::crl::RevocationFault;
use attest::policy::{Demand, Pin, SnpPolicy, Tolerance};
use attest::snp::{SnpError, SnpField, SnpSetting, Tcb, TcbPart, verify};
use attest::{Class, Digest, Refusal};
use common::{Verdict, fault, judge, set};
use signer::NOW;
use signer::amd::{self, Machine, TCB, at};
use signer::authority::der;

/// The verdict on a sound machine under a policy after `change`.
fn under(change: impl FnOnce(&mut SnpPolicy)) -> Verdict {
    let machine = Machine::new();
    let mut policy = machine.policy();
    change(&mut policy);
    judge(&machine, &policy, NOW)
}

#[test]
fn report_data_is_what_was_asked_for() {
    let machine = Machine::new();
    let error = verify(&machine.evidence(), &[1; 64], &machine.policy(), NOW).unwrap_err();
    let (expected, found) = (Digest([1; 64]).into(), Digest([0; 64]).into());
    assert_eq!(error, SnpError::ReportData { expected, found });
    assert!(Refusal::from(error).hint().contains("another connection"));
}

#[test]
fn every_pinned_field_is_compared() {
    fn other<const N: usize>() -> Pin<N> {
        Pin::OneOf(vec![Digest([0x77; N]), Digest([0x78; N])])
    }
    let pinned = |expected: SnpField, change: fn(&mut SnpPolicy)| {
        let error = under(change).unwrap_err();
        let SnpError::Pinned { field, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(field, expected);
    };
    pinned(SnpField::LaunchDigest, |policy| {
        policy.launch_digests = other()
    });
    pinned(SnpField::HostData, |policy| policy.host_data = other());
    pinned(SnpField::FamilyId, |policy| policy.family_ids = other());
    pinned(SnpField::ImageId, |policy| policy.image_ids = other());
    pinned(SnpField::IdKeyDigest, |policy| {
        policy.id_key_digests = other()
    });
    pinned(SnpField::AuthorKeyDigest, |policy| {
        policy.author_key_digests = other()
    });
    pinned(SnpField::ChipId, |policy| policy.chip_ids = other());
    let sound = under(|policy| {
        policy.chip_ids = Pin::OneOf(vec![Digest([0; 64]), Digest(amd::CHIP)]);
        policy.host_data = Pin::OneOf(vec![Digest([0xda; 32])]);
    });
    assert!(sound.is_ok());
}

#[test]
fn tcbs_are_in_order_and_above_the_minimum_part_by_part() {
    for at in [
        at::REPORTED_TCB,
        at::COMMITTED_TCB,
        at::CURRENT_TCB,
        at::LAUNCH_TCB,
    ] {
        for place in 2..6 {
            let mut tcb = TCB;
            tcb[place] = 1;
            assert!(
                matches!(set(at, &tcb), SnpError::TcbEncoding { .. }),
                "{at} {place}"
            );
        }
    }
    for (place, part) in [
        (0, TcbPart::BootLoader),
        (1, TcbPart::Tee),
        (6, TcbPart::Snp),
        (7, TcbPart::Microcode),
    ] {
        let mut more = TCB;
        more[place] += 1;
        let order = |error, lower, upper| match error {
            SnpError::TcbOrder {
                lower: l,
                upper: u,
                part: p,
                limit,
                found,
            } => {
                assert_eq!((l, u, p), (lower, upper, part));
                assert_eq!((found, limit), (more[place], TCB[place]));
            }
            other => panic!("{other}"),
        };
        let reported = fault(|machine| {
            machine.set(at::REPORTED_TCB, &more);
            machine.leaf.extensions = amd::vcek("Genoa", &more, &amd::CHIP);
        });
        order(reported, Tcb::Reported, Tcb::Committed);
        order(set(at::COMMITTED_TCB, &more), Tcb::Committed, Tcb::Current);
        let launch = fault(|machine| {
            machine
                .set(at::COMMITTED_TCB, &more)
                .set(at::CURRENT_TCB, &more);
        });
        assert!(
            Refusal::from(launch.clone())
                .hint()
                .contains("start the guest again")
        );
        order(launch, Tcb::Committed, Tcb::Launch);

        let minimum = |change: fn(&mut attest::snp::TcbVersion)| {
            under(|policy| change(&mut policy.products[0].minimum_tcb)).unwrap_err()
        };
        let error = match part {
            TcbPart::BootLoader => minimum(|tcb| tcb.boot_loader = 11),
            TcbPart::Tee => minimum(|tcb| tcb.tee = 1),
            TcbPart::Snp => minimum(|tcb| tcb.snp = 24),
            _ => minimum(|tcb| tcb.microcode = 85),
        };
        let SnpError::Tcb {
            tcb, part: found, ..
        } = error
        else {
            panic!("{error}")
        };
        assert_eq!((tcb, found), (Tcb::Reported, part));
    }
    let mut machine = Machine::new();
    let mut policy = machine.policy();
    policy.update_after_launch = Tolerance::Accepted;
    let mut more = TCB;
    more[7] += 1;
    machine
        .set(at::COMMITTED_TCB, &more)
        .set(at::CURRENT_TCB, &more);
    assert!(judge(&machine, &policy, NOW).is_ok());
    // A guest that was launched on what the policy does not accept stays refused.
    let mut less = TCB;
    less[7] = 79;
    machine.set(at::LAUNCH_TCB, &less);
    let error = judge(&machine, &policy, NOW).unwrap_err();
    assert!(matches!(
        error,
        SnpError::Tcb {
            tcb: Tcb::Launch,
            minimum: 80,
            found: 79,
            ..
        }
    ));
    // More at launch than is committed now is no fault.
    let mut machine = Machine::new();
    machine
        .set(at::LAUNCH_TCB, &more)
        .set(at::CURRENT_TCB, &more);
    assert!(judge(&machine, &machine.policy(), NOW).is_ok());
}

#[test]
fn firmware_mitigations_and_guest_are_above_their_minimums() {
    let error = set(at::COMMITTED_FIRMWARE, &[41]);
    assert!(matches!(error, SnpError::FirmwareOrder { .. }));
    let error = set(at::COMMITTED_FIRMWARE, &[19]);
    assert_eq!(
        error.to_string(),
        "committed firmware: at least 1.55.20 expected, found 1.55.19"
    );
    assert!(matches!(error, SnpError::Firmware { .. }));
    let error = set(at::COMMITTED_FIRMWARE, &[99, 54]);
    assert!(matches!(error, SnpError::Firmware { .. }));
    let mut machine = Machine::new();
    machine.set(at::COMMITTED_FIRMWARE, &[20]); // exactly the least
    assert!(judge(&machine, &machine.policy(), NOW).is_ok());
    for at in [at::LAUNCH_MITIGATIONS, at::CURRENT_MITIGATIONS] {
        assert!(matches!(
            set(at, &[5]),
            SnpError::Mitigations {
                expected: 2,
                found: 5,
                ..
            }
        ));
    }
    assert_eq!(
        set(at::GUEST_SVN, &[2]),
        SnpError::GuestSvn {
            minimum: 3,
            found: 2
        }
    );
    assert_eq!(set(at::VMPL, &[1]), SnpError::Vmpl { found: 1 });
    assert!(under(|policy| policy.vmpls = vec![3, 0]).is_ok());
    let error = set(at::POLICY, &[1, 1]);
    assert_eq!(
        error.to_string(),
        "guest policy: at least interface 1.2 expected, found 1.1"
    );
    assert!(matches!(error, SnpError::GuestAbi { .. }));
}

/// Relaxes one demand.
type Relax = fn(&mut SnpPolicy);

/// Each bit is flipped on a machine where everything is right, and refused unless relaxed.
#[test]
fn settings_are_as_the_policy_demands() {
    let sound = Machine::new();
    let read = |at: usize, bit: usize| sound.report[at + bit / 8] ^ 1 << (bit % 8);
    let bits: [(usize, usize, SnpSetting, Relax); 15] = [
        (at::POLICY, 16, SnpSetting::GuestSmt, |p| {
            p.guest.smt = Tolerance::Accepted
        }),
        (at::POLICY, 18, SnpSetting::GuestMigrationAgent, |p| {
            p.guest.migration_agent = Tolerance::Accepted;
        }),
        (at::POLICY, 20, SnpSetting::GuestSingleSocket, |p| {
            p.guest.single_socket = Demand::NotRequired;
        }),
        (at::POLICY, 21, SnpSetting::GuestCxl, |p| {
            p.guest.cxl = Tolerance::Accepted
        }),
        (at::POLICY, 22, SnpSetting::GuestAes256Xts, |p| {
            p.guest.memory_aes_256_xts = Demand::NotRequired;
        }),
        (at::POLICY, 23, SnpSetting::GuestRaplDisabled, |p| {
            p.guest.rapl_disabled = Demand::NotRequired;
        }),
        (at::POLICY, 24, SnpSetting::GuestCiphertextHiding, |p| {
            p.guest.ciphertext_hiding = Demand::NotRequired;
        }),
        (at::POLICY, 25, SnpSetting::GuestPageSwapDisabled, |p| {
            p.guest.page_swap_disabled = Demand::NotRequired;
        }),
        (at::PLATFORM_INFO, 0, SnpSetting::PlatformSmt, |p| {
            p.platform.smt = Tolerance::Accepted;
        }),
        (at::PLATFORM_INFO, 1, SnpSetting::PlatformTsme, |p| {
            p.platform.tsme = Demand::NotRequired;
        }),
        (at::PLATFORM_INFO, 2, SnpSetting::PlatformEcc, |p| {
            p.platform.ecc = Demand::NotRequired
        }),
        (
            at::PLATFORM_INFO,
            3,
            SnpSetting::PlatformRaplDisabled,
            |p| {
                p.platform.rapl_disabled = Demand::NotRequired;
            },
        ),
        (
            at::PLATFORM_INFO,
            4,
            SnpSetting::PlatformCiphertextHiding,
            |p| {
                p.platform.ciphertext_hiding = Demand::NotRequired;
            },
        ),
        (at::PLATFORM_INFO, 5, SnpSetting::PlatformAliasCheck, |p| {
            p.platform.alias_check = Demand::NotRequired;
        }),
        (at::PLATFORM_INFO, 7, SnpSetting::PlatformTio, |p| {
            p.platform.tio = Tolerance::Accepted
        }),
    ];
    for (at, bit, expected, relax) in bits {
        let mut machine = Machine::new();
        machine.set(at + bit / 8, &[read(at, bit)]);
        let mut policy = machine.policy();
        let error = judge(&machine, &policy, NOW).unwrap_err();
        let SnpError::Setting { setting, .. } = error.clone() else {
            panic!("{error}")
        };
        assert_eq!(setting, expected);
        assert_eq!(Refusal::from(error).class(), Class::Policy);
        relax(&mut policy);
        let verified = judge(&machine, &policy, NOW).unwrap();
        let mut claims = verified.claims().iter();
        let claim = claims
            .find(|claim| claim.what == setting.to_string())
            .unwrap();
        assert!(claim.expected.contains("by the policy"), "{claim:?}");
    }
    let debug = set(at::POLICY + 2, &[read(at::POLICY, 19)]);
    assert_eq!(debug, SnpError::Debug);
}

/// Every cloud has such keys: which one answers is what the policy names.
#[test]
fn the_key_of_another_cloud_is_refused() {
    let mut machine = Machine::new();
    machine.leaf.extensions = amd::vcek("Genoa", &TCB, &amd::CHIP);
    machine.leaf.extensions[9] = amd::amd(&[5], &der(0x16, &[b"CN=cloud.example.org"]));
    machine.set(at::FLAGS, &[4]);
    let under = |keys: &str| {
        let tables = machine.policy_toml();
        let policy = amd::snp_policy(&tables.replace("[\"vcek\"]", keys));
        judge(&machine, &policy, NOW)
    };
    let verified = under("[\"vlek:CN=other\", \"vlek:CN=cloud.example.org\"]").unwrap();
    let mut claims = verified.claims().iter();
    let claim = claims.find(|claim| claim.what == "signing key").unwrap();
    assert_eq!(claim.expected, "VLEK of CN=other or CN=cloud.example.org");
    for keys in [
        "[\"vlek:CN=other\"]",
        "[\"vcek\", \"vlek:CN=cloud.example.or\"]",
    ] {
        let error = under(keys).unwrap_err();
        let found = "CN=cloud.example.org".parse().unwrap();
        assert_eq!(error, SnpError::Cloud { found });
        assert_eq!(Refusal::from(error).class(), Class::Policy);
    }
    assert!(under("[\"vlek:CN=other\", \"vlek\"]").is_ok());
    // A name that could deceive who reads it is none.
    machine.leaf.extensions[9] = amd::amd(&[5], &der(0x16, &[b"CN=cloud\x1b[2J"]));
    let error = judge(&machine, &machine.policy(), NOW).unwrap_err();
    assert!(
        matches!(error, SnpError::CertificateField { .. }),
        "{error}"
    );
}

/// A list that holds a part only is none, marked as critical or not; and which number counts is not
/// left to the order of extensions.
#[test]
fn a_revocation_list_is_whole_and_says_everything_once() {
    let list = |extension: (Vec<u8>, bool, Vec<u8>)| match fault(|machine| {
        machine.list.extensions.push(extension)
    }) {
        SnpError::RevocationList(fault) => fault,
        other => panic!("{other}"),
    };
    for (arc, critical) in [(0x1c, true), (0x1c, false), (0x1b, true), (0x1b, false)] {
        let partial = list((vec![0x55, 0x1d, arc], critical, vec![0x30, 0]));
        assert!(matches!(partial, RevocationFault::Partial { .. }), "{arc}");
    }
    let twice = list((vec![0x55, 0x1d, 0x14], false, vec![2, 1, 3]));
    assert!(matches!(twice, RevocationFault::DuplicateExtension { .. }));
}
