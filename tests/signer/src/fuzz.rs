//! What must hold for any bytes at all. The fuzz targets call these functions, and so do the
//! ordinary tests with mutated valid input.

use std::sync::LazyLock;

use attest::azure::{AzureEvidence, HclReport};
use attest::capsule::Capsule;
use attest::cbor::Decoder;
use attest::certificate::TrustAnchor;
use attest::eventlog::EventLog;
use attest::files::{self, Files};
use attest::gpu::{self, DeviceEvidence, GpuEvidence, Opaque};
use attest::policy::{GpuPolicy, SnpPolicy, TdxPolicy};
use attest::release::statement::{RebuildStatement, StatusStatement};
use attest::release::{Bundle, Checkpoint, SignedCheckpoint, Statement};
use attest::snp::{self, Report, SnpEvidence};
use attest::supply::{self, Item};
use attest::tdx::{self, TdxEvidence};
use attest::tpm::vtpm::{VtpmKey, VtpmQuote};
use attest::tpm::{Register, TpmEvidence, chain, google, quote};
use attest::{Claim, Configuration, Evidence, Expectation, PlatformKind, Policy, Ratchet, verify};

use crate::amd::Machine;
use crate::authority;
use crate::azure::{GoogleChain, Vm, cloud_world, google_evidence, vm_evidence};
use crate::intel::Domain;
use crate::nvidia::{Rack, rack_evidence, rack_world};
use crate::{NOW, World};

static WORLD: LazyLock<World> = LazyLock::new(World::new);
static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| WORLD.authority.issue(&WORLD.certificate));
static SNP: LazyLock<(SnpEvidence, SnpPolicy)> = LazyLock::new(|| {
    let machine = Machine::new();
    (machine.evidence(), machine.policy())
});
static TDX: LazyLock<(TdxEvidence, TdxPolicy)> = LazyLock::new(|| {
    let domain = Domain::new();
    (domain.evidence(), domain.policy())
});
static RACK: LazyLock<(Rack, GpuEvidence, GpuPolicy)> = LazyLock::new(|| {
    let rack = Rack::new();
    (rack.clone(), rack.evidence(&[0; 32]), rack.policy())
});
static RACK_WORLD: LazyLock<(World, Rack, Policy, Vec<Claim>)> = LazyLock::new(|| {
    let rack = Rack::new();
    let (world, policy) = rack_world(&rack);
    let (binding, evidence) = rack_evidence(&world, &rack, [0; 32]);
    let expectation = Expectation { binding };
    let peer = verify(&evidence, &expectation, &policy, &Ratchet::UNSEEN, NOW);
    let claims = peer.expect("sound evidence").claims().to_vec();
    (world, rack, policy, claims)
});
static VM: LazyLock<(AzureEvidence, VtpmKey)> = LazyLock::new(|| {
    let evidence = Vm::new().evidence(&[0; 32]);
    let report = HclReport::parse(&evidence.hcl_report).expect("a report");
    let key = report.key;
    (evidence, key)
});
static GOOGLE: LazyLock<([Vec<u8>; 3], TrustAnchor)> = LazyLock::new(|| {
    let certificates = GoogleChain::new().certificates();
    let root = TrustAnchor::from_pem(&authority::pem(&certificates[2]));
    (certificates, root.expect("a certificate"))
});
type Clouds = (World, Vec<(PlatformKind, Policy, Vec<Claim>)>);
static CLOUDS: LazyLock<Clouds> = LazyLock::new(|| {
    let (world, all) = cloud_evidence();
    let binding = world.nonce_binding([0; 32]);
    let expectation = Expectation { binding };
    let judged = all.into_iter().map(|(policy, evidence)| {
        let peer = verify(&evidence, &expectation, &policy, &Ratchet::UNSEEN, NOW);
        let claims = peer.expect("sound evidence").claims().to_vec();
        (evidence.platform.kind(), policy, claims)
    });
    let judged = judged.collect();
    (world, judged)
});
static CHECKPOINT: LazyLock<Checkpoint> = LazyLock::new(|| {
    let note = WORLD.logged(WORLD.envelope()).log.checkpoint;
    let signed = SignedCheckpoint::parse(&note).expect("a checkpoint");
    signed.unverified().clone()
});
static POLICY: LazyLock<Policy> = LazyLock::new(|| WORLD.policy());

