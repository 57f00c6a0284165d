//! Boots the real image beside a software TPM, asks it as a person would, and then tries what a
//! host may try. One machine at a time: each boot takes both processors.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use release::key::SigningKey;
use release::statement;
use signer::authority::Authority;
use support::accelerator::Accelerator;
use support::site::{Ingredients, Site, pack_model};
use support::swtpm;
use support::tools::{Tools, repository};
use support::vm::{Machine, Vm};
use tempfile::TempDir;

const BOOT: Duration = Duration::from_secs(300);
const QUESTION: &str = "What is a launch digest?";

/// What all tests share: the image, and a site made of it.
struct Stage {
    tools: Tools,
    accelerator: Accelerator,
    authority: Authority,
    site: Site,
    _folder: TempDir,
}

/// A booted machine and a policy that trusts its TPM.
struct Running {
    vm: Vm,
    policy: PathBuf,
    folder: TempDir,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let tools = Tools::locate().expect("the tools tree");
        let folder = tempfile::tempdir().expect("a folder");
        let site = Site::make(&folder.path().join("site"), &ingredients()).expect("a site");
        let kernel = site.assembled().join("vmlinuz");
        let accelerator = Accelerator::choose(&tools, &kernel).expect("QEMU");
        let authority = swtpm::new_authority("test provisioning").expect("randomness");
        Stage {
            tools,
            accelerator,
            authority,
            site,
            _folder: folder,
        }
    })
}

fn ingredients() -> Ingredients<'static> {
    static PATHS: OnceLock<[PathBuf; 3]> = OnceLock::new();
    let [image, model, lock] = PATHS.get_or_init(|| {
        let root = repository();
        let image = support::image::parts("demo").expect("the image");
        [
            image,
            root.join("tests/demo-model/model"),
            root.join("image/deb.lock"),
        ]
    });
    Ingredients {
        image,
        model,
        lock,
        source_revision: "test",
    }
}

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::new(());
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Boots `disk` and the model's disk, with what a hostile host adds to QEMU's arguments.
fn boot(disk: &Path, model: &Path, hostile: &[&str]) -> Running {
    let stage = stage();
    let folder = tempfile::tempdir().expect("a folder");
    let tpm = folder.path().join("tpm");
    swtpm::provision(&stage.tools, &tpm, &stage.authority).expect("a TPM");
    let policy = folder.path().join("policy.toml");
    fs::write(&policy, stage.site.policy(&stage.authority.pem())).expect("a policy");
    let vm = Machine::firmware(stage.accelerator)
        .disk(disk)
        .disk(model)
        .tpm(&tpm)
        .arguments(hostile.iter().copied())
        .start(&stage.tools, &folder.path().join("machine"))
        .expect("QEMU starts");
    Running { vm, policy, folder }
}

impl Running {
    fn ready(mut self) -> Self {
        self.vm.wait_ready(BOOT).expect("the agent answers");
        self
    }

    /// Runs the client with a state of its own, unless the arguments name one.
    fn client(&self, arguments: &[&str]) -> Output {
        let program = std::env::current_exe().expect("a path");
        let program = program
            .parent()
            .and_then(Path::parent)
            .expect("target/PROFILE");
        let mut command = Command::new(program.join("cloister"));
        let (verb, rest) = arguments.split_first().expect("a verb");
        command.arg(verb);
        if !rest.contains(&"--policy") {
            command.arg("--policy").arg(&self.policy);
        }
        if !rest.contains(&"--state") {
            let fresh = tempfile::tempdir_in(self.folder.path()).expect("a folder");
            command.arg("--state").arg(fresh.keep());
        }
        command
            .args(rest)
            .output()
            .expect("`cargo build --workspace` makes the client")
    }

    fn url(&self) -> String {
        format!("http://{}", self.vm.address())
    }

