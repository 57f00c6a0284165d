//! What a TPM's registers will hold after a UKI has booted, from the UKI alone.
//!
//! ```text
//! PCR 4    firmware: the boot attempt, a separator, the UKI (Authenticode); stub: the kernel
//! PCR 9    kernel's EFI stub: command line (UTF-16 with NUL), initrd as the stub hands it over
//! PCR 11   stub: name and contents of each section; later the phases that user space adds
//! PCR 12   stub: command line, credentials, addons from outside: must stay zero
//! PCR 13   stub: system extensions from outside: must stay zero
//! ```
//!
//! Valid for systemd-stub 257 and a boot through the firmware's boot menu. References: TCG "PC
//! Client Platform Firmware Profile"; systemd-stub(7). Registers 0 to 3 and 5 to 8 are firmware's
//! and are judged by their event log.

pub mod acpi;
pub mod boot;
pub mod bytes;
pub mod cpu;
pub mod eventlog;
pub mod explain;
pub mod firmware;
pub mod gpt;
pub mod id_block;
pub mod kernel_hashes;
pub mod linux;
pub mod machines;
pub mod rtmr0;
pub mod sev;
pub mod snp;
pub mod tdvf;
pub mod tdx;
pub mod vmsa;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use attest::Digest;
use attest::configuration::MAX_CONFIGURATION_BYTES;
use attest::release::statement::{Registers, TpmReferenceValues};
use sha2::{Sha256, Sha384};
use verity::VolumeRef;

use crate::command_line::{CommandLine, CommandLineError};
use crate::cpio;
use crate::pe::{self, PeError};
use bytes::{Bytes, Part};

/// Sections that the stub measures into PCR 11, in its order, of those that we build.
const MEASURED: [&str; 6] = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"];
/// Sections that belong to the stub itself and are measured nowhere on their own.
const STUB_OWN: [&str; 5] = [".text", ".rodata", ".data", ".sdmagic", ".reloc"];
/// The registers that are predicted.
pub const PCRS: [u8; 5] = [4, 9, 11, 12, 13];
/// The registers up to 15 that do not follow from a UKI, and whose they are. Their event log says
/// what went into them.
pub const OTHERS: [(u8, &str); 11] = [
    (0, "firmware: its version and code"),
    (1, "firmware: settings, ACPI tables, boot order"),
    (2, "firmware: drivers and option ROMs"),
    (3, "firmware: settings of drivers"),
    (5, "firmware: partition table, actions of booting"),
    (6, "firmware: the maker's own"),
    (7, "firmware: Secure Boot"),
    (8, "a boot loader, of which a UKI needs none"),
    (10, "kernel: files that it measures by itself (IMA)"),
    (14, "shim, of which a UKI needs none"),
    (15, "user space"),
];
/// Path of the configuration in the initrd.
pub const CONFIGURATION_PATH: &str = "cloister/config.toml";
/// Most bytes of an initrd's last archive: the largest configuration and its headers.
const LAST_ARCHIVE_BYTES: usize = MAX_CONFIGURATION_BYTES + 1024;

/// Most bytes of a section that is read as text.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// What one UKI is measured as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// SHA-256 of the file.
    pub file_sha256: Digest<32>,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// The command line.
    pub command_line: CommandLine,
    /// The root volume that the command line names.
    pub root: VolumeRef,
    /// The configuration that the command line names and the initrd holds.
    pub configuration: Digest<32>,
    /// Everything that is extended, in order within each register.
    pub events: Vec<Event>,
    /// The registers' final values.
    pub values: BTreeMap<u8, Digests>,
}

/// One extension of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Register.
    pub pcr: u8,
    /// What is extended, for people.
    pub what: String,
    /// The digest that is extended.
    pub digests: Digests,
}

/// A value in both banks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// SHA-256 bank.
    pub sha256: Digest<32>,
    /// SHA-384 bank.
    pub sha384: Digest<48>,
}

