//! The commands: read what was named, call the library, report.

use std::error::Error;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::SystemTime;

use attest::{Policy, Ratchet, UnixTime};
use release::key::SigningKey;
use release::log::Stated;
use release::{disk, files, statement as statements};

use super::arguments::{
    AssembleArguments, AttachArguments, KeygenArguments, PublicKeyArguments, SignArguments,
    VerifyArguments,
};
use super::failure::Failure;
use super::report::Report;
use super::sigstore::{self, hand_over_rest};

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

pub(super) fn sign(arguments: &SignArguments, json: bool) -> Outcome {
    if arguments.key.to_string_lossy().starts_with("pkcs11:") {
        return Err(hand_over_rest("sign", "envelope", json));
    }
    let key = SigningKey::read(&arguments.key)?;
    let statement = read(&arguments.statement)?;
    Stated::decode(&statement).map_err(|error| {
        let hint =
            "give a file that `cloister-release statement`, `status` or `attest-rebuild` wrote";
        Failure::input(&arguments.statement, &error, hint)
    })?;
    let envelope = statements::sign(&statement, &key);
    write(&arguments.output, &envelope.encode())?;
    Ok(Report::facts(&[
        ("envelope", arguments.output.display().to_string()),
        ("signed by", key.public().to_string()),
    ]))
}

pub(super) fn verify(arguments: &VerifyArguments) -> Outcome {
    let policy = Policy::parse(&read(&arguments.policy)?);
    let policy = policy
        .map_err(|error| Failure::input(&arguments.policy, &error, "correct the policy file"))?;
    let bundle = read(&arguments.bundle)?;
    let ratchet = Ratchet::at(arguments.seen);
    let sigstore = sigstore::verifier(&policy, &arguments.policy)?;
    let release = &policy.release;
    let verified = attest::verify_release_with(&bundle, release, &ratchet, now(), &*sigstore)?;
    let artifacts = match &arguments.artifacts {
        Some(folder) => Some(release::verify::check_artifacts(
            folder,
            verified.statement(),
        )?),
        None => None,
    };
    Ok(Report::verified(&verified, artifacts))
}

/// The time by this machine's clock.
pub(super) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::from_secs(since.map_or(0, |since| since.as_secs()))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read =
        files::open(path).and_then(|file| file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes));
    match read {
        Ok(count) if count as u64 > MAX_INPUT_BYTES => {
            let error = io::Error::from(io::ErrorKind::FileTooLarge);
            Err(access(path, &error))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(access(path, &error)),
    }
}

pub(super) fn write(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    files::write_whole(path, contents).map_err(|error| access(path, &error))
}

fn access(path: &Path, error: &(dyn Error + 'static)) -> Failure {
    Failure::input(
        path,
        error,
        "check the path, and that it is yours to read or write",
    )
}
