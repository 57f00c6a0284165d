//! `cloister verify` over files instead of a server: nothing is asked of anyone.
//!
//! ```text
//! --capsule FILE      what `--save` kept: machine, release and log, at its own time
//! --evidence FILE     an answer of /.well-known/cloister/evidence, with its nonce
//! --snp-report FILE   a machine alone: genuine, and set up as the policy demands?
//! --tdx-quote FILE
//! --tpm-quote FILE    a TPM's quote alone, of a key that the policy names or a root certified
//! --azure FILE        a VM in Azure: paravisor's report, its hardware, its TPM's quote
//! --gpu-evidence FILE GPUs and switches, as NVIDIA's tools write what they give
//! ```

use std::io::Write as _;
use std::path::{Path, PathBuf};

use attest::capsule::{Capsule, Purpose};
use attest::certificate::ChainFault;
use attest::files::{self, Files};
use attest::policy::MachinePolicy;
use attest::snp::{self, SnpError, SnpEvidence, VerifiedReport};
use attest::tdx::{self, Quote, TdxEvidence};
use attest::{Claim, Evidence, Expectation, Policy, Ratchet, Refusal, UnixTime};
use clap::Args;
use serde_json::json;

use crate::arguments::Peer;
use crate::connection::{read_file, sigstore};
use crate::failure::{Failure, reason};
use crate::reattest::now;
use crate::report;
use crate::terminal::{self, escape};

mod devices;
mod options;
mod vtpm;

/// Most files of a folder that are looked into.
const MAX_FILES: usize = 1000;
const FEWER: &str = "name the files of this machine, or a folder that has fewer of other machines";

/// What is verified where no server is.
#[derive(Debug, Clone, Args)]
#[group(multiple = true)]
pub(crate) struct Saved {
    /// What `--save` kept of a server, judged at its time
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "url", "evidence", "snp_report", "tdx_quote", "tpm_quote", "azure", "gpu_evidence"])]
    pub(crate) capsule: Option<PathBuf>,
    /// What a server answered for a nonce
    #[arg(long, value_name = "FILE", requires = "nonce", conflicts_with_all = [
        "url", "snp_report", "tdx_quote", "tpm_quote", "azure", "gpu_evidence"])]
    pub(crate) evidence: Option<PathBuf>,
    /// The nonce that it answered for, in hexadecimal; of GPUs, what they signed it for: without
    /// it, that is not checked
    #[arg(long, value_name = "HEX", value_parser = digits::<32>, conflicts_with_all = [
        "url", "capsule", "snp_report", "tdx_quote", "tpm_quote", "azure"])]
    pub(crate) nonce: Option<[u8; 32]>,
    /// An attestation report of AMD SEV-SNP
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "url", "tdx_quote", "tpm_quote", "azure", "gpu_evidence"])]
    pub(crate) snp_report: Option<PathBuf>,
    /// A quote of Intel TDX; with --azure, that of the VM
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "gpu_evidence"])]
    pub(crate) tdx_quote: Option<PathBuf>,
    /// The event log that explains the quote: CCEL of TDX, the firmware's of a TPM
    #[arg(long, value_name = "FILE", conflicts_with_all = [
        "url", "capsule", "evidence", "snp_report", "gpu_evidence"])]
    pub(crate) event_log: Option<PathBuf>,
    /// What report or quote must have been made for; without it, that is not checked
    #[arg(long, value_name = "HEX", value_parser = digits::<64>, conflicts_with_all = [
        "url", "tpm_quote", "azure", "gpu_evidence"])]
    pub(crate) report_data: Option<[u8; 64]>,
    /// A quote of a TPM (SHA-256 bank, RSA key): TPMS_ATTEST as tpm2_quote -m writes it, or JSON
    /// with message, signature and pcrs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "gpu_evidence"])]
    pub(crate) tpm_quote: Option<PathBuf>,
    /// The quote's signature (tpm2_quote -s), where it is in a file of its own
    #[arg(long, value_name = "FILE", requires = "tpm_quote")]
    pub(crate) tpm_signature: Option<PathBuf>,
    /// The registers' values (tpm2_quote -o FILE -F values, or what tpm2_pcrread sha256:all
    /// prints), where they are in a file of their own
    #[arg(long, value_name = "FILE", requires = "tpm_quote")]
    pub(crate) tpm_registers: Option<PathBuf>,
    /// What the TPM's quote must have been made for, of up to 64 bytes; without it, that is not
    /// checked
    #[arg(long, value_name = "HEX", value_parser = qualifying, conflicts_with_all = [
        "url", "capsule", "evidence", "snp_report", "gpu_evidence"])]
    pub(crate) qualifying_data: Option<Qualifying>,
    /// A VM in Azure: the paravisor's report (HCLA), or JSON that holds it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "gpu_evidence"])]
    pub(crate) azure: Option<PathBuf>,
    /// GPUs and switches, in the JSON of NVIDIA's tools; or one report, with its certificates by
    /// --certs; several files are of one machine
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub(crate) gpu_evidence: Vec<PathBuf>,
    /// Judge at this time: 2026-01-13T08:00:00Z, a date, or seconds since 1970
    #[arg(long, value_name = "TIME", conflicts_with = "url")]
    pub(crate) at: Option<UnixTime>,
    /// Keep what was verified of the server, to judge it again offline
    #[arg(long, value_name = "FILE", requires = "url")]
    pub(crate) save: Option<PathBuf>,
}

