//! The protocol end to end, and each way in which it is refused.

use super::*;
use crate::record::{Kind, Records, Size};

mod records;
mod shape;
mod verified;

const START: Moment = Moment::from_millis(1_000_000);

fn at(millis: u64) -> Moment {
    START.after(millis)
}

fn entropy(seed: u8) -> Entropy {
    Entropy::from_bytes(core::array::from_fn(|i| seed ^ i as u8))
}

fn key() -> StaticKey {
    StaticKey::generate(entropy(9), START).unwrap()
}

/// A handshake up to the point at which the server has to show evidence.
fn greet() -> (Unverified, Established, Transcripts) {
    let mut key = key();
    let (initiator, message_1) = Initiator::start(entropy(1)).unwrap();
    let responder = Responder::read_message1(&mut key, &message_1, entropy(2), START).unwrap();
    let server = responder.binding([5; 32], [6; 32]);
    let (reply, established) = responder.reply(START).unwrap();
    let unverified = initiator.read_reply(&reply, START).unwrap();
    let client = unverified.binding([5; 32], [6; 32]);
    (unverified, established, Transcripts { server, client })
}

struct Transcripts {
    server: attest::Binding,
    client: attest::Binding,
}

/// Two open sessions. Skips verification, which only this crate's own tests can do.
fn pair() -> (Session, Session) {
    let (mut unverified, established, _) = greet();
    let (wires, server) = established.send_evidence(b"evidence", START).unwrap();
    for wire in wires {
        unverified.read_record(&wire).unwrap();
    }
    (unverified.open(), server)
}

fn records_of_client(session: &mut Session, now: Moment) -> Vec<Vec<u8>> {
    let mut wires = Vec::new();
    while let Output::Record(wire) = session.poll(now).unwrap() {
        wires.push(wire);
    }
    wires
}

fn read_all(session: &mut Session) -> Vec<u8> {
    let mut out = vec![0; session.readable()];
    let count = session.read(&mut out);
    assert_eq!(count, out.len());
    out
}

#[test]
fn both_sides_agree_on_what_evidence_binds() {
    let (_, _, both) = greet();
    assert_eq!(
        attest::ReportData::compute(&both.client),
        attest::ReportData::compute(&both.server)
    );
}

#[test]
fn another_nonce_or_key_gives_another_binding() {
    let compute = |client: u8, server: u8| {
        let (_, message_1) = Initiator::start(entropy(client)).unwrap();
        let responder =
            Responder::read_message1(&mut key(), &message_1, entropy(server), START).unwrap();
        attest::ReportData::compute(&responder.binding([5; 32], [6; 32]))
    };
    assert!(compute(1, 2) == compute(1, 2));
    assert!(compute(1, 2) != compute(3, 2), "the client's message");
    assert!(compute(1, 2) != compute(1, 3), "the ciphertext");
}

#[test]
fn a_request_and_an_answer_arrive() {
    let (mut client, mut server) = pair();
    client.write(b"question").unwrap();
    assert_eq!(client.poll(at(0)).unwrap(), Output::Idle, "not flushed");
    client.flush();
    for wire in records_of_client(&mut client, at(0)) {
        assert_eq!(wire.len(), BULK_RECORD_BYTES);
        server.receive(&wire, at(5)).unwrap();
    }
    assert_eq!(read_all(&mut server), b"question");
    server.write(b"answer").unwrap();
    let Output::Record(wire) = server.poll(at(5)).unwrap() else {
        panic!("the first record leaves with the request");
    };
    assert_eq!(wire.len(), RECORD_BYTES);
    client.receive(&wire, at(9)).unwrap();
    assert_eq!(read_all(&mut client), b"answer");
}

#[test]
fn lengths_are_as_documented() {
    let (_, message_1) = Initiator::start(entropy(1)).unwrap();
    assert_eq!(message_1.len(), MESSAGE_1_BYTES);
    assert_eq!((MESSAGE_1_BYTES, REPLY_BYTES), (1_264, 1_184));
    assert_eq!(Size::Bulk.capacity(), 16_365);
    assert_eq!(Size::Interactive.capacity(), 1_005);
}

