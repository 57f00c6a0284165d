//! Checks every kernel on the GPU of this machine against its reference, times it, and prints a
//! table: `table FOLDER`, the folder being what `make kernels` gives. `tests/gpu/run.sh` runs it.

use std::path::Path;
use std::process::ExitCode;

use kernels::check::{self, Chance, CheckError, Nearness};
use kernels::launch::{self, Activation, Attention, Gemm, Norm, Scratch};
use kernels::{
    Bf16, Cache, CacheShape, Device, Gpu, HeadDim, LaunchError, Plan, SequenceStep, Staging, Tensor,
};

/// Of one NVIDIA H200, measured (copy bandwidth) and published (dense bf16).
const BYTES_PER_S: f64 = 4.3e12;
const FLOPS_PER_S: f64 = 790e12;
const ROUNDS: u64 = 20;

fn main() -> ExitCode {
    let folder = std::env::args().nth(1).unwrap_or("build/kernels".into());
    let gpu = match Gpu::open(0, Path::new(&folder), Staging::Pageable) {
        Ok(gpu) => gpu,
        Err(error) => {
            eprintln!("cannot use a GPU: {error}");
            return ExitCode::from(2);
        }
    };
    match all(&gpu) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn all(gpu: &Gpu) -> Result<(), CheckError> {
    println!(
        "{}, kernels of {}\n",
        gpu.name()?,
        gpu.architecture().name()
    );
    println!("| kernel | cases | worst error, of the tolerance |\n|---|---|---|");
    for dim in HeadDim::ALL {
        let name = |what: &str| format!("{what}, head {}", dim.size());
        checked(&name("prefill"), |seed| check::prefill(gpu, dim, seed))?;
        checked(&name("decode"), |seed| check::decode(gpu, dim, seed))?;
        checked(&name("rotation"), |seed| check::rope(gpu, dim, seed))?;
    }
    checked("product", |seed| check::gemm(gpu, seed))?;
    checked("norm", |seed| check::rms_norm(gpu, seed))?;
    checked("gate", |seed| check::gate(gpu, seed))?;
    checked("embedding", |seed| check::embed(gpu, seed))?;
    checked("sampling", |seed| check::sample(gpu, seed))?;
    checked("biases and reports", |seed| check::logits(gpu, seed))?;
    checked("wiping", |seed| check::wipe(gpu, seed))?;
    println!("\n| kernel | shape | time, ms | TFLOP/s | TB/s | of the roofline |");
    println!("|---|---|---|---|---|---|");
    prefill(gpu, 8192)?;
    for (sequences, length) in [(1, 4096), (8, 4096), (8, 32_768), (64, 4096)] {
        decode(gpu, sequences, length)?;
    }
    for m in [1, 16, 64, 512, 4096] {
        gemm(gpu, m)?;
    }
    rows(gpu)
}

fn checked(
    name: &str,
    check: impl Fn(u64) -> Result<Nearness, CheckError>,
) -> Result<(), CheckError> {
    let mut worst = 0f64;
    for seed in 0..ROUNDS {
        worst = worst.max(check(seed)?.worst);
    }
    println!("| {name} | {ROUNDS} | {worst:.2} |");
    Ok(())
}

/// The median of several runs, against the time that bytes or products need at least.
fn timed(
    gpu: &Gpu,
    name: &str,
    bytes: f64,
    flops: f64,
    mut run: impl FnMut() -> Result<(), LaunchError>,
) -> Result<(), CheckError> {
    for _ in 0..3 {
        run()?;
    }
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        times.push(gpu.time_ms(&mut run)?);
    }
    times.sort_unstable_by(f32::total_cmp);
    let seconds = f64::from(times[times.len() / 2]) / 1e3;
    let least = (bytes / BYTES_PER_S).max(flops / FLOPS_PER_S);
    println!(
        "| {name} | {:.3} | {:.1} | {:.2} | {:.2} |",
        seconds * 1e3,
        flops / seconds / 1e12,
        bytes / seconds / 1e12,
        least / seconds
    );
    Ok(())
}

/// Numbers from -1 to 1; a pattern, as much memory is to be filled.
fn halves<D: Device>(device: &D, len: usize) -> Result<Tensor<D::Memory, Bf16>, CheckError> {
    let pattern = Chance(1).halves(len.min(1 << 20), 1.0);
    let content: Vec<Bf16> = pattern.iter().copied().cycle().take(len).collect();
    Ok(Tensor::from(device, &content)?)
}

