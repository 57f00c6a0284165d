//! What an auditor is shown may be made to deceive: statements that say less than they seem to,
//! settings around the program, file systems that hold more than was asked for.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod builds;
mod common;
mod released;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use attest::Digest;
use builds::{Build, Builds};
use release::reproduce::source::{self, FetchError};
use release::tools::ToolError;
use released::Released;

fn equal() -> Builds {
    Builds::new(&Build::default(), &Build::default())
}

#[test]
fn a_statement_does_not_decide_how_much_of_it_is_checked() {
    let released = Released::new();
    let arguments = ["other.json", "--config", "config.toml"];
    // One artifact, a register and a configuration that are not the release's.
    released.restate(|statement| {
        statement
            .subject
            .retain(|one| one.name.as_str() == "image-os-release");
        statement.predicate.reference_values.tpm.sha256.pcr11 = Digest([9; 32]);
    });
    let (code, told) = released.told(&arguments);
    assert_eq!(
        (code, &told["verdict"]),
        (6, &"different".into()),
        "{told:#}"
    );
    let says = told["contradictions"].as_array().unwrap();
    assert_eq!(says.len(), 16, "{says:#?}");
    assert_eq!(
        says[0],
        "a boot of what was rebuilt shows other registers than are stated"
    );
    released.restate(|statement| {
        statement
            .subject
            .retain(|one| one.name.as_str() == "image-os-release");
        statement.predicate.configuration_digest = Digest([9; 32]);
    });
    assert!(
        released
            .fails(&arguments)
            .contains("config.toml has SHA-256 ")
    );
    assert!(
        released
            .fails(&["other.json"])
            .contains("the release holds configuration sha256:")
    );
    // Each name for itself, the lock, the profile and the configuration's two hashes.
    for name in [
        "disk.img",
        "image-SHA256SUMS",
        "image-root.verity",
        "image-vmlinuz",
    ] {
        released.restate(|statement| statement.subject.retain(|one| one.name.as_str() != name));
        let (code, told) = released.told(&arguments);
        let says = format!("the statement does not name {name}");
        assert_eq!(
            (code, &told["contradictions"]),
            (6, &serde_json::json!([says]))
        );
    }
    released.restate(|statement| statement.predicate.configuration_digest = Digest([9; 32]));
    let (code, told) = released.told(&["other.json", "--without-config"]);
    let says = "the stated configuration is not the stated config.toml";
    assert_eq!(
        (code, &told["contradictions"]),
        (6, &serde_json::json!([says]))
    );
    released.restate(|statement| statement.predicate.profile = "demo".parse().unwrap());
    let image = ["other.json", "--config", "config.toml", "--image", "image"];
    let (code, told) = released.told(&image);
    let says = "the image is of profile production, stated is demo";
    assert_eq!(
        (code, &told["contradictions"]),
        (6, &serde_json::json!([says]))
    );
}

#[test]
fn values_of_other_platforms_do_not_pass_uncompared() {
    let released = Released::new();
    released.restate(|statement| *statement = common::launched(statement.clone(), b"launched"));
    let (code, told) = released.told(&["other.json", "--config", "config.toml"]);
    assert_eq!(
        (code, &told["verdict"]),
        (6, &"incomplete".into()),
        "{told:#}"
    );
    assert_eq!(
        told["not_compared"],
        serde_json::json!(["stated values of snp"])
    );
    let (code, told) = released.told(&["other.json", "--without-config"]);
    assert_eq!((code, &told["complete"]), (0, &false.into()));
}

#[test]
fn a_statement_names_a_commit_and_nothing_that_moves() {
    let released = Released::new();
    let head = released.git(&["rev-parse", "HEAD"]);
    for revision in ["main", "HEAD", "v1.0.0", &head[..12], &"0A".repeat(20)] {
        let refused = source::check_commit(revision).unwrap_err();
        assert!(matches!(refused, FetchError::NoCommit(name) if name == *revision));
        released.restate(|statement| {
            statement.predicate.source_revision = revision.parse().unwrap();
        });
        let said = released.fails(&["other.json", "--config", "config.toml"]);
        assert!(
            said.contains("which is not a commit's whole name"),
            "{said}"
        );
    }
    source::check_commit(&"0a".repeat(20)).unwrap();
    source::check_commit(&"0a".repeat(32)).unwrap();
}

