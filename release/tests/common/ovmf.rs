//! A small firmware that is an OVMF image by every rule but its code: three pages with metadata of
//! SEV and TDX.

use release::measure::firmware::{Guid, guid};

pub const SEV: Guid = guid(0xdc886566_984a_4798_a75e_5585a7bf67cc);
pub const TDX: Guid = guid(0xe47a6535_984a_4798_865e_4685a7bf8ec2);
const FOOTER: Guid = guid(0x96b582de_1fb2_45f7_baea_a366c55a082d);
const HASHES: Guid = guid(0x7255371f_3a3b_4b04_927b_1da6efa8d454);
const RESET: Guid = guid(0x00f771de_1a7e_4fcb_890e_68c77e2fb44e);
const SVSM: Guid = guid(0xa789a612_0597_4c4b_a49f_cbb1fe9d1ddd);
const BYTES: usize = 12288;
/// Where the metadata stands in the file.
pub const SEV_AT: usize = 0x1000;
pub const TDX_AT: usize = 0x1100;

/// Sections of SEV: address, bytes, kind.
pub const SECTIONS: &[[u32; 3]] = &[
    [0x80_0000, 0x2000, 1],
    [0x80_d000, 0x1000, 2],
    [0x80_e000, 0x1000, 3],
    [0x81_0000, 0x1000, 0x10],
];

pub fn firmware() -> Vec<u8> {
    firmware_with(SECTIONS)
}

pub fn firmware_with(sections: &[[u32; 3]]) -> Vec<u8> {
    image(sections, &[])
}

/// A small SVSM: the same, with a word on where it begins.
pub fn svsm() -> Vec<u8> {
    image(&SECTIONS[..3], &[(0x100, &SVSM)])
}

fn image(sections: &[[u32; 3]], more: &[(u32, &Guid)]) -> Vec<u8> {
    let mut out: Vec<u8> = (0..BYTES).map(|at| (at * 7 % 251) as u8).collect();
    let mut metadata = b"ASEV".to_vec();
    metadata.extend(words(&[
        16 + 12 * sections.len() as u32,
        1,
        sections.len() as u32,
    ]));
    metadata.extend(sections.iter().flat_map(|section| words(section)));
    out[SEV_AT..SEV_AT + metadata.len()].copy_from_slice(&metadata);

    let mut metadata = b"TDVF".to_vec();
    metadata.extend(words(&[16 + 32 * 4, 1, 4]));
    // Offset, bytes in the file, address and bytes in memory (two words each), kind, flags.
    let code = 0xffff_e000; // two pages, before them one of configuration
    metadata.extend(words(&[0x1000, 0x2000, code, 0, 0x2000, 0, 0, 1]));
    metadata.extend(words(&[0, 0x1000, code - 0x1000, 0, 0x1000, 0, 1, 0]));
    metadata.extend(words(&[0, 0, 0x80_9000, 0, 0x2000, 0, 2, 0]));
    metadata.extend(words(&[0, 0, 0x81_0000, 0, 0x1000, 0, 3, 0]));
    out[TDX_AT..TDX_AT + metadata.len()].copy_from_slice(&metadata);

    let mut table = Vec::new();
    let mut entry = |data: u32, name: &Guid| {
        table.extend(data.to_le_bytes());
        table.extend(22u16.to_le_bytes());
        table.extend(name);
    };
    entry((BYTES - TDX_AT) as u32, &TDX);
    entry((BYTES - SEV_AT) as u32, &SEV);
    entry(0x81_0400, &HASHES);
    entry(0x80_b004, &RESET);
    more.iter().for_each(|(data, name)| entry(*data, name));
    table.extend((table.len() as u16 + 18).to_le_bytes());
    table.extend(FOOTER);
    let end = BYTES - 32;
    out[end - table.len()..end].copy_from_slice(&table);
    out
}

/// Where the table of GUIDs ends.
pub const TABLE_END: usize = BYTES - 32;

/// A kernel that EFI boots, as far as headers tell.
pub fn kernel() -> Vec<u8> {
    let mut kernel = super::pe(&[(".text", &[0x90; 4096])], 0);
    kernel[0x1f1] = 4;
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    kernel[0x236] = 0x3f;
    kernel
}

/// QEMU's script of a machine without a TPM.
pub fn table_loader() -> Vec<u8> {
    let mut out = vec![0; 256];
    for (at, name) in [(0, "etc/acpi/rsdp"), (128, "etc/acpi/tables")] {
        out[at] = 1;
        out[at + 4..at + 4 + name.len()].copy_from_slice(name.as_bytes());
    }
    out
}

/// An event log in the form of CCEL: register, kind, data of each event.
pub fn ccel(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut out = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &[33, 0, 0, 0]].concat();
    out.extend(b"Spec ID Event03\0");
    out.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 12, 0, 48, 0, 0]);
    for (register, kind, data) in events {
        out.extend(words(&[*register, *kind, 1]));
        out.extend([12, 0]);
        out.extend(attest::Digest::sha384(data).0);
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(*data);
    }
    out
}

/// An event log of a TPM with two banks: register, kind, data of each event.
pub fn tpm_log(events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    log_of_banks(0, &[11, 12], events)
}

/// An event log that begins with a register and has these banks, of SHA-256 (11) and SHA-384 (12).
pub fn log_of_banks(first: u32, banks: &[u16], events: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let size = 29 + 4 * banks.len() as u32;
    let mut out = [words(&[first, 3]), vec![0; 20], words(&[size])].concat();
    out.extend(b"Spec ID Event03\0");
    out.extend([0, 0, 0, 0, 0, 2, 0, 2]);
    out.extend((banks.len() as u32).to_le_bytes());
    for bank in banks {
        out.extend(bank.to_le_bytes());
        out.extend((if *bank == 11 { 32u16 } else { 48 }).to_le_bytes());
    }
    out.push(0);
    for (register, kind, data) in events {
        out.extend(words(&[*register, *kind, banks.len() as u32]));
        for bank in banks {
            out.extend(bank.to_le_bytes());
            match bank {
                11 => out.extend(attest::Digest::sha256(data).0),
                _ => out.extend(attest::Digest::sha384(data).0),
            }
        }
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(*data);
    }
    out
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
