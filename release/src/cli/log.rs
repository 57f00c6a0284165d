//! `log`: the append-only log of releases in a folder.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use attest::release::checkpoint::OriginError;
use attest::release::{Envelope, Origin, PublicKey, PublicKeyError, Witness};
use clap::{Args, Subcommand};
use release::key::SigningKey;
use release::log::witness::service::{Service, Watched};
use release::log::{Accepted, HISTORY_ENTRIES, Log, Stated};

use super::commands::{now, read, write};
use super::failure::Failure;
use super::report::Report;
use super::sigstore::{Forwarded, hand_over};

type Outcome = Result<Report, Failure>;

#[derive(Debug, Subcommand)]
pub(super) enum LogCommand {
    /// Begin a log.
    Create(CreateArguments),
    /// Append a signed statement; for a release, write the bundle that proves it.
    Append(AppendArguments),
    /// Write a release's bundle anew: with the log's present checkpoint, and what was said since.
    Bundle(BundleArguments),
    /// List the entries, after checking all of them.
    Show(ReadArguments),
    /// Print the signed checkpoint, after checking the log against it.
    Checkpoint(ReadArguments),
    /// Sign the checkpoint as a witness, if it continues the one that was signed last.
    Cosign(CosignArguments),
    /// Have witnesses elsewhere sign the checkpoint (C2SP tlog-witness).
    #[command(disable_help_flag = true)]
    Collect(Forwarded),
    /// Be a witness for others (C2SP tlog-witness).
    Witness(WitnessArguments),
    /// Serve the log's files over HTTP, for those who watch it.
    Serve(ServeArguments),
}

/// Which log.
#[derive(Debug, Args)]
pub(super) struct LogArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR")]
    pub(super) log: Folder,
    /// Name of the log.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    pub(super) origin: Origin,
}

/// A log, and the key that it is checked by.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log show|checkpoint --log releases --origin log.example.org/cloister \\
      --log-key ed25519:BASE64")]
pub(super) struct ReadArguments {
    #[command(flatten)]
    pub(super) log: LogArguments,
    /// Public key of the log.
    #[arg(long, value_name = "KEY")]
    pub(super) log_key: PublicKey,
}

