//! Every way in which a certificate chain can be wrong.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::tpm::chain::{ChainError, ChainFault, Position, TrustAnchor, verify};
use attest::{Class, Refusal, UnixTime};
use signer::authority::{self, Authority, Template, der};
use signer::{NOW, World};

fn anchor(authority: &Authority) -> TrustAnchor {
    TrustAnchor::from_pem(&authority.pem()).unwrap()
}

fn judge(chain: &[Vec<u8>], root: &Authority, now: UnixTime) -> Result<(), ChainError> {
    verify(chain, &[anchor(root)], now).map(drop)
}

/// The fault that is found if the leaf says something else.
fn leaf(change: impl FnOnce(&mut Template)) -> ChainFault {
    let mut world = World::new();
    change(&mut world.certificate);
    let chain = [world.authority.issue(&world.certificate)];
    let error = judge(&chain, &world.authority, NOW).unwrap_err();
    assert_eq!(error.position, Position::Leaf);
    error.fault
}

/// The fault that is found if the root says something else.
fn root(change: impl FnOnce(&mut Template)) -> Result<(), ChainError> {
    let world = World::new();
    let mut template = world.authority.template();
    change(&mut template);
    let pem = authority::pem(&world.authority.issue(&template));
    let anchor = TrustAnchor::from_pem(&pem).unwrap();
    verify(&[world.authority.issue(&world.certificate)], &[anchor], NOW).map(drop)
}

/// Root, two intermediates and a leaf, each authority with the extension that is given.
fn deep(constraints: [&[u8]; 3]) -> Result<(), ChainError> {
    let world = World::new();
    let authorities = [0x31, 0x32, 0x33].map(|seed| Authority::new(&format!("CA {seed}"), seed));
    let [top, middle, low] = &authorities;
    let certificate = |issuer: &Authority, subject: &Authority, constraints: &[u8]| {
        let mut template = subject.template();
        template.issuer = issuer.name.clone();
        template.extensions[0].2 = constraints.to_vec();
        issuer.issue(&template)
    };
    let key = world.attestation_key.verifying_key();
    let chain = [
        low.issue(&low.attestation_key(key)),
        certificate(middle, low, constraints[2]),
        certificate(top, middle, constraints[1]),
    ];
    let root = TrustAnchor::from_pem(&authority::pem(&certificate(top, top, constraints[0])));
    verify(&chain, &[root.unwrap()], NOW).map(drop)
}

const CA: &[u8] = &[0x30, 3, 1, 1, 0xff];
const NO_CA: &[u8] = &[0x30, 0];

fn path_length(allowed: u8) -> [u8; 8] {
    [0x30, 6, 1, 1, 0xff, 2, 1, allowed]
}

#[test]
fn sound_chains_are_accepted() {
    let world = World::new();
    assert_eq!(
        judge(
            &[world.authority.issue(&world.certificate)],
            &world.authority,
            NOW
        ),
        Ok(())
    );
    assert_eq!(deep([CA, CA, CA]), Ok(()));
    assert_eq!(
        deep([&path_length(2), &path_length(1), &path_length(0)]),
        Ok(())
    );
}

#[test]
fn path_lengths_and_authorities_are_respected() {
    let fault = |constraints: [&[u8]; 3]| {
        let error = deep(constraints).unwrap_err();
        (error.position, error.fault)
    };
    let long = |allowed, found| ChainFault::PathLength { allowed, found };
    assert_eq!(
        fault([&path_length(1), CA, CA]),
        (Position::Root, long(1, 2))
    );
    let middle = Position::Intermediate(2);
    assert_eq!(fault([CA, &path_length(0), CA]), (middle, long(0, 1)));
    assert_eq!(fault([CA, NO_CA, CA]), (middle, ChainFault::NotAnAuthority));
    let low = Position::Intermediate(1);
    assert_eq!(fault([CA, CA, NO_CA]), (low, ChainFault::NotAnAuthority));
    assert_eq!(
        fault([NO_CA, CA, CA]),
        (Position::Root, ChainFault::NotAnAuthority)
    );
}

