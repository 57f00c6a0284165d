//! A partition table that anyone may have written: the input changes a genuine one, whose checksums
//! are then mended. `verity/tests/gpt.rs` does the same in the ordinary tests.

use verity::Guid;
use verity::gpt::{Layout, PartitionSpec, Table};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    Table::parse(bytes).ok();
    let mut disk = genuine();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % disk.len();
        disk[at] = change[2];
    }
    mend(&mut disk);
    if let Ok(table) = Table::parse(&disk) {
        for entry in table.entries() {
            assert!(entry.first >= 34 && entry.last >= entry.first);
            assert!(entry.offset_bytes().checked_add(entry.size_bytes()).is_some());
        }
    }
});

fn genuine() -> Vec<u8> {
    let spec = |unique| PartitionSpec {
        type_guid: Guid::from_bytes([7; 16]),
        unique_guid: Guid::from_bytes([unique; 16]),
        name: "part".to_owned(),
        attributes: 0,
        size_bytes: 1 << 20,
    };
    let layout = Layout::new(Guid::from_bytes([9; 16]), &[spec(1), spec(2)]);
    layout.map(|layout| layout.encode_start()).unwrap_or_default()
}

fn mend(disk: &mut [u8]) {
    let entries = crc32(&disk[1024..]);
    disk[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    disk[512 + 16..512 + 20].fill(0);
    let header = crc32(&disk[512..512 + 92]);
    disk[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}