    /// The client must refuse, with this exit code and a message that holds these words.
    fn refused(&self, arguments: &[&str], code: i32, words: &[&str]) {
        let output = self.client(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(
            output.stdout.is_empty(),
            "a refused peer was heard: {output:?}"
        );
        for word in words {
            assert!(said.contains(word), "`{word}` is missing in: {said}");
        }
    }
}

fn copy_of_disk(folder: &Path) -> PathBuf {
    let copy = folder.join("disk.img");
    fs::copy(stage().site.disk(), &copy).expect("room for a disk");
    copy
}

/// First byte and length of the partition with this number, from 0.
fn partition(disk: &Path, number: usize) -> (u64, u64) {
    let table = verity::gpt::Table::read(&File::open(disk).expect("a disk")).expect("a GPT");
    let entry = &table.entries()[number];
    (entry.offset_bytes(), entry.size_bytes())
}

#[test]
fn the_machine_is_verified_and_answers() {
    let _alone = one_at_a_time();
    let site = &stage().site;
    let running = boot(&site.disk(), &site.model_disk(), &[]).ready();
    let url = running.url();

    let answer = running.client(&["ask", &url, QUESTION]);
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(answer.status.success(), "{said}");
    assert!(said.contains("verified"), "{said}");
    assert!(answer.stdout.len() > 20, "{answer:?}");

    let report = running.client(&["verify", "--json", &url]);
    assert!(report.status.success(), "{report:?}");
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert!(
        report.to_string().contains(
            &site
                .measurement()
                .reference_values()
                .sha384
                .pcr9
                .to_string()
        )
    );

    // A stranger's authority, a rollback, and releases that are not what they seem.
    let folder = running.folder.path();
    let stranger = Authority::new("a stranger", 9);
    let policy = folder.join("stranger.toml");
    fs::write(&policy, site.policy(&stranger.pem())).expect("a policy");
    let policy = policy.display().to_string();
    running.refused(
        &["verify", "--policy", &policy, &url],
        2,
        &["attestation key"],
    );
    rollback(&running, folder);
    forged_releases(&running, folder);

    // What was asked and answered stands in no log.
    let serial = running.vm.serial();
    assert!(
        !serial.contains(QUESTION) && !serial.contains("launch digest"),
        "{serial}"
    );
}

#[test]
fn the_demo_goes_from_nothing_to_an_answer_and_ends() {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_demo"))
        .args(["--prompt", QUESTION, "--folder"])
        .arg(folder.path())
        .arg("--image")
        .arg(ingredients().image)
        .output()
        .expect("the demo starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(output.stdout.len() > 20, "no answer: {output:?}");
    for line in [
        "is logged",
        "verified",
        "the agent answers",
        "the machine is off",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

/// A client that has seen version 2 refuses version 1.
fn rollback(running: &Running, folder: &Path) {
    let (site, url) = (&stage().site, running.url());
    let newer = folder.join("newer.json");
    fs::write(
        &newer,
        site.sign_version(&ingredients(), 2).expect("version 2"),
    )
    .expect("a file");
    let state = folder.join("state").display().to_string();
    let newer = newer.display().to_string();
    let seen = running.client(&["verify", "--state", &state, "--release", &newer, &url]);
    assert!(
        seen.status.success(),
        "{}",
        String::from_utf8_lossy(&seen.stderr)
    );
    running.refused(
        &["verify", "--state", &state, &url],
        4,
        &["release version", "2", "1"],
    );
}

/// Releases with a signature by nobody we know, and from outside the log.
fn forged_releases(running: &Running, folder: &Path) {
    let (site, url) = (&stage().site, running.url());
    let text = fs::read(site.bundle()).expect("the bundle");
    let bundle = attest::release::Bundle::decode(&text).expect("a bundle");
    let path = folder.join("forged.json").display().to_string();

    let mut forged = bundle.clone();
    let stated = attest::release::Statement::decode(&bundle.envelope.payload).expect("a statement");
    forged.envelope = statement::sign(&stated.encode(), &SigningKey::generate().expect("a key"));
    fs::write(&path, forged.encode()).expect("a file");
    running.refused(
        &["verify", "--release", &path, &url],
        2,
        &["release signature"],
    );

    let mut unlogged = bundle;
    unlogged.log.index += 1;
    fs::write(&path, unlogged.encode()).expect("a file");
    running.refused(&["verify", "--release", &path, &url], 5, &["log"]);
}

#[test]
fn a_flipped_byte_in_the_root_never_serves() {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let disk = copy_of_disk(folder.path());
    let (start, length) = partition(&disk, 1);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&disk)
        .expect("a disk");
    // The superblock is read at every boot; a byte of it that the file system does not use.
    let at = start + 1024 + 0x70;
    assert!(at < start + length);
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    let mut running = boot(&disk, &stage().site.model_disk(), &[]);
    let ended = running
        .vm
        .wait_ready(BOOT)
        .expect_err("a tampered root must not serve")
        .to_string();
    assert!(ended.contains("ended"), "{ended}");
}

#[test]
fn a_command_line_that_the_host_adds_is_seen_in_its_register() {
    let _alone = one_at_a_time();
    let site = &stage().site;
    let extra = "type=11,value=io.systemd.stub.kernel-cmdline-extra=systemd.mask=none.service";
    let running = boot(&site.disk(), &site.model_disk(), &["-smbios", extra]).ready();
    let words = ["PCR 12", "must be empty", "found"];
    running.refused(&["ask", &running.url(), QUESTION], 4, &words);
}

#[test]
fn a_credential_beside_the_uki_is_seen_in_its_register() {
    beside_the_uki("evil.cred", "PCR 12");
}

#[test]
fn a_system_extension_beside_the_uki_is_seen_in_its_register() {
    beside_the_uki("evil.sysext.raw", "PCR 13");
}

fn beside_the_uki(name: &str, register: &str) {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let disk = copy_of_disk(folder.path());
    add_to_esp(&disk, "EFI/BOOT/BOOTX64.EFI.extra.d", name, b"not ours");
    let running = boot(&disk, &stage().site.model_disk(), &[]).ready();
    running.refused(
        &["ask", &running.url(), QUESTION],
        4,
        &[register, "must be empty"],
    );
}

#[test]
fn an_addon_that_names_another_root_never_serves() {
    let _alone = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let disk = copy_of_disk(folder.path());
    // A UKI has a command line like any addon; the stub appends it.
    let uki = fs::read(stage().site.assembled().join("cloister.efi")).expect("the UKI");
    add_to_esp(
        &disk,
        "EFI/BOOT/BOOTX64.EFI.extra.d",
        "evil.addon.efi",
        &uki,
    );
    let mut running = boot(&disk, &stage().site.model_disk(), &[]);
    match running.vm.wait_ready(BOOT) {
        Err(_) => {
            let serial = running.vm.serial();
            assert!(
                serial.contains("the command line has more than one"),
                "{serial}"
            );
        }
        // A stub that loads it and does not take it for an addon has measured it all the same.
        Ok(_) => running.refused(&["ask", &running.url(), QUESTION], 4, &["PCR", "expected"]),
    }
}

/// Writes a file into a folder of a disk's EFI system partition.
fn add_to_esp(disk: &Path, folder: &str, name: &str, contents: &[u8]) {
    let (start, length) = partition(disk, 0);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(disk)
        .expect("a disk");
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(start)).expect("a seek");
    file.read_exact(&mut bytes).expect("the ESP");
    {
        let esp = std::io::Cursor::new(&mut bytes[..]);
        let files = fatfs::FileSystem::new(esp, fatfs::FsOptions::new()).expect("a FAT");
        let target = files.root_dir().create_dir(folder).expect("a folder");
        let mut file = target.create_file(name).expect("a file");
        file.write_all(contents).expect("room");
    }
    file.seek(SeekFrom::Start(start)).expect("a seek");
    file.write_all(&bytes).expect("the ESP");
}

#[test]
fn another_command_line_is_refused_by_its_register() {
    let quieter = |line: &[u8]| [line.trim_ascii_end(), b" quiet\n"].concat();
    changed_part("cmdline", quieter, "PCR 9");
}

#[test]
fn another_initrd_is_refused_by_its_register() {
    // An archive may be followed by zeros.
    let longer = |archive: &[u8]| [archive, &[0; 512]].concat();
    changed_part("initrd", longer, "PCR 9");
}

#[test]
fn another_kernel_is_refused_by_its_register() {
    // A message of the part that only a BIOS runs.
    const MESSAGE: &[u8] = b"No setup signature found";
    let changed = |kernel: &[u8]| {
        let mut windows = kernel.windows(MESSAGE.len());
        let at = windows
            .position(|bytes| bytes == MESSAGE)
            .expect("a message");
        let mut kernel = kernel.to_vec();
        kernel[at] = b'n';
        kernel
    };
    changed_part("vmlinuz", changed, "PCR 4");
}

/// Boots the stage's configuration, model and release with a part of the image changed.
fn changed_part(name: &str, change: impl Fn(&[u8]) -> Vec<u8>, register: &str) {
    let _alone = one_at_a_time();
    let stage = stage();
    let folder = tempfile::tempdir().expect("a folder");
    let (image, output) = (folder.path().join("image"), folder.path().join("site"));
    fs::create_dir(&image).expect("a folder");
    let mut sums = String::new();
    for part in release::assemble::IMAGE_FILES {
        let mut contents = fs::read(ingredients().image.join(part)).expect("a part");
        if part == name {
            contents = change(&contents);
        }
        sums += &format!("{}  {part}\n", attest::Digest::sha256(&contents));
        fs::write(image.join(part), contents).expect("a part");
    }
    fs::write(image.join("SHA256SUMS"), sums).expect("a file");
    let configuration = stage.site.assembled().join("config.toml");
    release::assemble::assemble(&image, &configuration, &output).expect("assembled");
    let disk = output.join("disk.img");
    let bundle = fs::read(stage.site.bundle()).expect("the bundle");
    release::disk::attach(&disk, &bundle).expect("attached");
    let running = boot(&disk, &stage.site.model_disk(), &[]).ready();
    let words = [register, "expected", "found"];
    running.refused(&["ask", &running.url(), QUESTION], 4, &words);
}

#[test]
fn another_model_volume_stops_the_agent_with_one_line() {
    let _alone = one_at_a_time();
    let stage = stage();
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    fs::create_dir(&model).expect("a folder");
    for entry in fs::read_dir(ingredients().model).expect("the model") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), model.join(entry.file_name())).expect("a copy");
    }
    fs::write(model.join("added.json"), "{}").expect("a file");
    let other = folder.path().join("model.img");
    pack_model(&model, &other).expect("a volume");
    let mut running = boot(&stage.site.disk(), &other, &[]);
    let ended = running
        .vm
        .wait_ready(BOOT)
        .expect_err("a foreign model must not serve");
    let serial = running.vm.serial();
    let cause = serial.lines().find(|line| line.contains("model volume"));
    assert!(cause.is_some(), "{ended}\n{serial}");
}
