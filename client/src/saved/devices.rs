//! GPUs and switches, without the machine that they are in.

use std::path::PathBuf;

use attest::Refusal;
use attest::files::{self, Files};
use attest::gpu::{self, DeviceEvidence, GpuEvidence};
use attest::policy::MachinePolicy;

use super::{Saved, Verdict, no_table, not_one, refused};
use crate::connection::read_file;
use crate::failure::Failure;
use crate::reattest::now;

pub(super) fn judge(
    paths: &[PathBuf],
    saved: &Saved,
    policy: &MachinePolicy,
    files: &Files,
) -> Result<Verdict, Failure> {
    let policy = policy.gpu.as_ref().ok_or_else(|| no_table("gpu"))?;
    let mut evidence = GpuEvidence::default();
    for path in paths {
        let bytes = read_file("GPU evidence", path, gpu::MAX_FILE_BYTES)?;
        let devices = match files::device_report(&bytes) {
            Some(report) => vec![files.with_device(&report)],
            None => DeviceEvidence::from_file(&bytes)
                .map_err(|error| not_one("GPU evidence", path, &error))?,
        };
        evidence.devices.extend(devices);
    }
    if evidence.devices.len() > gpu::MAX_DEVICES {
        let (found, most) = (evidence.devices.len(), gpu::MAX_DEVICES);
        let message = format_args!("{found} devices, of one machine at most {most}");
        return Err(Failure::misuse(message));
    }
    let time = saved.at.unwrap_or_else(now);
    files.supplement_gpus(&mut evidence, time);
    let verified = gpu::verify_alone(&evidence, saved.nonce.as_ref(), policy, time)
        .map_err(|error| refused(&Refusal::from(error)))?;
    let found = verified.devices();
    let names: Vec<_> = found
        .iter()
        .map(|device| format!("{} {}", device.kind, device.chip))
        .collect();
    let root = verified
        .claims()
        .iter()
        .find(|claim| claim.what.ends_with(": device"));
    Ok(Verdict {
        subject: "gpu-evidence",
        line: format!("{} devices: {}", found.len(), names.join(", ")),
        root: root.map_or_else(String::new, |claim| claim.rests_on.clone()),
        time,
        claims: verified.claims().to_vec(),
    })
}
