//! Genuine input for the targets: made by the rooms' own test support, and real evidence where the
//! shared vectors are.

use std::fs;
use std::path::{Path, PathBuf};

use attest::release::Bundle;
use attest::{Evidence, Platform};
use p384::SecretKey;
use p384::pkcs8::{EncodePrivateKey as _, LineEnding};
use signer::amd::Machine;
use signer::azure::{GoogleChain, Vm};
use signer::intel::Domain;
use signer::nvidia::{Rack, rack_evidence, rack_world};
use signer::{World, boot};
use verity::gpt::{Layout, PartitionSpec};
use verity::{Guid, VolumeRef};

#[path = "../../../release/tests/common/mod.rs"]
mod common;

use common::ovmf;

type Seeds = Vec<Vec<u8>>;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Real evidence beside the checkout, of those files that are there.
fn vectors(names: &[&str]) -> Seeds {
    let folder = repository().join("../shared/vectors");
    let read = |name: &&str| fs::read(folder.join(name)).ok();
    names.iter().filter_map(read).collect()
}

fn fixture(path: &str) -> Vec<u8> {
    fs::read(repository().join("tests/fixtures/llama").join(path)).unwrap_or_default()
}

fn world_evidence() -> Evidence {
    let world = World::new();
    world.evidence(&world.nonce_binding([0; 32]))
}

pub(crate) fn zeros() -> Seeds {
    [1, 64, 1024, 1216, 4096]
        .map(|length| vec![0; length])
        .into()
}

pub(crate) fn partition() -> Seeds {
    let bundle = World::new().bundle();
    let length = (bundle.len() as u64).to_le_bytes();
    vec![[&b"CLOISTR1"[..], &length, &bundle].concat()]
}

pub(crate) fn request() -> Seeds {
    let text = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],
        "stop":["x"],"stream":true,"stream_options":{"include_usage":true},"seed":1}"#;
    let completion = r#"{"model":"m","prompt":[1,2],"max_tokens":3,"temperature":0.5}"#;
    vec![text.into(), completion.into()]
}

/// Answers of 26 bytes: a header with sessions, and nothing in them.
pub(crate) fn tpm_answers() -> Seeds {
    let answer = [&[0x80, 2, 0, 0, 0, 26][..], &[0; 20]].concat();
    let short = [&[0x80, 1, 0, 0, 0, 10][..], &[0; 4]].concat();
    vec![answer.repeat(4), [short, answer].concat()]
}

pub(crate) fn bundle() -> Seeds {
    let bundle = World::new().bundle();
    let payload = Bundle::decode(&bundle).map(|bundle| bundle.envelope.payload);
    vec![bundle, payload.unwrap_or_default()]
}

pub(crate) fn evidence() -> Seeds {
    vec![world_evidence().encode()]
}

pub(crate) fn certificate() -> Seeds {
    match world_evidence().platform {
        Platform::Tpm(tpm) => tpm.certificates,
        _ => Vec::new(),
    }
}

pub(crate) fn checkpoint() -> Seeds {
    let bundle = Bundle::decode(&World::new().bundle());
    vec![bundle.map_or(Vec::new(), |bundle| bundle.log.checkpoint.into_bytes())]
}

pub(crate) fn configuration() -> Seeds {
    vec![World::new().configuration]
}

pub(crate) fn event_log() -> Seeds {
    let tdx = ovmf::ccel(&[
        (1, 0x8000_000b, b"hand-off"),
        (1, 10, b"ACPI DATA"),
        (1, 4, &[0; 4]),
        (2, 0x8000_0007, b"action"),
    ]);
    let tpm = ovmf::tpm_log(&[(0, 8, b"version"), (7, 4, &[0; 4])]);
    let real = vectors(&[
        "go-eventlog/ccel/CCEL_unpadded.data.bin",
        "go-eventlog/ccel/cos-113-intel-tdx-dupe-separator-unpadded.bin",
        "go-tpm-tools/ubuntu-2404-amd-sevsnp.bin",
        "tpm-uki/boot.evlog.bin",
        "go-tdx-guest/ccel/cos-113-tdx-quote.dat",
    ]);
    [vec![boot::encode(&boot::events()), tdx, tpm], real].concat()
}

