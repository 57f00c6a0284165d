//! What AMD and Intel are asked and answer, and what files hold: forms, bounds, bytes of enemies.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::files::{self, FileError, Files, MAX_FILE_BYTES};
use attest::snp::{self, Product, ReportError, SnpError};
use attest::supply::{self, Answer, AnswerError, Item, RequestError};
use attest::tdx::{self, QuoteError, TdxError};
use attest::{Class, Refusal, ReportData, UnixTime};
use signer::amd::{self, Machine};
use signer::fuzz::{self, mutate};
use signer::intel::Domain;
use signer::{NOW, World};

fn pem(label: &str, der: &[u8]) -> String {
    let whole = signer::authority::pem(der);
    whole.replace("CERTIFICATE", label)
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What Intel's service answers for a domain, and the header that it comes with.
fn answered(domain: &Domain) -> (String, String, String) {
    let given = domain.evidence().collateral;
    let whole = |name: &str, document: Vec<u8>, signature: Vec<u8>| {
        let document = String::from_utf8(document).unwrap();
        format!(
            "{{\"{name}\":{document},\"signature\":\"{}\"}}",
            hex::encode(signature)
        )
    };
    (
        whole("tcbInfo", given.tcb_info, given.tcb_info_signature),
        whole(
            "enclaveIdentity",
            given.enclave_identity,
            given.enclave_identity_signature,
        ),
        escaped(&pem("CERTIFICATE", &given.signer)),
    )
}

#[test]
fn a_report_and_a_quote_say_what_to_ask_for() {
    let genoa = Machine::new().signed_report();
    let urls = |report: &[u8]| -> Vec<String> {
        let requests = supply::for_report(report).unwrap();
        requests.into_iter().map(|request| request.url).collect()
    };
    let chip = "c1".repeat(64);
    let base = "https://kdsintf.amd.com/vcek/v1/Genoa";
    let expected = [
        format!("{base}/{chip}?blSPL=10&teeSPL=00&snpSPL=23&ucodeSPL=84"),
        format!("{base}/cert_chain"),
        format!("{base}/crl"),
    ];
    assert_eq!(urls(&genoa), expected);
    // Turin names 8 bytes of its chip, and one more part.
    let mut turin = Machine::new();
    turin.set(amd::at::CPUID, &[0x1a, 2, 1]);
    turin.set(amd::at::REPORTED_TCB, &[1, 2, 3, 4, 0, 0, 0, 75]);
    let expected = "https://kdsintf.amd.com/vcek/v1/Turin/c1c1c1c1c1c1c1c1\
                    ?fmcSPL=01&blSPL=02&teeSPL=03&snpSPL=04&ucodeSPL=75";
    assert_eq!(urls(&turin.signed_report())[0], expected);
    let requests = supply::for_quote(&Domain::new().quote()).unwrap();
    let intel = "https://api.trustedservices.intel.com";
    let expected = [
        (
            Item::TcbInfo,
            format!("{intel}/tdx/certification/v4/tcb?fmspc=90C06F000000"),
        ),
        (
            Item::EnclaveIdentity,
            format!("{intel}/tdx/certification/v4/qe/identity"),
        ),
        (
            Item::PckList,
            format!("{intel}/sgx/certification/v4/pckcrl?ca=platform&encoding=der"),
        ),
        (
            Item::IntelList,
            "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der".to_owned(),
        ),
    ];
    let found: Vec<_> = requests
        .into_iter()
        .map(|one| (one.item, one.url))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn what_says_too_little_asks_for_nothing() {
    let report = |at, bytes: &[u8]| {
        let mut machine = Machine::new();
        machine.set(at, bytes);
        supply::for_report(&machine.signed_report()).unwrap_err()
    };
    let version = report(amd::at::VERSION, &[9]);
    assert!(matches!(version, RequestError::Report(_)));
    assert_eq!(
        report(amd::at::CPUID, &[0x19, 0x50]),
        RequestError::Processor
    );
    assert_eq!(report(amd::at::CHIP_ID, &[0; 64]), RequestError::MaskedChip);
    let tcb = report(amd::at::REPORTED_TCB, &[10, 0, 1]);
    let expected = Product::Genoa;
    assert!(matches!(tcb, RequestError::Tcb { product, .. } if product == expected));
    let quote = supply::for_quote(&[0; 5000]).unwrap_err();
    assert!(matches!(quote, RequestError::Quote(_)));
}

#[test]
fn answers_of_the_known_form_are_taken_and_no_others() {
    let evidence = Machine::new().evidence();
    let [vcek, ask] = evidence.certificates.try_into().unwrap();
    let list = &evidence.revocation_lists[0];
    let taken = |item, body: &[u8]| supply::read(item, body, None);
    assert_eq!(
        taken(Item::Vcek, &vcek),
        Ok((Answer::Certificate(vcek.clone()), None))
    );
    let chain = [pem("CERTIFICATE", &ask), pem("CERTIFICATE", &vcek)].concat();
    let first = taken(Item::Intermediate, chain.as_bytes());
    assert_eq!(first, Ok((Answer::Certificate(ask), None)));
    let (found, until) = taken(Item::AmdList, list).unwrap();
    assert_eq!(found, Answer::List(list.clone()));
    assert!(until.unwrap() > NOW);
    let form = |item| Err(AnswerError::Form { item });
    assert_eq!(taken(Item::Vcek, list), form(Item::Vcek));
    assert_eq!(taken(Item::AmdList, &vcek), form(Item::AmdList));
    assert_eq!(
        taken(Item::Intermediate, b"<html>"),
        form(Item::Intermediate)
    );
    assert_eq!(
        taken(Item::Intermediate, chain.repeat(3).as_bytes()),
        form(Item::Intermediate)
    );
    for item in [
        Item::Vcek,
        Item::Intermediate,
        Item::AmdList,
        Item::TcbInfo,
        Item::EnclaveIdentity,
        Item::PckList,
        Item::IntelList,
    ] {
        let found = item.max_bytes() + 1;
        let large = taken(item, &vec![0; found]);
        assert_eq!(large, Err(AnswerError::TooLarge { item, found }));
    }
}

#[test]
fn documents_come_with_who_signed_them_byte_for_byte() {
    let domain = Domain::new();
    let given = domain.evidence().collateral;
    let (info, identity, signer) = answered(&domain);
    let item = Item::TcbInfo;
    let (answer, until) = supply::read(item, info.as_bytes(), Some(&signer)).unwrap();
    let Answer::Document(found) = answer else {
        unreachable!("a document was asked for")
    };
    assert_eq!(found.bytes, given.tcb_info);
    assert_eq!(found.signature, given.tcb_info_signature);
    assert_eq!(found.signer, given.signer);
    assert!(until.is_some_and(|until| until > UnixTime::from_secs(0)));
    for header in [None, Some(""), Some("%"), Some("%zz"), Some("x")] {
        let without = supply::read(item, info.as_bytes(), header);
        assert_eq!(without, Err(AnswerError::Signer { item }), "{header:?}");
    }
    let form = Err(AnswerError::Form { item });
    for wrong in [
        identity.clone(),
        info.replace("\"version\":3", "\"version\":4"),
        info.replace("\"signature\":\"", "\"signature\":\"00"),
        info.replace("{\"tcbInfo\":", "{ \"tcbInfo\":"),
        format!("{info}{info}"),
        "{}".to_owned(),
    ] {
        let refused = supply::read(item, wrong.as_bytes(), Some(&signer));
        assert_eq!(refused, form, "{wrong}");
    }
    assert!(supply::read(Item::EnclaveIdentity, identity.as_bytes(), Some(&signer)).is_ok());
}

#[test]
fn files_that_are_nothing_are_named_so() {
    let mut files = Files::default();
    let found = MAX_FILE_BYTES + 1;
    assert_eq!(
        files.add(&vec![b' '; found]),
        Err(FileError::TooLarge { found })
    );
    for nothing in [
        &b""[..],
        b"hello",
        b"{}",
        b"0102",
        b"-----BEGIN X-----\nAA==\n-----END X-----\n",
    ] {
        assert_eq!(files.add(nothing), Err(FileError::Unknown), "{nothing:?}");
    }
    let mut machine = Machine::new();
    let outcome = (1..=70u8).map(|serial| {
        machine.leaf.serial = vec![serial];
        files.add(&machine.evidence().certificates[0])
    });
    assert_eq!(outcome.last(), Some(Err(FileError::TooMany)));
    for nothing in [&b""[..], &[2; 1184], b"HCLA", &[0; 4000]] {
        assert_eq!(files::report(nothing), Err(FileError::Report));
        assert_eq!(files::quote(nothing), Err(FileError::Quote));
    }
}

/// A version that is not known is refused as what it is, not as a file that is nothing.
#[test]
fn reports_and_quotes_of_unknown_versions_are_refused_by_their_version() {
    let (machine, domain) = (Machine::new(), Domain::new());
    let mut shown = machine.evidence();
    for found in [1, 6] {
        shown.report[0] = found;
        let (report, _) = files::report(&shown.report).unwrap();
        shown.report = report;
        let error = snp::verify(&shown, &[0; 64], &machine.policy(), NOW).unwrap_err();
        let found = found.into();
        assert_eq!(error, SnpError::Report(ReportError::Version { found }));
    }
    let mut shown = domain.evidence();
    for (place, value) in [(0, 3), (0, 6), (2, 3), (4, 0)] {
        let mut quote = domain.quote();
        quote[place] = value;
        shown.quote = files::quote(&quote).unwrap();
        let error = tdx::verify(&shown, &[0; 64], &domain.policy(), NOW).unwrap_err();
        let expected = match (place, u16::from(value)) {
            (0, found) => QuoteError::Version { found },
            (2, found) => QuoteError::KeyType { found },
            _ => QuoteError::Tee { found: 0 },
        };
        assert_eq!(error, TdxError::Quote(expected));
    }
}

/// What a machine did not show is added; what it did show stays.
#[test]
fn own_files_supplement_what_a_machine_shows() {
    let machine = Machine::new();
    let mut files = Files::default();
    let whole = machine.evidence();
    let all = [&whole.certificates[..], &whole.revocation_lists].concat();
    all.iter().for_each(|der| files.add(der).unwrap());
    let mut bare = whole.clone();
    bare.certificates.clear();
    bare.revocation_lists.clear();
    let mut platform = attest::Platform::Snp(bare);
    files.supplement(&mut platform, NOW);
    assert_eq!(platform, attest::Platform::Snp(whole.clone()));
    let mut other = whole;
    other.certificates[0] = vec![1];
    let mut platform = attest::Platform::Snp(other.clone());
    files.supplement(&mut platform, NOW);
    assert_eq!(platform, attest::Platform::Snp(other));

    let domain = Domain::new();
    let (info, identity, _) = answered(&domain);
    let whole = domain.evidence();
    files.add(info.as_bytes()).unwrap();
    files.add(identity.as_bytes()).unwrap();
    files.add(&whole.collateral.signer).unwrap();
    let mut bare = whole.clone();
    bare.collateral = tdx::Collateral::default();
    let data = ReportData::compute(&World::new().nonce_binding([0; 32]));
    let none = tdx::verify(&bare, data.as_bytes(), &domain.policy(), NOW).unwrap_err();
    assert_eq!(none, TdxError::NoCollateral);
    assert_eq!(Refusal::from(none).class(), Class::Collateral);
    let none = SnpError::Certificates { found: 0 };
    assert_eq!(Refusal::from(none).class(), Class::Collateral);
    let mut platform = attest::Platform::Tdx(bare);
    files.supplement(&mut platform, NOW);
    let attest::Platform::Tdx(found) = platform else {
        unreachable!("the platform stays")
    };
    assert_eq!(found.collateral.tcb_info, whole.collateral.tcb_info);
    assert_eq!(found.collateral.signer, whole.collateral.signer);
}

fn seeds() -> Vec<Vec<u8>> {
    let evidence = Machine::new().evidence();
    let domain = Domain::new();
    let (info, identity, signer) = answered(&domain);
    let mut seeds = [evidence.certificates, evidence.revocation_lists].concat();
    let list = pem("X509 CRL", &seeds[2]).into_bytes();
    seeds.extend([info, identity, signer].map(String::into_bytes));
    seeds.extend([evidence.report, domain.quote(), list]);
    seeds
}

#[test]
fn no_change_makes_the_readers_of_files_and_answers_panic() {
    for seed in seeds() {
        mutate(&seed, 300, fuzz::file);
    }
}
