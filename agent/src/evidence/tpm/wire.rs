//! The TPM's wire format: big-endian integers and `TPM2B` fields (a 16-bit length, then bytes).
//!
//! ```text
//! command   tag 2 | size 4 | code 4 | handles 4·n | [authorization size 4 | sessions] | parameters
//! response  tag 2 | size 4 | code 4 | [handle 4] | [parameter size 4] | parameters | [sessions]
//! ```
//!
//! Trusted Platform Module Library, part 1, section 18, and part 3, section 5.

/// `TPM_ST_NO_SESSIONS`.
const NO_SESSIONS: u16 = 0x8001;
/// `TPM_ST_SESSIONS`.
const SESSIONS: u16 = 0x8002;
/// `TPM_RS_PW`: the pseudo-session that carries a password.
const PASSWORD_SESSION: u32 = 0x4000_0009;
/// `TPM_RC_SUCCESS`.
pub(super) const SUCCESS: u32 = 0;
/// Tag, size and code.
pub(super) const HEADER_BYTES: usize = 10;
/// No TPM in use answers with more than this.
pub(super) const MAX_RESPONSE_BYTES: usize = 4096;

/// What is wrong with bytes that came from a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A field reaches past the end.
    #[error("a field reaches past the end")]
    Short,
    /// Bytes follow the last field.
    #[error("bytes follow the last field")]
    Trailing,
    /// The header's size is below a header's own, above the limit, or not that of the response.
    #[error("the size in the header is impossible")]
    Size,
    /// The response's tag does not fit the command.
    #[error("the tag does not fit the command")]
    Tag,
    /// The session area is not the answer to one empty password.
    #[error("the session area is not the answer to one empty password")]
    Session,
    /// The answer is about other PCRs, or another bank, than were asked for.
    #[error("the PCR selection is not the one asked for")]
    Selection,
    /// A digest has another length than its bank's.
    #[error("a digest has a wrong length")]
    Digest,
    /// The PCR update counter changed each time between two halves of one reading.
    #[error("the PCRs changed while they were read")]
    Unstable,
    /// An NV index is larger than any that evidence needs, or gave another amount than asked for.
    #[error("the NV index has an impossible size")]
    NvSize,
}

/// Reads a TPM structure front to back and never past its end.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Begins at the front of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Fault::Short)?;
        self.0 = rest;
        Ok(*head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(u8::from_be_bytes)
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// The content of the next `TPM2B`.
    pub fn tpm2b(&mut self) -> Result<&'a [u8], Fault> {
        let count = self.u16()?;
        self.take(usize::from(count))
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Everything has been read.
    pub fn end(self) -> Result<(), Fault> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Fault::Trailing)
        }
    }
}

/// Writes a TPM structure.
#[derive(Debug, Default, Clone)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// Begins with nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one byte.
    pub fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    /// Appends two bytes.
    pub fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends four bytes.
    pub fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Appends a `TPM2B`. No caller has 64 KiB to say; what exceeds that is cut off.
    pub fn tpm2b(self, bytes: &[u8]) -> Self {
        let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(count).bytes(&bytes[..usize::from(count)])
    }

    /// The structure.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// One command, ready to be sent by [`super::Tpm::execute`].
#[derive(Debug, Clone)]
pub struct Command {
    /// `TPM_CC`.
    pub code: u32,
    /// The handle area.
    pub handles: Vec<u32>,
    /// How many of the handles, from the first, are authorised, each with an empty password.
    pub authorizations: usize,
    /// The parameter area.
    pub parameters: Vec<u8>,
    /// A successful response carries a handle.
    pub returns_handle: bool,
}

/// A successful response, without header and sessions.
#[derive(Debug, Clone)]
pub struct Response {
    /// The handle, where the command makes one; otherwise zero.
    pub handle: u32,
    /// The parameter area.
    pub parameters: Vec<u8>,
}

impl Command {
    /// A command without authorisation that returns no handle.
    pub fn new(code: u32, handles: &[u32], parameters: Vec<u8>) -> Self {
        let handles = handles.to_vec();
        Self {
            code,
            handles,
            authorizations: 0,
            parameters,
            returns_handle: false,
        }
    }

    /// The same with an empty password for the first `count` handles.
    pub fn authorize(mut self, count: usize) -> Self {
        self.authorizations = count;
        self
    }

    /// The same, returning a handle.
    pub fn returning_handle(mut self) -> Self {
        self.returns_handle = true;
        self
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        for handle in &self.handles {
            body = body.u32(*handle);
        }
        if self.authorizations > 0 {
            let mut sessions = Writer::new();
            for _ in 0..self.authorizations {
                sessions = sessions.u32(PASSWORD_SESSION).tpm2b(&[]).u8(0).tpm2b(&[]);
            }
            let sessions = sessions.finish();
            body = body.u32(sessions.len() as u32).bytes(&sessions);
        }
        let body = body.bytes(&self.parameters).finish();
        let tag = if self.authorizations > 0 {
            SESSIONS
        } else {
            NO_SESSIONS
        };
        let size = (HEADER_BYTES + body.len()) as u32;
        Writer::new()
            .u16(tag)
            .u32(size)
            .u32(self.code)
            .bytes(&body)
            .finish()
    }

    /// `Err` in the inner result is the TPM's own code.
    pub(super) fn decode(&self, response: &[u8]) -> Result<Result<Response, u32>, Fault> {
        let mut reader = Reader::new(response);
        let (tag, size, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
        if size as usize != response.len() {
            return Err(Fault::Size);
        }
        if code != SUCCESS {
            reader.end()?; // an error is a bare header
            return Ok(Err(code));
        }
        if tag
            != if self.authorizations > 0 {
                SESSIONS
            } else {
                NO_SESSIONS
            }
        {
            return Err(Fault::Tag);
        }
        let handle = if self.returns_handle {
            reader.u32()?
        } else {
            0
        };
        if self.authorizations == 0 {
            return Ok(Ok(Response {
                handle,
                parameters: reader.rest().to_vec(),
            }));
        }
        let count = reader.u32()? as usize;
        let parameters = reader.take(count)?.to_vec();
        for _ in 0..self.authorizations {
            let (nonce, _, code) = (reader.tpm2b()?, reader.u8()?, reader.tpm2b()?);
            if !nonce.is_empty() || !code.is_empty() {
                return Err(Fault::Session);
            }
        }
        reader.end()?;
        Ok(Ok(Response { handle, parameters }))
    }
}

/// The size that a response's header states, once the header is there.
pub(super) fn stated_size(received: &[u8]) -> Result<Option<usize>, Fault> {
    let Some(header) = received.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([header[2], header[3], header[4], header[5]]) as usize;
    if (HEADER_BYTES..=MAX_RESPONSE_BYTES).contains(&size) {
        Ok(Some(size))
    } else {
        Err(Fault::Size)
    }
}
