//! The API without a channel around it, over small models.

use std::path::{Path, PathBuf};

use http_body_util::Full;
use hyper::Request;
use inference::EngineLimits;
use serde_json::{Value, json};

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

fn api(model: &Path) -> Arc<Api> {
    let limits = EngineLimits {
        context_tokens: 256,
        max_new_tokens: 256,
        ..EngineLimits::default()
    };
    Arc::new(Api {
        slots: limits.max_active,
        engine: Arc::new(Engine::open(model, limits).unwrap()),
        metrics: Arc::new(Metrics::default()),
        tokenising: Arc::new(Semaphore::new(2)),
        model: "m".to_owned(),
        fingerprint: "f".to_owned(),
        opened: 0,
        max_body_bytes: 1 << 20,
        max_new_tokens: 256,
    })
}

/// A fixture whose template opens a thought unless `enable_thinking` is false.
fn thinker() -> (tempfile::TempDir, Arc<Api>) {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        std::fs::copy(
            fixture("llama/f32-tied-llama3").join(name),
            folder.path().join(name),
        )
        .unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if enable_thinking is defined and not enable_thinking %}<think></think>\
        {% else %}<think>{% endif %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let api = api(folder.path());
    (folder, api)
}

async fn send(api: &Arc<Api>, path: &str, body: &Value) -> (u16, String) {
    let request = Request::post(path)
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    let response = api.clone().respond(request, api.engine.client()).await;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn post(api: &Arc<Api>, path: &str, body: Value) -> (u16, Value) {
    let (status, text) = send(api, path, &body).await;
    (status, serde_json::from_str(&text).unwrap())
}

/// Name and data of each event.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |event: &str| {
        let (name, data) = event.split_once("\ndata: ").unwrap();
        let name = name.strip_prefix("event: ").unwrap();
        (name.to_owned(), serde_json::from_str(data).unwrap())
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn embeddings_come_as_numbers_and_as_bytes() {
    let api = api(&fixture("embedding"));
    let path = "/v1/embeddings";
    let (status, list) = post(
        &api,
        path,
        json!({"model": "m", "input": ["a", "What?", [5, 6, 0]]}),
    )
    .await;
    assert_eq!((status, &list["object"]), (200, &json!("list")), "{list}");
    let data = list["data"].as_array().unwrap();
    assert_eq!(data.len(), 3);
    assert!(
        data.iter()
            .all(|item| item["embedding"].as_array().unwrap().len() == 32)
    );
    assert_eq!(
        (&data[2]["index"], &data[2]["object"]),
        (&json!(2), &json!("embedding"))
    );
    assert_eq!(
        list["usage"]["prompt_tokens"],
        list["usage"]["total_tokens"]
    );

    let body = json!({"model": "m", "input": "a", "encoding_format": "base64", "user": "u"});
    let (_, encoded) = post(&api, path, body).await;
    use base64::Engine as _;
    let text = encoded["data"][0]["embedding"].as_str().unwrap();
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(text)
        .unwrap();
    let numbers: Vec<f32> = bytes
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
        .collect();
    let listed: Vec<f32> = serde_json::from_value(data[0]["embedding"].clone()).unwrap();
    assert_eq!(numbers, listed);

    let (_, short) = post(
        &api,
        path,
        json!({"model": "m", "input": "a", "dimensions": 4}),
    )
    .await;
    let short: Vec<f32> = serde_json::from_value(short["data"][0]["embedding"].clone()).unwrap();
    let length: f32 = short.iter().map(|x| x * x).sum();
    assert!(short.len() == 4 && (length - 1.0).abs() < 1e-5, "{short:?}");
    let scale = numbers[0] / short[0];
    let same = |(whole, short): (&f32, &f32)| (whole - short * scale).abs() < 1e-5;
    assert!(numbers.iter().zip(&short).all(same));
}

#[tokio::test]
async fn embeddings_that_cannot_be_are_refused_by_name() {
    let embedder = api(&fixture("embedding"));
    let writer = api(&fixture("llama/f32-tied-llama3"));
    let message = json!([{"role": "user", "content": "x"}]);
    for (api, path, body, parameter, code) in [
        (
            &embedder,
            "embeddings",
            json!({"input": "a", "dimensions": 33}),
            "dimensions",
            "invalid_value",
        ),
        (
            &embedder,
            "embeddings",
            json!({"input": [300]}),
            "input",
            "invalid_value",
        ),
        (
            &embedder,
            "embeddings",
            json!({"input": vec![1; 257]}),
            "input",
            "context_length_exceeded",
        ),
        (
            &writer,
            "embeddings",
            json!({"input": "a"}),
            "model",
            "unsupported_parameter",
        ),
        (
            &embedder,
            "completions",
            json!({"prompt": "a"}),
            "model",
            "unsupported_parameter",
        ),
        (
            &embedder,
            "responses",
            json!({"input": [{"role": "user", "content": "x"}],
            "previous_response_id": "r"}),
            "previous_response_id",
            "unsupported_parameter",
        ),
        (
            &writer,
            "chat/completions",
            json!({"messages": message,
            "chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs",
            "invalid_value",
        ),
        (
            &writer,
            "chat/completions",
            json!({"messages": message,
            "chat_template_kwargs": {"current_date": "today"}}),
            "chat_template_kwargs.current_date",
            "invalid_value",
        ),
    ] {
        let mut body = body;
        body["model"] = "m".into();
        let (status, refused) = post(api, &format!("/v1/{path}"), body).await;
        let error = &refused["error"];
        assert_eq!(
            (status, &error["param"], &error["code"]),
            (400, &json!(parameter), &json!(code)),
            "{refused}"
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn what_is_thought_has_a_field_of_its_own() {
    let (_folder, api) = thinker();
    let mut body = json!({"model": "m", "max_tokens": 6, "temperature": 0,
        "messages": [{"role": "user", "content": "x"}], "logit_bias": {"91": 100}});
    let path = "/v1/chat/completions";
    let (status, whole) = post(&api, path, body.clone()).await;
    assert_eq!(status, 200, "{whole}");
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "");
    let thought = message["reasoning_content"].as_str().unwrap().to_owned();
    assert!(!thought.is_empty());
    assert_eq!(whole["choices"][0]["finish_reason"], "length");
    assert_eq!(
        whole["usage"]["completion_tokens_details"]["reasoning_tokens"],
        6
    );

    body["stream"] = true.into();
    let (_, streamed) = send(&api, path, &body).await;
    let parts: Vec<Value> = streamed
        .split_terminator("\n\n")
        .filter_map(|event| serde_json::from_str(event.strip_prefix("data: ")?).ok())
        .collect();
    let said = |name: &str| -> String {
        let deltas = parts.iter().map(|part| &part["choices"][0]["delta"][name]);
        deltas.filter_map(Value::as_str).collect()
    };
    assert_eq!(
        (said("reasoning_content"), said("content")),
        (thought.clone(), String::new())
    );

    body["stream"] = false.into();
    for (name, value) in [
        ("chat_template_kwargs", json!({"enable_thinking": false})),
        ("reasoning_effort", json!("none")),
    ] {
        let mut body = body.clone();
        body[name] = value;
        let (_, whole) = post(&api, path, body).await;
        let message = &whole["choices"][0]["message"];
        assert_eq!(message["content"], thought.as_str());
        assert_eq!(message.get("reasoning_content"), None);
        assert_eq!(
            whole["usage"]["completion_tokens_details"]["reasoning_tokens"],
            0
        );
    }
}

#[tokio::test]
async fn a_response_and_its_stream_say_the_same() {
    let (_folder, api) = thinker();
    for (effort, kind) in [("high", "reasoning"), ("none", "message")] {
        let mut body = json!({"model": "m", "input": "x", "instructions": "be kind", "seed": 3,
            "max_output_tokens": 6, "temperature": 0, "reasoning": {"effort": effort}});
        let (status, whole) = post(&api, "/v1/responses", body.clone()).await;
        assert_eq!(
            (status, &whole["object"]),
            (200, &json!("response")),
            "{whole}"
        );
        assert_eq!(whole["status"], "incomplete");
        assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(
            (&whole["store"], &whole["instructions"]),
            (&json!(false), &json!("be kind"))
        );
        assert_eq!(whole["output"].as_array().unwrap().len(), 1);
        assert_eq!(whole["output"][0]["type"], kind);
        assert_eq!(whole["usage"]["output_tokens"], 6);
        let text = whole["output"][0]["content"][0]["text"].as_str().unwrap();

        body["stream"] = true.into();
        let (_, streamed) = send(&api, "/v1/responses", &body).await;
        let events = events(&streamed);
        let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
        let text_kind = if kind == "message" {
            "output_text"
        } else {
            "reasoning_text"
        };
        let (delta, done) = (
            format!("response.{text_kind}.delta"),
            format!("response.{text_kind}.done"),
        );
        assert_eq!(
            names[..4],
            [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.content_part.added"
            ]
        );
        assert_eq!(
            names[names.len() - 4..],
            [
                done.as_str(),
                "response.content_part.done",
                "response.output_item.done",
                "response.incomplete"
            ]
        );
        assert!(names[4..names.len() - 4].iter().all(|name| *name == delta));
        for (at, (name, data)) in events.iter().enumerate() {
            assert_eq!(
                (&data["sequence_number"], &data["type"]),
                (&json!(at), &json!(name))
            );
        }
        let said: String = events
            .iter()
            .filter_map(|(_, data)| data["delta"].as_str())
            .collect();
        assert_eq!(said, text);
        let last = &events[events.len() - 1].1["response"];
        assert_eq!(last["output"][0]["content"], whole["output"][0]["content"]);
        assert_eq!(
            last["usage"]["output_tokens_details"],
            whole["usage"]["output_tokens_details"]
        );
    }
}
