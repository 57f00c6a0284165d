//! TPMs of clouds, and GPUs, as sources: against a real TPM emulator, with what a cloud puts into
//! it.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use agent::evidence::nvml::{Driver, Gpus, NvmlError};
use agent::evidence::tpm::{
    AK_CERTIFICATE_INDEX, Command, ENDORSEMENT, OWNER, Reader, Tpm, TpmError, Writer,
};
use agent::evidence::{Attester, Constants, EvidenceError, Owner};
use attest::azure::{AzureHardware, HclReport};
use attest::gpu::{self, DeviceCounts};
use attest::tpm::TpmEvidence;
use attest::tpm::vtpm::{VtpmError, VtpmKey, VtpmQuote};
use attest::{Binding, Digest, Evidence, Platform, ReportData, evidence};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Swtpm, nv};
use signer::NOW;
use signer::nvidia::Rack;

mod common;

const CC_NV_WRITE: u32 = 0x137;
const USER_DATA: u32 = 0x0140_0002;
const REPORT: u32 = 0x0140_0001;
const REPORT_BYTES: u16 = 2040;

/// `TPMT_PUBLIC` of a restricted signing key: RSA with 2,048 bits, RSASSA with SHA-256.
fn template() -> Vec<u8> {
    let head = Writer::new().u16(0x0001).u16(0x000B).u32(0x0005_0072);
    let scheme = head.tpm2b(&[]).u16(0x0010).u16(0x0014).u16(0x000B);
    scheme.u16(2048).u32(0).tpm2b(&[]).finish()
}

fn modulus(public: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(public);
    reader.take(2 + 2 + 4).unwrap();
    reader.tpm2b().unwrap();
    reader.take(2 + 2 + 2 + 2 + 4).unwrap();
    reader.tpm2b().unwrap().to_vec()
}

fn binding() -> Binding {
    Binding::Nonce {
        nonce: [3; 32],
        configuration_digest: [4; 32],
        gpu_digest: evidence::gpu_digest(),
    }
}

/// That the key signed for this binding, over another bank than this structure is for.
fn assert_signed(tpm: &TpmEvidence, modulus: &[u8], binding: &Binding) {
    let quote = VtpmQuote {
        attest: tpm.attest.clone(),
        signature: tpm.signature.clone(),
        registers: [Digest::ZERO; 24],
    };
    let key = VtpmKey::from_parts(modulus, &[1, 0, 1]).unwrap();
    let data = ReportData::compute(binding).qualifying_data();
    assert_eq!(quote.verify(&key, &data), Err(VtpmError::Bank));
    let other = quote.verify(&key, &[0; 48]);
    assert!(matches!(other, Err(VtpmError::Nonce { .. })), "{other:?}");
}

#[tokio::test]
async fn a_key_of_googles_is_made_from_its_template_and_comes_with_its_certificate() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let key = tpm.create_primary(ENDORSEMENT, &template()).unwrap();
    let open = || Attester::open_as(Owner::Google, swtpm.socket(), Constants::default());
    let modulus = modulus(&key.public);
    tpm.flush(key.handle).unwrap();
    nv::store(&mut tpm, 0x01C1_0000, b"certificate of Google's").unwrap();
    drop(tpm);
    let none = open().unwrap_err();
    let absent = TpmError::Refused {
        command: 0x169,
        code: 0x18B,
    };
    assert_eq!(none.to_string(), absent.to_string());
    nv::store(&mut swtpm.connect(), 0x01C1_0001, &template()).unwrap();
    let made = open().unwrap().make(&binding()).await.unwrap();
    let Platform::Google(tpm) = Evidence::decode(&made).unwrap().platform else {
        panic!("another platform");
    };
    assert_eq!(tpm.certificates, [b"certificate of Google's"]);
    assert_signed(&tpm, &modulus, &binding());
}

/// What a paravisor does.
#[derive(Clone)]
struct Paravisor {
    modulus: Vec<u8>,
    /// 2 for SEV-SNP, 4 for TDX.
    kind: u32,
    /// Whether it makes its report anew.
    awake: bool,
}

