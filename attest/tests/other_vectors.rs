//! What else others have published: each file is read by a test, or stands in a list with the
//! reason. Wrappers of evidence, roots, and lists that fit no evidence at hand have their verdicts
//! here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may panic"
)]

use std::fs;
use std::path::{Path, PathBuf};

use attest::azure::{HclError, HclReport};
use attest::certificate::{ChainFault, Position, TrustAnchor};
use attest::gpu::{DeviceCounts, GpuError, GpuEvidence, ManifestError};
use attest::snp::{SnpError, SnpEvidence};
use attest::tdx::{Authority, Collateral, Document, DocumentFault, Quote, TdxError, TdxEvidence};
use attest::tpm::google;
use attest::tpm::vtpm::{VtpmError, VtpmQuote};
use attest::{Class, Digest, Refusal, UnixTime};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use signer::azure::tpmt;
use signer::{NOW, amd, authority, intel, nvidia};
use signer::{read_vector as read, vectors};
use x509_cert::Certificate;
use x509_cert::der::Encode as _;

const JULY_2023: UnixTime = UnixTime::from_secs(1_688_169_600);
const JANUARY_2025: UnixTime = UnixTime::from_secs(1_736_000_000);
const JULY_2025: UnixTime = UnixTime::from_secs(1_751_328_000);
const JANUARY_2026: UnixTime = UnixTime::from_secs(1_768_262_400);
const OCTOBER_2026: UnixTime = UnixTime::from_secs(1_792_000_000);
const YEAR_2100: UnixTime = UnixTime::from_secs(4_102_444_800);

/// Files that no test reads by their name, each with its reason.
const OTHERS: &[(&str, &str)] = &[
    ("README.md", "says what the files are"),
    (
        "dstack/nitro_attestation",
        "another platform, which has no verifier here",
    ),
    ("nvtrust/", "all manifests are read by their ending"),
    (
        "trustee/nvidia/hopper_cert_chain_case",
        "read by their number",
    ),
    (
        "trustee/nvidia/hopperAttestationReport-claims.txt",
        "another verifier's words, not evidence",
    ),
    (
        "tpm-uki/",
        "logs and registers are read by the name of their boot",
    ),
    (
        "trustee/tpm_evidence.json",
        "a quote of a bare key, for which nothing vouches: nothing here takes one",
    ),
    ("azure-cvm-tooling/akpub.pem", "the same, without the quote"),
    ("openpcc/tcg_eventlog__test_eventlog_akpub.pem", "the same"),
    (
        "go-tdx-guest/ccel/ccel_table.dat",
        "an ACPI table that only says where the log lies",
    ),
    ("go-eventlog/ccel/cos-113-intel-tdx.table.bin", "the same"),
    ("go-eventlog/ccel/CCEL.bin", "the same"),
    (
        "go-tdx-guest/ccel/nonce.dat",
        "stands in the quote beside it",
    ),
    (
        "go-tdx-guest/report.dat",
        "a report for this machine only: nobody signed it",
    ),
];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if !["target", "build", ".git"]
                .iter()
                .any(|name| path.ends_with(name))
            {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

#[test]
fn each_file_is_read_by_a_test_or_listed_with_a_reason() {
    let Some(folder) = vectors() else { return };
    let mut sources = Vec::new();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for room in ["agent", "attest", "client", "release", "tests"] {
        files(&repository.join(room), &mut sources);
    }
    sources.retain(|path| path.extension().is_some_and(|end| end == "rs"));
    let text: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let mut given = Vec::new();
    files(&folder, &mut given);
    assert!(given.len() > 100);
    let missing: Vec<_> = given
        .iter()
        .map(|path| path.strip_prefix(&folder).unwrap().to_str().unwrap())
        .filter(|path| !OTHERS.iter().any(|(start, _)| path.starts_with(start)))
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap();
            let stem = name.trim_end_matches(".pem");
            !text.contains(name) && !text.contains(&format!("\"{stem}\""))
        })
        .collect();
    assert!(missing.is_empty(), "no test reads {missing:?}");
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&read(path)).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// What stands between the lines of PEM, however long they are; bare DER as it is.
fn blocks(path: &str) -> Vec<Vec<u8>> {
    let bytes = read(path);
    if !bytes.starts_with(b"-----") {
        return vec![bytes];
    }
    let text = String::from_utf8(bytes).unwrap();
    text.split("-----BEGIN ")
        .skip(1)
        .map(|block| {
            let body = block.split("-----").nth(1).unwrap();
            let body: String = body.split_whitespace().collect();
            STANDARD.decode(body).unwrap()
        })
        .collect()
}

