//! The verdict on what a TPM platform gives.

use super::google::GoogleField;
use super::vtpm::VtpmKey;
use super::{Register, TpmEvidence, chain, google, quote};
use crate::eventlog::{EventLog, SecureBoot};
use crate::policy::{GooglePolicy, SecureBootPolicy, TpmPolicy};
use crate::release::statement::TpmReferenceValues;
use crate::{Claim, Digest, Refusal, ReportData, UnixTime};

/// The registers that a release decides.
const PINNED: [Register; 5] = [
    Register(12),
    Register(13),
    Register(9),
    Register(4),
    Register(11),
];

/// A certified key signed the registers for this report data; they hold what the release states;
/// the event log explains them; Secure Boot is as the policy demands.
pub(crate) fn appraise(
    evidence: &TpmEvidence,
    report_data: &ReportData,
    stated: &TpmReferenceValues,
    policy: &TpmPolicy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let certified = chain::verify(&evidence.certificates, &policy.roots, now)?;
    let (root, data) = (certified.root.to_string(), report_data.qualifying_data());
    quote::verify(evidence, &certified.key, &data)?;
    let expected = "certified by a root of the policy";
    claims.push(Claim::new("attestation key", expected, &root, &root));
    let quoted = Quoted {
        evidence,
        binding: Digest(data),
        root: &root,
    };
    quoted.appraise(stated, policy.secure_boot, claims)?;
    Ok(())
}

/// The same of a virtual TPM of Google's cloud, whose key Google certified for an instance.
pub(crate) fn appraise_google(
    evidence: &TpmEvidence,
    report_data: &ReportData,
    stated: &TpmReferenceValues,
    policy: &GooglePolicy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let certified = google::verify(&evidence.certificates, &policy.roots, now)?;
    let (root, data) = (certified.root.to_string(), report_data.qualifying_data());
    quote::verify_virtual(evidence, &certified.key, &data)?;
    let expected = "certified by a root of the policy";
    claims.push(Claim::new("attestation key", expected, &root, &root));
    let instance = &certified.instance;
    for (field, pin, found) in [
        (
            GoogleField::Project,
            &policy.project_numbers,
            instance.project_number,
        ),
        (
            GoogleField::Instance,
            &policy.instance_numbers,
            instance.instance_number,
        ),
    ] {
        if !pin.admits(found) {
            return Err(Refusal::Google { field, found });
        }
        claims.push(Claim::new(field, pin, found, &root));
    }
    let quoted = Quoted {
        evidence,
        binding: Digest(data),
        root: &root,
    };
    quoted.appraise(stated, policy.secure_boot, claims)?;
    Ok(())
}

/// The same of a virtual TPM whose key something else vouches for; gives whether Secure Boot is on.
pub(crate) fn appraise_virtual(
    evidence: &TpmEvidence,
    key: (&VtpmKey, &str),
    report_data: &ReportData,
    stated: &TpmReferenceValues,
    secure_boot: SecureBootPolicy,
    claims: &mut Vec<Claim>,
) -> Result<SecureBoot, Refusal> {
    let ((key, root), data) = (key, report_data.qualifying_data());
    quote::verify_virtual(evidence, key, &data)?;
    let quoted = Quoted {
        evidence,
        binding: Digest(data),
        root,
    };
    quoted.appraise(stated, secure_boot, claims)
}

/// A quote that was verified, and the root that vouches for its key.
struct Quoted<'a> {
    evidence: &'a TpmEvidence,
    binding: Digest<48>,
    root: &'a str,
}

impl Quoted<'_> {
    fn appraise(
        &self,
        stated: &TpmReferenceValues,
        secure_boot: SecureBootPolicy,
        claims: &mut Vec<Claim>,
    ) -> Result<SecureBoot, Refusal> {
        let (root, binding) = (self.root, self.binding);
        claims.push(Claim::new("binding", binding, binding, root));
        check_pinned(self.evidence, stated, root, claims)?;
        let log = EventLog::parse(&self.evidence.event_log)?;
        check_replay(self.evidence, &log, root, claims)?;
        check_secure_boot(&log, secure_boot, root, claims)
    }
}

/// Additions by the host come first, then the most telling register: a changed command line
/// differs in 9, and in 4 and 11 as well.
fn check_pinned(
    evidence: &TpmEvidence,
    stated: &TpmReferenceValues,
    root: &str,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let [
        _,
        _,
        _,
        _,
        pcr4,
        _,
        _,
        _,
        _,
        pcr9,
        pcr11,
        pcr12,
        pcr13,
        _,
        _,
    ] = evidence.registers;
    let (found, stated) = ([pcr12, pcr13, pcr9, pcr4, pcr11], &stated.sha384);
    let expected = [
        stated.pcr12,
        stated.pcr13,
        stated.pcr9,
        stated.pcr4,
        stated.pcr11,
    ];
    for (register, (expected, found)) in PINNED.into_iter().zip(expected.into_iter().zip(found)) {
        if matches!(register.0, 12 | 13) && found != Digest::ZERO {
            return Err(Refusal::NotEmpty { register, found });
        }
        if found != expected {
            return Err(Refusal::Register {
                register,
                expected,
                found,
            });
        }
        claims.push(Claim::new(register, expected, found, root));
    }
    Ok(())
}

fn check_replay(
    evidence: &TpmEvidence,
    log: &EventLog<'_>,
    root: &str,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    for (register, expected) in evidence.registers() {
        let (found, events) = (log.replay(register), log.count(register));
        if expected != found {
            return Err(Refusal::Replay {
                register,
                expected,
                found,
                events,
            });
        }
        if !PINNED.contains(&register) {
            let found = format!("{found}, explained by the log ({events} events)");
            let expected = "whatever the log explains (not pinned)";
            claims.push(Claim::new(register, expected, found, root));
        }
    }
    Ok(())
}

fn check_secure_boot(
    log: &EventLog<'_>,
    policy: SecureBootPolicy,
    root: &str,
    claims: &mut Vec<Claim>,
) -> Result<SecureBoot, Refusal> {
    let is_on = log.secure_boot()?;
    let (enabled, found) = match is_on {
        SecureBoot::Enabled => (true, "enabled"),
        SecureBoot::Disabled => (false, "disabled"),
    };
    let expected = match policy {
        SecureBootPolicy::Required if !enabled => return Err(Refusal::SecureBoot),
        SecureBootPolicy::Required => "required",
        SecureBootPolicy::NotRequired => "not required (relaxed by the policy)",
    };
    claims.push(Claim::new("Secure Boot", expected, found, root));
    Ok(is_on)
}
