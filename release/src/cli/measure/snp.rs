//! `measure --platform snp`.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use attest::Digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use release::measure::boot::Artifact;
use release::measure::firmware::{Firmware, MAX_FIRMWARE_BYTES};
use release::measure::id_block::{DEFAULT_POLICY, IdBlock, IdBlockError, IdKey, Identity, KeyFile};
use release::measure::kernel_hashes::KernelHashes;
use release::measure::linux;
use release::measure::machines::Platform;
use release::measure::snp::{GuestFeatures, Launch, LaunchError, Shape, Vmm};
use serde_json::json;

use super::super::failure::{Failure, MISUSE};
use super::options::{self, Options};
use super::table::Table;
use super::{MeasureArguments, Outcome, artifact, read};

/// Largest file of a key.
const MAX_KEY_BYTES: usize = 1 << 16;

pub(super) fn run(arguments: &MeasureArguments, options: &Options) -> Outcome {
    let mut table = Table::default();
    let vcpus = options::required(Platform::Snp, "--vcpus", options.vcpus)?;
    let vmm = options.vmm.unwrap_or(Vmm::Qemu);
    let cpu = match (options.cpu, vmm) {
        (None, Vmm::Qemu) => options::required(Platform::Snp, "--vcpu-type", None)?,
        // The type is not measured there.
        (cpu, _) => cpu.unwrap_or_default(),
    };
    let launch = launch(arguments, &mut table)?;
    let hashes = kernel_hashes(arguments, &mut table)?;
    let shape = Shape {
        vmm,
        vcpus: vcpus.last,
        cpu,
        features: arguments.guest_features.unwrap_or(GuestFeatures::SNP),
        hashes,
    };
    let digests = launch.table(&shape)?;
    describe(&mut table, &shape, options);
    // The first digest is that of one vCPU.
    let wanted = (1..)
        .zip(digests)
        .filter(|(number, _)| *number >= vcpus.first);
    show(&mut table, &launch, wanted.collect());
    if arguments.id_block {
        if vcpus.first != vcpus.last {
            return Err(Failure::new(
                MISUSE,
                &ManyDigests,
                "give one number of --vcpus",
            ));
        }
        id_block(arguments, launch.digest(&shape)?, &mut table)?;
    }
    if hashes.is_none() && launch.takes_kernel() {
        table.note("kernel, initrd and command line are not measured: no --kernel was given");
    }
    if hashes.is_some() && vmm != Vmm::Qemu {
        table.note(format!(
            "{vmm} hands over no kernel hashes: no machine that it starts today has this digest"
        ));
    }
    table.machine(options.machine);
    for note in options.not_measured(arguments) {
        table.note(note);
    }
    Ok(table.report())
}

#[derive(Debug, thiserror::Error)]
#[error("an ID block names one launch digest, and a range of vCPUs has many")]
struct ManyDigests;

fn launch(arguments: &MeasureArguments, table: &mut Table) -> Result<Launch, Failure> {
    let path = options::required(Platform::Snp, "--firmware", arguments.firmware.as_ref())?;
    let bytes = read(path, MAX_FIRMWARE_BYTES)?;
    table.file("firmware", path, &Artifact::of(&bytes));
    let firmware = parse(path, &bytes)?;
    match &arguments.svsm {
        None => Launch::new(&firmware).map_err(|error| unusable(path, &error)),
        Some(svsm_path) => {
            let svsm = read(svsm_path, MAX_FIRMWARE_BYTES)?;
            table.file("SVSM", svsm_path, &Artifact::of(&svsm));
            let variables = arguments.svsm_variables.unwrap_or_default();
            let text = format!("{variables} bytes");
            table.input("SVSM variables", &text, variables.into());
            let svsm = parse(svsm_path, &svsm)?;
            Launch::with_svsm(&firmware, &svsm, variables)
                .map_err(|error| unusable(svsm_path, &error))
        }
    }
}

fn parse<'a>(path: &Path, bytes: &'a [u8]) -> Result<Firmware<'a>, Failure> {
    Firmware::parse(bytes).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &(dyn std::error::Error + 'static)) -> Failure {
    let hint = "give the very file that the VM starts with, such as OVMF.amdsev.fd";
    Failure::input(path, error, hint)
}

fn kernel_hashes(
    arguments: &MeasureArguments,
    table: &mut Table,
) -> Result<Option<KernelHashes>, Failure> {
    let Some(path) = &arguments.kernel else {
        return Ok(None);
    };
    let (kernel, file) = artifact(path)?;
    table.file("kernel", path, &kernel);
    if !has_boot_header(&file) {
        table.note("the kernel has no boot header (\"HdrS\" at 0x202): QEMU would not boot it");
    }
    let initrd = match &arguments.initrd {
        Some(path) => {
            let (initrd, _) = artifact(path)?;
            table.file("initrd", path, &initrd);
            Some(initrd.sha256)
        }
        None => None,
    };
    let command_line = options::command_line(arguments);
    let text = command_line.as_str();
    table.input("command line", text, text.into());
    Ok(Some(KernelHashes::new(
        kernel.sha256,
        initrd,
        &command_line,
    )))
}

