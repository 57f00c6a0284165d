//! Servers in clouds, from the hardware to the registers of the release: evidence that is signed at
//! run time and goes through the envelope.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use attest::azure::{AzureError, AzureHardware, AzureMachine, AzureSetting};
use attest::capsule::{Capsule, Purpose};
use attest::certificate::ChainFault;
use attest::evidence::EvidenceError;
use attest::policy::{MachinePolicy, PolicyError};
use attest::snp::SnpError;
use attest::tdx::TdxError;
use attest::tpm::google::GoogleField;
use attest::tpm::quote::QuoteError;
use attest::tpm::{Register, TpmEvidence};
use attest::{
    Binding, Class, Digest, Evidence, Expectation, Platform, PlatformKind, Policy, Ratchet,
    Refusal, VerifiedPeer, verify,
};
use signer::azure::{GoogleChain, Vm, cloud_world, google_evidence, tpmt, vm_evidence};
use signer::boot::{self, Event};
use signer::{NOW, World, amd};

fn judge(binding: Binding, policy: &Policy, evidence: &Evidence) -> Result<VerifiedPeer, Refusal> {
    let decoded = Evidence::decode(&evidence.encode())?;
    let verdict = verify(
        &decoded,
        &Expectation { binding },
        policy,
        &Ratchet::UNSEEN,
        NOW,
    );
    if let Err(refusal) = &verdict {
        assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    }
    verdict
}

fn read(policy: &str) -> Policy {
    Policy::parse(policy.as_bytes()).unwrap()
}

/// The refusal of evidence that is changed after it was signed.
fn refusal(vm: &Vm, change: impl FnOnce(&mut Evidence)) -> Refusal {
    let (world, policy) = cloud_world(vm);
    let binding = world.handshake_binding();
    let mut evidence = vm_evidence(&world, vm, &binding);
    change(&mut evidence);
    judge(binding, &read(&policy), &evidence).unwrap_err()
}

fn machine(evidence: &mut Evidence) -> &mut AzureMachine {
    match &mut evidence.platform {
        Platform::Azure(machine) => machine,
        other => panic!("{other:?}"),
    }
}

fn tpm(evidence: &mut Evidence) -> &mut TpmEvidence {
    match &mut evidence.platform {
        Platform::Azure(machine) => &mut machine.tpm,
        Platform::Google(tpm) => tpm,
        other => panic!("{other:?}"),
    }
}

fn azure(refusal: Refusal) -> AzureError {
    match refusal {
        Refusal::Azure(error) => *error,
        other => panic!("{other}"),
    }
}

#[test]
fn servers_in_clouds_are_believed_down_to_the_registers_of_the_release() {
    for vm in [Vm::new(), Vm::with_tdx()] {
        let (world, policy) = cloud_world(&vm);
        for binding in [world.handshake_binding(), world.nonce_binding([7; 32])] {
            let evidence = vm_evidence(&world, &vm, &binding);
            let peer = judge(binding, &read(&policy), &evidence).unwrap();
            let claims: Vec<_> = peer
                .claims()
                .iter()
                .map(|claim| claim.what.clone())
                .collect();
            for what in [
                "binding of the paravisor",
                "binding",
                "virtual TPM",
                "PCR 9 (command line and initrd)",
                "PCR 0 (firmware)",
            ] {
                let times = claims.iter().filter(|claim| *claim == what).count();
                assert_eq!(times, 1, "{what}: {claims:?}");
            }
        }
    }
    let (world, policy) = cloud_world(&Vm::new());
    let binding = world.handshake_binding();
    let evidence = google_evidence(&world, &GoogleChain::new(), &binding);
    let peer = judge(binding, &read(&policy), &evidence).unwrap();
    let mut claims = peer.claims().iter();
    let project = claims.find(|claim| claim.what == "project number").unwrap();
    assert_eq!(
        (project.expected.as_str(), project.found.as_str()),
        ("7", "7")
    );
}