#[test]
fn git_around_the_caller_decides_nothing() {
    let released = Released::new();
    let site = &released.site;
    // A repository of the caller's, which the environment points to.
    fs::create_dir_all(site.path("mine")).unwrap();
    let mine = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
        let output = command
            .args(arguments)
            .current_dir(site.path("mine"))
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    mine(&["init", "--quiet", "--initial-branch=mine"]);
    mine(&["commit", "--quiet", "--allow-empty", "--message=x"]);
    // And settings of the caller's that change what is checked out.
    let home = site.path("home");
    fs::create_dir_all(home.join(".config/git")).unwrap();
    fs::write(home.join(".gitconfig"), "[core]\n\tautocrlf = true\n").unwrap();
    fs::write(home.join(".config/git/attributes"), "* text eol=crlf\n").unwrap();
    let arguments = ["statement.json", "--config", "config.toml"];
    let mut command = released.command(&arguments);
    command.env("GIT_DIR", site.path("mine/.git"));
    command.env("GIT_WORK_TREE", site.path("mine"));
    command.env("GIT_CONFIG_COUNT", "1");
    command.env("GIT_CONFIG_KEY_0", "core.autocrlf");
    command.env("GIT_CONFIG_VALUE_0", "true");
    command.env("HOME", &home).env_remove("XDG_CONFIG_HOME");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{stderr}");
    assert_eq!(mine(&["symbolic-ref", "HEAD"]), "refs/heads/mine\n");
    let lock = fs::read_to_string(site.path("work/source/image/deb.lock")).unwrap();
    assert_eq!(lock, "a lock\n");
}

#[test]
fn folders_that_the_caller_trusts_are_read() {
    let released = Released::new();
    let site = &released.site;
    let source = site.path("source");
    if std::os::unix::fs::chown(source.join(".git"), Some(12345), None).is_err() {
        eprintln!("SKIPPED: only root can give a folder away");
        return;
    }
    std::os::unix::fs::chown(&source, Some(12345), None).unwrap();
    let home = site.path("home");
    fs::create_dir_all(&home).unwrap();
    let code = || {
        let mut command = released.command(&["statement.json", "--config", "config.toml"]);
        command.env("HOME", &home).env_remove("XDG_CONFIG_HOME");
        command
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env_remove("GIT_CONFIG_GLOBAL");
        command.output().unwrap().status.code()
    };
    assert_eq!(code(), Some(1));
    let text = "[safe]\n\tdirectory = *\n";
    fs::write(home.join(".gitconfig"), text).unwrap();
    assert_eq!(code(), Some(0));
}