/// Bytes that a TPM was asked to sign.
#[derive(Debug, Clone)]
pub(crate) struct Qualifying(pub(crate) Vec<u8>);

fn qualifying(text: &str) -> Result<Qualifying, &'static str> {
    let bytes = text.as_bytes();
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|one| u8::try_from(one).ok())
    };
    let digits: Option<Vec<u8>> = bytes.iter().map(digit).collect();
    match digits {
        Some(digits) if digits.len().is_multiple_of(2) && digits.len() <= 128 => {
            let pairs = digits.chunks_exact(2);
            Ok(Qualifying(
                pairs.map(|pair| pair[0] << 4 | pair[1]).collect(),
            ))
        }
        _ => Err("an even number of hexadecimal digits is expected, at most 128"),
    }
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let digest: Result<attest::Digest<N>, _> = text.to_ascii_lowercase().parse();
    digest.map(|digest| digest.0).map_err(|_| {
        let digits = 2 * N;
        format!("{digits} hexadecimal digits are expected")
    })
}

impl Saved {
    /// Whether there is a file to verify, and no server.
    pub(crate) fn is_given(&self) -> bool {
        [
            &self.capsule,
            &self.evidence,
            &self.snp_report,
            &self.tdx_quote,
            &self.tpm_quote,
            &self.azure,
        ]
        .into_iter()
        .any(Option::is_some)
            || !self.gpu_evidence.is_empty()
    }
}

/// Verifies the file that `saved` names by what `peer` demands.
pub(crate) fn verify(saved: &Saved, peer: &Peer) -> Result<(), Failure> {
    options::check(saved, peer)?;
    let files = read_files(&peer.collateral)?;
    if let Some(path) = &saved.capsule {
        let bytes = read_file("capsule", path, attest::capsule::MAX_CAPSULE_BYTES)?;
        let capsule = Capsule::decode(&bytes).map_err(|error| not_one("capsule", path, &error))?;
        return judge_machine(capsule, saved, peer, &files);
    }
    if let (Some(path), Some(nonce)) = (&saved.evidence, saved.nonce) {
        let bytes = read_file("evidence", path, attest::evidence::MAX_EVIDENCE_BYTES)?;
        let evidence =
            Evidence::decode(&bytes).map_err(|error| not_one("evidence", path, &error))?;
        let capsule = Capsule {
            time: now(),
            purpose: Purpose::Nonce(nonce),
            evidence,
        };
        return judge_machine(capsule, saved, peer, &files);
    }
    let policy = machine_policy(peer)?;
    let Saved {
        gpu_evidence,
        azure,
        tpm_quote,
        snp_report,
        tdx_quote,
        ..
    } = saved;
    let verdict = if !gpu_evidence.is_empty() {
        devices::judge(gpu_evidence, saved, &policy, &files)?
    } else if let Some(path) = azure {
        vtpm::judge_vm(path, saved, &policy, &files)?
    } else if let Some(path) = tpm_quote {
        vtpm::judge_quote(path, saved, &policy, &files)?
    } else if let Some(path) = snp_report {
        judge_report(path, saved, &policy, &files)?
    } else if let Some(path) = tdx_quote {
        judge_quote(path, saved, &policy, &files)?
    } else {
        return Err(Failure::misuse(
            "nothing to verify: name a server or a file",
        ));
    };
    verdict.print(peer)
}

