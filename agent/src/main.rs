//! `cloister-agent`: see `--help`.

use std::error::Error;
use std::process::ExitCode;

use agent::cause::Cause;
use agent::journal::Journal;
use agent::options::{self, Command};
use agent::{hardening, prepare, serve};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {}", agent::NAME, Cause(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let command = options::parse(std::env::args_os().skip(1))?;
    let journal = Journal::open();
    journal.report_panics();
    hardening::forbid_dumps()?;
    match command {
        Command::Prepare(places) => prepare::prepare(&places, &journal)?,
        Command::Serve(places) => serve::serve(&places, &journal)?,
        Command::Check(places) => {
            serve::check(&places)?;
            println!("this model can be served");
        }
        Command::Help => print!("{}", options::HELP),
        Command::Version => println!("{} {}", agent::NAME, env!("CARGO_PKG_VERSION")),
    }
    Ok(())
}
