//! What the wire shows of an answer: sizes and moments.

use super::*;

/// Runs a server over an answer whose pieces are written at given moments, and gives what an
/// observer of the wire sees: when, and how large.
fn observe(pieces: &[(u64, usize)], end: u64) -> Vec<(u64, usize)> {
    let (mut client, mut server) = pair();
    client.write(b"question").unwrap();
    client.flush();
    for wire in records_of_client(&mut client, at(0)) {
        server.receive(&wire, at(0)).unwrap();
    }
    server.hold();
    let mut seen = Vec::new();
    let mut received = 0;
    for millis in 0..10_000 {
        for (_, length) in pieces.iter().filter(|(moment, _)| *moment == millis) {
            assert_eq!(server.write(&vec![7; *length]).unwrap(), *length);
        }
        if millis == end {
            server.release();
        }
        while let Output::Record(wire) = server.poll(at(millis)).unwrap() {
            seen.push((millis, wire.len()));
            client.receive(&wire, at(millis)).unwrap();
            received += read_all(&mut client).len();
        }
    }
    assert_eq!(
        received,
        pieces.iter().map(|(_, length)| length).sum::<usize>()
    );
    seen
}

#[test]
fn token_timing_and_sizes_do_not_show() {
    let steady: Vec<(u64, usize)> = (0..50).map(|i| (i * 30, 40)).collect();
    let bursts = [(700, 900), (701, 3), (702, 250), (1_490, 1)];
    let at_once = [(1, 5_000)];
    let reference = observe(&steady, 1_500);
    assert_eq!(observe(&bursts, 1_490), reference);
    assert_eq!(observe(&at_once, 1_999), reference);
    assert_eq!(observe(&[], 1_001), reference);
    let expected: Vec<(u64, usize)> = (0..50).map(|i| (i * TICK_MS, RECORD_BYTES)).collect();
    assert_eq!(reference, expected);
}

#[test]
fn an_answer_lasts_whole_windows() {
    for (end, windows) in [(1, 1), (999, 1), (1_001, 2), (1_999, 2), (2_001, 3)] {
        let seen = observe(&[(0, 10)], end);
        assert_eq!(seen.len() as u64, windows * WINDOW_TICKS, "end {end}");
    }
}

#[test]
fn a_long_answer_flows_at_one_record_each_tick() {
    let bytes = 40 * Size::Interactive.capacity();
    let seen = observe(&[(0, bytes)], 1);
    assert_eq!(seen.len() as u64, 2 * WINDOW_TICKS);
}

#[test]
fn missed_ticks_are_left_out() {
    let (_, mut server) = pair();
    server.hold();
    let Output::Record(_) = server.poll(at(0)).unwrap() else {
        panic!("the first tick is the first moment");
    };
    assert_eq!(server.poll(at(0)).unwrap(), Output::Wait(at(40)));
    let Output::Record(_) = server.poll(at(1_013)).unwrap() else {
        panic!("a tick is due");
    };
    assert_eq!(server.poll(at(1_013)).unwrap(), Output::Wait(at(1_040)));
}

#[test]
fn nothing_leaves_without_an_answer() {
    let (mut client, mut server) = pair();
    assert_eq!(server.poll(at(0)).unwrap(), Output::Idle);
    assert_eq!(client.poll(at(0)).unwrap(), Output::Idle);
    server.hold();
    server.release();
    server.release();
    assert_eq!(server.poll(at(5_000)).unwrap(), Output::Idle);
}

#[test]
fn the_length_of_a_short_request_does_not_show() {
    let sizes = |length: usize| -> Vec<usize> {
        let (mut client, _) = pair();
        client.write(&vec![b'x'; length]).unwrap();
        client.flush();
        records_of_client(&mut client, at(0))
            .iter()
            .map(Vec::len)
            .collect()
    };
    assert_eq!(sizes(1), [BULK_RECORD_BYTES]);
    assert_eq!(sizes(1), sizes(16_365));
    assert_eq!(sizes(16_366), [BULK_RECORD_BYTES; 2]);
}
