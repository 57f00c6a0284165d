//! What a command has to say: a table for people, JSON for machines.

use std::fmt::{self, Write as _};
use std::path::Path;

use attest::UnixTime;
use attest::release::VerifiedRelease;
use attest::release::statement::Predicate;
use release::log::{Log, Stated};
use release::measure::eventlog::{Bank, EventLog};
use release::measure::machines::Machine;
use release::measure::{Measurement, OTHERS};
use serde_json::{Map, Value, json};

use super::failure::printable;

/// A report in both forms.
#[derive(Debug)]
pub(super) struct Report {
    /// The program's exit code: the command did its work, and says by this what came out.
    pub(super) code: u8,
    text: String,
    json: Value,
}

impl Report {
    /// A report in a form of its own.
    pub(super) fn of(text: String, json: Value) -> Self {
        Self {
            code: 0,
            text,
            json,
        }
    }

    /// The same, with another exit code.
    pub(super) fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// A value for machines only.
    pub(super) fn and_value(mut self, name: &str, value: Value) -> Self {
        self.json[name] = value;
        self
    }

    /// Lines at the end, for machines under a name; nothing where there are none.
    pub(super) fn and_lines(mut self, name: &str, lines: &[String]) -> Self {
        for line in lines {
            let _ = writeln!(self.text, "{}", printable(line));
        }
        match lines.is_empty() {
            true => self,
            false => self.and_value(name, lines.into()),
        }
    }

    /// Another report under a heading: both must match, and what one of them explains is explained.
    pub(super) fn followed_by(mut self, heading: &str, other: Self) -> Self {
        let _ = write!(self.text, "\n{heading}\n{}", other.text);
        let both = self.json["matches"] == true && other.json["matches"] == true;
        self.json["matches"] = both.into();
        self.code = self.code.min(other.code);
        self.and_value(&heading.replace(' ', "_"), other.json)
    }

    /// A report of a few named facts.
    pub(super) fn facts(facts: &[(&str, String)]) -> Self {
        let width = facts
            .iter()
            .map(|(name, _)| name.len())
            .max()
            .unwrap_or_default();
        let mut text = String::new();
        let mut object = Map::new();
        for (name, value) in facts {
            // Writing to memory cannot fail.
            let _ = writeln!(text, "{name:<width$}  {}", printable(value));
            object.insert(name.replace(' ', "_"), Value::from(value.as_str()));
        }
        Self::of(text, object.into())
    }

    /// Every predicted register with the events behind it.
    pub(super) fn measurement(measured: &Measurement) -> Self {
        Self::of(measurement_text(measured), measurement_json(measured))
    }

    /// The file that was measured, for those who explain a mismatch later.
    pub(super) fn of_file(mut self, path: &Path, measured: &Measurement) -> Self {
        let path = path.display().to_string();
        let (sha256, bytes) = (measured.file_sha256, measured.file_bytes);
        let uki = json!({ "path": path, "sha256": sha256, "bytes": bytes });
        self.json["inputs"] = json!({ "uki": uki });
        self
    }

    /// What a machine's platform measures and what not.
    pub(super) fn of_machine(mut self, machine: Option<&Machine>, mut notes: Vec<String>) -> Self {
        if let Some(machine) = machine {
            let _ = writeln!(self.text, "\nmachine        {}", machine.name);
            self.json["machine"] = machine.name.as_str().into();
            notes.extend(machine.notes());
        }
        if !notes.is_empty() {
            self.text.push_str("notes\n");
        }
        for note in &notes {
            let _ = writeln!(self.text, "  {}", printable(note));
        }
        self.json["notes"] = notes.into();
        self
    }

    /// The registers of a TPM that are not predicted, with their values in a recorded log.
    pub(super) fn and_others(mut self, log: Option<&EventLog<'_>>) -> Self {
        let hex = |bytes: Option<Vec<u8>>| -> Option<String> {
            Some(bytes?.iter().map(|byte| format!("{byte:02x}")).collect())
        };
        let (mut reasons, mut recorded) = (Map::new(), Map::new());
        self.text.push_str("\nby the event log, not predicted\n");
        for (pcr, whose) in OTHERS {
            let name = format!("pcr{pcr}");
            let _ = writeln!(self.text, "  PCR {pcr:<2}  {whose}");
            let mut values = Map::new();
            for (bank, name) in [(Bank::Sha256, "sha256"), (Bank::Sha384, "sha384")] {
                let value = log.and_then(|log| hex(log.replay(bank, pcr.into())));
                if let Some(value) = value {
                    let _ = writeln!(self.text, "    {name}  {value} (recorded)");
                    values.insert(name.to_owned(), value.into());
                }
            }
            reasons.insert(name.clone(), whose.into());
            if !values.is_empty() {
                recorded.insert(name, values.into());
            }
        }
        self.json["not_predicted"] = reasons.into();
        if log.is_some() {
            self.json["recorded"] = recorded.into();
        }
        self
    }

