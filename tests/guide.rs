//! The operator's guide can be followed: its files are accepted, and its steps lead to a release.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::fs;
use std::path::Path;
use std::process::Command;

use attest::{Configuration, Policy};
use support::tools::repository;

/// The guide's blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let guide = fs::read_to_string(repository().join("docs/operate.md")).unwrap();
    let start = format!("```{language}\n");
    let parts = guide.split(&start).skip(1);
    parts
        .map(|part| part.split("```").next().unwrap().to_owned())
        .collect()
}

#[test]
fn the_guides_files_are_accepted() {
    let [configuration, policy] = blocks("toml").try_into().unwrap();
    Configuration::parse(configuration.as_bytes()).unwrap();
    Policy::parse(policy.as_bytes()).unwrap();
}

/// Follows the steps of model and release in a folder of an operator's own.
#[test]
fn the_guide_leads_from_a_model_to_a_release() {
    support::image::parts("production").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [_, model, check, release, ..] = &blocks("sh")[..] else {
        panic!("the guide has too few steps")
    };
    let demo = repository().join("tests/demo-model/model");
    let with_model = |commands: &str| commands.replace("/path/to/model", &demo.to_string_lossy());
    let pack = run(folder.path(), &with_model(model));
    let volume = pack
        .split_whitespace()
        .find(|word| word.starts_with("verity1:"))
        .unwrap();
    let configuration = blocks("toml").remove(0);
    let example = configuration
        .split('"')
        .find(|word| word.starts_with("verity1:"))
        .unwrap();
    let configuration = configuration.replace(example, volume);
    fs::write(folder.path().join("site.toml"), configuration).unwrap();
    assert!(run(folder.path(), &with_model(check)).contains("can be served"));
    // Whoever works on the sources has changes.
    let release = release.replace("release statement", "release statement --allow-dirty");
    run(folder.path(), &release);
    assert!(folder.path().join("bundle.json").exists());
}

/// Runs a step's commands as a shell does; gives what they print.
fn run(folder: &Path, commands: &str) -> String {
    let programs = Path::new(env!("CARGO_BIN_EXE_demo")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = Command::new("bash")
        .args(["-euc", commands])
        .current_dir(folder)
        .env("cloister", repository())
        .env("PATH", format!("{}:{path}", programs.display()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{commands}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
