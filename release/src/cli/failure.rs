//! A failure as people and machines see it: cause, next step, exit code.

use std::error::Error;
use std::fmt;
use std::io;

use attest::{Class, Refusal};
use release::assemble::AssembleError;
use release::disk::DiskError;
use release::key::KeyError;
use release::log::LogError;
use release::log::serve::ServeError;
use release::log::witness::WitnessError;
use release::log::witness::service::ServiceError;
use release::measure::MeasureError;
use release::measure::snp::LaunchError;
use release::reference::ReferenceError;
use release::statement::{MakeError, SourceError};
use release::verify::ArtifactError;
use serde_json::{Value, json};

/// Wrong arguments, or input that cannot be used.
pub(super) const MISUSE: u8 = 1;
pub(super) const SIGNATURE: u8 = 2;
pub(super) const COLLATERAL: u8 = 3;
pub(super) const POLICY: u8 = 4;
pub(super) const LOG: u8 = 5;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(super) struct Failure {
    code: u8,
    cause: String,
    hint: String,
}

impl Failure {
    /// A failure of an error and what to do about it.
    pub(super) fn new(code: u8, error: &(dyn Error + 'static), hint: &str) -> Self {
        let hint = match is_full(error) {
            true => "free space on that file system, then run the command again",
            false => hint,
        };
        Self {
            code,
            cause: chain(error),
            hint: hint.to_owned(),
        }
    }

    /// Input that cannot be used, with the file it is in.
    pub(super) fn input(path: &std::path::Path, error: &(dyn Error + 'static), hint: &str) -> Self {
        let mut failure = Self::new(MISUSE, error, hint);
        failure.cause = format!("{}: {}", path.display(), failure.cause);
        failure
    }

    /// A failure that no error of the library stands behind.
    pub(super) fn plain(code: u8, cause: String, hint: &str) -> Self {
        let hint = hint.to_owned();
        Self { code, cause, hint }
    }

    /// The same, with more to know.
    pub(super) fn and_hints(mut self, hints: &[String]) -> Self {
        for hint in hints {
            self.hint = self.hint + "; " + hint;
        }
        self
    }

    /// The program's exit code.
    pub(super) fn code(&self) -> u8 {
        self.code
    }

    /// One line of JSON.
    pub(super) fn json(&self) -> Value {
        let mut json = json!({ "error": self.cause, "hint": self.hint, "exit_code": self.code });
        json.sort_all_objects();
        json
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", printable(&self.cause))?;
        match self.hint.is_empty() {
            true => Ok(()),
            false => writeln!(f, " hint: {}", printable(&self.hint)),
        }
    }
}

impl From<AssembleError> for Failure {
    fn from(error: AssembleError) -> Self {
        use AssembleError as E;
        let hint = match &error {
            E::Read { .. } | E::Sums { .. } | E::Unlisted { .. } | E::PartSize { .. } => {
                "give the folder that the image build made, and a configuration file"
            }
            E::Sum { .. } | E::RootRef(_) | E::RootSize { .. } | E::Root(_) => {
                "the image is damaged or half-built: build it again"
            }
            E::Configuration(_) | E::ModelVolume(_) => "correct the configuration file",
            E::CommandLine(_) => "correct the image's base command line",
            E::Uki(_) | E::Measure(_) => "take stub and kernel as the image build made them",
            E::Disk(_) | E::Write { .. } => "choose an output folder that you can write to",
            E::ForeignOutput { .. } => "choose an output folder of its own",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<MeasureError> for Failure {
    fn from(error: MeasureError) -> Self {
        let hint = "give a cloister.efi that `cloister-release assemble` made";
        Self::new(MISUSE, &error, hint)
    }
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        let hint = match &error {
            DiskError::Bundle(_) | DiskError::Sigstore(_) => {
                "give a bundle that `cloister-release log append` or `sigstore sign` wrote"
            }
            _ => "give a disk.img that `cloister-release assemble` made",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let hint = match &error {
            KeyError::Exists(_) => "choose another name, or move the old key away yourself",
            KeyError::Permissions { .. } => "chmod 600 the key file, and ask who has read it",
            KeyError::Format(_) => "give a key that `cloister-release keygen` made",
            KeyError::Access { .. } | KeyError::Random(_) => "",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<MakeError> for Failure {
    fn from(error: MakeError) -> Self {
        let hint = match &error {
            MakeError::Mismatch { .. } | MakeError::Measure(_) | MakeError::Disk(_) => {
                "assemble again, and change nothing in the folder"
            }
            MakeError::OtherImage { .. } => "name the image that was assembled with --image",
            MakeError::Profile(_) => "give a folder that image/build.sh filled",
            MakeError::Version => "give a higher --version than the last, from 1 on",
            MakeError::Revocation(_) | MakeError::Revocations(_) => {
                "revoke earlier versions by --revoke; this one later by `cloister-release status`"
            }
            _ => "give the folders of image and assembled artifacts, and the lock",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<ReferenceError> for Failure {
    fn from(error: ReferenceError) -> Self {
        use ReferenceError as E;
        let hint = match &error {
            E::Read { .. } | E::CommandLine(_) => "give a folder that assembling made",
            E::Firmware(_) | E::Layout(_) | E::Tdvf(_) => {
                "give the very file that the VM starts with: OVMF.amdsev.fd, OVMF.inteltdx.fd"
            }
            E::Launch(LaunchError::NoKernelHashes) => {
                "give a firmware such as OVMF.amdsev.fd: without kernel hashes the digest would \
                 stand for any software"
            }
            E::Acpi { .. } | E::Log(_) => {
                "give a folder that `cloister-release dump-acpi` made, or a copy of \
                 /sys/firmware/acpi/tables/data/CCEL"
            }
            E::Launch(_) | E::Tdx(_) | E::Name(_) => "see `cloister-release measure --help`",
            E::Machines(_) => "give fewer of --vcpus, --vcpu-type and --memory, and at least one",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        let hint = match &error {
            SourceError::Git(_) => "install git",
            SourceError::NoCheckout { .. } => "name the checkout with --source",
            SourceError::Dirty { .. } => "commit the changes, or mark the release by --allow-dirty",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        use LogError as E;
        let (code, hint) = match &error {
            E::Missing(_) => (MISUSE, "begin it with `cloister-release log create`, once"),
            E::Exists(_) => (MISUSE, "append to the log that is there"),
            E::Access { .. } | E::TooLarge(_) | E::History(_) => (MISUSE, ""),
            E::WentOn(_) => (MISUSE, "sign again"),
            E::EntrySize(_) => (
                MISUSE,
                "state fewer machines: make a release for each platform",
            ),
            E::Statement(_) => (
                MISUSE,
                "give an envelope that `cloister-release sign` wrote",
            ),
            E::NoEntry { .. } => (MISUSE, "see `cloister-release log show`"),
            E::Envelope(_) => (SIGNATURE, "have it signed again"),
            E::NoRelease { .. } => (
                MISUSE,
                "give the --index of a release: `log show` lists them",
            ),
            E::Signer(_) => (
                SIGNATURE,
                "name whom you take releases of by --signer, and rebuilds by --rebuilder",
            ),
            E::TakenBack(_) => (POLICY, "make the status with --revoke of that version, too"),
            E::BundleSize(_) => (
                POLICY,
                "state fewer machines, or keep a log that takes fewer rebuilders",
            ),
            E::Version { .. } => (POLICY, "make the statement with a higher --version"),
            E::Checkpoint { .. } => (LOG, "give the log's own --origin and key"),
            E::NoCheckpoint(_)
            | E::Removed(_)
            | E::Bundle(_)
            | E::Entry(_)
            | E::Tile(_)
            | E::Changed { .. } => (
                LOG,
                "restore the whole folder from a copy of one moment; never edit it",
            ),
        };
        Self::new(code, &error, hint)
    }
}

impl From<WitnessError> for Failure {
    fn from(error: WitnessError) -> Self {
        let (code, hint) = match &error {
            WitnessError::Access { .. } => (MISUSE, ""),
            WitnessError::Own => (MISUSE, "make the witness a key of its own: `keygen`"),
            WitnessError::Forgotten(_) => (
                LOG,
                "give the memory of last time; --first if this never looked at this log",
            ),
            WitnessError::Memory { .. } => (
                LOG,
                "give this witness's own memory, and the log's own --origin and --log-key",
            ),
            WitnessError::Smaller { .. } | WitnessError::Changed { .. } => (
                LOG,
                "the log was rewritten: keep the memory as proof, and tell the log's users",
            ),
        };
        Self::new(code, &error, hint)
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let (code, hint) = match &error {
            ServiceError::Access { .. } => (MISUSE, "choose a --state that you can write to"),
            ServiceError::State { .. } => (
                LOG,
                "give this witness's own state, and each log's own name and key; never remove it",
            ),
            ServiceError::Forgotten(_) => (
                LOG,
                "give the state of last time; --first if this witness never signed anything",
            ),
            ServiceError::Twice(_) => (MISUSE, "name each log once"),
        };
        Self::new(code, &error, hint)
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        let hint = match &error {
            ServeError::NoLog(_) => "begin it with `cloister-release log create`, once",
            ServeError::Listen { .. } => "choose another --listen",
        };
        Self::new(MISUSE, &error, hint)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.class() {
            Class::Signature => SIGNATURE,
            Class::Collateral => COLLATERAL,
            Class::Policy => POLICY,
            Class::Log => LOG,
        };
        Self::new(code, &refusal, refusal.hint())
    }
}

impl From<ArtifactError> for Failure {
    fn from(error: ArtifactError) -> Self {
        let code = match &error {
            ArtifactError::Read(_) => MISUSE,
            ArtifactError::Values | ArtifactError::Unnamed(_) | ArtifactError::Differs { .. } => {
                POLICY
            }
        };
        let hint = "these artifacts are not the release: fetch them again or assemble anew";
        Self::new(code, &error, hint)
    }
}

/// An error with its causes, in one line.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// Whether a full file system is behind an error.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(
            kind,
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        ) {
            return true;
        }
        next = cause.source();
    }
    false
}

/// Text from files and names, without what a terminal would obey.
pub(super) fn printable(text: &str) -> String {
    let plain = |c: char| {
        let turns = matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
        !(c.is_control() || turns || matches!(c, '\u{2066}'..='\u{2069}'))
    };
    text.chars()
        .fold(String::with_capacity(text.len()), |mut out, c| {
            match plain(c) {
                true => out.push(c),
                false => out.extend(c.escape_unicode()),
            }
            out
        })
}
