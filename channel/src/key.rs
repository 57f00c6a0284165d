//! The server's static key: made in the VM, counted, replaced in time, wiped.

use core::fmt;

use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use zeroize::Zeroizing;

use crate::{Entropy, HandshakeError, Moment};

/// Handshakes that one static key may serve.
pub const STATIC_KEY_MAX_SESSIONS: u32 = 1_000;
/// Age at which a static key is replaced: 24 hours.
pub const STATIC_KEY_MAX_AGE_MS: u64 = 24 * 60 * 60 * 1000;

/// Why a static key is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It served [`STATIC_KEY_MAX_SESSIONS`].
    Sessions,
    /// It is [`STATIC_KEY_MAX_AGE_MS`] old.
    Age,
}

impl fmt::Display for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sessions => write!(f, "it served {STATIC_KEY_MAX_SESSIONS} handshakes"),
            Self::Age => f.write_str("it is 24 hours old"),
        }
    }
}

/// An X25519 key pair that knows when it has served enough.
pub struct StaticKey {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
    born: Moment,
    sessions: u32,
}

impl StaticKey {
    /// Makes a key.
    pub fn generate(entropy: Entropy, now: Moment) -> Result<Self, HandshakeError> {
        let private = entropy.take::<0, 32>();
        let mut dh = DefaultResolver
            .resolve_dh(&DHChoice::Curve25519)
            .ok_or(HandshakeError::Noise)?;
        dh.set(private.as_ref());
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        Ok(Self {
            private,
            public,
            born: now,
            sessions: 0,
        })
    }

    /// The public half, which evidence binds.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// Says why the key must be replaced now; a handshake with such a key is refused.
    pub fn due(&self, now: Moment) -> Option<Rotation> {
        if self.sessions >= STATIC_KEY_MAX_SESSIONS {
            Some(Rotation::Sessions)
        } else if now.since(self.born) >= STATIC_KEY_MAX_AGE_MS {
            Some(Rotation::Age)
        } else {
            None
        }
    }

    /// Counts one handshake and gives the private half to it.
    pub(crate) fn serve(&mut self, now: Moment) -> Result<&[u8; 32], HandshakeError> {
        if let Some(rotation) = self.due(now) {
            return Err(HandshakeError::StaticKeyDue(rotation));
        }
        self.sessions += 1;
        Ok(&self.private)
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StaticKey")
            .field("sessions", &self.sessions)
            .finish_non_exhaustive()
    }
}
