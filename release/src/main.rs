//! `cloister-release`: assemble, measure, sign, log and verify releases.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
