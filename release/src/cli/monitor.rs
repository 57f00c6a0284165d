//! `monitor`: what stands in a log under our keys, against the tags of our sources.

use std::path::PathBuf;

use attest::release::PublicKey;
use clap::Args;
use release::log::witness;
use release::monitor;
use serde_json::json;

use super::commands::write;
use super::failure::{Failure, printable};
use super::log::ReadArguments;
use super::report::Report;

/// Exit code for entries that have no right to be there.
const FOUND: u8 = 6;

#[derive(Debug, Args)]
#[command(
    after_help = "Example, once an hour, on another machine than the one that signs:
  git -C cloister fetch --tags --quiet
  cloister-release monitor --log releases --origin log.example.org/cloister \\
      --log-key ed25519:BASE64 --signer ed25519:BASE64 --source cloister --memory seen.note || alarm

The log's folder may be a copy: it is checked as a whole, and against the checkpoint in the memory,
which is made at the first run. Exit code 0: all is ours; 5: the log is damaged or was rewritten;
6: something stands there under our keys that has no tag."
)]
pub(super) struct MonitorArguments {
    #[command(flatten)]
    from: ReadArguments,
    /// A key of ours; may be repeated.
    #[arg(long = "signer", value_name = "KEY", required = true)]
    signers: Vec<PublicKey>,
    /// Checkout whose tags are those of our releases.
    #[arg(long, value_name = "DIR", default_value = ".")]
    source: PathBuf,
    /// Name of a release's tag.
    #[arg(long, value_name = "PATTERN", default_value = "v{version}")]
    tag: String,
    /// Where the last checkpoint is remembered.
    #[arg(long, value_name = "FILE")]
    memory: PathBuf,
}

pub(super) fn run(arguments: &MonitorArguments) -> Result<Report, Failure> {
    let MonitorArguments { from, memory, .. } = arguments;
    let log = from.open()?;
    witness::check(memory, &log, &from.log.origin, &from.log_key)?;
    let tags = monitor::tags(&arguments.source)?;
    let findings = monitor::check(&log, &arguments.signers, &tags, &arguments.tag)?;
    write(memory, log.checkpoint_note().as_bytes())?;
    let size = log.checkpoint().size;
    let mut text = format!("{size} entries, {} tags\n", tags.len());
    for (index, finding) in &findings {
        text += &format!("entry {index}: {}\n", printable(&finding.to_string()));
    }
    if findings.is_empty() {
        text += "every entry under our keys has its tag\n";
    }
    let found = findings.iter();
    let found: Vec<_> = found
        .map(|(index, finding)| json!({ "index": index, "what": finding.to_string() }))
        .collect();
    let json = json!({
        "origin": log.checkpoint().origin,
        "size": size,
        "root": log.checkpoint().root,
        "findings": found,
    });
    let mut report = Report::of(text, json);
    if !findings.is_empty() {
        report.code = FOUND;
    }
    Ok(report)
}
