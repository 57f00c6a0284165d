//! From bytes to text that may be shown: whole characters, and nothing that could still turn out to
//! be the start of a stop string.

/// Collects bytes into characters. The concatenation of all output is what
/// [`String::from_utf8_lossy`] makes of the concatenation of all input.
#[derive(Default)]
pub(crate) struct Characters {
    pending: Vec<u8>,
}

impl Characters {
    /// Appends the characters that `bytes` complete; an unfinished one is held back.
    pub(crate) fn push(&mut self, bytes: &[u8], out: &mut String) {
        self.pending.extend_from_slice(bytes);
        loop {
            let (valid, invalid) = match std::str::from_utf8(&self.pending) {
                Ok(text) => {
                    out.push_str(text);
                    self.pending.clear();
                    return;
                }
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            out.push_str(std::str::from_utf8(&self.pending[..valid]).unwrap_or_default());
            let Some(invalid) = invalid else {
                self.pending.drain(..valid);
                return;
            };
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.drain(..valid + invalid);
        }
    }

    /// What remains when no more bytes come.
    pub(crate) fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            self.pending.clear();
            out.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

/// Passes text on up to the first stop string.
pub(crate) struct StopFilter {
    stop: Vec<String>,
    held: String,
}

impl StopFilter {
    pub(crate) fn new(stop: Vec<String>) -> Self {
        Self {
            stop,
            held: String::new(),
        }
    }

    /// Takes text; answers what may be shown, and whether a stop string was found (then nothing
    /// more may be).
    pub(crate) fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let found = self
            .stop
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min();
        if let Some(start) = found {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.held.split_off(self.held.len() - self.held_back());
        (std::mem::replace(&mut self.held, keep), false)
    }

    /// What remains when no more text comes.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of `held` that a stop string starts with.
    fn held_back(&self) -> usize {
        let longest = self.stop.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let ends = self.held.as_bytes();
        let starts_a_stop = |end: &[u8]| {
            self.stop
                .iter()
                .any(|stop| stop.as_bytes().starts_with(end))
        };
        let start = (from..ends.len())
            .find(|start| self.held.is_char_boundary(*start) && starts_a_stop(&ends[*start..]));
        start.map_or(0, |start| ends.len() - start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn characters_are_never_split() {
        let mut characters = Characters::default();
        let mut out = String::new();
        for byte in "aé🦀".bytes() {
            characters.push(&[byte], &mut out);
            assert!("aé🦀".starts_with(&out));
        }
        assert_eq!(out, "aé🦀");
        characters.push(&[0xf0, 0x9f], &mut out);
        assert_eq!(out, "aé🦀");
        characters.finish(&mut out);
        assert_eq!(out, "aé🦀\u{fffd}");
    }

    #[test]
    fn partial_stop_strings_are_held_back() {
        let mut filter = StopFilter::new(vec!["###".into(), "END".into()]);
        assert_eq!(filter.push("a#"), ("a".into(), false));
        assert_eq!(filter.push("#"), (String::new(), false));
        assert_eq!(filter.push("b E"), ("##b ".into(), false));
        assert_eq!(filter.push("NDE"), (String::new(), true));
        let mut filter = StopFilter::new(vec!["é!".into()]);
        assert_eq!(filter.push("xé"), ("x".into(), false));
        assert_eq!(filter.finish(), "é");
    }

    proptest! {
        #[test]
        fn any_cutting_of_any_bytes_gives_the_same_text(
            bytes in prop::collection::vec(
                prop_oneof![any::<u8>(), Just(0xf0), Just(0x9f), Just(0xa6), Just(b'a')], 0..60),
            cuts in prop::collection::vec(1usize..5, 60),
        ) {
            let mut characters = Characters::default();
            let mut out = String::new();
            let mut rest = bytes.as_slice();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                characters.push(head, &mut out);
                rest = tail;
            }
            characters.finish(&mut out);
            prop_assert_eq!(out, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_cutting_of_any_text_stops_at_the_same_place(
            text in "[ab#é]{0,40}",
            stop in prop::collection::vec("[ab#é]{1,4}", 0..3),
            cuts in prop::collection::vec(1usize..4, 40),
        ) {
            let expected = stop.iter().filter_map(|stop| text.find(stop)).min();
            let mut filter = StopFilter::new(stop.clone());
            let mut shown = String::new();
            let mut stopped = false;
            let mut characters = text.chars();
            for cut in cuts {
                let piece: String = characters.by_ref().take(cut).collect();
                let (part, found) = filter.push(&piece);
                shown += &part;
                // Nothing shown may have to be taken back.
                prop_assert!(text.starts_with(&shown));
                if found {
                    stopped = true;
                    break;
                }
            }
            if !stopped {
                shown += &filter.finish();
            }
            prop_assert_eq!(stopped, expected.is_some());
            prop_assert_eq!(shown.as_str(), &text[..expected.unwrap_or(text.len())]);
        }
    }
}
