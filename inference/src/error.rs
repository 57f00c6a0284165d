//! One small enum per operation, each variant with its cause.

use std::{fmt, io};

/// A name that came from a foreign file: escaped and cut when it is shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<str>);

impl Name {
    pub(crate) fn new(name: &str) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 96;
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(SHOWN) {
            match character {
                ' '..='~' => write!(f, "{character}")?,
                _ => write!(f, "{}", character.escape_unicode())?,
            }
        }
        if characters.next().is_some() {
            f.write_str("...")
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Why a model folder cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is missing.
    #[error("{file} is missing from the model folder")]
    Missing {
        /// The file's name inside the folder.
        file: Name,
    },
    /// A file cannot be read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file's name inside the folder.
        file: Name,
        /// What the operating system said.
        source: io::Error,
    },
    /// A text file is larger than any real one.
    #[error("{file} is larger than {limit} bytes")]
    TooLarge {
        /// The file's name inside the folder.
        file: Name,
        /// The limit.
        limit: u64,
    },
    /// A file is not JSON, or has a duplicate key.
    #[error("{file}: {source}")]
    Json {
        /// The file's name inside the folder.
        file: Name,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A configuration file says what this engine does not do.
    #[error("{file}: {source}")]
    Config {
        /// The file's name inside the folder.
        file: Name,
        /// The field and the reason.
        source: ConfigError,
    },
    /// A safetensors file is malformed.
    #[error("{file}: {source}")]
    Safetensors {
        /// The file's name inside the folder.
        file: Name,
        /// What is wrong.
        source: SafetensorsError,
    },
    /// The tensors are not those that the configuration asks for.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The tokenizer cannot be used.
    #[error("tokenizer.json: {0}")]
    Tokenizer(#[from] TokenizerError),
    /// The chat template does not compile.
    #[error("the chat template does not compile, line {line}")]
    ChatTemplate {
        /// The line of the template.
        line: usize,
    },
    /// The limits ask for what this model cannot do.
    #[error("the limits allow {asked} context tokens, the model has {model}")]
    ContextTokens {
        /// What the limits say.
        asked: u32,
        /// `max_position_embeddings`.
        model: u32,
    },
    /// A limit is zero.
    #[error("the limit {limit} is zero")]
    ZeroLimit {
        /// Which limit.
        limit: &'static str,
    },
    /// The KV cache cannot hold one full context.
    #[error("a full context needs {needed} bytes of KV cache, the limit is {limit}")]
    KvBytes {
        /// Bytes that one context of the allowed length takes.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
    /// This program was built without the feature `cuda`.
    #[error("this program was built without CUDA; use the CPU, or build it with --features cuda")]
    NotBuilt,
    /// A GPU cannot be used.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Device(#[from] crate::device::DeviceRefusal),
}

/// Why an engine serves no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The device has failed: an uncorrectable memory error, an Xid, an illegal access.
    #[error("the device has failed with driver error {code}")]
    Lost {
        /// The driver's number.
        code: u32,
    },
    /// The driver refused a step.
    #[error("the driver refused a step with error {code}")]
    Refused {
        /// The driver's number.
        code: u32,
    },
    /// A step took longer than any does.
    #[error("the device has not finished a step in time")]
    Hang,
    /// A step that the kernels do not take, or a thread that is gone: a fault of this program.
    #[error("the device's thread cannot go on")]
    Broken,
}

/// What is wrong with a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file is not a JSON object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A needed field is missing.
    #[error("the field {0} is missing")]
    Missing(Name),
    /// A field has a value of the wrong type or outside its bounds.
    #[error("the field {field} is not {expected}")]
    Invalid {
        /// The field, with dots for nesting.
        field: Name,
        /// What would be right.
        expected: &'static str,
    },
    /// A field asks for something that this engine does not do.
    #[error("the field {0} has a value that is not supported")]
    Unsupported(Name),
    /// A field that this engine does not know.
    #[error("the field {0} is not known")]
    Unknown(Name),
}

/// What is wrong with a safetensors file.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// Shorter than its header says.
    #[error("truncated: {needed} bytes are needed, {found} are there")]
    Truncated {
        /// Bytes that the header asks for.
        needed: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// Longer than its header says.
    #[error("{extra} bytes follow the last tensor")]
    TrailingBytes {
        /// How many.
        extra: u64,
    },
    /// The header is larger than any real one.
    #[error("a header of {found} bytes, at most {limit} are allowed")]
    HeaderTooLarge {
        /// What the file says.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The header is not JSON, or names a tensor twice.
    #[error("the header is malformed: {0}")]
    Header(#[from] serde_json::Error),
    /// An entry of the header lacks a part or has one too many.
    #[error("the header's entry for {0} is malformed")]
    Entry(Name),
    /// An element type that the format does not have.
    #[error("{0} has an unknown element type")]
    Dtype(Name),
    /// Shape, element type and byte range do not agree.
    #[error("{0}: shape and byte range do not agree")]
    Length(Name),
    /// Two tensors share bytes.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// The earlier tensor.
        first: Name,
        /// The later one.
        second: Name,
    },
    /// Bytes before a tensor belong to none.
    #[error("there is a hole before {0}")]
    Hole(Name),
}

/// Why the tensors do not make the model that the configuration describes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// No file has it.
    #[error("the tensor {0} is missing")]
    Missing(Name),
    /// Two files have it.
    #[error("the tensor {0} stands in two files")]
    Duplicate(Name),
    /// The architecture has no use for it.
    #[error("the tensor {0} has no place in this architecture")]
    Unexpected(Name),
    /// The index names another file for it.
    #[error("model.safetensors.index.json is wrong about the tensor {0}")]
    Index(Name),
    /// Neither f32, f16 nor bf16.
    #[error("the tensor {0} is not f32, f16 or bf16")]
    Dtype(Name),
    /// A part of MXFP4 weights that is not of bytes.
    #[error("the tensor {0} is not of bytes, as MXFP4 is")]
    Bytes(Name),
    /// A part of quantised weights that has another type, another number of groups, or an order of
    /// columns that is none.
    #[error("the tensor {0} is not what quantised weights have in its place")]
    Quantised(Name),
    /// Not the shape that the configuration asks for.
    #[error("the tensor {name} has shape {found:?}, the configuration asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: Name,
        /// The shape in the file.
        found: Vec<u64>,
        /// The shape that is needed.
        expected: Vec<u64>,
    },
    /// A weight is infinite or not a number.
    #[error("the tensor {0} has a weight that is not finite")]
    NotFinite(Name),
}

