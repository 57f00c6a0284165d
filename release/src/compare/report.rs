//! A comparison for people, for a pull request, and for machines.

use std::fmt::Write as _;

use serde_json::{Value, json as object};

use super::{Change, Comparison, Section};

/// Most rows of a topic in text and Markdown; JSON has all.
const MAX_ROWS: usize = 100;
/// Most characters of a value in text and Markdown.
const MAX_VALUE: usize = 96;

/// The comparison as a table for each topic.
pub fn text(comparison: &Comparison) -> String {
    let (before, after) = &comparison.names;
    let mut out = format!("A  {before}\nB  {after}\n");
    for section in &comparison.sections {
        let Some(changes) = &section.changes else {
            continue;
        };
        if changes.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{} ({})", section.topic, counts(changes));
        for change in changes.iter().take(MAX_ROWS) {
            let sign = match (&change.before, &change.after) {
                (None, _) => '+',
                (_, None) => '-',
                _ => '~',
            };
            let _ = writeln!(out, "  {sign} {}{}", change.what, from(change));
            for (mark, value) in [("A", &change.before), ("B", &change.after)] {
                if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                    let _ = writeln!(out, "      {mark} {}", cut(value));
                }
            }
        }
        more(&mut out, changes, "  ");
    }
    let _ = writeln!(out, "\n{}", summary(comparison));
    out
}

fn from(change: &Change) -> String {
    let owner = change.owner.as_ref();
    owner.map_or_else(String::new, |owner| format!("  (from {owner})"))
}

/// The comparison for a pull request.
pub fn markdown(comparison: &Comparison) -> String {
    let (before, after) = &comparison.names;
    let mut out = format!("### Image: {} → {}\n\n{}\n", cell(before), cell(after), {
        summary(comparison)
    });
    for section in &comparison.sections {
        let Some(changes) = section
            .changes
            .as_ref()
            .filter(|changes| !changes.is_empty())
        else {
            continue;
        };
        let _ = writeln!(out, "\n#### {} ({})\n", section.topic, counts(changes));
        out += "| | before | after | from |\n|---|---|---|---|\n";
        for change in changes.iter().take(MAX_ROWS) {
            let value = |value: &Option<String>| match value.as_deref() {
                None => "—".to_owned(),
                Some("") => "(set)".to_owned(),
                Some(value) => code(&cut(value)),
            };
            let owner = change.owner.as_deref().map_or_else(String::new, cell);
            let (before, after) = (value(&change.before), value(&change.after));
            let what = code(&change.what);
            let _ = writeln!(out, "| {what} | {before} | {after} | {owner} |");
        }
        more(&mut out, changes, "\n");
    }
    out
}

/// The comparison for machines: every change of every topic.
pub fn json(comparison: &Comparison) -> Value {
    let change = |change: &Change| {
        object!({
            "what": change.what,
            "before": change.before,
            "after": change.after,
            "owner": change.owner,
        })
    };
    let section = |section: &Section| {
        let changes = section.changes.as_ref();
        let changes = changes.map(|changes| changes.iter().map(change).collect::<Vec<_>>());
        (section.topic.name().to_owned(), Value::from(changes))
    };
    let topics: serde_json::Map<String, Value> = comparison.sections.iter().map(section).collect();
    let bytes = comparison.bytes;
    object!({
        "before": comparison.names.0,
        "after": comparison.names.1,
        "equal": comparison.is_equal(),
        "boot_bytes": bytes.map(|(before, after)| object!({ "before": before, "after": after })),
        "topics": topics,
    })
}

fn summary(comparison: &Comparison) -> String {
    let all = comparison.sections.iter();
    let not_compared: Vec<&str> = all
        .clone()
        .filter(|section| section.changes.is_none())
        .map(|section| section.topic.name())
        .collect();
    let changed = all
        .filter_map(|section| section.changes.as_ref())
        .map(Vec::len);
    let changed: usize = changed.sum();
    let mut out = match changed {
        0 => "no difference in what was compared".to_owned(),
        changed => format!("{changed} change(s)"),
    };
    if let Some((before, after)) = comparison.bytes {
        let grown = i128::from(after) - i128::from(before);
        let _ = write!(out, "; root, initrd and kernel {after} bytes ({grown:+})");
    }
    if !not_compared.is_empty() {
        let _ = write!(out, "; not compared: {}", not_compared.join(", "));
    }
    out
}

fn counts(changes: &[Change]) -> String {
    let added = changes
        .iter()
        .filter(|change| change.before.is_none())
        .count();
    let removed = changes
        .iter()
        .filter(|change| change.after.is_none())
        .count();
    let changed = changes.len() - added - removed;
    format!("{added} added, {removed} removed, {changed} changed")
}

fn more(out: &mut String, changes: &[Change], indent: &str) {
    if changes.len() > MAX_ROWS {
        let hidden = changes.len() - MAX_ROWS;
        let _ = writeln!(out, "{indent}… and {hidden} more: see --json");
    }
}

fn cut(value: &str) -> String {
    match value.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}…", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

/// Text in a table of Markdown: nothing in it is markup.
fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '|' | '\\' | '`' | '*' | '_' | '<' | '>' | '[' | ']' | '@' | '#' | '&' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            _ if c.is_control() => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}

fn code(text: &str) -> String {
    format!("<code>{}</code>", cell(text))
}
