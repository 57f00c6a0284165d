//! The certificates that a host hands to its guests beside the report: the table of GHCB 2.0,
//! section 4.1.8.1, as the kernel shows it in `auxblob`.
//!
//! ```text
//! { GUID (16) ‖ offset (4) ‖ length (4) } …, one of zeros, then the certificates in DER
//! ```
//!
//! The host may put anything there. What is picked out is verified like any other evidence.

use super::{MAX_CERTIFICATE_BYTES, SnpEvidence};
use crate::crl::MAX_CRL_BYTES;
use crate::reader::Reader;

const VCEK: u128 = 0x63da_758d_e664_4564_adc5_f4b9_3be8_accd;
const VLEK: u128 = 0xa807_4bc2_a25a_483e_aae6_39c0_45a0_b8a1;
const ASK: u128 = 0x4ab7_b379_bbac_4fe4_a02f_05ae_f327_c782;
const CRL: u128 = 0x92f8_1bc3_5811_4d3d_97ff_d19f_88dc_67ea;

/// Longest table.
pub const MAX_TABLE_BYTES: usize = 128 << 10;
/// Most entries.
const MAX_ENTRIES: usize = 16;

/// Why bytes are not a table of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Longer than [`MAX_TABLE_BYTES`].
    #[error("{found} bytes, {MAX_TABLE_BYTES} allowed")]
    TooLarge {
        /// Length found.
        found: usize,
    },
    /// No entry of zeros ends it.
    #[error("the table has no end")]
    Endless,
    /// An entry points outside, or to more than fits.
    #[error("an entry points to {length} bytes at {offset}, of {total}")]
    Range {
        /// Where the entry points to.
        offset: u32,
        /// How long it says that is.
        length: u32,
        /// Length of the whole.
        total: usize,
    },
    /// Two entries of one kind.
    #[error("two entries are of one kind")]
    Duplicate,
    /// There is no key's certificate, one of each kind, or none above it.
    #[error("not one of VCEK and VLEK, with the certificate above it")]
    Incomplete,
}

impl SnpEvidence {
    /// Takes the certificates and the revocation list out of a host's table. Unknown kinds, and the
    /// root, which the verifier has, are left out.
    pub fn from_table(report: Vec<u8>, table: &[u8]) -> Result<Self, TableError> {
        let found = table.len();
        if found > MAX_TABLE_BYTES {
            return Err(TableError::TooLarge { found });
        }
        let [vcek, vlek, ask, list] = read(table)?;
        let key = match (vcek, vlek) {
            (Some(key), None) | (None, Some(key)) => key,
            _ => return Err(TableError::Incomplete),
        };
        let ask = ask.ok_or(TableError::Incomplete)?;
        Ok(Self {
            report,
            certificates: vec![key.to_vec(), ask.to_vec()],
            revocation_lists: list.map(<[u8]>::to_vec).into_iter().collect(),
        })
    }
}

/// VCEK, VLEK, ASK and revocation list, as far as they are there.
fn read(table: &[u8]) -> Result<[Option<&[u8]>; 4], TableError> {
    let mut found = [None; 4];
    let mut reader = Reader(table);
    for _ in 0..MAX_ENTRIES {
        let (kind, offset, length) = entry(&mut reader).ok_or(TableError::Endless)?;
        if kind == 0 {
            return Ok(found);
        }
        let (place, limit) = match kind {
            VCEK => (0, MAX_CERTIFICATE_BYTES),
            VLEK => (1, MAX_CERTIFICATE_BYTES),
            ASK => (2, MAX_CERTIFICATE_BYTES),
            CRL => (3, MAX_CRL_BYTES),
            _ => continue,
        };
        let fits = usize::try_from(length).is_ok_and(|length| length <= limit);
        let bytes = slice(table, offset, length).filter(|_| fits);
        let total = table.len();
        let bytes = bytes.ok_or(TableError::Range {
            offset,
            length,
            total,
        })?;
        if found[place].replace(bytes).is_some() {
            return Err(TableError::Duplicate);
        }
    }
    Err(TableError::Endless)
}

