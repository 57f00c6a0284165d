//! The operator's guide can be followed: its files parse, and its programs know its options.
#![allow(clippy::unwrap_used)] // helpers are no tests to clippy

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

#[test]
fn the_guides_commands_are_understood() {
    let programs = Path::new(env!("CARGO_BIN_EXE_demo")).parent().unwrap();
    let text = blocks("sh").concat().replace("\\\n", " ");
    let commands = text.lines().filter(|line| line.starts_with("cloister"));
    let mut seen = 0;
    for line in commands {
        let words: Vec<&str> = line
            .split(" #")
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let is_name = |word: &&&str| word.chars().all(|c| c.is_ascii_lowercase());
        let subcommands: Vec<_> = words[1..].iter().take_while(is_name).collect();
        let help = Command::new(programs.join(words[0]))
            .args(subcommands)
            .arg("--help")
            .output();
        let help = String::from_utf8(help.unwrap().stdout).unwrap();
        for option in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(option), "{line}: {option} is not in\n{help}");
        }
        seen += 1;
    }
    assert_eq!(seen, 12, "the guide's commands were not found");
}
