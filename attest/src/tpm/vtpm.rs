//! A quote by the virtual TPM of a cloud: as [`super::quote`] has it, but RSASSA-PKCS1-v1_5 with
//! SHA-256, over the SHA-256 bank, of whichever registers were asked for.
//!
//! ```text
//! TPMT_SIGNATURE  0x0014 ‖ 0x000b ‖ signature 2B
//! selection       1 (4) ‖ 0x000b ‖ 3 (1) ‖ bitmap 3
//! pcrDigest       SHA-256 of the selected values in order
//! ```

use sha2::{Digest as _, Sha256};
use x509_cert::der::Decode as _;
use x509_cert::spki::SubjectPublicKeyInfoOwned;

use super::Register;
use crate::certificate;
use crate::reader::Reader;
use crate::rsa::RsaKey;
use crate::{Digest, Hex};

const GENERATED_BY_TPM: [u8; 4] = 0xff54_4347_u32.to_be_bytes();
const ATTEST_QUOTE: [u8; 2] = 0x8018_u16.to_be_bytes();
const RSASSA: [u8; 2] = 0x0014_u16.to_be_bytes();
const SHA256: [u8; 2] = 0x000b_u16.to_be_bytes();

/// Registers of a bank.
pub const REGISTERS: usize = 24;

/// What a virtual TPM gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VtpmQuote {
    /// TPMS_ATTEST.
    pub attest: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// Values of PCR 0 to 23 in the SHA-256 bank.
    pub registers: [Digest<32>; REGISTERS],
}

/// The key of a virtual TPM.
#[derive(Clone)]
pub struct VtpmKey(pub(crate) RsaKey);

/// Why a quote of a virtual TPM vouches for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VtpmError {
    /// Not a TPMT_SIGNATURE by RSASSA with SHA-256.
    #[error("not a TPM signature by RSASSA with SHA-256")]
    SignatureFormat,
    /// Not signed by the key.
    #[error("the signature is not by the attestation key")]
    Signature,
    /// Not a TPMS_ATTEST of a quote over one bank.
    #[error("not a TPMS_ATTEST structure of a quote over one bank")]
    AttestFormat,
    /// Not made by a TPM as a quote.
    #[error("not a quote that a TPM made itself (wrong magic or type)")]
    NotAQuote,
    /// Made for something else.
    #[error("made for another nonce: {expected} expected, found {found}")]
    Nonce {
        /// What it had to be made for.
        expected: Hex,
        /// What it was made for.
        found: Hex,
    },
    /// Not over the SHA-256 bank.
    #[error("not over registers of the SHA-256 bank")]
    Bank,
    /// The register values that came with the quote are not those that it signs.
    #[error("digest of the register values: {expected} expected, found {found}")]
    Registers {
        /// Digest that the TPM signed.
        expected: Hex,
        /// Digest of the values that came with the quote.
        found: Digest<32>,
    },
}

impl VtpmQuote {
    /// Verifies that `key` signed this quote for `nonce`; gives the registers that it covers.
    pub fn verify(&self, key: &VtpmKey, nonce: &[u8]) -> Result<Vec<Register>, VtpmError> {
        let signature = signature(&self.signature).ok_or(VtpmError::SignatureFormat)?;
        if !key.0.verify_pkcs1(&self.attest, signature) {
            return Err(VtpmError::Signature);
        }
        let attest = Attest::parse(&self.attest).ok_or(VtpmError::AttestFormat)?;
        if attest.magic != GENERATED_BY_TPM || attest.kind != ATTEST_QUOTE {
            return Err(VtpmError::NotAQuote);
        }
        if attest.extra_data != nonce {
            let (expected, found) = (Hex(nonce.into()), Hex(attest.extra_data.into()));
            return Err(VtpmError::Nonce { expected, found });
        }
        if attest.bank != SHA256 {
            return Err(VtpmError::Bank);
        }
        let bits = u32::from_le_bytes(attest.bitmap);
        let mut hash = Sha256::new();
        let mut covered = Vec::new();
        for (number, value) in (0..).zip(&self.registers) {
            if bits >> number & 1 != 0 {
                hash.update(value);
                covered.push(Register(number));
            }
        }
        let found = Digest(hash.finalize().into());
        if attest.pcr_digest != found.0 {
            let expected = Hex(attest.pcr_digest.into());
            return Err(VtpmError::Registers { expected, found });
        }
        Ok(covered)
    }

    /// The value of a register that is covered.
    #[must_use]
    pub fn value(&self, register: Register) -> Option<Digest<32>> {
        self.registers.get(usize::from(register.0)).copied()
    }
}

struct Attest<'a> {
    magic: [u8; 4],
    kind: [u8; 2],
    extra_data: &'a [u8],
    bank: [u8; 2],
    bitmap: [u8; 4],
    pcr_digest: &'a [u8],
}

impl<'a> Attest<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (magic, kind) = (reader.array()?, reader.array()?);
        let (signer, extra_data) = (reader.tpm2b()?, reader.tpm2b()?);
        let _clock_resets_restarts: [u8; 16] = reader.array()?;
        let [safe] = reader.array()?;
        let _firmware_version: [u8; 8] = reader.array()?;
        let count = u32::from_be_bytes(reader.array()?);
        let bank = reader.array()?;
        let [bytes_of_map] = reader.array()?;
        let [low, middle, high] = reader.array()?;
        let pcr_digest = reader.tpm2b()?;
        let one_bank = (count, bytes_of_map) == (1, 3);
        let complete = one_bank && !signer.is_empty() && reader.is_empty() && safe <= 1;
        complete.then_some(Self {
            magic,
            kind,
            extra_data,
            bank,
            bitmap: [low, middle, high, 0],
            pcr_digest,
        })
    }
}

pub(super) fn signature(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes);
    let known = reader.take(2)? == RSASSA && reader.take(2)? == SHA256;
    let signature = reader.tpm2b()?;
    (known && reader.is_empty()).then_some(signature)
}

impl VtpmKey {
    /// The key in a SubjectPublicKeyInfo in DER form.
    #[must_use]
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let info = SubjectPublicKeyInfoOwned::from_der(der).ok()?;
        certificate::any_rsa_key_in(&info).map(Self)
    }

    /// The key of a modulus and an exponent, big-endian: 2,048 to 4,096 bits, 65,537.
    #[must_use]
    pub fn from_parts(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        RsaKey::from_parts(modulus, exponent).map(Self)
    }
}
