//! Does what was asked.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloister_sigstore::{EMBEDDED_ROOT, TrustRoot};
use publish::{
    Identity, KeyError, LogVersion, Patience, Publisher, Service, Services, SignError, read_key,
    tuf,
};
use sigstore_sign::oidc::{DefaultAuthCallback, IdentityToken, OAuthClient, OAuthConfig};
use sigstore_sign::trust_root::SigstoreInstance;
use sigstore_sign::{SigningContext, SigningServices};

use crate::arguments::{
    Command, IdentityArguments, PatienceArguments, RefreshArguments, ServiceArguments,
    SignArguments, SignBundleArguments,
};

/// Wrong arguments, or input that cannot be used.
pub(crate) const MISUSE: u8 = 1;
const SIGNATURE: u8 = 2;
const COLLATERAL: u8 = 3;
const LOG: u8 = 5;

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
            E::Key(_) | E::Unverifiable(_) => SIGNATURE,
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

pub(crate) async fn run(command: &Command) -> Result<Facts, Failure> {
    publish::install_tls();
    match command {
        Command::Sign(arguments) => sign(arguments).await,
        Command::Refresh(arguments) => refresh(arguments).await,
        Command::SignBundle(arguments) => sign_bundle(arguments).await,
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
    if let Some(path) = &arguments.key {
        return Ok(Identity::Key(read_key(path)?));
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
    let mut bytes = Vec::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_INPUT_BYTES + 1).read_to_end(&mut bytes))
        .and_then(|count| match count as u64 > MAX_INPUT_BYTES {
            true => Err(io::ErrorKind::FileTooLarge.into()),
            false => Ok(()),
        });
    match read {
        Ok(()) => Ok(bytes),
        Err(error) => Err(access(path, error)),
    }
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
