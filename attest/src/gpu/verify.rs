//! The verdict on the GPUs and switches of a machine.

use std::collections::BTreeSet;
use std::fmt::Display;

use p384::ecdsa::signature::Verifier as _;

use super::chain::{Chain, Identity, Lists};
use super::error::{DeviceFault, GpuError, ManifestKind, Topology, list};
use super::manifest::Manifest;
use super::spdm::{Report, SignedReport};
use super::status::{Standing, Statuses};
use super::{
    DeviceCounts, DeviceEvidence, DeviceKind, GpuEvidence, ManifestError, Mode, VbiosVersion,
};
use crate::certificate::{Position, TrustAnchor};
use crate::policy::{Demand, GpuPolicy, GpuRevocation};
use crate::{Claim, Digest, UnixTime};

/// Measured only while the first video decoder is in use.
const NVDEC_INDEX: u8 = 35;

/// Devices that NVIDIA certified and that are as the policy demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDevices {
    devices: Vec<VerifiedDevice>,
    claims: Vec<Claim>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedDevice {
    /// What it is.
    pub kind: DeviceKind,
    /// The chip.
    pub chip: String,
    /// SHA-256 of the certificate of its boot ROM.
    pub device: Digest<32>,
    /// What it reports.
    pub report: Report,
    /// How many of its measurements a manifest confirms.
    pub confirmed: usize,
}

impl VerifiedDevices {
    /// The devices, in the order of the evidence.
    #[must_use]
    pub fn devices(&self) -> &[VerifiedDevice] {
        &self.devices
    }

    /// Everything that was checked.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

/// Verifies that exactly `counts` devices of NVIDIA's made these reports for `nonce`, each another
/// one, and that they are as `policy` demands, at the time `now`.
pub fn verify(
    evidence: &GpuEvidence,
    nonce: &[u8; 32],
    counts: DeviceCounts,
    policy: &GpuPolicy,
    now: UnixTime,
) -> Result<VerifiedDevices, GpuError> {
    judge(evidence, Some(nonce), Some(counts), policy, now)
}

/// The same of files, where no configuration says how many devices there are: any number that is
/// shown, at least one, and one nonce for all, whichever where none is named.
pub fn verify_alone(
    evidence: &GpuEvidence,
    nonce: Option<&[u8; 32]>,
    policy: &GpuPolicy,
    now: UnixTime,
) -> Result<VerifiedDevices, GpuError> {
    judge(evidence, nonce, None, policy, now)
}

fn judge(
    evidence: &GpuEvidence,
    nonce: Option<&[u8; 32]>,
    counts: Option<DeviceCounts>,
    policy: &GpuPolicy,
    now: UnixTime,
) -> Result<VerifiedDevices, GpuError> {
    let shown = evidence.devices.first();
    let shown = shown.and_then(|device| Report::parse(&device.report).ok());
    let asked = nonce
        .copied()
        .or(shown.map(|report| report.nonce))
        .unwrap_or_default();
    let mut lists =
        Lists::read(&evidence.revocation_lists, now).map_err(GpuError::RevocationList)?;
    let mut statuses = Statuses::read(&evidence.statuses, now).map_err(GpuError::Status)?;
    let mut judge = Judge {
        policy,
        named: nonce.is_some(),
        claims: Vec::new(),
    };
    let mut found = Vec::new();
    for (index, given) in evidence.devices.iter().enumerate() {
        let device = judge.device(given, &asked, (&mut lists, &mut statuses), now);
        found.push(device.map_err(at(index))?);
    }
    judge.counts(&found, counts)?;
    let mut manifests = Vec::new();
    for (index, bytes) in evidence.manifests.iter().enumerate() {
        let place = index + 1;
        let manifest = judge.manifest(place, bytes, (&mut lists, &mut statuses), now);
        manifests.push((
            manifest.map_err(|fault| GpuError::Manifest {
                manifest: place,
                fault: Box::new(fault),
            })?,
            false,
        ));
    }
    check_duplicates(&manifests)?;
    let mut devices = Vec::new();
    for (index, device) in found.iter().enumerate() {
        let confirmed = judge.appraise(index + 1, device, &mut manifests);
        devices.push(device.verified(confirmed.map_err(at(index))?));
    }
    check_topology(&found)?;
    if let Some(place) = manifests.iter().position(|(_, used)| !used) {
        return Err(GpuError::StrayManifest {
            manifest: place + 1,
        });
    }
    if lists.has_stray() {
        return Err(GpuError::StrayRevocationList);
    }
    if statuses.has_stray() {
        return Err(GpuError::StrayStatus);
    }
    let claims = judge.claims;
    Ok(VerifiedDevices { devices, claims })
}

fn at(index: usize) -> impl Fn(DeviceFault) -> GpuError {
    move |fault| GpuError::Device {
        device: index + 1,
        fault: Box::new(fault),
    }
}

/// A device whose report is its own, and made for the nonce.
struct Device<'a> {
    kind: DeviceKind,
    identity: Identity,
    report: Report,
    chain: Chain<'a>,
    /// Certificates without a revocation list.
    without: Vec<Position>,
    standing: Standing,
}

