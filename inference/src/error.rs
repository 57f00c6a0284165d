//! One small enum per operation, each variant with its cause.

use std::io;

/// Why a model folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {file}")]
    Read {
        /// The file's name inside the folder.
        file: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// Why messages or text do not become a prompt.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The model's folder has no chat template.
    #[error("the model has no chat template: use plain completions")]
    NoChatTemplate,
}

/// Why a request is not accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SubmitError {
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The offending id.
        token: u32,
        /// The size of the vocabulary.
        vocabulary: u32,
    },
    /// Prompt and answer do not fit the context.
    #[error(
        "{prompt_tokens} prompt tokens and {max_new_tokens} new tokens exceed the context of \
         {context_tokens} tokens"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens asked for.
        max_new_tokens: u32,
        /// What the model and the configuration allow.
        context_tokens: u32,
    },
    /// More new tokens than allowed, or none.
    #[error("max_new_tokens is {asked}, not in 1..={limit}")]
    NewTokens {
        /// What was asked for.
        asked: u32,
        /// The configured limit.
        limit: u32,
    },
    /// The temperature is not a number in 0..=2.
    #[error("temperature is not in 0..=2")]
    Temperature,
    /// `top_p` is not a number above 0 and up to 1.
    #[error("top_p is not above 0 and at most 1")]
    TopP,
    /// A stop string is empty, too long, or there are too many.
    #[error("at most {max_count} stop strings of 1 to {max_bytes} bytes")]
    Stop {
        /// The most stop strings.
        max_count: usize,
        /// The longest stop string.
        max_bytes: usize,
    },
    /// As many requests wait as may wait.
    #[error("{limit} requests are waiting already: try again later")]
    QueueFull {
        /// The configured bound.
        limit: u32,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
