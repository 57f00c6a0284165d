//! Files that may have been measured: read within the time, from those that were named and from
//! where the prediction found its own.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::Instant;

use attest::Digest;
use release::measure::boot::Artifact;
use release::measure::bytes::Bytes;
use release::measure::explain::log::Candidates;
use release::measure::explain::slots::{command_lines, kernels};
use release::measure::explain::statement::{InputFile, Inputs};
use release::measure::explain::{Named, command_lines_near};
use release::measure::{Digests, MeasureError, measure_file};

use super::super::failure::Failure;
use super::super::measure::{access, open};
use super::Question;

/// A file that can be read until the time is over.
#[derive(Debug)]
pub(super) struct Timed {
    file: File,
    end: Instant,
}

impl Timed {
    pub(super) fn open(path: &Path, end: Instant) -> Result<Self, Failure> {
        let file = open(path)?;
        Ok(Self { file, end })
    }

    fn check(&self) -> io::Result<()> {
        match Instant::now() < self.end {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.file.read(buffer)
    }
}

impl Bytes for Timed {
    fn length(&self) -> io::Result<usize> {
        self.file.length()
    }

    fn read_at(&self, at: usize, buffer: &mut [u8]) -> io::Result<()> {
        self.check()?;
        self.file.read_at(at, buffer)
    }
}

/// What a file holds.
pub(super) fn artifact(question: &Question<'_>, path: &Path) -> Result<Artifact, Failure> {
    let file = question.open(path)?;
    Artifact::read(file).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => late(path),
        _ => access(path, &error),
    })
}

/// A file that the time does not suffice for.
fn late(path: &Path) -> Failure {
    let error = io::Error::from(io::ErrorKind::TimedOut);
    Failure::input(path, &error, "give more --seconds, or fewer files")
}

/// Whether a file is still what was measured; `None` where it cannot be read, or not in time.
fn unchanged(file: &InputFile, end: Instant) -> Option<bool> {
    let opened = Timed::open(&file.path, end).ok()?;
    if opened.length().ok()? as u64 != file.bytes {
        return Some(false);
    }
    Some(Artifact::read(opened).ok()?.sha256 == file.sha256)
}

/// Names of the files of a prediction that are still the same, and a line on each that is another
/// by now: a prediction of today would be another.
pub(super) fn states(inputs: &Inputs, end: Instant) -> (Vec<&'static str>, Vec<String>) {
    let (mut same, mut changed) = (Vec::new(), Vec::new());
    for (name, file) in &inputs.files {
        let path = file.path.display();
        match unchanged(file, end) {
            Some(true) => same.push(*name),
            Some(false) => changed.push(format!(
                "the {name} {path} is no longer what the prediction was made of: predict it again"
            )),
            None => {}
        }
    }
    (same, changed)
}

/// Everything that may have been measured under TDX or by a TPM.
pub(super) fn candidates(
    question: &Question<'_>,
    memory_bytes: Option<u64>,
) -> Result<Candidates, Failure> {
    let (arguments, inputs) = (question.arguments, &question.inputs);
    let mut lines = match inputs.command_line.as_deref() {
        Some(expected) => command_lines_near(expected),
        None => Vec::new(),
    };
    let given = arguments.cmdline.iter();
    lines.extend(given.map(|line| (format!("{line:?}"), line.clone())));
    let expected_initrd = inputs.file("initrd");
    let suffix = expected_initrd.map_or("", |_| " initrd=initrd");

    // The first is the expected one; of that only the size counts for a kernel.
    let sized = |file: &InputFile| Artifact {
        bytes: file.bytes,
        ..Artifact::of(b"")
    };
    let mut sizes = vec![("as expected".to_owned(), expected_initrd.map(sized))];
    let mut initrds = Vec::new();
    for path in &arguments.initrd {
        let artifact = artifact(question, path)?;
        let digests = Digests {
            sha256: artifact.sha256,
            sha384: artifact.sha384,
        };
        initrds.push((path.display().to_string(), digests));
        sizes.push((path.display().to_string(), Some(artifact)));
    }
    let mut ukis = Vec::new();
    for path in &arguments.uki {
        let measured = measure_file(&question.open(path)?, &[]);
        let measured = measured.map_err(|error| match error {
            MeasureError::Read(io::ErrorKind::TimedOut) => late(path),
            error => access(path, &error),
        })?;
        ukis.push((path.display().to_string(), measured));
    }
    Ok(Candidates {
        lines: command_lines(&lines, suffix),
        initrds,
        kernels: all_kernels(question, &sizes, memory_bytes)?,
        ukis,
    })
}

/// Kernels in all their forms: the expected one, where it still is, with other initrds and other
/// memory, and those that were named.
fn all_kernels(
    question: &Question<'_>,
    initrds: &[Named<Option<Artifact>>],
    memory_bytes: Option<u64>,
) -> Result<Vec<Named<Digest<48>>>, Failure> {
    let sizes = [2u64 << 30, 1 << 30, 512 << 20];
    let memory: Vec<u64> = memory_bytes.into_iter().chain(sizes).collect();
    let go_on = || Instant::now() < question.end;
    let expected = question.expected_file("kernel");
    let named = question.arguments.kernel.iter();
    let named = named.map(|path| (path.as_path(), path.display().to_string()));
    let expected = expected.map(|path| (path, "the same file".to_owned()));
    let mut out = Vec::new();
    for (path, name) in expected.into_iter().chain(named) {
        let file = question.open(path)?;
        out.extend(kernels(&name, &file, initrds, &memory, go_on));
        // Less than all of them would be taken for all.
        if !go_on() {
            return Err(late(path));
        }
    }
    Ok(out)
}
