//! KVM where it works, emulation where not: chosen by trying.
//!
//! A machine may offer `/dev/kvm` and still not run a stock kernel (nested virtualisation that
//! lacks instructions), so a kernel is started for a moment: it must say its version.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::process::Process;
use crate::tools::{Tools, ToolsError};

/// The emulator runs AVX several times slower than what it replaces.
const EMULATED_CPU: &str = "max,avx=off,avx2=off";
const PATIENCE: Duration = Duration::from_secs(20);

/// What runs the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, one thread per virtual processor.
    Emulation,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum AcceleratorError {
    /// No tools.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// QEMU cannot be started, or a file cannot be made.
    #[error("cannot try KVM: {0}")]
    Try(#[from] io::Error),
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Emulation => "emulated (no usable KVM)",
        })
    }
}

impl Accelerator {
    /// Tries KVM with this kernel, in seconds.
    pub fn choose(tools: &Tools, kernel: &Path) -> Result<Self, AcceleratorError> {
        let usable = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        if usable && kernel_runs(tools, kernel)? {
            return Ok(Self::Kvm);
        }
        Ok(Self::Emulation)
    }

    /// QEMU's arguments.
    pub const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Emulation => ["-accel", "tcg,thread=multi", "-cpu", EMULATED_CPU],
        }
    }
}

fn kernel_runs(tools: &Tools, kernel: &Path) -> Result<bool, AcceleratorError> {
    let folder = tempfile::tempdir()?;
    let (serial, errors) = (folder.path().join("serial"), folder.path().join("errors"));
    let mut command = tools.command("qemu-system-x86_64")?;
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-machine",
        "q35",
        "-m",
        "256",
    ]);
    command.args(Accelerator::Kvm.arguments());
    command.args(["-display", "none", "-no-reboot", "-serial"]);
    command.arg(format!("file:{}", serial.display()));
    command.arg("-kernel").arg(kernel.canonicalize()?);
    command.args(["-append", "earlyprintk=ttyS0 console=ttyS0 panic=-1"]);
    command
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors)?);
    let mut qemu = Process::start(command)?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let ended = qemu.ended()?.is_some();
        if String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).contains("Linux version")
        {
            return Ok(true);
        }
        if ended || fs::read_to_string(&errors)?.contains("KVM internal error") {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(false)
}
