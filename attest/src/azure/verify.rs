//! The verdict on a VM in Azure.

use std::fmt::Display;

use super::error::{AzureError, AzureField, AzureSetting};
use super::report::HclReport;
use super::{AzureEvidence, AzureHardware, AzureKind, AzureMachine};
use crate::eventlog::{EventLog, SecureBoot};
use crate::policy::{AzurePolicy, Demand, Pin, SecureBootPolicy, SnpPolicy, TdxPolicy, Tolerance};
use crate::release::statement::TpmReferenceValues;
use crate::tpm::Register;
use crate::tpm::vtpm::REGISTERS;
use crate::{Claim, Digest, Hex, Refusal, ReportData, UnixTime, snp, tdx, tpm};

/// A VM whose virtual TPM the hardware vouches for, and that is as the policy demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedVm {
    registers: Vec<(Register, Digest<32>)>,
    user_data: Digest<64>,
    claims: Vec<Claim>,
}

/// What the hardware vouches for.
pub struct Endorsed<'a> {
    /// The paravisor's report.
    pub report: HclReport<'a>,
    /// The root that it rests on.
    pub root: String,
    /// Everything that was checked.
    pub claims: Vec<Claim>,
}

impl VerifiedVm {
    /// The registers that were quoted, in the SHA-256 bank.
    #[must_use]
    pub fn registers(&self) -> &[(Register, Digest<32>)] {
        &self.registers
    }

    /// What the guest put into the paravisor's report.
    #[must_use]
    pub fn user_data(&self) -> Digest<64> {
        self.user_data
    }

    /// Everything that was checked.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

/// What is demanded of the hardware; nothing where it is not accepted.
type Policies<'a> = (Option<&'a SnpPolicy>, Option<&'a TdxPolicy>);

/// Verifies that hardware which one of `hardware` accepts vouches for a virtual TPM, that this TPM
/// made its quote for `nonce`, and that the VM is as `policy` demands, at the time `now`. What the
/// registers must hold says the policy only: who has a release compares them with the release.
pub fn verify(
    evidence: &AzureEvidence,
    nonce: &[u8],
    policy: &AzurePolicy,
    hardware: Policies<'_>,
    now: UnixTime,
) -> Result<VerifiedVm, AzureError> {
    let endorsed = verify_hardware(&evidence.hcl_report, &evidence.hardware, hardware, now)?;
    let report = endorsed.report;
    let quoted = evidence.quote.verify(&report.key, nonce)?;
    let mut judge = Judge {
        policy,
        root: &endorsed.root,
        claims: endorsed.claims,
    };
    let nonce = Hex(nonce.into());
    judge.claim("virtual TPM: nonce", &nonce, &nonce);
    judge.vm(&report)?;
    let value = |register: &Register| Some((*register, evidence.quote.value(*register)?));
    let registers: Vec<_> = quoted.iter().filter_map(value).collect();
    judge.registers(&registers)?;
    judge.events(&evidence.event_log, &registers, report.vm.secure_boot)?;
    Ok(VerifiedVm {
        registers,
        user_data: report.user_data,
        claims: judge.claims,
    })
}

/// Hardware, paravisor and settings as [`verify`] has them; the virtual TPM as any other: its
/// registers are those of the release, and the log explains all of them.
pub(crate) fn appraise(
    machine: &AzureMachine,
    report_data: &ReportData,
    stated: &TpmReferenceValues,
    (policy, hardware): (&AzurePolicy, Policies<'_>),
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let endorsed = verify_hardware(&machine.hcl_report, &machine.hardware, hardware, now)?;
    let (report, root) = (endorsed.report, endorsed.root);
    let mut judge = Judge {
        policy,
        root: &root,
        claims: endorsed.claims,
    };
    // What the hardware signed is the paravisor's data; what was asked for, its TPM signs.
    for claim in judge.claims.iter_mut().filter(|one| one.what == "binding") {
        claim.what = "binding of the paravisor".to_owned();
    }
    judge.vm(&report)?;
    claims.append(&mut judge.claims);
    let key = (&report.key, root.as_str());
    let secure_boot = tpm::appraise_virtual(
        &machine.tpm,
        key,
        report_data,
        stated,
        policy.secure_boot,
        claims,
    )?;
    match (secure_boot == SecureBoot::Enabled) == report.vm.secure_boot {
        true => Ok(()),
        false => Err(AzureError::SecureBoot.into()),
    }
}

/// Verifies that hardware which one of `policies` accepts vouches for the paravisor's report.
pub fn verify_hardware<'a>(
    hcl_report: &'a [u8],
    hardware: &AzureHardware,
    policies: Policies<'_>,
    now: UnixTime,
) -> Result<Endorsed<'a>, AzureError> {
    let report = HclReport::parse(hcl_report)?;
    let data = &report.report_data;
    let (root, claims) = match (report.kind, hardware) {
        (AzureKind::Snp, AzureHardware::Snp(given)) => {
            let policy = policies.0.ok_or(AzureError::NoPolicy)?;
            let mut given = given.clone();
            given.report = report.hardware.to_vec();
            let verified = snp::verify(&given, data, policy, now)?;
            let found = verified.report().vmpl;
            if found != 0 {
                return Err(AzureError::Vmpl { found });
            }
            (verified.root().to_owned(), verified.claims().to_vec())
        }
        (AzureKind::Tdx, AzureHardware::Tdx(given)) => {
            let policy = policies.1.ok_or(AzureError::NoPolicy)?;
            let verified = tdx::verify(given, data, policy, now)?;
            (verified.root().to_owned(), verified.claims().to_vec())
        }
        _ => return Err(AzureError::OtherHardware),
    };
    Ok(Endorsed {
        report,
        root,
        claims,
    })
}