impl Device<'_> {
    fn verified(&self, confirmed: usize) -> VerifiedDevice {
        VerifiedDevice {
            kind: self.kind,
            chip: self.identity.chip.clone(),
            device: self.identity.device,
            report: self.report.clone(),
            confirmed,
        }
    }
}

struct Judge<'a> {
    policy: &'a GpuPolicy,
    /// Whether it was named what the reports must be made for.
    named: bool,
    claims: Vec<Claim>,
}

impl<'a> Judge<'a> {
    /// Whose report it is, and what it was made for.
    fn device(
        &self,
        given: &DeviceEvidence,
        nonce: &[u8; 32],
        (lists, statuses): (&mut Lists, &mut Statuses<'_>),
        now: UnixTime,
    ) -> Result<Device<'a>, DeviceFault> {
        let signed = SignedReport::parse(&given.report)?;
        let chain = Chain::verify(&given.certificates, &self.policy.device_roots, now)?;
        let verdict = chain.check_revocation(lists);
        let without = verdict.map_err(|(position, fault)| match fault {
            None => DeviceFault::Revoked { position },
            Some(fault) => DeviceFault::RevocationList { position, fault },
        })?;
        if let Some(position) = self.demanded(&without) {
            return Err(DeviceFault::NoRevocationList { position });
        }
        // The first certificate is made inside the device.
        let standing = chain.check_status(1, statuses, lists);
        let standing =
            standing.map_err(|(position, fault)| DeviceFault::Status { position, fault })?;
        if let Some(position) = self.unknown(&standing) {
            return Err(DeviceFault::NoStatus { position });
        }
        let identity = chain.identity()?;
        chain
            .key
            .verify(signed.signed, &signed.signature)
            .map_err(|_| DeviceFault::Signature)?;
        let report = signed.report;
        let (expected, found) = (Digest(*nonce), Digest(report.nonce));
        if expected != found {
            return Err(DeviceFault::Nonce { expected, found });
        }
        let listed = |chips: &[crate::Name]| {
            let mut chips = chips.iter();
            chips.any(|chip| chip.as_str() == identity.chip)
        };
        let kind = match (listed(&self.policy.chips), listed(&self.policy.switches)) {
            (true, _) => DeviceKind::Gpu,
            (false, true) => DeviceKind::Switch,
            (false, false) => {
                let found = identity.chip;
                return Err(DeviceFault::Chip { found });
            }
        };
        if !self.policy.devices.admits(&identity.device) {
            let found = identity.device;
            return Err(DeviceFault::Pinned { found });
        }
        Ok(Device {
            kind,
            identity,
            report,
            chain,
            without,
            standing,
        })
    }

    fn revocation(&mut self, what: String, without: &[Position], root: &TrustAnchor) {
        let expected = match self.policy.revocation_lists {
            Demand::Required => "a list for each certificate that names one",
            Demand::NotRequired => "not required (relaxed by the policy)",
        };
        let found = match without.first() {
            None => "not revoked, by a list for each certificate that names one".to_owned(),
            Some(position) => format!("no list for the {position}"),
        };
        self.claim(what, expected, found, root);
    }

