//! Event logs: real ones of QEMU boots, and every way in which one can be wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::slice::from_ref;

use attest::Digest;
use attest::eventlog::{EventLog, EventLogError, MAX_EVENT_LOG_BYTES, SecureBoot};
use attest::tpm::{QUOTED, Register};
use signer::boot::{self, Event};

/// The folder of real evidence beside the checkout. Without it the test says so, past the test
/// harness, and passes.
fn vectors(folder: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/vectors")
        .join(folder);
    if path.is_dir() {
        return Some(path);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no vectors at {}",
        path.display()
    );
    None
}

/// Registers of the SHA-384 bank as the guest read them from the TPM.
fn read_registers(path: &Path) -> Vec<Digest<48>> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let bank = json["sha384"].as_object().unwrap();
    (0..24)
        .map(|n| bank[&n.to_string()].as_str().unwrap().parse().unwrap())
        .collect()
}

#[test]
fn real_logs_replay_to_the_registers_of_their_boot() {
    let Some(folder) = vectors("tpm-uki") else {
        return;
    };
    for boot in ["boot", "boot-4cpu-2g", "injected"] {
        let bytes = std::fs::read(folder.join(format!("{boot}.evlog.bin"))).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let registers = read_registers(&folder.join(format!("{boot}.pcrs.json")));
        for number in QUOTED {
            let replayed = log.replay(Register(number));
            assert_eq!(
                replayed,
                registers[usize::from(number)],
                "{boot}: PCR {number}"
            );
        }
        assert_eq!(log.secure_boot(), Ok(SecureBoot::Disabled));
    }
}

#[test]
fn what_a_host_injects_is_seen_in_registers_9_12_and_13_alone() {
    let Some(folder) = vectors("tpm-uki") else {
        return;
    };
    let [plain, injected] =
        ["boot", "injected"].map(|boot| read_registers(&folder.join(format!("{boot}.pcrs.json"))));
    let differ: Vec<u8> = QUOTED
        .into_iter()
        .filter(|n| plain[usize::from(*n)] != injected[usize::from(*n)])
        .collect();
    assert_eq!(differ, [9, 12, 13]);
    for register in [12, 13] {
        assert_eq!(plain[register], Digest::ZERO);
    }
}

#[test]
fn other_machines_logs_parse_too() {
    let Some(folder) = vectors("go-tpm-tools") else {
        return;
    };
    let bytes = std::fs::read(folder.join("ubuntu-2404-amd-sevsnp.bin")).unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    assert!(log.events().len() > 20);
    assert_ne!(log.replay(Register(4)), Digest::ZERO);
}

#[test]
fn a_made_log_replays() {
    let events = boot::events();
    let bytes = boot::encode(&events);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.events().len(), events.len());
    assert_eq!(
        QUOTED.map(|register| log.replay(Register(register))),
        boot::registers(&events)
    );
    assert_eq!(log.secure_boot(), Ok(SecureBoot::Enabled));
    assert_eq!(log.count(Register(0)), 3); // without the startup locality
}

/// It is noted, not measured: in PCR 0 alone, and by an event that says so.
#[test]
fn the_locality_of_the_start_is_noted_in_register_0() {
    let note = |register, kind| Event {
        register,
        kind,
        measured: Vec::new(),
        data: b"StartupLocality\0\x03".to_vec(),
    };
    let start = |event| {
        let bytes = boot::encode(&[event]);
        let log = EventLog::parse(&bytes).unwrap();
        [0, 1].map(|register| log.replay(Register(register)))
    };
    let zero = Digest::ZERO;
    let mut three = zero;
    three.0[47] = 3;
    assert_eq!(start(note(0, 3)), [three, zero]);
    assert_eq!(start(note(1, 3)), [zero, zero]);
    // One that is measured is an event like any other.
    let measured = start(note(0, 6));
    let alone = Event {
        data: Vec::new(),
        ..note(0, 6)
    };
    assert_eq!(measured, start(alone));
    assert_ne!(measured, [zero, zero]);
}

#[test]
fn a_log_that_is_too_long_or_cut_is_refused() {
    let found = MAX_EVENT_LOG_BYTES + 1;
    assert_eq!(
        EventLog::parse(&vec![0; found]),
        Err(EventLogError::TooLarge { found })
    );
    let bytes = boot::encode(&boot::events());
    let mut whole_events = 0;
    for length in 0..bytes.len() {
        match EventLog::parse(&bytes[..length]) {
            Ok(_) => whole_events += 1,
            Err(error) => assert!(
                matches!(
                    error,
                    EventLogError::SpecId | EventLogError::Truncated { .. }
                ),
                "{length}: {error}"
            ),
        }
    }
    assert_eq!(whole_events, boot::events().len());
}

