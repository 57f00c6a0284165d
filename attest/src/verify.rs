//! The one way from evidence to a peer that is believed.

use crate::eventlog::{EventLog, SecureBoot};
use crate::policy::{AssurancePolicy, SecureBootPolicy, TpmPolicy};
use crate::refusal::BoundPart;
use crate::release::{Statement, VerifiedRelease};
use crate::tpm::{TpmEvidence, chain, quote};
use crate::{
    Binding, Claim, Configuration, Digest, Evidence, Platform, Policy, Refusal, ReleaseFloor,
    ReportData, UnixTime,
};

/// What evidence must be bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// This handshake, or this nonce.
    pub binding: Binding,
}

/// A peer whose evidence was verified. There is no other way to make one than [`verify`].
#[derive(Clone, Debug)]
#[must_use]
pub struct VerifiedPeer {
    report_data: ReportData,
    assurance: Assurance,
    configuration: Configuration,
    release: VerifiedRelease,
    claims: Vec<Claim>,
}

/// How closely the evidence is bound to the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assurance {
    /// Made for exactly this handshake.
    PerHandshake,
    /// Made for a nonce: says what the machine runs, and nothing about any channel to it.
    PlatformOnly,
}

/// Verifies that `evidence` was made for what `expectation` names, on a machine that runs a
/// release which `policy` accepts, at the time `now`.
pub fn verify(
    evidence: &Evidence,
    expectation: &Expectation,
    policy: &Policy,
    floor: ReleaseFloor,
    now: UnixTime,
) -> Result<VerifiedPeer, Refusal> {
    let mut claims = Vec::new();
    check_platform(evidence, policy, &mut claims)?;
    check_binding(evidence, &expectation.binding)?;
    let release = check_release(evidence, policy, floor, &mut claims)?;
    let configuration = check_configuration(evidence, release.statement(), &mut claims)?;
    let report_data = ReportData::compute(&expectation.binding);
    match &evidence.platform {
        Platform::Tpm(tpm) => {
            let statement = release.statement();
            check_tpm(tpm, &report_data, statement, &policy.tpm, now, &mut claims)?;
        }
    }
    let assurance = assurance(&expectation.binding, policy.channel.assurance, &mut claims);
    Ok(VerifiedPeer {
        report_data,
        assurance,
        configuration,
        release,
        claims,
    })
}

impl VerifiedPeer {
    /// The report data that the platform signed: the channel compares it with its own.
    #[must_use]
    pub fn report_data(&self) -> &ReportData {
        &self.report_data
    }

    /// How closely the evidence is bound to the channel.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// The configuration that the peer runs: its model and its limits.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The release that the peer runs.
    #[must_use]
    pub fn release(&self) -> &VerifiedRelease {
        &self.release
    }

    /// Everything that was checked.
    #[must_use]
    pub fn claims(&self) -> &[Claim] {
        &self.claims
    }
}

fn check_platform(
    evidence: &Evidence,
    policy: &Policy,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let (found, accepted) = (evidence.platform.kind(), &policy.evidence.platforms);
    if !accepted.contains(&found) {
        return Err(Refusal::Platform { found });
    }
    let names: Vec<_> = accepted.iter().map(|kind| kind.as_str()).collect();
    claims.push(Claim::new(
        "platform",
        names.join(", "),
        found.as_str(),
        "policy",
    ));
    Ok(())
}

/// What the binding names must be what the evidence holds, or the platform would vouch for one
/// configuration while another is shown.
fn check_binding(evidence: &Evidence, binding: &Binding) -> Result<(), Refusal> {
    let parts = [
        (
            BoundPart::Configuration,
            binding.configuration_digest(),
            evidence.configuration_digest(),
        ),
        (BoundPart::Gpu, binding.gpu_digest(), evidence.gpu_digest()),
    ];
    for (part, expected, found) in parts {
        if expected != found {
            let (expected, found) = (Digest(expected), Digest(found));
            return Err(Refusal::Binding {
                part,
                expected,
                found,
            });
        }
    }
    Ok(())
}

fn check_release(
    evidence: &Evidence,
    policy: &Policy,
    floor: ReleaseFloor,
    claims: &mut Vec<Claim>,
) -> Result<VerifiedRelease, Refusal> {
    let policy = &policy.release;
    let release = VerifiedRelease::verify(&evidence.release, policy)?;
    let stated = &release.statement().predicate;
    if stated.name != policy.name {
        let (expected, found) = (policy.name.clone(), stated.name.clone());
        return Err(Refusal::ReleaseName { expected, found });
    }
    if stated.profile != policy.profile {
        let (expected, found) = (policy.profile.clone(), stated.profile.clone());
        return Err(Refusal::Profile { expected, found });
    }
    let (minimum, found) = (policy.minimum_version, stated.version);
    if found < minimum {
        return Err(Refusal::Version { minimum, found });
    }
    if !floor.admits(found) {
        return Err(Refusal::Rollback {
            seen: floor.version(),
            found,
        });
    }
    let signer = release.signer();
    let log = format_args!("log {} {}", policy.log_origin, policy.log_key).to_string();
    let entry = format!("entry {} of {}", release.index(), release.checkpoint().size);
    let least = format!("at least {}", minimum.max(floor.version()));
    let signers: Vec<_> = policy.signers.iter().map(ToString::to_string).collect();
    claims.extend([
        Claim::new("release signer", signers.join(" or "), signer, signer),
        Claim::new("release log", &policy.log_origin, entry, log),
        Claim::new("release name", &policy.name, &stated.name, signer),
        Claim::new("release profile", &policy.profile, &stated.profile, signer),
        Claim::new("release version", least, found, signer),
    ]);
    Ok(release)
}

