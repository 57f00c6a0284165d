//! PE images and UKIs: what is refused, and that no bytes make the reader panic.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use attest::Digest;
use common::{build, kernel, pe, put, section_header, stub, stub_with_room};
use proptest::prelude::*;
use release::command_line::CommandLine;
use release::measure::{MeasureError, measure};
use release::pe::{Image, Part, PeError};
use release::uki::{UkiError, kernel_version};

const OPTIONAL: usize = 0x58;

fn two() -> Vec<u8> {
    pe(&[(".one", &[1; 600]), (".two", &[2; 100])], 1)
}

fn refused(change: impl FnOnce(&mut Vec<u8>)) -> PeError {
    let mut image = two();
    change(&mut image);
    Image::parse(&image).unwrap_err()
}

fn line() -> CommandLine {
    let digest = Digest::sha256(common::configuration().as_bytes());
    CommandLine::assemble(common::BASE, &common::root().2, digest).unwrap()
}

fn initrd() -> Vec<u8> {
    common::initrd(common::configuration().as_bytes())
}

#[test]
fn each_malformed_header_has_its_own_refusal() {
    use PeError as E;
    let headers = u32::from_le_bytes(two()[OPTIONAL + 60..OPTIONAL + 64].try_into().unwrap());
    assert_eq!(refused(|pe| pe.clear()), E::Truncated(Part::DosHeader));
    assert_eq!(refused(|pe| pe[0] = b'X'), E::Magic(Part::DosHeader));
    assert_eq!(
        refused(|pe| put(pe, 0x3c, u32::MAX)),
        E::Truncated(Part::CoffHeader)
    );
    assert_eq!(refused(|pe| pe[0x40] = 0), E::Magic(Part::CoffHeader));
    assert_eq!(refused(|pe| pe[0x45] = 0xaa), E::Machine(0xaa64));
    assert_eq!(refused(|pe| pe[0x46] = 0), E::SectionCount(0));
    assert_eq!(refused(|pe| pe[0x47] = 1), E::SectionCount(258));
    assert_eq!(
        refused(|pe| pe[OPTIONAL + 1] = 1),
        E::Magic(Part::OptionalHeader)
    );
    assert_eq!(
        refused(|pe| put(pe, OPTIONAL + 108, 17)),
        E::Magic(Part::OptionalHeader)
    );
    let alignment = E::Alignment {
        section: 4096,
        file: 500,
    };
    assert_eq!(refused(|pe| put(pe, OPTIONAL + 36, 500)), alignment);
    let small = E::HeaderSize {
        found: 64,
        needed: section_header(2),
    };
    assert_eq!(refused(|pe| put(pe, OPTIONAL + 60, 64)), small);
    assert_eq!(
        refused(|pe| put(pe, OPTIONAL + 60, 1 << 30)),
        E::Truncated(Part::SectionTable)
    );
    assert_eq!(refused(|pe| pe[section_header(1)] = 7), E::SectionName(1));
    assert_eq!(
        refused(|pe| pe[section_header(1) + 6] = b'x'),
        E::SectionName(1)
    );
    assert_eq!(
        refused(|pe| put(pe, section_header(0) + 12, headers)),
        E::MemoryOverlap(0)
    );
}

#[test]
fn sections_that_overlap_leave_gaps_or_end_early_are_refused() {
    use PeError as E;
    let length = two().len();
    assert_eq!(
        refused(|pe| pe.truncate(length - 1)),
        E::Truncated(Part::Section(1))
    );
    let second = section_header(1);
    let first = u32::from_le_bytes(two()[second - 20..second - 16].try_into().unwrap());
    assert_eq!(refused(|pe| put(pe, second + 20, first)), E::FileLayout(1));
    assert_eq!(
        refused(|pe| put(pe, second + 12, 4096)),
        E::MemoryOverlap(1)
    );
    assert_eq!(
        refused(|pe| put(pe, second + 12, 4097 * 2)),
        E::MemoryOverlap(1)
    );
    assert_eq!(
        refused(|pe| put(pe, second + 8, u32::MAX)),
        E::MemoryOverlap(1)
    );
    assert_eq!(refused(|pe| put(pe, second + 8, 0)), E::MemoryOverlap(1));
    let signed = |start: usize, length: u32| {
        refused(|pe| {
            put(pe, OPTIONAL + 144, start as u32);
            put(pe, OPTIONAL + 148, length);
        })
    };
    assert_eq!(signed(length - 16, 8), E::Certificates);
    assert_eq!(signed(length - 16, 16), E::Certificates);
    assert_eq!(signed(usize::MAX, u32::MAX), E::Certificates);
}

