//! What went wrong, what to do about it, and the exit code.

use std::fmt::Display;
use std::io;

use attest::{Class, Refusal};
use serde_json::json;

use crate::report;
use crate::terminal::{complain, escape};

/// Exit codes. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Misuse = 1,
    Signature = 2,
    Collateral = 3,
    Policy = 4,
    Log = 5,
    Network = 6,
}

impl Exit {
    /// The name in JSON. Stable.
    fn name(self) -> &'static str {
        match self {
            Self::Misuse => "misuse",
            Self::Signature => "signature",
            Self::Collateral => "collateral",
            Self::Policy => "policy",
            Self::Log => "log",
            Self::Network => "network",
        }
    }
}

/// A failure as the person sees it: one line, and a hint where there is one. Holds no prompt.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Display) -> Self {
        Self {
            exit,
            message: message.to_string(),
            hint: None,
        }
    }

    pub(crate) fn misuse(message: impl Display) -> Self {
        Self::new(Exit::Misuse, message)
    }

    pub(crate) fn network(message: impl Display) -> Self {
        Self::new(Exit::Network, message)
    }

    pub(crate) fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    pub(crate) fn refused(verdict: &str, refusal: &Refusal) -> Self {
        let exit = match refusal.class() {
            Class::Signature => Exit::Signature,
            Class::Collateral => Exit::Collateral,
            Class::Policy => Exit::Policy,
            Class::Log => Exit::Log,
        };
        Self::new(exit, format_args!("{verdict}: {refusal}")).hint(refusal.hint())
    }

    pub(crate) fn code(&self) -> u8 {
        self.exit as u8
    }

    /// To standard error; with `json`, as an object to standard output as well.
    pub(crate) fn print(&self, json: bool) {
        complain(&format!("cloister: {}", escape(&self.message)));
        if let Some(hint) = &self.hint {
            complain(&format!("  hint: {}", escape(hint)));
        }
        if json {
            // It failed already, and standard error said so.
            drop(report::print_json(&json!({
                "schema": report::SCHEMA,
                "verified": false,
                "failure": {
                    "class": self.exit.name(),
                    "message": self.message,
                    "hint": self.hint,
                },
                "exit_code": self.code(),
            })));
        }
    }
}

/// Why a file operation failed, without the system's numbers.
pub(crate) fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".to_owned(),
        kind => kind.to_string(),
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::refused("refused, nothing was sent", &refusal)
    }
}

impl Failure {
    /// A peer that was verified is refused within its session.
    pub(crate) fn refused_within(refusal: &Refusal) -> Self {
        Self::refused("refused, the session ended, nothing more was sent", refusal)
    }
}

impl From<carrier::Error> for Failure {
    fn from(error: carrier::Error) -> Self {
        use carrier::Error as E;
        use channel::{HandshakeError, SessionError};
        match error {
            E::NotUpgraded { .. } | E::NotWebSocket => {
                Self::network(format_args!("not a Cloister server: {error}"))
                    .hint("check host and port; a proxy in between must pass WebSockets")
            }
            E::PeerFault => Self::network(error).hint(
                "the server may be full or of another version; its operator's log holds the cause",
            ),
            E::HungUp => Self::network("the server hung up"),
            E::Session(SessionError::Truncated) => {
                Self::network("the server hung up before it was done")
            }
            E::Handshake(HandshakeError::OtherHandshake) => Self::new(
                Exit::Signature,
                format_args!("refused, nothing was sent: {error}"),
            ),
            E::Handshake(_) | E::Message => Self::network(error)
                .hint("the server speaks another version, or the connection was tampered with"),
            error => Self::network(error),
        }
    }
}
