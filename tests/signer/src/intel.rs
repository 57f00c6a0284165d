//! A trust domain of TDX: a quote, the keys that sign it, and Intel's part in that. Every field can
//! be made wrong.

use attest::gpu::GpuEvidence;
use attest::policy::TdxPolicy;
use attest::release::statement::{TdxReferenceValues, TdxRegisters};
use attest::tdx::{Collateral, TdxEvidence};
use attest::{Binding, Digest, Evidence, Platform, Policy, ReportData};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, Signature, SigningKey};
use sha2::{Digest as _, Sha256, Sha384};

use crate::World;
use crate::amd::{self, List, integer};
use crate::authority::{self, AUTHORITY, DIGITAL_SIGNATURE, FROM, Template, UNTIL, der};
use crate::boot::{self, Event};

/// keyUsage keyCertSign and cRLSign, critical.
const AUTHORITY_USAGE: authority::Known = (&[0x55, 0x1d, 0x0f], true, &[3, 2, 1, 6]);
/// ecdsa-with-SHA256.
pub const ECDSA: &[u8] = &[0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
/// A point of P-256.
const POINT: &[u8] = &[
    0x30, 19, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7,
];
/// 1.2.840.113741.1.13.1
pub const SGX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1];
const VENDOR: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];

/// Where fields of a body stand.
pub mod at {
    #![allow(missing_docs, reason = "names as in the specification")]
    pub const TCB: usize = 0;
    pub const MR_SEAM: usize = 16;
    pub const MR_SIGNER_SEAM: usize = 64;
    pub const SEAM_ATTRIBUTES: usize = 112;
    pub const ATTRIBUTES: usize = 120;
    pub const XFAM: usize = 128;
    pub const MR_TD: usize = 136;
    pub const MR_CONFIG_ID: usize = 184;
    pub const MR_OWNER: usize = 232;
    pub const MR_OWNER_CONFIG: usize = 280;
    pub const RTMR0: usize = 328;
    pub const REPORT_DATA: usize = 520;
    pub const CURRENT_TCB: usize = 584;
    pub const MR_SERVICE_TD: usize = 600;
    pub const VM_ID: usize = 648;
    pub const CURRENT_SERVICE_TD: usize = 829;
}

/// Where fields of the quoting enclave's report stand.
pub mod enclave {
    #![allow(missing_docs, reason = "names as in the specification")]
    pub const MISC_SELECT: usize = 16;
    pub const ATTRIBUTES: usize = 48;
    pub const MR_SIGNER: usize = 128;
    pub const PRODUCT: usize = 256;
    pub const SVN: usize = 258;
    pub const REPORT_DATA: usize = 320;
}

/// What was there before the start.
pub const MR_TD: [u8; 48] = [0x7d; 48];

/// What Intel says of a platform.
#[derive(Clone)]
pub struct Certified {
    /// Versions of the processor's parts.
    pub cpu: [u8; 16],
    /// Version of the provisioning enclave.
    pub pce: u8,
    /// Model.
    pub fmspc: Vec<u8>,
    /// The platform, if that is said.
    pub instance: Option<[u8; 16]>,
    /// Dynamic, cached keys, multithreading; if that is said.
    pub flags: Option<[bool; 3]>,
}

/// A trust domain, with all that stands behind its evidence.
#[derive(Clone)]
pub struct Domain {
    /// Header, and in version 5 type and length of the body.
    pub header: Vec<u8>,
    /// What the TDX module says.
    pub body: Vec<u8>,
    /// The attestation key.
    pub key: SigningKey,
    /// The quoting enclave's report, without what it says of the attestation key.
    pub enclave: Vec<u8>,
    /// What the quoting enclave says beside the attestation key.
    pub authentication: Vec<u8>,
    /// Certificates, leaf first, and the keys of their issuers.
    pub chain: [(Template, SigningKey); 3],
    /// The platform's key.
    pub platform_key: SigningKey,
    /// What Intel says of the platform.
    pub certified: Certified,
    /// What stands in the place of what Intel says, if that is garbled.
    pub extension: Option<Vec<u8>>,
    /// Certificate of the key of Intel's documents, and the key of its issuer.
    pub signer: (Template, SigningKey),
    /// The key of Intel's documents.
    pub document_key: SigningKey,
    /// TCB info and identity of the quoting enclave.
    pub documents: [String; 2],
    /// Revocation lists, each with the key that signs it.
    pub lists: Vec<(List, SigningKey)>,
    /// The event log.
    pub events: Vec<Event>,
}

impl Default for Domain {
    fn default() -> Self {
        Self::new()
    }
}

