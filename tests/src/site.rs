//! What an operator makes of an image and a model, ready to boot, and what a client needs to
//! check it: pack, assemble, sign, log, attach.
//!
//! ```text
//! FOLDER/model.img              the model's volume
//! FOLDER/assembled/             UKI, disk and what they were made of
//! FOLDER/release.json           the bundle that is attached to the disk
//! FOLDER/keys/, FOLDER/log/     made once, kept from run to run: the log in tiles
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use attest::release::statement::ClientVersion;
use attest::release::{Envelope, Origin, PublicKey};
use attest::{Name, Text};
use inference::{Engine, EngineLimits};
use release::key::SigningKey;
use release::log::{Accepted, HISTORY_ENTRIES, Log, LogError};
use release::measure::Measurement;
use release::{assemble, disk, files, statement};
use verity::VolumeRef;
use verity::pack::{self, ModelFolder};

use crate::failure::{Failure, Outcome, Step};

/// Name of the releases that the demo and the tests make.
pub const RELEASE_NAME: &str = "cloister-demo";
/// Name of their log.
pub const LOG_ORIGIN: &str = "cloister.example/demo-log";
/// When they are said to be made: the same each time, so that an unchanged release is known again.
const ISSUED: u64 = 1_790_000_000;
/// Port in the machine.
pub const GUEST_PORT: u16 = 8080;

/// What a site is made of.
#[derive(Debug, Clone, Copy)]
pub struct Ingredients<'a> {
    /// Folder that `image/build.sh` filled.
    pub image: &'a Path,
    /// Model in Hugging Face format.
    pub model: &'a Path,
    /// The lock that the image was built from.
    pub lock: &'a Path,
    /// Revision of the sources.
    pub source_revision: &'a str,
}

/// A site on disk.
#[derive(Debug)]
pub struct Site {
    folder: PathBuf,
    profile: Name,
    signer: PublicKey,
    log_key: PublicKey,
    version: u64,
    measurement: Measurement,
}

impl Site {
    /// Makes the site in `folder`, or brings it up to date. A new version is logged only if
    /// something changed.
    pub fn make(folder: &Path, from: &Ingredients<'_>) -> Outcome<Self> {
        fs::create_dir_all(folder.join("keys"))
            .step(format!("cannot make {}", folder.display()))?;
        let volume = pack_model(from.model, &folder.join("model.img"))?;
        let configuration = configuration(&volume, context_tokens(from.model)?);
        let site_toml = folder.join("site.toml");
        files::write_whole(&site_toml, configuration.as_bytes()).step("cannot write site.toml")?;
        let assembled = folder.join("assembled");
        let measurement =
            assemble::assemble(from.image, &site_toml, &assembled).step("cannot assemble")?;
        let mut site = Self {
            folder: folder.to_owned(),
            profile: statement::profile(from.image).step("cannot use the image")?,
            signer: key(&folder.join("keys/release.pem"))?.public(),
            log_key: key(&folder.join("keys/log.pem"))?.public(),
            version: 0,
            measurement,
        };
        site.version = site.release(from)?;
        Ok(site)
    }

    /// The bundle of the same artifacts under another version, in the same log.
    pub fn sign_version(&self, from: &Ingredients<'_>, version: u64) -> Outcome<Vec<u8>> {
        let envelope = self.envelope(from, version)?;
        let log_key = key(&self.folder.join("keys/log.pem"))?;
        let accepted = Accepted {
            signers: &[self.signer],
            rebuilders: &[],
        };
        let folder = self.folder.join("log");
        let (log, index) = Log::append(&folder, &origin(), &log_key, &envelope, accepted)
            .step("cannot log the release")?;
        let bundle = log.bundle(index, HISTORY_ENTRIES);
        Ok(bundle.step("cannot prove the release")?.encode())
    }

    fn envelope(&self, from: &Ingredients<'_>, version: u64) -> Outcome<Envelope> {
        let made = statement::make(&statement::Release {
            name: &name(RELEASE_NAME)?,
            version,
            assembled: &self.assembled(),
            image: from.image,
            lock: from.lock,
            source_revision: &name(from.source_revision)?,
            issued: ISSUED,
            builder: &text("the demo")?,
            minimum_client: ClientVersion::own(),
            revocations: &[],
            snp: None,
            tdx: None,
        })
        .step("cannot state the release")?;
        Ok(statement::sign(
            &made.encode(),
            &key(&self.folder.join("keys/release.pem"))?,
        ))
    }

    /// States, signs and logs what was assembled, and attaches the bundle to the disk.
    fn release(&self, from: &Ingredients<'_>) -> Outcome<u64> {
        let origin = origin();
        let log_key = key(&self.folder.join("keys/log.pem"))?;
        let path = self.folder.join("log");
        let log = match Log::open(&path, &origin, &log_key.public()) {
            Err(LogError::Missing(_) | LogError::NoCheckpoint(_)) => {
                Log::create(&path, &origin, &log_key)
            }
            opened => opened,
        }
        .step("cannot open the log")?;
        let last = log
            .highest_version(RELEASE_NAME, self.profile.as_str())
            .unwrap_or(0);
        // Ed25519 signs the same bytes the same way: an unchanged release is found in the log.
        let unchanged = match last {
            0 => false,
            last => log.entries().contains(&self.envelope(from, last)?.encode()),
        };
        let version = if unchanged { last } else { last + 1 };
        let bundle = self.sign_version(from, version)?;
        files::write_whole(&self.bundle(), &bundle).step("cannot write the bundle")?;
        disk::attach(&self.disk(), &bundle).step("cannot attach the bundle")?;
        Ok(version)
    }

