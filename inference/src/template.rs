//! Chat templates, as transformers renders them, with bounded work.
//!
//! No template sees a clock. One that asks whether `strftime_now` is defined is told that it is
//! not, and uses its own fixed date; for one that calls it without asking it tells the day that
//! the conversation names, at midnight, and without such a day the template fails.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::conversation::{Conversation, Day, Turn};
use crate::error::{LoadError, Name, Objection, PromptError};
use crate::json;
use crate::tools::ToolFormat;
use minijinja::value::Kwargs;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Value, context, syntax};
use minijinja_contrib::pycompat;

const NAME: &str = "chat";
const MAX_TEMPLATE_BYTES: usize = 1 << 20;
const MAX_OUTPUT_BYTES: usize = 8 << 20;
/// Instructions of one rendering; a conversation takes some tens for each message.
const FUEL: u64 = 4_000_000;
/// What a conversation's own variables may not replace.
const RESERVED: [&str; 6] = [
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "strftime_now",
    "raise_exception",
];

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    environment: Environment<'static>,
    /// `bos_token` and its like.
    tokens: BTreeMap<String, String>,
    /// Whether it calls `strftime_now` without asking whether there is one.
    wants_a_day: bool,
    /// How answers to it mark what the model thinks, as far as the template tells.
    pub(crate) style: Option<Style>,
    /// The format of tool calls that it teaches.
    pub(crate) tools: Option<ToolFormat>,
}

/// How a model marks what it thinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Between two marks.
    Tags {
        open: &'static str,
        close: &'static str,
    },
    /// Each message has a channel: OpenAI's harmony format.
    Channels,
}

impl Style {
    /// By the marks that the template itself writes or looks for.
    fn of(source: &str) -> Option<Self> {
        const TAGS: [(&str, &str); 3] = [
            ("<think>", "</think>"),
            ("[THINK]", "[/THINK]"),
            ("<|START_THINKING|>", "<|END_THINKING|>"),
        ];
        if source.contains("<|channel|>") && source.contains("<|message|>") {
            return Some(Self::Channels);
        }
        let (open, close) = TAGS.into_iter().find(|(_, close)| source.contains(close))?;
        Some(Self::Tags { open, close })
    }
}

/// A conversation as a template renders it.
pub(crate) struct Rendered {
    pub(crate) text: String,
    /// Whether the answer begins with what the model thinks: the prompt ends with the mark.
    pub(crate) thinks: bool,
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
        // In Python nothing iterates over `None`.
        environment.add_test("iterable", |value: &Value| {
            !value.is_none() && value.try_iter().is_ok()
        });
        let says = |words: &str| source.contains(words);
        let asks = says("strftime_now is defined") || says("strftime_now is not defined");
        let wants_a_day = says("strftime_now(") && !asks;
        let style = Style::of(&source);
        let tools = ToolFormat::of_template(&source);
        environment
            .add_template_owned(NAME, source)
            .map_err(broken)?;
        Ok(Self {
            environment,
            tokens,
            wants_a_day,
            style,
            tools,
        })
    }

    /// The text of a conversation, up to where the model's next answer begins.
    pub(crate) fn render(&self, conversation: &Conversation) -> Result<Rendered, PromptError> {
        let Conversation {
            messages,
            tools,
            variables,
            today,
        } = conversation;
        let reserved =
            |name: &&String| RESERVED.contains(&name.as_str()) || self.tokens.contains_key(*name);
        if let Some(name) = variables.iter().map(|(name, _)| name).find(reserved) {
            return Err(PromptError::Variable(Name::new(name)));
        }
        let messages: Vec<Value> = messages.iter().map(Turn::value).collect();
        let tools = match tools.as_slice() {
            [] => Value::from(()),
            tools => tools.iter().map(Value::from).collect(),
        };
        let mut names: BTreeMap<String, Value> = BTreeMap::new();
        let tokens = self.tokens.iter();
        names.extend(tokens.map(|(name, text)| (name.clone(), text.as_str().into())));
        let own = variables.iter();
        names.extend(own.map(|(name, value)| (name.clone(), Value::from(value))));
        if let Some(day) = today.filter(|_| self.wants_a_day) {
            let tell = move |format: String| strftime(day, &format);
            names.insert("strftime_now".to_owned(), Value::from_function(tell));
        }
        let inputs = context! {
            messages,
            tools,
            documents => (),
            add_generation_prompt => true,
            ..Value::from(names)
        };
        let mut output = Bounded::default();
        let template = self.environment.get_template(NAME).map_err(blame)?;
        // The library panics where some slices of nothing are taken; a template is foreign text.
        let rendering = AssertUnwindSafe(|| template.render_captured_to(inputs, &mut output));
        let rendered = catch_unwind(rendering).map_err(|_| PromptError::Template { line: 0 })?;
        rendered.map_err(blame)?;
        let text =
            String::from_utf8(output.bytes).map_err(|_| PromptError::Template { line: 0 })?;
        let thinks = match self.style {
            Some(Style::Tags { open, .. }) => text.trim_end().ends_with(open),
            _ => false,
        };
        Ok(Rendered { text, thinks })
    }
}

