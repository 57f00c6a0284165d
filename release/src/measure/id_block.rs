//! The ID block of SEV-SNP: by it the owner of a VM names, with a signature, the launch digest that
//! the processor must find. It refuses to start anything else, and reports the digests of the keys.
//!
//! ```text
//! ID block, 96 bytes    launch digest 48 ‖ family id 16 ‖ image id 16 ‖ version u32 = 1
//!                       ‖ guest security version u32 ‖ policy u64
//! authentication, 4096  id key kind u32 ‖ author key kind u32 ‖ 0…
//!                       64: signature of the block 512 ‖ id key 1028 ‖ 0…
//!                       1664: signature of the id key 512 ‖ author key 1028 ‖ 0…
//! key, 1028             curve u32 = 2 (P-384) ‖ x 72 ‖ y 72 ‖ 0…     numbers little-endian
//! signature, 512        r 72 ‖ s 72 ‖ 0…                             ECDSA P-384 with SHA-384
//! ```
//!
//! Specification: AMD, "SEV Secure Nested Paging Firmware ABI" (56860), 8.16 SNP_LAUNCH_FINISH and
//! chapter 10. QEMU takes both, in base64, as `id-block` and `id-auth`.

use attest::Digest;
use p384::SecretKey;
use p384::ecdsa::signature::Signer;
use p384::ecdsa::{Signature, SigningKey, VerifyingKey};
use p384::pkcs8::DecodePrivateKey;
use zeroize::Zeroizing;

/// Bytes of the block.
pub const BLOCK_BYTES: usize = 96;
/// Bytes of its authentication.
pub const AUTHENTICATION_BYTES: usize = 4096;
/// Policy of most VMs: SMT allowed, ABI 0.0, no debugging, no migration.
pub const DEFAULT_POLICY: u64 = 0x3_0000;

const KEY_BYTES: usize = 1028;
const SIGNATURE_BYTES: usize = 512;
const NUMBER_BYTES: usize = 48;
const FIELD_BYTES: usize = 72;
const P384: u32 = 2;
const ECDSA_P384_SHA384: u32 = 1;
const DEBUG: u64 = 1 << 19;
const RESERVED_ONE: u64 = 1 << 17;
/// Bits that have no meaning, and must be zero: 26 to 63.
const RESERVED_ZERO: u64 = !0 << 26;

/// What a block says beside the launch digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Any 16 bytes of the owner's.
    pub family: [u8; 16],
    /// Any 16 bytes of the owner's.
    pub image: [u8; 16],
    /// Security version of the guest.
    pub security_version: u32,
    /// Policy, which must be that of the launch.
    pub policy: u64,
}

/// A key that signs ID blocks, or the author's key that signs such keys.
pub struct IdKey(SigningKey);

/// A block with its authentication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdBlock {
    /// The block.
    pub block: [u8; BLOCK_BYTES],
    /// The authentication.
    pub authentication: Box<[u8; AUTHENTICATION_BYTES]>,
    /// `ID_KEY_DIGEST` of every report.
    pub id_key_digest: Digest<48>,
    /// `AUTHOR_KEY_DIGEST` of every report, where there is an author's key.
    pub author_key_digest: Option<Digest<48>>,
}

/// Why no ID block is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdBlockError {
    /// Not a key that can sign.
    #[error("it holds no P-384 private key in PEM (PKCS#8 or SEC 1)")]
    Key,
    /// A policy that no processor takes, or that gives the VM away.
    #[error("the policy {0:#x} lacks bit 17, which is always one")]
    Policy(u64),
    /// A policy that no processor takes.
    #[error("the policy {0:#x} has bits above 25, which have no meaning and must be zero")]
    Reserved(u64),
    /// One key in both places.
    #[error("the ID key and the author's key are the same: an author's key signs other keys")]
    SameKey,
    /// A policy under which the host reads the VM's memory.
    #[error("the policy {0:#x} allows debugging: the host could read everything")]
    Debug(u64),
}

