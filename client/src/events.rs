//! Server-sent events, as far as OpenAI's API uses them: `data:` lines, an empty line between.
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>

/// Longest event that is held.
const MAX_EVENT_BYTES: usize = 1 << 20;

/// An event beyond [`MAX_EVENT_BYTES`], or not UTF-8.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadEvent;

/// Cuts a byte stream into the data of its events, wherever the pieces break.
#[derive(Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
}

impl Events {
    /// Takes a piece; gives the data of each event that it completes.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Result<Vec<String>, BadEvent> {
        let mut events = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > MAX_EVENT_BYTES {
                return Err(BadEvent);
            }
            if self.line.last() == Some(&b'\n') {
                let line = std::mem::take(&mut self.line);
                if let Some(data) = self.end_line(&line) {
                    events.push(String::from_utf8(data).map_err(|_| BadEvent)?);
                }
            }
        }
        Ok(events)
    }

    fn end_line(&mut self, line: &[u8]) -> Option<Vec<u8>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return self.data.take();
        }
        if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_are_cut_at_empty_lines() {
        let text = b": comment\n\ndata: one\n\nid: 7\r\ndata:two\r\ndata: three\r\n\r\ndata: rest";
        let events = Events::default().push(text).unwrap();
        assert_eq!(events, ["one", "two\nthree"]);
    }

    #[test]
    fn endless_and_unreadable_events_are_refused() {
        let mut events = Events::default();
        let piece = vec![b'x'; MAX_EVENT_BYTES];
        assert_eq!(events.push(&piece), Ok(vec![]));
        assert_eq!(events.push(b"x"), Err(BadEvent));
        let mut events = Events::default();
        let line = [b"data: ", piece.as_slice(), b"\n"].concat();
        assert_eq!(events.push(&line), Err(BadEvent));
        assert_eq!(Events::default().push(b"data: \xff\n\n"), Err(BadEvent));
    }

    proptest! {
        #[test]
        fn where_pieces_break_does_not_matter(
            lines in proptest::collection::vec("(data: ?|id|)[a-c\r]{0,3}", 0..20),
            cuts in proptest::collection::vec(0_usize..200, 0..20),
        ) {
            let text = lines.join("\n");
            let whole = Events::default().push(text.as_bytes()).unwrap();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let (mut events, mut start, mut found) = (Events::default(), 0, Vec::new());
            for cut in cuts {
                found.extend(events.push(&text.as_bytes()[start..cut]).unwrap());
                start = cut;
            }
            prop_assert_eq!(found, whole);
        }

        #[test]
        fn foreign_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            drop(Events::default().push(&bytes));
        }
    }
}
