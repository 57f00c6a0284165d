//! A confidential VM in Azure with its paravisor and virtual TPM, and attestation keys as Google
//! certifies them. Every field can be made wrong.

use attest::azure::{AzureEvidence, AzureHardware, AzureMachine};
use attest::gpu::GpuEvidence;
use attest::policy::{AzurePolicy, MachinePolicy};
use attest::tpm::TpmEvidence;
use attest::tpm::vtpm::VtpmQuote;
use attest::{Binding, Digest, Evidence, Platform};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::World;
use crate::amd::{self, Machine, RsaSigner};
use crate::authority::{self, AUTHORITY, CERT_SIGN, DIGITAL_SIGNATURE, Extension, Template, der};
use crate::boot::{self, Event};
use crate::intel::{self, Domain};

/// sha256WithRSAEncryption, NULL.
pub const RSA_SHA256: &[u8] = &[
    0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 11, 5, 0,
];
/// The VM.
pub const VM_ID: &str = "3404EF27-32A2-4A07-A4C7-1A1171624C5D";

/// What stands below the paravisor.
#[derive(Clone)]
pub enum Hardware {
    /// SEV-SNP.
    Snp(Box<Machine>),
    /// TDX.
    Tdx(Box<Domain>),
}

/// A VM.
#[derive(Clone)]
pub struct Vm {
    /// What stands below.
    pub hardware: Hardware,
    /// First bytes of the paravisor's report: magic, version, size, request, status, zeros.
    pub header: Vec<u8>,
    /// Version, kind and hash of the runtime data.
    pub numbers: [u32; 3],
    /// The runtime data.
    pub runtime: String,
    /// What follows them.
    pub rest: Vec<u8>,
    /// The virtual TPM's key.
    pub key: RsaSigner,
    /// What was booted.
    pub events: Vec<Event>,
    /// Magic and type of the quote.
    pub head: [u8; 6],
    /// Bank and bitmap of the quote.
    pub selection: Vec<u8>,
    /// Registers, beside what the events say.
    pub registers: [Digest<32>; 24],
}

/// The SHA-256 registers after `events`, by a replay that shares nothing with `attest`.
pub fn registers(events: &[Event]) -> [Digest<32>; 24] {
    let mut registers = [Digest([0; 32]); 24];
    for event in events {
        let value = &mut registers[event.register as usize];
        match (event.kind, event.data.as_slice()) {
            (3, [.., locality]) => value.0[31] = *locality,
            (3, []) => {}
            _ => {
                let digest = Sha256::digest(&event.measured);
                value.0 = Sha256::digest([&value.0[..], &digest].concat()).into();
            }
        }
    }
    registers
}

impl Vm {
    /// A sound VM on SEV-SNP.
    pub fn new() -> Self {
        let machine = Machine::new();
        let key = machine.ask.clone();
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (n, user) = (encode(&key.modulus()), "0a".repeat(64));
        let one = |kid: &str, operation: &str| {
            format!(
                "{{\"kid\":\"{kid}\",\"key_ops\":[\"{operation}\"],\"kty\":\"RSA\",\
                 \"e\":\"AQAB\",\"n\":\"{n}\"}}"
            )
        };
        let runtime = format!(
            "{{\"keys\":[{},{}],\"vm-configuration\":{{\"console-enabled\":false,\
             \"secure-boot\":true,\"tpm-enabled\":true,\"vmUniqueId\":\"{VM_ID}\"}},\
             \"user-data\":\"{user}\"}}",
            one("HCLAkPub", "sign"),
            one("HCLEkPub", "encrypt")
        );
        let events = boot::events();
        let mut header = b"HCLA".to_vec();
        header.extend(2u32.to_le_bytes());
        header.resize(32, 0);
        Self {
            hardware: Hardware::Snp(Box::new(machine)),
            header,
            numbers: [1, 2, 1],
            runtime,
            rest: vec![0; 100],
            key,
            registers: registers(&events),
            events,
            head: [0xff, 0x54, 0x43, 0x47, 0x80, 0x18],
            selection: vec![0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0xff, 0xff],
        }
    }

    /// A sound VM on TDX.
    pub fn with_tdx() -> Self {
        let mut vm = Self::new();
        vm.hardware = Hardware::Tdx(Box::default());
        vm.numbers[1] = 4;
        vm
    }

    /// Replaces a part of the runtime data.
    pub fn replace(&mut self, from: &str, to: &str) {
        assert!(self.runtime.contains(from), "{from}");
        self.runtime = self.runtime.replacen(from, to, 1);
    }

