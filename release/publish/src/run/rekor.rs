//! `monitor-rekor`: reads a log of Rekor v2 on, and tells what stands there in our name.

use std::io;
use std::path::{Path, PathBuf};

use attest::release::{Checkpoint, PublicKey, SignedCheckpoint};
use publish::mirror::checkpoint;
use publish::names::{NameFinding, Ours, Published, judge};
use publish::tail::{MAX_STATE_BYTES, Reader, State, TailError};
use publish::{http_client, log_key};
use release::monitor::tags;
use release::monitor::watch::FOUND;
use serde_json::json;

use super::logs::{alarmed, patience, told};
use super::{COLLATERAL, Failure, LOG, Report, read, text, write};
use crate::arguments::RekorArguments;

pub(super) async fn monitor(arguments: &RekorArguments) -> Result<Report, Failure> {
    let key = key(arguments)?;
    let ours = ours(arguments)?;
    let tags = tags(&arguments.source)
        .map_err(|error| Failure::input("", error, "name the checkout with --source"))?;
    let patience = patience(&arguments.alarm);
    let http = http_client(patience.timeout).map_err(|error| Failure::input("", error, ""))?;
    let url = match &arguments.rekor {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => format!("https://{}/api/v2", arguments.origin),
    };
    let reader = Reader {
        http: &http,
        patience,
        url: &url,
    };
    let state = remembered(arguments)?;
    let result = step(arguments, &reader, &key, state).await;
    let read = match result {
        Ok(read) => read,
        Err(failure) => {
            return Err(alarmed(&arguments.alarm, arguments.origin.as_str(), failure).await);
        }
    };
    let entries = (read.first..).zip(&read.entries);
    let findings: Vec<_> = entries
        .filter_map(|(place, entry)| Some((place, judge(entry, &ours, &tags, &arguments.tag)?)))
        .collect();
    let report = report(arguments, &read, &findings);
    let report = match findings.is_empty() {
        true => report,
        false => told(&arguments.alarm, report).await,
    };
    // What nobody was told of is found once more.
    if matches!(report.code, 0 | FOUND | COLLATERAL) {
        write(&arguments.state, &read.state.encode())?;
    }
    Ok(report)
}

async fn step(
    arguments: &RekorArguments,
    reader: &Reader<'_>,
    key: &PublicKey,
    state: Option<State>,
) -> Result<publish::tail::Read, Failure> {
    let note = checkpoint(reader.http, reader.patience, reader.url).await?;
    let signed: Checkpoint = SignedCheckpoint::parse(&note)
        .and_then(|note| note.verify(&arguments.origin, key))
        .map_err(TailError::from)?;
    let state = match state {
        Some(state) => state,
        None => reader.begin(&signed, arguments.from).await?,
    };
    Ok(reader.read(&state, &signed, arguments.limit).await?)
}

fn report(
    arguments: &RekorArguments,
    read: &publish::tail::Read,
    findings: &[(u64, NameFinding)],
) -> Report {
    let (state, first) = (&read.state, read.first);
    let (next, size) = (state.next(), state.size());
    let left = size - next;
    let mut text = format!(
        "read {} entries from {first} on, of {size}; what is before {} was never looked at\n",
        next - first,
        state.from()
    );
    for (place, finding) in findings {
        text += &format!("entry {place}: {finding}\n");
    }
    if findings.is_empty() {
        text += "every entry in our name that was read has its tag\n";
    }
    if left > 0 {
        text += &format!("{left} entries are still to be read: run it again\n");
    }
    let found = findings.iter();
    let found: Vec<_> = found
        .map(|(place, finding)| json!({ "index": place, "what": finding.to_string() }))
        .collect();
    Report {
        code: match (findings.is_empty(), left) {
            (false, _) => FOUND,
            (true, 0) => 0,
            (true, _) => COLLATERAL,
        },
        text,
        json: json!({
            "origin": arguments.origin,
            "size": size,
            "root": state.root(),
            "from": state.from(),
            "first": first,
            "next": next,
            "left": left,
            "findings": found,
        }),
    }
}

fn remembered(arguments: &RekorArguments) -> Result<Option<State>, Failure> {
    let path = &arguments.state;
    let bytes = match release::files::read_bounded(path, MAX_STATE_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(super::access(path, error)),
    };
    let state = State::parse(&bytes, &arguments.origin);
    state.map(Some).map_err(|error| {
        let hint = "restore it from a copy: begun anew, nobody would know what was there before";
        Failure::input(path.display().to_string(), error, hint)
    })
}

fn key(arguments: &RekorArguments) -> Result<PublicKey, Failure> {
    let root = match &arguments.trusted_root {
        Some(path) => Some(text(path)?),
        None => None,
    };
    log_key(root.as_deref(), &arguments.origin).map_err(|error| {
        let hint = "give a trusted_root.json that names this log, a Rekor v2 with an Ed25519 key";
        Failure::input("", error, hint)
    })
}

fn ours(arguments: &RekorArguments) -> Result<Ours, Failure> {
    let mut ours = Ours {
        identities: arguments.identities.clone(),
        ..Ours::default()
    };
    for path in &arguments.keys {
        let key = cloister_sigstore::PublicKey::from_pem(&read(path)?)
            .map_err(|error| Failure::input(path.display().to_string(), error, ""))?;
        ours.keys.push(key.as_der().to_vec());
    }
    for path in &arguments.published {
        for path in bundles(path)? {
            let published = Published::parse(&text(&path)?).map_err(|error| {
                let hint = "give bundles that `cloister-release sigstore sign` wrote";
                Failure::input(path.display().to_string(), error, hint)
            })?;
            ours.published.push(published);
        }
    }
    Ok(ours)
}

/// A file, or the JSON files of a folder.
fn bundles(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).and_then(|entries| {
        let paths = entries.map(|entry| Ok(entry?.path()));
        paths.collect::<io::Result<Vec<_>>>()
    });
    let mut paths = entries.map_err(|error| super::access(path, error))?;
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    Ok(paths)
}

impl From<TailError> for Failure {
    fn from(error: TailError) -> Self {
        if let TailError::Mirror(error) = error {
            return error.into();
        }
        Self {
            code: LOG,
            what: String::new(),
            error: Box::new(error),
            hint: "keep the state and the log's checkpoint as proof, and tell the log's users",
        }
    }
}
