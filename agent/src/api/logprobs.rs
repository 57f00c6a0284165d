//! How likely the tokens of an answer were, in OpenAI's two shapes.

use inference::{TokenChoice, TokenLogprob};
use serde::Serialize;
use serde_json::{Map, Value};

/// Of a chat.
#[derive(Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct ChatToken {
    #[serde(flatten)]
    taken: Entry,
    top_logprobs: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// Of a completion.
#[derive(Serialize)]
pub(super) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<Map<String, Value>>,
}

impl ChatLogprobs {
    pub(super) fn of(tokens: &[TokenChoice]) -> Self {
        let content = tokens.iter().map(|choice| ChatToken {
            taken: Entry::of(&choice.taken),
            top_logprobs: choice.likeliest.iter().map(Entry::of).collect(),
        });
        Self {
            content: content.collect(),
            refusal: None,
        }
    }
}

impl TextLogprobs {
    pub(super) fn of(tokens: &[TokenChoice]) -> Self {
        let top = |choice: &TokenChoice| {
            let likeliest = choice.likeliest.iter();
            let likeliest = likeliest.map(|one| (text(one), Value::from(one.logprob)));
            likeliest.collect()
        };
        Self {
            tokens: tokens.iter().map(|choice| text(&choice.taken)).collect(),
            token_logprobs: tokens.iter().map(|choice| choice.taken.logprob).collect(),
            top_logprobs: tokens.iter().map(top).collect(),
        }
    }
}

impl Entry {
    fn of(one: &TokenLogprob) -> Self {
        Self {
            token: text(one),
            logprob: one.logprob,
            bytes: one.bytes.clone(),
        }
    }
}

/// A part of a character is shown as a replacement; `bytes` has it whole.
fn text(one: &TokenLogprob) -> String {
    String::from_utf8_lossy(&one.bytes).into_owned()
}
