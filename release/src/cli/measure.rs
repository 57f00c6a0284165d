//! `measure`: what a machine will be measured as, from the artifacts alone.

pub(super) mod options;
mod snp;
mod table;
mod tdx;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use attest::Digest;
use clap::Args;
use release::measure::boot::{Artifact, CommandText};
use release::measure::cpu::CpuType;
use release::measure::eventlog::{EventLog, Kind, MAX_LOG_BYTES};
use release::measure::machines::{self, Platform};
use release::measure::snp::{GuestFeatures, Vmm};

use super::failure::{Failure, MISUSE};
use super::report::Report;
use options::Options;
pub(super) use options::{VcpuRange, size};

type Outcome = Result<Report, Failure>;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release measure --uki build/site/cloister.efi --json | jq .registers
  cloister-release measure --platform snp --vmm qemu --vcpus 4 --vcpu-type EPYC-Milan \\
      --firmware OVMF.amdsev.fd --kernel build/site/vmlinuz --initrd build/site/initrd \\
      --cmdline \"$(cat build/site/cmdline)\"
  cloister-release measure --machine gcp-c3-standard-8 --firmware OVMF.fd \\
      --uki build/site/cloister.efi --disk build/site/disk.img --event-log ccel.bin
  cloister-release measure --list

tpm: registers 4, 9, 11, 12 and 13 follow from the UKI; the others up to 15 are judged by their
event log, and shown from one that is given. snp: the launch digest. tdx: MRTD and RTMR0 to RTMR2;
what does not follow from the artifacts is named and not guessed. See docs/measuring.md.")]
pub(super) struct MeasureArguments {
    /// What measures: snp, tdx or tpm; tpm where only --uki is given.
    #[arg(long, value_name = "NAME", value_parser = options::platform)]
    pub(super) platform: Option<Platform>,
    /// Who starts the VM: qemu, ec2 or gce; qemu if not given (snp).
    #[arg(long, value_name = "NAME")]
    pub(super) vmm: Option<Vmm>,
    /// Number of vCPUs, 1 to 512; 1-512 makes a table of all numbers.
    #[arg(long, value_name = "N")]
    pub(super) vcpus: Option<VcpuRange>,
    /// Type of the vCPUs, as QEMU names it: EPYC-v4, EPYC-Milan, EPYC-Genoa, EPYC-Turin …
    #[arg(long, value_name = "NAME")]
    pub(super) vcpu_type: Option<CpuType>,
    /// Features of the guest (SEV_FEATURES).
    #[arg(long, value_name = "BITS")]
    pub(super) guest_features: Option<GuestFeatures>,
    /// Firmware of the VM (OVMF).
    #[arg(long, value_name = "FILE")]
    pub(super) firmware: Option<PathBuf>,
    /// Kernel of a direct boot.
    #[arg(long, value_name = "FILE")]
    pub(super) kernel: Option<PathBuf>,
    /// Initrd of a direct boot.
    #[arg(long, value_name = "FILE")]
    pub(super) initrd: Option<PathBuf>,
    /// Command line of a direct boot.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub(super) cmdline: Option<CommandText>,
    /// UKI that assembling made.
    #[arg(long, value_name = "FILE")]
    pub(super) uki: Option<PathBuf>,
    /// Memory of the VM, such as 4G.
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(super) memory: Option<u64>,
    /// A machine of the catalogue; gives platform, VMM, vCPUs and memory.
    #[arg(long, value_name = "NAME")]
    pub(super) machine: Option<String>,
    /// Show the catalogue of machines, and what each measures.
    #[arg(long)]
    pub(super) list: bool,
    /// SVSM that runs before the firmware (snp).
    #[arg(long, value_name = "FILE")]
    pub(super) svsm: Option<PathBuf>,
    /// Bytes of the firmware's variables, which lie between SVSM and firmware.
    #[arg(long, value_name = "BYTES")]
    pub(super) svsm_variables: Option<u32>,
    /// Make an ID block of the launch digest, signed by --id-key.
    #[arg(long)]
    pub(super) id_block: bool,
    /// P-384 key that signs the ID block (PEM).
    #[arg(long, value_name = "FILE")]
    pub(super) id_key: Option<PathBuf>,
    /// P-384 key of the author, which signs the ID key (PEM).
    #[arg(long, value_name = "FILE")]
    pub(super) author_key: Option<PathBuf>,
    /// Policy of the guest, in the ID block; 0x30000 if not given.
    #[arg(long, value_name = "BITS", value_parser = options::bits)]
    pub(super) guest_policy: Option<u64>,
    /// Family of the guest, in the ID block (32 hexadecimal digits).
    #[arg(long, value_name = "HEX")]
    pub(super) family_id: Option<Digest<16>>,
    /// Image of the guest, in the ID block (32 hexadecimal digits).
    #[arg(long, value_name = "HEX")]
    pub(super) image_id: Option<Digest<16>>,
    /// Security version of the guest, in the ID block; 0 if not given.
    #[arg(long, value_name = "N")]
    pub(super) guest_svn: Option<u32>,
    /// Disk that the UKI is on, for its partition table (tdx).
    #[arg(long, value_name = "FILE")]
    pub(super) disk: Option<PathBuf>,
    /// Event log of a boot of the same shape, for what cannot be computed (tdx, tpm).
    #[arg(long, value_name = "FILE")]
    pub(super) event_log: Option<PathBuf>,
    /// Folder with QEMU's ACPI tables: table-loader, rsdp and tables (tdx).
    #[arg(long, value_name = "DIR")]
    pub(super) acpi: Option<PathBuf>,
    /// Word that user space extends into PCR 11 before it is quoted; may be repeated, in order.
    /// Images of Cloister have none.
    #[arg(long = "phase", value_name = "WORD")]
    pub(super) phases: Vec<String>,
}

