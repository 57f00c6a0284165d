//! `explain-mismatch` of launch digests and registers: for each thing that may differ, evidence
//! that differs in it, and the answer.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod explained;
mod program;

use std::fs;

use common::ovmf;
use explained::Folder;
use program::SNP;
use serde_json::Value;

#[test]
fn each_difference_is_found_and_named() {
    let folder = Folder::new();
    let others = "--firmware old.fd --firmware ovmf.fd --kernel vmlinuz-old --cmdline debug";
    let found = |from: &str, to: &str| -> Vec<(String, String)> {
        folder.report(&SNP.replacen(from, to, 1));
        let report = folder.explain("report.bin", others);
        let differences = report["differences"].as_array().unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |one: &Value| (text(&one["what"]), text(&one["found"]));
        differences.iter().map(one).collect()
    };
    let one = |what: &str, found: &str| vec![(what.to_owned(), found.to_owned())];
    assert_eq!(found("quiet", "quiet"), []);
    assert_eq!(found("--vcpus 2", "--vcpus 512"), one("vcpus", "512"));
    assert_eq!(
        found("EPYC-v4", "EPYC-Turin"),
        one("vcpu type", "EPYC-Turin")
    );
    assert_eq!(found("0x1", "0x21"), one("guest features", "0x21"));
    assert_eq!(found("--vmm qemu", "--vmm gce"), one("vmm", "gce"));
    let firmware = found("ovmf.fd", "old.fd");
    assert!(firmware[0].0 == "firmware" && firmware[0].1.starts_with("old.fd (sha256:"));
    let expected = "initrd as expected, command line as expected";
    let kernel = one("boot", &format!("kernel vmlinuz-old, {expected}"));
    assert_eq!(found("vmlinuz", "vmlinuz-old"), kernel);
    let empty = "kernel as expected, initrd as expected, command line empty";
    assert_eq!(found("--cmdline quiet", ""), one("boot", empty));
    let off = "no kernel hashes (kernel-hashes=off)";
    let without = "--kernel vmlinuz --initrd initrd --cmdline quiet";
    assert_eq!(found(without, ""), one("boot", off));
    let debug = "kernel as expected, initrd none, command line \"debug\"";
    assert_eq!(
        found("--initrd initrd --cmdline quiet", "--cmdline debug"),
        one("boot", debug)
    );
    // Two at once, as when another flavour of machine was taken.
    let two = found(
        "--vcpus 2 --vcpu-type EPYC-v4",
        "--vcpus 8 --vcpu-type EPYC-Genoa",
    );
    assert_eq!(
        two,
        [one("vcpu type", "EPYC-Genoa"), one("vcpus", "8")].concat()
    );
}

