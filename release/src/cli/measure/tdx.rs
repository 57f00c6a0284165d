//! `measure --platform tdx`.

use std::path::Path;

use release::acpi::{Dumped, MAX_SHAPE_BYTES, SHAPE_FILE};
use release::measure::acpi::{AcpiTables, MAX_LOADER_BYTES};
use release::measure::boot::Artifact;
use release::measure::eventlog::{EventLog, Kind, MAX_LOG_BYTES};
use release::measure::firmware::{Firmware, MAX_FIRMWARE_BYTES};
use release::measure::machines::Platform;
use release::measure::rtmr0::direct_events;
use release::measure::snp::Vmm;
use release::measure::tdvf::{PageOrder, Tdvf};
use release::measure::tdx::{
    DirectBoot, KernelForm, TdxError, TdxEvent, replay, rtmr0_events, uki_events,
};
use release::measure::{gpt, measure_file};
use serde_json::{Map, Value, json};

use super::super::failure::{Failure, MISUSE};
use super::options::{self, Options};
use super::table::Table;
use super::{MeasureArguments, Outcome, artifact, open, read};

pub(super) fn run(arguments: &MeasureArguments, options: &Options) -> Outcome {
    let mut table = Table::default();
    table.line("platform", "tdx");
    if let Some(vmm) = options.vmm {
        table.line("vmm", &vmm.to_string());
    }
    let nothing = arguments.firmware.is_none() && arguments.kernel.is_none();
    if nothing && arguments.uki.is_none() && arguments.event_log.is_none() {
        options::required(Platform::Tdx, "--firmware", None::<()>)?;
    }
    if let Some(bytes) = options
        .memory_bytes
        .filter(|_| options.vmm != Some(Vmm::Gce))
    {
        table.input("memory", &format!("{bytes} bytes"), bytes.into());
    }
    if let Some(vcpus) = options.vcpus {
        table.input("vCPUs", &vcpus.to_string(), vcpus.to_string().into());
        table.note("number of vCPUs: in RTMR0 alone, by the ACPI tables of --event-log or --acpi");
    }
    let mut shown = Shown::default();
    let firmware = match &arguments.firmware {
        Some(path) => Some((path, read(path, MAX_FIRMWARE_BYTES)?)),
        None => None,
    };
    let tdvf = match &firmware {
        Some((path, bytes)) => {
            table.file("firmware", path, &Artifact::of(bytes));
            let parsed = Firmware::parse(bytes).map_err(|error| unusable(path, &error))?;
            Some(Tdvf::parse(&parsed).map_err(|error| unusable(path, &error))?)
        }
        None => None,
    };
    match &tdvf {
        Some(tdvf) => mrtd(tdvf, &mut table),
        None => shown.missing("MRTD", "give --firmware"),
    }
    rtmr0(arguments, options, tdvf.as_ref(), &mut table, &mut shown)?;
    if arguments.kernel.is_some() {
        direct(arguments, options, &mut table, &mut shown)?;
    } else if arguments.uki.is_some() {
        uki(arguments, &mut table, &mut shown)?;
    } else {
        shown.missing("RTMR1", "give --kernel, or --uki and --disk");
        shown.missing("RTMR2", "give --kernel, or --uki");
    }
    let zero = attest::Digest::<48>::ZERO.to_string();
    table.line("RTMR3", &zero);
    if arguments.kernel.is_some() || arguments.disk.is_some() {
        table.note(
            "RTMR1 without option ROMs: each adds an event before (QEMU's NICs, unless romfile=)",
        );
    }
    shown.finish(&mut table);
    table.machine(options.machine);
    for note in options.not_measured(arguments) {
        table.note(note);
    }
    Ok(table.report())
}

/// What is gathered beside the registers themselves.
#[derive(Default)]
struct Shown {
    missing: Vec<(&'static str, &'static str)>,
    events: Vec<TdxEvent>,
}

impl Shown {
    fn missing(&mut self, register: &'static str, next: &'static str) {
        self.missing.push((register, next));
    }

    fn finish(self, table: &mut Table) {
        let mut missing = Map::new();
        for (register, next) in &self.missing {
            table.text_line(register, &format!("not predicted: {next}"));
            missing.insert(register.to_lowercase(), (*next).into());
        }
        table.value("not_predicted", missing.into());
        for event in &self.events {
            let digest: String = event.digest.to_string().chars().take(16).collect();
            let text = format!("{digest}…  {} ({})", event.what, event.source);
            table.text_line(&format!("  event of RTMR{}", event.register), &text);
        }
        let events = self.events.iter().map(|event| {
            json!({
                "register": format!("rtmr{}", event.register),
                "what": event.what,
                "sha384": event.digest,
                "source": event.source.to_string(),
            })
        });
        table.value("events", events.collect());
    }
}

