//! Quotes of TPMs, VMs in Azure and GPUs alone, as files hold them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use attest::azure::{AzureError, AzureHardware, verify_alone};
use attest::certificate::ChainFault;
use attest::eventlog::EventLogError;
use attest::files::{self, FileError, Files, MAX_FILE_BYTES};
use attest::gpu::{self, DeviceFault, GpuError, GpuEvidence};
use attest::policy::{Later, MachinePolicy, Policy, PolicyError, TpmQuotePolicy};
use attest::tpm::Register;
use attest::tpm::alone::{QuoteAlone, TpmQuoteError, VerifiedTpmQuote, verify};
use attest::tpm::registers::RegisterFault;
use attest::tpm::vtpm::VtpmError;
use attest::{Class, Refusal, UnixTime};
use serde_json::json;
use signer::amd::Machine;
use signer::azure::{GoogleChain, POLICY, Vm, azure_policy, public_key, quote_policy};
use signer::boot::{self, Event};
use signer::intel::Domain;
use signer::nvidia::Rack;
use signer::{NOW, World, authority};

const NONCE: &[u8] = b"a nonce of the verifier's choice";

fn read(text: &str) -> TpmQuotePolicy {
    MachinePolicy::parse(text.as_bytes())
        .unwrap()
        .tpm_quote
        .unwrap()
}

fn own() -> String {
    quote_policy(&Vm::new().key)
}

/// Google's test root, and no key.
fn rooted() -> String {
    let root = authority::pem(&GoogleChain::new().certificates()[2]);
    let text = own();
    let start = text.find("keys = ").unwrap();
    let end = text.find("secure_boot").unwrap();
    let roots = format!("keys = []\nroots = ['''\n{root}''']\n");
    [&text[..start], &roots, &text[end..]].concat()
}

fn quote(vm: &Vm) -> QuoteAlone {
    let evidence = vm.evidence(NONCE);
    QuoteAlone {
        quote: evidence.quote,
        certificates: Vec::new(),
        event_log: evidence.event_log,
    }
}

fn judge(evidence: &QuoteAlone, policy: &str) -> Result<VerifiedTpmQuote, TpmQuoteError> {
    let verdict = verify(evidence, Some(NONCE), &read(policy), NOW);
    if let Err(error) = &verdict {
        let refusal = Refusal::from(error.clone());
        assert!(matches!(refusal, Refusal::TpmQuote(_)));
        assert!(!refusal.to_string().is_empty() && !refusal.hint().is_empty());
    }
    verdict
}

fn class(error: &TpmQuoteError) -> Class {
    Refusal::from(error.clone()).class()
}

#[test]
fn a_quote_is_believed_of_a_key_that_is_named_or_certified() {
    let verified = judge(&quote(&Vm::new()), &own()).unwrap();
    assert!(verified.root().contains("named by the policy"));
    assert_eq!(verified.registers().len(), 24);
    let mut certified = quote(&Vm::new());
    let [leaf, above, _] = GoogleChain::new().certificates();
    certified.certificates = vec![leaf, above];
    let root = judge(&certified, &rooted()).unwrap();
    assert!(root.root().contains("EK/AK CA Root"), "{}", root.root());
    // Whoever names no nonce is told so.
    let any = verify(&certified, None, &read(&rooted()), NOW).unwrap();
    let claim = any
        .claims()
        .iter()
        .find(|claim| claim.what == "nonce")
        .unwrap();
    assert!(claim.expected.contains("not checked"), "{claim:?}");
    // A certificate does not stand for a key that signed nothing.
    let mut stranger = certified.clone();
    let mut vm = Vm::new();
    vm.key = Machine::new().ark;
    stranger.quote = quote(&vm).quote;
    let error = judge(&stranger, &rooted()).unwrap_err();
    assert_eq!(error, TpmQuoteError::Quote(VtpmError::Signature));
    let error = judge(&quote(&vm), &own()).unwrap_err();
    assert_eq!(error, TpmQuoteError::Key { named: 1 });
    assert_eq!(class(&error), Class::Signature);
    let mut many = certified.clone();
    many.certificates = vec![vec![1]; 5];
    let error = judge(&many, &rooted()).unwrap_err();
    assert_eq!(error, TpmQuoteError::Certificates { found: 5 });
    certified.certificates.pop();
    let error = judge(&certified, &rooted()).unwrap_err();
    let TpmQuoteError::Chain(chain) = &error else {
        panic!("{error}")
    };
    assert!(
        matches!(chain.fault, ChainFault::UnknownRoot { .. }),
        "{chain}"
    );
}

