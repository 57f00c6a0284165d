//! Everything that stands behind one valid piece of evidence.

use attest::release::statement::{
    Predicate, ReferenceValues, Registers, Subject, SubjectDigest, TpmReferenceValues,
};
use attest::release::{Bundle, Envelope, Statement, Witness};
use attest::tpm::TpmEvidence;
use attest::{Binding, Digest, Evidence, Platform, Policy, ReportData, UnixTime, evidence};
use ed25519_dalek::SigningKey;

use crate::authority::{Authority, Template};
use crate::boot::{self, Event};
use crate::log::{Cosigner, Log};
use crate::release;
use crate::tpm::{self, Quote};

/// 2026-11-21: within every certificate's validity.
pub const NOW: UnixTime = UnixTime::from_secs(1_795_219_200);

/// Two days before [`NOW`]: when the release was made.
pub const ISSUED: u64 = NOW.as_secs() - 2 * 24 * 60 * 60;

/// Name of a handshake, for bindings of tests.
pub const SUITE: &str = "test suite";

/// A certificate authority, a TPM with its boot, a release with its signer and its log. A test
/// changes what it is about and asks for the evidence.
#[derive(Clone)]
pub struct World {
    /// The policy's root.
    pub authority: Authority,
    /// The TPM's attestation key.
    pub attestation_key: p384::ecdsa::SigningKey,
    /// What its certificate says.
    pub certificate: Template,
    /// Signs releases.
    pub release_key: SigningKey,
    /// Signs checkpoints.
    pub log_key: SigningKey,
    /// The log's name.
    pub origin: String,
    /// Watch the log; the policy demands the signatures of two.
    pub witnesses: Vec<Cosigner>,
    /// Rebuilds releases; the policy demands one of two such.
    pub rebuilder_key: SigningKey,
    /// What the release states.
    pub predicate: Predicate,
    /// The configuration file.
    pub configuration: Vec<u8>,
    /// What was booted.
    pub events: Vec<Event>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A world in which everything is right.
    pub fn new() -> Self {
        let volume = format!("verity1:{}:{}:256", "ab".repeat(32), "cd".repeat(32));
        Self::with_configuration(configuration("cloister-demo", &volume).as_bytes())
    }

    /// A world in which everything is right, for this configuration file.
    pub fn with_configuration(configuration: &[u8]) -> Self {
        let authority = Authority::new("Test attestation authority", 0x21);
        let attestation_key = p384::ecdsa::SigningKey::from_slice(&[0x22; 48]).expect("a scalar");
        let certificate = authority.attestation_key(attestation_key.verifying_key());
        let events = boot::events();
        Self {
            authority,
            attestation_key,
            certificate,
            release_key: SigningKey::from_bytes(&[0x23; 32]),
            log_key: SigningKey::from_bytes(&[0x24; 32]),
            origin: "log.example.org/cloister".to_owned(),
            witnesses: vec![
                Cosigner::new("witness.example.org/one", 0x25),
                Cosigner::new("witness.example.org/two", 0x26),
                Cosigner::new("witness.example.org/three", 0x27),
            ],
            rebuilder_key: SigningKey::from_bytes(&[0x28; 32]),
            predicate: predicate(configuration, &events),
            configuration: configuration.to_vec(),
            events,
        }
    }

    /// The policy that accepts this world, as its file.
    pub fn policy_toml(&self) -> String {
        let (name, profile) = (&self.predicate.name, &self.predicate.profile);
        let signer = release::public(&self.release_key);
        let (origin, log_key) = (&self.origin, release::public(&self.log_key));
        let root = self.authority.pem();
        let witness = |one: &Cosigner| {
            let Witness { name, key } = &one.witness;
            format!("{{ name = \"{name}\", key = \"{key}\" }}")
        };
        let witnesses: Vec<_> = self.witnesses.iter().map(witness).collect();
        let witnesses = witnesses.join(", ");
        let rebuilder = release::public(&self.rebuilder_key);
        let other = release::public(&SigningKey::from_bytes(&[0x29; 32]));
        format!(
            "version = 2\n\n[release]\nname = \"{name}\"\nprofile = \"{profile}\"\n\
             signers = [\"{signer}\"]\nlog_origin = \"{origin}\"\nlog_key = \"{log_key}\"\n\
             minimum_version = 1\nmaximum_age_days = \"any\"\nminimum_witnesses = 2\n\
             witnesses = [{witnesses}]\nminimum_rebuilders = 1\n\
             rebuilders = [{{ name = \"alice\", key = \"{rebuilder}\" }}, \
             {{ name = \"bob\", key = \"{other}\" }}]\n\n[tpm]\nroots = [\"\"\"\n{root}\"\"\"]\n\
             secure_boot = \"required\"\n\n[evidence]\nplatforms = [\"tpm\"]\n\n\
             [channel]\nassurance = \"per-handshake\"\nreattest_seconds = 600\n"
        )
    }

    /// The policy that accepts this world.
    pub fn policy(&self) -> Policy {
        Policy::parse(self.policy_toml().as_bytes()).expect("a policy")
    }