/// What `save` keeps of a server that was verified.
pub(crate) fn save(path: &Path, capsule: &Capsule) -> Result<(), Failure> {
    let written =
        std::fs::File::create(path).and_then(|mut file| file.write_all(&capsule.encode()));
    written.map_err(|error| {
        let (path, cause) = (path.display(), reason(&error));
        Failure::misuse(format_args!("cannot write the capsule {path}: {cause}"))
    })
}

/// The whole promise: machine, release and log.
fn judge_machine(
    mut capsule: Capsule,
    saved: &Saved,
    peer: &Peer,
    files: &Files,
) -> Result<(), Failure> {
    let (path, bytes) = policy_bytes(peer)?;
    let policy = Policy::parse(&bytes).map_err(|error| not_one("policy", path, &error))?;
    let sigstore = sigstore(&policy, path)?;
    if let Some(path) = &peer.release {
        let release = read_file("release", path, attest::release::MAX_BUNDLE_BYTES)?;
        capsule.evidence.release = release;
    }
    let time = saved.at.unwrap_or(capsule.time);
    files.supplement(&mut capsule.evidence.platform, time);
    files.supplement_gpus(&mut capsule.evidence.gpu, time);
    let binding = capsule.binding(channel::SUITE);
    // What this client has seen since is no fault of what it believed then.
    let verified = attest::verify_with(
        &capsule.evidence,
        &Expectation { binding },
        &policy,
        &Ratchet::UNSEEN,
        time,
        &*sigstore,
    )
    .map_err(|refusal| refused(&refusal))?;
    if peer.json {
        let mut value = report::json(&peer.url, &verified);
        value["url"] = serde_json::Value::Null;
        value["subject"] = json!("evidence");
        value["at"] = json!(time.to_string());
        return report::print_json(&value);
    }
    if peer.explain {
        terminal::say(&report::explain(&verified))?;
    }
    for fact in report::facts(&verified) {
        terminal::say(&fact)?;
    }
    terminal::say(&format!("judged at {time}"))?;
    report::say_left_open(verified.claims())
}

/// What was established of a machine alone.
struct Verdict {
    subject: &'static str,
    line: String,
    root: String,
    time: UnixTime,
    claims: Vec<Claim>,
}

impl Verdict {
    fn print(&self, peer: &Peer) -> Result<(), Failure> {
        if peer.json {
            return report::print_json(&json!({
                "schema": report::SCHEMA,
                "verified": true,
                "subject": self.subject,
                "at": self.time.to_string(),
                "root": self.root,
                "claims": self.claims,
                "exit_code": 0,
            }));
        }
        if peer.explain {
            terminal::say(&report::explain_claims(&self.claims))?;
        }
        let (line, root) = (escape(&self.line), escape(&self.root));
        terminal::say(&format!("verified ✓ {line}\nrests on   {root}"))?;
        terminal::say(&format!("judged at  {}", self.time))?;
        report::say_left_open(&self.claims)
    }

