//! The verdict on TDX evidence.

use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier as _;
use sha2::{Digest as _, Sha256};

use super::chain::{self, CertifiedPlatform, Platform};
use super::collateral::{self, Components, EnclaveIdentity, Level, Svn, TcbInfo, Validity};
use super::error::{Evaluated, IdentityField, PlatformFlag, TdxField, TdxSetting};
use super::quote::{EnclaveReport, SignedQuote};
use super::{Document, Quote, TcbStatus, TdxError, TdxEvidence};
use crate::eventlog::{EventKind, EventLog};
use crate::policy::{Demand, Pin, TdxPolicy, Tolerance};
use crate::tpm::Register;
use crate::{Claim, Digest, Hex, UnixTime};

/// Attributes that say that the domain is under debug or profiled.
const UNDER_DEBUG: u64 = 0xff;
/// x87 and SSE: always there.
const XFAM_ALWAYS: u64 = 0b11;
/// x87, SSE, AVX, AVX-512, PT, PKRU, CET, UINTR, LBR, AMX: no module lets a domain use more.
const XFAM_KNOWN: u64 = 0x6_dbe7;
const REGISTERS: u8 = 4;

/// A quote that a certified platform signed and that is as the policy demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedQuote {
    quote: Quote,
    root: String,
    claims: Vec<Claim>,
}

