//! The source of reports against a stand-in for the kernel, in which things go wrong as they do
//! there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use attest::configuration::Proxy;
use attest::snp::SnpError;
use attest::supply::{self, Item, Request, SignedDocument};
use attest::tdx::TdxError;
use attest::{Binding, Evidence, Platform, ReportData, snp, tdx};
use signer::amd::{self, Machine};
use signer::intel::{self, Domain};
use signer::{NOW, World};

use super::*;
use crate::collateral::Stock;
use crate::evidence::{Attester, Constants, EvidenceError};

/// What stands in for the kernel.
#[derive(Clone, Debug, Default)]
struct Kernel(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    provider: &'static str,
    machine: Option<Answer>,
    folders: HashMap<String, Folder>,
    /// Names of all folders there ever were, and how many at once at most.
    names: Vec<String>,
    most_at_once: usize,
    /// What was asked for, with the privilege level.
    asked: Vec<(Vec<u8>, Option<String>)>,
    /// Readings of reports that are still to be refused, as busy.
    busy: u32,
    /// Someone else writes while a report is read.
    meddler: bool,
    /// What fails, and how.
    fault: Option<(Action, Attribute, io::ErrorKind)>,
    replaced: HashMap<Attribute, Vec<u8>>,
    pauses: u32,
}

#[derive(Debug, Default)]
struct Folder {
    generation: u64,
    inblob: Vec<u8>,
    level: Option<String>,
}

/// Report and host's table for what was asked.
type Answer = fn(&[u8]) -> (Vec<u8>, Vec<u8>);

impl Kernel {
    fn new(provider: &'static str, machine: Answer) -> Self {
        let kernel = Self::default();
        kernel.set(|state| (state.provider, state.machine) = (provider, Some(machine)));
        kernel
    }

    fn set<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn snp() -> Self {
        Self::new("sev_guest\n", snp_answer)
    }

    fn tsm(&self, provider: Provider) -> Tsm {
        Tsm::new(Box::new(self.clone()), provider)
    }

    fn ask(&self) -> Result<Report, TsmError> {
        let report = self.tsm(Provider::SevGuest).report(&[7; 64]);
        self.set(|state| assert!(state.folders.is_empty(), "a folder is left"));
        report
    }
}

