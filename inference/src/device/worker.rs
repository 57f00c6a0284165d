//! The device's thread: takes orders, launches, answers.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender};

use kernels::launch::{self, Attention, Choice, Entry, Gemm, HeadNorms, Record, Rope};
use kernels::{
    Bf16, CacheShape, Device, DeviceError, Draft, LaunchError, Parcel, Place, Plan, PlanError,
    Room, Tensor,
};

use super::blueprint::{Blueprint, StepRoom};
use super::buffers::{Buffers, parcel_words};
use super::step::{Chosen, Order, Rows, drawn};
use super::weights::{LayerWeights, Normed, Product, Weights};
use super::{Answer, DeviceRefusal};
use crate::backend::{Drawn, StepError};
use crate::error::Fault;

/// A device with a model.
pub(super) struct Worker<D: Device> {
    device: D,
    sizes: Sizes,
    weights: Weights<D::Memory>,
    buffers: Buffers<D::Memory>,
    parcel: Parcel,
    /// What decode launches, by its rows and the width of its tables. `None` after the first step
    /// of a kind, which is launched as it is: then all its kernels are loaded, and it may come
    /// again.
    graphs: HashMap<Room, Option<D::Graph>>,
}

#[derive(Clone, Copy)]
struct Sizes {
    vocabulary: usize,
    hidden: usize,
    heads: usize,
    embedding_scale: f32,
    shape: CacheShape,
    room: StepRoom,
}

/// Where the parts of a step's parcel lie.
struct Parts {
    tokens: Place,
    plan: Place,
    last: Place,
    choices: Place,
    entries: [Place; 2],
    wanted: Place,
    freed: Place,
}

/// What the layers of a step work on.
struct Body<M> {
    tokens: Tensor<M, u32>,
    plan: Plan<M>,
    prefills: usize,
    last: Tensor<M, u32>,
}

/// Why a step was not done.
enum Failure {
    Launch(LaunchError),
    /// The scheduler asked for what cannot be: a fault of this program.
    Plan,
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        Self::Launch(error)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        Self::Launch(LaunchError::Device(error))
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Device(error) => error.into(),
            _ => Self::Plan,
        }
    }
}

impl From<Failure> for StepError {
    /// A full device may serve others later; whatever else fails, fails for good.
    fn from(failure: Failure) -> Self {
        let Failure::Launch(LaunchError::Device(error)) = failure else {
            return Self::Stopped(Fault::Broken);
        };
        match error {
            DeviceError::OutOfMemory { .. } => Self::Withheld,
            DeviceError::Lost { code } => Self::Stopped(Fault::Lost { code }),
            DeviceError::Driver { code } => Self::Stopped(Fault::Refused { code }),
            _ => Self::Stopped(Fault::Broken),
        }
    }
}

impl<D: Device> Worker<D> {
    /// Brings the weights onto the device, and zeroes the cache.
    pub(super) fn new(device: D, print: Blueprint) -> Result<Self, DeviceRefusal> {
        let mut worker = Self {
            sizes: Sizes {
                vocabulary: print.vocabulary,
                hidden: print.hidden,
                heads: print.heads,
                embedding_scale: print.embedding_scale,
                shape: print.shape,
                room: print.room,
            },
            weights: Weights::load(&device, &print)?,
            buffers: Buffers::new(&device, &print)?,
            parcel: Parcel::with_capacity(parcel_words(&print)),
            graphs: HashMap::new(),
            device,
        };
        match worker.wipe_all() {
            Ok(()) => Ok(worker),
            Err(Failure::Launch(error)) => Err(error.into()),
            Err(Failure::Plan) => Err(DeviceRefusal::Ended),
        }
    }

    /// Serves until nobody orders any more, or nothing can be done.
    pub(super) fn run(mut self, orders: &Receiver<Order>, answers: &Sender<Answer>) {
        for order in orders {
            let answer = self.answer(&order).map_err(StepError::from);
            let is_over = matches!(answer, Err(StepError::Stopped(_)));
            if answers.send(answer).is_err() || is_over {
                return;
            }
        }
        // A device that fails now has nobody to tell.
        let _ = self.wipe_all();
    }

    fn wipe_all(&mut self) -> Result<(), Failure> {
        let freed = (0..self.sizes.shape.blocks as u32).collect();
        self.rest(freed)
    }

    fn answer(&mut self, order: &Order) -> Result<Vec<Option<Drawn>>, Failure> {
        if order.rests {
            self.rest(order.freed.clone())?;
            return Ok(Vec::new());
        }
        let rows = Rows::of(&order.sequences);
        let chosen = order.sequences.iter();
        let chosen: Vec<&Chosen> = chosen.filter_map(|s| s.chosen.as_ref()).collect();
        let room = self.graph_room(&rows);
        let draft = Draft::new(self.sizes.shape, &rows.steps, room.unwrap_or_default())?;
        let parts = self.pack(&rows, &draft, room, &chosen, &order.freed);
        let inbox = &mut self.buffers.inbox;
        inbox.send(&self.device, &self.parcel)?;
        if !order.freed.is_empty() {
            let freed = inbox.words(parts.freed)?;
            launch::wipe(&self.device, &self.weights.cache, &freed)?;
        }
        let body = Body {
            tokens: inbox.words(parts.tokens)?,
            plan: inbox.plan(parts.plan, &draft)?,
            prefills: rows.prefills,
            last: inbox.words(parts.last)?,
        };
        match room {
            Some(room) => self.by_graph(room, &body)?,
            None => self.layers(&body)?,
        }
        if chosen.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.choose(&parts, chosen.len())?;
        let pairs = records.iter().zip(&chosen);
        Ok(pairs
            .map(|(record, chosen)| drawn(record, chosen.logprobs))
            .collect())
    }