#[test]
fn the_first_event_must_announce_sha384() {
    let sound = boot::spec_id();
    assert!(EventLog::parse(&sound).is_ok());
    for (place, value) in [
        (0, 1),     // register
        (4, 4),     // type
        (8, 1),     // digest
        (32, b'X'), // signature
        (53, 1),    // major version
        (56, 9),    // more banks than there may be
        (60, 0x0c), // a bank twice
        (62, 65),   // a digest longer than any
        (64, 0x0d), // no SHA-384
        (66, 47),   // SHA-384 of another size
        (68, 1),    // vendor data that is missing
    ] {
        let mut bytes = sound.clone();
        bytes[place] = value;
        assert_eq!(
            EventLog::parse(&bytes),
            Err(EventLogError::SpecId),
            "byte {place}"
        );
    }
    assert_eq!(EventLog::parse(b""), Err(EventLogError::SpecId));
    // A digest may be as long as the longest.
    let mut longest = sound;
    longest[62] = 64;
    assert!(EventLog::parse(&longest).is_ok());
}

#[test]
fn an_event_must_hold_one_digest_for_each_bank() {
    let start = boot::spec_id().len();
    let bytes = boot::encode(&[Event::plain(0, 0xd, b"event")]);
    for (place, value) in [(8, 1), (8, 3), (12, 0x0c), (12 + 34, 0x0b)] {
        let mut bytes = bytes.clone();
        bytes[start + place] = value;
        assert_eq!(
            EventLog::parse(&bytes),
            Err(EventLogError::Banks { event: 1 }),
            "{place}"
        );
    }
}

#[test]
fn a_register_that_does_not_exist_is_refused() {
    for (register, accepted) in [(23, true), (24, false), (256, false), (u32::MAX, false)] {
        let bytes = boot::encode(&[Event::plain(register, 0xd, b"event")]);
        match EventLog::parse(&bytes) {
            Ok(_) => assert!(accepted),
            Err(error) => {
                assert!(!accepted);
                assert_eq!(
                    error,
                    EventLogError::Register {
                        event: 1,
                        found: register
                    }
                );
            }
        }
    }
}

#[test]
fn data_that_is_not_what_was_measured_is_refused_and_the_event_named() {
    for kind in [
        4,
        5,
        8,
        0x8000_0001,
        0x8000_0002,
        0x8000_0007,
        0x8000_000c,
        0x8000_00e0,
    ] {
        let lie = Event::other(7, kind, b"measured", b"shown");
        let bytes = boot::encode(&[Event::plain(7, kind, b"sound"), lie]);
        let error = EventLog::parse(&bytes).unwrap_err();
        let EventLogError::Digest {
            event: 2,
            register: Register(7),
            expected,
            found,
            ..
        } = error
        else {
            panic!("{kind:#x}: {error}")
        };
        assert_eq!(
            (expected, found),
            (Digest::sha384(b"shown"), Digest::sha384(b"measured"))
        );
        assert!(error.to_string().starts_with("event 2 (EV_"), "{error}");
    }
    // A boot variable is measured by its value alone.
    let value = Event::other(
        1,
        0x8000_0002,
        b"value",
        &boot::variable("Boot0001", b"value"),
    );
    assert!(EventLog::parse(&boot::encode(&[value])).is_ok());
}

#[test]
fn secure_boot_is_what_the_first_event_of_register_7_says() {
    let secure_boot = |events: &[Event]| {
        EventLog::parse(&boot::encode(events))
            .unwrap()
            .secure_boot()
    };
    let (on, off) = (boot::secure_boot(&[1]), boot::secure_boot(&[0]));
    assert_eq!(secure_boot(from_ref(&on)), Ok(SecureBoot::Enabled));
    assert_eq!(secure_boot(from_ref(&off)), Ok(SecureBoot::Disabled));
    assert_eq!(
        secure_boot(&[boot::secure_boot(&[])]),
        Ok(SecureBoot::Disabled)
    );
    // Nothing that comes later can pose as the variable, whatever type the first event is given.
    assert_eq!(
        secure_boot(&[off.clone(), on.clone()]),
        Ok(SecureBoot::Disabled)
    );
    let retyped = Event { kind: 0xd, ..off };
    for events in [
        &[][..],
        &[retyped, on.clone()],
        &[Event::plain(7, 0x8000_0007, b"UEFI Debug Mode"), on.clone()],
        &[boot::secure_boot(&[2])],
        &[boot::secure_boot(&[1, 1])],
        &[Event::plain(
            7,
            0x8000_0001,
            &boot::variable("SecureBoo1", &[1]),
        )],
        &[Event::plain(7, 0x8000_0001, b"short")],
        &[Event::plain(
            7,
            0x8000_0001,
            &[on.data.as_slice(), &[0]].concat(),
        )],
        &[Event {
            register: 6,
            ..on.clone()
        }],
    ] {
        assert_eq!(
            secure_boot(events),
            Err(EventLogError::SecureBoot),
            "{events:?}"
        );
    }
}
