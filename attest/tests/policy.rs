//! Policies and configurations: complete, strict and within their ranges.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::configuration::{ConfigurationError, Proxy};
use attest::policy::{
    Later, List, MAX_REATTEST_SECONDS, MaximumAge, PolicyError, Quorum, REATTEST_SECONDS,
    ReleasePolicy, SecureBootPolicy,
};
use attest::snp::Product;
use attest::{Configuration, PlatformKind, Policy};
use signer::{World, amd, release};

fn policy(text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text.as_bytes())
}

fn configuration(text: &str) -> Result<Configuration, ConfigurationError> {
    Configuration::parse(text.as_bytes())
}

fn sound_configuration() -> String {
    String::from_utf8(World::new().configuration).unwrap()
}

#[test]
fn a_complete_policy_is_read() {
    let text = World::new().policy_toml();
    let read = policy(&text).unwrap();
    assert_eq!(read.tpm.unwrap().secure_boot, SecureBootPolicy::Required);
    let relaxed = policy(&text.replace("\"required\"", "\"not-required\"")).unwrap();
    assert_eq!(
        relaxed.tpm.unwrap().secure_boot,
        SecureBootPolicy::NotRequired
    );
}

/// Every line that gives a value is needed: without it there is no policy.
#[test]
fn no_field_of_a_policy_or_a_configuration_is_optional() {
    let policy_text = World::new().policy_toml();
    let root = policy_text.find("roots = ").unwrap()..policy_text.find("secure_boot").unwrap();
    let mut without_roots = policy_text.clone();
    without_roots.replace_range(root, "");
    assert!(matches!(policy(&without_roots), Err(PolicyError::Toml(_))));
    for line in without_roots.lines().filter(|line| line.contains(" = ")) {
        let verdict = policy(&policy_text.replacen(&format!("{line}\n"), "", 1));
        match line.starts_with("reattest_seconds") {
            true => assert_eq!(verdict, Err(PolicyError::NoReattestation)),
            false => assert!(matches!(verdict, Err(PolicyError::Toml(_))), "{line}"),
        }
    }
    let text = sound_configuration();
    for line in text.lines().filter(|line| line.contains(" = ")) {
        let verdict = configuration(&text.replacen(&format!("{line}\n"), "", 1));
        assert!(
            matches!(verdict, Err(ConfigurationError::Toml(_))),
            "{line}"
        );
    }
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    let policy_text = World::new().policy_toml();
    for section in ["", "[release]\n", "[tpm]\n", "[evidence]\n", "[channel]\n"] {
        let text = policy_text.replacen(section, &format!("{section}surplus = 1\n"), 1);
        assert!(
            matches!(policy(&text), Err(PolicyError::Toml(_))),
            "{section}"
        );
    }
    let text = sound_configuration();
    for section in ["", "[model]\n", "[limits]\n", "[server]\n"] {
        let text = text.replacen(section, &format!("{section}surplus = 1\n"), 1);
        assert!(
            matches!(configuration(&text), Err(ConfigurationError::Toml(_))),
            "{section}"
        );
    }
}

#[test]
fn a_policy_must_name_signers_roots_and_platforms() {
    let text = World::new().policy_toml();
    let cut = |from: &str, to: &str| {
        let start = text.find(from).unwrap() + from.len();
        let end = start + text[start..].find(to).unwrap();
        [&text[..start], "]", &text[end + 1..]].concat()
    };
    for (text, list) in [
        (cut("signers = [", "]"), List::Signers),
        (cut("roots = [", "]\nsecure"), List::TpmRoots),
        (cut("platforms = [", "]"), List::Platforms),
    ] {
        assert_eq!(policy(&text), Err(PolicyError::Empty(list)), "{text}");
    }
}

#[test]
fn values_of_a_policy_are_checked() {
    let text = World::new().policy_toml();
    for (from, to) in [
        ("\"required\"", "\"maybe\""),
        ("\"per-handshake\"", "\"none\""),
        ("[\"tpm\"]", "[\"sgx\"]"),
        ("signers = [\"ed25519:", "signers = [\"rsa:"),
        ("BEGIN CERTIFICATE", "BEGIN PUBLIC KEY"),
        ("log.example.org/cloister", "log example"),
        ("name = \"cloister\"", "name = \"a/b\""),
        ("minimum_version = 1", "minimum_version = -1"),
        ("maximum_age_days = \"any\"", "maximum_age_days = 0"),
        ("maximum_age_days = \"any\"", "maximum_age_days = \"none\""),
        ("witness.example.org/one", "witness one"),
        ("\"alice\"", "\"a/b\""),
    ] {
        assert!(text.contains(from), "{from}");
        let verdict = policy(&text.replacen(from, to, 1));
        assert!(matches!(verdict, Err(PolicyError::Toml(_))), "{to}");
    }
    let verdict = policy(&text.replacen("version = 2", "version = 4", 1));
    assert_eq!(verdict, Err(PolicyError::Version { found: 4 }));
    let found = (256 << 10) + 1;
    assert_eq!(
        Policy::parse(&vec![b'#'; found]),
        Err(PolicyError::TooLarge { found })
    );
    assert_eq!(Policy::parse(b"\xff"), Err(PolicyError::Text));
}