impl State {
    fn check(&self, action: Action, attribute: Attribute) -> io::Result<()> {
        match self.fault {
            Some((at, of, kind)) if (at, of) == (action, attribute) => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

impl Tree for Kernel {
    fn make(&self, name: &str) -> io::Result<()> {
        self.set(|state| {
            state.check(Action::Make, Attribute::Folder)?;
            let fresh = state.folders.insert(name.to_owned(), Folder::default());
            assert!(fresh.is_none(), "a name is used again");
            state.names.push(name.to_owned());
            state.most_at_once = state.most_at_once.max(state.folders.len());
            Ok(())
        })
    }

    fn write(&self, name: &str, attribute: Attribute, bytes: &[u8]) -> io::Result<()> {
        self.set(|state| {
            state.check(Action::Write, attribute)?;
            let folder = state.folders.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
            folder.generation += 1;
            match attribute {
                Attribute::Inblob => folder.inblob = bytes.to_vec(),
                Attribute::PrivilegeLevel => {
                    folder.level = Some(String::from_utf8_lossy(bytes).into_owned());
                }
                _ => return Err(io::ErrorKind::PermissionDenied.into()),
            }
            Ok(())
        })
    }

    fn read(&self, name: &str, attribute: Attribute, limit: usize) -> io::Result<Vec<u8>> {
        self.set(|state| {
            state.check(Action::Read, attribute)?;
            let folder = state.folders.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
            let answer = state.machine.ok_or(io::ErrorKind::NotFound)?;
            let mut bytes = match attribute {
                Attribute::Provider => state.provider.as_bytes().to_vec(),
                Attribute::Generation => format!("{}\n", folder.generation).into_bytes(),
                Attribute::Outblob if state.busy > 0 => {
                    state.busy -= 1;
                    return Err(io::ErrorKind::ResourceBusy.into());
                }
                Attribute::Outblob => {
                    folder.generation += u64::from(state.meddler);
                    let asked = (folder.inblob.clone(), folder.level.clone());
                    state.asked.push(asked);
                    answer(&folder.inblob).0
                }
                Attribute::Auxblob => answer(&folder.inblob).1,
                _ => return Err(io::ErrorKind::NotFound.into()),
            };
            if let Some(other) = state.replaced.get(&attribute) {
                bytes.clone_from(other);
            }
            bytes.truncate(limit + 1);
            Ok(bytes)
        })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.set(|state| {
            let there = state.folders.remove(name);
            state.check(Action::Remove, Attribute::Folder)?;
            there.map(drop).ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn pause(&self, _: Duration) {
        self.set(|state| state.pauses += 1);
        std::thread::yield_now();
    }
}

fn snp_answer(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut machine = Machine::new();
    machine.set(amd::at::REPORT_DATA, data);
    let evidence = machine.evidence();
    let [vcek, ask] = evidence.certificates.try_into().unwrap();
    let [list] = evidence.revocation_lists.try_into().unwrap();
    (evidence.report, table(&[vcek, ask, list]))
}

fn tdx_answer(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut domain = Domain::new();
    domain.set(intel::at::REPORT_DATA, data);
    let mut quote = domain.quote();
    quote.resize(8000, 0); // as Google's kernels give it
    (quote, Vec::new())
}

/// The host's table of VCEK, ASK and revocation list.
fn table(entries: &[Vec<u8>; 3]) -> Vec<u8> {
    let kinds = [
        "8d75da6364e66445adc5f4b93be8accd",
        "79b3b74aacbbe44fa02f05aef327c782",
        "c31bf89211583d4d97ffd19f88dc67ea",
    ];
    let (mut head, mut body) = (Vec::new(), Vec::new());
    for (kind, entry) in kinds.iter().zip(entries) {
        head.extend(hex::decode(kind).unwrap());
        head.extend((96 + body.len() as u32).to_le_bytes());
        head.extend((entry.len() as u32).to_le_bytes());
        body.extend(entry);
    }
    head.resize(96, 0);
    [head, body].concat()
}

fn binding(nonce: u8) -> Binding {
    World::new().nonce_binding([nonce; 32])
}

#[test]
fn a_report_is_made_in_a_folder_of_its_own_that_is_gone_afterwards() {
    let kernel = Kernel::snp();
    let first = kernel.ask().unwrap();
    let second = kernel.ask().unwrap();
    assert_eq!(first, second);
    assert_eq!(first.outblob.len(), 1184);
    assert!(first.manifestblob.is_empty(), "a file that is not there");
    kernel.set(|state| {
        assert_eq!(state.names.len(), 2);
        assert_ne!(state.names[0], state.names[1]);
        let asked = (vec![7; 64], Some("0".to_owned()));
        assert_eq!(state.asked, [asked.clone(), asked]);
    });
    // TDX has no privilege levels.
    let kernel = Kernel::new("tdx_guest\n", tdx_answer);
    kernel.tsm(Provider::TdxGuest).report(&[7; 64]).unwrap();
    kernel.set(|state| assert_eq!(state.asked, [(vec![7; 64], None)]));
}

#[test]
fn a_busy_platform_is_asked_again_and_then_it_is_an_error() {
    let kernel = Kernel::snp();
    kernel.set(|state| state.busy = 3);
    assert!(kernel.ask().is_ok());
    kernel.set(|state| assert_eq!((state.pauses, state.names.len()), (3, 4)));
    kernel.set(|state| state.busy = u32::MAX);
    let busy = kernel.ask().unwrap_err();
    assert!(matches!(busy, TsmError::Busy), "{busy}");
    let attempts = MAX_ATTEMPTS as usize;
    kernel.set(|state| assert_eq!(state.names.len(), 4 + attempts));
    // The folder itself can be refused as busy, too.
    let kernel = Kernel::snp();
    let fault = (Action::Make, Attribute::Folder, io::ErrorKind::ResourceBusy);
    kernel.set(|state| state.fault = Some(fault));
    let busy = kernel.ask().unwrap_err();
    assert!(matches!(busy, TsmError::Busy), "{busy}");
}

#[test]
fn another_platform_than_the_configuration_names_is_refused() {
    let kernel = Kernel::new("tdx_guest\n", tdx_answer);
    let other = kernel.ask().unwrap_err();
    let expected = Provider::SevGuest;
    assert!(matches!(other, TsmError::Provider { expected: found } if found == expected));
    kernel.set(|state| assert!(state.asked.is_empty()));
}

#[test]
fn a_report_that_someone_else_wrote_to_is_not_used() {
    let kernel = Kernel::snp();
    kernel.set(|state| state.meddler = true);
    let changed = kernel.ask().unwrap_err();
    let (expected, found) = (2, Generation(Some(3)));
    assert!(
        matches!(changed, TsmError::Changed { expected: e, found: f }
            if (e, f) == (expected, found)),
        "{changed}"
    );
    let kernel = Kernel::snp();
    let garbage = b"many".to_vec();
    kernel.set(|state| state.replaced.insert(Attribute::Generation, garbage));
    let changed = kernel.ask().unwrap_err();
    assert!(
        matches!(
            changed,
            TsmError::Changed {
                found: Generation(None),
                ..
            }
        ),
        "{changed}"
    );
}

#[test]
fn whatever_fails_is_named_and_leaves_no_folder() {
    for (action, attribute) in [
        (Action::Make, Attribute::Folder),
        (Action::Read, Attribute::Provider),
        (Action::Write, Attribute::PrivilegeLevel),
        (Action::Write, Attribute::Inblob),
        (Action::Read, Attribute::Generation),
        (Action::Read, Attribute::Outblob),
        (Action::Read, Attribute::Auxblob),
        (Action::Read, Attribute::Manifestblob),
        (Action::Remove, Attribute::Folder),
    ] {
        let kernel = Kernel::snp();
        // What was written in between is WouldBlock to the kernel: never a second attempt.
        let fault = (action, attribute, io::ErrorKind::WouldBlock);
        kernel.set(|state| state.fault = Some(fault));
        match kernel.ask().unwrap_err() {
            TsmError::Access {
                action: at,
                attribute: of,
                ..
            } => assert_eq!((at, of), (action, attribute)),
            other => panic!("{other}"),
        }
        kernel.set(|state| assert!(state.names.len() <= 1));
    }
}

#[test]
fn reports_without_end_or_without_content_are_refused() {
    for (attribute, limit) in [
        (Attribute::Provider, 64),
        (Attribute::Generation, 64),
        (Attribute::Outblob, MAX_OUTBLOB_BYTES),
        (Attribute::Auxblob, MAX_AUXBLOB_BYTES),
    ] {
        let kernel = Kernel::snp();
        kernel.set(|state| state.replaced.insert(attribute, vec![b'0'; limit + 7]));
        let large = kernel.ask().unwrap_err();
        assert!(
            matches!(large, TsmError::TooLarge { attribute: of, limit: at }
                if (of, at) == (attribute, limit)),
            "{large}"
        );
    }
    let kernel = Kernel::snp();
    kernel.set(|state| state.replaced.insert(Attribute::Outblob, Vec::new()));
    let empty = kernel.ask().unwrap_err();
    assert!(matches!(empty, TsmError::Empty), "{empty}");
}

/// The kernel's side is a folder here: what each call does with its files.
#[test]
fn the_kernels_files_are_read_and_written_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let tree = ConfigFs(folder.path().to_owned());
    tree.make("one").unwrap();
    let again = tree.make("one").unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    let missing = tree.read("one", Attribute::Auxblob, 10).unwrap_err();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    // No file is made that the kernel does not have.
    let absent = tree.write("one", Attribute::Inblob, b"x").unwrap_err();
    assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    fs::write(folder.path().join("one/inblob"), b"").unwrap();
    tree.write("one", Attribute::Inblob, b"0123456789").unwrap();
    assert_eq!(tree.read("one", Attribute::Inblob, 4).unwrap(), b"01234");
    assert_eq!(tree.read("one", Attribute::Inblob, 10).unwrap().len(), 10);
    fs::remove_file(folder.path().join("one/inblob")).unwrap();
    tree.remove("one").unwrap();
    assert!(!folder.path().join("one").exists());
}

fn open(kernel: &Kernel, provider: Provider, constants: Constants) -> Attester {
    Attester::open_tsm(kernel.tsm(provider), constants).unwrap()
}

#[tokio::test]
async fn evidence_of_snp_is_made_for_the_binding_and_verifies() {
    let attester = open(&Kernel::snp(), Provider::SevGuest, Constants::default());
    let binding = binding(5);
    let evidence = Evidence::decode(&attester.make(&binding).await.unwrap()).unwrap();
    let Platform::Snp(evidence) = evidence.platform else {
        panic!("another platform")
    };
    let data = ReportData::compute(&binding);
    let policy = Machine::new().policy();
    snp::verify(&evidence, data.as_bytes(), &policy, NOW).unwrap();
}

fn tdx_constants() -> Constants {
    let evidence = Domain::new().evidence();
    let mut event_log = evidence.event_log;
    event_log.resize(65_536, 0xff); // as the firmware's buffer has it
    let stock = Stock::default();
    let put = |item, answer| {
        let url = String::new();
        stock.put(&Request { item, url }, answer, None);
    };
    let given = evidence.collateral;
    let signer = given.signer;
    for (item, bytes, signature) in [
        (Item::TcbInfo, given.tcb_info, given.tcb_info_signature),
        (
            Item::EnclaveIdentity,
            given.enclave_identity,
            given.enclave_identity_signature,
        ),
    ] {
        let signer = signer.clone();
        let document = SignedDocument {
            bytes,
            signature,
            signer,
        };
        put(item, supply::Answer::Document(document));
    }
    let [root, pck] = given.revocation_lists.try_into().unwrap();
    put(Item::IntelList, supply::Answer::List(root));
    put(Item::PckList, supply::Answer::List(pck));
    Constants {
        event_log,
        stock,
        ..Constants::default()
    }
}

#[tokio::test]
async fn evidence_of_tdx_is_made_for_the_binding_and_verifies() {
    let kernel = Kernel::new("tdx_guest\n", tdx_answer);
    let attester = open(&kernel, Provider::TdxGuest, tdx_constants());
    let binding = binding(6);
    let evidence = Evidence::decode(&attester.make(&binding).await.unwrap()).unwrap();
    let Platform::Tdx(evidence) = evidence.platform else {
        panic!("another platform")
    };
    let data = ReportData::compute(&binding);
    let policy = Domain::new().policy();
    tdx::verify(&evidence, data.as_bytes(), &policy, NOW).unwrap();
}

#[tokio::test]
async fn those_who_ask_at_the_same_time_wait_for_each_other() {
    let kernel = Kernel::snp();
    kernel.set(|state| state.busy = 5);
    let attester = Arc::new(open(&kernel, Provider::SevGuest, Constants::default()));
    let mut tasks = Vec::new();
    for nonce in 0..8 {
        let attester = attester.clone();
        tasks.push(tokio::spawn(
            async move { attester.make(&binding(nonce)).await },
        ));
    }
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    kernel.set(|state| {
        assert_eq!(state.most_at_once, 1);
        let mut asked: Vec<_> = state.asked.iter().map(|(data, _)| data.clone()).collect();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 1 + 8); // one more at the start
    });
}

/// Without collateral the machine serves, and the client is told that there is none.
#[tokio::test]
async fn a_client_is_told_that_no_collateral_is_at_hand() {
    let binding = binding(8);
    let data = ReportData::compute(&binding);
    let kernel = Kernel::new("tdx_guest\n", tdx_answer);
    let constants = Constants {
        stock: Stock::default(),
        ..tdx_constants()
    };
    let attester = open(&kernel, Provider::TdxGuest, constants);
    let evidence = Evidence::decode(&attester.make(&binding).await.unwrap()).unwrap();
    let Platform::Tdx(mut evidence) = evidence.platform else {
        panic!("another platform")
    };
    let policy = Domain::new().policy();
    let refused = tdx::verify(&evidence, data.as_bytes(), &policy, NOW).unwrap_err();
    assert_eq!(refused, TdxError::NoCollateral);
    // One that brings its own sees all.
    evidence.collateral = Domain::new().evidence().collateral;
    tdx::verify(&evidence, data.as_bytes(), &policy, NOW).unwrap();

    // A host that hands over no certificates, and a proxy that gave none yet.
    let kernel = Kernel::snp();
    kernel.set(|state| state.replaced.insert(Attribute::Auxblob, Vec::new()));
    let constants = Constants {
        proxy: Proxy::Http("127.0.0.1:1".parse().unwrap()),
        ..Constants::default()
    };
    let attester = open(&kernel, Provider::SevGuest, constants);
    let evidence = Evidence::decode(&attester.make(&binding).await.unwrap()).unwrap();
    let Platform::Snp(evidence) = evidence.platform else {
        panic!("another platform")
    };
    let refused = snp::verify(&evidence, data.as_bytes(), &Machine::new().policy(), NOW);
    assert_eq!(refused.unwrap_err(), SnpError::Certificates { found: 0 });
}

#[tokio::test]
async fn what_the_host_hands_over_is_not_asked_for() {
    let wanted = |kernel: Kernel| async move {
        let constants = Constants {
            proxy: Proxy::Http("127.0.0.1:1".parse().unwrap()),
            ..Constants::default()
        };
        let attester = open(&kernel, Provider::SevGuest, constants);
        let wanted = attester.wanted().await.unwrap();
        wanted.into_iter().map(|one| one.item).collect::<Vec<_>>()
    };
    assert_eq!(wanted(Kernel::snp()).await, []);
    let kernel = Kernel::snp();
    kernel.set(|state| state.replaced.insert(Attribute::Auxblob, Vec::new()));
    let all = [Item::Vcek, Item::Intermediate, Item::AmdList];
    assert_eq!(wanted(kernel).await, all);
    let kernel = Kernel::new("tdx_guest\n", tdx_answer);
    let attester = open(&kernel, Provider::TdxGuest, tdx_constants());
    let wanted = attester.wanted().await.unwrap();
    assert_eq!(wanted.len(), 4);
}

/// The folder that root made for the agent is used again and again, and never removed.
#[test]
fn a_folder_that_root_made_is_used_again_and_stays() {
    let kernel = Kernel::snp();
    kernel.make(PREPARED).unwrap();
    let mut tsm = kernel.tsm(Provider::SevGuest).in_folder(PREPARED);
    for data in [[1; 64], [2; 64], [3; 64]] {
        tsm.report(&data).unwrap();
    }
    kernel.set(|state| {
        assert_eq!(state.names, [PREPARED]);
        assert_eq!(state.folders[PREPARED].generation, 6);
        let asked: Vec<_> = state.asked.iter().map(|(data, _)| data[0]).collect();
        assert_eq!(asked, [1, 2, 3]);
        state.meddler = true;
    });
    let changed = tsm.report(&[4; 64]).unwrap_err();
    assert!(
        matches!(changed, TsmError::Changed { expected: 8, found } if found == Generation(Some(9))),
        "{changed}"
    );
    kernel.set(|state| state.meddler = false);
    tsm.report(&[5; 64]).unwrap();
}

#[test]
fn a_machine_that_cannot_give_evidence_does_not_start() {
    let refused = |kernel: Kernel, provider, constants| {
        Attester::open_tsm(kernel.tsm(provider), constants).unwrap_err()
    };
    let domain = || Kernel::new("tdx_guest\n", tdx_answer);
    let mut constants = tdx_constants();
    constants.event_log[0] = 0;
    let log = refused(domain(), Provider::TdxGuest, constants);
    assert!(matches!(log, EvidenceError::EventLog(_)), "{log}");
    let other = refused(domain(), Provider::SevGuest, Constants::default());
    assert!(
        matches!(other, EvidenceError::Tsm(TsmError::Provider { .. })),
        "{other}"
    );
    let kernel = Kernel::snp();
    kernel.set(|state| state.replaced.insert(Attribute::Outblob, vec![1; 1183]));
    let short = refused(kernel, Provider::SevGuest, Constants::default());
    assert!(matches!(short, EvidenceError::Report(1183)), "{short}");
    let kernel = Kernel::snp();
    kernel.set(|state| state.replaced.insert(Attribute::Auxblob, Vec::new()));
    let table = refused(kernel, Provider::SevGuest, Constants::default());
    assert!(matches!(table, EvidenceError::Table(_)), "{table}");
}
