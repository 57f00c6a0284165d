//! ATTESTATION_REPORT, versions 2 to 5. All numbers are little-endian.
//!
//! ```text
//! 000 version ‖ guest SVN     050 report data (64)        180 reported TCB (8)
//! 008 guest policy (8)        090 launch digest (48)      188 CPUID (3), version 3 on ‖ 0 (21)
//! 010 family id (16)          0c0 host data (32)          1a0 chip id (64)
//! 020 image id (16)           0e0 ID key digest (48)      1e0 committed TCB (8)
//! 030 VMPL ‖ algorithm        110 author key digest (48)  1e8 firmware, current ‖ committed
//! 038 current TCB (8)         140 report id (32)          1f0 launch TCB (8)
//! 040 platform info (8)       160 id of the agent (32)    1f8 mitigations, launch ‖ now: v. 5
//! 048 flags ‖ 0 (4)                                       208 0 (152)
//! 2a0 R (72) ‖ S (72) ‖ 0 (368)
//! ```
//!
//! Bytes that must be zero are checked, so that a later version cannot pass for a known one.

use std::fmt;

use p384::ecdsa::Signature;

use super::SigningKey;
use crate::Digest;
use crate::reader::Reader;

/// Length of a report.
pub const REPORT_BYTES: usize = 1184;

/// The part that is signed.
const SIGNED_BYTES: usize = 0x2a0;
const ECDSA_P384_SHA384: u32 = 1;
/// Bits of the guest policy that have a meaning; bit 17 is always one.
const GUEST_POLICY_BITS: u64 = 0x03ff_ffff;
const GUEST_POLICY_ONE: u64 = 1 << 17;
/// Bits of the platform info that have a meaning.
const PLATFORM_INFO_BITS: u64 = 0b1011_1111;

/// An attestation report, read and not yet believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Version of the layout, 2 to 5.
    pub version: u32,
    /// Security version of the guest.
    pub guest_svn: u32,
    /// What the guest was launched with, as bits.
    pub policy: u64,
    /// Family in the ID block.
    pub family_id: Digest<16>,
    /// Image in the ID block.
    pub image_id: Digest<16>,
    /// Privilege level that asked for the report.
    pub vmpl: u32,
    /// TCB that runs.
    pub current_tcb: [u8; 8],
    /// What the machine is set to, as bits.
    pub platform_info: u64,
    /// What kind of key signed.
    pub signing_key: SigningKey,
    /// What the guest asked to be signed.
    pub report_data: [u8; 64],
    /// Launch digest.
    pub measurement: Digest<48>,
    /// What the host gave at launch.
    pub host_data: Digest<32>,
    /// SHA-384 of the key that signed the ID block.
    pub id_key_digest: Digest<48>,
    /// SHA-384 of the key that certified the ID key.
    pub author_key_digest: Digest<48>,
    /// TCB that the signing key was derived from.
    pub reported_tcb: [u8; 8],
    /// Family and model of the processor, from version 3 on.
    pub cpuid: Option<[u8; 2]>,
    /// The chip; zero where the host masks it.
    pub chip_id: Digest<64>,
    /// TCB below which the machine cannot go any more.
    pub committed_tcb: [u8; 8],
    /// Firmware that runs.
    pub current_firmware: Firmware,
    /// Firmware below which the machine cannot go any more.
    pub committed_firmware: Firmware,
    /// TCB when the guest was launched.
    pub launch_tcb: [u8; 8],
    /// Mitigations at launch and now, from version 5 on.
    pub mitigations: Option<[u64; 2]>,
}

/// A version of the SNP firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Firmware {
    /// Major version of the interface.
    pub major: u8,
    /// Minor version of the interface.
    pub minor: u8,
    /// Build.
    pub build: u8,
}

/// Why bytes are not a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Of another length.
    #[error("{found} bytes, {REPORT_BYTES} expected")]
    Length {
        /// Length found.
        found: usize,
    },
    /// Of a version that this program does not know.
    #[error("version {found}, 2 to 5 expected")]
    Version {
        /// Version found.
        found: u32,
    },
    /// Signed by another algorithm than ECDSA with P-384 and SHA-384.
    #[error("signature algorithm {found}, {ECDSA_P384_SHA384} (ECDSA P-384, SHA-384) expected")]
    Algorithm {
        /// Algorithm found.
        found: u32,
    },
    /// Signed by no key, or by one of a kind that this program does not know.
    #[error("signing key {found}, 0 (VCEK) or 1 (VLEK) expected")]
    SigningKey {
        /// Kind of key found.
        found: u32,
    },
    /// The host has the chip's key masked: nothing is signed.
    #[error("the host masks the chip's key, so that nothing is signed")]
    MaskedKey,
    /// The guest policy has a bit that this program does not know.
    #[error("guest policy {found:#x}: bits that must be fixed are not")]
    GuestPolicy {
        /// Policy found.
        found: u64,
    },
    /// The platform info has a bit that this program does not know.
    #[error("platform info {found:#x}: bits that must be zero are not")]
    PlatformInfo {
        /// Platform info found.
        found: u64,
    },
    /// A byte that must be zero is not.
    #[error("a byte of the 0x{offset:x} field is not zero, and must be")]
    Reserved {
        /// Where the field starts.
        offset: usize,
    },
    /// R or S is not a scalar of P-384.
    #[error("the signature is not one of P-384")]
    Signature,
}

