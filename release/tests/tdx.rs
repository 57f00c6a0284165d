//! Registers of TDX against those of others: MRTD as two other calculators have it, and logs and
//! quotes that processors have signed. The files are shared vectors; where they are absent a test
//! says that it is skipped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::Cursor;
use std::path::Path;

use attest::Digest;
use release::measure::acpi::AcpiTables;
use release::measure::eventlog::{Bank, EventLog, first_difference};
use release::measure::firmware::Firmware;
use release::measure::gpt;
use release::measure::rtmr0::direct_events;
use release::measure::tdvf::{PageOrder, Tdvf, TdvfError};
use release::measure::tdx::{Source, TdxError, registers_of_quote, replay, rtmr0_events};
use serde_json::Value;

fn read(name: &str) -> Option<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/vectors")
        .join(name);
    let bytes = fs::read(&path).ok();
    if bytes.is_none() {
        eprintln!("SKIPPED, not tested: {} is absent", path.display());
    }
    bytes
}

fn json(name: &str) -> Option<Value> {
    Some(serde_json::from_slice(&read(name)?).unwrap())
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn mrtd_of_real_firmware_is_predicted_in_both_orders() {
    let Some(reference) = json("tdx-measure-ref/mrtd.json") else {
        return;
    };
    let firmware = [
        ("OVMF.inteltdx.ms.fd", "tdx-measure-ref/OVMF.inteltdx.ms.fd"),
        ("OVMF.amdsev.fd", "snp-measure-ref/OVMF.amdsev.fd"),
    ];
    for (name, path) in firmware {
        let bytes = read(path).unwrap();
        let expected = &reference[name];
        assert_eq!(expected["sha256"], Digest::sha256(&bytes).to_string());
        let tdvf = Tdvf::parse(&Firmware::parse(&bytes).unwrap()).unwrap();
        let mrtd = |order| tdvf.mrtd(order).to_string();
        assert_eq!(expected["mrtd_single_pass"], mrtd(PageOrder::Interleaved));
        assert_eq!(expected["mrtd_two_pass"], mrtd(PageOrder::TwoPasses));
    }
}

/// A log in the form of CCEL with the events that dstack keeps in JSON.
fn ccel(events: &[Value]) -> Vec<u8> {
    let mut out = [&[1, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &[33, 0, 0, 0]].concat();
    out.extend(b"Spec ID Event03\0");
    out.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0, 12, 0, 48, 0, 0]);
    for event in events {
        let word = |name: &str| u32::try_from(event[name].as_u64().unwrap()).unwrap();
        let data = unhex(event["event_payload"].as_str().unwrap());
        out.extend((word("imr") + 1).to_le_bytes());
        out.extend(word("event_type").to_le_bytes());
        out.extend([1, 0, 0, 0, 12, 0]);
        out.extend(unhex(event["digest"].as_str().unwrap()));
        out.extend((data.len() as u32).to_le_bytes());
        out.extend(data);
    }
    out
}

fn digests(log: &EventLog<'_>, register: u32) -> Digest<48> {
    let value = log.replay(Bank::Sha384, register).unwrap();
    Digest(value.try_into().unwrap())
}

