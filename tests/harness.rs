//! The harness itself: a provisioned TPM, a machine that boots, and errors that name their cause.

use std::path::Path;
use std::time::Duration;

use agent::evidence::tpm::AK_CERTIFICATE_INDEX;
use signer::authority::Authority;
use support::accelerator::Accelerator;
use support::swtpm;
use support::tools::{Tools, repository};
use support::vm::{Machine, VmError};

/// A person's PATH may have no sbin, where mount and pivot_root stand.
#[test]
fn the_tools_run_with_a_persons_path() {
    let output = std::process::Command::new(repository().join("image/enter.sh"))
        .args(["--offline", "--", "true"])
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_provisioned_tpm_keeps_its_certificate() {
    let tools = Tools::locate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("Harness authority", 0x31);
    swtpm::provision(&tools, &folder.path().join("tpm"), &authority).unwrap();
    let swtpm = swtpm::Swtpm::for_commands(&tools, &folder.path().join("tpm")).unwrap();
    let certificate = swtpm
        .connect()
        .unwrap()
        .nv_read(AK_CERTIFICATE_INDEX)
        .unwrap();
    let text = String::from_utf8_lossy(&certificate).into_owned();
    assert!(
        text.contains("Harness authority"),
        "the certificate names its issuer"
    );
}

#[test]
fn a_missing_disk_is_named() {
    let tools = Tools::locate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::firmware(Accelerator::Emulation).disk(Path::new("/absent.img"));
    let error = machine.start(&tools, folder.path()).unwrap_err();
    assert!(matches!(&error, VmError::File { path, .. } if path == Path::new("/absent.img")));
}

#[test]
fn an_argument_that_qemu_refuses_is_shown() {
    let tools = Tools::locate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::firmware(Accelerator::Emulation).arguments(["-no-such-argument"]);
    let error = machine.start(&tools, folder.path()).unwrap_err();
    assert!(matches!(error, VmError::Start { .. }), "{error}");
    assert!(error.to_string().contains("-no-such-argument"), "{error}");
}

#[test]
fn firmware_starts_with_a_tpm_and_no_disk() {
    let tools = Tools::locate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("tpm");
    swtpm::provision(&tools, &state, &Authority::new("Harness authority", 0x32)).unwrap();
    let machine = Machine::firmware(Accelerator::Emulation).tpm(&state);
    let mut vm = machine.start(&tools, &folder.path().join("run")).unwrap();
    vm.wait_line("Start PXE", Duration::from_secs(120)).unwrap();
}
