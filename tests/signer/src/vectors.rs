//! Evidence and reference values of real machines, which stand beside a checkout.

use std::io::Write as _;
use std::path::PathBuf;

/// The folder with them, or nothing, and that is said past what captures a test's output.
pub fn vectors() -> Option<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/vectors");
    if folder.is_dir() {
        return Some(folder);
    }
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no vectors of real hardware at {}",
        folder.display()
    );
    None
}

/// A file of that folder.
pub fn read_vector(path: &str) -> Vec<u8> {
    let folder = vectors().expect("vectors of real hardware");
    std::fs::read(folder.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
