//! Two builds or two releases side by side: what a reviewer needs to see of a change.
//!
//! A side is a folder that `image/build.sh` filled, a folder that assembling made, a folder that
//! holds one of each, or a statement, envelope or bundle. What only one of the sides can tell is
//! said to be not compared; it is never taken for equal.

mod configuration;
mod report;
mod side;
mod units;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use report::{json, markdown, text};
pub use side::{Side, SideError};

/// What is compared, in the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// Name, version, profile, sources and lock of a release.
    Release,
    /// Packages with something in the root.
    Packages,
    /// Paths of the root.
    Files,
    /// Files that may take on the rights of their owner.
    Setuid,
    /// The kernel's command line.
    CommandLine,
    /// The site's configuration.
    Configuration,
    /// Units of systemd.
    Units,
    /// Settings of units that confine their processes.
    Sandbox,
    /// Registers of a TPM that a machine must show.
    Measurements,
    /// Values of other platforms that a machine must show: launch digests of SEV-SNP.
    Launch,
    /// Artifacts, by hash.
    Artifacts,
    /// Bytes of each artifact.
    Sizes,
}

impl Topic {
    /// Every topic.
    pub const ALL: [Self; 12] = [
        Self::Release,
        Self::Packages,
        Self::Files,
        Self::Setuid,
        Self::CommandLine,
        Self::Configuration,
        Self::Units,
        Self::Sandbox,
        Self::Measurements,
        Self::Launch,
        Self::Artifacts,
        Self::Sizes,
    ];

    /// The topic's name on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Packages => "packages",
            Self::Files => "files",
            Self::Setuid => "setuid",
            Self::CommandLine => "command-line",
            Self::Configuration => "configuration",
            Self::Units => "units",
            Self::Sandbox => "sandbox",
            Self::Measurements => "measurements",
            Self::Launch => "launch",
            Self::Artifacts => "artifacts",
            Self::Sizes => "sizes",
        }
    }
}

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What it is.
    pub what: String,
    /// On the first side, if it is there.
    pub before: Option<String>,
    /// On the second side, if it is there.
    pub after: Option<String>,
    /// Package or source that it comes from.
    pub owner: Option<String>,
}

/// The result for one topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The topic.
    pub topic: Topic,
    /// Changes; `None` where a side cannot tell.
    pub changes: Option<Vec<Change>>,
}

/// Two sides, compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Names of the sides.
    pub names: (String, String),
    /// One section for each topic.
    pub sections: Vec<Section>,
    /// Bytes of root, initrd and kernel on each side, where both are known.
    pub bytes: Option<(u64, u64)>,
}

/// When a comparison counts as different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// At any change.
    Any,
    /// Never: the report is all that is wanted.
    Nothing,
    /// At a change in a topic, and where it could not be compared.
    Topic(Topic),
    /// If root, initrd and kernel have grown by more than so many bytes.
    Growth(u64),
}

/// A condition that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no condition {0:?}; there are any, nothing, growth=BYTES, and {names}",
    names = Topic::ALL.map(Topic::name).join(", "))]
pub struct ConditionError(String);

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        let wrong = || ConditionError(text.to_owned());
        match text {
            "any" => Ok(Self::Any),
            "nothing" => Ok(Self::Nothing),
            _ => match text.strip_prefix("growth=") {
                Some(bytes) => bytes.parse().map(Self::Growth).map_err(|_| wrong()),
                None => {
                    let topic = Topic::ALL.into_iter().find(|topic| topic.name() == text);
                    topic.map(Self::Topic).ok_or_else(wrong)
                }
            },
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Compares two sides.
pub fn compare(before: &Side, after: &Side) -> Comparison {
    let sections = Topic::ALL.map(|topic| Section {
        topic,
        changes: changes(topic, before, after),
    });
    Comparison {
        names: (before.name.clone(), after.name.clone()),
        sections: sections.to_vec(),
        bytes: before.boot_bytes().zip(after.boot_bytes()),
    }
}

impl Comparison {
    /// Whether nothing that was compared differs.
    pub fn is_equal(&self) -> bool {
        let mut changes = self
            .sections
            .iter()
            .filter_map(|section| section.changes.as_ref());
        changes.all(Vec::is_empty)
    }

    /// Whether a condition is met.
    pub fn meets(&self, condition: Condition) -> bool {
        match condition {
            Condition::Any => !self.is_equal(),
            Condition::Nothing => false,
            Condition::Topic(topic) => self.sections.iter().any(|section| {
                let changed = section
                    .changes
                    .as_ref()
                    .is_none_or(|changes| !changes.is_empty());
                section.topic == topic && changed
            }),
            Condition::Growth(most) => self
                .bytes
                .is_none_or(|(before, after)| after.saturating_sub(before) > most),
        }
    }
}

fn changes(topic: Topic, before: &Side, after: &Side) -> Option<Vec<Change>> {
    let mut changes = table_changes(&before.table(topic)?, &after.table(topic)?);
    if [Topic::Files, Topic::Setuid].contains(&topic) {
        for change in &mut changes {
            let owner = after
                .owner(&change.what)
                .or_else(|| before.owner(&change.what));
            change.owner = owner;
        }
    }
    Some(changes)
}

/// What two tables do not have in common, by their keys.
fn table_changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<Change> {
    let mut keys: Vec<&String> = before.keys().chain(after.keys()).collect();
    keys.sort();
    keys.dedup();
    let differing = keys
        .into_iter()
        .filter(|key| before.get(*key) != after.get(*key));
    let change = |key: &String| Change {
        what: key.clone(),
        before: before.get(key).cloned(),
        after: after.get(key).cloned(),
        owner: None,
    };
    differing.map(change).collect()
}
