//! Keys in a PKCS#11 module: hardware, a TPM behind `libtpm2_pkcs11`, SoftHSM. The key never leaves
//! it, and the PIN never stands on a command line.
//!
//! The module is somebody else's library in this process: what it signs is verified here before
//! anyone gets it.

mod uri;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use p256::ecdsa::signature::Verifier as _;
use sha2::{Digest as _, Sha256};
use sigstore_sign::types::DerPublicKey;
use zeroize::Zeroizing;

pub use uri::{KeyUri, UriError};

/// Environment variable with the PIN, where the URI names no file.
pub const PIN_VARIABLE: &str = "CLOISTER_PIN";
/// Longest PIN.
const MAX_PIN_BYTES: u64 = 256;
/// OID prime256v1 in DER.
const P256: [u8; 10] = [6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
/// OID id-Ed25519 in DER, and the name that older modules write.
const ED25519: [&[u8]; 2] = [&[6, 3, 0x2b, 0x65, 0x70], b"\x13\x0cedwards25519"];
/// SubjectPublicKeyInfo without the key.
const P256_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 3, 1, 7, 3, 0x42, 0,
];
const ED25519_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// What kind of key it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleKeyKind {
    /// ECDSA on P-256 with SHA-256.
    P256,
    /// Ed25519.
    Ed25519,
}

/// A private key in a module, with an open session.
pub struct ModuleKey {
    session: Session,
    key: ObjectHandle,
    kind: ModuleKeyKind,
    point: Vec<u8>,
}

/// Why a key in a module does not sign.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// There is no module.
    #[error("no PKCS#11 module at {path}")]
    NoModule {
        /// Its path.
        path: PathBuf,
        /// What the loader said.
        source: Error,
    },
    /// No token is as the URI says.
    #[error("the module has no such token")]
    NoToken,
    /// More than one token is.
    #[error("{0} tokens of the module fit the URI")]
    ManyTokens(usize),
    /// The file with the PIN cannot be read.
    #[error("{path}")]
    PinFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read the PIN.
    #[error("{path} has mode {mode:03o}: others than its owner can read the PIN")]
    PinPermissions {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The token asks for a PIN, and none is given.
    #[error("the token asks for a PIN")]
    NoPin,
    /// Not its PIN. It was said once, and is not said again: tokens lock themselves.
    #[error("the PIN is wrong{}", if *last { ", and one attempt is left" } else { "" })]
    WrongPin {
        /// Whether another wrong one locks the token.
        last: bool,
    },
    /// Too many wrong PINs.
    #[error("the token is locked")]
    Locked,
    /// No private key is as the URI says.
    #[error("the token has no such private key")]
    NoKey,
    /// More than one private key is.
    #[error("{0} private keys of the token fit the URI")]
    ManyKeys(usize),
    /// The key may do other things, but not sign; or the user may not use it.
    #[error("the key has no right to sign")]
    NoRight,
    /// Neither ECDSA P-256 nor Ed25519.
    #[error("the key is neither ECDSA P-256 nor Ed25519")]
    Kind,
    /// The public half is not there.
    #[error("the token does not hold the public half of the key")]
    NoPublicKey,
    /// What it signed does not verify by the public half.
    #[error("what the module signed does not verify by its own public key")]
    False,
    /// Anything else that the module says.
    #[error("the module")]
    Module(#[source] Error),
}

impl ModuleError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoModule { .. } => "name the library with module-path= in the URI",
            Self::NoToken | Self::ManyTokens(_) => {
                "see `p11tool --provider MODULE --list-tokens`, and name one with token= or serial="
            }
            Self::PinFile { .. } => "name a file that you can read with pin-source=",
            Self::PinPermissions { .. } => "chmod 600 the file, and change the PIN",
            Self::NoPin => "give it in a file (pin-source= in the URI) or in CLOISTER_PIN",
            Self::WrongPin { .. } => "give the right one: a token locks itself after a few",
            Self::Locked => "its security officer can unlock it",
            Self::NoKey | Self::ManyKeys(_) => {
                "see `p11tool --provider MODULE --list-privkeys --login`, and name one with \
                 object= or id="
            }
            Self::NoRight => "take a key with CKA_SIGN that asks for its PIN once",
            Self::Kind => "make an ECDSA P-256 key: Rekor v2 takes no other",
            Self::NoPublicKey => {
                "write the public key to the token, with the id of the private one"
            }
            Self::False => "do not use this token: its public key is another's, or it is broken",
            Self::Module(_) => "",
        }
    }
}

impl ModuleKey {
    /// Opens the key that a URI names. The PIN is that of the URI's file, or of the environment.
    pub fn open(uri: &KeyUri, environment: Option<Zeroizing<String>>) -> Result<Self, ModuleError> {
        let path = uri.module_path();
        let no_module = |source| ModuleError::NoModule {
            path: path.to_owned(),
            source,
        };
        // Some loaders take a name without a slash from anywhere.
        let module = Pkcs11::new(path).map_err(no_module)?;
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        match module.initialize(arguments) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(ModuleError::Module(error)),
        }
        let (slot, token) = find_token(&module, uri)?;
        if token.user_pin_locked() {
            return Err(ModuleError::Locked);
        }
        let session = module.open_ro_session(slot).map_err(ModuleError::Module)?;
        if token.login_required() {
            log_in(&session, uri, environment, &token)?;
        }
        let key = find_key(&session, uri)?;
        let (kind, point) = look(&session, key)?;
        Ok(Self {
            session,
            key,
            kind,
            point,
        })
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> ModuleKeyKind {
        self.kind
    }

