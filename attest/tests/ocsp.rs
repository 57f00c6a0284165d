//! The status of certificates, as NVIDIA's responder says it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::certificate::{ChainFault, Position};
use attest::gpu::{DeviceFault, GpuError, ManifestError, verify};
use attest::ocsp::{MAX_RESPONSE_BYTES, Reason, Response, StatusFault, request};
use attest::policy::{GpuRevocation, Later, PolicyError};
use attest::{Class, Hex, Policy, Refusal, UnixTime};
use signer::authority::{AUTHORITY, Template, der, name};
use signer::nvidia::{Rack, with_table};
use signer::ocsp::{Answer, Subject, UNKNOWN, nonce, revoked};
use signer::{NOW, World};

#[path = "common/gpu.rs"]
mod common;

use common::{NONCE, device, fault, judge, manifest};

/// Places of subjects in a rack with one GPU: its boot ROM, its provisioner, its identity, then
/// signer and issuer of manifests.
const BOOT_ROM: usize = 0;
const SIGNER: usize = 3;

fn with(rack: &mut Rack, place: usize, change: impl FnOnce(&mut Answer, &Subject)) {
    let subjects = rack.subjects();
    let mut answers: Vec<_> = subjects.iter().map(Answer::good).collect();
    change(&mut answers[place], &subjects[place]);
    rack.answers = Some(answers);
}

/// What is wrong with the boot ROM's certificate after `change` of its answer.
fn status(change: impl FnOnce(&mut Answer, &Subject)) -> StatusFault {
    match device(|rack| with(rack, BOOT_ROM, change)) {
        DeviceFault::Status { position, fault } => {
            assert_eq!(position, Position::Intermediate(1));
            fault
        }
        other => panic!("{other}"),
    }
}

/// Why a response cannot be read.
fn unreadable(change: impl FnOnce(&mut Answer, &Subject)) -> StatusFault {
    match fault(|rack| with(rack, BOOT_ROM, change)) {
        GpuError::Status(fault) => fault,
        other => panic!("{other}"),
    }
}

/// What is wrong with the responder's certificate after `change`.
fn responder(change: impl FnOnce(&mut Template)) -> StatusFault {
    status(|answer, subject| {
        answer.certify(subject, change);
    })
}

#[test]
fn every_certificate_but_the_firmwares_is_good_by_name() {
    let rack = Rack::new();
    assert_eq!(rack.subjects().len(), 5);
    let verified = judge(&rack).unwrap();
    let claim = |what: &str| {
        verified
            .claims()
            .iter()
            .find(|one| one.what == what)
            .unwrap()
    };
    let device = claim("GPU 1: revocation status");
    assert_eq!(device.expected, "good, by OCSP");
    assert_eq!(
        device.found,
        "3 certificates good until 2026-11-27T00:00:00Z"
    );
    assert!(
        claim("manifest 2: revocation status")
            .found
            .starts_with("2 certificates good")
    );
    judge(&Rack::with_switch()).unwrap();
}

#[test]
fn an_issuer_may_answer_itself_and_its_certificate_may_come_along() {
    let mut rack = Rack::new();
    let subjects = rack.subjects();
    rack.answers = Some(subjects.iter().map(Answer::by_issuer).collect());
    judge(&rack).unwrap();
    let issuers = rack.evidence(&NONCE).devices[0].certificates.clone();
    for own in [true, false] {
        with(&mut rack, BOOT_ROM, |answer, subject| {
            if own {
                *answer = Answer::by_issuer(subject);
            }
            answer.certificates.push(issuers[2].clone());
        });
        judge(&rack).unwrap();
    }
    // By the digest of its key.
    with(&mut rack, BOOT_ROM, |answer, _| {
        use sha1::Digest as _;
        let point = answer.key.verifying_key().to_sec1_point(false);
        let key = sha1::Sha1::digest(point.as_bytes());
        answer.responder = der(0xa2, &[&der(4, &[&key])]);
    });
    judge(&rack).unwrap();
    let other = status(|answer, _| answer.responder = der(0xa2, &[&der(4, &[&[7; 20]])]));
    assert_eq!(other, StatusFault::Responder);
    let other = status(|answer, _| answer.responder = der(0xa1, &[&name("somebody")]));
    assert_eq!(other, StatusFault::Responder);
}

