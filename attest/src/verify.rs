//! The one way from evidence to a peer that is believed.

use crate::gpu::{self, DeviceCounts, GpuEvidence};
use crate::policy::{AssurancePolicy, LogPolicy, MaximumAge, Publication, ReleasePolicy};
use crate::refusal::BoundPart;
use crate::release::statement::ClientVersion;
use crate::release::{
    LoggedRelease, NoSigstore, Published, SigstoreEntry, SigstoreVerifier, Statement,
    VerifiedRelease,
};
use crate::{
    Binding, Claim, Configuration, Digest, Evidence, Policy, Ratchet, Refusal, ReportData, UnixTime,
};

mod platform;

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
    /// Made later, within the session that a handshake began.
    WithinSession,
    /// Made for a nonce: says what the machine runs, and nothing about any channel to it.
    PlatformOnly,
}

/// How far a signer's clock may be ahead of ours, in seconds.
const CLOCK_SKEW_SECONDS: u64 = 600;
const DAY_SECONDS: u64 = 24 * 60 * 60;

/// Verifies that `evidence` was made for what `expectation` names, on a machine that runs a
/// release which `policy` accepts and which takes nothing back of what `ratchet` has seen, at the
/// time `now`. A policy that asks for Sigstore refuses everybody here: see [`verify_with`].
pub fn verify(
    evidence: &Evidence,
    expectation: &Expectation,
    policy: &Policy,
    ratchet: &Ratchet,
    now: UnixTime,
) -> Result<VerifiedPeer, Refusal> {
    verify_with(evidence, expectation, policy, ratchet, now, &NoSigstore)
}

/// As [`verify`], of releases of both kinds.
pub fn verify_with(
    evidence: &Evidence,
    expectation: &Expectation,
    policy: &Policy,
    ratchet: &Ratchet,
    now: UnixTime,
    sigstore: &dyn SigstoreVerifier,
) -> Result<VerifiedPeer, Refusal> {
    let mut claims = Vec::new();
    check_platform(evidence, policy, &mut claims)?;
    check_binding(evidence, &expectation.binding)?;
    let release = verify_release_with(&evidence.release, &policy.release, ratchet, now, sigstore)?;
    release_claims(&release, &policy.release, ratchet, sigstore, &mut claims);
    let configuration = check_configuration(evidence, release.statement(), &mut claims)?;
    let report_data = ReportData::compute(&expectation.binding);
    let stated = &release.statement().predicate.reference_values;
    platform::check(
        &evidence.platform,
        &report_data,
        stated,
        policy,
        now,
        &mut claims,
    )?;
    check_gpus(
        evidence,
        &expectation.binding,
        configuration.devices(),
        policy,
        now,
        &mut claims,
    )?;
    let assurance = assurance(&expectation.binding, policy.channel.assurance, &mut claims);
    Ok(VerifiedPeer {
        report_data,
        assurance,
        configuration,
        release,
        claims,
    })
}

/// Verifies that `bundle` holds a release that `policy` accepts: signed, logged, witnessed, rebuilt
/// by enough others, of the policy's name and profile, not too old at the time `now`; and that it
/// takes nothing back of what `ratchet` has seen.
pub fn verify_release(
    bundle: &[u8],
    policy: &ReleasePolicy,
    ratchet: &Ratchet,
    now: UnixTime,
) -> Result<VerifiedRelease, Refusal> {
    verify_release_with(bundle, policy, ratchet, now, &NoSigstore)
}

/// As [`verify_release`], of releases of both kinds.
pub fn verify_release_with(
    bundle: &[u8],
    policy: &ReleasePolicy,
    ratchet: &Ratchet,
    now: UnixTime,
    sigstore: &dyn SigstoreVerifier,
) -> Result<VerifiedRelease, Refusal> {
    let release = recognise(bundle, policy, sigstore)?;
    let stated = &release.statement().predicate;
    let (minimum, found) = (stated.minimum_client, ClientVersion::own());
    if found < minimum {
        let own = found;
        return Err(Refusal::ClientTooOld { minimum, own });
    }
    let (minimum, found) = (policy.minimum_version, stated.version);
    if found < minimum {
        return Err(Refusal::Version { minimum, found });
    }
    ratchet.advance(&release)?;
    check_age(release.confirmed(), policy.maximum_age_days, now)?;
    if let Published::Sigstore(entry) = release.published() {
        // Others vouch for these times. Young they prove nothing: anybody can have an old
        // signature timestamped anew.
        for time in &entry.signed_at {
            check_age(*time, MaximumAge::Any, now)?;
        }
    }
    let (demanded, found) = (policy.minimum_rebuilders, release.rebuilders().len());
    if found < demanded {
        return Err(Refusal::Rebuilders { demanded, found });
    }
    Ok(release)
}

