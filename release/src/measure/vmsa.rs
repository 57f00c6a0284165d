//! The state in which a vCPU begins, as SEV-SNP measures it: one page per vCPU.
//!
//! Layout: AMD64 Architecture Programmer's Manual, volume 2, table B-4. What stands in the fields
//! is each VMM's own choice:
//!
//! | | QEMU | EC2 | GCE | SVSM on QEMU |
//! |---|---|---|---|---|
//! | CS attributes, first vCPU / others | 9b / 9b | 9a / 9b | 9b / 9b | c9b, flat |
//! | SS, TR attributes | 93, 8b | 92, 83 | 93, 8b | c93, 8b |
//! | RDX | signature of the vCPU | 0x600 (since May 2026) | 0x600 | signature |
//! | PAT | 7040600070406 | the same | 70106 | 7040600070406 |
//! | MXCSR, x87 control word | 1f80, 37f | 0, 0 | 0, 0 | 1f80, 0 |

use super::firmware::PAGE_BYTES;
use super::snp::{GuestFeatures, Vmm};

/// Where the first vCPU begins.
pub const RESET_VECTOR: u32 = 0xffff_fff0;
/// The processor's default page attribute table.
const PAT: u64 = 0x0007_0406_0007_0406;

/// A page of the initial state.
pub type Page = [u8; PAGE_BYTES];

/// What the VMMs disagree on.
struct Choices {
    cs: u16,
    ss: u16,
    tr: u16,
    rdx: u64,
    pat: u64,
    mxcsr: u32,
    x87_control: u16,
}

/// The page of a vCPU that begins in real mode at `begin`.
#[must_use]
pub fn page(vmm: Vmm, begin: u32, signature: u32, features: GuestFeatures) -> Page {
    let choices = match vmm {
        Vmm::Qemu => Choices {
            cs: 0x9b,
            ss: 0x93,
            tr: 0x8b,
            rdx: signature.into(),
            pat: PAT,
            mxcsr: 0x1f80,
            x87_control: 0x37f,
        },
        Vmm::Ec2 => Choices {
            cs: if begin == RESET_VECTOR { 0x9a } else { 0x9b },
            ss: 0x92,
            tr: 0x83,
            rdx: 0x600,
            pat: PAT,
            mxcsr: 0,
            x87_control: 0,
        },
        Vmm::Gce => Choices {
            cs: 0x9b,
            ss: 0x93,
            tr: 0x8b,
            rdx: 0x600,
            pat: 0x0007_0106,
            mxcsr: 0,
            x87_control: 0,
        },
    };
    let mut page = Area::new(&choices, features);
    page.segment(ES, 0, 0x93, 0xffff, 0);
    page.segment(CS, 0xf000, choices.cs, 0xffff, begin & 0xffff_0000);
    page.segment(SS, 0, choices.ss, 0xffff, 0);
    for segment in [DS, FS] {
        page.segment(segment, 0, 0x93, 0xffff, 0);
    }
    page.put(CR0, &0x10u64.to_le_bytes());
    page.put(RIP, &u64::from(begin & 0xffff).to_le_bytes());
    page.0
}

/// The page of a vCPU that begins in an SVSM, in flat protected mode. All vCPUs have the same.
#[must_use]
pub fn svsm_page(begin: u32, signature: u32, features: GuestFeatures) -> Page {
    let choices = Choices {
        cs: 0xc9b,
        ss: 0xc93,
        tr: 0x8b,
        rdx: signature.into(),
        pat: PAT,
        mxcsr: 0x1f80,
        x87_control: 0,
    };
    let mut page = Area::new(&choices, features);
    page.segment(CS, 8, choices.cs, 0xffff_ffff, 0);
    for segment in [ES, SS, DS, FS] {
        page.segment(segment, 16, choices.ss, 0xffff_ffff, 0);
    }
    page.put(CR0, &0x11u64.to_le_bytes());
    page.put(RIP, &u64::from(begin).to_le_bytes());
    page.0
}

const ES: usize = 0x000;
const CS: usize = 0x010;
const SS: usize = 0x020;
const DS: usize = 0x030;
const FS: usize = 0x040;
const GS: usize = 0x050;
const GDTR: usize = 0x060;
const LDTR: usize = 0x070;
const IDTR: usize = 0x080;
const TR: usize = 0x090;
const EFER: usize = 0x0d0;
const CR4: usize = 0x148;
const CR0: usize = 0x158;
const DR7: usize = 0x160;
const DR6: usize = 0x168;
const RFLAGS: usize = 0x170;
const RIP: usize = 0x178;
const GUEST_PAT: usize = 0x268;
const RDX: usize = 0x310;
const SEV_FEATURES: usize = 0x3b0;
const XCR0: usize = 0x3e8;
const MXCSR: usize = 0x408;
const X87_CONTROL: usize = 0x410;

struct Area(Page);

impl Area {
    /// What all have in common, and what they choose outside the segments of code and data.
    fn new(choices: &Choices, features: GuestFeatures) -> Self {
        let mut area = Self([0; PAGE_BYTES]);
        area.segment(GS, 0, 0x93, 0xffff, 0);
        area.segment(GDTR, 0, 0, 0xffff, 0);
        area.segment(LDTR, 0, 0x82, 0xffff, 0);
        area.segment(IDTR, 0, 0, 0xffff, 0);
        area.segment(TR, 0, choices.tr, 0xffff, 0);
        let words = [
            (EFER, 0x1000), // SVME, which KVM always sets
            (CR4, 0x40),    // MCE
            (DR7, 0x400),
            (DR6, 0xffff_0ff0),
            (RFLAGS, 2),
            (GUEST_PAT, choices.pat),
            (RDX, choices.rdx),
            (SEV_FEATURES, features.bits()),
            (XCR0, 1),
        ];
        for (at, word) in words {
            area.put(at, &u64::to_le_bytes(word));
        }
        area.put(MXCSR, &choices.mxcsr.to_le_bytes());
        area.put(X87_CONTROL, &choices.x87_control.to_le_bytes());
        area
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn segment(&mut self, at: usize, selector: u16, attributes: u16, limit: u32, base: u32) {
        self.put(at, &selector.to_le_bytes());
        self.put(at + 2, &attributes.to_le_bytes());
        self.put(at + 4, &limit.to_le_bytes());
        self.put(at + 8, &u64::from(base).to_le_bytes());
    }
}
