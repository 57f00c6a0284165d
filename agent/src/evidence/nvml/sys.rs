//! The C side of `libnvidia-ml.so.1` (nvml.h): six functions and two structures, found at run time.
//! The only file of this crate with `unsafe` code.
//!
//! ```text
//! report       cec present 4 │ size 4 │ cec size 4 │ nonce 32 │ report 8192 │ cec report 4096
//! certificate  chain size 4 │ attestation chain size 4 │ chain 4096 │ attestation chain 5120
//! ```
//!
//! Safe from outside: whatever the library states about sizes is checked against the room that it
//! was given, and that room is ours. What cannot be checked is that the library keeps to nvml.h; it
//! is part of the measured image.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use super::{Driver, NvmlError};

/// NVML_CC_GPU_ATTESTATION_REPORT_SIZE
pub const MAX_REPORT_BYTES: usize = 0x2000;
/// NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE
pub const MAX_CERTIFICATE_BYTES: usize = 0x1400;
const CEC_REPORT_BYTES: usize = 0x1000;
const CERT_CHAIN_BYTES: usize = 0x1000;

/// `RTLD_NOW`: every symbol is there, or nothing is loaded.
const RTLD_NOW: c_int = 2;
/// `NVML_SUCCESS`
const SUCCESS: c_int = 0;

unsafe extern "C" {
    fn dlopen(path: *const c_char, mode: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// `nvmlDevice_t`
type Device = *mut c_void;
type Init = unsafe extern "C" fn() -> c_int;
type Count = unsafe extern "C" fn(*mut c_uint) -> c_int;
type Handle = unsafe extern "C" fn(c_uint, *mut Device) -> c_int;
type GetReport = unsafe extern "C" fn(Device, *mut RawReport) -> c_int;
type GetCertificate = unsafe extern "C" fn(Device, *mut RawCertificate) -> c_int;

/// `nvmlConfComputeGpuAttestationReport_t`
#[repr(C)]
struct RawReport {
    cec_present: c_uint,
    size: c_uint,
    cec_size: c_uint,
    nonce: [u8; 32],
    report: [u8; MAX_REPORT_BYTES],
    cec_report: [u8; CEC_REPORT_BYTES],
}

/// `nvmlConfComputeGpuCertificate_t`
#[repr(C)]
struct RawCertificate {
    chain_size: c_uint,
    attestation_size: c_uint,
    chain: [u8; CERT_CHAIN_BYTES],
    attestation: [u8; MAX_CERTIFICATE_BYTES],
}

const _: () = assert!(mem::size_of::<RawReport>() == 12 + 32 + 0x2000 + 0x1000);
const _: () = assert!(mem::size_of::<RawCertificate>() == 8 + 0x1000 + 0x1400);

/// A function of the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// `nvmlInit_v2`
    Init,
    /// `nvmlShutdown`
    Shutdown,
    /// `nvmlDeviceGetCount_v2`
    Count,
    /// `nvmlDeviceGetHandleByIndex_v2`
    Handle,
    /// `nvmlDeviceGetConfComputeGpuAttestationReport`
    Report,
    /// `nvmlDeviceGetConfComputeGpuCertificate`
    Certificate,
}

impl Function {
    const fn name(self) -> &'static CStr {
        match self {
            Self::Init => c"nvmlInit_v2",
            Self::Shutdown => c"nvmlShutdown",
            Self::Count => c"nvmlDeviceGetCount_v2",
            Self::Handle => c"nvmlDeviceGetHandleByIndex_v2",
            Self::Report => c"nvmlDeviceGetConfComputeGpuAttestationReport",
            Self::Certificate => c"nvmlDeviceGetConfComputeGpuCertificate",
        }
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name().to_string_lossy())
    }
}

/// The loaded library. It stays loaded for as long as the process lives.
#[derive(Debug)]
pub(super) struct Library {
    shutdown: Init,
    count: Count,
    handle: Handle,
    report: GetReport,
    certificate: GetCertificate,
}

