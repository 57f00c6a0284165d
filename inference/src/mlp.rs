//! What stands between two attentions: one gated network, or experts and their router.

use crate::cpu::{self, Pool};
use crate::decoder::{apply, apply_all};
use crate::error::TensorError;
use crate::spec::{Activation, ExpertsSpec, GateSpec, GatedSpec, MlpSpec, Routing};
use crate::weights::{Linear, Tensors};

#[derive(Debug)]
pub(crate) enum Mlp {
    Dense(Box<Gated>),
    Experts(Experts),
}

#[derive(Debug)]
pub(crate) struct Gated {
    pub(crate) input: Gate,
    pub(crate) down: Linear,
    pub(crate) activation: Activation,
}

#[derive(Debug)]
pub(crate) enum Gate {
    Two { gate: Linear, up: Linear },
    Interleaved(Linear),
}

#[derive(Debug)]
pub(crate) struct Experts {
    router: Linear,
    chosen: usize,
    routing: Routing,
    experts: Vec<Gated>,
}

/// Buffers; they hold content.
#[derive(Default)]
pub(crate) struct MlpBuffers {
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    pub(crate) scores: Vec<f32>,
    pub(crate) gathered: Vec<f32>,
    pub(crate) answers: Vec<f32>,
}

impl Mlp {
    pub(crate) fn bind(
        spec: &MlpSpec,
        tensors: &mut Tensors,
        pool: &Pool,
    ) -> Result<Self, TensorError> {
        Ok(match spec {
            MlpSpec::Dense(spec) => Self::Dense(Box::new(Gated::bind(spec, tensors, pool)?)),
            MlpSpec::Experts(spec) => Self::Experts(Experts::bind(spec, tensors, pool)?),
        })
    }

    /// Bytes of all weights.
    pub(crate) fn stored_bytes(&self) -> u64 {
        match self {
            Self::Dense(gated) => gated.stored_bytes(),
            Self::Experts(experts) => experts.experts.iter().map(Gated::stored_bytes).sum(),
        }
    }

    /// `out = mlp(x)` for each token.
    pub(crate) fn run(&self, pool: &Pool, x: &[f32], work: &mut MlpBuffers, out: &mut Vec<f32>) {
        match self {
            Self::Dense(gated) => gated.run(pool, x, &mut work.gate, &mut work.up, out),
            Self::Experts(experts) => experts.run(pool, x, work, out),
        }
    }
}

impl Gated {
    fn stored_bytes(&self) -> u64 {
        let input = match &self.input {
            Gate::Two { gate, up } => gate.weight.stored_bytes() + up.weight.stored_bytes(),
            Gate::Interleaved(both) => both.weight.stored_bytes(),
        };
        input + self.down.weight.stored_bytes()
    }

    fn bind(spec: &GatedSpec, tensors: &mut Tensors, pool: &Pool) -> Result<Self, TensorError> {
        let input = match &spec.input {
            GateSpec::Two { gate, up } => Gate::Two {
                gate: tensors.linear(gate, pool)?,
                up: tensors.linear(up, pool)?,
            },
            GateSpec::Interleaved(both) => Gate::Interleaved(tensors.linear(both, pool)?),
        };
        Ok(Self {
            input,
            down: tensors.linear(&spec.down, pool)?,
            activation: spec.activation,
        })
    }

    fn run(
        &self,
        pool: &Pool,
        x: &[f32],
        gate: &mut Vec<f32>,
        up: &mut Vec<f32>,
        out: &mut Vec<f32>,
    ) {
        match &self.input {
            Gate::Two {
                gate: first,
                up: second,
            } => {
                apply_all(pool, x, [(first, &mut *gate), (second, &mut *up)]);
            }
            Gate::Interleaved(both) => {
                apply(pool, both, x, out);
                let (pairs, _) = out.as_chunks::<2>();
                gate.clear();
                gate.extend(pairs.iter().map(|pair| pair[0]));
                up.clear();
                up.extend(pairs.iter().map(|pair| pair[1]));
            }
        }
        match self.activation {
            Activation::Silu => cpu::gate(pool, gate, up),
            Activation::GeluTanh => cpu::gelu_gate(pool, gate, up),
            Activation::Clamped { alpha, limit } => {
                cpu::clamped_gate(pool, gate, up, alpha, limit);
            }
        }
        apply(pool, &self.down, gate, out);
    }
}

impl Experts {
    fn bind(spec: &ExpertsSpec, tensors: &mut Tensors, pool: &Pool) -> Result<Self, TensorError> {
        let experts = spec.experts.iter();
        let experts = experts.map(|expert| Gated::bind(expert, tensors, pool));
        Ok(Self {
            experts: experts.collect::<Result<_, _>>()?,
            router: tensors.linear(&spec.router, pool)?,
            chosen: spec.chosen,
            routing: spec.routing,
        })
    }

    /// Each expert reads its tokens together. A token's answers are added in the order of the
    /// experts, so that its sum does not depend on the other tokens.
    fn run(&self, pool: &Pool, x: &[f32], work: &mut MlpBuffers, out: &mut Vec<f32>) {
        let width = self.router.weight.columns;
        apply(pool, &self.router, x, &mut work.scores);
        let tokens = work.scores.chunks_exact_mut(self.experts.len());
        let choices: Vec<_> = tokens.map(|scores| self.choose(scores)).collect();
        out.clear();
        out.resize(x.len(), 0.0);
        for (number, expert) in self.experts.iter().enumerate() {
            let own = choices.iter().enumerate().filter_map(|(token, chosen)| {
                let choice = chosen.iter().find(|(expert, _)| *expert == number)?;
                Some((token, choice.1))
            });
            let own: Vec<(usize, f32)> = own.collect();
            if own.is_empty() {
                continue;
            }
            work.gathered.clear();
            for (token, _) in &own {
                let token = &x[token * width..][..width];
                work.gathered.extend_from_slice(token);
            }
            let (gate, up) = (&mut work.gate, &mut work.up);
            expert.run(pool, &work.gathered, gate, up, &mut work.answers);
            for ((token, weight), answer) in own.iter().zip(work.answers.chunks_exact(width)) {
                let sums = out[token * width..][..width].iter_mut();
                sums.zip(answer).for_each(|(sum, x)| *sum += x * weight);
            }
        }
    }

    /// The experts with the highest scores, in a draw the first ones, and their weights.
    fn choose(&self, scores: &mut [f32]) -> Vec<(usize, f32)> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
        order.truncate(self.chosen);
        let mut weights: Vec<f32> = match self.routing {
            Routing::OverChosen => order.iter().map(|expert| scores[*expert]).collect(),
            Routing::OverAll => Vec::new(),
        };
        let total = match self.routing {
            Routing::OverChosen => cpu::softmax(&mut weights, None),
            Routing::OverAll => {
                let total = cpu::softmax(scores, None);
                weights.extend(order.iter().map(|expert| scores[*expert]));
                total
            }
        };
        let weights = weights.into_iter().map(|weight| weight / total);
        order.into_iter().zip(weights).collect()
    }
}
