//! Counts what crosses the bus, and what is launched.

use std::cell::Cell;

use crate::{Device, DeviceError, Launch};

/// What has been asked of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kernels, each started by itself.
    pub launches: u64,
    /// Graphs, each started as one.
    pub replays: u64,
    /// Graphs that were made.
    pub captures: u64,
    /// Copies to the device.
    pub writes: u64,
    /// Copies from the device.
    pub reads: u64,
    /// Bytes of those copies.
    pub written_bytes: u64,
    /// Bytes of those copies.
    pub read_bytes: u64,
    /// Allocations: a step is to have none.
    pub allocations: u64,
}

/// A device whose use is counted. Under confidential computing each crossing has a fixed toll.
#[derive(Debug)]
pub struct Recorder<D> {
    device: D,
    counts: Cell<Counts>,
}

impl<D> Recorder<D> {
    /// Counts from zero.
    pub fn new(device: D) -> Self {
        Self {
            device,
            counts: Cell::default(),
        }
    }

    /// What was counted since the last time; the next count begins at zero.
    pub fn take(&self) -> Counts {
        self.counts.take()
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

impl<D: Device> Device for Recorder<D> {
    type Memory = D::Memory;
    type Graph = D::Graph;

    fn allocate(&self, bytes: usize) -> Result<D::Memory, DeviceError> {
        self.count(|counts| counts.allocations += 1);
        self.device.allocate(bytes)
    }

    fn write(&self, to: &D::Memory, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        self.count(|counts| {
            counts.writes += 1;
            counts.written_bytes += bytes.len() as u64;
        });
        self.device.write(to, at, bytes)
    }

    fn read(&self, from: &D::Memory, at: usize, bytes: &mut [u8]) -> Result<(), DeviceError> {
        self.count(|counts| {
            counts.reads += 1;
            counts.read_bytes += bytes.len() as u64;
        });
        self.device.read(from, at, bytes)
    }

    fn launch(&self, launch: &Launch<'_, D::Memory>) -> Result<(), DeviceError> {
        self.count(|counts| counts.launches += 1);
        self.device.launch(launch)
    }

    fn capture<E: From<DeviceError>>(
        &self,
        run: impl FnOnce() -> Result<(), E>,
    ) -> Result<D::Graph, E> {
        let before = self.counts.get();
        let graph = self.device.capture(run);
        // What was launched meanwhile did not start.
        self.counts.set(Counts {
            captures: before.captures + 1,
            ..before
        });
        graph
    }

    fn replay(&self, graph: &D::Graph) -> Result<(), DeviceError> {
        self.count(|counts| counts.replays += 1);
        self.device.replay(graph)
    }
}
