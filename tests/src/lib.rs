//! Test support: what an operator makes, and a machine like the one that Cloister is made for.
//!
//! [`image`] builds the image, [`site`] makes keys, releases and policies as an operator does.
//! [`tools`] finds the locked tools tree, [`swtpm`] provisions and runs a TPM, [`accelerator`]
//! chooses KVM or emulation, [`vm`] boots a disk and waits for the agent, [`progress`] says what
//! happens. Whatever is started ends with its owner.

pub mod accelerator;
pub mod failure;
pub mod image;
mod nv;
pub mod process;
pub mod progress;
pub mod site;
pub mod swtpm;
pub mod tools;
pub mod vm;
