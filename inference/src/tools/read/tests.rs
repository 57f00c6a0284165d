use proptest::prelude::*;

use super::*;

/// Text, calls with their arguments, and whether any is complete.
type Found = (String, Vec<(String, String)>, bool);

fn collect(reader: &ToolReader, events: Vec<ToolEvent>) -> Found {
    let (mut said, mut calls) = (String::new(), Vec::new());
    for event in events {
        match event {
            ToolEvent::Text(text) => said += &text,
            ToolEvent::Thought(_) | ToolEvent::End => {}
            ToolEvent::Begin { name } => calls.push((name, String::new())),
            ToolEvent::Arguments(text) => calls.last_mut().expect("a call").1 += &text,
            ToolEvent::Broken { all, rest } => {
                let (_, shown) = calls.pop().expect("a call");
                assert!(all.ends_with(&(shown + &rest)), "{all}");
                said += &all;
            }
        }
    }
    (said, calls, reader.called())
}

/// Reads an answer in which `⟦` and `⟧` stand around special tokens, in pieces of some length.
fn read_in(format: ToolFormat, answer: &str, piece: usize) -> Found {
    let mut reader = ToolReader::new(format, vec!["f".to_owned(), "g-h".to_owned()]);
    let mut events = Vec::new();
    for (at, part) in answer.split('⟦').enumerate() {
        let text = match part.split_once('⟧') {
            Some((mark, text)) if at > 0 => {
                events.extend(reader.mark(mark));
                text
            }
            _ => part,
        };
        let characters: Vec<char> = text.chars().collect();
        for some in characters.chunks(piece) {
            events.extend(reader.text(&some.iter().collect::<String>()));
        }
    }
    events.extend(reader.finish());
    collect(&reader, events)
}

fn read(format: ToolFormat, answer: &str) -> Found {
    let whole = read_in(format, answer, usize::MAX);
    for piece in [1, 2, 3, 7] {
        assert_eq!(read_in(format, answer, piece), whole, "{answer}");
    }
    whole
}

fn calls(said: &str, calls: &[(&str, &str)]) -> Found {
    let owned = |(name, arguments): &(&str, &str)| ((*name).to_owned(), (*arguments).to_owned());
    (
        said.to_owned(),
        calls.iter().map(owned).collect(),
        !calls.is_empty(),
    )
}

#[test]
fn calls_of_every_format_are_found() {
    let one = calls("", &[("f", "{\"a\": [1, {}]}")]);
    let two = calls("", &[("f", "{}"), ("g-h", "{\"b\": \"}\"}")]);
    use ToolFormat::{Harmony, Hermes, Llama, Mistral, MistralNamed, Phi4};
    let object = "{\"name\": \"f\", \"arguments\": {\"a\": [1, {}]}}";
    let f = "{\"name\": \"f\", \"arguments\": {}}";
    let g = "{\"name\": \"g-h\", \"arguments\": {\"b\": \"}\"}}";
    for (format, answer) in [
        (Hermes, format!("<tool_call>\n{object}\n</tool_call>")),
        (Hermes, format!("<tool_call>{object}")),
        (Hermes, format!("⟦<tool_call>⟧{object}⟦</tool_call>⟧")),
        (Mistral, format!("⟦[TOOL_CALLS]⟧[{object}]")),
        (Mistral, format!("[TOOL_CALLS] [{object}]")),
        (
            Mistral,
            "⟦[TOOL_CALLS]⟧f⟦[ARGS]⟧{\"a\": [1, {}]}".to_owned(),
        ),
        (
            MistralNamed,
            "⟦[TOOL_CALLS]⟧f⟦[ARGS]⟧{\"a\": [1, {}]}".to_owned(),
        ),
        (
            MistralNamed,
            "[TOOL_CALLS]f[ARGS]{\"a\": [1, {}]}".to_owned(),
        ),
        (Phi4, format!("functools[{object}]")),
        (Phi4, format!("⟦<|tool_call|>⟧[{object}]⟦<|/tool_call|>⟧")),
        (Phi4, format!("<|tool_call|>[{object}]<|/tool_call|>")),
        (Llama, object.replace("arguments", "parameters")),
        (
            Llama,
            format!(
                "⟦<|python_tag|>⟧{}",
                object.replace("arguments", "parameters")
            ),
        ),
        (
            Harmony,
            "⟦<|channel|>⟧commentary to=functions.f ⟦<|constrain|>⟧json⟦<|message|>⟧\
            {\"a\": [1, {}]}⟦<|call|>⟧"
                .to_owned(),
        ),
        (
            Harmony,
            "⟦<|channel|>⟧analysis⟦<|message|>⟧Hm.⟦<|end|>⟧⟦<|start|>⟧assistant to=functions.f\
            ⟦<|channel|>⟧commentary json⟦<|message|>⟧{\"a\": [1, {}]}"
                .to_owned(),
        ),
        // Arguments before the name, and other members.
        (
            Hermes,
            "<tool_call>{\"arguments\":{\"a\": [1, {}]},\"name\":\"f\"}</tool_call>".to_owned(),
        ),
        (
            Hermes,
            "<tool_call>{\"type\": \"x\", \"name\": \"f\", \"arguments\": {\"a\": [1, {}]}, \
            \"id\": 1}</tool_call>"
                .to_owned(),
        ),
    ] {
        let (said, found, called) = read(format, &answer);
        let strip = |text: &str| text.replace(' ', "");
        assert_eq!(strip(&found[0].1), strip(&one.1[0].1), "{answer}");
        assert_eq!(
            (said.as_str(), found[0].0.as_str(), called),
            ("", "f", true),
            "{answer}"
        );
    }
    for (format, answer) in [
        (
            Hermes,
            format!("<tool_call>\n{f}\n</tool_call>\n<tool_call>\n{g}\n</tool_call>"),
        ),
        (Hermes, format!("<tool_call>{f}<tool_call>{g}")),
        (Mistral, format!("⟦[TOOL_CALLS]⟧[{f}, {g}]")),
        (
            MistralNamed,
            "⟦[TOOL_CALLS]⟧f⟦[ARGS]⟧{}⟦[TOOL_CALLS]⟧g-h⟦[ARGS]⟧{\"b\": \"}\"}".to_owned(),
        ),
        (Phi4, format!("functools[{f},{g}]")),
        (
            Llama,
            format!("{f}; {g}").replace("arguments", "parameters"),
        ),
        (
            Harmony,
            "⟦<|channel|>⟧commentary to=functions.f⟦<|message|>⟧{}⟦<|call|>⟧⟦<|start|>⟧assistant\
            ⟦<|channel|>⟧commentary to=functions.g-h⟦<|message|>⟧{\"b\": \"}\"}⟦<|call|>⟧"
                .to_owned(),
        ),
    ] {
        assert_eq!(read(format, &answer), two, "{answer}");
    }
}

