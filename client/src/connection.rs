//! From a URL to a verified channel with HTTP in it.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use attest::capsule::{Capsule, Purpose};
use attest::files::Files;
use attest::policy::TrustedRoot;
use attest::release::{NoSigstore, SigstoreVerifier};
use attest::{Binding, Evidence, Expectation, Policy, Refusal, UnixTime, VerifiedPeer};
use carrier::Unverified;
use cloister_sigstore::RootError;
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
use crate::reattest::{self, Age, ReattestError};
use crate::report;
use crate::saved;
use crate::state::State;
use crate::terminal;

const MAX_RELEASE_BYTES: usize = attest::release::MAX_BUNDLE_BYTES;
const MAX_ROOT_BYTES: usize = 1 << 20;
/// How long an ended connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(3);

/// `cloister verify`.
pub(crate) async fn verify(arguments: arguments::Verify) -> Result<(), Failure> {
    let expected = Expected::read(arguments.peer)?;
    let Met {
        unverified,
        peer,
        binding,
        shown,
        ..
    } = expected.meet().await?;
    if let (Some(path), Some(purpose)) = (&arguments.saved.save, Purpose::of(&binding)) {
        let (evidence, time) = shown;
        let kept = Capsule {
            time,
            purpose,
            evidence,
        };
        saved::save(path, &kept)?;
    }
    unverified.refuse().await;
    let arguments = &expected.arguments;
    if arguments.json {
        return report::print_json(&report::json(&arguments.url, &peer));
    }
    if arguments.explain {
        terminal::say(&report::explain(&peer))?;
    }
    for fact in report::facts(&peer) {
        terminal::say(&fact)?;
    }
    report::say_left_open(peer.claims())
}

/// What is known before a connection: whom to reach, and what to demand.
pub(crate) struct Expected {
    pub(crate) arguments: arguments::Peer,
    policy: Policy,
    sigstore: Box<dyn SigstoreVerifier + Send + Sync>,
    files: Files,
    state: State,
}

/// A server that was verified, and that nothing was sent to yet.
struct Met {
    unverified: Unverified<Box<dyn Stream>>,
    peer: VerifiedPeer,
    binding: Binding,
    /// What was verified, and when.
    shown: (Evidence, UnixTime),
    age: Age,
}

impl Expected {
    /// Reads what the arguments name.
    pub(crate) fn read(arguments: arguments::Peer) -> Result<Arc<Self>, Failure> {
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
        let sigstore = sigstore(&policy, path)?;
        let files = saved::read_files(&arguments.collateral)?;
        let state = State::at(arguments.state.clone())?;
        let expected = Self {
            arguments,
            policy,
            sigstore,
            files,
            state,
        };
        // A file that cannot be read is found before the server is bothered.
        drop(expected.release()?);
        Ok(Arc::new(expected))
    }

    /// The release in a file, if one is named: read each time, as it may have been renewed.
    fn release(&self) -> Result<Option<Vec<u8>>, Failure> {
        let path = self.arguments.release.as_ref();
        path.map(|path| read_file("release", path, MAX_RELEASE_BYTES))
            .transpose()
    }

    /// Connects, and opens a channel to a server that was verified.
    pub(crate) async fn open(self: &Arc<Self>) -> Result<Connection, Failure> {
        let Met {
            unverified,
            peer,
            binding,
            age,
            ..
        } = self.meet().await?;
        let duplex = unverified.accept(&peer).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(duplex))
            .await
            .map_err(|error| broken(&error))?;
        Ok(Connection {
            expected: Arc::clone(self),
            peer,
            binding,
            age,
            sender: Some(sender),
            driver: tokio::spawn(driver),
        })
    }

    /// Connects and verifies. Nothing was sent yet but the handshake.
    async fn meet(&self) -> Result<Met, Failure> {
        // A memory that cannot be read is found before the server is bothered.
        self.state.ratchet(&self.policy.release)?;
        let release = self.release()?;
        let stream = network::connect(&self.arguments.url).await?;
        // From here on the evidence ages: it is made for what is sent now.
        let age = Age::begins();
        let unverified = carrier::connect(stream, &self.arguments.url.authority()).await?;
        let judged = self.complete(unverified.evidence(), release);
        let judged = judged.map_err(Failure::from).and_then(|evidence| {
            let (configuration, gpu) = (evidence.configuration_digest(), evidence.gpu_digest());
            let (binding, time) = (unverified.binding(configuration, gpu), reattest::now());
            let peer = self.judge(&evidence, binding, time)??;
            Ok((peer, binding, (evidence, time)))
        });
        match judged {
            Ok((peer, binding, shown)) => Ok(Met {
                unverified,
                peer,
                binding,
                shown,
                age,
            }),
            Err(failure) => {
                unverified.refuse().await;
                Err(failure)
            }
        }
    }

    /// What the peer shows, with the release of a file in the place of its own if there is one, and
    /// with what the person brings for what it does not show.
    fn complete(&self, evidence: &[u8], release: Option<Vec<u8>>) -> Result<Evidence, Refusal> {
        let mut evidence = Evidence::decode(evidence)?;
        if let Some(release) = release {
            evidence.release = release;
        }
        let time = reattest::now();
        self.files.supplement(&mut evidence.platform, time);
        self.files.supplement_gpus(&mut evidence.gpu, time);
        Ok(evidence)
    }

    /// Verifies. What is accepted is remembered; and what a refused release teaches: who saw a
    /// revocation is not shown an older bundle without it.
    fn judge(
        &self,
        evidence: &Evidence,
        binding: Binding,
        now: UnixTime,
    ) -> Result<Result<VerifiedPeer, Refusal>, Failure> {
        let (policy, sigstore) = (&self.policy, &*self.sigstore);
        let ratchet = self.state.ratchet(&policy.release)?;
        let expectation = Expectation { binding };
        let judged = attest::verify_with(evidence, &expectation, policy, &ratchet, now, sigstore);
        match &judged {
            Ok(peer) => self.state.accepted(&policy.release, peer.release())?,
            Err(_) => self
                .state
                .learn(&policy.release, &evidence.release, sigstore)?,
        }
        Ok(judged)
    }
}

