//! `quantization_config` of `config.json`: how another program has made the weights smaller. What
//! is not known here is refused by its name, as everywhere.
//!
//! - `awq`: 4 bits, zero points, the gemm order.
//! - `gptq`: 4 or 8 bits, with or without `desc_act`, both zero-point offsets.
//! - `compressed-tensors`: one group, over `Linear`: `pack-quantized` in 4 or 8 bits,
//!   `int-quantized` and `naive-quantized` in 8, `float-quantized` in fp8.
//! - `fp8`: e4m3, a scale for each block, row or tensor.
//!
//! MXFP4 is gpt-oss's own and read there. Activations stay as they are: what a configuration says
//! about making them smaller is not followed.

use regex::Regex;
use serde_json::Value;

use crate::config::Fields;
use crate::error::ConfigError;

const CONFIG: &str = "quantization_config";
/// The shift of a group that is a whole row.
pub(crate) const WHOLE_ROW: u8 = 31;

/// A way to store weights, and the modules that are not stored so.
#[derive(Clone, Debug)]
pub(crate) struct Scheme {
    pub(crate) form: Form,
    skipped: Vec<Pattern>,
}

/// How a module's weight is stored. `shift` is of the groups of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `qweight [columns, rows / 8]`, `qzeros [groups, rows / 8]`, `scales [groups, rows]`.
    Awq { shift: u8 },
    /// `qweight [columns / n, rows]`, `qzeros [groups, rows / n]`, `scales [groups, rows]`, and
    /// `g_idx [columns]`, each column's group.
    Gptq {
        bits: u32,
        shift: u8,
        /// Whether groups may be of any columns.
        is_ordered: bool,
        /// What a stored zero lacks.
        offset: i32,
    },
    /// `weight_packed [rows, columns / n]`, `weight_scale [rows, groups]`, `weight_shape`, and
    /// perhaps `weight_zero_point [rows / n, groups]` and `weight_g_idx [columns]`.
    Packed {
        bits: u32,
        shift: u8,
        is_symmetric: bool,
        is_ordered: bool,
    },
    /// `weight [rows, columns]` of signed bytes, `weight_scale`, perhaps `weight_zero_point`.
    Bytes { shift: u8, is_symmetric: bool },
    /// `weight [rows, columns]` in e4m3 and `weight_scale` or `weight_scale_inv`.
    Float8 { block: Block },
}

/// What shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Each row, or all.
    RowOrTensor,
    /// So many rows, and `1 << shift` columns.
    Of { rows: usize, shift: u8 },
}

#[derive(Clone, Debug)]
enum Pattern {
    /// The module's whole name.
    Name(String),
    /// The beginning of the name up to a dot, or the end of it.
    Part(String),
    /// The beginning of the name.
    Regex(Regex),
}

/// Fields about how the weights were found.
const CALIBRATION: &[&str] = &[
    "act_group_aware",
    "backend",
    "batch_size",
    "block_name_to_quantize",
    "cache_block_outputs",
    "damp_auto_increment",
    "damp_percent",
    "dataset",
    "disable_exllama",
    "do_fuse",
    "exllama_config",
    "fuse_max_seq_len",
    "hessian",
    "lm_head",
    "max_input_length",
    "meta",
    "model_file_base_name",
    "model_name_or_path",
    "model_seqlen",
    "module_name_preceding_first_block",
    "modules_in_block_to_quantize",
    "modules_to_fuse",
    "mse",
    "pad_token_id",
    "static_groups",
    "sym",
    "tokenizer",
    "true_sequential",
    "use_cuda_fp16",
    "use_exllama",
];

