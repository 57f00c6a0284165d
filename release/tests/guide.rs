//! The guides' commands are such as the program takes, with every option that they give.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::process::Command;

/// The shell's blocks of a guide, each command on one line.
fn commands(guide: &str) -> Vec<String> {
    let blocks = guide.split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap().replace("\\\n", " "));
    let lines: Vec<String> = blocks.flat_map(|block| lines(&block)).collect();
    lines
}

fn lines(block: &str) -> Vec<String> {
    let own = |line: &str| Some(line[line.find("cloister-release ")?..].to_owned());
    block.lines().filter_map(own).collect()
}

#[test]
fn the_guides_commands_are_taken_with_all_their_options() {
    let mut count = 0;
    for guide in [
        include_str!("../../docs/audit.md"),
        include_str!("../../docs/operate.md"),
    ] {
        for line in commands(guide) {
            let line = line.split(" #").next().unwrap();
            let line = line.split(" |").next().unwrap().trim_end_matches(')');
            let line = line
                .replace("\"$origin\"", "log.example.org/x")
                .replace("\"$log_key\"", KEY)
                .replace("\"$signer\"", KEY);
            let mut words = line.split_whitespace();
            assert_eq!(words.next(), Some("cloister-release"));
            let folder = tempfile::tempdir().unwrap();
            let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-release"));
            let output = command
                .args(words)
                .current_dir(folder.path())
                .output()
                .unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            // clap names its help where it does not take something; we never do.
            assert!(!stderr.contains("For more information"), "{line}: {stderr}");
            count += 1;
        }
    }
    assert!(count > 15, "{count}");
}

const KEY: &str = "ed25519:VtXbfVAcsN+qhq6TvVYAGlzd9hAujN6QaRru6rLvXwI=";
