//! Differences planted into one of two equal builds: each must be found, placed, attributed and
//! explained. Beside them: no bytes make a reader of foreign forms panic.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod builds;
mod common;

use std::fs;

use builds::{Build, Builds, agent, elf, initrd};
use proptest::prelude::*;
use release::differ::{Cause, Difference, archive, content, disk, erofs, image};
use release::differ::{elf as program, text};
use release::reproduce::{Answer, Because, Outcome, Question, Verdict};

/// The answer where `plant` changes the rebuilt side, or the published one.
fn planted(plant: impl FnOnce(&mut Build, &mut Build)) -> Answer {
    let (mut theirs, mut ours) = (Build::default(), Build::default());
    plant(&mut theirs, &mut ours);
    Builds::new(&theirs, &ours).answer()
}

/// The first difference, after a check of what differs for a reason of its own.
fn first(answer: &Answer, artifact: &str) -> Difference {
    let mut own = Vec::new();
    for one in &answer.artifacts {
        if let Outcome::Different { because, .. } = &one.outcome {
            match because {
                Because::Follows(_) => {}
                Because::Found(_) => own.push(one.name.clone()),
                other => panic!("{}: {other:?}", one.name),
            }
        }
    }
    assert_eq!(own, [artifact]);
    assert_eq!(answer.verdict(), Verdict::Different);
    answer.first().unwrap().clone()
}

#[test]
fn equal_builds_are_equal() {
    let answer = planted(|_, _| {});
    assert_eq!((answer.verdict(), answer.first()), (Verdict::Equal, None));
    assert!(answer.artifacts.len() >= 6);
}

#[test]
fn a_timestamp_in_a_configuration_is_named() {
    let answer = planted(|theirs, ours| {
        theirs.set(
            "/etc/build.conf",
            b"NAME=cloister\nBUILD=2026-11-20T08:15:00Z\n",
        );
        ours.set(
            "/etc/build.conf",
            b"NAME=cloister\nBUILD=2026-11-21T16:20:59Z\n",
        );
    });
    let found = first(&answer, "image-root.erofs");
    assert_eq!(
        found.place,
        ["image-root.erofs", "/etc/build.conf", "line 2"]
    );
    assert_eq!(found.theirs, "BUILD=2026-11-20T08:15:00Z");
    assert_eq!(found.owner.unwrap(), "image/rootfs/etc/build.conf");
    assert_eq!(found.cause, Cause::Timestamp);
    let follows = |name: &str| {
        let one = answer
            .artifacts
            .iter()
            .find(|one| one.name == name)
            .unwrap();
        matches!(
            &one.outcome,
            Outcome::Different {
                because: Because::Follows(_),
                ..
            }
        )
    };
    assert!(follows("image-manifest.json"));
}

#[test]
fn a_file_mode_is_named() {
    let answer = planted(|_, ours| ours.files[2].1 = 0o750);
    let found = first(&answer, "image-root.erofs");
    assert_eq!(
        found.place,
        ["image-root.erofs", "/usr/bin/udevadm", "mode"]
    );
    assert_eq!((&*found.theirs, &*found.ours), ("0755", "0750"));
    assert_eq!(found.owner.unwrap(), "udev 257.13-1");
    assert_eq!(found.cause, Cause::Mode);
}

#[test]
fn a_reordered_archive_is_named() {
    let answer = planted(|_, ours| ours.initrd.swap(4, 5));
    let found = first(&answer, "image-initrd");
    assert_eq!(found.place, ["image-initrd", "entry 5"]);
    assert_eq!(
        (&*found.theirs, &*found.ours),
        ("modules/a.ko.xz", "modules/b.ko.xz")
    );
    assert_eq!(
        found.owner.unwrap(),
        "image/initrd.py, image/initrd.modules"
    );
    assert_eq!(found.cause, Cause::Order);
}

#[test]
fn a_changed_package_version_is_named() {
    let answer = planted(|_, ours| {
        ours.set("/usr/lib/libz.so.1", b"library of 1.3.2\0");
        ours.packages
            .insert("zlib1g".to_owned(), "1:1.3.2-1".to_owned());
    });
    let found = first(&answer, "image-root.erofs");
    assert_eq!(found.place[1], "/usr/lib/libz.so.1");
    assert_eq!(
        found.owner.unwrap(),
        "zlib1g 1:1.3.1-1, rebuilt with zlib1g 1:1.3.2-1"
    );
    assert_eq!(found.cause, Cause::Version);
}

