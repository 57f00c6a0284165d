//! The engine: schedule, forward, sample, emit.
