//! GPUs and switches with their reports, and the manifests of what they measure. Every field can be
//! made wrong.

use std::collections::BTreeMap;

use attest::gpu::{DeviceCounts, DeviceEvidence, GpuEvidence};
use attest::policy::GpuPolicy;
use attest::{Binding, Evidence, Policy, evidence};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p384::ecdsa::signature::Signer as _;
use p384::ecdsa::{DerSignature, Signature, SigningKey};
use sha2::{Digest as _, Sha384};

use crate::World;
use crate::amd::{self, List};
use crate::authority::{
    self, AUTHORITY, Authority, DIGITAL_SIGNATURE, Extension, FROM, Template, UNTIL, der,
};
use crate::ocsp::Answer;

/// keyUsage keyCertSign and cRLSign, critical.
pub const AUTHORITY_USAGE: authority::Known = (&[0x55, 0x1d, 0x0f], true, &[3, 2, 1, 6]);
/// cRLDistributionPoints: a list of one URI.
const LIST_PLACE: authority::Known = (
    &[0x55, 0x1d, 0x1f],
    false,
    &[
        0x30, 13, 0x30, 11, 0xa0, 9, 0xa0, 7, 0x86, 5, b'h', b't', b't', b'p', b':',
    ],
);
/// Measurements of a GPU and of a switch.
pub const BLOCKS: usize = 64;

/// How the manifest of a document is signed, as NVIDIA writes it.
pub const SIGNED_INFO: &str = "<ds:SignedInfo>\
    <ds:CanonicalizationMethod Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/>\
    <ds:SignatureMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384\"/>\
    <ds:Reference URI=\"\"><ds:Transforms>\
    <ds:Transform Algorithm=\"http://www.w3.org/2000/09/xmldsig#enveloped-signature\"/>\
    <ds:Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"/></ds:Transforms>\
    <ds:DigestMethod Algorithm=\"http://www.w3.org/2001/04/xmldsig-more#sha384\"/>\
    <ds:DigestValue>DIGEST</ds:DigestValue></ds:Reference></ds:SignedInfo>";

const NAMESPACES: &str = "xmlns=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
    xmlns:ns0=\"http://standards.iso.org/iso/19770/-2/2015/schema.xsd\" \
    xmlns:ns2=\"http://www.w3.org/2001/04/xmlenc#sha384\"";
const DSIG: &str = "xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"";

/// A chain of certificates, leaf first, each with the key of its issuer.
pub type Chain = Vec<(Template, SigningKey)>;

/// A GPU or a switch.
#[derive(Clone)]
pub struct Device {
    /// Certificates: key, boot ROM, provisioner, identity.
    pub chain: Chain,
    /// The key that signs reports.
    pub key: SigningKey,
    /// First bytes of the request.
    pub request: [u8; 4],
    /// Slot of the request.
    pub slot: u8,
    /// First bytes of the response, without the number of blocks.
    pub response: [u8; 4],
    /// Blocks as they are: index, specification, type, value.
    pub blocks: Vec<(u8, u8, u8, Vec<u8>)>,
    /// Opaque fields.
    pub opaque: Vec<(u16, Vec<u8>)>,
}

/// A manifest.
#[derive(Clone)]
pub struct Manifest {
    /// Certificates of its signer.
    pub chain: Chain,
    /// The key that signs.
    pub key: SigningKey,
    /// The document without its signature and its end.
    pub document: String,
    /// How it is signed; `DIGEST` stands for the document's digest.
    pub signed_info: String,
    /// Elements behind the certificates in X509Data.
    pub more: String,
}

/// The GPUs of a machine, and all that stands behind their evidence.
#[derive(Clone)]
pub struct Rack {
    /// The devices' root.
    pub device_root: Authority,
    /// The manifests' root.
    pub manifest_root: Authority,
    /// The devices.
    pub devices: Vec<Device>,
    /// The manifests.
    pub manifests: Vec<Manifest>,
    /// Revocation lists, each with the key that signs it.
    pub lists: Vec<(List, SigningKey)>,
    /// Status responses; that everything is good, if there are none here.
    pub answers: Option<Vec<Answer>>,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 48]).expect("a scalar of P-384")
}

