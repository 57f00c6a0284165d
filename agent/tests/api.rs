//! OpenAI's API inside a verified channel.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use std::sync::Arc;

use common::client::{Client, metric, metric_becomes, outside};
use common::machine::{MAX_BODY_BYTES, MODEL, Machine, Setup};
use http_body_util::BodyExt;
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Barrier;

mod common;

const CHAT: &str = "/v1/chat/completions";
const COMPLETION: &str = "/v1/completions";
const CANCELLED: &str = "cloister_generations_cancelled_total";

fn chat(content: &str) -> Value {
    json!({
        "model": MODEL, "messages": [{"role": "user", "content": content}],
        "max_tokens": 12, "temperature": 0,
    })
}

fn with(mut body: Value, name: &str, value: impl Into<Value>) -> Value {
    body[name] = value.into();
    body
}

/// The events of a stream, without `[DONE]`, which must be the last.
fn events(body: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(body).unwrap();
    let mut lines: Vec<&str> = text
        .split_terminator("\n\n")
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect();
    assert_eq!(lines.pop(), Some("[DONE]"));
    lines
        .into_iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn the_one_model_is_listed() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let (status, body) = client.send(Method::GET, "/v1/models", "").await;
    let list: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &list["object"]), (StatusCode::OK, &json!("list")));
    assert_eq!(list["data"][0]["id"], MODEL);
    let (status, body) = client
        .send(Method::GET, &format!("/v1/models/{MODEL}"), "")
        .await;
    let card: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status, &card), (StatusCode::OK, &list["data"][0]));
    assert_eq!(
        client.send(Method::GET, "/v1/models/other", "").await.0,
        404
    );
}

#[tokio::test]
async fn a_stream_and_a_whole_answer_say_the_same() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let (status, whole) = client.post(CHAT, &chat("Hello")).await;
    assert_eq!(status, StatusCode::OK, "{whole}");
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["model"], MODEL);
    assert!(whole["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &whole["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    let usage = &whole["usage"];
    let total =
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], total);

    let body = with(
        with(chat("Hello"), "stream", true),
        "stream_options",
        json!({"include_usage": true}),
    );
    let (status, streamed) = client.send(Method::POST, CHAT, body.to_string()).await;
    assert_eq!(status, StatusCode::OK);
    let events = events(&streamed);
    assert_eq!(
        events[0]["choices"][0]["delta"],
        json!({"role": "assistant", "content": ""})
    );
    let (last, parts) = events.split_last().unwrap();
    assert!(
        parts
            .iter()
            .all(|event| event["object"] == "chat.completion.chunk")
    );
    assert!(
        parts
            .iter()
            .all(|event| event["usage"].is_null() && event["id"] == last["id"])
    );
    let text: String = parts
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, choice["message"]["content"].as_str().unwrap());
    let finish = &parts.last().unwrap()["choices"][0]["finish_reason"];
    assert_eq!(finish, &choice["finish_reason"]);
    assert_eq!(last["choices"], json!([]));
    for count in ["prompt_tokens", "completion_tokens", "total_tokens"] {
        assert_eq!(last["usage"][count], usage[count]);
    }

    // All but the last token had been read for the first answer: this session's cache has it, and
    // no other's.
    let cached = |usage: &Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    let prompt = usage["prompt_tokens"].as_u64().unwrap();
    assert_eq!(
        (cached(usage), cached(&last["usage"])),
        (Some(0), Some(prompt - 1))
    );
    let mut other = Client::connect(machine.address, &machine.world).await;
    let (_, answer) = other.post(CHAT, &chat("Hello")).await;
    assert_eq!(answer["choices"][0]["message"], choice["message"]);
    assert_eq!(cached(&answer["usage"]), Some(0));
}

