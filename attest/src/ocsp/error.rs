//! Why a response vouches for no certificate.

use std::fmt;

use x509_cert::der::asn1::ObjectIdentifier;

use super::MAX_RESPONSE_BYTES;
use crate::certificate::ChainFault;
use crate::{Hex, UnixTime};

/// What can be wrong with the status of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusFault {
    /// Longer than [`MAX_RESPONSE_BYTES`].
    #[error("{found} bytes, {MAX_RESPONSE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// Not DER of an OCSP response.
    #[error("not an OCSP response in DER")]
    Encoding,
    /// The responder did not answer.
    #[error("the responder answers with error {status} instead of a status")]
    Unsuccessful {
        /// OCSPResponseStatus: 1 malformed request, 2 internal, 3 try later, 5 signature required,
        /// 6 unauthorised.
        status: u8,
    },
    /// Not of the basic kind.
    #[error("not a basic OCSP response")]
    Kind,
    /// It does not speak of exactly one certificate.
    #[error("speaks of more than one certificate")]
    Several,
    /// It names a certificate by another hash than SHA-1, SHA-256 or SHA-384.
    #[error("names the certificate by an unknown hash")]
    Hash,
    /// A critical extension that this program does not process: it may mean something else.
    #[error("unknown critical extension {found}")]
    CriticalExtension {
        /// The extension.
        found: ObjectIdentifier,
    },
    /// It comes with other certificates than the responder's and its issuer's.
    #[error("comes with certificates other than the responder's and its issuer's")]
    Certificates,
    /// The responder's certificate is not sound.
    #[error("certificate of the responder: {0}")]
    Certificate(Box<ChainFault>),
    /// The responder's certificate is not for this.
    #[error("certificate of the responder: not certified to sign OCSP responses")]
    Purpose,
    /// The responder's certificate is revoked by a list of its issuer.
    #[error("certificate of the responder: revoked by its issuer")]
    ResponderRevoked,
    /// It names another responder than the one whose key is at hand.
    #[error("names another responder than the certificate's issuer or its delegate")]
    Responder,
    /// Not signed by the responder's key.
    #[error("not signed by the responder's key")]
    Signature,
    /// Of the future.
    #[error("not valid before {from}, and it is {now}")]
    NotYetValid {
        /// Start of validity.
        from: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// It does not say until when it holds.
    #[error("does not say when the next one is due")]
    NoNextUpdate,
    /// A newer one is due.
    #[error("due for renewal at {until}, and it is {now}")]
    Expired {
        /// When the next one was due.
        until: UnixTime,
        /// The time of verification.
        now: UnixTime,
    },
    /// It answers another request.
    #[error("answers another request: nonce {expected} expected, found {}", Shown(.found))]
    Nonce {
        /// Nonce of the request.
        expected: Hex,
        /// Nonce in the response, if there is one.
        found: Option<Hex>,
    },
    /// The certificate is revoked.
    #[error("revoked at {at}{}", Why(.reason))]
    Revoked {
        /// Since when.
        at: UnixTime,
        /// Why, if the issuer says so.
        reason: Option<Reason>,
    },
    /// The certificate is suspended.
    #[error("on hold since {since}")]
    OnHold {
        /// Since when.
        since: UnixTime,
    },
    /// The responder does not know the certificate.
    #[error("not known to the responder")]
    Unknown,
}

impl StatusFault {
    /// Whether the response is only out of date, or none was given.
    pub(crate) fn is_date(&self) -> bool {
        match self {
            Self::Unsuccessful { .. } | Self::NotYetValid { .. } | Self::Expired { .. } => true,
            Self::Certificate(fault) => fault.is_date(),
            _ => false,
        }
    }
}

impl From<ChainFault> for StatusFault {
    fn from(fault: ChainFault) -> Self {
        Self::Certificate(Box::new(fault))
    }
}

/// CRLReason (RFC 5280, 5.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason(u8);

impl Reason {
    /// certificateHold: the only one that may end.
    pub const ON_HOLD: Self = Self(6);

    /// 0 to 10; 7 is not used.
    pub(super) fn read(value: &[u8]) -> Option<Self> {
        match *value {
            [reason @ (0..=6 | 8..=10)] => Some(Self(reason)),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "key compromised",
            2 => "authority compromised",
            3 => "affiliation changed",
            4 => "superseded",
            5 => "out of operation",
            6 => "on hold",
            8 => "removed from the list",
            9 => "privilege withdrawn",
            10 => "attribute authority compromised",
            _ => "no reason given",
        })
    }
}

struct Why<'a>(&'a Option<Reason>);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(reason) => write!(f, ": {reason}"),
            None => Ok(()),
        }
    }
}

struct Shown<'a>(&'a Option<Hex>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(nonce) => write!(f, "{nonce}"),
            None => f.write_str("none"),
        }
    }
}