/// Sound evidence of a server in each cloud for a nonce of zeros, with the policy that accepts it.
pub fn cloud_evidence() -> (World, Vec<(Policy, Evidence)>) {
    let read = |text: String| Policy::parse(text.as_bytes()).expect("a policy");
    let (snp, tdx) = (Vm::new(), Vm::with_tdx());
    let (world, policy) = cloud_world(&snp);
    let binding = world.nonce_binding([0; 32]);
    let google = google_evidence(&world, &GoogleChain::new(), &binding);
    let all = vec![
        (read(policy.clone()), vm_evidence(&world, &snp, &binding)),
        (
            read(cloud_world(&tdx).1),
            vm_evidence(&world, &tdx, &binding),
        ),
        (read(policy), google),
    ];
    (world, all)
}

/// Calls `check` with `valid` and with `count` mutations of it, the same ones at every call.
pub fn mutate(valid: &[u8], count: u64, check: fn(&[u8])) {
    check(valid);
    for seed in 1..=count {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut bytes = valid.to_vec();
        for _ in 0..=random.below(3) {
            change(&mut bytes, &mut random);
        }
        check(&bytes);
    }
}

/// Flips a bit, sets a byte, removes a part, repeats a part or cuts the end off.
fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let (start, length) = (random.below(bytes.len()), random.below(64));
    let end = bytes.len().min(start + length);
    match random.below(8) {
        0..=2 if start < bytes.len() => bytes[start] ^= 1 << random.below(8),
        3 if start < bytes.len() => bytes[start] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        4 | 5 => drop(bytes.drain(start..end)),
        6 => {
            let part = bytes[start..end].to_vec();
            bytes.splice(start..start, part);
        }
        _ => bytes.truncate(start),
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d));
        ((wide * limit as u128) >> 64) as usize
    }
}

/// No sequence of reads panics or runs for ever.
pub fn cbor(bytes: &[u8]) {
    let mut decoder = Decoder::new(bytes);
    for choice in bytes {
        let failed = match choice % 6 {
            0 => decoder.uint().is_err(),
            1 => decoder.bytes(1 << 16).is_err(),
            2 => decoder.text(1 << 16).is_err(),
            3 => decoder.array(1 << 16).is_err(),
            4 => decoder.map(usize::from(*choice)).is_err(),
            _ => decoder.fixed::<4>().is_err(),
        };
        if failed {
            break;
        }
    }
}

/// What is read as evidence is written back as the same bytes.
pub fn evidence(bytes: &[u8]) {
    if let Ok(evidence) = Evidence::decode(bytes) {
        assert_eq!(evidence.encode(), bytes);
    }
}

/// No structure is taken for a quote by a key that did not sign it.
pub fn quote(bytes: &[u8]) {
    let half = bytes.len() / 2;
    let evidence = TpmEvidence {
        attest: bytes[..half].to_vec(),
        signature: bytes[half..].to_vec(),
        ..TpmEvidence::default()
    };
    let key = WORLD.attestation_key.verifying_key();
    assert!(quote::verify(&evidence, key, &[0; 48]).is_err());
}

/// No report is believed that the machine's key did not sign, and none for other report data.
pub fn snp_report(bytes: &[u8]) {
    let _ = Report::parse(bytes);
    let mut evidence = SNP.0.clone();
    evidence.report = bytes.to_vec();
    if snp::verify(&evidence, &[0; 64], &SNP.1, NOW).is_ok() {
        assert_eq!(bytes, SNP.0.report);
    }
}

/// No certificate of a signing key is believed that its authority did not issue.
pub fn snp_certificate(bytes: &[u8]) {
    let mut evidence = SNP.0.clone();
    evidence.certificates[0] = bytes.to_vec();
    if snp::verify(&evidence, &[0; 64], &SNP.1, NOW).is_ok() {
        assert_eq!(bytes, SNP.0.certificates[0]);
    }
}

/// No revocation list is believed that the root did not sign, and the policy demands one.
pub fn revocation_list(bytes: &[u8]) {
    let mut evidence = SNP.0.clone();
    evidence.revocation_lists = vec![bytes.to_vec()];
    if snp::verify(&evidence, &[0; 64], &SNP.1, NOW).is_ok() {
        assert_eq!(bytes, SNP.0.revocation_lists[0]);
    }
}

fn is_domain(evidence: &TdxEvidence) -> bool {
    tdx::verify(evidence, &[0; 64], &TDX.1, NOW).is_ok()
}

