//! What a person demands of machines, whatever they run: for evidence without a release.
//!
//! ```toml
//! version = 2
//!
//! [tpm-quote]                             # of a quote of a TPM alone, and of Google's
//! keys = ["-----BEGIN PUBLIC KEY----- …"] # attestation keys (RSA); who names one vouches for it
//! roots = ["google"]                      # who may certify others; both may not be empty
//! secure_boot = "required"                # or "not-required"; told by the event log
//! event_log = "required"                  # or "not-required"; what is there must fit
//! pcrs = [{ register = 4, values = "…" }] # SHA-256 bank; each must be quoted; may be empty
//! ```
//!
//! `[snp]`, `[tdx]`, `[azure]` and `[gpu]` are those of a whole policy; with `[gpu]` the version
//! is 3. `[tpm-quote]` is of version 2 and later.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use x509_cert::der::pem;

use super::{
    AzurePolicy, Demand, GpuPolicy, Later, List, MAX_POLICY_BYTES, Policy, PolicyError,
    RegisterPolicy, SecureBootPolicy, SnpPolicy, Tables, TdxPolicy, VERSION,
    VERSION_WITHOUT_REATTESTATION, check_registers, check_snp,
};
use crate::Digest;
use crate::certificate::TrustAnchor;
use crate::tpm::vtpm::VtpmKey;

/// What is demanded of machines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachinePolicy {
    version: u64,
    /// Of machines with SEV-SNP.
    pub snp: Option<SnpPolicy>,
    /// Of machines with TDX.
    pub tdx: Option<TdxPolicy>,
    /// Of VMs in Azure.
    pub azure: Option<AzurePolicy>,
    /// Of GPUs and switches.
    pub gpu: Option<GpuPolicy>,
    /// Of a quote alone.
    #[serde(rename = "tpm-quote")]
    pub tpm_quote: Option<TpmQuotePolicy>,
}

/// What is demanded of a quote of a TPM alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmQuotePolicy {
    /// Attestation keys that are believed by name.
    #[serde(deserialize_with = "keys")]
    pub keys: Vec<NamedKey>,
    /// Roots that may certify others.
    #[serde(deserialize_with = "super::tpm_roots")]
    pub roots: Vec<TrustAnchor>,
    /// Whether the firmware must enforce Secure Boot.
    pub secure_boot: SecureBootPolicy,
    /// Whether an event log must explain the registers.
    pub event_log: Demand,
    /// Registers that are pinned.
    pub pcrs: Vec<RegisterPolicy>,
}

/// An attestation key that a policy names.
#[derive(Clone)]
pub struct NamedKey {
    /// The key.
    pub key: VtpmKey,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub fingerprint: Digest<32>,
}

impl NamedKey {
    /// Reads a public key in PEM form (RFC 7468, section 13).
    #[must_use]
    pub fn from_pem(text: &str) -> Option<Self> {
        let (label, der) = pem::decode_vec(text.trim().as_bytes()).ok()?;
        let key = VtpmKey::from_der(&der).filter(|_| label == "PUBLIC KEY")?;
        let fingerprint = Digest::sha256(&der);
        Some(Self { key, fingerprint })
    }
}

impl PartialEq for NamedKey {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for NamedKey {}

impl fmt::Debug for NamedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fingerprint.fmt(f)
    }
}

fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<NamedKey>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let keys: Option<_> = texts.iter().map(|text| NamedKey::from_pem(text)).collect();
    keys.ok_or_else(|| de::Error::custom("not an RSA key of 2048 to 4096 bits in PEM form"))
}

impl MachinePolicy {
    /// Reads a policy file, or one that has only `version` and the tables of machines.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > MAX_POLICY_BYTES {
            return Err(PolicyError::TooLarge { found: bytes.len() });
        }
        let text = std::str::from_utf8(bytes).map_err(|_| PolicyError::Text)?;
        let fault = |error| PolicyError::Toml(Box::new(error));
        let table: toml::Table = toml::from_str(text).map_err(fault)?;
        if table.contains_key("release") {
            let policy = Policy::parse(bytes)?;
            return Ok(Self {
                version: policy.version,
                snp: policy.snp,
                tdx: policy.tdx,
                azure: policy.azure,
                gpu: policy.gpu,
                tpm_quote: None,
            });
        }
        let only: Self = toml::from_str(text).map_err(fault)?;
        match only.version {
            VERSION_WITHOUT_REATTESTATION..=VERSION => only.check(),
            found => Err(PolicyError::Version { found }),
        }
    }

    fn check(self) -> Result<Self, PolicyError> {
        for (later, is_there) in [
            (Later::GpuRevocation, self.gpu.is_some()),
            (Later::TpmQuote, self.tpm_quote.is_some()),
        ] {
            if is_there && self.version < later.since() {
                return Err(PolicyError::Later(later));
            }
        }
        let tables = Tables {
            snp: self.snp.as_ref(),
            tdx: self.tdx.as_ref(),
            google: None,
            gpu: self.gpu.as_ref(),
        };
        let nobody = |quote: &TpmQuotePolicy| quote.keys.is_empty() && quote.roots.is_empty();
        let mut lists = tables.lists();
        lists.push((
            List::TpmQuoteKeys,
            self.tpm_quote.as_ref().is_some_and(nobody),
        ));
        if let Some((list, _)) = lists.into_iter().find(|(_, empty)| *empty) {
            return Err(PolicyError::Empty(list));
        }
        check_snp(self.snp.as_ref())?;
        if let Some(azure) = &self.azure {
            check_registers("azure", &azure.pcrs)?;
        }
        if let Some(quote) = &self.tpm_quote {
            check_registers("tpm-quote", &quote.pcrs)?;
        }
        Ok(self)
    }
}