fn entry(reader: &mut Reader<'_>) -> Option<(u128, u32, u32)> {
    let mut guid: [u8; 16] = reader.array()?;
    // The first three parts of a GUID are little-endian.
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    Some((
        u128::from_be_bytes(guid),
        reader.u32_le()?,
        reader.u32_le()?,
    ))
}

fn slice(table: &[u8], offset: u32, length: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(length).ok()?)?;
    table.get(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(u128, &[u8])]) -> Vec<u8> {
        let mut head = Vec::new();
        let mut body = Vec::new();
        for (kind, bytes) in entries {
            let mut guid = kind.to_be_bytes();
            guid[..4].reverse();
            guid[4..6].reverse();
            guid[6..8].reverse();
            let offset = 24 * (entries.len() + 1) + body.len();
            head.extend(guid);
            head.extend((offset as u32).to_le_bytes());
            head.extend((bytes.len() as u32).to_le_bytes());
            body.extend(*bytes);
        }
        head.extend([0; 24]);
        [head, body].concat()
    }

    fn error(table: &[u8]) -> TableError {
        SnpEvidence::from_table(Vec::new(), table).unwrap_err()
    }

    #[test]
    fn certificates_are_found_by_their_kind() {
        let ark = 0xc0b4_06a4_a803_4952_9743_3fb6_014c_d0ae;
        let entries = [
            (ark, &b"ark"[..]),
            (CRL, b"crl"),
            (ASK, b"ask"),
            (7, b"?"),
            (VCEK, b"vcek"),
        ];
        let evidence = SnpEvidence::from_table(vec![1], &table(&entries)).unwrap();
        assert_eq!(evidence.report, [1]);
        assert_eq!(evidence.certificates, [b"vcek".to_vec(), b"ask".to_vec()]);
        assert_eq!(evidence.revocation_lists, [b"crl".to_vec()]);
        // VCEK as the specification prints it: 63da758d-e664-4564-adc5-f4b93be8accd.
        let bytes = table(&[(VCEK, &b""[..])]);
        assert_eq!(bytes[..8], [0x8d, 0x75, 0xda, 0x63, 0x64, 0xe6, 0x64, 0x45]);
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        let found = MAX_TABLE_BYTES + 1;
        assert_eq!(error(&vec![0; found]), TableError::TooLarge { found });
        let sound = table(&[(VLEK, b"vlek"), (ASK, b"ask")]);
        assert!(SnpEvidence::from_table(Vec::new(), &sound).is_ok());
        for length in 0..sound.len() {
            assert!(SnpEvidence::from_table(Vec::new(), &sound[..length]).is_err());
        }
        assert_eq!(error(&sound[..20]), TableError::Endless);
        assert_eq!(error(&table(&[(7, &b""[..]); 17])), TableError::Endless);
        let range = TableError::Range {
            offset: 72,
            length: 4,
            total: 75,
        };
        assert_eq!(error(&sound[..75]), range);
        let mut far = sound;
        far[16..24].fill(0xff);
        assert!(matches!(error(&far), TableError::Range { .. }));
        let long = vec![0; MAX_CERTIFICATE_BYTES + 1];
        assert!(matches!(
            error(&table(&[(ASK, &long)])),
            TableError::Range { .. }
        ));
        assert_eq!(
            error(&table(&[(ASK, b"a"), (ASK, b"a")])),
            TableError::Duplicate
        );
        for entries in [
            &[(ASK, &b"a"[..])][..],
            &[(VCEK, b"a")],
            &[(VCEK, b"a"), (VLEK, b"a"), (ASK, b"a")],
        ] {
            assert_eq!(error(&table(entries)), TableError::Incomplete);
        }
    }
}
