//! What an answer may be: JSON, JSON that a schema describes, calls of tools. llguidance turns it
//! into the set of tokens that may come next; nothing else is ever sampled.
//!
//! A constraint is compiled before its request is queued, on a thread of its own, within bounds of
//! bytes, depth and work. Each request has a parser of its own, so that what it costs and where it
//! gives up follow from the request alone.

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use crate::error::{ConstraintError, Name};
use crate::tokenizer::Tokenizer;
use crate::tools::{Choice, Offer, ToolFormat};
pub use grammar::Preamble;

mod grammar;
mod schema;

/// Recursion over a schema takes some kB for each level, and references may nest it deeply.
const STACK_BYTES: usize = 256 << 20;
/// No special token has this number.
const NO_TOKEN: u32 = u32::MAX;
/// Before the text of a special token: a byte that is in no text.
const SPECIAL: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// What an answer is to be.
#[derive(Clone, Copy)]
pub enum Shape<'a> {
    /// One JSON object.
    Json,
    /// JSON that a schema describes. A keyword that is not supported is refused if `strict`, and
    /// else does not constrain.
    Schema {
        /// The schema: its root is where its references begin.
        schema: &'a Value,
        /// Whether every keyword must hold.
        strict: bool,
    },
    /// Calls of tools, in the model's own format.
    Tools(&'a Offer),
}

/// A compiled constraint. Clones share it; each request that it is given to begins anew.
#[derive(Clone)]
pub struct Constraint {
    matcher: Arc<Matcher>,
    may_think: bool,
}

impl Constraint {
    /// Whether an answer may begin with what the model thinks, between marks.
    pub(crate) fn may_think(&self) -> bool {
        self.may_think
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Constraint")
    }
}

impl PartialEq for Constraint {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.matcher, &other.matcher)
    }
}

/// Compiles constraints for one tokenizer.
pub(crate) struct Compiler {
    factory: ParserFactory,
    /// Special tokens by their text.
    marks: Marks,
    /// Whether one space at the start of an answer is not shown.
    drops_space: bool,
}

/// The special tokens of a tokenizer, by their text.
pub(crate) struct Marks(Vec<(String, u32)>);

impl Marks {
    pub(crate) fn id(&self, text: &str) -> Option<u32> {
        let found = self.0.iter().find(|(content, _)| content == text);
        found.map(|(_, id)| *id)
    }
}

impl Compiler {
    /// For a model of `vocabulary` tokens, of which `ends` end an answer.
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        vocabulary: u32,
        ends: &[u32],
    ) -> Result<Self, ConstraintError> {
        let special = tokenizer.special_tokens();
        let drops_space = tokenizer.drops_space();
        let mut words: Vec<Vec<u8>> = (0..vocabulary)
            .map(|token| {
                let mut bytes = Vec::new();
                tokenizer.bytes(token, &mut bytes);
                // Bytes that are in no text would be taken for a special token's.
                if bytes.first() == Some(&SPECIAL) {
                    bytes.clear();
                }
                bytes
            })
            .collect();
        for (text, id) in &special {
            if let Some(word) = words.get_mut(*id as usize) {
                *word = [&[SPECIAL][..], text.as_bytes()].concat();
            }
        }
        Self::of_words(&words, special, drops_space, ends)
    }

    /// For tokens that are a byte each, and a last one that ends an answer.
    pub(crate) fn of_bytes(vocabulary: u32) -> Result<Self, ConstraintError> {
        let words = (0..vocabulary).map(|token| u8::try_from(token).ok().into_iter().collect());
        let words: Vec<Vec<u8>> = words.collect();
        Self::of_words(&words, Vec::new(), false, &[vocabulary - 1])
    }

    fn of_words(
        words: &[Vec<u8>],
        special: Vec<(String, u32)>,
        drops_space: bool,
        ends: &[u32],
    ) -> Result<Self, ConstraintError> {
        let vocabulary = words.len() as u32;
        let info = TokRxInfo::new(vocabulary, ends.first().copied().unwrap_or(NO_TOKEN));
        let mut trie = TokTrie::from(&info, words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(ends);
        }
        // Nothing is forced: which tokens spell a text is the model's choice.
        let environment = ApproximateTokEnv::new(trie);
        let mut factory =
            ParserFactory::new_simple(&(Arc::new(environment) as _)).map_err(blame)?;
        factory.quiet();
        *factory.limits_mut() = limits();
        Ok(Self {
            factory,
            marks: Marks(special),
            drops_space,
        })
    }

    /// Compiles what an answer is to be, after what the model may write before it.
    pub(crate) fn compile(
        &self,
        shape: Shape<'_>,
        preamble: &Preamble,
        format: Option<ToolFormat>,
    ) -> Result<Constraint, ConstraintError> {
        let is_free = matches!(shape, Shape::Tools(offer) if offer.choice == Choice::Auto);
        let may_think = is_free || matches!(preamble, Preamble::Thought { .. });
        let text = grammar::write(&self.marks, self.drops_space, shape, preamble, format)?;
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .name("schema".to_owned())
                .stack_size(STACK_BYTES);
            let work = || {
                let grammar = TopLevelGrammar::from_lark(text);
                let mut matcher = Matcher::new(self.factory.create_parser(grammar));
                // What no answer fits is found here, not in the middle of an answer.
                matcher.compute_mask().map(|_| matcher).map_err(blame)
            };
            let compiling = thread.spawn_scoped(scope, work);
            let compiling = compiling.map_err(|_| ConstraintError::Thread)?;
            let matcher = compiling
                .join()
                .map_err(|_| ConstraintError::TooComplex)??;
            Ok(Constraint {
                matcher: Arc::new(matcher),
                may_think,
            })
        })
    }
}

