//! Configurations as they are published, and what is refused.

use serde_json::{Value, json};

use super::*;
use crate::spec::{AttentionSpec, LayerSpec, MlpSpec};

/// `base` with the fields of `more`.
fn with(base: Value, more: Value) -> Value {
    let (Value::Object(mut base), Value::Object(more)) = (base, more) else {
        panic!("two objects");
    };
    base.extend(more);
    Value::Object(base)
}

/// What nearly every published file has.
fn common(architecture: &str, model_type: &str) -> Value {
    json!({"architectures": [architecture], "model_type": model_type, "attention_dropout": 0.0,
        "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.02,
        "torch_dtype": "bfloat16", "transformers_version": "4.50.0", "use_cache": true})
}

fn qwen2() -> Value {
    with(
        common("Qwen2ForCausalLM", "qwen2"),
        json!({"hidden_act": "silu", "hidden_size": 3584, "intermediate_size": 18944,
            "max_position_embeddings": 32768, "max_window_layers": 28, "num_attention_heads": 28,
            "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
            "use_sliding_window": false, "vocab_size": 152064}),
    )
}

fn qwen3() -> Value {
    with(
        common("Qwen3ForCausalLM", "qwen3"),
        json!({"attention_bias": false, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960,
            "max_window_layers": 28, "num_attention_heads": 16, "num_hidden_layers": 28,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": null,
            "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true,
            "use_sliding_window": false, "vocab_size": 151936}),
    )
}

fn mistral() -> Value {
    with(
        common("MistralForCausalLM", "mistral"),
        json!({"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000}),
    )
}

fn gemma3() -> Value {
    with(
        common("Gemma3ForCausalLM", "gemma3_text"),
        json!({"attention_bias": false, "attn_logit_softcapping": null,
            "cache_implementation": "hybrid", "eos_token_id": [1, 106],
            "final_logit_softcapping": null, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
            "intermediate_size": 6912, "max_position_embeddings": 32768,
            "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
            "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-6,
            "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
            "sliding_window": 512, "sliding_window_pattern": 6, "vocab_size": 262144}),
    )
}

fn phi4_mini() -> Value {
    with(
        common("Phi3ForCausalLM", "phi3"),
        json!({"attention_bias": false, "auto_map": {"AutoConfig": "x"}, "embd_pdrop": 0.0,
            "full_attn_mod": 1, "hidden_act": "silu", "hidden_size": 3072,
            "intermediate_size": 8192, "interpolate_factor": 1, "lm_head_bias": false,
            "max_position_embeddings": 131072, "mlp_bias": false, "num_attention_heads": 24,
            "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "pad_token_id": 199999,
            "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-5,
            "rope_scaling": {"long_factor": vec![2.0; 48], "short_factor": vec![1.0; 48],
                "type": "longrope"},
            "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": true,
            "vocab_size": 200064}),
    )
}

fn qwen3_moe() -> Value {
    with(
        qwen3(),
        json!({"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
            "decoder_sparse_step": 1, "hidden_size": 2048, "intermediate_size": 6144,
            "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768,
            "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
            "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
            "output_router_logits": false, "router_aux_loss_coef": 0.001}),
    )
}

fn gpt_oss() -> Value {
    let kinds = ["sliding_attention", "full_attention"].repeat(12);
    with(
        common("GptOssForCausalLM", "gpt_oss"),
        json!({"attention_bias": true, "experts_per_token": 4, "head_dim": 64,
            "hidden_act": "silu", "hidden_size": 2880, "initial_context_length": 4096,
            "intermediate_size": 2880, "layer_types": kinds, "max_position_embeddings": 131072,
            "num_attention_heads": 64, "num_experts_per_tok": 4, "num_hidden_layers": 24,
            "num_key_value_heads": 8, "num_local_experts": 32, "output_router_logits": false,
            "pad_token_id": 199999, "quantization_config": {"quant_method": "mxfp4",
                "modules_to_not_convert": ["lm_head"]},
            "rms_norm_eps": 1e-5, "rope_scaling": {"beta_fast": 32.0, "beta_slow": 1.0,
                "factor": 32.0, "original_max_position_embeddings": 4096, "rope_type": "yarn",
                "truncate": false},
            "rope_theta": 150000, "router_aux_loss_coef": 0.9, "sliding_window": 128,
            "swiglu_limit": 7.0, "tie_word_embeddings": false, "vocab_size": 201088}),
    )
}

fn layers(config: Value) -> Vec<LayerSpec> {
    read(config)
        .expect("a supported configuration")
        .decoder
        .layers
}

fn windows(config: Value) -> Vec<Option<usize>> {
    let window = |layer: &LayerSpec| layer.attention.window;
    layers(config).iter().map(window).collect()
}

fn refusal(config: Value) -> String {
    read(config).expect_err("a refusal").to_string()
}

#[test]
fn published_configurations_are_read() {
    assert_eq!(windows(qwen2()), [None; 28]);
    assert_eq!(windows(qwen3()), [None; 28]);
    assert_eq!(windows(mistral()), [Some(4096); 32]);
    let gemma = windows(gemma3());
    let globals: Vec<usize> = (0..26).filter(|layer| gemma[*layer].is_none()).collect();
    assert_eq!(globals, [5, 11, 17, 23]);
    let phi = read(phi4_mini()).expect("a supported configuration");
    assert!(phi.decoder.head.is_none());
    let AttentionSpec { key, rope, .. } = &phi.decoder.layers[0].attention;
    assert_eq!((key.weight.rows, rope.table().width()), (1024, 48));
    assert_eq!(rope.turning_point(), Some(4096));
    let experts = |layer: &LayerSpec| match &layer.mlp {
        MlpSpec::Experts(experts) => (experts.experts.len(), experts.chosen),
        MlpSpec::Dense(_) => (0, 0),
    };
    assert!(
        layers(qwen3_moe())
            .iter()
            .all(|layer| experts(layer) == (128, 8))
    );
    let oss = layers(gpt_oss());
    assert!(oss.iter().all(|layer| experts(layer) == (32, 4)));
    assert_eq!(
        (oss[0].attention.window, oss[1].attention.window),
        (Some(128), None)
    );
    let gemma = read(gemma3()).expect("a supported configuration");
    assert_eq!(gemma.end_tokens, [1, 106]);
}

#[test]
fn what_a_configuration_does_not_say_is_the_familys_own() {
    let without = |mut config: Value, field: &str| {
        config.as_object_mut().expect("an object").remove(field);
        config
    };
    assert_eq!(
        windows(without(mistral(), "sliding_window")),
        [Some(4096); 32]
    );
    assert_eq!(
        windows(with(mistral(), json!({"sliding_window": null}))),
        [None; 32]
    );
    let sliding = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 27});
    let found = windows(with(qwen2(), sliding));
    assert_eq!((found[26], found[27]), (None, Some(8)));
    let oss = windows(without(gpt_oss(), "layer_types"));
    assert_eq!((oss[0], oss[1]), (Some(128), None));
    let bare = without(without(gpt_oss(), "rope_scaling"), "rope_theta");
    let rope = |config| layers(config)[0].attention.rope.clone();
    assert_eq!(rope(bare), rope(gpt_oss()));
    let null = with(gpt_oss(), json!({"rope_scaling": null}));
    assert_eq!(rope(null), rope(gpt_oss()));
}

