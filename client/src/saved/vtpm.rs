//! Quotes of TPMs, alone or of a VM in Azure.

use std::path::Path;

use attest::Refusal;
use attest::azure::{self, AzureError, AzureHardware, AzureKind, HclReport};
use attest::files::{self, Files, QuoteFile};
use attest::policy::MachinePolicy;
use attest::tdx::TdxEvidence;
use attest::tpm::alone::{self, QuoteAlone};
use attest::tpm::vtpm::VtpmQuote;

use super::{Saved, Verdict, furthest, is_of_another, no_table, not_one, refused};
use crate::connection::read_file;
use crate::failure::Failure;
use crate::reattest::now;

/// A quote alone.
pub(super) fn judge_quote(
    path: &Path,
    saved: &Saved,
    policy: &MachinePolicy,
    files: &Files,
) -> Result<Verdict, Failure> {
    let policy = policy.tpm_quote.as_ref().ok_or_else(|| {
        no_table("tpm-quote").hint("name the keys and roots that you believe in such a table")
    })?;
    let quote = whole(read_quote(path)?, saved)?;
    let event_log = event_log(saved)?;
    let time = saved.at.unwrap_or_else(now);
    let asked = saved.qualifying_data.as_ref().map(|data| data.0.as_slice());
    let mut chains = files.with_quote();
    chains.push(Vec::new());
    let judge = |certificates: Vec<Vec<u8>>| {
        let evidence = QuoteAlone {
            quote: quote.clone(),
            certificates,
            event_log: event_log.clone(),
        };
        alone::verify(&evidence, asked, policy, time)
    };
    let nobody = |error: &alone::TpmQuoteError| matches!(error, alone::TpmQuoteError::Key { .. });
    let verified = furthest(chains.into_iter().map(judge), nobody)
        .unwrap_or(Err(alone::TpmQuoteError::Key { named: 0 }))
        .map_err(|error| refused(&Refusal::from(error)))?;
    Ok(Verdict {
        subject: "tpm-quote",
        line: format!(
            "quote of a TPM over {} registers",
            verified.registers().len()
        ),
        root: verified.root().to_owned(),
        time,
        claims: verified.claims().to_vec(),
    })
}

/// A VM in Azure, with as much of it as there is.
pub(super) fn judge_vm(
    path: &Path,
    saved: &Saved,
    policy: &MachinePolicy,
    files: &Files,
) -> Result<Verdict, Failure> {
    let own = policy.azure.as_ref().ok_or_else(|| no_table("azure"))?;
    let bytes = read_file("report", path, files::MAX_FILE_BYTES)?;
    let file = files::azure(&bytes).map_err(|error| not_one("evidence of Azure", path, &error))?;
    let report = HclReport::parse(&file.hcl_report)
        .map_err(|error| not_one("evidence of Azure", path, &error))?;
    let mut files = files.clone();
    if let Some(vcek) = &file.vcek {
        let added = files.add(vcek);
        added.map_err(|error| not_one("evidence of Azure", path, &error))?;
    }
    let quote = match (&saved.tpm_quote, file.quote) {
        (Some(path), _) => Some(whole(read_quote(path)?, saved)?),
        (None, Some(quote)) => Some(whole(quote, saved)?),
        (None, None) => None,
    };
    applies(saved, report.kind, quote.is_some())?;
    let time = saved.at.unwrap_or_else(now);
    let hardware = match report.kind {
        AzureKind::Snp => {
            let given = files.with_report(report.hardware, time).into_iter();
            given.map(AzureHardware::Snp).collect()
        }
        AzureKind::Tdx => vec![domain(path, file.td_quote, saved, &files)?],
    };
    let event_log = event_log(saved)?;
    let asked = saved.qualifying_data.as_ref().map(|data| data.0.as_slice());
    let policies = (own, (policy.snp.as_ref(), policy.tdx.as_ref()));
    let judge = |hardware: &AzureHardware| {
        let quote = quote.as_ref().map(|quote| (quote, asked));
        azure::verify_alone(
            &file.hcl_report,
            hardware,
            quote,
            &event_log,
            policies,
            time,
        )
    };
    let other =
        |error: &AzureError| matches!(error, AzureError::Snp(error) if is_of_another(error));
    let verified = furthest(hardware.iter().map(judge), other)
        .unwrap_or(Err(AzureError::OtherHardware))
        .map_err(|error| refused(&Refusal::from(error)))?;
    let kind = match report.kind {
        AzureKind::Snp => "SEV-SNP",
        AzureKind::Tdx => "TDX",
    };
    Ok(Verdict {
        subject: "azure-vm",
        line: format!("VM in Azure on {kind}, {}", report.vm.vm_id),
        root: verified.root().to_owned(),
        time,
        claims: verified.claims().to_vec(),
    })
}

