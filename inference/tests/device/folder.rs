//! Small random models that the kernels take: a fixture's configuration with other sizes, and
//! weights in bf16 from a seed.

use std::fs;
use std::path::Path;

use kernels::check::Chance;
use serde_json::{Map, Value, json};

pub(crate) const VOCABULARY: usize = 304;
const HIDDEN: usize = 64;
const INNER: usize = 96;
const HEAD: usize = 64;
const HEADS: usize = 2;
pub(crate) const LAYERS: usize = 2;
/// A layer's keys and values of one block, in bf16.
pub(crate) const BLOCK_BYTES: u64 = (LAYERS * 2 * 2 * 16 * HEAD) as u64;

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

pub(crate) fn fixture(name: &str) -> std::path::PathBuf {
    fixtures().join(name)
}

/// Writes a model of the family whose fixture is `like`.
pub(crate) fn write(like: &str, seed: u64) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let config = fs::read(fixture(like).join("config.json")).expect("a fixture");
    let mut config: Map<String, Value> = serde_json::from_slice(&config).expect("JSON");
    for (name, value) in [
        ("hidden_size", json!(HIDDEN)),
        ("intermediate_size", json!(INNER)),
        ("num_attention_heads", json!(HEADS)),
        ("num_key_value_heads", json!(1)),
        ("num_hidden_layers", json!(LAYERS)),
        ("head_dim", json!(HEAD)),
        ("vocab_size", json!(VOCABULARY)),
        ("max_position_embeddings", json!(512)),
        ("rms_norm_eps", json!(1e-5)),
        ("tie_word_embeddings", json!(false)),
        ("eos_token_id", json!(303)),
    ] {
        config.insert(name.to_owned(), value);
    }
    if let Some(types) = config.get("layer_types").cloned() {
        let slides = types
            .as_array()
            .expect("a list")
            .contains(&json!("sliding_attention"));
        let second = ["full_attention", "sliding_attention"][usize::from(slides)];
        config.insert("layer_types".to_owned(), json!(["full_attention", second]));
        config.insert("max_window_layers".to_owned(), json!(1));
    }
    for name in ["attention_bias", "mlp_bias"] {
        if let Some(bias) = config.get_mut(name) {
            *bias = json!(false);
        }
    }
    let family = config["model_type"].as_str().expect("a family").to_owned();
    let config = serde_json::to_vec(&config).expect("JSON");
    fs::write(folder.path().join("config.json"), config).expect("a file");
    let tokenizer = fixture("llama/f32-tied-llama3/tokenizer.json");
    fs::copy(tokenizer, folder.path().join("tokenizer.json")).expect("a copy");
    let weights = safetensors(&family, seed);
    fs::write(folder.path().join("model.safetensors"), weights).expect("a file");
    folder
}

/// Name, shape, how large the weights are, and what they lie around.
fn tensors(family: &str) -> Vec<(String, Vec<usize>, f32, f32)> {
    let product = |name: String, rows: usize, columns: usize| {
        let size = (3.0 / columns as f32).sqrt();
        (name, vec![rows, columns], size, 0.0)
    };
    let norm = |name: String, size: usize| (name, vec![size], 0.25, 1.0);
    let mut all = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![VOCABULARY, HIDDEN],
            1.0,
            0.0,
        ),
        (
            "lm_head.weight".to_owned(),
            vec![VOCABULARY, HIDDEN],
            0.5,
            0.0,
        ),
        norm("model.norm.weight".to_owned(), HIDDEN),
    ];
    for layer in 0..LAYERS {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let parts = [("q", HEADS * HEAD), ("k", HEAD), ("v", HEAD)];
        for (part, rows) in parts {
            all.push(product(
                name(&format!("self_attn.{part}_proj")),
                rows,
                HIDDEN,
            ));
            if family == "qwen2" {
                let bias = format!("model.layers.{layer}.self_attn.{part}_proj.bias");
                all.push((bias, vec![rows], 0.5, 0.0));
            }
        }
        all.push(product(name("self_attn.o_proj"), HIDDEN, HEADS * HEAD));
        all.push(product(name("mlp.gate_proj"), INNER, HIDDEN));
        all.push(product(name("mlp.up_proj"), INNER, HIDDEN));
        all.push(product(name("mlp.down_proj"), HIDDEN, INNER));
        all.push(norm(name("input_layernorm"), HIDDEN));
        all.push(norm(name("post_attention_layernorm"), HIDDEN));
        if family == "qwen3" {
            all.push(norm(name("self_attn.q_norm"), HEAD));
            all.push(norm(name("self_attn.k_norm"), HEAD));
        }
    }
    all
}

fn safetensors(family: &str, seed: u64) -> Vec<u8> {
    let mut chance = Chance(seed);
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape, size, around) in tensors(family) {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            let half = kernels::Bf16::from_f32(around + chance.float(size));
            data.extend(half.0.to_le_bytes());
        }
        let entry = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [start, data.len()] });
        header.insert(name, entry);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
