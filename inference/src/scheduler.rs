//! The scheduler thread: schedule, forward, sample, emit.
//!
//! A request waits until there is a slot for it, and cache for its prompt. Next is always one of
//! the client that has the fewest slots, then the one that came first; a client without a slot gets
//! one of a client that has several. Each step advances every active request: those that generate
//! by one token, those that read their prompt by a share of the step's prefill budget, one client
//! after the other. A request takes cache as it grows. Where there is none left, first what is kept
//! of ended requests goes; then the request that came last gives up its own, waits, and later reads
//! its tokens again, which gives the same bits. The one that came first is never interrupted, and
//! one full context always fits, so every request ends.
//!
//! Slots and cache of a request that ended, was dropped or ran out of time are free before the next
//! step.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::Sender;

use crate::backend::{Backend, Drawn, Reading, StepError};
use crate::cache::KvCache;
use crate::constraint::Course;
use crate::engine::{EngineLimits, EngineStats};
use crate::error::Fault;
use crate::model::Model;
use crate::reasoning::Marks;
use crate::request::{Emitted, Finish, Request};
use crate::tokenizer::Tokenizer;
use kept::Kept;
use slot::Slot;

mod kept;
mod slot;

/// A request on its way to the scheduler.
pub(crate) struct Job {
    pub(crate) request: Request,
    /// Holds every chunk that the request can make, so that no reader can hold up a step.
    pub(crate) sender: Sender<Emitted>,
    /// Of a constrained request: made before it waits, which takes a while.
    pub(crate) course: Option<Box<Course>>,
}

/// What the engine's front tells the scheduler.
pub(crate) enum Message {
    Job(Box<Job>),
    /// A client has left: nothing is kept for it.
    Left(u64),
    Stop,
}

/// What the scheduler tells the engine's front.
#[derive(Default)]
pub(crate) struct Shared {
    /// Requests that wait; counted up by the front, so that the bound is exact.
    pub(crate) queued: AtomicU32,
    stats: Mutex<EngineStats>,
    fault: Mutex<Option<Fault>>,
}

impl Shared {
    pub(crate) fn stats(&self) -> EngineStats {
        let stats = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        EngineStats {
            queued: self.queued.load(Ordering::Relaxed),
            ..stats
        }
    }

    /// Why nothing is served any more.
    pub(crate) fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What computes, and the numbers of the cache's blocks.
pub(crate) struct Machine {
    pub(crate) backend: Box<dyn Backend>,
    pub(crate) cache: KvCache,
}

/// How tokens become an answer.
pub(crate) struct Words {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// How the model marks what it thinks.
    pub(crate) marks: Option<Marks>,
    pub(crate) end_tokens: Vec<u32>,
}

pub(crate) struct Scheduler {
    model: Arc<Model>,
    words: Words,
    limits: EngineLimits,
    shared: Arc<Shared>,
    messages: Receiver<Message>,
    /// What waits, in no order.
    queue: Vec<Slot>,
    slots: Vec<Slot>,
    cache: KvCache,
    kept: Kept,
    backend: Box<dyn Backend>,
    /// The client that was first in line for prefill.
    turn: Option<u64>,
    arrivals: u64,
    preempted: u64,
    finished: u64,
    withheld: u64,
    read_tokens: u64,
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

impl Scheduler {
    pub(crate) fn new(
        model: Arc<Model>,
        machine: Machine,
        words: Words,
        limits: EngineLimits,
        shared: Arc<Shared>,
        messages: Receiver<Message>,
    ) -> Self {
        let Machine { backend, cache } = machine;
        let scheduler = Self {
            model,
            words,
            limits,
            shared,
            messages,
            queue: Vec::new(),
            slots: Vec::new(),
            cache,
            kept: Kept::default(),
            backend,
            turn: None,
            arrivals: 0,
            preempted: 0,
            finished: 0,
            withheld: 0,
            read_tokens: 0,
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
            match self.forward_constrained(&plan) {
                Ok(drawn) => self.emit(&plan, drawn),
                Err(StepError::Withheld) => self.withhold(&plan),
                Err(StepError::Stopped(fault)) => self.stop(fault),
            }
            self.sweep();
            self.publish();
        }
    }

