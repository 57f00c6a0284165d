//! Small stand-ins for stub, kernel and image, so that the tests need no tools: PE images that are
//! real ones by every rule but their code.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses its part"
)]

pub mod ovmf;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use attest::Digest;
use attest::release::statement::{SnpLaunchDigest, SnpReferenceValues};
use release::command_line::CommandLine;
use release::key::SigningKey;
use release::log::{HISTORY_ENTRIES, Log};
use release::{cpio, measure, statement, uki};
use verity::VolumeRef;
use verity::tree::{self, Area};

pub const SALT: [u8; 32] = [7; 32];
pub const OS_RELEASE: &[u8] = b"ID=cloister\nNAME=Cloister\n";
pub const BASE: &[u8] = b"panic=-1 lockdown=integrity\n";
pub const ORIGIN: &str = "log.example.org/cloister";
pub const ISSUED: u64 = 1_790_000_000;
pub const NOW: attest::UnixTime = attest::UnixTime::from_secs(ISSUED + 60);
const ALIGNMENT: usize = 512;

/// A PE32+ image with these sections and room for `spare` more section headers.
pub fn pe(sections: &[(&str, &[u8])], spare: usize) -> Vec<u8> {
    let table = 0x40 + 24 + 240;
    let headers = (table + (sections.len() + spare) * 40).next_multiple_of(ALIGNMENT);
    let mut out = vec![0; headers];
    out[..2].copy_from_slice(b"MZ");
    put(&mut out, 0x3c, 0x40);
    out[0x40..0x44].copy_from_slice(b"PE\0\0");
    out[0x44..0x46].copy_from_slice(&0x8664u16.to_le_bytes());
    out[0x46..0x48].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    out[0x54..0x56].copy_from_slice(&240u16.to_le_bytes());
    let optional = 0x58;
    out[optional..optional + 2].copy_from_slice(&0x20bu16.to_le_bytes());
    put(&mut out, optional + 32, 4096);
    put(&mut out, optional + 36, ALIGNMENT as u32);
    put(&mut out, optional + 60, headers as u32);
    out[optional + 70..optional + 72].copy_from_slice(&0x0160u16.to_le_bytes());
    put(&mut out, optional + 108, 16);
    let mut address = 4096;
    for (index, (name, data)) in sections.iter().enumerate() {
        let at = table + index * 40;
        let raw = out.len();
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        out[at..at + name.len()].copy_from_slice(name.as_bytes());
        let raw_bytes = (out.len() - raw) as u32;
        for (field, word) in [data.len() as u32, address, raw_bytes, raw as u32]
            .iter()
            .enumerate()
        {
            put(&mut out, at + 8 + field * 4, *word);
        }
        address = (address + data.len() as u32).next_multiple_of(4096);
    }
    put(&mut out, optional + 56, address);
    out
}

pub fn put(bytes: &mut [u8], at: usize, word: u32) {
    bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
}

/// Offset of a section's header in an image that [`pe`] made.
pub const fn section_header(index: usize) -> usize {
    0x40 + 24 + 240 + index * 40
}

pub fn stub() -> Vec<u8> {
    stub_with_room(8)
}

pub fn stub_with_room(spare: usize) -> Vec<u8> {
    let sbat = b"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md\n\
        systemd-stub,1,The systemd Developers,systemd,257,https://systemd.io/\n";
    let sections: [(&str, &[u8]); 4] = [
        (".text", &[0x90; 700]),
        (".data", &[1; 10]),
        (".sbat", sbat),
        (".reloc", &[0; 12]),
    ];
    pe(&sections, spare)
}

