//! Whether the platform vouches for this report data, on a machine that runs the release.

use crate::policy::AzurePolicy;
use crate::release::statement::{ReferenceValues, SnpReferenceValues, TdxReferenceValues};
use crate::snp::{self, VerifiedReport};
use crate::tdx::{self, TdxField, VerifiedQuote};
use crate::{Claim, Platform, PlatformKind, Policy, Refusal, ReportData, UnixTime, azure, tpm};

/// The hardware or the TPM signed the report data, and what it measured is the release's.
pub(super) fn check(
    platform: &Platform,
    report_data: &ReportData,
    stated: &ReferenceValues,
    policy: &Policy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let not_accepted = Refusal::Platform {
        found: platform.kind(),
    };
    match platform {
        Platform::Tpm(evidence) => {
            let policy = policy.tpm.as_ref().ok_or(not_accepted)?;
            tpm::appraise(evidence, report_data, &stated.tpm, policy, now, claims)
        }
        Platform::Snp(evidence) => {
            let policy = policy.snp.as_ref().ok_or(not_accepted)?;
            let report = snp::verify(evidence, report_data.as_bytes(), policy, now)?;
            claims.extend_from_slice(report.claims());
            check_launch(&report, stated.snp.as_ref(), claims)
        }
        Platform::Tdx(evidence) => {
            let policy = policy.tdx.as_ref().ok_or(not_accepted)?;
            let quote = tdx::verify(evidence, report_data.as_bytes(), policy, now)?;
            claims.extend_from_slice(quote.claims());
            check_domain(&quote, stated.tdx.as_ref(), claims)
        }
        Platform::Azure(machine) => {
            let own: &AzurePolicy = policy.azure.as_ref().ok_or(not_accepted)?;
            let policies = (own, (policy.snp.as_ref(), policy.tdx.as_ref()));
            azure::appraise(machine, report_data, &stated.tpm, policies, now, claims)
        }
        Platform::Google(evidence) => {
            let policy = policy.google.as_ref().ok_or(not_accepted)?;
            tpm::appraise_google(evidence, report_data, &stated.tpm, policy, now, claims)
        }
    }
}

/// What was launched is one of the release's machines.
fn check_launch(
    verified: &VerifiedReport,
    stated: Option<&SnpReferenceValues>,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let platform = PlatformKind::Snp;
    let stated = stated.ok_or(Refusal::NoReferenceValues { platform })?;
    let found = verified.report().measurement;
    let mut machines = stated.launch_digests.iter();
    let Some(machine) = machines.find(|machine| machine.digest == found) else {
        let machines = stated.launch_digests.len();
        return Err(Refusal::LaunchDigest { found, machines });
    };
    let expected = format!("one of the release's {}", stated.launch_digests.len());
    let found = format!("{found} ({})", machine.machine);
    claims.push(Claim::new(
        "launched software",
        expected,
        found,
        verified.root(),
    ));
    Ok(())
}

/// What was started is one of the release's machines, in every register; nothing was measured at
/// run time.
fn check_domain(
    verified: &VerifiedQuote,
    stated: Option<&TdxReferenceValues>,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let platform = PlatformKind::Tdx;
    let stated = stated.ok_or(Refusal::NoReferenceValues { platform })?;
    let mut fitting: Vec<_> = stated.machines.iter().collect();
    let [rtmr0, rtmr1, rtmr2, rtmr3] = verified.quote().rtmrs;
    for (index, (field, found)) in [
        (TdxField::MrTd, verified.quote().mr_td),
        (TdxField::Rtmr(0), rtmr0),
        (TdxField::Rtmr(1), rtmr1),
        (TdxField::Rtmr(2), rtmr2),
        (TdxField::Rtmr(3), rtmr3),
    ]
    .into_iter()
    .enumerate()
    {
        let machines = fitting.len();
        fitting.retain(|machine| machine.registers().get(index) == Some(&Some(found)));
        if fitting.is_empty() {
            return Err(Refusal::DomainRegister {
                field,
                found,
                machines,
            });
        }
    }
    let names: Vec<_> = fitting.iter().map(|one| one.machine.as_str()).collect();
    let expected = format!("one of the release's {}", stated.machines.len());
    let found = format!("MRTD and RTMR0 to RTMR3 of {}", names.join(", "));
    claims.push(Claim::new(
        "launched software",
        expected,
        found,
        verified.root(),
    ));
    Ok(())
}
