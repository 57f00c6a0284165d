//! Any bytes as a recorded event log: replayed or refused.

use release::measure::eventlog::{Bank, EventLog};
use release::measure::tdx;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(log) = EventLog::parse(bytes) {
        for register in 0..5 {
            let value = log.replay(Bank::Sha384, register);
            assert_eq!(value.is_some(), log.has(Bank::Sha384));
        }
        let _ = tdx::rtmr0_events(&log, None, None);
    }
    let _ = tdx::registers_of_quote(bytes);
});
