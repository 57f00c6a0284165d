//! `explain-mismatch`: evidence beside a prediction, and what most likely differs.

mod files;
mod launch;
mod log;
mod quote;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use attest::Digest;
use clap::Args;
use release::measure::eventlog::{EventLog, Kind, LogError};
use release::measure::explain::evidence::{EvidenceError, Found, Subject};
use release::measure::explain::statement::{Expected, Inputs};

use super::failure::{Failure, printable};
use super::measure::read;
use super::report::Report;
use files::Timed;

const MAX_FILE_BYTES: usize = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release measure … --json > predicted.json
  cloister-release explain-mismatch report.bin predicted.json --firmware OVMF.amdsev.fd \\
      --firmware OVMF-old.fd --kernel vmlinuz-old
  cloister-release explain-mismatch ccel.bin predicted.json

A report of SEV-SNP is searched for: number and type of vCPUs, features, VMM, firmware, SVSM,
kernel, initrd, command line. Of a quote of TDX each register that differs is searched for:
firmware, memory, kernel, initrd, command line, UKI. An event log is compared event by event, and
the first that differs is explained. Evidence as a client gets it (CBOR), HCL reports of Azure's and
the evidence of its agents (JSON) hold such a report, quote or log. Which of them EVIDENCE is, and
of what platform, is found out; STATEMENT must be of the same platform. Files that the prediction
was made of are read again where it found them, if they are still the same.
Nothing here is verified: that evidence is genuine is for `cloister verify` to say.

Exit codes:
  0 it is as predicted, or it differs and everything that differs is explained (--json: matches)
  4 it differs, and nothing that was tried explains all of it
  1 misuse or unusable input, such as evidence and statement of different platforms")]
pub(super) struct ExplainArguments {
    /// Report of SEV-SNP, quote of TDX, HCL report, event log of TDX or of a TPM, or evidence.
    #[arg(value_name = "EVIDENCE")]
    evidence: PathBuf,
    /// Prediction: what `measure --json` printed, or a release statement.
    #[arg(value_name = "STATEMENT")]
    statement: PathBuf,
    /// Firmware that was expected, and others that may have been used.
    #[arg(long, value_name = "FILE")]
    firmware: Vec<PathBuf>,
    /// SVSM that may have been used.
    #[arg(long, value_name = "FILE")]
    svsm: Vec<PathBuf>,
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
    #[error("it holds {evidence}, and {} is {statement}", path.display())]
    Platforms {
        evidence: &'static str,
        statement: &'static str,
        path: PathBuf,
    },
    #[error("the release states nothing of {0}")]
    NotOfRelease(&'static str),
    #[error("it was made with a firmware that is not there: sha256:{0}")]
    Firmware(Digest<32>),
    #[error("it was made with an SVSM that is not there: sha256:{0}")]
    Svsm(Digest<32>),
    #[error("none of {0} combinations, each with 1 to 512 vCPUs, has the digest {1}")]
    Exhausted(usize, Digest<48>),
    #[error("none of the {0} shapes that the release states has the digest {1}")]
    NotStated(usize, Digest<48>),
    #[error("the time was over after {0} combinations")]
    OutOfTime(usize),
}

/// What was asked: arguments, the statement with the files that it names, and until when.
struct Question<'a> {
    arguments: &'a ExplainArguments,
    expected: &'a Expected,
    inputs: Inputs,
    /// Names of the files that are still what they were.
    same: Vec<&'static str>,
    end: Instant,
}

pub(super) fn run(arguments: &ExplainArguments) -> Result<Report, Failure> {
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let evidence = read(&arguments.evidence, MAX_FILE_BYTES)?;
    let found = Found::parse(&evidence).map_err(|error| evidence_fault(arguments, &error))?;
    let statement = read(&arguments.statement, MAX_FILE_BYTES)?;
    let expected = Expected::parse(&statement).map_err(|error| {
        let hint = "predict it again: cloister-release measure … --json > predicted.json";
        Failure::input(&arguments.statement, &error, hint)
    })?;
    let inputs = expected.inputs().cloned().unwrap_or_default();
    let (same, changed) = files::states(&inputs, end);
    let question = Question {
        arguments,
        expected: &expected,
        inputs,
        same,
        end,
    };
    match explain(&question, &found) {
        Ok(report) => Ok(report.and_lines("changed_inputs", &changed)),
        Err(failure) => Err(failure.and_hints(&changed)),
    }
}