#[test]
fn dates_and_nonces_count() {
    let [leaf, above, _] = GoogleChain::new().certificates();
    let mut certified = quote(&Vm::new());
    certified.certificates = vec![leaf, above];
    let late = UnixTime::from_secs(4_102_444_800);
    let error = verify(&certified, Some(NONCE), &read(&rooted()), late).unwrap_err();
    assert_eq!(class(&error), Class::Collateral);
    let error = verify(&certified, Some(b"another"), &read(&rooted()), NOW).unwrap_err();
    assert!(
        matches!(error, TpmQuoteError::Quote(VtpmError::Nonce { .. })),
        "{error}"
    );
}

#[test]
fn registers_are_those_of_policy_and_log() {
    let pin = |register: u8, value: &str| {
        let pins = format!("pcrs = [{{ register = {register}, values = \"{value}\" }}]");
        own().replace("pcrs = []", &pins)
    };
    let right = Vm::new().registers[4].to_string();
    assert!(judge(&quote(&Vm::new()), &pin(4, &right)).is_ok());
    let fault = |vm: &Vm, policy: &str| match judge(&quote(vm), policy).unwrap_err() {
        TpmQuoteError::Registers(fault) => fault,
        other => panic!("{other}"),
    };
    let other = fault(&Vm::new(), &pin(4, &"00".repeat(32)));
    let (register, found) = (Register(4), Vm::new().registers[4]);
    assert_eq!(other, RegisterFault::Pinned { register, found });
    let mut vm = Vm::new();
    vm.selection[7] = 0b1110_1111;
    let unquoted = fault(&vm, &pin(4, &right));
    assert_eq!(unquoted, RegisterFault::NotQuoted { register });
    let mut longer = Vm::new();
    longer.events.push(Event::plain(9, 6, b"more"));
    let replay = fault(&longer, &own());
    assert!(matches!(
        replay,
        RegisterFault::Replay {
            register: Register(9),
            ..
        }
    ));
    let with_log = |log: Vec<u8>, policy: &str| {
        let event_log = log;
        let evidence = QuoteAlone {
            event_log,
            ..quote(&Vm::new())
        };
        judge(&evidence, policy)
    };
    let none = with_log(Vec::new(), &own()).unwrap_err();
    assert_eq!(none, TpmQuoteError::Registers(RegisterFault::NoEventLog));
    assert_eq!(class(&none), Class::Policy);
    let relaxed = own().replace("event_log = \"required\"", "event_log = \"not-required\"");
    let unknown = with_log(Vec::new(), &relaxed).unwrap_err();
    assert_eq!(unknown, TpmQuoteError::SecureBootUnknown);
    let all = relaxed.replace(
        "secure_boot = \"required\"",
        "secure_boot = \"not-required\"",
    );
    assert!(with_log(Vec::new(), &all).is_ok());
    let log = boot::encode(&Vm::new().events);
    let cut = with_log(log[..300].to_vec(), &own()).unwrap_err();
    assert_eq!(class(&cut), Class::Signature);
    let TpmQuoteError::Registers(RegisterFault::EventLog(cut)) = cut else {
        panic!("{cut}")
    };
    assert!(matches!(cut, EventLogError::Truncated { .. }), "{cut}");
    let bank = [2, 0, 0, 0, 0x0b, 0];
    let mut other = log.clone();
    for at in 0..log.len() - bank.len() {
        if log[at..at + bank.len()] == bank {
            other[at + 4] = 0x12;
        }
    }
    let other = with_log(other, &own()).unwrap_err();
    assert_eq!(other, TpmQuoteError::Registers(RegisterFault::Bank));
    let mut off = Vm::new();
    off.events[3] = boot::secure_boot(&[0]);
    off.registers = signer::azure::registers(&off.events);
    assert_eq!(
        judge(&quote(&off), &own()).unwrap_err(),
        TpmQuoteError::SecureBoot
    );
    assert!(
        judge(
            &quote(&off),
            &own().replace(
                "secure_boot = \"required\"",
                "secure_boot = \"not-required\""
            )
        )
        .is_ok()
    );
}

