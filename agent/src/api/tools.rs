//! Tools and response formats: what a request asks for, what its messages say of earlier calls, and
//! the calls in an answer.

use inference::{
    Choice, Chunk, Constraint, ConstraintError, Engine, Json, Offer, Shape, Tool, ToolEvent,
    ToolFormat, ToolReader,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use super::fields::Fields;

const MAX_TOOLS: usize = 128;
const MAX_NAME_CHARS: usize = 64;
const MAX_ID_CHARS: usize = 128;

/// Members of one message, as the request has them.
type Members = Map<String, Value>;

/// What an answer is to be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Form {
    /// `None` where none may be called.
    pub(crate) offer: Option<Offer>,
    format: Format,
}

#[derive(Clone, Default, PartialEq)]
enum Format {
    #[default]
    Text,
    Json,
    Schema {
        schema: Value,
        strict: bool,
    },
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Text => "Text",
            Self::Json => "Json",
            Self::Schema { .. } => "Schema",
        })
    }
}

impl Form {
    /// `tools`, `tool_choice`, `parallel_tool_calls` and `response_format`; and the definitions of
    /// the tools that the model is told of, as they were sent.
    pub(crate) fn take(fields: &mut Fields) -> Result<(Self, Vec<Json>), ApiError> {
        let definitions = match fields.take("tools") {
            None => Vec::new(),
            Some(Value::Array(tools)) if tools.len() <= MAX_TOOLS => tools,
            Some(_) => {
                return Err(ApiError::invalid(
                    "tools",
                    "must be an array of at most 128",
                ));
            }
        };
        let tools = definitions.iter().enumerate();
        let tools = tools.map(|(at, tool)| parse_tool(at, tool));
        let tools = tools.collect::<Result<Vec<Tool>, _>>()?;
        let mut names: Vec<&str> = tools.iter().map(|tool| tool.name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(ApiError::invalid(
                "tools",
                "must have a name of its own each",
            ));
        }
        let choice = parse_choice(fields.take("tool_choice"), &tools)?;
        let parallel = match fields.take("parallel_tool_calls") {
            None => true,
            Some(Value::Bool(parallel)) => parallel,
            Some(_) => {
                let expected = "must be true or false";
                return Err(ApiError::invalid("parallel_tool_calls", expected));
            }
        };
        let format = parse_format(fields.take("response_format"))?;
        if format != Format::Text && choice == Some(Choice::Auto) {
            let expected = "is implemented beside 'tools' only where 'tool_choice' is not 'auto'";
            return Err(ApiError::unsupported("response_format", expected));
        }
        // A model that may call nothing is not told of tools.
        let shown = definitions.into_iter().filter(|_| choice.is_some());
        let shown = shown.map(Json::from).collect();
        let form = Self {
            offer: choice.map(|choice| Offer {
                tools,
                choice,
                parallel,
            }),
            format,
        };
        Ok((form, shown))
    }

    /// The constraint on the answer, compiled.
    pub(crate) fn constrain(&self, engine: &Engine) -> Result<Option<Constraint>, ApiError> {
        if self.offer.is_some() && engine.tool_format().is_none() {
            let expected = "this model's chat template takes no tools";
            return Err(ApiError::unsupported("tools", expected));
        }
        let is_free = |offer: &Offer| {
            offer.choice == Choice::Auto && offer.tools.iter().all(|tool| !tool.strict)
        };
        let (shape, parameter) = match (&self.offer, &self.format) {
            (Some(offer), _) if is_free(offer) => return Ok(None),
            (Some(offer), _) => (Shape::Tools(offer), "tools"),
            (None, Format::Text) => return Ok(None),
            (None, Format::Json) => (Shape::Json, "response_format"),
            (None, Format::Schema { schema, strict }) => {
                let strict = *strict;
                (Shape::Schema { schema, strict }, "response_format")
            }
        };
        let constraint = engine.constrain(shape, &engine.preamble());
        constraint
            .map(Some)
            .map_err(|error| refused(&error, parameter))
    }