/// The value of measurement `index`, counted from 0.
pub fn measurement(index: usize) -> Vec<u8> {
    Sha384::digest([index as u8]).to_vec()
}

/// A certificate for `subject`.
fn link(issuer: &str, subject: &str, own: &SigningKey, known: &[authority::Known]) -> Template {
    Template::new(issuer, subject, own.verifying_key(), known)
}

/// subjectAltName with a device's name.
pub fn device_name(name: &str) -> Extension {
    const TYPE: &[u8] = &[0x2b, 6, 1, 4, 1, 0x83, 0x1c, 0x82, 0x12, 1];
    let value = der(0xa0, &[&der(0x0c, &[name.as_bytes()])]);
    let other = der(0xa0, &[&der(6, &[TYPE]), &value]);
    (vec![0x55, 0x1d, 0x11], false, der(0x30, &[&other]))
}

/// What a certificate says of the firmware that its key was made for.
pub fn firmware(digest: &[u8]) -> Extension {
    const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
    let key = der(0x30, &[&der(0x30, &[]), &der(3, &[&[0, 4]])]);
    let inner = der(0x30, &[&der(6, &[SHA384]), &der(4, &[digest])]);
    let value = der(0x30, &[&der(2, &[&[1]]), &key, &inner]);
    (vec![0x67, 0x81, 5, 5, 4, 1], false, value)
}

/// A GPU's name, by which it is known to switches.
pub fn gpu_name(number: u8) -> [u8; 8] {
    [0xf0, 0, 0, 0, 0, 0, 0, number]
}

/// A switch's name, by which it is known to GPUs.
pub fn switch_name(number: u8) -> [u8; 8] {
    [0xe0, 0, 0, 0, 0, 0, 0, number]
}

/// What a switch says of the GPUs that it is connected with.
pub fn connected(gpus: &[[u8; 8]]) -> Vec<u8> {
    let mut field = gpus.concat();
    field.resize(64, 0xff);
    field.resize(128, 1);
    field
}

impl Device {
    fn new(root: &Authority, chip: &str, first: u8, name: [u8; 8]) -> Self {
        let own = key(0x70 ^ name[7] ^ first);
        let (rom, provisioner, identity) = (key(0x51), key(0x52), key(0x53));
        let mut leaf = link("boot ROM", "firmware", &own, &[DIGITAL_SIGNATURE]);
        leaf.extensions
            .push(device_name(&format!("NVIDIA:{chip}:48B02DF44660DA06")));
        leaf.extensions.push(firmware(&[0xf1; 48]));
        let mut rom_template = link(
            "provisioner",
            "boot ROM",
            &rom,
            &[AUTHORITY, AUTHORITY_USAGE],
        );
        rom_template.serial = [&[first][..], &name].concat();
        let above = [AUTHORITY, AUTHORITY_USAGE, LIST_PLACE];
        let mut of_provisioner = link("identity", "provisioner", &provisioner, &above);
        of_provisioner.serial = vec![2];
        let mut of_identity = link(&root.name, "identity", &identity, &above);
        of_identity.serial = vec![3];
        Self {
            chain: vec![
                (leaf, rom.clone()),
                (rom_template, provisioner.clone()),
                (of_provisioner, identity.clone()),
                (of_identity, root.key.clone()),
            ],
            key: own,
            request: [0x11, 0xe0, 1, 0xff],
            slot: 0,
            response: [0x11, 0x60, 0, 0],
            blocks: (0..BLOCKS)
                .map(|index| (index as u8 + 1, 1, 1, measurement(index)))
                .collect(),
            opaque: Vec::new(),
        }
    }

