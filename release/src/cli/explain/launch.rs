//! A report of SEV-SNP: its launch digest, and what is near the predicted one.

use std::path::{Path, PathBuf};

use attest::Digest;
use release::measure::cpu::CpuType;
use release::measure::explain::launch::Candidates;
use release::measure::explain::statement::{Release, Snp};
use release::measure::explain::{
    Difference, Named, Outcome as Search, command_lines_near, features_near,
};
use release::measure::firmware::{Firmware, MAX_FIRMWARE_BYTES};
use release::measure::kernel_hashes::KernelHashes;
use release::measure::snp::{Launch, Vmm};
use serde_json::json;

use super::super::failure::{Failure, POLICY, printable};
use super::super::measure::read;
use super::super::report::Report;
use super::files::artifact;
use super::{ExplainError, Question, line};

pub(super) fn explain(
    question: &Question<'_>,
    expected: &Snp,
    found: Digest<48>,
) -> Result<Report, Failure> {
    let number = expected.vcpus.clone().zip(&expected.digests);
    if let Some((vcpus, _)) = number.into_iter().find(|(_, digest)| **digest == found) {
        return Ok(explained(found, Some(vcpus), &[]));
    }
    let launches = launches(question, expected)?;
    let first = expected.vmm;
    let vmms = [Vmm::Qemu, Vmm::Ec2, Vmm::Gce].into_iter();
    let cpu = expected.cpu;
    let others = CpuType::all().filter(|other| other.signature() != cpu.signature());
    let (features, features_near) = features_near(expected.features);
    let candidates = Candidates {
        firmware: launches
            .iter()
            .map(|(name, one)| (name.clone(), one))
            .collect(),
        vmm: std::iter::once(first)
            .chain(vmms.filter(|vmm| *vmm != first))
            .collect(),
        cpu: std::iter::once(cpu).chain(others).collect(),
        features,
        features_near,
        boot: boots(question, expected)?,
        vcpus: expected.vcpus.clone(),
    };
    let progress = |tried, total| eprintln!("searching: {tried} of {total}");
    match candidates.search(found, question.end, progress) {
        Search::Explained(differences) => Ok(explained(found, None, &differences)),
        Search::Exhausted(tried) => Err(Failure::new(
            POLICY,
            &ExplainError::Exhausted(tried, found),
            "name other files that may have been used by --firmware, --svsm, --kernel, --initrd, \
             --cmdline",
        )),
        Search::OutOfTime(tried) => Err(Failure::new(
            POLICY,
            &ExplainError::OutOfTime(tried),
            "give more --seconds, or fewer candidates",
        )),
    }
}

/// A release states digests of shapes, and no inputs to search through.
pub(super) fn stated(
    question: &Question<'_>,
    release: &Release,
    found: Digest<48>,
) -> Result<Report, Failure> {
    if release.snp.is_empty() {
        return Err(question.not_stated("SEV-SNP"));
    }
    let Some((name, _)) = release.snp.iter().find(|(_, digest)| *digest == found) else {
        let hint =
            "predict the shape that was started by `measure --json`, and give that as STATEMENT";
        let error = ExplainError::NotStated(release.snp.len(), found);
        return Err(Failure::new(POLICY, &error, hint));
    };
    let name = printable(name);
    let text = format!("launch digest  {found}\nit is that of {name}\n");
    let json = json!({ "launch_digest": found, "matches": true, "machine": name });
    Ok(Report::of(text, json))
}

fn explained(found: Digest<48>, vcpus: Option<u16>, differences: &[Difference]) -> Report {
    let list = differences
        .iter()
        .map(|one| json!({ "what": one.what, "expected": one.expected, "found": one.found }));
    let json = json!({
        "launch_digest": found,
        "matches": vcpus.is_some(),
        "vcpus": vcpus,
        "differences": list.collect::<Vec<_>>(),
    });
    let mut text = format!("launch digest  {found}\n");
    if let Some(vcpus) = vcpus {
        text += &format!("it is as predicted, with {vcpus} vCPUs\n");
    }
    for one in differences {
        text += &line(&format!(
            "{}: expected {}, found {}",
            one.what, one.expected, one.found
        ));
    }
    Report::of(text, json)
}

/// A file in memory with its hash.
struct Loaded {
    path: PathBuf,
    bytes: Vec<u8>,
    sha256: Digest<32>,
}

