//! For what signers, witnesses and rebuilders vouch, and what one of them cannot do alone.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::policy::ReleasePolicy;
use attest::release::statement::{
    MAX_NUMBER, RebuildStatement, SnpLaunchDigest, SnpReferenceValues, Statement, Subject,
};
use attest::release::{NoSigstore, StatementError};
use attest::{Digest, Ratchet, Refusal, learn, verify_release};
use signer::{ISSUED, NOW, World, release};

/// One rebuilder is demanded, no witness.
fn policy() -> ReleasePolicy {
    let mut policy = World::new().policy().release;
    policy.minimum_rebuilders = 1;
    policy.log_mut().unwrap().minimum_witnesses = 0;
    policy
}

/// Whoever rebuilt one release has said nothing of another one of the same sources and files, by
/// which another machine would be recognised.
#[test]
fn a_rebuild_confirms_what_a_machine_is_judged_by() {
    let honest = World::new();
    let judge = |change: &dyn Fn(&mut World)| {
        let mut log = honest.log();
        let rebuilt = release::rebuild(&honest.statement(), ISSUED).encode();
        let remark = log.append(&release::sign(&rebuilt, &honest.rebuilder_key));
        let mut other = honest.clone();
        change(&mut other);
        let index = log.append(&other.envelope());
        let bundle = log.bundle(index, &[remark], log.checkpoint(), 256).encode();
        verify_release(&bundle, &policy(), &Ratchet::UNSEEN, NOW)
    };
    let unconfirmed = Refusal::Rebuilders {
        demanded: 1,
        found: 0,
    };
    assert_eq!(judge(&|_| {}).unwrap().rebuilders().len(), 1);
    // Another number alone is no other software.
    assert!(judge(&|other| other.predicate.version = 8).is_ok());
    let changes: [&dyn Fn(&mut World); 4] = [
        &|other| other.predicate.reference_values.tpm.sha256.pcr11 = Digest([0xee; 32]),
        &|other| other.predicate.reference_values.tpm.sha384.pcr4 = Digest([0xee; 48]),
        &|other| {
            let machine = "qemu-epyc-v4-8".parse().unwrap();
            let digest = Digest([0xee; 48]);
            other.predicate.reference_values.snp = Some(SnpReferenceValues {
                launch_digests: vec![SnpLaunchDigest { machine, digest }],
            });
        },
        &|other| other.predicate.configuration_digest = Digest([0xee; 32]),
    ];
    for change in changes {
        assert_eq!(judge(change).unwrap_err(), unconfirmed);
    }
}

#[test]
fn a_statement_of_nothing_is_none() {
    let mut statement = World::new().statement();
    let mut rebuilt = release::rebuild(&statement, ISSUED);
    (statement.subject, rebuilt.subject) = (Vec::new(), Vec::new());
    let empty = Err(StatementError::List);
    assert_eq!(Statement::decode(&statement.encode()), empty);
    let read = RebuildStatement::decode(&rebuilt.encode());
    assert_eq!(read, Err(StatementError::List));
    for version in [0, MAX_NUMBER + 1, u64::MAX] {
        let mut statement = World::new().statement();
        statement.predicate.version = version;
        let read = Statement::decode(&statement.encode());
        assert_eq!(read, Err(StatementError::Number), "{version}");
    }
}

/// A rebuild with another artifact, or one more, is of something else.
#[test]
fn a_rebuild_has_the_same_artifacts_and_no_others() {
    let world = World::new();
    for change in [
        |rebuilt: &mut Vec<Subject>| rebuilt[0].digest.sha256 = Digest([0xee; 32]),
        |rebuilt: &mut Vec<Subject>| {
            let mut more = rebuilt[0].clone();
            more.name = "zzz".parse().unwrap();
            rebuilt.push(more);
        },
    ] {
        let mut rebuilt = release::rebuild(&world.statement(), ISSUED);
        change(&mut rebuilt.subject);
        let mut log = world.log();
        let index = log.append(&world.envelope());
        let remark = log.append(&release::sign(&rebuilt.encode(), &world.rebuilder_key));
        let bundle = log.bundle(index, &[remark], log.checkpoint(), 256).encode();
        let refusal = verify_release(&bundle, &policy(), &Ratchet::UNSEEN, NOW).unwrap_err();
        assert!(
            matches!(refusal, Refusal::Rebuilders { found: 0, .. }),
            "{refusal}"
        );
    }
}

#[test]
fn two_releases_of_one_version_are_not_both_accepted() {
    let world = World::new();
    let mut policy = policy();
    policy.minimum_rebuilders = 0;
    let mut log = world.log();
    let one = log.append(&world.envelope());
    let mut other = world.clone();
    other.predicate.reference_values.tpm.sha256.pcr11 = Digest([0xee; 32]);
    let two = log.append(&other.envelope());
    let bundle = |index| log.bundle(index, &[], log.checkpoint(), 256).encode();
    let first = verify_release(&bundle(one), &policy, &Ratchet::UNSEEN, NOW).unwrap();
    let seen = Ratchet::UNSEEN.advance(&first).unwrap();
    assert!(verify_release(&bundle(one), &policy, &seen, NOW).is_ok());
    assert_eq!(
        verify_release(&bundle(two), &policy, &seen, NOW).unwrap_err(),
        Refusal::OtherRelease {
            version: 7,
            seen: Digest::sha256(&world.statement().encode()),
            found: Digest::sha256(&other.statement().encode()),
        }
    );
}

#[test]
fn a_revocation_is_learnt_from_a_release_that_is_refused() {
    let world = World::new();
    let mut policy = policy();
    policy.minimum_rebuilders = 0;
    let mut log = world.log();
    let index = log.append(&world.envelope());
    let before = log.bundle(index, &[], log.checkpoint(), 256).encode();
    let status = release::status(&world.statement(), ISSUED + 60, &[7]);
    let remark = log.append(&release::sign(&status.encode(), &world.release_key));
    let revoked = log.bundle(index, &[remark], log.checkpoint(), 256).encode();
    let judge = |bundle: &[u8], ratchet: &Ratchet| {
        let ratchet = learn(bundle, &policy, ratchet, &NoSigstore);
        let refusal = verify_release(bundle, &policy, &ratchet, NOW).err();
        (ratchet, refusal)
    };
    let (seen, refusal) = judge(&before, &Ratchet::UNSEEN);
    assert_eq!((refusal, seen.log().unwrap().size()), (None, 1));
    let (seen, refusal) = judge(&revoked, &seen);
    assert!(matches!(refusal, Some(Refusal::Revoked(_))));
    let (seen, refusal) = judge(&before, &seen);
    assert!(matches!(refusal, Some(Refusal::Revoked(_))));
    assert_eq!(seen.log().unwrap().size(), 2);
    // Another product's release teaches nothing of this one.
    let mut other = policy.clone();
    other.name = "another".parse().unwrap();
    assert_eq!(
        learn(&revoked, &other, &Ratchet::UNSEEN, &NoSigstore),
        Ratchet::UNSEEN
    );
}