impl Domain {
    /// A sound domain of TDX 1.0, strictly set up.
    pub fn new() -> Self {
        let (root, ca, pck) = (key(0x31), key(0x32), key(0x33));
        let (document_key, attestation) = (key(0x34), key(0x35));
        let names = ["Test Root", "Test PCK CA", "Test PCK"];
        let mut leaf = template(names[1], names[2], &pck, &[DIGITAL_SIGNATURE]);
        leaf.serial = vec![1];
        let mut middle = template(names[0], names[1], &ca, &[AUTHORITY, AUTHORITY_USAGE]);
        middle.serial = vec![2];
        let top = template(names[0], names[0], &root, &[AUTHORITY, AUTHORITY_USAGE]);
        let name = "Intel SGX TCB Signing";
        let mut signer = template(names[0], name, &document_key, &[DIGITAL_SIGNATURE]);
        signer.serial = vec![3];
        let mut domain = Self {
            header: header(4),
            body: vec![0; 584],
            key: attestation,
            enclave: vec![0; 384],
            authentication: vec![0xa0; 32],
            chain: [
                (leaf, ca.clone()),
                (middle, root.clone()),
                (top, root.clone()),
            ],
            platform_key: pck,
            certified: Certified {
                cpu: [3; 16],
                pce: 13,
                fmspc: vec![0x90, 0xc0, 0x6f, 0, 0, 0],
                instance: Some([0x1d; 16]),
                flags: Some([false; 3]),
            },
            extension: None,
            signer: (signer, root.clone()),
            document_key,
            documents: [tcb_info(), enclave_identity()],
            lists: vec![(list(names[0]), root), (list(names[1]), ca)],
            events: events(),
        };
        domain.set(at::TCB, &[7, 1, 3]);
        domain.set(at::MR_SEAM, &[0x5e; 48]);
        domain.set(at::ATTRIBUTES, &(1u64 << 28).to_le_bytes());
        domain.set(at::XFAM, &[0xe7, 2, 6]);
        domain.set(at::MR_TD, &MR_TD);
        domain.set_enclave(enclave::ATTRIBUTES, &[0x15]);
        domain.set_enclave(enclave::MR_SIGNER, &[0xdc; 32]);
        domain.set_enclave(enclave::PRODUCT, &[2, 0]);
        domain.set_enclave(enclave::SVN, &[4, 0]);
        domain.measure();
        domain
    }

    /// The same with a quote of version 5 and a body of this type: 2, 3 or 4.
    pub fn of_version_5(kind: u16) -> Self {
        let mut domain = Self::new();
        domain.header = header(5);
        let length = [584, 648, 885][usize::from(kind) - 2];
        domain.header.extend(kind.to_le_bytes());
        domain.header.extend((length as u32).to_le_bytes());
        domain.body.resize(length, 0);
        if kind > 2 {
            domain.set(at::CURRENT_TCB, &[7, 1, 3]);
        }
        domain
    }

    /// Sets the registers to what the event log gives.
    pub fn measure(&mut self) -> &mut Self {
        for register in 0..4 {
            let value = replay(&self.events, register + 1);
            self.set(at::RTMR0 + 48 * register as usize, &value.0);
        }
        self
    }

