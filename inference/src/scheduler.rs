//! The scheduler thread: schedule, forward, sample, emit.
//!
//! Requests wait in one queue and get a slot and all the cache that they can need, in order of
//! arrival. Each step advances every active request: those that generate by one token, those that
//! read their prompt by a share of the step's prefill budget, in turn. Slots and cache of a request
//! that ended, was dropped or ran out of time are free before the next step.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::Sender;
use zeroize::Zeroizing;

use crate::cache::KvCache;
use crate::decoder::{Logits, Part, Workspace};
use crate::engine::{EngineLimits, EngineStats};
use crate::model::Model;
use crate::request::{Chunk, Emitted, Finish, Request};
use crate::sample::sample;
use crate::text::{Characters, StopFilter};
use crate::tokenizer::{TokenBytes, Tokenizer};

/// A request on its way to the scheduler.
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Holds every chunk that the request can make, so that no reader can hold up a step.
    pub(crate) sender: Sender<Emitted>,
}

/// What the scheduler tells the engine's front.
#[derive(Default)]
pub(crate) struct Shared {
    /// Requests that wait; counted up by the front, so that the bound is exact.
    pub(crate) queued: AtomicU32,
    stats: Mutex<EngineStats>,
}

impl Shared {
    pub(crate) fn stats(&self) -> EngineStats {
        let stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStats {
            queued: self.queued.load(Ordering::Relaxed),
            ..stats
        }
    }
}

pub(crate) struct Scheduler {
    model: Model,
    tokenizer: Arc<Tokenizer>,
    end_tokens: Vec<u32>,
    limits: EngineLimits,
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    queue: VecDeque<Job>,
    slots: Vec<Slot>,
    cache: KvCache,
    work: Workspace,
    /// Which slot is first in line for prefill.
    turn: usize,
    finished: u64,
}

/// A scheduler that panics leaves nobody who answers: the process ends with it, so that whoever
/// watches over the process knows.
struct EndsTheProcess;

impl Drop for EndsTheProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// One request in progress.
struct Slot {
    /// The prompt and what was generated.
    tokens: Zeroizing<Vec<u32>>,
    prompt_tokens: usize,
    /// Tokens that are in the cache.
    read: usize,
    blocks: Vec<u32>,
    request: Request,
    sender: Sender<Emitted>,
    bytes: TokenBytes,
    characters: Characters,
    stop: StopFilter,
    ended: bool,
}

impl Scheduler {
    pub(crate) fn new(
        model: Model,
        tokenizer: Arc<Tokenizer>,
        end_tokens: Vec<u32>,
        limits: EngineLimits,
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
    ) -> Self {
        let cache = KvCache::new(&model.decoder.spec, limits.kv_bytes);
        let scheduler = Self {
            model,
            tokenizer,
            end_tokens,
            limits,
            shared,
            jobs,
            queue: VecDeque::new(),
            slots: Vec::new(),
            cache,
            work: Workspace::default(),
            turn: 0,
            finished: 0,
        };
        scheduler.publish();
        scheduler
    }

    /// Serves until the engine is dropped.
    pub(crate) fn run(mut self) {
        let _guard = EndsTheProcess;
        while self.receive() {
            self.sweep();
            self.admit();
            let plan = self.schedule();
            self.forward(&plan);
            self.emit(&plan);
            self.sweep();
            self.publish();
        }
    }