#[test]
fn text_around_calls_stays() {
    let call = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    let found = read(ToolFormat::Hermes, &format!("a < b\n{call}\n c"));
    assert_eq!(found, calls("a < b\n\n c", &[("f", "{}")]));
    let found = read(ToolFormat::Hermes, &format!("{call}\n"));
    assert_eq!(found, calls("", &[("f", "{}")]));
    let said = "⟦<|channel|>⟧commentary⟦<|message|>⟧I look.⟦<|end|>⟧⟦<|start|>⟧assistant\
        ⟦<|channel|>⟧commentary to=functions.f⟦<|message|>⟧{}⟦<|call|>⟧";
    assert_eq!(
        read(ToolFormat::Harmony, said),
        calls("I look.", &[("f", "{}")])
    );
}

#[test]
fn what_only_looks_like_a_call_is_text() {
    use ToolFormat::{Harmony, Hermes, Llama, Mistral, MistralNamed, Phi4};
    for (format, answer) in [
        (Hermes, "<tool_call>"),
        (Hermes, "<tool_call>[]"),
        (Mistral, "[TOOL_CALLS][ ]"),
        (
            Hermes,
            "<tool_call>{\"name\": \"other\", \"arguments\": {}}</tool_call>",
        ),
        (Hermes, "<tool_call>{\"name\": \"f\"}</tool_call>"),
        (
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": 7}</tool_call>",
        ),
        (
            Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": nul}}</tool_call>",
        ),
        (Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}"),
        (Hermes, "<tool_cal"),
        (Hermes, "{\"name\": \"f\", \"arguments\": {}}"),
        (Llama, "{\"answer\": {\"parameters\": {}}} and more"),
        (Llama, "{\"name\": \"f\", \"parameters\": {\"a\": 1"),
        (Llama, "  plain {\"name\": \"f\", \"parameters\": {}}"),
        (Mistral, "[TOOL_CALLS]"),
        (
            Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": \"{}\"}]",
        ),
        (MistralNamed, "[TOOL_CALLS]other[ARGS]{}"),
        (MistralNamed, "[TOOL_CALLS]f[ARGS]no"),
        (Phi4, "functools and more"),
        (Harmony, "nothing on a channel"),
    ] {
        assert_eq!(read(format, answer), (answer.to_owned(), Vec::new(), false));
    }
    let strange = "⟦<|channel|>⟧commentary to=functions.other⟦<|message|>⟧{}⟦<|call|>⟧";
    assert_eq!(read(Harmony, strange), ("{}".to_owned(), Vec::new(), false));
}

const PARTS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "functools",
    "<|tool_call|>",
    "{\"name\": \"f\", \"arguments\": ",
    "{\"name\": \"f\", \"parameters\": ",
    "{",
    "}",
    "[",
    "]",
    ",",
    ";",
    "\"",
    "f",
    "\\",
    " ",
    "\n",
    "1",
];

proptest! {
    /// Nothing panics, and nothing of an answer without calls is lost, however it is cut.
    #[test]
    fn any_answer_in_any_pieces_reads_the_same(
        answer in prop::collection::vec(prop::sample::select(PARTS), 0..24),
        piece in 1usize..5,
    ) {
        let answer = answer.concat();
        for format in [
            ToolFormat::Hermes, ToolFormat::Llama, ToolFormat::Mistral, ToolFormat::MistralNamed,
            ToolFormat::Phi4, ToolFormat::Harmony,
        ] {
            let whole = read_in(format, &answer, usize::MAX);
            prop_assert_eq!(&read_in(format, &answer, piece), &whole);
            if whole.1.is_empty() {
                prop_assert_eq!(whole.0.as_str(), answer.as_str());
            }
            for (_, arguments) in &whole.1 {
                let parsed = serde_json::from_str::<serde_json::Map<String, Value>>(arguments);
                prop_assert!(parsed.is_ok(), "{}", arguments);
            }
        }
    }
}
