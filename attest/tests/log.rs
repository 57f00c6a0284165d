//! Logs, witnesses, signers and rebuilders that betray, and what a client's memory makes of them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::policy::{MaximumAge, ReleasePolicy};
use attest::release::{
    Bundle, CheckpointError, EnvelopeError, History, ReleaseError, StatementError, VerifiedRelease,
};
use attest::{Class, Digest, Ratchet, Refusal, UnixTime, verify_release};
use ed25519_dalek::SigningKey;
use signer::log::{Cosigner, Log};
use signer::{ISSUED, NOW, World, release};

type Verdict = Result<VerifiedRelease, Refusal>;

/// A policy that demands neither witnesses nor rebuilders, for tests of something else.
fn plain() -> ReleasePolicy {
    let mut policy = World::new().policy().release;
    policy.minimum_rebuilders = 0;
    witnesses(&mut policy, 0);
    policy
}

fn witnesses(policy: &mut ReleasePolicy, minimum: usize) {
    policy.log_mut().unwrap().minimum_witnesses = minimum;
}

fn judge(bundle: &Bundle, policy: &ReleasePolicy, ratchet: &Ratchet) -> Verdict {
    let verdict = verify_release(&bundle.encode(), policy, ratchet, NOW);
    if let Err(refusal) = &verdict {
        assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    }
    verdict
}

fn refused(bundle: &Bundle, policy: &ReleasePolicy, ratchet: &Ratchet) -> (Refusal, Class) {
    let refusal = judge(bundle, policy, ratchet).unwrap_err();
    let class = refusal.class();
    (refusal, class)
}

/// A log of `others` entries and then the world's release.
fn log_of(others: u8) -> (World, Log, u64) {
    let world = World::new();
    let mut log = world.log();
    (0..others).for_each(|entry| log.append_other(&[entry]));
    let index = log.append(&world.envelope());
    (world, log, index)
}

/// What a client remembers that has accepted this bundle.
fn after(bundle: &Bundle) -> Ratchet {
    let verified = judge(bundle, &plain(), &Ratchet::UNSEEN).unwrap();
    Ratchet::UNSEEN.advance(&verified).unwrap()
}

fn short(log: &Log, index: u64, length: usize) -> Bundle {
    log.bundle(index, &[], log.checkpoint(), length)
}

#[test]
fn a_log_that_grew_is_followed_and_an_earlier_state_is_known_again() {
    let (_, mut log, index) = log_of(3);
    let old = short(&log, index, 256);
    let before = after(&old);
    assert_eq!(before.log().unwrap().size(), 4);
    for entry in 10..60u8 {
        log.append_other(&[entry]);
        let new = short(&log, index, 256);
        let verified = judge(&new, &plain(), &before).unwrap();
        let now = before.advance(&verified).unwrap();
        assert_eq!(now.log().unwrap().size(), u64::from(entry) - 5);
        // Another server may still show the earlier state: it is a part of what is known.
        let verified = judge(&old, &plain(), &now).unwrap();
        assert_eq!(now.advance(&verified).unwrap(), now);
    }
}

#[test]
fn a_log_with_two_faces_is_refused_whichever_face_comes_first() {
    let (_, log, index) = log_of(3);
    let (mut one, mut two) = (log.clone(), log);
    one.append_other(b"what the auditor is shown");
    two.append_other(b"what the victim is shown");
    two.append_other(b"and something more");
    for (first, second) in [(&one, &two), (&two, &one)] {
        let seen = after(&short(first, index, 256));
        let (refusal, class) = refused(&short(second, index, 256), &plain(), &seen);
        assert!(
            matches!(refusal, Refusal::SplitView { size: 5, .. }),
            "{refusal}"
        );
        assert_eq!(class, Class::Log);
    }
}

#[test]
fn a_log_of_the_same_size_with_another_entry_is_refused() {
    let (_, log, index) = log_of(3);
    let (mut one, mut two) = (log.clone(), log);
    one.append_other(b"one");
    two.append_other(b"two");
    let (refusal, _) = refused(
        &short(&two, index, 256),
        &plain(),
        &after(&short(&one, index, 256)),
    );
    assert!(
        matches!(refusal, Refusal::SplitView { size: 5, .. }),
        "{refusal}"
    );
}

