//! Whether registers of the SHA-256 bank that were quoted are those of a policy and of a log.

use super::Register;
use super::vtpm::REGISTERS;
use crate::Digest;
use crate::eventlog::{EventLog, EventLogError, SecureBoot};
use crate::policy::{Demand, RegisterPolicy};

/// Registers that were quoted, with their values.
pub(crate) type Quoted = [(Register, Digest<32>)];

/// Why quoted registers are not believed to be what they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterFault {
    /// A value that the policy does not list.
    #[error("{register}: {found} is not listed by the policy")]
    Pinned {
        /// The register.
        register: Register,
        /// Its value.
        found: Digest<32>,
    },
    /// A register that the policy or the log speaks of was not quoted.
    #[error("{register}: not quoted")]
    NotQuoted {
        /// The register.
        register: Register,
    },
    /// There is no event log, and the policy demands one.
    #[error("event log: required by the policy, found none")]
    NoEventLog,
    /// The event log is not sound.
    #[error("event log: {0}")]
    EventLog(#[from] EventLogError),
    /// The event log has no SHA-256 bank.
    #[error("event log: has no SHA-256 bank")]
    Bank,
    /// The event log does not explain a register.
    #[error("{register}: quoted as {expected}, {events} events of the log give {found}")]
    Replay {
        /// The first register that differs.
        register: Register,
        /// Value quoted.
        expected: Digest<32>,
        /// Value that the log gives.
        found: Digest<32>,
        /// How many events of the log extend it.
        events: usize,
    },
}

/// What an event log explained.
pub(crate) struct Explained {
    /// How many events it has.
    pub(crate) events: usize,
    /// Whether Secure Boot is on.
    pub(crate) secure_boot: SecureBoot,
}

/// Each pinned register was quoted and holds what the policy lists.
pub(crate) fn check_pins(pins: &[RegisterPolicy], quoted: &Quoted) -> Result<(), RegisterFault> {
    for pinned in pins {
        let register = pinned.register();
        let mut all = quoted.iter();
        let Some((_, found)) = all.find(|(other, _)| *other == register) else {
            return Err(RegisterFault::NotQuoted { register });
        };
        if !pinned.values.admits(found) {
            let found = *found;
            return Err(RegisterFault::Pinned { register, found });
        }
    }
    Ok(())
}

/// The log explains every quoted register, but for PCR 10, which the kernel goes on extending, and
/// those from 16 on, which guests may reset; and no register beside them. Nothing where there is no
/// log and none is demanded.
pub(crate) fn check_events(
    log: &[u8],
    demand: Demand,
    quoted: &Quoted,
) -> Result<Option<Explained>, RegisterFault> {
    match (log.is_empty(), demand) {
        (true, Demand::Required) => return Err(RegisterFault::NoEventLog),
        (true, Demand::NotRequired) => return Ok(None),
        (false, _) => {}
    }
    let log = EventLog::parse(log)?;
    let numbers = 0..u8::try_from(REGISTERS).unwrap_or(u8::MAX);
    for register in numbers.map(Register) {
        let events = log.count(register);
        let mut all = quoted.iter();
        let found = log.replay_sha256(register).ok_or(RegisterFault::Bank)?;
        match all.find(|(other, _)| *other == register) {
            Some((_, expected)) if *expected != found && register.0 < 16 && register.0 != 10 => {
                return Err(RegisterFault::Replay {
                    register,
                    expected: *expected,
                    found,
                    events,
                });
            }
            None if events > 0 => return Err(RegisterFault::NotQuoted { register }),
            _ => {}
        }
    }
    Ok(Some(Explained {
        events: log.events().len(),
        secure_boot: log.secure_boot_sha256()?,
    }))
}
