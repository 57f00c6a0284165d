//! Verdicts on a machine with SEV-SNP that is signed at run time.

use attest::policy::SnpPolicy;
use attest::snp::{SnpError, VerifiedReport, verify};
use attest::{Refusal, UnixTime};
use signer::NOW;
use signer::amd::Machine;

/// A verdict.
pub(crate) type Verdict = Result<VerifiedReport, SnpError>;

/// The verdict on `machine` for report data that are zero.
pub(crate) fn judge(machine: &Machine, policy: &SnpPolicy, now: UnixTime) -> Verdict {
    verify(&machine.evidence(), &[0; 64], policy, now)
}

/// The fault that is found on a machine after `change`, under the policy for a sound one.
pub(crate) fn fault(change: impl FnOnce(&mut Machine)) -> SnpError {
    let mut machine = Machine::new();
    change(&mut machine);
    let error = judge(&machine, &Machine::new().policy(), NOW).expect_err("must be refused");
    let refusal = Refusal::from(error.clone());
    assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    error
}

/// The fault that is found if a field of the report is something else.
pub(crate) fn set(at: usize, bytes: &[u8]) -> SnpError {
    fault(|machine| {
        machine.set(at, bytes);
    })
}
