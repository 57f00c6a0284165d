//! Firmware, kernels, disks and event logs that were damaged by chance or by intent: refused or
//! measured, never a panic, and each fault under its own name.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Cursor;

use common::ovmf::{self, SECTIONS, SEV_AT, TABLE_END, TDX_AT};
use proptest::prelude::*;
use release::measure::boot::CommandText;
use release::measure::eventlog::{Bank, EventLog, Kind, LogError};
use release::measure::firmware::{Firmware, FirmwareError};
use release::measure::gpt;
use release::measure::linux;
use release::measure::sev::LayoutError;
use release::measure::snp::{GuestFeatures, Launch, LaunchError, Shape, Vmm};
use release::measure::tdvf::{PageOrder, Tdvf, TdvfError};

/// Everything that can be asked of a firmware.
fn measure(bytes: &[u8]) {
    let Ok(firmware) = Firmware::parse(bytes) else {
        return;
    };
    if let Ok(launch) = Launch::new(&firmware) {
        let shape = Shape {
            vmm: Vmm::Ec2,
            vcpus: 2,
            cpu: "EPYC".parse().unwrap(),
            features: GuestFeatures::SNP,
            hashes: None,
        };
        let _ = launch.digest(&shape);
    }
    let _ = Launch::with_svsm(&firmware, &firmware, 0);
    if let Ok(tdvf) = Tdvf::parse(&firmware) {
        let _ = PageOrder::ALL.map(|order| tdvf.mrtd(order));
        let _ = tdvf.configuration();
        let _ = tdvf.hand_off_blocks(2 << 30);
    }
}

fn launch(bytes: &[u8]) -> Result<Launch, LayoutError> {
    Launch::new(&Firmware::parse(bytes).unwrap())
}

fn tdvf_fault(change: impl Fn(&mut Vec<u8>)) -> Option<TdvfError> {
    let mut bytes = ovmf::firmware();
    change(&mut bytes);
    Tdvf::parse(&Firmware::parse(&bytes).unwrap()).err()
}

#[test]
fn each_fault_of_a_firmware_has_its_own_refusal() {
    let sound = ovmf::firmware();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        Firmware::parse(&bytes).err()
    };
    assert_eq!(refused(&|_| ()), None);
    assert_eq!(refused(&Vec::clear), Some(FirmwareError::Size(0)));
    assert_eq!(
        refused(&|bytes| bytes[TABLE_END - 1] ^= 1),
        Some(FirmwareError::NoTable)
    );
    let damaged = Some(FirmwareError::Table);
    assert_eq!(refused(&|bytes| bytes[TABLE_END - 17] = 0xff), damaged);
    assert_eq!(refused(&|bytes| bytes[TABLE_END - 18] -= 1), damaged);
    assert_eq!(refused(&|bytes| bytes[TABLE_END - 18 - 18] = 17), damaged);
    let twice = |bytes: &mut Vec<u8>| {
        let guid = bytes[TABLE_END - 34..TABLE_END - 18].to_vec();
        bytes[TABLE_END - 56..TABLE_END - 40].copy_from_slice(&guid);
    };
    let text = refused(&twice).unwrap().to_string();
    assert!(
        text.contains("00f771de-1a7e-4fcb-890e-68c77e2fb44e twice"),
        "{text}"
    );
}

#[test]
fn each_fault_of_sev_metadata_has_its_own_refusal() {
    assert!(launch(&ovmf::firmware()).is_ok());
    let with = |index: usize, section: [u32; 3]| {
        let mut sections = SECTIONS.to_vec();
        sections[index] = section;
        launch(&ovmf::firmware_with(&sections)).err()
    };
    let overlap = Some(LayoutError::Overlap {
        first: 0,
        second: 1,
    });
    assert_eq!(with(1, [0x80_1000, 0x1000, 2]), overlap);
    let own = Some(LayoutError::OverlapsFirmware(0));
    assert_eq!(with(0, [0xffff_d000, 0x1000, 1]), own);
    for section in [
        [0x80_0001, 0x1000, 1],
        [0x80_0000, 0x1001, 1],
        [0x80_0000, 0, 1],
        [0xffff_f000, 0xffff_f000, 1],
        [0x1000_0000, 0x7000_0000, 1],
    ] {
        assert_eq!(
            with(0, section),
            Some(LayoutError::Pages(0)),
            "{section:x?}"
        );
    }
    assert_eq!(with(1, [0x80_d000, 0x2000, 2]), Some(LayoutError::Pages(1)));
    let kind = Some(LayoutError::Kind { index: 0, kind: 9 });
    assert_eq!(with(0, [0x80_0000, 0x1000, 9]), kind);
    let elsewhere = Some(LayoutError::HashesTable(0x81_0400));
    assert_eq!(with(3, [0x82_0000, 0x1000, 0x10]), elsewhere);
    let damage = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = ovmf::firmware();
        change(&mut bytes);
        launch(&bytes).err()
    };
    let damaged = Some(LayoutError::Damaged);
    for at in [0, 4, 8, 12] {
        assert_eq!(damage(&|bytes| bytes[SEV_AT + at] ^= 1), damaged, "{at}");
    }
    assert_eq!(damage(&|bytes| bytes[SEV_AT + 15] = 0xff), damaged);
    let launch = launch(&ovmf::firmware_with(&SECTIONS[..3])).unwrap();
    let hashes = release::measure::kernel_hashes::KernelHashes::new(
        attest::Digest::ZERO,
        None,
        &CommandText::default(),
    );
    let shape = Shape {
        vmm: Vmm::Qemu,
        vcpus: 1,
        cpu: "EPYC".parse().unwrap(),
        features: GuestFeatures::SNP,
        hashes: Some(hashes),
    };
    assert_eq!(launch.digest(&shape), Err(LaunchError::NoKernelHashes));
}

