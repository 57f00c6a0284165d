//! The randomness of one handshake, drawn in one place and handed in.

use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::error::NoEntropy;

/// 128 secret random bytes, for one handshake or one static key. Not `Clone`, used by value: no
/// two handshakes share it.
pub struct Entropy {
    bytes: Zeroizing<[u8; 128]>,
}

impl Entropy {
    /// Draws from the operating system, or the browser.
    pub fn from_os() -> Result<Self, NoEntropy> {
        let mut bytes = Zeroizing::new([0; 128]);
        getrandom::fill(bytes.as_mut()).map_err(|_| NoEntropy)?;
        Ok(Self { bytes })
    }

    /// Takes bytes of the caller. Whoever repeats or guesses them reads the session: for test
    /// vectors, and for machines whose random source stands elsewhere.
    pub fn from_bytes(bytes: [u8; 128]) -> Self {
        Self {
            bytes: Zeroizing::new(bytes),
        }
    }

    /// The secret at `AT`. Each handshake role uses disjoint ranges.
    pub(crate) fn take<const AT: usize, const N: usize>(&self) -> Zeroizing<[u8; N]> {
        let mut out = Zeroizing::new([0; N]);
        out.copy_from_slice(&self.bytes[AT..AT + N]);
        out
    }
}

/// snow's own primitives with our randomness: 32 bytes for the ephemeral key, then nothing.
pub(crate) struct Resolver {
    pub(crate) ephemeral: Zeroizing<[u8; 32]>,
}

struct Once(Option<Zeroizing<[u8; 32]>>);

impl Random for Once {
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), snow::Error> {
        let secret = self.0.take().ok_or(snow::Error::Rng)?;
        if out.len() != secret.len() {
            return Err(snow::Error::Rng);
        }
        out.copy_from_slice(secret.as_ref());
        Ok(())
    }
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Once(Some(self.ephemeral.clone()))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}
