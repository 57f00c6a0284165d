//! What is stated: a release, what became of it, and what came out of a rebuild.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use attest::release::Statement;
use attest::release::statement::{
    ClientVersion, Revocation, SnpReferenceValues, TdxReferenceValues,
};
use attest::{Name, NameError, Text, TextError};
use clap::Args;
use release::measure::cpu::CpuType;
use release::measure::firmware::MAX_FIRMWARE_BYTES;
use release::measure::snp::GuestFeatures;
use release::reference::{self, Direct, SnpMachines, Tables, TdxMachines, TdxShape};
use release::statement::{self as statements, Rebuilt, Release};

use super::commands::{now, write};
use super::failure::{Failure, POLICY};
use super::measure::{self, VcpuRange};
use super::report::Report;

type Outcome = Result<Report, Failure>;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release statement --name cloister --version 7 \\
      --image build/image/demo --assembled build/site --lock image/deb.lock \\
      --output statement.json
  … --revoke '5=prompts were written to the console' --revoke '6=the same'
  … --firmware-snp OVMF.amdsev.fd --vcpu-type EPYC-Genoa,EPYC-Milan --vcpus 1,2,4-8
  … --firmware-tdx OVMF.inteltdx.fd --memory 8G
  … --firmware-tdx OVMF.inteltdx.fd --tdx-shape small=8G=acpi-small --tdx-shape large=64G=ccel.bin

The same artifacts, arguments and source revision give the same bytes: the time is that of the
commit unless --issued says another. Machines are stated only where their measurement covers
kernel, initrd and command line: QEMU with a direct boot. RTMR0 is stated for --tdx-shape alone:
it depends on every device of a machine.")]
pub(super) struct StatementArguments {
    /// Name of the release.
    #[arg(long, value_name = "NAME")]
    name: Name,
    /// Version: a whole number, higher than every one before.
    #[arg(long, value_name = "N")]
    version: u64,
    #[command(flatten)]
    built: BuiltArguments,
    /// Who built it, such as the address of a workflow at a revision.
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    builder: Text,
    /// Least version of a client that may judge it.
    #[arg(long, value_name = "X.Y.Z", default_value = "0.1.0")]
    minimum_client: ClientVersion,
    /// An earlier version that is no longer to be trusted, and why; may be repeated.
    #[arg(long = "revoke", value_name = "N=REASON", value_parser = revocation)]
    revocations: Vec<Revocation>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// What was built, and of what.
#[derive(Debug, Args)]
struct BuiltArguments {
    /// Folder of the image; the statement takes its profile from there.
    #[arg(long, value_name = "DIR")]
    image: PathBuf,
    /// Folder that assembling made.
    #[arg(long, value_name = "DIR")]
    assembled: PathBuf,
    /// Lock of everything that went into the image.
    #[arg(long, value_name = "FILE")]
    lock: PathBuf,
    /// Checkout that the image was built from.
    #[arg(long, value_name = "DIR", default_value = ".")]
    source: PathBuf,
    /// Accept uncommitted changes, and mark the revision with -dirty.
    #[arg(long)]
    allow_dirty: bool,
    /// When it was made, in seconds since 1970; the time of the commit if not given.
    #[arg(long, value_name = "SECONDS")]
    issued: Option<u64>,
    #[command(flatten)]
    snp: SnpArguments,
    #[command(flatten)]
    tdx: TdxArguments,
}

/// Machines with SEV-SNP.
#[derive(Debug, Args)]
struct SnpArguments {
    /// Firmware of machines with SEV-SNP on QEMU (kernel-hashes=on).
    #[arg(long, value_name = "FILE", requires_all = ["vcpus", "vcpu_types"])]
    firmware_snp: Option<PathBuf>,
    /// Numbers of vCPUs, such as 1,2,4-8.
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        requires = "firmware_snp"
    )]
    vcpus: Vec<VcpuRange>,
    /// Types of vCPUs, such as EPYC-Genoa.
    #[arg(long = "vcpu-type", value_name = "TYPE", value_delimiter = ',')]
    #[arg(requires = "firmware_snp")]
    vcpu_types: Vec<CpuType>,
    /// Features of the vCPUs, as the processor is told (SEV_FEATURES).
    #[arg(long, value_name = "BITS", requires = "firmware_snp")]
    guest_features: Option<GuestFeatures>,
}

