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

/// A random rotation: what goes in, where to, and by what.
struct Turn {
    shape: CacheShape,
    heads: usize,
    steps: [SequenceStep; 2],
    input: Vec<Bf16>,
    /// Cosine and sine.
    tables: [Vec<f32>; 2],
    /// Of queries and of keys.
    weights: [Vec<Bf16>; 2],
    norm: Option<Norm>,
}

impl Turn {
    fn new(chance: &mut Chance, dim: HeadDim) -> Self {
        let shape = CacheShape {
            blocks: 9,
            kv_heads: chance.within(1, 4),
            page_shift: 4,
            dim,
        };
        let (heads, size) = (shape.kv_heads * chance.within(1, 4), dim.size());
        let new_tokens = chance.within(1, 20);
        let steps = [(new_tokens, 13, [7, 2, 5]), (1, 16, [0, 8, 3])];
        let norm = Norm {
            epsilon: 1e-5,
            offset: 0.0,
        };
        let count = 40 * size / 2;
        Self {
            shape,
            heads,
            steps: steps.map(|(new_tokens, before, blocks)| SequenceStep {
                new_tokens,
                length: before + new_tokens,
                blocks: blocks.to_vec(),
            }),
            input: chance.halves((new_tokens + 1) * (heads + 2 * shape.kv_heads) * size, 2.0),
            tables: [(); 2].map(|()| (0..count).map(|_| chance.float(1.0)).collect()),
            weights: [(); 2].map(|()| chance.halves(size, 2.0)),
            norm: (chance.within(0, 1) == 0).then_some(norm),
        }
    }

    /// Writes what is to be in the cache; answers the queries.
    fn expected(&self, keys: &mut [Bf16], values: &mut [Bf16]) -> Vec<Bf16> {
        let (size, kv_heads) = (self.shape.dim.size(), self.shape.kv_heads);
        let places = self.steps.iter().flat_map(|step| {
            let positions = step.length - step.new_tokens..step.length;
            positions.map(|position| (position, step.blocks[position / 16] as usize))
        });
        let mut queries = Vec::new();
        let mut inputs = self.input.chunks_exact(size);
        for (position, block) in places {
            let [cosine, sine] = [0, 1].map(|i| &self.tables[i][position * size / 2..][..size / 2]);
            let mut turned = |weight: &[Bf16]| {
                let norm = self.norm.map(|norm| (norm, weight));
                let head = inputs.next().unwrap_or_default();
                (head, reference::rope_head(head, norm, cosine, sine))
            };
            (0..self.heads).for_each(|_| queries.extend(turned(&self.weights[0]).1));
            let place = |head| ((block * kv_heads + head) * 16 + position % 16) * size;
            for head in 0..kv_heads {
                keys[place(head)..][..size].copy_from_slice(&turned(&self.weights[1]).1);
            }
            for head in 0..kv_heads {
                values[place(head)..][..size].copy_from_slice(turned(&self.weights[1]).0);
            }
        }
        queries
    }
}

/// Queries, and what the cache holds after, in places of the step and elsewhere.
pub fn rope<D: Device>(device: &D, dim: HeadDim, seed: u64) -> Result<Nearness, CheckError> {
    let turn = Turn::new(&mut Chance(seed), dim);
    let plan = Plan::new(device, turn.shape, &turn.steps)?;
    let mut cache = Cache::new(device, turn.shape)?;
    let mut keys = vec![Bf16(0x7fff); turn.shape.elements()];
    let mut values = keys.clone();
    cache.keys.write(device, &keys)?;
    cache.values.write(device, &values)?;
    let query = &Tensor::from(device, &turn.weights[0])?;
    let key = &Tensor::from(device, &turn.weights[1])?;
    let mut q = unwritten(device, plan.tokens() * turn.heads * dim.size())?;
    let tables = Rope {
        heads: turn.heads,
        norms: turn.norm.map(|norm| HeadNorms { norm, query, key }),
        cosine: &Tensor::from(device, &turn.tables[0])?,
        sine: &Tensor::from(device, &turn.tables[1])?,
    };
    let input = Tensor::from(device, &turn.input)?;
    launch::rope(device, &tables, &input, &plan, &mut q, &mut cache)?;

    let queries = turn.expected(&mut keys, &mut values);
    same("rope", &cache.keys.read(device)?, &keys, WHEN)?;
    same("rope", &cache.values.read(device)?, &values, WHEN)?;
    same("rope", &q.read(device)?, &queries, WHEN)
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