    /// The disk to boot from.
    pub fn disk(&self) -> PathBuf {
        self.assembled().join("disk.img")
    }

    /// The UKI and what it was made of.
    pub fn assembled(&self) -> PathBuf {
        self.folder.join("assembled")
    }

    /// The disk that holds the model.
    pub fn model_disk(&self) -> PathBuf {
        self.folder.join("model.img")
    }

    /// The signed and logged release.
    pub fn bundle(&self) -> PathBuf {
        self.folder.join("release.json")
    }

    /// The release's version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What a boot will be measured as.
    pub fn measurement(&self) -> &Measurement {
        &self.measurement
    }

    /// A policy that accepts this site's releases on TPMs that `authority` (PEM) certifies.
    pub fn policy(&self, authority: &str) -> String {
        format!(
            r#"version = 2

[release]
name = "{RELEASE_NAME}"
profile = "{}"
signers = ["{}"]
log_origin = "{LOG_ORIGIN}"
log_key = "{}"
minimum_version = 1
maximum_age_days = "any" # the demo's release says no true time
minimum_witnesses = 0    # nobody watches a log that was made here
witnesses = []
minimum_rebuilders = 0
rebuilders = []

[tpm]
roots = ["""
{}
"""]
secure_boot = "not-required" # the demo's firmware has no keys enrolled

[evidence]
platforms = ["tpm"]

[channel]
assurance = "per-handshake"
reattest_seconds = 600
"#,
            self.profile,
            self.signer,
            self.log_key,
            authority.trim(),
        )
    }
}

/// Refuses a model that the agent of a site would refuse in the machine.
pub fn check_model(model: &Path) -> Outcome<()> {
    let context = context_tokens(model)?;
    let limits = EngineLimits {
        context_tokens: context,
        max_new_tokens: new_tokens(context),
        ..EngineLimits::default()
    };
    match Engine::open(model, limits) {
        Ok(engine) if engine.info().has_chat_template => Ok(()),
        Ok(_) => Err(unusable(model, "it has no chat template")),
        Err(error) => Err(unusable(model, &error.to_string())),
    }
}

fn unusable(model: &Path, cause: &str) -> Failure {
    Failure::new(format!(
        "{} cannot be served: {cause}; give a folder in Hugging Face format with config.json \
         of a known architecture, safetensors, tokenizer.json and a chat template",
        model.display()
    ))
}

/// Packs a model's folder, and names the volume.
pub fn pack_model(model: &Path, output: &Path) -> Outcome<VolumeRef> {
    let folder = ModelFolder::open(model).step(format!(
        "{} is not a model that can be served",
        model.display()
    ))?;
    pack::pack(&folder, output, &|_| ()).step("cannot pack the model")
}

/// The configuration file of a site that serves `volume`.
pub fn configuration(volume: &VolumeRef, context_tokens: u32) -> String {
    format!(
        r#"version = 1

[model]
name = "{RELEASE_NAME}"
volume = "{volume}"

[limits]
context_tokens = {context_tokens}
max_sessions = 64
max_body_bytes = 1048576
max_new_tokens = {}

[server]
port = {GUEST_PORT}
"#,
        new_tokens(context_tokens)
    )
}

/// An answer may take half of the context.
fn new_tokens(context_tokens: u32) -> u32 {
    context_tokens / 2
}

/// What the model allows, but no more than the engine's cache holds for one answer.
fn context_tokens(model: &Path) -> Outcome<u32> {
    const CACHE_BYTES: u64 = 256 << 20;
    let path = model.join("config.json");
    let text =
        fs::read(&path).map_err(|error| unusable(model, &format!("config.json: {error}")))?;
    let config: serde_json::Value = serde_json::from_slice(&text)
        .map_err(|error| unusable(model, &format!("config.json: {error}")))?;
    let number = |key: &str| config[key].as_u64();
    let numbers = (
        number("max_position_embeddings"),
        number("num_hidden_layers"),
        number("hidden_size"),
    );
    let (Some(most), Some(layers), Some(hidden)) = numbers else {
        let cause = "max_position_embeddings, num_hidden_layers or hidden_size is missing";
        return Err(unusable(model, &format!("config.json: {cause}")));
    };
    let heads = number("num_attention_heads").unwrap_or(1).max(1);
    let kept = number("num_key_value_heads").unwrap_or(heads).min(heads);
    let head_dim = number("head_dim").unwrap_or(hidden / heads);
    // Key and value of each layer, in single precision.
    let token_bytes = [layers, kept, head_dim]
        .into_iter()
        .fold(8, u64::saturating_mul);
    let held = CACHE_BYTES / token_bytes.max(1);
    const MOST: u32 = 4096;
    Ok(u32::try_from(most.min(held))
        .unwrap_or(MOST)
        .clamp(16, MOST))
}

fn key(path: &Path) -> Outcome<SigningKey> {
    let key = if path.exists() {
        SigningKey::read(path)
    } else {
        SigningKey::create(path)
    };
    key.step(format!("cannot use the key {}", path.display()))
}

fn name(text: &str) -> Outcome<Name> {
    Name::try_from(text.to_owned()).step(format!("{text:?} cannot stand in a release"))
}

fn text(text: &str) -> Outcome<Text> {
    Text::try_from(text.to_owned()).step(format!("{text:?} cannot stand in a release"))
}

/// The log's name.
pub fn origin() -> Origin {
    Origin::try_from(LOG_ORIGIN.to_owned()).unwrap_or_else(|_| unreachable!("a constant"))
}
