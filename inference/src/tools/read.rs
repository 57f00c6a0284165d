//! Finds the calls of tools in an answer as it is written. What only looks like a call is text.

use serde_json::Value;

use super::ToolFormat;
use super::scan::Scan;

/// A head that gives a name and comes to its arguments is not longer.
const MAX_HEAD_BYTES: usize = 512;
/// A call whose arguments come before its name is read whole.
const MAX_CALL_BYTES: usize = 1 << 20;

/// What a piece of an answer holds.
#[derive(Clone, PartialEq)]
pub enum ToolEvent {
    /// Text of the answer.
    Text(String),
    /// What the model thinks, on a channel of its own.
    Thought(String),
    /// A call begins.
    Begin {
        /// The tool, which is one of those offered.
        name: String,
    },
    /// More of the call's arguments, as they are written.
    Arguments(String),
    /// The call is complete: its arguments are one JSON object.
    End,
    /// The call is none after all. All of it was text, of which `rest` was not yet given as
    /// arguments.
    Broken {
        /// The call from its mark on.
        all: String,
        /// The end of it.
        rest: String,
    },
}

/// It holds content.
impl std::fmt::Debug for ToolEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text(_) => "Text",
            Self::Thought(_) => "Thought",
            Self::Begin { .. } => "Begin",
            Self::Arguments(_) => "Arguments",
            Self::End => "End",
            Self::Broken { .. } => "Broken",
        })
    }
}

/// Reads one answer.
pub struct ToolReader {
    format: ToolFormat,
    /// Names that are calls.
    names: Vec<String>,
    /// Marks that begin calls, as text.
    open: &'static [&'static str],
    close: &'static str,
    state: State,
    /// What is not given on yet: it may be the start of a mark.
    held: String,
    /// Of the call under way, with its mark.
    all: String,
    /// White space after a call, which is text if text follows.
    gap: String,
    called: bool,
    events: Vec<ToolEvent>,
}

enum State {
    /// Before anything but white space.
    Start,
    /// Free text, in which a mark may come.
    Text,
    /// After a mark, or between the calls of an array: a call may begin.
    Before { in_array: bool },
    /// In a call.
    Call(Box<Call>),
    /// After a call.
    After { in_array: bool },
    /// In the mark that closes.
    Close,
    /// In a name that stands before its arguments.
    Name(String),
    /// In the head of a message on a channel.
    Head(String),
    /// In a message.
    Message(Kind),
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Answer,
    Thought,
}

/// A call under way.
struct Call {
    scan: Scan,
    /// Until its arguments begin.
    head: String,
    begun: bool,
    /// Whether its arguments are over.
    done: bool,
    /// Whether the arguments stand alone, their name before them.
    bare: bool,
    in_array: bool,
}

impl Call {
    fn new(in_array: bool) -> Self {
        Self {
            scan: Scan::default(),
            head: String::new(),
            begun: false,
            done: false,
            bare: false,
            in_array,
        }
    }

    fn bare() -> Self {
        Self {
            begun: true,
            bare: true,
            ..Self::new(false)
        }
    }
}

impl ToolReader {
    /// For an answer in a format, to whom tools of these names were offered.
    pub fn new(format: ToolFormat, names: Vec<String>) -> Self {
        let (open, close): (&[&str], _) = match format {
            ToolFormat::Hermes => (&["<tool_call>"], "</tool_call>"),
            ToolFormat::Mistral | ToolFormat::MistralNamed => (&["[TOOL_CALLS]"], ""),
            ToolFormat::Phi4 => (&["<|tool_call|>", "functools"], "<|/tool_call|>"),
            ToolFormat::Llama | ToolFormat::Harmony => (&[], ""),
        };
        let state = match format {
            ToolFormat::Harmony => State::Head(String::new()),
            ToolFormat::Llama => State::Start,
            _ => State::Text,
        };
        Self {
            format,
            names,
            open,
            close,
            state,
            held: String::new(),
            all: String::new(),
            gap: String::new(),
            called: false,
            events: Vec::new(),
        }
    }

    /// Whether any call is complete.
    pub fn called(&self) -> bool {
        self.called
    }