#[test]
fn what_is_revoked_on_hold_or_unknown_is_refused() {
    let gone = status(|answer, _| answer.certificate = revoked("20261101000000Z", Some(1)));
    let StatusFault::Revoked { at, reason } = &gone else {
        panic!("{gone}")
    };
    assert_eq!(at.as_secs(), 1_793_491_200);
    assert_eq!(
        reason.map(|reason| reason.to_string()).unwrap(),
        "key compromised"
    );
    // However old that is, and whatever else is wrong with its times.
    let old = status(|answer, _| {
        answer.certificate = revoked("20200101000000Z", None);
        answer.times[2] = "20200102000000Z".to_owned();
    });
    assert!(matches!(old, StatusFault::Revoked { reason: None, .. }));
    let held = status(|answer, _| answer.certificate = revoked("20261101000000Z", Some(6)));
    assert!(matches!(held, StatusFault::OnHold { .. }), "{held}");
    let unknown = status(|answer, _| answer.certificate = UNKNOWN.to_vec());
    assert_eq!(unknown, StatusFault::Unknown);
    // What stands beneath a manifest counts as much.
    let gone = manifest(|rack| {
        with(rack, SIGNER, |answer, _| {
            answer.certificate = revoked("20261101000000Z", None)
        });
    });
    let ManifestError::Status { position, fault } = gone else {
        panic!("{gone}")
    };
    assert_eq!(position, Position::Leaf);
    assert!(matches!(fault, StatusFault::Revoked { .. }));
    let refusal = fault_of_status(|answer| answer.certificate = UNKNOWN.to_vec());
    assert_eq!(refusal.class(), Class::Signature);
    assert_ne!(Reason::ON_HOLD.to_string(), "");
}

fn fault_of_status(change: impl FnOnce(&mut Answer)) -> Refusal {
    Refusal::from(fault(|rack| {
        with(rack, BOOT_ROM, |answer, _| change(answer))
    }))
}

#[test]
fn a_response_holds_for_its_time() {
    let renewed = status(|answer, _| answer.times[2] = "20261120235959Z".to_owned());
    let StatusFault::Expired { until, now } = renewed else {
        panic!("{renewed}")
    };
    assert_eq!((until.as_secs(), now), (1_795_219_199, NOW));
    for place in [0, 1] {
        let early = status(|answer, _| answer.times[place] = "20261121000001Z".to_owned());
        assert!(matches!(early, StatusFault::NotYetValid { .. }), "{early}");
    }
    let endless = status(|answer, _| answer.times[2].clear());
    assert_eq!(endless, StatusFault::NoNextUpdate);
    let old = fault_of_status(|answer| answer.times[2] = "20261120235959Z".to_owned());
    assert_eq!(old.class(), Class::Collateral);
}

#[test]
fn nobody_but_the_issuer_or_its_delegate_answers() {
    let forged = status(|answer, _| answer.key = Rack::new().device_root.key);
    assert_eq!(forged, StatusFault::Signature);
    let scheme = status(|answer, _| *answer.algorithm.last_mut().unwrap() = 2);
    assert_eq!(scheme, StatusFault::Signature);
    // A delegate of another authority above it is none of this one.
    let other = status(|answer, _| {
        let key = Rack::new().device_root.key;
        answer.certificates = vec![signer::nvidia::issue(&key, &answer.delegate)];
    });
    assert_eq!(other, StatusFault::from(ChainFault::Signature));
    let name = responder(|template| template.issuer = "identity".to_owned());
    let StatusFault::Certificate(name) = name else {
        panic!("{name}")
    };
    assert!(matches!(*name, ChainFault::Issuer { .. }), "{name}");
    let purpose = responder(|template| drop(template.extensions.pop()));
    assert_eq!(purpose, StatusFault::Purpose);
    let usage = responder(|template| drop(template.extensions.remove(0)));
    let needed = "digitalSignature";
    assert_eq!(usage, StatusFault::from(ChainFault::KeyUsage { needed }));
    let authority = responder(|template| {
        let (oid, critical, value) = AUTHORITY;
        template
            .extensions
            .push((oid.to_vec(), critical, value.to_vec()));
    });
    assert_eq!(authority, StatusFault::from(ChainFault::Authority));
    let old = responder(|template| template.validity[1] = "250101000000Z".into());
    let StatusFault::Certificate(old) = old else {
        panic!("{old}")
    };
    assert!(old.is_date());
    let garbled = status(|answer, _| answer.certificates[0] = vec![0x30, 0]);
    assert_eq!(garbled, StatusFault::from(ChainFault::Encoding));
    for wrong in [1, 2] {
        let more = status(|answer, _| {
            for _ in 0..wrong {
                answer.certificates.push(answer.certificates[0].clone());
            }
        });
        assert_eq!(more, StatusFault::Certificates);
    }
}

