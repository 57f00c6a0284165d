//! What an answer is to be, as a grammar in llguidance's variant of Lark. Text of a client stands
//! in it as JSON only.

use serde_json::{Value, json};

use super::{Marks, Shape, schema};
use crate::error::ConstraintError;
use crate::tools::{Choice, Offer, Tool, ToolFormat};

/// Calls of one answer.
const MAX_CALLS: usize = 16;

/// What a model may write before what a constraint is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Preamble {
    /// Nothing.
    #[default]
    None,
    /// What it thinks, between marks. Where the prompt ends with the first mark, `opened`.
    Thought {
        /// Begins it.
        open: String,
        /// Ends it.
        close: String,
        /// Whether the prompt has begun it.
        opened: bool,
    },
    /// Messages on channels: OpenAI's harmony format.
    Channels,
}

/// A grammar under way: rules by name, `start` among them.
struct Grammar<'a> {
    marks: &'a Marks,
    rules: String,
    count: usize,
}

pub(super) fn write(
    marks: &Marks,
    drops_space: bool,
    shape: Shape<'_>,
    preamble: &Preamble,
    format: Option<ToolFormat>,
) -> Result<String, ConstraintError> {
    let mut grammar = Grammar {
        marks,
        rules: String::new(),
        count: 0,
    };
    let body = match shape {
        Shape::Json => grammar.json(&json!({"type": "object"}), true)?,
        Shape::Schema { schema, strict } => grammar.json(schema, strict)?,
        Shape::Tools(offer) => {
            let format = format.ok_or(ConstraintError::NoTools)?;
            if *preamble == Preamble::Channels || format == ToolFormat::Harmony {
                return grammar.channels_with(offer);
            }
            grammar.calls(format, offer)?
        }
    };
    if *preamble == Preamble::Channels {
        return grammar.channels(&body);
    }
    let before = grammar.preamble(preamble);
    let space = if drops_space { "(\" \")? " } else { "" };
    Ok(format!("start: {space}{before}{body}\n{}", grammar.rules))
}

