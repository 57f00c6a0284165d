//! The verdict on SEV-SNP evidence.

use p384::ecdsa::signature::Verifier as _;

use super::chain::{self, CertifiedKey, Owner};
use super::error::GuestAbi;
use super::{
    Firmware, Product, Report, SnpError, SnpEvidence, SnpField, SnpSetting, Tcb, TcbVersion, report,
};
use crate::policy::{Demand, Pin, SnpPolicy, Tolerance};
use crate::{Claim, Digest, Hex, Text, UnixTime};

const DEBUG: u32 = 19;

/// A report that a certified key signed and that is as the policy demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedReport {
    report: Report,
    root: String,
    claims: Vec<Claim>,
}

impl VerifiedReport {
    /// The report.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The root that it rests on.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// Everything that was checked.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

/// Verifies that a key of AMD's signed the report for `report_data`, and that the machine is as
/// `policy` demands, at the time `now`. Which software was launched is compared with the policy
/// only: who has a release compares it with the release.
pub fn verify(
    evidence: &SnpEvidence,
    report_data: &[u8; 64],
    policy: &SnpPolicy,
    now: UnixTime,
) -> Result<VerifiedReport, SnpError> {
    let mut claims = Vec::new();
    let report = Report::parse(&evidence.report)?;
    let certified = chain::verify(evidence, policy, now, &mut claims)?;
    let root = certified.product.root.to_string();
    let mut judge = Judge {
        report: &report,
        policy,
        root: &root,
        claims,
    };
    judge.key(&certified)?;
    check_signature(evidence, &certified)?;
    judge.report_data(report_data)?;
    judge.pins()?;
    judge.tcb(&certified)?;
    judge.firmware()?;
    judge.guest()?;
    judge.platform()?;
    judge.mitigations()?;
    let claims = judge.claims;
    Ok(VerifiedReport {
        report,
        root,
        claims,
    })
}

fn check_signature(evidence: &SnpEvidence, certified: &CertifiedKey<'_>) -> Result<(), SnpError> {
    let (part, signature) = report::signed(&evidence.report)?;
    certified
        .key
        .verify(part, &signature)
        .map_err(|_| SnpError::Signature)
}

/// A report under judgement, and what was established so far.
struct Judge<'a> {
    report: &'a Report,
    policy: &'a SnpPolicy,
    root: &'a str,
    claims: Vec<Claim>,
}