#[test]
fn the_table_for_quotes_is_complete_and_names_somebody() {
    let parse = |text: &str| MachinePolicy::parse(text.as_bytes()).map(drop);
    for line in [
        "roots = []",
        "pcrs = []",
        "secure_boot = \"required\"",
        "event_log = \"required\"",
    ] {
        let without = parse(&own().replace(line, ""));
        assert!(matches!(without, Err(PolicyError::Toml(_))), "{line}");
    }
    let nobody = "version = 2\n[tpm-quote]\nkeys = []\nroots = []\nsecure_boot = \"required\"\n\
                  event_log = \"required\"\npcrs = []\n";
    assert!(matches!(parse(nobody), Err(PolicyError::Empty(_))));
    let certificate = own().replace("PUBLIC KEY", "CERTIFICATE");
    assert!(matches!(parse(&certificate), Err(PolicyError::Toml(_))));
}

/// What no machine can meet is a fault of the policy; and a table stands in a version that has it.
#[test]
fn tables_of_machines_name_what_there_is_and_stand_in_their_version() {
    let parse = |text: &str| MachinePolicy::parse(text.as_bytes()).map(drop);
    let (snp, gpu) = (Machine::new().policy_toml(), Rack::new().policy_toml());
    for (level, verdict) in [
        (3, Ok(())),
        (4, Err(PolicyError::Vmpl { found: 4 })),
        (300, Err(PolicyError::Vmpl { found: 300 })),
    ] {
        let table = snp.replace("vmpls = [0]", &format!("vmpls = [0, {level}]"));
        assert_eq!(parse(&format!("version = 1\n{table}")), verdict);
    }
    let value = "00".repeat(32);
    let pin = |register| format!("{{ register = {register}, values = \"{value}\" }}");
    let tables = [
        ("azure", format!("version = 1\n{POLICY}")),
        ("tpm-quote", own()),
    ];
    for (table, text) in tables {
        let with = |pins: &str| parse(&text.replace("pcrs = []", &format!("pcrs = [{pins}]")));
        assert_eq!(with(&[pin(0), pin(23)].join(",")), Ok(()));
        let found = 24;
        assert_eq!(
            with(&pin(found)),
            Err(PolicyError::Register { table, found })
        );
        let register = 4;
        let twice = with(&[pin(register), pin(5), pin(register)].join(","));
        assert_eq!(twice, Err(PolicyError::RegisterTwice { table, register }));
    }
    for (table, least, later) in [
        (gpu, 3, Later::GpuRevocation),
        (own().replacen("version = 2\n", "", 1), 2, Later::TpmQuote),
    ] {
        for version in 1..=3 {
            let verdict = parse(&format!("version = {version}\n{table}"));
            match version < least {
                true => assert_eq!(verdict, Err(PolicyError::Later(later))),
                false => assert_eq!(verdict, Ok(())),
            }
        }
    }
}

/// The examples of `docs/evidence.md` are complete, and of the version that they need.
#[test]
fn the_documented_tables_are_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/evidence.md");
    let document = std::fs::read_to_string(path).unwrap();
    let blocks: Vec<_> = document.split("```toml\n").skip(1).collect();
    let block = |table: &str| {
        let mut own = blocks.iter().filter_map(|block| block.split("```").next());
        own.find(|block| block.contains(&format!("[{table}]\n")) && !block.contains("gpus ="))
            .unwrap()
    };
    let machine = |text: &str| MachinePolicy::parse(text.as_bytes());
    let key = authority::pem(&public_key(&Vm::new().key));
    let body: Vec<_> = key.lines().filter(|line| !line.starts_with('-')).collect();
    let quote = block("tpm-quote").replacen('…', &body.join("\n"), 1);
    assert!(machine(&quote).unwrap().tpm_quote.is_some());
    assert!(machine(block("azure")).unwrap().azure.is_some());
    let gpu = block("gpu");
    assert!(machine(gpu).unwrap().gpu.is_some());
    let earlier = machine(&gpu.replacen("version = 3", "version = 2", 1)).unwrap_err();
    assert_eq!(earlier, PolicyError::Later(Later::GpuRevocation));
    let whole = World::new().policy_toml();
    let whole = whole.replace("[\"tpm\"]", "[\"tpm\", \"google-vtpm\"]");
    let whole = format!("{whole}\n{}", block("google-vtpm"));
    assert!(Policy::parse(whole.as_bytes()).unwrap().google.is_some());
}

