//! From a URL to a verified channel with HTTP in it.

use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use attest::capsule::{Capsule, Purpose};
use attest::evidence::EvidenceError;
use attest::files::Files;
use attest::{Evidence, Expectation, Policy, Ratchet, Refusal, UnixTime, VerifiedPeer};
use carrier::Unverified;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::arguments;
use crate::failure::{Failure, reason};
use crate::network::{self, Stream};
use crate::report;
use crate::saved;
use crate::state::State;

const MAX_RELEASE_BYTES: usize = attest::release::MAX_BUNDLE_BYTES;
/// How long an ended connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// `cloister verify`.
pub(crate) async fn verify(arguments: arguments::Verify) -> Result<(), Failure> {
    let expected = Expected::read(arguments.peer)?;
    let (unverified, peer) = expected.meet().await?;
    if let Some(path) = &arguments.saved.save {
        let kept = expected.shown(&unverified).map_err(Refusal::from)?;
        saved::save(path, &kept)?;
    }
    unverified.refuse().await;
    let arguments = &expected.arguments;
    if arguments.json {
        report::print_json(&report::json(&arguments.url, &peer));
        return Ok(());
    }
    if arguments.explain {
        println!("{}", report::explain(&peer));
    }
    for fact in report::facts(&peer) {
        println!("{fact}");
    }
    Ok(())
}

/// What is known before a connection: whom to reach, and what to demand.
pub(crate) struct Expected {
    pub(crate) arguments: arguments::Peer,
    policy: Policy,
    release: Option<Vec<u8>>,
    files: Files,
    state: State,
}

impl Expected {
    /// Reads what the arguments name.
    pub(crate) fn read(arguments: arguments::Peer) -> Result<Self, Failure> {
        let limit = attest::policy::MAX_POLICY_BYTES;
        let path = arguments.policy.as_ref().ok_or_else(|| {
            Failure::misuse("no policy: nothing says whom to believe")
                .hint("name one by --policy FILE or CLOISTER_POLICY; there is no default trust")
        })?;
        let bytes = read_file("policy", path, limit)?;
        let policy = Policy::parse(&bytes).map_err(|error| {
            let path = path.display();
            Failure::misuse(format_args!("the policy {path} does not read: {error}"))
                .hint("every field is required: a demand that is left out would not be checked")
        })?;
        let release = match &arguments.release {
            Some(path) => Some(read_file("release", path, MAX_RELEASE_BYTES)?),
            None => None,
        };
        let files = saved::read_files(&arguments.collateral)?;
        let state = State::at(arguments.state.clone())?;
        Ok(Self {
            arguments,
            policy,
            release,
            files,
            state,
        })
    }

    /// Connects, and opens a channel to a server that was verified.
    pub(crate) async fn open(&self) -> Result<Connection, Failure> {
        let (unverified, peer) = self.meet().await?;
        let duplex = unverified.accept(&peer).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(duplex))
            .await
            .map_err(|error| broken(&error))?;
        Ok(Connection {
            peer,
            sender,
            driver: tokio::spawn(driver),
        })
    }

    /// Connects and verifies. Nothing was sent yet but the handshake.
    async fn meet(&self) -> Result<(Unverified<Box<dyn Stream>>, VerifiedPeer), Failure> {
        // A memory that cannot be read is found before the server is bothered.
        let ratchet = self.state.ratchet(&self.policy.release)?;
        let stream = network::connect(&self.arguments.url).await?;
        let unverified = carrier::connect(stream, &self.arguments.url.authority()).await?;
        match self.judge(&unverified, &ratchet) {
            Ok(peer) => match self.state.accepted(&self.policy.release, peer.release()) {
                Ok(()) => Ok((unverified, peer)),
                Err(failure) => {
                    unverified.refuse().await;
                    Err(failure)
                }
            },
            Err(refusal) => {
                unverified.refuse().await;
                Err(refusal.into())
            }
        }
    }

    fn judge(
        &self,
        unverified: &Unverified<Box<dyn Stream>>,
        ratchet: &Ratchet,
    ) -> Result<VerifiedPeer, Refusal> {
        let shown = self.shown(unverified)?;
        let evidence = &shown.evidence;
        let binding = unverified.binding(evidence.configuration_digest(), evidence.gpu_digest());
        attest::verify(
            evidence,
            &Expectation { binding },
            &self.policy,
            ratchet,
            shown.time,
        )
    }

    /// What the server showed, with what the person brings for what it did not.
    fn shown(&self, unverified: &Unverified<Box<dyn Stream>>) -> Result<Capsule, EvidenceError> {
        let mut evidence = Evidence::decode(unverified.evidence())?;
        if let Some(release) = &self.release {
            evidence.release.clone_from(release);
        }
        self.files.supplement(&mut evidence.platform);
        let binding = unverified.binding(evidence.configuration_digest(), evidence.gpu_digest());
        Ok(Capsule {
            time: now(),
            purpose: Purpose::of(&binding),
            evidence,
        })
    }
}

/// By this machine's clock.
pub(crate) fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixTime::from_secs(since.map_or(0, |since| since.as_secs()))
}

/// HTTP with a verified peer.
pub(crate) struct Connection {
    peer: VerifiedPeer,
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    pub(crate) fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// Whether the other side has gone, so that nothing can be sent here any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        body: Vec<u8>,
    ) -> Result<Response<Incoming>, Failure> {
        let request = Request::post(path)
            .header("host", "cloister")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| Failure::misuse("the request cannot be written"))?;
        self.sender.ready().await.map_err(|error| broken(&error))?;
        self.sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))
    }

    /// Ends in order, if the other side is quick about it.
    pub(crate) async fn close(self) {
        drop(self.sender);
        // The answer is complete: how the connection ends changes nothing.
        drop(timeout(GOODBYE, self.driver).await);
    }
}

/// What a failure of HTTP in the channel comes from.
pub(crate) fn broken(error: &hyper::Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        if let Some(error) = inner.and_then(|error| error.downcast_ref::<carrier::Error>()) {
            return (*error).into();
        }
        cause = error.source();
    }
    if error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
        return carrier::Error::HungUp.into();
    }
    Failure::network(format_args!("HTTP in the channel: {error}"))
}

pub(crate) fn read_file(what: &str, path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            let cause = reason(&error);
            Failure::misuse(format_args!("cannot read the {what} {shown}: {cause}"))
                .hint("check the path")
        })?;
    if bytes.len() > limit {
        return Err(Failure::misuse(format_args!(
            "the {what} {shown} is larger than {limit} bytes"
        )));
    }
    Ok(bytes)
}
