//! What a log asks of a witness (C2SP tlog-witness, `add-checkpoint`).
//!
//! ```text
//! old 7                 size that the witness signed last, decimal
//! BASE64                consistency proof from there, 0 to 63 lines of 32 bytes
//!
//! (signed checkpoint)
//! ```

use attest::Digest;
use attest::release::checkpoint::MAX_NOTE_BYTES;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::consistency::MAX_PROOF;

/// Longest request.
pub const MAX_REQUEST_BYTES: usize = MAX_NOTE_BYTES + 45 * MAX_PROOF + 32;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// Size from which the proof leads.
    pub old: u64,
    /// The proof.
    pub proof: Vec<Digest<32>>,
    /// The checkpoint with its signatures, as text that nobody has looked at.
    pub note: String,
}

impl AddCheckpoint {
    /// The request's body.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = format!("old {}\n", self.old);
        for hash in &self.proof {
            out += &STANDARD.encode(hash);
            out.push('\n');
        }
        out.push('\n');
        out + &self.note
    }

    /// Reads a body; accepts only what [`AddCheckpoint::encode`] writes.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        if body.len() > MAX_REQUEST_BYTES {
            return None;
        }
        let body = std::str::from_utf8(body).ok()?;
        let (head, note) = body.split_once("\n\n")?;
        let mut lines = head.split('\n');
        let old = lines.next()?.strip_prefix("old ")?.parse().ok()?;
        let hash = |line| Some(Digest(STANDARD.decode(line).ok()?.try_into().ok()?));
        let proof: Option<Vec<_>> = lines.take(MAX_PROOF + 1).map(hash).collect();
        let request = Self {
            old,
            proof: proof.filter(|proof| proof.len() <= MAX_PROOF)?,
            note: note.to_owned(),
        };
        (request.encode() == body).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_one_spelling() {
        let hash = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
        let text = format!("old 7\n{hash}\n{hash}\n\nlog.example.org\n8\n{hash}\n\n\u{2014} x y\n");
        let request = AddCheckpoint::parse(text.as_bytes());
        assert_eq!(request.as_ref().map(|one| one.proof.len()), Some(2));
        assert_eq!(request.map(|one| one.encode()), Some(text.clone()));
        let none = AddCheckpoint::parse(b"old 0\n\nanything");
        assert_eq!(none.map(|one| (one.old, one.proof.len())), Some((0, 0)));
        for wrong in [
            String::new(),
            "old 7\n".to_owned(),
            text.replacen("old 7", "old 07", 1),
            text.replacen("old 7", "old +7", 1),
            text.replacen("old 7", "old 18446744073709551616", 1),
            text.replacen("old 7", "Old 7", 1),
            text.replacen("7\n", "7\r\n", 1),
            text.replacen(hash, &hash[4..], 1),
            text.replacen('=', "", 1),
            format!("old 7\n{}\n", format!("{hash}\n").repeat(MAX_PROOF + 1)),
            format!("old 7\n\n{}", "x".repeat(MAX_REQUEST_BYTES)),
        ] {
            assert_eq!(AddCheckpoint::parse(wrong.as_bytes()), None, "{wrong:.60}");
        }
        assert_eq!(AddCheckpoint::parse(&[0xff; 9]), None);
    }
}