/// No quote is believed that the platform did not sign; zeros may pad it.
pub fn tdx_quote(bytes: &[u8]) {
    let _ = tdx::Quote::parse(bytes);
    assert!(bytes.starts_with(tdx::Quote::unpadded(bytes)));
    let mut evidence = TDX.0.clone();
    evidence.quote = bytes.to_vec();
    if is_domain(&evidence) {
        assert_eq!(tdx::Quote::unpadded(bytes), TDX.0.quote);
    }
}

/// No document is believed that Intel did not sign.
pub fn tdx_document(bytes: &[u8]) {
    let mut evidence = TDX.0.clone();
    evidence.collateral.tcb_info = bytes.to_vec();
    assert!(!is_domain(&evidence) || evidence == TDX.0);
    let mut evidence = TDX.0.clone();
    evidence.collateral.enclave_identity = bytes.to_vec();
    assert!(!is_domain(&evidence) || evidence == TDX.0);
    // Signed, whatever it is: it is read or refused, and nothing of it is believed by half.
    if let Ok(text) = std::str::from_utf8(bytes) {
        for place in 0..2 {
            let mut domain = Domain::new();
            text.clone_into(&mut domain.documents[place]);
            let _ = is_domain(&domain.evidence());
        }
    }
}

/// No certificate of Intel's key is believed that the root did not issue, and no list.
pub fn tdx_collateral(bytes: &[u8]) {
    let mut evidence = TDX.0.clone();
    evidence.collateral.signer = bytes.to_vec();
    assert!(!is_domain(&evidence) || evidence == TDX.0);
    for place in 0..2 {
        let mut evidence = TDX.0.clone();
        evidence.collateral.revocation_lists[place] = bytes.to_vec();
        let genuine = TDX
            .0
            .collateral
            .revocation_lists
            .iter()
            .any(|list| list == bytes);
        assert!(!is_domain(&evidence) || genuine);
    }
}

/// No certificate that the authority did not issue is accepted.
pub fn certificate(bytes: &[u8]) {
    let tpm = POLICY.tpm.as_ref().expect("a policy for a TPM");
    let accepted = chain::verify(&[bytes.to_vec()], &tpm.roots, NOW).is_ok();
    assert!(!accepted || bytes == *CERTIFICATE);
}

/// What is believed of the devices, if anything.
fn devices(evidence: &GpuEvidence) -> Option<Vec<Claim>> {
    let (rack, _, policy) = &*RACK;
    let verified = gpu::verify(evidence, &[0; 32], rack.counts(), policy, NOW).ok()?;
    Some(verified.claims().to_vec())
}

/// No report of a GPU is believed that it did not sign.
pub fn gpu_report(bytes: &[u8]) {
    let mut evidence = RACK.1.clone();
    evidence.devices[0].report = bytes.to_vec();
    if devices(&evidence).is_some() {
        assert_eq!(bytes, RACK.1.devices[0].report);
    }
}

/// Opaque data are read or refused, signed or not.
pub fn gpu_opaque(bytes: &[u8]) {
    let read = Opaque::parse(bytes);
    let mut device = RACK.0.devices[0].clone();
    device.opaque = vec![(0xffff, bytes[..bytes.len().min(1 << 12)].to_vec())];
    let report = device.evidence(&[0; 32]).report;
    let _ = gpu::Report::parse(&report);
    if let Ok(opaque) = read {
        assert!(opaque.switches.len() * 8 <= bytes.len());
    }
}

/// A manifest that is believed states what was signed: its canonical form is the same.
pub fn gpu_manifest(bytes: &[u8]) {
    let mut evidence = RACK.1.clone();
    evidence.manifests[0] = bytes.to_vec();
    if let Some(claims) = devices(&evidence) {
        assert_eq!(Some(claims), devices(&RACK.1));
    }
}

/// A status response is read or refused; one that is believed is byte for byte the one that was
/// signed.
pub fn ocsp(bytes: &[u8]) {
    let _ = attest::ocsp::Response::parse(bytes);
    let mut evidence = RACK.1.clone();
    evidence.statuses[0] = bytes.to_vec();
    if devices(&evidence).is_some() {
        assert_eq!(bytes, RACK.1.statuses[0]);
    }
}