impl Scheme {
    /// Takes `quantization_config`, if it is there.
    pub(crate) fn take(fields: &mut Fields) -> Result<Option<Self>, ConfigError> {
        let Some(mut config) = fields.object(CONFIG)? else {
            return Ok(None);
        };
        const METHOD: &str = "quant_method";
        let Some(method) = config.text(METHOD)? else {
            return Err(config.missing(METHOD));
        };
        let scheme = match method.as_str() {
            "awq" => take_awq(&mut config)?,
            "gptq" => take_gptq(&mut config)?,
            "compressed-tensors" => take_compressed(&mut config)?,
            "fp8" => take_fp8(&mut config)?,
            _ => return Err(ConfigError::Unsupported(config.name(METHOD))),
        };
        config.finish(CALIBRATION)?;
        Ok(Some(scheme))
    }

    /// Whether the configuration says that a module's weight is not stored so.
    pub(crate) fn skips(&self, module: &str) -> bool {
        self.skipped.iter().any(|pattern| match pattern {
            Pattern::Name(name) => name == module,
            Pattern::Part(part) => {
                let rest = module.strip_prefix(part.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                    || module.ends_with(part.as_str())
            }
            Pattern::Regex(regex) => regex.is_match(module),
        })
    }
}

fn take_awq(config: &mut Fields) -> Result<Scheme, ConfigError> {
    config.only("bits", 4.into())?;
    config.only("w_bit", 4.into())?;
    config.only("zero_point", true.into())?;
    for field in ["version", "format", "checkpoint_format"] {
        let is_gemm = |text: String| text.eq_ignore_ascii_case("gemm");
        if config.text(field)?.is_some_and(|text| !is_gemm(text)) {
            return Err(ConfigError::Unsupported(config.name(field)));
        }
    }
    if config.text("backend")?.as_deref() == Some("llm-awq") {
        return Err(ConfigError::Unsupported(config.name("backend")));
    }
    config.only("desc_act", false.into())?;
    let shift = take_group(config)?;
    Ok(Scheme {
        form: Form::Awq { shift },
        skipped: take_parts(config, "modules_to_not_convert")?,
    })
}

fn take_gptq(config: &mut Fields) -> Result<Scheme, ConfigError> {
    let bits = take_bits(config, "bits")?;
    let mut offset = 1;
    for field in ["checkpoint_format", "format"] {
        match config.text(field)?.as_deref() {
            None | Some("gptq") => {}
            Some("gptq_v2") => offset = 0,
            Some(_) => return Err(ConfigError::Unsupported(config.name(field))),
        }
    }
    config.only("is_marlin_format", false.into())?;
    config.only("pack_dtype", "int32".into())?;
    // Modules with bits or groups of their own.
    take_empty(config, "dynamic")?;
    let is_ordered = config.switch("desc_act")?;
    let shift = take_group(config)?;
    Ok(Scheme {
        form: Form::Gptq {
            bits,
            shift,
            is_ordered,
            offset,
        },
        skipped: take_parts(config, "modules_to_not_convert")?,
    })
}

fn take_fp8(config: &mut Fields) -> Result<Scheme, ConfigError> {
    const BLOCK: &str = "weight_block_size";
    config.only("fmt", "e4m3".into())?;
    config.only("weight_per_tensor", true.into())?;
    config.only("expert_dtype", "fp8".into())?;
    config.drop_fields(&["activation_scheme", "scale_fmt", "dequantize"]);
    take_empty(config, "modules_to_convert")?;
    let mut skipped = take_parts(config, "modules_to_not_convert")?;
    skipped.extend(take_parts(config, "ignored_layers")?);
    let block = match config.take(BLOCK) {
        None => Block::RowOrTensor,
        Some(sizes) => block(&sizes).ok_or_else(|| bad_block(config, BLOCK))?,
    };
    Ok(Scheme {
        form: Form::Float8 { block },
        skipped,
    })
}

fn take_compressed(config: &mut Fields) -> Result<Scheme, ConfigError> {
    const GROUPS: &str = "config_groups";
    config.only("quantization_status", "compressed".into())?;
    config.only("kv_cache_scheme", Value::Null)?;
    take_empty(config, "transform_config")?;
    if let Some(mut sparsity) = config.object("sparsity_config")? {
        sparsity.only("format", "dense".into())?;
        sparsity.finish(&[
            "global_sparsity",
            "ignore",
            "registry_requires_subclass",
            "targets",
        ])?;
    }
    config.drop_fields(&["global_compression_ratio", "version"]);
    let skipped = config.texts("ignore")?.unwrap_or_default();
    let pattern = |text: String| match text.strip_prefix("re:") {
        None => Ok(Pattern::Name(text)),
        Some(regex) => Regex::new(&format!("^(?:{regex})"))
            .map(Pattern::Regex)
            .map_err(|_| config.invalid("ignore", "a list of names and regular expressions")),
    };
    let skipped = skipped.into_iter().map(pattern).collect::<Result<_, _>>()?;
    let outer = config.text("format")?;
    let Some(mut groups) = config.object(GROUPS)? else {
        return Err(config.missing(GROUPS));
    };
    let mut group = match groups.only_object()? {
        Some(group) => group,
        None => return Err(ConfigError::Unsupported(config.name(GROUPS))),
    };
    group.only("targets", Value::from(vec!["Linear"]))?;
    group.only("output_activations", Value::Null)?;
    group.drop_fields(&["input_activations"]);
    let format = group.text("format")?.or(outer).unwrap_or_default();
    let Some(mut weights) = group.object("weights")? else {
        return Err(group.missing("weights"));
    };
    group.finish(&[])?;
    let form = take_form(&mut weights, &format)?;
    let form = form.ok_or_else(|| ConfigError::Unsupported(config.name("format")))?;
    weights.finish(&["observer", "observer_kwargs", "scale_dtype", "zp_dtype"])?;
    Ok(Scheme { form, skipped })
}

/// How `weights` of a group of compressed-tensors are stored; `None` if the format is not known.
fn take_form(weights: &mut Fields, format: &str) -> Result<Option<Form>, ConfigError> {
    weights.only("dynamic", false.into())?;
    let kind = weights.text("type")?.unwrap_or_else(|| "int".to_owned());
    let bits = take_bits(weights, "num_bits")?;
    let is_symmetric = weights.switch_or("symmetric", true)?;
    let order = weights.text("actorder")?;
    let is_ordered = match order.as_deref() {
        None | Some("weight" | "static") => false,
        Some("group" | "dynamic") => true,
        Some(_) => return Err(ConfigError::Unsupported(weights.name("actorder"))),
    };
    let strategy = weights.text("strategy")?.unwrap_or_default();
    let (block, shift) = take_strategy(weights, &strategy)?;
    let unsupported = |field: &str| ConfigError::Unsupported(weights.name(field));
    if is_ordered && format != "pack-quantized" {
        return Err(unsupported("actorder"));
    }
    Ok(Some(match (format, kind.as_str()) {
        ("pack-quantized", "int") if strategy == "tensor" || strategy == "block" => {
            return Err(unsupported("strategy"));
        }
        ("pack-quantized", "int") => Form::Packed {
            bits,
            shift,
            is_symmetric,
            is_ordered,
        },
        ("int-quantized" | "naive-quantized", "int") if bits != 8 => {
            return Err(unsupported("num_bits"));
        }
        ("int-quantized" | "naive-quantized", "int") if strategy == "block" => {
            return Err(unsupported("strategy"));
        }
        ("int-quantized" | "naive-quantized", "int") => Form::Bytes {
            shift,
            is_symmetric,
        },
        ("float-quantized" | "naive-quantized", "float") if bits != 8 => {
            return Err(unsupported("num_bits"));
        }
        ("float-quantized" | "naive-quantized", "float") if strategy == "group" => {
            return Err(unsupported("strategy"));
        }
        ("float-quantized" | "naive-quantized", "float") => Form::Float8 { block },
        ("pack-quantized" | "int-quantized" | "naive-quantized" | "float-quantized", _) => {
            return Err(unsupported("type"));
        }
        _ => return Ok(None),
    }))
}

/// What shares a scale, as a block and as a group of a row.
fn take_strategy(weights: &mut Fields, strategy: &str) -> Result<(Block, u8), ConfigError> {
    const BLOCK: &str = "block_structure";
    let structure = weights.take(BLOCK);
    match strategy {
        "tensor" | "channel" => {
            weights.drop_fields(&["group_size"]);
            Ok((Block::RowOrTensor, WHOLE_ROW))
        }
        "group" => Ok((Block::RowOrTensor, take_group(weights)?)),
        "block" => {
            weights.drop_fields(&["group_size"]);
            let structure = structure.and_then(|sizes| block(&sizes));
            Ok((
                structure.ok_or_else(|| bad_block(weights, BLOCK))?,
                WHOLE_ROW,
            ))
        }
        _ => Err(ConfigError::Unsupported(weights.name("strategy"))),
    }
}

fn bad_block(fields: &Fields, field: &str) -> ConfigError {
    fields.invalid(
        field,
        "a number of rows and a power of two of columns, from 16 on",
    )
}

/// `[rows, columns]`.
fn block(sizes: &Value) -> Option<Block> {
    let [rows, columns] = sizes.as_array()?.as_slice() else {
        return None;
    };
    let rows = usize::try_from(rows.as_u64()?).ok()?;
    let shift = group_shift(columns.as_u64()?)?;
    let limits = 1..=1 << 20;
    limits.contains(&rows).then_some(Block::Of { rows, shift })
}

fn take_bits(config: &mut Fields, field: &str) -> Result<u32, ConfigError> {
    match config.take(field).and_then(|bits| bits.as_u64()) {
        Some(bits @ (4 | 8)) => Ok(bits as u32),
        _ => Err(ConfigError::Unsupported(config.name(field))),
    }
}

/// `group_size`: -1 is a whole row.
fn take_group(config: &mut Fields) -> Result<u8, ConfigError> {
    const FIELD: &str = "group_size";
    let Some(size) = config.take(FIELD).or_else(|| config.take("q_group_size")) else {
        return Err(config.missing(FIELD));
    };
    if size.as_i64() == Some(-1) {
        return Ok(WHOLE_ROW);
    }
    let shift = size.as_u64().and_then(group_shift);
    shift.ok_or_else(|| ConfigError::Unsupported(config.name(FIELD)))
}

/// A group has whole steps of the products' sixteen lanes.
fn group_shift(columns: u64) -> Option<u8> {
    let fits = columns.is_power_of_two() && (16..=1 << 20).contains(&columns);
    fits.then(|| columns.trailing_zeros() as u8)
}

/// A field that has to be absent, or hold nothing.
fn take_empty(config: &mut Fields, field: &str) -> Result<(), ConfigError> {
    match config.take(field) {
        None => Ok(()),
        Some(Value::Object(map)) if map.is_empty() => Ok(()),
        Some(Value::Array(list)) if list.is_empty() => Ok(()),
        Some(_) => Err(ConfigError::Unsupported(config.name(field))),
    }
}

/// Names as transformers compares them: as a beginning or an end, or as a regular expression.
fn take_parts(config: &mut Fields, field: &str) -> Result<Vec<Pattern>, ConfigError> {
    let parts = config.texts(field)?.unwrap_or_default();
    let mut patterns = Vec::new();
    for part in parts {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !part.chars().all(is_plain) {
            let regex = Regex::new(&format!(r"^(?:{part})(?:\.|$)"));
            let expected = "a list of names and regular expressions";
            let regex = regex.map_err(|_| config.invalid(field, expected))?;
            patterns.push(Pattern::Regex(regex));
        }
        patterns.push(Pattern::Part(part));
    }
    Ok(patterns)
}
