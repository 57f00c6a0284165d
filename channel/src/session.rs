//! A session: two byte streams in fixed-size records.

use core::fmt;

use zeroize::Zeroizing;

use crate::buffer::Buffer;
use crate::record::{Kind, Records, Size};
use crate::shaper::{Shaper, Tick};
use crate::{Moment, SessionError};

/// Greatest age of a session: 24 hours, then a new handshake with new evidence.
pub const SESSION_LIFE_MS: u64 = 24 * 60 * 60 * 1000;
/// Bytes that a session holds in each direction.
pub const BUFFER_BYTES: usize = 128 * 1024;

/// What [`Session::poll`] wants done.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes as one message, then poll again.
    Record(Vec<u8>),
    /// Poll again at that moment, or after a write or a receive.
    Wait(Moment),
    /// Poll again after a write or a receive.
    Idle,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

/// An open session. Its two halves close one by one, as those of a TCP connection do.
pub struct Session {
    role: Role,
    records: Records,
    opened: Moment,
    outgoing: Buffer,
    incoming: Buffer,
    shaper: Shaper,
    flushing: bool,
    closing: bool,
    close_sent: bool,
    close_received: bool,
}

impl Session {
    pub(crate) fn new(role: Role, records: Records, opened: Moment) -> Self {
        Self {
            role,
            records,
            opened,
            outgoing: Buffer::new(BUFFER_BYTES),
            incoming: Buffer::new(BUFFER_BYTES),
            shaper: Shaper::default(),
            flushing: false,
            closing: false,
            close_sent: false,
            close_received: false,
        }
    }

    /// Queues data for the peer; gives how much of it fitted.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, SessionError> {
        if self.closing {
            return Err(SessionError::Closed);
        }
        Ok(self.outgoing.push(data))
    }

    /// A client's queued data leaves now, though it may fill no record. A server's leaves on its
    /// cadence in any case.
    pub fn flush(&mut self) {
        self.flushing = true;
    }

    /// Queues the closing record behind all data: this side is done.
    pub fn close(&mut self) {
        self.closing = true;
    }

    /// The server holds the cadence while an answer is open. Each hold needs its
    /// [`Session::release`].
    pub fn hold(&mut self) {
        self.shaper.hold();
    }

    /// One answer is complete.
    pub fn release(&mut self) {
        self.shaper.release();
    }

    /// Gives what is to be sent, if anything. Call it until it gives no record.
    pub fn poll(&mut self, now: Moment) -> Result<Output, SessionError> {
        self.check_life(now)?;
        match self.role {
            Role::Client => self.poll_client(now),
            Role::Server => self.poll_server(now),
        }
    }

    /// Takes one message of the carrier.
    pub fn receive(&mut self, wire: &[u8], now: Moment) -> Result<(), SessionError> {
        self.check_life(now)?;
        if self.close_received {
            return Err(self.records.die(SessionError::AfterClose));
        }
        let size = match self.role {
            Role::Client => Size::Interactive,
            Role::Server => Size::Bulk,
        };
        let mut plaintext = Zeroizing::new(Vec::new());
        let opened = self.records.open(size, wire, &mut plaintext)?;
        match opened.kind {
            Kind::Data if opened.data.len() > self.incoming.room() => {
                Err(self.records.die(SessionError::Overflow))
            }
            Kind::Data => {
                self.incoming.push(opened.data);
                if self.role == Role::Server {
                    self.shaper.start(now);
                }
                Ok(())
            }
            Kind::Close => {
                self.close_received = true;
                Ok(())
            }
            Kind::Evidence | Kind::EvidenceEnd => Err(self.records.die(SessionError::Unexpected)),
        }
    }

    /// Moves received bytes out; 0 where there are none now.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.incoming.pop(out)
    }

    /// Whether another record surely fits. A carrier that waits for it never sees
    /// [`SessionError::Overflow`].
    pub fn has_room(&self) -> bool {
        self.incoming.room() >= Size::Bulk.capacity()
    }

    /// Bytes that [`Session::read`] would give.
    pub fn readable(&self) -> usize {
        self.incoming.len()
    }

    /// Bytes that still have to leave.
    pub fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Whether the peer said that it is done.
    pub fn is_peer_done(&self) -> bool {
        self.close_received
    }

    /// Whether this side's closing record has left.
    pub fn is_close_sent(&self) -> bool {
        self.close_sent
    }

    /// Call when the carrier ends: an end without a closing record is a cut.
    pub fn end(&mut self) -> Result<(), SessionError> {
        if self.close_received {
            Ok(())
        } else {
            Err(self.records.die(SessionError::Truncated))
        }
    }

    fn poll_client(&mut self, now: Moment) -> Result<Output, SessionError> {
        let full = self.outgoing.len() >= Size::Bulk.capacity();
        if full || self.outgoing.len() > 0 && (self.flushing || self.closing) {
            return self.data(Size::Bulk, now);
        }
        self.flushing = false;
        if self.closing && !self.close_sent {
            return self.finish(Size::Bulk, now);
        }
        Ok(Output::Idle)
    }

    fn poll_server(&mut self, now: Moment) -> Result<Output, SessionError> {
        let closing = self.closing && !self.close_sent;
        let pending = self.outgoing.len() > 0 || closing;
        match self.shaper.poll(now, pending) {
            // Nothing follows a closing record, not even an empty one.
            _ if self.close_sent => Ok(Output::Idle),
            Tick::Now if self.outgoing.len() == 0 && closing => self.finish(Size::Interactive, now),
            Tick::Now => self.data(Size::Interactive, now),
            Tick::At(moment) => Ok(Output::Wait(moment)),
            Tick::Idle => Ok(Output::Idle),
        }
    }

    fn data(&mut self, size: Size, now: Moment) -> Result<Output, SessionError> {
        let mut data = Zeroizing::new(vec![0; size.capacity()]);
        let count = self.outgoing.pop(&mut data);
        let wire = self.records.seal(Kind::Data, size, &data[..count], now)?;
        Ok(Output::Record(wire))
    }

    fn finish(&mut self, size: Size, now: Moment) -> Result<Output, SessionError> {
        let wire = self.records.seal(Kind::Close, size, &[], now)?;
        self.close_sent = true;
        Ok(Output::Record(wire))
    }

    fn check_life(&mut self, now: Moment) -> Result<(), SessionError> {
        if now.since(self.opened) >= SESSION_LIFE_MS {
            return Err(self.records.die(SessionError::Expired));
        }
        Ok(())
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("role", &self.role)
            .field("queued", &self.outgoing.len())
            .field("readable", &self.incoming.len())
            .finish_non_exhaustive()
    }
}
