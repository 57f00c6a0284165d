//! Event logs as machines record them: a TPM's (binary_bios_measurements) and TDX's (CCEL), for
//! comparing. Whether evidence is good is not decided here but in `attest`.
//!
//! ```text
//! first   register 4 ‖ kind 4 = EV_NO_ACTION ‖ 20 zeros ‖ size 4 ‖ Spec ID Event03
//! then    register 4 ‖ kind 4 ‖ count 4 ‖ (algorithm 2 ‖ digest)… ‖ size 4 ‖ data
//! end     the end of the file, or bytes that are all 0xff or all zero
//! ```
//!
//! Which of the two a log is, its own words tell. Nothing but a CCEL begins with register 1. One
//! that begins with register 0 is a TPM's, as TCG demands, unless it has SHA-384 alone, which is
//! all that TDX has, and extends nothing but RTMR0 to RTMR3, counted from 1: td-shim writes such a
//! CCEL, and no TPM's log can look so, since firmware extends PCR 0 to 7, each with a separator at
//! least.
//!
//! Specifications: TCG, "PC Client Platform Firmware Profile", usage of PCRs and section 10; UEFI,
//! chapter 38.4. `attest` has a parser of its own, which refuses more; what that one accepts both
//! read alike.

use std::fmt;

use attest::Digest;
use sha2::{Digest as _, Sha256, Sha384};

use crate::pe::{u16_at, u32_at};

/// Longest log; a firmware reserves 256 KiB or 1 MiB.
pub const MAX_LOG_BYTES: usize = 4 << 20;
const MAX_REGISTER: u32 = 23;
/// RTMR0 to RTMR3 as a CCEL counts them; 0 is MRTD, which nothing extends.
const RTMRS: std::ops::RangeInclusive<u32> = 1..=4;
const MAX_BANKS: usize = 8;
const MAX_DIGEST_BYTES: usize = 64;
const NO_ACTION: u32 = 3;
const SPEC_ID: &[u8] = b"Spec ID Event03\0";
const STARTUP_LOCALITY: &[u8] = b"StartupLocality\0";

/// A bank of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bank {
    /// SHA-256.
    Sha256,
    /// SHA-384, the only one of TDX.
    Sha384,
}

/// Whose registers a log is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A TPM's.
    Tpm,
    /// Those of TDX.
    Ccel,
}

/// A log of sound form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    kind: Kind,
    banks: Vec<(u16, usize)>,
    events: Vec<Event<'a>>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<'a> {
    /// Register as the log counts it.
    pub register: u32,
    /// What happened, as TCG numbers it.
    pub kind: u32,
    /// What the firmware says of it.
    pub data: &'a [u8],
    digests: &'a [u8],
}

/// Why bytes are no event log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Longer than [`MAX_LOG_BYTES`].
    #[error("{0} bytes; an event log has {MAX_LOG_BYTES} at most")]
    TooLarge(usize),
    /// It does not begin as a crypto-agile log.
    #[error("it does not begin as an event log that names its banks (Spec ID Event03)")]
    SpecId,
    /// It ends within an event.
    #[error("it ends within event {0}")]
    Truncated(usize),
    /// An event has other digests than the banks announced.
    #[error("event {0} does not hold one digest for each announced bank")]
    Banks(usize),
    /// A register that does not exist.
    #[error("event {event} is of register {found}, which does not exist")]
    Register {
        /// Number of the event, from 1.
        event: usize,
        /// Register.
        found: u32,
    },
    /// The log is of the other kind.
    #[error("it is {found}, not {expected}")]
    Kind {
        /// What is needed.
        expected: Kind,
        /// What it is.
        found: Kind,
    },
    /// No bank that is known here; of TDX, none of SHA-384.
    #[error("it has no bank that is predicted: SHA-384, or of a TPM SHA-256")]
    NoBank,
    /// Something stands behind the end.
    #[error("something follows the end of the log at byte {0}")]
    Trailing(usize),
}

/// Where two accounts of one register part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference<D> {
    /// Number of the event within its register, from 1.
    pub number: usize,
    /// What was expected there; nothing if the log has an event too many.
    pub expected: Option<(String, D)>,
    /// What the log has there; nothing if it has one too few.
    pub found: Option<(String, D)>,
}

impl<'a> EventLog<'a> {
    /// Reads a log that must be of one kind.
    pub fn parse_as(bytes: &'a [u8], expected: Kind) -> Result<Self, LogError> {
        let log = Self::parse(bytes)?;
        match log.kind == expected {
            true => Ok(log),
            false => Err(LogError::Kind {
                expected,
                found: log.kind,
            }),
        }
    }

