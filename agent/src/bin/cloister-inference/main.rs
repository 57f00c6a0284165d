//! `cloister-inference`: the engine without a VM, for people and tests. See `--help`.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use agent::cause::Cause;
use agent::insecure;
use inference::{Bits, CudaOptions, DeviceChoice};
use lexopt::prelude::*;

mod bench;
mod generate;
mod score;

const NAME: &str = "cloister-inference";

const HELP: &str = "\
The engine of Cloister without a VM, for people and tests. It is not in the image.

Usage: cloister-inference COMMAND --model DIR [OPTION...]

Commands:
  generate   answer one question
      --prompt TEXT          the question
      --max-tokens N         most new tokens                       [256]
      --temperature X        0 is greedy                           [0]
      --seed N               of the sampling                       [0]
      --raw                  no chat template: continue the text
  score      print what the model expects after each token; needs no tokenizer
      --tokens 1,2,3         token ids
      --json                 as JSON: five likeliest tokens for each position
  bench      measure tokens per second; needs no tokenizer
      --prompt-tokens N      prompt to read                        [512]
      --new-tokens N         tokens to write                       [32]
      --batch 1,4,16         sequences at once                     [1,4,16]
      --rounds N             the best of so many counts            [3]
      --json                 as JSON
  quantize   make smaller weights
      --output DIR           the new folder, which must not exist
      --bits 8|4             size of a weight                      [8]
  serve      the OpenAI API without any protection, on 127.0.0.1 only
      --insecure-localhost   say that you want this
      --port N               where to listen                       [8080]

Options:
      --threads N            threads that compute                  [one for each processor]
      --device auto|cpu|cuda for generate: what computes           [auto]
      --kernels DIR          what `make kernels` gives             [build/kernels]
      --pinned               weights travel to a GPU by way of pinned memory
  -h, --help                 print this
  -V, --version              print the version
";

/// All that a command line can say.
#[derive(Default)]
struct Arguments {
    command: Option<String>,
    model: Option<PathBuf>,
    output: Option<PathBuf>,
    prompt: Option<String>,
    tokens: Vec<u32>,
    batch: Vec<u32>,
    max_tokens: Option<u32>,
    temperature: f32,
    seed: u64,
    prompt_tokens: Option<u32>,
    new_tokens: Option<u32>,
    rounds: Option<u32>,
    bits: Option<u32>,
    port: Option<u16>,
    threads: Option<NonZeroUsize>,
    device: DeviceChoice,
    cuda: CudaOptions,
    raw: bool,
    json: bool,
    insecure_localhost: bool,
}

/// Why a command line is not one.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("one command is needed: generate, score, bench, quantize or serve")]
    Command,
    #[error("{0} is needed")]
    Missing(&'static str),
    #[error("--bits is 8 or 4")]
    Bits,
    #[error("serve protects nothing: it needs --insecure-localhost")]
    Insecure,
    #[error("{0} is a list of whole numbers, with commas")]
    List(&'static str),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {}", Cause(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(arguments) = parse()? else {
        return Ok(());
    };
    let command = arguments.command.clone().ok_or(UsageError::Command)?;
    if !["generate", "score", "bench", "quantize", "serve"].contains(&&*command) {
        return Err(UsageError::Command.into());
    }
    let model = arguments.model.clone();
    let model = model.ok_or(UsageError::Missing("--model DIR"))?;
    match &*command {
        "generate" => generate::run(&model, &arguments),
        "score" => score::run(&model, &arguments),
        "bench" => bench::run(&model, &arguments),
        "quantize" => {
            let output = arguments
                .output
                .ok_or(UsageError::Missing("--output DIR"))?;
            let bits = match arguments.bits.unwrap_or(8) {
                8 => Bits::Eight,
                4 => Bits::Four,
                _ => return Err(UsageError::Bits.into()),
            };
            let made = inference::quantise(&model, &output, bits)?;
            println!(
                "{} matrices, {} bytes instead of {}",
                made.matrices, made.after_bytes, made.before_bytes
            );
            Ok(())
        }
        _ if arguments.insecure_localhost => Ok(insecure::serve(
            &model,
            arguments.port.unwrap_or(8080),
            arguments.threads,
        )?),
        _ => Err(UsageError::Insecure.into()),
    }
}

/// `None` if there is nothing left to do.
fn parse() -> Result<Option<Arguments>, Box<dyn Error>> {
    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("model") => arguments.model = Some(parser.value()?.into()),
            Long("output") => arguments.output = Some(parser.value()?.into()),
            Long("prompt") => arguments.prompt = Some(parser.value()?.string()?),
            Long("tokens") => arguments.tokens = list("--tokens", &parser.value()?.string()?)?,
            Long("batch") => arguments.batch = list("--batch", &parser.value()?.string()?)?,
            Long("max-tokens") => arguments.max_tokens = Some(parser.value()?.parse()?),
            Long("temperature") => arguments.temperature = parser.value()?.parse()?,
            Long("seed") => arguments.seed = parser.value()?.parse()?,
            Long("prompt-tokens") => arguments.prompt_tokens = Some(parser.value()?.parse()?),
            Long("new-tokens") => arguments.new_tokens = Some(parser.value()?.parse()?),
            Long("rounds") => arguments.rounds = Some(parser.value()?.parse()?),
            Long("bits") => arguments.bits = Some(parser.value()?.parse()?),
            Long("port") => arguments.port = Some(parser.value()?.parse()?),
            Long("threads") => arguments.threads = Some(parser.value()?.parse()?),
            Long("device") => arguments.device = parser.value()?.parse()?,
            Long("kernels") => arguments.cuda.kernels = parser.value()?.into(),
            Long("pinned") => arguments.cuda.pinned = true,
            Long("raw") => arguments.raw = true,
            Long("json") => arguments.json = true,
            Long("insecure-localhost") => arguments.insecure_localhost = true,
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(None);
            }
            Short('V') | Long("version") => {
                println!("{NAME} {}", env!("CARGO_PKG_VERSION"));
                return Ok(None);
            }
            Value(command) if arguments.command.is_none() => {
                arguments.command = Some(command.string()?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(arguments))
}

fn list(name: &'static str, text: &str) -> Result<Vec<u32>, UsageError> {
    let numbers = text.split(',').map(|number| number.trim().parse());
    numbers
        .collect::<Result<_, _>>()
        .map_err(|_| UsageError::List(name))
}
