//! What goes in and what comes out: prompts, requests, and the stream of an answer.

use std::fmt;
use std::time::Instant;

use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::constraint::Constraint;

/// Who said a [`ChatMessage`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The operator of the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
    /// A tool's answer.
    Tool,
}

impl Role {
    /// The name that chat templates use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One turn of a conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl fmt::Debug for ChatMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatMessage")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// A tokenised prompt, made by [`Engine::render_chat`], [`Engine::encode_text`] or
/// [`Prompt::from_tokens`]. Its tokens are zeroed when it is dropped.
///
/// [`Engine::render_chat`]: crate::Engine::render_chat
/// [`Engine::encode_text`]: crate::Engine::encode_text
#[derive(Clone)]
pub struct Prompt {
    tokens: Zeroizing<Vec<u32>>,
    /// Of a conversation with a model that marks what it thinks: whether the answer begins with it.
    pub(crate) separated: Option<bool>,
}

impl Prompt {
    /// A prompt from token ids; ids outside the vocabulary are refused by
    /// [`Engine::submit`](crate::Engine::submit).
    pub fn from_tokens(tokens: Vec<u32>) -> Self {
        Self {
            tokens: Zeroizing::new(tokens),
            separated: None,
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The token ids.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prompt")
            .field("tokens", &self.len())
            .finish()
    }
}

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; up to 2.
    pub temperature: f32,
    /// Nucleus sampling: above 0, up to 1 (which is no cut).
    pub top_p: f32,
    /// Only so many of the likeliest tokens; 0 is no cut.
    pub top_k: u32,
    /// Only tokens with at least this share of the likeliest one's probability: from 0 to 1.
    pub min_p: f32,
    /// Taken from the logit of every token that was generated before: from -2 to 2.
    pub presence_penalty: f32,
    /// The same, once for each time that it was generated.
    pub frequency_penalty: f32,
    /// Keys the counter-based generator together with the token's position.
    pub seed: u64,
}

impl Sampling {
    /// Always the most likely token.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        seed: 0,
    };
}

/// One request to the engine.
#[derive(Clone)]
pub struct Request {
    /// What the model reads.
    pub prompt: Prompt,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// What is added to tokens' logits: each a token of the vocabulary, and from -100 to 100.
    pub logit_bias: Vec<(u32, f32)>,
    /// Whether each token's probability is wanted, and of how many others: at most 20.
    pub logprobs: Option<u32>,
    /// At most this many new tokens, at least 1.
    pub max_new_tokens: u32,
    /// Generation ends before the first occurrence of any of these; none is empty.
    pub stop: Vec<String>,
    /// Generation ends with [`Finish::Deadline`] at this instant.
    pub deadline: Option<Instant>,
    /// What the answer may be.
    pub constraint: Option<Constraint>,
    /// Whether special tokens of the answer are told apart from its text, in [`Chunk::mark`].
    pub marks: bool,
    /// Whose it is. Of nobody's requests nothing is kept, and all of them take turns as one client.
    pub client: Option<Client>,
}

