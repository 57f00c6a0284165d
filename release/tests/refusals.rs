//! Input that is refused, each by the error that names its fault; damaged files stand in
//! `mutations.rs` and `pe.rs`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Cursor;

use attest::Digest;
use common::ovmf::{self, SECTIONS, TABLE_END};
use release::measure::boot::{CommandText, CommandTextError};
use release::measure::cpu::{CpuType, UnknownCpu};
use release::measure::eventlog::EventLog;
use release::measure::firmware::{Firmware, FirmwareError};
use release::measure::gpt::{self, GptError};
use release::measure::linux::KernelError;
use release::measure::machines::{self, CatalogueError};
use release::measure::sev::LayoutError;
use release::measure::snp::{FeaturesError, GuestFeatures, Launch, LaunchError, Shape, Vmm};
use release::measure::tdvf::{Tdvf, TdvfError};
use release::measure::tdx::{DirectBoot, KernelForm, TdxError, rtmr0_events};
use release::measure::{MeasureError, measure};
use release::pe::{Part, PeError};

/// A firmware whose entry of that GUID has another one, which nobody knows.
fn without(entry: usize) -> Vec<u8> {
    let mut bytes = ovmf::firmware();
    // Entries of 22 bytes stand before the footer of 18: RESET, HASHES, SEV, TDX from the end.
    let at = TABLE_END - 18 - entry * 22 - 16;
    bytes[at..at + 16].fill(entry as u8 + 1);
    bytes
}

#[test]
fn a_firmware_that_lacks_a_part_is_refused_by_that_part() {
    let parse = |entry| without(entry);
    let launch = |bytes: &[u8]| Launch::new(&Firmware::parse(bytes).unwrap());
    let shape = |vcpus| Shape {
        vmm: Vmm::Qemu,
        vcpus,
        cpu: CpuType::default(),
        features: GuestFeatures::SNP,
        hashes: None,
    };
    let no_reset = launch(&parse(0)).unwrap();
    assert!(no_reset.digest(&shape(1)).is_ok());
    assert_eq!(no_reset.digest(&shape(2)), Err(LaunchError::NoReset));
    assert_eq!(launch(&parse(2)).err(), Some(LayoutError::Missing));
    let no_tdx = parse(3);
    let no_tdx = Firmware::parse(&no_tdx).unwrap();
    assert_eq!(Tdvf::parse(&no_tdx).err(), Some(TdvfError::Missing));
    // A firmware is no SVSM: it does not say where one begins.
    let bytes = ovmf::firmware();
    let firmware = Firmware::parse(&bytes).unwrap();
    let svsm = Launch::with_svsm(&firmware, &firmware, 0);
    assert_eq!(svsm.err(), Some(LayoutError::Entry));
    let below = Launch::with_svsm(&firmware, &firmware, u32::MAX);
    assert_eq!(below.err(), Some(LayoutError::Entry));
    let overlap = [[0x80_0000, 0x2000, 1], [0x80_1000, 0x1000, 2]];
    let (first, second) = (0, 1);
    assert_eq!(
        launch(&ovmf::firmware_with(&overlap)).err(),
        Some(LayoutError::Overlap { first, second })
    );
    assert!(launch(&ovmf::firmware_with(SECTIONS)).is_ok());
    let mut twice = ovmf::firmware();
    let guid = twice[TABLE_END - 34..TABLE_END - 18].to_vec();
    twice[TABLE_END - 56..TABLE_END - 40].copy_from_slice(&guid);
    let repeated = Firmware::parse(&twice).err();
    assert_eq!(
        repeated,
        Some(FirmwareError::Repeated(guid.try_into().unwrap()))
    );
}

