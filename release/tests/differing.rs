//! Differences planted where unpacking does not look, or deep inside: attributes and devices of a
//! root, damaged roots, initrds within UKIs, archives with entries twice, folders of a boot disk.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod builds;
mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use builds::{Build, Builds, elf, initrd};
use proptest::prelude::*;
use release::differ::artifact::Descent;
use release::differ::erofs::Damage;
use release::differ::tree::{self, Owners};
use release::differ::{Cause, Difference, archive, content, erofs, image, inodes};
use release::manifest::ManifestError;
use release::owns::{self, OwnsError};
use release::tools::Tools;

/// Tools of which fsck.erofs makes an empty folder, and zstd cuts off the head of [`frame`].
const ENTER: &str = r#"#!/bin/sh
shift 2
tool=$1
shift
case $tool in
fsck.erofs)
    grep -q silent "$2" && exit 0
    grep -q refused "$2" && { echo "cannot decode" >&2; exit 1; }
    into=${1#--extract=} && mkdir -p "$into" && touch -d @0 "$into" ;;
zstd)
    to=/dev/stdout
    while [ $# -gt 1 ]; do
        if [ "$1" = -o ]; then to=$2; shift; fi
        shift
    done
    grep -q broken "$1" && { echo "no frame" >&2; exit 1; }
    tail -c +13 "$1" >"$to" ;;
esac
"#;

/// The differences of one artifact, theirs against ours.
fn descend(name: &str, theirs: &[u8], ours: &[u8]) -> Vec<Difference> {
    try_descend(name, theirs, ours).unwrap()
}

fn try_descend(name: &str, theirs: &[u8], ours: &[u8]) -> Result<Vec<Difference>, String> {
    let builds = Builds::new(&Build::default(), &Build::default());
    common::script(&builds.path("source/image/enter.sh"), ENTER);
    let (left, right, scratch) = (
        builds.path("left"),
        builds.path("right"),
        builds.path("taken"),
    );
    fs::write(&left, theirs).unwrap();
    fs::write(&right, ours).unwrap();
    fs::create_dir(&scratch).unwrap();
    let tools = Tools::of(&builds.path("source")).unwrap();
    let descent = Descent {
        tools: &tools,
        scratch: &scratch,
        owners: &Owners::default(),
    };
    let found = descent.artifact(name, &left, &right);
    found.map_err(|error| error.to_string())
}

/// A path of a small erofs image.
#[derive(Clone, Default)]
struct Node {
    name: &'static str,
    mode: u16,
    device: u32,
    /// Prefix, name, value.
    attributes: Vec<(u8, &'static str, &'static [u8])>,
}

/// Inodes lie so far apart, the first of them in the second block.
const APART: usize = 512;

/// An erofs image of two blocks: a root folder with these paths in it.
fn filesystem(root_mode: u16, nodes: &[Node]) -> Vec<u8> {
    let mut out = vec![0; 2 * 4096];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(1024, &0xe0f5_e1e2u32.to_le_bytes());
    put(1032, &[1, 0, 0, 0, 12]);
    put(1024 + 36, &[2]);
    put(1024 + 40, &[1]);
    let names = [".", ".."]
        .into_iter()
        .chain(nodes.iter().map(|node| node.name));
    let names: Vec<&str> = names.collect();
    let (mut entries, mut text) = (Vec::new(), Vec::new());
    for (index, name) in names.iter().enumerate() {
        let number = index.saturating_sub(1) * APART / 32;
        entries.extend_from_slice(&(number as u64).to_le_bytes());
        let offset = names.len() * 12 + text.len();
        entries.extend_from_slice(&(offset as u16).to_le_bytes());
        entries.extend_from_slice(&[0, 0]);
        text.extend_from_slice(name.as_bytes());
    }
    entries.extend(text);
    let root = Node {
        mode: 0o040_000 | root_mode,
        ..Node::default()
    };
    for (index, node) in [&root].into_iter().chain(nodes).enumerate() {
        let at = 4096 + index * APART;
        let mut attributes = Vec::new();
        for (prefix, name, value) in &node.attributes {
            attributes.extend_from_slice(&[name.len() as u8, *prefix, value.len() as u8, 0]);
            attributes.extend_from_slice(name.as_bytes());
            attributes.extend_from_slice(value);
            attributes.resize(attributes.len().next_multiple_of(4), 0);
        }
        let count = match attributes.len() {
            0 => 0,
            bytes => 1 + bytes / 4,
        };
        let data: &[u8] = if index == 0 { &entries } else { &[] };
        put(at, &[1 | (2 << 1), 0, count as u8, 0]);
        put(at + 4, &node.mode.to_le_bytes());
        put(at + 8, &(data.len() as u64).to_le_bytes());
        put(at + 16, &node.device.to_le_bytes());
        let head = if count == 0 { 64 } else { 76 };
        put(at + head, &attributes);
        put(at + head + attributes.len(), data);
    }
    let sum = checksum(&out[1024..4096]);
    out[1028..1032].copy_from_slice(&sum.to_le_bytes());
    out
}

/// CRC-32C, not inverted at its end, as the kernel takes it.
fn checksum(bytes: &[u8]) -> u32 {
    let bit = |sum: u32| {
        if sum & 1 == 1 {
            (sum >> 1) ^ 0x82f6_3b78
        } else {
            sum >> 1
        }
    };
    bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| bit(sum))
    })
}

