//! From an upgraded connection to HTTP inside the channel: OpenAI's API, and fresh evidence for a
//! client that asks whom it still talks to.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use attest::Binding;
use bytes::Bytes;
use carrier::{Duplex, Hold};
use channel::{Entropy, NoEntropy, Responder};
use hyper::Request;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use crate::evidence::EvidenceError;
use crate::http::Body;
use crate::journal::Event;
use crate::keys::KeyError;
use crate::server::{EVIDENCE_PATH, Server};

/// A person may think that long between two questions.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// A handshake's or a session's turn at the TPM comes by then; a client waits a little longer.
pub(crate) const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(50);
/// Request line and headers together.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 100;

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// The client's first message, or our key, is at fault.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The TPM gave no evidence.
    #[error("no evidence")]
    Evidence(#[from] EvidenceError),
    /// The TPM was busy with others for too long.
    #[error("no evidence within {} s", EVIDENCE_TIMEOUT.as_secs())]
    Busy,
    /// The connection failed.
    #[error(transparent)]
    Carrier(#[from] carrier::Error),
}

/// Handshake, evidence, session: until one side ends it, and the next may have its place.
pub(crate) async fn serve<S>(server: &Server, stream: S, place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match establish(server, stream).await {
        Ok((duplex, binding)) => {
            let _active = server.api.metrics.session();
            converse(server, duplex, binding).await;
            drop(place);
        }
        Err(error) => {
            server.api.metrics.handshake_failed();
            server
                .journal
                .tell(&Event::HandshakeFailed { error: &error });
        }
    }
}

async fn establish<S>(server: &Server, stream: S) -> Result<(Duplex, Binding), ChannelError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let greeting = carrier::accept(stream).await?;
    match prove(server, greeting.message_1()).await {
        Ok(proved) => {
            let duplex = greeting.open(proved.responder, &proved.evidence).await?;
            Ok((duplex, proved.binding))
        }
        Err(error) => {
            greeting.refuse().await;
            Err(error)
        }
    }
}

/// A handshake, and the evidence that was made for it.
struct Proved {
    responder: Responder,
    binding: Binding,
    evidence: Vec<u8>,
}

/// Evidence for this very handshake.
async fn prove(server: &Server, message_1: &[u8]) -> Result<Proved, ChannelError> {
    let entropy = Entropy::from_os()?;
    let now = server.clock.now();
    let responder = server.keys.with(now, |key| {
        Responder::read_message1(key, message_1, entropy, now)
    })?;
    let gpu_digest = attest::evidence::gpu_digest();
    let binding = responder.binding(server.attester.configuration_digest(), gpu_digest);
    let made = tokio::time::timeout(EVIDENCE_TIMEOUT, server.attester.make_bound(&binding));
    let (binding, evidence) = made.await.map_err(|_| ChannelError::Busy)??;
    Ok(Proved {
        responder,
        binding,
        evidence,
    })
}

/// HTTP/1.1 over the session. While an answer is open, records leave on each tick.
async fn converse(server: &Server, duplex: Duplex, handshake: Binding) {
    let cadence = duplex.cadence();
    // What the engine keeps of this session's prompts is for this session, and goes with it.
    let client = server.api.engine.client();
    let handshake = &handshake;
    let service = service_fn(|request: Request<Incoming>| {
        let (api, client, hold) = (server.api.clone(), client.clone(), cadence.hold());
        async move {
            let response = match request.uri().path() {
                EVIDENCE_PATH => server.evidence_within(handshake, &request).await,
                _ => api.respond(request, client).await,
            };
            Ok::<_, Infallible>(response.map(|body| Held { body, _hold: hold }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(duplex), service);
    // A client that leaves in the middle is no event: its answer is dropped, and counted there.
    drop(connection.await);
}

/// A body that keeps the cadence for as long as it lives.
struct Held {
    body: Body,
    _hold: Hold,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
