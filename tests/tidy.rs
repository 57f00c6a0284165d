//! House rules that no compiler checks. Each rule is one test; an exception stands in one list,
//! with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_COLUMNS: usize = 100;

/// What may stand at the root of the repository.
const ROOT: &[&str] = &[
    ".ci",
    ".github",
    ".gitattributes",
    ".gitignore",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "Makefile",
    "README.md",
    "agent",
    "attest",
    "carrier",
    "channel",
    "client",
    "clippy.toml",
    "deny.toml",
    "docs",
    "flake.nix",
    "image",
    "inference",
    "kernels",
    "mkosi.conf",
    "nix",
    "release",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
    "verity",
];

/// Which room may import which: arrows go one way.
const IMPORTS: &[(&str, &[&str])] = &[
    (
        "agent",
        &["attest", "carrier", "channel", "inference", "verity"],
    ),
    ("attest", &[]),
    ("carrier", &["attest", "channel"]),
    ("channel", &["attest"]),
    (
        "client",
        &["attest", "carrier", "channel", "cloister-sigstore"],
    ),
    ("inference", &["kernels"]),
    ("kernels", &[]),
    ("release", &["attest", "cloister-sigstore", "verity"]),
    (
        "release/publish",
        &["attest", "cloister-sigstore", "release"],
    ),
    ("release/sigstore", &["attest"]),
    ("verity", &[]),
];

/// The only files that may hold `unsafe`, each with its reason.
const UNSAFE: &[(&str, &str)] = &[
    (
        "verity/src/sys.rs",
        "device-mapper ioctls, mount and module loading have no safe interface",
    ),
    (
        "inference/src/map.rs",
        "a memory map is only as stable as the file behind it",
    ),
    (
        "inference/src/cpu/pool.rs",
        "threads that outlive a step borrow its data without a copy",
    ),
    (
        "inference/src/cpu/vector.rs",
        "sixteen lanes at once need the processor's own instructions",
    ),
    (
        "inference/src/cpu/amx/tiles.rs",
        "the processor's tiles have no safe interface",
    ),
    (
        "inference/src/cpu/level.rs",
        "calling what is compiled for AVX needs proof that the processor has it",
    ),
    (
        "agent/src/evidence/nvml/sys.rs",
        "the driver's library is found at run time and called by its C ABI",
    ),
    (
        "kernels/src/cuda.rs",
        "starting a kernel hands addresses to a driver",
    ),
];

/// Longer than the rule allows, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];
const LONG_FUNCTIONS: &[(&str, &str)] = &[];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
        .to_path_buf()
}

fn git(arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("paths are UTF-8")
}

/// Files that git tracks or would track, with their text; binary files are left out.
fn sources(extensions: &[&str]) -> BTreeMap<String, String> {
    git(&["ls-files", "--cached", "--others", "--exclude-standard"])
        .lines()
        .filter(|path| extensions.iter().any(|end| path.ends_with(end)))
        .filter_map(|path| Some((path.to_owned(), fs::read_to_string(root().join(path)).ok()?)))
        .collect()
}

fn report(faults: Vec<String>) {
    assert!(
        faults.is_empty(),
        "{} fault(s):\n  {}",
        faults.len(),
        faults.join("\n  ")
    );
}

/// The text before the unit tests, which stand last in a file.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

fn is_product(path: &str) -> bool {
    path.contains("/src/") && !path.starts_with("tests/") && !path.contains("/fuzz/")
}

#[test]
fn the_root_holds_only_what_is_listed() {
    let found: BTreeSet<String> = git(&["ls-files"])
        .lines()
        .map(|path| path.split('/').next().unwrap_or(path).to_owned())
        .collect();
    report(
        found
            .into_iter()
            .filter(|name| !ROOT.contains(&name.as_str()))
            .collect(),
    );
}

