//! `explain-mismatch`: evidence beside a prediction, and what most likely differs.

mod candidates;
mod launch;
mod log;
mod quote;

use std::fs;
use std::path::{Path, PathBuf};

use attest::{Digest, Evidence, Platform};
use clap::Args;
use release::measure::eventlog::EventLog;
use release::measure::tdx::registers_of_quote;
use serde_json::Value;

use super::failure::{Failure, MISUSE};
use super::report::Report;

const REPORT_BYTES: usize = 1184;
const MAX_FILE_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release measure … --json > predicted.json
  cloister-release explain-mismatch report.bin predicted.json --firmware OVMF.amdsev.fd \\
      --firmware OVMF-old.fd --kernel vmlinuz-old
  cloister-release explain-mismatch ccel.bin predicted.json

A report of SEV-SNP is searched for: number and type of vCPUs, features, VMM, firmware, kernel,
initrd, command line. Of a quote of TDX each register that differs is searched for: firmware,
kernel, initrd, command line, UKI. An event log is compared event by event, and the first that
differs is explained. Evidence as a client gets it (CBOR) holds a report or a log.
Nothing here is verified: that evidence is genuine is for `cloister verify` to say.")]
pub(super) struct ExplainArguments {
    /// Report of SEV-SNP (1184 bytes), quote of TDX, event log of TDX or of a TPM, or evidence.
    #[arg(value_name = "EVIDENCE")]
    evidence: PathBuf,
    /// Prediction: what `measure --json` printed, or a release statement.
    #[arg(value_name = "STATEMENT")]
    statement: PathBuf,
    /// Firmware that was expected, and others that may have been used.
    #[arg(long, value_name = "FILE")]
    firmware: Vec<PathBuf>,
    /// Another kernel that may have been used.
    #[arg(long, value_name = "FILE")]
    kernel: Vec<PathBuf>,
    /// Another initrd that may have been used.
    #[arg(long, value_name = "FILE")]
    initrd: Vec<PathBuf>,
    /// Another UKI that may have been used.
    #[arg(long, value_name = "FILE")]
    uki: Vec<PathBuf>,
    /// Another command line that may have been used.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    cmdline: Vec<String>,
    /// Longest time to search.
    #[arg(long, value_name = "N", default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
}

#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("it is no report of SEV-SNP ({REPORT_BYTES} bytes), quote of TDX or event log")]
    Evidence,
    #[error("it is no file")]
    NoFile,
    #[error("the evidence is of a platform that is not explained here")]
    Platform,
    #[error("it is not what `measure --json` prints, or lacks {0}")]
    Statement(&'static str),
    #[error("no combination of {0} candidates, each with 1 to 512 vCPUs, has the digest {1}")]
    Exhausted(usize, Digest<48>),
    #[error("none of the {0} shapes that the release states has the digest {1}")]
    NotStated(usize, Digest<48>),
    #[error("the time was over before all {0} candidates were tried")]
    OutOfTime(usize),
}

pub(super) fn run(arguments: &ExplainArguments) -> Result<Report, Failure> {
    let bytes = read(&arguments.evidence)?;
    let statement: Value = serde_json::from_slice(&read(&arguments.statement)?)
        .map_err(|_| statement_fault(arguments, "JSON"))?;
    match Evidence::decode(&bytes).map(|evidence| evidence.platform) {
        Ok(Platform::Tpm(tpm)) => {
            let log = parse_log(arguments, &tpm.event_log)?;
            log::compare(arguments, &log, &statement)
        }
        Ok(Platform::Snp(snp)) => launch::explain(arguments, &snp.report, &statement),
        Ok(_) => {
            let hint = "give its quote or its event log by itself";
            Err(Failure::input(
                &arguments.evidence,
                &ExplainError::Platform,
                hint,
            ))
        }
        Err(_) => explain(arguments, &bytes, &statement),
    }
}

/// What a platform gave, without an envelope.
fn explain(
    arguments: &ExplainArguments,
    bytes: &[u8],
    statement: &Value,
) -> Result<Report, Failure> {
    if bytes.len() == REPORT_BYTES {
        return launch::explain(arguments, bytes, statement);
    }
    if let Some(registers) = registers_of_quote(bytes).filter(|_| is_quote(bytes)) {
        return quote::compare(arguments, &registers, statement);
    }
    log::compare(arguments, &parse_log(arguments, bytes)?, statement)
}

fn parse_log<'a>(arguments: &ExplainArguments, bytes: &'a [u8]) -> Result<EventLog<'a>, Failure> {
    EventLog::parse(bytes).map_err(|_| {
        let hint = "give the report as the processor made it, or a log as firmware wrote it";
        Failure::input(&arguments.evidence, &ExplainError::Evidence, hint)
    })
}

/// Version 4 or 5 for a TD, as Intel's quotes begin.
fn is_quote(bytes: &[u8]) -> bool {
    matches!(bytes, [4 | 5, 0, _, _, 0x81, 0, 0, 0, ..])
}

fn statement_fault(arguments: &ExplainArguments, what: &'static str) -> Failure {
    let hint = "predict it again: cloister-release measure … --json > predicted.json";
    Failure::input(&arguments.statement, &ExplainError::Statement(what), hint)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let hint = "check the path, and that it is yours to read";
    let access = |error: std::io::Error| Failure::input(path, &error, hint);
    let metadata = fs::metadata(path).map_err(access)?;
    // A pipe or a device would be read for ever.
    if !metadata.is_file() {
        return Err(Failure::input(path, &ExplainError::NoFile, hint));
    }
    match metadata.len() {
        bytes if bytes > MAX_FILE_BYTES => Err(Failure::new(MISUSE, &TooLarge(bytes), hint)),
        _ => fs::read(path).map_err(access),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a file of {0} bytes is too large for this")]
struct TooLarge(u64);
