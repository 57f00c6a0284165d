//! The system calls that the standard library lacks. The crate's only `unsafe` code.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

/// `mount(2)`.
pub(crate) fn mount(
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: c_ulong,
    data: &CStr,
) -> io::Result<()> {
    // SAFETY: all four pointers are NUL-terminated strings that outlive the call; the kernel only
    // reads them.
    check(unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            flags,
            data.as_ptr().cast(),
        )
    })
}

/// `ioctl(2)` for a request whose argument is a buffer that starts with a `struct dm_ioctl`.
pub(crate) fn device_mapper(control: &File, request: c_ulong, buffer: &mut [u8]) -> io::Result<()> {
    let size = buffer.get(12..16).and_then(|size| size.try_into().ok());
    let size = size.map(u32::from_ne_bytes).unwrap_or_default() as usize;
    if buffer.len() < 312 || size != buffer.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a device-mapper request reads and writes at most `data_size` bytes from the pointer,
    // and at least the 312 bytes of the structure; that field was just compared with the buffer's
    // length. The interface copies bytewise from user space and asks for no alignment.
    check(unsafe { libc::ioctl(control.as_raw_fd(), request, buffer.as_mut_ptr()) })
}

/// `finit_module(2)` with no parameters; `flags` 4 has the kernel unpack a compressed file.
pub(crate) fn load_module(module: &File, flags: c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, the parameter string is NUL-terminated and static.
    check(unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            module.as_raw_fd(),
            c"".as_ptr(),
            flags,
        )
    } as c_int)
}

/// `dup2(2)` onto one of the three standard descriptors.
pub(crate) fn set_standard_stream(from: BorrowedFd<'_>, to: RawFd) -> io::Result<()> {
    if !(0..3).contains(&to) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `from` is open for the call; descriptors 0 to 2 are owned by no `OwnedFd`.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) })
}

/// `execve(2)` with the program's name as only argument and an empty environment. Returns on
/// failure only.
pub(crate) fn execute(program: &CStr) -> io::Error {
    let arguments = [program.as_ptr(), ptr::null()];
    let environment = [ptr::null()];
    // SAFETY: the path is NUL-terminated, and both arrays end with a null pointer and outlive the
    // call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// `reboot(2)` with power off, after `sync(2)`. Returns on failure only.
pub(crate) fn power_off() -> io::Error {
    // SAFETY: neither call takes a pointer; file systems are synced before the power goes.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
    io::Error::last_os_error()
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