/// Everything relaxed that can be, and the vendor's own root.
fn relaxed(strict: &str, vendor: &str) -> String {
    strict
        .replace(&format!("'''\n{vendor}'''"), &format!("\"{vendor}\""))
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"")
}

fn snp(evidence: &SnpEvidence, product: &str, now: UnixTime) -> Result<String, SnpError> {
    let policy = relaxed(&amd::policy_toml(product, "amd"), "amd")
        .replace("[\"vcek\"]", "[\"vcek\", \"vlek\"]")
        .replace("[1, 55, 20]", "[0, 0, 0]")
        .replace("[1, 2]", "[0, 0]")
        .replace("mitigations = 2", "mitigations = 0")
        .replace("minimum_guest_svn = 3", "minimum_guest_svn = 0")
        .replace("boot_loader = 9", "boot_loader = 0")
        .replace("snp = 22", "snp = 0")
        .replace("microcode = 80", "microcode = 0");
    let data = evidence.report[0x50..0x90].try_into().unwrap();
    let verified = attest::snp::verify(evidence, &data, &amd::snp_policy(&policy), now)?;
    Ok(verified.root().to_owned())
}

fn tdx(quote: &[u8], collateral: Collateral, now: UnixTime) -> Result<(), TdxError> {
    let policy = intel::tdx_policy(&relaxed(&intel::policy_toml("intel"), "intel"));
    let data = Quote::parse(quote).map_or([0; 64], |quote| quote.report_data);
    let evidence = TdxEvidence {
        quote: quote.to_vec(),
        event_log: Vec::new(),
        collateral,
    };
    attest::tdx::verify(&evidence, &data, &policy, now).map(drop)
}

fn collateral(path: &str) -> Collateral {
    let json = json(path);
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    let chain = Certificate::load_pem_chain(text("tcb_info_issuer_chain").as_bytes()).unwrap();
    Collateral {
        tcb_info: text("tcb_info").into_bytes(),
        tcb_info_signature: unhex(&json["tcb_info_signature"]),
        enclave_identity: text("qe_identity").into_bytes(),
        enclave_identity_signature: unhex(&json["qe_identity_signature"]),
        signer: chain[0].to_der().unwrap(),
        revocation_lists: vec![unhex(&json["root_ca_crl"]), unhex(&json["pck_crl"])],
    }
}

/// Another project's envelopes: what lies in them has the verdict that it has alone.
#[test]
fn evidence_in_envelopes_of_others_has_its_verdict() {
    if vectors().is_none() {
        return;
    }
    let bare = read("dstack/sev_snp_report_1184.bin");
    for envelope in [
        read("dstack/sev_snp_attestation.bin"),
        unhex(&json("dstack/sev-snp-attestation.json")["attestation"]),
    ] {
        let evidence = SnpEvidence {
            report: envelope[4..4 + 1184].to_vec(),
            certificates: vec![
                blocks("dstack/sev_snp_vcek.pem").remove(0),
                blocks("dstack/sev_snp_ask.pem").remove(0),
            ],
            revocation_lists: Vec::new(),
        };
        assert!(evidence.report == bare);
        let root = snp(&evidence, "milan", NOW).unwrap();
        assert!(root.contains("CN=ARK-Milan"), "{root}");
        let late = snp(&evidence, "milan", YEAR_2100).unwrap_err();
        assert_eq!(Refusal::from(late).class(), Class::Collateral);
        let other = snp(&evidence, "genoa", NOW).unwrap_err();
        assert!(matches!(other, SnpError::Chain(_)), "{other}");
    }
    let envelope = unhex(&json("dstack/tdx-lite-attestation.json")["attestation"]);
    let bytes = envelope[4 + 632..4 + 636].try_into().unwrap();
    let length = 636 + u32::from_le_bytes(bytes) as usize;
    let quote = &envelope[4..4 + length];
    let alone = unhex(&json("dstack/tdx-lite-getquote.json")["quote"]);
    let from = |path: &str, now| {
        let verdict = |quote: &[u8]| tdx(quote, collateral(path), now);
        assert_eq!(verdict(quote), verdict(&alone));
        verdict(quote)
    };
    assert_eq!(Quote::parse(quote).unwrap().version, 4);
    // Its platform was certified after what Intel said in January.
    let early = from(
        "intel-collateral/col_90c06f000000_platform.json",
        JANUARY_2026,
    );
    let TdxError::Chain(error) = early.unwrap_err() else {
        panic!("another verdict")
    };
    assert!(matches!(error.fault, ChainFault::NotYetValid { .. }));
    let then = from("dcap-qvl/tdx_quote_td15ex_collateral.json", OCTOBER_2026);
    let other = matches!(then, Err(TdxError::OtherPlatform { field: "FMSPC", .. }));
    assert!(other, "{then:?}");
}

