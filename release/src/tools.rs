//! The locked tools of a checkout, run as its build runs them: `image/enter.sh`, without a network.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The locked tools of one checkout.
#[derive(Debug, Clone)]
pub struct Tools {
    enter: PathBuf,
}

/// Why a tool did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The folder holds no sources of Cloister.
    #[error("{path} is no checkout of Cloister: it has no image/enter.sh")]
    NoCheckout {
        /// The folder.
        path: PathBuf,
    },
    /// The tool cannot be run.
    #[error("cannot run {tool}")]
    Run {
        /// The tool.
        tool: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The tool failed.
    #[error("{tool} failed on {path}: {said}")]
    Failed {
        /// The tool.
        tool: &'static str,
        /// What it worked on.
        path: PathBuf,
        /// The last line that it wrote.
        said: String,
    },
}

impl Tools {
    /// The tools of the sources in `source`.
    pub fn of(source: &Path) -> Result<Self, ToolError> {
        let no_checkout = || ToolError::NoCheckout {
            path: source.to_owned(),
        };
        let enter = std::path::absolute(source.join("image/enter.sh"));
        let enter = enter.map_err(|_| no_checkout())?;
        match enter.is_file() {
            true => Ok(Self { enter }),
            false => Err(no_checkout()),
        }
    }

    /// The sources that the tools are locked in.
    pub(crate) fn source(&self) -> Option<&Path> {
        self.enter.parent()?.parent()
    }

    /// Reads an erofs image back into the folder `into`, which is made.
    pub fn extract_erofs(&self, image: &Path, into: &Path) -> Result<(), ToolError> {
        let extract = format!("--extract={}", into.display());
        self.run("fsck.erofs", image, &[&extract])
    }

    /// Unpacks a zstd frame into the file `to`.
    pub fn unpack_zstd(&self, file: &Path, to: &Path) -> Result<(), ToolError> {
        let to = to.display().to_string();
        self.run(
            "zstd",
            file,
            &["--quiet", "--force", "--decompress", "-o", &to],
        )
    }

    fn run(&self, tool: &'static str, path: &Path, options: &[&str]) -> Result<(), ToolError> {
        let full = std::path::absolute(path).map_err(|source| ToolError::Run { tool, source })?;
        let output = Command::new(&self.enter)
            .args(["--offline", "--", tool])
            .args(options)
            .arg(full)
            .stdin(Stdio::null())
            .output()
            .map_err(|source| ToolError::Run { tool, source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = [output.stderr, output.stdout].map(|said| last_line(&said));
        let said = said.into_iter().find(|line| !line.is_empty());
        Err(ToolError::Failed {
            tool,
            path: path.to_owned(),
            said: said.unwrap_or_else(|| output.status.to_string()),
        })
    }
}

/// The last line that says something.
pub(crate) fn last_line(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next_back().unwrap_or_default().to_owned()
}
