//! Asks a model one question, without a machine around it: for those who make models.
//!
//! ```text
//! ask MODEL_DIR "What is a launch digest?"
//! ```

use std::error::Error;
use std::io::Write;
use std::path::Path;

use inference::{ChatMessage, Engine, EngineLimits, Model, Request, Role};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, question] = arguments.as_slice() else {
        return Err("usage: ask MODEL_DIR QUESTION".into());
    };
    let folder = Path::new(folder);
    let context_tokens = Model::open(folder, None)?.context_tokens().min(4096);
    let engine = Engine::open(
        folder,
        EngineLimits {
            context_tokens,
            ..Default::default()
        },
    )?;
    let prompt = engine.render_chat(&[ChatMessage {
        role: Role::User,
        content: question.clone(),
    }])?;
    let mut generation = engine.submit(Request {
        max_new_tokens: (context_tokens / 2).min(512),
        ..Request::new(prompt)
    })?;
    let mut out = std::io::stdout();
    while let Some(chunk) = generation.blocking_next() {
        // What a model says may hold control characters; a terminal shows none of them.
        let shown = |c: &char| !c.is_control() || *c == '\n';
        write!(
            out,
            "{}",
            chunk.text.chars().filter(shown).collect::<String>()
        )?;
        out.flush()?;
    }
    writeln!(out, "\n{:?}", generation.usage())?;
    Ok(())
}
