//! The ways to stretch a rotation over more tokens than it was trained for.

use super::RopeDefaults;
use crate::config::Fields;
use crate::error::ConfigError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scaling {
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
    /// Pairs up to `low` keep their frequency, those `span` later are slowed down by `factor`.
    Yarn {
        factor: f32,
        low: f32,
        span: f32,
        size: f32,
    },
    /// Each pair is slowed down by a factor of its own, by another in long sequences.
    Long {
        short: Vec<f32>,
        long: Vec<f32>,
        original_tokens: u32,
        size: f32,
    },
}

impl Scaling {
    pub(super) fn take(
        parameters: &mut Fields,
        theta: f64,
        dimensions: usize,
        defaults: RopeDefaults,
    ) -> Result<Self, ConfigError> {
        let legacy_kind = parameters.text("type")?;
        let kind = parameters.text("rope_type")?.or(legacy_kind);
        match kind.as_deref() {
            None | Some("default") => Ok(Self::None),
            // It changes nothing up to `max_position_embeddings`, and no sequence is longer.
            Some("dynamic") => need(parameters, "factor").map(|_| Self::None),
            Some("linear") => Ok(Self::Linear {
                factor: need(parameters, "factor")? as f32,
            }),
            Some("llama3") => Ok(Self::Llama3 {
                factor: need(parameters, "factor")? as f32,
                low_factor: need(parameters, "low_freq_factor")? as f32,
                high_factor: need(parameters, "high_freq_factor")? as f32,
                original_tokens: original_tokens(parameters, defaults)? as f32,
            }),
            Some("yarn") => Self::take_yarn(parameters, theta, dimensions, defaults),
            Some("longrope" | "su") => Self::take_long(parameters, dimensions, defaults),
            Some(_) => Err(ConfigError::Unsupported(parameters.name("rope_type"))),
        }
    }

    fn take_yarn(
        parameters: &mut Fields,
        theta: f64,
        dimensions: usize,
        defaults: RopeDefaults,
    ) -> Result<Self, ConfigError> {
        let original = f64::from(original_tokens(parameters, defaults)?);
        let context = f64::from(defaults.context_tokens);
        let factor = parameters.positive("factor")?.unwrap_or(context / original);
        let fast = parameters.positive("beta_fast")?.unwrap_or(32.0);
        let slow = parameters.positive("beta_slow")?.unwrap_or(1.0);
        let truncate = parameters.switch_or("truncate", true)? || defaults.truncates;
        let size = match parameters.positive("attention_factor")? {
            Some(size) => size,
            None => yarn_size(parameters, factor)?,
        };
        parameters.drop_fields(&["mscale", "mscale_all_dim"]);

        let count = dimensions as f64;
        // The pair that turns so often within the original context.
        let pair = |turns: f64| {
            count * libm::log(original / (turns * std::f64::consts::TAU)) / (2.0 * libm::log(theta))
        };
        let (mut low, mut high) = (pair(fast), pair(slow));
        if truncate {
            (low, high) = (libm::floor(low), libm::ceil(high));
        }
        let low = low.max(0.0);
        let mut high = high.min(count - 1.0);
        if low == high {
            high += 0.001;
        }
        Ok(Self::Yarn {
            factor: factor as f32,
            low: low as f32,
            span: (high - low) as f32,
            size: size as f32,
        })
    }

    fn take_long(
        parameters: &mut Fields,
        dimensions: usize,
        defaults: RopeDefaults,
    ) -> Result<Self, ConfigError> {
        let original_tokens = original_tokens(parameters, defaults)?;
        let original = f64::from(original_tokens);
        let context = f64::from(defaults.context_tokens);
        let factor = parameters.positive("factor")?.unwrap_or(context / original);
        let size = match parameters.positive("attention_factor")? {
            Some(size) => size,
            None if factor <= 1.0 => 1.0,
            None => libm::sqrt(1.0 + libm::log(factor) / libm::log(original)),
        };
        let mut factors = |field: &str| match parameters.numbers(field)? {
            Some(factors) if factors.len() == dimensions / 2 => Ok(factors),
            Some(_) => Err(parameters.invalid(field, "one factor for each rotated pair")),
            None => Err(parameters.missing(field)),
        };
        Ok(Self::Long {
            short: factors("short_factor")?,
            long: factors("long_factor")?,
            original_tokens,
            size: size as f32,
        })
    }

    pub(super) fn turning_point(&self) -> Option<usize> {
        match self {
            Self::Long {
                original_tokens, ..
            } => Some(*original_tokens as usize),
            _ => None,
        }
    }

    /// What sines and cosines are multiplied by.
    pub(super) fn size(&self) -> f32 {
        match self {
            Self::Yarn { size, .. } | Self::Long { size, .. } => *size,
            _ => 1.0,
        }
    }

    /// From the powers of theta, one for each pair; `is_long` for long sequences.
    pub(super) fn frequencies(&self, powers: &[f32], is_long: bool) -> Vec<f32> {
        let scaled = powers.iter().enumerate().map(|(pair, power)| match self {
            Self::Yarn {
                factor, low, span, ..
            } => {
                let ramp = ((pair as f32 - low) / span).clamp(0.0, 1.0);
                let keep = 1.0 - ramp;
                1.0 / (factor * power) * (1.0 - keep) + 1.0 / power * keep
            }
            Self::Long { short, long, .. } => {
                let factors = if is_long { long } else { short };
                1.0 / (factors[pair] * power)
            }
            _ => self.stretch(1.0 / power),
        });
        scaled.collect()
    }

    fn stretch(&self, frequency: f32) -> f32 {
        match *self {
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
            _ => frequency,
        }
    }
}

/// What stands outside wins, as in transformers.
fn original_tokens(parameters: &mut Fields, defaults: RopeDefaults) -> Result<u32, ConfigError> {
    let own = parameters.size("original_max_position_embeddings", u32::MAX)?;
    let original = defaults.original_tokens.or(own);
    Ok(original.unwrap_or(defaults.context_tokens))
}

fn yarn_size(parameters: &mut Fields, factor: f64) -> Result<f64, ConfigError> {
    let size = |scale: f64| match factor <= 1.0 {
        true => 1.0,
        false => 0.1 * scale * libm::log(factor) + 1.0,
    };
    let own = parameters.positive("mscale")?;
    let all = parameters.positive("mscale_all_dim")?;
    Ok(match (own, all) {
        (Some(own), Some(all)) => size(own) / size(all),
        _ => size(1.0),
    })
}

fn need(parameters: &mut Fields, field: &str) -> Result<f64, ConfigError> {
    match parameters.positive(field)? {
        Some(number) => Ok(number),
        None => Err(parameters.missing(field)),
    }
}
