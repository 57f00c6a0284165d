//! Attention and products.

use super::{Chance, CheckError, Nearness, floats, near, same, unwritten};
use crate::launch::{self, Attention, Gemm, Rung, Scratch};
use crate::reference::{self, AttentionInput, Bounded};
use crate::{Bf16, Cache, CacheShape, Device, HeadDim, Plan, SequenceStep, Tensor};

#[derive(Clone, Copy)]
enum Kernel {
    Prefill(Rung),
    Decode,
}

const SHIPPED: Kernel = Kernel::Prefill(Rung::Shipped);

/// A random step over a random cache.
struct Case<M> {
    attention: Attention,
    shape: CacheShape,
    steps: Vec<SequenceStep>,
    q: Vec<Bf16>,
    keys: Vec<Bf16>,
    values: Vec<Bf16>,
    sinks: Option<Vec<f32>>,
    cache: Cache<M>,
}

impl<M> Case<M> {
    fn new<D: Device<Memory = M>>(
        device: &D,
        chance: &mut Chance,
        dim: HeadDim,
        groups: &[usize],
        lengths: &[(usize, usize)],
    ) -> Result<Self, CheckError> {
        let kv_heads = chance.within(1, 2);
        let group = chance.one_of(groups);
        let page_shift = chance.within(2, 6) as u32;
        let page = 1 << page_shift;
        let needed: usize = lengths.iter().map(|(_, all)| all.div_ceil(page)).sum();
        let mut free: Vec<u32> = (0..needed as u32 + 3).collect();
        let mut steps = Vec::new();
        for (new_tokens, length) in lengths {
            let blocks = (0..length.div_ceil(page)).map(|_| {
                let index = chance.within(0, free.len() - 1);
                free.swap_remove(index)
            });
            steps.push(SequenceStep {
                new_tokens: *new_tokens,
                length: *length,
                blocks: blocks.collect(),
            });
        }
        let shape = CacheShape {
            blocks: needed + 3,
            kv_heads,
            page_shift,
            dim,
        };
        let attention = Attention {
            heads: kv_heads * group,
            scale: 1.0 / (dim.size() as f32).sqrt(),
            cap: (chance.within(0, 2) == 0).then_some(5.0),
            window: (chance.within(0, 1) == 0).then(|| chance.within(1, 150)),
        };
        let tokens: usize = lengths.iter().map(|(new, _)| new).sum();
        let sinks = (0..attention.heads).map(|_| chance.float(4.0)).collect();
        let mut case = Self {
            attention,
            shape,
            q: chance.halves(tokens * attention.heads * dim.size(), 4.0),
            keys: vec![Bf16(0x7fff); shape.elements()],
            values: vec![Bf16(0x7fff); shape.elements()],
            sinks: (chance.within(0, 2) == 0).then_some(sinks),
            cache: Cache::new(device, shape)?,
            steps,
        };
        case.fill(device, chance)?;
        Ok(case)
    }

    /// Only places of tokens hold numbers: a read elsewhere shows.
    fn fill<D: Device<Memory = M>>(
        &mut self,
        device: &D,
        chance: &mut Chance,
    ) -> Result<(), CheckError> {
        let dim = self.shape.dim.size();
        for sequence in 0..self.steps.len() {
            for position in 0..self.steps[sequence].length {
                for head in 0..self.shape.kv_heads {
                    let at = self.place(sequence, position, head);
                    self.keys[at..at + dim].copy_from_slice(&chance.halves(dim, 1.0));
                    self.values[at..at + dim].copy_from_slice(&chance.halves(dim, 2.0));
                }
            }
        }
        let (keys, values) = self.cache.parts();
        keys.write(device, &self.keys)?;
        values.write(device, &self.values)?;
        Ok(())
    }

    fn place(&self, sequence: usize, position: usize, kv_head: usize) -> usize {
        let page = self.shape.page_tokens();
        let block = self.steps[sequence].blocks[position / page] as usize;
        ((block * self.shape.kv_heads + kv_head) * page + position % page) * self.shape.dim.size()
    }

