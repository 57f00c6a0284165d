//! What can be asked for.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
In a workflow that may ask for an identity (permissions: id-token: write):
  cloister-publish sign --statement statement.json --ambient --output release.sigstore.json

With a key that is kept, and a log and timestamp authority of one's own:
  cloister-publish sign --statement statement.json --key signer.pem \\
      --rekor https://log.example.org --rekor-version 2 --tsa https://time.example.org \\
      --trusted-root trusted_root.json --output release.sigstore.json

Then anyone:
  cloister-release sigstore verify --bundle release.sigstore.json \\
      --certificate-identity IDENTITY --certificate-oidc-issuer ISSUER

Exit codes:
  0 done   1 misuse or unusable input   2 signature   3 no certificate or timestamp
  5 not logged";

/// Signs a release with Sigstore, has it timestamped and logged, and verifies the result.
///
/// What was signed and not logged is dropped: there is no bundle without a log entry.
#[derive(Debug, Parser)]
#[command(name = "cloister-publish", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// Report in JSON: results on standard output, a failure on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Sign a statement, log it, and write the bundle.
    Sign(Box<SignArguments>),
    /// Fetch the trusted root and signing configuration of today, by TUF.
    Refresh(RefreshArguments),
    /// Sign a file, as the public conformance suite asks for it.
    SignBundle(SignBundleArguments),
}

#[derive(Debug, Args)]
pub(crate) struct SignArguments {
    /// Statement that `cloister-release statement` wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) statement: PathBuf,
    /// Bundle to write (Sigstore bundle v0.3). It is written last, and whole.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) identity: IdentityArguments,
    #[command(flatten)]
    pub(crate) services: ServiceArguments,
    /// Authorities to verify the result against [default: the public-good root that is built in].
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) patience: PatienceArguments,
}

/// Who signs: exactly one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct IdentityArguments {
    /// Sign with this key (PKCS#8 PEM, ECDSA P-256 or Ed25519, readable by you alone).
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Sign as whom this OpenID Connect token names.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity_token: Option<PathBuf>,
    /// Sign as the workflow that this runs in.
    #[arg(long)]
    pub(crate) ambient: bool,
    /// Sign in on a page that is shown.
    #[arg(long)]
    pub(crate) interactive: bool,
}

/// Which services: of a file, or one by one; else the public-good instance.
#[derive(Debug, Args)]
pub(crate) struct ServiceArguments {
    /// Signing configuration (JSON, v0.2) that names the services.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["rekor", "tsa", "fulcio", "oidc"])]
    pub(crate) signing_config: Option<PathBuf>,
    /// Interface of the log: 1 or 2 [default: the newest that the configuration names; 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    pub(crate) rekor_version: Option<u8>,
    /// URL of the log.
    #[arg(long, value_name = "URL")]
    pub(crate) rekor: Option<String>,
    /// URL of the timestamp authority.
    #[arg(long, value_name = "URL", requires = "rekor")]
    pub(crate) tsa: Option<String>,
    /// URL of the certificate authority.
    #[arg(long, value_name = "URL", requires = "rekor")]
    pub(crate) fulcio: Option<String>,
    /// URL of the sign-in.
    #[arg(long, value_name = "URL", requires = "rekor")]
    pub(crate) oidc: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PatienceArguments {
    /// How often a service is asked before this gives up; pauses double, from one second.
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..=10))]
    pub(crate) attempts: u32,
    /// Longest wait for one answer, in seconds.
    #[arg(long, value_name = "S", default_value_t = 30,
        value_parser = clap::value_parser!(u64).range(1..=300))]
    pub(crate) timeout_s: u64,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-publish refresh --output trust/

Writes trusted_root.json and, if the repository has one, signing_config.json.")]
pub(crate) struct RefreshArguments {
    /// Folder to write to.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// Repository [default: the public-good one].
    #[arg(long, value_name = "URL", requires = "tuf_root")]
    pub(crate) tuf_url: Option<String>,
    /// Root metadata that its chain begins with.
    #[arg(long, value_name = "FILE", requires = "tuf_url")]
    pub(crate) tuf_root: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) patience: PatienceArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SignBundleArguments {
    /// Token of the OpenID Connect issuer, itself.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) identity_token: String,
    /// Bundle to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) bundle: PathBuf,
    /// Use the staging instance.
    #[arg(long)]
    pub(crate) staging: bool,
    /// The file is an in-toto statement.
    #[arg(long)]
    pub(crate) in_toto: bool,
    /// Not read: what signs does not verify here.
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_root: Option<PathBuf>,
    /// Signing configuration.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_config: Option<PathBuf>,
    /// What to sign.
    pub(crate) artifact: PathBuf,
}
