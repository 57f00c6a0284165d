//! TCP, and TLS where the URL asks for it. Neither is relied on: the channel inside is.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::endpoint::Endpoint;
use crate::failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection, with TLS or without.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) async fn connect(endpoint: &Endpoint) -> Result<Box<dyn Stream>, Failure> {
    let tcp = timeout(CONNECT_TIMEOUT, tcp(endpoint))
        .await
        .map_err(|_| timed_out(endpoint))??;
    // Without it, small records would wait for each other; the connection works either way.
    drop(tcp.set_nodelay(true));
    if !endpoint.tls {
        return Ok(Box::new(tcp));
    }
    let tls = timeout(CONNECT_TIMEOUT, tls(endpoint, tcp))
        .await
        .map_err(|_| timed_out(endpoint))??;
    Ok(Box::new(tls))
}

async fn tcp(endpoint: &Endpoint) -> Result<TcpStream, Failure> {
    let host = &endpoint.host;
    let addresses: Vec<_> = lookup_host((host.as_str(), endpoint.port))
        .await
        .map_err(|_| {
            Failure::network(format_args!("the host name {host} cannot be resolved"))
                .hint("check its spelling, and your network")
        })?
        .collect();
    TcpStream::connect(addresses.as_slice())
        .await
        .map_err(|error| refused(endpoint, &error))
}

fn refused(endpoint: &Endpoint, error: &io::Error) -> Failure {
    let authority = endpoint.authority();
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            Failure::network(format_args!("nothing listens at {authority}"))
                .hint("check host and port; the server may still be booting")
        }
        io::ErrorKind::TimedOut => timed_out(endpoint),
        kind => Failure::network(format_args!("cannot connect to {authority}: {kind}")),
    }
}

fn timed_out(endpoint: &Endpoint) -> Failure {
    let authority = endpoint.authority();
    Failure::network(format_args!("{authority} does not answer: timed out"))
        .hint("a firewall may drop the connection")
}

async fn tls(
    endpoint: &Endpoint,
    tcp: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let host = &endpoint.host;
    let name = ServerName::try_from(host.clone())
        .map_err(|_| Failure::misuse(format_args!("{host} is no name that TLS can check")))?;
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::network(format_args!("TLS: {error}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .map_err(|error| not_tls(endpoint, &error))
}

fn not_tls(endpoint: &Endpoint, error: &io::Error) -> Failure {
    let authority = endpoint.authority();
    let failure = match error.get_ref().and_then(|e| e.downcast_ref()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            Failure::network(format_args!("{authority} does not speak TLS"))
        }
        Some(cause) => Failure::network(format_args!("TLS with {authority}: {cause}")),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Failure::network(format_args!("{authority} hung up in the TLS handshake"))
        }
        None => Failure::network(format_args!("TLS with {authority}: {}", error.kind())),
    };
    failure.hint("for a server without TLS write http://; the channel protects itself")
}
