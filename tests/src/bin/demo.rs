//! The main job, end to end: makes a site of the image and a model, boots it beside a software TPM,
//! and talks to it through the client, which sends nothing before it has verified the machine.

use std::fs::{self, File, TryLockError};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use clap::Parser;
use support::accelerator::Accelerator;
use support::failure::{Failure, Outcome, Step as _};
use support::progress::Progress;
use support::site::{self, Ingredients, Site};
use support::swtpm;
use support::tools::{Tools, repository};
use support::vm::{self, Machine, Vm};

/// Under emulation, on a busy machine; usually it takes a tenth of this.
const BOOT_PATIENCE: Duration = Duration::from_secs(300);

/// Boots an image in QEMU with a software TPM, verifies it, and asks it.
#[derive(Parser)]
#[command(
    name = "demo",
    version,
    after_help = "`make demo` builds the image first and then runs this program.\n\
                  Exit codes: 0 the machine was verified and answered, 1 anything else."
)]
struct Arguments {
    /// Folder that image/build.sh filled.
    #[arg(long, default_value_os_t = repository().join("build/image/demo"))]
    image: PathBuf,
    /// Model to serve: a folder in Hugging Face format; the README names the architectures.
    #[arg(long, default_value_os_t = repository().join("tests/demo-model/model"))]
    model: PathBuf,
    /// One question to ask. Without it: a chat at a terminal, a standard question elsewhere.
    #[arg(long, value_parser = question)]
    prompt: Option<String>,
    /// Where the site, its keys, its log and the machine's logs are kept.
    #[arg(long, default_value_os_t = repository().join("build/demo"))]
    folder: PathBuf,
    /// Port of this machine that leads to the agent; any free one if not given.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(usage) => {
            // Where nobody reads, nothing can be said.
            let _ = usage.print();
            return ExitCode::from(u8::from(usage.use_stderr()));
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn question(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("there is nothing to ask"),
        _ => Ok(text.to_owned()),
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let progress = Progress::start();
    let folder = &arguments.folder;
    // What can be refused at once is not refused after a minute.
    if let Some(port) = arguments.port {
        vm::check_port(port).step("cannot boot")?;
    }
    site::check_model(&arguments.model)?; // as the agent would in the machine
    let _lock = lock(folder)?;
    let tools = Tools::locate().step("cannot find the tools")?;
    let step = progress.step("packing the model, assembling, measuring, signing, logging");
    let site = make_site(arguments).map_err(|failure| {
        let anew = format!("to begin anew: rm -r {}", folder.display());
        Failure::new(format!("{failure}; {anew}"))
    })?;
    let step = step.then(&format!(
        "release {} is logged; provisioning a software TPM",
        site.version()
    ));
    let policy = provision(&tools, &site, folder)?;
    let accelerator = Accelerator::choose(&tools, &site.assembled().join("vmlinuz"))
        .step("cannot choose an accelerator")?;
    let step = step.then(&format!(
        "booting: OVMF, UKI, TPM, 2 vCPUs, 2 GiB, {accelerator}"
    ));
    let mut vm = boot(&tools, &site, arguments, accelerator)?;
    let ready = vm
        .wait_ready(BOOT_PATIENCE)
        .step("the machine did not come up")?;
    drop(step);
    progress.say(&format!(
        "the agent answers, {:.1} s after power-on",
        ready.as_secs_f64()
    ));
    talk(&vm, &policy, arguments)?;
    drop(vm);
    progress.say("the machine is off");
    Ok(())
}

/// Nobody else may change the folder's TPM and policy while its machine runs.
fn lock(folder: &Path) -> Outcome<File> {
    fs::create_dir_all(folder).step(format!("cannot make {}", folder.display()))?;
    let path = folder.join(".lock");
    let file = File::create(&path).step(format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::new(format!(
            "another demo runs in {}: wait until it ends, or name another folder with --folder",
            folder.display()
        ))),
        Err(TryLockError::Error(error)) => {
            Err(error).step(format!("cannot lock {}", path.display()))
        }
    }
}

fn make_site(arguments: &Arguments) -> Outcome<Site> {
    let lock = repository().join("image/deb.lock");
    let revision = release::statement::source_revision(repository(), true)
        .map_or_else(|_| "unknown".to_owned(), |revision| revision.to_string());
    Site::make(
        &arguments.folder,
        &Ingredients {
            image: &arguments.image,
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

fn boot(
    tools: &Tools,
    site: &Site,
    arguments: &Arguments,
    accelerator: Accelerator,
) -> Outcome<Vm> {
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
fn talk(vm: &Vm, policy: &Path, arguments: &Arguments) -> Outcome<()> {
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
        let prompt = arguments.prompt.as_deref().unwrap_or("What is Cloister?");
        client.arg("--").arg(prompt);
    }
    let status = client
        .status()
        .step(format!("cannot run {}", program.display()))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::new(format!(
            "the client ended with code {code}; the machine's log is {}",
            vm.serial_log().display()
        ))),
        None => Err(Failure::new("the client was stopped by a signal")),
    }
}