#[test]
fn rtmr0_that_a_processor_signed_is_predicted_with_computed_memory() {
    let Some(report) = json("dstack/quote-report.json") else {
        return;
    };
    let quote = unhex(report["quote"].as_str().unwrap());
    let [_, rtmr0, rtmr1, rtmr2, rtmr3] = registers_of_quote(&quote).unwrap();
    let events: Vec<Value> = serde_json::from_str(report["event_log"].as_str().unwrap()).unwrap();
    let bytes = ccel(&events);
    let log = EventLog::parse(&bytes).unwrap();
    for (register, value) in [(1, rtmr0), (2, rtmr1), (3, rtmr2), (4, rtmr3)] {
        assert_eq!(digests(&log, register), value, "RTMR{}", register - 1);
    }
    // The recording machine's firmware is not here; its sections are those of this one, its
    // configuration volume is not.
    let firmware = read("tdx-measure-ref/OVMF.inteltdx.ms.fd").unwrap();
    let tdvf = Tdvf::parse(&Firmware::parse(&firmware).unwrap()).unwrap();
    let mut predicted = rtmr0_events(&log, Some((&tdvf, 64 << 30)), None).unwrap();
    assert_eq!(predicted[0].source, Source::Computed);
    assert_eq!(predicted[0].digest, log.sha384(1)[0].1, "hand-off blocks");
    assert_ne!(predicted[1].digest, log.sha384(1)[1].1, "another firmware");
    predicted[1].digest = log.sha384(1)[1].1;
    assert_eq!(replay(&predicted)[&0], rtmr0);
    let other_memory = rtmr0_events(&log, Some((&tdvf, 32 << 30)), None).unwrap();
    assert_ne!(other_memory[0].digest, predicted[0].digest);
    assert_eq!(
        rtmr0_events(&log, Some((&tdvf, 1 << 20)), None),
        Err(TdxError::Tdvf(TdvfError::Memory(1 << 20)))
    );

    // Tables in the log's own order change nothing.
    let acpi: Vec<_> = predicted
        .iter()
        .filter(|event| event.what.contains("ACPI"))
        .collect();
    let names = ["table-loader", "RSDP", "tables"];
    let events = names.into_iter().zip(acpi.iter().map(|event| event.digest));
    let tables = AcpiTables {
        events: events.collect(),
    };
    let with_tables = rtmr0_events(&log, None, Some(&tables)).unwrap();
    assert_eq!(replay(&with_tables)[&0], rtmr0);
    let computed = with_tables
        .iter()
        .filter(|event| event.source == Source::Computed);
    assert_eq!(computed.count(), 3);
    // Without the log: all but the volume of that firmware, which is not here, and the tables of
    // that QEMU follow from what is known beforehand.
    assert_eq!(
        direct_events(&tdvf, 64 << 30, &tables),
        Err(TdxError::Variables)
    );
    let without = read("snp-measure-ref/OVMF.amdsev.fd").unwrap();
    let without = Tdvf::parse(&Firmware::parse(&without).unwrap()).unwrap();
    let mut computed = direct_events(&without, 64 << 30, &tables).unwrap();
    computed[1].digest = log.sha384(1)[1].1;
    let digests: Vec<_> = computed.iter().map(|event| event.digest).collect();
    let logged: Vec<_> = log
        .sha384(1)
        .into_iter()
        .map(|(_, digest)| digest)
        .collect();
    assert_eq!(digests[1..], logged[1..]);
    computed[0].digest = predicted[0].digest;
    assert_eq!(replay(&computed)[&0], rtmr0);
    let mut with_tpm = tables.clone();
    with_tpm.events.push(("TPM's log area", Digest::ZERO));
    assert_eq!(
        rtmr0_events(&log, None, Some(&with_tpm)),
        Err(TdxError::Acpi { found: 3, given: 4 })
    );
}

/// Azure's paravisor takes the place of the registers, which stay as the hardware made them.
#[test]
fn on_azure_only_the_firmwares_register_is_in_the_quote() {
    for name in [
        "openpcc/azure_tdx_report__test_azure_tdx_quote.bin",
        "trustee/az-tdx-vtpm/td-quote.bin",
    ] {
        let Some(quote) = read(name) else {
            return;
        };
        let [mrtd, rtmrs @ ..] = registers_of_quote(&quote).unwrap();
        assert_ne!(mrtd, Digest::ZERO);
        assert_eq!(rtmrs, [Digest::ZERO; 4], "{name}");
    }
}

#[test]
fn hand_off_blocks_of_a_small_machine_are_those_of_a_recorded_boot() {
    let Some(report) = json("dstack/tdx-lite-getquote.json") else {
        return;
    };
    let events: Vec<Value> = serde_json::from_str(report["event_log"].as_str().unwrap()).unwrap();
    let firmware = read("tdx-measure-ref/OVMF.inteltdx.ms.fd").unwrap();
    let tdvf = Tdvf::parse(&Firmware::parse(&firmware).unwrap()).unwrap();
    let blocks = tdvf.hand_off_blocks(2 << 30).unwrap();
    assert_eq!(events[0]["digest"], Digest::sha384(&blocks).to_string());
}