/// Python's `strftime`, of a day at midnight.
fn strftime(day: Day, format: &str) -> Result<String, Error> {
    let unknown = || Error::new(ErrorKind::InvalidOperation, "not a known format");
    day.strftime(format).ok_or_else(unknown)
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
    let failed = || Error::new(ErrorKind::BadSerialization, "not JSON");
    let indent: Option<usize> = options.get("indent")?;
    if options.get::<Option<bool>>("ensure_ascii")? == Some(true) {
        return Err(failed());
    }
    options.assert_all_used()?;
    json::python(value, indent.map(|width| width.min(16))).ok_or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use crate::request::{ChatMessage, Role};

    fn ask(template: &str, conversation: &Conversation) -> Result<Rendered, PromptError> {
        let template = ChatTemplate::compile(template.into(), BTreeMap::new());
        template.expect("a template").render(conversation)
    }

    fn conversation() -> Conversation {
        Conversation::from(
            &[ChatMessage {
                role: Role::User,
                content: "secret".into(),
            }][..],
        )
    }

    fn render(template: &str) -> Result<String, PromptError> {
        ask(template, &conversation()).map(|rendered| rendered.text)
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
        // Whoever asks is not told, whatever the day.
        let today = Day::new(2026, 3, 1);
        let dated = Conversation {
            today,
            ..conversation()
        };
        let told = |template: &str| ask(template, &dated).map(|rendered| rendered.text);
        assert_eq!(told("{{ strftime_now is defined }}"), Ok("False".into()));
        let format = "{{ strftime_now('%d %b %Y') }}";
        assert_eq!(told(format), Ok("01 Mar 2026".into()));
        let unknown = "{{ strftime_now('%Q') }}";
        assert_eq!(told(unknown), Err(PromptError::Template { line: 1 }));
    }

    #[test]
    fn variables_do_not_replace_what_a_template_stands_on() {
        let with = |name: &str| Conversation {
            variables: vec![(name.to_owned(), Json::Bool(true))],
            ..conversation()
        };
        let template = "{% if enable_thinking %}yes{% else %}no{% endif %}";
        let rendered = ask(template, &with("enable_thinking"));
        assert_eq!(rendered.map(|rendered| rendered.text), Ok("yes".into()));
        assert_eq!(render(template), Ok("no".into()));
        for name in RESERVED {
            let refusal = ask(template, &with(name)).map(|rendered| rendered.text);
            assert_eq!(refusal, Err(PromptError::Variable(Name::new(name))));
        }
    }

    #[test]
    fn thoughts_have_both_names_that_templates_know() {
        let thought = Turn::from(&ChatMessage {
            role: Role::Assistant,
            content: "a".into(),
        })
        .with("reasoning_content", "b");
        let conversation = Conversation {
            messages: vec![thought],
            ..Conversation::default()
        };
        for template in [
            "{{ messages[0].reasoning_content }}",
            "{{ messages[0].thinking }}",
        ] {
            let rendered = ask(template, &conversation).map(|rendered| rendered.text);
            assert_eq!(rendered, Ok("b".into()));
        }
    }

    #[test]
    fn prompts_that_open_a_thought_are_known() {
        let thinks = |end: &str| {
            let template = format!("{{{{ messages[0].content }}}}</think>{end}");
            let opened = Conversation::from(
                &[ChatMessage {
                    role: Role::User,
                    content: "<think>".into(),
                }][..],
            );
            ask(&template, &opened).map(|rendered| rendered.thinks)
        };
        assert_eq!(thinks("<|im_start|>assistant\n<think>\n"), Ok(true));
        assert_eq!(thinks("<think>\n\n</think>\n\n"), Ok(false));
        assert_eq!(thinks("<|im_start|>assistant\n"), Ok(false));
    }

    #[test]
    fn a_library_that_panics_is_a_refusal() {
        let empty = "{% for m in messages[1:][::-1] %}{{ m }}{% endfor %}";
        assert!(render(empty).is_err() || render(empty) == Ok(String::new()));
        assert_eq!(render("{{ none is iterable }}"), Ok("False".into()));
        assert_eq!(render("{{ [] is iterable }}"), Ok("True".into()));
    }

    /// Repeating, counting and indenting do not get further than a bound, whatever the number.
    #[test]
    fn hostile_templates_are_bounded() {
        for template in [
            "{{ 'x' * 99999999999 }}",
            "{{ [1] * 99999999999 }}",
            "{{ range(99999999999) | list | length }}",
        ] {
            let refusal = Err(PromptError::Template { line: 1 });
            assert_eq!(render(template), refusal, "{template}");
        }
        let long = "{{ 'x' * 90000000 }}";
        assert_eq!(render(long), Err(PromptError::TooMuchWork));
        let indented = render("{{ messages | tojson(indent=99999999999) }}");
        assert!(indented.is_ok_and(|text| text.len() < 200));
        let (deep, closed) = ("{% if true %}".repeat(3000), "{% endif %}".repeat(3000));
        assert!(ChatTemplate::compile(deep + &closed, BTreeMap::new()).is_err());
        let huge = ChatTemplate::compile("x".repeat(MAX_TEMPLATE_BYTES + 1), BTreeMap::new());
        assert!(matches!(huge, Err(LoadError::ChatTemplate { line: 0 })));
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
            let messages: Vec<ChatMessage> = messages.collect();
            let rendered = template.render(&Conversation::from(&messages[..]));
            let rendered = rendered.map(|rendered| rendered.text);
            match case["text"].as_str() {
                Some(text) => assert_eq!(rendered.as_deref(), Ok(text), "{name} {case}"),
                None => assert!(matches!(rendered, Err(PromptError::Refused(_))), "{name}"),
            }
        }
    }

    /// Thirty conversations with tools, thoughts and variables through a template of each family.
    #[test]
    fn tools_and_thoughts_render_as_in_transformers() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/templates");
        let expected = std::fs::read(format!("{folder}/expected.json")).expect("a fixture");
        let expected: Json = serde_json::from_slice(&expected).expect("JSON");
        let list = |value: &Json| match value {
            Json::Array(items) => items.clone(),
            _ => Vec::new(),
        };
        let members = |value: &Json| match value {
            Json::Object(members) => members.clone(),
            _ => Vec::new(),
        };
        let get = |value: &Json, name: &str| {
            let found = members(value).into_iter().find(|(other, _)| other == name);
            found.map_or(Json::Null, |(_, value)| value)
        };
        let text = |value: &Json| match value {
            Json::String(text) => Some(text.clone()),
            _ => None,
        };
        let tokens = members(&get(&expected, "tokens"));
        let tokens: BTreeMap<String, String> = tokens
            .into_iter()
            .map(|(name, token)| (name, text(&token).expect("a token")))
            .collect();
        let today = Day::parse(&text(&get(&expected, "today")).expect("a day"));
        let conversations = list(&get(&expected, "conversations"));
        assert_eq!((conversations.len(), today.is_some()), (30, true));
        let families = members(&get(&expected, "texts"));
        assert_eq!(families.len(), 7);
        for (family, texts) in families {
            let source = std::fs::read_to_string(format!("{folder}/{family}.jinja"));
            let template = ChatTemplate::compile(source.expect("a template"), tokens.clone());
            let template = template.expect("it compiles");
            for (at, (case, expected)) in conversations.iter().zip(list(&texts)).enumerate() {
                let turns = list(&get(case, "messages")).into_iter();
                let conversation = Conversation {
                    messages: turns.map(|turn| Turn::from(members(&turn))).collect(),
                    tools: list(&get(case, "tools")),
                    variables: members(&get(case, "variables")),
                    today,
                };
                let rendered = template.render(&conversation).map(|rendered| rendered.text);
                assert_eq!(
                    rendered.ok(),
                    text(&expected),
                    "{family}, conversation {at}"
                );
            }
        }
    }

    #[test]
    fn broken_templates_are_refused_with_their_line() {
        let broken = ChatTemplate::compile("a\n{% if %}".into(), BTreeMap::new());
        assert!(matches!(broken, Err(LoadError::ChatTemplate { line: 2 })));
    }
}
