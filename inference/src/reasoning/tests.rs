use proptest::prelude::*;

use super::*;

/// Marks as text.
const TEXT: Marks = Marks::Tags {
    open: Mark::Text("<think>"),
    close: Mark::Text("</think>"),
};
/// The same as tokens 1 and 2; all else is text.
const TOKENS: Marks = Marks::Tags {
    open: Mark::Token(1),
    close: Mark::Token(2),
};
const HARMONY: Marks = Marks::Channels(Channels {
    start: 1,
    channel: 2,
    message: 3,
    end: 4,
    constrain: Some(5),
    call: Some(6),
    done: Some(7),
});
const NAMES: [&str; 7] = [
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|constrain|>",
    "<|call|>",
    "<|return|>",
];

/// Pieces: a name of a special token is that token.
fn separate(marks: Marks, thinks: bool, pieces: &[&str]) -> (Separated, u32) {
    let names: &[&str] = match marks {
        Marks::Channels(_) => &NAMES,
        Marks::Tags { .. } => &["<think>", "</think>"],
    };
    let has_tokens = marks != TEXT;
    let mut separator = Separator::new(marks, thinks);
    let mut out = Separated::default();
    for piece in pieces {
        let token = names.iter().position(|name| name == piece);
        let token = token.filter(|_| has_tokens).map_or(99, |at| at as u32 + 1);
        if !separator.mark(token, &mut out) {
            separator.text(piece, &mut out);
        }
    }
    separator.finish(&mut out);
    (out, separator.reasoning_tokens)
}

fn said(marks: Marks, thinks: bool, pieces: &[&str]) -> (String, String, u32) {
    let (out, tokens) = separate(marks, thinks, pieces);
    (out.reasoning, out.content, tokens)
}

fn expect(reasoning: &str, content: &str, tokens: u32) -> (String, String, u32) {
    (reasoning.to_owned(), content.to_owned(), tokens)
}

#[test]
fn thoughts_stand_between_their_marks() {
    for marks in [TEXT, TOKENS] {
        let whole = [
            "<think>", "\n", "Let", " me", "\n", "</think>", "\n\n", "Yes", ".",
        ];
        assert_eq!(
            said(marks.clone(), false, &whole),
            expect("Let me", "Yes.", 6)
        );
        // The prompt opened the thought.
        let opened = &whole[1..];
        assert_eq!(
            said(marks.clone(), true, opened),
            expect("Let me", "Yes.", 5)
        );
        // Nothing thought, and nothing to think.
        let empty = ["<think>", "\n\n", "</think>", "\n\n", "Yes"];
        assert_eq!(said(marks.clone(), false, &empty), expect("", "Yes", 3));
        assert_eq!(
            said(marks.clone(), false, &["\n", "Yes", "\n"]),
            expect("", "\nYes\n", 0)
        );
        // An answer that speaks of marks.
        let speaks = [
            "<think>", "a", "</think>", "Use ", "<think>", " and ", "</think>",
        ];
        let spoken = expect("a", "Use <think> and </think>", 3);
        assert_eq!(said(marks.clone(), false, &speaks), spoken);
        let late = ["Use ", "<think>", "."];
        assert_eq!(said(marks, false, &late), expect("", "Use <think>.", 0));
    }
}

#[test]
fn thoughts_that_were_cut_off_are_no_answer() {
    for marks in [TEXT, TOKENS] {
        let cut = ["<think>", "\n", "Let", " me", "\n"];
        assert_eq!(said(marks.clone(), false, &cut), expect("Let me", "", 5));
        assert_eq!(said(marks.clone(), false, &["<think>"]), expect("", "", 1));
        assert_eq!(said(marks, true, &["a <"]), expect("a <", "", 1));
    }
    assert_eq!(said(TEXT, false, &["<think>a</th"]).0, "a</th");
    assert_eq!(said(TEXT, false, &["<thi"]).1, "<thi");
    assert_eq!(said(TEXT, false, &["<thinking>"]).1, "<thinking>");
}

