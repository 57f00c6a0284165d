//! `explain-mismatch` of event logs: of TDX and of a TPM, each beside a prediction and a release.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod explained;
mod program;

use common::ovmf;
use explained::Folder;
use serde_json::Value;

#[test]
fn the_first_event_that_differs_is_named() {
    let folder = Folder::new();
    let line = "--platform tdx --memory 2G --kernel vmlinuz --initrd initrd --cmdline quiet";
    let predicted = folder.predict(line);
    let utf16 = |text: &str| -> Vec<u8> {
        text.encode_utf16()
            .chain([0])
            .flat_map(u16::to_le_bytes)
            .collect()
    };
    let options = utf16("debug initrd=initrd");
    folder.write(
        "ccel",
        &ovmf::ccel(&[(3, 6, &options), (3, 6, b"an initrd")]),
    );
    let report = folder.explain("ccel", "");
    let differences = report["differences"].as_array().unwrap();
    let [rtmr1, rtmr2] = &differences[..] else {
        panic!("{report}")
    };
    assert_eq!(
        (&rtmr1["register"], &rtmr1["found"]),
        (&"rtmr1".into(), &"no further event".into())
    );
    assert_eq!(
        (&rtmr2["register"], &rtmr2["event"]),
        (&"rtmr2".into(), &1.into())
    );
    assert!(
        rtmr2["expected"]
            .as_str()
            .unwrap()
            .starts_with("command line initrd=initrd")
    );
    let options = utf16("quiet initrd=initrd");
    folder.write(
        "ccel",
        &ovmf::ccel(&[(3, 6, &options), (3, 6, b"an initrd")]),
    );
    let report = folder.explain("ccel", "");
    assert_eq!(
        report["differences"].as_array().unwrap().len(),
        1,
        "{report}"
    );
    // The kernel is as predicted, in one of its two forms; what follows differs.
    let events = predicted["events"].as_array().unwrap().iter();
    let events: Vec<_> = events.filter(|one| one["register"] == "rtmr1").collect();
    let kernels: Vec<_> = events
        .iter()
        .filter(|one| one["what"].as_str().unwrap().starts_with("kernel, "))
        .collect();
    assert_eq!(kernels.len(), 2);
    for kernel in kernels {
        let mut log = ovmf::ccel(&[]);
        let others = events
            .iter()
            .filter(|one| !one["what"].as_str().unwrap().starts_with("kernel, "));
        let others: Vec<_> = others.collect();
        let digest = |one: &Value| -> attest::Digest<48> {
            one["sha384"].as_str().unwrap().parse().unwrap()
        };
        for digest in [digest(kernel), digest(others[0]), attest::Digest([7; 48])] {
            log.extend([2, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 12, 0]);
            log.extend(digest.0);
            log.extend([0; 4]);
        }
        folder.write("ccel", &log);
        let report = folder.explain("ccel", "");
        let first = &report["differences"][0];
        assert_eq!(
            (&first["register"], &first["event"]),
            (&"rtmr1".into(), &3.into())
        );
    }
}