    fn expected(&self) -> Vec<Bounded> {
        let dim = self.shape.dim.size();
        let group = self.attention.heads / self.shape.kv_heads;
        let mut queries = self.q.chunks_exact(dim);
        let mut expected = Vec::new();
        for (sequence, step) in self.steps.iter().enumerate() {
            for position in step.length - step.new_tokens..step.length {
                for head in 0..self.attention.heads {
                    let at = |position| self.place(sequence, position, head / group);
                    let input = AttentionInput {
                        query: queries.next().unwrap_or_default(),
                        position,
                        key: &|position| &self.keys[at(position)..][..dim],
                        value: &|position| &self.values[at(position)..][..dim],
                        sink: self.sinks.as_ref().map(|sinks| sinks[head]),
                    };
                    expected.extend(reference::attention(self.attention, &input));
                }
            }
        }
        expected
    }

    /// Runs some of the steps; `q` is theirs.
    fn run<D: Device<Memory = M>>(
        &self,
        device: &D,
        steps: &[SequenceStep],
        q: &[Bf16],
        kernel: Kernel,
    ) -> Result<Vec<Bf16>, CheckError> {
        let plan = Plan::new(device, self.shape, steps)?;
        let mut out = unwritten(device, q.len())?;
        let q = Tensor::from(device, q)?;
        let sinks = self.sinks.as_ref().map(|sinks| Tensor::from(device, sinks));
        let sinks = sinks.transpose()?;
        let (attention, cache, sinks) = (self.attention, &self.cache, sinks.as_ref());
        if let Kernel::Prefill(rung) = kernel {
            launch::prefill_by(device, rung, attention, &q, cache, sinks, &plan, &mut out)?;
        } else {
            let longest = steps.iter().map(|step| step.length).max().unwrap_or(0);
            let (heads, dim) = (attention.heads, self.shape.dim);
            let scratch = Scratch::new(device, steps.len(), heads, dim, longest)?;
            let scratch = &scratch;
            launch::decode(
                device, attention, &q, cache, sinks, &plan, scratch, &mut out,
            )?;
        }
        Ok(out.read(device)?)
    }
}

/// Prefill of up to three sequences: near the reference; the same bits when it runs again, alone,
/// and cut into chunks.
pub fn prefill<D: Device>(device: &D, dim: HeadDim, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let lengths: Vec<_> = (0..chance.within(1, 3))
        .map(|_| {
            let new_tokens = chance.one_of(&[1, 2, 17, 63, 64, 65, 100, 130]);
            let before = chance.one_of(&[0, 0, 1, 31, 64, 90]);
            (new_tokens, new_tokens + before)
        })
        .collect();
    let case = Case::new(device, chance, dim, &[1, 2, 3], &lengths)?;
    let found = case.run(device, &case.steps, &case.q, SHIPPED)?;
    let kernel = "attention_prefill";
    let nearness = near(kernel, floats(&found), case.expected())?;
    let again = case.run(device, &case.steps, &case.q, SHIPPED)?;
    same(kernel, &again, &found, "when it runs again")?;
    let row = case.attention.heads * dim.size();
    let mut from = 0;
    for step in &case.steps {
        let cut = chance.within(0, step.new_tokens - 1);
        for (skipped, new_tokens) in [(0, cut), (cut, step.new_tokens - cut)] {
            if new_tokens == 0 {
                continue;
            }
            let part = SequenceStep {
                new_tokens,
                length: step.length - step.new_tokens + skipped + new_tokens,
                blocks: step.blocks.clone(),
            };
            let tokens = (from + skipped) * row..(from + skipped + new_tokens) * row;
            let alone = case.run(device, &[part], &case.q[tokens.clone()], SHIPPED)?;
            same(kernel, &alone, &found[tokens], "alone and in chunks")?;
        }
        from += step.new_tokens;
    }
    Ok(nearness)
}

/// A version of prefill that teaches: near the reference, and the same bits again.
pub fn rung<D: Device>(device: &D, rung: Rung, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let lengths = [(chance.within(1, 70), 0), (1, 40)];
    let lengths = lengths.map(|(new_tokens, before)| (new_tokens, new_tokens + before));
    let case = Case::new(device, chance, HeadDim::D128, &[1, 2], &lengths)?;
    let found = case.run(device, &case.steps, &case.q, Kernel::Prefill(rung))?;
    let nearness = near("ladder_prefill", floats(&found), case.expected())?;
    let again = case.run(device, &case.steps, &case.q, Kernel::Prefill(rung))?;
    same("ladder_prefill", &again, &found, "when it runs again")?;
    Ok(nearness)
}

