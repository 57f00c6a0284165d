//! The highest version seen: nobody goes back.

/// The highest version of one line of releases that a client has accepted
/// ([`ReleasePolicy::line`](crate::policy::ReleasePolicy::line) names the line). Where it is kept
/// is the client's concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReleaseFloor(u64);

impl ReleaseFloor {
    /// Of a client that has accepted nothing yet.
    pub const UNSEEN: Self = Self(0);

    /// Of a client that has accepted `version`.
    #[must_use]
    pub const fn at(version: u64) -> Self {
        Self(version)
    }

    /// The least version that may be accepted.
    #[must_use]
    pub const fn version(self) -> u64 {
        self.0
    }

    /// The floor after `version` was accepted: never lower than before.
    #[must_use]
    pub fn raised_to(self, version: u64) -> Self {
        Self(self.0.max(version))
    }

    /// Whether `version` is no rollback.
    #[must_use]
    pub const fn admits(self, version: u64) -> bool {
        version >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_only_rises() {
        let floor = ReleaseFloor::UNSEEN.raised_to(5).raised_to(3);
        assert_eq!(floor.version(), 5);
        assert!(floor.admits(5) && floor.admits(6) && !floor.admits(4));
    }
}
