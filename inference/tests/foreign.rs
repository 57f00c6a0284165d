//! Folders with weights of other programs that are not opened: each way to be wrong is refused with
//! the field's or the tensor's name.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use inference::{Bits, LoadError, Model, QuantiseError, TensorError, quantise};
use serde_json::{Value, json};
use support::Folder;

mod support;

const WEIGHTS: &str = "model.safetensors";
const MODULE: &str = "model.layers.1.mlp.down_proj";

/// What is said of a `quantization_config` in which one field differs.
fn said(fixture: &str, field: &str, value: Value) -> String {
    let folder = Folder::copy(fixture);
    folder.edit("config.json", |config| {
        let place = field
            .split('.')
            .fold(&mut config["quantization_config"], |at, name| &mut at[name]);
        *place = value;
    });
    folder.model_refusal().to_string()
}

#[test]
fn methods_bits_and_fields_that_are_not_read_are_named() {
    let weights = "config_groups.group_0.weights";
    let field = |part: &str| format!("{weights}.{part}");
    let cases = [
        ("awq", "quant_method".into(), json!("bitsandbytes")),
        ("awq", "bits".into(), json!(8)),
        ("awq", "zero_point".into(), json!(false)),
        ("awq", "version".into(), json!("gemv")),
        ("awq", "backend".into(), json!("llm-awq")),
        ("awq", "group_size".into(), json!(48)),
        ("gptq", "bits".into(), json!(3)),
        ("gptq", "group_size".into(), json!(8)),
        ("gptq", "checkpoint_format".into(), json!("marlin")),
        ("gptq", "is_marlin_format".into(), json!(true)),
        ("gptq", "dynamic".into(), json!({"-:.*down.*": {}})),
        ("packed-int4", "format".into(), json!("marlin-24")),
        ("packed-int4", "quantization_status".into(), json!("frozen")),
        (
            "packed-int4",
            "kv_cache_scheme".into(),
            json!({"num_bits": 8}),
        ),
        (
            "packed-int4",
            "transform_config".into(),
            json!({"config_groups": {"a": {}}}),
        ),
        (
            "packed-int4",
            "sparsity_config.format".into(),
            json!("sparse-24-bitmask"),
        ),
        (
            "packed-int4",
            "config_groups.group_0.targets".into(),
            json!(["re:.*down.*"]),
        ),
        ("packed-int4", field("num_bits"), json!(2)),
        ("packed-int4", field("type"), json!("float")),
        ("packed-int4", field("actorder"), json!("row")),
        ("packed-int4", field("strategy"), json!("token")),
        ("int8-zero", field("num_bits"), json!(4)),
        ("int8-zero", field("dynamic"), json!(true)),
        ("float8-channel", field("num_bits"), json!(4)),
        ("fp8-block", "fmt".into(), json!("e5m2")),
        (
            "fp8-block",
            "modules_to_convert".into(),
            json!(["embed_tokens"]),
        ),
        ("fp8-block", "expert_dtype".into(), json!("fp4")),
    ];
    for (fixture, field, value) in cases {
        let field: String = field;
        let expected = format!(
            "config.json: the field quantization_config.{field} has a value that is not supported"
        );
        assert_eq!(
            said(fixture, &field, value.clone()),
            expected,
            "{fixture} {value}"
        );
    }
    let unknown = said("gptq", "secret_sauce", json!(1));
    assert_eq!(
        unknown,
        "config.json: the field quantization_config.secret_sauce is not known"
    );
    let block = said("fp8-block", "weight_block_size", json!([128, 100]));
    assert!(
        block.contains("quantization_config.weight_block_size is not a number"),
        "{block}"
    );
    let ignore = said("packed-int4", "ignore", json!(["re:("]));
    assert!(
        ignore.contains("quantization_config.ignore is not a list of names"),
        "{ignore}"
    );
    let two = json!({"a": {}, "b": {}});
    let two = said("packed-int4", "config_groups", two);
    assert!(
        two.contains("quantization_config.config_groups has a value"),
        "{two}"
    );
}