#[test]
fn the_digest_leaves_out_checksum_and_signature_only() {
    let plain = two();
    let digest =
        |bytes: &[u8]| Digest::sha256(&Image::parse(bytes).unwrap().authenticode_pieces().concat());
    let mut other = plain.clone();
    put(&mut other, OPTIONAL + 64, 0x1234_5678);
    assert_eq!(digest(&other), digest(&plain));
    put(&mut other, OPTIONAL + 144, plain.len() as u32);
    put(&mut other, OPTIONAL + 148, 16);
    other.extend_from_slice(&[9; 16]);
    assert_eq!(digest(&other), digest(&plain));
    let end = plain.len() - 1;
    other[end] ^= 1;
    assert_ne!(digest(&other), digest(&plain));
}

#[test]
fn a_stub_that_cannot_take_the_sections_is_refused() {
    let make = |stub: &[u8]| build(stub, &line(), &kernel(), &initrd()).unwrap_err();
    assert_eq!(make(&stub_with_room(0)), UkiError::HeaderSpace(".osrel"));
    assert_eq!(make(&common::uki()), UkiError::StubInUse(".osrel"));
    let no_sbat = pe(&[(".text", &[1; 10])], 9);
    assert_eq!(make(&no_sbat), UkiError::Sbat);
    let mut tail = stub();
    tail.push(0);
    assert_eq!(make(&tail), UkiError::StubTail(1));
    let mut signed = stub();
    put(&mut signed, OPTIONAL + 144, stub().len() as u32);
    put(&mut signed, OPTIONAL + 148, 8);
    signed.extend_from_slice(&[0; 8]);
    assert_eq!(make(&signed), UkiError::StubSigned);
    let full = pe(&[(".text", &[1; 10]), (".sbat", b"sbat,1\n")], 9);
    assert!(build(&full, &line(), &kernel(), &initrd()).is_ok());
    let mut occupied = stub_with_room(8);
    occupied[section_header(4) + 3] = 1;
    assert_eq!(make(&occupied), UkiError::HeaderSpace(".osrel"));
    assert_eq!(
        make(b"MZ"),
        UkiError::Stub(PeError::Truncated(Part::DosHeader))
    );
}

#[test]
fn a_kernel_without_a_version_and_empty_parts_are_refused() {
    let make = |linux: &[u8]| build(&stub(), &line(), linux, &initrd()).unwrap_err();
    assert_eq!(make(&two()), UkiError::KernelVersion);
    assert!(matches!(make(b"not a kernel"), UkiError::Kernel(_)));
    assert_eq!(
        build(&stub(), &line(), &kernel(), b""),
        Err(UkiError::Empty(".initrd"))
    );
    assert_eq!(kernel_version(&kernel()), Some("6.12.1-test"));
    let mut loud = kernel();
    loud[0x500] = b'V';
    assert_eq!(kernel_version(&loud), None);
}

#[test]
fn what_no_release_has_is_not_measured() {
    let uki = common::uki();
    assert!(measure(&uki, &[]).is_ok());
    let rename = |from: &str, to: &str| {
        let mut other = uki.clone();
        let at = other
            .windows(8)
            .position(|name| name.starts_with(from.as_bytes()))
            .unwrap();
        other[at..at + 8].fill(0);
        other[at..at + to.len()].copy_from_slice(to.as_bytes());
        measure(&other, &[]).unwrap_err()
    };
    assert_eq!(
        rename(".uname", ".dtb"),
        MeasureError::UnknownSection(".dtb".into())
    );
    assert_eq!(rename(".uname", ".osrel"), MeasureError::Section(".osrel"));
    assert_eq!(rename(".uname", ".text"), MeasureError::Section(".uname"));
    let phase = |word: &str| measure(&uki, &[word.to_owned()]).unwrap_err();
    assert_eq!(phase("a:b"), MeasureError::Phase("a:b".into()));
    assert_eq!(phase(""), MeasureError::Phase(String::new()));
}

