//! Why a launch digest does not match: a search through what is near the expected shape.
//!
//! All combinations of the candidates are tried, those that differ least from the expectation
//! first, each with 1 to 512 vCPUs: a count costs one hash. The search ends at the first match, at
//! the end of the candidates or of the time.

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use attest::Digest;

use super::{Combinations, Difference, Named, Outcome};
use crate::measure::cpu::CpuType;
use crate::measure::kernel_hashes::KernelHashes;
use crate::measure::snp::{GuestFeatures, Launch, MAX_VCPUS, Shape, Vmm};

/// What may have been used in the place of what was expected. The first of each is the expectation.
pub struct Candidates<'a> {
    /// Firmware, with the SVSM before it where there is one.
    pub firmware: Vec<Named<&'a Launch>>,
    /// VMMs.
    pub vmm: Vec<Vmm>,
    /// Types of vCPUs.
    pub cpu: Vec<CpuType>,
    /// Features of the guest.
    pub features: Vec<GuestFeatures>,
    /// How many of the features are tried together with other differences.
    pub features_near: usize,
    /// Kernel, initrd and command line.
    pub boot: Vec<Named<Option<KernelHashes>>>,
    /// Number of vCPUs; several of a table.
    pub vcpus: RangeInclusive<u16>,
}

const VMM: usize = 1;
const CPU: usize = 2;
const FEATURES: usize = 3;

impl Candidates<'_> {
    /// Searches for a digest with all processors until `end`; `progress` is told how many of how
    /// many combinations were tried.
    pub fn search(
        &self,
        digest: Digest<48>,
        end: Instant,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Outcome {
        let all = self.combinations();
        let total = all.total();
        let next = Mutex::new(all.filter(|indices| self.makes_sense(indices)).enumerate());
        let (tried, late) = (AtomicUsize::new(0), AtomicBool::new(false));
        let found: Mutex<Option<(usize, Vec<usize>, u16)>> = Mutex::new(None);
        let work = || {
            loop {
                let taken = next.lock().ok().and_then(|mut next| next.next());
                let Some((number, indices)) = taken else {
                    return;
                };
                let best = found
                    .lock()
                    .map_or(None, |found| found.as_ref().map(|one| one.0));
                if best.is_some_and(|best| best < number) {
                    return;
                }
                if Instant::now() >= end {
                    late.store(true, Ordering::Relaxed);
                    return;
                }
                if number.is_multiple_of(256) {
                    progress(number, total);
                }
                let vcpus = self.vcpus_of(&indices, digest);
                tried.fetch_add(1, Ordering::Relaxed);
                let Some(vcpus) = vcpus else { continue };
                if let Ok(mut found) = found.lock()
                    && found.as_ref().is_none_or(|best| number < best.0)
                {
                    *found = Some((number, indices, vcpus));
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        let found = found.lock().ok().and_then(|mut found| found.take());
        let tried = tried.into_inner();
        match found {
            Some((_, indices, vcpus)) => Outcome::Explained(self.name(&indices, vcpus)),
            None if late.into_inner() => Outcome::OutOfTime(tried),
            None => Outcome::Exhausted(tried),
        }
    }

    fn combinations(&self) -> Combinations {
        Combinations::new(vec![
            self.firmware.len(),
            self.vmm.len(),
            self.cpu.len(),
            self.features.len(),
            self.boot.len(),
        ])
    }

    /// Only QEMU measures the type of the vCPUs, and features that are far off are tried alone.
    fn makes_sense(&self, indices: &[usize]) -> bool {
        let differing = indices.iter().filter(|index| **index > 0).count();
        let typed = self.vmm[indices[VMM]] == Vmm::Qemu || indices[CPU] == 0;
        typed && (indices[FEATURES] < self.features_near || differing == 1)
    }

    /// The number of vCPUs with which a combination has that digest.
    fn vcpus_of(&self, indices: &[usize], digest: Digest<48>) -> Option<u16> {
        let [firmware, vmm, cpu, features, boot] = *indices else {
            return None;
        };
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

    fn name(&self, indices: &[usize], vcpus: u16) -> Vec<Difference> {
        fn shown<T: ToString>(list: &[T]) -> Vec<String> {
            list.iter().map(ToString::to_string).collect()
        }
        let names = [
            (
                "firmware",
                self.firmware.iter().map(|one| one.0.clone()).collect(),
            ),
            ("vmm", shown(&self.vmm)),
            ("vcpu type", shown(&self.cpu)),
            ("guest features", shown(&self.features)),
            (
                "boot",
                self.boot
                    .iter()
                    .map(|one| one.0.clone())
                    .collect::<Vec<_>>(),
            ),
        ];
        let differs = names.iter().zip(indices).filter(|(_, index)| **index > 0);
        let mut differences: Vec<_> = differs
            .map(|((what, names), index)| Difference {
                what,
                expected: names[0].clone(),
                found: names[*index].clone(),
            })
            .collect();
        if !self.vcpus.contains(&vcpus) {
            let (first, last) = (self.vcpus.start(), self.vcpus.end());
            differences.push(Difference {
                what: "vcpus",
                expected: match first == last {
                    true => first.to_string(),
                    false => format!("{first}-{last}"),
                },
                found: vcpus.to_string(),
            });
        }
        differences
    }
}
