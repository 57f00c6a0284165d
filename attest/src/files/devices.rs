//! What files hold for devices: manifests, revocation lists and OCSP responses.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Files, keep};
use crate::certificate::{self, Certificate};
use crate::gpu::{self, DeviceEvidence, GpuEvidence};
use crate::{UnixTime, ocsp};

impl Files {
    /// A report of a device with its own of these certificates: that of the key that signed it,
    /// and those above. Where no key did, those of the first device.
    #[must_use]
    pub fn with_device(&self, report: &[u8]) -> DeviceEvidence {
        let decoded = self.certificates.iter().filter_map(|der| {
            let certificate = certificate::decode(der).ok()?;
            Some((der, certificate))
        });
        let mut decoded: Vec<(&Vec<u8>, Certificate)> = decoded.collect();
        let mut certificates = Vec::new();
        let signer = |(_, one): &(_, Certificate)| gpu::is_signed_by(report, one);
        let mut next = decoded.iter().position(signer).or_else(|| {
            let mut all = decoded.iter();
            all.position(|(_, one)| gpu::is_device(one))
        });
        while let Some(place) = next {
            let (der, current) = decoded.remove(place);
            certificates.push(der.clone());
            let is_above = |(_, one): &(_, Certificate)| gpu::is_issued_by(&current, one);
            let is_full = certificates.len() == gpu::MAX_CERTIFICATES;
            next = decoded.iter().position(is_above).filter(|_| !is_full);
        }
        DeviceEvidence {
            report: report.to_vec(),
            certificates,
        }
    }

    /// What these files say of the versions and authorities that devices name, beside what they
    /// show, for a judgement at `time`.
    pub fn supplement_gpus(&self, shown: &mut GpuEvidence, time: UnixTime) {
        let mut versions = Vec::new();
        let mut shown_certificates = Vec::new();
        for device in &shown.devices {
            if let Ok(report) = gpu::Report::parse(&device.report) {
                let driver = report.opaque.driver.map(|driver| driver.to_string());
                versions.extend(driver);
                versions.push(report.opaque.vbios.to_string());
            }
            let ders = device.certificates.iter();
            shown_certificates.extend(ders.filter_map(|der| certificate::decode(der).ok()));
        }
        let attributes: Vec<_> = versions
            .iter()
            .map(|version| format!("colloquialversion=\"{version}\"").to_lowercase())
            .collect();
        if shown.manifests.is_empty() {
            let fits = |manifest: &&Vec<u8>| {
                let text = String::from_utf8_lossy(manifest).to_lowercase();
                attributes.iter().any(|attribute| text.contains(attribute))
            };
            let fitting = self.manifests.iter().filter(fits);
            shown.manifests = fitting.take(gpu::MAX_MANIFESTS).cloned().collect();
        }
        for manifest in &shown.manifests {
            let text = String::from_utf8_lossy(manifest);
            let parts = text.split("X509Certificate>").skip(1).step_by(2);
            let ders = parts.filter_map(|part| {
                let digits: String = part.split('<').next()?.split_whitespace().collect();
                STANDARD.decode(digits).ok()
            });
            shown_certificates.extend(ders.filter_map(|der| certificate::decode(&der).ok()));
        }
        if shown.revocation_lists.is_empty() {
            for one in &shown_certificates {
                for list in self.lists_by(one.tbs_certificate().issuer(), time) {
                    keep(&mut shown.revocation_lists, &list);
                }
            }
            shown.revocation_lists.truncate(gpu::MAX_REVOCATION_LISTS);
        }
        if shown.statuses.is_empty() {
            let fits = |status: &&Vec<u8>| {
                ocsp::Response::parse(status)
                    .is_ok_and(|status| shown_certificates.iter().any(|one| status.names(one)))
            };
            let fitting = self.statuses.iter().filter(fits);
            shown.statuses = fitting.take(gpu::MAX_STATUSES).cloned().collect();
        }
    }
}
