//! What do we promise? Measure, assemble, sign, log, verify.
//!
//! The way of a release, each step a function that the command line, the demo and the tests call:
//!
//! 1. [`measure`]: the registers that a boot of that UKI will show, from the file alone.

pub mod command_line;
pub mod cpio;
pub mod measure;
pub mod pe;
pub mod uki;
