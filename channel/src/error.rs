//! What can go wrong, for the local log. The peer learns none of it.

use crate::key::Rotation;

/// The system gave no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed")]
pub struct NoEntropy;

/// A handshake that did not come to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The client's first message has the wrong length.
    #[error("message 1 has {found} bytes, expected {expected}")]
    Message1Length {
        /// What the protocol says.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The client's first message is not of this protocol or version, or was altered.
    #[error("message 1 is not of this protocol, or was altered on the way")]
    Message1,
    /// The client's ML-KEM key is not one.
    #[error("the ML-KEM key in message 1 is not valid")]
    EncapsulationKey,
    /// The server's reply has the wrong length.
    #[error("the reply has {found} bytes, expected {expected}")]
    ReplyLength {
        /// What the protocol says.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The server's reply does not answer this handshake, or was altered.
    #[error("the reply does not answer this handshake, or was altered on the way")]
    Reply,
    /// The static key must be replaced before the next handshake.
    #[error("the static key is due for rotation: {0}")]
    StaticKeyDue(Rotation),
    /// Evidence beyond [`crate::MAX_EVIDENCE_BYTES`].
    #[error("the evidence is larger than {} bytes", crate::MAX_EVIDENCE_BYTES)]
    EvidenceTooLarge,
    /// No evidence at all.
    #[error("the evidence is empty")]
    EvidenceEmpty,
    /// A peer was to be accepted before its evidence was complete.
    #[error("the evidence is not complete")]
    EvidenceIncomplete,
    /// The evidence of this handshake is not evidence.
    #[error("the evidence of this handshake cannot be read")]
    EvidenceUnreadable,
    /// The peer was verified by evidence that was made for another handshake.
    #[error("the verified evidence was made for another handshake")]
    OtherHandshake,
    /// An evidence record was refused.
    #[error("evidence record: {0}")]
    Record(#[from] SessionError),
    /// The Noise state machine refused a step that cannot fail.
    #[error("the Noise state machine refused a step")]
    Noise,
}

/// A session that ended, and cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Records have one size; this one has another.
    #[error("a record of {found} bytes, expected {expected}")]
    RecordLength {
        /// The size of this direction.
        expected: usize,
        /// What came.
        found: usize,
    },
    /// The record was altered, replayed, reordered or dropped on the way.
    #[error("a record was altered, repeated, reordered or lost on the way")]
    Authentication,
    /// The kind is none that we know.
    #[error("a record of unknown kind {0}")]
    Kind(u8),
    /// The inner length points past the record.
    #[error("a record claims {0} bytes, more than it holds")]
    InnerLength(usize),
    /// The padding is not zero: there is one way only to write a record.
    #[error("a record's padding is not zero")]
    Padding,
    /// The kind is known, and may not stand here.
    #[error("a record of a kind that may not stand here")]
    Unexpected,
    /// Something came after the peer said that it was done.
    #[error("a record came after the closing record")]
    AfterClose,
    /// The other side sent more than this side has room for.
    #[error("the receive buffer is full")]
    Overflow,
    /// The stream ended without a closing record: it was cut.
    #[error("the stream was cut: it ended without a closing record")]
    Truncated,
    /// The session has reached its greatest age.
    #[error("the session has reached its greatest age")]
    Expired,
    /// More was to be written after `close`.
    #[error("the session is closed for writing")]
    Closed,
    /// An earlier fault ended this session.
    #[error("the session ended by an earlier fault")]
    Dead,
    /// The Noise state machine refused a step that cannot fail.
    #[error("the Noise state machine refused a step")]
    Noise,
}
