//! What can be asked for. The examples in the help are a whole release, step by step.

use std::path::PathBuf;

use attest::Name;
use attest::release::{Origin, PublicKey};
use clap::{Args, Parser, Subcommand};

use super::audit;
use super::explain::ExplainArguments;
use super::measure::MeasureArguments;
use super::sigstore::{ConformanceCommand, SigstoreCommand};

const EXAMPLES: &str = "\
A release, step by step:
  cloister-release keygen --output signer.pem
  cloister-release keygen --output log.pem
  cloister-release assemble --image build/image/demo --config site.toml --output build/site
  cloister-release measure --uki build/site/cloister.efi
  cloister-release statement --name cloister --version 1 \\
      --image build/image/demo --assembled build/site --lock image/deb.lock --output statement.json
  cloister-release sign --statement statement.json --key signer.pem --output envelope.json
  cloister-release log create --log releases.log --origin log.example.org/cloister --key log.pem
  cloister-release log append --log releases.log --origin log.example.org/cloister --key log.pem \\
      --envelope envelope.json --output bundle.json
  cloister-release verify --bundle bundle.json --policy policy.toml --artifacts build/site
  cloister-release attach --disk build/site/disk.img --bundle bundle.json

With Sigstore instead of a key and a log of one's own:
  cloister-release sigstore sign --statement statement.json --ambient --output release.sigstore.json
  cloister-release sigstore verify --bundle release.sigstore.json --artifacts build/site \\
      --certificate-identity IDENTITY --certificate-oidc-issuer ISSUER

What an auditor asks, of a release or of two:
  cloister-release reproduce bundle.json --policy policy.toml --config site.toml
  cloister-release compare old/ new/        cloister-release owns /usr/bin/init --image IMAGE
  cloister-release inputs                   cloister-release bill --image IMAGE

Exit codes:
  0 done   1 misuse or unusable input   2 signature   3 collateral   4 policy   5 log
  6 different";

