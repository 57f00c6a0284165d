//! A TPM's quote, and every way in which it can be wrong.

use attest::Digest;
use attest::tpm::quote;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha384};

/// The fields of a TPMS_ATTEST.
#[derive(Clone)]
pub struct Quote {
    /// "Made by a TPM".
    pub magic: u32,
    /// What was attested.
    pub kind: u16,
    /// Name of the key that signs.
    pub qualified_signer: Vec<u8>,
    /// Qualifying data.
    pub extra_data: Vec<u8>,
    /// clock, resetCount, restartCount, safe, firmwareVersion.
    pub clock: [u8; 25],
    /// Registers that are covered.
    pub selection: Vec<u8>,
    /// Digest over their values.
    pub pcr_digest: Vec<u8>,
}

impl Quote {
    /// A sound quote over `registers` for `qualifying_data`.
    pub fn new(registers: &[Digest<48>], qualifying_data: &[u8; 48]) -> Self {
        let mut clock = [0x11; 25];
        clock[16] = 1;
        let values: Vec<u8> = registers.iter().flat_map(|value| value.0).collect();
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            qualified_signer: [&[0, 0x0c][..], &[0x22; 48]].concat(),
            extra_data: qualifying_data.to_vec(),
            clock,
            selection: quote::selection().to_vec(),
            pcr_digest: Sha384::digest(values).to_vec(),
        }
    }

    /// TPMS_ATTEST.
    pub fn encode(&self) -> Vec<u8> {
        [
            &self.magic.to_be_bytes()[..],
            &self.kind.to_be_bytes(),
            &sized(&self.qualified_signer),
            &sized(&self.extra_data),
            &self.clock,
            &self.selection,
            &sized(&self.pcr_digest),
        ]
        .concat()
    }
}

/// TPMT_SIGNATURE of `message`.
pub fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    let (r, s) = signature.split_bytes();
    [&[0, 0x18, 0, 0x0c][..], &sized(&r), &sized(&s)].concat()
}

/// TPM2B of `bytes`.
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}