/// Fixed events are those of the recorded boots, in this order.
#[test]
fn a_direct_boot_has_the_events_of_recorded_ones() {
    use release::measure::tdx::{DirectBoot, KernelForm};
    let Some(report) = json("dstack/quote-report.json") else {
        return;
    };
    let events: Vec<Value> = serde_json::from_str(report["event_log"].as_str().unwrap()).unwrap();
    let bytes = ccel(&events);
    let log = EventLog::parse(&bytes).unwrap();
    let kernel = common::ovmf::kernel();
    let boot = DirectBoot {
        kernel: &&kernel[..],
        initrd: Some(&release::measure::boot::Artifact::of(b"initrd")),
        command_line: &"quiet".parse().unwrap(),
        memory_bytes: 2 << 30,
    };
    let predicted = boot.events(KernelForm::Patched).unwrap();
    let of = |register: u8| {
        let events = predicted
            .iter()
            .filter(move |event| event.register == register);
        events
            .map(|event| (event.what.clone(), event.digest))
            .collect::<Vec<_>>()
    };
    assert_eq!(of(1).len(), log.sha384(2).len());
    assert_eq!(of(2).len(), log.sha384(3).len());
    for (ours, theirs) in of(1).iter().zip(log.sha384(2)).skip(1) {
        assert_eq!(ours.1, theirs.1, "{}", ours.0);
    }
    let difference = first_difference(&of(1), &log.sha384(2)).unwrap();
    assert_eq!(difference.number, 1);
    assert!(
        difference
            .expected
            .unwrap()
            .0
            .starts_with("kernel, patched")
    );
    assert!(difference.found.unwrap().0.starts_with("boot application"));
    let unchanged = boot.events(KernelForm::Unchanged).unwrap();
    assert_ne!(unchanged[0].digest, predicted[0].digest);
    assert_eq!(unchanged[1..], predicted[1..]);
}

#[test]
fn real_logs_parse_and_replay() {
    let Some(ccel) = read("go-tdx-guest/ccel/ccel_data.dat") else {
        return;
    };
    let quote = read("go-tdx-guest/ccel/cos-113-tdx-quote.dat").unwrap();
    let [_, rtmrs @ ..] = registers_of_quote(&quote).unwrap();
    let log = EventLog::parse(&ccel).unwrap();
    for (register, value) in (1..).zip(rtmrs) {
        assert_eq!(digests(&log, register), value, "RTMR{}", register - 1);
    }
    for name in [
        "go-eventlog/ccel/CCEL_unpadded.data.bin",
        "go-eventlog/ccel/cos-113-intel-tdx-dupe-separator-unpadded.bin",
        "go-eventlog/ccel/cos-113-intel-tdx-dupe-separator.bin",
        "go-eventlog/ccel/cos-113-intel-tdx.bin",
        "go-eventlog/ccel/event_log.bin",
        "go-tpm-tools/ubuntu-2404-amd-sevsnp.bin",
        "openpcc/tcg_eventlog__test_tcg_event_log.bin",
        "trustee/tdx/CCEL_data",
        "trustee/tdx/CCEL_data_ovmf",
        "tpm-uki/boot.evlog.bin",
    ] {
        let bytes = read(name).unwrap();
        let log = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!log.events().is_empty(), "{name}");
        let bank = match log.has(Bank::Sha384) {
            true => Bank::Sha384,
            false => Bank::Sha256,
        };
        assert!(
            (0..8).all(|register| log.replay(bank, register).is_some()),
            "{name}"
        );
    }
}

