//! A witness over HTTP: `POST /add-checkpoint`, and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use attest::UnixTime;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::super::serve::{ServeError, listen, status};
use super::request::MAX_REQUEST_BYTES;
use super::service::{Declined, Service};

/// Longest wait for a request's body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// What a size is sent as.
pub const SIZE_TYPE: &str = "text/x.tlog.size";

/// Serves a witness at `address` until the process ends; says by `ready` where.
pub fn run(
    service: Service,
    address: SocketAddr,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let service = Arc::new(service);
    listen(address, ready, move |request| {
        answer(Arc::clone(&service), request)
    })
}

async fn answer(service: Arc<Service>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if request.uri().path() != "/add-checkpoint" {
        return status(StatusCode::NOT_FOUND);
    }
    if request.method() != Method::POST {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let body = Limited::new(request.into_body(), MAX_REQUEST_BYTES).collect();
    let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
        Err(_) => return status(StatusCode::REQUEST_TIMEOUT),
        Ok(Err(_)) => return status(StatusCode::BAD_REQUEST),
        Ok(Ok(body)) => body.to_bytes(),
    };
    // Remembering waits for the disk.
    let judged = tokio::task::spawn_blocking(move || {
        let seconds = SystemTime::UNIX_EPOCH.elapsed();
        let now = UnixTime::from_secs(seconds.unwrap_or_default().as_secs());
        service.add_checkpoint(&body, now)
    });
    match judged.await {
        Ok(Ok(line)) => Response::new(Full::new(Bytes::from(line))),
        Ok(Err(declined)) => decline(&declined),
        Err(_) => status(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn decline(declined: &Declined) -> Response<Full<Bytes>> {
    let mut response = status(match declined {
        Declined::Malformed | Declined::Backwards { .. } => StatusCode::BAD_REQUEST,
        Declined::Unknown => StatusCode::NOT_FOUND,
        Declined::Unsigned => StatusCode::FORBIDDEN,
        Declined::Conflict { .. } => StatusCode::CONFLICT,
        Declined::Inconsistent => StatusCode::UNPROCESSABLE_ENTITY,
        Declined::Memory(error) => {
            eprintln!("error: nothing signed: {error}");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    });
    if let Declined::Conflict { signed } = declined {
        *response.body_mut() = Full::new(Bytes::from(format!("{signed}\n")));
        let kind = HeaderValue::from_static(SIZE_TYPE);
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
