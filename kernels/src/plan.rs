//! Where the tokens of a step lie in the paged cache: checked, and sent in one copy.

use std::collections::HashSet;
use std::rc::Rc;

use crate::{Argument, Bf16, Device, DeviceError, Tensor};

/// Rows of one tile of prefill.
const TILE_ROWS: usize = 64;

/// A head dimension that attention is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HeadDim {
    D64,
    D80,
    D96,
    D128,
    D256,
}

impl HeadDim {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::D64, Self::D80, Self::D96, Self::D128, Self::D256];

    /// The one of this size, if there is one.
    pub fn of(size: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|dim| dim.size() == size)
    }

    /// Elements of a head.
    pub fn size(self) -> usize {
        match self {
            Self::D64 => 64,
            Self::D80 => 80,
            Self::D96 => 96,
            Self::D128 => 128,
            Self::D256 => 256,
        }
    }
}

/// A cache's shape: `[blocks][kv_heads][page_tokens][dim]`, keys and values each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// Blocks in all.
    pub blocks: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// `log2` of a block's tokens.
    pub page_shift: u32,
    /// Size of a head.
    pub dim: HeadDim,
}

impl CacheShape {
    /// Tokens of a block.
    pub fn page_tokens(self) -> usize {
        1 << self.page_shift
    }

    /// Elements of all keys, or of all values.
    pub fn elements(self) -> usize {
        self.blocks * self.kv_heads * self.page_tokens() * self.dim.size()
    }
}

/// Keys and values of one layer, or of all: [`Cache::layer`] gives those of one.
#[derive(Debug)]
pub struct Cache<M> {
    pub(crate) keys: Tensor<M, Bf16>,
    pub(crate) values: Tensor<M, Bf16>,
    pub(crate) shape: CacheShape,
    pub(crate) layers: usize,
}

impl<M> Cache<M> {
    /// A cache of no known content, for one layer.
    pub fn new<D: Device<Memory = M>>(device: &D, shape: CacheShape) -> Result<Self, DeviceError> {
        Self::of_layers(device, shape, 1)
    }

    /// The same for several layers, in two allocations.
    pub fn of_layers<D: Device<Memory = M>>(
        device: &D,
        shape: CacheShape,
        layers: usize,
    ) -> Result<Self, DeviceError> {
        let all = shape.elements().saturating_mul(layers);
        Ok(Self {
            keys: Tensor::empty(device, all)?,
            values: Tensor::empty(device, all)?,
            shape,
            layers,
        })
    }

    /// One layer's part of the same memory.
    pub fn layer(&self, layer: usize) -> Result<Self, DeviceError> {
        let size = self.shape.elements();
        let first = layer.saturating_mul(size);
        Ok(Self {
            keys: self.keys.part(first, size)?,
            values: self.values.part(first, size)?,
            shape: self.shape,
            layers: 1,
        })
    }

    /// Keys and values, to fill or read them whole.
    pub fn parts(&mut self) -> (&mut Tensor<M, Bf16>, &mut Tensor<M, Bf16>) {
        (&mut self.keys, &mut self.values)
    }
}

/// What a step does to one sequence.
#[derive(Clone, Debug)]
pub struct SequenceStep {
    /// Tokens that come new, the last of the sequence.
    pub new_tokens: usize,
    /// Tokens of the sequence, the new ones included.
    pub length: usize,
    /// Its blocks in order.
    pub blocks: Vec<u32>,
}

/// Why a plan is refused.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A plan without sequences has nothing to do.
    #[error("a plan without sequences")]
    Empty,
    /// A sequence without new tokens, or with fewer tokens than new ones.
    #[error("sequence {sequence} has {new_tokens} new tokens of {length}")]
    Tokens {
        /// Which.
        sequence: usize,
        /// Of the step.
        new_tokens: usize,
        /// In all.
        length: usize,
    },
    /// A sequence has fewer blocks than its tokens need.
    #[error("sequence {sequence} has {found} blocks, and its tokens need {needed}")]
    TooFewBlocks {
        /// Which.
        sequence: usize,
        /// In its table.
        found: usize,
        /// By its length.
        needed: usize,
    },
    /// A block that the cache does not have.
    #[error("sequence {sequence} names block {block}, which the cache does not have")]
    NoSuchBlock {
        /// Which.
        sequence: usize,
        /// Named.
        block: u32,
    },
    /// Two new tokens would be written to one place.
    #[error("sequence {sequence} writes where another token of the step is written")]
    SharedSlot {
        /// The later one.
        sequence: usize,
    },
    /// Larger than what a kernel's index holds.
    #[error("the step is too large for the kernels' indices")]
    TooLarge,
    /// The device refused.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// Sizes that a plan is to have whatever its steps: those that a graph was made for. Zeros ask for
