//! What a model thinks, apart from what it says; and what a session learns of another: nothing.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use inference::{
    ChatMessage, Client, Conversation, Engine, EngineLimits, Finish, Json, Preamble, Prompt,
    Request, Role, Shape, Usage,
};
use serde_json::{Value, json};

const OPEN: u32 = 300;
const CLOSE: u32 = 301;
const TEMPLATE: &str = "{% for m in messages %}{{ m.content }}{% endfor %}{% if shut is defined %}\
    <think></think>{% elif open is defined %}<think>\n{% else %}assistant{% endif %}";

fn limits() -> EngineLimits {
    EngineLimits {
        context_tokens: 256,
        max_new_tokens: 250,
        ..Default::default()
    }
}

/// A fixture whose template marks thoughts; the marks are tokens of its vocabulary or not.
fn thinker(marks_are_tokens: bool) -> Engine {
    let marks = [(OPEN, "<think>", false), (CLOSE, "</think>", false)];
    model(TEMPLATE, if marks_are_tokens { &marks } else { &[] })
}

/// A fixture with another template and more tokens, of which some are special.
fn model(template: &str, tokens: &[(u32, &str, bool)]) -> Engine {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/f32-tied-llama3");
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["config.json", "model.safetensors", "tokenizer_config.json"] {
        fs::copy(fixture.join(name), folder.path().join(name)).expect("a copy");
    }
    let tokenizer = fs::read(fixture.join("tokenizer.json")).expect("a tokenizer");
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).expect("JSON");
    let added = tokenizer["added_tokens"].as_array_mut().expect("a list");
    for (id, content, special) in tokens {
        added.push(
            json!({"id": id, "content": content, "special": special, "lstrip": false,
            "rstrip": false, "single_word": false, "normalized": false}),
        );
    }
    fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).expect("written");
    fs::write(folder.path().join("chat_template.jinja"), template).expect("written");
    Engine::open(folder.path(), limits()).expect("a model")
}

fn ask(engine: &Engine, variable: Option<&str>, forced: u32, stop: &[&str]) -> Answer {
    let request = request(engine, variable, forced);
    let stop = stop.iter().map(|stop| (*stop).to_owned()).collect();
    answer(engine, Request { stop, ..request })
}

fn request(engine: &Engine, variable: Option<&str>, forced: u32) -> Request {
    let question = ChatMessage {
        role: Role::User,
        content: "<think>".to_owned(),
    };
    let variables = variable.map(|name| (name.to_owned(), Json::Bool(true)));
    let conversation = Conversation {
        variables: variables.into_iter().collect(),
        ..Conversation::from(&[question][..])
    };
    Request {
        max_new_tokens: 8,
        logit_bias: vec![(forced, 100.0)],
        logprobs: Some(0),
        ..Request::new(engine.render(&conversation).expect("a prompt"))
    }
}

fn answer(engine: &Engine, request: Request) -> Answer {
    let mut generation = engine.submit(request).expect("accepted");
    let mut answer = Answer::default();
    while let Some(chunk) = generation.blocking_next() {
        answer.text += &chunk.text;
        answer.reasoning += &chunk.reasoning;
        answer.tokens += chunk.tokens.len();
        answer.marks.extend(chunk.mark);
        answer.finish = chunk.finish;
    }
    answer.usage = generation.usage();
    answer
}

#[derive(Default)]
struct Answer {
    text: String,
    reasoning: String,
    /// With probabilities.
    tokens: usize,
    marks: Vec<String>,
    finish: Option<Finish>,
    usage: Usage,
}