#[test]
fn the_statement_that_was_verified_is_the_one_that_is_used() {
    let released = Released::new();
    let site = &released.site;
    let more = ["--policy", "policy.toml", "--config", "config.toml"];
    let (code, told) = released.told(&[&["bundle.json"][..], &more].concat());
    assert_eq!(code, 0);
    assert!(
        told["facts"]["signature"]
            .as_str()
            .unwrap()
            .ends_with(", logged")
    );
    // A statement that nobody signed is no release, whatever it says.
    let output = released.run(&[&["statement.json"][..], &more].concat());
    assert_eq!(output.status.code(), Some(2));
    // A pipe gives its bytes once: there is no second look for anybody to change.
    let pipe = site.path("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let bundle = fs::read(site.path("bundle.json")).unwrap();
    let writer = std::thread::spawn(move || fs::write(pipe, bundle));
    let output = released.run(&[&["pipe"][..], &more].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    writer.join().unwrap().unwrap();
}

#[test]
fn nobody_else_reaches_what_is_taken_apart() {
    let builds = equal();
    let folder = builds.path("");
    let enter = builds.path("source/image/enter.sh");
    let text = fs::read_to_string(&enter).unwrap();
    let seen = builds.path("seen");
    let note = format!(
        "into=${{4#--extract=}}; stat -c '%a %n' \"${{into%/*}}\" >>'{}'\nshift 2\n",
        seen.display()
    );
    common::script(&enter, &text.replacen("shift 2\n", &note, 1));
    fs::create_dir(builds.path("tmp")).unwrap();
    for arguments in [
        &["compare", "theirs", "ours", "--source", "source"][..],
        &["bill", "--image", "ours/image", "--source", "source"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        command.args(arguments).current_dir(&folder);
        let status = command.env("TMPDIR", builds.path("tmp")).status();
        assert!(status.unwrap().success());
    }
    let seen = fs::read_to_string(seen).unwrap();
    let names: BTreeSet<&str> = seen.lines().collect();
    let above = builds.path("tmp");
    let expected = format!("700 {}/cloister-scratch-", above.display());
    // One folder for each command, of another name each time, and none of it is left.
    assert_eq!((seen.lines().count(), names.len()), (3, 2), "{seen}");
    assert!(
        names.iter().all(|name| name.starts_with(&expected)),
        "{seen}"
    );
    assert_eq!(above.read_dir().unwrap().count(), 0);
}

#[test]
fn what_unpacks_to_more_than_is_allowed_is_refused() {
    let builds = equal();
    let tools = release::tools::Tools::of(&builds.path("source")).unwrap();
    let (packed, to) = (builds.path("packed"), builds.path("unpacked"));
    fs::write(&packed, vec![7; 100_000]).unwrap();
    tools.unpack_zstd(&packed, &to, 100_000).unwrap();
    assert_eq!(fs::read(&to).unwrap(), vec![7; 100_000]);
    let error = tools.unpack_zstd(&packed, &to, 99_999).unwrap_err();
    assert!(
        matches!(error, ToolError::TooLarge { most: 99_999, .. }),
        "{error:?}"
    );
    fs::remove_file(&packed).unwrap();
    let error = tools.unpack_zstd(&packed, &to, 1).unwrap_err();
    assert!(matches!(error, ToolError::Failed { .. }), "{error:?}");
}

/// A mistyped path is no tag, and no policy is dropped for one.
#[test]
fn what_is_no_file_is_not_taken_for_a_tag_where_a_signature_is_asked_for() {
    let released = Released::new();
    for arguments in [
        &["v1.0.0", "--against", "site/out", "--policy", "policy.toml"][..],
        &["bundel.json", "--against", "site/out"],
    ] {
        let said = released.fails(arguments);
        assert!(
            said.contains(&format!("{} is no file", arguments[0])),
            "{said}"
        );
    }
}

/// A build that is run for somebody else's release finds packages, and nothing else of ours.
#[test]
fn a_build_gets_nothing_of_the_everyday_cache_but_packages() {
    let released = Released::new();
    let cache = released.site.path("everyday");
    for folder in ["debs", "tools-1", "build-1", "crates-1", "programs-1"] {
        std::fs::create_dir_all(cache.join(folder)).unwrap();
    }
    let mut command = released.command(&["statement.json", "--config", "config.toml"]);
    let output = command.env("CLOISTER_CACHE", &cache).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let got = std::fs::read_dir(released.site.path("work/cache")).unwrap();
    let names: Vec<_> = got.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["debs"]);
}

/// What an earlier run built is not removed by the run that is asked about it.
#[test]
fn nothing_that_is_asked_about_is_emptied() {
    let released = Released::new();
    let (code, _) = released.told(&["statement.json", "--config", "config.toml"]);
    assert_eq!(code, 0);
    let image = released.site.path("work/image");
    for option in ["--image", "--against", "--policy"] {
        let said = released.fails(&["statement.json", option, "work/image", "--without-config"]);
        assert!(
            said.contains("work/image is in work, which is emptied"),
            "{said}"
        );
        assert!(image.join("root.erofs").exists());
    }
}
