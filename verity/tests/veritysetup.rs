//! The hash area is bit for bit what `veritysetup format` writes, and each tool accepts the
//! other's volumes.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not see as tests

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::reference;
use verity::tree::{self, Area};
use verity::{Guid, VolumeRef};

mod common;

const SALT: [u8; 32] = *b"0123456789abcdef0123456789ABCDEF";
const UUID: &str = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";

/// A sparse file of `blocks` blocks with a few bytes at its start, its end and in between.
fn data_file(folder: &Path, blocks: u64) -> File {
    let path = folder.join("data");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    file.set_len(blocks * 4096).unwrap();
    for (index, at) in [0, blocks / 3, blocks / 2, blocks - 1]
        .into_iter()
        .enumerate()
    {
        file.write_all_at(&[index as u8 + 1; 100], at * 4096 + 7)
            .unwrap();
    }
    file
}

fn ours(folder: &Path, data: &File, blocks: u64) -> (VolumeRef, File) {
    let path = folder.join("ours");
    let hash = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let uuid: Guid = UUID.parse().unwrap();
    let (data, area) = (Area::whole(data), Area::whole(&hash));
    let volume = tree::format(data, blocks * 4096, area, SALT, Some(uuid), &|_| {}).unwrap();
    (volume, hash)
}

fn theirs(folder: &Path) -> (String, Vec<u8>) {
    let salt: String = SALT.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = reference("veritysetup")
        .unwrap()
        .arg("format")
        .args([folder.join("data"), folder.join("theirs")])
        .args(["--salt", &salt, "--uuid", UUID])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    let root = text
        .lines()
        .find_map(|line| line.strip_prefix("Root hash:"))
        .unwrap();
    (
        root.trim().to_owned(),
        fs::read(folder.join("theirs")).unwrap(),
    )
}

/// Without the tool: nothing, and a line that says so.
fn compare(blocks: u64) {
    if reference("veritysetup").is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = data_file(folder.path(), blocks);
    let (volume, hash) = ours(folder.path(), &data, blocks);
    let (root, mut expected) = theirs(folder.path());
    assert!(
        volume.to_string().contains(&root),
        "{blocks} blocks: {volume}, not {root}"
    );
    let written = fs::read(folder.path().join("ours")).unwrap();
    assert_eq!(written.len() as u64, tree::hash_area_bytes(blocks));
    expected.resize(written.len().max(expected.len()), 0); // a lone superblock has 512 bytes
    assert!(
        written == expected,
        "{blocks} blocks: the hash areas differ"
    );
    tree::verify(&volume, Area::whole(&data), Area::whole(&hash), &|_| {}).unwrap();
    if blocks < 100_000 {
        accepted(folder.path(), &root);
    }
}

/// `veritysetup` verifies what we wrote.
fn accepted(folder: &Path, root: &str) {
    let output = reference("veritysetup")
        .unwrap()
        .arg("verify")
        .args([folder.join("data"), folder.join("ours")])
        .arg(root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn small_volumes_are_identical() {
    // Around one and two full blocks of digests, full chunks, and full second levels.
    for blocks in [
        1, 2, 3, 127, 128, 129, 255, 256, 257, 300, 511, 513, 16383, 16384, 16385,
    ] {
        compare(blocks);
    }
}

#[test]
fn a_volume_of_gigabytes_is_identical() {
    compare((2 << 30) / 4096 + 77);
}

#[test]
#[ignore = "8 GiB with four levels: a minute; run it when the tree changes"]
fn a_volume_of_four_levels_is_identical() {
    compare(128 * 128 * 128 + 1);
}