impl Judge<'_> {
    fn claim(
        &mut self,
        what: impl std::fmt::Display,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) {
        let claim = Claim::new(what, expected, found, self.root);
        self.claims.push(claim);
    }

    /// The key is of a kind that the policy accepts, and of the report's own product and chip.
    fn key(&mut self, certified: &CertifiedKey<'_>) -> Result<(), SnpError> {
        let (report, found) = (self.report.signing_key, certified.owner.kind());
        if report != found {
            let certificate = found;
            return Err(SnpError::KeyKind {
                report,
                certificate,
            });
        }
        if !self.policy.signing_keys.contains(&found) {
            return Err(SnpError::SigningKey { found });
        }
        let expected = certified.product.name;
        if let Some([family, model]) = self.report.cpuid
            && Product::of_cpuid(family, model) != Some(expected)
        {
            return Err(SnpError::Processor {
                expected,
                family,
                model,
            });
        }
        self.claim("product", "named by the policy", expected);
        match &certified.owner {
            Owner::Chip(chip) => {
                let found = self.report.chip_id;
                if !chain::is_chip(chip, &found) {
                    let (expected, found) = (Hex(chip.as_slice().into()), found.into());
                    return Err(SnpError::Chip { expected, found });
                }
                self.claim("signing key", "VCEK of the report's chip", found);
            }
            Owner::Cloud(name) => self.cloud(name)?,
        }
        Ok(())
    }

    /// A cloud's key says nothing of the chip: whose it is must be what the policy names.
    fn cloud(&mut self, found: &Text) -> Result<(), SnpError> {
        let expected = match self.policy.signing_keys.clouds() {
            None => "VLEK of any cloud (not pinned by the policy)".to_owned(),
            Some(clouds) if clouds.contains(&found) => {
                let clouds: Vec<_> = clouds.into_iter().map(Text::as_str).collect();
                format!("VLEK of {}", clouds.join(" or "))
            }
            Some(_) => {
                let found = found.clone();
                return Err(SnpError::Cloud { found });
            }
        };
        self.claim("signing key", expected, found);
        Ok(())
    }

    fn report_data(&mut self, expected: &[u8; 64]) -> Result<(), SnpError> {
        let (expected, found) = (Digest(*expected), Digest(self.report.report_data));
        if expected != found {
            let (expected, found) = (expected.into(), found.into());
            return Err(SnpError::ReportData { expected, found });
        }
        self.claim("binding", expected, found);
        Ok(())
    }

    fn pins(&mut self) -> Result<(), SnpError> {
        let (report, policy) = (self.report, self.policy);
        self.pin(
            SnpField::LaunchDigest,
            &policy.launch_digests,
            &report.measurement,
        )?;
        self.pin(SnpField::HostData, &policy.host_data, &report.host_data)?;
        self.pin(SnpField::FamilyId, &policy.family_ids, &report.family_id)?;
        self.pin(SnpField::ImageId, &policy.image_ids, &report.image_id)?;
        self.pin(
            SnpField::IdKeyDigest,
            &policy.id_key_digests,
            &report.id_key_digest,
        )?;
        self.pin(
            SnpField::AuthorKeyDigest,
            &policy.author_key_digests,
            &report.author_key_digest,
        )?;
        self.pin(SnpField::ChipId, &policy.chip_ids, &report.chip_id)
    }

    fn pin<const N: usize>(
        &mut self,
        field: SnpField,
        pin: &Pin<N>,
        found: &Digest<N>,
    ) -> Result<(), SnpError> {
        if !pin.admits(found) {
            let found = Hex::from(*found);
            return Err(SnpError::Pinned { field, found });
        }
        self.claim(field, pin, found);
        Ok(())
    }

    /// The key is of the reported TCB. Reported, committed and current TCB rise in this order, and
    /// the guest was launched on nothing older than what is committed.
    fn tcb(&mut self, certified: &CertifiedKey<'_>) -> Result<(), SnpError> {
        let product = certified.product.name;
        let read = |tcb: Tcb, bytes: [u8; 8]| {
            TcbVersion::read(product, bytes).ok_or(SnpError::TcbEncoding {
                tcb,
                product,
                found: Digest(bytes),
            })
        };
        let reported = read(Tcb::Reported, self.report.reported_tcb)?;
        let committed = read(Tcb::Committed, self.report.committed_tcb)?;
        let current = read(Tcb::Current, self.report.current_tcb)?;
        let launch = read(Tcb::Launch, self.report.launch_tcb)?;
        if certified.tcb != reported {
            let (expected, found) = (certified.tcb, reported);
            return Err(SnpError::CertificateTcb { expected, found });
        }
        in_order((Tcb::Reported, reported), (Tcb::Committed, committed))?;
        in_order((Tcb::Committed, committed), (Tcb::Current, current))?;
        let minimum = certified.product.minimum_tcb;
        for (tcb, found) in [
            (Tcb::Reported, reported),
            (Tcb::Committed, committed),
            (Tcb::Launch, launch),
        ] {
            if let Some((part, minimum, found)) = found.below(&minimum) {
                return Err(SnpError::Tcb {
                    tcb,
                    part,
                    minimum,
                    found,
                });
            }
            let what = format!("{tcb} TCB");
            self.claim(what, format!("at least {minimum}"), found);
        }
        let expected = match self.policy.update_after_launch {
            Tolerance::Refused => {
                in_order((Tcb::Committed, committed), (Tcb::Launch, launch))?;
                "none committed since the launch"
            }
            Tolerance::Accepted => "accepted (relaxed by the policy)",
        };
        let found = match launch.below(&committed) {
            None => "none committed since the launch",
            Some(_) => "updated since the launch",
        };
        self.claim("firmware update", expected, found);
        Ok(())
    }

    fn firmware(&mut self) -> Result<(), SnpError> {
        let (committed, current) = (self.report.committed_firmware, self.report.current_firmware);
        if committed > current {
            return Err(SnpError::FirmwareOrder { committed, current });
        }
        let [major, minor, build] = self.policy.minimum_firmware;
        let minimum = Firmware {
            major,
            minor,
            build,
        };
        if committed < minimum {
            let found = committed;
            return Err(SnpError::Firmware { minimum, found });
        }
        self.claim(
            "committed firmware",
            format!("at least {minimum}"),
            committed,
        );
        Ok(())
    }

    fn guest(&mut self) -> Result<(), SnpError> {
        let (bits, policy) = (self.report.policy, self.policy.guest);
        if bits >> DEBUG & 1 != 0 {
            return Err(SnpError::Debug);
        }
        self.claim("guest policy: debugging", "off", "off");
        for (setting, bit, wish) in [
            (SnpSetting::GuestSmt, 16, Wish::from(policy.smt)),
            (
                SnpSetting::GuestMigrationAgent,
                18,
                policy.migration_agent.into(),
            ),
            (
                SnpSetting::GuestSingleSocket,
                20,
                policy.single_socket.into(),
            ),
            (SnpSetting::GuestCxl, 21, policy.cxl.into()),
            (
                SnpSetting::GuestAes256Xts,
                22,
                policy.memory_aes_256_xts.into(),
            ),
            (
                SnpSetting::GuestRaplDisabled,
                23,
                policy.rapl_disabled.into(),
            ),
            (
                SnpSetting::GuestCiphertextHiding,
                24,
                policy.ciphertext_hiding.into(),
            ),
            (
                SnpSetting::GuestPageSwapDisabled,
                25,
                policy.page_swap_disabled.into(),
            ),
        ] {
            self.setting(setting, bits >> bit & 1 != 0, wish)?;
        }
        let [minor, major, ..] = bits.to_le_bytes();
        let found = GuestAbi { major, minor };
        let [major, minor] = self.policy.minimum_guest_abi;
        let minimum = GuestAbi { major, minor };
        if found < minimum {
            return Err(SnpError::GuestAbi { minimum, found });
        }
        self.claim(
            "guest policy: interface",
            format!("at least {minimum}"),
            found,
        );
        let found = self.report.vmpl;
        if !self.policy.vmpls.contains(&found) {
            return Err(SnpError::Vmpl { found });
        }
        self.claim("VMPL", format!("one of {:?}", self.policy.vmpls), found);
        let (minimum, found) = (self.policy.minimum_guest_svn, self.report.guest_svn);
        if found < minimum {
            return Err(SnpError::GuestSvn { minimum, found });
        }
        self.claim("guest SVN", format!("at least {minimum}"), found);
        Ok(())
    }

    fn platform(&mut self) -> Result<(), SnpError> {
        let (bits, policy) = (self.report.platform_info, self.policy.platform);
        for (setting, bit, wish) in [
            (SnpSetting::PlatformSmt, 0, Wish::from(policy.smt)),
            (SnpSetting::PlatformTsme, 1, policy.tsme.into()),
            (SnpSetting::PlatformEcc, 2, policy.ecc.into()),
            (
                SnpSetting::PlatformRaplDisabled,
                3,
                policy.rapl_disabled.into(),
            ),
            (
                SnpSetting::PlatformCiphertextHiding,
                4,
                policy.ciphertext_hiding.into(),
            ),
            (SnpSetting::PlatformAliasCheck, 5, policy.alias_check.into()),
            (SnpSetting::PlatformTio, 7, policy.tio.into()),
        ] {
            self.setting(setting, bits >> bit & 1 != 0, wish)?;
        }
        Ok(())
    }

    fn setting(&mut self, setting: SnpSetting, found: bool, wish: Wish) -> Result<(), SnpError> {
        let on = |on: bool| if on { "on" } else { "off" };
        let expected = match wish {
            Wish::Fixed(expected) if expected != found => {
                return Err(SnpError::Setting { setting, expected });
            }
            Wish::Fixed(expected) => on(expected),
            Wish::Either(text) => text,
        };
        self.claim(setting, expected, on(found));
        Ok(())
    }

    /// Reports before version 5 say nothing of mitigations: none are there.
    fn mitigations(&mut self) -> Result<(), SnpError> {
        let expected = self.policy.mitigations;
        let vectors = self.report.mitigations.unwrap_or([0, 0]);
        for (when, found) in ["at launch", "now"].into_iter().zip(vectors) {
            if found & expected != expected {
                return Err(SnpError::Mitigations {
                    when,
                    expected,
                    found,
                });
            }
            let (what, expected) = (format!("mitigations {when}"), format!("{expected:#x}"));
            let found = match self.report.mitigations {
                Some(_) => format!("{found:#x}"),
                None => format!("not in a report of version {}", self.report.version),
            };
            self.claim(what, expected, found);
        }
        Ok(())
    }
}

/// What a policy wishes a setting to be.
#[derive(Clone, Copy)]
enum Wish {
    Fixed(bool),
    Either(&'static str),
}

impl From<Demand> for Wish {
    fn from(demand: Demand) -> Self {
        match demand {
            Demand::Required => Self::Fixed(true),
            Demand::NotRequired => Self::Either("on or off (not required by the policy)"),
        }
    }
}

impl From<Tolerance> for Wish {
    fn from(tolerance: Tolerance) -> Self {
        match tolerance {
            Tolerance::Refused => Self::Fixed(false),
            Tolerance::Accepted => Self::Either("on or off (accepted by the policy)"),
        }
    }
}

/// No part of `lower` is more than in `upper`.
fn in_order(lower: (Tcb, TcbVersion), upper: (Tcb, TcbVersion)) -> Result<(), SnpError> {
    match upper.1.below(&lower.1) {
        None => Ok(()),
        Some((part, found, limit)) => Err(SnpError::TcbOrder {
            lower: lower.0,
            upper: upper.0,
            part,
            limit,
            found,
        }),
    }
}
