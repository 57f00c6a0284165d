//! The program: a whole release by its commands, and what a person reads when it fails.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use common::{ORIGIN, Site};

/// Runs the program in the site's folder.
fn run(site: &Site, arguments: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
    command
        .args(arguments.split_whitespace())
        .current_dir(site.path(""));
    command.output().unwrap()
}

fn done(site: &Site, arguments: &str) -> serde_json::Value {
    let output = run(site, &format!("{arguments} --json"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Checks exit code and standard error of a command that fails.
fn fails(site: &Site, arguments: &str, code: i32, stderr: &str) {
    let output = run(site, arguments);
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        stderr,
        "{arguments}"
    );
    assert_eq!(output.status.code(), Some(code), "{arguments}");
    assert!(output.stdout.is_empty(), "{arguments}");
}

fn git(site: &Site) {
    for arguments in ["init --quiet", "commit --quiet --allow-empty --message=x"] {
        let mut command = Command::new("git");
        command.args(["-c", "user.name=t", "-c", "user.email=t@example.org"]);
        command
            .args(arguments.split(' '))
            .current_dir(site.path(""));
        assert!(command.output().unwrap().status.success());
    }
}

/// Everything up to a logged bundle; the public keys of signer and log.
fn release(site: &Site) -> (String, String) {
    git(site);
    let key = |name: &str| {
        let report = done(site, &format!("keygen --output {name}"));
        report["public_key"].as_str().unwrap().to_owned()
    };
    let keys = (key("signer.pem"), key("log.pem"));
    done(
        site,
        "assemble --image image --config config.toml --output out",
    );
    done(
        site,
        "statement --name cloister --version 1 --image image \
         --assembled out --lock deb.lock --allow-dirty --output statement.json",
    );
    done(
        site,
        "sign --statement statement.json --key signer.pem --output envelope.json",
    );
    let log = format!("--log releases --origin {ORIGIN} --key log.pem");
    done(site, &format!("log create {log}"));
    done(
        site,
        &format!(
            "log append {log} --signer {} --envelope envelope.json --output bundle.json",
            keys.0
        ),
    );
    policy(site, &keys.0, &keys.1);
    keys
}

fn policy(site: &Site, signer: &str, log: &str) {
    // A certificate that parses; only the release part of the policy plays a role here.
    let root = include_str!("common/root.pem");
    let text = format!(
        "version = 1\n[release]\nname = \"cloister\"\nprofile = \"production\"\n\
         signers = [\"{signer}\"]\nlog_origin = \"{ORIGIN}\"\nlog_key = \"{log}\"\n\
         minimum_version = 1\nmaximum_age_days = \"any\"\nminimum_witnesses = 0\n\
         witnesses = []\nminimum_rebuilders = 0\nrebuilders = []\n\
         [tpm]\nroots = [\"\"\"\n{root}\"\"\"]\n\
         secure_boot = \"not-required\"\n[evidence]\nplatforms = [\"tpm\"]\n[channel]\n\
         assurance = \"per-handshake\"\n"
    );
    fs::write(site.path("policy.toml"), text).unwrap();
}

#[test]
fn a_release_goes_all_the_way() {
    let site = Site::new();
    let (_, log_key) = release(&site);
    let measured = done(&site, "measure --uki out/cloister.efi");
    let statement = fs::read_to_string(site.path("statement.json")).unwrap();
    let statement: serde_json::Value = serde_json::from_str(&statement).unwrap();
    let stated = &statement["predicate"]["reference_values"]["tpm"];
    assert_eq!(&measured["registers"], stated);
    assert_eq!(measured["events"].as_array().unwrap().len(), 18);
    let verified = done(
        &site,
        "verify --bundle bundle.json --policy policy.toml --artifacts out",
    );
    assert_eq!(verified["verified"], true);
    done(&site, "attach --disk out/disk.img --bundle bundle.json");
    let read = format!("--log releases --origin {ORIGIN} --log-key {log_key}");
    assert_eq!(done(&site, &format!("log show {read}"))["size"], 1);
    let note = run(&site, &format!("log checkpoint {read}")).stdout;
    assert_eq!(note, fs::read(site.path("releases/checkpoint")).unwrap());
}

#[test]
fn every_failure_names_its_cause_the_next_step_and_a_code() {
    let site = Site::new();
    release(&site);
    fails(
        &site,
        "keygen --output signer.pem",
        1,
        "error: signer.pem exists already, and a key is never overwritten\n \
         hint: choose another name, or move the old key away yourself\n",
    );
    fails(
        &site,
        "statement --name cloister --version 2 --image image \
         --assembled out --lock deb.lock --output statement.json",
        1,
        "error: . has 11 uncommitted change(s): nobody could rebuild this\n \
         hint: commit the changes, or mark the release by --allow-dirty\n",
    );
    fails(
        &site,
        "verify --bundle bundle.json --policy policy.toml --seen 7",
        4,
        "error: release version: 7 was accepted before, found 1\n \
         hint: the operator went back to an older release: ask why\n",
    );
    let key = |report: serde_json::Value| report["public_key"].as_str().unwrap().to_owned();
    let stranger = key(done(&site, "keygen --output stranger.pem"));
    policy(
        &site,
        &stranger,
        &key(done(&site, "public-key --key log.pem")),
    );
    fails(
        &site,
        "verify --bundle bundle.json --policy policy.toml",
        2,
        "error: release signature: by no key that the policy names\n \
         hint: if you trust its signer, name the key in release.signers\n",
    );
    policy(
        &site,
        &key(done(&site, "public-key --key signer.pem")),
        &stranger,
    );
    let output = run(&site, "verify --bundle bundle.json --policy policy.toml");
    assert_eq!(output.status.code(), Some(5));
    fs::remove_file(site.path("releases/tile/entries/000.p/1")).unwrap();
    fails(
        &site,
        &format!(
            "log append --log releases --origin {ORIGIN} --key log.pem --signer {stranger} \
             --envelope envelope.json --output bundle.json"
        ),
        5,
        "error: releases/tile/entries/000.p/1 is missing, and the checkpoint covers it: \
         entries were removed\n \
         hint: restore the whole folder from a copy of one moment; never edit it\n",
    );
    fs::set_permissions(site.path("log.pem"), fs::Permissions::from_mode(0o644)).unwrap();
    fails(
        &site,
        "public-key --key log.pem",
        1,
        "error: log.pem has mode 644: others than its owner can read it\n \
         hint: chmod 600 the key file, and ask who has read it\n",
    );
}

#[test]
fn misuse_is_told_apart_from_refusal() {
    let site = Site::new();
    assert_eq!(run(&site, "measure").status.code(), Some(1));
    assert_eq!(run(&site, "frobnicate").status.code(), Some(1));
    assert_eq!(run(&site, "--help").status.code(), Some(0));
    fails(
        &site,
        "measure --uki image/stub.efi",
        1,
        "error: the UKI does not have exactly one whole section .linux\n \
         hint: give a cloister.efi that `cloister-release assemble` made\n",
    );
}

#[test]
fn names_from_files_cannot_write_to_the_terminal() {
    let site = Site::new();
    let output = run(&site, "measure --uki \u{1b}[2J");
    assert!(!output.stderr.contains(&0x1b));
    assert!(String::from_utf8_lossy(&output.stderr).contains("\\u{1b}[2J"));
}

#[test]
fn a_full_file_system_is_one_clear_line() {
    let site = Site::new();
    fs::create_dir(site.path("small")).unwrap();
    let program = env!("CARGO_BIN_EXE_cloister-release");
    let script = format!(
        "mount -t tmpfs -o size=4m none small || exit 77; {program} assemble --image image \
         --config config.toml --output small/out; code=$?; ls -A small; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--user", "--map-root-user", "sh", "-c", &script]);
    let output = command.current_dir(site.path("")).output();
    let Some(output) = output
        .ok()
        .filter(|output| matches!(output.status.code(), Some(1)))
    else {
        eprintln!("SKIPPED, not tested: no mount namespace for a small file system");
        return;
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !stderr.starts_with("error: ") {
        eprintln!("SKIPPED, not tested: {stderr}");
        return;
    }
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert!(stderr.ends_with("hint: free space on that file system, then run the command again\n"));
    assert_eq!(stderr.lines().count(), 2);
    assert!(output.stdout.is_empty(), "something was left behind");
}

/// A policy for a release in Sigstore that was recorded, beside the root that it names.
fn sigstore_policy(site: &Site, identity: &str) {
    let root = include_str!("common/root.pem");
    let text = format!(
        "version = 2\n[release]\nname = \"cloister\"\nprofile = \"demo\"\n\
         minimum_version = 1\nmaximum_age_days = \"any\"\nminimum_rebuilders = 0\n\
         [release.sigstore]\nidentity = \"{identity}\"\n\
         issuer = \"https://issuer.example.org\"\n\
         trusted_root = {{ file = \"trusted_root.json\" }}\nrebuilders = []\n\
         [tpm]\nroots = [\"\"\"\n{root}\"\"\"]\n\
         secure_boot = \"not-required\"\n[evidence]\nplatforms = [\"tpm\"]\n[channel]\n\
         assurance = \"per-handshake\"\nreattest_seconds = 600\n"
    );
    fs::write(site.path("policy.toml"), text).unwrap();
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/sigstore/tests/recorded");
    for name in ["keyless.json", "file.json", "trusted_root.json"] {
        fs::copy(format!("{recorded}/{name}"), site.path(name)).unwrap();
    }
}

#[test]
fn a_bundle_of_either_kind_is_verified_by_its_policy_and_attached() {
    let site = Site::new();
    release(&site);
    let identity = "https://ci.example.org/cloister/release.yml@refs/tags/v{version}";
    sigstore_policy(&site, identity);
    let verified = done(&site, "verify --bundle keyless.json --policy policy.toml");
    assert_eq!(verified["verified"], true);
    assert_eq!(
        verified["signed_by"],
        "https://ci.example.org/cloister/release.yml@refs/tags/v1, \
         vouched for by https://issuer.example.org"
    );
    for bundle in ["keyless.json", "bundle.json"] {
        done(
            &site,
            &format!("attach --disk out/disk.img --bundle {bundle}"),
        );
        let attached = release::disk::attached(&site.path("out/disk.img")).unwrap();
        assert_eq!(attached, Some(fs::read(site.path(bundle)).unwrap()));
    }
    fails(
        &site,
        "attach --disk out/disk.img --bundle file.json",
        1,
        "error: Sigstore bundle: holds no statement\n \
         hint: give a bundle that `cloister-release log append` or `sigstore sign` wrote\n",
    );
    fails(
        &site,
        "verify --bundle bundle.json --policy policy.toml",
        4,
        "error: release bundle: of a log of its own, and the policy names Sigstore\n \
         hint: ask who gave you the policy for one that names how this server's releases are \
         signed\n",
    );
    sigstore_policy(&site, "https://ci.example.org/another");
    fails(
        &site,
        "verify --bundle keyless.json --policy policy.toml",
        4,
        "error: Sigstore bundle: not signed by the identity that the policy names\n \
         hint: if you trust who signed, name them in release.sigstore\n",
    );
}

/// No policy would count a log that is its own witness.
#[test]
fn a_log_is_not_its_own_witness() {
    let site = Site::new();
    let (_, log) = release(&site);
    fails(
        &site,
        &format!(
            "log cosign --log releases --origin {ORIGIN} --log-key {log} --key log.pem \
             --name witness.example.org/w --memory seen.note --first"
        ),
        1,
        "error: the witness has the log's own key: no policy counts it\n \
         hint: make the witness a key of its own: `keygen`\n",
    );
}
