//! Rotary position embeddings: which frequencies, and the rotation of one head.
//!
//! The tables are computed as transformers computes them, operation by operation in f32, because
//! at position 1,000 a frequency that differs in its last bit is an angle that differs in the
//! fourth decimal. Powers, sines and cosines come from `libm`: pure Rust, the same bits on every
//! machine.

use crate::config::Fields;
use crate::error::ConfigError;

mod scaling;

use scaling::Scaling;

/// What a rotation takes from the rest of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeDefaults {
    pub(crate) head_dim: usize,
    pub(crate) theta: f64,
    /// `max_position_embeddings`.
    pub(crate) context_tokens: u32,
    /// `original_max_position_embeddings`, where it stands outside of the rotation's own fields.
    pub(crate) original_tokens: Option<u32>,
    /// Whether `partial_rotary_factor` is read; otherwise it has to be 1.
    pub(crate) partial: bool,
    /// Whether YaRN's bounds are whole whatever `truncate` says.
    pub(crate) truncates: bool,
}

/// The frequencies of one layer's rotation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    theta: f64,
    /// Leading dimensions of a head that are rotated.
    dimensions: usize,
    scaling: Scaling,
}

impl RopeSpec {
    /// Takes `rope_theta` with `rope_scaling`, or `rope_parameters` as transformers 5 writes them.
    pub(crate) fn take(
        fields: &mut Fields,
        mut defaults: RopeDefaults,
    ) -> Result<Self, ConfigError> {
        if let Some(theta) = fields.positive("rope_theta")? {
            defaults.theta = theta;
        }
        let share = take_share(fields, defaults)?;
        let legacy = fields.object("rope_scaling")?;
        let modern = fields.object("rope_parameters")?;
        let parameters = match (legacy, modern) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Unsupported(fields.name("rope_scaling")));
            }
            (legacy, modern) => legacy.or(modern),
        };
        Self::read(parameters, share, defaults)
    }

    /// Reads the rotation's own fields.
    pub(crate) fn read(
        parameters: Option<Fields>,
        outer_share: Option<f64>,
        defaults: RopeDefaults,
    ) -> Result<Self, ConfigError> {
        let mut theta = defaults.theta;
        let mut share = outer_share;
        let mut scaling = Scaling::None;
        let whole = |share: Option<f64>| (defaults.head_dim as f64 * share.unwrap_or(1.0)) as usize;
        if let Some(mut parameters) = parameters {
            theta = parameters.positive("rope_theta")?.unwrap_or(theta);
            share = take_share(&mut parameters, defaults)?.or(share);
            scaling = Scaling::take(&mut parameters, theta, whole(share), defaults)?;
            parameters.finish(&[])?;
        }
        Ok(Self {
            theta,
            dimensions: whole(share),
            scaling,
        })
    }

    /// The rotation of sequences up to this length differs from that of longer ones.
    pub(crate) fn turning_point(&self) -> Option<usize> {
        self.scaling.turning_point()
    }

    pub(crate) fn table(&self) -> Table {
        let dimensions = self.dimensions as f32;
        let powers = (0..self.dimensions / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / dimensions;
            libm::pow(self.theta, f64::from(exponent)) as f32
        });
        let powers: Vec<f32> = powers.collect();
        Table {
            short: self.scaling.frequencies(&powers, false),
            long: self
                .turning_point()
                .map(|tokens| (tokens, self.scaling.frequencies(&powers, true))),
            size: self.scaling.size(),
        }
    }
}

fn take_share(fields: &mut Fields, defaults: RopeDefaults) -> Result<Option<f64>, ConfigError> {
    const FIELD: &str = "partial_rotary_factor";
    let Some(share) = fields.positive(FIELD)? else {
        return Ok(None);
    };
    if share != 1.0 && !defaults.partial {
        return Err(ConfigError::Unsupported(fields.name(FIELD)));
    }
    let dimensions = (defaults.head_dim as f64 * share) as usize;
    if share > 1.0 || dimensions == 0 || !dimensions.is_multiple_of(2) {
        return Err(fields.invalid(FIELD, "an even part of a head"));
    }
    Ok(Some(share))
}

/// The frequencies, one for each pair of dimensions.
#[derive(Debug)]
pub(crate) struct Table {
    short: Vec<f32>,
    /// Others, for sequences longer than this.
    long: Option<(usize, Vec<f32>)>,
    /// What sines and cosines are multiplied by.
    size: f32,
}

