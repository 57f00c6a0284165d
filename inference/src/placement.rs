//! Where a model is computed: on the processor, or on a GPU if there is one that can.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::engine::{Engine, EngineLimits};
use crate::error::LoadError;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if one can be used, else the processor; [`Chosen`] says which and why.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or nothing.
    Cuda,
}

/// Not `auto`, `cpu` or `cuda`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a device is auto, cpu or cuda")]
pub struct DeviceChoiceError;

impl FromStr for DeviceChoice {
    type Err = DeviceChoiceError;

    fn from_str(text: &str) -> Result<Self, DeviceChoiceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda),
            _ => Err(DeviceChoiceError),
        }
    }
}

/// Which GPU, and how.
#[derive(Clone, Debug)]
pub struct CudaOptions {
    /// What `make kernels` gives.
    pub kernels: PathBuf,
    /// The driver's number of the GPU.
    pub number: usize,
    /// Whether weights travel by way of pinned memory.
    pub pinned: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            kernels: "build/kernels".into(),
            number: 0,
            pinned: false,
        }
    }
}

/// What a model is computed on.
#[derive(Debug)]
pub enum Chosen {
    /// The processor, as it was asked for.
    Cpu,
    /// The processor, as no GPU can be used.
    CpuInstead(LoadError),
    /// A GPU.
    Cuda,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("computing on the CPU"),
            Self::CpuInstead(reason) => write!(f, "computing on the CPU: {reason}"),
            Self::Cuda => f.write_str("computing on a GPU"),
        }
    }
}

impl Engine {
    /// [`Engine::open`] on what `choice` says.
    pub fn open_on(
        model: &Path,
        limits: EngineLimits,
        choice: DeviceChoice,
        options: &CudaOptions,
    ) -> Result<(Self, Chosen), LoadError> {
        chosen(model, limits, choice, |limits| {
            Self::cuda(model, limits, options)
        })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_: &Path, _: EngineLimits, _: &CudaOptions) -> Result<Self, LoadError> {
        Err(LoadError::NotBuilt)
    }

    #[cfg(feature = "cuda")]
    fn cuda(model: &Path, limits: EngineLimits, options: &CudaOptions) -> Result<Self, LoadError> {
        let CudaOptions {
            kernels,
            number,
            pinned,
        } = options.clone();
        let staging = match pinned {
            true => kernels::Staging::Pinned,
            false => kernels::Staging::Pageable,
        };
        let open = move || kernels::Gpu::open(number, &kernels, staging);
        Self::open_on_device(model, limits, crate::DeviceOptions::default(), open)
    }

    /// The engine on the device that `open` gives, on the device's own thread.
    #[cfg(feature = "cuda")]
    pub fn open_on_device<D: kernels::Device>(
        model: &Path,
        limits: EngineLimits,
        options: crate::DeviceOptions,
        open: impl FnOnce() -> Result<D, kernels::DeviceError> + Send + 'static,
    ) -> Result<Self, LoadError> {
        Self::open_by(model, limits, |model, limits| {
            crate::device::start(model, limits, options, open)
        })
    }
}

/// The processor takes a GPU's place where that was allowed, and not where the model or the limits
/// are at fault.
fn chosen(
    model: &Path,
    limits: EngineLimits,
    choice: DeviceChoice,
    cuda: impl FnOnce(EngineLimits) -> Result<Engine, LoadError>,
) -> Result<(Engine, Chosen), LoadError> {
    let on_cpu = |limits, chosen| Ok((Engine::open(model, limits)?, chosen));
    if choice == DeviceChoice::Cpu {
        return on_cpu(limits, Chosen::Cpu);
    }
    match cuda(limits.clone()) {
        Ok(engine) => Ok((engine, Chosen::Cuda)),
        Err(reason) if choice == DeviceChoice::Auto && reason.is_the_devices() => {
            on_cpu(limits, Chosen::CpuInstead(reason))
        }
        Err(error) => Err(error),
    }
}

impl LoadError {
    /// Whether another device may do better.
    fn is_the_devices(&self) -> bool {
        match self {
            Self::NotBuilt => true,
            #[cfg(feature = "cuda")]
            Self::Device(_) => true,
            _ => false,
        }
    }
}
