//! A minimal client: verified channel, HTTP inside, nothing else.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use attest::{Evidence, Expectation, Ratchet, VerifiedPeer};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use signer::World;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// A loaded machine takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

/// A verified session. Dropping it hangs up.
pub(crate) struct Client {
    requests: SendRequest<Full<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
    /// As the evidence bound it.
    pub(crate) server_static: [u8; 32],
    /// What the evidence was bound to.
    pub(crate) handshake: attest::Binding,
}

impl Client {
    /// Connects, verifies the evidence in full, opens the session.
    pub(crate) async fn connect(address: SocketAddr, world: &World) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let unverified = carrier::connect(stream, &address.to_string())
            .await
            .unwrap();
        let evidence = Evidence::decode(unverified.evidence()).unwrap();
        let binding = unverified.binding(evidence.configuration_digest(), evidence.gpu_digest());
        let attest::Binding::Handshake { server_static, .. } = binding else {
            panic!("not a handshake");
        };
        let peer = verify(&evidence, binding, world).unwrap();
        let duplex = unverified.accept(&peer).await.unwrap();
        let (requests, connection) = handshake(TokioIo::new(duplex)).await.unwrap();
        let connection = tokio::spawn(connection);
        Self {
            requests,
            connection,
            server_static,
            handshake: binding,
        }
    }

    /// Status and body.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> (StatusCode, Bytes) {
        let response = self.open(method, path, body).await;
        let status = response.status();
        (
            status,
            response.into_body().collect().await.unwrap().to_bytes(),
        )
    }

    pub(crate) async fn post(&mut self, path: &str, body: &Value) -> (StatusCode, Value) {
        let (status, bytes) = self.send(Method::POST, path, body.to_string()).await;
        (status, serde_json::from_slice(&bytes).unwrap())
    }

    /// The response as soon as its head is there.
    pub(crate) async fn open(
        &mut self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> hyper::Response<hyper::body::Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cloister");
        let request = request.body(Full::new(body.into())).unwrap();
        self.requests.ready().await.unwrap();
        self.requests.send_request(request).await.unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(crate) fn verify(
    evidence: &Evidence,
    binding: attest::Binding,
    world: &World,
) -> Result<VerifiedPeer, attest::Refusal> {
    let expectation = Expectation { binding };
    attest::verify(
        evidence,
        &expectation,
        &world.policy(),
        &Ratchet::UNSEEN,
        signer::NOW,
    )
}

/// One plain request outside the channel: status and body.
pub(crate) async fn outside(
    address: SocketAddr,
    method: &str,
    path: &str,
) -> (u16, String, Vec<u8>) {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: cloister\r\nconnection: close\r\n\r\n");
    outside_raw(address, head.as_bytes()).await
}

/// As [`outside`], with a request of one's own making.
pub(crate) async fn outside_raw(address: SocketAddr, request: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let end = response
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap();
    let head = String::from_utf8(response[..end].to_vec())
        .unwrap()
        .to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, response[end + 4..].to_vec())
}

/// Waits until a value of `/metrics` is this one.
pub(crate) async fn metric_becomes(address: SocketAddr, name: &str, value: u64) {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = metric(address, name).await;
        if found == value {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found}, not {value}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One value of `/metrics`.
pub(crate) async fn metric(address: SocketAddr, name: &str) -> u64 {
    let (_, _, body) = outside(address, "GET", "/metrics").await;
    let text = String::from_utf8(body).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}
