//! Constrained answers of a small random model: whatever it would say, what it says fits.

#![allow(clippy::expect_used, clippy::panic)] // a test's helpers may fail, too

use std::path::Path;

use inference::{
    Choice, Constraint, ConstraintError, Engine, EngineLimits, Finish, Offer, Preamble, Prompt,
    Request, Sampling, Shape, Tool, ToolEvent, ToolFormat, ToolReader,
};
use serde_json::{Value, json};

fn fixture(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/llama/f32-tied-llama3")
        .join(file)
}

fn limits() -> EngineLimits {
    EngineLimits {
        context_tokens: 256,
        max_new_tokens: 250,
        ..Default::default()
    }
}

/// The fixture's model with another chat template and, from number 288 on, other special tokens.
fn engine(template: &str, special: &[&str]) -> (Engine, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in ["config.json", "generation_config.json", "model.safetensors"] {
        std::fs::copy(fixture(file), folder.path().join(file)).expect("a copy");
    }
    let text = std::fs::read(fixture("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_slice(&text).expect("JSON");
    let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
    for (token, id) in special.iter().zip(300u32..) {
        let mut one = added[0].clone();
        one["id"] = id.into();
        one["content"] = (*token).into();
        one["special"] = true.into();
        added.push(one);
    }
    let write = |file: &str, text: Vec<u8>| {
        std::fs::write(folder.path().join(file), text).expect("written");
    };
    write("tokenizer.json", tokenizer.to_string().into_bytes());
    write("chat_template.jinja", template.as_bytes().to_vec());
    let engine = Engine::open(folder.path(), limits()).expect("a model");
    (engine, folder)
}

fn plain() -> Engine {
    Engine::open(fixture("").as_path(), limits()).expect("a fixture of this repository")
}

/// What a piece of an answer is: text, or a special token after it.
type Pieces = Vec<(String, Option<String>)>;

fn answer(engine: &Engine, constraint: &Constraint, seed: u64) -> (Pieces, Finish) {
    let prompt: Vec<u32> = (0..5)
        .map(|place| (seed as u32 * 7 + place * 13) % 300)
        .collect();
    let sampling = Sampling {
        temperature: 1.5,
        seed,
        ..Sampling::GREEDY
    };
    let request = Request {
        sampling,
        constraint: Some(constraint.clone()),
        marks: true,
        max_new_tokens: 200,
        ..Request::new(Prompt::from_tokens(prompt))
    };
    let mut generation = engine.submit(request).expect("accepted");
    let mut pieces = Vec::new();
    loop {
        let chunk = generation.blocking_next().expect("a chunk");
        pieces.push((chunk.text, chunk.mark));
        if let Some(finish) = chunk.finish {
            return (pieces, finish);
        }
    }
}

fn text(pieces: &Pieces) -> String {
    pieces.iter().map(|(text, _)| text.as_str()).collect()
}

fn schema<'a>(schema: &'a Value) -> Shape<'a> {
    Shape::Schema {
        schema,
        strict: true,
    }
}

/// Answers for many seeds, all of which must be whole.
fn whole_answers(engine: &Engine, described: &Value, fits: impl Fn(&Value) -> bool) {
    let constraint = engine.constrain(schema(described), &Preamble::None);
    let constraint = constraint.unwrap_or_else(|error| panic!("{error}: {described}"));
    for seed in 0..12 {
        let (pieces, finish) = answer(engine, &constraint, seed);
        let text = text(&pieces);
        assert_eq!(finish, Finish::Stop, "{described}: {text}");
        let value: Value = serde_json::from_str(&text).expect(&text);
        assert!(fits(&value), "{described}: {text}");
    }
}

