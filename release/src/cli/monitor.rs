//! `monitor`: what stands in a log under our keys, against the tags of our sources.

use std::path::Path;

use attest::release::PublicKey;
use release::log::Log;
use release::monitor::watch::{Arguments, FOUND, WatchError};

use super::commands::write;
use super::failure::{Failure, printable};
use super::report::Report;
use super::sigstore::hand_over_rest;

pub(super) fn run(arguments: &Arguments, json: bool) -> Result<Report, Failure> {
    if arguments.is_remote() {
        return Err(hand_over_rest("monitor", "monitor", json));
    }
    let folder = arguments.log.strip_prefix("file:");
    let folder = Path::new(folder.unwrap_or(&arguments.log));
    let key: &PublicKey = &arguments.log_key;
    let log = Log::open(folder, &arguments.origin, key)?;
    let seen = arguments.judge(&log)?;
    write(&arguments.memory, seen.note.as_bytes())?;
    let lines: Vec<_> = seen.text().lines().map(printable).collect();
    let mut report = Report::of(lines.join("\n") + "\n", seen.json());
    if !seen.findings.is_empty() {
        report.code = FOUND;
    }
    Ok(report)
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Log(error) => error.into(),
            WatchError::Memory(error) => error.into(),
            WatchError::Source(error) => error.into(),
        }
    }
}
