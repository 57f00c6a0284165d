//! The stored results of transformers in float32, for small random models; made by
//! tests/fixtures/make_llama.py (with tokenizers) and make_families.py.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::fs;
use std::path::{Path, PathBuf};

use inference::{Engine, EngineLimits, Generation, Model, Prompt, Request};
use serde_json::Value;

/// Those with a tokenizer.
const LLAMAS: [&str; 3] = [
    "llama/f32-tied-llama3",
    "llama/bf16-sharded",
    "llama/f16-linear",
];
const FAMILIES: [&str; 8] = [
    "families/qwen3",
    "families/qwen2",
    "families/mistral",
    "families/gemma3",
    "families/phi3",
    "families/qwen3-moe",
    "families/gpt-oss",
    "families/gpt-oss-mxfp4",
];
/// Weights as other programs quantise them; made by tests/fixtures/make_quantised.py.
const QUANTISED: [&str; 11] = [
    "quantised/awq",
    "quantised/gptq",
    "quantised/gptq-order",
    "quantised/gptq-v2",
    "quantised/gptq-int8",
    "quantised/packed-int4",
    "quantised/packed-int4-order",
    "quantised/int8-zero",
    "quantised/float8-channel",
    "quantised/fp8-block",
    "quantised/fp8-tensor",
];
const TOLERANCE: f64 = 2e-4;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

fn expected(name: &str) -> Value {
    let text = fs::read_to_string(folder(name).join("expected.json")).expect("a fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn numbers(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .expect("a list")
        .iter()
        .map(|n| n.as_u64().expect("a number") as u32)
        .collect()
}

fn most_likely(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a)));
    best.expect("a vocabulary") as u32
}

fn engine(name: &str) -> Engine {
    let limits = EngineLimits {
        context_tokens: 256,
        max_new_tokens: 64,
        ..Default::default()
    };
    Engine::open(&folder(name), limits).expect("a fixture")
}

fn text(mut generation: Generation) -> String {
    std::iter::from_fn(|| generation.blocking_next())
        .map(|chunk| chunk.text)
        .collect()
}

#[test]
fn logits_are_those_of_transformers() {
    compare_logits(LLAMAS.iter().chain(&FAMILIES));
}

/// transformers reads the same weights in float32, each computed from its format's definition.
#[test]
fn logits_of_quantised_weights_are_those_of_transformers() {
    compare_logits(QUANTISED.iter());
}

fn compare_logits<'a>(names: impl Iterator<Item = &'a &'a str>) {
    for name in names {
        let model = Model::open(&folder(name), None).expect("a fixture");
        for case in expected(name)["cases"].as_array().expect("cases") {
            let mut session = model.session(512);
            let logits = session.score(&numbers(&case["prompt"])).expect("logits");
            for (position, expected) in case["logits"].as_object().expect("logits") {
                let position: usize = position.parse().expect("a position");
                let found = &logits[position * model.vocabulary() as usize..];
                let expected = expected.as_array().expect("a list").iter();
                let expected: Vec<f64> = expected.map(|x| x.as_f64().expect("a number")).collect();
                let size = expected.iter().fold(0.0f64, |max, x| max.max(x.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    let error = (f64::from(*found) - expected).abs() / size;
                    assert!(error < TOLERANCE, "{name}: {found} is not {expected}");
                }
            }
        }
    }
}

#[test]
fn greedy_tokens_are_those_of_transformers() {
    compare_tokens(LLAMAS.iter().chain(&FAMILIES));
}

#[test]
fn greedy_tokens_of_quantised_weights_are_those_of_transformers() {
    compare_tokens(QUANTISED.iter());
}

fn compare_tokens<'a>(names: impl Iterator<Item = &'a &'a str>) {
    for name in names {
        let model = Model::open(&folder(name), None).expect("a fixture");
        for case in expected(name)["cases"].as_array().expect("cases") {
            let expected = numbers(&case["greedy"]);
            let mut session = model.session(512);
            let mut found = vec![most_likely(
                session.read(&numbers(&case["prompt"])).expect("room"),
            )];
            while found.len() < expected.len() {
                let last = [found[found.len() - 1]];
                found.push(most_likely(session.read(&last).expect("room")));
            }
            assert_eq!(found, expected, "{name}");
        }
    }
}

/// Beyond 100 tokens this model rotates otherwise, also what it has read before.
#[test]
fn a_sequence_that_passes_a_turning_point_is_read_again() {
    let model = Model::open(&folder("families/phi3"), None).expect("a fixture");
    let tokens: Vec<u32> = (0..140).map(|place| place * 37 % 304).collect();
    let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let whole = bits(model.session(256).read(&tokens).expect("room"));
    let short = bits(model.session(256).read(&tokens[..100]).expect("room"));
    for chunk in [1, 7, 64, 100, 101] {
        let mut session = model.session(256);
        let mut last = Vec::new();
        for part in tokens.chunks(chunk) {
            last = bits(session.read(part).expect("room"));
        }
        assert!(last == whole, "{chunk}");
    }
    let mut session = model.session(256);
    session.read(&tokens[..60]).expect("room");
    assert!(bits(session.read(&tokens[60..100]).expect("room")) == short);
}

#[test]
fn the_engine_says_what_the_model_says() {
    for name in LLAMAS {
        let engine = engine(name);
        let library = tokenizers::Tokenizer::from_file(folder(name).join("tokenizer.json"));
        let library = library.expect("a tokenizer");
        for case in expected(name)["cases"].as_array().expect("cases") {
            let greedy = numbers(&case["greedy"]);
            // Token 2 ends a turn; the rest of the stored continuation is after it.
            let said: Vec<u32> = greedy
                .iter()
                .copied()
                .take_while(|token| *token != 2)
                .collect();
            let generation = engine.submit(Request {
                max_new_tokens: greedy.len() as u32,
                ..Request::new(Prompt::from_tokens(numbers(&case["prompt"])))
            });
            let expected = library.decode(&said, true).expect("text");
            assert_eq!(text(generation.expect("accepted")), expected, "{name}");
        }
    }
}

#[test]
fn texts_are_tokenised_as_in_transformers() {
    for name in LLAMAS {
        let engine = engine(name);
        for case in expected(name)["texts"].as_array().expect("texts") {
            let text = case["text"].as_str().expect("a text");
            let prompt = engine.encode_text(text).expect("tokens");
            assert_eq!(prompt.tokens(), numbers(&case["ids"]), "{text}");
        }
    }
}
