//! Assembling: the same bytes each time, and nothing left behind where it is refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;

use attest::release::statement::MAX_NUMBER;
use common::{Site, edit};
use release::assemble::{AssembleError, OUTPUT_FILES};
use release::command_line::CommandLineError;
use release::disk::{self, DiskError};
use release::measure::measure;
use release::statement::{MakeError, SourceError, source_revision};

#[test]
fn two_folders_get_the_same_bytes() {
    let (first, second) = (Site::new(), Site::new());
    let measured = first.assemble("out").unwrap();
    assert_eq!(second.assemble("deep/er/out").unwrap(), measured);
    for name in OUTPUT_FILES {
        let ours = fs::read(first.path("out").join(name)).unwrap();
        assert!(
            ours == fs::read(second.path("deep/er/out").join(name)).unwrap(),
            "{name}"
        );
    }
    let uki = fs::read(first.path("out/cloister.efi")).unwrap();
    assert_eq!(measure(&uki, &[]).unwrap(), measured);
    assert_eq!(disk::uki(&first.path("out/disk.img")).unwrap(), uki);
}

#[test]
fn the_disk_holds_the_volumes_under_the_guids_of_the_root_hash() {
    let site = Site::new();
    site.assemble("out").unwrap();
    let image = fs::File::open(site.path("out/disk.img")).unwrap();
    let table = verity::gpt::Table::read(&image).unwrap();
    let (data, hashes, root) = common::root();
    let names: Vec<_> = table
        .entries()
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    assert_eq!(names, ["esp", "root", "root-verity", "release"]);
    assert_eq!(table.entries()[1].unique_guid, root.data_guid());
    assert_eq!(table.entries()[2].unique_guid, root.hash_guid());
    let bytes = fs::read(site.path("out/disk.img")).unwrap();
    for (entry, contents) in [(&table.entries()[1], data), (&table.entries()[2], hashes)] {
        let start = entry.offset_bytes() as usize;
        assert!(bytes[start..start + contents.len()] == contents);
    }
}

#[test]
fn a_second_assembly_replaces_the_first_and_spares_what_is_foreign() {
    let site = Site::new();
    site.assemble("out").unwrap();
    edit(&site.path("config.toml"), |text| {
        text.extend_from_slice(b"# changed\n")
    });
    let second = site.assemble("out").unwrap();
    let line = fs::read_to_string(site.path("out/cmdline")).unwrap();
    assert!(line.ends_with(&second.configuration.to_string()));
    fs::write(site.path("out/mine.txt"), "mine").unwrap();
    let error = site.assemble("out").unwrap_err();
    assert!(matches!(error, AssembleError::ForeignOutput { name, .. } if name == "mine.txt"));
    assert_eq!(
        fs::read_to_string(site.path("out/mine.txt")).unwrap(),
        "mine"
    );
}

type Change = fn(&Site);
type Check = fn(&AssembleError) -> bool;

/// What is wrong with an image or a configuration, and how it is refused.
const REFUSED: [(Change, Check); 15] = [
    (
        |site| site.set_part("root.erofs", &[5; 3 * 4096]),
        |e| matches!(e, AssembleError::Root(_)),
    ),
    (
        |site| edit(&site.path("image/vmlinuz"), |linux| linux[0] ^= 1),
        |e| matches!(e, AssembleError::Sum { .. }),
    ),
    (
        |site| fs::remove_file(site.path("image/stub.efi")).unwrap(),
        |e| matches!(e, AssembleError::Read { .. }),
    ),
    (
        |site| fs::write(site.path("image/SHA256SUMS"), "").unwrap(),
        |e| matches!(e, AssembleError::Unlisted { .. }),
    ),
    (
        |site| fs::write(site.path("image/SHA256SUMS"), "x\n").unwrap(),
        |e| matches!(e, AssembleError::Sums { line: 1, .. }),
    ),
    (
        |site| site.set_part("root.ref", b"verity1:00"),
        |e| matches!(e, AssembleError::RootRef(_)),
    ),
    (
        |site| site.set_part("root.erofs", &[0; 4096]),
        |e| matches!(e, AssembleError::RootSize { .. }),
    ),
    (
        |site| site.set_part("root.verity", &[0; 4096]),
        |e| matches!(e, AssembleError::RootSize { .. }),
    ),
    (
        |site| site.set_part("cmdline", b"a\0b"),
        |e| matches!(e, AssembleError::CommandLine(CommandLineError::Nul(1))),
    ),
    (
        |site| site.set_part("cmdline", b"a \xff"),
        |e| matches!(e, AssembleError::CommandLine(CommandLineError::NotUtf8(2))),
    ),
    (
        |site| site.set_part("cmdline", &[b'a'; 2000]),
        |e| matches!(e, AssembleError::CommandLine(CommandLineError::TooLong(_))),
    ),
    (
        |site| site.set_part("stub.efi", b"MZ"),
        |e| matches!(e, AssembleError::Uki(_)),
    ),
    (
        |site| site.set_part("vmlinuz", b"MZ"),
        |e| matches!(e, AssembleError::Uki(_)),
    ),
    (
        |site| edit(&site.path("config.toml"), |text| text.push(b'x')),
        |e| matches!(e, AssembleError::Configuration(_)),
    ),
    (
        |site| fs::remove_file(site.path("config.toml")).unwrap(),
        |e| matches!(e, AssembleError::Read { .. }),
    ),
];

