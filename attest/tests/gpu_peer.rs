//! A machine with GPUs as a whole: one nonce over CPU and GPUs; what configuration and policy say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::configuration::ConfigurationError;
use attest::gpu::{DeviceCounts, DeviceFault, GpuError};
use attest::policy::{List, PolicyError};

use attest::{
    Binding, BoundPart, Class, Configuration, Evidence, Expectation, Policy, Ratchet, Refusal,
    VerifiedPeer, evidence, verify,
};
use signer::nvidia::{
    FIELDS, Rack, gpu_policy, rack_binding, rack_evidence, rack_world, with_table,
};
use signer::{NOW, World};

fn judge(evidence: &Evidence, binding: Binding, policy: &Policy) -> Result<VerifiedPeer, Refusal> {
    let expectation = Expectation { binding };
    verify(evidence, &expectation, policy, &Ratchet::UNSEEN, NOW)
}

#[test]
fn a_machine_with_gpus_is_verified_with_them() {
    for rack in [Rack::new(), Rack::with_switch()] {
        let (world, policy) = rack_world(&rack);
        let (binding, evidence) = rack_evidence(&world, &rack, [7; 32]);
        assert_eq!(Evidence::decode(&evidence.encode()), Ok(evidence.clone()));
        let peer = judge(&evidence, binding, &policy).unwrap();
        assert_eq!(peer.configuration().devices(), rack.counts());
        let claims = peer.claims().iter();
        assert!(claims.clone().any(|claim| claim.what == "GPU 1: nonce"));
    }
}

/// Neither half can come from another session or machine: the devices sign for the handshake, and
/// the CPU signs for their reports.
#[test]
fn evidence_of_two_machines_cannot_be_mixed() {
    let rack = Rack::new();
    let (world, policy) = rack_world(&rack);
    let (binding, evidence) = rack_evidence(&world, &rack, [7; 32]);
    // Another session's devices beside this session's CPU, as they are.
    let (_, other) = rack_evidence(&world, &rack, [8; 32]);
    let mixed = Evidence {
        gpu: other.gpu.clone(),
        ..evidence.clone()
    };
    let refusal = judge(&mixed, binding, &policy).unwrap_err();
    assert!(
        matches!(
            refusal,
            Refusal::Binding {
                part: BoundPart::Gpu,
                ..
            }
        ),
        "{refusal}"
    );
    // With a CPU that signs for them, the devices have still signed for another nonce.
    let mut forged = binding;
    if let Binding::Nonce { gpu_digest, .. } = &mut forged {
        *gpu_digest = evidence::devices_digest(&other.gpu.devices);
    }
    let mixed = Evidence {
        gpu: other.gpu,
        ..world.evidence(&forged)
    };
    let refusal = judge(&mixed, forged, &policy).unwrap_err();
    assert_eq!(refusal.class(), Class::Signature);
    let Refusal::Gpu(error) = refusal else {
        panic!("{refusal}")
    };
    let GpuError::Device { fault, .. } = *error else {
        panic!("{error}")
    };
    assert!(matches!(*fault, DeviceFault::Nonce { .. }), "{fault}");
    // A client's own manifests change nothing in what is bound.
    let mut own = evidence;
    own.gpu.manifests.reverse();
    assert!(judge(&own, binding, &policy).is_ok());
}

#[test]
fn the_configuration_decides_how_many_there_are_and_the_policy_whether_any() {
    let rack = Rack::new();
    let (world, policy) = rack_world(&rack);
    let mut two = rack.clone();
    two.devices
        .push(signer::nvidia::Device::gpu(&rack.device_root, 2));
    let (binding, evidence) = rack_evidence(&world, &two, [7; 32]);
    let refusal = judge(&evidence, binding, &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::Gpu(_)), "{refusal}");
    assert_eq!(refusal.class(), Class::Policy);
    // None where the configuration says one.
    let binding = world.nonce_binding([7; 32]);
    let refusal = judge(&world.evidence(&binding), binding, &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::Gpu(_)), "{refusal}");
    // A policy without the table accepts none.
    let without = world.policy();
    let refusal = judge(&world.evidence(&binding), binding, &without).unwrap_err();
    assert_eq!(refusal, Refusal::NoGpuPolicy { devices: 1 });
    assert!(!refusal.hint().is_empty());
    let plain = World::new();
    let (binding, gpu) = rack_binding(&plain, &rack, [7; 32]);
    let evidence = Evidence {
        gpu,
        ..plain.evidence(&binding)
    };
    let refusal = judge(&evidence, binding, &plain.policy()).unwrap_err();
    assert_eq!(refusal, Refusal::NoGpuPolicy { devices: 1 });
    // With the table, a machine without GPUs is still one without.
    let table = rack.policy_toml();
    let policy = with_table(&plain, &table);
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    let binding = plain.nonce_binding([7; 32]);
    assert!(judge(&plain.evidence(&binding), binding, &policy).is_ok());
    assert!(judge(&evidence, binding, &policy).is_err());
}

