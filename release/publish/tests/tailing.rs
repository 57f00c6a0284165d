//! The monitor of a Rekor v2: how it reads on, what it refuses, what stands there in our name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use attest::Digest;
use attest::release::merkle::leaf_hash;
use attest::release::{Checkpoint, PublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::PATIENCE;
use common::logs::origin;
use common::loopback::{Reply, Server, block_on, serve_log};
use proptest::prelude::*;
use publish::names::{NameFinding, Ours, Published, judge};
use publish::tail::{Read, Reader, State, StateError, TailError};
use release::key::SigningKey;
use release::log::tiles::{TilePath, contents};
use release::monitor::Tags;
use serde_json::{Value, json};
use signer::authority::{Authority, Extension, Template, der};

const IDENTITY: &str = "https://github.com/owner/repo/";

/// A log in a folder, as Rekor writes one.
struct Rekor {
    folder: tempfile::TempDir,
    key: SigningKey,
    entries: Vec<Vec<u8>>,
}

impl Rekor {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            key: SigningKey::generate().unwrap(),
            entries: Vec::new(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn push(&mut self, entries: impl IntoIterator<Item = Vec<u8>>) -> Checkpoint {
        self.entries.extend(entries);
        let leaves: Vec<_> = self.entries.iter().map(|entry| leaf_hash(entry)).collect();
        // What is partial goes away when the log goes on.
        let _ = std::fs::remove_dir_all(self.path());
        for path in TilePath::all(leaves.len() as u64) {
            let file = self.path().join(path.to_string());
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, contents(&path, &self.entries, &leaves)).unwrap();
        }
        let mut range = publish::tail::Range::default();
        leaves.iter().for_each(|leaf| range.push(*leaf, 0));
        let checkpoint = Checkpoint {
            origin: origin(),
            size: leaves.len() as u64,
            root: range.root(),
        };
        let signature = self.key.sign(checkpoint.text().as_bytes());
        let note = checkpoint.note(&self.key.public(), &signature);
        std::fs::create_dir_all(self.path()).unwrap();
        std::fs::write(self.path().join("checkpoint"), note).unwrap();
        checkpoint
    }
}

/// Entries of no interest, different ones.
fn others(count: usize) -> impl Iterator<Item = Vec<u8>> {
    (0..count).map(|number| entry(format!("other {number}").as_bytes(), &by_key(b"a key")))
}

fn by_key(key: &[u8]) -> Value {
    json!({ "keyDetails": "x", "publicKey": { "rawBytes": STANDARD.encode(key) } })
}

fn by_certificate(certificate: &[u8]) -> Value {
    json!({ "keyDetails": "x", "x509Certificate": { "rawBytes": STANDARD.encode(certificate) } })
}

/// A `hashedrekord` over what was signed.
fn entry(signed: &[u8], verifier: &Value) -> Vec<u8> {
    let digest = STANDARD.encode(Digest::<32>::sha256(signed));
    let hashed = json!({
        "data": { "algorithm": "SHA2_256", "digest": digest },
        "signature": { "content": "", "verifier": verifier },
    });
    let spec = json!({ "hashedRekordV002": hashed });
    let entry = json!({ "apiVersion": "0.0.2", "kind": "hashedrekord", "spec": spec });
    entry.to_string().into_bytes()
}

fn read(
    url: &str,
    state: Option<&State>,
    checkpoint: &Checkpoint,
    limit: u64,
) -> Result<Read, TailError> {
    publish::install_tls();
    let http = publish::http_client(PATIENCE.timeout).unwrap();
    let reader = Reader {
        http: &http,
        patience: PATIENCE,
        url,
    };
    block_on(async {
        let state = match state {
            Some(state) => state.clone(),
            None => reader.begin(checkpoint, 0).await?,
        };
        reader.read(&state, checkpoint, limit).await
    })
}

#[test]
fn a_log_is_read_once_from_wherever_it_was_left() {
    let mut rekor = Rekor::new();
    rekor.push(others(0));
    let url = serve_log(&rekor.path());
    let (mut state, mut seen) = (None, Vec::new());
    for count in [0, 1, 5, 250, 300, 70_000 / 64, 3] {
        let checkpoint = rekor.push(others(count));
        // In portions that end within tiles, and at their ends.
        for limit in [100, 156, 1, u64::MAX] {
            let part = read(&url, state.as_ref(), &checkpoint, limit).unwrap();
            assert_eq!(part.first, seen.len() as u64);
            seen.extend(part.entries);
            let bytes = part.state.encode();
            state = Some(State::parse(&bytes, &origin()).unwrap());
            assert_eq!(state, Some(part.state));
        }
        assert_eq!(seen, rekor.entries);
    }
}

#[test]
fn a_reading_that_begins_late_rests_on_the_same_root() {
    let mut rekor = Rekor::new();
    let checkpoint = rekor.push(others(777));
    let url = serve_log(&rekor.path());
    publish::install_tls();
    let http = publish::http_client(PATIENCE.timeout).unwrap();
    let reader = Reader {
        http: &http,
        patience: PATIENCE,
        url: &url,
    };
    for from in [0, 1, 255, 256, 700, 777, u64::MAX] {
        let begun = block_on(reader.begin(&checkpoint, from)).unwrap();
        let part = block_on(reader.read(&begun, &checkpoint, u64::MAX)).unwrap();
        assert_eq!(part.first, from.min(777));
        assert_eq!(part.state.from(), from.min(777));
        assert_eq!(part.entries, rekor.entries[part.first as usize..]);
    }
    let other = Checkpoint {
        root: Digest::ZERO,
        ..checkpoint
    };
    let begun = block_on(reader.begin(&other, 100));
    assert!(matches!(begun, Err(TailError::Shown { size: 777 })));
}

#[test]
fn a_log_that_is_not_what_it_was_is_refused() {
    let mut rekor = Rekor::new();
    let first = rekor.push(others(300));
    let url = serve_log(&rekor.path());
    // Read in part, and to the end.
    for limit in [10, 260, u64::MAX] {
        let state = read(&url, None, &first, limit).unwrap().state;
        let mut face = Rekor::new();
        let mut changed: Vec<_> = others(400).collect();
        changed[299] = entry(b"another thing", &by_key(b"a key"));
        let second = face.push(changed);
        let refused = read(&serve_log(&face.path()), Some(&state), &second, u64::MAX);
        let size = if limit == u64::MAX { 400 } else { 300 };
        match refused.unwrap_err() {
            TailError::Rewritten { size: found } => assert_eq!(found, 300),
            // What was read to the end is itself what the new root must follow from.
            TailError::Shown { size: found } => assert_eq!(found, size),
            other => panic!("{other}"),
        }
        let mut smaller = Rekor::new();
        let smaller_checkpoint = smaller.push(others(299));
        let refused = read(
            &serve_log(&smaller.path()),
            Some(&state),
            &smaller_checkpoint,
            1,
        );
        assert!(matches!(
            refused,
            Err(TailError::Smaller {
                size: 299,
                last: 300
            })
        ));
    }
}

#[test]
fn what_the_log_did_not_sign_is_refused() {
    let mut rekor = Rekor::new();
    let checkpoint = rekor.push(others(300));
    let serving = |change: fn(&str, &mut Vec<u8>)| {
        let log = rekor.path();
        let server = Server::start(move |_, (line, _)| {
            let path = line.split(' ').nth(1).unwrap();
            match std::fs::read(log.join(path.trim_start_matches('/'))) {
                Ok(mut bytes) => {
                    change(path, &mut bytes);
                    Reply::ok(bytes)
                }
                Err(_) => Reply::status(404),
            }
        });
        server.url
    };
    let read = |url: &str, limit| read(url, None, &checkpoint, limit).map(|_| ());
    read(&serving(|_, _| ()), 100).unwrap();
    let changed = serving(|path, bytes| {
        if path.contains("entries") {
            bytes[9] ^= 1;
        }
    });
    assert!(matches!(
        read(&changed, 100),
        Err(TailError::Shown { size: 300 })
    ));
    let changed = serving(|path, bytes| {
        if path.contains("tile/0/") {
            bytes[40] ^= 1;
        }
    });
    assert!(matches!(
        read(&changed, 100),
        Err(TailError::Shown { size: 300 })
    ));
    let cut = serving(|path, bytes| {
        if path.contains("entries") {
            bytes.pop();
        }
    });
    assert!(matches!(read(&cut, 100), Err(TailError::Tile(_))));
    let hidden = Server::saying(Reply::status(404));
    assert!(matches!(read(&hidden.url, 100), Err(TailError::Mirror(_))));
    let endless = Server::saying(Reply::Endless);
    assert!(matches!(read(&endless.url, 100), Err(TailError::Mirror(_))));
}

#[test]
fn a_state_that_is_damaged_is_refused() {
    let mut rekor = Rekor::new();
    let checkpoint = rekor.push(others(7));
    let url = serve_log(&rekor.path());
    let bytes = read(&url, None, &checkpoint, 5).unwrap().state.encode();
    assert!(State::parse(&bytes, &origin()).is_ok());
    for length in 0..bytes.len() {
        assert!(State::parse(&bytes[..length], &origin()).is_err());
    }
    let edited = |field: &str, value: Value| {
        let mut json: Value = serde_json::from_slice(&bytes).unwrap();
        json[field] = value;
        State::parse(json.to_string().as_bytes(), &origin()).unwrap_err()
    };
    assert!(matches!(edited("next", 7.into()), StateError::Parts));
    assert!(matches!(edited("size", 4.into()), StateError::Parts));
    assert!(matches!(edited("from", 6.into()), StateError::Parts));
    assert!(matches!(edited("more", 6.into()), StateError::Form(_)));
    let other = edited("origin", "log.example.org/other".into());
    assert!(matches!(other, StateError::Origin { .. }));
}

/// A certificate for an identity, perhaps of a workflow that ran at a tag.
fn certificate(identity: &str, source: Option<(&str, &str)>) -> Vec<u8> {
    let authority = Authority::new("authority", 5);
    let mut template = Template::new("authority", "", authority.key.verifying_key(), &[]);
    let names = der(0x30, &[&der(0x86, &[identity.as_bytes()])]);
    let mut extensions: Vec<Extension> = vec![(vec![0x55, 0x1d, 0x11], true, names)];
    let fulcio = |arc| vec![0x2b, 6, 1, 4, 1, 0x83, 0xbf, 0x30, 1, arc];
    if let Some((name, commit)) = source {
        let text = |text: &str| der(0x0c, &[text.as_bytes()]);
        extensions.push((fulcio(13), false, text(commit)));
        extensions.push((fulcio(14), false, text(name)));
    }
    template.extensions = extensions;
    authority.issue(&template)
}

/// What is ours: names under `IDENTITY`, one key, and one published release, of v3 made of abc.
fn ours() -> (Ours, Tags) {
    let bundle = published();
    let ours = Ours {
        identities: vec![IDENTITY.to_owned()],
        keys: vec![b"our key".to_vec()],
        published: vec![Published::parse(&bundle).unwrap()],
    };
    let tags = [("v3", "abc"), ("v4", "def")];
    let tags = tags.map(|(tag, commit)| (tag.to_owned(), commit.to_owned()));
    (ours, tags.into_iter().collect())
}

fn signed() -> Vec<u8> {
    attest::release::envelope::pae(&common::statement().encode())
}

/// A bundle of Sigstore's form around a release; nobody verifies it here.
fn published() -> String {
    use common::{Fake, Mood};
    let log = Fake::start(&[Mood::Well]);
    let publisher = publish::Publisher::new(log.services(), PATIENCE).unwrap();
    let key = p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap();
    let der = p256::pkcs8::EncodePrivateKey::to_pkcs8_der(&key).unwrap();
    let key = sigstore_sign::crypto::KeyPair::from_pkcs8_der(der.as_bytes()).unwrap();
    let (statement, identity) = (common::statement().encode(), publish::Identity::Key(key));
    let published = block_on(publisher.publish(&statement, &identity, &log.root()));
    String::from_utf8(published.unwrap().bundle).unwrap()
}

#[test]
fn every_entry_in_our_name_needs_its_tag() {
    let (ours, tags) = ours();
    let judge = |entry: &[u8]| judge(entry, &ours, &tags, "v{version}");
    let at = |source| by_certificate(&certificate(&format!("{IDENTITY}x.yml"), source));
    let signer = format!("{IDENTITY}x.yml");
    // What others log is theirs.
    assert_eq!(judge(&entry(b"x", &by_key(b"a key"))), None);
    let strange = certificate(
        "https://github.com/owner/repo2/x",
        Some(("refs/tags/v9", "9")),
    );
    assert_eq!(judge(&entry(b"x", &by_certificate(&strange))), None);
    // A published release whose tag is there, whoever of ours signed it.
    assert_eq!(judge(&entry(&signed(), &by_key(b"our key"))), None);
    assert_eq!(judge(&entry(&signed(), &at(None))), None);
    // Not published, and the certificate tells.
    assert_eq!(
        judge(&entry(b"x", &at(Some(("refs/tags/v4", "def"))))),
        None
    );
    let no_tag = |tag: &str| NameFinding::NoTag {
        signer: signer.clone(),
        tag: tag.to_owned(),
    };
    let found = judge(&entry(b"x", &at(Some(("refs/tags/v5", "def")))));
    assert_eq!(found, Some(no_tag("v5")));
    let found = judge(&entry(b"x", &at(Some(("refs/heads/main", "def")))));
    assert_eq!(found, Some(no_tag("refs/heads/main")));
    let found = judge(&entry(b"x", &at(Some(("refs/tags/v4", "abc")))));
    let other_source = NameFinding::OtherSource {
        signer: signer.clone(),
        tag: "v4".to_owned(),
        expected: "def".to_owned(),
        found: "abc".to_owned(),
    };
    assert_eq!(found, Some(other_source));
    let found = judge(&entry(b"x", &at(None)));
    assert_eq!(found, Some(NameFinding::Unknown { signer }));
    let found = judge(&entry(b"x", &by_key(b"our key")));
    assert!(matches!(found, Some(NameFinding::Unknown { .. })));
    // A published release whose tag is gone, or was moved.
    let entry_of_ours = entry(&signed(), &by_key(b"our key"));
    let found = publish::names::judge(&entry_of_ours, &ours, &Tags::new(), "v{version}");
    assert!(matches!(found, Some(NameFinding::NoTag { tag, .. }) if tag == "v3"));
    let moved = Tags::from([("cloister-3".to_owned(), "def".to_owned())]);
    let found = publish::names::judge(&entry_of_ours, &ours, &moved, "{name}-{version}");
    assert!(matches!(found, Some(NameFinding::OtherSource { .. })));
}

#[test]
fn an_entry_that_cannot_be_read_is_told() {
    let (ours, tags) = ours();
    let judge = |entry: &[u8]| judge(entry, &ours, &tags, "v{version}");
    let sound = String::from_utf8(entry(b"x", &by_key(b"a key"))).unwrap();
    for wrong in [
        String::new(),
        "{}".to_owned(),
        sound.replace("0.0.2", "0.0.3"),
        sound.replace("\"hashedrekord\"", "\"intoto\""),
        sound.replace("publicKey", "someKey"),
        sound.replace("rawBytes\":\"", "rawBytes\":\"*"),
    ] {
        assert_eq!(
            judge(wrong.as_bytes()),
            Some(NameFinding::Unreadable),
            "{wrong}"
        );
    }
    // A certificate that cannot be read: in our name, and in nobody's.
    let mut own = certificate(&format!("{IDENTITY}x"), None);
    own[1] = 0x80;
    let found = judge(&entry(b"x", &by_certificate(&own)));
    assert_eq!(found, Some(NameFinding::Unreadable));
    assert_eq!(judge(&entry(b"x", &by_certificate(b"nothing"))), None);
    // The other kind of entry, by two signers.
    let dsse = json!({ "apiVersion": "0.0.2", "kind": "dsse", "spec": { "dsseV002": {
        "payloadHash": {}, "signatures": [
            { "content": "", "verifier": by_key(b"a key") },
            { "content": "", "verifier": by_key(b"our key") },
        ],
    }}});
    let found = judge(dsse.to_string().as_bytes());
    assert!(matches!(found, Some(NameFinding::Unknown { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let ours = Ours { identities: vec![IDENTITY.to_owned()], ..Ours::default() };
        let judge = |entry: &[u8]| judge(entry, &ours, &Tags::new(), "v{version}");
        judge(&bytes);
        let mut certificate = certificate(IDENTITY, Some(("refs/tags/v1", "abc")));
        let place = place.index(certificate.len());
        certificate[place] = byte;
        judge(&entry(b"x", &by_certificate(&certificate)));
        drop(State::parse(&bytes, &origin()));
        drop("pkcs11:".parse::<publish::KeyUri>());
        let text = format!("pkcs11:{}", String::from_utf8_lossy(&bytes));
        drop(text.parse::<publish::KeyUri>());
    }
}

/// A trusted root that names the log.
fn trusted_root(key: &PublicKey) -> String {
    let mut spki = vec![0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
    spki.extend(key.to_bytes());
    json!({
        "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
        "tlogs": [{
            "baseUrl": format!("https://{}", origin()),
            "hashAlgorithm": "SHA2_256",
            "publicKey": { "rawBytes": STANDARD.encode(&spki), "keyDetails": "PKIX_ED25519",
                "validFor": { "start": "2020-01-01T00:00:00Z" } },
            "logId": { "keyId": STANDARD.encode(Digest::<32>::sha256(&spki)) },
        }],
        "certificateAuthorities": [], "ctlogs": [], "timestampAuthorities": [],
    })
    .to_string()
}

fn monitor(folder: &Path, url: &str, more: &[&str]) -> (Option<i32>, Value) {
    let line = format!(
        "monitor-rekor --json --origin {} --rekor {url} --trusted-root root.json --identity \
         {IDENTITY} --source . --state state.json --attempts 1 --timeout-s 2",
        origin()
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-publish"));
    command.args(line.split_whitespace()).args(more);
    let output = command.current_dir(folder).output().unwrap();
    let said = match output.stdout.is_empty() {
        true => output.stderr,
        false => output.stdout,
    };
    (output.status.code(), serde_json::from_slice(&said).unwrap())
}

#[test]
fn the_program_reads_on_tells_and_forgets_nothing() {
    let mut rekor = Rekor::new();
    let folder = rekor.folder.path().to_owned();
    let git = Command::new("git")
        .args(["init", "--quiet"])
        .current_dir(&folder)
        .status();
    assert!(git.unwrap().success());
    std::fs::write(folder.join("root.json"), trusted_root(&rekor.key.public())).unwrap();
    rekor.push(others(20));
    let url = serve_log(&rekor.path());
    // Not to its end: what is left is said.
    let (code, said) = monitor(&folder, &url, &["--limit", "15"]);
    assert_eq!((code, &said["left"]), (Some(3), &5.into()), "{said}");
    let (code, said) = monitor(&folder, &url, &[]);
    assert_eq!(
        (code, &said["first"], &said["left"]),
        (Some(0), &15.into(), &0.into())
    );
    let certificate = certificate(&format!("{IDENTITY}x.yml"), Some(("refs/tags/v9", "9")));
    rekor.push([entry(b"x", &by_certificate(&certificate))]);
    // Nobody hears: it is found once more.
    let deaf = ["--webhook", "http://127.0.0.1:1"];
    assert_eq!(monitor(&folder, &url, &deaf).0, Some(7));
    let hook = Server::saying(Reply::status(204));
    let told = ["--webhook", hook.url.as_str()];
    let (code, said) = monitor(&folder, &url, &told);
    assert_eq!(
        (code, &said["findings"][0]["index"]),
        (Some(6), &20.into()),
        "{said}"
    );
    let posted: Value = serde_json::from_slice(&hook.asked()[0].1).unwrap();
    assert_eq!(posted, said);
    assert_eq!(monitor(&folder, &url, &told).0, Some(0));
    // Away: nothing is known.
    assert_eq!(monitor(&folder, "http://127.0.0.1:1", &told).0, Some(3));
    // Another face: told, and the state stays.
    let mut face = Rekor::new();
    face.key = SigningKey::generate().unwrap();
    face.push(others(30));
    let state = std::fs::read(folder.join("state.json")).unwrap();
    assert_eq!(monitor(&folder, &serve_log(&face.path()), &told).0, Some(5));
    rekor.entries.truncate(3);
    rekor.push(others(40));
    assert_eq!(monitor(&folder, &url, &told).0, Some(5));
    assert_eq!(hook.asked().len(), 3);
    assert_eq!(std::fs::read(folder.join("state.json")).unwrap(), state);
    std::fs::write(folder.join("state.json"), &state[1..]).unwrap();
    assert_eq!(monitor(&folder, &url, &told).0, Some(1));
}