#[test]
fn a_chain_without_certificates_or_of_garbage_is_refused() {
    let world = World::new();
    let fault = |chain: &[Vec<u8>]| judge(chain, &world.authority, NOW).unwrap_err().fault;
    assert_eq!(fault(&[]), ChainFault::Missing);
    assert_eq!(fault(&[b"garbage".to_vec()]), ChainFault::Encoding);
    let mut sound = world.authority.issue(&world.certificate);
    sound.push(0);
    assert_eq!(fault(&[sound]), ChainFault::Encoding);
    assert_eq!(leaf(|template| template.version = 1), ChainFault::Encoding);
}

#[test]
fn a_chain_to_an_unknown_root_is_refused() {
    let (world, stranger) = (World::new(), Authority::new("Stranger", 0x55));
    let key = world.attestation_key.verifying_key();
    let chain = [stranger.issue(&stranger.attestation_key(key))];
    let error = judge(&chain, &world.authority, NOW).unwrap_err();
    assert!(
        matches!(error.fault, ChainFault::UnknownRoot { .. }),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains("\"CN=Stranger\", which the policy does not name")
    );
    assert_eq!(Refusal::from(error).class(), Class::Signature);
    // A root of the right name and another key.
    let impostor = Authority::new(&world.authority.name, 0x55);
    let chain = [impostor.issue(&impostor.attestation_key(key))];
    assert_eq!(
        judge(&chain, &world.authority, NOW).unwrap_err().fault,
        ChainFault::Signature
    );
    // Two roots of one name: the one that signed counts, wherever it stands.
    let roots = [anchor(&world.authority), anchor(&impostor)];
    assert_eq!(verify(&chain, &roots, NOW).unwrap().root, &roots[1]);
}

#[test]
fn dates_are_checked_at_the_given_time() {
    let certificate = |from: &str, until: &str| {
        let mut world = World::new();
        world.certificate.validity = [from.to_owned(), until.to_owned()];
        (world.authority.issue(&world.certificate), world.authority)
    };
    let (chain, root) = certificate("261121000000Z", "261121000000Z");
    let chain = [chain];
    let at = |seconds: u64| judge(&chain, &root, UnixTime::from_secs(seconds));
    let midnight = NOW.as_secs();
    assert_eq!(at(midnight), Ok(()));
    for (seconds, text) in [
        (
            midnight - 1,
            "not valid before 2026-11-21T00:00:00Z, and it is 2026-11-20T23:59:59Z",
        ),
        (
            midnight + 1,
            "expired at 2026-11-21T00:00:00Z, and it is 2026-11-21T00:00:01Z",
        ),
    ] {
        let error = at(seconds).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("certificate of the attestation key: {text}")
        );
        assert_eq!(Refusal::from(error).class(), Class::Collateral);
    }
    let error = root_with_dates("200101000000Z", "210101000000Z");
    assert_eq!(error.position, Position::Root);
    assert!(matches!(error.fault, ChainFault::Expired { .. }));
    let error = root_with_dates("300101000000Z", "310101000000Z");
    assert!(matches!(error.fault, ChainFault::NotYetValid { .. }));
}

fn root_with_dates(from: &str, until: &str) -> ChainError {
    root(|template| template.validity = [from.to_owned(), until.to_owned()]).unwrap_err()
}