#[test]
fn the_hardware_vouches_for_the_virtual_tpm_that_quotes() {
    // A key of another VM: the paravisor's report names this one's.
    let stranger = refusal(&Vm::new(), |evidence| {
        let tpm = tpm(evidence);
        tpm.signature = tpmt(&amd::Machine::new().ark.sign_pkcs1(&tpm.attest));
    });
    assert_eq!(stranger, Refusal::Quote(QuoteError::Signature));
    for vm in [Vm::new(), Vm::with_tdx()] {
        // The runtime data names another key than the hardware signed for.
        let error = azure(refusal(&vm, |evidence| {
            let at = machine(evidence).hcl_report.len() - 110;
            machine(evidence).hcl_report[at] ^= 1;
        }));
        match error {
            AzureError::Snp(error) => assert!(matches!(*error, SnpError::ReportData { .. })),
            AzureError::Tdx(error) => assert!(matches!(*error, TdxError::ReportData { .. })),
            other => panic!("{other}"),
        }
    }
    let mixed = refusal(&Vm::new(), |evidence| {
        machine(evidence).hcl_report = Vm::with_tdx().evidence(&[]).hcl_report;
    });
    assert_eq!(mixed.class(), Class::Signature);
    assert_eq!(azure(mixed), AzureError::OtherHardware);
    let none = azure(refusal(&Vm::new(), |evidence| {
        machine(evidence).hcl_report.truncate(9)
    }));
    assert!(matches!(none, AzureError::Hcl(_)), "{none}");
    // Somebody in the guest asked, below the paravisor.
    let mut vm = Vm::new();
    let signer::azure::Hardware::Snp(machine) = &mut vm.hardware else {
        panic!()
    };
    machine.set(amd::at::VMPL, &2u32.to_le_bytes());
    let (world, policy) = cloud_world(&vm);
    let binding = world.handshake_binding();
    let evidence = vm_evidence(&world, &vm, &binding);
    let policy = read(&policy.replace("vmpls = [0]", "vmpls = [0, 2]"));
    let refused = judge(binding, &policy, &evidence).unwrap_err();
    assert_eq!(refused.class(), Class::Policy);
    assert_eq!(azure(refused), AzureError::Vmpl { found: 2 });
}

#[test]
fn a_paravisor_that_the_policy_does_not_pin_is_refused() {
    for vm in [Vm::new(), Vm::with_tdx()] {
        let (world, policy) = cloud_world(&vm);
        let binding = world.handshake_binding();
        let evidence = vm_evidence(&world, &vm, &binding);
        let own = [Digest(amd::MEASUREMENT), Digest(signer::intel::MR_TD)];
        let mut other = policy.clone();
        for own in own {
            other = other.replace(&own.to_string(), &"ee".repeat(48));
        }
        let error = azure(judge(binding, &read(&other), &evidence).unwrap_err());
        match error {
            AzureError::Snp(error) => assert!(matches!(*error, SnpError::Pinned { .. })),
            AzureError::Tdx(error) => assert!(matches!(*error, TdxError::Pinned { .. })),
            other => panic!("{other}"),
        }
        let mut unpinned = policy;
        for own in own {
            unpinned = unpinned.replace(&format!("\"{own}\""), "\"any\"");
        }
        let kind = evidence.platform.kind();
        let read = Policy::parse(unpinned.as_bytes());
        assert_eq!(read, Err(PolicyError::Paravisor(kind)));
    }
    let (_, policy) = cloud_world(&Vm::new());
    let keyed = policy
        .replace(&format!("\"{}\"", Digest(amd::MEASUREMENT)), "\"any\"")
        .replace(
            "id_key_digests = \"any\"",
            &format!("id_key_digests = \"{}\"", "ab".repeat(48)),
        );
    assert!(Policy::parse(keyed.as_bytes()).is_ok());
}