    /// Says of a claim that nobody named what it had to be.
    fn without_report_data(mut self, given: Option<[u8; 64]>) -> Self {
        let binding = self.claims.iter_mut().find(|claim| claim.what == "binding");
        if let (Some(claim), None) = (binding, given) {
            claim.expected = "any (not checked: no --report-data)".to_owned();
        }
        self
    }
}

fn judge_report(
    path: &Path,
    saved: &Saved,
    policy: &MachinePolicy,
    files: &Files,
) -> Result<Verdict, Failure> {
    let policy = policy.snp.as_ref().ok_or_else(|| no_table("snp"))?;
    let bytes = read_file("report", path, files::MAX_FILE_BYTES)?;
    let (report, table) = files::report(&bytes).map_err(|error| not_one("report", path, &error))?;
    let mut files = files.clone();
    if !table.is_empty() {
        // What a host put there may be nothing of use: then there is what was named.
        files.add(&table).ok();
    }
    let shown = report.get(0x50..0x90).and_then(|data| data.try_into().ok());
    let data = saved.report_data.or(shown).unwrap_or([0; 64]);
    let time = saved.at.unwrap_or_else(now);
    let judge = |evidence: &SnpEvidence| snp::verify(evidence, &data, policy, time);
    let verified = best(files.with_report(&report, time).iter().map(judge))
        .map_err(|error| refused(&Refusal::from(error)))?;
    let found = verified.report();
    Ok(Verdict {
        subject: "snp-report",
        line: format!("report of SEV-SNP, launched as {}", found.measurement),
        root: verified.root().to_owned(),
        time,
        claims: verified.claims().to_vec(),
    }
    .without_report_data(saved.report_data))
}

/// The first that is believed, or the refusal that came furthest: certificates of another machine
/// say nothing of this one.
fn best(
    verdicts: impl Iterator<Item = Result<VerifiedReport, SnpError>>,
) -> Result<VerifiedReport, SnpError> {
    let verdict = furthest(verdicts, is_of_another);
    verdict.unwrap_or(Err(SnpError::Certificates { found: 0 }))
}

/// As [`best`], of verdicts of any kind; nothing of none.
fn furthest<T, E>(
    verdicts: impl Iterator<Item = Result<T, E>>,
    is_of_another: impl Fn(&E) -> bool,
) -> Option<Result<T, E>> {
    let mut furthest = None;
    for verdict in verdicts {
        match (verdict, &furthest) {
            (Ok(verified), _) => return Some(Ok(verified)),
            (Err(error), None) => furthest = Some(error),
            (Err(error), Some(before)) if is_of_another(before) && !is_of_another(&error) => {
                furthest = Some(error);
            }
            _ => {}
        }
    }
    furthest.map(Err)
}

fn is_of_another(error: &SnpError) -> bool {
    if let SnpError::Chain(error) = error {
        return !matches!(
            error.fault,
            ChainFault::Expired { .. } | ChainFault::NotYetValid { .. }
        );
    }
    matches!(
        error,
        SnpError::Certificates { .. }
            | SnpError::CertificateProduct { .. }
            | SnpError::Processor { .. }
            | SnpError::KeyKind { .. }
            | SnpError::Chip { .. }
            | SnpError::CertificateTcb { .. }
            | SnpError::Signature
    )
}

