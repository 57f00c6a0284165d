//! The policies in `attest/policies`: each is complete, accepts what it is for, and refuses its
//! counter-example.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;

use attest::policy::{Demand, MachinePolicy, Pin, Policy, SnpPolicy, TdxPolicy, Tolerance};
use attest::snp::{self, Product, SigningKey, SnpError, SnpEvidence, SnpSetting};
use attest::tdx::{self, Quote, TdxError, TdxField, TdxSetting};
use attest::{Expectation, PlatformKind, Ratchet, Refusal};
use signer::amd::{self, Machine};
use signer::intel::{self, Domain};
use signer::{NOW, World, authority};

const ALL: [&str; 5] = ["aws", "azure", "demo", "gcp", "qemu"];

fn text(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("policies/{name}.toml"));
    fs::read_to_string(path).unwrap()
}

fn parsed(name: &str) -> Policy {
    Policy::parse(text(name).as_bytes()).unwrap()
}

/// The policy with a test root in AMD's place.
fn with_root(name: &str, machine: &Machine) -> SnpPolicy {
    let root = authority::pem(&amd::issue(&machine.ark, &machine.root));
    let text = text(name).replace("root = \"amd\"", &format!("root = '''\n{root}'''"));
    MachinePolicy::parse(text.as_bytes()).unwrap().snp.unwrap()
}

/// A machine of another product or at another TCB, with the certificate that goes with it.
fn machine(product: &str, model: u8, tcb: [u8; 8]) -> Machine {
    let mut machine = Machine::new();
    machine.set(amd::at::CPUID, &[0x19, model, 1]);
    for at in [
        amd::at::CURRENT_TCB,
        amd::at::REPORTED_TCB,
        amd::at::COMMITTED_TCB,
        amd::at::LAUNCH_TCB,
    ] {
        machine.set(at, &tcb);
    }
    machine.leaf.extensions = amd::vcek(product, &tcb, &amd::CHIP);
    machine
}

fn milan() -> Machine {
    machine("Milan-B0", 1, [4, 0, 0, 0, 0, 0, 24, 219])
}

fn judge(evidence: &SnpEvidence, policy: &SnpPolicy) -> Result<(), SnpError> {
    let data = evidence.report[0x50..0x90].try_into().unwrap();
    snp::verify(evidence, &data, policy, NOW).map(drop)
}

fn judge_domain(domain: &Domain, policy: &TdxPolicy) -> Result<(), TdxError> {
    let evidence = domain.evidence();
    let data = Quote::parse(&evidence.quote).unwrap().report_data;
    tdx::verify(&evidence, &data, policy, NOW).map(drop)
}

