use inference::Finish;
use serde_json::json;

use super::*;

/// The form, and how many tools are shown.
fn form(body: Value) -> Result<(Form, usize), (Option<String>, String)> {
    let mut fields =
        Fields::parse(body.to_string().as_bytes()).map_err(|_| (None, String::new()))?;
    let taken = Form::take(&mut fields).map(|(form, shown)| (form, shown.len()));
    taken.map_err(|error| {
        let body = serde_json::to_value(error.body()).expect("JSON");
        let parameter = body["error"]["param"].as_str().map(str::to_owned);
        (
            parameter,
            body["error"]["code"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        )
    })
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
}

#[test]
fn choices_are_those_of_the_api() {
    let choice = |choice: Value| {
        let form = form(json!({"tools": [tool("f"), tool("g")], "tool_choice": choice}));
        form.map(|(form, shown)| (form.offer.map(|offer| offer.choice), shown))
    };
    assert_eq!(choice(json!(null)), Ok((Some(Choice::Auto), 2)));
    assert_eq!(choice(json!("auto")), Ok((Some(Choice::Auto), 2)));
    assert_eq!(choice(json!("required")), Ok((Some(Choice::Required), 2)));
    assert_eq!(choice(json!("none")), Ok((None, 0)));
    let named = json!({"type": "function", "function": {"name": "g"}});
    assert_eq!(choice(named), Ok((Some(Choice::Named("g".into())), 2)));
    let invalid = Err((Some("tool_choice".to_owned()), "invalid_value".to_owned()));
    assert_eq!(choice(json!("sometimes")), invalid);
    assert_eq!(
        choice(json!({"type": "function", "function": {"name": "h"}})),
        invalid
    );
    assert_eq!(choice(json!({"type": "other"})), invalid);
    let bare = form(json!({"tool_choice": "required"})).map(|_| ());
    assert_eq!(
        bare,
        Err((Some("tool_choice".to_owned()), "invalid_value".to_owned()))
    );
    assert_eq!(
        form(json!({"tools": [], "tool_choice": "auto"})),
        Ok((Form::default(), 0))
    );
}

#[test]
fn malformed_tools_and_formats_are_refused_by_their_place() {
    let refusal = |body: Value| form(body).expect_err("a refusal").0.expect("a parameter");
    assert_eq!(refusal(json!({"tools": 7})), "tools");
    assert_eq!(refusal(json!({"tools": [7]})), "tools[0]");
    assert_eq!(refusal(json!({"tools": [tool("f"), tool("f")]})), "tools");
    assert_eq!(
        refusal(json!({"tools": [tool("f"), {"type": "web"}]})),
        "tools[1].type"
    );
    assert_eq!(
        refusal(json!({"tools": [{"type": "function"}]})),
        "tools[0].function"
    );
    for name in ["", "a b", "é", "a\"", &"x".repeat(65)] {
        assert_eq!(
            refusal(json!({"tools": [tool(name)]})),
            "tools[0].function.name"
        );
    }
    let with = |key: &str, value: Value| {
        let mut tool = tool("f");
        tool["function"][key] = value;
        refusal(json!({"tools": [tool]}))
    };
    assert_eq!(
        with("parameters", json!("x")),
        "tools[0].function.parameters"
    );
    assert_eq!(with("strict", json!("x")), "tools[0].function.strict");
    assert_eq!(
        refusal(json!({"parallel_tool_calls": 1})),
        "parallel_tool_calls"
    );
    assert_eq!(
        refusal(json!({"response_format": "json"})),
        "response_format"
    );
    assert_eq!(
        refusal(json!({"response_format": {"type": "xml"}})),
        "response_format.type"
    );
    let schema = |described: Value| {
        refusal(json!({"response_format": {"type": "json_schema", "json_schema": described}}))
    };
    assert_eq!(schema(json!(7)), "response_format.json_schema");
    assert_eq!(schema(json!({"schema": {}})), "response_format.json_schema");
    let named = json!({"name": "a", "schema": 7});
    assert_eq!(schema(named), "response_format.json_schema.schema");
    let both = json!({"tools": [tool("f")], "response_format": {"type": "json_object"}});
    assert_eq!(refusal(both), "response_format");
}

fn chunk(text: &str, finish: Option<Finish>) -> Chunk {
    Chunk {
        text: text.to_owned(),
        finish,
        ..Chunk::default()
    }
}

fn pieces(answer: &[&str], format: ToolFormat) -> (Vec<Piece>, bool) {
    let mut calls = Calls::new(format, vec!["f".to_owned()]);
    let mut all = Vec::new();
    for (at, text) in answer.iter().enumerate() {
        let finish = (at + 1 == answer.len()).then_some(Finish::Stop);
        let read = calls.read(&chunk(text, finish));
        all.extend(read.unwrap_or_else(|_| panic!("entropy")));
    }
    (all, calls.called())
}

#[test]
fn streamed_and_whole_calls_are_the_same() {
    let answer = [
        "Well.\n<tool",
        "_call>\n{\"name\": \"f\", \"argu",
        "ments\": {\"a\": [1",
        ", 2]}}\n</tool_call>",
    ];
    let (all, called) = pieces(&answer, ToolFormat::Hermes);
    assert!(called);
    let streamed: Vec<Value> = all
        .iter()
        .map(|piece| serde_json::to_value(piece).expect("JSON"))
        .collect();
    let first = streamed
        .iter()
        .find(|piece| piece["tool_calls"][0]["id"].is_string());
    let first = first.expect("a call begins");
    assert_eq!(first["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(first["tool_calls"][0]["type"], "function");
    let arguments: String = streamed
        .iter()
        .filter_map(|piece| piece["tool_calls"][0]["function"]["arguments"].as_str())
        .collect();
    assert_eq!(arguments, "{\"a\": [1, 2]}");
    let mut whole = Said::default();
    all.into_iter().for_each(|piece| whole.push(piece));
    assert_eq!(whole.content, "Well.\n");
    let calls = serde_json::to_value(&whole.calls).expect("JSON");
    assert_eq!(calls[0]["function"]["arguments"], "{\"a\": [1, 2]}");
    assert_eq!(calls[0]["id"], first["tool_calls"][0]["id"]);
}

/// What stands between marks of thought is told apart before calls are looked for.
#[test]
fn thoughts_stand_before_calls() {
    let mut calls = Calls::new(ToolFormat::Hermes, vec!["f".to_owned()]);
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let thought = Chunk {
        reasoning: call.to_owned(),
        ..chunk("", None)
    };
    let mut said = Said::default();
    for chunk in [thought, chunk(call, Some(Finish::Stop))] {
        let pieces = calls.read(&chunk).unwrap_or_else(|_| panic!("entropy"));
        pieces.into_iter().for_each(|piece| said.push(piece));
    }
    assert_eq!((said.reasoning.as_str(), said.content.as_str()), (call, ""));
    assert_eq!(said.calls.len(), 1);
}

#[test]
fn templates_see_tools_in_the_order_in_which_they_were_sent() {
    let body = br#"{"tools": [{"type": "function", "function": {"name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"z": {}, "a": {}, "m": {}}}}}]}"#;
    let taken = Fields::parse(body).and_then(|mut fields| Form::take(&mut fields));
    let Ok((_, shown)) = taken else {
        panic!("refused")
    };
    assert_eq!(shown.len(), 1);
    let told = serde_json::to_string(&shown).expect("JSON");
    let places = [
        "type",
        "function",
        "name",
        "description",
        "parameters",
        "properties",
        "z",
        "a",
    ];
    let mut rest = told.as_str();
    for name in places.iter().chain(&["m"]) {
        let found = rest.split_once(&format!("\"{name}\":"));
        rest = found.unwrap_or_else(|| panic!("{name} comes later")).1;
    }
}

#[test]
fn broken_calls_are_text() {
    for answer in [
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": oops}}</tool_call>",
        "<tool_call>{\"name\": \"g\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1",
        "<tool_call>",
        "<tool_call>f()</tool_call>",
        "<tool_call>{\"name\": \"f\", \"name\": \"f\", \"arguments\": {}}",
    ] {
        let (all, called) = pieces(&[answer], ToolFormat::Hermes);
        let mut whole = Said::default();
        all.into_iter().for_each(|piece| whole.push(piece));
        assert!(!called && whole.calls.is_empty(), "{answer}");
        assert_eq!(whole.content, answer);
    }
}

#[test]
fn ids_fit_the_templates_that_read_them_back() {
    let (all, _) = pieces(
        &["[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}]"],
        ToolFormat::Mistral,
    );
    let ids: Vec<&String> = all
        .iter()
        .filter_map(|piece| piece.tool_calls.as_ref()?[0].id.as_ref())
        .collect();
    assert_eq!(ids.len(), 1);
    assert!(ids[0].len() == 9 && ids[0].bytes().all(|byte| byte.is_ascii_alphanumeric()));
}

#[test]
fn earlier_calls_reach_the_template_with_arguments_as_objects() {
    let mut message = json!({"tool_calls": [{"id": "x", "type": "function", "function":
        {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}}], "tool_call_id": "y"});
    let message = message.as_object_mut().expect("an object");
    let Ok(said) = said_of_calls(message, str::to_owned) else {
        panic!("refused")
    };
    assert_eq!(
        said["tool_calls"][0]["function"]["arguments"].to_string(),
        "{\"b\":1,\"a\":2}"
    );
    assert_eq!(said["tool_call_id"], "y");
    for wrong in [
        json!(7),
        json!([7]),
        json!([{"id": "x"}]),
        json!([{"function": {"name": "f", "arguments": "{}"}}]),
    ] {
        let mut message = json!({"tool_calls": wrong});
        assert!(said_of_calls(message.as_object_mut().expect("an object"), str::to_owned).is_err());
    }
}