impl Library {
    /// Loads the library and starts it.
    pub(super) fn open(path: &Path) -> Result<Self, NvmlError> {
        let absent = || NvmlError::Library(path.to_owned());
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| absent())?;
        // SAFETY: the name ends in a zero and lives until the call returns.
        let library = unsafe { dlopen(name.as_ptr(), RTLD_NOW) };
        if library.is_null() {
            return Err(absent());
        }
        let find = |function: Function| {
            // SAFETY: the library is loaded and never unloaded; the name ends in a zero.
            let found = unsafe { dlsym(library, function.name().as_ptr()) };
            match found.is_null() {
                true => Err(NvmlError::Missing(function)),
                false => Ok(found),
            }
        };
        // SAFETY: nvml.h declares the functions of these names with exactly these signatures; none
        // of the addresses is null, and they stay valid as the library stays loaded.
        let (init, library) = unsafe {
            let init: Init = mem::transmute(find(Function::Init)?);
            let library = Self {
                shutdown: mem::transmute::<*mut c_void, Init>(find(Function::Shutdown)?),
                count: mem::transmute::<*mut c_void, Count>(find(Function::Count)?),
                handle: mem::transmute::<*mut c_void, Handle>(find(Function::Handle)?),
                report: mem::transmute::<*mut c_void, GetReport>(find(Function::Report)?),
                certificate: mem::transmute::<*mut c_void, GetCertificate>(find(
                    Function::Certificate,
                )?),
            };
            (init, mem::ManuallyDrop::new(library))
        };
        // SAFETY: takes no arguments; what it starts is stopped when this is dropped.
        succeeded(Function::Init, unsafe { init() })?;
        Ok(mem::ManuallyDrop::into_inner(library))
    }

    fn device(&self, index: u32) -> Result<Device, NvmlError> {
        let mut device = ptr::null_mut();
        // SAFETY: the library has been started, and writes one pointer into ours.
        succeeded(Function::Handle, unsafe {
            (self.handle)(index, &mut device)
        })?;
        Ok(device)
    }
}

impl Driver for Library {
    fn count(&self) -> Result<u32, NvmlError> {
        let mut count = 0;
        // SAFETY: the library has been started, and writes one number into ours.
        succeeded(Function::Count, unsafe { (self.count)(&mut count) })?;
        Ok(count)
    }

    fn report(&self, index: u32, nonce: &[u8; 32]) -> Result<Vec<u8>, NvmlError> {
        let device = self.device(index)?;
        let mut raw = Box::new(RawReport {
            cec_present: 0,
            size: 0,
            cec_size: 0,
            nonce: *nonce,
            report: [0; MAX_REPORT_BYTES],
            cec_report: [0; CEC_REPORT_BYTES],
        });
        // SAFETY: the handle is the library's own, and the structure is the one of nvml.h.
        let code = unsafe { (self.report)(device, &mut *raw) };
        succeeded(Function::Report, code)?;
        written(Function::Report, &raw.report, raw.size)
    }

    fn certificates(&self, index: u32) -> Result<Vec<u8>, NvmlError> {
        let device = self.device(index)?;
        let mut raw = Box::new(RawCertificate {
            chain_size: 0,
            attestation_size: 0,
            chain: [0; CERT_CHAIN_BYTES],
            attestation: [0; MAX_CERTIFICATE_BYTES],
        });
        // SAFETY: the handle is the library's own, and the structure is the one of nvml.h.
        let code = unsafe { (self.certificate)(device, &mut *raw) };
        succeeded(Function::Certificate, code)?;
        written(
            Function::Certificate,
            &raw.attestation,
            raw.attestation_size,
        )
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the library was started, once for each value of this type.
        let _code = unsafe { (self.shutdown)() };
    }
}

fn succeeded(function: Function, code: c_int) -> Result<(), NvmlError> {
    match code {
        SUCCESS => Ok(()),
        code => Err(NvmlError::Refused { function, code }),
    }
}

/// As much of `room` as the library says that it wrote.
fn written(function: Function, room: &[u8], found: c_uint) -> Result<Vec<u8>, NvmlError> {
    let (limit, size) = (room.len(), found as usize);
    match room.get(..size) {
        Some(bytes) if size > 0 => Ok(bytes.to_vec()),
        _ => Err(NvmlError::Size {
            function,
            found,
            limit,
        }),
    }
}
