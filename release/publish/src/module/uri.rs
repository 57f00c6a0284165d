//! Which key: a PKCS#11 URI (RFC 7512).
//!
//! ```text
//! pkcs11:token=release;object=signer?module-path=/usr/lib/….so&pin-source=file:/etc/cloister/pin
//! ```
//!
//! In the path: token, serial, manufacturer, model, slot-id, object, id, type=private. In the
//! query: module-path, which must be there, and pin-source. What is not known is refused, and so is
//! pin-value: whoever lists processes reads it.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::slot::TokenInfo;

/// Longest URI.
const MAX_URI_BYTES: usize = 4096;

/// A URI of a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUri {
    token: Option<String>,
    serial: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    slot: Option<u64>,
    object: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    module: PathBuf,
    pin: Option<PathBuf>,
}

/// Why a text is no URI of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// Does not begin with `pkcs11:`, or is too long.
    #[error("not a PKCS#11 URI")]
    Scheme,
    /// Not `name=value`, or a percent sign without two digits.
    #[error("not attributes of the form name=value")]
    Form,
    /// An attribute that is not known here, or that stands there twice.
    #[error("an attribute that is not known here, or that stands there twice")]
    Attribute,
    /// The PIN itself.
    #[error("the PIN stands in the URI, where everybody reads it")]
    Pin,
    /// Not a private key.
    #[error("type= is not private")]
    Type,
    /// No module.
    #[error("module-path= is missing, or is not an absolute path")]
    Module,
    /// Neither object nor id.
    #[error("object= and id= are both missing: one of them names the key")]
    Object,
}

impl KeyUri {
    /// Whether a text means to be one.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        text.starts_with("pkcs11:")
    }

    /// The library.
    #[must_use]
    pub fn module_path(&self) -> &Path {
        &self.module
    }

    /// The file with the PIN.
    #[must_use]
    pub fn pin_source(&self) -> Option<&Path> {
        self.pin.as_deref()
    }

    /// Whether it names this token.
    pub(super) fn fits(&self, slot: u64, token: &TokenInfo) -> bool {
        let fits = |wanted: &Option<String>, found: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted == found.trim_end())
        };
        fits(&self.token, token.label())
            && fits(&self.serial, token.serial_number())
            && fits(&self.manufacturer, token.manufacturer_id())
            && fits(&self.model, token.model())
            && self.slot.is_none_or(|wanted| wanted == slot)
    }

    /// What the key is looked up by.
    pub(super) fn template(&self, class: ObjectClass) -> Vec<Attribute> {
        let object = self.object.clone().map(Attribute::Label);
        let id = self.id.clone().map(Attribute::Id);
        let class = Attribute::Class(class);
        std::iter::once(class).chain(object).chain(id).collect()
    }
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let rest = text.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        if text.len() > MAX_URI_BYTES {
            return Err(UriError::Scheme);
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut fields = Fields::default();
        for one in path.split(';').filter(|one| !one.is_empty()) {
            fields.path(one)?;
        }
        for one in query.split('&').filter(|one| !one.is_empty()) {
            fields.query(one)?;
        }
        let uri = fields.0;
        if !uri.module.is_absolute() {
            return Err(UriError::Module);
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err(UriError::Object);
        }
        Ok(uri)
    }
}

/// A URI that is being read.
struct Fields(KeyUri);

impl Default for Fields {
    fn default() -> Self {
        Self(KeyUri {
            token: None,
            serial: None,
            manufacturer: None,
            model: None,
            slot: None,
            object: None,
            id: None,
            module: PathBuf::new(),
            pin: None,
        })
    }
}

impl Fields {
    fn path(&mut self, one: &str) -> Result<(), UriError> {
        let (name, bytes) = attribute(one)?;
        let uri = &mut self.0;
        match name {
            "token" => set(&mut uri.token, text(bytes)?),
            "serial" => set(&mut uri.serial, text(bytes)?),
            "manufacturer" => set(&mut uri.manufacturer, text(bytes)?),
            "model" => set(&mut uri.model, text(bytes)?),
            "slot-id" => {
                let number = text(bytes)?.parse().map_err(|_| UriError::Form)?;
                set(&mut uri.slot, number)
            }
            "object" => set(&mut uri.object, bytes),
            "id" => set(&mut uri.id, bytes),
            "type" if bytes == b"private" => Ok(()),
            "type" => Err(UriError::Type),
            _ => Err(UriError::Attribute),
        }
    }

