//! Many requests at once: what they get, what is refused, and what is left behind.

#![allow(clippy::expect_used)] // a test's helpers may fail, too

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use inference::{
    ChatMessage, Chunk, Engine, EngineLimits, EngineStats, Finish, Generation, Prompt, Request,
    Role, Sampling, SubmitError,
};

fn open(limits: EngineLimits) -> Engine {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama/f32-tied-llama3");
    Engine::open(&folder, limits).expect("a fixture of this repository")
}

/// A model whose rotation changes beyond 100 tokens, with the other one's tokenizer.
fn long_folder() -> tempfile::TempDir {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let folder = tempfile::tempdir().expect("a folder");
    for file in [
        "families/phi3/config.json",
        "families/phi3/model.safetensors",
        "llama/f32-tied-llama3/tokenizer.json",
    ] {
        let (_, name) = file.rsplit_once('/').expect("a name");
        std::fs::copy(fixtures.join(file), folder.path().join(name)).expect("a copy");
    }
    folder
}

fn limits() -> EngineLimits {
    EngineLimits {
        context_tokens: 256,
        max_new_tokens: 250,
        ..Default::default()
    }
}

fn request(prompt: &[u32], max_new_tokens: u32) -> Request {
    Request {
        max_new_tokens,
        ..Request::new(Prompt::from_tokens(prompt.to_vec()))
    }
}

/// Sampled and greedy requests of many lengths; some end by token 2, which ends a turn.
fn twenty() -> Vec<Request> {
    let one = |index: u32| {
        let length = 1 + index * 13 % 90;
        let prompt: Vec<u32> = (0..length)
            .map(|place| (index * 31 + place * 17) % 304)
            .collect();
        let sampling = Sampling {
            temperature: [0.0, 0.7, 1.0, 2.0][index as usize % 4],
            top_p: [1.0, 0.9, 0.5][index as usize % 3],
            seed: u64::from(index % 5),
            ..Sampling::GREEDY
        };
        Request {
            sampling,
            ..request(&prompt, 5 + index * 7 % 60)
        }
    };
    (0..20).map(one).collect()
}

fn drain(mut generation: Generation) -> Vec<Chunk> {
    std::iter::from_fn(|| generation.blocking_next()).collect()
}

fn finish(chunks: &[Chunk]) -> Option<Finish> {
    let (last, others) = chunks.split_last().expect("at least one chunk");
    assert!(
        others
            .iter()
            .all(|chunk| chunk.finish.is_none() && !chunk.text.is_empty())
    );
    last.finish
}

fn text(chunks: &[Chunk]) -> String {
    chunks.iter().map(|chunk| chunk.text.as_str()).collect()
}

