//! `collect` and `monitor`: a log of our own, and those who look at it.

use std::path::Path;

use publish::collect::CollectError;
use publish::mirror::{MirrorError, mirror};
use publish::{Patience, http_client, webhook};
use release::log::replica::Replica;
use release::log::{Log, LogError};
use release::monitor::watch::{AlarmArguments, Arguments, FOUND, Seen, UNTOLD, WatchError};
use serde_json::{Value, json};

use super::{COLLATERAL, Failure, LOG, MISUSE, Report, write};
use crate::arguments::CollectArguments;
use crate::chain;

/// More are demanded than are named, or none.
#[derive(Debug, thiserror::Error)]
#[error("1 to {0}, as many as are named, can be demanded")]
struct MinimumError(usize);

pub(super) async fn collect(arguments: &CollectArguments) -> Result<Report, Failure> {
    let asked = &arguments.witness;
    let minimum = arguments.minimum.unwrap_or(asked.len());
    if !(1..=asked.len()).contains(&minimum) {
        let error = MinimumError(asked.len());
        return Err(Failure::input(
            "--minimum",
            error,
            "demand as many, or name more --witness",
        ));
    }
    let collected = publish::collect::collect(
        folder(&arguments.log),
        &arguments.origin,
        &arguments.log_key,
        asked,
        super::patience(&arguments.patience),
    )
    .await?;
    let signed = collected.signed.len();
    let mut text = format!(
        "checkpoint of {} entries: {signed} of {} witnesses signed, {minimum} demanded\n",
        collected.size,
        asked.len()
    );
    let (mut signers, mut refusals) = (Vec::new(), Vec::new());
    for (name, time) in &collected.signed {
        text += &format!("{name}: signed at {}\n", time.as_secs());
        signers.push(json!({ "name": name, "time": time.as_secs() }));
    }
    for (name, refused) in &collected.refused {
        let why = chain("", refused);
        text += &format!("{name}: {why}\n");
        refusals.push(json!({ "name": name, "why": why }));
    }
    Ok(Report {
        code: if signed < minimum { LOG } else { 0 },
        text,
        json: json!({
            "origin": arguments.origin,
            "size": collected.size,
            "minimum": minimum,
            "signed": signers,
            "refused": refusals,
        }),
    })
}

pub(super) async fn monitor(arguments: &Arguments) -> Result<Report, Failure> {
    let alarm = &arguments.alarm;
    let judged = match open(arguments).await {
        Ok(log) => arguments.judge(&log).map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match judged {
        Ok(seen) => {
            write(&arguments.memory, seen.note.as_bytes())?;
            let report = report(&seen);
            if report.code == 0 {
                return Ok(report);
            }
            Ok(told(alarm, report).await)
        }
        Err(failure) => Err(alarmed(alarm, arguments.origin.as_str(), failure).await),
    }
}

/// Tells of a finding, and says in the report if nobody heard.
pub(super) async fn told(alarm: &AlarmArguments, mut report: Report) -> Report {
    if let Err(why) = tell(alarm, &report.json).await {
        report.code = UNTOLD;
        report.text += &format!("nobody was told: {why}\n");
        report.json["untold"] = why.into();
    }
    report
}

/// Tells of a log that is not to be believed any more; of nothing else.
pub(super) async fn alarmed(alarm: &AlarmArguments, origin: &str, failure: Failure) -> Failure {
    if failure.code != LOG {
        return failure;
    }
    let cause = chain(&failure.what, failure.error.as_ref());
    let json = json!({ "origin": origin, "error": cause });
    match tell(alarm, &json).await {
        Ok(()) => failure,
        Err(why) => Failure {
            code: UNTOLD,
            what: format!("nobody was told ({why}): {}", failure.what),
            ..failure
        },
    }
}

/// A fault of somebody else's, as text: what matters more stands beside it.
async fn tell(alarm: &AlarmArguments, json: &Value) -> Result<(), String> {
    let Some(url) = &alarm.webhook else {
        return Ok(());
    };
    let patience = patience(alarm);
    let http = http_client(patience.timeout).map_err(|error| chain("", &error))?;
    let told = webhook::tell(&http, patience, url, json).await;
    told.map_err(|error| chain("", &error))
}

pub(super) fn patience(alarm: &AlarmArguments) -> Patience {
    Patience {
        attempts: alarm.attempts,
        timeout: std::time::Duration::from_secs(alarm.timeout_s),
        ..Patience::default()
    }
}

/// The log, whole: a folder, or a copy of what stands at an address.
async fn open(arguments: &Arguments) -> Result<Log, Failure> {
    let (origin, key) = (&arguments.origin, &arguments.log_key);
    if !arguments.log.contains("://") || arguments.log.starts_with("file:") {
        return Ok(Log::open(folder(&arguments.log), origin, key)?);
    }
    let copy = arguments.copy.as_ref().ok_or_else(|| {
        let hint = "name a folder for the copy with --copy";
        Failure::input("--copy is missing", NoCopy, hint)
    })?;
    let patience = patience(&arguments.alarm);
    let http = http_client(patience.timeout).map_err(|error| Failure::input("", error, ""))?;
    let replica = Replica::new(copy, origin, key);
    Ok(mirror(&http, patience, &arguments.log, &replica).await?)
}

/// A log at an address without a folder to put it.
#[derive(Debug, thiserror::Error)]
#[error("a log at an address is copied before it is checked")]
struct NoCopy;

fn report(seen: &Seen) -> Report {
    Report {
        code: if seen.findings.is_empty() { 0 } else { FOUND },
        text: seen.text(),
        json: seen.json(),
    }
}

fn folder(log: &str) -> &Path {
    Path::new(log.strip_prefix("file:").unwrap_or(log))
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let (code, hint) = match error.shows_damage() {
            true => (
                LOG,
                "keep what is there as proof, and ask the log's operator: entries never change",
            ),
            false => (
                MISUSE,
                "check the path, and that it is yours to read or write",
            ),
        };
        Self {
            code,
            what: String::new(),
            error: Box::new(error),
            hint,
        }
    }
}

impl From<CollectError> for Failure {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Log(error) => error.into(),
            CollectError::Twice(_) => Self::input("", error, "name each witness once"),
            CollectError::Http(_) => Self::input("", error, ""),
        }
    }
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        let (code, hint) = match error {
            MirrorError::Log(error) => return error.into(),
            MirrorError::Hidden { .. } => (
                LOG,
                "keep the log's checkpoint as proof, and ask the log's operator",
            ),
            _ => (
                COLLATERAL,
                "nothing is known of the log now: run it again later",
            ),
        };
        Self {
            code,
            what: String::new(),
            error: Box::new(error),
            hint,
        }
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        let (code, hint) = match error {
            WatchError::Log(error) => return error.into(),
            WatchError::Memory(_) => (
                LOG,
                "the log was rewritten, or it is another's memory: keep both as proof",
            ),
            WatchError::Source(_) => (MISUSE, "name the checkout with --source"),
        };
        Self {
            code,
            what: String::new(),
            error: Box::new(error),
            hint,
        }
    }
}
