//! Reports of NVIDIA's GPUs, through the driver's own library, `libnvidia-ml.so.1`.
//!
//! ```text
//! nvmlInit ─▶ count = configured? ─▶ for each: report for the nonce, certificates in PEM form
//! ```
//!
//! The library is loaded when the measured configuration names GPUs, and at no other time: where
//! it is absent then, or has other GPUs to show, nothing starts. What it gives is data: clients
//! verify it. Switches have another library, which is not asked here.

use std::fmt;
use std::path::{Path, PathBuf};

use attest::gpu::{DeviceCounts, DeviceEvidence, FileError};

pub use sys::{Function, MAX_CERTIFICATE_BYTES, MAX_REPORT_BYTES};

mod sys;

/// Why there are no reports of GPUs.
#[derive(Debug, thiserror::Error)]
pub enum NvmlError {
    /// The library is not there, or is none.
    #[error("cannot load {}", .0.display())]
    Library(PathBuf),
    /// The library lacks a function: the driver is too old.
    #[error("the driver's library has no {0}")]
    Missing(Function),
    /// The library refused.
    #[error("{function} failed with {code}")]
    Refused {
        /// What was called.
        function: Function,
        /// `nvmlReturn_t`.
        code: i32,
    },
    /// The library says that it wrote nothing, or more than there was room for.
    #[error("{function} states {found} bytes, 1 to {limit} expected")]
    Size {
        /// What was called.
        function: Function,
        /// Bytes stated.
        found: u32,
        /// Room that there was.
        limit: usize,
    },
    /// Not as many GPUs as the measured configuration names.
    #[error("{expected} GPUs by the configuration, the driver has {found}")]
    Count {
        /// By the configuration.
        expected: usize,
        /// By the driver.
        found: u32,
    },
    /// The configuration names switches, whose reports this agent cannot get.
    #[error("{0} switches by the configuration: their reports cannot be had")]
    Switches(usize),
    /// The certificates of a GPU cannot be read.
    #[error("the certificates of a GPU are none: {0}")]
    Certificates(FileError),
}

/// The driver's library, or what stands in for it.
pub trait Driver: fmt::Debug + Send {
    /// How many GPUs there are.
    fn count(&self) -> Result<u32, NvmlError>;
    /// The report of a GPU for a nonce: the request for measurements, and the response.
    fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<Vec<u8>, NvmlError>;
    /// The certificates of a GPU's key in PEM form, leaf first.
    fn certificates(&self, index: u32) -> Result<Vec<u8>, NvmlError>;
}

/// The GPUs that the measured configuration names.
#[derive(Debug)]
pub struct Gpus {
    driver: Box<dyn Driver>,
    count: u32,
    certificates: Vec<Vec<Vec<u8>>>,
}

impl Gpus {
    /// Loads the driver's library, if the configuration names GPUs.
    pub fn load(path: &Path, counts: DeviceCounts) -> Result<Option<Self>, NvmlError> {
        match counts.gpus {
            0 => Ok(None),
            _ => Self::open(Box::new(sys::Library::open(path)?), counts).map(Some),
        }
    }

    /// Asks how many GPUs there are, and for their certificates, which do not change.
    pub fn open(driver: Box<dyn Driver>, counts: DeviceCounts) -> Result<Self, NvmlError> {
        if counts.switches > 0 {
            return Err(NvmlError::Switches(counts.switches));
        }
        let (expected, found) = (counts.gpus, driver.count()?);
        if usize::try_from(found) != Ok(expected) {
            return Err(NvmlError::Count { expected, found });
        }
        let certificates = (0..found).map(|index| {
            let pem = driver.certificates(index)?;
            DeviceEvidence::certificates_from_pem(&pem).map_err(NvmlError::Certificates)
        });
        Ok(Self {
            certificates: certificates.collect::<Result<_, _>>()?,
            count: found,
            driver,
        })
    }

    /// Reports of all GPUs for `nonce`.
    pub fn devices(&self, nonce: &[u8; 32]) -> Result<Vec<DeviceEvidence>, NvmlError> {
        let devices = (0..self.count).zip(&self.certificates);
        let devices = devices.map(|(index, certificates)| {
            Ok(DeviceEvidence {
                report: self.driver.report(index, nonce)?,
                certificates: certificates.clone(),
            })
        });
        devices.collect()
    }
}

#[cfg(test)]
mod tests;
