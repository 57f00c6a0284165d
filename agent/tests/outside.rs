//! The agent as anyone sees it who has no channel.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::time::Duration;

use attest::Evidence;
use common::client::{Client, metric_becomes, outside, outside_raw, verify};
use common::machine::{Machine, Setup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

mod common;

#[tokio::test]
async fn five_paths_and_nothing_else() {
    let machine = Machine::start();
    let (status, _, body) = outside(machine.address, "GET", "/healthz").await;
    assert_eq!((status, &body[..]), (200, &b"ok\n"[..]));
    let (status, _, body) = outside(machine.address, "GET", "/.well-known/cloister/release").await;
    assert_eq!((status, body), (200, machine.world.bundle()));
    let (status, head, body) = outside(machine.address, "GET", "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.starts_with(b"# TYPE cloister_sessions_active gauge\n"));
    for path in [
        "/",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/channel/",
        "/healthz/x",
    ] {
        assert_eq!(outside(machine.address, "GET", path).await.0, 404, "{path}");
    }
    let (status, head, _) = outside(machine.address, "POST", "/healthz").await;
    assert_eq!(status, 405);
    assert!(head.contains("allow: get"), "{head}");
    let (status, head, _) = outside(machine.address, "GET", "/v1/channel").await;
    assert_eq!(status, 426);
    assert!(head.contains("upgrade: websocket"), "{head}");
}

#[tokio::test]
async fn evidence_is_made_for_the_nonce() {
    let machine = Machine::start();
    let fetch = async |nonce: [u8; 32]| {
        let path = format!(
            "/.well-known/cloister/evidence?nonce={}",
            hex::encode(nonce)
        );
        let (status, head, body) = outside(machine.address, "GET", &path).await;
        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/cbor"), "{head}");
        Evidence::decode(&body).unwrap()
    };
    let (first, second) = (fetch([1; 32]).await, fetch([2; 32]).await);
    assert_ne!(first, second);
    let binding = |nonce| machine.world.nonce_binding(nonce);
    drop(verify(&first, binding([1; 32]), &machine.world).unwrap());
    drop(verify(&second, binding([2; 32]), &machine.world).unwrap());
    let refusal = verify(&first, binding([2; 32]), &machine.world).unwrap_err();
    assert!(
        refusal.to_string().contains("another handshake or nonce"),
        "{refusal}"
    );

    for query in ["", "?nonce=", "?nonce=00", "?nonce=zz", "?x=1"] {
        let path = format!("/.well-known/cloister/evidence{query}");
        assert_eq!(
            outside(machine.address, "GET", &path).await.0,
            400,
            "{query}"
        );
    }
    let long = format!("/.well-known/cloister/evidence?nonce={}", "0".repeat(66));
    assert_eq!(outside(machine.address, "GET", &long).await.0, 400);
}

#[tokio::test]
async fn a_machine_without_a_release_says_so() {
    let mut machine = Machine::prepare(Setup::default());
    std::fs::remove_file(machine.path("release.json")).unwrap();
    machine.run();
    assert_eq!(
        outside(machine.address, "GET", "/.well-known/cloister/release")
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn giant_heads_are_refused() {
    let machine = Machine::start();
    let giant = "x".repeat(20 << 10);
    let header = format!("GET /healthz HTTP/1.1\r\nhost: h\r\nx: {giant}\r\n\r\n");
    assert_eq!(outside_raw(machine.address, header.as_bytes()).await.0, 431);
    let many: String = (0..100).map(|n| format!("x{n}: y\r\n")).collect();
    let many = format!("GET /healthz HTTP/1.1\r\nhost: h\r\n{many}\r\n");
    assert_eq!(outside_raw(machine.address, many.as_bytes()).await.0, 431);
    assert_eq!(
        outside_raw(machine.address, b"\x16\x03\x01\x02\x00\x01\r\n\r\n")
            .await
            .0,
        400
    );
}

#[tokio::test]
async fn a_full_house_turns_guests_away() {
    let setup = Setup {
        max_sessions: 1,
        ..Setup::default()
    };
    let machine = Machine::start_with(setup);
    let guest = Client::connect(machine.address, &machine.world).await;
    metric_becomes(machine.address, "cloister_sessions_active", 1).await;
    let stream = TcpStream::connect(machine.address).await.unwrap();
    let refused = carrier::connect(stream, "cloister").await;
    assert!(matches!(
        refused,
        Err(carrier::Error::NotUpgraded { status: 503 })
    ));
    drop(guest);
    metric_becomes(machine.address, "cloister_sessions_active", 0).await;
    drop(Client::connect(machine.address, &machine.world).await);
}

/// Takes a quarter of a minute.
#[tokio::test]
async fn silent_guests_are_shown_out() {
    let machine = Machine::start();
    let silent = async |request: &[u8]| {
        let mut stream = TcpStream::connect(machine.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut said = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut said));
        ended.await.unwrap().unwrap();
        String::from_utf8_lossy(&said).into_owned()
    };
    let upgrade = b"GET /v1/channel HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\n\
        upgrade: websocket\r\nsec-websocket-version: 13\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let (nothing, half, idle, upgraded) = tokio::join!(
        silent(b""),
        silent(b"GET /healthz HTTP/1.1\r\nhost: h\r\n"),
        silent(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n"),
        silent(upgrade),
    );
    assert_eq!(nothing, "");
    assert!(
        half.is_empty() || half.starts_with("HTTP/1.1 408"),
        "{half}"
    );
    assert!(
        idle.starts_with("HTTP/1.1 200") && idle.ends_with("ok\n"),
        "{idle}"
    );
    assert!(upgraded.starts_with("HTTP/1.1 101"), "{upgraded}");
    machine
        .says("handshake failed: timed out waiting for the handshake")
        .await;
}
