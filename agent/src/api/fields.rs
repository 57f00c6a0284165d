//! The parameters of a request, taken out one by one: what is left at the end is unknown.

use serde_json::{Map, Value};

use super::error::ApiError;

/// Longest part of a client's own text that an error gives back.
const MAX_ECHO_CHARS: usize = 64;

/// A JSON object whose members are taken by name. A member that is `null` counts as absent.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            _ => Err(ApiError::Json),
        }
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn string(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(ApiError::invalid(name, "must be a string")),
        }
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(value),
            Some(_) => Err(ApiError::invalid(name, "must be true or false")),
        }
    }

    /// A number from `least` to `most`.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        (least, most): (f64, f64),
        expected: &'static str,
    ) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .filter(|number| (least..=most).contains(number));
        number
            .map(Some)
            .ok_or_else(|| ApiError::invalid(name, expected))
    }

    /// A whole number from 0 to `most`.
    pub(crate) fn up_to(
        &mut self,
        name: &'static str,
        most: u32,
        expected: &'static str,
    ) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| *count <= most);
        count
            .map(Some)
            .ok_or_else(|| ApiError::invalid(name, expected))
    }

    /// A whole number from 1 to 2³²−1.
    pub(crate) fn count(&mut self, name: &'static str) -> Result<Option<u32>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| *count > 0);
        count
            .map(Some)
            .ok_or_else(|| ApiError::invalid(name, "must be a whole number above 0"))
    }

    /// A parameter that is known and not implemented: only its neutral value passes.
    pub(crate) fn only(
        &mut self,
        name: &'static str,
        expected: &'static str,
        neutral: impl Fn(&Value) -> bool,
    ) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !neutral(&value) => Err(ApiError::unsupported(name, expected)),
            _ => Ok(()),
        }
    }

    /// Parameters without influence on the answer.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// Nothing is left.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            Some((name, _)) => Err(ApiError::Unknown(echo(&name))),
            None => Ok(()),
        }
    }
}

impl From<Map<String, Value>> for Fields {
    fn from(members: Map<String, Value>) -> Self {
        Self(members)
    }
}

/// A short piece of the client's own text, fit to stand in an error.
pub(crate) fn echo(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_ECHO_CHARS)
        .collect()
}