#[test]
fn texts_that_are_none_and_files_that_end_are_refused() {
    use release::measure::bytes::Bytes;
    let uki = common::uki();
    let image = Image::parse(&uki).unwrap();
    let at = image.section(".linux").unwrap().raw.start;
    // A file that ends after its length was asked for.
    #[derive(Debug)]
    struct Shrinking(Vec<u8>, usize);
    impl Bytes for Shrinking {
        fn length(&self) -> std::io::Result<usize> {
            Ok(self.0.len())
        }
        fn read_at(&self, at: usize, buffer: &mut [u8]) -> std::io::Result<()> {
            (&self.0[..self.1]).read_at(at, buffer)
        }
    }
    let end = std::io::ErrorKind::UnexpectedEof;
    for length in [0, at] {
        let file = Shrinking(uki.clone(), length);
        let refused = release::measure::measure_file(&file, &[]);
        assert_eq!(refused, Err(MeasureError::Read(end)), "{length}");
    }
    let line = [
        b"quiet ".repeat(200_000),
        line().as_str().as_bytes().to_vec(),
    ]
    .concat();
    let sections: Vec<(&str, &[u8])> =
        [".linux", ".osrel", ".cmdline", ".initrd", ".uname", ".sbat"]
            .into_iter()
            .map(|name| match name {
                ".cmdline" => (name, &line[..]),
                _ => (name, image.contents(image.section(name).unwrap()).unwrap()),
            })
            .collect();
    let refused = measure(&pe(&sections, 0), &[]);
    let large = MeasureError::LargeSection(".cmdline", line.len());
    assert_eq!(refused, Err(large));
}

#[test]
fn a_configuration_that_the_command_line_does_not_name_is_refused() {
    let make = |initrd: &[u8]| {
        measure(&build(&stub(), &line(), &kernel(), initrd).unwrap(), &[]).unwrap_err()
    };
    assert_eq!(make(&[6; 1024]), MeasureError::NoConfiguration);
    assert_eq!(
        make(&[&initrd()[..], &[0; 4]].concat()),
        MeasureError::NoConfiguration
    );
    let expected = Digest::sha256(common::configuration().as_bytes());
    let found = Digest::sha256(b"other");
    assert_eq!(
        make(&common::initrd(b"other")),
        MeasureError::Configuration { expected, found }
    );
}

#[test]
fn a_changed_byte_of_any_part_changes_a_register() {
    let reference = measure(&common::uki(), &[]).unwrap().values;
    let uki = |stub: &[u8], base: &[u8], linux: &[u8], initrd: &[u8]| {
        let digest = Digest::sha256(common::configuration().as_bytes());
        let line = CommandLine::assemble(base, &common::root().2, digest).unwrap();
        measure(&build(stub, &line, linux, initrd).unwrap(), &[])
            .unwrap()
            .values
    };
    let (mut stub, mut linux, mut initrd) = (stub(), kernel(), initrd());
    let changed = |values: &std::collections::BTreeMap<u8, _>| {
        let differing = reference
            .iter()
            .filter(|(pcr, value)| values[pcr] != **value);
        differing.map(|(pcr, _)| *pcr).collect::<Vec<_>>()
    };
    let same = uki(&stub, common::BASE, &linux, &initrd);
    assert_eq!(changed(&same), [0; 0]);
    let other = uki(&stub, b"panic=-1 lockdown=none", &linux, &initrd);
    assert_eq!(changed(&other), [4, 9, 11]);
    initrd[5] ^= 1;
    assert_eq!(
        changed(&uki(&stub, common::BASE, &linux, &initrd)),
        [4, 9, 11]
    );
    initrd[5] ^= 1;
    *linux.last_mut().unwrap() ^= 1;
    assert_eq!(changed(&uki(&stub, common::BASE, &linux, &initrd)), [4, 11]);
    *linux.last_mut().unwrap() ^= 1;
    *stub.last_mut().unwrap() ^= 1;
    assert_eq!(changed(&uki(&stub, common::BASE, &linux, &initrd)), [4]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_change_of_an_image_makes_the_reader_panic(
        changes in prop::collection::vec((0usize..700, any::<u8>()), 1..6),
        length in 0usize..1600,
    ) {
        let mut image = two();
        for (at, byte) in changes {
            let at = at % image.len();
            image[at] = byte;
        }
        image.truncate(length.max(600));
        if let Ok(read) = Image::parse(&image) {
            prop_assert!(read.authenticode_pieces().concat().len() <= image.len());
            for section in read.sections() {
                let _ = read.contents(section);
            }
        }
        let _ = build(&image, &line(), &kernel(), &initrd());
    }

    #[test]
    fn no_change_of_a_uki_makes_measuring_panic(at in 0usize..20_000, byte: u8) {
        let mut uki = common::uki();
        let at = at % uki.len();
        uki[at] = byte;
        let _ = measure(&uki, &[]);
    }
}
