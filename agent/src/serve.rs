//! `cloister-agent serve`: from a configuration to an open port.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attest::configuration::{Limits, Proxy};
use attest::eventlog::MAX_EVENT_LOG_BYTES;
use attest::release::MAX_BUNDLE_BYTES;
use attest::{Configuration, Digest, PlatformKind};
use carrier::Clock;
use inference::{Engine, EngineLimits, LoadError};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use crate::api::{self, Api};
use crate::collateral::{self, Stock};
use crate::evidence::nvml::Gpus;
use crate::evidence::tsm::{ConfigFs, PREPARED, Provider, Tsm};
use crate::evidence::{Attester, Constants, EvidenceError, Owner};
use crate::journal::{Event, Journal};
use crate::keys::{KeyError, Keys};
use crate::metrics::Metrics;
use crate::server::Server;
use crate::site::{self, Places, SiteError};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// Threads for connections; the engine has its own.
const WORKER_THREADS: usize = 2;
/// How long open connections may finish after the order to stop.
const FAREWELL: Duration = Duration::from_secs(2);
/// Hexadecimal digits of the configuration's digest in `system_fingerprint`.
const FINGERPRINT_DIGITS: usize = 12;

/// Why the server does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file is not usable.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// Another program has the port.
    #[error("port {} is in use: stop what listens there, or configure another", .0.port())]
    PortInUse(SocketAddr),
    /// The address cannot be had for another reason.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The model does not load.
    #[error("cannot open the model")]
    Model(#[from] LoadError),
    /// The TPM gives no evidence.
    #[error("cannot prove what this machine is")]
    Evidence(#[from] EvidenceError),
    /// This agent has no source of such evidence.
    #[error("evidence of {} cannot be had by this agent", .0.as_str())]
    Platform(PlatformKind),
    /// No key can be made.
    #[error("cannot make a key")]
    Keys(#[from] KeyError),
    /// The operating system gives no threads or signals.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
}

/// Serves until the service manager asks to stop.
pub fn serve(places: &Places, journal: &Journal) -> Result<(), ServeError> {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(WORKER_THREADS).enable_all().build();
    let runtime = runtime.map_err(ServeError::Runtime)?;
    let outcome = runtime.block_on(boot(places, journal));
    runtime.shutdown_timeout(FAREWELL);
    outcome
}

async fn boot(places: &Places, journal: &Journal) -> Result<(), ServeError> {
    let (configuration, bytes) = site::read_configuration(&places.configuration)?;
    let socket = reserve(SocketAddr::new(places.listen, configuration.server.port))?;
    let engine = open_model(places, &configuration.limits, journal)?;
    let attester = open_attester(&configuration, places, bytes, journal)?;
    if let Proxy::Http(proxy) = configuration.proxy() {
        let keeping = collateral::keep(attester.clone(), proxy, journal.clone());
        drop(tokio::spawn(keeping));
    }
    let clock = Clock::start();
    let keys = Keys::generate(clock.now(), journal.clone())?;
    let api = make_api(&configuration, engine, &attester);
    let limits = &configuration.limits;
    let server = Server::new(api, attester, (keys, clock), limits, journal.clone());
    let listener = listen(socket, journal)?;
    let stop = stop_signal()?;
    server.run(listener, places.metrics_interval, stop).await;
    journal.tell(&Event::Stopping);
    Ok(())
}

/// Opens the model as [`serve`] would, and nothing else.
pub fn check(places: &Places) -> Result<(), ServeError> {
    let (configuration, _) = site::read_configuration(&places.configuration)?;
    Engine::open(&places.model, engine_limits(&configuration.limits))?;
    Ok(())
}

fn open_model(places: &Places, limits: &Limits, journal: &Journal) -> Result<Engine, ServeError> {
    let begun = Instant::now();
    let engine = Engine::open(&places.model, engine_limits(limits))?;
    journal.tell(&Event::ModelOpened {
        parameters: engine.info().parameters,
        context_tokens: engine.info().context_tokens,
        elapsed_ms: begun.elapsed().as_millis(),
    });
    Ok(engine)
}

fn engine_limits(limits: &Limits) -> EngineLimits {
    EngineLimits {
        context_tokens: limits.context_tokens,
        max_new_tokens: limits.max_new_tokens,
        ..EngineLimits::default()
    }
}

/// The measured configuration names the platform; none that happens to be there takes its place.
fn open_attester(
    configured: &Configuration,
    places: &Places,
    configuration: Vec<u8>,
    journal: &Journal,
) -> Result<Attester, ServeError> {
    let event_log = site::read_bounded(&places.event_log, MAX_EVENT_LOG_BYTES)?;
    let release = site::read_if_present(&places.release, MAX_BUNDLE_BYTES)?.unwrap_or_default();
    let constants = Constants {
        configuration,
        event_log,
        release,
        proxy: configured.proxy(),
        stock: Stock::default(),
    };
    let tree = || Box::new(ConfigFs(places.tsm.clone()));
    let tsm = |provider| Tsm::new(tree(), provider).in_folder(PREPARED);
    let attester = match configured.platform() {
        PlatformKind::Snp => Attester::open_tsm(tsm(Provider::SevGuest), constants)?,
        PlatformKind::Tdx => Attester::open_tsm(tsm(Provider::TdxGuest), constants)?,
        platform => Attester::open_as(owner(platform)?, places.tpm.clone(), constants)?,
    };
    let gpus = Gpus::load(&places.nvml, configured.devices()).map_err(EvidenceError::from)?;
    let attester = attester.with_gpus(gpus);
    journal.tell(&Event::AttestationReady);
    Ok(attester)
}

/// Whose TPM it is. Azure gives quotes of TDX through a service of its own, which nobody asks here.
fn owner(platform: PlatformKind) -> Result<Owner, ServeError> {
    match platform {
        PlatformKind::Tpm => Ok(Owner::Own),
        PlatformKind::AzureSnp => Ok(Owner::Azure),
        PlatformKind::GoogleVtpm => Ok(Owner::Google),
        other => Err(ServeError::Platform(other)),
    }
}

fn make_api(configuration: &Configuration, engine: Engine, attester: &Attester) -> Api {
    let fingerprint = Digest(attester.configuration_digest()).to_string();
    Api {
        engine: Arc::new(engine),
        tokenising: Arc::new(Semaphore::new(WORKER_THREADS)),
        metrics: Arc::new(Metrics::default()),
        slots: engine_limits(&configuration.limits).max_active,
        model: configuration.model.name.to_string(),
        fingerprint: format!("fp_{}", &fingerprint[..FINGERPRINT_DIGITS]),
        opened: api::unix_time(),
        max_body_bytes: configuration.limits.max_body_bytes.into(),
        max_new_tokens: configuration.limits.max_new_tokens,
    }
}

/// Takes the address before the model loads: a port in use is known at once. Nobody is let in yet.
fn reserve(address: SocketAddr) -> Result<TcpSocket, ServeError> {
    let bind = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bind().map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortInUse(address),
        _ => ServeError::Listen { address, source },
    })
}

fn listen(socket: TcpSocket, journal: &Journal) -> Result<TcpListener, ServeError> {
    let address = socket.local_addr().map_err(ServeError::Runtime)?;
    let listener = socket
        .listen(BACKLOG)
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::PortInUse(address),
            _ => ServeError::Listen { address, source },
        })?;
    journal.tell(&Event::Serving { address });
    Ok(listener)
}

/// Ready once the service manager, or a person at a terminal, asks to stop.
fn stop_signal() -> Result<impl Future<Output = ()>, ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Runtime)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Runtime)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