#[test]
fn extensions_are_demanded_and_none_is_passed_over() {
    assert_eq!(leaf(|t| t.extensions[1].2[8] = 4), ChainFault::Purpose);
    assert_eq!(leaf(|t| drop(t.extensions.pop())), ChainFault::Purpose);
    let usage = ChainFault::KeyUsage {
        needed: "digitalSignature",
    };
    assert_eq!(leaf(|t| drop(t.extensions.remove(0))), usage);
    assert_eq!(leaf(|t| t.extensions[0].2[3] = 0x40), usage);
    let authority = (vec![0x55, 0x1d, 0x13], true, CA.to_vec());
    assert_eq!(
        leaf(|t| t.extensions.push(authority)),
        ChainFault::Authority
    );

    let unknown = (vec![0x55, 0x1d, 0x1e], true, vec![0x30, 0]); // name constraints
    let fault = leaf(|t| t.extensions.push(unknown.clone()));
    assert!(matches!(fault, ChainFault::CriticalExtension { .. }));
    let error = root(|t| t.extensions.push(unknown.clone())).unwrap_err();
    assert!(matches!(error.fault, ChainFault::CriticalExtension { .. }));
    assert_eq!(
        root(|t| t.extensions.push((unknown.0, false, unknown.2))),
        Ok(())
    );

    let fault = leaf(|t| t.extensions.push(t.extensions[0].clone()));
    assert!(matches!(fault, ChainFault::DuplicateExtension { .. }));
    assert!(matches!(
        leaf(|t| t.extensions[0].2[0] = 4),
        ChainFault::Extension { .. }
    ));

    let needed = ChainFault::KeyUsage {
        needed: "keyCertSign",
    };
    assert_eq!(
        root(|t| t.extensions[1].2[3] = 0x80).unwrap_err().fault,
        needed
    );
    assert_eq!(
        root(|t| drop(t.extensions.remove(1))).unwrap_err().fault,
        needed
    );
    let none = root(|t| drop(t.extensions.remove(0))).unwrap_err();
    assert_eq!(
        (none.position, none.fault),
        (Position::Root, ChainFault::NotAnAuthority)
    );
}

#[test]
fn names_keys_and_signatures_must_fit() {
    let world = World::new();
    let (top, low) = (Authority::new("Top", 0x31), Authority::new("Low", 0x32));
    let certificate = low.issue(&low.attestation_key(world.attestation_key.verifying_key()));
    let mut template = low.template();
    template.issuer = top.name.clone();
    template.subject = "Other".to_owned();
    let error = judge(&[certificate.clone(), top.issue(&template)], &top, NOW).unwrap_err();
    assert!(matches!(error.fault, ChainFault::Issuer { .. }), "{error}");

    let impostor = Authority::new("Low", 0x33);
    let mut template = impostor.template();
    template.issuer = top.name.clone();
    let error = judge(&[certificate, top.issue(&template)], &top, NOW).unwrap_err();
    assert_eq!(
        (error.position, error.fault),
        (Position::Leaf, ChainFault::Signature)
    );

    let sha256 = vec![0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    for place in 0..2 {
        let fault = leaf(|t| t.algorithms[place].clone_from(&sha256));
        assert!(matches!(fault, ChainFault::Algorithm { .. }), "{place}");
    }
    let with_null = der(0x30, &[&sha256[2..11], &[3, 5, 0]]);
    let fault = leaf(|t| t.algorithms = [with_null.clone(), with_null]);
    assert!(matches!(fault, ChainFault::Algorithm { .. }));

    assert_eq!(leaf(|t| t.key[96] ^= 1), ChainFault::Key); // not on the curve
    assert_eq!(leaf(|t| t.key.truncate(49)), ChainFault::Key);
    assert_eq!(leaf(|t| t.key_algorithm[17] = 0x23), ChainFault::Key); // P-521
}

#[test]
fn a_root_is_one_certificate_in_pem_form() {
    let pem = World::new().authority.pem();
    assert!(TrustAnchor::from_pem(&pem).is_ok());
    for wrong in [
        "",
        "garbage",
        &pem[..pem.len() - 30],
        &pem.replace("CERTIFICATE", "PUBLIC KEY"),
        &format!("{pem}{pem}"),
    ] {
        assert!(TrustAnchor::from_pem(wrong).is_err(), "{wrong}");
    }
}
