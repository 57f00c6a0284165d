//! Carries a channel session over a WebSocket.
//!
//! [`connect`] and [`accept`] run the handshake over any byte stream; what comes out is a
//! [`Duplex`], a plain tokio stream in which hyper speaks HTTP/1.1 on both sides. TLS, where there
//! is any, stands below and is not relied on.
//!
//! ```text
//!  client                                         server
//!  connect(stream, host) → Unverified             upgrade(request), accept(stream) → Greeting
//!      .evidence(), .binding(…) → attest::verify      .message_1() → Responder, quote
//!      .accept(&VerifiedPeer) → Duplex                .open(responder, evidence) → Duplex
//! ```
//!
//! Each WebSocket message is binary and holds one handshake message or one record. One task for
//! each connection owns the socket: it keeps the cadence while the application is busy elsewhere.
#![forbid(unsafe_code)]

mod clock;
mod driver;
mod duplex;
mod error;
mod handshake;
mod socket;

pub use clock::Clock;
pub use duplex::{Cadence, Duplex, Hold};
pub use error::{Error, Stage};
pub use handshake::{Greeting, Unverified, accept, connect, upgrade};

/// Where a server offers the channel.
pub const PATH: &str = "/v1/channel";

/// Largest WebSocket message, and frame, that is read.
pub const MAX_MESSAGE_BYTES: usize = 65_535;
