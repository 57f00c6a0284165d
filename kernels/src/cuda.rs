//! A GPU through its driver, which is looked for at run time. The only code here that is not safe
//! by itself.

#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::c_void;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUfunction_attribute, CUresult};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr,
    DriverError, PinnedHostSlice, result,
};
use cudarc::nvrtc::Ptx;
use zeroize::Zeroize;

use crate::cubins::{self, Architecture};
use crate::{Argument, Device, DeviceError, Launch};

/// The oldest CUDA whose drivers take these cubins, as 1000 * major + 10 * minor.
const NEEDED: i32 = 13_000;
/// A block may have so much shared memory without asking.
const SHARED_UNASKED: u32 = 48 << 10;
/// Bytes of each of the two pinned buffers.
const PINNED_BYTES: usize = 8 << 20;

/// How bytes travel to the GPU. What is faster depends on the machine: under confidential computing
/// the driver encrypts through buffers of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Staging {
    /// From where they are; the driver copies them first.
    #[default]
    Pageable,
    /// By way of two buffers that the GPU reads itself, one filled while the other is read.
    Pinned,
}

/// A buffer that the GPU reads.
#[derive(Debug)]
struct Pinned {
    memory: PinnedHostSlice<u8>,
    /// Passed when the GPU has read it.
    read: Option<CudaEvent>,
}

/// Launches that were kept, with the memory that they name.
pub struct Graph {
    graph: CudaGraph,
    _memory: Vec<Rc<CudaSlice<u8>>>,
}

/// One GPU with the kernels of its architecture, and one stream: launches and copies take effect in
/// order.
#[derive(Debug)]
pub struct Gpu {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    modules: Vec<Arc<CudaModule>>,
    functions: RefCell<HashMap<&'static str, CudaFunction>>,
    /// With [`Staging::Pinned`]; the first is the next.
    pinned: RefCell<Vec<Pinned>>,
    /// While a graph is made: the memory that it names.
    captured: RefCell<Option<Vec<Rc<CudaSlice<u8>>>>>,
    architecture: Architecture,
    /// Set by an error after which nothing on the device can be trusted.
    lost: Cell<Option<u32>>,
}

impl Gpu {
    /// The GPU of this number, with the kernels in `folder` (what `make kernels` gives).
    pub fn open(number: usize, folder: &Path, staging: Staging) -> Result<Self, DeviceError> {
        driver()?;
        let context = CudaContext::new(number).map_err(|error| refusal(error, 0))?;
        let (major, minor) = context
            .compute_capability()
            .map_err(|error| refusal(error, 0))?;
        let unknown = DeviceError::UnknownGpu { major, minor };
        let architecture = Architecture::of(major, minor).ok_or(unknown)?;
        let modules = cubins::open(folder, architecture)?;
        let load = |module: Vec<u8>| context.load_module(Ptx::from_binary(module));
        let modules: Result<Vec<_>, _> = modules.into_iter().map(load).collect();
        let modules = modules.map_err(|error| refusal(error, 0))?;
        // SAFETY: there is one stream, on which everything is in order without events.
        unsafe { context.disable_event_tracking() };
        let mut pinned = Vec::new();
        if staging == Staging::Pinned {
            for _ in 0..2 {
                // SAFETY: bytes are written before they are read.
                let memory = unsafe { context.alloc_pinned(PINNED_BYTES) };
                let memory = memory.map_err(|error| refusal(error, PINNED_BYTES))?;
                pinned.push(Pinned { memory, read: None });
            }
        }
        Ok(Self {
            pinned: RefCell::new(pinned),
            captured: RefCell::default(),
            stream: context.new_stream().map_err(|error| refusal(error, 0))?,
            context,
            modules,
            functions: RefCell::default(),
            architecture,
            lost: Cell::new(None),
        })
    }

    /// Which kernels it runs.
    pub fn architecture(&self) -> Architecture {
        self.architecture
    }

    /// What its maker calls it.
    pub fn name(&self) -> Result<String, DeviceError> {
        self.context.name().map_err(|error| self.fault(error, 0))
    }

    /// How long the device needs for what `run` starts, in milliseconds.
    pub fn time_ms<E: From<DeviceError>>(
        &self,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<f32, E> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = || self.stream.record_event(flags);
        let start = event().map_err(|error| self.fault(error, 0))?;
        run()?;
        let end = event().map_err(|error| self.fault(error, 0))?;
        let elapsed = start.elapsed_ms(&end);
        Ok(elapsed.map_err(|error| self.fault(error, 0))?)
    }

