//! What can be asked for. The examples in the help are a whole release, step by step.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::audit;
use super::dump_acpi::DumpAcpiArguments;
use super::explain::ExplainArguments;
use super::log::LogCommand;
use super::measure::MeasureArguments;
use super::sigstore::{ConformanceCommand, SigstoreCommand};
use super::state::{RebuildArguments, StatementArguments, StatusArguments};

const EXAMPLES: &str = "\
A release, step by step:
  cloister-release keygen --output signer.pem
  cloister-release keygen --output log.pem
  cloister-release assemble --image build/image/demo --config site.toml --output build/site
  cloister-release measure --uki build/site/cloister.efi
  cloister-release statement --name cloister --version 1 \\
      --image build/image/demo --assembled build/site --lock image/deb.lock --output statement.json
  cloister-release sign --statement statement.json --key signer.pem --output envelope.json
  cloister-release log create --log releases --origin log.example.org/cloister --key log.pem
  cloister-release log append --log releases --origin log.example.org/cloister --key log.pem \\
      --signer ed25519:BASE64 --envelope envelope.json --output bundle.json
  cloister-release verify --bundle bundle.json --policy policy.toml --artifacts build/site
  cloister-release attach --disk build/site/disk.img --bundle bundle.json

With Sigstore instead of a key and a log of one's own:
  cloister-release sigstore sign --statement statement.json --ambient --output release.sigstore.json
  cloister-release sigstore verify --bundle release.sigstore.json --artifacts build/site \\
      --certificate-identity IDENTITY --certificate-oidc-issuer ISSUER
What is said of a release later; sign and append each, then write the bundle anew:
  cloister-release status --release bundle.json --output status.json
  cloister-release attest-rebuild --image build/image/demo --assembled build/site \\
      --lock image/deb.lock --release bundle.json --output rebuild.json
  cloister-release log bundle --log releases --origin log.example.org/cloister \\
      --log-key ed25519:BASE64 --index 0 --output bundle.json

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
    /// Read the ACPI tables that a QEMU hands to its firmware, for predictions of TDX.
    DumpAcpi(DumpAcpiArguments),
    /// Say what most likely differs where evidence does not match a prediction.
    ExplainMismatch(ExplainArguments),
    /// Make an Ed25519 key; an existing file is never overwritten.
    Keygen(KeygenArguments),
    /// Show the public half of a key, as policies name it.
    PublicKey(PublicKeyArguments),
    /// Write down what a release is: artifacts, versions, reference values.
    Statement(Box<StatementArguments>),
    /// Say that a release is still current, or no longer to be trusted.
    Status(StatusArguments),
    /// Write down what came out of a rebuild, for a rebuilder to sign.
    AttestRebuild(RebuildArguments),
    /// Sign a statement.
    Sign(SignArguments),
    /// Keep the append-only log of releases.
    #[command(subcommand)]
    Log(Box<LogCommand>),
    /// Find what stands in a log under our keys and has no tag in our sources.
    Monitor(release::monitor::watch::Arguments),
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
  cloister-release sign --statement statement.json --key signer.pem --output envelope.json

A signed statement that no log holds is refused by every client: log it next.")]
pub(super) struct SignArguments {
    /// Statement.
    #[arg(long, value_name = "FILE")]
    pub(super) statement: PathBuf,
    /// Key file, or URI of an Ed25519 key in a PKCS#11 module (see `sigstore sign --help`).
    #[arg(long, value_name = "FILE|URI")]
    pub(super) key: PathBuf,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub(super) output: PathBuf,
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
