//! Options of `measure`: what a machine's name stands for, and what contradicts what.

use std::path::Path;
use std::str::FromStr;

use release::acpi::Dumped;
use release::measure::boot::CommandText;
use release::measure::cpu::CpuType;
use release::measure::machines::{self, Machine, Platform};
use release::measure::snp::{MAX_VCPUS, Vmm};

use super::super::failure::{Failure, MISUSE};
use super::MeasureArguments;

/// What is measured, with a machine's name resolved.
pub(super) struct Options {
    pub(super) platform: Platform,
    pub(super) vmm: Option<Vmm>,
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
    #[error("a UKI on a disk is not in the launch digest of SEV-SNP")]
    UkiUnderSnp,
    #[error("{vmm} starts no VM under {platform}")]
    Vmm { platform: Platform, vmm: Vmm },
    #[error("{option} is for {} only", listed(.platforms))]
    OnlyFor {
        option: &'static str,
        platforms: &'static [Platform],
    },
    #[error("{0} says nothing without {1}")]
    Without(&'static str, &'static str),
    #[error("--list is given alone: {0} says nothing beside it")]
    Alone(&'static str),
    #[error("{0} says nothing of a VM that {1} starts")]
    NotOf(&'static str, Vmm),
    #[error("{0} measures no kernel: --kernel is not in its launch digest")]
    KernelNotMeasured(String),
    #[error("{option} is {given}, but the tables are of a machine with {has}")]
    Tables {
        option: &'static str,
        given: String,
        has: String,
    },
}

fn listed(platforms: &[Platform]) -> String {
    let names: Vec<_> = platforms.iter().map(ToString::to_string).collect();
    match &names[..] {
        [one] => format!("the platform {one}"),
        names => format!("the platforms {}", names.join(" and ")),
    }
}

/// What an option goes with.
struct Rule {
    option: &'static str,
    given: fn(&MeasureArguments) -> bool,
    platforms: &'static [Platform],
    /// Other options, without which it says nothing.
    with: &'static [&'static str],
}

const SNP: &[Platform] = &[Platform::Snp];
const TDX: &[Platform] = &[Platform::Tdx];
const TPM: &[Platform] = &[Platform::Tpm];
const FIRMWARE: &[Platform] = &[Platform::Snp, Platform::Tdx];
const LOGGED: &[Platform] = &[Platform::Tdx, Platform::Tpm];

/// Whether an option was given.
trait Given {
    fn given(&self) -> bool;
}

impl<T> Given for Option<T> {
    fn given(&self) -> bool {
        self.is_some()
    }
}

impl<T> Given for Vec<T> {
    fn given(&self) -> bool {
        !self.is_empty()
    }
}

impl Given for bool {
    fn given(&self) -> bool {
        *self
    }
}

macro_rules! rules {
    ($($option:literal $field:ident $platforms:ident $(with $with:literal)?;)*) => {
        /// Every option that says something of what is measured. What is not in its row is refused,
        /// as an option that is ignored would be taken for measured; only what describes a machine
        /// is taken on every platform, and noted where nothing measures it.
        const RULES: &[Rule] = &[$(Rule {
            option: $option,
            given: |arguments| arguments.$field.given(),
            platforms: $platforms,
            with: &[$($with)?],
        }),*];
    };
}

rules! {
    "--vmm" vmm FIRMWARE;
    "--vcpus" vcpus FIRMWARE;
    "--vcpu-type" vcpu_type SNP;
    "--guest-features" guest_features SNP;
    "--firmware" firmware FIRMWARE;
    "--kernel" kernel FIRMWARE;
    "--initrd" initrd FIRMWARE with "--kernel";
    "--cmdline" cmdline FIRMWARE with "--kernel";
    "--uki" uki LOGGED;
    "--memory" memory TDX;
    "--svsm" svsm SNP;
    "--svsm-variables" svsm_variables SNP with "--svsm";
    "--id-block" id_block SNP;
    "--id-key" id_key SNP with "--id-block";
    "--author-key" author_key SNP with "--id-block";
    "--guest-policy" guest_policy SNP with "--id-block";
    "--family-id" family_id SNP with "--id-block";
    "--image-id" image_id SNP with "--id-block";
    "--guest-svn" guest_svn SNP with "--id-block";
    "--disk" disk TDX with "--uki";
    "--event-log" event_log LOGGED;
    "--acpi" acpi TDX;
    "--phase" phases TPM with "--uki";
}

/// What describes a machine, whichever platform it is of.
const DESCRIBING: [&str; 5] = [
    "--vmm",
    "--vcpus",
    "--vcpu-type",
    "--guest-features",
    "--memory",
];

fn is_given(option: &str, arguments: &MeasureArguments) -> bool {
    let mut rules = RULES.iter();
    rules.any(|rule| rule.option == option && (rule.given)(arguments))
}

/// `--list` asks for nothing else.
pub(super) fn list_alone(arguments: &MeasureArguments) -> Result<(), OptionsError> {
    let more = [
        ("--platform", arguments.platform.is_some()),
        ("--machine", arguments.machine.is_some()),
    ];
    let more = more.into_iter().find(|(_, given)| *given);
    let ruled = RULES.iter().find(|rule| (rule.given)(arguments));
    match more
        .map(|(option, _)| option)
        .or(ruled.map(|rule| rule.option))
    {
        Some(option) => Err(OptionsError::Alone(option)),
        None => Ok(()),
    }
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
            vmm,
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
        if arguments.uki.is_some() && arguments.kernel.is_some() {
            return Err(OptionsError::TwoKernels);
        }
        for rule in RULES.iter().filter(|rule| (rule.given)(arguments)) {
            let describes = DESCRIBING.contains(&rule.option);
            if !rule.platforms.contains(&platform) && !describes {
                return Err(match rule.option {
                    "--uki" => OptionsError::UkiUnderSnp,
                    option => OptionsError::OnlyFor {
                        option,
                        platforms: rule.platforms,
                    },
                });
            }
            let missing = rule.with.iter().find(|with| !is_given(with, arguments));
            if let Some(with) = missing {
                return Err(OptionsError::Without(rule.option, with));
            }
        }
        self.check_vmm(arguments)
    }

