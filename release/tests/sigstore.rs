//! Bundles in Sigstore's form: what the program says of recorded ones, and by which exit code.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SIGNER: &str = "--certificate-identity \
    https://ci.example.org/cloister/release.yml@refs/tags/v1 \
    --certificate-oidc-issuer https://issuer.example.org";

fn recorded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sigstore/tests/recorded")
}

fn run(arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_cloister-release"))
        .args(arguments.split_whitespace())
        .current_dir(recorded())
        .output()
        .unwrap()
}

fn code(arguments: &str) -> i32 {
    run(arguments).status.code().unwrap()
}

#[test]
fn a_release_in_sigstore_is_verified_and_shown() {
    let output = run(&format!(
        "--json sigstore verify --bundle keyless.json --trusted-root trusted_root.json {SIGNER}"
    ));
    assert!(output.status.success());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["release"], "cloister version 1");
    assert_eq!(report["vouched_for_by"], "https://issuer.example.org");
    assert_eq!(report["logged"], "entry 0 in rekor.local");
    assert_eq!(report["believed"], "trusted_root.json");
    let by_key = "sigstore verify --bundle first.json --trusted-root trusted_root.json";
    assert_eq!(code(&format!("{by_key} --key first.pub")), 0);
    assert_eq!(code(&format!("{by_key} --key second.pub")), 2);
}

#[test]
fn each_refusal_has_its_exit_code() {
    let verify =
        |bundle: &str, rest: &str| code(&format!("sigstore verify --bundle {bundle} {rest}"));
    let ours = "--trusted-root trusted_root.json";
    // Nobody is named who must have signed.
    assert_eq!(verify("keyless.json", ours), 1);
    let half = "--certificate-identity somebody";
    assert_eq!(verify("keyless.json", &format!("{ours} {half}")), 1);
    assert_eq!(verify("README.md", &format!("{ours} {SIGNER}")), 1);
    assert_eq!(
        verify(
            "keyless.json",
            &format!("--trusted-root first.json {SIGNER}")
        ),
        1
    );
    let other = SIGNER.replace("v1", "v2");
    assert_eq!(verify("keyless.json", &format!("{ours} {other}")), 4);
    assert_eq!(verify("foreign.json", &format!("{ours} {SIGNER}")), 4);
    // A key where a certificate is.
    assert_eq!(
        verify("keyless.json", &format!("{ours} --key first.pub")),
        4
    );
    // The built-in root knows none of these services.
    assert_eq!(verify("keyless.json", SIGNER), 3);
    assert_eq!(verify("first.json", "--key first.pub"), 5);
}

#[test]
fn the_conformance_protocol_takes_files_and_digests() {
    let folder = tempfile::tempdir().unwrap();
    let artifact = folder.path().join("artifact");
    std::fs::write(&artifact, "a release's artifact\n").unwrap();
    let digest = attest::Digest::<32>::sha256(b"a release's artifact\n");
    let verify = |what: &str| {
        code(&format!(
            "conformance verify-bundle --bundle file.json {SIGNER} \
             --trusted-root trusted_root.json {what}"
        ))
    };
    assert_eq!(verify(artifact.to_str().unwrap()), 0);
    assert_eq!(verify(&format!("sha256:{digest}")), 0);
    assert_eq!(verify("sha256:00"), 1);
    assert_eq!(verify("README.md"), 4);
}

#[test]
fn signing_says_which_program_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("cloister-release");
    std::fs::copy(env!("CARGO_BIN_EXE_cloister-release"), &alone).unwrap();
    let output = Command::new(&alone)
        .args(["sigstore", "sign", "--ambient"])
        .env("PATH", "")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: cloister-publish: No such file or directory (os error 2)\n \
         hint: the network needs it beside this program: `cargo build -p cloister-publish`\n"
    );
}
