//! A real TPM emulator for tests, and what provisioning does to it.

// Helpers of tests, which clippy does not see as tests; no test uses all of them.
#![allow(clippy::unwrap_used, clippy::panic, dead_code)]

use agent::evidence::tpm::{Command, NULL_HANDLE, Tpm, TpmError, Transport, Writer};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

pub(crate) mod client;
pub(crate) mod machine;
#[path = "../../../tests/src/nv.rs"]
pub(crate) mod nv;

/// The first start may have to make the tools tree.
const PATIENCE: Duration = Duration::from_secs(20 * 60);

/// `swtpm` with a fresh state in a temporary folder; stopped when dropped.
pub(crate) struct Swtpm {
    process: Child,
    folder: tempfile::TempDir,
}

impl Swtpm {
    /// The `swtpm` of this machine or, where it has none, of the locked tools tree.
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let process = command()
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
            .args(["--tpmstate", &format!("dir={}", folder.path().display())])
            .args(["--server", &format!("type=unixio,path={}", at("data"))])
            .args(["--ctrl", &format!("type=unixio,path={}", at("ctrl"))])
            .stdin(Stdio::null())
            .spawn();
        let mut swtpm = Self {
            process: process.unwrap(),
            folder,
        };
        let end = Instant::now() + PATIENCE;
        // The socket is there a moment before anyone listens.
        while UnixStream::connect(swtpm.socket()).is_err() {
            let status = swtpm.process.try_wait().unwrap();
            assert!(
                status.is_none(),
                "no TPM emulator: install swtpm, or `make tools`"
            );
            assert!(Instant::now() < end, "the TPM emulator makes no socket");
            std::thread::sleep(Duration::from_millis(10));
        }
        swtpm
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn stop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    pub(crate) fn connect(&self) -> Tpm<Transport> {
        Tpm::open(&self.socket()).unwrap()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn command() -> std::process::Command {
    let own = std::process::Command::new("swtpm")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    if own.is_ok_and(|status| status.success()) {
        return std::process::Command::new("swtpm");
    }
    let enter = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image/enter.sh");
    let mut command = std::process::Command::new(enter);
    command.arg("swtpm");
    command
}

/// `TPM2_Sign` of a digest from outside, with a null ticket.
pub(crate) fn sign(tpm: &mut Tpm<Transport>, key: u32, digest: &[u8]) -> Result<Vec<u8>, TpmError> {
    const CC_SIGN: u32 = 0x15D;
    const ST_HASHCHECK: u16 = 0x8024;
    let parameters = Writer::new().tpm2b(digest).u16(0x0018).u16(0x000C);
    let parameters = parameters
        .u16(ST_HASHCHECK)
        .u32(NULL_HANDLE)
        .tpm2b(&[])
        .finish();
    let response = tpm.execute(&Command::new(CC_SIGN, &[key], parameters).authorize(1))?;
    Ok(response.parameters)
}

/// `TPM2_PCR_Extend` of one SHA-384 register.
pub(crate) fn pcr_extend(tpm: &mut Tpm<Transport>, register: u8, digest: &[u8; 48]) {
    const CC_PCR_EXTEND: u32 = 0x182;
    let parameters = Writer::new().u32(1).u16(0x000C).bytes(digest).finish();
    let command = Command::new(CC_PCR_EXTEND, &[u32::from(register)], parameters).authorize(1);
    tpm.execute(&command).unwrap();
}
