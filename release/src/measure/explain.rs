//! Why evidence does not match a prediction: what was measured instead, found by a search through
//! what is near, or named by the first event that differs.
//!
//! | evidence | is compared with | and searched for |
//! |---|---|---|
//! | report of SEV-SNP | its launch digest | all that is measured before the start (`launch`) |
//! | quote of TDX | each register | the events that were predicted for it (`slots`) |
//! | event log | each event | what the first that differs is (`log`) |
//!
//! Nothing is verified here, and nothing that is read is trusted: not the evidence, not the
//! prediction.

pub mod evidence;
pub mod launch;
pub mod log;
pub mod slots;
pub mod statement;

use super::snp::GuestFeatures;

/// A choice of a name and a value.
pub type Named<T> = (String, T);

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
    /// These differences explain the value; none if there is none.
    Explained(Vec<Difference>),
    /// All of so many combinations were tried, and none has that value.
    Exhausted(usize),
    /// The time was over when so many combinations had been tried.
    OutOfTime(usize),
}

/// All combinations of a choice for each of some axes, by the index of each choice, those with the
/// fewest differences from the first choices first.
#[derive(Debug, Clone)]
struct Combinations {
    lengths: Vec<usize>,
    /// The axes that have more than one choice.
    axes: Vec<usize>,
    /// Which of them differ, ascending, and by which choice each.
    differing: Vec<usize>,
    choices: Vec<usize>,
    done: bool,
}

impl Combinations {
    /// Each axis has so many choices.
    fn new(lengths: Vec<usize>) -> Self {
        let axes = (0..lengths.len()).filter(|axis| lengths[*axis] > 1);
        Self {
            axes: axes.collect(),
            differing: Vec::new(),
            choices: Vec::new(),
            done: lengths.contains(&0),
            lengths,
        }
    }

    /// How many there are.
    fn total(&self) -> usize {
        self.lengths.iter().copied().fold(1, usize::saturating_mul)
    }

    fn advance(&mut self) {
        for (axis, choice) in self.differing.iter().zip(&mut self.choices) {
            *choice += 1;
            if *choice < self.lengths[self.axes[*axis]] {
                return;
            }
            *choice = 1;
        }
        let (count, all) = (self.differing.len(), self.axes.len());
        let movable = (0..count).rfind(|at| self.differing[*at] < all - count + at);
        if let Some(at) = movable {
            let first = self.differing[at] + 1;
            for (axis, next) in self.differing[at..].iter_mut().zip(first..) {
                *axis = next;
            }
            return;
        }
        self.done = count == all;
        self.differing = (0..=count).collect();
        self.choices = vec![1; count + 1];
    }
}

impl Iterator for Combinations {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        if self.done {
            return None;
        }
        let mut indices = vec![0; self.lengths.len()];
        for (axis, choice) in self.differing.iter().zip(&self.choices) {
            indices[self.axes[*axis]] = *choice;
        }
        self.advance();
        Some(indices)
    }
}

/// Features that are near others, and how many of them are at the beginning of the list: each of
/// the 16 lowest bits turned, or alone with bit 0; then two of them turned.
#[must_use]
pub fn features_near(expected: GuestFeatures) -> (Vec<GuestFeatures>, usize) {
    let mut all = vec![expected];
    let mut add = |bits: u64| {
        let new = GuestFeatures::new(bits).ok();
        all.extend(new.filter(|new| !all.contains(new)));
        all.len()
    };
    let bits = || (0..16).map(|bit| 1u64 << bit);
    let mut near = 1;
    for bit in bits() {
        add(1 | bit);
        near = add(expected.bits() ^ bit);
    }
    for bit in bits() {
        bits().for_each(|other| {
            add(expected.bits() ^ bit ^ other);
        });
    }
    (all, near)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn combinations_come_by_the_number_of_their_differences_and_each_once() {
        let all = Combinations::new(vec![3, 1, 2, 4]);
        assert_eq!(all.total(), 24);
        let all: Vec<_> = all.collect();
        assert_eq!(all.len(), 24);
        assert_eq!(all[0], [0, 0, 0, 0]);
        let differences = |one: &Vec<usize>| one.iter().filter(|index| **index > 0).count();
        assert!(all.is_sorted_by_key(differences));
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 24);
        assert_eq!(Combinations::new(Vec::new()).count(), 1);
        assert_eq!(Combinations::new(vec![2, 0]).count(), 0);
    }

    #[test]
    fn features_of_two_bits_are_tried_after_those_of_one() {
        let (all, near) = features_near(GuestFeatures::new(0x1).unwrap());
        let place = |bits| all.iter().position(|one| one.bits() == bits);
        assert_eq!(place(0x1), Some(0));
        assert!(place(0x21).unwrap() < near && place(0x221).unwrap() >= near);
        assert_eq!(all.len(), 1 + 15 + 15 * 14 / 2);
    }
}
