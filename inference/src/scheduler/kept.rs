//! What stays in the cache of sequences that ended: the next request of the same client that begins
//! alike need not read that beginning again.
//!
//! A kept sequence belongs to one client and is handed over whole, never shared or copied: no
//! request of anybody else can tell that it is there. It holds room that nobody else asks for: the
//! least recently used goes first when anybody does.

use std::collections::VecDeque;

use zeroize::Zeroizing;

use super::slot::Slot;
use crate::cache::{BLOCK_TOKENS, Blocks, KvCache};

/// Sequences that are kept of one client: a conversation, and a few beside it.
const MAX_OF_A_CLIENT: usize = 4;

/// Kept sequences, the least recently used first.
#[derive(Default)]
pub(super) struct Kept {
    sequences: VecDeque<Sequence>,
}

struct Sequence {
    client: u64,
    /// What the blocks hold keys and values of.
    tokens: Zeroizing<Vec<u32>>,
    /// The decoder's phase in which they were read.
    phase: usize,
    blocks: Blocks,
}

impl Kept {
    /// Takes over what an ended request has in the cache, if it is anybody's.
    pub(super) fn keep(&mut self, cache: &mut KvCache, slot: Slot, phase: usize) {
        let Slot {
            mut tokens,
            read,
            mut blocks,
            request,
            ..
        } = slot;
        let client = match &request.client {
            // With one block there is nothing to gain.
            Some(client) if read > BLOCK_TOKENS => client.number(),
            _ => return cache.give_back(blocks),
        };
        tokens.truncate(read);
        cache.shrink(&mut blocks, read);
        let of_client = |sequence: &Sequence| sequence.client == client;
        if self.sequences.iter().filter(|s| of_client(s)).count() == MAX_OF_A_CLIENT
            && let Some(oldest) = self.sequences.iter().position(of_client)
            && let Some(oldest) = self.sequences.remove(oldest)
        {
            oldest.free(cache);
        }
        self.sequences.push_back(Sequence {
            client,
            tokens,
            phase,
            blocks,
        });
    }

    /// The client's kept sequence with the longest beginning in common with `tokens`: how much
    /// that is, and the blocks that hold it. The last token is always read anew: what follows it
    /// is not kept. One that parts from `tokens` before what its windows hold is of no use.
    pub(super) fn take(
        &mut self,
        cache: &mut KvCache,
        client: u64,
        tokens: &[u32],
        phase: usize,
    ) -> Option<(usize, Blocks)> {
        let (common, index) = self
            .sequences
            .iter()
            .enumerate()
            .filter(|(_, sequence)| (sequence.client, sequence.phase) == (client, phase))
            .map(|(index, sequence)| (sequence.common(tokens), index))
            .map(|(common, index)| (common.min(tokens.len().saturating_sub(1)), index))
            .filter(|(common, index)| cache.goes_on(&self.sequences[*index].blocks, *common))
            .max()?;
        if common < BLOCK_TOKENS {
            return None;
        }
        let mut blocks = self.sequences.remove(index)?.blocks;
        cache.shrink(&mut blocks, common);
        Some((common, blocks))
    }

    /// Frees the least recently used sequence; false if there is none.
    pub(super) fn evict(&mut self, cache: &mut KvCache) -> bool {
        let oldest = self.sequences.pop_front();
        oldest.map(|sequence| sequence.free(cache)).is_some()
    }

    /// Frees all that is kept of a client.
    pub(super) fn forget(&mut self, cache: &mut KvCache, client: u64) {
        let (gone, kept) = self
            .sequences
            .drain(..)
            .partition(|sequence| sequence.client == client);
        self.sequences = kept;
        let gone: VecDeque<Sequence> = gone;
        gone.into_iter().for_each(|sequence| sequence.free(cache));
    }

    /// Pages that could be had by freeing everything here.
    pub(super) fn pages(&self) -> usize {
        self.sequences.iter().map(|kept| kept.blocks.pages()).sum()
    }
}

impl Sequence {
    fn common(&self, tokens: &[u32]) -> usize {
        let pairs = self.tokens.iter().zip(tokens);
        pairs.take_while(|(mine, theirs)| mine == theirs).count()
    }

    fn free(self, cache: &mut KvCache) {
        cache.give_back(self.blocks);
    }
}
