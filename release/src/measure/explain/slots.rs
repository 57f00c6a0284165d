//! Why a register does not match of which only the value is known: a search through what may have
//! been extended in the place of what was expected.
//!
//! A register is its events, each with choices. All combinations are tried, those with the fewest
//! differences first, until one gives the value, or the time is over.

use std::time::Instant;

use attest::Digest;

use super::{Combinations, Difference, Named, Outcome};
use crate::measure::Digests;
use crate::measure::boot::{Artifact, CommandText};
use crate::measure::bytes::Bytes;
use crate::measure::tdx::{DirectBoot, KernelForm};

/// One event of a register: what it may have been, the expectation first. `None` stands for no
/// event.
#[derive(Debug, Clone)]
pub struct Slot {
    /// What it is.
    pub what: &'static str,
    /// By what it may have been.
    pub choices: Vec<Named<Option<Digest<48>>>>,
}

/// Searches for a register's value until `end`; `progress` is told how many of how many
/// combinations were tried.
pub fn search(
    slots: &[Slot],
    found: Digest<48>,
    end: Instant,
    progress: impl Fn(usize, usize),
) -> Outcome {
    let all = Combinations::new(slots.iter().map(|slot| slot.choices.len()).collect());
    let total = all.total();
    let mut tried: usize = 0;
    for indices in all {
        if tried.is_multiple_of(1 << 12) {
            progress(tried, total);
            if Instant::now() >= end {
                return Outcome::OutOfTime(tried);
            }
        }
        tried += 1;
        let chosen = || slots.iter().zip(&indices);
        let value = chosen().fold(Digest::ZERO, |value, (slot, index)| {
            match slot.choices[*index].1 {
                Some(digest) => Digest::sha384(&[value.as_ref(), digest.as_ref()].concat()),
                None => value,
            }
        });
        if value == found {
            let differs = chosen().filter(|(_, index)| **index > 0);
            let name = |(slot, index): (&Slot, &usize)| Difference {
                what: slot.what,
                expected: slot.choices[0].0.clone(),
                found: slot.choices[*index].0.clone(),
            };
            return Outcome::Explained(differs.map(name).collect());
        }
    }
    Outcome::Exhausted(tried)
}

/// Command lines as EFI measures them, with and without what firmware appends.
#[must_use]
pub fn command_lines(lines: &[Named<String>], suffix: &str) -> Vec<Named<Digests>> {
    let mut out: Vec<Named<Digests>> = Vec::new();
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
            let digest = Digests::of_bytes(&line.to_load_options(suffix));
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

/// A kernel of a direct boot in all its forms. What QEMU fills in depends on the size of the initrd
/// and on memory below 4 GiB, of which there are few sizes. The first initrd and the first size of
/// memory are the expected ones; `go_on` is asked before each form, which costs a hash of the file.
pub fn kernels(
    name: &str,
    kernel: &dyn Bytes,
    initrds: &[Named<Option<Artifact>>],
    memory_bytes: &[u64],
    go_on: impl Fn() -> bool,
) -> Vec<Named<Digest<48>>> {
    let none = CommandText::default();
    let of = |form, initrd, memory_bytes| {
        let boot = DirectBoot {
            kernel,
            initrd,
            command_line: &none,
            memory_bytes,
        };
        go_on().then(|| Some(boot.events(form).ok()?.first()?.digest))?
    };
    let mut out: Vec<Named<Digest<48>>> = Vec::new();
    let unchanged = of(KernelForm::Unchanged, None, 0);
    out.extend(unchanged.map(|digest| (format!("{name}, unchanged"), digest)));
    for (index, (initrd_name, initrd)) in initrds.iter().enumerate() {
        for bytes in memory_bytes {
            let patched = of(KernelForm::Patched, initrd.as_ref(), *bytes);
            let patched = patched.filter(|new| out.iter().all(|(_, earlier)| earlier != new));
            let mut text = format!("{name}, patched for {} MiB of memory", bytes >> 20);
            if index > 0 {
                text = text + " and the initrd " + initrd_name;
            }
            out.extend(patched.map(|digest| (text, digest)));
        }
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
        let explain = |found| search(&slots, found, end(60), |_, _| ());
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
        assert_eq!(explain(value(&[9])), Outcome::Exhausted(9));
        let late = search(&slots, value(&[3]), Instant::now(), |_, _| ());
        assert_eq!(late, Outcome::OutOfTime(0));
    }

    fn end(seconds: u64) -> Instant {
        Instant::now() + std::time::Duration::from_secs(seconds)
    }

    /// The reason for an end is the true one: neither the number of combinations nor the time
    /// stands for the other.
    #[test]
    fn however_many_combinations_there_are_the_end_is_named() {
        let wide: Vec<u8> = (0..=255).collect();
        let slots = [slot("a", &wide), slot("b", &wide), slot("c", &wide)];
        let last = Outcome::Explained(vec![
            Difference {
                what: "b",
                expected: "b 0".to_owned(),
                found: "b 255".to_owned(),
            },
            Difference {
                what: "c",
                expected: "c 0".to_owned(),
                found: "c 255".to_owned(),
            },
        ]);
        let found = search(&slots, value(&[0, 255, 255]), end(600), |_, _| ());
        assert_eq!(found, last);
        let two = search(&slots[..2], value(&[9]), end(600), |_, _| ());
        assert_eq!(two, Outcome::Exhausted(1 << 16));
    }
}
