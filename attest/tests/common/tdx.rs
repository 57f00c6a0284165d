//! Verdicts on a trust domain that is signed at run time.
#![allow(dead_code, reason = "each test file uses a part of it")]

use attest::policy::TdxPolicy;
use attest::tdx::{TdxError, TdxEvidence, VerifiedQuote, verify};
use attest::{Refusal, UnixTime};
use signer::NOW;
use signer::intel::Domain;

/// A verdict.
pub(crate) type Verdict = Result<VerifiedQuote, TdxError>;

/// The verdict on `domain` for report data that are zero.
pub(crate) fn judge(domain: &Domain, policy: &TdxPolicy, now: UnixTime) -> Verdict {
    verify(&domain.evidence(), &[0; 64], policy, now)
}

/// Ends a change of a domain.
pub(crate) fn done(_: &mut Domain) {}

/// The fault that is found on a domain after `change`, under the policy for a sound one.
pub(crate) fn fault(change: impl FnOnce(&mut Domain)) -> TdxError {
    let mut domain = Domain::new();
    change(&mut domain);
    let error = judge(&domain, &Domain::new().policy(), NOW).expect_err("must be refused");
    let refusal = Refusal::from(error.clone());
    assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    error
}

/// The fault that is found in evidence after `change`.
pub(crate) fn spoilt(change: impl FnOnce(&mut TdxEvidence)) -> TdxError {
    let mut evidence = Domain::new().evidence();
    change(&mut evidence);
    verify(&evidence, &[0; 64], &Domain::new().policy(), NOW).expect_err("must be refused")
}
