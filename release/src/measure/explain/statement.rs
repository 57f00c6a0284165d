//! What evidence is compared with: the JSON that `measure --json` prints, or a release statement.
//!
//! It is a file like any other: what is missing or of another form in it is named, nothing is
//! taken for granted.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use attest::Digest;
use serde_json::Value;

use super::Named;
use crate::measure::Digests;
use crate::measure::cpu::CpuType;
use crate::measure::snp::{GuestFeatures, MAX_VCPUS, Vmm};

/// Most events of a prediction, and most machines of a release; a UKI's boot has some twenty.
const MAX_ENTRIES: usize = 1 << 14;
/// MRTD and the registers of TDX, as predictions call them.
pub const TDX_REGISTERS: [&str; 5] = ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3"];

/// Something that evidence is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A prediction of SEV-SNP.
    Snp(Snp),
    /// A prediction of TDX.
    Tdx(Tdx),
    /// A prediction of a TPM's registers.
    Tpm(Tpm),
    /// A release's reference values, which have no inputs to search through.
    Release(Release),
}

/// A prediction of a launch digest, or of a table of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snp {
    /// Who starts it.
    pub vmm: Vmm,
    /// Numbers of vCPUs.
    pub vcpus: RangeInclusive<u16>,
    /// The digest of each number.
    pub digests: Vec<Digest<48>>,
    /// Type of the vCPUs.
    pub cpu: CpuType,
    /// Features.
    pub features: GuestFeatures,
    /// Bytes of variables between SVSM and firmware.
    pub svsm_variables: u32,
    /// What was measured.
    pub inputs: Inputs,
}

/// A prediction of TDX.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tdx {
    /// MRTD and RTMR0 to RTMR3: a value for each way of the VMM, none where it was not predicted.
    pub registers: [Vec<(Option<String>, Digest<48>)>; 5],
    /// Events of RTMR0 to RTMR3.
    pub events: [Vec<Named<Digests>>; 4],
    /// Memory of the VM.
    pub memory_bytes: Option<u64>,
    /// What was measured.
    pub inputs: Inputs,
}

/// A prediction of a TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tpm {
    /// Registers with their events, none of those that must stay empty.
    pub events: Vec<(u8, Vec<Named<Digests>>)>,
    /// What was measured.
    pub inputs: Inputs,
}

/// Files and texts that were measured.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inputs {
    /// Files by what they are.
    pub files: Vec<(&'static str, InputFile)>,
    /// The command line.
    pub command_line: Option<String>,
}

/// A file that was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Where it was.
    pub path: PathBuf,
    /// What it was.
    pub sha256: Digest<32>,
    /// Its length.
    pub bytes: u64,
}

/// What a release states.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Release {
    /// Launch digests of SEV-SNP by machine.
    pub snp: Vec<Named<Digest<48>>>,
    /// Registers of TDX by machine, as far as they are stated.
    pub tdx: Vec<Named<[Option<Digest<48>>; 5]>>,
    /// Registers of a TPM.
    pub tpm: Vec<(u8, Digests)>,
}

/// Why a file is nothing to compare with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Not JSON.
    #[error("it is not JSON")]
    Json,
    /// Neither of the two.
    #[error("it is neither what `measure --json` prints nor a release statement")]
    Unknown,
    /// Something that such a file has.
    #[error("it lacks {0}, or has it in another form")]
    Lacks(&'static str),
    /// More than any prediction has.
    #[error("it has more than {MAX_ENTRIES} events or machines")]
    TooMany,
}

type Outcome<T> = Result<T, StatementError>;

impl Expected {
    /// Reads a file.
    pub fn parse(bytes: &[u8]) -> Outcome<Self> {
        let json: Value = serde_json::from_slice(bytes).map_err(|_| StatementError::Json)?;
        let values = &json["predicate"]["reference_values"];
        if values.is_object() {
            return release(values).map(Self::Release);
        }
        match json["platform"].as_str() {
            Some("snp") => snp(&json).map(Self::Snp),
            Some("tdx") => tdx(&json).map(Self::Tdx),
            None if json["registers"].is_object() => tpm(&json).map(Self::Tpm),
            _ => Err(StatementError::Unknown),
        }
    }

    /// What was measured.
    #[must_use]
    pub fn inputs(&self) -> Option<&Inputs> {
        match self {
            Self::Snp(one) => Some(&one.inputs),
            Self::Tdx(one) => Some(&one.inputs),
            Self::Tpm(one) => Some(&one.inputs),
            Self::Release(_) => None,
        }
    }

    /// What it is for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Snp(_) => "a prediction of SEV-SNP",
            Self::Tdx(_) => "a prediction of TDX",
            Self::Tpm(_) => "a prediction of a TPM",
            Self::Release(_) => "a release statement",
        }
    }
}

impl Inputs {
    fn of(json: &Value) -> Self {
        const NAMES: [&str; 6] = ["firmware", "svsm", "kernel", "initrd", "uki", "event_log"];
        let inputs = &json["inputs"];
        let file = |name: &'static str| {
            let one = &inputs[name];
            let file = InputFile {
                path: one["path"].as_str()?.into(),
                sha256: one["sha256"].as_str()?.parse().ok()?,
                bytes: one["bytes"].as_u64()?,
            };
            Some((name, file))
        };
        Self {
            files: NAMES.into_iter().filter_map(file).collect(),
            command_line: inputs["command_line"].as_str().map(str::to_owned),
        }
    }

    /// A file of a name.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<&InputFile> {
        let found = self.files.iter().find(|(one, _)| *one == name);
        found.map(|(_, file)| file)
    }
}

