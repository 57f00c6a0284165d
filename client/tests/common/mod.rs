//! A server in this process with real evidence and canned answers, and the program that meets it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::convert::Infallible;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use attest::{Binding, Evidence};
use carrier::{Clock, Duplex};
use channel::{Entropy, Responder, StaticKey};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use signer::World;
use tokio::net::TcpListener;

type Body = BoxBody<Bytes, Infallible>;
type MakeEvidence = dyn Fn(&World, &Binding) -> Evidence + Send + Sync;
/// What is answered to the n-th request for fresh evidence, from 1, by handshake and nonce.
type Refresh = dyn Fn(&World, &Binding, [u8; 32], usize) -> Fresh + Send + Sync;

/// An answer to a request for fresh evidence.
pub(crate) enum Fresh {
    Evidence(Box<Evidence>),
    Status(u16),
}

/// Evidence within the session, as an agent makes it.
pub(crate) fn fresh(world: &World, handshake: &Binding, nonce: [u8; 32]) -> Fresh {
    Fresh::Evidence(Box::new(world.evidence(&handshake.session(nonce))))
}

/// How the server behaves.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) world: World,
    pub(crate) evidence: Arc<MakeEvidence>,
    pub(crate) refresh: Arc<Refresh>,
    pub(crate) answer: Answer,
    /// Refuse every handshake.
    pub(crate) closed: bool,
}

