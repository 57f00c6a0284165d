//! The ACPI tables that a QEMU hands to its firmware, which TDX measures into RTMR0 and a TPM into
//! PCR 1.
//!
//! QEMU keeps them in three blobs of its memory and builds them anew when the firmware first reads
//! them, after it has found the PCI devices: what stands there before is not what is measured. So
//! the machine is started without any TEE, its firmware runs, and the blobs are read when they have
//! changed and change no more. Where a blob stands is asked of QEMU's monitor:
//!
//! ```text
//! Block Name              PSize  Offset  Used  Total  HVA
//! /rom@etc/acpi/tables    4 KiB  0x…     0x…   0x…    0x…
//! ```
//!
//! References: QEMU, `hw/i386/acpi-build.c` (`acpi_build_update`), `info ramblock`; ACPI 6.5,
//! 5.2.5, for the RSDP.

mod matrix;
mod monitor;

pub use matrix::{Axes, Devices, MatrixError, Shape, dump_matrix};

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use attest::Digest;
use serde::{Deserialize, Serialize};

use crate::measure::acpi::{AcpiTables, LoaderError};
use monitor::{Monitor, MonitorError};

/// Names of the blobs in QEMU, and of the files that they become.
const BLOBS: [(&str, &str); 3] = [
    ("/rom@etc/table-loader", "table-loader"),
    ("/rom@etc/acpi/rsdp", "rsdp"),
    ("/rom@etc/acpi/tables", "tables"),
];
/// The file beside the tables that says what machine they are of.
pub const SHAPE_FILE: &str = "shape.json";
/// Largest such file.
pub const MAX_SHAPE_BYTES: usize = 4096;
/// QEMU reserves 2 MiB for the largest.
const MAX_BLOB_BYTES: u64 = 16 << 20;
const POLL: Duration = Duration::from_millis(100);
/// How long the tables must stay the same to be taken for the last.
const STABLE: Duration = Duration::from_secs(1);
/// How long QEMU may take to call its monitor.
const CALL: Duration = Duration::from_secs(30);

/// The tables of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables {
    /// `etc/table-loader`.
    pub loader: Vec<u8>,
    /// `etc/acpi/rsdp`.
    pub rsdp: Vec<u8>,
    /// `etc/acpi/tables`.
    pub tables: Vec<u8>,
    /// What the machine has.
    pub shape: Dumped,
}

/// What a machine has whose tables were dumped, as QEMU itself says. It stands beside the tables,
/// in [`SHAPE_FILE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dumped {
    /// Number of vCPUs.
    pub vcpus: u16,
    /// Size of memory.
    pub memory_bytes: u64,
}

/// A file that does not say what the tables are of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it does not say what the tables are of: vcpus and memory_bytes")]
pub struct ShapeError;

impl Dumped {
    /// Reads the file.
    pub fn parse(bytes: &[u8]) -> Result<Self, ShapeError> {
        serde_json::from_slice(bytes).map_err(|_| ShapeError)
    }

    /// Asks QEMU.
    fn of(monitor: &mut Monitor) -> Result<Self, MonitorError> {
        let vcpus = monitor.run("query-cpus-fast")?;
        let vcpus = vcpus
            .as_array()
            .and_then(|list| u16::try_from(list.len()).ok());
        let memory = monitor.run("query-memory-size-summary")?["base-memory"].as_u64();
        let both = vcpus.zip(memory);
        let (vcpus, memory_bytes) = both.ok_or(MonitorError::Form)?;
        Ok(Self {
            vcpus,
            memory_bytes,
        })
    }
}

/// Where a blob stands in QEMU's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// First address.
    pub address: u64,
    /// Bytes in use.
    pub bytes: u64,
}