impl Paravisor {
    fn report(&self, user_data: &[u8]) -> Vec<u8> {
        let n = URL_SAFE_NO_PAD.encode(&self.modulus);
        let runtime = format!(
            "{{\"keys\":[{{\"kid\":\"HCLAkPub\",\"key_ops\":[\"sign\"],\"kty\":\"RSA\",\
             \"e\":\"AQAB\",\"n\":\"{n}\"}}],\"vm-configuration\":{{\"console-enabled\":false,\
             \"secure-boot\":true,\"tpm-enabled\":true,\"vmUniqueId\":\"1\"}},\
             \"user-data\":\"{}\"}}",
            user_data
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect::<String>()
        );
        let length = runtime.len() as u32;
        let mut report = b"HCLA".to_vec();
        report.extend(2u32.to_le_bytes());
        report.resize(32 + 1184, 0);
        for number in [length + 20, 1, self.kind, 1, length] {
            report.extend(number.to_le_bytes());
        }
        report.extend(runtime.as_bytes());
        assert!(report.len() <= usize::from(REPORT_BYTES));
        report.resize(usize::from(REPORT_BYTES), 0);
        report
    }

    /// Stands between the agent and the TPM, and sees what is written.
    fn start(self, swtpm: &Swtpm) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("tpm");
        let listener = UnixListener::bind(&socket).unwrap();
        let upstream = swtpm.socket();
        std::thread::spawn(move || {
            let mut upstream = UnixStream::connect(upstream).unwrap();
            for stream in listener.incoming() {
                self.serve(&mut stream.unwrap(), &mut upstream);
            }
        });
        (folder, socket)
    }

    fn serve(&self, agent: &mut UnixStream, upstream: &mut UnixStream) {
        while let Some(command) = message(agent) {
            upstream.write_all(&command).unwrap();
            agent.write_all(&message(upstream).unwrap()).unwrap();
            let head = [CC_NV_WRITE, OWNER, USER_DATA]
                .map(u32::to_be_bytes)
                .concat();
            if self.awake && command.get(6..18) == Some(&head[..]) {
                let end = command.len() - 2;
                let report = self.report(&command[end - 64..end]);
                write(&mut Tpm::new(&mut *upstream), &report);
            }
        }
    }
}

fn message(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut message = vec![0; 6];
    stream.read_exact(&mut message).ok()?;
    let size = u32::from_be_bytes(message[2..6].try_into().unwrap());
    message.resize(size as usize, 0);
    stream.read_exact(&mut message[6..]).ok()?;
    Some(message)
}

fn write<T: Read + Write>(tpm: &mut Tpm<T>, report: &[u8]) {
    for (number, chunk) in report.chunks(512).enumerate() {
        let parameters = Writer::new().tpm2b(chunk).u16(number as u16 * 512).finish();
        let command = Command::new(CC_NV_WRITE, &[OWNER, REPORT], parameters).authorize(1);
        tpm.execute(&command).unwrap();
    }
}

/// A TPM with the key and an empty place for the report, as a paravisor makes them.
fn azure() -> (Swtpm, Vec<u8>) {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let key = tpm.create_primary(OWNER, &template()).unwrap();
    let modulus = modulus(&key.public);
    let parameters = Writer::new().u32(0x8100_0003).finish();
    let handles = [OWNER, key.handle.value()];
    tpm.execute(&Command::new(0x120, &handles, parameters).authorize(1))
        .unwrap();
    tpm.flush(key.handle).unwrap();
    let public = Writer::new().u32(REPORT).u16(0x000B).u32(1 << 1 | 1 << 17);
    let public = public.tpm2b(&[]).u16(REPORT_BYTES).finish();
    let parameters = Writer::new().tpm2b(&[]).tpm2b(&public).finish();
    tpm.execute(&Command::new(0x12A, &[OWNER], parameters).authorize(1))
        .unwrap();
    (swtpm, modulus)
}

fn open_azure(socket: PathBuf) -> Result<Attester, EvidenceError> {
    Attester::open_as(Owner::Azure, socket, Constants::default())
}

#[tokio::test]
async fn a_paravisors_report_is_made_anew_and_names_the_key_that_quotes() {
    let (swtpm, modulus) = azure();
    let paravisor = Paravisor {
        modulus: modulus.clone(),
        kind: 2,
        awake: true,
    };
    let (_folder, socket) = paravisor.start(&swtpm);
    let attester = open_azure(socket).unwrap();
    let made = attester.make(&binding()).await.unwrap();
    let Platform::Azure(machine) = Evidence::decode(&made).unwrap().platform else {
        panic!("another platform");
    };
    let report = HclReport::parse(&machine.hcl_report).unwrap();
    assert_ne!(report.user_data, Digest([0; 64]));
    assert!(matches!(machine.hardware, AzureHardware::Snp(_)));
    assert!(machine.tpm.certificates.is_empty());
    assert_signed(&machine.tpm, &modulus, &binding());
    // It is kept for a while.
    let again = attester.make(&binding()).await.unwrap();
    let Platform::Azure(again) = Evidence::decode(&again).unwrap().platform else {
        panic!("another platform");
    };
    assert_eq!(again.hcl_report, machine.hcl_report);
}