#[test]
fn nothing_flipped_is_accepted_of_a_quote_alone() {
    let genuine = quote(&Vm::new());
    let policy = read(&own());
    let refused = |evidence: &QuoteAlone| verify(evidence, Some(NONCE), &policy, NOW).is_err();
    for place in 0..genuine.quote.attest.len() {
        let mut evidence = genuine.clone();
        evidence.quote.attest[place] ^= 1 << (place % 8);
        assert!(refused(&evidence), "attest {place}");
    }
    for place in (0..genuine.quote.signature.len()).step_by(7) {
        let mut evidence = genuine.clone();
        evidence.quote.signature[place] ^= 1 << (place % 8);
        assert!(refused(&evidence), "signature {place}");
    }
    for register in 0..24 {
        let mut evidence = genuine.clone();
        evidence.quote.registers[register].0[register] ^= 1;
        assert!(refused(&evidence), "register {register}");
    }
}

#[test]
fn a_vm_without_a_quote_is_judged_as_far_as_it_goes() {
    let evidence = Vm::new().evidence(NONCE);
    let (snp, tdx) = (Machine::new().policy(), Domain::new().policy());
    let judge = |quote, log: &[u8], policy: &str| {
        let policies = (&azure_policy(policy), (Some(&snp), Some(&tdx)));
        verify_alone(
            &evidence.hcl_report,
            &evidence.hardware,
            quote,
            log,
            policies,
            NOW,
        )
    };
    let relaxed = POLICY.replace("event_log = \"required\"", "event_log = \"not-required\"");
    let verified = judge(None, &[], &relaxed).unwrap();
    assert!(verified.registers().is_empty() && verified.root().contains("Test ARK"));
    let mut claims = verified.claims().iter();
    assert!(claims.any(|claim| claim.expected.contains("there is no quote of it")));
    assert_eq!(
        judge(None, &[], POLICY).unwrap_err(),
        AzureError::Registers(RegisterFault::NoEventLog)
    );
    let whole = Some((&evidence.quote, None));
    let verified = judge(whole, &evidence.event_log, POLICY).unwrap();
    let mut claims = verified.claims().iter();
    assert!(claims.any(|claim| claim.expected.contains("none was named")));
    let other = judge(
        Some((&evidence.quote, Some(b"other"))),
        &evidence.event_log,
        POLICY,
    );
    assert!(matches!(
        other.unwrap_err(),
        AzureError::Quote(VtpmError::Nonce { .. })
    ));
    assert!(matches!(evidence.hardware, AzureHardware::Snp(_)));
}

#[test]
fn devices_alone_have_one_nonce_and_are_as_many_as_there_are() {
    let rack = Rack::new();
    let evidence = rack.evidence(&[5; 32]);
    let judge =
        |evidence: &GpuEvidence, nonce| gpu::verify_alone(evidence, nonce, &rack.policy(), NOW);
    let verified = judge(&evidence, None).unwrap();
    for part in ["GPU: number", "GPU 1: nonce"] {
        let mut claims = verified.claims().iter();
        let claim = claims.find(|claim| claim.what == part).unwrap();
        assert!(claim.expected.contains("not checked"), "{claim:?}");
    }
    assert!(judge(&evidence, Some(&[5; 32])).is_ok());
    let other = judge(&evidence, Some(&[6; 32])).unwrap_err();
    let GpuError::Device { fault, .. } = other else {
        panic!("{other}")
    };
    assert!(matches!(*fault, DeviceFault::Nonce { .. }), "{fault}");
    // Two machines' devices, each for its own nonce.
    let switched = Rack::with_switch();
    let mut mixed = switched.evidence(&[5; 32]);
    mixed.devices[1] = switched.evidence(&[6; 32]).devices[1].clone();
    let error = gpu::verify_alone(&mixed, None, &switched.policy(), NOW).unwrap_err();
    let GpuError::Device { device: 2, fault } = error else {
        panic!("{error}")
    };
    assert!(matches!(*fault, DeviceFault::Nonce { .. }), "{fault}");
    // Manifests and lists from files, whichever else lie there; a report from a file of its own.
    let mut files = Files::default();
    for manifest in &evidence.manifests {
        files.add(manifest).unwrap();
    }
    files
        .add(b"<SoftwareIdentity colloquialVersion=\"0\"/>")
        .unwrap();
    for list in evidence.revocation_lists.iter().chain(&evidence.statuses) {
        files.add(list).unwrap();
    }
    let mut shown = GpuEvidence {
        devices: evidence.devices.clone(),
        ..GpuEvidence::default()
    };
    files.supplement_gpus(&mut shown, NOW);
    assert_eq!(shown.manifests.len(), evidence.manifests.len());
    assert_eq!(shown.statuses.len(), evidence.statuses.len());
    judge(&shown, None).unwrap();
    let mut chained = Files::default();
    for certificate in &evidence.devices[0].certificates {
        chained.add(certificate).unwrap();
    }
    let report = files::device_report(&[&evidence.devices[0].report[..], &[0]].concat());
    assert_eq!(chained.with_device(&report.unwrap()), evidence.devices[0]);
    assert_eq!(files::device_report(b"none"), None);
}