#[tokio::test]
async fn plain_completions_take_text_and_tokens() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let body = json!({"model": MODEL, "prompt": "Once", "max_tokens": 9, "seed": 7});
    let (status, first) = client.post(COMPLETION, &body).await;
    assert_eq!(status, StatusCode::OK, "{first}");
    assert_eq!(first["object"], "text_completion");
    let (_, again) = client.post(COMPLETION, &body).await;
    assert_eq!(first["choices"], again["choices"]); // the same seed
    let (_, streamed) = client
        .send(
            Method::POST,
            COMPLETION,
            with(body, "stream", true).to_string(),
        )
        .await;
    let text: String = events(&streamed)
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str())
        .collect();
    assert_eq!(text, first["choices"][0]["text"].as_str().unwrap());
    let tokens = json!({"model": MODEL, "prompt": [5, 6, 7], "max_tokens": 1});
    let (status, answer) = client.post(COMPLETION, &tokens).await;
    assert_eq!(
        (status, &answer["usage"]["prompt_tokens"]),
        (StatusCode::OK, &json!(3))
    );
}

#[tokio::test]
async fn several_answers_come_with_their_probabilities() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let mut body = with(chat("Hello"), "n", 3);
    body["logprobs"] = true.into();
    body["top_logprobs"] = 2.into();
    body["temperature"] = 1.5.into();
    body["seed"] = 4.into();
    let (status, whole) = client.post(CHAT, &body).await;
    assert_eq!(status, StatusCode::OK, "{whole}");
    let choices = whole["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    let mut counted = 0;
    for (index, choice) in choices.iter().enumerate() {
        assert_eq!(choice["index"], index);
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        counted += tokens.len() as u64;
        for token in tokens {
            assert!(token["logprob"].as_f64().unwrap() <= 0.0);
            let top = token["top_logprobs"].as_array().unwrap();
            assert_eq!(top.len(), 2);
            assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
            assert!(top[0]["logprob"].as_f64() >= token["logprob"].as_f64());
        }
    }
    assert_eq!(whole["usage"]["completion_tokens"], counted);
    assert_ne!(choices[0]["message"], choices[1]["message"]);

    body["stream"] = true.into();
    let (_, streamed) = client.send(Method::POST, CHAT, body.to_string()).await;
    let events = events(&streamed);
    for (index, choice) in choices.iter().enumerate() {
        let own = || {
            let choices = events.iter().map(|event| &event["choices"][0]);
            choices.filter(|choice| choice["index"] == index)
        };
        let text: String = own()
            .filter_map(|c| c["delta"]["content"].as_str())
            .collect();
        assert_eq!(text, choice["message"]["content"].as_str().unwrap());
        let tokens = own()
            .filter_map(|c| c["logprobs"]["content"].as_array())
            .flatten();
        let tokens: Vec<&Value> = tokens.collect();
        assert_eq!(json!(tokens), choice["logprobs"]["content"]);
        assert_eq!(own().filter(|c| !c["finish_reason"].is_null()).count(), 1);
    }
}

#[tokio::test]
async fn a_bias_forces_and_a_ban_holds() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let mut body = json!({
        "model": MODEL, "prompt": "Once", "max_tokens": 4, "temperature": 0, "logprobs": 1,
    });
    let (_, free) = client.post(COMPLETION, &body).await;
    let tokens = |answer: &Value| answer["choices"][0]["logprobs"]["tokens"].clone();
    body["logit_bias"] = json!({"70": 100});
    let (status, forced) = client.post(COMPLETION, &body).await;
    assert_eq!(status, StatusCode::OK, "{forced}");
    let forced = tokens(&forced);
    let forced = forced.as_array().unwrap();
    assert!(forced.len() == 4 && forced.iter().all(|token| *token == forced[0]));
    assert_ne!(tokens(&free), json!(forced));
}

