//! Does what was asked.

mod logs;
mod rekor;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_sigstore::{EMBEDDED_ROOT, TrustRoot};
use publish::{
    Identity, KeyError, KeyUri, LogVersion, ModuleError, ModuleKey, ModuleKeyKind, PIN_VARIABLE,
    Patience, Publisher, Service, Services, SignError, read_key, tuf,
};
use release::log::Stated;
use serde_json::{Map, Value};
use sigstore_sign::oidc::{DefaultAuthCallback, IdentityToken, OAuthClient, OAuthConfig};
use sigstore_sign::trust_root::SigstoreInstance;
use sigstore_sign::{SigningContext, SigningServices};
use zeroize::Zeroizing;

use crate::arguments::{
    Command, EnvelopeArguments, IdentityArguments, PatienceArguments, RefreshArguments,
    ServiceArguments, SignArguments, SignBundleArguments,
};

/// Wrong arguments, or input that cannot be used.
pub(crate) const MISUSE: u8 = 1;
const SIGNATURE: u8 = 2;
pub(crate) const COLLATERAL: u8 = 3;
pub(crate) const LOG: u8 = 5;

/// Longest file that is read.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// Why it was not done.
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) what: String,
    pub(crate) error: Box<dyn Error>,
    pub(crate) hint: &'static str,
}

impl Failure {
    pub(crate) fn input(
        what: impl Into<String>,
        error: impl Error + 'static,
        hint: &'static str,
    ) -> Self {
        Self {
            code: MISUSE,
            what: what.into(),
            error: Box::new(error),
            hint,
        }
    }
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        use SignError as E;
        let code = match &error {
            E::NotLogged { .. } | E::LoggedBefore => LOG,
            E::Certificate { .. } | E::Timestamp { .. } => COLLATERAL,
            E::Key(_) | E::Module(_) | E::Unverifiable(_) => SIGNATURE,
            _ => MISUSE,
        };
        Self {
            code,
            what: String::new(),
            hint: error.hint(),
            error: Box::new(error),
        }
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let hint = match &error {
            KeyError::Permissions { .. } => "chmod 600 the key file, and ask who has read it",
            KeyError::Format(_) => "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256",
            KeyError::Access { .. } => "",
        };
        Self::input("", error, hint)
    }
}