    /// A certificate without a revocation list, where the policy demands one.
    fn demanded(&self, without: &[Position]) -> Option<Position> {
        let demanded = self.policy.revocation_lists == Demand::Required;
        without.first().copied().filter(|_| demanded)
    }

    /// A certificate of which no response speaks, where the policy demands one.
    fn unknown(&self, standing: &Standing) -> Option<Position> {
        let demanded = self.policy.revocation == GpuRevocation::Ocsp;
        standing.without.first().copied().filter(|_| demanded)
    }

    fn status(&mut self, what: String, standing: &Standing, root: &TrustAnchor) {
        let expected = match self.policy.revocation {
            GpuRevocation::Ocsp => "good, by OCSP",
            GpuRevocation::NotRequired => "not required (relaxed by the policy)",
        };
        let good = standing.good;
        let found = match standing.until {
            Some(until) => format!("{good} certificates good until {until}"),
            None => "no response".to_owned(),
        };
        self.claim(what, expected, found, root);
    }

    fn counts(
        &mut self,
        found: &[Device<'_>],
        counts: Option<DeviceCounts>,
    ) -> Result<(), GpuError> {
        let mut seen = BTreeSet::new();
        let again = |device: &Device<'_>| !seen.insert(device.identity.device);
        if let Some(index) = found.iter().position(again) {
            return Err(GpuError::SameDevice { device: index + 1 });
        }
        let number = |kind| found.iter().filter(|device| device.kind == kind).count();
        for (kind, expected) in [
            (DeviceKind::Gpu, counts.map(|counts| counts.gpus)),
            (DeviceKind::Switch, counts.map(|counts| counts.switches)),
        ] {
            let (what, found) = (format!("{kind}: number"), number(kind));
            self.claims.push(match expected {
                Some(expected) if expected != found => {
                    return Err(GpuError::Count {
                        kind,
                        expected,
                        found,
                    });
                }
                Some(expected) => Claim::new(what, expected, found, "configuration"),
                None => {
                    let expected = "any (not checked: no configuration says it)";
                    Claim::new(what, expected, found, "nothing")
                }
            });
        }
        Ok(())
    }

    fn manifest(
        &mut self,
        place: usize,
        bytes: &[u8],
        (lists, statuses): (&mut Lists, &mut Statuses<'_>),
        now: UnixTime,
    ) -> Result<Manifest<'a>, ManifestError> {
        let manifest = Manifest::verify(bytes, &self.policy.manifest_roots, now)?;
        let verdict = manifest.chain.check_revocation(lists);
        let without = verdict.map_err(|(position, fault)| match fault {
            None => ManifestError::Revoked { position },
            Some(fault) => ManifestError::RevocationList { position, fault },
        })?;
        if let Some(position) = self.demanded(&without) {
            return Err(ManifestError::NoRevocationList { position });
        }
        let what = format!("manifest {place}: revocation lists");
        self.revocation(what, &without, manifest.chain.root);
        let standing = manifest.chain.check_status(0, statuses, lists);
        let standing =
            standing.map_err(|(position, fault)| ManifestError::Status { position, fault })?;
        if let Some(position) = self.unknown(&standing) {
            return Err(ManifestError::NoStatus { position });
        }
        let what = format!("manifest {place}: revocation status");
        self.status(what, &standing, manifest.chain.root);
        Ok(manifest)
    }

    fn claim(
        &mut self,
        what: String,
        expected: impl Display,
        found: impl Display,
        root: &TrustAnchor,
    ) {
        self.claims.push(Claim::new(what, expected, found, root));
    }

    /// Whether a device is as the policy demands; how many of its measurements are confirmed.
    fn appraise(
        &mut self,
        place: usize,
        device: &Device<'_>,
        manifests: &mut [(Manifest<'_>, bool)],
    ) -> Result<usize, DeviceFault> {
        let (policy, root) = (self.policy, device.chain.root);
        let own = |what: &str| format!("{} {place}: {what}", device.kind);
        let chips = match device.kind {
            DeviceKind::Gpu => &policy.chips,
            DeviceKind::Switch => &policy.switches,
        };
        self.claim(own("chip"), list(chips), &device.identity.chip, root);
        self.claim(own("device"), &policy.devices, device.identity.device, root);
        self.status(own("revocation status"), &device.standing, root);
        let nonce = Digest(device.report.nonce);
        match self.named {
            true => self.claim(own("nonce"), nonce, nonce, root),
            false => self.claim(
                own("nonce"),
                "any (not checked: none was named)",
                nonce,
                root,
            ),
        }
        self.revocation(own("revocation lists"), &device.without, root);
        match device.kind {
            DeviceKind::Gpu => self.gpu(own, device)?,
            DeviceKind::Switch => self.switch(own, device)?,
        }
        let mut confirmed = BTreeSet::new();
        for (kind, version, demand) in wanted(device, policy) {
            let expected = match demand {
                Demand::Required => "required",
                Demand::NotRequired => "not required (relaxed by the policy)",
            };
            let mut all = manifests.iter_mut();
            let fitting = all.find(|(manifest, _)| fits(manifest, kind, &version, device));
            let Some((manifest, used)) = fitting else {
                if demand == Demand::Required {
                    let manifest = kind;
                    return Err(DeviceFault::NoManifest { manifest, version });
                }
                self.claim(own(kind.name()), expected, "none", root);
                continue;
            };
            *used = true;
            let compared = compare(device, kind, manifest)?;
            let found = format!("version {version}, {} measurements equal", compared.len());
            self.claim(own(kind.name()), expected, found, manifest.chain.root);
            for index in compared {
                if !confirmed.insert(index) {
                    return Err(DeviceFault::Conflict { index });
                }
            }
        }
        Ok(confirmed.len())
    }

    fn gpu(
        &mut self,
        own: impl Fn(&str) -> String,
        device: &Device<'_>,
    ) -> Result<(), DeviceFault> {
        let (policy, root, said) = (self.policy, device.chain.root, &device.report.opaque);
        let missing = |field: &'static str| move || DeviceFault::Missing { field };
        let found = said.firmware_id.ok_or_else(missing("the firmware id"))?;
        let expected = device.identity.firmware_id;
        if found != expected {
            return Err(DeviceFault::FirmwareId { expected, found });
        }
        self.claim(own("firmware id"), expected, found, root);
        let found = said.mode.ok_or_else(missing("the mode"))?;
        if !policy.modes.contains(&found) {
            return Err(DeviceFault::Mode { found });
        }
        let modes: Vec<_> = policy.modes.iter().map(Mode::to_string).collect();
        self.claim(own("mode"), modes.join(" or "), found, root);
        let found = said.driver.as_ref().ok_or_else(missing("the driver"))?;
        let minimum = &policy.minimum_driver;
        if !found.reaches(minimum) {
            let (minimum, found) = (minimum.clone(), found.clone());
            return Err(DeviceFault::Driver { minimum, found });
        }
        self.claim(own("driver"), format!("{minimum} or later"), found, root);
        self.vbios(own, device, policy.minimum_vbios)
    }

    fn switch(
        &mut self,
        own: impl Fn(&str) -> String,
        device: &Device<'_>,
    ) -> Result<(), DeviceFault> {
        match device.report.opaque.locked {
            Some(true) => {}
            Some(false) => return Err(DeviceFault::NotLocked),
            None => {
                let field = "whether it is locked";
                return Err(DeviceFault::Missing { field });
            }
        }
        self.claim(own("lock"), "locked", "locked", device.chain.root);
        self.vbios(own, device, self.policy.minimum_switch_vbios)
    }

    fn vbios(
        &mut self,
        own: impl Fn(&str) -> String,
        device: &Device<'_>,
        minimum: VbiosVersion,
    ) -> Result<(), DeviceFault> {
        let found = device.report.opaque.vbios;
        if found < minimum {
            return Err(DeviceFault::Vbios { minimum, found });
        }
        let expected = format!("{minimum} or later");
        self.claim(own("VBIOS"), expected, found, device.chain.root);
        Ok(())
    }
}

/// Which manifests a device should have: of what, of which version, and whether it must.
fn wanted(device: &Device<'_>, policy: &GpuPolicy) -> Vec<(ManifestKind, String, Demand)> {
    let said = &device.report.opaque;
    let vbios = |demand| (ManifestKind::Vbios, said.vbios.to_string(), demand);
    match (device.kind, &said.driver) {
        (DeviceKind::Switch, _) => vec![vbios(policy.switch_manifest)],
        (DeviceKind::Gpu, None) => vec![vbios(policy.vbios_manifest)],
        (DeviceKind::Gpu, Some(driver)) => vec![
            (
                ManifestKind::Driver,
                driver.to_string(),
                policy.driver_manifest,
            ),
            vbios(policy.vbios_manifest),
        ],
    }
}

fn fits(manifest: &Manifest<'_>, kind: ManifestKind, version: &str, device: &Device<'_>) -> bool {
    let same_version = match kind {
        ManifestKind::Driver => manifest.version == version,
        ManifestKind::Vbios => manifest.version.eq_ignore_ascii_case(version),
    };
    same_version && manifest.product == device.identity.chip
}

/// The indices of measurements that are as `manifest` states them.
fn compare(
    device: &Device<'_>,
    kind: ManifestKind,
    manifest: &Manifest<'_>,
) -> Result<Vec<u8>, DeviceFault> {
    let without_nvdec = device.report.opaque.nvdec == Some(false);
    let mut compared = Vec::new();
    for (&index, values) in &manifest.measurements {
        if index == NVDEC_INDEX && without_nvdec {
            continue;
        }
        let mut measurements = device.report.measurements.iter();
        let Some(&found) = measurements.nth(usize::from(index)) else {
            let manifest = kind;
            return Err(DeviceFault::NoMeasurement { manifest, index });
        };
        if !values.contains(&found) {
            let manifest = kind;
            return Err(DeviceFault::Measurement {
                manifest,
                index,
                found,
            });
        }
        compared.push(index);
    }
    Ok(compared)
}

/// Which of two that claim the same would count is not left to their order.
fn check_duplicates(manifests: &[(Manifest<'_>, bool)]) -> Result<(), GpuError> {
    let mut seen = BTreeSet::new();
    let name = |manifest: &Manifest<'_>| {
        let version = manifest.version.to_ascii_uppercase();
        (manifest.product.clone(), version)
    };
    match manifests
        .iter()
        .position(|(one, _)| !seen.insert(name(one)))
    {
        None => Ok(()),
        Some(index) => Err(GpuError::DuplicateManifest {
            manifest: index + 1,
        }),
    }
}

/// Every GPU is connected with exactly the switches that gave evidence, and every switch with
/// exactly the GPUs, by the names in their certificates. A GPU writes names backwards.
fn check_topology(devices: &[Device<'_>]) -> Result<(), GpuError> {
    let names = |kind| -> BTreeSet<_> {
        let devices = devices.iter().filter(|device| device.kind == kind);
        devices.map(|device| device.identity.pdi).collect()
    };
    let (gpus, switches) = (names(DeviceKind::Gpu), names(DeviceKind::Switch));
    let mut mode = None;
    for (device, place) in devices.iter().zip(1..) {
        let (own, said) = (device.identity.pdi, &device.report.opaque);
        let fault = |topology| GpuError::Topology {
            device: place,
            topology,
        };
        match device.kind {
            DeviceKind::Gpu => {
                if *mode.get_or_insert(said.mode) != said.mode {
                    return Err(fault(Topology::Mode));
                }
                if said.mode != Some(Mode::ProtectedPcie) {
                    continue;
                }
                if switches.is_empty() {
                    return Err(fault(Topology::NoSwitch));
                }
                let backwards = |name: &Digest<8>| {
                    let mut name = *name;
                    name.0.reverse();
                    Some(name)
                };
                if said.switches.iter().map(backwards).collect::<BTreeSet<_>>() != switches {
                    return Err(fault(Topology::Switches));
                }
            }
            DeviceKind::Switch => {
                if said.switches.iter().copied().map(Some).ne([own]) {
                    return Err(fault(Topology::Name));
                }
                if said.gpus.iter().copied().map(Some).collect::<BTreeSet<_>>() != gpus {
                    return Err(fault(Topology::Gpus));
                }
            }
        }
    }
    Ok(())
}
