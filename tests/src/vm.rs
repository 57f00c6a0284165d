//! A virtual machine: QEMU with OVMF, a TPM, two disks and one port.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use release::acpi;

use crate::accelerator::Accelerator;
use crate::process::Process;
use crate::swtpm::{Swtpm, SwtpmError};
use crate::tools::{Tools, ToolsError};

const FIRMWARE: &str = "usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "usr/share/OVMF/OVMF_VARS_4M.fd";
/// Another program may take a free port before QEMU does.
const PORT_ATTEMPTS: usize = 5;
/// QEMU says within this whether it can start at all.
const START: Duration = Duration::from_millis(700);
/// The longest serial log that is kept in memory.
const MAX_SERIAL_BYTES: u64 = 16 << 20;
/// Firmware reads its ACPI tables in seconds, and emulated on a busy machine in many.
const ACPI: Duration = Duration::from_secs(180);

/// What a virtual machine consists of. Disks are never written: changes go to a throw-away overlay.
#[derive(Debug, Clone)]
pub struct Machine {
    boot: Boot,
    accelerator: Accelerator,
    disks: Vec<PathBuf>,
    tpm: Option<PathBuf>,
    port: Option<u16>,
    guest_port: u16,
    extra: Vec<OsString>,
}

/// What starts.
#[derive(Debug, Clone)]
enum Boot {
    /// The firmware looks for a boot loader on the disks.
    Firmware,
    /// QEMU loads a kernel.
    Kernel {
        kernel: PathBuf,
        initrd: PathBuf,
        command_line: String,
    },
}

/// Why there is no virtual machine, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    /// No tools.
    #[error(transparent)]
    Tools(#[from] ToolsError),
    /// No TPM.
    #[error(transparent)]
    Swtpm(#[from] SwtpmError),
    /// No ACPI tables.
    #[error(transparent)]
    Acpi(#[from] acpi::DumpError),
    /// A file that the machine needs is not there.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The port belongs to another program.
    #[error("port {0} of this machine is in use; name another, or stop what uses it")]
    PortInUse(u16),
    /// QEMU ended at once.
    #[error("QEMU does not start: {}; see {}", last_line(errors), log.display())]
    Start {
        /// What it said.
        errors: String,
        /// Where it stands.
        log: PathBuf,
    },
    /// QEMU ended.
    #[error("the virtual machine ended ({status}); its last words: {}; see {}",
            last_line(serial), log.display())]
    Ended {
        /// How.
        status: ExitStatus,
        /// What the guest printed.
        serial: String,
        /// Where it stands.
        log: PathBuf,
    },
    /// Patience ran out.
    #[error("{what} did not come within {} s; the machine's last words: {}; see {}",
            patience.as_secs(), last_line(serial), log.display())]
    TooLate {
        /// What was waited for.
        what: String,
        /// How long.
        patience: Duration,
        /// What the guest printed.
        serial: String,
        /// Where it stands.
        log: PathBuf,
    },
}

/// A running virtual machine; it ends when dropped.
#[derive(Debug)]
pub struct Vm {
    qemu: Process,
    _swtpm: Option<Swtpm>,
    port: u16,
    serial: PathBuf,
    started: Instant,
}

impl Machine {
    /// A machine whose firmware boots the first disk.
    pub fn firmware(accelerator: Accelerator) -> Self {
        Self::new(Boot::Firmware, accelerator)
    }

    /// A machine whose kernel is loaded by QEMU.
    pub fn kernel(
        accelerator: Accelerator,
        kernel: &Path,
        initrd: &Path,
        command_line: &str,
    ) -> Self {
        let boot = Boot::Kernel {
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            command_line: command_line.to_owned(),
        };
        Self::new(boot, accelerator)
    }

    fn new(boot: Boot, accelerator: Accelerator) -> Self {
        Self {
            boot,
            accelerator,
            disks: Vec::new(),
            tpm: None,
            port: None,
            guest_port: 8080,
            extra: Vec::new(),
        }
    }

    /// Adds a disk.
    pub fn disk(mut self, image: &Path) -> Self {
        self.disks.push(image.to_owned());
        self
    }

    /// Adds the TPM whose state stands in this folder.
    pub fn tpm(mut self, state: &Path) -> Self {
        self.tpm = Some(state.to_owned());
        self
    }

    /// Answers at this port of the host instead of at any free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// The port on which the agent listens in the guest; 8080 if not given.
    pub fn guest_port(mut self, port: u16) -> Self {
        self.guest_port = port;
        self
    }