/// What a log says of the first event that differs.
#[test]
fn an_option_rom_and_secure_boot_are_named() {
    let folder = Folder::new();
    let variable = |name: &str, value: &[u8]| -> Vec<u8> {
        let letters: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let sizes = [name.len() as u64, value.len() as u64].map(u64::to_le_bytes);
        [&[0x61; 16][..], &sizes.concat(), &letters, value].concat()
    };
    let (on, off) = (variable("SecureBoot", &[1]), variable("SecureBoot", &[0]));
    let (ours, theirs) = (variable("db", b"ours"), variable("db", b"theirs"));
    let log = |secure: &[u8], db: &[u8], acpi: &'static [u8]| {
        [
            (1, 0x8000_000b, b"hand-off".to_vec()),
            (1, 0x8000_0001, secure.to_vec()),
            (1, 0x8000_0001, db.to_vec()),
            (1, 10, acpi.to_vec()),
        ]
    };
    let write = |name: &str, events: &[(u32, u32, Vec<u8>)]| {
        let events: Vec<_> = events.iter().map(|(r, k, d)| (*r, *k, &d[..])).collect();
        folder.write(name, &ovmf::ccel(&events));
    };
    write("recorded", &log(&on, &ours, b"ACPI DATA"));
    let line = "--platform tdx --memory 2G --event-log recorded --kernel vmlinuz --cmdline quiet";
    folder.predict(line);
    let cause = |register: &str, events: &[(u32, u32, Vec<u8>)]| {
        write("ccel", events);
        let (_, report) = folder.explain_code("ccel", "");
        let differences = report["differences"].as_array().unwrap();
        let one = differences.iter().find(|one| one["register"] == register);
        one.map(|one| {
            (
                one["found"].clone(),
                one["cause"].as_str().unwrap_or("").to_owned(),
            )
        })
    };
    assert!(cause("rtmr0", &log(&on, &ours, b"ACPI DATA")).is_none());
    let (found, text) = cause("rtmr0", &log(&off, &ours, b"ACPI DATA")).unwrap();
    assert!(
        found
            .as_str()
            .unwrap()
            .starts_with("variable of a driver SecureBoot")
    );
    assert_eq!(text, "Secure Boot is on in one case and off in the other");
    let (found, text) = cause("rtmr0", &log(&on, &theirs, b"ACPI DATA")).unwrap();
    assert!(
        found
            .as_str()
            .unwrap()
            .starts_with("variable of a driver db")
    );
    assert_eq!(text, "Secure Boot has other keys or lists");
    let (_, text) = cause("rtmr0", &log(&on, &ours, b"OTHER")).unwrap();
    assert!(text.starts_with("ACPI: vCPUs, memory, devices"), "{text}");
    // The option ROM of a network card, in front of what was expected.
    let action = b"Calling EFI Application from Boot Option".to_vec();
    let rom = (2, 0x8000_0004, b"ROM".to_vec());
    let (_, text) = cause("rtmr1", &[rom, (2, 0x8000_0007, action)]).unwrap();
    assert!(text.contains("the option ROM of a device ran"), "{text}");
    let command_line = "quiet\n".encode_utf16().chain([0]);
    let command_line: Vec<u8> = command_line.flat_map(u16::to_le_bytes).collect();
    let (_, text) = cause("rtmr2", &[(3, 6, command_line)]).unwrap();
    assert_eq!(text, "it is the command line with a newline at its end");
    let (_, text) = cause("rtmr1", &[(1, 4, vec![0; 4])]).unwrap();
    assert!(text.starts_with("the boot ended before"), "{text}");
}

#[test]
fn a_tpms_log_is_compared_with_a_prediction_or_a_statement() {
    let folder = Folder::new();
    folder.write("cloister.efi", &common::uki());
    let predicted = folder.predict("--uki cloister.efi");
    let action = b"Calling EFI Application from Boot Option";
    folder.write(
        "log",
        &ovmf::tpm_log(&[(4, 0x8000_0007, action), (4, 4, &[0; 4])]),
    );
    let report = folder.explain("log", "");
    let first = &report["differences"][0];
    assert_eq!(
        (&first["register"], &first["event"]),
        (&"pcr4".into(), &3.into())
    );
    assert!(
        first["expected"]
            .as_str()
            .unwrap()
            .starts_with("UKI, Authenticode digest")
    );
    // What the host brought beside the UKI, into a register without predicted events.
    folder.write(
        "beside",
        &ovmf::tpm_log(&[(12, 0xd, b"debug"), (13, 0xd, b"a sysext")]),
    );
    let report = folder.explain("beside", "");
    let differences = report["differences"].as_array().unwrap();
    for name in ["pcr12", "pcr13"] {
        let one = differences.iter().find(|one| one["register"] == name);
        let cause = one.unwrap()["cause"].as_str().unwrap();
        assert!(
            cause.starts_with("a host brought it beside the UKI"),
            "{cause}"
        );
    }
    folder.state(&serde_json::json!({ "tpm": predicted["registers"] }));
    let (code, report) = folder.explain_code("log", "");
    assert_eq!(code, 4, "a release names no events, and no UKI was given");
    let names = report["differences"].as_array().unwrap().iter();
    let names: Vec<_> = names.map(|one| one["register"].as_str().unwrap()).collect();
    assert_eq!(names, ["pcr4", "pcr9", "pcr11"]);
    // A log whose registers are those of another UKI, which was named.
    let events = predicted["events"].as_array().unwrap().iter();
    let nine: Vec<_> = events.filter(|event| event["pcr"] == 9).collect();
    let mut log = ovmf::log_of_banks(0, &[12], &[]);
    for event in nine {
        let digest: attest::Digest<48> = event["sha384"].as_str().unwrap().parse().unwrap();
        log.extend([9, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 12, 0]);
        log.extend(digest.0);
        log.extend([0; 4]);
    }
    folder.write("log", &log);
    let zero = |bytes| serde_json::json!({ "9": "00".repeat(bytes) });
    folder.state(&serde_json::json!({ "tpm": { "sha256": zero(32), "sha384": zero(48) } }));
    let report = folder.explain("log", "--uki cloister.efi");
    assert_eq!(
        report["differences"][0]["cause"],
        "it is that of the UKI cloister.efi"
    );
}

