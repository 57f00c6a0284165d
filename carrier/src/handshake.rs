//! From a byte stream to a session, on both sides.

use std::time::Duration;

use attest::{Binding, VerifiedPeer};
use channel::{Entropy, Initiator, Responder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Bytes;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::clock::Clock;
use crate::duplex::{self, Duplex};
use crate::error::{Error, Stage};
use crate::socket::{self, Socket, binary};

const UPGRADE_TIMEOUT: Duration = Duration::from_secs(15);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(15);
/// A quote takes milliseconds on hardware, and seconds in an emulated machine under load.
const EVIDENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A channel to a server that showed evidence, which nobody has verified yet.
pub struct Unverified<S> {
    socket: Socket<S>,
    channel: channel::Unverified,
    clock: Clock,
}

/// Runs the client's handshake over `stream` until the evidence is there. `host` goes into the
/// request's `Host` header.
pub async fn connect<S>(stream: S, host: &str) -> Result<Unverified<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = format!("ws://{host}{}", crate::PATH)
        .into_client_request()
        .map_err(|_| Error::Host)?;
    let upgrade = client_async_with_config(request, stream, Some(socket::config()));
    let (mut socket, _) = timeout(UPGRADE_TIMEOUT, upgrade)
        .await
        .map_err(|_| Error::Timeout(Stage::Upgrade))??;
    let clock = Clock::start();
    match greet(&mut socket, &clock).await {
        Ok(channel) => Ok(Unverified {
            socket,
            channel,
            clock,
        }),
        Err(error) => {
            if error.is_fault() {
                socket::close(&mut socket, true).await;
            }
            Err(error)
        }
    }
}

async fn greet<S>(socket: &mut Socket<S>, clock: &Clock) -> Result<channel::Unverified, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (initiator, message_1) = Initiator::start(Entropy::from_os()?)?;
    socket::send(socket, binary(message_1)).await?;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let reply = socket::receive(socket, deadline, Stage::Handshake).await?;
    let mut channel = initiator.read_reply(&reply, clock.now())?;
    let deadline = Instant::now() + EVIDENCE_TIMEOUT;
    while !channel.read_record(&socket::receive(socket, deadline, Stage::Evidence).await?)? {}
    Ok(channel)
}

impl<S> Unverified<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// The evidence, as it came.
    pub fn evidence(&self) -> &[u8] {
        self.channel.evidence().unwrap_or_default()
    }

    /// What the evidence must bind, given the digests that it carries itself.
    pub fn binding(&self, configuration_digest: [u8; 32], gpu_digest: [u8; 32]) -> Binding {
        self.channel.binding(configuration_digest, gpu_digest)
    }

    /// Opens the stream to a peer that was verified for this very handshake.
    pub async fn accept(mut self, peer: &VerifiedPeer) -> Result<Duplex, Error> {
        match self.channel.accept(peer) {
            Ok(session) => Ok(duplex::spawn(self.socket, session, self.clock)),
            Err(error) => {
                socket::close(&mut self.socket, true).await;
                Err(error.into())
            }
        }
    }

    /// Leaves; nothing was sent. A refusal looks to the server like any other fault.
    pub async fn refuse(mut self) {
        socket::close(&mut self.socket, true).await;
    }
}

/// The answer to a request for an upgrade at [`crate::PATH`]; send it, and hand the upgraded
/// stream to [`accept`].
pub fn upgrade<B>(request: &http::Request<B>) -> Result<http::Response<()>, Error> {
    let mut head = http::Request::new(());
    *head.method_mut() = request.method().clone();
    *head.version_mut() = request.version();
    *head.headers_mut() = request.headers().clone();
    create_response(&head).map_err(|_| Error::NotAnUpgrade)
}

/// A client that knocked, and awaits reply and evidence.
pub struct Greeting<S> {
    socket: Socket<S>,
    message_1: Bytes,
}

/// Reads the client's first message from an upgraded stream.
pub async fn accept<S>(stream: S) -> Result<Greeting<S>, Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut socket =
        WebSocketStream::from_raw_socket(stream, Role::Server, Some(socket::config())).await;
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    match socket::receive(&mut socket, deadline, Stage::Handshake).await {
        Ok(message_1) => Ok(Greeting { socket, message_1 }),
        Err(error) => {
            if error.is_fault() {
                socket::close(&mut socket, true).await;
            }
            Err(error)
        }
    }
}

impl<S> Greeting<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// For [`Responder::read_message1`].
    pub fn message_1(&self) -> &[u8] {
        &self.message_1
    }

    /// Sends reply and evidence, and opens the stream.
    pub async fn open(mut self, responder: Responder, evidence: &[u8]) -> Result<Duplex, Error> {
        let clock = Clock::start();
        let outcome = async {
            let (reply, established) = responder.reply(clock.now())?;
            let (wires, session) = established.send_evidence(evidence, clock.now())?;
            socket::send(&mut self.socket, binary(reply)).await?;
            for wire in wires {
                socket::send(&mut self.socket, binary(wire)).await?;
            }
            Ok(session)
        };
        match outcome.await {
            Ok(session) => Ok(duplex::spawn(self.socket, session, clock)),
            Err(error) => {
                socket::close(&mut self.socket, true).await;
                Err(error)
            }
        }
    }

    /// Turns the client away, by the one opaque fault.
    pub async fn refuse(mut self) {
        socket::close(&mut self.socket, true).await;
    }
}
