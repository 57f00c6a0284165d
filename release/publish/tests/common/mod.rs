//! A log of Rekor's first interface on loopback, with a key of its own, and what can go wrong with
//! it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part"
)]

pub mod logs;
pub mod loopback;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use attest::Digest;
use attest::release::Statement;
use attest::release::statement::{Predicate, ReferenceValues, Subject, SubjectDigest};
use attest::release::statement::{Registers, TpmReferenceValues};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cloister_sigstore::TrustRoot;
use p256::ecdsa::signature::Signer as _;
use p256::pkcs8::EncodePublicKey as _;
use publish::{LogVersion, Patience, Services};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// What a service does with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// What it should.
    Well,
    /// Answers with this status.
    Status(u16),
    /// Takes the request, keeps silent for longer than anyone waits, then closes.
    Slow,
    /// Closes at once.
    Dead,
    /// Answers with what is no entry.
    Nonsense,
    /// Takes the entry, and the answer is lost on its way.
    Lost,
}

/// A service with a plan for each request; the last mood stays.
pub struct Fake {
    pub url: String,
    key: p256::ecdsa::SigningKey,
    asked: Arc<Mutex<u32>>,
}

/// Waits that a test can afford.
pub const PATIENCE: Patience = Patience {
    attempts: 3,
    pause: Duration::from_millis(5),
    timeout: Duration::from_millis(800),
};

impl Fake {
    pub fn start(moods: &[Mood]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let asked = Arc::new(Mutex::new(0));
        let mut moods: VecDeque<Mood> = moods.iter().copied().collect();
        let (signer, count) = (key.clone(), Arc::clone(&asked));
        // Ends with the test's process.
        thread::spawn(move || {
            let mut kept = None;
            for stream in listener.incoming() {
                let mood = match moods.len() {
                    1 => moods[0],
                    _ => moods.pop_front().unwrap(),
                };
                *count.lock().unwrap() += 1;
                answer(&mut stream.unwrap(), mood, &signer, &mut kept);
            }
        });
        Self { url, key, asked }
    }

    /// An address where nobody listens.
    pub fn nowhere() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    pub fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }

    /// This log alone, and no one else.
    pub fn services(&self) -> Services {
        Services {
            fulcio: None,
            rekor: self.url.clone(),
            rekor_version: LogVersion::V1,
            tsa: None,
            oidc: None,
        }
    }

    /// A trusted root that names this log.
    pub fn root(&self) -> TrustRoot {
        let spki = self.key.verifying_key().to_public_key_der().unwrap();
        let id = Sha256::digest(spki.as_bytes());
        let root = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [{
                "baseUrl": self.url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": {
                    "rawBytes": STANDARD.encode(spki.as_bytes()),
                    "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                    "validFor": { "start": "2020-01-01T00:00:00Z" },
                },
                "logId": { "keyId": STANDARD.encode(id) },
            }],
            "certificateAuthorities": [],
            "ctlogs": [],
            "timestampAuthorities": [],
        });
        TrustRoot::parse(root.to_string().as_bytes()).unwrap()
    }
}

fn answer(
    stream: &mut TcpStream,
    mood: Mood,
    key: &p256::ecdsa::SigningKey,
    kept: &mut Option<Value>,
) {
    if mood == Mood::Dead {
        return;
    }
    let (line, body) = request(stream);
    match mood {
        Mood::Well if line.starts_with("GET ") => {
            // Asked by UUID for what it took before.
            reply(stream, 200, &kept.clone().unwrap().to_string());
        }
        // The very signature that it has already.
        Mood::Well if kept.is_some() => {
            let uuid = kept.as_ref().unwrap().as_object().unwrap().keys().next();
            let said = format!(
                "an equivalent entry already exists with UUID {}",
                uuid.unwrap()
            );
            reply(
                stream,
                409,
                &json!({ "code": 409, "message": said }).to_string(),
            );
        }
        Mood::Well => reply(stream, 201, &entry(&body, key).to_string()),
        Mood::Lost => *kept = Some(entry(&body, key)),
        Mood::Status(status) => reply(stream, status, "{\"message\":\"not now\"}"),
        Mood::Nonsense => reply(stream, 201, "{\"a\":{}}"),
        Mood::Slow => {
            let held = stream.try_clone().unwrap();
            thread::spawn(move || {
                thread::sleep(PATIENCE.timeout * 2);
                drop(held);
            });
        }
        Mood::Dead => {}
    }
}

