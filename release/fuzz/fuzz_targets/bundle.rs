//! Any bytes as a release bundle: without the keys nothing verifies.

use std::sync::LazyLock;

use attest::ReleaseFloor;
use attest::policy::ReleasePolicy;
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
        signers: vec![key()],
        log_origin: "log.example.org".to_owned().try_into().expect("an origin"),
        log_key: key(),
        minimum_version: 1,
    }
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(attest::verify_release(bytes, &POLICY, ReleaseFloor::UNSEEN).is_err());
});
