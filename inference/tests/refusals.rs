//! Folders that are not opened: one line that names the cause, for each way to be wrong.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::path::Path;

use inference::{Engine, EngineLimits};
use serde_json::{Value, json};
use support::Folder;

mod support;

const F32: &str = "f32-tied-llama3";
const WEIGHTS: &str = "model.safetensors";

#[test]
fn missing_files_are_named() {
    for file in ["config.json", WEIGHTS, "tokenizer.json"] {
        let folder = Folder::copy(F32);
        folder.remove(file);
        assert_eq!(
            folder.refusal(),
            format!("{file} is missing from the model folder")
        );
    }
    let folder = Folder::copy("bf16-sharded");
    folder.remove("model-00003-of-00005.safetensors");
    let shard = "model-00003-of-00005.safetensors is missing from the model folder";
    assert_eq!(folder.refusal(), shard);
    // Without a template the engine opens; it says so when it is asked to render.
    let folder = Folder::copy(F32);
    folder.remove("chat_template.jinja");
    folder.remove("generation_config.json");
    let limits = EngineLimits {
        context_tokens: 256,
        ..Default::default()
    };
    let engine = Engine::open(folder.path(), limits).expect("it opens");
    assert!(!engine.info().has_chat_template && engine.render_chat(&[]).is_err());
}

#[test]
fn truncated_and_padded_weights_are_refused() {
    let folder = Folder::copy(F32);
    let bytes = folder.read(WEIGHTS);
    for keep in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        folder.write(WEIGHTS, &bytes[..keep]);
        let refusal = folder.refusal();
        assert!(
            refusal.starts_with("model.safetensors: truncated: "),
            "{refusal}"
        );
    }
    folder.write(WEIGHTS, &[&bytes[..], b"x"].concat());
    assert_eq!(
        folder.refusal(),
        "model.safetensors: 1 bytes follow the last tensor"
    );
    folder.write(WEIGHTS, &[&[0xff; 8], &bytes[8..]].concat());
    assert!(
        folder
            .refusal()
            .starts_with("model.safetensors: a header of 18446744073709551615")
    );
}

#[test]
fn tensors_that_do_not_make_the_model_are_named() {
    let norm = "model.norm.weight";
    let rename = |new: &'static str| {
        move |header: &mut Value| {
            let entry = header
                .as_object_mut()
                .expect("a map")
                .remove(norm)
                .expect("the norm");
            header[new] = entry;
        }
    };
    let folder = Folder::copy(F32);
    folder.edit_header(WEIGHTS, rename("model.norm.bias"));
    assert_eq!(folder.refusal(), "the tensor model.norm.weight is missing");

    let folder = Folder::copy(F32);
    folder.edit("config.json", |config| {
        config["num_hidden_layers"] = json!(2)
    });
    let refusal = folder.refusal();
    assert!(
        refusal.contains("model.layers.2.")
            && refusal.ends_with("has no place in this architecture")
    );

    let folder = Folder::copy(F32);
    folder.edit("config.json", |config| {
        config["intermediate_size"] = json!(87)
    });
    assert_eq!(
        folder.refusal(),
        "the tensor model.layers.0.mlp.gate_proj.weight has shape [88, 48], the configuration asks \
         for [87, 48]"
    );

    let folder = Folder::copy(F32);
    folder.edit_header(WEIGHTS, |header| header[norm]["dtype"] = json!("I32"));
    assert_eq!(
        folder.refusal(),
        "the tensor model.norm.weight is not f32, f16 or bf16"
    );

    let folder = Folder::copy(F32);
    folder.edit_header(WEIGHTS, |header| {
        header[norm]["data_offsets"] = json!([0, 192])
    });
    assert!(
        folder.refusal().contains(" overlap"),
        "{}",
        folder.refusal()
    );
}

#[test]
fn weights_that_are_not_finite_are_named() {
    for (name, file, bits) in [
        (F32, WEIGHTS, &f32::NAN.to_le_bytes()[..]),
        (F32, WEIGHTS, &f32::NEG_INFINITY.to_le_bytes()[..]),
        ("f16-linear", WEIGHTS, &[0x00, 0x7c][..]),
        (
            "bf16-sharded",
            "model-00002-of-00005.safetensors",
            &[0xc0, 0x7f][..],
        ),
    ] {
        let folder = Folder::copy(name);
        let mut bytes = folder.read(file);
        let end = bytes.len();
        bytes[end - bits.len()..].copy_from_slice(bits);
        folder.write(file, &bytes);
        let refusal = folder.refusal();
        assert!(
            refusal.ends_with("has a weight that is not finite"),
            "{refusal}"
        );
        assert!(refusal.starts_with("the tensor model."), "{refusal}");
    }
}

