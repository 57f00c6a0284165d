//! The engine on a device that runs the room's kernels: a GPU, or in tests its emulation.
//!
//! The device has a thread of its own, which alone talks to its driver. A step is an order to it
//! and one answer; the scheduler waits no longer than [`Patience`] says, so that a device that
//! hangs ends the service and not the process. Weights, cache and activations stay on the device:
//! one copy goes there for each step, and one comes back.

mod blueprint;
mod buffers;
mod refusal;
mod step;
mod weights;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use kernels::{Device, DeviceError};

use crate::backend::{Backend, Drawn, Reading, StepError};
use crate::cache::{BLOCK_TOKENS, KvCache};
use crate::engine::EngineLimits;
use crate::error::{Fault, LoadError};
use crate::model::Model;
use crate::scheduler::Machine;
use blueprint::Blueprint;
pub use refusal::DeviceRefusal;
use step::{Order, Sequence};
use worker::Worker;

/// How a device is used.
#[derive(Debug, Default)]
pub struct DeviceOptions {
    /// How long a step may take.
    pub patience: Patience,
}

/// How long a step may take before the device counts as hanging.
#[derive(Debug)]
pub enum Patience {
    /// So long.
    Limit(Duration),
    /// Until this says so: another clock, as tests have.
    Until(Receiver<()>),
}

impl Default for Patience {
    /// Longer than a step on any GPU that has kernels.
    fn default() -> Self {
        Self::Limit(Duration::from_secs(60))
    }
}

/// What the device's thread answers.
type Answer = Result<Vec<Option<Drawn>>, StepError>;

/// The scheduler's side.
struct OnDevice {
    /// `None` once the device has stopped.
    orders: Option<Sender<Order>>,
    answers: Receiver<Answer>,
    patience: Patience,
    thread: Option<JoinHandle<()>>,
    hangs: bool,
    /// Whether the device holds anything of a step.
    worked: bool,
}

/// Starts the device's thread and brings the weights onto the device.
pub(crate) fn start<D: Device>(
    model: &Arc<Model>,
    limits: &EngineLimits,
    options: DeviceOptions,
    open: impl FnOnce() -> Result<D, DeviceError> + Send + 'static,
) -> Result<Machine, LoadError> {
    if model.pooling.is_some() {
        let what = "an embedding";
        return Err(DeviceRefusal::Unsupported { what }.into());
    }
    let blueprint = Blueprint::of(&model.decoder, limits)?;
    let blocks = blueprint.shape.blocks as u32;
    let (orders, received) = mpsc::channel();
    let (answer, answers) = mpsc::channel();
    let (ready, is_ready) = mpsc::channel();
    let thread = std::thread::Builder::new().name("device".to_owned());
    let run = move || {
        let opened = open().map_err(DeviceRefusal::from);
        match opened.and_then(|device| Worker::new(device, blueprint)) {
            Ok(worker) => {
                // Nobody who waits: the model was not wanted after all.
                if ready.send(Ok(())).is_ok() {
                    worker.run(&received, &answer);
                }
            }
            Err(refusal) => {
                let _ = ready.send(Err(refusal));
            }
        }
    };
    let thread = thread.spawn(run).map_err(LoadError::Thread)?;
    is_ready.recv().unwrap_or(Err(DeviceRefusal::Ended))?;
    let backend = OnDevice {
        orders: Some(orders),
        answers,
        patience: options.patience,
        thread: Some(thread),
        hangs: false,
        worked: false,
    };
    Ok(Machine {
        backend: Box::new(backend),
        cache: KvCache::numbers(blocks),
    })
}

impl OnDevice {
    fn order(&mut self, order: Order) -> Answer {
        let broken = || StepError::Stopped(Fault::Broken);
        let orders = self.orders.as_ref().ok_or_else(broken)?;
        orders.send(order).map_err(|_| broken())?;
        let answer = match &self.patience {
            Patience::Limit(limit) => self.answers.recv_timeout(*limit),
            Patience::Until(alarm) => until(&self.answers, alarm),
        };
        let answer = answer.unwrap_or_else(|error| {
            self.hangs = error == RecvTimeoutError::Timeout;
            Err(match error {
                RecvTimeoutError::Timeout => StepError::Stopped(Fault::Hang),
                RecvTimeoutError::Disconnected => broken(),
            })
        });
        if let Err(StepError::Stopped(_)) = answer {
            self.orders = None;
        }
        answer
    }
}

/// Waits for an answer until the alarm rings.
fn until(answers: &Receiver<Answer>, alarm: &Receiver<()>) -> Result<Answer, RecvTimeoutError> {
    const TURN: Duration = Duration::from_millis(1);
    loop {
        match answers.recv_timeout(TURN) {
            Err(RecvTimeoutError::Timeout) if alarm.try_recv() == Ok(()) => {
                return Err(RecvTimeoutError::Timeout);
            }
            Err(RecvTimeoutError::Timeout) => {}
            answer => return answer,
        }
    }
}

impl Backend for OnDevice {
    fn step(
        &mut self,
        cache: &mut KvCache,
        readings: Vec<Reading<'_>>,
    ) -> Result<Vec<Option<Drawn>>, StepError> {
        self.worked = true;
        self.order(Order {
            sequences: readings.iter().map(Sequence::of).collect(),
            freed: cache.take_freed(),
            rests: false,
        })
    }

    fn rest(&mut self, cache: &mut KvCache) {
        let freed = cache.take_freed();
        if self.orders.is_none() || (freed.is_empty() && !self.worked) {
            return;
        }
        self.worked = false;
        // What fails here fails again at the next step, which says so.
        let _ = self.order(Order {
            sequences: Vec::new(),
            freed,
            rests: true,
        });
    }

    fn constrains(&self) -> bool {
        false
    }

    /// What was generated was read by another kernel than a prompt's tokens are.
    fn reusable(&self, read: usize, prompt_tokens: usize) -> usize {
        read.min(prompt_tokens)
    }
}

impl Drop for OnDevice {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take().filter(|_| !self.hangs) {
            // One that has panicked has nothing left to tell.
            let _ = thread.join();
        }
    }
}

/// Blocks that hold so many tokens.
fn blocks_of(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}