#[test]
fn answers_satisfy_the_keywords_of_their_schema() {
    let engine = plain();
    let one = |described: Value, fits: &dyn Fn(&Value) -> bool| {
        whole_answers(&engine, &described, fits);
    };
    let short = json!({"type": "string", "maxLength": 4});
    one(json!({"type": "boolean"}), &Value::is_boolean);
    one(json!({"const": {"a": [1, "é\n"]}}), &|v| {
        *v == json!({"a": [1, "é\n"]})
    });
    one(json!({"enum": ["red", 7, null]}), &|v| {
        [json!("red"), json!(7), json!(null)].contains(v)
    });
    one(
        json!({"type": "string", "minLength": 2, "maxLength": 5}),
        &|v| (2..=5).contains(&v.as_str().expect("a text").chars().count()),
    );
    one(json!({"type": "string", "pattern": "^[ab]{2,4}x$"}), &|v| {
        let text = v.as_str().expect("a text");
        let head = text.strip_suffix('x').expect("an x");
        (2..=4).contains(&head.len()) && head.chars().all(|c| "ab".contains(c))
    });
    one(json!({"type": "string", "format": "date"}), &|v| {
        let text = v.as_str().expect("a text");
        text.len() == 10 && text.as_bytes()[4] == b'-'
    });
    one(
        json!({"type": "integer", "minimum": -3, "exclusiveMaximum": 20}),
        &|v| (-3..20).contains(&v.as_i64().expect("a whole number")),
    );
    one(
        json!({"type": "integer", "minimum": 1, "maximum": 100, "multipleOf": 7}),
        &|v| {
            v.as_i64()
                .is_some_and(|n| n % 7 == 0 && (1..=100).contains(&n))
        },
    );
    one(
        json!({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3}),
        &|v| (1..=3).contains(&v.as_array().expect("an array").len()),
    );
    one(
        json!({"type": "array", "prefixItems": [{"const": 1}, short], "items": false,
            "minItems": 2}),
        &|v| v[0] == 1 && v[1].is_string() && v.as_array().is_some_and(|all| all.len() == 2),
    );
    one(
        json!({"type": "object", "properties": {"b": short, "a": {"type": "boolean"}},
            "required": ["b", "a"], "additionalProperties": false}),
        &|v| {
            let keys: Vec<&String> = v.as_object().expect("an object").keys().collect();
            keys == ["b", "a"] && v["b"].is_string() && v["a"].is_boolean()
        },
    );
    one(
        json!({"type": "object", "patternProperties": {"^x_[ab]$": {"type": "boolean"}},
            "additionalProperties": false, "minProperties": 1, "maxProperties": 1}),
        &|v| {
            let mut members = v.as_object().expect("an object").iter();
            members.all(|(key, value)| key.starts_with("x_") && value.is_boolean())
        },
    );
    one(
        json!({"oneOf": [{"type": "boolean"}, {"const": "no"}]}),
        &|v| v.is_boolean() || *v == "no",
    );
    one(
        json!({"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]}),
        &|v| (3..=5).contains(&v.as_i64().expect("a whole number")),
    );
    one(
        json!({"$ref": "#/$defs/list", "$defs": {"list": {"type": "object", "properties": {
            "next": {"anyOf": [{"type": "null"}, {"type": "boolean"}]}}, "required": ["next"],
            "additionalProperties": false}}}),
        &|v| v["next"].is_null() || v["next"].is_boolean(),
    );
}

#[test]
fn objects_are_objects_and_what_is_cut_off_begins_one() {
    let engine = plain();
    let constraint = engine
        .constrain(Shape::Json, &Preamble::None)
        .expect("it compiles");
    let mut whole = 0;
    for seed in 0..20 {
        let (pieces, finish) = answer(&engine, &constraint, seed);
        let text = text(&pieces);
        match finish {
            Finish::Stop => {
                let value: Value = serde_json::from_str(&text).expect(&text);
                assert!(value.is_object(), "{text}");
                whole += 1;
            }
            Finish::Length => {
                let error = serde_json::from_str::<Value>(&text).expect_err(&text);
                assert!(error.is_eof(), "{text}");
            }
            other => panic!("{other:?}: {text}"),
        }
    }
    assert!(whole > 0, "all answers were cut off");
}

#[test]
fn company_changes_nothing_for_constrained_answers() {
    let engine = plain();
    let described = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 6}, "b": {"type": "array", "items": {"type": "integer",
        "minimum": 0, "maximum": 99}, "maxItems": 4}}, "required": ["a", "b"],
        "additionalProperties": false});
    let constraint = engine
        .constrain(schema(&described), &Preamble::None)
        .expect("it compiles");
    let alone: Vec<_> = (0..6)
        .map(|seed| answer(&engine, &constraint, seed))
        .collect();
    std::thread::scope(|scope| {
        let run = |seed| answer(&engine, &constraint, seed);
        let threads: Vec<_> = (0..6).map(|seed| scope.spawn(move || run(seed))).collect();
        let together = threads
            .into_iter()
            .map(|thread| thread.join().expect("an answer"));
        let together: Vec<_> = together.collect();
        let said = |all: &[(Pieces, Finish)]| -> Vec<(String, Finish)> {
            all.iter()
                .map(|(pieces, finish)| (text(pieces), *finish))
                .collect()
        };
        assert_eq!(said(&alone), said(&together));
    });
}

