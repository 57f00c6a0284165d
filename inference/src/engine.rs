//! The engine's front: open, render, submit.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use crate::backend::Cpu;
use crate::cache::{KvCache, sequence_bytes};
use crate::client::Client;
use crate::config::Fields;
use crate::constraint::{Compiler, Constraint, Course, Preamble, Shape};
use crate::conversation::Conversation;
use crate::embedding::Embedding;
use crate::error::{
    ConfigError, ConstraintError, Fault, LoadError, Name, PromptError, SubmitError,
};
use crate::folder;
use crate::model::{CONFIG, Model};
use crate::reasoning::Marks;
use crate::request::{ChatMessage, Generation, Prompt, Request};
use crate::scheduler::{Job, Machine, Message, Scheduler, Shared, Words};
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::tools::ToolFormat;

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

const MAX_TEMPERATURE: f32 = 2.0;
const MAX_STOP_COUNT: usize = 16;
pub(crate) const MAX_BIASES: usize = 1024;
const MAX_LOGPROBS: u32 = 20;
const MAX_STOP_BYTES: usize = 256;

/// Bounds on what the engine uses and accepts.
#[derive(Clone, Debug)]
pub struct EngineLimits {
    /// Prompt and answer together; at most the model's own context.
    pub context_tokens: u32,
    /// New tokens of one request.
    pub max_new_tokens: u32,
    /// Generations in progress at once.
    pub max_active: u32,
    /// Requests that may wait for a slot.
    pub max_queued: u32,
    /// Memory for the KV cache; it is taken from the system as it is used.
    pub kv_bytes: u64,
    /// Prompt tokens that one step reads, of all requests together.
    pub prefill_chunk_tokens: u32,
    /// Threads that compute; `None` takes one per processor.
    pub threads: Option<NonZeroUsize>,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            context_tokens: 1024,
            max_new_tokens: 512,
            max_active: 16,
            max_queued: 64,
            kv_bytes: 256 << 20,
            prefill_chunk_tokens: 64,
            threads: None,
        }
    }
}

/// What was loaded.
#[derive(Clone, Debug)]
pub struct EngineInfo {
    /// Number of weights.
    pub parameters: u64,
    /// Tokens in the vocabulary.
    pub vocabulary: u32,
    /// The context in force.
    pub context_tokens: u32,
    /// The most new tokens of one request.
    pub max_new_tokens: u32,
    /// Whether [`Engine::render_chat`] can work.
    pub has_chat_template: bool,
    /// Whether the model marks what it thinks, so that answers in conversations come apart from it.
    pub marks_reasoning: bool,
    /// Numbers of a vector, of an embedding model. Such a model writes no text.
    pub embedding_dimensions: Option<u32>,
}

/// The engine's state at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Generations in progress.
    pub active: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Blocks of KV cache that are not free: of 16 tokens of all layers, or, where some layers have
    /// a window, of some layers.
    pub used_blocks: u32,
    /// Those of them that are kept for requests to come; anybody who needs them gets them.
    pub kept_blocks: u32,
    /// Blocks of KV cache that are free.
    pub free_blocks: u32,
    /// How often a request was interrupted, to go on later, since the start.
    pub preempted: u64,
    /// Requests that ended or were cancelled since the start.
    pub finished: u64,
    /// Those of them that ended without a last chunk: what was computed for them is not to be
    /// served.
    pub withheld: u64,
    /// Tokens that went through the model since the start, in prompts and in answers.
    pub read_tokens: u64,
}

/// A loaded model with its scheduler thread. Share it in an `Arc`; dropping it ends all generations
/// and stops the thread.
pub struct Engine {
    info: EngineInfo,
    limits: EngineLimits,
    tokenizer: Arc<Tokenizer>,
    template: Option<ChatTemplate>,
    end_tokens: Vec<u32>,
    /// Whether what computes can hold answers to constraints.
    constrains: bool,
    /// Made when the first constraint is.
    constraints: OnceLock<Result<Compiler, ConstraintError>>,
    shared: Arc<Shared>,
    scheduler: mpsc::Sender<Message>,
    /// Clients so far.
    clients: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Loads the Hugging Face style folder `model` and starts the scheduler.
    pub fn open(model: &Path, limits: EngineLimits) -> Result<Self, LoadError> {
        Self::open_by(model, limits, |model, limits| {
            check_room(limits, model)?;
            let cache = KvCache::new(&model.decoder.spec, limits.kv_bytes);
            let backend = Box::new(Cpu::new(Arc::clone(model)));
            Ok(Machine { backend, cache })
        })
    }

