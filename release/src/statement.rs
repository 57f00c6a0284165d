//! What a release states, made from its artifacts, and its signature.
//!
//! A statement is made only of artifacts that belong together: the UKI holds exactly the kernel,
//! initrd, command line and configuration that stand beside it, and the disk boots exactly that
//! UKI.

use std::io;
use std::path::{Path, PathBuf};

use attest::release::envelope::{EnvelopeSignature, PayloadType, pae};
use attest::release::statement::{
    ClientVersion, MAX_NUMBER, MAX_REVOCATIONS, MAX_STATEMENT_BYTES, Predicate, Rebuild,
    RebuildStatement, ReferenceValues, Revocation, SnpReferenceValues, Status, StatusStatement,
    Subject, SubjectDigest, TdxReferenceValues, TpmReferenceValues,
};
use attest::release::{Envelope, PublicKey, Statement};
use attest::{Digest, Name, Text};

use crate::assemble::OUTPUT_FILES;
use crate::disk::{self, DiskError};
use crate::files::digest_of_file;
use crate::git;
use crate::key::SigningKey;
use crate::measure::{self, MeasureError, Measurement};
use crate::pe::Image;

/// What a statement is made of.
#[derive(Debug, Clone)]
pub struct Release<'a> {
    /// Name of the release.
    pub name: &'a Name,
    /// Its version: higher than every one before.
    pub version: u64,
    /// Folder that `assemble` made.
    pub assembled: &'a Path,
    /// Folder of the image that was assembled; its file `profile` names the profile.
    pub image: &'a Path,
    /// The lock of everything that went into the image.
    pub lock: &'a Path,
    /// Revision of the sources.
    pub source_revision: &'a Name,
    /// When it is made, in seconds since the start of 1970.
    pub issued: u64,
    /// Who built it.
    pub builder: &'a Text,
    /// Least version of a client that may judge it.
    pub minimum_client: ClientVersion,
    /// Versions that are no longer to be trusted.
    pub revocations: &'a [Revocation],
    /// Launch digests of SEV-SNP, if it is for that.
    pub snp: Option<SnpReferenceValues>,
    /// Registers of TDX, if it is for that.
    pub tdx: Option<TdxReferenceValues>,
}

/// What a rebuild states is made of: fields as of [`Release`].
#[derive(Debug, Clone)]
pub struct Rebuilt<'a> {
    /// Folder that `assemble` made.
    pub assembled: &'a Path,
    /// Folder of the image that was assembled.
    pub image: &'a Path,
    /// The lock of everything that went into the image.
    pub lock: &'a Path,
    /// Revision of the sources.
    pub source_revision: &'a Name,
    /// When it was rebuilt, in seconds since the start of 1970.
    pub issued: u64,
    /// Launch digests of SEV-SNP, measured by the rebuilder.
    pub snp: Option<SnpReferenceValues>,
    /// Registers of TDX, measured by the rebuilder.
    pub tdx: Option<TdxReferenceValues>,
}

/// Why no statement is made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The UKI's measurement cannot be predicted.
    #[error("cloister.efi: {0}")]
    Measure(#[from] MeasureError),
    /// The disk cannot be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Artifacts that do not belong together.
    #[error("{path} is not what cloister.efi holds")]
    Mismatch {
        /// The artifact that differs.
        path: PathBuf,
    },
    /// The image does not say which profile it is of.
    #[error("{0} names no profile")]
    Profile(PathBuf),
    /// An image that something else was assembled of.
    #[error("what was assembled was not made of {path}")]
    OtherImage {
        /// The part of the image that differs.
        path: PathBuf,
    },
    /// A file name that cannot stand in a statement.
    #[error("{0} has a name that cannot stand in a statement")]
    FileName(PathBuf),
    /// Version 0, which no client's floor can tell from none at all; or one that leaves no room.
    #[error("a version is from 1 to {MAX_NUMBER}")]
    Version,
    /// A release would revoke itself or what comes after it.
    #[error("version {0} is not earlier than the release, which cannot revoke it")]
    Revocation(u64),
    /// More revocations than a statement holds.
    #[error("{0} revocations; {MAX_REVOCATIONS} is the most")]
    Revocations(usize),
    /// The statement would be larger than clients read.
    #[error("the statement has {0} bytes; {MAX_STATEMENT_BYTES} is the most")]
    TooLarge(usize),
}

/// Why the sources' revision is not known.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Git cannot be run.
    #[error("cannot run git")]
    Git(#[source] io::Error),
    /// Git refuses.
    #[error("{path} is no git checkout with a commit")]
    NoCheckout {
        /// The folder.
        path: PathBuf,
    },
    /// There are changes that are not committed.
    #[error("{path} has {changes} uncommitted change(s): nobody could rebuild this")]
    Dirty {
        /// The folder.
        path: PathBuf,
        /// How many files differ.
        changes: usize,
    },
}

