//! What the auditor's commands have to say.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use release::differ::Difference;
use release::inputs::{Input, Kind};
use release::owns::Owned;
use release::reproduce::{Answer, Artifact, Because, Outcome, Verdict};
use serde_json::{Value, json};

use crate::cli::failure::printable;
use crate::cli::report::Report;

/// Exit code of two things that differ.
pub(super) const DIFFERENT: u8 = 6;

/// What a reproduction says beside its artifacts.
#[derive(Debug, Default)]
pub(super) struct Circumstances {
    /// Named facts, in order.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Stated values that these sources and artifacts do not have.
    pub(super) contradictions: Vec<String>,
    /// What should have been compared, and could not be.
    pub(super) not_compared: Vec<String>,
    /// What was not compared because it was not asked for.
    pub(super) left_out: Vec<String>,
}

impl Circumstances {
    /// The verdict on the whole, with that on the artifacts.
    fn verdict(&self, artifacts: Verdict) -> Verdict {
        let whole = match (
            &self.contradictions[..],
            &self.not_compared[..],
            &self.left_out[..],
        ) {
            ([], [], []) => Verdict::Equal,
            ([], ..) => Verdict::Incomplete,
            _ => Verdict::Different,
        };
        artifacts.max(whole)
    }
}

/// Every input, one line each, and how many of each kind.
pub(super) fn inputs(inputs: &[Input], evidence: &[String]) -> Report {
    let mut text = String::new();
    let mut counts: BTreeMap<Kind, (usize, u64)> = BTreeMap::new();
    for input in inputs {
        let count = counts.entry(input.kind).or_default();
        count.0 += 1;
        count.1 += input.bytes.unwrap_or_default();
        let hash = match &input.sha256[..] {
            [one] => one.to_string(),
            several => format!("{} hashes, one for each build", several.len()),
        };
        let _ = writeln!(
            text,
            "{:<6} {} {}  {hash}  {}  {}  {}  {}",
            input.kind.name(),
            printable(&input.name),
            printable(&input.version),
            input
                .bytes
                .map_or_else(|| "size unknown".to_owned(), |bytes| bytes.to_string()),
            printable(input.licence.as_deref().unwrap_or("licence unknown")),
            printable(&input.used_for.join(",")),
            printable(&input.origin),
        );
    }
    for (kind, (count, bytes)) in &counts {
        let _ = writeln!(
            text,
            "{:<6} {count} in all, {bytes} bytes known",
            kind.name()
        );
    }
    for line in evidence {
        let _ = writeln!(text, "vouched for by {}", printable(line));
    }
    let rows = inputs.iter().map(|input| {
        json!({
            "kind": input.kind.name(),
            "name": input.name,
            "version": input.version,
            "sha256": input.sha256,
            "origin": input.origin,
            "licence": input.licence,
            "bytes": input.bytes,
            "used_for": input.used_for,
            "purl": input.purl(),
        })
    });
    let counts = counts
        .iter()
        .map(|(kind, (count, _))| (kind.name(), *count));
    let counts: BTreeMap<_, _> = counts.collect();
    Report::of(
        text,
        json!({ "inputs": rows.collect::<Vec<_>>(), "counts": counts, "evidence": evidence }),
    )
}

/// Who owns a path.
pub(super) fn owned(owned: &Owned) -> Report {
    let mut facts = vec![("path", owned.path.clone()), ("in", owned.place.to_owned())];
    let optional = [
        ("what", owned.what.clone()),
        ("owner", Some(owned.owner.clone())),
        ("version", owned.version.clone()),
        (
            "package sha256",
            owned.sha256.map(|sha256| sha256.to_string()),
        ),
    ];
    facts.extend(
        optional
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    Report::facts(&facts)
}

/// A reproduction, artifact by artifact.
pub(super) fn reproduction(around: &Circumstances, answer: &Answer) -> Report {
    let mut text = String::new();
    for (name, value) in &around.facts {
        let _ = writeln!(text, "{name:<10} {}", printable(value));
    }
    for contradiction in &around.contradictions {
        let _ = writeln!(text, "{:<10} {}", "different", printable(contradiction));
    }
    for (mark, lines) in [
        ("MISSING", &around.not_compared),
        ("left out", &around.left_out),
    ] {
        for line in lines {
            let _ = writeln!(text, "{mark:<10} {}", printable(line));
        }
    }
    text.push('\n');
    for artifact in &answer.artifacts {
        artifact_text(&mut text, artifact);
    }
    let verdict = around.verdict(answer.verdict());
    let (count, first) = (answer.artifacts.len(), answer.first());
    let left_out = answer
        .artifacts
        .iter()
        .filter(|one| one.outcome == Outcome::NotRebuilt);
    let left_out = left_out.count();
    let _ = match (verdict, first) {
        (Verdict::Equal, _) => writeln!(text, "\nequal: {count} artifact(s)"),
        (Verdict::Incomplete, _) => writeln!(
            text,
            "\nINCOMPLETE: {} artifact(s) are equal, and not all was compared",
            count - left_out
        ),
        (Verdict::Different, None) => writeln!(text, "\nDIFFERENT"),
        (Verdict::Different, Some(first)) => {
            let place = printable(&first.place.join(" → "));
            writeln!(text, "\nDIFFERENT: first {place}; likely {}", first.cause)
        }
    };
    if left_out > 0 {
        let _ = writeln!(
            text,
            "{left_out} artifact(s) need the configuration: not rebuilt"
        );
    }
    let facts = around.facts.iter();
    let facts = facts.map(|(name, value)| (name.replace(' ', "_"), Value::from(value.as_str())));
    let not_compared = [&around.not_compared[..], &around.left_out].concat();
    let json = json!({
        "verdict": verdict_name(verdict),
        "equal": (verdict != Verdict::Incomplete).then_some(verdict == Verdict::Equal),
        "complete": not_compared.is_empty() && left_out == 0,
        "not_compared": not_compared,
        "facts": facts.collect::<serde_json::Map<_, _>>(),
        "contradictions": around.contradictions,
        "first": first.map(difference_json),
        "artifacts": answer.artifacts.iter().map(artifact_json).collect::<Vec<_>>(),
    });
    let mut report = Report::of(text, json);
    report.code = match verdict {
        Verdict::Equal => 0,
        // As much as was asked for.
        Verdict::Incomplete if around.not_compared.is_empty() => 0,
        Verdict::Incomplete | Verdict::Different => DIFFERENT,
    };
    report
}

const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Equal => "equal",
        Verdict::Incomplete => "incomplete",
        Verdict::Different => "different",
    }
}

