//! What `make demo` refuses before it boots anything: at once, by one line, with exit code 1.
#![allow(clippy::unwrap_used)] // helpers are no tests to clippy

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

/// The last line of what the demo says on standard error, and its exit code.
fn demo(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    let output = command.args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), said)
}

fn refused(arguments: &[&str], cause: &str) {
    let (code, said) = demo(arguments);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(cause), "{said}");
}

#[test]
fn misuse_is_refused_before_anything_runs() {
    refused(&["--prompt", "  "], "there is nothing to ask");
    refused(&["--port", "0"], "0 is not in 1..=65535");
    refused(&["--speed"], "unexpected argument '--speed'");
    assert_eq!(demo(&["--help"]).0, 0);
}

#[test]
fn a_port_in_use_is_refused_before_anything_runs() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let cause = format!("demo: cannot boot: port {port} of this machine is in use");
    refused(&["--port", &port], &cause);
}

#[test]
fn a_folder_in_use_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let lock = fs::File::create(folder.path().join(".lock")).unwrap();
    lock.lock().unwrap();
    fs::write(folder.path().join("policy.toml"), "of the first").unwrap();
    refused(&["--folder", path], "demo: another demo runs in ");
    let policy = fs::read_to_string(folder.path().join("policy.toml")).unwrap();
    assert_eq!(policy, "of the first");
}

#[test]
fn a_model_that_cannot_be_served_is_refused_with_its_cause() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let refused = |model: &Path, cause: &str| {
        let (model, site) = (model.to_str().unwrap(), at("site"));
        let arguments = ["--model", model, "--folder", site.to_str().unwrap()];
        refused(
            &arguments,
            &format!("demo: {model} cannot be served: {cause}"),
        );
    };
    refused(&at("none"), "config.json: No such file or directory");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/llama/f16-linear");
    let model = at("model");
    fs::create_dir(&model).unwrap();
    for entry in fs::read_dir(fixture).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let config = fs::read_to_string(model.join("config.json")).unwrap();
    let other = config.replace("LlamaForCausalLM", "MambaForCausalLM");
    fs::write(model.join("config.json"), other).unwrap();
    let cause = "config.json: the field architectures has a value that is not supported; give";
    refused(&model, cause);
    fs::write(model.join("config.json"), config).unwrap();
    fs::remove_file(model.join("tokenizer.json")).unwrap();
    refused(
        &model,
        "tokenizer.json is missing from the model folder; give",
    );
}

/// In a mount namespace of its own, with a file system that holds next to nothing.
#[test]
fn a_full_disk_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().display();
    let script = format!(
        "mount -t tmpfs -o size=64k none {place} && exec {} --folder {place}",
        env!("CARGO_BIN_EXE_demo")
    );
    let run = |namespaces: &[&str]| {
        let mut unshare = Command::new("unshare");
        let output = unshare
            .args(namespaces)
            .args(["sh", "-c", &script])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr.clone()).unwrap();
        said.contains("demo: ").then_some((output, said))
    };
    // As root, or as anybody where user namespaces are allowed.
    let found = run(&["--mount"]).or_else(|| run(&["--user", "--map-root-user", "--mount"]));
    let Some((output, said)) = found else {
        eprintln!("SKIPPED, not tested: no mount namespace for a small file system");
        return;
    };
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("demo: "), "{said}");
    assert!(last.contains("No space left on device"), "{said}");
}