/// Files that were named and, where it still is, the expected one; that one is the first.
fn load(
    question: &Question<'_>,
    expected: &Snp,
    name: &str,
    named: &[PathBuf],
) -> Result<Vec<Loaded>, Failure> {
    let stated = expected.inputs.file(name).map(|file| file.sha256);
    let mut loaded: Vec<Loaded> = Vec::new();
    let own = question.expected_file(name).map(Path::to_path_buf);
    for path in named.iter().chain(&own) {
        let bytes = read(path, MAX_FIRMWARE_BYTES)?;
        let sha256 = Digest::sha256(&bytes);
        if loaded.iter().all(|one| one.sha256 != sha256) {
            let path = path.clone();
            loaded.push(Loaded {
                path,
                bytes,
                sha256,
            });
        }
    }
    loaded.sort_by_key(|one| Some(one.sha256) != stated);
    Ok(loaded)
}

fn unusable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let hint = "give the very file that the VM starts with, such as OVMF.amdsev.fd";
    Failure::input(path, error, hint)
}

fn parse(loaded: &Loaded) -> Result<Firmware<'_>, Failure> {
    Firmware::parse(&loaded.bytes).map_err(|error| unusable(&loaded.path, &error))
}

/// Each firmware alone and with each SVSM, the expected ones first.
fn launches(question: &Question<'_>, expected: &Snp) -> Result<Vec<Named<Launch>>, Failure> {
    let arguments = question.arguments;
    let stated = |name| expected.inputs.file(name).map(|file| file.sha256);
    let absent = |list: &[Loaded], stated: Option<Digest<32>>| {
        stated.filter(|stated| list.first().is_none_or(|one| one.sha256 != *stated))
    };
    let firmware = load(question, expected, "firmware", &arguments.firmware)?;
    if let Some(stated) = absent(&firmware, stated("firmware")) {
        let hint = "name the firmware of the prediction by --firmware";
        let error = ExplainError::Firmware(stated);
        return Err(Failure::input(&arguments.statement, &error, hint));
    }
    let svsm = load(question, expected, "svsm", &arguments.svsm)?;
    if let Some(stated) = absent(&svsm, stated("svsm")) {
        let hint = "name the SVSM of the prediction by --svsm";
        let error = ExplainError::Svsm(stated);
        return Err(Failure::input(&arguments.statement, &error, hint));
    }
    let mut beside: Vec<Option<&Loaded>> = svsm.iter().map(Some).collect();
    let alone_at = stated("svsm").map_or(0, |_| beside.len());
    beside.insert(alone_at, None);
    let mut launches = Vec::new();
    for svsm in beside {
        for one in &firmware {
            let name = format!("{} (sha256:{})", one.path.display(), one.sha256);
            let (name, launch) = match svsm {
                None => (name, Launch::new(&parse(one)?)),
                Some(svsm) => {
                    let name = format!("{name} under the SVSM {}", svsm.path.display());
                    let variables = expected.svsm_variables;
                    (
                        name,
                        Launch::with_svsm(&parse(one)?, &parse(svsm)?, variables),
                    )
                }
            };
            launches.push((name, launch.map_err(|error| unusable(&one.path, &error))?));
        }
    }
    Ok(launches)
}

/// Combinations of kernels, initrds and command lines, the expected one first.
fn boots(
    question: &Question<'_>,
    expected: &Snp,
) -> Result<Vec<Named<Option<KernelHashes>>>, Failure> {
    let stated = |name: &str| expected.inputs.file(name).map(|file| file.sha256);
    let hash = |paths: &[PathBuf], expected: Option<Digest<32>>| {
        let mut all = vec![("as expected".to_owned(), expected)];
        for path in paths {
            let artifact = artifact(question, path)?;
            all.push((path.display().to_string(), Some(artifact.sha256)));
        }
        Ok::<_, Failure>(all)
    };
    let arguments = question.arguments;
    let kernels = hash(&arguments.kernel, stated("kernel"))?;
    let mut initrds = hash(&arguments.initrd, stated("initrd"))?;
    initrds.push(("none".to_owned(), None));
    let mut lines = command_lines_near(expected.inputs.command_line.as_deref().unwrap_or_default());
    let given = arguments.cmdline.iter();
    lines.extend(given.map(|line| (format!("{line:?}"), line.clone())));
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
    let at = stated("kernel").map_or(0, |_| boots.len());
    boots.insert(at, none);
    Ok(boots)
}
