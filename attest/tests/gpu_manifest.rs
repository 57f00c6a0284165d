//! Manifests: their XML, their signature, and what they state.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use attest::certificate::{ChainFault, Position};
use attest::crl::RevocationFault;
use attest::gpu::{GpuError, ManifestError, XmlError};
use attest::{Class, Refusal};
use signer::authority::Authority;
use signer::nvidia::{Manifest, Rack};

#[path = "common/gpu.rs"]
mod common;

use common::{done, fault, judge, manifest, spoilt};

/// What is wrong with the first manifest after `change` of its document, signed again.
fn document(from: &str, to: &str) -> ManifestError {
    manifest(|rack| done(rack.manifests[0].replace(from, to)))
}

/// What is wrong with the first manifest after `change` of what was signed.
fn bytes(change: impl FnOnce(String) -> String) -> ManifestError {
    let error = spoilt(|evidence| {
        let text = String::from_utf8(evidence.manifests[0].clone()).unwrap();
        evidence.manifests[0] = change(text).into_bytes();
    });
    match error {
        GpuError::Manifest { manifest: 1, fault } => *fault,
        other => panic!("{other}"),
    }
}

#[test]
fn a_manifest_is_signed_below_a_root_of_the_policy() {
    let chain = |change: fn(&mut Rack)| match manifest(change) {
        ManifestError::Chain(error) => (error.position, error.fault),
        other => panic!("{other}"),
    };
    let (_, unknown) = chain(|rack| {
        let somebody = Authority::new("Somebody", 0x11);
        rack.manifests[0] = Manifest::new(&somebody, "580.95.05", "GH100", &[7]);
    });
    assert!(matches!(unknown, ChainFault::UnknownRoot { .. }));
    // The devices' root vouches for no manifest.
    let (_, other) = chain(|rack| {
        rack.manifests[0] = Manifest::new(&rack.device_root, "580.95.05", "GH100", &[7]);
    });
    assert!(matches!(other, ChainFault::UnknownRoot { .. }));
    let (position, old) = chain(|rack| {
        rack.manifests[0].chain[0].0.validity[1] = "250101000000Z".to_owned();
    });
    assert_eq!(position, Position::Leaf);
    assert!(old.is_date());
    let none = chain(|rack| rack.manifests[0].chain.clear());
    assert_eq!(none, (Position::Leaf, ChainFault::Missing));
    let missing = manifest(|rack| drop(rack.lists.pop()));
    let position = Position::Intermediate(1);
    assert_eq!(missing, ManifestError::NoRevocationList { position });
    let revoked = manifest(|rack| rack.lists[2].0.revoked.push((4, Vec::new())));
    assert_eq!(revoked, ManifestError::Revoked { position });
    let unsound = manifest(|rack| rack.lists[2].1 = rack.lists[1].1.clone());
    let fault = RevocationFault::Signature;
    assert_eq!(unsound, ManifestError::RevocationList { position, fault });
}