/// A file of NVIDIA's tools is read within its bounds.
pub fn gpu_file(bytes: &[u8]) {
    if let Ok(devices) = DeviceEvidence::from_file(bytes) {
        assert!((1..=gpu::MAX_DEVICES).contains(&devices.len()));
    }
}

/// Whatever verifies of a machine with GPUs says what the genuine evidence says.
pub fn gpu_verify(bytes: &[u8]) {
    let (world, rack, policy, claims) = &*RACK_WORLD;
    let Ok(evidence) = Evidence::decode(bytes) else {
        return;
    };
    let (binding, _) = crate::nvidia::rack_binding(world, rack, [0; 32]);
    let expectation = Expectation { binding };
    if let Ok(peer) = verify(&evidence, &expectation, policy, &Ratchet::UNSEEN, NOW) {
        let own = |claim: &&Claim| claim.what.starts_with("GPU");
        let found: Vec<_> = peer.claims().iter().filter(own).collect();
        assert_eq!(found, claims.iter().filter(own).collect::<Vec<_>>());
    }
}

/// A paravisor's report is read or refused; what is read names SHA-256 of what it holds.
pub fn hcl_report(bytes: &[u8]) {
    if let Ok(report) = HclReport::parse(bytes) {
        assert_eq!(report.report_data[32..], [0; 32]);
        assert_eq!(report.hardware.len(), snp::REPORT_BYTES);
    }
}

/// No quote of a virtual TPM is believed that its key did not sign.
pub fn vtpm_quote(bytes: &[u8]) {
    let half = bytes.len() / 2;
    let mut quote = VM.0.quote.clone();
    (quote.attest, quote.signature) = (bytes[..half].to_vec(), bytes[half..].to_vec());
    if quote.verify(&VM.1, &[0; 32]).is_ok() {
        assert_eq!(quote, VM.0.quote);
    }
}

/// Files of quotes and of VMs in Azure are read or refused; what is read has its form.
pub fn vtpm_file(bytes: &[u8]) {
    if let Ok(file) = files::azure(bytes) {
        assert!(file.hcl_report.starts_with(b"HCLA"));
    }
    let attest = &VM.0.quote.attest;
    for attest in [attest.as_slice(), bytes] {
        if let Ok(read) = files::tpm_registers(attest, bytes) {
            assert_eq!(read.len(), 24);
        }
    }
    if let Ok(file) = files::tpm_quote(bytes) {
        let quote = VtpmQuote {
            signature: files::tpm_signature(&file.signature.unwrap_or_default()),
            registers: file.registers.unwrap_or_default(),
            attest: file.attest,
        };
        let genuine = VM.0.quote.attest == quote.attest;
        assert!(genuine || quote.verify(&VM.1, &[0; 32]).is_err());
    }
    if let Some(report) = files::device_report(bytes) {
        assert!(gpu::Report::parse(&report).is_ok());
    }
}

/// Whatever verifies of servers in clouds says what the genuine evidence says.
pub fn cloud_verify(bytes: &[u8]) {
    let Ok(evidence) = Evidence::decode(bytes) else {
        return;
    };
    let (world, policies) = &*CLOUDS;
    let binding = world.nonce_binding([0; 32]);
    let own = policies
        .iter()
        .find(|(kind, ..)| *kind == evidence.platform.kind());
    let Some((_, policy, claims)) = own else {
        return;
    };
    let verdict = verify(
        &evidence,
        &Expectation { binding },
        policy,
        &Ratchet::UNSEEN,
        NOW,
    );
    if let Ok(peer) = verdict {
        let without_log = |claims: &[Claim]| -> Vec<String> {
            let lines = claims
                .iter()
                .filter(|claim| !claim.found.contains("explained by"));
            lines
                .map(|claim| format!("{} {}", claim.what, claim.found))
                .collect()
        };
        assert_eq!(without_log(peer.claims()), without_log(claims));
    }
}

/// No certificate is believed that Google's authority did not issue.
pub fn google_certificate(bytes: &[u8]) {
    let chain = [bytes.to_vec(), GOOGLE.0[1].clone()];
    if google::verify(&chain, std::slice::from_ref(&GOOGLE.1), NOW).is_ok() {
        assert_eq!(bytes, GOOGLE.0[0]);
    }
}

/// A log that parses replays.
pub fn event_log(bytes: &[u8]) {
    if let Ok(log) = EventLog::parse(bytes) {
        for register in (0..24).map(Register) {
            let _ = (log.replay(register), log.count(register));
        }
        let _ = log.secure_boot();
    }
    if let Ok(log) = EventLog::unpadded(bytes) {
        assert!(bytes.starts_with(log));
        assert_eq!(EventLog::unpadded(log), Ok(log));
    }
}

