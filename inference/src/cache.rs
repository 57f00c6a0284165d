//! The KV cache: one fixed allocation cut into pages of [`BLOCK_TOKENS`] tokens.
//!
//! Layers that see equally far form a group. A block holds [`BLOCK_TOKENS`] tokens of all layers of
//! a group, in one page or several; pages of all groups have one size, so that any free one does.
//! Of each layer a page holds keys as `[kv_head][head_dim][token]` and values as
//! `[kv_head][token][head_dim]`. A group with a window gives back the blocks that have left it:
//! such layers take memory for their window and what is read at once, however long the sequence.
//! Memory is taken from the system at the first touch, and zeroed when its owner gives it back.

use std::ops::Range;

use zeroize::Zeroize;

use crate::cpu::{Heads, LANES};
use crate::spec::DecoderSpec;

/// Tokens of one block.
pub(crate) const BLOCK_TOKENS: usize = LANES;
/// In place of a page that was given back.
const GONE: u32 = u32::MAX;

/// Layers that see equally far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    /// Tokens that one sees, itself included; `None` sees all before it.
    window: Option<usize>,
    /// Pages of a block.
    units: usize,
}

impl Group {
    /// The blocks that are needed to read the tokens from `read` up to `end`.
    fn span(self, read: usize, end: usize) -> Range<usize> {
        let first = self
            .window
            .map_or(0, |window| (read + 1).saturating_sub(window) / BLOCK_TOKENS);
        first..end.div_ceil(BLOCK_TOKENS).max(first)
    }

    /// The most blocks that a sequence of so many tokens needs at once, read by so many.
    fn most(self, tokens: usize, chunk: usize) -> usize {
        let all = tokens.div_ceil(BLOCK_TOKENS);
        let seen = |window: usize| (window - 1).saturating_add(chunk).div_ceil(BLOCK_TOKENS) + 1;
        self.window.map_or(all, |window| all.min(seen(window)))
    }
}

/// How a decoder's layers lie in pages.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    groups: Vec<Group>,
    page_floats: usize,
    /// For each layer.
    pub(crate) layers: Vec<Heads>,
}

impl Layout {
    pub(crate) fn new(spec: &DecoderSpec) -> Self {
        let window = |layer: &crate::spec::LayerSpec| layer.attention.window;
        let mut windows: Vec<Option<usize>> = Vec::new();
        for layer in &spec.layers {
            if !windows.contains(&window(layer)) {
                windows.push(window(layer));
            }
        }
        let of = |seen| spec.layers.iter().filter(|l| window(l) == seen).count();
        // Layers of one page.
        let depth = windows.iter().map(|seen| of(*seen)).fold(0, divisor).max(1);
        let width = |layer: &crate::spec::LayerSpec| {
            layer.attention.kv_heads * layer.attention.head_dim * BLOCK_TOKENS
        };
        let size = spec.layers.iter().map(width).max().unwrap_or(1);
        let page_floats = 2 * size * depth;
        let group = |seen: &Option<usize>| Group {
            window: *seen,
            units: of(*seen) / depth,
        };
        let mut before = vec![0; windows.len()];
        let layers = spec.layers.iter().map(|layer| {
            let attention = &layer.attention;
            let group = windows.iter().position(|seen| *seen == attention.window);
            let group = group.unwrap_or_default();
            let number = before[group];
            before[group] += 1;
            let keys = 2 * size * (number % depth);
            Heads {
                heads: attention.heads,
                kv_heads: attention.kv_heads,
                head_dim: attention.head_dim,
                scale: attention.scale,
                window: attention.window.unwrap_or(usize::MAX),
                group,
                unit: number / depth,
                units: of(attention.window) / depth,
                page_floats,
                keys,
                values: keys + size,
            }
        });
        Self {
            layers: layers.collect(),
            groups: windows.iter().map(group).collect(),
            page_floats,
        }
    }

    /// One group that sees everything: of pages whose content is elsewhere.
    #[cfg(feature = "cuda")]
    fn of_numbers() -> Self {
        let all = Group {
            window: None,
            units: 1,
        };
        Self {
            groups: vec![all],
            page_floats: 1,
            layers: Vec::new(),
        }
    }

    /// Pages of sequences that keep all of their tokens.
    fn all_pages(&self, tokens: usize) -> usize {
        let units = self.groups.iter().map(|group| group.units);
        units.sum::<usize>() * tokens.div_ceil(BLOCK_TOKENS)
    }