const HERMES: &str = "{% if tools %}<tool_call>{% endif %}";
const MISTRAL: &str = "{% if tools %}[TOOL_CALLS]{% endif %}";
const NAMED: &str = "{% if tools %}[TOOL_CALLS]f[ARGS]{% endif %}";
const PHI4: &str = "{% if tools %}<|tool|>{% endif %}";
const LLAMA: &str = "<|start_header_id|>{% if tools %}\"parameters\"{% endif %}";
const HARMONY: &str = "<|channel|>{% if tools %}functions.{% endif %}";

fn offer(choice: Choice, parallel: bool) -> Offer {
    let tool = |name: &str, parameters: Option<Value>| Tool {
        name: name.to_owned(),
        parameters,
        strict: true,
    };
    let point = json!({"type": "object", "properties": {"x": {"type": "integer", "minimum": 0,
        "maximum": 9}, "on": {"$ref": "#/$defs/flag"}}, "required": ["x", "on"],
        "additionalProperties": false, "$defs": {"flag": {"type": "boolean"}}});
    let nothing = json!({"type": "object", "properties": {}, "additionalProperties": false});
    Offer {
        tools: vec![
            tool("set_point", Some(point)),
            tool("reset-all", Some(nothing)),
        ],
        choice,
        parallel,
    }
}

/// The calls and the text of an answer.
fn read(format: ToolFormat, pieces: &Pieces) -> (Vec<(String, String)>, String) {
    let names = ["set_point", "reset-all"].map(str::to_owned).to_vec();
    let mut reader = ToolReader::new(format, names);
    let mut events = Vec::new();
    for (text, mark) in pieces {
        events.extend(reader.text(text));
        if let Some(mark) = mark {
            events.extend(reader.mark(mark));
        }
    }
    events.extend(reader.finish());
    let (mut calls, mut said) = (Vec::new(), String::new());
    for event in events {
        match event {
            ToolEvent::Text(text) => said += &text,
            ToolEvent::Thought(_) | ToolEvent::End => {}
            ToolEvent::Begin { name } => calls.push((name, String::new())),
            ToolEvent::Arguments(text) => calls.last_mut().expect("a call").1 += &text,
            ToolEvent::Broken { all, .. } => {
                calls.pop();
                said += &all;
            }
        }
    }
    (calls, said)
}

fn check_call((name, arguments): &(String, String)) {
    let arguments: Value = serde_json::from_str(arguments).expect(arguments);
    match name.as_str() {
        "set_point" => {
            assert!(
                arguments["x"]
                    .as_i64()
                    .is_some_and(|x| (0..=9).contains(&x))
            );
            assert!(
                arguments["on"].is_boolean() && arguments.as_object().map(|o| o.len()) == Some(2)
            );
        }
        "reset-all" => assert_eq!(arguments, json!({})),
        other => panic!("{other}"),
    }
}

