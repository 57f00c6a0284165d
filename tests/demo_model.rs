//! The demonstration model, in our own engine, answers what it was taught, word for word.

use std::fs;
use std::path::{Path, PathBuf};

use inference::{ChatMessage, Engine, EngineLimits, Generation, Request, Role};
use support::site::{configuration, pack_model};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("demo-model")
}

/// What Nix measures of the demo's profile is what `make demo` boots.
#[test]
fn the_second_way_has_the_demos_configuration() {
    let scratch = tempfile::tempdir().expect("a folder");
    let volume = pack_model(&folder().join("model"), &scratch.path().join("model.img"));
    let configuration = configuration(&volume.expect("a volume"), 1024);
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let stands = fs::read_to_string(repository.join("nix/site.toml")).expect("nix/site.toml");
    assert_eq!(stands, configuration);
}

/// A question of each entry, with the answer that was written for it.
fn questions() -> Vec<(String, String)> {
    let text = fs::read_to_string(folder().join("qa.toml")).expect("the questions");
    let file: toml::Table = toml::from_str(&text).expect("TOML");
    let text = |value: &toml::Value| value.as_str().expect("a text").to_owned();
    file["qa"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (text(&entry["ask"][0]), text(&entry["answer"])))
        .collect()
}

fn ask(engine: &Engine, question: &str) -> Generation {
    let message = ChatMessage {
        role: Role::User,
        content: question.to_owned(),
    };
    let request = Request {
        max_new_tokens: 96,
        ..Request::new(engine.render_chat(&[message]).expect("a chat template"))
    };
    engine.submit(request).expect("a place")
}

fn text(mut generation: Generation) -> String {
    std::iter::from_fn(|| generation.blocking_next())
        .map(|chunk| chunk.text)
        .collect()
}

#[test]
fn the_demonstration_model_answers_every_question_of_its_list() {
    let limits = EngineLimits {
        context_tokens: 1024,
        max_new_tokens: 96,
        ..Default::default()
    };
    let engine = Engine::open(&folder().join("model"), limits).expect("the model");
    let questions = questions();
    assert!(questions.len() >= 60);
    for some in questions.chunks(16) {
        let answers: Vec<Generation> = some.iter().map(|(q, _)| ask(&engine, q)).collect();
        for ((question, expected), answer) in some.iter().zip(answers) {
            assert_eq!(&text(answer), expected, "{question}");
        }
    }
}