    /// The same with another machine.
    pub(crate) fn open_by(
        model: &Path,
        limits: EngineLimits,
        machine: impl FnOnce(&Arc<Model>, &EngineLimits) -> Result<Machine, LoadError>,
    ) -> Result<Self, LoadError> {
        check_limits(&limits)?;
        let loaded = Arc::new(Model::open(model, limits.threads)?);
        check_context(&limits, &loaded)?;
        let machine = machine(&loaded, &limits)?;
        let constrains = machine.backend.constrains();
        let tokenizer = Arc::new(Tokenizer::read(
            &folder::read(model, TOKENIZER)?,
            loaded.vocabulary(),
        )?);
        let template = read_template(model)?;
        let end_tokens = read_end_tokens(model, &loaded)?;
        let style = template.as_ref().and_then(|template| template.style);
        let marks = style.and_then(|style| Marks::find(style, &tokenizer));
        let info = EngineInfo {
            parameters: loaded.parameters(),
            vocabulary: loaded.vocabulary(),
            context_tokens: limits.context_tokens,
            max_new_tokens: limits.max_new_tokens,
            has_chat_template: template.is_some(),
            marks_reasoning: marks.is_some(),
            embedding_dimensions: loaded.embedding_dimensions(),
        };

        let shared = Arc::new(Shared::default());
        let (sender, received) = mpsc::channel();
        let scheduler = Scheduler::new(
            loaded,
            machine,
            Words {
                tokenizer: Arc::clone(&tokenizer),
                marks,
                end_tokens: end_tokens.clone(),
            },
            limits.clone(),
            Arc::clone(&shared),
            received,
        );
        let thread = std::thread::Builder::new().name("scheduler".to_owned());
        let thread = thread
            .spawn(move || scheduler.run())
            .map_err(LoadError::Thread)?;
        Ok(Self {
            info,
            limits,
            tokenizer,
            template,
            end_tokens,
            constrains,
            constraints: OnceLock::new(),
            shared,
            scheduler: sender,
            clients: AtomicU64::new(0),
            thread: Some(thread),
        })
    }

    /// What was loaded.
    pub fn info(&self) -> &EngineInfo {
        &self.info
    }

    /// The engine's state at this moment.
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Why the engine serves no more, if it has stopped: the streams that were open end without a
    /// last chunk.
    pub fn fault(&self) -> Option<Fault> {
        self.shared.fault()
    }

    /// Renders messages with the model's chat template, ready for its next answer.
    pub fn render_chat(&self, messages: &[ChatMessage]) -> Result<Prompt, PromptError> {
        self.render(&messages.into())
    }