    /// What was said of the machine, and is in no value of its platform.
    pub(super) fn not_measured(&self, arguments: &MeasureArguments) -> Vec<String> {
        let rules = RULES.iter().filter(|rule| (rule.given)(arguments));
        let other = rules.filter(|rule| !rule.platforms.contains(&self.platform));
        let note = |rule: &Rule| format!("{} is in no value of {}", rule.option, self.platform);
        other.map(note).collect()
    }

    /// What a VMM does not do.
    fn check_vmm(&self, arguments: &MeasureArguments) -> Result<(), OptionsError> {
        let kernel = arguments.kernel.is_some();
        match (self.platform, self.vmm, self.machine) {
            (platform @ Platform::Tdx, Some(vmm @ Vmm::Ec2), _) => {
                Err(OptionsError::Vmm { platform, vmm })
            }
            (Platform::Tdx, Some(vmm @ Vmm::Gce), _) => {
                // What it starts has its own memory layout and tables, and boots from a disk.
                let other = ["--kernel", "--memory", "--acpi"]
                    .into_iter()
                    .find(|option| is_given(option, arguments) && !self.is_of_the_machine(option));
                other.map_or(Ok(()), |option| Err(OptionsError::NotOf(option, vmm)))
            }
            (Platform::Snp, Some(Vmm::Ec2 | Vmm::Gce), Some(machine)) if kernel => {
                Err(OptionsError::KernelNotMeasured(machine.name.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Dumped tables are of one number of vCPUs and one size of memory.
    pub(super) fn check_tables(&self, tables: &Dumped) -> Result<(), OptionsError> {
        let refuse = |option, given: String, has: String| match given == has {
            true => Ok(()),
            false => Err(OptionsError::Tables { option, given, has }),
        };
        if let Some(vcpus) = self.vcpus {
            refuse("--vcpus", vcpus.to_string(), tables.vcpus.to_string())?;
        }
        if let Some(bytes) = self.memory_bytes {
            let given = format!("{bytes} bytes of memory");
            refuse(
                "--memory",
                given,
                format!("{} bytes of memory", tables.memory_bytes),
            )?;
        }
        Ok(())
    }

    /// Whether the machine's name says as much, so that the option is a check of it.
    fn is_of_the_machine(&self, option: &str) -> bool {
        self.machine.is_some_and(|machine| match option {
            "--vmm" => machine.vmm.is_some(),
            "--vcpus" => machine.vcpus.is_some(),
            "--vcpu-type" => machine.vcpu_type.is_some(),
            "--memory" => machine.memory_bytes.is_some(),
            _ => false,
        })
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
            E::Without(..) => "give both, or leave the option out",
            E::Alone(_) => "give --list by itself, or leave it out",
            E::NotOf(..) => "leave the option out, or give --vmm qemu",
            E::KernelNotMeasured(_) => {
                "leave the option out: a UKI on the machine's disk is in what --platform tpm \
                 predicts"
            }
            E::Tables { .. } => "give the folder that was dumped of the very machine",
            E::UkiUnderSnp => {
                "leave --uki out for the digest of the firmware; give --kernel for what QEMU gets \
                 by -kernel, be it a UKI; a UKI on a disk is in what --platform tpm predicts"
            }
            E::Vmm { .. } => "give --vmm qemu or gce",
            E::OnlyFor { .. } => "leave the option out, or give another --platform",
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
