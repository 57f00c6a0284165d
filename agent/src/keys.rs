//! The static key: made here, kept in memory, replaced in time.

use std::sync::{Mutex, PoisonError};

use channel::{Entropy, HandshakeError, Moment, NoEntropy, StaticKey};

use crate::journal::{Event, Journal};

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system gave no randomness.
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
    /// The key could not be made or used.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// The static key in force. It never leaves this process, and memory that held it is wiped.
#[derive(Debug)]
pub struct Keys {
    current: Mutex<StaticKey>,
    journal: Journal,
}

impl Keys {
    /// Makes the first key.
    pub fn generate(now: Moment, journal: Journal) -> Result<Self, KeyError> {
        Ok(Self {
            current: Mutex::new(fresh(now)?),
            journal,
        })
    }

    /// Uses the key for one handshake; replaces it before, where it is due. Sessions that an older
    /// key began go on: they no longer need it.
    pub fn with<T>(
        &self,
        now: Moment,
        handshake: impl FnOnce(&mut StaticKey) -> Result<T, HandshakeError>,
    ) -> Result<T, KeyError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = current.due(now) {
            *current = fresh(now)?;
            self.journal.tell(&Event::KeyRotated { reason });
        }
        Ok(handshake(&mut current)?)
    }
}

fn fresh(now: Moment) -> Result<StaticKey, KeyError> {
    Ok(StaticKey::generate(Entropy::from_os()?, now)?)
}
