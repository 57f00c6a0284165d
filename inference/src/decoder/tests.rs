//! Whatever a request is computed with, its logits are the same bits.

use std::num::NonZeroUsize;
use std::path::Path;

use super::*;
use crate::cache::{BLOCK_TOKENS, Blocks, sequence_bytes, whole_bytes};
use crate::cpu::Level;
use crate::model::Model;

const MODELS: [&str; 11] = [
    "llama/f32-tied-llama3",
    "llama/bf16-sharded",
    "llama/f16-linear",
    "families/qwen3",
    "families/qwen2",
    "families/mistral",
    "families/gemma3",
    "families/phi3",
    "families/qwen3-moe",
    "families/gpt-oss",
    "families/gpt-oss-mxfp4",
];

fn fixture(name: &str) -> std::path::PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    fixtures.join(name)
}

fn open(folder: &Path, threads: usize, level: Level) -> Model {
    let mut model =
        Model::open(folder, NonZeroUsize::new(threads)).expect("a fixture of this repository");
    model.pool.level = level;
    model
}

fn requests(vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |request: usize, index: usize| ((request * 977 + index * 131) % vocabulary) as u32;
    (0..20)
        .map(|r| (0..1 + r * 7 % 60).map(|i| token(r, i)).collect())
        .collect()
}

/// All logits of all requests, as bits, with up to `batch` requests in a step and each reading
/// up to `chunk` tokens.
fn score(model: &Model, batch: usize, chunk: usize) -> Vec<Vec<u32>> {
    let pages = whole_bytes(&model.decoder.spec, 200 * BLOCK_TOKENS);
    let (bits, _) = score_with(model, batch, chunk, pages, true);
    bits
}

/// The same, with a cache of so many bytes; answers the most pages in use, too. Sequences keep all
/// of their tokens, or only what they still see.
fn score_with(
    model: &Model,
    batch: usize,
    chunk: usize,
    bytes: u64,
    keep: bool,
) -> (Vec<Vec<u32>>, usize) {
    let spec = &model.decoder.spec;
    let requests = requests(spec.vocabulary as usize);
    let mut cache = KvCache::new(spec, bytes);
    let mut blocks: Vec<Blocks> = requests.iter().map(|_| Blocks::default()).collect();
    let mut most = 0;
    let mut read = vec![0; requests.len()];
    let mut bits = vec![Vec::new(); requests.len()];
    let mut work = Workspace::default();
    loop {
        let open = (0..requests.len()).filter(|r| read[*r] < requests[*r].len());
        let open: Vec<usize> = open.take(batch).collect();
        if open.is_empty() {
            return (bits, most);
        }
        let end =
            |read: usize, place: usize, all: usize| all.min(read + 1 + (chunk - 1 + place) % chunk);
        for (place, r) in open.iter().enumerate() {
            let all = requests[*r].len();
            let (from, end) = match keep {
                true => (0, all),
                false => (read[*r], end(read[*r], place, all)),
            };
            assert!(cache.grow(&mut blocks[*r], all, from, end), "no room");
        }
        most = most.max(cache.used_pages());
        let parts = open.iter().enumerate().map(|(place, r)| {
            // Shares differ within a step.
            let end = end(read[*r], place, requests[*r].len());
            let (start, tokens) = (read[*r], &requests[*r][read[*r]..end]);
            Part {
                tokens,
                start,
                length: requests[*r].len(),
                blocks: blocks[*r].groups(),
                logits: Logits::Every,
            }
        });
        let parts: Vec<Part<'_>> = parts.collect();
        model
            .decoder
            .forward(&model.pool, &mut cache, &parts, &mut work);
        let mut logits = work.logits.chunks_exact(spec.vocabulary as usize);
        for (r, part) in open.iter().zip(&parts) {
            let own = logits.by_ref().take(part.tokens.len()).flatten();
            bits[*r].extend(own.map(|logit| logit.to_bits()));
            read[*r] += part.tokens.len();
        }
        drop(parts);
        for r in open {
            let is_over = read[r] == requests[r].len();
            if is_over {
                cache.give_back(std::mem::take(&mut blocks[r]));
            } else if !keep {
                cache.leave(&mut blocks[r], read[r]);
            }
        }
    }
}

