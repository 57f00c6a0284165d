//! Continues token ids greedily, without a tokenizer: for comparisons with other engines.
//!
//! ```text
//! greedy MODEL_DIR NEW_TOKENS 1,2,3 [--logits]   → {"tokens": […], "logits": […], …}
//! ```
//!
//! With `--logits`, `logits` holds the distribution after every token of the prompt.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use inference::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, new_tokens, prompt, logits) = match arguments.as_slice() {
        [model, new, prompt] => (model, new, prompt, false),
        [model, new, prompt, flag] if flag == "--logits" => (model, new, prompt, true),
        _ => return Err("usage: greedy MODEL_DIR NEW_TOKENS 1,2,3 [--logits]".into()),
    };
    let new_tokens: usize = new_tokens.parse()?;
    let prompt = prompt
        .split(',')
        .map(str::parse)
        .collect::<Result<Vec<u32>, _>>()?;

    let started = Instant::now();
    let model = Model::open(Path::new(model), None)?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let distributions = match logits {
        true => model.session(u32::MAX).score(&prompt)?.to_vec(),
        false => Vec::new(),
    };

    let mut session = model.session((prompt.len() + new_tokens) as u32);
    let started = Instant::now();
    let mut next = most_likely(session.read(&prompt)?);
    let prefill_s = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut tokens = vec![next];
    while tokens.len() < new_tokens {
        next = most_likely(session.read(&[next])?);
        tokens.push(next);
    }
    let decode_s = started.elapsed().as_secs_f64();

    let answer = serde_json::json!({
        "tokens": tokens,
        "logits": distributions,
        "parameters": model.parameters(),
        "load_ms": load_ms,
        "prefill_tokens_per_s": prompt.len() as f64 / prefill_s,
        "decode_tokens_per_s": (tokens.len() - 1) as f64 / decode_s,
    });
    println!("{answer}");
    Ok(())
}

fn most_likely(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}