/// What `bundle` teaches a client that remembers `ratchet`, though its release is not accepted: to
/// be kept after [`verify_release_with`] has refused it. What is not of the policy's makers teaches
/// nothing.
#[must_use]
pub fn learn(
    bundle: &[u8],
    policy: &ReleasePolicy,
    ratchet: &Ratchet,
    sigstore: &dyn SigstoreVerifier,
) -> Ratchet {
    let learnt = recognise(bundle, policy, sigstore).and_then(|release| ratchet.learn(&release));
    learnt.unwrap_or_else(|_| ratchet.clone())
}

/// A release of the policy's makers, name and profile.
fn recognise(
    bundle: &[u8],
    policy: &ReleasePolicy,
    sigstore: &dyn SigstoreVerifier,
) -> Result<VerifiedRelease, Refusal> {
    let release = VerifiedRelease::verify_with(bundle, policy, sigstore)?;
    let stated = &release.statement().predicate;
    if stated.name != policy.name {
        let (expected, found) = (policy.name.clone(), stated.name.clone());
        return Err(Refusal::ReleaseName { expected, found });
    }
    if stated.profile != policy.profile {
        let (expected, found) = (policy.profile.clone(), stated.profile.clone());
        return Err(Refusal::Profile { expected, found });
    }
    Ok(release)
}

