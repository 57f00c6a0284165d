//! The envelope that evidence travels in: deterministic CBOR, integer keys.
//!
//! ```text
//! {1: version = 1,
//!  2: platform = "tpm", "snp", "tdx", "azure-snp", "azure-tdx" or "google-vtpm",
//!  3: what the platform gave; for "tpm":
//!     {1: TPMS_ATTEST, 2: TPMT_SIGNATURE, 3: [15 register values of 48 bytes],
//!      4: event log, 5: [certificates, leaf first, root not included]};
//!     for "snp":
//!     {1: attestation report, 2: [VCEK or VLEK, ASK or ASVK], 3: [revocation lists]},
//!     for "tdx":
//!     {1: quote, 2: event log, 3: TCB info, 4: its signature, 5: identity of the quoting enclave,
//!      6: its signature, 7: certificate of the key that signed both, 8: [revocation lists]},
//!     for "azure-snp" (the report stands in the paravisor's, the TPM has no certificates):
//!     {1: paravisor's report, 2: [VCEK, ASK], 3: [revocation lists], 4: as for "tpm"},
//!     for "azure-tdx" (the TPM alone has an event log):
//!     {1: paravisor's report, 2: as for "tdx", 3: as for "tpm"},
//!     for "google-vtpm": as for "tpm", with Google's certificates,
//!  4: configuration file,
//!  5: [], or of a machine with GPUs
//!     [[[report, [certificates, leaf first]], …], [manifests], [revocation lists]], and as a
//!     fourth list status responses (OCSP), if there are any,
//!  6: release bundle, may be empty}
//! ```
//!
//! A platform that is added is another value of item 2 under the same version: what was evidence
//! before stays it, and who does not know the platform refuses it.

use sha2::{Digest as _, Sha256};

use crate::Digest;
use crate::azure::{AzureHardware, AzureMachine};
use crate::cbor::{CborError, Decoder, Encoder};
use crate::configuration::MAX_CONFIGURATION_BYTES;
use crate::crl::MAX_CRL_BYTES;
use crate::eventlog::MAX_EVENT_LOG_BYTES;
use crate::gpu::{DeviceEvidence, GpuEvidence};
use crate::release::MAX_BUNDLE_BYTES;
use crate::snp::{self, SnpEvidence};
use crate::tdx::{self, TdxEvidence};
use crate::tpm::{MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES, MAX_STRUCTURE_BYTES, TpmEvidence};

mod azure;
mod gpu;

/// Longest encoding of evidence.
pub const MAX_EVIDENCE_BYTES: usize = 1 << 20;

const VERSION: u64 = 1;

/// Everything that a peer shows to be believed. Nothing in it is trusted before
/// [`verify()`](crate::verify()) accepts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// What the platform measured and signed.
    pub platform: Platform,
    /// The configuration file, byte for byte.
    pub configuration: Vec<u8>,
    /// What GPUs and the switches between them give; nothing where there are none.
    pub gpu: GpuEvidence,
    /// The release bundle; empty where the peer has none.
    pub release: Vec<u8>,
}

/// Evidence of one platform.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is not copied about"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Platform {
    /// A quote by a TPM 2.0.
    Tpm(TpmEvidence),
    /// A report of AMD SEV-SNP.
    Snp(SnpEvidence),
    /// A quote of Intel TDX.
    Tdx(TdxEvidence),
    /// A confidential VM in Azure: hardware, paravisor and virtual TPM.
    Azure(AzureMachine),
    /// A quote by a virtual TPM of Google's cloud.
    Google(TpmEvidence),
}

/// A platform by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PlatformKind {
    /// A TPM 2.0.
    Tpm,
    /// AMD SEV-SNP.
    Snp,
    /// Intel TDX.
    Tdx,
    /// A confidential VM in Azure on AMD SEV-SNP.
    AzureSnp,
    /// A confidential VM in Azure on Intel TDX.
    AzureTdx,
    /// A virtual TPM of Google's cloud.
    GoogleVtpm,
}

