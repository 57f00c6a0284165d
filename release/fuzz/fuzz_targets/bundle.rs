//! Any bytes as a release bundle: without the keys nothing verifies.

use std::sync::LazyLock;

use attest::policy::{LogPolicy, MaximumAge, Publication, ReleasePolicy};
use attest::{Ratchet, UnixTime};
use release::key::SigningKey;

static POLICY: LazyLock<ReleasePolicy> = LazyLock::new(|| {
    let key = || {
        SigningKey::generate()
            .expect("the system gives randomness")
            .public()
    };
    ReleasePolicy {
        name: "cloister".parse().expect("a name"),
        profile: "production".parse().expect("a name"),
        minimum_version: 1,
        maximum_age_days: MaximumAge::Any,
        minimum_rebuilders: 0,
        published: Publication::Log(LogPolicy {
            signers: vec![key()],
            log_origin: "log.example.org".to_owned().try_into().expect("an origin"),
            log_key: key(),
            minimum_witnesses: 0,
            witnesses: Vec::new(),
            rebuilders: Vec::new(),
        }),
    }
});

const NOW: UnixTime = UnixTime::from_secs(1_795_219_200);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(attest::verify_release(bytes, &POLICY, &Ratchet::UNSEEN, NOW).is_err());
});