    /// A log's entries.
    pub(super) fn log(log: &Log) -> Self {
        let checkpoint = log.checkpoint();
        let mut text = format!("log   {}\nsize  {}\n", checkpoint.origin, checkpoint.size);
        let _ = writeln!(text, "root  {}", checkpoint.root);
        let mut entries = Vec::new();
        for (index, entry) in log.stated().enumerate() {
            let (said, json) = match &entry {
                Some(stated) => (described(stated), stated_json(stated)),
                None => ("not a statement of ours".to_owned(), Value::Null),
            };
            let _ = writeln!(text, "{index:>4}  {}", printable(&said));
            entries.push(json!({ "index": index, "statement": json }));
        }
        let json = json!({
            "origin": checkpoint.origin,
            "size": checkpoint.size,
            "root": checkpoint.root,
            "entries": entries,
        });
        Self::of(text, json)
    }

    /// A text of its own, such as a checkpoint.
    pub(super) fn note(name: &str, note: &str) -> Self {
        Self::of(note.to_owned(), json!({ name: note }))
    }

    /// A release that was verified.
    pub(super) fn verified(release: &VerifiedRelease, artifacts: Option<usize>) -> Self {
        let stated = &release.statement().predicate;
        let entry = format!("entry {} of {}", release.index(), release.log_size());
        let mut facts = stated_facts(stated);
        facts.extend([
            ("signed by", release.signer().to_string()),
            ("logged", format!("{entry} in {}", release.log_name())),
            ("confirmed", release.confirmed().to_string()),
        ]);
        for (witness, time) in release.witnesses() {
            facts.push(("witness", format!("{witness} {time}")));
        }
        for rebuilder in release.rebuilders() {
            facts.push(("rebuilt by", rebuilder.to_string()));
        }
        if let Some(count) = artifacts {
            facts.push((
                "artifacts",
                format!("{count} files are those of the release"),
            ));
        }
        let mut report = Self::facts(&facts);
        report.text.insert_str(0, "verified\n");
        let witnesses = release.witnesses().iter();
        let witnesses: Vec<_> = witnesses.map(|(name, _)| name.as_str()).collect();
        report.json["witness"] = json!(witnesses);
        report.json["rebuilt_by"] = json!(release.rebuilders());
        report.json["version"] = stated.version.into();
        report.json["verified"] = true.into();
        report
    }

    /// The report for machines.
    pub(super) fn json(&self) -> Value {
        let mut json = self.json.clone();
        // Of one order, whichever crates are built together: some have serde_json keep another.
        json.sort_all_objects();
        json
    }
}

/// One line about a statement.
pub(super) fn described(stated: &Stated) -> String {
    match stated {
        Stated::Release(one) => {
            let release = &one.predicate;
            format!(
                "{} version {} ({}), source {}",
                release.name, release.version, release.profile, release.source_revision
            )
        }
        Stated::Status(one) => {
            let said = &one.predicate;
            let versions: Vec<_> = said
                .revocations
                .iter()
                .map(|one| one.version.to_string())
                .collect();
            let revoked = match versions.is_empty() {
                true => "revokes nothing".to_owned(),
                false => format!("revokes {}", versions.join(", ")),
            };
            format!("status at {}: {revoked}", UnixTime::from_secs(said.issued))
        }
        Stated::Rebuild(one) => format!(
            "rebuild of source {}: {} artifacts",
            one.predicate.source_revision,
            one.subject.len()
        ),
    }
}

pub(super) fn stated_json(stated: &Stated) -> Value {
    match stated {
        Stated::Release(one) => json!(one),
        Stated::Status(one) => json!(one),
        Stated::Rebuild(one) => json!(one),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn measurement_text(measured: &Measurement) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<14} {value}");
    };
    line(
        "UKI",
        &format!(
            "sha256:{}, {} bytes",
            measured.file_sha256, measured.file_bytes
        ),
    );
    line("command line", measured.command_line.as_str());
    line("root", &measured.root.to_string());
    line(
        "configuration",
        &format!("sha256:{}", measured.configuration),
    );
    for (pcr, value) in &measured.values {
        let events = measured.events.iter().filter(|event| event.pcr == *pcr);
        let count = events.clone().count();
        let what = if count == 0 {
            ", which must stay empty"
        } else {
            ""
        };
        let _ = writeln!(text, "\nPCR {pcr}{what}");
        let _ = writeln!(text, "  sha256  {}", value.sha256);
        let _ = writeln!(text, "  sha384  {}", value.sha384);
        for event in events {
            let _ = writeln!(
                text,
                "    {}…  {}",
                short(&event.digests.sha384),
                event.what
            );
        }
    }
    text
}

/// What a release says of itself.
pub(super) fn stated_facts(stated: &Predicate) -> Vec<(&'static str, String)> {
    vec![
        (
            "release",
            format!("{} version {}", stated.name, stated.version),
        ),
        ("profile", stated.profile.to_string()),
        ("source", stated.source_revision.to_string()),
        (
            "configuration",
            format!("sha256:{}", stated.configuration_digest),
        ),
    ]
}

fn short(digest: &impl ToString) -> String {
    digest.to_string().chars().take(16).collect()
}

fn measurement_json(measured: &Measurement) -> Value {
    let registers = measured.reference_values();
    let events = measured.events.iter().map(|event| {
        json!({
            "pcr": event.pcr,
            "what": event.what,
            "sha256": event.digests.sha256,
            "sha384": event.digests.sha384,
        })
    });
    json!({
        "uki": { "sha256": measured.file_sha256, "bytes": measured.file_bytes },
        "command_line": measured.command_line.as_str(),
        "root": measured.root.to_string(),
        "configuration": format!("sha256:{}", measured.configuration),
        "registers": registers,
        "events": events.collect::<Vec<_>>(),
    })
}
