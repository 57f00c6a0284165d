//! Fresh evidence within a session: asked for in the channel, for a nonce, bound to the handshake.
//!
//! ```text
//! client                                                        agent
//!   │── GET /.well-known/cloister/evidence?nonce=… ──────────────▶│   in the session
//!   │        report data = SHA-512(label, report data of the handshake, nonce, configuration, GPU)
//!   │◀── evidence ────────────────────────────────────────────────│
//! ```
//!
//! Evidence for a nonce alone could come from another machine: anybody can fetch that. This names
//! the handshake, and the measured agent makes it for no handshake but its own.

use std::time::{Duration, Instant, SystemTime};

use attest::evidence::MAX_EVIDENCE_BYTES;
use attest::{Refusal, UnixTime};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use tokio::time::timeout;

use crate::connection::broken;
use crate::failure::{Exit, Failure};

/// Nobody waits longer for fresh evidence. It comes at the pace of an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a session ends.
#[derive(Debug)]
pub(crate) enum ReattestError {
    /// The evidence is not believed, or the release no longer is.
    Refused(Refusal),
    /// No evidence within [`PATIENCE`].
    Silent,
    /// The server gives none.
    Status(StatusCode),
    /// More than evidence may be.
    TooLarge,
    /// The server is gone.
    HungUp,
    /// The system gave no randomness.
    Random,
    /// Connection, memory or file.
    Failed(Failure),
}

/// Since when evidence ages, by two clocks: one stands still while the machine sleeps, the other
/// can be set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Age {
    monotonic: Instant,
    wall: SystemTime,
}

impl Age {
    pub(crate) fn begins() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// Whether evidence of that age is too old by either clock.
    pub(crate) fn is_due(&self, interval: Duration) -> bool {
        self.is_due_at(Instant::now(), SystemTime::now(), interval)
    }

    fn is_due_at(&self, monotonic: Instant, wall: SystemTime, interval: Duration) -> bool {
        let by_monotonic = monotonic.duration_since(self.monotonic) >= interval;
        // A clock that was set back says nothing: then the evidence may be of any age.
        let by_wall = wall
            .duration_since(self.wall)
            .map_or(true, |age| age >= interval);
        by_monotonic || by_wall
    }
}

/// The time by this machine's clock.
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::from_secs(since.map_or(0, |since| since.as_secs()))
}

/// Asks for evidence within the session.
pub(crate) async fn fetch(
    sender: &mut SendRequest<Full<Bytes>>,
    nonce: [u8; 32],
) -> Result<Vec<u8>, ReattestError> {
    let path = format!(
        "/.well-known/cloister/evidence?nonce={}",
        hex::encode(nonce)
    );
    let request = Request::get(path)
        .header("host", "cloister")
        .body(Full::default())
        .map_err(|_| ReattestError::Random)?;
    let answer = async {
        sender.ready().await?;
        sender.send_request(request).await
    };
    let whole = async {
        let response = answer.await?;
        if response.status() != StatusCode::OK {
            return Err(ReattestError::Status(response.status()));
        }
        match Limited::new(response.into_body(), MAX_EVIDENCE_BYTES)
            .collect()
            .await
        {
            Ok(body) => Ok(body.to_bytes().to_vec()),
            Err(error) if error.is::<LengthLimitError>() => Err(ReattestError::TooLarge),
            Err(error) => match error.downcast::<hyper::Error>() {
                Ok(error) => Err((*error).into()),
                Err(_) => Err(ReattestError::HungUp),
            },
        }
    };
    timeout(PATIENCE, whole)
        .await
        .map_err(|_| ReattestError::Silent)?
}

impl From<Refusal> for ReattestError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<hyper::Error> for ReattestError {
    fn from(error: hyper::Error) -> Self {
        Self::Failed(broken(&error))
    }
}