/// Halves of one length: a prediction, and a log that fits it in part. JSON may end with spaces, a
/// log with ones.
pub(crate) fn explain() -> Seeds {
    let hex = |byte: &str, count| byte.repeat(count);
    let tdx = format!(
        r#"{{"platform":"tdx","rtmr2":"{0}","inputs":{{"command_line":"quiet"}},"events":[
        {{"register":"rtmr1","what":"kernel, patched, Authenticode digest","sha384":"{0}"}},
        {{"register":"rtmr1","what":"kernel, unchanged, Authenticode digest","sha384":"{0}"}},
        {{"register":"rtmr2","what":"initrd","sha384":"{0}"}}]}}"#,
        hex("ab", 48)
    );
    let tpm = format!(
        r#"{{"registers":{{}},
        "events":[{{"pcr":4,"what":"separator","sha256":"{}","sha384":"{}"}}]}}"#,
        hex("cd", 32),
        hex("cd", 48)
    );
    let release = format!(
        r#"{{"predicate":{{"reference_values":{{
        "tpm":{{"sha256":{{"4":"{}"}},"sha384":{{"4":"{}"}}}}}}}}}}"#,
        hex("ef", 32),
        hex("ef", 48)
    );
    let ccel = ovmf::ccel(&[(1, 4, &[0; 4]), (2, 6, b"kernel"), (3, 6, b"quiet")]);
    let log = ovmf::tpm_log(&[(4, 0x8000_0007, b"action"), (12, 0xd, b"beside")]);
    let pair = |statement: &String, log: &Vec<u8>| {
        let half = statement.len().max(log.len());
        let (mut statement, mut log) = (statement.clone().into_bytes(), log.clone());
        statement.resize(half, b' ');
        log.resize(half, 0xff);
        [statement, log].concat()
    };
    vec![pair(&tdx, &ccel), pair(&tpm, &log), pair(&release, &log)]
}

pub(crate) fn svsm() -> Seeds {
    vec![[ovmf::firmware(), ovmf::svsm()].concat()]
}

/// Of all that people keep: certificates, lists, reports, quotes, recorded collateral.
pub(crate) fn file() -> Seeds {
    let real = vectors(&[
        "dcap-qvl/tdx_quote_collateral.json",
        "go-tdx-guest/sample_tcbInfo_response",
        "openpcc/sev_certificates__test_amd_milan_crl.pem",
    ]);
    [revocation(), vcek(), snp_report(), tdx_quote(), real].concat()
}

pub(crate) fn policy() -> Seeds {
    vec![World::new().policy_toml().into_bytes()]
}

pub(crate) fn quote() -> Seeds {
    match world_evidence().platform {
        Platform::Tpm(tpm) => vec![[tpm.attest, tpm.signature].concat()],
        _ => Vec::new(),
    }
}

pub(crate) fn revocation() -> Seeds {
    Machine::new().evidence().revocation_lists
}

pub(crate) fn vcek() -> Seeds {
    Machine::new().evidence().certificates
}

pub(crate) fn snp_report() -> Seeds {
    let real = vectors(&["dstack/sev_snp_report_1184.bin"]);
    [vec![Machine::new().evidence().report], real].concat()
}

/// Bundles that others made.
pub(crate) fn sigstore() -> Seeds {
    let recorded = fs::read_dir(repository().join("release/sigstore/tests/recorded"));
    let recorded = recorded.into_iter().flatten().flatten();
    recorded
        .filter_map(|entry| fs::read(entry.path()).ok())
        .collect()
}

pub(crate) fn tdx_quote() -> Seeds {
    // What the target believes is one quote: another that is signed is no finding.
    let mut later = Domain::of_version_5(3).quote();
    later[64] ^= 1;
    let real = vectors(&["go-tdx-guest/tdx_prod_quote_SPR_E4.dat"]);
    [vec![Domain::new().quote(), later], real].concat()
}

pub(crate) fn tdx_document() -> Seeds {
    let collateral = Domain::new().evidence().collateral;
    vec![collateral.tcb_info, collateral.enclave_identity]
}

pub(crate) fn tdx_collateral() -> Seeds {
    let collateral = Domain::new().evidence().collateral;
    let lists = collateral.revocation_lists.to_vec();
    [vec![collateral.signer], lists].concat()
}

pub(crate) fn google_certificate() -> Seeds {
    let [leaf, above, _] = GoogleChain::new().certificates();
    vec![leaf, above]
}

pub(crate) fn hcl_report() -> Seeds {
    let real = vectors(&["trustee/az-tdx-vtpm/hcl-report.bin"]);
    [vec![Vm::new().evidence(&[0; 32]).hcl_report], real].concat()
}