    /// A binding to `nonce`.
    pub fn nonce_binding(&self, nonce: [u8; 32]) -> Binding {
        let configuration_digest = Digest::sha256(&self.configuration).0;
        Binding::Nonce {
            nonce,
            configuration_digest,
            gpu_digest: evidence::gpu_digest(),
        }
    }

    /// A binding to a handshake.
    pub fn handshake_binding(&self) -> Binding {
        Binding::Handshake {
            suite: SUITE,
            message1_hash: [1; 32],
            server_static: [2; 32],
            ciphertext_digest: [3; 32],
            configuration_digest: Digest::sha256(&self.configuration).0,
            gpu_digest: evidence::gpu_digest(),
        }
    }

    /// What is stated of the release.
    pub fn statement(&self) -> Statement {
        let subject = Subject {
            name: "disk.img".parse().expect("a name"),
            digest: SubjectDigest {
                sha256: Digest::sha256(b"disk"),
            },
        };
        Statement::new(vec![subject], self.predicate.clone())
    }

    /// The signed statement.
    pub fn envelope(&self) -> Envelope {
        release::sign(&self.statement().encode(), &self.release_key)
    }

    /// The signed and logged release.
    pub fn bundle(&self) -> Vec<u8> {
        self.logged(self.envelope()).encode()
    }

    /// An empty log of this world.
    pub fn log(&self) -> Log {
        Log::new(&self.origin, &self.log_key)
    }

    /// `envelope` as the second entry of a log of three, whose third is a rebuild, all as the
    /// policy demands it.
    pub fn logged(&self, envelope: Envelope) -> Bundle {
        let mut log = self.log();
        log.append_other(b"first");
        let index = log.append(&envelope);
        let rebuild = release::rebuild(&self.statement(), ISSUED + 60);
        let remark = log.append(&release::sign(&rebuild.encode(), &self.rebuilder_key));
        self.bundle_of(&log, index, &[remark])
    }

    /// The bundle of an entry of `log`, with two of the witnesses.
    pub fn bundle_of(&self, log: &Log, index: u64, remarks: &[u64]) -> Bundle {
        let time = UnixTime::from_secs(ISSUED + 120);
        let note = log.witnessed(&self.witnesses[..2], time);
        log.bundle(index, remarks, note, 256)
    }

    /// What the TPM would quote for `binding`.
    pub fn quote(&self, binding: &Binding) -> Quote {
        let data = ReportData::compute(binding).qualifying_data();
        Quote::new(&boot::registers(&self.events), &data)
    }

    /// Evidence made for `binding`.
    pub fn evidence(&self, binding: &Binding) -> Evidence {
        self.evidence_of(&self.quote(binding))
    }

    /// Evidence around a quote of the test's own making.
    pub fn evidence_of(&self, quote: &Quote) -> Evidence {
        let attest = quote.encode();
        Evidence {
            gpu: attest::gpu::GpuEvidence::default(),
            platform: Platform::Tpm(TpmEvidence {
                signature: tpm::sign(&self.attestation_key, &attest),
                attest,
                registers: boot::registers(&self.events),
                event_log: boot::encode(&self.events),
                certificates: vec![self.authority.issue(&self.certificate)],
            }),
            configuration: self.configuration.clone(),
            release: self.bundle(),
        }
    }
}

/// A configuration file that serves `model` from `volume`.
pub fn configuration(model: &str, volume: &str) -> String {
    format!(
        "version = 1\n[model]\nname = \"{model}\"\nvolume = \"{volume}\"\n[limits]\n\
         context_tokens = 1024\nmax_sessions = 64\nmax_body_bytes = 1048576\n\
         max_new_tokens = 512\n[server]\nport = 8080\n"
    )
}

fn predicate(configuration: &[u8], events: &[Event]) -> Predicate {
    let [
        _,
        _,
        _,
        _,
        pcr4,
        _,
        _,
        _,
        _,
        pcr9,
        pcr11,
        pcr12,
        pcr13,
        _,
        _,
    ] = boot::registers(events);
    let name = |text: &str| text.parse().expect("a name");
    let unused = Digest::sha256(b"not compared: the SHA-384 bank is quoted");
    Predicate {
        name: name("cloister"),
        version: 7,
        profile: name("production"),
        issued: ISSUED,
        builder: "https://example.org/builder@v7".parse().expect("a text"),
        minimum_client: "0.1.0".parse().expect("a version"),
        source_revision: name("0123456789abcdef0123456789abcdef01234567"),
        lock_digest: Digest::sha256(b"lock"),
        configuration_digest: Digest::sha256(configuration),
        revocations: Vec::new(),
        reference_values: ReferenceValues {
            tpm: TpmReferenceValues {
                sha256: Registers {
                    pcr4: unused,
                    pcr9: unused,
                    pcr11: unused,
                    pcr12: Digest::ZERO,
                    pcr13: Digest::ZERO,
                },
                sha384: Registers {
                    pcr4,
                    pcr9,
                    pcr11,
                    pcr12,
                    pcr13,
                },
            },
            snp: None,
            tdx: None,
        },
    }
}
