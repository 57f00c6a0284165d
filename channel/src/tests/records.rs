//! Records: tampering, order, length, life, keys.

use proptest::prelude::*;

use super::*;

/// A request of the client in records of its own.
fn request(client: &mut Session, data: &[u8]) -> Vec<Vec<u8>> {
    assert_eq!(client.write(data).unwrap(), data.len());
    client.flush();
    records_of_client(client, at(0))
}

#[test]
fn a_stream_of_every_length_arrives() {
    for length in [1, 16_364, 16_365, 16_366, 100_000] {
        let (mut client, mut server) = pair();
        let data: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        for wire in request(&mut client, &data) {
            server.receive(&wire, at(0)).unwrap();
        }
        assert_eq!(read_all(&mut server), data);
    }
}

#[test]
fn an_altered_record_ends_the_session() {
    for index in [0, 1, 2, 3, 500, 16_000, BULK_RECORD_BYTES - 1] {
        let (mut client, mut server) = pair();
        let mut wire = request(&mut client, b"hello").remove(0);
        let good = wire.clone();
        wire[index] ^= 1;
        assert_eq!(
            server.receive(&wire, at(0)),
            Err(SessionError::Authentication)
        );
        assert_eq!(server.receive(&good, at(0)), Err(SessionError::Dead));
        server.write(b"answer").unwrap();
        assert_eq!(server.poll(at(0)), Err(SessionError::Dead));
    }
}

#[test]
fn a_replayed_record_is_refused() {
    let (mut client, mut server) = pair();
    let wire = request(&mut client, b"hello").remove(0);
    server.receive(&wire, at(0)).unwrap();
    assert_eq!(
        server.receive(&wire, at(0)),
        Err(SessionError::Authentication)
    );
}

#[test]
fn reordered_and_dropped_records_are_refused() {
    let (mut client, mut server) = pair();
    request(&mut client, b"one");
    let second = request(&mut client, b"two").remove(0);
    assert_eq!(
        server.receive(&second, at(0)),
        Err(SessionError::Authentication)
    );
}

#[test]
fn a_record_turned_back_to_its_sender_is_refused() {
    let (mut client, _) = pair();
    let wire = request(&mut client, b"hello").remove(0);
    assert!(client.receive(&wire[..RECORD_BYTES], at(0)).is_err());
}

#[test]
fn a_record_of_another_session_is_refused() {
    let (mut client, _) = pair();
    let (mut unverified, established, _) = greet();
    let (wires, _) = established.send_evidence(b"evidence", START).unwrap();
    unverified.read_record(&wires[0]).unwrap();
    let wire = request(&mut client, b"hello").remove(0);
    let error = unverified.read_record(&wire).unwrap_err();
    assert_eq!(error, HandshakeError::Record(SessionError::Unexpected));
}

#[test]
fn only_one_length_is_read() {
    for found in [0, 16, RECORD_BYTES, BULK_RECORD_BYTES - 1, 65_535] {
        let (_, mut server) = pair();
        let expected = BULK_RECORD_BYTES;
        assert_eq!(
            server.receive(&vec![0; found], at(0)),
            Err(SessionError::RecordLength { expected, found })
        );
    }
    let (mut client, _) = pair();
    assert_eq!(
        client.receive(&[0; BULK_RECORD_BYTES], at(0)),
        Err(SessionError::RecordLength {
            expected: RECORD_BYTES,
            found: BULK_RECORD_BYTES
        })
    );
}

#[test]
fn an_end_without_a_closing_record_is_a_cut() {
    let (mut client, mut server) = pair();
    for wire in request(&mut client, b"half of a requ") {
        server.receive(&wire, at(0)).unwrap();
    }
    assert_eq!(server.end(), Err(SessionError::Truncated));
}

#[test]
fn a_closing_record_comes_behind_all_data_and_is_the_last() {
    let (mut client, mut server) = pair();
    client.write(b"last words").unwrap();
    client.close();
    assert_eq!(client.write(b"more"), Err(SessionError::Closed));
    let wires = records_of_client(&mut client, at(0));
    assert_eq!(wires.len(), 2);
    assert!(client.is_close_sent());
    for wire in &wires {
        assert!(!server.is_peer_done());
        server.receive(wire, at(0)).unwrap();
    }
    assert!(server.is_peer_done());
    assert_eq!(read_all(&mut server), b"last words");
    assert_eq!(server.end(), Ok(()));
    // The other half is still open.
    server.write(b"answer").unwrap();
    let Output::Record(wire) = server.poll(at(0)).unwrap() else {
        panic!("an answer leaves");
    };
    client.receive(&wire, at(0)).unwrap();
    assert_eq!(read_all(&mut client), b"answer");
    assert_eq!(
        server.receive(&wires[1], at(0)),
        Err(SessionError::AfterClose)
    );
}

#[test]
fn a_server_closes_too() {
    let (mut client, mut server) = pair();
    server.write(b"bye").unwrap();
    server.close();
    let mut now = at(0);
    while !server.is_close_sent() {
        match server.poll(now).unwrap() {
            Output::Record(wire) => client.receive(&wire, now).unwrap(),
            Output::Wait(moment) => now = moment,
            Output::Idle => panic!("a close is pending"),
        }
    }
    assert!(client.is_peer_done());
    assert_eq!(read_all(&mut client), b"bye");
    assert_eq!(server.poll(now.after(TICK_MS)).unwrap(), Output::Idle);
}

