//! Of several generations in a folder, those that hold at the time of judgement; of many machines,
//! what is of the one that is judged.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::crl::RevocationFault;
use attest::files::{FileError, Files};
use attest::snp::{self, SnpEvidence};
use attest::tdx::{self, TdxError, TdxEvidence};
use attest::{UnixTime, gpu};
use signer::amd::{self, Machine};
use signer::intel::{self, Domain};
use signer::nvidia::{self, Rack};
use signer::{NOW, authority};

/// A quote's collateral as files: documents as Intel's service answers, certificate, lists.
fn files_of(domain: &Domain) -> Vec<Vec<u8>> {
    let given = domain.evidence().collateral;
    let whole = |name: &str, document: &[u8], signature: &[u8]| {
        let document = std::str::from_utf8(document).unwrap();
        let signature = hex::encode(signature);
        format!("{{\"{name}\":{document},\"signature\":\"{signature}\"}}").into_bytes()
    };
    let mut files = vec![
        whole("tcbInfo", &given.tcb_info, &given.tcb_info_signature),
        whole(
            "enclaveIdentity",
            &given.enclave_identity,
            &given.enclave_identity_signature,
        ),
        given.signer,
    ];
    files.extend(given.revocation_lists);
    files
}

/// The same platform, of which Intel said this in `year`.
fn generation(year: u8, key: u8) -> Domain {
    let mut domain = Domain::new();
    for document in 0..2 {
        for date in ["\"issueDate\":\"2026", "\"nextUpdate\":\"2026"] {
            let other = date.replace("2026", &format!("20{year}"));
            domain.edit(document, date, &other);
        }
    }
    for (list, _) in &mut domain.lists {
        list.from = format!("{year}1101000000Z");
        list.until = Some(format!("{year}1203000000Z"));
    }
    let signer = &mut domain.signer.0;
    domain.document_key = intel::key(key);
    let name = "Intel SGX TCB Signing";
    *signer = intel::template(
        "Test Root",
        name,
        &domain.document_key,
        &[authority::DIGITAL_SIGNATURE],
    );
    signer.serial = vec![key];
    domain
}

fn all(parts: impl IntoIterator<Item = Vec<u8>>) -> Files {
    let mut files = Files::default();
    for part in parts {
        files.add(&part).unwrap();
    }
    files
}

fn judge(files: &Files, domain: &Domain, time: UnixTime) -> Result<(), TdxError> {
    let shown = domain.evidence();
    let collateral = files.for_quote(&shown.quote, time);
    let evidence = TdxEvidence {
        collateral,
        ..shown
    };
    tdx::verify(&evidence, &[0; 64], &domain.policy(), time).map(drop)
}

#[test]
fn of_intels_generations_the_one_of_the_time_counts() {
    let years = [25, 26, 27].map(|year| generation(year, year));
    let mut parts: Vec<_> = years.iter().flat_map(files_of).collect();
    let domain = &years[1];
    for _ in 0..2 {
        let files = all(parts.clone());
        for year in ["2025", "2026", "2027"] {
            let time = format!("{year}-11-20").parse().unwrap();
            assert_eq!(judge(&files, domain, time), Ok(()), "{year}");
        }
        // Where none holds, the latest says since when.
        let time: UnixTime = "2028-01-01".parse().unwrap();
        let late = judge(&files, domain, time).unwrap_err();
        let until: UnixTime = "2027-12-03".parse().unwrap();
        let fault = RevocationFault::Expired { until, now: time };
        assert!(
            matches!(&late, TdxError::RevocationList { fault: found, .. } if *found == fault),
            "{late:?}"
        );
        let shown = files.for_quote(&domain.quote(), time);
        assert_eq!(shown.tcb_info, years[2].documents[0].as_bytes());
        parts.reverse();
    }
}

