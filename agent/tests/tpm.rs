//! The TPM client against a real TPM emulator.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers are no tests to clippy

use agent::evidence::tpm::{
    AK_CERTIFICATE_INDEX, Bank, Command, ENDORSEMENT, Reader, Selection, Tpm, TpmError,
    attestation_key_template,
};
use common::{Swtpm, nv, pcr_extend, sign};
use sha2::{Digest, Sha384};

mod common;

const REGISTERS: [u8; 15] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15];

fn selection() -> Selection {
    Selection::new(Bank::Sha384, &REGISTERS)
}

#[test]
fn the_attestation_key_is_the_same_each_time() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let first = tpm.create_attestation_key().unwrap();
    let public = first.public.clone();
    tpm.flush(first.handle).unwrap();
    drop(tpm);
    let second = swtpm.connect().create_attestation_key().unwrap();
    assert_eq!(public, second.public);
    assert_eq!(public[..16], attestation_key_template()[..16]);
}

#[test]
fn a_quote_names_its_data_and_the_registers() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let key = tpm.create_attestation_key().unwrap();
    pcr_extend(&mut tpm, 9, &[7; 48]);
    let values = tpm.pcr_read(selection()).unwrap();
    assert_eq!(values.len(), REGISTERS.len());
    assert_eq!(
        values[9][..],
        Sha384::digest([[0; 48], [7; 48]].concat())[..]
    );
    let quote = tpm.quote(&key.handle, &[5; 48], selection()).unwrap();

    assert_eq!(
        quote.pcr_digest().unwrap(),
        &Sha384::digest(values.concat())[..]
    );
    let mut attest = Reader::new(&quote.attest);
    assert_eq!(attest.u32().unwrap(), 0xFF54_4347); // TPM_GENERATED_VALUE
    assert_eq!(attest.u16().unwrap(), 0x8018); // TPM_ST_ATTEST_QUOTE
    attest.tpm2b().unwrap(); // the key's qualified name
    assert_eq!(attest.tpm2b().unwrap(), [5; 48]);
    attest.take(8 + 4 + 4 + 1 + 8).unwrap(); // clock, firmware version
    assert_eq!(attest.take(10).unwrap(), selection().encode());
}

#[test]
fn a_restricted_key_refuses_to_sign_a_forged_quote() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let key = tpm.create_attestation_key().unwrap();
    let forged = tpm.quote(&key.handle, b"mine", selection()).unwrap().attest;
    let error = sign(&mut tpm, key.handle.value(), &Sha384::digest(forged)).unwrap_err();
    // TPM_RC_TICKET, parameter 3
    assert!(
        matches!(
            error,
            TpmError::Refused {
                command: 0x15D,
                code: 0x3E0
            }
        ),
        "{error}"
    );

    // A key of the same template that is not restricted signs anything.
    let mut template = attestation_key_template();
    template[4..8].copy_from_slice(&0x0004_0472u32.to_be_bytes());
    let free = tpm.create_primary(ENDORSEMENT, &template).unwrap();
    sign(&mut tpm, free.handle.value(), &[1; 48]).unwrap();
}

#[test]
fn nv_memory_gives_back_what_provisioning_stored() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let absent = tpm.nv_read(AK_CERTIFICATE_INDEX).unwrap_err();
    assert!(
        matches!(absent, TpmError::Refused { command: 0x169, .. }),
        "{absent}"
    );
    let content: Vec<u8> = (0..1500u32).map(|n| n as u8).collect();
    nv::store(&mut tpm, AK_CERTIFICATE_INDEX, &content).unwrap();
    assert_eq!(tpm.nv_read(AK_CERTIFICATE_INDEX).unwrap(), content);
    nv::store(&mut tpm, AK_CERTIFICATE_INDEX, &content).unwrap_err(); // it is defined once
}

#[test]
fn refusals_are_typed() {
    let swtpm = Swtpm::start();
    let mut tpm = swtpm.connect();
    let nonsense = tpm.execute(&Command::new(0x1FF, &[], vec![])).unwrap_err();
    assert!(matches!(nonsense, TpmError::Refused { .. }), "{nonsense}");
    let none = tpm.pcr_read(Selection::new(Bank::Sha384, &[24])).unwrap();
    assert!(none.is_empty());
    let absent = Tpm::open(&swtpm.socket().with_extension("absent")).unwrap_err();
    assert!(matches!(absent, TpmError::Open { .. }), "{absent}");
}
