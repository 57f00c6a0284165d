//! What the initrd's init refuses, on a real kernel: it says why in one line and powers off.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use support::accelerator::Accelerator;
use support::image;
use support::tools::Tools;
use support::vm::{Machine, Vm};
use verity::gpt::Table;
use verity::{Guid, VolumeRef};

const PATIENCE: Duration = Duration::from_secs(180);

/// An image, assembled once for all tests of this file.
struct Assembled {
    folder: tempfile::TempDir,
    tools: Tools,
    accelerator: Accelerator,
    command_line: String,
}

fn assembled() -> &'static Assembled {
    static ASSEMBLED: OnceLock<Assembled> = OnceLock::new();
    ASSEMBLED.get_or_init(|| {
        let parts = image::parts("demo").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("site.toml");
        let volume = VolumeRef::new([1; 32], [2; 32], 3).unwrap();
        fs::write(&config, support::site::configuration(&volume, 1024)).unwrap();
        let site = folder.path().join("site");
        release::assemble::assemble(&parts, &config, &site).unwrap();
        let tools = Tools::locate().unwrap();
        let accelerator = Accelerator::choose(&tools, &site.join("vmlinuz")).unwrap();
        let command_line = fs::read_to_string(site.join("cmdline")).unwrap();
        Assembled {
            folder,
            tools,
            accelerator,
            // Shows the kernel's and the init's own lines on the serial port.
            command_line: format!("{command_line} loglevel=7"),
        }
    })
}

impl Assembled {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("site").join(name)
    }

    fn machine(&self, command_line: &str) -> Machine {
        let (kernel, initrd) = (self.file("vmlinuz"), self.file("initrd"));
        Machine::kernel(self.accelerator, &kernel, &initrd, command_line)
    }

    fn start(&self, machine: &Machine, folder: &Path) -> Vm {
        machine.start(&self.tools, folder).unwrap()
    }

    /// Boots with `command_line` and these disks; gives what was said until the power went off.
    fn ends(&self, command_line: &str, disks: &[&Path]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let machine = disks
            .iter()
            .fold(self.machine(command_line), |m, disk| m.disk(disk));
        self.start(&machine, folder.path())
            .wait_end(PATIENCE)
            .unwrap()
    }

    #[track_caller]
    fn refuses(&self, command_line: &str, disks: &[&Path], message: &str) {
        let said = self.ends(command_line, disks);
        assert!(said.contains(&format!("verity-init: {message}")), "{said}");
        assert!(!said.contains("systemd[1]"), "{said}");
        assert!(said.contains("reboot: Power down"), "{said}");
    }
}

#[test]
fn an_untouched_disk_boots_and_says_how_long_each_phase_took() {
    let site = assembled();
    let folder = tempfile::tempdir().unwrap();
    let machine = site
        .machine(&site.command_line)
        .disk(&site.file("disk.img"));
    let mut vm = site.start(&machine, folder.path());
    vm.wait_line("Reached target", PATIENCE).unwrap();
    let said = vm.serial();
    let line = said
        .lines()
        .find(|line| line.contains("verity-init: root "))
        .unwrap();
    assert!(line.contains(" is up:") && line.contains(" modules ") && line.ends_with("ms"));
    eprintln!("{line}");
    // This machine makes no reports, and that is no fault: the kernel says so, and all goes on.
    for line in [
        "verity-init: module sev-guest.ko.xz is not for this machine",
        "verity-init: module tdx-guest.ko.xz is not for this machine",
        "verity-init: configfs is mounted",
    ] {
        assert!(said.contains(line), "{said}");
    }
}

/// Nothing takes the place of the platform that the configuration names.
#[test]
fn a_machine_that_should_make_reports_and_makes_none_powers_off() {
    let site = assembled();
    for platform in ["snp", "tdx"] {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("site.toml");
        let volume = VolumeRef::new([1; 32], [2; 32], 3).unwrap();
        let text = support::site::configuration(&volume, 1024);
        let text = text.replacen("version = 1", "version = 2", 1);
        let table =
            format!("[evidence]\nplatform = \"{platform}\"\n[{platform}]\nproxy = \"none\"\n");
        fs::write(&config, format!("{text}\n{table}")).unwrap();
        let made = folder.path().join("site");
        release::assemble::assemble(&image::parts("demo").unwrap(), &config, &made).unwrap();
        let line = fs::read_to_string(made.join("cmdline")).unwrap();
        let (kernel, initrd) = (made.join("vmlinuz"), made.join("initrd"));
        let machine = Machine::kernel(site.accelerator, &kernel, &initrd, &line);
        let machine = machine.disk(&made.join("disk.img"));
        let mut vm = site.start(&machine, folder.path());
        let said = vm.wait_end(PATIENCE).unwrap();
        let reason = format!("this machine makes no reports of {platform}");
        assert!(said.contains(&reason), "{said}");
        assert!(!said.contains("Started cloister-agent.service"), "{said}");
    }
}

#[test]
fn a_command_line_that_says_less_or_more_is_refused() {
    let site = assembled();
    let disk = site.file("disk.img");
    let without = |name: &str| -> String {
        let words = site
            .command_line
            .split(' ')
            .filter(|word| !word.starts_with(name));
        words.collect::<Vec<_>>().join(" ")
    };
    site.refuses(
        &without("cloister.config"),
        &[&disk],
        "the command line has no `cloister.config=`",
    );
    let twice = format!("{} {}", site.command_line, "cloister.root=verity1:");
    site.refuses(
        &twice,
        &[&disk],
        "the command line has more than one `cloister.root=`",
    );
    let unknown = format!("{} cloister.debug=1", site.command_line);
    site.refuses(&unknown, &[&disk], "word ");
}

