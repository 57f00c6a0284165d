//! The launch digest of SEV-SNP: what the processor's firmware has hashed when a VM starts.
//!
//! ```text
//! LD = 0⁴⁸; for each page: LD = SHA-384( PAGE_INFO )
//! PAGE_INFO, 112 bytes: LD 48 ‖ contents 48 ‖ 112 u16 ‖ kind u8 ‖ imi u8 = 0 ‖ permissions of
//!                       VMPL 3, 2, 1 and a reserved byte = 0 ‖ guest address u64
//! contents: SHA-384 of normal pages and of VMSAs, zeros for all others
//! order:    firmware, then (SVSM, then) the sections of its metadata, then one VMSA per vCPU
//! ```
//!
//! Specification: AMD, "SEV Secure Nested Paging Firmware ABI" (56860), 8.17 SNP_LAUNCH_UPDATE. The
//! order is the VMM's: EC2 measures the CPUID page after all other sections, GCE leaves the
//! firmware's memory unmeasured.

use std::fmt;
use std::str::FromStr;

use attest::Digest;

use super::cpu::CpuType;
use super::firmware::{Firmware, PAGE_BYTES};
use super::kernel_hashes::KernelHashes;
use super::sev::{Layout, LayoutError, Section, SectionKind};
use super::vmsa;

/// Most vCPUs.
pub const MAX_VCPUS: u16 = 512;
/// Address that stands for a VMSA.
const VMSA_ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Who starts the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Vmm {
    /// QEMU with KVM.
    Qemu,
    /// Amazon EC2.
    Ec2,
    /// Google Compute Engine.
    Gce,
}

/// `SEV_FEATURES` of every vCPU: bit 0, SNP, is always set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestFeatures(u64);

/// What a VM is started with beside its firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Who starts it.
    pub vmm: Vmm,
    /// How many vCPUs, 1 to [`MAX_VCPUS`].
    pub vcpus: u16,
    /// Their type; it counts on QEMU only.
    pub cpu: CpuType,
    /// Their features.
    pub features: GuestFeatures,
    /// Kernel, initrd and command line of a direct boot.
    pub hashes: Option<KernelHashes>,
}

/// A firmware of which the digest is known, ready to be launched in any shape.
#[derive(Debug, Clone)]
pub struct Launch {
    firmware_digest: Digest<48>,
    layout: Layout,
    svsm: bool,
}

/// Why a launch digest is not predicted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// No vCPU, or too many.
    #[error("{0} vCPUs; 1 to {MAX_VCPUS} are possible")]
    Vcpus(u16),
    /// The firmware does not say where further vCPUs begin.
    #[error("the firmware does not say where a second vCPU begins")]
    NoReset,
    /// The firmware has no room for kernel hashes.
    #[error("the firmware has no section for kernel hashes: it does not check what QEMU gives it")]
    NoKernelHashes,
    /// An SVSM elsewhere than on QEMU.
    #[error("an SVSM is started by QEMU only, not by {0}")]
    SvsmVmm(Vmm),
    /// An SVSM and kernel hashes.
    #[error("under an SVSM the hashes of a kernel are not measured")]
    SvsmKernel,
}

/// Not guest features of an SNP VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeaturesError {
    /// No number.
    #[error("{0:?} is no number: give one such as 0x1")]
    Number(String),
    /// Bit 0 is not set.
    #[error("{0:#x} lacks bit 0, without which a VM does not run under SEV-SNP")]
    NotSnp(u64),
}

/// Not the name of a VMM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no VMM is called {0:?}: qemu, ec2 and gce are known")]
pub struct UnknownVmm(String);

impl Launch {
    /// Hashes a firmware.
    pub fn new(firmware: &Firmware<'_>) -> Result<Self, LayoutError> {
        let layout = Layout::of(firmware)?;
        let mut context = Context(Digest::ZERO);
        context.normal(firmware.address(), firmware.bytes());
        Ok(Self {
            firmware_digest: context.0,
            layout,
            svsm: false,
        })
    }

