//! Whether what stands in a log of Rekor v2 in our name is ours.
//!
//! An entry holds a digest, a signature, and who signed: a certificate, or a key. What was signed
//! does not stand there. It is ours if it is the entry of a bundle that was published, whose
//! release has its tag; or, without the bundle, if its certificate names a tag and commit of our
//! sources.

use attest::release::envelope::PAYLOAD_TYPE;
use attest::release::{Statement, StatementError};
use attest::{Digest, Name};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use release::monitor::Tags;
use serde::Deserialize;
use sigstore_sign::crypto::{CertificateInfo, parse_certificate_info};
use sigstore_sign::types::{Bundle, DerCertificate, SignatureContent, pae};

/// What is in our name.
#[derive(Debug, Clone, Default)]
pub struct Ours {
    /// Beginnings of identities in certificates.
    pub identities: Vec<String>,
    /// Public keys (DER, SubjectPublicKeyInfo).
    pub keys: Vec<Vec<u8>>,
    /// What was published.
    pub published: Vec<Published>,
}

/// A release that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    digest: Digest<32>,
    name: Name,
    version: u64,
    revision: Name,
}

/// Why a file is no published release.
#[derive(Debug, thiserror::Error)]
pub enum PublishedError {
    /// Not a bundle.
    #[error("not a Sigstore bundle")]
    Bundle(#[source] sigstore_sign::types::Error),
    /// A bundle of a file.
    #[error("a bundle without a statement")]
    Message,
    /// Not a release of ours.
    #[error("not a release: {0}")]
    Statement(#[from] StatementError),
}

/// An entry in our name that has no right to be there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameFinding {
    /// Of a kind that is not known here, or not readable: nobody can say whose it is.
    #[error("an entry that cannot be read: whose it is cannot be said")]
    Unreadable,
    /// Neither a published bundle nor the certificate says what it was made of.
    #[error("by {signer}, of no published release, and its certificate names no source")]
    Unknown {
        /// In whose name.
        signer: String,
    },
    /// A tag that is not in our sources.
    #[error("by {signer}: there is no tag {tag}")]
    NoTag {
        /// In whose name.
        signer: String,
        /// The tag that it should have.
        tag: String,
    },
    /// The tag is another commit's.
    #[error("by {signer}: made of {found}, and the tag {tag} is {expected}")]
    OtherSource {
        /// In whose name.
        signer: String,
        /// Its tag.
        tag: String,
        /// Commit of the tag.
        expected: String,
        /// What it was made of.
        found: String,
    },
}

impl Published {
    /// The release in a bundle.
    pub fn parse(json: &str) -> Result<Self, PublishedError> {
        let bundle = Bundle::from_json(json).map_err(PublishedError::Bundle)?;
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(PublishedError::Message);
        };
        let payload = envelope.payload.as_bytes();
        let stated = Statement::decode(payload)?.predicate;
        Ok(Self {
            digest: Digest::sha256(&pae(PAYLOAD_TYPE, payload)),
            name: stated.name,
            version: stated.version,
            revision: stated.source_revision,
        })
    }
}

/// Who signed an entry.
enum Signer {
    Certificate(Vec<u8>),
    Key(Vec<u8>),
}

/// What an entry says.
struct Entry {
    digest: Option<Digest<32>>,
    signers: Vec<Signer>,
}

/// What is wrong with an entry, if it is in our name. `tag` is the name of a release's tag with
/// `{name}` and `{version}` in it.
pub fn judge(entry: &[u8], ours: &Ours, tags: &Tags, tag: &str) -> Option<NameFinding> {
    let Some(entry) = Entry::parse(entry) else {
        return Some(NameFinding::Unreadable);
    };
    let findings = entry.signers.iter().map(|signer| {
        let (name, claims) = match ours.own(signer)? {
            Own::Unreadable => return Some(NameFinding::Unreadable),
            Own::Key(name) => (name, None),
            Own::Certificate(name, info) => (name, Some(info)),
        };
        let known = ours
            .published
            .iter()
            .find(|one| Some(one.digest) == entry.digest);
        match (known, claims) {
            (Some(known), _) => {
                let tag = tag.replace("{name}", known.name.as_str());
                let tag = tag.replace("{version}", &known.version.to_string());
                check_tag(tags, name, tag, known.revision.as_str())
            }
            (None, Some(info)) => check_claims(tags, name, &info),
            (None, None) => Some(NameFinding::Unknown { signer: name }),
        }
    });
    findings.flatten().next()
}

