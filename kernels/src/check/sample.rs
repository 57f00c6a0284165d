//! Sampling: token for token.

use super::{Chance, CheckError, Nearness};
use crate::launch::{self, Choice};
use crate::{Device, Tensor, reference};

/// Random rows with every mixture of filters.
pub fn sample<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let rows = chance.within(1, 4);
    let vocabulary = chance.one_of(&[1, 5, 31, 32, 33, 1000, 1024, 3001]);
    let size = chance.one_of(&[0.5, 5.0, 40.0]);
    let mut logits: Vec<f32> = (0..rows * vocabulary).map(|_| chance.float(size)).collect();
    for _ in 0..chance.within(0, 40) {
        let at = chance.within(0, logits.len() - 1);
        let other = logits[chance.within(0, logits.len() - 1)];
        logits[at] = chance.one_of(&[f32::NAN, f32::NEG_INFINITY, -0.0, 0.0, other, other, other]);
    }
    let choices: Vec<Choice> = (0..rows).map(|_| choice(chance, vocabulary)).collect();
    let words = vocabulary.div_ceil(32);
    let allowed = (chance.within(0, 1) == 0).then(|| {
        let bits = (0..rows * words).map(|_| chance.bits() as u32 & chance.bits() as u32);
        bits.collect::<Vec<_>>()
    });
    let counts = (chance.within(0, 1) == 0).then(|| {
        let counts = (0..rows * vocabulary).map(|_| chance.one_of(&[0, 0, 0, 1, 7]));
        counts.collect::<Vec<i32>>()
    });

    let bits = allowed.as_ref().map(|bits| Tensor::from(device, bits));
    let times = counts.as_ref().map(|counts| Tensor::from(device, counts));
    let mut out = Tensor::<_, u32>::empty(device, rows)?;
    launch::sample(
        device,
        vocabulary,
        &Tensor::from(device, &logits)?,
        bits.transpose()?.as_ref(),
        times.transpose()?.as_ref(),
        &Choice::send(device, &choices)?,
        &mut out,
    )?;
    for (row, found) in out.read(device)?.into_iter().enumerate() {
        let expected = reference::sample(
            &logits[row * vocabulary..][..vocabulary],
            allowed.as_ref().map(|bits| &bits[row * words..][..words]),
            counts
                .as_ref()
                .map(|counts| &counts[row * vocabulary..][..vocabulary]),
            &choices[row],
        );
        if found != expected {
            return Err(CheckError::Wrong {
                kernel: "sample",
                element: row,
                found: found.into(),
                expected: expected.into(),
                tolerance: 0.0,
            });
        }
    }
    Ok(Nearness {
        worst: 0.0,
        elements: rows,
    })
}

fn choice(chance: &mut Chance, vocabulary: usize) -> Choice {
    Choice {
        temperature: chance.one_of(&[0.0, 0.3, 1.0, 1.0, 2.0, f32::NAN]),
        top_p: chance.one_of(&[1.0, 1.0, 0.0, 0.3, 0.9, 0.999, f32::NAN]),
        min_p: chance.one_of(&[0.0, 0.0, 0.05, 0.5, 1.0, 7.0]),
        top_k: chance.one_of(&[0, 0, 1, 2, 40, vocabulary as u32, u32::MAX]),
        repetition: chance.one_of(&[1.0, 1.3]),
        presence: chance.one_of(&[0.0, 0.7]),
        frequency: chance.one_of(&[0.0, 0.2]),
        seed: chance.bits(),
        position: chance.bits() >> chance.within(0, 63),
    }
}
