//! One question, one answer.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use inference::{ChatMessage, Engine, EngineLimits, Model, Request, Role, Sampling};

use super::{Arguments, UsageError};

const MAX_CONTEXT: u32 = 4096;

pub(super) fn run(model: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let prompt = arguments.prompt.clone();
    let prompt = prompt.ok_or(UsageError::Missing("--prompt TEXT"))?;
    let context_tokens = Model::open(model, arguments.threads)?.context_tokens();
    let limits = EngineLimits {
        context_tokens: context_tokens.min(MAX_CONTEXT),
        max_new_tokens: context_tokens.min(MAX_CONTEXT),
        kv_bytes: 4 << 30,
        threads: arguments.threads,
        ..EngineLimits::default()
    };
    let (device, cuda) = (arguments.device, &arguments.cuda);
    let (engine, chosen) = Engine::open_on(model, limits.clone(), device, cuda)?;
    eprintln!("{}: {chosen}", super::NAME);
    let prompt = match arguments.raw {
        true => engine.encode_text(&prompt)?,
        false => engine.render_chat(&[ChatMessage {
            role: Role::User,
            content: prompt,
        }])?,
    };
    let room = limits
        .context_tokens
        .saturating_sub(prompt.len() as u32)
        .max(1);
    let request = Request {
        sampling: Sampling {
            temperature: arguments.temperature,
            seed: arguments.seed,
            ..Sampling::GREEDY
        },
        max_new_tokens: arguments.max_tokens.unwrap_or(256).min(room),
        ..Request::new(prompt)
    };
    let mut generation = engine.submit(request)?;
    let mut out = std::io::stdout();
    while let Some(chunk) = generation.blocking_next() {
        // What a model says may hold control characters; a terminal shows none of them.
        let shown = |c: &char| !c.is_control() || *c == '\n';
        // What it thinks is no part of the answer.
        eprint!(
            "{}",
            chunk.reasoning.chars().filter(shown).collect::<String>()
        );
        write!(
            out,
            "{}",
            chunk.text.chars().filter(shown).collect::<String>()
        )?;
        out.flush()?;
    }
    writeln!(out)?;
    engine.fault().map_or(Ok(()), |fault| Err(fault.into()))
}
