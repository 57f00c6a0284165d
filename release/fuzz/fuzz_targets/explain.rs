//! Any bytes as a prediction and as evidence: compared as `explain-mismatch` compares them, or
//! refused.

use release::measure::Digests;
use release::measure::eventlog::EventLog;
use release::measure::explain::evidence::{Found, Subject};
use release::measure::explain::log::{self, Candidates};
use release::measure::explain::slots::command_lines;
use release::measure::explain::statement::Expected;
use release::measure::explain::command_lines_near;

libfuzzer_sys::fuzz_target!(|pair: (&[u8], &[u8])| {
    let (statement, evidence) = pair;
    let expected = Expected::parse(statement);
    let found = Found::parse(evidence);
    let (Ok(expected), Ok(Subject::Log(kind, bytes))) = (expected, found.map(|one| one.subject))
    else {
        return;
    };
    let Ok(log) = EventLog::parse(&bytes) else {
        panic!("a log is one the second time, too");
    };
    assert_eq!(log.kind(), kind);
    let inputs = expected.inputs().cloned().unwrap_or_default();
    let lines = command_lines_near(&inputs.command_line.unwrap_or_default());
    let candidates = Candidates {
        lines: command_lines(&lines, ""),
        initrds: vec![("none".to_owned(), Digests::of_bytes(b""))],
        ..Candidates::default()
    };
    let registers = match &expected {
        Expected::Tdx(tdx) => log::tdx(&log, tdx, &candidates),
        Expected::Tpm(tpm) => log::tpm(&log, tpm, &candidates),
        Expected::Release(release) => {
            let stated = log::stated(&log, release, &candidates);
            assert_eq!(stated.len(), release.tpm.len());
            return;
        }
        Expected::Snp(_) => return,
    };
    assert!(registers.iter().all(|register| !register.name.is_empty()));
});
