//! The compiled kernels: which GPU takes which, and whether those on the disk are those of this
//! build.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

/// What `make kernels` gives, by sha256: `DIGEST  ARCHITECTURE/MODULE.cubin`.
const MANIFEST: &str = include_str!("../cubins.sha256");

/// A GPU's generation, by the name of its machine code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Ampere.
    Sm80,
    /// Ada.
    Sm89,
    /// Hopper.
    Sm90a,
    /// Blackwell, of data centres.
    Sm100,
    /// Blackwell, of workstations.
    Sm120,
}

impl Architecture {
    /// All that kernels are compiled for.
    pub const ALL: [Self; 5] = [
        Self::Sm80,
        Self::Sm89,
        Self::Sm90a,
        Self::Sm100,
        Self::Sm120,
    ];

    /// Machine code runs on its own generation, and on later members of it. Nothing is compiled at
    /// run time: a GPU that is not listed has no kernels.
    pub fn of(major: i32, minor: i32) -> Option<Self> {
        match (major, minor) {
            (8, 9) => Some(Self::Sm89),
            (8, 0..=8) => Some(Self::Sm80),
            (9, 0) => Some(Self::Sm90a),
            (10, 0..) => Some(Self::Sm100),
            (12, 0..) => Some(Self::Sm120),
            _ => None,
        }
    }

    /// nvcc's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm89 => "sm_89",
            Self::Sm90a => "sm_90a",
            Self::Sm100 => "sm_100",
            Self::Sm120 => "sm_120",
        }
    }
}

/// Why the kernels on the disk are not taken.
#[derive(Debug, thiserror::Error)]
pub enum CubinError {
    /// A module is not there, or cannot be read.
    #[error("the kernels {module} of {architecture} cannot be read; run `make kernels`")]
    Unreadable {
        /// Its file.
        module: &'static str,
        /// Of which GPU.
        architecture: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// A module is not the one that this build names.
    #[error("the kernels {module} of {architecture} are not those of this build")]
    Digest {
        /// Its file.
        module: &'static str,
        /// Of which GPU.
        architecture: &'static str,
    },
}

/// The modules of one architecture with their digests, as this build names them.
pub fn modules(architecture: Architecture) -> impl Iterator<Item = (&'static str, &'static str)> {
    MANIFEST.lines().filter_map(move |line| {
        let (digest, path) = line.split_once("  ")?;
        let (folder, module) = path.split_once('/')?;
        (folder == architecture.name()).then_some((module, digest))
    })
}

/// Reads the modules of one architecture from `folder`, each as this build names it.
pub fn open(folder: &Path, architecture: Architecture) -> Result<Vec<Vec<u8>>, CubinError> {
    let read = |(module, digest): (&'static str, &'static str)| {
        let architecture = architecture.name();
        let path = folder.join(architecture).join(module);
        let content = fs::read(path).map_err(|source| CubinError::Unreadable {
            module,
            architecture,
            source,
        })?;
        match hex::encode(Sha256::digest(&content)) == digest {
            true => Ok(content),
            false => Err(CubinError::Digest {
                module,
                architecture,
            }),
        }
    };
    modules(architecture).map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_architecture_has_the_same_modules() {
        let names = |architecture| {
            let names = modules(architecture).map(|(module, _)| module);
            names.collect::<Vec<_>>()
        };
        assert!(!names(Architecture::Sm80).is_empty());
        for architecture in Architecture::ALL {
            let own: Vec<_> = names(architecture);
            let shared = own.iter().filter(|name| !name.contains("hopper"));
            assert!(
                shared.eq(names(Architecture::Sm80).iter()),
                "{architecture:?}"
            );
        }
    }

    #[test]
    fn an_unknown_gpu_has_no_kernels() {
        for (major, minor) in [(7, 5), (8, 10), (9, 1), (11, 0), (13, 0), (0, 0), (-1, 3)] {
            assert_eq!(Architecture::of(major, minor), None);
        }
        assert_eq!(Architecture::of(9, 0), Some(Architecture::Sm90a));
        assert_eq!(Architecture::of(8, 6), Some(Architecture::Sm80));
    }

    #[test]
    fn kernels_that_are_absent_or_changed_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let architecture = Architecture::Sm80;
        let refused = open(folder.path(), architecture);
        assert!(matches!(refused, Err(CubinError::Unreadable { .. })));
        fs::create_dir(folder.path().join(architecture.name())).unwrap();
        for (module, _) in modules(architecture) {
            fs::write(folder.path().join(architecture.name()).join(module), "x").unwrap();
        }
        let refused = open(folder.path(), architecture);
        assert!(matches!(refused, Err(CubinError::Digest { .. })));
    }
}