fn mrtd(tdvf: &Tdvf<'_>, table: &mut Table) {
    let mut values = Map::new();
    for order in PageOrder::ALL {
        let value = tdvf.mrtd(order).to_string();
        table.text_line(&format!("MRTD, {order}"), &value);
        values.insert(order.to_string().replace('-', "_"), value.into());
    }
    table.value("mrtd", values.into());
    table.note("MRTD interleaved: each page is added, then extended, as KVM does since Linux 6.16");
    table
        .note("MRTD two-passes: all pages of a section are added, then all extended: earlier KVMs");
}

fn rtmr0(
    arguments: &MeasureArguments,
    options: &Options,
    tdvf: Option<&Tdvf<'_>>,
    table: &mut Table,
    shown: &mut Shown,
) -> Result<(), Failure> {
    let acpi = match &arguments.acpi {
        Some(folder) => Some(acpi(folder, options, table)?),
        None => None,
    };
    // VMMs divide memory each in its own way, and only QEMU's is known here: a VMM that nobody
    // named is not taken for QEMU, and the log decides.
    let computable = tdvf
        .zip(options.memory_bytes)
        .filter(|_| options.vmm == Some(Vmm::Qemu));
    let Some(path) = &arguments.event_log else {
        let direct = arguments.kernel.is_some();
        let Some(((tdvf, memory), acpi)) = computable.zip(acpi).filter(|_| direct) else {
            let next = "give --event-log of a boot of the same shape; of a direct boot under QEMU \
                --vmm qemu, --firmware, --memory and --acpi will do";
            shown.missing("RTMR0", next);
            return Ok(());
        };
        let events = direct_events(tdvf, memory, &acpi)?;
        if let Some(value) = replay(&events).get(&0) {
            table.text_line("RTMR0, menu UiApp", &value.to_string());
            table.value("rtmr0", json!({ "menu_uiapp": value }));
        }
        table.note(
            "RTMR0 menu UiApp: a firmware whose one boot option is its menu under that name, as \
             OVMF's was in the logs of dstack; for another, --event-log",
        );
        shown.events.extend(events);
        return Ok(());
    };
    let bytes = read(path, MAX_LOG_BYTES)?;
    table.file("event log", path, &Artifact::of(&bytes));
    let log = EventLog::parse_as(&bytes, Kind::Ccel).map_err(|error| {
        let hint = "give a copy of /sys/firmware/acpi/tables/data/CCEL";
        Failure::input(path, &error, hint)
    })?;
    let events = rtmr0_events(&log, computable, acpi.as_ref())?;
    if let Some(value) = replay(&events).get(&0) {
        table.line("RTMR0", &value.to_string());
    }
    shown.events.extend(events);
    Ok(())
}

/// Dumped tables, which must be of the shape that is asked for.
fn acpi(folder: &Path, options: &Options, table: &mut Table) -> Result<AcpiTables, Failure> {
    let path = folder.join(SHAPE_FILE);
    if path.exists() {
        let shape = Dumped::parse(&read(&path, MAX_SHAPE_BYTES)?).map_err(|error| {
            Failure::input(
                &path,
                &error,
                "dump the tables again: cloister-release dump-acpi",
            )
        })?;
        options.check_tables(&shape)?;
        table.input("ACPI vCPUs", &shape.vcpus.to_string(), shape.vcpus.into());
        let memory = shape.memory_bytes;
        table.input("ACPI memory", &format!("{memory} bytes"), memory.into());
    } else {
        table.note(format!(
            "of what shape the ACPI tables are is not known: {} has no {SHAPE_FILE}",
            folder.display()
        ));
    }
    let path = folder.join("table-loader");
    let loader = read(&path, MAX_LOADER_BYTES)?;
    table.file("ACPI table-loader", &path, &Artifact::of(&loader));
    let mut one = |name: &str| {
        let path = folder.join(name);
        let (blob, _) = artifact(&path)?;
        table.file(&format!("ACPI {name}"), &path, &blob);
        Ok::<_, Failure>(blob.sha384)
    };
    let (rsdp, tables) = (one("rsdp")?, one("tables")?);
    AcpiTables::new(&loader, rsdp, tables).map_err(|error| {
        let hint = "give a folder that `cloister-release dump-acpi` made, of a machine without \
            that device";
        Failure::input(&path, &error, hint)
    })
}

