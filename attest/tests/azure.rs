//! VMs in Azure that are signed at run time, and chains as Google issues them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::azure::{
    AzureError, AzureEvidence, AzureField, AzureSetting, HclError, VerifiedVm, verify,
};
use attest::certificate::{ChainFault, Position, TrustAnchor};
use attest::eventlog::EventLogError;
use attest::policy::{AzurePolicy, MachinePolicy, PolicyError};
use attest::snp::SnpError;
use attest::tdx::TdxError;
use attest::tpm::registers::RegisterFault;
use attest::tpm::vtpm::{VtpmError, VtpmKey};
use attest::tpm::{Register, google};
use attest::{Digest, Policy, UnixTime};
use signer::amd::Machine;
use signer::authority;
use signer::azure::{GoogleChain, Hardware, POLICY, Vm, azure_policy, tpmt};
use signer::boot::Event;
use signer::intel::Domain;
use signer::{NOW, World};

const NONCE: &[u8] = b"a nonce of the verifier's choice";

fn verdict(evidence: &AzureEvidence, policy: &AzurePolicy) -> Result<VerifiedVm, AzureError> {
    let (snp, tdx) = (Machine::new().policy(), Domain::new().policy());
    verify(evidence, NONCE, policy, (Some(&snp), Some(&tdx)), NOW)
}

/// The fault of a VM after `change`.
fn fault(change: impl FnOnce(&mut Vm)) -> AzureError {
    let mut vm = Vm::new();
    change(&mut vm);
    let error = verdict(&vm.evidence(NONCE), &Vm::new().policy()).unwrap_err();
    assert!(!error.to_string().is_empty());
    error
}

/// The fault of evidence after `change`.
fn spoilt(change: impl FnOnce(&mut AzureEvidence)) -> AzureError {
    let mut evidence = Vm::new().evidence(NONCE);
    change(&mut evidence);
    verdict(&evidence, &Vm::new().policy()).unwrap_err()
}

#[test]
fn a_vm_whose_hardware_vouches_for_its_virtual_tpm_is_believed() {
    for vm in [Vm::new(), Vm::with_tdx()] {
        let verified = verdict(&vm.evidence(NONCE), &vm.policy()).unwrap();
        assert_eq!(verified.registers().len(), 24);
        assert_eq!(verified.registers()[4], (Register(4), vm.registers[4]));
        assert_eq!(verified.user_data(), Digest([0x0a; 64]));
        for what in ["virtual TPM: nonce", "Secure Boot", "event log", "binding"] {
            let mut claims = verified.claims().iter();
            assert!(claims.any(|claim| claim.what == what), "{what}");
        }
    }
}

#[test]
fn the_hardware_vouches_for_the_runtime_data_or_nothing_is_believed() {
    let other = spoilt(|evidence| {
        let at = evidence.hcl_report.len() - 110;
        evidence.hcl_report[at] ^= 1; // in the user data
    });
    let AzureError::Snp(error) = other else {
        panic!("{other}")
    };
    assert!(matches!(*error, SnpError::ReportData { .. }), "{error}");
    let mut evidence = Vm::with_tdx().evidence(NONCE);
    let at = evidence.hcl_report.len() - 110;
    evidence.hcl_report[at] ^= 1;
    let error = verdict(&evidence, &Vm::new().policy()).unwrap_err();
    let AzureError::Tdx(error) = error else {
        panic!("{error}")
    };
    assert!(matches!(*error, TdxError::ReportData { .. }), "{error}");
    // The report stands in the paravisor's, whatever is shown beside it.
    let mut evidence = Vm::new().evidence(NONCE);
    let attest::azure::AzureHardware::Snp(snp) = &mut evidence.hardware else {
        panic!()
    };
    snp.report.clear();
    assert!(verdict(&evidence, &Vm::new().policy()).is_ok());
    let mixed = spoilt(|evidence| evidence.hardware = Vm::with_tdx().evidence(NONCE).hardware);
    assert_eq!(mixed, AzureError::OtherHardware);
    for vm in [Vm::new(), Vm::with_tdx()] {
        let evidence = vm.evidence(NONCE);
        let error = verify(&evidence, NONCE, &vm.policy(), (None, None), NOW);
        assert_eq!(error.unwrap_err(), AzureError::NoPolicy);
    }
}