impl PlatformKind {
    /// The name that the envelope and policies use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::AzureSnp => "azure-snp",
            Self::AzureTdx => "azure-tdx",
            Self::GoogleVtpm => "google-vtpm",
        }
    }
}

/// Why bytes are not evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Longer than [`MAX_EVIDENCE_BYTES`].
    #[error("{found} bytes, {MAX_EVIDENCE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not the envelope's deterministic CBOR.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A version of the envelope that this program does not know.
    #[error("version {found}, {VERSION} expected")]
    Version {
        /// Version found.
        found: u64,
    },
    /// A platform that this program does not know.
    #[error("unknown platform")]
    Platform,
    /// Item 5 is neither an empty list nor devices, manifests, revocation lists and, if there are
    /// any, status responses.
    #[error("GPU evidence of another form")]
    Gpu,
    /// A virtual TPM in Azure has certificates, or its domain an event log.
    #[error("a part that this platform does not have")]
    Stray,
    /// Not as many register values as are quoted.
    #[error("{found} register values, {expected} expected")]
    Registers {
        /// How many are quoted.
        expected: usize,
        /// How many were found.
        found: usize,
    },
}

impl Evidence {
    /// The envelope's one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.map(6);
        encoder.uint(1).uint(VERSION);
        encoder.uint(2).text(self.platform.kind().as_str()).uint(3);
        match &self.platform {
            Platform::Tpm(tpm) => encode_tpm(&mut encoder, tpm),
            Platform::Snp(snp) => encode_snp(&mut encoder, snp),
            Platform::Tdx(tdx) => encode_tdx(&mut encoder, tdx),
            Platform::Azure(machine) => azure::encode(&mut encoder, machine),
            Platform::Google(tpm) => encode_tpm(&mut encoder, tpm),
        }
        encoder.uint(4).bytes(&self.configuration);
        gpu::encode(encoder.uint(5), &self.gpu);
        encoder.uint(6).bytes(&self.release);
        encoder.finish()
    }

    /// Reads an envelope; accepts only what [`Evidence::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MAX_EVIDENCE_BYTES {
            return Err(EvidenceError::TooLarge { found: bytes.len() });
        }
        let mut decoder = Decoder::new(bytes);
        decoder.map(6)?;
        decoder.key(1)?;
        match decoder.uint()? {
            VERSION => {}
            found => return Err(EvidenceError::Version { found }),
        }
        decoder.key(2)?;
        let platform = decoder.text(16)?;
        decoder.key(3)?;
        let platform = match platform {
            "tpm" => Platform::Tpm(decode_tpm(&mut decoder)?),
            "snp" => Platform::Snp(decode_snp(&mut decoder)?),
            "tdx" => Platform::Tdx(decode_tdx(&mut decoder)?),
            "azure-snp" => Platform::Azure(azure::decode_snp(&mut decoder)?),
            "azure-tdx" => Platform::Azure(azure::decode_tdx(&mut decoder)?),
            "google-vtpm" => Platform::Google(decode_tpm(&mut decoder)?),
            _ => return Err(EvidenceError::Platform),
        };
        decoder.key(4)?;
        let configuration = decoder.bytes(MAX_CONFIGURATION_BYTES)?.to_vec();
        decoder.key(5)?;
        let gpu = gpu::decode(&mut decoder)?;
        decoder.key(6)?;
        let release = decoder.bytes(MAX_BUNDLE_BYTES)?.to_vec();
        decoder.end()?;
        Ok(Self {
            platform,
            configuration,
            gpu,
            release,
        })
    }

    /// SHA-256 of the configuration file.
    #[must_use]
    pub fn configuration_digest(&self) -> [u8; 32] {
        Digest::sha256(&self.configuration).0
    }

    /// SHA-256 of the devices in item 5, as the envelope encodes them. Manifests, revocation lists
    /// and status responses are not covered: NVIDIA signs them, and a client may bring its own.
    #[must_use]
    pub fn gpu_digest(&self) -> [u8; 32] {
        devices_digest(&self.gpu.devices)
    }
}

