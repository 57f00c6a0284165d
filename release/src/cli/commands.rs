//! The commands: read what was named, call the library, report.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use attest::release::{Envelope, Statement};
use attest::{Policy, ReleaseFloor};
use release::key::SigningKey;
use release::log::Log;
use release::{disk, files, statement as statements};

use super::arguments::{
    AssembleArguments, AttachArguments, KeygenArguments, LogAppendArguments, LogCreateArguments,
    LogReadArguments, PublicKeyArguments, SignArguments, StatementArguments, VerifyArguments,
};
use super::failure::Failure;
use super::report::Report;

type Outcome = Result<Report, Failure>;

/// Longer than any kernel, initrd or bundle.
const MAX_INPUT_BYTES: u64 = 1 << 30;

pub(super) fn assemble(arguments: &AssembleArguments) -> Outcome {
    let AssembleArguments {
        image,
        config,
        output,
    } = arguments;
    let measured = release::assemble::assemble(image, config, output)?;
    Ok(Report::measurement(&measured))
}

pub(super) fn attach(arguments: &AttachArguments) -> Outcome {
    disk::attach(&arguments.disk, &read(&arguments.bundle)?)?;
    Ok(Report::facts(&[
        ("disk", arguments.disk.display().to_string()),
        ("bundle", arguments.bundle.display().to_string()),
    ]))
}

pub(super) fn keygen(arguments: &KeygenArguments) -> Outcome {
    let key = SigningKey::create(&arguments.output)?;
    Ok(key_report(&key, &arguments.output))
}

pub(super) fn public_key(arguments: &PublicKeyArguments) -> Outcome {
    let key = SigningKey::read(&arguments.key)?;
    Ok(key_report(&key, &arguments.key))
}

fn key_report(key: &SigningKey, path: &Path) -> Report {
    let facts = [
        ("file", path.display().to_string()),
        ("public key", key.public().to_string()),
    ];
    Report::facts(&facts)
}

pub(super) fn statement(arguments: &StatementArguments) -> Outcome {
    let source_revision = statements::source_revision(&arguments.source, arguments.allow_dirty)?;
    release::bill::check(&arguments.source, &arguments.image)?;
    let statement = statements::make(&statements::Release {
        name: &arguments.name,
        version: arguments.version,
        assembled: &arguments.assembled,
        image: &arguments.image,
        lock: &arguments.lock,
        source_revision: &source_revision,
    })?;
    write(&arguments.output, &statement.encode())?;
    Ok(Report::facts(&[
        ("statement", arguments.output.display().to_string()),
        ("source", source_revision.to_string()),
        ("artifacts", statement.subject.len().to_string()),
    ]))
}

pub(super) fn sign(arguments: &SignArguments) -> Outcome {
    let key = SigningKey::read(&arguments.key)?;
    let statement = Statement::decode(&read(&arguments.statement)?).map_err(|error| {
        let hint = "give a file that `cloister-release statement` wrote";
        Failure::input(&arguments.statement, &error, hint)
    })?;
    let envelope = statements::sign(&statement, &key);
    write(&arguments.output, &envelope.encode())?;
    Ok(Report::facts(&[
        ("envelope", arguments.output.display().to_string()),
        ("signed by", key.public().to_string()),
    ]))
}

pub(super) fn log_create(arguments: &LogCreateArguments) -> Outcome {
    let key = SigningKey::read(&arguments.key)?;
    let log = Log::create(&arguments.log, &arguments.origin, &key)?;
    Ok(Report::log(&log))
}

pub(super) fn log_append(arguments: &LogAppendArguments) -> Outcome {
    let key = SigningKey::read(&arguments.key)?;
    let bytes = read(&arguments.envelope)?;
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| {
        let hint = "give an envelope that `cloister-release sign` wrote";
        Failure::input(&arguments.envelope, &error, hint)
    })?;
    let (log, bundle) = Log::append(&arguments.log, &arguments.origin, &key, &envelope)?;
    write(&arguments.output, &bundle.encode())?;
    Ok(Report::facts(&[
        ("bundle", arguments.output.display().to_string()),
        (
            "entry",
            format!("{} of {}", bundle.log.index, log.checkpoint().size),
        ),
        ("log", arguments.origin.to_string()),
        ("root", log.checkpoint().root.to_string()),
    ]))
}

pub(super) fn log_show(arguments: &LogReadArguments) -> Outcome {
    let log = Log::open(&arguments.log, &arguments.origin, &arguments.log_key)?;
    Ok(Report::log(&log))
}

pub(super) fn log_checkpoint(arguments: &LogReadArguments) -> Outcome {
    let log = Log::open(&arguments.log, &arguments.origin, &arguments.log_key)?;
    Ok(Report::note("checkpoint", log.checkpoint_note()))
}

pub(super) fn verify(arguments: &VerifyArguments) -> Outcome {
    let policy = Policy::parse(&read(&arguments.policy)?);
    let policy = policy
        .map_err(|error| Failure::input(&arguments.policy, &error, "correct the policy file"))?;
    let bundle = read(&arguments.bundle)?;
    let floor = ReleaseFloor::at(arguments.seen);
    let verified = attest::verify_release(&bundle, &policy.release, floor)?;
    let artifacts = match &arguments.artifacts {
        Some(folder) => Some(release::verify::check_artifacts(
            folder,
            verified.statement(),
        )?),
        None => None,
    };
    Ok(Report::verified(&verified, artifacts))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(count) if count as u64 > MAX_INPUT_BYTES => {
            let error = io::Error::from(io::ErrorKind::FileTooLarge);
            Err(access(path, &error))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(access(path, &error)),
    }
}

fn write(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    files::write_whole(path, contents).map_err(|error| access(path, &error))
}

fn access(path: &Path, error: &(dyn Error + 'static)) -> Failure {
    Failure::input(
        path,
        error,
        "check the path, and that it is yours to read or write",
    )
}
