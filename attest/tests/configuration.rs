//! Configurations of clouds, and of GPUs whose collateral is fetched.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::configuration::{ConfigurationError, Field, Proxy};
use attest::{Configuration, PlatformKind};
use signer::World;

fn read(version: u32, tables: &str) -> Result<Configuration, ConfigurationError> {
    let plain = String::from_utf8(World::new().configuration).unwrap();
    let text = plain.replacen("version = 1", &format!("version = {version}"), 1);
    Configuration::parse(format!("{text}{tables}").as_bytes())
}

fn tables(platform: &str, gpus: u32) -> String {
    format!(
        "[evidence]\nplatform = \"{platform}\"\n[gpu]\ngpus = {gpus}\nswitches = 0\n\
         [collateral]\nproxy = \"http://10.0.2.2:3128\"\n"
    )
}

#[test]
fn version_4_knows_every_platform_and_one_table_for_what_is_fetched() {
    for (name, kind) in [
        ("tpm", PlatformKind::Tpm),
        ("snp", PlatformKind::Snp),
        ("tdx", PlatformKind::Tdx),
        ("azure-snp", PlatformKind::AzureSnp),
        ("azure-tdx", PlatformKind::AzureTdx),
        ("google-vtpm", PlatformKind::GoogleVtpm),
    ] {
        let configuration = read(4, &tables(name, 2)).unwrap();
        assert_eq!(configuration.platform(), kind);
        assert_eq!(configuration.devices().gpus, 2);
        assert!(matches!(configuration.proxy(), Proxy::Http(_)));
    }
    assert_eq!(read(4, &tables("tpm", 0)).unwrap().devices().gpus, 0);
    let many = read(4, &tables("tpm", 17)).unwrap_err();
    assert!(matches!(
        many,
        ConfigurationError::Range {
            field: Field::Gpus,
            found: 17,
            least: 0,
            most: 16
        }
    ));
}

#[test]
fn each_version_has_its_tables_and_no_others() {
    let whole = tables("snp", 1);
    let without = |table: &str| {
        let (before, after) = whole.split_once(table).unwrap();
        let rest = after.split_once('[').map_or("", |(_, rest)| rest);
        match rest {
            "" => before.to_owned(),
            rest => format!("{before}[{rest}"),
        }
    };
    let none = read(4, &without("[collateral]"));
    assert_eq!(none, Err(ConfigurationError::Collateral));
    assert_eq!(read(4, &without("[gpu]")), Err(ConfigurationError::Gpu));
    let none = read(4, &without("[evidence]"));
    assert_eq!(none, Err(ConfigurationError::Evidence));
    let early = read(3, &tables("tpm", 1));
    assert_eq!(early, Err(ConfigurationError::Collateral));
    let both = format!("{whole}[snp]\nproxy = \"none\"\n");
    let snp = PlatformKind::Snp;
    assert_eq!(read(4, &both), Err(ConfigurationError::Table(snp)));
    let early = read(2, "[evidence]\nplatform = \"azure-snp\"\n");
    let azure = PlatformKind::AzureSnp;
    assert_eq!(early, Err(ConfigurationError::Platform(azure)));
}
