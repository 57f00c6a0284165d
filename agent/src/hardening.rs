//! What the process denies itself before it reads anything.

use rustix::process::{DumpableBehavior, Resource, Rlimit};

/// A limit that cannot be set: the process must not go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot forbid core dumps: {0}")]
pub struct HardeningError(#[from] rustix::io::Errno);

/// No core dump, no attached debugger of the same user, no `/proc` files readable by it.
pub fn forbid_dumps() -> Result<(), HardeningError> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_hold() {
        forbid_dumps().unwrap();
        assert_eq!(rustix::process::getrlimit(Resource::Core).maximum, Some(0));
        let behavior = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(behavior, DumpableBehavior::NotDumpable);
    }
}