pub fn kernel() -> Vec<u8> {
    let mut linux = pe(&[(".setup", &[2; 3000]), (".text", &[3; 5000])], 0);
    // A boot header's magic and its pointer to the version; both lie inside our first section.
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    linux[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
    let version = b"6.12.1-test (builder@example.org) #1 SMP Thu Jan 1 00:00:00 UTC 1970\0";
    linux[0x500..0x500 + version.len()].copy_from_slice(version);
    linux
}

/// A root volume of three blocks: data, partition with superblock and tree, name.
pub fn root() -> (Vec<u8>, Vec<u8>, VolumeRef) {
    let (mut data, hashes) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let bytes = vec![4; 3 * 4096];
    data.write_all(&bytes).unwrap();
    let (from, to) = (Area::whole(&data), Area::whole(&hashes));
    let name = tree::format(from, bytes.len() as u64, to, SALT, None, &|_| {}).unwrap();
    let mut tree = Vec::new();
    (&hashes).read_to_end(&mut tree).unwrap();
    (bytes, tree, name)
}

pub fn configuration() -> String {
    let volume = VolumeRef::new([0x11; 32], SALT, 9).unwrap();
    format!(
        "version = 1\n[model]\nname = \"demo\"\nvolume = \"{volume}\"\n[limits]\n\
         context_tokens = 1024\nmax_sessions = 64\nmax_body_bytes = 1048576\n\
         max_new_tokens = 512\n[server]\nport = 8080\n"
    )
}

/// A UKI of the stand-ins.
pub fn uki() -> Vec<u8> {
    let config = configuration();
    let digest = Digest::sha256(config.as_bytes());
    let command_line = CommandLine::assemble(BASE, &root().2, digest).unwrap();
    build(
        &stub(),
        &command_line,
        &kernel(),
        &initrd(config.as_bytes()),
    )
    .unwrap()
}

pub fn initrd(config: &[u8]) -> Vec<u8> {
    let mut initrd = vec![6; 1021];
    initrd.extend_from_slice(cpio::padding(initrd.len()));
    initrd.extend_from_slice(&measure::configuration_archive(config));
    initrd
}

pub fn build(
    stub: &[u8],
    command_line: &CommandLine,
    linux: &[u8],
    initrd: &[u8],
) -> Result<Vec<u8>, uki::UkiError> {
    uki::build(&uki::Parts {
        stub,
        os_release: OS_RELEASE,
        command_line,
        linux,
        initrd,
    })
}

/// A folder with an image of the stand-ins, a configuration, keys and a lock.
pub struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    pub fn new() -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        let image = site.path("image");
        fs::create_dir(&image).unwrap();
        let (data, hashes, name) = root();
        let reference = format!("{name}\n").into_bytes();
        for (name, bytes) in [
            ("cmdline", BASE.to_vec()),
            ("initrd", vec![6; 1021]),
            ("os-release", OS_RELEASE.to_vec()),
            ("profile", b"production\n".to_vec()),
            ("root.erofs", data),
            ("root.ref", reference),
            ("root.verity", hashes),
            ("stub.efi", stub()),
            ("vmlinuz", kernel()),
        ] {
            fs::write(image.join(name), bytes).unwrap();
        }
        site.write_sums();
        fs::write(site.path("config.toml"), configuration()).unwrap();
        fs::write(site.path("deb.lock"), "a lock\n").unwrap();
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Changes a part of the image and lists the new sum, as if it had been built so.
    pub fn set_part(&self, name: &str, contents: &[u8]) {
        fs::write(self.path("image").join(name), contents).unwrap();
        self.write_sums();
    }

    fn write_sums(&self) {
        let mut sums = String::new();
        for name in release::assemble::IMAGE_FILES {
            let contents = fs::read(self.path("image").join(name)).unwrap();
            sums += &format!("{}  {name}\n", Digest::sha256(&contents));
        }
        fs::write(self.path("image/SHA256SUMS"), sums).unwrap();
    }

    pub fn assemble(
        &self,
        output: &str,
    ) -> Result<measure::Measurement, release::assemble::AssembleError> {
        let (image, config) = (self.path("image"), self.path("config.toml"));
        release::assemble::assemble(&image, &config, &self.path(output))
    }

    /// A statement of what was assembled into `out`.
    pub fn statement(
        &self,
        version: u64,
    ) -> Result<attest::release::Statement, statement::MakeError> {
        statement::make(&statement::Release {
            name: &"cloister".parse().unwrap(),
            version,
            assembled: &self.path("out"),
            image: &self.path("image"),
            lock: &self.path("deb.lock"),
            source_revision: &"0123456789abcdef".parse().unwrap(),
            issued: ISSUED,
            builder: &"a test".parse().unwrap(),
            minimum_client: "0.1.0".parse().unwrap(),
            revocations: &[],
            snp: None,
            tdx: None,
        })
    }
}

