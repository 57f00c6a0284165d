//! A log's folder over HTTP: the checkpoint and the tiles, and nothing else.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use attest::release::SignedCheckpoint;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

use super::tiles::TilePath;

const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 256;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder holds no log.
    #[error("{0} holds no checkpoint")]
    NoLog(PathBuf),
    /// The address cannot be used.
    #[error("{address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves `log` at `address` until the process ends; says by `ready` where.
pub fn run(
    log: &Path,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if !log.join("checkpoint").is_file() {
        return Err(ServeError::NoLog(log.to_owned()));
    }
    let log = log.to_owned();
    listen(address, ready, move |request| {
        let answer = answer(&log, &request);
        async move { answer }
    })
}

/// Answers every request at `address` by `handle`, until the process ends.
pub(super) fn listen<H, A>(
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
    handle: H,
) -> Result<(), ServeError>
where
    H: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send,
{
    let failed = |source| ServeError::Listen { address, source };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        ready(listener.local_addr().map_err(failed)?);
        accept(&listener, handle).await;
        Ok(())
    })
}

async fn accept<H, A>(listener: &TcpListener, handle: H)
where
    H: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Response<Full<Bytes>>> + Send,
{
    let slots = std::sync::Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others must end first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let handle = handle.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handle(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            // A client that breaks off harms nobody.
            drop(connection.await);
            drop(slot);
        });
    }
}

fn answer(log: &Path, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let path = request.uri().path().trim_start_matches('/');
    let (kind, caching) = match (path, TilePath::parse(path)) {
        ("checkpoint", _) => ("text/plain; charset=utf-8", "no-cache"),
        (_, Some(tile)) if tile.is_covered(size(log)) => (
            "application/octet-stream",
            "public, max-age=31536000, immutable",
        ),
        // An append is under way, or died: the next one may write something else there.
        _ => return status(StatusCode::NOT_FOUND),
    };
    match std::fs::read(log.join(path)) {
        Ok(bytes) => {
            let mut response = Response::new(Full::new(Bytes::from(bytes)));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
            response
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => status(StatusCode::NOT_FOUND),
        Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Entries by the checkpoint that stands there now.
fn size(log: &Path) -> u64 {
    let note = std::fs::read_to_string(log.join("checkpoint")).unwrap_or_default();
    SignedCheckpoint::parse(&note).map_or(0, |signed| signed.unverified().size)
}

pub(super) fn status(code: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = code;
    response
}
