//! The firmware's log of what it measured (TCG PC Client Platform Firmware Profile, section 10;
//! the crypto-agile form, little-endian).
//!
//! ```text
//! first   pcr 4 = 0 ‖ type 4 = EV_NO_ACTION ‖ SHA-1 digest 20 = 0 ‖ size 4 ‖ Spec ID Event03:
//!         "Spec ID Event03\0" ‖ class 4 ‖ minor 1 ‖ major 1 ‖ errata 1 ‖ uintn 1
//!         ‖ banks 4 ‖ (algorithm 2 ‖ digest size 2)… ‖ vendor size 1 ‖ vendor
//!         (a CCEL, of a confidential platform, has 1 there: it counts RTMR0 to RTMR3 from 1)
//! then    pcr 4 ‖ type 4 ‖ count 4 ‖ (algorithm 2 ‖ digest)… ‖ size 4 ‖ data
//! ```
//!
//! The log is unsigned. It counts for what its replay proves: a register that was quoted holds
//! exactly the digests of its events, in order. An event's *data* counts only where its digest is
//! the hash of the data, which [`EventLog::parse`] checks for every type of which that is known.
//! Digests of other banks than SHA-384 and the data of all other events prove nothing and are
//! used for nothing.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha384};

use crate::Digest;
use crate::reader::Reader;
use crate::tpm::Register;

/// Longest event log.
pub const MAX_EVENT_LOG_BYTES: usize = 512 << 10;

const REGISTERS: usize = 24;
const MAX_BANKS: usize = 8;
const MAX_DIGEST_BYTES: u16 = 64;
const SHA256: u16 = 0x000b;
const SHA384: u16 = 0x000c;
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// Type of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventKind(pub u32);

impl EventKind {
    /// Measures nothing.
    pub const NO_ACTION: Self = Self(0x0000_0003);
    /// Ends what the firmware measures before it boots something.
    pub const SEPARATOR: Self = Self(0x0000_0004);
    /// A fixed text.
    pub const ACTION: Self = Self(0x0000_0005);
    /// Version of the code that measures first.
    pub const S_CRTM_VERSION: Self = Self(0x0000_0008);
    /// A variable that configures a driver, such as `SecureBoot`.
    pub const EFI_VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// A variable that configures booting; the digest is of its value.
    pub const EFI_VARIABLE_BOOT: Self = Self(0x8000_0002);
    /// A fixed text.
    pub const EFI_ACTION: Self = Self(0x8000_0007);
    /// A variable that configures booting; the digest is of all of it.
    pub const EFI_VARIABLE_BOOT2: Self = Self(0x8000_000c);
    /// The certificate that allowed an image to run.
    pub const EFI_VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);
}

/// One event, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// Register that the event extends.
    pub register: Register,
    /// What happened.
    pub kind: EventKind,
    /// What the SHA-384 bank was extended by.
    pub digest: Digest<48>,
    /// What the SHA-256 bank was extended by, if the log has one.
    pub sha256: Option<Digest<32>>,
    /// What the firmware says of it.
    pub data: &'a [u8],
}

/// A log whose form is sound, and whose data fits its digests where that can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a> {
    events: Vec<Event<'a>>,
}

/// Whether the firmware enforces signatures on what it boots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecureBoot {
    /// It does.
    Enabled,
    /// It does not.
    Disabled,
}

