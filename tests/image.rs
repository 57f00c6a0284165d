//! What goes into the image: packages by their hash alone, named files and nothing else, and the
//! same bits for everybody.

mod numbers;
mod packages;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::image;
use support::tools::repository;

#[track_caller]
fn refused(output: &Output, cause: &str, step: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(cause) && said.contains(step), "{said}");
}

/// Something else fills the disk as soon as the build has a folder to work in.
#[test]
fn a_disk_that_fills_up_in_mid_build_is_named_and_the_next_build_is_clean() {
    const SCRIPT: &str = r#"
        mount -t tmpfs -o size=1100m small "$1"
        cp -s "$2"/debs/*.deb "$(mkdir "$1/debs" && echo "$1/debs")"
        ln -s "$2"/tools-* "$2"/build-* "$1/"
        { until ls -d "$1"/work.*; do sleep 0.05; done
          head -c 1500M /dev/zero >"$1/other"; } >/dev/null 2>&1 &
        code=0
        "$3" --profile demo --output "$4" --programs "$5" || code=$?
        wait
        ls -A "$1" | grep -E '^(image|work)' >&2 || true
        rm "$1/other"
        [ "$code" = 1 ] && "$3" --profile demo --output "$4" --programs "$5"
    "#;
    image::parts("demo").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("cache")).unwrap();
    let programs = Command::new(repository().join("image/rust.sh"))
        .output()
        .unwrap();
    let programs = String::from_utf8(programs.stdout).unwrap();
    let programs = Path::new(programs.trim());
    let cache = programs.parent().unwrap();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "bash", "-euc", SCRIPT, "bash"])
        .args([&at("cache"), cache, &repository().join("image/build.sh")])
        .args([&at("out"), programs])
        .env("CLOISTER_CACHE", at("cache"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let full = format!("cloister: {} is full: ", at("cache").display());
    assert!(said.contains(&full), "{said}");
    // Nothing of it was left, and the same command now works.
    assert!(
        !said.contains("\nimage-") && !said.contains("\nwork."),
        "{said}"
    );
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(at("out/root.erofs").exists());
}

#[test]
fn an_unknown_profile_is_named() {
    let output = Command::new(repository().join("image/build.sh"))
        .args(["--profile", "debug", "--output", "/nonexistent/image"])
        .output()
        .unwrap();
    refused(&output, "there is no profile 'debug'", "demo production");
}

/// The manifest of the production image: every path in its root.
fn files(parts: &Path) -> Vec<Value> {
    let text = fs::read(parts.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    manifest["files"].as_array().unwrap().clone()
}

#[test]
fn the_root_holds_what_is_listed_and_nothing_to_take_hold_of() {
    let files = files(&image::parts("production").unwrap());
    let listed = fs::read_to_string(repository().join("image/root.list")).unwrap();
    let packages: BTreeSet<&str> = listed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut programs = BTreeSet::new();
    for file in &files {
        let path = file["path"].as_str().unwrap();
        let origin = file["from"].as_str().unwrap();
        let ours = ["image/rootfs", "image/root.list", "cloister-agent"].contains(&origin);
        assert!(ours || packages.contains(origin), "{path} from {origin}");
        // Set-user-id, set-group-id and sticky bits, and writing by others, have no place.
        let mode = file["mode"].as_str().unwrap_or("0777");
        let fit = ["0755", "0644"].contains(&mode) || file.get("link").is_some();
        assert!(fit, "{path} has mode {mode}");
        if path.starts_with("/usr/bin/") || path.starts_with("/usr/sbin/") {
            programs.insert(path);
        }
    }
    // No shell, no interpreter, nothing that fetches, installs or logs in.
    let expected = [
        "/usr/bin/cloister-agent",
        "/usr/bin/init",
        "/usr/bin/udevadm",
    ];
    assert_eq!(programs, BTreeSet::from(expected));
}

/// The packed root, read back: all of it is root's, as listed; a change of owner, mode or content
/// would be noticed, here and when an image is built.
#[test]
fn what_is_packed_is_roots_and_as_it_was_listed() {
    let parts = image::parts("production").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shell = |commands: &str| {
        let mut enter = Command::new(repository().join("image/enter.sh"));
        enter.args(["--offline", "--", "sh", "-euc", commands, "sh"]);
        enter.args([folder.path(), &parts, &repository().join("image")]);
        enter.output().unwrap()
    };
    let extract = shell("fsck.erofs --extract=$1/root --preserve-owner $2/root.erofs");
    assert!(extract.status.success(), "{extract:?}");
    let inspect = "python3 $3/inspect.py --manifest $2/manifest.json --root $1/root";
    let output = shell(inspect);
    assert!(output.status.success(), "{output:?}");
    for (change, back) in [
        ("chown 1", "chown 0"),
        ("chmod 600", "chmod 644"),
        (
            "python3 -c 'import os, sys; os.setxattr(sys.argv[1], \"user.x\", b\"1\")'",
            "python3 -c 'import os, sys; os.removexattr(sys.argv[1], \"user.x\")'",
        ),
        ("sed -i s/Cloister/Closer/", "true"),
    ] {
        let file = "$1/root/usr/lib/os-release";
        let changed = shell(&format!("{change} {file}"));
        if !changed.status.success() {
            eprintln!("SKIPPED, not tested: {change} (only root may)");
            continue;
        }
        let output = shell(inspect);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            said.contains("/usr/lib/os-release was not packed as"),
            "{change}: {said}"
        );
        assert!(!output.status.success());
        shell(&format!("{back} {file}"));
    }
}

/// A Nix that has its sandbox off, as far as the script can see: the options are printed.
#[test]
fn a_nix_with_no_sandbox_is_refused_with_the_options_it_lacks() {
    for settings in ["echo false", "exit 1"] {
        a_nix_that_answers(settings);
    }
}

fn a_nix_that_answers(settings: &str) {
    let folder = tempfile::tempdir().unwrap();
    let answers =
        format!("#!/bin/sh\ncase $* in --version) echo nix 2.30.1;; *) {settings};; esac\n");
    // By another process: a file just written here cannot be started while another thread forks.
    let write = Command::new("bash")
        .args([
            "-c",
            "printf %s \"$1\" >nix && chmod +x nix",
            "write",
            &answers,
        ])
        .current_dir(folder.path())
        .status();
    assert!(write.unwrap().success());
    let path = format!(
        "{}:{}",
        folder.path().display(),
        std::env::var("PATH").unwrap()
    );
    let output = Command::new(repository().join("nix/build.sh"))
        .arg("--output")
        .arg(folder.path())
        .env("PATH", path)
        .env_remove("CLOISTER_LOCKED_NIX")
        .output()
        .unwrap();
    refused(
        &output,
        "builds with no sandbox",
        "sandbox-fallback = false",
    );
}

/// What is stated has files of the same names as the image that it is stated of.
#[test]
fn an_image_is_not_written_over_with_what_is_stated_of_it() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("root.erofs"), "an image").unwrap();
    let output = Command::new(repository().join("nix/build.sh"))
        .args(["--stated", "--output"])
        .arg(folder.path())
        .output()
        .unwrap();
    refused(
        &output,
        "holds an image",
        "choose another folder with --output",
    );
}

/// A folder that begins with a dot, at the root, may hold somebody's settings.
#[test]
fn a_hidden_folder_of_the_root_is_no_place_to_work() {
    let Ok(hidden) = tempfile::Builder::new().prefix(".").tempdir_in("/") else {
        eprintln!("SKIPPED, not tested: a hidden folder of / (only root may make one)");
        return;
    };
    let enter = repository().join("image/enter.sh");
    let inside = Command::new(&enter)
        .args(["--offline", "--", "true"])
        .current_dir(hidden.path())
        .output();
    refused(
        &inside.unwrap(),
        "hidden folders of / are not shown",
        "clone elsewhere",
    );
    let outside = Command::new(&enter)
        .args(["--offline", "--", "ls", "-A", "/"])
        .output()
        .unwrap();
    assert!(outside.status.success());
    let shown = String::from_utf8(outside.stdout).unwrap();
    assert!(!shown.lines().any(|name| name.starts_with('.')), "{shown}");
}

#[test]
fn a_machine_without_user_namespaces_is_named() {
    let script = repository().join("nix/build.sh");
    let forbid = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" -- --version";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "bash", "-c", forbid])
        .arg(script)
        .output()
        .unwrap();
    refused(&output, "no user namespaces", "user.max_user_namespaces");
}

fn reproduces(script: &str, result: &str) -> String {
    let output = Command::new(repository().join(script)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(result), "{said}");
    said
}

/// Takes minutes: a stranger compiles the agent and packs the image anew.
#[test]
fn the_image_builds_to_the_same_bits_for_a_stranger() {
    let said = reproduces("image/reproduce.sh", "both builds have the same bits");
    let varied = |what: &str| said.contains(&format!("the stranger has another {what}\n"));
    for what in ["path", "environment", "day", "host name", "modes and times"] {
        assert!(varied(what), "{what}: {said}");
    }
    // Short of memory, or not root, a machine can do less.
    for what in ["file system", "user", "language"] {
        if !varied(what) {
            eprintln!("SKIPPED, not tested: a stranger with another {what}");
        }
    }
}

/// Takes minutes: Nix compiles the agent and packs the image, from locked files to the last bit.
#[test]
fn nix_makes_the_same_image() {
    let first = image::parts("demo").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(repository().join("nix/build.sh"))
        .args(["--profile", "demo", "--output"])
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let names = |folder: &Path| -> BTreeSet<_> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    assert_eq!(names(folder.path()), names(&first));
    for name in names(&first) {
        let bits = |folder: &Path| fs::read(folder.join(&name)).unwrap();
        assert!(bits(&first) == bits(folder.path()), "{name:?} differs");
    }
}

/// Both profiles, what is stated of them, and every step of the second way once more.
#[test]
#[ignore = "takes many minutes: make test-reproduce"]
fn both_ways_give_the_same_image_and_statement() {
    reproduces("nix/compare.sh", "both ways give the same bits");
}
