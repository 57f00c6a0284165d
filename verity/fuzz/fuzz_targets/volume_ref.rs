//! A volume's name and a GUID: what parses is canonical. The same holds in the modules' own tests.

use verity::{Guid, VolumeRef};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(volume) = text.parse::<VolumeRef>() {
        assert_eq!(volume.to_string(), text);
    }
    if let Ok(guid) = text.parse::<Guid>() {
        assert_eq!(guid.to_string(), text);
    }
});