    /// Takes text of the answer.
    pub fn text(&mut self, text: &str) -> Vec<ToolEvent> {
        for c in text.chars() {
            self.step(c);
        }
        std::mem::take(&mut self.events)
    }

    /// Takes a special token of the answer, which its text does not show.
    pub fn mark(&mut self, mark: &str) -> Vec<ToolEvent> {
        if self.format == ToolFormat::Harmony {
            self.channel_mark(mark);
        } else if self.open.contains(&mark) {
            self.interrupt();
            self.open(mark);
        } else if mark == "[ARGS]"
            && let State::Name(name) = &mut self.state
        {
            let name = std::mem::take(name);
            self.all += mark;
            self.named(&name);
        } else if self.format == ToolFormat::Llama && mark == "<|python_tag|>" {
            self.interrupt();
            self.state = State::Start;
        } else if mark == self.close {
            self.interrupt();
        }
        std::mem::take(&mut self.events)
    }

    /// The answer is over.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        self.interrupt();
        std::mem::take(&mut self.events)
    }

    /// Ends what is under way, as it is.
    fn interrupt(&mut self) {
        match std::mem::replace(&mut self.state, State::Text) {
            State::Call(call) => self.broken(*call, String::new()),
            State::Before { .. } | State::Name(_) => {
                let all = std::mem::take(&mut self.all);
                self.give(&all);
            }
            // What has no channel is an answer.
            State::Head(head) => self.give(&head),
            State::Close => self.held.clear(),
            State::Start | State::Text | State::After { .. } | State::Message(_) => {}
        }
        let held = std::mem::take(&mut self.held);
        self.give(&held);
    }

    /// Gives text on, with the white space before it.
    fn give(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.called && text.trim().is_empty() {
            self.gap += text;
            return;
        }
        let gap = std::mem::take(&mut self.gap);
        match self.events.last_mut() {
            Some(ToolEvent::Text(last)) => {
                *last += &gap;
                *last += text;
            }
            _ => self.events.push(ToolEvent::Text(gap + text)),
        }
    }

    fn step(&mut self, c: char) {
        if !matches!(
            self.state,
            State::Start | State::Text | State::Message(_) | State::Head(_)
        ) {
            self.all.push(c);
        }
        match &mut self.state {
            State::Start => self.start(c),
            State::Text => self.free(c),
            State::Before { in_array } => {
                let in_array = *in_array;
                self.before(c, in_array);
            }
            State::Call(_) => self.call(c),
            State::After { in_array } => {
                let in_array = *in_array;
                self.after(c, in_array);
            }
            State::Close => self.closing(c),
            State::Name(name) => {
                name.push(c);
                if let Some(name) = name.strip_suffix("[ARGS]").map(str::to_owned) {
                    self.named(&name);
                } else if name.len() > MAX_HEAD_BYTES {
                    self.interrupt();
                }
            }
            State::Head(head) => {
                head.push(c);
                if head.len() > MAX_HEAD_BYTES {
                    self.interrupt();
                    self.state = State::Message(Kind::Answer);
                }
            }
            State::Message(kind) => {
                let kind = *kind;
                self.say(c, kind);
            }
        }
    }

    /// Where no mark begins calls, an object at the start does.
    fn start(&mut self, c: char) {
        if c == '{' {
            self.all = std::mem::take(&mut self.held);
            self.all.push(c);
            self.state = State::Call(Box::new(Call::new(false)));
            self.push_to_call(c);
        } else if c.is_whitespace() {
            self.held.push(c);
        } else {
            self.state = State::Text;
            let held = std::mem::take(&mut self.held);
            self.give(&held);
            self.free(c);
        }
    }

    fn free(&mut self, c: char) {
        self.held.push(c);
        loop {
            let held = self.held.as_str();
            if let Some(mark) = self.open.iter().find(|mark| **mark == held) {
                self.open(mark);
                return;
            }
            if self.open.iter().any(|mark| mark.starts_with(held)) {
                return;
            }
            // Its first character is text; the rest may still be the start of a mark.
            let mut rest = self.held.chars();
            let Some(first) = rest.next() else {
                return;
            };
            let rest = rest.as_str().to_owned();
            self.give(first.encode_utf8(&mut [0; 4]));
            self.held = rest;
            if self.held.is_empty() {
                return;
            }
        }
    }

    fn open(&mut self, mark: &str) {
        self.held.clear();
        self.all = mark.to_owned();
        self.state = match self.format {
            ToolFormat::MistralNamed => State::Name(String::new()),
            _ => State::Before { in_array: false },
        };
    }

    fn named(&mut self, name: &str) {
        let name = name.trim();
        if !self.names.iter().any(|known| known == name) {
            return self.interrupt();
        }
        self.events.push(ToolEvent::Begin {
            name: name.to_owned(),
        });
        self.state = State::Call(Box::new(Call::bare()));
    }

    fn before(&mut self, c: char, in_array: bool) {
        let takes_array = matches!(
            self.format,
            ToolFormat::Mistral | ToolFormat::Phi4 | ToolFormat::Hermes
        );
        match c {
            '{' => {
                self.state = State::Call(Box::new(Call::new(in_array)));
                self.push_to_call(c);
            }
            '[' if takes_array && !in_array => self.state = State::Before { in_array: true },
            // Behind a comma; an array of no calls is text.
            ']' if in_array && self.all.trim_start() == "]" => {
                self.state = State::After { in_array: false };
            }
            c if c.is_whitespace() => {}
            // Later Mistral models name the tool at once.
            c if self.format == ToolFormat::Mistral && !in_array => {
                self.state = State::Name(c.to_string());
            }
            _ => self.interrupt(),
        }
    }

    fn call(&mut self, c: char) {
        let is_named =
            self.format == ToolFormat::Mistral || self.format == ToolFormat::MistralNamed;
        let waits = matches!(&self.state, State::Call(call) if call.bare && call.scan.depth() == 0);
        if waits && is_named && c.is_whitespace() {
            return;
        }
        self.push_to_call(c);
    }

    fn push_to_call(&mut self, c: char) {
        let State::Call(call) = &mut self.state else {
            return;
        };
        if call.scan.push(c).is_err() {
            let state = std::mem::replace(&mut self.state, State::Text);
            if let State::Call(call) = state {
                self.broken(*call, c.to_string());
            }
            return;
        }
        let (depth, complete) = (call.scan.depth(), call.scan.is_complete());
        let outer = usize::from(!call.bare);
        if call.begun && !call.done {
            call.done = depth == outer || complete;
            match self.events.last_mut() {
                Some(ToolEvent::Arguments(text)) => text.push(c),
                _ => self.events.push(ToolEvent::Arguments(c.to_string())),
            }
        } else if !call.begun {
            call.head.push(c);
            if c == '{' && depth == 2 && call.head.len() <= MAX_HEAD_BYTES {
                self.try_head();
            } else if call.head.len() > MAX_CALL_BYTES {
                self.interrupt();
                return;
            }
        }
        if complete {
            self.complete();
        }
    }

    /// A head that gives the name and comes to the arguments begins the call.
    fn try_head(&mut self) {
        let key = self.format.arguments_key();
        let State::Call(call) = &mut self.state else {
            return;
        };
        let before = &call.head[..call.head.len() - 1];
        let parsed = crate::json::parse(format!("{before}null}}").as_bytes());
        let Ok(Value::Object(members)) = parsed else {
            return;
        };
        let Some(Value::String(name)) = members.get("name") else {
            return;
        };
        if members.get(key) != Some(&Value::Null) || !self.names.contains(name) {
            return;
        }
        call.begun = true;
        self.events.push(ToolEvent::Begin { name: name.clone() });
        self.events.push(ToolEvent::Arguments("{".to_owned()));
    }

    /// The object is whole.
    fn complete(&mut self) {
        let State::Call(call) = std::mem::replace(&mut self.state, State::Text) else {
            return;
        };
        if !call.begun && !self.whole(&call.head) {
            return self.broken(*call, String::new());
        }
        self.events.push(ToolEvent::End);
        self.called = true;
        self.all.clear();
        self.state = match self.format {
            ToolFormat::Harmony => State::Head(String::new()),
            _ => State::After {
                in_array: call.in_array,
            },
        };
    }

    /// A call that was read to its end before anything of it was given.
    fn whole(&mut self, call: &str) -> bool {
        let key = self.format.arguments_key();
        let Ok(Value::Object(mut members)) = crate::json::parse(call.as_bytes()) else {
            return false;
        };
        let arguments = match members.remove(key) {
            Some(arguments @ Value::Object(_)) => arguments.to_string(),
            _ => return false,
        };
        let Some(Value::String(name)) = members.remove("name") else {
            return false;
        };
        if !self.names.contains(&name) {
            return false;
        }
        self.events.push(ToolEvent::Begin { name });
        self.events.push(ToolEvent::Arguments(arguments));
        true
    }

    fn broken(&mut self, call: Call, rest: String) {
        let all = std::mem::take(&mut self.all);
        self.state = match self.format {
            ToolFormat::Harmony => State::Message(Kind::Answer),
            _ => State::Text,
        };
        match call.begun {
            true => self.events.push(ToolEvent::Broken { all, rest }),
            false => self.give(&all),
        }
    }

    fn after(&mut self, c: char, in_array: bool) {
        match c {
            c if c.is_whitespace() => {}
            ',' if in_array => {
                self.all.clear();
                self.state = State::Before { in_array: true };
            }
            ']' if in_array => self.state = State::After { in_array: false },
            ';' if self.format == ToolFormat::Llama => {
                self.all.clear();
                self.state = State::Before { in_array: false };
            }
            c if self.close.starts_with(c) => {
                self.held = c.to_string();
                self.state = State::Close;
            }
            _ => {
                self.all.clear();
                self.state = State::Text;
                self.free(c);
            }
        }
    }

    fn closing(&mut self, c: char) {
        self.held.push(c);
        if self.held == self.close {
            self.held.clear();
            self.state = State::Text;
        } else if !self.close.starts_with(self.held.as_str()) {
            let held = std::mem::take(&mut self.held);
            self.state = State::Text;
            held.chars().for_each(|c| self.free(c));
        }
    }

    /// A mark of the harmony format.
    fn channel_mark(&mut self, mark: &str) {
        match mark {
            "<|message|>" => {
                if let State::Head(head) = &mut self.state {
                    let head = std::mem::take(head);
                    self.message(&head);
                }
            }
            "<|channel|>" | "<|constrain|>" => {
                if let State::Head(head) = &mut self.state {
                    head.push(' ');
                }
            }
            "<|start|>" | "<|end|>" | "<|call|>" | "<|return|>" => {
                match &self.state {
                    State::Head(_) => {}
                    _ => self.interrupt(),
                }
                self.state = State::Head(String::new());
            }
            _ => {}
        }
    }

    /// A message begins: `ROLE to=RECIPIENT CHANNEL FORMAT`, in any order, each but one optional.
    fn message(&mut self, head: &str) {
        let mut words = head.split_whitespace();
        let to = words.find_map(|word| word.strip_prefix("to="));
        let name = to.and_then(|to| to.strip_prefix("functions."));
        let known = name.filter(|name| self.names.iter().any(|known| known == name));
        if let Some(name) = known {
            self.events.push(ToolEvent::Begin {
                name: name.to_owned(),
            });
            self.all.clear();
            self.state = State::Call(Box::new(Call::bare()));
            return;
        }
        let thinks = head.split_whitespace().any(|word| word == "analysis");
        self.state = State::Message(match thinks {
            true => Kind::Thought,
            false => Kind::Answer,
        });
    }

    fn say(&mut self, c: char, kind: Kind) {
        match (kind, self.events.last_mut()) {
            (Kind::Thought, Some(ToolEvent::Thought(text))) => text.push(c),
            (Kind::Thought, _) => self.events.push(ToolEvent::Thought(c.to_string())),
            (Kind::Answer, _) => self.give(c.encode_utf8(&mut [0; 4])),
        }
    }
}

#[cfg(test)]
mod tests;
