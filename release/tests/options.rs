//! Options of `measure` that contradict each other, say nothing, or name what cannot be used: each
//! is refused, with the next step.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod program;

use std::fs;
use std::process::Command;

use common::ovmf;
use program::{Folder, SNP};

#[test]
fn contradictions_are_refused_with_the_next_step() {
    let folder = Folder::new();
    let fails = |arguments: &str, stderr: &str| {
        folder.fails(&arguments.split_whitespace().collect::<Vec<_>>(), stderr);
    };
    fails(
        "",
        "error: it is not said what is to be measured\n \
         hint: give --uki, or --platform snp, tdx or tpm, or --machine\n",
    );
    fails(
        "--platform snp --uki cloister.efi --kernel vmlinuz",
        "error: --uki and --kernel contradict each other: a UKI holds its kernel\n \
         hint: leave one of the two out\n",
    );
    fails(
        "--platform snp --vcpus 1 --firmware ovmf.fd --initrd initrd",
        "error: --initrd says nothing without --kernel\n \
         hint: give both, or leave the option out\n",
    );
    fails(
        "--machine gcp-c3-standard-8 --vcpus 4",
        "error: --vcpus is 4, but gcp-c3-standard-8 has 8\n \
         hint: leave the option out, or name another machine\n",
    );
    fails(
        "--machine gcp-c3-standard-9",
        "error: no machine is called \"gcp-c3-standard-9\"; the nearest is gcp-c3-standard-4\n \
         hint: see `cloister-release measure --list`\n",
    );
    fails(
        "--platform tdx --vmm ec2 --firmware ovmf.fd",
        "error: ec2 starts no VM under tdx\n hint: give --vmm qemu or gce\n",
    );
    fails(
        "--platform snp --firmware ovmf.fd --vcpu-type EPYC",
        "error: --vcpus is missing, which snp needs\n \
         hint: see `cloister-release measure --help` for an example\n",
    );
    let hint = "leave --uki out for the digest of the firmware; give --kernel for what QEMU gets \
        by -kernel, be it a UKI; a UKI on a disk is in what --platform tpm predicts";
    fails(
        "--platform snp --vcpus 1 --firmware ovmf.fd --uki cloister.efi",
        &format!("error: a UKI on a disk is not in the launch digest of SEV-SNP\n hint: {hint}\n"),
    );
    fails(
        "--platform snp --vcpus 1-2 --vcpu-type EPYC --firmware ovmf.fd --id-block",
        "error: an ID block names one launch digest, and a range of vCPUs has many\n \
         hint: give one number of --vcpus\n",
    );
    fails(
        "--machine aws-m6a-xlarge --firmware ovmf.fd --kernel vmlinuz",
        "error: aws-m6a-xlarge measures no kernel: --kernel is not in its launch digest\n \
         hint: leave the option out: a UKI on the machine's disk is in what --platform tpm \
         predicts\n",
    );
    fails(
        "--platform tdx --vmm gce --firmware ovmf.fd --kernel vmlinuz",
        "error: --kernel says nothing of a VM that gce starts\n \
         hint: leave the option out, or give --vmm qemu\n",
    );
    fails(
        "--list --vcpus 4",
        "error: --list is given alone: --vcpus says nothing beside it\n \
         hint: give --list by itself, or leave it out\n",
    );
    let spelled = format!("{SNP} --svsm-variables 4096");
    fails(
        &spelled,
        "error: --svsm-variables says nothing without --svsm\n \
         hint: give both, or leave the option out\n",
    );
    fails(
        "--platform tdx --firmware ovmf.fd --id-block",
        "error: --id-block is for the platform snp only\n \
         hint: leave the option out, or give another --platform\n",
    );
}