type Facts = Vec<(&'static str, String)>;

/// What came of it, for people and for machines.
pub(crate) struct Report {
    pub(crate) code: u8,
    pub(crate) text: String,
    pub(crate) json: Value,
}

impl From<Facts> for Report {
    fn from(facts: Facts) -> Self {
        let width = facts.iter().map(|(name, _)| name.len()).max();
        let width = width.unwrap_or_default();
        let lines = facts
            .iter()
            .map(|(name, value)| format!("{name:<width$}  {value}\n"));
        let object: Map<_, _> = facts
            .iter()
            .map(|(name, value)| (name.replace(' ', "_"), value.as_str().into()))
            .collect();
        Self {
            code: 0,
            text: lines.collect(),
            json: object.into(),
        }
    }
}

pub(crate) async fn run(command: &Command) -> Result<Report, Failure> {
    publish::install_tls();
    match command {
        Command::Sign(arguments) => Ok(sign(arguments).await?.into()),
        Command::Envelope(arguments) => Ok(envelope(arguments)?.into()),
        Command::Refresh(arguments) => Ok(refresh(arguments).await?.into()),
        Command::SignBundle(arguments) => Ok(sign_bundle(arguments).await?.into()),
        Command::Collect(arguments) => logs::collect(arguments).await,
        Command::Monitor(arguments) => logs::monitor(arguments).await,
        Command::MonitorRekor(arguments) => rekor::monitor(arguments).await,
    }
}

async fn sign(arguments: &SignArguments) -> Result<Facts, Failure> {
    let statement = read(&arguments.statement)?;
    let services = services(&arguments.services)?;
    let identity = identity(&arguments.identity, services.oidc.as_deref()).await?;
    let root = match &arguments.trusted_root {
        Some(path) => TrustRoot::parse(&read(path)?),
        None => TrustRoot::embedded(),
    };
    let root = root.map_err(|error| {
        let hint = "give a trusted_root.json, as `cloister-publish refresh` fetches it";
        Failure::input("", error, hint)
    })?;
    let publisher = Publisher::new(services, patience(&arguments.patience))?;
    let published = publisher.publish(&statement, &identity, &root).await?;
    write(&arguments.output, &published.bundle)?;
    let verified = published.release.verified();
    let stated = &published.release.statement().predicate;
    let mut facts = vec![
        ("bundle", arguments.output.display().to_string()),
        (
            "release",
            format!("{} version {}", stated.name, stated.version),
        ),
        ("signed by", verified.signer().to_owned()),
    ];
    if let Some(issuer) = verified.issuer() {
        facts.push(("vouched for by", issuer.to_owned()));
    }
    facts.push((
        "logged",
        format!("entry {} in {}", verified.index(), verified.log()),
    ));
    let trust = arguments.trusted_root.as_ref();
    let trust = trust.map_or(EMBEDDED_ROOT.to_owned(), |path| path.display().to_string());
    facts.push(("verified against", trust));
    Ok(facts)
}

fn services(arguments: &ServiceArguments) -> Result<Services, Failure> {
    let version = arguments.rekor_version.map(|version| match version {
        1 => LogVersion::V1,
        _ => LogVersion::V2,
    });
    if let Some(path) = &arguments.signing_config {
        let json = text(path)?;
        return Ok(Services::from_config(&json, version)?);
    }
    match &arguments.rekor {
        None => Ok(Services::public_good(version)?),
        Some(rekor) => Ok(Services {
            fulcio: arguments.fulcio.clone(),
            rekor: rekor.clone(),
            rekor_version: version.unwrap_or(LogVersion::V2),
            tsa: arguments.tsa.clone(),
            oidc: arguments.oidc.clone(),
        }),
    }
}

async fn identity(arguments: &IdentityArguments, oidc: Option<&str>) -> Result<Identity, Failure> {
    if let Some(key) = &arguments.key {
        return match KeyUri::is_one(key) {
            true => Ok(Identity::Module(module_key(key)?)),
            false => Ok(Identity::Key(read_key(Path::new(key))?)),
        };
    }
    let token = if let Some(path) = &arguments.identity_token {
        IdentityToken::from_jwt(text(path)?.trim()).map_err(SignError::Token)?
    } else if arguments.ambient {
        let found = IdentityToken::detect_ambient().await;
        found.map_err(SignError::Token)?.ok_or(SignError::NoToken)?
    } else {
        let url = oidc.ok_or(SignError::NoService(Service::SignIn))?;
        let client = OAuthClient::new(OAuthConfig::dex(url)).map_err(SignError::Token)?;
        let token = client.authenticate(DefaultAuthCallback).await;
        token.map_err(SignError::Token)?
    };
    Ok(Identity::Token(Box::new(token)))
}

/// A key in a module, by its URI; the PIN is of the URI's file, or of the environment.
fn module_key(uri: &str) -> Result<ModuleKey, Failure> {
    let uri: KeyUri = uri.parse().map_err(|error| {
        let hint = "pkcs11:token=NAME;object=NAME?module-path=/PATH.so&pin-source=file:/PATH";
        Failure::input("the key", error, hint)
    })?;
    let pin = std::env::var(PIN_VARIABLE).ok().map(Zeroizing::new);
    Ok(ModuleKey::open(&uri, pin).map_err(SignError::from)?)
}

/// Signs for a log of our own, with an Ed25519 key in a module.
fn envelope(arguments: &EnvelopeArguments) -> Result<Facts, Failure> {
    let statement = read(&arguments.statement)?;
    Stated::decode(&statement).map_err(|error| {
        let hint =
            "give a file that `cloister-release statement`, `status` or `attest-rebuild` wrote";
        Failure::input(arguments.statement.display().to_string(), error, hint)
    })?;
    let key = module_key(&arguments.key)?;
    let point = key.public_point().try_into().ok();
    let public = point.and_then(|point| attest::release::PublicKey::from_bytes(point).ok());
    let public = public
        .filter(|_| key.kind() == ModuleKeyKind::Ed25519)
        .ok_or_else(|| {
            let hint = "envelopes of a log of one's own are signed by Ed25519; a P-256 key signs \
                        for Sigstore";
            Failure::input("the key", ModuleError::Kind, hint)
        })?;
    let signed = release::statement::sign_with(&statement, public, |message| key.sign(message));
    let signed = signed.map_err(SignError::from)?;
    write(&arguments.output, &signed.encode())?;
    Ok(vec![
        ("envelope", arguments.output.display().to_string()),
        ("signed by", public.to_string()),
    ])
}

async fn refresh(arguments: &RefreshArguments) -> Result<Facts, Failure> {
    let (url, root) = match (&arguments.tuf_url, &arguments.tuf_root) {
        (Some(url), Some(path)) => (url.as_str(), read(path)?),
        _ => (tuf::PUBLIC_GOOD, tuf::PUBLIC_GOOD_ROOT.to_vec()),
    };
    let patience = patience(&arguments.patience);
    let fetched = tuf::refresh(url, &root, patience).await.map_err(|error| {
        let mut failure = Failure::input(
            "",
            error,
            "what is there stays as it was: try again later, or give another repository",
        );
        failure.code = COLLATERAL;
        failure
    })?;
    TrustRoot::parse(&fetched.trusted_root).map_err(|error| Failure::input("", error, ""))?;
    let path = arguments.output.join("trusted_root.json");
    write(&path, &fetched.trusted_root)?;
    let mut facts = vec![("trusted root", path.display().to_string())];
    if let Some(config) = &fetched.signing_config {
        let path = arguments.output.join("signing_config.json");
        write(&path, config)?;
        facts.push(("signing configuration", path.display().to_string()));
    }
    Ok(facts)
}

/// The suite checks what this writes.
async fn sign_bundle(arguments: &SignBundleArguments) -> Result<Facts, Failure> {
    cloister_sigstore::install();
    let services = match (&arguments.signing_config, arguments.staging) {
        (Some(path), _) => {
            let json = text(path)?;
            sigstore_sign::trust_root::SigningConfig::from_json(&json)
                .map_err(sigstore_sign::Error::from)
                .and_then(|config| SigningServices::from_signing_config(&config))
        }
        (None, true) => SigningServices::from_embedded(SigstoreInstance::Staging),
        (None, false) => SigningServices::from_embedded(SigstoreInstance::PublicGood),
    };
    let services = services.map_err(|error| SignError::Services(Box::new(error)))?;
    let token = IdentityToken::from_jwt(&arguments.identity_token).map_err(SignError::Token)?;
    let signer = SigningContext::new(services)
        .with_http_client(
            publish::http_client(Patience::default().timeout).map_err(SignError::Http)?,
        )
        .signer(token);
    let artifact = read(&arguments.artifact)?;
    let bundle = match arguments.in_toto {
        true => signer.sign_raw_statement(&artifact).await,
        false => signer.sign(artifact.as_slice()).await,
    };
    let bundle = bundle.map_err(|error| SignError::Services(Box::new(error)))?;
    let json = bundle.to_json().map_err(SignError::Encode)?;
    write(&arguments.bundle, json.as_bytes())?;
    Ok(vec![("bundle", arguments.bundle.display().to_string())])
}

fn patience(arguments: &PatienceArguments) -> Patience {
    Patience {
        attempts: arguments.attempts,
        timeout: Duration::from_secs(arguments.timeout_s),
        ..Patience::default()
    }
}

fn text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?)
        .map_err(|error| Failure::input(path.display().to_string(), error, "give a text file"))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    release::files::read_bounded(path, MAX_INPUT_BYTES).map_err(|error| access(path, error))
}

/// Whole or not at all: beside its place first, then moved there.
fn write(path: &Path, contents: &[u8]) -> Result<(), Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let written = File::create(&beside)
        .and_then(|mut file| file.write_all(contents).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        // The first error is the one to tell.
        let _ = fs::remove_file(&beside);
        access(path, error)
    })
}

fn access(path: &Path, error: io::Error) -> Failure {
    let hint = "check the path, and that it is yours to read or write";
    Failure::input(path.display().to_string(), error, hint)
}