pub(crate) fn vtpm_quote() -> Seeds {
    let quote = Vm::new().evidence(&[0; 32]).quote;
    vec![[quote.attest, quote.signature].concat()]
}

pub(crate) fn vtpm_file() -> Seeds {
    let real = vectors(&[
        "trustee/tpm_evidence.json",
        "trustee/az-snp-vtpm/evidence-v1.json",
        "trustee/az-tdx-vtpm/evidence-v0.json",
    ]);
    let own = Vm::new().evidence(&[0; 32]);
    [vec![own.hcl_report, own.quote.attest], real].concat()
}

pub(crate) fn cloud_verify() -> Seeds {
    let (_, all) = signer::fuzz::cloud_evidence();
    let encoded = all.into_iter().map(|(_, evidence)| evidence.encode());
    encoded.collect()
}

pub(crate) fn gpu_file() -> Seeds {
    vectors(&["nvidia-attestation-sdk/hopper_evidence_cert_hold.json"])
        .into_iter()
        .chain([b"[{\"evidence\":\"AAAA\",\"certificate\":\"\"}]".to_vec()])
        .collect()
}

pub(crate) fn gpu_manifest() -> Seeds {
    let real = vectors(&["nvtrust/Driver_RIM_test_no_gpu.swidtag"]);
    [Rack::new().evidence(&[0; 32]).manifests, real].concat()
}

pub(crate) fn gpu_opaque() -> Seeds {
    let rack = Rack::with_switch();
    let fields = rack.devices.iter().map(|device| device.opaque_bytes());
    fields.collect()
}

pub(crate) fn gpu_report() -> Seeds {
    let devices = Rack::new().evidence(&[0; 32]).devices;
    devices.into_iter().map(|device| device.report).collect()
}

pub(crate) fn gpu_evidence() -> Seeds {
    let rack = Rack::new();
    let (world, _) = rack_world(&rack);
    vec![rack_evidence(&world, &rack, [0; 32]).1.encode()]
}

pub(crate) fn ocsp() -> Seeds {
    Rack::new().evidence(&[0; 32]).statuses
}

pub(crate) fn model_config() -> Seeds {
    let rooms = ["families", "quantised"].map(|room| format!("tests/fixtures/{room}"));
    let families = rooms
        .into_iter()
        .map(|room| fs::read_dir(repository().join(room)));
    let families = families.flatten().flatten().flatten();
    let configs = families.filter_map(|family| fs::read(family.path().join("config.json")).ok());
    configs
        .chain([fixture("f32-tied-llama3/config.json")])
        .collect()
}

/// The header alone: what follows is numbers.
pub(crate) fn safetensors() -> Seeds {
    let file = fixture("f32-tied-llama3/model.safetensors");
    vec![file.chunks(4096).next().unwrap_or_default().to_vec()]
}

pub(crate) fn schema() -> Seeds {
    let schema = br##"{"type": "object", "properties": {"a": {"type": "array", "items": {"$ref":
        "#/$defs/b"}, "maxItems": 3}, "c": {"anyOf": [{"const": null}, {"type": "integer",
        "minimum": 2}]}}, "required": ["a"], "additionalProperties": false, "$defs": {"b":
        {"type": "string", "pattern": "^[a-f]{1,4}$"}}}"##;
    vec![schema.to_vec()]
}

pub(crate) fn tool_calls() -> Seeds {
    let hermes = b"\0text <tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1]}}</tool_call>";
    let mistral = b"\x02\xff[TOOL_CALLS]\xfe[{\"name\": \"f\", \"arguments\": {}}]";
    let harmony = b"\x05\xff<|channel|>\xfecommentary to=functions.f\xff<|message|>\xfe{}";
    vec![hermes.to_vec(), mistral.to_vec(), harmony.to_vec()]
}

pub(crate) fn template() -> Seeds {
    let plain = "{% for m in messages %}<|{{ m['role'] }}|>{{ m.content | trim }}{% endfor %}\
        {% if add_generation_prompt %}<|assistant|>{% endif %}{{ raise_exception('x') }}";
    vec![
        plain.into(),
        b"{{ messages[0].content }}{# a #}{%- set x = [1, 'b'] -%}".to_vec(),
    ]
}

pub(crate) fn tokenizer() -> Seeds {
    vec![fixture("f32-tied-llama3/tokenizer.json")]
}

pub(crate) fn cpio() -> Seeds {
    let configuration = common::configuration();
    let archive = release::measure::configuration_archive(configuration.as_bytes());
    vec![common::initrd(configuration.as_bytes()), archive]
}

