//! The evidence source against a TPM in which things happen in between.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use agent::evidence::tpm::{AK_CERTIFICATE_INDEX, TpmError, Writer};
use agent::evidence::{Attester, Constants, EvidenceError};
use attest::{Binding, Evidence, Platform};
use common::{Swtpm, nv};

mod common;

const CC_PCR_READ: [u8; 4] = [0, 0, 1, 0x7E];
const CC_QUOTE: [u8; 4] = [0, 0, 1, 0x58];

/// Stands between the agent and the TPM.
struct Meddler {
    folder: tempfile::TempDir,
    /// Registers are extended behind that many readings.
    extensions: Arc<AtomicU32>,
    /// The connection is cut instead of that many quotes.
    cuts: Arc<AtomicU32>,
    readings: Arc<AtomicU32>,
}

impl Meddler {
    fn start(swtpm: &Swtpm) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("tpm")).unwrap();
        let upstream = swtpm.socket();
        let counter = || Arc::new(AtomicU32::new(0));
        let (extensions, cuts, readings) = (counter(), counter(), counter());
        let counters = (extensions.clone(), cuts.clone(), readings.clone());
        std::thread::spawn(move || {
            // The emulator keeps one connection; those of the agent come and go.
            let mut upstream = UnixStream::connect(upstream).unwrap();
            for stream in listener.incoming() {
                meddle(&mut stream.unwrap(), &mut upstream, &counters);
            }
        });
        Self {
            folder,
            extensions,
            cuts,
            readings,
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("tpm")
    }
}

type Counters = (Arc<AtomicU32>, Arc<AtomicU32>, Arc<AtomicU32>);

fn meddle(agent: &mut UnixStream, tpm: &mut UnixStream, counters: &Counters) {
    let (extensions, cuts, readings) = counters;
    let due = |counter: &AtomicU32| {
        counter
            .try_update(Relaxed, Relaxed, |n| n.checked_sub(1))
            .is_ok()
    };
    while let Some(command) = message(agent) {
        if command[6..10] == CC_QUOTE && due(cuts) {
            return;
        }
        tpm.write_all(&command).unwrap();
        agent.write_all(&message(tpm).unwrap()).unwrap();
        if command[6..10] == CC_PCR_READ {
            readings.fetch_add(1, Relaxed);
            if due(extensions) {
                tpm.write_all(&extension()).unwrap();
                message(tpm).unwrap();
            }
        }
    }
}

/// Commands and responses alike tell their size behind their tag.
fn message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 6];
    stream.read_exact(&mut message).ok()?;
    let size = u32::from_be_bytes(message[2..6].try_into().unwrap());
    message.resize(size as usize, 0);
    stream.read_exact(&mut message[6..]).ok()?;
    Some(message)
}

/// `TPM2_PCR_Extend` of register 14.
fn extension() -> Vec<u8> {
    let password = Writer::new()
        .u32(0x4000_0009)
        .tpm2b(&[])
        .u8(0)
        .tpm2b(&[])
        .finish();
    let body = Writer::new()
        .u32(14)
        .u32(password.len() as u32)
        .bytes(&password);
    let body = body.u32(1).u16(0x000C).bytes(&[3; 48]).finish();
    Writer::new()
        .u16(0x8002)
        .u32(10 + body.len() as u32)
        .u32(0x182)
        .bytes(&body)
        .finish()
}

fn attester() -> (Swtpm, Meddler, Attester) {
    let swtpm = Swtpm::start();
    nv::store(&mut swtpm.connect(), AK_CERTIFICATE_INDEX, b"certificate").unwrap();
    let meddler = Meddler::start(&swtpm);
    let attester = Attester::open(meddler.socket(), Constants::default()).unwrap();
    (swtpm, meddler, attester)
}

fn binding() -> Binding {
    Binding::Nonce {
        nonce: [1; 32],
        configuration_digest: [2; 32],
        gpu_digest: [3; 32],
    }
}

#[tokio::test]
async fn registers_and_quote_agree_even_if_someone_extends_in_between() {
    let (_swtpm, meddler, attester) = attester();
    meddler.extensions.store(3, Relaxed);
    let evidence = Evidence::decode(&attester.make(&binding()).await.unwrap()).unwrap();
    assert_eq!(meddler.extensions.load(Relaxed), 0);
    let Platform::Tpm(tpm) = evidence.platform else {
        panic!("another platform")
    };
    let quote = agent::evidence::tpm::Quote {
        attest: tpm.attest.clone(),
        signature: vec![],
    };
    let values: Vec<u8> = tpm.registers.iter().flat_map(|value| value.0).collect();
    assert_eq!(
        quote.pcr_digest().unwrap(),
        attest::Digest::sha384(&values).0
    );

    meddler.extensions.store(u32::MAX, Relaxed);
    let before = meddler.readings.load(Relaxed);
    let endless = attester.make(&binding()).await.unwrap_err();
    let torn = matches!(
        endless,
        EvidenceError::Unstable | EvidenceError::Tpm(TpmError::Malformed { .. })
    );
    assert!(torn, "{endless}");
    assert!(meddler.readings.load(Relaxed) - before < 60);
}

#[tokio::test]
async fn a_connection_that_broke_is_made_anew_for_the_next_evidence() {
    let (_swtpm, meddler, attester) = attester();
    meddler.cuts.store(1, Relaxed);
    let cut = attester.make(&binding()).await.unwrap_err();
    assert!(
        matches!(cut, EvidenceError::Tpm(TpmError::Transport(_))),
        "{cut}"
    );
    attester.make(&binding()).await.unwrap();
}

#[tokio::test]
async fn evidence_that_nobody_would_read_is_not_sent() {
    let swtpm = Swtpm::start();
    nv::store(&mut swtpm.connect(), AK_CERTIFICATE_INDEX, b"certificate").unwrap();
    let constants = Constants {
        event_log: vec![0; 1 << 20],
        ..Constants::default()
    };
    let attester = Attester::open(swtpm.socket(), constants).unwrap();
    let large = attester.make(&binding()).await.unwrap_err();
    assert!(matches!(large, EvidenceError::TooLarge(_)), "{large}");
}
