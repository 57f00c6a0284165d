//! Every way in which a platform of Intel's or a trust domain can be other than the policy demands,
//! on a domain that is signed at run time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

#[path = "common/tdx.rs"]
mod common;

use attest::eventlog::EventLogError;
use attest::policy::{Pin, TdxPolicy};
use attest::tdx::{
    Evaluated, IdentityField, PlatformFlag, TcbStatus, TdxError, TdxField, TdxSetting, verify,
};
use attest::{Class, Digest, Refusal};
use common::{done, fault, judge, spoilt};
use signer::NOW;
use signer::boot::Event;
use signer::intel::{self, Domain, at, enclave};

#[test]
fn what_intel_says_of_the_platform_is_read_or_refused() {
    let field = |change: fn(&mut Domain)| match fault(change) {
        TdxError::CertificateField { field } => field,
        other => panic!("{other}"),
    };
    // Intel's extension is in the template, and once more behind it: said twice.
    let twice = fault(|domain| {
        let extension = intel::sgx(&domain.certified);
        domain.chain[0].0.extensions.push(extension);
    });
    assert!(matches!(twice, TdxError::Chain(_)), "{twice}");
    let missing = |change: fn(&mut Domain)| {
        let mut domain = Domain::new();
        change(&mut domain);
        let evidence = domain.evidence();
        match verify(&evidence, &[0; 64], &Domain::new().policy(), NOW) {
            Err(TdxError::CertificateField { field }) => field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        missing(|domain| domain.extension = Some(vec![0x30, 0])),
        "the TCB"
    );
    assert_eq!(
        missing(|domain| domain.extension = Some(vec![0x30, 1, 0])),
        "Intel's extension"
    );
    let model = field(|domain| domain.certified.fmspc.push(0));
    assert_eq!(model, "the model of the platform");
    let other = fault(|domain| domain.certified.fmspc[0] ^= 1);
    assert!(
        matches!(other, TdxError::OtherPlatform { field: "FMSPC", .. }),
        "{other}"
    );
    let other = fault(|domain| done(domain.edit(0, "\"pceId\":\"0000\"", "\"pceId\":\"0100\"")));
    assert!(
        matches!(other, TdxError::OtherPlatform { field: "PCE", .. }),
        "{other}"
    );
    // What is not said is not assumed.
    let found = None;
    let flag = PlatformFlag::Dynamic;
    assert_eq!(
        fault(|domain| domain.certified.flags = None),
        TdxError::Flag { flag, found }
    );
    let flags = [
        PlatformFlag::Dynamic,
        PlatformFlag::CachedKeys,
        PlatformFlag::Smt,
    ];
    for (place, flag) in flags.into_iter().enumerate() {
        let error = fault(|domain| domain.certified.flags.as_mut().unwrap()[place] = true);
        let found = Some(true);
        assert_eq!(error, TdxError::Flag { flag, found });
    }
}

#[test]
fn the_quoting_enclave_is_intels() {
    for (at, field) in [
        (enclave::MR_SIGNER, IdentityField::EnclaveSigner),
        (enclave::PRODUCT, IdentityField::EnclaveProduct),
        (enclave::MISC_SELECT, IdentityField::EnclaveMiscSelect),
        (enclave::ATTRIBUTES, IdentityField::EnclaveAttributes),
    ] {
        let error = fault(|domain| done(domain.set_enclave(at, &[0x17])));
        assert_eq!(error, TdxError::Identity { field });
        assert_eq!(Refusal::from(error).class(), Class::Signature);
    }
    let part = Evaluated::QuotingEnclave;
    let found = TcbStatus::OutOfDate;
    let error = fault(|domain| done(domain.set_enclave(enclave::SVN, &[3])));
    assert_eq!(error, TdxError::Status { part, found });
    let error = fault(|domain| done(domain.set_enclave(enclave::SVN, &[1])));
    assert_eq!(error, TdxError::NoLevel { part });
    let mut later = Domain::new();
    later.set_enclave(enclave::SVN, &[0, 1]);
    assert!(judge(&later, &later.policy(), NOW).is_ok());
}

#[test]
fn versions_of_platform_and_module_are_judged_as_intel_says() {
    let status = |part, found| TdxError::Status { part, found };
    let out_of_date = TcbStatus::OutOfDate;
    let error = fault(|domain| done(domain.set(at::TCB, &[5, 1, 3])));
    assert_eq!(error, status(Evaluated::LaunchModule, out_of_date));
    assert_eq!(Refusal::from(error).class(), Class::Policy);
    let part = Evaluated::LaunchModule;
    let error = fault(|domain| done(domain.set(at::TCB, &[3, 1, 3])));
    assert_eq!(error, TdxError::NoLevel { part });
    let error = fault(|domain| done(domain.set(at::TCB, &[7, 3, 3])));
    assert_eq!(error, TdxError::UnknownModule { version: 3 });
    let (at_launch, now) = (Evaluated::Launch, Evaluated::Current);
    let error = fault(|domain| done(domain.set(at::TCB, &[7, 1, 2])));
    assert_eq!(error, status(at_launch, out_of_date));
    let error = fault(|domain| domain.certified.cpu[15] = 2);
    assert_eq!(error, status(at_launch, out_of_date));
    let error = fault(|domain| domain.certified.pce = 12);
    assert_eq!(error, status(at_launch, out_of_date));
    let error = fault(|domain| domain.certified.cpu = [1; 16]);
    assert_eq!(error, status(at_launch, TcbStatus::Revoked));
    // Nor by a policy that was made without the reader that refuses it.
    let mut revoked = Domain::new();
    revoked.certified.cpu = [1; 16];
    let mut policy = revoked.policy();
    policy.tcb_statuses.push(TcbStatus::Revoked);
    let error = judge(&revoked, &policy, NOW).unwrap_err();
    assert_eq!(error, status(at_launch, TcbStatus::Revoked));
    let error = fault(|domain| domain.certified.cpu[0] = 0);
    assert_eq!(error, TdxError::NoLevel { part: at_launch });
    // With major version 0 the first two components count with the others.
    let old = |minor| {
        let mut domain = Domain::new();
        domain.set(at::TCB, &[minor, 0, 3]);
        judge(&domain, &domain.policy(), NOW).map(drop)
    };
    assert_eq!(old(5), Ok(()));
    assert_eq!(old(4), Err(status(at_launch, out_of_date)));
    // The module was updated since, or rolled back.
    let mut domain = Domain::of_version_5(3);
    domain.set(at::CURRENT_TCB, &[5, 1, 3]);
    let error = judge(&domain, &domain.policy(), NOW).unwrap_err();
    assert_eq!(error, status(Evaluated::CurrentModule, out_of_date));
    domain.set(at::CURRENT_TCB, &[7, 1, 2]);
    let error = judge(&domain, &domain.policy(), NOW).unwrap_err();
    assert_eq!(error, status(now, out_of_date));
    for (at, field) in [
        (at::MR_SIGNER_SEAM, IdentityField::ModuleSigner),
        (at::SEAM_ATTRIBUTES, IdentityField::ModuleAttributes),
    ] {
        for version in [0, 1] {
            let error = fault(|domain| done(domain.set(at::TCB, &[7, version, 3]).set(at, &[1])));
            assert_eq!(error, TdxError::Identity { field });
        }
    }
}

#[test]
fn statuses_and_advisories_are_accepted_by_name_only() {
    let mut domain = Domain::new();
    domain.set(at::TCB, &[5, 1, 2]);
    let mut policy = domain.policy();
    policy.tcb_statuses.push(TcbStatus::OutOfDate);
    let advisory = |policy: &TdxPolicy| match judge(&domain, policy, NOW) {
        Err(TdxError::Advisory { part, found }) => (part, found.to_string()),
        other => panic!("{other:?}"),
    };
    let (part, found) = (Evaluated::LaunchModule, "INTEL-SA-01036".to_owned());
    assert_eq!(advisory(&policy), (part, found));
    policy.advisories.push("INTEL-SA-01036".parse().unwrap());
    let (part, found) = (Evaluated::Launch, "INTEL-SA-01079".to_owned());
    assert_eq!(advisory(&policy), (part, found));
    policy.advisories.push("INTEL-SA-01079".parse().unwrap());
    let verified = judge(&domain, &policy, NOW).unwrap();
    let mut claims = verified.claims().iter();
    let claim = claims.find(|claim| claim.what == "platform at launch");
    assert_eq!(
        claim.unwrap().found,
        "OutOfDate, level of 2024-03-13T00:00:00Z; INTEL-SA-01036, INTEL-SA-01079"
    );
}

/// Intel's rule for parts that it judges apart: who accepts each by itself has not accepted both.
#[test]
fn statuses_of_all_parts_are_taken_together() {
    let own = "\"tcbDate\":\"2024-11-13T00:00:00Z\",\"tcbStatus\":\"UpToDate\"},\
               {\"tcb\":{\"sgx";
    for status in ["ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"] {
        let mut domain = Domain::new();
        // The platform's own level, before another one; not that of the TDX module.
        let other = own.replace("\"UpToDate\"", &format!("\"{status}\""));
        domain.edit(0, own, &other);
        domain.set_enclave(enclave::SVN, &[3]);
        let mut policy = domain.policy();
        policy.tcb_statuses.extend([
            TcbStatus::OutOfDate,
            TcbStatus::ConfigurationNeeded,
            TcbStatus::ConfigurationAndSwHardeningNeeded,
        ]);
        let part = Evaluated::Together;
        let found = TcbStatus::OutOfDateConfigurationNeeded;
        let error = judge(&domain, &policy, NOW).unwrap_err();
        assert_eq!(error, TdxError::Status { part, found });
        assert_eq!(Refusal::from(error).class(), Class::Policy);
        policy.tcb_statuses.push(found);
        let verified = judge(&domain, &policy, NOW).unwrap();
        let mut claims = verified.claims().iter();
        let claim = claims.find(|claim| claim.what == part.to_string());
        assert_eq!(claim.unwrap().found, "OutOfDateConfigurationNeeded");
        // Each by itself is what it is.
        domain.set_enclave(enclave::SVN, &[4]);
        policy.tcb_statuses.pop();
        assert!(judge(&domain, &policy, NOW).is_ok(), "{status}");
    }
}

/// A claim never shows a value that the quote does not hold.
#[test]
fn service_domains_are_shown_only_where_the_quote_holds_them() {
    let shown = |domain: &Domain| {
        let verified = judge(domain, &domain.policy(), NOW).unwrap();
        let field = TdxField::MrServiceTd.to_string();
        let mut claims = verified.claims().iter();
        claims
            .find(|claim| claim.what == field)
            .unwrap()
            .found
            .clone()
    };
    let unknown = "not in a quote of TDX 1.0: not checked";
    assert_eq!(shown(&Domain::new()), unknown);
    assert_eq!(shown(&Domain::of_version_5(2)), unknown);
    assert_eq!(shown(&Domain::of_version_5(3)), "0".repeat(96));
}

#[test]
fn a_quote_for_something_else_is_refused() {
    let evidence = Domain::new().evidence();
    let error = verify(&evidence, &[1; 64], &Domain::new().policy(), NOW).unwrap_err();
    assert!(matches!(error, TdxError::ReportData { .. }), "{error}");
    assert_eq!(Refusal::from(error).class(), Class::Signature);
}

#[test]
fn attributes_that_are_wrong_or_unknown_are_refused() {
    let attributes =
        |bits: u64| fault(|domain| done(domain.set(at::ATTRIBUTES, &bits.to_le_bytes())));
    let sound = 1 << 28;
    for bit in 0..8 {
        let found = sound | 1 << bit;
        assert_eq!(attributes(found), TdxError::Debug { found });
    }
    for bit in (8..16).chain(18..27).chain(32..62) {
        let found = sound | 1 << bit;
        assert_eq!(attributes(found), TdxError::UnknownAttributes { found });
    }
    for bit in [17, 27, 29, 30, 31, 62, 63] {
        let error = attributes(sound | 1 << bit);
        let TdxError::Setting { expected, .. } = error else {
            panic!("{bit} {error}")
        };
        assert!(!expected);
    }
    let TdxError::Setting { setting, expected } = attributes(0) else {
        panic!("must be refused")
    };
    assert_eq!(setting, TdxSetting::SeptVeDisable);
    assert!(expected);
    for xfam in [
        [0xe6, 2, 6, 0],
        [0xe5, 2, 6, 0],
        [0xef, 2, 6, 0],
        [0xe7, 2, 6, 1],
        [0xe7, 6, 6, 0],    // PASID, which no module lets a domain use
        [0xe7, 0x22, 6, 0], // HDC
        [0xe7, 2, 7, 0],    // HWP
    ] {
        let error = fault(|domain| done(domain.set(at::XFAM, &xfam)));
        assert!(matches!(error, TdxError::Xfam { .. }), "{error}");
    }
}

#[test]
fn service_domains_and_parts_of_domains_are_refused() {
    let error = fault(|domain| {
        *domain = Domain::of_version_5(3);
        domain.set(at::MR_SERVICE_TD, &[1]);
    });
    let TdxError::Pinned { field, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(field, TdxField::MrServiceTd);
    let error = fault(|domain| {
        *domain = Domain::of_version_5(4);
        domain.set(at::CURRENT_SERVICE_TD, &[1]);
    });
    assert!(matches!(error, TdxError::ServiceDomain { .. }), "{error}");
    // One that the policy pins is said once, or in both places, and nothing else in the second.
    let current = |id: &[u8; 48]| {
        let mut domain = Domain::of_version_5(4);
        domain.set(at::MR_SERVICE_TD, &[7; 48]);
        domain.set(at::CURRENT_SERVICE_TD, id);
        let mut policy = domain.policy();
        policy.mr_service_tds = Pin::OneOf(vec![Digest([7; 48])]);
        judge(&domain, &policy, NOW).map(drop)
    };
    assert_eq!(current(&[0; 48]), Ok(()));
    assert_eq!(current(&[7; 48]), Ok(()));
    let (expected, found) = (Digest([7; 48]), Digest([8; 48]));
    let other = TdxError::ServiceDomain { expected, found };
    assert_eq!(current(&[8; 48]), Err(other));
    let error = fault(|domain| {
        *domain = Domain::of_version_5(4);
        domain.set(at::VM_ID, &[1]);
    });
    assert_eq!(error, TdxError::Partition { found: 1 });
}

#[test]
fn the_event_log_explains_the_registers() {
    let error = spoilt(|evidence| evidence.event_log.clear());
    assert_eq!(error, TdxError::NoEventLog);
    let error = spoilt(|evidence| evidence.event_log.truncate(100));
    assert!(matches!(error, TdxError::EventLog(_)), "{error}");
    let error = fault(|domain| domain.events[2].data = vec![1; 4]);
    let TdxError::EventLog(EventLogError::Digest { event, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(event, 3);
    for found in [0, 5, 23] {
        let error = fault(|domain| domain.events[1].register = found);
        let (event, found) = (2, found as u8);
        assert_eq!(error, TdxError::EventRegister { event, found });
    }
    // An event more, or one less, in any register.
    for number in 0..4 {
        let error = fault(|domain| {
            let event = Event::other(u32::from(number) + 1, 6, b"more", b"");
            domain.events.push(event);
        });
        let TdxError::Replay { field, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(field, TdxField::Rtmr(number));
        assert_eq!(Refusal::from(error).class(), Class::Signature);
    }
    let error = fault(|domain| drop(domain.events.pop()));
    assert!(matches!(error, TdxError::Replay { .. }), "{error}");
}

#[test]
fn every_event_is_one_that_the_policy_lists() {
    let (domain, mut policy) = (Domain::new(), Domain::new().policy());
    let digest = |event: &Event| Digest::sha384(&event.measured);
    let digests: Vec<_> = domain.events.iter().map(digest).collect();
    policy.event_digests = Pin::OneOf(digests.clone());
    assert!(judge(&domain, &policy, NOW).is_ok());
    policy.event_digests = Pin::OneOf(digests[..7].to_vec());
    let (event, found) = (8, digests[7]);
    assert_eq!(
        judge(&domain, &policy, NOW).unwrap_err(),
        TdxError::Event { event, found }
    );
}

/// Each value that a policy can pin: the sound one is accepted, another is refused by its name.
#[test]
fn every_field_can_be_pinned() {
    let domain = Domain::new();
    let sound = domain.policy_toml();
    let verified = judge(&domain, &domain.policy(), NOW).unwrap();
    let quote = verified.quote();
    let [rtmr0, rtmr1, rtmr2, rtmr3] = quote.rtmrs.map(|value| value.to_string());
    let (zero, one) = ("0".repeat(96), "1".repeat(96));
    for (name, field, value) in [
        ("fmspcs", TdxField::Fmspc, "90c06f000000".to_owned()),
        (
            "platform_instances",
            TdxField::PlatformInstance,
            "1d".repeat(16),
        ),
        (
            "tee_tcb_svns",
            TdxField::TeeTcbSvn,
            format!("070103{}", "0".repeat(26)),
        ),
        ("mr_seams", TdxField::MrSeam, "5e".repeat(48)),
        ("xfams", TdxField::Xfam, "e702060000000000".to_owned()),
        ("mr_tds", TdxField::MrTd, "7d".repeat(48)),
        ("rtmr0s", TdxField::Rtmr(0), rtmr0),
        ("rtmr1s", TdxField::Rtmr(1), rtmr1),
        ("rtmr2s", TdxField::Rtmr(2), rtmr2),
        ("rtmr3s", TdxField::Rtmr(3), rtmr3),
        ("mr_config_ids", TdxField::MrConfigId, zero.clone()),
        ("mr_owners", TdxField::MrOwner, zero.clone()),
        ("mr_owner_configs", TdxField::MrOwnerConfig, zero.clone()),
    ] {
        let any = format!("\n{name} = \"any\"");
        assert!(sound.contains(&any), "{name}");
        let with = |values: &str| {
            let pinned = sound.replace(&any, &format!("\n{name} = {values}"));
            judge(&domain, &intel::tdx_policy(&pinned), NOW)
        };
        let other = &one[..value.len()];
        let verified = with(&format!("[\"{other}\", \"{value}\"]")).unwrap();
        let mut claims = verified.claims().iter();
        let claim = claims
            .find(|claim| claim.what == field.to_string())
            .unwrap();
        assert_eq!(claim.found, value);
        let error = with(&format!("\"{other}\"")).unwrap_err();
        let TdxError::Pinned { field: found, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(found, field);
    }
    for (name, field) in [
        ("mr_signer_seams", TdxField::MrSignerSeam),
        ("mr_service_tds", TdxField::MrServiceTd),
    ] {
        let pinned = sound.replace(&format!("{name} = \"{zero}"), &format!("{name} = \"{one}"));
        let error = judge(&domain, &intel::tdx_policy(&pinned), NOW).unwrap_err();
        let TdxError::Pinned { field: found, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(found, field);
    }
}

/// What the policy relaxes is accepted, and the report says that it was relaxed.
#[test]
fn what_is_relaxed_is_shown() {
    let mut domain = Domain::new();
    domain.certified.flags = Some([true; 3]);
    let every = (1u64 << 62) | (1 << 63) | (0x1f << 27) | (0b11 << 16);
    domain.set(at::ATTRIBUTES, &every.to_le_bytes());
    let relaxed = domain.policy_toml().replace("\"refused\"", "\"accepted\"");
    let verified = judge(&domain, &intel::tdx_policy(&relaxed), NOW).unwrap();
    let shown = |claim: &&attest::Claim| claim.expected.ends_with("(accepted by the policy)");
    assert_eq!(verified.claims().iter().filter(shown).count(), 3 + 7);
    let mut evidence = Domain::new().evidence();
    evidence.event_log.clear();
    let relaxed = Domain::new().policy_toml();
    let relaxed = relaxed.replace("event_log = \"required\"", "event_log = \"not-required\"");
    let policy = intel::tdx_policy(&relaxed);
    let verified = verify(&evidence, &[0; 64], &policy, NOW).unwrap();
    let claim = verified.claims().last().unwrap();
    assert_eq!(claim.expected, "not required (relaxed by the policy)");
    assert_eq!(claim.found, "none");
    // What is there must fit, also where nothing is demanded.
    evidence.event_log = vec![0; 100];
    let error = verify(&evidence, &[0; 64], &policy, NOW).unwrap_err();
    assert!(matches!(error, TdxError::EventLog(_)), "{error}");
}
