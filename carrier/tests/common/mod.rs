//! A server with real evidence, and a client that verifies it, over an in-memory pipe.
#![allow(dead_code, reason = "each test file uses its part")]

use attest::{Evidence, Expectation, Ratchet, VerifiedPeer};
use carrier::{Clock, Duplex, Error, Unverified};
use channel::{Entropy, Responder, StaticKey};
use signer::World;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

/// Binds what evidence holds itself.
pub(crate) fn bind(binding: impl Fn([u8; 32], [u8; 32]) -> attest::Binding) -> attest::Binding {
    let configuration = attest::Digest::sha256(&World::new().configuration).0;
    binding(configuration, attest::evidence::gpu_digest())
}

pub(crate) fn responder(message_1: &[u8]) -> Result<Responder, Error> {
    let clock = Clock::start();
    let mut key = StaticKey::generate(Entropy::from_os()?, clock.now())?;
    let entropy = Entropy::from_os()?;
    Ok(Responder::read_message1(
        &mut key,
        message_1,
        entropy,
        clock.now(),
    )?)
}

/// The server's side of a stream that was upgraded already.
pub(crate) async fn serve<S>(stream: S) -> Result<Duplex, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeting = carrier::accept(stream).await?;
    let responder = match responder(greeting.message_1()) {
        Ok(responder) => responder,
        Err(error) => {
            greeting.refuse().await;
            return Err(error);
        }
    };
    let evidence = World::new().evidence(&bind(|a, b| responder.binding(a, b)));
    greeting.open(responder, &evidence.encode()).await
}

pub(crate) fn verify<S>(unverified: &Unverified<S>) -> VerifiedPeer
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let binding = bind(|a, b| unverified.binding(a, b));
    let evidence = Evidence::decode(unverified.evidence()).unwrap();
    let policy = World::new().policy();
    let floor = &Ratchet::UNSEEN;
    attest::verify(
        &evidence,
        &Expectation { binding },
        &policy,
        floor,
        signer::NOW,
    )
    .unwrap()
}

/// Answers the upgrade by hand, as the agent's hyper would, and gives the upgraded stream.
pub(crate) async fn upgraded(mut stream: DuplexStream) -> DuplexStream {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /v1/channel HTTP/1.1\r\n"), "{head}");
    let mut request = http::Request::new(());
    for line in head.lines().skip(1).filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ").unwrap();
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = carrier::upgrade(&request).unwrap();
    let mut text = format!("HTTP/1.1 {}\r\n", response.status());
    for (name, value) in response.headers() {
        text += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    text += "\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// Two ends of a verified channel.
pub(crate) async fn pair() -> (Duplex, Duplex) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = tokio::spawn(async move { serve(upgraded(far).await).await.unwrap() });
    let unverified = carrier::connect(near, "host.example").await.unwrap();
    let peer = verify(&unverified);
    let client = unverified.accept(&peer).await.unwrap();
    (client, server.await.unwrap())
}
