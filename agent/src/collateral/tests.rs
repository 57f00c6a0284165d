//! The stock against real answers of AMD and Intel, and against servers that mean no good.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use attest::policy::{SnpPolicy, TdxPolicy};
use attest::snp::{self, SnpEvidence};
use attest::tdx::{self, TdxEvidence};
use signer::intel::{self, Domain};
use signer::{NOW, amd, read_vector as read, vectors};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const JANUARY_2026: UnixTime = UnixTime::from_secs(1_768_262_400);
const JULY_2025: UnixTime = UnixTime::from_secs(1_751_328_000);

/// A server on loopback: what it says to each target, and how often it was asked.
struct Server {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::hosting(move |mut stream, target| {
            let bytes = answer(&target);
            async move { drop(stream.write_all(&bytes).await) }
        })
        .await
    }

    async fn hosting<F>(host: impl Fn(TcpStream, String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counter.fetch_add(1, SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                let target = head.split(' ').nth(1).unwrap().to_owned();
                tokio::spawn(host(stream, target));
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

fn ok(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn status(line: &str, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {line}\r\ncontent-length: 0\r\n{headers}\r\n").into_bytes()
}

fn request(item: Item) -> Request {
    let url = "https://kdsintf.amd.com/vcek/v1/Milan/crl".to_owned();
    Request { item, url }
}

async fn refused(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> CollateralError {
    let server = Server::start(answer).await;
    let stock = Stock::default();
    let error = refresh(&[request(Item::AmdList)], &stock, server.address).await;
    assert_eq!(stock.amd_list(), None);
    assert_eq!(server.asked(), 1, "asked again at once");
    error.unwrap_err()
}

/// What Intel's service answers, made of a recording in dcap-qvl's form.
fn intel_answers(recorded: &serde_json::Value, target: &str) -> Vec<u8> {
    let text = |name: &str| recorded[name].as_str().unwrap();
    let escaped = |chain: &str| {
        let keep = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        let escape = |c: char| match keep(c) {
            true => c.to_string(),
            false => format!("%{:02X}", u32::from(c)),
        };
        chain.chars().map(escape).collect::<String>()
    };
    let document = |name: &str, value: &str, signature: &str, header: &str, chain: &str| {
        let (value, signature) = (text(value), text(signature));
        let body = format!("{{\"{name}\":{value},\"signature\":\"{signature}\"}}");
        ok(
            &format!("{header}: {}\r\n", escaped(text(chain))),
            body.as_bytes(),
        )
    };
    let intel = "https://api.trustedservices.intel.com";
    let path = target.strip_prefix(intel).unwrap_or(target);
    match path {
        "/tdx/certification/v4/tcb?fmspc=90C06F000000" => document(
            "tcbInfo",
            "tcb_info",
            "tcb_info_signature",
            "TCB-Info-Issuer-Chain",
            "tcb_info_issuer_chain",
        ),
        "/tdx/certification/v4/qe/identity" => document(
            "enclaveIdentity",
            "qe_identity",
            "qe_identity_signature",
            "SGX-Enclave-Identity-Issuer-Chain",
            "qe_identity_issuer_chain",
        ),
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der" => {
            ok("", &hex::decode(text("pck_crl")).unwrap())
        }
        "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der" => {
            ok("", &hex::decode(text("root_ca_crl")).unwrap())
        }
        other => panic!("{other}"),
    }
}

fn relaxed(policy: &str) -> String {
    policy
        .replace("\"refused\"", "\"accepted\"")
        .replace("\"required\"", "\"not-required\"")
}

/// Intel's root, and everything relaxed that can be, but for versions.
fn intel_policy() -> TdxPolicy {
    let strict = intel::policy_toml("intel").replace("'''\nintel'''", "\"intel\"");
    intel::tdx_policy(&relaxed(&strict))
}

/// AMD's root of Milan, and everything relaxed that can be.
fn amd_policy() -> SnpPolicy {
    let strict = amd::policy_toml("milan", "amd").replace("'''\namd'''", "\"amd\"");
    let relaxed = relaxed(&strict)
        .replace("[1, 55, 20]", "[0, 0, 0]")
        .replace("[1, 2]", "[0, 0]")
        .replace("mitigations = 2", "mitigations = 0")
        .replace("minimum_guest_svn = 3", "minimum_guest_svn = 0")
        .replace("boot_loader = 9", "boot_loader = 0")
        .replace("snp = 22", "snp = 0")
        .replace("microcode = 80", "microcode = 0");
    amd::snp_policy(&relaxed)
}

#[tokio::test]
async fn real_answers_of_intel_make_a_real_quote_verifiable() {
    if vectors().is_none() {
        return;
    }
    let json = |path| serde_json::from_slice::<serde_json::Value>(&read(path)).unwrap();
    let quote = json("dstack/quote-report.json");
    let quote = hex::decode(quote["quote"].as_str().unwrap()).unwrap();
    let recorded = json("intel-collateral/col_90c06f000000_platform.json");
    let server = Server::start(move |target| intel_answers(&recorded, target)).await;
    let stock = Stock::at(|| JANUARY_2026);
    let requests = supply::for_quote(&quote).unwrap();
    let fetched = refresh(&requests, &stock, server.address).await.unwrap();
    assert_eq!((fetched, server.asked()), (4, 4));
    // Nothing is asked for before it is due.
    let fetched = refresh(&requests, &stock, server.address).await.unwrap();
    assert_eq!((fetched, server.asked()), (0, 4));
    assert!(stock.rest() >= KEPT[0] && stock.rest() <= KEPT[1]);
    let evidence = TdxEvidence {
        collateral: stock.intel(),
        quote,
        event_log: Vec::new(),
    };
    let data = tdx::Quote::parse(&evidence.quote).unwrap().report_data;
    tdx::verify(&evidence, &data, &intel_policy(), JANUARY_2026).unwrap();
}

#[tokio::test]
async fn real_answers_of_amd_make_a_real_report_verifiable() {
    if vectors().is_none() {
        return;
    }
    let report = read("dstack/sev_snp_report_1184.bin");
    let der = |path| pem_to_der(&read(path));
    let vcek = der("dstack/sev_snp_vcek.pem");
    let list = der("openpcc/sev_certificates__test_amd_milan_crl.pem");
    let requests = supply::for_report(&report).unwrap();
    let chip = hex::encode(&report[0x1a0..0x1e0]);
    let asked = format!("https://kdsintf.amd.com/vcek/v1/Milan/{chip}?blSPL=");
    assert!(requests[0].url.starts_with(&asked), "{}", requests[0].url);
    let server = Server::start(move |target| {
        let path = target.strip_prefix("https://kdsintf.amd.com/vcek/v1/Milan/");
        match path.unwrap() {
            "cert_chain" => ok("", &read("amd-roots/ask_ark_milan.pem")),
            "crl" => ok("", &list),
            _ => ok("", &vcek),
        }
    })
    .await;
    let stock = Stock::at(|| JULY_2025);
    let fetched = refresh(&requests, &stock, server.address).await.unwrap();
    assert_eq!(fetched, 3);
    let data = report[0x50..0x90].try_into().unwrap();
    // The recorded list was over before this key was certified.
    let evidence = SnpEvidence {
        report,
        certificates: stock.amd_certificates(),
        revocation_lists: Vec::new(),
    };
    snp::verify(&evidence, &data, &amd_policy(), NOW).unwrap();
    assert!(stock.amd_list().is_some());
    // A list that is over is not kept, and the rest stays.
    let late = Stock {
        now: || NOW,
        ..stock.clone()
    };
    assert_eq!(late.amd_list(), None);
    assert_eq!(late.amd_certificates().len(), 2);
    let stale = refresh(&requests[2..], &late, server.address).await;
    let stale = stale.unwrap_err();
    assert!(
        matches!(
            stale,
            CollateralError::Stale {
                item: Item::AmdList,
                ..
            }
        ),
        "{stale}"
    );
}

fn pem_to_der(pem: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(pem).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let text: String = lines.collect();
    unbase64(&text)
}

fn unbase64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let digits: Vec<u32> = text
        .bytes()
        .filter(|c| *c != b'=')
        .map(|c| digit(c).into())
        .collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit);
        let bits = bits << (6 * (4 - group.len()));
        bytes.extend(&bits.to_be_bytes()[1..group.len()]);
    }
    bytes
}

#[tokio::test]
async fn who_wants_to_be_left_alone_is() {
    for (headers, wish) in [
        ("", None),
        ("retry-after: 7\r\n", Some(7)),
        ("retry-after: 99999999\r\n", Some(99_999_999)),
        ("retry-after: Wed, 21 Oct 2026 07:28:00 GMT\r\n", Some(3600)),
        ("retry-after: -1\r\n", Some(3600)),
    ] {
        let error = refused(move |_| status("429 Too Many Requests", headers)).await;
        assert_eq!(error.retry_after(), wish.map(Duration::from_secs));
        let CollateralError::Fetch { source, item } = error else {
            panic!("{error}")
        };
        assert_eq!(item, Item::AmdList);
        let FetchError::Status { status, .. } = source else {
            panic!("{source}")
        };
        assert_eq!(status.as_u16(), 429);
    }
    // One thing was refused: the next is not even asked for, and what there is stays.
    let server = Server::start(|target| match target.ends_with("one") {
        true => ok("", b"no certificate list"),
        false => status("503 Busy", ""),
    })
    .await;
    let requests = ["a", "b", "c"].map(|path| Request {
        item: Item::AmdList,
        url: format!("https://kdsintf.amd.com/{path}"),
    });
    let error = refresh(&requests, &Stock::default(), server.address).await;
    assert!(matches!(error, Err(CollateralError::Fetch { .. })));
    assert_eq!(server.asked(), 1);
}

/// A proxy sends nobody elsewhere.
#[tokio::test]
async fn redirections_and_other_answers_are_not_followed() {
    for line in [
        "301 Moved",
        "204 Nothing",
        "206 Partial",
        "404 Not Found",
        "500 No",
    ] {
        let error = refused(move |_| status(line, "location: http://127.0.0.1:1/\r\n")).await;
        let CollateralError::Fetch { source, .. } = error else {
            panic!("{error}")
        };
        assert!(matches!(source, FetchError::Status { .. }), "{source}");
    }
}

#[tokio::test]
async fn answers_without_end_or_form_are_refused() {
    let fetch = |error| match error {
        CollateralError::Fetch { source, .. } => source,
        other => panic!("{other}"),
    };
    let limit = Item::AmdList.max_bytes();
    // More than allowed, with and without saying so.
    let large = fetch(refused(move |_| ok("", &vec![0; limit + 1])).await);
    assert!(matches!(large, FetchError::TooLarge(found) if found == limit));
    let endless = fetch(
        refused(|_| {
            let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            bytes.resize(1 << 20, 0);
            bytes
        })
        .await,
    );
    assert!(matches!(endless, FetchError::TooLarge(_)), "{endless}");
    let short = fetch(refused(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec()).await);
    assert!(matches!(short, FetchError::Body), "{short}");
    let none = fetch(refused(|_| b"SSH-2.0-nobody\r\n".to_vec()).await);
    assert!(matches!(none, FetchError::Http(_)), "{none}");
    let head = fetch(
        refused(|_| {
            let mut bytes = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
            bytes.resize(100_000, b'y');
            bytes
        })
        .await,
    );
    assert!(matches!(head, FetchError::Http(_)), "{head}");
    let headers = fetch(refused(|_| ok(&"x: y\r\n".repeat(65), b"")).await);
    assert!(matches!(headers, FetchError::Http(_)), "{headers}");
    // Whole, and something else.
    for body in [&b""[..], b"<html>", &[0x30, 0x80]] {
        let error = refused(move |_| ok("", body)).await;
        let item = Item::AmdList;
        assert!(
            matches!(error, CollateralError::Answer(AnswerError::Form { item: of })
                if of == item),
            "{error}"
        );
    }
}

#[tokio::test]
async fn who_answers_slowly_or_not_at_all_is_left() {
    let server = Server::hosting(|mut stream, target| async move {
        if target.ends_with("drip") {
            while stream.write_all(b"H").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        std::future::pending().await
    })
    .await;
    for path in ["silent", "drip"] {
        let item = Item::PckList;
        let url = format!("https://api.trustedservices.intel.com/{path}");
        let request = Request { item, url };
        let error = refresh(&[request], &Stock::default(), server.address).await;
        let Err(CollateralError::Fetch { source, .. }) = error else {
            panic!("{path}")
        };
        // One that drips may be found out before by what it drips.
        let is_slow = matches!(source, FetchError::Slow);
        assert!(is_slow || path == "drip", "{source}");
    }
    let nowhere = "127.0.0.1:1".parse().unwrap();
    let error = refresh(&[request(Item::AmdList)], &Stock::default(), nowhere).await;
    assert!(matches!(
        error,
        Err(CollateralError::Fetch {
            source: FetchError::Connect(_),
            ..
        })
    ));
}

/// Evidence that nothing follows from leads to no request.
#[test]
fn reports_that_say_too_little_ask_for_nothing() {
    let mut machine = amd::Machine::new();
    machine.set(0x1a0, &[0; 64]);
    let masked = supply::for_report(&machine.signed_report());
    assert_eq!(masked, Err(RequestError::MaskedChip));
    let unknown = supply::for_report(&[0; 1184]);
    assert!(matches!(unknown, Err(RequestError::Report(_))));
    let none = supply::for_quote(&[0; 1000]);
    assert!(matches!(none, Err(RequestError::Quote(_))));
    let quote = Domain::new().quote();
    let urls: Vec<_> = supply::for_quote(&quote).unwrap();
    assert!(urls[0].url.contains("/tdx/certification/v4/tcb?fmspc="));
}