/// Why a file's measurement is not predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// The UKI is no usable PE image.
    #[error("the UKI: {0}")]
    Uki(PeError),
    /// The kernel in it is no usable PE image.
    #[error("the kernel in the UKI: {0}")]
    Kernel(PeError),
    /// A section that every release has is missing, repeated or cut short.
    #[error("the UKI does not have exactly one whole section {0}")]
    Section(&'static str),
    /// A section of text is larger than any text.
    #[error("the section {0} of the UKI has {1} bytes; {MAX_TEXT_BYTES} are the most")]
    LargeSection(&'static str, usize),
    /// The file cannot be read.
    #[error("the UKI cannot be read: {0}")]
    Read(io::ErrorKind),
    /// A section whose effect on the registers is not known here.
    #[error("the UKI has a section {0}, which no release has: its effect is not predicted")]
    UnknownSection(String),
    /// The command line is not one of a release.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// The initrd does not end with the archive of a configuration.
    #[error("the initrd does not end with an archive that holds only {CONFIGURATION_PATH}")]
    NoConfiguration,
    /// The initrd's configuration is not the one that the command line names.
    #[error("the command line names configuration {expected}, the initrd holds {found}")]
    Configuration {
        /// From the command line.
        expected: Digest<32>,
        /// Of the file in the initrd.
        found: Digest<32>,
    },
    /// A phase that cannot be a word of systemd's.
    #[error("{0:?} is not a boot phase: give words such as enter-initrd, sysinit, ready")]
    Phase(String),
}

/// Something to be hashed into a register.
struct Input<'a> {
    pcr: u8,
    what: String,
    pieces: Vec<Piece<'a>>,
}

/// A part of it.
enum Piece<'a> {
    /// Made here.
    Own(Cow<'a, [u8]>),
    /// Of the file.
    File(Range<usize>),
}

/// Where the sections stand in the file.
type Sections = BTreeMap<&'static str, Range<usize>>;

/// Predicts the registers after a boot of `uki`. `phases` are the words that user space extends
/// into PCR 11 (by systemd-pcrphase) before anybody asks; an image without that unit has none.
pub fn measure(uki: &[u8], phases: &[String]) -> Result<Measurement, MeasureError> {
    measure_file(&uki, phases)
}

/// The same of a file, which is never held in memory as a whole.
pub fn measure_file(uki: &dyn Bytes, phases: &[String]) -> Result<Measurement, MeasureError> {
    let file_bytes = uki.length()?;
    let image = bytes::layout(uki)?.map_err(MeasureError::Uki)?;
    let known = |name: &str| MEASURED.contains(&name) || STUB_OWN.contains(&name);
    if let Some(section) = image
        .sections()
        .iter()
        .find(|section| !known(&section.name))
    {
        return Err(MeasureError::UnknownSection(section.name.clone()));
    }
    let mut sections = Sections::new();
    for name in MEASURED {
        let section = image.section(name).ok_or(MeasureError::Section(name))?;
        let range = image.contents(section).ok_or(MeasureError::Section(name))?;
        sections.insert(name, range);
    }
    let command_line = CommandLine::parse(&text(uki, &sections, ".cmdline")?)?;
    let configuration = configuration(uki, &command_line, sections[".initrd"].clone())?;
    let kernel = Part {
        whole: uki,
        range: sections[".linux"].clone(),
    };
    let kernel = bytes::layout(&kernel)?.map_err(MeasureError::Kernel)?;

    let os_release = text(uki, &sections, ".osrel")?;
    let mut inputs = boot_inputs(&image, &kernel, sections[".linux"].start);
    inputs.extend(handover_inputs(&command_line, &sections, &os_release));
    inputs.extend(section_inputs(&sections));
    inputs.extend(phase_inputs(phases)?);
    let (file_sha256, events) = hash(uki, &inputs)?;
    Ok(Measurement {
        file_sha256,
        file_bytes,
        root: command_line.root(),
        command_line,
        configuration,
        values: replay(&events),
        events,
    })
}

/// A section that is small enough to be held.
fn text(uki: &dyn Bytes, sections: &Sections, name: &'static str) -> Result<Vec<u8>, MeasureError> {
    let range = sections[name].clone();
    match range.len() > MAX_TEXT_BYTES {
        true => Err(MeasureError::LargeSection(name, range.len())),
        false => Ok(bytes::read(uki, range)?),
    }
}

