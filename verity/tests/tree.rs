//! What a volume's name promises, and how a broken promise is found.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not see as tests

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use verity::VolumeRef;
use verity::tree::{self, Area, FormatError, VerifyError};

const SALT: [u8; 32] = [7; 32];
/// Two levels, more than one chunk, a last chunk that is not full.
const BLOCKS: u64 = 700;

struct Volume {
    data: File,
    hash: File,
    name: VolumeRef,
}

fn volume(blocks: u64) -> Volume {
    let data = tempfile::tempfile().unwrap();
    let hash = tempfile::tempfile().unwrap();
    let bytes: Vec<u8> = (0..blocks * 4096)
        .map(|i| (i % 251) as u8 ^ (i / 4096) as u8)
        .collect();
    data.write_all_at(&bytes, 0).unwrap();
    let (area, hash_area) = (Area::whole(&data), Area::whole(&hash));
    let name = tree::format(area, blocks * 4096, hash_area, SALT, None, &|_| {}).unwrap();
    Volume { data, hash, name }
}

fn verify(volume: &Volume) -> Result<(), VerifyError> {
    let (data, hash) = (Area::whole(&volume.data), Area::whole(&volume.hash));
    tree::verify(&volume.name, data, hash, &|_| {})
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn a_flipped_bit_is_found_in_its_block() {
    for block in [0, 1, 255, 256, 512, 699] {
        let volume = volume(BLOCKS);
        flip(&volume.data, block * 4096 + 4095);
        flip(&volume.data, 699 * 4096); // a later one does not hide it
        let outcome = verify(&volume);
        assert!(
            matches!(outcome, Err(VerifyError::Data(found)) if found == block),
            "{outcome:?}"
        );
    }
}

#[test]
fn a_flipped_bit_in_the_tree_is_found_from_the_top() {
    let volume_ = volume(BLOCKS);
    flip(&volume_.hash, 4096); // top: level 1
    flip(&volume_.hash, 2 * 4096);
    assert!(matches!(
        verify(&volume_),
        Err(VerifyError::Hash { level: 1, block: 0 })
    ));
    let volume_ = volume(BLOCKS);
    flip(&volume_.hash, (2 + 5) * 4096 + 4095); // padding of the last block of level 0
    assert!(matches!(
        verify(&volume_),
        Err(VerifyError::Hash { level: 0, block: 5 })
    ));
}

#[test]
fn the_superblock_decides_nothing() {
    let volume = volume(BLOCKS);
    volume.hash.write_all_at(&[0xff; 4096], 0).unwrap();
    verify(&volume).unwrap();
}

#[test]
fn another_name_is_refused() {
    let mut volume = volume(BLOCKS);
    let (root, salt) = (*volume.name.root_hash(), *volume.name.salt());
    for (root, salt, blocks) in [([1; 32], salt, BLOCKS), (root, [1; 32], BLOCKS)] {
        volume.name = VolumeRef::new(root, salt, blocks).unwrap();
        assert!(matches!(
            verify(&volume),
            Err(VerifyError::Hash { level: 1, block: 0 })
        ));
    }
    // Fewer blocks make another tree, whose levels stand elsewhere.
    volume.name = VolumeRef::new(root, salt, 100).unwrap();
    assert!(verify(&volume).is_err());
}

#[test]
fn a_volume_that_was_cut_off_is_refused() {
    let cut_data = volume(BLOCKS);
    cut_data.data.set_len(BLOCKS * 4096 - 1).unwrap();
    assert!(matches!(verify(&cut_data), Err(VerifyError::ReadData(_))));
    let cut_hash = volume(BLOCKS);
    cut_hash.hash.set_len(5 * 4096).unwrap();
    assert!(matches!(verify(&cut_hash), Err(VerifyError::ReadHash(_))));
}

#[test]
fn data_that_is_no_whole_number_of_blocks_is_refused() {
    let (data, hash) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let format = |bytes| {
        let (data, hash) = (Area::whole(&data), Area::whole(&hash));
        tree::format(data, bytes, hash, SALT, None, &|_| {})
    };
    assert!(matches!(format(4097), Err(FormatError::PartialBlock(4097))));
    assert!(matches!(format(0), Err(FormatError::Size(_))));
    assert!(
        matches!(format(4096), Err(FormatError::ReadData(_))),
        "the file is shorter than said"
    );
}

#[test]
fn progress_adds_up_to_the_data() {
    let volume = volume(BLOCKS);
    let bytes = AtomicU64::new(0);
    let (data, hash) = (Area::whole(&volume.data), Area::whole(&volume.hash));
    let count = |n| {
        bytes.fetch_add(n, Ordering::Relaxed);
    };
    tree::verify(&volume.name, data, hash, &count).unwrap();
    assert_eq!(bytes.into_inner(), volume.name.data_bytes());
}