fn judge_quote(
    path: &Path,
    saved: &Saved,
    policy: &MachinePolicy,
    files: &Files,
) -> Result<Verdict, Failure> {
    let policy = policy.tdx.as_ref().ok_or_else(|| no_table("tdx"))?;
    let bytes = read_file("quote", path, files::MAX_FILE_BYTES)?;
    let quote = files::quote(&bytes).map_err(|error| not_one("quote", path, &error))?;
    if Quote::parse(&quote).is_err() && is_snp_report(&bytes) {
        let path = path.display();
        let message = format_args!("{path} is a report of SEV-SNP, and no quote of TDX");
        return Err(Failure::misuse(message).hint("give it by --snp-report"));
    }
    let event_log = match &saved.event_log {
        None => Vec::new(),
        Some(path) => {
            let buffer = read_file("event log", path, 4 << 20)?;
            let written = attest::eventlog::EventLog::unpadded(&buffer);
            written
                .map_err(|error| not_one("event log", path, &error))?
                .to_vec()
        }
    };
    let shown = Quote::parse(&quote).map(|quote| quote.report_data);
    let data = saved.report_data.or(shown.ok()).unwrap_or([0; 64]);
    let time = saved.at.unwrap_or_else(now);
    let evidence = TdxEvidence {
        collateral: files.for_quote(&quote, time),
        quote,
        event_log,
    };
    let verified = tdx::verify(&evidence, &data, policy, time)
        .map_err(|error| refused(&Refusal::from(error)))?;
    Ok(Verdict {
        subject: "tdx-quote",
        line: format!("quote of TDX, made as {}", verified.quote().mr_td),
        root: verified.root().to_owned(),
        time,
        claims: verified.claims().to_vec(),
    }
    .without_report_data(saved.report_data))
}

fn is_snp_report(bytes: &[u8]) -> bool {
    files::report(bytes).is_ok_and(|(report, _)| snp::Report::parse(&report).is_ok())
}

/// Everything of use in the files and folders that were named. A folder may hold other files, too.
pub(crate) fn read_files(paths: &[PathBuf]) -> Result<Files, Failure> {
    let mut files = Files::default();
    for path in paths {
        if !path.is_dir() {
            let bytes = read_file("collateral", path, files::MAX_FILE_BYTES)?;
            let added = files.add(&bytes);
            added.map_err(|error| of_no_use(path, error))?;
            continue;
        }
        let unreadable = |error: std::io::Error| {
            let (path, cause) = (path.display(), reason(&error));
            Failure::misuse(format_args!("cannot read the folder {path}: {cause}"))
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            names.push(entry.map_err(unreadable)?.path());
        }
        names.sort();
        names.retain(|name| name.is_file());
        if names.len() > MAX_FILES {
            let (found, path) = (names.len(), path.display());
            let message = format_args!("{found} files in {path}, of a folder at most {MAX_FILES}");
            return Err(Failure::misuse(message).hint(FEWER));
        }
        for name in &names {
            let large = name
                .metadata()
                .is_ok_and(|found| found.len() > files::MAX_FILE_BYTES as u64);
            if !large {
                let bytes = read_file("collateral", name, files::MAX_FILE_BYTES)?;
                match files.add(&bytes) {
                    Ok(()) | Err(files::FileError::Unknown) => {}
                    Err(error) => return Err(of_no_use(name, error)),
                }
            }
        }
    }
    Ok(files)
}

fn of_no_use(path: &Path, error: files::FileError) -> Failure {
    let failure = not_one("collateral", path, &error);
    match error {
        files::FileError::TooMany => failure.hint(FEWER),
        _ => failure,
    }
}

fn machine_policy(peer: &Peer) -> Result<MachinePolicy, Failure> {
    let (path, bytes) = policy_bytes(peer)?;
    MachinePolicy::parse(&bytes).map_err(|error| not_one("policy", path, &error))
}

fn policy_bytes(peer: &Peer) -> Result<(&Path, Vec<u8>), Failure> {
    let path = peer.policy.as_deref().ok_or_else(|| {
        Failure::misuse("no policy: nothing says whom to believe")
            .hint("name one by --policy FILE or CLOISTER_POLICY; there is no default trust")
    })?;
    let bytes = read_file("policy", path, attest::policy::MAX_POLICY_BYTES)?;
    Ok((path, bytes))
}

fn no_table(name: &str) -> Failure {
    Failure::misuse(format_args!("the policy has no table [{name}]"))
        .hint("a platform that no table speaks of is not accepted")
}

fn not_one(what: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    let path = path.display();
    Failure::misuse(format_args!("{path} does not read as {what}: {error}"))
}

fn refused(refusal: &Refusal) -> Failure {
    Failure::refused("refused", refusal)
}