const CHANNELS: [&str; 4] = ["<|channel|>", "<|message|>", "<|constrain|>", "<|end|>"];

#[test]
fn calls_in_every_format_are_found_and_satisfy_their_schema() {
    for (format, template, special) in [
        (ToolFormat::Hermes, HERMES, &[][..]),
        (ToolFormat::Hermes, HERMES, &["<tool_call>", "</tool_call>"]),
        (ToolFormat::Mistral, MISTRAL, &[]),
        (ToolFormat::Mistral, MISTRAL, &["[TOOL_CALLS]"]),
        (ToolFormat::MistralNamed, NAMED, &["[TOOL_CALLS]", "[ARGS]"]),
        (ToolFormat::MistralNamed, NAMED, &[]),
        (ToolFormat::Phi4, PHI4, &[]),
        (ToolFormat::Phi4, PHI4, &["<|tool_call|>", "<|/tool_call|>"]),
        (ToolFormat::Llama, LLAMA, &[]),
        (ToolFormat::Harmony, HARMONY, &CHANNELS),
        (ToolFormat::Harmony, HARMONY, &[]),
    ] {
        let (engine, _folder) = engine(template, special);
        assert_eq!(engine.tool_format(), Some(format));
        // Marks that are not special tokens are not told apart: harmony's always are.
        let readable = format != ToolFormat::Harmony || !special.is_empty();
        let named = Choice::Named("reset-all".to_owned());
        for (choice, parallel) in [
            (Choice::Required, false),
            (Choice::Required, true),
            (named, false),
        ] {
            let offer = offer(choice.clone(), parallel);
            let constraint = engine.constrain(Shape::Tools(&offer), &Preamble::None);
            let constraint = constraint.unwrap_or_else(|error| panic!("{error}: {format:?}"));
            for seed in 0..6 {
                let (pieces, finish) = answer(&engine, &constraint, seed);
                if finish == Finish::Length || !readable {
                    continue;
                }
                assert_eq!(finish, Finish::Stop, "{format:?}: {pieces:?}");
                let (calls, said) = read(format, &pieces);
                assert!(
                    said.is_empty() && !calls.is_empty(),
                    "{format:?}: {pieces:?}"
                );
                assert!(parallel || calls.len() == 1, "{format:?}: {pieces:?}");
                calls.iter().for_each(check_call);
                let named = Choice::Named(calls[0].0.clone());
                assert!(matches!(choice, Choice::Required) || choice == named);
            }
        }
    }
}

#[test]
fn free_answers_call_only_as_their_tools_allow() {
    for (format, template, special) in [
        (ToolFormat::Hermes, HERMES, &[][..]),
        (ToolFormat::Mistral, MISTRAL, &["[TOOL_CALLS]"]),
        (ToolFormat::Phi4, PHI4, &[]),
        (ToolFormat::Llama, LLAMA, &[]),
        (ToolFormat::Harmony, HARMONY, &CHANNELS),
    ] {
        let (engine, _folder) = engine(template, special);
        let offer = offer(Choice::Auto, true);
        let constraint = engine.constrain(Shape::Tools(&offer), &Preamble::None);
        let constraint = constraint.unwrap_or_else(|error| panic!("{error}: {format:?}"));
        for seed in 0..8 {
            let (pieces, finish) = answer(&engine, &constraint, seed);
            let (calls, _) = read(format, &pieces);
            assert_ne!(finish, Finish::Constraint);
            if finish == Finish::Stop {
                calls.iter().for_each(check_call);
            }
        }
    }
}

