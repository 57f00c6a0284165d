//! Records: fixed sizes, header inside the ciphertext, one way to write each.
//!
//! ```text
//!  wire (1,024 or 16,384 bytes) = ChaChaPoly( plaintext ) ‖ tag 16
//!
//!  plaintext = ┌ bit 7: rekey after this record
//!              │  bits 0–6: kind
//!              ▼
//!              kind 1 ‖ length 2, big-endian ‖ data, `length` bytes ‖ zeros up to the size
//! ```
//!
//! Nonces are Noise's implicit counters: a record that was replayed, reordered or dropped fails to
//! decrypt, and the session is dead. Both sides turn a direction's key over (Noise `Rekey()`) after
//! [`REKEY_AFTER_RECORDS`] records of that direction, and after each record whose sender set bit 7,
//! which it does once its key is [`REKEY_AFTER_MS`] old.

use snow::TransportState;
use zeroize::Zeroizing;

use crate::{Moment, SessionError};

/// Wire size of a record from server to client, once evidence is through.
pub const RECORD_BYTES: usize = 1_024;
/// Wire size of a record from client to server, and of an evidence record.
pub const BULK_RECORD_BYTES: usize = 16_384;
/// Records of one direction under one key.
pub const REKEY_AFTER_RECORDS: u64 = 16_384;
/// Age at which a sender turns its key over: 10 minutes.
pub const REKEY_AFTER_MS: u64 = 10 * 60 * 1000;

const TAG_BYTES: usize = 16;
const HEADER_BYTES: usize = 3;
const REKEY_BIT: u8 = 0x80;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Interactive,
    Bulk,
}

impl Size {
    pub(crate) const fn wire(self) -> usize {
        match self {
            Self::Interactive => RECORD_BYTES,
            Self::Bulk => BULK_RECORD_BYTES,
        }
    }

    /// Data bytes that one record holds.
    pub(crate) const fn capacity(self) -> usize {
        self.wire() - TAG_BYTES - HEADER_BYTES
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Evidence = 1,
    EvidenceEnd = 2,
    Data = 3,
    Close = 4,
}

/// What a record held.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) kind: Kind,
    pub(crate) rekey: bool,
    pub(crate) data: &'a [u8],
}

/// Both directions of a session's records.
pub(crate) struct Records {
    noise: TransportState,
    sent: u64,
    received: u64,
    key_born: Moment,
    dead: bool,
}

impl Records {
    pub(crate) fn new(noise: TransportState, now: Moment) -> Self {
        Self {
            noise,
            sent: 0,
            received: 0,
            key_born: now,
            dead: false,
        }
    }

    /// Makes one record of exactly `size.wire()` bytes; `data` fits into `size.capacity()`.
    pub(crate) fn seal(
        &mut self,
        kind: Kind,
        size: Size,
        data: &[u8],
        now: Moment,
    ) -> Result<Vec<u8>, SessionError> {
        if self.dead {
            return Err(SessionError::Dead);
        }
        let old = now.since(self.key_born) >= REKEY_AFTER_MS;
        let plaintext =
            encode(kind, old, size, data).ok_or(SessionError::InnerLength(data.len()))?;
        let mut wire = vec![0; size.wire()];
        match self.noise.write_message(&plaintext, &mut wire) {
            Ok(written) if written == wire.len() => {}
            _ => return Err(self.die(SessionError::Noise)),
        }
        self.sent += 1;
        if old || self.sent.is_multiple_of(REKEY_AFTER_RECORDS) {
            self.noise.rekey_outgoing();
            self.key_born = now;
        }
        Ok(wire)
    }

    /// Opens one record into `plaintext`. Any fault ends the session for good.
    pub(crate) fn open<'a>(
        &mut self,
        size: Size,
        wire: &[u8],
        plaintext: &'a mut Zeroizing<Vec<u8>>,
    ) -> Result<Opened<'a>, SessionError> {
        if self.dead {
            return Err(SessionError::Dead);
        }
        if wire.len() != size.wire() {
            return Err(self.die(SessionError::RecordLength {
                expected: size.wire(),
                found: wire.len(),
            }));
        }
        plaintext.resize(size.wire(), 0);
        let Ok(length) = self.noise.read_message(wire, plaintext.as_mut_slice()) else {
            return Err(self.die(SessionError::Authentication));
        };
        plaintext.truncate(length);
        let opened = decode(plaintext).map_err(|error| self.die(error))?;
        self.received += 1;
        if opened.rekey || self.received.is_multiple_of(REKEY_AFTER_RECORDS) {
            self.noise.rekey_incoming();
        }
        Ok(opened)
    }

    /// Ends the session, and passes the cause on.
    pub(crate) fn die(&mut self, cause: SessionError) -> SessionError {
        self.dead = true;
        cause
    }
}

fn encode(kind: Kind, rekey: bool, size: Size, data: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let length = u16::try_from(data.len()).ok()?;
    if data.len() > size.capacity() {
        return None;
    }
    let mut plaintext = Zeroizing::new(vec![0; HEADER_BYTES + size.capacity()]);
    plaintext[0] = kind as u8 | if rekey { REKEY_BIT } else { 0 };
    plaintext[1..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    plaintext[HEADER_BYTES..HEADER_BYTES + data.len()].copy_from_slice(data);
    Some(plaintext)
}

/// Reads a decrypted record of either size.
pub(crate) fn decode(plaintext: &[u8]) -> Result<Opened<'_>, SessionError> {
    let Some((&[first, high, low], body)) = plaintext.split_first_chunk() else {
        return Err(SessionError::InnerLength(plaintext.len()));
    };
    let kind = match first & !REKEY_BIT {
        1 => Kind::Evidence,
        2 => Kind::EvidenceEnd,
        3 => Kind::Data,
        4 => Kind::Close,
        other => return Err(SessionError::Kind(other)),
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (data, padding) = body
        .split_at_checked(length)
        .ok_or(SessionError::InnerLength(length))?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(SessionError::Padding);
    }
    if kind == Kind::Close && length != 0 {
        return Err(SessionError::Unexpected);
    }
    Ok(Opened {
        kind,
        rekey: first & REKEY_BIT != 0,
        data,
    })
}

/// Whether bytes that decode at all are what encoding would have made.
pub(crate) fn is_canonical(plaintext: &[u8]) -> bool {
    let Ok(opened) = decode(plaintext) else {
        return true;
    };
    [Size::Interactive, Size::Bulk]
        .into_iter()
        .find(|size| size.capacity() + HEADER_BYTES == plaintext.len())
        .and_then(|size| encode(opened.kind, opened.rekey, size, opened.data))
        .is_none_or(|bytes| *bytes == plaintext)
}
