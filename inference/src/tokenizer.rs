//! Text to tokens by the `tokenizers` library, and tokens to bytes here, one by one.
//!
//! The library decodes whole sequences; a stream needs each token's bytes as soon as it is chosen.
//! Two decoders cover the open models, and both map tokens to bytes independently: byte-level BPE
//! (each character of a token stands for one byte) and SentencePiece (`▁` is a space, `<0x41>` a
//! byte).

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::Tokenizer as Library;

use crate::error::{Name, PromptError, TokenizerError};
use crate::request::Prompt;

/// A loaded tokenizer.
pub(crate) struct Tokenizer {
    library: Library,
    decoder: Decoder,
    /// Tokens that have no text.
    special: HashSet<u32>,
    /// Bytes of the longest token.
    longest: usize,
}

/// How tokens become bytes.
enum Decoder {
    /// Which byte each character stands for.
    ByteLevel(BTreeMap<char, u8>),
    SentencePiece {
        /// Spaces to drop at the start of a text.
        strip: usize,
    },
}

impl Tokenizer {
    /// Reads `tokenizer.json` for a model of `vocabulary` tokens.
    pub(crate) fn read(bytes: &[u8], vocabulary: u32) -> Result<Self, TokenizerError> {
        /// Only what the library does not show.
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            decoder: Value,
            #[serde(default)]
            post_processor: Value,
        }
        let document: Document =
            serde_json::from_slice(bytes).map_err(|_| TokenizerError::Malformed)?;
        let decoder = Decoder::read(&document.decoder)?;
        if !templates_are_sound(&document.post_processor) {
            return Err(TokenizerError::Malformed);
        }
        let mut library = Library::from_bytes(bytes).map_err(|_| TokenizerError::Malformed)?;
        library
            .with_truncation(None)
            .map_err(|_| TokenizerError::Malformed)?;
        library.with_padding(None);
        // The library would keep every word that it sees, for each thread, for ever.
        let mut model = library.get_model().clone();
        model.resize_cache(0);
        library.with_model(model);

        let vocab = library.get_vocab(true);
        let longest = vocab.keys().map(String::len).max().unwrap_or(0);
        if let Some(token) = vocab
            .into_values()
            .max()
            .filter(|token| *token >= vocabulary)
        {
            return Err(TokenizerError::Vocabulary { token, vocabulary });
        }
        let added = library.get_added_tokens_decoder();
        let special = added.into_iter().filter(|(_, token)| token.special);
        Ok(Self {
            special: special.map(|(id, _)| id).collect(),
            library,
            decoder,
            longest,
        })
    }

    /// Tokens of a text; `with_special` adds what the tokenizer puts around a plain text. A text
    /// of more bytes than `context_tokens` of the longest kind is refused before it costs anything.
    pub(crate) fn encode(
        &self,
        text: &str,
        with_special: bool,
        context_tokens: u32,
    ) -> Result<Prompt, PromptError> {
        let limit = self.longest.saturating_mul(context_tokens as usize);
        if text.len() > limit {
            let found = text.len();
            return Err(PromptError::TooLong { found, limit });
        }
        let encoding = self.library.encode_fast(text, with_special);
        let encoding = encoding.map_err(|_| PromptError::Tokenizer)?;
        Ok(Prompt::from_tokens(encoding.get_ids().to_vec()))
    }

    /// The token that stands for this very text.
    pub(crate) fn token(&self, text: &str) -> Option<u32> {
        self.library.token_to_id(text)
    }

    /// The special tokens, with the text that stands for them, by their numbers.
    pub(crate) fn special_tokens(&self) -> Vec<(String, u32)> {
        let mut special: Vec<u32> = self.special.iter().copied().collect();
        special.sort_unstable();
        let named = |id: u32| Some((self.library.id_to_token(id)?, id));
        special.into_iter().filter_map(named).collect()
    }

    /// The text that stands for a token, if it is a special one.
    pub(crate) fn special_token(&self, token: u32) -> Option<String> {
        let is_special = self.special.contains(&token);
        is_special
            .then(|| self.library.id_to_token(token))
            .flatten()
    }

    /// Whether a space at the start of a text is not shown.
    pub(crate) fn drops_space(&self) -> bool {
        matches!(self.decoder, Decoder::SentencePiece { strip } if strip > 0)
    }

    /// Appends a token's bytes; special and unknown tokens have none.
    pub(crate) fn bytes(&self, token: u32, out: &mut Vec<u8>) {
        if self.special.contains(&token) {
            return;
        }
        let Some(text) = self.library.id_to_token(token) else {
            return;
        };
        match &self.decoder {
            Decoder::ByteLevel(table) => {
                let bytes: Option<Vec<u8>> = text
                    .chars()
                    .map(|character| table.get(&character).copied())
                    .collect();
                out.extend(bytes.unwrap_or_else(|| text.into_bytes()));
            }
            Decoder::SentencePiece { .. } => match byte_token(&text) {
                Some(byte) => out.push(byte),
                None => out.extend(text.replace('▁', " ").into_bytes()),
            },
        }
    }
}

