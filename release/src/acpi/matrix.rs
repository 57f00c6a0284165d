//! The tables of many machines: each number of vCPUs with each size of memory and each set of
//! devices.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use super::{DumpError, Tables, dump};

/// Most machines of one matrix: each takes seconds.
const MAX_SHAPES: usize = 4096;

/// What is varied; what is not stays as QEMU's arguments have it.
#[derive(Debug, Clone, Default)]
pub struct Axes {
    /// Numbers of vCPUs.
    pub vcpus: Vec<u16>,
    /// Sizes of memory, whole MiB.
    pub memory_bytes: Vec<u64>,
    /// Sets of devices.
    pub devices: Vec<Devices>,
}

/// A set of devices: `NAME=ARGUMENTS`, the arguments of QEMU parted by spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Devices {
    /// Its name, which is part of a folder's.
    pub name: String,
    /// QEMU's arguments.
    pub arguments: Vec<String>,
}

/// One machine of a matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    /// Its folder below the one that was given; empty where nothing is varied.
    pub folder: PathBuf,
    /// Number of vCPUs, where that is varied.
    pub vcpus: Option<u16>,
    /// Size of memory, where that is varied.
    pub memory_bytes: Option<u64>,
    /// Devices, where they are varied.
    pub devices: Option<Devices>,
}