#[test]
fn a_session_ends_with_its_day() {
    let (mut client, mut server) = pair();
    let wire = request(&mut client, b"hello").remove(0);
    assert_eq!(
        server.receive(&wire, at(SESSION_LIFE_MS)),
        Err(SessionError::Expired)
    );
    assert_eq!(client.poll(at(SESSION_LIFE_MS)), Err(SessionError::Expired));
    assert_eq!(server.poll(at(SESSION_LIFE_MS)), Err(SessionError::Expired));
}

#[test]
fn both_sides_change_keys_together_by_count() {
    let (mut sender, mut receiver) = transports();
    let mut plaintext = Default::default();
    for index in 0..2 * REKEY_AFTER_RECORDS + 5 {
        let data = index.to_be_bytes();
        let wire = sender
            .seal(Kind::Data, Size::Interactive, &data, at(0))
            .unwrap();
        let opened = receiver
            .open(Size::Interactive, &wire, &mut plaintext)
            .unwrap();
        assert_eq!(opened.data, data, "record {index}");
        assert!(!opened.rekey);
    }
}

#[test]
fn both_sides_change_keys_together_by_time() {
    let (mut sender, mut receiver) = transports();
    let mut plaintext = Default::default();
    let mut changes = 0;
    for minute in 0..61 {
        let now = at(minute * 60_000);
        let wire = sender
            .seal(Kind::Data, Size::Interactive, b"x", now)
            .unwrap();
        let opened = receiver
            .open(Size::Interactive, &wire, &mut plaintext)
            .unwrap();
        changes += u32::from(opened.rekey);
    }
    assert_eq!(changes, 6);
}

#[test]
fn a_key_change_that_one_side_misses_ends_the_session() {
    let (mut sender, mut receiver) = transports();
    let mut plaintext = Default::default();
    let late = at(REKEY_AFTER_MS);
    let seal = |sender: &mut Records| sender.seal(Kind::Data, Size::Interactive, b"", late);
    seal(&mut sender).unwrap();
    let after = seal(&mut sender).unwrap();
    assert_eq!(
        receiver
            .open(Size::Interactive, &after, &mut plaintext)
            .unwrap_err(),
        SessionError::Authentication
    );
}

/// The record layers below two sessions, from server to client.
fn transports() -> (Records, Records) {
    let (unverified, established, _) = greet();
    (established.take_records(), unverified.take_records())
}

#[test]
fn a_full_buffer_pushes_back_and_overflow_is_refused() {
    let (mut client, mut server) = pair();
    let flood = vec![7; 2 * BUFFER_BYTES];
    assert_eq!(client.write(&flood).unwrap(), BUFFER_BYTES);
    assert_eq!(client.write(&flood).unwrap(), 0);
    client.flush();
    let mut wires = records_of_client(&mut client, at(0));
    client.write(&flood).unwrap();
    wires.extend(records_of_client(&mut client, at(0)));
    let mut taken = 0;
    let error = wires
        .iter()
        .find_map(|wire| {
            let had_room = server.has_room();
            let result = server.receive(wire, at(0)).err();
            assert!(!had_room || result.is_none());
            taken += 1;
            result
        })
        .unwrap();
    assert_eq!(error, SessionError::Overflow);
    assert_eq!(taken, BUFFER_BYTES / Size::Bulk.capacity() + 2);
}

#[test]
fn odd_plaintexts_are_refused_by_name() {
    let sized = |head: &[u8]| {
        let mut bytes = head.to_vec();
        bytes.resize(RECORD_BYTES - 16, 0);
        bytes
    };
    let decode = |bytes: &[u8]| record::decode(bytes).unwrap_err();
    assert_eq!(decode(&[]), SessionError::InnerLength(0));
    assert_eq!(decode(&[3, 0]), SessionError::InnerLength(2));
    assert_eq!(decode(&sized(&[0, 0, 0])), SessionError::Kind(0));
    assert_eq!(decode(&sized(&[5, 0, 0])), SessionError::Kind(5));
    assert_eq!(
        decode(&sized(&[0x83, 0xff, 0xff])),
        SessionError::InnerLength(65_535)
    );
    assert_eq!(
        decode(&sized(&[3, 3, 0xee])),
        SessionError::InnerLength(1_006)
    );
    assert_eq!(decode(&sized(&[3, 0, 1, 9, 1])), SessionError::Padding);
    assert_eq!(decode(&sized(&[4, 0, 1, 9])), SessionError::Unexpected);
    assert!(record::decode(&sized(&[3, 3, 0xed])).is_ok());
}

proptest! {
    #[test]
    fn what_decodes_encodes_to_the_same_bytes(
        head in proptest::array::uniform3(0_u8..8),
        body in proptest::collection::vec(any::<u8>(), 0..24),
        bulk in any::<bool>(),
    ) {
        let mut bytes = head.to_vec();
        bytes.extend(&body);
        bytes.resize(if bulk { BULK_RECORD_BYTES } else { RECORD_BYTES } - 16, 0);
        prop_assert!(fuzzing::record(&bytes));
    }

    #[test]
    fn foreign_bytes_never_open_anything(
        bytes in proptest::collection::vec(any::<u8>(), 0..2_000),
        index in 0..MESSAGE_1_BYTES,
        flip in 1_u8..,
    ) {
        prop_assert!(!fuzzing::message_1(&bytes));
        prop_assert!(!fuzzing::reply(&bytes));
        fuzzing::payload(&bytes);
        let (_, mut message) = Initiator::start(entropy(1)).unwrap();
        prop_assert!(fuzzing::message_1(&message));
        message[index] ^= flip;
        // The top bit of an X25519 key is ignored by the curve, yet hashed by Noise.
        prop_assert!(!fuzzing::message_1(&message));
    }
}
