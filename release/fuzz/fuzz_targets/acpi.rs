//! Any text as what QEMU's monitor says of its memory, any bytes as an RSDP, as the script that
//! loads the tables or as the shape beside them: read within bounds.

use release::acpi;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some(blocks) = acpi::blocks(&String::from_utf8_lossy(bytes)) {
        assert!(blocks.iter().all(|block| block.bytes <= 16 << 20));
    }
    let zero = attest::Digest::ZERO;
    if let Ok(tables) = release::measure::acpi::AcpiTables::new(bytes, zero, zero) {
        assert!((3..=17).contains(&tables.events.len()));
    }
    assert!(acpi::own_bytes(bytes.to_vec()).len() <= bytes.len());
    let _ = acpi::Dumped::parse(bytes);
});
