//! Random models of every family, and of every way to store quantised weights, made and run by
//! transformers at this moment, give the same here. Where the Python packages are missing this is
//! skipped, and the stored answers of `tests/exact.rs` hold alone.
#![allow(clippy::panic, clippy::expect_used)] // a test's helper is no test to clippy

use std::path::Path;
use std::process::Command;

/// What the script exits with if torch or transformers is missing.
const SKIPPED: i32 = 77;

#[test]
fn random_models_of_this_moment_agree_with_transformers() {
    compare(
        "compare_transformers.py",
        "greedy",
        &["--seed", "1000", "--models", "1", "--quantised"],
        "25 of 25 random models agree",
    );
}

#[test]
fn random_embedding_models_of_this_moment_agree_with_transformers() {
    compare(
        "compare_embeddings.py",
        "embed",
        &["--seed", "1", "--models", "4"],
        "4 of 4 embedding models agree",
    );
}

#[test]
fn templates_render_as_transformers_does_at_this_moment() {
    compare(
        "compare_templates.py",
        "render",
        &[],
        "7 of 7 templates agree",
    );
}

fn compare(script: &str, example: &str, arguments: &[&str], expected: &str) {
    let python = std::env::var_os("CLOISTER_PYTHON").unwrap_or_else(|| "python3".into());
    let deps = std::env::current_exe().expect("this program");
    let program = deps
        .ancestors()
        .nth(2)
        .expect("a folder")
        .join("examples")
        .join(example);
    assert!(program.exists(), "{} is not built", program.display());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(&python)
        .arg(root.join("tests").join(script))
        .arg(program)
        // Threads that spin for each other stand still on a busy machine.
        .env("OMP_NUM_THREADS", "1")
        .args(arguments)
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
        Some(0) => assert!(said.contains(expected), "{said}"),
        Some(SKIPPED) => eprintln!("SKIPPED, not tested: {}", said.trim()),
        _ => panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}
