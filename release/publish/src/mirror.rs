//! Fetches a log over HTTP (C2SP tlog-tiles) into a copy that is checked like any log.

use attest::release::checkpoint::MAX_NOTE_BYTES;
use release::log::replica::{Fetched, Replica};
use release::log::tiles::{MAX_BUNDLE_BYTES, TilePath};
use release::log::{Log, LogError, MAX_LOG_BYTES};
use sigstore_sign::reqwest::Client;

use crate::ask::{AskError, get};
use crate::patience::Patience;

/// How often the log may go on while it is fetched.
const MAX_ROUNDS: usize = 3;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The log gave no answer.
    #[error("{url}")]
    Ask {
        /// What was asked for.
        url: String,
        /// Why it was not had.
        source: AskError,
    },
    /// The log has no such file.
    #[error("{url}: status {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// What it said.
        status: u16,
    },
    /// The checkpoint covers a file that the log does not show.
    #[error("{url}: status {status}, and the checkpoint covers it")]
    Hidden {
        /// The file.
        url: String,
        /// What the log said.
        status: u16,
    },
    /// The log is damaged, or is another one.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Brings a copy up to date with the log at `url`.
pub async fn mirror(
    http: &Client,
    patience: Patience,
    url: &str,
    replica: &Replica<'_>,
) -> Result<Log, MirrorError> {
    let url = url.trim_end_matches('/');
    let mut last = None;
    for _ in 0..MAX_ROUNDS {
        let note = checkpoint(http, patience, url).await?;
        match files(http, patience, url, &replica.wanted(&note)?).await {
            // Partial tiles go away when the log goes on: the next checkpoint names others.
            Err(MirrorError::Hidden { url, status }) if last.as_ref() != Some(&note) => {
                drop((url, status));
                last = Some(note);
            }
            Err(error) => return Err(error),
            Ok(fetched) => return Ok(replica.put(&note, &fetched)?),
        }
    }
    Err(MirrorError::Status {
        url: url.to_owned(),
        status: 404,
    })
}

/// The signed note at the head of a log.
pub async fn checkpoint(
    http: &Client,
    patience: Patience,
    url: &str,
) -> Result<String, MirrorError> {
    let url = format!("{url}/checkpoint");
    let bytes = match fetch(http, patience, &url, MAX_NOTE_BYTES).await {
        Err(MirrorError::Hidden { url, status }) => Err(MirrorError::Status { url, status }),
        other => other,
    };
    // What is no text is no note either.
    Ok(String::from_utf8_lossy(&bytes?).into_owned())
}

/// One file of a log.
pub(crate) async fn tile(
    http: &Client,
    patience: Patience,
    url: &str,
    path: &TilePath,
) -> Result<Vec<u8>, MirrorError> {
    let limit = match path.level {
        Some(_) => path.width * HASH_BYTES,
        None => MAX_BUNDLE_BYTES,
    };
    fetch(http, patience, &format!("{url}/{path}"), limit).await
}

async fn files(
    http: &Client,
    patience: Patience,
    url: &str,
    wanted: &[TilePath],
) -> Result<Vec<Fetched>, MirrorError> {
    let (mut fetched, mut total) = (Vec::new(), 0);
    for path in wanted {
        let bytes = tile(http, patience, url, path).await?;
        total += bytes.len();
        if total > 2 * MAX_LOG_BYTES {
            return Err(LogError::TooLarge(url.into()).into());
        }
        fetched.push((*path, bytes));
    }
    Ok(fetched)
}

async fn fetch(
    http: &Client,
    patience: Patience,
    url: &str,
    limit: usize,
) -> Result<Vec<u8>, MirrorError> {
    let url = url.to_owned();
    match get(http, patience, &url, limit).await {
        Ok(answer) if answer.status == 200 => Ok(answer.body),
        Ok(answer) => Err(MirrorError::Hidden {
            url,
            status: answer.status,
        }),
        Err(source) => Err(MirrorError::Ask { url, source }),
    }
}
