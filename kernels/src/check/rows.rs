//! Norms, rotation, gates, embedding: bit for bit.

use super::{Chance, CheckError, Nearness, same, unwritten};
use crate::launch::{self, Activation, HeadNorms, Norm, Rope};
use crate::{Bf16, Cache, CacheShape, Device, HeadDim, Plan, SequenceStep, Tensor, reference};

const WHEN: &str = "than the reference";

/// With and without a delta.
pub fn rms_norm<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let rows = chance.within(1, 5);
    let columns = chance.one_of(&[8, 64, 576, 1024, 2048, 2056, 4096, 16_384]);
    let norm = Norm {
        epsilon: 1e-6,
        offset: chance.one_of(&[0.0, 1.0]),
    };
    let mut residual = chance.halves(rows * columns, 3.0);
    let delta = (chance.within(0, 1) == 0).then(|| chance.halves(rows * columns, 3.0));
    let weight = chance.halves(columns, 2.0);
    let mut on_device = Tensor::from(device, &residual)?;
    let added = delta.as_ref().map(|delta| Tensor::from(device, delta));
    let added = added.transpose()?;
    let scale = Tensor::from(device, &weight)?;
    let mut out = unwritten(device, rows * columns)?;
    launch::rms_norm(
        device,
        norm,
        &mut on_device,
        added.as_ref(),
        &scale,
        &mut out,
    )?;
    let mut expected = Vec::new();
    for (row, x) in residual.chunks_exact_mut(columns).enumerate() {
        let delta = delta
            .as_ref()
            .map(|delta| &delta[row * columns..][..columns]);
        expected.extend(reference::rms_norm(norm, x, delta, &weight));
    }
    same("rms_norm", &on_device.read(device)?, &residual, WHEN)?;
    same("rms_norm", &out.read(device)?, &expected, WHEN)
}

/// Queries, and what the cache holds after, in places of the step and elsewhere.
pub fn rope<D: Device>(device: &D, dim: HeadDim, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let shape = CacheShape {
        blocks: 9,
        kv_heads: chance.within(1, 4),
        page_shift: 4,
        dim,
    };
    let (heads, size) = (shape.kv_heads * chance.within(1, 4), dim.size());
    let new_tokens = chance.within(1, 20);
    let steps = [
        SequenceStep {
            new_tokens,
            length: new_tokens + 13,
            blocks: vec![7, 2, 5],
        },
        SequenceStep {
            new_tokens: 1,
            length: 17,
            blocks: vec![0, 8],
        },
    ];
    let (tokens, all) = (new_tokens + 1, heads + 2 * shape.kv_heads);
    let input = chance.halves(tokens * all * size, 2.0);
    let tables: [Vec<f32>; 2] = std::array::from_fn(|_| {
        let count = 40 * size / 2;
        (0..count).map(|_| chance.float(1.0)).collect()
    });
    let weights: [Vec<Bf16>; 2] = std::array::from_fn(|_| chance.halves(size, 2.0));
    let norm = Norm {
        epsilon: 1e-5,
        offset: 0.0,
    };
    let has_norms = chance.within(0, 1) == 0;

    let plan = Plan::new(device, shape, &steps)?;
    let mut cache = Cache::new(device, shape)?;
    let mut expected_cache = [(); 2].map(|()| vec![Bf16(0x7fff); shape.elements()]);
    cache.keys.write(device, &expected_cache[0])?;
    cache.values.write(device, &expected_cache[1])?;
    let on_device = [0, 1].map(|i| Tensor::from(device, &weights[i]));
    let [q_weight, k_weight] = on_device;
    let (q_weight, k_weight) = (q_weight?, k_weight?);
    let mut q = unwritten(device, tokens * heads * size)?;
    launch::rope(
        device,
        &Rope {
            heads,
            norms: has_norms.then_some(HeadNorms {
                norm,
                query: &q_weight,
                key: &k_weight,
            }),
            cosine: &Tensor::from(device, &tables[0])?,
            sine: &Tensor::from(device, &tables[1])?,
        },
        &Tensor::from(device, &input)?,
        &plan,
        &mut q,
        &mut cache,
    )?;

    let mut expected_q = Vec::new();
    let places = steps.iter().flat_map(|step| {
        let positions = step.length - step.new_tokens..step.length;
        positions.map(|position| (position, step.blocks[position / 16] as usize))
    });
    for (token, (position, block)) in places.enumerate() {
        let [cosine, sine] = [0, 1].map(|i| &tables[i][position * size / 2..][..size / 2]);
        for head in 0..all {
            let x = &input[(token * all + head) * size..][..size];
            let is_query = head < heads;
            let weight = &weights[usize::from(!is_query)];
            let norm = has_norms.then_some((norm, weight.as_slice()));
            if is_query {
                expected_q.extend(reference::rope_head(x, norm, cosine, sine));
                continue;
            }
            let is_value = head >= heads + shape.kv_heads;
            let kv_head = (head - heads) % shape.kv_heads;
            let at = ((block * shape.kv_heads + kv_head) * 16 + position % 16) * size;
            let new = match is_value {
                true => x.to_vec(),
                false => reference::rope_head(x, norm, cosine, sine),
            };
            expected_cache[usize::from(is_value)][at..at + size].copy_from_slice(&new);
        }
    }
    same("rope", &cache.keys.read(device)?, &expected_cache[0], WHEN)?;
    same(
        "rope",
        &cache.values.read(device)?,
        &expected_cache[1],
        WHEN,
    )?;
    same("rope", &q.read(device)?, &expected_q, WHEN)
}

/// Both activations.
pub fn gate<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let (rows, columns) = (chance.within(1, 7), chance.within(1, 90) * 8);
    let activation = chance.one_of(&[Activation::Silu, Activation::GeluTanh]);
    let size = chance.one_of(&[1.0, 20.0, 200.0]);
    let input = chance.halves(rows * 2 * columns, size);
    let on_device = Tensor::from(device, &input)?;
    let mut out = unwritten(device, rows * columns)?;
    launch::gate(device, activation, columns, &on_device, &mut out)?;
    let pairs = input.chunks_exact(2 * columns).flat_map(|row| {
        let (gate, up) = row.split_at(columns);
        gate.iter().zip(up)
    });
    let expected: Vec<Bf16> = pairs
        .map(|(gate, up)| reference::gate(activation, *gate, *up))
        .collect();
    same("gate", &out.read(device)?, &expected, WHEN)
}

/// With ids that the table has, and one that it does not have.
pub fn embed<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let (vocabulary, columns) = (chance.within(1, 50), chance.within(1, 300) * 8);
    let scale = chance.one_of(&[1.0, 33.9]);
    let table = chance.halves(vocabulary * columns, 2.0);
    let mut ids: Vec<u32> = (0..chance.within(1, 9))
        .map(|_| chance.within(0, vocabulary - 1) as u32)
        .collect();
    ids.push(vocabulary as u32);
    ids.push(u32::MAX);
    let mut out = Tensor::from(device, &vec![Bf16(0); ids.len() * columns])?;
    let on_device = Tensor::from(device, &table)?;
    let named = Tensor::from(device, &ids)?;
    launch::embed(device, columns, scale, &on_device, &named, &mut out)?;
    let rows = ids
        .iter()
        .flat_map(|id| reference::embed(&table, columns, *id, scale));
    same("embed", &out.read(device)?, &rows.collect::<Vec<_>>(), WHEN)
}