#[test]
fn thought_may_come_before() {
    let engine = plain();
    let calls = engine.constrain(Shape::Tools(&offer(Choice::Auto, true)), &Preamble::None);
    assert_eq!(calls.err(), Some(ConstraintError::NoTools));
    let described = json!({"const": "yes"});
    for opened in [false, true] {
        let preamble = Preamble::Thought {
            open: "<think>".to_owned(),
            close: "</".to_owned(),
            opened,
        };
        let constraint = engine
            .constrain(schema(&described), &preamble)
            .expect("it compiles");
        for seed in 0..8 {
            let (pieces, finish) = answer(&engine, &constraint, seed);
            let text = text(&pieces);
            if finish == Finish::Stop {
                let (thought, rest) = text.rsplit_once("</").unwrap_or(("", &text));
                assert_eq!(rest.trim_start_matches('\n'), "\"yes\"", "{thought}");
                assert!(opened || thought.is_empty() || thought.starts_with("<think>"));
                assert!(!opened || text.contains("</"));
            }
        }
    }
}

#[test]
fn schemas_that_would_not_hold_are_refused_by_the_keyword() {
    let engine = plain();
    let refusal = |described: &Value, strict: bool| {
        let shape = Shape::Schema {
            schema: described,
            strict,
        };
        engine.constrain(shape, &Preamble::None).err()
    };
    for (keyword, value) in [
        ("not", json!({"type": "null"})),
        ("if", json!({"type": "null"})),
        ("contains", json!({"type": "null"})),
        ("propertyNames", json!({"maxLength": 3})),
        ("uniqueItems", json!(true)),
        ("dependentRequired", json!({"a": ["b"]})),
        ("dependentSchemas", json!({"a": true})),
        ("unevaluatedProperties", json!(false)),
        ("$dynamicRef", json!("#a")),
        ("$ref", json!("https://example.org/schema")),
        ("$ref", json!("other.json")),
        ("maxItems", json!(1_000_000)),
        ("x-guidance", json!({"lenient": true})),
    ] {
        let inner = json!({"type": "array", "items": {keyword: value}});
        let described = json!({"type": "object", "properties": {"a": inner}});
        let Some(ConstraintError::Unsupported {
            keyword: named,
            place,
        }) = refusal(&described, true)
        else {
            panic!("{described}: {:?}", refusal(&described, true));
        };
        let at = "#/properties/a/items";
        assert_eq!(
            (named.to_string().as_str(), place.to_string().as_str()),
            (keyword, at)
        );
    }
    let unsupported = |described: Value| match refusal(&described, true) {
        Some(ConstraintError::Unsupported { keyword, .. }) => keyword.to_string(),
        other => panic!("{described}: {other:?}"),
    };
    assert_eq!(
        unsupported(json!({"type": "string", "format": "colour"})),
        "format"
    );
    assert_eq!(
        unsupported(json!({"oneOf": [{"type": "integer"}, {"minimum": 3}]})),
        "oneOf"
    );
    assert_eq!(unsupported(json!({"$ref": "#/$defs/none"})), "$ref");
    assert_eq!(
        unsupported(json!({"type": "string", "pattern": "(?=a)b"})),
        "pattern"
    );
    assert_eq!(
        unsupported(json!({"type": "string", "pattern": "(a"})),
        "pattern"
    );
    // Where not all must hold, what is not supported does not constrain.
    for described in [
        json!({"type": "array", "uniqueItems": true, "items": {"not": {}}}),
        json!({"type": "string", "format": "colour"}),
        json!({"oneOf": [{"type": "integer"}, {"minimum": 3}]}),
        json!({"type": "array", "uniqueItems": false}),
    ] {
        assert_eq!(refusal(&described, false), None, "{described}");
    }
    for invalid in [
        json!(7),
        json!([]),
        json!({"type": 7}),
        json!({"properties": {"a": 7}}),
        json!({"type": "strnig"}),
        json!({"enum": 7}),
        json!({"required": 7, "type": "object"}),
    ] {
        assert_eq!(
            refusal(&invalid, true),
            Some(ConstraintError::Invalid),
            "{invalid}"
        );
    }
    for nothing in [
        json!({"type": "integer", "minimum": 3, "maximum": 2}),
        json!({"enum": []}),
        json!({"allOf": [{"type": "null"}, {"type": "boolean"}]}),
    ] {
        assert_eq!(
            refusal(&nothing, true),
            Some(ConstraintError::Unsatisfiable),
            "{nothing}"
        );
    }
}

