//! Partition tables: what is written is read back, and each fault is refused.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not see as tests

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;
use verity::Guid;
use verity::gpt::{
    GptError, Layout, LayoutError, Partition, PartitionSpec, Source, TABLE_BYTES, Table,
    WriteError, write_image,
};
use verity::partition::{FindError, Finder};

const DISK: Guid = Guid::from_bytes([0xdd; 16]);

fn spec(unique: u8, size_bytes: u64) -> PartitionSpec {
    PartitionSpec {
        type_guid: Guid::from_bytes([0x77; 16]),
        unique_guid: Guid::from_bytes([unique; 16]),
        name: format!("part-ü-{unique}"),
        attributes: 1 << 60,
        size_bytes,
    }
}

fn layout() -> Layout {
    Layout::new(DISK, &[spec(1, 5000), spec(2, 3 << 20), spec(3, 1)]).unwrap()
}

fn table_bytes() -> Vec<u8> {
    layout().encode_start()
}

/// CRC-32, bit by bit, so that a test can mend the checksums of what it damaged.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { 0xedb8_8320 } else { 0 };
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

fn mend(table: &mut [u8]) {
    let entries = crc32(&table[1024..TABLE_BYTES]);
    table[512 + 88..512 + 92].copy_from_slice(&entries.to_le_bytes());
    table[512 + 16..512 + 20].fill(0);
    let header = crc32(&table[512..512 + 92]);
    table[512 + 16..512 + 20].copy_from_slice(&header.to_le_bytes());
}

#[test]
fn what_is_written_is_read_back() {
    let table = Table::parse(&table_bytes()).unwrap();
    assert_eq!(table.disk_guid(), DISK);
    assert_eq!(table.entries(), layout().entries());
    assert_eq!(table.entries()[0].offset_bytes(), 1 << 20);
    assert_eq!(table.entries()[0].size_bytes(), 5120);
    assert_eq!(layout().image_bytes() % (1 << 20), 0);
    assert_eq!(table.backup_sector(), layout().image_bytes() / 512 - 1);
}

type Check = fn(&GptError) -> bool;

/// Byte to change, whether to mend the checksums, what must be said.
const FAULTS: [(usize, bool, Check); 16] = [
    (510, false, |e| matches!(e, GptError::ProtectiveMbr)),
    (450, false, |e| matches!(e, GptError::ProtectiveMbr)),
    (454, false, |e| matches!(e, GptError::ProtectiveMbr)),
    (512, true, |e| matches!(e, GptError::Signature)),
    (512 + 8, true, |e| {
        matches!(
            e,
            GptError::Header {
                field: "Revision",
                ..
            }
        )
    }),
    (512 + 12, true, |e| {
        matches!(
            e,
            GptError::Header {
                field: "HeaderSize",
                ..
            }
        )
    }),
    (512 + 20, true, |e| {
        matches!(
            e,
            GptError::Header {
                field: "Reserved",
                ..
            }
        )
    }),
    (512 + 24, true, |e| {
        matches!(e, GptError::Header { field: "MyLBA", .. })
    }),
    (512 + 72, true, |e| {
        matches!(
            e,
            GptError::Header {
                field: "PartitionEntryLBA",
                ..
            }
        )
    }),
    (512 + 81, true, |e| {
        matches!(
            e,
            GptError::Header {
                field: "NumberOfPartitionEntries",
                ..
            }
        )
    }),
    (512 + 84, true, |e| {
        matches!(
            e,
            GptError::Header {
                field: "SizeOfPartitionEntry",
                ..
            }
        )
    }),
    (512 + 60, false, |e| matches!(e, GptError::HeaderChecksum)),
    (1024 + 60, false, |e| matches!(e, GptError::EntriesChecksum)),
    (512 + 55, true, |e| matches!(e, GptError::UsableRange)),
    (1024 + 128 + 39, true, |e| {
        matches!(e, GptError::PartitionRange(2))
    }),
    (1024 + 41, true, |e| matches!(e, GptError::Overlap(1, 2))),
];

#[test]
fn each_fault_has_its_own_refusal() {
    for (at, mended, check) in FAULTS {
        let mut bytes = table_bytes();
        bytes[at] ^= 0x18;
        if mended {
            mend(&mut bytes);
        }
        let error = Table::parse(&bytes).unwrap_err();
        assert!(check(&error), "byte {at}: {error}");
    }
    assert!(matches!(Table::parse(&[0; 100]), Err(GptError::Short(100))));
}

#[test]
fn impossible_partitions_are_refused() {
    use LayoutError as E;
    let refused = |specs: &[PartitionSpec]| Layout::new(DISK, specs).unwrap_err();
    assert_eq!(refused(&vec![spec(1, 1); 129]), E::TooMany(129));
    assert_eq!(refused(&[spec(0, 1)]), E::NilGuid(1));
    assert_eq!(
        refused(&[spec(1, 1), spec(1, 1)]),
        E::DuplicateGuid(Guid::from_bytes([1; 16]))
    );
    assert_eq!(refused(&[spec(1, 1), spec(2, 0)]), E::Empty(2));
    assert_eq!(refused(&[spec(1, u64::MAX)]), E::TooLarge);
    let mut long = spec(1, 1);
    long.name = "n".repeat(37);
    assert_eq!(refused(&[long]), E::Name(1));
}