    /// Takes what has arrived; waits if there is nothing else to do. False if the engine is gone.
    fn receive(&mut self) -> bool {
        if self.queue.is_empty() && self.slots.is_empty() {
            self.work.clear();
            match self.jobs.recv() {
                Ok(job) => self.queue.push_back(job),
                Err(_) => return false,
            }
        }
        loop {
            match self.jobs.try_recv() {
                Ok(job) => self.queue.push_back(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Frees what has ended, was dropped by its reader, or is out of time.
    fn sweep(&mut self) {
        let now = Instant::now();
        let late = |request: &Request| request.deadline.is_some_and(|deadline| deadline <= now);
        let waiting = self.queue.len();
        self.queue.retain(|job| {
            if late(&job.request) {
                let chunk = Chunk {
                    text: String::new(),
                    finish: Some(Finish::Deadline),
                };
                // A reader that has left needs no answer.
                let _ = job.sender.try_send(Emitted {
                    chunk,
                    completion_tokens: 0,
                });
                return false;
            }
            !job.sender.is_closed()
        });
        let left = waiting - self.queue.len();
        self.shared.queued.fetch_sub(left as u32, Ordering::Relaxed);
        self.finished += left as u64;

        let mut index = 0;
        while index < self.slots.len() {
            let slot = &mut self.slots[index];
            if !slot.ended && late(&slot.request) {
                slot.emit(String::new(), Some(Finish::Deadline));
            }
            if slot.ended || slot.sender.is_closed() {
                let slot = self.slots.remove(index);
                self.cache.give_back(slot.blocks, slot.tokens.len());
                self.finished += 1;
            } else {
                index += 1;
            }
        }
    }

    /// Gives waiting requests their slot and cache, in order of arrival.
    fn admit(&mut self) {
        while self.slots.len() < self.limits.max_active as usize {
            let Some(job) = self.queue.front() else {
                return;
            };
            let request = &job.request;
            let tokens = request.prompt.len() + request.max_new_tokens as usize;
            let Some(blocks) = self.cache.take(tokens) else {
                return;
            };
            let Some(job) = self.queue.pop_front() else {
                return;
            };
            self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            self.slots.push(Slot::new(job, blocks, &self.tokenizer));
        }
    }

    /// How many tokens each slot reads in this step, and which slots read any.
    fn schedule(&mut self) -> Vec<(usize, usize)> {
        let mut budget = self.limits.prefill_chunk_tokens as usize;
        let count = self.slots.len();
        self.turn = self
            .turn
            .checked_add(1)
            .filter(|turn| *turn < count)
            .unwrap_or(0);
        let mut shares = vec![0; count];
        for index in (0..count).map(|offset| (self.turn + offset) % count) {
            let slot = &self.slots[index];
            let unread = slot.tokens.len() - slot.read;
            // The last token of a sequence that generates is always read; prompts share.
            let generates = slot.tokens.len() > slot.prompt_tokens && unread == 1;
            let share = if generates {
                unread
            } else {
                unread.min(budget)
            };
            budget -= if generates { 0 } else { share };
            shares[index] = share;
        }
        shares
            .into_iter()
            .enumerate()
            .filter(|(_, share)| *share > 0)
            .collect()
    }

    fn forward(&mut self, plan: &[(usize, usize)]) {
        let parts: Vec<Part<'_>> = plan
            .iter()
            .map(|(index, share)| self.slots[*index].part(*share))
            .collect();
        if !parts.is_empty() {
            self.model
                .decoder
                .forward(&self.model.pool, &mut self.cache, &parts, &mut self.work);
        }
    }

    /// Samples for every slot that has read all of its tokens, and sends what may be shown.
    fn emit(&mut self, plan: &[(usize, usize)]) {
        let mut distributions = self
            .work
            .logits
            .chunks_exact(self.model.decoder.spec.vocabulary as usize);
        for (index, share) in plan {
            let slot = &mut self.slots[*index];
            slot.read += share;
            if slot.read < slot.tokens.len() {
                continue;
            }
            let Some(logits) = distributions.next() else {
                continue;
            };
            let token = sample(logits, &slot.request.sampling, slot.tokens.len() as u64);
            slot.accept(token, self.end_tokens.contains(&token), &self.tokenizer);
            let phase = |length| self.model.decoder.phase(length);
            if phase(slot.read) != phase(slot.tokens.len()) {
                slot.read = 0;
            }
        }
    }

    fn publish(&self) {
        let stats = EngineStats {
            active: self.slots.len() as u32,
            queued: 0,
            used_blocks: self.cache.used_blocks() as u32,
            free_blocks: self.cache.free_blocks() as u32,
            finished: self.finished,
        };
        *self
            .shared
            .stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = stats;
    }
}

impl Slot {
    fn new(job: Job, blocks: Vec<u32>, tokenizer: &Tokenizer) -> Self {
        let Job {
            mut request,
            sender,
        } = job;
        let room = request.prompt.len() + request.max_new_tokens as usize;
        // Room for all of it at once: a vector that grows leaves copies behind.
        let mut tokens = Zeroizing::new(Vec::with_capacity(room));
        tokens.extend_from_slice(request.prompt.tokens());
        Self {
            prompt_tokens: tokens.len(),
            tokens,
            read: 0,
            blocks,
            stop: StopFilter::new(std::mem::take(&mut request.stop)),
            request,
            sender,
            bytes: TokenBytes::new(tokenizer),
            characters: Characters::default(),
            ended: false,
        }
    }

    /// The next `share` unread tokens; a distribution is wanted if they are the last.
    fn part(&self, share: usize) -> Part<'_> {
        let end = self.read + share;
        let logits = if end == self.tokens.len() {
            Logits::Last
        } else {
            Logits::None
        };
        Part {
            tokens: &self.tokens[self.read..end],
            start: self.read,
            length: self.tokens.len(),
            blocks: &self.blocks,
            logits,
        }
    }

    /// Takes a new token: ends, or sends the text that it completes.
    fn accept(&mut self, token: u32, is_end: bool, tokenizer: &Tokenizer) {
        self.tokens.push(token);
        if is_end {
            return self.finish(Finish::Stop);
        }
        let mut text = String::new();
        self.characters
            .push(self.bytes.push(tokenizer, token), &mut text);
        let (text, stopped) = self.stop.push(&text);
        if stopped {
            self.emit(text, Some(Finish::Stop));
        } else if self.generated() == self.request.max_new_tokens {
            self.emit(text, None);
            self.finish(Finish::Length);
        } else {
            self.emit(text, None);
        }
    }

    /// Sends what was held back, and ends.
    fn finish(&mut self, finish: Finish) {
        let mut rest = String::new();
        self.characters.finish(&mut rest);
        let (mut text, stopped) = self.stop.push(&rest);
        if stopped {
            return self.emit(text, Some(Finish::Stop));
        }
        text += &self.stop.finish();
        self.emit(text, Some(finish));
    }

    fn emit(&mut self, text: String, finish: Option<Finish>) {
        self.ended |= finish.is_some();
        if text.is_empty() && finish.is_none() {
            return;
        }
        let completion_tokens = self.generated();
        let emitted = Emitted {
            chunk: Chunk { text, finish },
            completion_tokens,
        };
        // The channel has room for every chunk; if the reader has left, the next sweep sees it.
        let _ = self.sender.try_send(emitted);
    }

    fn generated(&self) -> u32 {
        (self.tokens.len() - self.prompt_tokens) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    /// In a process of its own.
    #[test]
    #[ignore = "it ends the process"]
    fn a_scheduler_panics() {
        let _guard = EndsTheProcess;
        panic!("provoked");
    }

    #[test]
    fn a_panic_of_the_scheduler_ends_the_process() {
        const SIGABRT: i32 = 6;
        let test = [
            "--exact",
            "scheduler::tests::a_scheduler_panics",
            "--ignored",
        ];
        let program = std::env::current_exe().expect("this program");
        let mut command = std::process::Command::new(program);
        let output = command.args(test).output().expect("it starts");
        assert_eq!(output.status.signal(), Some(SIGABRT), "{output:?}");
    }
}