/// The log went back and grew again in another way: entries that were seen are missing.
#[test]
fn a_log_that_was_rolled_back_is_refused() {
    let (_, mut log, index) = log_of(3);
    let backup = log.clone();
    log.append_other(b"a revocation");
    let seen = after(&short(&log, index, 256));
    let mut again = backup;
    again.append_other(b"something harmless");
    again.append_other(b"and more of it");
    let (refusal, class) = refused(&short(&again, index, 256), &plain(), &seen);
    assert!(
        matches!(refusal, Refusal::SplitView { size: 5, .. }),
        "{refusal}"
    );
    assert_eq!(class, Class::Log);
}

#[test]
fn a_history_must_reach_back_to_what_was_seen() {
    let (_, mut log, index) = log_of(3);
    let seen = after(&short(&log, index, 256));
    (0..9u8).for_each(|entry| log.append_other(&[entry]));
    assert!(judge(&short(&log, index, 9), &plain(), &seen).is_ok());
    let (refusal, class) = refused(&short(&log, index, 8), &plain(), &seen);
    assert_eq!(refusal, Refusal::HistoryTooShort { size: 4, from: 5 });
    assert_eq!(class, Class::Log);
    // The other way round: what the client remembers begins after an old state.
    let known = after(&short(&log, index, 1));
    let (_, old, _) = log_of(3);
    let (refusal, _) = refused(&short(&old, index, 256), &plain(), &known);
    assert_eq!(refusal, Refusal::HistoryTooShort { size: 4, from: 12 });
}

#[test]
fn a_history_of_another_log_is_refused() {
    let (_, log, index) = log_of(3);
    let sound = short(&log, index, 256);
    let size = 4;
    let leaf = |text: &[u8]| attest::release::merkle::leaf_hash(text);
    let leaves: Vec<_> = [&b"0"[..], b"1", b"2", b"3"].map(leaf).to_vec();
    for history in [
        History::of(&leaves, 256).unwrap(),
        History::of(&leaves[..3], 256).unwrap(),
        History::of(&[leaves.clone(), leaves].concat(), 256).unwrap(),
    ] {
        let mut other = sound.clone();
        other.log.history = history;
        let (refusal, class) = refused(&other, &plain(), &Ratchet::UNSEEN);
        assert_eq!(refusal, Refusal::Release(ReleaseError::History { size }));
        assert_eq!(class, Class::Log);
    }
}

#[test]
fn a_log_of_another_name_or_key_is_refused() {
    let (world, _, _) = log_of(0);
    let mut log = Log::new("log.example.org/another", &world.log_key);
    log.append(&world.envelope());
    let (refusal, class) = refused(&short(&log, 0, 256), &plain(), &Ratchet::UNSEEN);
    let origin = matches!(
        refusal,
        Refusal::Release(ReleaseError::Checkpoint(CheckpointError::Origin { .. }))
    );
    assert!(origin, "{refusal}");
    assert_eq!(class, Class::Log);
    let mut log = Log::new(&world.origin, &SigningKey::from_bytes(&[0x66; 32]));
    log.append(&world.envelope());
    let (refusal, _) = refused(&short(&log, 0, 256), &plain(), &Ratchet::UNSEEN);
    let unsigned = matches!(
        refusal,
        Refusal::Release(ReleaseError::Checkpoint(CheckpointError::Unsigned { .. }))
    );
    assert!(unsigned, "{refusal}");
}

#[test]
fn enough_witnesses_of_the_policy_must_have_signed() {
    let (world, log, index) = log_of(3);
    let mut policy = plain();
    witnesses(&mut policy, 2);
    let with = |witnesses: &[Cosigner]| {
        let note = log.witnessed(witnesses, NOW);
        judge(
            &log.bundle(index, &[], note, 256),
            &policy,
            &Ratchet::UNSEEN,
        )
    };
    let verified = with(&world.witnesses[1..]).unwrap();
    let names: Vec<_> = verified
        .witnesses()
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(
        names,
        ["witness.example.org/two", "witness.example.org/three"]
    );
    assert_eq!(with(&world.witnesses).unwrap().witnesses().len(), 3);
    let too_few = |found| Refusal::Release(ReleaseError::Witnesses { demanded: 2, found });
    let twice = [world.witnesses[0].clone(), world.witnesses[0].clone()];
    let stranger = [Cosigner::new("witness.example.org/four", 0x70)];
    for (witnesses, found) in [
        (&world.witnesses[..0], 0),
        (&world.witnesses[..1], 1),
        (&twice, 1),
        (&stranger, 0),
    ] {
        let refusal = with(witnesses).unwrap_err();
        assert_eq!(refusal, too_few(found));
        assert_eq!(refusal.class(), Class::Log);
    }
}

