//! What was verified, as lines and as JSON.

use attest::release::Published;
use attest::{Claim, VerifiedPeer};
use serde_json::{Value, json};

use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::terminal::{self, escape, is_hostile};

/// Name of the JSON object's shape. A field is added under the same name, and changed under a new.
pub(crate) const SCHEMA: &str = "cloister.report.v1";

/// The three facts: which machine answers and that only it can read, which software runs there, and
/// who else can see what its makers promise.
pub(crate) fn facts(peer: &VerifiedPeer) -> [String; 3] {
    let claim = |what: &str| peer.claims().iter().find(|claim| claim.what == what);
    let found = |what| claim(what).map_or("unknown", |claim| claim.found.as_str());
    let rests_on = |what| claim(what).map_or("unknown", |claim| claim.rests_on.as_str());
    let stated = &peer.release().statement().predicate;
    let relaxed = claim("Secure Boot").is_some_and(|claim| claim.expected.contains("relaxed"));
    let platform = found("platform").to_uppercase();
    let machine = match claim("Secure Boot") {
        Some(secure_boot) => format!(
            "{platform}, key certified by {}; Secure Boot {}{}",
            rests_on("attestation key"),
            secure_boot.found,
            if relaxed {
                ", which the policy accepts"
            } else {
                ""
            },
        ),
        None => format!("{platform}, launched as {}", found("launched software")),
    };
    let facts = [
        format!("machine   {machine}; {} alone", found("assurance")),
        format!(
            "software  {} {} ({}), model {}; signed by {}; rebuilt by {}",
            stated.name,
            stated.version,
            stated.profile,
            peer.configuration().model.name,
            peer.release().signer(),
            found("rebuilt by"),
        ),
        format!(
            "log       {} of {}{}; witnesses: {}; {}",
            found("release log"),
            peer.release().log_name(),
            match peer.release().published() {
                Published::Log(_) => "",
                Published::Sigstore(_) => " (Sigstore)",
            },
            match peer.release().witnesses().len() {
                0 => "none".to_owned(),
                count => count.to_string(),
            },
            claim("log history").map_or("unknown", |claim| claim.expected.as_str()),
        ),
    ];
    facts.map(|fact| format!("verified ✓ {}", escape(&fact)))
}

/// Every claim: expected, found, rests on.
pub(crate) fn explain(peer: &VerifiedPeer) -> String {
    explain_claims(peer.claims())
}

/// The same of what is no server.
pub(crate) fn explain_claims(claims: &[Claim]) -> String {
    let block = |claim: &Claim| {
        format!(
            "{}\n    expected  {}\n    found     {}\n    rests on  {}\n",
            escape(&claim.what),
            escape(&claim.expected),
            escape(&claim.found),
            escape(&claim.rests_on),
        )
    };
    claims.iter().map(block).collect()
}

/// What the claims say of a demand that was not made, by its kind.
const LEFT_OPEN: [(&str, &[&str]); 3] = [
    ("not checked", &["not checked"]),
    ("not pinned", &["not pinned by the policy"]),
    (
        "relaxed",
        &[
            "relaxed by the policy",
            "accepted by the policy)",
            "not required by the policy",
        ],
    ),
];

/// One line with everything that was not demanded; none where all was.
pub(crate) fn say_left_open(claims: &[Claim]) -> Result<(), Failure> {
    match left_open(claims) {
        Some(line) => terminal::say(&escape(&format!("left open  {line}"))),
        None => Ok(()),
    }
}

fn left_open(claims: &[Claim]) -> Option<String> {
    let group = |(kind, phrases): (&str, &[&str])| {
        let says = |text: &str| phrases.iter().any(|phrase| text.contains(phrase));
        let mut names: Vec<&str> = Vec::new();
        for claim in claims {
            // Devices of one machine are judged alike.
            let name = match claim.what.split_once(": ") {
                Some((device, rest)) if device.ends_with(|c: char| c.is_ascii_digit()) => rest,
                _ => &claim.what,
            };
            if (says(&claim.expected) || says(&claim.found)) && !names.contains(&name) {
                names.push(name);
            }
        }
        (!names.is_empty()).then(|| format!("{kind}: {}", names.join(", ")))
    };
    let groups: Vec<String> = LEFT_OPEN.into_iter().filter_map(group).collect();
    (!groups.is_empty()).then(|| groups.join("; "))
}

/// What `--json` says of a verified peer; an answer is added to it.
pub(crate) fn json(endpoint: &Endpoint, peer: &VerifiedPeer) -> Value {
    let release = peer.release();
    let stated = &release.statement().predicate;
    let witnesses = release.witnesses().iter();
    let witnesses: Vec<_> = witnesses.map(|(name, _)| name.as_str()).collect();
    json!({
        "schema": SCHEMA,
        "verified": true,
        "url": endpoint.to_string(),
        "assurance": peer.assurance(),
        "release": {
            "name": stated.name,
            "version": stated.version,
            "profile": stated.profile,
            "source_revision": stated.source_revision,
            "signer": release.signer().to_string(),
            "builder": stated.builder,
            "confirmed": release.confirmed().to_string(),
            "rebuilt_by": release.rebuilders(),
            "log": release.log_name(),
            "log_index": release.index(),
            "log_kind": match release.published() {
                Published::Log(_) => "log",
                Published::Sigstore(_) => "sigstore",
            },
            "log_size": release.log_size(),
            "witnesses": witnesses,
        },
        "model": {
            "name": peer.configuration().model.name,
            "volume": peer.configuration().model.volume.to_string(),
        },
        "claims": peer.claims(),
        "exit_code": 0,
    })
}

/// One line to standard output. What would deceive on a terminal is escaped in JSON's own way.
pub(crate) fn print_json(value: &Value) -> Result<(), Failure> {
    let mut line = String::new();
    let mut value = value.clone();
    // Of one order, whichever crates are built together: some have serde_json keep another.
    value.sort_all_objects();
    for c in value.to_string().chars() {
        if is_hostile(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                line.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            line.push(c);
        }
    }
    terminal::say(&line)
}
