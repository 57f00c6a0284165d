//! The cryptography that the Sigstore crates call: RustCrypto's, and ring's for RSA, with which
//! some timestamp authorities sign.

use std::sync::Once;

use ed25519_dalek::Signer as _;
use p256::ecdsa::signature::hazmat::{PrehashVerifier, RandomizedPrehashSigner};
use p256::pkcs8::DecodePrivateKey as _;
use sha2::{Digest, Sha256, Sha384, Sha512};
use sigstore_verify::crypto::{
    CryptoProvider, Error, HashContext, KeyAlgorithm, Result, SigningKeyPair, SigningScheme,
    install_default_provider,
};
use sigstore_verify::types::HashAlgorithm;
use zeroize::Zeroizing;

/// Has the Sigstore crates of this process use these. Verifying calls it; whoever signs
/// calls it first.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // There is one already only if somebody else installed it: then it stays.
        let _ = install_default_provider(&RustCrypto);
    });
}

#[derive(Debug)]
struct RustCrypto;

struct Hasher<D>(D);

impl<D: Digest + Send> HashContext for Hasher<D> {
    fn update(&mut self, data: &[u8]) {
        Digest::update(&mut self.0, data);
    }

    fn finalize(self: Box<Self>) -> Vec<u8> {
        self.0.finalize().to_vec()
    }
}

impl CryptoProvider for RustCrypto {
    fn hash(&self, algorithm: HashAlgorithm) -> Result<Box<dyn HashContext>> {
        match algorithm {
            HashAlgorithm::Sha2256 => Ok(Box::new(Hasher(Sha256::new()))),
            HashAlgorithm::Sha2384 => Ok(Box::new(Hasher(Sha384::new()))),
            HashAlgorithm::Sha2512 => Ok(Box::new(Hasher(Sha512::new()))),
            other => Err(Error::UnsupportedAlgorithm(other.to_string())),
        }
    }

    fn verify_raw(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        data: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        use SigningScheme as S;
        match scheme {
            S::EcdsaP256Sha256 => p256_verify(key, &Sha256::digest(data), signature),
            S::EcdsaP256Sha384 => p256_verify(key, &Sha384::digest(data), signature),
            S::EcdsaP384Sha256 => p384_verify(key, &Sha256::digest(data), signature),
            S::EcdsaP384Sha384 => p384_verify(key, &Sha384::digest(data), signature),
            S::Ed25519 => ed25519_verify(key, data, signature),
            other => rsa_verify(other, key, data, signature),
        }
    }

    fn verify_prehashed(
        &self,
        scheme: SigningScheme,
        key: &[u8],
        digest: &[u8],
        signature: &[u8],
    ) -> Result<()> {
        use SigningScheme as S;
        match scheme {
            S::EcdsaP256Sha256 | S::EcdsaP256Sha384 => p256_verify(key, digest, signature),
            S::EcdsaP384Sha256 | S::EcdsaP384Sha384 => p384_verify(key, digest, signature),
            other => Err(Error::UnsupportedAlgorithm(other.name().to_owned())),
        }
    }

    fn generate_key_pair(&self, algorithm: KeyAlgorithm) -> Result<Box<dyn SigningKeyPair>> {
        match algorithm {
            KeyAlgorithm::EcdsaP256 => {
                let mut scalar = Zeroizing::new([0; 32]);
                // One in 2^32 draws is not a scalar; the next one is.
                for _ in 0..8 {
                    getrandom::fill(&mut *scalar).map_err(|_| no_randomness())?;
                    if let Ok(key) = p256::ecdsa::SigningKey::from_slice(&*scalar) {
                        return Ok(Box::new(P256Key::new(key)));
                    }
                }
                Err(no_randomness())
            }
            other => Err(Error::UnsupportedAlgorithm(format!("{other:?}"))),
        }
    }