    /// Takes what has arrived; waits if there is nothing else to do. False if the engine is gone.
    fn receive(&mut self) -> bool {
        if self.queue.is_empty() && self.slots.is_empty() {
            self.backend.rest(&mut self.cache);
        }
        loop {
            let idle = self.queue.is_empty() && self.slots.is_empty();
            let message = if idle {
                self.messages
                    .recv()
                    .map_err(|RecvError| TryRecvError::Disconnected)
            } else {
                self.messages.try_recv()
            };
            match message {
                Ok(Message::Job(_)) if self.shared.fault().is_some() => {
                    self.shared.queued.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(Message::Job(job)) => {
                    self.arrivals += 1;
                    let marks = self.words.marks.as_ref();
                    let slot = Slot::new(*job, self.arrivals, &self.words.tokenizer, marks);
                    self.queue.push(slot);
                }
                Ok(Message::Left(client)) => {
                    self.kept.forget(&mut self.cache, client);
                    if idle {
                        self.backend.rest(&mut self.cache);
                    }
                    self.publish();
                }
                Err(TryRecvError::Empty) => return true,
                Ok(Message::Stop) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Frees what has ended, was dropped by its reader, or is out of time.
    fn sweep(&mut self) {
        let now = Instant::now();
        let late = |request: &Request| request.deadline.is_some_and(|deadline| deadline <= now);
        for slot in self.queue.iter_mut().chain(&mut self.slots) {
            if !slot.ended && late(&slot.request) {
                slot.emit(String::new(), String::new(), Some(Finish::Deadline));
            }
        }
        let over = |slot: &mut Slot| slot.ended || slot.sender.is_closed();
        for slot in self.queue.extract_if(.., over) {
            if !slot.paused {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            }
            self.finished += 1;
        }
        for mut slot in self.slots.extract_if(.., over) {
            self.finished += 1;
            if slot.faulty {
                self.cache.give_back(std::mem::take(&mut slot.blocks));
                continue;
            }
            slot.read = self.backend.reusable(slot.read, slot.prompt_tokens);
            let phase = self.model.decoder.phase(slot.tokens.len());
            self.kept.keep(&mut self.cache, slot, phase);
        }
    }

    /// Gives waiting requests a slot, and cache for what they have to read.
    fn admit(&mut self) {
        while let Some(next) = self.next() {
            if self.slots.len() == self.limits.max_active as usize && !self.make_way(next) {
                return;
            }
            if !self.reserve(next) {
                return;
            }
            let mut slot = self.queue.swap_remove(next);
            if !slot.paused {
                self.shared.queued.fetch_sub(1, Ordering::Relaxed);
            }
            slot.paused = false;
            self.slots.push(slot);
        }
    }

    /// Who is next: of the client with the fewest slots, the one that came first.
    fn next(&self) -> Option<usize> {
        let place = |slot: &Slot| (self.slots_of(slot.client()), slot.arrival);
        (0..self.queue.len()).min_by_key(|index| place(&self.queue[*index]))
    }

    fn slots_of(&self, client: Option<u64>) -> usize {
        let of_client = self.slots.iter().filter(|slot| slot.client() == client);
        of_client.count()
    }

    /// For a client that has no slot: interrupts the last request of the client that has the most,
    /// if these are several.
    fn make_way(&mut self, next: usize) -> bool {
        if self.slots_of(self.queue[next].client()) > 0 {
            return false;
        }
        let place = |slot: &Slot| (self.slots_of(slot.client()), slot.arrival);
        let most = (0..self.slots.len()).max_by_key(|index| place(&self.slots[*index]));
        match most {
            Some(index) if place(&self.slots[index]).0 > 1 => {
                self.preempt(index);
                true
            }
            _ => false,
        }
    }

    /// Takes the blocks for what a waiting request has to read, and one token more. Nothing running
    /// is interrupted for it.
    fn reserve(&mut self, next: usize) -> bool {
        let Self {
            queue, cache, kept, ..
        } = self;
        let slot = &mut queue[next];
        let chunk = self.limits.prefill_chunk_tokens as usize;
        let room = slot.first_room();
        if cache.most_pages(room, chunk) > cache.free_pages() + kept.pages() {
            return false;
        }
        let phase = self.model.decoder.phase(slot.tokens.len());
        let found = slot
            .client()
            .and_then(|client| kept.take(cache, client, &slot.tokens, phase));
        if let Some((read, blocks)) = found {
            (slot.read, slot.blocks) = (read, blocks);
            if slot.generated() == 0 {
                slot.cached = read;
            }
        }
        while !cache.grow(&mut slot.blocks, room, slot.read, slot.read + chunk) {
            if !kept.evict(cache) {
                cache.give_back(std::mem::take(&mut slot.blocks));
                slot.read = 0;
                return false;
            }
        }
        true
    }

    /// Puts a running request back among those that wait, without its cache.
    fn preempt(&mut self, index: usize) {
        let mut slot = self.slots.remove(index);
        self.cache.give_back(std::mem::take(&mut slot.blocks));
        slot.read = 0;
        slot.paused = true;
        self.preempted += 1;
        self.queue.push(slot);
    }

    /// How many tokens each slot reads in this step, and which slots read any. Whoever cannot have
    /// the cache for it reads nothing.
    fn schedule(&mut self) -> Vec<(usize, usize)> {
        self.find_room();
        let mut budget = self.limits.prefill_chunk_tokens as usize;
        let mut shares = vec![0; self.slots.len()];
        for index in self.prefill_order() {
            let slot = &self.slots[index];
            // The last token of a sequence that generates is always read; prompts share.
            let generates = slot.generates();
            let share = if generates {
                slot.unread()
            } else {
                slot.unread().min(budget)
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

    /// Cache for the tokens that each slot has; the request that came last gives up its own where
    /// there is none left.
    fn find_room(&mut self) {
        self.slots.sort_by_key(|slot| slot.arrival);
        let mut index = 0;
        while index < self.slots.len() {
            let slot = &mut self.slots[index];
            let end = slot.read + self.limits.prefill_chunk_tokens as usize;
            let tokens = slot.tokens.len();
            let fits = self.cache.grow(&mut slot.blocks, tokens, slot.read, end);
            if fits {
                index += 1;
            } else if !self.kept.evict(&mut self.cache) {
                self.preempt(self.slots.len() - 1);
            }
        }
    }

    /// The slots in the order in which they get of the prefill budget: one client after the other,
    /// each step beginning with the next one.
    fn prefill_order(&mut self) -> Vec<usize> {
        let reads = |slot: &&Slot| !slot.generates();
        let mut clients: Vec<_> = self.slots.iter().filter(reads).map(Slot::client).collect();
        clients.sort_unstable();
        clients.dedup();
        let after = clients.partition_point(|client| *client <= self.turn);
        let first = clients.get(after).or(clients.first()).copied();
        self.turn = first.flatten();
        let first = clients.iter().position(|client| Some(*client) == first);
        clients.rotate_left(first.unwrap_or(0));
        let rank = |client| clients.iter().position(|other| *other == client);
        let mut order: Vec<usize> = (0..self.slots.len()).collect();
        order.sort_by_key(|index| (rank(self.slots[*index].client()), *index));
        order
    }

    fn forward(
        &mut self,
        plan: &[(usize, usize)],
        courses: &[(usize, Mutex<Box<Course>>)],
    ) -> Result<Vec<Option<Drawn>>, StepError> {
        self.read_tokens += plan.iter().map(|(_, share)| *share as u64).sum::<u64>();
        let readings = plan.iter().map(|(index, share)| {
            let mut courses = courses.iter();
            let course = courses.find(|(other, _)| other == index);
            self.slots[*index].reading(*share, course.map(|(_, course)| course))
        });
        let readings: Vec<Reading<'_>> = readings.collect();
        match readings.is_empty() {
            true => Ok(Vec::new()),
            false => self.backend.step(&mut self.cache, readings),
        }
    }

    /// As [`forward`](Self::forward), while another thread finds out which tokens may come next.
    fn forward_constrained(
        &mut self,
        plan: &[(usize, usize)],
    ) -> Result<Vec<Option<Drawn>>, StepError> {
        let courses = plan.iter().filter_map(|(index, _)| {
            let course = self.slots[*index].course.take()?;
            Some((*index, Mutex::new(course)))
        });
        let courses: Vec<(usize, Mutex<Box<Course>>)> = courses.collect();
        if courses.is_empty() {
            return self.forward(plan, &courses);
        }
        let drawn = std::thread::scope(|scope| {
            let prepare = || {
                for (_, course) in &courses {
                    let mut course = course.lock().unwrap_or_else(PoisonError::into_inner);
                    course.prepare();
                }
            };
            let thread = std::thread::Builder::new().name("masks".to_owned());
            // Where no thread is to be had, it is found out when it is needed.
            drop(thread.spawn_scoped(scope, prepare));
            self.forward(plan, &courses)
        });
        for (index, course) in courses {
            let course = course.into_inner().unwrap_or_else(PoisonError::into_inner);
            self.slots[index].course = Some(course);
        }
        drawn
    }

    /// Gives every slot that has read all of its tokens the next one, and sends what may be shown.
    fn emit(&mut self, plan: &[(usize, usize)], drawn: Vec<Option<Drawn>>) {
        let mut drawn = drawn.into_iter();
        for (index, share) in plan {
            let slot = &mut self.slots[*index];
            slot.read += share;
            self.cache.leave(&mut slot.blocks, slot.read);
            if slot.read < slot.tokens.len() {
                continue;
            }
            let Some(Some(drawn)) = drawn.next() else {
                slot.withhold();
                self.withheld += 1;
                continue;
            };
            match drawn {
                Drawn::Token(taken) => {
                    slot.note(&taken, &self.words.tokenizer);
                    let is_end = self.words.end_tokens.contains(&taken.token);
                    slot.accept(taken.token, is_end, &self.words.tokenizer);
                }
                Drawn::Vector(vector) => {
                    slot.embed(vector);
                    continue;
                }
                Drawn::Stuck => {
                    slot.finish(Finish::Constraint);
                    continue;
                }
            }
            let phase = |length| self.model.decoder.phase(length);
            if phase(slot.read) != phase(slot.tokens.len()) {
                slot.read = 0;
                self.cache.give_back(std::mem::take(&mut slot.blocks));
            }
        }
    }

    /// Ends what a step was for.
    fn withhold(&mut self, plan: &[(usize, usize)]) {
        for (index, _) in plan {
            self.slots[*index].withhold();
            self.withheld += 1;
        }
    }

    /// Ends everything, for good: nothing that the device holds can be trusted. Nobody gets a last
    /// chunk.
    fn stop(&mut self, fault: Fault) {
        *self
            .shared
            .fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(fault);
        for slot in self.slots.iter_mut().chain(&mut self.queue) {
            slot.withhold();
            self.withheld += 1;
        }
    }

    fn publish(&self) {
        let stats = EngineStats {
            active: self.slots.len() as u32,
            queued: 0,
            used_blocks: self.cache.used_pages() as u32,
            kept_blocks: self.kept.pages() as u32,
            free_blocks: self.cache.free_pages() as u32,
            preempted: self.preempted,
            finished: self.finished,
            withheld: self.withheld,
            read_tokens: self.read_tokens,
        };
        *self
            .shared
            .stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = stats;
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