/// Evidence of one platform beside a statement of another is refused, whatever its registers are
/// called.
#[test]
fn a_log_of_the_other_kind_is_refused() {
    let folder = Folder::new();
    let events = [(1, 4, &[0; 4][..]), (2, 4, &[0; 4])];
    folder.write("tpm", &ovmf::tpm_log(&events));
    folder.write("ccel", &ovmf::ccel(&events));
    // As td-shim writes it: it begins as a TPM's, and is none.
    folder.write("td-shim", &ovmf::log_of_banks(0, &[12], &events));
    folder.predict("--platform tdx --kernel vmlinuz --cmdline quiet");
    assert!(folder.refused("tpm").starts_with(
        "error: tpm: it holds a TPM's event log, and predicted.json is a prediction of TDX\n"
    ));
    for name in ["ccel", "td-shim"] {
        let (code, report) = folder.explain_code(name, "");
        assert_eq!((code, &report["matches"]), (4, &false.into()), "{name}");
    }
    folder.predict("--uki cloister.efi");
    for name in ["ccel", "td-shim"] {
        assert!(folder.refused(name).contains(
            "it holds an event log of TDX (CCEL), and predicted.json is a prediction of a TPM"
        ));
    }
    assert_eq!(folder.explain("tpm", "")["matches"], false);
}

/// A log without SHA-384 is compared by SHA-256, and is not taken for a short boot.
#[test]
fn a_log_with_sha256_alone_is_compared_by_that() {
    let folder = Folder::new();
    let predicted = folder.predict("--uki cloister.efi");
    let mut log = ovmf::log_of_banks(0, &[11], &[]);
    for event in predicted["events"].as_array().unwrap() {
        let digest: attest::Digest<32> = event["sha256"].as_str().unwrap().parse().unwrap();
        log.extend((event["pcr"].as_u64().unwrap() as u32).to_le_bytes());
        log.extend([6, 0, 0, 0, 1, 0, 0, 0, 11, 0]);
        log.extend(digest.0);
        log.extend([0; 4]);
    }
    folder.write("log", &log);
    assert_eq!(folder.explain("log", "")["matches"], true);
    folder.state(&serde_json::json!({ "tpm": predicted["registers"] }));
    assert_eq!(folder.explain("log", "")["matches"], true);
    folder.write("log", &ovmf::log_of_banks(1, &[11], &[(1, 4, &[0; 4])]));
    let refused = folder.refused("log");
    assert!(
        refused.contains("the event log: it has no bank that is predicted"),
        "{refused}"
    );
}

/// Registers of TDX, from a quote, a log or the evidence of a client, beside a release.
#[test]
fn a_release_tells_which_of_its_machines_it_is() {
    use attest::tdx::{Collateral, TdxEvidence};
    use attest::{Digest, Evidence, Platform};
    let folder = Folder::new();
    let events = [(1, 4, &b"zero"[..]), (2, 4, b"one"), (3, 4, b"two")];
    let value = |data: &[u8]| Digest::sha384(&[[0; 48], Digest::sha384(data).0].concat());
    let [zero, one, two] = [&b"zero"[..], b"one", b"two"].map(value);
    let (mrtd, other) = (Digest([5; 48]), Digest([6; 48]));
    let machine = |name: &str, rtmr0: Option<Digest<48>>, rtmr1: Digest<48>| {
        serde_json::json!({
            "machine": name, "mrtd": mrtd, "rtmr0": rtmr0, "rtmr1": rtmr1, "rtmr2": two,
        })
    };
    let machines =
        |list: Vec<Value>| folder.state(&serde_json::json!({ "tdx": { "machines": list } }));
    let log = ovmf::ccel(&events);
    folder.write("ccel", &log);
    let quote = explained::quote([mrtd, zero, one, two, Digest::ZERO]);
    folder.write("quote", &quote);
    let evidence = |quote: Vec<u8>| Evidence {
        platform: Platform::Tdx(TdxEvidence {
            quote,
            event_log: log.clone(),
            collateral: Collateral::default(),
        }),
        configuration: Vec::new(),
        gpu: Default::default(),
        release: Vec::new(),
    };
    folder.write("evidence", &evidence(quote.clone()).encode());
    machines(vec![
        machine("far", None, other),
        machine("near", Some(zero), one),
    ]);
    for name in ["ccel", "quote", "evidence"] {
        let report = folder.explain(name, "");
        assert_eq!(
            (&report["machine"], &report["matches"]),
            (&"near".into(), &true.into())
        );
    }
    machines(vec![
        machine("first", None, other),
        machine("second", Some(other), other),
    ]);
    for name in ["ccel", "quote", "evidence"] {
        let (code, report) = folder.explain_code(name, "");
        assert_eq!((code, &report["machine"]), (4, &"first".into()), "{name}");
        let differences = report["differences"].as_array().unwrap();
        assert_eq!(
            (differences.len(), &differences[0]["register"]),
            (1, &"rtmr1".into())
        );
        // The log's events of that register are shown where there is a log.
        let events = differences[0]["events"].as_array().unwrap().len();
        assert_eq!(events, usize::from(name != "quote"), "{name}");
    }
    folder.state(&serde_json::json!({ "tpm": {} }));
    assert!(
        folder
            .refused("quote")
            .contains("the release states nothing of TDX")
    );
    assert!(
        folder
            .refused("ccel")
            .contains("the release states nothing of TDX")
    );
    folder.report(program::SNP);
    // Beside a prediction, the log that came with the quote names the event.
    folder.predict("--platform tdx --kernel vmlinuz --cmdline quiet");
    let (_, report) = folder.explain_code("evidence", "");
    let first = &report["event_log"]["differences"][0];
    assert_eq!(
        (&first["register"], &first["event"]),
        (&"rtmr1".into(), &1.into())
    );
    assert_eq!(report["matches"], false);
}

