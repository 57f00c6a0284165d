//! A start that fails says why, on one line.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::fs;

use common::machine::{Machine, Setup};

mod common;

/// Runs the agent to its end: exit code and what it said last.
fn failure(machine: &Machine) -> (Option<i32>, String) {
    let output = machine.command().output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (
        output.status.code(),
        text.lines().last().unwrap_or_default().to_owned(),
    )
}

fn prepared() -> Machine {
    Machine::prepare(Setup::default())
}

#[test]
fn a_port_in_use() {
    let machine = prepared();
    let _other = std::net::TcpListener::bind(machine.address).unwrap();
    let port = machine.address.port();
    let line = format!(
        "cloister-agent: port {port} is in use: stop what listens there, or configure another"
    );
    assert_eq!(failure(&machine), (Some(1), line));
}

#[test]
fn a_configuration_that_is_missing_or_wrong() {
    let machine = prepared();
    let config = machine.path("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}extra = 1\n")).unwrap();
    let (code, line) = failure(&machine);
    assert_eq!(code, Some(1));
    assert!(
        line.contains("is not a configuration: unknown field `extra`"),
        "{line}"
    );
    fs::remove_file(&config).unwrap();
    let (_, line) = failure(&machine);
    assert!(
        line.ends_with("config.toml: No such file or directory (os error 2)"),
        "{line}"
    );
}

#[test]
fn a_model_that_does_not_load() {
    let machine = prepared();
    let weights = machine.path("model").join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    let (code, line) = failure(&machine);
    assert_eq!(code, Some(1));
    assert!(
        line.starts_with("cloister-agent: cannot open the model: "),
        "{line}"
    );
    assert!(line.contains("model.safetensors"), "{line}");
    fs::write(&weights, bytes).unwrap();
    fs::remove_file(machine.path("model").join("tokenizer.json")).unwrap();
    let (_, line) = failure(&machine);
    assert!(line.contains("tokenizer.json"), "{line}");
}

#[test]
fn a_tpm_that_was_never_provisioned() {
    let setup = Setup {
        provisioned: false,
        ..Setup::default()
    };
    let machine = Machine::prepare(setup);
    let (code, line) = failure(&machine);
    assert_eq!(code, Some(1));
    let expected = "cloister-agent: cannot prove what this machine is: TPM command 0x169 refused";
    assert!(line.starts_with(expected), "{line}");
}

#[test]
fn no_tpm_at_all() {
    let mut machine = prepared();
    machine.swtpm.stop();
    fs::remove_file(machine.swtpm.socket()).ok();
    let (code, line) = failure(&machine);
    assert_eq!(code, Some(1));
    assert!(
        line.contains("cannot prove what this machine is: cannot open the TPM at "),
        "{line}"
    );
}

/// The disks of this machine hold no such volume; the agent waits half a minute for one to appear.
#[test]
fn a_model_volume_that_no_disk_holds() {
    let machine = prepared();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cloister-agent"));
    command
        .arg("prepare")
        .arg("--config")
        .arg(machine.path("config.toml"));
    command.arg("--model").arg(machine.path("mountpoint"));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let volume = format!("verity1:{}:{}:256", "ab".repeat(32), "cd".repeat(32));
    let expected = format!("cloister-agent: model volume {volume} not found on any disk: ");
    assert!(
        text.starts_with(&expected) && text.lines().count() == 1,
        "{text}"
    );
}
