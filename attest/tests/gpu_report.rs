//! Reports, opaque data and files of GPUs that cannot be read.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::gpu::{DeviceEvidence, DeviceFault, FileError, OpaqueError, Report, SpdmError};
use signer::nvidia::{Device, Rack};

#[path = "common/gpu.rs"]
mod common;

use common::{NONCE, device, done};

fn report(change: impl FnOnce(&mut Rack)) -> SpdmError {
    match device(change) {
        DeviceFault::Report(error) => error,
        other => panic!("{other}"),
    }
}

fn opaque(change: impl FnOnce(&mut Device)) -> OpaqueError {
    match report(|rack| change(&mut rack.devices[0])) {
        SpdmError::Opaque(error) => error,
        other => panic!("{other}"),
    }
}

#[test]
fn reports_that_are_none_are_refused() {
    type Change = fn(&mut Device);
    let cases: [(Change, SpdmError); 9] = [
        (
            |device| device.request[0] = 0x12,
            SpdmError::Version { found: 0x12 },
        ),
        (
            |device| device.response[0] = 0x10,
            SpdmError::Version { found: 0x10 },
        ),
        (|device| device.request[1] = 0xe1, SpdmError::Request),
        (|device| device.request[2] = 0, SpdmError::Request),
        (|device| device.request[3] = 1, SpdmError::Request),
        (|device| device.response[1] = 0x7f, SpdmError::Response),
        (
            |device| device.slot = 1,
            SpdmError::Slot {
                expected: 1,
                found: 0,
            },
        ),
        (
            |device| device.blocks[3].0 = 9,
            SpdmError::Index {
                expected: 4,
                found: 9,
            },
        ),
        (
            |device| {
                device.blocks.swap(0, 1);
            },
            SpdmError::Index {
                expected: 1,
                found: 2,
            },
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(report(|rack| change(&mut rack.devices[0])), expected);
    }
    let blocks: [Change; 3] = [
        |device| device.blocks[5].1 = 2,
        |device| device.blocks[5].2 = 0x81,
        |device| device.blocks[63].3.truncate(40),
    ];
    for (change, index) in blocks.into_iter().zip([6, 6, 64]) {
        let found = report(|rack| change(&mut rack.devices[0]));
        let expected = match index {
            64 => SpdmError::Record,
            index => SpdmError::Block { index },
        };
        assert_eq!(found, expected);
    }
    let found = (16 << 10) + 1;
    assert_eq!(
        Report::parse(&vec![0; found]),
        Err(SpdmError::TooLarge { found })
    );
    let genuine = Rack::new().evidence(&NONCE).devices[0].report.clone();
    for length in [0, 95, 96, 130, 140, 1000, genuine.len() - 200] {
        let verdict = Report::parse(&genuine[..length]);
        assert_eq!(verdict, Err(SpdmError::Truncated), "{length}");
    }
    let longer = [&genuine[..], &[0]].concat();
    assert_eq!(Report::parse(&longer), Err(SpdmError::SignatureFormat));
    let mut zero = genuine;
    let length = zero.len();
    zero[length - 96..].fill(0);
    assert_eq!(Report::parse(&zero), Err(SpdmError::SignatureFormat));
    // One block less than is said, and one more.
    let part = Rack::new().devices[0].signed_part(&NONCE);
    for (blocks, expected) in [(63, SpdmError::Record), (65, SpdmError::Record)] {
        let mut part = part.clone();
        part[37 + 4] = blocks;
        let report = [&part[..], &[1; 96]].concat();
        assert_eq!(Report::parse(&report), Err(expected));
    }
}

#[test]
fn opaque_data_that_cannot_be_read_is_refused() {
    let twice = opaque(|device| device.opaque.push((4, vec![1])));
    assert_eq!(twice, OpaqueError::Twice { field: 4 });
    let missing = opaque(|device| device.opaque.retain(|(field, _)| *field != 6));
    assert_eq!(missing, OpaqueError::Missing { field: 6 });
    for (field, value) in [
        (3, &b"580"[..]),
        (3, b"580.95.x"),
        (3, b"\xff.1"),
        (6, &[1, 0, 0x9f, 0x96, 2, 1, 0, 0]),
        (6, b"96.10.55.00"),
        (6, b"96.10.55.00.01.02"),
        (11, &[0]),
        (20, &[0xf1; 47]),
        (21, &[0x55, 0]),
        (22, &[1; 9]),
        (25, &[2, 0]),
        (26, &[1; 64]),
        (36, &[3, 0]),
        (36, &[0]),
    ] {
        let error = opaque(|device| done(device.say(field, value)));
        assert_eq!(error, OpaqueError::Value { field }, "{field} {value:?}");
    }
    let error = opaque(|device| done(device.say(36, &[2, 0])));
    assert_eq!(error, OpaqueError::Contradiction);
    let mut part = Rack::new().devices[0].signed_part(&NONCE);
    let opaque = Rack::new().devices[0].opaque_bytes();
    let at = part.len() - opaque.len();
    part[at + 2] = 0xff;
    let report = [&part[..], &[1; 96]].concat();
    let expected = SpdmError::Opaque(OpaqueError::Truncated);
    assert_eq!(Report::parse(&report), Err(expected));
}

#[test]
fn files_of_nvidias_tools_are_read_within_bounds() {
    use base64::Engine as _;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
    let given = &Rack::new().evidence(&NONCE).devices[0];
    let pems: String = given
        .certificates
        .iter()
        .map(|der| signer::authority::pem(der))
        .collect();
    let file = |evidence: &str, certificate: &str| {
        format!("[{{\"evidence\":\"{evidence}\",\"certificate\":\"{certificate}\"}}]")
    };
    let read = |text: &str| DeviceEvidence::from_file(text.as_bytes());
    let sound = file(&encode(&given.report), &encode(pems.as_bytes()));
    assert_eq!(read(&sound).unwrap(), std::slice::from_ref(given));
    let device = 1;
    let long = encode(&[0; (16 << 10) + 1]);
    for wrong in ["?", &long] {
        let found = read(&file(wrong, &encode(pems.as_bytes())));
        assert_eq!(found, Err(FileError::Report { device }));
    }
    for wrong in [
        "?".to_owned(),
        encode(b"x"),
        encode(pems.repeat(3).as_bytes()),
    ] {
        let found = read(&file(&encode(&given.report), &wrong));
        assert_eq!(found, Err(FileError::Certificates { device }));
    }
    for wrong in ["", "{}", "[{}]", "[{\"evidence\":\"\"}]"] {
        assert_eq!(read(wrong), Err(FileError::Json));
    }
    assert_eq!(read("[]"), Err(FileError::Devices { found: 0 }));
    let found = (1 << 20) + 1;
    assert_eq!(read(&" ".repeat(found)), Err(FileError::TooLarge { found }));
}