/// Signer, log key, and a log with entries of the versions 1 to `versions`.
pub struct Logged {
    pub signer: SigningKey,
    pub key: SigningKey,
    pub path: PathBuf,
    pub origin: attest::release::Origin,
}

impl Logged {
    pub fn new(site: &Site) -> Self {
        let logged = Self {
            signer: SigningKey::generate().unwrap(),
            key: SigningKey::generate().unwrap(),
            path: site.path("releases"),
            origin: ORIGIN.to_owned().try_into().unwrap(),
        };
        Log::create(&logged.path, &logged.origin, &logged.key).unwrap();
        logged
    }

    pub fn append(&self, statement: &attest::release::Statement) -> attest::release::Bundle {
        let (log, index) = self.try_append(&statement.encode(), &self.signer).unwrap();
        log.bundle(index, HISTORY_ENTRIES).unwrap()
    }

    /// Signs and logs any statement.
    pub fn try_append(
        &self,
        statement: &[u8],
        signer: &SigningKey,
    ) -> Result<(Log, u64), release::log::LogError> {
        let envelope = statement::sign(statement, signer);
        self.append_of(&envelope, signer.public())
    }

    /// Logs what the holder of `key` signed, whatever it is.
    pub fn append_of(
        &self,
        envelope: &attest::release::Envelope,
        key: attest::release::PublicKey,
    ) -> Result<(Log, u64), release::log::LogError> {
        let accepted = release::log::Accepted {
            signers: &[key],
            rebuilders: &[key],
        };
        Log::append(&self.path, &self.origin, &self.key, envelope, accepted)
    }

    pub fn open(&self) -> Result<Log, release::log::LogError> {
        Log::open(&self.path, &self.origin, &self.key.public())
    }

    pub fn policy(&self) -> attest::policy::ReleasePolicy {
        attest::policy::ReleasePolicy {
            name: "cloister".parse().unwrap(),
            profile: "production".parse().unwrap(),
            minimum_version: 1,
            maximum_age_days: attest::policy::MaximumAge::Any,
            minimum_rebuilders: 0,
            published: attest::policy::Publication::Log(attest::policy::LogPolicy {
                signers: vec![self.signer.public()],
                log_origin: self.origin.clone(),
                log_key: self.key.public(),
                minimum_witnesses: 0,
                witnesses: Vec::new(),
                rebuilders: Vec::new(),
            }),
        }
    }
}

/// The statement with a launch digest of SEV-SNP.
pub fn launched(
    mut statement: attest::release::Statement,
    launched: &[u8],
) -> attest::release::Statement {
    statement.predicate.reference_values.snp = Some(SnpReferenceValues {
        launch_digests: vec![SnpLaunchDigest {
            machine: "qemu-epyc-v4-4".parse().unwrap(),
            digest: Digest::sha384(launched),
        }],
    });
    attest::release::Statement::new(statement.subject, statement.predicate)
}

/// Writes a program. Not by this process: a file that we had open cannot be started while another
/// thread forks.
pub fn script(path: &Path, text: &str) {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\""]);
    assert!(command.arg(path).arg(text).status().unwrap().success());
}

/// Replaces one file's bytes by what a function makes of them.
pub fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}
