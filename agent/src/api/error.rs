//! Every way in which a request is refused, in the shape of OpenAI's API.

use hyper::StatusCode;
use inference::{PromptError, SubmitError};
use serde::Serialize;

/// Why a request gets no answer. It may hold text of the client: there is no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// The body is not a JSON object.
    Json,
    /// A parameter that must be there is not.
    Missing(&'static str),
    /// A parameter of a wrong type or out of its range.
    Invalid {
        parameter: String,
        expected: &'static str,
    },
    /// A parameter, or a value of one, that this server does not implement.
    Unsupported {
        parameter: String,
        expected: &'static str,
    },
    /// A parameter that nobody knows.
    Unknown(String),
    /// Another model than the one that is served.
    UnknownModel(String),
    /// Prompt and answer do not fit the context.
    ContextLength {
        parameter: &'static str,
        prompt: u64,
        completion: u32,
        context: u32,
    },
    /// The prompt is longer than any context, and its tokens were not even counted.
    TextLength {
        parameter: &'static str,
        found: usize,
        limit: usize,
    },
    /// The prompt does not go through the model's chat template or tokenizer.
    Prompt {
        parameter: &'static str,
        reason: String,
    },
    /// A schema that an answer cannot be held to.
    Schema {
        parameter: &'static str,
        reason: String,
    },
    /// Holding an answer to its schema took more work than is allowed.
    Constraint,
    /// The body is longer than the configuration allows.
    BodyTooLarge { limit: u64 },
    /// The body did not come in time, or not whole.
    BodyIncomplete,
    /// The path has no such method.
    Method { allowed: &'static str },
    /// No such path.
    Path,
    /// As many requests wait as may wait.
    QueueFull,
    /// The engine was too slow.
    Deadline,
    /// The engine has stopped.
    Stopped,
    /// The system gave no randomness.
    Entropy,
}

/// The JSON of an error.
#[derive(Serialize)]
pub(crate) struct ErrorBody {
    error: ErrorFields,
}

#[derive(Serialize)]
struct ErrorFields {
    message: String,
    r#type: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    pub(crate) fn invalid(parameter: impl Into<String>, expected: &'static str) -> Self {
        Self::Invalid {
            parameter: parameter.into(),
            expected,
        }
    }

    pub(crate) fn unsupported(parameter: impl Into<String>, expected: &'static str) -> Self {
        Self::Unsupported {
            parameter: parameter.into(),
            expected,
        }
    }

    /// Rendering or encoding failed; `parameter` held the text.
    pub(crate) fn from_prompt(error: &PromptError, parameter: &'static str) -> Self {
        match *error {
            PromptError::TooLong { found, limit } => Self::TextLength {
                parameter,
                found,
                limit,
            },
            PromptError::Variable(_) => Self::invalid(
                "chat_template_kwargs",
                "holds a name that a template gets from elsewhere",
            ),
            _ => Self::Prompt {
                parameter,
                reason: error.to_string(),
            },
        }
    }

    /// The engine did not take the request; `parameter` held the prompt.
    pub(crate) fn from_submit(error: &SubmitError, parameter: &'static str) -> Self {
        match *error {
            SubmitError::ContextLength {
                prompt_tokens,
                max_new_tokens,
                context_tokens,
            } => Self::ContextLength {
                parameter,
                prompt: prompt_tokens.into(),
                completion: max_new_tokens,
                context: context_tokens,
            },
            SubmitError::EmptyPrompt => Self::invalid(parameter, "must not be empty"),
            SubmitError::UnknownToken { .. } => {
                Self::invalid(parameter, "holds a token that is not in the vocabulary")
            }
            SubmitError::NewTokens { .. } => Self::invalid(
                "max_tokens",
                "is 0 or more than this server allows in one answer",
            ),
            SubmitError::Temperature => Self::invalid("temperature", "must be from 0 to 2"),
            SubmitError::TopP => Self::invalid("top_p", "must be from 0 to 1"),
            SubmitError::MinP => Self::invalid("min_p", "must be from 0 to 1"),
            SubmitError::Penalty => Self::invalid("presence_penalty", "must be from -2 to 2"),
            SubmitError::LogitBias { .. } => Self::invalid(
                "logit_bias",
                "must name few tokens, all of the vocabulary, with numbers from -100 to 100",
            ),
            SubmitError::Logprobs { .. } => {
                Self::invalid("top_logprobs", "must be a whole number up to 20")
            }
            SubmitError::Stop { .. } => {
                Self::invalid("stop", "must be at most 4 strings, none empty or very long")
            }
            SubmitError::NoText => {
                Self::unsupported("model", "this is an embedding model: it writes no text")
            }
            SubmitError::NoEmbedding => Self::unsupported(
                "model",
                "this is no embedding model: it makes no embeddings",
            ),
            SubmitError::QueueFull { .. } => Self::QueueFull,
            SubmitError::Stopped => Self::Stopped,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Json
            | Self::Missing(_)
            | Self::Invalid { .. }
            | Self::Unsupported { .. }
            | Self::Unknown(_)
            | Self::ContextLength { .. }
            | Self::TextLength { .. }
            | Self::Schema { .. }
            | Self::Constraint
            | Self::Prompt { .. } => StatusCode::BAD_REQUEST,
            Self::UnknownModel(_) | Self::Path => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyIncomplete => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::QueueFull => StatusCode::TOO_MANY_REQUESTS,
            Self::Stopped | Self::Deadline => StatusCode::SERVICE_UNAVAILABLE,
            Self::Entropy => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    pub(crate) fn body(&self) -> ErrorBody {
        let kind = match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let (code, param) = self.code_and_parameter();
        let fields = ErrorFields {
            message: self.message(),
            r#type: kind,
            param,
            code,
        };
        ErrorBody { error: fields }
    }

    fn code_and_parameter(&self) -> (Option<&'static str>, Option<String>) {
        match self {
            Self::Json => (Some("invalid_json"), None),
            Self::Missing(name) => (Some("missing_required_parameter"), Some((*name).into())),
            Self::Invalid { parameter, .. } => (Some("invalid_value"), Some(parameter.clone())),
            Self::Unsupported { parameter, .. } => {
                (Some("unsupported_parameter"), Some(parameter.clone()))
            }
            Self::Unknown(name) => (Some("unknown_parameter"), Some(name.clone())),
            Self::UnknownModel(_) => (Some("model_not_found"), Some("model".into())),
            Self::ContextLength { parameter, .. } | Self::TextLength { parameter, .. } => {
                (Some("context_length_exceeded"), Some((*parameter).into()))
            }
            Self::Prompt { parameter, .. } => (Some("invalid_prompt"), Some((*parameter).into())),
            Self::Schema { parameter, .. } => {
                (Some("invalid_json_schema"), Some((*parameter).into()))
            }
            Self::Constraint => (Some("schema_too_complex"), None),
            Self::BodyTooLarge { .. } => (Some("request_too_large"), None),
            Self::BodyIncomplete => (Some("request_timeout"), None),
            Self::Method { .. } => (Some("method_not_allowed"), None),
            Self::Path => (Some("unknown_url"), None),
            Self::QueueFull => (Some("rate_limit_exceeded"), None),
            Self::Stopped => (Some("engine_stopped"), None),
            Self::Deadline => (Some("deadline_exceeded"), None),
            Self::Entropy => (Some("no_randomness"), None),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Json => "The body of the request is not a JSON object.".into(),
            Self::Missing(name) => format!("Missing required parameter: '{name}'."),
            Self::Invalid {
                parameter,
                expected,
            } => {
                format!("Invalid value for '{parameter}': {expected}.")
            }
            Self::Unsupported {
                parameter,
                expected,
            } => {
                format!("Unsupported value for '{parameter}': {expected}.")
            }
            Self::Unknown(name) => format!("Unrecognized request argument supplied: {name}"),
            Self::UnknownModel(name) => format!("The model `{name}` does not exist."),
            Self::ContextLength {
                prompt,
                completion,
                context,
                ..
            } => format!(
                "This model's maximum context length is {context} tokens. However, you requested \
                 {} tokens ({prompt} in the prompt; {completion} for the completion).",
                prompt + u64::from(*completion)
            ),
            Self::TextLength { found, limit, .. } => format!(
                "This model's maximum context length is at most {limit} bytes of text. However, \
                 your prompt has {found}."
            ),
            Self::Prompt { reason, .. } => format!("The prompt cannot be used: {reason}."),
            Self::Schema { parameter, reason } => {
                format!("Invalid schema for '{parameter}': {reason}.")
            }
            Self::Constraint => {
                "Holding the answer to its schema takes more work than is allowed: simplify the \
                 schema."
                    .into()
            }
            Self::BodyTooLarge { limit } => {
                format!("The body of the request is larger than {limit} bytes.")
            }
            Self::BodyIncomplete => "The body of the request did not arrive in time.".into(),
            Self::Method { allowed } => {
                format!("Method not allowed: this path takes {allowed} only.")
            }
            Self::Path => "Unknown request URL.".into(),
            Self::QueueFull => "All slots are busy and the queue is full: try again later.".into(),
            Self::Stopped => "The engine has stopped.".into(),
            Self::Deadline => "The answer took longer than any may: try again later.".into(),
            Self::Entropy => "The system's random source failed.".into(),
        }
    }
}
