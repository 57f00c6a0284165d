//! Kernels broken on purpose: the emulation and the checks see each fault.

#![allow(clippy::unwrap_used, clippy::panic)] // as in unit tests

mod support;

use std::fs;
use std::path::Path;

use kernels::HeadDim;
use kernels::check::{self, CheckError, Nearness};
use support::Emulation;

type Check = fn(&Emulation, u64) -> Result<Nearness, CheckError>;

/// A file, what stands in it once, what is put there, and the check that must fail.
type Fault = (&'static str, &'static str, &'static str, Check);

const PREFILL: Check = |device, seed| check::prefill(device, HeadDim::D64, seed);
const DECODE: Check = |device, seed| check::decode(device, HeadDim::D80, seed);
const ROPE: Check = |device, seed| check::rope(device, HeadDim::D96, seed);

/// A barrier or a wait left out, a bound off by one.
const FORGOTTEN: &[Fault] = &[
    (
        "attention_prefill.cu",
        "block_sync(); // the next keys",
        "//",
        PREFILL,
    ),
    ("attention_decode.cu", "wait<1>();", "", DECODE),
    ("gemm.cu", "block_sync(); // this stage", "//", check::gemm),
    ("norm.cu", "block_sync();", "", check::rms_norm),
    (
        "gate.cu",
        "if (place >= rows * eights) return;",
        "",
        check::gate,
    ),
    (
        "embed.cu",
        "id < vocabulary",
        "id <= vocabulary",
        check::embed,
    ),
    (
        "rope.cu",
        "if (!there) return;\n    bf16 *to;",
        "bf16 *to;",
        ROPE,
    ),
    (
        "sample.cu",
        "block_sync();\n            if (thread_x() == 0) {",
        "if (thread_x() == 0) {",
        check::sample,
    ),
    (
        "logits.cu",
        "block_sync();\n\n    u64 best",
        "u64 best",
        check::logits,
    ),
];

/// Another meaning: masks, paging, operands, order.
const MISTAKEN: &[Fault] = &[
    (
        "attention_prefill.cu",
        "first / columns * columns",
        "first",
        PREFILL,
    ),
    (
        "attention_decode.cu",
        "first + row < end;\n        copy_async(to + place,",
        "first + row <= end;\n        copy_async(to + place,",
        DECODE,
    ),
    (
        "gemm.cu",
        "rows[i], columns[2], columns[3]",
        "rows[i], columns[3], columns[2]",
        check::gemm,
    ),
    (
        "norm.cu",
        "(offset + scale.at[j])",
        "scale.at[j] + offset",
        check::rms_norm,
    ),
    ("gate.cu", "kind == 0 ?", "kind == 1 ?", check::gate),
    (
        "rope.cu",
        "slots[token] & ((1 << page_shift) - 1)",
        "slots[token] & (1 << page_shift)",
        ROPE,
    ),
    (
        "sample.cu",
        "histogram[digit] < target",
        "histogram[digit] <= target",
        check::sample,
    ),
    ("logits.cu", "here < below", "here <= below", check::logits),
    (
        "wipe.cu",
        "(long)block_y() * blocks + id",
        "(long)block_y() + id",
        check::wipe,
    ),
];

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// All at once, as each is another kernel's.
fn are_seen(faults: &[Fault]) {
    let folder = tempfile::tempdir().unwrap();
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["cuda", "emulation", "ladder"] {
        copy(&kernels.join(part), &folder.path().join(part));
    }
    for (file, sound, broken, _) in faults {
        let path = folder.path().join("cuda").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches(sound).count(), 1, "{file}: {sound}");
        fs::write(path, text.replace(sound, broken)).unwrap();
    }
    let Some(program) = support::compile(folder.path(), folder.path().join("emulate"), "-w") else {
        return;
    };
    for (file, sound, _, check) in faults {
        let mut seeds = 0..40;
        // One that reads or writes where it may not ends the process: each has its own.
        let seen = seeds.any(|seed| check(&Emulation::of(&program, 1), seed).is_err());
        assert!(seen, "{file}: nobody saw what came of {sound}");
    }
}

#[test]
fn a_forgotten_barrier_wait_or_bound_is_seen() {
    are_seen(FORGOTTEN);
}

#[test]
fn a_mistaken_mask_place_or_order_is_seen() {
    are_seen(MISTAKEN);
}
