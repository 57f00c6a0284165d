//! Reference values of machines that start the kernel themselves: SEV-SNP and TDX on QEMU.
//!
//! Only machines whose measurement covers kernel, initrd and command line are stated. Where a cloud
//! measures its own firmware alone, the same launch digest stands for any software: a release
//! that named it would vouch for whatever else is started there.

use std::io;
use std::path::{Path, PathBuf};

use attest::release::statement::{SnpLaunchDigest, TdxRegisters};
use attest::{Digest, Name, NameError};

use crate::files;
use crate::measure::acpi::{AcpiTables, LoaderError, MAX_LOADER_BYTES};
use crate::measure::boot::{Artifact, CommandText, CommandTextError};
use crate::measure::cpu::CpuType;
use crate::measure::eventlog::{EventLog, LogError as EventLogError, MAX_LOG_BYTES};
use crate::measure::firmware::{Firmware, FirmwareError};
use crate::measure::kernel_hashes::KernelHashes;
use crate::measure::rtmr0::direct_events;
use crate::measure::sev::LayoutError;
use crate::measure::snp::{GuestFeatures, Launch, LaunchError, Shape, Vmm};
use crate::measure::tdvf::{PageOrder, Tdvf, TdvfError};
use crate::measure::tdx::{DirectBoot, KernelForm, TdxError, replay, rtmr0_events};

/// Most launch digests of one release: its statement must fit into the log.
pub const MAX_MACHINES: usize = 256;
/// Largest blob of ACPI tables.
const MAX_BLOB_BYTES: usize = 16 << 20;

/// Machines with SEV-SNP on QEMU, each with kernel hashes.
#[derive(Debug, Clone, Copy)]
pub struct SnpMachines<'a> {
    /// The firmware file.
    pub firmware: &'a [u8],
    /// Types of vCPUs.
    pub cpus: &'a [CpuType],
    /// Numbers of vCPUs.
    pub vcpus: &'a [u16],
    /// Features of the vCPUs.
    pub features: GuestFeatures,
}

/// Machines with TDX on QEMU.
#[derive(Debug, Clone, Copy)]
pub struct TdxMachines<'a> {
    /// The firmware file.
    pub firmware: &'a [u8],
    /// Sizes of memory, which a QEMU before version 10 writes into the kernel.
    pub memory_bytes: &'a [u64],
    /// Machines of which every device is known, and with them RTMR0.
    pub shapes: &'a [TdxShape],
}

/// A machine with TDX whose RTMR0 is known.
#[derive(Debug, Clone)]
pub struct TdxShape {
    /// What it is called.
    pub name: Name,
    /// Its memory.
    pub memory_bytes: u64,
    /// Where its tables are from.
    pub tables: Tables,
}

/// Where the ACPI tables of a machine are from.
#[derive(Debug, Clone)]
pub enum Tables {
    /// Of a dump (`cloister-release dump-acpi`).
    Dumped(AcpiTables),
    /// Of the event log (CCEL) of a boot of this shape; memory and firmware are computed anew.
    Recorded(Vec<u8>),
}

/// What a machine starts: the parts of a direct boot that assembling left.
#[derive(Debug)]
pub struct Direct {
    kernel: Vec<u8>,
    initrd: Artifact,
    command_line: CommandText,
}

