//! Every kernel on the CPU, by its own source, against its reference: shapes, masks, paging,
//! orders of summation, barriers, and the bounds of every memory.

#![allow(clippy::unwrap_used, clippy::panic)] // as in unit tests

mod support;

use kernels::HeadDim;
use kernels::check::{self, CheckError, Nearness};
use kernels::launch::Rung;
use support::Emulation;

/// Random cases of one kernel.
fn cases(count: u64, check: impl Fn(&Emulation, u64) -> Result<Nearness, CheckError>) {
    let Some(emulation) = Emulation::start(1) else {
        return;
    };
    let mut all = Nearness::default();
    for seed in 0..count {
        let nearness = check(&emulation, seed).unwrap_or_else(|error| panic!("{seed}: {error}"));
        all.worst = all.worst.max(nearness.worst);
        all.elements += nearness.elements;
    }
    println!(
        "{} elements, at most {:.2} of the tolerance",
        all.elements, all.worst
    );
    assert!(all.elements > 0);
}

#[test]
fn emulated_prefill_is_near_and_does_not_depend_on_the_batch() {
    for dim in HeadDim::ALL {
        cases(4, |device, seed| check::prefill(device, dim, seed));
    }
}

#[test]
fn each_rung_of_the_ladder_computes_the_same() {
    for rung in [Rung::Naive, Rung::Tiled, Rung::Shipped] {
        cases(4, |device, seed| check::rung(device, rung, seed));
    }
}

#[test]
fn emulated_decode_is_near_and_does_not_depend_on_the_batch() {
    for dim in HeadDim::ALL {
        cases(6, |device, seed| check::decode(device, dim, seed));
    }
}

#[test]
fn emulated_products_are_near_and_do_not_depend_on_the_batch() {
    cases(25, check::gemm);
}

#[test]
fn emulated_norms_have_the_references_bits() {
    cases(30, check::rms_norm);
}

#[test]
fn emulated_rotations_have_the_references_bits() {
    for dim in HeadDim::ALL {
        cases(8, |device, seed| check::rope(device, dim, seed));
    }
}

#[test]
fn emulated_gates_have_the_references_bits() {
    cases(30, check::gate);
}

#[test]
fn emulated_embeddings_have_the_references_bits() {
    cases(20, check::embed);
}

#[test]
fn emulated_sampling_chooses_the_references_tokens() {
    cases(150, check::sample);
}

#[test]
fn emulated_biases_and_reports_have_the_references_bits() {
    cases(120, check::logits);
}

#[test]
fn emulated_wiping_zeroes_the_named_blocks_and_no_others() {
    cases(30, check::wipe);
}