/// Less than llguidance would allow: a request may cost others a few milliseconds for each token,
/// and some tens of MB.
fn limits() -> ParserLimits {
    ParserLimits {
        max_items_in_row: 1_000,
        initial_lexer_fuel: 500_000,
        step_lexer_fuel: 100_000,
        step_max_items: 20_000,
        max_lexer_states: 20_000,
        max_grammar_size: 100_000,
        precompute_large_lexemes: false,
        verbose_errors: false,
    }
}

/// What llguidance's words mean. It has no other errors.
fn blame(error: impl fmt::Display) -> ConstraintError {
    let words = error.to_string();
    // Further lines quote the grammar, with the client's words in it.
    let words = words.lines().next().unwrap_or_default();
    let says = |words_of_it: &[&str]| words_of_it.iter().any(|some| words.contains(some));
    let unsupported = |keyword: &str| ConstraintError::Unsupported {
        keyword: Name::new(keyword),
        place: Name::new("#"),
    };
    if says(&["oneOf constraints"]) {
        unsupported("oneOf")
    } else if says(&["Unknown format"]) {
        unsupported("format")
    } else if says(&["patternProperty", "patternProperties"]) {
        unsupported("patternProperties")
    } else if says(&["$ref", "Reference segment", "circular references"]) {
        unsupported("$ref")
    } else if says(&["Unknown specification"]) {
        unsupported("$schema")
    } else if says(&["Unsatisfiable", "unsatisfiable", "no tokens", "NoExtension"]) {
        ConstraintError::Unsatisfiable
    } else if says(&[
        "fuel",
        "limit",
        "too large",
        "too many",
        "too big",
        "TooComplex",
        "complex",
        "panic",
        "exceeded",
        "size",
    ]) {
        ConstraintError::TooComplex
    } else if says(&["regex", "Regex", "pattern"]) {
        unsupported("pattern")
    } else {
        ConstraintError::Invalid
    }
}

/// Where one answer stands within its constraint.
pub(crate) struct Course {
    matcher: Matcher,
    /// Which tokens may come next: bit `token % 32` of word `token / 32`. Empty if not known.
    mask: Vec<u32>,
    words: usize,
}

/// Nothing can follow: the bounds of work are reached.
pub(crate) struct Stuck;

impl Course {
    pub(crate) fn new(constraint: &Constraint, vocabulary: u32) -> Self {
        Self {
            // Its own caches: what others ask for changes nothing for it.
            matcher: constraint.matcher.deep_clone(),
            mask: Vec::new(),
            words: vocabulary.div_ceil(32) as usize,
        }
    }

    /// Finds out which tokens may come next, if that is not known.
    pub(crate) fn prepare(&mut self) {
        if self.mask.is_empty()
            && let Ok(mask) = self.matcher.compute_mask()
        {
            self.mask = mask.as_slice().iter().take(self.words).copied().collect();
        }
    }

    /// One bit for each token, those of the vocabulary's end included.
    pub(crate) fn mask(&mut self) -> Result<&[u32], Stuck> {
        self.prepare();
        match self.mask.iter().any(|word| *word != 0) {
            true => Ok(&self.mask),
            false => Err(Stuck),
        }
    }

    /// Takes the token that was chosen; answers whether the answer is complete, and nothing can
    /// follow.
    pub(crate) fn take(&mut self, token: u32) -> Result<bool, Stuck> {
        self.mask.clear();
        self.matcher.consume_token(token).map_err(|_| Stuck)?;
        Ok(self.matcher.is_stopped())
    }
}

/// Makes every token that a mask leaves out one that is never chosen.
pub(crate) fn apply(mask: &[u32], logits: &mut [f32]) {
    for (word, logits) in mask.iter().zip(logits.chunks_mut(32)) {
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NAN;
            }
        }
    }
}

/// The token if a mask allows it, else the first that it allows: for distributions that are no
/// numbers.
pub(crate) fn allowed(mask: &[u32], token: u32) -> u32 {
    let is_set = |token: u32| {
        let word = mask.get(token as usize / 32);
        word.is_some_and(|word| word >> (token % 32) & 1 == 1)
    };
    if is_set(token) {
        return token;
    }
    let first = mask.iter().position(|word| *word != 0);
    first.map_or(token, |at| at as u32 * 32 + mask[at].trailing_zeros())
}