    /// A sound GPU by itself.
    pub fn gpu(root: &Authority, number: u8) -> Self {
        let mut gpu = Self::new(root, "GH100", 0x41, gpu_name(number));
        gpu.opaque = vec![
            (6, vec![0x01, 0x00, 0x9f, 0x96, 0x02, 0, 0, 0]),
            (3, b"580.95.05\0".to_vec()),
            (4, vec![0x80, 1, 0, 0, 0, 0, 0, 0]),
            (11, vec![0x55]),
            (20, vec![0xf1; 48]),
            (21, vec![0x55]),
            (36, vec![0, 0]),
        ];
        gpu
    }

    /// A sound switch, connected with these GPUs.
    pub fn switch(root: &Authority, number: u8, gpus: &[u8]) -> Self {
        let mut switch = Self::new(root, "LS_10", 0x50, switch_name(number));
        switch.opaque = vec![
            (6, b"96.10.55.00.01".to_vec()),
            (22, switch_name(number).to_vec()),
            (25, vec![1, 0]),
            (
                26,
                connected(&gpus.iter().map(|gpu| gpu_name(*gpu)).collect::<Vec<_>>()),
            ),
        ];
        switch
    }

    /// Sets an opaque field.
    pub fn say(&mut self, field: u16, value: &[u8]) -> &mut Self {
        self.opaque.retain(|(other, _)| *other != field);
        self.opaque.push((field, value.to_vec()));
        self
    }

    /// The opaque fields, encoded.
    pub fn opaque_bytes(&self) -> Vec<u8> {
        let field = |(field, value): &(u16, Vec<u8>)| {
            [
                &field.to_le_bytes()[..],
                &(value.len() as u16).to_le_bytes(),
                value,
            ]
            .concat()
        };
        self.opaque.iter().flat_map(field).collect()
    }

    /// The report without its signature.
    pub fn signed_part(&self, nonce: &[u8; 32]) -> Vec<u8> {
        let block = |(index, specification, kind, value): &(u8, u8, u8, Vec<u8>)| {
            let length = value.len() as u16;
            [
                &[*index, *specification][..],
                &(length + 3).to_le_bytes(),
                &[*kind],
                &length.to_le_bytes(),
                value,
            ]
            .concat()
        };
        let record: Vec<u8> = self.blocks.iter().flat_map(block).collect();
        let opaque = self.opaque_bytes();
        [
            &self.request[..],
            nonce,
            &[self.slot],
            &self.response,
            &[self.blocks.len() as u8],
            &(record.len() as u32).to_le_bytes()[..3],
            &record,
            &[0x2a; 32],
            &(opaque.len() as u16).to_le_bytes(),
            &opaque,
        ]
        .concat()
    }

    /// Evidence of this device for `nonce`.
    pub fn evidence(&self, nonce: &[u8; 32]) -> DeviceEvidence {
        self.evidence_of(&self.signed_part(nonce))
    }

    /// Evidence around a report of the test's own making.
    pub fn evidence_of(&self, part: &[u8]) -> DeviceEvidence {
        let signature: Signature = self.key.sign(part);
        DeviceEvidence {
            report: [part, &signature.to_bytes()].concat(),
            certificates: certificates(&self.chain),
        }
    }
}

/// The certificates of a chain, leaf first.
pub fn certificates(chain: &Chain) -> Vec<Vec<u8>> {
    let certificates = chain.iter().map(|(template, key)| issue(key, template));
    certificates.collect()
}

/// A certificate signed by `key`.
pub fn issue(key: &SigningKey, template: &Template) -> Vec<u8> {
    let part = template.signed_part();
    let signature: DerSignature = key.sign(&part);
    amd::envelope(&part, &template.algorithms[1], signature.as_bytes())
}