    /// The most pages that a sequence of so many tokens needs at once, read by so many.
    fn most_pages(&self, tokens: usize, chunk: usize) -> usize {
        let groups = self.groups.iter();
        let pages = groups.map(|group| group.units * group.most(tokens, chunk));
        pages.sum()
    }

    fn page_bytes(&self) -> u64 {
        self.page_floats as u64 * size_of::<f32>() as u64
    }
}

/// The greatest common divisor.
fn divisor(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        _ => divisor(b, a % b),
    }
}

/// The pages of one sequence: for each group those of its first block, of the next, and so on.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Vec<Vec<u32>>);

impl Blocks {
    /// For each group.
    pub(crate) fn groups(&self) -> &[Vec<u32>] {
        &self.0
    }

    /// Pages that it has.
    pub(crate) fn pages(&self) -> usize {
        let pages = self.0.iter().flatten();
        pages.filter(|page| **page != GONE).count()
    }
}

/// All pages, and which of them are free.
pub(crate) struct KvCache {
    data: Vec<f32>,
    layout: Layout,
    free: Vec<u32>,
    pages: usize,
    /// Pages whose content is elsewhere and still to be zeroed.
    freed: Option<Vec<u32>>,
}

impl KvCache {
    /// As many whole pages as fit into `bytes`.
    pub(crate) fn new(spec: &DecoderSpec, bytes: u64) -> Self {
        let layout = Layout::new(spec);
        let pages = (bytes / layout.page_bytes()).min(u64::from(GONE - 1)) as u32;
        Self {
            data: vec![0.0; pages as usize * layout.page_floats],
            layout,
            free: (0..pages).rev().collect(),
            pages: pages as usize,
            freed: None,
        }
    }

    /// Room for sequences that keep all of so many tokens.
    pub(crate) fn whole(spec: &DecoderSpec, sequences: usize, tokens: usize) -> Self {
        let layout = Layout::new(spec);
        let pages = (layout.all_pages(tokens) as u64).saturating_mul(sequences as u64);
        Self::new(spec, pages.saturating_mul(layout.page_bytes()))
    }

    /// Pages whose content a device holds: here are their numbers alone. Each holds a block of all
    /// layers, whatever their windows, and nothing leaves them.
    #[cfg(feature = "cuda")]
    pub(crate) fn numbers(pages: u32) -> Self {
        Self {
            data: Vec::new(),
            layout: Layout::of_numbers(),
            free: (0..pages).rev().collect(),
            pages: pages as usize,
            freed: Some(Vec::new()),
        }
    }

    /// What the device is to zero before anything else is written: each page once.
    #[cfg(feature = "cuda")]
    pub(crate) fn take_freed(&mut self) -> Vec<u32> {
        let mut freed = self.freed.as_mut().map(std::mem::take).unwrap_or_default();
        freed.sort_unstable();
        freed.dedup();
        freed
    }

    /// Takes the pages for all of so many tokens, or none at all.
    pub(crate) fn take(&mut self, tokens: usize) -> Option<Blocks> {
        let mut blocks = Blocks::default();
        self.grow(&mut blocks, tokens, 0, tokens).then_some(blocks)
    }

    /// The most pages that a sequence of so many tokens needs at once, read by so many.
    pub(crate) fn most_pages(&self, tokens: usize, chunk: usize) -> usize {
        self.layout.most_pages(tokens, chunk)
    }

    /// Takes what `blocks` lack for a sequence of so many tokens, of which those from `read` up to
    /// `end` are read next; nothing at all if that is too much: false.
    pub(crate) fn grow(
        &mut self,
        blocks: &mut Blocks,
        tokens: usize,
        read: usize,
        end: usize,
    ) -> bool {
        blocks.0.resize(self.layout.groups.len(), Vec::new());
        let spans = self.layout.groups.iter().map(|group| {
            let end = if group.window.is_some() {
                end.min(tokens)
            } else {
                tokens
            };
            let span = group.span(read, end);
            span.start * group.units..span.end * group.units
        });
        let spans: Vec<Range<usize>> = spans.collect();
        let missing = spans.iter().zip(&blocks.0).map(|(span, pages)| {
            let lacks = |place: &usize| pages.get(*place).is_none_or(|page| *page == GONE);
            span.clone().filter(lacks).count()
        });
        if missing.sum::<usize>() > self.free.len() {
            return false;
        }
        for (span, pages) in spans.into_iter().zip(&mut blocks.0) {
            pages.resize(pages.len().max(span.end), GONE);
            for page in pages[span].iter_mut().filter(|page| **page == GONE) {
                *page = self.free.pop().unwrap_or(GONE);
            }
        }
        true
    }

