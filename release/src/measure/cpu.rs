//! Types of virtual processors, as QEMU names them, and what a launch digest takes of them: the
//! signature, which is CPUID Fn0000_0001_EAX. All versions of a type have one signature.
//!
//! The names are those of QEMU 10.0.13 (`-cpu help`) and, of later ones, EPYC-v5, EPYC-Rome-v5,
//! EPYC-Milan-v3, EPYC-Genoa-v2 and EPYC-Turin with its versions. EPYC-Naples and the names without
//! EPYC are our own.

use std::fmt;
use std::str::FromStr;

/// The signature of a virtual processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CpuType {
    name: &'static str,
    signature: u32,
}

/// A name that no type has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no vCPU type is called {name:?}; the nearest is {nearest}")]
pub struct UnknownCpu {
    /// The name.
    pub name: String,
    /// The name that differs least.
    pub nearest: &'static str,
}

const EPYC: u32 = signature(23, 1, 2);
const ROME: u32 = signature(23, 49, 0);
const MILAN: u32 = signature(25, 1, 1);
const GENOA: u32 = signature(25, 17, 0);
const TURIN: u32 = signature(26, 0, 0);

/// Names with their signatures; the first of a signature is the one that is shown.
const NAMES: &[(&str, u32)] = &[
    ("EPYC-v4", EPYC),
    ("EPYC", EPYC),
    ("EPYC-v1", EPYC),
    ("EPYC-v2", EPYC),
    ("EPYC-v3", EPYC),
    ("EPYC-v5", EPYC),
    ("EPYC-IBPB", EPYC),
    ("EPYC-Naples", EPYC),
    ("Naples", EPYC),
    ("EPYC-Rome", ROME),
    ("EPYC-Rome-v1", ROME),
    ("EPYC-Rome-v2", ROME),
    ("EPYC-Rome-v3", ROME),
    ("EPYC-Rome-v4", ROME),
    ("EPYC-Rome-v5", ROME),
    ("Rome", ROME),
    ("EPYC-Milan", MILAN),
    ("EPYC-Milan-v1", MILAN),
    ("EPYC-Milan-v2", MILAN),
    ("EPYC-Milan-v3", MILAN),
    ("Milan", MILAN),
    ("EPYC-Genoa", GENOA),
    ("EPYC-Genoa-v1", GENOA),
    ("EPYC-Genoa-v2", GENOA),
    ("Genoa", GENOA),
    ("EPYC-Turin", TURIN),
    ("EPYC-Turin-v1", TURIN),
    ("EPYC-Turin-v2", TURIN),
    ("Turin", TURIN),
];

/// AMD, "CPUID Specification" (25481): family, model and stepping in one word.
const fn signature(family: u32, model: u32, stepping: u32) -> u32 {
    let (low, high) = match family > 15 {
        true => (15, family - 15),
        false => (family, 0),
    };
    high << 20 | (model >> 4) << 16 | low << 8 | (model & 15) << 4 | stepping
}

impl CpuType {
    /// One type for each signature.
    pub fn all() -> impl Iterator<Item = Self> {
        let first = |index: usize, signature| NAMES[..index].iter().all(|(_, s)| *s != signature);
        let names = NAMES.iter().enumerate();
        names.filter_map(move |(index, &(name, signature))| {
            first(index, signature).then_some(Self { name, signature })
        })
    }

    /// Its signature.
    #[must_use]
    pub fn signature(self) -> u32 {
        self.signature
    }
}

impl Default for CpuType {
    fn default() -> Self {
        let (name, signature) = NAMES[0];
        Self { name, signature }
    }
}

impl FromStr for CpuType {
    type Err = UnknownCpu;

    fn from_str(text: &str) -> Result<Self, UnknownCpu> {
        let same = |(name, _): &&(&str, u32)| name.eq_ignore_ascii_case(text);
        if let Some(&(name, signature)) = NAMES.iter().find(same) {
            return Ok(Self { name, signature });
        }
        let mut nearest = (usize::MAX, "EPYC-v4");
        for (name, _) in NAMES {
            let distance = distance(&name.to_ascii_lowercase(), &text.to_ascii_lowercase());
            if distance < nearest.0 {
                nearest = (distance, name);
            }
        }
        Err(UnknownCpu {
            name: text.chars().take(64).collect(),
            nearest: nearest.1,
        })
    }
}

impl fmt::Display for CpuType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Levenshtein's distance of short words; of a long text only the beginning counts.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (line, letter) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for column in 0..b.len() {
            let replaced = diagonal + usize::from(b[column] != letter);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn aliases_have_the_signature_of_their_type() {
        let of = |name: &str| name.parse::<CpuType>().unwrap().signature();
        assert_eq!(of("EPYC-v4"), 0x0080_0f12);
        assert_eq!(of("milan"), 0x00a0_0f11);
        assert_eq!(of("EPYC-Genoa-v2"), 0x00a1_0f10);
        assert_eq!(of("EPYC-TURIN"), 0x00b0_0f00);
        assert_eq!(of("rome"), 0x0083_0f10);
        assert_eq!(CpuType::all().count(), 5);
    }

    #[test]
    fn an_unknown_type_is_refused_and_the_nearest_named() {
        let nearest = |name: &str| name.parse::<CpuType>().unwrap_err().nearest;
        assert_eq!(nearest("EPYC-Millan"), "EPYC-Milan");
        assert_eq!(nearest("Geona"), "Genoa");
        assert_eq!(nearest("EPYC-v44"), "EPYC-v4");
        assert!(nearest(&"x".repeat(1 << 20)).starts_with("EPYC"));
    }
}
