//! A release of a site, and the repository that it was made from. The build of these sources is a
//! stand-in that hands out an image which is committed beside it.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "each test uses its part"
)]

use std::fs;
use std::process::{Command, Output};

use attest::release::Statement;
use serde_json::Value;

use crate::common::{Logged, ORIGIN, Site};

const BUILD: &str = r#"#!/bin/sh
# build.sh --fresh --profile NAME --output DIR
[ "$1 $2 $3" = "--fresh --profile production" ] || exit 9
echo "building in $CLOISTER_CACHE" >&2
mkdir -p "$5" && cp "$(dirname "$0")/../built/"* "$5/"
"#;
const ENTER: &str = "#!/bin/sh\necho the tools are not here >&2\nexit 1\n";

/// A release of a site, and the repository that it was made from.
pub struct Released {
    pub site: Site,
}

impl Released {
    pub fn new() -> Self {
        let site = Site::new();
        site.assemble("out").unwrap();
        let source = site.path("source");
        fs::create_dir_all(source.join("image")).unwrap();
        for (name, text) in [("build.sh", BUILD), ("enter.sh", ENTER)] {
            crate::common::script(&source.join("image").join(name), text);
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

    pub fn git(&self, arguments: &[&str]) -> String {
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

    pub fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=x"]);
    }

    /// States the release as made from the checked-out commit, with an ending to its name.
    pub fn state(&self, ending: &str) {
        let mut statement = self.site.statement(1).unwrap();
        let revision = self.git(&["rev-parse", "HEAD"]) + ending;
        statement.predicate.source_revision = revision.parse().unwrap();
        fs::write(self.site.path("statement.json"), statement.encode()).unwrap();
        let logged = self.site.path("releases.log");
        if logged.exists() {
            return;
        }
        let logged = Logged::new(&self.site);
        let bundle = logged.append(&statement);
        fs::write(self.site.path("bundle.json"), bundle.encode()).unwrap();
        // A certificate that parses; only the release part of the policy plays a role here.
        let root = include_str!("../common/root.pem");
        let (signer, log) = (logged.signer.public(), logged.key.public());
        let text = format!(
            "version = 1\n[release]\nname = \"cloister\"\nprofile = \"production\"\n\
             signers = [\"{signer}\"]\nlog_origin = \"{}\"\nlog_key = \"{log}\"\n\
             minimum_version = 1\n[tpm]\nroots = [\"\"\"\n{root}\"\"\"]\n\
             secure_boot = \"not-required\"\n[evidence]\nplatforms = [\"tpm\"]\n[channel]\n\
             assurance = \"per-handshake\"\n",
            ORIGIN
        );
        fs::write(self.site.path("policy.toml"), text).unwrap();
    }

    /// Writes another statement, which says something else than the release's own.
    pub fn restate(&self, change: impl FnOnce(&mut Statement)) {
        let bytes = fs::read(self.site.path("statement.json")).unwrap();
        let mut statement = Statement::decode(&bytes).unwrap();
        change(&mut statement);
        let statement = Statement::new(statement.subject, statement.predicate);
        fs::write(self.site.path("other.json"), statement.encode()).unwrap();
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
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

    pub fn told(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat());
        let json = serde_json::from_slice(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        (
            output.status.code().unwrap(),
            json.unwrap_or_else(|_| panic!("{stderr}")),
        )
    }

    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(" hint: "), "{stderr}");
        stderr
    }
}
