//! Verdicts on GPUs and switches that are signed at run time.
#![allow(dead_code, reason = "each test file uses a part of it")]

use attest::Refusal;
use attest::gpu::{DeviceFault, GpuError, GpuEvidence, ManifestError, VerifiedDevices, verify};
use signer::NOW;
use signer::nvidia::Rack;

/// What reports are made for.
pub(crate) const NONCE: [u8; 32] = [0x5a; 32];

/// A verdict.
pub(crate) type Verdict = Result<VerifiedDevices, GpuError>;

/// The verdict on `rack`, under the policy for a sound one.
pub(crate) fn judge(rack: &Rack) -> Verdict {
    let policy = Rack::new().policy();
    verify(&rack.evidence(&NONCE), &NONCE, rack.counts(), &policy, NOW)
}

/// The fault that is found after `change` of `rack`.
pub(crate) fn fault_of(mut rack: Rack, change: impl FnOnce(&mut Rack)) -> GpuError {
    change(&mut rack);
    let error = judge(&rack).expect_err("must be refused");
    let refusal = Refusal::from(error.clone());
    assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    error
}

/// The fault that is found after `change` of a machine with one GPU.
pub(crate) fn fault(change: impl FnOnce(&mut Rack)) -> GpuError {
    fault_of(Rack::new(), change)
}

/// Ends a change.
pub(crate) fn done<T>(_: T) {}

/// What is wrong with the first device.
pub(crate) fn device(change: impl FnOnce(&mut Rack)) -> DeviceFault {
    match fault(change) {
        GpuError::Device { device: 1, fault } => *fault,
        other => panic!("{other}"),
    }
}

/// What is wrong with the first manifest.
pub(crate) fn manifest(change: impl FnOnce(&mut Rack)) -> ManifestError {
    match fault(change) {
        GpuError::Manifest { manifest: 1, fault } => *fault,
        other => panic!("{other}"),
    }
}

/// The fault that is found in evidence after `change`.
pub(crate) fn spoilt(change: impl FnOnce(&mut GpuEvidence)) -> GpuError {
    let rack = Rack::new();
    let mut evidence = rack.evidence(&NONCE);
    change(&mut evidence);
    verify(&evidence, &NONCE, rack.counts(), &rack.policy(), NOW).expect_err("must be refused")
}
