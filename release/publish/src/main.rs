//! `cloister-publish`.
fn main() {}