#[test]
fn channels_tell_thoughts_from_answers() {
    let answer = [
        "<|channel|>",
        "analysis",
        "<|message|>",
        "We",
        " think",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "final",
        "<|message|>",
        "Yes",
        ".",
        "<|return|>",
    ];
    assert_eq!(said(HARMONY, false, &answer), expect("We think", "Yes.", 6));
    // A comment for the asker stands before the answer; one for a tool is none.
    let comments = [
        "<|channel|>",
        "commentary",
        "<|message|>",
        "Looking.",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "final",
        "<|message|>",
        "Done",
        "<|return|>",
    ];
    assert_eq!(
        said(HARMONY, false, &comments),
        expect("", "Looking.\nDone", 0)
    );
    for call in [
        &[
            "<|channel|>",
            "commentary",
            " to=functions.a ",
            "<|constrain|>",
            "json",
        ][..],
        &[
            " to=functions.a",
            "<|channel|>",
            "commentary",
            "<|constrain|>",
            "json",
        ],
        &["<|channel|>", "final", " to=functions.a"],
    ] {
        let pieces = [call, &["<|message|>", "{}", "<|call|>"]].concat();
        let (reasoning, content, _) = said(HARMONY, false, &pieces);
        assert_eq!((reasoning.as_str(), content.as_str()), ("{}", ""));
    }
    let twice = [
        "<|channel|>",
        "analysis",
        "<|message|>",
        "a",
        "<|end|>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "analysis",
        "<|message|>",
        "b",
    ];
    assert_eq!(said(HARMONY, false, &twice).0, "a\nb");
}

/// Who reads calls counts them as part of the answer, and what is said to others as thought.
#[test]
fn calls_are_no_thoughts_where_they_are_read() {
    let counted = |recipient: &str, counts: bool| {
        let mut separator = Separator {
            counts,
            ..Separator::new(HARMONY, false)
        };
        let mut out = Separated::default();
        for piece in ["<|channel|>", recipient, "<|message|>", "{}", "<|call|>"] {
            let token = NAMES.iter().position(|name| *name == piece);
            let token = token.map_or(99, |at| at as u32 + 1);
            if !separator.mark(token, &mut out) {
                separator.text(piece, &mut out);
            }
        }
        separator.reasoning_tokens
    };
    let call = "commentary to=functions.f ";
    assert_eq!((counted(call, true), counted(call, false)), (0, 5));
    assert_eq!(counted("commentary to=browser.open", true), 5);
    assert_eq!(counted("analysis", true), 5);
}

#[test]
fn answers_without_channels_are_not_lost() {
    assert_eq!(said(HARMONY, false, &["Yes", "."]).1, "Yes.");
    assert_eq!(said(HARMONY, false, &["<|message|>", "Yes"]).1, "Yes");
    let long = "word ".repeat(100);
    assert_eq!(
        said(HARMONY, false, &[&long, "end"]).1,
        format!("{long}end")
    );
    // A head alone says nothing, and neither does what is cut off within it.
    let head = [
        "<|channel|>",
        "analysis",
        "<|message|>",
        "a",
        "<|end|>",
        "<|start|>",
        "assis",
    ];
    assert_eq!(said(HARMONY, false, &head), expect("a", "", 5));
    assert_eq!(
        said(HARMONY, false, &["<|channel|>", "fin"]),
        expect("", "", 0)
    );
}

proptest! {
    /// Where the text is cut changes nothing of what it says.
    #[test]
    fn any_cutting_says_the_same(
        text in "(<think>)?[ab<\n]{0,9}(</think>)?[ab<\n/]{0,9}(</think>|</th|<th)?",
        cuts in prop::collection::vec(1usize..5, 60),
        thinks: bool,
    ) {
        let (whole, _) = separate(TEXT, thinks, &[&text]);
        let mut rest = text.as_str();
        let mut pieces = Vec::new();
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            pieces.push(head);
            rest = tail;
        }
        let (cut, _) = separate(TEXT, thinks, &pieces);
        prop_assert_eq!(&cut.reasoning, &whole.reasoning);
        prop_assert_eq!(&cut.content, &whole.content);
        // Nothing is made up, and nothing but marks and white space goes.
        let bare = |text: &str| text.replace(char::is_whitespace, "");
        let kept = bare(&cut.reasoning) + &bare(&cut.content);
        let lost = bare(&text).len() - kept.len();
        prop_assert!([0, 7, 8, 15].contains(&lost), "{}", lost);
    }

    #[test]
    fn any_tokens_of_a_format_end(tokens in prop::collection::vec(0usize..9, 0..40)) {
        let words = ["word", "analysis", " final"];
        let pieces: Vec<&str> = tokens
            .iter()
            .map(|token| NAMES.get(*token).or(words.get(*token % 3)).copied().unwrap_or(""))
            .collect();
        let (_, thought) = separate(HARMONY, false, &pieces);
        prop_assert!(thought as usize <= pieces.len());
    }
}
