//! Weights in int8 and int4: what they cost in perplexity on a text of this repository, and that
//! they are refused where they do not fit together.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::fs;
use std::path::{Path, PathBuf};

use inference::{
    Bits, Engine, EngineLimits, LoadError, Model, QuantiseError, TensorError, quantise,
};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn demo() -> PathBuf {
    repository("tests/demo-model/model")
}

/// `e` to the mean of what each token costs, over windows of 256 tokens.
fn perplexity(folder: &Path, tokens: &[u32]) -> f64 {
    let model = Model::open(folder, None).expect("a model");
    let vocabulary = model.vocabulary() as usize;
    let (mut cost, mut count) = (0.0, 0);
    for window in tokens.chunks(256) {
        let mut session = model.session(256);
        let logits = session.score(window).expect("room");
        for (logits, next) in logits.chunks_exact(vocabulary).zip(&window[1..]) {
            let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            cost += total.ln() - f64::from(logits[*next as usize]);
            count += 1;
        }
    }
    (cost / f64::from(count)).exp()
}

#[test]
fn smaller_weights_cost_little_perplexity() {
    let limits = EngineLimits {
        context_tokens: 1024,
        ..EngineLimits::default()
    };
    let engine = Engine::open(&demo(), limits).expect("a model");
    // The demonstration model knows one subject; this text is about it.
    let text = fs::read_to_string(repository("README.md")).expect("a text");
    let tokens: Vec<u32> = text
        .split("\n\n")
        .flat_map(|part| engine.encode_text(part).expect("tokens").tokens().to_vec())
        .collect();
    let folder = tempfile::tempdir().expect("a folder");
    let before = perplexity(&demo(), &tokens);
    for (bits, limit) in [(Bits::Eight, 0.005), (Bits::Four, 0.15)] {
        let output = folder.path().join(format!("{bits:?}"));
        let made = quantise(&demo(), &output, bits).expect("smaller weights");
        assert!(made.matrices > 0 && made.after_bytes < made.before_bytes);
        let after = perplexity(&output, &tokens);
        let change = after / before - 1.0;
        eprintln!(
            "{bits:?}: {before:.3} becomes {after:.3}, {:+.2} %",
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