impl Grammar<'_> {
    /// A rule of its own; answers its name.
    fn rule(&mut self, attributes: &str, body: &str) -> String {
        self.count += 1;
        let name = format!("r{}", self.count);
        self.rules += &format!("{name}{attributes}: {body}\n");
        name
    }

    /// A terminal of its own; answers its name.
    fn terminal(&mut self, body: &str) -> String {
        self.count += 1;
        let name = format!("T{}", self.count);
        self.rules += &format!("{name}: {body}\n");
        name
    }

    /// A mark: the special token of that text, or the text.
    fn mark(&self, text: &str) -> String {
        match self.marks.id(text) {
            Some(id) => format!("<[{id}]>"),
            None => literal(text),
        }
    }

    /// Text up to a mark, and the mark.
    fn up_to(&mut self, text: &str) -> String {
        match self.marks.id(text) {
            Some(id) => format!("/(?s:.*)/ <[{id}]>"),
            None => self.rule("[lazy]", &format!("/(?s:.*)/ {}", literal(text))),
        }
    }

    fn json(&mut self, schema: &Value, strict: bool) -> Result<String, ConstraintError> {
        let schema = schema::check(schema, strict)?;
        Ok(self.rule("", &format!("%json {schema}")))
    }

    fn preamble(&mut self, preamble: &Preamble) -> String {
        let Preamble::Thought {
            open,
            close,
            opened,
        } = preamble
        else {
            return String::new();
        };
        let thought = self.up_to(close);
        let gap = self.terminal(r"/\n{0,2}/");
        match opened {
            true => format!("{thought} {gap} "),
            false => {
                let open = self.mark(open);
                format!("({open} {thought} {gap})? ")
            }
        }
    }

    /// The tools that may be called.
    fn callable(offer: &Offer) -> Result<Vec<&Tool>, ConstraintError> {
        let is_named = |tool: &&Tool| match &offer.choice {
            Choice::Named(name) => tool.name == *name,
            Choice::Auto | Choice::Required => true,
        };
        let tools: Vec<&Tool> = offer.tools.iter().filter(is_named).collect();
        match tools.is_empty() {
            true => Err(ConstraintError::NoTools),
            false => Ok(tools),
        }
    }

    /// The arguments of a tool.
    fn arguments(&mut self, tool: &Tool) -> Result<String, ConstraintError> {
        let any = json!({"type": "object"});
        self.json(tool.parameters.as_ref().unwrap_or(&any), tool.strict)
    }

    /// One call, `{"name": …, "arguments": …}`.
    fn call(&mut self, format: ToolFormat, offer: &Offer) -> Result<String, ConstraintError> {
        let key = format.arguments_key();
        let mut options = Vec::new();
        for tool in Self::callable(offer)? {
            let arguments = self.arguments(tool)?;
            let name = Value::from(tool.name.as_str());
            let head = literal(&format!("{{\"name\": {name}, \"{key}\": "));
            options.push(format!("{head} {arguments} \"}}\""));
        }
        Ok(self.rule("", &options.join(" | ")))
    }

    /// Calls in a format that has marks or none, after free text where they need not be.
    fn calls(&mut self, format: ToolFormat, offer: &Offer) -> Result<String, ConstraintError> {
        let more = match offer.parallel {
            true => MAX_CALLS - 1,
            false => 0,
        };
        let free = matches!(offer.choice, Choice::Auto);
        if format == ToolFormat::MistralNamed {
            return self.named_calls(offer, more, free);
        }
        let call = self.call(format, offer)?;
        let (open, close) = match format {
            ToolFormat::Hermes => ("<tool_call>", "</tool_call>"),
            ToolFormat::Phi4 if self.marks.id("<|tool_call|>").is_some() => {
                ("<|tool_call|>", "<|/tool_call|>")
            }
            ToolFormat::Phi4 => ("functools", ""),
            ToolFormat::Mistral => ("[TOOL_CALLS]", ""),
            ToolFormat::Llama | ToolFormat::MistralNamed | ToolFormat::Harmony => ("", ""),
        };
        // What follows the mark that opens.
        let body = match format {
            ToolFormat::Hermes => {
                let (open, close) = (self.mark(open), self.mark(close));
                let again = format!("\"\\n\" {open} \"\\n\" {call} \"\\n\" {close}");
                let again = repeated(&again, more);
                format!("\"\\n\" {call} \"\\n\" {close} {again}")
            }
            ToolFormat::Phi4 | ToolFormat::Mistral => {
                let close = match close {
                    "" => String::new(),
                    close => self.mark(close),
                };
                let again = repeated(&format!("\", \" {call}"), more);
                format!("\"[\" {call} {again} \"]\" {close}")
            }
            _ => format!("{call} {}", repeated(&format!("\"; \" {call}"), more)),
        };
        Ok(match (free, open) {
            (false, "") => self.rule("", &body),
            (false, open) => {
                let open = self.mark(open);
                self.rule("", &format!("{open} {body}"))
            }
            // An answer that begins like a call is one.
            (true, "") => {
                let other = self.terminal(r"/[^\s{](?s:.*)/");
                self.rule("", &format!("{other} | {body}"))
            }
            (true, open) => self.after_text(open, &body),
        })
    }

    /// Free text, which the mark ends that begins what is constrained; or free text alone.
    fn after_text(&mut self, open: &str, body: &str) -> String {
        match self.marks.id(open) {
            Some(id) => {
                let text = self.terminal("/(?s:.*)/");
                self.rule("", &format!("{text} (<[{id}]> {body})?"))
            }
            None => {
                let begun = self.up_to(open);
                let escaped = escape(open);
                let text = self.terminal(&format!("/(?s:.*)/ & ~/(?s:.*){escaped}(?s:.*)/"));
                self.rule("", &format!("{begun} {body} | {text}"))
            }
        }
    }

    /// `[TOOL_CALLS]name[ARGS]{…}`, once for each call.
    fn named_calls(
        &mut self,
        offer: &Offer,
        more: usize,
        free: bool,
    ) -> Result<String, ConstraintError> {
        let (open, args) = (self.mark("[TOOL_CALLS]"), self.mark("[ARGS]"));
        let mut options = Vec::new();
        for tool in Self::callable(offer)? {
            let arguments = self.arguments(tool)?;
            let name = literal(&tool.name);
            options.push(format!("{name} {args} {arguments}"));
        }
        let call = self.rule("", &options.join(" | "));
        let body = format!("{call} {}", repeated(&format!("{open} {call}"), more));
        Ok(match free {
            true => self.after_text("[TOOL_CALLS]", &body),
            false => self.rule("", &format!("{open} {body}")),
        })
    }

    /// Thought on its channel, then the answer on the last one.
    fn channels(mut self, body: &str) -> Result<String, ConstraintError> {
        let thought = self.thought_on_channel();
        let channel = self.mark("<|channel|>");
        let message = self.mark("<|message|>");
        let start = format!("start: {thought}{channel} \"final\" {message} {body}\n");
        Ok(start + &self.rules)
    }

    /// Thought on its channel, then a call, or where it is free an answer.
    fn channels_with(mut self, offer: &Offer) -> Result<String, ConstraintError> {
        let thought = self.thought_on_channel();
        let channel = self.mark("<|channel|>");
        let message = self.mark("<|message|>");
        let constrain = self.mark("<|constrain|>");
        let mut options = Vec::new();
        for tool in Self::callable(offer)? {
            let arguments = self.arguments(tool)?;
            let head = literal(&format!("commentary to=functions.{} ", tool.name));
            options.push(format!("{head} {constrain} \"json\" {message} {arguments}"));
        }
        if matches!(offer.choice, Choice::Auto) {
            options.push(format!("\"final\" {message} /(?s:.*)/"));
        }
        let body = self.rule("", &options.join(" | "));
        Ok(format!("start: {thought}{channel} {body}\n{}", self.rules))
    }

    fn thought_on_channel(&mut self) -> String {
        let channel = self.mark("<|channel|>");
        let message = self.mark("<|message|>");
        let start = self.mark("<|start|>");
        let text = self.up_to("<|end|>");
        format!("({channel} \"analysis\" {message} {text} {start} \"assistant\")? ")
    }
}

/// Up to so many times.
fn repeated(what: &str, most: usize) -> String {
    match most {
        0 => String::new(),
        most => format!("({what}){{0,{most}}}"),
    }
}

/// A text as Lark spells it, which is as JSON does.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// A text within a regular expression.
fn escape(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii();
    let escaped = text.chars().map(|c| match plain(c) {
        true => c.to_string(),
        false => format!("\\x{:02X}", c as u32),
    });
    escaped.collect()
}