/// Why bytes are no event log that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// Longer than [`MAX_EVENT_LOG_BYTES`].
    #[error("{found} bytes, {MAX_EVENT_LOG_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// The first event is not that of a crypto-agile log with a SHA-384 bank.
    #[error("the first event does not announce a log with a SHA-384 bank")]
    SpecId,
    /// The log ends within an event.
    #[error("the log ends within event {event}")]
    Truncated {
        /// Number of the event, from 1.
        event: usize,
    },
    /// An event does not hold one digest for each announced bank.
    #[error("event {event} does not hold one digest for each announced bank")]
    Banks {
        /// Number of the event, from 1.
        event: usize,
    },
    /// An event is of a register that does not exist.
    #[error("event {event} is of PCR {found}, which does not exist")]
    Register {
        /// Number of the event, from 1.
        event: usize,
        /// Register found.
        found: u32,
    },
    /// An event's digest is not the hash of its data.
    #[error("event {event} ({kind}) of {register}: digest of its data {expected}, found {found}")]
    Digest {
        /// Number of the event, from 1.
        event: usize,
        /// Register that the event extends.
        register: Register,
        /// What happened.
        kind: EventKind,
        /// Hash of the data.
        expected: Digest<48>,
        /// Digest in the log.
        found: Digest<48>,
    },
    /// The first event of PCR 7 does not say whether Secure Boot is on.
    #[error("the first event of PCR 7 does not say whether Secure Boot is on")]
    SecureBoot,
}

impl<'a> EventLog<'a> {
    /// Reads a TPM's log and checks every event's data against its digest where that can be done.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        Self::parse_from(bytes, 0)
    }

    /// Reads a CCEL, without the padding behind it, in the same way.
    pub fn parse_ccel(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        Self::parse_from(bytes, 1)
    }

    fn parse_from(bytes: &'a [u8], first: u32) -> Result<Self, EventLogError> {
        if bytes.len() > MAX_EVENT_LOG_BYTES {
            return Err(EventLogError::TooLarge { found: bytes.len() });
        }
        let mut reader = Reader(bytes);
        let banks = parse_spec_id(&mut reader, first).ok_or(EventLogError::SpecId)?;
        let mut events = Vec::new();
        while !reader.is_empty() {
            let number = events.len() + 1;
            let event = parse_event(&mut reader, &banks, number)?;
            event.check(number)?;
            events.push(event);
        }
        Ok(Self { events })
    }

    /// The part of a buffer that a CCEL fills: the firmware pads it with ones or zeros.
    pub fn unpadded(bytes: &'a [u8]) -> Result<&'a [u8], EventLogError> {
        let mut reader = Reader(bytes);
        let banks = parse_spec_id(&mut reader, 1).ok_or(EventLogError::SpecId)?;
        let mut event = 1;
        while !is_padding(reader.0) {
            parse_event(&mut reader, &banks, event)?;
            event += 1;
        }
        Ok(&bytes[..bytes.len() - reader.0.len()])
    }

    /// The events in order, without the first, which announces the form.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The value of a register after all of its events.
    #[must_use]
    pub fn replay(&self, register: Register) -> Digest<48> {
        let start = self.initial_value(register);
        self.extending(register).fold(start, |value, event| {
            let hash = Sha384::new().chain_update(value).chain_update(event.digest);
            Digest(hash.finalize().into())
        })
    }

    /// The value of a register in the SHA-256 bank after all of its events; nothing if the log has
    /// no such bank.
    #[must_use]
    pub fn replay_sha256(&self, register: Register) -> Option<Digest<32>> {
        let mut start = Digest::ZERO;
        start.0[31] = self.initial_value(register).0[47];
        self.extending(register).try_fold(start, |value, event| {
            let hash = Sha256::new().chain_update(value);
            let hash = hash.chain_update(event.sha256?);
            Some(Digest(hash.finalize().into()))
        })
    }

    /// Whether Secure Boot is on, as [`EventLog::secure_boot`] tells it, where the SHA-256 bank was
    /// quoted: the variable's digest in that bank must be of its data, too.
    pub fn secure_boot_sha256(&self) -> Result<SecureBoot, EventLogError> {
        let first = self.extending(Register(7)).next();
        let fits = |event: &&Event<'_>| event.sha256 == Some(Digest::sha256(event.data));
        match first.filter(fits) {
            Some(_) => self.secure_boot(),
            None => Err(EventLogError::SecureBoot),
        }
    }

    /// How many events a register has.
    #[must_use]
    pub fn count(&self, register: Register) -> usize {
        self.extending(register).count()
    }

    /// Whether Secure Boot is on: the firmware measures that variable into PCR 7 before anything
    /// else. The type of an event is not measured, but order and digests are; so the first event
    /// decides, and none that follows can pose as it. It means something once the replay of PCR 7
    /// fits.
    pub fn secure_boot(&self) -> Result<SecureBoot, EventLogError> {
        let first = self.extending(Register(7)).next();
        let variable = first
            .filter(|event| event.kind == EventKind::EFI_VARIABLE_DRIVER_CONFIG)
            .and_then(|event| Variable::parse(event.data))
            .filter(Variable::is_secure_boot);
        match variable.map(|variable| variable.value) {
            Some([1]) => Ok(SecureBoot::Enabled),
            Some([] | [0]) => Ok(SecureBoot::Disabled),
            _ => Err(EventLogError::SecureBoot),
        }
    }

    fn extending(&self, register: Register) -> impl Iterator<Item = &Event<'a>> {
        let extends = move |event: &&Event<'_>| {
            event.register == register && event.kind != EventKind::NO_ACTION
        };
        self.events.iter().filter(extends)
    }

    /// Zero, except that PCR 0 starts with the locality that the TPM was started from.
    fn initial_value(&self, register: Register) -> Digest<48> {
        let mut value = Digest::ZERO;
        let locality = self
            .events
            .iter()
            .filter(|event| event.kind == EventKind::NO_ACTION && event.register.0 == 0)
            .find_map(|event| event.data.strip_prefix(STARTUP_LOCALITY));
        if let (0, Some([locality])) = (register.0, locality) {
            value.0[47] = *locality;
        }
        value
    }
}