/// An option that is of no use to a platform is refused by it, and by none that it is of use to;
/// what describes a machine is taken by all.
#[test]
fn no_option_is_ignored() {
    let folder = Folder::new();
    let file = [
        "firmware",
        "kernel",
        "initrd",
        "svsm",
        "id-key",
        "author-key",
        "disk",
        "event-log",
    ];
    let text = [
        ("vmm", "qemu"),
        ("vcpus", "2"),
        ("vcpu-type", "EPYC"),
        ("guest-features", "0x1"),
        ("cmdline", "quiet"),
        ("memory", "2G"),
        ("svsm-variables", "0"),
        ("guest-policy", "0x30000"),
        ("family-id", "00000000000000000000000000000000"),
        ("image-id", "00000000000000000000000000000000"),
        ("guest-svn", "1"),
        ("acpi", "acpi"),
        ("phase", "ready"),
    ];
    let options = file.map(|name| (name, "initrd")).into_iter().chain(text);
    let refused = |platform: &str, name: &str, value: &str| {
        let option = format!("--{name}");
        let words = ["--platform", platform, &option, value];
        let stderr = String::from_utf8(folder.run(&words).stderr).unwrap();
        stderr.contains(&format!("error: {option} is for"))
            || stderr.contains(&format!("error: {option} says nothing without"))
    };
    for (name, value) in options {
        let by = ["snp", "tdx", "tpm"].map(|platform| refused(platform, name, value));
        let expected = match name {
            "vmm" | "vcpus" | "vcpu-type" | "guest-features" | "memory" => [false; 3],
            "firmware" | "kernel" => [false, false, true],
            "svsm" => [false, true, true],
            "acpi" => [true, false, true],
            "event-log" => [true, false, false],
            _ => [true; 3],
        };
        assert_eq!(by, expected, "{name}");
    }
}

#[test]
fn what_describes_a_machine_and_is_not_measured_is_noted() {
    let folder = Folder::new();
    let notes = |line: &str| folder.done(line)["notes"].to_string();
    let line = "--platform snp --vcpus 1 --vcpu-type EPYC --firmware ovmf.fd";
    assert!(!notes(line).contains("in no value"));
    let noted = notes(&format!("{line} --memory 2G"));
    assert!(noted.contains("--memory is in no value of snp"), "{noted}");
    let line = "--platform tdx --vmm qemu --firmware ovmf.fd --memory 2G";
    let noted = notes(&format!("{line} --vcpu-type EPYC --guest-features 0x1"));
    for option in ["--vcpu-type", "--guest-features"] {
        assert!(
            noted.contains(&format!("{option} is in no value of tdx")),
            "{noted}"
        );
    }
}

/// What nobody said is not taken for QEMU: what a log recorded stays.
#[test]
fn a_vmm_that_is_not_named_overwrites_nothing() {
    let folder = Folder::new();
    let events = [(1, 0x8000_000b, &b"hand-off"[..]), (1, 4, &[0; 4])];
    folder.write("ccel", &ovmf::ccel(&events));
    let line = "--platform tdx --firmware ovmf.fd --memory 2G --event-log ccel";
    let source = |line: &str| folder.done(line)["events"][0]["source"].clone();
    assert_eq!(source(line), "recorded");
    assert_eq!(source(&format!("{line} --vmm qemu")), "computed");
    let gce = format!(
        "{} --machine gcp-c3-standard-8",
        line.replace("--memory 2G ", "")
    );
    assert_eq!(source(&gce), "recorded");
}

#[test]
fn tables_of_another_machine_are_refused() {
    let folder = Folder::new();
    fs::create_dir(folder.0.path().join("acpi")).unwrap();
    folder.write("acpi/table-loader", &ovmf::table_loader());
    for name in ["rsdp", "tables"] {
        folder.write(&format!("acpi/{name}"), name.as_bytes());
    }
    let line = "--platform tdx --vmm qemu --memory 4G --vcpus 2 --firmware ovmf.fd --acpi acpi";
    let unknown = folder.done(line)["notes"].to_string();
    assert!(unknown.contains("acpi has no shape.json"), "{unknown}");
    folder.write(
        "acpi/shape.json",
        br#"{"vcpus":2,"memory_bytes":4294967296}"#,
    );
    let known = folder.done(line);
    assert_eq!(known["inputs"]["acpi_vcpus"], 2);
    let fails = |line: &str, stderr: &str| {
        folder.fails(&line.split_whitespace().collect::<Vec<_>>(), stderr);
    };
    let hint = " hint: give the folder that was dumped of the very machine\n";
    fails(
        &line.replace("--vcpus 2", "--vcpus 4"),
        &format!("error: --vcpus is 4, but the tables are of a machine with 2\n{hint}"),
    );
    fails(
        &line.replace("4G", "2G"),
        &format!(
            "error: --memory is 2147483648 bytes of memory, but the tables are of a machine with \
             4294967296 bytes of memory\n{hint}"
        ),
    );
    folder.write("acpi/shape.json", b"{}");
    fails(
        line,
        "error: acpi/shape.json: it does not say what the tables are of: vcpus and memory_bytes\n \
         hint: dump the tables again: cloister-release dump-acpi\n",
    );
}

