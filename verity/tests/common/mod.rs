//! Reference tools that the tests compare with.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not see as tests

use std::path::Path;
use std::process::Command;

/// A command for `program`: from the path, from where administrators' tools stand, or from the
/// locked tools tree if that has been made. `None`, and a line that says so, where there is none.
pub(crate) fn reference(program: &str) -> Option<Command> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    folders.extend(["/usr/sbin", "/sbin"].map(Into::into));
    let on_host = folders.into_iter().map(|folder| folder.join(program));
    if let Some(found) = on_host.into_iter().find(|path| path.is_file()) {
        return Some(Command::new(found));
    }
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image");
    if tools_tree_has(&image, program) {
        let mut command = Command::new(image.join("enter.sh"));
        command.args(["--", program]);
        return Some(command);
    }
    eprintln!("SKIPPED: no {program}, on this machine or as `make tools`; nothing was compared");
    None
}

fn tools_tree_has(image: &Path, program: &str) -> bool {
    let tree = "cd \"$0\" && . ./lib.sh && tree_dir tools";
    let output = Command::new("bash").args(["-c", tree]).arg(image).output();
    output.is_ok_and(|output| {
        let tree = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let folders = ["usr/bin", "usr/sbin"].map(|folder| Path::new(&tree).join(folder));
        output.status.success() && folders.iter().any(|folder| folder.join(program).is_file())
    })
}