impl Event<'_> {
    /// The digest is the hash of the data, for types of which that is known.
    fn check(&self, number: usize) -> Result<(), EventLogError> {
        let measured = match self.kind {
            EventKind::SEPARATOR
            | EventKind::ACTION
            | EventKind::S_CRTM_VERSION
            | EventKind::EFI_VARIABLE_DRIVER_CONFIG
            | EventKind::EFI_ACTION
            | EventKind::EFI_VARIABLE_BOOT2
            | EventKind::EFI_VARIABLE_AUTHORITY => self.data,
            EventKind::EFI_VARIABLE_BOOT => match Variable::parse(self.data) {
                Some(variable) => variable.value,
                None => self.data,
            },
            _ => return Ok(()),
        };
        let (expected, found) = (Digest::sha384(measured), self.digest);
        if expected == found {
            return Ok(());
        }
        let (register, kind) = (self.register, self.kind);
        Err(EventLogError::Digest {
            event: number,
            register,
            kind,
            expected,
            found,
        })
    }
}

/// No event is made of nothing but ones or nothing but zeros.
fn is_padding(rest: &[u8]) -> bool {
    let all = |value: u8| rest.iter().all(|byte| *byte == value);
    all(0xff) || all(0)
}

/// The announced banks: algorithm and size of digests. One is SHA-384.
fn parse_spec_id(reader: &mut Reader<'_>, first: u32) -> Option<Vec<(u16, u16)>> {
    let head = (
        reader.u32_le()?,
        EventKind(reader.u32_le()?),
        reader.take(20)?,
    );
    let size = reader.u32_le()?;
    let mut event = Reader(reader.take(usize::try_from(size).ok()?)?);
    let announced = event.take(SPEC_ID.len())? == SPEC_ID;
    if head != (first, EventKind::NO_ACTION, &[0; 20]) || !announced {
        return None;
    }
    let [_, _, _, _, _minor, major, _errata, _uintn] = event.array()?;
    let count = usize::try_from(event.u32_le()?)
        .ok()
        .filter(|count| *count <= MAX_BANKS)?;
    let mut banks = Vec::with_capacity(count);
    for _ in 0..count {
        let (algorithm, size) = (event.u16_le()?, event.u16_le()?);
        let repeated = banks.iter().any(|(earlier, _)| *earlier == algorithm);
        if repeated || size > MAX_DIGEST_BYTES {
            return None;
        }
        banks.push((algorithm, size));
    }
    let [vendor] = event.array()?;
    event.take(usize::from(vendor))?;
    (major == 2 && event.is_empty() && banks.contains(&(SHA384, 48))).then_some(banks)
}

