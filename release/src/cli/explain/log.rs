//! An event log, of TDX or of a TPM: the first event of each register that is not as predicted, and
//! what that event says of itself.

use attest::Digest;
use release::measure::eventlog::{self, Bank, Difference, EventLog};
use serde_json::{Value, json};

use super::super::failure::{Failure, printable};
use super::super::report::Report;
use super::candidates::Candidates;
use super::{ExplainArguments, statement_fault};

pub(super) fn compare(
    arguments: &ExplainArguments,
    log: &EventLog<'_>,
    statement: &Value,
) -> Result<Report, Failure> {
    let stated = &statement["predicate"]["reference_values"]["tpm"]["sha384"];
    if let Some(registers) = stated.as_object() {
        return compare_registers(arguments, log, registers);
    }
    let candidates = Candidates::of(arguments, statement)?;
    let events = statement["events"]
        .as_array()
        .filter(|events| !events.is_empty());
    let events = events.ok_or_else(|| statement_fault(arguments, "events"))?;
    let mut differences = Vec::new();
    let mut text = String::new();
    for (name, register) in registers(events) {
        let found = log.sha384(register);
        let Some(difference) = difference(events, &name, &found) else {
            text = text + &name + ": as predicted\n";
            continue;
        };
        let show = |event: &Option<(String, Digest<48>)>| match event {
            Some((what, digest)) => format!("{what} ({digest})"),
            None => "no further event".to_owned(),
        };
        let (expected, found) = (show(&difference.expected), show(&difference.found));
        let number = difference.number;
        let line = format!("{name}: event {number} differs: expected {expected}, found {found}");
        text = text + &printable(&line) + "\n";
        let cause = cause(&candidates, log, register, &difference);
        if let Some(cause) = &cause {
            text = text + "  " + &printable(cause) + "\n";
        }
        differences.push(json!({
            "register": name, "event": number, "expected": expected, "found": found,
            "cause": cause,
        }));
    }
    let json = json!({ "matches": differences.is_empty(), "differences": differences });
    Ok(Report::of(text, json))
}

/// A release states registers and no events: what a log has in those that differ is named.
fn compare_registers(
    arguments: &ExplainArguments,
    log: &EventLog<'_>,
    stated: &serde_json::Map<String, Value>,
) -> Result<Report, Failure> {
    let candidates = Candidates::of(arguments, &Value::Null)?;
    let mut differences = Vec::new();
    let mut text = String::new();
    for (name, expected) in stated {
        let Ok(number) = name.trim_start_matches("pcr").parse::<u32>() else {
            continue;
        };
        let value = log.replay(Bank::Sha384, number).unwrap_or_default();
        let found: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
        if *expected == found {
            text = text + &format!("PCR {number}: as stated\n");
            continue;
        }
        let line = format!("PCR {number}: stated {expected}, found {found}, of these events:");
        text = text + &printable(&line) + "\n";
        let booted = candidates.ukis.iter().find(|(_, uki)| {
            let value = u8::try_from(number)
                .ok()
                .and_then(|pcr| uki.values.get(&pcr));
            value.is_some_and(|value| value.sha384.to_string() == found)
        });
        let cause = booted.map(|(name, _)| format!("it is that of the UKI {name}"));
        if let Some(cause) = &cause {
            text = text + "  " + &printable(cause) + "\n";
        }
        let events = log.sha384(number);
        for (what, digest) in &events {
            text = text + "  " + &printable(&format!("{digest}  {what}")) + "\n";
        }
        let events: Vec<_> = events
            .into_iter()
            .map(|(what, digest)| json!([what, digest]))
            .collect();
        differences.push(json!({
            "register": name, "expected": expected, "found": found, "events": events,
            "cause": cause,
        }));
    }
    let json = json!({ "matches": differences.is_empty(), "differences": differences });
    Ok(Report::of(text, json))
}

/// The first event of a register that is not as predicted: of the form of the kernel that fits the
/// furthest, where there are several.
fn difference(
    events: &[Value],
    register: &str,
    found: &[(String, Digest<48>)],
) -> Option<Difference> {
    let all = expected_events(events, register, None);
    let forms = ["kernel, patched", "kernel, unchanged"]
        .map(|form| expected_events(events, register, Some(form)));
    let several = forms.iter().any(|form| form.len() < all.len());
    let forms = if several { forms.to_vec() } else { vec![all] };
    let differences = forms
        .iter()
        .map(|expected| eventlog::first_difference(expected, found));
    // One that fits whole has none, and then there is none at all.
    let differences: Option<Vec<_>> = differences.collect();
    differences?.into_iter().max_by_key(|one| one.number)
}