/// Another program that takes the same randomness must send the same bytes.
#[test]
fn the_wire_format_is_fixed() {
    use sha2::{Digest, Sha256};
    let digest = |bytes: &[u8]| attest::Digest(<[u8; 32]>::from(Sha256::digest(bytes)));
    let (_, message_1) = Initiator::start(entropy(1)).unwrap();
    let responder = Responder::read_message1(&mut key(), &message_1, entropy(2), START).unwrap();
    let binding = attest::ReportData::compute(&responder.binding([5; 32], [6; 32]));
    let (reply, established) = responder.reply(START).unwrap();
    let (wires, mut server) = established.send_evidence(b"evidence", START).unwrap();
    server.write(b"answer").unwrap();
    let Output::Record(record) = server.poll(at(0)).unwrap() else {
        panic!("an answer leaves");
    };
    let found = [
        ("static key", digest(key().public())),
        ("message 1", digest(&message_1)),
        ("report data", digest(binding.as_bytes())),
        ("reply", digest(&reply)),
        ("evidence record", digest(&wires[0])),
        ("data record", digest(&record)),
    ];
    let found = found.map(|(what, digest)| format!("{what} {digest}"));
    assert_eq!(found, WIRE_FORMAT);
}

const WIRE_FORMAT: [&str; 6] = [
    "static key 8d38160ce731784efdd86811075af5ea16c9a1a892669de38f2dd3015c6c7c75",
    "message 1 ec29455f6c8493c941bd05a6b1942b097bc2958b018710bd3e1ecde8ebd4f134",
    "report data f55a45f0d0ec9744682fbe6bbc95f1d51993f3b90fb800fd76009afa108e64a5",
    "reply a786530be0ca80124420807322b8c69cedfc22525c239f3970d671dba84f2f7b",
    "evidence record dea45f3a86565663519e63357458b1119d91229e08f7ebd6a4f0e4a0b908e7f0",
    "data record b69a9bfb50dc8190db6b43dd45a190be23c4db03a03f9cc01c02a215078f7fb7",
];

#[test]
fn message_1_of_another_length_is_refused() {
    for length in [0, MESSAGE_1_BYTES - 1, MESSAGE_1_BYTES + 1, 65_535] {
        let error = Responder::read_message1(&mut key(), &vec![0; length], entropy(2), START);
        let expected = MESSAGE_1_BYTES;
        let found = length;
        assert_eq!(
            error.unwrap_err(),
            HandshakeError::Message1Length { expected, found }
        );
    }
}

#[test]
fn an_altered_message_1_is_refused() {
    let (_, message_1) = Initiator::start(entropy(1)).unwrap();
    for index in (0..MESSAGE_1_BYTES).step_by(97) {
        let mut message = message_1.clone();
        message[index] ^= 1;
        let error = Responder::read_message1(&mut key(), &message, entropy(2), START);
        assert_eq!(error.unwrap_err(), HandshakeError::Message1, "byte {index}");
    }
}

#[test]
fn an_ml_kem_key_out_of_range_is_refused() {
    let message = handshake::foreign_message_1(&[0xff; 1_216]).unwrap();
    let error = Responder::read_message1(&mut key(), &message, entropy(2), START);
    assert_eq!(error.unwrap_err(), HandshakeError::EncapsulationKey);
    assert!(
        fuzzing::payload(&[0; 1_216]),
        "zeros are a key, if a poor one"
    );
}

#[test]
fn an_altered_reply_is_refused() {
    let (_, message_1) = Initiator::start(entropy(1)).unwrap();
    let responder = Responder::read_message1(&mut key(), &message_1, entropy(2), START).unwrap();
    let (reply, _) = responder.reply(START).unwrap();
    // Bytes 0–1087 are the ML-KEM ciphertext, the rest is Noise message 2.
    for index in (0..REPLY_BYTES).step_by(53) {
        let mut reply = reply.clone();
        reply[index] ^= 0x80;
        let (initiator, _) = Initiator::start(entropy(1)).unwrap();
        let error = initiator.read_reply(&reply, START).unwrap_err();
        assert_eq!(error, HandshakeError::Reply, "byte {index}");
    }
}

#[test]
fn a_reply_to_another_handshake_is_refused() {
    let (_, message_1) = Initiator::start(entropy(1)).unwrap();
    let responder = Responder::read_message1(&mut key(), &message_1, entropy(2), START).unwrap();
    let (reply, _) = responder.reply(START).unwrap();
    let (other, _) = Initiator::start(entropy(4)).unwrap();
    assert_eq!(
        other.read_reply(&reply, START).unwrap_err(),
        HandshakeError::Reply
    );
}

#[test]
fn a_reply_of_another_length_is_refused() {
    for found in [0, 1_088, REPLY_BYTES - 1, REPLY_BYTES + 1] {
        let (initiator, _) = Initiator::start(entropy(1)).unwrap();
        let expected = REPLY_BYTES;
        assert_eq!(
            initiator.read_reply(&vec![0; found], START).unwrap_err(),
            HandshakeError::ReplyLength { expected, found }
        );
    }
}

