//! `explain-mismatch`: evidence beside a prediction, and what most likely differs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attest::Digest;
use clap::Args;
use release::measure::boot::Artifact;
use release::measure::cpu::CpuType;
use release::measure::eventlog::{self, Bank, EventLog};
use release::measure::explain::{
    Candidates, Named, Outcome as Search, command_lines_near, features_near,
};
use release::measure::firmware::Firmware;
use release::measure::kernel_hashes::KernelHashes;
use release::measure::snp::{GuestFeatures, Launch, Vmm};
use release::measure::tdx::registers_of_quote;
use serde_json::{Value, json};

use super::failure::{Failure, MISUSE, POLICY, printable};
use super::report::Report;

const REPORT_BYTES: usize = 1184;
const MEASUREMENT: std::ops::Range<usize> = 0x90..0xc0;
const MAX_FILE_BYTES: u64 = 64 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release measure … --json > predicted.json
  cloister-release explain-mismatch report.bin predicted.json --firmware OVMF.amdsev.fd \\
      --firmware OVMF-old.fd --kernel vmlinuz-old
  cloister-release explain-mismatch ccel.bin predicted.json

A report of SEV-SNP is searched for: number and type of vCPUs, features, VMM, firmware, kernel,
initrd, command line. An event log is compared event by event, a quote register by register.
Nothing here is verified: that evidence is genuine is for `cloister verify` to say.")]
pub(super) struct ExplainArguments {
    /// Report of SEV-SNP (1184 bytes), quote of TDX, or event log of TDX or of a TPM.
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
    /// Another command line that may have been used.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    cmdline: Vec<String>,
    /// Longest time to search.
    #[arg(long, value_name = "N", default_value_t = 20)]
    seconds: u64,
}

#[derive(Debug, thiserror::Error)]
enum ExplainError {
    #[error("it is no report of SEV-SNP ({REPORT_BYTES} bytes), quote of TDX or event log")]
    Evidence,
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
    let evidence = read(&arguments.evidence)?;
    let statement: Value = serde_json::from_slice(&read(&arguments.statement)?)
        .map_err(|_| statement_fault(arguments, "JSON"))?;
    if evidence.len() == REPORT_BYTES {
        return launch(arguments, &evidence, &statement);
    }
    if let Some(registers) = registers_of_quote(&evidence).filter(|_| is_quote(&evidence)) {
        return compare_quote(arguments, &registers, &statement);
    }
    let log = EventLog::parse(&evidence).map_err(|_| {
        let hint = "give the report as the processor made it, or a log as firmware wrote it";
        Failure::input(&arguments.evidence, &ExplainError::Evidence, hint)
    })?;
    compare_log(arguments, &log, &statement)
}

fn launch(
    arguments: &ExplainArguments,
    report: &[u8],
    statement: &Value,
) -> Result<Report, Failure> {
    let fault = |what| statement_fault(arguments, what);
    let found: [u8; 48] = report[MEASUREMENT]
        .try_into()
        .map_err(|_| fault("a digest"))?;
    let found = Digest(found);
    let stated = &statement["predicate"]["reference_values"]["snp"]["launch_digests"];
    if let Some(stated) = stated.as_array() {
        return compare_stated(stated, found);
    }
    let text = |value: &Value, what| value.as_str().map(str::to_owned).ok_or_else(|| fault(what));
    let expected = text(&statement["launch_digest"], "launch_digest")?;
    if expected == found.to_string() {
        return Ok(explained(found, &[]));
    }
    let inputs = &statement["inputs"];
    let vmm: Vmm = text(&statement["vmm"], "vmm")?
        .parse()
        .map_err(|_| fault("vmm"))?;
    let number = text(&inputs["vcpus"]["number"], "vcpus")?;
    let cpu: CpuType = text(&inputs["vcpus"]["type"], "the type of vCPUs")?
        .parse()
        .map_err(|_| fault("the type of vCPUs"))?;
    let features: GuestFeatures = text(&inputs["guest_features"], "guest_features")?
        .parse()
        .map_err(|_| fault("guest_features"))?;
    let launches = launches(arguments, &inputs["firmware"]["sha256"])?;
    let first = |first: Vmm| {
        let rest = [Vmm::Qemu, Vmm::Ec2, Vmm::Gce].into_iter();
        std::iter::once(first).chain(rest.filter(move |vmm| *vmm != first))
    };
    let others = CpuType::all().filter(|other| other.signature() != cpu.signature());
    let candidates = Candidates {
        firmware: launches
            .iter()
            .map(|(name, launch)| (name.clone(), launch))
            .collect(),
        vmm: first(vmm).collect(),
        cpu: std::iter::once(cpu).chain(others).collect(),
        features: features_near(features),
        boot: boots(arguments, inputs)?,
        vcpus: number.parse().map_err(|_| fault("one number of vcpus"))?,
    };
    search(&candidates, found, Duration::from_secs(arguments.seconds))
}

