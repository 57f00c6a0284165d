//! What NVIDIA says online of the certificates of devices and manifests, for one time.

use crate::UnixTime;
use crate::certificate::{Certificate, Position, Scheme};
use crate::ocsp::{Response, StatusFault};

/// Status responses, and whether each was of use.
pub(super) struct Statuses<'a> {
    all: Vec<(Response<'a>, bool)>,
    now: UnixTime,
}

/// What responses say of a chain.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    /// Certificates of which nothing is said.
    pub(super) without: Vec<Position>,
    /// How many are good.
    pub(super) good: usize,
    /// When the first response is due for renewal.
    pub(super) until: Option<UnixTime>,
}

impl<'a> Statuses<'a> {
    /// Reads responses, without believing them.
    pub(super) fn read(all: &'a [Vec<u8>], now: UnixTime) -> Result<Self, StatusFault> {
        let all = all
            .iter()
            .map(|der| Response::parse(der).map(|read| (read, false)));
        let all = all.collect::<Result<_, _>>()?;
        Ok(Self { all, now })
    }

    /// Verifies every response about `subject`; nothing, if there is none. `is_revoked` says so of
    /// the responder's own certificate.
    pub(super) fn verify(
        &mut self,
        (subject, issuer): (&Certificate, &Certificate),
        scheme: Scheme,
        mut is_revoked: impl FnMut(&Certificate) -> bool,
    ) -> Result<Option<UnixTime>, StatusFault> {
        let mut first = None;
        for (response, used) in &mut self.all {
            if !response.is_about(subject, issuer) {
                continue;
            }
            *used = true;
            let until = response.verify(issuer, scheme, self.now)?;
            let delegate = response.delegate(issuer, scheme, self.now)?;
            if delegate.is_some_and(|delegate| is_revoked(&delegate)) {
                return Err(StatusFault::ResponderRevoked);
            }
            first = Some(first.map_or(until, |first: UnixTime| first.min(until)));
        }
        Ok(first)
    }

    /// Whether one speaks of none of the certificates here.
    pub(super) fn has_stray(&self) -> bool {
        self.all.iter().any(|(_, used)| !used)
    }
}