/// Schemas that are small and mean much.
fn bombs() -> Vec<Value> {
    let chain = (0..1_500).map(|n| {
        (
            format!("{n}"),
            json!({"$ref": format!("#/$defs/{}", n + 1)}),
        )
    });
    let mut chain: serde_json::Map<String, Value> = chain.collect();
    chain.insert("1500".to_owned(), json!({"type": "null"}));
    let doubled = (0..60).map(|n| {
        let next = json!({"$ref": format!("#/$defs/{}", n + 1)});
        (format!("{n}"), json!({"allOf": [next, next]}))
    });
    let mut doubled: serde_json::Map<String, Value> = doubled.collect();
    doubled.insert("60".to_owned(), json!({"type": "object"}));
    let options: Vec<Value> = (0..10).map(|n| json!({"minLength": n})).collect();
    let many: Vec<Value> = (0..20).map(|_| json!({"anyOf": options})).collect();
    let words: Vec<String> = (0..4_000).map(|n| format!("word{n}")).collect();
    let optional = (0..500).map(|n| (format!("p{n}"), json!({"type": "null"})));
    let optional: serde_json::Map<String, Value> = optional.collect();
    vec![
        json!({"$ref": "#/$defs/0", "$defs": chain}),
        json!({"$ref": "#/$defs/0", "$defs": doubled}),
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"allOf": many}),
        json!({"enum": words}),
        json!({"type": "object", "properties": optional}),
        json!({"type": "array", "minItems": 10_000, "items": {"type": "array", "minItems": 9_999}}),
        json!({"type": "string", "minLength": 9_999, "maxLength": 10_000}),
        json!({"type": "string", "pattern": "(((a{100}){100}){100}){100}"}),
        json!({"type": "string", "pattern": "(a|b|ab)*c(a|b|ab){300}"}),
        json!({"type": "string", "pattern": "(.*a){40}.{200}"}),
        json!({"type": "integer", "multipleOf": 9_973}),
        json!({"type": "number", "minimum": 0.000_000_000_1, "maximum": 999_999_999_999_999.9}),
    ]
}

#[test]
fn schemas_that_explode_are_refused_or_cost_little() {
    let engine = plain();
    for described in bombs() {
        // Whichever it is, it ends.
        if let Ok(constraint) = engine.constrain(schema(&described), &Preamble::None) {
            answer(&engine, &constraint, 1);
        }
    }
    let refusal = |described: Value| engine.constrain(schema(&described), &Preamble::None).err();
    let large = json!({"enum": ["x".repeat(65 << 10)]});
    assert!(matches!(
        refusal(large),
        Some(ConstraintError::TooLarge { .. })
    ));
    let deep = (0..40).fold(json!({}), |inner, _| json!({"items": inner}));
    assert_eq!(refusal(deep), None);
    let deep = (0..60).fold(json!({}), |inner, _| json!({"items": inner}));
    assert!(matches!(
        refusal(deep),
        Some(ConstraintError::TooDeep { .. })
    ));
    let lists = [
        json!({"multipleOf": 99_999_999}),
        json!({"multipleOf": 0}),
        json!({"anyOf": [{"multipleOf": 997}, {"multipleOf": 991}]}),
    ];
    for described in lists {
        let refusal = refusal(described);
        assert!(
            matches!(refusal, Some(ConstraintError::Unsupported { keyword, .. })
            if keyword.to_string() == "multipleOf")
        );
    }
    assert_eq!(
        refusal(json!({"const": 1e300})),
        Some(ConstraintError::TooComplex)
    );
    let names = (0..17).map(|n| (format!("^a{n}$"), json!({})));
    let names: serde_json::Map<String, Value> = names.collect();
    let names = json!({"type": "object", "patternProperties": names});
    assert_eq!(refusal(names), Some(ConstraintError::TooComplex));
    let long = json!({"type": "string", "pattern": "a".repeat(600)});
    assert_eq!(refusal(long), Some(ConstraintError::TooComplex));
}
