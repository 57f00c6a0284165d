//! What may have been measured in the place of what was expected, under TDX or by a TPM: the files
//! and texts that were named, and texts near the expected one.

use std::fs::File;
use std::path::Path;

use attest::Digest;
use release::measure::boot::Artifact;
use release::measure::explain::slots::{command_lines, kernels};
use release::measure::explain::{Named, command_lines_near};
use release::measure::{Measurement, measure_file};
use serde_json::Value;

use super::super::failure::Failure;
use super::ExplainArguments;

/// Candidates by what they are.
pub(super) struct Candidates {
    pub(super) lines: Vec<Named<Digest<48>>>,
    pub(super) initrds: Vec<Named<Digest<48>>>,
    pub(super) kernels: Vec<Named<Digest<48>>>,
    pub(super) ukis: Vec<Named<Measurement>>,
}

impl Candidates {
    pub(super) fn of(arguments: &ExplainArguments, statement: &Value) -> Result<Self, Failure> {
        let inputs = &statement["inputs"];
        let initrd = inputs["initrd"]["sha256"].is_string();
        let given = arguments.cmdline.iter();
        let mut lines = match inputs["command_line"].as_str() {
            Some(expected) => command_lines_near(expected),
            None => Vec::new(),
        };
        lines.extend(given.map(|line| (format!("{line:?}"), line.clone())));
        let suffix = if initrd { " initrd=initrd" } else { "" };
        let mut initrds = Vec::new();
        for path in &arguments.initrd {
            let artifact = Artifact::read(open(path)?).map_err(|error| access(path, &error))?;
            initrds.push((path.display().to_string(), artifact.sha384));
        }
        // QEMU's changes of a kernel depend on the size of the initrd alone.
        let bytes = inputs["initrd"]["bytes"].as_u64().filter(|_| initrd);
        let artifact = bytes.map(|bytes| Artifact {
            bytes,
            ..Artifact::of(b"")
        });
        let memory = inputs["memory"].as_u64();
        let mut all_kernels = Vec::new();
        for path in &arguments.kernel {
            let file = open(path)?;
            let name = path.display().to_string();
            all_kernels.extend(kernels(&name, &file, artifact.as_ref(), memory));
        }
        let mut ukis = Vec::new();
        for path in &arguments.uki {
            let measured = measure_file(&open(path)?, &[]);
            let measured = measured.map_err(|error| access(path, &error))?;
            ukis.push((path.display().to_string(), measured));
        }
        Ok(Self {
            lines: command_lines(&lines, suffix),
            initrds,
            kernels: all_kernels,
            ukis,
        })
    }

    /// The candidate that has this digest.
    pub(super) fn name(&self, digest: Digest<48>) -> Option<String> {
        let of = |what: &str, list: &[Named<Digest<48>>]| {
            let found = list.iter().find(|(_, one)| *one == digest);
            found.map(|(name, _)| format!("it is the {what} {name}"))
        };
        let uki = || {
            self.ukis.iter().find_map(|(name, uki)| {
                let events = &uki.events;
                let event = events.iter().find(|event| event.digests.sha384 == digest)?;
                // An action or a section's name is the same in every UKI.
                let own = event.what.contains("Authenticode")
                    || event.what.contains("contents")
                    || event.pcr == 9;
                own.then(|| format!("it is that of the UKI {name}: {}", event.what))
            })
        };
        of("command line", &self.lines)
            .or_else(|| of("initrd", &self.initrds))
            .or_else(|| of("kernel", &self.kernels))
            .or_else(uki)
    }
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|error| access(path, &error))
}

fn access(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    Failure::input(
        path,
        error,
        "check the path, and that it is what its option names",
    )
}
