//! What is on the disk? dm-verity volumes: made, checked, mapped.
//!
//! A volume is named by a [`VolumeRef`]: root hash, salt and number of data blocks, all of it
//! measured. On a disk it is two GPT partitions whose unique GUIDs are the two halves of the root
//! hash; labels, order and superblocks on the disk decide nothing.
//!
//! * [`tree`] makes and checks the hash tree, bit for bit as `veritysetup` does;
//! * [`pack`] makes a model's folder a volume, with the small file system of [`erofs`];
//! * [`gpt`] reads and writes partition tables, [`partition`] finds a partition by its GUID;
//! * [`map`] maps a volume through the kernel's device mapper and mounts it;
//! * [`boot`] holds what the initrd decides, [`init`] what it does.

pub mod boot;
mod dm;
pub mod erofs;
pub mod gpt;
mod guid;
pub mod init;
pub mod map;
pub mod pack;
pub mod partition;
mod safetensors;
pub mod superblock;
mod sys;
pub mod tree;
mod volume;

pub use guid::{Guid, GuidError};
pub use safetensors::TensorError;
pub use volume::{VolumeRef, VolumeRefError};

/// Bytes in a data block and in a hash block: the only size that Cloister uses.
pub const BLOCK_BYTES: u64 = 4096;
