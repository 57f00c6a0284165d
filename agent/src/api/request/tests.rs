use super::*;
use serde_json::json;

fn chat(extra: Value) -> Result<Request, ApiError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    Request::chat(body.to_string().as_bytes())
}

/// The status, the parameter and the code with which a request is refused.
fn refusal(result: Result<Request, ApiError>) -> (u16, Value, Value) {
    let Err(error) = result else {
        panic!("accepted")
    };
    let body = serde_json::to_value(error.body()).unwrap();
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert!(body["error"]["message"].is_string());
    (
        error.status().as_u16(),
        body["error"]["param"].clone(),
        body["error"]["code"].clone(),
    )
}

fn accepted(result: Result<Request, ApiError>) -> Request {
    match result {
        Ok(request) => request,
        Err(error) => panic!("{}", serde_json::to_string(&error.body()).unwrap()),
    }
}

#[test]
fn defaults_are_those_of_openai() {
    let request = accepted(chat(json!({})));
    let expected = Options {
        max_tokens: None,
        temperature: 1.0,
        top_p: 1.0,
        top_k: 0,
        min_p: 0.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        logprobs: None,
        count: 1,
        seed: None,
        stop: Stops::default(),
        stream: false,
        include_usage: false,
        form: Form::default(),
    };
    assert_eq!(request.options, expected);
    let completion = accepted(Request::completion(br#"{"model":"m","prompt":"p"}"#));
    assert_eq!(completion.options.max_tokens, Some(16));
}

#[test]
fn every_parameter_arrives() {
    let request = accepted(chat(json!({
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.25, "seed": -1,
        "stop": ["a", "b"], "stream": true, "stream_options": {"include_usage": true}, "n": 3,
        "user": "x", "presence_penalty": 1, "frequency_penalty": -0.5, "logit_bias": {"5": -7},
        "top_k": 40, "min_p": 0.125,
        "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        "logprobs": true, "top_logprobs": 4, "store": null,
    })));
    let expected = Options {
        max_tokens: Some(7),
        temperature: 0.5,
        top_p: 0.25,
        top_k: 40,
        min_p: 0.125,
        presence_penalty: 1.0,
        frequency_penalty: -0.5,
        logit_bias: vec![(5, -7.0)],
        logprobs: Some(4),
        count: 3,
        seed: Some(u64::MAX),
        stop: Stops(vec!["a".into(), "b".into()]),
        stream: true,
        include_usage: true,
        form: Form::default(),
    };
    assert_eq!(request.options, expected);
}

#[test]
fn a_refusal_names_the_parameter() {
    let invalid = |extra: Value, name: &str| {
        assert_eq!(
            refusal(chat(extra)),
            (400, json!(name), json!("invalid_value")),
            "{name}"
        );
    };
    invalid(json!({"max_tokens": 0}), "max_tokens");
    invalid(json!({"max_tokens": 1.5}), "max_tokens");
    invalid(
        json!({"max_completion_tokens": -1}),
        "max_completion_tokens",
    );
    invalid(json!({"temperature": 2.1}), "temperature");
    invalid(json!({"temperature": "1"}), "temperature");
    invalid(json!({"top_p": -0.1}), "top_p");
    invalid(json!({"seed": 1.5}), "seed");
    invalid(json!({"stop": ""}), "stop");
    invalid(json!({"stop": ["a", "b", "c", "d", "e"]}), "stop");
    invalid(json!({"stop": [1]}), "stop");
    invalid(json!({"stream": "yes"}), "stream");
    invalid(
        json!({"stream_options": {"include_usage": true}}),
        "stream_options",
    );
    invalid(json!({"messages": []}), "messages");
    invalid(json!({"messages": [1]}), "messages[0]");
    invalid(
        json!({"messages": [{"role": "king", "content": "x"}]}),
        "messages[0].role",
    );
    invalid(
        json!({"messages": [{"role": "user"}]}),
        "messages[0].content",
    );
    let parts = json!([{"type": "text"}]);
    invalid(
        json!({"messages": [{"role": "user", "content": parts}]}),
        "messages[0].content",
    );
    invalid(json!({"model": 1}), "model");
    for count in [json!(0), json!(9), json!(-1), json!(1.5)] {
        invalid(json!({"n": count}), "n");
    }
    for penalty in ["presence_penalty", "frequency_penalty"] {
        invalid(json!({penalty: 2.5}), penalty);
    }
    invalid(json!({"min_p": 1.5}), "min_p");
    invalid(json!({"top_k": -2}), "top_k");
    invalid(json!({"logprobs": 1}), "logprobs");
    invalid(
        json!({"logprobs": true, "top_logprobs": 21}),
        "top_logprobs",
    );
    invalid(json!({"top_logprobs": 1}), "top_logprobs");
    for bias in [
        json!([]),
        json!({"x": 1}),
        json!({"5": 101}),
        json!({"5": "1"}),
    ] {
        invalid(json!({"logit_bias": bias}), "logit_bias");
    }

    let unsupported = |extra: Value, name: &str| {
        let expected = (400, json!(name), json!("unsupported_parameter"));
        assert_eq!(refusal(chat(extra)), expected, "{name}");
    };
    unsupported(json!({"tools": [{"type": "web_search"}]}), "tools[0].type");
    let image = json!([{"type": "image_url", "image_url": {"url": "x"}}]);
    unsupported(
        json!({"messages": [{"role": "user", "content": image}]}),
        "messages[0].content",
    );

    let unknown = (400, json!("foo"), json!("unknown_parameter"));
    assert_eq!(refusal(chat(json!({"foo": 1}))), unknown);
    let missing = (400, json!("messages"), json!("missing_required_parameter"));
    assert_eq!(refusal(chat(json!({"messages": null}))), missing);
    for body in ["", "{", "[]", "3", "\u{0}", "{\"model\":\"m\"} x"] {
        let refused = refusal(Request::chat(body.as_bytes()));
        assert_eq!(refused, (400, Value::Null, json!("invalid_json")), "{body}");
    }
}

#[test]
fn a_prompt_is_one_text_or_token_ids() {
    let prompt = |prompt: Value| {
        Request::completion(
            json!({"model": "m", "prompt": prompt})
                .to_string()
                .as_bytes(),
        )
    };
    assert!(matches!(accepted(prompt(json!("a"))).input, Input::Text(text) if text == "a"));
    assert!(matches!(accepted(prompt(json!(["a"]))).input, Input::Text(text) if text == "a"));
    assert!(matches!(accepted(prompt(json!([1, 2]))).input, Input::Tokens(t) if t == [1, 2]));
    assert!(matches!(accepted(prompt(json!([[3]]))).input, Input::Tokens(t) if t == [3]));
    for wrong in [
        json!([]),
        json!({}),
        json!(1),
        json!([-1]),
        json!([1.5]),
        json!([{}]),
    ] {
        assert_eq!(refusal(prompt(wrong)).1, "prompt");
    }
    assert_eq!(
        refusal(prompt(json!(["a", "b"]))).2,
        "unsupported_parameter"
    );
}

#[test]
fn text_parts_are_joined_and_developers_are_systems() {
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let messages = json!([{"role": "developer", "content": parts}]);
    let Input::Chat(messages) = accepted(chat(json!({"messages": messages}))).input else {
        panic!("not a chat");
    };
    let first = &messages.messages[0];
    assert_eq!(
        (first.text("role"), first.text("content")),
        (Some("system"), Some("ab"))
    );
}