#[test]
fn modules_that_are_not_to_be_converted_are_not() {
    let lists = [
        (
            "awq",
            "modules_to_not_convert",
            json!(["model.layers.1.mlp"]),
            "qweight",
        ),
        (
            "awq",
            "modules_to_not_convert",
            json!(["model.layers.1"]),
            "qweight",
        ),
        (
            "fp8-block",
            "modules_to_not_convert",
            json!([MODULE]),
            "weight_scale_inv",
        ),
        (
            "packed-int4-order",
            "ignore",
            json!(["lm_head", MODULE]),
            "weight_packed",
        ),
        (
            "packed-int4-order",
            "ignore",
            json!(["re:.*layers\\.1\\.mlp\\.down"]),
            "weight_packed",
        ),
        (
            "int8-zero",
            "ignore",
            json!(["re:model.layers.[12].*"]),
            "weight",
        ),
    ];
    for (fixture, field, list, part) in lists {
        let folder = Folder::copy(fixture);
        folder.edit("config.json", |config| {
            config["quantization_config"][field] = list.clone()
        });
        let refusal = folder.model_refusal().to_string();
        // Its weight in the usual form is missing, or is of a type that no weight has.
        let plain = refusal.starts_with("the tensor model.layers.1.")
            && (refusal.ends_with(".weight is missing")
                || refusal.ends_with(".weight is not f32, f16 or bf16"));
        assert!(plain, "{fixture} {list} {part}: {refusal}");
    }
    // A name that is only the beginning of another's part speaks for neither.
    let folder = Folder::copy("awq");
    folder.edit("config.json", |config| {
        config["quantization_config"]["modules_to_not_convert"] =
            json!(["model.layers.1.mlp.down"]);
    });
    assert!(Model::open(folder.path(), None).is_ok());
}

/// What a module has in its quantised form.
const PARTS: [(&str, &[&str]); 8] = [
    ("awq", &["qweight", "qzeros", "scales"]),
    ("gptq", &["qweight", "qzeros", "scales", "g_idx"]),
    ("gptq-order", &["qweight", "g_idx"]),
    (
        "packed-int4",
        &["weight_packed", "weight_scale", "weight_shape"],
    ),
    ("packed-int4-order", &["weight_packed", "weight_g_idx"]),
    (
        "int8-zero",
        &["weight", "weight_scale", "weight_zero_point"],
    ),
    ("float8-channel", &["weight", "weight_scale"]),
    ("fp8-block", &["weight", "weight_scale_inv"]),
];

/// A module of the fixture that stands in its quantised form.
fn module_of(header: &Value, part: &str) -> String {
    let names = header.as_object().expect("a map");
    let scales = ["scales", "weight_scale", "weight_scale_inv"];
    let has_scales = |module: &str| {
        let mut scales = scales.iter();
        scales.any(|scale| names.contains_key(&format!("{module}.{scale}")))
    };
    let modules = names
        .keys()
        .filter_map(|name| name.strip_suffix(&format!(".{part}")));
    let mut modules = modules.filter(|module| has_scales(module));
    modules.next().expect("a module").to_owned()
}

#[test]
fn quantised_parts_of_a_wrong_type_are_named() {
    for (fixture, parts) in PARTS {
        for part in parts {
            let folder = Folder::copy(fixture);
            let mut name = String::new();
            folder.edit_header(WEIGHTS, |header| {
                name = format!("{}.{part}", module_of(header, part));
                let size = match header[&name]["dtype"].as_str().expect("a type") {
                    "I64" => "F64",
                    "I32" | "F32" => "U32",
                    "F16" | "BF16" => "I16",
                    _ => "BOOL",
                };
                header[&name]["dtype"] = json!(size);
            });
            let refusal = folder.model_refusal();
            let named = match &refusal {
                LoadError::Tensor(TensorError::Quantised(found) | TensorError::Dtype(found)) => {
                    found.to_string()
                }
                _ => String::new(),
            };
            assert_eq!(named, name, "{fixture} {part}: {refusal}");
        }
    }
}

#[test]
fn quantised_parts_of_a_wrong_shape_are_named() {
    for (fixture, parts) in PARTS {
        for part in parts {
            let folder = Folder::copy(fixture);
            let mut name = String::new();
            folder.edit_header(WEIGHTS, |header| {
                name = format!("{}.{part}", module_of(header, part));
                let shape = header[&name]["shape"].as_array().expect("a shape").clone();
                header[&name]["shape"] = match shape.as_slice() {
                    [rows, columns] => json!([columns, rows, 1]),
                    all => json!([all[0], 1]),
                };
            });
            let refusal = folder.model_refusal();
            let named = match &refusal {
                LoadError::Tensor(TensorError::Shape { name, .. }) => name.to_string(),
                _ => String::new(),
            };
            assert_eq!(named, name, "{fixture} {part}: {refusal}");
        }
    }
}

#[test]
fn quantised_parts_that_are_missing_are_named() {
    for (fixture, parts) in PARTS {
        // Without its first part a module is taken for a plain one; without another it is refused.
        for part in &parts[1..] {
            let folder = Folder::copy(fixture);
            let mut name = String::new();
            folder.edit_header(WEIGHTS, |header| {
                name = format!("{}.{part}", module_of(header, part));
                let entries = header.as_object_mut().expect("a map");
                let entry = entries.remove(&name).expect("a part");
                entries.insert("left.over".into(), entry);
            });
            let refusal = folder.model_refusal().to_string();
            let optional = ["g_idx", "weight_shape"].contains(part) && fixture != "gptq-order";
            let expected = match (optional, part.starts_with("weight_scale")) {
                (true, _) => "the tensor left.over has no place in this architecture".to_owned(),
                // Then nothing says that it is quantised, but its type.
                (_, true) if fixture != "packed-int4" => {
                    let module = name.rsplit_once('.').expect("a module").0;
                    format!("the tensor {module}.weight is not f32, f16 or bf16")
                }
                _ => format!("the tensor {name} is missing"),
            };
            assert_eq!(refusal, expected, "{fixture} {part}");
        }
    }
}

