//! A GPU's emulation: the kernels' own sources, compiled for this processor (see
//! `emulation/emulate.h`), in a process of their own.

#![allow(dead_code)] // each test program uses its part

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::sync::OnceLock;

use kernels::{Argument, Device, DeviceError, Launch};

/// Compiles the emulation whose sources are below `sources`, to `program`; `None`, said loudly,
/// where there is no C++ compiler.
pub(crate) fn compile(sources: &Path, program: PathBuf, warnings: &str) -> Option<PathBuf> {
    if Command::new("g++").arg("--version").output().is_err() {
        eprintln!("SKIPPED, not checked: kernels on the CPU (no g++ here)");
        return None;
    }
    let status = Command::new("g++")
        .args([
            "-std=c++17",
            "-O2",
            "-fno-strict-aliasing",
            "-ffp-contract=off",
        ])
        .args(["-Wall", "-Wextra", "-Wno-unknown-pragmas", warnings, "-o"])
        .args([&program, &sources.join("emulation/emulate.cpp")])
        .status();
    let compiles = status.unwrap().success();
    assert!(compiles, "the kernels do not compile for this processor");
    Some(program)
}

fn shipped() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulate");
        // Other rooms run their own tests on it, too.
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels");
        compile(&sources, program, "-Werror")
    });
    program.as_deref()
}

/// A process that runs kernels; each launch in another order of threads.
pub(crate) struct Emulation {
    process: Rc<Process>,
    /// While a graph is made: what it is to launch.
    captured: RefCell<Option<Vec<Vec<u8>>>>,
}

struct Process {
    child: RefCell<Child>,
    pipes: RefCell<(ChildStdin, ChildStdout)>,
    seed: Cell<u32>,
}

/// Memory of that process.
pub(crate) struct Memory {
    address: u64,
    bytes: usize,
    process: Rc<Process>,
}

const LOST: DeviceError = DeviceError::Lost { code: 0 };

impl Emulation {
    /// The kernels as they are; `None` where there is no compiler.
    pub(crate) fn start(seed: u32) -> Option<Self> {
        Some(Self::of(shipped()?, seed))
    }

    /// What `compile` made.
    pub(crate) fn of(program: &Path, seed: u32) -> Self {
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pipes = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self {
            process: Rc::new(Process {
                child: RefCell::new(child),
                pipes: RefCell::new(pipes),
                seed: Cell::new(seed),
            }),
            captured: RefCell::default(),
        }
    }
}

impl Process {
    fn ask(&self, command: u8, parts: &[&[u8]], answer: &mut [u8]) -> Result<(), DeviceError> {
        let (stdin, stdout) = &mut *self.pipes.borrow_mut();
        let mut all = vec![command];
        parts.iter().for_each(|part| all.extend_from_slice(part));
        let done = stdin.write_all(&all).and_then(|()| stdin.flush());
        let done = done.and_then(|()| stdout.read_exact(answer));
        done.map_err(|_| LOST)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        child.kill().ok();
        child.wait().ok();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.process
            .ask(b'F', &[&self.address.to_le_bytes()], &mut [])
            .ok();
    }
}

impl Memory {
    fn range(&self, at: usize, bytes: usize) -> Result<[[u8; 8]; 2], DeviceError> {
        if at + bytes > self.bytes {
            return Err(DeviceError::OutOfBounds { at, bytes });
        }
        let address = self.address + at as u64;
        Ok([address.to_le_bytes(), (bytes as u64).to_le_bytes()])
    }
}

impl Device for Emulation {
    type Memory = Memory;
    type Graph = Vec<Vec<u8>>;

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let mut address = [0; 8];
        self.process
            .ask(b'A', &[&(bytes as u64).to_le_bytes()], &mut address)?;
        Ok(Memory {
            address: u64::from_le_bytes(address),
            bytes,
            process: self.process.clone(),
        })
    }

    fn write(&self, to: &Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let [address, size] = to.range(at, bytes.len())?;
        self.process.ask(b'W', &[&address, &size, bytes], &mut [])
    }

    fn read(&self, from: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        let [address, size] = from.range(at, bytes.len())?;
        self.process.ask(b'R', &[&address, &size], bytes)
    }

    fn launch(&self, launch: &Launch<'_, Memory>) -> Result<(), DeviceError> {
        let seed = self.process.seed.get();
        self.process.seed.set(seed.wrapping_add(1));
        let mut text = Vec::new();
        text.extend((launch.kernel().len() as u32).to_le_bytes());
        text.extend(launch.kernel().as_bytes());
        let [x, y, z] = launch.grid();
        let count = launch.arguments().len() as u32;
        for number in [
            x,
            y,
            z,
            launch.threads(),
            launch.shared_bytes(),
            seed,
            count,
        ] {
            text.extend(number.to_le_bytes());
        }
        for argument in launch.arguments() {
            let bits = match argument {
                Argument::Memory(memory, at) => memory.address + *at as u64,
                Argument::Null => 0,
                Argument::I32(number) => u64::from(*number as u32),
                Argument::F32(number) => u64::from(number.to_bits()),
            };
            text.extend(bits.to_le_bytes());
        }
        if let Some(captured) = self.captured.borrow_mut().as_mut() {
            captured.push(text);
            return Ok(());
        }
        let mut unknown = [0; 4];
        self.process.ask(b'L', &[&text], &mut unknown)?;
        match unknown {
            [0, ..] => Ok(()),
            _ => Err(DeviceError::NoKernel {
                name: launch.kernel(),
            }),
        }
    }

    fn capture<E: From<DeviceError>>(
        &self,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<Vec<Vec<u8>>, E> {
        *self.captured.borrow_mut() = Some(Vec::new());
        let done = run();
        let captured = self.captured.borrow_mut().take();
        done.map(|()| captured.unwrap())
    }

    fn replay(&self, graph: &Vec<Vec<u8>>) -> Result<(), DeviceError> {
        let mut unknown = [0; 4];
        for launch in graph {
            self.process.ask(b'L', &[launch], &mut unknown)?;
        }
        Ok(())
    }
}