#[test]
fn a_responder_that_its_issuer_revoked_does_not_count() {
    // The list by the authority above the provisioner.
    const PROVISIONER: usize = 1;
    let gone = device(|rack| {
        rack.lists[1].0.revoked.push((0x0c, Vec::new()));
        with(rack, PROVISIONER, |_, _| {});
    });
    let position = Position::Intermediate(2);
    let fault = StatusFault::ResponderRevoked;
    assert_eq!(gone, DeviceFault::Status { position, fault });
}

#[test]
fn a_response_is_about_one_certificate() {
    let none = |change: fn(&mut Answer)| device(|rack| with(rack, BOOT_ROM, |one, _| change(one)));
    let position = Position::Intermediate(1);
    let missing = DeviceFault::NoStatus { position };
    assert_eq!(none(|answer| answer.hashes[0][0] ^= 1), missing);
    assert_eq!(none(|answer| answer.hashes[1][0] ^= 1), missing);
    assert_eq!(none(|answer| answer.serial[0] ^= 1), missing);
    let refusal = fault_of_status(|answer| answer.serial[0] ^= 1);
    assert_eq!(refusal.class(), Class::Collateral);
    // SHA-256 as well, with or without parameters.
    let mut rack = Rack::new();
    with(&mut rack, BOOT_ROM, |answer, subject| {
        use sha2::Digest as _;
        let point = subject.key.verifying_key().to_sec1_point(false);
        let sha256 = [6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0];
        answer.hash = der(0x30, &[&sha256]);
        answer.hashes = [name(&subject.issuer), point.as_bytes().to_vec()]
            .map(|bytes| sha2::Sha256::digest(bytes).to_vec());
    });
    judge(&rack).unwrap();
    let unknown = unreadable(|answer, _| *answer.hash.last_mut().unwrap() = 4);
    assert_eq!(unknown, StatusFault::Hash);
    assert_eq!(
        unreadable(|answer, _| answer.times_said = 2),
        StatusFault::Several
    );
    let none = unreadable(|answer, _| answer.times_said = 0);
    assert_eq!(none, StatusFault::Encoding);
}

#[test]
fn a_response_that_says_nothing_here_is_refused() {
    let rack = Rack::new();
    let mut answers: Vec<_> = rack.subjects().iter().map(Answer::good).collect();
    answers[SIGNER].serial[0] ^= 1;
    let policy = || {
        let mut policy = rack.policy();
        policy.revocation = GpuRevocation::NotRequired;
        policy
    };
    let with = |answers| Rack {
        answers: Some(answers),
        ..rack.clone()
    };
    let judge = |answers| {
        let evidence = with(answers).evidence(&NONCE);
        verify(&evidence, &NONCE, rack.counts(), &policy(), NOW)
    };
    assert_eq!(judge(answers.clone()).unwrap_err(), GpuError::StrayStatus);
    // Without any, a relaxed policy says so; with one, that one must be sound.
    let verified = judge(Vec::new()).unwrap();
    let claim = verified
        .claims()
        .iter()
        .find(|one| one.what == "GPU 1: revocation status")
        .unwrap();
    assert_eq!(claim.expected, "not required (relaxed by the policy)");
    assert_eq!(claim.found, "no response");
    answers.truncate(1);
    assert!(judge(answers.clone()).is_ok());
    answers[0].certificate = UNKNOWN.to_vec();
    let GpuError::Device { fault: found, .. } = judge(answers).unwrap_err() else {
        panic!()
    };
    assert!(matches!(*found, DeviceFault::Status { .. }));
    let missing = fault(|rack| rack.answers = Some(Vec::new()));
    assert!(matches!(missing, GpuError::Device { .. }), "{missing}");
    let missing = manifest(|rack| {
        let answers = rack
            .subjects()
            .iter()
            .map(Answer::good)
            .take(SIGNER)
            .collect();
        rack.answers = Some(answers);
    });
    assert_eq!(
        missing,
        ManifestError::NoStatus {
            position: Position::Leaf
        }
    );
}