/// what the steps need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Room {
    /// Sequences; what the steps lack is filled with ones of length 0 and one token that is not
    /// kept.
    pub sequences: usize,
    /// Blocks of a sequence.
    pub table_width: usize,
}

/// A plan that is checked and not yet sent.
///
/// One array of `i32`: starts, lengths, tables, positions, slots, tiles.
#[derive(Clone, Debug)]
pub struct Draft {
    content: Vec<i32>,
    shape: CacheShape,
    starts: Rc<[usize]>,
    tiles: usize,
    table_width: usize,
    longest: usize,
    positions: usize,
}

impl Draft {
    /// Checks the steps.
    pub fn new(shape: CacheShape, steps: &[SequenceStep], room: Room) -> Result<Self, PlanError> {
        check(shape, steps)?;
        let page = shape.page_tokens();
        let widest = steps.iter().map(|step| step.blocks.len()).max();
        let table_width = widest.unwrap_or(0).max(room.table_width);
        let padding = room.sequences.saturating_sub(steps.len());
        let (mut starts, mut lengths, mut tables) = (vec![0usize], Vec::new(), Vec::new());
        let (mut positions, mut slots, mut tiles) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, step) in steps.iter().enumerate() {
            starts.push(starts[sequence] + step.new_tokens);
            lengths.push(step.length);
            tables.extend(step.blocks.iter().map(|block| *block as usize));
            tables.resize((sequence + 1) * table_width, 0);
            for position in step.length - step.new_tokens..step.length {
                positions.push(position);
                slots.push(step.blocks[position / page] as usize * page + position % page);
            }
            let rows = (0..step.new_tokens).step_by(TILE_ROWS);
            tiles.extend(rows.flat_map(|row| [sequence, row]));
        }
        let tokens = positions.len();
        starts.extend((1..=padding).map(|row| tokens + row));
        lengths.resize(steps.len() + padding, 0);
        tables.resize((steps.len() + padding) * table_width, 0);
        positions.resize(tokens + padding, 0);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let number = |number: &usize| i32::try_from(*number).map_err(|_| PlanError::TooLarge);
        let mut content = Vec::new();
        for part in [&starts, &lengths, &tables, &positions, &slots] {
            for value in part {
                content.push(number(value)?);
            }
        }
        content.extend(std::iter::repeat_n(-1, padding));
        for value in &tiles {
            content.push(number(value)?);
        }
        Ok(Self {
            content,
            shape,
            starts: starts.into(),
            tiles: tiles.len() / 2,
            table_width,
            longest: match room.table_width {
                0 => longest,
                _ => table_width * page,
            },
            positions: longest,
        })
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = u32> + '_ {
        self.content.iter().map(|word| word.cast_unsigned())
    }

    /// The plan whose content is in `content`.
    pub(crate) fn at<M>(&self, content: Tensor<M, i32>) -> Plan<M> {
        let sequences = self.starts.len() - 1;
        let tokens = self.starts[sequences];
        let behind = 2 * sequences + 1 + sequences * self.table_width;
        Plan {
            content,
            shape: self.shape,
            starts: Rc::clone(&self.starts),
            first: 0,
            sequences,
            tokens,
            tiles: self.tiles,
            table_width: self.table_width,
            longest: self.longest,
            positions: self.positions,
            offsets: [0, sequences + 1, 2 * sequences + 1, behind, behind + tokens],
            tiles_at: behind + 2 * tokens,
        }
    }
}

