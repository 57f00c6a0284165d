//! The process in the VM: it opens the model, makes the keys, proves what it is and serves.

pub mod evidence;
