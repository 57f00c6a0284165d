//! Verdicts of `verify` over evidence that is signed at run time, right and wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::evidence::EvidenceError;
use attest::policy::SecureBootPolicy;
use attest::release::ReleaseError;
use attest::snp::SnpError;
use attest::tdx::{TdxError, TdxField};
use attest::tpm::quote::QuoteError;
use attest::{
    Assurance, Binding, Class, Configuration, Digest, Evidence, Expectation, Platform,
    PlatformKind, Policy, Ratchet, Refusal, UnixTime, VerifiedPeer, verify, verify_release,
};
use signer::amd::{at, machine_evidence, machine_world};
use signer::authority::Authority;
use signer::boot::{self, Event};
use signer::intel::{domain_evidence, domain_world};
use signer::{NOW, World};

fn judge(evidence: &Evidence, binding: Binding, policy: &Policy) -> Result<VerifiedPeer, Refusal> {
    verify(
        evidence,
        &Expectation { binding },
        policy,
        &Ratchet::UNSEEN,
        NOW,
    )
}

/// The verdict on a world's own evidence under its own policy.
fn verdict(world: &World) -> Result<VerifiedPeer, Refusal> {
    let binding = world.handshake_binding();
    judge(&world.evidence(&binding), binding, &world.policy())
}

fn refusal(world: &World) -> Refusal {
    let refusal = verdict(world).expect_err("must be refused");
    assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    refusal
}

#[test]
fn sound_evidence_makes_a_verified_peer() {
    let world = World::new();
    let peer = verdict(&world).unwrap();
    assert_eq!(peer.assurance(), Assurance::PerHandshake);
    assert_eq!(
        peer.configuration(),
        &Configuration::parse(&world.configuration).unwrap()
    );
    assert_eq!(peer.release().statement().predicate, world.predicate);
    let data = attest::ReportData::compute(&world.handshake_binding());
    assert_eq!(peer.report_data(), &data);
    for what in [
        "platform",
        "release signer",
        "release log",
        "release version",
        "configuration",
        "attestation key",
        "binding",
        "PCR 4 (boot loader and kernel)",
        "PCR 9 (command line and initrd)",
        "PCR 12 (additions to the command line, credentials)",
        "Secure Boot",
        "assurance",
    ] {
        assert!(
            peer.claims().iter().any(|claim| claim.what == what),
            "{what}"
        );
    }
    assert!(peer.claims().iter().all(|claim| !claim.rests_on.is_empty()));
}

#[test]
fn evidence_for_a_nonce_speaks_of_the_platform_only() {
    let world = World::new();
    let binding = world.nonce_binding([7; 32]);
    let peer = judge(&world.evidence(&binding), binding, &world.policy()).unwrap();
    assert_eq!(peer.assurance(), Assurance::PlatformOnly);
}

#[test]
fn bytes_that_are_no_evidence_are_refused() {
    let refusal = Refusal::from(Evidence::decode(b"GET / HTTP/1.1").unwrap_err());
    assert!(matches!(refusal, Refusal::Evidence(EvidenceError::Cbor(_))));
    assert_eq!(refusal.class(), Class::Signature);
}

#[test]
fn a_platform_that_the_policy_does_not_name_is_refused() {
    let world = World::new();
    let binding = world.handshake_binding();
    let mut policy = world.policy();
    policy.evidence.platforms.clear();
    let refusal = judge(&world.evidence(&binding), binding, &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::Platform { .. }));
    assert_eq!(refusal.class(), Class::Policy);
}

#[test]
fn evidence_for_another_handshake_or_nonce_is_refused() {
    let world = World::new();
    let made_for = world.handshake_binding();
    let evidence = world.evidence(&made_for);
    let mut others = vec![world.nonce_binding([7; 32])];
    for part in 0..3 {
        let mut other = made_for;
        let Binding::Handshake {
            message1_hash,
            server_static,
            ciphertext_digest,
            ..
        } = &mut other
        else {
            unreachable!()
        };
        [message1_hash, server_static, ciphertext_digest][part][31] ^= 1;
        others.push(other);
    }
    for other in others {
        let refusal = judge(&evidence, other, &world.policy()).unwrap_err();
        assert!(
            refusal
                .to_string()
                .starts_with("quote: made for another handshake"),
            "{refusal}"
        );
        assert_eq!(refusal.class(), Class::Signature);
    }
}