/// Google's vTPMs, of a VM under SEV-SNP and of one under TDX, and a TD of Google's: registers as
/// the projects that recorded the logs quoted them (go-eventlog, openpcc). No log of Azure's is
/// among the vectors.
#[test]
fn recorded_logs_replay_to_the_registers_that_their_machines_quoted() {
    let replayed = |bytes: &[u8], bank, register| -> String {
        let value = EventLog::parse(bytes).unwrap().replay(bank, register);
        let value = value.unwrap();
        let hex = value.iter().map(|byte| format!("{byte:02x}"));
        hex.collect::<String>()[..32].to_owned()
    };
    let separator = "3d458cfe55cc03ea1f443f1562beec8d";
    let shim = "306f9d8b94f17d93dc6e7cf8f5c79d65";
    let snp = [
        (0, "50597a27846e91d025eef597abbc89f7"),
        (1, "57344e1cc8c6619413df33013a7cd679"),
        (2, separator),
        (3, separator),
        (4, "abe8b3fa6aecb36c2fd93c6f6edde661"),
        (5, "0b0e1903aeb1bff649b82dba2cdcf5c4"),
        (6, separator),
        (7, "33ad69850fb2c7f30b4f8b4bc10ed93f"),
        (8, "6932a3f71dc55ad3c1a6ac2196eeac26"),
        (9, "ce08798b283c7a0ddc5e9ad1d602304b"),
        (14, shim),
    ];
    let other = [
        (0, "0cca9ec161b09288802e5a112255d213"),
        (1, "2f232b75625eeea98ca57ae8cef11e4c"),
        (2, "ecd11e957f3b751baf5e1764f1fe56ec"),
        (3, separator),
        (4, "1bdc909e09f23d525d17eb72756c7966"),
        (5, "a5ceb755d043f32431d63e39f5161464"),
        (8, "d265f43867c6934d4d2e23b8d68e5e21"),
    ];
    let td = [
        (1, "3fa2f61f395b7f5feefb4ec2df61297f"),
        (2, "f62dbc072bd5d3f3438b7b35c39a727f"),
        (3, "4969684dc87381fc3b3134176c8d8806"),
    ];
    let cases = [
        (
            "go-tpm-tools/ubuntu-2404-amd-sevsnp.bin",
            Bank::Sha256,
            &snp[..],
        ),
        (
            "openpcc/tcg_eventlog__test_tcg_event_log.bin",
            Bank::Sha256,
            &other[..],
        ),
        (
            "go-eventlog/ccel/cos-113-intel-tdx.bin",
            Bank::Sha384,
            &td[..],
        ),
    ];
    for (name, bank, registers) in cases {
        let Some(bytes) = read(name) else {
            return;
        };
        for (register, value) in registers {
            assert_eq!(
                replayed(&bytes, bank, *register),
                *value,
                "{name} {register}"
            );
        }
    }
}

#[test]
fn a_tpms_log_replays_to_its_registers() {
    for name in ["boot", "boot-4cpu-2g", "injected"] {
        let Some(bytes) = read(&format!("tpm-uki/{name}.evlog.bin")) else {
            return;
        };
        let log = EventLog::parse(&bytes).unwrap();
        let pcrs = json(&format!("tpm-uki/{name}.pcrs.json")).unwrap();
        for (bank, names) in [(Bank::Sha256, "sha256"), (Bank::Sha384, "sha384")] {
            for pcr in (0..=9).chain([11, 12, 13]) {
                let value = log.replay(bank, pcr).unwrap();
                let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
                let expected = pcrs[names][pcr.to_string()].as_str().unwrap();
                assert!(expected.eq_ignore_ascii_case(&hex), "{name} {names} {pcr}");
            }
        }
    }
}

/// Every recorded log is of the kind that its machine had.
#[test]
fn recorded_logs_are_told_apart() {
    use release::measure::eventlog::Kind;
    let tdx = [
        "go-eventlog/ccel/CCEL_unpadded.data.bin",
        "go-eventlog/ccel/cos-113-intel-tdx.bin",
        "go-eventlog/ccel/cos-113-intel-tdx-dupe-separator.bin",
        "go-eventlog/ccel/event_log.bin",
        "go-tdx-guest/ccel/ccel_data.dat",
        "trustee/tdx/CCEL_data",
        "trustee/tdx/CCEL_data_ovmf",
    ];
    let tpm = [
        "go-tpm-tools/ubuntu-2404-amd-sevsnp.bin",
        "openpcc/tcg_eventlog__test_tcg_event_log.bin",
        "tpm-uki/boot.evlog.bin",
        "tpm-uki/boot-4cpu-2g.evlog.bin",
        "tpm-uki/injected.evlog.bin",
    ];
    for (names, kind) in [(&tdx[..], Kind::Ccel), (&tpm, Kind::Tpm)] {
        for name in names {
            let Some(bytes) = read(name) else { return };
            assert_eq!(EventLog::parse(&bytes).unwrap().kind(), kind, "{name}");
        }
    }
}

