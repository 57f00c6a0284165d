//! Weights in int8 and int4: what they cost in perplexity on a text of this repository, and that
//! they are refused where they do not fit together.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::fs;
use std::path::{Path, PathBuf};

use inference::{
    Bits, ChatMessage, Engine, EngineLimits, LoadError, Model, QuantiseError, Role, TensorError,
    quantise,
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn demo() -> PathBuf {
    repository("tests/demo-model/model")
}

/// A question, and the answer that the demonstration model was taught.
struct Lesson {
    question: Vec<u32>,
    answer: Vec<u32>,
}

fn lessons() -> Vec<Lesson> {
    let limits = EngineLimits {
        context_tokens: 1024,
        ..EngineLimits::default()
    };
    let engine = Engine::open(&demo(), limits).expect("a model");
    let text = fs::read_to_string(repository("tests/demo-model/qa.toml")).expect("a text");
    let quoted = |line: &str| line.split('"').nth(1).expect("a text").to_owned();
    let of = |key: &str| {
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(key)).collect();
        lines.into_iter().map(quoted).collect::<Vec<_>>()
    };
    let (questions, answers) = (of("ask = "), of("answer = "));
    assert!(questions.len() == answers.len() && answers.len() > 100);
    let pairs = questions.into_iter().zip(answers);
    let lesson = |(content, answer): (String, String)| {
        let role = Role::User;
        let question = engine.render_chat(&[ChatMessage { role, content }]);
        Lesson {
            question: question.expect("a prompt").tokens().to_vec(),
            answer: engine
                .encode_text(&answer)
                .expect("tokens")
                .tokens()
                .to_vec(),
        }
    };
    pairs.map(lesson).collect()
}

/// `e` to the mean of what each token of the answers costs.
fn perplexity(folder: &Path, lessons: &[Lesson]) -> f64 {
    let model = Model::open(folder, None).expect("a model");
    let vocabulary = model.vocabulary() as usize;
    let (mut cost, mut count) = (0.0, 0);
    for Lesson { question, answer } in lessons {
        let tokens = [&question[..], answer].concat();
        let mut session = model.session(1024);
        let logits = session.score(&tokens).expect("room");
        let before = logits.chunks_exact(vocabulary).skip(question.len() - 1);
        for (logits, next) in before.zip(answer) {
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            cost += total.ln() - f64::from(logits[*next as usize]);
            count += 1;
        }
    }
    (cost / f64::from(count)).exp()
}

#[test]
fn smaller_weights_cost_little_perplexity() {
    let lessons = lessons();
    let folder = tempfile::tempdir().expect("a folder");
    let before = perplexity(&demo(), &lessons);
    for (bits, limit) in [(Bits::Eight, 0.005), (Bits::Four, 0.05)] {
        let output = folder.path().join(format!("{bits:?}"));
        let made = quantise(&demo(), &output, bits).expect("smaller weights");
        assert!(made.matrices > 0 && made.after_bytes < made.before_bytes);
        let after = perplexity(&output, &lessons);
        let change = after / before - 1.0;
        eprintln!(
            "{bits:?}: {before:.4} becomes {after:.4}, {:+.2} %",
            change * 100.0
        );
        assert!(change.abs() < limit, "{bits:?}: {before} {after}");
    }
}

#[test]
fn a_folder_that_exists_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = quantise(&demo(), folder.path(), Bits::Eight).expect_err("a refusal");
    assert!(matches!(refusal, QuantiseError::Write(_)));
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
}

#[test]
fn quantised_weights_are_not_made_smaller_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = folder.path().join("once");
    quantise(&demo(), &output, Bits::Eight).expect("smaller weights");
    let again = quantise(&output, &folder.path().join("twice"), Bits::Four);
    assert!(matches!(again, Err(QuantiseError::Nothing)));
}

/// Changes the header of a file and keeps its length.
fn with_header(file: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let bytes = fs::read(file).expect("a file");
    let length = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let header = std::str::from_utf8(&bytes[8..8 + length]).expect("text");
    assert!(header.contains(from), "{header}");
    let header = header.replacen(from, to, 1);
    let changed = [&bytes[..8], header.as_bytes(), &bytes[8 + length..]];
    fs::write(file, changed.concat()).expect("a file");
}

#[test]
fn parts_that_do_not_fit_together_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let refusal = |from: &str, to: &str| {
        let output = folder.path().join(to.replace('"', ""));
        quantise(&demo(), &output, Bits::Eight).expect("smaller weights");
        with_header(&output.join("model.safetensors"), from, to);
        Model::open(&output, None).expect_err("a refusal")
    };
    let quantised = |error| matches!(error, LoadError::Tensor(TensorError::Quantised(_)));
    // Half bytes would be half as many.
    let halves = refusal("\"I8\"", "\"U8\"");
    assert!(
        matches!(halves, LoadError::Tensor(TensorError::Shape { .. })),
        "{halves}"
    );
    assert!(
        quantised(refusal("\"F16\"", "\"I16\"")),
        "scales of another type"
    );
    let missing = refusal("_scale\"", "_scalf\"");
    assert!(
        matches!(missing, LoadError::Tensor(TensorError::Dtype(_))),
        "{missing}"
    );
}
