//! Evidence as NVIDIA's own tools write it: a JSON list, one object for each device.
//!
//! ```text
//! [{ "arch": "HOPPER", "nonce": HEX, "evidence": BASE64 of the report,
//!    "certificate": BASE64 of certificates in PEM form, leaf first, … }]
//! ```
//!
//! Only `evidence` and `certificate` are read: the rest says again what the report says, unsigned.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use x509_cert::der::pem;

use super::{
    DeviceEvidence, MAX_CERTIFICATE_BYTES, MAX_CERTIFICATES, MAX_DEVICES, MAX_REPORT_BYTES,
};

/// Longest file.
pub const MAX_FILE_BYTES: usize = 1 << 20;

const END: &str = "-----END CERTIFICATE-----";

/// Why a file is not evidence in NVIDIA's form. Devices count from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("{found} bytes, {MAX_FILE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not a JSON list of objects with `evidence` and `certificate`.
    #[error("not a JSON list of objects with \"evidence\" and \"certificate\"")]
    Json,
    /// No device, or too many.
    #[error("{found} devices, 1 to {MAX_DEVICES} expected")]
    Devices {
        /// How many were found.
        found: usize,
    },
    /// The evidence is not Base64, or too long.
    #[error("device {device}: \"evidence\" is not Base64 of a report")]
    Report {
        /// Which device.
        device: usize,
    },
    /// The certificates are not Base64 of certificates in PEM form, or too many or too long.
    #[error("device {device}: \"certificate\" is not Base64 of certificates in PEM form")]
    Certificates {
        /// Which device.
        device: usize,
    },
}

#[derive(Deserialize)]
struct Device {
    evidence: String,
    certificate: String,
}

impl DeviceEvidence {
    /// Reads a file of NVIDIA's tools, without believing it.
    pub fn from_file(bytes: &[u8]) -> Result<Vec<Self>, FileError> {
        if bytes.len() > MAX_FILE_BYTES {
            return Err(FileError::TooLarge { found: bytes.len() });
        }
        let devices: Vec<Device> = serde_json::from_slice(bytes).map_err(|_| FileError::Json)?;
        let found = devices.len();
        if !(1..=MAX_DEVICES).contains(&found) {
            return Err(FileError::Devices { found });
        }
        let devices = (1..).zip(&devices).map(|(device, given)| {
            let report = STANDARD.decode(&given.evidence).ok();
            let report = report.filter(|report| report.len() <= MAX_REPORT_BYTES);
            let pem = STANDARD.decode(&given.certificate).ok();
            let certificates = pem.and_then(|pem| certificates(&pem));
            Ok(Self {
                report: report.ok_or(FileError::Report { device })?,
                certificates: certificates.ok_or(FileError::Certificates { device })?,
            })
        });
        devices.collect()
    }

    /// The certificates of the first device, in PEM form as the driver gives them.
    pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<Vec<u8>>, FileError> {
        certificates(pem).ok_or(FileError::Certificates { device: 1 })
    }
}

fn certificates(pem: &[u8]) -> Option<Vec<Vec<u8>>> {
    // The driver ends its text with a zero.
    let text = std::str::from_utf8(pem.strip_suffix(&[0]).unwrap_or(pem)).ok()?;
    let parts = text.split_inclusive(END).map(str::trim);
    let mut certificates = Vec::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let (label, der) = pem::decode_vec(part.as_bytes()).ok()?;
        let fits = label == "CERTIFICATE" && der.len() <= MAX_CERTIFICATE_BYTES;
        if !fits || certificates.len() == MAX_CERTIFICATES {
            return None;
        }
        certificates.push(der);
    }
    Some(certificates)
}