/// Makes, measures, signs, logs and verifies releases of Cloister.
#[derive(Debug, Parser)]
#[command(name = "cloister-release", version, after_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Report in JSON: results on standard output, a failure on standard error.
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a UKI and a boot disk of an image and a configuration.
    Assemble(AssembleArguments),
    /// Put a release bundle onto an assembled disk, for the machine to show to its clients.
    Attach(AttachArguments),
    /// Predict what a machine is measured as, from the artifacts alone: TPM, SEV-SNP, TDX.
    Measure(Box<MeasureArguments>),
    /// Say what most likely differs where evidence does not match a prediction.
    ExplainMismatch(ExplainArguments),
    /// Make an Ed25519 key; an existing file is never overwritten.
    Keygen(KeygenArguments),
    /// Show the public half of a key, as policies name it.
    PublicKey(PublicKeyArguments),
    /// Write down what a release is: artifacts, versions, reference values.
    Statement(StatementArguments),
    /// Sign a statement.
    Sign(SignArguments),
    /// Keep the append-only log of releases.
    #[command(subcommand)]
    Log(LogCommand),
    /// Verify a release bundle against a policy, as a client does.
    Verify(VerifyArguments),
    /// Sign and log a release with Sigstore, or verify one that was.
    #[command(subcommand)]
    Sigstore(SigstoreCommand),
    /// Answer the public conformance suite of Sigstore clients.
    #[command(subcommand)]
    Conformance(ConformanceCommand),
    /// List everything from outside that a build is made of, by hash.
    Inputs(audit::InputsArguments),
    /// Write an image's bill of materials (SPDX).
    Bill(audit::BillArguments),
    /// Say which package or source file a path of the image comes from.
    Owns(audit::OwnsArguments),
    /// Show what changed between two builds or releases.
    Compare(audit::CompareArguments),
    /// Build a release again from its sources, and name what differs.
    Reproduce(audit::ReproduceArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release assemble --image build/image/demo --config site.toml --output build/site

The output holds cloister.efi (the UKI), disk.img, and the parts of a direct boot (vmlinuz, initrd,
cmdline). The same input gives the same bytes; nothing is left where the command fails.")]
pub(super) struct AssembleArguments {
    /// Folder of a built image.
    #[arg(long, value_name = "DIR")]
    pub(super) image: PathBuf,
    /// Configuration of the site (TOML).
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Folder to make, or to replace if assembling made it.
    #[arg(long, value_name = "DIR")]
    pub(super) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release attach --disk build/site/disk.img --bundle bundle.json")]
pub(super) struct AttachArguments {
    /// Disk that assembling made.
    #[arg(long, value_name = "FILE")]
    pub(super) disk: PathBuf,
    /// Release bundle.
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release keygen --output signer.pem")]
pub(super) struct KeygenArguments {
    /// File to make (PKCS#8 PEM, readable by you alone).
    #[arg(long, value_name = "FILE")]
    pub(super) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release public-key --key signer.pem")]
pub(super) struct PublicKeyArguments {
    /// Key file.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release statement --name cloister --version 7 \\
      --image build/image/demo --assembled build/site --lock image/deb.lock \\
      --output statement.json")]
pub(super) struct StatementArguments {
    /// Name of the release.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Name,
    /// Version: a whole number, higher than every one before.
    #[arg(long, value_name = "N")]
    pub(super) version: u64,
    /// Folder of the image; the statement takes its profile from there.
    #[arg(long, value_name = "DIR")]
    pub(super) image: PathBuf,
    /// Folder that assembling made.
    #[arg(long, value_name = "DIR")]
    pub(super) assembled: PathBuf,
    /// Lock of everything that went into the image.
    #[arg(long, value_name = "FILE")]
    pub(super) lock: PathBuf,
    /// Checkout that the image was built from.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(super) source: PathBuf,
    /// Accept uncommitted changes, and mark the revision with -dirty.
    #[arg(long)]
    pub(super) allow_dirty: bool,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub(super) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release sign --statement statement.json --key signer.pem --output envelope.json

A signed statement that no log holds is refused by every client: log it next.")]
pub(super) struct SignArguments {
    /// Statement.
    #[arg(long, value_name = "FILE")]
    pub(super) statement: PathBuf,
    /// Key file.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub(super) output: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Begin a log.
    Create(LogCreateArguments),
    /// Append a signed statement, and write the bundle that proves it.
    Append(LogAppendArguments),
    /// List the entries, after checking all of them.
    Show(LogReadArguments),
    /// Print the signed checkpoint, after checking the log against it.
    Checkpoint(LogReadArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log create --log releases.log --origin log.example.org/cloister --key log.pem")]
pub(super) struct LogCreateArguments {
    /// Log file to make.
    #[arg(long, value_name = "FILE")]
    pub(super) log: PathBuf,
    /// Name of the log.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub(super) origin: Origin,
    /// The log's key file.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log append --log releases.log --origin log.example.org/cloister --key log.pem \\
      --envelope envelope.json --output bundle.json

Appending the same envelope again changes nothing and writes its bundle anew.")]
pub(super) struct LogAppendArguments {
    /// Log file.
    #[arg(long, value_name = "FILE")]
    pub(super) log: PathBuf,
    /// Name of the log.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub(super) origin: Origin,
    /// The log's key file.
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// Signed statement.
    #[arg(long, value_name = "FILE")]
    pub(super) envelope: PathBuf,
    /// Bundle to write.
    #[arg(long, value_name = "FILE")]
    pub(super) output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log show|checkpoint --log releases.log --origin log.example.org/cloister \\
      --log-key ed25519:BASE64")]
pub(super) struct LogReadArguments {
    /// Log file.
    #[arg(long, value_name = "FILE")]
    pub(super) log: PathBuf,
    /// Name of the log.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub(super) origin: Origin,
    /// Public key of the log.
    #[arg(long, value_name = "KEY")]
    pub(super) log_key: PublicKey,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release verify --bundle bundle.json --policy policy.toml --artifacts build/site")]
pub(super) struct VerifyArguments {
    /// Release bundle.
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: PathBuf,
    /// Policy (TOML), as clients have it.
    #[arg(long, value_name = "FILE")]
    pub(super) policy: PathBuf,
    /// Highest version accepted before: anything lower is a rollback.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) seen: u64,
    /// Folder that assembling made: its files must be those of the release.
    #[arg(long, value_name = "DIR")]
    pub(super) artifacts: Option<PathBuf>,
}

fn origin(text: &str) -> Result<Origin, attest::release::checkpoint::OriginError> {
    text.to_owned().try_into()
}
