//! Why an event log is not as predicted: the first event of each register that differs, and what
//! that event says of itself.

use attest::Digest;

use super::Named;
use super::statement::{Release, Tdx, Tpm};
use crate::measure::eventlog::{Bank, Difference, Event, EventLog, Kind, first_difference};
use crate::measure::{Digests, Measurement};

/// How a direct boot's predictions call the two forms of its kernel.
pub const KERNEL_FORMS: [&str; 2] = ["kernel, patched", "kernel, unchanged"];

/// What may have been measured in the place of what was expected.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    /// Command lines, as EFI measures them.
    pub lines: Vec<Named<Digests>>,
    /// Initrds.
    pub initrds: Vec<Named<Digests>>,
    /// Kernels of a direct boot, in each form.
    pub kernels: Vec<Named<Digest<48>>>,
    /// UKIs.
    pub ukis: Vec<Named<Measurement>>,
}

/// What is known of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register {
    /// Its name: `rtmr1`, `pcr4`.
    pub name: String,
    /// How it compares.
    pub compared: Compared,
}

/// How a register compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// Event by event.
    Same,
    /// Nothing was predicted.
    NotPredicted,
    /// From one event on.
    Differs {
        /// The first event that differs.
        difference: Difference<Vec<u8>>,
        /// What most likely lies behind it.
        cause: Option<String>,
    },
}

/// A log beside a prediction of TDX. RTMR3 has no predicted event: it stays zero.
#[must_use]
pub fn tdx(log: &EventLog<'_>, expected: &Tdx, candidates: &Candidates) -> Vec<Register> {
    let registers = (0u32..).zip(&expected.events);
    let one = |(number, events): (u32, &Vec<Named<Digests>>)| {
        let name = format!("rtmr{number}");
        match events.is_empty() && number < 3 {
            true => Register {
                name,
                compared: Compared::NotPredicted,
            },
            false => register(name, log, number + 1, events, candidates),
        }
    };
    registers.map(one).collect()
}

/// A log beside a prediction of a TPM.
#[must_use]
pub fn tpm(log: &EventLog<'_>, expected: &Tpm, candidates: &Candidates) -> Vec<Register> {
    let registers = expected.events.iter();
    let one = |(pcr, events): &(u8, Vec<Named<Digests>>)| {
        register(format!("pcr{pcr}"), log, (*pcr).into(), events, candidates)
    };
    registers.map(one).collect()
}

/// A register of a TPM that is not as a release states it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Its number.
    pub pcr: u8,
    /// As stated, in the log's bank.
    pub expected: Vec<u8>,
    /// As the log's events give it.
    pub found: Vec<u8>,
    /// The log's events; none if the register is as stated.
    pub events: Vec<(String, Vec<u8>)>,
    /// The UKI that has such a register.
    pub cause: Option<String>,
}

/// A log beside the registers of a release, which states no events.
#[must_use]
pub fn stated(log: &EventLog<'_>, release: &Release, candidates: &Candidates) -> Vec<Stated> {
    let bank = log.bank();
    let one = |(pcr, digests): &(u8, Digests)| {
        let expected = digests.of(bank).to_vec();
        let found = log.replay(bank, (*pcr).into()).unwrap_or_default();
        let has = |uki: &&Named<Measurement>| {
            let value = uki.1.values.get(pcr);
            found != expected && value.is_some_and(|value| value.of(bank) == found)
        };
        let uki = candidates.ukis.iter().find(has);
        Stated {
            pcr: *pcr,
            events: match found == expected {
                true => Vec::new(),
                false => log.digests(bank, (*pcr).into()),
            },
            cause: uki.map(|(name, _)| format!("it is that of the UKI {name}")),
            expected,
            found,
        }
    };
    release.tpm.iter().map(one).collect()
}

fn register(
    name: String,
    log: &EventLog<'_>,
    number: u32,
    expected: &[Named<Digests>],
    candidates: &Candidates,
) -> Register {
    let bank = log.bank();
    let found = log.digests(bank, number);
    let compared = match difference(expected, &found, bank) {
        None => Compared::Same,
        Some(difference) => Compared::Differs {
            cause: cause(candidates, log, number, &found, &difference),
            difference,
        },
    };
    Register { name, compared }
}