#[test]
fn version_3_of_a_configuration_counts_the_devices() {
    let plain = String::from_utf8(World::new().configuration).unwrap();
    let read = |text: &str| Configuration::parse(text.as_bytes());
    assert_eq!(read(&plain).unwrap().devices(), DeviceCounts::default());
    let version = |number: u8| plain.replacen("version = 1", &format!("version = {number}"), 1);
    let source = "[evidence]\nplatform = \"snp\"\n[snp]\nproxy = \"none\"\n";
    let gpus = |gpus: u32, switches: u32| format!("[gpu]\ngpus = {gpus}\nswitches = {switches}\n");
    let whole = format!("{}{source}{}", version(3), gpus(8, 4));
    let devices = read(&whole).unwrap().devices();
    assert_eq!((devices.gpus, devices.switches), (8, 4));
    for text in [
        format!("{}{source}", version(3)),
        format!("{}{source}{}", version(2), gpus(1, 0)),
        format!("{plain}{}", gpus(1, 0)),
    ] {
        assert_eq!(read(&text), Err(ConfigurationError::Gpu), "{text}");
    }
    let text = format!("{}{}", version(3), gpus(1, 0));
    assert_eq!(read(&text), Err(ConfigurationError::Evidence));
    for wrong in [gpus(0, 0), gpus(17, 0), gpus(1, 17)] {
        let text = format!("{}{source}{wrong}", version(3));
        assert!(matches!(read(&text), Err(ConfigurationError::Range { .. })));
    }
    for wrong in [
        "[gpu]\ngpus = 1\n",
        "[gpu]\ngpus = 1\nswitches = 0\nmore = 1\n",
    ] {
        let text = format!("{}{source}{wrong}", version(3));
        assert!(matches!(read(&text), Err(ConfigurationError::Toml(_))));
    }
}

fn with_gpu(table: &str) -> Result<Policy, PolicyError> {
    let text = with_table(&World::new(), table);
    Policy::parse(text.as_bytes())
}

#[test]
fn no_field_of_the_table_for_gpus_is_optional_and_none_is_unknown() {
    let table = Rack::new().policy_toml();
    for line in FIELDS.lines() {
        let without = with_gpu(&table.replacen(&format!("{line}\n"), "", 1));
        assert!(matches!(without, Err(PolicyError::Toml(_))), "{line}");
        let (name, _) = line.split_once(' ').unwrap();
        let renamed = with_gpu(&table.replacen(name, "unknown", 1));
        assert!(matches!(renamed, Err(PolicyError::Toml(_))), "{line}");
    }
    for name in ["device_roots", "manifest_roots"] {
        let renamed = with_gpu(&table.replacen(name, "unknown", 1));
        assert!(matches!(renamed, Err(PolicyError::Toml(_))), "{name}");
    }
    let unknown = with_gpu(&format!("{table}unknown = 1\n"));
    assert!(matches!(unknown, Err(PolicyError::Toml(_))));
    for (from, to) in [
        ("\"580.95.05\"", "\"580\""),
        ("\"96.9F.00.01.02\"", "\"96.9F.00.01\""),
        ("[\"single\", \"protected-pcie\"]", "[\"none\"]"),
        ("devices = \"any\"", "devices = []"),
        ("driver_manifest = \"required\"", "driver_manifest = false"),
    ] {
        assert!(table.contains(from), "{from}");
        let wrong = with_gpu(&table.replacen(from, to, 1));
        assert!(matches!(wrong, Err(PolicyError::Toml(_))), "{to}");
    }
}

#[test]
fn roots_of_gpus_are_named_or_given() {
    let named = |devices: &str, manifests: &str| {
        with_gpu(&format!(
            "[gpu]\ndevice_roots = {devices}\nmanifest_roots = {manifests}\n{FIELDS}"
        ))
    };
    let own = "[\"nvidia\"]";
    let policy = named(own, own).unwrap().gpu.unwrap();
    let device = policy.device_roots[0].to_string();
    assert!(device.contains("CN=NVIDIA Device Identity CA"), "{device}");
    let manifest = policy.manifest_roots[0].to_string();
    assert!(
        manifest.contains("CN=NVIDIA CoRIM signing Root CA"),
        "{manifest}"
    );
    assert!(matches!(named("[\"amd\"]", own), Err(PolicyError::Toml(_))));
    let empty = |list| Err(PolicyError::Empty(list));
    assert_eq!(named("[]", own), empty(List::GpuDeviceRoots));
    assert_eq!(named(own, "[]"), empty(List::GpuManifestRoots));
    let table = Rack::new().policy_toml();
    let chips = with_gpu(&table.replacen("[\"GH100\"]", "[]", 1));
    assert_eq!(chips, empty(List::GpuChips));
    let modes = with_gpu(&table.replacen("[\"single\", \"protected-pcie\"]", "[]", 1));
    assert_eq!(modes, empty(List::GpuModes));
    assert_eq!(gpu_policy(&table).chips.len(), 1);
}