#[test]
fn a_policy_demands_no_more_witnesses_and_rebuilders_than_it_names_and_none_twice() {
    let text = World::new().policy_toml();
    let change = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        policy(&text.replacen(from, to, 1))
    };
    assert_eq!(
        change("minimum_witnesses = 2", "minimum_witnesses = 4"),
        Err(PolicyError::Quorum {
            quorum: Quorum::Witnesses,
            demanded: 4,
            named: 3,
        })
    );
    assert_eq!(
        change("minimum_rebuilders = 1", "minimum_rebuilders = 3"),
        Err(PolicyError::Quorum {
            quorum: Quorum::Rebuilders,
            demanded: 3,
            named: 2,
        })
    );
    let twice = change("witness.example.org/two", "witness.example.org/one");
    assert_eq!(twice, Err(PolicyError::Twice(Quorum::Witnesses)));
    let twice = change("\"bob\"", "\"alice\"");
    assert_eq!(twice, Err(PolicyError::Twice(Quorum::Rebuilders)));
    let days = change("maximum_age_days = \"any\"", "maximum_age_days = 30").unwrap();
    assert_eq!(days.release.maximum_age_days, MaximumAge::Days(30));
}

/// The log signs its own checkpoints and the signer its own releases: neither is a third party.
#[test]
fn nobody_is_a_third_party_to_themselves_nor_to_another_under_two_names() {
    let world = World::new();
    let text = world.policy_toml();
    let key = |key| release::public(key).to_string();
    let witness = |at: usize| world.witnesses[at].witness.key.to_string();
    let change = |from: &str, to: &str| {
        let (head, tail) = text.rsplit_once(from).unwrap();
        policy(&format!("{head}{to}{tail}")).unwrap_err()
    };
    let rebuilder = key(&world.rebuilder_key);
    let own = change(&witness(1), &key(&world.log_key));
    assert_eq!(own, PolicyError::Own(Quorum::Witnesses));
    let own = change(&rebuilder, &key(&world.release_key));
    assert_eq!(own, PolicyError::Own(Quorum::Rebuilders));
    // One key under two names.
    let twice = change(&witness(1), &witness(0));
    assert_eq!(twice, PolicyError::Twice(Quorum::Witnesses));
    let other = world.policy().release.log().unwrap().rebuilders[1].key;
    let twice = change(&other.to_string(), &rebuilder);
    assert_eq!(twice, PolicyError::Twice(Quorum::Rebuilders));
}

/// The floor of a line of releases stays when its signers change.
#[test]
fn a_line_of_releases_is_its_name_its_profile_and_its_log() {
    let before = World::new().policy().release;
    let mut after = before.clone();
    let log = after.log_mut().unwrap();
    log.signers.push(log.log_key);
    after.minimum_version = 9;
    assert_eq!(after.line(), before.line());
    for change in [
        |policy: &mut ReleasePolicy| policy.name = "other".parse().unwrap(),
        |policy: &mut ReleasePolicy| policy.profile = "other".parse().unwrap(),
        |policy: &mut ReleasePolicy| {
            let log = policy.log_mut().unwrap();
            log.log_origin = "other.example.org/log".to_owned().try_into().unwrap();
        },
        |policy: &mut ReleasePolicy| {
            let log = policy.log_mut().unwrap();
            log.log_key = log.signers[0];
        },
    ] {
        let mut other = before.clone();
        change(&mut other);
        assert_ne!(other.line(), before.line());
    }
}