/// Evidence within a session is of one session and one nonce: neither that of the handshake, nor
/// that for a nonce alone, which anybody can fetch from another machine, passes for it.
#[test]
fn evidence_within_a_session_is_of_this_session_and_this_nonce() {
    let world = World::new();
    let handshake = world.handshake_binding();
    let session = handshake.session([7; 32]);
    let evidence = world.evidence(&session);
    let peer = judge(&evidence, session, &world.policy()).unwrap();
    assert_eq!(peer.assurance(), Assurance::WithinSession);
    let mut changed_key = handshake;
    let Binding::Handshake { server_static, .. } = &mut changed_key else {
        unreachable!()
    };
    server_static[0] ^= 1;
    for other in [
        handshake,
        handshake.session([8; 32]),
        changed_key.session([7; 32]),
        world.nonce_binding([7; 32]),
        world.nonce_binding([7; 32]).session([7; 32]),
    ] {
        for (evidence, binding) in [(&evidence, other), (&world.evidence(&other), session)] {
            let refusal = judge(evidence, binding, &world.policy()).unwrap_err();
            assert!(
                matches!(refusal, Refusal::Quote(QuoteError::QualifyingData { .. })),
                "{refusal}"
            );
        }
    }
}

/// The platform vouches for one configuration, the envelope shows another.
#[test]
fn a_binding_to_another_configuration_or_other_gpus_is_refused() {
    let world = World::new();
    for gpu in [false, true] {
        let mut binding = world.nonce_binding([7; 32]);
        let Binding::Nonce {
            configuration_digest,
            gpu_digest,
            ..
        } = &mut binding
        else {
            unreachable!()
        };
        (if gpu {
            gpu_digest
        } else {
            configuration_digest
        })[0] ^= 1;
        let refusal = judge(&world.evidence(&binding), binding, &world.policy()).unwrap_err();
        assert!(matches!(refusal, Refusal::Binding { .. }), "{refusal}");
        assert_eq!(refusal.to_string().starts_with("GPU"), gpu);
        assert_eq!(refusal.class(), Class::Signature);
    }
}

#[test]
fn a_configuration_that_is_none_is_refused() {
    let world = World::with_configuration(b"version = 2");
    let refusal = refusal(&world);
    assert!(matches!(refusal, Refusal::Configuration(_)));
    assert_eq!(refusal.class(), Class::Policy);
}

#[test]
fn a_configuration_that_the_release_does_not_state_is_refused() {
    let mut world = World::new();
    world.configuration.extend(b"# changed\n");
    let refusal = refusal(&world);
    assert!(matches!(refusal, Refusal::ConfigurationDigest { .. }));
    assert_eq!(refusal.class(), Class::Policy);
}

#[test]
fn another_name_or_profile_is_refused() {
    let world = World::new();
    let mut policy = world.policy();
    policy.release.name = "other".parse().unwrap();
    let binding = world.handshake_binding();
    let evidence = world.evidence(&binding);
    let refusal = judge(&evidence, binding, &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::ReleaseName { .. }));
    assert_eq!(
        refusal.to_string(),
        "release name: other expected, found cloister"
    );
    assert_eq!(refusal.class(), Class::Policy);

    let mut policy = world.policy();
    policy.release.profile = "demo".parse().unwrap();
    let refusal = judge(&evidence, binding, &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::Profile { .. }));
    assert_eq!(
        refusal.to_string(),
        "release profile: demo expected, found production"
    );
    assert_eq!(refusal.class(), Class::Policy);
}

#[test]
fn old_versions_are_refused_by_policy_and_by_floor() {
    let world = World::new();
    let (binding, mut policy) = (world.handshake_binding(), world.policy());
    let evidence = world.evidence(&binding);
    let at = |policy: &Policy, floor| {
        verify(
            &evidence,
            &Expectation { binding },
            policy,
            &Ratchet::at(floor),
            NOW,
        )
    };
    assert!(at(&policy, 7).is_ok());
    let refusal = at(&policy, 8).unwrap_err();
    assert_eq!(refusal, Refusal::Rollback { seen: 8, found: 7 });
    assert_eq!(refusal.class(), Class::Policy);
    policy.release.minimum_version = 7;
    assert!(at(&policy, 0).is_ok());
    policy.release.minimum_version = 8;
    let refusal = at(&policy, 0).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::Version {
            minimum: 8,
            found: 7
        }
    );
    assert_eq!(refusal.class(), Class::Policy);
}