#[test]
fn another_configuration_is_refused() {
    let site = assembled();
    let (start, _) = site.command_line.split_once("cloister.config=").unwrap();
    let other = format!(
        "{start}cloister.config=sha256:{} loglevel=7",
        "00".repeat(32)
    );
    site.refuses(
        &other,
        &[&site.file("disk.img")],
        "the configuration is sha256:",
    );
}

#[test]
fn two_disks_that_claim_to_be_the_root_are_refused() {
    let site = assembled();
    let disk = site.file("disk.img");
    let message =
        "no root file system: cannot find the volume's data partition: 2 partitions claim";
    site.refuses(&site.command_line, &[&disk, &disk], message);
}

/// A credential that systemd-sysctl would take, and complain about in the journal.
#[test]
fn credentials_of_the_host_have_no_effect() {
    const REFUSED: &str = "systemd.import_credentials=no";
    let site = assembled();
    assert!(site.command_line.contains(REFUSED));
    let said = |command_line: &str| {
        let credential = "io.systemd.credential:sysctl.extra=kernel.evil=1";
        let smbios = format!("type=11,value={credential}");
        // QEMU allows no longer name here.
        let fw_cfg = "name=opt/io.systemd.credentials/sysctl.extra,string=kernel.evil=1";
        let hostile = ["-smbios", &smbios, "-fw_cfg", fw_cfg];
        let machine = site.machine(command_line).disk(&site.file("disk.img"));
        let folder = tempfile::tempdir().unwrap();
        let mut vm = site.start(&machine.arguments(hostile), folder.path());
        vm.wait_line("Started systemd-networkd.service", PATIENCE)
            .unwrap();
        vm.serial()
    };
    assert!(!said(&site.command_line).contains("evil"));
    // Were it not refused, it would show.
    let control = said(&site.command_line.replace(REFUSED, ""));
    assert!(control.contains("kernel/evil"), "{control}");
}

/// A host may also withhold blocks: that is no way to make single files unreadable.
#[test]
fn a_block_that_cannot_be_read_panics() {
    let site = assembled();
    let folder = tempfile::tempdir().unwrap();
    let disk = site.file("disk.img");
    let table = Table::read(&File::open(&disk).unwrap()).unwrap();
    let mut entries = table.entries().iter();
    let root = entries
        .find(|entry| entry.unique_guid == root().data_guid())
        .unwrap();
    // The first blocks hold what is needed to mount it; of the rest a sixteenth is withheld.
    let sectors = root.offset_bytes() / 512 + 64..(root.offset_bytes() + root.size_bytes()) / 512;
    let mut faults = String::new();
    for sector in sectors.step_by(128) {
        let fault = format!("event = \"read_aio\"\nerrno = \"5\"\nsector = \"{sector}\"\n");
        faults += &format!("[inject-error]\n{fault}");
    }
    let config = folder.path().join("faults");
    fs::write(&config, faults).unwrap();
    let drive = format!(
        "if=none,id=faulty,format=raw,read-only=on,file.driver=blkdebug,file.config={},\
         file.image.driver=file,file.image.filename={}",
        config.display(),
        disk.display()
    );
    let faulty = ["-drive", &drive, "-device", "virtio-blk-pci,drive=faulty"];
    let machine = site.machine(&site.command_line).arguments(faulty);
    let said = site
        .start(&machine, folder.path())
        .wait_end(PATIENCE)
        .unwrap();
    assert!(
        said.contains("Kernel panic - not syncing: dm-verity"),
        "{said}"
    );
}

/// Flips one bit of a partition's block and boots: the kernel must panic.
#[track_caller]
fn corruption_panics(partition: Guid, offset: u64) {
    let site = assembled();
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::copy(site.file("disk.img"), &disk).unwrap();
    let image = File::options().read(true).write(true).open(&disk).unwrap();
    let table = Table::read(&image).unwrap();
    let entry = table
        .entries()
        .iter()
        .find(|entry| entry.unique_guid == partition)
        .unwrap();
    let mut byte = [0];
    image
        .read_exact_at(&mut byte, entry.offset_bytes() + offset)
        .unwrap();
    image
        .write_all_at(&[byte[0] ^ 1], entry.offset_bytes() + offset)
        .unwrap();
    let said = site.ends(&site.command_line, &[&disk]);
    assert!(
        said.contains("Kernel panic - not syncing: dm-verity device corrupted"),
        "{said}"
    );
    assert!(!said.contains("systemd[1]"), "{said}");
}

fn root() -> VolumeRef {
    let word = assembled()
        .command_line
        .split(' ')
        .find_map(|w| w.strip_prefix("cloister.root="));
    word.unwrap().parse().unwrap()
}

#[test]
fn a_flipped_bit_in_the_root_panics() {
    corruption_panics(root().data_guid(), 1024); // the file system's superblock: read at once
}

#[test]
fn a_flipped_bit_in_the_hash_tree_panics() {
    corruption_panics(root().hash_guid(), 4096); // the tree's top
}
