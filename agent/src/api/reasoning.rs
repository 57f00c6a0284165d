//! What a request says of how a model thinks, and what usage says of it.

use inference::{Day, Json};
use serde::Serialize;
use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;

const KWARGS: &str = "chat_template_kwargs";
const EFFORT: &str = "reasoning_effort";
/// What is no variable, but tells a template the day.
const DATE: &str = "current_date";
const MAX_VARIABLES: usize = 32;
const EFFORTS: [&str; 5] = ["none", "minimal", "low", "medium", "high"];

/// What a chat template is given beside the messages.
#[derive(Default)]
pub(super) struct Variables {
    pub(super) names: Vec<(String, Json)>,
    /// `None`: today.
    pub(super) today: Option<Day>,
}

impl Variables {
    /// `chat_template_kwargs` and `reasoning_effort`.
    pub(super) fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let effort = fields.string(EFFORT)?;
        let mut variables = Self::take_kwargs(fields)?;
        if let Some(effort) = effort {
            variables.add_effort(EFFORT, &effort)?;
        }
        Ok(variables)
    }

    pub(super) fn take_kwargs(fields: &mut Fields) -> Result<Self, ApiError> {
        let mut members = match fields.take(KWARGS) {
            None => return Ok(Self::default()),
            Some(Value::Object(members)) if members.len() <= MAX_VARIABLES => members,
            Some(_) => {
                let expected = "must be an object with at most 32 members";
                return Err(ApiError::invalid(KWARGS, expected));
            }
        };
        let wrong = || ApiError::invalid(format!("{KWARGS}.{DATE}"), "must be a day, YYYY-MM-DD");
        let today = members.remove(DATE);
        let today = today.map(|day| day.as_str().and_then(Day::parse).ok_or_else(wrong));
        Ok(Self {
            today: today.transpose()?,
            names: members
                .into_iter()
                .map(|(name, value)| (name, value.into()))
                .collect(),
        })
    }

    /// How much a model should think: not at all, or as its template understands it.
    pub(super) fn add_effort(
        &mut self,
        parameter: &'static str,
        effort: &str,
    ) -> Result<(), ApiError> {
        if !EFFORTS.contains(&effort) {
            let expected = "must be one of none, minimal, low, medium and high";
            return Err(ApiError::invalid(parameter, expected));
        }
        let (name, value) = match effort {
            "none" => ("enable_thinking", Json::Bool(false)),
            effort => (EFFORT, effort.into()),
        };
        if self.names.iter().any(|(other, _)| other == name) {
            let expected = "says the same as a member of 'chat_template_kwargs'";
            return Err(ApiError::invalid(parameter, expected));
        }
        self.names.push((name.to_owned(), value));
        Ok(())
    }
}

/// Of the tokens that were generated.
#[derive(Serialize, Default)]
pub(super) struct CompletionDetails {
    pub(super) reasoning_tokens: u32,
}
