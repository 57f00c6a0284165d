//! Any bytes as a Sigstore bundle: without the authorities' keys nothing verifies.

use std::sync::LazyLock;

use cloister_sigstore::{Expected, TrustRoot, stated, verify_release};

static ROOT: LazyLock<TrustRoot> =
    LazyLock::new(|| TrustRoot::embedded().expect("the built-in root is sound"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    assert!(verify_release(bytes, &Expected::AnyIdentity, &ROOT).is_err());
    if let Ok(statement) = stated(bytes) {
        assert!(!statement.encode().is_empty());
    }
});