    /// Takes back what has left the windows of a sequence whose next token is `read`.
    pub(crate) fn leave(&mut self, blocks: &mut Blocks, read: usize) {
        for index in 0..self.layout.groups.len().min(blocks.0.len()) {
            let group = self.layout.groups[index];
            let first = group.span(read, read).start * group.units;
            let first = first.min(blocks.0[index].len());
            // What comes before was given back already.
            for place in (0..first).rev() {
                let page = std::mem::replace(&mut blocks.0[index][place], GONE);
                if page == GONE {
                    break;
                }
                self.give_back_page(page);
            }
        }
    }

    /// Whether a sequence can go on after so many tokens: nothing that they see is gone.
    pub(crate) fn goes_on(&self, blocks: &Blocks, tokens: usize) -> bool {
        let groups = self.layout.groups.iter().zip(&blocks.0);
        groups.into_iter().all(|(group, pages)| {
            let span = group.span(tokens, tokens);
            let places = span.start * group.units..span.end * group.units;
            let pages = pages.get(places);
            pages.is_some_and(|pages| !pages.contains(&GONE))
        })
    }

    /// Takes back what `blocks` hold beyond so many tokens.
    pub(crate) fn shrink(&mut self, blocks: &mut Blocks, tokens: usize) {
        for (index, pages) in blocks.0.iter_mut().enumerate() {
            let units = self.layout.groups[index].units;
            let keep = tokens.div_ceil(BLOCK_TOKENS) * units;
            for page in pages.split_off(keep.min(pages.len())) {
                self.give_back_page(page);
            }
        }
    }

    /// Takes all pages back.
    pub(crate) fn give_back(&mut self, blocks: Blocks) {
        for page in blocks.0.into_iter().flatten() {
            self.give_back_page(page);
        }
    }

    /// Zeroes a page and takes it back.
    fn give_back_page(&mut self, page: u32) {
        if page == GONE {
            return;
        }
        if let Some(freed) = &mut self.freed {
            freed.push(page);
        } else {
            let start = page as usize * self.layout.page_floats;
            let page_floats = &mut self.data[start..][..self.layout.page_floats];
            // One that was never touched takes no memory, and reading it takes none.
            if page_floats.iter().any(|value| value.to_bits() != 0) {
                page_floats.zeroize();
            }
        }
        self.free.push(page);
    }

    /// Stores one token's keys and values of one layer.
    pub(crate) fn store(
        &mut self,
        layout: Heads,
        blocks: &[Vec<u32>],
        position: usize,
        keys: &[f32],
        values: &[f32],
    ) {
        let page = layout.page(&blocks[layout.group], position / BLOCK_TOKENS);
        let token = position % BLOCK_TOKENS;
        let head_floats = layout.head_dim * BLOCK_TOKENS;
        for (head, data) in keys.chunks_exact(layout.head_dim).enumerate() {
            let start = page + layout.keys + head * head_floats;
            let places = self.data[start..][..head_floats].iter_mut();
            let places = places.skip(token).step_by(BLOCK_TOKENS);
            places.zip(data).for_each(|(place, key)| *place = *key);
        }
        for (head, data) in values.chunks_exact(layout.head_dim).enumerate() {
            let start = page + layout.values + head * head_floats + token * layout.head_dim;
            self.data[start..][..layout.head_dim].copy_from_slice(data);
        }
    }

    pub(crate) fn data(&self) -> &[f32] {
        &self.data
    }

    pub(crate) fn free_pages(&self) -> usize {
        self.free.len()
    }

    pub(crate) fn used_pages(&self) -> usize {
        self.pages - self.free.len()
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        // Free pages are zero already; an owner that ends without giving back leaves others.
        let mut used = vec![true; self.pages];
        self.free
            .iter()
            .for_each(|page| used[*page as usize] = false);
        let pages = self.data.chunks_exact_mut(self.layout.page_floats);
        for (page, used) in pages.zip(used) {
            if used {
                page.zeroize();
            }
        }
    }
}

/// Bytes that one sequence of so many tokens takes at most, read by so many at once.
pub(crate) fn sequence_bytes(spec: &DecoderSpec, tokens: usize, chunk: usize) -> u64 {
    let layout = Layout::new(spec);
    (layout.most_pages(tokens, chunk) as u64).saturating_mul(layout.page_bytes())
}

/// Bytes that so many tokens take where all are kept.
#[cfg(test)]
pub(crate) fn whole_bytes(spec: &DecoderSpec, tokens: usize) -> u64 {
    let layout = Layout::new(spec);
    layout.all_pages(tokens) as u64 * layout.page_bytes()
}