/// What is read as a bundle or a statement is written back as the same bytes.
pub fn bundle(bytes: &[u8]) {
    if let Ok(bundle) = Bundle::decode(bytes) {
        assert_eq!(bundle.encode(), bytes);
    }
    if let Ok(statement) = Statement::decode(bytes) {
        assert_eq!(statement.encode(), bytes);
    }
    if let Ok(status) = StatusStatement::decode(bytes) {
        assert_eq!(status.encode(), bytes);
    }
    if let Ok(rebuild) = RebuildStatement::decode(bytes) {
        assert_eq!(rebuild.encode(), bytes);
    }
}

/// What log and witnesses are believed to have signed is what they signed.
pub fn checkpoint(bytes: &[u8]) {
    let Some(policy) = POLICY.release.log() else {
        return;
    };
    let Ok(signed) = std::str::from_utf8(bytes).map(SignedCheckpoint::parse) else {
        return;
    };
    let Ok(signed) = signed else { return };
    let mut believed = signed.verify(&policy.log_origin, &policy.log_key).is_ok();
    for witness in &policy.witnesses {
        believed |= matches!(signed.cosigned_by(witness), Ok(Some(_)));
    }
    if believed {
        assert_eq!(signed.unverified(), &*CHECKPOINT);
    }
}

/// Whatever a file or an answer is taken for, it has that form and its bounds.
pub fn file(bytes: &[u8]) {
    let mut files = Files::default();
    let _ = files.add(bytes);
    if let Ok((report, _)) = files::report(bytes) {
        assert_eq!(report.len(), snp::REPORT_BYTES);
        assert!(!files.with_report(&report, NOW).is_empty());
        let _ = supply::for_report(&report);
    }
    if let Ok(quote) = files::quote(bytes) {
        assert!(quote.len() <= bytes.len());
        let _ = supply::for_quote(&quote);
        let _ = files.for_quote(&quote, NOW);
    }
    let text = String::from_utf8_lossy(bytes);
    for item in [
        Item::Vcek,
        Item::Intermediate,
        Item::AmdList,
        Item::TcbInfo,
        Item::EnclaveIdentity,
    ] {
        if supply::read(item, bytes, Some(&text)).is_ok() {
            assert!(bytes.len() <= item.max_bytes());
        }
    }
    if let Ok(capsule) = Capsule::decode(bytes) {
        assert_eq!(capsule.encode(), bytes);
    }
}

/// A policy that parses names at least one signer and platform, and says what it demands of each.
pub fn policy(bytes: &[u8]) {
    if let Ok(policy) = Policy::parse(bytes) {
        let log = policy.release.log();
        assert!(log.is_none_or(|log| !log.signers.is_empty()));
        assert!(!policy.evidence.platforms.is_empty());
        assert!(policy.channel.reattest_seconds <= attest::policy::MAX_REATTEST_SECONDS);
        assert!(policy.tpm.is_some() || policy.snp.is_some() || policy.tdx.is_some());
        assert!(policy.tdx.is_none_or(|tdx| !tdx.roots.is_empty()));
        assert!(policy.tpm.is_none_or(|tpm| !tpm.roots.is_empty()));
        assert!(policy.snp.is_none_or(|snp| !snp.products.is_empty()));
    }
}

/// A configuration that parses is within its ranges.
pub fn configuration(bytes: &[u8]) {
    if let Ok(configuration) = Configuration::parse(bytes) {
        let limits = configuration.limits;
        assert!((1..=limits.context_tokens).contains(&limits.max_new_tokens));
        assert!(configuration.server.port > 0);
    }
}

/// Whatever verifies says what the genuine evidence says.
pub fn verify_all(bytes: &[u8]) {
    let binding = WORLD.nonce_binding([0; 32]);
    let Ok(evidence) = Evidence::decode(bytes) else {
        return;
    };
    let expectation = Expectation { binding };
    if verify(&evidence, &expectation, &POLICY, &Ratchet::UNSEEN, NOW).is_ok() {
        let genuine = WORLD.evidence(&binding);
        assert_eq!(evidence.configuration, genuine.configuration);
        assert_eq!(evidence.release, genuine.release);
    }
}
