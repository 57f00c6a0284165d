//! Why a model is not computed on a device.

use kernels::{DeviceError, LaunchError};

/// Why a device cannot be used, or not for this model. The CPU computes all models.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRefusal {
    /// No kernel does it.
    #[error("{what} cannot be computed on a GPU yet; use the CPU")]
    Unsupported {
        /// What the model has.
        what: &'static str,
    },
    /// The cache cannot hold one full context.
    #[error("a full context needs {needed} bytes of KV cache on the device, the limit is {limit}")]
    KvBytes {
        /// Bytes that one context takes.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A kernel does not take the model's sizes.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The device's thread has ended.
    #[error("the device's thread has ended")]
    Ended,
}
