//! `measure` as a person and a script use it, and what they read when the input is wrong. It needs
//! no files but those that it makes.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;
mod program;

use std::fs;
use std::process::Command;

use attest::Digest;
use common::ovmf;
use program::{Folder, SNP};
use serde_json::Value;

fn is_hex(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == 96
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[test]
fn a_launch_digest_comes_with_its_inputs() {
    let folder = Folder::new();
    let report = folder.done(SNP);
    assert!(is_hex(&report["launch_digest"]));
    let initrd = Digest::sha256(b"an initrd").to_string();
    assert_eq!(report["inputs"]["initrd"]["sha256"], initrd);
    assert_eq!(report["inputs"]["command_line"], "quiet");
    let text = folder
        .run(&SNP.split_whitespace().collect::<Vec<_>>())
        .stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains(report["launch_digest"].as_str().unwrap()),
        "{text}"
    );
    assert!(
        text.contains(&format!("sha256:{initrd}, 9 bytes")),
        "{text}"
    );
    // Everything that is measured changes the digest.
    for other in [
        ("--vcpus 2", "--vcpus 3"),
        ("EPYC-v4", "EPYC-Turin"),
        ("0x1", "0x21"),
        ("quiet", "debug"),
        ("--initrd initrd", ""),
        ("--vmm qemu", "--vmm ec2"),
        ("--vmm qemu", "--vmm gce"),
    ] {
        let changed = folder.done(&SNP.replacen(other.0, other.1, 1));
        assert_ne!(
            changed["launch_digest"], report["launch_digest"],
            "{other:?}"
        );
    }
    let alias = folder.done(&SNP.replace("EPYC-v4", "epyc-ibpb"));
    assert_eq!(alias["launch_digest"], report["launch_digest"]);
}

#[test]
fn a_range_of_vcpus_makes_a_table() {
    let folder = Folder::new();
    let report = folder.done(&SNP.replace("--vcpus 2", "--vcpus 1-512"));
    let table = report["launch_digests"].as_array().unwrap();
    assert_eq!(table.len(), 512);
    assert_eq!(table[1]["vcpus"], 2);
    assert_eq!(table[1]["launch_digest"], folder.done(SNP)["launch_digest"]);
    let part = folder.done(&SNP.replace("--vcpus 2", "--vcpus 2-3"));
    assert_eq!(part["launch_digests"].as_array().unwrap()[..], table[1..3]);
}

#[test]
fn a_uki_alone_is_measured_as_before_and_into_rtmr2() {
    let folder = Folder::new();
    let alone = folder.done("--uki cloister.efi");
    assert_eq!(folder.done("--platform tpm --uki cloister.efi"), alone);
    // A machine's name adds what its TPM is worth.
    let named = folder.done("--machine qemu-tpm --uki cloister.efi");
    assert_eq!(named["registers"], alone["registers"]);
    let notes = named["notes"].to_string();
    assert!(
        notes.contains("whoever runs the TPM can forge it"),
        "{notes}"
    );
    let azure = folder.done("--machine azure-dcas-v5-4 --uki cloister.efi --vcpus 4 --memory 16G");
    assert!(
        azure["notes"].to_string().contains("Microsoft's paravisor"),
        "{azure}"
    );
    let tdx = folder.done("--platform tdx --uki cloister.efi --firmware ovmf.fd");
    assert!(is_hex(&tdx["rtmr2"]));
    assert!(tdx["rtmr1"].is_null() && tdx["rtmr0"].is_null());
    let missing = tdx["not_predicted"].as_object().unwrap();
    assert_eq!(missing.keys().collect::<Vec<_>>(), ["rtmr0", "rtmr1"]);
}

