//! The process in the VM.
