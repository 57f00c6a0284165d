//! Evidence of real GPUs and switches, and NVIDIA's own manifests, which others have published.
//! They lie beside the checkout, and the tests that need them say so and are skipped where they do
//! not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::fs;
use std::path::PathBuf;

use attest::certificate::{ChainFault, Position};
use attest::gpu::{
    DeviceCounts, DeviceEvidence, DeviceFault, DeviceKind, GpuError, GpuEvidence, ManifestError,
    Report, SpdmError, Topology, VerifiedDevices, verify,
};
use attest::policy::{Demand, GpuPolicy};
use attest::{Class, Digest, Refusal, UnixTime};
use signer::nvidia;
use signer::{read_vector as read, vectors};

/// While the signers of all manifests were certified.
const JANUARY_2025: UnixTime = UnixTime::from_secs(1_736_000_000);
const NOVEMBER_2026: UnixTime = UnixTime::from_secs(1_795_219_200);
const YEAR_2020: UnixTime = UnixTime::from_secs(1_590_000_000);

fn devices(path: &str) -> Vec<DeviceEvidence> {
    DeviceEvidence::from_file(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A report in hexadecimal, without the zero that one file has behind it.
fn report(path: &str) -> Vec<u8> {
    let mut bytes = hex::decode(String::from_utf8(read(path)).unwrap().trim()).unwrap();
    if Report::parse(&bytes) == Err(SpdmError::SignatureFormat) {
        assert_eq!(bytes.pop(), Some(0), "{path}");
    }
    bytes
}

/// Certificates in PEM form, one behind the other.
fn certificates(path: &str) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let standard = base64::engine::general_purpose::STANDARD;
    let text = standard.encode(read(path));
    let file = format!("[{{\"evidence\":\"\",\"certificate\":\"{text}\"}}]");
    let mut devices = DeviceEvidence::from_file(file.as_bytes()).unwrap();
    devices.remove(0).certificates
}

/// NVIDIA's roots, everything else relaxed that can be.
fn policy() -> GpuPolicy {
    let fields = nvidia::FIELDS
        .replace("\"required\"", "\"not-required\"")
        .replace("\"ocsp\"", "\"not-required\"")
        .replace("\"580.95.05\"", "\"550.90.07\"")
        .replace("\"96.9F.00.01.02\"", "\"96.00.00.00.00\"");
    let roots = "device_roots = [\"nvidia\"]\nmanifest_roots = [\"nvidia\"]\n";
    nvidia::gpu_policy(&format!("[gpu]\n{roots}{fields}"))
}

/// The verdict for whatever the first report was made for.
fn judge(
    devices: &[DeviceEvidence],
    manifests: Vec<Vec<u8>>,
    counts: [usize; 2],
    policy: &GpuPolicy,
    now: UnixTime,
) -> Result<VerifiedDevices, GpuError> {
    let nonce = devices
        .first()
        .and_then(|one| Report::parse(&one.report).ok());
    let evidence = GpuEvidence {
        devices: devices.to_vec(),
        manifests,
        revocation_lists: Vec::new(),
        statuses: Vec::new(),
    };
    let [gpus, switches] = counts;
    let counts = DeviceCounts { gpus, switches };
    let nonce = nonce.map_or([0; 32], |report| report.nonce);
    verify(&evidence, &nonce, counts, policy, now)
}

fn fault(error: GpuError) -> DeviceFault {
    match error {
        GpuError::Device { fault, .. } => *fault,
        other => panic!("{other}"),
    }
}

const EIGHT: &str = "nvtrust/gpu_evidence.json";
const SWITCHES: &str = "nvtrust/switch_evidence.json";

/// Eight GPUs and the four switches between them answered one nonce: each knows the others by the
/// names in their certificates.
#[test]
fn eight_real_gpus_and_four_switches_verify_together() {
    if vectors().is_none() {
        return;
    }
    let all = [devices(EIGHT), devices(SWITCHES)].concat();
    let policy = policy();
    let verified = judge(&all, Vec::new(), [8, 4], &policy, NOVEMBER_2026).unwrap();
    let kinds = verified.devices().iter().map(|one| one.kind);
    assert_eq!(kinds.filter(|kind| *kind == DeviceKind::Switch).count(), 4);
    let claims = verified.claims().iter();
    let roots = claims.filter(|claim| claim.rests_on.contains("CN=NVIDIA Device Identity CA"));
    assert!(roots.count() > 12);
    // The certificates hold until the year 9999, and from 2022.
    let error = judge(&all, Vec::new(), [8, 4], &policy, YEAR_2020).unwrap_err();
    assert_eq!(Refusal::from(error).class(), Class::Collateral);
    // The same without its switches, with fewer, with another's, and with one GPU twice.
    let alone = judge(&all[..8], Vec::new(), [8, 0], &policy, NOVEMBER_2026);
    let (device, topology) = (1, Topology::NoSwitch);
    assert_eq!(alone.unwrap_err(), GpuError::Topology { device, topology });
    let three = judge(&all[..11], Vec::new(), [8, 3], &policy, NOVEMBER_2026);
    assert!(matches!(
        three.unwrap_err(),
        GpuError::Topology {
            topology: Topology::Switches,
            ..
        }
    ));
    let seven = judge(&all[1..], Vec::new(), [7, 4], &policy, NOVEMBER_2026);
    assert!(matches!(
        seven.unwrap_err(),
        GpuError::Topology {
            topology: Topology::Gpus,
            ..
        }
    ));
    let mut twice = all.clone();
    twice[7] = all[6].clone();
    let error = judge(&twice, Vec::new(), [8, 4], &policy, NOVEMBER_2026).unwrap_err();
    assert_eq!(error, GpuError::SameDevice { device: 8 });
    let mut other = all;
    other[9] = devices("nvidia-attestation-sdk/switch_evidence_ls10.json").remove(0);
    let error = judge(&other, Vec::new(), [8, 4], &policy, NOVEMBER_2026).unwrap_err();
    assert!(matches!(fault(error), DeviceFault::Nonce { .. }));
}

/// Each file by itself: whose reports they are holds; what does not is named.
#[test]
fn each_published_evidence_has_its_verdict() {
    if vectors().is_none() {
        return;
    }
    let policy = policy();
    let verdict = |path: &str, counts| {
        let devices = devices(path);
        judge(&devices, Vec::new(), counts, &policy, NOVEMBER_2026)
    };
    // One GPU by itself. Its certificate is on hold at NVIDIA, which only asking online would tell.
    let one = "nvidia-attestation-sdk/hopper_evidence_cert_hold.json";
    let verified = verdict(one, [1, 0]).unwrap();
    let said = &verified.devices()[0].report.opaque;
    assert_eq!(said.driver.as_ref().unwrap().as_str(), "570.86.10");
    assert_eq!(said.vbios.to_string(), "96.00.AF.00.01");
    // GPUs of a machine with switches, whose evidence is not in the file.
    for (path, gpus) in [
        ("nvidia-attestation-sdk/evidence_hopper_590_12.json", 1),
        ("nvidia-attestation-sdk/hopper_evidence.json", 1),
        (EIGHT, 8),
    ] {
        let (device, topology) = (1, Topology::NoSwitch);
        let expected = GpuError::Topology { device, topology };
        assert_eq!(verdict(path, [gpus, 0]).unwrap_err(), expected, "{path}");
    }
    for (path, expected) in [
        ("nvidia-attestation-sdk/multi_gpu_hopper.json", [4, 0]),
        ("nvidia-attestation-sdk/multi_switch_ls10.json", [0, 4]),
    ] {
        let error = verdict(path, expected).unwrap_err();
        // The four GPUs are four; the four switches are one, four times.
        match error {
            GpuError::Topology { .. } => assert_eq!(expected, [4, 0]),
            GpuError::SameDevice { device } => assert_eq!((device, expected), (2, [0, 4])),
            other => panic!("{path}: {other}"),
        }
    }
    let switch = "nvidia-attestation-sdk/switch_evidence_ls10.json";
    let (device, topology) = (1, Topology::Gpus);
    let expected = GpuError::Topology { device, topology };
    assert_eq!(verdict(switch, [0, 1]).unwrap_err(), expected);
}

#[test]
fn reports_of_other_sources_have_their_verdicts() {
    if vectors().is_none() {
        return;
    }
    let policy = policy();
    let verdict = |report: &[u8], chain: &str| {
        let device = DeviceEvidence {
            report: report.to_vec(),
            certificates: certificates(chain),
        };
        judge(&[device], Vec::new(), [1, 0], &policy, NOVEMBER_2026)
    };
    let coco = report("trustee/nvidia/hopper_coco_report1.txt");
    let verified = verdict(&coco, "trustee/nvidia/hopper_coco_certs1.txt").unwrap();
    let said = &verified.devices()[0].report.opaque;
    assert_eq!(said.driver.as_ref().unwrap().as_str(), "580.95.05");
    assert_eq!(said.vbios.to_string(), "96.00.74.00.1A");
    let error = verdict(&coco, "trustee/nvidia/hopper_cert_chain_case1.txt").unwrap_err();
    assert_eq!(fault(error), DeviceFault::Signature);
    let other = report("trustee/nvidia/hopperAttestationReport.txt");
    let folder = "trustee/nvidia/hopper_cert_chain_case";
    let of = |case| verdict(&other, &format!("{folder}{case}.txt"));
    assert!(of(1).is_ok());
    // Without its own certificate, with a gap, and from the boot ROM's on.
    let fault = |case| fault(of(case).unwrap_err());
    let chain = |case| match fault(case) {
        DeviceFault::Chain(error) => (error.position, error.fault),
        other => panic!("{other}"),
    };
    assert_eq!(chain(2), (Position::Leaf, ChainFault::Missing));
    let (position, gap) = chain(3);
    assert_eq!(position, Position::Intermediate(1));
    assert!(matches!(gap, ChainFault::Issuer { .. }));
    assert_eq!(chain(4), (Position::Leaf, ChainFault::Authority));
}

/// The manifest of this firmware's version is there, and the GPU measures something else at one
/// index: the file is older than the firmware's last change.
#[test]
fn a_real_gpu_is_compared_with_a_real_manifest() {
    if vectors().is_none() {
        return;
    }
    let device = DeviceEvidence {
        report: report("trustee/nvidia/hopper_coco_report1.txt"),
        certificates: certificates("trustee/nvidia/hopper_coco_certs1.txt"),
    };
    let manifest = read("nvtrust/1010_0200_882_960074001A_PROD.swidtag");
    let verdict = |manifest: &[u8], now| {
        let devices = std::slice::from_ref(&device);
        judge(devices, vec![manifest.to_vec()], [1, 0], &policy(), now).unwrap_err()
    };
    let error = fault(verdict(&manifest, JANUARY_2025));
    assert!(
        matches!(error, DeviceFault::Measurement { index: 9, .. }),
        "{error}"
    );
    let late = verdict(&manifest, NOVEMBER_2026);
    assert_eq!(Refusal::from(late).class(), Class::Collateral);
    let other = read("nvtrust/g520_0200_885_9600740001_PROD.swidtag");
    let error = verdict(&other, JANUARY_2025);
    assert_eq!(error, GpuError::StrayManifest { manifest: 1 });
    let mut strict = policy();
    strict.driver_manifest = Demand::Required;
    let devices = std::slice::from_ref(&device);
    let error = judge(devices, Vec::new(), [1, 0], &strict, JANUARY_2025).unwrap_err();
    assert!(matches!(fault(error), DeviceFault::NoManifest { .. }));
}

/// All 26: the signatures hold while the signers were certified, and no flipped bit of one is
/// believed. With no device to compare with, a sound manifest is one too many.
#[test]
fn all_published_manifests_are_genuine() {
    let Some(folder) = vectors() else { return };
    let files = fs::read_dir(folder.join("nvtrust")).unwrap().flatten();
    let mut manifests: Vec<_> = files
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|end| end == "swidtag"))
        .collect();
    manifests.sort();
    assert_eq!(manifests.len(), 26);
    let verdict =
        |bytes: Vec<u8>, now| judge(&[], vec![bytes], [0, 0], &policy(), now).unwrap_err();
    for path in &manifests {
        let bytes = fs::read(path).unwrap();
        let error = verdict(bytes.clone(), JANUARY_2025);
        let stray = GpuError::StrayManifest { manifest: 1 };
        assert_eq!(error, stray, "{}", path.display());
        let error = verdict(bytes, NOVEMBER_2026);
        let GpuError::Manifest { fault, .. } = error else {
            panic!("{error}")
        };
        let ManifestError::Chain(error) = *fault else {
            panic!("{fault}")
        };
        assert!(error.fault.is_date());
    }
    let genuine = fs::read(&manifests[0]).unwrap();
    for place in (0..genuine.len()).step_by(41) {
        let mut bytes = genuine.clone();
        bytes[place] ^= 1 << (place % 8);
        let error = verdict(bytes, JANUARY_2025);
        assert!(
            matches!(error, GpuError::Manifest { .. }),
            "{place}: {error}"
        );
    }
}

