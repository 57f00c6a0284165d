//! Rotary position embeddings: which frequencies, and the rotation of one head.
//!
//! The tables are computed as transformers computes them, operation by operation in f32, because
//! at position 1,000 a frequency that differs in its last bit is an angle that differs in the
//! fourth decimal. Powers, sines and cosines come from `libm`: pure Rust, the same bits on every
//! machine.

use crate::config::Fields;
use crate::error::ConfigError;

const DEFAULT_THETA: f64 = 10_000.0;

/// The frequencies of one layer's rotation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RopeSpec {
    theta: f64,
    dimensions: usize,
    scaling: Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Scaling {
    None,
    Linear {
        factor: f32,
    },
    Llama3 {
        factor: f32,
        low_factor: f32,
        high_factor: f32,
        original_tokens: f32,
    },
}

impl RopeSpec {
    /// Takes `rope_theta` with `rope_scaling`, or `rope_parameters` as transformers 5 writes them.
    pub(crate) fn take(fields: &mut Fields, dimensions: usize) -> Result<Self, ConfigError> {
        let outer_theta = fields.positive("rope_theta")?;
        fields.only("partial_rotary_factor", 1.0.into())?;
        let legacy = fields.object("rope_scaling")?;
        let modern = fields.object("rope_parameters")?;
        let parameters = match (legacy, modern) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Unsupported(fields.name("rope_scaling")));
            }
            (legacy, modern) => legacy.or(modern),
        };
        let Some(mut parameters) = parameters else {
            let theta = outer_theta.unwrap_or(DEFAULT_THETA);
            return Ok(Self {
                theta,
                dimensions,
                scaling: Scaling::None,
            });
        };
        let theta = parameters
            .positive("rope_theta")?
            .or(outer_theta)
            .unwrap_or(DEFAULT_THETA);
        parameters.only("partial_rotary_factor", 1.0.into())?;
        let scaling = Scaling::take(&mut parameters)?;
        parameters.finish(&[])?;
        Ok(Self {
            theta,
            dimensions,
            scaling,
        })
    }

    /// One frequency for each pair of dimensions.
    pub(crate) fn frequencies(&self) -> Vec<f32> {
        let dimensions = self.dimensions as f32;
        (0..self.dimensions / 2)
            .map(|pair| {
                let exponent = (2 * pair) as f32 / dimensions;
                let power = libm::pow(self.theta, f64::from(exponent)) as f32;
                self.scaling.apply(1.0 / power)
            })
            .collect()
    }
}

impl Scaling {
    fn take(parameters: &mut Fields) -> Result<Self, ConfigError> {
        let legacy_kind = parameters.text("type")?;
        let kind = parameters.text("rope_type")?.or(legacy_kind);
        let mut need = |field: &str| match parameters.positive(field)? {
            Some(number) => Ok(number as f32),
            None => Err(parameters.missing(field)),
        };
        match kind.as_deref() {
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear {
                factor: need("factor")?,
            }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: need("factor")?,
                low_factor: need("low_freq_factor")?,
                high_factor: need("high_freq_factor")?,
                original_tokens: need("original_max_position_embeddings")?,
            }),
            Some(_) => Err(ConfigError::Unsupported(parameters.name("rope_type"))),
        }
    }

    fn apply(&self, frequency: f32) -> f32 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_factor,
                high_factor,
                original_tokens,
            } => {
                let wavelength = std::f32::consts::TAU / frequency;
                if wavelength > original_tokens / low_factor {
                    frequency / factor
                } else if wavelength < original_tokens / high_factor {
                    frequency
                } else {
                    let span = high_factor - low_factor;
                    let smooth = (original_tokens / wavelength - low_factor) / span;
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            }
        }
    }
}

/// Cosines and sines for one position, one pair for each frequency.
pub(crate) fn angles(frequencies: &[f32], position: usize, out: &mut Vec<(f32, f32)>) {
    out.extend(frequencies.iter().map(|frequency| {
        let (sine, cosine) = libm::sincos(f64::from(position as f32 * frequency));
        (cosine as f32, sine as f32)
    }));
}

/// Rotates one head: dimension `i` pairs with `i + head_dim / 2`.
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
        RopeSpec::take(&mut Fields::new(config).expect("fields"), 8)
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
        let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 2.0}});
        assert!(refusal(yarn).contains("rope_scaling.rope_type"));
        let partial = json!({"rope_parameters": {"partial_rotary_factor": 0.5}});
        assert!(refusal(partial).contains("rope_parameters.partial_rotary_factor"));
        let short = json!({"rope_scaling": {"type": "linear"}});
        assert!(refusal(short).contains("rope_scaling.factor"));
        let extra = json!({"rope_scaling": {"type": "default", "beta_fast": 2}});
        assert!(refusal(extra).contains("rope_scaling.beta_fast"));
    }

    #[test]
    fn position_zero_does_not_rotate() {
        let frequencies = take(json!({})).expect("a specification").frequencies();
        assert_eq!(frequencies[0], 1.0);
        let mut at_zero = Vec::new();
        angles(&frequencies, 0, &mut at_zero);
        let mut head = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
        rotate(&mut head, &at_zero);
        assert_eq!(head, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    }
}
