//! What a person demands of a machine with AMD SEV-SNP.
//!
//! ```toml
//! [snp]
//! signing_keys = ["vcek"]                 # "vlek:NAME": that cloud's, not of one chip; or "vlek"
//! revocation_lists = "required"           # or "not-required"
//! update_after_launch = "refused"         # firmware committed since the guest was launched
//! vmpls = [0]
//! minimum_guest_svn = 0
//! minimum_guest_abi = [0, 0]              # major, minor
//! minimum_firmware = [1, 55, 0]           # major, minor, build; of what is committed
//! mitigations = 0                         # bits that must be set in both mitigation vectors
//! launch_digests = "any"                  # the release decides; a list narrows it
//! host_data = "any"                       # or one value, or a list of values
//! family_ids = "any"
//! image_ids = "any"
//! id_key_digests = "any"
//! author_key_digests = "any"
//! chip_ids = "any"
//!
//! [[snp.products]]                        # a product that is not named is refused
//! name = "genoa"                          # "milan", "genoa" (Bergamo, Siena), "turin"
//! root = "amd"                            # AMD's own, built in, or another in PEM form
//! minimum_tcb = { fmc = 0, boot_loader = 10, tee = 0, snp = 23, microcode = 84 }
//! minimum_revocation_list = 4             # CRL number
//!
//! [snp.guest]                             # what the guest was launched with
//! smt = "accepted"
//! migration_agent = "refused"
//! single_socket = "not-required"
//! cxl = "refused"
//! memory_aes_256_xts = "not-required"
//! rapl_disabled = "not-required"
//! ciphertext_hiding = "not-required"
//! page_swap_disabled = "not-required"
//!
//! [snp.platform]                          # what the machine is set to
//! smt = "accepted"
//! tsme = "not-required"
//! ecc = "required"
//! rapl_disabled = "not-required"
//! ciphertext_hiding = "not-required"
//! alias_check = "required"
//! tio = "refused"
//! ```
//!
//! A guest that may be debugged is refused: no field accepts it.

use serde::{Deserialize, Deserializer, de};

use super::{Demand, Pin, Tolerance};
use crate::Text;
use crate::certificate::TrustAnchor;
use crate::snp::{Product, SigningKey, TcbVersion};

/// What is demanded of a machine with AMD SEV-SNP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpPolicy {
    /// Products that are accepted, each with its root and its minimums.
    pub products: Vec<ProductPolicy>,
    /// Keys that may sign a report.
    pub signing_keys: SigningKeys,
    /// Whether a revocation list of the product's root must be at hand.
    pub revocation_lists: Demand,
    /// Whether firmware may have been committed since the guest was launched.
    pub update_after_launch: Tolerance,
    /// Privilege levels that may ask for the report.
    pub vmpls: Vec<u32>,
    /// Least security version of the guest.
    pub minimum_guest_svn: u32,
    /// Least firmware interface that the guest demands: major, minor.
    pub minimum_guest_abi: [u8; 2],
    /// Least committed firmware: major, minor, build.
    pub minimum_firmware: [u8; 3],
    /// Bits that must be set in both mitigation vectors.
    pub mitigations: u64,
    /// Launch digests, beside those of the release.
    pub launch_digests: Pin<48>,
    /// What the host gave at launch.
    pub host_data: Pin<32>,
    /// Family in the ID block.
    pub family_ids: Pin<16>,
    /// Image in the ID block.
    pub image_ids: Pin<16>,
    /// SHA-384 of the key that signed the ID block.
    pub id_key_digests: Pin<48>,
    /// SHA-384 of the key that certified the ID key.
    pub author_key_digests: Pin<48>,
    /// Chips.
    pub chip_ids: Pin<64>,
    /// What the guest was launched with.
    pub guest: SnpGuestPolicy,
    /// What the machine is set to.
    pub platform: SnpPlatformPolicy,
}

/// Keys that may sign a report: by kind, and those of clouds by the cloud as well.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SigningKeys(Vec<KeyName>);

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
enum KeyName {
    Kind(SigningKey),
    Cloud(Text),
}

