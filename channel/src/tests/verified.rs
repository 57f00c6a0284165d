//! From real evidence to a session: `attest` with a certificate authority of the tests' own.

use attest::{Evidence, Expectation, Ratchet, Refusal, VerifiedPeer};
use signer::World;

use super::*;

/// A client that has read `evidence`, made for a handshake that `entropy(seed)` began.
fn read(
    seed: u8,
    evidence: impl FnOnce(&World, &attest::Binding) -> Evidence,
) -> (Unverified, Session) {
    let world = World::new();
    let (initiator, message_1) = Initiator::start(entropy(seed)).unwrap();
    let responder = Responder::read_message1(&mut key(), &message_1, entropy(2), START).unwrap();
    let evidence = evidence(&world, &bind(&world, |a, b| responder.binding(a, b)));
    let (reply, established) = responder.reply(START).unwrap();
    let mut unverified = initiator.read_reply(&reply, START).unwrap();
    let (wires, server) = established
        .send_evidence(&evidence.encode(), START)
        .unwrap();
    for wire in wires {
        unverified.read_record(&wire).unwrap();
    }
    (unverified, server)
}

fn bind(world: &World, binding: impl Fn([u8; 32], [u8; 32]) -> attest::Binding) -> attest::Binding {
    let configuration_digest = attest::Digest::sha256(&world.configuration).0;
    binding(configuration_digest, attest::evidence::gpu_digest())
}

fn verify(unverified: &Unverified, binding: attest::Binding) -> Result<VerifiedPeer, Refusal> {
    let evidence = Evidence::decode(unverified.evidence().unwrap()).unwrap();
    attest::verify(
        &evidence,
        &Expectation { binding },
        &World::new().policy(),
        &Ratchet::UNSEEN,
        signer::NOW,
    )
}

fn own(unverified: &Unverified) -> attest::Binding {
    bind(&World::new(), |a, b| unverified.binding(a, b))
}

#[test]
fn a_verified_peer_opens_the_session() {
    let (unverified, mut server) = read(1, |world, binding| world.evidence(binding));
    let peer = verify(&unverified, own(&unverified)).unwrap();
    let mut client = unverified.accept(&peer).unwrap();
    client.write(b"a prompt").unwrap();
    client.flush();
    for wire in records_of_client(&mut client, at(0)) {
        server.receive(&wire, at(0)).unwrap();
    }
    assert_eq!(read_all(&mut server), b"a prompt");
}

#[test]
fn evidence_for_another_handshake_is_refused_by_attest() {
    let (unverified, _) = read(1, |world, _| world.evidence(&world.handshake_binding()));
    let refusal = verify(&unverified, own(&unverified)).unwrap_err();
    assert!(matches!(refusal, Refusal::Quote(_)), "{refusal}");
}

#[test]
fn a_peer_verified_for_another_handshake_is_refused_by_the_channel() {
    let (first, _) = read(1, |world, binding| world.evidence(binding));
    let (second, _) = read(4, |world, binding| world.evidence(binding));
    let peer = verify(&first, own(&first)).unwrap();
    assert_eq!(
        second.accept(&peer).unwrap_err(),
        HandshakeError::OtherHandshake
    );
}

#[test]
fn evidence_for_a_nonce_opens_nothing() {
    let (unverified, _) = read(1, |world, _| world.evidence(&world.nonce_binding([7; 32])));
    let peer = verify(&unverified, World::new().nonce_binding([7; 32])).unwrap();
    assert_eq!(
        unverified.accept(&peer).unwrap_err(),
        HandshakeError::OtherHandshake
    );
}

#[test]
fn a_peer_is_not_accepted_before_its_own_evidence_is_here() {
    let (first, _) = read(1, |world, binding| world.evidence(binding));
    let peer = verify(&first, own(&first)).unwrap();
    let (without, ..) = greet();
    assert_eq!(
        without.accept(&peer).unwrap_err(),
        HandshakeError::EvidenceIncomplete
    );
    let (mut other, established, _) = greet();
    let (wires, _) = established.send_evidence(b"not CBOR", START).unwrap();
    other.read_record(&wires[0]).unwrap();
    assert_eq!(
        other.accept(&peer).unwrap_err(),
        HandshakeError::EvidenceUnreadable
    );
}
