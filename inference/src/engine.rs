//! The engine's front: open, render, submit.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use crate::error::{LoadError, PromptError, SubmitError};
use crate::request::{ChatMessage, Generation, Prompt, Request};

/// Bounds on what the engine uses and accepts.
#[derive(Clone, Debug)]
pub struct EngineLimits {
    /// Prompt and answer together; at most the model's own context.
    pub context_tokens: u32,
    /// New tokens of one request.
    pub max_new_tokens: u32,
    /// Generations in progress at once.
    pub max_active: u32,
    /// Requests that may wait for a slot.
    pub max_queued: u32,
    /// Memory for the KV cache.
    pub kv_bytes: u64,
    /// Prompt tokens that one step reads.
    pub prefill_chunk_tokens: u32,
    /// Threads that compute; `None` takes one per processor.
    pub threads: Option<NonZeroUsize>,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            context_tokens: 1024,
            max_new_tokens: 512,
            max_active: 16,
            max_queued: 64,
            kv_bytes: 256 << 20,
            prefill_chunk_tokens: 64,
            threads: None,
        }
    }
}

/// What was loaded.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// Number of weights.
    pub parameters: u64,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The context in force.
    pub context_tokens: u32,
    /// Whether [`Engine::render_chat`] can work.
    pub has_chat_template: bool,
}

/// The engine's state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Generations in progress.
    pub active: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Blocks of KV cache in use.
    pub used_blocks: u32,
    /// Blocks of KV cache that are free.
    pub free_blocks: u32,
    /// Requests that ended or were cancelled since the start.
    pub finished: u64,
}

/// A loaded model with its scheduler thread. Share it in an `Arc`; dropping it stops the thread.
#[derive(Debug)]
pub struct Engine {
    info: EngineInfo,
}

impl Engine {
    /// Loads the Hugging Face style folder `model` and starts the scheduler.
    pub fn open(model: &Path, limits: EngineLimits) -> Result<Self, LoadError> {
        let _ = (model, limits);
        Err(LoadError::Read {
            file: "config.json",
            source: io::ErrorKind::Unsupported.into(),
        })
    }

    /// What was loaded.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// The engine's state at this moment.
    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    /// Renders a conversation with the model's chat template, ready for its next answer.
    pub fn render_chat(&self, messages: &[ChatMessage]) -> Result<Prompt, PromptError> {
        let _ = messages;
        Err(PromptError::NoChatTemplate)
    }

    /// Encodes plain text.
    pub fn encode_text(&self, text: &str) -> Result<Prompt, PromptError> {
        let _ = text;
        Err(PromptError::NoChatTemplate)
    }

    /// Queues a request.
    pub fn submit(&self, request: Request) -> Result<Generation, SubmitError> {
        let (_sender, receiver) = tokio::sync::mpsc::channel(1);
        Ok(Generation::new(receiver, request.prompt.len() as u32))
    }
}