pub(super) fn run(arguments: &MeasureArguments) -> Outcome {
    if arguments.list {
        options::list_alone(arguments)?;
        let machines = machines::all().map_err(|error| Failure::new(MISUSE, &error, ""))?;
        return Ok(table::catalogue(machines));
    }
    let options = Options::of(arguments)?;
    match options.platform {
        Platform::Snp => snp::run(arguments, &options),
        Platform::Tdx => tdx::run(arguments, &options),
        Platform::Tpm => tpm(arguments, &options),
    }
}

fn tpm(arguments: &MeasureArguments, options: &Options) -> Outcome {
    let path = options::required(Platform::Tpm, "--uki", arguments.uki.as_ref())?;
    let measured = release::measure::measure_file(&open(path)?, &arguments.phases)?;
    let report = Report::measurement(&measured).of_file(path, &measured);
    let report = match &arguments.event_log {
        None => report.and_others(None),
        Some(path) => {
            let bytes = read(path, MAX_LOG_BYTES)?;
            let log = EventLog::parse_as(&bytes, Kind::Tpm).map_err(|error| {
                let hint = "give a copy of /sys/kernel/security/tpm0/binary_bios_measurements";
                Failure::input(path, &error, hint)
            })?;
            report.and_others(Some(&log))
        }
    };
    Ok(report.of_machine(options.machine, options.not_measured(arguments)))
}

/// A file. A pipe or a device would be read for ever, or give something else the second time.
pub(super) fn open(path: &Path) -> Result<File, Failure> {
    let failed = |error: io::Error| access(path, &error);
    match std::fs::metadata(path).map_err(failed)?.is_file() {
        true => File::open(path).map_err(failed),
        false => Err(access(path, &NoFile)),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("it is no file")]
struct NoFile;

/// A file that is held in memory, so only up to a limit.
pub(super) fn read(path: &Path, most: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = most as u64 + 1;
    let read = open(path)?.take(limit).read_to_end(&mut bytes);
    read.map_err(|error| access(path, &error))?;
    match bytes.len() > most {
        true => Err(options::TooLarge(most).at(path)),
        false => Ok(bytes),
    }
}

/// A file that is hashed, whatever its size, and may be read again: not another that meanwhile has
/// taken its name.
fn artifact(path: &Path) -> Result<(Artifact, File), Failure> {
    let file = open(path)?;
    let artifact = Artifact::read(&file).map_err(|error| access(path, &error))?;
    Ok((artifact, file))
}

pub(super) fn access(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let hint = "check the path, and that it is yours to read";
    Failure::input(path, error, hint)
}
