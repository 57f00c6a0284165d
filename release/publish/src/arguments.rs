//! What can be asked for.

use std::path::PathBuf;

use attest::release::Origin;
use attest::release::checkpoint::OriginError;
use clap::{Args, Parser, Subcommand};
use publish::collect::Asked;

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
  5 not logged, or too few witnesses   monitors: 3, 5, 6, 7, see their --help";

/// Signs a release with Sigstore, has it timestamped and logged, and verifies the result; asks
/// witnesses; watches logs.
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
    /// Sign a statement for a log of one's own, with an Ed25519 key in a PKCS#11 module.
    Envelope(EnvelopeArguments),
    /// Fetch the trusted root and signing configuration of today, by TUF.
    Refresh(RefreshArguments),
    /// Have witnesses elsewhere sign a log's checkpoint (C2SP tlog-witness).
    Collect(CollectArguments),
    /// Watch a log of releases, and tell what has no right to be there.
    Monitor(Box<release::monitor::watch::Arguments>),
    /// Watch a log of Rekor v2 for entries in our name that have no tag in our sources.
    MonitorRekor(Box<RekorArguments>),
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
    /// Sign with this key: a file (PKCS#8 PEM, ECDSA P-256 or Ed25519, readable by you alone), or
    /// the URI of a key in a PKCS#11 module, such as
    /// pkcs11:token=NAME;object=NAME?module-path=/PATH.so&pin-source=file:/PATH; the PIN stands in
    /// that file, or in CLOISTER_PIN.
    #[arg(long, value_name = "FILE|URI")]
    pub(crate) key: Option<String>,
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
#[command(after_help = "`cloister-release sign --key pkcs11:…` hands over to this.")]
pub(crate) struct EnvelopeArguments {
    /// Statement, status or rebuild.
    #[arg(long, value_name = "FILE")]
    pub(crate) statement: PathBuf,
    /// URI of an Ed25519 key in a PKCS#11 module.
    #[arg(long, value_name = "URI")]
    pub(crate) key: String,
    /// Envelope to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
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
#[command(after_help = "Example:
  cloister-release log collect --log releases --origin log.example.org/cloister \\
      --log-key ed25519:BASE64 --minimum 2 \\
      --witness witness.example.org/w=ed25519:BASE64@https://witness.example.org \\
      --witness witness.example.net/x=ed25519:BASE64@https://witness.example.net/cloister
  cloister-release log bundle …       then write the release's bundle anew

All are asked at the same time. What verifies is put under the log's checkpoint, however many
there are. Exit code 5: fewer signed than --minimum, or the log is damaged.")]
pub(crate) struct CollectArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR")]
    pub(crate) log: String,
    /// Name of the log.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub(crate) origin: Origin,
    /// Public key of the log.
    #[arg(long, value_name = "KEY")]
    pub(crate) log_key: attest::release::PublicKey,
    /// A witness: its name, its key, and where it is asked; may be repeated.
    #[arg(long, value_name = "NAME=KEY@URL", required = true)]
    pub(crate) witness: Vec<Asked>,
    /// How many must sign [default: all].
    #[arg(long, value_name = "K")]
    pub(crate) minimum: Option<usize>,
    #[command(flatten)]
    pub(crate) patience: PatienceArguments,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example, once an hour, on another machine than the one that signs:
  cloister-release sigstore monitor --origin log2025-1.rekor.sigstore.dev \\
      --identity https://github.com/OWNER/REPO/ --source cloister --published bundles \\
      --state rekor.json --from now --webhook https://alarm.example.org/

Rekor v2 has no index: nobody can ask it for the entries in a name. So the log is read, entry by
entry, from where it was read last; what was logged before --from is not seen. A log at which
thousands sign brings much to read: --limit bounds one run, and what is left is said.

An entry in our name is ours if it is that of a bundle in --published, whose release has its tag in
--source; or else if its certificate names a tag and commit that are there. Anyone can log a
certificate in our name that no client believes: that is told as well.

Exit codes:
  0  read to the end: all is ours
  1  misuse, no tags, or no room
  3  the log cannot be reached or is busy, or was not read to its end: nothing is known of the rest
  5  the log was rewritten, or shows what it did not sign
  6  something stands there in our name that has no tag
  7  5 or 6, and the webhook did not take it: what was read is read again"
)]
pub(crate) struct RekorArguments {
    /// Name of the log, as in its checkpoint.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub(crate) origin: Origin,
    /// Address under which checkpoint and tiles are [default: https://NAME/api/v2].
    #[arg(long, value_name = "URL")]
    pub(crate) rekor: Option<String>,
    /// Authorities, with the log's key [default: the public-good root that is built in].
    #[arg(long, value_name = "FILE")]
    pub(crate) trusted_root: Option<PathBuf>,
    /// What identities of ours begin with; may be repeated.
    #[arg(
        long = "identity",
        value_name = "PREFIX",
        required_unless_present = "keys"
    )]
    pub(crate) identities: Vec<String>,
    /// A public key of ours (PEM); may be repeated.
    #[arg(long = "key", value_name = "FILE")]
    pub(crate) keys: Vec<PathBuf>,
    /// A published bundle, or a folder of them; may be repeated.
    #[arg(long, value_name = "PATH")]
    pub(crate) published: Vec<PathBuf>,
    /// Checkout whose tags are those of our releases.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) source: PathBuf,
    /// Name of a release's tag.
    #[arg(long, value_name = "PATTERN", default_value = "v{version}")]
    pub(crate) tag: String,
    /// Where it is remembered how far the log was read.
    #[arg(long, value_name = "FILE")]
    pub(crate) state: PathBuf,
    /// Where the first run begins: an entry's number, or `now`.
    #[arg(long, value_name = "N|now", default_value = "0", value_parser = place)]
    pub(crate) from: u64,
    /// Most entries of one run.
    #[arg(long, value_name = "N", default_value_t = 100_000,
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(crate) limit: u64,
    #[command(flatten)]
    pub(crate) alarm: release::monitor::watch::AlarmArguments,
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

fn origin(text: &str) -> Result<Origin, OriginError> {
    text.to_owned().try_into()
}

/// A number, or the end.
fn place(text: &str) -> Result<u64, std::num::ParseIntError> {
    match text {
        "now" => Ok(u64::MAX),
        number => number.parse(),
    }
}