    /// What finds the calls in an answer, if there may be any.
    pub(crate) fn calls(&self, engine: &Engine) -> Option<Calls> {
        let format = engine.tool_format()?;
        let names = |offer: &Offer| offer.tools.iter().map(|tool| tool.name.clone()).collect();
        let names: Vec<String> = match &self.offer {
            Some(offer) => names(offer),
            // What is said on other channels is no part of the answer.
            None if format == ToolFormat::Harmony && self.format != Format::Text => Vec::new(),
            None => return None,
        };
        Some(Calls::new(format, names))
    }
}

fn refused(error: &ConstraintError, parameter: &'static str) -> ApiError {
    match error {
        ConstraintError::Thread => ApiError::Stopped,
        error => ApiError::Schema {
            parameter,
            reason: error.to_string(),
        },
    }
}

fn parse_tool(at: usize, tool: &Value) -> Result<Tool, ApiError> {
    let place = |field: &str| format!("tools[{at}]{field}");
    let Value::Object(tool) = tool else {
        return Err(ApiError::invalid(place(""), "must be an object"));
    };
    if tool.get("type").is_none_or(|kind| kind != "function") {
        let expected = "only tools of the type 'function' are implemented";
        return Err(ApiError::unsupported(place(".type"), expected));
    }
    let Some(Value::Object(function)) = tool.get("function") else {
        return Err(ApiError::invalid(place(".function"), "must be an object"));
    };
    let name = function.get("name").and_then(Value::as_str);
    let Some(name) = name.filter(|name| is_name(name)) else {
        let expected = "must be 1 to 64 letters, digits, underscores, dashes and dots";
        return Err(ApiError::invalid(place(".function.name"), expected));
    };
    let parameters = match function.get("parameters") {
        None | Some(Value::Null) => None,
        Some(parameters @ Value::Object(_)) => Some(parameters.clone()),
        Some(_) => {
            let expected = "must be a JSON schema, an object";
            return Err(ApiError::invalid(place(".function.parameters"), expected));
        }
    };
    let strict = match function.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(strict)) => *strict,
        Some(_) => {
            let expected = "must be true or false";
            return Err(ApiError::invalid(place(".function.strict"), expected));
        }
    };
    Ok(Tool {
        name: name.to_owned(),
        parameters,
        strict,
    })
}

fn is_name(name: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=MAX_NAME_CHARS).contains(&name.len()) && name.bytes().all(known)
}

/// `None` where nothing may be called.
fn parse_choice(value: Option<Value>, tools: &[Tool]) -> Result<Option<Choice>, ApiError> {
    let wrong = |expected| Err(ApiError::invalid("tool_choice", expected));
    let choice = match value {
        None => Some(Choice::Auto),
        Some(Value::String(word)) => match word.as_str() {
            "none" => None,
            "auto" => Some(Choice::Auto),
            "required" => Some(Choice::Required),
            _ => return wrong("must be none, auto, required or name a function"),
        },
        Some(named) => {
            let is_function = named["type"] == "function";
            let name = named["function"]["name"].as_str().filter(|_| is_function);
            match name {
                Some(name) => Some(Choice::Named(name.to_owned())),
                None => return wrong("must be none, auto, required or name a function"),
            }
        }
    };
    match choice {
        Some(Choice::Auto) if tools.is_empty() => Ok(None),
        Some(Choice::Required) if tools.is_empty() => wrong("needs 'tools'"),
        Some(Choice::Named(name)) if !tools.iter().any(|tool| tool.name == name) => {
            wrong("must name one of 'tools'")
        }
        choice => Ok(choice),
    }
}

