//! Values that fields of a policy have in common.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::Digest;

/// Something that should be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// Refused without it.
    Required,
    /// Accepted without it, and reported.
    NotRequired,
}

/// Something that should not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tolerance {
    /// Refused with it.
    Refused,
    /// Accepted with it, and reported.
    Accepted,
}

/// How old something may be: `"any"`, or a number of days from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaximumAge {
    /// Any age, and every report says so.
    Any,
    /// So many days.
    Days(u32),
}

/// Which values a field may have: `"any"`, one value, or a list of values, in lower-case
/// hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin<const N: usize> {
    /// Any value, and every report says so.
    Any,
    /// One of these, at least one.
    OneOf(Vec<Digest<N>>),
}

/// Which numbers a field may have: `"any"`, or a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Any number, and every report says so.
    Any,
    /// One of these, at least one.
    OneOf(Vec<u64>),
}

impl Numbers {
    /// Whether `found` is one of them.
    #[must_use]
    pub fn admits(&self, found: u64) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(numbers) => numbers.contains(&found),
        }
    }
}

impl fmt::Display for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any (not pinned by the policy)"),
            Self::OneOf(numbers) => {
                let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
                f.write_str(&numbers.join(" or "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for Numbers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            Word(String),
            Many(Vec<u64>),
        }
        match Values::deserialize(deserializer)? {
            Values::Word(text) if text == "any" => Ok(Self::Any),
            Values::Many(numbers) if !numbers.is_empty() => Ok(Self::OneOf(numbers)),
            _ => Err(de::Error::custom("not \"any\" and not a list of numbers")),
        }
    }
}

impl<const N: usize> Pin<N> {
    /// Whether it says which values there may be.
    #[must_use]
    pub fn is_set(&self) -> bool {
        matches!(self, Self::OneOf(_))
    }

    /// Whether `found` is one of the values.
    #[must_use]
    pub fn admits(&self, found: &Digest<N>) -> bool {
        match self {
            Self::Any => true,
            Self::OneOf(values) => values.contains(found),
        }
    }
}

impl<const N: usize> fmt::Display for Pin<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any (not pinned by the policy)"),
            Self::OneOf(values) => {
                let values: Vec<_> = values.iter().map(ToString::to_string).collect();
                f.write_str(&values.join(" or "))
            }
        }
    }
}

impl fmt::Display for MaximumAge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any (not limited by the policy)"),
            Self::Days(days) => write!(f, "at most {days} days ago"),
        }
    }
}

impl<'de> Deserialize<'de> for MaximumAge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Value {
            Days(u32),
            Word(String),
        }
        match Value::deserialize(deserializer)? {
            Value::Word(word) if word == "any" => Ok(Self::Any),
            Value::Days(days) if days > 0 => Ok(Self::Days(days)),
            _ => Err(de::Error::custom(
                "not \"any\" and not a number of days from 1",
            )),
        }
    }
}

impl<'de, const N: usize> Deserialize<'de> for Pin<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Values {
            One(String),
            Many(Vec<String>),
        }
        let values = match Values::deserialize(deserializer)? {
            Values::One(text) if text == "any" => return Ok(Self::Any),
            Values::One(text) => vec![text],
            Values::Many(texts) if texts.is_empty() => {
                return Err(de::Error::custom("a list that names no value"));
            }
            Values::Many(texts) => texts,
        };
        let values: Result<Vec<_>, _> = values.iter().map(|text| text.parse()).collect();
        values.map(Self::OneOf).map_err(de::Error::custom)
    }
}
