//! The main job, end to end: makes a site of the image and a model, boots it beside a software TPM,
//! and talks to it through the client, which sends nothing before it has verified the machine.

use std::fs;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use support::accelerator::Accelerator;
use support::failure::{Failure, Outcome, Step as _};
use support::site::{Ingredients, Site};
use support::swtpm;
use support::tools::{Tools, repository};
use support::vm::{Machine, Vm};

/// Under emulation, on a busy machine; usually it takes a quarter of this.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

/// Boots an image in QEMU with a software TPM, verifies it, and asks it.
#[derive(Parser)]
#[command(
    version,
    after_help = "`make demo` builds the image first and then runs this program."
)]
struct Arguments {
    /// Folder that image/build.sh filled.
    #[arg(long, default_value = "build/image/demo")]
    image: PathBuf,
    /// Model to serve: a folder in Hugging Face format, Llama architecture.
    #[arg(long, default_value = "tests/demo-model/model")]
    model: PathBuf,
    /// One question to ask. Without it: a chat at a terminal, a standard question elsewhere.
    #[arg(long)]
    prompt: Option<String>,
    /// Where the site, its keys, its log and the machine's logs are kept.
    #[arg(long, default_value = "build/demo")]
    folder: PathBuf,
    /// Port of this machine that leads to the agent; any free one if not given.
    #[arg(long)]
    port: Option<u16>,
}

/// Says what happens, and how long it has taken so far.
struct Progress(Instant);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("demo: {failure}");
            eprintln!(
                "demo: logs are in {}",
                arguments.folder.join("machine").display()
            );
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<ExitCode> {
    let progress = Progress(Instant::now());
    let folder = &arguments.folder;
    let tools = Tools::locate().step("cannot find the tools")?;
    progress.say("packing the model, assembling, measuring, signing, logging");
    let site = make_site(arguments)?;
    progress.say(&format!(
        "release {} is logged; provisioning a software TPM",
        site.version()
    ));
    let policy = provision(&tools, &site, folder)?;
    let mut vm = boot(&tools, &site, arguments, &progress)?;
    let ready = vm
        .wait_ready(BOOT_PATIENCE)
        .step("the machine did not come up")?;
    progress.say(&format!(
        "the agent answers, {:.1} s after power-on",
        ready.as_secs_f64()
    ));
    let code = talk(&vm, &policy, arguments)?;
    drop(vm);
    progress.say("the machine is off");
    Ok(code)
}

fn make_site(arguments: &Arguments) -> Outcome<Site> {
    let lock = repository().join("image/deb.lock");
    let revision = release::statement::source_revision(repository(), true)
        .map_or_else(|_| "unknown".to_owned(), |revision| revision.to_string());
    Site::make(
        &arguments.folder,
        &Ingredients {
            image: &arguments.image,
            profile: "demo",
            model: &arguments.model,
            lock: &lock,
            source_revision: &revision,
        },
    )
}

/// A new TPM whose attestation key a new authority certifies, and the policy that trusts it.
fn provision(tools: &Tools, site: &Site, folder: &Path) -> Outcome<PathBuf> {
    let authority = swtpm::new_authority("Cloister demo provisioning").step("no randomness")?;
    swtpm::provision(tools, &folder.join("tpm"), &authority).step("cannot provision the TPM")?;
    let policy = folder.join("policy.toml");
    fs::write(&policy, site.policy(&authority.pem())).step("cannot write the policy")?;
    Ok(policy)
}

fn boot(tools: &Tools, site: &Site, arguments: &Arguments, progress: &Progress) -> Outcome<Vm> {
    let kernel = site.assembled().join("vmlinuz");
    let accelerator = Accelerator::choose(tools, &kernel).step("cannot choose an accelerator")?;
    progress.say(&format!(
        "booting: OVMF, UKI, TPM, 2 vCPUs, 2 GiB, {accelerator}"
    ));
    let mut machine = Machine::firmware(accelerator)
        .disk(&site.disk())
        .disk(&site.model_disk())
        .tpm(&arguments.folder.join("tpm"));
    if let Some(port) = arguments.port {
        machine = machine.port(port);
    }
    machine
        .start(tools, &arguments.folder.join("machine"))
        .step("cannot boot")
}

/// The client does the rest; what it says goes to the terminal as it is.
fn talk(vm: &Vm, policy: &Path, arguments: &Arguments) -> Outcome<ExitCode> {
    let program = std::env::current_exe()
        .step("cannot find the programs")?
        .with_file_name("cloister");
    let url = format!("http://{}", vm.address());
    let chat = arguments.prompt.is_none() && std::io::stdin().is_terminal();
    let mut client = Command::new(&program);
    client.arg(if chat { "chat" } else { "ask" });
    client
        .arg("--policy")
        .arg(policy)
        .arg("--state")
        .arg(arguments.folder.join("client"));
    client.arg(&url);
    if !chat {
        client.arg(arguments.prompt.as_deref().unwrap_or("What is Cloister?"));
    }
    let status = client
        .status()
        .step(format!("cannot run {}", program.display()))?;
    match status.code() {
        Some(0) => Ok(ExitCode::SUCCESS),
        Some(code) => Err(Failure::new(format!("the client ended with code {code}"))),
        None => Err(Failure::new("the client was stopped by a signal")),
    }
}

impl Progress {
    fn say(&self, what: &str) {
        eprintln!("[{:6.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}