impl VerifiedQuote {
    /// The quote.
    #[must_use]
    pub fn quote(&self) -> &Quote {
        &self.quote
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

/// Verifies that a platform of Intel's signed the quote for `report_data`, and that platform and
/// domain are as `policy` demands, at the time `now`. Which software was started is compared with
/// the policy only: who has a release compares it with the release.
pub fn verify(
    evidence: &TdxEvidence,
    report_data: &[u8; 64],
    policy: &TdxPolicy,
    now: UnixTime,
) -> Result<VerifiedQuote, TdxError> {
    let mut claims = Vec::new();
    let signed = SignedQuote::parse(&evidence.quote)?;
    let (certificates, collateral) = (&signed.certificates, &evidence.collateral);
    let certified = chain::verify(certificates, collateral, policy, now, &mut claims)?;
    check_signatures(&signed, &certified.key)?;
    let root = certified.root.to_string();
    let mut judge = Judge {
        quote: &signed.quote,
        policy,
        root: &root,
        claims,
        statuses: Vec::new(),
    };
    judge.report_data(report_data)?;
    let (info, identity) = judge.documents(evidence, &certified, now)?;
    judge.enclave(&signed.enclave, &identity)?;
    judge.tcb(&certified.platform, &info)?;
    judge.together()?;
    judge.platform(&certified.platform)?;
    judge.attributes()?;
    judge.pins()?;
    judge.events(&evidence.event_log)?;
    let claims = judge.claims;
    Ok(VerifiedQuote {
        quote: signed.quote,
        root,
        claims,
    })
}

/// The platform's key signed the quoting enclave's report, which names the attestation key, which
/// signed the quote.
fn check_signatures(signed: &SignedQuote<'_>, platform: &VerifyingKey) -> Result<(), TdxError> {
    platform
        .verify(signed.enclave_bytes, &signed.enclave_signature)
        .map_err(|_| TdxError::EnclaveSignature)?;
    let digest = Sha256::new()
        .chain_update(signed.key)
        .chain_update(signed.authentication)
        .finalize();
    let (named, rest) = signed.enclave.report_data.split_at(digest.len());
    if named != digest.as_slice() || rest.iter().any(|byte| *byte != 0) {
        return Err(TdxError::AttestationKey);
    }
    let point = [&[4], signed.key.as_slice()].concat();
    VerifyingKey::from_sec1_bytes(&point)
        .map_err(|_| TdxError::AttestationKey)?
        .verify(signed.signed, &signed.signature)
        .map_err(|_| TdxError::Signature)
}

/// A quote under judgement, and what was established so far.
struct Judge<'a> {
    quote: &'a Quote,
    policy: &'a TdxPolicy,
    root: &'a str,
    claims: Vec<Claim>,
    /// Intel's verdicts so far.
    statuses: Vec<TcbStatus>,
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

    fn report_data(&mut self, expected: &[u8; 64]) -> Result<(), TdxError> {
        let (expected, found) = (Digest(*expected), Digest(self.quote.report_data));
        if expected != found {
            let (expected, found) = (expected.into(), found.into());
            return Err(TdxError::ReportData { expected, found });
        }
        self.claim("binding", expected, found);
        Ok(())
    }

    fn documents(
        &mut self,
        evidence: &TdxEvidence,
        certified: &CertifiedPlatform<'_>,
        now: UnixTime,
    ) -> Result<(TcbInfo, EnclaveIdentity), TdxError> {
        let (given, key) = (&evidence.collateral, &certified.signer);
        let minimum = self.policy.minimum_tcb_evaluation;
        let at = |document: Document| move |fault| TdxError::Document { document, fault };
        let document = Document::TcbInfo;
        let (info, validity) = collateral::read::<TcbInfo>(
            &given.tcb_info,
            &given.tcb_info_signature,
            key,
            minimum,
            now,
        )
        .map_err(at(document))?;
        self.document(document, &validity);
        let document = Document::EnclaveIdentity;
        let (identity, validity) = collateral::read::<EnclaveIdentity>(
            &given.enclave_identity,
            &given.enclave_identity_signature,
            key,
            minimum,
            now,
        )
        .map_err(at(document))?;
        self.document(document, &validity);
        Ok((info, identity))
    }

    fn document(&mut self, document: Document, validity: &Validity) {
        let expected = format!("evaluation {} or later", self.policy.minimum_tcb_evaluation);
        let (number, until) = (validity.evaluation, validity.until);
        self.claim(
            document,
            expected,
            format!("evaluation {number}, until {until}"),
        );
    }

    /// The quoting enclave is Intel's, of a version that the policy accepts.
    fn enclave(&mut self, found: &EnclaveReport, stated: &EnclaveIdentity) -> Result<(), TdxError> {
        for (field, fits) in [
            (
                IdentityField::EnclaveSigner,
                stated.mrsigner.0 == found.mr_signer.0,
            ),
            (
                IdentityField::EnclaveProduct,
                stated.isvprodid == found.product,
            ),
            (
                IdentityField::EnclaveMiscSelect,
                stated
                    .miscselect
                    .matches(&stated.miscselect_mask, &found.misc_select),
            ),
            (
                IdentityField::EnclaveAttributes,
                stated
                    .attributes
                    .matches(&stated.attributes_mask, &found.attributes),
            ),
        ] {
            if !fits {
                return Err(TdxError::Identity { field });
            }
        }
        self.svn(Evaluated::QuotingEnclave, &stated.tcb_levels, found.svn)
    }

    /// Platform and TDX module are of versions that the policy accepts, when the domain was made
    /// and now.
    fn tcb(&mut self, platform: &Platform, stated: &TcbInfo) -> Result<(), TdxError> {
        for (field, expected, found) in [
            ("FMSPC", &platform.fmspc[..], &stated.fmspc.0[..]),
            ("PCE", &platform.pce_id[..], &stated.pce_id.0[..]),
        ] {
            if expected != found {
                let (expected, found) = (Hex(expected.into()), Hex(found.into()));
                return Err(TdxError::OtherPlatform {
                    field,
                    expected,
                    found,
                });
            }
        }
        let launch = (self.quote.tcb, Evaluated::LaunchModule, Evaluated::Launch);
        let current = self
            .quote
            .current_tcb
            .map(|tcb| (tcb, Evaluated::CurrentModule, Evaluated::Current));
        for (tcb, module, whole) in [Some(launch), current].into_iter().flatten() {
            self.module(module, &tcb, stated)?;
            let level = stated
                .tcb_levels
                .iter()
                .find(|level| reaches(&level.tcb, platform, &tcb));
            self.verdict(whole, level)?;
        }
        Ok(())
    }

    /// The TDX module is Intel's. The first two of the versions are the module's own: minor, major.
    fn module(
        &mut self,
        part: Evaluated,
        tcb: &[u8; 16],
        stated: &TcbInfo,
    ) -> Result<(), TdxError> {
        let [minor, version, ..] = *tcb;
        let (signer, attributes, mask, levels) = if version == 0 {
            let module = &stated.tdx_module;
            let (attributes, mask) = (&module.attributes, &module.attributes_mask);
            (&module.mrsigner, attributes, mask, None)
        } else {
            let name = format!("TDX_{version:02X}");
            let mut modules = stated.tdx_module_identities.iter();
            let module = modules
                .find(|module| module.id == name)
                .ok_or(TdxError::UnknownModule { version })?;
            let (attributes, mask) = (&module.attributes, &module.attributes_mask);
            (&module.mrsigner, attributes, mask, Some(&module.tcb_levels))
        };
        if signer.0 != self.quote.mr_signer_seam.0 {
            let field = IdentityField::ModuleSigner;
            return Err(TdxError::Identity { field });
        }
        if !attributes.matches(mask, &self.quote.seam_attributes) {
            let field = IdentityField::ModuleAttributes;
            return Err(TdxError::Identity { field });
        }
        match levels {
            None => Ok(()), // with major version 0, the levels of the platform hold both
            Some(levels) => self.svn(part, levels, u16::from(minor)),
        }
    }

    fn svn(&mut self, part: Evaluated, levels: &[Level<Svn>], found: u16) -> Result<(), TdxError> {
        let level = levels.iter().find(|level| level.tcb.isvsvn <= found);
        self.verdict(part, level)
    }

    /// The first level that is reached counts: Intel states them from the latest on.
    fn verdict<T>(&mut self, part: Evaluated, level: Option<&Level<T>>) -> Result<(), TdxError> {
        let level = level.ok_or(TdxError::NoLevel { part })?;
        let (found, accepted) = (level.tcb_status, &self.policy.tcb_statuses);
        if found == TcbStatus::Revoked || !accepted.contains(&found) {
            return Err(TdxError::Status { part, found });
        }
        let mut advisories = level.advisories.iter();
        if let Some(found) = advisories.find(|name| !self.policy.advisories.contains(name)) {
            let found = found.clone();
            return Err(TdxError::Advisory { part, found });
        }
        self.statuses.push(found);
        let names = |names: Vec<String>| match names.is_empty() {
            true => "no advisory".to_owned(),
            false => names.join(", "),
        };
        let statuses: Vec<_> = accepted.iter().map(ToString::to_string).collect();
        let listed = names(
            self.policy
                .advisories
                .iter()
                .map(ToString::to_string)
                .collect(),
        );
        let applying = names(level.advisories.iter().map(ToString::to_string).collect());
        self.claim(
            part,
            format!("{}; {listed}", statuses.join(" or ")),
            format!("{found}, level of {}; {applying}", level.tcb_date.0),
        );
        Ok(())
    }

    /// Where one part is out of date and another has to be configured, Intel's own verdict is both.
    fn together(&mut self) -> Result<(), TdxError> {
        let accepted = &self.policy.tcb_statuses;
        let any = |of: &[TcbStatus]| self.statuses.iter().any(|status| of.contains(status));
        let both = TcbStatus::OutOfDateConfigurationNeeded;
        let out_of_date = any(&[TcbStatus::OutOfDate, both]);
        let configuration = any(&[
            TcbStatus::ConfigurationNeeded,
            TcbStatus::ConfigurationAndSwHardeningNeeded,
            both,
        ]);
        if out_of_date && configuration {
            if !accepted.contains(&both) {
                let (part, found) = (Evaluated::Together, both);
                return Err(TdxError::Status { part, found });
            }
            let statuses: Vec<_> = accepted.iter().map(ToString::to_string).collect();
            self.claim(Evaluated::Together, statuses.join(" or "), both);
        }
        Ok(())
    }

    fn platform(&mut self, platform: &Platform) -> Result<(), TdxError> {
        let policy = self.policy;
        let flags = [
            (PlatformFlag::Dynamic, policy.dynamic_platforms),
            (PlatformFlag::CachedKeys, policy.cached_keys),
            (PlatformFlag::Smt, policy.smt),
        ];
        for ((flag, tolerance), found) in flags.into_iter().zip(platform.flags) {
            let expected = match tolerance {
                Tolerance::Refused if found != Some(false) => {
                    return Err(TdxError::Flag { flag, found });
                }
                Tolerance::Refused => "off",
                Tolerance::Accepted => "on or off (accepted by the policy)",
            };
            let found = found.map_or("not known", on);
            self.claim(format!("platform: {flag}"), expected, found);
        }
        self.pin(TdxField::Fmspc, &policy.fmspcs, &Digest(platform.fmspc))?;
        let instance = Digest(platform.instance);
        self.pin(
            TdxField::PlatformInstance,
            &policy.platform_instances,
            &instance,
        )
    }

    fn attributes(&mut self) -> Result<(), TdxError> {
        let (found, policy) = (self.quote.attributes, self.policy.attributes);
        if found & UNDER_DEBUG != 0 {
            return Err(TdxError::Debug { found });
        }
        self.claim("attributes: debugging", "off", "off");
        let settings = [
            (
                TdxSetting::SingleStepDefence,
                16,
                policy.single_step_defence.into(),
            ),
            (
                TdxSetting::ServiceDomainExtension,
                17,
                policy.service_domain_extension.into(),
            ),
            (TdxSetting::Lass, 27, policy.lass.into()),
            (TdxSetting::SeptVeDisable, 28, policy.sept_ve_disable.into()),
            (TdxSetting::Migratable, 29, policy.migratable.into()),
            (
                TdxSetting::ProtectionKeys,
                30,
                policy.protection_keys.into(),
            ),
            (TdxSetting::KeyLocker, 31, policy.key_locker.into()),
            (TdxSetting::QuotingDomain, 62, policy.quoting_domain.into()),
            (
                TdxSetting::PerformanceMonitoring,
                63,
                policy.performance_monitoring.into(),
            ),
        ];
        let known = settings.iter().fold(0, |bits, (_, bit, _)| bits | 1 << bit);
        if found & !known != 0 {
            return Err(TdxError::UnknownAttributes { found });
        }
        for (setting, bit, wish) in settings {
            let is_on = found >> bit & 1 != 0;
            let expected = match wish {
                Wish::Fixed(expected) if expected != is_on => {
                    return Err(TdxError::Setting { setting, expected });
                }
                Wish::Fixed(expected) => on(expected),
                Wish::Either(text) => text,
            };
            self.claim(setting, expected, on(is_on));
        }
        let xfam = u64::from_le_bytes(self.quote.xfam.0);
        if xfam & XFAM_ALWAYS != XFAM_ALWAYS || xfam & !XFAM_KNOWN != 0 {
            let found = self.quote.xfam;
            return Err(TdxError::Xfam { found });
        }
        if self.quote.vm_id != 0 {
            let found = self.quote.vm_id;
            return Err(TdxError::Partition { found });
        }
        Ok(())
    }

    fn pins(&mut self) -> Result<(), TdxError> {
        let (quote, policy) = (self.quote, self.policy);
        self.pin(
            TdxField::TeeTcbSvn,
            &policy.tee_tcb_svns,
            &Digest(quote.tcb),
        )?;
        self.pin(TdxField::Xfam, &policy.xfams, &quote.xfam)?;
        let [rtmr0, rtmr1, rtmr2, rtmr3] = quote.rtmrs;
        for (field, pin, found) in [
            (TdxField::MrSeam, &policy.mr_seams, quote.mr_seam),
            (
                TdxField::MrSignerSeam,
                &policy.mr_signer_seams,
                quote.mr_signer_seam,
            ),
            (TdxField::MrTd, &policy.mr_tds, quote.mr_td),
            (TdxField::Rtmr(0), &policy.rtmr0s, rtmr0),
            (TdxField::Rtmr(1), &policy.rtmr1s, rtmr1),
            (TdxField::Rtmr(2), &policy.rtmr2s, rtmr2),
            (TdxField::Rtmr(3), &policy.rtmr3s, rtmr3),
            (
                TdxField::MrConfigId,
                &policy.mr_config_ids,
                quote.mr_config_id,
            ),
            (TdxField::MrOwner, &policy.mr_owners, quote.mr_owner),
            (
                TdxField::MrOwnerConfig,
                &policy.mr_owner_configs,
                quote.mr_owner_config,
            ),
        ] {
            self.pin(field, pin, &found)?;
        }
        self.service_domains()?;
        // Said apart only where the attribute for it is on: zero otherwise.
        match quote.current_service_td {
            Some(found) if found != Digest::ZERO && found != quote.mr_service_td => {
                let expected = quote.mr_service_td;
                Err(TdxError::ServiceDomain { expected, found })
            }
            _ => Ok(()),
        }
    }

    /// A quote of TDX 1.0 does not hold them, and counts as one of a domain that has none: the
    /// claim says so. Those that migrate it can be bound only where the attribute for that is on.
    fn service_domains(&mut self) -> Result<(), TdxError> {
        let (pin, found) = (&self.policy.mr_service_tds, self.quote.mr_service_td);
        if self.quote.current_tcb.is_some() || !pin.admits(&found) {
            return self.pin(TdxField::MrServiceTd, pin, &found);
        }
        let found = "not in a quote of TDX 1.0: not checked";
        self.claim(TdxField::MrServiceTd, pin, found);
        Ok(())
    }

    fn pin<const N: usize>(
        &mut self,
        field: TdxField,
        pin: &Pin<N>,
        found: &Digest<N>,
    ) -> Result<(), TdxError> {
        if !pin.admits(found) {
            let found = Hex::from(*found);
            return Err(TdxError::Pinned { field, found });
        }
        self.claim(field, pin, found);
        Ok(())
    }

    /// The log's registers are numbered from 1: 0 would be MRTD, which has no events.
    fn events(&mut self, bytes: &[u8]) -> Result<(), TdxError> {
        let what = "event log";
        let expected = match (self.policy.event_log, bytes.is_empty()) {
            (Demand::Required, true) => return Err(TdxError::NoEventLog),
            (Demand::NotRequired, true) => {
                self.claim(what, "not required (relaxed by the policy)", "none");
                return Ok(());
            }
            (Demand::Required, false) => "required",
            (Demand::NotRequired, false) => "not required (relaxed by the policy)",
        };
        let log = EventLog::parse_ccel(bytes)?;
        for (event, entry) in (1..).zip(log.events()) {
            let measures = entry.kind != EventKind::NO_ACTION;
            let found = entry.register.0;
            if found > REGISTERS || (found == 0 && measures) {
                return Err(TdxError::EventRegister { event, found });
            }
            if measures && !self.policy.event_digests.admits(&entry.digest) {
                let found = entry.digest;
                return Err(TdxError::Event { event, found });
            }
        }
        for (number, expected) in (0..REGISTERS).zip(self.quote.rtmrs) {
            let register = Register(number + 1);
            let (found, events) = (log.replay(register), log.count(register));
            if found != expected {
                let field = TdxField::Rtmr(number);
                return Err(TdxError::Replay {
                    field,
                    expected,
                    found,
                    events,
                });
            }
        }
        let digests = &self.policy.event_digests;
        let expected = format!("{expected}; digests of events: {digests}");
        let found = format!("{} events explain RTMR0 to RTMR3", log.events().len());
        self.claim(what, expected, found);
        Ok(())
    }
}

/// Whether platform and TDX module are of these versions, or later. The module's own two versions
/// count here only with major version 0.
fn reaches(level: &Components, platform: &Platform, tcb: &[u8; 16]) -> bool {
    let own = if tcb[1] == 0 { 0 } else { 2 };
    let cpu = level.sgxtcbcomponents.iter().zip(&platform.cpu);
    let tdx = level.tdxtcbcomponents.iter().zip(tcb).skip(own);
    cpu.chain(tdx).all(|(stated, found)| stated.svn <= *found) && level.pcesvn <= platform.pce
}

fn on(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
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
