//! How long verifying takes on one core, beside what as many signatures take in openssl.
//!
//! `make bench` runs it. openssl's time is that of its signature checks alone, by `openssl speed`
//! in the same run; parsing, chains, revocation and policy are in ours and not in it. Evidence is
//! signed at run time and has as many signatures as real evidence. Times are those that a processor
//! spent, so that a busy machine tells nearly the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a program that measures may stop"
)]

use std::fs;
use std::process::Command;
use std::time::Duration;

use attest::tpm::{chain, quote};
use attest::{Platform, ReportData, azure, gpu, snp, tdx};
use signer::amd::Machine;
use signer::azure::Vm;
use signer::intel::Domain;
use signer::nvidia::Rack;
use signer::{NOW, World};

/// How often each is done.
const ROUNDS: u32 = 200;

/// What this thread has had of a processor so far.
fn spent() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says");
    let nanoseconds = text.split_whitespace().next().expect("three numbers");
    Duration::from_nanos(nanoseconds.parse().expect("a number"))
}

/// Milliseconds of a round, on average: the kernel counts in steps of some milliseconds.
fn measure(mut verify: impl FnMut() -> bool) -> f64 {
    let start = spent();
    for _ in 0..ROUNDS {
        assert!(verify(), "sound evidence");
    }
    (spent() - start).as_secs_f64() * 1000.0 / f64::from(ROUNDS)
}

/// Milliseconds of one check in openssl: RSA of 4,096 bits, ECDSA with P-256 and with P-384.
fn openssl() -> Option<[f64; 3]> {
    let speed = |name: &str, mark: &str| {
        let mut command = Command::new("openssl");
        command.args(["speed", "-seconds", "1", name]);
        let output = command.output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let line = text.lines().rfind(|line| line.contains(mark))?;
        let each_second: f64 = line.split_whitespace().last()?.parse().ok()?;
        Some(1000.0 / each_second)
    };
    Some([
        speed("rsa4096", "4096 bits")?,
        speed("ecdsap256", "nistp256")?,
        speed("ecdsap384", "nistp384")?,
    ])
}

/// What, milliseconds, and how many checks by RSA, P-256 and P-384 it takes.
fn measured() -> Vec<(&'static str, f64, [u32; 3])> {
    let (machine, domain) = (Machine::new(), Domain::new());
    let (snp_policy, tdx_policy) = (machine.policy(), domain.policy());
    let (report, domain) = (machine.evidence(), domain.evidence());
    let (world, nonce) = (World::new(), [0; 32]);
    let binding = world.nonce_binding(nonce);
    let Platform::Tpm(tpm) = world.evidence(&binding).platform else {
        unreachable!("a world has a TPM")
    };
    let roots = world.policy().tpm.expect("a table").roots;
    let data = ReportData::compute(&binding).qualifying_data();
    let (rack, vm) = (Rack::new(), Vm::new());
    let (gpu_policy, azure_policy) = (rack.policy(), vm.policy());
    let (gpus, of_vm, counts) = (rack.evidence(&nonce), vm.evidence(&nonce), rack.counts());
    let hardware = (Some(&snp_policy), None);
    vec![
        (
            "SEV-SNP: report, 2 certificates, list",
            measure(|| snp::verify(&report, &[0; 64], &snp_policy, NOW).is_ok()),
            [3, 0, 1],
        ),
        (
            "TDX: quote, 3 certificates, 2 lists, 2 documents, log",
            measure(|| tdx::verify(&domain, &[0; 64], &tdx_policy, NOW).is_ok()),
            [0, 9, 0],
        ),
        (
            "TPM: quote, certificate",
            measure(|| {
                let certified = chain::verify(&tpm.certificates, &roots, NOW);
                certified.is_ok_and(|key| quote::verify(&tpm, &key.key, &data).is_ok())
            }),
            [0, 0, 2],
        ),
        (
            "GPU: report, 4 certificates, 2 manifests with 2 each, 4 lists",
            measure(|| gpu::verify(&gpus, &nonce, counts, &gpu_policy, NOW).is_ok()),
            [0, 0, 15],
        ),
        (
            "Azure SEV-SNP: the same as SEV-SNP, quote of the virtual TPM, log",
            measure(|| azure::verify(&of_vm, &nonce, &azure_policy, hardware, NOW).is_ok()),
            [4, 0, 1],
        ),
    ]
}

fn main() {
    let own = measured();
    let theirs = openssl();
    for (what, milliseconds, checks) in own {
        let ratio = theirs.map(|each| {
            let total: f64 = each
                .iter()
                .zip(checks)
                .map(|(one, n)| one * f64::from(n))
                .sum();
            format!(
                "openssl's signatures {total:.2} ms, ratio {:.2}",
                milliseconds / total
            )
        });
        let ratio = ratio.unwrap_or_else(|| "no openssl here to compare with".to_owned());
        println!("{milliseconds:7.2} ms  {what}; {ratio}");
    }
}
