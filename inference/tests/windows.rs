//! Layers with a window keep what is in it: answers are those of a sequence that keeps everything,
//! and the memory is that of the window and of what is read at once.

#![allow(clippy::expect_used, clippy::panic)] // a test's helpers may fail, too

use std::path::Path;
use std::time::{Duration, Instant};

use inference::{Engine, EngineLimits, EngineStats, Generation, LoadError, Model, Prompt, Request};
use serde_json::{Map, Value, json};
use support::Folder;

mod support;

const CONTEXT: u32 = 512;

/// A tokenizer whose tokens are printable characters, for the fixtures that have none.
fn with_tokenizer(name: &str) -> Folder {
    let folder = Folder::copy(name);
    let vocabulary: Map<String, Value> = ('!'..='~')
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false,
        "use_regex": false});
    let tokenizer = json!({"version": "1.0", "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []}});
    folder.write("tokenizer.json", tokenizer.to_string().as_bytes());
    // No token ends an answer.
    folder.edit("config.json", |config| config["eos_token_id"] = json!(null));
    folder
}

fn limits(kv_bytes: u64) -> EngineLimits {
    EngineLimits {
        context_tokens: CONTEXT,
        max_new_tokens: 200,
        prefill_chunk_tokens: 32,
        kv_bytes,
        ..Default::default()
    }
}

/// The least memory with which the engine opens.
fn least(folder: &Folder) -> u64 {
    match Engine::open(folder.path(), limits(1)) {
        Err(LoadError::KvBytes { needed, .. }) => needed,
        other => panic!("{other:?}"),
    }
}

fn prompt(number: u32, tokens: u32) -> Vec<u32> {
    (0..tokens)
        .map(|place| (place * 37 + number * 11) % 94)
        .collect()
}

/// What a sequence says that keeps all of its tokens.
fn expected(folder: &Path, prompt: &[u32], count: usize) -> Vec<u32> {
    let model = Model::open(folder, None).expect("a fixture");
    let mut session = model.session(CONTEXT);
    let best = |logits: &[f32]| {
        let by_size = |a: &usize, b: &usize| logits[*a].total_cmp(&logits[*b]).then(b.cmp(a));
        (0..logits.len()).max_by(by_size).expect("a vocabulary") as u32
    };
    let mut said = vec![best(session.read(prompt).expect("room"))];
    while said.len() < count {
        let last = said[said.len() - 1];
        said.push(best(session.read(&[last]).expect("room")));
    }
    said
}

fn text(tokens: &[u32]) -> String {
    let character = |token: &u32| char::from_u32('!' as u32 + token).filter(|_| *token < 94);
    tokens.iter().filter_map(character).collect()
}

fn ask(engine: &Engine, client: Option<&inference::Client>, prompt: Vec<u32>) -> Generation {
    let request = Request {
        max_new_tokens: 100,
        client: client.cloned(),
        ..Request::new(Prompt::from_tokens(prompt))
    };
    engine.submit(request).expect("accepted")
}

fn answer(mut generation: Generation) -> (String, u32) {
    let chunks = std::iter::from_fn(|| generation.blocking_next());
    let text = chunks.map(|chunk| chunk.text).collect();
    (text, generation.usage().cached_tokens)
}

fn wait_until(engine: &Engine, ready: impl Fn(EngineStats) -> bool) {
    let started = Instant::now();
    while !ready(engine.stats()) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{:?}",
            engine.stats()
        );
        std::thread::yield_now();
    }
}

const WINDOWED: [&str; 4] = ["mistral", "gemma3", "gpt-oss", "qwen3"];

#[test]
fn the_budget_is_that_of_the_windows() {
    let all = |folder: &Folder| {
        folder.edit("config.json", |config| {
            config["sliding_window"] = json!(4 * CONTEXT);
        });
        least(folder)
    };
    for name in WINDOWED {
        let folder = with_tokenizer(name);
        let (windowed, whole) = (least(&folder), all(&folder));
        // 512 tokens of all layers; or a window of at most 33 and a chunk of 32 in many of them.
        assert!(windowed * 10 < whole * 7, "{name}: {windowed} {whole}");
    }
}

#[test]
fn answers_are_those_of_a_sequence_that_keeps_everything() {
    for name in WINDOWED {
        let folder = with_tokenizer(name);
        let engine = Engine::open(folder.path(), limits(least(&folder) * 3)).expect("it opens");
        let total = engine.stats().free_blocks;
        let lengths = [1, 16, 33, 150, 300, 400];
        let prompts = (0..)
            .zip(lengths)
            .map(|(number, tokens)| prompt(number, tokens));
        let prompts: Vec<Vec<u32>> = prompts.collect();
        let started: Vec<Generation> = prompts
            .iter()
            .map(|prompt| ask(&engine, None, prompt.clone()))
            .collect();
        for (prompt, generation) in prompts.iter().zip(started) {
            let expected = text(&expected(folder.path(), prompt, 100));
            assert_eq!(
                answer(generation).0,
                expected,
                "{name}, {} tokens",
                prompt.len()
            );
        }
        wait_until(&engine, |stats| stats.free_blocks == total);
    }
}

/// With room for one context, requests are interrupted and read again.
#[test]
fn interrupted_requests_with_windows_go_on_to_the_same_answer() {
    for name in WINDOWED {
        let folder = with_tokenizer(name);
        let engine = Engine::open(folder.path(), limits(least(&folder))).expect("it opens");
        let prompts: Vec<Vec<u32>> = (0..6).map(|number| prompt(number, 200)).collect();
        let started: Vec<Generation> = prompts
            .iter()
            .map(|prompt| ask(&engine, None, prompt.clone()))
            .collect();
        for (prompt, generation) in prompts.iter().zip(started) {
            let expected = text(&expected(folder.path(), prompt, 100));
            assert_eq!(answer(generation).0, expected, "{name}");
        }
    }
}

#[test]
fn a_conversation_goes_on_where_its_windows_end() {
    for name in WINDOWED {
        let folder = with_tokenizer(name);
        let engine = Engine::open(folder.path(), limits(least(&folder) * 3)).expect("it opens");
        let client = engine.client();
        let first = prompt(5, 150);
        let said = expected(folder.path(), &first, 100);
        assert_eq!(
            answer(ask(&engine, Some(&client), first.clone())),
            (text(&said), 0)
        );
        // It goes on: all but the last token is there.
        let next = [&first[..], &said, &[7, 8, 9]].concat();
        let says = text(&expected(folder.path(), &next, 100));
        assert_eq!(
            answer(ask(&engine, Some(&client), next)),
            (says, 249),
            "{name}"
        );
        // It parts long before: what its windows held is gone, and everything is read again.
        let other = [&first[..100], &[7; 60]].concat();
        let says = text(&expected(folder.path(), &other, 100));
        assert_eq!(
            answer(ask(&engine, Some(&client), other)),
            (says, 0),
            "{name}"
        );
    }
}