fn wait_until(engine: &Engine, good: impl Fn(EngineStats) -> bool) {
    let started = Instant::now();
    while !good(engine.stats()) {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{:?}",
            engine.stats()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn company_changes_nothing() {
    company_changes_nothing_for(open);
}

#[test]
fn company_changes_nothing_where_sequences_are_read_again() {
    let folder = long_folder();
    let open = |limits| Engine::open(folder.path(), limits).expect("a model");
    company_changes_nothing_for(open);
}

fn company_changes_nothing_for(open: impl Fn(EngineLimits) -> Engine) {
    let engine = open(limits());
    let answers = |engine: &Engine, together: bool| -> Vec<(String, Option<Finish>)> {
        let submit = |request| engine.submit(request).expect("accepted");
        let answers: Vec<Vec<Chunk>> = match together {
            true => {
                let started: Vec<Generation> = twenty().into_iter().map(submit).collect();
                started.into_iter().map(drain).collect()
            }
            false => twenty()
                .into_iter()
                .map(|request| drain(submit(request)))
                .collect(),
        };
        answers
            .iter()
            .map(|chunks| (text(chunks), finish(chunks)))
            .collect()
    };
    let alone = answers(&engine, false);
    assert!(alone.iter().any(|(text, _)| text.len() > 20));
    for (max_active, prefill_chunk_tokens, threads) in
        [(1, 7, 2), (3, 1, 1), (8, 16, 4), (20, 300, 2)]
    {
        let threads = NonZeroUsize::new(threads);
        let arranged = EngineLimits {
            max_active,
            prefill_chunk_tokens,
            threads,
            ..limits()
        };
        assert_eq!(answers(&open(arranged), true), alone);
    }
}

#[test]
fn a_dropped_generation_frees_its_slot_and_cache() {
    let engine = open(EngineLimits {
        max_active: 2,
        ..limits()
    });
    let all = engine.stats();
    assert_eq!((all.active, all.used_blocks), (0, 0));
    // So many that some still run when they are looked at, however busy the machine is.
    let mut running: Vec<Generation> = (0..60)
        .map(|_| engine.submit(request(&[1, 5], 250)).expect("accepted"))
        .collect();
    wait_until(&engine, |stats| stats.active == 2 && stats.used_blocks > 0);
    running.clear();
    wait_until(&engine, |stats| stats.active == 0 && stats.queued == 0);
    let now = engine.stats();
    assert_eq!((now.used_blocks, now.free_blocks), (0, all.free_blocks));
    assert_eq!(now.finished, 60);
    // And the engine goes on.
    assert_eq!(
        finish(&drain(engine.submit(request(&[1], 3)).expect("accepted"))),
        Some(Finish::Length)
    );
}

#[test]
fn the_cache_bounds_how_many_run() {
    let one = open(limits()).stats().free_blocks;
    let bytes_of_a_block = (256 << 20) / u64::from(one);
    // Four requests begin; as they grow, those that came last have to wait.
    let engine = open(EngineLimits {
        kv_bytes: bytes_of_a_block * 16,
        ..limits()
    });
    assert_eq!(engine.stats().free_blocks, 16);
    let running: Vec<Generation> = (0..6)
        .map(|_| engine.submit(request(&[7; 60], 60)).expect("accepted"))
        .collect();
    for generation in running {
        drain(generation);
        assert!(engine.stats().active <= 4);
    }
    wait_until(&engine, |stats| stats.free_blocks == 16);
}

#[test]
fn the_queue_is_bounded() {
    let engine = open(EngineLimits {
        max_active: 1,
        max_queued: 3,
        ..limits()
    });
    let mut running = Vec::new();
    let refusal = (0..50).find_map(|_| match engine.submit(request(&[1], 250)) {
        Ok(generation) => {
            running.push(generation);
            None
        }
        Err(refusal) => Some(refusal),
    });
    assert_eq!(refusal, Some(SubmitError::QueueFull { limit: 3 }));
    drop(running);
    wait_until(&engine, |stats| stats.queued == 0);
    assert!(engine.submit(request(&[1], 1)).is_ok());
}

#[test]
fn what_does_not_fit_is_refused_with_counts() {
    let engine = open(EngineLimits {
        max_new_tokens: 64,
        ..limits()
    });
    let refusal = |request| engine.submit(request).expect_err("a refusal");
    let (prompt_tokens, max_new_tokens, context_tokens) = (250, 7, 256);
    assert_eq!(
        refusal(request(&[1; 250], 7)),
        SubmitError::ContextLength {
            prompt_tokens,
            max_new_tokens,
            context_tokens
        }
    );
    // Exactly the context is right.
    let generation = engine.submit(request(&[1; 250], 6)).expect("accepted");
    assert!(finish(&drain(generation)).is_some());
    assert_eq!(refusal(request(&[], 1)), SubmitError::EmptyPrompt);
    assert_eq!(
        refusal(request(&[1], 0)),
        SubmitError::NewTokens {
            asked: 0,
            limit: 64
        }
    );
    assert_eq!(
        refusal(request(&[1], 65)),
        SubmitError::NewTokens {
            asked: 65,
            limit: 64
        }
    );
    assert_eq!(
        refusal(request(&[304], 1)),
        SubmitError::UnknownToken { vocabulary: 304 }
    );
}

#[test]
fn sampling_and_stop_strings_have_bounds() {
    let engine = open(limits());
    let refusal = |request| engine.submit(request).expect_err("a refusal");
    for temperature in [-0.1, 2.1, f32::NAN, f32::INFINITY] {
        let sampling = Sampling {
            temperature,
            ..Sampling::GREEDY
        };
        assert_eq!(
            refusal(Request {
                sampling,
                ..request(&[1], 1)
            }),
            SubmitError::Temperature
        );
    }
    for top_p in [0.0, -1.0, 1.1, f32::NAN] {
        let sampling = Sampling {
            top_p,
            ..Sampling::GREEDY
        };
        assert_eq!(
            refusal(Request {
                sampling,
                ..request(&[1], 1)
            }),
            SubmitError::TopP
        );
    }
    for stop in [
        vec![String::new()],
        vec!["x".repeat(257)],
        vec!["x".into(); 17],
    ] {
        let refused = refusal(Request {
            stop,
            ..request(&[1], 1)
        });
        assert!(matches!(refused, SubmitError::Stop { .. }));
    }
}

#[test]
fn cuts_penalties_biases_and_logprobs_have_bounds() {
    let engine = open(limits());
    let refusal = |request| engine.submit(request).expect_err("a refusal");
    let sampled = |sampling| Request {
        sampling,
        ..request(&[1], 1)
    };
    for min_p in [-0.1, 1.1, f32::NAN] {
        let sampling = Sampling {
            min_p,
            ..Sampling::GREEDY
        };
        assert_eq!(refusal(sampled(sampling)), SubmitError::MinP);
    }
    for penalty in [-2.1, 2.1, f32::NAN, f32::INFINITY] {
        let presence = Sampling {
            presence_penalty: penalty,
            ..Sampling::GREEDY
        };
        let frequency = Sampling {
            frequency_penalty: penalty,
            ..Sampling::GREEDY
        };
        assert_eq!(refusal(sampled(presence)), SubmitError::Penalty);
        assert_eq!(refusal(sampled(frequency)), SubmitError::Penalty);
    }
    let biases = [
        vec![(304, 1.0)],
        vec![(1, 100.5)],
        vec![(1, f32::NAN)],
        vec![(1, 1.0); 1025],
    ];
    for logit_bias in biases {
        let refused = refusal(Request {
            logit_bias,
            ..request(&[1], 1)
        });
        assert_eq!(refused, SubmitError::LogitBias { max_count: 1024 });
    }
    let refused = refusal(Request {
        logprobs: Some(21),
        ..request(&[1], 1)
    });
    assert_eq!(refused, SubmitError::Logprobs { limit: 20 });
}

#[test]
fn ten_thousand_requests_wait_and_one_more_is_refused() {
    let engine = open(EngineLimits {
        max_active: 1,
        max_queued: 10_000,
        ..limits()
    });
    let mut waiting = Vec::new();
    let refusal = loop {
        match engine.submit(request(&[2], 250)) {
            Ok(generation) => waiting.push(generation),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal, SubmitError::QueueFull { limit: 10_000 });
    assert!(waiting.len() >= 10_000);
    drop(waiting);
    wait_until(&engine, |stats| stats.queued == 0);
    assert!(finish(&drain(engine.submit(request(&[1], 1)).expect("accepted"))).is_some());
}

#[test]
fn stop_strings_end_the_answer_before_them() {
    let engine = open(limits());
    let whole = text(&drain(
        engine.submit(request(&[3, 1, 4], 60)).expect("accepted"),
    ));
    let characters: Vec<char> = whole.chars().collect();
    assert!(characters.len() > 30);
    let stop: String = characters[20..24].iter().collect();
    let stopped = Request {
        stop: vec!["never".into(), stop.clone()],
        ..request(&[3, 1, 4], 60)
    };
    let chunks = drain(engine.submit(stopped).expect("accepted"));
    assert_eq!(finish(&chunks), Some(Finish::Stop));
    assert_eq!(Some(text(&chunks).as_str()), whole.split(&stop).next());
}

#[test]
fn deadlines_end_what_runs_and_what_waits() {
    let engine = open(EngineLimits {
        max_active: 1,
        ..limits()
    });
    let late = Request {
        deadline: Some(Instant::now()),
        ..request(&[1; 6], 250)
    };
    let chunks = drain(engine.submit(late).expect("accepted"));
    assert_eq!(
        (text(&chunks).as_str(), finish(&chunks)),
        ("", Some(Finish::Deadline))
    );
    wait_until(&engine, |stats| stats.active + stats.queued == 0);
}

#[test]
fn usage_counts_and_debug_shows_no_content() {
    let engine = open(limits());
    let messages = [ChatMessage {
        role: Role::User,
        content: "a secret".into(),
    }];
    let prompt = engine.render_chat(&messages).expect("a prompt");
    let prompt_tokens = prompt.len() as u32;
    let asked = Request {
        prompt,
        stop: vec!["a secret".into()],
        ..request(&[], 9)
    };
    let shown = format!("{messages:?} {asked:?} {engine:?}");
    let mut generation = engine.submit(asked).expect("accepted");
    let mut said = String::new();
    while let Some(chunk) = generation.blocking_next() {
        assert!(chunk.text.is_empty() || !format!("{chunk:?}").contains(&chunk.text));
        said += &chunk.text;
    }
    let usage = generation.usage();
    assert_eq!(usage.prompt_tokens, prompt_tokens);
    assert!((1..=9).contains(&usage.completion_tokens));
    assert!(!shown.contains("secret") && !said.is_empty());
}

#[test]
fn dropping_the_engine_ends_its_generations() {
    let engine = open(limits());
    let mut generation = engine.submit(request(&[1], 250)).expect("accepted");
    drop(engine);
    while generation.blocking_next().is_some() {}
}

/// A few blocks of cache, of sixteen tokens each.
fn tight(blocks: u64, max_active: u32) -> Engine {
    let all = u64::from(open(limits()).stats().free_blocks);
    open(EngineLimits {
        kv_bytes: limits().kv_bytes / all * blocks,
        max_active,
        ..limits()
    })
}

fn answer(engine: &Engine, request: Request) -> (String, Option<Finish>, u32) {
    let mut generation = engine.submit(request).expect("accepted");
    let chunks: Vec<Chunk> = std::iter::from_fn(|| generation.blocking_next()).collect();
    let cached = generation.usage().cached_tokens;
    (text(&chunks), finish(&chunks), cached)
}

#[test]
fn interrupted_requests_go_on_to_the_same_answer() {
    let asked = || (0..8).map(|index| request(&[index + 3; 60], 120));
    let calm = open(limits());
    let alone: Vec<_> = asked().map(|one| answer(&calm, one)).collect();
    assert_eq!(calm.stats().preempted, 0);
    // One full context of 256 tokens fits; four of these requests begin, and none could end.
    let engine = tight(16, 8);
    let started: Vec<Generation> = asked()
        .map(|one| engine.submit(one).expect("accepted"))
        .collect();
    for (generation, alone) in started.into_iter().zip(&alone) {
        let chunks = drain(generation);
        assert_eq!((text(&chunks), finish(&chunks)), (alone.0.clone(), alone.1));
    }
    wait_until(&engine, |stats| {
        stats.free_blocks == 16 && stats.queued == 0
    });
    assert!(engine.stats().preempted > 0);
    assert_eq!(engine.stats().finished, 8);
}

#[test]
fn a_conversation_is_not_read_twice_and_reads_the_same() {
    let first = [9; 50];
    let longer: Vec<u32> = first.iter().copied().chain([4, 5, 6]).collect();
    let other: Vec<u32> = first[..40].iter().copied().chain([8; 20]).collect();
    let engine = open(limits());
    let fresh: Vec<_> = [&first[..], &longer, &other]
        .map(|prompt| answer(&engine, request(prompt, 20)))
        .into();
    let client = engine.client();
    let mine = |prompt: &[u32]| Request {
        client: Some(client.clone()),
        ..request(prompt, 20)
    };
    let asked = [(&first[..], 0), (&longer, 50), (&other, 40)];
    for ((prompt, cached), fresh) in asked.into_iter().zip(&fresh) {
        let (text, finish, found) = answer(&engine, mine(prompt));
        assert_eq!((&text, finish, found), (&fresh.0, fresh.1, cached));
    }
    // The very same prompt once more: its last token is read anew.
    assert_eq!(answer(&engine, mine(&longer)).2, 40);
    wait_until(&engine, |stats| stats.kept_blocks > 0);
    drop(client);
    wait_until(&engine, |stats| stats.used_blocks == 0);
}

/// Whatever one client has had read, another's request is read from its first token on: the number
/// of tokens read, which is what the time to its first token depends on, is that of an engine that
/// has never seen the prompt.
#[test]
fn nothing_is_kept_for_anybody_else() {
    let engine = open(limits());
    let (mine, yours) = (engine.client(), engine.client());
    let ask = |client: Option<&inference::Client>| {
        let client = client.cloned();
        let asked = Request {
            client,
            ..request(&[9; 100], 5)
        };
        answer(&engine, asked).2
    };
    assert_eq!(ask(Some(&mine)), 0);
    assert_eq!(ask(Some(&mine)), 99);
    assert_eq!(ask(Some(&yours)), 0);
    assert_eq!(ask(None), 0);
    assert_eq!(ask(None), 0);
    assert_eq!(ask(Some(&engine.client())), 0);
}

#[test]
fn what_is_kept_makes_way_for_what_runs() {
    let engine = tight(16, 4);
    let client = engine.client();
    let kept = |prompt: u32| Request {
        client: Some(client.clone()),
        ..request(&[prompt; 100], 2)
    };
    assert_eq!(answer(&engine, kept(3)).2, 0);
    assert_eq!(answer(&engine, kept(4)).2, 0);
    // All of the cache, for somebody else.
    assert_eq!(answer(&engine, request(&[5; 250], 6)).2, 0);
    assert_eq!(engine.stats().preempted, 0);
    assert_eq!(answer(&engine, kept(3)).2, 0);
}

/// Somebody asks for everything; somebody else comes later, and need not wait for the end of it.
#[test]
fn a_newcomer_gets_a_slot_of_a_client_with_many() {
    let engine = open(EngineLimits {
        max_active: 2,
        ..limits()
    });
    let (greedy, modest) = (engine.client(), engine.client());
    let of = |client: &inference::Client, prompt: u32, tokens| Request {
        client: Some(client.clone()),
        ..request(&[prompt, 5], tokens)
    };
    let many: Vec<Generation> = (0..6)
        .map(|index| engine.submit(of(&greedy, index, 250)).expect("accepted"))
        .collect();
    wait_until(&engine, |stats| stats.active == 2);
    answer(&engine, of(&modest, 7, 20));
    // Of six long requests, two at a time, one at most could have ended by then in turn.
    assert!(engine.stats().finished <= 3, "{:?}", engine.stats());
    drop(many);
}