#[test]
fn content_stands_in_its_partition_and_holes_stay_holes() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    let sparse = File::create(&source).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"end", (40 << 20) - 3).unwrap();
    let partitions = [
        Partition {
            spec: spec(1, 600),
            source: Source::Bytes(b"bytes".to_vec()),
        },
        Partition {
            spec: spec(2, 40 << 20),
            source: Source::File(source.clone()),
        },
        Partition {
            spec: spec(3, 1 << 20),
            source: Source::Zeros,
        },
    ];
    let path = folder.path().join("image");
    let image = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let layout = write_image(&image, DISK, &partitions).unwrap();
    let mut found = [0; 6];
    image
        .read_exact_at(&mut found, layout.entries()[0].offset_bytes())
        .unwrap();
    assert_eq!(&found, b"bytes\0");
    let mut found = [0; 3];
    let end = layout.entries()[1].offset_bytes() + (40 << 20);
    image.read_exact_at(&mut found, end - 3).unwrap();
    assert_eq!(&found, b"end");
    let allocated = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&path).unwrap()) * 512;
    assert!(allocated < 1 << 20, "{allocated} bytes on the disk");

    let tight = [Partition {
        spec: spec(1, 600),
        source: Source::File(source),
    }];
    let outcome = write_image(&image, DISK, &tight);
    assert!(matches!(
        outcome,
        Err(WriteError::DoesNotFit {
            number: 1,
            room: 1024,
            ..
        })
    ));
}

/// A machine as the kernel shows it: `sys/block` and `dev` below a folder.
fn machine(folder: &Path, disks: &[(&str, &[PartitionSpec])]) -> Finder {
    let (sys, dev) = (folder.join("sys"), folder.join("dev"));
    fs::create_dir_all(&dev).unwrap();
    for (disk, partitions) in disks {
        let layout = Layout::new(DISK, partitions).unwrap();
        layout
            .write_tables(&File::create(dev.join(disk)).unwrap())
            .unwrap();
        fs::create_dir_all(sys.join(disk).join("queue")).unwrap();
        for entry in layout.entries() {
            let child = sys.join(disk).join(format!("{disk}{}", entry.number));
            fs::create_dir_all(&child).unwrap();
            fs::write(child.join("partition"), format!("{}\n", entry.number)).unwrap();
            fs::write(child.join("start"), format!("{}\n", entry.first)).unwrap();
            fs::write(child.join("size"), format!("{}\n", entry.sectors())).unwrap();
            fs::write(child.join("dev"), format!("254:{}\n", entry.number)).unwrap();
        }
    }
    Finder::new(sys, dev)
}

#[test]
fn a_partition_is_found_by_its_guid_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = ([spec(1, 512), spec(2, 1024)], [spec(3, 2048)]);
    let finder = machine(folder.path(), &[("vda", &first), ("vdb", &second)]);
    fs::create_dir_all(folder.path().join("sys/sr0")).unwrap(); // no medium: claims nothing
    let found = finder.find(Guid::from_bytes([2; 16])).unwrap();
    assert_eq!(found.path, folder.path().join("dev/vda2"));
    assert_eq!(
        (found.number.to_string().as_str(), found.sectors),
        ("254:2", 2)
    );
    assert!(matches!(
        finder.find(Guid::from_bytes([9; 16])),
        Err(FindError::Missing(_))
    ));
}

#[test]
fn two_claimants_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = ([spec(1, 512)], [spec(1, 512)]);
    let finder = machine(folder.path(), &[("vda", &first), ("vdb", &second)]);
    let outcome = finder.find(Guid::from_bytes([1; 16]));
    assert!(matches!(
        outcome,
        Err(FindError::Claimants { count: 2, .. })
    ));
    let outcome = finder.find_by_type(Guid::from_bytes([0x77; 16]));
    assert!(matches!(
        outcome,
        Err(FindError::Claimants { count: 2, .. })
    ));
}

#[test]
fn a_kernel_that_sees_another_partition_is_refused() {
    for (attribute, text) in [("start", "4096\n"), ("size", "9\n"), ("dev", "x\n")] {
        let folder = tempfile::tempdir().unwrap();
        let finder = machine(folder.path(), &[("vda", &[spec(1, 512)])]);
        fs::write(folder.path().join("sys/vda/vda1").join(attribute), text).unwrap();
        let outcome = finder.find(Guid::from_bytes([1; 16]));
        assert!(
            matches!(outcome, Err(FindError::Disagrees(_))),
            "{attribute}"
        );
    }
}

proptest! {
    #[test]
    fn damage_never_panics_and_never_yields_an_impossible_partition(
        changes in prop::collection::vec((0usize..TABLE_BYTES, any::<u8>()), 1..6),
        near in prop::collection::vec((512usize..1024 + 512, any::<u8>()), 0..6),
        mended: bool,
    ) {
        let mut bytes = table_bytes();
        for (at, byte) in changes.into_iter().chain(near) {
            bytes[at] = byte;
        }
        if mended {
            mend(&mut bytes);
        }
        if let Ok(table) = Table::parse(&bytes) {
            for entry in table.entries() {
                prop_assert!(entry.first >= 34 && entry.last >= entry.first);
                prop_assert!(entry.offset_bytes().checked_add(entry.size_bytes()).is_some());
            }
        }
    }
}