impl Platform {
    /// Which platform this is.
    #[must_use]
    pub const fn kind(&self) -> PlatformKind {
        match self {
            Self::Tpm(_) => PlatformKind::Tpm,
            Self::Snp(_) => PlatformKind::Snp,
            Self::Tdx(_) => PlatformKind::Tdx,
            Self::Azure(machine) => match machine.hardware {
                AzureHardware::Snp(_) => PlatformKind::AzureSnp,
                AzureHardware::Tdx(_) => PlatformKind::AzureTdx,
            },
            Self::Google(_) => PlatformKind::GoogleVtpm,
        }
    }
}

/// SHA-256 of the devices of a machine without GPUs: an empty list.
#[must_use]
pub fn gpu_digest() -> [u8; 32] {
    devices_digest(&[])
}

/// SHA-256 of the list of devices that is item 5, or its first item.
#[must_use]
pub fn devices_digest(devices: &[DeviceEvidence]) -> [u8; 32] {
    let mut encoder = Encoder::new();
    gpu::encode_devices(&mut encoder, devices);
    Sha256::digest(encoder.finish()).into()
}

fn encode_tpm(encoder: &mut Encoder, tpm: &TpmEvidence) {
    encoder.map(5);
    encoder.uint(1).bytes(&tpm.attest);
    encoder.uint(2).bytes(&tpm.signature);
    encoder.uint(3).array(tpm.registers.len());
    for value in &tpm.registers {
        encoder.bytes(&value.0);
    }
    encoder.uint(4).bytes(&tpm.event_log);
    encoder.uint(5).array(tpm.certificates.len());
    for certificate in &tpm.certificates {
        encoder.bytes(certificate);
    }
}

fn decode_tpm(decoder: &mut Decoder<'_>) -> Result<TpmEvidence, EvidenceError> {
    let mut tpm = TpmEvidence::default();
    decoder.map(5)?;
    decoder.key(1)?;
    tpm.attest = decoder.bytes(MAX_STRUCTURE_BYTES)?.to_vec();
    decoder.key(2)?;
    tpm.signature = decoder.bytes(MAX_STRUCTURE_BYTES)?.to_vec();
    decoder.key(3)?;
    let (expected, found) = (tpm.registers.len(), decoder.array(tpm.registers.len())?);
    if found != expected {
        return Err(EvidenceError::Registers { expected, found });
    }
    for value in &mut tpm.registers {
        *value = Digest(decoder.fixed()?);
    }
    decoder.key(4)?;
    tpm.event_log = decoder.bytes(MAX_EVENT_LOG_BYTES)?.to_vec();
    decoder.key(5)?;
    for _ in 0..decoder.array(MAX_CERTIFICATES)? {
        tpm.certificates
            .push(decoder.bytes(MAX_CERTIFICATE_BYTES)?.to_vec());
    }
    Ok(tpm)
}

fn encode_snp(encoder: &mut Encoder, snp: &SnpEvidence) {
    encoder.map(3);
    encoder.uint(1).bytes(&snp.report);
    encode_endorsements(encoder, snp);
}

fn encode_endorsements(encoder: &mut Encoder, snp: &SnpEvidence) {
    for (key, items) in [(2, &snp.certificates), (3, &snp.revocation_lists)] {
        encoder.uint(key).array(items.len());
        for item in items {
            encoder.bytes(item);
        }
    }
}

fn decode_snp(decoder: &mut Decoder<'_>) -> Result<SnpEvidence, EvidenceError> {
    decoder.map(3)?;
    decoder.key(1)?;
    let report = decoder.bytes(snp::REPORT_BYTES)?.to_vec();
    let snp = decode_endorsements(decoder)?;
    Ok(SnpEvidence { report, ..snp })
}