/// A file of version 1 says nothing of the age of evidence: then the strict value holds.
#[test]
fn a_policy_says_how_old_evidence_may_become() {
    let text = World::new().policy_toml();
    let with = |seconds: &str| {
        let field = format!("reattest_seconds = {seconds}");
        policy(&text.replacen("reattest_seconds = 600", &field, 1))
    };
    for seconds in [0, 1, MAX_REATTEST_SECONDS] {
        let read = with(&seconds.to_string()).unwrap();
        assert_eq!(read.channel.reattest_seconds, seconds);
    }
    let found = MAX_REATTEST_SECONDS + 1;
    let never = with(&found.to_string());
    assert_eq!(never, Err(PolicyError::Reattestation { found }));
    for wrong in ["-1", "\"never\"", "0.5"] {
        assert!(matches!(with(wrong), Err(PolicyError::Toml(_))), "{wrong}");
    }
    let early = text.replacen("version = 2", "version = 1", 1);
    assert_eq!(
        policy(&early),
        Err(PolicyError::Later(Later::Reattestation))
    );
    let early = early.replacen("reattest_seconds = 600\n", "", 1);
    let seconds = policy(&early).unwrap().channel.reattest_seconds;
    assert_eq!(seconds, REATTEST_SECONDS);
}

#[test]
fn values_of_a_configuration_are_within_their_ranges() {
    let text = sound_configuration();
    let read = configuration(&text).unwrap();
    assert_eq!(read.model.name.as_str(), "cloister-demo");
    assert_eq!((read.limits.context_tokens, read.server.port), (1024, 8080));
    for (line, wrong) in [
        ("context_tokens = 1024", "0"),
        ("context_tokens = 1024", "1048577"),
        ("max_sessions = 64", "0"),
        ("max_sessions = 64", "65537"),
        ("max_body_bytes = 1048576", "1023"),
        ("max_body_bytes = 1048576", "67108865"),
        ("max_new_tokens = 512", "0"),
        ("max_new_tokens = 512", "1025"),
        ("port = 8080", "0"),
    ] {
        let key = line.split(' ').next().unwrap();
        let verdict = configuration(&text.replace(line, &format!("{key} = {wrong}")));
        let error = verdict.unwrap_err();
        assert!(
            matches!(error, ConfigurationError::Range { .. }),
            "{line} {wrong}"
        );
        assert!(
            error.to_string().contains(&format!("{key} = {wrong}, ")),
            "{error}"
        );
    }
    for wrong in [
        "port = 65536",
        "port = -1",
        "port = \"8080\"",
        "port = 8080.0",
    ] {
        let verdict = configuration(&text.replace("port = 8080", wrong));
        assert!(
            matches!(verdict, Err(ConfigurationError::Toml(_))),
            "{wrong}"
        );
    }
    let verdict = configuration(&text.replacen("version = 1", "version = 5", 1));
    assert_eq!(verdict, Err(ConfigurationError::Version { found: 5 }));
    let found = (64 << 10) + 1;
    let verdict = Configuration::parse(&vec![b'#'; found]);
    assert_eq!(verdict, Err(ConfigurationError::TooLarge { found }));
    assert_eq!(Configuration::parse(b"\xff"), Err(ConfigurationError::Text));
}

#[test]
fn a_volume_has_one_spelling() {
    let text = sound_configuration();
    let (root, salt) = ("ab".repeat(32), "cd".repeat(32));
    let sound = format!("verity1:{root}:{salt}:256");
    assert_eq!(configuration(&text).unwrap().model.volume.as_str(), sound);
    for wrong in [
        "",
        "verity1",
        &sound.replace("verity1", "verity2"),
        &sound.replace("ab", "AB"),
        &sound.replacen("ab", "", 1),
        &sound.replacen(":256", "", 1),
        &sound.replacen(":256", ":0", 1),
        &sound.replacen(":256", ":0256", 1),
        &sound.replacen(":256", ":+256", 1),
        &sound.replacen(":256", ":256:", 1),
        &sound.replacen(":256", ":18446744073709551616", 1),
    ] {
        let verdict = configuration(&text.replace(&sound, wrong));
        assert!(
            matches!(verdict, Err(ConfigurationError::Toml(_))),
            "{wrong}"
        );
    }
}

fn with_snp() -> String {
    let text = World::new().policy_toml();
    let text = text.replace("[\"tpm\"]", "[\"tpm\", \"snp\"]");
    format!(
        "{text}\n{}",
        amd::policy_toml("genoa", "amd").replace("'''\namd'''", "\"amd\"")
    )
}

