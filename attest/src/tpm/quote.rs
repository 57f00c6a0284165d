//! A TPM's quote (Trusted Platform Module Library, part 2, sections 10.12 and 11.3; big-endian).
//!
//! ```text
//! TPMS_ATTEST     magic 4 ‖ type 2 ‖ qualifiedSigner 2B ‖ extraData 2B
//!                 ‖ clock 8 ‖ resetCount 4 ‖ restartCount 4 ‖ safe 1 ‖ firmwareVersion 8
//!                 ‖ one selection: count 4 ‖ bank 2 ‖ size 1 ‖ bitmap 3 ‖ pcrDigest 2B
//! TPMT_SIGNATURE  algorithm 2 ‖ hash 2 ‖ r 2B ‖ s 2B                    (2B: length 2 ‖ bytes)
//! ```
//!
//! The signature covers TPMS_ATTEST. Nothing may follow the last field of either.

use p384::ecdsa::signature::Verifier as _;
use p384::ecdsa::{Signature, VerifyingKey};
use sha2::{Sha256, Sha384};

use super::vtpm::{self, VtpmKey};
use super::{QUOTED, TpmEvidence};
use crate::reader::Reader;
use crate::{Digest, Hex};

const GENERATED_BY_TPM: [u8; 4] = 0xff54_4347_u32.to_be_bytes();
const ATTEST_QUOTE: [u8; 2] = 0x8018_u16.to_be_bytes();
const ECDSA: [u8; 2] = 0x0018_u16.to_be_bytes();
const SHA384: [u8; 2] = 0x000c_u16.to_be_bytes();
const SCALAR_BYTES: usize = 48;

/// Why a quote vouches for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuoteError {
    /// Not a TPMT_SIGNATURE by ECDSA with SHA-384.
    #[error("not a TPM signature by ECDSA with SHA-384")]
    SignatureFormat,
    /// Not a TPMT_SIGNATURE by RSASSA with SHA-256, as clouds' virtual TPMs sign.
    #[error("not a TPM signature by RSASSA with SHA-256")]
    VirtualSignatureFormat,
    /// Not signed by the certified key.
    #[error("the signature is not by the certified attestation key")]
    Signature,
    /// Not a TPMS_ATTEST.
    #[error("not a TPMS_ATTEST structure")]
    AttestFormat,
    /// Not made by a TPM as a quote.
    #[error("not a quote that a TPM made itself (wrong magic or type)")]
    NotAQuote,
    /// The name of the key that signed is missing.
    #[error("the qualified name of the signing key is missing")]
    QualifiedSigner,
    /// Made for another handshake or nonce.
    #[error(
        "made for another handshake or nonce: qualifying data {expected} expected, found {}",
        hex::encode(found)
    )]
    QualifyingData {
        /// SHA-384 of the report data of this handshake or nonce.
        expected: Digest<48>,
        /// What the quote holds.
        found: Box<[u8]>,
    },
    /// Not over exactly the registers 0 to 9 and 11 to 15 of the SHA-384 bank.
    #[error("not over exactly PCR 0-9 and 11-15 of the SHA-384 bank")]
    Selection,
    /// The register values that came with the quote are not those that it signs.
    #[error("digest of the register values: {expected} expected, found {found}")]
    Registers {
        /// Digest that the TPM signed.
        expected: Hex,
        /// Digest of the values that came with the quote.
        found: Hex,
    },
}

/// Verifies that `key` signed a quote over the registers in `evidence` for `qualifying_data`.
pub fn verify(
    evidence: &TpmEvidence,
    key: &VerifyingKey,
    qualifying_data: &[u8; 48],
) -> Result<(), QuoteError> {
    let signature = parse_signature(&evidence.signature).ok_or(QuoteError::SignatureFormat)?;
    key.verify(&evidence.attest, &signature)
        .map_err(|_| QuoteError::Signature)?;
    check_signed(evidence, qualifying_data, &registers_digest::<Sha384>)
}