#[tokio::test]
async fn refusals_have_the_shape_of_openai() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let mut refused = async |method: Method, path: &str, body: String, status: u16, code: &str| {
        let (found, bytes) = client.send(method, path, body).await;
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let error = body["error"].as_object().unwrap();
        let mut keys: Vec<&str> = error.keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["code", "message", "param", "type"], "{body}");
        assert_eq!(
            (found.as_u16(), &error["code"]),
            (status, &json!(code)),
            "{body}"
        );
        assert_eq!(error["type"], "invalid_request_error");
        error["param"].clone()
    };
    let post = Method::POST;
    refused(post.clone(), CHAT, "{".into(), 400, "invalid_json").await;
    let missing = refused(
        post.clone(),
        CHAT,
        "{}".into(),
        400,
        "missing_required_parameter",
    )
    .await;
    assert_eq!(missing, "model");
    let tools = with(chat("x"), "tools", json!([{"type": "custom"}])).to_string();
    assert_eq!(
        refused(post.clone(), CHAT, tools, 400, "unsupported_parameter").await,
        "tools[0].type"
    );
    let bias = with(chat("x"), "logit_bias", json!({"1000000": 1})).to_string();
    assert_eq!(
        refused(post.clone(), CHAT, bias, 400, "invalid_value").await,
        "logit_bias"
    );
    let other = with(chat("x"), "model", "other").to_string();
    assert_eq!(
        refused(post.clone(), CHAT, other, 404, "model_not_found").await,
        "model"
    );
    let long = chat(&"long ".repeat(2000)).to_string();
    let parameter = refused(post.clone(), CHAT, long, 400, "context_length_exceeded").await;
    assert_eq!(parameter, "messages");
    let many = with(chat("x"), "max_tokens", 100_000).to_string();
    refused(post.clone(), CHAT, many, 400, "context_length_exceeded").await;
    let foreign = json!({"model": MODEL, "prompt": [1_000_000]}).to_string();
    assert_eq!(
        refused(post.clone(), COMPLETION, foreign, 400, "invalid_value").await,
        "prompt"
    );
    let empty = json!({"model": MODEL, "prompt": ""}).to_string();
    drop(client.send(post.clone(), COMPLETION, empty).await); // a start token may be all there is
}

#[tokio::test]
async fn a_text_beyond_any_context_is_not_even_made_into_tokens() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let text = chat(&"long".repeat(15_000)).to_string();
    let (status, body) = client.send(Method::POST, CHAT, text).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(body["error"]["code"], "context_length_exceeded");
    let said = body["error"]["message"].as_str().unwrap();
    assert!(
        said.contains("bytes of text"),
        "its tokens were counted: {said}"
    );
}

#[tokio::test]
async fn wrong_methods_and_paths_are_refused() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    for (method, path, allowed) in [
        (Method::GET, CHAT, "POST"),
        (Method::DELETE, COMPLETION, "POST"),
        (Method::POST, "/v1/models", "GET"),
    ] {
        let response = client.open(method, path, "").await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(response.headers()["allow"], allowed);
        drop(response.into_body().collect().await);
    }
    for path in [
        "/",
        "/v1",
        "/v1/embeddings/x",
        "/metrics",
        "/healthz",
        "/v1/channel",
    ] {
        let (status, body) = client.send(Method::GET, path, "").await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (status.as_u16(), &body["error"]["code"]),
            (404, &json!("unknown_url")),
            "{path}"
        );
    }
    metric_becomes(
        machine.address,
        "cloister_responses_total{class=\"4xx\"}",
        9,
    )
    .await;
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let body = chat(&"x".repeat(MAX_BODY_BYTES)).to_string();
    let (status, body) = client.send(Method::POST, CHAT, body).await;
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(body["error"]["code"], "request_too_large");
}

/// A context so long that an answer takes minutes, and no token that ends it before.
fn endless() -> Setup {
    Setup {
        ends: false,
        context_tokens: 1 << 17,
        max_sessions: 128,
        ..Setup::default()
    }
}

/// Waits until so many slots are taken.
async fn taken(machine: &Machine, slots: u64, count: u64) {
    metric_becomes(machine.address, "cloister_slots_free", slots - count).await;
}

