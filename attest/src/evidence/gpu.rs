//! What devices of NVIDIA's give, in the envelope.

use super::EvidenceError;
use crate::cbor::{Decoder, Encoder};
use crate::crl::MAX_CRL_BYTES;
use crate::gpu::{self, DeviceEvidence, GpuEvidence};
use crate::ocsp::MAX_RESPONSE_BYTES;

pub(super) fn encode(encoder: &mut Encoder, gpu: &GpuEvidence) {
    if *gpu == GpuEvidence::default() {
        encoder.array(0);
        return;
    }
    let lists: &[_] = match gpu.statuses.is_empty() {
        true => &[&gpu.manifests, &gpu.revocation_lists],
        false => &[&gpu.manifests, &gpu.revocation_lists, &gpu.statuses],
    };
    encode_devices(encoder.array(1 + lists.len()), &gpu.devices);
    for items in lists {
        encoder.array(items.len());
        for item in *items {
            encoder.bytes(item);
        }
    }
}

pub(super) fn encode_devices(encoder: &mut Encoder, devices: &[DeviceEvidence]) {
    encoder.array(devices.len());
    for device in devices {
        encoder.array(2).bytes(&device.report);
        encoder.array(device.certificates.len());
        for certificate in &device.certificates {
            encoder.bytes(certificate);
        }
    }
}

pub(super) fn decode(decoder: &mut Decoder<'_>) -> Result<GpuEvidence, EvidenceError> {
    let mut gpu = GpuEvidence::default();
    let parts = match decoder.array(4)? {
        0 => return Ok(gpu),
        parts @ 3..=4 => parts,
        _ => return Err(EvidenceError::Gpu),
    };
    for _ in 0..decoder.array(gpu::MAX_DEVICES)? {
        if decoder.array(2)? != 2 {
            return Err(EvidenceError::Gpu);
        }
        let mut device = DeviceEvidence {
            report: decoder.bytes(gpu::MAX_REPORT_BYTES)?.to_vec(),
            certificates: Vec::new(),
        };
        for _ in 0..decoder.array(gpu::MAX_CERTIFICATES)? {
            let certificate = decoder.bytes(gpu::MAX_CERTIFICATE_BYTES)?;
            device.certificates.push(certificate.to_vec());
        }
        gpu.devices.push(device);
    }
    for (items, most, longest) in [
        (
            &mut gpu.manifests,
            gpu::MAX_MANIFESTS,
            gpu::MAX_MANIFEST_BYTES,
        ),
        (
            &mut gpu.revocation_lists,
            gpu::MAX_REVOCATION_LISTS,
            MAX_CRL_BYTES,
        ),
        (&mut gpu.statuses, gpu::MAX_STATUSES, MAX_RESPONSE_BYTES),
    ]
    .into_iter()
    .take(parts - 1)
    {
        for _ in 0..decoder.array(most)? {
            items.push(decoder.bytes(longest)?.to_vec());
        }
    }
    // Nothing has one form only.
    match gpu == GpuEvidence::default() || gpu.statuses.is_empty() == (parts == 4) {
        true => Err(EvidenceError::Gpu),
        false => Ok(gpu),
    }
}