    fn key_pair_from_pkcs8_der(&self, der: &[u8]) -> Result<Box<dyn SigningKeyPair>> {
        if let Ok(key) = p256::ecdsa::SigningKey::from_pkcs8_der(der) {
            return Ok(Box::new(P256Key::new(key)));
        }
        let key = ed25519_dalek::SigningKey::from_pkcs8_der(der).map_err(|_| {
            Error::InvalidKeyFormat("neither ECDSA P-256 nor Ed25519 in PKCS#8".to_owned())
        })?;
        let public = key.verifying_key().to_bytes();
        Ok(Box::new(Ed25519Key { key, public }))
    }
}

struct P256Key {
    key: p256::ecdsa::SigningKey,
    public: Vec<u8>,
}

impl P256Key {
    fn new(key: p256::ecdsa::SigningKey) -> Self {
        let public = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
        Self { key, public }
    }
}

impl SigningKeyPair for P256Key {
    fn algorithm(&self) -> KeyAlgorithm {
        KeyAlgorithm::EcdsaP256
    }

    fn public_key_bytes(&self) -> &[u8] {
        &self.public
    }

    fn sign_raw(&self, data: &[u8]) -> Result<Vec<u8>> {
        self.sign_prehashed(&Sha256::digest(data))
    }

    // With fresh randomness: the same statement signed twice gives two entries of a log, not one
    // that the log knows already.
    fn sign_prehashed(&self, digest: &[u8]) -> Result<Vec<u8>> {
        let signed: p256::ecdsa::Signature = self
            .key
            .sign_prehash_with_rng(&mut getrandom::SysRng, digest)
            .map_err(|_| Error::Signing("ECDSA P-256".to_owned()))?;
        Ok(signed.to_der().as_bytes().to_vec())
    }
}

struct Ed25519Key {
    key: ed25519_dalek::SigningKey,
    public: [u8; 32],
}

impl SigningKeyPair for Ed25519Key {
    fn algorithm(&self) -> KeyAlgorithm {
        KeyAlgorithm::Ed25519
    }

    fn public_key_bytes(&self) -> &[u8] {
        &self.public
    }

    fn sign_raw(&self, data: &[u8]) -> Result<Vec<u8>> {
        Ok(self.key.sign(data).to_bytes().to_vec())
    }

    fn sign_prehashed(&self, _digest: &[u8]) -> Result<Vec<u8>> {
        Err(Error::UnsupportedAlgorithm(
            "Ed25519 signs messages, not digests".to_owned(),
        ))
    }
}

fn p256_verify(key: &[u8], digest: &[u8], signature: &[u8]) -> Result<()> {
    let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| not_a_key())?;
    let signature = p256::ecdsa::Signature::from_der(signature).map_err(|_| invalid())?;
    key.verify_prehash(digest, &signature)
        .map_err(|_| invalid())
}

fn p384_verify(key: &[u8], digest: &[u8], signature: &[u8]) -> Result<()> {
    let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(key).map_err(|_| not_a_key())?;
    let signature = p384::ecdsa::Signature::from_der(signature).map_err(|_| invalid())?;
    key.verify_prehash(digest, &signature)
        .map_err(|_| invalid())
}

fn ed25519_verify(key: &[u8], data: &[u8], signature: &[u8]) -> Result<()> {
    let key = key.try_into().map_err(|_| not_a_key())?;
    let key = ed25519_dalek::VerifyingKey::from_bytes(key).map_err(|_| not_a_key())?;
    let signature = signature.try_into().map_err(|_| invalid())?;
    key.verify_strict(data, &ed25519_dalek::Signature::from_bytes(signature))
        .map_err(|_| invalid())
}

