//! Entry points for the fuzz targets and the mutation tests: every parser of foreign bytes, each
//! answering whether it accepted them. Not an interface.

use std::collections::BTreeMap;

use crate::constraint::{Compiler, Course, Preamble, Shape};
use crate::conversation::Conversation;
use crate::error::PromptError;
use crate::request::{ChatMessage, Role};
use crate::template::ChatTemplate;
use crate::tokenizer::{TokenBytes, Tokenizer};
use crate::tools::{Choice, Offer, Tool, ToolFormat, ToolReader};
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

const FORMATS: [ToolFormat; 6] = [
    ToolFormat::Hermes,
    ToolFormat::Llama,
    ToolFormat::Mistral,
    ToolFormat::MistralNamed,
    ToolFormat::Phi4,
    ToolFormat::Harmony,
];

/// An answer that may call tools, in a format that the first byte chooses; 0xff stands before the
/// text of a special token, and 0xfe behind it.
pub fn tool_calls(bytes: &[u8]) -> bool {
    let Some((first, bytes)) = bytes.split_first() else {
        return false;
    };
    let format = FORMATS[usize::from(*first) % FORMATS.len()];
    let mut reader = ToolReader::new(format, vec!["f".to_owned()]);
    for (at, part) in bytes.split(|byte| *byte == 0xff).enumerate() {
        let end = part
            .iter()
            .position(|byte| *byte == 0xfe)
            .filter(|_| at > 0);
        let (mark, text) = part.split_at(end.map_or(0, |end| end + 1));
        drop(reader.mark(&String::from_utf8_lossy(
            mark.strip_suffix(&[0xfe]).unwrap_or(mark),
        )));
        drop(reader.text(&String::from_utf8_lossy(text)));
    }
    drop(reader.finish());
    reader.called()
}

/// A JSON schema, as one of an answer and of a tool; some steps are taken within it.
pub fn schema(bytes: &[u8]) -> bool {
    /// One token for each byte, and one that ends.
    const VOCABULARY: u32 = 257;
    let Ok(schema) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return false;
    };
    let Ok(compiler) = Compiler::of_bytes(VOCABULARY) else {
        return false;
    };
    let offer = Offer {
        tools: vec![Tool {
            name: "f".to_owned(),
            parameters: Some(schema.clone()),
            strict: false,
        }],
        choice: Choice::Auto,
        parallel: true,
    };
    let whole = Shape::Schema {
        schema: &schema,
        strict: true,
    };
    let hermes = Some(ToolFormat::Hermes);
    let _ = compiler.compile(Shape::Tools(&offer), &Preamble::None, hermes);
    let Ok(constraint) = compiler.compile(whole, &Preamble::None, None) else {
        return false;
    };
    let mut course = Course::new(&constraint, VOCABULARY);
    for step in 0..32u32 {
        let Ok(mask) = course.mask() else {
            break;
        };
        let token = crate::constraint::allowed(mask, step * 37 % VOCABULARY);
        if !matches!(course.take(token), Ok(false)) {
            break;
        }
    }
    true
}