fn nodes() -> Vec<Node> {
    let capability: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0];
    vec![
        Node {
            name: "console",
            mode: 0o020_600,
            device: 5 << 8 | 1,
            ..Node::default()
        },
        Node {
            name: "ping",
            mode: 0o100_755,
            attributes: vec![(6, "capability", capability), (1, "note", b"one")],
            ..Node::default()
        },
    ]
}

#[test]
fn attributes_devices_and_the_root_folder_are_named() {
    let theirs = filesystem(0o755, &nodes());
    let found = |root_mode, plant: fn(&mut Vec<Node>)| {
        let mut ours = nodes();
        plant(&mut ours);
        let found = descend("image-root.erofs", &theirs, &filesystem(root_mode, &ours));
        assert_eq!(found.len(), 1, "{found:?}");
        let found = found[0].clone();
        let owner = "image/root.list, image/rootfs, image/stage.py";
        assert_eq!(found.owner.as_deref(), Some(owner));
        assert_eq!(found.place[0], "image-root.erofs");
        (
            found.place[1..].join(" "),
            found.theirs,
            found.ours,
            found.cause,
        )
    };
    let is =
        |found: (String, String, String, Cause), place: &str, theirs: &str, ours: &str, cause| {
            let expected = (place.to_owned(), theirs.to_owned(), ours.to_owned(), cause);
            assert_eq!(found, expected);
        };
    is(
        found(0o755, |nodes| {
            nodes[1].attributes[0].2 = &[1, 0, 0, 2, 0, 6, 0, 0]
        }),
        "/ping extended attribute security.capability",
        "0100000200040000",
        "0100000200060000",
        Cause::Content,
    );
    is(
        found(0o755, |nodes| nodes[1].attributes.truncate(1)),
        "/ping extended attribute user.note",
        "\"one\"",
        "not there",
        Cause::Missing,
    );
    is(found(0o777, |_| {}), "/ mode", "0755", "0777", Cause::Mode);
    is(
        found(0o755, |nodes| nodes[0].device = 1 << 8 | 11),
        "/console device",
        "5:1",
        "1:11",
        Cause::Content,
    );
    is(
        found(0o755, |nodes| nodes[0].mode = 0o060_600),
        "/console kind",
        "character device",
        "block device",
        Cause::Content,
    );
}

