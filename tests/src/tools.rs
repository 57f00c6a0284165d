//! The locked tools tree: QEMU, firmware, swtpm.
//!
//! `image/enter.sh` runs a program with /usr and /etc of the tree; all other paths keep their
//! meaning. It replaces itself by the program, so what is started is the program.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The tree, unpacked.
#[derive(Debug, Clone)]
pub struct Tools {
    image: PathBuf,
    tree: PathBuf,
}

/// Why there are no tools.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// The script that makes the tree cannot be run.
    #[error("cannot run {}: {source}", path.display())]
    Run {
        /// The script.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It failed, and has said why on standard error.
    #[error("{} could not make the tools tree (its message stands above)", .0.display())]
    Failed(PathBuf),
    /// A program or file that the tree must have is not there.
    #[error("the tools tree has no {}; it is made from image/deb.lock", .0.display())]
    Missing(PathBuf),
}

/// The root of the repository.
pub fn repository() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests)
}

impl Tools {
    /// Finds the tree and makes it if need be: the first time takes minutes, and the network.
    pub fn locate() -> Result<Self, ToolsError> {
        let image = repository().join("image");
        let script = image.join("tree.sh");
        let output = Command::new(&script)
            .arg("tools")
            .stderr(Stdio::inherit())
            .output();
        let output = output.map_err(|source| ToolsError::Run {
            path: script.clone(),
            source,
        })?;
        let tree = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        if !output.status.success() || tree.as_os_str().is_empty() {
            return Err(ToolsError::Failed(script));
        }
        Ok(Self { image, tree })
    }

    /// A command for a program of the tree, which ends when the thread that starts it ends: start
    /// it by [`crate::process::Process`].
    pub fn command(&self, program: &str) -> Result<Command, ToolsError> {
        self.file(&Path::new("usr/bin").join(program))?;
        const TIED: [&str; 4] = ["setpriv", "--pdeathsig", "KILL", "--"];
        // Twice: a change of namespaces unties it.
        let mut command = Command::new(TIED[0]);
        command.args(&TIED[1..]).arg(self.image.join("enter.sh"));
        command.arg("--").args(TIED);
        command.arg(program).stdin(Stdio::null());
        Ok(command)
    }

    /// Where a file of the tree lies, as in `usr/share/OVMF/OVMF_VARS_4M.fd`.
    pub fn file(&self, path: &Path) -> Result<PathBuf, ToolsError> {
        let place = self.tree.join(path);
        if !place.exists() {
            return Err(ToolsError::Missing(path.to_owned()));
        }
        Ok(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_without_qemu_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let tools = Tools {
            image: repository().join("image"),
            tree: empty.path().to_owned(),
        };
        let error = tools.command("qemu-system-x86_64").unwrap_err();
        assert_eq!(
            error.to_string(),
            "the tools tree has no usr/bin/qemu-system-x86_64; it is made from image/deb.lock"
        );
    }
}
