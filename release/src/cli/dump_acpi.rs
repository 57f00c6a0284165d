//! `dump-acpi`: the ACPI tables of the very QEMU that is to be used, for `measure --acpi`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use release::acpi::{Axes, Devices, DumpError, MatrixError, Shape, Tables, dump_matrix};
use release::measure::snp::MAX_VCPUS;
use serde_json::json;

use super::failure::{Failure, MISUSE};
use super::measure::options;
use super::report::Report;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release dump-acpi acpi -- qemu-system-x86_64 -machine q35 \\
      -smp 4 -m 4G -bios OVMF.fd -device virtio-net-pci,romfile=
  cloister-release dump-acpi acpi --vcpus 1,2,4 --memory 2G,4G \\
      --devices none= --devices 'net=-device virtio-net-pci,romfile=' \\
      -- qemu-system-x86_64 -machine q35 -bios OVMF.fd
  cloister-release measure --platform tdx --vmm qemu … --acpi \\
      acpi/vcpus-4,memory-4096M,devices-net

Beside the tables stands shape.json: `measure` refuses tables of another number of vCPUs or another
size of memory.

The machine is started without TDX and without KVM, until its firmware has read the tables: seconds.
Give it all that the machine to be measured has, slots and options of -machine and -smp included;
disks may be empty. Its firmware must boot without a TEE. Under TDX there is neither SMM nor PIC,
and the tables say so: `-machine smm=off,pic=off` is added to the command, whatever it says.")]
pub(super) struct DumpAcpiArguments {
    /// Folder for table-loader, rsdp and tables; of a matrix, one folder below it for each machine.
    #[arg(value_name = "DIR")]
    output: PathBuf,
    /// Numbers of vCPUs, as in 1,2,4.
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = vcpus)]
    vcpus: Vec<u16>,
    /// Sizes of memory, as in 2G,4G.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = options::size)]
    memory: Vec<u64>,
    /// Sets of devices, each a name and arguments of QEMU; may be repeated.
    #[arg(long, value_name = "NAME=ARGUMENTS")]
    devices: Vec<Devices>,
    /// Longest time for a firmware to read the tables.
    #[arg(long, value_name = "N", default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// QEMU, and the arguments that all machines have.
    #[arg(last = true, required = true, value_name = "QEMU")]
    command: Vec<OsString>,
}

fn vcpus(text: &str) -> Result<u16, String> {
    let number = text.parse().ok();
    number
        .filter(|number| (1..=MAX_VCPUS).contains(number))
        .ok_or_else(|| format!("1 to {MAX_VCPUS} vCPUs are possible"))
}

pub(super) fn run(arguments: &DumpAcpiArguments) -> Result<Report, Failure> {
    let axes = Axes {
        vcpus: arguments.vcpus.clone(),
        memory_bytes: arguments.memory.clone(),
        devices: arguments.devices.clone(),
    };
    let (mut text, mut list) = (String::new(), Vec::new());
    let done = |shape: &Shape, tables: &Tables| {
        let folder = arguments.output.join(&shape.folder).display().to_string();
        eprintln!("dumped {folder}");
        let measured = match tables.measured() {
            Ok(measured) => measured.events,
            Err(error) => {
                text = std::mem::take(&mut text) + &format!("{folder}\n  {error}\n");
                list.push(json!({ "folder": folder, "not_predicted": error.to_string() }));
                return;
            }
        };
        text = std::mem::take(&mut text) + &folder + "\n";
        for (name, digest) in &measured {
            text = std::mem::take(&mut text) + &format!("  {name:<15} sha384:{digest}\n");
        }
        list.push(json!({
            "folder": folder,
            "vcpus": tables.shape.vcpus,
            "memory_bytes": tables.shape.memory_bytes,
            "devices": shape.devices.as_ref().map(|devices| devices.name.as_str()),
            "events": measured,
        }));
    };
    let patience = Duration::from_secs(arguments.seconds);
    // Of options that are given twice QEMU takes the last; those of a machine it merges.
    let mut command = arguments.command.clone();
    command.extend(["-machine", "smm=off,pic=off"].map(OsString::from));
    dump_matrix(&command, &axes, &arguments.output, patience, done)?;
    Ok(Report::of(text, json!({ "machines": list })))
}

impl From<MatrixError> for Failure {
    fn from(error: MatrixError) -> Self {
        use DumpError as D;
        let hint = match &error {
            MatrixError::Devices => "give such as --devices 'net=-device virtio-net-pci'",
            MatrixError::TooMany(_) => "dump them in parts",
            MatrixError::Twice(_) => "give each number, size and name of devices once",
            MatrixError::NoCommand => "give QEMU and its arguments after --",
            MatrixError::Write(..) => "check the folder, and that it is yours to write",
            MatrixError::Dump(_, D::Start(_)) => "give a program such as qemu-system-x86_64",
            MatrixError::Dump(_, D::NoTables) => "give -machine q35 and a firmware",
            MatrixError::Dump(_, D::Memory(_)) => {
                "run as the user who runs QEMU; the kernel must let you read a child's memory"
            }
            MatrixError::Dump(_, D::NotRead(_)) => {
                "give a firmware that boots without a TEE, as OVMF.fd by -bios, or more --seconds"
            }
            MatrixError::Dump(_, D::Ended(_) | D::Silent | D::Monitor(_)) => {
                "run the command by hand, and see what it says"
            }
        };
        Self::new(MISUSE, &error, hint)
    }
}
