//! What TDX measures: MRTD before the start, and RTMR0 to RTMR2 as firmware and kernel boot.
//!
//! ```text
//! MRTD    TDX module: the firmware (see `tdvf`)
//! RTMR0   firmware: hand-off blocks, configuration volume, Secure Boot variables, separator,
//!         ACPI tables, boot order and options
//! RTMR1   firmware: boot attempt, separator, partition table, programs that EFI starts, exit
//! RTMR2   stub and kernel: sections of a UKI, command line, initrd
//! RTMR3   user space: stays zero
//! ```
//!
//! References: TCG event types; UEFI, chapter 38.4, for which PCR stands for which register. An
//! event that does not follow from the artifacts is taken from a recorded log, and is marked so, or
//! its register is not predicted. Nothing is guessed.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

use attest::Digest;
use sha2::{Digest as _, Sha384};

use super::Measurement;
use super::acpi::AcpiTables;
use super::boot::{Artifact, CommandText};
use super::bytes::{self, Bytes, WithHead};
use super::eventlog::{EventLog, Kind};
use super::linux::{self, KernelError};
use super::tdvf::{Tdvf, TdvfError};
use crate::pe::{self, PeError};

/// Kinds of events of RTMR0 that can be computed.
const HAND_OFF: [u32; 2] = [0x8000_0009, 0x8000_000b];
const VOLUME: [u32; 2] = [0x8000_0008, 0x8000_000a];
const CONFIGURATION: u32 = 0x0000_000a;
const ACPI: &[u8] = b"ACPI DATA";

/// Where a digest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// From the artifacts.
    Computed,
    /// From a log of a boot of the same shape.
    Recorded,
}

/// One extension of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxEvent {
    /// Number of the RTMR.
    pub register: u8,
    /// What is extended, for people.
    pub what: String,
    /// The digest that is extended.
    pub digest: Digest<48>,
    /// Where it comes from.
    pub source: Source,
}

/// Whether QEMU's kernel is the one that the firmware takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelForm {
    /// With its boot header filled in, as QEMU always offers it.
    Patched,
    /// As it is in its file: where QEMU offers that too, as `etc/boot/kernel`, and the firmware
    /// reads it.
    Unchanged,
}

/// Kernel, initrd and command line that the VMM hands over.
#[derive(Debug, Clone, Copy)]
pub struct DirectBoot<'a> {
    /// The kernel file.
    pub kernel: &'a dyn Bytes,
    /// The initrd.
    pub initrd: Option<&'a Artifact>,
    /// The command line.
    pub command_line: &'a CommandText,
    /// Memory of the VM, which a patched kernel depends on.
    pub memory_bytes: u64,
}

/// Why something of TDX is not predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TdxError {
    /// QEMU would not hand it over.
    #[error("the kernel: {0}")]
    Kernel(#[from] KernelError),
    /// The firmware would not start it.
    #[error("the kernel: {0}")]
    Pe(#[from] PeError),
    /// The kernel file cannot be read.
    #[error("the kernel cannot be read: {0}")]
    Read(io::ErrorKind),
    /// The firmware's metadata.
    #[error(transparent)]
    Tdvf(#[from] TdvfError),
    /// Variables whose values are measured one by one.
    #[error("the firmware brings variables of its own: RTMR0 is not predicted without a log")]
    Variables,
    /// A log that is no recording of a boot under TDX.
    #[error("the event log has no events of RTMR0 with a SHA-384 bank: it is not of TDX")]
    Log,
    /// Tables for a log that has other ones.
    #[error("the event log has {found} ACPI events, and the tables are {given}")]
    Acpi {
        /// In the log.
        found: usize,
        /// With QEMU's script.
        given: usize,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Computed => "computed",
            Self::Recorded => "recorded",
        })
    }
}

impl fmt::Display for KernelForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Patched => "patched",
            Self::Unchanged => "unchanged",
        })
    }
}

impl DirectBoot<'_> {
    /// The events of RTMR1 and RTMR2.
    pub fn events(&self, form: KernelForm) -> Result<Vec<TdxEvent>, TdxError> {
        let read = |error: io::Error| TdxError::Read(error.kind());
        let length = self.kernel.length().map_err(read)?;
        let head = bytes::read(self.kernel, 0..length.min(pe::HEAD_BYTES));
        let mut head = head.map_err(read)?;
        let kernel = match form {
            KernelForm::Unchanged => {
                linux::check(&head)?;
                authenticode(self.kernel)?
            }
            KernelForm::Patched => {
                let initrd_bytes = self.initrd.map(|initrd| initrd.bytes);
                linux::patch(
                    &mut head,
                    self.command_line,
                    initrd_bytes,
                    self.memory_bytes,
                )?;
                authenticode(&WithHead {
                    head,
                    rest: self.kernel,
                })?
            }
        };
        let what = format!("kernel, {form}, Authenticode digest");
        let mut events = vec![computed(1, &what, kernel), attempt(), separator()];
        events.extend(exits());
        let suffix = self.initrd.map_or("", |_| " initrd=initrd");
        let options = self.command_line.to_load_options(suffix);
        let what = format!("command line{suffix}, UTF-16 with NUL");
        events.push(computed(2, &what, Digest::sha384(&options)));
        if let Some(initrd) = self.initrd {
            events.push(computed(2, "initrd", initrd.sha384));
        }
        Ok(events)
    }
}

