//! GPUs and switches: whose reports they are, what they were made for, how devices fit together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::certificate::{ChainFault, Position};
use attest::crl::RevocationFault;
use attest::gpu::{
    DeviceCounts, DeviceFault, DeviceKind, GpuError, ManifestKind, Mode, Report, Topology,
    VerifiedDevices, verify,
};
use attest::policy::{Demand, Pin};
use attest::{Class, Digest, Refusal, UnixTime};
use signer::NOW;
use signer::authority::{AUTHORITY, Authority, DIGITAL_SIGNATURE};
use signer::nvidia::{Device, Rack, connected, device_name, firmware, measurement};

#[path = "common/gpu.rs"]
mod common;

use common::{NONCE, device, done, fault, fault_of, judge, spoilt};

#[test]
fn a_gpu_that_is_as_the_policy_demands_is_believed() {
    let rack = Rack::new();
    let verified = judge(&rack).unwrap();
    let [gpu] = verified.devices() else { panic!() };
    assert_eq!((gpu.kind, gpu.chip.as_str()), (DeviceKind::Gpu, "GH100"));
    // Index 35 of the driver's manifest does not count: the decoder is not in use.
    assert_eq!(gpu.confirmed, 2 + 4);
    assert_eq!(gpu.report.nonce, NONCE);
    let claims = verified.claims();
    for what in [
        "GPU: number",
        "GPU 1: nonce",
        "GPU 1: mode",
        "GPU 1: driver's manifest",
    ] {
        assert!(claims.iter().any(|claim| claim.what == what), "{what}");
    }
    // The root may stand behind the other certificates.
    let mut evidence = rack.evidence(&NONCE);
    let root = &rack.policy().device_roots[0];
    let pem = rack.policy_toml();
    let pem = pem.split("'''").nth(1).unwrap();
    let der = x509(pem);
    assert_eq!(Digest::sha256(&der), root.fingerprint());
    evidence.devices[0].certificates.push(der);
    assert!(verify(&evidence, &NONCE, rack.counts(), &rack.policy(), NOW).is_ok());
}

fn x509(pem: &str) -> Vec<u8> {
    use base64::Engine as _;
    let lines = pem.lines().filter(|line| !line.starts_with("---"));
    let text: String = lines.collect();
    base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap()
}

#[test]
fn gpus_with_a_switch_between_them_are_believed() {
    let rack = Rack::with_switch();
    let verified = judge(&rack).unwrap();
    let kinds: Vec<_> = verified.devices().iter().map(|one| one.kind).collect();
    assert_eq!(
        kinds,
        [DeviceKind::Gpu, DeviceKind::Gpu, DeviceKind::Switch]
    );
    assert_eq!(verified.devices()[2].confirmed, 1);
}

#[test]
fn the_signature_covers_request_and_response() {
    let genuine = Rack::new().evidence(&NONCE).devices[0].report.clone();
    // In the nonce of the response, which is not compared with anything.
    let place = 37 + 8 + 64 * 55;
    let error = spoilt(|evidence| evidence.devices[0].report[place] ^= 1);
    let fault = Box::new(DeviceFault::Signature);
    assert_eq!(error, GpuError::Device { device: 1, fault });
    let stranger = device(|rack| rack.devices[0].key = Device::gpu(&rack.device_root, 9).key);
    assert_eq!(stranger, DeviceFault::Signature);
    assert!(Report::parse(&genuine).is_ok());
}

#[test]
fn a_report_for_another_nonce_is_refused() {
    let rack = Rack::new();
    let evidence = rack.evidence(&[1; 32]);
    let error = verify(&evidence, &NONCE, rack.counts(), &rack.policy(), NOW).unwrap_err();
    let (expected, found) = (Digest(NONCE), Digest([1; 32]));
    let fault = Box::new(DeviceFault::Nonce { expected, found });
    assert_eq!(error, GpuError::Device { device: 1, fault });
    assert_eq!(Refusal::from(error).class(), Class::Signature);
}

