//! A quote of TDX: five registers and no events. Each that differs is searched for.

use attest::Digest;
use release::measure::Digests;
use release::measure::eventlog::EventLog;
use release::measure::explain::log::{Candidates, KERNEL_FORMS};
use release::measure::explain::slots::{self, Slot};
use release::measure::explain::statement::{Release, TDX_REGISTERS, Tdx};
use release::measure::explain::{Named, Outcome as Search};
use release::measure::firmware::{Firmware, MAX_FIRMWARE_BYTES};
use release::measure::tdvf::{PageOrder, Tdvf};
use release::measure::tdx::{replay, uki_events};
use serde_json::json;

use super::super::failure::Failure;
use super::super::measure::read;
use super::super::report::Report;
use super::log::finish;
use super::{Question, files, line};

/// Sizes of memory that are common, in GiB.
const MEMORY_GIB: [u64; 14] = [1, 2, 3, 4, 6, 8, 12, 16, 32, 64, 128, 256, 512, 1024];

/// What was found out about a register, and whether that explains it.
struct Causes {
    lines: Vec<String>,
    explained: bool,
}

impl Causes {
    fn found(cause: String) -> Self {
        Self {
            lines: vec![cause],
            explained: true,
        }
    }

    fn none(hint: &str) -> Self {
        Self {
            lines: vec![hint.to_owned()],
            explained: false,
        }
    }
}

pub(super) fn explain(
    question: &Question<'_>,
    expected: &Tdx,
    registers: &[Digest<48>; 5],
) -> Result<Report, Failure> {
    let candidates = files::candidates(question, expected.memory_bytes)?;
    let mut differences = Vec::new();
    let mut text = String::new();
    let mut explained = true;
    for (number, (name, found)) in TDX_REGISTERS.into_iter().zip(*registers).enumerate() {
        let ways = &expected.registers[number];
        // What depends on the VMM has one value for each way of it.
        let same = ways.iter().find(|(_, value)| *value == found);
        let compared = match (ways.as_slice(), same) {
            ([], _) => "was not predicted".to_owned(),
            (_, Some((Some(way), _))) => format!("as predicted ({way})"),
            (_, Some((None, _))) => "as predicted".to_owned(),
            ([(_, value)], None) => format!("expected {value}, found {found}"),
            _ => format!("found {found}, which is none of those predicted"),
        };
        text += &line(&format!("{name}: {compared}"));
        if ways.is_empty() || same.is_some() {
            continue;
        }
        let causes = match number {
            0 => firmware(question, found)?,
            1..=3 => register(question, &candidates, expected, number - 1, found)?,
            _ => Causes::none("user space extended it: the event log tells by what"),
        };
        explained &= causes.explained;
        for cause in &causes.lines {
            text += &line(&format!("  {cause}"));
        }
        let ways = ways
            .iter()
            .map(|(way, value)| json!({ "way": way, "value": value }));
        differences.push(json!({
            "register": name, "expected": ways.collect::<Vec<_>>(), "found": found,
            "causes": causes.lines,
        }));
    }
    if !differences.is_empty() {
        text.push_str("the machine's event log, given as EVIDENCE, tells which event it was\n");
    }
    Ok(finish(text, differences, explained))
}

/// RTMR0 to RTMR3 as a log gives them; of MRTD it says nothing.
pub(super) fn registers_of_log(log: &EventLog<'_>) -> [Option<Digest<48>>; 5] {
    let value = |register| {
        let value = log.replay(log.bank(), register)?;
        Some(Digest(value.try_into().ok()?))
    };
    [None, value(1), value(2), value(3), value(4)]
}

/// Registers beside the machines of a release: the machine that they are those of, or the one that
/// is the nearest, and what differs from that.
pub(super) fn stated(
    question: &Question<'_>,
    release: &Release,
    registers: &[Option<Digest<48>>; 5],
    log: Option<&EventLog<'_>>,
) -> Result<Report, Failure> {
    let differing = |machine: &[Option<Digest<48>>; 5]| -> Vec<usize> {
        let both = |at: &usize| machine[*at].zip(registers[*at]);
        (0..5)
            .filter(|at| both(at).is_some_and(|(a, b)| a != b))
            .collect()
    };
    let nearest = release
        .tdx
        .iter()
        .min_by_key(|(_, machine)| differing(machine).len());
    let Some((machine, stated)) = nearest else {
        return Err(question.not_stated("TDX"));
    };
    let differing = differing(stated);
    let mut text = match differing.is_empty() {
        true => line(&format!("the registers are those of {machine}")),
        false => line(&format!(
            "the nearest machine that the release states is {machine}"
        )),
    };
    let mut differences = Vec::new();
    let mut explained = true;
    for (at, name) in TDX_REGISTERS.into_iter().enumerate() {
        let (Some(expected), Some(found)) = (stated[at], registers[at]) else {
            let who = if stated[at].is_none() {
                "the release"
            } else {
                "the evidence"
            };
            text += &line(&format!("{name}: {who} does not say"));
            continue;
        };
        if !differing.contains(&at) {
            text += &line(&format!("{name}: as stated"));
            continue;
        }
        text += &line(&format!("{name}: stated {expected}, found {found}"));
        let causes = match at {
            0 => firmware(question, found)?,
            _ => Causes::none("a release states no events: compare with `measure --json`"),
        };
        explained &= causes.explained;
        let events = log.map(|log| log.sha384(at as u32)).unwrap_or_default();
        for cause in &causes.lines {
            text += &line(&format!("  {cause}"));
        }
        for (what, digest) in &events {
            text += &line(&format!("  {digest}  {what}"));
        }
        differences.push(json!({
            "register": name, "expected": expected, "found": found, "causes": causes.lines,
            "events": events,
        }));
    }
    Ok(finish(text, differences, explained).and_value("machine", machine.as_str().into()))
}

