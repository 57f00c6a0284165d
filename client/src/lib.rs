//! The person's side: ask, chat, verify.
//!
//! ```text
//!  policy, state ─────────┐
//!  URL ─ connect ─▶ evidence ─ attest::verify ─▶ VerifiedPeer ─ accept ─▶ HTTP ─▶ answer
//!                                    │
//!                                    └─▶ Refusal: nothing was sent, exit code 2 to 5
//!  before a request, once the evidence is old: fresh evidence in the session, or the session ends
//! ```
//!
//! Everything that comes from the other side is hostile text until it was escaped, and bounded.
#![forbid(unsafe_code)]
// These panic where the reader is gone or the disk full.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod answer;
mod arguments;
mod chat;
mod connection;
mod endpoint;
mod events;
mod failure;
mod network;
mod reattest;
mod report;
mod saved;
mod state;
mod terminal;

use std::ffi::OsString;

use arguments::{Arguments, Command};
use clap::Parser;
use failure::Failure;

/// Runs the program; gives its exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return misuse(&error),
    };
    let json = arguments.command.peer().json;
    match start(arguments.command) {
        Ok(()) => 0,
        Err(failure) => {
            failure.print(json);
            failure.code()
        }
    }
}

fn start(command: Command) -> Result<(), Failure> {
    // Two threads: the cadence goes on while the terminal blocks.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::misuse(format_args!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Ask(ask) => chat::ask(ask).await,
            Command::Chat(talk) => chat::chat(talk).await,
            Command::Verify(arguments) if arguments.saved.is_given() => {
                saved::verify(&arguments.saved, &arguments.peer)
            }
            Command::Verify(arguments) => connection::verify(*arguments).await,
        }
    });
    runtime.shutdown_background();
    outcome
}

/// clap writes usage errors well; only its exit code is not ours.
fn misuse(error: &clap::Error) -> u8 {
    // There is nowhere to complain if standard error is closed.
    drop(error.print());
    u8::from(error.use_stderr())
}