fn rsa_verify(scheme: SigningScheme, key: &[u8], data: &[u8], signature: &[u8]) -> Result<()> {
    use SigningScheme as S;
    let parameters = match scheme {
        S::RsaPkcs1Sha256 => &ring::signature::RSA_PKCS1_2048_8192_SHA256,
        S::RsaPkcs1Sha384 => &ring::signature::RSA_PKCS1_2048_8192_SHA384,
        S::RsaPkcs1Sha512 => &ring::signature::RSA_PKCS1_2048_8192_SHA512,
        S::RsaPssSha256 => &ring::signature::RSA_PSS_2048_8192_SHA256,
        S::RsaPssSha384 => &ring::signature::RSA_PSS_2048_8192_SHA384,
        S::RsaPssSha512 => &ring::signature::RSA_PSS_2048_8192_SHA512,
        other => return Err(Error::UnsupportedAlgorithm(other.name().to_owned())),
    };
    ring::signature::UnparsedPublicKey::new(parameters, key)
        .verify(data, signature)
        .map_err(|_| invalid())
}

fn invalid() -> Error {
    Error::Verification("not the signature of that key".to_owned())
}

fn not_a_key() -> Error {
    Error::InvalidKey("not a public key of its kind".to_owned())
}

fn no_randomness() -> Error {
    Error::KeyGeneration("the system gave no randomness".to_owned())
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::pkcs8::EncodePrivateKey as _;

    use super::*;

    const MESSAGE: &[u8] = b"a statement";

    fn ring_pkcs8() -> Vec<u8> {
        let random = ring::rand::SystemRandom::new();
        ring::signature::EcdsaKeyPair::generate_pkcs8(
            &ring::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            &random,
        )
        .unwrap()
        .as_ref()
        .to_vec()
    }

    #[test]
    fn a_signature_of_ours_verifies_elsewhere_and_no_other_does() {
        let pair = RustCrypto
            .generate_key_pair(KeyAlgorithm::EcdsaP256)
            .unwrap();
        let signature = pair.sign_raw(MESSAGE).unwrap();
        let key = pair.public_key_bytes();
        let scheme = SigningScheme::EcdsaP256Sha256;
        ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_ASN1, key)
            .verify(MESSAGE, &signature)
            .unwrap();
        RustCrypto
            .verify_raw(scheme, key, MESSAGE, &signature)
            .unwrap();
        assert!(
            RustCrypto
                .verify_raw(scheme, key, b"another", &signature)
                .is_err()
        );
        assert_ne!(pair.sign_raw(MESSAGE).unwrap(), signature);
        let mut broken = signature.clone();
        *broken.last_mut().unwrap() ^= 1;
        assert!(
            RustCrypto
                .verify_raw(scheme, key, MESSAGE, &broken)
                .is_err()
        );
    }

    #[test]
    fn keys_of_both_kinds_are_read_and_others_refused() {
        let pair = RustCrypto.key_pair_from_pkcs8_der(&ring_pkcs8()).unwrap();
        assert_eq!(pair.algorithm(), KeyAlgorithm::EcdsaP256);
        let key = ed25519_dalek::pkcs8::KeypairBytes {
            secret_key: [3; 32],
            public_key: None, // as openssl writes it
        };
        let der = key.to_pkcs8_der().unwrap();
        let pair = RustCrypto.key_pair_from_pkcs8_der(der.as_bytes()).unwrap();
        let signature = pair.sign_raw(MESSAGE).unwrap();
        let (scheme, key) = (SigningScheme::Ed25519, pair.public_key_bytes());
        RustCrypto
            .verify_raw(scheme, key, MESSAGE, &signature)
            .unwrap();
        assert!(pair.sign_prehashed(&[0; 32]).is_err());
        assert!(RustCrypto.key_pair_from_pkcs8_der(b"no key").is_err());
        assert!(RustCrypto.generate_key_pair(KeyAlgorithm::Rsa).is_err());
    }

    #[test]
    fn what_cannot_be_verified_is_refused_not_passed() {
        let scheme = SigningScheme::MlDsa44;
        assert!(matches!(
            RustCrypto.verify_raw(scheme, &[0; 1312], MESSAGE, &[0; 2420]),
            Err(Error::UnsupportedAlgorithm(_))
        ));
        assert!(matches!(
            RustCrypto.verify_prehashed(SigningScheme::RsaPkcs1Sha256, &[], &[0; 32], &[]),
            Err(Error::UnsupportedAlgorithm(_))
        ));
    }
}
