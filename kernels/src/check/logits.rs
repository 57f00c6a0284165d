//! What stands around the choice of tokens, and wiping: bit for bit.

use super::{Chance, CheckError, Nearness, same};
use crate::launch::{self, Entry, Record, Rows};
use crate::{Bf16, Cache, CacheShape, Device, HeadDim, Inbox, Parcel, Tensor, reference};

fn entries(chance: &mut Chance, vocabulary: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut token = chance.within(0, 3);
    for _ in 0..chance.one_of(&[0, 1, 5, 300]) {
        if token >= vocabulary {
            break;
        }
        entries.push(Entry {
            token: token as u32,
            bias: chance.float(100.0),
            penalty: chance.one_of(&[0.0, 0.7, -2.0]),
        });
        token += chance.within(1, 3);
    }
    entries
}

fn wrong(kernel: &'static str, element: usize) -> CheckError {
    CheckError::Unsteady {
        kernel,
        element,
        when: "than the reference",
    }
}

/// Where bits differ; one NaN is as good as another.
fn differs(found: &[f32], expected: &[f32]) -> Option<usize> {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    found.iter().zip(expected).position(|pair| !same(pair))
}

/// Biases and penalties are applied and taken back, and each row is reported.
pub fn logits<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let count = chance.within(1, 4);
    let vocabulary = chance.one_of(&[1, 7, 255, 256, 300, 1999]);
    let size = chance.one_of(&[0.5, 9.0, 60.0]);
    let mut given: Vec<f32> = (0..count * vocabulary)
        .map(|_| chance.float(size))
        .collect();
    for _ in 0..chance.within(0, 6) {
        let at = chance.within(0, given.len() - 1);
        let other = given[chance.within(0, given.len() - 1)];
        given[at] = chance.one_of(&[f32::NAN, f32::INFINITY, -0.0, 0.0, other, other]);
    }
    let changes: Vec<Vec<Entry>> = (0..count).map(|_| entries(chance, vocabulary)).collect();
    let taken: Vec<u32> = (0..count)
        .map(|_| chance.within(0, vocabulary) as u32)
        .collect();
    let wanted = |chance: &mut Chance| chance.one_of(&[0, 1, 5, 20, 99, u32::MAX]);
    let wanted: Vec<u32> = (0..count).map(|_| wanted(chance)).collect();

    let mut parcel = Parcel::default();
    let [starts, list] = parcel.entries(&changes);
    let places = [taken.clone(), wanted.clone()].map(|words| parcel.words(words));
    let mut inbox = Inbox::new(device, parcel.len())?;
    inbox.send(device, &parcel)?;
    let on_device = Tensor::from(device, &given)?;
    let rows = Rows {
        vocabulary,
        logits: &on_device,
        starts: &inbox.words(starts)?,
        entries: &inbox.bytes(list)?,
    };
    launch::adjust(device, &rows)?;
    let mut adjusted = given.clone();
    for (row, entries) in adjusted.chunks_exact_mut(vocabulary).zip(&changes) {
        reference::adjust(row, entries);
    }
    if let Some(element) = differs(&on_device.read(device)?, &adjusted) {
        return Err(wrong("adjust", element));
    }
    let mut records = Tensor::empty(device, count * Record::BYTES)?;
    let [taken_there, wanted_there] = places.map(|place| inbox.words(place));
    let (taken_there, wanted_there) = (taken_there?, wanted_there?);
    launch::note(device, &rows, &taken_there, &wanted_there, &mut records)?;
    if let Some(element) = differs(&on_device.read(device)?, &given) {
        return Err(wrong("note", element));
    }
    let found = Record::receive(device, &records)?;
    for (row, found) in found.iter().enumerate() {
        let logits = &given[row * vocabulary..][..vocabulary];
        let expected = reference::note(logits, taken[row], wanted[row]);
        let fault = |record: &Record| (record.token, record.not_finite, record.nothing);
        let equal = match expected.not_finite {
            // Nothing else of it is used.
            true => fault(found) == fault(&expected),
            false => *found == expected,
        };
        if !equal {
            return Err(wrong("note", row));
        }
    }
    Ok(Nearness {
        worst: 0.0,
        elements: count,
    })
}

/// Named blocks are zero in all layers, and no others.
pub fn wipe<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let shape = CacheShape {
        blocks: chance.within(1, 9),
        kv_heads: chance.within(1, 3),
        page_shift: chance.within(0, 4) as u32,
        dim: chance.one_of(&HeadDim::ALL),
    };
    let layers = chance.within(1, 3);
    let mut cache = Cache::of_layers(device, shape, layers)?;
    let block = shape.elements() / shape.blocks;
    let mut expected = chance.halves(layers * shape.elements(), 2.0);
    cache.keys.write(device, &expected)?;
    cache.values.write(device, &expected)?;
    let ids = (0..chance.within(1, 4)).map(|_| chance.within(0, shape.blocks) as u32);
    let ids: Vec<u32> = ids.collect();
    launch::wipe(device, &cache, &Tensor::from(device, &ids)?)?;
    for (place, content) in expected.chunks_exact_mut(block).enumerate() {
        if ids.contains(&((place % shape.blocks) as u32)) {
            content.fill(Bf16(0));
        }
    }
    same(
        "wipe",
        &cache.keys.read(device)?,
        &expected,
        "than the reference",
    )?;
    same(
        "wipe",
        &cache.values.read(device)?,
        &expected,
        "than the reference",
    )
}
