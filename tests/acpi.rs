//! ACPI tables, as they are dumped from a QEMU, against what the firmware of a boot measured: for
//! some numbers of vCPUs, sizes of memory and devices. The firmware's log is read out of the booted
//! machine's memory, which is a file.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use attest::Digest;
use release::measure::acpi::AcpiTables;
use release::measure::eventlog::EventLog;
use release::measure::tdx::{Source, rtmr0_events};
use signer::authority::Authority;
use support::accelerator::Accelerator;
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

fn check(shape: &[&str], memory_mib: u64, number: u8) -> AcpiTables {
    let (bytes, dumped) = measured_and_dumped(shape, memory_mib, number);
    let log = EventLog::parse(&bytes).expect("a log in the machine's memory");
    let pairs = log.of(1).zip(log.sha384(1));
    let acpi = pairs.filter(|(event, _)| event.kind == 10 && event.data == b"ACPI DATA");
    let found: Vec<Digest<48>> = acpi.map(|(_, (_, digest))| digest).collect();
    let ours: Vec<Digest<48>> = dumped.events.iter().map(|(_, digest)| *digest).collect();
    assert_eq!(found, ours, "{shape:?}");
    // QEMU's script, RSDP, the place of the TPM's log, tables.
    assert_eq!(found.len(), 4);
    // In a prediction they take the place of what is recorded, and change nothing.
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
        "pcie-root-port,id=slot,chassis=1",
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
