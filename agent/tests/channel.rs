//! The way into the channel, and how it is refused.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use attest::tpm::quote::QuoteError;
use attest::{Evidence, Refusal};
use channel::{Entropy, Initiator, MESSAGE_1_BYTES, STATIC_KEY_MAX_SESSIONS};
use common::client::{Client, metric, metric_becomes, verify};
use common::machine::Machine;
use futures_util::{SinkExt, StreamExt};
use hyper::Method;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

mod common;

type Socket = WebSocketStream<TcpStream>;

async fn socket(machine: &Machine) -> Socket {
    let stream = TcpStream::connect(machine.address).await.unwrap();
    let url = format!("ws://{}/v1/channel", machine.address);
    client_async(url, stream).await.unwrap().0
}

/// The close code, if the server closed in order; 0 where it just hung up.
async fn close_code(socket: &mut Socket) -> u16 {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            None | Some(Err(_)) => return 0,
            Some(Ok(_)) => {}
        }
    }
}

#[tokio::test]
async fn evidence_belongs_to_one_handshake() {
    let machine = Machine::start();
    let connect = async || {
        let stream = TcpStream::connect(machine.address).await.unwrap();
        carrier::connect(stream, "cloister").await.unwrap()
    };
    let (first, second) = (connect().await, connect().await);
    let evidence = Evidence::decode(first.evidence()).unwrap();
    assert_ne!(first.evidence(), second.evidence());
    let digests = (evidence.configuration_digest(), evidence.gpu_digest());
    let own = first.binding(digests.0, digests.1);
    let peer = verify(&evidence, own, &machine.world).unwrap();
    let other = second.binding(digests.0, digests.1);
    let refusal = verify(&evidence, other, &machine.world).unwrap_err();
    assert!(
        refusal.to_string().contains("another handshake or nonce"),
        "{refusal}"
    );
    // Nor does a verified peer open a session that it was not verified for.
    assert!(second.accept(&peer).await.is_err());
    assert!(first.accept(&peer).await.is_ok());
}

/// Within a session evidence is of that session and a nonce: nobody else's passes for it.
#[tokio::test]
async fn fresh_evidence_belongs_to_one_session_and_one_nonce() {
    let machine = Machine::start();
    let mut first = Client::connect(machine.address, &machine.world).await;
    let second = Client::connect(machine.address, &machine.world).await;
    let path = |nonce: [u8; 32]| {
        let nonce = hex::encode(nonce);
        format!("/.well-known/cloister/evidence?nonce={nonce}")
    };
    for nonce in [[1; 32], [2; 32]] {
        let (status, body) = first.send(Method::GET, &path(nonce), "").await;
        assert_eq!(status, 200);
        let evidence = Evidence::decode(&body).unwrap();
        let judge = |binding| verify(&evidence, binding, &machine.world);
        assert!(judge(first.handshake.session(nonce)).is_ok());
        for other in [
            first.handshake,
            first.handshake.session([3; 32]),
            second.handshake.session(nonce),
            machine.world.nonce_binding(nonce),
        ] {
            let refusal = judge(other).unwrap_err();
            let expected = matches!(refusal, Refusal::Quote(QuoteError::QualifyingData { .. }));
            assert!(expected, "{refusal}");
        }
    }
    for wrong in ["", "?nonce=", "?nonce=00", "?other=1"] {
        let path = format!("/.well-known/cloister/evidence{wrong}");
        assert_eq!(first.send(Method::GET, &path, "").await.0, 400, "{wrong}");
    }
    assert_eq!(first.send(Method::POST, &path([1; 32]), "").await.0, 405);
    // The session goes on.
    assert_eq!(first.send(Method::GET, "/v1/models", "").await.0, 200);
}

#[tokio::test]
async fn handshakes_that_are_none_are_refused_by_one_opaque_fault() {
    let machine = Machine::start();
    let wrong = [
        vec![],
        vec![0; MESSAGE_1_BYTES],
        vec![0; MESSAGE_1_BYTES + 1],
        vec![0; 65_535],
    ];
    for message in wrong {
        let length = message.len();
        let mut socket = socket(&machine).await;
        socket.send(Message::Binary(message.into())).await.unwrap();
        assert_eq!(
            close_code(&mut socket).await,
            channel::FAULT_CODE,
            "{length}"
        );
    }
    let mut text = socket(&machine).await;
    text.send(Message::Text("hello".into())).await.unwrap();
    assert_eq!(close_code(&mut text).await, channel::FAULT_CODE);
    let mut giant = socket(&machine).await;
    // The server may hang up before all of it is sent.
    drop(giant.send(Message::Binary(vec![0; 1 << 20].into())).await);
    assert!([0, channel::FAULT_CODE].contains(&close_code(&mut giant).await));
    metric_becomes(machine.address, "cloister_handshakes_failed_total", 6).await;
    assert_eq!(metric(machine.address, "cloister_sessions_total").await, 0);
}

#[tokio::test]
async fn records_of_a_wrong_size_end_the_session() {
    let machine = Machine::start();
    for size in [0, 1, 1024, 16_384, 65_535] {
        let mut socket = socket(&machine).await;
        let (initiator, message_1) = Initiator::start(Entropy::from_os().unwrap()).unwrap();
        socket
            .send(Message::Binary(message_1.into()))
            .await
            .unwrap();
        let reply = socket.next().await.unwrap().unwrap().into_data();
        let mut unverified = initiator
            .read_reply(&reply, channel::Moment::default())
            .unwrap();
        while !unverified
            .read_record(&socket.next().await.unwrap().unwrap().into_data())
            .unwrap()
        {}
        socket
            .send(Message::Binary(vec![7; size].into()))
            .await
            .unwrap();
        assert_eq!(close_code(&mut socket).await, channel::FAULT_CODE, "{size}");
    }
}

#[tokio::test]
async fn the_static_key_is_replaced_after_a_thousand_handshakes() {
    let machine = Machine::start();
    let first = Client::connect(machine.address, &machine.world).await;
    let second = Client::connect(machine.address, &machine.world).await;
    assert_eq!(first.server_static, second.server_static);
    // A message 1 that leads nowhere uses the key, too; it costs no quote.
    for _ in 0..STATIC_KEY_MAX_SESSIONS {
        let mut socket = socket(&machine).await;
        socket
            .send(Message::Binary(vec![0; MESSAGE_1_BYTES].into()))
            .await
            .unwrap();
        assert_eq!(close_code(&mut socket).await, channel::FAULT_CODE);
    }
    let third = Client::connect(machine.address, &machine.world).await;
    assert_ne!(first.server_static, third.server_static);
    let line = "cloister-agent: static key replaced: it served 1000 handshakes\n";
    machine.says(line).await;
    assert_eq!(
        machine.output().matches(line).count(),
        1,
        "{}",
        machine.output()
    );
}

#[tokio::test]
async fn a_tpm_that_goes_away_refuses_the_channel() {
    let mut machine = Machine::start();
    machine.swtpm.stop();
    let stream = TcpStream::connect(machine.address).await.unwrap();
    let refused = carrier::connect(stream, "cloister").await;
    assert!(matches!(refused, Err(carrier::Error::PeerFault)));
    machine
        .says("handshake failed: no evidence: the connection to the TPM")
        .await;
}