#[test]
fn thoughts_and_answers_come_apart() {
    let engine = thinker(true);
    assert!(engine.info().marks_reasoning);
    let word = engine.encode_text("x").expect("tokens").tokens()[1];
    // The prompt opens a thought that does not end: all of it is thought, and none is the answer.
    let all = ask(&engine, Some("open"), word, &[]);
    assert_eq!(
        (all.text.as_str(), all.reasoning.as_str()),
        ("", "xxxxxxxx")
    );
    assert_eq!((all.finish, all.tokens), (Some(Finish::Length), 0));
    assert_eq!(
        (all.usage.reasoning_tokens, all.usage.completion_tokens),
        (8, 8)
    );
    // A stop string is for the answer, not for what is thought.
    let stopped = ask(&engine, Some("open"), word, &["xx"]);
    assert_eq!(stopped.reasoning, "xxxxxxxx");
    assert_eq!(
        ask(&engine, Some("shut"), word, &["xx"]).finish,
        Some(Finish::Stop)
    );
    // The mark ends the thought; after that it is text as any other.
    let shut = ask(&engine, Some("open"), CLOSE, &[]);
    assert_eq!(
        (shut.reasoning.as_str(), shut.text),
        ("", "</think>".repeat(7))
    );
    assert_eq!((shut.usage.reasoning_tokens, shut.tokens), (1, 7));
    // A prompt that ends the thought, and one that says nothing of it, although the asker does.
    for variable in [Some("shut"), None] {
        let plain = ask(&engine, variable, word, &[]);
        assert_eq!(
            (plain.text.as_str(), plain.usage.reasoning_tokens),
            ("xxxxxxxx", 0)
        );
        assert_eq!(plain.tokens, 8);
    }
    let opened = ask(&engine, None, OPEN, &[]);
    assert_eq!(
        (opened.text.as_str(), opened.usage.reasoning_tokens),
        ("", 8)
    );
}

#[test]
fn constrained_answers_are_no_thoughts() {
    let engine = thinker(true);
    let described = json!({"const": "yes"});
    let shape = Shape::Schema {
        schema: &described,
        strict: true,
    };
    let thought = Preamble::Thought {
        open: "<think>".to_owned(),
        close: "</think>".to_owned(),
        opened: true,
    };
    // The prompt opens a thought; the first constraint leaves no room for it, the second does.
    for (preamble, thought) in [(Preamble::None, 0), (thought, 1)] {
        let constraint = engine.constrain(shape, &preamble).expect("it compiles");
        let request = Request {
            constraint: Some(constraint),
            ..request(&engine, Some("open"), CLOSE)
        };
        let said = answer(&engine, request);
        assert_eq!(
            (said.text.as_str(), said.reasoning.as_str()),
            ("\"yes\"", "")
        );
        assert_eq!(said.usage.reasoning_tokens, thought);
        assert_eq!(said.finish, Some(Finish::Stop));
    }
}

#[test]
fn marks_within_thoughts_are_not_told() {
    const CALLS: u32 = 302;
    let marks = [(OPEN, "<think>", false), (CLOSE, "</think>", false)];
    let engine = model(
        TEMPLATE,
        &[&marks[..], &[(CALLS, "[TOOL_CALLS]", true)]].concat(),
    );
    let told = |variable: &str| {
        let request = request(&engine, Some(variable), CALLS);
        let marks = true;
        answer(&engine, Request { marks, ..request })
    };
    let (open, shut) = (told("open"), told("shut"));
    assert_eq!((open.marks.len(), open.usage.reasoning_tokens), (0, 8));
    assert_eq!(shut.marks, ["[TOOL_CALLS]"; 8]);
    assert_eq!((shut.tokens, shut.usage.reasoning_tokens), (8, 0));
}

#[test]
fn messages_on_channels_are_told_whole_or_apart() {
    let channels = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>"];
    let tokens: Vec<_> = (300..)
        .zip(channels)
        .map(|(id, text)| (id, text, true))
        .collect();
    let template =
        "{% if tools %}functions.<|channel|><|message|>{% endif %}{{ messages[0].role }}";
    let engine = model(template, &tokens);
    assert!(engine.info().marks_reasoning);
    let constraint = engine.constrain(Shape::Json, &engine.preamble());
    let constraint = constraint.expect("it compiles");
    // The end of a message is favoured, so that none is long.
    let ask = |marks: bool| Request {
        constraint: Some(constraint.clone()),
        marks,
        max_new_tokens: 200,
        ..request(&engine, None, 302)
    };
    let (apart, told) = (answer(&engine, ask(false)), answer(&engine, ask(true)));
    assert_eq!(apart.finish, told.finish);
    assert_eq!(apart.usage, told.usage);
    assert_eq!(apart.tokens, told.tokens);
    assert!(apart.marks.is_empty() && told.marks.contains(&"<|channel|>".to_owned()));
    assert!(told.reasoning.is_empty());
    // Heads and thoughts stand in the text, for who reads the marks.
    assert!(told.text.ends_with(&apart.text) && told.text.len() > apart.text.len());
}

