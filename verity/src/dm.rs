//! The kernel's device mapper: one read-only verity device.
//!
//! A request is `struct dm_ioctl` (312 bytes, `linux/dm-ioctl.h`, interface 4.0.0); loading a table
//! adds one `struct dm_target_spec` (40 bytes) and the target's parameters as text. All in the
//! machine's own byte order.

use std::ffi::c_ulong;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use crate::partition::DeviceNumber;
use crate::volume::Hex;
use crate::{BLOCK_BYTES, VolumeRef, gpt, sys};

const CONTROL: &str = "/dev/mapper/control";
const HEADER_BYTES: usize = 312;
const TARGET_BYTES: usize = 40;
const READ_ONLY: u32 = 1;
/// The tree starts in the hash partition's second block; the first holds the superblock.
const HASH_START_BLOCK: u64 = 1;

#[derive(Clone, Copy)]
enum Request {
    Create = 3,
    Remove = 4,
    Resume = 6,
    Load = 9,
}

/// Why a device cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A name that is empty, too long or not plain.
    #[error("a device name has 1 to 64 letters, digits or hyphens")]
    Name,
    /// No device mapper.
    #[error("cannot open {CONTROL}")]
    Control(#[source] io::Error),
    /// The device cannot be made.
    #[error("cannot create the mapped device")]
    Create(#[source] io::Error),
    /// The kernel refuses the table: no dm-verity, or a device that cannot be opened.
    #[error("the kernel refuses the verity table")]
    Load(#[source] io::Error),
    /// The device cannot be started.
    #[error("cannot start the mapped device")]
    Resume(#[source] io::Error),
}

/// Makes the read-only device `name` for `volume` and gives its node. A corrupted block panics
/// the kernel.
pub(crate) fn map(
    name: &str,
    volume: &VolumeRef,
    data: DeviceNumber,
    hash: DeviceNumber,
) -> Result<PathBuf, DeviceError> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-';
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(DeviceError::Name);
    }
    let control = File::options().read(true).write(true).open(CONTROL);
    let control = control.map_err(DeviceError::Control)?;
    let uuid = format!("CRYPT-VERITY-{}-{name}", Hex(&volume.root_hash()[..16]));
    let number = call(&control, Request::Create, name, &uuid, None).map_err(DeviceError::Create)?;
    start(&control, name, volume, data, hash).inspect_err(|_| {
        // Nothing can be done about a device that does not go away, and the cause matters more.
        call(&control, Request::Remove, name, "", None).ok();
    })?;
    Ok(PathBuf::from(format!("/dev/dm-{}", number.minor)))
}

fn start(
    control: &File,
    name: &str,
    volume: &VolumeRef,
    data: DeviceNumber,
    hash: DeviceNumber,
) -> Result<(), DeviceError> {
    let sectors = volume.data_blocks() * (BLOCK_BYTES / gpt::SECTOR_BYTES);
    let table = table(volume, data, hash);
    let target = Some((sectors, table.as_str()));
    call(control, Request::Load, name, "", target).map_err(DeviceError::Load)?;
    call(control, Request::Resume, name, "", None).map_err(DeviceError::Resume)?;
    Ok(())
}

/// Parameters of the verity target (kernel: admin-guide/device-mapper/verity).
fn table(volume: &VolumeRef, data: DeviceNumber, hash: DeviceNumber) -> String {
    let (root, salt) = (Hex(volume.root_hash()), Hex(volume.salt()));
    let blocks = volume.data_blocks();
    format!(
        "1 {data} {hash} {BLOCK_BYTES} {BLOCK_BYTES} {blocks} {HASH_START_BLOCK} sha256 \
         {root} {salt} 2 panic_on_corruption panic_on_error"
    )
}

fn call(
    control: &File,
    request: Request,
    name: &str,
    uuid: &str,
    target: Option<(u64, &str)>,
) -> io::Result<DeviceNumber> {
    let mut buffer = encode(name, uuid, target);
    sys::device_mapper(control, request_number(request), &mut buffer)?;
    Ok(device_number(&buffer))
}

/// `_IOWR(0xfd, number, struct dm_ioctl)`.
const fn request_number(request: Request) -> c_ulong {
    (3 << 30) | ((HEADER_BYTES as c_ulong) << 16) | (0xfd << 8) | request as c_ulong
}

fn encode(name: &str, uuid: &str, target: Option<(u64, &str)>) -> Vec<u8> {
    let target_bytes = target.map_or(0, |(_, parameters)| {
        (TARGET_BYTES + parameters.len() + 1).next_multiple_of(8)
    });
    let mut buffer = vec![0; HEADER_BYTES + target_bytes];
    let size = buffer.len() as u32;
    let mut put = |at: usize, bytes: &[u8]| buffer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &4u32.to_ne_bytes()); // version 4.0.0
    put(12, &size.to_ne_bytes());
    put(16, &(HEADER_BYTES as u32).to_ne_bytes());
    put(20, &u32::from(target.is_some()).to_ne_bytes());
    put(28, &READ_ONLY.to_ne_bytes());
    put(48, name.as_bytes());
    put(176, uuid.as_bytes());
    if let Some((sectors, parameters)) = target {
        put(HEADER_BYTES + 8, &sectors.to_ne_bytes());
        put(HEADER_BYTES + 24, b"verity");
        put(HEADER_BYTES + TARGET_BYTES, parameters.as_bytes());
    }
    buffer
}

