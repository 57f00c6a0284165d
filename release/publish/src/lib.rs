//! Signs and logs.
