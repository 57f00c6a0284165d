//! What clients need beside the platform's own words: certificates, revocation lists and verdicts
//! of AMD or Intel, asked for through the configured proxy and kept until they are due.
//!
//! ```text
//! report or quote ─▶ requests ─▶ proxy ─▶ form, size ─▶ stock ─▶ evidence
//!                                  └ not now: later, and later still, never before it says
//! ```
//!
//! Everything here is data for the client, who verifies it: a proxy that lies has clients refuse.
//! The agent never waits for it, and serves without.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use attest::UnixTime;
use attest::supply::{self, Answer, AnswerError, Item, Request, RequestError};
use attest::tdx::Collateral;

use crate::evidence::{Attester, EvidenceError};
use crate::journal::{Event, Journal};

use fetch::FetchError;
use schedule::Schedule;

mod fetch;
mod schedule;

/// How long an item is kept before it is asked for again, at least and at most.
const KEPT: [Duration; 2] = [
    Duration::from_secs(60 * 60),
    Duration::from_secs(24 * 60 * 60),
];

/// Why something is not there.
#[derive(Debug, thiserror::Error)]
pub enum CollateralError {
    /// The platform gave nothing to ask for.
    #[error("the platform says too little to ask for its collateral")]
    Requests(#[from] RequestError),
    /// The platform gave no report.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The proxy gave no answer.
    #[error("{item}: {source}")]
    Fetch {
        /// What was asked for.
        item: Item,
        /// Why there is no answer.
        source: FetchError,
    },
    /// What it gave is not what was asked for.
    #[error(transparent)]
    Answer(#[from] AnswerError),
    /// What it gave is over.
    #[error("{item}: was due for renewal at {until}")]
    Stale {
        /// What was asked for.
        item: Item,
        /// Until when it held.
        until: UnixTime,
    },
}

impl CollateralError {
    /// How long the proxy wants to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch { source, .. } => source.retry_after(),
            _ => None,
        }
    }
}

/// What is at hand, and until when.
#[derive(Clone, Debug)]
pub struct Stock {
    kept: Arc<Mutex<BTreeMap<Item, Kept>>>,
    now: fn() -> UnixTime,
}

#[derive(Clone, Debug)]
struct Kept {
    url: String,
    answer: Answer,
    /// When it holds no longer, where it says so.
    until: Option<UnixTime>,
    /// When it is to be asked for again.
    due: UnixTime,
}

impl Default for Stock {
    /// Empty, by the system's clock.
    fn default() -> Self {
        Self::at(|| {
            let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            UnixTime::from_secs(since.map_or(0, |since| since.as_secs()))
        })
    }
}

impl Stock {
    /// Empty, by another clock.
    pub fn at(now: fn() -> UnixTime) -> Self {
        Self {
            kept: Arc::default(),
            now,
        }
    }

    /// Takes in what was answered.
    pub fn put(&self, request: &Request, answer: Answer, until: Option<UnixTime>) {
        let now = (self.now)();
        let [least, most] = KEPT.map(|time| time.as_secs());
        let left = until.map_or(most, |until| until.as_secs().saturating_sub(now.as_secs()));
        let due = UnixTime::from_secs(now.as_secs() + (left / 2).clamp(least, most));
        let kept = Kept {
            url: request.url.clone(),
            answer,
            until,
            due,
        };
        self.with(|all| drop(all.insert(request.item, kept)));
    }

    /// Whether this is to be asked for now.
    fn is_due(&self, request: &Request) -> bool {
        let now = (self.now)();
        let kept = self.with(|all| all.get(&request.item).cloned());
        kept.is_none_or(|kept| kept.url != request.url || kept.due <= now || !kept.holds(now))
    }

    /// Until the first is due.
    fn rest(&self) -> Duration {
        let first = self.with(|all| all.values().map(|kept| kept.due.as_secs()).min());
        let now = (self.now)().as_secs();
        let first = first.unwrap_or(now + KEPT[1].as_secs());
        Duration::from_secs(first.saturating_sub(now))
    }

