//! Launch digests of SEV-SNP against those of others: 288 of a reference tool, one that a processor
//! has signed, and the published ones of small firmwares and of an SVSM. The files are shared
//! vectors; where they are absent a test says that it is skipped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use attest::Digest;
use release::measure::boot::{Artifact, CommandText};
use release::measure::firmware::Firmware;
use release::measure::kernel_hashes::KernelHashes;
use release::measure::sev::{Layout, Section, SectionKind};
use release::measure::snp::{GuestFeatures, Launch, LaunchError, Shape, Vmm};
use serde_json::Value;

fn vector(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/vectors")
        .join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("SKIPPED, not tested: {} is absent", path.display());
    None
}

fn read(name: &str) -> Option<Vec<u8>> {
    Some(fs::read(vector(name)?).unwrap())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn shape(vcpus: u16, hashes: Option<KernelHashes>) -> Shape {
    Shape {
        vmm: Vmm::Qemu,
        vcpus,
        cpu: "EPYC-v4".parse().unwrap(),
        features: GuestFeatures::SNP,
        hashes,
    }
}

/// Hashes of an empty kernel and initrd.
fn empty(command_line: &str) -> KernelHashes {
    let nothing = Artifact::of(b"").sha256;
    KernelHashes::new(nothing, None, &command_line.parse().unwrap())
}

#[test]
fn all_digests_of_the_reference_tool_are_predicted() {
    let Some(reference) = read("snp-measure-ref/ovmf-amdsev-2026.08.json") else {
        return;
    };
    let reference: Value = serde_json::from_slice(&reference).unwrap();
    let firmware = read("snp-measure-ref/OVMF.amdsev.fd").unwrap();
    let launch = Launch::new(&Firmware::parse(&firmware).unwrap()).unwrap();
    assert_eq!(
        launch.firmware_digest().to_string(),
        text(&reference["ovmf_hash"])
    );
    let artifact = |name| {
        let file = fs::File::open(vector(name).unwrap()).unwrap();
        Artifact::read(file).unwrap()
    };
    let kernel = artifact("snp-measure-ref/kernel.bin");
    let initrd = artifact("snp-measure-ref/initrd.bin");
    assert_eq!(kernel.sha256.to_string(), text(&reference["kernel_sha256"]));
    let command_line: CommandText = text(&reference["cmdline"]).parse().unwrap();
    let hashes = KernelHashes::new(kernel.sha256, Some(initrd.sha256), &command_line);
    let results = reference["results"].as_array().unwrap();
    for result in results {
        let number = |name: &str| result[name].as_u64().unwrap();
        let shape = Shape {
            vmm: text(&result["vmm"]).parse().unwrap(),
            vcpus: number("vcpus").try_into().unwrap(),
            cpu: text(&result["vcpu_type"]).parse().unwrap(),
            features: GuestFeatures::new(number("guest_features")).unwrap(),
            hashes: result["kernel_hashes"].as_bool().unwrap().then_some(hashes),
        };
        let digest = launch.digest(&shape).unwrap().to_string();
        assert_eq!(digest, text(&result["launch_digest"]), "{shape:?}");
    }
    assert_eq!(results.len(), 288);
}

#[test]
fn the_digest_that_a_processor_signed_is_predicted() {
    let Some(inputs) = read("dstack/sev_snp_launch_inputs.json") else {
        return;
    };
    let inputs: Value = serde_json::from_slice(&inputs).unwrap();
    let inputs = &inputs["measurement_input"];
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let section = |section: &Value| Section {
        address: number(&section["gpa"]),
        bytes: number(&section["size"]),
        kind: SectionKind::from_number(number(&section["section_type"])).unwrap(),
    };
    let sections = inputs["ovmf_sections"].as_array().unwrap();
    let layout = Layout {
        sections: sections.iter().map(section).collect(),
        hashes_table: Some(number(&inputs["sev_hashes_table_gpa"])),
        reset_address: Some(number(&inputs["sev_es_reset_eip"])),
    };
    let firmware_digest = text(&inputs["ovmf_hash"]).parse().unwrap();
    let launch = Launch::of_digest(firmware_digest, layout).unwrap();
    let command_line = text(&inputs["base_cmdline"]).parse().unwrap();
    let kernel = text(&inputs["kernel_hash"]).parse().unwrap();
    let initrd = text(&inputs["initrd_hash"]).parse().unwrap();
    let hashes = KernelHashes::new(kernel, Some(initrd), &command_line);
    let digest = launch.digest(&shape(2, Some(hashes))).unwrap();
    let report = read("dstack/sev_snp_report_1184.bin").unwrap();
    assert_eq!(digest.as_ref(), &report[0x90..0xc0]);
}

#[test]
fn published_digests_of_small_firmwares_are_predicted() {
    let Some(amd_sev) = read("sev-snp-measure/ovmf_AmdSev_suffix.bin") else {
        return;
    };
    let amd_sev = Launch::new(&Firmware::parse(&amd_sev).unwrap()).unwrap();
    let x64 = read("sev-snp-measure/ovmf_OvmfX64_suffix.bin").unwrap();
    let x64 = Launch::new(&Firmware::parse(&x64).unwrap()).unwrap();
    let features = |bits| GuestFeatures::new(bits).unwrap();
    let cases = [
        (
            &amd_sev,
            Vmm::Qemu,
            1,
            0x21,
            Some("console=ttyS0 loglevel=7"),
            "803f6910",
        ),
        (
            &amd_sev,
            Vmm::Qemu,
            1,
            0x01,
            Some("console=ttyS0 loglevel=7"),
            "6d287813",
        ),
        (&amd_sev, Vmm::Qemu, 1, 0x21, None, "e1e1ca02"),
        (&amd_sev, Vmm::Qemu, 1, 0x01, None, "19358ba9"),
        (&amd_sev, Vmm::Qemu, 4, 0x21, Some(""), "4953b1fb"),
        (&amd_sev, Vmm::Qemu, 4, 0x01, Some(""), "5061fffb"),
        (&amd_sev, Vmm::Ec2, 1, 0x21, Some(""), "0ce9ccc0"),
        (&amd_sev, Vmm::Ec2, 1, 0x01, Some(""), "0883bd0e"),
        (&amd_sev, Vmm::Gce, 1, 0x01, Some(""), "5da7106c"),
        (&amd_sev, Vmm::Gce, 4, 0x01, Some(""), "5c5debf1"),
        (&x64, Vmm::Qemu, 1, 0x21, None, "28797ae0"),
        (&x64, Vmm::Qemu, 1, 0x01, None, "da0296de"),
    ];
    for (launch, vmm, vcpus, bits, command_line, expected) in cases {
        let shape = Shape {
            vmm,
            features: features(bits),
            ..shape(vcpus, command_line.map(empty))
        };
        let digest = launch.digest(&shape).unwrap().to_string();
        assert!(digest.starts_with(expected), "{shape:?}: {digest}");
    }
    let refused = x64.digest(&shape(1, Some(empty(""))));
    assert_eq!(refused, Err(LaunchError::NoKernelHashes));
}

#[test]
fn published_digests_of_an_svsm_are_predicted() {
    let Some(firmware) = read("sev-snp-measure/svsm_ovmf.fd") else {
        return;
    };
    let svsm = read("sev-snp-measure/svsm.bin").unwrap();
    let firmware = Firmware::parse(&firmware).unwrap();
    let svsm = Firmware::parse(&svsm).unwrap();
    let launch = Launch::with_svsm(&firmware, &svsm, 540_672).unwrap();
    let digests = launch.table(&shape(4, None)).unwrap();
    let expected = |digest: &Digest<48>, text| assert!(digest.to_string().starts_with(text));
    expected(&digests[1], "9b94745036aafddf4f7f8b00c7513abb");
    expected(&digests[3], "27d154c27b7b359c935e250ec6fee72a");
    let refused = launch.digest(&Shape {
        vmm: Vmm::Ec2,
        ..shape(1, None)
    });
    assert_eq!(refused, Err(LaunchError::SvsmVmm(Vmm::Ec2)));
    let refused = launch.digest(&shape(1, Some(empty(""))));
    assert_eq!(refused, Err(LaunchError::SvsmKernel));
}

#[test]
fn a_table_holds_the_digest_of_each_number_of_vcpus() {
    // A firmware of 4 MiB without anything but metadata, so that this needs no vectors.
    let layout = Layout {
        sections: vec![Section {
            address: 0x80_0000,
            bytes: 0x9000,
            kind: SectionKind::Memory,
        }],
        hashes_table: None,
        reset_address: Some(0x80_b004),
    };
    let launch = Launch::of_digest(Digest::ZERO, layout).unwrap();
    let table = launch.table(&shape(512, None)).unwrap();
    assert_eq!(table.len(), 512);
    for vcpus in [1, 2, 3, 511, 512u16] {
        let one = launch.digest(&shape(vcpus, None)).unwrap();
        assert_eq!(table[usize::from(vcpus) - 1], one, "{vcpus}");
    }
    assert_eq!(launch.digest(&shape(0, None)), Err(LaunchError::Vcpus(0)));
    assert_eq!(
        launch.digest(&shape(513, None)),
        Err(LaunchError::Vcpus(513))
    );
}
