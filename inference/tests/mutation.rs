//! The fuzz targets' functions on mutations of good files: whatever comes, they answer.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::fs;
use std::path::Path;

use inference::{Model, fuzzing};
use proptest::prelude::*;
use support::Folder;

mod support;

fn fixture(file: &str) -> Vec<u8> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama");
    fs::read(fixtures.join("f32-tied-llama3").join(file)).expect("a fixture")
}

/// Overwrites, inserts and cuts.
fn mutate(mut bytes: Vec<u8>, changes: &[(usize, u8, u8)]) -> Vec<u8> {
    for &(place, byte, kind) in changes {
        if bytes.is_empty() {
            break;
        }
        let place = place % bytes.len();
        match kind % 4 {
            0 => bytes[place] = byte,
            1 => bytes[place] ^= 1 << (byte % 8),
            2 => bytes.insert(place, byte),
            _ => drop(bytes.drain(place..(place + usize::from(byte)).min(bytes.len()))),
        }
    }
    bytes
}

fn changes() -> impl Strategy<Value = Vec<(usize, u8, u8)>> {
    let byte = prop_oneof![
        any::<u8>(),
        prop::sample::select(b"{}[]\",:0123456789-%e".to_vec())
    ];
    prop::collection::vec((any::<usize>(), byte, any::<u8>()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn safetensors(changes in changes(), place in any::<usize>()) {
        let mut file = fixture("model.safetensors");
        // The header is where the mutations matter.
        let header = 8 + usize::from(file[0]) + 256 * usize::from(file[1]);
        let tail = file.split_off(header);
        let mut file = mutate(file, &changes);
        file.extend(&tail[..place % (tail.len() + 1)]);
        fuzzing::safetensors(&file);
    }

    #[test]
    fn config(changes in changes()) {
        fuzzing::config(&mutate(fixture("config.json"), &changes));
    }

    #[test]
    fn family_configs(
        changes in changes(),
        family in prop::sample::select(vec!["gemma3", "phi3", "qwen3-moe", "gpt-oss-mxfp4"]),
    ) {
        let file = format!("../../families/{family}/config.json");
        fuzzing::config(&mutate(fixture(&file), &changes));
    }

    #[test]
    fn template(changes in changes()) {
        fuzzing::template(&mutate(fixture("chat_template.jinja"), &changes));
    }

    #[test]
    fn tokenizer(changes in changes()) {
        fuzzing::tokenizer(&mutate(fixture("tokenizer.json"), &changes));
    }

    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzzing::safetensors(&bytes);
        fuzzing::config(&bytes);
        fuzzing::template(&bytes);
        fuzzing::tokenizer(&bytes);
    }
}

/// Forms of quantised weights.
const QUANTISED: [&str; 6] = [
    "awq",
    "gptq-order",
    "packed-int4-order",
    "int8-zero",
    "float8-channel",
    "fp8-block",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn quantised_weights(changes in changes(), name in prop::sample::select(QUANTISED.to_vec())) {
        let folder = Folder::copy(name);
        let file = folder.read("model.safetensors");
        let (length, rest) = file.split_first_chunk().expect("a length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let header = mutate(header.to_vec(), &changes);
        let length = (header.len() as u64).to_le_bytes();
        folder.write("model.safetensors", &[&length, &header[..], data].concat());
        drop(Model::open(folder.path(), std::num::NonZeroUsize::new(1)));
    }

    #[test]
    fn quantisation_configs(
        changes in changes(),
        name in prop::sample::select(QUANTISED.to_vec()),
    ) {
        let folder = Folder::copy(name);
        let config = folder.read("config.json");
        let start = config.windows(21).position(|window| window == b"\"quantization_config\"");
        let start = start.expect("a quantisation");
        let end = mutate(config[start..].to_vec(), &changes);
        folder.write("config.json", &[&config[..start], &end].concat());
        drop(Model::open(folder.path(), std::num::NonZeroUsize::new(1)));
    }
}

#[test]
fn good_files_are_good() {
    assert!(fuzzing::safetensors(&fixture("model.safetensors")));
    assert!(fuzzing::config(&fixture("config.json")));
    assert!(fuzzing::template(&fixture("chat_template.jinja")));
    assert!(fuzzing::tokenizer(&fixture("tokenizer.json")));
}