impl Table {
    /// Appends cosines and sines for one position of a sequence, one pair for each frequency.
    /// `length` counts all tokens of the sequence that are known when this one is read.
    pub(crate) fn angles(&self, position: usize, length: usize, out: &mut Vec<(f32, f32)>) {
        let frequencies = match &self.long {
            Some((tokens, long)) if length > *tokens => long,
            _ => &self.short,
        };
        out.extend(frequencies.iter().map(|frequency| {
            let (sine, cosine) = libm::sincos(f64::from(position as f32 * frequency));
            (cosine as f32 * self.size, sine as f32 * self.size)
        }));
    }

    /// Frequencies for one position.
    pub(crate) fn width(&self) -> usize {
        self.short.len()
    }
}

/// Rotates the leading dimensions of one head: dimension `i` pairs with `i + angles.len()`.
pub(crate) fn rotate(head: &mut [f32], angles: &[(f32, f32)]) {
    let (first, second) = head.split_at_mut(angles.len());
    for ((a, b), &(cosine, sine)) in first.iter_mut().zip(second).zip(angles) {
        (*a, *b) = (*a * cosine - *b * sine, *b * cosine + *a * sine);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn take(config: Value) -> Result<RopeSpec, ConfigError> {
        let defaults = RopeDefaults {
            head_dim: 8,
            theta: 10_000.0,
            context_tokens: 256,
            original_tokens: None,
            partial: false,
            truncates: false,
        };
        RopeSpec::take(&mut Fields::new(config).expect("fields"), defaults)
    }

    #[test]
    fn old_and_new_spellings_agree() {
        let scaling = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64});
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(500_000.0);
        let old = take(json!({"rope_theta": 500_000.0, "rope_scaling": scaling}));
        assert_eq!(old, take(json!({"rope_parameters": parameters})));
        assert!(old.is_ok());
        assert_eq!(take(json!({})), take(json!({"rope_theta": 10000})));
    }

    #[test]
    fn what_is_not_implemented_is_named() {
        let refusal = |config| take(config).expect_err("a refusal").to_string();
        let unknown = json!({"rope_scaling": {"type": "proportional", "factor": 2.0}});
        assert!(refusal(unknown).contains("rope_scaling.rope_type"));
        let partial = json!({"rope_parameters": {"partial_rotary_factor": 0.5}});
        assert!(refusal(partial).contains("rope_parameters.partial_rotary_factor"));
        let short = json!({"rope_scaling": {"type": "linear"}});
        assert!(refusal(short).contains("rope_scaling.factor"));
        let extra = json!({"rope_scaling": {"type": "default", "beta_fast": 2}});
        assert!(refusal(extra).contains("rope_scaling.beta_fast"));
        let factors = json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 2],
            "long_factor": [1, 2, 3, 4], "original_max_position_embeddings": 64}});
        assert!(refusal(factors).contains("rope_scaling.short_factor"));
        let both = json!({"rope_scaling": {"type": "default"}, "rope_parameters": {}});
        assert!(refusal(both).contains("rope_scaling"));
    }

    #[test]
    fn a_family_may_take_whole_bounds_whatever_is_said() {
        let take = |truncate: bool, truncates: bool| {
            let config = json!({"rope_type": "yarn", "factor": 3.7, "truncate": truncate,
                "original_max_position_embeddings": 511, "rope_theta": 1e6});
            let defaults = RopeDefaults {
                head_dim: 20,
                theta: 10_000.0,
                context_tokens: 512,
                original_tokens: None,
                partial: false,
                truncates,
            };
            RopeSpec::read(Fields::new(config).ok(), None, defaults).expect("a specification")
        };
        assert_eq!(take(false, true), take(true, false));
        assert_ne!(take(false, false), take(true, false));
    }

    #[test]
    fn position_zero_does_not_rotate() {
        let table = take(json!({})).expect("a specification").table();
        assert_eq!((table.width(), table.short[0]), (4, 1.0));
        let mut at_zero = Vec::new();
        table.angles(0, 1, &mut at_zero);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        rotate(&mut head, &at_zero);
        assert_eq!(head, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }

    #[test]
    fn long_sequences_turn_otherwise() {
        let spec = take(
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1, 1, 1, 1],
            "long_factor": [2, 2, 2, 2], "original_max_position_embeddings": 64}}),
        );
        let spec = spec.expect("a specification");
        assert_eq!(spec.turning_point(), Some(64));
        let (mut short, mut long) = (Vec::new(), Vec::new());
        spec.table().angles(6, 64, &mut short);
        spec.table().angles(12, 65, &mut long);
        assert_eq!(short, long);
    }
}
