//! The forward pass: one decoder for every family, driven by its description.

use zeroize::Zeroize;

use crate::cache::{KvCache, Layout};
use crate::cpu::{self, Heads, Pool, Product, Query, linear};
use crate::error::{LoadError, TensorError};
use crate::mlp::{Mlp, MlpBuffers};
use crate::rope::{self, Table};
use crate::spec::{DecoderSpec, LayerSpec, NormSpec};
use crate::weights::{Linear, Matrix, Norm, Tensors};

/// A decoder with its weights.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) spec: DecoderSpec,
    pub(crate) parameters: u64,
    pub(crate) embedding: Matrix,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Norm,
    pub(crate) head: Option<Matrix>,
    /// For each layer.
    pub(crate) layouts: Vec<Heads>,
    /// Distinct tables of rotary frequencies.
    pub(crate) rotations: Vec<Table>,
    /// Lengths beyond which some rotation changes.
    pub(crate) turning_points: Vec<usize>,
}

#[derive(Debug)]
pub(crate) struct Layer {
    /// Index into the tables of frequencies.
    pub(crate) rope: usize,
    pub(crate) attention_norm: Norm,
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) query_norm: Option<Norm>,
    pub(crate) key_norm: Option<Norm>,
    pub(crate) sinks: Option<Vec<f32>>,
    pub(crate) after_attention: Option<Norm>,
    pub(crate) mlp_norm: Norm,
    pub(crate) mlp: Mlp,
    pub(crate) after_mlp: Option<Norm>,
}

/// The part of one sequence that a step reads.
pub(crate) struct Part<'a> {
    pub(crate) tokens: &'a [u32],
    /// Position of the first of them; all before it are in the cache.
    pub(crate) start: usize,
    /// All tokens of the sequence that are known, read or not. See [`Decoder::phase`].
    pub(crate) length: usize,
    /// For each group of layers the sequence's pages, enough for all that these tokens see.
    pub(crate) blocks: &'a [Vec<u32>],
    pub(crate) logits: Logits,
}

/// After which tokens of a part the distribution is wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Logits {
    None,
    Last,
    Every,
}

/// Buffers that steps share. They hold content until they are cleared.
#[derive(Default)]
pub(crate) struct Workspace {
    hidden: Vec<f32>,
    normed: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    mixed: Vec<f32>,
    mlp: MlpBuffers,
    delta: Vec<f32>,
    /// The wanted distributions, or vectors of an embedding model, one after the other.
    pub(crate) logits: Vec<f32>,
}

