//! libFuzzer over the target that `CLOISTER_TARGET` names. `tests/fuzzer/run.sh` builds and runs
//! it.
#![no_main]

libfuzzer_sys::fuzz_target!(init: fuzzer::start(), |bytes: &[u8]| fuzzer::run(bytes));
