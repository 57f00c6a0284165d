//! Tables of `measure`: for people what stands in JSON for machines.

use std::fmt::Write as _;
use std::path::Path;

use attest::Digest;
use release::measure::boot::Artifact;
use release::measure::machines::Machine;
use serde_json::{Map, Value, json};

use super::super::failure::printable;
use super::super::report::Report;

/// A report that grows line by line in both forms.
#[derive(Default)]
pub(super) struct Table {
    text: String,
    json: Map<String, Value>,
    inputs: Map<String, Value>,
    input_lines: String,
    notes: Vec<String>,
}

impl Table {
    /// A line under a name; JSON has the name with underscores.
    pub(super) fn line(&mut self, name: &str, value: &str) {
        self.text_line(name, value);
        self.value(&name.replace([' ', '-'], "_").to_lowercase(), value.into());
    }

    /// A line for people only.
    pub(super) fn text_line(&mut self, name: &str, value: &str) {
        // Writing to memory cannot fail.
        let _ = writeln!(self.text, "{name:<20} {}", printable(value));
    }

    /// A value for machines only.
    pub(super) fn value(&mut self, name: &str, value: Value) {
        self.json.insert(name.to_owned(), value);
    }

    /// Something that was measured, as it was given.
    pub(super) fn input(&mut self, name: &str, text: &str, value: Value) {
        let text = printable(text);
        let _ = writeln!(self.input_lines, "  {name:<18} {text}");
        let name = name.replace([' ', '-'], "_").to_lowercase();
        self.inputs.insert(name, value);
    }

    /// A file that was measured.
    pub(super) fn file(&mut self, name: &str, path: &Path, artifact: &Artifact) {
        self.hashed(name, path, artifact.sha256, artifact.bytes);
    }

    /// A file that was measured, by its hash and length.
    pub(super) fn hashed(&mut self, name: &str, path: &Path, sha256: Digest<32>, bytes: u64) {
        let path = path.display().to_string();
        let text = format!("sha256:{sha256}, {bytes} bytes, {path}");
        let value = json!({ "path": path, "sha256": sha256, "bytes": bytes });
        self.input(name, &text, value);
    }

    /// Something that the reader must know.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// What a machine's platform measures and what not.
    pub(super) fn machine(&mut self, machine: Option<&Machine>) {
        let Some(machine) = machine else { return };
        self.value("machine", machine.name.as_str().into());
        self.text_line("machine", &machine.name);
        self.notes.extend(machine.notes());
    }

    pub(super) fn report(mut self) -> Report {
        if !self.inputs.is_empty() {
            let _ = write!(self.text, "\ninputs\n{}", self.input_lines);
        }
        if !self.notes.is_empty() {
            self.text.push_str("\nnotes\n");
        }
        for note in &self.notes {
            let _ = writeln!(self.text, "  {}", printable(note));
        }
        self.json.insert("inputs".to_owned(), self.inputs.into());
        self.json.insert("notes".to_owned(), self.notes.into());
        Report::of(self.text, self.json.into())
    }
}

/// The catalogue of machines: shapes, then what holds of all of a family.
pub(super) fn catalogue(machines: &[Machine]) -> Report {
    let mut text = String::new();
    let of_family = |one: &Machine, other: &Machine| {
        (&one.measured, &one.sources) == (&other.measured, &other.sources)
    };
    for family in machines.chunk_by(of_family) {
        let _ = writeln!(
            text,
            "{:<26} {:<8} {:<9} {:<5} {:>5} {:>9}",
            "machine", "tee", "platform", "vmm", "vCPUs", "memory"
        );
        family
            .iter()
            .for_each(|machine| shape_line(machine, &mut text));
        if let Some(machine) = family.first() {
            covered(machine, &mut text);
        }
        text.push('\n');
    }
    let list = machines.iter().map(|machine| {
        let sources = machine.sources.iter().map(|source| {
            json!({ "fact": source.fact, "url": source.url, "confirmed": source.confirmed })
        });
        json!({
            "name": machine.name,
            "tee": machine.tee,
            "platform": machine.platform.to_string(),
            "vmm": machine.vmm.map(|vmm| vmm.to_string()),
            "vcpus": machine.vcpus,
            "memory_bytes": machine.memory_bytes,
            "vcpu_type": machine.vcpu_type,
            "measured": machine.measured,
            "not_measured": machine.not_measured,
            "not_predicted": machine.not_predicted,
            "sources": sources.collect::<Vec<_>>(),
        })
    });
    Report::of(text, json!({ "machines": list.collect::<Vec<_>>() }))
}

fn shape_line(machine: &Machine, text: &mut String) {
    let or_any = |value: Option<String>| value.unwrap_or_else(|| "any".to_owned());
    let vcpus = or_any(machine.vcpus.map(|vcpus| vcpus.to_string()));
    let gib = |bytes| format!("{} GiB", bytes >> 30);
    let memory = or_any(machine.memory_bytes.map(gib));
    let vmm = machine.vmm.map(|vmm| vmm.to_string());
    let _ = writeln!(
        text,
        "{:<26} {:<8} {:<9} {:<5} {vcpus:>5} {memory:>9}",
        machine.name,
        machine.tee,
        machine.platform.to_string(),
        vmm.as_deref().unwrap_or("-"),
    );
}

fn covered(machine: &Machine, text: &mut String) {
    for (name, line) in machine.covers() {
        let _ = writeln!(text, "  {name:<14} {line}");
    }
    for source in &machine.sources {
        let name = match source.confirmed {
            true => "source",
            false => "not confirmed",
        };
        let _ = writeln!(text, "  {name:<14} {}: {}", source.fact, source.url);
    }
}