/// 32 heads on 8, of 128.
const ATTENTION: Attention = Attention {
    heads: 32,
    scale: 0.088_388_35,
    cap: None,
    window: None,
};

type Setting<M> = (Cache<M>, Plan<M>);

fn setting(
    gpu: &Gpu,
    sequences: usize,
    new_tokens: usize,
    length: usize,
) -> Result<Setting<<Gpu as Device>::Memory>, CheckError> {
    let pages = length.div_ceil(16);
    let shape = CacheShape {
        blocks: sequences * pages,
        kv_heads: 8,
        page_shift: 4,
        dim: HeadDim::D128,
    };
    let steps: Vec<SequenceStep> = (0..sequences)
        .map(|sequence| SequenceStep {
            new_tokens,
            length,
            blocks: (0..pages)
                .map(|page| (page * sequences + sequence) as u32)
                .collect(),
        })
        .collect();
    let cache = Cache::new(gpu, shape)?;
    Ok((cache, Plan::new(gpu, shape, &steps)?))
}

fn prefill(gpu: &Gpu, tokens: usize) -> Result<(), CheckError> {
    let (cache, plan) = setting(gpu, 1, tokens, tokens)?;
    let q = halves(gpu, tokens * 32 * 128)?;
    let mut out = halves(gpu, tokens * 32 * 128)?;
    let pairs = (tokens * (tokens + 1) / 2) as f64;
    let bytes = (2 * 2 * tokens * (32 + 8) * 128) as f64;
    let name = format!("prefill | {tokens} tokens, causal");
    timed(gpu, &name, bytes, 4.0 * 128.0 * 32.0 * pairs, || {
        launch::prefill(gpu, ATTENTION, &q, &cache, None, &plan, &mut out)
    })
}

fn decode(gpu: &Gpu, sequences: usize, length: usize) -> Result<(), CheckError> {
    let (cache, plan) = setting(gpu, sequences, 1, length)?;
    let q = halves(gpu, sequences * 32 * 128)?;
    let mut out = halves(gpu, sequences * 32 * 128)?;
    let scratch = Scratch::new(gpu, sequences, 32, HeadDim::D128, length)?;
    let bytes = (sequences * length * 8 * 128 * 4) as f64;
    let flops = (sequences * length * 32 * 128 * 4) as f64;
    let name = format!("decode | {sequences} x {length}");
    timed(gpu, &name, bytes, flops, || {
        let scratch = &scratch;
        launch::decode(gpu, ATTENTION, &q, &cache, None, &plan, scratch, &mut out)
    })
}

fn gemm(gpu: &Gpu, m: usize) -> Result<(), CheckError> {
    let shape = Gemm {
        m,
        n: 4096,
        k: 4096,
    };
    let left = halves(gpu, m * shape.k)?;
    let right = halves(gpu, shape.n * shape.k)?;
    let mut out: Tensor<_, Bf16> = halves(gpu, m * shape.n)?;
    let bytes = 2.0 * (m * shape.k + shape.n * shape.k + m * shape.n) as f64;
    let flops = 2.0 * (m * shape.n * shape.k) as f64;
    let name = format!("product | {m} x 4096 x 4096");
    timed(gpu, &name, bytes, flops, || {
        launch::gemm(gpu, shape, &left, &right, None, &mut out)
    })
}

fn rows(gpu: &Gpu) -> Result<(), CheckError> {
    let (rows, columns) = (4096, 4096);
    let mut residual = halves(gpu, rows * columns)?;
    let delta = halves(gpu, rows * columns)?;
    let weight = halves(gpu, columns)?;
    let mut out = halves(gpu, rows * columns)?;
    let norm = Norm {
        epsilon: 1e-6,
        offset: 0.0,
    };
    let elements = (rows * columns) as f64;
    timed(gpu, "norm | 4096 x 4096", 8.0 * elements, 0.0, || {
        launch::rms_norm(gpu, norm, &mut residual, Some(&delta), &weight, &mut out)
    })?;
    let both = halves(gpu, rows * columns * 2)?;
    timed(gpu, "gate | 4096 x 4096", 6.0 * elements, 0.0, || {
        launch::gate(gpu, Activation::Silu, columns, &both, &mut out)
    })
}