/// Verifies the same of a cloud's virtual TPM, whose RSA key signs by RSASSA-PKCS1-v1_5 with
/// SHA-256: then the digest of the registers is SHA-256, though they are of the SHA-384 bank.
pub fn verify_virtual(
    evidence: &TpmEvidence,
    key: &VtpmKey,
    qualifying_data: &[u8; 48],
) -> Result<(), QuoteError> {
    let signature =
        vtpm::signature(&evidence.signature).ok_or(QuoteError::VirtualSignatureFormat)?;
    if !key.0.verify_pkcs1(&evidence.attest, signature) {
        return Err(QuoteError::Signature);
    }
    check_signed(evidence, qualifying_data, &registers_digest::<Sha256>)
}

/// What the key signed is a quote for `qualifying_data`, over these registers.
fn check_signed(
    evidence: &TpmEvidence,
    qualifying_data: &[u8; 48],
    registers_digest: &dyn Fn(&[Digest<48>]) -> Hex,
) -> Result<(), QuoteError> {
    let attest = Attest::parse(&evidence.attest).ok_or(QuoteError::AttestFormat)?;
    if attest.magic != GENERATED_BY_TPM || attest.kind != ATTEST_QUOTE {
        return Err(QuoteError::NotAQuote);
    }
    if attest.qualified_signer.is_empty() {
        return Err(QuoteError::QualifiedSigner);
    }
    if attest.extra_data != qualifying_data {
        return Err(QuoteError::QualifyingData {
            expected: Digest(*qualifying_data),
            found: attest.extra_data.into(),
        });
    }
    if attest.selection != selection() {
        return Err(QuoteError::Selection);
    }
    let (expected, found) = (
        Hex(attest.pcr_digest.into()),
        registers_digest(&evidence.registers),
    );
    if expected == found {
        Ok(())
    } else {
        Err(QuoteError::Registers { expected, found })
    }
}

/// TPML_PCR_SELECTION of the [`QUOTED`] registers: what a quote must be asked for.
#[must_use]
pub fn selection() -> [u8; 10] {
    let bits = QUOTED
        .iter()
        .fold(0u32, |bits, register| bits | 1 << register);
    let [low, middle, high, _] = bits.to_le_bytes();
    [0, 0, 0, 1, SHA384[0], SHA384[1], 3, low, middle, high]
}

/// The digest that a quote holds: over the values in order.
fn registers_digest<H: sha2::Digest>(registers: &[Digest<48>]) -> Hex {
    let mut hash = H::new();
    registers.iter().for_each(|value| hash.update(value));
    Hex(hash.finalize().as_slice().into())
}

struct Attest<'a> {
    magic: [u8; 4],
    kind: [u8; 2],
    qualified_signer: &'a [u8],
    extra_data: &'a [u8],
    selection: &'a [u8],
    pcr_digest: &'a [u8],
}

impl<'a> Attest<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let (magic, kind) = (reader.array()?, reader.array()?);
        let (qualified_signer, extra_data) = (reader.tpm2b()?, reader.tpm2b()?);
        let _clock_resets_restarts: [u8; 16] = reader.array()?;
        let [safe] = reader.array()?;
        let _firmware_version: [u8; 8] = reader.array()?;
        let selection = reader.take(selection().len())?;
        let pcr_digest = reader.tpm2b()?;
        let complete = reader.is_empty() && safe <= 1;
        complete.then_some(Self {
            magic,
            kind,
            qualified_signer,
            extra_data,
            selection,
            pcr_digest,
        })
    }
}

fn parse_signature(bytes: &[u8]) -> Option<Signature> {
    let mut reader = Reader(bytes);
    let known = reader.take(2)? == ECDSA && reader.take(2)? == SHA384;
    let (r, s) = (scalar(reader.tpm2b()?)?, scalar(reader.tpm2b()?)?);
    let complete = known && reader.is_empty();
    Signature::from_scalars(r, s).ok().filter(|_| complete)
}

/// A TPM may leave out leading zeros.
fn scalar(bytes: &[u8]) -> Option<[u8; SCALAR_BYTES]> {
    let mut scalar = [0; SCALAR_BYTES];
    let start = SCALAR_BYTES.checked_sub(bytes.len())?;
    scalar[start..].copy_from_slice(bytes);
    Some(scalar)
}
