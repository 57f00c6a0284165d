//! What runs kernels, the memory they work on, and a launch.

use std::marker::PhantomData;
use std::rc::Rc;

use crate::Bf16;
use crate::cubins::CubinError;

/// Runs kernels: a GPU, or in tests its emulation. Launches and writes take effect in order; a read
/// waits for what stands before it.
pub trait Device {
    /// Some memory; dropping it gives it back.
    type Memory;

    /// Launches that run again as one.
    type Graph;

    /// So many bytes of no known content, at an address that is a multiple of 16.
    fn allocate(&self, bytes: usize) -> Result<Self::Memory, DeviceError>;

    /// Copies to the device, from byte `at` on.
    fn write(&self, to: &Self::Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError>;

    /// Copies from the device.
    fn read(&self, from: &Self::Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError>;

    /// Starts a kernel.
    fn launch(&self, launch: &Launch<'_, Self::Memory>) -> Result<(), DeviceError>;

    /// Keeps what `run` launches, and starts nothing of it. `run` neither reads nor writes. The
    /// graph keeps the memory that its launches name.
    fn capture<E: From<DeviceError>>(
        &self,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<Self::Graph, E>;

    /// Starts a graph's launches, in order, on what their memory holds by now.
    fn replay(&self, graph: &Self::Graph) -> Result<(), DeviceError>;
}

/// Why a device did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is no driver library on this machine: the CPU is to be used.
    #[error("there is no NVIDIA driver here; use the CPU")]
    NoDriver,
    /// The driver is older than the toolkit that made the cubins.
    #[error("the driver supports CUDA {found}, and the kernels need {needed}; update the driver")]
    OldDriver {
        /// What it supports, as 1000 * major + 10 * minor.
        found: i32,
        /// What is needed.
        needed: i32,
    },
    /// There are no kernels for this GPU, and none are compiled at run time.
    #[error("there are no kernels for a GPU of compute capability {major}.{minor}")]
    UnknownGpu {
        /// Of the compute capability.
        major: i32,
        /// Of the compute capability.
        minor: i32,
    },
    /// The kernels on the disk are not those of this build.
    #[error(transparent)]
    Cubin(#[from] CubinError),
    /// The device's memory is full.
    #[error("no {bytes} bytes of device memory are free")]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A copy beyond the end of its memory.
    #[error("a copy of {bytes} bytes at {at} goes beyond the memory's end")]
    OutOfBounds {
        /// Where it began.
        at: usize,
        /// How long it was.
        bytes: usize,
    },
    /// Memory that another device gave.
    #[error("the memory is another device's")]
    OtherDevice,
    /// No module has this kernel.
    #[error("there is no kernel {name}")]
    NoKernel {
        /// Its entry.
        name: &'static str,
    },
    /// The device has failed (an uncorrectable memory error, an Xid, an illegal access): nothing
    /// that it holds can be trusted, and it takes no more work.
    #[error("the device has failed with driver error {code}; it takes no more work")]
    Lost {
        /// The driver's number.
        code: u32,
    },
    /// Another refusal of the driver.
    #[error("the driver refused with error {code}")]
    Driver {
        /// The driver's number.
        code: u32,
    },
}

/// Why a kernel was not launched.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A tensor does not have the length that the shape says.
    #[error("{tensor} has {found} elements, and the shape needs {expected}")]
    Length {
        /// Which.
        tensor: &'static str,
        /// By the shape.
        expected: usize,
        /// In the tensor.
        found: usize,
    },
    /// The kernel is not made for this.
    #[error("{what} is {value}, which this kernel does not take")]
    Unsupported {
        /// Which size.
        what: &'static str,
        /// Its value.
        value: usize,
    },
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// One argument of a kernel.
#[derive(Debug)]
pub enum Argument<'a, M> {
    /// The address of some memory, so many bytes from its start.
    Memory(&'a Rc<M>, usize),
    /// No memory.
    Null,
    /// A number.
    I32(i32),
    /// A number.
    F32(f32),
}

/// A kernel with all that it needs, checked. Only launchers of this crate make one.
#[derive(Debug)]
pub struct Launch<'a, M> {
    pub(crate) kernel: &'static str,
    pub(crate) grid: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared_bytes: u32,
    pub(crate) arguments: Vec<Argument<'a, M>>,
}

impl<'a, M> Launch<'a, M> {
    /// The kernel's entry.
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// Blocks in each direction; none is zero.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.threads
    }

    /// Dynamic shared memory of a block.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// In the kernel's order.
    pub fn arguments(&self) -> &[Argument<'a, M>] {
        &self.arguments
    }
}

/// What a tensor holds. Sealed: kernels know these types and no others.
pub trait Element: Copy + sealed::Sealed {
    /// Size in bytes.
    const BYTES: usize;
    /// Appends it, little-endian.
    fn put(self, to: &mut Vec<u8>);
    /// Reads it back from `BYTES` bytes.
    fn get(from: &[u8]) -> Self;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! element {
    ($kind:ty, $bits:ty, $to:expr, $from:expr) => {
        impl sealed::Sealed for $kind {}
        impl Element for $kind {
            const BYTES: usize = size_of::<$bits>();
            fn put(self, to: &mut Vec<u8>) {
                let bits: $bits = $to(self);
                to.extend_from_slice(&bits.to_le_bytes());
            }
            fn get(from: &[u8]) -> Self {
                let mut bytes = [0; size_of::<$bits>()];
                bytes.copy_from_slice(from);
                $from(<$bits>::from_le_bytes(bytes))
            }
        }
    };
}
element!(Bf16, u16, |x: Bf16| x.0, Bf16);
element!(f32, f32, |x| x, |x| x);
element!(i32, i32, |x| x, |x| x);
element!(u32, u32, |x| x, |x| x);
element!(u8, u8, |x| x, |x| x);

/// Elements on a device, in row-major order; shapes are the launchers' to know. Parts of one share
/// its memory.
#[derive(Debug)]
pub struct Tensor<M, T> {
    memory: Rc<M>,
    /// Bytes before the first element.
    at: usize,
    len: usize,
    kind: PhantomData<T>,
}

impl<M, T: Element> Tensor<M, T> {
    /// So many elements of no known content.
    pub fn empty<D: Device<Memory = M>>(device: &D, len: usize) -> Result<Self, DeviceError> {
        let bytes = len
            .checked_mul(T::BYTES)
            .ok_or(DeviceError::OutOfMemory { bytes: usize::MAX })?;
        Ok(Self {
            memory: Rc::new(device.allocate(bytes.max(16))?),
            at: 0,
            len,
            kind: PhantomData,
        })
    }

    /// These elements.
    pub fn from<D: Device<Memory = M>>(device: &D, content: &[T]) -> Result<Self, DeviceError> {
        let mut tensor = Self::empty(device, content.len())?;
        tensor.write(device, content)?;
        Ok(tensor)
    }

    /// `len` elements from `first` on, in the same memory. Kernels read 16 bytes at once: the part
    /// begins at a multiple of that.
    pub fn part(&self, first: usize, len: usize) -> Result<Self, DeviceError> {
        let start = first.saturating_mul(T::BYTES);
        let ends = first.checked_add(len).is_some_and(|end| end <= self.len);
        if !ends || !start.is_multiple_of(16) {
            let bytes = len.saturating_mul(T::BYTES);
            return Err(DeviceError::OutOfBounds { at: start, bytes });
        }
        Ok(Self {
            memory: Rc::clone(&self.memory),
            at: self.at + start,
            len,
            kind: PhantomData,
        })
    }

    /// The same bytes as elements of another type.
    pub(crate) fn cast<U: Element>(&self) -> Tensor<M, U> {
        Tensor {
            memory: Rc::clone(&self.memory),
            at: self.at,
            len: self.len * T::BYTES / U::BYTES,
            kind: PhantomData,
        }
    }

    /// Replaces the first elements.
    pub fn write<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        content: &[T],
    ) -> Result<(), DeviceError> {
        let mut bytes = Vec::with_capacity(content.len() * T::BYTES);
        content.iter().for_each(|element| element.put(&mut bytes));
        self.write_bytes(device, 0, &bytes)
    }

    /// Replaces elements from `first` on by little-endian ones, as files hold them.
    pub fn write_bytes<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        first: usize,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let at = first.saturating_mul(T::BYTES);
        let end = at.checked_add(bytes.len());
        if end.is_none_or(|end| end > self.len * T::BYTES) {
            let bytes = bytes.len();
            return Err(DeviceError::OutOfBounds { at, bytes });
        }
        device.write(&self.memory, self.at + at, bytes)
    }

    /// All elements.
    pub fn read<D: Device<Memory = M>>(&self, device: &D) -> Result<Vec<T>, DeviceError> {
        let mut bytes = vec![0; self.len * T::BYTES];
        device.read(&self.memory, self.at, &mut bytes)?;
        Ok(bytes.chunks_exact(T::BYTES).map(T::get).collect())
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn argument(&self) -> Argument<'_, M> {
        Argument::Memory(&self.memory, self.at)
    }

    pub(crate) fn argument_at(&self, element: usize) -> Argument<'_, M> {
        Argument::Memory(&self.memory, self.at + element * T::BYTES)
    }
}
