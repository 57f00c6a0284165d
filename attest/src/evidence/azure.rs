//! What a confidential VM in Azure gives, in the envelope.

use super::EvidenceError;
use crate::azure::{AzureHardware, AzureMachine, MAX_HCL_BYTES};
use crate::cbor::{Decoder, Encoder};

pub(super) fn encode(encoder: &mut Encoder, machine: &AzureMachine) {
    let tpm = match &machine.hardware {
        AzureHardware::Snp(snp) => {
            encoder.map(4).uint(1).bytes(&machine.hcl_report);
            super::encode_endorsements(encoder, snp);
            4
        }
        AzureHardware::Tdx(tdx) => {
            encoder.map(3).uint(1).bytes(&machine.hcl_report);
            super::encode_tdx(encoder.uint(2), tdx);
            3
        }
    };
    super::encode_tpm(encoder.uint(tpm), &machine.tpm);
}

pub(super) fn decode_snp(decoder: &mut Decoder<'_>) -> Result<AzureMachine, EvidenceError> {
    decoder.map(4)?;
    let hcl_report = decode_hcl(decoder)?;
    let hardware = AzureHardware::Snp(super::decode_endorsements(decoder)?);
    decode_vtpm(decoder, 4, hcl_report, hardware)
}

pub(super) fn decode_tdx(decoder: &mut Decoder<'_>) -> Result<AzureMachine, EvidenceError> {
    decoder.map(3)?;
    let hcl_report = decode_hcl(decoder)?;
    decoder.key(2)?;
    let tdx = super::decode_tdx(decoder)?;
    if !tdx.event_log.is_empty() {
        return Err(EvidenceError::Stray);
    }
    decode_vtpm(decoder, 3, hcl_report, AzureHardware::Tdx(tdx))
}

fn decode_hcl(decoder: &mut Decoder<'_>) -> Result<Vec<u8>, EvidenceError> {
    decoder.key(1)?;
    Ok(decoder.bytes(MAX_HCL_BYTES)?.to_vec())
}

fn decode_vtpm(
    decoder: &mut Decoder<'_>,
    key: u64,
    hcl_report: Vec<u8>,
    hardware: AzureHardware,
) -> Result<AzureMachine, EvidenceError> {
    decoder.key(key)?;
    let tpm = super::decode_tpm(decoder)?;
    match tpm.certificates.is_empty() {
        true => Ok(AzureMachine {
            hcl_report,
            hardware,
            tpm,
        }),
        false => Err(EvidenceError::Stray),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor::CborError;
    use crate::gpu::GpuEvidence;
    use crate::snp::SnpEvidence;
    use crate::tdx::TdxEvidence;
    use crate::tpm::TpmEvidence;
    use crate::{Evidence, Platform};

    fn tpm() -> TpmEvidence {
        TpmEvidence {
            attest: vec![1; 145],
            signature: vec![2; 262],
            event_log: vec![3; 40_000],
            ..TpmEvidence::default()
        }
    }

    fn evidence(platform: Platform) -> Evidence {
        Evidence {
            platform,
            configuration: b"version = 2".to_vec(),
            gpu: GpuEvidence::default(),
            release: vec![9; 100],
        }
    }

    fn machine(hardware: AzureHardware) -> AzureMachine {
        AzureMachine {
            hcl_report: vec![4; 2600],
            hardware,
            tpm: tpm(),
        }
    }

    fn all() -> [Evidence; 3] {
        let snp = SnpEvidence {
            report: Vec::new(),
            certificates: vec![vec![5; 1400], vec![6; 1700]],
            revocation_lists: vec![vec![7; 900]],
        };
        let tdx = TdxEvidence {
            quote: vec![8; 5006],
            ..TdxEvidence::default()
        };
        let google = TpmEvidence {
            certificates: vec![vec![9; 1400], vec![10; 1700]],
            ..tpm()
        };
        [
            Platform::Azure(machine(AzureHardware::Snp(snp))),
            Platform::Azure(machine(AzureHardware::Tdx(tdx))),
            Platform::Google(google),
        ]
        .map(evidence)
    }

    #[test]
    fn evidence_of_clouds_is_read_back() {
        for evidence in all() {
            let bytes = evidence.encode();
            assert_eq!(Evidence::decode(&bytes), Ok(evidence));
            for length in (0..bytes.len()).step_by(97) {
                let cut = Evidence::decode(&bytes[..length]);
                assert_eq!(cut, Err(EvidenceError::Cbor(CborError::Truncated)));
            }
        }
    }

    #[test]
    fn parts_that_a_vm_in_azure_does_not_have_are_refused() {
        for mut evidence in all().into_iter().take(2) {
            let Platform::Azure(machine) = &mut evidence.platform else {
                continue;
            };
            machine.tpm.certificates.push(vec![1; 20]);
            let found = Evidence::decode(&evidence.encode());
            assert_eq!(found, Err(EvidenceError::Stray));
        }
        let tdx = TdxEvidence {
            event_log: vec![1],
            ..TdxEvidence::default()
        };
        let logged = evidence(Platform::Azure(machine(AzureHardware::Tdx(tdx))));
        assert_eq!(
            Evidence::decode(&logged.encode()),
            Err(EvidenceError::Stray)
        );
        let mut long = evidence(Platform::Azure(machine(AzureHardware::Snp(
            SnpEvidence::default(),
        ))));
        if let Platform::Azure(machine) = &mut long.platform {
            machine.hcl_report = vec![0; MAX_HCL_BYTES + 1];
        }
        let found = Evidence::decode(&long.encode());
        assert!(matches!(found, Err(EvidenceError::Cbor(_))), "{found:?}");
    }
}