/// Why a tokenizer cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Not a tokenizer of the `tokenizers` library.
    #[error("not a tokenizer")]
    Malformed,
    /// It has ids that the model lacks.
    #[error("it has token {token}, the model's vocabulary has {vocabulary} tokens")]
    Vocabulary {
        /// The highest id.
        token: u32,
        /// `vocab_size`.
        vocabulary: u32,
    },
    /// It decodes in a way that cannot be streamed byte by byte here.
    #[error("its decoder, {0}, is not supported")]
    Decoder(Name),
}

/// Why messages or text do not become a prompt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// The model's folder has no chat template.
    #[error("the model has no chat template: use plain completions")]
    NoChatTemplate,
    /// The chat template called `raise_exception`; its words are for the asker's eyes only.
    #[error("the chat template refused the messages")]
    Refused(Objection),
    /// The chat template failed on these messages.
    #[error("the chat template failed on these messages, line {line}")]
    Template {
        /// The line of the template.
        line: usize,
    },
    /// A variable of the conversation has a name that the template gets from elsewhere.
    #[error("the variable {0} is not for a conversation to set")]
    Variable(Name),
    /// The chat template took too many steps or wrote too much.
    #[error("the chat template took too many steps or wrote too much")]
    TooMuchWork,
    /// More text than the context holds, however it is cut into tokens.
    #[error("the text has {found} bytes, and the context holds at most {limit}")]
    TooLong {
        /// Bytes of text.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The tokenizer failed on this text.
    #[error("the tokenizer failed on this text")]
    Tokenizer,
}

