//! Random models of every family, and of every way to store quantised weights, made and run by
//! transformers at this moment, give the same here. Where the Python packages are missing this is
//! skipped, and the stored answers of `tests/exact.rs` hold alone.
#![allow(clippy::panic)] // a test's helper is no test to clippy

use std::path::Path;
use std::process::Command;

/// What the script exits with if torch or transformers is missing.
const SKIPPED: i32 = 77;

#[test]
fn random_models_of_this_moment_agree_with_transformers() {
    let python = std::env::var_os("CLOISTER_PYTHON").unwrap_or_else(|| "python3".into());
    let deps = std::env::current_exe().expect("this program");
    let greedy = deps
        .ancestors()
        .nth(2)
        .expect("a folder")
        .join("examples/greedy");
    assert!(greedy.exists(), "{} is not built", greedy.display());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(&python)
        .arg(root.join("tests/compare_transformers.py"))
        .arg(greedy)
        // Threads that spin for each other stand still on a busy machine.
        .env("OMP_NUM_THREADS", "1")
        .args(["--seed", "1000", "--models", "1", "--quantised"])
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED, not tested: {}: {error}", python.display());
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => assert!(said.contains("25 of 25 random models agree"), "{said}"),
        Some(SKIPPED) => eprintln!("SKIPPED, not tested: {}", said.trim()),
        _ => panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}
