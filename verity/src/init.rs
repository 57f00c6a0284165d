//! What the initrd does: PID 1 from the kernel's hand-over to systemd's.

use std::convert::Infallible;
use std::ffi::{CStr, c_ulong};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::boot::{
    self, Arguments, ArgumentsError, ConfigError, MAX_COMMAND_LINE_BYTES, MAX_CONFIG_BYTES,
    MAX_ORDER_BYTES, Module, OrderError,
};
use crate::map::{self, MapError, Purpose};
use crate::sys;

const NEW_ROOT: &str = "/newroot";
const CONFIGFS: &str = "/sys/kernel/config";
/// The kernel unpacks the module itself (`MODULE_INIT_COMPRESSED_FILE`).
const COMPRESSED: i32 = 4;

/// Why the machine does not start.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A file system cannot be mounted.
    #[error("cannot mount {0}")]
    Mount(&'static str, #[source] io::Error),
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(&'static str, #[source] io::Error),
    /// A module cannot be loaded.
    #[error("cannot load module {0}")]
    Module(String, #[source] io::Error),
    /// The list of modules is refused.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The command line is refused.
    #[error(transparent)]
    Arguments(#[from] ArgumentsError),
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The root file system is not there, or not to be mapped.
    #[error("no root file system")]
    Root(#[from] MapError),
    /// The kernel would still take code.
    #[error("cannot set {0}")]
    Seal(&'static str, #[source] io::Error),
    /// The configuration cannot be handed over.
    #[error("cannot write the configuration to /run")]
    HandConfig(#[source] io::Error),
    /// The root cannot be entered.
    #[error("cannot enter the root file system")]
    Enter(#[source] io::Error),
    /// systemd cannot be started.
    #[error("cannot start /sbin/init")]
    Start(#[source] io::Error),
}

/// Starts the machine, or says why not and powers it off.
pub fn main() -> ! {
    let Err(error) = start();
    // The console is the only place left to speak to; if it fails, the power still goes off.
    writeln!(io::stdout(), "verity-init: {}", describe(&error)).ok();
    loop {
        let error = sys::power_off();
        writeln!(io::stdout(), "verity-init: cannot power off: {error}").ok();
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn start() -> Result<Infallible, InitError> {
    mount_kernel_file_systems()?;
    open_console()?;
    let mut phases = Phases::new();
    let arguments = Arguments::parse(&read("/proc/cmdline", MAX_COMMAND_LINE_BYTES + 1)?)?;
    let config = read("/cloister/config.toml", MAX_CONFIG_BYTES)?;
    boot::check_config(&config, &arguments.config)?;
    phases.end("arguments");
    load_modules()?;
    mount_reports()?;
    seal()?;
    phases.end("modules");
    fs::create_dir_all(NEW_ROOT).map_err(InitError::Enter)?;
    map::map_and_mount(&arguments.root, "root", Path::new(NEW_ROOT), Purpose::Root)?;
    phases.end("root");
    mount_run()?;
    hand_config(&config).map_err(InitError::HandConfig)?;
    phases.end("hand-over");
    phases.report(&arguments);
    enter_root().map_err(InitError::Enter)?;
    Err(InitError::Start(sys::execute(c"/sbin/init")))
}

/// The error and what lies under it, on one line.
fn describe(error: &InitError) -> String {
    let mut line = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

fn mount_kernel_file_systems() -> Result<(), InitError> {
    const STRICT: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount("/proc", c"/proc", c"proc", STRICT, c"")?;
    mount("/sys", c"/sys", c"sysfs", STRICT, c"")?;
    let device_flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(
        "/dev",
        c"/dev",
        c"devtmpfs",
        device_flags,
        c"mode=0755,size=4m,nr_inodes=1m",
    )
}

fn mount_run() -> Result<(), InitError> {
    let options = c"mode=0755,size=20%,nr_inodes=800k";
    mount(
        "/run",
        c"/run",
        c"tmpfs",
        libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC,
        options,
    )
}

fn mount(
    path: &'static str,
    target: &CStr,
    kind: &CStr,
    flags: c_ulong,
    options: &CStr,
) -> Result<(), InitError> {
    let folder = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path);
    let mounted = folder.and_then(|()| sys::mount(kind, target, kind, flags, options));
    mounted.map_err(|error| InitError::Mount(path, error))
}

/// PID 1 of an initrd without `/dev/console` starts with no descriptors.
fn open_console() -> Result<(), InitError> {
    let open = || {
        let console = File::options()
            .read(true)
            .write(true)
            .open("/dev/console")?;
        (0..3).try_for_each(|stream| sys::set_standard_stream(console.as_fd(), stream))
    };
    open().map_err(|error| InitError::Read("/dev/console", error))
}

fn load_modules() -> Result<(), InitError> {
    let order = read("/modules/order", MAX_ORDER_BYTES)?;
    for Module {
        name,
        for_some_machines,
    } in boot::parse_order(&order)?
    {
        let file = File::open(format!("/modules/{name}"));
        let file = file.map_err(|error| InitError::Module(name.to_owned(), error))?;
        match sys::load_module(&file, COMPRESSED) {
            Ok(()) => {}
            // Whether the machine should have had it, the configuration says: the agent asks.
            Err(error) if for_some_machines && error.raw_os_error() == Some(libc::ENODEV) => {
                log(&format!("module {name} is not for this machine"));
            }
            Err(error) => return Err(InitError::Module(name.to_owned(), error)),
        }
    }
    Ok(())
}

/// Where the kernel makes reports of SEV-SNP and TDX. Only root can make anything there.
fn mount_reports() -> Result<(), InitError> {
    const STRICT: c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    mount(CONFIGFS, c"/sys/kernel/config", c"configfs", STRICT, c"")?;
    log("configfs is mounted");
    Ok(())
}

/// From here on the kernel takes no code: a device that the host adds finds no driver.
fn seal() -> Result<(), InitError> {
    for path in [
        "/proc/sys/kernel/modules_disabled",
        "/proc/sys/kernel/kexec_load_disabled",
    ] {
        fs::write(path, "1").map_err(|error| InitError::Seal(path, error))?;
    }
    Ok(())
}

/// Reads at most one byte more than `limit`, which the parsers then refuse.
fn read(path: &'static str, limit: usize) -> Result<Vec<u8>, InitError> {
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| InitError::Read(path, error))?;
    Ok(bytes)
}

fn hand_config(config: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create("/run/cloister")?;
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o444);
    options.open("/run/cloister/config.toml")?.write_all(config)
}

fn enter_root() -> io::Result<()> {
    for (from, to) in [
        (c"/dev", c"/newroot/dev"),
        (c"/proc", c"/newroot/proc"),
        (c"/sys", c"/newroot/sys"),
        (c"/run", c"/newroot/run"),
    ] {
        sys::mount(from, to, c"", libc::MS_MOVE, c"")?;
    }
    // Frees the initrd's memory; its file system goes out of reach below.
    fs::remove_dir_all("/modules")?;
    fs::remove_dir_all("/cloister")?;
    fs::remove_file("/init")?;
    std::env::set_current_dir(NEW_ROOT)?;
    sys::mount(c".", c"/", c"", libc::MS_MOVE, c"")?;
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}

/// How long each step took; one line for the kernel's log.
struct Phases {
    last: Instant,
    line: String,
}

impl Phases {
    fn new() -> Self {
        Self {
            last: Instant::now(),
            line: String::new(),
        }
    }

    fn end(&mut self, name: &str) {
        let took_ms = self.last.elapsed().as_millis();
        self.line.push_str(&format!(" {name} {took_ms} ms"));
        self.last = Instant::now();
    }

    fn report(&self, arguments: &Arguments) {
        let root = arguments.root.data_guid();
        log(&format!("root {root} is up:{}", self.line));
    }
}

/// One line to the kernel's log, which the journal takes over. A log that cannot be written stops
/// nothing.
fn log(line: &str) {
    let line = format!("<6>verity-init: {line}\n");
    if let Ok(mut log) = File::options().write(true).open("/dev/kmsg") {
        log.write_all(line.as_bytes()).ok();
    }
}
