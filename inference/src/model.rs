//! A model without a tokenizer: tokens in, distributions out. The engine is built on it; it also
//! serves comparisons and measurements.

use std::num::NonZeroUsize;
use std::path::Path;
use std::thread::available_parallelism;

use zeroize::Zeroizing;

use crate::cache::{Blocks, KvCache};
use crate::cpu::{Level, Pool};
use crate::decoder::{Decoder, Logits, Part, Workspace};
use crate::embedding::{self, Pooling};
use crate::error::{LoadError, Name, SubmitError};
use crate::weights::Tensors;
use crate::{family, folder};

pub(crate) const CONFIG: &str = "config.json";

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    pub(crate) decoder: Decoder,
    pub(crate) pool: Pool,
    /// The tokens that end a turn, as `config.json` gives them.
    pub(crate) end_tokens: Vec<u32>,
    /// Of an embedding model.
    pub(crate) pooling: Option<Pooling>,
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
        let mut config = family::read(config).map_err(|source| LoadError::Config {
            file: Name::new(CONFIG),
            source,
        })?;
        let mut tensors = Tensors::open(model, config.scheme)?;
        let pooling = embedding::read(model)?;
        if let Some(pooling) = pooling {
            pooling.apply(&mut config.decoder);
            tensors.name_as_in_a_whole_model();
        }
        let threads = threads
            .or(available_parallelism().ok())
            .unwrap_or(NonZeroUsize::MIN);
        let pool = Pool::new(threads, Level::fastest()).map_err(LoadError::Thread)?;
        let decoder = Decoder::bind(config.decoder, tensors, &pool)?;
        Ok(Self {
            decoder,
            pool,
            end_tokens: config.end_tokens,
            pooling,
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

    /// Bytes of weights that reading one token takes: what bounds the speed of an answer.
    pub fn bytes_per_token(&self) -> u64 {
        self.decoder.bytes_per_token()
    }

    /// The vector instructions in use.
    pub fn instructions(&self) -> &'static str {
        match self.pool.level {
            Level::Baseline => "baseline",
            Level::Avx2 => "AVX2",
            Level::Avx512 => "AVX-512",
            Level::Amx => "AVX-512 and AMX",
        }
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Positions that the model was made for.
    pub fn context_tokens(&self) -> u32 {
        self.decoder.spec.context_tokens
    }

    /// The tokens that end a turn, as config.json gives them.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// Numbers of a vector, of an embedding model.
    pub fn embedding_dimensions(&self) -> Option<u32> {
        self.pooling.map(|_| self.decoder.spec.hidden as u32)
    }

    /// An empty sequence with room for `context_tokens`, at most the model's own context.
    pub fn session(&self, context_tokens: u32) -> Session<'_> {
        let context_tokens = context_tokens.min(self.context_tokens()) as usize;
        let mut cache = KvCache::whole(&self.decoder.spec, 1, context_tokens);
        let blocks = cache.take(context_tokens).unwrap_or_default();
        let work = Workspace::default();
        Session {
            model: self,
            context_tokens,
            cache,
            blocks,
            work,
            history: Zeroizing::new(Vec::with_capacity(context_tokens)),
        }
    }
}

/// One sequence with its own KV cache.
pub struct Session<'a> {
    model: &'a Model,
    context_tokens: usize,
    cache: KvCache,
    blocks: Blocks,
    work: Workspace,
    /// What was read.
    history: Zeroizing<Vec<u32>>,
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
        if self.model.pooling.is_some() {
            return Err(SubmitError::NoText);
        }
        if tokens.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if tokens.iter().any(|token| *token >= vocabulary) {
            return Err(SubmitError::UnknownToken { vocabulary });
        }
        let (start, end) = (self.history.len(), self.history.len() + tokens.len());
        if end > self.context_tokens {
            return Err(SubmitError::ContextLength {
                prompt_tokens: u32::try_from(end).unwrap_or(u32::MAX),
                max_new_tokens: 0,
                context_tokens: self.context_tokens as u32,
            });
        }
        let decoder = &self.model.decoder;
        if decoder.phase(start) != decoder.phase(end) {
            let history = std::mem::take(&mut *self.history);
            if !history.is_empty() {
                self.step(&history, 0, end, Logits::None);
            }
            *self.history = history;
        }
        self.step(tokens, start, end, logits);
        self.history.extend_from_slice(tokens);
        Ok(&self.work.logits)
    }

    fn step(&mut self, tokens: &[u32], start: usize, length: usize, logits: Logits) {
        let part = Part {
            tokens,
            start,
            length,
            blocks: self.blocks.groups(),
            logits,
        };
        let model = self.model;
        model
            .decoder
            .forward(&model.pool, &mut self.cache, &[part], &mut self.work);
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.work.clear();
        self.cache.give_back(std::mem::take(&mut self.blocks));
    }
}

impl std::fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("position", &self.history.len())
            .finish_non_exhaustive()
    }
}