#[test]
fn overlapping_tensors_are_refused() {
    let folder = Folder::copy(F32);
    folder.edit_header(WEIGHTS, |header| {
        let range = header["model.layers.0.input_layernorm.weight"]["data_offsets"].clone();
        header["model.norm.weight"]["data_offsets"] = range;
    });
    let refusal = folder.refusal();
    assert!(
        refusal.starts_with("model.safetensors: ") && refusal.ends_with(" overlap"),
        "{refusal}"
    );
}

#[test]
fn a_huge_header_is_refused() {
    let folder = Folder::copy(F32);
    let bytes = folder.read(WEIGHTS);
    for length in [(16 << 20) + 1u64, 1 << 40, u64::MAX] {
        folder.write(WEIGHTS, &[&length.to_le_bytes(), &bytes[8..]].concat());
        let refusal =
            format!("model.safetensors: a header of {length} bytes, at most 16777216 are allowed");
        assert_eq!(folder.refusal(), refusal);
    }
}

#[test]
fn a_tensor_that_stands_twice_is_refused() {
    let folder = Folder::copy(F32);
    let bytes = folder.read(WEIGHTS);
    let (length, rest) = bytes.split_first_chunk().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Value = serde_json::from_slice(header).expect("JSON");
    let norm = &header["model.norm.weight"];
    let twice = header.to_string();
    let twice = format!(
        "{},\"model.norm.weight\":{norm}}}",
        &twice[..twice.len() - 1]
    );
    let length = (twice.len() as u64).to_le_bytes();
    folder.write(WEIGHTS, &[&length, twice.as_bytes(), data].concat());
    let refusal = folder.refusal();
    let cause = "model.safetensors: the header is malformed: duplicate key";
    assert!(refusal.starts_with(cause), "{refusal}");
}

#[test]
fn tensors_of_a_wrong_type_are_named() {
    let matrix = "model.layers.2.mlp.up_proj.weight";
    for (tensor, dtype) in [
        (matrix, "I32"),
        (matrix, "U32"),
        ("model.norm.weight", "U32"),
        ("model.embed_tokens.weight", "I32"),
    ] {
        let folder = Folder::copy(F32);
        folder.edit_header(WEIGHTS, |header| header[tensor]["dtype"] = json!(dtype));
        let refusal = format!("the tensor {tensor} is not f32, f16 or bf16");
        assert_eq!(folder.refusal(), refusal);
    }
    let folder = Folder::copy(F32);
    folder.edit_header(WEIGHTS, |header| header[matrix]["dtype"] = json!("F128"));
    let refusal = format!("model.safetensors: {matrix} has an unknown element type");
    assert_eq!(folder.refusal(), refusal);
}

#[test]
fn every_tensor_that_is_missing_is_named() {
    let good = Folder::copy("qwen2");
    let index: Value =
        serde_json::from_slice(&good.read("model.safetensors.index.json")).expect("JSON");
    let names = index["weight_map"].as_object().expect("a map");
    let interesting = |name: &&String| name.contains("layers.3.") || !name.contains(".layers.");
    for (name, file) in names.iter().filter(|(name, _)| interesting(name)) {
        let folder = Folder::copy("qwen2");
        let file = file.as_str().expect("a file");
        let rename = |map: &mut Value| {
            let map = map.as_object_mut().expect("a map");
            let entry = map.remove(name).expect("a tensor");
            map.insert("something.else".into(), entry);
        };
        folder.edit_header(file, rename);
        folder.edit("model.safetensors.index.json", |index| {
            rename(&mut index["weight_map"]);
        });
        let refusal = folder.model_refusal().to_string();
        assert_eq!(refusal, format!("the tensor {name} is missing"));
    }
}