/// Why no tables were read.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// QEMU cannot be started, or a folder for its monitor not be made.
    #[error("cannot start QEMU")]
    Start(#[source] io::Error),
    /// QEMU ended before its firmware had run.
    #[error("QEMU ended ({0}); what it said stands above")]
    Ended(ExitStatus),
    /// QEMU did not call its monitor.
    #[error("QEMU does not answer")]
    Silent,
    /// The monitor broke off, or refused a command.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The machine has no ACPI tables, or not in the form that is known here.
    #[error("this machine of QEMU's has no ACPI tables")]
    NoTables,
    /// QEMU's memory cannot be read.
    #[error("cannot read QEMU's memory")]
    Memory(#[source] io::Error),
    /// The firmware did not come to read the tables.
    #[error("the firmware has not read the tables in {} s", .0.as_secs())]
    NotRead(Duration),
}

impl Tables {
    /// What firmware measures of them.
    pub fn measured(&self) -> Result<AcpiTables, LoaderError> {
        let (rsdp, tables) = (Digest::sha384(&self.rsdp), Digest::sha384(&self.tables));
        AcpiTables::new(&self.loader, rsdp, tables)
    }

    /// Writes each into a file of a folder, which is made if need be.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::create_dir_all(folder)?;
        let blobs = [&self.loader, &self.rsdp, &self.tables];
        for ((_, name), blob) in BLOBS.iter().zip(blobs) {
            fs::write(folder.join(name), blob)?;
        }
        let shape = serde_json::to_vec(&self.shape).map_err(io::Error::other)?;
        fs::write(folder.join(SHAPE_FILE), shape)
    }

    fn read(memory: &File, blocks: &[Block; 3], shape: Dumped) -> io::Result<Self> {
        let one = |block: &Block| {
            let mut blob = vec![0; usize::try_from(block.bytes).map_err(io::Error::other)?];
            memory.read_exact_at(&mut blob, block.address)?;
            Ok::<_, io::Error>(blob)
        };
        let [loader, rsdp, tables] = blocks;
        Ok(Self {
            loader: one(loader)?,
            rsdp: own_bytes(one(rsdp)?),
            tables: one(tables)?,
            shape,
        })
    }
}