/// Who is no paravisor could name a key of its own, also where the policy takes other levels.
#[test]
fn a_report_that_the_paravisor_did_not_ask_for_is_refused() {
    let mut machine = Machine::new();
    machine.set(signer::amd::at::VMPL, &[2]);
    let mut vm = Vm::new();
    vm.hardware = Hardware::Snp(Box::new(machine));
    let mut snp = Machine::new().policy();
    snp.vmpls = vec![0, 2];
    let evidence = vm.evidence(NONCE);
    let error = verify(&evidence, NONCE, &vm.policy(), (Some(&snp), None), NOW).unwrap_err();
    assert_eq!(error, AzureError::Vmpl { found: 2 });
    let sound = Vm::new().evidence(NONCE);
    assert!(verify(&sound, NONCE, &vm.policy(), (Some(&snp), None), NOW).is_ok());
}

/// Registers that nothing pins are shown as such, and the log's claim names what it explains.
#[test]
fn claims_of_registers_say_what_was_checked() {
    let mut vm = Vm::new();
    vm.selection[9] = 0;
    let own = vm.registers[4];
    let pins = format!("pcrs = [{{ register = 4, values = \"{own}\" }}]");
    let policy = azure_policy(&POLICY.replace("pcrs = []", &pins));
    let verified = verdict(&vm.evidence(NONCE), &policy).unwrap();
    let claim = |what: &str| {
        let mut claims = verified.claims().iter().filter(|claim| claim.what == what);
        let (one, none) = (claims.next().unwrap(), claims.next());
        assert!(none.is_none(), "{what}");
        (one.expected.clone(), one.found.clone())
    };
    assert_eq!(
        claim(&Register(4).to_string()),
        (own.to_string(), own.to_string())
    );
    let any = "any (not pinned by the policy)".to_owned();
    assert_eq!(
        claim(&Register(9).to_string()),
        (any, vm.registers[9].to_string())
    );
    let (_, found) = claim("event log");
    let explained = "events explain PCR 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15";
    assert!(found.ends_with(explained), "{found}");
    let mut claims = verified.claims().iter();
    assert!(claims.all(|claim| claim.what != Register(16).to_string()));
}

#[test]
fn reports_of_a_paravisor_that_are_none_are_refused() {
    type Change = fn(&mut Vm);
    let changes: [(Change, HclError); 12] = [
        (|vm| vm.header[0] = b'X', HclError::Version),
        (|vm| vm.header[4] = 3, HclError::Version),
        (|vm| vm.numbers[0] = 2, HclError::Kind),
        (|vm| vm.numbers[1] = 3, HclError::Kind),
        (|vm| vm.numbers[2] = 2, HclError::Kind),
        (|vm| vm.rest[50] = 1, HclError::Length),
        (
            |vm| vm.rest.resize(16 << 10, 0),
            HclError::TooLarge { found: 0 },
        ),
        (|vm| vm.runtime.truncate(50), HclError::Json),
        (|vm| vm.replace("secure-boot", "other"), HclError::Json),
        (
            |vm| vm.replace("\"sign\"", "\"encrypt\""),
            HclError::AttestationKey,
        ),
        (
            |vm| vm.replace("HCLAkPub", "HCLEkPub"),
            HclError::AttestationKey,
        ),
        (
            |vm| vm.replace("HCLEkPub", "HCLAkPub"),
            HclError::AttestationKey,
        ),
    ];
    for (change, expected) in changes {
        match (fault(change), expected) {
            (AzureError::Hcl(HclError::TooLarge { .. }), HclError::TooLarge { .. }) => {}
            (found, expected) => assert_eq!(found, AzureError::Hcl(expected)),
        }
    }
    for (from, to) in [("\"AQAB\"", "\"AQAD\""), ("\"RSA\"", "\"EC\"")] {
        let error = fault(|vm| vm.replace(from, to));
        assert_eq!(error, AzureError::Hcl(HclError::AttestationKey), "{to}");
    }
    for length in [0, 7, 100, 1230] {
        let error = spoilt(|evidence| evidence.hcl_report.truncate(length));
        assert_eq!(error, AzureError::Hcl(HclError::Truncated), "{length}");
    }
    let error = spoilt(|evidence| evidence.hcl_report[1216] ^= 1);
    assert_eq!(error, AzureError::Hcl(HclError::Length));
    let id = fault(|vm| vm.replace("3404EF27-", "3404EF2-7"));
    assert_eq!(id, AzureError::VmId);
}