#[test]
fn a_platform_has_its_table_exactly_where_it_is_accepted() {
    let text = with_snp();
    let read = policy(&text).unwrap();
    assert_eq!(read.snp.unwrap().products.len(), 1);
    let unused = policy(&text.replace("[\"tpm\", \"snp\"]", "[\"tpm\"]"));
    assert_eq!(unused, Err(PolicyError::UnusedTable(PlatformKind::Snp)));
    let unused = policy(&text.replace("[\"tpm\", \"snp\"]", "[\"snp\"]"));
    assert_eq!(unused, Err(PolicyError::UnusedTable(PlatformKind::Tpm)));
    let missing = policy(
        &World::new()
            .policy_toml()
            .replace("[\"tpm\"]", "[\"tpm\", \"snp\"]"),
    );
    assert_eq!(missing, Err(PolicyError::MissingTable(PlatformKind::Snp)));
    let error = missing.unwrap_err().to_string();
    assert_eq!(
        error,
        "evidence.platforms names snp, and there is no table [snp]"
    );
}

#[test]
fn no_field_of_the_tables_for_snp_is_optional_and_none_is_unknown() {
    let text = with_snp();
    let tables = text.split_once("[snp]").unwrap().1;
    for line in tables.lines().filter(|line| line.contains(" = ")) {
        let verdict = policy(&text.replacen(&format!("\n{line}\n"), "\n", 1));
        let verdict = match line.split(' ').next().unwrap() {
            // These names occur in two tables, each of which needs its own.
            "smt" | "rapl_disabled" | "ciphertext_hiding" => {
                let last = text.rfind(&format!("\n{line}\n")).unwrap();
                let without = [&text[..last], &text[last + line.len() + 1..]].concat();
                assert!(
                    matches!(policy(&without), Err(PolicyError::Toml(_))),
                    "{line}"
                );
                verdict
            }
            _ => verdict,
        };
        assert!(matches!(verdict, Err(PolicyError::Toml(_))), "{line}");
    }
    for part in ["fmc = 0, ", "tee = 0, ", ", microcode = 80"] {
        assert!(
            matches!(
                policy(&text.replacen(part, "", 1)),
                Err(PolicyError::Toml(_))
            ),
            "{part}"
        );
    }
    for section in [
        "[snp]\n",
        "[[snp.products]]\n",
        "[snp.guest]\n",
        "[snp.platform]\n",
    ] {
        let text = text.replacen(section, &format!("{section}surplus = 1\n"), 1);
        assert!(
            matches!(policy(&text), Err(PolicyError::Toml(_))),
            "{section}"
        );
    }
}

#[test]
fn values_of_the_tables_for_snp_are_checked() {
    let text = with_snp();
    for (from, list) in [
        ("signing_keys = [\"vcek\"]", List::SnpSigningKeys),
        ("vmpls = [0]", List::SnpVmpls),
    ] {
        let key = from.split(' ').next().unwrap();
        let verdict = policy(&text.replacen(from, &format!("{key} = []"), 1));
        assert_eq!(verdict, Err(PolicyError::Empty(list)));
    }
    let start = text.find("[[snp.products]]").unwrap();
    let end = text.find("[snp.guest]").unwrap();
    let without = [&text[..start], &text[end..]].concat();
    let without = without.replacen("[snp]\n", "[snp]\nproducts = []\n", 1);
    assert_eq!(policy(&without), Err(PolicyError::Empty(List::SnpProducts)));
    // The second would never count.
    let product = &text[start..end];
    let twice = [
        &text[..end],
        &product.replace("snp = 22", "snp = 24"),
        &text[end..],
    ]
    .concat();
    let same = Err(PolicyError::SameProduct(Product::Genoa));
    assert_eq!(policy(&twice), same);
    let other = [
        &text[..end],
        &product.replace("genoa", "milan"),
        &text[end..],
    ]
    .concat();
    assert!(policy(&other).is_ok());
    let id = "ab".repeat(32);
    for good in [
        format!("\"{id}\""),
        format!("[\"{id}\", \"{}\"]", "00".repeat(32)),
    ] {
        let text = text.replacen("host_data = \"any\"", &format!("host_data = {good}"), 1);
        assert!(policy(&text).is_ok(), "{good}");
    }
    for wrong in [
        "\"\"",
        "[]",
        "\"all\"",
        "[\"any\"]",
        &format!("\"{}\"", id.to_uppercase()),
        "7",
    ] {
        let text = text.replacen("host_data = \"any\"", &format!("host_data = {wrong}"), 1);
        assert!(
            matches!(policy(&text), Err(PolicyError::Toml(_))),
            "{wrong}"
        );
    }
    for (from, to) in [
        ("name = \"genoa\"", "name = \"naples\""),
        ("root = \"amd\"", "root = \"intel\""),
        ("[\"vcek\"]", "[\"none\"]"),
        ("[\"vcek\"]", "[\"vlek:\"]"),
        ("[\"vcek\"]", "[\"vcek:CN=cloud\"]"),
        ("cxl = \"refused\"", "cxl = \"required\""),
        ("ecc = \"required\"", "ecc = \"accepted\""),
        ("vmpls = [0]", "vmpls = [-1]"),
        ("snp = 22", "snp = 256"),
        ("[1, 55, 20]", "[1, 55]"),
    ] {
        assert!(text.contains(from), "{from}");
        assert!(
            matches!(
                policy(&text.replacen(from, to, 1)),
                Err(PolicyError::Toml(_))
            ),
            "{to}"
        );
    }
}

