//! Any bytes as the key of an ID block: what is read signs, and the rest is refused.

use release::measure::id_block::{DEFAULT_POLICY, IdBlock, IdKey, Identity};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(key) = IdKey::from_pem(bytes) {
        let identity = Identity {
            family: [0; 16],
            image: [0; 16],
            security_version: 0,
            policy: DEFAULT_POLICY,
        };
        assert!(IdBlock::sign(attest::Digest::ZERO, &identity, &key, None).is_ok());
    }
});
