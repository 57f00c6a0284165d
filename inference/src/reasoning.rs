//! What a model thinks, apart from what it answers, token by token.
//!
//! Marks that are one token each are known by their ids: no text that merely looks like them
//! counts, and none is missed for lying across pieces. Marks that the vocabulary does not have are
//! looked for in the text, of which nothing is passed on that could still turn out to be the start
//! of one.

use crate::request::Request;
use crate::template::Style;
use crate::tokenizer::Tokenizer;

/// Longer heads of a message than this are no heads.
const MAX_HEAD_BYTES: usize = 256;

/// How a model marks what it thinks, by the tokens of its vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Marks {
    /// What is thought stands between two marks, at the start of an answer.
    Tags { open: Mark, close: Mark },
    /// Messages with channels, one after the other: `HEAD <|message|> BODY <|end|>`, where the head
    /// is `<|start|>ROLE<|channel|>NAME to=RECIPIENT <|constrain|>FORMAT`, each part but the name
    /// optional.
    Channels(Channels),
}

/// A mark: a token, or a text where the vocabulary has no such token.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mark {
    Token(u32),
    Text(&'static str),
}

/// The special tokens of the harmony format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Channels {
    start: u32,
    channel: u32,
    message: u32,
    end: u32,
    constrain: Option<u32>,
    call: Option<u32>,
    done: Option<u32>,
}

impl Marks {
    /// `None` if the vocabulary lacks what the style needs.
    pub(crate) fn find(style: Style, tokenizer: &Tokenizer) -> Option<Self> {
        match style {
            Style::Tags { open, close } => {
                let mark = |text| tokenizer.token(text).map_or(Mark::Text(text), Mark::Token);
                Some(Self::Tags {
                    open: mark(open),
                    close: mark(close),
                })
            }
            Style::Channels => Some(Self::Channels(Channels {
                start: tokenizer.token("<|start|>")?,
                channel: tokenizer.token("<|channel|>")?,
                message: tokenizer.token("<|message|>")?,
                end: tokenizer.token("<|end|>")?,
                constrain: tokenizer.token("<|constrain|>"),
                call: tokenizer.token("<|call|>"),
                done: tokenizer.token("<|return|>"),
            })),
        }
    }
}

/// What a piece of an answer adds.
#[derive(Clone, Default, PartialEq)]
pub(crate) struct Separated {
    pub(crate) reasoning: String,
    pub(crate) content: String,
}

/// Takes an answer apart.
pub(crate) struct Separator {
    marks: Marks,
    state: State,
    /// Of a text that may be a mark, or white space that may be the last before one.
    held: String,
    /// Tokens that were thought, marks and heads included.
    pub(crate) reasoning_tokens: u32,
    /// Tokens of a head whose channel is not known yet.
    head_tokens: u32,
    /// Whether anything was shown of what was thought, and of the answer.
    thought: bool,
    answered: bool,
    /// Whether the next piece of this kind begins another message.
    next_message: bool,
    /// Whether it only counts: who is told of the marks takes messages apart, and a message to a
    /// tool is part of the answer.
    pub(crate) counts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing yet but white space.
    Before,
    /// In what is thought.
    Thinking,
    /// After it: white space is dropped until the answer begins.
    Between,
    Answering,
    /// In the head of a message: in its role, or in its channel's name.
    Role,
    Channel,
}

impl Separator {
    /// For the answer to a request, if it is one of a conversation. An answer whose constraint
    /// leaves no room for thoughts between marks has none, whatever its prompt ends with.
    pub(crate) fn of(request: &Request, marks: &Marks) -> Option<Self> {
        let thinks = request.prompt.separated?;
        let has_channels = matches!(marks, Marks::Channels(_));
        let constraint = request.constraint.as_ref();
        if !has_channels && constraint.is_some_and(|one| !one.may_think()) {
            return None;
        }
        Some(Self {
            counts: has_channels && request.marks,
            ..Self::new(marks.clone(), thinks)
        })
    }