    /// TPMS_ATTEST for `nonce`.
    pub fn attest(&self, nonce: &[u8]) -> Vec<u8> {
        let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
        let map = &self.selection[7..10];
        let bits = u32::from_le_bytes([map[0], map[1], map[2], 0]);
        let mut hash = Sha256::new();
        for (number, value) in self.registers.iter().enumerate() {
            if bits >> number & 1 != 0 {
                hash.update(value.0);
            }
        }
        let mut clock = [0x11; 25];
        clock[16] = 1;
        [
            &self.head[..],
            &sized(&[0x22; 34]),
            &sized(nonce),
            &clock,
            &self.selection,
            &sized(&hash.finalize()),
        ]
        .concat()
    }

    /// Evidence of this VM for `nonce`.
    pub fn evidence(&self, nonce: &[u8]) -> AzureEvidence {
        let mut data = [0; 64];
        data[..32].copy_from_slice(&Sha256::digest(&self.runtime));
        let (report, hardware) = match &self.hardware {
            Hardware::Snp(machine) => {
                let mut machine = machine.clone();
                machine.set(amd::at::REPORT_DATA, &data);
                let evidence = machine.evidence();
                (evidence.report.clone(), AzureHardware::Snp(evidence))
            }
            Hardware::Tdx(domain) => {
                let mut domain = domain.clone();
                domain.set(intel::at::REPORT_DATA, &data);
                (vec![0; 1184], AzureHardware::Tdx(domain.evidence()))
            }
        };
        let length = self.runtime.len() as u32;
        let [version, kind, hash] = self.numbers;
        let numbers = [length + 20, version, kind, hash, length];
        let numbers: Vec<u8> = numbers.iter().flat_map(|one| one.to_le_bytes()).collect();
        let runtime = self.runtime.as_bytes();
        let attest = self.attest(nonce);
        AzureEvidence {
            hcl_report: [&self.header[..], &report, &numbers, runtime, &self.rest].concat(),
            hardware,
            quote: VtpmQuote {
                signature: tpmt(&self.key.sign_pkcs1(&attest)),
                attest,
                registers: self.registers,
            },
            event_log: boot::encode(&self.events),
        }
    }

    /// The policy that accepts this VM, strict where it can be.
    pub fn policy(&self) -> AzurePolicy {
        azure_policy(POLICY)
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self::new()
    }
}

/// TPMT_SIGNATURE by RSASSA with SHA-256.
pub fn tpmt(signature: &[u8]) -> Vec<u8> {
    let length = (signature.len() as u16).to_be_bytes();
    [&[0, 0x14, 0, 0x0b][..], &length, signature].concat()
}

/// The strictest table `[azure]` that pins nothing.
pub const POLICY: &str = "[azure]\nsecure_boot = \"required\"\nconsole = \"refused\"\n\
    event_log = \"required\"\nvm_ids = \"any\"\nuser_data = \"any\"\npcrs = []\n";

/// Reads the table `[azure]`.
pub fn azure_policy(table: &str) -> AzurePolicy {
    let policy = MachinePolicy::parse(format!("version = 2\n{table}").as_bytes());
    policy.expect("a policy").azure.expect("a table")
}

/// A world whose release runs in VMs of clouds, and the file of the policy that accepts it on `vm`
/// and on an instance of Google's: the hardware's tables pin the paravisor.
pub fn cloud_world(vm: &Vm) -> (World, String) {
    let (world, root) = (World::new(), GoogleChain::new().certificates()[2].clone());
    let (kind, hardware) = match &vm.hardware {
        Hardware::Snp(_) => {
            let pin = format!("launch_digests = \"{}\"", Digest(amd::MEASUREMENT));
            let table = Machine::new().policy_toml();
            let pinned = table.replace("launch_digests = \"any\"", &pin);
            ("azure-snp", pinned)
        }
        Hardware::Tdx(_) => {
            let pin = format!("mr_tds = \"{}\"", Digest(intel::MR_TD));
            let table = Domain::new().policy_toml();
            let pinned = table.replace("mr_tds = \"any\"", &pin);
            let log = "event_log = \"required\"";
            (
                "azure-tdx",
                pinned.replace(log, "event_log = \"not-required\""),
            )
        }
    };
    let platforms = format!("[\"tpm\", \"{kind}\", \"google-vtpm\"]");
    let policy = world.policy_toml().replace("[\"tpm\"]", &platforms);
    let google = format!(
        "[google-vtpm]\nroots = ['''\n{}''']\nsecure_boot = \"required\"\n\
         project_numbers = [7]\ninstance_numbers = \"any\"\n",
        authority::pem(&root)
    );
    (world, format!("{policy}\n{POLICY}\n{google}\n{hardware}"))
}