/// The firmware of those that were named whose MRTD it is, in either order of pages.
fn firmware(question: &Question<'_>, found: Digest<48>) -> Result<Causes, Failure> {
    let hint = "give the very file that the VM starts with, such as OVMF.inteltdx.fd";
    let all = &question.arguments.firmware;
    for (number, path) in all.iter().enumerate() {
        eprintln!("searching: {number} of {} firmwares", all.len());
        let bytes = read(path, MAX_FIRMWARE_BYTES)?;
        let firmware = Firmware::parse(&bytes);
        let firmware = firmware.map_err(|error| Failure::input(path, &error, hint))?;
        let tdvf = Tdvf::parse(&firmware).map_err(|error| Failure::input(path, &error, hint))?;
        let mut orders = PageOrder::ALL.into_iter();
        if let Some(order) = orders.find(|order| tdvf.mrtd(*order) == found) {
            let path = path.display();
            return Ok(Causes::found(format!(
                "it is that of the firmware {path} ({order})"
            )));
        }
    }
    Ok(Causes::none(
        "another firmware: name those that may have been used by --firmware",
    ))
}

/// What explains a register, of the events that were predicted for it.
fn register(
    question: &Question<'_>,
    candidates: &Candidates,
    expected: &Tdx,
    number: usize,
    found: Digest<48>,
) -> Result<Causes, Failure> {
    let events = &expected.events[number];
    let table = events
        .iter()
        .find(|(what, _)| what.starts_with("partition table"));
    for (uki, measured) in &candidates.ukis {
        let predicted = uki_events(measured, table.map(|(_, digests)| digests.sha384));
        let number = u8::try_from(number).unwrap_or_default();
        if replay(&predicted).get(&number) == Some(&found) {
            return Ok(Causes::found(format!("it is that of the UKI {uki}")));
        }
    }
    if events.is_empty() {
        return Ok(Causes::none("the prediction names no events of it"));
    }
    let memory = match number {
        0 => hand_off_blocks(question)?,
        _ => Vec::new(),
    };
    let slots = slots_of(candidates, &memory, events);
    let progress = |tried, total| eprintln!("searching: {tried} of {total}");
    Ok(match slots::search(&slots, found, question.end, progress) {
        Search::Explained(differences) => Causes {
            lines: differences
                .into_iter()
                .map(|one| {
                    format!(
                        "{}: expected {}, found {}",
                        one.what, one.expected, one.found
                    )
                })
                .collect(),
            explained: true,
        },
        Search::Exhausted(_) => Causes::none(
            "nothing near the prediction explains it: an option ROM that ran first, other devices, \
             another disk, or other files (name them by --kernel, --initrd, --cmdline, --uki)",
        ),
        Search::OutOfTime(tried) => Causes::none(&format!(
            "the time was over after {tried} combinations: give more --seconds"
        )),
    })
}

/// The first event of RTMR0 for other sizes of memory, of the firmware where it still is.
fn hand_off_blocks(question: &Question<'_>) -> Result<Vec<Named<Digest<48>>>, Failure> {
    let Some(path) = question.expected_file("firmware") else {
        return Ok(Vec::new());
    };
    let bytes = read(path, MAX_FIRMWARE_BYTES)?;
    let firmware = Firmware::parse(&bytes).ok();
    let Some(tdvf) = firmware.and_then(|firmware| Tdvf::parse(&firmware).ok()) else {
        return Ok(Vec::new());
    };
    let one = |gib: u64| {
        let blocks = tdvf.hand_off_blocks(gib << 30).ok()?;
        Some((format!("{gib} GiB of memory"), Digest::sha384(&blocks)))
    };
    Ok(MEMORY_GIB.into_iter().filter_map(one).collect())
}

/// Events with their choices. A kernel of a direct boot stands there in each of its forms.
fn slots_of(
    candidates: &Candidates,
    memory: &[Named<Digest<48>>],
    events: &[Named<Digests>],
) -> Vec<Slot> {
    let mut slots: Vec<Slot> = Vec::new();
    let sha384 = |list: &[Named<Digests>]| -> Vec<Named<Digest<48>>> {
        let one = |(name, digests): &Named<Digests>| (name.clone(), digests.sha384);
        list.iter().map(one).collect()
    };
    for (what, digests) in events {
        let digest = digests.sha384;
        let expected = (format!("as expected ({what})"), Some(digest));
        let begins = |start: &str| what.starts_with(start);
        let is_kernel = KERNEL_FORMS.into_iter().any(begins);
        if let Some(slot) = slots
            .iter_mut()
            .find(|slot| is_kernel && slot.what == "kernel")
        {
            slot.choices.insert(1, expected);
            continue;
        }
        let (kind, more) = match () {
            () if is_kernel => ("kernel", candidates.kernels.clone()),
            () if begins("command line") => ("command line", sha384(&candidates.lines)),
            () if begins("initrd") => ("initrd", sha384(&candidates.initrds)),
            () if begins("hand-off") => ("memory", memory.to_vec()),
            () => ("event", Vec::new()),
        };
        let other = more.into_iter().filter(|(_, other)| *other != digest);
        let other = other.map(|(name, other)| (name, Some(other)));
        let mut choices: Vec<_> = std::iter::once(expected).chain(other).collect();
        if kind == "initrd" {
            choices.push(("none".to_owned(), None));
        }
        slots.push(Slot {
            what: kind,
            choices,
        });
    }
    slots
}
