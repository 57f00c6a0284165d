//! What the scheduler tells the device, and what becomes of the answer.

use std::collections::BTreeMap;

use kernels::SequenceStep;
use kernels::launch::{Choice, Entry, Record};
use zeroize::Zeroizing;

use super::blocks_of;
use crate::backend::{Draw, Drawn, Reading, Taken};

/// One step.
pub(super) struct Order {
    pub(super) sequences: Vec<Sequence>,
    /// Blocks to zero before anything is written.
    pub(super) freed: Vec<u32>,
    /// Nothing is to be done for a while: no content stays where nobody needs it.
    pub(super) rests: bool,
}

/// New tokens of one sequence.
pub(super) struct Sequence {
    tokens: Zeroizing<Vec<u32>>,
    /// Position of the first of them.
    start: usize,
    prompt_tokens: usize,
    blocks: Vec<u32>,
    pub(super) chosen: Option<Chosen>,
}

/// How its next token is chosen.
pub(super) struct Chosen {
    pub(super) choice: Choice,
    pub(super) entries: Vec<Entry>,
    pub(super) logprobs: Option<u32>,
}

impl Sequence {
    pub(super) fn of(reading: &Reading<'_>) -> Self {
        let part = &reading.part;
        Self {
            tokens: Zeroizing::new(part.tokens.to_vec()),
            start: part.start,
            prompt_tokens: reading.prompt_tokens,
            // A device's cache has one group.
            blocks: part.blocks.first().cloned().unwrap_or_default(),
            chosen: reading.draw.as_ref().map(Chosen::of),
        }
    }

    /// The first tokens, of the prompt: these are read together. What was generated is read token
    /// by token, as it was the first time.
    fn of_prompt(&self) -> usize {
        let left = self.prompt_tokens.saturating_sub(self.start);
        left.min(self.tokens.len())
    }

    /// `count` tokens from place `first` on.
    fn step(&self, first: usize, count: usize) -> SequenceStep {
        let length = self.start + first + count;
        let blocks = self.blocks.iter().take(blocks_of(length));
        SequenceStep {
            new_tokens: count,
            length,
            blocks: blocks.copied().collect(),
        }
    }
}

/// A step's tokens in the order in which the device reads them.
#[derive(Default)]
pub(super) struct Rows {
    pub(super) tokens: Zeroizing<Vec<u32>>,
    pub(super) steps: Vec<SequenceStep>,
    /// So many of `steps` are for prefill, the others for decode.
    pub(super) prefills: usize,
    /// The row after which each draw is made.
    pub(super) last: Vec<u32>,
}

impl Rows {
    pub(super) fn of(sequences: &[Sequence]) -> Self {
        let mut rows = Self::default();
        let mut last = vec![0; sequences.len()];
        for (last, sequence) in last.iter_mut().zip(sequences) {
            let count = sequence.of_prompt();
            if count > 0 {
                rows.tokens.extend_from_slice(&sequence.tokens[..count]);
                rows.steps.push(sequence.step(0, count));
                *last = rows.tokens.len() - 1;
            }
        }
        rows.prefills = rows.steps.len();
        for (last, sequence) in last.iter_mut().zip(sequences) {
            for place in sequence.of_prompt()..sequence.tokens.len() {
                rows.tokens.push(sequence.tokens[place]);
                rows.steps.push(sequence.step(place, 1));
                *last = rows.tokens.len() - 1;
            }
        }
        let draws = sequences.iter().zip(last);
        let draws = draws.filter(|(sequence, _)| sequence.chosen.is_some());
        rows.last = draws.map(|(_, row)| row as u32).collect();
        rows
    }
}

impl Chosen {
    fn of(draw: &Draw<'_>) -> Self {
        let sampling = draw.sampling;
        let mut entries: BTreeMap<u32, (f32, u32)> = BTreeMap::new();
        for (token, bias) in draw.bias {
            entries.entry(*token).or_default().0 += bias;
        }
        if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
            for token in draw.written {
                entries.entry(*token).or_default().1 += 1;
            }
        }
        let penalty = |count: u32| match count {
            0 => 0.0,
            _ => sampling.presence_penalty + sampling.frequency_penalty * count as f32,
        };
        let entries = entries.into_iter().map(|(token, (bias, count))| Entry {
            token,
            bias,
            penalty: penalty(count),
        });
        Self {
            choice: Choice {
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                min_p: sampling.min_p,
                top_k: sampling.top_k,
                seed: sampling.seed,
                position: draw.position,
                ..Choice::GREEDY
            },
            entries: entries.collect(),
            logprobs: draw.logprobs,
        }
    }
}

/// The token of a record; `None` if nothing of it is to be served.
pub(super) fn drawn(record: &Record, logprobs: Option<u32>) -> Option<Drawn> {
    if record.not_finite || record.nothing {
        return None;
    }
    let total = libm::log(record.total) + f64::from(record.highest);
    let logprob = |logit: f32| (f64::from(logit) - total) as f32;
    let likeliest = record.likeliest.iter();
    let likeliest = likeliest.map(|(token, logit)| (*token, logprob(*logit)));
    Some(Drawn::Token(Taken {
        token: record.token,
        logprobs: logprobs.map(|_| (logprob(record.taken), likeliest.collect())),
    }))
}