/// What a chat template objects to, in the template's words. They may quote the messages, so
/// `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Objection(pub(crate) Box<str>);

impl Objection {
    /// The words, for the one who sent the messages. They are the template's: escape them.
    pub fn words(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Objection")
    }
}

/// Why an answer cannot be constrained as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Not a JSON schema.
    #[error("not a valid JSON schema")]
    Invalid,
    /// A keyword, or a value of one, that would not hold.
    #[error("the keyword {keyword} at {place} is not supported there")]
    Unsupported {
        /// The keyword.
        keyword: Name,
        /// Where it stands, as a JSON pointer; `#` where that is not known.
        place: Name,
    },
    /// The schema is too long.
    #[error("the schema has {found} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes of the schema.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// The schema is too deeply nested.
    #[error("the schema is nested more than {limit} deep")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// Compiling the schema takes too much work or memory.
    #[error("the schema is too complex")]
    TooComplex,
    /// No answer satisfies the schema.
    #[error("nothing satisfies the schema")]
    Unsatisfiable,
    /// The model's chat template says nothing of tools, or no tool of that name is offered.
    #[error("the model's chat template takes no tools, or the tool is not offered")]
    NoTools,
    /// The model is computed on a device, which cannot hold answers to a form yet.
    #[error("answers cannot be held to a form on a GPU yet; use the CPU")]
    Device,
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread,
}

/// Why a request is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A token id is not in the vocabulary.
    #[error("a token of the prompt is not in the vocabulary of {vocabulary} tokens")]
    UnknownToken {
        /// The size of the vocabulary.
        vocabulary: u32,
    },
    /// Prompt and answer do not fit the context.
    #[error(
        "{prompt_tokens} prompt tokens and {max_new_tokens} new tokens exceed the context of \
         {context_tokens} tokens"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens asked for.
        max_new_tokens: u32,
        /// What the model and the configuration allow.
        context_tokens: u32,
    },
    /// More new tokens than allowed, or none.
    #[error("max_new_tokens is {asked}, not in 1..={limit}")]
    NewTokens {
        /// What was asked for.
        asked: u32,
        /// The configured limit.
        limit: u32,
    },
    /// The temperature is not a number in 0..=2.
    #[error("temperature is not in 0..=2")]
    Temperature,
    /// `top_p` is not a number above 0 and up to 1.
    #[error("top_p is not above 0 and at most 1")]
    TopP,
    /// `min_p` is not a number in 0..=1.
    #[error("min_p is not in 0..=1")]
    MinP,
    /// A penalty is not a number in -2..=2.
    #[error("a penalty is not in -2..=2")]
    Penalty,
    /// A bias is not a number in -100..=100, its token is unknown, or there are too many.
    #[error("at most {max_count} biases from -100 to 100, of tokens of the vocabulary")]
    LogitBias {
        /// The most biases.
        max_count: usize,
    },
    /// The probabilities of more tokens than that are not given.
    #[error("at most {limit} likeliest tokens")]
    Logprobs {
        /// The limit.
        limit: u32,
    },
    /// A stop string is empty, too long, or there are too many.
    #[error("at most {max_count} stop strings of 1 to {max_bytes} bytes")]
    Stop {
        /// The most stop strings.
        max_count: usize,
        /// The longest stop string.
        max_bytes: usize,
    },
    /// An embedding model writes no text.
    #[error("this is an embedding model: it writes no text")]
    NoText,
    /// Only embedding models make embeddings.
    #[error("this is no embedding model: it makes no embeddings")]
    NoEmbedding,
    /// As many requests wait as may wait.
    #[error("{limit} requests are waiting already: try again later")]
    QueueFull {
        /// The configured bound.
        limit: u32,
    },
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Stopped,
}
