//! A TPM played by a script: strictness needs answers that no real TPM gives.

use super::*;
use std::collections::VecDeque;

struct Script {
    answers: VecDeque<Vec<u8>>,
    commands: usize,
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(answer) = self.answers.front_mut() else {
            return Ok(0);
        };
        let count = answer.len().min(buffer.len()).min(7); // in pieces, as a socket may
        buffer[..count].copy_from_slice(&answer[..count]);
        answer.drain(..count);
        if answer.is_empty() {
            self.answers.pop_front();
        }
        Ok(count)
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.commands += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn scripted(answers: impl IntoIterator<Item = Vec<u8>>) -> Tpm<Script> {
    Tpm::new(Script {
        answers: answers.into_iter().collect(),
        commands: 0,
    })
}

fn answer(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    Writer::new()
        .u16(tag)
        .u32(10 + body.len() as u32)
        .u32(code)
        .bytes(body)
        .finish()
}

fn pcr_answer(counter: u32, registers: &[u8], digest_bytes: usize) -> Vec<u8> {
    let selection = Selection::new(Bank::Sha384, registers).encode();
    let mut body = Writer::new()
        .u32(counter)
        .bytes(&selection)
        .u32(registers.len() as u32);
    for register in registers {
        body = body.tpm2b(&vec![*register; digest_bytes]);
    }
    answer(0x8001, 0, &body.finish())
}

fn fault<T: std::fmt::Debug>(result: Result<T, TpmError>) -> Fault {
    match result {
        Err(TpmError::Malformed { fault, .. }) => fault,
        other => panic!("not malformed: {other:?}"),
    }
}

#[test]
fn a_retry_is_answered_and_bounded() {
    let retry = || answer(0x8001, 0x922, &[]);
    let mut tpm = scripted([retry(), retry(), pcr_answer(1, &[4], 48)]);
    let selection = Selection::new(Bank::Sha384, &[4]);
    assert_eq!(tpm.pcr_read(selection).unwrap(), vec![vec![4; 48]]);
    assert_eq!(tpm.transport.commands, 3);

    let mut tpm = scripted((0..100).map(|_| retry()));
    let error = tpm.pcr_read(selection).unwrap_err();
    assert!(
        matches!(error, TpmError::Busy { code: 0x922, .. }),
        "{error}"
    );
    assert_eq!(tpm.transport.commands, MAX_ATTEMPTS as usize);
}

#[test]
fn a_refusal_carries_the_code() {
    let error = scripted([answer(0x8001, 0x18B, &[])])
        .nv_read(1)
        .unwrap_err();
    assert!(
        matches!(
            error,
            TpmError::Refused {
                command: 0x169,
                code: 0x18B
            }
        ),
        "{error}"
    );
}

#[test]
fn a_reading_torn_by_an_extension_is_repeated_within_bounds() {
    let all = [0u8, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let selection = Selection::new(Bank::Sha384, &all);
    let (low, high) = (&all[..8], &all[8..]);
    let mut tpm = scripted([
        pcr_answer(1, low, 48),
        pcr_answer(2, high, 48),
        pcr_answer(2, low, 48),
        pcr_answer(2, high, 48),
    ]);
    let values = tpm.pcr_read(selection).unwrap();
    assert_eq!(values, all.map(|r| vec![r; 48]).to_vec());

    let torn = (0..100).map(|n| pcr_answer(n, if n % 2 == 0 { low } else { high }, 48));
    assert_eq!(fault(scripted(torn).pcr_read(selection)), Fault::Unstable);
}

#[test]
fn strange_answers_are_refused() {
    let selection = Selection::new(Bank::Sha384, &[4, 9]);
    let read = |bytes: Vec<u8>| fault(scripted([bytes]).pcr_read(selection));
    assert_eq!(read(pcr_answer(1, &[4, 5], 48)), Fault::Selection);
    assert_eq!(read(pcr_answer(1, &[], 48)), Fault::Selection);
    assert_eq!(read(pcr_answer(1, &[4], 32)), Fault::Digest);
    assert_eq!(read(answer(0x8002, 0, &[0; 4])), Fault::Tag);
    assert_eq!(read(answer(0x8001, 0, &[])), Fault::Short);
    assert_eq!(read(answer(0x8001, 0x101, &[0])), Fault::Trailing);
    let mut trailing = pcr_answer(1, &[4], 48);
    trailing.push(0);
    let size = trailing.len() as u32;
    trailing[2..6].copy_from_slice(&size.to_be_bytes());
    assert_eq!(read(trailing), Fault::Trailing);
    for size in [0u32, 9, 4097, u32::MAX] {
        let mut bytes = pcr_answer(1, &[4], 48);
        bytes[2..6].copy_from_slice(&size.to_be_bytes());
        assert_eq!(read(bytes), Fault::Size);
    }
    let closed = scripted([vec![0x80]]).pcr_read(selection).unwrap_err();
    assert!(matches!(closed, TpmError::Transport(_)), "{closed}");
}

#[test]
fn a_giant_nv_index_is_refused() {
    let public = Writer::new()
        .u32(1)
        .u16(0xB)
        .u32(0)
        .tpm2b(&[])
        .u16(0xFFFF)
        .finish();
    let body = Writer::new().tpm2b(&public).tpm2b(&[]).finish();
    assert_eq!(
        fault(scripted([answer(0x8001, 0, &body)]).nv_read(1)),
        Fault::NvSize
    );
}