/// All registers of a TPM up to 15: five predicted, the others named, with a log's values.
#[test]
fn what_a_uki_does_not_tell_is_named_and_taken_from_a_log() {
    let folder = Folder::new();
    let report = folder.done("--uki cloister.efi");
    let mut all: Vec<String> = report["registers"]["sha384"]
        .as_object()
        .unwrap()
        .keys()
        .map(|name| name.trim_start_matches("pcr").to_owned())
        .collect();
    let others = report["not_predicted"].as_object().unwrap();
    all.extend(
        others
            .keys()
            .map(|name| name.trim_start_matches("pcr").to_owned()),
    );
    let mut all: Vec<u8> = all.iter().map(|name| name.parse().unwrap()).collect();
    all.sort_unstable();
    assert_eq!(all, (0..=15).collect::<Vec<u8>>());
    assert!(report["recorded"].is_null());
    folder.write("log", &ovmf::log_of_banks(0, &[12], &[(7, 4, &[0; 4])]));
    let recorded = folder.done("--uki cloister.efi --event-log log");
    assert_eq!(recorded["registers"], report["registers"]);
    let extended = [[0; 48], Digest::sha384(&[0; 4]).0].concat();
    let pcr7 = &recorded["recorded"]["pcr7"];
    assert_eq!(pcr7["sha384"], Digest::sha384(&extended).to_string());
    assert!(pcr7["sha256"].is_null(), "the log has no such bank");
    // A log with SHA-256 alone, and one of TDX.
    folder.write("log", &ovmf::log_of_banks(0, &[11], &[(7, 4, &[0; 4])]));
    let recorded = folder.done("--uki cloister.efi --event-log log");
    let pcr7 = &recorded["recorded"]["pcr7"];
    assert!(pcr7["sha384"].is_null() && pcr7["sha256"].is_string());
    folder.write("ccel", &ovmf::ccel(&[(1, 4, &[0; 4])]));
    folder.fails(
        &["--uki", "cloister.efi", "--event-log", "ccel"],
        "error: ccel: it is an event log of TDX (CCEL), not a TPM's event log\n \
         hint: give a copy of /sys/kernel/security/tpm0/binary_bios_measurements\n",
    );
    folder.write("log", &ovmf::tpm_log(&[(1, 4, &[0; 4])]));
    folder.fails(
        &["--platform", "tdx", "--event-log", "log"],
        "error: log: it is a TPM's event log, not an event log of TDX (CCEL)\n \
         hint: give a copy of /sys/firmware/acpi/tables/data/CCEL\n",
    );
    let arguments = ["--uki", "cloister.efi", "--event-log", "initrd"];
    folder.fails(
        &arguments,
        "error: initrd: it does not begin as an event log that names its banks (Spec ID \
         Event03)\n \
         hint: give a copy of /sys/kernel/security/tpm0/binary_bios_measurements\n",
    );
}

#[test]
fn registers_of_tdx_are_named_by_how_the_vmm_works() {
    let folder = Folder::new();
    let line = "--platform tdx --vmm qemu --memory 4G --firmware ovmf.fd --kernel vmlinuz \
        --initrd initrd --cmdline quiet";
    let report = folder.done(line);
    assert!(is_hex(&report["mrtd"]["interleaved"]) && is_hex(&report["mrtd"]["two_passes"]));
    assert_ne!(report["mrtd"]["interleaved"], report["mrtd"]["two_passes"]);
    assert!(is_hex(&report["rtmr1"]["patched"]) && is_hex(&report["rtmr1"]["unchanged"]));
    assert!(report["not_predicted"]["rtmr0"].is_string());
    let other = folder.done(&line.replace("4G", "1G"));
    assert_ne!(other["rtmr1"]["patched"], report["rtmr1"]["patched"]);
    assert_eq!(other["rtmr1"]["unchanged"], report["rtmr1"]["unchanged"]);
    let unknown = folder.done(&line.replace("--memory 4G", ""));
    assert!(unknown["not_predicted"]["rtmr1, patched"].is_string());

    folder.write(
        "ccel",
        &ovmf::ccel(&[
            (1, 0x8000_000b, b"hand-off"),
            (1, 0x8000_000a, b"volume"),
            (1, 4, &[0; 4]),
            (1, 10, b"ACPI DATA"),
            (1, 10, b"ACPI DATA"),
            (1, 10, b"ACPI DATA"),
        ]),
    );
    let with_log = folder.done(&format!("{line} --event-log ccel"));
    assert!(is_hex(&with_log["rtmr0"]));
    let sources = with_log["events"].as_array().unwrap().iter().take(6);
    let sources: Vec<_> = sources
        .map(|event| event["source"].as_str().unwrap())
        .collect();
    assert_eq!(
        sources,
        [
            "computed", "computed", "recorded", "recorded", "recorded", "recorded"
        ]
    );
    fs::create_dir(folder.0.path().join("acpi")).unwrap();
    folder.write("acpi/table-loader", &ovmf::table_loader());
    for name in ["rsdp", "tables"] {
        folder.write(&format!("acpi/{name}"), name.as_bytes());
    }
    let dumped = folder.done(&format!("{line} --event-log ccel --acpi acpi"));
    assert_ne!(dumped["rtmr0"], with_log["rtmr0"]);
    let whats: Vec<_> = dumped["events"].as_array().unwrap()[3..6]
        .iter()
        .map(|event| (&event["what"], &event["source"]))
        .map(|(what, source)| (what.as_str().unwrap(), source.as_str().unwrap()))
        .collect();
    let names = ["ACPI table-loader", "ACPI RSDP", "ACPI tables"];
    assert_eq!(whats, names.map(|name| (name, "computed")));
    // Without a log, of a direct boot: the small firmware's volume is none that is known, so a word
    // is put where an empty store has it.
    let alone = format!("{line} --acpi acpi");
    let refused: Vec<_> = alone.split_whitespace().collect();
    folder.fails(
        &refused,
        "error: the firmware brings variables of its own: RTMR0 is not predicted without a log\n \
         hint: give --event-log of a boot of the same shape\n",
    );
    let mut empty = ovmf::firmware();
    empty[48..50].copy_from_slice(&72u16.to_le_bytes());
    empty[100..102].fill(0xff);
    folder.write("empty.fd", &empty);
    let alone = folder.done(&alone.replace("ovmf.fd", "empty.fd"));
    assert!(is_hex(&alone["rtmr0"]["menu_uiapp"]));
    let events = alone["events"].as_array().unwrap().iter();
    let zero: Vec<_> = events
        .filter(|event| event["register"] == "rtmr0")
        .collect();
    assert_eq!(zero.len(), 13);
    assert!(zero.iter().all(|event| event["source"] == "computed"));
    folder.write("acpi/table-loader", b"nothing");
    let words = format!("{line} --event-log ccel --acpi acpi");
    folder.fails(
        &words.split_whitespace().collect::<Vec<_>>(),
        "error: acpi/table-loader: 7 bytes are no script of QEMU's (etc/table-loader): its \
         entries have 128 each\n \
         hint: give a folder that `cloister-release dump-acpi` made, of a machine without that \
         device\n",
    );
}

