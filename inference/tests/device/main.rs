//! The engine on a device, end to end, on the kernels' own sources compiled for this processor:
//! what a GPU would be asked, in the same order, with the same arithmetic but for a GPU's
//! approximations.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // as in unit tests

#[path = "../../../kernels/tests/support/mod.rs"]
mod emulation;
mod faults;
mod folder;
mod stand_in;

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use inference::{
    Chunk, Client, DeviceOptions, Engine, EngineLimits, EngineStats, Finish, Generation, Prompt,
    Request, Sampling,
};
use kernels::Counts;
use stand_in::{Plan, StandIn};

/// The families that compute on a device.
const FAMILIES: [&str; 4] = [
    "llama/bf16-sharded",
    "families/qwen3",
    "families/qwen2",
    "families/mistral",
];

/// How far a logarithm of a probability may lie from the CPU's. The CPU keeps activations in f32;
/// the device rounds each to bf16, by up to 2^-9 of its size: of two layers' worth of them, each of
/// up to ten roundings, a logit of size 5 moves by some hundredths, rarely by a tenth.
const TOLERANCE: f32 = 0.15;

fn limits() -> EngineLimits {
    EngineLimits {
        context_tokens: 192,
        max_new_tokens: 64,
        max_active: 4,
        prefill_chunk_tokens: 32,
        kv_bytes: 64 * folder::BLOCK_BYTES,
        threads: std::num::NonZeroUsize::new(1),
        ..EngineLimits::default()
    }
}

fn device(folder: &Path, limits: EngineLimits, plan: Plan) -> Engine {
    let options = DeviceOptions::default();
    let open = || Ok(StandIn::start(plan, 1));
    Engine::open_on_device(folder, limits, options, open).expect("a device")
}

fn sound(folder: &Path, limits: EngineLimits) -> (Engine, Receiver<Counts>) {
    let (plan, counts) = Plan::none();
    (device(folder, limits, plan), counts)
}

fn request(length: usize, salt: u32, max_new_tokens: u32) -> Request {
    let token = |place: usize| (place as u32 * 37 + salt * 101 + 5) % 300;
    Request {
        logprobs: Some(20),
        max_new_tokens,
        ..Request::new(Prompt::from_tokens((0..length).map(token).collect()))
    }
}

/// Greedy and sampled requests, with and without biases and penalties.
fn several(max_new_tokens: u32) -> Vec<Request> {
    let lengths = [1, 70, 33, 16, 5, 47];
    let one = |(index, length): (usize, &usize)| {
        let mut request = request(*length, index as u32, max_new_tokens + index as u32 % 3);
        if index % 2 == 1 {
            request.sampling = Sampling {
                temperature: 0.8,
                top_p: [1.0, 0.9][index % 4 / 2],
                frequency_penalty: 0.5,
                seed: index as u64,
                ..Sampling::GREEDY
            };
            request.logit_bias = vec![(9, 2.0), (7, -100.0)];
        }
        request
    };
    lengths.iter().enumerate().map(one).collect()
}

type Token = (u32, u32, Vec<(u32, u32)>);

/// What an answer is: tokens with the bits of all probabilities, and its end.
fn answer(mut generation: Generation) -> (Vec<Token>, Option<Finish>) {
    let chunks: Vec<Chunk> = std::iter::from_fn(|| generation.blocking_next()).collect();
    let tokens = chunks.iter().flat_map(|chunk| &chunk.tokens);
    let tokens = tokens.map(|choice| {
        let likeliest = choice.likeliest.iter();
        (
            choice.taken.token,
            choice.taken.logprob.to_bits(),
            likeliest
                .map(|other| (other.token, other.logprob.to_bits()))
                .collect(),
        )
    });
    (
        tokens.collect(),
        chunks.last().and_then(|chunk| chunk.finish),
    )
}

fn answers(engine: &Engine, requests: Vec<Request>) -> Vec<(Vec<Token>, Option<Finish>)> {
    let started: Vec<Generation> = requests
        .into_iter()
        .map(|request| engine.submit(request).expect("accepted"))
        .collect();
    started.into_iter().map(answer).collect()
}

/// An answer ends a little before the engine counts it.
fn wait_until(engine: &Engine, ready: impl Fn(EngineStats) -> bool) {
    let started = Instant::now();
    while !ready(engine.stats()) {
        let waited = started.elapsed();
        assert!(waited < Duration::from_secs(60), "{:?}", engine.stats());
        std::thread::yield_now();
    }
}

/// Compares an answer with the CPU's: how far its probabilities lie off, and whether a draw that is
/// nearer than that went the other way, after which the two go on from different texts.
fn compare(found: &[Token], expected: &[Token]) -> (f32, bool) {
    let mut worst = 0f32;
    for (found, expected) in found.iter().zip(expected) {
        let on_cpu = |token: u32| {
            let same = expected.2.iter().find(|(other, _)| *other == token);
            same.map(|(_, bits)| f32::from_bits(*bits))
        };
        // The last ones of a list may change places with those behind it.
        let both = found
            .2
            .iter()
            .filter_map(|(token, bits)| Some((f32::from_bits(*bits) - on_cpu(*token)?).abs()));
        worst = both.fold(worst, f32::max);
        if found.0 != expected.0 {
            let behind = on_cpu(found.0).map(|other| f32::from_bits(expected.1) - other);
            assert!(
                behind.is_some_and(|behind| behind < TOLERANCE),
                "{behind:?}"
            );
            return (worst, true);
        }
    }
    assert_eq!(found.len(), expected.len());
    (worst, false)
}

