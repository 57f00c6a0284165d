//! Every way in which a quote can be wrong.
#![allow(clippy::expect_used, reason = "a test may panic")]

use attest::tpm::TpmEvidence;
use attest::tpm::quote::{QuoteError, verify};
use attest::{Binding, Platform, ReportData};
use signer::World;
use signer::tpm::{Quote, sign, sized};

fn world() -> (World, Binding) {
    let world = World::new();
    let binding = world.nonce_binding([7; 32]);
    (world, binding)
}

fn judge(world: &World, binding: &Binding, evidence: &TpmEvidence) -> Result<(), QuoteError> {
    let data = ReportData::compute(binding).qualifying_data();
    verify(evidence, world.attestation_key.verifying_key(), &data)
}

/// The verdict on a quote that is changed before it is signed.
fn changed(change: impl FnOnce(&mut Quote)) -> Result<(), QuoteError> {
    let (world, binding) = world();
    let mut quote = world.quote(&binding);
    change(&mut quote);
    let Platform::Tpm(evidence) = world.evidence_of(&quote).platform else {
        unreachable!()
    };
    judge(&world, &binding, &evidence)
}

/// The verdict on evidence that is changed after the quote is signed.
fn altered(change: impl FnOnce(&World, &mut TpmEvidence)) -> Result<(), QuoteError> {
    let (world, binding) = world();
    let Platform::Tpm(mut evidence) = world.evidence(&binding).platform else {
        unreachable!()
    };
    change(&world, &mut evidence);
    judge(&world, &binding, &evidence)
}

#[test]
fn a_sound_quote_is_accepted() {
    assert_eq!(changed(|_| {}), Ok(()));
}

#[test]
fn a_quote_must_be_made_by_a_tpm_as_a_quote() {
    assert_eq!(
        changed(|quote| quote.magic ^= 1),
        Err(QuoteError::NotAQuote)
    );
    assert_eq!(
        changed(|quote| quote.kind = 0x8017),
        Err(QuoteError::NotAQuote)
    );
}

#[test]
fn a_quote_must_name_its_signer() {
    let verdict = changed(|quote| quote.qualified_signer.clear());
    assert_eq!(verdict, Err(QuoteError::QualifiedSigner));
}

#[test]
fn a_quote_must_hold_the_qualifying_data() {
    for verdict in [
        changed(|quote| quote.extra_data[0] ^= 1),
        changed(|quote| quote.extra_data.clear()),
        changed(|quote| quote.extra_data.push(0)),
        changed(|quote| quote.extra_data.truncate(47)),
    ] {
        assert!(matches!(verdict, Err(QuoteError::QualifyingData { .. })));
    }
}

#[test]
fn a_quote_must_cover_exactly_our_registers() {
    for (place, value) in [(0, 2), (3, 2), (5, 0x0b), (7, 0xfe), (8, 0xff), (9, 1)] {
        let verdict = changed(|quote| quote.selection[place] = value);
        assert_eq!(verdict, Err(QuoteError::Selection), "byte {place}");
    }
    assert_eq!(
        changed(|quote| quote.pcr_digest.truncate(32)),
        Err(QuoteError::Selection)
    );
}

#[test]
fn a_quote_must_cover_the_values_that_came_with_it() {
    let verdict = altered(|_, evidence| evidence.registers[3].0[0] ^= 1);
    assert!(matches!(verdict, Err(QuoteError::Registers { .. })));
    let verdict = altered(|_, evidence| evidence.registers.swap(4, 9));
    assert!(matches!(verdict, Err(QuoteError::Registers { .. })));
}

#[test]
fn a_quote_must_be_signed_by_the_key() {
    let verdict = altered(|_, evidence| evidence.attest[60] ^= 1);
    assert_eq!(verdict, Err(QuoteError::Signature));
    let verdict = altered(|world, evidence| {
        evidence.signature = sign(&world.authority.key, &evidence.attest);
    });
    assert_eq!(verdict, Err(QuoteError::Signature));
}

#[test]
fn structures_are_read_strictly() {
    for (change, error) in [
        (
            (|evidence| evidence.attest.push(0)) as fn(&mut TpmEvidence),
            QuoteError::AttestFormat,
        ),
        (
            |evidence| evidence.attest.truncate(100),
            QuoteError::AttestFormat,
        ),
        (|evidence| evidence.attest.clear(), QuoteError::AttestFormat),
        // "safe" is a truth value
        (
            |evidence| evidence.attest[6 + 52 + 50 + 16] = 2,
            QuoteError::AttestFormat,
        ),
    ] {
        let verdict = altered(|world, evidence| {
            change(evidence);
            evidence.signature = sign(&world.attestation_key, &evidence.attest);
        });
        assert_eq!(verdict, Err(error));
    }
    for change in [
        (|signature| signature.push(0)) as fn(&mut Vec<u8>),
        |signature| signature.truncate(100),
        |signature| signature.clear(),
        |signature| signature[1] = 0x14,
        |signature| signature[3] = 0x0b,
        |signature| *signature = [&[0, 0x18, 0, 0x0c][..], &sized(&[0]), &sized(&[1])].concat(),
        |signature| *signature = [&[0, 0x18, 0, 0x0c][..], &sized(&[1; 49]), &sized(&[1])].concat(),
    ] {
        let verdict = altered(|_, evidence| change(&mut evidence.signature));
        assert_eq!(verdict, Err(QuoteError::SignatureFormat));
    }
}

/// Some TPMs leave out leading zeros of a signature's numbers.
#[test]
fn a_signature_without_leading_zeros_is_accepted() {
    let (world, _) = world();
    let stripped = (0..=u16::MAX).find_map(|nonce| {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&nonce.to_be_bytes());
        let binding = world.nonce_binding(bytes);
        let signature = sign(&world.attestation_key, &world.quote(&binding).encode());
        let (r, s) = (&signature[6..54], &signature[56..]);
        let short = [&signature[..4], &sized(&r[1..]), &sized(s)].concat();
        (r[0] == 0).then_some((binding, short))
    });
    let (binding, signature) = stripped.expect("one in 256 starts with a zero");
    let Platform::Tpm(mut evidence) = world.evidence(&binding).platform else {
        unreachable!()
    };
    evidence.signature = signature;
    assert_eq!(judge(&world, &binding, &evidence), Ok(()));
}
