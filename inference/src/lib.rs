//! The engine: schedule, forward, sample, emit.
//!
//! [`Engine::open`] loads a Hugging Face style folder and starts one scheduler thread.
//! [`Engine::submit`] hands it a request and returns a [`Generation`], a stream of text; dropping
//! the stream cancels the request and frees its slot and its KV cache. A request may name its
//! [`Client`]: then what it leaves in the cache speeds up the same client's next one.
//!
//! The engine knows no keys, no sessions and no HTTP. It is bitwise deterministic and
//! batch-invariant: a request gives the same bits alone, in any batch, at any chunking and with
//! any number of threads. No type that holds content shows it in `Debug`.

mod backend;
mod batch;
mod cache;
mod client;
mod config;
mod constraint;
mod conversation;
mod cpu;
mod decoder;
#[cfg(feature = "cuda")]
mod device;
mod embedding;
mod engine;
mod error;
mod family;
mod folder;
#[doc(hidden)]
pub mod fuzzing;
mod json;
mod map;
mod mlp;
mod model;
mod placement;
mod quantisation;
mod quantise;
mod reasoning;
mod request;
mod rope;
mod safetensors;
mod sample;
mod scheduler;
mod spec;
mod template;
mod text;
mod tokenizer;
mod tools;
mod weights;

pub use batch::Batch;
pub use client::Client;
pub use constraint::{Constraint, Preamble, Shape};
pub use conversation::{Conversation, Day, Turn};
#[cfg(feature = "cuda")]
pub use device::{DeviceOptions, DeviceRefusal, Patience};
pub use embedding::{Embedding, normalise};
pub use engine::{Engine, EngineInfo, EngineLimits, EngineStats};
pub use error::{
    ConfigError, ConstraintError, Fault, LoadError, Name, Objection, PromptError, SafetensorsError,
    SubmitError, TensorError, TokenizerError,
};
pub use json::Json;
pub use model::{Model, Session};
pub use placement::{Chosen, CudaOptions, DeviceChoice, DeviceChoiceError};
pub use quantise::{Bits, QuantiseError, Quantised, quantise};
pub use request::{
    ChatMessage, Chunk, Finish, Generation, Prompt, Request, Role, Sampling, TokenChoice,
    TokenLogprob, Usage,
};
pub use tools::{Choice, Offer, Tool, ToolEvent, ToolFormat, ToolReader};
