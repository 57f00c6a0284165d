//! Reference values of machines that start the kernel themselves: SEV-SNP and TDX on QEMU.
//!
//! Only machines whose measurement covers kernel, initrd and command line are stated. Where a cloud
//! measures its own firmware alone, the same launch digest stands for any software: a release
//! that named it would vouch for whatever else is started there.

use std::io;
use std::path::{Path, PathBuf};

use attest::release::statement::{SnpLaunchDigest, TdxRegisters};
use attest::{Name, NameError};

use crate::measure::boot::{Artifact, CommandText, CommandTextError};
use crate::measure::cpu::CpuType;
use crate::measure::firmware::{Firmware, FirmwareError};
use crate::measure::kernel_hashes::KernelHashes;
use crate::measure::sev::LayoutError;
use crate::measure::snp::{GuestFeatures, Launch, LaunchError, Shape, Vmm};
use crate::measure::tdvf::{PageOrder, Tdvf, TdvfError};
use crate::measure::tdx::{DirectBoot, KernelForm, TdxError, replay};

/// Most launch digests of one release: its statement must fit into the log.
pub const MAX_MACHINES: usize = 256;

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

/// MRTD, RTMR1 and RTMR2 for both orders of adding pages, of a QEMU that leaves the kernel as it is
/// and, for each size of memory, of one that fills in its header: `qemu-interleaved-unchanged`,
/// `qemu-two-passes-patched-8192m`. RTMR0 depends on every device, and is not stated.
pub fn tdx(
    direct: &Direct,
    machines: &TdxMachines<'_>,
) -> Result<Vec<TdxRegisters>, ReferenceError> {
    let firmware = Firmware::parse(machines.firmware)?;
    let tdvf = Tdvf::parse(&firmware)?;
    let unchanged = std::iter::once((KernelForm::Unchanged, 0));
    let patched = machines
        .memory_bytes
        .iter()
        .map(|bytes| (KernelForm::Patched, *bytes));
    let mut registers = Vec::new();
    for (form, memory_bytes) in unchanged.chain(patched) {
        let boot = DirectBoot {
            kernel: &direct.kernel.as_slice(),
            initrd: Some(&direct.initrd),
            command_line: &direct.command_line,
            memory_bytes,
        };
        let values = replay(&boot.events(form)?);
        let value = |register| values.get(&register).copied().unwrap_or_default();
        for order in PageOrder::ALL {
            let name = match form {
                KernelForm::Unchanged => format!("qemu-{order}-{form}"),
                KernelForm::Patched => format!("qemu-{order}-{form}-{}m", memory_bytes >> 20),
            };
            registers.push(TdxRegisters {
                machine: name.parse()?,
                mrtd: tdvf.mrtd(order),
                rtmr0: None,
                rtmr1: value(1),
                rtmr2: value(2),
            });
        }
    }
    match registers.len() > MAX_MACHINES {
        true => Err(ReferenceError::Machines(registers.len())),
        false => Ok(registers),
    }
}
