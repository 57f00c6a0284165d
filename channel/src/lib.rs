//! How do we talk? A Noise and ML-KEM session with fixed-size records, sans I/O.
//!
//! Bytes and the time go in, bytes come out: no socket, no clock, no file. The same code runs in
//! the agent, in the client and in a browser.
//!
//! ```text
//!  client                                                   server
//!  Initiator::start
//!     │── message 1: e, { nonce 32 ‖ ML-KEM-768 key 1184 } ──▶ Responder::read_message1
//!     │                                                        │ encapsulate → ct, psk
//!     │◀─ reply: ct 1088 ‖ message 2: e, ee, s, es, psk ────── Responder::reply → Established
//!  Initiator::read_reply → Unverified
//!     │◀─ evidence records, 16,384 bytes each ──────────────── Established::send_evidence
//!     │                                                        → Session
//!  Unverified::read_record … evidence() → attest::verify → VerifiedPeer
//!  Unverified::accept(VerifiedPeer) → Session
//!     │── data records, 16,384 bytes each ────────────────────▶
//!     │◀─ data records, 1,024 bytes each, one per tick ────────
//!     │── close ──▶                             ◀── close ─────
//! ```
//!
//! The pattern is `Noise_NXpsk2_25519_ChaChaPoly_SHA256`: the client is anonymous, the server's
//! static key is made in the VM and never leaves it. The pre-shared key is the ML-KEM-768 shared
//! secret of this handshake, so that a recording is worth nothing to a later quantum computer.
//! Noise specification: <https://noiseprotocol.org/noise.html>. ML-KEM: FIPS 203.
//!
//! A client cannot send before it has verified: only [`Unverified::accept`] makes its [`Session`],
//! and that takes an [`attest::VerifiedPeer`], which only [`attest::verify()`] makes.
//!
//! # What the wire shows
//!
//! Records have one size per direction, the header and the padding stand inside the ciphertext,
//! and while an answer is open the server sends exactly one record each [`TICK_MS`], with data or
//! without. The wire shows when a request was sent, its length in steps of 16,365 bytes, and the
//! duration of the answer in whole windows of [`WINDOW_TICKS`] ticks: not tokens, not their timing.
//!
//! # Faults
//!
//! Errors are typed for the local log. The peer learns one thing: the carrier closes with
//! [`FAULT_CODE`], whatever the cause was.
//!
//! # Not held here
//!
//! `snow` does not wipe its X25519 keys from memory when they are dropped; ours, the ML-KEM key
//! and all buffers are wiped.
#![forbid(unsafe_code)]

mod buffer;
mod entropy;
mod error;
mod handshake;
mod key;
mod record;
mod session;
mod shaper;

#[doc(hidden)]
pub mod fuzzing;

pub use entropy::Entropy;
pub use error::{HandshakeError, NoEntropy, SessionError};
pub use handshake::{
    Established, Initiator, MESSAGE_1_BYTES, REPLY_BYTES, Responder, SUITE, Unverified,
};
pub use key::{Rotation, STATIC_KEY_MAX_AGE_MS, STATIC_KEY_MAX_SESSIONS, StaticKey};
pub use record::{BULK_RECORD_BYTES, RECORD_BYTES, REKEY_AFTER_MS, REKEY_AFTER_RECORDS};
pub use session::{BUFFER_BYTES, Output, SESSION_LIFE_MS, Session};
pub use shaper::{TICK_MS, WINDOW_TICKS};

/// Largest evidence that a client reads.
pub const MAX_EVIDENCE_BYTES: usize = attest::evidence::MAX_EVIDENCE_BYTES;

/// The WebSocket close code that a peer sees for every fault.
pub const FAULT_CODE: u16 = 4000;

/// A point on a monotonic clock of the caller's choice, in milliseconds. Only differences count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment that many milliseconds after the clock's own start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds after the clock's own start.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Milliseconds from `earlier` to `self`, or 0 where `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `millis` later.
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }
}

#[cfg(test)]
mod tests;
