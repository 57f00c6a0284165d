//! A model without a tokenizer: tokens in, distributions out. The engine is built on it; it also
//! serves comparisons and measurements.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use crate::cache::{BLOCK_TOKENS, KvCache, block_bytes};
use crate::cpu::{Level, Pool};
use crate::decoder::{Decoder, Logits, Part, Workspace};
use crate::error::{LoadError, Name, SubmitError};
use crate::weights::Tensors;
use crate::{folder, llama};

const CONFIG: &str = "config.json";

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    pub(crate) decoder: Decoder,
    pub(crate) pool: Pool,
    /// The tokens that end a turn, as `config.json` gives them.
    pub(crate) end_tokens: Vec<u32>,
}

impl Model {
    /// Loads config.json and the safetensors files of a folder. `threads` compute; `None` takes
    /// one per processor.
    pub fn open(model: &Path, threads: Option<NonZeroUsize>) -> Result<Self, LoadError> {
        let Some(config) = folder::json_optional(model, CONFIG)? else {
            return Err(LoadError::Missing {
                file: Name::new(CONFIG),
            });
        };
        let config = llama::read(config).map_err(|source| LoadError::Config {
            file: Name::new(CONFIG),
            source,
        })?;
        let threads = threads
            .or(available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN);
        let pool = Pool::new(threads, Level::fastest()).map_err(LoadError::Thread)?;
        let decoder = Decoder::bind(config.decoder, Tensors::open(model)?, &pool)?;
        Ok(Self {
            decoder,
            pool,
            end_tokens: config.end_tokens,
        })
    }

    /// The size of the vocabulary.
    pub fn vocabulary(&self) -> u32 {
        self.decoder.spec.vocabulary
    }

    /// The number of weights.
    pub fn parameters(&self) -> u64 {
        self.decoder.parameters
    }

    /// Positions that the model was made for.
    pub fn context_tokens(&self) -> u32 {
        self.decoder.spec.context_tokens
    }

    /// The tokens that end a turn, as config.json gives them.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// An empty sequence with room for `context_tokens`, at most the model's own context.
    pub fn session(&self, context_tokens: u32) -> Session<'_> {
        let context_tokens = context_tokens.min(self.context_tokens()) as usize;
        let blocks = context_tokens.div_ceil(BLOCK_TOKENS);
        let mut cache = KvCache::new(
            &self.decoder.spec,
            blocks as u64 * block_bytes(&self.decoder.spec),
        );
        let blocks = cache.take(context_tokens).unwrap_or_default();
        let work = Workspace::default();
        Session {
            model: self,
            context_tokens,
            cache,
            blocks,
            work,
            position: 0,
        }
    }
}

/// One sequence with its own KV cache.
pub struct Session<'a> {
    model: &'a Model,
    context_tokens: usize,
    cache: KvCache,
    blocks: Vec<u32>,
    work: Workspace,
    position: usize,
}

impl Session<'_> {
    /// Reads tokens; answers the logits after the last of them.
    pub fn read(&mut self, tokens: &[u32]) -> Result<&[f32], SubmitError> {
        self.forward(tokens, Logits::Last)
    }

    /// Reads tokens; answers the logits after each of them, one after the other.
    pub fn score(&mut self, tokens: &[u32]) -> Result<&[f32], SubmitError> {
        self.forward(tokens, Logits::Every)
    }

    fn forward(&mut self, tokens: &[u32], logits: Logits) -> Result<&[f32], SubmitError> {
        let vocabulary = self.model.vocabulary();
        if tokens.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if tokens.iter().any(|token| *token >= vocabulary) {
            return Err(SubmitError::UnknownToken { vocabulary });
        }
        if tokens.len() > self.context_tokens - self.position {
            return Err(SubmitError::ContextLength {
                prompt_tokens: u32::try_from(self.position + tokens.len()).unwrap_or(u32::MAX),
                max_new_tokens: 0,
                context_tokens: self.context_tokens as u32,
            });
        }
        let part = Part {
            tokens,
            start: self.position,
            blocks: &self.blocks,
            logits,
        };
        self.model
            .decoder
            .forward(&self.model.pool, &mut self.cache, &[part], &mut self.work);
        self.position += tokens.len();
        Ok(&self.work.logits)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.work.clear();
        self.cache
            .give_back(std::mem::take(&mut self.blocks), self.position);
    }
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}
