//! What do we promise? Measure, assemble, sign, log, verify.
//!
//! The way of a release, each step a function that the command line, the demo and the tests call:
//!
//! 1. [`assemble::assemble`]: image parts and a configuration become a UKI and a disk, in seconds;
//! 2. [`measure::measure`]: the registers that a boot of that UKI shows, from the file alone;
//! 3. [`statement::make`] and [`statement::sign`]: what the release states, and who says so;
//! 4. [`log::Log::append`]: the statement becomes public, and a bundle proves it;
//! 5. [`attest::verify_release`]: what a client will say of that bundle, and
//!    [`verify::check_artifacts`]: whether files are those of the release;
//! 6. [`disk::attach`]: the bundle goes onto the disk, for the machine to show to its clients.
//!
//! Beside it stands what an auditor asks of releases and builds:
//!
//! * [`inputs`] and [`bill`]: what goes in; [`owns`]: where a path comes from;
//! * [`compare`]: what changed between two builds or releases;
//! * [`reproduce`]: whether the sources give the stated bits, and if not, by [`differ`], where and
//!   why.
//!
//! The formats of statement, envelope, checkpoint and bundle, and their verification, are
//! [`attest::release`]'s: here they are only made.

pub mod assemble;
pub mod bill;
pub mod command_line;
pub mod compare;
pub mod cpio;
pub mod differ;
pub mod disk;
mod esp;
pub mod files;
mod git;
pub mod inputs;
pub mod key;
pub mod log;
pub mod manifest;
pub mod measure;
pub mod owns;
pub mod pe;
pub mod reproduce;
pub mod root;
pub mod scratch;
pub mod stated;
pub mod statement;
pub mod tools;
pub mod uki;
pub mod verify;