/// Looks for the candidate that gives the digest that was found.
fn search(
    candidates: &Candidates<'_>,
    found: Digest<48>,
    time: Duration,
) -> Result<Report, Failure> {
    let progress = |done, total| eprintln!("searching: {done} of {total}");
    let count = candidates.count();
    let hint =
        "name other files that may have been used by --firmware, --kernel, --initrd, --cmdline";
    match candidates.search(found, time, progress) {
        Search::Explained(differences) => {
            let differences: Vec<_> = differences
                .into_iter()
                .map(|one| (one.what.to_owned(), one.expected, one.found))
                .collect();
            Ok(explained(found, &differences))
        }
        Search::Exhausted => Err(Failure::new(
            POLICY,
            &ExplainError::Exhausted(count, found),
            hint,
        )),
        Search::OutOfTime => Err(Failure::new(
            POLICY,
            &ExplainError::OutOfTime(count),
            "give more --seconds, or fewer candidates",
        )),
    }
}

/// A release states digests of shapes, and no inputs to search through.
fn compare_stated(stated: &[Value], found: Digest<48>) -> Result<Report, Failure> {
    let is_found = |one: &&Value| one["digest"] == found.to_string();
    let Some(machine) = stated.iter().find(is_found) else {
        let hint =
            "predict the shape that was started by `measure --json`, and give that as STATEMENT";
        let error = ExplainError::NotStated(stated.len(), found);
        return Err(Failure::new(POLICY, &error, hint));
    };
    let name = machine["machine"].as_str().unwrap_or_default();
    let text = format!(
        "launch digest  {found}\nit is that of {}\n",
        printable(name)
    );
    let json = json!({ "launch_digest": found, "matches": true, "machine": name });
    Ok(Report::of(text, json))
}

fn explained(found: Digest<48>, differences: &[(String, String, String)]) -> Report {
    let list = differences.iter().map(
        |(what, expected, found)| json!({ "what": what, "expected": expected, "found": found }),
    );
    let json = json!({
        "launch_digest": found,
        "matches": differences.is_empty(),
        "differences": list.collect::<Vec<_>>(),
    });
    let mut text = format!("launch digest  {found}\n");
    if differences.is_empty() {
        text.push_str("it is as predicted\n");
    }
    for (what, expected, found) in differences {
        let line = format!("{what}: expected {expected}, found {found}");
        text = text + &printable(&line) + "\n";
    }
    Report::of(text, json)
}

/// The firmware that was expected first, then the others.
fn launches(arguments: &ExplainArguments, expected: &Value) -> Result<Vec<Named<Launch>>, Failure> {
    let mut launches = Vec::new();
    for path in &arguments.firmware {
        let bytes = read(path)?;
        let hint = "give the very file that the VM starts with, such as OVMF.amdsev.fd";
        let firmware =
            Firmware::parse(&bytes).map_err(|error| Failure::input(path, &error, hint))?;
        let launch = Launch::new(&firmware).map_err(|error| Failure::input(path, &error, hint))?;
        let sha256 = Digest::sha256(&bytes).to_string();
        let name = format!("{} (sha256:{sha256})", path.display());
        launches.push((*expected == *sha256, name, launch));
    }
    launches.sort_by_key(|(expected, ..)| !expected);
    if !launches.first().is_some_and(|(expected, ..)| *expected) {
        return Err(statement_fault(
            arguments,
            "the --firmware that it was made with",
        ));
    }
    Ok(launches
        .into_iter()
        .map(|(_, name, launch)| (name, launch))
        .collect())
}

