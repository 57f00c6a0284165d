//! Where the tokens of a step lie in the paged cache: checked, and sent in one copy.

use std::collections::HashSet;

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

/// Keys and values of one layer.
#[derive(Debug)]
pub struct Cache<M> {
    pub(crate) keys: Tensor<M, Bf16>,
    pub(crate) values: Tensor<M, Bf16>,
    pub(crate) shape: CacheShape,
}

impl<M> Cache<M> {
    /// A cache of no known content.
    pub fn new<D: Device<Memory = M>>(device: &D, shape: CacheShape) -> Result<Self, DeviceError> {
        Ok(Self {
            keys: Tensor::empty(device, shape.elements())?,
            values: Tensor::empty(device, shape.elements())?,
            shape,
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

/// The places of a step's tokens, on the device.
///
/// One array of `i32`: starts, lengths, tables, positions, slots, tiles.
#[derive(Debug)]
pub struct Plan<M> {
    content: Tensor<M, i32>,
    pub(crate) shape: CacheShape,
    pub(crate) sequences: usize,
    pub(crate) tokens: usize,
    pub(crate) tiles: usize,
    pub(crate) table_width: usize,
    pub(crate) longest: usize,
    /// One past the highest position.
    pub(crate) positions: usize,
}

impl<M> Plan<M> {
    /// Checks the steps and sends them: one copy.
    pub fn new<D: Device<Memory = M>>(
        device: &D,
        shape: CacheShape,
        steps: &[SequenceStep],
    ) -> Result<Self, PlanError> {
        check(shape, steps)?;
        let page = shape.page_tokens();
        let table_width = steps
            .iter()
            .map(|step| step.blocks.len())
            .max()
            .unwrap_or(0);
        let (mut starts, mut lengths, mut tables) = (vec![0usize], Vec::new(), Vec::new());
        let (mut positions, mut slots, mut tiles) = (Vec::new(), Vec::new(), Vec::new());
        for (sequence, step) in steps.iter().enumerate() {
            starts.push(starts[sequence] + step.new_tokens);
            lengths.push(step.length);
            let padding = table_width - step.blocks.len();
            tables.extend(step.blocks.iter().map(|block| *block as usize));
            tables.extend(std::iter::repeat_n(0, padding));
            for position in step.length - step.new_tokens..step.length {
                positions.push(position);
                slots.push(step.blocks[position / page] as usize * page + position % page);
            }
            let rows = (0..step.new_tokens).step_by(TILE_ROWS);
            tiles.extend(rows.flat_map(|row| [sequence, row]));
        }
        let mut plan = Self {
            content: Tensor::empty(device, 0)?,
            shape,
            sequences: steps.len(),
            tokens: positions.len(),
            tiles: tiles.len() / 2,
            table_width,
            longest: lengths.iter().copied().max().unwrap_or(0),
            positions: lengths.iter().copied().max().unwrap_or(0),
        };
        let parts = [starts, lengths, tables, positions, slots, tiles];
        let all = parts.concat().into_iter().map(i32::try_from);
        let all: Result<Vec<i32>, _> = all.collect();
        plan.content = Tensor::from(device, &all.map_err(|_| PlanError::TooLarge)?)?;
        Ok(plan)
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
        self.content.argument()
    }

    pub(crate) fn lengths(&self) -> Argument<'_, M> {
        self.content.argument_at(self.sequences + 1)
    }

    pub(crate) fn tables(&self) -> Argument<'_, M> {
        self.content.argument_at(2 * self.sequences + 1)
    }

    fn behind_tables(&self) -> usize {
        2 * self.sequences + 1 + self.sequences * self.table_width
    }

    pub(crate) fn positions(&self) -> Argument<'_, M> {
        self.content.argument_at(self.behind_tables())
    }

    pub(crate) fn slots(&self) -> Argument<'_, M> {
        self.content.argument_at(self.behind_tables() + self.tokens)
    }

    pub(crate) fn tiles(&self) -> Argument<'_, M> {
        let at = self.behind_tables() + 2 * self.tokens;
        self.content.argument_at(at)
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