#[test]
fn what_is_signed_is_what_is_read() {
    // Without the canonical form changing, nothing changes.
    let mut rack = Rack::new();
    rack.manifests[0].replace(" corpus=", "\n\t corpus=");
    rack.manifests[0].replace(
        "edition=\"GPU\" product=\"GH100\"/>",
        "product=\"GH100\" edition=\"GPU\"></ns0:Meta>",
    );
    assert!(judge(&rack).is_ok());
    for (from, to) in [
        ("index=\"60\"", "index=\"90\""),
        ("name=\"Measurement_60\"", "name=\"Measurement_61\""),
        ("    <ns0:Entity", "   <ns0:Entity"),
        ("tagId=\"1\"", "tagId=\"2\""),
        ("xmlns:SHA384=", "xmlns:SHA512="),
    ] {
        let error = bytes(|text| text.replacen(from, to, 1));
        assert_eq!(error, ManifestError::Digest, "{to}");
    }
    let key = manifest(|rack| rack.manifests[0].key = rack.manifests[0].chain[0].1.clone());
    assert_eq!(key, ManifestError::Signature);
    // What is signed names another digest, and the signature is of before.
    let error = bytes(|text| {
        let (start, rest) = text.split_once("<ds:DigestValue>").unwrap();
        let other = if rest.starts_with('A') { "B" } else { "A" };
        format!("{start}<ds:DigestValue>{other}{}", &rest[1..])
    });
    assert_eq!(error, ManifestError::Signature);
    let error = bytes(|text| {
        let (start, rest) = text.split_once("<ds:SignatureValue>").unwrap();
        let (_, end) = rest.split_once("</ds:SignatureValue>").unwrap();
        format!("{start}<ds:SignatureValue>AAAA</ds:SignatureValue>{end}")
    });
    assert_eq!(error, ManifestError::Signature);
    let class = Refusal::from(GpuError::Manifest {
        manifest: 1,
        fault: Box::new(ManifestError::Digest),
    });
    assert_eq!(class.class(), Class::Signature);
}

/// Signed as well, so that only the demand on the algorithm refuses it.
#[test]
fn no_other_algorithm_and_no_other_reference_is_accepted() {
    let info = |from: &str, to: &str| {
        manifest(|rack| {
            let info = &mut rack.manifests[0].signed_info;
            assert!(info.contains(from), "{from}");
            *info = info.replacen(from, to, 1);
        })
    };
    for (from, to, element) in [
        (
            "CanonicalizationMethod Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"",
            "CanonicalizationMethod Algorithm=\"http://www.w3.org/2001/10/xml-exc-c14n#\"",
            "CanonicalizationMethod",
        ),
        ("#ecdsa-sha384", "#ecdsa-sha256", "SignatureMethod"),
        ("#enveloped-signature", "#base64", "Transform"),
        (
            "Transform Algorithm=\"http://www.w3.org/2006/12/xml-c14n11\"",
            "Transform Algorithm=\"http://www.w3.org/TR/1999/REC-xslt-19991116\"",
            "Transform",
        ),
        ("xmldsig-more#sha384", "xmldsig-more#sha224", "DigestMethod"),
        (
            "SignatureMethod Algorithm",
            "SignatureMethod Other=\"1\" Algorithm",
            "SignatureMethod",
        ),
    ] {
        assert_eq!(info(from, to), ManifestError::Algorithm { element }, "{to}");
    }
    for (from, to, element) in [
        ("URI=\"\"", "URI=\"#other\"", "Reference"),
        ("URI=\"\"", "URI=\"\" Type=\"http://x\"", "Reference"),
        (
            "</ds:Transforms>",
            "<ds:Transform Algorithm=\"x\"/></ds:Transforms>",
            "Transforms",
        ),
        (
            "</ds:SignedInfo>",
            "<ds:Reference URI=\"\"/></ds:SignedInfo>",
            "SignedInfo",
        ),
        ("DIGEST", "?", "DigestValue"),
        ("<ds:DigestMethod", "text<ds:DigestMethod", "Reference"),
    ] {
        assert_eq!(info(from, to), ManifestError::Structure { element }, "{to}");
    }
}