#[test]
fn what_is_no_response_is_refused() {
    let busy = unreadable(|answer, _| answer.status = 3);
    assert_eq!(busy, StatusFault::Unsuccessful { status: 3 });
    let kind = unreadable(|answer, _| *answer.kind.last_mut().unwrap() = 2);
    assert_eq!(kind, StatusFault::Kind);
    let long = Response::parse(&vec![0; MAX_RESPONSE_BYTES + 1]).unwrap_err();
    assert_eq!(
        long,
        StatusFault::TooLarge {
            found: MAX_RESPONSE_BYTES + 1
        }
    );
    let subject = Rack::new().subjects().remove(0);
    let sound = Answer::good(&subject);
    let refused = |bytes: &[u8]| {
        let fault = Response::parse(bytes).unwrap_err();
        assert_eq!(fault, StatusFault::Encoding);
    };
    let bytes = sound.sign();
    assert!(Response::parse(&bytes).is_ok());
    for length in 0..bytes.len() {
        refused(&bytes[..length]);
    }
    refused(&[&bytes[..], &[0]].concat());
    let change = |change: fn(&mut Answer)| {
        let mut answer = sound.clone();
        change(&mut answer);
        refused(&answer.sign());
    };
    change(|answer| answer.certificate = vec![0x80, 1, 0]);
    change(|answer| answer.certificate = vec![0x83, 0]);
    change(|answer| answer.certificate = revoked("20261101000000Z", Some(7)));
    change(|answer| answer.certificate = revoked("20261101000000Z", Some(11)));
    change(|answer| answer.times[1] = "261120000000Z".to_owned());
    change(|answer| answer.times[2] = "20261320000000Z".to_owned());
    change(|answer| answer.responder = der(0xa3, &[&name("responder")]));
    change(|answer| answer.extensions[0] = vec![nonce(&[])]);
    change(|answer| answer.extensions[0] = vec![nonce(&[1; 129])]);
    change(|answer| answer.extensions[0] = vec![nonce(&[1]), nonce(&[1])]);
    // The default version, which DER leaves out; and a length that is longer than it must be.
    let part = sound.signed_part();
    let version = der(0xa0, &[&[2, 1, 0]]);
    let head = if part[1] == 0x81 { 3 } else { 4 };
    refused(&sound.around(&der(0x30, &[&version, &part[head..]])));
    let body = &part[head..];
    let length = (body.len() as u32).to_be_bytes();
    let long = [&[0x30, 0x83][..], &length[1..], body].concat();
    refused(&sound.around(&long));
}

#[test]
fn extensions_say_nothing_else() {
    let oid = vec![0x2b, 6, 1, 5, 5, 7, 48, 1, 6];
    for place in [0, 1] {
        let change = |critical| {
            let extension = (oid.clone(), critical, vec![5, 0]);
            move |answer: &mut Answer, _: &Subject| answer.extensions[place] = vec![extension]
        };
        let critical = unreadable(change(true));
        let StatusFault::CriticalExtension { found } = critical else {
            panic!("{critical}")
        };
        assert_eq!(found.to_string(), "1.3.6.1.5.5.7.48.1.6");
        let mut rack = Rack::new();
        with(&mut rack, BOOT_ROM, change(false));
        judge(&rack).unwrap();
    }
}

