//! HTTP outside the channel: five paths, nothing secret, everything bounded.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use attest::Binding;
use attest::configuration::Limits;
use carrier::Clock;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue, RETRY_AFTER, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::api::Api;
use crate::evidence::{Attester, EvidenceError};
use crate::http::{Response, full, text};
use crate::inside;
use crate::journal::{Event, Journal};
use crate::keys::Keys;

/// A connection says what it wants by then; an idle one is closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection that carries no session ends by then, whatever it is at: slow readers go, too.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Request line and headers together.
const MAX_HEAD_BYTES: usize = 16 << 10;
const MAX_HEADERS: usize = 64;
/// Where evidence is: for a nonce alone outside of the channel, for the session as well inside.
pub(crate) const EVIDENCE_PATH: &str = "/.well-known/cloister/evidence";
/// Connections beyond those that carry sessions.
const SPARE_CONNECTIONS: usize = 64;
/// Requests for evidence by nonce that wait for the TPM at once.
const MAX_NONCE_REQUESTS: usize = 4;
/// Rest after an accept that failed, as when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything that a connection may need.
pub(crate) struct Server {
    pub(crate) api: Arc<Api>,
    pub(crate) attester: Attester,
    pub(crate) keys: Keys,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    connections: Arc<Semaphore>,
    sessions: Arc<Semaphore>,
    nonce_requests: Semaphore,
}

impl Server {
    pub(crate) fn new(
        api: Api,
        attester: Attester,
        (keys, clock): (Keys, Clock),
        limits: &Limits,
        journal: Journal,
    ) -> Arc<Self> {
        let sessions = limits.max_sessions as usize;
        Arc::new(Self {
            api: Arc::new(api),
            attester,
            keys,
            clock,
            journal,
            connections: Arc::new(Semaphore::new(sessions + SPARE_CONNECTIONS)),
            sessions: Arc::new(Semaphore::new(sessions)),
            nonce_requests: Semaphore::new(MAX_NONCE_REQUESTS),
        })
    }

    /// Accepts connections until `stop` is ready; publishes metrics each `metrics_interval`.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        metrics_interval: Duration,
        stop: impl Future<Output = ()>,
    ) {
        let mut ticks = tokio::time::interval(metrics_interval);
        let api = &self.api;
        let publish = || api.metrics.publish(api.engine.stats(), api.slots);
        publish();
        let publishing = async {
            loop {
                ticks.tick().await;
                publish();
            }
        };
        let accepting = async {
            loop {
                // Ours is the only handle: the semaphore is never closed.
                let Ok(permit) = self.connections.clone().acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(self.clone().connection(stream, permit))),
                    Err(error) => self.accept_failed(&error).await,
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = publishing => {}
            () = stop => {}
        }
    }

    async fn accept_failed(&self, error: &io::Error) {
        self.journal.tell(&Event::AcceptFailed {
            error: error.kind(),
        });
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, permit: OwnedSemaphorePermit) {
        // Records leave when they are due; without that the cadence would still hold.
        drop(stream.set_nodelay(true));
        let permit = Arc::new(permit);
        let service = service_fn(|request| {
            let (server, permit) = (self.clone(), permit.clone());
            async move { Ok::<_, std::convert::Infallible>(server.answer(request, permit).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // What goes wrong here is the peer's doing, and of no interest. A connection that became a
        // WebSocket is over here, and lives on in its session.
        drop(tokio::time::timeout(CONNECTION_TIMEOUT, connection).await);
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        connection: Arc<OwnedSemaphorePermit>,
    ) -> Response {
        let known = matches!(
            request.uri().path(),
            "/v1/channel"
                | "/healthz"
                | "/metrics"
                | EVIDENCE_PATH
                | "/.well-known/cloister/release"
        );
        if known && request.method() != Method::GET {
            return get_only();
        }
        match request.uri().path() {
            "/v1/channel" => self.upgrade(request, connection),
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/metrics" => self.metrics(),
            EVIDENCE_PATH => self.evidence(request.uri().query()).await,
            "/.well-known/cloister/release" if !self.attester.release().is_empty() => {
                let bundle = self.attester.release().to_vec();
                full(StatusCode::OK, "application/json", bundle)
            }
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn metrics(&self) -> Response {
        full(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            self.api.metrics.page(),
        )
    }

    /// Evidence for a nonce: it proves the platform, not a channel.
    async fn evidence(&self, query: Option<&str>) -> Response {
        let Some(nonce) = nonce(query) else {
            return no_nonce();
        };
        let Ok(_turn) = self.nonce_requests.try_acquire() else {
            return busy();
        };
        let binding = Binding::Nonce {
            nonce,
            configuration_digest: self.attester.configuration_digest(),
            gpu_digest: attest::evidence::gpu_digest(),
        };
        self.evidence_or_not(self.attester.make(&binding).await)
    }

    /// Evidence for a nonce within the session that `handshake` began. Only that session's client
    /// can ask for it, one piece at a time.
    pub(crate) async fn evidence_within(
        &self,
        handshake: &Binding,
        request: &Request<Incoming>,
    ) -> Response {
        if request.method() != Method::GET {
            return get_only();
        }
        let Some(nonce) = nonce(request.uri().query()) else {
            return no_nonce();
        };
        let binding = handshake.session(nonce);
        let made = tokio::time::timeout(inside::EVIDENCE_TIMEOUT, self.attester.make(&binding));
        match made.await {
            Ok(made) => self.evidence_or_not(made),
            Err(_) => busy(),
        }
    }

    fn evidence_or_not(&self, made: Result<Vec<u8>, EvidenceError>) -> Response {
        match made {
            Ok(evidence) => full(StatusCode::OK, "application/cbor", evidence),
            Err(error) => {
                self.journal.tell(&Event::EvidenceFailed { error: &error });
                text(StatusCode::SERVICE_UNAVAILABLE, "no evidence\n")
            }
        }
    }

    /// From HTTP to a WebSocket, and on to the channel.
    fn upgrade(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        connection: Arc<OwnedSemaphorePermit>,
    ) -> Response {
        let Ok(agreed) = carrier::upgrade(&request) else {
            let mut response = text(StatusCode::UPGRADE_REQUIRED, "a WebSocket is needed\n");
            response
                .headers_mut()
                .insert(UPGRADE, HeaderValue::from_static("websocket"));
            return response;
        };
        let Ok(session) = self.sessions.clone().try_acquire_owned() else {
            return busy();
        };
        let upgrading = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrading.await {
                inside::serve(&self, TokioIo::new(upgraded), session).await;
            }
            drop(connection);
        });
        agreed.map(|()| Empty::new().boxed_unsync())
    }
}

fn nonce(query: Option<&str>) -> Option<[u8; 32]> {
    let mut nonce = [0; 32];
    hex::decode_to_slice(query?.strip_prefix("nonce=")?, &mut nonce).ok()?;
    Some(nonce)
}

fn no_nonce() -> Response {
    let line = "nonce=<64 hexadecimal digits> is needed\n";
    text(StatusCode::BAD_REQUEST, line)
}

fn get_only() -> Response {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    response
}

fn busy() -> Response {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "busy: try again later\n");
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}