#[test]
fn another_kernel_command_line_or_image_is_refused_and_the_register_named() {
    for (register, kind, text) in [
        (4, 0x8000_0003, "PCR 4 (boot loader and kernel): "),
        (9, 6, "PCR 9 (command line and initrd): "),
        (11, 0xd, "PCR 11 (sections of the unified kernel image): "),
    ] {
        let mut world = World::new();
        world
            .events
            .push(Event::other(register, kind, b"more", b"more"));
        let refusal = refusal(&world);
        let Refusal::Register {
            expected, found, ..
        } = &refusal
        else {
            panic!("{refusal}")
        };
        let shown = format!("{text}{expected} expected by the release, found {found}");
        assert_eq!(refusal.to_string(), shown);
        assert_eq!(refusal.class(), Class::Policy);
    }
}

/// A changed command line changes the image too: the register that tells most is named.
#[test]
fn of_several_registers_the_most_telling_is_named() {
    let named = |registers: &[u32]| {
        let mut world = World::new();
        world.events.extend(
            registers
                .iter()
                .map(|register| Event::plain(*register, 0xd, b"more")),
        );
        refusal(&world).to_string()
    };
    assert!(named(&[4, 9, 11]).starts_with("PCR 9 "));
    assert!(named(&[4, 11]).starts_with("PCR 4 "));
    assert!(named(&[4, 9, 11, 13]).starts_with("PCR 13 "));
    assert!(named(&[4, 9, 11, 12, 13]).starts_with("PCR 12 "));
}

#[test]
fn a_peer_without_a_release_is_refused() {
    let world = World::new();
    let binding = world.handshake_binding();
    let mut evidence = world.evidence(&binding);
    evidence.release.clear();
    let refusal = judge(&evidence, binding, &world.policy()).unwrap_err();
    assert_eq!(refusal, Refusal::Release(ReleaseError::Missing));
    assert_eq!(refusal.class(), Class::Log);
    let bundle = world.bundle();
    let ratchet = &Ratchet::UNSEEN;
    assert!(verify_release(&bundle, &world.policy().release, ratchet, NOW).is_ok());
}

#[test]
fn a_quote_by_a_key_of_an_unknown_authority_is_refused() {
    let (mut world, policy) = (World::new(), World::new().policy());
    world.authority = Authority::new("Stranger", 0x55);
    world.certificate = world
        .authority
        .attestation_key(world.attestation_key.verifying_key());
    let binding = world.handshake_binding();
    let refusal = judge(&world.evidence(&binding), binding, &policy).unwrap_err();
    assert!(matches!(refusal, Refusal::Chain(_)), "{refusal}");
    assert_eq!(refusal.class(), Class::Signature);
}

/// The certificate is genuine, and of another key than the one that signed the quote.
#[test]
fn a_quote_by_another_key_than_the_certified_one_is_refused() {
    let mut world = World::new();
    world.attestation_key = Authority::new("another TPM", 0x56).key;
    let refusal = refusal(&world);
    assert_eq!(refusal, Refusal::Quote(QuoteError::Signature));
    assert_eq!(refusal.class(), Class::Signature);
}

#[test]
fn an_expired_certificate_is_stale_collateral() {
    let world = World::new();
    let binding = world.handshake_binding();
    let year_2050 = UnixTime::from_secs(2_524_608_000);
    let (evidence, policy) = (world.evidence(&binding), world.policy());
    let expectation = Expectation { binding };
    let verdict = verify(
        &evidence,
        &expectation,
        &policy,
        &Ratchet::UNSEEN,
        year_2050,
    );
    let refusal = verdict.unwrap_err();
    assert_eq!(refusal.class(), Class::Collateral);
    assert!(refusal.hint().contains("clock"));
}