/// A product that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductPolicy {
    /// Its name.
    pub name: Product,
    /// The root of its certificates.
    pub root: TrustAnchor,
    /// Least version of each part, reported, committed and at launch.
    pub minimum_tcb: TcbVersion,
    /// Least number of a revocation list.
    pub minimum_revocation_list: u64,
}

/// What the guest was launched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpGuestPolicy {
    /// May run with simultaneous multithreading.
    pub smt: Tolerance,
    /// May be moved by a migration agent.
    pub migration_agent: Tolerance,
    /// Runs on one socket only.
    pub single_socket: Demand,
    /// May use CXL memory.
    pub cxl: Tolerance,
    /// Runs only with AES-256-XTS for memory.
    pub memory_aes_256_xts: Demand,
    /// Runs only with energy counters off.
    pub rapl_disabled: Demand,
    /// Runs only with its ciphertext hidden from the host.
    pub ciphertext_hiding: Demand,
    /// Runs only with page swapping off.
    pub page_swap_disabled: Demand,
}

/// What the machine is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnpPlatformPolicy {
    /// Simultaneous multithreading is on.
    pub smt: Tolerance,
    /// All memory is encrypted.
    pub tsme: Demand,
    /// Memory corrects errors.
    pub ecc: Demand,
    /// Energy counters are off.
    pub rapl_disabled: Demand,
    /// Ciphertext is hidden from the host.
    pub ciphertext_hiding: Demand,
    /// The check for memory aliases has completed since the last reset.
    pub alias_check: Demand,
    /// Trusted input and output is on.
    pub tio: Tolerance,
}

impl AsRef<TrustAnchor> for ProductPolicy {
    fn as_ref(&self) -> &TrustAnchor {
        &self.root
    }
}

impl<'de> Deserialize<'de> for ProductPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            name: Product,
            root: String,
            minimum_tcb: TcbVersion,
            minimum_revocation_list: u64,
        }
        let fields = Fields::deserialize(deserializer)?;
        let root = match fields.root.as_str() {
            "amd" => fields.name.root(),
            pem => TrustAnchor::from_pem(pem),
        };
        Ok(Self {
            name: fields.name,
            root: root.map_err(de::Error::custom)?,
            minimum_tcb: fields.minimum_tcb,
            minimum_revocation_list: fields.minimum_revocation_list,
        })
    }
}

impl SigningKeys {
    /// Whether nothing is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Accepts all keys of a kind.
    pub fn push(&mut self, kind: SigningKey) {
        self.0.push(KeyName::Kind(kind));
    }

    /// Whether a key of this kind may be accepted.
    #[must_use]
    pub fn contains(&self, kind: &SigningKey) -> bool {
        self.0.iter().any(|name| match name {
            KeyName::Kind(named) => named == kind,
            KeyName::Cloud(_) => *kind == SigningKey::Vlek,
        })
    }

    /// The clouds whose keys are accepted; nothing if those of any are.
    pub(crate) fn clouds(&self) -> Option<Vec<&Text>> {
        let named = self.0.iter().filter_map(|name| match name {
            KeyName::Kind(SigningKey::Vcek) => None,
            KeyName::Kind(SigningKey::Vlek) => Some(None),
            KeyName::Cloud(cloud) => Some(Some(cloud)),
        });
        named.collect()
    }
}

impl From<Vec<SigningKey>> for SigningKeys {
    fn from(kinds: Vec<SigningKey>) -> Self {
        Self(kinds.into_iter().map(KeyName::Kind).collect())
    }
}

impl TryFrom<String> for KeyName {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match (text.as_str(), text.strip_prefix("vlek:")) {
            ("vcek", _) => Ok(Self::Kind(SigningKey::Vcek)),
            ("vlek", _) => Ok(Self::Kind(SigningKey::Vlek)),
            (_, Some(cloud)) => cloud
                .parse()
                .map(Self::Cloud)
                .map_err(|_| "\"vlek:\" without a cloud's name in printable ASCII"),
            _ => Err("neither \"vcek\" nor \"vlek\" nor \"vlek:NAME\""),
        }
    }
}
