//! RSASSA-PSS: what is not exactly the encoding of the message is no signature of it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use attest::certificate::{ChainError, ChainFault, Position};
use attest::snp::{SnpError, verify};
use signer::NOW;
use signer::amd::{Machine, beyond_the_modulus, encode_pss, issue_with};

/// The verdict if the signing key's certificate bears what `sign` makes of its signed part.
fn judge(machine: &Machine, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<(), SnpError> {
    let mut evidence = machine.evidence();
    evidence.certificates[0] = issue_with(&machine.leaf, sign);
    verify(&evidence, &[0; 64], &machine.policy(), NOW).map(drop)
}

fn refused() -> Result<(), SnpError> {
    let (position, fault) = (Position::Leaf, ChainFault::Signature);
    Err(SnpError::Chain(ChainError { position, fault }))
}

#[test]
fn only_the_exact_encoding_is_a_signature() {
    let machine = Machine::new();
    let changed = |place: usize, bit: u8| {
        judge(&machine, |part| {
            let mut encoded = encode_pss(part, &[7; 48]);
            encoded[place] ^= bit;
            machine.ask.sign_encoded(&encoded)
        })
    };
    assert_eq!(changed(0, 0), Ok(()));
    for (place, bit, what) in [
        (0, 0x40, "the first byte of the padding"),
        (413, 1, "the last byte of the padding"),
        (414, 2, "the byte between padding and salt"),
        (415, 1, "the salt"),
        (462, 0x80, "the end of the salt"),
        (463, 1, "the hash"),
        (511, 1, "the trailer"),
    ] {
        assert_eq!(changed(place, bit), refused(), "{what}");
    }
}

/// The bit that the encoding leaves free must be zero, and a number has one spelling.
#[test]
fn a_signature_has_one_spelling() {
    let machine = Machine::new();
    let (mut top_bits, mut spellings) = (0, 0);
    for salt in 0..40 {
        let sign = |part: &[u8]| machine.ask.sign_encoded(&encode_pss(part, &[salt; 48]));
        let other = |part: &[u8]| beyond_the_modulus(&machine.ask, &sign(part));
        let mut room = true;
        let verdict = judge(&machine, |part| {
            other(part).unwrap_or_else(|| {
                room = false;
                Vec::new()
            })
        });
        assert_eq!(verdict, refused());
        spellings += usize::from(room);
        let mut encoded = Vec::new();
        let verdict = judge(&machine, |part| {
            encoded = encode_pss(part, &[salt; 48]);
            encoded[0] |= 0x80;
            machine.ask.sign_encoded(&encoded)
        });
        assert_eq!(verdict, refused());
        top_bits += usize::from(encoded < machine.ask.public()[9..521].to_vec());
    }
    assert!(top_bits > 0 && spellings > 0, "{top_bits} {spellings}");
}