struct Judge<'a> {
    policy: &'a AzurePolicy,
    root: &'a str,
    claims: Vec<Claim>,
}

impl Judge<'_> {
    fn claim(&mut self, what: impl Display, expected: impl Display, found: impl Display) {
        let claim = Claim::new(what, expected, found, self.root);
        self.claims.push(claim);
    }

    fn vm(&mut self, report: &HclReport<'_>) -> Result<(), AzureError> {
        let (vm, policy) = (&report.vm, self.policy);
        let secure_boot = policy.secure_boot == SecureBootPolicy::Required;
        let console = policy.console == Tolerance::Refused;
        for (setting, wish, found) in [
            (AzureSetting::Tpm, Some(true), vm.tpm),
            (
                AzureSetting::SecureBoot,
                secure_boot.then_some(true),
                vm.secure_boot,
            ),
            (AzureSetting::Console, console.then_some(false), vm.console),
        ] {
            let on = |is_on: bool| if is_on { "on" } else { "off" };
            let expected = match wish {
                Some(expected) if expected != found => {
                    return Err(AzureError::Setting { setting, expected });
                }
                Some(expected) => on(expected),
                None => "on or off (relaxed by the policy)",
            };
            self.claim(setting, expected, on(found));
        }
        let id = guid(&vm.vm_id).ok_or(AzureError::VmId)?;
        self.pin(AzureField::VmId, &policy.vm_ids, id)?;
        self.pin(AzureField::UserData, &policy.user_data, report.user_data)
    }

    fn pin<const N: usize>(
        &mut self,
        field: AzureField,
        pin: &Pin<N>,
        found: Digest<N>,
    ) -> Result<(), AzureError> {
        if !pin.admits(&found) {
            let found = found.into();
            return Err(AzureError::Pinned { field, found });
        }
        self.claim(field, pin, found);
        Ok(())
    }

    fn registers(&mut self, quoted: &[(Register, Digest<32>)]) -> Result<(), AzureError> {
        for pinned in &self.policy.pcrs {
            let register = pinned.register();
            let mut all = quoted.iter();
            let Some((_, found)) = all.find(|(other, _)| *other == register) else {
                return Err(AzureError::NotQuoted { register });
            };
            self.pin(AzureField::Register(register), &pinned.values, *found)?;
        }
        Ok(())
    }

    /// The log explains every quoted register, but for PCR 10, which the kernel goes on extending,
    /// and no register beside them.
    fn events(
        &mut self,
        log: &[u8],
        quoted: &[(Register, Digest<32>)],
        secure_boot: bool,
    ) -> Result<(), AzureError> {
        if log.is_empty() {
            let expected = match self.policy.event_log {
                Demand::Required => return Err(AzureError::NoEventLog),
                Demand::NotRequired => "not required (relaxed by the policy)",
            };
            self.claim("event log", expected, "none");
            return Ok(());
        }
        let log = EventLog::parse(log)?;
        let numbers = 0..u8::try_from(REGISTERS).unwrap_or(u8::MAX);
        for register in numbers.map(Register) {
            let events = log.count(register);
            let mut all = quoted.iter();
            let found = log.replay_sha256(register).ok_or(AzureError::Bank)?;
            match all.find(|(other, _)| *other == register) {
                Some((_, expected))
                    if *expected != found && register.0 < 16 && register.0 != 10 =>
                {
                    return Err(AzureError::Replay {
                        register,
                        expected: *expected,
                        found,
                        events,
                    });
                }
                None if events > 0 => return Err(AzureError::NotQuoted { register }),
                _ => {}
            }
        }
        let enabled = log.secure_boot_sha256()? == SecureBoot::Enabled;
        if enabled != secure_boot {
            return Err(AzureError::SecureBoot);
        }
        let found = format!("{} events", log.events().len());
        self.claim("event log", "explains PCR 0 to 9 and 11 to 15", found);
        Ok(())
    }
}

/// The sixteen bytes of a GUID, as they are written.
fn guid(text: &str) -> Option<Digest<16>> {
    let groups: Vec<_> = text.split('-').map(str::len).collect();
    let digits = text.replace('-', "").to_ascii_lowercase();
    digits.parse().ok().filter(|_| groups == [8, 4, 4, 4, 12])
}