/// Refuses what is named and that this VM has nothing for.
fn applies(saved: &Saved, kind: AzureKind, has_quote: bool) -> Result<(), Failure> {
    if kind == AzureKind::Snp && saved.tdx_quote.is_some() {
        return Err(Failure::misuse("--tdx-quote: the VM is on SEV-SNP"));
    }
    let of_a_quote = [
        ("--qualifying-data", saved.qualifying_data.is_some()),
        ("--event-log", saved.event_log.is_some()),
    ];
    match of_a_quote.iter().find(|(_, given)| *given && !has_quote) {
        None => Ok(()),
        Some((name, _)) => {
            let message = format_args!("{name}: there is no quote of the virtual TPM");
            Err(Failure::misuse(message).hint("give one by --tpm-quote"))
        }
    }
}

/// A quote of TDX with its collateral: of a file of its own, or that in the evidence.
fn domain(
    path: &Path,
    shown: Option<Vec<u8>>,
    saved: &Saved,
    files: &Files,
) -> Result<AzureHardware, Failure> {
    let (path, bytes) = match (&saved.tdx_quote, shown) {
        (Some(path), _) => {
            let bytes = read_file("quote", path, files::MAX_FILE_BYTES)?;
            (path.as_path(), bytes)
        }
        (None, Some(bytes)) => (path, bytes),
        (None, None) => {
            return Err(
                Failure::misuse("the VM is on TDX, and there is no quote of it")
                    .hint("give the one that Azure made for its report by --tdx-quote"),
            );
        }
    };
    let quote = files::quote(&bytes).map_err(|error| not_one("quote", path, &error))?;
    Ok(AzureHardware::Tdx(TdxEvidence {
        collateral: files.for_quote(&quote, saved.at.unwrap_or_else(now)),
        quote,
        event_log: Vec::new(),
    }))
}

fn read_quote(path: &Path) -> Result<QuoteFile, Failure> {
    let bytes = read_file("quote", path, files::MAX_FILE_BYTES)?;
    files::tpm_quote(&bytes).map_err(|error| not_one("quote", path, &error))
}

/// The quote with what files of their own add to it.
fn whole(file: QuoteFile, saved: &Saved) -> Result<VtpmQuote, Failure> {
    let signature = match (&saved.tpm_signature, file.signature) {
        (Some(path), _) => {
            let bytes = read_file("signature", path, files::MAX_FILE_BYTES)?;
            files::tpm_signature(&bytes)
        }
        (None, Some(signature)) => signature,
        (None, None) => {
            return Err(Failure::misuse("the quote comes without its signature")
                .hint("give what tpm2_quote -s wrote by --tpm-signature"));
        }
    };
    let registers = match (&saved.tpm_registers, file.registers) {
        (Some(path), _) => {
            let bytes = read_file("registers", path, files::MAX_FILE_BYTES)?;
            let read = files::tpm_registers(&file.attest, &bytes);
            read.map_err(|error| not_one("registers", path, &error))?
        }
        (None, Some(registers)) => registers,
        (None, None) => {
            return Err(
                Failure::misuse("the quote comes without the registers' values")
                    .hint("give what tpm2_quote -o FILE -F values wrote by --tpm-registers"),
            );
        }
    };
    Ok(VtpmQuote {
        attest: file.attest,
        signature,
        registers,
    })
}

/// The firmware's log; nothing where none is named.
fn event_log(saved: &Saved) -> Result<Vec<u8>, Failure> {
    match &saved.event_log {
        None => Ok(Vec::new()),
        Some(path) => {
            let log = read_file("event log", path, attest::eventlog::MAX_EVENT_LOG_BYTES)?;
            if log.is_empty() {
                let path = path.display();
                return Err(Failure::misuse(format_args!(
                    "the event log {path} is empty"
                )));
            }
            Ok(log)
        }
    }
}