/// A difference of two folders after `plant` has changed the second.
fn in_tree(plant: impl Fn(&Path)) -> Difference {
    let folder = tempfile::tempdir().unwrap();
    let sides = ["one", "two"].map(|name| folder.path().join(name));
    for side in &sides {
        fs::create_dir(side).unwrap();
        fs::write(side.join("x"), "").unwrap();
        fs::set_permissions(side, fs::Permissions::from_mode(0o755)).unwrap();
    }
    plant(&sides[1]);
    for side in &sides {
        let touched = Command::new("touch").args(["-d", "@0"]).arg(side).status();
        assert!(touched.unwrap().success());
    }
    let found = tree::compare(&sides[0], &sides[1], &Owners::default()).unwrap();
    found[0].clone()
}

#[test]
fn an_unpacked_root_shows_its_own_mode_and_each_kind() {
    let found = in_tree(|root| {
        fs::set_permissions(root, fs::Permissions::from_mode(0o777)).unwrap();
    });
    assert_eq!(
        (found.place, found.cause),
        (vec!["/".into(), "mode".into()], Cause::Mode)
    );
    assert_eq!((&*found.theirs, &*found.ours), ("0755", "0777"));
    let found = in_tree(|root| {
        fs::remove_file(root.join("x")).unwrap();
        let pipe = Command::new("mkfifo").arg(root.join("x")).status();
        assert!(pipe.unwrap().success());
    });
    assert_eq!(found.place, ["/x", "kind"]);
    assert_eq!((&*found.theirs, &*found.ours), ("file", "pipe"));
}

#[test]
fn a_superblocks_checksum_is_not_what_is_shown() {
    let theirs = filesystem(0o755, &nodes());
    let mut ours = theirs.clone();
    ours[1028] ^= 1;
    let found = erofs::compare(&theirs, &ours);
    assert_eq!(
        (found.place, found.cause),
        (vec!["superblock".into(), "checksum".into()], Cause::Content)
    );
    ours[8000] ^= 1;
    let found = erofs::compare(&theirs, &ours);
    assert_eq!(found.place, ["layout or compression", "byte 8000"]);
}

#[test]
fn a_root_that_cannot_be_read_is_named_by_what_is_wrong_with_it() {
    let theirs = filesystem(0o755, &nodes());
    assert_eq!(erofs::damage(&theirs), None);
    let first = |ours: &[u8]| {
        let found = descend("image-root.erofs", &theirs, ours);
        let first = found[0].clone();
        assert_eq!((&*first.theirs, first.cause), ("whole", Cause::Content));
        assert_eq!(first.place[1..], ["superblock"]);
        assert!(found[1].place[1].starts_with("byte "), "{found:?}");
        first.ours
    };
    let planted = |at: usize, text: &[u8]| {
        let mut ours = theirs.clone();
        ours[at..at + text.len()].copy_from_slice(text);
        ours
    };
    // The volume's name is under the checksum; what has this one is not read, without a word.
    let ours = planted(1088, b"silent");
    assert_eq!(erofs::damage(&ours), Some(Damage::Checksum));
    assert_eq!(first(&ours), Damage::Checksum.to_string());
    let ours = [&planted(1024, b"none")[..], b"refused"].concat();
    assert!(matches!(erofs::damage(&ours), Some(Damage::Magic(_))));
    assert!(first(&ours).starts_with("no erofs"));
    let ours = [&planted(7000, b"refused")[..7500]].concat();
    let short = Damage::Short {
        found: 7500,
        stated: 8192,
    };
    assert_eq!(erofs::damage(&ours), Some(short));
    assert_eq!(first(&ours), "cut off: 7500 bytes of 8192");
    assert_eq!(erofs::damage(&theirs[..1100]), Some(Damage::NoSuperblock));
    // Whole by its superblock, and yet not read: what the tool says.
    let ours = planted(8000, b"refused");
    let found = descend("image-root.erofs", &theirs, &ours);
    assert_eq!(found[0].place[1..], ["file system"]);
    assert_eq!(found[0].theirs, "is read");
    assert!(found[0].ours.contains("cannot decode"), "{found:?}");
    assert_eq!(found[1].place[1..], ["byte 8000"]);
    // The same with both: nothing is known, and an error says so.
    let silent = planted(8000, b"silent");
    let error = try_descend("image-root.erofs", &silent, &planted(8001, b"silent"));
    assert!(
        error
            .unwrap_err()
            .starts_with("nothing could be read out of")
    );
}

