//! Our prediction against real event logs of a UKI boot (OVMF, swtpm, systemd-stub 257), out of
//! the shared vectors. Where they are absent this test says that it is skipped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;

use attest::eventlog::EventLog;
use release::measure::{Event, measure};

/// TCG's names for the kinds of event that are predicted.
fn kind(event: &Event) -> u32 {
    match (event.pcr, event.what.as_str()) {
        (4, what) if what.starts_with("action") => 0x8000_0007,
        (4, "separator") => 0x0000_0004,
        (4, _) => 0x8000_0003,
        (9, _) => 0x0000_0006,
        _ => 0x0000_000d,
    }
}

fn compare(name: &str, untouched: bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/tpm-uki");
    let Ok(bytes) = fs::read(folder.join(name)) else {
        eprintln!(
            "SKIPPED, not tested: {} is absent",
            folder.join(name).display()
        );
        return;
    };
    let log = EventLog::parse(&bytes).unwrap();
    let predicted = measure(&common::uki(), &[]).unwrap();
    for pcr in [4, 9, 11, 12, 13] {
        let logged: Vec<_> = log
            .events()
            .iter()
            .filter(|event| event.register.0 == pcr)
            .collect();
        let ours: Vec<_> = predicted
            .events
            .iter()
            .filter(|event| event.pcr == pcr)
            .collect();
        let foreign = matches!(pcr, 12 | 13) && !untouched;
        assert_eq!(logged.is_empty(), ours.is_empty() && !foreign, "PCR {pcr}");
        if foreign {
            continue;
        }
        let kinds = |kind: &mut dyn Iterator<Item = u32>| kind.collect::<Vec<_>>();
        assert_eq!(
            kinds(&mut logged.iter().map(|event| event.kind.0)),
            kinds(&mut ours.iter().map(|event| kind(event))),
            "PCR {pcr}",
        );
        // What does not depend on the UKI has the very digests of the log.
        let fixed = |what: &str| what.starts_with("name") || !what.contains(['(', ',']);
        for (logged, ours) in logged.iter().zip(&ours) {
            if fixed(&ours.what) && pcr != 9 && !ours.what.contains("UKI") {
                assert_eq!(logged.digest, ours.digests.sha384, "{}", ours.what);
            }
        }
    }
}

#[test]
fn the_predicted_events_are_those_of_a_real_boot() {
    compare("boot.evlog.bin", true);
    compare("boot-4cpu-2g.evlog.bin", true);
}

#[test]
fn what_the_host_injects_stands_in_registers_that_must_be_empty() {
    compare("injected.evlog.bin", false);
}
