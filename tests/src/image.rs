//! The built image, for tests that boot it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::failure::{Failure, Outcome, Step};
use crate::tools::repository;

/// The folder with the parts of a profile's image, built if need be: the first time takes minutes.
/// Where nothing changed, it is copied from the cache.
pub fn parts(profile: &str) -> Outcome<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let output = repository().join("build/image").join(profile);
    let script = repository().join("image/build.sh");
    let mut command = Command::new(&script);
    command
        .args(["--profile", profile, "--output"])
        .arg(&output)
        .stdin(Stdio::null());
    let status = command
        .status()
        .step(format!("cannot run {}", script.display()))?;
    if !status.success() {
        return Err(Failure::new(format!(
            "the {profile} image cannot be built; see above"
        )));
    }
    Ok(output)
}