/// Why values are not predicted.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The command line is none.
    #[error(transparent)]
    CommandLine(#[from] CommandTextError),
    /// Not a firmware.
    #[error("the firmware: {0}")]
    Firmware(#[from] FirmwareError),
    /// A firmware that is not for SEV-SNP.
    #[error("the firmware for SEV-SNP: {0}")]
    Layout(#[from] LayoutError),
    /// A machine that cannot be launched, or that does not measure its kernel.
    #[error("SEV-SNP: {0}")]
    Launch(#[from] LaunchError),
    /// A firmware that is not for TDX.
    #[error("the firmware for TDX: {0}")]
    Tdvf(#[from] TdvfError),
    /// A kernel that cannot be started under TDX.
    #[error("TDX: {0}")]
    Tdx(#[from] TdxError),
    /// A dump of ACPI tables that cannot be used.
    #[error("{path}: {source}")]
    Acpi {
        /// QEMU's script in it.
        path: PathBuf,
        /// What is wrong with it.
        source: LoaderError,
    },
    /// A recorded event log that cannot be read.
    #[error("the event log: {0}")]
    Log(#[from] EventLogError),
    /// A machine whose name cannot stand in a statement.
    #[error(transparent)]
    Name(#[from] NameError),
    /// No machine, or too many.
    #[error("{0} machines; 1 to {MAX_MACHINES} can be stated")]
    Machines(usize),
}

impl Direct {
    /// Reads kernel, initrd and command line from an assembled folder.
    pub fn read(assembled: &Path) -> Result<Self, ReferenceError> {
        let read = |name: &str| {
            let path = assembled.join(name);
            std::fs::read(&path).map_err(|source| ReferenceError::Read { path, source })
        };
        let command_line = String::from_utf8_lossy(&read("cmdline")?).into_owned();
        Ok(Self {
            kernel: read("vmlinuz")?,
            initrd: Artifact::of(&read("initrd")?),
            command_line: command_line.parse()?,
        })
    }
}

/// Launch digests, one for each type and number of vCPUs, such as `qemu-epyc-v4-8`.
pub fn snp(
    direct: &Direct,
    machines: &SnpMachines<'_>,
) -> Result<Vec<SnpLaunchDigest>, ReferenceError> {
    let count = machines.cpus.len() * machines.vcpus.len();
    if !(1..=MAX_MACHINES).contains(&count) {
        return Err(ReferenceError::Machines(count));
    }
    let launch = Launch::new(&Firmware::parse(machines.firmware)?)?;
    let kernel = Artifact::of(&direct.kernel).sha256;
    let hashes = KernelHashes::new(kernel, Some(direct.initrd.sha256), &direct.command_line);
    let mut digests = Vec::with_capacity(count);
    for cpu in machines.cpus {
        for vcpus in machines.vcpus {
            let shape = Shape {
                vmm: Vmm::Qemu,
                vcpus: *vcpus,
                cpu: *cpu,
                features: machines.features,
                hashes: Some(hashes),
            };
            let cpu = cpu.to_string().to_ascii_lowercase();
            let machine: Name = format!("qemu-{cpu}-{vcpus}").parse()?;
            let digest = launch.digest(&shape)?;
            digests.push(SnpLaunchDigest { machine, digest });
        }
    }
    Ok(digests)
}

impl Tables {
    /// Those of a folder that `dump-acpi` made, or of a file that holds an event log.
    pub fn read(path: &Path) -> Result<Self, ReferenceError> {
        let read = |path: PathBuf, limit: usize| {
            let bytes = files::read_bounded(&path, limit as u64);
            bytes.map_err(|source| ReferenceError::Read { path, source })
        };
        if !path.is_dir() {
            let bytes = read(path.to_owned(), MAX_LOG_BYTES)?;
            EventLog::parse(&bytes)?;
            return Ok(Self::Recorded(bytes));
        }
        let blob = |name: &str| {
            let bytes = read(path.join(name), MAX_BLOB_BYTES)?;
            Ok::<_, ReferenceError>(Digest::sha384(&bytes))
        };
        let loader = path.join("table-loader");
        let script = read(loader.clone(), MAX_LOADER_BYTES)?;
        let tables = AcpiTables::new(&script, blob("rsdp")?, blob("tables")?);
        tables
            .map(Self::Dumped)
            .map_err(|source| ReferenceError::Acpi {
                path: loader,
                source,
            })
    }
}

/// MRTD, RTMR1 and RTMR2 for both orders of adding pages, of a QEMU that leaves the kernel as it is
/// and, for each size of memory, of one that fills in its header: `qemu-interleaved-unchanged`,
/// `qemu-two-passes-patched-8192m`. RTMR0 depends on every device: it is stated for the shapes
/// whose tables are known, such as `qemu-interleaved-unchanged-SHAPE`, and for no other.
pub fn tdx(
    direct: &Direct,
    machines: &TdxMachines<'_>,
) -> Result<Vec<TdxRegisters>, ReferenceError> {
    let firmware = Firmware::parse(machines.firmware)?;
    let tdvf = Tdvf::parse(&firmware)?;
    let mut registers = direct.registers(&tdvf, KernelForm::Unchanged, 0, "", None)?;
    for bytes in machines.memory_bytes {
        let name = format!("-{}m", bytes >> 20);
        registers.extend(direct.registers(&tdvf, KernelForm::Patched, *bytes, &name, None)?);
    }
    for shape in machines.shapes {
        let events = match &shape.tables {
            Tables::Dumped(tables) => direct_events(&tdvf, shape.memory_bytes, tables)?,
            Tables::Recorded(log) => {
                let log = EventLog::parse(log)?;
                rtmr0_events(&log, Some((&tdvf, shape.memory_bytes)), None)?
            }
        };
        let rtmr0 = replay(&events).get(&0).copied();
        let name = format!("-{}", shape.name);
        for form in [KernelForm::Unchanged, KernelForm::Patched] {
            let of = direct.registers(&tdvf, form, shape.memory_bytes, &name, rtmr0);
            registers.extend(of?);
        }
    }
    match registers.len() > MAX_MACHINES {
        true => Err(ReferenceError::Machines(registers.len())),
        false => Ok(registers),
    }
}

impl Direct {
    /// What a machine has for both orders of adding pages.
    fn registers(
        &self,
        tdvf: &Tdvf<'_>,
        form: KernelForm,
        memory_bytes: u64,
        name: &str,
        rtmr0: Option<Digest<48>>,
    ) -> Result<Vec<TdxRegisters>, ReferenceError> {
        let boot = DirectBoot {
            kernel: &self.kernel.as_slice(),
            initrd: Some(&self.initrd),
            command_line: &self.command_line,
            memory_bytes,
        };
        let values = replay(&boot.events(form)?);
        let value = |register| values.get(&register).copied().unwrap_or_default();
        let of = |order: PageOrder| {
            Ok(TdxRegisters {
                machine: format!("qemu-{order}-{form}{name}").parse()?,
                mrtd: tdvf.mrtd(order),
                rtmr0,
                rtmr1: value(1),
                rtmr2: value(2),
            })
        };
        PageOrder::ALL.into_iter().map(of).collect()
    }
}
