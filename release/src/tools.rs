//! The locked tools of a checkout, run as its build runs them: `image/enter.sh`, without a network.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
    /// What was unpacked cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// Where it was to go.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It unpacks to more than there can be.
    #[error("{path} unpacks to more than {most} bytes")]
    TooLarge {
        /// What was unpacked.
        path: PathBuf,
        /// The most that is written.
        most: u64,
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

    /// Unpacks a zstd frame into the file `to`, of at most `most` bytes.
    pub fn unpack_zstd(&self, file: &Path, to: &Path, most: u64) -> Result<(), ToolError> {
        let tool = "zstd";
        let failed = |source| ToolError::Run { tool, source };
        let mut command = self.command(tool, file, &["--quiet", "--decompress", "--stdout"])?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let complaints = std::thread::spawn(move || {
            let mut said = Vec::new();
            // What cannot be read is not told.
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut said));
            said
        });
        let written = File::create(to).and_then(|mut to| match stdout {
            Some(stdout) => io::copy(&mut stdout.take(most.saturating_add(1)), &mut to),
            None => Ok(0),
        });
        if !matches!(written, Ok(bytes) if bytes <= most) {
            // Nobody reads on: it ends by itself, if this does not reach it.
            let _ = child.kill();
        }
        let status = child.wait().map_err(failed)?;
        let said = complaints.join().unwrap_or_default();
        let path = to.to_owned();
        let written = written.map_err(|source| ToolError::Write { path, source })?;
        if written > most {
            return Err(ToolError::TooLarge {
                path: file.to_owned(),
                most,
            });
        }
        let (stderr, stdout) = (said, Vec::new());
        let output = Output {
            status,
            stdout,
            stderr,
        };
        Self::judge(tool, file, output)
    }

    fn run(&self, tool: &'static str, path: &Path, options: &[&str]) -> Result<(), ToolError> {
        let output = self.command(tool, path, options)?.output();
        let output = output.map_err(|source| ToolError::Run { tool, source })?;
        Self::judge(tool, path, output)
    }

    fn command(
        &self,
        tool: &'static str,
        path: &Path,
        options: &[&str],
    ) -> Result<Command, ToolError> {
        let full = std::path::absolute(path).map_err(|source| ToolError::Run { tool, source })?;
        let mut command = Command::new(&self.enter);
        command
            .args(["--offline", "--", tool])
            .args(options)
            .arg(full)
            .stdin(Stdio::null());
        Ok(command)
    }

    fn judge(tool: &'static str, path: &Path, output: Output) -> Result<(), ToolError> {
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