impl IdKey {
    /// Reads a key.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdBlockError> {
        let text = std::str::from_utf8(pem).map_err(|_| IdBlockError::Key)?;
        // `openssl ecparam -genkey` writes the curve before the key.
        let start = text.find("-----BEGIN EC PRIVATE KEY-----");
        let key = match start {
            Some(start) => SecretKey::from_sec1_pem(text[start..].trim_end()).ok(),
            None => SecretKey::from_pkcs8_pem(text.trim()).ok(),
        };
        let key = key.ok_or(IdBlockError::Key)?;
        Ok(Self(SigningKey::from(key)))
    }

    fn public(&self) -> [u8; KEY_BYTES] {
        public_key(self.0.verifying_key())
    }

    fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature: Signature = self.0.sign(message);
        let (r, s) = signature.split_bytes();
        let mut out = [0; SIGNATURE_BYTES];
        put_number(&mut out[..FIELD_BYTES], &r);
        put_number(&mut out[FIELD_BYTES..], &s);
        out
    }
}

/// A file that holds a key, wiped when it is dropped.
pub type KeyFile = Zeroizing<Vec<u8>>;

/// A public key as the processor has it, of which a report shows the SHA-384.
#[must_use]
pub fn public_key(key: &VerifyingKey) -> [u8; KEY_BYTES] {
    let point = key.to_sec1_point(false);
    let mut out = [0; KEY_BYTES];
    out[..4].copy_from_slice(&P384.to_le_bytes());
    // An uncompressed point is 4 ‖ x ‖ y.
    let (x, y) = point.as_bytes()[1..].split_at(NUMBER_BYTES);
    put_number(&mut out[4..4 + FIELD_BYTES], x);
    put_number(&mut out[4 + FIELD_BYTES..], y);
    out
}

/// Copies a big-endian number as a little-endian one.
fn put_number(field: &mut [u8], number: &[u8]) {
    for (to, from) in field.iter_mut().zip(number.iter().rev()) {
        *to = *from;
    }
}

