//! `cloister`: talk to a model that nobody else can overhear, after checking that it is so.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(client::run(std::env::args_os()))
}