    /// Renders a conversation with the model's chat template, ready for its next answer.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt, PromptError> {
        let rendered = self.template()?.render(conversation)?;
        let context_tokens = self.limits.context_tokens;
        let mut prompt = self
            .tokenizer
            .encode(&rendered.text, false, context_tokens)?;
        prompt.separated = self.info.marks_reasoning.then_some(rendered.thinks);
        Ok(prompt)
    }

    /// The text that a conversation becomes, before it is tokens.
    pub fn render_text(&self, conversation: &Conversation) -> Result<String, PromptError> {
        Ok(self.template()?.render(conversation)?.text)
    }

    fn template(&self) -> Result<&ChatTemplate, PromptError> {
        self.template.as_ref().ok_or(PromptError::NoChatTemplate)
    }

    /// Encodes plain text, with the special tokens that the tokenizer puts around a text.
    pub fn encode_text(&self, text: &str) -> Result<Prompt, PromptError> {
        self.tokenizer
            .encode(text, true, self.limits.context_tokens)
    }

    /// Somebody new, for [`Request::client`].
    pub fn client(&self) -> Client {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        Client::new(number, self.scheduler.clone())
    }

    /// The format in which the model calls tools, as its chat template has it.
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.template.as_ref()?.tools
    }

    /// What the model writes before what a constraint is about.
    pub fn preamble(&self) -> Preamble {
        match self.tool_format() {
            Some(ToolFormat::Harmony) => Preamble::Channels,
            _ => Preamble::None,
        }
    }

    /// Compiles what an answer is to be, for [`Request::constraint`]. It may take a tenth of a
    /// second, and the first time some more.
    pub fn constrain(
        &self,
        shape: Shape<'_>,
        preamble: &Preamble,
    ) -> Result<Constraint, ConstraintError> {
        if !self.constrains {
            return Err(ConstraintError::Device);
        }
        let make = || Compiler::new(&self.tokenizer, self.info.vocabulary, &self.end_tokens);
        let compiler = self.constraints.get_or_init(make);
        let compiler = compiler.as_ref().map_err(Clone::clone)?;
        compiler.compile(shape, preamble, self.tool_format())
    }

    /// Queues a request.
    pub fn submit(&self, request: Request) -> Result<Generation, SubmitError> {
        if self.info.embedding_dimensions.is_some() {
            return Err(SubmitError::NoText);
        }
        self.check(&request)?;
        self.queue(request)
    }

    /// Queues a text whose vector is wanted, of an embedding model. It takes its turn as any other
    /// request.
    pub fn embed(
        &self,
        text: Prompt,
        deadline: Option<Instant>,
        client: Option<Client>,
    ) -> Result<Embedding, SubmitError> {
        if self.info.embedding_dimensions.is_none() {
            return Err(SubmitError::NoEmbedding);
        }
        let request = Request {
            max_new_tokens: 0,
            deadline,
            client,
            ..Request::new(text)
        };
        self.check_prompt(&request)?;
        self.queue(request).map(Embedding)
    }

    fn queue(&self, request: Request) -> Result<Generation, SubmitError> {
        if self.fault().is_some() {
            return Err(SubmitError::Stopped);
        }
        let limit = self.limits.max_queued;
        let more = |queued: u32| (queued < limit).then_some(queued + 1);
        self.shared
            .queued
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .map_err(|_| SubmitError::QueueFull { limit })?;
        let prompt_tokens = request.prompt.len() as u32;
        // One chunk for each token, and one that ends.
        let (sender, receiver) = tokio::sync::mpsc::channel(request.max_new_tokens as usize + 1);
        // The scheduler lives as long as this engine, or ends the process.
        let course = request.constraint.as_ref();
        let course = course.map(|one| Box::new(Course::new(one, self.info.vocabulary)));
        let job = Box::new(Job {
            request,
            sender,
            course,
        });
        self.scheduler
            .send(Message::Job(job))
            .map_err(|_| SubmitError::Stopped)?;
        Ok(Generation::new(receiver, prompt_tokens))
    }

    /// Prompt and answer fit the context.
    fn check_prompt(&self, request: &Request) -> Result<(), SubmitError> {
        let Request {
            prompt,
            max_new_tokens,
            ..
        } = request;
        let (max_new_tokens, vocabulary) = (*max_new_tokens, self.info.vocabulary);
        let context_tokens = self.limits.context_tokens;
        let prompt_tokens = u32::try_from(prompt.len()).unwrap_or(u32::MAX);
        if prompt.is_empty() {
            return Err(SubmitError::EmptyPrompt);
        }
        if prompt_tokens.saturating_add(max_new_tokens) > context_tokens {
            return Err(SubmitError::ContextLength {
                prompt_tokens,
                max_new_tokens,
                context_tokens,
            });
        }
        if prompt.tokens().iter().any(|token| *token >= vocabulary) {
            return Err(SubmitError::UnknownToken { vocabulary });
        }
        Ok(())
    }

    fn check(&self, request: &Request) -> Result<(), SubmitError> {
        self.check_prompt(request)?;
        let Request {
            prompt: _,
            sampling,
            max_new_tokens,
            stop,
            logit_bias,
            logprobs,
            ..
        } = request;
        let (asked, limit) = (*max_new_tokens, self.limits.max_new_tokens);
        let vocabulary = self.info.vocabulary;
        if asked == 0 || asked > limit {
            return Err(SubmitError::NewTokens { asked, limit });
        }
        if !(0.0..=MAX_TEMPERATURE).contains(&sampling.temperature) {
            return Err(SubmitError::Temperature);
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return Err(SubmitError::TopP);
        }
        if !(0.0..=1.0).contains(&sampling.min_p) {
            return Err(SubmitError::MinP);
        }
        let penalties = [sampling.presence_penalty, sampling.frequency_penalty];
        if !penalties
            .iter()
            .all(|penalty| (-2.0..=2.0).contains(penalty))
        {
            return Err(SubmitError::Penalty);
        }
        let sound =
            |(token, bias): &(u32, f32)| *token < vocabulary && (-100.0..=100.0).contains(bias);
        if logit_bias.len() > MAX_BIASES || !logit_bias.iter().all(sound) {
            return Err(SubmitError::LogitBias {
                max_count: MAX_BIASES,
            });
        }
        if logprobs.is_some_and(|count| count > MAX_LOGPROBS) {
            return Err(SubmitError::Logprobs {
                limit: MAX_LOGPROBS,
            });
        }
        let fits = |stop: &String| (1..=MAX_STOP_BYTES).contains(&stop.len());
        if stop.len() > MAX_STOP_COUNT || !stop.iter().all(fits) {
            let (max_count, max_bytes) = (MAX_STOP_COUNT, MAX_STOP_BYTES);
            return Err(SubmitError::Stop {
                max_count,
                max_bytes,
            });
        }
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // One that has panicked hears nothing any more.
        let _ = self.scheduler.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A scheduler that panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

fn check_limits(limits: &EngineLimits) -> Result<(), LoadError> {
    let positive = [
        ("context_tokens", limits.context_tokens),
        ("max_new_tokens", limits.max_new_tokens),
        ("max_active", limits.max_active),
        ("max_queued", limits.max_queued),
        ("prefill_chunk_tokens", limits.prefill_chunk_tokens),
    ];
    match positive.into_iter().find(|(_, value)| *value == 0) {
        Some((limit, _)) => Err(LoadError::ZeroLimit { limit }),
        None => Ok(()),
    }
}

/// One full context fits the model.
fn check_context(limits: &EngineLimits, model: &Model) -> Result<(), LoadError> {
    let (asked, model) = (limits.context_tokens, model.context_tokens());
    match asked <= model {
        true => Ok(()),
        false => Err(LoadError::ContextTokens { asked, model }),
    }
}

/// One full context fits the cache.
fn check_room(limits: &EngineLimits, model: &Model) -> Result<(), LoadError> {
    let tokens = limits.context_tokens as usize;
    let chunk = limits.prefill_chunk_tokens as usize;
    let needed = sequence_bytes(&model.decoder.spec, tokens, chunk);
    if needed > limits.kv_bytes {
        return Err(LoadError::KvBytes {
            needed,
            limit: limits.kv_bytes,
        });
    }
    Ok(())
}

/// `chat_template.jinja`, or the default one of `tokenizer_config.json`.
fn read_template(model: &Path) -> Result<Option<ChatTemplate>, LoadError> {
    let config = folder::json_optional(model, TOKENIZER_CONFIG)?.unwrap_or(Value::Null);
    let source = match folder::read_optional(model, CHAT_TEMPLATE)? {
        Some(bytes) => {
            let source = String::from_utf8(bytes);
            Some(source.map_err(|_| LoadError::ChatTemplate { line: 0 })?)
        }
        None => default_template(&config),
    };
    let tokens = special_tokens(&config);
    source
        .map(|source| ChatTemplate::compile(source, tokens))
        .transpose()
}

/// One template, or the one of a list that is called "default".
fn default_template(config: &Value) -> Option<String> {
    let template = match config.get("chat_template")? {
        Value::Array(named) => {
            let default = named
                .iter()
                .find(|entry| entry.get("name") == Some(&"default".into()));
            default?.get("template")?
        }
        template => template,
    };
    template.as_str().map(str::to_owned)
}

/// `bos_token` and its like, as text or as an object with `content`.
fn special_tokens(config: &Value) -> BTreeMap<String, String> {
    const NAMES: [&str; 7] = [
        "bos_token",
        "eos_token",
        "unk_token",
        "sep_token",
        "pad_token",
        "cls_token",
        "mask_token",
    ];
    let text = |name: &str| {
        let token = config.get(name)?;
        let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
        Some((name.to_owned(), text.to_owned()))
    };
    NAMES.into_iter().filter_map(text).collect()
}

/// The tokens that end a turn: by `generation_config.json`, else by `config.json`.
fn read_end_tokens(model: &Path, loaded: &Model) -> Result<Vec<u32>, LoadError> {
    let wrong = |file, source| LoadError::Config {
        file: Name::new(file),
        source,
    };
    let mut tokens = match folder::json_optional(model, GENERATION_CONFIG)? {
        Some(config) => Fields::new(config)
            .and_then(|mut f| f.token_ids("eos_token_id"))
            .map_err(|source| wrong(GENERATION_CONFIG, source))?,
        None => Vec::new(),
    };
    let mut file = GENERATION_CONFIG;
    if tokens.is_empty() {
        tokens = loaded.end_tokens().to_vec();
        file = CONFIG;
    }
    if tokens.iter().any(|token| *token >= loaded.vocabulary()) {
        let expected = "tokens of the vocabulary";
        let source = ConfigError::Invalid {
            field: Name::new("eos_token_id"),
            expected,
        };
        return Err(wrong(file, source));
    }
    Ok(tokens)
}
