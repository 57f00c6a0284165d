//! Verifies RSASSA-PSS signatures with 4,096-bit keys, SHA-384 and a salt of 48 bytes (RFC 8017,
//! sections 8.1.2 and 9.1.2), and RSASSA-PKCS1-v1_5 with SHA-256 and 2,048 to 4,096 bits (sections
//! 8.2.2 and 9.2). Nothing here is secret, and nothing here can sign.
//!
//! ```text
//! PSS
//! signature ^ 65537 mod n  =  masked DB (463) ‖ H (48) ‖ 0xbc
//! DB = masked DB ⊕ MGF1(H) =  0 … 0 ‖ 0x01 ‖ salt (48)
//! H                        =  SHA-384(0 (8) ‖ SHA-384(message) ‖ salt)
//! PKCS1-v1_5
//! signature ^ 65537 mod n  =  0x00 ‖ 0x01 ‖ 0xff … 0xff ‖ 0x00 ‖ DigestInfo of SHA-256(message)
//! ```

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{Odd, U64, U4096};
use sha2::{Digest as _, Sha256, Sha384};
use x509_cert::der::asn1::UintRef;
use x509_cert::der::{Reader as _, SliceReader};

const MODULUS_BYTES: usize = 512;
const HASH_BYTES: usize = 48;
const DB_BYTES: usize = MODULUS_BYTES - HASH_BYTES - 1;
const SALT_AT: usize = DB_BYTES - HASH_BYTES;
const EXPONENT: [u8; 3] = [1, 0, 1];

/// DigestInfo of SHA-256, but for the digest.
const SHA256_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 5, 0, 4, 32,
];
/// Lengths of keys for PKCS1-v1_5: 2,048, 3,072 and 4,096 bits.
const LENGTHS: [usize; 3] = [256, 384, MODULUS_BYTES];

/// A public key with the exponent 65,537, of 2,048, 3,072 or 4,096 bits.
#[derive(Clone)]
pub(crate) struct RsaKey {
    parameters: FixedMontyParams<{ U4096::LIMBS }>,
    length: usize,
}

impl RsaKey {
    /// Reads an RSAPublicKey, SEQUENCE of modulus and exponent, of 4,096 bits.
    pub(crate) fn from_der(der: &[u8]) -> Option<Self> {
        Self::from_der_of_any_length(der).filter(|key| key.length == MODULUS_BYTES)
    }

    /// Reads an RSAPublicKey.
    pub(crate) fn from_der_of_any_length(der: &[u8]) -> Option<Self> {
        let mut reader = SliceReader::new(der).ok()?;
        let (modulus, exponent) = reader
            .sequence(|inner| {
                let modulus: UintRef<'_> = inner.decode()?;
                let exponent: UintRef<'_> = inner.decode()?;
                Ok::<_, x509_cert::der::Error>((modulus, exponent))
            })
            .ok()?;
        reader.finish().ok()?;
        Self::from_parts(modulus.as_bytes(), exponent.as_bytes())
    }

    /// The key of a modulus and an exponent, big-endian.
    pub(crate) fn from_parts(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let length = modulus.len();
        let full = LENGTHS.contains(&length) && modulus.first().is_some_and(|top| *top >= 0x80);
        if !full || exponent != EXPONENT {
            return None;
        }
        let modulus = Odd::new(widened(modulus)).into_option()?;
        let parameters = FixedMontyParams::new_vartime(modulus);
        Some(Self { parameters, length })
    }

    /// Whether `signature` is one by this key over `message`, by PSS.
    pub(crate) fn verify_pss(&self, message: &[u8], signature: &[u8]) -> bool {
        let full = self.length == MODULUS_BYTES;
        let encoded = self.encoded(signature).filter(|_| full);
        encoded.is_some_and(|encoded| is_encoding_of(&encoded, message))
    }

    /// Whether `signature` is one by this key over `message`, by PKCS1-v1_5 with SHA-256.
    pub(crate) fn verify_pkcs1(&self, message: &[u8], signature: &[u8]) -> bool {
        let digest = Sha256::digest(message);
        let end = [&[0], &SHA256_INFO[..], &digest[..]].concat();
        let mut expected = vec![0xff; self.length];
        expected[..2].copy_from_slice(&[0, 1]);
        let start = self.length - end.len();
        expected[start..].copy_from_slice(&end);
        self.encoded(signature)
            .is_some_and(|encoded| encoded == expected)
    }

    /// What the signature is of, if it is shorter than the modulus and of its length.
    fn encoded(&self, signature: &[u8]) -> Option<Vec<u8>> {
        if signature.len() != self.length {
            return None;
        }
        let signature = widened(signature);
        if signature >= *self.parameters.modulus().as_ref() {
            return None;
        }
        let power = FixedMontyForm::new(&signature, &self.parameters)
            .pow_vartime(&U64::from_u64(65_537))
            .retrieve()
            .to_be_bytes();
        let bytes: &[u8] = power.as_ref();
        bytes.get(MODULUS_BYTES - self.length..).map(<[u8]>::to_vec)
    }
}

/// A number of at most [`MODULUS_BYTES`].
fn widened(bytes: &[u8]) -> U4096 {
    let mut wide = [0; MODULUS_BYTES];
    wide[MODULUS_BYTES - bytes.len()..].copy_from_slice(bytes);
    U4096::from_be_slice(&wide)
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