fn decode_endorsements(decoder: &mut Decoder<'_>) -> Result<SnpEvidence, EvidenceError> {
    let mut snp = SnpEvidence::default();
    decoder.key(2)?;
    for _ in 0..decoder.array(snp::MAX_CERTIFICATES)? {
        let certificate = decoder.bytes(snp::MAX_CERTIFICATE_BYTES)?;
        snp.certificates.push(certificate.to_vec());
    }
    decoder.key(3)?;
    for _ in 0..decoder.array(snp::MAX_REVOCATION_LISTS)? {
        let list = decoder.bytes(MAX_CRL_BYTES)?;
        snp.revocation_lists.push(list.to_vec());
    }
    Ok(snp)
}

fn encode_tdx(encoder: &mut Encoder, tdx: &TdxEvidence) {
    let given = &tdx.collateral;
    encoder.map(8);
    for (key, part) in [
        (1, &tdx.quote),
        (2, &tdx.event_log),
        (3, &given.tcb_info),
        (4, &given.tcb_info_signature),
        (5, &given.enclave_identity),
        (6, &given.enclave_identity_signature),
        (7, &given.signer),
    ] {
        encoder.uint(key).bytes(part);
    }
    encoder.uint(8).array(given.revocation_lists.len());
    for list in &given.revocation_lists {
        encoder.bytes(list);
    }
}

