//! A report of SEV-SNP: its launch digest, and what is near the predicted one.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use attest::Digest;
use release::measure::boot::Artifact;
use release::measure::cpu::CpuType;
use release::measure::explain::{
    Candidates, Named, Outcome as Search, command_lines_near, features_near,
};
use release::measure::firmware::Firmware;
use release::measure::kernel_hashes::KernelHashes;
use release::measure::snp::{GuestFeatures, Launch, Vmm};
use serde_json::{Value, json};

use super::super::failure::{Failure, POLICY, printable};
use super::super::report::Report;
use super::{ExplainArguments, ExplainError, read, statement_fault};

const MEASUREMENT: std::ops::Range<usize> = 0x90..0xc0;

pub(super) fn explain(
    arguments: &ExplainArguments,
    report: &[u8],
    statement: &Value,
) -> Result<Report, Failure> {
    let fault = |what| statement_fault(arguments, what);
    let found = report
        .get(MEASUREMENT)
        .and_then(|found| found.try_into().ok());
    let found = found.map(Digest).ok_or_else(|| {
        let hint = "give the report as the processor made it";
        Failure::input(&arguments.evidence, &ExplainError::Evidence, hint)
    })?;
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