#[test]
fn an_event_log_that_is_none_is_refused() {
    let world = World::new();
    let binding = world.handshake_binding();
    let mut evidence = world.evidence(&binding);
    let Platform::Tpm(tpm) = &mut evidence.platform else {
        unreachable!()
    };
    tpm.event_log.truncate(100);
    let refusal = judge(&evidence, binding, &world.policy()).unwrap_err();
    assert!(matches!(refusal, Refusal::EventLog(_)), "{refusal}");
    assert_eq!(refusal.class(), Class::Signature);
}

#[test]
fn whatever_the_host_adds_to_the_boot_is_refused() {
    for (register, what) in [
        (12, "command line extra, credential"),
        (13, "system extension"),
    ] {
        let mut world = World::new();
        world
            .events
            .push(Event::plain(register, 0xd, what.as_bytes()));
        // Even a release that states such a value changes nothing.
        let [.., pcr12, pcr13, _, _] = boot::registers(&world.events);
        let stated = &mut world.predicate.reference_values.tpm.sha384;
        (stated.pcr12, stated.pcr13) = (pcr12, pcr13);
        let refusal = refusal(&world);
        assert!(matches!(refusal, Refusal::NotEmpty { .. }), "{refusal}");
        assert_eq!(refusal.class(), Class::Policy);
    }
}

/// A release that states something in registers 12 or 13 cannot be met by an empty register.
#[test]
fn a_release_cannot_ask_for_additions_to_the_boot() {
    let mut world = World::new();
    world.predicate.reference_values.tpm.sha384.pcr12 = Digest::sha384(b"addition");
    assert!(matches!(refusal(&world), Refusal::Register { .. }));
}

#[test]
fn a_register_that_the_log_does_not_explain_is_refused() {
    for register in [0, 1, 2, 3, 5, 6, 7, 8, 14, 15] {
        let world = World::new();
        let binding = world.handshake_binding();
        let mut evidence = world.evidence(&binding);
        let Platform::Tpm(tpm) = &mut evidence.platform else {
            unreachable!()
        };
        let mut events = world.events.clone();
        events.push(Event::plain(register, 0xd, b"unmeasured"));
        tpm.event_log = boot::encode(&events);
        let refusal = judge(&evidence, binding, &world.policy()).unwrap_err();
        assert!(matches!(refusal, Refusal::Replay { .. }), "{refusal}");
        assert!(
            refusal.to_string().starts_with(&format!("PCR {register} ")),
            "{refusal}"
        );
        assert_eq!(refusal.class(), Class::Signature);
    }
}

#[test]
fn secure_boot_off_is_refused_unless_the_policy_says_so() {
    let mut world = World::new();
    for off in [&[][..], &[0]] {
        world.events[3] = boot::secure_boot(off);
        assert_eq!(refusal(&world), Refusal::SecureBoot);
        assert_eq!(refusal(&world).class(), Class::Policy);
        let (binding, mut policy) = (world.handshake_binding(), world.policy());
        policy.tpm.as_mut().unwrap().secure_boot = SecureBootPolicy::NotRequired;
        let peer = judge(&world.evidence(&binding), binding, &policy).unwrap();
        let claim = peer
            .claims()
            .iter()
            .find(|claim| claim.what == "Secure Boot")
            .unwrap();
        assert_eq!(claim.expected, "not required (relaxed by the policy)");
        assert_eq!(claim.found, "disabled");
    }
}

#[test]
fn a_machine_with_snp_makes_a_verified_peer() {
    let (world, machine, policy) = machine_world();
    let binding = world.handshake_binding();
    let evidence = machine_evidence(&world, &machine, &binding);
    let evidence = Evidence::decode(&evidence.encode()).unwrap();
    let peer = judge(&evidence, binding, &policy).unwrap();
    assert_eq!(peer.assurance(), Assurance::PerHandshake);
    let mut claims = peer.claims().iter();
    let claim = claims
        .find(|claim| claim.what == "launched software")
        .unwrap();
    assert!(claim.found.ends_with("(qemu-epyc-v4-4)"));
    let other = world.nonce_binding([9; 32]);
    let refusal = judge(&evidence, other, &policy).unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Snp(error) if matches!(**error, SnpError::ReportData { .. }))
    );
}