/// Machines with TDX.
#[derive(Debug, Args)]
struct TdxArguments {
    /// Firmware of machines with TDX on QEMU.
    #[arg(long, value_name = "FILE")]
    firmware_tdx: Option<PathBuf>,
    /// Sizes of memory, such as 8G: a QEMU before version 10 writes them into the kernel.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = measure::size)]
    #[arg(requires = "firmware_tdx")]
    memory: Vec<u64>,
    /// A machine whose RTMR0 is stated: its name, its memory, and either the folder that
    /// `dump-acpi` made of it or the event log (CCEL) of its boot; may be repeated.
    #[arg(long = "tdx-shape", value_name = "NAME=SIZE=PATH", value_parser = shape)]
    #[arg(requires = "firmware_tdx")]
    shapes: Vec<ShapeArgument>,
}

/// A machine as it stands on the command line.
#[derive(Debug, Clone)]
struct ShapeArgument {
    name: Name,
    memory_bytes: u64,
    path: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  cloister-release status --release bundle.json --output status.json
  cloister-release status --release bundle.json --revoke '7=its key was stolen' --output status.json

Sign it with the key that signed the release, append it to the log, and write the release's bundle
anew. Clients whose policy limits the age of a release need one from time to time.")]
pub(super) struct StatusArguments {
    /// The release: its bundle, envelope or statement.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// A version that is no longer to be trusted, and why; may be repeated.
    #[arg(long = "revoke", value_name = "N=REASON", value_parser = revocation)]
    revocations: Vec<Revocation>,
    /// When this is so, in seconds since 1970; now if not given.
    #[arg(long, value_name = "SECONDS")]
    issued: Option<u64>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  cloister-release attest-rebuild --image build/image/production --assembled site \\
      --lock image/deb.lock --release bundle.json --output rebuild.json
  cloister-release sign --statement rebuild.json --key rebuilder.pem --output envelope.json

It states the revision, the lock, the configuration, the digests that came out and the values that
machines show which run them, whatever they are. With --release it says whether they are those of
the release: exit code 4 if not, and nothing is written. A release that states machines is confirmed
by who measured the same ones: give the firmware and the shapes that it was stated with.")]
pub(super) struct RebuildArguments {
    #[command(flatten)]
    built: BuiltArguments,
    /// The release that was rebuilt: its bundle, envelope or statement.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

pub(super) fn statement(arguments: &StatementArguments) -> Outcome {
    let built = &arguments.built;
    let source_revision = statements::source_revision(&built.source, built.allow_dirty)?;
    release::bill::check(&built.source, &built.image)?;
    let (snp, tdx) = reference_values(built)?;
    let machines = snp.as_ref().map_or(0, |snp| snp.launch_digests.len())
        + tdx.as_ref().map_or(0, |tdx| tdx.machines.len());
    let rtmr0 = tdx.as_ref().map(|tdx| {
        let known = tdx.machines.iter().filter(|one| one.rtmr0.is_some());
        let (known, all) = (known.count(), tdx.machines.len());
        format!("stated for {known} of {all} machines with TDX")
    });
    let statement = statements::make(&Release {
        name: &arguments.name,
        version: arguments.version,
        assembled: &built.assembled,
        image: &built.image,
        lock: &built.lock,
        source_revision: &source_revision,
        issued: built.issued()?,
        builder: &arguments.builder,
        minimum_client: arguments.minimum_client,
        revocations: &arguments.revocations,
        snp,
        tdx,
    })?;
    write(&arguments.output, &statement.encode())?;
    let mut facts = vec![
        ("statement", arguments.output.display().to_string()),
        ("source", source_revision.to_string()),
        ("artifacts", statement.subject.len().to_string()),
        ("machines", machines.to_string()),
    ];
    facts.extend(rtmr0.map(|rtmr0| ("rtmr0", rtmr0)));
    Ok(Report::facts(&facts))
}

pub(super) fn status(arguments: &StatusArguments) -> Outcome {
    let release = stated(&arguments.release)?;
    let issued = arguments.issued.unwrap_or_else(|| now().as_secs());
    let status = statements::status(&release, issued, arguments.revocations.clone());
    write(&arguments.output, &status.encode())?;
    let release = &release.predicate;
    let own = |one: &Revocation| one.version == release.version;
    let verdict = match arguments.revocations.iter().any(own) {
        true => "revoked",
        false => "current",
    };
    Ok(Report::facts(&[
        ("status", arguments.output.display().to_string()),
        (
            "release",
            format!("{} version {}: {verdict}", release.name, release.version),
        ),
    ]))
}

pub(super) fn rebuild(arguments: &RebuildArguments) -> Outcome {
    let built = &arguments.built;
    let revision = statements::source_revision(&built.source, built.allow_dirty)?;
    let (snp, tdx) = reference_values(built)?;
    let rebuilt = statements::rebuild(&Rebuilt {
        assembled: &built.assembled,
        image: &built.image,
        lock: &built.lock,
        source_revision: &revision,
        issued: built.issued.unwrap_or_else(|| now().as_secs()),
        snp,
        tdx,
    })?;
    let mut facts = vec![
        ("rebuild", arguments.output.display().to_string()),
        ("source", revision.to_string()),
        ("artifacts", rebuilt.subject.len().to_string()),
    ];
    if let Some(path) = &arguments.release {
        release::verify::check_rebuild(&rebuilt, &stated(path)?).map_err(|error| {
            let hint = "find the cause with `cloister-release reproduce`; nothing was written";
            Failure::new(POLICY, &error, hint)
        })?;
        facts.push((
            "release",
            "every artifact and every value is the same".to_owned(),
        ));
    }
    write(&arguments.output, &rebuilt.encode())?;
    Ok(Report::facts(&facts))
}

impl BuiltArguments {
    fn issued(&self) -> Result<u64, Failure> {
        match self.issued {
            Some(issued) => Ok(issued),
            None => Ok(statements::source_time(&self.source)?),
        }
    }
}

type Values = (Option<SnpReferenceValues>, Option<TdxReferenceValues>);

fn reference_values(built: &BuiltArguments) -> Result<Values, Failure> {
    let (snp, tdx) = (&built.snp, &built.tdx);
    if snp.firmware_snp.is_none() && tdx.firmware_tdx.is_none() {
        return Ok((None, None));
    }
    let direct = Direct::read(&built.assembled)?;
    let firmware = |path: &PathBuf| measure::read(path, MAX_FIRMWARE_BYTES);
    let snp_values = match &snp.firmware_snp {
        Some(path) => {
            let vcpus: Vec<u16> = snp.vcpus.iter().flat_map(VcpuRange::numbers).collect();
            let launch_digests = reference::snp(
                &direct,
                &SnpMachines {
                    firmware: &firmware(path)?,
                    cpus: &snp.vcpu_types,
                    vcpus: &vcpus,
                    features: snp.guest_features.unwrap_or(GuestFeatures::SNP),
                },
            )?;
            Some(SnpReferenceValues { launch_digests })
        }
        None => None,
    };
    let tdx_values = match &tdx.firmware_tdx {
        Some(path) => {
            let shapes: Result<Vec<_>, Failure> = tdx.shapes.iter().map(read_shape).collect();
            let machines = TdxMachines {
                firmware: &firmware(path)?,
                memory_bytes: &tdx.memory,
                shapes: &shapes?,
            };
            let machines = reference::tdx(&direct, &machines)?;
            Some(TdxReferenceValues { machines })
        }
        None => None,
    };
    Ok((snp_values, tdx_values))
}

fn read_shape(shape: &ShapeArgument) -> Result<TdxShape, Failure> {
    Ok(TdxShape {
        name: shape.name.clone(),
        memory_bytes: shape.memory_bytes,
        tables: Tables::read(&shape.path)?,
    })
}

fn stated(path: &Path) -> Result<Statement, Failure> {
    release::stated::read(path).map_err(|error| {
        let hint = "give a release's bundle, envelope or statement";
        Failure::new(super::failure::MISUSE, &error, hint)
    })
}

/// Why a text names no machine.
#[derive(Debug, thiserror::Error)]
enum ShapeError {
    #[error("give name, memory and tables, such as small=8G=acpi-small")]
    Form,
    #[error(transparent)]
    Name(#[from] NameError),
}

fn shape(text: &str) -> Result<ShapeArgument, ShapeError> {
    let mut parts = text.splitn(3, '=');
    let (name, size, path) = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(size), Some(path)) => (name, size, path),
        _ => return Err(ShapeError::Form),
    };
    Ok(ShapeArgument {
        name: name.parse()?,
        memory_bytes: measure::size(size).map_err(|_| ShapeError::Form)?,
        path: path.into(),
    })
}

/// Why a text revokes nothing.
#[derive(Debug, thiserror::Error)]
enum RevocationError {
    #[error("give a version and a reason, such as '5=its key was stolen'")]
    Form,
    #[error(transparent)]
    Reason(#[from] TextError),
}

fn revocation(text: &str) -> Result<Revocation, RevocationError> {
    let (version, reason) = text.split_once('=').ok_or(RevocationError::Form)?;
    Ok(Revocation {
        version: version.parse().map_err(|_| RevocationError::Form)?,
        reason: Text::from_str(reason)?,
    })
}