#[test]
fn what_nothing_explains_is_said_within_the_time() {
    let folder = Folder::new();
    folder.write("report.bin", &[7; 1184]);
    let arguments = [
        "explain-mismatch",
        "report.bin",
        "predicted.json",
        "--firmware",
        "ovmf.fd",
    ];
    let arguments = [&arguments[..], &["--seconds", "1"]].concat();
    let output = folder.run(&arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with("searching: 0 of "), "{stderr}");
    assert!(
        stderr.contains("the time was over after") || stderr.contains("error: none of "),
        "{stderr}"
    );
    // A firmware is found where the prediction was made, while it is still the same.
    folder.write("ovmf.fd", &ovmf::firmware()[4096..]);
    let output = folder.run(&["explain-mismatch", "report.bin", "predicted.json"]);
    let sha256 = attest::Digest::sha256(&ovmf::firmware());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!(
            "error: predicted.json: it was made with a firmware that is not there: \
             sha256:{sha256}\n \
             hint: name the firmware of the prediction by --firmware; the firmware ovmf.fd is no \
             longer what the prediction was made of: predict it again\n"
        )
    );
    let output = folder.run(&["explain-mismatch", "initrd", "predicted.json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("no report of SEV-SNP (1184 bytes), quote of TDX, HCL report"));
}

#[test]
fn a_release_statement_names_the_shape_or_none() {
    let folder = Folder::new();
    folder.report(SNP);
    let digest = folder.measure(SNP)["launch_digest"].clone();
    let state = |digest: &Value| {
        let shape = serde_json::json!({ "machine": "qemu-epyc-v4-2", "digest": digest });
        let values = serde_json::json!({ "snp": { "launch_digests": [shape] } });
        let statement = serde_json::json!({ "predicate": { "reference_values": values } });
        folder.write("predicted.json", statement.to_string().as_bytes());
    };
    state(&digest);
    assert_eq!(
        folder.explain("report.bin", "")["machine"],
        "qemu-epyc-v4-2"
    );
    state(&"00".repeat(48).into());
    let output = folder.run(&["explain-mismatch", "report.bin", "predicted.json"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.starts_with("error: none of the 1 shapes that the release states has"));
}

#[test]
fn a_quote_tells_which_register_differs() {
    let folder = Folder::new();
    let line = "--platform tdx --firmware ovmf.fd --memory 2G --kernel vmlinuz --cmdline quiet";
    let predicted = folder.measure(line);
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let mut quote = vec![0; 800];
    quote[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
    let mut put = |at: usize, value: &Value| {
        let digest: attest::Digest<48> = value.as_str().unwrap().parse().unwrap();
        quote[48 + at..48 + at + 48].copy_from_slice(digest.as_ref());
    };
    put(136, &predicted["mrtd"]["two_passes"]);
    put(376, &predicted["rtmr1"]["unchanged"]);
    put(424, &predicted["rtmr2"]);
    folder.write("quote", &quote);
    assert_eq!(folder.explain("quote", "")["matches"], true);
    quote[48 + 424] ^= 1;
    folder.write("quote", &quote);
    let (code, report) = folder.explain_code("quote", "");
    assert_eq!(code, 4);
    assert_eq!(report["differences"][0]["register"], "rtmr2");
    assert_eq!(report["differences"].as_array().unwrap().len(), 1);
    let cause = report["differences"][0]["causes"][0].as_str().unwrap();
    assert!(cause.starts_with("nothing near the prediction explains it"));
}

/// A quote of a machine that was started otherwise than predicted: the causes of each register.
#[test]
fn a_quote_is_explained_by_what_is_near() {
    let folder = Folder::new();
    let mut other = ovmf::kernel();
    *other.last_mut().unwrap() ^= 1;
    folder.write("vmlinuz-old", &other);
    let line = "--platform tdx --firmware ovmf.fd --memory 2G --kernel vmlinuz --initrd initrd \
        --cmdline quiet";
    let predicted = folder.measure(line);
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let causes = |from: &str, to: &str, more: &str| -> Vec<(String, String)> {
        let started = folder.measure(&line.replacen(from, to, 1));
        let mut quote = vec![0; 800];
        quote[..8].copy_from_slice(&[4, 0, 2, 0, 0x81, 0, 0, 0]);
        let mut put = |at: usize, value: &Value| {
            let digest: attest::Digest<48> = value.as_str().unwrap().parse().unwrap();
            quote[48 + at..48 + at + 48].copy_from_slice(digest.as_ref());
        };
        put(136, &started["mrtd"]["two_passes"]);
        put(376, &started["rtmr1"]["patched"]);
        put(424, &started["rtmr2"]);
        folder.write("quote", &quote);
        let (_, report) = folder.explain_code("quote", more);
        let differences = report["differences"].as_array().unwrap().iter();
        let one = |one: &Value| {
            let cause = one["causes"][0].as_str().unwrap().to_owned();
            (one["register"].as_str().unwrap().to_owned(), cause)
        };
        differences.map(one).collect()
    };
    let one = |register: &str, cause: &str| vec![(register.to_owned(), cause.to_owned())];
    assert_eq!(causes("quiet", "quiet", ""), []);
    assert_eq!(
        causes("ovmf.fd", "old.fd", "--firmware ovmf.fd --firmware old.fd"),
        one("mrtd", "it is that of the firmware old.fd (two-passes)")
    );
    let unknown = causes("ovmf.fd", "old.fd", "");
    assert!(unknown[0].1.starts_with("another firmware: name those"));
    let expected = "expected as expected";
    let text = |what: &str, event: &str, found: &str| {
        format!("{what}: {expected} ({event}), found {found}")
    };
    let event = "command line initrd=initrd, UTF-16 with NUL";
    let newline = causes("--cmdline quiet", "--cmdline debug", "--cmdline debug");
    let found = text("command line", event, "\"debug\"");
    assert_eq!(newline, one("rtmr2", &found));
    let empty = causes("--cmdline quiet", "", "");
    assert_eq!(empty, one("rtmr2", &text("command line", event, "empty")));
    // An initrd that was left out is left out of the command line, too.
    let none = causes("--initrd initrd ", "", "");
    let missing = format!(
        "{}; initrd",
        text(
            "command line",
            event,
            "as expected, nothing appended by firmware"
        )
    );
    assert_eq!(none.last().unwrap().0, "rtmr2");
    assert_eq!(none.last().unwrap().1, missing.split("; ").next().unwrap());
    let kernel = causes("vmlinuz", "vmlinuz-old", "--kernel vmlinuz-old");
    assert_eq!(kernel.len(), 1);
    assert!(kernel[0].0 == "rtmr1" && kernel[0].1.starts_with("kernel: expected as expected"));
    assert!(
        kernel[0]
            .1
            .ends_with("found vmlinuz-old, patched for 2048 MiB of memory")
    );
    let size = causes("--memory 2G", "--memory 1G", "--kernel vmlinuz");
    assert!(
        size[0]
            .1
            .ends_with("found the same file, patched for 1024 MiB of memory")
    );
}

/// Evidence as a client is given it holds a report or a log, which are explained alike.
#[test]
fn evidence_in_its_envelope_is_explained() {
    use attest::snp::SnpEvidence;
    use attest::tpm::TpmEvidence;
    use attest::{Evidence, Platform};
    let folder = Folder::new();
    let write = |platform| {
        let evidence = Evidence {
            gpu: attest::gpu::GpuEvidence::default(),
            platform,
            configuration: Vec::new(),
            release: Vec::new(),
        };
        folder.write("evidence", &evidence.encode());
    };
    folder.report(&SNP.replacen("--vcpus 2", "--vcpus 4", 1));
    write(Platform::Snp(SnpEvidence {
        report: fs::read(folder.0.path().join("report.bin")).unwrap(),
        certificates: Vec::new(),
        revocation_lists: Vec::new(),
    }));
    let report = folder.explain("evidence", "--firmware ovmf.fd");
    assert_eq!(report["differences"][0]["what"], "vcpus");

    let mut other = common::uki();
    *other.last_mut().unwrap() ^= 1;
    folder.write("cloister.efi", &common::uki());
    let predicted = folder.measure("--uki cloister.efi");
    folder.write("predicted.json", predicted.to_string().as_bytes());
    let attempt = &b"Calling EFI Application from Boot Option"[..];
    let log = [
        (4, 0x8000_0007, attempt),
        (4, 4, &[0; 4]),
        (4, 0x8000_0004, &b"driver"[..]),
    ];
    write(Platform::Tpm(TpmEvidence {
        event_log: ovmf::tpm_log(&log),
        ..TpmEvidence::default()
    }));
    let report = folder.explain("evidence", "");
    let first = &report["differences"][0];
    assert_eq!(
        (&first["register"], &first["event"]),
        (&"pcr4".into(), &3.into())
    );
    assert!(first["cause"].as_str().unwrap().contains("option ROM"));
}

#[test]
fn what_never_ends_is_no_evidence_and_no_statement() {
    let folder = Folder::new();
    folder.report(SNP);
    for words in [["/dev/zero", "predicted.json"], ["report.bin", "/dev/zero"]] {
        let output = folder.run(&[&["explain-mismatch"], &words[..]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("/dev/zero: it is no file"), "{stderr}");
    }
    let forever = ["--seconds", "18446744073709551615"];
    let output = folder.run(
        &[
            &["explain-mismatch", "report.bin", "predicted.json"],
            &forever[..],
        ]
        .concat(),
    );
    assert_eq!(output.status.code(), Some(1));
}

/// An SVSM, or none, in the place of what was predicted.
#[test]
fn an_svsm_is_searched_for() {
    let folder = Folder::new();
    folder.write("svsm.bin", &ovmf::svsm());
    let mut other = ovmf::svsm();
    other[0x2000] ^= 1;
    folder.write("svsm-old.bin", &other);
    let alone = "--platform snp --vmm qemu --vcpus 2 --vcpu-type EPYC-v4 --firmware ovmf.fd";
    let under = format!("{alone} --svsm svsm.bin --svsm-variables 8192");
    let found = |line: &str, more: &str| {
        folder.report(line);
        let report = folder.explain("report.bin", more);
        let differences = report["differences"].as_array().unwrap().clone();
        let one = |one: Value| (one["what"].clone(), one["found"].to_string());
        differences.into_iter().map(one).collect::<Vec<_>>()
    };
    folder.predict(&under);
    assert_eq!(found(&under, ""), []);
    let vcpus = found(&under.replace("--vcpus 2", "--vcpus 7"), "");
    assert_eq!(vcpus, [("vcpus".into(), "\"7\"".to_owned())]);
    let old = found(
        &under.replace("svsm.bin", "svsm-old.bin"),
        "--svsm svsm-old.bin",
    );
    assert!(old.len() == 1 && old[0].0 == "firmware", "{old:?}");
    assert!(old[0].1.contains("under the SVSM svsm-old.bin"), "{old:?}");
    let without = found(alone, "");
    assert!(
        without.len() == 1 && !without[0].1.contains("SVSM"),
        "{without:?}"
    );
    folder.predict(alone);
    let with = found(
        &under.replace(" --svsm-variables 8192", ""),
        "--svsm svsm.bin",
    );
    assert!(with[0].1.contains("under the SVSM svsm.bin"), "{with:?}");
}

#[test]
fn a_table_and_features_of_two_bits_are_explained() {
    let folder = Folder::new();
    folder.predict(&SNP.replace("--vcpus 2", "--vcpus 1-4"));
    folder.report(&SNP.replace("--vcpus 2", "--vcpus 3"));
    let report = folder.explain("report.bin", "");
    assert_eq!(
        (&report["matches"], &report["vcpus"]),
        (&true.into(), &3.into())
    );
    folder.report(&SNP.replace("--vcpus 2", "--vcpus 9"));
    let report = folder.explain("report.bin", "");
    let nine = serde_json::json!([{ "what": "vcpus", "expected": "1-4", "found": "9" }]);
    assert_eq!(report["differences"], nine);
    folder.report(&SNP.replace("0x1", "0x221"));
    let report = folder.explain("report.bin", "");
    assert_eq!(report["differences"][0]["found"], "0x221");
}

/// A prediction whose files were changed since would be another today.
#[test]
fn inputs_that_were_changed_are_named() {
    let folder = Folder::new();
    folder.report(SNP);
    assert!(folder.explain("report.bin", "")["changed_inputs"].is_null());
    folder.write("initrd", b"a longer initrd");
    folder.write("vmlinuz", &[0; 5]);
    let report = folder.explain("report.bin", "");
    let changed = report["changed_inputs"].to_string();
    assert!(
        changed.contains("the kernel vmlinuz is no longer"),
        "{changed}"
    );
    assert!(
        changed.contains("the initrd initrd is no longer"),
        "{changed}"
    );
    assert!(!changed.contains("firmware"), "{changed}");
    // Where nothing explains it, that is the first thing to know.
    folder.write("report.bin", &[7; 1184]);
    let words = [
        "explain-mismatch",
        "report.bin",
        "predicted.json",
        "--seconds",
        "1",
    ];
    let stderr = String::from_utf8(folder.run(&words).stderr).unwrap();
    assert!(
        stderr.contains("the kernel vmlinuz is no longer"),
        "{stderr}"
    );
}

/// What QEMU fills into a kernel depends on the initrd's size, too.
#[test]
fn a_kernel_is_tried_with_every_initrd() {
    let folder = Folder::new();
    folder.write("large", &[7; 9000]);
    let line = "--platform tdx --vmm qemu --firmware ovmf.fd --memory 2G --kernel vmlinuz \
        --initrd initrd --cmdline quiet";
    folder.predict(line);
    let started = folder.measure(&line.replace("--initrd initrd", "--initrd large"));
    let registers = [
        &started["mrtd"]["interleaved"],
        &Value::from("00".repeat(48)),
        &started["rtmr1"]["patched"],
        &started["rtmr2"],
        &started["rtmr3"],
    ];
    folder.write("quote", &explained::quote(registers.map(explained::digest)));
    let report = folder.explain("quote", "--initrd large");
    let causes = |at: usize| report["differences"][at]["causes"].to_string();
    assert!(causes(0).contains("patched for 2048 MiB of memory and the initrd large"));
    assert!(causes(1).contains("initrd: expected as expected (initrd), found large"));
}

/// The size of memory is in RTMR0, too, by the hand-off blocks.
#[test]
fn another_size_of_memory_is_found_in_rtmr0() {
    let folder = Folder::new();
    let events = [(1, 0x8000_000b, &b"hand-off"[..]), (1, 4, &[0; 4])];
    folder.write("ccel", &ovmf::ccel(&events));
    let line = "--platform tdx --vmm qemu --firmware ovmf.fd --memory 2G --event-log ccel";
    folder.predict(line);
    let started = folder.measure(&line.replace("2G", "8G"));
    let zero = Value::from("00".repeat(48));
    let registers = [
        &started["mrtd"]["interleaved"],
        &started["rtmr0"],
        &zero,
        &zero,
        &zero,
    ];
    folder.write("quote", &explained::quote(registers.map(explained::digest)));
    let report = folder.explain("quote", "");
    let causes = report["differences"][0]["causes"].to_string();
    assert!(
        causes.contains("memory: ") && causes.contains("found 8 GiB of memory"),
        "{causes}"
    );
}

/// The report inside Azure's, by itself and in what its agents hand over.
#[test]
fn an_hcl_report_is_unwrapped() {
    use base64::Engine as _;
    let folder = Folder::new();
    let hcl = |kind: u8, report: &[u8]| {
        let mut hcl = [b"HCLA", &[0; 28][..], report].concat();
        hcl.resize(32 + 1184, 0);
        hcl.extend([1, 0, 0, 0, 1, 0, 0, 0, kind, 0, 0, 0]);
        hcl
    };
    let snp = hcl(2, &folder.report(&SNP.replace("--vcpus 2", "--vcpus 5")));
    folder.write("hcl", &snp);
    let text = base64::engine::general_purpose::URL_SAFE.encode(&snp);
    let agents = serde_json::json!({ "version": 1, "hcl_report": text });
    folder.write("agents.json", agents.to_string().as_bytes());
    let earlier = serde_json::json!({ "report": snp });
    folder.write("earlier.json", earlier.to_string().as_bytes());
    for name in ["hcl", "agents.json", "earlier.json"] {
        let report = folder.explain(name, "");
        assert_eq!(report["differences"][0]["found"], "5", "{name}");
    }
    folder.predict("--uki cloister.efi");
    let stderr = folder.refused("hcl");
    assert!(stderr.contains("it holds a report of SEV-SNP, and predicted.json is a prediction of"));
    assert!(
        stderr.contains("an HCL report measures Azure's paravisor"),
        "{stderr}"
    );
    // A TD's report, whose registers stand at other places than in a quote.
    let predicted = folder.predict("--platform tdx --firmware ovmf.fd");
    let mut td = vec![0; 1024];
    let mrtd = explained::digest(&predicted["mrtd"]["interleaved"]);
    td[528..576].copy_from_slice(mrtd.as_ref());
    folder.write("hcl", &hcl(4, &td));
    assert_eq!(folder.explain("hcl", "")["matches"], true);
    folder.write("hcl", &hcl(3, &td));
    assert!(
        folder
            .refused("hcl")
            .contains("a report of kind 3; 2 (SEV-SNP) and 4 (TDX)")
    );
    folder.write("hcl", b"HCLA");
    assert!(
        folder
            .refused("hcl")
            .contains("the evidence holds no whole HCL report")
    );
}

/// Files that are larger than the time allows end with the time.
#[test]
fn what_cannot_be_read_in_time_is_named() {
    let folder = Folder::new();
    folder.write("report.bin", &[7; 1184]);
    let file = fs::File::create(folder.0.path().join("endless")).unwrap();
    file.set_len(1 << 40).unwrap();
    let words = [
        "explain-mismatch",
        "report.bin",
        "predicted.json",
        "--seconds",
        "1",
    ];
    let output = folder.run(&[&words[..], &["--initrd", "endless"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("endless: ") && stderr.contains("give more --seconds"),
        "{stderr}"
    );
}
