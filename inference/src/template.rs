//! Chat templates, as transformers renders them, with bounded work.
//!
//! `strftime_now` is not defined: an answer may not depend on the day. Templates that ask whether
//! it is defined use their own fixed date; others are refused when they call it.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::io;

use minijinja::value::{Kwargs, Serde};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context, syntax};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use serde_json::{Map, Value as Json};

use crate::error::{LoadError, Objection, PromptError};
use crate::request::ChatMessage;
use crate::tools::ToolFormat;

const NAME: &str = "chat";
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
const MAX_OUTPUT_BYTES: usize = 8 << 20;
/// Instructions of one rendering; a conversation takes some tens for each message.
const FUEL: u64 = 4_000_000;

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and its like.
    tokens: BTreeMap<String, String>,
    /// The format of tool calls that it teaches.
    pub(crate) tools: Option<ToolFormat>,
}

impl ChatTemplate {
    pub(crate) fn compile(
        source: String,
        tokens: BTreeMap<String, String>,
    ) -> Result<Self, LoadError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(LoadError::ChatTemplate { line: 0 });
        }
        let mut environment = Environment::new();
        let syntax = syntax::SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build();
        let broken = |error: Error| LoadError::ChatTemplate {
            line: error.line().unwrap_or(0),
        };
        environment.set_syntax(syntax.map_err(broken)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_function("raise_exception", raise_exception);
        environment.add_filter("tojson", to_json);
        let tools = ToolFormat::of_template(&source);
        environment
            .add_template_owned(NAME, source)
            .map_err(broken)?;
        Ok(Self {
            environment,
            tokens,
            tools,
        })
    }

    /// The text of a conversation, up to where the model's next answer begins.
    pub(crate) fn render(&self, messages: &[ChatMessage]) -> Result<String, PromptError> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| {
                let role = ("role", message.role.as_str());
                Value::from_pairs([role, ("content", message.content.as_str())])
            })
            .collect();
        self.fill(messages.into(), Value::from(()))
    }

    /// As [`render`](Self::render), of turns with all that a template may look for, and tools.
    pub(crate) fn render_turns(
        &self,
        turns: &[Map<String, Json>],
        tools: &[Json],
    ) -> Result<String, PromptError> {
        let tools = match tools {
            [] => Value::from(()),
            tools => Value::from(Serde(tools)),
        };
        self.fill(Value::from(Serde(turns)), tools)
    }

    fn fill(&self, messages: Value, tools: Value) -> Result<String, PromptError> {
        let tokens = Value::from_pairs(self.tokens.clone());
        let inputs = context! {
            messages,
            tools,
            documents => (),
            add_generation_prompt => true,
            ..tokens
        };
        let mut output = Bounded::default();
        let template = self.environment.get_template(NAME).map_err(blame)?;
        template
            .render_captured_to(inputs, &mut output)
            .map_err(blame)?;
        String::from_utf8(output.bytes).map_err(|_| PromptError::Template { line: 0 })
    }
}

/// What a template says by `raise_exception`.
#[derive(Debug)]
struct Raised(Objection);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the template refused the messages")
    }
}

impl std::error::Error for Raised {}

fn raise_exception(words: String) -> Result<Value, Error> {
    let raised = Raised(Objection(words.into()));
    Err(Error::new(ErrorKind::InvalidOperation, "refused").with_source(raised))
}

fn blame(error: Error) -> PromptError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(objection)) = cause.downcast_ref() {
            return PromptError::Refused(objection.clone());
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel | ErrorKind::WriteFailure => PromptError::TooMuchWork,
        _ => PromptError::Template {
            line: error.line().unwrap_or(0),
        },
    }
}

/// Output up to [`MAX_OUTPUT_BYTES`].
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_OUTPUT_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut bytes = Vec::new();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let formatter = PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(
                &mut bytes, formatter,
            ))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut bytes, Spaced,
        )),
    };
    let failed = || Error::new(ErrorKind::BadSerialization, "not JSON");
    written.map_err(|_| failed())?;
    String::from_utf8(bytes).map_err(|_| failed())
}

/// Python's separators: `", "` and `": "`.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first {
            Ok(())
        } else {
            writer.write_all(b", ")
        }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Role;

    fn render(template: &str) -> Result<String, PromptError> {
        let messages = [ChatMessage {
            role: Role::User,
            content: "secret".into(),
        }];
        let template = ChatTemplate::compile(template.into(), BTreeMap::new());
        template.expect("a template").render(&messages)
    }

    #[test]
    fn refusals_carry_the_templates_words_but_do_not_print_them() {
        let refusal = render("{{ raise_exception('no ' ~ messages[0].content) }}");
        let Err(PromptError::Refused(objection)) = refusal else {
            panic!("{refusal:?}")
        };
        assert_eq!(objection.words(), "no secret");
        let refusal = PromptError::Refused(objection);
        assert!(!format!("{refusal} {refusal:?}").contains("secret"));
    }

    #[test]
    fn the_clock_is_not_there() {
        assert_eq!(render("{{ strftime_now is defined }}"), Ok("False".into()));
        assert_eq!(
            render("\n{{ strftime_now('%Y') }}"),
            Err(PromptError::Template { line: 2 })
        );
    }

    #[test]
    fn endless_templates_end() {
        let loops = "{% for a in range(9999) %}".repeat(3) + "{% set b = a %}";
        let endless = loops + &"{% endfor %}".repeat(3);
        assert_eq!(render(&endless), Err(PromptError::TooMuchWork));
        let wordy = "{% for a in range(99999) %}".to_owned() + &"x".repeat(99) + "{% endfor %}";
        assert_eq!(render(&wordy), Err(PromptError::TooMuchWork));
        let recursive = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        assert!(render(recursive).is_err());
    }

    #[test]
    fn conversations_render_as_in_transformers() {
        let fixture = include_str!("../../tests/fixtures/llama/templates.json");
        let fixture: serde_json::Value = serde_json::from_str(fixture).expect("JSON");
        let tokens = [
            ("bos_token", "<|begin_of_text|>"),
            ("eos_token", "<|im_end|>"),
        ];
        let tokens: BTreeMap<_, _> = tokens.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        for case in fixture["cases"].as_array().expect("cases") {
            let name = case["template"].as_str().expect("a name");
            let source = fixture["templates"][name]
                .as_str()
                .expect("a template")
                .to_owned();
            let template = ChatTemplate::compile(source, tokens.clone()).expect("it compiles");
            let messages = case["messages"]
                .as_array()
                .expect("messages")
                .iter()
                .map(|message| {
                    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
                    let role = roles.into_iter().find(|role| message[0] == role.as_str());
                    let content = message[1].as_str().expect("content").to_owned();
                    ChatMessage {
                        role: role.expect("a role"),
                        content,
                    }
                });
            let rendered = template.render(&messages.collect::<Vec<_>>());
            match case["text"].as_str() {
                Some(text) => assert_eq!(rendered.as_deref(), Ok(text), "{name} {case}"),
                None => assert!(matches!(rendered, Err(PromptError::Refused(_))), "{name}"),
            }
        }
    }

    #[test]
    fn broken_templates_are_refused_with_their_line() {
        let broken = ChatTemplate::compile("a\n{% if %}".into(), BTreeMap::new());
        assert!(matches!(broken, Err(LoadError::ChatTemplate { line: 2 })));
    }
}