/// Decode of up to five sequences: near the reference; the same bits again, and alone.
pub fn decode<D: Device>(device: &D, dim: HeadDim, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let lengths: Vec<_> = (0..chance.within(1, 5))
        .map(|_| {
            (
                1,
                chance.one_of(&[1, 15, 16, 17, 63, 64, 65, 300, 511, 512, 513, 1100]),
            )
        })
        .collect();
    let groups = [1, 2, 3, 4, 7, 8, 16, 18];
    let case = Case::new(device, chance, dim, &groups, &lengths)?;
    let found = case.run(device, &case.steps, &case.q, Kernel::Decode)?;
    let kernel = "attention_decode";
    let nearness = near(kernel, floats(&found), case.expected())?;
    let again = case.run(device, &case.steps, &case.q, Kernel::Decode)?;
    same(kernel, &again, &found, "when it runs again")?;
    let row = case.attention.heads * dim.size();
    for (index, step) in case.steps.iter().enumerate() {
        let range = index * row..(index + 1) * row;
        let steps = std::slice::from_ref(step);
        let alone = case.run(device, steps, &case.q[range.clone()], Kernel::Decode)?;
        same(kernel, &alone, &found[range], "alone")?;
    }
    Ok(nearness)
}

/// A product: near the reference; the same bits again, and for one row alone.
pub fn gemm<D: Device>(device: &D, seed: u64) -> Result<Nearness, CheckError> {
    let chance = &mut Chance(seed);
    let shape = Gemm {
        m: chance.one_of(&[1, 2, 15, 16, 17, 40, 64, 65, 128, 129, 200]),
        n: chance.within(1, 36) * 8,
        k: chance.within(1, 24) * 16,
    };
    let left = chance.halves(shape.m * shape.k, 2.0);
    let right = chance.halves(shape.n * shape.k, 2.0);
    let bias = (chance.within(0, 1) == 0).then(|| chance.halves(shape.n, 4.0));
    let kernel = "gemm";
    let weights = Tensor::from(device, &right)?;
    let added = bias.as_ref().map(|bias| Tensor::from(device, bias));
    let added = added.transpose()?;
    let run = |m: usize, left: &[Bf16]| -> Result<(Vec<Bf16>, Vec<f32>), CheckError> {
        let shape = Gemm { m, ..shape };
        let left = Tensor::from(device, left)?;
        let mut half = unwritten(device, m * shape.n)?;
        let mut wide = Tensor::<_, f32>::empty(device, m * shape.n)?;
        launch::gemm(device, shape, &left, &weights, added.as_ref(), &mut half)?;
        launch::gemm(device, shape, &left, &weights, added.as_ref(), &mut wide)?;
        Ok((half.read(device)?, wide.read(device)?))
    };
    let (half, wide) = run(shape.m, &left)?;
    let expected = |is_wide| {
        let (left, right, bias) = (&left, &right, &bias);
        (0..shape.m * shape.n).map(move |element| {
            let (row, column) = (element / shape.n, element % shape.n);
            let left = &left[row * shape.k..][..shape.k];
            let right = &right[column * shape.k..][..shape.k];
            let bias = bias.as_ref().map(|bias| bias[column]);
            reference::gemm(shape, left, right, bias, is_wide)
        })
    };
    let nearness = near(kernel, floats(&half), expected(false))?;
    near(kernel, wide.iter().copied(), expected(true))?;
    let rounded: Vec<Bf16> = wide.iter().map(|x| Bf16::from_f32(*x)).collect();
    same(kernel, &rounded, &half, "in f32")?;
    same(kernel, &run(shape.m, &left)?.0, &half, "when it runs again")?;
    let row = chance.within(0, shape.m - 1);
    let (alone, _) = run(1, &left[row * shape.k..][..shape.k])?;
    same(kernel, &alone, &half[row * shape.n..][..shape.n], "alone")?;
    Ok(nearness)
}
