//! Tools and response formats of OpenAI's API, inside a verified channel.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use common::client::Client;
use common::machine::{MODEL, Machine, Setup};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};

mod common;

const CHAT: &str = "/v1/chat/completions";
const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\
    {% for call in m.tool_calls %}<tool_call>{{ call.function.name }}</tool_call>{% endfor %}\n\
    {% endfor %}{% if tools %}{{ tools | length }} tools{% endif %}";

fn chat(extra: Value) -> Value {
    let mut body = json!({
        "model": MODEL, "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 150, "temperature": 0,
    });
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn flag() -> Value {
    json!({"type": "object", "properties": {"on": {"type": "boolean"}, "n": {"enum": [1, 2]}},
        "required": ["on", "n"], "additionalProperties": false})
}

fn tool(name: &str, parameters: Value) -> Value {
    let function = json!({"name": name, "parameters": parameters, "strict": true});
    json!({"type": "function", "function": function})
}

/// A machine whose model's chat template speaks of tools.
fn machine() -> Machine {
    let mut machine = Machine::prepare(Setup::default());
    std::fs::write(machine.path("model/chat_template.jinja"), TEMPLATE).unwrap();
    machine.run();
    machine
}

/// The events of a stream but the last.
fn events(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    let lines = text.split_terminator("\n\n");
    let lines = lines.map(|event| event.strip_prefix("data: ").unwrap());
    let lines = lines.filter(|line| *line != "[DONE]");
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn answers_satisfy_the_schema_that_is_asked_for() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let described = json!({"name": "flag", "schema": flag(), "strict": true});
    let format = json!({"type": "json_schema", "json_schema": described});
    let (status, answer) = client
        .post(CHAT, &chat(json!({"response_format": format})))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "stop");
    let content = choice["message"]["content"].as_str().unwrap();
    let content: Value = serde_json::from_str(content).unwrap();
    assert!(content["on"].is_boolean() && [1, 2].map(Value::from).contains(&content["n"]));

    let unsupported = json!({"name": "x", "schema": {"not": {}}, "strict": true});
    let format = json!({"type": "json_schema", "json_schema": unsupported});
    let (status, refusal) = client
        .post(CHAT, &chat(json!({"response_format": format})))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let error = &refusal["error"];
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["code"], "invalid_json_schema");
    assert_eq!(error["param"], "response_format");
    assert!(
        error["message"]
            .as_str()
            .unwrap()
            .contains("keyword not at #")
    );

    // This model's template has no place for tools.
    let tools = json!({"tools": [tool("f", flag())]});
    let (status, refusal) = client.post(CHAT, &chat(tools)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(refusal["error"]["code"], "unsupported_parameter");
    assert_eq!(refusal["error"]["param"], "tools");
}

#[tokio::test]
async fn calls_are_told_apart_whole_and_in_streams() {
    let machine = machine();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let asked = chat(json!({
        "tools": [tool("set-flag", flag())], "tool_choice": "required",
        "parallel_tool_calls": false,
    }));
    let (status, answer) = client.post(CHAT, &asked).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["type"], "function");
    assert_eq!(calls[0]["function"]["name"], "set-flag");
    let arguments = calls[0]["function"]["arguments"].as_str().unwrap();
    let parsed: Value = serde_json::from_str(arguments).unwrap();
    assert!(parsed["on"].is_boolean());

    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    let (status, body) = client.send(Method::POST, CHAT, streamed.to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let events = events(&body);
    let deltas = events.iter().map(|event| &event["choices"][0]["delta"]);
    let deltas: Vec<&Value> = deltas.map(|delta| &delta["tool_calls"][0]).collect();
    let begins = deltas.iter().filter(|delta| delta["id"].is_string());
    let begins: Vec<_> = begins.collect();
    assert_eq!(begins.len(), 1);
    assert_eq!(begins[0]["function"]["name"], "set-flag");
    let pieces = deltas.iter();
    let pieces = pieces.filter_map(|delta| delta["function"]["arguments"].as_str());
    assert_eq!(pieces.collect::<String>(), arguments);
    let reasons = events.iter();
    let reasons = reasons.filter_map(|event| event["choices"][0]["finish_reason"].as_str());
    assert_eq!(reasons.collect::<Vec<_>>(), ["tool_calls"]);

    // The call and its result go back into the conversation.
    let mut next = asked;
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": calls[0]["id"], "content": "done"}));
    next["tool_choice"] = "none".into();
    let (status, answer) = client.post(CHAT, &next).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let message = &answer["choices"][0]["message"];
    assert!(message["content"].is_string() && message.get("tool_calls").is_none());
}