/// Makes the statement of a release.
pub fn make(release: &Release<'_>) -> Result<Statement, MakeError> {
    if !(1..=MAX_NUMBER).contains(&release.version) {
        return Err(MakeError::Version);
    }
    let values = (release.snp.clone(), release.tdx.clone());
    let (configuration_digest, reference_values) =
        measured_together(release.assembled, release.image, values)?;
    let predicate = Predicate {
        name: release.name.clone(),
        version: release.version,
        profile: profile(release.image)?,
        issued: release.issued,
        builder: release.builder.clone(),
        minimum_client: release.minimum_client,
        source_revision: release.source_revision.clone(),
        lock_digest: Digest::sha256(&read(release.lock)?),
        configuration_digest,
        revocations: revocations(release)?,
        reference_values,
    };
    let statement = Statement::new(subjects(release.assembled, release.image)?, predicate);
    match statement.encode().len() {
        bytes if bytes > MAX_STATEMENT_BYTES => Err(MakeError::TooLarge(bytes)),
        _ => Ok(statement),
    }
}

/// The configuration that an assembled folder holds, and what a TPM measures of it.
pub fn measured(assembled: &Path) -> Result<(Digest<32>, TpmReferenceValues), MakeError> {
    let uki = read(&assembled.join("cloister.efi"))?;
    let measurement = measure::measure(&uki, &[])?;
    Ok((measurement.configuration, measurement.reference_values()))
}

/// The same, of artifacts that belong together, with the values of other machines that run them.
fn measured_together(
    assembled: &Path,
    image: &Path,
    (snp, tdx): (Option<SnpReferenceValues>, Option<TdxReferenceValues>),
) -> Result<(Digest<32>, ReferenceValues), MakeError> {
    let uki = read(&assembled.join("cloister.efi"))?;
    let measurement = measure::measure(&uki, &[])?;
    check_together((assembled, image), &uki, &measurement)?;
    let tpm = measurement.reference_values();
    Ok((measurement.configuration, ReferenceValues { tpm, snp, tdx }))
}

/// Sorted, so that the same ones give the same bytes.
fn revocations(release: &Release<'_>) -> Result<Vec<Revocation>, MakeError> {
    let mut revocations = release.revocations.to_vec();
    revocations.sort_by_key(|revocation| revocation.version);
    revocations.dedup_by_key(|revocation| revocation.version);
    match revocations.last() {
        Some(last) if last.version >= release.version => Err(MakeError::Revocation(last.version)),
        _ if revocations.len() > MAX_REVOCATIONS => Err(MakeError::Revocations(revocations.len())),
        _ => Ok(revocations),
    }
}

/// What a signer says later of a release that it has signed: current, unless among `revocations`.
pub fn status(release: &Statement, issued: u64, revocations: Vec<Revocation>) -> StatusStatement {
    let subject = Subject {
        name: release.predicate.name.clone(),
        digest: SubjectDigest {
            sha256: Digest::sha256(&release.encode()),
        },
    };
    StatusStatement::new(
        vec![subject],
        Status {
            issued,
            revocations,
        },
    )
}

/// What came out of a rebuild: the artifacts of an assembled folder and of its image, and the
/// values of machines that run them.
pub fn rebuild(rebuilt: &Rebuilt<'_>) -> Result<RebuildStatement, MakeError> {
    let values = (rebuilt.snp.clone(), rebuilt.tdx.clone());
    let (configuration_digest, reference_values) =
        measured_together(rebuilt.assembled, rebuilt.image, values)?;
    let predicate = Rebuild {
        issued: rebuilt.issued,
        source_revision: rebuilt.source_revision.clone(),
        lock_digest: Digest::sha256(&read(rebuilt.lock)?),
        configuration_digest,
        reference_values,
    };
    let statement = RebuildStatement::new(subjects(rebuilt.assembled, rebuilt.image)?, predicate);
    match statement.encode().len() {
        bytes if bytes > MAX_STATEMENT_BYTES => Err(MakeError::TooLarge(bytes)),
        _ => Ok(statement),
    }
}

/// When the commit that is checked out in `folder` was made, in seconds since the start of 1970.
pub fn source_time(folder: &Path) -> Result<u64, SourceError> {
    let output = git::command(Some(folder))
        .args(["log", "-1", "--format=%ct"])
        .output()
        .map_err(SourceError::Git)?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().map_err(|_| SourceError::NoCheckout {
        path: folder.to_owned(),
    })
}

/// The profile that an image was built of, as `image/build.sh` left it there.
pub fn profile(image: &Path) -> Result<Name, MakeError> {
    let path = image.join("profile");
    let text = String::from_utf8(read(&path)?).unwrap_or_default();
    let name = text.strip_suffix('\n').and_then(|name| name.parse().ok());
    name.ok_or(MakeError::Profile(path))
}

