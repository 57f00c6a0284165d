//! Renders conversations through chat templates: for comparisons with transformers.
//!
//! ```text
//! render < cases   one JSON object a line: template, tokens, messages, tools, variables, today
//!                  → {"text": …} each, null with "refusal" where the template refuses
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::BufRead;

use inference::{Conversation, Day, Json, Turn};
use serde::Deserialize;

#[derive(Deserialize)]
struct Case {
    template: String,
    tokens: BTreeMap<String, String>,
    messages: Vec<Json>,
    #[serde(default)]
    tools: Vec<Json>,
    variables: Option<Json>,
    today: String,
}

fn main() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let turn = |message| match message {
            Json::Object(members) => Turn::from(members),
            _ => Turn::default(),
        };
        let conversation = Conversation {
            messages: case.messages.into_iter().map(turn).collect(),
            tools: case.tools,
            variables: match case.variables {
                Some(Json::Object(members)) => members,
                _ => Vec::new(),
            },
            today: Day::parse(&case.today),
        };
        let rendered = inference::fuzzing::render(&case.template, case.tokens, &conversation);
        let answer = match rendered {
            Ok(text) => serde_json::json!({"text": text}),
            Err(refusal) => serde_json::json!({"text": null, "refusal": refusal}),
        };
        println!("{answer}");
    }
    Ok(())
}