#[test]
fn the_end_of_a_long_line_is_shown() {
    let theirs = format!("{}panic=-1\n", "console=ttyS0 ".repeat(20));
    let ours = format!("{} init=/bin/sh\n", theirs.trim_end());
    let check = |found: Difference| {
        assert_eq!(found.place.last().unwrap(), "line 1");
        assert!(found.ours.ends_with("panic=-1 init=/bin/sh"), "{found:?}");
        assert!(found.theirs.ends_with("panic=-1"), "{found:?}");
        assert_ne!(found.theirs, found.ours);
        assert!(found.ours.len() < 200);
        found
    };
    check(content(theirs.as_bytes(), ours.as_bytes()).unwrap());
    let uki = |line: &str| common::pe(&[(".text", &[1; 9]), (".cmdline", line.as_bytes())], 0);
    let found = descend("cloister.efi", &uki(&theirs), &uki(&ours));
    let found = check(found[0].clone());
    assert_eq!(found.place[..2], ["cloister.efi", "section .cmdline"]);
    assert_eq!(found.owner.unwrap(), "image/cmdline, image/profiles");
    let found = content(b"a\nb", b"a\nb\n").unwrap();
    assert_ne!(found.theirs, found.ours);
    // Nor are characters of several bytes cut in two.
    let (theirs, ours) = (
        format!("{}a", "ä".repeat(200)),
        format!("{}b", "ä".repeat(200)),
    );
    let found = content(theirs.as_bytes(), ours.as_bytes()).unwrap();
    assert!(found.theirs.ends_with("äa") && found.ours.ends_with("äb"));
}

