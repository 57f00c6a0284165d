//! What the agent tells the journal: a closed list of events, none with content.
//!
//! No global logger is ever installed, so no library's log line can leave the process. An event
//! holds numbers, fixed words and typed errors, never text that came through the channel.

use std::fmt;
use std::net::SocketAddr;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;

use log::{Level, Log, Record};
use systemd_journal_logger::JournalLog;

use crate::cause::Cause;
use crate::collateral::CollateralError;
use crate::evidence::EvidenceError;
use crate::evidence::tsm::Provider;
use crate::inside::ChannelError;
use crate::prepare::ReleaseFault;

/// Everything that the agent ever says.
#[derive(Debug)]
pub enum Event<'a> {
    /// The model volume is mapped and mounted.
    VolumeMounted {
        /// `verity1:…`, from the measured configuration.
        volume: &'a str,
    },
    /// The firmware's event log was copied for the unprivileged server.
    EventLogCopied {
        /// Its size.
        bytes: usize,
    },
    /// A release bundle was copied from its partition.
    ReleaseCopied {
        /// Its size.
        bytes: usize,
    },
    /// No usable release partition: clients must bring the bundle themselves.
    ReleaseAbsent {
        /// Why.
        reason: &'a ReleaseFault,
    },
    /// The engine holds the model.
    ModelOpened {
        /// Number of weights.
        parameters: u64,
        /// The context in force.
        context_tokens: u32,
        /// How long it took.
        elapsed_ms: u128,
    },
    /// The attestation key is there and its certificate was read.
    AttestationReady,
    /// The kernel makes reports of the platform.
    ReportsReady {
        /// Which platform.
        provider: Provider,
    },
    /// What clients need of AMD or Intel is at hand.
    CollateralKept {
        /// How much of it was fetched just now.
        fetched: usize,
        /// When it is looked at again.
        again: Duration,
    },
    /// It is not, or is getting old. The agent serves with what there is.
    CollateralFailed {
        /// Why.
        error: &'a CollateralError,
        /// When it is tried again.
        again: Duration,
    },
    /// Connections are accepted from now on.
    Serving {
        /// Where.
        address: SocketAddr,
    },
    /// A new static key took the old one's place.
    KeyRotated {
        /// Why.
        reason: channel::Rotation,
    },
    /// A handshake did not come to a session.
    HandshakeFailed {
        /// Why.
        error: &'a ChannelError,
    },
    /// No evidence could be made.
    EvidenceFailed {
        /// Why.
        error: &'a EvidenceError,
    },
    /// No connection could be accepted.
    AcceptFailed {
        /// The operating system's reason.
        error: std::io::ErrorKind,
    },
    /// The service manager asked to stop.
    Stopping,
    /// A bug. Its message is withheld, as it may hold content.
    Panicked {
        /// Source file.
        file: &'a str,
        /// Line.
        line: u32,
    },
}

impl Event<'_> {
    fn level(&self) -> Level {
        match self {
            Self::Panicked { .. } => Level::Error,
            Self::HandshakeFailed { .. }
            | Self::EvidenceFailed { .. }
            | Self::CollateralFailed { .. }
            | Self::AcceptFailed { .. } => Level::Warn,
            _ => Level::Info,
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VolumeMounted { volume } => write!(f, "model volume {volume} mounted"),
            Self::EventLogCopied { bytes } => write!(f, "event log copied, {bytes} bytes"),
            Self::ReleaseCopied { bytes } => write!(f, "release bundle copied, {bytes} bytes"),
            Self::ReleaseAbsent { reason } => write!(f, "no release bundle: {}", Cause(*reason)),
            Self::ModelOpened {
                parameters,
                context_tokens,
                elapsed_ms,
            } => write!(
                f,
                "model opened: {parameters} parameters, context of {context_tokens} tokens, \
                 {elapsed_ms} ms"
            ),
            Self::AttestationReady => f.write_str("attestation key ready"),
            Self::ReportsReady { provider } => write!(f, "reports are made by {provider}"),
            Self::CollateralKept { fetched, again } => write!(
                f,
                "collateral is at hand, {fetched} fetched; again in {} s",
                again.as_secs()
            ),
            Self::CollateralFailed { error, again } => write!(
                f,
                "collateral: {}; again in {} s",
                Cause(*error),
                again.as_secs()
            ),
            Self::Serving { address } => write!(f, "serving on {address}"),
            Self::KeyRotated { reason } => write!(f, "static key replaced: {reason}"),
            Self::HandshakeFailed { error } => write!(f, "handshake failed: {}", Cause(*error)),
            Self::EvidenceFailed { error } => write!(f, "no evidence made: {}", Cause(*error)),
            Self::AcceptFailed { error } => write!(f, "cannot accept connections: {error}"),
            Self::Stopping => f.write_str("stopping"),
            Self::Panicked { file, line } => write!(f, "internal fault at {file}:{line}"),
        }
    }
}

/// Where events go: the systemd journal or, where there is none, standard error.
#[derive(Clone)]
pub struct Journal(Arc<Sink>);

enum Sink {
    Systemd(JournalLog),
    StandardError,
}

impl Journal {
    /// Finds the journal.
    pub fn open() -> Self {
        let journal = JournalLog::new().map(|log| log.with_syslog_identifier(crate::NAME.into()));
        Self(Arc::new(journal.map_or(Sink::StandardError, Sink::Systemd)))
    }

    /// Standard error, whatever else there is.
    pub fn standard_error() -> Self {
        Self(Arc::new(Sink::StandardError))
    }

    /// Says that something happened.
    pub fn tell(&self, event: &Event<'_>) {
        match &*self.0 {
            Sink::Systemd(journal) => {
                let mut record = Record::builder();
                let record = record.level(event.level()).target(crate::NAME);
                journal.log(&record.args(format_args!("{event}")).build());
            }
            Sink::StandardError => eprintln!("{}: {event}", crate::NAME),
        }
    }

    /// Has a panic tell its place and nothing else.
    pub fn report_panics(&self) {
        let journal = self.clone();
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            let place = panic
                .location()
                .map_or(("?", 0), |at| (at.file(), at.line()));
            journal.tell(&Event::Panicked {
                file: place.0,
                line: place.1,
            });
        }));
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}
