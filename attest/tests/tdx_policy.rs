//! The tables of a policy for TDX.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::policy::{List, PolicyError};
use attest::{PlatformKind, Policy};
use signer::World;
use signer::intel::Domain;

fn with_tdx() -> String {
    let whole = World::new().policy_toml();
    let whole = whole.replace("[\"tpm\"]", "[\"tpm\", \"tdx\"]");
    format!("{whole}\n{}", Domain::new().policy_toml())
}

fn policy(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text.as_bytes())
}

#[test]
fn the_tables_for_tdx_are_there_exactly_if_the_platform_is_accepted() {
    let text = with_tdx();
    assert_eq!(policy(&text).unwrap().tdx.unwrap().roots.len(), 1);
    let unused = policy(&text.replace("[\"tpm\", \"tdx\"]", "[\"tpm\"]"));
    assert_eq!(unused, Err(PolicyError::UnusedTable(PlatformKind::Tdx)));
    let whole = World::new().policy_toml();
    let missing = policy(&whole.replace("[\"tpm\"]", "[\"tpm\", \"tdx\"]"));
    assert_eq!(missing, Err(PolicyError::MissingTable(PlatformKind::Tdx)));
}

#[test]
fn no_field_of_the_tables_for_tdx_is_optional_and_none_is_unknown() {
    let text = with_tdx();
    let tables = text.split_once("[tdx]").unwrap().1;
    let mut fields = 0;
    let plain = |line: &&str| line.contains(" = \"") || line.ends_with("17");
    for line in tables.lines().filter(plain) {
        let without = policy(&text.replacen(&format!("\n{line}\n"), "\n", 1));
        assert!(matches!(without, Err(PolicyError::Toml(_))), "{line}");
        fields += 1;
    }
    assert_eq!(fields, 30);
    for list in ["tcb_statuses", "advisories"] {
        let renamed = policy(&text.replacen(&format!("\n{list} = "), "\nother = ", 1));
        assert!(matches!(renamed, Err(PolicyError::Toml(_))), "{list}");
    }
    for table in ["[tdx]\n", "[tdx.attributes]\n"] {
        let unknown = policy(&text.replacen(table, &format!("{table}unknown = 1\n"), 1));
        assert!(matches!(unknown, Err(PolicyError::Toml(_))), "{table}");
    }
}

#[test]
fn a_policy_for_tdx_names_roots_and_verdicts() {
    let text = with_tdx();
    let statuses = "tcb_statuses = [\"UpToDate\"]";
    let none = policy(&text.replace(statuses, "tcb_statuses = []"));
    assert_eq!(none, Err(PolicyError::Empty(List::TdxStatuses)));
    for wrong in ["[\"Revoked\"]", "[\"uptodate\"]", "\"UpToDate\""] {
        let refused = policy(&text.replace(statuses, &format!("tcb_statuses = {wrong}")));
        assert!(matches!(refused, Err(PolicyError::Toml(_))), "{wrong}");
    }
    for known in [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
    ] {
        let read = policy(&text.replace("[\"UpToDate\"]", &format!("[\"{known}\"]")));
        let accepted = read.unwrap().tdx.unwrap().tcb_statuses;
        assert_eq!(accepted[0].to_string(), known);
    }
    let (start, rest) = text.split_once("\nroots = ['''").unwrap();
    let end = rest.split_once("''']\n").unwrap().1;
    let with = |roots: &str| policy(&format!("{start}\nroots = {roots}\n{end}"));
    assert_eq!(with("[]"), Err(PolicyError::Empty(List::TdxRoots)));
    let intel = with("[\"intel\"]").unwrap().tdx.unwrap();
    assert!(intel.roots[0].to_string().contains("CN=Intel SGX Root CA"));
    assert!(matches!(with("[\"other\"]"), Err(PolicyError::Toml(_))));
    let nothing = policy(&format!("{start}\n{end}"));
    assert!(matches!(nothing, Err(PolicyError::Toml(_))));
}
