//! One request through the proxy, in plain HTTP/1.1, bounded in time and size.
//!
//! ```text
//! GET https://kdsintf.amd.com/… HTTP/1.1      absolute, as proxies are asked (RFC 9112, 3.2.2)
//! Host: kdsintf.amd.com
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use attest::supply::Request as Wanted;
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT_ENCODING, CONNECTION, HOST, RETRY_AFTER};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::schedule::LONGEST_PAUSE;

/// From the connection to the last byte.
#[cfg(not(test))]
const PATIENCE: Duration = Duration::from_secs(30);
#[cfg(test)]
const PATIENCE: Duration = Duration::from_secs(3);
/// Status line and headers; Intel sends certificates in one.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 64;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The proxy is not there.
    #[error("the proxy cannot be reached")]
    Connect(#[source] io::Error),
    /// It took too long.
    #[error("no whole answer within {} s", PATIENCE.as_secs_f32())]
    Slow,
    /// It does not speak HTTP, or hung up.
    #[error("the answer is no HTTP")]
    Http(#[source] hyper::Error),
    /// The answer's body ends early, or not at all.
    #[error("the answer breaks off")]
    Body,
    /// More than such an answer has.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// It does not want to, or not now.
    #[error("status {status}")]
    Status {
        /// What it says.
        status: StatusCode,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
}

impl FetchError {
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The answer's body, and the header that names who signed it.
pub(super) async fn fetch(
    proxy: SocketAddr,
    wanted: &Wanted,
) -> Result<(Bytes, Option<String>), FetchError> {
    let fetched = tokio::time::timeout(PATIENCE, exchange(proxy, wanted)).await;
    fetched.map_err(|_| FetchError::Slow)?
}

async fn exchange(
    proxy: SocketAddr,
    wanted: &Wanted,
) -> Result<(Bytes, Option<String>), FetchError> {
    let stream = TcpStream::connect(proxy)
        .await
        .map_err(FetchError::Connect)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(FetchError::Http)?;
    // Ends with this function, however that ends.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let response = sender
        .send_request(request(&wanted.url)?)
        .await
        .map_err(FetchError::Http)?;
    take(response, wanted).await
}

/// The URLs are ours: that one does not parse cannot happen, and then nothing is asked.
fn request(url: &str) -> Result<Request<Empty<Bytes>>, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Body)?;
    let host = uri.host().unwrap_or_default().to_owned();
    Request::get(uri)
        .header(HOST, host)
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .map_err(|_| FetchError::Body)
}

async fn take(
    response: Response<Incoming>,
    wanted: &Wanted,
) -> Result<(Bytes, Option<String>), FetchError> {
    let status = response.status();
    if status != StatusCode::OK {
        let retry_after = retry_after(&response);
        return Err(FetchError::Status {
            status,
            retry_after,
        });
    }
    let name = wanted.item.signer_header();
    let header = name.and_then(|name| response.headers().get(name));
    let signer = header.and_then(|value| Some(value.to_str().ok()?.to_owned()));
    let limit = wanted.item.max_bytes();
    let body = Limited::new(response.into_body(), limit).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => FetchError::TooLarge(limit),
        false => FetchError::Body,
    })?;
    Ok((body.to_bytes(), signer))
}

/// In seconds. A date counts as our own longest pause: clocks differ.
fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?;
    let seconds = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    Some(seconds.map_or(LONGEST_PAUSE, Duration::from_secs))
}