#[test]
fn marks_that_are_no_tokens_are_found_in_the_text() {
    let engine = thinker(false);
    assert!(engine.info().marks_reasoning);
    let word = engine.encode_text("x").expect("tokens").tokens()[1];
    let all = ask(&engine, Some("open"), word, &[]);
    assert_eq!(
        (all.text.as_str(), all.reasoning.as_str()),
        ("", "xxxxxxxx")
    );
    let plain = ask(&engine, None, word, &[]);
    assert_eq!(
        (plain.text.as_str(), plain.reasoning.as_str()),
        ("xxxxxxxx", "")
    );
}

#[test]
fn plain_completions_are_not_taken_apart() {
    let engine = thinker(true);
    let request = Request {
        logit_bias: vec![(CLOSE, 100.0)],
        max_new_tokens: 3,
        ..Request::new(engine.encode_text("<think>").expect("tokens"))
    };
    let mut generation = engine.submit(request).expect("accepted");
    let mut text = String::new();
    while let Some(chunk) = generation.blocking_next() {
        text += &chunk.text;
        assert!(chunk.reasoning.is_empty());
    }
    assert_eq!(text, "</think>".repeat(3));
}

/// Tokens that go through the model until the first token of an answer is there: what the time to
/// it depends on.
fn work(engine: &Engine, tokens: &[u32], client: &Client) -> u64 {
    let before = engine.stats();
    let request = Request {
        max_new_tokens: 1,
        client: Some(client.clone()),
        ..Request::new(Prompt::from_tokens(tokens.to_vec()))
    };
    let mut generation = engine.submit(request).expect("accepted");
    while generation.blocking_next().is_some() {}
    let started = Instant::now();
    while engine.stats().finished == before.finished {
        assert!(started.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
    engine.stats().read_tokens - before.read_tokens
}

/// Eighty times somebody reads a prompt or does not, by chance, and somebody else guesses
/// which from the work that the same prompt takes: it is the same each time. Whoever guesses about
/// themselves sees the difference, so the measure would show it.
#[test]
fn the_work_for_a_first_token_tells_nothing_of_another_session() {
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/f32-tied-llama3");
    let engine = Engine::open(&fixture, limits()).expect("a fixture");
    let mut chance = 0x9e37_79b9_7f4a_7c15u64;
    let mut own = [Vec::new(), Vec::new()];
    let mut others = [Vec::new(), Vec::new()];
    for trial in 0..80u32 {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let seen = chance >> 63 == 1;
        let secret: Vec<u32> = (0..60)
            .map(|place| (trial * 7 + place * 13) % 300)
            .collect();
        let decoy: Vec<u32> = (0..60)
            .map(|place| (trial * 11 + place * 17 + 5) % 300)
            .collect();
        let (victim, attacker) = (engine.client(), engine.client());
        work(&engine, if seen { &secret } else { &decoy }, &victim);
        // The attacker has a past of their own, with the same beginning.
        work(&engine, &secret[..20], &attacker);
        others[usize::from(seen)].push(work(&engine, &secret, &attacker));
        own[usize::from(seen)].push(work(&engine, &secret, &victim));
    }
    assert!(others.iter().all(|group| group.len() > 20));
    // Twenty tokens are the attacker's own.
    assert!(
        others.iter().flatten().all(|work| *work == 40),
        "{others:?}"
    );
    assert!(own[1].iter().all(|work| *work == 1), "{own:?}");
    assert!(own[0].iter().all(|work| *work > 40), "{own:?}");
}
