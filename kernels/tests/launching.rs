//! What launchers and plans refuse, and what a step costs: counted by the recorder, on memory that
//! computes nothing.

#![allow(clippy::unwrap_used)] // as in unit tests

use std::cell::RefCell;

use kernels::launch::{self, Activation, Attention, Choice, Gemm, Norm, Scratch};
use kernels::{
    Bf16, Cache, CacheShape, Counts, Device, DeviceError, HeadDim, Launch, LaunchError, Plan,
    PlanError, Recorder, SequenceStep, Tensor,
};

struct Idle;

type Held = RefCell<Vec<u8>>;

impl Device for Idle {
    type Memory = Held;
    type Graph = ();

    fn allocate(&self, bytes: usize) -> Result<Held, DeviceError> {
        Ok(RefCell::new(vec![0; bytes]))
    }

    fn write(&self, to: &Held, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        to.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read(&self, from: &Held, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        bytes.copy_from_slice(&from.borrow()[at..at + bytes.len()]);
        Ok(())
    }

    fn capture<E: From<DeviceError>>(&self, run: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        run()
    }

    fn replay(&self, (): &()) -> Result<(), DeviceError> {
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_, Held>) -> Result<(), DeviceError> {
        assert!(launch.grid().iter().all(|blocks| *blocks > 0));
        assert!(launch.grid()[1..].iter().all(|blocks| *blocks < 65_536));
        Ok(())
    }
}

const SHAPE: CacheShape = CacheShape {
    blocks: 4,
    kv_heads: 2,
    page_shift: 4,
    dim: HeadDim::D64,
};

fn halves(len: usize) -> Tensor<Held, Bf16> {
    Tensor::empty(&Idle, len).unwrap()
}

fn step(new_tokens: usize, length: usize, blocks: &[u32]) -> SequenceStep {
    SequenceStep {
        new_tokens,
        length,
        blocks: blocks.to_vec(),
    }
}

fn plan(steps: &[SequenceStep]) -> Result<Plan<Held>, PlanError> {
    Plan::new(&Idle, SHAPE, steps)
}

#[test]
fn each_fault_of_a_plan_has_its_own_refusal() {
    assert!(matches!(plan(&[]), Err(PlanError::Empty)));
    for (new_tokens, length) in [(0, 5), (6, 5)] {
        let refused = plan(&[step(new_tokens, length, &[0])]);
        assert!(matches!(
            refused,
            Err(PlanError::Tokens { sequence: 0, .. })
        ));
    }
    let refused = plan(&[step(1, 16, &[0]), step(1, 17, &[1])]);
    let expected = matches!(
        refused,
        Err(PlanError::TooFewBlocks {
            sequence: 1,
            found: 1,
            needed: 2,
        })
    );
    assert!(expected);
    let refused = plan(&[step(1, 16, &[4])]);
    assert!(matches!(
        refused,
        Err(PlanError::NoSuchBlock { block: 4, .. })
    ));
    let refused = plan(&[step(3, 16, &[2]), step(1, 15, &[2])]);
    assert!(matches!(
        refused,
        Err(PlanError::SharedSlot { sequence: 1 })
    ));
    // Blocks may be shared where nothing is written.
    assert!(plan(&[step(1, 17, &[2, 0]), step(1, 17, &[2, 1])]).is_ok());
}

fn attention() -> Attention {
    Attention {
        heads: 4,
        scale: 1.0,
        cap: None,
        window: None,
    }
}

#[test]
fn attention_of_another_shape_is_not_launched() {
    let cache = Cache::new(&Idle, SHAPE).unwrap();
    let plan = plan(&[step(2, 20, &[0, 1])]).unwrap();
    let size = 2 * 4 * 64;
    let prefill = |attention, q: usize, out: usize| {
        let (q, mut out) = (halves(q), halves(out));
        launch::prefill(&Idle, attention, &q, &cache, None, &plan, &mut out)
    };
    assert!(prefill(attention(), size, size).is_ok());
    for (q, out) in [(size - 1, size), (size, size + 1)] {
        let refused = prefill(attention(), q, out);
        assert!(matches!(refused, Err(LaunchError::Length { .. })));
    }
    for heads in [0, 3] {
        let wrong = Attention {
            heads,
            ..attention()
        };
        let refused = prefill(wrong, heads * 128, heads * 128);
        assert!(matches!(refused, Err(LaunchError::Unsupported { .. })));
    }
    let blind = Attention {
        window: Some(0),
        ..attention()
    };
    let refused = prefill(blind, size, size);
    assert!(matches!(
        refused,
        Err(LaunchError::Unsupported { value: 0, .. })
    ));
    let other = CacheShape { blocks: 3, ..SHAPE };
    let smaller = Cache::new(&Idle, other).unwrap();
    let (q, mut out) = (halves(size), halves(size));
    let refused = launch::prefill(&Idle, attention(), &q, &smaller, None, &plan, &mut out);
    assert!(matches!(refused, Err(LaunchError::Unsupported { .. })));
}

#[test]
fn decode_takes_one_token_of_each_sequence_and_room_for_its_parts() {
    let cache = Cache::new(&Idle, SHAPE).unwrap();
    let decode = |new_tokens, room| {
        let plan = plan(&[step(new_tokens, 20, &[0, 1])]).unwrap();
        let size = new_tokens * 4 * 64;
        let (q, mut out) = (halves(size), halves(size));
        let scratch = Scratch::new(&Idle, 1, room, HeadDim::D64, 20).unwrap();
        let scratch = &scratch;
        launch::decode(
            &Idle,
            attention(),
            &q,
            &cache,
            None,
            &plan,
            scratch,
            &mut out,
        )
    };
    assert!(decode(1, 4).is_ok());
    assert!(matches!(
        decode(2, 8),
        Err(LaunchError::Unsupported { value: 2, .. })
    ));
    assert!(matches!(decode(1, 3), Err(LaunchError::Length { .. })));
}

#[test]
fn rows_of_another_shape_are_not_launched() {
    let norm = Norm {
        epsilon: 1e-6,
        offset: 0.0,
    };
    let rms_norm = |columns, residual: usize| {
        let mut x = halves(residual);
        let mut out = halves(residual);
        launch::rms_norm(&Idle, norm, &mut x, None, &halves(columns), &mut out)
    };
    assert!(rms_norm(64, 128).is_ok());
    assert!(matches!(rms_norm(64, 130), Err(LaunchError::Length { .. })));
    for (columns, residual) in [(60, 120), (0, 0), (16_392, 16_392), (64, 0)] {
        let refused = rms_norm(columns, residual);
        assert!(
            matches!(refused, Err(LaunchError::Unsupported { .. })),
            "{columns}"
        );
    }
    let gate = |columns, input, out| {
        let mut out = halves(out);
        launch::gate(&Idle, Activation::Silu, columns, &halves(input), &mut out)
    };
    assert!(gate(8, 32, 16).is_ok());
    assert!(matches!(gate(8, 16, 16), Err(LaunchError::Length { .. })));
    assert!(matches!(
        gate(9, 36, 18),
        Err(LaunchError::Unsupported { .. })
    ));
    assert!(matches!(
        gate(0, 0, 0),
        Err(LaunchError::Unsupported { .. })
    ));
    let gemm = |m, n, k, out| {
        let shape = Gemm { m, n, k };
        let (left, right) = (halves(m * k), halves(n * k));
        let mut out: Tensor<_, Bf16> = halves(out);
        launch::gemm(&Idle, shape, &left, &right, None, &mut out)
    };
    assert!(gemm(3, 8, 16, 24).is_ok());
    assert!(matches!(
        gemm(3, 8, 16, 25),
        Err(LaunchError::Length { .. })
    ));
    for (m, n, k) in [(0, 8, 16), (3, 4, 16), (3, 8, 8), (3, 8, 0)] {
        let refused = gemm(m, n, k, m * n);
        assert!(matches!(refused, Err(LaunchError::Unsupported { .. })));
    }
    let ids = Tensor::from(&Idle, &[0u32]).unwrap();
    let refused = launch::embed(&Idle, 8, 1.0, &halves(23), &ids, &mut halves(8));
    assert!(matches!(refused, Err(LaunchError::Length { .. })));
    let logits = Tensor::from(&Idle, &[0f32; 7]).unwrap();
    let choices = Choice::send(&Idle, &[Choice::GREEDY]).unwrap();
    let mut out = Tensor::empty(&Idle, 1).unwrap();
    let refused = launch::sample(&Idle, 8, &logits, None, None, &choices, &mut out);
    assert!(matches!(refused, Err(LaunchError::Length { found: 7, .. })));
}

#[test]
fn a_plan_is_one_copy_and_decode_two_launches() {
    let device = Recorder::new(Idle);
    let cache = Cache::new(&device, SHAPE).unwrap();
    let (q, mut out) = (halves(512), halves(512));
    let scratch = Scratch::new(&device, 2, 4, HeadDim::D64, 20).unwrap();
    device.take();
    let steps = [step(1, 17, &[2, 0]), step(1, 17, &[2, 1])];
    let plan = Plan::new(&device, SHAPE, &steps).unwrap();
    assert_eq!(device.take().writes, 1);
    let scratch = &scratch;
    launch::decode(
        &device,
        attention(),
        &q,
        &cache,
        None,
        &plan,
        scratch,
        &mut out,
    )
    .unwrap();
    let expected = Counts {
        launches: 2,
        ..Counts::default()
    };
    assert_eq!(device.take(), expected);
    out.read(&device).unwrap();
    let counts = device.take();
    assert_eq!((counts.reads, counts.read_bytes), (1, 1024));
}