    /// Adds arguments of QEMU, such as what a hostile host would.
    pub fn arguments<I: IntoIterator<Item = A>, A: Into<OsString>>(mut self, arguments: I) -> Self {
        self.extra.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Starts it. Its logs (`serial.log`, `qemu.log`) and firmware variables go into `folder`.
    pub fn start(&self, tools: &Tools, folder: &Path) -> Result<Vm, VmError> {
        let in_folder = |source| VmError::File {
            path: folder.to_owned(),
            source,
        };
        fs::create_dir_all(folder).map_err(in_folder)?;
        let folder = folder.canonicalize().map_err(in_folder)?;
        let mut attempt = 0;
        loop {
            attempt += 1;
            let state = self.tpm.as_ref();
            let swtpm = state
                .map(|state| Swtpm::for_machine(tools, state))
                .transpose()?;
            let port = self.port.map_or_else(free_port, check_port)?;
            let (command, serial, log) = self.command(tools, &folder, port, swtpm.as_ref())?;
            let started = Instant::now();
            let starting = |source| VmError::File {
                path: log.clone(),
                source,
            };
            let mut qemu = Process::start(command).map_err(starting)?;
            if qemu.wait(START).map_err(starting)?.is_none() {
                return Ok(Vm {
                    qemu,
                    _swtpm: swtpm,
                    port,
                    serial,
                    started,
                });
            }
            let errors = fs::read_to_string(&log).unwrap_or_default();
            let lost_port = errors.contains("Could not set up host forwarding rule");
            if lost_port && self.port.is_none() && attempt < PORT_ATTEMPTS {
                continue;
            }
            return Err(if lost_port {
                VmError::PortInUse(port)
            } else {
                VmError::Start { errors, log }
            });
        }
    }

    /// The ACPI tables that this machine hands to its firmware: it is started for that, in
    /// `folder`, and ended.
    pub fn acpi_tables(&self, tools: &Tools, folder: &Path) -> Result<acpi::Tables, VmError> {
        fs::create_dir_all(folder).map_err(|source| cannot_use(folder, source))?;
        let folder = folder.canonicalize();
        let folder = folder.map_err(|source| cannot_use(Path::new("a folder"), source))?;
        let state = self.tpm.as_ref();
        let swtpm = state.map(|state| Swtpm::for_machine(tools, state));
        let swtpm = swtpm.transpose()?;
        let (command, ..) = self.command(tools, &folder, free_port()?, swtpm.as_ref())?;
        Ok(acpi::dump(command, ACPI)?)
    }

    fn command(
        &self,
        tools: &Tools,
        folder: &Path,
        port: u16,
        swtpm: Option<&Swtpm>,
    ) -> Result<(Command, PathBuf, PathBuf), VmError> {
        let (serial, log) = (folder.join("serial.log"), folder.join("qemu.log"));
        let mut command = tools.command("qemu-system-x86_64")?;
        command.args(["-nodefaults", "-no-user-config", "-machine", "q35"]);
        command.args(self.accelerator.arguments());
        command.args(["-smp", "2", "-m", "2048", "-display", "none", "-no-reboot"]);
        File::create(&serial).map_err(|source| cannot_use(&serial, source))?;
        command
            .arg("-serial")
            .arg(format!("file:{}", serial.display()));
        self.add_boot(&mut command, tools, folder)?;
        for (number, disk) in self.disks.iter().enumerate() {
            let disk = disk
                .canonicalize()
                .map_err(|source| cannot_use(disk, source))?;
            let drive = format!("if=none,id=disk{number},format=raw,snapshot=on");
            command
                .arg("-drive")
                .arg(format!("{drive},file={}", escape(&disk)));
            let device = format!("virtio-blk-pci,drive=disk{number},bootindex={}", number + 1);
            command.args(["-device", &device]);
        }
        command.args(["-device", "virtio-rng-pci"]);
        let forward = format!("hostfwd=tcp:127.0.0.1:{port}-:{}", self.guest_port);
        command
            .arg("-nic")
            .arg(format!("user,model=virtio-net-pci,{forward}"));
        if let Some(swtpm) = swtpm {
            let socket = escape(&swtpm.control());
            command
                .arg("-chardev")
                .arg(format!("socket,id=tpm,path={socket}"));
            command.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm"]);
            command.args(["-device", "tpm-crb,tpmdev=tpm0"]);
        }
        command.args(&self.extra);
        let errors = File::create(&log).map_err(|source| cannot_use(&log, source))?;
        command.stdout(Stdio::null()).stderr(errors);
        Ok((command, serial, log))
    }

    fn add_boot(&self, command: &mut Command, tools: &Tools, folder: &Path) -> Result<(), VmError> {
        match &self.boot {
            Boot::Firmware => {
                let fresh = tools.file(Path::new(VARIABLES))?;
                let variables = folder.join("variables.fd");
                fs::remove_file(&variables).ok(); // of an earlier start
                let copied = fs::copy(&fresh, &variables);
                copied.map_err(|source| cannot_use(&variables, source))?;
                tools.file(Path::new(FIRMWARE))?;
                let flash = |unit| format!("if=pflash,unit={unit},format=raw");
                // The tree's /usr stands at /usr where QEMU runs.
                command.arg("-drive");
                command.arg(format!("{},readonly=on,file=/{FIRMWARE}", flash(0)));
                command
                    .arg("-drive")
                    .arg(format!("{},file={}", flash(1), escape(&variables)));
            }
            Boot::Kernel {
                kernel,
                initrd,
                command_line,
            } => {
                for (argument, file) in [("-kernel", kernel), ("-initrd", initrd)] {
                    let file = file
                        .canonicalize()
                        .map_err(|source| cannot_use(file, source))?;
                    command.arg(argument).arg(file);
                }
                command.args(["-append", command_line]);
            }
        }
        Ok(())
    }
}

impl Vm {
    /// Where the guest's port is reached.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// How long ago it was started.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// What the guest has printed on its serial port.
    pub fn serial(&self) -> String {
        let mut bytes = Vec::new();
        let read = File::open(&self.serial)
            .and_then(|file| file.take(MAX_SERIAL_BYTES).read_to_end(&mut bytes));
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Where that stands.
    pub fn serial_log(&self) -> &Path {
        &self.serial
    }

    /// Waits until the agent says that it is healthy; gives the time since the start.
    pub fn wait_ready(&mut self, patience: Duration) -> Result<Duration, VmError> {
        let address = self.address();
        self.wait_for("the agent's answer", patience, |_| is_healthy(address))
    }

    /// Waits until the guest prints `text`; gives the time since the start.
    pub fn wait_line(&mut self, text: &str, patience: Duration) -> Result<Duration, VmError> {
        self.wait_for(text, patience, |vm| vm.serial().contains(text))
    }

    /// Waits until the machine powers itself off, and gives what it printed.
    pub fn wait_end(&mut self, patience: Duration) -> Result<String, VmError> {
        let ended = self
            .qemu
            .wait(patience)
            .map_err(|source| cannot_use(&self.serial, source))?;
        match ended {
            Some(_) => Ok(self.serial()),
            None => Err(self.too_late("its end", patience)),
        }
    }

    fn wait_for(
        &mut self,
        what: &str,
        patience: Duration,
        arrived: impl Fn(&Self) -> bool,
    ) -> Result<Duration, VmError> {
        let end = Instant::now() + patience;
        loop {
            // Asked first: what a machine says before it ends counts.
            let ended = self
                .qemu
                .ended()
                .map_err(|source| cannot_use(&self.serial, source))?;
            if arrived(self) {
                return Ok(self.age());
            }
            if let Some(status) = ended {
                return Err(VmError::Ended {
                    status,
                    serial: self.serial(),
                    log: self.serial.clone(),
                });
            }
            if Instant::now() >= end {
                return Err(self.too_late(what, patience));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn too_late(&self, what: &str, patience: Duration) -> VmError {
        VmError::TooLate {
            what: what.to_owned(),
            patience,
            serial: self.serial(),
            log: self.serial.clone(),
        }
    }
}

/// QEMU accepts connections long before the guest does, so only an answer counts.
fn is_healthy(address: SocketAddr) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        Ok(&start == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

fn free_port() -> Result<u16, VmError> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|_| VmError::PortInUse(0))
}

/// Refuses a port of this machine that another program has.
pub fn check_port(port: u16) -> Result<u16, VmError> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(port),
        Err(_) => Err(VmError::PortInUse(port)),
    }
}

fn cannot_use(path: &Path, source: io::Error) -> VmError {
    VmError::File {
        path: path.to_owned(),
        source,
    }
}

/// A comma ends an option of QEMU; two stand for one.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

/// The line that says why our programs stopped, else the last with something on it; without what a
/// terminal would obey.
fn last_line(text: &str) -> String {
    let mut lines = text.lines().rev();
    let cause = lines.clone().find(|line| {
        let stopped = ["]: cloister-agent: ", "verity-init: "];
        stopped.iter().any(|word| line.contains(word)) && !line.contains(" is up:")
    });
    let line = cause
        .or_else(|| lines.find(|line| !line.trim().is_empty()))
        .unwrap_or("none");
    line.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = check_port(port).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("port {port} of this machine is in use")),
            "{error}"
        );
    }

    #[test]
    fn the_last_line_is_plain() {
        assert_eq!(last_line("a\n\x1b[1mend\x07\n\n"), "[1mend");
        assert_eq!(last_line(""), "none");
    }
}