fn check_configuration(
    evidence: &Evidence,
    statement: &Statement,
    claims: &mut Vec<Claim>,
) -> Result<Configuration, Refusal> {
    let expected = statement.predicate.configuration_digest;
    let found = Digest(evidence.configuration_digest());
    if expected != found {
        return Err(Refusal::ConfigurationDigest { expected, found });
    }
    let configuration = Configuration::parse(&evidence.configuration)?;
    claims.push(Claim::new("configuration", expected, found, "release"));
    let model = &configuration.model;
    claims.push(Claim::new(
        "model",
        "named by the configuration",
        &model.name,
        "configuration",
    ));
    let volume = &model.volume;
    claims.push(Claim::new(
        "model volume",
        "named by the configuration",
        volume,
        "configuration",
    ));
    Ok(configuration)
}

fn check_tpm(
    evidence: &TpmEvidence,
    report_data: &ReportData,
    statement: &Statement,
    policy: &TpmPolicy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let certified = chain::verify(&evidence.certificates, &policy.roots, now)?;
    let (root, data) = (certified.root, report_data.qualifying_data());
    claims.push(Claim::new(
        "attestation key",
        "certified by a root of the policy",
        root,
        root,
    ));
    quote::verify(evidence, &certified.key, &data)?;
    claims.push(Claim::new(
        "binding to this connection",
        Digest(data),
        Digest(data),
        root,
    ));
    check_reference_values(evidence, statement, root, claims)?;
    check_event_log(evidence, policy, root, claims)
}

/// Registers that the release decides, and those into which nothing may be measured.
fn check_reference_values(
    evidence: &TpmEvidence,
    statement: &Statement,
    root: &chain::TrustAnchor,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let stated = &statement.predicate.reference_values.tpm.sha384;
    for (register, found) in evidence.registers() {
        let expected = match register.0 {
            4 => stated.pcr4,
            9 => stated.pcr9,
            11 => stated.pcr11,
            12 => stated.pcr12,
            13 => stated.pcr13,
            _ => continue,
        };
        if matches!(register.0, 12 | 13) && found != Digest::ZERO {
            return Err(Refusal::NotEmpty { register, found });
        }
        if found != expected {
            return Err(Refusal::Register {
                register,
                expected,
                found,
            });
        }
        claims.push(Claim::new(register, expected, found, root));
    }
    Ok(())
}

/// The log explains every quoted register, and says whether Secure Boot is on.
fn check_event_log(
    evidence: &TpmEvidence,
    policy: &TpmPolicy,
    root: &chain::TrustAnchor,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let log = EventLog::parse(&evidence.event_log)?;
    for (register, expected) in evidence.registers() {
        let (found, events) = (log.replay(register), log.count(register));
        if expected != found {
            return Err(Refusal::Replay {
                register,
                expected,
                found,
                events,
            });
        }
        if ![4, 9, 11, 12, 13].contains(&register.0) {
            let found = format!("{found}, explained by the log ({events} events)");
            claims.push(Claim::new(
                register,
                "whatever the log explains (not pinned)",
                found,
                root,
            ));
        }
    }
    let secure_boot = log.secure_boot()?;
    let expected = match policy.secure_boot {
        SecureBootPolicy::Required if secure_boot == SecureBoot::Disabled => {
            return Err(Refusal::SecureBoot);
        }
        SecureBootPolicy::Required => "required",
        SecureBootPolicy::NotRequired => "not required (relaxed by the policy)",
    };
    let found = match secure_boot {
        SecureBoot::Enabled => "enabled",
        SecureBoot::Disabled => "disabled",
    };
    claims.push(Claim::new("Secure Boot", expected, found, root));
    Ok(())
}

fn assurance(binding: &Binding, policy: AssurancePolicy, claims: &mut Vec<Claim>) -> Assurance {
    let AssurancePolicy::PerHandshake = policy;
    let (assurance, found) = match binding {
        Binding::Handshake { .. } => (Assurance::PerHandshake, "made for this handshake"),
        Binding::Nonce { .. } => (Assurance::PlatformOnly, "made for a nonce: no channel"),
    };
    claims.push(Claim::new(
        "assurance",
        "made for this handshake",
        found,
        "policy",
    ));
    assurance
}