    /// Reads a log of either kind.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, LogError> {
        if bytes.len() > MAX_LOG_BYTES {
            return Err(LogError::TooLarge(bytes.len()));
        }
        let (first, banks, mut at) = parse_spec_id(bytes).ok_or(LogError::SpecId)?;
        let mut events = Vec::new();
        while at < bytes.len() {
            let rest = &bytes[at..];
            let filler = rest[0];
            if matches!(filler, 0xff | 0) && rest.iter().all(|byte| *byte == filler) {
                break;
            }
            let number = events.len() + 1;
            if rest.starts_with(&[0xff; 4]) {
                return Err(LogError::Trailing(at));
            }
            let (event, length) = parse_event(rest, &banks, number)?;
            if first == 1 && event.kind != NO_ACTION && !RTMRS.contains(&event.register) {
                let (event, found) = (number, event.register);
                return Err(LogError::Register { event, found });
            }
            events.push(event);
            at += length;
        }
        let kind = kind(first, &banks, &events);
        let log = Self {
            kind,
            banks,
            events,
        };
        let known = log.has(Bank::Sha384) || kind == Kind::Tpm && log.has(Bank::Sha256);
        known.then_some(log).ok_or(LogError::NoBank)
    }

    /// Whose registers the log is of.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The bank by which the log is compared: SHA-384 where it has that.
    #[must_use]
    pub fn bank(&self) -> Bank {
        match self.has(Bank::Sha384) {
            true => Bank::Sha384,
            false => Bank::Sha256,
        }
    }

    /// The events in order, without the first.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// Whether the log has a bank.
    #[must_use]
    pub fn has(&self, bank: Bank) -> bool {
        self.banks
            .iter()
            .any(|(algorithm, _)| *algorithm == bank.algorithm())
    }

    /// The digest of an event in a bank, where the log has that bank.
    #[must_use]
    pub fn digest(&self, event: &Event<'a>, bank: Bank) -> Option<&'a [u8]> {
        let mut at = 0;
        for (algorithm, size) in &self.banks {
            let digest = event.digests.get(at + 2..at + 2 + size)?;
            if *algorithm == bank.algorithm() {
                return Some(digest);
            }
            at += 2 + size;
        }
        None
    }

    /// Events that extend a register.
    pub fn of(&self, register: u32) -> impl Iterator<Item = &Event<'a>> {
        let extends =
            move |event: &&Event<'_>| event.register == register && event.kind != NO_ACTION;
        self.events.iter().filter(extends)
    }

    /// The digests of a register's events in a bank, with what they are for people.
    #[must_use]
    pub fn digests(&self, bank: Bank, register: u32) -> Vec<(String, Vec<u8>)> {
        let one = |event: &Event<'a>| {
            let digest = self.digest(event, bank)?.to_vec();
            Some((event.to_string(), digest))
        };
        self.of(register).filter_map(one).collect()
    }

    /// The same in the SHA-384 bank.
    #[must_use]
    pub fn sha384(&self, register: u32) -> Vec<(String, Digest<48>)> {
        let all = self.digests(Bank::Sha384, register).into_iter();
        all.filter_map(|(what, digest)| Some((what, Digest(digest.try_into().ok()?))))
            .collect()
    }

    /// A register after all events; of PCR 0 from the locality that the log names. `None` where
    /// the log lacks the bank.
    #[must_use]
    pub fn replay(&self, bank: Bank, register: u32) -> Option<Vec<u8>> {
        let size = bank.bytes();
        let mut value = vec![0; size];
        // Of PCR 0 alone: in another register it is a note like any other.
        let is_note = |event: &&Event<'_>| event.kind == NO_ACTION && event.register == 0;
        let mut notes = self.events.iter().filter(is_note);
        let locality = notes.find_map(|event| event.data.strip_prefix(STARTUP_LOCALITY));
        if let (0, Some([locality])) = (register, locality) {
            value[size - 1] = *locality;
        }
        if !self.has(bank) {
            return None;
        }
        for event in self.of(register) {
            let digest = self.digest(event, bank)?;
            value.extend_from_slice(digest);
            value = match bank {
                Bank::Sha256 => Sha256::digest(&value).to_vec(),
                Bank::Sha384 => Sha384::digest(&value).to_vec(),
            };
        }
        Some(value)
    }
}

/// The first event at which a recorded register is not as expected.
#[must_use]
pub fn first_difference<D: Clone + PartialEq>(
    expected: &[(String, D)],
    found: &[(String, D)],
) -> Option<Difference<D>> {
    let length = expected.len().max(found.len());
    let differs = |index: &usize| {
        let digest = |events: &[(String, D)]| events.get(*index).map(|event| event.1.clone());
        digest(expected) != digest(found)
    };
    let index = (0..length).find(differs)?;
    Some(Difference {
        number: index + 1,
        expected: expected.get(index).cloned(),
        found: found.get(index).cloned(),
    })
}

/// Of a log of sound form, by its first register, its banks and what it extends.
fn kind(first: u32, banks: &[(u16, usize)], events: &[Event<'_>]) -> Kind {
    let sha384_alone = banks == [(Bank::Sha384.algorithm(), Bank::Sha384.bytes())];
    let mut extended = events.iter().filter(|event| event.kind != NO_ACTION);
    let rtmrs_alone = events.iter().any(|event| event.kind != NO_ACTION)
        && extended.all(|event| RTMRS.contains(&event.register));
    match (first, sha384_alone && rtmrs_alone) {
        (0, false) => Kind::Tpm,
        _ => Kind::Ccel,
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tpm => "a TPM's event log",
            Self::Ccel => "an event log of TDX (CCEL)",
        })
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
        })
    }
}

