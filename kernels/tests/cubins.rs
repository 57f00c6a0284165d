//! The compiled kernels: the same bits wherever they are built, made of the instructions that
//! they are meant to be made of, and nothing kept where registers should do.

#![allow(clippy::unwrap_used, clippy::panic)] // as in unit tests

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `build.sh` ends with this where the compiler cannot be fetched.
const NOT_THERE: i32 = 75;

fn build(arguments: &[&str]) -> Command {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.sh");
    let mut command = Command::new(script);
    command.args(arguments);
    command
}

/// The compiler's folder; `None`, said loudly, where it cannot be had.
fn toolkit() -> Option<PathBuf> {
    let output = build(&["--toolkit"]).output().unwrap();
    if output.status.code() == Some(NOT_THERE) {
        eprintln!("SKIPPED, not checked: cubins (their compiler cannot be fetched here)");
        return None;
    }
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(PathBuf::from(said.trim()))
}

/// Compiles a copy of the sources that lies in `folder`; what it gives is compared with the
/// manifest.
fn built_in(folder: &Path, only: &[&str]) -> PathBuf {
    let sources = folder.join("sources");
    fs::create_dir_all(&sources).unwrap();
    let original = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    for entry in fs::read_dir(original).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), sources.join(entry.file_name())).unwrap();
    }
    let output = folder.join("cubins");
    let mut command = build(&["--sources", sources.to_str().unwrap()]);
    command.args(["--output", output.to_str().unwrap()]);
    only.iter().for_each(|name| {
        command.args(["--only", name]);
    });
    let said = command.output().unwrap();
    assert!(
        said.status.success(),
        "{}",
        String::from_utf8_lossy(&said.stderr)
    );
    output
}

fn run(program: &Path, arguments: &[&str], cubin: &Path) -> String {
    // nvdisasm, which cuobjdump asks, lies beside it.
    let output = Command::new(program)
        .args(arguments)
        .arg(cubin)
        .env("PATH", program.parent().unwrap())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cubins_are_those_of_the_manifest_wherever_they_are_built() {
    let Some(toolkit) = toolkit() else {
        return;
    };
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let all = built_in(first.path(), &[]);
    let hopper = built_in(&second.path().join("in/another/place"), &["sm_90a"]);
    for entry in fs::read_dir(hopper.join("sm_90a")).unwrap() {
        let entry = entry.unwrap();
        let other = all.join("sm_90a").join(entry.file_name());
        assert_eq!(fs::read(entry.path()).unwrap(), fs::read(other).unwrap());
    }
    for architecture in kernels::cubins::Architecture::ALL {
        kernels::cubins::open(&all, architecture).unwrap();
        for (module, _) in kernels::cubins::modules(architecture) {
            let cubin = all.join(architecture.name()).join(module);
            uses_registers_only(&toolkit, &cubin);
            holds_no_source_for_a_compiler(&cubin);
        }
    }
    for architecture in ["sm_80", "sm_90a", "sm_120"] {
        has_the_intended_instructions(&toolkit, &all.join(architecture));
    }
}

/// Neither a stack nor local memory: nothing spilled.
fn uses_registers_only(toolkit: &Path, cubin: &Path) {
    let used = run(
        &toolkit.join("bin/cuobjdump"),
        &["--dump-resource-usage"],
        cubin,
    );
    let kernels: Vec<&str> = used.lines().filter(|line| line.contains("REG:")).collect();
    assert!(!kernels.is_empty(), "{}: {used}", cubin.display());
    for line in kernels {
        assert!(line.contains("STACK:0 "), "{}: {line}", cubin.display());
        assert!(line.contains("LOCAL:0 "), "{}: {line}", cubin.display());
    }
}

/// PTX is text, and begins with its version: with it, a driver could compile what nobody measured.
fn holds_no_source_for_a_compiler(cubin: &Path) {
    let content = fs::read(cubin).unwrap();
    let found = content.windows(9).any(|window| window == b".version ");
    assert!(!found, "{} holds PTX", cubin.display());
}

fn has_the_intended_instructions(toolkit: &Path, folder: &Path) {
    let tensor_cores = "HMMA.16816.F32.BF16";
    let copies = "LDGSTS.E.BYPASS.128";
    let matrices = "LDSM.16.M88.4";
    for (module, intended) in [
        (
            "attention_prefill",
            &[
                tensor_cores,
                copies,
                matrices,
                "LDSM.16.MT88.4",
                "MUFU.EX2",
                "STG.E.128",
            ][..],
        ),
        (
            "attention_decode",
            &[tensor_cores, copies, matrices, "LDSM.16.MT88.4", "MUFU.EX2"],
        ),
        ("gemm", &[tensor_cores, copies, matrices]),
        ("norm", &["LDG.E.128", "STG.E.128"]),
        ("rope", &["LDG.E.128", "STG.E.128"]),
        ("gate", &["LDG.E.128", "STG.E.128"]),
        ("embed", &["LDG.E.128", "STG.E.128"]),
        ("sample", &["ATOMS"]),
    ] {
        let cubin = folder.join(module).with_extension("cubin");
        let code = run(&toolkit.join("bin/nvdisasm"), &["--print-code"], &cubin);
        for instruction in intended {
            assert!(
                code.contains(instruction),
                "{}: no {instruction}",
                cubin.display()
            );
        }
    }
}