fn parse_format(value: Option<Value>) -> Result<Format, ApiError> {
    let wrong = |place: &str, expected| Err(ApiError::invalid(place, expected));
    let mut format = match value {
        None => return Ok(Format::Text),
        Some(Value::Object(format)) => format,
        Some(_) => return wrong("response_format", "must be an object"),
    };
    match format.get("type").and_then(Value::as_str) {
        Some("text") => return Ok(Format::Text),
        Some("json_object") => return Ok(Format::Json),
        Some("json_schema") => {}
        _ => {
            let expected = "must be text, json_object or json_schema";
            return wrong("response_format.type", expected);
        }
    }
    let place = "response_format.json_schema";
    let Some(Value::Object(mut described)) = format.remove("json_schema") else {
        return wrong(place, "must be an object");
    };
    let name = described.get("name").and_then(Value::as_str);
    if name.is_none_or(|name| !is_name(name)) {
        let expected = "needs a name of 1 to 64 letters, digits, underscores, dashes and dots";
        return wrong(place, expected);
    }
    let strict = match described.get("strict") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(strict)) => *strict,
        Some(_) => {
            return wrong(
                "response_format.json_schema.strict",
                "must be true or false",
            );
        }
    };
    match described.remove("schema") {
        None | Some(Value::Null) => Ok(Format::Json),
        Some(schema @ Value::Object(_)) => Ok(Format::Schema { schema, strict }),
        Some(_) => wrong("response_format.json_schema.schema", "must be an object"),
    }
}

/// What a message says of calls, for the chat template: `tool_calls`, `tool_call_id`, `name`.
pub(crate) fn said_of_calls(
    message: &mut Members,
    place: impl Fn(&str) -> String,
) -> Result<Members, ApiError> {
    let mut members = Members::new();
    if let Some(calls) = message
        .remove("tool_calls")
        .filter(|calls| !calls.is_null())
    {
        let wrong = || ApiError::invalid(place("tool_calls"), "must be an array of calls");
        let Value::Array(calls) = calls else {
            return Err(wrong());
        };
        if calls.len() > MAX_TOOLS {
            return Err(wrong());
        }
        let calls = calls
            .into_iter()
            .map(|call| earlier_call(call).ok_or_else(wrong));
        let calls = calls.collect::<Result<Vec<Value>, _>>()?;
        if !calls.is_empty() {
            members.insert("tool_calls".to_owned(), calls.into());
        }
    }
    for name in ["tool_call_id", "name"] {
        match message.remove(name) {
            None | Some(Value::Null) => {}
            Some(Value::String(text)) if text.len() <= MAX_ID_CHARS => {
                members.insert(name.to_owned(), text.into());
            }
            Some(_) => {
                let expected = "must be a string of at most 128 bytes";
                return Err(ApiError::invalid(place(name), expected));
            }
        }
    }
    Ok(members)
}

/// A call of an earlier answer: templates take its arguments as an object.
fn earlier_call(call: Value) -> Option<Value> {
    let Value::Object(mut call) = call else {
        return None;
    };
    let Some(Value::Object(mut function)) = call.remove("function") else {
        return None;
    };
    let name = function.remove("name")?;
    name.as_str().filter(|name| is_name(name))?;
    let arguments = match function.remove("arguments") {
        Some(Value::String(text)) => match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(members) => members.into(),
            Err(_) if text.is_empty() => Map::new().into(),
            Err(_) => Value::String(text),
        },
        Some(arguments @ Value::Object(_)) => arguments,
        _ => return None,
    };
    let id = call.remove("id").filter(Value::is_string)?;
    Some(serde_json::json!({
        "id": id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }))
}

/// The calls of one answer, as it is made.
pub(crate) struct Calls {
    reader: ToolReader,
    format: ToolFormat,
    begun: u32,
}

/// What a piece of an answer adds.
#[derive(Serialize, Default)]
pub(crate) struct Piece {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tool_calls: Option<[CallDelta; 1]>,
    /// The text that a call was after all, for who has not shown any of it.
    #[serde(skip)]
    pub(crate) taken_back: Option<String>,
}

impl Piece {
    pub(crate) fn said(text: &str) -> Self {
        Self {
            content: Some(text.to_owned()),
            ..Self::default()
        }
    }

    pub(crate) fn thought(text: &str) -> Self {
        Self {
            reasoning_content: Some(text.to_owned()),
            ..Self::default()
        }
    }
}

