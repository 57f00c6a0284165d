//! The auditor's commands: inputs, bill, owns, compare and reproduce, by the program itself.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod builds;
mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use attest::Digest;
use builds::{Build, Builds};
use common::Site;
use release::bill::BillError;
use release::compare::{Side, SideError};
use release::root::{Deviation, RootError};
use serde_json::Value;

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    command
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

/// Exit code and JSON of a command that did its work.
fn told(folder: &Path, arguments: &[&str]) -> (i32, Value) {
    let output = run(folder, &[arguments, &["--json"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    let json = serde_json::from_slice(&output.stdout);
    (
        output.status.code().unwrap(),
        json.unwrap_or_else(|_| panic!("{arguments:?}: {stderr}")),
    )
}

/// What a command that failed wrote.
fn fails(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        stderr.contains("error: ") && stderr.contains(" hint: "),
        "{stderr}"
    );
    stderr
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn equal() -> Builds {
    Builds::new(&Build::default(), &Build::default())
}

/// Packages whose own copyright file or metadata names no licence in a form that can be read out.
const UNNAMED: [&str; 8] = [
    "cuda-toolkit",
    "libcrypt-dev",
    "libcrypt1",
    "libgc1",
    "libpixman-1-0",
    "libpython3-stdlib",
    "python3",
    "python3-minimal",
];

#[test]
fn every_row_of_every_lock_is_listed_with_its_licence() {
    let (_, told) = told(repository(), &["inputs"]);
    let inputs = told["inputs"].as_array().unwrap();
    let hashes: BTreeSet<&str> = inputs
        .iter()
        .flat_map(|input| input["sha256"].as_array().unwrap())
        .map(|hash| hash.as_str().unwrap())
        .collect();
    // Whatever looks like a hash in a lock is an input.
    let mut count = 0;
    for lock in [
        "image/deb.lock",
        "Cargo.lock",
        "tests/demo-model/requirements.txt",
    ] {
        let text = fs::read_to_string(repository().join(lock)).unwrap();
        let rows = text.lines().filter(|line| !line.starts_with('#'));
        let words = rows.flat_map(|row| row.split(|c: char| !c.is_ascii_alphanumeric()));
        let digits = |word: &&str| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit());
        for hash in words.filter(digits) {
            assert!(hashes.contains(hash), "{lock}: {hash}");
            count += 1;
        }
    }
    assert!(count > 300);
    for input in inputs {
        let licence = input["licence"].as_str().unwrap_or("unknown");
        let named = licence != "unknown" || UNNAMED.contains(&input["name"].as_str().unwrap());
        let known = named && input["licence"].is_string() && input["bytes"].is_u64();
        assert!(
            known,
            "{} has no row in image/licences.lock: `make licences`",
            input["name"]
        );
        assert!(
            !input["used_for"].as_array().unwrap().is_empty(),
            "{}",
            input["name"]
        );
    }
    let python = inputs.iter().find(|input| input["kind"] == "python");
    let python = python.unwrap();
    let origin = format!("pypi:{}", python["name"].as_str().unwrap());
    assert_eq!(python["origin"], origin);
    // What an input is used for follows from the manifests: tests bring no crate into the image.
    let of = |name: &str| inputs.iter().find(|input| input["name"] == name).unwrap();
    assert_eq!(of("proptest")["used_for"].as_array().unwrap().len(), 1);
    assert_eq!(of("snow")["used_for"][0], "image");
}

#[test]
fn what_vouches_for_the_lock_is_shown() {
    let builds = equal();
    let lock = builds.path("source").join(builds::LOCK);
    let text = fs::read_to_string(&lock).unwrap();
    fs::write(
        &lock,
        format!("# evidence debian trixie 20261120T021110Z key:K\n{text}"),
    )
    .unwrap();
    let (_, told) = told(&builds.path(""), &["inputs", "--source", "source"]);
    assert_eq!(told["evidence"][0], "debian trixie 20261120T021110Z key:K");
    // What the workflow measures with is a configuration.
    attest::Configuration::parse(include_bytes!("site.toml")).unwrap();
}

#[test]
fn a_lock_that_is_damaged_is_named_with_its_line() {
    let builds = equal();
    let lock = builds.path("source").join(builds::LOCK);
    let text = fs::read_to_string(&lock).unwrap();
    let listed =
        |builds: &Builds| fails(builds.path("").as_path(), &["inputs", "--source", "source"]);
    fs::write(&lock, text.replacen("amd64", "amd64 more", 1)).unwrap();
    assert!(listed(&builds).contains("image/deb.lock, line 2: not of the form"));
    fs::write(&lock, &text[..text.len() - 90]).unwrap();
    assert!(listed(&builds).contains("line 9: "));
    fs::remove_file(&lock).unwrap();
    assert!(listed(&builds).contains("cannot read source/image/deb.lock"));
}

#[test]
fn a_bill_covers_every_file_and_is_the_same_each_time() {
    let builds = equal();
    let folder = builds.path("");
    let arguments = ["bill", "--image", "ours/image", "--source", "source"];
    let (code, _) = told(&folder, &arguments);
    assert_eq!(code, 0);
    let bill = folder.join("ours/image/sbom.spdx.json");
    let bytes = fs::read(&bill).unwrap();
    told(
        &folder,
        &[&arguments[..], &["--output", "again.json"]].concat(),
    );
    assert_eq!(fs::read(folder.join("again.json")).unwrap(), bytes);

    // A root that was read back elsewhere gives the same, without any tool.
    let elsewhere = ["--root", "ours-root", "--output", "elsewhere.json"];
    fs::remove_file(builds.path("source/image/enter.sh")).unwrap();
    told(&folder, &[&arguments[..], &elsewhere].concat());
    assert_eq!(fs::read(folder.join("elsewhere.json")).unwrap(), bytes);

    let bill: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(bill["spdxVersion"], "SPDX-2.3");
    assert_eq!(bill["creationInfo"]["created"], "2026-11-01T00:00:00Z");
    let list = |name: &str| bill[name].as_array().unwrap().clone();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    let ids: Vec<String> = ["packages", "files"]
        .iter()
        .flat_map(|name| list(name))
        .map(|one| text(&one, "SPDXID"))
        .collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
    let relations = list("relationships");
    for relation in &relations {
        for end in ["spdxElementId", "relatedSpdxElement"] {
            let id = text(relation, end);
            assert!(id == "SPDXRef-DOCUMENT" || ids.contains(&id), "{id}");
        }
    }
    // Each file of the root is there, by its hash, with exactly one origin.
    let manifest = fs::read(folder.join("ours/image/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let files = list("files");
    let folders = |listed: &&Value| listed["sha256"].is_string() || listed["link"].is_string();
    let listed = manifest["files"].as_array().unwrap().iter();
    let listed: Vec<&Value> = listed.filter(folders).collect();
    for listed in &listed {
        let name = format!("./root{}", text(listed, "path"));
        let file = files.iter().find(|file| file["fileName"] == *name).unwrap();
        if let Some(sha256) = listed["sha256"].as_str() {
            assert_eq!(file["checksums"][1]["checksumValue"], sha256);
        }
        let origins = relations
            .iter()
            .filter(|relation| relation["spdxElementId"] == file["SPDXID"]);
        assert_eq!(origins.count(), 1, "{name}");
    }
    assert_eq!(files.len(), listed.len() + 6);
    // And each package is there for something.
    for package in list("packages") {
        let id = text(&package, "SPDXID");
        let ends = ["spdxElementId", "relatedSpdxElement"];
        let named = |relation: &Value| ends.iter().any(|end| relation[end] == *id);
        assert!(relations.iter().any(named), "{id}");
    }
    for name in ["zlib1g", "linux-image-6.12", "zstd", "one", "verity-init"] {
        assert!(
            list("packages")
                .iter()
                .any(|package| package["name"] == name),
            "{name}"
        );
    }
}

#[test]
fn a_bill_of_another_image_or_lock_is_refused() {
    let builds = equal();
    let folder = builds.path("");
    let bill = ["bill", "--image", "ours/image", "--source", "source"];
    let image = builds.path("ours/image");
    told(&folder, &bill);
    release::bill::check(&builds.path("source"), &image).unwrap();
    fs::write(image.join("cmdline"), "panic=0\n").unwrap();
    let stale = release::bill::check(&builds.path("source"), &image).unwrap_err();
    assert!(matches!(stale, release::bill::BillError::Stale { .. }));
    fs::write(image.join("cmdline"), "panic=-1\n").unwrap();
    release::bill::check(&builds.path("source"), &image).unwrap();
    // Whatever the bill is made of makes another bill: dates, and manifests of our own crates.
    let source = builds.path("source");
    let dated = fs::read(source.join("mkosi.conf")).unwrap();
    fs::write(source.join("mkosi.conf"), "SourceDateEpoch=1793491201\n").unwrap();
    assert!(release::bill::check(&source, &image).is_err());
    fs::write(source.join("mkosi.conf"), dated).unwrap();
    release::bill::check(&source, &image).unwrap();
    fs::create_dir(source.join("agent")).unwrap();
    fs::write(
        source.join("agent/Cargo.toml"),
        "[dev-dependencies]\none = \"1\"\n",
    )
    .unwrap();
    assert!(release::bill::check(&source, &image).is_err());
    let manifest = image.join("manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replacen("\"0755\"", "\"0711\"", 1)).unwrap();
    assert!(fails(&folder, &bill).contains("is not what manifest.json lists"));
    fs::write(&manifest, &text[..text.len() / 2]).unwrap();
    assert!(fails(&folder, &bill).contains("is no manifest of an image: not JSON"));
    fs::write(&manifest, &text).unwrap();
    let lock = builds.path("source").join(builds::LOCK);
    let mut newer = Build::default();
    newer.packages.insert("udev".to_owned(), "258-1".to_owned());
    fs::write(lock, builds::lock(&newer)).unwrap();
    assert!(fails(&folder, &bill).contains("holds udev 257.13-1, which image/deb.lock does not"));
}

#[test]
fn owners_are_named_in_root_initrd_and_among_artifacts() {
    let builds = equal();
    let folder = builds.path("");
    let owner = |path: &str| {
        let arguments = ["owns", path, "--image", "ours/image", "--source", "source"];
        let (code, told) = told(&folder, &arguments);
        assert_eq!(code, 0);
        let version = told["version"].as_str().unwrap_or_default();
        format!("{} {version}", told["owner"].as_str().unwrap())
    };
    assert_eq!(owner("/usr/bin/udevadm"), "udev 257.13-1");
    assert_eq!(owner("/bin/udevadm"), "udev 257.13-1");
    assert_eq!(owner("/etc/build.conf"), "image/rootfs/etc/build.conf ");
    assert_eq!(owner("initrd:/modules/a.ko.xz"), "linux-image-6.12 6.12-1");
    assert_eq!(owner("initrd:modules/order"), "image/initrd.modules ");
    assert!(owner("initrd:/init").starts_with("verity-init"));
    assert_eq!(owner("vmlinuz"), "linux-image-6.12 6.12-1");
    assert_eq!(owner("stub.efi"), "systemd-boot-efi 257.13-1");
    for path in [
        "/usr/bin/sh",
        "initrd:/modules/c.ko.xz",
        "initrd:/etc",
        "\u{1b}[2J",
    ] {
        let arguments = ["owns", path, "--image", "ours/image", "--source", "source"];
        let said = fails(&folder, &arguments);
        assert!(said.contains("the image has no "), "{said}");
        assert!(!said.contains('\u{1b}'));
    }
}

/// A build whose every topic differs from the default one's.
fn changed() -> Build {
    let mut build = Build::default();
    build.set("/usr/lib/libz.so.1", b"library of 1.3.2\0");
    build.set(
        "/usr/lib/systemd/system/cloister-agent.service",
        b"[Service]\nExecStart=/usr/bin/cloister-agent serve --all\nProtectHome=no\n",
    );
    build
        .packages
        .insert("zlib1g".to_owned(), "1:1.3.2-1".to_owned());
    build.files[2].1 = 0o4755;
    build
}

#[test]
fn a_comparison_names_every_change_with_its_owner() {
    let builds = Builds::new(&Build::default(), &changed());
    fs::write(builds.path("ours/image/cmdline"), "panic=-1 quiet\n").unwrap();
    let folder = builds.path("");
    let sides = ["compare", "theirs", "ours", "--source", "source"];
    let (code, told) = told(&folder, &sides);
    assert_eq!(code, 6);
    let change = |topic: &str, what: &str| {
        let changes = told["topics"][topic].as_array().unwrap();
        let one = changes.iter().find(|change| change["what"] == what);
        one.unwrap_or_else(|| panic!("{topic}: {changes:?}"))
            .clone()
    };
    assert!(
        change("packages", "zlib1g")["after"]
            .as_str()
            .unwrap()
            .starts_with("1:1.3.2-1 ")
    );
    let library = change("files", "/usr/lib/libz.so.1");
    assert_eq!(library["owner"], "zlib1g 1:1.3.2-1");
    assert!(change("setuid", "/usr/bin/udevadm")["before"].is_null());
    assert_eq!(change("command-line", "quiet")["after"], "");
    let unit = "/usr/lib/systemd/system/cloister-agent.service: Service.";
    assert_eq!(
        change("units", &format!("{unit}ExecStart"))["owner"],
        Value::Null
    );
    let sandbox = change("sandbox", &format!("{unit}ProtectHome"));
    assert_eq!(
        (&sandbox["before"], &sandbox["after"]),
        (&"yes".into(), &"no".into())
    );
    assert!(change("artifacts", "image-root.erofs")["before"].is_string());
    assert_eq!(change("sizes", "image-cmdline")["after"], "15");
    // What no side can tell is not equal, it is unknown.
    assert!(told["topics"]["measurements"].is_null() && told["topics"]["release"].is_null());

    let text = String::from_utf8(run(&folder, &sides).stdout).unwrap();
    assert!(
        text.contains("~ /usr/lib/libz.so.1  (from zlib1g 1:1.3.2-1)"),
        "{text}"
    );
    assert!(
        text.contains("not compared: release, configuration, measurements, launch"),
        "{text}"
    );
    let markdown = run(&folder, &[&sides[..], &["--markdown"]].concat()).stdout;
    let markdown = String::from_utf8(markdown).unwrap();
    let row = "/cloister-agent.service: Service.ProtectHome</code> | <code>yes</code> |";
    assert!(markdown.contains(row), "{markdown}");
    let tables = markdown.lines().filter(|line| line.starts_with("| <code>"));
    assert!(
        tables
            .into_iter()
            .all(|line| line.matches('|').count() == 5)
    );
}

#[test]
fn conditions_decide_the_exit_code() {
    let builds = Builds::new(&Build::default(), &changed());
    let folder = builds.path("");
    let code = |after: &str, conditions: &[&str]| {
        let mut arguments = vec!["compare", "theirs", after, "--source", "source"];
        arguments.extend(
            conditions
                .iter()
                .flat_map(|condition| ["--fail-on", condition]),
        );
        run(&folder, &arguments).status.code().unwrap()
    };
    assert_eq!(code("theirs", &[]), 0);
    assert_eq!(code("ours", &[]), 6);
    assert_eq!(code("ours", &["nothing"]), 0);
    assert_eq!(code("ours", &["command-line"]), 0);
    assert_eq!(code("ours", &["command-line", "setuid"]), 6);
    assert_eq!(code("ours", &["growth=100000000"]), 0);
    assert_eq!(code("ours", &["measurements"]), 6);
    assert_eq!(code("ours", &["everything"]), 1);
    let said = fails(&folder, &["compare", "source", "ours"]);
    assert!(
        said.contains("neither manifest.json of an image nor cloister.efi"),
        "{said}"
    );
    assert!(fails(&folder, &["compare", "nowhere", "ours"]).contains("cannot read nowhere"));
    fs::write(folder.join("note"), "no statement").unwrap();
    let said = fails(&folder, &["compare", "note", "ours"]);
    assert!(
        said.contains("neither a bundle nor an envelope nor a statement"),
        "{said}"
    );
}

#[test]
fn releases_are_compared_by_their_statements() {
    let site = Site::new();
    site.assemble("out").unwrap();
    fs::write(site.path("one.json"), site.statement(1).unwrap().encode()).unwrap();
    let config = common::configuration().replace("8080", "8081");
    fs::write(site.path("config.toml"), config).unwrap();
    site.assemble("out").unwrap();
    fs::write(site.path("two.json"), site.statement(2).unwrap().encode()).unwrap();
    let (code, told) = told(&site.path(""), &["compare", "one.json", "two.json"]);
    assert_eq!(code, 6);
    let changes = |topic: &str| told["topics"][topic].as_array().unwrap().len();
    assert_eq!((changes("release"), changes("measurements")), (2, 6));
    assert!(told["topics"]["files"].is_null() && told["topics"]["sizes"].is_null());
}

/// What stands in a packed root and in no manifest.
fn extra(path: &str, mode: u32, text: &str) -> Build {
    let mut build = Build::default();
    let extra = (path.to_owned(), mode, text.as_bytes().to_vec());
    build.unlisted.push(extra);
    build
}

#[test]
fn a_root_with_more_than_its_manifest_lists_is_neither_compared_nor_billed() {
    for (path, mode) in [
        ("/usr/bin/su", 0o4755),
        ("/usr/lib/systemd/system/evil.service", 0o644),
    ] {
        let builds = Builds::new(&Build::default(), &extra(path, mode, "[Service]\nUser=0\n"));
        let folder = builds.path("");
        let (image, source) = (builds.path("ours/image"), builds.path("source"));
        let scratch = release::scratch::Scratch::within(&folder).unwrap();
        let tools = release::tools::Tools::of(&source).unwrap();
        let error = Side::read(&image, Some(&tools), scratch.path()).unwrap_err();
        let SideError::Root(RootError::Differs {
            path: at,
            deviation,
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((&*at, deviation), (path, Deviation::Unlisted));
        let error = release::bill::make(&source, &image, &builds.path("ours-root")).unwrap_err();
        let BillError::Root(RootError::Differs {
            path: at,
            deviation,
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((&*at, deviation), (path, Deviation::Unlisted));
        let sides = [
            "compare",
            "theirs",
            "ours",
            "--source",
            "source",
            "--fail-on",
            "nothing",
        ];
        assert!(fails(&folder, &sides).contains("it is not listed"));
    }
}

#[test]
fn without_tools_a_manifest_speaks_for_nothing() {
    let builds = Builds::new(&Build::default(), &extra("/usr/bin/su", 0o4755, ""));
    let folder = builds.path("");
    let sides = ["compare", "theirs", "ours", "--source", "nowhere"];
    let (_, told) = told(&folder, &sides);
    for topic in ["packages", "files", "setuid", "units", "sandbox"] {
        assert!(told["topics"][topic].is_null(), "{topic}");
    }
    let code = run(&folder, &[&sides[..], &["--fail-on", "setuid"]].concat());
    assert_eq!(code.status.code(), Some(6));
}

#[test]
fn a_unit_in_etc_is_seen_beside_the_one_that_it_hides() {
    let unit = |path: &str, text: &str| {
        let file = (path.to_owned(), 0o644, text.as_bytes().to_vec());
        (file.0, file.1, file.2, "image/rootfs".to_owned())
    };
    let build = |user: &str| {
        let mut build = Build::default();
        let text = format!("[Service]\nUser={user}\n");
        build
            .files
            .push(unit("/etc/systemd/system/cloister-agent.service", &text));
        build
    };
    let mut more = build("root");
    more.files.push(unit(
        "/etc/systemd/system/x.automount",
        "[Automount]\nWhere=/x\n",
    ));
    more.files.push(unit("/etc/systemd/system/y.swap", ""));
    let builds = Builds::new(&build("agent"), &more);
    let sides = ["compare", "theirs", "ours", "--source", "source"];
    let (_, told) = told(&builds.path(""), &sides);
    let changes = |topic: &str| -> Vec<String> {
        let changes = told["topics"][topic].as_array().unwrap().iter();
        changes
            .map(|change| change["what"].as_str().unwrap().to_owned())
            .collect()
    };
    let etc = "/etc/systemd/system/";
    assert_eq!(
        changes("sandbox"),
        [format!("{etc}cloister-agent.service: Service.User")]
    );
    let (where_, swap) = (
        format!("{etc}x.automount: Automount.Where"),
        format!("{etc}y.swap"),
    );
    assert_eq!(
        changes("units"),
        [format!("{etc}x.automount"), where_, swap]
    );
}

#[test]
fn a_command_line_that_says_something_else_differs() {
    for (before, after) in [
        ("a=1 a=2", "a=2 a=1"),
        ("a b", "b a"),
        ("a -- b", "-- a b"),
        ("a", "a a"),
        ("a", "a="),
        ("a  b", "a b"),
    ] {
        let builds = equal();
        fs::write(builds.path("theirs/image/cmdline"), before).unwrap();
        fs::write(builds.path("ours/image/cmdline"), after).unwrap();
        let sides = ["compare", "theirs", "ours", "--fail-on", "command-line"];
        let output = run(&builds.path(""), &sides);
        assert_eq!(output.status.code(), Some(6), "{before:?}, {after:?}");
    }
}

#[test]
fn launch_digests_are_compared() {
    let site = Site::new();
    site.assemble("out").unwrap();
    let state = |name: &str, launched: &[u8]| {
        let statement = common::launched(site.statement(1).unwrap(), launched);
        fs::write(site.path(name), statement.encode()).unwrap();
    };
    state("one.json", b"one");
    state("two.json", b"two");
    let sides = ["compare", "one.json", "two.json", "--fail-on"];
    let compared = |condition| told(&site.path(""), &[&sides[..], &[condition]].concat());
    let (code, told) = compared("launch");
    assert_eq!(code, 6);
    let change = &told["topics"]["launch"][0];
    assert_eq!(change["what"], "snp launch_digests qemu-epyc-v4-4 digest");
    assert_eq!(change["after"], Digest::<48>::sha384(b"two").to_string());
    assert_eq!(compared("any").0, 6);
    assert_eq!(compared("measurements").0, 0);
}
