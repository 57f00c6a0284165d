//! Has witnesses elsewhere sign a log's checkpoint (C2SP tlog-witness).
//!
//! ```text
//! POST URL/add-checkpoint   old size, consistency proof from there, checkpoint
//!   200  cosignature lines          409  the size that it signed last: once more from there
//!   403, 404, 422, …                refused
//! ```
//!
//! A witness is believed in nothing but its signature, and only in the one by the key that is
//! expected of it.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use attest::release::checkpoint::OriginError;
use attest::release::{Origin, PublicKey, PublicKeyError, SignedCheckpoint, Witness};
use attest::{Digest, UnixTime};
use release::log::witness::request::AddCheckpoint;
use release::log::{Log, LogError, consistency};
use sigstore_sign::reqwest::Client;
use tokio::task::JoinSet;

use crate::ask::{AskError, post};
use crate::http::{HttpError, client};
use crate::patience::Patience;

/// Longest answer of a witness.
const MAX_ANSWER_BYTES: usize = 4 << 10;
/// How often a witness may say that it is at another size: others ask it, too.
const MAX_ROUNDS: usize = 4;

/// A witness, and where it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Its name and key.
    pub witness: Witness,
    /// Address before `/add-checkpoint`.
    pub url: String,
}

/// Why a text names no witness.
#[derive(Debug, thiserror::Error)]
pub enum AskedError {
    /// Not name, key and address.
    #[error("give name, key and address, such as NAME=ed25519:BASE64@https://witness.example.org")]
    Form,
    /// The name.
    #[error(transparent)]
    Name(#[from] OriginError),
    /// The key.
    #[error(transparent)]
    Key(#[from] PublicKeyError),
}

/// Why there is no cosignature of one witness.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It gave no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It does not know the log.
    #[error("it does not watch a log of this name")]
    UnknownLog,
    /// It knows the log by another key.
    #[error("it knows the log by another key")]
    OtherKey,
    /// It signed another log of the same size: one of both was shown to others.
    #[error("it signed another log of {size} entries: the log has two faces")]
    TwoFaces {
        /// The size.
        size: u64,
    },
    /// It signed a larger log.
    #[error("it signed the log when it had {signed} entries, and it has {size}: a rollback")]
    Ahead {
        /// What it signed.
        signed: u64,
        /// Entries here.
        size: u64,
    },
    /// What it signed is not the beginning of the log.
    #[error("the log does not continue what it signed: the log has two faces")]
    Inconsistent,
    /// A conflict without a size.
    #[error("it speaks of a conflict, and names no size")]
    NoSize,
    /// It named another size each time.
    #[error("it named another size {MAX_ROUNDS} times")]
    Unsettled,
    /// Another status.
    #[error("status {0}")]
    Status(u16),
    /// Its answer is no signature lines.
    #[error("its answer is not signature lines")]
    Malformed,
    /// No line is by the key that is expected.
    #[error("its answer holds no signature by its key")]
    Nobody,
    /// A line in its name is not its signature.
    #[error("the signature in its name is not by its key")]
    False,
}

/// Why no witness was asked, or what they signed was not kept.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// No HTTP client.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// One key would count twice.
    #[error("{0} is named twice, or has the key of another: it would count twice")]
    Twice(Origin),
}

/// What came of it.
#[derive(Debug)]
pub struct Collected {
    /// Entries that the checkpoint covers.
    pub size: u64,
    /// Who signed, and when by their clocks. Their lines stand under the log's checkpoint.
    pub signed: Vec<(Origin, UnixTime)>,
    /// Who did not, and why.
    pub refused: Vec<(Origin, Refused)>,
}

/// What every witness is shown.
struct Submission {
    note: String,
    leaves: Vec<Digest<32>>,
}

impl FromStr for Asked {
    type Err = AskedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text.find("=ed25519:").ok_or(AskedError::Form)?;
        let (name, rest) = (&text[..place], &text[place + 1..]);
        let (key, url) = rest.split_once('@').ok_or(AskedError::Form)?;
        Ok(Self {
            witness: Witness {
                name: name.to_owned().try_into()?,
                key: key.parse()?,
            },
            url: url.trim_end_matches('/').to_owned(),
        })
    }
}

