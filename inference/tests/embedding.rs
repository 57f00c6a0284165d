//! Embedding models: the vectors of transformers, in any company, and what is refused.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::fs;
use std::path::{Path, PathBuf};

use inference::{Client, Engine, EngineLimits, Finish, Model, Prompt, Request, SubmitError};
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/embedding")
}

fn limits() -> EngineLimits {
    EngineLimits {
        context_tokens: 256,
        ..Default::default()
    }
}

fn open() -> Engine {
    Engine::open(&folder(), limits()).expect("a fixture of this repository")
}

fn bits(vector: &[f32]) -> Vec<u32> {
    vector.iter().map(|x| x.to_bits()).collect()
}

fn embed(engine: &Engine, tokens: &[u32], client: Option<&Client>) -> Vec<f32> {
    let text = Prompt::from_tokens(tokens.to_vec());
    let begun = engine.embed(text, None, client.cloned()).expect("accepted");
    let vector = begun.blocking_wait().expect("an engine that runs");
    vector.expect("no deadline")
}

/// The fixture in a folder of its own, with one file otherwise.
fn changed(file: &str, change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    fs::create_dir(copy.path().join("1_Pooling")).expect("a folder");
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
    ] {
        fs::copy(folder().join(name), copy.path().join(name)).expect("a copy");
    }
    let path = copy.path().join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).expect("bytes")).expect("JSON");
    change(&mut value);
    fs::write(path, value.to_string()).expect("written");
    copy
}

fn refusal(folder: &tempfile::TempDir) -> String {
    let refusal = Engine::open(folder.path(), limits()).expect_err("a refusal");
    refusal.to_string()
}

#[test]
fn vectors_are_those_of_transformers() {
    let engine = open();
    let expected = fs::read(folder().join("expected.json")).expect("a fixture");
    let expected: Value = serde_json::from_slice(&expected).expect("JSON");
    assert_eq!(engine.info().embedding_dimensions, Some(32));
    for case in expected.as_array().expect("cases") {
        let text = case["text"].as_str().expect("a text");
        let prompt = engine.encode_text(text).expect("tokens");
        // The end token is the tokenizer's doing.
        assert_eq!(json!(prompt.tokens()), case["ids"]);
        let found = embed(&engine, prompt.tokens(), None);
        let wanted = case["vector"].as_array().expect("numbers");
        assert_eq!(found.len(), wanted.len());
        for (a, b) in found.iter().zip(wanted) {
            let difference = f64::from(*a) - b.as_f64().expect("a number");
            assert!(difference.abs() < 1e-5, "{text}: {difference}");
        }
        let length: f32 = found.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }
}

#[test]
fn company_changes_no_vector() {
    let texts: Vec<Vec<u32>> = (1..12)
        .map(|text: u32| {
            (0..text * 17)
                .map(|place| (place * 31 + text) % 290)
                .collect()
        })
        .collect();
    let engine = open();
    let alone: Vec<_> = texts
        .iter()
        .map(|text| bits(&embed(&engine, text, None)))
        .collect();
    for prefill_chunk_tokens in [1, 7, 300] {
        let engine = Engine::open(
            &folder(),
            EngineLimits {
                prefill_chunk_tokens,
                max_active: 5,
                ..limits()
            },
        )
        .expect("a fixture");
        let begin = |text: &Vec<u32>| {
            let text = Prompt::from_tokens(text.clone());
            engine.embed(text, None, None).expect("accepted")
        };
        let begun: Vec<_> = texts.iter().map(begin).collect();
        for (one, alone) in begun.into_iter().zip(&alone) {
            let vector = one.blocking_wait().expect("it runs").expect("no deadline");
            assert!(bits(&vector) == *alone);
        }
    }
    // What the same client left in the cache changes nothing either.
    let client = engine.client();
    for (text, alone) in texts.iter().zip(&alone).chain(texts.iter().zip(&alone)) {
        assert!(bits(&embed(&engine, text, Some(&client))) == *alone);
    }
}