/// Starts a machine of QEMU's and reads the tables that its firmware reads, for `patience` at most.
/// `command` is QEMU with the machine's arguments, or whatever becomes it without a new process.
pub fn dump(mut command: Command, patience: Duration) -> Result<Tables, DumpError> {
    let folder = Folder::new().map_err(DumpError::Start)?;
    let listener = UnixListener::bind(folder.0.join("qmp")).map_err(DumpError::Start)?;
    command.args(["-S", "-display", "none", "-qmp"]);
    command.arg(format!("unix:{}", folder.0.join("qmp").display()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut qemu = Qemu(child.map_err(DumpError::Start)?);
    match qemu.watch(&listener, patience) {
        // QEMU ends on an argument that it cannot use, sooner or later.
        Err(DumpError::Monitor(error)) => Err(match qemu.ended() {
            Some(status) => DumpError::Ended(status),
            None => error.into(),
        }),
        outcome => outcome,
    }
}

fn watch_tables(
    monitor: &mut Monitor,
    memory: &File,
    patience: Duration,
) -> Result<Tables, DumpError> {
    let shape = Dumped::of(monitor)?;
    let read = |monitor: &mut Monitor| {
        let listing = monitor.human("info ramblock")?;
        let blocks = blocks(&listing).ok_or(DumpError::NoTables)?;
        Tables::read(memory, &blocks, shape).map_err(DumpError::Memory)
    };
    let first = read(monitor)?;
    monitor.run("cont")?;
    let start = Instant::now();
    let (mut last, mut since) = (first.clone(), start);
    while last == first || since.elapsed() < STABLE {
        if start.elapsed() > patience {
            return Err(DumpError::NotRead(patience));
        }
        thread::sleep(POLL);
        let now = read(monitor)?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    // While the machine stands still, QEMU is in the middle of nothing.
    monitor.run("stop")?;
    read(monitor)
}

/// The three blobs in what QEMU says of its memory.
#[must_use]
pub fn blocks(listing: &str) -> Option<[Block; 3]> {
    let of = |name: &str| {
        let mut lines = listing.lines().map(str::split_whitespace);
        let words = lines.find_map(|mut words| (words.next() == Some(name)).then_some(words))?;
        let numbers = words.filter_map(|word| word.strip_prefix("0x"));
        let mut numbers = numbers.map(|digits| u64::from_str_radix(digits, 16).ok());
        let (_offset, bytes, _total) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let block = Block {
            address: numbers.next()??,
            bytes,
        };
        let sound = (1..=MAX_BLOB_BYTES).contains(&block.bytes);
        sound.then_some(block)
    };
    let [loader, rsdp, tables] = BLOBS.map(|(name, _)| of(name));
    Some([loader?, rsdp?, tables?])
}

/// Memory has whole pages; the RSDP's file is the table alone: 20 bytes, or as many as it says.
#[must_use]
pub fn own_bytes(mut rsdp: Vec<u8>) -> Vec<u8> {
    let length = match (rsdp.get(15), crate::pe::u32_at(&rsdp, 20)) {
        (Some(2..), Some(length)) => length as usize,
        _ => 20,
    };
    rsdp.truncate(length);
    rsdp
}

/// A running QEMU; killed when dropped.
struct Qemu(Child);

impl Qemu {
    fn watch(&mut self, listener: &UnixListener, patience: Duration) -> Result<Tables, DumpError> {
        let mut monitor = self.monitor(listener)?;
        let memory = File::open(format!("/proc/{}/mem", self.0.id()));
        watch_tables(&mut monitor, &memory.map_err(DumpError::Memory)?, patience)
    }

    /// How it ended, if it does within a moment.
    fn ended(&mut self) -> Option<ExitStatus> {
        thread::sleep(POLL);
        self.0.try_wait().ok().flatten()
    }

    fn monitor(&mut self, listener: &UnixListener) -> Result<Monitor, DumpError> {
        listener.set_nonblocking(true).map_err(DumpError::Start)?;
        let end = Instant::now() + CALL;
        loop {
            match listener.accept() {
                Ok((stream, _)) => return Ok(Monitor::open(stream)?),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(DumpError::Start(error)),
            }
            if let Some(status) = self.0.try_wait().map_err(DumpError::Start)? {
                return Err(DumpError::Ended(status));
            }
            if Instant::now() > end {
                return Err(DumpError::Silent);
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder for the monitor's socket, with a short path; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("cloister-acpi-{}", hex::encode(random));
        let path = std::env::temp_dir().join(name);
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = "\
        Block Name    PSize  Offset  Used  Total  HVA  RO\r\n\
        pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000 0x00007f0a RW\r\n\
        /rom@etc/acpi/tables    4 KiB  0x08 0x0000000000020000 0x0000000000200000 0x00007f01 ro\r\n\
        /rom@etc/table-loader    4 KiB  0x28 0x0000000000001000 0x0000000000010000 0x7f02 ro\r\n\
        /rom@etc/acpi/rsdp    4 KiB  0x2c 0x0000000000001000 0x0000000000001000 0x7f03 ro\r\n";

    #[test]
    fn blobs_are_found_in_what_the_monitor_says() {
        let block = |address, bytes| Block { address, bytes };
        let expected = [
            block(0x7f02, 0x1000),
            block(0x7f03, 0x1000),
            block(0x7f01, 0x2_0000),
        ];
        assert_eq!(blocks(LISTING), Some(expected));
        assert_eq!(blocks(&LISTING.replace("etc/acpi/rsdp", "etc/rsdp")), None);
        assert_eq!(blocks(&LISTING.replace(" 0x7f02", "")), None);
        assert_eq!(blocks(&LISTING.replace("0000020000", "ff00020000")), None);
        assert_eq!(blocks(""), None);
    }

    #[test]
    fn the_rsdp_ends_where_it_says() {
        let mut page = vec![0; 4096];
        assert_eq!(own_bytes(page.clone()).len(), 20);
        page[15] = 2;
        page[20] = 36;
        assert_eq!(own_bytes(page.clone()).len(), 36);
        assert_eq!(own_bytes(page[..18].to_vec()).len(), 18);
        page[23] = 0xff;
        assert_eq!(own_bytes(page).len(), 4096);
    }

    #[test]
    fn a_shape_is_read_as_it_is_written_and_nothing_else() {
        let shape = Dumped {
            vcpus: 4,
            memory_bytes: 4 << 30,
        };
        let written = serde_json::to_vec(&shape);
        assert_eq!(
            written.map(|bytes| Dumped::parse(&bytes)).ok(),
            Some(Ok(shape))
        );
        for other in ["", "{}", "[1]", r#"{"vcpus":4,"memory_bytes":1,"x":1}"#] {
            assert_eq!(Dumped::parse(other.as_bytes()), Err(ShapeError), "{other}");
        }
    }

    #[test]
    fn a_program_that_is_not_there_or_ends_is_told_from_qemu() {
        let absent = dump(Command::new("/absent/qemu"), STABLE);
        assert!(matches!(absent, Err(DumpError::Start(_))), "{absent:?}");
        let ended = dump(Command::new("false"), STABLE);
        assert!(
            matches!(ended, Err(DumpError::Ended(status)) if status.code() == Some(1)),
            "{ended:?}"
        );
    }
}