#[test]
fn a_path_in_a_program_is_named() {
    let path = "/usr/bin/cloister-agent";
    let answer = planted(|_, ours| ours.set(path, &agent("/home/somebody/cloister")));
    let found = first(&answer, "image-root.erofs");
    assert_eq!(
        found.place,
        ["image-root.erofs", path, "section .rodata", "string"]
    );
    assert!(
        found.ours.contains("/home/somebody/cloister/agent/src"),
        "{}",
        found.ours
    );
    assert!(found.owner.unwrap().starts_with("cloister-agent"));
    assert_eq!(found.cause, Cause::Path);
}

#[test]
fn times_links_and_missing_files_are_named() {
    let found = |plant: fn(&mut Build)| {
        let answer = planted(|_, ours| plant(ours));
        let found = first(&answer, "image-root.erofs");
        (found.place[1..].join(" "), found.cause)
    };
    let (place, cause) = found(|build| build.time_s += 1);
    assert_eq!(
        (place.ends_with(" time"), cause),
        (true, Cause::Timestamp),
        "{place}"
    );
    let (place, cause) = found(|build| build.links[0].1 = "usr/sbin".to_owned());
    assert_eq!((&*place, cause), ("/bin link", Cause::Content));
    let (place, cause) = found(|build| build.files.truncate(4));
    assert_eq!(cause, Cause::Missing);
    assert!(place.starts_with("/usr/lib/systemd"), "{place}");
}

#[test]
fn without_the_published_files_or_tools_the_report_says_so() {
    let mut ours = Build::default();
    ours.set("/etc/build.conf", b"NAME=cloister\nBUILD=2\n");
    let builds = Builds::new(&Build::default(), &ours);
    let enter = builds.path("source/image/enter.sh");
    common::script(&enter, "#!/bin/sh\necho no tools >&2\nexit 1\n");
    let answer = builds.answer();
    let root = answer
        .artifacts
        .iter()
        .find(|one| one.name == "image-root.erofs")
        .unwrap();
    let Outcome::Different {
        because: Because::Listed(found, why),
        ..
    } = &root.outcome
    else {
        panic!("{root:?}");
    };
    assert_eq!(
        found[0].place,
        ["image-root.erofs", "/etc/build.conf", "contents"]
    );
    assert!(why.contains("no tools"), "{why}");
    fs::remove_file(builds.path("theirs/image/root.erofs")).unwrap();
    let answer = builds.answer();
    assert!(
        answer
            .artifacts
            .iter()
            .all(|one| one.name != "image-root.erofs")
    );
}

#[test]
fn an_archive_shows_owners_times_and_inner_lines() {
    let plain = initrd(&Build::default().initrd);
    let changed = |at: usize, digits: &[u8]| {
        let mut other = plain.clone();
        other[at..at + 8].copy_from_slice(digits);
        let found = archive::compare(&plain, &other).unwrap();
        (found.place.join(" "), found.cause)
    };
    let field = |index: usize| 6 + index * 8;
    assert_eq!(
        changed(field(1), b"000081C0"),
        ("init mode".to_owned(), Cause::Mode)
    );
    assert_eq!(
        changed(field(2), b"000003E8"),
        ("init owner".to_owned(), Cause::Owner)
    );
    assert_eq!(
        changed(field(5), b"6AE5A4C0"),
        ("init time".to_owned(), Cause::Timestamp)
    );
    let mut entries = Build::default().initrd;
    entries[3].2 = b"b.ko.xz\na.ko.xz\n".to_vec();
    let found = archive::compare(&plain, &initrd(&entries)).unwrap();
    assert_eq!(found.place, ["modules/order", "line 1"]);
    assert_eq!(found.cause, Cause::Order);
    entries.pop();
    let found = archive::compare(&plain, &initrd(&entries)).unwrap();
    assert_eq!(
        (&*found.place[0], found.cause),
        ("modules/b.ko.xz", Cause::Missing)
    );
}