#[test]
fn each_fault_of_tdx_metadata_has_its_own_refusal() {
    let section = |index: usize, field: usize| TDX_AT + 16 + index * 32 + field;
    assert_eq!(tdvf_fault(|_| ()), None);
    for at in [0, 4, 8, 12] {
        let fault = tdvf_fault(|bytes| bytes[TDX_AT + at] ^= 1);
        assert_eq!(fault, Some(TdvfError::Damaged), "{at}");
    }
    let pages = |index| Some(TdvfError::Pages(index));
    assert_eq!(tdvf_fault(|bytes| bytes[section(0, 3)] = 1), pages(0));
    assert_eq!(tdvf_fault(|bytes| bytes[section(0, 8)] = 1), pages(0));
    assert_eq!(tdvf_fault(|bytes| bytes[section(2, 20)] = 1), pages(2));
    assert_eq!(tdvf_fault(|bytes| bytes[section(2, 17)] = 0), pages(2));
    let overlap = Some(TdvfError::Overlap {
        first: 2,
        second: 3,
    });
    assert_eq!(tdvf_fault(|bytes| bytes[section(3, 9)] = 0xa0), None);
    let onto = |bytes: &mut Vec<u8>| {
        bytes[section(3, 8)..section(3, 11)].copy_from_slice(&[0, 0xa0, 0x80])
    };
    assert_eq!(tdvf_fault(onto), overlap);
    assert_eq!(
        tdvf_fault(|bytes| bytes[section(2, 24)] = 3),
        Some(TdvfError::One(2))
    );
    assert_eq!(
        tdvf_fault(|bytes| bytes[section(1, 24)] = 0),
        Some(TdvfError::One(0))
    );
}

#[test]
fn each_fault_of_an_event_log_has_its_own_refusal() {
    let sound = ovmf::ccel(&[(1, 4, &[0; 4]), (2, 0x8000_0007, b"action")]);
    let padded = [&sound[..], &[0xff; 64]].concat();
    assert_eq!(
        EventLog::parse(&padded).unwrap(),
        EventLog::parse(&sound).unwrap()
    );
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        EventLog::parse(&bytes).err()
    };
    let first = 32 + 33;
    let second = first + 12 + 50 + 4 + 4;
    assert_eq!(refused(&Vec::clear), Some(LogError::SpecId));
    assert_eq!(refused(&|bytes| bytes[4] = 4), Some(LogError::SpecId));
    assert_eq!(refused(&|bytes| bytes[32] = 0), Some(LogError::SpecId));
    assert_eq!(
        refused(&|bytes| bytes[32 + 30] = 47),
        Some(LogError::SpecId)
    );
    assert_eq!(
        refused(&|bytes| bytes.truncate(second - 1)),
        Some(LogError::Truncated(1))
    );
    assert_eq!(
        refused(&|bytes| bytes.truncate(second + 3)),
        Some(LogError::Truncated(2))
    );
    assert_eq!(
        refused(&|bytes| bytes[second + 8] = 2),
        Some(LogError::Banks(2))
    );
    assert_eq!(
        refused(&|bytes| bytes[second + 12] = 11),
        Some(LogError::Banks(2))
    );
    let register = Some(LogError::Register {
        event: 2,
        found: 24,
    });
    assert_eq!(refused(&|bytes| bytes[second] = 24), register);
    let trailing = Some(LogError::Trailing(sound.len()));
    assert_eq!(
        refused(&|bytes| bytes.extend([0xff, 0xff, 0xff, 0xff, 1])),
        trailing
    );
    let long = vec![0; 4 << 20 | 1];
    assert_eq!(EventLog::parse(&long), Err(LogError::TooLarge(long.len())));
    // What begins with register 1 extends RTMR0 to RTMR3 alone, counted from 1.
    for found in [0, 5, 7] {
        let other = ovmf::ccel(&[(1, 4, &[0; 4]), (found, 4, &[0; 4])]);
        let event = 2;
        let expected = Some(LogError::Register { event, found });
        assert_eq!(EventLog::parse(&other).err(), expected);
    }
    assert_eq!(refused(&|bytes| bytes[0] = 2), Some(LogError::SpecId));
}