#[test]
fn a_cosignature_is_of_this_checkpoint_and_this_time() {
    let (world, log, index) = log_of(3);
    let witness = &world.witnesses[0];
    let mut policy = plain();
    witnesses(&mut policy, 1);
    let forged = Refusal::Release(ReleaseError::Checkpoint(CheckpointError::Cosignature {
        witness: witness.witness.name.clone(),
    }));
    let note = log.checkpoint();
    let verdict = |line: String| {
        let bundle = log.bundle(index, &[], note.clone() + &line, 256);
        judge(&bundle, &policy, &Ratchet::UNSEEN)
    };
    assert!(verdict(witness.sign(&note, NOW)).is_ok());
    let mut other = log.clone();
    other.append_other(b"more");
    assert_eq!(
        verdict(witness.sign(&other.checkpoint(), NOW)).unwrap_err(),
        forged
    );
    // Another time in the line than the one that was signed, and a line that is cut short.
    let line = witness.sign(&note, NOW);
    let late = witness.sign(&note, UnixTime::from_secs(NOW.as_secs() + 1));
    let (head, blob) = line.trim_end().rsplit_once(' ').unwrap();
    let late = late.trim_end().rsplit_once(' ').unwrap().1;
    let mixed = format!("{head} {}{}\n", &late[..16], &blob[16..]);
    assert_eq!(verdict(mixed).unwrap_err(), forged);
    assert_eq!(
        verdict(format!("{head} {}\n", &blob[..96])).unwrap_err(),
        forged
    );
}

/// A witness that signs both faces of a log helps the log, and only as far as its own weight goes:
/// the client's memory finds it out.
#[test]
fn an_equivocating_witness_does_not_hide_a_split_view() {
    let (world, log, index) = log_of(3);
    let (mut one, mut two) = (log.clone(), log);
    one.append_other(b"one");
    two.append_other(b"two");
    let mut policy = plain();
    witnesses(&mut policy, 1);
    let traitor = &world.witnesses[..1];
    let bundle = |log: &Log| log.bundle(index, &[], log.witnessed(traitor, NOW), 256);
    let verified = judge(&bundle(&one), &policy, &Ratchet::UNSEEN).unwrap();
    let seen = Ratchet::UNSEEN.advance(&verified).unwrap();
    let (refusal, _) = refused(&bundle(&two), &policy, &seen);
    assert!(matches!(refusal, Refusal::SplitView { .. }), "{refusal}");
    // A fresh client sees only one face: it needs a second witness, who is honest.
    assert!(judge(&bundle(&two), &policy, &Ratchet::UNSEEN).is_ok());
    witnesses(&mut policy, 2);
    assert!(judge(&bundle(&two), &policy, &Ratchet::UNSEEN).is_err());
}