/// Signs a statement's bytes.
pub fn sign(statement: &[u8], key: &SigningKey) -> Envelope {
    let sign = |message: &[u8]| Ok::<_, std::convert::Infallible>(key.sign(message).to_vec());
    let Ok(envelope) = sign_with(statement, key.public(), sign);
    envelope
}

/// Signs a statement's bytes by whatever keeps the key `public`.
pub fn sign_with<E>(
    statement: &[u8],
    public: PublicKey,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, E>,
) -> Result<Envelope, E> {
    let payload = statement.to_vec();
    let signature = EnvelopeSignature {
        keyid: public,
        sig: sign(&pae(&payload))?,
    };
    Ok(Envelope {
        payload,
        payload_type: PayloadType::InToto,
        signatures: vec![signature],
    })
}

/// The commit that is checked out in `folder`. Uncommitted changes are refused, or, if
/// `allow_dirty`, shown by the ending `-dirty`.
pub fn source_revision(folder: &Path, allow_dirty: bool) -> Result<Name, SourceError> {
    let no_checkout = || SourceError::NoCheckout {
        path: folder.to_owned(),
    };
    let git = |arguments: &[&str]| {
        let output = git::command(Some(folder)).args(arguments).output();
        let output = output.map_err(SourceError::Git)?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned()),
            false => Err(no_checkout()),
        }
    };
    let revision = git(&["rev-parse", "--verify", "HEAD"])?;
    let revision = match git(&["status", "--porcelain"])?.lines().count() {
        0 => revision,
        _ if allow_dirty => revision + "-dirty",
        changes => {
            return Err(SourceError::Dirty {
                path: folder.to_owned(),
                changes,
            });
        }
    };
    revision.parse().map_err(|_| no_checkout())
}

/// Digests of everything that is assembled, as in a statement's subjects. The disk counts as it
/// was before a release bundle was attached.
pub fn assembled_digests(folder: &Path) -> Result<Vec<(String, Digest<32>)>, MakeError> {
    let one = |name: &&str| {
        let path = folder.join(name);
        let digest = match *name {
            "disk.img" => disk::digest_without_bundle(&path)?,
            _ => digest(&path)?,
        };
        Ok(((*name).to_owned(), digest))
    };
    OUTPUT_FILES.iter().map(one).collect()
}

/// Assembled files under their own names, the image's under `image-…`, sorted by name.
fn subjects(assembled: &Path, image: &Path) -> Result<Vec<Subject>, MakeError> {
    let mut digests = assembled_digests(assembled)?;
    for entry in image.read_dir().map_err(unreadable(image))? {
        let path = entry.map_err(unreadable(image))?.path();
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            digests.push((format!("image-{name}"), digest(&path)?));
        }
    }
    digests.sort();
    let subject = |(name, sha256): (String, Digest<32>)| {
        let name = name.parse().map_err(|_| MakeError::FileName(name.into()))?;
        let digest = SubjectDigest { sha256 };
        Ok(Subject { name, digest })
    };
    digests.into_iter().map(subject).collect()
}

/// Every assembled file is what the UKI holds and was made of the image, and the disk boots that
/// UKI.
fn check_together(
    (folder, image_folder): (&Path, &Path),
    uki: &[u8],
    measured: &Measurement,
) -> Result<(), MakeError> {
    let image = Image::parse(uki).map_err(MeasureError::Uki)?;
    let section = |name| {
        image
            .section(name)
            .and_then(|section| image.contents(section))
    };
    for (file, name) in [
        ("cmdline", ".cmdline"),
        ("initrd", ".initrd"),
        ("vmlinuz", ".linux"),
    ] {
        let path = folder.join(file);
        let assembled = read(&path)?;
        if section(name) != Some(&assembled[..]) {
            return Err(MakeError::Mismatch { path });
        }
        // Assembling appends to what the image has.
        let path = image_folder.join(file);
        if !assembled.starts_with(read(&path)?.trim_ascii_end()) {
            return Err(MakeError::OtherImage { path });
        }
    }
    let path = folder.join("config.toml");
    if Digest::sha256(&read(&path)?) != measured.configuration {
        return Err(MakeError::Mismatch { path });
    }
    let path = folder.join("disk.img");
    match disk::uki(&path)? == uki {
        true => Ok(()),
        false => Err(MakeError::Mismatch { path }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, MakeError> {
    std::fs::read(path).map_err(unreadable(path))
}

fn digest(path: &Path) -> Result<Digest<32>, MakeError> {
    digest_of_file(path).map_err(unreadable(path))
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> MakeError {
    let path = path.to_owned();
    move |source| MakeError::Read { path, source }
}