impl Bank {
    fn algorithm(self) -> u16 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
        }
    }
}

impl Event<'_> {
    /// The name of the EFI variable that was measured: GUID 16 ‖ letters of the name u64 ‖ bytes of
    /// the value u64 ‖ name in UTF-16 ‖ value.
    #[must_use]
    pub fn variable(&self) -> Option<String> {
        if !matches!(
            self.kind,
            0x8000_0001 | 0x8000_0002 | 0x8000_000c | 0x8000_00e0
        ) {
            return None;
        }
        let letters = u32_at(self.data, 16).filter(|_| u32_at(self.data, 20) == Some(0))?;
        let letters = usize::try_from(letters)
            .ok()
            .filter(|letters| *letters <= 64)?;
        let name = self.data.get(32..32 + letters * 2)?;
        let letter = |pair: &[u8]| match pair {
            [letter, 0] if letter.is_ascii_graphic() => Some(char::from(*letter)),
            _ => None,
        };
        name.chunks(2).map(letter).collect()
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.kind {
            0x0000_0001 => "post code",
            0x0000_0004 => "separator",
            0x0000_0005 => "action",
            0x0000_0006 => "event tag",
            0x0000_0008 => "firmware version",
            0x0000_000a => "platform configuration",
            0x0000_000d => "initial program loader",
            0x8000_0001 => "variable of a driver",
            0x8000_0002 | 0x8000_000c => "boot variable",
            0x8000_0003 => "boot application",
            0x8000_0004 => "boot driver",
            0x8000_0006 => "partition table",
            0x8000_0007 => "EFI action",
            0x8000_0008 | 0x8000_000a => "firmware volume",
            0x8000_0009 | 0x8000_000b => "hand-off table",
            0x8000_00e0 => "authority",
            kind => return write!(f, "event of kind {kind:#010x}"),
        };
        f.write_str(name)?;
        if let Some(variable) = self.variable() {
            return write!(f, " {variable}");
        }
        let text: String = self
            .data
            .iter()
            .take(48)
            .map(|byte| *byte as char)
            .collect();
        let text = text.trim_end_matches('\0');
        let plain = !text.is_empty() && text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        match plain {
            true => write!(f, " {text:?}"),
            false => Ok(()),
        }
    }
}

type Banks = Vec<(u16, usize)>;

/// The first register, the banks, and where the events begin.
fn parse_spec_id(bytes: &[u8]) -> Option<(u32, Banks, usize)> {
    let first = u32_at(bytes, 0).filter(|first| *first <= 1)?;
    if u32_at(bytes, 4)? != NO_ACTION {
        return None;
    }
    let end = 32usize.checked_add(u32_at(bytes, 28)? as usize)?;
    let event = bytes.get(32..end)?;
    let count = u32_at(event, 24)? as usize;
    if !event.starts_with(SPEC_ID) || !(1..=MAX_BANKS).contains(&count) {
        return None;
    }
    let mut banks = Banks::new();
    for index in 0..count {
        let at = 28 + index * 4;
        let bank = (u16_at(event, at)?, usize::from(u16_at(event, at + 2)?));
        let known = match bank.0 {
            0x000b => bank.1 == 32,
            0x000c => bank.1 == 48,
            _ => bank.1 <= MAX_DIGEST_BYTES,
        };
        if !known || banks.iter().any(|(earlier, _)| *earlier == bank.0) {
            return None;
        }
        banks.push(bank);
    }
    Some((first, banks, end))
}

fn parse_event<'a>(
    bytes: &'a [u8],
    banks: &[(u16, usize)],
    number: usize,
) -> Result<(Event<'a>, usize), LogError> {
    let truncated = LogError::Truncated(number);
    let word = |at| u32_at(bytes, at).ok_or(truncated);
    let (register, kind, count) = (word(0)?, word(4)?, word(8)?);
    if register > MAX_REGISTER {
        return Err(LogError::Register {
            event: number,
            found: register,
        });
    }
    if count as usize != banks.len() {
        return Err(LogError::Banks(number));
    }
    let mut at = 12;
    for (algorithm, size) in banks {
        if u16_at(bytes, at).ok_or(truncated)? != *algorithm {
            return Err(LogError::Banks(number));
        }
        at += 2 + size;
    }
    let digests = bytes.get(12..at).ok_or(truncated)?;
    let end = (at + 4).checked_add(word(at)? as usize).ok_or(truncated)?;
    let data = bytes.get(at + 4..end).ok_or(truncated)?;
    let event = Event {
        register,
        kind,
        data,
        digests,
    };
    Ok((event, end))
}