#[test]
fn files_and_functions_stay_short() {
    let mut faults = Vec::new();
    for (path, text) in sources(&[".rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        if lines.len() > MAX_FILE_LINES && !LONG_FILES.iter().any(|(file, _)| *file == path) {
            faults.push(format!(
                "{path}: {} lines, {MAX_FILE_LINES} allowed",
                lines.len()
            ));
        }
        for (number, line) in lines.iter().enumerate() {
            if line.chars().count() > MAX_COLUMNS && !line.contains("http") {
                faults.push(format!(
                    "{path}:{}: longer than {MAX_COLUMNS} columns",
                    number + 1
                ));
            }
        }
        // A test may hold a long table of cases.
        if is_product(&path) && !path.ends_with("tests.rs") {
            faults.extend(long_functions(&path, &lines));
        }
    }
    report(faults);
}

/// Formatted code closes a function by a brace at the indentation of its first line.
fn long_functions(path: &str, lines: &[&str]) -> Vec<String> {
    let mut faults = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_function = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "async fn ",
            "pub async fn ",
        ]
        .iter()
        .any(|head| code.starts_with(head));
        if !is_function || line.ends_with(';') {
            continue;
        }
        let end = format!("{}}}", &line[..line.len() - code.len()]);
        // A declaration has no body.
        let declared = format!("{})", &line[..line.len() - code.len()]);
        let length = lines[start..]
            .iter()
            .position(|line| *line == end || (line.starts_with(&declared) && line.ends_with(';')))
            .unwrap_or(0)
            + 1;
        let excepted = LONG_FUNCTIONS
            .iter()
            .any(|(name, _)| code.contains(&format!("fn {name}(")));
        if length > MAX_FUNCTION_LINES && !excepted {
            faults.push(format!(
                "{path}:{}: a function of {length} lines",
                start + 1
            ));
        }
    }
    faults
}

#[test]
fn imports_go_one_way() {
    let mut faults = Vec::new();
    for (room, allowed) in IMPORTS {
        let text = fs::read_to_string(root().join(room).join("Cargo.toml")).expect("a manifest");
        let manifest: toml::Table = toml::from_str(&text).expect("a manifest parses");
        let Some(dependencies) = manifest
            .get("dependencies")
            .and_then(|table| table.as_table())
        else {
            continue;
        };
        for name in dependencies.keys() {
            let ours = IMPORTS.iter().any(|(room, _)| room == name) || name.starts_with("cloister");
            if ours && !allowed.contains(&name.as_str()) {
                faults.push(format!("{room} may not import {name}"));
            }
        }
    }
    report(faults);
}

#[test]
fn unsafe_code_stands_where_it_is_listed() {
    let word = concat!("un", "safe");
    let mut faults = Vec::new();
    for (path, text) in sources(&[".rs"]) {
        let used = text.lines().any(|line| {
            let code = line.split("//").next().unwrap_or_default();
            code.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|token| token == word)
        });
        if used && is_product(&path) && !UNSAFE.iter().any(|(file, _)| *file == path) {
            faults.push(path);
        }
    }
    report(faults);
}

