//! The GPU's code: kernels (`cuda/`), their launchers, and their references on the CPU.
//!
//! Three layers. A [`Device`] runs what a [`Launch`] says; a `Launch` is made only by the
//! launchers in [`launch`], which compare every length with the shape first; what a GPU needs of
//! unsafe code stands in `cuda.rs`. Indices that kernels follow (block tables, slots) come by way
//! of a [`Plan`], which is checked before it is sent.
//!
//! No kernel splits a sum by how much else there is to do: a row's bits do not depend on the batch.

mod bf16;
pub mod check;
pub mod cubins;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
pub mod launch;
mod parcel;
mod plan;
mod recorder;
pub mod reference;

pub use bf16::Bf16;
#[cfg(feature = "cuda")]
pub use cuda::{Gpu, Graph, Staging};
pub use device::{Argument, Device, DeviceError, Element, Launch, LaunchError, Tensor};
pub use parcel::{Inbox, Parcel, Place};
pub use plan::{Cache, CacheShape, Draft, HeadDim, Plan, PlanError, Room, SequenceStep};
pub use recorder::{Counts, Recorder};