#[test]
fn machines_are_measured_by_name() {
    let folder = Folder::new();
    let list = folder.done("--list");
    let machines = list["machines"].as_array().unwrap();
    assert!(
        machines
            .iter()
            .any(|machine| machine["name"] == "gcp-c3-standard-8")
    );
    // What nobody could confirm is marked, for machines and for people.
    let text = String::from_utf8(folder.run(&["--list"]).stdout).unwrap();
    let mut unconfirmed = 0;
    for machine in machines {
        for source in machine["sources"].as_array().unwrap() {
            let url = source["url"].as_str().unwrap();
            let fact = source["fact"].as_str().unwrap();
            let name = match source["confirmed"].as_bool().unwrap() {
                true => "source       ",
                false => "not confirmed",
            };
            assert!(text.contains(&format!("{name}  {fact}: {url}\n")), "{fact}");
            unconfirmed += usize::from(source["confirmed"] == false);
        }
    }
    assert!(unconfirmed > 0);
    assert!(text.contains("not measured   the NitroTPM, which stands outside the TEE"));
    assert!(text.contains("not measured   RTMR0 to RTMR3: they are zero on Azure"));
    let named = folder.done("--machine aws-m6a-xlarge --firmware ovmf.fd");
    let spelled = folder.done("--platform snp --vmm ec2 --vcpus 4 --firmware ovmf.fd");
    assert_eq!(named["launch_digest"], spelled["launch_digest"]);
    let notes = named["notes"].to_string();
    assert!(
        notes.contains("NitroTPM, which stands outside the TEE"),
        "{notes}"
    );
    let report = folder.done("--machine gcp-c3-standard-8 --firmware ovmf.fd");
    assert!(
        report["notes"]
            .to_string()
            .contains("MRTD: Google's firmware")
    );
}

