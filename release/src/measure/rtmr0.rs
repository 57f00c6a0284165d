//! RTMR0 of a direct boot under QEMU, from firmware, memory and ACPI tables, without any recording.
//!
//! ```text
//! hand-off blocks, configuration volume
//! SecureBoot, PK, KEK, db, dbx     each absent, and measured as a variable without a value
//! separator, ACPI: script, then blobs
//! BootOrder = 0, Boot0000 = the firmware's own menu
//! ```
//!
//! References: UEFI, 3.1.3 for load options and 32.3 for Secure Boot's variables; TCG, "PC Client
//! Platform Firmware Profile", UEFI_VARIABLE_DATA. It holds for a firmware that brings no
//! variables, whose only boot option is its menu under the name `UiApp`; whether it calls it so
//! cannot be seen in its file.

use attest::Digest;

use super::acpi::AcpiTables;
use super::firmware::{Guid, guid};
use super::tdvf::Tdvf;
use super::tdx::{Source, TdxError, TdxEvent};

const GLOBAL: Guid = guid(0x8be4df61_93ca_11d2_aa0d_00e098032b8c);
const SECURITY: Guid = guid(0xd719b2cb_3d3a_4596_a3bc_dad00e67656f);
/// Volume and file of the menu.
const VOLUME: Guid = guid(0x7cb8bdc9_f8eb_4f34_aaea_3ee4af6516a1);
const MENU: Guid = guid(0x462caa21_7614_4503_836e_8ab6f4662331);

/// The events, in order.
pub fn direct_events(
    firmware: &Tdvf<'_>,
    memory_bytes: u64,
    acpi: &AcpiTables,
) -> Result<Vec<TdxEvent>, TdxError> {
    if firmware.has_variables()? {
        return Err(TdxError::Variables);
    }
    let blocks = firmware.hand_off_blocks(memory_bytes)?;
    let mut events = vec![
        event(
            &format!("hand-off blocks, {memory_bytes} bytes of memory"),
            Digest::sha384(&blocks),
        ),
        event("configuration volume", firmware.configuration()?),
    ];
    for (vendor, name) in [
        (GLOBAL, "SecureBoot"),
        (GLOBAL, "PK"),
        (GLOBAL, "KEK"),
        (SECURITY, "db"),
        (SECURITY, "dbx"),
    ] {
        let digest = Digest::sha384(&absent(&vendor, name));
        events.push(event(&format!("variable {name}, absent"), digest));
    }
    events.push(event("separator", Digest::sha384(&[0; 4])));
    for (name, digest) in &acpi.events {
        events.push(event(&format!("ACPI {name}"), *digest));
    }
    events.push(event("BootOrder, 0 alone", Digest::sha384(&[0; 2])));
    events.push(event("Boot0000, UiApp", Digest::sha384(&menu())));
    Ok(events)
}

fn event(what: &str, digest: Digest<48>) -> TdxEvent {
    TdxEvent {
        register: 0,
        what: what.to_owned(),
        digest,
        source: Source::Computed,
    }
}

/// UEFI_VARIABLE_DATA: vendor 16 ‖ letters u64 ‖ bytes of the value u64 = 0 ‖ name in UTF-16.
fn absent(vendor: &Guid, name: &str) -> Vec<u8> {
    let letters = (name.len() as u64).to_le_bytes();
    [&vendor[..], &letters, &[0; 8], &utf16(name)].concat()
}

/// EFI_LOAD_OPTION: attributes u32 ‖ bytes of the path u16 ‖ name ‖ path: volume, file, end.
fn menu() -> Vec<u8> {
    const ATTRIBUTES: u32 = 0x109; // active, hidden, an application
    let path = [
        &[4, 7, 20, 0][..],
        &VOLUME,
        &[4, 6, 20, 0],
        &MENU,
        &[0x7f, 0xff, 4, 0],
    ]
    .concat();
    let bytes = (path.len() as u16).to_le_bytes();
    let name = [utf16("UiApp"), vec![0; 2]].concat();
    [&ATTRIBUTES.to_le_bytes()[..], &bytes, &name, &path].concat()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
