//! The machine catalogue: shapes of VMs by name, and what each platform's measurement covers.

use std::sync::LazyLock;

use serde::Deserialize;

use super::snp::Vmm;

/// The files of `release/machines`, one for each family.
const FILES: &[(&str, &str)] = &[
    ("aws-c6a", include_str!("../../machines/aws-c6a.toml")),
    ("aws-m6a", include_str!("../../machines/aws-m6a.toml")),
    ("aws-r6a", include_str!("../../machines/aws-r6a.toml")),
    (
        "azure-dcas-v5",
        include_str!("../../machines/azure-dcas-v5.toml"),
    ),
    (
        "azure-dces-v5",
        include_str!("../../machines/azure-dces-v5.toml"),
    ),
    ("gcp-c3", include_str!("../../machines/gcp-c3.toml")),
    ("gcp-n2d", include_str!("../../machines/gcp-n2d.toml")),
    ("qemu", include_str!("../../machines/qemu.toml")),
    ("qemu-tdx", include_str!("../../machines/qemu-tdx.toml")),
    ("qemu-tpm", include_str!("../../machines/qemu-tpm.toml")),
];

static MACHINES: LazyLock<Result<Vec<Machine>, CatalogueError>> = LazyLock::new(|| {
    let mut machines = Vec::new();
    for (file, text) in FILES {
        machines.extend(parse(file, text)?);
    }
    Ok(machines)
});

/// What is measured of a platform, and by which means it is predicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// The launch digest of SEV-SNP.
    Snp,
    /// MRTD and RTMRs of TDX.
    Tdx,
    /// Registers of a TPM.
    Tpm,
}

/// One shape of VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Its name.
    pub name: String,
    /// How its measurement is predicted.
    pub platform: Platform,
    /// The hardware that protects it.
    pub tee: String,
    /// Who starts it, where that counts.
    pub vmm: Option<Vmm>,
    /// vCPUs, where the name decides that.
    pub vcpus: Option<u16>,
    /// Memory, where the name decides that.
    pub memory_bytes: Option<u64>,
    /// Type of the vCPUs, where the family decides that.
    pub vcpu_type: Option<String>,
    /// What is measured, into what, by whom.
    pub measured: Vec<String>,
    /// What is not.
    pub not_measured: Vec<String>,
    /// What is measured, and cannot be predicted from the artifacts.
    pub not_predicted: Vec<String>,
    /// Where each of the facts stands.
    pub sources: Vec<Source>,
}

/// Where a fact stands in the provider's own words.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The fact.
    pub fact: String,
    /// The page.
    pub url: String,
    /// Whether the page was read, or a recording shows it. What is not confirmed was read in
    /// others' words.
    pub confirmed: bool,
}

/// Why a machine is not in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// A file of the catalogue is wrong.
    #[error("the catalogue's file {file}.toml: {why}")]
    File {
        /// The file.
        file: &'static str,
        /// What is wrong.
        why: String,
    },
    /// No such name.
    #[error("no machine is called {name:?}; the nearest is {nearest}")]
    Unknown {
        /// The name.
        name: String,
        /// The name that differs least.
        nearest: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    family: String,
    provider: String,
    tee: String,
    platform: Platform,
    vmm: Option<String>,
    vcpu_type: Option<String>,
    sources: Vec<Source>,
    measured: Vec<String>,
    not_measured: Vec<String>,
    not_predicted: Vec<String>,
    shapes: Vec<FamilyShape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FamilyShape {
    name: Option<String>,
    vcpus: u16,
    memory_gib: u64,
}

/// The whole catalogue.
pub fn all() -> Result<&'static [Machine], CatalogueError> {
    match &*MACHINES {
        Ok(machines) => Ok(machines),
        Err(error) => Err(error.clone()),
    }
}