    /// Its public half, as SubjectPublicKeyInfo.
    #[must_use]
    pub fn public_key(&self) -> DerPublicKey {
        let head: &[u8] = match self.kind {
            ModuleKeyKind::P256 => &P256_HEAD,
            ModuleKeyKind::Ed25519 => &ED25519_HEAD,
        };
        DerPublicKey::new([head, &self.point].concat())
    }

    /// Its public half without a head: 32 bytes of Ed25519, or 65 of a point on P-256.
    #[must_use]
    pub fn public_point(&self) -> &[u8] {
        &self.point
    }

    /// Signs a message: 64 bytes of Ed25519, or ECDSA in DER.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ModuleError> {
        let (mechanism, data) = match self.kind {
            ModuleKeyKind::P256 => (Mechanism::Ecdsa, Sha256::digest(message).to_vec()),
            ModuleKeyKind::Ed25519 => {
                let parameters = EddsaParams::new(EddsaSignatureScheme::Pure);
                (Mechanism::Eddsa(parameters), message.to_vec())
            }
        };
        let signed = self.session.sign(&mechanism, self.key, &data);
        let signature = signed.map_err(|error| match error {
            Error::Pkcs11(
                RvError::KeyFunctionNotPermitted
                | RvError::ActionProhibited
                | RvError::UserNotLoggedIn,
                _,
            ) => ModuleError::NoRight,
            other => ModuleError::Module(other),
        })?;
        self.checked(message, &signature).ok_or(ModuleError::False)
    }

    fn checked(&self, message: &[u8], signature: &[u8]) -> Option<Vec<u8>> {
        match self.kind {
            ModuleKeyKind::P256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&self.point).ok()?;
                let signature = p256::ecdsa::Signature::from_slice(signature).ok()?;
                key.verify(message, &signature).ok()?;
                Some(signature.to_der().as_bytes().to_vec())
            }
            ModuleKeyKind::Ed25519 => {
                let key = self.point.as_slice().try_into().ok()?;
                let key = attest::release::PublicKey::from_bytes(key).ok()?;
                let verifies = key.verifies(message, signature.try_into().ok()?);
                verifies.then(|| signature.to_vec())
            }
        }
    }
}

impl std::fmt::Debug for ModuleKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModuleKey")
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

fn find_token(module: &Pkcs11, uri: &KeyUri) -> Result<(Slot, TokenInfo), ModuleError> {
    let slots = module.get_slots_with_token().map_err(ModuleError::Module)?;
    let mut found = Vec::new();
    for slot in slots {
        // One that is being taken out is not the one.
        let Ok(token) = module.get_token_info(slot) else {
            continue;
        };
        if token.token_initialized() && uri.fits(slot.id(), &token) {
            found.push((slot, token));
        }
    }
    match found.len() {
        0 => Err(ModuleError::NoToken),
        1 => found.pop().ok_or(ModuleError::NoToken),
        many => Err(ModuleError::ManyTokens(many)),
    }
}

fn log_in(
    session: &Session,
    uri: &KeyUri,
    environment: Option<Zeroizing<String>>,
    token: &TokenInfo,
) -> Result<(), ModuleError> {
    let pin = match uri.pin_source() {
        Some(path) => Some(read_pin(path)?),
        None => environment,
    };
    let pin = match pin {
        Some(pin) => Some(AuthPin::new(pin.as_str().into())),
        // Such a token has keys of its own to type the PIN on.
        None if token.protected_authentication_path() => None,
        None => return Err(ModuleError::NoPin),
    };
    let last = token.user_pin_count_low() && token.user_pin_final_try();
    match session.login(UserType::User, pin.as_ref()) {
        // Another key of the same token is open in this process.
        Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
        Err(error) => Err(login_error(error, last)),
    }
}

fn login_error(error: Error, last: bool) -> ModuleError {
    match error {
        Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
            ModuleError::WrongPin { last }
        }
        Error::Pkcs11(RvError::PinLocked, _) => ModuleError::Locked,
        other => ModuleError::Module(other),
    }
}

