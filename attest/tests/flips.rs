//! Nothing flipped is ever accepted, unless it changes nothing that anyone relies on.
//!
//! What is not covered by a signature, each with its reason:
//!
//! - SHA-256 digests in the event log, and the digests of events that measure nothing: only the
//!   SHA-384 bank is quoted, and only its digests are replayed.
//! - An event's type, and its data where the digest is not the hash of the data: the specification
//!   has them describe what was measured. Nothing reads them, and the one that is read (Secure
//!   Boot) is checked by digest and place.
//! - Class, minor version, errata and word size in the log's first event: nothing depends on them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::ops::Range;

use attest::{Binding, Claim, Evidence, Expectation, Policy, Ratchet, Refusal, verify};
use signer::amd::{machine_evidence, machine_world};
use signer::boot::{self, Event};
use signer::intel::{domain_evidence, domain_world};
use signer::nvidia::{Rack, rack_evidence, rack_world};
use signer::{NOW, World};

/// Types whose data is compared with their digest.
const CHECKED: [u32; 8] = [
    4,
    5,
    8,
    0x8000_0001,
    0x8000_0002,
    0x8000_0007,
    0x8000_000c,
    0x8000_00e0,
];

fn claims(world: &World, policy: &Policy, bytes: &[u8]) -> Result<Vec<Claim>, Refusal> {
    claims_for(world.handshake_binding(), policy, bytes)
}

fn claims_for(binding: Binding, policy: &Policy, bytes: &[u8]) -> Result<Vec<Claim>, Refusal> {
    let expectation = Expectation { binding };
    let evidence = Evidence::decode(bytes)?;
    let peer = verify(&evidence, &expectation, policy, &Ratchet::UNSEEN, NOW)?;
    Ok(peer.claims().to_vec())
}

/// The parts of an encoded log that nothing depends on.
fn unsigned(events: &[Event]) -> Vec<Range<usize>> {
    let mut place = boot::spec_id().len();
    let mut ranges = vec![48..53, 54..56];
    for event in events {
        let (kind, sha256, sha384) = (place + 4, place + 14, place + 14 + 32 + 2);
        let data = sha384 + 48 + 4;
        ranges.extend([kind..kind + 4, sha256..sha256 + 32]);
        if event.kind == 3 {
            ranges.push(sha384..sha384 + 48);
        }
        place = data + event.data.len();
        if !CHECKED.contains(&event.kind) {
            ranges.push(data..place);
        } else if event.kind == 0x8000_0002 {
            ranges.push(data..data + 50); // vendor, lengths and name; the value is measured
        }
    }
    ranges
}

#[test]
fn nothing_flipped_is_accepted() {
    let world = World::new();
    let policy = world.policy();
    let genuine = world.evidence(&world.handshake_binding()).encode();
    let expected = claims(&world, &policy, &genuine).unwrap();
    let log = boot::encode(&world.events);
    let start = genuine
        .windows(log.len())
        .position(|window| window == log)
        .unwrap();
    let unsigned = unsigned(&world.events);

    let mut accepted = 0;
    for place in (0..genuine.len()).step_by(11) {
        let mut bytes = genuine.clone();
        bytes[place] ^= 1 << (place % 8);
        if let Ok(found) = claims(&world, &policy, &bytes) {
            let listed = place
                .checked_sub(start)
                .is_some_and(|within| unsigned.iter().any(|range| range.contains(&within)));
            assert!(listed, "byte {place} of {} is not listed", genuine.len());
            assert_eq!(found, expected, "byte {place} changes a claim");
            accepted += 1;
        }
    }
    assert!(accepted > 0, "the list is not needed");
}

/// With SEV-SNP every byte is signed, or has one value only: there is no list.
#[test]
fn nothing_flipped_is_accepted_from_a_machine_with_snp() {
    let (world, machine, policy) = machine_world();
    let binding = world.handshake_binding();
    let genuine = machine_evidence(&world, &machine, &binding).encode();
    let accepted = claims(&world, &policy, &genuine).unwrap();
    assert!(!accepted.is_empty());
    for place in (0..genuine.len()).step_by(13) {
        let mut bytes = genuine.clone();
        bytes[place] ^= 1 << (place % 8);
        assert!(
            claims(&world, &policy, &bytes).is_err(),
            "byte {place} of {}",
            genuine.len()
        );
    }
}

/// With TDX every byte is signed, or has one value only, but for those of the event log that the
/// list above names.
#[test]
fn nothing_flipped_is_accepted_from_a_trust_domain() {
    let (world, domain, policy) = domain_world();
    let binding = world.handshake_binding();
    let genuine = domain_evidence(&world, &domain, &binding).encode();
    let expected = claims(&world, &policy, &genuine).unwrap();
    let log = boot::encode_ccel(&domain.events);
    let mut windows = genuine.windows(log.len());
    let start = windows.position(|window| window == log).unwrap();
    let unsigned = unsigned(&domain.events);
    for place in (0..genuine.len()).step_by(13) {
        let mut bytes = genuine.clone();
        bytes[place] ^= 1 << (place % 8);
        if let Ok(found) = claims(&world, &policy, &bytes) {
            let listed = place
                .checked_sub(start)
                .is_some_and(|within| unsigned.iter().any(|range| range.contains(&within)));
            assert!(listed, "byte {place} of {} is not listed", genuine.len());
            assert_eq!(found, expected, "byte {place} changes a claim");
        }
    }
}

/// What GPUs and NVIDIA add is signed to the last byte: white space between the attributes of a
/// manifest is the exception, and no single bit turns one kind of it into another.
#[test]
fn nothing_flipped_is_accepted_from_a_machine_with_a_gpu() {
    let rack = Rack::new();
    let (world, policy) = rack_world(&rack);
    let (binding, evidence) = rack_evidence(&world, &rack, [7; 32]);
    let genuine = evidence.encode();
    assert!(claims_for(binding, &policy, &genuine).is_ok());
    let of = |part: &[u8]| {
        let mut windows = genuine.windows(part.len());
        let start = windows.position(|window| window == part).unwrap();
        start..start + part.len()
    };
    let device = &evidence.gpu.devices[0];
    let parts = [
        (of(&device.report), 29),
        (of(&device.certificates[0]), 13),
        (of(&evidence.gpu.manifests[1]), 97),
        (of(&evidence.gpu.revocation_lists[1]), 13),
        (of(&evidence.gpu.statuses[0]), 13),
    ];
    for (place, step) in parts
        .into_iter()
        .flat_map(|(part, step)| part.step_by(step).map(move |place| (place, step)))
    {
        let mut bytes = genuine.clone();
        bytes[place] ^= 1 << (place / step % 8);
        let verdict = claims_for(binding, &policy, &bytes);
        assert!(verdict.is_err(), "byte {place} of {}", genuine.len());
    }
}
