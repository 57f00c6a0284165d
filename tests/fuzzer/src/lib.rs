//! All fuzz targets of the house, each with genuine input to begin with.
//!
//! A target is a file `ROOM/fuzz/fuzz_targets/NAME.rs` in the words of libFuzzer's crate, and one
//! line of the list below. The ordinary tests run each target on its seeds and on some changes of
//! them; `make fuzz` runs the same functions under libFuzzer, which sees the branches that ran.

// The targets' files stand as modules of this crate, which gives them the macro they ask for.
extern crate self as libfuzzer_sys;

mod seeds;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

/// A target's file becomes a module with one function.
#[macro_export]
macro_rules! fuzz_target {
    (|$bytes:ident: &[u8]| $body:expr) => {
        pub(crate) fn run($bytes: &[u8]) {
            $body;
        }
    };
    (|$text:ident: &str| $body:expr) => {
        pub(crate) fn run(bytes: &[u8]) {
            if let Ok($text) = std::str::from_utf8(bytes) {
                $body;
            }
        }
    };
    (|$pair:ident: (&[u8], &[u8])| $body:expr) => {
        pub(crate) fn run(bytes: &[u8]) {
            let $pair = bytes.split_at(bytes.len() / 2);
            $body;
        }
    };
}

/// A function over foreign bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// ROOM-NAME.
    pub name: &'static str,
    /// What panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Genuine input.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($module:ident $name:literal $path:literal $seeds:ident;)*) => {
        $(#[path = $path] mod $module;)*
        /// All of them.
        pub const TARGETS: &[Target] =
            &[$(Target { name: $name, run: $module::run, seeds: seeds::$seeds }),*];
    };
}

targets! {
    a1 "agent-release_partition" "../../../agent/fuzz/fuzz_targets/release_partition.rs" partition;
    a2 "agent-request" "../../../agent/fuzz/fuzz_targets/request.rs" request;
    a3 "agent-tpm" "../../../agent/fuzz/fuzz_targets/tpm.rs" tpm_answers;
    b1 "attest-bundle" "../../../attest/fuzz/fuzz_targets/bundle.rs" bundle;
    b2 "attest-cbor" "../../../attest/fuzz/fuzz_targets/cbor.rs" evidence;
    b3 "attest-certificate" "../../../attest/fuzz/fuzz_targets/certificate.rs" certificate;
    b4 "attest-checkpoint" "../../../attest/fuzz/fuzz_targets/checkpoint.rs" checkpoint;
    b5 "attest-cloud_verify" "../../../attest/fuzz/fuzz_targets/cloud_verify.rs" cloud_verify;
    b6 "attest-configuration" "../../../attest/fuzz/fuzz_targets/configuration.rs" configuration;
    b7 "attest-eventlog" "../../../attest/fuzz/fuzz_targets/eventlog.rs" event_log;
    b8 "attest-evidence" "../../../attest/fuzz/fuzz_targets/evidence.rs" evidence;
    b9 "attest-file" "../../../attest/fuzz/fuzz_targets/file.rs" file;
    b10 "attest-google_certificate" "../../../attest/fuzz/fuzz_targets/google_certificate.rs"
        google_certificate;
    b11 "attest-gpu_file" "../../../attest/fuzz/fuzz_targets/gpu_file.rs" gpu_file;
    b12 "attest-gpu_manifest" "../../../attest/fuzz/fuzz_targets/gpu_manifest.rs" gpu_manifest;
    b13 "attest-gpu_opaque" "../../../attest/fuzz/fuzz_targets/gpu_opaque.rs" gpu_opaque;
    b14 "attest-gpu_report" "../../../attest/fuzz/fuzz_targets/gpu_report.rs" gpu_report;
    b15 "attest-gpu_verify" "../../../attest/fuzz/fuzz_targets/gpu_verify.rs" gpu_evidence;
    b16 "attest-hcl_report" "../../../attest/fuzz/fuzz_targets/hcl_report.rs" hcl_report;
    b17 "attest-ocsp" "../../../attest/fuzz/fuzz_targets/ocsp.rs" ocsp;
    b18 "attest-policy" "../../../attest/fuzz/fuzz_targets/policy.rs" policy;
    b19 "attest-quote" "../../../attest/fuzz/fuzz_targets/quote.rs" quote;
    b20 "attest-revocation_list" "../../../attest/fuzz/fuzz_targets/revocation_list.rs" revocation;
    b21 "attest-snp_certificate" "../../../attest/fuzz/fuzz_targets/snp_certificate.rs" vcek;
    b22 "attest-snp_report" "../../../attest/fuzz/fuzz_targets/snp_report.rs" snp_report;
    b23 "attest-tdx_chain" "../../../attest/fuzz/fuzz_targets/tdx_chain.rs" tdx_collateral;
    b24 "attest-tdx_document" "../../../attest/fuzz/fuzz_targets/tdx_document.rs" tdx_document;
    b25 "attest-tdx_quote" "../../../attest/fuzz/fuzz_targets/tdx_quote.rs" tdx_quote;
    b26 "attest-verify" "../../../attest/fuzz/fuzz_targets/verify.rs" evidence;
    b27 "attest-vtpm_file" "../../../attest/fuzz/fuzz_targets/vtpm_file.rs" vtpm_file;
    b28 "attest-vtpm_quote" "../../../attest/fuzz/fuzz_targets/vtpm_quote.rs" vtpm_quote;
    c1 "channel-message_1" "../../../channel/fuzz/fuzz_targets/message_1.rs" zeros;
    c2 "channel-record" "../../../channel/fuzz/fuzz_targets/record.rs" zeros;
    c3 "channel-reply" "../../../channel/fuzz/fuzz_targets/reply.rs" zeros;
    d1 "inference-config" "../../../inference/fuzz/fuzz_targets/config.rs" model_config;
    d2 "inference-safetensors" "../../../inference/fuzz/fuzz_targets/safetensors.rs" safetensors;
    d3 "inference-schema" "../../../inference/fuzz/fuzz_targets/schema.rs" schema;
    d4 "inference-template" "../../../inference/fuzz/fuzz_targets/template.rs" template;
    d5 "inference-tokenizer" "../../../inference/fuzz/fuzz_targets/tokenizer.rs" tokenizer;
    d6 "inference-tool_calls" "../../../inference/fuzz/fuzz_targets/tool_calls.rs" tool_calls;
    e1 "release-acpi" "../../../release/fuzz/fuzz_targets/acpi.rs" acpi;
    e2 "release-bundle" "../../../release/fuzz/fuzz_targets/bundle.rs" bundle;
    e3 "release-cpio" "../../../release/fuzz/fuzz_targets/cpio.rs" cpio;
    e4 "release-differ" "../../../release/fuzz/fuzz_targets/differ.rs" differ;
    e5 "release-disk" "../../../release/fuzz/fuzz_targets/disk.rs" disk;
    e6 "release-eventlog" "../../../release/fuzz/fuzz_targets/eventlog.rs" event_log;
    e7 "release-explain" "../../../release/fuzz/fuzz_targets/explain.rs" explain;
    e8 "release-firmware" "../../../release/fuzz/fuzz_targets/firmware.rs" firmware;
    e9 "release-id_key" "../../../release/fuzz/fuzz_targets/id_key.rs" id_key;
    e10 "release-kernel" "../../../release/fuzz/fuzz_targets/kernel.rs" kernel;
    e11 "release-locks" "../../../release/fuzz/fuzz_targets/locks.rs" manifest;
    e12 "release-log" "../../../release/fuzz/fuzz_targets/log.rs" log;
    e13 "release-pe" "../../../release/fuzz/fuzz_targets/pe.rs" pe;
    e14 "release-sigstore" "../../../release/fuzz/fuzz_targets/sigstore.rs" sigstore;
    e15 "release-svsm" "../../../release/fuzz/fuzz_targets/svsm.rs" svsm;
    e16 "release-uki" "../../../release/fuzz/fuzz_targets/uki.rs" uki;
    f1 "verity-boot" "../../../verity/fuzz/fuzz_targets/boot.rs" command_line;
    f2 "verity-gpt" "../../../verity/fuzz/fuzz_targets/gpt.rs" disk;
    f3 "verity-superblock" "../../../verity/fuzz/fuzz_targets/superblock.rs" superblock;
    f4 "verity-volume_ref" "../../../verity/fuzz/fuzz_targets/volume_ref.rs" volume;
}

