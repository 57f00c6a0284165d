//! Keys in a PKCS#11 module: SoftHSM, where the machine has it (Debian: softhsm2).
//!
//! SoftHSM finds its tokens by its environment, so each test starts itself once more with one of
//! its own. `CLOISTER_SOFTHSM` names the library where it is not where Debian puts it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use attest::release::Envelope;
use common::loopback::block_on;
use common::{Fake, Mood, PATIENCE, statement};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use publish::{
    Identity, KeyUri, LogVersion, ModuleError, ModuleKey, ModuleKeyKind, Publisher, Services,
    SignError,
};
use zeroize::Zeroizing;

const PIN: &str = "2468";
const INSIDE: &str = "CLOISTER_TEST_TOKENS";
const LIBRARIES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
];
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];
const ED25519: &[u8] = b"\x13\x0cedwards25519";

/// The library, and a folder of its own; `None` outside, where the test has run inside.
fn inside(test: &str) -> Option<(PathBuf, PathBuf)> {
    let library = std::env::var_os("CLOISTER_SOFTHSM").map(PathBuf::from);
    let library = library.or_else(|| {
        let mut known = LIBRARIES.iter().map(PathBuf::from);
        known.find(|path| path.is_file())
    });
    let Some(library) = library else {
        eprintln!("SKIPPED, not checked: {test} (no SoftHSM here)");
        return None;
    };
    if let Some(folder) = std::env::var_os(INSIDE) {
        return Some((library, folder.into()));
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tokens")).unwrap();
    let configuration = folder.path().join("softhsm2.conf");
    let tokens = folder.path().join("tokens");
    let text = format!(
        "directories.tokendir = {}\nlog.level = ERROR\n",
        tokens.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("SOFTHSM2_CONF", configuration)
        .env(INSIDE, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
    None
}

/// A token of this name, with a session that may make keys.
fn token(library: &Path, label: &str) -> (Pkcs11, Slot, Session) {
    let module = Pkcs11::new(library).unwrap();
    // Another token of this test may have done it.
    let _ = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
    let slot = *module.get_slots_with_token().unwrap().last().unwrap();
    let officer = AuthPin::new("officer".into());
    module.init_token(slot, &officer, label).unwrap();
    let mut slots = module.get_slots_with_token().unwrap().into_iter();
    let ours = |slot: &Slot| module.get_token_info(*slot).unwrap().label().trim_end() == label;
    let slot = slots.find(ours).unwrap();
    let session = module.open_rw_session(slot).unwrap();
    session.login(UserType::So, Some(&officer)).unwrap();
    session.init_pin(&AuthPin::new(PIN.into())).unwrap();
    session.logout().unwrap();
    session
        .login(UserType::User, Some(&AuthPin::new(PIN.into())))
        .unwrap();
    (module, slot, session)
}

fn make(session: &Session, label: &str, curve: &[u8], may_sign: bool) {
    let label = Attribute::Label(label.as_bytes().to_vec());
    let id = Attribute::Id(label_id(&label));
    let mechanism = match curve == ED25519 {
        true => Mechanism::EccEdwardsKeyPairGen,
        false => Mechanism::EccKeyPairGen,
    };
    let public = [
        Attribute::Token(true),
        Attribute::EcParams(curve.to_vec()),
        Attribute::Verify(true),
        label.clone(),
        id.clone(),
    ];
    let private = [
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(may_sign),
        Attribute::Derive(!may_sign),
        label,
        id,
    ];
    session
        .generate_key_pair(&mechanism, &public, &private)
        .unwrap();
}

fn label_id(label: &Attribute) -> Vec<u8> {
    match label {
        Attribute::Label(label) => label.clone(),
        other => panic!("{other:?}"),
    }
}

fn uri(library: &Path, key: &str) -> KeyUri {
    format!("pkcs11:{key}?module-path={}", library.display())
        .parse()
        .unwrap()
}

fn open(library: &Path, key: &str, pin: Option<&str>) -> Result<ModuleKey, ModuleError> {
    let pin = pin.map(|pin| Zeroizing::new(pin.to_owned()));
    ModuleKey::open(&uri(library, key), pin)
}

#[test]
fn a_key_in_a_module_signs_a_release_that_verifies() {
    let Some((library, folder)) = inside("a_key_in_a_module_signs_a_release_that_verifies") else {
        return;
    };
    let (_module, _, session) = token(&library, "release");
    make(&session, "signer", P256, true);
    make(&session, "own log", ED25519, true);
    // As every token before its user has come.
    session.logout().unwrap();
    let log = Fake::start(&[Mood::Well]);
    let publish = |services: Services, key: ModuleKey| {
        let publisher = Publisher::new(services, PATIENCE).unwrap();
        let (statement, identity) = (statement().encode(), Identity::Module(key));
        block_on(publisher.publish(&statement, &identity, &log.root()))
    };
    let file = folder.join("pin");
    std::fs::write(&file, format!("{PIN}\n")).unwrap();
    let key = format!(
        "pkcs11:token=release;object=signer?module-path={}&pin-source=file:{}",
        library.display(),
        file.display()
    );
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open_by_file = || ModuleKey::open(&key.parse().unwrap(), None);
    assert!(matches!(
        open_by_file(),
        Err(ModuleError::PinPermissions { mode: 0o644, .. })
    ));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let key = open_by_file().unwrap();
    assert_eq!(key.kind(), ModuleKeyKind::P256);
    let expected = cloister_sigstore::Expected::Key(
        cloister_sigstore::PublicKey::from_pem(key.public_key().to_pem().as_bytes()).unwrap(),
    );
    let published = publish(log.services(), key).unwrap();
    cloister_sigstore::verify_release(&published.bundle, &expected, &log.root()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(open_by_file(), Err(ModuleError::PinFile { .. })));
    // Rekor v2 takes the other kind of key no more than one from a file.
    let ed25519 = || open(&library, "token=release;object=own%20log", Some(PIN)).unwrap();
    let v2 = Services {
        rekor_version: LogVersion::V2,
        tsa: Some(log.url.clone()),
        ..log.services()
    };
    assert!(matches!(publish(v2, ed25519()), Err(SignError::KeyForLog)));
    let signature = ed25519().sign(b"a message").unwrap();
    let key = ed25519();
    let point = key.public_point().try_into().unwrap();
    let public = attest::release::PublicKey::from_bytes(point).unwrap();
    assert!(public.verifies(b"a message", &signature.try_into().unwrap()));
}

#[test]
fn each_way_that_a_module_does_not_sign_is_told_apart() {
    let Some((library, _)) = inside("each_way_that_a_module_does_not_sign_is_told_apart") else {
        return;
    };
    let (module, slot, session) = token(&library, "release");
    make(&session, "signer", P256, true);
    make(&session, "twice", P256, true);
    make(&session, "twice", P256, true);
    make(&session, "derives", P256, false);
    make(&session, "p384", P384, true);
    let refused = |key: &str, pin: Option<&str>| open(&library, key, pin).unwrap_err();
    let key = "token=release;object=signer";
    // Logged in already, this session's PIN would never be asked for.
    session.logout().unwrap();
    assert!(matches!(refused(key, None), ModuleError::NoPin));
    for wrong in ["1357", ""] {
        let refused = refused(key, Some(wrong));
        assert!(
            matches!(refused, ModuleError::WrongPin { .. }),
            "{refused:?}"
        );
    }
    let none = Path::new("/nowhere/module.so");
    let error = open(none, key, Some(PIN)).unwrap_err();
    assert!(matches!(error, ModuleError::NoModule { .. }));
    let text = std::env::current_exe().unwrap().with_extension("d");
    std::fs::write(&text, "not a library").unwrap();
    let error = open(&text, key, Some(PIN)).unwrap_err();
    assert!(matches!(error, ModuleError::NoModule { .. }));
    for (key, error) in [
        ("token=other;object=signer", "NoToken"),
        ("token=release;serial=1;object=signer", "NoToken"),
        ("token=release;object=other", "NoKey"),
        ("token=release;object=twice", "ManyKeys(2)"),
        ("token=release;object=derives", "NoRight"),
        ("token=release;object=p384", "Kind"),
    ] {
        let refused = refused(key, Some(PIN));
        assert_eq!(format!("{refused:?}"), error, "{key}");
    }
    drop(open(&library, key, Some(PIN)).unwrap());
    // The public half is gone.
    let public = [
        Attribute::Class(cryptoki::object::ObjectClass::PUBLIC_KEY),
        Attribute::Label(b"signer".to_vec()),
    ];
    for object in session.find_objects(&public).unwrap() {
        session.destroy_object(object).unwrap();
    }
    session.logout().unwrap();
    assert!(matches!(refused(key, Some(PIN)), ModuleError::NoPublicKey));
    // A second token of this name.
    drop((session, slot, module));
    let (_module, ..) = token(&library, "release");
    assert!(matches!(
        refused(key, Some(PIN)),
        ModuleError::ManyTokens(2)
    ));
}

#[test]
fn the_program_takes_the_pin_from_the_environment_alone() {
    let name = "the_program_takes_the_pin_from_the_environment_alone";
    let Some((library, folder)) = inside(name) else {
        return;
    };
    let (_module, _, session) = token(&library, "release");
    make(&session, "own", ED25519, true);
    std::fs::write(folder.join("statement.json"), statement().encode()).unwrap();
    let run = |more: &str, pin: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cloister-publish"));
        let key = format!("pkcs11:object=own?module-path={}{more}", library.display());
        command
            .args(["envelope", "--statement", "statement.json", "--key", &key])
            .args(["--output", "envelope.json"])
            .env_remove("CLOISTER_PIN")
            .current_dir(&folder);
        if let Some(pin) = pin {
            command.env("CLOISTER_PIN", pin);
        }
        command.output().unwrap()
    };
    let code = |more, pin| run(more, pin).status.code();
    assert_eq!(code("&pin-value=2468", Some(PIN)), Some(1));
    assert_eq!(code("", None), Some(2));
    assert_eq!(code("", Some("1357")), Some(2));
    assert!(!folder.join("envelope.json").exists());
    let output = run("", Some(PIN));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let bytes = std::fs::read(folder.join("envelope.json")).unwrap();
    let envelope: Envelope = serde_json::from_slice(&bytes).unwrap();
    let signers: Vec<_> = envelope.signatures.iter().map(|one| one.keyid).collect();
    envelope.verify(&signers).unwrap();
    assert_eq!(envelope.payload, statement().encode());
}
