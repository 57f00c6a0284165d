//! The API for a developer at their own machine: no channel, no evidence, no limits of sessions.
//! Only `cloister-inference` calls it, which is not in the image.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use inference::{Engine, EngineLimits, LoadError, Model};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::api::{self, Api};
use crate::metrics::Metrics;

const MAX_CONTEXT: u32 = 8192;
const MAX_BODY_BYTES: u64 = 16 << 20;
const WORKER_THREADS: usize = 2;

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
pub enum InsecureError {
    /// The model cannot be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The port cannot be had, or a connection cannot be taken.
    #[error("cannot listen")]
    Listen(#[from] io::Error),
}

/// Serves on 127.0.0.1, until it is stopped.
pub fn serve(model: &Path, port: u16, threads: Option<NonZeroUsize>) -> Result<(), InsecureError> {
    let context_tokens = Model::open(model, threads)?
        .context_tokens()
        .min(MAX_CONTEXT);
    let limits = EngineLimits {
        context_tokens,
        max_new_tokens: context_tokens,
        kv_bytes: 4 << 30,
        threads,
        ..EngineLimits::default()
    };
    let name = model
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let api = Arc::new(Api {
        slots: limits.max_active,
        engine: Arc::new(Engine::open(model, limits)?),
        metrics: Arc::new(Metrics::default()),
        tokenising: Arc::new(Semaphore::new(WORKER_THREADS)),
        model: name.unwrap_or_else(|| "model".to_owned()),
        fingerprint: "insecure".to_owned(),
        opened: api::unix_time(),
        max_body_bytes: MAX_BODY_BYTES,
        max_new_tokens: context_tokens,
    });
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()?;
    runtime.block_on(accept(api, SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
}

async fn accept(api: Arc<Api>, address: SocketAddr) -> Result<(), InsecureError> {
    let listener = TcpListener::bind(address).await?;
    eprintln!(
        "insecure: http://{}/v1, model {}",
        listener.local_addr()?,
        api.model
    );
    loop {
        let (stream, _) = listener.accept().await?;
        let api = api.clone();
        tokio::spawn(async move {
            let client = api.engine.client();
            let service = service_fn(|request| {
                let (api, client) = (api.clone(), client.clone());
                async move { Ok::<_, Infallible>(api.respond(request, client).await) }
            });
            // Whoever leaves in the middle is no event.
            drop(
                http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}