#[test]
fn a_quote_is_for_this_handshake_over_the_registers_of_the_release() {
    for google in [false, true] {
        let (world, policy) = cloud_world(&Vm::new());
        let policy = read(&policy);
        let chain = GoogleChain::new();
        let make = |world: &World, binding: &Binding| match google {
            true => google_evidence(world, &chain, binding),
            false => vm_evidence(world, &Vm::new(), binding),
        };
        let binding = world.handshake_binding();
        let of = |change: &dyn Fn(&mut Evidence)| {
            let mut evidence = make(&world, &binding);
            change(&mut evidence);
            judge(binding, &policy, &evidence).unwrap_err()
        };
        let relayed = make(&world, &world.nonce_binding([7; 32]));
        let other = judge(binding, &policy, &relayed).unwrap_err();
        assert!(
            matches!(other, Refusal::Quote(QuoteError::QualifyingData { .. })),
            "{other}"
        );
        let swapped = of(&|evidence| tpm(evidence).registers[4].0[0] ^= 1);
        assert!(
            matches!(swapped, Refusal::Quote(QuoteError::Registers { .. })),
            "{swapped}"
        );
        let format = of(&|evidence| tpm(evidence).signature[3] = 0x0c);
        assert_eq!(format, Refusal::Quote(QuoteError::VirtualSignatureFormat));
        let log = of(&|evidence| tpm(evidence).event_log.truncate(300));
        assert!(matches!(log, Refusal::EventLog(_)), "{log}");
        // Booted: another kernel, a credential of the host's, an event that the log hides.
        for (event, register) in [
            (Event::plain(4, 0x8000_0003, b"another kernel"), 4),
            (Event::plain(12, 6, b"credential"), 12),
        ] {
            let mut booted = world.clone();
            booted.events.push(event);
            let evidence = make(&booted, &binding);
            match judge(binding, &policy, &evidence).unwrap_err() {
                Refusal::Register {
                    register: found, ..
                }
                | Refusal::NotEmpty {
                    register: found, ..
                } => {
                    assert_eq!(found, Register(register));
                }
                other => panic!("{other}"),
            }
        }
        let mut hidden = make(&world, &binding);
        let fewer = &world.events[..world.events.len() - 1];
        tpm(&mut hidden).event_log = boot::encode(fewer);
        let hidden = judge(binding, &policy, &hidden).unwrap_err();
        assert!(matches!(hidden, Refusal::Replay { .. }), "{hidden}");
    }
}

#[test]
fn secure_boot_and_settings_are_as_the_policy_and_the_log_say() {
    let mut off = World::new();
    off.events[3] = boot::secure_boot(&[0]);
    let (world, policy) = cloud_world(&Vm::new());
    let binding = world.handshake_binding();
    let evidence = vm_evidence(&off, &Vm::new(), &binding);
    let refused = judge(binding, &read(&policy), &evidence).unwrap_err();
    assert_eq!(refused, Refusal::SecureBoot);
    let relaxed = read(&policy.replace(
        "secure_boot = \"required\"",
        "secure_boot = \"not-required\"",
    ));
    let refused = judge(binding, &relaxed, &evidence).unwrap_err();
    assert_eq!(azure(refused), AzureError::SecureBoot);
    let mut vm = Vm::new();
    vm.replace("\"console-enabled\":false", "\"console-enabled\":true");
    let (setting, expected) = (AzureSetting::Console, false);
    let found = azure(refusal(&vm, |_| {}));
    assert_eq!(found, AzureError::Setting { setting, expected });
}

