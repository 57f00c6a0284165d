//! Which options speak of what is judged. One that does not would be dropped in silence, and what
//! it demands would pass for checked.

use super::Saved;
use crate::arguments::Peer;
use crate::failure::Failure;

/// What is judged, and the options that enter; those of every kind stand in none.
const KINDS: &[(&str, &[&str])] = &[
    ("--capsule", &["--release"]),
    ("--evidence", &["--nonce", "--release"]),
    ("--snp-report", &["--report-data"]),
    ("--tdx-quote", &["--report-data", "--event-log"]),
    (
        "--tpm-quote",
        &[
            "--tpm-signature",
            "--tpm-registers",
            "--qualifying-data",
            "--event-log",
        ],
    ),
    (
        "--azure",
        &[
            "--tdx-quote",
            "--tpm-quote",
            "--tpm-signature",
            "--tpm-registers",
            "--qualifying-data",
            "--event-log",
        ],
    ),
    ("--gpu-evidence", &["--nonce"]),
];

/// Refuses what is named and would not enter: another piece of evidence, or an option.
pub(super) fn check(saved: &Saved, peer: &Peer) -> Result<(), Failure> {
    let named: Vec<&str> = given(saved, peer)
        .into_iter()
        .filter_map(|(name, is_given)| is_given.then_some(name))
        .collect();
    let is_named = |name: &str| named.contains(&name);
    // A VM in Azure comes with quotes.
    let azure = KINDS.iter().find(|(kind, _)| *kind == "--azure");
    let kind = azure
        .filter(|(kind, _)| is_named(kind))
        .or_else(|| KINDS.iter().find(|(kind, _)| is_named(kind)));
    let Some((kind, uses)) = kind else {
        return Ok(());
    };
    let foreign = |name: &&&str| *name != kind && !uses.contains(*name);
    match named.iter().find(foreign) {
        None => Ok(()),
        Some(name) => {
            let failure = Failure::misuse(format_args!("{name} is not used with {kind}"));
            Err(match KINDS.iter().any(|(other, _)| other == name) {
                true => failure.hint("verify one piece of evidence after the other"),
                false if uses.is_empty() => failure,
                false => failure.hint(format_args!("with {kind} go {}", uses.join(", "))),
            })
        }
    }
}

/// Every option that not all kinds use, and whether it is given.
fn given(saved: &Saved, peer: &Peer) -> [(&'static str, bool); 16] {
    [
        ("--capsule", saved.capsule.is_some()),
        ("--evidence", saved.evidence.is_some()),
        ("--snp-report", saved.snp_report.is_some()),
        ("--tdx-quote", saved.tdx_quote.is_some()),
        ("--tpm-quote", saved.tpm_quote.is_some()),
        ("--azure", saved.azure.is_some()),
        ("--gpu-evidence", !saved.gpu_evidence.is_empty()),
        ("--nonce", saved.nonce.is_some()),
        ("--report-data", saved.report_data.is_some()),
        ("--qualifying-data", saved.qualifying_data.is_some()),
        ("--event-log", saved.event_log.is_some()),
        ("--tpm-signature", saved.tpm_signature.is_some()),
        ("--tpm-registers", saved.tpm_registers.is_some()),
        ("--release", peer.release.is_some()),
        ("--save", saved.save.is_some()),
        ("--state", peer.state.is_some()),
    ]
}
