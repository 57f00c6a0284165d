//! Entry points for the fuzz targets and the mutation tests: every parser of foreign bytes, each
//! answering whether it accepted them. Not an interface.

use std::collections::BTreeMap;

use crate::conversation::Conversation;
use crate::error::PromptError;
use crate::request::{ChatMessage, Role};
use crate::template::ChatTemplate;
use crate::tokenizer::{TokenBytes, Tokenizer};
use crate::{embedding, family, json};

/// The header of a safetensors file.
pub fn safetensors(file: &[u8]) -> bool {
    let Ok(entries) = crate::safetensors::read_header(file) else {
        return false;
    };
    entries
        .iter()
        .all(|entry| file.get(entry.range.clone()).is_some())
}

/// A `config.json`, or one of the files of an embedding model.
pub fn config(bytes: &[u8]) -> bool {
    json::parse(bytes).is_ok_and(|config| {
        let embeds = embedding::reads(&config);
        family::read(config).is_ok() || embeds
    })
}

/// A chat template, on one conversation.
pub fn template(bytes: &[u8]) -> bool {
    let Ok(source) = String::from_utf8(bytes.to_vec()) else {
        return false;
    };
    let Ok(template) = ChatTemplate::compile(source, BTreeMap::new()) else {
        return false;
    };
    let say = |role, content: &str| ChatMessage {
        role,
        content: content.to_owned(),
    };
    template
        .render(&Conversation::from(
            &[say(Role::System, "a"), say(Role::User, "b\n{{ c }}")][..],
        ))
        .is_ok()
}

/// A `tokenizer.json`: there and back.
pub fn tokenizer(bytes: &[u8]) -> bool {
    let Ok(tokenizer) = Tokenizer::read(bytes, 1 << 20) else {
        return false;
    };
    let Ok(prompt) = tokenizer.encode("What is a launch digest? 🦀", true, 4096) else {
        return false;
    };
    let mut bytes = TokenBytes::new(&tokenizer);
    prompt
        .tokens()
        .iter()
        .for_each(|token| drop(bytes.push(&tokenizer, *token).to_vec()));
    true
}

/// A conversation through any template, for comparisons; a refusal says why.
pub fn render(
    template: &str,
    tokens: BTreeMap<String, String>,
    conversation: &Conversation,
) -> Result<String, String> {
    let template = ChatTemplate::compile(template.to_owned(), tokens);
    let template = template.map_err(|error| error.to_string())?;
    let rendered = template.render(conversation);
    rendered
        .map(|rendered| rendered.text)
        .map_err(|error| match error {
            PromptError::Refused(objection) => objection.words().to_owned(),
            error => error.to_string(),
        })
}
