//! What firmware measures, against predictions for TDX: ACPI tables as they are dumped from a
//! QEMU, for some numbers of vCPUs, sizes of memory and devices; and the events of a kernel that
//! QEMU loads. The firmware's log is read out of the booted machine's memory, which is a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use attest::Digest;
use release::measure::acpi::AcpiTables;
use release::measure::boot::Artifact;
use release::measure::eventlog::{Bank, EventLog, Kind};
use release::measure::tdx::{DirectBoot, KernelForm, Source, rtmr0_events};
use signer::authority::Authority;
use support::accelerator::Accelerator;
use support::image;
use support::swtpm;
use support::tools::Tools;
use support::vm::{Machine, VmError};

const PATIENCE: Duration = Duration::from_secs(240);
/// OVMF reserves as much for its log, and fills it up with 0xff.
const LOG_BYTES: usize = 64 << 10;
const PAGE_BYTES: u64 = 4096;

/// The log that is longest, of those at the beginning of a page of memory.
fn recorded_log(memory: &Path) -> Vec<u8> {
    let file = File::open(memory).unwrap();
    let pages = file.metadata().unwrap().len() / PAGE_BYTES;
    let mut longest: (usize, Vec<u8>) = (0, Vec::new());
    for page in 0..pages {
        let mut head = [0; 48];
        file.read_exact_at(&mut head, page * PAGE_BYTES).unwrap();
        if !head[32..].starts_with(b"Spec ID Event03") {
            continue;
        }
        let mut bytes = vec![0; LOG_BYTES];
        let count = file.read_at(&mut bytes, page * PAGE_BYTES).unwrap();
        bytes.truncate(count);
        let events = EventLog::parse(&bytes).map_or(0, |log| log.events().len());
        if events > longest.0 {
            longest = (events, bytes);
        }
    }
    longest.1
}

/// What a boot measured, and the dump of the same machine.
fn measured_and_dumped(shape: &[&str], memory_mib: u64, number: u8) -> (Vec<u8>, AcpiTables) {
    let tools = Tools::locate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("tpm");
    swtpm::provision(&tools, &state, &Authority::new("ACPI", number)).unwrap();
    let size = format!("{memory_mib}M");
    let machine = || {
        let machine = Machine::firmware(Accelerator::Emulation).tpm(&state);
        machine.arguments(shape).arguments(["-m", &size])
    };
    let tables = machine().acpi_tables(&tools, &folder.path().join("dump"));
    let tables = tables.unwrap();

    let memory = folder.path().join("memory");
    let backend = format!("memory-backend-file,id=ram,share=on,size={size},mem-path=");
    let backend = backend + memory.to_str().unwrap();
    let booted = machine().arguments(["-object", &backend, "-machine", "memory-backend=ram"]);
    let mut vm = booted.start(&tools, &folder.path().join("boot")).unwrap();
    vm.wait_line("Start PXE", PATIENCE).unwrap();
    (recorded_log(&memory), tables.measured().unwrap())
}

/// PCR 1 of a TPM's log as RTMR0 of one of TDX.
fn as_ccel(log: &EventLog<'_>) -> Vec<u8> {
    let mut out = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &[33, 0, 0, 0]].concat();
    out.extend(b"Spec ID Event03\0");
    out.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 12, 0, 48, 0, 0]);
    for event in log.of(1) {
        out.extend([1, 0, 0, 0]);
        out.extend(event.kind.to_le_bytes());
        out.extend([1, 0, 0, 0, 12, 0]);
        out.extend(log.digest(event, Bank::Sha384).unwrap());
        out.extend((event.data.len() as u32).to_le_bytes());
        out.extend(event.data);
    }
    out
}

fn check(shape: &[&str], memory_mib: u64, number: u8) -> AcpiTables {
    let (bytes, dumped) = measured_and_dumped(shape, memory_mib, number);
    let log = EventLog::parse_as(&bytes, Kind::Tpm).expect("a log in the machine's memory");
    let pairs = log.of(1).zip(log.sha384(1));
    let acpi = pairs.filter(|(event, _)| event.kind == 10 && event.data == b"ACPI DATA");
    let found: Vec<Digest<48>> = acpi.map(|(_, (_, digest))| digest).collect();
    let ours: Vec<Digest<48>> = dumped.events.iter().map(|(_, digest)| *digest).collect();
    assert_eq!(found, ours, "{shape:?}");
    // QEMU's script, RSDP, the place of the TPM's log, tables.
    assert_eq!(found.len(), 4);
    // In a prediction they take the place of what is recorded, and change nothing.
    let recorded = as_ccel(&log);
    let log = EventLog::parse_as(&recorded, Kind::Ccel).unwrap();
    let predicted = rtmr0_events(&log, None, Some(&dumped)).unwrap();
    let computed = predicted
        .iter()
        .filter(|event| event.source == Source::Computed);
    assert_eq!(computed.count(), 4);
    for (event, (_, recorded)) in predicted.iter().zip(log.sha384(1)) {
        assert_eq!(event.digest, recorded, "{}", event.what);
    }
    dumped
}

