//! Text of others on a person's terminal.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _, stderr, stdout};

use crate::failure::{Failure, reason};

/// A line of the report to standard output. A reader that went away wants no more of it, and the
/// verdict stands; a report that is not written for another reason is a failure.
pub(crate) fn say(line: &str) -> Result<(), Failure> {
    let mut out = stdout().lock();
    let written = out
        .write_all(line.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let cause = reason(&error);
            let message = format_args!("cannot write to standard output: {cause}");
            Err(Failure::misuse(message))
        }
        _ => Ok(()),
    }
}

/// A line to standard error. Where nobody can read it, the exit code says enough.
pub(crate) fn complain(line: &str) {
    drop(writeln!(stderr(), "{line}"));
}

/// Shows what a terminal would obey, or what would deceive the eye, as `\u{…}`. Line feeds and tabs
/// stay.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hostile(c) {
            // Writing to a string does not fail.
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// Control characters, direction marks and overrides, invisible characters, tags.
pub(crate) fn is_hostile(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        c if c.is_control() => true,
        '\u{61c}' | '\u{200b}' | '\u{200e}' | '\u{200f}' => true,
        '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}' => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_text_stays() {
        let text = "Grüße,\n\tعربى 漢字 👩\u{200d}👩 e\u{301}";
        assert_eq!(escape(text), text);
    }

    #[test]
    fn what_a_terminal_obeys_is_shown() {
        for (text, shown) in [
            ("\x1b]0;title\x07", "\\u{1b}]0;title\\u{7}"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("over\rwrite", "over\\u{d}write"),
            ("\u{8}\u{7f}", "\\u{8}\\u{7f}"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
            ("\u{200b}\u{feff}\u{e0041}", "\\u{200b}\\u{feff}\\u{e0041}"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }
}
