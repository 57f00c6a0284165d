//! `cloister-release reproduce`, from the sources' repository to the report. The build of these
//! sources is a stand-in that hands out an image which is committed beside it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use attest::Digest;
use attest::release::Statement;
use common::{Logged, Site};
use release::reproduce::source::{self, FetchError};
use serde_json::Value;

const BUILD: &str = r#"#!/bin/sh
# build.sh --fresh --profile NAME --output DIR
[ "$1 $2 $3" = "--fresh --profile production" ] || exit 9
echo "building in $CLOISTER_CACHE" >&2
mkdir -p "$5" && cp "$(dirname "$0")/../built/"* "$5/"
"#;
const ENTER: &str = "#!/bin/sh\necho the tools are not here >&2\nexit 1\n";

/// A release of a site, and the repository that it was made from.
struct Released {
    site: Site,
}

impl Released {
    fn new() -> Self {
        let site = Site::new();
        site.assemble("out").unwrap();
        let source = site.path("source");
        fs::create_dir_all(source.join("image")).unwrap();
        for (name, text) in [("build.sh", BUILD), ("enter.sh", ENTER)] {
            common::script(&source.join("image").join(name), text);
        }
        fs::copy(site.path("deb.lock"), source.join("image/deb.lock")).unwrap();
        fs::create_dir(source.join("built")).unwrap();
        for entry in site.path("image").read_dir().unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, source.join("built").join(path.file_name().unwrap())).unwrap();
        }
        let released = Self { site };
        released.git(&["init", "--quiet", "--initial-branch=main"]);
        released.commit();
        released.git(&["tag", "v1.0.0"]);
        released.state("");
        released
    }

    fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
        let output = command
            .args(arguments)
            .current_dir(self.site.path("source"))
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=x"]);
    }

    /// States the release as made from the checked-out commit, with an ending to its name.
    fn state(&self, ending: &str) {
        let mut statement = self.site.statement(1).unwrap();
        let revision = self.git(&["rev-parse", "HEAD"]) + ending;
        statement.predicate.source_revision = revision.parse().unwrap();
        fs::write(self.site.path("statement.json"), statement.encode()).unwrap();
        let logged = self.site.path("releases");
        if logged.exists() {
            return;
        }
        let logged = Logged::new(&self.site);
        let bundle = logged.append(&statement);
        fs::write(self.site.path("bundle.json"), bundle.encode()).unwrap();
        // A certificate that parses; only the release part of the policy plays a role here.
        let root = include_str!("common/root.pem");
        let (signer, log) = (logged.signer.public(), logged.key.public());
        let text = format!(
            "version = 1\n[release]\nname = \"cloister\"\nprofile = \"production\"\n\
             signers = [\"{signer}\"]\nlog_origin = \"{}\"\nlog_key = \"{log}\"\n\
             minimum_version = 1\n[tpm]\nroots = [\"\"\"\n{root}\"\"\"]\n\
             secure_boot = \"not-required\"\n[evidence]\nplatforms = [\"tpm\"]\n[channel]\n\
             assurance = \"per-handshake\"\n",
            common::ORIGIN
        );
        fs::write(self.site.path("policy.toml"), text).unwrap();
    }

    /// Writes another statement, which says something else than the release's own.
    fn restate(&self, change: impl FnOnce(&mut Statement)) {
        let bytes = fs::read(self.site.path("statement.json")).unwrap();
        let mut statement = Statement::decode(&bytes).unwrap();
        change(&mut statement);
        let statement = Statement::new(statement.subject, statement.predicate);
        fs::write(self.site.path("other.json"), statement.encode()).unwrap();
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
        command
            .arg("reproduce")
            .args(arguments)
            .args(["--source", "source"]);
        command
            .args(["--output", "work"])
            .current_dir(self.site.path(""));
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.site.path("bin").display());
        command.env("PATH", path);
        command.env("CLOISTER_CACHE", self.site.path("no-cache"));
        command
    }

    fn told(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat());
        let json = serde_json::from_slice(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        (
            output.status.code().unwrap(),
            json.unwrap_or_else(|_| panic!("{stderr}")),
        )
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(" hint: "), "{stderr}");
        stderr
    }
}

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