fn check_age(confirmed: UnixTime, maximum: MaximumAge, now: UnixTime) -> Result<(), Refusal> {
    let (then, today) = (confirmed.as_secs(), now.as_secs());
    if then > today.saturating_add(CLOCK_SKEW_SECONDS) {
        return Err(Refusal::FromTheFuture { confirmed, now });
    }
    match maximum {
        MaximumAge::Days(maximum)
            if today.saturating_sub(then) > u64::from(maximum) * DAY_SECONDS =>
        {
            Err(Refusal::Stale { confirmed, maximum })
        }
        _ => Ok(()),
    }
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

fn release_claims(
    release: &VerifiedRelease,
    policy: &ReleasePolicy,
    ratchet: &Ratchet,
    sigstore: &dyn SigstoreVerifier,
    claims: &mut Vec<Claim>,
) {
    let stated = &release.statement().predicate;
    let by = match (&policy.published, release.published()) {
        (Publication::Sigstore(policy), Published::Sigstore(entry)) => {
            let (expected, root) = (policy.signer.to_string(), sigstore.root());
            claims.push(Claim::new(
                "release signer",
                expected,
                release.signer(),
                &root,
            ));
            claims.extend(sigstore_claims(entry, ratchet, &root));
            root
        }
        (Publication::Log(policy), Published::Log(logged)) => {
            let signer = release.signer().to_string();
            let signers: Vec<_> = policy.signers.iter().map(ToString::to_string).collect();
            let signers = signers.join(" or ");
            claims.push(Claim::new("release signer", signers, &signer, &signer));
            claims.extend(log_claims(logged, policy, ratchet));
            signer
        }
        // A release is verified by the policy's own kind.
        _ => "nothing".to_owned(),
    };
    let least = format!("at least {}", policy.minimum_version.max(ratchet.version()));
    let confirmed = release.confirmed();
    claims.extend([
        Claim::new("release name", &policy.name, &stated.name, &by),
        Claim::new("release profile", &policy.profile, &stated.profile, &by),
        Claim::new("release version", least, stated.version, &by),
        Claim::new("release confirmed", policy.maximum_age_days, confirmed, &by),
        Claim::new(
            "release builder",
            "named by the release",
            &stated.builder,
            &by,
        ),
        rebuilder_claim(release, policy),
    ]);
}

fn sigstore_claims(entry: &SigstoreEntry, ratchet: &Ratchet, root: &str) -> [Claim; 3] {
    let size = entry.checkpoint.size;
    let mut known = ratchet.checkpoints().iter();
    let seen = match known.find(|seen| seen.log == entry.checkpoint.log) {
        Some(seen) => format!(
            "log of {} seen before, not comparable but at one size",
            seen.size
        ),
        None => "no log seen before".to_owned(),
    };
    let times: Vec<_> = entry.signed_at.iter().map(ToString::to_string).collect();
    let place = format!("entry {} of {size}", entry.index);
    [
        Claim::new("release log", "a log of the trusted root", place, root),
        Claim::new(
            "log history",
            seen,
            format!("{size} entries"),
            "what this client remembers",
        ),
        Claim::new(
            "release signed",
            "within the certificate's life, if one signed",
            list(&times),
            root,
        ),
    ]
}

fn log_claims(logged: &LoggedRelease, policy: &LogPolicy, ratchet: &Ratchet) -> [Claim; 3] {
    let log = format!("log {} {}", policy.log_origin, policy.log_key);
    let size = logged.checkpoint.size;
    let entry = format!("entry {} of {size}", logged.index);
    let seen = match ratchet.log() {
        Some(seen) => format!("consistent with the log of {} seen before", seen.size()),
        None => "no log seen before".to_owned(),
    };
    let witnesses = logged.witnesses.iter();
    let witnesses: Vec<_> = witnesses
        .map(|(name, time)| format!("{name} {time}"))
        .collect();
    let quorum = quorum(policy.minimum_witnesses, policy.witnesses.len());
    let rests_on = match policy.witnesses.is_empty() {
        true => "nothing",
        false => "the witnesses' keys",
    };
    [
        Claim::new("release log", &policy.log_origin, entry, log),
        Claim::new(
            "log history",
            seen,
            format!("{size} entries"),
            "what this client remembers",
        ),
        Claim::new("log witnesses", quorum, list(&witnesses), rests_on),
    ]
}

fn rebuilder_claim(release: &VerifiedRelease, policy: &ReleasePolicy) -> Claim {
    let names: Vec<_> = release
        .rebuilders()
        .iter()
        .map(ToString::to_string)
        .collect();
    let rests_on = match policy.rebuilders() {
        0 => "nothing",
        _ => "the rebuilders' keys",
    };
    let quorum = quorum(policy.minimum_rebuilders, policy.rebuilders());
    Claim::new("rebuilt by", quorum, list(&names), rests_on)
}

fn quorum(demanded: usize, named: usize) -> String {
    match demanded {
        0 => "none demanded by the policy".to_owned(),
        _ => format!("at least {demanded} of {named}"),
    }
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
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

/// As many GPUs and switches as the measured configuration says signed for this handshake.
fn check_gpus(
    evidence: &Evidence,
    binding: &Binding,
    counts: DeviceCounts,
    policy: &Policy,
    now: UnixTime,
    claims: &mut Vec<Claim>,
) -> Result<(), Refusal> {
    let (shown, none) = (&evidence.gpu, DeviceCounts::default());
    let Some(policy) = &policy.gpu else {
        let devices = shown.devices.len().max(counts.gpus + counts.switches);
        if counts != none || *shown != GpuEvidence::default() {
            return Err(Refusal::NoGpuPolicy { devices });
        }
        return Ok(());
    };
    let verified = gpu::verify(shown, &binding.gpu_nonce(), counts, policy, now)?;
    claims.extend_from_slice(verified.claims());
    Ok(())
}

/// What was asked for, a channel or a nonce, is what was signed: the platform's check of the report
/// data has shown that. A nonce binds no channel, so the policy for channels does not apply to it.
fn assurance(binding: &Binding, policy: AssurancePolicy, claims: &mut Vec<Claim>) -> Assurance {
    let AssurancePolicy::PerHandshake = policy;
    let (assurance, text) = match binding {
        Binding::Handshake { .. } => (Assurance::PerHandshake, "evidence for this handshake"),
        Binding::Session { .. } => (
            Assurance::WithinSession,
            "fresh evidence within this session",
        ),
        Binding::Nonce { .. } => (
            Assurance::PlatformOnly,
            "evidence for this nonce, no channel",
        ),
    };
    claims.push(Claim::new("assurance", text, text, "policy"));
    assurance
}