#[test]
fn dumped_tables_are_those_that_a_boot_measures() {
    let one = check(&["-smp", "1"], 512, 0x41);
    let four = check(&["-smp", "4"], 512, 0x42);
    let large = check(&["-smp", "4"], 3072, 0x43);
    let slots = [
        "-smp",
        "2,maxcpus=8",
        "-device",
        "pcie-root-port,id=port1,chassis=1",
    ];
    let devices = check(
        &[&slots[..], &["-device", "virtio-scsi-pci"]].concat(),
        512,
        0x44,
    );
    // Each axis changes something: what is compared is not a constant.
    let tables = |dumped: &AcpiTables| dumped.events[3];
    assert_ne!(tables(&one), tables(&four));
    assert_ne!(tables(&four), tables(&large));
    assert_ne!(tables(&four), tables(&devices));
}

/// A direct boot under firmware: what RTMR1 and RTMR2 have under TDX stands in PCR 4 and 9 of a
/// TPM.
#[test]
fn a_direct_boot_measures_what_is_predicted_for_tdx() {
    let tools = Tools::locate().unwrap();
    let kernel = image::parts("demo").unwrap().join("vmlinuz");
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("tpm");
    swtpm::provision(&tools, &state, &Authority::new("direct", 0x45)).unwrap();
    let (initrd, memory) = (folder.path().join("initrd"), folder.path().join("memory"));
    std::fs::write(&initrd, release::cpio::write(&[])).unwrap();
    let line = "console=ttyS0 earlyprintk=ttyS0 panic=-1";
    let backend = "memory-backend-file,id=ram,share=on,size=1024M,mem-path=";
    let backend = backend.to_owned() + memory.to_str().unwrap();
    let machine = Machine::firmware(Accelerator::Emulation).tpm(&state);
    let machine = machine.arguments(["-m", "1024M", "-object", &backend]);
    let machine = machine.arguments(["-machine", "memory-backend=ram", "-append", line]);
    let machine = machine.arguments([Path::new("-kernel"), &kernel]);
    let machine = machine.arguments([Path::new("-initrd"), &initrd]);
    let mut vm = machine.start(&tools, &folder.path().join("boot")).unwrap();
    vm.wait_line("Measured initrd data into PCR 9", PATIENCE)
        .unwrap();
    let bytes = recorded_log(&memory);
    let log = EventLog::parse_as(&bytes, Kind::Tpm).expect("a log in the machine's memory");

    let file = File::open(&kernel).unwrap();
    let boot = DirectBoot {
        kernel: &file,
        initrd: Some(&Artifact::read(File::open(&initrd).unwrap()).unwrap()),
        command_line: &line.parse().unwrap(),
        memory_bytes: 1 << 30,
    };
    let predicted = boot.events(KernelForm::Unchanged).unwrap();
    let of = |register: u8| -> Vec<Digest<48>> {
        let events = predicted.iter().filter(|event| event.register == register);
        events.map(|event| event.digest).collect()
    };
    let logged = |register: u32| -> Vec<Digest<48>> {
        let events = log.sha384(register).into_iter();
        events.map(|(_, digest)| digest).collect()
    };
    assert_eq!(logged(9), of(2), "command line and initrd");
    // The network card's option ROM is a driver in PCR 2; PCR 4 begins with the kernel. The events
    // of leaving boot services are of PCR 5, and come later.
    assert_eq!(logged(4)[..3], of(1)[..3], "kernel, attempt, separator");
}

#[test]
fn a_machine_whose_firmware_reads_no_tables_is_refused() {
    let tools = Tools::locate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::firmware(Accelerator::Emulation).arguments(["-no-such-argument"]);
    let error = machine.acpi_tables(&tools, folder.path()).unwrap_err();
    assert!(
        matches!(error, VmError::Acpi(release::acpi::DumpError::Ended(_))),
        "{error}"
    );
    let machine = Machine::firmware(Accelerator::Emulation).arguments(["-machine", "acpi=off"]);
    let error = machine.acpi_tables(&tools, folder.path()).unwrap_err();
    assert!(
        matches!(error, VmError::Acpi(release::acpi::DumpError::NoTables)),
        "{error}"
    );
}