    /// A step that only decodes, of no more rows than requests are active, is a graph's: sizes are
    /// rounded up to a power of two.
    fn graph_room(&self, rows: &Rows) -> Option<Room> {
        let most = self.sizes.room.draws;
        let count = rows.steps.len();
        if rows.prefills > 0 || count > most {
            return None;
        }
        let width = rows.steps.iter().map(|step| step.blocks.len()).max()?;
        Some(Room {
            sequences: count.next_power_of_two().min(most),
            table_width: width.next_power_of_two(),
        })
    }

    /// Everything that the device needs for the step. What a graph reads comes first: it lies where
    /// it lay when the graph was made.
    fn pack(
        &mut self,
        rows: &Rows,
        draft: &Draft,
        room: Option<Room>,
        chosen: &[&Chosen],
        freed: &[u32],
    ) -> Parts {
        let parcel = &mut self.parcel;
        parcel.clear();
        let most = room.map_or(0, |room| room.sequences);
        let padding = |count: usize| std::iter::repeat_n(0, most.saturating_sub(count));
        let tokens = rows.tokens.iter().copied();
        let tokens = parcel.words(tokens.chain(padding(rows.tokens.len())));
        let last = rows.last.iter().copied();
        let last = parcel.words(last.chain(padding(rows.last.len())));
        let plan = parcel.plan(draft);
        let choices: Vec<Choice> = chosen.iter().map(|chosen| chosen.choice).collect();
        let entries: Vec<Vec<Entry>> = chosen.iter().map(|c| c.entries.clone()).collect();
        let wanted = chosen.iter().map(|c| c.logprobs.unwrap_or(u32::MAX));
        Parts {
            tokens,
            plan,
            last,
            choices: parcel.choices(&choices),
            wanted: parcel.words(wanted),
            entries: parcel.entries(&entries),
            freed: parcel.words(freed.iter().copied()),
        }
    }

    fn by_graph(&mut self, room: Room, body: &Body<D::Memory>) -> Result<(), Failure> {
        let Some(known) = self.graphs.get(&room) else {
            self.graphs.insert(room, None);
            return Ok(self.layers(body)?);
        };
        if known.is_none() {
            let graph = self.device.capture(|| self.layers(body))?;
            self.graphs.insert(room, Some(graph));
        }
        match self.graphs.get(&room) {
            Some(Some(graph)) => Ok(self.device.replay(graph)?),
            _ => Err(Failure::Plan),
        }
    }

    /// From tokens to logits.
    fn layers(&self, body: &Body<D::Memory>) -> Result<(), LaunchError> {
        let Self {
            device,
            sizes,
            buffers,
            weights,
            ..
        } = self;
        let count = body.tokens.len();
        let hidden = &mut buffers.hidden.part(0, count * sizes.hidden)?;
        let normed = &mut buffers.normed.part(0, count * sizes.hidden)?;
        let delta = &mut buffers.delta.part(0, count * sizes.hidden)?;
        let table = &weights.embedding;
        let scale = sizes.embedding_scale;
        launch::embed(device, sizes.hidden, scale, table, &body.tokens, hidden)?;
        for (index, layer) in weights.layers.iter().enumerate() {
            let before = (index > 0).then_some(&*delta);
            norm(device, &layer.attention_norm, hidden, before, normed)?;
            self.attention(body, layer, normed, delta)?;
            norm(device, &layer.mlp_norm, hidden, Some(&*delta), normed)?;
            let gate = &mut buffers.gate.part(0, count * layer.gate.rows)?;
            product(device, &layer.gate, count, normed, gate)?;
            let columns = layer.down.columns;
            let gated = &mut buffers.gated.part(0, count * columns)?;
            launch::gate(device, layer.activation, columns, gate, gated)?;
            product(device, &layer.down, count, gated, delta)?;
        }
        let outs = body.last.len();
        if outs == 0 {
            return Ok(());
        }
        norm(device, &weights.final_norm, hidden, Some(&*delta), normed)?;
        // Rows of activations are found as rows of a table are.
        let last = &mut buffers.last.part(0, outs * sizes.hidden)?;
        launch::embed(device, sizes.hidden, 1.0, normed, &body.last, last)?;
        let shape = Gemm {
            m: outs,
            n: sizes.vocabulary,
            k: sizes.hidden,
        };
        let head = weights.head.as_ref().unwrap_or(table);
        let logits = &mut buffers.logits.part(0, outs * sizes.vocabulary)?;
        launch::gemm(device, shape, last, head, None, logits)
    }