fn decode_tdx(decoder: &mut Decoder<'_>) -> Result<TdxEvidence, EvidenceError> {
    let mut tdx = TdxEvidence::default();
    let given = &mut tdx.collateral;
    decoder.map(8)?;
    for (key, part, most) in [
        (1, &mut tdx.quote, tdx::MAX_QUOTE_BYTES),
        (2, &mut tdx.event_log, MAX_EVENT_LOG_BYTES),
        (3, &mut given.tcb_info, tdx::MAX_DOCUMENT_BYTES),
        (4, &mut given.tcb_info_signature, tdx::SIGNATURE_BYTES),
        (5, &mut given.enclave_identity, tdx::MAX_DOCUMENT_BYTES),
        (
            6,
            &mut given.enclave_identity_signature,
            tdx::SIGNATURE_BYTES,
        ),
        (7, &mut given.signer, tdx::MAX_CERTIFICATE_BYTES),
    ] {
        decoder.key(key)?;
        *part = decoder.bytes(most)?.to_vec();
    }
    decoder.key(8)?;
    for _ in 0..decoder.array(tdx::MAX_REVOCATION_LISTS)? {
        let list = decoder.bytes(MAX_CRL_BYTES)?;
        given.revocation_lists.push(list.to_vec());
    }
    Ok(tdx)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let mut tpm = TpmEvidence {
            attest: vec![1; 30],
            signature: vec![2; 300],
            event_log: vec![3; 70_000],
            certificates: vec![vec![4; 500], vec![5; 600]],
            ..TpmEvidence::default()
        };
        tpm.registers[14].0[47] = 6;
        Evidence {
            platform: Platform::Tpm(tpm),
            configuration: b"version = 1".to_vec(),
            gpu: GpuEvidence::default(),
            release: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = evidence().encode();
        assert_eq!(Evidence::decode(&bytes), Ok(evidence()));
    }

    #[test]
    fn snp_evidence_is_read_back() {
        let snp = SnpEvidence {
            report: vec![1; snp::REPORT_BYTES],
            certificates: vec![vec![2; 1400], vec![3; 1700]],
            revocation_lists: vec![vec![4; 900]],
        };
        let evidence = Evidence {
            platform: Platform::Snp(snp),
            ..evidence()
        };
        assert_eq!(Evidence::decode(&evidence.encode()), Ok(evidence));
    }

    #[test]
    fn tdx_evidence_is_read_back() {
        let tdx = TdxEvidence {
            quote: vec![1; 5006],
            event_log: vec![2; 40_000],
            collateral: tdx::Collateral {
                tcb_info: vec![3; 4113],
                tcb_info_signature: vec![4; 64],
                enclave_identity: vec![5; 461],
                enclave_identity_signature: vec![6; 64],
                signer: vec![7; 650],
                revocation_lists: vec![vec![8; 290], vec![9; 3300]],
            },
        };
        let evidence = Evidence {
            platform: Platform::Tdx(tdx),
            ..evidence()
        };
        assert_eq!(Evidence::decode(&evidence.encode()), Ok(evidence));
    }

    #[test]
    fn gpu_evidence_is_read_back_and_nothing_has_one_form() {
        let device = |byte| DeviceEvidence {
            report: vec![byte; 4274],
            certificates: vec![vec![byte; 900]; 4],
        };
        let mut evidence = Evidence {
            gpu: GpuEvidence {
                devices: vec![device(1), device(2)],
                manifests: vec![vec![3; 20_000]],
                revocation_lists: vec![vec![4; 300]],
                statuses: vec![vec![5; 900]; 3],
            },
            ..evidence()
        };
        for statuses in [3, 0] {
            evidence.gpu.statuses.truncate(statuses);
            let bytes = evidence.encode();
            assert_eq!(Evidence::decode(&bytes), Ok(evidence.clone()));
        }
        let digest = evidence.gpu_digest();
        assert_ne!(digest, gpu_digest());
        evidence.gpu.manifests.clear();
        assert_eq!(evidence.gpu_digest(), digest);
        evidence.gpu.devices[1].report[0] ^= 1;
        assert_ne!(evidence.gpu_digest(), digest);
        // key 5, an array, key 6, no bytes
        let empty = super::tests::evidence().encode();
        let head = &empty[..empty.len() - 4];
        assert_eq!(empty[head.len()..], [5, 0x80, 6, 0x40]);
        let no_statuses = [0x84, 0x80, 0x81, 0x41, 0, 0x80, 0x80];
        for item in [
            &[0x83, 0x80, 0x80, 0x80][..],
            &[0x84, 0x80, 0x80, 0x80, 0x80],
            &no_statuses,
            &[0x81, 0x80],
        ] {
            let other = [head, &[5], item, &[6, 0x40]].concat();
            assert_eq!(Evidence::decode(&other), Err(EvidenceError::Gpu));
        }
    }

    #[test]
    fn the_gpu_digest_is_of_an_empty_list() {
        assert_eq!(evidence().gpu_digest(), Digest::sha256(&[0x80]).0);
        assert_eq!(gpu_digest(), Digest::sha256(&[0x80]).0);
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let mut bytes = evidence().encode();
        for length in (0..bytes.len()).step_by(97) {
            assert_eq!(
                Evidence::decode(&bytes[..length]),
                Err(EvidenceError::Cbor(CborError::Truncated)),
                "{length}"
            );
        }
        bytes.push(0);
        assert_eq!(
            Evidence::decode(&bytes),
            Err(EvidenceError::Cbor(CborError::Trailing))
        );
    }

    #[test]
    fn limits_versions_and_platforms_are_refused() {
        let large = vec![0; MAX_EVIDENCE_BYTES + 1];
        assert_eq!(
            Evidence::decode(&large),
            Err(EvidenceError::TooLarge { found: large.len() })
        );
        let bytes = evidence().encode();
        let mut version = bytes.clone();
        version[2] = 2;
        assert_eq!(
            Evidence::decode(&version),
            Err(EvidenceError::Version { found: 2 })
        );
        let mut platform = bytes.clone();
        platform[5] = b'T';
        assert_eq!(Evidence::decode(&platform), Err(EvidenceError::Platform));
        let array = bytes.iter().position(|byte| *byte == 0x8f).unwrap();
        let mut registers = bytes;
        registers[array] = 0x8e;
        assert_eq!(
            Evidence::decode(&registers),
            Err(EvidenceError::Registers {
                expected: 15,
                found: 14
            })
        );
    }
}