#[tokio::test]
async fn metrics_do_not_show_when_an_answer_begins_and_ends() {
    let machine = Machine::start_with(Setup {
        metrics_interval: u32::MAX,
        ..Setup::default()
    });
    let page = async || outside(machine.address, "GET", "/metrics").await.2;
    let before = page().await;
    let mut client = Client::connect(machine.address, &machine.world).await;
    client.post(CHAT, &chat("Hello")).await;
    assert_eq!(page().await, before);
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_stream_frees_its_slot() {
    let machine = Machine::start_with(endless());
    let slots = metric(machine.address, "cloister_slots_free").await;
    let body = with(chat("Hello"), "max_tokens", 100_000);

    let mut client = Client::connect(machine.address, &machine.world).await;
    let stream = with(body.clone(), "stream", true).to_string();
    let mut response = client.open(Method::POST, CHAT, stream).await;
    response.frame().await.unwrap().unwrap();
    taken(&machine, slots, 1).await;
    assert_eq!(metric(machine.address, CANCELLED).await, 0);
    drop((client, response));
    taken(&machine, slots, 0).await;
    metric_becomes(machine.address, CANCELLED, 1).await;

    // The same for an answer that would come whole, of which nothing is there yet.
    let mut client = Client::connect(machine.address, &machine.world).await;
    let waiting =
        tokio::spawn(async move { client.open(Method::POST, CHAT, body.to_string()).await });
    taken(&machine, slots, 1).await;
    waiting.abort();
    taken(&machine, slots, 0).await;
    metric_becomes(machine.address, CANCELLED, 2).await;
}

#[tokio::test]
async fn a_full_queue_is_said_to_be_full() {
    /// More than answers in progress and requests in the queue together.
    const CLIENTS: usize = 100;
    let machine = Machine::start_with(endless());
    let body = with(with(chat("Hello"), "max_tokens", 100_000), "stream", true).to_string();
    let together = Arc::new(Barrier::new(CLIENTS));
    let ask = |mut client: Client| {
        let (body, together) = (body.clone(), together.clone());
        tokio::spawn(async move {
            together.wait().await;
            let response = client.open(Method::POST, CHAT, body).await;
            (client, response)
        })
    };
    let mut asked = Vec::new();
    for _ in 0..CLIENTS {
        asked.push(ask(Client::connect(machine.address, &machine.world).await));
    }
    let mut answers = Vec::new(); // none leaves before all have asked
    for one in asked {
        answers.push(one.await.unwrap());
    }
    let refused = answers
        .into_iter()
        .find(|(_, response)| response.status() != StatusCode::OK);
    let (_client, refused) = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    let body: Value =
        serde_json::from_slice(&refused.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert_eq!(body["error"]["code"], "rate_limit_exceeded");
}

#[tokio::test]
async fn nothing_that_a_client_says_is_logged() {
    const CANARY: &str = "canary-5f2c9a";
    let mut machine = Machine::start();
    let mut client = Client::connect(machine.address, &machine.world).await;
    let good = chat(CANARY);
    client.post(CHAT, &good).await;
    client
        .send(
            Method::POST,
            CHAT,
            with(good.clone(), "stream", true).to_string(),
        )
        .await;
    for body in [
        format!("{{\"{CANARY}\""),
        with(good.clone(), CANARY, 1).to_string(),
        with(good.clone(), "model", CANARY).to_string(),
        with(good.clone(), "stop", vec![CANARY; 9]).to_string(),
        with(good.clone(), "messages", json!([{"role": CANARY}])).to_string(),
        chat(&CANARY.repeat(1000)).to_string(),
        chat(&CANARY.repeat(MAX_BODY_BYTES)).to_string(),
    ] {
        let mut client = Client::connect(machine.address, &machine.world).await;
        assert!(
            client
                .send(Method::POST, CHAT, body)
                .await
                .0
                .is_client_error()
        );
    }
    client
        .send(Method::GET, &format!("/v1/models/{CANARY}"), "")
        .await;
    client.send(Method::GET, &format!("/{CANARY}"), "").await;
    let (_, metrics) = {
        let (status, _, body) = common::client::outside(machine.address, "GET", "/metrics").await;
        (status, String::from_utf8(body).unwrap())
    };
    assert!(!metrics.contains(CANARY));
    assert!(machine.stop().success());
    let output = machine.output();
    assert!(
        output.contains("serving on") && output.ends_with("cloister-agent: stopping\n"),
        "{output}"
    );
    assert!(!output.contains(CANARY), "{output}");
}