#[test]
fn nothing_is_left_unfinished_or_tied_to_one_machine() {
    // Written in two halves, so that this file does not hold them.
    let banned = [
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
        concat!("dbg", "!("),
        concat!("FIX", "ME"),
        concat!("deb.deb", "ian.org"),
        concat!("static.cra", "tes.io"),
        concat!("index.cra", "tes.io"),
        concat!("py", "pi.org"),
        concat!("python", "hosted"),
        concat!("registry.npm", "js"),
        concat!("/wo", "rk/"),
        concat!("/fa", "rm/"),
    ];
    let kinds = [
        ".rs", ".sh", ".py", ".toml", ".md", ".conf", ".service", ".nix", "Makefile", ".ci/run",
    ];
    let mut faults = Vec::new();
    for (path, text) in sources(&kinds) {
        for (number, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                faults.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    report(faults);
}

#[test]
fn every_module_is_reachable() {
    let files = sources(&[".rs"]);
    let mut faults = Vec::new();
    for path in files
        .keys()
        .filter(|path| path.contains("/src/") && !path.contains("/fuzz/"))
    {
        let path = Path::new(path);
        let (Some(stem), Some(folder)) = (path.file_stem(), path.parent()) else {
            continue;
        };
        let stem = stem.to_string_lossy();
        let folder = folder.to_string_lossy();
        if ["lib", "main", "mod"].contains(&&*stem) || folder.ends_with("/bin") {
            continue;
        }
        let parents = [
            format!("{folder}/lib.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}/mod.rs"),
            format!("{folder}.rs"),
        ];
        let declared = parents
            .iter()
            .filter_map(|parent| files.get(parent))
            .any(|text| {
                text.lines()
                    .any(|line| line.trim_end().ends_with(&format!("mod {stem};")))
            });
        if !declared {
            faults.push(path.display().to_string());
        }
    }
    report(faults);
}

#[test]
fn pure_rooms_do_no_io() {
    let banned = [
        "std::fs",
        "std::net",
        "std::env",
        "SystemTime::now",
        "Instant::now",
        "println!",
    ];
    let mut faults = Vec::new();
    for (path, text) in sources(&[".rs"]) {
        if !(path.starts_with("attest/src/") || path.starts_with("channel/src/")) {
            continue;
        }
        for word in banned.iter().filter(|word| product(&text).contains(**word)) {
            faults.push(format!("{path}: {word}"));
        }
    }
    report(faults);
}

#[test]
fn every_room_that_parses_foreign_bytes_has_fuzz_targets() {
    let rooms = [
        "agent",
        "attest",
        "channel",
        "inference",
        "release",
        "verity",
    ];
    let missing = rooms.iter().filter(|room| {
        !fs::read_dir(root().join(room).join("fuzz/fuzz_targets"))
            .is_ok_and(|mut entries| entries.next().is_some())
    });
    report(
        missing
            .map(|room| format!("{room}/fuzz/fuzz_targets is missing or empty"))
            .collect(),
    );
}

#[test]
fn licences_are_on_the_list() {
    let deny: toml::Table =
        toml::from_str(&fs::read_to_string(root().join("deny.toml")).expect("deny.toml"))
            .expect("deny.toml parses");
    let allowed: Vec<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("licenses.allow is a list")
        .iter()
        .filter_map(|value| value.as_str())
        .collect();
    let output = Command::new(root().join("image/cargo.sh"))
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--filter-platform=x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let faults = packages.iter().filter_map(|package| {
        let licence = package["license"].as_str().unwrap_or("none");
        let fits = licence.replace('/', " OR ").split(" OR ").any(|choice| {
            choice
                .split(" AND ")
                .map(|one| one.trim_matches(['(', ')', ' ']))
                .all(|one| allowed.contains(&one))
        });
        (!fits).then(|| format!("{}: {licence}", package["name"]))
    });
    report(faults.collect());
}

#[test]
fn promises_and_threats_name_tests_that_exist() {
    let sources: String = sources(&[".rs"]).into_values().collect();
    let read = |name: &str| fs::read_to_string(root().join("docs").join(name)).expect(name);
    let mut faults = Vec::new();
    let promises = read("promises.md");
    let promises = promises.lines().filter(|line| line.starts_with("| P"));
    let (mut rows, mut names) = (0, Vec::new());
    for line in promises {
        rows += 1;
        let cell = last_cell(line);
        let found = quoted(cell);
        if found.is_empty() && !cell.starts_with("not tested") {
            faults.push(format!("names no test and does not say so: {line}"));
        }
        names.extend(found);
    }
    let threats = read("threats.md");
    for line in threats.lines().filter(|line| line.starts_with("| ")) {
        names.extend(quoted(last_cell(line)));
    }
    for name in names {
        if !sources.contains(&format!("fn {name}(")) {
            faults.push(format!("no such test: {name}"));
        }
    }
    assert!(
        rows > 0,
        "docs/promises.md has no row that starts with `| P`"
    );
    report(faults);
}

fn last_cell(line: &str) -> &str {
    let cells = line.trim_end_matches('|').rsplit('|');
    cells.map(str::trim).next().unwrap_or_default()
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}