#[test]
fn files_are_read_in_every_form_and_refused_in_every_other() {
    let genuine = Vm::new().evidence(NONCE).quote;
    let pcrs: Vec<_> = genuine.registers.iter().map(|one| hex(&one.0)).collect();
    let plain = &genuine.signature[6..];
    for (message, signature) in [
        (json!(hex(&genuine.attest)), json!(hex(plain))),
        (json!(genuine.attest), json!(genuine.signature)),
    ] {
        let quote = json!({ "message": message, "signature": signature, "pcrs": pcrs });
        let key = hex(&public_key(&Vm::new().key));
        for whole in [
            quote.clone(),
            json!({ "tpm_quote": quote, "ak_public": key }),
        ] {
            let read = files::tpm_quote(whole.to_string().as_bytes()).unwrap();
            assert_eq!(read.attest, genuine.attest);
            assert_eq!(read.signature.as_ref(), Some(&genuine.signature));
            assert_eq!(read.registers, Some(genuine.registers));
            assert_eq!(read.key.is_some(), whole.get("ak_public").is_some());
        }
    }
    let bare = files::tpm_quote(&genuine.attest).unwrap();
    assert!(bare.signature.is_none() && bare.registers.is_none());
    let few = json!({ "message": hex(&genuine.attest), "signature": "00", "pcrs": pcrs[1..] });
    let few = files::tpm_quote(few.to_string().as_bytes());
    assert_eq!(few, Err(FileError::Registers));
    assert_eq!(files::tpm_quote(b"none"), Err(FileError::TpmQuote));
    let found = MAX_FILE_BYTES + 1;
    let large = vec![0; found];
    assert_eq!(files::tpm_quote(&large), Err(FileError::TooLarge { found }));
    let values: Vec<u8> = genuine.registers.iter().flat_map(|one| one.0).collect();
    let registers = |bytes: &[u8]| files::tpm_registers(&genuine.attest, bytes);
    assert_eq!(registers(&values), Ok(genuine.registers));
    let lines = pcrs.iter().enumerate();
    let lines: String = lines
        .map(|(n, one)| format!("    {n:<2}: 0x{}\n", one.to_uppercase()))
        .collect();
    let print = format!("  sha1:\n    0 : 0x00\n  sha256:\n{lines}");
    assert_eq!(registers(print.as_bytes()), Ok(genuine.registers));
    for none in [
        &b""[..],
        b"a",
        b"sha256:\n 24: 0x00\n",
        &values[1..],
        &[0xff; 9],
    ] {
        assert_eq!(registers(none), Err(FileError::Registers));
    }
    let azure = Vm::with_tdx().evidence(NONCE);
    let bare = files::azure(&azure.hcl_report).unwrap();
    assert_eq!(bare.hcl_report, azure.hcl_report);
    let whole = json!({ "report": hex(&azure.hcl_report), "td_quote": "BAACgQ" });
    let read = files::azure(whole.to_string().as_bytes()).unwrap();
    assert_eq!(
        (read.hcl_report, read.td_quote),
        (azure.hcl_report, Some(vec![4, 0, 2, 0x81]))
    );
    for none in [&b"{}"[..], b"none", b"{\"report\":\"!\"}"] {
        assert_eq!(files::azure(none), Err(FileError::Paravisor));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