impl Report {
    /// Reads a report. Nothing in it is believed before its signature is verified.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReportError> {
        let found = bytes.len();
        if found != REPORT_BYTES {
            return Err(ReportError::Length { found });
        }
        check_fixed(bytes)?;
        Fields(Reader(bytes))
            .report()
            .ok_or(ReportError::Length { found })
    }
}

/// What must hold before a field is read: version, algorithm, flags, and bytes that are zero.
fn check_fixed(bytes: &[u8]) -> Result<(), ReportError> {
    let version = u32_at(bytes, 0);
    if !(2..=5).contains(&version) {
        return Err(ReportError::Version { found: version });
    }
    let found = u32_at(bytes, 0x34);
    if found != ECDSA_P384_SHA384 {
        return Err(ReportError::Algorithm { found });
    }
    let flags = u32_at(bytes, 0x48);
    if flags & 0b10 != 0 {
        return Err(ReportError::MaskedKey);
    }
    if flags >> 5 != 0 {
        return Err(ReportError::Reserved { offset: 0x48 });
    }
    let found = u64_at(bytes, 0x08);
    if found & !GUEST_POLICY_BITS != 0 || found & GUEST_POLICY_ONE == 0 {
        return Err(ReportError::GuestPolicy { found });
    }
    let found = u64_at(bytes, 0x40);
    if found & !PLATFORM_INFO_BITS != 0 {
        return Err(ReportError::PlatformInfo { found });
    }
    let cpuid = if version >= 3 { 0x18b } else { 0x188 };
    let mitigations = if version >= 5 { 0x208 } else { 0x1f8 };
    for (start, end) in [
        (0x4c, 0x50),
        (cpuid, 0x1a0),
        (0x1eb, 0x1ec),
        (0x1ef, 0x1f0),
        (mitigations, SIGNED_BYTES),
        (0x2a0 + 48, 0x2a0 + 72),
        (0x2e8 + 48, 0x2e8 + 72),
        (0x330, REPORT_BYTES),
    ] {
        if bytes[start..end].iter().any(|byte| *byte != 0) {
            return Err(ReportError::Reserved { offset: start });
        }
    }
    match flags >> 2 & 7 {
        0 | 1 => Ok(()),
        found => Err(ReportError::SigningKey { found }),
    }
}

/// The part of a report that is signed, and its signature. `bytes` have passed [`Report::parse`].
pub(super) fn signed(bytes: &[u8]) -> Result<(&[u8], Signature), ReportError> {
    let found = bytes.len();
    let (part, signature) = bytes
        .split_at_checked(SIGNED_BYTES)
        .ok_or(ReportError::Length { found })?;
    let scalar = |start: usize| -> Option<[u8; 48]> {
        let mut scalar: [u8; 48] = signature.get(start..start + 48)?.try_into().ok()?;
        scalar.reverse();
        Some(scalar)
    };
    let (r, s) = scalar(0)
        .zip(scalar(72))
        .ok_or(ReportError::Length { found })?;
    let signature = Signature::from_scalars(r, s).map_err(|_| ReportError::Signature)?;
    Ok((part, signature))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = &bytes[at..at + 4];
    field
        .iter()
        .rev()
        .fold(0, |n, byte| n << 8 | u32::from(*byte))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads the fields one after the other.
struct Fields<'a>(Reader<'a>);

impl Fields<'_> {
    fn report(&mut self) -> Option<Report> {
        let version = self.0.u32_le()?;
        let guest_svn = self.0.u32_le()?;
        let policy = self.0.u64_le()?;
        let (family_id, image_id) = (self.digest()?, self.digest()?);
        let vmpl = self.0.u32_le()?;
        self.0.u32_le()?;
        let current_tcb = self.0.array()?;
        let platform_info = self.0.u64_le()?;
        let signing_key = match self.0.u32_le()? >> 2 & 7 {
            0 => SigningKey::Vcek,
            _ => SigningKey::Vlek,
        };
        self.0.u32_le()?;
        let report_data = self.0.array()?;
        let (measurement, host_data) = (self.digest()?, self.digest()?);
        let (id_key_digest, author_key_digest) = (self.digest()?, self.digest()?);
        self.0.take(64)?;
        let reported_tcb = self.0.array()?;
        let [family, model, ..] = self.0.array::<24>()?;
        let chip_id = self.digest()?;
        let committed_tcb = self.0.array()?;
        let (current_firmware, committed_firmware) = (self.firmware()?, self.firmware()?);
        let launch_tcb = self.0.array()?;
        let mitigations = [self.0.u64_le()?, self.0.u64_le()?];
        Some(Report {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            current_tcb,
            platform_info,
            signing_key,
            report_data,
            measurement,
            host_data,
            id_key_digest,
            author_key_digest,
            reported_tcb,
            cpuid: (version >= 3).then_some([family, model]),
            chip_id,
            committed_tcb,
            current_firmware,
            committed_firmware,
            launch_tcb,
            mitigations: (version >= 5).then_some(mitigations),
        })
    }

    fn digest<const N: usize>(&mut self) -> Option<Digest<N>> {
        self.0.array().map(Digest)
    }

    fn firmware(&mut self) -> Option<Firmware> {
        let [build, minor, major, _] = self.0.array()?;
        Some(Firmware {
            major,
            minor,
            build,
        })
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.build)
    }
}