/// Only one form of a kernel is predicted where the memory is not known; the first event that
/// differs is still that kernel.
#[test]
fn one_form_of_a_kernel_is_compared_as_one() {
    let folder = Folder::new();
    folder.predict("--platform tdx --kernel vmlinuz --initrd initrd --cmdline quiet");
    folder.write("ccel", &ovmf::ccel(&[(2, 0x8000_0003, b"another kernel")]));
    let report = folder.explain("ccel", "");
    let first = &report["differences"][0];
    assert_eq!(first["register"], "rtmr1");
    assert!(
        first["expected"]
            .as_str()
            .unwrap()
            .starts_with("kernel, unchanged"),
        "{first}"
    );
}

/// A prediction is a file like any other: what is wrong in it is named.
#[test]
fn each_fault_of_a_statement_has_its_own_refusal() {
    use release::measure::explain::statement::{Expected, StatementError as E};
    let parse = |json: Value| Expected::parse(json.to_string().as_bytes()).err();
    assert_eq!(Expected::parse(b"{").err(), Some(E::Json));
    assert_eq!(parse(serde_json::json!({})), Some(E::Unknown));
    assert_eq!(
        parse(serde_json::json!({ "platform": "vax" })),
        Some(E::Unknown)
    );
    let folder = Folder::new();
    let change = |line: &str, change: &dyn Fn(&mut Value)| {
        let mut predicted = folder.measure(line);
        change(&mut predicted);
        parse(predicted)
    };
    let snp = |change_it: &dyn Fn(&mut Value)| change(program::SNP, change_it);
    assert_eq!(snp(&|_| ()), None);
    let lacks = |what| Some(E::Lacks(what));
    assert_eq!(snp(&|one| one["vmm"] = 1.into()), lacks("vmm"));
    assert_eq!(
        snp(&|one| one["launch_digest"] = "00".into()),
        lacks("launch_digest")
    );
    let number = |text: &'static str| snp(&|one| one["inputs"]["vcpus"]["number"] = text.into());
    for text in ["0", "513", "2-x", ""] {
        assert_eq!(number(text), lacks("the number of vCPUs"), "{text}");
    }
    for text in ["1-2", "2-1"] {
        assert_eq!(
            number(text),
            lacks("a launch digest for each number of vCPUs"),
            "{text}"
        );
    }
    let tdx = |change_it: &dyn Fn(&mut Value)| change("--platform tdx --kernel vmlinuz", change_it);
    assert_eq!(tdx(&|_| ()), None);
    assert_eq!(tdx(&|one| one["rtmr2"] = "x".into()), lacks("rtmr2"));
    for name in ["mrtd", "rtmr4", "rtmr4294967295"] {
        let fault = tdx(&|one| one["events"][0]["register"] = name.into());
        assert_eq!(fault, lacks("the register of an event"), "{name}");
    }
    let many = |one: &mut Value| {
        let event = one["events"][0].clone();
        one["events"] = vec![event; (1 << 14) + 1].into();
    };
    assert_eq!(tdx(&many), Some(E::TooMany));
    let tpm = |change_it: &dyn Fn(&mut Value)| change("--uki cloister.efi", change_it);
    assert_eq!(tpm(&|_| ()), None);
    let fault = tpm(&|one| one["events"][0]["pcr"] = 24.into());
    assert_eq!(fault, lacks("the register of an event"));
}