#[test]
fn a_kernel_that_efi_would_not_start_is_refused() {
    let line = CommandText::default();
    let events = |kernel: &[u8], form| {
        let boot = DirectBoot {
            kernel: &kernel,
            initrd: None,
            command_line: &line,
            memory_bytes: 1 << 30,
        };
        boot.events(form).err()
    };
    let mut no_header = ovmf::kernel();
    no_header[0x202] = 0;
    let mut no_stub = ovmf::kernel();
    no_stub[0] = 0;
    for form in [KernelForm::Patched, KernelForm::Unchanged] {
        assert_eq!(events(&ovmf::kernel(), form), None);
        let fault = Some(TdxError::Kernel(KernelError::NoBootHeader));
        assert_eq!(events(&no_header, form), fault);
        assert_eq!(events(&[], form), fault);
        let fault = Some(TdxError::Pe(PeError::Magic(Part::DosHeader)));
        assert_eq!(events(&no_stub, form), fault);
        let cut = &ovmf::kernel()[..2561];
        let fault = Some(TdxError::Pe(PeError::Truncated(Part::Section(0))));
        assert_eq!(events(cut, form), fault);
    }
    let mut uki = common::uki();
    let image = release::pe::Image::parse(&uki).unwrap();
    let at = image.section(".linux").unwrap().raw.start;
    uki[at] = 0;
    let refused = measure(&uki, &[]);
    let fault = PeError::Magic(Part::DosHeader);
    assert_eq!(refused, Err(MeasureError::Kernel(fault)));
}

#[test]
fn a_log_without_what_is_asked_of_it_is_refused() {
    let bytes = ovmf::ccel(&[(2, 4, &[0; 4])]);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(rtmr0_events(&log, None, None), Err(TdxError::Log));
    let disk = |bytes: &[u8]| gpt::event(Cursor::new(bytes.to_vec())).err();
    assert!(matches!(disk(&[0; 600]), Some(GptError::Read(_))));
    assert!(matches!(disk(&[0; 4096]), Some(GptError::Header)));
}

#[test]
fn names_numbers_and_command_lines_that_cannot_be_are_refused() {
    let cpu = "EPYC-Millan".parse::<CpuType>();
    let nearest = "EPYC-Milan";
    let name = "EPYC-Millan".to_owned();
    assert_eq!(cpu, Err(UnknownCpu { name, nearest }));
    let features = |text: &str| text.parse::<GuestFeatures>().err();
    assert_eq!(features("0x20"), Some(FeaturesError::NotSnp(0x20)));
    assert_eq!(
        features("many"),
        Some(FeaturesError::Number("many".to_owned()))
    );
    assert_eq!(features("0x21"), None);
    assert!("hyperv".parse::<Vmm>().is_err());
    let line = |text: &str| text.parse::<CommandText>().err();
    assert_eq!(line("quiet\0root"), Some(CommandTextError::Nul(5)));
    assert_eq!(
        line(&"a".repeat(2048)),
        Some(CommandTextError::TooLong(2048))
    );
    let machine = machines::find("gcp-c3-standard-9").err();
    assert!(
        matches!(machine, Some(CatalogueError::Unknown { nearest, .. })
        if nearest == "gcp-c3-standard-4")
    );
    let launch = Launch::new(&Firmware::parse(&ovmf::firmware()).unwrap()).unwrap();
    for vcpus in [0, 513] {
        let shape = Shape {
            vmm: Vmm::Gce,
            vcpus,
            cpu: CpuType::default(),
            features: GuestFeatures::SNP,
            hashes: None,
        };
        assert_eq!(launch.digest(&shape), Err(LaunchError::Vcpus(vcpus)));
    }
    assert_ne!(launch.firmware_digest(), Digest::ZERO);
}

#[test]
fn a_dump_that_fails_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |arguments: &[&str], stderr: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        let output = command
            .args(["dump-acpi", "out"])
            .args(arguments)
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(!folder.path().join("out").exists());
    };
    fails(
        &["--vcpus", "1,2", "--memory", "1G", "--", "false"],
        "error: the machine vcpus-1,memory-1024M: QEMU ended (exit status: 1); what it said stands \
         above\n hint: run the command by hand, and see what it says\n",
    );
    fails(
        &["--", "/absent/qemu"],
        "error: the machine: cannot start QEMU: No such file or directory (os error 2)\n \
         hint: give a program such as qemu-system-x86_64\n",
    );
}
