//! One request from its arrival to its end.

use tokio::sync::mpsc::Sender;
use zeroize::Zeroizing;

use super::Job;
use crate::backend::{Draw, Drawn, Reading};
use crate::cache::Blocks;
use crate::decoder::{Logits, Part};
use crate::request::{Chunk, Emitted, Finish, Request, TokenChoice, TokenLogprob};
use crate::text::{Characters, StopFilter};
use crate::tokenizer::{TokenBytes, Tokenizer};

/// A request that waits or runs.
pub(super) struct Slot {
    /// Counts up with every request: the smaller, the earlier.
    pub(super) arrival: u64,
    /// Whether it ran before and had to give its cache away.
    pub(super) paused: bool,
    /// The prompt and what was generated.
    pub(super) tokens: Zeroizing<Vec<u32>>,
    pub(super) prompt_tokens: usize,
    /// Tokens that are in the cache.
    pub(super) read: usize,
    /// Tokens of the prompt that were in the cache when it began.
    pub(super) cached: usize,
    pub(super) blocks: Blocks,
    pub(super) request: Request,
    pub(super) sender: Sender<Emitted>,
    bytes: TokenBytes,
    characters: Characters,
    stop: StopFilter,
    /// What was noted of tokens since the last chunk.
    noted: Vec<TokenChoice>,
    pub(super) ended: bool,
    /// What it has in the cache is not to be used again.
    pub(super) faulty: bool,
}

impl Slot {
    pub(super) fn new(job: Job, arrival: u64, tokenizer: &Tokenizer) -> Self {
        let Job {
            mut request,
            sender,
        } = job;
        let room = request.prompt.len() + request.max_new_tokens as usize;
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut tokens = Zeroizing::new(Vec::with_capacity(room));
        tokens.extend_from_slice(request.prompt.tokens());
        Self {
            arrival,
            paused: false,
            prompt_tokens: tokens.len(),
            tokens,
            read: 0,
            cached: 0,
            blocks: Blocks::default(),
            stop: StopFilter::new(std::mem::take(&mut request.stop)),
            request,
            sender,
            bytes: TokenBytes::new(tokenizer),
            characters: Characters::default(),
            noted: Vec::new(),
            ended: false,
            faulty: false,
        }
    }

    /// Whose it is. Requests of nobody count as one client's.
    pub(super) fn client(&self) -> Option<u64> {
        self.request.client.as_ref().map(|client| client.number())
    }

    /// Whether it only has to read the token that it generated last.
    pub(super) fn generates(&self) -> bool {
        self.tokens.len() > self.prompt_tokens && self.unread() == 1
    }

    pub(super) fn unread(&self) -> usize {
        self.tokens.len() - self.read
    }

    /// The next `share` unread tokens; the next one is wanted if they are the last.
    pub(super) fn reading(&self, share: usize) -> Reading<'_> {
        let end = self.read + share;
        let is_last = end == self.tokens.len();
        let request = &self.request;
        let draw = || Draw {
            sampling: &request.sampling,
            bias: &request.logit_bias,
            written: &self.tokens[self.prompt_tokens..],
            position: self.tokens.len() as u64,
            logprobs: request.logprobs,
        };
        Reading {
            part: Part {
                tokens: &self.tokens[self.read..end],
                start: self.read,
                length: self.tokens.len(),
                blocks: self.blocks.groups(),
                logits: if is_last { Logits::Last } else { Logits::None },
            },
            prompt_tokens: self.prompt_tokens,
            draw: is_last.then(draw),
        }
    }

    /// Ends without a word: what the model gave is not to be served.
    pub(super) fn withhold(&mut self) {
        (self.ended, self.faulty) = (true, true);
    }

    /// Notes how likely a token is that is about to be accepted, if that was asked for.
    pub(super) fn note(&mut self, drawn: &Drawn, tokenizer: &Tokenizer) {
        let Some((logprob, likeliest)) = &drawn.logprobs else {
            return;
        };
        let entry = |token: u32, logprob: f32| {
            let mut bytes = Vec::new();
            tokenizer.bytes(token, &mut bytes);
            TokenLogprob {
                token,
                bytes,
                logprob,
            }
        };
        let likeliest = likeliest
            .iter()
            .map(|(token, logprob)| entry(*token, *logprob));
        self.noted.push(TokenChoice {
            taken: entry(drawn.token, *logprob),
            likeliest: likeliest.collect(),
        });
    }

    /// Takes a new token: ends, or sends the text that it completes.
    pub(super) fn accept(&mut self, token: u32, is_end: bool, tokenizer: &Tokenizer) {
        self.tokens.push(token);
        if is_end {
            return self.finish(Finish::Stop);
        }
        let mut text = String::new();
        self.characters
            .push(self.bytes.push(tokenizer, token), &mut text);
        let (text, stopped) = self.stop.push(&text);
        if stopped {
            self.emit(text, Some(Finish::Stop));
        } else if self.generated() == self.request.max_new_tokens {
            self.emit(text, None);
            self.finish(Finish::Length);
        } else {
            self.emit(text, None);
        }
    }

    /// Sends what was held back, and ends.
    fn finish(&mut self, finish: Finish) {
        let mut rest = String::new();
        self.characters.finish(&mut rest);
        let (mut text, stopped) = self.stop.push(&rest);
        if stopped {
            return self.emit(text, Some(Finish::Stop));
        }
        text += &self.stop.finish();
        self.emit(text, Some(finish));
    }

    pub(super) fn emit(&mut self, text: String, finish: Option<Finish>) {
        self.ended |= finish.is_some();
        if text.is_empty() && finish.is_none() {
            return;
        }
        let emitted = Emitted {
            chunk: Chunk {
                text,
                finish,
                tokens: std::mem::take(&mut self.noted),
            },
            completion_tokens: self.generated(),
            cached_tokens: self.cached as u32,
        };
        // The channel has room for every chunk; if the reader has left, the next sweep sees it.
        let _ = self.sender.try_send(emitted);
    }

    pub(super) fn generated(&self) -> u32 {
        (self.tokens.len() - self.prompt_tokens) as u32
    }
}