/// Text forms of files that other tests read in binary.
#[test]
fn text_forms_hold_the_same_bytes() {
    if vectors().is_none() {
        return;
    }
    for stem in [
        "gce_sevsnp_report__test_gce_sevsnp_report",
        "azure_tdx_report__test_azure_tdx_quote",
        "gce_tdx_report__test_gce_tdx_report",
        "tcg_eventlog__test_tcg_event_log",
        "azure_tdx_report__test_azure_tdx_report",
        "azure_sevsnp_report__test_azure_sevsnp_report",
    ] {
        let bytes = blocks(&format!("openpcc/{stem}.pem")).remove(0);
        assert!(bytes == read(&format!("openpcc/{stem}.bin")), "{stem}");
    }
}

/// Every collection of AMD's certificates leads to the root that is built in, and none to another.
#[test]
fn collections_of_amds_certificates_lead_to_the_built_in_roots() {
    if vectors().is_none() {
        return;
    }
    let pinned = |product: &str| {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/snp/roots");
        fs::read(folder.join(format!("amd-ark-{product}.der"))).unwrap()
    };
    for (path, product) in [
        ("amd-roots/milan_ask_ark_asvk.pem", "milan"),
        ("amd-roots/genoa_ask_ark_asvk.pem", "genoa"),
        ("amd-roots/turin_ask_ark_asvk.pem", "turin"),
        ("amd-roots/ask_ark_turin_vcek.pem", "turin"),
        ("amd-roots/ask_ark_turin_vlek.pem", "turin"),
        ("amd-roots/ask_ark_genoa_vlek.pem", "genoa"),
        (
            "openpcc/sev_certificates__test_amd_sev_milan_root_certs.pem",
            "milan",
        ),
        (
            "openpcc/sev_certificates__test_amd_sev_genoa_root_certs.pem",
            "genoa",
        ),
        ("go-sev-guest/milanvlek.testcer", "milan"),
        ("azure-cvm-tooling/certs.pem", "milan"),
    ] {
        let chain = blocks(path);
        for other in ["milan", "genoa", "turin"] {
            assert_eq!(chain.contains(&pinned(other)), other == product, "{path}");
        }
    }
    // With them a real machine verifies as with the others.
    let hcl = read("openpcc/azure_sevsnp_report__test_azure_sevsnp_report.bin");
    let genoa = SnpEvidence {
        report: hcl[32..1216].to_vec(),
        certificates: vec![
            blocks("openpcc/sev_certificates__test_vcek.pem").remove(0),
            blocks("openpcc/sev_certificates__test_amd_sev_genoa_root_certs.pem").remove(0),
        ],
        revocation_lists: Vec::new(),
    };
    assert!(snp(&genoa, "genoa", JULY_2025).is_ok());
    let late = snp(&genoa, "genoa", YEAR_2100).unwrap_err();
    assert_eq!(Refusal::from(late).class(), Class::Collateral);
    // A key in a file of its own is the one that the evidence beside it holds.
    let evidence = json("trustee/az-snp-vtpm/evidence-genoa.json");
    let inside = Certificate::load_pem_chain(evidence["vcek"].as_str().unwrap().as_bytes());
    let inside = inside.unwrap()[0].to_der().unwrap();
    assert!(blocks("trustee/az-snp-vtpm/vcek-genoa.pem")[0] == inside);
}

/// A report of one VM, the key of another chip, and runtime data of a third VM.
#[test]
fn files_of_several_vms_do_not_make_one() {
    if vectors().is_none() {
        return;
    }
    let hcl = read("azure-cvm-tooling/hcl-report-snp.bin");
    let mixed = SnpEvidence {
        report: hcl[32..1216].to_vec(),
        certificates: blocks("azure-cvm-tooling/certs.pem")[..2].to_vec(),
        revocation_lists: Vec::new(),
    };
    let error = snp(&mixed, "milan", JULY_2025).unwrap_err();
    assert!(matches!(error, SnpError::Chip { .. }), "{error}");
    let late = snp(&mixed, "milan", YEAR_2100).unwrap_err();
    assert_eq!(Refusal::from(late).class(), Class::Collateral);
    let data = Digest::sha256(&read("azure-cvm-tooling/var-data.bin"));
    assert_ne!(mixed.report[0x50..0x70], data.0);
    assert_eq!(
        HclReport::parse(&hcl).map(drop),
        Err(HclError::AttestationKey)
    );
}