fn text<'a, T: std::str::FromStr>(value: &'a Value, what: &'static str) -> Outcome<T> {
    let text: Option<&'a str> = value.as_str();
    let parsed = text.and_then(|text| text.parse().ok());
    parsed.ok_or(StatementError::Lacks(what))
}

fn list(value: &Value) -> Outcome<&[Value]> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    match list.len() > MAX_ENTRIES {
        true => Err(StatementError::TooMany),
        false => Ok(list),
    }
}

fn snp(json: &Value) -> Outcome<Snp> {
    let inputs = &json["inputs"];
    let number: String = text(&inputs["vcpus"]["number"], "the number of vCPUs")?;
    let (first, last) = number.split_once('-').unwrap_or((&number, &number));
    let number = |text: &str| {
        text.parse()
            .ok()
            .filter(|one| (1..=MAX_VCPUS).contains(one))
    };
    let vcpus = number(first).zip(number(last));
    let (first, last): (u16, u16) = vcpus.ok_or(StatementError::Lacks("the number of vCPUs"))?;
    let mut digests = Vec::new();
    for one in list(&json["launch_digests"])? {
        digests.push(text(&one["launch_digest"], "launch_digests")?);
    }
    if digests.is_empty() {
        digests.push(text(&json["launch_digest"], "launch_digest")?);
    }
    if first > last || digests.len() != usize::from(last - first) + 1 {
        return Err(StatementError::Lacks(
            "a launch digest for each number of vCPUs",
        ));
    }
    let variables = inputs["svsm_variables"].as_u64();
    Ok(Snp {
        vmm: text(&json["vmm"], "vmm")?,
        vcpus: first..=last,
        digests,
        cpu: text(&inputs["vcpus"]["type"], "the type of vCPUs")?,
        features: text(&inputs["guest_features"], "guest_features")?,
        svsm_variables: variables
            .and_then(|bytes| u32::try_from(bytes).ok())
            .unwrap_or_default(),
        inputs: Inputs::of(json),
    })
}

fn tdx(json: &Value) -> Outcome<Tdx> {
    let ways = |name: &'static str| match &json[name] {
        Value::Null => Ok(Vec::new()),
        Value::Object(ways) if ways.len() <= MAX_ENTRIES => ways
            .iter()
            .map(|(way, value)| Ok((Some(way.clone()), text(value, name)?)))
            .collect(),
        value => Ok(vec![(None, text(value, name)?)]),
    };
    let [mrtd, rtmr0, rtmr1, rtmr2, rtmr3] = TDX_REGISTERS.map(ways);
    let mut events: [Vec<Named<Digests>>; 4] = Default::default();
    for event in list(&json["events"])? {
        let register = event["register"].as_str().unwrap_or_default();
        let number = (1..5).find(|number| TDX_REGISTERS[*number] == register);
        let number = number.ok_or(StatementError::Lacks("the register of an event"))?;
        let digests = Digests {
            sha384: text(&event["sha384"], "the digest of an event")?,
            ..Digests::default()
        };
        let what: String = text(&event["what"], "the name of an event")?;
        events[number - 1].push((what, digests));
    }
    Ok(Tdx {
        registers: [mrtd?, rtmr0?, rtmr1?, rtmr2?, rtmr3?],
        events,
        memory_bytes: json["inputs"]["memory"].as_u64(),
        inputs: Inputs::of(json),
    })
}

/// The registers that a UKI decides; 12 and 13 stay empty, and hold what a host brings beside it.
fn tpm(json: &Value) -> Outcome<Tpm> {
    let mut events: Vec<(u8, Vec<Named<Digests>>)> =
        crate::measure::PCRS.map(|pcr| (pcr, Vec::new())).into();
    for event in list(&json["events"])? {
        let register = events
            .iter_mut()
            .find(|(pcr, _)| event["pcr"].as_u64() == Some((*pcr).into()));
        let (_, events) = register.ok_or(StatementError::Lacks("the register of an event"))?;
        let digests = Digests {
            sha256: text(&event["sha256"], "the digest of an event")?,
            sha384: text(&event["sha384"], "the digest of an event")?,
        };
        events.push((text(&event["what"], "the name of an event")?, digests));
    }
    let mut inputs = Inputs::of(json);
    inputs.command_line = json["command_line"].as_str().map(str::to_owned);
    Ok(Tpm { events, inputs })
}

fn release(values: &Value) -> Outcome<Release> {
    let mut out = Release::default();
    for one in list(&values["snp"]["launch_digests"])? {
        let name: String = text(&one["machine"], "the name of a machine")?;
        out.snp
            .push((name, text(&one["digest"], "a launch digest")?));
    }
    for one in list(&values["tdx"]["machines"])? {
        let name: String = text(&one["machine"], "the name of a machine")?;
        let register = |name: &'static str| match &one[name] {
            Value::Null => Ok(None),
            value => text(value, name).map(Some),
        };
        let [mrtd, rtmr0, rtmr1, rtmr2, _] = TDX_REGISTERS.map(register);
        // RTMR3 is not stated: it stays zero.
        let registers = [mrtd?, rtmr0?, rtmr1?, rtmr2?, Some(Digest::ZERO)];
        out.tdx.push((name, registers));
    }
    for pcr in crate::measure::PCRS {
        let of = |bank: &str| &values["tpm"][bank][pcr.to_string()];
        if of("sha384").is_null() {
            continue;
        }
        let digests = Digests {
            sha256: text(of("sha256"), "a register of the TPM")?,
            sha384: text(of("sha384"), "a register of the TPM")?,
        };
        out.tpm.push((pcr, digests));
    }
    Ok(out)
}
