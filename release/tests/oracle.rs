//! Our UKI and our prediction against systemd 257's own tools, out of the tools tree that
//! `CLOISTER_TOOLS` names. Without it these tests say that they are skipped.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use attest::Digest;
use release::command_line::CommandLine;
use release::{cpio, measure, uki};
use verity::VolumeRef;

/// The tools tree, with a stub and a kernel to build from.
struct Tools {
    tree: PathBuf,
    stub: Vec<u8>,
    kernel: PathBuf,
}

fn tools() -> Option<Tools> {
    let skip = |why: &str| {
        eprintln!("SKIPPED, not tested: {why}");
        None
    };
    let Some(tree) = std::env::var_os("CLOISTER_TOOLS").map(PathBuf::from) else {
        return skip("CLOISTER_TOOLS names no tools tree");
    };
    let Ok(stub) = fs::read(tree.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub")) else {
        return skip("the tools tree has no EFI stub");
    };
    let boot = fs::read_dir(tree.join("boot"))
        .into_iter()
        .flatten()
        .flatten();
    let kernel = boot.map(|entry| entry.path()).find(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
    });
    let Some(kernel) = kernel.or(std::env::var_os("CLOISTER_KERNEL").map(PathBuf::from)) else {
        return skip("no kernel in the tools tree, none named by CLOISTER_KERNEL");
    };
    Some(Tools { tree, stub, kernel })
}

impl Tools {
    /// A program of the tree, run by the tree's own loader and libraries.
    fn program(&self, path: &str) -> Command {
        let libraries = self.tree.join("usr/lib/x86_64-linux-gnu");
        let mut command = Command::new(libraries.join("ld-linux-x86-64.so.2"));
        let folders = [libraries.join("systemd"), libraries];
        command
            .arg("--library-path")
            .arg(std::env::join_paths(folders).unwrap());
        command.arg(self.tree.join(path));
        command
    }
}

fn parts_in(folder: &Path) -> CommandLine {
    let root = VolumeRef::new([0x5a; 32], [1; 32], 99).unwrap();
    let config = b"version = 1\n";
    let line = CommandLine::assemble(
        b"console=ttyS0 panic=-1 lockdown=integrity",
        &root,
        Digest::sha256(config),
    );
    let line = line.unwrap();
    let mut initrd: Vec<u8> = (0..1_000_001u32).map(|n| (n ^ (n >> 7)) as u8).collect();
    initrd.extend_from_slice(cpio::padding(initrd.len()));
    initrd.extend_from_slice(&measure::configuration_archive(config));
    fs::write(folder.join("initrd"), initrd).unwrap();
    fs::write(folder.join("osrel"), "ID=cloister\nNAME=Cloister\n").unwrap();
    fs::write(folder.join("cmdline"), line.as_str()).unwrap();
    line
}

fn our_uki(tools: &Tools, folder: &Path) -> Vec<u8> {
    let command_line = parts_in(folder);
    let parts = uki::Parts {
        stub: &tools.stub,
        os_release: &fs::read(folder.join("osrel")).unwrap(),
        command_line: &command_line,
        linux: &fs::read(&tools.kernel).unwrap(),
        initrd: &fs::read(folder.join("initrd")).unwrap(),
    };
    uki::build(&parts).unwrap()
}

#[test]
fn the_uki_equals_that_of_ukify() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ours = our_uki(&tools, folder.path());
    let output = Command::new("python3")
        .env(
            "PYTHONPATH",
            tools.tree.join("usr/lib/python3/dist-packages"),
        )
        .arg(tools.tree.join("usr/bin/ukify"))
        .args([
            "build",
            "--os-release=@osrel",
            "--cmdline=@cmdline",
            "--initrd=initrd",
        ])
        .arg("--stub")
        .arg(
            tools
                .tree
                .join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
        )
        .arg("--linux")
        .arg(&tools.kernel)
        .arg("--output=uki.efi")
        .current_dir(folder.path())
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let theirs = fs::read(folder.path().join("uki.efi")).unwrap();
    let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert_eq!((differs, ours.len()), (None, theirs.len()));
}

#[test]
fn pcr_11_equals_that_of_systemd_measure() {
    let Some(tools) = tools() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ours = our_uki(&tools, folder.path());
    let image = release::pe::Image::parse(&ours).unwrap();
    for name in ["uname", "sbat"] {
        let section = image.section(&format!(".{name}")).unwrap();
        fs::write(folder.path().join(name), image.contents(section).unwrap()).unwrap();
    }
    for phases in ["", "sysinit:ready"] {
        let words: Vec<String> = phases
            .split(':')
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        let predicted = measure::measure(&ours, &words).unwrap().values[&11];
        let mut command = tools.program("usr/lib/systemd/systemd-measure");
        command.args([
            "calculate",
            "--json=short",
            "--bank=sha256",
            "--bank=sha384",
        ]);
        command.args(["--osrel=osrel", "--cmdline=cmdline", "--initrd=initrd"]);
        command.args(["--uname=uname", "--sbat=sbat"]);
        command
            .arg(format!("--phase={phases}"))
            .arg("--linux")
            .arg(&tools.kernel);
        let output = command.current_dir(folder.path()).output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.contains(&predicted.sha256.to_string()),
            "{phases}: {text}"
        );
        assert!(
            text.contains(&predicted.sha384.to_string()),
            "{phases}: {text}"
        );
    }
}
