//! What went wrong, in one line, and what to do next.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use verity::pack::{FolderError, PackError};
use verity::tree::{FormatError, VerifyError};

/// Exit code: wrong arguments.
pub(crate) const MISUSE: u8 = 1;
const CORRUPTED: u8 = 2;
const INPUT_OUTPUT: u8 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot make {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("{} is both data and hash tree", .0.display())]
    SameFile(PathBuf),
    #[error("cannot read random bytes for a salt")]
    Random(#[source] io::Error),
    #[error("cannot format {}", path.display())]
    Format { path: PathBuf, source: FormatError },
    #[error("{} is not the volume", path.display())]
    Verify { path: PathBuf, source: VerifyError },
    #[error("{} does not hold the volume's {role} partition", path.display())]
    NoPartition { path: PathBuf, role: &'static str },
    #[error("{} holds neither a verity superblock nor a partition table", .0.display())]
    Unknown(PathBuf),
    #[error("{} is no model", path.display())]
    Folder { path: PathBuf, source: FolderError },
    #[error("cannot pack {}", path.display())]
    Pack { path: PathBuf, source: PackError },
    #[error("cannot print the result")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Prints the cause and the next step.
    pub(crate) fn report(&self) -> ExitCode {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            line.push_str(": ");
            line.push_str(&error.to_string());
            cause = error.source();
        }
        let mut text = format!("cloister-verity: {}\n", printable(&line));
        if let Some(hint) = self.hint() {
            text.push_str(&format!("  {hint}\n"));
        }
        io::Write::write_all(&mut io::stderr(), text.as_bytes()).ok();
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        use FolderError as F;
        match self {
            Self::Verify { source, .. } => match source {
                VerifyError::Data(_) | VerifyError::Hash { .. } => CORRUPTED,
                VerifyError::ReadData(error) | VerifyError::ReadHash(error) => {
                    let short = error.kind() == io::ErrorKind::UnexpectedEof;
                    if short { CORRUPTED } else { INPUT_OUTPUT }
                }
            },
            Self::NoPartition { .. } => CORRUPTED,
            Self::Folder { source, .. } => match source {
                F::List { .. } | F::Read { .. } => INPUT_OUTPUT,
                _ => MISUSE,
            },
            Self::Unknown(_) | Self::SameFile(_) => MISUSE,
            Self::Format { source, .. } => match source {
                FormatError::PartialBlock(_) | FormatError::Size(_) => MISUSE,
                FormatError::ReadData(_) | FormatError::WriteHash(_) => INPUT_OUTPUT,
            },
            _ => INPUT_OUTPUT,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        use FolderError as F;
        if self.io_kind() == Some(io::ErrorKind::StorageFull) {
            return Some("The disk is full: free some space, or write to another disk.");
        }
        Some(match self {
            Self::Format {
                source: FormatError::PartialBlock(_),
                ..
            } => "Fill the data up to whole blocks: truncate --size=%4096 FILE.",
            Self::Verify {
                source: VerifyError::Data(_) | VerifyError::Hash { .. },
                ..
            } => "Do not use it. Make it anew, or get it again and check the reference.",
            Self::NoPartition { .. } => {
                "The image holds another volume, or is none: cloister-verity dump shows which."
            }
            Self::Folder {
                source: F::Missing(_) | F::NoWeights,
                ..
            } => {
                "Give a folder in Hugging Face format: config.json, tokenizer.json, *.safetensors."
            }
            Self::Folder {
                source: F::Tensors { .. } | F::MissingShard { .. },
                ..
            } => "Download the model again: the folder is not complete.",
            Self::Pack {
                source: PackError::Changed(_),
                ..
            } => "Pack again when nothing writes to the folder.",
            _ => return None,
        })
    }

    /// The kind of the system's error at the bottom of the chain.
    fn io_kind(&self) -> Option<io::ErrorKind> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return Some(error.kind());
            }
            cause = error.source();
        }
        None
    }
}

/// File names may hold anything; a terminal gets no control characters from us.
pub(crate) fn printable(text: &str) -> String {
    let direction = |c: char| {
        let embeds = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        embeds || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}')
    };
    let odd = |c: char| c.is_control() || direction(c);
    text.chars()
        .map(|c| {
            if odd(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}