#[derive(Clone)]
pub(crate) enum Answer {
    /// Each one piece of text, then `stop`.
    Pieces(Vec<String>),
    /// Then the given reason to end.
    Ending(Vec<String>, &'static str),
    /// Says back how many messages it saw, and what stood in the request besides.
    Echo,
    /// A status and a body.
    Refusal(u16, &'static str),
    /// Raw bytes of an event stream.
    Raw(&'static str),
    /// One piece, then the connection is gone.
    Cut,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            world: World::new(),
            evidence: Arc::new(World::evidence),
            refresh: Arc::new(|world, handshake, nonce, _| fresh(world, handshake, nonce)),
            answer: Answer::Pieces(vec!["Hello, ".to_owned(), "world.".to_owned()]),
            closed: false,
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Bodies of the requests that came through the channel.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
    /// How often fresh evidence was asked for.
    pub(crate) refreshed: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, refreshed) = (Arc::default(), Arc::default());
        let seen = Seen {
            requests: Arc::clone(&requests),
            refreshed: Arc::clone(&refreshed),
        };
        runtime.spawn(listen(listener, behaviour, seen));
        Self {
            address,
            requests,
            refreshed,
            _runtime: runtime,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

#[derive(Clone)]
struct Seen {
    requests: Arc<Mutex<Vec<String>>>,
    refreshed: Arc<AtomicUsize>,
}

async fn listen(listener: TcpListener, behaviour: Behaviour, seen: Seen) {
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (behaviour, seen) = (behaviour.clone(), seen.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (behaviour, seen) = (behaviour.clone(), seen.clone());
            async move {
                let Ok(response) = carrier::upgrade(&request) else {
                    return Ok::<_, Infallible>(plain(404, "nothing here"));
                };
                tokio::spawn(async move {
                    let upgraded = hyper::upgrade::on(&mut request).await.unwrap();
                    meet(TokioIo::new(upgraded), behaviour, seen).await;
                });
                Ok(response.map(|()| Full::default().boxed()))
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
        tokio::spawn(connection.with_upgrades());
    }
}

async fn meet<S>(stream: S, behaviour: Behaviour, seen: Seen)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let Ok(greeting) = carrier::accept(stream).await else {
        return;
    };
    if behaviour.closed {
        return greeting.refuse().await;
    }
    let now = Clock::start().now();
    let mut key = StaticKey::generate(Entropy::from_os().unwrap(), now).unwrap();
    let entropy = Entropy::from_os().unwrap();
    let responder = Responder::read_message1(&mut key, greeting.message_1(), entropy, now).unwrap();
    let configuration = attest::Digest::sha256(&behaviour.world.configuration).0;
    let binding = responder.binding(configuration, attest::evidence::gpu_digest());
    let evidence = (behaviour.evidence)(&behaviour.world, &binding).encode();
    if let Ok(duplex) = greeting.open(responder, &evidence).await {
        serve(duplex, behaviour, binding, seen).await;
    }
}

async fn serve(duplex: Duplex, behaviour: Behaviour, handshake: Binding, seen: Seen) {
    let cadence = duplex.cadence();
    let gone = Arc::new(tokio::sync::Notify::new());
    let cut = Arc::clone(&gone);
    let service = service_fn(move |request: Request<Incoming>| {
        let (behaviour, seen, cut) = (behaviour.clone(), seen.clone(), Arc::clone(&cut));
        let hold = cadence.hold();
        async move {
            let uri = request.uri().clone();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let body = String::from_utf8(body.to_vec()).unwrap();
            let response = if uri.path() == "/.well-known/cloister/evidence" {
                let time = seen.refreshed.fetch_add(1, Ordering::SeqCst) + 1;
                let mut nonce = [0; 32];
                let digits = uri.query().unwrap().strip_prefix("nonce=").unwrap();
                hex::decode_to_slice(digits, &mut nonce).unwrap();
                let refresh = Arc::clone(&behaviour.refresh);
                // A test may take its time there.
                let made = tokio::task::spawn_blocking(move || {
                    refresh(&behaviour.world, &handshake, nonce, time)
                });
                match made.await.unwrap() {
                    Fresh::Evidence(evidence) => {
                        Response::new(Full::new(Bytes::from(evidence.encode())).boxed())
                    }
                    Fresh::Status(status) => plain(status, ""),
                }
            } else {
                assert_eq!(uri.path(), "/v1/chat/completions");
                seen.requests.lock().unwrap().push(body.clone());
                respond(behaviour.answer, &body, cut)
            };
            Ok::<_, Infallible>(response.map(|body| {
                // The hold lasts as long as the body.
                body.map_frame(move |frame| {
                    let _ = &hold;
                    frame
                })
                .boxed()
            }))
        }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(duplex), service);
    tokio::select! {
        // The client may go away as it likes.
        outcome = connection => drop(outcome),
        () = gone.notified() => {}
    }
}

fn respond(answer: Answer, request: &str, cut: Arc<tokio::sync::Notify>) -> Response<Body> {
    match answer {
        Answer::Pieces(pieces) => events(&pieces, "stop"),
        Answer::Ending(pieces, reason) => events(&pieces, reason),
        Answer::Echo => {
            let request: serde_json::Value = serde_json::from_str(request).unwrap();
            let messages = request["messages"].as_array().unwrap();
            let roles: Vec<&str> = messages.iter().filter_map(|m| m["role"].as_str()).collect();
            let text = format!(
                "{} max_tokens={} temperature={} seed={}",
                roles.join(","),
                request["max_tokens"],
                request["temperature"],
                request["seed"]
            );
            events(&[text], "stop")
        }
        Answer::Refusal(status, body) => plain(status, body),
        Answer::Raw(text) => plain(200, text),
        Answer::Cut => {
            let piece = Frame::data(Bytes::from(chunk("Half an ans", None)));
            let pieces = stream::unfold(Some(piece), move |piece| {
                let cut = Arc::clone(&cut);
                async move {
                    match piece {
                        Some(piece) => Some((Ok(piece), None)),
                        None => {
                            tokio::time::sleep(Duration::from_millis(300)).await;
                            cut.notify_one();
                            std::future::pending().await
                        }
                    }
                }
            });
            Response::new(StreamBody::new(pieces).boxed())
        }
    }
}

fn plain(status: u16, body: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn events(pieces: &[String], reason: &str) -> Response<Body> {
    let mut frames: Vec<String> = pieces.iter().map(|piece| chunk(piece, None)).collect();
    frames.push(chunk("", Some(reason)));
    frames.push("data: [DONE]\n\n".to_owned());
    let frames = frames
        .into_iter()
        .map(|text| Ok(Frame::data(Bytes::from(text))));
    Response::new(StreamBody::new(stream::iter(frames)).boxed())
}

fn chunk(content: &str, finish: Option<&str>) -> String {
    let value = serde_json::json!({
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}],
    });
    format!("data: {value}\n\n")
}

/// What a run of the program left.
pub(crate) struct Outcome {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A person with a policy and a state folder.
pub(crate) struct Person {
    pub(crate) folder: tempfile::TempDir,
}

impl Person {
    pub(crate) fn new() -> Self {
        let person = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        person.write("policy.toml", World::new().policy_toml());
        person
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// Runs the program in the person's folder with a clean environment.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cloister"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The program may end without reading.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        Outcome {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
