//! Plain functions over foreign bytes, driven by the fuzz targets and by the tests below alike.

use std::io::{self, Read, Write};

use crate::api::fuzzing as api;
use crate::evidence::tpm::{Bank, Selection, Tpm};
use crate::prepare;

/// A client's body, read as each kind of request.
pub fn request(body: &[u8]) {
    api::chat(body);
    api::completion(body);
    api::embedding(body);
    api::response(body);
}

/// All that a TPM answers, to each of the commands in turn.
pub fn tpm(answers: &[u8]) {
    let tpm = || Tpm::new(Answers(answers));
    let selection = Selection::new(Bank::Sha384, &[0, 9, 14]);
    drop(tpm().pcr_read(selection));
    drop(tpm().nv_read(1));
    let mut tpm = tpm();
    if let Ok(key) = tpm.create_attestation_key()
        && let Ok(quote) = tpm.quote(&key.handle, &[0; 48], selection)
    {
        drop(quote.pcr_digest());
    }
}

/// The partition that carries the release bundle.
pub fn release_partition(partition: &[u8]) {
    drop(prepare::read_release(partition));
}

/// A TPM that answers, whatever it is told.
struct Answers<'a>(&'a [u8]);

impl Read for Answers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Answers<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn genuine() -> Vec<u8> {
        let content = r#"[{"type":"text","text":"é"}]"#;
        format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":{content}}}],"stop":["x"],
            "stream":true,"stream_options":{{"include_usage":true}},"seed":1,"prompt":[1,2],
            "input":[{{"role":"user","content":{content}}}],"instructions":"i"}}"#
        )
        .into_bytes()
    }

    proptest! {
        /// Any bytes, and any change of a genuine body, end in a request or a refusal.
        #[test]
        fn no_body_panics(noise in vec(any::<u8>(), 0..64), at in 0usize..220) {
            let mut body = genuine();
            let at = at.min(body.len());
            let end = (at + noise.len()).min(body.len());
            body.splice(at..end, noise.iter().copied());
            request(&body);
            request(&noise);
        }

        /// Whatever a TPM answers, the client ends with a value or an error.
        #[test]
        fn no_answer_panics(
            bodies in vec(vec(any::<u8>(), 0..90), 1..6),
            tag in 0x8001u16..0x8003,
        ) {
            let mut answers = Vec::new();
            for body in bodies {
                let size = 10 + body.len() as u32;
                let head = [&tag.to_be_bytes()[..], &size.to_be_bytes(), &[0; 4]].concat();
                answers.extend([head, body].concat());
            }
            tpm(&answers);
        }

        #[test]
        fn no_partition_panics(
            bytes in vec(any::<u8>(), 0..64),
            genuine: bool,
        ) {
            let magic: &[u8] = if genuine { b"CLOISTR1" } else { b"" };
            release_partition(&[magic, &bytes].concat());
        }
    }
}