/// A log, and the key that signs its checkpoints.
#[derive(Debug, Args)]
pub(super) struct WriteArguments {
    #[command(flatten)]
    log: LogArguments,
    /// The log's key file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log create --log releases --origin log.example.org/cloister --key log.pem")]
pub(super) struct CreateArguments {
    #[command(flatten)]
    to: WriteArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log append --log releases --origin log.example.org/cloister --key log.pem \\
      --signer ed25519:BASE64 --envelope envelope.json --output bundle.json

A log cannot forget: it takes releases and statuses of the keys that --signer names, rebuilds of
those that --rebuilder names, and nothing else. Appending the same envelope again changes nothing
and writes its bundle anew.")]
pub(super) struct AppendArguments {
    #[command(flatten)]
    to: WriteArguments,
    /// Signed statement.
    #[arg(long, value_name = "FILE")]
    envelope: PathBuf,
    /// Whose releases and statuses are taken; may be repeated.
    #[arg(
        long = "signer",
        value_name = "KEY",
        required_unless_present = "rebuilders"
    )]
    signers: Vec<PublicKey>,
    /// Whose rebuilds are taken; may be repeated.
    #[arg(long = "rebuilder", value_name = "KEY")]
    rebuilders: Vec<PublicKey>,
    /// Bundle to write, if it is a release.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log bundle --log releases --origin log.example.org/cloister \\
      --log-key ed25519:BASE64 --index 4 --output bundle.json

The bundle brings the last status of the release, every rebuild of it that gave the same artifacts,
and the signatures of witnesses.")]
pub(super) struct BundleArguments {
    #[command(flatten)]
    from: ReadArguments,
    /// Place of the release in the log.
    #[arg(long, value_name = "N")]
    index: u64,
    /// How many of the last entries the history lists: a client that saw the log before cannot
    /// follow.
    #[arg(long, value_name = "N", default_value_t = HISTORY_ENTRIES)]
    history: usize,
    /// Bundle to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log cosign --log releases --origin log.example.org/cloister \\
      --log-key ed25519:BASE64 --name witness.example.org/w --key witness.pem \
      --memory witness.note --first

The memory holds the checkpoint that was signed last. A witness without it would sign a log with two
faces: it is made with --first, and never by itself again.")]
pub(super) struct CosignArguments {
    #[command(flatten)]
    from: ReadArguments,
    /// Name of the witness.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    name: Origin,
    /// The witness's key file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Where the witness remembers what it signed.
    #[arg(long, value_name = "FILE")]
    memory: PathBuf,
    /// This witness has never signed this log: there is no memory yet.
    #[arg(long)]
    first: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log serve --log releases --listen 127.0.0.1:8090

Only the checkpoint and the tiles are served. Any other web server does it as well.")]
pub(super) struct ServeArguments {
    /// The log's folder.
    #[arg(long, value_name = "DIR")]
    log: Folder,
    /// Address and port to listen at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090")]
    listen: std::net::SocketAddr,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release log witness --name witness.example.org/w --key witness.pem --state state \\
      --watch log.example.org/cloister=ed25519:BASE64 --listen 127.0.0.1:8091 --first

Answers POST /add-checkpoint. It signs a checkpoint only if it continues the one that it signed
last, and remembers that in --state before it answers. Keep the state as long as the key: a witness
that forgets what it signed signs a log with two faces. A witness whose state is lost takes a new
key. TLS, and a limit on how often one may ask, are for the web server before it.")]
pub(super) struct WitnessArguments {
    /// Name of the witness.
    #[arg(long, value_name = "NAME", value_parser = origin)]
    name: Origin,
    /// The witness's key file.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Folder where the witness remembers what it signed.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// This witness has never signed anything: there is no state yet.
    #[arg(long)]
    first: bool,
    /// A log that is watched, and its key; may be repeated.
    #[arg(long, value_name = "NAME=KEY", required = true, value_parser = watched)]
    watch: Vec<Watched>,
    /// Address and port to listen at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091")]
    listen: std::net::SocketAddr,
}

/// A folder, with or without `file:` before it.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Folder {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.strip_prefix("file:").unwrap_or(text).into()))
    }
}

impl ReadArguments {
    pub(super) fn open(&self) -> Result<Log, Failure> {
        let LogArguments { log, origin } = &self.log;
        Ok(Log::open(log.path(), origin, &self.log_key)?)
    }
}

pub(super) fn run(command: &LogCommand, json: bool) -> Outcome {
    match command {
        LogCommand::Create(arguments) => create(arguments),
        LogCommand::Append(arguments) => append(arguments),
        LogCommand::Bundle(arguments) => bundle(arguments),
        LogCommand::Show(arguments) => Ok(Report::log(&arguments.open()?)),
        LogCommand::Checkpoint(arguments) => {
            let log = arguments.open()?;
            Ok(Report::note("checkpoint", log.checkpoint_note()))
        }
        LogCommand::Cosign(arguments) => cosign(arguments),
        LogCommand::Collect(forwarded) => Err(hand_over("collect", forwarded, json)),
        LogCommand::Witness(arguments) => witness(arguments),
        LogCommand::Serve(arguments) => {
            release::log::serve::run(arguments.log.path(), arguments.listen, |address| {
                eprintln!(
                    "serving {} at http://{address}/",
                    arguments.log.path().display()
                );
            })?;
            Ok(Report::facts(&[]))
        }
    }
}

fn create(arguments: &CreateArguments) -> Outcome {
    let WriteArguments { log, key } = &arguments.to;
    let key = SigningKey::read(key)?;
    let log = Log::create(log.log.path(), &log.origin, &key)?;
    Ok(Report::log(&log))
}

fn append(arguments: &AppendArguments) -> Outcome {
    let WriteArguments { log: to, key } = &arguments.to;
    let key = SigningKey::read(key)?;
    let bytes = read(&arguments.envelope)?;
    let envelope: Envelope = serde_json::from_slice(&bytes).map_err(|error| {
        let hint = "give an envelope that `cloister-release sign` wrote";
        Failure::input(&arguments.envelope, &error, hint)
    })?;
    if let Some(folder) = arguments.output.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        // Before anything is logged: a log cannot forget.
        let error = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(Failure::input(
            folder,
            &error,
            "make the folder of --output first",
        ));
    }
    let accepted = Accepted {
        signers: &arguments.signers,
        rebuilders: &arguments.rebuilders,
    };
    let (log, index) = Log::append(to.log.path(), &to.origin, &key, &envelope, accepted)?;
    let mut facts = vec![
        ("entry", format!("{index} of {}", log.checkpoint().size)),
        ("log", to.origin.to_string()),
        ("root", log.checkpoint().root.to_string()),
    ];
    let release = matches!(Stated::decode(&envelope.payload), Ok(Stated::Release(_)));
    match (&arguments.output, release) {
        (Some(output), true) => {
            write(output, &log.bundle(index, HISTORY_ENTRIES)?.encode())?;
            facts.insert(0, ("bundle", output.display().to_string()));
        }
        (None, true) => facts.push(("next", "write its bundle: log bundle".to_owned())),
        _ => facts.push((
            "next",
            "write the release's bundle anew: log bundle".to_owned(),
        )),
    }
    Ok(Report::facts(&facts))
}

fn bundle(arguments: &BundleArguments) -> Outcome {
    let log = arguments.from.open()?;
    let bundle = log.bundle(arguments.index, arguments.history)?;
    write(&arguments.output, &bundle.encode())?;
    Ok(Report::facts(&[
        ("bundle", arguments.output.display().to_string()),
        (
            "entry",
            format!("{} of {}", arguments.index, log.checkpoint().size),
        ),
        ("remarks", bundle.remarks.len().to_string()),
        (
            "history",
            format!("from entry {}", bundle.log.history.from()),
        ),
    ]))
}

fn cosign(arguments: &CosignArguments) -> Outcome {
    let LogArguments {
        log: folder,
        origin,
    } = &arguments.from.log;
    let key = SigningKey::read(&arguments.key)?;
    let (memory, log_key) = (&arguments.memory, &arguments.from.log_key);
    if key.public() == *log_key {
        return Err(release::log::witness::WitnessError::Own.into());
    }
    let lock = release::log::witness::lock(memory)?;
    let log = arguments.from.open()?;
    release::log::witness::check(memory, arguments.first, &log, (origin, log_key))?;
    let witness = Witness {
        name: arguments.name.clone(),
        key: key.public(),
    };
    let time = now();
    let message = Witness::message(log.checkpoint(), time);
    let line = witness.line(time, &key.sign(message.as_bytes()));
    // The memory first: who forgets what it signed signs twice.
    write(memory, log.checkpoint_note().as_bytes())?;
    drop(lock);
    let signed = log.checkpoint();
    Log::add_cosignature(folder.path(), origin, log_key, signed, &line)?;
    Ok(Report::facts(&[
        ("witness", arguments.name.to_string()),
        ("public key", key.public().to_string()),
        ("log", origin.to_string()),
        ("size", signed.size.to_string()),
        ("root", signed.root.to_string()),
    ]))
}

fn witness(arguments: &WitnessArguments) -> Outcome {
    let key = SigningKey::read(&arguments.key)?;
    let (name, logs) = (&arguments.name, arguments.watch.clone());
    let service = Service::open(name, key, logs, &arguments.state, arguments.first)?;
    let (name, key) = (name.clone(), service.witness().key);
    release::log::witness::serve::run(service, arguments.listen, |address| {
        eprintln!("witness {name} ({key}) at http://{address}/");
    })?;
    Ok(Report::facts(&[]))
}

/// Why a text names no log to watch.
#[derive(Debug, thiserror::Error)]
enum WatchedError {
    #[error("give name and key, such as log.example.org/cloister=ed25519:BASE64")]
    Form,
    #[error(transparent)]
    Name(#[from] OriginError),
    #[error(transparent)]
    Key(#[from] PublicKeyError),
}

fn watched(text: &str) -> Result<Watched, WatchedError> {
    let place = text.find("=ed25519:").ok_or(WatchedError::Form)?;
    Ok(Watched {
        origin: origin(&text[..place])?,
        key: text[place + 1..].parse()?,
    })
}

fn origin(text: &str) -> Result<Origin, OriginError> {
    text.to_owned().try_into()
}