fn request(stream: &TcpStream) -> (String, Vec<u8>) {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first).unwrap();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (first, body)
}

fn reply(stream: &mut TcpStream, status: u16, body: &str) {
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The other side may have gone.
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(body.as_bytes());
}

/// The entry of a log of one.
fn entry(request: &[u8], key: &p256::ecdsa::SigningKey) -> Value {
    let request: Value = serde_json::from_slice(request).unwrap();
    let proposed = &request["spec"]["proposedContent"];
    let envelope_text = proposed["envelope"].as_str().unwrap();
    let envelope: Value = serde_json::from_str(envelope_text).unwrap();
    let payload = STANDARD
        .decode(envelope["payload"].as_str().unwrap())
        .unwrap();
    let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let body = json!({
        "apiVersion": "0.0.1",
        "kind": "dsse",
        "spec": {
            "envelopeHash": { "algorithm": "sha256", "value": sha256(envelope_text.as_bytes()) },
            "payloadHash": { "algorithm": "sha256", "value": sha256(&payload) },
            "signatures": [{
                "signature": envelope["signatures"][0]["sig"],
                "verifier": proposed["verifiers"][0],
            }],
        },
    });
    let body = body.to_string();
    let leaf = Sha256::digest([&[0], body.as_bytes()].concat());
    let text = format!("fake.example.org\n1\n{}\n", STANDARD.encode(leaf));
    let signature: p256::ecdsa::Signature = key.sign(text.as_bytes());
    let spki = key.verifying_key().to_public_key_der().unwrap();
    let id = Sha256::digest(spki.as_bytes());
    let noted = [&id[..4], signature.to_der().as_bytes()].concat();
    let note = format!(
        "{text}\n\u{2014} fake.example.org {}\n",
        STANDARD.encode(noted)
    );
    json!({ sha256(body.as_bytes()): {
        "body": STANDARD.encode(&body),
        "integratedTime": 1_700_000_000,
        "logID": hex::encode(id),
        "logIndex": 0,
        "verification": { "inclusionProof": {
            "checkpoint": note, "hashes": [], "logIndex": 0,
            "rootHash": hex::encode(leaf), "treeSize": 1,
        }},
    }})
}

/// A release that says little.
pub fn statement() -> Statement {
    fn registers<const N: usize>() -> Registers<N> {
        Registers {
            pcr4: Digest::ZERO,
            pcr9: Digest::ZERO,
            pcr11: Digest::ZERO,
            pcr12: Digest::ZERO,
            pcr13: Digest::ZERO,
        }
    }
    let name = |name: &str| name.to_owned().try_into().unwrap();
    Statement::new(
        vec![Subject {
            name: name("cloister.efi"),
            digest: SubjectDigest {
                sha256: Digest::sha256(b"an artifact"),
            },
        }],
        Predicate {
            name: name("cloister"),
            version: 3,
            profile: name("demo"),
            issued: 1_790_000_000,
            builder: "https://example.org/builder@v3".parse().unwrap(),
            minimum_client: "0.1.0".parse().unwrap(),
            revocations: Vec::new(),
            source_revision: name("abc"),
            lock_digest: Digest::ZERO,
            configuration_digest: Digest::ZERO,
            reference_values: ReferenceValues {
                tpm: TpmReferenceValues {
                    sha256: registers(),
                    sha384: registers(),
                },
                snp: None,
                tdx: None,
            },
        },
    )
}