#[test]
fn googles_key_is_of_a_project_that_the_policy_names() {
    let (world, policy) = cloud_world(&Vm::new());
    let binding = world.handshake_binding();
    let evidence = google_evidence(&world, &GoogleChain::new(), &binding);
    for (line, field, found) in [
        (
            "project_numbers = [8, 9]\ninstance_numbers = \"any\"",
            GoogleField::Project,
            7,
        ),
        (
            "project_numbers = \"any\"\ninstance_numbers = [7]",
            GoogleField::Instance,
            255,
        ),
    ] {
        let policy = policy.replace("project_numbers = [7]\ninstance_numbers = \"any\"", line);
        let refused = judge(binding, &read(&policy), &evidence).unwrap_err();
        assert_eq!(refused, Refusal::Google { field, found });
        assert_eq!(refused.class(), Class::Policy);
    }
    for wrong in ["[]", "7", "\"7\"", "[\"7\"]", "[-1]"] {
        let policy = policy.replace("[7]", wrong);
        let read = Policy::parse(policy.as_bytes());
        assert!(matches!(read, Err(PolicyError::Toml(_))), "{wrong}");
    }
    let mut unissued = evidence;
    tpm(&mut unissued).certificates.pop();
    let Refusal::Chain(error) = judge(binding, &read(&policy), &unissued).unwrap_err() else {
        panic!()
    };
    assert!(
        matches!(error.fault, ChainFault::UnknownRoot { .. }),
        "{error}"
    );
    let mut expired = GoogleChain::new();
    expired.templates[0].validity[1] = "250101000000Z".into();
    let evidence = google_evidence(&world, &expired, &binding);
    let refused = judge(binding, &read(&policy), &evidence).unwrap_err();
    assert_eq!(refused.class(), Class::Collateral);
}

#[test]
fn one_clouds_evidence_is_not_taken_for_anothers() {
    let (world, policy) = cloud_world(&Vm::new());
    let binding = world.handshake_binding();
    let google = google_evidence(&world, &GoogleChain::new(), &binding);
    let Platform::Google(tpm) = google.platform.clone() else {
        panic!()
    };
    // Google's quote, shown as that of a TPM of one's own.
    let own = Evidence {
        platform: Platform::Tpm(tpm),
        ..google.clone()
    };
    let refused = judge(binding, &read(&policy), &own).unwrap_err();
    assert!(matches!(refused, Refusal::Chain(_)), "{refused}");
    // A TPM's quote, shown as Google's.
    let Platform::Tpm(tpm) = world.evidence(&binding).platform else {
        panic!()
    };
    let shown = Evidence {
        platform: Platform::Google(tpm),
        ..google.clone()
    };
    let refused = judge(binding, &read(&policy), &shown).unwrap_err();
    assert!(matches!(refused, Refusal::Chain(_)), "{refused}");
    // Not named by the policy.
    let found = PlatformKind::GoogleVtpm;
    let refused = judge(binding, &world.policy(), &google).unwrap_err();
    assert_eq!(refused, Refusal::Platform { found });
    let found = PlatformKind::AzureTdx;
    let vm = Vm::with_tdx();
    let evidence = vm_evidence(&world, &vm, &binding);
    let refused = judge(binding, &read(&policy), &evidence).unwrap_err();
    assert_eq!(refused, Refusal::Platform { found });
}

#[test]
fn tables_of_clouds_stand_where_the_platform_is_named_and_only_there() {
    let (_, policy) = cloud_world(&Vm::new());
    let parse = |text: &str| Policy::parse(text.as_bytes()).map(drop);
    assert_eq!(parse(&policy), Ok(()));
    let unnamed = policy.replace(", \"google-vtpm\"]", "]");
    let google = PlatformKind::GoogleVtpm;
    assert_eq!(parse(&unnamed), Err(PolicyError::UnusedTable(google)));
    let start = policy.find("[google-vtpm]").unwrap();
    let end = policy.find("[snp]").unwrap();
    let untold = [&policy[..start], &policy[end..]].concat();
    assert_eq!(parse(&untold), Err(PolicyError::MissingTable(google)));
    let unnamed = policy.replace("\"azure-snp\"", "\"snp\"");
    assert_eq!(parse(&unnamed), Err(PolicyError::Azure));
    let named = policy.replace("\"azure-snp\"", "\"azure-snp\", \"azure-tdx\"");
    let missing = PolicyError::MissingTable(PlatformKind::Tdx);
    assert_eq!(parse(&named), Err(missing));
    let pinned = format!(
        "pcrs = [{{ register = 4, values = \"{}\" }}]",
        "00".repeat(32)
    );
    let pinned = policy.replace("pcrs = []", &pinned);
    assert_eq!(parse(&pinned), Err(PolicyError::AzureRegisters));
    let machines = MachinePolicy::parse(policy.as_bytes()).unwrap();
    assert!(machines.azure.is_some() && machines.snp.is_some());
}