#[test]
fn what_snp_launched_is_one_of_the_releases_machines() {
    let (mut world, mut machine, policy) = machine_world();
    let binding = world.handshake_binding();
    machine.set(at::MEASUREMENT, &[0x66; 48]);
    let evidence = machine_evidence(&world, &machine, &binding);
    let refusal = judge(&evidence, binding, &policy).unwrap_err();
    let found = Digest([0x66; 48]);
    assert_eq!(refusal, Refusal::LaunchDigest { found, machines: 2 });
    assert_eq!(refusal.class(), Class::Policy);
    world.predicate.reference_values.snp = None;
    let evidence = machine_evidence(&world, &machine, &binding);
    let refusal = judge(&evidence, binding, &policy).unwrap_err();
    assert!(
        matches!(refusal, Refusal::NoReferenceValues { .. }),
        "{refusal}"
    );
    // A policy for a TPM takes no report of SEV-SNP.
    let refusal = judge(&evidence, binding, &world.policy()).unwrap_err();
    assert!(matches!(refusal, Refusal::Platform { .. }), "{refusal}");
}

#[test]
fn what_a_domain_runs_is_one_of_the_releases_machines_in_every_register() {
    let (mut world, domain, policy) = domain_world();
    let binding = world.handshake_binding();
    let evidence = domain_evidence(&world, &domain, &binding);
    let peer = judge(&evidence, binding, &policy).unwrap();
    let mut claims = peer.claims().iter();
    let claim = claims.find(|claim| claim.what == "launched software");
    let found = "MRTD and RTMR0 to RTMR3 of qemu-4-8g";
    assert_eq!(claim.unwrap().found, found);
    // Two machines fit in MRTD, one of them in RTMR0.
    for (stated, expected, fitting) in [
        (0, TdxField::MrTd, 2),
        (1, TdxField::Rtmr(0), 2),
        (2, TdxField::Rtmr(1), 1),
        (3, TdxField::Rtmr(2), 1),
    ] {
        let (mut world, domain, policy) = domain_world();
        let release = world.predicate.reference_values.tdx.as_mut().unwrap();
        for machine in &mut release.machines {
            let registers = [
                &mut machine.mrtd,
                machine.rtmr0.as_mut().unwrap(),
                &mut machine.rtmr1,
                &mut machine.rtmr2,
            ];
            registers.into_iter().nth(stated).unwrap().0[0] ^= 1;
        }
        let evidence = domain_evidence(&world, &domain, &binding);
        match judge(&evidence, binding, &policy).unwrap_err() {
            Refusal::DomainRegister {
                field, machines, ..
            } => assert_eq!((field, machines), (expected, fitting)),
            other => panic!("{other}"),
        }
    }
    // Where RTMR0 was not predicted, nothing fits.
    let (mut unpredicted, domain, policy) = domain_world();
    let release = &mut unpredicted.predicate.reference_values.tdx;
    release.as_mut().unwrap().machines[1].rtmr0 = None;
    let evidence = domain_evidence(&unpredicted, &domain, &binding);
    match judge(&evidence, binding, &policy).unwrap_err() {
        Refusal::DomainRegister { field, .. } => assert_eq!(field, TdxField::Rtmr(0)),
        other => panic!("{other}"),
    }
    // Something was measured at run time, and the log tells of it.
    let mut later = domain.clone();
    later.events.push(Event::other(4, 6, b"later", b""));
    later.measure();
    let evidence = domain_evidence(&world, &later, &binding);
    match judge(&evidence, binding, &policy).unwrap_err() {
        Refusal::DomainRegister { field, .. } => assert_eq!(field, TdxField::Rtmr(3)),
        other => panic!("{other}"),
    }
    // Made for another handshake.
    let evidence = domain_evidence(&world, &domain, &world.nonce_binding([9; 32]));
    match judge(&evidence, binding, &policy).unwrap_err() {
        Refusal::Tdx(error) => assert!(matches!(*error, TdxError::ReportData { .. })),
        other => panic!("{other}"),
    }
    world.predicate.reference_values.tdx = None;
    let evidence = domain_evidence(&world, &domain, &binding);
    let refusal = judge(&evidence, binding, &policy).unwrap_err();
    let platform = PlatformKind::Tdx;
    assert_eq!(refusal, Refusal::NoReferenceValues { platform });
    let refusal = judge(&evidence, binding, &world.policy()).unwrap_err();
    assert_eq!(refusal, Refusal::Platform { found: platform });
}