    /// Hashes a firmware and the SVSM that runs before it and ends below the firmware's variables.
    pub fn with_svsm(
        firmware: &Firmware<'_>,
        svsm: &Firmware<'_>,
        variables_bytes: u32,
    ) -> Result<Self, LayoutError> {
        let end = firmware.address().checked_sub(variables_bytes.into());
        let end = end.ok_or(LayoutError::Entry)?;
        let layout = Layout::of_svsm(svsm, end)?;
        let mut context = Context(Digest::ZERO);
        context.normal(firmware.address(), firmware.bytes());
        context.normal(end - svsm.bytes().len() as u64, svsm.bytes());
        Ok(Self {
            firmware_digest: context.0,
            layout,
            svsm: true,
        })
    }

    /// Goes on from a firmware of which only the digest and the layout are known.
    pub fn of_digest(firmware_digest: Digest<48>, layout: Layout) -> Result<Self, LayoutError> {
        Ok(Self {
            firmware_digest,
            layout: layout.check()?,
            svsm: false,
        })
    }

    /// The digest after the firmware's own pages.
    #[must_use]
    pub fn firmware_digest(&self) -> Digest<48> {
        self.firmware_digest
    }

    /// The sections that the firmware names.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.layout.sections
    }

    /// Whether kernel hashes can be measured.
    #[must_use]
    pub fn takes_kernel(&self) -> bool {
        self.layout.hashes_table.is_some() && self.layout.hashes_section().is_some()
    }

    /// The launch digest of one shape.
    pub fn digest(&self, shape: &Shape) -> Result<Digest<48>, LaunchError> {
        let table = self.table(shape)?;
        // `table` refuses a shape without vCPUs.
        Ok(table.last().copied().unwrap_or_default())
    }

    /// The launch digests of the shape with 1, 2, … up to its number of vCPUs. Each costs one hash
    /// more than the one before.
    pub fn table(&self, shape: &Shape) -> Result<Vec<Digest<48>>, LaunchError> {
        if !(1..=MAX_VCPUS).contains(&shape.vcpus) {
            return Err(LaunchError::Vcpus(shape.vcpus));
        }
        let mut context = self.before_vcpus(shape.vmm, shape.hashes.as_ref())?;
        let [first, other] = self.vcpu_contents(shape)?;
        let mut table = Vec::with_capacity(shape.vcpus.into());
        for index in 0..shape.vcpus {
            let contents = if index == 0 { &first } else { &other };
            context.page(PageKind::Vmsa, VMSA_ADDRESS, contents);
            table.push(context.0);
        }
        Ok(table)
    }

    /// Everything but the vCPUs.
    fn before_vcpus(
        &self,
        vmm: Vmm,
        hashes: Option<&KernelHashes>,
    ) -> Result<Context, LaunchError> {
        match (self.svsm, vmm, hashes) {
            (true, Vmm::Ec2 | Vmm::Gce, _) => return Err(LaunchError::SvsmVmm(vmm)),
            (true, _, Some(_)) => return Err(LaunchError::SvsmKernel),
            _ => {}
        }
        let contents = match (hashes, self.layout.hashes_table) {
            (Some(hashes), Some(at)) if self.takes_kernel() => {
                let offset = at as usize % PAGE_BYTES;
                let page = hashes.page(offset).ok_or(LaunchError::NoKernelHashes)?;
                Some(Digest::sha384(&page))
            }
            (None, _) => None,
            _ => return Err(LaunchError::NoKernelHashes),
        };
        let mut context = Context(self.firmware_digest);
        let last = |section: &&Section| vmm == Vmm::Ec2 && section.kind == SectionKind::Cpuid;
        let sections = &self.layout.sections;
        for section in sections.iter().filter(|section| !last(section)) {
            context.section(section, vmm, contents.as_ref());
        }
        for section in sections.iter().filter(last) {
            context.section(section, vmm, None);
        }
        Ok(context)
    }

    /// Hashes of the first vCPU's page and of any other's.
    fn vcpu_contents(&self, shape: &Shape) -> Result<[Digest<48>; 2], LaunchError> {
        let (cpu, features) = (shape.cpu.signature(), shape.features);
        if self.svsm {
            let begin = self.layout.reset_address.ok_or(LaunchError::NoReset)?;
            return Ok([Digest::sha384(&vmsa::svsm_page(begin, cpu, features)); 2]);
        }
        let page = |begin| Digest::sha384(&vmsa::page(shape.vmm, begin, cpu, features));
        let first = page(vmsa::RESET_VECTOR);
        let other = match (shape.vcpus, self.layout.reset_address) {
            (1, _) => first,
            (_, Some(begin)) => page(begin),
            (_, None) => return Err(LaunchError::NoReset),
        };
        Ok([first, other])
    }
}

