//! Several sequences that advance together, without a tokenizer: for measuring what a server does.

use crate::cache::{Blocks, KvCache};
use crate::decoder::{Logits, Part, Workspace};
use crate::error::SubmitError;
use crate::model::Model;

/// Sequences with one KV cache.
pub struct Batch<'a> {
    model: &'a Model,
    context_tokens: usize,
    cache: KvCache,
    blocks: Vec<Blocks>,
    /// Tokens that each sequence has read.
    read: Vec<usize>,
    work: Workspace,
}

impl Model {
    /// Empty sequences with room for `context_tokens` each, at most the model's own context.
    pub fn batch(&self, sequences: usize, context_tokens: u32) -> Batch<'_> {
        let context_tokens = context_tokens.min(self.context_tokens()) as usize;
        let mut cache = KvCache::whole(&self.decoder.spec, sequences, context_tokens);
        let blocks = (0..sequences).map(|_| cache.take(context_tokens).unwrap_or_default());
        Batch {
            model: self,
            context_tokens,
            blocks: blocks.collect(),
            cache,
            read: vec![0; sequences],
            work: Workspace::default(),
        }
    }
}

impl Batch<'_> {
    /// Each sequence reads its tokens; answers the logits after the last of each, one after the
    /// other. Where a rotation changes with the length (longrope), `context_tokens` is the length.
    pub fn step(&mut self, tokens: &[Vec<u32>]) -> Result<&[f32], SubmitError> {
        let vocabulary = self.model.vocabulary();
        if self.model.pooling.is_some() {
            return Err(SubmitError::NoText);
        }
        if tokens.len() != self.read.len() || tokens.iter().any(Vec::is_empty) {
            return Err(SubmitError::EmptyPrompt);
        }
        if tokens.iter().flatten().any(|token| *token >= vocabulary) {
            return Err(SubmitError::UnknownToken { vocabulary });
        }
        for (tokens, read) in tokens.iter().zip(&self.read) {
            let end = read + tokens.len();
            if end > self.context_tokens {
                return Err(SubmitError::ContextLength {
                    prompt_tokens: u32::try_from(end).unwrap_or(u32::MAX),
                    max_new_tokens: 0,
                    context_tokens: self.context_tokens as u32,
                });
            }
        }
        let parts = tokens.iter().zip(&self.read).zip(&self.blocks);
        let parts: Vec<Part<'_>> = parts
            .map(|((tokens, start), blocks)| Part {
                tokens,
                start: *start,
                length: self.context_tokens,
                blocks: blocks.groups(),
                logits: Logits::Last,
            })
            .collect();
        let (decoder, pool) = (&self.model.decoder, &self.model.pool);
        decoder.forward(pool, &mut self.cache, &parts, &mut self.work);
        for (read, tokens) in self.read.iter_mut().zip(tokens) {
            *read += tokens.len();
        }
        Ok(&self.work.logits)
    }
}

impl std::fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("sequences", &self.read.len())
            .finish_non_exhaustive()
    }
}