/// More of a call.
#[derive(Serialize)]
pub(crate) struct CallDelta {
    pub(crate) index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<&'static str>,
    pub(crate) function: FunctionDelta,
}

#[derive(Serialize, Default)]
pub(crate) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) arguments: String,
}

/// A call, whole.
#[derive(Serialize)]
pub(crate) struct WholeCall {
    id: String,
    r#type: &'static str,
    function: WholeFunction,
}

#[derive(Serialize)]
struct WholeFunction {
    name: String,
    arguments: String,
}

/// A whole answer with its calls.
#[derive(Default)]
pub(crate) struct Said {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<WholeCall>,
}

impl Calls {
    pub(crate) fn new(format: ToolFormat, names: Vec<String>) -> Self {
        Self {
            reader: ToolReader::new(format, names),
            format,
            begun: 0,
        }
    }

    /// Whether the answer calls anything.
    pub(crate) fn called(&self) -> bool {
        self.reader.called()
    }

    /// Takes the next piece of the answer.
    pub(crate) fn read(&mut self, chunk: &Chunk) -> Result<Vec<Piece>, ApiError> {
        let mut pieces = Vec::new();
        // What stood between marks is told apart already.
        if !chunk.reasoning.is_empty() {
            pieces.push(Piece::thought(&chunk.reasoning));
        }
        let mut events = self.reader.text(&chunk.text);
        if let Some(mark) = &chunk.mark {
            events.extend(self.reader.mark(mark));
        }
        if chunk.finish.is_some() {
            events.extend(self.reader.finish());
        }
        for event in events {
            pieces.extend(self.piece(event)?);
        }
        Ok(pieces)
    }

    fn piece(&mut self, event: ToolEvent) -> Result<Option<Piece>, ApiError> {
        let mut piece = Piece::default();
        match event {
            ToolEvent::Text(text) => piece.content = Some(text),
            ToolEvent::Thought(text) => piece.reasoning_content = Some(text),
            ToolEvent::Begin { name } => {
                self.begun += 1;
                piece.tool_calls = Some([CallDelta {
                    index: self.begun - 1,
                    id: Some(self.id()?),
                    kind: Some("function"),
                    function: FunctionDelta {
                        name: Some(name),
                        arguments: String::new(),
                    },
                }]);
            }
            ToolEvent::Arguments(arguments) => {
                piece.tool_calls = Some([CallDelta {
                    index: self.begun.saturating_sub(1),
                    id: None,
                    kind: None,
                    function: FunctionDelta {
                        name: None,
                        arguments,
                    },
                }]);
            }
            ToolEvent::End => return Ok(None),
            ToolEvent::Broken { all, rest } => {
                piece.content = Some(rest).filter(|rest| !rest.is_empty());
                piece.taken_back = Some(all);
            }
        }
        Ok(Some(piece))
    }

    /// Mistral's templates take ids of nine characters only.
    fn id(&self) -> Result<String, ApiError> {
        let random = getrandom::u64().map_err(|_| ApiError::Entropy)?;
        Ok(match self.format {
            ToolFormat::Mistral | ToolFormat::MistralNamed => {
                format!("{random:016x}")[..9].to_owned()
            }
            _ => format!("call_{random:016x}"),
        })
    }
}

impl Said {
    /// Adds a piece.
    pub(crate) fn push(&mut self, piece: Piece) {
        if let Some(text) = piece.taken_back {
            self.calls.pop();
            self.content += &text;
            return;
        }
        self.content += piece.content.as_deref().unwrap_or_default();
        self.reasoning += piece.reasoning_content.as_deref().unwrap_or_default();
        for delta in piece.tool_calls.into_iter().flatten() {
            match (delta.function.name, delta.id) {
                (Some(name), Some(id)) => self.calls.push(WholeCall {
                    id,
                    r#type: "function",
                    function: WholeFunction {
                        name,
                        arguments: delta.function.arguments,
                    },
                }),
                _ => {
                    if let Some(call) = self.calls.last_mut() {
                        call.function.arguments += &delta.function.arguments;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
