//! `cloister-publish`: the only program of this house that signs and logs releases with Sigstore.

mod arguments;
mod run;

use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

use arguments::Arguments;
use clap::Parser;
use run::{Failure, Report};
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = u8::from(error.use_stderr());
            // A closed pipe is no reason to fail twice.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run::run(&arguments.command)),
        Err(error) => Err(Failure::input("cannot start", error, "")),
    };
    match result {
        Ok(report) => match print(&report, arguments.json) {
            Ok(()) => ExitCode::from(report.code),
            Err(error) => {
                eprintln!("error: cannot write the report: {error}");
                ExitCode::from(run::MISUSE)
            }
        },
        Err(failure) => {
            complain(&failure, arguments.json);
            ExitCode::from(failure.code)
        }
    }
}

fn print(report: &Report, as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    match as_json {
        true => writeln!(out, "{}", sorted(report.json.clone())),
        false => {
            let mut lines = report.text.lines();
            lines.try_for_each(|line| writeln!(out, "{}", printable(line)))
        }
    }
}

/// In one order, whichever crates are built together: some have serde_json keep another.
fn sorted(mut value: Value) -> Value {
    value.sort_all_objects();
    value
}

fn complain(failure: &Failure, as_json: bool) {
    let cause = chain(&failure.what, failure.error.as_ref());
    let hint = failure.hint;
    if as_json {
        eprintln!(
            "{}",
            sorted(json!({ "error": cause, "hint": hint, "exit_code": failure.code }))
        );
        return;
    }
    eprintln!("error: {}", printable(&cause));
    if !hint.is_empty() {
        eprintln!(" hint: {hint}");
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(what: &str, error: &(dyn Error + 'static)) -> String {
    let mut text = what.to_owned();
    let mut next = Some(error);
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.ends_with(&said) {
            let colon = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{colon}{said}");
        }
        next = cause.source();
    }
    text
}

/// What a service or a file said, without what a terminal would obey.
fn printable(text: &str) -> String {
    let turns = |c| matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}');
    let hidden = |c| turns(c) || matches!(c, '\u{2066}'..='\u{2069}');
    text.chars().fold(String::new(), |mut out, c| {
        if c.is_control() || hidden(c) {
            out.extend(c.escape_unicode());
        } else {
            out.push(c);
        }
        out
    })
}
