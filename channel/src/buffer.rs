//! A bounded byte queue that wipes what it held.

use zeroize::{Zeroize, Zeroizing};

pub(crate) struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    start: usize,
    limit: usize,
}

impl Buffer {
    /// Room for `limit` bytes is made at once, so that no growing leaves copies behind.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            bytes: Zeroizing::new(Vec::with_capacity(limit)),
            start: 0,
            limit,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    pub(crate) fn room(&self) -> usize {
        self.limit - self.len()
    }

    /// Takes as much of `data` as there is room for.
    pub(crate) fn push(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.room());
        if self.bytes.len() + taken > self.limit {
            let held = self.len();
            self.bytes.copy_within(self.start.., 0);
            self.bytes[held..].zeroize();
            self.bytes.truncate(held);
            self.start = 0;
        }
        self.bytes.extend_from_slice(&data[..taken]);
        taken
    }

    /// Moves up to `out.len()` bytes out.
    pub(crate) fn pop(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.len());
        let end = self.start + count;
        out[..count].copy_from_slice(&self.bytes[self.start..end]);
        self.bytes[self.start..end].zeroize();
        self.start = end;
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_order_and_its_limit() {
        let mut buffer = Buffer::new(8);
        let mut out = [0; 3];
        assert_eq!(buffer.push(b"abcdefghij"), 8);
        assert_eq!(buffer.push(b"x"), 0);
        assert_eq!(buffer.pop(&mut out), 3);
        assert_eq!(&out, b"abc");
        assert_eq!(buffer.push(b"ABCD"), 3);
        let mut rest = [0; 16];
        assert_eq!(buffer.pop(&mut rest), 8);
        assert_eq!(&rest[..8], b"defghABC");
        assert_eq!(buffer.len(), 0);
        assert_eq!(buffer.bytes.capacity(), 8);
    }
}
