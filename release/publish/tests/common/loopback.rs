//! Servers on loopback that nobody should believe, and real ones of this house.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// What a server does with one request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Status, more header lines, body.
    Say(u16, &'static str, Vec<u8>),
    /// A body without end, as fast as it is taken.
    Endless,
    /// A body without end, a byte at a time.
    Dripping,
    /// Silence for longer than anyone waits.
    Silent,
    /// Closes at once.
    Dead,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Say(200, "", body.into())
    }

    pub fn status(status: u16) -> Self {
        Self::Say(status, "", Vec::new())
    }
}

/// A request: its first line, and its body.
pub type Request = (String, Vec<u8>);

/// A server that answers by a function of how often it was asked, and what.
pub struct Server {
    pub url: String,
    asked: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(reply: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, reply) = (Arc::clone(&asked), Arc::new(reply));
        // Ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let request = request(&stream);
                    let mut all = seen.lock().unwrap();
                    let count = all.len();
                    all.push(request.clone());
                    drop(all);
                    answer(&mut stream, reply(count, &request));
                });
            }
        });
        Self { url, asked }
    }

    /// Always the same.
    pub fn saying(reply: Reply) -> Self {
        Self::start(move |_, _| reply.clone())
    }

    pub fn asked(&self) -> Vec<Request> {
        self.asked.lock().unwrap().clone()
    }
}

fn request(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    // Who breaks off asked nothing.
    let _ = reader.read_line(&mut first);
    loop {
        let mut line = String::new();
        let read = reader.read_line(&mut line).unwrap_or(0);
        let line = line.trim_end().to_ascii_lowercase();
        if read == 0 || line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    (first.trim_end().to_owned(), body)
}

fn answer(stream: &mut TcpStream, reply: Reply) {
    match reply {
        Reply::Dead => {}
        Reply::Silent => thread::sleep(Duration::from_secs(5)),
        Reply::Say(status, more, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} x\r\n{more}content-length: {length}\r\nconnection: close\r\n\r\n"
            );
            // The other side may have gone.
            let _ = stream.write_all(head.as_bytes());
            let _ = stream.write_all(&body);
        }
        Reply::Endless | Reply::Dripping => {
            let _ = stream.write_all(b"HTTP/1.1 200 x\r\nconnection: close\r\n\r\n");
            let slow = matches!(reply, Reply::Dripping);
            let part = if slow { &b"\n"[..] } else { &[b'\n'; 4096] };
            while stream.write_all(part).is_ok() {
                if slow {
                    thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}

/// A server of this house, until the test's process ends: `run` calls back with its address.
pub fn serve<E, R>(run: R) -> String
where
    E: Send + 'static,
    R: FnOnce(SocketAddr, Box<dyn FnOnce(SocketAddr) + Send>) -> Result<(), E> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let any = "127.0.0.1:0".parse().unwrap();
        run(any, Box::new(move |address| sender.send(address).unwrap()))
    });
    format!("http://{}", receiver.recv().unwrap())
}

/// A log's folder, as `log serve` does it.
pub fn serve_log(folder: &Path) -> String {
    let folder = folder.to_owned();
    serve(move |any, ready| release::log::serve::run(&folder, any, ready))
}

pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(future)
}
