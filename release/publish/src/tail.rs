//! Reads a large log on from where it was read last (C2SP tlog-tiles), and believes none of it
//! before it leads to the root that the log signed.
//!
//! ```text
//! 0 ─────────── next ────────── last size ────────── size
//!   roots of full   entries that are read     the rest, as hashes of tiles
//!   subtrees
//! ```
//!
//! What is remembered are the roots of the full subtrees over all entries that were read, and the
//! size and root of the last checkpoint. Both that root and the new one must follow from them, so
//! that the log continues what it was, and what was read is what stands there.

mod range;
mod state;

use std::collections::BTreeMap;

use attest::Digest;
use attest::release::{Checkpoint, CheckpointError, merkle};
use release::log::tiles::{TILE_WIDTH, TilePath, parse_entries};
use sigstore_sign::reqwest::Client;

use crate::mirror::{MirrorError, tile};
use crate::patience::Patience;

pub use range::Range;
pub use state::{MAX_STATE_BYTES, State, StateError};

/// Most bytes of entries that are read at once.
const MAX_READ_BYTES: usize = 256 << 20;
/// Levels of the tree in one tile.
const TILE_LEVELS: u32 = 8;

/// Why a log is not read on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// It cannot be reached, or hides a file.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// Its checkpoint is not its own.
    #[error("the log's checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// It is smaller than it was.
    #[error("the log has {size} entries, and had {last}: entries were taken back")]
    Smaller {
        /// Entries now.
        size: u64,
        /// Entries then.
        last: u64,
    },
    /// It is another one than it was.
    #[error("the log's first {size} entries are not what they were: the log has two faces")]
    Rewritten {
        /// Entries then.
        size: u64,
    },
    /// What it shows is not what it signed.
    #[error("what the log shows does not lead to the root of its {size} entries")]
    Shown {
        /// Entries by its checkpoint.
        size: u64,
    },
    /// A file of the log is no tile.
    #[error("{0} is not a tile of its size")]
    Tile(TilePath),
}

/// A log at an address.
#[derive(Debug)]
pub struct Reader<'a> {
    /// Whom to ask by.
    pub http: &'a Client,
    /// How patiently.
    pub patience: Patience,
    /// Address before `/checkpoint` and `/tile`.
    pub url: &'a str,
}

/// Entries that were read, with what is to be remembered.
#[derive(Debug)]
pub struct Read {
    /// Place of the first.
    pub first: u64,
    /// The entries.
    pub entries: Vec<Vec<u8>>,
    /// What to remember once they are judged.
    pub state: State,
}

/// Tiles of hashes, each fetched once.
type Tiles = BTreeMap<(u8, u64), Vec<Digest<32>>>;

