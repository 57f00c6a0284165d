//! Tokens per second, and what the machine could do.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use inference::Model;
use serde_json::json;

use super::Arguments;

/// Larger than any cache.
const STREAM_WORDS: usize = 64 << 20;

pub(super) fn run(path: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let load_before = load();
    let begun = Instant::now();
    let model = Model::open(path, arguments.threads)?;
    let open_ms = begun.elapsed().as_secs_f64() * 1e3;
    let rounds = arguments.rounds.unwrap_or(3).max(1);
    let prompt_tokens = arguments.prompt_tokens.unwrap_or(512);
    let new_tokens = arguments.new_tokens.unwrap_or(32).max(1);
    let batches = match arguments.batch.as_slice() {
        [] => vec![1, 4, 16],
        batches => batches.to_vec(),
    };
    let bandwidth = bandwidth(model.threads(), rounds);
    let mut best = Measured::NONE;
    for _ in 0..rounds {
        best = best.better(prefill(&model, prompt_tokens)?);
    }
    let mut decodes = Vec::new();
    for batch in batches {
        let mut best = Measured::NONE;
        for _ in 0..rounds {
            best = best.better(decode(&model, batch, new_tokens)?);
        }
        decodes.push((batch, best));
    }
    let roofline = bandwidth / model.bytes_per_token() as f64;
    let answer = json!({
        "parameters": model.parameters(),
        "threads": model.threads(),
        "instructions": model.instructions(),
        "open_ms": open_ms,
        "load_before": load_before,
        "load_after": load(),
        "bytes_per_token": model.bytes_per_token(),
        "memory_bytes_per_s": bandwidth,
        "decode_roofline_tokens_per_s": roofline,
        "prefill": {
            "tokens": prompt_tokens, "tokens_per_s": best.speed, "tokens_per_cpu_s": best.cpu,
        },
        "decode": decodes.iter().map(|(batch, best)| json!({
            "batch": batch, "tokens_per_s": best.speed, "tokens_per_cpu_s": best.cpu,
        })).collect::<Vec<_>>(),
    });
    if arguments.json {
        println!("{answer}");
        return Ok(());
    }
    println!(
        "{} parameters, {} threads, {}, load {load_before} to {}",
        model.parameters(),
        model.threads(),
        model.instructions(),
        load()
    );
    println!(
        "memory reads {:.1} GB/s: decode roofline {roofline:.1} tokens/s",
        bandwidth / 1e9
    );
    println!("prefill {prompt_tokens}: {best}");
    for (batch, best) in &decodes {
        let share = best.speed / f64::from(*batch) / roofline * 100.0;
        println!("decode, batch {batch}: {best}, {share:.0} % of the roofline");
    }
    Ok(())
}

/// Tokens per second of the clock, and per second of all processors' time.
#[derive(Clone, Copy)]
struct Measured {
    speed: f64,
    cpu: f64,
}

impl Measured {
    const NONE: Self = Self {
        speed: 0.0,
        cpu: 0.0,
    };

    fn new(tokens: u32, clock: Duration, cpu_s: f64) -> Self {
        Self {
            speed: f64::from(tokens) / clock.as_secs_f64(),
            cpu: f64::from(tokens) / cpu_s.max(1e-3),
        }
    }

    fn better(self, other: Self) -> Self {
        Self {
            speed: self.speed.max(other.speed),
            cpu: self.cpu.max(other.cpu),
        }
    }
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { speed, cpu } = self;
        write!(f, "{speed:.1} tokens/s ({cpu:.1} per CPU second)")
    }
}

fn prompt(model: &Model, tokens: u32) -> Vec<u32> {
    let token = |place: u32| (place * 37 + 11) % model.vocabulary();
    (0..tokens).map(token).collect()
}

fn prefill(model: &Model, tokens: u32) -> Result<Measured, Box<dyn Error>> {
    let prompt = prompt(model, tokens);
    let mut session = model.session(tokens);
    let (begun, cpu) = (Instant::now(), cpu_s());
    session.read(&prompt)?;
    Ok(Measured::new(tokens, begun.elapsed(), cpu_s() - cpu))
}

fn decode(model: &Model, batch: u32, tokens: u32) -> Result<Measured, Box<dyn Error>> {
    let mut sequences = model.batch(batch as usize, tokens + 8);
    sequences.step(&vec![prompt(model, 8); batch as usize])?;
    let (begun, cpu) = (Instant::now(), cpu_s());
    for step in 0..tokens {
        let next = step % model.vocabulary();
        sequences.step(&vec![vec![next]; batch as usize])?;
    }
    Ok(Measured::new(
        batch * tokens,
        begun.elapsed(),
        cpu_s() - cpu,
    ))
}

/// Bytes per second that all threads together read from memory, at best.
fn bandwidth(threads: usize, rounds: u32) -> f64 {
    let words = vec![1u64; STREAM_WORDS];
    let read = || {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(STREAM_WORDS.div_ceil(threads)) {
                scope.spawn(move || std::hint::black_box(part.iter().sum::<u64>()));
            }
        });
        begun.elapsed().as_secs_f64()
    };
    let best = (0..rounds.max(3)).map(|_| read()).fold(f64::MAX, f64::min);
    (STREAM_WORDS * size_of::<u64>()) as f64 / best
}

/// Seconds that this process has computed so far, as the kernel counts them: in hundredths.
fn cpu_s() -> f64 {
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace();
    let ticks: f64 = fields
        .skip(11)
        .take(2)
        .filter_map(|t| t.parse::<f64>().ok())
        .sum();
    ticks / TICKS_PER_S
}

/// How many want the processors, on the average of a minute.
fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}
