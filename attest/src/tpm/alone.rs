//! The verdict on a quote alone, as files hold it: of a key that the policy names, or that one of
//! its roots certified, over the SHA-256 bank.

use super::google;
use super::registers::{self, RegisterFault};
use super::vtpm::{VtpmError, VtpmKey, VtpmQuote};
use super::{MAX_CERTIFICATES, Register};
use crate::certificate::ChainError;
use crate::eventlog::SecureBoot;
use crate::policy::{SecureBootPolicy, TpmQuotePolicy};
use crate::{Claim, Digest, Hex, UnixTime};

/// A quote with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuoteAlone {
    /// The quote.
    pub quote: VtpmQuote,
    /// Certificates of the key that signed, leaf first; none where the policy names the key.
    pub certificates: Vec<Vec<u8>>,
    /// The firmware's log of what it measured; may be empty.
    pub event_log: Vec<u8>,
}

/// A quote that was believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedTpmQuote {
    root: String,
    registers: Vec<(Register, Digest<32>)>,
    claims: Vec<Claim>,
}

/// Why a quote alone was not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TpmQuoteError {
    /// No certificates came with it, and no key of the policy signed it.
    #[error("attestation key: none of the {named} that the policy names signed this quote")]
    Key {
        /// How many it names.
        named: usize,
    },
    /// More certificates than a chain has.
    #[error("attestation key: {found} certificates, at most {MAX_CERTIFICATES} allowed")]
    Certificates {
        /// How many were found.
        found: usize,
    },
    /// Its key is not certified by a root of the policy.
    #[error("attestation key: {0}")]
    Chain(#[from] ChainError),
    /// The quote does not vouch for the registers and the nonce.
    #[error("quote: {0}")]
    Quote(#[from] VtpmError),
    /// The registers are not those of the policy and of the log.
    #[error(transparent)]
    Registers(#[from] RegisterFault),
    /// Secure Boot is off, and the policy demands it.
    #[error("Secure Boot: required by the policy, found disabled")]
    SecureBoot,
    /// Nothing says whether Secure Boot is on, and the policy demands it.
    #[error("Secure Boot: required by the policy, and no event log tells of it")]
    SecureBootUnknown,
}

impl VerifiedTpmQuote {
    /// The root or the key that it rests on.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The registers that were quoted, in the SHA-256 bank.
    #[must_use]
    pub fn registers(&self) -> &[(Register, Digest<32>)] {
        &self.registers
    }

    /// Everything that was checked.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

impl TpmQuoteError {
    /// Whether something is out of date.
    pub(crate) fn is_date(&self) -> bool {
        matches!(self, Self::Chain(error) if error.fault.is_date())
    }

    /// Whether something is not what it says it is.
    pub(crate) fn is_forged(&self) -> bool {
        match self {
            Self::Key { .. } | Self::Certificates { .. } | Self::Chain(_) | Self::Quote(_) => true,
            Self::Registers(fault) => fault.is_forged(),
            Self::SecureBoot | Self::SecureBootUnknown => false,
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> &'static str {
        match self {
            Self::Key { .. } => {
                "name its key in tpm-quote.keys if you know it, or give its certificates by --certs"
            }
            Self::Chain(_) if self.is_date() => "judge it at its time by --at",
            Self::Certificates { .. } | Self::Chain(_) => {
                "if you accept who certified the key, name the root in tpm-quote.roots"
            }
            Self::Quote(VtpmError::Nonce { .. }) => {
                "the quote was made for something else: ask for one with your own nonce"
            }
            Self::Quote(_) => "message, signature and registers are not of one quote, or altered",
            Self::Registers(fault) => fault.hint(),
            Self::SecureBoot => "enable Secure Boot, or relax tpm-quote.secure_boot",
            Self::SecureBootUnknown => {
                "give the log by --event-log, or relax tpm-quote.secure_boot"
            }
        }
    }
}

impl RegisterFault {
    /// Whether something is not what it says it is.
    pub(crate) fn is_forged(&self) -> bool {
        matches!(self, Self::EventLog(_) | Self::Bank | Self::Replay { .. })
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Pinned { .. } => "something else was started than the policy pins",
            Self::NotQuoted { .. } => "ask for a quote over every register that is to be judged",
            Self::NoEventLog => "give the log by --event-log, or relax tpm-quote.event_log",
            Self::EventLog(_) | Self::Bank | Self::Replay { .. } => {
                "the log is of another start, or was altered"
            }
        }
    }
}

/// Verifies that a key which `policy` believes signed the quote, for `nonce` where one is named,
/// and that its registers are as `policy` demands, at the time `now`.
pub fn verify(
    evidence: &QuoteAlone,
    nonce: Option<&[u8]>,
    policy: &TpmQuotePolicy,
    now: UnixTime,
) -> Result<VerifiedTpmQuote, TpmQuoteError> {
    let quote = &evidence.quote;
    let shown = quote.nonce().unwrap_or_default();
    let asked = nonce.unwrap_or(&shown);
    let (root, key) = signer(evidence, policy, now)?;
    let covered = quote.verify(&key, asked)?;
    let mut claims = Vec::new();
    let mut claim = |what: &str, expected: &str, found: &str| {
        claims.push(Claim::new(what, expected, found, &root));
    };
    claim("attestation key", "named or certified by the policy", &root);
    let asked = Hex(asked.into()).to_string();
    let expected = match nonce {
        Some(_) => asked.as_str(),
        None => "any (not checked: none was named)",
    };
    claim("nonce", expected, &asked);
    let value = |register: &Register| Some((*register, quote.value(*register)?));
    let registers: Vec<_> = covered.iter().filter_map(value).collect();
    registers::check_pins(&policy.pcrs, &registers)?;
    let explained = registers::check_events(&evidence.event_log, policy.event_log, &registers)?;
    let secure_boot = explained.as_ref().map(|log| log.secure_boot);
    let demanded = policy.secure_boot == SecureBootPolicy::Required;
    let found = match secure_boot {
        Some(SecureBoot::Enabled) => "enabled",
        Some(SecureBoot::Disabled) if demanded => return Err(TpmQuoteError::SecureBoot),
        None if demanded => return Err(TpmQuoteError::SecureBootUnknown),
        Some(SecureBoot::Disabled) => "disabled",
        None => "not known: no event log",
    };
    let expected = match demanded {
        true => "required",
        false => "not required (relaxed by the policy)",
    };
    claim("Secure Boot", expected, found);
    match explained {
        Some(log) => {
            let found = format!("{} events", log.events);
            claim(
                "event log",
                "explains what was quoted of PCR 0 to 9 and 11 to 15",
                &found,
            );
        }
        None => claim("event log", "not required (relaxed by the policy)", "none"),
    }
    for (register, found) in &registers {
        let mut pins = policy.pcrs.iter();
        let pin = pins.find(|pin| pin.register() == *register);
        let expected = pin.map_or_else(
            || "any (not pinned by the policy)".to_owned(),
            |pin| pin.values.to_string(),
        );
        claim(&register.to_string(), &expected, &found.to_string());
    }
    Ok(VerifiedTpmQuote {
        root,
        registers,
        claims,
    })
}

/// Who vouches for the key, and the key. Certificates are Google's; without any, a key of the
/// policy signed.
fn signer(
    evidence: &QuoteAlone,
    policy: &TpmQuotePolicy,
    now: UnixTime,
) -> Result<(String, VtpmKey), TpmQuoteError> {
    let mut named = policy.keys.iter();
    if let Some(found) = named.find(|one| evidence.quote.is_signed_by(&one.key)) {
        let root = format!("key {}, named by the policy", found.fingerprint);
        return Ok((root, found.key.clone()));
    }
    if evidence.certificates.is_empty() {
        let named = policy.keys.len();
        return Err(TpmQuoteError::Key { named });
    }
    let found = evidence.certificates.len();
    if found > MAX_CERTIFICATES {
        return Err(TpmQuoteError::Certificates { found });
    }
    let certified = google::verify(&evidence.certificates, &policy.roots, now)?;
    Ok((certified.root.to_string(), certified.key))
}