#[test]
fn no_flipped_bit_of_a_real_report_is_believed() {
    if vectors().is_none() {
        return;
    }
    let path = "nvidia-attestation-sdk/hopper_evidence_cert_hold.json";
    let genuine = devices(path).remove(0);
    let nonce = Report::parse(&genuine.report).unwrap().nonce;
    let (policy, counts) = (
        policy(),
        DeviceCounts {
            gpus: 1,
            switches: 0,
        },
    );
    let mut evidence = GpuEvidence {
        devices: vec![genuine.clone()],
        ..GpuEvidence::default()
    };
    assert!(verify(&evidence, &nonce, counts, &policy, NOVEMBER_2026).is_ok());
    for place in (0..genuine.report.len()).step_by(17) {
        evidence.devices[0].report.clone_from(&genuine.report);
        evidence.devices[0].report[place] ^= 1 << (place % 8);
        let verdict = verify(&evidence, &nonce, counts, &policy, NOVEMBER_2026);
        assert!(verdict.is_err(), "{place}");
    }
}

#[test]
fn the_roots_of_nvidia_are_those_of_the_readme() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gpu/roots");
    let table = fs::read_to_string(folder.join("README.md")).unwrap();
    for name in ["nvidia-device-identity.der", "nvidia-corim.der"] {
        let digest = Digest::sha256(&fs::read(folder.join(name)).unwrap());
        assert!(table.contains(&format!("| {name} | {digest} |")), "{name}");
    }
}