#[test]
fn evidence_of_every_shape_arrives_whole() {
    let capacity = Size::Bulk.capacity();
    for length in [1, capacity - 1, capacity, capacity + 1, MAX_EVIDENCE_BYTES] {
        let (mut unverified, established, _) = greet();
        let evidence: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let (wires, _) = established.send_evidence(&evidence, START).unwrap();
        assert_eq!(wires.len(), length.div_ceil(capacity));
        for (index, wire) in wires.iter().enumerate() {
            assert_eq!(unverified.evidence(), None);
            let complete = unverified.read_record(wire).unwrap();
            assert_eq!(complete, index + 1 == wires.len());
        }
        assert_eq!(unverified.evidence(), Some(evidence.as_slice()));
    }
}

#[test]
fn too_much_evidence_or_none_is_refused_by_the_sender() {
    let (_, established, _) = greet();
    let error = established.send_evidence(&vec![0; MAX_EVIDENCE_BYTES + 1], START);
    assert_eq!(error.unwrap_err(), HandshakeError::EvidenceTooLarge);
    let (_, established, _) = greet();
    let error = established.send_evidence(&[], START);
    assert_eq!(error.unwrap_err(), HandshakeError::EvidenceEmpty);
}

/// What a hostile server could send in place of evidence.
fn hostile(records: &[(Kind, usize)]) -> HandshakeError {
    let (mut unverified, mut established, _) = greet();
    for (kind, length) in records {
        let data = vec![1; *length];
        let wire = established
            .records()
            .seal(*kind, Size::Bulk, &data, START)
            .unwrap();
        if let Err(error) = unverified.read_record(&wire) {
            return error;
        }
    }
    panic!("everything was taken");
}

#[test]
fn hostile_evidence_is_refused_by_the_client() {
    let full = Size::Bulk.capacity();
    let endless = vec![(Kind::Evidence, full); MAX_EVIDENCE_BYTES / full + 2];
    let unexpected = HandshakeError::Record(SessionError::Unexpected);
    assert_eq!(hostile(&endless), HandshakeError::EvidenceTooLarge);
    assert_eq!(
        hostile(&[(Kind::EvidenceEnd, 0)]),
        HandshakeError::EvidenceEmpty
    );
    assert_eq!(hostile(&[(Kind::Evidence, 10)]), unexpected, "not full");
    assert_eq!(hostile(&[(Kind::Evidence, 0)]), unexpected, "empty");
    assert_eq!(hostile(&[(Kind::Data, 10)]), unexpected);
    assert_eq!(hostile(&[(Kind::Close, 0)]), unexpected);
    let twice = [(Kind::EvidenceEnd, 1), (Kind::EvidenceEnd, 1)];
    assert_eq!(hostile(&twice), unexpected);
}

#[test]
fn a_static_key_serves_its_count_and_its_day() {
    let mut key = key();
    let (_, message_1) = Initiator::start(entropy(1)).unwrap();
    for _ in 0..STATIC_KEY_MAX_SESSIONS {
        assert_eq!(key.due(at(0)), None);
        key.serve(at(0)).unwrap();
    }
    assert_eq!(key.due(at(0)), Some(Rotation::Sessions));
    let error = Responder::read_message1(&mut key, &message_1, entropy(2), START);
    assert_eq!(
        error.unwrap_err(),
        HandshakeError::StaticKeyDue(Rotation::Sessions)
    );
    let mut key = StaticKey::generate(entropy(9), START).unwrap();
    assert_eq!(key.due(at(STATIC_KEY_MAX_AGE_MS - 1)), None);
    let late = at(STATIC_KEY_MAX_AGE_MS);
    let error = Responder::read_message1(&mut key, &message_1, entropy(2), late);
    assert_eq!(
        error.unwrap_err(),
        HandshakeError::StaticKeyDue(Rotation::Age)
    );
}

#[test]
fn two_draws_of_the_system_differ() {
    let (one, two) = (Entropy::from_os().unwrap(), Entropy::from_os().unwrap());
    assert_ne!(*one.take::<0, 128>(), *two.take::<0, 128>());
}

#[test]
fn debug_shows_no_content() {
    let (mut client, _) = pair();
    client.write(b"a secret").unwrap();
    let shown = format!("{client:?} {:?}", key());
    assert!(
        !shown.contains("secret") && !shown.contains("[97"),
        "{shown}"
    );
}