/// A quote of a virtual TPM in a file of its own, by the key that the report beside it names.
#[test]
fn quotes_of_virtual_tpms_in_files_of_their_own_have_their_verdict() {
    if vectors().is_none() {
        return;
    }
    let by = |quote: &VtpmQuote, folder: &str, nonce: &[u8]| {
        let hcl = read(&format!("trustee/{folder}/hcl-report.bin"));
        let covered = quote.verify(&HclReport::parse(&hcl).unwrap().key, nonce);
        covered.map(|registers| registers.len())
    };
    for (folder, other) in [
        ("az-snp-vtpm", "az-tdx-vtpm"),
        ("az-tdx-vtpm", "az-snp-vtpm"),
    ] {
        let file = json(&format!("trustee/{folder}/tpm-quote-v1.json"));
        let attest = unhex(&file["message"]);
        let mut registers = [Digest([0; 32]); 24];
        for (register, value) in registers.iter_mut().zip(file["pcrs"].as_array().unwrap()) {
            register.0 = unhex(value).try_into().unwrap();
        }
        let mut quote = VtpmQuote {
            signature: tpmt(&unhex(&file["signature"])),
            attest,
            registers,
        };
        let (expected, found) = (
            attest::Hex((*b"x").into()),
            attest::Hex((*b"challenge").into()),
        );
        assert_eq!(by(&quote, folder, b"challenge"), Ok(24), "{folder}");
        assert_eq!(
            by(&quote, folder, b"x"),
            Err(VtpmError::Nonce { expected, found })
        );
        assert_eq!(by(&quote, other, b"challenge"), Err(VtpmError::Signature));
        quote.registers[7] = Digest([7; 32]);
        assert!(matches!(
            by(&quote, folder, b"challenge"),
            Err(VtpmError::Registers { .. })
        ));
    }
    // Message and signature in two files are those of another VM.
    let quote = VtpmQuote {
        signature: tpmt(&read("trustee/az-snp-vtpm/tpm-quote.sig")),
        attest: read("trustee/az-snp-vtpm/tpm-quote.msg"),
        registers: [Digest([0; 32]); 24],
    };
    for folder in ["az-snp-vtpm", "az-tdx-vtpm"] {
        assert_eq!(by(&quote, folder, b"challenge"), Err(VtpmError::Signature));
    }
}

/// Intel's documents for SGX say nothing of TDX, and those of 2023 are not believed with the
/// signer's certificate of 2025: that of their time is not at hand.
#[test]
fn documents_that_fit_nothing_at_hand_are_refused() {
    if vectors().is_none() {
        return;
    }
    let quote = read("dcap-qvl/tdx_quote");
    let sgx = || collateral("dcap-qvl/sgx_quote_collateral.json");
    let error = tdx(&quote, sgx(), JULY_2025).unwrap_err();
    assert_eq!(error, TdxError::StrayRevocationList);
    let mut own_lists = sgx();
    own_lists.revocation_lists = collateral("dcap-qvl/tdx_quote_collateral.json").revocation_lists;
    let error = tdx(&quote, own_lists, JULY_2025).unwrap_err();
    // They have other fields.
    let TdxError::Document { document, fault } = error else {
        panic!("{error}")
    };
    assert_eq!(document, Document::TcbInfo);
    assert!(matches!(fault, DocumentFault::Json { .. }), "{fault}");
    let late = tdx(&quote, sgx(), YEAR_2100).unwrap_err();
    assert_eq!(Refusal::from(late).class(), Class::Collateral);

    // Behind the quote stands a line of text.
    let mut early = read("go-tdx-guest/tdx_prod_quote_SPR_E4.dat");
    early.truncate(4935);
    assert_eq!(Quote::parse(&early).unwrap().version, 4);
    let response = |path: &str, name: &str| {
        let text = String::from_utf8(read(path)).unwrap();
        let start = text.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
        let end = text.rfind(",\"signature\"").unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        (
            text.as_bytes()[start..end].to_vec(),
            unhex(&json["signature"]),
        )
    };
    let of_then = || {
        let mut of_then = collateral("dcap-qvl/tdx_quote_collateral.json");
        (of_then.tcb_info, of_then.tcb_info_signature) =
            response("go-tdx-guest/sample_tcbInfo_response", "tcbInfo");
        (of_then.enclave_identity, of_then.enclave_identity_signature) =
            response("go-tdx-guest/sample_qeIdentity_response", "enclaveIdentity");
        of_then.revocation_lists = vec![
            read("go-tdx-guest/rootcrl.der"),
            read("go-tdx-guest/pckcrl"),
        ];
        of_then
    };
    let error = tdx(&early, of_then(), JULY_2023).unwrap_err();
    let TdxError::Signer(signer) = error else {
        panic!("{error}")
    };
    assert!(matches!(signer.fault, ChainFault::NotYetValid { .. }));
    let error = tdx(&early, of_then(), JULY_2025).unwrap_err();
    let authority = Authority::Root;
    assert!(
        matches!(&error, TdxError::RevocationList { authority: a, .. } if *a == authority),
        "{error}"
    );
}