impl From<Failure> for ReattestError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<ReattestError> for Failure {
    fn from(error: ReattestError) -> Self {
        match error {
            ReattestError::Refused(refusal) => Self::refused_within(&refusal),
            ReattestError::Failed(failure) => failure,
            ReattestError::HungUp => carrier::Error::HungUp.into(),
            ReattestError::Random => Self::misuse("the system gives no randomness"),
            ReattestError::Silent => Self::network(format_args!(
                "the session ended, nothing more was sent: no fresh evidence within {} seconds",
                PATIENCE.as_secs()
            ))
            .hint("the server may be busy; ask again, which verifies it anew"),
            ReattestError::Status(status) => Self::new(
                Exit::Policy,
                format_args!(
                    "the session ended, nothing more was sent: \
                     the server gives no fresh evidence (HTTP {status})"
                ),
            )
            .hint("channel.reattest_seconds of the policy asks for it; an older agent gives none"),
            ReattestError::TooLarge => Self::new(
                Exit::Signature,
                format_args!(
                    "the session ended, nothing more was sent: \
                     the fresh evidence is larger than {MAX_EVIDENCE_BYTES} bytes"
                ),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper::body::Incoming;
    use hyper::server::conn::http1 as server;
    use hyper::service::service_fn;
    use hyper::{Response, client::conn::http1 as client};
    use hyper_util::rt::TokioIo;

    use super::*;

    /// What comes of asking a server that answers so; `None` is silence.
    async fn asked(status: u16, body: Option<usize>) -> Result<Vec<u8>, ReattestError> {
        let (ours, theirs) = tokio::io::duplex(4096);
        let service = service_fn(move |request: Request<Incoming>| async move {
            assert_eq!(request.uri().path(), "/.well-known/cloister/evidence");
            let nonce = format!("nonce={}", "07".repeat(32));
            assert_eq!(request.uri().query(), Some(nonce.as_str()));
            let Some(length) = body else {
                return std::future::pending().await;
            };
            let body = Full::new(Bytes::from(vec![b'e'; length]));
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(theirs), service));
        let (mut sender, driver) = client::handshake(TokioIo::new(ours)).await.unwrap();
        tokio::spawn(driver);
        fetch(&mut sender, [7; 32]).await
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_evidence_ends_a_session_by_what_it_is() {
        assert_eq!(asked(200, Some(9)).await.unwrap(), b"eeeeeeeee");
        let silent = asked(200, None).await;
        assert!(matches!(silent, Err(ReattestError::Silent)), "{silent:?}");
        let old = asked(404, Some(0)).await;
        assert!(matches!(old, Err(ReattestError::Status(status)) if status == 404));
        let long = asked(200, Some(MAX_EVIDENCE_BYTES + 1)).await;
        assert!(matches!(long, Err(ReattestError::TooLarge)), "{long:?}");
        let codes = [
            (ReattestError::Silent, 6),
            (ReattestError::Status(StatusCode::NOT_FOUND), 4),
            (ReattestError::TooLarge, 2),
            (ReattestError::HungUp, 6),
        ];
        for (error, code) in codes {
            assert_eq!(Failure::from(error).code(), code);
        }
    }

    /// The machine slept, or somebody set its clock: in doubt the evidence is too old.
    #[test]
    fn evidence_is_old_by_the_clock_that_says_so() {
        let age = Age::begins();
        let interval = Duration::from_secs(600);
        let at = |monotonic: u64, wall: i64| {
            let step = Duration::from_secs(wall.unsigned_abs());
            let wall = if wall < 0 {
                age.wall - step
            } else {
                age.wall + step
            };
            age.is_due_at(
                age.monotonic + Duration::from_secs(monotonic),
                wall,
                interval,
            )
        };
        assert!(!at(0, 0) && !at(599, 599));
        assert!(at(600, 599), "the wall clock stood still");
        assert!(at(5, 8 * 3600), "the machine slept");
        assert!(at(5, -1), "the wall clock was set back");
        assert!(age.is_due(Duration::ZERO), "before every request");
    }
}