    /// For one answer; `thinks` if its prompt ended with the mark that opens a thought.
    pub(crate) fn new(marks: Marks, thinks: bool) -> Self {
        let state = match (&marks, thinks) {
            (Marks::Channels(_), _) => State::Role,
            (Marks::Tags { .. }, true) => State::Thinking,
            (Marks::Tags { .. }, false) => State::Before,
        };
        Self {
            marks,
            state,
            held: String::new(),
            reasoning_tokens: 0,
            head_tokens: 0,
            thought: false,
            answered: false,
            next_message: false,
            counts: false,
        }
    }

    /// Whether what comes now is not part of the answer.
    pub(crate) fn thinks(&self) -> bool {
        !matches!(
            self.state,
            State::Before | State::Between | State::Answering
        )
    }

    /// Takes a token that is a mark here: true, and its text is none of the answer's.
    pub(crate) fn mark(&mut self, token: u32, out: &mut Separated) -> bool {
        match self.marks {
            Marks::Tags {
                ref open,
                ref close,
            } => {
                let is_mark = match self.state {
                    State::Before => *open == Mark::Token(token),
                    State::Thinking => *close == Mark::Token(token),
                    _ => false,
                };
                if is_mark {
                    self.reasoning_tokens += 1;
                    self.held.clear();
                    self.state = match self.state {
                        State::Before => State::Thinking,
                        _ => State::Between,
                    };
                }
                is_mark
            }
            Marks::Channels(channels) => self.harmony(channels, token, out),
        }
    }

    fn harmony(&mut self, marks: Channels, token: u32, out: &mut Separated) -> bool {
        let in_head = matches!(self.state, State::Role | State::Channel);
        let token = Some(token);
        if token == Some(marks.start) {
            self.leave(out);
            self.head_tokens += 1;
        } else if token == Some(marks.channel) && in_head {
            self.head_tokens += 1;
            self.held.push(' ');
            self.held.push('\n');
            self.state = State::Channel;
        } else if token == marks.constrain && in_head {
            self.head_tokens += 1;
            self.held.push(' ');
        } else if token == Some(marks.message) && in_head {
            self.head_tokens += 1;
            let head = std::mem::take(&mut self.held);
            self.begin(is_for_the_asker(&head, self.counts));
        } else if token == Some(marks.end) || token == marks.call || token == marks.done {
            let thinks = self.state == State::Thinking;
            self.reasoning_tokens += u32::from(thinks);
            self.leave(out);
        } else {
            return false;
        }
        true
    }

    /// The body of a message begins.
    fn begin(&mut self, is_answer: bool) {
        let shown = match is_answer {
            true => self.answered,
            false => self.thought,
        };
        self.next_message = shown;
        if is_answer {
            self.state = State::Answering;
        } else {
            self.state = State::Thinking;
            self.reasoning_tokens += self.head_tokens;
        }
        self.head_tokens = 0;
    }

    /// The body of a message has ended.
    fn leave(&mut self, out: &mut Separated) {
        if self.state == State::Answering {
            out.content.push_str(&std::mem::take(&mut self.held));
        }
        self.held.clear();
        self.state = State::Role;
    }

    /// Takes a token's text.
    pub(crate) fn text(&mut self, text: &str, out: &mut Separated) {
        let thought = self.thinks();
        self.push(text, out);
        match (self.state, &self.marks) {
            (State::Role | State::Channel, _) => self.head_tokens += 1,
            // Marks that are text, and what stands between them.
            (state, Marks::Tags { .. }) if thought || state == State::Thinking => {
                self.reasoning_tokens += 1;
            }
            (State::Thinking, _) => self.reasoning_tokens += 1,
            _ => {}
        }
    }

    pub(crate) fn push(&mut self, text: &str, out: &mut Separated) {
        self.held.push_str(text);
        if self.state == State::Before {
            self.before(out);
        }
        if self.state == State::Thinking {
            self.think(out);
        }
        if self.state == State::Between {
            let kept = self.held.trim_start().to_owned();
            if !kept.is_empty() {
                self.state = State::Answering;
            }
            self.held = kept;
        }
        if self.state == State::Answering {
            self.answer(out);
        }
        if matches!(self.state, State::Role | State::Channel) && self.held.len() > MAX_HEAD_BYTES {
            // No message has such a head: a model that does not keep to the format.
            self.begin(true);
            self.answer(out);
        }
    }