impl IdBlock {
    /// Makes and signs a block. Signatures are deterministic (RFC 6979): the same input gives the
    /// same bits.
    pub fn sign(
        launch_digest: Digest<48>,
        identity: &Identity,
        id_key: &IdKey,
        author_key: Option<&IdKey>,
    ) -> Result<Self, IdBlockError> {
        let policy = identity.policy;
        if policy & RESERVED_ONE == 0 {
            return Err(IdBlockError::Policy(policy));
        }
        if policy & RESERVED_ZERO != 0 {
            return Err(IdBlockError::Reserved(policy));
        }
        if policy & DEBUG != 0 {
            return Err(IdBlockError::Debug(policy));
        }
        let mut block = [0; BLOCK_BYTES];
        block[..48].copy_from_slice(launch_digest.as_ref());
        block[48..64].copy_from_slice(&identity.family);
        block[64..80].copy_from_slice(&identity.image);
        block[80..84].copy_from_slice(&1u32.to_le_bytes());
        block[84..88].copy_from_slice(&identity.security_version.to_le_bytes());
        block[88..].copy_from_slice(&policy.to_le_bytes());

        let public = id_key.public();
        if author_key.is_some_and(|author| author.public() == public) {
            return Err(IdBlockError::SameKey);
        }
        let mut authentication = Box::new([0; AUTHENTICATION_BYTES]);
        let mut put = |at: usize, bytes: &[u8]| {
            authentication[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &ECDSA_P384_SHA384.to_le_bytes());
        put(0x040, &id_key.sign(&block));
        put(0x240, &public);
        if let Some(author) = author_key {
            put(4, &ECDSA_P384_SHA384.to_le_bytes());
            put(0x680, &author.sign(&public));
            put(0x880, &author.public());
        }
        Ok(Self {
            block,
            authentication,
            id_key_digest: Digest::sha384(&public),
            author_key_digest: author_key.map(|author| Digest::sha384(&author.public())),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use p384::ecdsa::signature::Verifier;
    use p384::pkcs8::{EncodePrivateKey, LineEnding};

    use super::*;

    const IDENTITY: Identity = Identity {
        family: [1; 16],
        image: [2; 16],
        security_version: 3,
        policy: DEFAULT_POLICY,
    };

    /// Keys and digests published with the reference tool.
    #[test]
    fn digests_of_published_keys_are_those_of_the_reference_tool() {
        let point = |x: &str, y: &str| {
            let bytes = format!("04{x}{y}");
            let byte = |at| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..bytes.len()).step_by(2).map(byte).collect();
            VerifyingKey::from_sec1_bytes(&bytes).unwrap()
        };
        let id = point(
            "b20fd1a1c2bd2b65183a76e2390ac805f6d8e5e2af725e5a\
             8e93cf87ec029f9d45eb326b04b92beb714e14fa986f8a9a",
            "2c94a0b8ab30cc76352675944876891e954ff6ef5826a623\
             1ba6d6d7f6ebfb68ce330e1e59394efb7080883ddc69364b",
        );
        let digest = Digest::sha384(&public_key(&id)).to_string();
        assert_eq!(
            digest,
            "870b7e35c53f8a72d0d322f75ab2af8262792aaf6579622c\
             e4131c3f21f289e77cb0560a5e3b90b3932e674ec709cb14"
        );
    }

    #[test]
    fn block_and_key_are_signed_and_the_layout_is_the_processors() {
        let (id, author) = (secret(1), secret(2));
        let key = |secret: &SecretKey| {
            let pem = secret.to_pkcs8_pem(LineEnding::LF).unwrap();
            IdKey::from_pem(pem.as_bytes()).unwrap()
        };
        let digest = Digest([7; 48]);
        let made = IdBlock::sign(digest, &IDENTITY, &key(&id), Some(&key(&author))).unwrap();
        assert_eq!(&made.block[..48], &[7; 48]);
        assert_eq!(
            &made.block[80..],
            &[1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0]
        );
        let auth = &made.authentication;
        assert_eq!(&auth[..8], &[1, 0, 0, 0, 1, 0, 0, 0]);
        let check = |secret: &SecretKey, message: &[u8], at: usize| {
            let number =
                |at: usize| -> Vec<u8> { auth[at..at + 48].iter().rev().copied().collect() };
            let bytes = [number(at), number(at + 72)].concat();
            let signature = Signature::from_slice(&bytes).unwrap();
            VerifyingKey::from(secret.public_key())
                .verify(message, &signature)
                .unwrap();
        };
        check(&id, &made.block, 0x40);
        check(&author, &auth[0x240..0x240 + KEY_BYTES], 0x680);
        assert_eq!(made.id_key_digest, Digest::sha384(&auth[0x240..0x644]));
        assert_eq!(
            made.author_key_digest,
            Some(Digest::sha384(&auth[0x880..0xc84]))
        );
        let again = IdBlock::sign(digest, &IDENTITY, &key(&id), Some(&key(&author))).unwrap();
        assert_eq!(made, again);
        let alone = IdBlock::sign(digest, &IDENTITY, &key(&id), None).unwrap();
        assert_eq!(alone.author_key_digest, None);
        assert!(alone.authentication[0x680..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn both_forms_of_pem_are_read_and_nothing_else() {
        let key = secret(3);
        let sec1 = key.to_sec1_pem(LineEnding::LF).unwrap();
        let with_curve = format!(
            "-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n{}",
            *sec1
        );
        assert!(IdKey::from_pem(sec1.as_bytes()).is_ok());
        assert!(IdKey::from_pem(with_curve.as_bytes()).is_ok());
        for wrong in [&b""[..], b"-----BEGIN EC PRIVATE KEY-----", &[0xff; 9]] {
            assert_eq!(IdKey::from_pem(wrong).err(), Some(IdBlockError::Key));
        }
    }

    #[test]
    fn policies_that_give_the_vm_away_are_refused() {
        let pem = secret(3).to_pkcs8_pem(LineEnding::LF).unwrap();
        let key = IdKey::from_pem(pem.as_bytes()).unwrap();
        let with = |policy| {
            let identity = Identity { policy, ..IDENTITY };
            IdBlock::sign(Digest::ZERO, &identity, &key, None).err()
        };
        assert_eq!(with(0), Some(IdBlockError::Policy(0)));
        assert_eq!(with(0xb_0000), Some(IdBlockError::Debug(0xb_0000)));
        for bit in 26..64 {
            let policy = DEFAULT_POLICY | 1 << bit;
            assert_eq!(with(policy), Some(IdBlockError::Reserved(policy)), "{bit}");
        }
        assert_eq!(with(DEFAULT_POLICY | 0x3f << 20), None);
        let twice = IdBlock::sign(Digest::ZERO, &IDENTITY, &key, Some(&key));
        assert_eq!(twice.err(), Some(IdBlockError::SameKey));
        assert_eq!(with(DEFAULT_POLICY), None);
    }

    fn secret(byte: u8) -> SecretKey {
        SecretKey::from_slice(&[byte; 48]).unwrap()
    }
}
