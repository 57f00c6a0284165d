//! A quote of TDX: five registers and no events. Each that differs is searched for.

use std::time::{Duration, Instant};

use attest::Digest;
use release::measure::explain::slots::{self, Slot};
use release::measure::explain::{Named, Outcome as Search};
use release::measure::firmware::Firmware;
use release::measure::tdvf::{PageOrder, Tdvf};
use release::measure::tdx::{replay, uki_events};
use serde_json::{Value, json};

use super::super::failure::{Failure, printable};
use super::super::report::Report;
use super::candidates::Candidates;
use super::{ExplainArguments, read, statement_fault};

const NAMES: [&str; 5] = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];

pub(super) fn compare(
    arguments: &ExplainArguments,
    registers: &[Digest<48>; 5],
    statement: &Value,
) -> Result<Report, Failure> {
    if statement["platform"] != "tdx" {
        return Err(statement_fault(arguments, "a prediction of TDX"));
    }
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    let candidates = Candidates::of(arguments, statement)?;
    let mut differences = Vec::new();
    let mut text = String::new();
    for (name, found) in NAMES.into_iter().zip(*registers) {
        let shown = found.to_string();
        // What depends on the VMM has one value for each way of it.
        let line = match &statement[name] {
            Value::Object(ways) => match ways.iter().find(|(_, value)| **value == *shown) {
                Some((way, _)) => format!("as predicted ({way})"),
                None => format!("found {shown}, which is none of those predicted"),
            },
            Value::String(expected) if *expected == shown => "as predicted".to_owned(),
            Value::String(expected) => format!("expected {expected}, found {shown}"),
            _ => "was not predicted".to_owned(),
        };
        let differs = line.contains("found");
        text = text + &printable(&format!("{name}: {line}")) + "\n";
        if !differs {
            continue;
        }
        let causes = match name {
            "mrtd" => firmware(arguments, found)?,
            "rtmr1" | "rtmr2" => register(&candidates, statement, name, found, end),
            _ => Vec::new(),
        };
        for cause in &causes {
            text = text + "  " + &printable(cause) + "\n";
        }
        differences.push(json!({
            "register": name, "expected": statement[name], "found": shown, "causes": causes,
        }));
    }
    if !differences.is_empty() {
        text.push_str("the machine's event log, given as EVIDENCE, tells which event it was\n");
    }
    let json = json!({ "matches": differences.is_empty(), "differences": differences });
    Ok(Report::of(text, json))
}

/// The firmware of those that were named whose MRTD it is, in either order of pages.
fn firmware(arguments: &ExplainArguments, found: Digest<48>) -> Result<Vec<String>, Failure> {
    let hint = "give the very file that the VM starts with, such as OVMF.inteltdx.fd";
    for (number, path) in arguments.firmware.iter().enumerate() {
        eprintln!(
            "searching: {number} of {} firmwares",
            arguments.firmware.len()
        );
        let bytes = read(path)?;
        let firmware = Firmware::parse(&bytes);
        let firmware = firmware.map_err(|error| Failure::input(path, &error, hint))?;
        let tdvf = Tdvf::parse(&firmware).map_err(|error| Failure::input(path, &error, hint))?;
        let order = PageOrder::ALL
            .into_iter()
            .find(|order| tdvf.mrtd(*order) == found);
        if let Some(order) = order {
            return Ok(vec![format!(
                "it is that of the firmware {} ({order})",
                path.display()
            )]);
        }
    }
    Ok(vec![
        "another firmware: name those that may have been used by --firmware".to_owned(),
    ])
}

/// What explains a register, of the events that were predicted for it.
fn register(
    candidates: &Candidates,
    statement: &Value,
    name: &str,
    found: Digest<48>,
    end: Instant,
) -> Vec<String> {
    let events = events(statement, name);
    let number = if name == "rtmr1" { 1 } else { 2 };
    let table = events
        .iter()
        .find(|(what, _)| what.starts_with("partition table"));
    for (uki, measured) in &candidates.ukis {
        let predicted = uki_events(measured, table.map(|(_, digest)| *digest));
        if replay(&predicted).get(&number) == Some(&found) {
            return vec![format!("it is that of the UKI {uki}")];
        }
    }
    let slots = slots_of(candidates, &events);
    let time = end.saturating_duration_since(Instant::now());
    let progress = |tried, total| eprintln!("searching: {tried} of {total}");
    match slots::search(&slots, found, time, progress) {
        Search::Explained(differences) => differences
            .into_iter()
            .map(|one| {
                format!(
                    "{}: expected {}, found {}",
                    one.what, one.expected, one.found
                )
            })
            .collect(),
        Search::Exhausted => vec![
            "nothing near the prediction explains it: an option ROM that ran first, another disk, \
             or other files (name them by --kernel, --initrd, --cmdline, --uki)"
                .to_owned(),
        ],
        Search::OutOfTime => vec!["the time was over: give more --seconds".to_owned()],
    }
}

fn events(statement: &Value, register: &str) -> Vec<Named<Digest<48>>> {
    let all = statement["events"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let of = all.iter().filter(|event| event["register"] == *register);
    let one = |event: &Value| {
        let digest = event["sha384"].as_str()?.parse().ok()?;
        Some((event["what"].as_str()?.to_owned(), digest))
    };
    of.filter_map(one).collect()
}

/// Events with their choices. A kernel of a direct boot stands there in each of its forms.
fn slots_of(candidates: &Candidates, events: &[Named<Digest<48>>]) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    let own = |list: &[Named<Digest<48>>]| -> Vec<Named<Option<Digest<48>>>> {
        let one = |(name, digest): &Named<Digest<48>>| (name.clone(), Some(*digest));
        list.iter().map(one).collect()
    };
    for (what, digest) in events {
        let expected = (format!("as expected ({what})"), Some(*digest));
        let kind = ["kernel, ", "command line", "initrd"]
            .into_iter()
            .find(|kind| what.starts_with(kind));
        let (kind, more) = match kind {
            Some("kernel, ") => {
                if let Some(slot) = slots.iter_mut().find(|slot| slot.what == "kernel") {
                    slot.choices.insert(1, expected);
                    continue;
                }
                ("kernel", own(&candidates.kernels))
            }
            Some("command line") => ("command line", own(&candidates.lines)),
            Some(_) => {
                let none = ("none".to_owned(), None);
                ("initrd", [own(&candidates.initrds), vec![none]].concat())
            }
            None => ("event", Vec::new()),
        };
        let other = more
            .into_iter()
            .filter(|(_, other)| *other != Some(*digest));
        slots.push(Slot {
            what: kind,
            choices: std::iter::once(expected).chain(other).collect(),
        });
    }
    slots
}