static CHOSEN: OnceLock<fn(&[u8])> = OnceLock::new();

/// What the fuzzing program does before anything else: `CLOISTER_SEEDS` names a folder that gets
/// the seeds of every target, and then it ends; `CLOISTER_TARGET` names the target to run.
pub fn start() {
    if let Some(folder) = std::env::var_os("CLOISTER_SEEDS") {
        if let Err(error) = write_seeds(Path::new(&folder)) {
            panic!("cannot write seeds to {}: {error}", folder.display());
        }
        std::process::exit(0);
    }
    let name = std::env::var("CLOISTER_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|target| target.name == name) {
        Some(target) => CHOSEN.set(target.run).unwrap_or_default(),
        None => panic!("CLOISTER_TARGET is {name:?}, and no target is called so"),
    }
}

/// Runs the chosen target.
pub fn run(bytes: &[u8]) {
    if let Some(run) = CHOSEN.get() {
        run(bytes);
    }
}

fn write_seeds(folder: &Path) -> io::Result<()> {
    for target in TARGETS {
        let place = folder.join(target.name);
        fs::create_dir_all(&place)?;
        for (number, seed) in (target.seeds)().iter().enumerate() {
            fs::write(place.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in a folder of targets is run: a file that is not in the list is a fault.
    #[test]
    fn every_target_of_every_room_is_in_the_list() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut found = Vec::new();
        for room in fs::read_dir(root).unwrap().flatten() {
            let files = fs::read_dir(room.path().join("fuzz/fuzz_targets"));
            for file in files.into_iter().flatten().flatten() {
                let (room, path) = (room.file_name(), file.path());
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                found.push(format!("{}-{name}", room.to_string_lossy()));
            }
        }
        found.sort();
        let listed: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn every_target_takes_its_seeds_and_changes_of_them() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{}", target.name);
            for seed in seeds {
                signer::fuzz::mutate(&seed, 20, target.run);
            }
        }
    }
}