impl Decoder {
    /// Reads the `decoder` of `tokenizer.json`.
    fn read(decoder: &Value) -> Result<Self, TokenizerError> {
        let kind = |decoder: &Value| {
            decoder
                .get("type")
                .and_then(Value::as_str)
                .map(str::to_owned)
        };
        let parts = match kind(decoder).as_deref() {
            Some("Sequence") => decoder.get("decoders").and_then(Value::as_array).cloned(),
            _ => Some(vec![decoder.clone()]),
        };
        let parts = parts.unwrap_or_default();
        let kinds: Option<Vec<String>> = parts.iter().map(kind).collect();
        let kinds = kinds.unwrap_or_default();
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        let named = if kinds.is_empty() {
            "none".to_owned()
        } else {
            kinds.join("+")
        };
        let unsupported = || Err(TokenizerError::Decoder(Name::new(&named)));
        match kinds.as_slice() {
            ["ByteLevel"] => Ok(Self::ByteLevel(byte_level_table())),
            ["Metaspace"] if parts[0].get("replacement") == Some(&json!("▁")) => {
                let never = parts[0].get("prepend_scheme") == Some(&json!("never"));
                Ok(Self::SentencePiece {
                    strip: usize::from(!never),
                })
            }
            ["Replace", "ByteFallback", "Fuse", rest @ ..] => {
                let spaces = parts[0].get("pattern") == Some(&json!({"String": "▁"}))
                    && parts[0].get("content") == Some(&json!(" "));
                let strip = match (rest, parts.last()) {
                    ([], _) => Some(0),
                    (["Strip"], Some(strip)) => strip_count(strip),
                    _ => None,
                };
                match strip.filter(|_| spaces) {
                    Some(strip) => Ok(Self::SentencePiece { strip }),
                    None => unsupported(),
                }
            }
            _ => unsupported(),
        }
    }
}

