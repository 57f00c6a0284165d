//! An emulated TPM: its provisioning, as an operator does it once for a machine, and its life
//! beside a virtual machine.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use agent::evidence::tpm::{AK_CERTIFICATE_INDEX, Command, Tpm, TpmError, Transport, Writer};
use p384::ecdsa::SigningKey;
use signer::authority::Authority;

use crate::nv;
use crate::process::Process;
use crate::tools::{Tools, ToolsError};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running `swtpm`; stopped when dropped. Its state outlives it.
#[derive(Debug)]
pub struct Swtpm {
    process: Process,
    /// Socket paths are short, and folders of state are not.
    sockets: tempfile::TempDir,
}

/// Why there is no TPM.
#[derive(Debug, thiserror::Error)]
pub enum SwtpmError {
    /// No tools.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// The program cannot be started, or a folder cannot be made.
    #[error("cannot start swtpm: {0}")]
    Start(#[from] io::Error),
    /// It ended, or made no socket in time.
    #[error("swtpm did not start; see {}", log.display())]
    NotReady {
        /// Where it says why.
        log: PathBuf,
    },
    /// A command failed.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The attestation key is not a point of P-384.
    #[error("the TPM's attestation key is no P-384 key")]
    Key,
}

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Commands from this process; the TPM is started up.
    Commands,
    /// A virtual machine, whose firmware starts it up.
    Machine,
}

/// A provisioning authority with a key of its own, which nobody else has.
pub fn new_authority(name: &str) -> Result<Authority, getrandom::Error> {
    let mut secret = [0; 48];
    loop {
        getrandom::fill(&mut secret)?;
        // All but one in 2^190 numbers of this length are scalars of the curve.
        if let Ok(key) = SigningKey::from_slice(&secret) {
            return Ok(Authority {
                name: name.to_owned(),
                key,
            });
        }
    }
}

/// Makes a TPM in the folder `state`: a new one, with its attestation key certified by `authority`
/// and the certificate in its NV memory.
pub fn provision(tools: &Tools, state: &Path, authority: &Authority) -> Result<(), SwtpmError> {
    if state.exists() {
        std::fs::remove_dir_all(state)?;
    }
    let mut swtpm = Swtpm::for_commands(tools, state)?;
    let mut tpm = swtpm.connect()?;
    let key = tpm.create_attestation_key()?;
    let public = nv::point(&key.public).ok_or(SwtpmError::Key)?;
    tpm.flush(key.handle)?;
    let certificate = authority.issue(&authority.attestation_key(&public));
    nv::store(&mut tpm, AK_CERTIFICATE_INDEX, &certificate)?;
    shut_down(&mut tpm)?;
    drop(tpm);
    swtpm.process.kill()?;
    Ok(())
}

impl Swtpm {
    /// Starts the TPM of the folder `state` for a virtual machine.
    pub fn for_machine(tools: &Tools, state: &Path) -> Result<Self, SwtpmError> {
        Self::start(tools, state, Use::Machine)
    }

    /// Starts the TPM of the folder `state` for commands of this process.
    pub fn for_commands(tools: &Tools, state: &Path) -> Result<Self, SwtpmError> {
        Self::start(tools, state, Use::Commands)
    }

    /// Speaks to a TPM that was started for commands.
    pub fn connect(&self) -> Result<Tpm<Transport>, TpmError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match Tpm::open(&self.socket(Use::Commands)) {
                // The socket is there a moment before anyone listens.
                Err(TpmError::Open { source, .. })
                    if source.kind() == io::ErrorKind::ConnectionRefused
                        && Instant::now() < end =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                outcome => return outcome,
            }
        }
    }

    /// The socket that QEMU is given.
    pub fn control(&self) -> PathBuf {
        self.socket(Use::Machine)
    }

    fn start(tools: &Tools, state: &Path, used: Use) -> Result<Self, SwtpmError> {
        std::fs::create_dir_all(state)?;
        let state = state.canonicalize()?;
        let sockets = tempfile::Builder::new().prefix("swtpm").tempdir()?;
        let log = state.join("swtpm.log");
        let path = |name: &str| format!("type=unixio,path={}", sockets.path().join(name).display());
        let mut command = tools.command("swtpm")?;
        command.args(["socket", "--tpm2", "--tpmstate"]);
        command.arg(format!("dir={}", state.display()));
        command.args(["--log", &format!("file={},level=1,truncate", log.display())]);
        command.args(["--ctrl", &path("control")]);
        if used == Use::Commands {
            command.args(["--server", &path("commands")]);
            command.args(["--flags", "not-need-init,startup-clear"]);
        }
        command
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(state.join("swtpm.stderr"))?);
        let process = Process::start(command)?;
        let mut swtpm = Self { process, sockets };
        let end = Instant::now() + PATIENCE;
        while !swtpm.socket(used).exists() {
            if swtpm.process.ended()?.is_some() || Instant::now() > end {
                return Err(SwtpmError::NotReady { log });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(swtpm)
    }

    fn socket(&self, used: Use) -> PathBuf {
        self.sockets.path().join(match used {
            Use::Commands => "commands",
            Use::Machine => "control",
        })
    }
}

/// `TPM2_Shutdown`, so that the next start is no surprise to the TPM.
fn shut_down(tpm: &mut Tpm<Transport>) -> Result<(), TpmError> {
    const CC_SHUTDOWN: u32 = 0x145;
    const SU_CLEAR: u16 = 0;
    let parameters = Writer::new().u16(SU_CLEAR).finish();
    tpm.execute(&Command::new(CC_SHUTDOWN, &[], parameters))
        .map(|_| ())
}