#[test]
fn each_family_is_near_the_cpu_and_says_the_same_tokens() {
    if !stand_in::is_there() {
        return;
    }
    let mut turned = 0;
    for (seed, family) in FAMILIES.iter().enumerate() {
        let folder = folder::write(family, seed as u64 + 1);
        let requests = || vec![request(40, 1, 8), request(1, 2, 8), request(17, 3, 8)];
        let cpu = Engine::open(folder.path(), limits()).expect("a model");
        let (engine, _counts) = sound(folder.path(), limits());
        let (found, expected) = (answers(&engine, requests()), answers(&cpu, requests()));
        let mut worst = 0f32;
        for ((found, _), (expected, _)) in found.iter().zip(&expected) {
            let (far, other) = compare(found, expected);
            worst = worst.max(far);
            turned += usize::from(other);
        }
        eprintln!("{family}: probabilities differ by at most {worst}");
        assert!(worst > 0.0 && worst < TOLERANCE, "{family}: {worst}");
    }
    // Of twelve answers of 96 tokens; weights are random, and draws often near.
    assert!(turned <= 3, "{turned}");
}

/// Bit for bit, whoever else is there, however prompts are cut, and in whatever order threads run.
#[test]
fn company_chunks_and_interruptions_change_no_bit() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("families/qwen3", 11);
    let (engine, _counts) = sound(folder.path(), limits());
    // More than a block each.
    let several = || several(18);
    let alone: Vec<_> = several()
        .into_iter()
        .flat_map(|request| answers(&engine, vec![request]))
        .collect();
    assert!(
        alone
            .iter()
            .filter(|(tokens, _)| tokens.len() >= 18)
            .count()
            >= 3
    );
    assert_eq!(answers(&engine, several()), alone);
    let others = [
        EngineLimits {
            max_active: 6,
            prefill_chunk_tokens: 5,
            ..limits()
        },
        // Room for one full context and little more.
        EngineLimits {
            max_active: 6,
            kv_bytes: 12 * folder::BLOCK_BYTES,
            ..limits()
        },
    ];
    for limits in others {
        let (engine, _counts) = sound(folder.path(), limits.clone());
        assert_eq!(answers(&engine, several()), alone, "{limits:?}");
        if limits.kv_bytes < self::limits().kv_bytes {
            assert!(engine.stats().preempted > 0);
        }
    }
}

/// What was generated is read by another kernel than a prompt is: it is not taken over.
#[test]
fn a_conversation_goes_on_with_the_bits_of_one_that_is_read_anew() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("llama/bf16-sharded", 21);
    let (engine, _counts) = sound(folder.path(), limits());
    let turn = |client: Option<Client>| {
        let first = Request {
            client: client.clone(),
            ..request(40, 1, 20)
        };
        let mut tokens = first.prompt.tokens().to_vec();
        let (said, _) = answer(engine.submit(first).expect("accepted"));
        tokens.extend(said.iter().map(|(token, ..)| token));
        tokens.extend([3, 1, 4]);
        let mut next = engine
            .submit(Request {
                client,
                ..Request {
                    prompt: Prompt::from_tokens(tokens),
                    ..request(1, 0, 8)
                }
            })
            .expect("accepted");
        let first = next.blocking_next();
        let cached = next.usage().cached_tokens;
        let tokens = first.map(|chunk| chunk.tokens.len());
        (answer(next), tokens, cached)
    };
    let (anew, first, none) = turn(None);
    let (kept, kept_first, cached) = turn(Some(engine.client()));
    assert_eq!((none, cached), (0, 40));
    assert_eq!((anew, first), (kept, kept_first));
}

/// One copy there, one back, no allocation; a step of decode is one graph and the choice.
#[test]
fn a_step_crosses_the_bus_once_each_way() {
    if !stand_in::is_there() {
        return;
    }
    let folder = folder::write("families/mistral", 31);
    let (engine, counts) = sound(folder.path(), limits());
    answers(&engine, several(6));
    drop(engine);
    let steps: Vec<Counts> = counts.iter().collect();
    // The first holds the loading, too.
    let (_, steps) = steps.split_first().expect("steps");
    assert!(steps.len() > 10);
    let prefill = 2 + folder::LAYERS as u64 * 11 + 2 + 3 + 1;
    for step in steps {
        // Steps that choose no token are not answered: they are counted with the next.
        assert_eq!((step.reads, step.allocations), (1, 0), "{step:?}");
        assert!(step.launches <= step.writes * prefill, "{step:?}");
        assert!(step.replays + step.captures <= 2, "{step:?}");
    }
    let decode: Vec<&Counts> = steps.iter().filter(|step| step.replays == 1).collect();
    assert!(decode.len() > 5, "{steps:?}");
    let alone = decode.iter().filter(|step| step.writes == 1);
    let launches: Vec<u64> = alone.map(|step| step.launches).collect();
    // The choice, and the wiping of blocks after an end.
    assert!(launches.len() > 3 && launches.iter().all(|count| (3..=4).contains(count)));
    let most = steps
        .iter()
        .map(|step| step.written_bytes / step.writes)
        .max();
    eprintln!("at most {most:?} bytes there, {} back", steps[0].read_bytes);
}
