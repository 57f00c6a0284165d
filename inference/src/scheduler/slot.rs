//! One request from its arrival to its end.

use std::sync::Mutex;

use tokio::sync::mpsc::Sender;
use zeroize::Zeroizing;

use super::Job;
use crate::backend::{Draw, Reading, Taken};
use crate::cache::Blocks;
use crate::constraint::{Course, Stuck};
use crate::decoder::{Logits, Part};
use crate::reasoning::{Marks, Separated, Separator};
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
    /// Where the answer stands within its constraint.
    pub(super) course: Option<Box<Course>>,
    bytes: TokenBytes,
    characters: Characters,
    /// Of a conversation with a model that marks what it thinks.
    separator: Option<Separator>,
    stop: StopFilter,
    /// What was noted of tokens since the last chunk.
    noted: Vec<TokenChoice>,
    pub(super) ended: bool,
    /// What it has in the cache is not to be used again.
    pub(super) faulty: bool,
}

impl Slot {
    pub(super) fn new(
        job: Job,
        arrival: u64,
        tokenizer: &Tokenizer,
        marks: Option<&Marks>,
    ) -> Self {
        let Job {
            mut request,
            sender,
            course,
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
            separator: marks.and_then(|marks| Separator::of(&request, marks)),
            stop: StopFilter::new(std::mem::take(&mut request.stop)),
            request,
            sender,
            course,
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
    pub(super) fn reading<'a>(
        &'a self,
        share: usize,
        course: Option<&'a Mutex<Box<Course>>>,
    ) -> Reading<'a> {
        let end = self.read + share;
        let is_last = end == self.tokens.len();
        let request = &self.request;
        let draw = || Draw {
            sampling: &request.sampling,
            bias: &request.logit_bias,
            written: &self.tokens[self.prompt_tokens..],
            position: self.tokens.len() as u64,
            logprobs: request.logprobs,
            course,
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
    pub(super) fn note(&mut self, drawn: &Taken, tokenizer: &Tokenizer) {
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
        let complete = match self.course.as_mut().map(|course| course.take(token)) {
            None => false,
            Some(Ok(complete)) => complete,
            Some(Err(Stuck)) => return self.finish(Finish::Constraint),
        };
        let (Separated { reasoning, content }, mark) = self.separate(token, tokenizer);
        let (mut text, stopped) = self.stop.push(&content);
        if stopped {
            return self.emit(text, reasoning, Some(Finish::Stop));
        }
        if mark.is_some() {
            // No stop string reaches across it.
            text += &self.stop.finish();
        }
        self.emit_marked(text, reasoning, mark, None);
        if complete {
            self.finish(Finish::Stop);
        } else if self.generated() == self.request.max_new_tokens {
            self.finish(Finish::Length);
        }
    }

    /// What a token adds to what is thought and to the answer, and the mark that it is.
    fn separate(&mut self, token: u32, tokenizer: &Tokenizer) -> (Separated, Option<String>) {
        let mut out = Separated::default();
        let (mut is_mark, mut is_shown, mut counts) = (false, true, false);
        if let Some(separator) = &mut self.separator {
            counts = separator.counts;
            is_mark = separator.mark(token, &mut out);
            is_shown = counts || !(is_mark || separator.thinks());
        }
        let asked = self.request.marks && is_shown;
        let mark = asked.then(|| tokenizer.special_token(token)).flatten();
        let mut text = String::new();
        if mark.is_some() {
            self.characters.finish(&mut text);
        } else {
            let bytes = self.bytes.push(tokenizer, token);
            match is_mark && !counts {
                // A part of a character before a mark is none of the answer's.
                true => self.characters.finish(&mut String::new()),
                false => self.characters.push(bytes, &mut text),
            }
        }
        let Some(separator) = &mut self.separator else {
            out.content = text;
            return (out, mark);
        };
        if !is_mark {
            separator.text(&text, &mut out);
        }
        if mark.is_some() {
            separator.settle(&mut out);
        }
        if is_mark || separator.thinks() {
            self.noted.pop();
        }
        if counts {
            let (reasoning, content) = match separator.thinks() {
                true => (text, String::new()),
                false => (String::new(), text),
            };
            out = Separated { reasoning, content };
        }
        (out, mark)
    }

    /// Sends what was held back, and ends.
    pub(super) fn finish(&mut self, finish: Finish) {
        let mut rest = String::new();
        self.characters.finish(&mut rest);
        let mut out = Separated::default();
        match &mut self.separator {
            Some(separator) if !separator.counts => {
                separator.push(&rest, &mut out);
                separator.finish(&mut out);
            }
            _ => out.content = rest,
        }
        let (mut text, stopped) = self.stop.push(&out.content);
        if stopped {
            return self.emit(text, out.reasoning, Some(Finish::Stop));
        }
        text += &self.stop.finish();
        self.emit(text, out.reasoning, Some(finish));
    }

    /// Ends a request for a vector.
    pub(super) fn embed(&mut self, vector: Vec<f32>) {
        self.ended = true;
        self.send(Chunk::default(), Some(vector));
    }

    pub(super) fn emit(&mut self, text: String, reasoning: String, finish: Option<Finish>) {
        self.emit_marked(text, reasoning, None, finish);
    }

    fn emit_marked(
        &mut self,
        text: String,
        reasoning: String,
        mark: Option<String>,
        finish: Option<Finish>,
    ) {
        self.ended |= finish.is_some();
        let (text, reasoning) = match &self.separator {
            // Who reads the marks tells thoughts apart; stop strings have not seen them.
            Some(separator) if separator.counts => (reasoning + &text, String::new()),
            _ => (text, reasoning),
        };
        let is_bare = text.is_empty() && reasoning.is_empty() && mark.is_none();
        if is_bare && finish.is_none() {
            return;
        }
        let chunk = Chunk {
            text,
            reasoning,
            finish,
            mark,
            tokens: std::mem::take(&mut self.noted),
        };
        self.send(chunk, None);
    }

    fn send(&mut self, chunk: Chunk, embedding: Option<Vec<f32>>) {
        let thought = self.separator.as_ref().map(|one| one.reasoning_tokens);
        let emitted = Emitted {
            chunk,
            embedding,
            completion_tokens: self.generated(),
            reasoning_tokens: thought.unwrap_or(0),
            cached_tokens: self.cached as u32,
        };
        // The channel has room for every chunk; if the reader has left, the next sweep sees it.
        let _ = self.sender.try_send(emitted);
    }

    /// Tokens that need cache before it may begin: what it has to read, and one more if it writes.
    pub(super) fn first_room(&self) -> usize {
        self.tokens.len() + usize::from(self.request.max_new_tokens > 0)
    }

    pub(super) fn generated(&self) -> u32 {
        (self.tokens.len() - self.prompt_tokens) as u32
    }
}