#[test]
fn the_key_is_certified_below_a_root_of_the_policy() {
    let chain = |change: fn(&mut Rack)| match device(change) {
        DeviceFault::Chain(error) => (error.position, error.fault),
        other => panic!("{other}"),
    };
    let (position, unknown) = chain(|rack| {
        rack.devices[0] = Device::gpu(&Authority::new("Somebody", 0x11), 1);
    });
    assert_eq!(position, Position::Intermediate(3));
    assert!(matches!(unknown, ChainFault::UnknownRoot { .. }));
    let (_, forged) = chain(|rack| {
        rack.devices[0] = Device::gpu(&Authority::new("Test device root", 0x11), 1);
    });
    assert_eq!(forged, ChainFault::Signature);
    let none = chain(|rack| rack.devices[0].chain.clear());
    assert_eq!(none, (Position::Leaf, ChainFault::Missing));
    let (position, gap) = chain(|rack| drop(rack.devices[0].chain.remove(2)));
    assert_eq!(position, Position::Intermediate(1));
    assert!(matches!(gap, ChainFault::Issuer { .. }));
    let (position, old) =
        chain(|rack| rack.devices[0].chain[1].0.validity[1] = "250101000000Z".into());
    assert_eq!(position, Position::Intermediate(1));
    assert!(old.is_date());
    let authority = chain(|rack| {
        let (oid, critical, value) = AUTHORITY;
        let extension = (oid.to_vec(), critical, value.to_vec());
        rack.devices[0].chain[0].0.extensions.push(extension);
    });
    assert_eq!(authority, (Position::Leaf, ChainFault::Authority));
    let (position, usage) = chain(|rack| drop(rack.devices[0].chain[0].0.extensions.remove(0)));
    assert_eq!(position, Position::Leaf);
    assert!(matches!(usage, ChainFault::KeyUsage { .. }));
    let (position, leaf) = chain(|rack| {
        let (oid, critical, value) = DIGITAL_SIGNATURE;
        let extension = (oid.to_vec(), critical, value.to_vec());
        rack.devices[0].chain[1].0.extensions = vec![extension];
    });
    assert_eq!(position, Position::Intermediate(1));
    assert_eq!(leaf, ChainFault::NotAnAuthority);
    let later = UnixTime::from_secs(2_600_000_000);
    let rack = Rack::new();
    let error = verify(
        &rack.evidence(&NONCE),
        &NONCE,
        rack.counts(),
        &rack.policy(),
        later,
    );
    assert_eq!(Refusal::from(error.unwrap_err()).class(), Class::Collateral);
}

#[test]
fn what_nvidia_certified_of_a_device_is_read_strictly() {
    let fields = |change: fn(&mut Device)| match device(|rack| change(&mut rack.devices[0])) {
        DeviceFault::CertificateField { field } => field,
        other => panic!("{other}"),
    };
    let names: [fn(&mut Device); 4] = [
        |device| drop(device.chain[0].0.extensions.remove(1)),
        |device| device.chain[0].0.extensions[1] = device_name("NVIDIA:GH100"),
        |device| device.chain[0].0.extensions[1] = device_name("OTHER:GH100:1"),
        |device| device.chain[0].0.extensions[1] = device_name("NVIDIA:GH100:1:2"),
    ];
    for change in names {
        assert_eq!(fields(change), "the device's name");
    }
    let firmwares: [fn(&mut Device); 3] = [
        |device| drop(device.chain[0].0.extensions.remove(2)),
        |device| device.chain[0].0.extensions[2] = firmware(&[0xf1; 47]),
        |device| device.chain[0].0.extensions[2].2.push(0),
    ];
    for change in firmwares {
        assert_eq!(fields(change), "the digest of its firmware");
    }
    let root = Rack::new().device_root;
    let alone = move |device: &mut Device| {
        device.chain.truncate(1);
        device.chain[0].0.issuer.clone_from(&root.name);
        device.chain[0].1 = root.key.clone();
    };
    let found = device(|rack| alone(&mut rack.devices[0]));
    let field = "the boot ROM";
    assert_eq!(found, DeviceFault::CertificateField { field });
    let found = device(|rack| done(rack.devices[0].say(20, &[0xf2; 48])));
    let (expected, other) = (Digest([0xf1; 48]), Digest([0xf2; 48]));
    assert_eq!(
        found,
        DeviceFault::FirmwareId {
            expected,
            found: other
        }
    );
}