#[test]
fn batch_chunk_threads_and_instructions_change_no_bit() {
    for name in MODELS {
        bits_are_the_same(&fixture(name));
    }
}

#[test]
fn batch_chunk_threads_and_instructions_change_no_bit_of_quantised_weights() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["families/qwen3", "families/qwen3-moe", "families/phi3"] {
        for bits in [crate::Bits::Eight, crate::Bits::Four] {
            let output = folder
                .path()
                .join(format!("{}-{bits:?}", name.replace('/', "-")));
            crate::quantise(&fixture(name), &output, bits).expect("smaller weights");
            bits_are_the_same(&output);
        }
    }
}

#[test]
fn batch_chunk_threads_and_instructions_change_no_bit_of_foreign_quantised_weights() {
    for name in ["awq", "gptq-order", "int8-zero", "fp8-block"] {
        bits_are_the_same(&fixture(&format!("quantised/{name}")));
    }
}

/// Tiles have bits of their own; where there are none, what they do is computed without.
#[test]
fn batch_chunk_and_threads_change_no_bit_of_products_by_tiles() {
    if Level::available().contains(&Level::Avx512) {
        bits_are_the_same_of(&fixture(MODELS[1]), Level::Amx);
    }
}

fn bits_are_the_same(folder: &Path) {
    let mut fused = None;
    for level in Level::available() {
        let alone = bits_are_the_same_of(folder, level);
        if matches!(level, Level::Avx2 | Level::Avx512) {
            let first = fused.get_or_insert_with(|| alone.clone());
            assert!(*first == alone, "{} {level:?}", folder.display());
        }
    }
}

fn bits_are_the_same_of(folder: &Path, level: Level) -> Vec<Vec<u32>> {
    let alone = score(&open(folder, 1, level), 1, 64);
    for (threads, batch, chunk) in [(1, 1, 1), (2, 2, 5), (3, 8, 16), (4, 20, 3), (2, 5, 64)] {
        let found = score(&open(folder, threads, level), batch, chunk);
        let name = folder.display();
        assert!(found == alone, "{name} {threads} {batch} {chunk} {level:?}");
    }
    alone
}

/// Pages that have left a window are given away, and come back to others.
#[test]
fn what_has_left_a_window_changes_no_bit() {
    for name in MODELS {
        let model = open(&fixture(name), 2, Level::available()[0]);
        let spec = &model.decoder.spec;
        let kept = score(&model, 1, 64);
        let whole = whole_bytes(spec, 64);
        for (batch, chunk) in [(1, 1), (1, 7), (4, 3), (20, 16)] {
            // Exactly what the budget says for so many sequences of 60 tokens.
            let bytes = sequence_bytes(spec, 60, chunk);
            assert!(bytes <= whole, "{name}");
            let room = bytes * batch as u64;
            let (left, most) = score_with(&model, batch, chunk, room, false);
            assert!(left == kept, "{name} {batch} {chunk}");
            assert!(most > 0);
        }
        let narrow = sequence_bytes(spec, 4096, 16) < whole_bytes(spec, 4096);
        let has_window = spec
            .layers
            .iter()
            .any(|layer| layer.attention.window.is_some());
        assert_eq!(narrow, has_window, "{name}");
    }
}

#[test]
fn blocks_are_zero_when_they_are_free() {
    let model = open(&fixture(MODELS[0]), 1, Level::Baseline);
    let spec = &model.decoder.spec;
    let mut cache = KvCache::new(spec, whole_bytes(spec, 4 * BLOCK_TOKENS));
    assert!(cache.take(65).is_none());
    let blocks = cache.take(40).expect("room");
    assert_eq!((cache.used_pages(), cache.free_pages()), (3, 1));
    let tokens: Vec<u32> = (0..33).collect();
    let part = Part {
        tokens: &tokens,
        start: 0,
        length: tokens.len(),
        blocks: blocks.groups(),
        logits: Logits::None,
    };
    model
        .decoder
        .forward(&model.pool, &mut cache, &[part], &mut Workspace::default());
    assert!(cache.data().iter().any(|value| *value != 0.0));
    cache.give_back(blocks);
    assert!(cache.data().iter().all(|value| *value == 0.0));
    assert_eq!((cache.used_pages(), cache.free_pages()), (0, 4));
}