/// The events of RTMR1 and RTMR2 of a UKI that the firmware starts from a disk. RTMR1 has the
/// disk's partition table among them; where that is not known, only RTMR2 is given.
#[must_use]
pub fn uki_events(uki: &Measurement, partition_table: Option<Digest<48>>) -> Vec<TdxEvent> {
    let mut events = Vec::new();
    if let Some(table) = partition_table {
        events.extend([attempt(), separator()]);
        events.push(computed(1, "partition table of the disk", table));
        let programs = uki.events.iter().filter(|event| event.pcr == 4).skip(2);
        events.extend(programs.map(|event| computed(1, &event.what, event.digests.sha384)));
        events.extend(exits());
    }
    // The stub measures its sections before the kernel takes over.
    for pcr in [11, 9] {
        let measured = uki.events.iter().filter(|event| event.pcr == pcr);
        events.extend(measured.map(|event| computed(2, &event.what, event.digests.sha384)));
    }
    events
}

/// The events of RTMR0: hand-off blocks and configuration volume from the firmware, the ACPI tables
/// from dumps where there are any, everything else as the log has it.
pub fn rtmr0_events(
    log: &EventLog<'_>,
    firmware: Option<(&Tdvf<'_>, u64)>,
    acpi: Option<&AcpiTables>,
) -> Result<Vec<TdxEvent>, TdxError> {
    if log.kind() != Kind::Ccel {
        return Err(TdxError::Log);
    }
    let mut out = Vec::new();
    let mut table = 0;
    for (event, (what, digest)) in log.of(1).zip(log.sha384(1)) {
        let mut new = TdxEvent {
            register: 0,
            what,
            digest,
            source: Source::Recorded,
        };
        let mut replace = |what: String, digest| {
            new.what = what;
            new.digest = digest;
            new.source = Source::Computed;
        };
        match (event.kind, firmware, out.len()) {
            (kind, Some((tdvf, memory)), 0) if HAND_OFF.contains(&kind) => {
                let blocks = tdvf.hand_off_blocks(memory)?;
                replace(
                    format!("hand-off blocks, {memory} bytes of memory"),
                    Digest::sha384(&blocks),
                );
            }
            (kind, Some((tdvf, _)), 1) if VOLUME.contains(&kind) => {
                replace("configuration volume".to_owned(), tdvf.configuration()?);
            }
            (CONFIGURATION, _, _) if event.data == ACPI => {
                if let Some((name, digest)) = acpi.and_then(|acpi| acpi.events.get(table)) {
                    replace(format!("ACPI {name}"), *digest);
                }
                table += 1;
            }
            _ => {}
        }
        out.push(new);
    }
    let given = acpi.map_or(table, |acpi| acpi.events.len());
    match (out.is_empty(), given == table) {
        (true, _) => Err(TdxError::Log),
        (_, false) => Err(TdxError::Acpi {
            found: table,
            given,
        }),
        _ => Ok(out),
    }
}

/// The registers after these events; a register without one is not among them.
#[must_use]
pub fn replay(events: &[TdxEvent]) -> BTreeMap<u8, Digest<48>> {
    let mut values: BTreeMap<u8, Digest<48>> = BTreeMap::new();
    for event in events {
        let value = values.entry(event.register).or_default();
        *value = Digest::sha384(&[value.as_ref(), event.digest.as_ref()].concat());
    }
    values
}

/// MRTD and RTMR0 to RTMR3 of a TDX quote of version 4 or 5, which is not verified here.
#[must_use]
pub fn registers_of_quote(quote: &[u8]) -> Option<[Digest<48>; 5]> {
    let body = match crate::pe::u16_at(quote, 0)? {
        4 => quote.get(48..)?,
        5 => quote.get(54..)?,
        _ => return None,
    };
    let register = |at: usize| Some(Digest(body.get(at..at + 48)?.try_into().ok()?));
    Some([
        register(136)?,
        register(328)?,
        register(376)?,
        register(424)?,
        register(472)?,
    ])
}

fn authenticode(image: &dyn Bytes) -> Result<Digest<48>, TdxError> {
    let read = |error: io::Error| TdxError::Read(error.kind());
    let layout = bytes::layout(image).map_err(read)??;
    let mut hash = Sha384::new();
    for range in layout.authenticode() {
        bytes::update(&mut hash, image, range).map_err(read)?;
    }
    Ok(Digest(hash.finalize().into()))
}

fn computed(register: u8, what: &str, digest: Digest<48>) -> TdxEvent {
    TdxEvent {
        register,
        what: what.to_owned(),
        digest,
        source: Source::Computed,
    }
}

fn attempt() -> TdxEvent {
    let action = "Calling EFI Application from Boot Option";
    let what = format!("action {action:?}");
    computed(1, &what, Digest::sha384(action.as_bytes()))
}

fn separator() -> TdxEvent {
    computed(1, "separator", Digest::sha384(&[0; 4]))
}

fn exits() -> [TdxEvent; 2] {
    [
        "Exit Boot Services Invocation",
        "Exit Boot Services Returned with Success",
    ]
    .map(|action| {
        computed(
            1,
            &format!("action {action:?}"),
            Digest::sha384(action.as_bytes()),
        )
    })
}