/// The configuration at an initrd's end, checked against the command line.
fn configuration(
    uki: &dyn Bytes,
    command_line: &CommandLine,
    initrd: Range<usize>,
) -> Result<Digest<32>, MeasureError> {
    let expected = command_line.configuration();
    if !initrd.len().is_multiple_of(4) {
        return Err(MeasureError::NoConfiguration);
    }
    let tail = initrd.len().min(LAST_ARCHIVE_BYTES & !3);
    let tail = bytes::read(uki, initrd.end - tail..initrd.end)?;
    let archive = cpio::last_archive(&tail, LAST_ARCHIVE_BYTES);
    let archive = archive.ok_or(MeasureError::NoConfiguration)?;
    let found = match &archive[..] {
        [folder, file] if folder.path == "cloister" && file.path == CONFIGURATION_PATH => {
            Digest::sha256(file.data)
        }
        _ => return Err(MeasureError::NoConfiguration),
    };
    match found == expected {
        true => Ok(expected),
        false => Err(MeasureError::Configuration { expected, found }),
    }
}

/// The archive that brings a configuration into the initrd.
pub fn configuration_archive(file: &[u8]) -> Vec<u8> {
    cpio::write(&[
        cpio::Entry {
            path: "cloister",
            mode: cpio::DIRECTORY | 0o755,
            data: &[],
        },
        cpio::Entry {
            path: CONFIGURATION_PATH,
            mode: cpio::FILE | 0o444,
            data: file,
        },
    ])
}

/// PCR 4: the programs that the firmware starts.
fn boot_inputs(
    image: &pe::Layout,
    kernel: &pe::Layout,
    kernel_start: usize,
) -> Vec<Input<'static>> {
    let attempt = b"Calling EFI Application from Boot Option";
    let pieces = |image: &pe::Layout, start: usize| {
        let piece = |range: Range<usize>| Piece::File(start + range.start..start + range.end);
        image.authenticode().map(piece).into()
    };
    vec![
        input(
            4,
            "action \"Calling EFI Application from Boot Option\"",
            attempt,
        ),
        input(4, "separator", &[0; 4]),
        Input {
            pcr: 4,
            what: "UKI, Authenticode digest".to_owned(),
            pieces: pieces(image, 0),
        },
        Input {
            pcr: 4,
            what: "kernel (.linux), Authenticode digest".to_owned(),
            pieces: pieces(kernel, kernel_start),
        },
    ]
}

/// PCR 9: what the kernel's EFI stub takes over.
fn handover_inputs(
    command_line: &CommandLine,
    sections: &Sections,
    os_release: &[u8],
) -> Vec<Input<'static>> {
    let initrd = sections[".initrd"].clone();
    vec![
        Input {
            pcr: 9,
            what: "command line, UTF-16 with NUL".to_owned(),
            pieces: vec![Piece::Own(Cow::Owned(command_line.to_load_options()))],
        },
        Input {
            pcr: 9,
            what: "initrd: .initrd, then .extra/os-release from .osrel".to_owned(),
            pieces: vec![
                Piece::File(initrd.clone()),
                Piece::Own(Cow::Borrowed(cpio::padding(initrd.len()))),
                Piece::Own(Cow::Owned(cpio::stub_extra("os-release", os_release))),
            ],
        },
    ]
}

/// PCR 11: the stub's own account of the UKI's sections.
fn section_inputs(sections: &Sections) -> Vec<Input<'static>> {
    let mut inputs = Vec::new();
    for name in MEASURED {
        let range = sections[name].clone();
        inputs.push(Input {
            pcr: 11,
            what: format!("name of {name}"),
            pieces: vec![Piece::Own(Cow::Owned([name.as_bytes(), &[0]].concat()))],
        });
        inputs.push(Input {
            pcr: 11,
            what: format!("contents of {name}, {} bytes", range.len()),
            pieces: vec![Piece::File(range)],
        });
    }
    inputs
}