/// Whether every template for a single text names only that text and special tokens that it
/// defines. The library checks this when it builds a template, not when it reads one, and panics
/// later.
fn templates_are_sound(processor: &Value) -> bool {
    let list = |value: &Value, key: &str| {
        let list = value.get(key).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    match processor.get("type").and_then(Value::as_str) {
        Some("Sequence") => list(processor, "processors")
            .iter()
            .all(templates_are_sound),
        Some("TemplateProcessing") => list(processor, "single").iter().all(|piece| {
            if let Some(sequence) = piece.get("Sequence") {
                return sequence.get("id") == Some(&json!("A"));
            }
            let token = piece
                .get("SpecialToken")
                .and_then(|token| token.get("id")?.as_str());
            let defined = processor.get("special_tokens");
            token.is_some_and(|token| defined.is_some_and(|defined| defined.get(token).is_some()))
        }),
        Some("ByteLevel" | "BertProcessing" | "RobertaProcessing") => true,
        Some(_) => false,
        // The library takes what has no type for whatever fits.
        None => processor.is_null(),
    }
}

/// Spaces that a `Strip` decoder drops at the start, if that is all it does.
fn strip_count(strip: &Value) -> Option<usize> {
    let plain = strip.get("content") == Some(&json!(" ")) && strip.get("stop") == Some(&json!(0));
    let start = strip
        .get("start")
        .and_then(Value::as_u64)
        .filter(|_| plain)?;
    usize::try_from(start).ok()
}

/// `<0x41>` is the byte 0x41.
fn byte_token(text: &str) -> Option<u8> {
    let digits = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() != 2 {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

/// The byte-level alphabet: printable Latin-1 stands for itself, other bytes for U+0100 and up.
fn byte_level_table() -> BTreeMap<char, u8> {
    let mut table = BTreeMap::new();
    let mut next = 0x100u32;
    for byte in 0..=u8::MAX {
        let stands_for_itself = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let character = if stands_for_itself {
            u32::from(byte)
        } else {
            next
        };
        next += u32::from(!stands_for_itself);
        table.extend(char::from_u32(character).map(|character| (character, byte)));
    }
    table
}

/// The bytes of one answer, token by token.
pub(crate) struct TokenBytes {
    /// Spaces still to drop at the start.
    strip: usize,
    bytes: Vec<u8>,
}

impl TokenBytes {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let strip = match tokenizer.decoder {
            Decoder::ByteLevel(_) => 0,
            Decoder::SentencePiece { strip } => strip,
        };
        Self {
            strip,
            bytes: Vec::new(),
        }
    }

    /// The bytes that `token` adds.
    pub(crate) fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> &[u8] {
        self.bytes.clear();
        tokenizer.bytes(token, &mut self.bytes);
        let spaces = self
            .bytes
            .iter()
            .take(self.strip)
            .take_while(|byte| **byte == b' ')
            .count();
        self.strip = if spaces == self.bytes.len() {
            self.strip - spaces
        } else {
            0
        };
        &self.bytes[spaces..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(decoder: Value) -> Result<Decoder, TokenizerError> {
        Decoder::read(&decoder)
    }

    #[test]
    fn a_text_is_bounded_by_the_longest_token() {
        let folder = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/llama/f16-linear"
        );
        let bytes = std::fs::read(format!("{folder}/tokenizer.json")).expect("a tokenizer");
        let tokenizer = Tokenizer::read(&bytes, 304).expect("a tokenizer");
        let limit = tokenizer.longest * 3;
        assert!(tokenizer.encode(&"x".repeat(limit), false, 3).is_ok());
        let found = limit + 1;
        let refusal = tokenizer.encode(&"x".repeat(found), false, 3).err();
        assert_eq!(refusal, Some(PromptError::TooLong { found, limit }));
    }

    #[test]
    fn known_decoders_are_recognised_and_others_named() {
        assert!(matches!(
            read(json!({"type": "ByteLevel"})),
            Ok(Decoder::ByteLevel(_))
        ));
        let llama2 = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
        assert!(matches!(
            read(llama2.clone()),
            Ok(Decoder::SentencePiece { strip: 1 })
        ));
        let mut other = llama2;
        other["decoders"][3]["stop"] = json!(1);
        let refusal = read(other).err().expect("a refusal").to_string();
        assert_eq!(
            refusal,
            "its decoder, Replace+ByteFallback+Fuse+Strip, is not supported"
        );
        assert!(read(json!({"type": "WordPiece"})).is_err());
        assert!(read(Value::Null).is_err());
    }

    #[test]
    fn templates_name_only_what_they_define() {
        let template = |id: &str, sequence: &str| {
            json!({"type": "Sequence", "processors": [{"type": "TemplateProcessing", "single": [
                {"SpecialToken": {"id": id, "type_id": 0}},
                {"Sequence": {"id": sequence, "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}}]})
        };
        assert!(templates_are_sound(&template("<s>", "A")));
        assert!(!templates_are_sound(&template("<t>", "A")));
        assert!(!templates_are_sound(&template("<s>", "B")));
        assert!(templates_are_sound(&Value::Null));
    }

    #[test]
    fn the_byte_level_alphabet_has_every_byte_once() {
        let table = byte_level_table();
        assert_eq!(table.len(), 256);
        assert_eq!(table.get(&'Ġ'), Some(&b' '));
        assert_eq!(table.get(&'Ċ'), Some(&b'\n'));
        assert_eq!(table.get(&'a'), Some(&b'a'));
    }

    #[test]
    fn sentencepiece_streams_what_the_library_decodes() {
        let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 0, "content": "<s>", "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false}],
            "normalizer": null, "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "vocab": {"<s>": 0, "▁": 1, "▁the": 2, "a▁b": 3, "<0xC3>": 4,
                "<0xA9>": 5, "🦀": 6}, "merges": []}});
        let bytes = serde_json::to_vec(&tokenizer).expect("JSON");
        let tokenizer = Tokenizer::read(&bytes, 7).expect("a tokenizer");
        for tokens in [&[0, 2, 3, 4, 5, 6, 2][..], &[1, 1, 2], &[3, 1], &[1]] {
            let mut stream = TokenBytes::new(&tokenizer);
            let streamed: Vec<u8> = tokens
                .iter()
                .flat_map(|token| stream.push(&tokenizer, *token).to_vec())
                .collect();
            let expected = tokenizer.library.decode(tokens, true).expect("text");
            assert_eq!(
                String::from_utf8(streamed).expect("UTF-8"),
                expected,
                "{tokens:?}"
            );
        }
        let refusal = Tokenizer::read(&bytes, 6).err();
        assert_eq!(
            refusal,
            Some(TokenizerError::Vocabulary {
                token: 6,
                vocabulary: 6
            })
        );
    }
}