#[test]
fn a_text_of_one_token_and_of_exactly_the_context_have_vectors() {
    // As little cache as one context needs.
    let one = open().stats().free_blocks;
    let kv_bytes = (256 << 20) / u64::from(one) * 16;
    let engine = Engine::open(
        &folder(),
        EngineLimits {
            kv_bytes,
            ..limits()
        },
    )
    .expect("a fixture");
    assert_eq!(engine.stats().free_blocks, 16);
    assert_eq!(embed(&engine, &[5], None).len(), 32);
    assert_eq!(embed(&engine, &[5; 256], None).len(), 32);
    let refused = |tokens: Vec<u32>| {
        let refused = engine.embed(Prompt::from_tokens(tokens), None, None);
        refused.expect_err("a refusal")
    };
    let (prompt_tokens, max_new_tokens, context_tokens) = (257, 0, 256);
    assert_eq!(
        refused(vec![5; 257]),
        SubmitError::ContextLength {
            prompt_tokens,
            max_new_tokens,
            context_tokens
        }
    );
    assert_eq!(refused(vec![]), SubmitError::EmptyPrompt);
    assert_eq!(
        refused(vec![300]),
        SubmitError::UnknownToken { vocabulary: 300 }
    );
}

#[test]
fn an_embedding_model_writes_no_text_and_no_other_makes_vectors() {
    let prompt = || Prompt::from_tokens(vec![1]);
    let refused = open()
        .submit(Request::new(prompt()))
        .expect_err("a refusal");
    assert_eq!(refused, SubmitError::NoText);
    let model = Model::open(&folder(), None).expect("a fixture");
    assert_eq!(model.session(9).read(&[1]).err(), Some(SubmitError::NoText));
    assert_eq!(
        model.batch(1, 9).step(&[vec![1]]).err(),
        Some(SubmitError::NoText)
    );
    let other = folder().join("../llama/f32-tied-llama3");
    let other = Engine::open(&other, limits()).expect("a fixture");
    assert_eq!(other.info().embedding_dimensions, None);
    let refused = other.embed(prompt(), None, None).expect_err("a refusal");
    assert_eq!(refused, SubmitError::NoEmbedding);
}

#[test]
fn a_deadline_ends_what_waits() {
    let engine = open();
    let late = Some(std::time::Instant::now());
    let begun = engine.embed(Prompt::from_tokens(vec![1]), late, None);
    let ended = begun.expect("accepted").blocking_wait();
    assert_eq!(ended, Some(Err(Finish::Deadline)));
}

#[test]
fn folders_that_pool_otherwise_are_refused_by_name() {
    let mean = changed("1_Pooling/config.json", |pooling| {
        pooling["pooling_mode_mean_tokens"] = json!(true);
    });
    let expected = "1_Pooling/config.json: the field pooling_mode_mean_tokens has a value that is \
                    not supported";
    assert_eq!(refusal(&mean), expected);
    let dense = changed("modules.json", |modules| {
        modules[2]["type"] = json!("sentence_transformers.models.Dense");
    });
    let expected = "modules.json: the field [2].type has a value that is not supported";
    assert_eq!(refusal(&dense), expected);
    let prompted = changed("config_sentence_transformers.json", |settings| {
        settings["default_prompt_name"] = json!("query");
    });
    assert!(refusal(&prompted).contains("the field default_prompt_name has a value"));
    let none = changed("modules.json", |_| {});
    fs::remove_file(none.path().join("1_Pooling/config.json")).expect("removed");
    let expected = "1_Pooling/config.json is missing from the model folder";
    assert_eq!(refusal(&none), expected);
    // A volume has no folders.
    let flat = none.path().join("1_Pooling.config.json");
    fs::copy(folder().join("1_Pooling/config.json"), flat).expect("a copy");
    assert!(Engine::open(none.path(), limits()).is_ok());
}