#[test]
fn what_is_refused_leaves_nothing_behind() {
    for (number, (change, expected)) in REFUSED.iter().enumerate() {
        let site = Site::new();
        change(&site);
        let error = site.assemble("out").unwrap_err();
        assert!(expected(&error), "case {number}: {error:?}");
        let left = fs::read_dir(site.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left
            .filter(|name| name.to_string_lossy().contains("out"))
            .collect();
        assert!(left.is_empty(), "case {number} left {left:?}");
    }
}

#[test]
fn a_bundle_is_attached_read_again_and_replaced() {
    let site = Site::new();
    site.assemble("out").unwrap();
    let disk = site.path("out/disk.img");
    let before = disk::digest_without_bundle(&disk).unwrap();
    assert_eq!(disk::attached(&disk).unwrap(), None);
    let logged = common::Logged::new(&site);
    let first = logged.append(&site.statement(1).unwrap()).encode();
    disk::attach(&disk, &first).unwrap();
    assert_eq!(disk::attached(&disk).unwrap(), Some(first));
    let second = logged.append(&site.statement(2).unwrap()).encode();
    disk::attach(&disk, &second).unwrap();
    assert_eq!(disk::attached(&disk).unwrap(), Some(second));
    assert_eq!(disk::digest_without_bundle(&disk).unwrap(), before);
    assert!(matches!(
        disk::attach(&disk, b"{}"),
        Err(DiskError::Bundle(_))
    ));
    edit(&disk, |bytes| bytes[512] ^= 1);
    assert!(matches!(
        disk::attached(&disk),
        Err(DiskError::Table { .. })
    ));
}

#[test]
fn a_statement_is_made_only_of_what_belongs_together() {
    let fresh = || {
        let site = Site::new();
        site.assemble("out").unwrap();
        site
    };
    let site = fresh();
    let statement = site.statement(3).unwrap();
    assert_eq!(site.statement(3).unwrap().encode(), statement.encode());
    let names: Vec<_> = statement
        .subject
        .iter()
        .map(|subject| subject.name.as_str())
        .collect();
    assert!(names.is_sorted() && names.contains(&"disk.img") && names.contains(&"image-vmlinuz"));
    for version in [0, MAX_NUMBER + 1] {
        assert!(matches!(site.statement(version), Err(MakeError::Version)));
    }
    site.set_part("cmdline", b"another profile\n");
    let error = site.statement(1).unwrap_err();
    assert!(matches!(error, MakeError::OtherImage { path } if path.ends_with("cmdline")));
    let site = fresh();
    for nameless in [&b""[..], b"\n", b"pro file\n", b"\xff\n", b"production"] {
        site.set_part("profile", nameless);
        assert!(matches!(site.statement(1), Err(MakeError::Profile(_))));
    }
    site.set_part("profile", b"production\n");
    for name in ["cmdline", "initrd", "vmlinuz", "config.toml"] {
        let site = fresh();
        edit(&site.path("out").join(name), |bytes| bytes.push(b'\n'));
        let error = site.statement(1).unwrap_err();
        assert!(
            matches!(error, MakeError::Mismatch { path } if path.ends_with(name)),
            "{name}"
        );
    }
    let (site, other) = (fresh(), fresh());
    edit(&other.path("config.toml"), |text| {
        text.extend_from_slice(b"# other\n")
    });
    other.assemble("out").unwrap();
    fs::copy(other.path("out/disk.img"), site.path("out/disk.img")).unwrap();
    let error = site.statement(1).unwrap_err();
    assert!(matches!(error, MakeError::Mismatch { path } if path.ends_with("disk.img")));
}

#[test]
fn a_dirty_checkout_is_refused_or_marked() {
    let folder = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"];
        let mut command = std::process::Command::new("git");
        command
            .arg("-C")
            .arg(folder.path())
            .args(identity)
            .args(arguments);
        assert!(command.output().unwrap().status.success());
    };
    assert!(matches!(
        source_revision(folder.path(), false),
        Err(SourceError::NoCheckout { .. })
    ));
    git(&["init", "--quiet"]);
    git(&["commit", "--quiet", "--allow-empty", "--message=x"]);
    let revision = source_revision(folder.path(), false).unwrap().to_string();
    assert_eq!(revision.len(), 40);
    fs::write(folder.path().join("new"), "x").unwrap();
    let error = source_revision(folder.path(), false).unwrap_err();
    assert!(matches!(error, SourceError::Dirty { changes: 1, .. }));
    let dirty = source_revision(folder.path(), true).unwrap().to_string();
    assert_eq!(dirty, revision + "-dirty");
}