/// Kinds of pages, by their number in `PAGE_INFO`.
#[derive(Clone, Copy)]
enum PageKind {
    Normal = 1,
    Vmsa = 2,
    Zero = 3,
    Unmeasured = 4,
    Secrets = 5,
    Cpuid = 6,
}

struct Context(Digest<48>);

impl Context {
    fn page(&mut self, kind: PageKind, address: u64, contents: &Digest<48>) {
        const INFO_BYTES: u16 = 112;
        let mut info = [0; INFO_BYTES as usize];
        info[..48].copy_from_slice(self.0.as_ref());
        info[48..96].copy_from_slice(contents.as_ref());
        info[96..98].copy_from_slice(&INFO_BYTES.to_le_bytes());
        info[98] = kind as u8;
        info[104..].copy_from_slice(&address.to_le_bytes());
        self.0 = Digest::sha384(&info);
    }

    /// Pages of data: hashed on all processors, then chained.
    fn normal(&mut self, address: u64, data: &[u8]) {
        for (index, contents) in page_hashes(data).iter().enumerate() {
            let address = address + (index * PAGE_BYTES) as u64;
            self.page(PageKind::Normal, address, contents);
        }
    }

    fn section(&mut self, section: &Section, vmm: Vmm, hashes: Option<&Digest<48>>) {
        let (kind, contents) = match (section.kind, hashes) {
            (SectionKind::Memory, _) if vmm == Vmm::Gce => (PageKind::Unmeasured, Digest::ZERO),
            (SectionKind::KernelHashes, Some(contents)) => (PageKind::Normal, *contents),
            (SectionKind::Memory | SectionKind::CallingArea | SectionKind::KernelHashes, _) => {
                (PageKind::Zero, Digest::ZERO)
            }
            (SectionKind::Secrets, _) => (PageKind::Secrets, Digest::ZERO),
            (SectionKind::Cpuid, _) => (PageKind::Cpuid, Digest::ZERO),
        };
        for address in section.range().step_by(PAGE_BYTES) {
            self.page(kind, address, &contents);
        }
    }
}

fn page_hashes(data: &[u8]) -> Vec<Digest<48>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pages = data.len().div_ceil(PAGE_BYTES);
    let share = pages.div_ceil(threads).max(1) * PAGE_BYTES;
    let hash = |part: &[u8]| part.chunks(PAGE_BYTES).map(Digest::sha384).collect();
    std::thread::scope(|scope| {
        let work = |part| (part, scope.spawn(move || -> Vec<_> { hash(part) }));
        let parts: Vec<_> = data.chunks(share).map(work).collect();
        let join = |(part, thread): (_, std::thread::ScopedJoinHandle<'_, _>)| {
            thread.join().unwrap_or_else(|_| hash(part))
        };
        parts.into_iter().flat_map(join).collect()
    })
}

impl GuestFeatures {
    /// SNP alone.
    pub const SNP: Self = Self(1);

    /// Checks that SNP is among them.
    pub fn new(bits: u64) -> Result<Self, FeaturesError> {
        match bits & 1 {
            1 => Ok(Self(bits)),
            _ => Err(FeaturesError::NotSnp(bits)),
        }
    }

    /// As they stand in a VMSA.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }
}

impl FromStr for GuestFeatures {
    type Err = FeaturesError;

    fn from_str(text: &str) -> Result<Self, FeaturesError> {
        let bits = match text.strip_prefix("0x") {
            Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
            _ => text.parse(),
        };
        let bits = bits.map_err(|_| FeaturesError::Number(text.chars().take(64).collect()))?;
        Self::new(bits)
    }
}

impl fmt::Display for GuestFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl FromStr for Vmm {
    type Err = UnknownVmm;

    fn from_str(text: &str) -> Result<Self, UnknownVmm> {
        match text.to_ascii_lowercase().as_str() {
            "qemu" => Ok(Self::Qemu),
            "ec2" => Ok(Self::Ec2),
            "gce" => Ok(Self::Gce),
            _ => Err(UnknownVmm(text.chars().take(64).collect())),
        }
    }
}

impl fmt::Display for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "qemu",
            Self::Ec2 => "ec2",
            Self::Gce => "gce",
        })
    }
}
