//! HTTP inside the channel: OpenAI's API over one model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as HttpBody;
use hyper::header::{ALLOW, RETRY_AFTER};
use hyper::http::HeaderValue;
use hyper::{Method, StatusCode};
use inference::{Client, Day, Engine, Generation, Prompt, Sampling};
use tokio::sync::Semaphore;

use crate::http::{Response, json};
use crate::metrics::Metrics;
use answer::{Answer, Head};
use error::ApiError;
use request::{Input, Options, Request};
use responses::Echo;

mod answer;
mod embeddings;
mod error;
mod fields;
pub(crate) mod fuzzing;
mod logprobs;
mod reasoning;
mod request;
mod responses;
mod tools;

pub(crate) use answer::unix_time;

/// A request's body must be there by then.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);
/// No answer takes longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The one model, and what may be asked of it.
pub(crate) struct Api {
    pub(crate) engine: Arc<Engine>,
    pub(crate) metrics: Arc<Metrics>,
    /// Prompts that are made into tokens at once.
    pub(crate) tokenising: Arc<Semaphore>,
    /// Answers in progress at once.
    pub(crate) slots: u32,
    /// The model's id.
    pub(crate) model: String,
    /// Names what gives the answers: the start of the configuration's digest.
    pub(crate) fingerprint: String,
    /// Unix time at which the model was opened.
    pub(crate) opened: u64,
    pub(crate) max_body_bytes: u64,
    pub(crate) max_new_tokens: u32,
}