    /// From normed activations to what attention adds to them.
    fn attention(
        &self,
        body: &Body<D::Memory>,
        layer: &LayerWeights<D::Memory>,
        normed: &Tensor<D::Memory, Bf16>,
        delta: &mut Tensor<D::Memory, Bf16>,
    ) -> Result<(), LaunchError> {
        let Self {
            device,
            sizes,
            buffers,
            weights,
            ..
        } = self;
        let count = body.tokens.len();
        let input = &mut buffers.input.part(0, count * layer.input.rows)?;
        product(device, &layer.input, count, normed, input)?;
        let width = sizes.heads * sizes.shape.dim.size();
        let query = &mut buffers.query.part(0, count * width)?;
        let [cosine, sine] = &weights.rotations[layer.rotation];
        let norms = layer.head_norms.as_ref().map(|[query, key]| HeadNorms {
            norm: query.norm,
            query: &query.weight,
            key: &key.weight,
        });
        let rope = Rope {
            heads: sizes.heads,
            norms,
            cosine,
            sine,
        };
        let cache = &mut layer.cache.layer(0)?;
        launch::rope(device, &rope, input, &body.plan, query, cache)?;
        let attention = Attention {
            heads: sizes.heads,
            scale: layer.scale,
            cap: None,
            window: layer.window,
        };
        let [first, others] = body.plan.split(body.prefills);
        let sinks = layer.sinks.as_ref();
        let rows = |of: &Tensor<D::Memory, Bf16>, from: usize, count: usize| {
            of.part(from * width, count * width)
        };
        if first.tokens() > 0 {
            let query = rows(query, 0, first.tokens())?;
            let mixed = &mut rows(&buffers.mixed, 0, first.tokens())?;
            launch::prefill(device, attention, &query, cache, sinks, &first, mixed)?;
        }
        // What decode keeps between its kernels is made for as many rows as requests are active;
        // there are more where a dropped cache is read anew.
        let (mut others, mut from) = (others, first.tokens());
        while others.tokens() > 0 {
            let [some, left] = others.split(sizes.room.draws);
            let query = rows(query, from, some.tokens())?;
            let mixed = &mut rows(&buffers.mixed, from, some.tokens())?;
            let scratch = &buffers.scratch;
            launch::decode(
                device, attention, &query, cache, sinks, &some, scratch, mixed,
            )?;
            from += some.tokens();
            others = left;
        }
        let mixed = rows(&buffers.mixed, 0, count)?;
        product(device, &layer.output, count, &mixed, delta)
    }

    /// From logits to records: three launches, and the one copy back.
    fn choose(&self, parts: &Parts, count: usize) -> Result<Vec<Record>, Failure> {
        let Self {
            device,
            sizes,
            buffers,
            ..
        } = self;
        let [starts, entries] = parts.entries;
        let logits = buffers.logits.part(0, count * sizes.vocabulary)?;
        let rows = launch::Rows {
            vocabulary: sizes.vocabulary,
            logits: &logits,
            starts: &buffers.inbox.words(starts)?,
            entries: &buffers.inbox.bytes(entries)?,
        };
        launch::adjust(device, &rows)?;
        let choices = buffers.inbox.bytes(parts.choices)?;
        let tokens = &mut buffers.tokens.part(0, count)?;
        launch::sample(
            device,
            sizes.vocabulary,
            &logits,
            None,
            None,
            &choices,
            tokens,
        )?;
        let wanted = buffers.inbox.words(parts.wanted)?;
        let records = &mut buffers.records.part(0, count * Record::BYTES)?;
        launch::note(device, &rows, tokens, &wanted, records)?;
        Ok(Record::receive(device, records)?)
    }

    /// Zeroes blocks, and the last parcel.
    fn rest(&mut self, freed: Vec<u32>) -> Result<(), Failure> {
        let last = self.parcel.len();
        self.parcel.clear();
        let place = self.parcel.words(freed.iter().copied());
        let left = last.saturating_sub(self.parcel.len());
        self.parcel.words(std::iter::repeat_n(0, left));
        let inbox = &mut self.buffers.inbox;
        inbox.send(&self.device, &self.parcel)?;
        if !freed.is_empty() {
            let freed = inbox.words(place)?;
            launch::wipe(&self.device, &self.weights.cache, &freed)?;
        }
        Ok(())
    }
}

fn norm<D: Device>(
    device: &D,
    norm: &Normed<D::Memory>,
    residual: &mut Tensor<D::Memory, Bf16>,
    delta: Option<&Tensor<D::Memory, Bf16>>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    launch::rms_norm(device, norm.norm, residual, delta, &norm.weight, out)
}

fn product<D: Device>(
    device: &D,
    product: &Product<D::Memory>,
    rows: usize,
    x: &Tensor<D::Memory, Bf16>,
    out: &mut Tensor<D::Memory, Bf16>,
) -> Result<(), LaunchError> {
    let shape = Gemm {
        m: rows,
        n: product.rows,
        k: product.columns,
    };
    let bias = product.bias.as_ref();
    launch::gemm(device, shape, x, &product.weight, bias, out)
}