/// Combinations of kernels, initrds and command lines, the expected one first.
fn boots(
    arguments: &ExplainArguments,
    inputs: &Value,
) -> Result<Vec<Named<Option<KernelHashes>>>, Failure> {
    let stated =
        |name: &str| -> Option<Digest<32>> { inputs[name]["sha256"].as_str()?.parse().ok() };
    let hash = |paths: &[PathBuf], expected: Option<Digest<32>>| {
        let mut all = vec![("as expected".to_owned(), expected)];
        for path in paths {
            let artifact = fs::File::open(path).and_then(Artifact::read);
            let artifact = artifact.map_err(|error| {
                Failure::input(path, &error, "check the path, and that it is yours to read")
            })?;
            all.push((path.display().to_string(), Some(artifact.sha256)));
        }
        Ok::<_, Failure>(all)
    };
    let kernels = hash(&arguments.kernel, stated("kernel"))?;
    let mut initrds = hash(&arguments.initrd, stated("initrd"))?;
    initrds.push(("none".to_owned(), None));
    let expected = inputs["command_line"].as_str().unwrap_or_default();
    let mut lines = command_lines_near(expected);
    lines.extend(
        arguments
            .cmdline
            .iter()
            .map(|line| (format!("{line:?}"), line.clone())),
    );
    let mut boots = Vec::new();
    for (kernel_name, kernel) in &kernels {
        let Some(kernel) = kernel else { continue };
        for (initrd_name, initrd) in &initrds {
            for (line_name, line) in &lines {
                let Ok(line) = line.parse() else { continue };
                let name =
                    format!("kernel {kernel_name}, initrd {initrd_name}, command line {line_name}");
                boots.push((name, Some(KernelHashes::new(*kernel, *initrd, &line))));
            }
        }
    }
    let none = ("no kernel hashes (kernel-hashes=off)".to_owned(), None);
    let at = if stated("kernel").is_some() {
        boots.len()
    } else {
        0
    };
    boots.insert(at, none);
    Ok(boots)
}

/// Version 4 or 5 for a TD, as Intel's quotes begin.
fn is_quote(bytes: &[u8]) -> bool {
    matches!(bytes, [4 | 5, 0, _, _, 0x81, 0, 0, 0, ..])
}

/// A quote has registers and no events: it tells which of them to look into.
fn compare_quote(
    arguments: &ExplainArguments,
    registers: &[Digest<48>; 5],
    statement: &Value,
) -> Result<Report, Failure> {
    if statement["platform"] != "tdx" {
        return Err(statement_fault(arguments, "a prediction of TDX"));
    }
    let mut differences = Vec::new();
    let mut text = String::new();
    let names = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];
    for (name, found) in names.iter().zip(registers) {
        let found = found.to_string();
        // What depends on the VMM has one value for each way of it.
        let line = match &statement[*name] {
            Value::Object(ways) => match ways.iter().find(|(_, value)| **value == *found) {
                Some((way, _)) => format!("as predicted ({way})"),
                None => format!("found {found}, which is none of those predicted"),
            },
            Value::String(expected) if *expected == found => "as predicted".to_owned(),
            Value::String(expected) => format!("expected {expected}, found {found}"),
            _ => "was not predicted".to_owned(),
        };
        if line.contains("found") {
            differences.push(json!({
                "register": name, "expected": statement[*name], "found": found,
            }));
        }
        text = text + &printable(&format!("{name}: {line}")) + "\n";
    }
    if !differences.is_empty() {
        text.push_str("the machine's event log, given as EVIDENCE, tells which event it was\n");
    }
    let json = json!({ "matches": differences.is_empty(), "differences": differences });
    Ok(Report::of(text, json))
}