impl Api {
    /// Answers one request of a session, which `client` stands for; a refusal is an answer, too.
    pub(crate) async fn respond<B>(
        self: Arc<Self>,
        request: hyper::Request<B>,
        client: Client,
    ) -> Response
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let metrics = self.metrics.clone();
        let response = match self.route(request, client).await {
            Ok(response) => response,
            Err(error) => refuse(&error),
        };
        metrics.response(response.status());
        response
    }

    async fn route<B>(
        self: Arc<Self>,
        request: hyper::Request<B>,
        client: Client,
    ) -> Result<Response, ApiError>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let method = |allowed: Method, name| {
            let fits = head.method == allowed;
            if fits {
                Ok(())
            } else {
                Err(ApiError::Method { allowed: name })
            }
        };
        match head.uri.path() {
            "/v1/chat/completions" => {
                method(Method::POST, "POST")?;
                let request = Request::chat(&self.read(body).await?)?;
                self.complete(request, client).await
            }
            "/v1/completions" => {
                method(Method::POST, "POST")?;
                let request = Request::completion(&self.read(body).await?)?;
                self.complete(request, client).await
            }
            "/v1/embeddings" => {
                method(Method::POST, "POST")?;
                let request = embeddings::Request::parse(&self.read(body).await?)?;
                self.embed(request, client).await
            }
            "/v1/responses" => {
                method(Method::POST, "POST")?;
                let (request, echo) = responses::parse(&self.read(body).await?)?;
                self.respond_once(request, echo, client).await
            }
            "/v1/models" => {
                method(Method::GET, "GET")?;
                Ok(json(
                    StatusCode::OK,
                    &answer::model_list(&self.model, self.opened),
                ))
            }
            path => {
                let name = path.strip_prefix("/v1/models/").ok_or(ApiError::Path)?;
                method(Method::GET, "GET")?;
                self.expect_model(name)?;
                Ok(json(
                    StatusCode::OK,
                    &answer::model_card(&self.model, self.opened),
                ))
            }
        }
    }

    /// The whole body, within its limits of size and time.
    async fn read<B>(&self, body: B) -> Result<Bytes, ApiError>
    where
        B: HttpBody<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = self.max_body_bytes;
        if body.size_hint().lower() > limit {
            return Err(ApiError::BodyTooLarge { limit });
        }
        let bytes = usize::try_from(limit).unwrap_or(usize::MAX);
        let body = Box::pin(Limited::new(body, bytes).collect());
        match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                Err(ApiError::BodyTooLarge { limit })
            }
            Ok(Err(_)) | Err(_) => Err(ApiError::BodyIncomplete),
        }
    }

    /// Has the engine answer.
    async fn complete(
        self: Arc<Self>,
        request: Request,
        client: Client,
    ) -> Result<Response, ApiError> {
        let is_chat = matches!(request.input, Input::Chat(_));
        let Options {
            stream,
            include_usage,
            ..
        } = request.options;
        let logprobs = request.options.logprobs.is_some();
        let answers = self.begin(request, client).await?;
        let head = Head::new(&self, is_chat, logprobs)?;
        if stream {
            Ok(answer::stream(answers, head, include_usage))
        } else {
            answer::whole(answers, head).await
        }
    }

    /// The same, as a response.
    async fn respond_once(
        self: Arc<Self>,
        request: Request,
        echo: Echo,
        client: Client,
    ) -> Result<Response, ApiError> {
        let stream = request.options.stream;
        let mut answers = self.begin(request, client).await?;
        let answer = answers.pop().ok_or(ApiError::Stopped)?;
        if stream {
            Ok(responses::events::stream(answer, echo))
        } else {
            responses::whole(answer, echo).await
        }
    }

    /// Hands a request to the engine.
    async fn begin(
        self: &Arc<Self>,
        request: Request,
        client: Client,
    ) -> Result<Vec<Answer>, ApiError> {
        self.expect_model(&request.model)?;
        let Request { input, options, .. } = request;
        let form = options.form.clone();
        let api = self.clone();
        // The template and the tokenizer take their time and much memory over a long prompt.
        let turn = self.tokenising.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::Stopped)?;
        let submitted = tokio::task::spawn_blocking(move || {
            let submitted = api.submit(input, options, client);
            drop(turn);
            submitted
        });
        let generations = submitted.await.map_err(|_| ApiError::Stopped)??;
        let answers = generations.into_iter();
        let answers = answers.map(|generation| {
            let calls = form.calls(&self.engine);
            Answer::new(generation, calls, self.metrics.clone())
        });
        Ok(answers.collect())
    }

    fn submit(
        &self,
        input: Input,
        options: Options,
        client: Client,
    ) -> Result<Vec<Generation>, ApiError> {
        let parameter = input.parameter();
        let constraint = options.form.constrain(&self.engine)?;
        let marks = options.form.calls(&self.engine).is_some();
        let prompt = match input {
            Input::Chat(mut conversation) | Input::Items(mut conversation) => {
                let today = || Day::of_unix_time(unix_time());
                conversation.today = conversation.today.or_else(today);
                self.engine.render(&conversation)
            }
            Input::Text(text) => self.engine.encode_text(&text),
            Input::Tokens(tokens) => Ok(Prompt::from_tokens(tokens)),
        };
        let prompt = prompt.map_err(|error| ApiError::from_prompt(&error, parameter))?;
        let max_new_tokens = self.new_tokens(&prompt, options.max_tokens, parameter)?;
        let seed = options
            .seed
            .map_or_else(getrandom::u64, Ok)
            .map_err(|_| ApiError::Entropy)?;
        let sampling = Sampling {
            temperature: options.temperature,
            top_p: options.top_p,
            top_k: options.top_k,
            min_p: options.min_p,
            presence_penalty: options.presence_penalty,
            frequency_penalty: options.frequency_penalty,
            seed,
        };
        let request = inference::Request {
            sampling,
            logit_bias: options.logit_bias,
            logprobs: options.logprobs,
            max_new_tokens,
            stop: options.stop.0,
            deadline: Some(Instant::now() + ANSWER_TIMEOUT),
            constraint,
            marks,
            client: Some(client),
            ..inference::Request::new(prompt)
        };
        let generations = (0..options.count).map(|number| {
            // Each answer has a seed of its own that follows from the first's.
            let mut request = request.clone();
            request.sampling.seed = seed.wrapping_add(number.into());
            self.engine.submit(request)
        });
        generations
            .collect::<Result<_, _>>()
            .map_err(|error| ApiError::from_submit(&error, parameter))
    }

    /// How long the answer may be: as long as asked for or, where nothing is asked, as fits.
    fn new_tokens(
        &self,
        prompt: &Prompt,
        asked: Option<u32>,
        parameter: &'static str,
    ) -> Result<u32, ApiError> {
        let context = self.engine.info().context_tokens;
        let length = prompt.len() as u64;
        let room = u64::from(context).saturating_sub(length);
        if room == 0 || u64::from(asked.unwrap_or(0)) > room {
            let completion = asked.unwrap_or(1);
            return Err(ApiError::ContextLength {
                parameter,
                prompt: length,
                completion,
                context,
            });
        }
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        Ok(asked.unwrap_or(self.max_new_tokens.min(room)))
    }

    fn expect_model(&self, name: &str) -> Result<(), ApiError> {
        if name == self.model {
            Ok(())
        } else {
            Err(ApiError::UnknownModel(fields::echo(name)))
        }
    }
}

fn refuse(error: &ApiError) -> Response {
    let mut response = json(error.status(), &error.body());
    match error {
        ApiError::Method { allowed } => {
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static(allowed));
        }
        ApiError::QueueFull => {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

#[cfg(test)]
mod tests;