/// Whose word counts for releases in Sigstore. A file stands beside the policy.
pub(crate) fn sigstore(
    policy: &Policy,
    path: &Path,
) -> Result<Box<dyn SigstoreVerifier + Send + Sync>, Failure> {
    let Some(sigstore) = policy.release.sigstore() else {
        return Ok(Box::new(NoSigstore));
    };
    let verifier = match &sigstore.trusted_root {
        TrustedRoot::BuiltIn(name) => cloister_sigstore::SigstoreVerifier::built_in(name.as_str()),
        TrustedRoot::File(file) => {
            let file = path.with_file_name(file.as_str());
            let json = read_file("trusted root", &file, MAX_ROOT_BYTES)?;
            cloister_sigstore::SigstoreVerifier::of_file(&json)
        }
    };
    let verifier = verifier.map_err(|error| {
        let failure = Failure::misuse(format_args!("release.sigstore.trusted_root: {error}"));
        failure.hint(match error {
            RootError::NotBuiltIn => "name that one if you accept it, or give today's as a file",
            _ => "give a trusted_root.json, as `cloister-release sigstore refresh` fetches it",
        })
    })?;
    Ok(Box::new(verifier))
}

/// HTTP with a verified peer. What is sent is sent to evidence that is young enough: before that,
/// the peer gives fresh evidence, or the session ends.
pub(crate) struct Connection {
    expected: Arc<Expected>,
    peer: VerifiedPeer,
    binding: Binding,
    age: Age,
    /// Nothing once the session was ended.
    sender: Option<SendRequest<Full<Bytes>>>,
    driver: JoinHandle<hyper::Result<()>>,
}

impl Connection {
    pub(crate) fn peer(&self) -> &VerifiedPeer {
        &self.peer
    }

    /// Whether the session is over, so that nothing can be sent here any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(SendRequest::is_closed)
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
        let interval = self.expected.policy.channel.reattest_seconds;
        if self.age.is_due(Duration::from_secs(interval.into())) {
            match self.reattest().await {
                Ok(age) => self.age = age,
                Err(error) => {
                    self.sender = None;
                    return Err(error.into());
                }
            }
        }
        let Some(sender) = &mut self.sender else {
            return Err(carrier::Error::HungUp.into());
        };
        sender.ready().await.map_err(|error| broken(&error))?;
        sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))
    }

    /// Has the peer prove once more, for this session and a fresh nonce, what it is; and looks at
    /// what is known by now of its release.
    async fn reattest(&mut self) -> Result<Age, ReattestError> {
        let expected = &self.expected;
        let age = Age::begins();
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|_| ReattestError::Random)?;
        let sender = self.sender.as_mut().ok_or(ReattestError::HungUp)?;
        let evidence = reattest::fetch(sender, nonce).await?;
        let evidence = expected.complete(&evidence, expected.release()?)?;
        let binding = self.binding.session(nonce);
        drop(expected.judge(&evidence, binding, reattest::now())??);
        Ok(age)
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
    open(path)
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

/// A pipe would be waited for without end.
fn open(path: &Path) -> std::io::Result<std::fs::File> {
    let kind = std::fs::metadata(path)?.file_type();
    match kind.is_file() || kind.is_dir() {
        true => std::fs::File::open(path),
        false => Err(std::io::ErrorKind::InvalidInput.into()),
    }
}