impl Manifest {
    /// A sound manifest that states the measurements `active`, of 0 to 63.
    pub fn new(root: &Authority, version: &str, product: &str, active: &[usize]) -> Self {
        let (own, above) = (key(0x61), key(0x62));
        let usage = [AUTHORITY, AUTHORITY_USAGE, LIST_PLACE];
        let leaf = link("manifests", "signer", &own, &[DIGITAL_SIGNATURE]);
        let mut issuer = link(&root.name, "manifests", &above, &usage);
        issuer.serial = vec![4];
        let resource = |index: usize| {
            let is_active = active.contains(&index);
            let (flag, hash) = match is_active {
                true => ("True", hex(&measurement(index))),
                false => ("False", "0".repeat(96)),
            };
            let zero = "0".repeat(96);
            format!(
                "        <ns0:Resource type=\"Measurement\" index=\"{index}\" active=\"{flag}\" \
                 alternatives=\"2\" ns2:Hash0=\"{zero}\" ns2:Hash1=\"{hash}\" \
                 name=\"Measurement_{index}\" size=\"48\"/>\n"
            )
        };
        let resources: String = (0..BLOCKS).map(resource).collect();
        let document = format!(
            "<SoftwareIdentity {NAMESPACES} corpus=\"false\" name=\"{product}\" patch=\"false\" \
             supplemental=\"false\" tagId=\"1\" version=\"1.0\" tagVersion=\"0\">\n    \
             <ns0:Entity name=\"NVIDIA Corporation\" role=\"softwareCreator tagCreator\"/>\n    \
             <ns0:Meta colloquialVersion=\"{version}\" edition=\"GPU\" \
             product=\"{product}\"/>\n    \
             <ns0:Payload xmlns:SHA384=\"http://www.w3.org/2001/04/xmlenc#sha384\">\n{resources}    \
             </ns0:Payload>\n"
        );
        Self {
            chain: vec![(leaf, above), (issuer, root.key.clone())],
            key: own,
            document,
            signed_info: SIGNED_INFO.to_owned(),
            more: String::new(),
        }
    }

    /// Replaces a part of the document.
    pub fn replace(&mut self, from: &str, to: &str) -> &mut Self {
        assert!(self.document.contains(from), "{from}");
        self.document = self.document.replacen(from, to, 1);
        self
    }

    /// The file, signed over its canonical form.
    pub fn sign(&self) -> Vec<u8> {
        let document = canonical(&format!("{}</SoftwareIdentity>", self.document), "");
        let digest = STANDARD.encode(Sha384::digest(document));
        let info = self.signed_info.replace("DIGEST", &digest);
        let signed = canonical(&info, &format!("{NAMESPACES} {DSIG}"));
        let signature: Signature = self.key.sign(signed.as_bytes());
        let certificates: String = certificates(&self.chain)
            .iter()
            .map(|der| {
                format!(
                    "<ds:X509Certificate>{}</ds:X509Certificate>",
                    STANDARD.encode(der)
                )
            })
            .collect();
        format!(
            "{}<ds:Signature {DSIG}>{info}<ds:SignatureValue>{}</ds:SignatureValue>\
             <ds:KeyInfo><ds:X509Data>{certificates}{}</ds:X509Data></ds:KeyInfo></ds:Signature>\
             </SoftwareIdentity>\n",
            self.document,
            STANDARD.encode(signature.to_bytes()),
            self.more
        )
        .into_bytes()
    }
}

/// The canonical form of what this file writes, by a way of its own: no namespace is declared
/// twice, so that only empty elements and the order of attributes change.
fn canonical(text: &str, inherited: &str) -> String {
    let mut out = String::new();
    for (number, piece) in text.split('<').enumerate() {
        let Some((tag, after)) = piece.split_once('>').filter(|_| number > 0) else {
            out += piece;
            continue;
        };
        if tag.starts_with('/') {
            out += &format!("<{tag}>{after}");
            continue;
        }
        let (tag, empty) = (tag.trim_end_matches('/'), tag.ends_with('/'));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut sorted = BTreeMap::new();
        let above = if number == 1 { inherited } else { "" };
        for one in [above, attributes].iter().flat_map(|text| split(text)) {
            let name = one.split('=').next().unwrap_or_default();
            // Declarations first, then by namespace: that of `ns2` comes after none at all.
            let class = match name {
                "xmlns" => 0,
                name if name.starts_with("xmlns:") => 1,
                name if !name.contains(':') => 2,
                _ => 3,
            };
            sorted.insert((class, name.to_owned()), one);
        }
        let attributes: String = sorted.values().map(|one| format!(" {one}")).collect();
        let end = if empty {
            format!("</{name}>")
        } else {
            String::new()
        };
        out += &format!("<{name}{attributes}>{end}{after}");
    }
    out
}

