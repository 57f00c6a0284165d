//! Options of `measure`: what a machine's name stands for, and what contradicts what.

use std::path::Path;
use std::str::FromStr;

use release::measure::boot::CommandText;
use release::measure::cpu::CpuType;
use release::measure::machines::{self, Machine, Platform};
use release::measure::snp::{MAX_VCPUS, Vmm};

use super::super::failure::{Failure, MISUSE};
use super::MeasureArguments;

/// What is measured, with a machine's name resolved.
pub(super) struct Options {
    pub(super) platform: Platform,
    pub(super) vmm: Vmm,
    pub(super) vcpus: Option<VcpuRange>,
    pub(super) cpu: Option<CpuType>,
    pub(super) memory_bytes: Option<u64>,
    pub(super) machine: Option<&'static Machine>,
}

/// One number of vCPUs, or all from one to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) struct VcpuRange {
    pub(super) first: u16,
    pub(super) last: u16,
}

/// Why options make no request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OptionsError {
    #[error("it is not said what is to be measured")]
    Nothing,
    #[error("{option} is missing, which {platform} needs")]
    Missing {
        platform: Platform,
        option: &'static str,
    },
    #[error("{option} is {given}, but {machine} has {has}")]
    Machine {
        option: &'static str,
        given: String,
        machine: String,
        has: String,
    },
    #[error("--uki and --kernel contradict each other: a UKI holds its kernel")]
    TwoKernels,
    #[error("{0} is of a direct boot, and --kernel is missing")]
    NoKernel(&'static str),
    #[error("a UKI on a disk is not in the launch digest of SEV-SNP")]
    UkiUnderSnp,
    #[error("{vmm} starts no VM under {platform}")]
    Vmm { platform: Platform, vmm: Vmm },
    #[error("{0} is for the platform {1} only")]
    OnlyFor(&'static str, Platform),
}

/// A file that would not be held in memory.
#[derive(Debug, thiserror::Error)]
#[error("it is larger than {0} bytes")]
pub(super) struct TooLarge(pub(super) usize);

impl TooLarge {
    pub(super) fn at(&self, path: &Path) -> Failure {
        Failure::input(path, self, "give the file that the option's help describes")
    }
}

impl Options {
    pub(super) fn of(arguments: &MeasureArguments) -> Result<Self, Failure> {
        let machine = match &arguments.machine {
            Some(name) => Some(machines::find(name).map_err(|error| {
                let hint = "see `cloister-release measure --list`";
                Failure::new(MISUSE, &error, hint)
            })?),
            None => None,
        };
        let merge = Merge(machine);
        let own = machine.map(|machine| machine.platform);
        let platform = merge.one("--platform", arguments.platform, own)?;
        let platform = match (platform, &arguments.uki) {
            (Some(platform), _) => platform,
            (None, Some(_)) => Platform::Tpm,
            (None, None) => return Err(OptionsError::Nothing.into()),
        };
        let vmm = merge.one("--vmm", arguments.vmm, machine.and_then(|own| own.vmm))?;
        let own = machine.and_then(|own| own.vcpus).map(VcpuRange::one);
        let vcpus = merge.one("--vcpus", arguments.vcpus, own)?;
        let own = machine.and_then(|own| own.vcpu_type.as_deref()?.parse().ok());
        let options = Self {
            platform,
            vmm: vmm.unwrap_or(Vmm::Qemu),
            vcpus,
            cpu: merge.one("--vcpu-type", arguments.vcpu_type, own)?,
            memory_bytes: merge.one(
                "--memory",
                arguments.memory,
                machine.and_then(|own| own.memory_bytes),
            )?,
            machine,
        };
        options.check(arguments)?;
        Ok(options)
    }

    fn check(&self, arguments: &MeasureArguments) -> Result<(), OptionsError> {
        let platform = self.platform;
        let direct = [
            ("--initrd", arguments.initrd.is_some()),
            ("--cmdline", arguments.cmdline.is_some()),
        ];
        if arguments.uki.is_some() && arguments.kernel.is_some() {
            return Err(OptionsError::TwoKernels);
        }
        for (option, given) in direct {
            if given && arguments.kernel.is_none() {
                return Err(OptionsError::NoKernel(option));
            }
        }
        let only = [
            ("--svsm", arguments.svsm.is_some(), Platform::Snp),
            ("--id-block", arguments.id_block, Platform::Snp),
            ("--id-key", arguments.id_key.is_some(), Platform::Snp),
            (
                "--author-key",
                arguments.author_key.is_some(),
                Platform::Snp,
            ),
            ("--disk", arguments.disk.is_some(), Platform::Tdx),
            ("--acpi", arguments.acpi.is_some(), Platform::Tdx),
            ("--phase", !arguments.phases.is_empty(), Platform::Tpm),
        ];
        for (option, given, needs) in only {
            if given && needs != platform {
                return Err(OptionsError::OnlyFor(option, needs));
            }
        }
        // A TPM's log stands for what a UKI does not tell, too.
        if arguments.event_log.is_some() && platform == Platform::Snp {
            return Err(OptionsError::OnlyFor("--event-log", Platform::Tdx));
        }
        match (platform, self.vmm) {
            (Platform::Snp, _) if arguments.uki.is_some() => Err(OptionsError::UkiUnderSnp),
            (Platform::Tdx, Vmm::Ec2) => Err(OptionsError::Vmm {
                platform,
                vmm: self.vmm,
            }),
            _ => Ok(()),
        }
    }
}

/// Options with what a machine's name says of them.
struct Merge(Option<&'static Machine>);

impl Merge {
    fn one<T: PartialEq + ToString>(
        &self,
        option: &'static str,
        given: Option<T>,
        has: Option<T>,
    ) -> Result<Option<T>, OptionsError> {
        match (given, has, self.0) {
            (Some(given), Some(has), Some(machine)) if given != has => Err(OptionsError::Machine {
                option,
                given: given.to_string(),
                machine: machine.name.clone(),
                has: has.to_string(),
            }),
            (given, has, _) => Ok(given.or(has)),
        }
    }
}

pub(super) fn required<T>(
    platform: Platform,
    option: &'static str,
    value: Option<T>,
) -> Result<T, OptionsError> {
    value.ok_or(OptionsError::Missing { platform, option })
}

impl From<OptionsError> for Failure {
    fn from(error: OptionsError) -> Self {
        use OptionsError as E;
        let hint = match &error {
            E::Nothing => "give --uki, or --platform snp, tdx or tpm, or --machine",
            E::Missing { option, .. } if *option == "--uki" => {
                "give a cloister.efi that `cloister-release assemble` made"
            }
            E::Missing { .. } => "see `cloister-release measure --help` for an example",
            E::Machine { .. } => "leave the option out, or name another machine",
            E::TwoKernels => "leave one of the two out",
            E::NoKernel(_) => "give --kernel, or leave the option out",
            E::UkiUnderSnp => {
                "leave --uki out for the digest of the firmware; give --kernel for what QEMU gets \
                 by -kernel, be it a UKI; a UKI on a disk is in what --platform tpm predicts"
            }
            E::Vmm { .. } => "give --vmm qemu or gce",
            E::OnlyFor(..) => "leave the option out, or give another --platform",
        };
        Self::new(MISUSE, &error, hint)
    }
}

pub(super) fn platform(text: &str) -> Result<Platform, String> {
    match text.to_ascii_lowercase().as_str() {
        "snp" => Ok(Platform::Snp),
        "tdx" => Ok(Platform::Tdx),
        "tpm" => Ok(Platform::Tpm),
        _ => Err("snp, tdx and tpm are known".to_owned()),
    }
}

/// A size with a unit of 1024: 512M, 4G, or bytes.
pub(in crate::cli) fn size(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("give a size such as 4G or 512M".to_owned()),
    };
    let number: Option<u64> = digits.parse().ok();
    let bytes = number.and_then(|number| number.checked_mul(1 << shift));
    bytes
        .filter(|bytes| (1 << 20..=1 << 46).contains(bytes))
        .ok_or_else(|| "give a size such as 4G or 512M".to_owned())
}

pub(super) fn bits(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ => text.parse(),
    };
    number.map_err(|_| "give a number such as 0x30000".to_owned())
}

impl VcpuRange {
    pub(in crate::cli) fn numbers(&self) -> std::ops::RangeInclusive<u16> {
        self.first..=self.last
    }

    fn one(number: u16) -> Self {
        Self {
            first: number,
            last: number,
        }
    }
}

impl FromStr for VcpuRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) => Self { first, last },
            _ => return Err("give a number such as 4, or a range such as 1-512".to_owned()),
        };
        let possible = 1..=MAX_VCPUS;
        match possible.contains(&range.first) && possible.contains(&range.last) {
            true if range.first <= range.last => Ok(range),
            _ => Err(format!("1 to {MAX_VCPUS} vCPUs are possible")),
        }
    }
}

impl std::fmt::Display for VcpuRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

/// The command line that was given, or an empty one.
pub(super) fn command_line(arguments: &MeasureArguments) -> CommandText {
    arguments.cmdline.clone().unwrap_or_default()
}