/// Version 1 means a TPM; version 2 says which platform, and nothing is assumed.
#[test]
fn a_configuration_names_its_platform_from_version_2_on() {
    let text = String::from_utf8(World::new().configuration).unwrap();
    let read = configuration(&text).unwrap();
    assert_eq!(read.platform(), PlatformKind::Tpm);
    let later = text.replacen("version = 1", "version = 2", 1);
    assert_eq!(configuration(&later), Err(ConfigurationError::Evidence));
    for (name, kind) in [
        ("tpm", PlatformKind::Tpm),
        ("snp", PlatformKind::Snp),
        ("tdx", PlatformKind::Tdx),
    ] {
        let table = format!("\n[evidence]\nplatform = \"{name}\"\n");
        let proxy = match kind {
            PlatformKind::Tpm => String::new(),
            _ => format!("[{name}]\nproxy = \"none\"\n"),
        };
        let read = configuration(&format!("{later}{table}{proxy}")).unwrap();
        assert_eq!((read.platform(), read.proxy()), (kind, Proxy::None));
        let early = configuration(&format!("{text}{table}{proxy}"));
        assert_eq!(early, Err(ConfigurationError::Evidence));
        let more = configuration(&format!("{later}{table}other = 1\n"));
        assert!(matches!(more, Err(ConfigurationError::Toml(_))));
    }
    let unknown = configuration(&format!("{later}\n[evidence]\nplatform = \"cca\"\n"));
    assert!(matches!(unknown, Err(ConfigurationError::Toml(_))));
}

/// A platform has its table, and no other has; what asks AMD or Intel is one address.
#[test]
fn a_configuration_says_who_asks_for_collateral() {
    let text = String::from_utf8(World::new().configuration).unwrap();
    let later = text.replacen("version = 1", "version = 2", 1);
    let read = |rest: &str| configuration(&format!("{later}\n[evidence]\n{rest}"));
    let proxy = |value: &str| read(&format!("platform = \"snp\"\n[snp]\nproxy = \"{value}\"\n"));
    let address = "10.0.2.2:3128".parse().unwrap();
    let found = proxy("http://10.0.2.2:3128").unwrap().proxy();
    assert_eq!(found, Proxy::Http(address));
    assert!(matches!(
        proxy("http://[fd00::2]:80").unwrap().proxy(),
        Proxy::Http(_)
    ));
    for wrong in [
        "",
        "http://",
        "https://10.0.2.2:3128",
        "http://proxy.example:3128",
        "http://10.0.2.2",
        "http://10.0.2.2:0",
        "http://10.0.2.2:3128/",
        "10.0.2.2:3128",
        "None",
    ] {
        let refused = proxy(wrong);
        assert!(
            matches!(refused, Err(ConfigurationError::Toml(_))),
            "{wrong}"
        );
    }
    let table = |kind| Err(ConfigurationError::Table(kind));
    let (snp, tdx) = (PlatformKind::Snp, PlatformKind::Tdx);
    assert_eq!(read("platform = \"snp\"\n"), table(snp));
    assert_eq!(read("platform = \"tdx\"\n"), table(tdx));
    let none = "proxy = \"none\"\n";
    let other = read(&format!("platform = \"tpm\"\n[tdx]\n{none}"));
    assert_eq!(other, table(tdx));
    let both = read(&format!("platform = \"tdx\"\n[tdx]\n{none}[snp]\n{none}"));
    assert_eq!(both, table(snp));
    let more = read("platform = \"snp\"\n[snp]\nproxy = \"none\"\nother = 1\n");
    assert!(matches!(more, Err(ConfigurationError::Toml(_))));
}