/// Roots of manifests as files: NVIDIA's own is the built-in one, another believes nothing.
#[test]
fn manifests_hold_below_nvidias_own_root_alone() {
    if vectors().is_none() {
        return;
    }
    let manifest = read("nvtrust/1010_0200_882_960074001A_PROD.swidtag");
    let verdict = |root: &str, now| {
        let roots = format!("device_roots = [\"nvidia\"]\nmanifest_roots = ['''\n{root}''']\n");
        let fields = nvidia::FIELDS
            .replace("\"required\"", "\"not-required\"")
            .replace("\"ocsp\"", "\"not-required\"");
        let policy = nvidia::gpu_policy(&format!("[gpu]\n{roots}{fields}"));
        let evidence = GpuEvidence {
            manifests: vec![manifest.clone()],
            ..GpuEvidence::default()
        };
        let counts = DeviceCounts {
            gpus: 0,
            switches: 0,
        };
        attest::gpu::verify(&evidence, &[0; 32], counts, &policy, now).unwrap_err()
    };
    let chain = |error: GpuError| match error {
        GpuError::Manifest { fault, .. } => match *fault {
            ManifestError::Chain(error) => error.fault,
            other => panic!("{other}"),
        },
        other => panic!("{other}"),
    };
    for own in [
        "nvidia-attestation-sdk/rim_root.crt",
        "nvtrust/verifier_RIM_root.pem",
    ] {
        let root = String::from_utf8(read(own)).unwrap();
        // Sound, and no device is there that it speaks of.
        assert_eq!(
            verdict(&root, JANUARY_2025),
            GpuError::StrayManifest { manifest: 1 }
        );
        assert!(chain(verdict(&root, YEAR_2100)).is_date());
    }
    let other = String::from_utf8(read("nvidia-attestation-sdk/incorrect_rim_root.crt")).unwrap();
    let fault = chain(verdict(&other, JANUARY_2025));
    assert!(matches!(fault, ChainFault::UnknownRoot { .. }), "{fault}");
    assert!(chain(verdict(&other, YEAR_2100)).is_date());
}

/// Certificates of virtual TPMs that are no instance of Google's, of endorsement keys, and of a
/// GPU's firmware.
#[test]
fn certificates_for_something_else_are_refused() {
    if vectors().is_none() {
        return;
    }
    let roots = [google::root().unwrap()];
    let root = blocks("go-tpm-tools/ca-certs/gcp_ek_ak_ca_root.crt").remove(0);
    let built_in = TrustAnchor::from_pem(&authority::pem(&root)).unwrap();
    assert_eq!(built_in.fingerprint(), roots[0].fingerprint());
    let azure = "openpcc/azure_ak_certificates__test_azure_ak_certificate_03.pem";
    for path in [
        azure,
        "go-tpm-tools/ca-certs/tpm_ek_intermediate_3.crt",
        "trustee/nvidia/hopper_signing_cert.pem",
    ] {
        for now in [JANUARY_2026, YEAR_2100] {
            let verdict = google::verify(&blocks(path), &roots, now).map(drop);
            let error = verdict.unwrap_err();
            assert_eq!(error.position, Position::Leaf, "{path}: {error}");
        }
    }
    // A real key of Google's, below the root of Intel's endorsement keys.
    let chain = [
        blocks("openpcc/gce_ak_certificates__test_gce_ak_cert.pem"),
        blocks("openpcc/gce_ak_certificates__test_gce_ak_intermediate_cert.pem"),
    ]
    .concat();
    let other = blocks("go-tpm-tools/ca-certs/tpm_ek_root_1.cer").remove(0);
    let other = [TrustAnchor::from_pem(&authority::pem(&other)).unwrap()];
    let error = google::verify(&chain, &other, JANUARY_2026)
        .map(drop)
        .unwrap_err();
    assert!(
        matches!(error.fault, ChainFault::UnknownRoot { .. }),
        "{error}"
    );
}