/// Asks all of them at the same time, and puts what they signed under the checkpoint of the log in
/// `folder`.
pub async fn collect(
    folder: &Path,
    origin: &Origin,
    key: &PublicKey,
    asked: &[Asked],
    patience: Patience,
) -> Result<Collected, CollectError> {
    for (place, one) in asked.iter().enumerate() {
        let same = |other: &Asked| {
            other.witness.key == one.witness.key || other.witness.name == one.witness.name
        };
        if asked[..place].iter().any(same) {
            return Err(CollectError::Twice(one.witness.name.clone()));
        }
    }
    let http = client(patience.timeout)?;
    let log = Log::open(folder, origin, key)?;
    let submission = Arc::new(Submission {
        note: own_note(log.checkpoint_note()),
        leaves: log.leaves().to_vec(),
    });
    let mut answers = JoinSet::new();
    for (place, one) in asked.iter().cloned().enumerate() {
        let (http, submission) = (http.clone(), Arc::clone(&submission));
        answers.spawn(async move {
            let answer = ask(&http, patience, &submission, &one).await;
            (place, one.witness.name, answer)
        });
    }
    let mut answers = answers.join_all().await;
    answers.sort_by_key(|(place, ..)| *place);
    let mut collected = Collected {
        size: log.checkpoint().size,
        signed: Vec::new(),
        refused: Vec::new(),
    };
    for (_, name, answer) in answers {
        match answer {
            Ok((line, time)) => {
                Log::add_cosignature(folder, origin, key, log.checkpoint(), &line)?;
                collected.signed.push((name, time));
            }
            Err(refused) => collected.refused.push((name, refused)),
        }
    }
    Ok(collected)
}

async fn ask(
    http: &Client,
    patience: Patience,
    submission: &Submission,
    asked: &Asked,
) -> Result<(String, UnixTime), Refused> {
    let url = format!("{}/add-checkpoint", asked.url);
    let size = submission.leaves.len() as u64;
    let mut old = 0;
    for _ in 0..MAX_ROUNDS {
        let Some(proof) = consistency::prove(old, &submission.leaves) else {
            let signed = old;
            return Err(Refused::Ahead { signed, size });
        };
        let note = submission.note.clone();
        let request = AddCheckpoint { old, proof, note }.encode();
        let body = ("text/plain; charset=utf-8", request.as_bytes());
        let answer = post(http, patience, &url, body, MAX_ANSWER_BYTES).await?;
        match answer.status {
            200 => return cosignature(&submission.note, &answer.body, &asked.witness),
            403 => return Err(Refused::OtherKey),
            404 => return Err(Refused::UnknownLog),
            409 => match size_of(&answer.body).ok_or(Refused::NoSize)? {
                size if size == old => return Err(Refused::TwoFaces { size }),
                signed => old = signed,
            },
            422 => return Err(Refused::Inconsistent),
            status => return Err(Refused::Status(status)),
        }
    }
    Err(Refused::Unsettled)
}

/// The line by the witness that is expected; others' lines are not looked at.
fn cosignature(
    note: &str,
    answer: &[u8],
    witness: &Witness,
) -> Result<(String, UnixTime), Refused> {
    let answer = std::str::from_utf8(answer).map_err(|_| Refused::Malformed)?;
    if answer.is_empty() || !answer.ends_with('\n') {
        return Err(Refused::Malformed);
    }
    let mut found = Err(Refused::Nobody);
    for line in answer.split_inclusive('\n') {
        let noted = SignedCheckpoint::parse(&format!("{note}{line}"));
        let noted = noted.map_err(|_| Refused::Malformed)?;
        match noted.cosigned_by(witness) {
            Ok(Some(time)) => return Ok((line.to_owned(), time)),
            Ok(None) => {}
            Err(_) => found = Err(Refused::False),
        }
    }
    found
}

/// Decimal, and a line's end.
fn size_of(body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let size: u64 = text.strip_suffix('\n').unwrap_or(text).parse().ok()?;
    Some(size).filter(|size| text.trim_end_matches('\n') == size.to_string())
}

/// The checkpoint with its log's own signature, which is the first.
fn own_note(note: &str) -> String {
    let (text, signatures) = note.split_once("\n\n").unwrap_or((note, ""));
    let own = signatures.split_inclusive('\n').next().unwrap_or_default();
    format!("{text}\n\n{own}")
}