    /// Sets a field of the body.
    pub fn set(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.body[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Sets a field of the quoting enclave's report.
    pub fn set_enclave(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.enclave[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Replaces a part of a document.
    pub fn edit(&mut self, document: usize, from: &str, to: &str) -> &mut Self {
        let text = &mut self.documents[document];
        assert!(text.contains(from), "{from} is not in {text}");
        *text = text.replace(from, to);
        self
    }

    /// The quote, signed.
    pub fn quote(&self) -> Vec<u8> {
        let point = self.key.verifying_key().to_sec1_point(false);
        let key = &point.as_bytes()[1..];
        let digest = Sha256::digest([key, &self.authentication].concat());
        let mut report = self.enclave.clone();
        for (place, byte) in (enclave::REPORT_DATA..).zip(digest) {
            report[place] ^= byte; // what a test set there spoils it
        }
        let enclave_signature = raw(&self.platform_key, &report);
        self.assemble(key, &report, &enclave_signature)
    }

    fn assemble(&self, key: &[u8], report: &[u8], enclave_signature: &[u8]) -> Vec<u8> {
        let signed = [&self.header[..], &self.body].concat();
        let certificates: String = self
            .certificates()
            .iter()
            .map(|c| authority::pem(c))
            .collect();
        let length = (self.authentication.len() as u16).to_le_bytes();
        let inner = [
            report,
            enclave_signature,
            &length,
            &self.authentication,
            &typed(5, certificates.as_bytes()),
        ]
        .concat();
        let signature = raw(&self.key, &signed);
        let data = [&signature[..], key, &typed(6, &inner)].concat();
        let length = (data.len() as u32).to_le_bytes();
        [&signed[..], &length, &data].concat()
    }

    /// The certificates, leaf first.
    pub fn certificates(&self) -> Vec<Vec<u8>> {
        let mut chain = self.chain.clone();
        let mut extension = sgx(&self.certified);
        if let Some(garbled) = &self.extension {
            extension.2.clone_from(garbled);
        }
        chain[0].0.extensions.push(extension);
        chain
            .iter()
            .map(|(template, key)| issue(key, template))
            .collect()
    }

    /// Evidence of this domain.
    pub fn evidence(&self) -> TdxEvidence {
        let [info, identity] = &self.documents;
        let sign = |text: &String| raw(&self.document_key, text.as_bytes());
        let lists = self
            .lists
            .iter()
            .map(|(list, key)| seal(key, list.signed_part()));
        TdxEvidence {
            quote: self.quote(),
            event_log: boot::encode_ccel(&self.events),
            collateral: Collateral {
                tcb_info: info.clone().into_bytes(),
                tcb_info_signature: sign(info),
                enclave_identity: identity.clone().into_bytes(),
                enclave_identity_signature: sign(identity),
                signer: issue(&self.signer.1, &self.signer.0),
                revocation_lists: lists.collect(),
            },
        }
    }

    /// The policy that accepts this domain, strict where it can be.
    pub fn policy(&self) -> TdxPolicy {
        tdx_policy(&self.policy_toml())
    }

    /// The tables of a policy that accepts this domain, strict where it can be.
    pub fn policy_toml(&self) -> String {
        let (template, key) = &self.chain[2];
        policy_toml(&authority::pem(&issue(key, template)))
    }
}

/// The tables of a policy that accepts domains under `root`, strict where it can be.
pub fn policy_toml(root: &str) -> String {
    let zero = Digest::<48>::ZERO;
    let pins: String = [
        "event_digests",
        "fmspcs",
        "platform_instances",
        "tee_tcb_svns",
        "mr_seams",
        "xfams",
        "mr_tds",
        "rtmr0s",
        "rtmr1s",
        "rtmr2s",
        "rtmr3s",
        "mr_config_ids",
        "mr_owners",
        "mr_owner_configs",
    ]
    .iter()
    .map(|name| format!("{name} = \"any\"\n"))
    .collect();
    format!(
        "[tdx]\nroots = ['''\n{root}''']\nminimum_tcb_evaluation = 17\n\
         tcb_statuses = [\"UpToDate\"]\nadvisories = []\ndynamic_platforms = \"refused\"\n\
         cached_keys = \"refused\"\nsmt = \"refused\"\nevent_log = \"required\"\n{pins}\
         mr_signer_seams = \"{zero}\"\nmr_service_tds = \"{zero}\"\n\n\
         [tdx.attributes]\nsept_ve_disable = \"required\"\n\
         single_step_defence = \"not-required\"\nservice_domain_extension = \"refused\"\n\
         lass = \"refused\"\nmigratable = \"refused\"\nprotection_keys = \"refused\"\n\
         key_locker = \"refused\"\nquoting_domain = \"refused\"\n\
         performance_monitoring = \"refused\"\n"
    )
}

/// Reads the tables of a policy.
pub fn tdx_policy(tables: &str) -> TdxPolicy {
    let whole = World::new().policy_toml();
    let whole = whole.replace("[\"tpm\"]", "[\"tpm\", \"tdx\"]");
    let policy = Policy::parse(format!("{whole}\n{tables}").as_bytes()).expect("a policy");
    policy.tdx.expect("tables of TDX")
}

/// A world whose release is for a trust domain, the domain, and the policy that accepts both.
pub fn domain_world() -> (World, Domain, Policy) {
    let (mut world, domain) = (World::new(), Domain::new());
    let rtmr = |number| replay(&domain.events, number + 1u32);
    let sound = TdxRegisters {
        machine: "qemu-4-8g".parse().expect("a name"),
        mrtd: Digest(MR_TD),
        rtmr0: Some(rtmr(0)),
        rtmr1: rtmr(1),
        rtmr2: rtmr(2),
    };
    let other = TdxRegisters {
        machine: "qemu-8-16g".parse().expect("a name"),
        rtmr0: Some(Digest::ZERO),
        ..sound.clone()
    };
    let machines = vec![other, sound];
    world.predicate.reference_values.tdx = Some(TdxReferenceValues { machines });
    let policy = world.policy_toml();
    let policy = policy.replace("[\"tpm\"]", "[\"tpm\", \"tdx\"]");
    let policy = format!("{policy}\n{}", domain.policy_toml());
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    (world, domain, policy)
}

/// Evidence of `domain`, made for `binding`.
pub fn domain_evidence(world: &World, domain: &Domain, binding: &Binding) -> Evidence {
    let mut domain = domain.clone();
    domain.set(at::REPORT_DATA, ReportData::compute(binding).as_bytes());
    Evidence {
        platform: Platform::Tdx(domain.evidence()),
        configuration: world.configuration.clone(),
        gpu: GpuEvidence::default(),
        release: world.bundle(),
    }
}

/// A certificate signed by `key`.
pub fn issue(key: &SigningKey, template: &Template) -> Vec<u8> {
    let part = template.signed_part();
    let signature: DerSignature = key.sign(&part);
    amd::envelope(&part, &template.algorithms[1], signature.as_bytes())
}

/// A key that follows from `seed`.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).expect("a scalar of P-256")
}

/// r ‖ s
pub fn raw(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_bytes().to_vec()
}

/// What a register holds after its events, numbered from 1.
pub fn replay(events: &[Event], register: u32) -> Digest<48> {
    let own = events
        .iter()
        .filter(|e| e.register == register && e.kind != 3);
    own.fold(Digest::ZERO, |value, event| {
        let measured = Sha384::digest(&event.measured);
        Digest(Sha384::digest([&value.0[..], &measured].concat()).into())
    })
}

/// Intel's extension.
pub fn sgx(certified: &Certified) -> authority::Extension {
    let mut components: Vec<Vec<u8>> = Vec::new();
    for (number, value) in (1..).zip(certified.cpu) {
        components.push(field(&[2, number], &integer(value)));
    }
    components.push(field(&[2, 17], &integer(certified.pce)));
    let components: Vec<&[u8]> = components.iter().map(Vec::as_slice).collect();
    let mut fields = vec![
        field(&[1], &der(4, &[&[0x99; 16]])),
        field(&[2], &der(0x30, &components)),
        field(&[3], &der(4, &[&[0, 0]])),
        field(&[4], &der(4, &[&certified.fmspc])),
        field(&[5], &[10, 1, 1]),
    ];
    if let Some(instance) = certified.instance {
        fields.push(field(&[6], &der(4, &[&instance])));
    }
    if let Some(flags) = certified.flags {
        let flags: Vec<Vec<u8>> = (1..)
            .zip(flags)
            .map(|(number, on)| field(&[7, number], &[1, 1, if on { 0xff } else { 0 }]))
            .collect();
        let flags: Vec<&[u8]> = flags.iter().map(Vec::as_slice).collect();
        fields.push(field(&[7], &der(0x30, &flags)));
    }
    let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    (SGX.to_vec(), false, der(0x30, &fields))
}

fn field(arcs: &[u8], value: &[u8]) -> Vec<u8> {
    der(0x30, &[&der(6, &[SGX, arcs]), value])
}

fn seal(key: &SigningKey, part: Vec<u8>) -> Vec<u8> {
    let signature: DerSignature = key.sign(&part);
    amd::envelope(&part, ECDSA, signature.as_bytes())
}

fn typed(kind: u16, data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u32).to_le_bytes();
    [&kind.to_le_bytes()[..], &length, data].concat()
}

fn header(version: u8) -> Vec<u8> {
    let head = [version, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
    [&head[..], &VENDOR, &[0x55; 20]].concat()
}

/// What a certificate of Intel's says.
pub fn template(
    issuer: &str,
    subject: &str,
    key: &SigningKey,
    known: &[authority::Known],
) -> Template {
    let unused = p384::ecdsa::SigningKey::from_slice(&[1; 48]).expect("a scalar of P-384");
    let mut template = Template::new(issuer, subject, unused.verifying_key(), known);
    template.algorithms = [ECDSA.to_vec(), ECDSA.to_vec()];
    template.key_algorithm = POINT.to_vec();
    template.key = key.verifying_key().to_sec1_point(false).as_bytes().to_vec();
    template
}

fn list(issuer: &str) -> List {
    List {
        version: 1,
        algorithms: [ECDSA.to_vec(), ECDSA.to_vec()],
        issuer: issuer.to_owned(),
        from: FROM.to_owned(),
        until: Some(UNTIL.to_owned()),
        revoked: vec![(9, Vec::new())],
        extensions: vec![(vec![0x55, 0x1d, 0x14], false, vec![2, 1, 1])],
    }
}

fn events() -> Vec<Event> {
    let other = |register, kind, what: &str| Event::other(register, kind, what.as_bytes(), b"?");
    vec![
        other(1, 0x8000_000b, "hand-off blocks"),
        Event::plain(1, 0x8000_0001, &boot::variable("SecureBoot", &[0])),
        Event::plain(1, 4, &[0; 4]),
        other(1, 10, "ACPI tables"),
        other(2, 0x8000_0003, "kernel"),
        Event::plain(2, 0x8000_0007, b"Exit Boot Services Invocation"),
        other(3, 6, "command line"),
        other(3, 6, "initrd"),
    ]
}

fn tcb_info() -> String {
    let level = |sgx: u8, tdx: [u8; 3], pce: u8, date: &str, verdict: &str| {
        let svns = |svns: [u8; 16]| {
            let svns = svns.map(|svn| format!("{{\"svn\":{svn},\"category\":\"BIOS\"}}"));
            svns.join(",")
        };
        let mut all = [0; 16];
        all[..3].copy_from_slice(&tdx);
        let (sgx, tdx) = (svns([sgx; 16]), svns(all));
        format!(
            "{{\"tcb\":{{\"sgxtcbcomponents\":[{sgx}],\"pcesvn\":{pce},\
             \"tdxtcbcomponents\":[{tdx}]}},\"tcbDate\":\"{date}T00:00:00Z\",{verdict}}}"
        )
    };
    let levels = [
        level(3, [5, 0, 3], 13, "2024-11-13", "\"tcbStatus\":\"UpToDate\""),
        level(
            2,
            [4, 0, 2],
            11,
            "2024-03-13",
            "\"tcbStatus\":\"OutOfDate\",\"advisoryIDs\":[\"INTEL-SA-01036\",\"INTEL-SA-01079\"]",
        ),
        level(1, [0, 0, 0], 5, "2018-01-04", "\"tcbStatus\":\"Revoked\""),
    ]
    .join(",");
    let identity = format!(
        "\"mrsigner\":\"{}\",\"attributes\":\"{}\",\"attributesMask\":\"{}\"",
        "0".repeat(96),
        "0".repeat(16),
        "F".repeat(16)
    );
    format!(
        "{{\"id\":\"TDX\",\"version\":3,\"issueDate\":\"2026-11-01T00:00:00Z\",\
         \"nextUpdate\":\"2026-12-01T00:00:00Z\",\"fmspc\":\"90C06F000000\",\"pceId\":\"0000\",\
         \"tcbType\":0,\"tcbEvaluationDataNumber\":18,\"tdxModule\":{{{identity}}},\
         \"tdxModuleIdentities\":[{{\"id\":\"TDX_01\",{identity},\"tcbLevels\":[\
         {{\"tcb\":{{\"isvsvn\":6}},\"tcbDate\":\"2024-11-13T00:00:00Z\",\
         \"tcbStatus\":\"UpToDate\"}},\
         {{\"tcb\":{{\"isvsvn\":4}},\"tcbDate\":\"2024-03-13T00:00:00Z\",\
         \"tcbStatus\":\"OutOfDate\",\"advisoryIDs\":[\"INTEL-SA-01036\"]}}]}}],\
         \"tcbLevels\":[{levels}]}}"
    )
}

fn enclave_identity() -> String {
    format!(
        "{{\"id\":\"TD_QE\",\"version\":2,\"issueDate\":\"2026-11-02T00:00:00Z\",\
         \"nextUpdate\":\"2026-12-02T00:00:00Z\",\"tcbEvaluationDataNumber\":18,\
         \"miscselect\":\"00000000\",\"miscselectMask\":\"FFFFFFFF\",\
         \"attributes\":\"11000000000000000000000000000000\",\
         \"attributesMask\":\"FBFFFFFFFFFFFFFF0000000000000000\",\"mrsigner\":\"{}\",\
         \"isvprodid\":2,\"tcbLevels\":[{{\"tcb\":{{\"isvsvn\":4}},\
         \"tcbDate\":\"2024-03-13T00:00:00Z\",\"tcbStatus\":\"UpToDate\"}},\
         {{\"tcb\":{{\"isvsvn\":2}},\"tcbDate\":\"2023-03-13T00:00:00Z\",\
         \"tcbStatus\":\"OutOfDate\"}}]}}",
        "dc".repeat(32)
    )
}
