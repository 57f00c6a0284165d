//! Where a log's parts stand, and what is in them (C2SP tlog-tiles).
//!
//! ```text
//! checkpoint                    signed note
//! tile/LEVEL/INDEX              256 hashes of 32 bytes: of entries at level 0, of full tiles above
//! tile/entries/INDEX            256 entries, each: length u16 big-endian ‖ bytes
//! ….p/WIDTH                     the same with fewer than 256, 1 to 255
//! ```
//!
//! INDEX in groups of three digits, all but the last behind an `x`: 1234067 is `x001/x234/067`.

use attest::Digest;
use attest::release::merkle::node_hash;

/// Entries of a full bundle, and hashes of a full tile.
pub const TILE_WIDTH: usize = 256;
/// Largest entry: its length stands in two bytes.
pub const MAX_ENTRY_BYTES: usize = u16::MAX as usize;
/// Most bytes of a bundle of entries.
pub const MAX_BUNDLE_BYTES: usize = TILE_WIDTH * (MAX_ENTRY_BYTES + 2);
/// Highest level of tiles.
const MAX_LEVEL: u8 = 7;

/// A file of a log, beside its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TilePath {
    /// Level of a tile of hashes; `None` for entries.
    pub level: Option<u8>,
    /// Which one.
    pub index: u64,
    /// How many it holds, 1 to 256.
    pub width: usize,
}

impl TilePath {
    /// Every file of a log of `size` entries at the end of each level, complete ones included.
    pub fn all(size: u64) -> Vec<Self> {
        let mut paths = Vec::new();
        let mut level_size = size;
        for level in std::iter::once(None).chain((0..=MAX_LEVEL).map(Some)) {
            if let Some(1..) = level {
                level_size /= TILE_WIDTH as u64;
            }
            let (full, rest) = split(level_size);
            let complete = (0..full).map(|index| (index, TILE_WIDTH));
            let partial = (rest > 0).then_some((full, rest));
            let files = complete.chain(partial);
            paths.extend(files.map(|(index, width)| Self {
                level,
                index,
                width,
            }));
        }
        paths
    }

    /// Whether a log of `size` entries decides every byte of it.
    pub fn is_covered(&self, size: u64) -> bool {
        let width = TILE_WIDTH as u64;
        let below = width.checked_pow(u32::from(self.level.unwrap_or(0)));
        let last = self.index.checked_mul(width);
        let last = last.and_then(|first| first.checked_add(self.width as u64));
        let entries = below
            .zip(last)
            .and_then(|(below, last)| last.checked_mul(below));
        entries.is_some_and(|entries| entries <= size)
    }

    /// Reads a path; accepts only what [`TilePath`]'s `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let (level, rest) = text.strip_prefix("tile/")?.split_once('/')?;
        let level = match level {
            "entries" => None,
            digits => Some(digits.parse().ok().filter(|level| *level <= MAX_LEVEL)?),
        };
        let (index, width) = match rest.split_once(".p/") {
            Some((index, width)) => (index, width.parse().ok()?),
            None => (rest, TILE_WIDTH),
        };
        let mut number: u64 = 0;
        for group in index.split('/') {
            let digits: u64 = group.trim_start_matches('x').parse().ok()?;
            number = number.checked_mul(1000)?.checked_add(digits)?;
        }
        let path = Self {
            level,
            index: number,
            width,
        };
        let sound = (1..=TILE_WIDTH).contains(&width);
        (sound && path.to_string() == text).then_some(path)
    }
}

impl std::fmt::Display for TilePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.level {
            Some(level) => write!(f, "tile/{level}/")?,
            None => f.write_str("tile/entries/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for (place, group) in groups.iter().enumerate().rev() {
            match place {
                0 => write!(f, "{group:03}")?,
                _ => write!(f, "x{group:03}/")?,
            }
        }
        match self.width {
            TILE_WIDTH => Ok(()),
            width => write!(f, ".p/{width}"),
        }
    }
}

/// What a file holds in a log with these entries and their hashes.
pub fn contents(path: &TilePath, entries: &[Vec<u8>], leaves: &[Digest<32>]) -> Vec<u8> {
    let first = path.index as usize * TILE_WIDTH;
    let places = first..first + path.width;
    match path.level {
        None => entries.get(places).map(encode_entries).unwrap_or_default(),
        Some(level) => {
            let below = TILE_WIDTH.pow(level.into());
            let subtree = |place: usize| leaves.get(place * below..(place + 1) * below);
            let hashes = places.filter_map(subtree).map(full_subtree);
            hashes.flat_map(|hash| hash.0).collect()
        }
    }
}

/// Entries one after the other, each behind its length.
pub fn encode_entries(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for entry in entries {
        // No longer entry is ever taken into a log.
        let bytes = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&bytes.to_be_bytes());
        out.extend_from_slice(entry);
    }
    out
}

/// Splits a bundle into its entries, of which there must be `width`, and nothing behind them.
pub fn parse_entries(bytes: &[u8], width: usize) -> Option<Vec<Vec<u8>>> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length));
        let (entry, behind) = behind.split_at_checked(length)?;
        entries.push(entry.to_vec());
        rest = behind;
    }
    (rest.is_empty() && entries.len() == width).then_some(entries)
}

fn split(size: u64) -> (u64, usize) {
    let width = TILE_WIDTH as u64;
    (size / width, (size % width) as usize)
}

/// Root of a subtree whose number of leaves is a power of two.
fn full_subtree(leaves: &[Digest<32>]) -> Digest<32> {
    match leaves {
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len() / 2);
            node_hash(full_subtree(left), full_subtree(right))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_specification() {
        let path = |level, index, width| TilePath {
            level,
            index,
            width,
        };
        for (path, text) in [
            (path(Some(0), 0, 256), "tile/0/000"),
            (path(Some(0), 273, 112), "tile/0/273.p/112"),
            (path(Some(1), 1, 17), "tile/1/001.p/17"),
            (path(None, 1_234_067, 256), "tile/entries/x001/x234/067"),
            (path(Some(7), 1000, 1), "tile/7/x001/000.p/1"),
        ] {
            assert_eq!(path.to_string(), text);
            assert_eq!(TilePath::parse(text), Some(path));
        }
        for wrong in [
            "",
            "checkpoint",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/8/000",
            "tile/0/x000/000",
            "tile/0/001/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/../000",
            "tile/0/+00",
            "tile/entries/000/",
            "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
        ] {
            assert_eq!(TilePath::parse(wrong), None, "{wrong}");
        }
    }

    /// A log of 70,000 entries has 273 full tiles at level 0 and one of 112, at level 1 a full one
    /// and one of 17, at level 2 one hash: the example of the specification.
    #[test]
    fn a_log_has_the_files_of_the_specification() {
        let paths: Vec<_> = TilePath::all(70_000)
            .iter()
            .map(ToString::to_string)
            .collect();
        for expected in [
            "tile/entries/273.p/112",
            "tile/0/272",
            "tile/0/273.p/112",
            "tile/1/000",
            "tile/1/001.p/17",
            "tile/2/000.p/1",
        ] {
            assert!(paths.iter().any(|path| path == expected), "{expected}");
        }
        assert_eq!(paths.len(), 274 + 274 + 2 + 1);
    }
}