/// The device's number from an answer, in the kernel's 64-bit encoding.
fn device_number(buffer: &[u8]) -> DeviceNumber {
    let mut field = [0; 8];
    field.copy_from_slice(&buffer[40..48]);
    let number = u64::from_ne_bytes(field);
    DeviceNumber {
        major: ((number >> 8) & 0xfff) as u32,
        minor: ((number & 0xff) | ((number >> 12) & 0xf_ff00)) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: DeviceNumber = DeviceNumber {
        major: 254,
        minor: 2,
    };
    const HASH: DeviceNumber = DeviceNumber {
        major: 254,
        minor: 3,
    };

    #[test]
    fn the_table_is_the_one_of_the_kernel_manual() {
        let volume = VolumeRef::new([0xab; 32], [0x01; 32], 77).unwrap();
        let expected = format!(
            "1 254:2 254:3 4096 4096 77 1 sha256 {} {} 2 panic_on_corruption panic_on_error",
            "ab".repeat(32),
            "01".repeat(32)
        );
        assert_eq!(table(&volume, DATA, HASH), expected);
    }

    #[test]
    fn a_load_request_has_the_kernel_layout() {
        let buffer = encode("root", "", Some((616, "1 x")));
        assert_eq!(buffer.len(), 312 + 48);
        assert_eq!(buffer[12..16], 360u32.to_ne_bytes());
        assert_eq!(buffer[20..24], 1u32.to_ne_bytes());
        assert_eq!(&buffer[48..53], b"root\0");
        assert_eq!(buffer[320..328], 616u64.to_ne_bytes());
        assert_eq!(&buffer[336..343], b"verity\0");
        assert_eq!(&buffer[352..356], b"1 x\0");
        assert_eq!(request_number(Request::Load), 0xc138_fd09);
    }

    #[test]
    fn device_numbers_are_unpacked_as_the_kernel_packs_them() {
        let mut buffer = [0; HEADER_BYTES];
        let packed = (0x12u64) | (0xfd << 8) | (0x3 << 20);
        buffer[40..48].copy_from_slice(&packed.to_ne_bytes());
        let number = device_number(&buffer);
        assert_eq!((number.major, number.minor), (0xfd, 0x312));
    }

    #[test]
    fn an_odd_name_is_refused() {
        let volume = VolumeRef::new([0; 32], [0; 32], 1).unwrap();
        for name in ["", "a/b", "a b", &"x".repeat(65)] {
            let outcome = map(name, &volume, DATA, HASH);
            assert!(matches!(outcome, Err(DeviceError::Name)), "{name}");
        }
    }
}
