//! A driver's stand-in: the kernels' own sources on this processor, what it is asked counted for
//! each step, and its faults planned.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};

use kernels::{Counts, Device, DeviceError, Launch, Recorder};

use super::emulation::{Emulation, Memory};

/// Called before each launch, with its number; what it answers is the driver's answer.
pub(crate) type Before =
    Box<dyn Fn(u64, &Recorder<Emulation>, &Launch<'_, Memory>) -> Result<(), DeviceError> + Send>;

pub(crate) struct Plan {
    pub(crate) before: Before,
    /// Bytes of memory.
    pub(crate) bytes: usize,
    /// What was asked since the answer before, at each answer.
    pub(crate) counts: Sender<Counts>,
}

impl Plan {
    pub(crate) fn none() -> (Self, Receiver<Counts>) {
        let (counts, counted) = channel();
        let plan = Self {
            before: Box::new(|_, _, _| Ok(())),
            bytes: usize::MAX,
            counts,
        };
        (plan, counted)
    }
}

pub(crate) struct StandIn {
    device: Recorder<Emulation>,
    plan: Plan,
    launches: Cell<u64>,
    free: Cell<usize>,
}

impl StandIn {
    /// In the thread that will use it.
    pub(crate) fn start(plan: Plan, seed: u32) -> Self {
        let emulation = Emulation::start(seed).expect("a C++ compiler");
        Self {
            device: Recorder::new(emulation),
            free: Cell::new(plan.bytes),
            plan,
            launches: Cell::new(0),
        }
    }
}

/// Whether kernels can be compiled here; says so if not.
pub(crate) fn is_there() -> bool {
    Emulation::start(0).is_some()
}

impl Device for StandIn {
    type Memory = Memory;
    type Graph = Vec<Vec<u8>>;

    fn allocate(&self, bytes: usize) -> Result<Memory, DeviceError> {
        let left = self.free.get().checked_sub(bytes);
        self.free
            .set(left.ok_or(DeviceError::OutOfMemory { bytes })?);
        self.device.allocate(bytes)
    }

    fn write(&self, to: &Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.device.write(to, at, bytes)
    }

    fn read(&self, from: &Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.device.read(from, at, bytes)?;
        self.plan.counts.send(self.device.take()).ok();
        Ok(())
    }

    fn launch(&self, launch: &Launch<'_, Memory>) -> Result<(), DeviceError> {
        self.launches.set(self.launches.get() + 1);
        (self.plan.before)(self.launches.get(), &self.device, launch)?;
        self.device.launch(launch)
    }

    fn capture<E: From<DeviceError>>(
        &self,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<Vec<Vec<u8>>, E> {
        self.device.capture(run)
    }

    fn replay(&self, graph: &Vec<Vec<u8>>) -> Result<(), DeviceError> {
        self.device.replay(graph)
    }
}