/// The places of a step's tokens, on the device.
#[derive(Debug)]
pub struct Plan<M> {
    content: Tensor<M, i32>,
    pub(crate) shape: CacheShape,
    /// Of all sequences of the draft.
    starts: Rc<[usize]>,
    /// The first sequence of this part of it.
    first: usize,
    pub(crate) sequences: usize,
    pub(crate) tokens: usize,
    pub(crate) tiles: usize,
    pub(crate) table_width: usize,
    pub(crate) longest: usize,
    /// One past the highest position.
    pub(crate) positions: usize,
    /// Of starts, lengths, tables, positions and slots.
    offsets: [usize; 5],
    tiles_at: usize,
}

impl<M> Plan<M> {
    /// Checks the steps and sends them: one copy.
    pub fn new<D: Device<Memory = M>>(
        device: &D,
        shape: CacheShape,
        steps: &[SequenceStep],
    ) -> Result<Self, PlanError> {
        let draft = Draft::new(shape, steps, Room::default())?;
        let content = Tensor::from(device, &draft.content)?;
        Ok(draft.at(content))
    }

    /// The first sequences, for prefill, and the others, for decode: each a plan of its own in the
    /// same memory. Tokens lie in the same order.
    pub fn split(&self, sequences: usize) -> [Self; 2] {
        let sequences = sequences.min(self.sequences);
        let starts = &self.starts[self.first..];
        let tokens = starts[sequences] - starts[0];
        let new = starts[..=sequences].windows(2);
        let tiles = new.map(|pair| (pair[1] - pair[0]).div_ceil(TILE_ROWS));
        let tiles = tiles.sum::<usize>().min(self.tiles);
        let [start, length, table, position, slot] = self.offsets;
        let part = |first: usize, count, tokens, tiles, offsets, tiles_at| Self {
            content: self.content.cast(),
            shape: self.shape,
            starts: Rc::clone(&self.starts),
            first: self.first + first,
            sequences: count,
            tokens,
            tiles,
            table_width: self.table_width,
            longest: self.longest,
            positions: self.positions,
            offsets,
            tiles_at,
        };
        let behind = [
            start + sequences,
            length + sequences,
            table + sequences * self.table_width,
            position + tokens,
            slot + tokens,
        ];
        let others = self.sequences - sequences;
        // Tiles name sequences of the first part: the others have none, and are not for prefill.
        [
            part(0, sequences, tokens, tiles, self.offsets, self.tiles_at),
            part(
                sequences,
                others,
                self.tokens - tokens,
                0,
                behind,
                self.tiles_at,
            ),
        ]
    }

    /// New tokens of all sequences.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.sequences
    }

    pub(crate) fn starts(&self) -> Argument<'_, M> {
        self.content.argument_at(self.offsets[0])
    }

    pub(crate) fn lengths(&self) -> Argument<'_, M> {
        self.content.argument_at(self.offsets[1])
    }

    pub(crate) fn tables(&self) -> Argument<'_, M> {
        self.content.argument_at(self.offsets[2])
    }

    pub(crate) fn positions(&self) -> Argument<'_, M> {
        self.content.argument_at(self.offsets[3])
    }

    pub(crate) fn slots(&self) -> Argument<'_, M> {
        self.content.argument_at(self.offsets[4])
    }

    pub(crate) fn tiles(&self) -> Argument<'_, M> {
        self.content.argument_at(self.tiles_at)
    }
}

fn check(shape: CacheShape, steps: &[SequenceStep]) -> Result<(), PlanError> {
    if steps.is_empty() {
        return Err(PlanError::Empty);
    }
    let page = shape.page_tokens();
    let mut written = HashSet::new();
    for (sequence, step) in steps.iter().enumerate() {
        let (new_tokens, length) = (step.new_tokens, step.length);
        if new_tokens == 0 || new_tokens > length {
            return Err(PlanError::Tokens {
                sequence,
                new_tokens,
                length,
            });
        }
        let (found, needed) = (step.blocks.len(), length.div_ceil(page));
        if found < needed {
            return Err(PlanError::TooFewBlocks {
                sequence,
                found,
                needed,
            });
        }
        let outside = |block: &&u32| **block as usize >= shape.blocks;
        if let Some(block) = step.blocks.iter().find(outside) {
            return Err(PlanError::NoSuchBlock {
                sequence,
                block: *block,
            });
        }
        for position in length - new_tokens..length {
            if !written.insert((step.blocks[position / page], position % page)) {
                return Err(PlanError::SharedSlot { sequence });
            }
        }
    }
    Ok(())
}