/// Norms, biases and sinks are read in another way than matrices.
#[test]
fn vectors_that_are_not_finite_are_named() {
    for (fixture, tensor, bad) in [
        (F32, "model.norm.weight", &[0, 0, 0xc0, 0x7f][..]),
        (
            F32,
            "model.layers.1.input_layernorm.weight",
            &[0, 0, 0x80, 0xff],
        ),
        (
            "qwen3",
            "model.layers.1.self_attn.k_norm.weight",
            &[0xc0, 0x7f],
        ),
        ("gpt-oss", "model.layers.1.self_attn.sinks", &[0x80, 0xff]),
        (
            "gpt-oss",
            "model.layers.1.self_attn.q_proj.bias",
            &[0x80, 0x7f],
        ),
        (
            "gpt-oss",
            "model.layers.1.mlp.experts.down_proj_bias",
            &[0x80, 0x7f],
        ),
        ("gpt-oss", "model.layers.1.mlp.router.weight", &[0x80, 0x7f]),
    ] {
        let folder = Folder::copy(fixture);
        folder.overwrite(tensor, bad);
        let refusal = folder.model_refusal().to_string();
        let expected = format!("the tensor {tensor} has a weight that is not finite");
        assert_eq!(refusal, expected);
    }
}

#[test]
fn experts_in_mxfp4_that_are_not_sound_are_named() {
    let name = "model.layers.1.mlp.experts.down_proj_scales";
    let range = |header: &Value, part: usize| {
        let offsets = header[name]["data_offsets"].as_array().expect("offsets");
        offsets[part].as_u64().expect("an offset") as usize
    };
    let folder = Folder::copy("gpt-oss-mxfp4");
    let mut bytes = folder.read(WEIGHTS);
    let (length, _) = bytes.split_first_chunk().expect("a length");
    let start = 8 + u64::from_le_bytes(*length) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..start]).expect("JSON");
    bytes[start + range(&header, 1) - 1] = 255;
    folder.write(WEIGHTS, &bytes);
    let refusal = format!("the tensor {name} has a weight that is not finite");
    assert_eq!(folder.refusal(), refusal);

    let folder = Folder::copy("gpt-oss-mxfp4");
    folder.edit_header(WEIGHTS, |header| header[name]["dtype"] = json!("I8"));
    let refusal = format!("the tensor {name} is not of bytes, as MXFP4 is");
    assert_eq!(folder.refusal(), refusal);

    let folder = Folder::copy("gpt-oss-mxfp4");
    folder.edit("config.json", |config| {
        config["quantization_config"]["quant_method"] = json!("awq");
    });
    let refusal = "config.json: the field quantization_config.quant_method has a value that is \
                   not supported";
    assert_eq!(folder.refusal(), refusal);

    let folder = Folder::copy("gpt-oss-mxfp4");
    folder.edit("config.json", |config| {
        config["num_local_experts"] = json!(5);
    });
    let refusal = folder.refusal();
    assert!(
        refusal.contains("the configuration asks for [5, "),
        "{refusal}"
    );
}

#[test]
fn shards_and_their_index_have_to_agree() {
    const INDEX: &str = "model.safetensors.index.json";
    let first = "model-00001-of-00005.safetensors";
    let folder = Folder::copy("bf16-sharded");
    let embedding = "model.embed_tokens.weight";
    folder.edit(INDEX, |index| {
        let other = "model-00005-of-00005.safetensors";
        assert_ne!(index["weight_map"][embedding], other);
        index["weight_map"][embedding] = json!(other);
    });
    assert!(
        folder.refusal().contains("is wrong about the tensor"),
        "{}",
        folder.refusal()
    );

    let folder = Folder::copy("bf16-sharded");
    folder.write("again.safetensors", &folder.read(first));
    folder.edit(INDEX, |index| {
        index["weight_map"]["x"] = json!("again.safetensors")
    });
    assert!(
        folder.refusal().ends_with("stands in two files"),
        "{}",
        folder.refusal()
    );

    for escape in ["../x.safetensors", "/etc/passwd", ".safetensors", ""] {
        let folder = Folder::copy("bf16-sharded");
        folder.edit(INDEX, |index| {
            index["weight_map"][embedding] = json!(escape)
        });
        assert!(
            folder.refusal().contains("the field weight_map is not"),
            "{escape}"
        );
    }
}

