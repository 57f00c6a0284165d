//! Makes vectors of texts: for comparisons with other engines.
//!
//! ```text
//! embed MODEL_DIR < texts   a JSON list of texts → [{"ids": […], "vector": […]}, …]
//! ```

use std::error::Error;
use std::path::Path;

use inference::{Engine, EngineLimits};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: embed MODEL_DIR")?;
    let limits = EngineLimits {
        context_tokens: 256,
        ..EngineLimits::default()
    };
    let engine = Engine::open(Path::new(&folder), limits)?;
    let texts: Vec<String> = serde_json::from_reader(std::io::stdin())?;
    let mut answers = Vec::new();
    for text in texts {
        let prompt = engine.encode_text(&text)?;
        let ids = prompt.tokens().to_vec();
        let vector = engine.embed(prompt, None, None)?.blocking_wait();
        let Some(Ok(vector)) = vector else {
            return Err("the engine stopped".into());
        };
        answers.push(serde_json::json!({"ids": ids, "vector": vector}));
    }
    println!("{}", serde_json::Value::from(answers));
    Ok(())
}
