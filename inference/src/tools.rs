//! Tools: what is offered, in which of the families' formats a model calls them, and the calls that
//! are found in its answer.

use std::fmt;

use serde_json::Value;

pub use read::{ToolEvent, ToolReader};

mod read;
mod scan;

/// A tool that a model may call. It holds content: `Debug` shows none.
#[derive(Clone, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// A schema of its arguments; `None` is any object.
    pub parameters: Option<Value>,
    /// Whether every keyword of the schema must hold.
    pub strict: bool,
}

/// Tools, and how they are to be used.
#[derive(Clone, PartialEq)]
pub struct Offer {
    /// At least one.
    pub tools: Vec<Tool>,
    /// Whether any is called.
    pub choice: Choice,
    /// Whether several may be called in one answer.
    pub parallel: bool,
}

/// Whether tools are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// As the model likes.
    Auto,
    /// At least one is.
    Required,
    /// This one is.
    Named(String),
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tool")
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer")
            .field("tools", &self.tools.len())
            .field("parallel", &self.parallel)
            .finish_non_exhaustive()
    }
}

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>` and an object: Qwen2.5, Qwen3 and others.
    Hermes,
    /// An object with `parameters`, and nothing else: Llama 3.
    Llama,
    /// `[TOOL_CALLS]` and an array: Mistral.
    Mistral,
    /// `[TOOL_CALLS]`, a name, `[ARGS]` and an object: later Mistral.
    MistralNamed,
    /// `<|tool_call|>` or `functools`, and an array: Phi-4.
    Phi4,
    /// A message to `functions.NAME`: gpt-oss.
    Harmony,
}

impl ToolFormat {
    /// The format that a chat template teaches, by the marks it writes. A template that says
    /// nothing of tools has none.
    pub(crate) fn of_template(source: &str) -> Option<Self> {
        let says = |words: &str| source.contains(words);
        if !says("tool") {
            None
        } else if says("<|channel|>") && says("functions.") {
            Some(Self::Harmony)
        } else if says("<tool_call>") {
            Some(Self::Hermes)
        } else if says("[TOOL_CALLS]") {
            Some(match says("[ARGS]") {
                true => Self::MistralNamed,
                false => Self::Mistral,
            })
        } else if says("<|tool|>") || says("functools") || says("<|tool_call|>") {
            Some(Self::Phi4)
        } else if says("\"parameters\"") && says("<|start_header_id|>") {
            Some(Self::Llama)
        } else {
            None
        }
    }

    /// The member of a call that holds its arguments.
    pub(crate) fn arguments_key(self) -> &'static str {
        match self {
            Self::Llama => "parameters",
            _ => "arguments",
        }
    }
}
