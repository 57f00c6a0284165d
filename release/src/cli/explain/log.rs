//! An event log, of TDX or of a TPM: the first event of each register that is not as predicted, and
//! what that event says of itself.

use release::measure::eventlog::EventLog;
use release::measure::explain::log::{self, Compared, Register};
use release::measure::explain::statement::{Release, Tdx, Tpm};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::report::Report;
use super::{Question, code, files, hex, line};

pub(super) fn tdx(
    question: &Question<'_>,
    log: &EventLog<'_>,
    expected: &Tdx,
) -> Result<Report, Failure> {
    let candidates = files::candidates(question, expected.memory_bytes)?;
    Ok(report(&log::tdx(log, expected, &candidates)))
}

pub(super) fn tpm(
    question: &Question<'_>,
    log: &EventLog<'_>,
    expected: &Tpm,
) -> Result<Report, Failure> {
    let candidates = files::candidates(question, None)?;
    Ok(report(&log::tpm(log, expected, &candidates)))
}

fn report(registers: &[Register]) -> Report {
    let mut differences = Vec::new();
    let mut text = String::new();
    let mut explained = true;
    for Register { name, compared } in registers {
        let (difference, cause) = match compared {
            Compared::Same => {
                text += &line(&format!("{name}: as predicted"));
                continue;
            }
            Compared::NotPredicted => {
                text += &line(&format!("{name}: was not predicted"));
                continue;
            }
            Compared::Differs { difference, cause } => (difference, cause),
        };
        let show = |event: &Option<(String, Vec<u8>)>| match event {
            Some((what, digest)) => format!("{what} ({})", hex(digest)),
            None => "no further event".to_owned(),
        };
        let (expected, found) = (show(&difference.expected), show(&difference.found));
        let number = difference.number;
        text += &line(&format!(
            "{name}: event {number} differs: expected {expected}, found {found}"
        ));
        if let Some(cause) = cause {
            text += &line(&format!("  {cause}"));
        }
        explained &= cause.is_some();
        differences.push(json!({
            "register": name, "event": number, "expected": expected, "found": found,
            "cause": cause,
        }));
    }
    finish(text, differences, explained)
}

/// A release states registers and no events: what a log has in those that differ is shown.
pub(super) fn stated(
    question: &Question<'_>,
    log: &EventLog<'_>,
    release: &Release,
) -> Result<Report, Failure> {
    if release.tpm.is_empty() {
        return Err(question.not_stated("a TPM"));
    }
    let candidates = files::candidates(question, None)?;
    let mut differences = Vec::new();
    let mut text = String::new();
    let mut explained = true;
    for one in log::stated(log, release, &candidates) {
        let pcr = one.pcr;
        if one.expected == one.found {
            text += &line(&format!("PCR {pcr}: as stated"));
            continue;
        }
        let (expected, found) = (hex(&one.expected), hex(&one.found));
        text += &line(&format!(
            "PCR {pcr}: stated {expected}, found {found}, of these events:"
        ));
        if let Some(cause) = &one.cause {
            text += &line(&format!("  {cause}"));
        }
        explained &= one.cause.is_some();
        let mut events = Vec::new();
        for (what, digest) in &one.events {
            let digest = hex(digest);
            text += &line(&format!("  {digest}  {what}"));
            events.push(json!([what, digest]));
        }
        differences.push(json!({
            "register": format!("pcr{pcr}"), "expected": expected, "found": found,
            "events": events, "cause": one.cause,
        }));
    }
    Ok(finish(text, differences, explained))
}

/// A report with its exit code.
pub(super) fn finish(text: String, differences: Vec<Value>, explained: bool) -> Report {
    let matches = differences.is_empty();
    let json = json!({ "matches": matches, "differences": differences });
    Report::of(text, json).with_code(code(matches || explained))
}