#[test]
fn a_nonce_is_that_of_the_request() {
    let subject = Rack::new().subjects().remove(0);
    let mut answer = Answer::good(&subject);
    let bytes = answer.sign();
    let without = Response::parse(&bytes).unwrap();
    assert_eq!(without.nonce(), None);
    let expected = Hex([3; 32].into());
    let missing = without.check_nonce(&[3; 32]).unwrap_err();
    let found = None;
    assert_eq!(
        missing,
        StatusFault::Nonce {
            expected: expected.clone(),
            found
        }
    );
    answer.extensions[0] = vec![nonce(&[3; 32])];
    let bytes = answer.sign();
    let with = Response::parse(&bytes).unwrap();
    with.check_nonce(&[3; 32]).unwrap();
    let other = with.check_nonce(&[4; 32]).unwrap_err();
    assert!(
        matches!(other, StatusFault::Nonce { found: Some(_), .. }),
        "{other}"
    );
    assert_eq!(with.until(), Some(UnixTime::from_secs(1_795_737_600)));
}

#[test]
fn a_request_names_a_certificate_as_responses_do() {
    let rack = Rack::new();
    let chain = rack.evidence(&NONCE).devices[0].certificates.clone();
    let plain = request(&chain[1], &chain[2], None).unwrap();
    let mut answer = Answer::good(&rack.subjects()[0]);
    let id = der(
        0x30,
        &[
            &answer.hash,
            &der(4, &[&answer.hashes[0]]),
            &der(4, &[&answer.hashes[1]]),
            &der(2, &[&answer.serial]),
        ],
    );
    let list = |tail: &[u8]| {
        let all = der(0x30, &[&der(0x30, &[&id])]);
        der(0x30, &[&der(0x30, &[&all, tail])])
    };
    assert_eq!(plain, list(&[]));
    answer.extensions[0] = vec![nonce(&[9; 32])];
    let (oid, _, value) = nonce(&[9; 32]);
    let extension = der(0x30, &[&der(0x30, &[&der(6, &[&oid]), &der(4, &[&value])])]);
    let with = request(&chain[1], &chain[2], Some(&[9; 32])).unwrap();
    assert_eq!(with, list(&der(0xa2, &[&extension])));
    for wrong in [0, 129] {
        assert_eq!(request(&chain[1], &chain[2], Some(&vec![1; wrong])), None);
    }
    assert_eq!(request(&chain[1], b"", None), None);
    assert_eq!(request(b"", &chain[2], None), None);
}

#[test]
fn a_policy_with_gpus_says_how_it_knows_of_revocation() {
    let table = Rack::new().policy_toml();
    let text = with_table(&World::new(), &table);
    let policy = |text: &str| Policy::parse(text.as_bytes());
    let read = policy(&text).unwrap();
    assert_eq!(
        (read.version, read.gpu.unwrap().revocation),
        (3, GpuRevocation::Ocsp)
    );
    let earlier = policy(&text.replacen("version = 3", "version = 2", 1));
    assert_eq!(earlier, Err(PolicyError::Later(Later::GpuRevocation)));
    for wrong in ["\"none\"", "true", "[]"] {
        let line = format!("revocation = {wrong}");
        let wrong = policy(&text.replacen("revocation = \"ocsp\"", &line, 1));
        assert!(matches!(wrong, Err(PolicyError::Toml(_))));
    }
    let relaxed = text.replacen("revocation = \"ocsp\"", "revocation = \"not-required\"", 1);
    let relaxed = policy(&relaxed).unwrap().gpu.unwrap().revocation;
    assert_eq!(relaxed, GpuRevocation::NotRequired);
    // Without a table for GPUs, version 3 is version 2.
    let plain = World::new()
        .policy_toml()
        .replacen("version = 2", "version = 3", 1);
    assert_eq!(policy(&plain).unwrap().version, 3);
}

#[test]
fn no_byte_of_a_response_can_be_another() {
    let rack = Rack::new();
    let (policy, counts) = (rack.policy(), rack.counts());
    let mut evidence = rack.evidence(&NONCE);
    for place in 0..evidence.statuses[1].len() {
        evidence.statuses[1][place] ^= 1 << (place % 8);
        let verdict = verify(&evidence, &NONCE, counts, &policy, NOW);
        assert!(verdict.is_err(), "byte {place}");
        evidence.statuses[1][place] ^= 1 << (place % 8);
    }
    assert!(verify(&evidence, &NONCE, counts, &policy, NOW).is_ok());
}