/// Reports inside Azure's are found, and hold what the quotes beside them say.
#[test]
fn recorded_hcl_reports_are_unwrapped() {
    use release::measure::explain::evidence::{Found, Subject};
    let digest = |name: &str| {
        let found = Found::parse(&read(name)?).unwrap();
        assert!(found.paravisor, "{name}");
        Some(found.subject)
    };
    for name in [
        "azure-cvm-tooling/hcl-report-snp.bin",
        "trustee/az-snp-vtpm/hcl-report.bin",
        "trustee/az-snp-vtpm/evidence-v0.json",
        "trustee/az-snp-vtpm/evidence-v1.json",
        "trustee/az-snp-vtpm/evidence-v2.json",
        "trustee/az-snp-vtpm/evidence-genoa.json",
        "openpcc/azure_sevsnp_report__test_azure_sevsnp_report.bin",
    ] {
        let Some(subject) = digest(name) else { return };
        assert!(
            matches!(subject, Subject::Snp(one) if one != Digest::ZERO),
            "{name}"
        );
    }
    for (report, quote) in [
        (
            "trustee/az-tdx-vtpm/hcl-report.bin",
            "trustee/az-tdx-vtpm/td-quote.bin",
        ),
        (
            "trustee/az-tdx-vtpm/evidence-v1.json",
            "trustee/az-tdx-vtpm/td-quote.bin",
        ),
        (
            "openpcc/azure_tdx_report__test_azure_tdx_report.bin",
            "openpcc/azure_tdx_report__test_azure_tdx_quote.bin",
        ),
    ] {
        let (Some(subject), Some(quote)) = (digest(report), read(quote)) else {
            return;
        };
        let registers = registers_of_quote(&quote).unwrap();
        assert_eq!(subject, Subject::Tdx(Box::new(registers), None), "{report}");
    }
}

/// `attest` has a parser of its own for logs that decide trust: both read the same.
#[test]
fn both_parsers_replay_a_log_alike() {
    for name in [
        "tpm-uki/boot.evlog.bin",
        "go-eventlog/ccel/CCEL_unpadded.data.bin",
    ] {
        let Some(bytes) = read(name) else { return };
        let log = EventLog::parse(&bytes).unwrap();
        let theirs = attest::eventlog::EventLog::parse(&bytes)
            .or_else(|_| attest::eventlog::EventLog::parse_ccel(&bytes))
            .unwrap();
        for register in 0..5u8 {
            let ours = digests(&log, register.into());
            assert_eq!(
                ours,
                theirs.replay(attest::tpm::Register(register)),
                "{name}"
            );
        }
    }
}

#[test]
fn a_partition_table_is_measured_as_a_recorded_one() {
    let Some(ccel) = read("go-tdx-guest/ccel/ccel_data.dat") else {
        return;
    };
    let log = EventLog::parse(&ccel).unwrap();
    let event = log.of(2).find(|event| event.kind == 0x8000_0006).unwrap();
    let recorded = log.digest(event, Bank::Sha384).unwrap();
    // The disk that this event was made of: header in sector 1, entries from sector 2.
    let mut disk = vec![0; 512 + 512 + 128 * 128];
    disk[512..512 + 92].copy_from_slice(&event.data[..92]);
    let entries = &event.data[100..];
    disk[1024..1024 + entries.len()].copy_from_slice(entries);
    assert_eq!(gpt::event(Cursor::new(&disk)).unwrap().as_ref(), recorded);
    assert!(gpt::event(Cursor::new(&disk[..600])).is_err());
    disk[512] = 0;
    assert!(gpt::event(Cursor::new(&disk)).is_err());
}
