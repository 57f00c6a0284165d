//! `Cargo.lock`, in the one form in which cargo writes it.
//!
//! ```text
//! [[package]]
//! name = "…"
//! version = "…"
//! source = "…"          absent for the rooms of this house
//! checksum = "…"
//! dependencies = [
//!  "name",              "name version" where the lock holds several
//! ]
//! ```

use std::collections::BTreeSet;

use super::{Input, Kind};

/// Crates and what each depends on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrateGraph {
    crates: Vec<Crate>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Crate {
    line: usize,
    name: String,
    version: String,
    source: Option<String>,
    checksum: Option<String>,
    dependencies: Vec<String>,
}

impl Crate {
    fn room(&self) -> &str {
        self.name.strip_prefix("cloister-").unwrap_or(&self.name)
    }
}

/// What is wrong with a row of a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LockFault {
    /// Not of the lock's form.
    #[error("not of the form of this lock")]
    Form,
    /// A hash that is none.
    #[error("the hash is no SHA-256")]
    Hash,
    /// Something from outside without a hash.
    #[error("something from outside is named without its SHA-256")]
    Unpinned,
}

pub(super) fn parse(text: &str) -> Result<CrateGraph, (usize, LockFault)> {
    let mut crates: Vec<Crate> = Vec::new();
    let mut listing = false;
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        if line == "[[package]]" {
            crates.push(Crate {
                line: line_number,
                ..Crate::default()
            });
            continue;
        }
        let Some(one) = crates.last_mut() else {
            continue; // the head of the file
        };
        let form = || (line_number, LockFault::Form);
        if listing {
            match line.trim() {
                "]" => listing = false,
                item => {
                    let item = item.strip_suffix(',').and_then(quoted).ok_or_else(form)?;
                    one.dependencies.push(item.to_owned());
                }
            }
            continue;
        }
        let Some((key, value)) = line.split_once(" = ") else {
            match line.is_empty() {
                true => continue,
                false => return Err(form()),
            }
        };
        let text = || quoted(value).map(str::to_owned).ok_or_else(form);
        match key {
            "name" => one.name = text()?,
            "version" => one.version = text()?,
            "source" => one.source = Some(text()?),
            "checksum" => one.checksum = Some(text()?),
            "dependencies" => listing = value == "[",
            _ => return Err(form()),
        }
    }
    crates.iter().try_for_each(check)?;
    Ok(CrateGraph { crates })
}

fn check(one: &Crate) -> Result<(), (usize, LockFault)> {
    if one.name.is_empty() || one.version.is_empty() {
        return Err((one.line, LockFault::Form));
    }
    match (&one.source, &one.checksum) {
        (None, None) => Ok(()),
        (Some(_), None) => Err((one.line, LockFault::Unpinned)),
        (_, Some(hash)) => match hash.parse::<attest::Digest<32>>() {
            Ok(_) => Ok(()),
            Err(_) => Err((one.line, LockFault::Hash)),
        },
    }
}

fn quoted(text: &str) -> Option<&str> {
    text.trim().strip_prefix('"')?.strip_suffix('"')
}

impl CrateGraph {
    /// Forgets what a room of ours needs for its own tests alone. `manifest` gives the manifest of
    /// a room, by the end of its crate's name.
    pub(super) fn leave_tests_out(&mut self, manifest: impl Fn(&str) -> Option<String>) {
        for one in self.crates.iter_mut().filter(|one| one.source.is_none()) {
            let Some(text) = manifest(one.room()) else {
                continue;
            };
            let kept = keys(&text, |table| {
                table.ends_with("dependencies]") && !table.contains("dev-dependencies")
            });
            one.dependencies.retain(|dependency| {
                let name = dependency.split(' ').next().unwrap_or(dependency);
                kept.contains(name.strip_prefix("cloister-").unwrap_or(name))
            });
        }
    }

    /// The rooms of this house, by the end of their crates' names.
    pub(super) fn rooms(&self) -> impl Iterator<Item = &str> {
        let own = self.crates.iter().filter(|one| one.source.is_none());
        own.map(Crate::room)
    }

    /// The crates from outside.
    pub(super) fn inputs(&self) -> Vec<Input> {
        let outside = self.crates.iter().filter_map(|one| {
            let (source, checksum) = (one.source.as_ref()?, one.checksum.as_ref()?);
            Some(Input {
                kind: Kind::Crate,
                name: one.name.clone(),
                version: one.version.clone(),
                sha256: vec![checksum.parse().ok()?],
                origin: source.clone(),
                bytes: None,
                licence: None,
                used_for: Vec::new(),
                architecture: None,
            })
        });
        outside.collect()
    }

    /// Names and versions of all crates that `program` can be made of, itself included. A lock
    /// does not say for which platforms: it is the most that can be in it.
    pub fn reachable(&self, program: &str) -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        let mut open = vec![program.to_owned()];
        while let Some(wanted) = open.pop() {
            let (name, version) = match wanted.split_once(' ') {
                Some((name, version)) => (name, Some(version)),
                None => (&wanted[..], None),
            };
            let of_name = self.crates.iter().filter(|one| one.name == name);
            for one in of_name.filter(|one| version.is_none_or(|version| one.version == version)) {
                if found.insert((one.name.clone(), one.version.clone())) {
                    open.extend(one.dependencies.iter().cloned());
                }
            }
        }
        found
    }
}

/// The keys of a manifest's tables that fit: `name.workspace = true` and `name = …` alike.
fn keys(manifest: &str, fits: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let mut inside = false;
    let mut keys = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = fits(line.trim_end());
        } else if inside {
            let key = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if !key.is_empty() && !key.starts_with('#') {
                keys.insert(key.to_owned());
            }
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "# made by cargo\nversion = 4\n\n[[package]]\nname = \"cloister-agent\"\n\
        version = \"0.1.0\"\ndependencies = [\n \"one\",\n \"proptest\",\n]\n\n[[package]]\n\
        name = \"one\"\nversion = \"1.0.0\"\nsource = \"registry+index\"\nchecksum = \
        \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n\n[[package]]\n\
        name = \"proptest\"\nversion = \"2.0.0\"\nsource = \"registry+index\"\nchecksum = \
        \"11112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n";

    #[test]
    fn crates_are_found_from_a_program_but_not_through_its_tests() {
        let mut graph = parse(TEXT).unwrap();
        assert_eq!(graph.inputs().len(), 2);
        assert_eq!(graph.reachable("cloister-agent").len(), 3);
        let manifest = "[package]\nname = \"x\"\n[dependencies]\none.workspace = true\n\
            [dev-dependencies]\nproptest.workspace = true\n";
        graph.leave_tests_out(|room| (room == "agent").then(|| manifest.to_owned()));
        assert_eq!(graph.reachable("cloister-agent").len(), 2);
    }

    #[test]
    fn what_is_not_pinned_is_refused() {
        let without = |line: &str| parse(&TEXT.replacen(line, "", 1)).unwrap_err();
        let sum = "checksum = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"";
        assert_eq!(without(sum), (12, LockFault::Unpinned));
        assert_eq!(without("name = \"one\"\n"), (12, LockFault::Form));
        assert_eq!(without("00112233"), (12, LockFault::Hash));
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_read_or_refused(at in 0usize..700, byte in 0u8..128) {
            let mut bytes = TEXT.as_bytes().to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            let text = String::from_utf8(bytes).unwrap();
            if let Ok(graph) = parse(&text) {
                let _ = graph.reachable("cloister-agent");
            }
        }
    }
}
