//! Why a register does not match of which only the value is known: a search through what may have
//! been extended in the place of what was expected.
//!
//! A register is its events, each with choices. All combinations are tried, those with the fewest
//! differences first, until one gives the value, or the time is over.

use std::time::{Duration, Instant};

use attest::Digest;

use super::{Difference, Named, Outcome};
use crate::measure::boot::{Artifact, CommandText};
use crate::measure::bytes::Bytes;
use crate::measure::tdx::{DirectBoot, KernelForm};

/// Most combinations of one register.
const MAX_COMBINATIONS: usize = 1 << 20;

/// One event of a register: what it may have been, the expectation first. `None` stands for no
/// event.
#[derive(Debug, Clone)]
pub struct Slot {
    /// What it is.
    pub what: &'static str,
    /// By what it may have been.
    pub choices: Vec<Named<Option<Digest<48>>>>,
}

/// How many combinations these slots have.
#[must_use]
pub fn count(slots: &[Slot]) -> usize {
    let lengths = slots.iter().map(|slot| slot.choices.len());
    lengths.fold(1, usize::saturating_mul)
}

/// Searches for a register's value; `progress` is told how many of how many combinations were
/// tried.
pub fn search(
    slots: &[Slot],
    found: Digest<48>,
    time: Duration,
    progress: impl Fn(usize, usize),
) -> Outcome {
    let end = Instant::now() + time;
    let total = count(slots);
    let mut order: Vec<usize> = (0..total.min(MAX_COMBINATIONS)).collect();
    order.sort_by_key(|number| {
        indices(slots, *number)
            .filter(|(_, index)| *index > 0)
            .count()
    });
    for (tried, number) in order.into_iter().enumerate() {
        if tried.is_multiple_of(1 << 12) {
            progress(tried, total);
            if Instant::now() >= end {
                return Outcome::OutOfTime;
            }
        }
        let value = indices(slots, number).fold(Digest::ZERO, |value, (slot, index)| {
            match slot.choices[index].1 {
                Some(digest) => Digest::sha384(&[value.as_ref(), digest.as_ref()].concat()),
                None => value,
            }
        });
        if value == found {
            let differs = indices(slots, number).filter(|(_, index)| *index > 0);
            let name = |(slot, index): (&Slot, usize)| Difference {
                what: slot.what,
                expected: slot.choices[0].0.clone(),
                found: slot.choices[index].0.clone(),
            };
            return Outcome::Explained(differs.map(name).collect());
        }
    }
    match total > MAX_COMBINATIONS {
        true => Outcome::OutOfTime,
        false => Outcome::Exhausted,
    }
}

/// The choice of each slot in a combination.
fn indices(slots: &[Slot], mut number: usize) -> impl Iterator<Item = (&Slot, usize)> {
    slots.iter().map(move |slot| {
        let index = number % slot.choices.len();
        number /= slot.choices.len();
        (slot, index)
    })
}

/// Command lines as EFI measures them, with and without what firmware appends.
#[must_use]
pub fn command_lines(lines: &[Named<String>], suffix: &str) -> Vec<Named<Digest<48>>> {
    let mut out: Vec<Named<Digest<48>>> = Vec::new();
    let other = if suffix.is_empty() {
        " initrd=initrd"
    } else {
        ""
    };
    for suffix in [suffix, other] {
        for (name, line) in lines {
            let Ok(line) = line.parse::<CommandText>() else {
                continue;
            };
            let digest = Digest::sha384(&line.to_load_options(suffix));
            let name = match out.len() < lines.len() {
                true => name.clone(),
                false if suffix.is_empty() => format!("{name}, nothing appended by firmware"),
                false => format!("{name}, with{suffix}"),
            };
            if out.iter().all(|(_, earlier)| *earlier != digest) {
                out.push((name, digest));
            }
        }
    }
    out
}

/// A kernel of a direct boot in all its forms. QEMU's changes depend on memory below 4 GiB, of
/// which there are few sizes.
#[must_use]
pub fn kernels(
    name: &str,
    kernel: &dyn Bytes,
    initrd: Option<&Artifact>,
    memory_bytes: Option<u64>,
) -> Vec<Named<Digest<48>>> {
    let none = CommandText::default();
    let of = |form, memory_bytes| {
        let boot = DirectBoot {
            kernel,
            initrd,
            command_line: &none,
            memory_bytes,
        };
        Some(boot.events(form).ok()?.first()?.digest)
    };
    let mut out: Vec<Named<Digest<48>>> = Vec::new();
    out.extend(of(KernelForm::Unchanged, 0).map(|digest| (format!("{name}, unchanged"), digest)));
    let sizes = [2u64 << 30, 1 << 30, 512 << 20];
    for bytes in memory_bytes.into_iter().chain(sizes) {
        let patched = of(KernelForm::Patched, bytes);
        let patched = patched.filter(|new| out.iter().all(|(_, earlier)| earlier != new));
        let size = format!("{name}, patched for {} MiB of memory", bytes >> 20);
        out.extend(patched.map(|digest| (size, digest)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(what: &'static str, bytes: &[u8]) -> Slot {
        let choice = |byte: &u8| (format!("{what} {byte}"), Some(Digest([*byte; 48])));
        Slot {
            what,
            choices: bytes.iter().map(choice).collect(),
        }
    }

    fn value(digests: &[u8]) -> Digest<48> {
        digests
            .iter()
            .fold(Digest::ZERO, |value: Digest<48>, byte| {
                Digest::sha384(&[value.as_ref(), &[*byte; 48][..]].concat())
            })
    }

    #[test]
    fn the_fewest_differences_are_named() {
        let mut slots = [slot("line", &[1, 2, 3]), slot("initrd", &[4, 5])];
        slots[1].choices.push(("none".to_owned(), None));
        let explain = |found| search(&slots, found, Duration::from_secs(60), |_, _| ());
        assert_eq!(explain(value(&[1, 4])), Outcome::Explained(Vec::new()));
        let one = |what, expected: &str, found: &str| Difference {
            what,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let line = one("line", "line 1", "line 3");
        assert_eq!(
            explain(value(&[3, 4])),
            Outcome::Explained(vec![line.clone()])
        );
        let none = one("initrd", "initrd 4", "none");
        assert_eq!(explain(value(&[3])), Outcome::Explained(vec![line, none]));
        assert_eq!(explain(value(&[9])), Outcome::Exhausted);
        let late = search(&slots, value(&[3]), Duration::ZERO, |_, _| ());
        assert_eq!(late, Outcome::OutOfTime);
    }

    #[test]
    fn too_many_combinations_are_not_all_tried() {
        let wide: Vec<u8> = (0..=255).collect();
        let slots = [slot("a", &wide), slot("b", &wide), slot("c", &wide)];
        assert_eq!(count(&slots), 1 << 24);
        let found = search(&slots, value(&[9]), Duration::from_secs(600), |_, _| ());
        assert_eq!(found, Outcome::OutOfTime);
    }
}