#[test]
fn of_lists_the_one_of_the_time_counts() {
    let machine = Machine::new();
    let whole = machine.evidence();
    let mut lists = Vec::new();
    for year in [25, 26, 27] {
        let mut other = machine.clone();
        other.list.from = format!("{year}0101000000Z");
        other.list.until = Some(format!("{year}1231000000Z"));
        lists.push(other.signed_list());
    }
    let mut parts = [&whole.certificates[..], &lists].concat();
    for _ in 0..2 {
        let files = all(parts.clone());
        for (year, list) in ["2025", "2026", "2027", "2030"].iter().zip([0, 1, 2, 2]) {
            let time = format!("{year}-06-01").parse().unwrap();
            let found = files.with_report(&whole.report, time);
            let expected = SnpEvidence {
                revocation_lists: vec![lists[list].clone()],
                ..whole.clone()
            };
            assert_eq!(found, [expected], "{year}");
        }
        parts.reverse();
    }
}

/// A fleet's certificates in one folder.
#[test]
fn certificates_of_other_chips_do_not_take_the_place_of_the_reports_own() {
    let machine = Machine::new();
    let whole = machine.evidence();
    let mut others = Vec::new();
    for number in 1..=50 {
        let mut other = machine.clone();
        other.leaf.serial = vec![number];
        other.leaf.extensions = amd::vcek("Genoa", &amd::TCB, &[number; 64]);
        others.push(other.evidence().certificates[0].clone());
    }
    // The same chip, before and after its firmware was renewed.
    for number in 1..=5 {
        let mut other = machine.clone();
        other.leaf.serial = vec![100 + number];
        let tcb = [10, 0, 0, 0, 0, 0, number, 84];
        other.leaf.extensions = amd::vcek("Genoa", &tcb, &amd::CHIP);
        others.push(other.evidence().certificates[0].clone());
    }
    let certificates = [&others[..], &whole.certificates].concat();
    let files = all([&certificates[..], &whole.revocation_lists].concat());
    let found = files.with_report(&whole.report, NOW);
    assert_eq!((found.len(), &found[0]), (6, &whole));
    assert!(snp::verify(&found[0], &[0; 64], &machine.policy(), NOW).is_ok());
    let strangers = [&others[..50], &whole.certificates[1..]].concat();
    let none = all(strangers).with_report(&whole.report, NOW);
    assert_eq!((none.len(), none[0].certificates.len()), (1, 0));
    // Where the report does not name its chip, every one is tried, up to the limit.
    let mut masked = machine.clone();
    masked.set(amd::at::CHIP_ID, &[0; 64]);
    assert_eq!(files.with_report(&masked.signed_report(), NOW).len(), 32);
}

/// The folder of manifests holds certificates, too, and so does another device's chain.
#[test]
fn a_device_is_shown_with_its_own_certificates() {
    let rack = Rack::with_switch();
    let shown = rack.evidence(&[5; 32]);
    // The test's devices have the same keys: each has its own folder.
    for device in &shown.devices {
        let mut parts = nvidia::certificates(&rack.manifests[0].chain);
        parts.extend(device.certificates.iter().cloned());
        for _ in 0..2 {
            let found = all(parts.clone()).with_device(&device.report);
            assert!(found == *device);
            parts.reverse();
        }
    }
    let mut bare = shown.clone();
    for device in &mut bare.devices {
        let parts = nvidia::certificates(&rack.manifests[0].chain);
        let own = device.certificates.iter().cloned();
        *device = all(parts.into_iter().chain(own)).with_device(&device.report);
    }
    let verdict = gpu::verify_alone(&bare, Some(&[5; 32]), &rack.policy(), NOW);
    assert!(verdict.is_ok(), "{verdict:?}");
    // What no key signed is shown with a device's chain, and refused for its signature.
    let mut altered = shown.devices[0].report.clone();
    altered[4] ^= 1;
    let files = all(shown.devices[0].certificates.clone());
    let found = files.with_device(&altered).certificates;
    assert!(found == shown.devices[0].certificates);
    let none = all(nvidia::certificates(&rack.manifests[0].chain));
    assert!(none.with_device(&altered).certificates.is_empty());
}

#[test]
fn more_certificates_than_are_taken_are_not_dropped_in_silence() {
    let certificate = authority::pem(&Machine::new().evidence().certificates[0]);
    let bundle = |count| Files::default().add(certificate.repeat(count).as_bytes());
    assert_eq!(bundle(64), Ok(()));
    assert_eq!(bundle(65), Err(FileError::TooMany));
}
