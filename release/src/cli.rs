//! The command line: arguments in, a report or a failure with its next step out.

mod arguments;
mod audit;
mod commands;
mod dump_acpi;
mod explain;
mod failure;
mod log;
mod measure;
mod monitor;
mod report;
mod sigstore;
mod state;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use arguments::{Arguments, Command};
use failure::Failure;
use report::Report;

/// Runs the program and says how it went.
pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            // A closed pipe is no reason to fail twice.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = execute(&arguments.command, arguments.json);
    let written = match &result {
        Ok(report) if arguments.json => writeln!(std::io::stdout(), "{}", report.json()),
        Ok(report) => write!(std::io::stdout(), "{report}"),
        Err(failure) if arguments.json => writeln!(std::io::stderr(), "{}", failure.json()),
        Err(failure) => write!(std::io::stderr(), "{failure}"),
    };
    match (result, written) {
        (Ok(report), Ok(())) => ExitCode::from(report.code),
        (Ok(_), Err(error)) => {
            eprintln!("error: cannot write the report: {error}");
            ExitCode::from(failure::MISUSE)
        }
        (Err(failure), _) => ExitCode::from(failure.code()),
    }
}

fn execute(command: &Command, json: bool) -> Result<Report, Failure> {
    match command {
        Command::Assemble(arguments) => commands::assemble(arguments),
        Command::Attach(arguments) => commands::attach(arguments),
        Command::DumpAcpi(arguments) => dump_acpi::run(arguments),
        Command::ExplainMismatch(arguments) => explain::run(arguments),
        Command::Measure(arguments) => measure::run(arguments),
        Command::Keygen(arguments) => commands::keygen(arguments),
        Command::PublicKey(arguments) => commands::public_key(arguments),
        Command::Statement(arguments) => state::statement(arguments),
        Command::Status(arguments) => state::status(arguments),
        Command::AttestRebuild(arguments) => state::rebuild(arguments),
        Command::Sign(arguments) => commands::sign(arguments, json),
        Command::Log(command) => log::run(command, json),
        Command::Monitor(arguments) => monitor::run(arguments, json),
        Command::Verify(arguments) => commands::verify(arguments),
        Command::Inputs(arguments) => audit::inputs(arguments),
        Command::Bill(arguments) => audit::bill(arguments),
        Command::Owns(arguments) => audit::owns(arguments),
        Command::Compare(arguments) => audit::compare(arguments),
        Command::Reproduce(arguments) => audit::reproduce(arguments),
        Command::Sigstore(command) => sigstore::run(command, json),
        Command::Conformance(command) => sigstore::conformance(command),
    }
}
