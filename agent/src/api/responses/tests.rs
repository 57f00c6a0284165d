use super::*;

fn parse_with(extra: Value) -> Result<(Request, Echo), ApiError> {
    let mut body = json!({"model": "m", "input": "hi"});
    for (name, value) in extra.as_object().unwrap() {
        body[name] = value.clone();
    }
    parse(body.to_string().as_bytes())
}

fn accepted(extra: Value) -> (Request, Echo) {
    match parse_with(extra) {
        Ok(parsed) => parsed,
        Err(error) => panic!("{}", serde_json::to_string(&error.body()).unwrap()),
    }
}

/// Role, content and thought of each turn.
fn turns(extra: Value) -> Vec<(String, String, Option<String>)> {
    let Input::Items(conversation) = accepted(extra).0.input else {
        panic!("no items")
    };
    let text = |turn: &Turn, name| turn.text(name).map(str::to_owned);
    let turns = conversation.messages.iter().map(|turn| {
        let role = text(turn, "role").unwrap();
        let content = text(turn, "content").unwrap();
        (role, content, text(turn, "reasoning_content"))
    });
    turns.collect()
}

fn refusal(extra: Value) -> (Value, Value) {
    let Err(error) = parse_with(extra) else {
        panic!("accepted")
    };
    let body = serde_json::to_value(error.body()).unwrap();
    (
        body["error"]["param"].clone(),
        body["error"]["code"].clone(),
    )
}

#[test]
fn input_is_a_text_or_items() {
    let said = |role: &str, content: &str, thought: Option<&str>| {
        (
            role.to_owned(),
            content.to_owned(),
            thought.map(str::to_owned),
        )
    };
    assert_eq!(turns(json!({})), [said("user", "hi", None)]);
    let items = json!([
        {"role": "developer", "content": "be kind"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [],
         "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
         "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "reasoning", "summary": []},
        {"role": "user", "content": "c"},
    ]);
    let expected = [
        said("system", "first", None),
        said("system", "be kind", None),
        said("user", "a", None),
        said("assistant", "b", Some("t")),
        said("user", "c", None),
    ];
    assert_eq!(
        turns(json!({"input": items, "instructions": "first"})),
        expected
    );
}

#[test]
fn what_is_stored_is_refused_by_its_name() {
    for (name, value) in [
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("conv_1")),
        ("prompt", json!({"id": "p"})),
        ("store", json!(true)),
        ("background", json!(true)),
        ("tools", json!([{"type": "web_search"}])),
        ("tool_choice", json!("required")),
        ("include", json!(["file_search_call.results"])),
        ("text", json!({"format": {"type": "json_schema"}})),
        ("text", json!({"verbosity": "low"})),
        ("truncation", json!("auto")),
        ("top_logprobs", json!(2)),
    ] {
        let expected = (json!(name), json!("unsupported_parameter"));
        assert_eq!(refusal(json!({name: value})), expected);
    }
    accepted(
        json!({"store": false, "background": false, "previous_response_id": null,
        "tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}},
        "truncation": "disabled", "include": [], "metadata": {"a": "b"}, "user": "u",
        "reasoning": {"effort": "low", "summary": "auto"}, "top_k": 3}),
    );
}

#[test]
fn bad_values_are_refused_by_their_names() {
    for (extra, name) in [
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"max_output_tokens": -1}), "max_output_tokens"),
        (json!({"max_output_tokens": 1e20}), "max_output_tokens"),
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"top_p": -1}), "top_p"),
        (json!({"stream": 1}), "stream"),
        (json!({"instructions": 1}), "instructions"),
        (json!({"metadata": 1}), "metadata"),
        (json!({"input": []}), "input"),
        (json!({"input": [1]}), "input[0]"),
        (
            json!({"input": [{"role": "tool", "content": "x"}]}),
            "input[0].role",
        ),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"reasoning": 1}), "reasoning"),
        (json!({"reasoning": {"effort": "most"}}), "reasoning.effort"),
        (json!({"chat_template_kwargs": []}), "chat_template_kwargs"),
    ] {
        assert_eq!(refusal(extra), (json!(name), json!("invalid_value")));
    }
    for (extra, name) in [
        (
            json!({"input": [{"type": "function_call"}]}),
            "input[0].type",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content",
        ),
    ] {
        assert_eq!(
            refusal(extra),
            (json!(name), json!("unsupported_parameter"))
        );
    }
    for name in ["stop", "n", "messages", "foo"] {
        assert_eq!(
            refusal(json!({name: 1})),
            (json!(name), json!("unknown_parameter"))
        );
    }
}