    fn query(&mut self, one: &str) -> Result<(), UriError> {
        let (name, bytes) = attribute(one)?;
        let uri = &mut self.0;
        match name {
            "module-path" if uri.module.as_os_str().is_empty() => {
                uri.module = text(bytes)?.into();
                Ok(())
            }
            "pin-source" => {
                let source = text(bytes)?;
                let path = source.strip_prefix("file:").unwrap_or(&source);
                // `file:///path` as well as `file:/path`.
                let path = path.strip_prefix("//").unwrap_or(path);
                set(&mut uri.pin, path.into())
            }
            "pin-value" => Err(UriError::Pin),
            _ => Err(UriError::Attribute),
        }
    }
}

fn set<T>(field: &mut Option<T>, value: T) -> Result<(), UriError> {
    match field.replace(value) {
        None => Ok(()),
        Some(_) => Err(UriError::Attribute),
    }
}

/// `name=value`, the value's percent signs resolved.
fn attribute(text: &str) -> Result<(&str, Vec<u8>), UriError> {
    let (name, value) = text.split_once('=').ok_or(UriError::Form)?;
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value.as_bytes());
    while let [first, behind @ ..] = rest {
        let byte;
        (byte, rest) = match (first, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = digit(high).zip(digit(low)).ok_or(UriError::Form)?;
                ((high * 16 + low) as u8, behind)
            }
            (b'%', _) => return Err(UriError::Form),
            (byte, behind) => (*byte, behind),
        };
        bytes.push(byte);
    }
    Ok((name, bytes))
}

fn text(bytes: Vec<u8>) -> Result<String, UriError> {
    String::from_utf8(bytes).map_err(|_| UriError::Form)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_token_key_module_and_pin() {
        let uri: KeyUri = "pkcs11:token=The%20release;id=%00%ff;type=private?module-path=/m.so&\
                           pin-source=file:/run/pin"
            .parse()
            .unwrap();
        assert_eq!(uri.token.as_deref(), Some("The release"));
        assert_eq!(uri.id, Some(vec![0, 0xff]));
        assert_eq!(uri.module_path(), Path::new("/m.so"));
        assert_eq!(uri.pin_source(), Some(Path::new("/run/pin")));
        let uri: KeyUri = "pkcs11:object=a?module-path=/m.so".parse().unwrap();
        assert_eq!(uri.pin_source(), None);
        assert_eq!(uri.object, Some(b"a".to_vec()));
    }

    #[test]
    fn what_is_unclear_or_gives_the_pin_away_is_refused() {
        let of = |text: &str| text.parse::<KeyUri>().unwrap_err();
        for (text, error) in [
            ("signer.pem", UriError::Scheme),
            ("pkcs11:object", UriError::Form),
            ("pkcs11:object=%4", UriError::Form),
            ("pkcs11:object=%zz", UriError::Form),
            ("pkcs11:token=%ff;object=a", UriError::Form),
            ("pkcs11:slot-id=x;object=a", UriError::Form),
            ("pkcs11:object=a;object=b", UriError::Attribute),
            ("pkcs11:object=a;x-vendor=b", UriError::Attribute),
            (
                "pkcs11:object=a?module-path=/m&module-path=/n",
                UriError::Attribute,
            ),
            ("pkcs11:object=a?module-name=m", UriError::Attribute),
            (
                "pkcs11:object=a?module-path=/m&pin-value=1234",
                UriError::Pin,
            ),
            ("pkcs11:object=a;type=cert?module-path=/m", UriError::Type),
            ("pkcs11:object=a", UriError::Module),
            ("pkcs11:object=a?module-path=m.so", UriError::Module),
            ("pkcs11:token=a?module-path=/m.so", UriError::Object),
        ] {
            assert_eq!(of(text), error, "{text}");
        }
        let long = format!("pkcs11:object={}?module-path=/m", "a".repeat(MAX_URI_BYTES));
        assert_eq!(of(&long), UriError::Scheme);
    }
}