#[test]
fn the_quote_is_by_the_endorsed_key_for_the_nonce_over_what_is_shown() {
    let quote = |change: fn(&mut Vm)| match fault(change) {
        AzureError::Quote(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(quote(|vm| vm.head[0] = 0), VtpmError::NotAQuote);
    assert_eq!(quote(|vm| vm.head[5] = 0x17), VtpmError::NotAQuote);
    assert_eq!(quote(|vm| vm.selection[5] = 0x0c), VtpmError::Bank);
    assert_eq!(quote(|vm| vm.selection[3] = 2), VtpmError::AttestFormat);
    let stranger = quote(|vm| vm.key = Machine::new().ark);
    assert_eq!(stranger, VtpmError::Signature);
    let other = verdict(&Vm::new().evidence(b"another"), &Vm::new().policy()).unwrap_err();
    assert!(
        matches!(other, AzureError::Quote(VtpmError::Nonce { .. })),
        "{other}"
    );
    let registers = spoilt(|evidence| evidence.quote.registers[9].0[0] ^= 1);
    assert!(matches!(
        registers,
        AzureError::Quote(VtpmError::Registers { .. })
    ));
    let signature = spoilt(|evidence| evidence.quote.signature[1] = 0x18);
    assert_eq!(signature, AzureError::Quote(VtpmError::SignatureFormat));
    let padded = spoilt(|evidence| evidence.quote.signature.push(0));
    assert_eq!(padded, AzureError::Quote(VtpmError::SignatureFormat));
    // Signed by the key, and in no form that a TPM writes.
    let vm = Vm::new();
    let sound = vm.evidence(NONCE).quote.attest;
    let (signer, nonce) = (usize::from(sound[7]), NONCE.len());
    let safe = 8 + signer + 2 + nonce + 16;
    let mut truth_2 = sound.clone();
    truth_2[safe] = 2;
    let nobodys = [&sound[..6], &[0, 0], &sound[8 + signer..]].concat();
    let longer = [&sound[..], &[0]].concat();
    for attest in [truth_2, nobodys, longer, sound[..sound.len() - 1].to_vec()] {
        let mut evidence = vm.evidence(NONCE);
        evidence.quote.signature = tpmt(&vm.key.sign_pkcs1(&attest));
        evidence.quote.attest = attest;
        let error = verdict(&evidence, &vm.policy()).unwrap_err();
        assert_eq!(error, AzureError::Quote(VtpmError::AttestFormat));
    }
    // By the key, and not in the encoding: shorter padding, another hash.
    let mut evidence = Vm::new().evidence(NONCE);
    let key = Vm::new().key;
    evidence.quote.signature = tpmt(&key.sign(&evidence.quote.attest));
    let error = verdict(&evidence, &Vm::new().policy()).unwrap_err();
    assert_eq!(error, AzureError::Quote(VtpmError::Signature));
    for modulus in [&[0xff; 255][..], &[0x7f; 256], &[0xfe; 256], &[]] {
        assert!(VtpmKey::from_parts(modulus, &[1, 0, 1]).is_none());
    }
}

#[test]
fn settings_and_registers_are_as_the_policy_demands() {
    for (from, to, setting, expected) in [
        (
            "\"tpm-enabled\":true",
            "\"tpm-enabled\":false",
            AzureSetting::Tpm,
            true,
        ),
        (
            "\"secure-boot\":true",
            "\"secure-boot\":false",
            AzureSetting::SecureBoot,
            true,
        ),
        (
            "\"console-enabled\":false",
            "\"console-enabled\":true",
            AzureSetting::Console,
            false,
        ),
    ] {
        let error = fault(|vm| vm.replace(from, to));
        assert_eq!(error, AzureError::Setting { setting, expected });
        let mut vm = Vm::new();
        vm.replace(from, to);
        let relaxed = POLICY
            .replace("required", "not-required")
            .replace("refused", "accepted");
        let verdict = verdict(&vm.evidence(NONCE), &azure_policy(&relaxed));
        match setting {
            AzureSetting::Console => assert!(verdict.is_ok()),
            AzureSetting::Tpm => assert!(verdict.is_err()),
            // The event log says that it is on.
            AzureSetting::SecureBoot => assert_eq!(verdict.unwrap_err(), AzureError::SecureBoot),
        }
    }
    let genuine = Vm::new().evidence(NONCE);
    let with = |from: &str, to: &str| {
        let policy = azure_policy(&POLICY.replace(from, to));
        verdict(&genuine, &policy).map(drop)
    };
    let own = "3404ef2732a24a07a4c71a1171624c5d";
    assert_eq!(
        with("vm_ids = \"any\"", &format!("vm_ids = \"{own}\"")),
        Ok(())
    );
    let field = |verdict: Result<(), AzureError>| match verdict.unwrap_err() {
        AzureError::Pinned { field, .. } => field,
        other => panic!("{other}"),
    };
    let other = format!("vm_ids = \"{}\"", "00".repeat(16));
    assert_eq!(field(with("vm_ids = \"any\"", &other)), AzureField::VmId);
    let other = format!("user_data = \"{}\"", "00".repeat(64));
    assert_eq!(
        field(with("user_data = \"any\"", &other)),
        AzureField::UserData
    );
    let pcr = |value: String| format!("pcrs = [{{ register = 4, values = \"{value}\" }}]");
    let own = Vm::new().registers[4].to_string();
    assert_eq!(with("pcrs = []", &pcr(own.clone())), Ok(()));
    let pinned = RegisterFault::Pinned {
        register: Register(4),
        found: Vm::new().registers[4],
    };
    let error = with("pcrs = []", &pcr("00".repeat(32))).unwrap_err();
    assert_eq!(error, AzureError::Registers(pinned));
    let policy = azure_policy(&POLICY.replace("pcrs = []", &pcr(own)));
    let mut vm = Vm::new();
    vm.selection[7] = 0b1110_1111;
    let error = verdict(&vm.evidence(NONCE), &policy).unwrap_err();
    let register = Register(4);
    assert_eq!(
        error,
        AzureError::Registers(RegisterFault::NotQuoted { register })
    );
}

#[test]
fn the_event_log_explains_the_registers_in_the_bank_that_was_quoted() {
    let none = spoilt(|evidence| evidence.event_log.clear());
    assert_eq!(none, AzureError::Registers(RegisterFault::NoEventLog));
    let relaxed = POLICY.replace("event_log = \"required\"", "event_log = \"not-required\"");
    let mut evidence = Vm::new().evidence(NONCE);
    evidence.event_log.clear();
    assert!(verdict(&evidence, &azure_policy(&relaxed)).is_ok());
    let more = fault(|vm| vm.events.push(Event::plain(9, 6, b"more")));
    assert!(
        matches!(
            more,
            AzureError::Registers(RegisterFault::Replay {
                register: Register(9),
                ..
            })
        ),
        "{more}"
    );
    let unquoted = fault(|vm| vm.selection[8] = 0b1111_1101);
    let register = Register(9);
    assert_eq!(
        unquoted,
        AzureError::Registers(RegisterFault::NotQuoted { register })
    );
    // PCR 10 goes on being extended.
    let mut vm = Vm::new();
    vm.registers[10] = Digest([7; 32]);
    assert!(verdict(&vm.evidence(NONCE), &vm.policy()).is_ok());
    // So may whoever runs in the guest from PCR 16 on, and not below; what is not quoted and has no
    // events is not missed.
    for (number, accepted) in [(15, false), (16, true), (23, true)] {
        let mut vm = Vm::new();
        vm.registers[number] = Digest([7; 32]);
        let verdict = verdict(&vm.evidence(NONCE), &vm.policy());
        assert_eq!(verdict.is_ok(), accepted, "{number}");
    }
    let mut vm = Vm::new();
    vm.selection[9] = 0b1110_1111;
    assert!(verdict(&vm.evidence(NONCE), &vm.policy()).is_ok());
    let garbled = spoilt(|evidence| evidence.event_log.truncate(300));
    assert!(matches!(
        garbled,
        AzureError::Registers(RegisterFault::EventLog(EventLogError::Truncated { .. }))
    ));
    // Another bank in the place of SHA-256: algorithm by algorithm.
    let other = spoilt(|evidence| {
        let log = &mut evidence.event_log;
        // The number of banks, then the first of them.
        let bank = [2, 0, 0, 0, 0x0b, 0];
        let fits = |at: &usize| log[*at..*at + bank.len()] == bank;
        let places: Vec<_> = (0..log.len() - bank.len()).filter(fits).collect();
        for at in places {
            log[at + 4] = 0x12;
        }
    });
    assert_eq!(other, AzureError::Registers(RegisterFault::Bank));
    // The variable is measured as something else than the data that is read.
    let off = fault(|vm| {
        let event = &mut vm.events[3];
        *event = Event::other(7, 0x8000_0001, b"off", &event.data.clone());
        vm.registers = signer::azure::registers(&vm.events);
    });
    assert!(
        matches!(off, AzureError::Registers(RegisterFault::EventLog(_))),
        "{off}"
    );
}

#[test]
fn the_table_for_azure_is_complete_or_refused() {
    let read = |table: &str| {
        let text = format!("version = 2\n{table}");
        MachinePolicy::parse(text.as_bytes())
    };
    assert!(read(POLICY).is_ok());
    for line in POLICY.lines().skip(1) {
        let without = read(&POLICY.replacen(&format!("{line}\n"), "", 1));
        assert!(matches!(without, Err(PolicyError::Toml(_))), "{line}");
    }
    for more in ["more = 1\n", "pcrs = [{ register = 4 }]\n"] {
        let unknown = read(&format!("{}{more}", POLICY.replace("pcrs = []\n", "")));
        assert!(matches!(unknown, Err(PolicyError::Toml(_))), "{more}");
    }
}

fn google(
    change: impl FnOnce(&mut GoogleChain),
) -> Result<google::Instance, (Position, ChainFault)> {
    let genuine = GoogleChain::new().certificates();
    let root = TrustAnchor::from_pem(&authority::pem(&genuine[2])).unwrap();
    let mut chain = GoogleChain::new();
    change(&mut chain);
    let [leaf, above, _] = chain.certificates();
    let verdict = google::verify(&[leaf, above], std::slice::from_ref(&root), NOW);
    verdict
        .map(|key| key.instance)
        .map_err(|error| (error.position, error.fault))
}

#[test]
fn keys_that_google_certified_for_an_instance_are_believed() {
    let instance = google(|_| {}).unwrap();
    assert_eq!(
        (instance.zone.as_str(), instance.instance_number),
        ("zone", 255)
    );
    let (position, fault) = google(|chain| chain.intermediate = chain.root.clone()).unwrap_err();
    assert_eq!((position, fault), (Position::Leaf, ChainFault::Signature));
    let (position, fault) = google(|chain| chain.root = chain.intermediate.clone()).unwrap_err();
    assert_eq!(position, Position::Intermediate(1));
    assert_eq!(fault, ChainFault::Signature);
    let (_, fault) = google(|chain| drop(chain.templates[0].extensions.pop())).unwrap_err();
    assert!(matches!(fault, ChainFault::Extension { .. }), "{fault}");
    let (_, fault) = google(|chain| chain.templates[0].extensions[1].2.push(0)).unwrap_err();
    assert!(matches!(fault, ChainFault::Extension { .. }), "{fault}");
    let (_, fault) = google(|chain| {
        let ec = authority::Authority::new("x", 3);
        let template = ec.template();
        chain.templates[0].key_algorithm = template.key_algorithm;
        chain.templates[0].key = template.key;
    })
    .unwrap_err();
    assert_eq!(fault, ChainFault::AnyRsaKey);
    let (_, fault) = google(|chain| {
        chain.templates[0].algorithms = Machine::new().leaf.algorithms;
    })
    .unwrap_err();
    assert!(matches!(fault, ChainFault::Algorithm { .. }), "{fault}");
    let (_, fault) = google(|chain| drop(chain.templates[0].extensions.remove(0))).unwrap_err();
    assert!(matches!(fault, ChainFault::KeyUsage { .. }), "{fault}");
    let (_, fault) = google(|chain| {
        let authority = chain.templates[1].extensions[0].clone();
        chain.templates[0].extensions.push(authority);
    })
    .unwrap_err();
    assert_eq!(fault, ChainFault::Authority);
    let (_, fault) =
        google(|chain| chain.templates[0].validity[1] = "250101000000Z".into()).unwrap_err();
    assert!(fault.is_date());
    let text = World::new().policy_toml();
    let start = text.find("roots = [").unwrap();
    let end = start + text[start..].find("\nsecure_boot").unwrap();
    let mut named = text;
    named.replace_range(start..end, "roots = [\"google\"]");
    let root = Policy::parse(named.as_bytes())
        .unwrap()
        .tpm
        .unwrap()
        .roots
        .remove(0);
    assert!(root.to_string().contains("CN=EK/AK CA Root"), "{root}");
}

/// A name of the field, a place and a bit: nothing flipped is believed.
#[test]
fn nothing_flipped_is_accepted_of_a_vm_in_azure() {
    let genuine = Vm::new().evidence(NONCE);
    let policy = Vm::new().policy();
    assert!(matches!(Vm::new().hardware, Hardware::Snp(_)));
    let flip = |bytes: &mut Vec<u8>, place: usize| bytes[place] ^= 1 << (place % 8);
    let header = 8..32; // size, request and status say nothing that is relied on
    for place in (0..genuine.hcl_report.len()).step_by(53) {
        let mut evidence = genuine.clone();
        flip(&mut evidence.hcl_report, place);
        let refused = verdict(&evidence, &policy).is_err();
        assert!(refused || header.contains(&place), "{place}");
    }
    for place in (0..genuine.quote.attest.len()).step_by(7) {
        let mut evidence = genuine.clone();
        flip(&mut evidence.quote.attest, place);
        assert!(verdict(&evidence, &policy).is_err(), "{place}");
    }
    for place in (0..genuine.quote.signature.len()).step_by(97) {
        let mut evidence = genuine.clone();
        flip(&mut evidence.quote.signature, place);
        assert!(verdict(&evidence, &policy).is_err(), "{place}");
    }
    let later = UnixTime::from_secs(2_600_000_000);
    let (snp, tdx) = (Machine::new().policy(), Domain::new().policy());
    assert!(verify(&genuine, NONCE, &policy, (Some(&snp), Some(&tdx)), later).is_err());
}