fn artifact_text(text: &mut String, artifact: &Artifact) {
    let name = printable(&artifact.name);
    let word = match &artifact.outcome {
        Outcome::Equal => "equal",
        Outcome::NotRebuilt => "not built",
        Outcome::Different {
            because: Because::Follows(_),
            ..
        } => "follows",
        Outcome::Different { .. } => "different",
    };
    let _ = writeln!(text, "{word:<10} {name:<22} sha256:{}", artifact.stated);
    let Outcome::Different { found, because } = &artifact.outcome else {
        return;
    };
    let mut line = |line: &str| {
        let _ = writeln!(text, "{:<10} {}", "", printable(line));
    };
    if let Some(found) = found {
        line(&format!("built again it is       sha256:{found}"));
    }
    match because {
        Because::Follows(from) => line(&format!("it is made of {from}, which differs")),
        Because::NotMade => line("this build does not make it"),
        Because::NotAtHand => {
            line("the published file is not at hand, so only hashes are compared: --against");
        }
        Because::OtherThanStated(sum) => {
            line(&format!(
                "the published file is not the stated one: sha256:{sum}"
            ));
        }
        Because::NotReadable(why) => line(&format!("not taken apart: {why}")),
        Because::Found(found) => found.iter().for_each(|one| difference_text(text, one)),
        Because::Listed(found, why) => {
            line(&format!(
                "the manifests differ; contents were not read: {why}"
            ));
            found.iter().for_each(|one| difference_text(text, one));
        }
    }
}

fn difference_text(text: &mut String, found: &Difference) {
    let place = found.place.join(" → ");
    let likely = format!("{}: {}", found.cause, found.cause.explanation());
    let rows = [
        ("at", place),
        ("published", found.theirs.clone()),
        ("rebuilt", found.ours.clone()),
        (
            "from",
            found.owner.clone().unwrap_or_else(|| "unknown".to_owned()),
        ),
        ("likely", likely),
    ];
    for (name, value) in rows {
        let _ = writeln!(text, "{:<10}   {name:<9}  {}", "", printable(&value));
    }
}

fn artifact_json(artifact: &Artifact) -> Value {
    let (outcome, found, because) = match &artifact.outcome {
        Outcome::Equal => ("equal", Some(artifact.stated), Value::Null),
        Outcome::NotRebuilt => ("not-built", None, Value::Null),
        Outcome::Different { found, because } => ("different", *found, because_json(because)),
    };
    json!({
        "name": artifact.name,
        "outcome": outcome,
        "stated_sha256": artifact.stated,
        "found_sha256": found,
        "because": because,
    })
}

fn because_json(because: &Because) -> Value {
    let list = |found: &[Difference]| found.iter().map(difference_json).collect::<Vec<_>>();
    match because {
        Because::Follows(from) => json!({ "follows": from }),
        Because::Found(found) => json!({ "differences": list(found) }),
        Because::Listed(found, why) => json!({ "differences": list(found), "not_read": why }),
        Because::NotMade => json!({ "not_made": true }),
        Because::NotAtHand => json!({ "not_read": "the published file is not at hand" }),
        Because::OtherThanStated(sum) => json!({ "published_sha256": sum }),
        Because::NotReadable(why) => json!({ "not_read": why }),
    }
}

fn difference_json(found: &Difference) -> Value {
    json!({
        "place": found.place,
        "published": found.theirs,
        "rebuilt": found.ours,
        "owner": found.owner,
        "cause": found.cause.name(),
    })
}