/// The registers that a statement predicts, and their numbers in a log. Of a TPM's, 12 and 13 must
/// stay empty: what a host brings beside the UKI goes there.
fn registers(events: &[Value]) -> Vec<(String, u32)> {
    let mut all = Vec::new();
    for event in events {
        let one = match (event["register"].as_str(), event["pcr"].as_u64()) {
            (Some(name), _) => {
                let number = name
                    .strip_prefix("rtmr")
                    .and_then(|number| number.parse().ok());
                number.map(|number: u32| (name.to_owned(), number.saturating_add(1)))
            }
            (_, Some(pcr)) => u32::try_from(pcr)
                .ok()
                .map(|pcr| (format!("pcr{pcr}"), pcr)),
            _ => None,
        };
        all.extend(one.filter(|one| !all.contains(one)));
    }
    if all.iter().any(|(name, _)| name.starts_with("pcr")) {
        for number in [12, 13] {
            let empty = (format!("pcr{number}"), number);
            if !all.contains(&empty) {
                all.push(empty);
            }
        }
    }
    all
}

/// A register's predicted events. A direct boot has two forms of its kernel, of which `without`
/// leaves one out.
fn expected_events(
    events: &[Value],
    register: &str,
    without: Option<&str>,
) -> Vec<(String, Digest<48>)> {
    let of = |event: &&Value| {
        event["register"].as_str() == Some(register)
            || event["pcr"]
                .as_u64()
                .map(|pcr| format!("pcr{pcr}"))
                .as_deref()
                == Some(register)
    };
    let one = |event: &Value| {
        let what = event["what"].as_str()?.to_owned();
        let digest = event["sha384"].as_str()?.parse().ok()?;
        let left_out = without.is_some_and(|form| what.starts_with(form));
        (!left_out).then_some((what, digest))
    };
    events.iter().filter(of).filter_map(one).collect()
}

/// What most likely lies behind the first event that differs.
fn cause(
    candidates: &Candidates,
    log: &EventLog<'_>,
    register: u32,
    difference: &Difference,
) -> Option<String> {
    let Some((_, digest)) = &difference.found else {
        return Some("the boot ended before, or the log is not of the whole boot".to_owned());
    };
    if let Some(name) = candidates.name(*digest) {
        return Some(name);
    }
    let at = difference.number.checked_sub(1)?;
    let found = log.sha384(register);
    let expected = difference.expected.as_ref().map(|(_, digest)| *digest);
    let later = found
        .iter()
        .skip(at)
        .position(|(_, digest)| Some(*digest) == expected);
    let first = match later {
        Some(1) => "one event comes first that was not expected; ".to_owned(),
        Some(count) => format!("{count} events come first that were not expected; "),
        None => String::new(),
    };
    let event = log.of(register).nth(at)?;
    let variable = event.variable();
    let kind = match (event.kind, variable.as_deref()) {
        (0x8000_0004, _) => {
            "a driver or the option ROM of a device ran: QEMU's NICs bring one unless romfile= is \
             given"
        }
        (0x8000_0003, _) => "another program was started: another UKI, kernel or boot loader",
        (0x8000_0001, Some("SecureBoot")) => "Secure Boot is on in one case and off in the other",
        (0x8000_0001, _) => "Secure Boot has other keys or lists",
        (0x8000_00e0, _) => "Secure Boot let a program run, by this certificate or hash",
        (0x8000_0002 | 0x8000_000c, _) => "the order or the list of what may be booted is another",
        (0x8000_0009 | 0x8000_000b, _) => {
            "another size of memory, or a firmware with other sections"
        }
        (0x8000_0008 | 0x8000_000a, _) => "another firmware, or its configuration was changed",
        (0x8000_0006, _) => "another disk, or its partition table was changed",
        (0x0000_000a, _) => "ACPI: vCPUs, memory, devices, slots or the version of QEMU differ",
        (0x0000_0006, _) => {
            "another command line or initrd: name those that may have been used by --cmdline, \
             --initrd or --uki"
        }
        (0x0000_000d, _) => "a section of another UKI: name it by --uki",
        _ if first.is_empty() => return None,
        _ => "see the log",
    };
    Some(format!("{first}{kind}"))
}
