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
pub mod cpu;
pub mod eventlog;
pub mod explain;
pub mod firmware;
pub mod gpt;
pub mod id_block;
pub mod kernel_hashes;
pub mod linux;
pub mod machines;
pub mod sev;
pub mod snp;
pub mod tdvf;
pub mod tdx;
pub mod vmsa;

use std::borrow::Cow;
use std::collections::BTreeMap;

use attest::Digest;
use attest::configuration::MAX_CONFIGURATION_BYTES;
use attest::release::statement::{Registers, TpmReferenceValues};
use sha2::{Sha256, Sha384};
use verity::VolumeRef;

use crate::command_line::{CommandLine, CommandLineError};
use crate::cpio;
use crate::pe::{Image, PeError};

/// Sections that the stub measures into PCR 11, in its order, of those that we build.
const MEASURED: [&str; 6] = [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"];
/// Sections that belong to the stub itself and are measured nowhere on their own.
const STUB_OWN: [&str; 5] = [".text", ".rodata", ".data", ".sdmagic", ".reloc"];
/// The registers that are predicted.
pub const PCRS: [u8; 5] = [4, 9, 11, 12, 13];
/// Path of the configuration in the initrd.
pub const CONFIGURATION_PATH: &str = "cloister/config.toml";
/// Most bytes of an initrd's last archive: the largest configuration and its headers.
const LAST_ARCHIVE_BYTES: usize = MAX_CONFIGURATION_BYTES + 1024;

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
    pieces: Vec<Cow<'a, [u8]>>,
}

/// Predicts the registers after a boot of `uki`. `phases` are the words that user space extends
/// into PCR 11 (by systemd-pcrphase) before anybody asks; an image without that unit has none.
pub fn measure(uki: &[u8], phases: &[String]) -> Result<Measurement, MeasureError> {
    let image = Image::parse(uki).map_err(MeasureError::Uki)?;
    let known = |name: &str| MEASURED.contains(&name) || STUB_OWN.contains(&name);
    if let Some(section) = image
        .sections()
        .iter()
        .find(|section| !known(&section.name))
    {
        return Err(MeasureError::UnknownSection(section.name.clone()));
    }
    let mut contents = BTreeMap::new();
    for name in MEASURED {
        let section = image.section(name).ok_or(MeasureError::Section(name))?;
        let data = image.contents(section).ok_or(MeasureError::Section(name))?;
        contents.insert(name, data);
    }
    let command_line = CommandLine::parse(contents[".cmdline"])?;
    let configuration = configuration(&command_line, contents[".initrd"])?;
    let kernel = Image::parse(contents[".linux"]).map_err(MeasureError::Kernel)?;

    let mut inputs = boot_inputs(&image, &kernel);
    inputs.extend(handover_inputs(&command_line, &contents));
    inputs.extend(section_inputs(&contents));
    inputs.extend(phase_inputs(phases)?);
    let events = hash(&inputs);
    Ok(Measurement {
        file_sha256: Digest::sha256(uki),
        file_bytes: uki.len(),
        root: command_line.root(),
        command_line,
        configuration,
        values: replay(&events),
        events,
    })
}

/// The configuration at an initrd's end, checked against the command line.
fn configuration(command_line: &CommandLine, initrd: &[u8]) -> Result<Digest<32>, MeasureError> {
    let expected = command_line.configuration();
    let archive = cpio::last_archive(initrd, LAST_ARCHIVE_BYTES);
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
fn boot_inputs<'a>(image: &Image<'a>, kernel: &Image<'a>) -> Vec<Input<'a>> {
    let attempt = b"Calling EFI Application from Boot Option";
    let pieces = |image: &Image<'a>| image.authenticode_pieces().map(Cow::Borrowed).to_vec();
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
            pieces: pieces(image),
        },
        Input {
            pcr: 4,
            what: "kernel (.linux), Authenticode digest".to_owned(),
            pieces: pieces(kernel),
        },
    ]
}

/// PCR 9: what the kernel's EFI stub takes over.
fn handover_inputs<'a>(
    command_line: &CommandLine,
    contents: &BTreeMap<&str, &'a [u8]>,
) -> Vec<Input<'a>> {
    let initrd = contents[".initrd"];
    vec![
        Input {
            pcr: 9,
            what: "command line, UTF-16 with NUL".to_owned(),
            pieces: vec![Cow::Owned(command_line.to_load_options())],
        },
        Input {
            pcr: 9,
            what: "initrd: .initrd, then .extra/os-release from .osrel".to_owned(),
            pieces: vec![
                Cow::Borrowed(initrd),
                Cow::Borrowed(cpio::padding(initrd.len())),
                Cow::Owned(cpio::stub_extra("os-release", contents[".osrel"])),
            ],
        },
    ]
}

/// PCR 11: the stub's own account of the UKI's sections.
fn section_inputs<'a>(contents: &BTreeMap<&str, &'a [u8]>) -> Vec<Input<'a>> {
    let mut inputs = Vec::new();
    for name in MEASURED {
        let data = contents[name];
        inputs.push(Input {
            pcr: 11,
            what: format!("name of {name}"),
            pieces: vec![Cow::Owned([name.as_bytes(), &[0]].concat())],
        });
        let what = format!("contents of {name}, {} bytes", data.len());
        inputs.push(input(11, &what, data));
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
        pieces: vec![Cow::Borrowed(data)],
    }
}

/// Hashes pieces as if they stood one behind the other.
fn digest_of_pieces<D: sha2::Digest, const N: usize>(
    pieces: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> Digest<N> {
    let mut hasher = D::new();
    let mut digest = [0; N];
    pieces.into_iter().for_each(|piece| hasher.update(piece));
    digest.copy_from_slice(&hasher.finalize());
    Digest(digest)
}

/// Hashes everything, one bank on a thread of its own.
fn hash(inputs: &[Input<'_>]) -> Vec<Event> {
    fn bank<D: sha2::Digest, const N: usize>(inputs: &[Input<'_>]) -> Vec<Digest<N>> {
        let one = |input: &Input<'_>| digest_of_pieces::<D, N>(&input.pieces);
        inputs.iter().map(one).collect()
    }
    let (sha256, sha384) = std::thread::scope(|scope| {
        let sha256 = scope.spawn(|| bank::<Sha256, 32>(inputs));
        let sha384 = bank::<Sha384, 48>(inputs);
        let sha256 = sha256.join();
        (
            sha256.unwrap_or_else(|_| bank::<Sha256, 32>(inputs)),
            sha384,
        )
    });
    let digests = sha256.into_iter().zip(sha384);
    let event = |(input, (sha256, sha384)): (&Input<'_>, _)| Event {
        pcr: input.pcr,
        what: input.what.clone(),
        digests: Digests { sha256, sha384 },
    };
    inputs.iter().zip(digests).map(event).collect()
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