/// The machine of that name.
pub fn find(name: &str) -> Result<&'static Machine, CatalogueError> {
    let machines = all()?;
    let same = |machine: &&Machine| machine.name.eq_ignore_ascii_case(name);
    if let Some(machine) = machines.iter().find(same) {
        return Ok(machine);
    }
    let distance = |machine: &&Machine| super::cpu::distance(&machine.name, name);
    let nearest = machines.iter().min_by_key(distance);
    Err(CatalogueError::Unknown {
        name: name.chars().take(64).collect(),
        nearest: nearest
            .map(|machine| machine.name.clone())
            .unwrap_or_default(),
    })
}

impl Machine {
    /// What is measured, what is not, and what is not predicted, line by line.
    pub fn covers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let lists = [
            ("measured", &self.measured),
            ("not measured", &self.not_measured),
            ("not predicted", &self.not_predicted),
        ];
        let lines = lists.into_iter();
        lines.flat_map(|(name, lines)| lines.iter().map(move |line| (name, line.as_str())))
    }

    /// The same as notes on a prediction.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let line = |(name, line)| format!("{name}: {line}");
        self.covers().map(line).collect()
    }
}

fn parse(file: &'static str, text: &str) -> Result<Vec<Machine>, CatalogueError> {
    let fault = |why: String| CatalogueError::File { file, why };
    let family: Family = toml::from_str(text).map_err(|error| fault(error.to_string()))?;
    let vmm = family.vmm.as_deref().map(str::parse).transpose();
    let vmm = vmm.map_err(|error: super::snp::UnknownVmm| fault(error.to_string()))?;
    if !family.family.starts_with(&family.provider) {
        return Err(fault("a family's name begins with its provider".to_owned()));
    }
    let machine = |name: String, shape: Option<&FamilyShape>| Machine {
        name,
        platform: family.platform,
        tee: family.tee.clone(),
        vmm,
        vcpus: shape.map(|shape| shape.vcpus),
        memory_bytes: shape.map(|shape| shape.memory_gib << 30),
        vcpu_type: family.vcpu_type.clone(),
        measured: family.measured.clone(),
        not_measured: family.not_measured.clone(),
        not_predicted: family.not_predicted.clone(),
        sources: family.sources.clone(),
    };
    if family.shapes.is_empty() {
        return Ok(vec![machine(family.family.clone(), None)]);
    }
    let shapes = family.shapes.iter().map(|shape| {
        let last = shape
            .name
            .clone()
            .unwrap_or_else(|| shape.vcpus.to_string());
        machine(format!("{}-{last}", family.family), Some(shape))
    });
    Ok(shapes.collect())
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Tpm => "tpm",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_sound_and_names_are_unique() {
        let machines = all().unwrap();
        for machine in machines {
            assert_eq!(find(&machine.name).unwrap(), machine);
            assert!(!machine.measured.is_empty() && !machine.not_measured.is_empty());
            let named =
                |source: &Source| source.url.starts_with("https://") && !source.fact.is_empty();
            assert!(!machine.sources.is_empty() && machine.sources.iter().all(named));
            assert!(machine.vmm.is_some() || machine.platform == Platform::Tpm);
            if let Some(name) = &machine.vcpu_type {
                assert!(name.parse::<super::super::cpu::CpuType>().is_ok());
            }
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/machines");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), FILES.len());
    }

    #[test]
    fn machines_are_found_by_name_and_the_nearest_is_named() {
        let machine = find("gcp-c3-standard-8").unwrap();
        assert_eq!(
            (machine.vcpus, machine.memory_bytes),
            (Some(8), Some(32 << 30))
        );
        assert_eq!(machine.platform, Platform::Tdx);
        assert_eq!(find("aws-m6a-xlarge").unwrap().vmm, Some(Vmm::Ec2));
        let unknown = find("gcp-c3-standart-8").unwrap_err().to_string();
        assert!(
            unknown.ends_with("the nearest is gcp-c3-standard-8"),
            "{unknown}"
        );
    }
}