#[test]
fn a_uki_shows_its_section_and_a_disk_its_partition() {
    let site = common::Site::new();
    site.assemble("one").unwrap();
    let config = common::configuration().replace("8080", "8081");
    fs::write(site.path("config.toml"), config).unwrap();
    site.assemble("two").unwrap();
    let read = |name: &str| fs::read(site.path(name)).unwrap();
    let (one, two) = (read("one/cloister.efi"), read("two/cloister.efi"));
    let found = image::compare(&one, &two).unwrap();
    assert_eq!(found.place, ["section .cmdline", "line 1"]);
    let mut other = one.clone();
    other[0x44 + 4] ^= 1;
    assert_eq!(
        image::compare(&one, &other).unwrap().cause,
        Cause::Timestamp
    );

    let (one, two) = (site.path("one/disk.img"), site.path("two/disk.img"));
    let disk::Found::Partition {
        content, theirs, ..
    } = disk::compare(&one, &two).unwrap()
    else {
        panic!("no partition differs");
    };
    assert_eq!((content, theirs.number), (disk::Content::Esp, 1));
    // Where the root differs, too, it is the one that is named.
    let uki = fs::read(&two).unwrap();
    let mut rooted = uki.clone();
    let table = verity::gpt::Table::parse(&uki).unwrap();
    rooted[table.entries()[1].offset_bytes() as usize + 77] ^= 1;
    fs::write(&two, rooted).unwrap();
    let disk::Found::Partition { content, at, .. } = disk::compare(&one, &two).unwrap() else {
        panic!("no partition differs");
    };
    assert_eq!((content, at), (disk::Content::Root, 77));
    // Whatever is attached in the release partition, the disk is the same.
    let bytes = read("one/disk.img");
    let mut attached = bytes.clone();
    attached[table.entries()[3].offset_bytes() as usize] = 1;
    fs::write(&two, attached).unwrap();
    assert_eq!(disk::compare(&one, &two).unwrap(), disk::Found::Nowhere);
    fs::write(&two, &bytes[..20000]).unwrap();
    assert!(disk::compare(&one, &two).is_err());
    fs::write(&two, b"no disk").unwrap();
    assert!(disk::compare(&one, &two).is_err());
}

#[test]
fn a_disk_that_differs_outside_of_its_partitions_shows_where() {
    let site = common::Site::new();
    site.assemble("one").unwrap();
    fs::create_dir(site.path("two")).unwrap();
    let (one, two) = (site.path("one/disk.img"), site.path("two/disk.img"));
    let bytes = fs::read(&one).unwrap();
    let size = bytes.len();
    let place = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut other = bytes.clone();
        change(&mut other);
        fs::write(&two, other).unwrap();
        match disk::compare(&one, &two).unwrap() {
            disk::Found::Table(found) => found.place.join(" → "),
            other => panic!("{other:?}"),
        }
    };
    // Protective MBR, a gap, the backup's entries and its header.
    let table = "partition table → byte ";
    assert_eq!(place(&|disk| disk[10] ^= 1), format!("{table}10"));
    let gap = "outside of all partitions → byte 20000";
    assert_eq!(place(&|disk| disk[20000] ^= 1), gap);
    let backup = |at: usize| format!("backup of the {table}{at}");
    assert_eq!(
        place(&|disk| disk[size - 33 * 512] ^= 1),
        backup(size - 33 * 512)
    );
    assert_eq!(place(&|disk| disk[size - 500] ^= 1), backup(size - 500));
    assert_eq!(place(&|disk| disk.extend([0; 512])), "size");

    // And an answer always names something.
    fs::write(&two, &bytes).unwrap();
    common::edit(&two, |disk| disk[size - 500] ^= 1);
    let stated = release::reproduce::published(&site.path("two")).unwrap();
    let source = Builds::new(&Build::default(), &Build::default());
    let (image, assembled, against) = (site.path("image"), site.path("one"), site.path("two"));
    let question = Question {
        stated,
        image: &image,
        assembled: Some(&assembled),
        against: Some(&against),
        source: &source.path("source"),
        scratch: &site.path("scratch"),
    };
    let answer = release::reproduce::answer(&question).unwrap();
    let found = answer.first().unwrap();
    assert_eq!(
        found.place[..2],
        ["disk.img", "backup of the partition table"]
    );
}

