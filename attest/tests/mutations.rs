//! What the fuzz targets check, over mutations of valid input: the same ones in every run.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::Platform;
use attest::release::Bundle;
use signer::amd::Machine;
use signer::azure::{GoogleChain, Vm};
use signer::fuzz::{self, mutate};
use signer::intel::Domain;
use signer::nvidia::{Rack, rack_evidence, rack_world};
use signer::{World, boot};

#[test]
fn cbor_and_evidence() {
    let world = World::new();
    let evidence = world.evidence(&world.nonce_binding([0; 32])).encode();
    mutate(&evidence[..2000], 2000, fuzz::cbor);
    mutate(&evidence, 2000, fuzz::evidence);
}

#[test]
fn quotes_and_certificates() {
    let world = World::new();
    let evidence = world.evidence(&world.nonce_binding([0; 32]));
    let Platform::Tpm(tpm) = evidence.platform else {
        unreachable!()
    };
    mutate(&[tpm.attest, tpm.signature].concat(), 300, fuzz::quote);
    mutate(&tpm.certificates[0], 1000, fuzz::certificate);
}

#[test]
fn event_logs() {
    mutate(&boot::encode(&boot::events()), 3000, fuzz::event_log);
    mutate(&boot::encode_ccel(&boot::events()), 1000, fuzz::event_log);
}

#[test]
fn bundles_and_checkpoints() {
    let bundle = World::new().bundle();
    mutate(&bundle, 2000, fuzz::bundle);
    let bundle = Bundle::decode(&bundle).unwrap();
    mutate(&bundle.envelope.payload, 2000, fuzz::bundle);
    mutate(&bundle.remarks[0].envelope.payload, 1000, fuzz::bundle);
    let status = signer::release::status(&World::new().statement(), 1, &[6]);
    mutate(&status.encode(), 1000, fuzz::bundle);
    mutate(bundle.log.checkpoint.as_bytes(), 2000, fuzz::checkpoint);
}

#[test]
fn policies_and_configurations() {
    let world = World::new();
    mutate(world.policy_toml().as_bytes(), 1000, fuzz::policy);
    mutate(&world.configuration, 2000, fuzz::configuration);
}

#[test]
fn whole_verifications() {
    let world = World::new();
    let evidence = world.evidence(&world.nonce_binding([0; 32])).encode();
    mutate(&evidence, 300, fuzz::verify_all);
}

#[test]
fn reports_and_revocation_lists_of_snp() {
    let evidence = Machine::new().evidence();
    mutate(&evidence.report, 1000, fuzz::snp_report);
    mutate(&evidence.certificates[0], 500, fuzz::snp_certificate);
    mutate(&evidence.revocation_lists[0], 500, fuzz::revocation_list);
}

#[test]
fn quotes_and_collateral_of_tdx() {
    let evidence = Domain::new().evidence();
    mutate(&evidence.quote, 500, fuzz::tdx_quote);
    let collateral = &evidence.collateral;
    mutate(&collateral.tcb_info, 100, fuzz::tdx_document);
    mutate(&collateral.enclave_identity, 100, fuzz::tdx_document);
    mutate(&collateral.signer, 100, fuzz::tdx_collateral);
    mutate(&collateral.revocation_lists[1], 100, fuzz::tdx_collateral);
}

#[test]
fn reports_manifests_and_files_of_gpus() {
    let rack = Rack::with_switch();
    for device in &rack.devices {
        mutate(&device.opaque_bytes(), 500, fuzz::gpu_opaque);
    }
    let rack = Rack::new();
    let evidence = rack.evidence(&[0; 32]);
    mutate(&evidence.devices[0].report, 300, fuzz::gpu_report);
    mutate(&evidence.manifests[0], 300, fuzz::gpu_manifest);
    let file = b"[{\"evidence\":\"AAAA\",\"certificate\":\"AAAA\"}]";
    mutate(file, 500, fuzz::gpu_file);
    let (world, _) = rack_world(&rack);
    let (_, whole) = rack_evidence(&world, &rack, [0; 32]);
    mutate(&whole.encode(), 100, fuzz::gpu_verify);
}

#[test]
fn status_responses() {
    let evidence = Rack::new().evidence(&[0; 32]);
    mutate(&evidence.statuses[0], 300, fuzz::ocsp);
}

#[test]
fn reports_and_quotes_of_clouds() {
    let evidence = Vm::new().evidence(&[0; 32]);
    mutate(&evidence.hcl_report, 500, fuzz::hcl_report);
    let quote = [evidence.quote.attest, evidence.quote.signature].concat();
    mutate(&quote, 300, fuzz::vtpm_quote);
    let [leaf, _, _] = GoogleChain::new().certificates();
    mutate(&leaf, 300, fuzz::google_certificate);
}

#[test]
fn files_of_quotes_and_servers_of_clouds() {
    let evidence = Vm::new().evidence(&[0; 32]);
    let pcrs: Vec<_> = evidence
        .quote
        .registers
        .iter()
        .map(ToString::to_string)
        .collect();
    let file = serde_json::json!({
        "hcl_report": hex(&evidence.hcl_report),
        "tpm_quote": {
            "message": hex(&evidence.quote.attest),
            "signature": evidence.quote.signature,
            "pcrs": pcrs,
        },
    });
    mutate(file.to_string().as_bytes(), 300, fuzz::vtpm_file);
    mutate(&evidence.quote.attest, 200, fuzz::vtpm_file);
    mutate(b"sha256:\n  0 : 0x00\n", 200, fuzz::vtpm_file);
    for (_, evidence) in fuzz::cloud_evidence().1 {
        mutate(&evidence.encode(), 60, fuzz::cloud_verify);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