fn parse_event<'a>(
    reader: &mut Reader<'a>,
    banks: &[(u16, u16)],
    event: usize,
) -> Result<Event<'a>, EventLogError> {
    let truncated = EventLogError::Truncated { event };
    let found = reader.u32_le().ok_or(truncated)?;
    let register = u8::try_from(found)
        .ok()
        .filter(|register| usize::from(*register) < REGISTERS);
    let register = Register(register.ok_or(EventLogError::Register { event, found })?);
    let kind = EventKind(reader.u32_le().ok_or(truncated)?);
    let (mut sha256, mut sha384) = (None, None);
    if reader.u32_le().ok_or(truncated)? as usize != banks.len() {
        return Err(EventLogError::Banks { event });
    }
    for (algorithm, size) in banks {
        if reader.u16_le().ok_or(truncated)? != *algorithm {
            return Err(EventLogError::Banks { event });
        }
        let digest = reader.take(usize::from(*size)).ok_or(truncated)?;
        if *algorithm == SHA384 {
            sha384 = digest.try_into().ok().map(Digest);
        } else if *algorithm == SHA256 {
            sha256 = digest.try_into().ok().map(Digest);
        }
    }
    let digest = sha384.ok_or(EventLogError::Banks { event })?;
    let size = reader.u32_le().ok_or(truncated)?;
    let data = usize::try_from(size)
        .ok()
        .and_then(|size| reader.take(size))
        .ok_or(truncated)?;
    Ok(Event {
        register,
        kind,
        digest,
        sha256,
        data,
    })
}

/// UEFI_VARIABLE_DATA: GUID 16 ‖ name length 8 ‖ value length 8 ‖ name (UTF-16) ‖ value.
struct Variable<'a> {
    vendor: &'a [u8],
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Variable<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let vendor = reader.take(16)?;
        let units = usize::try_from(reader.u64_le()?).ok()?;
        let length = usize::try_from(reader.u64_le()?).ok()?;
        let name = reader.take(units.checked_mul(2)?)?;
        let value = reader.take(length)?;
        reader.is_empty().then_some(Self {
            vendor,
            name,
            value,
        })
    }

    fn is_secure_boot(&self) -> bool {
        /// 8be4df61-93ca-11d2-aa0d-00e098032b8c
        const GLOBAL_VARIABLE: [u8; 16] = [
            0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03,
            0x2b, 0x8c,
        ];
        let name = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes);
        self.vendor == GLOBAL_VARIABLE && name.eq(self.name.iter().copied())
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NO_ACTION => "EV_NO_ACTION",
            Self::SEPARATOR => "EV_SEPARATOR",
            Self::ACTION => "EV_ACTION",
            Self::S_CRTM_VERSION => "EV_S_CRTM_VERSION",
            Self::EFI_VARIABLE_DRIVER_CONFIG => "EV_EFI_VARIABLE_DRIVER_CONFIG",
            Self::EFI_VARIABLE_BOOT => "EV_EFI_VARIABLE_BOOT",
            Self::EFI_ACTION => "EV_EFI_ACTION",
            Self::EFI_VARIABLE_BOOT2 => "EV_EFI_VARIABLE_BOOT2",
            Self::EFI_VARIABLE_AUTHORITY => "EV_EFI_VARIABLE_AUTHORITY",
            Self(other) => return write!(f, "event type {other:#010x}"),
        })
    }
}