impl Workspace {
    /// Zeroes everything.
    pub(crate) fn clear(&mut self) {
        let Self {
            hidden,
            normed,
            query,
            key,
            value,
            mixed,
            mlp,
            delta,
            logits,
        } = self;
        let MlpBuffers {
            gate,
            up,
            scores,
            gathered,
            answers,
        } = mlp;
        for buffer in [hidden, normed, query, key, value, mixed, delta, logits] {
            buffer.zeroize();
        }
        for buffer in [gate, up, scores, gathered, answers] {
            buffer.zeroize();
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Decoder {
    /// Takes its weights out of the files, and refuses files with others.
    pub(crate) fn bind(
        spec: DecoderSpec,
        mut tensors: Tensors,
        pool: &Pool,
    ) -> Result<Self, LoadError> {
        let mut ropes = Vec::new();
        let embedding = tensors.matrix(&spec.embedding, pool)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for layer in &spec.layers {
            let rope = ropes.iter().position(|rope| *rope == layer.attention.rope);
            let rope = rope.unwrap_or_else(|| {
                ropes.push(layer.attention.rope.clone());
                ropes.len() - 1
            });
            layers.push(bind_layer(layer, rope, spec.hidden, &mut tensors, pool)?);
        }
        let final_norm = tensors.norm(&spec.final_norm, spec.hidden, pool)?;
        let head = match &spec.head {
            Some(head) => Some(tensors.matrix(head, pool)?),
            None => None,
        };
        let mut turning_points: Vec<usize> = ropes
            .iter()
            .filter_map(|rope| rope.turning_point())
            .collect();
        turning_points.dedup();
        Ok(Self {
            parameters: tensors.finish(&spec.ignored)?,
            layouts: Layout::new(&spec).layers,
            rotations: ropes.iter().map(|rope| rope.table()).collect(),
            turning_points,
            spec,
            embedding,
            layers,
            final_norm,
            head,
        })
    }

    /// A number that changes with a sequence's length where a rotation does (longrope): what was
    /// cached in another phase is of no use, and all tokens have to be read again.
    pub(crate) fn phase(&self, length: usize) -> usize {
        let passed = |point: &&usize| length > **point;
        self.turning_points.iter().filter(passed).count()
    }

    /// Bytes of weights that reading one token takes, experts that are not chosen included.
    pub(crate) fn bytes_per_token(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| {
            let attention = [&layer.query, &layer.key, &layer.value, &layer.output];
            let attention: u64 = attention.iter().map(|l| l.weight.stored_bytes()).sum();
            attention + layer.mlp.stored_bytes()
        });
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        layers.sum::<u64>() + head.stored_bytes()
    }

    /// Reads some tokens of some sequences: fills their cache, and `work.logits` with the wanted
    /// distributions in order. What a sequence gets does not depend on the others.
    pub(crate) fn forward(
        &self,
        pool: &Pool,
        cache: &mut KvCache,
        parts: &[Part<'_>],
        work: &mut Workspace,
    ) {
        let queries = queries(parts);
        let angles = self.angles(&queries);
        self.embed(parts, &mut work.hidden);
        for (layer, layout) in self.layers.iter().zip(&self.layouts) {
            self.attention(
                pool,
                cache,
                layer,
                *layout,
                &queries,
                &angles[layer.rope],
                work,
            );
            self.mlp(pool, layer, work);
        }
        self.distributions(pool, parts, work);
    }

    fn embed(&self, parts: &[Part<'_>], hidden: &mut Vec<f32>) {
        let tokens = parts.iter().flat_map(|part| part.tokens);
        hidden.clear();
        hidden.resize(tokens.clone().count() * self.spec.hidden, 0.0);
        for (token, row) in tokens.zip(hidden.chunks_exact_mut(self.spec.hidden)) {
            self.embedding.copy_row(*token as usize, row);
            if let Some(scale) = self.spec.embedding_scale {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }

    /// For each table of frequencies: the angles of all tokens, one after the other.
    fn angles(&self, queries: &[Query<'_>]) -> Vec<Vec<(f32, f32)>> {
        let tables = self.rotations.iter().map(|table| {
            let mut angles = Vec::with_capacity(queries.len() * table.width());
            for query in queries {
                table.angles(query.position, query.length, &mut angles);
            }
            angles
        });
        tables.collect()
    }

    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        pool: &Pool,
        cache: &mut KvCache,
        layer: &Layer,
        layout: Heads,
        queries: &[Query<'_>],
        angles: &[(f32, f32)],
        work: &mut Workspace,
    ) {
        norm(pool, &layer.attention_norm, &work.hidden, &mut work.normed);
        let read = [
            (&layer.query, &mut work.query),
            (&layer.key, &mut work.key),
            (&layer.value, &mut work.value),
        ];
        apply_all(pool, &work.normed, read);
        norm_in_place(pool, &layer.query_norm, &mut work.query, &mut work.normed);
        norm_in_place(pool, &layer.key_norm, &mut work.key, &mut work.normed);
        let tokens = queries.len();
        rotate(pool, &mut work.query, layout.head_dim, tokens, angles);
        rotate(pool, &mut work.key, layout.head_dim, tokens, angles);

        let width = layout.kv_heads * layout.head_dim;
        let stored = work
            .key
            .chunks_exact(width)
            .zip(work.value.chunks_exact(width));
        for (query, (keys, values)) in queries.iter().zip(stored) {
            cache.store(layout, query.blocks, query.position, keys, values);
        }
        resize(&mut work.mixed, work.query.len());
        cpu::attend(
            pool,
            layout,
            cache.data(),
            queries,
            &work.query,
            layer.sinks.as_deref(),
            &mut work.mixed,
        );
        apply(pool, &layer.output, &work.mixed, &mut work.delta);
        norm_in_place(
            pool,
            &layer.after_attention,
            &mut work.delta,
            &mut work.normed,
        );
        cpu::add(pool, &mut work.hidden, &work.delta);
    }

    fn mlp(&self, pool: &Pool, layer: &Layer, work: &mut Workspace) {
        norm(pool, &layer.mlp_norm, &work.hidden, &mut work.normed);
        layer
            .mlp
            .run(pool, &work.normed, &mut work.mlp, &mut work.delta);
        norm_in_place(pool, &layer.after_mlp, &mut work.delta, &mut work.normed);
        cpu::add(pool, &mut work.hidden, &work.delta);
    }

    fn distributions(&self, pool: &Pool, parts: &[Part<'_>], work: &mut Workspace) {
        let mut wanted = Vec::new();
        let mut end = 0;
        for part in parts {
            let start = end;
            end += part.tokens.len();
            match part.logits {
                Logits::None => {}
                Logits::Last => wanted.push(end - 1),
                Logits::Every => wanted.extend(start..end),
            }
        }
        work.delta.clear();
        for token in &wanted {
            let row = &work.hidden[token * self.spec.hidden..][..self.spec.hidden];
            work.delta.extend_from_slice(row);
        }
        norm(pool, &self.final_norm, &work.delta, &mut work.normed);
        if self.spec.embeds {
            work.logits.clone_from(&work.normed);
            return;
        }
        resize(
            &mut work.logits,
            wanted.len() * self.spec.vocabulary as usize,
        );
        let head = self.head.as_ref().unwrap_or(&self.embedding);
        let ordered = head.in_order(&work.normed);
        let x = ordered.as_ref().map_or(&work.normed[..], |x| x);
        let (weight, bias, out) = (head.view(), None, &mut *work.logits);
        linear(pool, x, &mut [Product { weight, bias, out }]);
        if let Some(cap) = self.spec.logit_cap {
            cpu::cap(pool.level, &mut work.logits, cap);
        }
    }
}

fn bind_layer(
    spec: &LayerSpec,
    rope: usize,
    hidden: usize,
    tensors: &mut Tensors,
    pool: &Pool,
) -> Result<Layer, TensorError> {
    let attention = &spec.attention;
    let mut optional = |spec: &Option<NormSpec>, size| {
        let norm = spec.as_ref().map(|spec| tensors.norm(spec, size, pool));
        norm.transpose()
    };
    let query_norm = optional(&attention.query_norm, attention.head_dim)?;
    let key_norm = optional(&attention.key_norm, attention.head_dim)?;
    let after_attention = optional(&spec.after_attention, hidden)?;
    let after_mlp = optional(&spec.after_mlp, hidden)?;
    let sinks = match &attention.sinks {
        Some(name) => Some(tensors.whole_vector(name, attention.heads, pool)?),
        None => None,
    };
    Ok(Layer {
        rope,
        query_norm,
        key_norm,
        sinks,
        after_attention,
        after_mlp,
        attention_norm: tensors.norm(&spec.attention_norm, hidden, pool)?,
        query: tensors.linear(&attention.query, pool)?,
        key: tensors.linear(&attention.key, pool)?,
        value: tensors.linear(&attention.value, pool)?,
        output: tensors.linear(&attention.output, pool)?,
        mlp_norm: tensors.norm(&spec.mlp_norm, hidden, pool)?,
        mlp: Mlp::bind(&spec.mlp, tensors, pool)?,
    })
}

/// One query for each token, in order.
fn queries<'a>(parts: &[Part<'a>]) -> Vec<Query<'a>> {
    let queries = parts.iter().flat_map(|part| {
        let positions = part.start..part.start + part.tokens.len();
        positions.map(|position| Query {
            position,
            length: part.length,
            blocks: part.blocks,
        })
    });
    queries.collect()
}

/// `out = layer(x)` for each token.
pub(crate) fn apply(pool: &Pool, layer: &Linear, x: &[f32], out: &mut Vec<f32>) {
    apply_all(pool, x, [(layer, out)]);
}

/// The same, for layers that read the same.
pub(crate) fn apply_all<const N: usize>(
    pool: &Pool,
    x: &[f32],
    layers: [(&Linear, &mut Vec<f32>); N],
) {
    let products = layers.map(|(layer, out)| {
        let tokens = x.len() / layer.weight.columns;
        resize(out, tokens * layer.weight.rows);
        let (weight, bias) = (layer.weight.view(), layer.bias.as_deref());
        (layer, Product { weight, bias, out })
    });
    let mut same = Vec::with_capacity(N);
    for (layer, product) in products {
        match layer.weight.in_order(x) {
            Some(ordered) => linear(pool, &ordered, &mut [product]),
            None => same.push(product),
        }
    }
    linear(pool, x, &mut same);
}

/// Normalises stretches of the norm's own size.
fn norm(pool: &Pool, norm: &Norm, x: &[f32], out: &mut Vec<f32>) {
    resize(out, x.len());
    cpu::norms(pool, x, &norm.scale, norm.epsilon, out);
}

fn norm_in_place(pool: &Pool, scale: &Option<Norm>, x: &mut Vec<f32>, scratch: &mut Vec<f32>) {
    if let Some(scale) = scale {
        norm(pool, scale, x, scratch);
        std::mem::swap(x, scratch);
    }
}

/// Rotates every head of every token.
fn rotate(pool: &Pool, x: &mut [f32], head_dim: usize, tokens: usize, angles: &[(f32, f32)]) {
    let alone = x.len() < 1 << 15;
    let rows = x
        .chunks_exact_mut(x.len() / tokens)
        .zip(angles.chunks_exact(angles.len() / tokens));
    pool.for_each(rows, alone, |(token, angles)| {
        token
            .chunks_exact_mut(head_dim)
            .for_each(|head| rope::rotate(head, angles));
    });
}

/// Contents do not matter: every element is written next.
fn resize(buffer: &mut Vec<f32>, size: usize) {
    buffer.resize(size, 0.0);
}

#[cfg(test)]
mod tests;
