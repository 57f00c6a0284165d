//! Every way to refuse has a test that provokes it: each variant of each error stands in a test.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Parts of errors, which are reasons to refuse as well.
const PARTS: [&str; 1] = ["Topology"];

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The enums of `text` that are errors: what derives `thiserror::Error`, in formatted code.
fn errors(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (head, body) in text
        .split("\npub enum ")
        .collect::<Vec<_>>()
        .windows(2)
        .map(|pair| (pair[0], pair[1]))
    {
        let attributes = head.rsplit("\n\n").next().unwrap_or(head);
        if attributes.contains("thiserror::Error") {
            found.extend(body.split(' ').next().map(str::to_owned));
        }
    }
    found
}

/// The variants of `pub enum NAME {` in formatted code: names at the first indentation.
fn variants(text: &str, name: &str) -> Vec<String> {
    let Some((_, body)) = text.split_once(&format!("pub enum {name} {{\n")) else {
        return Vec::new();
    };
    let body = body.split("\n}").next().unwrap_or_default();
    let names = body.lines().filter_map(|line| line.strip_prefix("    "));
    names
        .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .map(|line| {
            line.split([' ', '(', ',', '{'])
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

/// A name of which this one is only the beginning is another.
fn names_it(tests: &str, name: &str) -> bool {
    let mut after = tests.split(name).skip(1);
    after.any(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
}

#[test]
fn each_has_a_test_that_provokes_it() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&room.join("src"), &mut files);
    let product: Vec<String> = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    let mut files = Vec::new();
    sources(&room.join("tests"), &mut files);
    let mut tests: String = files
        .iter()
        .map(|file| fs::read_to_string(file).unwrap())
        .collect();
    tests.extend(
        product
            .iter()
            .filter_map(|text| text.split("#[cfg(test)]").nth(1)),
    );

    // What a client's trait for Sigstore says is provoked where the trait is implemented.
    let mut files = Vec::new();
    sources(&room.join("../release/sigstore/tests"), &mut files);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        tests += &text
            .replace(" F::", " SigstoreFault::")
            .replace("(F::", "(SigstoreFault::");
    }

    let mut missing = Vec::new();
    let mut names: Vec<String> = product.iter().flat_map(|text| errors(text)).collect();
    assert!(names.len() > 30, "{names:?}");
    names.extend(PARTS.map(str::to_owned));
    for error in names {
        let variants: Vec<_> = product
            .iter()
            .flat_map(|text| variants(text, &error))
            .collect();
        assert!(!variants.is_empty(), "{error} was not found");
        let names = variants.iter().map(|variant| format!("{error}::{variant}"));
        missing.extend(names.filter(|name| !names_it(&tests, name)));
    }
    assert!(missing.is_empty(), "no test provokes {missing:?}");
}
