//! What a model expects after each token of a prompt.

use std::error::Error;
use std::path::Path;

use inference::Model;
use serde_json::{Value, json};

use super::{Arguments, UsageError};

/// Likeliest tokens of each position.
const TOP: usize = 5;

pub(super) fn run(model: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    if arguments.tokens.is_empty() {
        return Err(UsageError::Missing("--tokens 1,2,3").into());
    }
    let model = Model::open(model, arguments.threads)?;
    let vocabulary = model.vocabulary() as usize;
    let mut session = model.session(arguments.tokens.len() as u32);
    let logits = session.score(&arguments.tokens)?;
    let positions = logits.chunks_exact(vocabulary).map(likeliest);
    if arguments.json {
        let positions: Vec<Value> = positions
            .map(|top| {
                let top = top
                    .iter()
                    .map(|(token, logprob)| json!({"token": token, "logprob": logprob}));
                json!({"top": top.collect::<Vec<_>>()})
            })
            .collect();
        println!("{}", json!({"positions": positions}));
        return Ok(());
    }
    for (position, top) in positions.enumerate() {
        let shown = top
            .iter()
            .map(|(token, logprob)| format!("{token} {logprob:.4}"));
        println!("{position}: {}", shown.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}

/// The likeliest tokens, the first of them first, and the logarithms of their probabilities.
fn likeliest(logits: &[f32]) -> Vec<(usize, f64)> {
    let top = logits
        .iter()
        .fold(f32::NEG_INFINITY, |top, logit| top.max(*logit));
    let weights = logits.iter().map(|logit| f64::from(logit - top).exp());
    let total = weights.sum::<f64>().ln() + f64::from(top);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let first = order.into_iter().take(TOP);
    first
        .map(|token| (token, f64::from(logits[token]) - total))
        .collect()
}
