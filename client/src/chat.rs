//! `cloister ask` and `cloister chat`.

use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin, stdout};

use attest::VerifiedPeer;
use serde_json::json;

use crate::answer::{self, Answer, Message};
use crate::arguments::{Ask, Chat, Prompt, Sampling};
use crate::connection::{Connection, Expected};
use crate::failure::Failure;
use crate::report;
use crate::terminal::{complain, escape};

const MAX_PROMPT_BYTES: u64 = 16 << 20;

pub(crate) async fn ask(ask: Ask) -> Result<(), Failure> {
    let expected = Expected::read(ask.peer)?;
    let prompt = read_prompt(ask.prompt)?;
    let mut connection = expected.open().await?;
    if !expected.arguments.json {
        introduce(connection.peer(), expected.arguments.explain);
    }
    let messages = conversation(&ask.sampling, prompt);
    if !expected.arguments.json {
        let answer = stream(&mut connection, &messages, &ask.sampling).await?;
        connection.close().await;
        note(&answer);
        return Ok(());
    }
    let answer = answer::ask(&mut connection, &messages, &ask.sampling, |_| true).await?;
    let mut value = report::json(&expected.arguments.url, connection.peer());
    value["answer"] = json!({
        "text": answer.text,
        "finish_reason": answer.finish_reason,
    });
    let printed = report::print_json(&value);
    connection.close().await;
    printed
}

pub(crate) async fn chat(chat: Chat) -> Result<(), Failure> {
    if chat.peer.json {
        return Err(Failure::misuse("chat is for people: it writes no JSON").hint("use ask --json"));
    }
    let expected = Expected::read(chat.peer)?;
    let mut connection = expected.open().await?;
    introduce(connection.peer(), expected.arguments.explain);
    let interactive = stdin().is_terminal();
    if interactive {
        complain("Ctrl-D ends.");
    }
    let mut messages: Vec<Message> = chat.sampling.system.iter().map(Message::system).collect();
    while let Some(line) = read_line(interactive).await? {
        if line.trim().is_empty() {
            continue;
        }
        if connection.is_closed() {
            // The session reached its age, or the server restarted: verify anew, send nothing else.
            complain("The connection ended. Verifying again.");
            connection = expected.open().await?;
            introduce(connection.peer(), false);
        }
        messages.push(Message::user(line.trim_end().to_owned()));
        let answer = stream(&mut connection, &messages, &chat.sampling).await?;
        note(&answer);
        messages.push(Message::assistant(answer.text));
    }
    connection.close().await;
    Ok(())
}

fn conversation(sampling: &Sampling, prompt: String) -> Vec<Message> {
    let system = sampling.system.iter().map(Message::system);
    system.chain([Message::user(prompt)]).collect()
}

/// What was verified, before anything else is seen.
fn introduce(peer: &VerifiedPeer, explain: bool) {
    if explain {
        complain(&report::explain(peer));
    }
    for fact in report::facts(peer) {
        complain(&fact);
    }
}

/// Asks, and writes the answer to standard output as it comes.
async fn stream(
    connection: &mut Connection,
    messages: &[Message],
    sampling: &Sampling,
) -> Result<Answer, Failure> {
    let terminal = stdout().is_terminal();
    let mut last = None;
    let outcome = answer::ask(connection, messages, sampling, |text| {
        last = text.chars().next_back().or(last);
        write(text, terminal)
    })
    .await;
    // The terminal is left at the start of a line, also in mid-answer.
    if last.is_some_and(|c| c != '\n') {
        write("\n", terminal);
    }
    outcome
}

/// Says whether standard output still takes text. A pipe gets the text as it is.
fn write(text: &str, terminal: bool) -> bool {
    let mut out = stdout().lock();
    let written = if terminal {
        out.write_all(escape(text).as_bytes())
    } else {
        out.write_all(text.as_bytes())
    };
    written.and_then(|()| out.flush()).is_ok()
}

fn note(answer: &Answer) {
    if answer.finish_reason.as_deref() == Some("length") {
        complain("(ended at the limit of tokens)");
    }
}

fn read_prompt(prompt: Prompt) -> Result<String, Failure> {
    let mut text = prompt.0;
    if text == "-" {
        text.clear();
        stdin()
            .lock()
            .take(MAX_PROMPT_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(|error| {
                let kind = error.kind();
                Failure::misuse(format_args!("cannot read the prompt: {kind}"))
                    .hint("the prompt must be text in UTF-8")
            })?;
        if text.len() as u64 > MAX_PROMPT_BYTES {
            return Err(Failure::misuse("the prompt is longer than 16 MiB"));
        }
    }
    if text.trim().is_empty() {
        return Err(Failure::misuse("the prompt is empty"));
    }
    Ok(text)
}

/// The next line of a person, or `None` at the end.
async fn read_line(interactive: bool) -> Result<Option<String>, Failure> {
    if interactive {
        // A prompt that does not show is no reason to stop.
        let mut out = stderr();
        drop(out.write_all(b"\n> ").and_then(|()| out.flush()));
    }
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        stdin()
            .lock()
            .take(MAX_PROMPT_BYTES)
            .read_line(&mut line)
            .map(|count| (count > 0).then_some(line))
    });
    match read.await {
        Ok(Ok(line)) => Ok(line),
        Ok(Err(error)) => {
            let kind = error.kind();
            Err(Failure::misuse(format_args!("cannot read: {kind}")))
        }
        Err(_) => Ok(None),
    }
}
