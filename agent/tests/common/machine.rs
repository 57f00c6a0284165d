//! The real agent on this machine: its own emulated TPM, certified by a run-time authority, with
//! the registers and the event log of an imagined boot.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::time::{Duration, Instant};

use agent::evidence::tpm::AK_CERTIFICATE_INDEX;
use serde_json::Value;
use sha2::{Digest, Sha384};
use signer::{World, boot};

use super::{Swtpm, nv, pcr_extend};

/// The id of the served model.
pub(crate) const MODEL: &str = "cloister-test";
/// Bytes that a request's body may have.
pub(crate) const MAX_BODY_BYTES: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
const NO_ACTION: u32 = 3;

/// A running agent, stopped when dropped.
pub(crate) struct Machine {
    pub(crate) address: SocketAddr,
    pub(crate) world: World,
    pub(crate) swtpm: Swtpm,
    folder: tempfile::TempDir,
    metrics_interval: u32,
    process: Option<Child>,
}

/// What a test wants otherwise.
pub(crate) struct Setup {
    /// Prompt and answer together.
    pub(crate) context_tokens: u32,
    pub(crate) max_sessions: u32,
    /// Whether the TPM holds a certificate.
    pub(crate) provisioned: bool,
    /// Milliseconds between two snapshots of the metrics.
    pub(crate) metrics_interval: u32,
    /// Whether the model has a token that ends its answers.
    pub(crate) ends: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            context_tokens: 256,
            max_sessions: 8,
            provisioned: true,
            metrics_interval: 10,
            ends: true,
        }
    }
}

impl Machine {
    /// Starts an agent and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_with(Setup::default())
    }

    pub(crate) fn start_with(setup: Setup) -> Self {
        let mut machine = Self::prepare(setup);
        machine.run();
        machine
    }

    pub(crate) fn run(&mut self) {
        self.process = Some(self.spawn());
        self.await_port();
    }

    /// Everything but the agent.
    pub(crate) fn prepare(setup: Setup) -> Self {
        let swtpm = Swtpm::start();
        let folder = tempfile::tempdir().unwrap();
        let address = free_address();
        let mut world = World::with_configuration(configuration(&setup, address.port()).as_bytes());
        // An emulator starts at locality 0 only.
        world.events.retain(|event| event.kind != NO_ACTION);
        boot_and_certify(&swtpm, &world, setup.provisioned);
        let at = |name: &str| folder.path().join(name);
        fs::write(at("config.toml"), &world.configuration).unwrap();
        fs::write(at("event-log"), boot::encode(&world.events)).unwrap();
        fs::write(at("release.json"), world.bundle()).unwrap();
        copy_model(&at("model"), &setup);
        Self {
            address,
            world,
            swtpm,
            folder,
            metrics_interval: setup.metrics_interval,
            process: None,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The agent's command line, with nothing started.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-agent"));
        command.arg("serve").args(["--listen", "127.0.0.1"]);
        command.arg("--config").arg(self.path("config.toml"));
        command.arg("--model").arg(self.path("model"));
        command.arg("--event-log").arg(self.path("event-log"));
        command.arg("--release").arg(self.path("release.json"));
        command.arg("--tpm").arg(self.swtpm.socket());
        let interval = self.metrics_interval.to_string();
        command.args(["--metrics-interval", &interval]);
        command.stdin(Stdio::null());
        command
    }

    fn spawn(&self) -> Child {
        let output = File::create(self.path("output")).unwrap();
        let mut command = self.command();
        command
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap()
    }

    fn await_port(&mut self) {
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.address).is_err() {
            let status = self.process.as_mut().unwrap().try_wait().unwrap();
            assert!(status.is_none(), "the agent ended: {}", self.output());
            assert!(
                Instant::now() < end,
                "the agent does not serve: {}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Everything that the agent wrote so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(self.path("output")).unwrap_or_default()
    }

    /// Waits until the agent has written this.
    pub(crate) async fn says(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.output().contains(text) {
            assert!(Instant::now() < end, "{text}: {}", self.output());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Has the agent stop as the service manager would.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().unwrap();
        let id = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        process.wait().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the agent said:\n{}", self.output());
        }
        if let Some(process) = &mut self.process {
            if let Ok(Some(status)) = process.try_wait() {
                eprintln!("the agent ended before its time: {status}");
            }
            drop(process.kill());
            drop(process.wait());
        }
    }
}

/// A port that nobody has. It is none of those from which connections go out: one of those might
/// take it before the agent does.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() * 64) as u16;
    loop {
        let number = offset.wrapping_add(NEXT.fetch_add(1, Relaxed));
        let address = (Ipv4Addr::LOCALHOST, 10_000 + number % 20_000).into();
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// Extends the registers as the imagined firmware would, and stores the key's certificate.
fn boot_and_certify(swtpm: &Swtpm, world: &World, provisioned: bool) {
    let mut tpm = swtpm.connect();
    for event in &world.events {
        let digest = Sha384::digest(&event.measured).into();
        pcr_extend(&mut tpm, event.register as u8, &digest);
    }
    let key = tpm.create_attestation_key().unwrap();
    let template = world
        .authority
        .attestation_key(&nv::point(&key.public).unwrap());
    if provisioned {
        let certificate = world.authority.issue(&template);
        nv::store(&mut tpm, AK_CERTIFICATE_INDEX, &certificate).unwrap();
    }
    tpm.flush(key.handle).unwrap();
}

fn configuration(setup: &Setup, port: u16) -> String {
    let volume = format!("verity1:{}:{}:256", "ab".repeat(32), "cd".repeat(32));
    let Setup {
        context_tokens,
        max_sessions,
        ..
    } = setup;
    format!(
        "version = 1\n[model]\nname = \"{MODEL}\"\nvolume = \"{volume}\"\n[limits]\n\
         context_tokens = {context_tokens}\nmax_sessions = {max_sessions}\n\
         max_body_bytes = {MAX_BODY_BYTES}\nmax_new_tokens = {context_tokens}\n\
         [server]\nport = {port}\n"
    )
}

/// The fixture model, with as long a context as asked for.
fn copy_model(to: &Path, setup: &Setup) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/f16-linear");
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    let path = to.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = setup.context_tokens.into();
    if !setup.ends {
        config["eos_token_id"] = Value::Null;
        fs::remove_file(to.join("generation_config.json")).unwrap();
    }
    fs::write(&path, config.to_string()).unwrap();
}
