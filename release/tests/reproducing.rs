//! `cloister-release reproduce`, from the sources' repository to the report. The build of these
//! sources is a stand-in that hands out an image which is committed beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;
mod released;

use std::fs;
use std::path::Path;

use released::Released;
use serde_json::Value;

fn outcome(told: &Value, name: &str) -> String {
    let artifacts = told["artifacts"].as_array().unwrap();
    let one = artifacts.iter().find(|one| one["name"] == name).unwrap();
    one["outcome"].as_str().unwrap().to_owned()
}

#[test]
fn an_honest_release_is_reproduced() {
    let released = Released::new();
    for form in ["statement.json", "bundle.json"] {
        let (code, told) = released.told(&[form, "--config", "config.toml"]);
        assert_eq!((code, &told["equal"]), (0, &true.into()), "{told:#}");
        assert_eq!(
            (&told["verdict"], &told["complete"]),
            (&"equal".into(), &true.into())
        );
        let left = released.site.path("work").read_dir().unwrap();
        let left = left.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        assert_eq!(left.filter(|name| name.contains("scratch")).count(), 0);
        assert_eq!(told["facts"]["lock"], "as stated");
        assert_eq!(told["facts"]["registers"], "as stated");
        assert_eq!(outcome(&told, "disk.img"), "equal");
    }
    let output = released.run(&["statement.json", "--without-config"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("equal      image-vmlinuz "), "{text}");
    let all = "INCOMPLETE: 10 artifact(s) are equal, and not all was compared";
    assert!(text.contains(all), "{text}");
    let (_, told) = released.told(&["statement.json", "--without-config"]);
    assert_eq!(
        (&told["verdict"], &told["equal"]),
        (&"incomplete".into(), &Value::Null)
    );
    assert_eq!(
        (&told["complete"], &told["not_compared"][0]),
        (&false.into(), &"stated registers".into())
    );
    assert!(text.contains("not built  disk.img "), "{text}");
    assert!(
        text.contains("6 artifact(s) need the configuration"),
        "{text}"
    );
    // The published artifacts bring the configuration with them.
    fs::create_dir(released.site.path("published")).unwrap();
    fs::rename(
        released.site.path("out"),
        released.site.path("published/assembled"),
    )
    .unwrap();
    let (code, _) = released.told(&["statement.json", "--against", "published"]);
    assert_eq!(code, 0);
}

#[test]
fn other_bits_are_found_and_explained() {
    let released = Released::new();
    let source = released.site.path("source");
    let line = String::from_utf8(common::BASE.to_vec()).unwrap();
    fs::write(
        source.join("built/cmdline"),
        line.replace("integrity", "none"),
    )
    .unwrap();
    let sums = source.join("built/SHA256SUMS");
    let text = fs::read_to_string(&sums).unwrap();
    let sum = |bytes: &[u8]| attest::Digest::<32>::sha256(bytes).to_string();
    let changed = fs::read(source.join("built/cmdline")).unwrap();
    fs::write(&sums, text.replace(&sum(common::BASE), &sum(&changed))).unwrap();
    released.commit();
    released.state("");
    let (code, told) = released.told(&["statement.json", "--config", "config.toml"]);
    assert_eq!(code, 6);
    assert_eq!(outcome(&told, "image-vmlinuz"), "equal");
    assert_eq!(told["first"], Value::Null);
    assert_eq!(
        told["contradictions"].as_array().unwrap().len(),
        1,
        "{told:#}"
    );

    let site = &released.site;
    let both = [
        "statement.json",
        "--config",
        "config.toml",
        "--against",
        ".",
    ];
    let (code, told) = released.told(&both);
    assert_eq!(code, 6);
    let first = &told["first"];
    assert_eq!(
        first["place"],
        serde_json::json!(["image-cmdline", "line 1"])
    );
    assert_eq!(first["owner"], "image/cmdline, image/profiles");
    let text = String::from_utf8(released.run(&both).stdout).unwrap();
    assert!(text.contains("follows    cloister.efi "), "{text}");
    assert!(
        text.contains("DIFFERENT: first image-cmdline → line 1"),
        "{text}"
    );
    // diffoscope is asked, too, where there is one.
    let program = site.path("bin/diffoscope");
    fs::create_dir(site.path("bin")).unwrap();
    let text = "#!/bin/sh\ntest -f \"$6\" && echo more >\"$4\"\n";
    common::script(&program, text);
    let (_, told) = released.told(&both);
    assert_eq!(told["facts"]["diffoscope"], "work/diffoscope.txt");
    // A published file that is not the stated one is worth a line of its own.
    fs::write(site.path("image/cmdline"), "something else\n").unwrap();
    let text = String::from_utf8(released.run(&both).stdout).unwrap();
    assert!(
        text.contains("the published file is not the stated one"),
        "{text}"
    );
}

#[test]
fn another_lock_than_stated_is_a_difference() {
    let released = Released::new();
    fs::write(
        released.site.path("source/image/deb.lock"),
        "another lock\n",
    )
    .unwrap();
    released.commit();
    released.state("");
    let (code, told) = released.told(&["statement.json", "--without-config"]);
    assert_eq!(code, 6);
    let says = told["contradictions"][0].as_str().unwrap();
    assert!(says.starts_with("the sources' lock is sha256:"), "{says}");
}

#[test]
fn a_tag_is_compared_with_the_published_files() {
    let released = Released::new();
    let said = released.fails(&["v1.0.0"]);
    assert!(said.contains("a tag does not say which bits"), "{said}");
    fs::create_dir(released.site.path("published")).unwrap();
    for (from, to) in [("image", "image"), ("out", "assembled")] {
        let to = Path::new("published").join(to);
        fs::rename(
            released.site.path(from),
            released.site.path(to.to_str().unwrap()),
        )
        .unwrap();
    }
    let (code, told) = released.told(&["v1.0.0", "--against", "published"]);
    assert_eq!((code, outcome(&told, "disk.img")), (0, "equal".to_owned()));
    let said = released.fails(&["v9", "--against", "published"]);
    assert!(said.contains("source has no revision v9"), "{said}");
    // A disk alone can be compared as well, but not without what it holds.
    fs::create_dir(released.site.path("alone")).unwrap();
    let disk = released.site.path("published/assembled/disk.img");
    fs::rename(disk, released.site.path("alone/disk.img")).unwrap();
    let alone = ["v1.0.0", "--against", "alone"];
    assert!(
        released
            .fails(&alone)
            .contains("UKI and disk hold a configuration, which is not")
    );
    let said = released.fails(&[&alone[..], &["--without-config"]].concat());
    assert!(said.contains("nothing was compared"), "{said}");
    let (code, told) = released.told(&[&alone[..], &["--config", "config.toml"]].concat());
    assert_eq!((code, told["artifacts"].as_array().unwrap().len()), (0, 1));
    let said = released.fails(&["main;x", "--against", "published"]);
    assert!(said.contains("cannot be a tag or commit"), "{said}");
}

#[test]
fn uncommitted_changes_are_said_and_refused() {
    let released = Released::new();
    fs::write(
        released.site.path("source/built/vmlinuz"),
        "changed, not committed",
    )
    .unwrap();
    let (code, told) = released.told(&["statement.json", "--without-config"]);
    assert_eq!(code, 0);
    let says = told["facts"]["dirty"].as_str().unwrap();
    assert!(says.starts_with("1 uncommitted change(s)"), "{says}");
    released.state("-dirty");
    let said = released.fails(&["statement.json", "--without-config"]);
    assert!(
        said.contains("changes that were never committed, so nobody has them"),
        "{said}"
    );
}

#[test]
fn what_stands_in_the_way_is_named() {
    let released = Released::new();
    let site = &released.site;
    let said = released.fails(&["statement.json"]);
    assert!(
        said.contains("the release holds configuration sha256:"),
        "{said}"
    );
    fs::write(site.path("other.toml"), "version = 1\n").unwrap();
    let said = released.fails(&["statement.json", "--config", "other.toml"]);
    assert!(said.contains("other.toml has SHA-256 "), "{said}");
    // Nothing of somebody else's is removed; what an interrupted run left is.
    fs::create_dir(site.path("work")).unwrap();
    fs::write(site.path("work/letter"), "mine").unwrap();
    let said = released.fails(&["statement.json", "--without-config"]);
    assert!(
        said.contains("holds something else, and nothing of it was touched"),
        "{said}"
    );
    assert!(site.path("work/letter").exists());
    fs::rename(
        site.path("work/letter"),
        site.path("work/.cloister-reproduce"),
    )
    .unwrap();
    fs::create_dir_all(site.path("work/image")).unwrap();
    fs::write(site.path("work/image/half"), "of an interrupted run").unwrap();
    let (code, _) = released.told(&["statement.json", "--without-config"]);
    assert_eq!(code, 0);
    assert!(!site.path("work/image/half").exists());

    fs::write(site.path("source/image/build.sh"), "#!/bin/sh\nexit 3\n").unwrap();
    released.commit();
    released.state("");
    let said = released.fails(&["statement.json", "--without-config"]);
    assert!(
        said.contains("image/build.sh failed (exit status: 3)"),
        "{said}"
    );
    fs::remove_file(site.path("source/image/build.sh")).unwrap();
    released.commit();
    released.state("");
    let said = released.fails(&["statement.json", "--without-config"]);
    assert!(
        said.contains("these sources have no image/build.sh"),
        "{said}"
    );
    let said = released.fails(&["config.toml", "--without-config"]);
    assert!(
        said.contains("is neither a bundle nor an envelope nor a statement"),
        "{said}"
    );
}

#[test]
fn an_image_that_was_built_elsewhere_is_taken_as_it_is() {
    let released = Released::new();
    let arguments = [
        "statement.json",
        "--config",
        "config.toml",
        "--image",
        "image",
    ];
    let (code, told) = released.told(&arguments);
    assert_eq!(code, 0);
    assert!(
        told["facts"]["image"]
            .as_str()
            .unwrap()
            .contains("not built here")
    );
    // Sources at another commit are not those of the release, whatever they give.
    let stated = released.git(&["rev-parse", "HEAD"]);
    released.git(&["commit", "--quiet", "--allow-empty", "--message=y"]);
    let head = released.git(&["rev-parse", "HEAD"]);
    let (code, told) = released.told(&arguments);
    let says = format!(
        "the sources beside the image are at commit {head}, the release's at commit {stated}"
    );
    assert_eq!((code, &told["contradictions"][0]), (6, &says.into()));
    assert_eq!(told["facts"]["sources"], format!("source at commit {head}"));
    released.git(&["reset", "--quiet", "--hard", &stated]);
    fs::rename(released.site.path("source/.git"), released.site.path("git")).unwrap();
    let (code, told) = released.told(&arguments);
    assert_eq!(
        (code, &told["verdict"]),
        (6, &"incomplete".into()),
        "{told:#}"
    );
    fs::rename(released.site.path("git"), released.site.path("source/.git")).unwrap();
    released.site.set_part("os-release", b"ID=other\n");
    let (code, told) = released.told(&arguments);
    assert_eq!(
        (code, outcome(&told, "image-os-release")),
        (6, "different".to_owned())
    );
}

#[test]
fn artifacts_in_one_flat_folder_are_told_apart() {
    let released = Released::new();
    let site = &released.site;
    fs::create_dir(site.path("flat")).unwrap();
    for (from, prefix) in [("image", "image-"), ("out", "")] {
        for entry in site.path(from).read_dir().unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            fs::copy(&path, site.path("flat").join(format!("{prefix}{name}"))).unwrap();
        }
    }
    let arguments = ["v1.0.0", "--against", "flat"];
    let (code, told) = released.told(&arguments);
    assert_eq!((code, &told["verdict"]), (0, &"equal".into()), "{told:#}");
    assert_eq!(told["artifacts"].as_array().unwrap().len(), 16);
    // What the image lacks is not taken from what was assembled of it.
    fs::remove_file(site.path("flat/image-initrd")).unwrap();
    let (code, told) = released.told(&arguments);
    assert_eq!(
        (code, &told["verdict"]),
        (0, &"incomplete".into()),
        "{told:#}"
    );
    assert_eq!(told["not_compared"][0], "not published: image-initrd");
}
