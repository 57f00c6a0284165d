//! Releases in Sigstore: verified here; signed and logged by `cloister-publish`, the one program
//! that uses the network.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use attest::Policy;
use attest::policy::TrustedRoot;
use attest::release::{NoSigstore, SigstoreVerifier};
use clap::{Args, Subcommand};
use cloister_sigstore::{
    Artifact, Class, EMBEDDED_ROOT, Expected, PublicKey, ReleaseBundle, TrustRoot, VerifyError,
};

use super::commands::read;
use super::failure::{COLLATERAL, Failure, LOG, MISUSE, POLICY, SIGNATURE};
use super::report::{Report, stated_facts};

type Outcome = Result<Report, Failure>;

const PROGRAM: &str = "cloister-publish";

#[derive(Debug, Subcommand)]
pub(super) enum SigstoreCommand {
    /// Sign a statement, have it timestamped and logged, write the bundle.
    #[command(disable_help_flag = true)]
    Sign(Forwarded),
    /// Fetch the trusted root of today, by TUF.
    #[command(disable_help_flag = true)]
    Refresh(Forwarded),
    /// Watch a log of Rekor v2 for entries in our name that have no tag in our sources.
    #[command(disable_help_flag = true)]
    Monitor(Forwarded),
    /// Verify a bundle: who signed, which log shows it, that it is a release of ours.
    Verify(VerifyArguments),
}

#[derive(Debug, Subcommand)]
pub(super) enum ConformanceCommand {
    /// Verify a file or digest against a bundle; only the exit code counts.
    VerifyBundle(VerifyBundleArguments),
    /// Sign a file.
    #[command(disable_help_flag = true)]
    SignBundle(Forwarded),
}

#[derive(Debug, Args)]
pub(super) struct Forwarded {
    /// What `cloister-publish` is told; --help shows all of it.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "ARGUMENTS"
    )]
    arguments: Vec<OsString>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release sigstore verify --bundle release.sigstore.json --artifacts build/site \\
      --certificate-identity https://github.com/OWNER/REPO/.github/workflows/release.yml@refs/tags/v1 \\
      --certificate-oidc-issuer https://token.actions.githubusercontent.com
  cloister-release sigstore verify --bundle release.sigstore.json --key signer.pub.pem \\
      --trusted-root trusted_root.json

Who must have signed cannot be left out.")]
pub(super) struct VerifyArguments {
    /// Bundle (Sigstore bundle).
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    #[command(flatten)]
    expected: ExpectedArguments,
    /// Authorities that are believed [default: the public-good root that is built in].
    #[arg(long, value_name = "FILE")]
    trusted_root: Option<PathBuf>,
    /// Compare the files of this folder with the release, too.
    #[arg(long, value_name = "DIR")]
    artifacts: Option<PathBuf>,
}

/// Who must have signed.
#[derive(Debug, Args)]
struct ExpectedArguments {
    /// Identity in the certificate: an address, or the URI of a workflow.
    #[arg(
        long,
        value_name = "IDENTITY",
        required_unless_present = "key",
        requires = "certificate_oidc_issuer",
        conflicts_with = "key"
    )]
    certificate_identity: Option<String>,
    /// Issuer that vouched for the identity.
    #[arg(long, value_name = "URL", requires = "certificate_identity")]
    certificate_oidc_issuer: Option<String>,
    /// Public key (PEM), where a key signed.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "The protocol is that of the suite (docs/cli_protocol.md in sigstore-conformance)."
)]
pub(super) struct VerifyBundleArguments {
    /// Bundle.
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    #[command(flatten)]
    expected: ExpectedArguments,
    /// Authorities [default: the public-good root that is built in].
    #[arg(long, value_name = "FILE", conflicts_with = "staging")]
    trusted_root: Option<PathBuf>,
    /// Believe the authorities of the staging instance.
    #[arg(long)]
    staging: bool,
    /// File, or sha256:DIGEST where no file of that name exists.
    #[arg(value_name = "FILE_OR_DIGEST")]
    artifact: PathBuf,
}

pub(super) fn run(command: &SigstoreCommand, json: bool) -> Outcome {
    match command {
        SigstoreCommand::Sign(forwarded) => Err(hand_over("sign", forwarded, json)),
        SigstoreCommand::Refresh(forwarded) => Err(hand_over("refresh", forwarded, json)),
        SigstoreCommand::Monitor(forwarded) => Err(hand_over("monitor-rekor", forwarded, json)),
        SigstoreCommand::Verify(arguments) => verify(arguments),
    }
}

pub(super) fn conformance(command: &ConformanceCommand) -> Outcome {
    match command {
        ConformanceCommand::VerifyBundle(arguments) => verify_bundle(arguments),
        ConformanceCommand::SignBundle(forwarded) => {
            Err(hand_over("sign-bundle", forwarded, false))
        }
    }
}

/// Becomes `cloister-publish`; comes back only if there is none.
pub(super) fn hand_over(command: &str, forwarded: &Forwarded, json: bool) -> Failure {
    become_publisher(command, &forwarded.arguments, json)
}

/// The same with everything that stood behind `word` on the command line.
pub(super) fn hand_over_rest(word: &str, command: &str, json: bool) -> Failure {
    let rest = env::args_os().skip(1).skip_while(|one| *one != *word);
    let rest: Vec<_> = rest.skip(1).filter(|one| *one != *"--json").collect();
    become_publisher(command, &rest, json)
}