impl Request {
    /// At most 16 tokens, the likeliest each time.
    pub fn new(prompt: Prompt) -> Self {
        Self {
            prompt,
            sampling: Sampling::GREEDY,
            logit_bias: Vec::new(),
            logprobs: None,
            max_new_tokens: 16,
            stop: Vec::new(),
            deadline: None,
            constraint: None,
            marks: false,
            client: None,
        }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("sampling", &self.sampling)
            .field("logit_bias", &self.logit_bias.len())
            .field("logprobs", &self.logprobs)
            .field("max_new_tokens", &self.max_new_tokens)
            .field("stop", &self.stop.len())
            .field("deadline", &self.deadline)
            .field("constraint", &self.constraint)
            .field("marks", &self.marks)
            .field("client", &self.client)
            .finish()
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended its turn, or a stop string was found.
    Stop,
    /// `max_new_tokens` were generated.
    Length,
    /// The request's deadline passed.
    Deadline,
    /// Its constraint takes more work than is allowed: the answer is not what it should be.
    Constraint,
}

/// A piece of an answer: whole characters only.
#[derive(Clone, Default, PartialEq)]
pub struct Chunk {
    /// The text, never a part of a character; may be empty in the last chunk.
    pub text: String,
    /// What the model thought before it, where it marks that and the prompt is a conversation.
    pub reasoning: String,
    /// Set in the last chunk and in no other.
    pub finish: Option<Finish>,
    /// A special token that follows the text, if these were asked for: as the vocabulary spells it.
    pub mark: Option<String>,
    /// Of the tokens since the chunk before, if they were asked for; of none that was thought.
    pub tokens: Vec<TokenChoice>,
}

/// One generated token, and what else was likely. It holds content: `Debug` shows none.
#[derive(Clone, PartialEq)]
pub struct TokenChoice {
    /// The token that was taken.
    pub taken: TokenLogprob,
    /// The likeliest ones, the first of them first.
    pub likeliest: Vec<TokenLogprob>,
}

/// A token with the logarithm of its probability, before temperature, penalties and cuts.
#[derive(Clone, PartialEq)]
pub struct TokenLogprob {
    /// Its id.
    pub token: u32,
    /// Its bytes, perhaps a part of a character.
    pub bytes: Vec<u8>,
    /// The natural logarithm.
    pub logprob: f32,
}

impl fmt::Debug for TokenChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenChoice")
    }
}

impl fmt::Debug for TokenLogprob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenLogprob")
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunk")
            .field("finish", &self.finish)
            .finish_non_exhaustive()
    }
}

/// Tokens read and written so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens generated, the end token included.
    pub completion_tokens: u32,
    /// Those of them that were thought and not answered, marks included.
    pub reasoning_tokens: u32,
    /// Tokens of the prompt that an earlier request of the same client had left in the cache; known
    /// from the first chunk on.
    pub cached_tokens: u32,
}

/// What the scheduler sends for one generation.
pub(crate) struct Emitted {
    pub(crate) chunk: Chunk,
    /// Of an embedding model, and nothing else then.
    pub(crate) embedding: Option<Vec<f32>>,
    pub(crate) completion_tokens: u32,
    pub(crate) reasoning_tokens: u32,
    pub(crate) cached_tokens: u32,
}

/// The stream of one answer. Dropping it cancels the request.
pub struct Generation {
    receiver: mpsc::Receiver<Emitted>,
    usage: Usage,
}

impl Generation {
    pub(crate) fn new(receiver: mpsc::Receiver<Emitted>, prompt_tokens: u32) -> Self {
        Self {
            receiver,
            usage: Usage {
                prompt_tokens,
                ..Usage::default()
            },
        }
    }

    /// The next piece of the answer. `None` after the chunk that carries `finish`, or without one
    /// if the engine has stopped.
    pub async fn next(&mut self) -> Option<Chunk> {
        self.receive().await.map(|emitted| emitted.chunk)
    }

    /// As [`next`](Self::next), from a thread that is not in an asynchronous runtime.
    pub fn blocking_next(&mut self) -> Option<Chunk> {
        self.blocking_receive().map(|emitted| emitted.chunk)
    }

    pub(crate) async fn receive(&mut self) -> Option<Emitted> {
        let emitted = self.receiver.recv().await;
        self.account(emitted)
    }

    pub(crate) fn blocking_receive(&mut self) -> Option<Emitted> {
        let emitted = self.receiver.blocking_recv();
        self.account(emitted)
    }

    /// Tokens of the prompt, and of the answer up to the chunk last returned.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    fn account(&mut self, emitted: Option<Emitted>) -> Option<Emitted> {
        let emitted = emitted?;
        self.usage.completion_tokens = emitted.completion_tokens;
        self.usage.reasoning_tokens = emitted.reasoning_tokens;
        self.usage.cached_tokens = emitted.cached_tokens;
        Some(emitted)
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("usage", &self.usage)
            .finish_non_exhaustive()
    }
}