#[test]
fn flags_of_a_partition_are_named() {
    let site = common::Site::new();
    site.assemble("one").unwrap();
    let (one, two) = (site.path("one/disk.img"), site.path("two.img"));
    let mut bytes = fs::read(&one).unwrap();
    // The flags of the second entry, and the sums that cover them (UEFI 2.10, 5.3.2).
    bytes[1024 + 128 + 48] ^= 4;
    let sum = crc32(&bytes[1024..1024 + 128 * 128]);
    bytes[512 + 88..512 + 92].copy_from_slice(&sum.to_le_bytes());
    bytes[512 + 16..512 + 20].fill(0);
    let sum = crc32(&bytes[512..512 + 92]);
    bytes[512 + 16..512 + 20].copy_from_slice(&sum.to_le_bytes());
    fs::write(&two, bytes).unwrap();
    let disk::Found::Table(found) = disk::compare(&one, &two).unwrap() else {
        panic!("no table differs");
    };
    assert_eq!(found.place, ["partition table", "partition 2"]);
    assert!(found.ours.ends_with("flags 0x4"), "{}", found.ours);
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |sum: u32, byte: &u8| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 & (sum & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn a_file_system_with_the_same_files_shows_its_superblock() {
    let mut theirs = vec![0; 4096];
    theirs[1024..1028].copy_from_slice(&[0xe2, 0xe1, 0xf5, 0xe0]);
    let mut ours = theirs.clone();
    ours[1024 + 24] = 9;
    let found = erofs::compare(&theirs, &ours);
    assert_eq!(found.place, ["superblock", "time of the build"]);
    assert_eq!(found.cause, Cause::Timestamp);
    ours[1024 + 24] = 0;
    ours[4000] = 1;
    assert_eq!(
        erofs::compare(&theirs, &ours).place[0],
        "layout or compression"
    );
    assert_eq!(erofs::compare(b"", b"x").place, ["byte 0"]);
}

/// Every reader of foreign forms, on bytes of one side against the other.
fn read_all(theirs: &[u8], ours: &[u8]) {
    let _ = content(theirs, ours);
    let _ = text::compare(theirs, ours);
    let _ = image::compare(theirs, ours);
    let _ = archive::all(theirs, ours);
    let _ = archive::padding(theirs, ours);
    let _ = erofs::compare(theirs, ours);
    let _ = release::stated::parse(ours);
    if let Ok(sections) = program::sections(ours) {
        assert!(
            sections
                .iter()
                .all(|section| section.range.end <= ours.len())
        );
    }
    if let Ok(entries) = archive::entries(ours) {
        assert!(entries.iter().all(|entry| entry.data.len() <= ours.len()));
    }
}

fn samples() -> Vec<Vec<u8>> {
    vec![
        agent("/cloister/src"),
        elf(&[]),
        initrd(&Build::default().initrd),
        common::pe(&[(".one", &[1; 600]), (".two", &[2; 100])], 1),
        b"one\ntwo\n".to_vec(),
    ]
}

#[test]
fn every_truncation_is_read_or_refused() {
    for sample in samples() {
        for length in 0..sample.len() {
            read_all(&sample, &sample[..length]);
        }
    }
}

proptest! {
    #[test]
    fn changed_forms_are_read_or_refused(
        which in 0usize..5,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let sample = &samples()[which];
        let mut other = sample.clone();
        for (at, byte) in changes {
            let at = at.index(other.len());
            other[at] = byte;
        }
        read_all(sample, &other);
        read_all(&other, sample);
    }

    #[test]
    fn any_bytes_are_read_or_refused(theirs: Vec<u8>, ours: Vec<u8>, magic in 0usize..4) {
        let magic: &[u8] = [b"\x7fELF\x02\x01", &b"MZ"[..], b"070701", b""][magic];
        let with = |rest: &[u8]| [magic, rest].concat();
        read_all(&with(&theirs), &with(&ours));
    }
}

#[test]
fn the_bill_follows_from_each_part_that_it_covers() {
    for part in [
        "root.erofs",
        "vmlinuz",
        "stub.efi",
        "os-release",
        "initrd",
        "cmdline",
    ] {
        let builds = Builds::new(&Build::default(), &Build::default());
        fs::write(builds.path("theirs/image").join(part), "another").unwrap();
        fs::write(builds.path("theirs/image/sbom.spdx.json"), "theirs").unwrap();
        fs::create_dir_all(builds.path("scratch")).unwrap();
        fs::write(builds.path("scratch/sbom.spdx.json"), "ours").unwrap();
        let answer = builds.answer();
        let mut artifacts = answer.artifacts.iter();
        let bill = artifacts.find(|one| one.name == "image-sbom.spdx.json");
        let Outcome::Different { because, .. } = &bill.unwrap().outcome else {
            panic!("{part}");
        };
        assert_eq!(*because, Because::Follows(format!("image-{part}")));
    }
}
