//! Each limit of bytes is the one that is stated: what is exactly so long is read, and refused for
//! what it is; one byte more is refused for its length.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::azure::{HclError, HclReport, MAX_HCL_BYTES};
use attest::capsule::{Capsule, CapsuleError, MAX_CAPSULE_BYTES};
use attest::configuration::{Configuration, ConfigurationError, MAX_CONFIGURATION_BYTES};
use attest::crl::{MAX_CRL_BYTES, next_update};
use attest::eventlog::{EventLog, EventLogError, MAX_EVENT_LOG_BYTES};
use attest::evidence::{Evidence, EvidenceError, MAX_EVIDENCE_BYTES};
use attest::gpu::{self, DeviceEvidence, MAX_REPORT_BYTES, Report, SpdmError};
use attest::policy::{MAX_POLICY_BYTES, Policy, PolicyError};
use attest::release::checkpoint::MAX_NOTE_BYTES;
use attest::release::statement::MAX_STATEMENT_BYTES;
use attest::release::{Bundle, BundleError, MAX_BUNDLE_BYTES};
use attest::release::{CheckpointError, SignedCheckpoint, Statement, StatementError};
use attest::snp::{SnpEvidence, TableError};
use attest::tdx::{MAX_QUOTE_BYTES, Quote, QuoteError};

/// The fault of zeros, exactly as many as may be, and one more.
fn at_the_limit<E>(limit: usize, read: impl Fn(&[u8]) -> E) -> [E; 2] {
    let zeros = vec![0; limit + 1];
    [read(&zeros[..limit]), read(&zeros)]
}

macro_rules! bounded {
    ($limit:expr, $error:ident, $read:expr) => {
        let [within, beyond] = at_the_limit($limit, $read);
        let found = $limit + 1;
        assert!(
            !matches!(within, $error::TooLarge { .. }),
            stringify!($error)
        );
        assert_eq!(beyond, $error::TooLarge { found });
    };
}

#[test]
fn limits_are_exactly_those_that_are_stated() {
    bounded!(MAX_EVENT_LOG_BYTES, EventLogError, |bytes: &[u8]| {
        EventLog::parse(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_EVENT_LOG_BYTES, EventLogError, |bytes: &[u8]| {
        EventLog::parse_ccel(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_QUOTE_BYTES, QuoteError, |bytes: &[u8]| {
        Quote::parse(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_HCL_BYTES, HclError, |bytes: &[u8]| {
        HclReport::parse(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_REPORT_BYTES, SpdmError, |bytes: &[u8]| {
        Report::parse(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_EVIDENCE_BYTES, EvidenceError, |bytes: &[u8]| {
        Evidence::decode(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_BUNDLE_BYTES, BundleError, |bytes: &[u8]| {
        Bundle::decode(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_POLICY_BYTES, PolicyError, |bytes: &[u8]| {
        Policy::parse(bytes).map(drop).unwrap_err()
    });
    bounded!(
        MAX_CONFIGURATION_BYTES,
        ConfigurationError,
        |bytes: &[u8]| Configuration::parse(bytes).map(drop).unwrap_err()
    );
    bounded!(MAX_STATEMENT_BYTES, StatementError, |bytes: &[u8]| {
        Statement::decode(bytes).map(drop).unwrap_err()
    });
    bounded!(MAX_NOTE_BYTES, CheckpointError, |bytes: &[u8]| {
        let note = std::str::from_utf8(bytes).unwrap();
        SignedCheckpoint::parse(note).map(drop).unwrap_err()
    });
    bounded!(MAX_CAPSULE_BYTES, CapsuleError, |bytes: &[u8]| {
        Capsule::decode(bytes).map(drop).unwrap_err()
    });
    type GpuFileError = gpu::FileError;
    bounded!(gpu::MAX_FILE_BYTES, GpuFileError, |bytes: &[u8]| {
        DeviceEvidence::from_file(bytes).map(drop).unwrap_err()
    });
    bounded!(
        attest::snp::MAX_TABLE_BYTES,
        TableError,
        |table: &[u8]| {
            SnpEvidence::from_table(Vec::new(), table)
                .map(drop)
                .unwrap_err()
        }
    );
}

/// A revocation list that is as long as may be, but for the length of its entries.
#[test]
fn a_list_that_is_too_long_is_not_read() {
    let machine = signer::amd::Machine::new();
    let mut list = machine.signed_list();
    assert!(next_update(&list).is_ok());
    list.resize(MAX_CRL_BYTES + 1, 0);
    assert!(next_update(&list).is_err());
}