#[test]
fn what_a_family_does_not_do_is_named() {
    for (config, more, field) in [
        (qwen2(), json!({"hidden_act": "gelu"}), "hidden_act"),
        (qwen2(), json!({"attention_bias": true}), "attention_bias"),
        (
            qwen2(),
            json!({"layer_types": ["full_attention"]}),
            "layer_types",
        ),
        (
            qwen3(),
            json!({"layer_types": vec!["chunked_attention"; 28]}),
            "layer_types",
        ),
        (qwen3(), json!({"model_type": "qwen2"}), "model_type"),
        (mistral(), json!({"sliding_window": -1}), "sliding_window"),
        (
            mistral(),
            json!({"layer_types": vec!["full_attention"; 32]}),
            "layer_types",
        ),
        (
            gemma3(),
            json!({"use_bidirectional_attention": true}),
            "use_bidirectional_attention",
        ),
        (
            gemma3(),
            json!({"hidden_activation": "relu"}),
            "hidden_activation",
        ),
        (
            gemma3(),
            json!({"rope_parameters": {"rope_theta": 1}}),
            "rope_parameters.rope_theta",
        ),
        (phi4_mini(), json!({"mlp_bias": true}), "mlp_bias"),
        (phi4_mini(), json!({"full_attn_mod": 2}), "full_attn_mod"),
        (
            phi4_mini(),
            json!({"partial_rotary_factor": 0.01}),
            "partial_rotary_factor",
        ),
        (
            qwen3_moe(),
            json!({"num_experts_per_tok": 129}),
            "num_experts_per_tok",
        ),
        (qwen3_moe(), json!({"num_local_experts": 4}), "num_experts"),
        (
            qwen3_moe(),
            json!({"num_hidden_layers": 1024, "num_experts": 1024}),
            "num_experts",
        ),
        (
            qwen3_moe(),
            json!({"shared_expert_intermediate_size": 1}),
            "shared_expert",
        ),
        (
            gpt_oss(),
            json!({"experts_per_token": 5}),
            "experts_per_token",
        ),
        (gpt_oss(), json!({"hidden_size": 2890}), "hidden_size"),
        (
            gpt_oss(),
            json!({"quantization_config": {}}),
            "quantization_config.quant_method",
        ),
        (gpt_oss(), json!({"swiglu_limit": 0}), "swiglu_limit"),
    ] {
        let refusal = refusal(with(config, more));
        assert!(
            refusal.contains(&format!("the field {field}")),
            "{field}: {refusal}"
        );
    }
}