fn compare_log(
    arguments: &ExplainArguments,
    log: &EventLog<'_>,
    statement: &Value,
) -> Result<Report, Failure> {
    let stated = &statement["predicate"]["reference_values"]["tpm"]["sha384"];
    if let Some(registers) = stated.as_object() {
        return Ok(compare_registers(log, registers));
    }
    let events = statement["events"]
        .as_array()
        .filter(|events| !events.is_empty());
    let events = events.ok_or_else(|| statement_fault(arguments, "events"))?;
    let mut differences = Vec::new();
    let mut text = String::new();
    for (name, register) in registers(events) {
        let expected = expected_events(events, &name, None);
        let found = log.sha384(register);
        let all = expected.len();
        let mut difference = eventlog::first_difference(&expected, &found);
        for form in ["kernel, patched", "kernel, unchanged"] {
            let expected = expected_events(events, &name, Some(form));
            if expected.len() < all {
                difference = difference.and(eventlog::first_difference(&expected, &found));
            }
        }
        let Some(difference) = difference else {
            text = text + &name + ": as predicted\n";
            continue;
        };
        let show = |event: &Option<(String, Digest<48>)>| match event {
            Some((what, digest)) => format!("{what} ({digest})"),
            None => "no further event".to_owned(),
        };
        let (expected, found) = (show(&difference.expected), show(&difference.found));
        let number = difference.number;
        let line = format!("{name}: event {number} differs: expected {expected}, found {found}");
        text = text + &printable(&line) + "\n";
        differences.push(json!({
            "register": name, "event": number, "expected": expected, "found": found,
        }));
    }
    let json = json!({ "matches": differences.is_empty(), "differences": differences });
    Ok(Report::of(text, json))
}

/// A release states registers and no events: what a log has in those that differ is named.
fn compare_registers(log: &EventLog<'_>, stated: &serde_json::Map<String, Value>) -> Report {
    let mut differences = Vec::new();
    let mut text = String::new();
    for (name, expected) in stated {
        let Ok(number) = name.trim_start_matches("pcr").parse() else {
            continue;
        };
        let value = log.replay(Bank::Sha384, number).unwrap_or_default();
        let found: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        if *expected == found {
            text = text + &format!("PCR {number}: as stated\n");
            continue;
        }
        let line = format!("PCR {number}: stated {expected}, found {found}, of these events:");
        text = text + &printable(&line) + "\n";
        let events = log.sha384(number);
        for (what, digest) in &events {
            text = text + "  " + &printable(&format!("{digest}  {what}")) + "\n";
        }
        let events: Vec<_> = events
            .into_iter()
            .map(|(what, digest)| json!([what, digest]))
            .collect();
        differences.push(json!({
            "register": name, "expected": expected, "found": found, "events": events,
        }));
    }
    let json = json!({ "matches": differences.is_empty(), "differences": differences });
    Report::of(text, json)
}

/// The registers that a statement predicts, and their numbers in a log.
fn registers(events: &[Value]) -> Vec<(String, u32)> {
    let mut all = Vec::new();
    for event in events {
        let one = match (event["register"].as_str(), event["pcr"].as_u64()) {
            (Some(name), _) => {
                let number = name
                    .strip_prefix("rtmr")
                    .and_then(|number| number.parse().ok());
                number.map(|number: u32| (name.to_owned(), number.saturating_add(1)))
            }
            (_, Some(pcr)) => u32::try_from(pcr)
                .ok()
                .map(|pcr| (format!("pcr{pcr}"), pcr)),
            _ => None,
        };
        all.extend(one.filter(|one| !all.contains(one)));
    }
    all
}

/// A register's predicted events. A direct boot has two forms of its kernel, of which `without`
/// leaves one out.
fn expected_events(
    events: &[Value],
    register: &str,
    without: Option<&str>,
) -> Vec<(String, Digest<48>)> {
    let of = |event: &&Value| {
        event["register"].as_str() == Some(register)
            || event["pcr"]
                .as_u64()
                .map(|pcr| format!("pcr{pcr}"))
                .as_deref()
                == Some(register)
    };
    let one = |event: &Value| {
        let what = event["what"].as_str()?.to_owned();
        let digest = event["sha384"].as_str()?.parse().ok()?;
        let left_out = without.is_some_and(|form| what.starts_with(form));
        (!left_out).then_some((what, digest))
    };
    events.iter().filter(of).filter_map(one).collect()
}

fn statement_fault(arguments: &ExplainArguments, what: &'static str) -> Failure {
    let hint = "predict it again: cloister-release measure … --json > predicted.json";
    Failure::input(&arguments.statement, &ExplainError::Statement(what), hint)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let hint = "check the path, and that it is yours to read";
    let access = |error: std::io::Error| Failure::input(path, &error, hint);
    let bytes = fs::metadata(path).map_err(access)?.len();
    match bytes > MAX_FILE_BYTES {
        true => Err(Failure::new(MISUSE, &TooLarge(bytes), hint)),
        false => fs::read(path).map_err(access),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("a file of {0} bytes is too large for this")]
struct TooLarge(u64);
