//! What a monitor is asked, and what it says: the same whether the log is a folder or far away.

use std::path::PathBuf;

use attest::Digest;
use attest::release::checkpoint::OriginError;
use attest::release::{Origin, PublicKey};
use serde_json::{Value, json};

use super::Finding;
use crate::log::witness::{self, WitnessError};
use crate::log::{Log, LogError};
use crate::statement::SourceError;

/// Exit code for entries that have no right to be there.
pub const FOUND: u8 = 6;
/// Exit code for an alarm that nobody was told of.
pub const UNTOLD: u8 = 7;

/// Arguments of `monitor`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples, once an hour, on another machine than the one that signs:
  git -C cloister fetch --tags --quiet
  cloister-release monitor --log https://log.example.org/ --copy releases \\
      --origin log.example.org/cloister --log-key ed25519:BASE64 --signer ed25519:BASE64 \\
      --source cloister --memory seen.note --webhook https://alarm.example.org/ || alarm
  cloister-release monitor --log releases …      a folder, fetched by something else

The whole log is checked, and compared with the checkpoint in the memory, which is made by a run
with --first, and never by itself again. A log at an address (C2SP tlog-tiles) is copied to --copy:
what is there is not fetched again, and nothing is kept that does not lead to the root that the log
signed. Releases in Sigstore: `cloister-release sigstore monitor`.

Exit codes:
  0  all is ours
  1  misuse, no tags, or no room
  3  the log cannot be reached or is busy: nothing is known, and the memory stays
  5  the log is damaged or was rewritten
  6  something stands there under our keys that has no tag
  7  5 or 6, and the webhook did not take it"
)]
pub struct Arguments {
    /// The log: a folder, or the address under which checkpoint and tiles are.
    #[arg(long, value_name = "DIR|URL")]
    pub log: String,
    /// Name of the log.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub origin: Origin,
    /// Public key of the log.
    #[arg(long, value_name = "KEY")]
    pub log_key: PublicKey,
    /// A key of ours; may be repeated.
    #[arg(long = "signer", value_name = "KEY", required = true)]
    pub signers: Vec<PublicKey>,
    /// Checkout whose tags are those of our releases.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub source: PathBuf,
    /// Name of a release's tag.
    #[arg(long, value_name = "PATTERN", default_value = "v{version}")]
    pub tag: String,
    /// Where the last checkpoint is remembered.
    #[arg(long, value_name = "FILE")]
    pub memory: PathBuf,
    /// This is the first time: there is no memory yet.
    #[arg(long)]
    pub first: bool,
    /// Folder for the copy of a log at an address.
    #[arg(long, value_name = "DIR")]
    pub copy: Option<PathBuf>,
    /// Whom to tell.
    #[command(flatten)]
    pub alarm: AlarmArguments,
}

/// Whom a monitor tells, and how long it waits.
#[derive(Debug, clap::Args)]
pub struct AlarmArguments {
    /// Address that is sent the report (POST, JSON) when there is something to tell.
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// How often a server is asked before this gives up; pauses double, from one second.
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=10))]
    pub attempts: u32,
    /// Longest wait for one answer, in seconds.
    #[arg(long, value_name = "S", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=300))]
    pub timeout_s: u64,
}

/// Why a log is not judged.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It is not what it was.
    #[error(transparent)]
    Memory(#[from] WitnessError),
    /// There are no tags.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    origin: Origin,
    size: u64,
    root: Digest<32>,
    tags: usize,
    /// Entries that have no right to be there.
    pub findings: Vec<(u64, Finding)>,
    /// The checkpoint, to be remembered.
    pub note: String,
}

impl Arguments {
    /// Whether the network is needed.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.log.contains("://") && !self.log.starts_with("file:") || self.alarm.webhook.is_some()
    }

    /// Judges a log that was found whole.
    pub fn judge(&self, log: &Log) -> Result<Seen, WatchError> {
        witness::check(&self.memory, self.first, log, (&self.origin, &self.log_key))?;
        let tags = super::tags(&self.source)?;
        let findings = super::check(log, &self.signers, &tags, &self.tag)?;
        Ok(Seen {
            origin: self.origin.clone(),
            size: log.checkpoint().size,
            root: log.checkpoint().root,
            tags: tags.len(),
            findings,
            note: log.checkpoint_note().to_owned(),
        })
    }
}

impl Seen {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{} entries, {} tags\n", self.size, self.tags);
        for (index, finding) in &self.findings {
            text += &format!("entry {index}: {finding}\n");
        }
        if self.findings.is_empty() {
            text += "every entry under our keys has its tag\n";
        }
        text
    }

    /// For machines.
    #[must_use]
    pub fn json(&self) -> Value {
        let findings = self.findings.iter();
        let findings: Vec<_> = findings
            .map(|(index, finding)| json!({ "index": index, "what": finding.to_string() }))
            .collect();
        json!({
            "origin": self.origin,
            "size": self.size,
            "root": self.root,
            "findings": findings,
        })
    }
}

fn origin(text: &str) -> Result<Origin, OriginError> {
    text.to_owned().try_into()
}