/// A pipe would give something else the second time, and a device never ends.
#[test]
fn what_is_no_file_is_not_measured() {
    let folder = Folder::new();
    let made = Command::new("mkfifo")
        .arg(folder.0.path().join("pipe"))
        .status();
    assert!(made.unwrap().success());
    for name in ["/dev/zero", "pipe"] {
        let line = SNP.replace("--initrd initrd", &format!("--initrd {name}"));
        let expected = format!(
            "error: {name}: it is no file\n hint: check the path, and that it is yours to read\n"
        );
        folder.fails(&line.split_whitespace().collect::<Vec<_>>(), &expected);
        folder.fails(&["--uki", name], &expected);
    }
}

/// The digest of a cloud's machine says nothing of a kernel, and the report says so.
#[test]
fn a_cloud_that_hands_over_no_hashes_is_named() {
    let folder = Folder::new();
    for vmm in ["ec2", "gce"] {
        let report = folder.done(&SNP.replace("--vmm qemu", &format!("--vmm {vmm}")));
        let note = format!("{vmm} hands over no kernel hashes");
        assert!(report["notes"].to_string().contains(&note), "{report}");
    }
}

#[test]
fn input_that_cannot_be_used_is_named() {
    let folder = Folder::new();
    let fails = |arguments: &str, stderr: &str| {
        folder.fails(&arguments.split_whitespace().collect::<Vec<_>>(), stderr);
    };
    let hint = " hint: give the very file that the VM starts with, such as OVMF.amdsev.fd\n";
    let snp = "--platform snp --vcpus 1 --vcpu-type EPYC --firmware";
    folder.write("short.fd", &ovmf::firmware()[1..]);
    fails(
        &format!("{snp} short.fd"),
        &format!(
            "error: short.fd: 12287 bytes; a firmware has whole pages of 4096 bytes, \
             67108864 at most\n{hint}"
        ),
    );
    let overlap = [[0x80_0000, 0x2000, 1], [0x80_1000, 0x1000, 2]];
    folder.write("overlap.fd", &ovmf::firmware_with(&overlap));
    fails(
        &format!("{snp} overlap.fd"),
        &format!("error: overlap.fd: sections 0 and 1 of the SEV metadata overlap\n{hint}"),
    );
    folder.write("nothing", &[0; 8192]);
    fails(
        "--platform tdx --memory 2G --kernel nothing",
        "error: the kernel: it has no boot header of a Linux kernel (\"HdrS\" at 0x202)\n \
         hint: give a vmlinuz with an EFI stub\n",
    );
    // Others measure it, so the number is given, with a word of warning.
    let report = folder.done(&format!("{snp} ovmf.fd --kernel nothing"));
    assert!(report["notes"].to_string().contains("no boot header"));
    fails(
        "--platform tdx --firmware ovmf.fd --event-log nothing",
        "error: nothing: it does not begin as an event log that names its banks \
         (Spec ID Event03)\n \
         hint: give a copy of /sys/firmware/acpi/tables/data/CCEL\n",
    );
}

#[test]
fn values_that_cannot_be_are_refused_where_they_stand() {
    let folder = Folder::new();
    let line = "--platform snp --vcpus 1 --firmware ovmf.fd --kernel vmlinuz";
    let refused = |more: &[&str], expected: &str| {
        let words: Vec<_> = line
            .split_whitespace()
            .chain(more.iter().copied())
            .collect();
        let output = folder.run(&words);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{more:?}");
        assert!(stderr.contains(expected), "{more:?}: {stderr}");
    };
    refused(&["--vcpu-type", "EPYC-Millan"], "the nearest is EPYC-Milan");
    refused(&["--vmm", "hyperv"], "qemu, ec2 and gce are known");
    refused(&["--guest-features", "0x20"], "lacks bit 0");
    refused(&["--guest-features", "many"], "is no number");
    refused(&["--cmdline", &"a".repeat(2048)], "the kernel takes 2047");
    refused(&["--cmdline", "gr\u{fc}n"], "not ASCII");
    refused(&["--memory", "12 parsecs"], "give a size such as 4G");
    for vcpus in ["0", "513", "4-2", "all"] {
        let line = SNP.replace("--vcpus 2", &format!("--vcpus {vcpus}"));
        let output = folder.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(1), "{vcpus}");
    }
}