/// Two that differ, one behind the other.
pub(crate) fn differ() -> Seeds {
    let pair = |one: Vec<u8>, change: fn(&mut Vec<u8>)| {
        let mut other = one.clone();
        change(&mut other);
        [one, other].concat()
    };
    let flip = |bytes: &mut Vec<u8>| bytes[700] ^= 1;
    vec![
        pair(common::kernel(), flip),
        pair(common::initrd(common::configuration().as_bytes()), flip),
        pair(b"one\ntwo\nthree\n".to_vec(), |bytes| bytes[4] = b'2'),
    ]
}

pub(crate) fn disk() -> Seeds {
    let spec = |unique| PartitionSpec {
        type_guid: Guid::from_bytes([7; 16]),
        unique_guid: Guid::from_bytes([unique; 16]),
        name: "part".to_owned(),
        attributes: 0,
        size_bytes: 1 << 20,
    };
    let layout = Layout::new(Guid::from_bytes([9; 16]), &[spec(1), spec(2)]);
    vec![
        layout
            .map(|layout| layout.encode_start())
            .unwrap_or_default(),
    ]
}

pub(crate) fn firmware() -> Seeds {
    let small = [
        "sev-snp-measure/ovmf_AmdSev_suffix.bin",
        "sev-snp-measure/svsm.bin",
    ];
    let real = vectors(&small)
        .into_iter()
        .filter(|file| file.len() <= 1 << 20);
    [ovmf::firmware()].into_iter().chain(real).collect()
}

pub(crate) fn acpi() -> Seeds {
    let line = |name, bytes| format!("/rom@etc/{name} 4 KiB 0x28 {bytes} 0x10000 0x7f02 ro\n");
    let listing = [
        line("table-loader", "0x1000"),
        line("acpi/rsdp", "0x1000"),
        line("acpi/tables", "0x20000"),
    ];
    let rsdp = [
        &b"RSD PTR \0BOCHS \x02"[..],
        &[0; 4],
        &[36, 0, 0, 0],
        &[0; 32],
    ]
    .concat();
    vec![listing.concat().into_bytes(), rsdp, ovmf::table_loader()]
}

/// One key in both of its forms.
pub(crate) fn id_key() -> Seeds {
    let key = SecretKey::from_slice(&[7; 48]).expect("a scalar");
    let new = key.to_pkcs8_pem(LineEnding::LF).expect("PKCS#8");
    let old = key.to_sec1_pem(LineEnding::LF).expect("SEC 1");
    vec![new.as_bytes().to_vec(), old.as_bytes().to_vec()]
}

pub(crate) fn kernel() -> Seeds {
    vec![ovmf::kernel(), common::kernel()]
}

pub(crate) fn manifest() -> Seeds {
    let manifest = format!(
        r#"{{"packages":[{{"name":"a","version":"1","sha256":"{0}"}}],"files":[
        {{"path":"/usr","from":"a","mode":"755"}},
        {{"path":"/usr/a","from":"a","mode":"644","sha256":"{0}"}},
        {{"path":"/a","from":"a","link":"usr/a"}}]}}"#,
        "ab".repeat(32)
    );
    [vec![manifest.into_bytes()], bundle()].concat()
}

/// A log has an envelope on each line.
pub(crate) fn log() -> Seeds {
    let bundle = Bundle::decode(&World::new().bundle());
    let envelope = bundle
        .map(|bundle| bundle.envelope.encode())
        .unwrap_or_default();
    vec![[&envelope[..], b"\n"].concat().repeat(2)]
}

pub(crate) fn pe() -> Seeds {
    vec![common::stub(), common::kernel()]
}

pub(crate) fn uki() -> Seeds {
    vec![common::uki()]
}

pub(crate) fn command_line() -> Seeds {
    let volume = volume().concat();
    let root = String::from_utf8_lossy(&volume);
    let hash = "ab".repeat(32);
    let line = format!("panic=-1 cloister.root={root} cloister.config=sha256:{hash}\n");
    vec![
        line.into_bytes(),
        b"virtio_blk.ko.xz\ndm-mod.ko.xz\n".to_vec(),
    ]
}

pub(crate) fn superblock() -> Seeds {
    vec![common::root().1]
}

pub(crate) fn volume() -> Seeds {
    let volume = VolumeRef::new([1; 32], [2; 32], 3);
    vec![
        volume
            .map(|volume| volume.to_string().into_bytes())
            .unwrap_or_default(),
    ]
}