#[test]
fn a_capsule_of_a_cloud_is_judged_again_offline_at_its_time() {
    for vm in [Vm::new(), Vm::with_tdx()] {
        let (world, policy) = cloud_world(&vm);
        let binding = world.nonce_binding([7; 32]);
        let capsule = Capsule {
            time: NOW,
            purpose: Purpose::Nonce([7; 32]),
            evidence: vm_evidence(&world, &vm, &binding),
        };
        let bytes = capsule.encode();
        assert!((3_000..200_000).contains(&bytes.len()), "{}", bytes.len());
        let read_back = Capsule::decode(&bytes).unwrap();
        let binding = read_back.binding("suite");
        assert!(judge(binding, &read(&policy), &read_back.evidence).is_ok());
        for length in (0..bytes.len()).step_by(131) {
            assert!(Capsule::decode(&bytes[..length]).is_err());
        }
    }
}

#[test]
fn what_does_not_belong_there_is_not_evidence() {
    let stray = refusal(&Vm::new(), |evidence| {
        tpm(evidence).certificates.push(vec![1])
    });
    assert_eq!(stray, Refusal::Evidence(EvidenceError::Stray));
    let stray = refusal(&Vm::with_tdx(), |evidence| {
        if let AzureHardware::Tdx(tdx) = &mut machine(evidence).hardware {
            tdx.event_log.push(1);
        }
    });
    assert_eq!(stray, Refusal::Evidence(EvidenceError::Stray));
}

/// Header fields of the paravisor's report (size, request and status), a domain's whole hardware
/// report beside its quote, and zeros at the end are not signed; nothing reads them. Of the log,
/// see `flips.rs`: it is left out here.
#[test]
fn nothing_flipped_is_accepted_of_a_cloud() {
    let world = World::new();
    let binding = world.handshake_binding();
    let google = google_evidence(&world, &GoogleChain::new(), &binding);
    let all = [
        (
            cloud_world(&Vm::new()).1,
            vm_evidence(&world, &Vm::new(), &binding),
        ),
        (
            cloud_world(&Vm::with_tdx()).1,
            vm_evidence(&world, &Vm::with_tdx(), &binding),
        ),
        (cloud_world(&Vm::new()).1, google),
    ];
    for (policy, evidence) in all {
        let policy = read(&policy);
        let expected = judge(binding, &policy, &evidence)
            .unwrap()
            .claims()
            .to_vec();
        let bytes = evidence.encode();
        let log = boot::encode(&world.events);
        let find = |part: &[u8]| {
            let mut windows = bytes.windows(part.len());
            windows.position(|window| window == part).unwrap()
        };
        let log = find(&log)..find(&log) + log.len();
        let mut unread = vec![log];
        if let Platform::Azure(machine) = &evidence.platform {
            let start = find(&machine.hcl_report);
            unread.push(start + 8..start + 32);
            if matches!(machine.hardware, AzureHardware::Tdx(_)) {
                unread.push(start + 32..start + 1216);
            }
        }
        let mut accepted = 0;
        for place in (0..bytes.len()).step_by(41) {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1 << (place % 8);
            let Ok(decoded) = Evidence::decode(&flipped) else {
                continue;
            };
            let expectation = Expectation { binding };
            let verdict = verify(&decoded, &expectation, &policy, &Ratchet::UNSEEN, NOW);
            if let Ok(peer) = verdict {
                let known = unread.iter().any(|range| range.contains(&place));
                assert!(known || peer.claims() == expected, "{place}");
                assert!(known, "{:?} {place}", evidence.platform.kind());
                accepted += 1;
            }
        }
        assert!(accepted < bytes.len() / 41);
    }
}
