//! Verifies RSASSA-PSS signatures with 4,096-bit keys, SHA-384 and a salt of 48 bytes (RFC 8017,
//! sections 8.1.2 and 9.1.2). Nothing here is secret, and nothing here can sign.
//!
//! ```text
//! signature ^ 65537 mod n  =  masked DB (463) ‖ H (48) ‖ 0xbc
//! DB = masked DB ⊕ MGF1(H) =  0 … 0 ‖ 0x01 ‖ salt (48)
//! H                        =  SHA-384(0 (8) ‖ SHA-384(message) ‖ salt)
//! ```

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U64, U4096};
use sha2::{Digest as _, Sha384};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Reader as _, SliceReader};

const MODULUS_BYTES: usize = 512;
const HASH_BYTES: usize = 48;
const DB_BYTES: usize = MODULUS_BYTES - HASH_BYTES - 1;
const SALT_AT: usize = DB_BYTES - HASH_BYTES;
const EXPONENT: [u8; 3] = [1, 0, 1];

/// A public key of 4,096 bits with the exponent 65,537.
pub(crate) struct RsaKey(FixedMontyParams<{ U4096::LIMBS }>);

impl RsaKey {
    /// Reads an RSAPublicKey: SEQUENCE of modulus and exponent.
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        let mut reader = SliceReader::new(der).ok()?;
        let (modulus, exponent) = reader
            .sequence(|inner| {
                let modulus: UintRef<'_> = inner.decode()?;
                let exponent: UintRef<'_> = inner.decode()?;
                Ok::<_, x509_cert::der::Error>((modulus, exponent))
            })
            .ok()?;
        reader.finish().ok()?;
        let bytes = modulus.as_bytes();
        let full = bytes.len() == MODULUS_BYTES && bytes.first().is_some_and(|top| *top >= 0x80);
        if !full || exponent.as_bytes() != EXPONENT {
            return None;
        }
        let modulus = Odd::new(U4096::from_be_slice(bytes)).into_option()?;
        Some(Self(FixedMontyParams::new_vartime(modulus)))
    }

    /// Whether `signature` is one by this key over `message`.
    pub(crate) fn verify_pss(&self, message: &[u8], signature: &[u8]) -> bool {
        if signature.len() != MODULUS_BYTES {
            return false;
        }
        let signature = U4096::from_be_slice(signature);
        if signature >= *self.0.modulus().as_ref() {
            return false;
        }
        let encoded = FixedMontyForm::new(&signature, &self.0)
            .pow_vartime(&U64::from_u64(65_537))
            .retrieve()
            .to_be_bytes();
        is_encoding_of(encoded.as_ref(), message)
    }
}

/// EMSA-PSS-VERIFY with 4,095 bits.
fn is_encoding_of(encoded: &[u8], message: &[u8]) -> bool {
    let Some((masked, rest)) = encoded.split_at_checked(DB_BYTES) else {
        return false;
    };
    let Some((hash, [0xbc])) = rest.split_at_checked(HASH_BYTES) else {
        return false;
    };
    let mut db = masked.to_vec();
    if db.first().is_none_or(|top| *top >= 0x80) {
        return false;
    }
    for (byte, mask) in db.iter_mut().zip(mask(hash)) {
        *byte ^= mask;
    }
    db[0] &= 0x7f;
    let (padding, salt) = db.split_at(SALT_AT);
    let Some((1, zeros)) = padding.split_last() else {
        return false;
    };
    let digest = Sha384::new()
        .chain_update([0; 8])
        .chain_update(Sha384::digest(message))
        .chain_update(salt)
        .finalize();
    zeros.iter().all(|byte| *byte == 0) && digest.as_slice() == hash
}

/// MGF1 with SHA-384: as many bytes as are asked for.
fn mask(seed: &[u8]) -> impl Iterator<Item = u8> {
    (0u32..).flat_map(move |counter| {
        Sha384::new()
            .chain_update(seed)
            .chain_update(counter.to_be_bytes())
            .finalize()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
        let integer = |bytes: &[u8]| {
            let zero = bytes.first().is_some_and(|top| *top >= 0x80);
            let length = bytes.len() + usize::from(zero);
            let mut der = vec![2];
            match u8::try_from(length) {
                Ok(short) if short < 0x80 => der.push(short),
                _ => der.extend([0x82, (length >> 8) as u8, length as u8]),
            }
            der.extend(zero.then_some(0));
            der.extend(bytes);
            der
        };
        let content = [integer(modulus), integer(exponent)].concat();
        let mut der = vec![0x30, 0x82, (content.len() >> 8) as u8, content.len() as u8];
        der.extend(content);
        der
    }

    #[test]
    fn only_keys_of_4096_bits_with_the_usual_exponent_are_taken() {
        let mut modulus = [0xaa; MODULUS_BYTES];
        modulus[MODULUS_BYTES - 1] = 1;
        assert!(RsaKey::from_der(&key(&modulus, &EXPONENT)).is_some());
        let mut even = modulus;
        even[MODULUS_BYTES - 1] = 2;
        let mut short = modulus;
        short[0] = 0x7f;
        for wrong in [
            key(&even, &EXPONENT),
            key(&short, &EXPONENT),
            key(&modulus[256..], &EXPONENT),
            key(&modulus, &[3]),
            key(&modulus, &[1, 0, 0, 1]),
            [key(&modulus, &EXPONENT), vec![0]].concat(),
            b"garbage".to_vec(),
        ] {
            assert!(RsaKey::from_der(&wrong).is_none());
        }
    }

    #[test]
    fn a_signature_of_another_length_or_beyond_the_modulus_is_none() {
        let mut modulus = [0xaa; MODULUS_BYTES];
        modulus[MODULUS_BYTES - 1] = 1;
        let key = RsaKey::from_der(&key(&modulus, &EXPONENT)).unwrap();
        for signature in [&[][..], &[1; 511], &[0; 512], &[0xff; 512], &[1; 513]] {
            assert!(!key.verify_pss(b"", signature));
        }
    }
}