/// The first event that is not as predicted: where a kernel was predicted in several forms, by the
/// form that fits the furthest.
#[must_use]
pub fn difference(
    expected: &[Named<Digests>],
    found: &[(String, Vec<u8>)],
    bank: Bank,
) -> Option<Difference<Vec<u8>>> {
    let form_of = |what: &str| KERNEL_FORMS.into_iter().find(|form| what.starts_with(form));
    let present = |form: &&str| expected.iter().any(|(what, _)| what.starts_with(form));
    let mut forms: Vec<Option<&str>> = KERNEL_FORMS.into_iter().filter(present).map(Some).collect();
    if forms.is_empty() {
        forms.push(None);
    }
    let mut furthest: Option<Difference<Vec<u8>>> = None;
    for form in forms {
        let of_form = expected.iter().filter(|(what, _)| {
            let own = form_of(what);
            own.is_none() || own == form
        });
        let of_form: Vec<_> = of_form
            .map(|(what, digests)| (what.clone(), digests.of(bank).to_vec()))
            .collect();
        // One that fits whole has no difference, and then there is none at all.
        let difference = first_difference(&of_form, found)?;
        if furthest
            .as_ref()
            .is_none_or(|best| difference.number > best.number)
        {
            furthest = Some(difference);
        }
    }
    furthest
}

/// What most likely lies behind the first event that differs.
fn cause(
    candidates: &Candidates,
    log: &EventLog<'_>,
    register: u32,
    found: &[(String, Vec<u8>)],
    difference: &Difference<Vec<u8>>,
) -> Option<String> {
    let Some((_, digest)) = &difference.found else {
        return Some("the boot ended before, or the log is not of the whole boot".to_owned());
    };
    if let Some(name) = candidates.name(digest, log.bank()) {
        return Some(name);
    }
    if log.kind() == Kind::Tpm && matches!(register, 12 | 13) {
        return Some("a host brought it beside the UKI: command line, addon, extension".to_owned());
    }
    let at = difference.number.checked_sub(1)?;
    let expected = difference.expected.as_ref().map(|(_, digest)| digest);
    let later = found
        .iter()
        .skip(at)
        .position(|(_, digest)| Some(digest) == expected);
    let first = match later {
        Some(1) => "one event comes first that was not expected; ".to_owned(),
        Some(count) => format!("{count} events come first that were not expected; "),
        None => String::new(),
    };
    let event = log.of(register).nth(at)?;
    match (nature(event), first.is_empty()) {
        (Some(nature), _) => Some(format!("{first}{nature}")),
        (None, true) => None,
        (None, false) => Some(format!("{first}see the log")),
    }
}

/// What an event is a sign of, by its kind.
fn nature(event: &Event<'_>) -> Option<&'static str> {
    let variable = event.variable();
    Some(match (event.kind, variable.as_deref()) {
        (0x8000_0004, _) => {
            "a driver or the option ROM of a device ran: QEMU's NICs bring one unless romfile= is \
             given"
        }
        (0x8000_0003, _) => "another program was started: another UKI, kernel or boot loader",
        (0x8000_0001, Some("SecureBoot")) => "Secure Boot is on in one case and off in the other",
        (0x8000_0001, _) => "Secure Boot has other keys or lists",
        (0x8000_00e0, _) => "Secure Boot let a program run, by this certificate or hash",
        (0x8000_0002 | 0x8000_000c, _) => "the order or the list of what may be booted is another",
        (0x8000_0009 | 0x8000_000b, _) => {
            "another size of memory, or a firmware with other sections"
        }
        (0x8000_0008 | 0x8000_000a, _) => "another firmware, or its configuration was changed",
        (0x8000_0006, _) => "another disk, or its partition table was changed",
        (0x0000_000a, _) => "ACPI: vCPUs, memory, devices, slots or the version of QEMU differ",
        (0x0000_0006, _) => {
            "another command line or initrd: name those that may have been used by --cmdline, \
             --initrd or --uki"
        }
        (0x0000_000d, _) => "a section of another UKI: name it by --uki",
        _ => return None,
    })
}

impl Candidates {
    /// The candidate that has this digest.
    #[must_use]
    pub fn name(&self, digest: &[u8], bank: Bank) -> Option<String> {
        let of = |what: &str, list: &[Named<Digests>]| {
            let found = list.iter().find(|(_, one)| one.of(bank) == digest);
            found.map(|(name, _)| format!("it is the {what} {name}"))
        };
        let kernel = || {
            let mut kernels = self.kernels.iter();
            let found = kernels.find(|(_, one)| one.as_ref() == digest);
            found.map(|(name, _)| format!("it is the kernel {name}"))
        };
        let uki = || {
            self.ukis.iter().find_map(|(name, uki)| {
                let mut events = uki.events.iter();
                let event = events.find(|event| event.digests.of(bank) == digest)?;
                // An action or a section's name is the same in every UKI.
                let own = event.what.contains("Authenticode")
                    || event.what.contains("contents")
                    || event.pcr == 9;
                own.then(|| format!("it is that of the UKI {name}: {}", event.what))
            })
        };
        of("command line", &self.lines)
            .or_else(|| of("initrd", &self.initrds))
            .or_else(kernel)
            .or_else(uki)
    }
}
