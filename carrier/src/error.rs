//! Why a connection did not come about, or ended.

use core::fmt;
use std::io;

use channel::{HandshakeError, NoEntropy, SessionError};
use tokio_tungstenite::tungstenite;

/// What was awaited when time ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The answer to the WebSocket upgrade.
    Upgrade,
    /// A handshake message.
    Handshake,
    /// The evidence.
    Evidence,
    /// Any sign of life.
    Alive,
    /// That the peer reads.
    Send,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Upgrade => "the answer to the WebSocket upgrade",
            Self::Handshake => "the handshake",
            Self::Evidence => "the evidence",
            Self::Alive => "a sign of life",
            Self::Send => "the peer to read",
        })
    }
}

/// A connection that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host does not fit into a request.
    #[error("the host name is not valid in an HTTP request")]
    Host,
    /// The request is no WebSocket upgrade.
    #[error("the request is not a WebSocket upgrade")]
    NotAnUpgrade,
    /// The server answered, and not with an upgrade.
    #[error("the server answered HTTP {status} at {}", crate::PATH)]
    NotUpgraded {
        /// HTTP status.
        status: u16,
    },
    /// The server does not speak HTTP or WebSocket.
    #[error("the peer does not speak WebSocket")]
    NotWebSocket,
    /// A message that is larger than any of this protocol, or of another type.
    #[error("a message that is none of this protocol")]
    Message,
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// The peer closed before all was said.
    #[error("the peer hung up")]
    HungUp,
    /// The peer refused; it never says why.
    #[error("the peer refused the channel, and gives no reason on the wire")]
    PeerFault,
    /// The peer took too long.
    #[error("timed out waiting for {0}")]
    Timeout(Stage),
    /// The handshake was refused here.
    #[error("handshake: {0}")]
    Handshake(#[from] HandshakeError),
    /// A record was refused here, or the session reached a limit.
    #[error("channel: {0}")]
    Session(#[from] SessionError),
    /// There is no randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

impl Error {
    /// Whether the peer is told that there was a fault.
    pub(crate) fn is_fault(&self) -> bool {
        match self {
            Self::Message | Self::Handshake(_) | Self::Entropy(_) => true,
            Self::Session(cause) => *cause != SessionError::Truncated,
            _ => false,
        }
    }

    fn kind(self) -> io::ErrorKind {
        match self {
            Self::Io(kind) => kind,
            Self::HungUp | Self::Session(SessionError::Truncated) => io::ErrorKind::UnexpectedEof,
            Self::Timeout(_) => io::ErrorKind::TimedOut,
            Self::PeerFault => io::ErrorKind::ConnectionAborted,
            _ => io::ErrorKind::InvalidData,
        }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

impl From<tungstenite::Error> for Error {
    fn from(error: tungstenite::Error) -> Self {
        use tungstenite::Error as Ws;
        use tungstenite::error::ProtocolError;
        match error {
            Ws::ConnectionClosed
            | Ws::AlreadyClosed
            | Ws::Protocol(
                ProtocolError::ResetWithoutClosingHandshake
                | ProtocolError::HandshakeIncomplete
                | ProtocolError::SendAfterClosing,
            ) => Self::HungUp,
            Ws::Io(error) if is_hang_up(error.kind()) => Self::HungUp,
            Ws::Io(error) => Self::Io(error.kind()),
            Ws::Http(response) => Self::NotUpgraded {
                status: response.status().as_u16(),
            },
            Ws::Capacity(_) | Ws::Utf8(_) | Ws::WriteBufferFull(_) => Self::Message,
            _ => Self::NotWebSocket,
        }
    }
}

fn is_hang_up(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
    )
}