/// The first line of a file that its owner alone can read.
fn read_pin(path: &Path) -> Result<Zeroizing<String>, ModuleError> {
    use std::os::unix::fs::PermissionsExt as _;
    let access = |source| ModuleError::PinFile {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(access)?;
    let mode = file.metadata().map_err(access)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let path = path.to_owned();
        return Err(ModuleError::PinPermissions { path, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_PIN_BYTES as usize));
    let read = file.take(MAX_PIN_BYTES).read_to_string(&mut text);
    read.map_err(access)?;
    let first = text.lines().next().unwrap_or_default();
    Ok(Zeroizing::new(first.to_owned()))
}

fn find_key(session: &Session, uri: &KeyUri) -> Result<ObjectHandle, ModuleError> {
    let template = uri.template(ObjectClass::PRIVATE_KEY);
    let found = session.find_objects(&template);
    match found.map_err(ModuleError::Module)?.as_slice() {
        [key] => Ok(*key),
        [] => Err(ModuleError::NoKey),
        many => Err(ModuleError::ManyKeys(many.len())),
    }
}

/// Kind and public point of a private key that may sign.
fn look(session: &Session, key: ObjectHandle) -> Result<(ModuleKeyKind, Vec<u8>), ModuleError> {
    let wanted = [
        AttributeType::Sign,
        AttributeType::KeyType,
        AttributeType::Id,
        AttributeType::Label,
    ];
    let attributes = session.get_attributes(key, &wanted);
    let (mut may_sign, mut key_type) = (false, None);
    let mut template = vec![Attribute::Class(ObjectClass::PUBLIC_KEY)];
    for attribute in attributes.map_err(ModuleError::Module)? {
        match attribute {
            Attribute::Sign(may) => may_sign = may,
            Attribute::KeyType(kind) => key_type = Some(kind),
            Attribute::Id(id) if !id.is_empty() => template.push(Attribute::Id(id)),
            Attribute::Label(label) if !label.is_empty() => template.push(Attribute::Label(label)),
            _ => {}
        }
    }
    if !may_sign {
        return Err(ModuleError::NoRight);
    }
    if ![Some(KeyType::EC), Some(KeyType::EC_EDWARDS)].contains(&key_type) {
        return Err(ModuleError::Kind);
    }
    let mut public = session
        .find_objects(&template)
        .map_err(ModuleError::Module)?;
    if public.is_empty() {
        // Some write no label to the public half.
        template.retain(|one| !matches!(one, Attribute::Label(_)));
        public = session
            .find_objects(&template)
            .map_err(ModuleError::Module)?;
    }
    let [public] = public.as_slice() else {
        return Err(ModuleError::NoPublicKey);
    };
    let wanted = [AttributeType::EcParams, AttributeType::EcPoint];
    let attributes = session.get_attributes(*public, &wanted);
    let (mut curve, mut point) = (Vec::new(), Vec::new());
    for attribute in attributes.map_err(ModuleError::Module)? {
        match attribute {
            Attribute::EcParams(bytes) => curve = bytes,
            Attribute::EcPoint(bytes) => point = bytes,
            _ => {}
        }
    }
    public_point(&curve, &point)
}

/// The point stands in an OCTET STRING; some modules write it bare.
fn public_point(curve: &[u8], point: &[u8]) -> Result<(ModuleKeyKind, Vec<u8>), ModuleError> {
    let (kind, bytes) = if *curve == P256 {
        (ModuleKeyKind::P256, 65)
    } else if ED25519.contains(&curve) {
        (ModuleKeyKind::Ed25519, 32)
    } else {
        return Err(ModuleError::Kind);
    };
    let bare = match point {
        [4, length, rest @ ..] if usize::from(*length) == rest.len() && rest.len() == bytes => rest,
        bare if bare.len() == bytes => bare,
        _ => return Err(ModuleError::NoPublicKey),
    };
    Ok((kind, bare.to_vec()))
}

#[cfg(test)]
mod tests {
    use cryptoki::context::Function;

    use super::*;

    /// SoftHSM never locks itself; other tokens say so by this code.
    #[test]
    fn a_wrong_pin_and_a_locked_token_are_told_apart() {
        let said = |rv| login_error(Error::Pkcs11(rv, Function::Login), true);
        assert!(matches!(said(RvError::PinLocked), ModuleError::Locked));
        for wrong in [RvError::PinIncorrect, RvError::PinLenRange] {
            assert!(matches!(said(wrong), ModuleError::WrongPin { last: true }));
        }
        let other = said(RvError::DeviceError);
        assert!(matches!(other, ModuleError::Module(_)));
    }

    #[test]
    fn a_point_is_read_bare_or_in_an_octet_string() {
        let (p256, ed25519) = ([&[4][..], &[7; 64]].concat(), vec![9; 32]);
        let wrapped = |point: &[u8]| [&[4, point.len() as u8], point].concat();
        for (curve, point, kind) in [
            (&P256[..], &p256, ModuleKeyKind::P256),
            (ED25519[0], &ed25519, ModuleKeyKind::Ed25519),
            (ED25519[1], &ed25519, ModuleKeyKind::Ed25519),
        ] {
            for given in [point.clone(), wrapped(point)] {
                let found = public_point(curve, &given);
                assert!(matches!(found, Ok((k, p)) if k == kind && p == *point));
            }
            let cut = public_point(curve, &point[1..]);
            assert!(matches!(cut, Err(ModuleError::NoPublicKey)));
        }
        let p384 = public_point(&[6, 5, 0x2b, 0x81, 4, 0, 0x22], &p256);
        assert!(matches!(p384, Err(ModuleError::Kind)));
    }
}
