//! The stream: bytes, backpressure, ends, cadence, faults.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use carrier::{Error, Stage};
use channel::{HandshakeError, SessionError};
use common::{pair, serve, upgraded, verify};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

#[tokio::test(start_paused = true)]
async fn bytes_flow_both_ways_and_both_ends_close() {
    let (mut client, mut server) = pair().await;
    let request: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    let expected = request.clone();
    let serving = tokio::spawn(async move {
        let mut got = Vec::new();
        server.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, expected);
        server.write_all(&[7; 30_000]).await.unwrap();
        server.shutdown().await.unwrap();
    });
    client.write_all(&request).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [7; 30_000]);
    serving.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_leaves_on_the_cadence() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"question").await.unwrap();
    client.flush().await.unwrap();
    let mut question = [0; 8];
    server.read_exact(&mut question).await.unwrap();
    let hold = server.cadence().hold();
    let start = Instant::now();
    server.write_all(&[1; 25_125]).await.unwrap();
    client.read_exact(&mut vec![0; 25_125]).await.unwrap();
    // 25 records of 1,005 bytes, 40 ms each; the first may have left before the data.
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(24 * 40), "{took:?}");
    assert!(took <= Duration::from_millis(26 * 40), "{took:?}");
    drop(hold);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_rests_stops_the_writer() {
    let (mut client, mut server) = pair().await;
    let flood = async { client.write_all(&vec![0; 8 << 20]).await };
    assert!(timeout(Duration::from_secs(1), flood).await.is_err());
    let mut got = 0;
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = timeout(Duration::from_secs(1), server.read(&mut buffer)).await {
        got += count.unwrap();
    }
    // Two buffers of 128 KiB and what the pipe and WebSocket hold; far from 8 MiB.
    assert!((256 * 1024..1 << 20).contains(&got), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_is_seen_in_mid_answer() {
    let (client, mut server) = pair().await;
    let _hold = server.cadence().hold();
    drop(client);
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let error = server.write(b"answer").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_away_is_a_cut_not_an_end() {
    let (mut client, server) = pair().await;
    drop(server);
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert!(error.to_string().contains("cut"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_lives_by_pings() {
    let (mut client, mut server) = pair().await;
    sleep(Duration::from_secs(3_600)).await;
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 10];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_after_its_day() {
    let (mut client, _server) = pair().await;
    sleep(Duration::from_secs(25 * 3_600)).await;
    // Which of the two sides notices first is a race of timers.
    let error = client.write(b"late").await.unwrap_err();
    let cause = error.get_ref().unwrap().to_string();
    let expected = [
        Error::PeerFault,
        Error::HungUp,
        Error::Session(SessionError::Expired),
        Error::Session(SessionError::Truncated),
    ];
    assert!(
        expected.iter().any(|one| one.to_string() == cause),
        "{cause}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_given_up() {
    let (near, _far) = tokio::io::duplex(1024);
    let error = carrier::connect(near, "host").await.err().unwrap();
    assert_eq!(error, Error::Timeout(Stage::Upgrade));
    let (near, far) = tokio::io::duplex(64 * 1024);
    let held = tokio::spawn(upgraded(far));
    let error = carrier::connect(near, "host").await.err().unwrap();
    assert_eq!(error, Error::Timeout(Stage::Handshake));
    drop(held.await);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_given_up() {
    let (_near, far) = tokio::io::duplex(1024);
    let error = carrier::accept(far).await.err().unwrap();
    assert_eq!(error, Error::Timeout(Stage::Handshake));
}

/// What a client makes of a server that answers its request for an upgrade with `answer`.
async fn answered(answer: &'static [u8]) -> Error {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        far.read_u8().await.unwrap();
        far.write_all(answer).await.unwrap();
    });
    carrier::connect(near, "host").await.err().unwrap()
}

#[tokio::test(start_paused = true)]
async fn other_servers_are_told_apart() {
    let not_found = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
    assert_eq!(
        answered(not_found).await,
        Error::NotUpgraded { status: 404 }
    );
    assert_eq!(
        answered(b"SSH-2.0-OpenSSH_9.2\r\n").await,
        Error::NotWebSocket
    );
    assert_eq!(answered(b"").await, Error::HungUp);
    let (near, _far) = tokio::io::duplex(1024);
    let error = carrier::connect(near, "two words").await.err().unwrap();
    assert_eq!(error, Error::Host);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_no_upgrade_is_refused() {
    let request = http::Request::new(());
    assert_eq!(carrier::upgrade(&request).err(), Some(Error::NotAnUpgrade));
}

/// What a server makes of a client whose first WebSocket frame is `head` and zeros, masked by zero.
async fn greeted(head: &'static [u8], length: usize) -> Error {
    let (mut near, far) = tokio::io::duplex(256 * 1024);
    near.write_all(head).await.unwrap();
    near.write_all(&[0; 4]).await.unwrap();
    near.write_all(&vec![0; length]).await.unwrap();
    serve(far).await.err().unwrap()
}

#[tokio::test(start_paused = true)]
async fn odd_first_messages_are_refused() {
    let length = |found| HandshakeError::Message1Length {
        expected: 1_264,
        found,
    };
    assert_eq!(greeted(&[0x82, 0x85], 5).await, length(5).into(), "short");
    let error = greeted(&[0x82, 0xfe, 0xff, 0xff], 65_535).await;
    assert_eq!(error, length(65_535).into(), "the longest that is read");
    let error = greeted(&[0x82, 0xff, 0, 0, 0, 0, 0, 1, 0, 0], 65_536).await;
    assert_eq!(error, Error::Message, "longer");
    assert_eq!(greeted(&[0x81, 0x85], 5).await, Error::Message, "text");
    let error = greeted(&[0x82, 0xfe, 0x04, 0xf0], 1_264).await;
    assert_eq!(error, HandshakeError::Message1.into(), "zeros");
}

#[tokio::test(start_paused = true)]
async fn a_fault_looks_the_same_whatever_its_cause() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        carrier::accept(upgraded(far).await)
            .await
            .unwrap()
            .refuse()
            .await
    });
    let error = carrier::connect(near, "host").await.err().unwrap();
    assert_eq!(error, Error::PeerFault);
    assert!(!format!("{error}").contains("because"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_refuses_sends_nothing() {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move { serve(upgraded(far).await).await.unwrap() });
    carrier::connect(near, "host").await.unwrap().refuse().await;
    let mut server = server.await.unwrap();
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test(start_paused = true)]
async fn an_altered_byte_on_the_wire_ends_both_sides() {
    let (near, mut middle_near) = tokio::io::duplex(64 * 1024);
    let (mut middle_far, far) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move { serve(upgraded(far).await).await.unwrap() });
    let (tampered, mut tamper) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            tokio::select! {
                count = middle_near.read(&mut up) => {
                    let count = count.unwrap();
                    if count == 0 { return }
                    // Behind the frame's head, within the record.
                    if tamper.try_recv().is_ok() { up[count - 1] ^= 1 }
                    middle_far.write_all(&up[..count]).await.unwrap();
                }
                count = middle_far.read(&mut down) => {
                    let count = count.unwrap();
                    if count == 0 { return }
                    middle_near.write_all(&down[..count]).await.unwrap();
                }
            }
        }
    });
    let unverified = carrier::connect(near, "host").await.unwrap();
    let peer = verify(&unverified);
    let mut client = unverified.accept(&peer).await.unwrap();
    let mut server = server.await.unwrap();
    tampered.send(()).unwrap();
    client.write_all(b"question").await.unwrap();
    client.flush().await.unwrap();
    let error = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let error = client.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(
        error.get_ref().unwrap().to_string(),
        Error::PeerFault.to_string()
    );
}
