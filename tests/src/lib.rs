//! Test support: what an operator makes, QEMU, swtpm, certificate authorities.

pub mod failure;
pub mod site;