    fn with<T>(&self, action: impl FnOnce(&mut BTreeMap<Item, Kept>) -> T) -> T {
        action(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is kept and still holds.
    fn get(&self, item: Item) -> Option<Answer> {
        let now = (self.now)();
        let kept = self.with(|all| all.get(&item).cloned())?;
        kept.holds(now).then_some(kept.answer)
    }

    fn bytes(&self, item: Item) -> Option<Vec<u8>> {
        match self.get(item)? {
            Answer::Certificate(bytes) | Answer::List(bytes) => Some(bytes),
            Answer::Document(_) => None,
        }
    }

    /// VCEK and what is above it, both or none.
    #[must_use]
    pub fn amd_certificates(&self) -> Vec<Vec<u8>> {
        let both = [Item::Vcek, Item::Intermediate].map(|item| self.bytes(item));
        let both: Option<Vec<_>> = both.into_iter().collect();
        both.unwrap_or_default()
    }

    /// The revocation list of AMD's root.
    #[must_use]
    pub fn amd_list(&self) -> Option<Vec<u8>> {
        self.bytes(Item::AmdList)
    }

    /// What Intel says of the platform: all of it, or nothing.
    #[must_use]
    pub fn intel(&self) -> Collateral {
        let all = || {
            let Answer::Document(info) = self.get(Item::TcbInfo)? else {
                return None;
            };
            let Answer::Document(identity) = self.get(Item::EnclaveIdentity)? else {
                return None;
            };
            Some(Collateral {
                tcb_info: info.bytes,
                tcb_info_signature: info.signature,
                enclave_identity: identity.bytes,
                enclave_identity_signature: identity.signature,
                signer: info.signer,
                revocation_lists: vec![self.bytes(Item::IntelList)?, self.bytes(Item::PckList)?],
            })
        };
        all().unwrap_or_default()
    }
}

impl Kept {
    fn holds(&self, now: UnixTime) -> bool {
        self.until.is_none_or(|until| now <= until)
    }
}

/// Keeps the stock filled for as long as the process lives.
pub(crate) async fn keep(attester: Attester, proxy: SocketAddr, journal: Journal) {
    let mut schedule = Schedule::default();
    loop {
        let outcome = match attester.wanted().await {
            Ok(requests) => refresh(&requests, attester.stock(), proxy).await,
            Err(error) => Err(error),
        };
        let mut random = [0; 2];
        // Without randomness there is no jitter, and all is well but for a crowd.
        getrandom::fill(&mut random).ok();
        let random = u16::from_le_bytes(random);
        let again = match outcome {
            Ok(fetched) => {
                let again = schedule.succeeded(attester.stock().rest(), random);
                journal.tell(&Event::CollateralKept { fetched, again });
                again
            }
            Err(error) => {
                let again = schedule.failed(error.retry_after(), random);
                let error = &error;
                journal.tell(&Event::CollateralFailed { error, again });
                again
            }
        };
        tokio::time::sleep(again).await;
    }
}

/// Asks for everything that is due, one after the other, up to the first fault; says how much that
/// was. Who cannot be asked for one thing is left alone with the next.
async fn refresh(
    requests: &[Request],
    stock: &Stock,
    proxy: SocketAddr,
) -> Result<usize, CollateralError> {
    let mut fetched = 0;
    for request in requests.iter().filter(|request| stock.is_due(request)) {
        let item = request.item;
        let (body, signer) = fetch::fetch(proxy, request)
            .await
            .map_err(|source| CollateralError::Fetch { item, source })?;
        let (answer, until) = supply::read(item, &body, signer.as_deref())?;
        match until {
            Some(until) if until < (stock.now)() => {
                return Err(CollateralError::Stale { item, until });
            }
            _ => stock.put(request, answer, until),
        }
        fetched += 1;
    }
    Ok(fetched)
}

#[cfg(test)]
mod tests;