    /// Remembers an error that ends all work.
    fn fault(&self, error: DriverError, bytes: usize) -> DeviceError {
        let refusal = refusal(error, bytes);
        if let DeviceError::Lost { code } = refusal {
            self.lost.set(Some(code));
        }
        refusal
    }

    fn working(&self) -> Result<(), DeviceError> {
        match self.lost.get() {
            Some(code) => Err(DeviceError::Lost { code }),
            None => Ok(()),
        }
    }

    fn function(&self, launch: &Launch<'_, CudaSlice<u8>>) -> Result<CudaFunction, DeviceError> {
        let name = launch.kernel();
        if let Some(function) = self.functions.borrow().get(name) {
            return Ok(function.clone());
        }
        let mut found = self.modules.iter().map(|module| module.load_function(name));
        let function = found
            .find_map(Result::ok)
            .ok_or(DeviceError::NoKernel { name })?;
        if launch.shared_bytes() > SHARED_UNASKED {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(attribute, launch.shared_bytes() as i32)
                .map_err(|error| self.fault(error, 0))?;
        }
        let known = function.clone();
        self.functions.borrow_mut().insert(name, known);
        Ok(function)
    }
}

impl Gpu {
    /// Through the pinned buffers, in turns.
    fn write_pinned(
        &self,
        buffers: &mut [Pinned],
        to: &CudaSlice<u8>,
        at: usize,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        let address = to.device_ptr(&self.stream).0 + at as u64;
        for (index, chunk) in bytes.chunks(PINNED_BYTES).enumerate() {
            let place = index % buffers.len();
            let buffer = &mut buffers[place];
            if let Some(read) = buffer.read.take() {
                read.synchronize()?;
            }
            let memory = &mut buffer.memory.as_mut_slice()?[..chunk.len()];
            memory.copy_from_slice(chunk);
            let address = address + (index * PINNED_BYTES) as u64;
            // SAFETY: the caller has checked that `to` holds `bytes` from `at` on; the buffer is
            // not written before the event that follows has passed, and outlives it.
            unsafe { result::memcpy_htod_async(address, memory, self.stream.cu_stream()) }?;
            buffer.read = Some(self.stream.record_event(None)?);
        }
        // The next write begins with the buffer that has waited longest.
        let used = bytes.chunks(PINNED_BYTES).len() % buffers.len();
        buffers.rotate_left(used);
        Ok(())
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Prompts have passed through these buffers.
        for buffer in self.pinned.get_mut() {
            if let Ok(memory) = buffer.memory.as_mut_slice() {
                memory.zeroize();
            }
        }
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Graph")
    }
}

/// Refuses a machine without a driver, and one whose driver is too old.
fn driver() -> Result<(), DeviceError> {
    // SAFETY: looks for a library by name, as loading it later does.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver);
    }
    let mut found = 0;
    // SAFETY: writes one integer; allowed before the driver is initialised.
    let answer = unsafe { sys::cuDriverGetVersion(&mut found) };
    if answer != CUresult::CUDA_SUCCESS {
        return Err(refusal(DriverError(answer), 0));
    }
    match found >= NEEDED {
        true => Ok(()),
        false => Err(DeviceError::OldDriver {
            found,
            needed: NEEDED,
        }),
    }
}

fn refusal(error: DriverError, bytes: usize) -> DeviceError {
    let code = error.0 as u32;
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory { bytes },
        CUresult::CUDA_ERROR_NO_DEVICE => DeviceError::NoDriver,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_UNKNOWN => DeviceError::Lost { code },
        _ => DeviceError::Driver { code },
    }
}

fn range(memory: &CudaSlice<u8>, at: usize, bytes: usize) -> Result<usize, DeviceError> {
    let end = at.checked_add(bytes).filter(|end| *end <= memory.len());
    end.ok_or(DeviceError::OutOfBounds { at, bytes })
}

impl Device for Gpu {
    type Memory = CudaSlice<u8>;
    type Graph = Graph;

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>, DeviceError> {
        self.working()?;
        let memory = self.stream.alloc_zeros(bytes);
        memory.map_err(|error| self.fault(error, bytes))
    }