/// Whose name a signer bears, if it is ours.
enum Own {
    Unreadable,
    Key(String),
    Certificate(String, Box<CertificateInfo>),
}

impl Ours {
    fn own(&self, signer: &Signer) -> Option<Own> {
        let certificate = match signer {
            Signer::Key(key) => return self.own_key(key),
            Signer::Certificate(certificate) => certificate,
        };
        let Ok(info) = parse_certificate_info(&DerCertificate::from_bytes(certificate)) else {
            // Names stand in it as they are.
            let holds = |name: &String| {
                let mut windows = certificate.windows(name.len().max(1));
                windows.any(|window| window == name.as_bytes())
            };
            return self.identities.iter().any(holds).then_some(Own::Unreadable);
        };
        let name = info.identity.as_ref().map_or("", |name| name.as_str());
        let ours = self.identities.iter().any(|own| name.starts_with(own));
        match ours {
            true => Some(Own::Certificate(name.to_owned(), Box::new(info))),
            false => self.own_key(info.public_key.as_bytes()),
        }
    }

    fn own_key(&self, key: &[u8]) -> Option<Own> {
        let ours = self.keys.iter().any(|own| own == key);
        ours.then(|| Own::Key(format!("the key sha256:{}", Digest::<32>::sha256(key))))
    }
}

fn check_claims(tags: &Tags, signer: String, info: &CertificateInfo) -> Option<NameFinding> {
    let claims = &info.ci_claims;
    let (name, commit) = (
        &claims.source_repository_ref,
        &claims.source_repository_digest,
    );
    match (name, commit) {
        (Some(name), Some(commit)) => {
            let tag = name.strip_prefix("refs/tags/").unwrap_or(name);
            check_tag(tags, signer, tag.to_owned(), commit)
        }
        _ => Some(NameFinding::Unknown { signer }),
    }
}

fn check_tag(tags: &Tags, signer: String, tag: String, found: &str) -> Option<NameFinding> {
    match tags.get(&tag) {
        None => Some(NameFinding::NoTag { signer, tag }),
        Some(commit) if commit == found => None,
        Some(commit) => Some(NameFinding::OtherSource {
            signer,
            tag,
            expected: commit.clone(),
            found: found.to_owned(),
        }),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Form {
    api_version: String,
    kind: String,
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "hashedRekordV002")]
    hashed: Option<Hashed>,
    #[serde(rename = "dsseV002")]
    dsse: Option<Dsse>,
}

#[derive(Deserialize)]
struct Hashed {
    data: Data,
    signature: Signature,
}

#[derive(Deserialize)]
struct Data {
    digest: String,
}

#[derive(Deserialize)]
struct Dsse {
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    verifier: Verifier,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Verifier {
    public_key: Option<Raw>,
    x509_certificate: Option<Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    raw_bytes: String,
}

impl Entry {
    /// An entry of Rekor v2: `hashedrekord` or `dsse` 0.0.2, as canonical JSON.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let form: Form = serde_json::from_slice(bytes).ok()?;
        if form.api_version != "0.0.2" {
            return None;
        }
        let (digest, signatures) = match (form.kind.as_str(), form.spec.hashed, form.spec.dsse) {
            ("hashedrekord", Some(hashed), None) => {
                let digest = STANDARD.decode(hashed.data.digest).ok()?;
                // Another hash is of nothing that was published.
                let digest = digest.try_into().ok().map(Digest);
                (digest, vec![hashed.signature])
            }
            // Its digest is of the payload alone: no bundle of ours is logged so.
            ("dsse", None, Some(dsse)) => (None, dsse.signatures),
            _ => return None,
        };
        let signers: Option<Vec<_>> = signatures.into_iter().map(signer).collect();
        Some(Self {
            digest,
            signers: signers.filter(|signers| !signers.is_empty())?,
        })
    }
}

fn signer(signature: Signature) -> Option<Signer> {
    let Verifier {
        public_key,
        x509_certificate,
    } = signature.verifier;
    let decode = |raw: Raw| STANDARD.decode(raw.raw_bytes).ok();
    match (public_key, x509_certificate) {
        (Some(key), None) => decode(key).map(Signer::Key),
        (None, Some(certificate)) => decode(certificate).map(Signer::Certificate),
        _ => None,
    }
}