fn become_publisher(command: &str, arguments: &[OsString], json: bool) -> Failure {
    let beside = env::current_exe().ok();
    let beside = beside.and_then(|path| Some(path.parent()?.join(PROGRAM)));
    let program = beside.filter(|path| path.is_file());
    let program = program.unwrap_or_else(|| PathBuf::from(PROGRAM));
    let mut publish = Command::new(&program);
    publish.arg(command).args(arguments);
    if json {
        publish.arg("--json");
    }
    let error = publish.exec();
    let hint = "the network needs it beside this program: `cargo build -p cloister-publish`";
    Failure::input(&program, &error, hint)
}

fn verify(arguments: &VerifyArguments) -> Outcome {
    let bundle = read(&arguments.bundle)?;
    let root = root(arguments.trusted_root.as_deref())?;
    let expected = expected(&arguments.expected)?;
    let release = cloister_sigstore::verify_release(&bundle, &expected, &root)?;
    let compared = match &arguments.artifacts {
        Some(folder) => Some(release::verify::check_artifacts(
            folder,
            release.statement(),
        )?),
        None => None,
    };
    let trust = arguments.trusted_root.as_ref();
    let trust = trust.map_or(EMBEDDED_ROOT.to_owned(), |path| path.display().to_string());
    Ok(report(&release, trust, compared))
}

fn report(release: &ReleaseBundle, trust: String, compared: Option<usize>) -> Report {
    let (verified, stated) = (release.verified(), &release.statement().predicate);
    let mut facts = stated_facts(stated);
    facts.push(("signed by", verified.signer().to_owned()));
    if let Some(issuer) = verified.issuer() {
        facts.push(("vouched for by", issuer.to_owned()));
    }
    let entry = format!("entry {} in {}", verified.index(), verified.log());
    facts.push(("logged", entry));
    facts.push(("signed at", seconds(verified.signed_at())));
    facts.push(("believed", trust));
    if let Some(count) = compared {
        facts.push((
            "artifacts",
            format!("{count} files are those of the release"),
        ));
    }
    Report::facts(&facts)
}

/// A key alone tells no time.
fn seconds(times: &[i64]) -> String {
    match times.iter().min() {
        Some(first) => format!("{first} (seconds since 1970)"),
        None => "not known".to_owned(),
    }
}

fn verify_bundle(arguments: &VerifyBundleArguments) -> Outcome {
    let bundle = read(&arguments.bundle)?;
    let root = match arguments.staging {
        true => TrustRoot::staging().map_err(unusable)?,
        false => root(arguments.trusted_root.as_deref())?,
    };
    let expected = expected(&arguments.expected)?;
    let bytes;
    let artifact = match digest(&arguments.artifact) {
        Some(digest) => Artifact::Sha256(digest),
        None => {
            bytes = read(&arguments.artifact)?;
            Artifact::Bytes(&bytes)
        }
    };
    let verified = cloister_sigstore::verify(&bundle, artifact, &expected, &root)?;
    Ok(Report::facts(&[(
        "signed by",
        verified.signer().to_owned(),
    )]))
}

/// `sha256:` and 64 hexadecimal digits, unless there is a file of that name.
fn digest(artifact: &Path) -> Option<[u8; 32]> {
    let text = artifact.to_str()?.strip_prefix("sha256:")?;
    if artifact.exists() {
        return None;
    }
    hex::decode(text).ok()?.try_into().ok()
}

fn root(path: Option<&Path>) -> Result<TrustRoot, Failure> {
    match path {
        Some(path) => TrustRoot::parse(&read(path)?).map_err(unusable),
        None => TrustRoot::embedded().map_err(unusable),
    }
}

/// Whose word counts for releases in Sigstore, by the policy at `path`. A file stands beside it.
pub(super) fn verifier(policy: &Policy, path: &Path) -> Result<Box<dyn SigstoreVerifier>, Failure> {
    let Some(sigstore) = policy.release.sigstore() else {
        return Ok(Box::new(NoSigstore));
    };
    let verifier = match &sigstore.trusted_root {
        TrustedRoot::BuiltIn(name) => cloister_sigstore::SigstoreVerifier::built_in(name.as_str()),
        TrustedRoot::File(file) => {
            let json = read(&path.with_file_name(file.as_str()))?;
            cloister_sigstore::SigstoreVerifier::of_file(&json)
        }
    };
    Ok(Box::new(verifier.map_err(unusable)?))
}

fn unusable(error: cloister_sigstore::RootError) -> Failure {
    let hint = "give a trusted_root.json, as `cloister-release sigstore refresh` fetches it";
    Failure::new(MISUSE, &error, hint)
}

fn expected(arguments: &ExpectedArguments) -> Result<Expected, Failure> {
    let named = (
        &arguments.key,
        &arguments.certificate_identity,
        &arguments.certificate_oidc_issuer,
    );
    match named {
        (Some(path), ..) => {
            let key = PublicKey::from_pem(&read(path)?);
            let hint = "give the public half: `openssl pkey -in KEY -pubout`";
            Ok(Expected::Key(
                key.map_err(|error| Failure::input(path, &error, hint))?,
            ))
        }
        (None, Some(identity), Some(issuer)) => Ok(Expected::Identity {
            identity: identity.clone(),
            issuer: issuer.clone(),
        }),
        _ => Err(Failure::new(
            MISUSE,
            &NoOneExpected,
            "name --certificate-identity and --certificate-oidc-issuer, or --key",
        )),
    }
}

#[derive(Debug)]
struct NoOneExpected;

impl fmt::Display for NoOneExpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody is named who must have signed")
    }
}

impl std::error::Error for NoOneExpected {}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        let code = match error.class() {
            Class::Form => MISUSE,
            Class::Signature => SIGNATURE,
            Class::Collateral => COLLATERAL,
            Class::Policy => POLICY,
            Class::Log => LOG,
        };
        Self::new(code, &error, error.hint())
    }
}