fn phase_inputs(phases: &[String]) -> Result<Vec<Input<'_>>, MeasureError> {
    let is_word = |phase: &str| {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        !phase.is_empty() && phase.bytes().all(letter)
    };
    let inputs = phases.iter().map(|phase| match is_word(phase) {
        true => Ok(input(11, &format!("phase {phase:?}"), phase.as_bytes())),
        false => Err(MeasureError::Phase(phase.clone())),
    });
    inputs.collect()
}

fn input<'a>(pcr: u8, what: &str, data: &'a [u8]) -> Input<'a> {
    Input {
        pcr,
        what: what.to_owned(),
        pieces: vec![Piece::Own(Cow::Borrowed(data))],
    }
}

/// Hashes everything, one bank on a thread of its own.
fn hash(uki: &dyn Bytes, inputs: &[Input<'_>]) -> io::Result<(Digest<32>, Vec<Event>)> {
    fn bank<D: sha2::Digest, const N: usize>(
        uki: &dyn Bytes,
        inputs: &[Input<'_>],
    ) -> io::Result<Vec<Digest<N>>> {
        let one = |input: &Input<'_>| {
            let mut hash = D::new();
            for piece in &input.pieces {
                match piece {
                    Piece::Own(bytes) => hash.update(bytes),
                    Piece::File(range) => bytes::update(&mut hash, uki, range.clone())?,
                }
            }
            let mut digest = [0; N];
            digest.copy_from_slice(&hash.finalize());
            Ok(Digest(digest))
        };
        inputs.iter().map(one).collect()
    }
    let (sha256, sha384) = std::thread::scope(|scope| {
        let sha256 = scope.spawn(|| {
            let file = bytes::sha256(uki)?;
            Ok::<_, io::Error>((file, bank::<Sha256, 32>(uki, inputs)?))
        });
        let sha384 = bank::<Sha384, 48>(uki, inputs);
        (sha256.join(), sha384)
    });
    let (file, sha256) = sha256.map_err(|_| io::ErrorKind::Other)??;
    let digests = sha256.into_iter().zip(sha384?);
    let event = |(input, (sha256, sha384)): (&Input<'_>, _)| Event {
        pcr: input.pcr,
        what: input.what.clone(),
        digests: Digests { sha256, sha384 },
    };
    Ok((file, inputs.iter().zip(digests).map(event).collect()))
}

impl From<io::Error> for MeasureError {
    fn from(error: io::Error) -> Self {
        Self::Read(error.kind())
    }
}

/// Extends every event into its register; a register without one stays zero.
fn replay(events: &[Event]) -> BTreeMap<u8, Digests> {
    let start = PCRS.iter().map(|&pcr| (pcr, Digests::default()));
    let mut values: BTreeMap<u8, Digests> = start.collect();
    for event in events {
        let old = values.entry(event.pcr).or_default();
        let new = &event.digests;
        *old = Digests {
            sha256: Digest::sha256(&[old.sha256.as_ref(), new.sha256.as_ref()].concat()),
            sha384: Digest::sha384(&[old.sha384.as_ref(), new.sha384.as_ref()].concat()),
        };
    }
    values
}

impl Digests {
    /// Of bytes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self {
            sha256: Digest::sha256(bytes),
            sha384: Digest::sha384(bytes),
        }
    }

    /// That of one bank.
    #[must_use]
    pub fn of(&self, bank: eventlog::Bank) -> &[u8] {
        match bank {
            eventlog::Bank::Sha256 => self.sha256.as_ref(),
            eventlog::Bank::Sha384 => self.sha384.as_ref(),
        }
    }
}

impl Measurement {
    /// The registers in the form of a release statement.
    pub fn reference_values(&self) -> TpmReferenceValues {
        let of = |pcr: u8| self.values.get(&pcr).copied().unwrap_or_default();
        TpmReferenceValues {
            sha256: Registers {
                pcr4: of(4).sha256,
                pcr9: of(9).sha256,
                pcr11: of(11).sha256,
                pcr12: of(12).sha256,
                pcr13: of(13).sha256,
            },
            sha384: Registers {
                pcr4: of(4).sha384,
                pcr9: of(9).sha384,
                pcr11: of(11).sha384,
                pcr12: of(12).sha384,
                pcr13: of(13).sha384,
            },
        }
    }
}
