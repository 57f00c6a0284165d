//! What is on the disk? dm-verity volumes: made, checked, mapped.