#[test]
fn each_is_complete_and_no_line_can_be_left_out() {
    for name in ALL {
        let text = text(name);
        Policy::parse(text.as_bytes()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let Some((key, _)) = line.split_once(" = ") else {
                continue;
            };
            if line.starts_with('#')
                || !key
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
            {
                continue;
            }
            let rest = [&lines[..number], &lines[number + 1..]].concat().join("\n");
            assert!(Policy::parse(rest.as_bytes()).is_err(), "{name}: {line}");
        }
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("policies");
    assert_eq!(fs::read_dir(folder).unwrap().count(), ALL.len());
}

#[test]
fn each_is_strict_where_it_can_be() {
    for name in ALL {
        let policy = parsed(name);
        if let Some(snp) = &policy.snp {
            assert_eq!(snp.revocation_lists, Demand::Required, "{name}");
            assert_eq!(snp.update_after_launch, Tolerance::Refused);
            assert_eq!(
                (snp.vmpls.as_slice(), snp.guest.migration_agent),
                (&[0][..], Tolerance::Refused)
            );
            assert_eq!(snp.platform.alias_check, Demand::Required);
            let milan = snp.products.iter().any(|one| one.name == Product::Milan);
            assert_eq!(milan, ["aws", "gcp"].contains(&name), "{name}");
            let vlek = snp.signing_keys.contains(&SigningKey::Vlek);
            assert_eq!(vlek, name == "aws");
        }
        if let Some(tdx) = &policy.tdx {
            assert_eq!(tdx.tcb_statuses, [tdx::TcbStatus::UpToDate], "{name}");
            let log = match name {
                "azure" => Demand::NotRequired,
                _ => Demand::Required,
            };
            assert_eq!((tdx.advisories.len(), tdx.event_log), (0, log));
            assert_eq!(tdx.attributes.sept_ve_disable, Demand::Required);
            assert_eq!(tdx.attributes.migratable, Tolerance::Refused);
        }
        let demo = policy.evidence.platforms == [PlatformKind::Tpm];
        assert_eq!(demo, name == "demo");
    }
}

/// The machine with the ID key that the policy for Azure pins first.
fn paravised(mut machine: Machine) -> Machine {
    let Pin::OneOf(keys) = parsed("azure").snp.unwrap().id_key_digests else {
        return machine;
    };
    machine.set(0xe0, &keys[0].0);
    machine
}

#[test]
fn the_one_for_azure_pins_the_paravisor() {
    let genoa = Machine::new();
    let error = judge(&genoa.evidence(), &with_root("azure", &genoa)).unwrap_err();
    assert!(matches!(error, SnpError::Pinned { .. }), "{error}");
}

#[test]
fn those_for_snp_accept_their_machine_and_refuse_another() {
    let genoa = paravised(Machine::new());
    for name in ["azure", "qemu"] {
        let policy = with_root(name, &genoa);
        judge(&genoa.evidence(), &policy).unwrap();
        // Milan is refused unless it is named.
        let error = judge(&paravised(milan()).evidence(), &policy).unwrap_err();
        let (expected, found) = (Product::Genoa, Some(Product::Milan));
        assert_eq!(error, SnpError::CertificateProduct { expected, found });
        let mut migrating = genoa.clone();
        migrating.set(amd::at::POLICY, &[2, 1, 0b1101_0110]);
        let error = judge(&migrating.evidence(), &policy).unwrap_err();
        let (setting, expected) = (SnpSetting::GuestMigrationAgent, false);
        assert_eq!(error, SnpError::Setting { setting, expected });
        let old = paravised(machine("Genoa", 0x11, [8, 0, 0, 0, 0, 0, 23, 84]));
        let error = judge(&old.evidence(), &policy).unwrap_err();
        assert!(matches!(error, SnpError::Tcb { .. }), "{error}");
    }
    // One's own host has to hide what a cloud does not.
    let mut visible = genoa.clone();
    visible.set(amd::at::PLATFORM_INFO, &[0b0010_1110]);
    judge(&visible.evidence(), &with_root("azure", &genoa)).unwrap();
    let error = judge(&visible.evidence(), &with_root("qemu", &genoa)).unwrap_err();
    assert!(
        matches!(error, SnpError::Setting { expected: true, .. }),
        "{error}"
    );

    let policy = with_root("gcp", &milan());
    judge(&milan().evidence(), &policy).unwrap();
    let error = judge(&genoa.evidence(), &policy).unwrap_err();
    let (expected, found) = (Product::Milan, Some(Product::Genoa));
    assert_eq!(error, SnpError::CertificateProduct { expected, found });
    let mut aliased = milan();
    aliased.set(amd::at::PLATFORM_INFO, &[0b0001_1110]);
    let error = judge(&aliased.evidence(), &policy).unwrap_err();
    let (setting, expected) = (SnpSetting::PlatformAliasCheck, true);
    assert_eq!(error, SnpError::Setting { setting, expected });
    // Amazon signs with a key of its own, and a chip's is none.
    let error = judge(&milan().evidence(), &with_root("aws", &milan())).unwrap_err();
    let found = SigningKey::Vcek;
    assert_eq!(error, SnpError::SigningKey { found });
}

#[test]
fn those_for_tdx_accept_their_domain_and_refuse_another() {
    for name in ["azure", "gcp", "qemu"] {
        let sound = Domain::new();
        let (template, key) = &sound.chain[2];
        let root = authority::pem(&intel::issue(key, template));
        let text = text(name).replace("[\"intel\"]", &format!("['''\n{root}''']"));
        let mut policy: TdxPolicy = MachinePolicy::parse(text.as_bytes()).unwrap().tdx.unwrap();
        if name == "azure" {
            // The paravisor is pinned, and the test's domain has registers of its own.
            assert!(judge_domain(&sound, &policy).is_err());
            policy.mr_tds = Pin::OneOf(vec![attest::Digest(intel::MR_TD)]);
            policy.rtmr0s = Pin::Any;
            policy.rtmr1s = Pin::Any;
            policy.rtmr2s = Pin::Any;
        }
        let judge = |domain: &Domain| judge_domain(domain, &policy);
        judge(&sound).unwrap();
        let attributes = |bits: u64| {
            let mut domain = Domain::new();
            domain.set(intel::at::ATTRIBUTES, &bits.to_le_bytes());
            judge(&domain).unwrap_err()
        };
        let debug = attributes(1 << 28 | 1);
        assert!(matches!(debug, TdxError::Debug { .. }), "{debug}");
        let (setting, expected) = (TdxSetting::Migratable, false);
        let migratable = attributes(1 << 28 | 1 << 29);
        assert_eq!(migratable, TdxError::Setting { setting, expected });
        let mut owned = Domain::new();
        owned.set(intel::at::MR_OWNER, &[1; 48]);
        let owned = judge(&owned).unwrap_err();
        assert!(
            matches!(
                owned,
                TdxError::Pinned {
                    field: TdxField::MrOwner,
                    ..
                }
            ),
            "{owned}"
        );
    }
}

/// As shipped they name nobody's keys: whoever uses one without looking is refused.
#[test]
fn none_accepts_anything_before_its_keys_are_put_in() {
    let world = World::new();
    let binding = world.nonce_binding([1; 32]);
    let evidence = world.evidence(&binding);
    for name in ALL {
        let policy = parsed(name);
        let seen = Ratchet::default();
        let expectation = Expectation { binding };
        let refused = attest::verify(&evidence, &expectation, &policy, &seen, NOW).unwrap_err();
        match name {
            "demo" => assert!(matches!(refused, Refusal::Release(_)), "{refused}"),
            _ => assert!(matches!(refused, Refusal::Platform { .. }), "{refused}"),
        }
    }
}