#[test]
fn revocation_lists_are_demanded_where_a_certificate_names_a_place() {
    let missing = device(|rack| drop(rack.lists.remove(0)));
    let position = Position::Intermediate(3);
    assert_eq!(missing, DeviceFault::NoRevocationList { position });
    // A place that cannot be read is a place.
    let garbled = device(|rack| {
        rack.lists.remove(0);
        let place = &mut rack.devices[0].chain[3].0.extensions[2];
        assert_eq!(place.0, [0x55, 0x1d, 0x1f]);
        place.2 = vec![4, 0];
    });
    assert_eq!(garbled, DeviceFault::NoRevocationList { position });
    let revoked = device(|rack| rack.lists[1].0.revoked.push((2, Vec::new())));
    let position = Position::Intermediate(2);
    assert_eq!(revoked, DeviceFault::Revoked { position });
    let stale = device(|rack| rack.lists[1].0.until = Some("250101000000Z".to_owned()));
    let DeviceFault::RevocationList { fault: list, .. } = stale else {
        panic!("{stale}")
    };
    assert!(matches!(list, RevocationFault::Expired { .. }));
    let forged = device(|rack| rack.lists[1].1 = rack.lists[0].1.clone());
    let expected = DeviceFault::RevocationList {
        position: Position::Intermediate(2),
        fault: RevocationFault::Signature,
    };
    assert_eq!(forged, expected);
    let stray = fault(|rack| {
        let mut list = rack.lists[0].clone();
        list.0.issuer = "Somebody".to_owned();
        rack.lists.push(list);
    });
    assert_eq!(stray, GpuError::StrayRevocationList);
    let garbled = spoilt(|evidence| evidence.revocation_lists[0][0] ^= 1);
    assert_eq!(garbled, GpuError::RevocationList(RevocationFault::Encoding));
    // Without a demand none is needed, and one that is there still counts.
    let mut rack = Rack::new();
    let mut policy = rack.policy();
    policy.revocation_lists = Demand::NotRequired;
    let verdict = |rack: &Rack| verify(&rack.evidence(&NONCE), &NONCE, rack.counts(), &policy, NOW);
    rack.lists.remove(0);
    let verified = verdict(&rack).unwrap();
    let relaxed = "not required (relaxed by the policy)";
    let shown = |verified: &VerifiedDevices| {
        let claims = verified.claims().iter();
        let claims = claims.filter(|claim| claim.what.ends_with(": revocation lists"));
        let shown =
            claims.map(|claim| (claim.expected.clone(), claim.found.starts_with("no list")));
        shown.collect::<Vec<_>>()
    };
    let own = |expected: &str, missing: bool| (expected.to_owned(), missing);
    let found = shown(&verified);
    assert!(found.contains(&own(relaxed, true)), "{found:?}");
    assert!(
        found.iter().all(|(expected, _)| expected == relaxed),
        "{found:?}"
    );
    let found = shown(&judge(&Rack::new()).unwrap());
    assert_eq!(found.len(), 1 + Rack::new().manifests.len());
    let required = own("a list for each certificate that names one", false);
    assert!(found.iter().all(|one| *one == required), "{found:?}");
    rack.lists[0].0.revoked.push((2, Vec::new()));
    assert!(verdict(&rack).is_err());
}

#[test]
fn chips_devices_and_modes_are_those_of_the_policy() {
    let chip = device(|rack| {
        rack.devices[0].chain[0].0.extensions[1] = device_name("NVIDIA:GB100:1");
    });
    let found = "GB100".to_owned();
    assert_eq!(chip, DeviceFault::Chip { found });
    let mode = device(|rack| done(rack.devices[0].say(36, &[1, 0])));
    let found = Mode::Multiple;
    assert_eq!(mode, DeviceFault::Mode { found });
    for (field, name) in [(20, "the firmware id"), (3, "the driver")] {
        let none = device(|rack| rack.devices[0].opaque.retain(|(other, _)| *other != field));
        assert_eq!(none, DeviceFault::Missing { field: name });
    }
    let none = device(|rack| {
        rack.devices[0]
            .opaque
            .retain(|(field, _)| ![21, 36].contains(field))
    });
    assert_eq!(none, DeviceFault::Missing { field: "the mode" });
    // Drivers before 580 say it in the older field alone.
    let mut rack = Rack::new();
    rack.devices[0].opaque.retain(|(field, _)| *field != 36);
    let verified = judge(&rack).unwrap();
    let own = verified.devices()[0].device;
    let mut policy = rack.policy();
    policy.devices = Pin::OneOf(vec![own]);
    let evidence = rack.evidence(&NONCE);
    assert!(verify(&evidence, &NONCE, rack.counts(), &policy, NOW).is_ok());
    policy.devices = Pin::OneOf(vec![Digest([1; 32])]);
    let error = verify(&evidence, &NONCE, rack.counts(), &policy, NOW).unwrap_err();
    let fault = Box::new(DeviceFault::Pinned { found: own });
    assert_eq!(error, GpuError::Device { device: 1, fault });
}