#[test]
fn documents_of_another_form_are_refused() {
    for (from, to, element) in [
        (
            "    <ns0:Entity",
            "<ns0:More/>    <ns0:Entity",
            "SoftwareIdentity",
        ),
        ("    <ns0:Entity", "text    <ns0:Entity", "SoftwareIdentity"),
        ("colloquialVersion", "version", "Meta"),
        ("product", "other", "Meta"),
        ("ns0:Meta ", "ns0:Other ", "SoftwareIdentity"),
        ("        <ns0:Resource", "text<ns0:Resource", "Payload"),
    ] {
        assert_eq!(
            document(from, to),
            ManifestError::Structure { element },
            "{to}"
        );
    }
    let two = bytes(|text| {
        let signature = "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"/>";
        text.replacen("<ns0:Entity ", &format!("{signature}<ns0:Entity "), 1)
    });
    let element = "SoftwareIdentity";
    assert_eq!(two, ManifestError::Structure { element });
    let nested = document(
        "        <ns0:Resource",
        "<ds:Signature xmlns:ds=\"http://www.w3.org/2000/09/xmldsig#\"/>        <ns0:Resource",
    );
    assert_eq!(nested, ManifestError::Structure { element });
    let more = manifest(|rack| rack.manifests[0].more = "<ds:X509CRL>x</ds:X509CRL>".to_owned());
    let element = "X509Data";
    assert_eq!(more, ManifestError::Structure { element });
    for kind in ["corpus", "patch", "supplemental"] {
        let (from, to) = (format!("{kind}=\"false\""), format!("{kind}=\"true\""));
        assert_eq!(document(&from, &to), ManifestError::Partial, "{kind}");
    }
    let large = bytes(|text| text + &" ".repeat(64 << 10));
    assert!(matches!(large, ManifestError::TooLarge { .. }), "{large}");
    for (from, to) in [
        (
            "<SoftwareIdentity",
            "<?xml version=\"1.0\"?><SoftwareIdentity",
        ),
        ("<SoftwareIdentity", "<!DOCTYPE x><SoftwareIdentity"),
        ("    <ns0:Entity", "<!-- -->    <ns0:Entity"),
    ] {
        let error = bytes(|text| text.replacen(from, to, 1));
        assert!(
            matches!(error, ManifestError::Xml(XmlError::Markup { .. })),
            "{to}: {error}"
        );
    }
    let error = bytes(|text| text.replacen("tagId=\"1\"", "tagId=\"&#49;\"", 1));
    assert!(matches!(
        error,
        ManifestError::Xml(XmlError::Character { .. })
    ));
}

#[test]
fn measurements_are_read_strictly() {
    let hash = "0".repeat(96);
    for (from, to) in [
        ("index=\"3\"", "index=\"256\""),
        ("index=\"3\"", "index=\"x\""),
        (
            "index=\"3\" active=\"False\"",
            "index=\"3\" active=\"true\"",
        ),
        (
            "index=\"3\" active=\"False\"",
            "index=\"3\" active=\"False\" more=\"1\"",
        ),
        (
            "index=\"3\" active=\"False\" alternatives=\"2\"",
            "index=\"3\" active=\"False\" alternatives=\"1\"",
        ),
        (
            "index=\"3\" active=\"False\" alternatives=\"2\"",
            "index=\"3\" active=\"False\" alternatives=\"3\"",
        ),
        (
            "index=\"3\" active=\"False\" alternatives=\"2\"",
            "index=\"3\" active=\"False\" alternatives=\"0\"",
        ),
        (
            "name=\"Measurement_3\" size=\"48\"",
            "name=\"Measurement_3\" size=\"32\"",
        ),
        (
            "type=\"Measurement\" index=\"3\"",
            "type=\"Other\" index=\"3\"",
        ),
    ] {
        let error = document(from, to);
        assert_eq!(error, ManifestError::Measurement { number: 3 }, "{to}");
    }
    let short = document(
        &format!("index=\"3\" active=\"False\" alternatives=\"2\" ns2:Hash0=\"{hash}\""),
        &format!(
            "index=\"3\" active=\"False\" alternatives=\"2\" ns2:Hash0=\"{}\"",
            &hash[2..]
        ),
    );
    assert_eq!(short, ManifestError::Measurement { number: 3 });
    let twice = document("index=\"3\"", "index=\"2\"");
    assert_eq!(twice, ManifestError::Twice { index: 2 });
    // Stated for no other chip than it is for.
    let error = fault(|rack| {
        for manifest in &mut rack.manifests {
            manifest.replace("product=\"GH100\"", "product=\"GH200\"");
        }
    });
    assert!(matches!(error, GpuError::Device { .. }), "{error}");
}