impl Reader<'_> {
    /// What a first reading begins with: the log up to `from`, unread.
    pub async fn begin(&self, checkpoint: &Checkpoint, from: u64) -> Result<State, TailError> {
        let mut range = Range::default();
        let mut tiles = Tiles::new();
        let from = from.min(checkpoint.size);
        self.skip(&mut range, from, checkpoint.size, &mut tiles)
            .await?;
        let begun = State::new(checkpoint, range.clone(), from);
        self.skip(&mut range, checkpoint.size, checkpoint.size, &mut tiles)
            .await?;
        let size = checkpoint.size;
        match range.root() == checkpoint.root {
            true => Ok(begun),
            false => Err(TailError::Shown { size }),
        }
    }

    /// Reads at most `limit` entries on from `state`, under a checkpoint that the log signed.
    pub async fn read(
        &self,
        state: &State,
        checkpoint: &Checkpoint,
        limit: u64,
    ) -> Result<Read, TailError> {
        let (size, last) = (checkpoint.size, state.size());
        if size < last {
            return Err(TailError::Smaller { size, last });
        }
        let first = state.next();
        let end = size.min(first.saturating_add(limit));
        let entries = self.entries(first, end, size).await?;
        let mut tiles = Tiles::new();
        let (mut range, mut then) = (state.range().clone(), None);
        for entry in &entries {
            if range.size() == last {
                then = Some(range.root());
            }
            range.push(merkle::leaf_hash(entry), 0);
        }
        let read = range.clone();
        if range.size() <= last {
            self.skip(&mut range, last, size, &mut tiles).await?;
            then = Some(range.root());
        }
        self.skip(&mut range, size, size, &mut tiles).await?;
        if range.root() != checkpoint.root {
            return Err(TailError::Shown { size });
        }
        if then != Some(state.root()) {
            return Err(TailError::Rewritten { size: last });
        }
        Ok(Read {
            first,
            entries,
            state: State::new(checkpoint, read, state.from()),
        })
    }

    /// Entries from `first` up to `end` in a log of `size`.
    async fn entries(&self, first: u64, end: u64, size: u64) -> Result<Vec<Vec<u8>>, TailError> {
        let width = TILE_WIDTH as u64;
        let (mut entries, mut next, mut total) = (Vec::new(), first, 0);
        while next < end {
            let index = next / width;
            let path = TilePath {
                level: None,
                index,
                width: width.min(size - index * width) as usize,
            };
            let (bytes, given) = self.file(path).await?;
            let bundle = parse_entries(&bytes, given).ok_or(TailError::Tile(path))?;
            let here = (next - index * width) as usize..path.width;
            let count = (end - next).min(here.len() as u64);
            entries.extend(bundle.into_iter().skip(here.start).take(count as usize));
            next += count;
            total += bytes.len();
            if total > MAX_READ_BYTES {
                break;
            }
        }
        Ok(entries)
    }

    /// A file, and how much it holds: one that is complete by now takes the place of its beginning.
    async fn file(&self, path: TilePath) -> Result<(Vec<u8>, usize), MirrorError> {
        match tile(self.http, self.patience, self.url, &path).await {
            Err(MirrorError::Hidden { .. }) if path.width < TILE_WIDTH => {
                let width = TILE_WIDTH;
                let whole = TilePath { width, ..path };
                let bytes = tile(self.http, self.patience, self.url, &whole).await?;
                Ok((bytes, width))
            }
            other => Ok((other?, path.width)),
        }
    }

    /// Lengthens `range` to `to` entries by the hashes of full subtrees.
    async fn skip(
        &self,
        range: &mut Range,
        to: u64,
        size: u64,
        tiles: &mut Tiles,
    ) -> Result<(), TailError> {
        while range.size() < to {
            let (at, rest) = (range.size(), to - range.size());
            let level = at.trailing_zeros().min(rest.ilog2());
            let place = at >> (level - level % TILE_LEVELS);
            let first = (place % TILE_WIDTH as u64) as usize;
            let count = 1 << (level % TILE_LEVELS);
            let height = (level / TILE_LEVELS) as u8;
            let hashes = self
                .tile(height, place / TILE_WIDTH as u64, size, tiles)
                .await?;
            let path = TilePath {
                level: Some(height),
                index: place / TILE_WIDTH as u64,
                width: hashes.len(),
            };
            let hashes = hashes.get(first..first + count);
            let hashes = hashes.ok_or(TailError::Tile(path))?;
            let mut subtree = Range::default();
            hashes.iter().for_each(|hash| subtree.push(*hash, 0));
            range.push(subtree.root(), level);
        }
        Ok(())
    }

    async fn tile<'t>(
        &self,
        height: u8,
        index: u64,
        size: u64,
        tiles: &'t mut Tiles,
    ) -> Result<&'t [Digest<32>], TailError> {
        let known = tiles.contains_key(&(height, index));
        if !known {
            let width = TILE_WIDTH as u64;
            let at_height = size >> (TILE_LEVELS * u32::from(height));
            let path = TilePath {
                level: Some(height),
                index,
                width: width.min(at_height.saturating_sub(index * width)) as usize,
            };
            let (bytes, given) = self.file(path).await?;
            let (hashes, rest) = bytes.as_chunks();
            if hashes.len() != given || !rest.is_empty() {
                return Err(TailError::Tile(path));
            }
            let hashes = hashes.iter().take(path.width).copied().map(Digest);
            tiles.insert((height, index), hashes.collect());
        }
        let known = tiles.get(&(height, index));
        Ok(known.map(Vec::as_slice).unwrap_or_default())
    }
}