#[test]
fn versions_are_at_least_those_of_the_policy() {
    for (older, accepted) in [
        ("580.95.04", false),
        ("580.95", false),
        ("579.100.99", false),
        ("580.95.06", true),
        ("580.105.01", true),
        ("1000.0", true),
    ] {
        let mut rack = Rack::new();
        rack.devices[0].say(3, older.as_bytes());
        rack.manifests[0].replace("580.95.05", older);
        match judge(&rack) {
            Ok(_) => assert!(accepted, "{older}"),
            Err(GpuError::Device { fault, .. }) => {
                assert!(!accepted, "{older}: {fault}");
                assert!(matches!(*fault, DeviceFault::Driver { .. }), "{fault}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    let old = device(|rack| {
        rack.devices[0].say(6, &[1, 0, 0x9f, 0x96, 1, 0, 0, 0]);
    });
    assert!(matches!(old, DeviceFault::Vbios { .. }), "{old}");
    assert!(old.to_string().contains("96.9F.00.01.02 or later"), "{old}");
}

#[test]
fn measurements_are_those_of_the_manifests() {
    // What no manifest speaks of may be anything.
    let mut rack = Rack::new();
    rack.devices[0].blocks[50].3 = vec![9; 48];
    assert!(judge(&rack).is_ok());
    for (index, manifest) in [
        (7, ManifestKind::Driver),
        (21, ManifestKind::Driver),
        (0, ManifestKind::Vbios),
        (12, ManifestKind::Vbios),
    ] {
        let error = device(|rack| rack.devices[0].blocks[usize::from(index)].3 = vec![9; 48]);
        let found = Digest([9; 48]);
        assert_eq!(
            error,
            DeviceFault::Measurement {
                manifest,
                index,
                found
            }
        );
    }
    // The decoder's measurement counts if the decoder is in use.
    let change = |nvdec: u8| {
        move |rack: &mut Rack| {
            rack.devices[0].blocks[35].3 = vec![9; 48];
            rack.devices[0].say(11, &[nvdec]);
        }
    };
    let mut rack = Rack::new();
    change(0x55)(&mut rack);
    assert!(judge(&rack).is_ok());
    let error = device(change(0xaa));
    assert!(matches!(error, DeviceFault::Measurement { index: 35, .. }));
    let short = device(|rack| rack.devices[0].blocks.truncate(20));
    let (manifest, index) = (ManifestKind::Driver, 21);
    assert_eq!(short, DeviceFault::NoMeasurement { manifest, index });
    let conflict = device(|rack| {
        let hash = measurement(7)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect::<String>();
        let (from, to) = (
            "index=\"7\" active=\"False\"",
            "index=\"7\" active=\"True\"",
        );
        rack.manifests[1].replace(from, to);
        let text = rack.manifests[1].document.clone();
        let (start, end) = text.split_once(to).unwrap();
        rack.manifests[1].document =
            format!("{start}{to}{}", end.replacen(&"0".repeat(96), &hash, 1));
    });
    assert_eq!(conflict, DeviceFault::Conflict { index: 7 });
}

#[test]
fn manifests_are_demanded_one_each_and_none_besides() {
    for (place, manifest, version) in [
        (0, ManifestKind::Driver, "580.95.05"),
        (1, ManifestKind::Vbios, "96.9F.00.01.02"),
    ] {
        let error = device(|rack| drop(rack.manifests.remove(place)));
        let version = version.to_owned();
        assert_eq!(error, DeviceFault::NoManifest { manifest, version });
        let mut rack = Rack::new();
        rack.manifests.remove(place);
        let mut policy = rack.policy();
        (policy.driver_manifest, policy.vbios_manifest) =
            (Demand::NotRequired, Demand::NotRequired);
        let evidence = rack.evidence(&NONCE);
        let verified = verify(&evidence, &NONCE, rack.counts(), &policy, NOW).unwrap();
        let claims = verified.claims().iter();
        assert!(
            claims
                .clone()
                .any(|claim| claim.expected.contains("relaxed"))
        );
    }
    // Of another chip, it is none.
    let other =
        device(|rack| done(rack.manifests[0].replace("product=\"GH100\"", "product=\"GB100\"")));
    assert!(matches!(other, DeviceFault::NoManifest { .. }));
    let stray = fault(|rack| {
        let mut another = rack.manifests[0].clone();
        another.replace("580.95.05", "581.1");
        rack.manifests.push(another);
    });
    assert_eq!(stray, GpuError::StrayManifest { manifest: 3 });
    let twice = fault(|rack| rack.manifests.push(rack.manifests[1].clone()));
    assert_eq!(twice, GpuError::DuplicateManifest { manifest: 3 });
}

#[test]
fn there_are_as_many_devices_as_the_configuration_says_each_another_one() {
    let rack = Rack::new();
    for (gpus, switches, kind, expected, found) in [
        (2, 0, DeviceKind::Gpu, 2, 1),
        (0, 0, DeviceKind::Gpu, 0, 1),
        (1, 1, DeviceKind::Switch, 1, 0),
    ] {
        let counts = DeviceCounts { gpus, switches };
        let error = verify(&rack.evidence(&NONCE), &NONCE, counts, &rack.policy(), NOW);
        assert_eq!(
            error.unwrap_err(),
            GpuError::Count {
                kind,
                expected,
                found
            }
        );
    }
    let same = fault(|rack| rack.devices.push(rack.devices[0].clone()));
    assert_eq!(same, GpuError::SameDevice { device: 2 });
}

#[test]
fn devices_are_connected_with_each_other_and_nothing_else() {
    let topology = |change: fn(&mut Rack)| match fault_of(Rack::with_switch(), change) {
        GpuError::Topology { device, topology } => (device, topology),
        other => panic!("{other}"),
    };
    let hidden = topology(|rack| {
        rack.devices.pop();
        rack.manifests.pop();
    });
    assert_eq!(hidden, (1, Topology::NoSwitch));
    let other_switch = topology(|rack| done(rack.devices[1].say(22, &[7; 16])));
    assert_eq!(other_switch, (2, Topology::Switches));
    let one_more = topology(|rack| {
        let both = [
            &rack.devices[1]
                .opaque
                .iter()
                .find(|(f, _)| *f == 22)
                .unwrap()
                .1[..],
            &[7; 8],
        ];
        let both = both.concat();
        rack.devices[1].say(22, &both);
    });
    assert_eq!(one_more, (2, Topology::Switches));
    let other_gpu = topology(|rack| done(rack.devices[2].say(26, &connected(&[[7; 8]]))));
    assert_eq!(other_gpu, (3, Topology::Gpus));
    let name = topology(|rack| done(rack.devices[2].say(22, &[7; 8])));
    assert_eq!(name, (3, Topology::Name));
    let mixed = topology(|rack| done(rack.devices[1].say(21, &[0x55]).say(36, &[0, 0])));
    assert_eq!(mixed, (2, Topology::Mode));
    for (value, expected) in [
        (Some([0, 0]), DeviceFault::NotLocked),
        (
            None,
            DeviceFault::Missing {
                field: "whether it is locked",
            },
        ),
    ] {
        let error = fault_of(Rack::with_switch(), |rack| {
            let switch = &mut rack.devices[2];
            match value {
                Some(value) => done(switch.say(25, &value)),
                None => switch.opaque.retain(|(field, _)| *field != 25),
            }
        });
        // A switch that does not say so is none by the signer's count: the policy's name decides.
        match error {
            GpuError::Device { device: 3, fault } => assert_eq!(*fault, expected),
            GpuError::Count { .. } => assert_eq!(value, None),
            other => panic!("{other}"),
        }
    }
    let mut rack = Rack::with_switch();
    let counts = rack.counts();
    rack.devices[2].opaque.retain(|(field, _)| *field != 25);
    let error = verify(&rack.evidence(&NONCE), &NONCE, counts, &rack.policy(), NOW).unwrap_err();
    let field = "whether it is locked";
    let fault = Box::new(DeviceFault::Missing { field });
    assert_eq!(error, GpuError::Device { device: 3, fault });
}