/// The program may have 96 MiB of addresses, and each of the files is larger.
#[test]
fn memory_does_not_grow_with_what_is_measured() {
    use release::pe::{Image, SECTION_HEADER_BYTES};
    const BYTES: u64 = 128 << 20;
    let folder = Folder::new();
    // The last section of a file grows by nothing but zeros, which take no room on the disk.
    let grow = |name: &str, image: Vec<u8>| {
        let (mut head, parsed) = (image.clone(), Image::parse(&image).unwrap());
        let index = parsed.sections().len() - 1;
        let last = &parsed.sections()[index];
        assert_eq!(last.raw.end, image.len(), "{name}: {}", last.name);
        let bytes = BYTES - last.raw.start as u64;
        let at = parsed.headers().section_table + index * SECTION_HEADER_BYTES;
        common::put(&mut head, at + 8, u32::try_from(bytes).unwrap());
        common::put(&mut head, at + 16, u32::try_from(bytes).unwrap());
        folder.write(name, &head);
        let file = fs::File::options()
            .write(true)
            .open(folder.0.path().join(name));
        file.unwrap().set_len(BYTES).unwrap();
    };
    grow("large-vmlinuz", ovmf::kernel());
    let uki = common::uki();
    let image = Image::parse(&uki).unwrap();
    let contents = |name| (name, image.contents(image.section(name).unwrap()).unwrap());
    let names = [".osrel", ".cmdline", ".initrd", ".uname", ".sbat", ".linux"];
    grow("large.efi", common::pe(&names.map(contents), 0));
    let limited = |line: &str| {
        let program = env!("CARGO_BIN_EXE_cloister-release");
        let output = Command::new("sh")
            .args([
                "-c",
                "ulimit -v 98304; exec \"$0\" measure --json $1",
                program,
                line,
            ])
            .env("MALLOC_ARENA_MAX", "1")
            .current_dir(folder.0.path())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let direct = "--firmware ovmf.fd --kernel large-vmlinuz --initrd large.efi --memory 4G";
    let snp = direct.replace(" --memory 4G", "");
    let snp = limited(&format!("--platform snp --vcpus 1 --vcpu-type EPYC {snp}"));
    assert_eq!(snp["inputs"]["kernel"]["bytes"], BYTES);
    let tdx = limited(&format!("--platform tdx {direct}"));
    assert!(is_hex(&tdx["rtmr1"]["patched"]) && is_hex(&tdx["rtmr1"]["unchanged"]));
    let tpm = limited("--uki large.efi");
    assert_ne!(
        tpm["registers"],
        folder.done("--uki cloister.efi")["registers"]
    );
}

#[test]
fn an_id_block_is_made_and_its_digests_reported() {
    use p384::pkcs8::{EncodePrivateKey, LineEnding};
    let folder = Folder::new();
    for (name, byte) in [("id.pem", 1), ("author.pem", 2)] {
        let key = p384::SecretKey::from_slice(&[byte; 48]).unwrap();
        folder.write(name, key.to_pkcs8_pem(LineEnding::LF).unwrap().as_bytes());
    }
    let line = format!("{SNP} --id-block --id-key id.pem --author-key author.pem");
    let report = folder.done(&line);
    assert!(is_hex(&report["id_key_digest"]) && is_hex(&report["author_key_digest"]));
    assert_eq!(report["id_block"].as_str().unwrap().len(), 128);
    assert_eq!(report["id_auth"].as_str().unwrap().len(), 5464);
    let family = "0123456789abcdef0123456789abcdef";
    let named = folder.done(&format!("{line} --family-id {family} --guest-svn 7"));
    assert_ne!(named["id_block"], report["id_block"]);
    assert_eq!(named["id_key_digest"], report["id_key_digest"]);
    let words: Vec<_> = SNP.split_whitespace().chain(["--id-block"]).collect();
    folder.fails(
        &words,
        "error: --id-key is missing, which snp needs\n \
         hint: see `cloister-release measure --help` for an example\n",
    );
    let words: Vec<_> = words.into_iter().chain(["--id-key", "initrd"]).collect();
    let same = line.replace("author.pem", "id.pem");
    folder.fails(
        &same.split_whitespace().collect::<Vec<_>>(),
        "error: the ID key and the author's key are the same: an author's key signs other keys\n \
         hint: leave --author-key out, or give the author's own\n",
    );
    let reserved = format!("{line} --guest-policy 0x4030000");
    folder.fails(
        &reserved.split_whitespace().collect::<Vec<_>>(),
        "error: the policy 0x4030000 has bits above 25, which have no meaning and must be zero\n \
         hint: give the --guest-policy of the launch, such as 0x30000\n",
    );
    folder.fails(
        &words,
        "error: initrd: it holds no P-384 private key in PEM (PKCS#8 or SEC 1)\n \
         hint: make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384\n",
    );
}