#[test]
fn configurations_are_refused_by_field() {
    for (field, value, refusal) in [
        (
            "architectures",
            json!(["MambaForCausalLM"]),
            "architectures has a value that is not",
        ),
        (
            "hidden_act",
            json!("gelu"),
            "hidden_act has a value that is not supported",
        ),
        (
            "quantization_config",
            json!({"bits": 4}),
            "quantization_config.quant_method is missing",
        ),
        ("sliding_window", json!(4096), "sliding_window is not known"),
        ("head_dim", json!(7), "head_dim is not even"),
        (
            "num_key_value_heads",
            json!(4),
            "num_key_value_heads is not a divisor",
        ),
        (
            "num_hidden_layers",
            json!(0),
            "num_hidden_layers is not a positive integer",
        ),
        (
            "num_hidden_layers",
            json!(1e9),
            "num_hidden_layers is not a positive integer",
        ),
        (
            "vocab_size",
            json!(-1),
            "vocab_size is not a positive integer",
        ),
        ("rms_norm_eps", json!(null), "rms_norm_eps is missing"),
        (
            "pretraining_tp",
            json!(2),
            "pretraining_tp has a value that is not supported",
        ),
        (
            "rope_parameters",
            json!({"rope_type": "proportional"}),
            "rope_parameters.rope_type has a value",
        ),
        (
            "attention_bias",
            json!(1),
            "attention_bias is not true or false",
        ),
        ("eos_token_id", json!("x"), "eos_token_id is not a token id"),
    ] {
        let folder = Folder::copy(F32);
        folder.edit("config.json", |config| config[field] = value);
        let found = folder.refusal();
        assert!(
            found.starts_with(&format!("config.json: the field {refusal}")),
            "{found}"
        );
    }
}

#[test]
fn configurations_have_one_reading_and_fit_the_limits() {
    let folder = Folder::copy(F32);
    folder.write("config.json", br#"{"vocab_size": 1, "vocab_size": 2}"#);
    assert!(folder.refusal().starts_with("config.json: duplicate key"));
    let folder = Folder::copy(F32);
    folder.edit("config.json", |config| {
        config["max_position_embeddings"] = json!(255)
    });
    assert_eq!(
        folder.refusal(),
        "the limits allow 256 context tokens, the model has 255"
    );
    let folder = Folder::copy(F32);
    folder.edit("generation_config.json", |config| {
        config["eos_token_id"] = json!([2, 304])
    });
    assert!(
        folder
            .refusal()
            .contains("eos_token_id is not tokens of the vocabulary")
    );
}

#[test]
fn a_tokenizer_and_a_configuration_that_disagree_are_refused() {
    // More tokens than the model has rows.
    let folder = Folder::copy(F32);
    folder.edit("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["zz"] = json!(5000)
    });
    let refusal = "tokenizer.json: it has token 5000, the model's vocabulary has 304 tokens";
    assert_eq!(folder.refusal(), refusal);
    // An end of a turn that no token is.
    let folder = Folder::copy(F32);
    folder.remove("generation_config.json");
    folder.edit("config.json", |config| config["eos_token_id"] = json!(304));
    let refusal = "config.json: the field eos_token_id is not tokens of the vocabulary";
    assert_eq!(folder.refusal(), refusal);
}

#[test]
fn tokenizers_that_do_not_fit_are_refused() {
    let folder = Folder::copy(F32);
    folder.write("tokenizer.json", b"{}");
    assert!(
        folder.refusal().starts_with("tokenizer.json: "),
        "{}",
        folder.refusal()
    );

    let folder = Folder::copy(F32);
    folder.edit("tokenizer.json", |tokenizer| {
        tokenizer["model"]["vocab"]["zz"] = json!(304)
    });
    let refusal = "tokenizer.json: it has token 304, the model's vocabulary has 304 tokens";
    assert_eq!(folder.refusal(), refusal);

    let folder = Folder::copy(F32);
    folder.edit("tokenizer.json", |tokenizer| {
        tokenizer["decoder"] = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    });
    assert_eq!(
        folder.refusal(),
        "tokenizer.json: its decoder, WordPiece, is not supported"
    );

    let folder = Folder::copy(F32);
    folder.write("chat_template.jinja", b"{{ x }}\n{% endfor %}");
    assert_eq!(
        folder.refusal(),
        "the chat template does not compile, line 2"
    );
}

#[test]
fn limits_that_cannot_hold_are_refused() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures/llama")
        .join(F32);
    let good = EngineLimits {
        context_tokens: 256,
        ..Default::default()
    };
    let refusal = |limits| {
        Engine::open(&fixture, limits)
            .expect_err("a refusal")
            .to_string()
    };
    let small = EngineLimits {
        kv_bytes: 1000,
        ..good.clone()
    };
    assert!(refusal(small).contains("a full context needs"));
    let none = EngineLimits {
        max_queued: 0,
        ..good
    };
    assert_eq!(refusal(none), "the limit max_queued is zero");
}