/// Which kind a log is, by its first register, its banks and what it extends.
#[test]
fn a_log_is_of_the_kind_that_its_own_words_tell() {
    let (rtmrs, pcrs) = (
        [(1, 4, &[0; 4][..]), (4, 4, &[0; 4])],
        [(7, 4, &[0; 4][..])],
    );
    let note = [(0, 3, &b"a note"[..])];
    let none: [(u32, u32, &[u8]); 0] = [];
    let kind = |first, banks: &[u16], events: &[(u32, u32, &[u8])]| {
        let bytes = ovmf::log_of_banks(first, banks, events);
        let log = EventLog::parse(&bytes)?;
        let other = match log.kind() {
            Kind::Tpm => Kind::Ccel,
            Kind::Ccel => Kind::Tpm,
        };
        let refused = LogError::Kind {
            expected: other,
            found: log.kind(),
        };
        assert_eq!(EventLog::parse_as(&bytes, log.kind()), Ok(log.clone()));
        assert_eq!(EventLog::parse_as(&bytes, other), Err(refused));
        Ok(log.kind())
    };
    for events in [&rtmrs[..], &none, &note] {
        assert_eq!(kind(1, &[12], events), Ok(Kind::Ccel));
    }
    assert_eq!(kind(1, &[11, 12], &rtmrs), Ok(Kind::Ccel));
    assert_eq!(kind(0, &[12], &rtmrs), Ok(Kind::Ccel), "td-shim's");
    assert_eq!(
        kind(0, &[12], &[&note[..], &rtmrs].concat()),
        Ok(Kind::Ccel)
    );
    for events in [&pcrs[..], &none, &note, &[&rtmrs[..], &pcrs].concat()] {
        assert_eq!(kind(0, &[12], events), Ok(Kind::Tpm));
    }
    for banks in [&[11, 12][..], &[11], &[4, 12]] {
        assert_eq!(kind(0, banks, &rtmrs), Ok(Kind::Tpm));
    }
    assert_eq!(kind(1, &[11], &rtmrs), Err(LogError::NoBank));
    assert_eq!(kind(0, &[4], &pcrs), Err(LogError::NoBank));
}

proptest! {
    #[test]
    fn damaged_firmware_never_panics(
        changes in prop::collection::vec((0usize..1024, any::<u8>()), 1..8),
        cut in 0usize..2,
    ) {
        let mut bytes = ovmf::firmware();
        for (at, byte) in changes {
            // Half of the changes hit the metadata, the others the table at the end.
            let at = if at < 512 { SEV_AT + at } else { bytes.len() - 512 + at - 512 };
            bytes[at] = byte;
        }
        measure(&bytes[cut * 4096..]);
    }

    #[test]
    fn any_bytes_as_a_firmware_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 4096..=4096),
    ) {
        measure(&bytes);
    }

    #[test]
    fn damaged_event_logs_never_panic(
        changes in prop::collection::vec((0usize..208, any::<u8>()), 1..6),
        length in 0usize..208,
    ) {
        let mut bytes = ovmf::ccel(&[(1, 4, &[0; 4]), (2, 0x8000_0007, b"action")]);
        for (at, byte) in changes {
            if let Some(old) = bytes.get_mut(at) {
                *old = byte;
            }
        }
        for bytes in [&bytes[..], &bytes[..length.min(bytes.len())]] {
            if let Ok(log) = EventLog::parse(bytes) {
                let _ = (log.replay(Bank::Sha384, 1), log.replay(Bank::Sha256, 0));
                log.events().iter().for_each(|event| drop(event.to_string()));
            }
        }
    }

    #[test]
    fn damaged_kernels_never_panic(
        changes in prop::collection::vec((0usize..0x264, any::<u8>()), 0..8),
        length in 0usize..5000,
        initrd in any::<u64>(),
        memory in any::<u64>(),
    ) {
        let mut bytes = ovmf::kernel();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(length);
        let before = bytes.clone();
        let none = CommandText::default();
        if linux::patch(&mut bytes, &none, Some(initrd), memory).is_err() {
            // What is refused before it is touched stays as it was, up to the loader's fields.
            prop_assert_eq!(bytes.len(), before.len());
        }
    }

    #[test]
    fn any_disk_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ = gpt::event(Cursor::new(&bytes));
        if let Some(head) = bytes.get_mut(512..520) {
            head.copy_from_slice(b"EFI PART");
        }
        let _ = gpt::event(Cursor::new(&bytes));
    }
}