/// A zstd frame of one segment and one block that is not compressed: 12 bytes, then `data`.
fn frame(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out.extend_from_slice(&((data.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    out.extend_from_slice(data);
    out
}

/// An initrd as it is assembled: a compressed archive, and a configuration's behind it.
fn assembled(config: &str) -> Vec<u8> {
    let mut out = frame(&initrd(&Build::default().initrd));
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(release::measure::configuration_archive(config.as_bytes()));
    out
}

#[test]
fn an_initrd_is_taken_apart_alone_and_in_a_uki() {
    let theirs = common::configuration();
    let ours = theirs.replace("8080", "8081");
    let number = theirs
        .lines()
        .position(|line| line.contains("8080"))
        .unwrap()
        + 1;
    let (theirs, ours) = (assembled(&theirs), assembled(&ours));
    let check = |found: &[Difference], before: &[&str]| {
        assert_eq!(found[0].place[..before.len()], *before);
        let inside = ["cloister/config.toml".to_owned(), format!("line {number}")];
        assert_eq!(found[0].place[before.len()..], inside);
        assert_eq!(
            (&*found[0].theirs, &*found[0].ours),
            ("port = 8080", "port = 8081")
        );
        assert_eq!(found[0].owner.as_deref(), Some("the site's configuration"));
        assert_eq!(found[0].cause, Cause::Content);
    };
    check(&descend("initrd", &theirs, &ours), &["initrd"]);
    let uki =
        |line: &[u8], initrd: &[u8]| common::pe(&[(".cmdline", line), (".initrd", initrd)], 0);
    // The configuration is named on the command line: what follows stands behind.
    let found = descend("cloister.efi", &uki(b"a=1", &theirs), &uki(b"a=2", &ours));
    check(&found, &["cloister.efi", "section .initrd"]);
    assert_eq!(found[1].place[1..], ["section .cmdline", "line 1"]);
    // A module in it is of the kernel's package, by name and version.
    let mut entries = Build::default().initrd;
    entries[4].2 = b"another module".to_vec();
    let found = descend(
        "image-initrd",
        &frame(&initrd(&Build::default().initrd)),
        &frame(&initrd(&entries)),
    );
    assert_eq!(found[0].place[1], "modules/a.ko.xz");
    assert_eq!(found[0].owner.as_deref(), Some("linux-image-6.12 6.12-1"));
    let found = descend("image-initrd", &theirs, &frame(b"broken"));
    assert_eq!(found[0].place, ["image-initrd", "compression"]);
    assert!(found[0].ours.contains("no frame"), "{found:?}");
    let cut = &theirs[..100];
    assert!(
        try_descend("image-initrd", cut, &cut[..90])
            .unwrap_err()
            .contains("cut off")
    );
}

#[test]
fn packages_are_named_with_their_version() {
    let found = descend("vmlinuz", b"one\n", b"two\n");
    assert_eq!(found[0].owner.as_deref(), Some("linux-image-6.12 6.12-1"));
    let found = descend("image-stub.efi", b"one\n", b"two\n");
    assert_eq!(found[0].owner.as_deref(), Some("systemd-boot-efi 257.13-1"));
}

#[test]
fn an_entry_twice_is_named_and_so_is_an_order_beside_it() {
    let plain = Build::default().initrd;
    let all = |entries: &[(String, u32, Vec<u8>)]| {
        archive::all(&initrd(&plain), &initrd(entries)).unwrap()
    };
    let mut twice = plain.clone();
    twice.insert(0, plain[3].clone());
    let found = all(&twice);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (&found[0].place[..], found[0].cause),
        (&["modules/order".to_owned()][..], Cause::Missing)
    );
    assert_eq!(found[0].theirs, "once, as entry 4");
    assert_eq!(found[0].ours, "2 times, as entry 1, 5");
    // The last is the one that counts.
    twice[4].2 = b"a.ko.xz\nc.ko.xz\n".to_vec();
    let places: Vec<_> = all(&twice)
        .into_iter()
        .map(|one| one.place.join(" "))
        .collect();
    assert_eq!(places, ["modules/order", "modules/order line 2"]);
    let mut beside = plain.clone();
    beside.swap(4, 5);
    beside.insert(1, ("evil".to_owned(), 0o100_755, b"x".to_vec()));
    let found = all(&beside);
    assert_eq!(
        (&*found[0].place[0], found[0].cause),
        ("entry 5", Cause::Order)
    );
    assert_eq!(
        (&*found[0].theirs, &*found[0].ours),
        ("modules/a.ko.xz", "modules/b.ko.xz")
    );
    assert_eq!(
        (&*found[1].place[0], found[1].cause),
        ("evil", Cause::Missing)
    );
}

#[test]
fn a_renamed_section_is_named_so() {
    let pe = |name| common::pe(&[(".text", &[1; 9]), (name, &[2; 9])], 0);
    let found = image::compare(&pe(".one"), &pe(".two")).unwrap();
    assert_eq!(
        (&found.place[..], found.cause),
        (&["name of section 2".to_owned()][..], Cause::Content)
    );
    assert_eq!((&*found.theirs, &*found.ours), (".one", ".two"));
    let found = content(&elf(&[(".one", b"x")]), &elf(&[(".two", b"x")])).unwrap();
    assert_eq!(
        (&*found.place[0], &*found.ours),
        ("name of section 2", ".two")
    );
    // With other contents it is another section.
    let other = common::pe(&[(".text", &[1; 9]), (".two", &[3; 9])], 0);
    let found = image::compare(&pe(".one"), &other).unwrap();
    assert_eq!(
        (&*found.place[0], found.cause),
        ("list of sections", Cause::Missing)
    );
}

#[test]
fn the_time_of_a_boot_disks_folder_is_a_timestamp() {
    let site = common::Site::new();
    site.assemble("one").unwrap();
    let theirs = fs::read(site.path("one/disk.img")).unwrap();
    let name = theirs
        .windows(11)
        .position(|bytes| bytes == b"EFI        ")
        .unwrap();
    let mut ours = theirs.clone();
    ours[name + 24] = 0x22;
    let found = descend("disk.img", &theirs, &ours);
    assert_eq!(found[0].place[2..], ["/EFI", "modified"]);
    assert!(found[0].place[1].starts_with("partition 1 "), "{found:?}");
    assert_eq!(found[0].cause, Cause::Timestamp);
}

#[test]
fn owners_in_the_initrd_are_those_of_the_image_that_is_asked_about() {
    let builds = Builds::new(&Build::default(), &Build::default());
    common::script(&builds.path("source/image/enter.sh"), ENTER);
    let (image, source) = (builds.path("ours/image"), builds.path("source"));
    let find = |path: &str| owns::find(&image, &source, path);
    for path in ["initrd:/cloister/config.toml", "initrd:/evil"] {
        let error = find(path).unwrap_err();
        assert!(
            matches!(
                error,
                OwnsError::Absent {
                    place: "initrd",
                    ..
                }
            ),
            "{error:?}"
        );
    }
    for elsewhere in [builds.path("nope"), builds.path("source/image")] {
        let error = owns::find(&elsewhere, &source, "initrd:/init").unwrap_err();
        let is_read = matches!(error, OwnsError::Manifest(ManifestError::Read { .. }));
        assert!(is_read, "{error:?}");
    }
    let found = find("initrd:/modules/a.ko.xz").unwrap();
    assert_eq!(
        (&*found.owner, found.version.as_deref()),
        ("linux-image-6.12", Some("6.12-1"))
    );
    let mut entries = Build::default().initrd;
    let file = |path: &str| (path.to_owned(), 0o100_755, b"x".to_vec());
    entries.extend([
        file("evil"),
        file("cloister/config.toml"),
        file("modules/c.ko.xz"),
    ]);
    // A bill of the image's own, which is not the checkout's lock.
    let bill = r#"{"packages": [
        {"name": "linux-image-6.1", "SPDXID": "SPDXRef-a", "versionInfo": "6.1-9"},
        {"name": "linux-image-6.11", "SPDXID": "SPDXRef-b", "versionInfo": "6.11-2",
         "checksums": [{"algorithm": "SHA256", "checksumValue": "HASH"}]}],
        "relationships": [{"spdxElementId": "SPDXRef-Image", "relationshipType": "CONTAINS",
                           "relatedSpdxElement": "SPDXRef-b"}]}"#;
    let bill = bill.replace("HASH", &"0e".repeat(32));
    fs::write(image.join("sbom.spdx.json"), bill).unwrap();
    // Compressed or not.
    for bytes in [initrd(&entries), frame(&initrd(&entries))] {
        fs::write(image.join("initrd"), bytes).unwrap();
        assert_eq!(find("initrd:/evil").unwrap().owner, owns::UNKNOWN);
        assert_eq!(
            find("initrd:/modules/c.ko.xz").unwrap().owner,
            owns::UNKNOWN
        );
        let found = find("initrd:/cloister/config.toml").unwrap();
        assert_eq!(found.owner, "the site's configuration");
        let found = find("initrd:/modules/a.ko.xz").unwrap();
        assert_eq!(
            (&*found.owner, found.version.as_deref()),
            ("linux-image-6.11", Some("6.11-2"))
        );
        assert_eq!(found.sha256.unwrap().to_string(), "0e".repeat(32));
    }
    fs::write(image.join("initrd"), frame(b"broken")).unwrap();
    assert!(matches!(find("initrd:/init"), Err(OwnsError::Read { .. })));
    fs::write(image.join("initrd"), b"no archive").unwrap();
    assert!(matches!(find("initrd:/init"), Err(OwnsError::Read { .. })));
}

proptest! {
    #[test]
    fn changed_file_systems_are_read_or_refused(
        changes in prop::collection::vec((1024usize..8192, any::<u8>()), 1..12),
        length in 0usize..8193,
    ) {
        let theirs = filesystem(0o755, &nodes());
        let mut ours = theirs.clone();
        for (at, byte) in changes {
            ours[at] = byte;
        }
        for ours in [&ours[..], &ours[..length], &theirs[..length]] {
            let _ = inodes::read(ours);
            let _ = inodes::compare(&theirs, ours);
            let _ = erofs::damage(ours);
            let _ = erofs::compare(&theirs, ours);
        }
    }
}
