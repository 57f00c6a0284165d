//! Git without what surrounds the caller: neither its environment nor its configuration decides
//! what is read or written.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::scratch::Scratch;

/// Settings that hold whatever a repository says: programs of the repository's choice are not run,
/// and lines end as they were committed.
const SETTINGS: [&str; 8] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.attributesFile=/dev/null",
    "-c",
    "core.autocrlf=false",
    "-c",
    "core.fsmonitor=false",
];

/// The program `git`, for work in `folder` if one is given, and in no repository around it.
///
/// Of the caller's configuration only `safe.directory` is kept: which folders of others are to be
/// trusted is the caller's to say, and nobody else's.
pub(crate) fn command(folder: Option<&Path>) -> Command {
    let mut command = Command::new("git");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    let trusted = TRUSTED.get_or_init(trusted_folders);
    let configuration = match trusted {
        Some(file) => open_file(file),
        None => "/dev/null".to_owned(),
    };
    command
        .env("GIT_CONFIG_GLOBAL", configuration)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_ATTR_NOSYSTEM", "1")
        .env("GIT_NO_REPLACE_OBJECTS", "1")
        // Never a question at the terminal: there may be nobody.
        .env("GIT_TERMINAL_PROMPT", "0")
        .args(SETTINGS)
        .stdin(Stdio::null());
    if let Some(folder) = folder {
        command.arg("-C").arg(folder);
        let above = folder.canonicalize().ok();
        if let Some(above) = above.as_deref().and_then(Path::parent) {
            command.env("GIT_CEILING_DIRECTORIES", above);
        }
    }
    command
}

/// A file with the caller's `safe.directory`, where there is any. It has no name: what stands in
/// it cannot be changed, and nothing is left behind.
static TRUSTED: OnceLock<Option<File>> = OnceLock::new();

fn trusted_folders() -> Option<File> {
    let of = |scope: &str| {
        let mut command = Command::new("git");
        command.args(["config", scope, "--null", "--get-all", "safe.directory"]);
        let output = command.stdin(Stdio::null()).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let folders = ["--system", "--global"].map(|scope| of(scope).unwrap_or_default());
    let folders = folders.concat();
    let text = configuration(&folders)?;
    // Without it git refuses, and says so itself.
    let scratch = Scratch::new().ok()?;
    let mut file = File::options();
    let file = file.read(true).write(true).create_new(true);
    let mut file = file.open(scratch.path().join("gitconfig")).ok()?;
    file.write_all(text.as_bytes()).ok()?;
    Some(file)
}

/// A configuration with these folders, each of which ends with a zero byte.
fn configuration(folders: &str) -> Option<String> {
    let folders = folders.split_terminator('\0');
    let lines = folders.map(|folder| {
        let escaped = folder.replace('\\', "\\\\").replace('"', "\\\"");
        format!("\tdirectory = \"{}\"\n", escaped.replace('\n', "\\n"))
    });
    let lines: String = lines.collect();
    (!lines.is_empty()).then(|| format!("[safe]\n{lines}"))
}

/// The name by which a child of ours opens a file of ours.
fn open_file(file: &File) -> String {
    use std::os::fd::AsRawFd as _;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_stand_in_a_configuration_as_they_are() {
        assert_eq!(configuration(""), None);
        let text = configuration("/a \"b\"\\\0*\0").unwrap();
        assert_eq!(
            text,
            "[safe]\n\tdirectory = \"/a \\\"b\\\"\\\\\"\n\tdirectory = \"*\"\n"
        );
    }
}