    /// Waits until it is clear whether the answer begins with a thought.
    fn before(&mut self, out: &mut Separated) {
        let Marks::Tags { open, .. } = &self.marks else {
            return;
        };
        let begun = self.held.trim_start();
        if let Mark::Text(mark) = *open {
            if let Some(rest) = begun.strip_prefix(mark) {
                self.held = rest.to_owned();
                self.state = State::Thinking;
                return;
            }
            if mark.starts_with(begun) {
                return;
            }
        } else if begun.is_empty() {
            return;
        }
        self.state = State::Answering;
        self.answer(out);
    }

    fn think(&mut self, out: &mut Separated) {
        let mark = match &self.marks {
            Marks::Tags {
                close: Mark::Text(mark),
                ..
            } => mark,
            _ => "",
        };
        let found = self.held.find(mark).filter(|_| !mark.is_empty());
        let end = found.unwrap_or_else(|| self.held.len() - overlap(&self.held, mark));
        let (shown, rest) = self.held.split_at(end);
        // White space around what is thought is the format's, not the model's.
        let shown = match self.thought && !self.next_message {
            true => shown,
            false => shown.trim_start(),
        };
        let end = shown.trim_end().len();
        let (shown, space) = shown.split_at(end);
        if !shown.is_empty() {
            if self.next_message {
                out.reasoning.push('\n');
            }
            out.reasoning.push_str(shown);
            self.thought = true;
            self.next_message = false;
        }
        self.held = match found {
            Some(_) => {
                self.state = State::Between;
                rest[mark.len()..].to_owned()
            }
            None => format!("{space}{rest}"),
        };
    }

    fn answer(&mut self, out: &mut Separated) {
        if self.held.is_empty() {
            return;
        }
        if std::mem::take(&mut self.next_message) {
            out.content.push('\n');
        }
        self.answered = true;
        out.content.push_str(&std::mem::take(&mut self.held));
    }

    /// What was held back is no mark: a token stands behind it that is none of the answer's text.
    pub(crate) fn settle(&mut self, out: &mut Separated) {
        if matches!(self.state, State::Before | State::Between) {
            self.state = State::Answering;
            self.answer(out);
        }
    }

    /// What remains when no more comes.
    pub(crate) fn finish(&mut self, out: &mut Separated) {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Before => out.content.push_str(&held),
            // The start of a mark that did not come belongs to what was thought.
            State::Thinking => {
                let rest = match self.thought {
                    true => held.trim_end(),
                    false => held.trim(),
                };
                out.reasoning.push_str(rest);
            }
            // A model that wrote no message at all, but text.
            State::Role if !self.answered && !self.thought => {
                out.content.push_str(&held);
            }
            _ => {}
        }
    }
}

/// Whether a message with this head is for the one who asked: the final channel, and comments that
/// are for nobody else; with `calls`, one to a tool as well. A line break stands before the
/// channel's name.
fn is_for_the_asker(head: &str, calls: bool) -> bool {
    let to = |start: &str| head.split_whitespace().any(|word| word.starts_with(start));
    let to_a_tool = to("to=");
    if calls && to("to=functions.") {
        return true;
    }
    let channel = head.rsplit_once('\n').map(|(_, channel)| channel);
    let channel = channel.and_then(|channel| channel.split_whitespace().next());
    match channel {
        Some("final" | "commentary") | None => !to_a_tool,
        Some(_) => false,
    }
}

/// Length of the longest end of `text` that `mark` starts with.
fn overlap(text: &str, mark: &str) -> usize {
    let from = text.len().saturating_sub(mark.len().saturating_sub(1));
    let fits = |start: &usize| {
        let end = text.as_bytes().get(*start..).unwrap_or_default();
        !end.is_empty() && mark.as_bytes().starts_with(end)
    };
    let start = (from..text.len()).find(|start| text.is_char_boundary(*start) && fits(start));
    start.map_or(0, |start| text.len() - start)
}

#[cfg(test)]
mod tests;
