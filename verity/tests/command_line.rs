//! The program `cloister-verity` as people meet it: exact messages and exit codes.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not see as tests

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

/// Runs the program in `folder`.
fn run(folder: &Path, arguments: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-verity"));
    let output = command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
fn refused(folder: &Path, arguments: &[&str], code: i32, stderr: &str) {
    let outcome = run(folder, arguments);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (code, stderr));
    assert_eq!(outcome.stdout, "");
}

fn folder_with_data(blocks: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let data = File::create(folder.path().join("data")).unwrap();
    data.set_len(blocks * 4096).unwrap();
    folder
}

const SALT: &str = "00000000000000000000000000000000000000000000000000000000000000aa";

#[test]
fn format_verify_and_dump_agree() {
    let folder = folder_with_data(200);
    let folder = folder.path();
    let formatted = run(
        folder,
        &["format", "data", "hash", "--salt", SALT, "--json"],
    );
    assert_eq!((formatted.code, formatted.stderr.as_str()), (0, ""));
    let report: Value = serde_json::from_str(&formatted.stdout).unwrap();
    let volume = report["volume"].as_str().unwrap();
    assert!(volume.ends_with(&format!(":{SALT}:200")));
    let verified = run(folder, &["verify", volume, "data", "hash"]);
    assert_eq!(verified.code, 0);
    assert!(
        verified
            .stdout
            .starts_with("verified: 200 blocks, root hash ")
    );
    let dumped = run(folder, &["dump", "hash", "--json"]);
    let report: Value = serde_json::from_str(&dumped.stdout).unwrap();
    assert_eq!(report["superblock"]["salt"], SALT);
    assert_eq!(report["superblock"]["hash_blocks"], 3);

    let data = File::options()
        .write(true)
        .open(folder.join("data"))
        .unwrap();
    data.write_all_at(b"x", 150 * 4096).unwrap();
    refused(
        folder,
        &["verify", volume, "data", "hash"],
        2,
        "cloister-verity: data is not the volume: data block 150 is corrupted\n  \
         Do not use it. Make it anew, or get it again and check the reference.\n",
    );
    data.set_len(100).unwrap();
    assert_eq!(run(folder, &["verify", volume, "data", "hash"]).code, 2);
}

#[test]
fn a_random_salt_makes_each_volume_different() {
    let folder = folder_with_data(1);
    let once = run(folder.path(), &["format", "data", "hash"]).stdout;
    assert_ne!(once, run(folder.path(), &["format", "data", "hash"]).stdout);
}

#[test]
fn each_mistake_gets_its_line_and_its_code() {
    let folder = folder_with_data(1);
    let folder = folder.path();
    fs::write(folder.join("partial"), [0; 5000]).unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    let volume = format!("verity1:{}:{SALT}:1", "ab".repeat(32));
    refused(
        folder,
        &["format", "absent", "hash"],
        3,
        "cloister-verity: cannot open absent: No such file or directory (os error 2)\n",
    );
    refused(
        folder,
        &["format", "data", "./data"],
        1,
        "cloister-verity: data is both data and hash tree\n",
    );
    refused(
        folder,
        &["format", "partial", "hash"],
        1,
        "cloister-verity: cannot format partial: the data has 5000 bytes, which is no multiple of \
         4096\n  Fill the data up to whole blocks: truncate --size=%4096 FILE.\n",
    );
    refused(
        folder,
        &["verify", &volume, "data"],
        2,
        "cloister-verity: data does not hold the volume's data partition\n  The image holds \
         another volume, or is none: cloister-verity dump shows which.\n",
    );
    refused(
        folder,
        &["dump", "data"],
        1,
        "cloister-verity: data holds neither a verity superblock nor a partition table\n",
    );
    refused(
        folder,
        &["pack", "empty", "--output", "image"],
        1,
        "cloister-verity: empty is no model: no `config.json` in the folder\n  Give a folder in \
         Hugging Face format: config.json, tokenizer.json, *.safetensors.\n",
    );
}

#[test]
fn wrong_arguments_are_misuse_and_help_is_not() {
    let folder = folder_with_data(1);
    let outcome = run(folder.path(), &["verify", "verity1:00", "data"]);
    assert_eq!(outcome.code, 1);
    assert!(
        outcome
            .stderr
            .contains("a volume reference has a root hash, a salt and a block")
    );
    assert_eq!(run(folder.path(), &[]).code, 1);
    let help = run(folder.path(), &["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("Exit codes:"));
}
