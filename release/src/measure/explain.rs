//! Why a launch digest does not match: a search through what is near the expected shape.
//!
//! All combinations of the candidates are tried, those that differ least from the expectation
//! first, each with 1 to 512 vCPUs: a count costs one hash. The search ends at the first match, at
//! the end of the candidates or of the time.

pub mod slots;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use attest::Digest;

use super::cpu::CpuType;
use super::kernel_hashes::KernelHashes;
use super::snp::{GuestFeatures, Launch, MAX_VCPUS, Shape, Vmm};

/// A choice of a name and a value.
pub type Named<T> = (String, T);

/// What may have been used in the place of what was expected. The first of each is the expectation.
pub struct Candidates<'a> {
    /// Firmware.
    pub firmware: Vec<Named<&'a Launch>>,
    /// VMMs.
    pub vmm: Vec<Vmm>,
    /// Types of vCPUs.
    pub cpu: Vec<CpuType>,
    /// Features of the guest.
    pub features: Vec<GuestFeatures>,
    /// Kernel, initrd and command line.
    pub boot: Vec<Named<Option<KernelHashes>>>,
    /// Number of vCPUs.
    pub vcpus: u16,
}

/// One difference between what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What differs.
    pub what: &'static str,
    /// As expected.
    pub expected: String,
    /// As found.
    pub found: String,
}

/// How a search ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// These differences explain the digest; none if there is none.
    Explained(Vec<Difference>),
    /// No candidate has that digest.
    Exhausted,
    /// The time was over before all candidates were tried.
    OutOfTime,
}

/// Combinations of candidates, by the index in each list.
type Indices = [usize; 5];

impl Candidates<'_> {
    /// Searches for a digest with all processors; `progress` is told how many of how many
    /// combinations were tried.
    pub fn search(
        &self,
        digest: Digest<48>,
        time: Duration,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Outcome {
        let combinations = self.combinations();
        let end = Instant::now() + time;
        let next = AtomicUsize::new(0);
        let found: Mutex<Option<(usize, u16)>> = Mutex::new(None);
        let best = || found.lock().ok().and_then(|found| *found);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let behind = best().is_some_and(|(best, _)| best < index);
                if index >= combinations.len() || behind || Instant::now() >= end {
                    return;
                }
                if index.is_multiple_of(256) {
                    progress(index, combinations.len());
                }
                let Some(vcpus) = self.vcpus_of(&combinations[index], digest) else {
                    continue;
                };
                if let Ok(mut found) = found.lock()
                    && found.is_none_or(|(best, _)| index < best)
                {
                    *found = Some((index, vcpus));
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        match best() {
            Some((index, vcpus)) => Outcome::Explained(self.name(&combinations[index], vcpus)),
            None if Instant::now() >= end => Outcome::OutOfTime,
            None => Outcome::Exhausted,
        }
    }

    /// How many combinations there are, each with all numbers of vCPUs.
    #[must_use]
    pub fn count(&self) -> usize {
        self.combinations().len()
    }

    fn lengths(&self) -> Indices {
        [
            self.firmware.len(),
            self.vmm.len(),
            self.cpu.len(),
            self.features.len(),
            self.boot.len(),
        ]
    }

    /// All combinations, those with the fewest differences first.
    fn combinations(&self) -> Vec<Indices> {
        let lengths = self.lengths();
        let one = |mut number: usize| {
            lengths.map(|length| {
                let index = number % length;
                number /= length;
                index
            })
        };
        let mut all: Vec<Indices> = (0..lengths.iter().product()).map(one).collect();
        all.sort_by_key(|indices| indices.iter().filter(|index| **index > 0).count());
        // Only QEMU measures the type of the vCPUs.
        all.retain(|indices| self.vmm[indices[1]] == Vmm::Qemu || indices[2] == 0);
        all
    }

    /// The number of vCPUs with which a combination has that digest: the expected one if it does.
    fn vcpus_of(&self, indices: &Indices, digest: Digest<48>) -> Option<u16> {
        let [firmware, vmm, cpu, features, boot] = *indices;
        let shape = |vcpus| Shape {
            vmm: self.vmm[vmm],
            vcpus,
            cpu: self.cpu[cpu],
            features: self.features[features],
            hashes: self.boot[boot].1,
        };
        let launch = self.firmware[firmware].1;
        // A firmware that starts one vCPU only has one digest.
        let table = launch
            .table(&shape(MAX_VCPUS))
            .or_else(|_| launch.table(&shape(1)));
        let at = table.ok()?.iter().position(|one| *one == digest)?;
        u16::try_from(at + 1).ok()
    }

    fn name(&self, indices: &Indices, vcpus: u16) -> Vec<Difference> {
        let [firmware, vmm, cpu, features, boot] = *indices;
        let name = |names: &[String], index: usize| [names[0].clone(), names[index].clone()];
        let vmms: Vec<_> = self.vmm.iter().map(ToString::to_string).collect();
        let cpus: Vec<_> = self.cpu.iter().map(ToString::to_string).collect();
        let bits: Vec<_> = self.features.iter().map(ToString::to_string).collect();
        let firmwares: Vec<_> = self.firmware.iter().map(|one| one.0.clone()).collect();
        let boots: Vec<_> = self.boot.iter().map(|one| one.0.clone()).collect();
        let all = [
            ("firmware", firmware, name(&firmwares, firmware)),
            ("vmm", vmm, name(&vmms, vmm)),
            ("vcpu type", cpu, name(&cpus, cpu)),
            ("guest features", features, name(&bits, features)),
            ("boot", boot, name(&boots, boot)),
        ];
        let differs = all.into_iter().filter(|(_, index, _)| *index > 0);
        let mut differences: Vec<_> = differs
            .map(|(what, _, [expected, found])| Difference {
                what,
                expected,
                found,
            })
            .collect();
        if vcpus != self.vcpus {
            differences.push(Difference {
                what: "vcpus",
                expected: self.vcpus.to_string(),
                found: vcpus.to_string(),
            });
        }
        differences
    }
}

/// Features that are near others: each bit that has a name, alone and with the expected ones.
#[must_use]
pub fn features_near(expected: GuestFeatures) -> Vec<GuestFeatures> {
    let mut near = vec![expected];
    let bits = (0..16).map(|bit| 1u64 << bit);
    let more = bits.flat_map(|bit| [1 | bit, expected.bits() ^ bit]);
    for features in more.chain([0x21, 0x221, 0x201]) {
        match GuestFeatures::new(features) {
            Ok(features) if !near.contains(&features) => near.push(features),
            _ => {}
        }
    }
    near
}

/// Texts that are taken for a command line by mistake.
#[must_use]
pub fn command_lines_near(expected: &str) -> Vec<Named<String>> {
    let trimmed = expected.trim_end();
    let near = [
        ("as expected", expected.to_owned()),
        ("with a newline at its end", format!("{trimmed}\n")),
        ("with a space at its end", format!("{trimmed} ")),
        ("without the space at its end", trimmed.to_owned()),
        (
            "with \" initrd=initrd\"",
            format!("{trimmed} initrd=initrd"),
        ),
        ("with console=ttyS0", format!("{trimmed} console=ttyS0")),
        ("empty", String::new()),
    ];
    let mut out: Vec<Named<String>> = Vec::new();
    for (name, text) in near {
        if out.iter().all(|(_, earlier)| *earlier != text) {
            out.push((name.to_owned(), text));
        }
    }
    out
}