#[test]
fn scales_and_weights_that_are_not_finite_are_named() {
    for (fixture, part) in [
        ("awq", "scales"),
        ("gptq", "scales"),
        ("gptq-int8", "scales"),
        ("packed-int4", "weight_scale"),
        ("packed-int4-order", "weight_scale"),
        ("int8-zero", "weight_scale"),
        ("float8-channel", "weight_scale"),
        ("fp8-block", "weight_scale_inv"),
        ("fp8-tensor", "weight_scale"),
        ("fp8-block", "weight"),
        ("float8-channel", "weight"),
    ] {
        let folder = Folder::copy(fixture);
        let (mut name, mut dtype) = (String::new(), String::new());
        folder.edit_header(WEIGHTS, |header| {
            name = format!("{}.{part}", module_of(header, part));
            dtype = header[&name]["dtype"].as_str().expect("a type").to_owned();
        });
        let bad: &[&[u8]] = match dtype.as_str() {
            "F32" => &[
                &[0, 0, 0xc0, 0x7f],
                &[0, 0, 0x80, 0xff],
                &[0xff, 0xff, 0x7f, 0x7f],
            ],
            "F16" => &[&[0, 0x7e], &[0, 0x7c], &[0, 0xfc]],
            "BF16" => &[&[0xc0, 0x7f], &[0x80, 0x7f], &[0x7f, 0x7f]],
            _ => &[&[0x7f], &[0xff]],
        };
        for bad in bad {
            folder.overwrite(&name, bad);
            let refusal = folder.model_refusal().to_string();
            let expected = format!("the tensor {name} has a weight that is not finite");
            assert_eq!(refusal, expected, "{fixture} {bad:?}");
        }
    }
}

#[test]
fn scales_of_our_own_that_are_not_finite_are_named() {
    for bits in [Bits::Eight, Bits::Four] {
        let folder = Folder::copy("f16-linear");
        let wide = Folder::copy("qwen3");
        let made = tempfile::tempdir().expect("a folder");
        let output = made.path().join("small");
        quantise(wide.path(), &output, bits).expect("smaller weights");
        for file in ["config.json", WEIGHTS] {
            folder.write(file, &std::fs::read(output.join(file)).expect("a file"));
        }
        let name = "model.layers.0.self_attn.q_proj.weight_scale";
        folder.overwrite(name, &[0, 0x7e]);
        let refusal = folder.model_refusal().to_string();
        assert_eq!(
            refusal,
            format!("the tensor {name} has a weight that is not finite")
        );
    }
}

#[test]
fn orders_that_are_none_are_named() {
    for (fixture, part) in [
        ("gptq-order", "g_idx"),
        ("packed-int4-order", "weight_g_idx"),
    ] {
        for bad in [[0xff; 4], [200, 0, 0, 0]] {
            let folder = Folder::copy(fixture);
            let mut name = String::new();
            folder.edit_header(WEIGHTS, |header| {
                name = format!("{}.{part}", module_of(header, part));
            });
            folder.overwrite(&name, &bad);
            let refusal = folder.model_refusal();
            let named = match &refusal {
                LoadError::Tensor(TensorError::Quantised(name)) => name.to_string(),
                _ => String::new(),
            };
            assert_eq!(named, name, "{fixture}: {refusal}");
        }
    }
    // An order where the configuration says that there is none.
    let refusal = said("gptq-order", "desc_act", json!(false));
    assert!(
        refusal.contains("g_idx is not what quantised weights have"),
        "{refusal}"
    );
}

#[test]
fn a_shape_that_is_another_is_named() {
    let folder = Folder::copy("packed-int4");
    let mut name = String::new();
    folder.edit_header(WEIGHTS, |header| {
        name = format!("{}.weight_shape", module_of(header, "weight_shape"));
    });
    folder.overwrite(&name, &[1]);
    let refusal = folder.model_refusal().to_string();
    assert_eq!(
        refusal,
        format!("the tensor {name} is not what quantised weights have in its place")
    );
}

#[test]
fn weights_of_other_programs_are_not_made_smaller_again() {
    let folder = Folder::copy("awq");
    let output = tempfile::tempdir().expect("a folder");
    let again = quantise(folder.path(), &output.path().join("again"), Bits::Four);
    assert!(matches!(again, Err(QuantiseError::Already)));
}
