//! Any bytes as a recorded event log: replayed or refused; and what `attest` accepts reads alike.

use release::measure::eventlog::{Bank, EventLog, LogError, first_difference};
use release::measure::tdx;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let log = EventLog::parse(bytes);
    if let Ok(log) = &log {
        for register in 0..5 {
            let value = log.replay(Bank::Sha384, register);
            assert_eq!(value.is_some(), log.has(Bank::Sha384));
            let events = log.digests(log.bank(), register);
            assert_eq!(first_difference(&events, &events), None);
            assert_eq!(first_difference(&events, &[]).is_some(), !events.is_empty());
        }
        let _ = tdx::rtmr0_events(log, None, None);
    }
    let strict = attest::eventlog::EventLog::parse(bytes)
        .or_else(|_| attest::eventlog::EventLog::parse_ccel(bytes));
    match (&log, strict) {
        (Ok(log), Ok(strict)) => {
            for register in 0..5u8 {
                let theirs = strict.replay(attest::tpm::Register(register));
                let ours = log.replay(Bank::Sha384, register.into());
                assert_eq!(ours.as_deref(), Some(theirs.as_ref()));
            }
        }
        // Filled up to a size, or with events of registers that TDX does not have.
        (Err(error), Ok(_)) => {
            assert!(matches!(error, LogError::Register { .. } | LogError::Trailing(_)), "{error}");
        }
        _ => {}
    }
    let _ = tdx::registers_of_quote(bytes);
});