#[tokio::test]
async fn a_paravisor_that_sleeps_or_stands_on_other_hardware_gives_no_evidence() {
    let (swtpm, modulus) = azure();
    let paravisor = |kind, awake| Paravisor {
        modulus: modulus.clone(),
        kind,
        awake,
    };
    let (_folder, socket) = paravisor(4, true).start(&swtpm);
    let other = open_azure(socket).unwrap_err();
    assert!(matches!(other, EvidenceError::Hardware), "{other}");
    drop(swtpm);
    let (swtpm, modulus) = azure();
    let paravisor = Paravisor {
        modulus,
        kind: 2,
        awake: false,
    };
    write(&mut swtpm.connect(), &paravisor.report(&[7; 64]));
    let (_folder, socket) = paravisor.start(&swtpm);
    let asleep = open_azure(socket).unwrap_err();
    assert!(matches!(asleep, EvidenceError::NotRefreshed), "{asleep}");
    drop(swtpm);
    let (swtpm, _) = azure();
    write(&mut swtpm.connect(), &[0; REPORT_BYTES as usize]);
    let garbled = open_azure(swtpm.socket()).unwrap_err();
    assert!(matches!(garbled, EvidenceError::Paravisor(_)), "{garbled}");
    let bare = Swtpm::start();
    let none = open_azure(bare.socket()).unwrap_err();
    assert!(
        matches!(
            none,
            EvidenceError::Tpm(TpmError::Refused { command: 0x169, .. })
        ),
        "{none}"
    );
}

/// GPUs that sign.
#[derive(Debug)]
struct Signing(u32);

impl Driver for Signing {
    fn count(&self) -> Result<u32, NvmlError> {
        Ok(self.0)
    }

    fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<Vec<u8>, NvmlError> {
        Ok(Rack::new().devices[index as usize].evidence(nonce).report)
    }

    fn certificates(&self, index: u32) -> Result<Vec<u8>, NvmlError> {
        let device = Rack::new().devices[index as usize].evidence(&[0; 32]);
        let chain = device.certificates.iter();
        let text: String = chain.map(|der| signer::authority::pem(der)).collect();
        // As the driver ends it.
        Ok([text.as_bytes(), &[0]].concat())
    }
}

#[tokio::test]
async fn gpus_sign_for_the_handshake_and_the_platform_for_the_gpus() {
    let swtpm = Swtpm::start();
    nv::store(&mut swtpm.connect(), AK_CERTIFICATE_INDEX, b"certificate").unwrap();
    let counts = DeviceCounts {
        gpus: 1,
        switches: 0,
    };
    let gpus = Gpus::open(Box::new(Signing(1)), counts).unwrap();
    let attester = Attester::open(swtpm.socket(), Constants::default()).unwrap();
    let attester = attester.with_gpus(Some(gpus));
    let (bound, made) = attester.make_bound(&binding()).await.unwrap();
    let evidence = Evidence::decode(&made).unwrap();
    assert_eq!(bound, binding().with_gpu_digest(evidence.gpu_digest()));
    assert_ne!(bound, binding());
    assert_eq!(bound.gpu_nonce(), binding().gpu_nonce());
    // What NVIDIA says comes from elsewhere.
    let rack = Rack::new();
    let mut whole = rack.evidence(&[0; 32]);
    whole.devices = evidence.gpu.devices;
    let policy = rack.policy();
    gpu::verify(&whole, &bound.gpu_nonce(), counts, &policy, NOW).unwrap();
    let Platform::Tpm(tpm) = evidence.platform else {
        panic!("another platform");
    };
    let data = ReportData::compute(&bound).qualifying_data();
    let mut attest = Reader::new(&tpm.attest);
    attest.take(4 + 2).unwrap();
    attest.tpm2b().unwrap();
    assert_eq!(attest.tpm2b().unwrap(), data);
    assert_eq!(tpm.certificates, [b"certificate"]);
}