/// Why a matrix was not dumped.
#[derive(Debug, thiserror::Error)]
pub enum MatrixError {
    /// Not a name and arguments.
    #[error("a set of devices is NAME=ARGUMENTS, the name of letters, digits and hyphens")]
    Devices,
    /// Too many machines.
    #[error("{0} machines; {MAX_SHAPES} are the most of one matrix")]
    TooMany(usize),
    /// Two machines of one name: the second would take the place of the first.
    #[error("{} twice", shown(.0))]
    Twice(PathBuf),
    /// No program to start.
    #[error("no QEMU is named")]
    NoCommand,
    /// One machine gave no tables.
    #[error("{}", shown(.0))]
    Dump(PathBuf, #[source] DumpError),
    /// The tables cannot be written.
    #[error("cannot write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

fn shown(folder: &Path) -> String {
    match folder.as_os_str().is_empty() {
        true => "the machine".to_owned(),
        false => format!("the machine {}", folder.display()),
    }
}

impl FromStr for Devices {
    type Err = MatrixError;

    fn from_str(text: &str) -> Result<Self, MatrixError> {
        let (name, arguments) = text.split_once('=').ok_or(MatrixError::Devices)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(MatrixError::Devices);
        }
        Ok(Self {
            name: name.to_owned(),
            arguments: arguments.split_whitespace().map(str::to_owned).collect(),
        })
    }
}

impl Axes {
    /// All machines, vCPUs varying slowest.
    pub fn shapes(&self) -> Result<Vec<Shape>, MatrixError> {
        fn values<T: Clone>(axis: &[T]) -> Vec<Option<T>> {
            match axis.is_empty() {
                true => vec![None],
                false => axis.iter().cloned().map(Some).collect(),
            }
        }
        let (vcpus, memory) = (values(&self.vcpus), values(&self.memory_bytes));
        let devices = values(&self.devices);
        let count = vcpus.len().saturating_mul(memory.len());
        let count = count.saturating_mul(devices.len());
        if count > MAX_SHAPES {
            return Err(MatrixError::TooMany(count));
        }
        let mut shapes = Vec::with_capacity(count);
        for &vcpus in &vcpus {
            for &memory_bytes in &memory {
                let one =
                    |devices: &Option<Devices>| Shape::new(vcpus, memory_bytes, devices.clone());
                shapes.extend(devices.iter().map(one));
            }
        }
        let mut names = BTreeSet::new();
        match shapes.iter().find(|shape| !names.insert(&shape.folder)) {
            Some(twice) => Err(MatrixError::Twice(twice.folder.clone())),
            None => Ok(shapes),
        }
    }
}

impl Shape {
    fn new(vcpus: Option<u16>, memory_bytes: Option<u64>, devices: Option<Devices>) -> Self {
        let parts = [
            vcpus.map(|number| format!("vcpus-{number}")),
            memory_bytes.map(|bytes| format!("memory-{}M", bytes >> 20)),
            devices
                .as_ref()
                .map(|devices| format!("devices-{}", devices.name)),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        Self {
            folder: parts.join(",").into(),
            vcpus,
            memory_bytes,
            devices,
        }
    }

    /// QEMU's arguments for it. Of options that are given twice QEMU takes the last.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut out = Vec::new();
        if let Some(vcpus) = self.vcpus {
            out.extend(["-smp".to_owned(), vcpus.to_string()]);
        }
        if let Some(bytes) = self.memory_bytes {
            out.extend(["-m".to_owned(), format!("{}M", bytes >> 20)]);
        }
        if let Some(devices) = &self.devices {
            out.extend(devices.arguments.iter().cloned());
        }
        out
    }
}

/// Dumps every machine into its folder below `out`. `command` is QEMU and what all machines have;
/// `done` is told of each.
pub fn dump_matrix(
    command: &[OsString],
    axes: &Axes,
    out: &Path,
    patience: Duration,
    mut done: impl FnMut(&Shape, &Tables),
) -> Result<(), MatrixError> {
    let (program, arguments) = command.split_first().ok_or(MatrixError::NoCommand)?;
    for shape in axes.shapes()? {
        let mut command = Command::new(program);
        command.args(arguments).args(shape.arguments());
        let tables = dump(command, patience)
            .map_err(|error| MatrixError::Dump(shape.folder.clone(), error))?;
        let folder = out.join(&shape.folder);
        tables
            .write(&folder)
            .map_err(|error| MatrixError::Write(folder, error))?;
        done(&shape, &tables);
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_its_folder_and_arguments() {
        let axes = Axes {
            vcpus: vec![1, 2],
            memory_bytes: vec![1 << 30, 4 << 30],
            devices: vec![
                "none=".parse().unwrap(),
                "net=-device virtio-net-pci,romfile=".parse().unwrap(),
            ],
        };
        let shapes = axes.shapes().unwrap();
        assert_eq!(shapes.len(), 8);
        let folder = Path::new("vcpus-2,memory-4096M,devices-net");
        assert_eq!(shapes[7].folder, folder);
        let words = "-smp 2 -m 4096M -device virtio-net-pci,romfile=";
        assert_eq!(shapes[7].arguments().join(" "), words);
        let one = Axes::default().shapes().unwrap();
        assert!(one.len() == 1 && one[0].folder.as_os_str().is_empty());
        assert!(one[0].arguments().is_empty());
    }

    #[test]
    fn what_is_no_matrix_is_refused() {
        for text in [
            "-device e1000",
            "=-device e1000",
            "../a=-device e1000",
            "a b=",
        ] {
            let refused = text.parse::<Devices>();
            assert!(matches!(refused, Err(MatrixError::Devices)), "{text}");
        }
        let axes = Axes {
            vcpus: vec![1; 100],
            memory_bytes: vec![1 << 30; 100],
            ..Axes::default()
        };
        assert!(matches!(axes.shapes(), Err(MatrixError::TooMany(10_000))));
        let two = |text: [&str; 2]| Axes {
            devices: text.map(|one| one.parse().unwrap()).into(),
            ..Axes::default()
        };
        let twice = two(["net=-nic none", "net=-device e1000"]).shapes();
        let folder = Path::new("devices-net");
        assert!(matches!(twice, Err(MatrixError::Twice(name)) if name == folder));
        let twice = Axes {
            memory_bytes: vec![1 << 30, 1 << 30],
            ..Axes::default()
        };
        assert!(matches!(twice.shapes(), Err(MatrixError::Twice(_))));
        let out = Path::new("/absent");
        let nothing = dump_matrix(&[], &Axes::default(), out, Duration::ZERO, |_, _| ());
        assert!(matches!(nothing, Err(MatrixError::NoCommand)));
        let command = [OsString::from("false")];
        let ended = dump_matrix(&command, &Axes::default(), out, Duration::ZERO, |_, _| ());
        assert!(matches!(
            ended,
            Err(MatrixError::Dump(_, DumpError::Ended(_)))
        ));
    }
}