    fn write(&self, to: &CudaSlice<u8>, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.working()?;
        range(to, at, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let mut pinned = self.pinned.borrow_mut();
        let done = if pinned.is_empty() {
            let address = to.device_ptr(&self.stream).0 + at as u64;
            // SAFETY: the range is within the memory. The driver has copied what is pageable before
            // it returns.
            unsafe { result::memcpy_htod_async(address, bytes, self.stream.cu_stream()) }
        } else {
            self.write_pinned(&mut pinned, to, at, bytes)
        };
        done.map_err(|error| self.fault(error, 0))
    }

    fn read(&self, from: &CudaSlice<u8>, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.working()?;
        let end = range(from, at, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let started = self.stream.memcpy_dtoh(&from.slice(at..end), bytes);
        let done = started.and_then(|()| self.stream.synchronize());
        done.map_err(|error| self.fault(error, 0))
    }

    fn launch(&self, launch: &Launch<'_, CudaSlice<u8>>) -> Result<(), DeviceError> {
        self.working()?;
        let function = self.function(launch)?;
        // Each in eight bytes of its own; a kernel reads as many of them as its parameter has.
        let mut values = Vec::with_capacity(launch.arguments().len());
        for argument in launch.arguments() {
            values.push(match argument {
                Argument::Memory(memory, at) => {
                    if !Arc::ptr_eq(memory.context(), &self.context) {
                        return Err(DeviceError::OtherDevice);
                    }
                    if let Some(captured) = self.captured.borrow_mut().as_mut() {
                        captured.push(Rc::clone(memory));
                    }
                    memory.device_ptr(&self.stream).0 + *at as u64
                }
                Argument::Null => 0,
                Argument::I32(number) => u64::from(*number as u32),
                Argument::F32(number) => u64::from(number.to_bits()),
            });
        }
        let pointer = |value: &mut u64| std::ptr::from_mut(value).cast::<c_void>();
        let mut pointers: Vec<*mut c_void> = values.iter_mut().map(pointer).collect();
        let [x, y, z] = launch.grid();
        // SAFETY: only launchers of this crate make a `Launch`. They have compared each tensor's
        // length with the shape that the kernel is given, in the order of its parameters; indices
        // in memory come from a checked `Plan`, or are checked by the kernel. The memory is of this
        // context, and freed in the order of this stream. `values` outlives the call, which copies
        // what `pointers` point to.
        let started = unsafe {
            result::launch_kernel(
                function.cu_function(),
                (x, y, z),
                (launch.threads(), 1, 1),
                launch.shared_bytes(),
                self.stream.cu_stream(),
                &mut pointers,
            )
        };
        started.map_err(|error| self.fault(error, 0))
    }

    fn capture<E: From<DeviceError>>(
        &self,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        self.working()?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        let begun = self.stream.begin_capture(mode);
        begun.map_err(|error| self.fault(error, 0))?;
        *self.captured.borrow_mut() = Some(Vec::new());
        let done = run();
        let memory = self.captured.borrow_mut().take().unwrap_or_default();
        // Ended in any case: the stream is of no use before.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        done?;
        let graph = graph.map_err(|error| self.fault(error, 0))?;
        let code = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED as u32;
        Ok(Graph {
            graph: graph.ok_or(DeviceError::Driver { code })?,
            _memory: memory,
        })
    }

    fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        self.working()?;
        graph.graph.launch().map_err(|error| self.fault(error, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_driver_the_refusal_says_so() {
        let opened = Gpu::open(0, Path::new("/nonexistent"), Staging::Pageable);
        // SAFETY: as above.
        match unsafe { sys::is_culib_present() } {
            false => assert!(matches!(opened, Err(DeviceError::NoDriver))),
            true => assert!(opened.is_err()),
        }
    }

    #[test]
    fn a_failed_device_is_told_from_a_refusal() {
        let lost = |code| matches!(refusal(DriverError(code), 7), DeviceError::Lost { .. });
        assert!(lost(CUresult::CUDA_ERROR_ECC_UNCORRECTABLE));
        assert!(lost(CUresult::CUDA_ERROR_LAUNCH_TIMEOUT));
        assert!(!lost(CUresult::CUDA_ERROR_INVALID_VALUE));
        let full = refusal(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY), 7);
        assert!(matches!(full, DeviceError::OutOfMemory { bytes: 7 }));
    }
}