/// Each kind of evidence beside each kind of statement.
fn explain(question: &Question<'_>, found: &Found) -> Result<Report, Failure> {
    match (&found.subject, question.expected) {
        (Subject::Snp(digest), Expected::Snp(snp)) => launch::explain(question, snp, *digest),
        (Subject::Snp(digest), Expected::Release(release)) => {
            launch::stated(question, release, *digest)
        }
        (Subject::Tdx(registers, log), Expected::Tdx(tdx)) => {
            let report = quote::explain(question, tdx, registers)?;
            match question.log_beside(log.as_deref())? {
                Some(log) => Ok(report.followed_by("event log", log::tdx(question, &log, tdx)?)),
                None => Ok(report),
            }
        }
        (Subject::Tdx(registers, log), Expected::Release(release)) => {
            let log = question.log_beside(log.as_deref())?;
            quote::stated(question, release, &registers.map(Some), log.as_ref())
        }
        (Subject::Log(kind, bytes), expected) => {
            let log = EventLog::parse(bytes);
            let log = log.map_err(|error| log_fault(question.arguments, &error))?;
            match (kind, expected) {
                (Kind::Ccel, Expected::Tdx(tdx)) => log::tdx(question, &log, tdx),
                (Kind::Tpm, Expected::Tpm(tpm)) => log::tpm(question, &log, tpm),
                (Kind::Ccel, Expected::Release(release)) => {
                    let registers = quote::registers_of_log(&log);
                    quote::stated(question, release, &registers, Some(&log))
                }
                (Kind::Tpm, Expected::Release(release)) => log::stated(question, &log, release),
                _ => Err(question.platforms(found)),
            }
        }
        _ => Err(question.platforms(found)),
    }
}

impl Question<'_> {
    /// Evidence of one platform, a statement of another.
    fn platforms(&self, found: &Found) -> Failure {
        let evidence = match &found.subject {
            Subject::Snp(_) => "a report of SEV-SNP",
            Subject::Tdx(..) => "registers of TDX",
            Subject::Log(Kind::Tpm, _) => "a TPM's event log",
            Subject::Log(Kind::Ccel, _) => "an event log of TDX (CCEL)",
        };
        let hint = match found.paravisor {
            true => {
                "an HCL report measures Azure's paravisor; what it boots is in the vTPM's event \
                 log: give that"
            }
            false => "give a prediction of the platform that the evidence is of",
        };
        let error = ExplainError::Platforms {
            evidence,
            statement: self.expected.kind(),
            path: self.arguments.statement.clone(),
        };
        Failure::input(&self.arguments.evidence, &error, hint)
    }

    /// A release that says nothing of that platform.
    fn not_stated(&self, what: &'static str) -> Failure {
        let hint = "give a prediction as STATEMENT: cloister-release measure … --json";
        Failure::input(
            &self.arguments.statement,
            &ExplainError::NotOfRelease(what),
            hint,
        )
    }

    /// The log that came with a quote; a client's evidence may have an empty one.
    fn log_beside<'b>(&self, log: Option<&'b [u8]>) -> Result<Option<EventLog<'b>>, Failure> {
        let log = log.filter(|bytes| !bytes.is_empty());
        let log = log.map(|bytes| EventLog::parse_as(bytes, Kind::Ccel));
        log.transpose()
            .map_err(|error| log_fault(self.arguments, &error))
    }

    /// Where the prediction found a file, if that is still the same.
    fn expected_file(&self, name: &str) -> Option<&Path> {
        let file = self.inputs.file(name)?;
        self.same.contains(&name).then_some(file.path.as_path())
    }

    fn open(&self, path: &Path) -> Result<Timed, Failure> {
        Timed::open(path, self.end)
    }
}

fn evidence_fault(arguments: &ExplainArguments, error: &EvidenceError) -> Failure {
    let hint = "give the report as the processor made it, or a log as firmware wrote it";
    Failure::input(&arguments.evidence, error, hint)
}

fn log_fault(arguments: &ExplainArguments, error: &LogError) -> Failure {
    let hint = "give the log as firmware wrote it";
    Failure::input(&arguments.evidence, error, hint)
}

/// Exit code of a report by whether everything in it is explained.
fn code(explained: bool) -> u8 {
    match explained {
        true => 0,
        false => super::failure::POLICY,
    }
}

fn line(text: &str) -> String {
    printable(text) + "\n"
}

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}