/// `a="b c" d="e"` in parts.
fn split(attributes: &str) -> Vec<String> {
    let parts = attributes.split_inclusive('"').collect::<Vec<_>>();
    let pairs = parts.chunks_exact(2).map(|pair| pair.concat());
    pairs.map(|pair| pair.trim_start().to_owned()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn list(issuer: &str) -> List {
    const ECDSA: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
    List {
        version: 1,
        algorithms: [ECDSA.to_vec(), ECDSA.to_vec()],
        issuer: issuer.to_owned(),
        from: FROM.to_owned(),
        until: Some(UNTIL.to_owned()),
        revoked: vec![(99, Vec::new())],
        extensions: vec![(vec![0x55, 0x1d, 0x14], false, vec![2, 1, 1])],
    }
}

impl Default for Rack {
    fn default() -> Self {
        Self::new()
    }
}

impl Rack {
    /// One GPU, with everything that a strict policy demands.
    pub fn new() -> Self {
        let root = |name, seed| {
            let mut root = Authority::new(name, seed);
            root.name = name.to_owned();
            root
        };
        let device_root = root("Test device root", 0x54);
        let manifest_root = root("Test manifest root", 0x55);
        Self {
            devices: vec![Device::gpu(&device_root, 1)],
            manifests: vec![
                Manifest::new(&manifest_root, "580.95.05", "GH100", &[7, 21, 35]),
                Manifest::new(&manifest_root, "96.9F.00.01.02", "GH100", &[0, 1, 2, 12]),
            ],
            lists: vec![
                (list("Test device root"), device_root.key.clone()),
                (list("identity"), key(0x53)),
                (list("Test manifest root"), manifest_root.key.clone()),
            ],
            answers: None,
            device_root,
            manifest_root,
        }
    }

    /// Two GPUs and a switch between them.
    pub fn with_switch() -> Self {
        let mut rack = Self::new();
        rack.devices = vec![
            Device::gpu(&rack.device_root, 1),
            Device::gpu(&rack.device_root, 2),
            Device::switch(&rack.device_root, 3, &[1, 2]),
        ];
        let mut backwards = switch_name(3);
        backwards.reverse();
        for gpu in &mut rack.devices[..2] {
            gpu.say(21, &[0xaa]).say(36, &[2, 0]);
            gpu.say(22, &backwards.repeat(2));
        }
        let of_switch = Manifest::new(&rack.manifest_root, "96.10.55.00.01", "LS_10", &[3]);
        rack.manifests.push(of_switch);
        rack
    }

    /// How many devices there are.
    pub fn counts(&self) -> DeviceCounts {
        let is_switch = |device: &&Device| device.opaque.iter().any(|(field, _)| *field == 25);
        let switches = self.devices.iter().filter(is_switch).count();
        DeviceCounts {
            gpus: self.devices.len() - switches,
            switches,
        }
    }

    /// Evidence of the machine for `nonce`.
    pub fn evidence(&self, nonce: &[u8; 32]) -> GpuEvidence {
        let devices = self.devices.iter().map(|device| device.evidence(nonce));
        let lists = self.lists.iter().map(|(list, key)| {
            let part = list.signed_part();
            let signature: DerSignature = key.sign(&part);
            amd::envelope(&part, &list.algorithms[1], signature.as_bytes())
        });
        GpuEvidence {
            devices: devices.collect(),
            manifests: self.manifests.iter().map(Manifest::sign).collect(),
            revocation_lists: lists.collect(),
            statuses: match &self.answers {
                Some(answers) => answers.iter().map(Answer::sign).collect(),
                None => {
                    let all = self.subjects();
                    all.iter().map(|one| Answer::good(one).sign()).collect()
                }
            },
        }
    }

    /// The table of a policy that accepts this machine, strict where it can be.
    pub fn policy_toml(&self) -> String {
        let root = |root: &Authority| {
            let mut template = root.template();
            template.extensions = [AUTHORITY, AUTHORITY_USAGE]
                .map(|(oid, critical, value)| (oid.to_vec(), critical, value.to_vec()))
                .to_vec();
            authority::pem(&root.issue(&template))
        };
        format!(
            "[gpu]\ndevice_roots = ['''\n{}''']\nmanifest_roots = ['''\n{}''']\n{}",
            root(&self.device_root),
            root(&self.manifest_root),
            FIELDS
        )
    }

    /// The policy that accepts this machine, strict where it can be.
    pub fn policy(&self) -> GpuPolicy {
        gpu_policy(&self.policy_toml())
    }
}

/// All fields but the roots.
pub const FIELDS: &str = "revocation_lists = \"required\"\nrevocation = \"ocsp\"\n\
    chips = [\"GH100\"]\n\
    switches = [\"LS_10\"]\nmodes = [\"single\", \"protected-pcie\"]\n\
    minimum_driver = \"580.95.05\"\nminimum_vbios = \"96.9F.00.01.02\"\n\
    minimum_switch_vbios = \"96.10.55.00.01\"\ndriver_manifest = \"required\"\n\
    vbios_manifest = \"required\"\nswitch_manifest = \"required\"\ndevices = \"any\"\n";

/// The policy of `world` with a table `[gpu]`.
pub fn with_table(world: &World, table: &str) -> String {
    let text = world
        .policy_toml()
        .replacen("version = 2", "version = 3", 1);
    format!("{text}\n{table}")
}

/// Reads the table `[gpu]`.
pub fn gpu_policy(table: &str) -> GpuPolicy {
    let text = with_table(&World::new(), table);
    let policy = Policy::parse(text.as_bytes()).expect("a policy");
    policy.gpu.expect("a table")
}

/// A world whose configuration says what `rack` has, and the policy that accepts it.
pub fn rack_world(rack: &Rack) -> (World, Policy) {
    let counts = rack.counts();
    let plain = String::from_utf8(World::new().configuration).expect("text");
    let configuration = plain.replace("version = 1\n", "version = 3\n")
        + &format!(
            "[evidence]\nplatform = \"tpm\"\n[gpu]\ngpus = {}\nswitches = {}\n",
            counts.gpus, counts.switches
        );
    let world = World::with_configuration(configuration.as_bytes());
    let policy = with_table(&world, &rack.policy_toml());
    let policy = Policy::parse(policy.as_bytes()).expect("a policy");
    (world, policy)
}

/// A binding of `world` to `nonce` and to what `rack` says for it.
pub fn rack_binding(world: &World, rack: &Rack, nonce: [u8; 32]) -> (Binding, GpuEvidence) {
    let mut binding = world.nonce_binding(nonce);
    let gpu = rack.evidence(&binding.gpu_nonce());
    if let Binding::Nonce { gpu_digest, .. } = &mut binding {
        *gpu_digest = evidence::devices_digest(&gpu.devices);
    }
    (binding, gpu)
}

/// Evidence of `world` and `rack` for `nonce`, and what it is bound to.
pub fn rack_evidence(world: &World, rack: &Rack, nonce: [u8; 32]) -> (Binding, Evidence) {
    let (binding, gpu) = rack_binding(world, rack, nonce);
    let evidence = Evidence {
        gpu,
        ..world.evidence(&binding)
    };
    (binding, evidence)
}