#[test]
fn an_old_release_needs_a_recent_status() {
    let world = World::new();
    let mut policy = plain();
    policy.maximum_age_days = MaximumAge::Days(30);
    let day = 24 * 60 * 60;
    let at = |log: &Log, remarks: &[u64], days: u64| {
        let bundle = log.bundle(0, remarks, log.checkpoint(), 256).encode();
        let now = UnixTime::from_secs(ISSUED + days * day);
        verify_release(&bundle, &policy, &Ratchet::UNSEEN, now)
    };
    let mut log = world.log();
    log.append(&world.envelope());
    assert!(at(&log, &[], 30).is_ok());
    let refusal = at(&log, &[], 31).unwrap_err();
    let confirmed = UnixTime::from_secs(ISSUED);
    assert_eq!(
        refusal,
        Refusal::Stale {
            confirmed,
            maximum: 30
        }
    );
    assert_eq!(refusal.class(), Class::Policy);
    let status = release::status(&world.statement(), ISSUED + 20 * day, &[]);
    let remark = log.append(&release::sign(&status.encode(), &world.release_key));
    assert!(at(&log, &[remark], 50).is_ok());
    assert!(matches!(
        at(&log, &[remark], 51),
        Err(Refusal::Stale { .. })
    ));
    // A status of another release confirms nothing of this one, and revokes nothing of it.
    let mut other = world.statement();
    other.predicate.version = 8;
    let status = release::status(&other, ISSUED + 20 * day, &[7]);
    let remark = log.append(&release::sign(&status.encode(), &world.release_key));
    assert!(matches!(
        at(&log, &[remark], 50),
        Err(Refusal::Stale { .. })
    ));
}

#[test]
fn a_status_counts_only_if_a_signer_of_the_policy_made_it_and_the_log_holds_it() {
    let (world, mut log, index) = log_of(3);
    let status = release::status(&world.statement(), ISSUED + 60, &[]).encode();
    let stranger = SigningKey::from_bytes(&[0x66; 32]);
    let remark = log.append(&release::sign(&status, &stranger));
    let strange = log.bundle(index, &[remark], log.checkpoint(), 256);
    let (refusal, class) = refused(&strange, &plain(), &Ratchet::UNSEEN);
    let unknown = ReleaseError::Envelope(EnvelopeError::UnknownSigner);
    assert_eq!(
        (refusal, class),
        (Refusal::Release(unknown), Class::Signature)
    );
    let remark = log.append(&release::sign(&status, &world.release_key));
    let mut unlogged = log.bundle(index, &[remark], log.checkpoint(), 256);
    assert!(judge(&unlogged, &plain(), &Ratchet::UNSEEN).is_ok());
    unlogged.remarks[0].proof[0].0[0] ^= 1;
    let (refusal, class) = refused(&unlogged, &plain(), &Ratchet::UNSEEN);
    let outside = ReleaseError::Inclusion { index: 5, size: 6 };
    assert_eq!((refusal, class), (Refusal::Release(outside), Class::Log));
    let remark = log.append(&release::sign(b"{}", &world.release_key));
    let other = log.bundle(index, &[remark], log.checkpoint(), 256);
    let (refusal, _) = refused(&other, &plain(), &Ratchet::UNSEEN);
    let kind = matches!(
        refusal,
        Refusal::Release(ReleaseError::Remark(StatementError::Json { .. }))
    );
    assert!(kind, "{refusal}");
}

#[test]
fn a_revoked_release_is_refused_and_the_revocation_is_remembered() {
    let (world, mut log, index) = log_of(3);
    let status = release::status(&world.statement(), ISSUED + 60, &[7]);
    let remark = log.append(&release::sign(&status.encode(), &world.release_key));
    let revoked = log.bundle(index, &[remark], log.checkpoint(), 256);
    let (refusal, class) = refused(&revoked, &plain(), &Ratchet::UNSEEN);
    assert!(
        matches!(&refusal, Refusal::Revoked(one) if one.version == 7),
        "{refusal}"
    );
    assert_eq!(class, Class::Policy);
    // Version 7 runs, and says that 8 is revoked: whoever saw that refuses 8 later.
    let status = release::status(&world.statement(), ISSUED + 60, &[6, 8]);
    let remark = log.append(&release::sign(&status.encode(), &world.release_key));
    let warning = log.bundle(index, &[remark], log.checkpoint(), 256);
    let seen = after(&warning);
    let versions: Vec<_> = seen.revocations().iter().map(|one| one.version).collect();
    assert_eq!(versions, [8]);
    let mut next = world.clone();
    next.predicate.version = 8;
    let place = log.append(&next.envelope());
    let bundle = short(&log, place, 256);
    assert!(judge(&bundle, &plain(), &Ratchet::UNSEEN).is_ok());
    let (refusal, _) = refused(&bundle, &plain(), &seen);
    assert!(
        matches!(&refusal, Refusal::Revoked(one) if one.version == 8),
        "{refusal}"
    );
}