/// Whether the beginning of a file is that of a kernel; a file that cannot be read has none.
fn has_boot_header(mut kernel: &File) -> bool {
    let mut head = Vec::new();
    let start = kernel.rewind();
    let read = start.and_then(|()| kernel.take(1 << 17).read_to_end(&mut head));
    read.is_ok() && linux::check(&head).is_ok()
}

fn describe(table: &mut Table, shape: &Shape, options: &Options) {
    table.line("platform", "snp");
    table.line("vmm", &shape.vmm.to_string());
    let vcpus = options
        .vcpus
        .map(|range| range.to_string())
        .unwrap_or_default();
    let cpu = shape.cpu;
    let signature = format!("{:#010x}", cpu.signature());
    let text = match shape.vmm {
        Vmm::Qemu => format!("{vcpus} of {cpu} (signature {signature})"),
        Vmm::Ec2 | Vmm::Gce => format!("{vcpus}; their type is not measured"),
    };
    let value = json!({ "number": vcpus, "type": cpu.to_string(), "signature": signature });
    table.input("vCPUs", &text, value);
    let features = shape.features.to_string();
    table.input("guest features", &features, features.as_str().into());
}

fn show(table: &mut Table, launch: &Launch, digests: Vec<(u16, Digest<48>)>) {
    if let [(_, digest)] = &digests[..] {
        table.line("launch digest", &digest.to_string());
    } else {
        for (vcpus, digest) in &digests {
            table.text_line(&format!("{vcpus} vCPUs"), &digest.to_string());
        }
        let all = digests
            .iter()
            .map(|(vcpus, digest)| json!({ "vcpus": vcpus, "launch_digest": digest }));
        table.value("launch_digests", all.collect());
    }
    table.line("firmware digest", &launch.firmware_digest().to_string());
    let sections = launch.sections().iter().map(|section| {
        json!({
            "address": format!("{:#x}", section.address),
            "bytes": section.bytes,
            "kind": section.kind.to_string(),
        })
    });
    table.value("sections", sections.collect());
}

fn id_block(
    arguments: &MeasureArguments,
    digest: Digest<48>,
    table: &mut Table,
) -> Result<(), Failure> {
    let key = |path: &std::path::PathBuf| {
        let pem = KeyFile::from(read(path, MAX_KEY_BYTES)?);
        IdKey::from_pem(&pem).map_err(|error| {
            let hint = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384";
            Failure::input(path, &error, hint)
        })
    };
    let path = options::required(Platform::Snp, "--id-key", arguments.id_key.as_ref())?;
    let id_key = key(path)?;
    let author_key = arguments.author_key.as_ref().map(key).transpose()?;
    let identity = Identity {
        family: arguments.family_id.unwrap_or_default().0,
        image: arguments.image_id.unwrap_or_default().0,
        security_version: arguments.guest_svn.unwrap_or_default(),
        policy: arguments.guest_policy.unwrap_or(DEFAULT_POLICY),
    };
    let made = IdBlock::sign(digest, &identity, &id_key, author_key.as_ref());
    let made = made.map_err(|error| {
        let hint = match &error {
            IdBlockError::SameKey => "leave --author-key out, or give the author's own",
            _ => "give the --guest-policy of the launch, such as 0x30000",
        };
        Failure::new(MISUSE, &error, hint)
    })?;
    table.line("id block", &STANDARD.encode(made.block));
    let authentication = STANDARD.encode(&made.authentication[..]);
    table.value("id_auth", authentication.into());
    table.text_line("id auth", "4096 bytes; --json shows them in base64");
    table.line("id key digest", &made.id_key_digest.to_string());
    if let Some(digest) = made.author_key_digest {
        table.line("author key digest", &digest.to_string());
    }
    table.line("guest policy", &format!("{:#x}", identity.policy));
    Ok(())
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        let hint = match &error {
            LaunchError::Vcpus(_) => "give --vcpus 1 to 512",
            LaunchError::NoReset => "give --vcpus 1, or a firmware that starts more",
            LaunchError::NoKernelHashes => {
                "leave --kernel out, or give a firmware such as OVMF.amdsev.fd"
            }
            LaunchError::SvsmVmm(_) => "give --vmm qemu, or leave --svsm out",
            LaunchError::SvsmKernel => "leave --kernel out, or --svsm",
        };
        Self::new(MISUSE, &error, hint)
    }
}