/// What a cloud's virtual TPM gives for `binding`, signed by `key`.
fn vtpm(
    world: &World,
    key: &RsaSigner,
    binding: &Binding,
    certificates: Vec<Vec<u8>>,
) -> TpmEvidence {
    let registers = boot::registers(&world.events);
    let mut quote = world.quote(binding);
    let values: Vec<u8> = registers.iter().flat_map(|value| value.0).collect();
    quote.pcr_digest = Sha256::digest(values).to_vec();
    let attest = quote.encode();
    TpmEvidence {
        signature: tpmt(&key.sign_pkcs1(&attest)),
        attest,
        registers,
        event_log: boot::encode(&world.events),
        certificates,
    }
}

/// Evidence of `vm`, which runs the release of `world`, made for `binding`.
pub fn vm_evidence(world: &World, vm: &Vm, binding: &Binding) -> Evidence {
    let AzureEvidence {
        hcl_report,
        mut hardware,
        ..
    } = vm.evidence(&[]);
    match &mut hardware {
        AzureHardware::Snp(snp) => snp.report.clear(),
        AzureHardware::Tdx(tdx) => tdx.event_log.clear(),
    }
    let machine = AzureMachine {
        hcl_report,
        hardware,
        tpm: vtpm(world, &vm.key, binding, Vec::new()),
    };
    evidence_of(world, Platform::Azure(machine))
}

/// Evidence of an instance of Google's, which runs the release of `world`, made for `binding`.
pub fn google_evidence(world: &World, chain: &GoogleChain, binding: &Binding) -> Evidence {
    let [leaf, above, _] = chain.certificates();
    let tpm = vtpm(world, &chain.intermediate, binding, vec![leaf, above]);
    evidence_of(world, Platform::Google(tpm))
}

fn evidence_of(world: &World, platform: Platform) -> Evidence {
    Evidence {
        platform,
        configuration: world.configuration.clone(),
        gpu: GpuEvidence::default(),
        release: world.bundle(),
    }
}

/// Certificates of an attestation key as Google issues them: leaf, intermediate, root.
pub struct GoogleChain {
    /// What the certificates say.
    pub templates: [Template; 3],
    /// The root's key.
    pub root: RsaSigner,
    /// The intermediate's key.
    pub intermediate: RsaSigner,
}

/// What Google says of an instance.
pub fn instance() -> Extension {
    const OID: &[u8] = &[0x2b, 6, 1, 4, 1, 0xd6, 0x79, 2, 1, 21];
    let text = |text: &str| der(0x0c, &[text.as_bytes()]);
    let value = der(
        0x30,
        &[
            &text("zone"),
            &der(2, &[&[7]]),
            &text("project"),
            &der(2, &[&[0, 0xff]]),
            &text("name"),
        ],
    );
    (OID.to_vec(), false, value)
}

impl GoogleChain {
    /// A sound chain.
    pub fn new() -> Self {
        let Machine { ark, ask, .. } = Machine::new();
        let (root, above) = ("EK/AK CA Root", "EK/AK CA Intermediate");
        let mut leaf = amd::authority(above, "instance", &ask, &[DIGITAL_SIGNATURE]);
        leaf.extensions.push(instance());
        let mut templates = [
            leaf,
            amd::authority(root, above, &ask, &[AUTHORITY, CERT_SIGN]),
            amd::authority(root, root, &ark, &[AUTHORITY, CERT_SIGN]),
        ];
        for template in &mut templates {
            template.algorithms = [RSA_SHA256.to_vec(), RSA_SHA256.to_vec()];
        }
        Self {
            templates,
            root: ark,
            intermediate: ask,
        }
    }

    /// The certificates, leaf first.
    pub fn certificates(&self) -> [Vec<u8>; 3] {
        let [leaf, above, root] = &self.templates;
        let issue =
            |template, key: &RsaSigner| amd::issue_with(template, |part| key.sign_pkcs1(part));
        [
            issue(leaf, &self.intermediate),
            issue(above, &self.root),
            issue(root, &self.root),
        ]
    }
}

impl Default for GoogleChain {
    fn default() -> Self {
        Self::new()
    }
}
