//! Where evidence comes from.

pub mod tpm;