#[test]
fn a_release_that_revokes_itself_comes_from_the_future_or_needs_a_newer_client_is_refused() {
    let with = |change: fn(&mut World)| {
        let mut world = World::new();
        change(&mut world);
        let mut log = world.log();
        let index = log.append(&world.envelope());
        refused(&short(&log, index, 256), &plain(), &Ratchet::UNSEEN)
    };
    let (refusal, _) = with(|world| {
        world.predicate.revocations = release::status(&world.statement(), 0, &[7])
            .predicate
            .revocations;
    });
    assert!(matches!(refusal, Refusal::Revoked(_)), "{refusal}");
    let (refusal, class) = with(|world| world.predicate.issued = NOW.as_secs() + 601);
    assert!(
        matches!(refusal, Refusal::FromTheFuture { .. }),
        "{refusal}"
    );
    assert_eq!(class, Class::Policy);
    let (refusal, class) = with(|world| {
        world.predicate.minimum_client = "9999.0.0".parse().unwrap();
    });
    assert!(matches!(refusal, Refusal::ClientTooOld { .. }), "{refusal}");
    assert_eq!(class, Class::Policy);
}

#[test]
fn enough_rebuilders_of_the_policy_must_have_got_the_same_artifacts() {
    let (world, mut log, index) = log_of(3);
    let mut policy = plain();
    policy.minimum_rebuilders = 1;
    let mut add =
        |key: &SigningKey, change: fn(&mut attest::release::statement::RebuildStatement)| {
            let mut rebuilt = release::rebuild(&world.statement(), ISSUED);
            change(&mut rebuilt);
            log.append(&release::sign(&rebuilt.encode(), key))
        };
    let alice = &world.rebuilder_key;
    let stranger = SigningKey::from_bytes(&[0x66; 32]);
    let sound = add(alice, |_| {});
    let by_a_stranger = add(&stranger, |_| {});
    let other_source = add(alice, |made| {
        made.predicate.source_revision = "other".parse().unwrap()
    });
    let other_lock = add(alice, |made| made.predicate.lock_digest = Digest::ZERO);
    let other_bits = add(alice, |made| made.subject[0].digest.sha256 = Digest::ZERO);
    let other_values = add(alice, |made| {
        made.predicate.reference_values.tpm.sha256.pcr11 = Digest::ZERO;
    });
    let with = |remarks: &[u64]| {
        let bundle = log.bundle(index, remarks, log.checkpoint(), 256);
        judge(&bundle, &policy, &Ratchet::UNSEEN)
    };
    let verified = with(&[sound, by_a_stranger]).unwrap();
    assert_eq!(verified.rebuilders(), ["alice".parse().unwrap()]);
    for remark in [
        by_a_stranger,
        other_source,
        other_lock,
        other_bits,
        other_values,
    ] {
        let refusal = with(&[remark]).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Rebuilders {
                demanded: 1,
                found: 0
            }
        );
        assert_eq!(refusal.class(), Class::Policy);
    }
    // One who says it twice is still one.
    let mut two = policy.clone();
    two.minimum_rebuilders = 2;
    let twice = log.bundle(index, &[sound, sound], log.checkpoint(), 256);
    let (refusal, _) = refused(&twice, &two, &Ratchet::UNSEEN);
    assert_eq!(
        refusal,
        Refusal::Rebuilders {
            demanded: 2,
            found: 1
        }
    );
}

#[test]
fn a_bundle_has_a_bounded_number_of_remarks() {
    let (world, mut log, index) = log_of(3);
    let rebuilt = release::rebuild(&world.statement(), ISSUED);
    let remark = log.append(&release::sign(&rebuilt.encode(), &world.rebuilder_key));
    let with = |count: usize| log.bundle(index, &vec![remark; count], log.checkpoint(), 256);
    assert!(judge(&with(16), &plain(), &Ratchet::UNSEEN).is_ok());
    let (refusal, _) = refused(&with(17), &plain(), &Ratchet::UNSEEN);
    let many = attest::release::BundleError::Remarks { found: 17 };
    assert_eq!(refusal, Refusal::Release(ReleaseError::Bundle(many)));
}