fn direct(
    arguments: &MeasureArguments,
    options: &Options,
    table: &mut Table,
    shown: &mut Shown,
) -> Result<(), Failure> {
    let path = options::required(Platform::Tdx, "--kernel", arguments.kernel.as_ref())?;
    let (hashed, kernel) = artifact(path)?;
    table.file("kernel", path, &hashed);
    let initrd = match &arguments.initrd {
        Some(path) => {
            let (initrd, _) = artifact(path)?;
            table.file("initrd", path, &initrd);
            Some(initrd)
        }
        None => None,
    };
    let command_line = options::command_line(arguments);
    table.input(
        "command line",
        command_line.as_str(),
        command_line.as_str().into(),
    );
    let boot = DirectBoot {
        kernel: &kernel,
        initrd: initrd.as_ref(),
        command_line: &command_line,
        memory_bytes: options.memory_bytes.unwrap_or_default(),
    };
    let mut rtmr1 = Map::new();
    let forms = [KernelForm::Patched, KernelForm::Unchanged];
    // A kernel is patched with an address that depends on the size of memory.
    let skipped = usize::from(options.memory_bytes.is_none() && initrd.is_some());
    for form in forms.into_iter().skip(skipped) {
        let events = boot.events(form)?;
        let values = replay(&events);
        let value = |register| {
            values
                .get(&register)
                .map(ToString::to_string)
                .unwrap_or_default()
        };
        table.text_line(&format!("RTMR1, {form}"), &value(1));
        rtmr1.insert(form.to_string(), value(1).into());
        if form == KernelForm::Unchanged {
            table.line("RTMR2", &value(2));
            shown.events.extend(events);
        } else {
            shown.events.extend(events.into_iter().take(1));
        }
    }
    table.value("rtmr1", Value::Object(rtmr1));
    if skipped > 0 {
        shown.missing(
            "RTMR1, patched",
            "give --memory, which QEMU's changes depend on",
        );
    }
    table.note("RTMR1 patched: the kernel as QEMU fills in its boot header");
    table.note(
        "RTMR1 unchanged: QEMU offers etc/boot/kernel (as 10.0.13), and the firmware reads it",
    );
    Ok(())
}

fn uki(arguments: &MeasureArguments, table: &mut Table, shown: &mut Shown) -> Result<(), Failure> {
    let path = options::required(Platform::Tdx, "--uki", arguments.uki.as_ref())?;
    let measured = measure_file(&open(path)?, &[])?;
    table.hashed(
        "UKI",
        path,
        measured.file_sha256,
        measured.file_bytes as u64,
    );
    let partitions = match &arguments.disk {
        Some(path) => {
            let event = gpt::event(open(path)?).map_err(|error| {
                Failure::input(path, &error, "give a disk.img that assembling made")
            })?;
            table.input(
                "disk",
                &path.display().to_string(),
                path.display().to_string().into(),
            );
            Some(event)
        }
        None => None,
    };
    let events = uki_events(&measured, partitions);
    for (register, value) in replay(&events) {
        table.line(&format!("RTMR{register}"), &value.to_string());
    }
    if partitions.is_none() {
        shown.missing(
            "RTMR1",
            "give --disk: the firmware measures its partition table",
        );
    }
    shown.events.extend(events);
    Ok(())
}

fn unusable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let hint = "give the very file that the VM starts with, such as OVMF.inteltdx.fd";
    Failure::input(path, error, hint)
}

impl From<TdxError> for Failure {
    fn from(error: TdxError) -> Self {
        let hint = match &error {
            TdxError::Read(_) => "check the file, and that it is yours to read",
            TdxError::Kernel(_) | TdxError::Pe(_) => "give a vmlinuz with an EFI stub",
            TdxError::Tdvf(_) => "give the --firmware and --memory of the VM",
            TdxError::Variables => "give --event-log of a boot of the same shape",
            TdxError::Log => "give a copy of /sys/firmware/acpi/tables/data/CCEL",
            TdxError::Acpi { .. } => "give tables and log of one machine: a TPM adds an event",
        };
        Self::new(MISUSE, &error, hint)
    }
}
