//! newc cpio archives, as the kernel unpacks them from an initrd.
//!
//! ```text
//! "070701", 13 fields of 8 hexadecimal digits: inode mode uid gid links mtime size
//!           device major, minor  special major, minor  name length  checksum
//! name, NUL, zeroes to a multiple of 4; data, zeroes to a multiple of 4
//! … last: an entry named "TRAILER!!!"
//! ```
//!
//! Specification: the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.
//! Several archives may follow each other, each at a multiple of 4, zeroes between them.

/// Bytes of an entry's header.
const HEADER_BYTES: usize = 110;
const MAGIC: &[u8; 6] = b"070701";
const TRAILER: &str = "TRAILER!!!";
/// An entry is a directory.
pub const DIRECTORY: u32 = 0o040_000;
/// An entry is a regular file.
pub const FILE: u32 = 0o100_000;

/// How an archive writes its digits; the kernel reads both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Digits {
    Upper,
    Lower,
}

/// One entry of an archive: owned by root, no time, one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Path without a leading slash.
    pub path: &'a str,
    /// Kind and permissions.
    pub mode: u32,
    /// Contents of a file.
    pub data: &'a [u8],
}

/// Why bytes are not an archive as we write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CpioError {
    /// The archive ends inside an entry.
    #[error("the archive ends inside the entry at byte {0}")]
    Truncated(usize),
    /// A header is not 110 characters of the format.
    #[error("the header at byte {0} is malformed")]
    Header(usize),
    /// A name is not one that we write.
    #[error("the name of the entry at byte {0} is malformed")]
    Name(usize),
    /// Bytes that must be zero are not.
    #[error("padding before byte {0} is not zero")]
    Padding(usize),
    /// An entry holds what ours never do (owner, time, links, device), or stands out of order.
    #[error("the entry at byte {0} is not canonical")]
    NotCanonical(usize),
    /// Bytes follow the trailer.
    #[error("bytes follow the archive at byte {0}")]
    Trailing(usize),
}

/// Writes an archive: sequential inodes, no time, all owned by root, no padding after the trailer
/// beyond a multiple of 4.
pub fn write(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, entry) in (1..).zip(entries) {
        push_entry(&mut out, inode, entry, Digits::Upper);
    }
    push_trailer(&mut out, Digits::Upper);
    out
}

/// The archive that systemd-stub 257 appends to the initrd for one of a UKI's sections, measured
/// with it: `.extra` and one file in it.
pub fn stub_extra(name: &str, data: &[u8]) -> Vec<u8> {
    let path = format!(".extra/{name}");
    let folder = Entry {
        path: ".extra",
        mode: DIRECTORY | 0o555,
        data: &[],
    };
    let file = Entry {
        path: &path,
        mode: FILE | 0o444,
        data,
    };
    let mut out = Vec::new();
    push_entry(&mut out, 1, &folder, Digits::Lower);
    push_entry(&mut out, 2, &file, Digits::Lower);
    push_trailer(&mut out, Digits::Upper);
    out
}

/// Zeroes that bring a length to a multiple of 4.
pub fn padding(length: usize) -> &'static [u8] {
    const ZEROES: [u8; 3] = [0; 3];
    &ZEROES[..length.wrapping_neg() % 4]
}

/// Reads an archive that [`write()`] made, and nothing else.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry<'_>>, CpioError> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut at = 0;
    loop {
        let (entry, end) = parse_entry(bytes, at)?;
        let last = entry.path == TRAILER;
        let inode = if last { 0 } else { entries.len() as u32 + 1 };
        let mut canonical = Vec::with_capacity(end - at);
        push_entry(&mut canonical, inode, &entry, Digits::Upper);
        let bare = entry.mode == 0 && entry.data.is_empty();
        if bytes.get(at..end) != Some(&canonical[..]) || (last && !bare) {
            return Err(CpioError::NotCanonical(at));
        }
        if last {
            return match bytes.len() == end {
                true => Ok(entries),
                false => Err(CpioError::Trailing(end)),
            };
        }
        entries.push(entry);
        at = end;
    }
}

/// The last archive of an initrd, where it is one that [`write()`] made; at most `limit` bytes
/// from the end are searched.
pub fn last_archive(initrd: &[u8], limit: usize) -> Option<Vec<Entry<'_>>> {
    if !initrd.len().is_multiple_of(4) {
        return None;
    }
    let first = initrd.len().saturating_sub(limit).next_multiple_of(4);
    let mut starts = (first..initrd.len()).step_by(4);
    // Inodes count from 1 and nothing may follow the trailer: at most one start holds.
    starts.find_map(|at| {
        parse(&initrd[at..])
            .ok()
            .filter(|entries| !entries.is_empty())
    })
}

fn push_trailer(out: &mut Vec<u8>, digits: Digits) {
    let entry = Entry {
        path: TRAILER,
        mode: 0,
        data: &[],
    };
    push_entry(out, 0, &entry, digits);
}

fn push_entry(out: &mut Vec<u8>, inode: u32, entry: &Entry<'_>, digits: Digits) {
    let size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
    let name = u32::try_from(entry.path.len() + 1).unwrap_or(u32::MAX);
    let fields = [inode, entry.mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
    out.extend_from_slice(MAGIC);
    for field in fields {
        let word = match digits {
            Digits::Upper => format!("{field:08X}"),
            Digits::Lower => format!("{field:08x}"),
        };
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(entry.path.as_bytes());
    out.push(0);
    out.extend_from_slice(padding(out.len()));
    out.extend_from_slice(entry.data);
    out.extend_from_slice(padding(out.len()));
}

fn parse_entry(bytes: &[u8], at: usize) -> Result<(Entry<'_>, usize), CpioError> {
    let header = bytes
        .get(at..at + HEADER_BYTES)
        .ok_or(CpioError::Truncated(at))?;
    if !header.starts_with(MAGIC) {
        return Err(CpioError::Header(at));
    }
    let field = |index: usize| {
        let digits = header.get(6 + index * 8..14 + index * 8)?;
        let digits = std::str::from_utf8(digits).ok()?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| plain)
    };
    let field = |index| field(index).ok_or(CpioError::Header(at));
    let (mode, size, name_bytes) = (field(1)?, field(6)? as usize, field(11)? as usize);

    let name_start = at + HEADER_BYTES;
    let name_end = name_start + name_bytes;
    let name = bytes
        .get(name_start..name_end)
        .ok_or(CpioError::Truncated(at))?;
    let name = name.strip_suffix(&[0]).ok_or(CpioError::Name(at))?;
    let path = std::str::from_utf8(name).map_err(|_| CpioError::Name(at))?;
    if path.is_empty() || path.contains('\0') {
        return Err(CpioError::Name(at));
    }
    let data_start = skip_padding(bytes, name_end, at)?;
    let data_end = data_start + size;
    let data = bytes
        .get(data_start..data_end)
        .ok_or(CpioError::Truncated(at))?;
    let end = skip_padding(bytes, data_end, at)?;
    Ok((Entry { path, mode, data }, end))
}

fn skip_padding(bytes: &[u8], from: usize, entry: usize) -> Result<usize, CpioError> {
    let end = from.next_multiple_of(4);
    let zeroes = bytes.get(from..end).ok_or(CpioError::Truncated(entry))?;
    match zeroes.iter().all(|&byte| byte == 0) {
        true => Ok(end),
        false => Err(CpioError::Padding(end)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIG: [Entry<'static>; 2] = [
        Entry {
            path: "cloister",
            mode: DIRECTORY | 0o755,
            data: &[],
        },
        Entry {
            path: "cloister/config.toml",
            mode: FILE | 0o444,
            data: b"version = 1\n\n",
        },
    ];

    #[test]
    fn what_is_written_is_read_again() {
        let archive = write(&CONFIG);
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(parse(&archive).unwrap(), CONFIG);
        let mut initrd = vec![0xaa; 1001];
        initrd.extend_from_slice(padding(initrd.len()));
        initrd.extend_from_slice(&archive);
        assert_eq!(last_archive(&initrd, 1 << 16).unwrap(), CONFIG);
        assert_eq!(last_archive(&initrd[..1000], 1 << 16), None);
    }

    #[test]
    fn the_stubs_archive_has_its_known_form() {
        let archive = stub_extra("os-release", b"ID=x\n");
        assert!(archive.starts_with(b"070701000000010000416d0000000000000000000000010000000"));
        assert!(archive.ends_with(b"TRAILER!!!\0\0\0\0"));
        let trailer = &archive[archive.len() - 124..];
        assert_eq!(&trailer[6 + 8 * 11..6 + 8 * 12], b"0000000B");
    }

    #[test]
    fn each_fault_has_its_own_refusal() {
        let archive = write(&CONFIG);
        let changed = |at: usize, byte: u8| {
            let mut copy = archive.clone();
            copy[at] = byte;
            parse(&copy).map(|_| ()).unwrap_err()
        };
        assert_eq!(changed(0, b'1'), CpioError::Header(0));
        assert_eq!(changed(16, b'g'), CpioError::Header(0));
        assert_eq!(changed(110, 0), CpioError::Name(0));
        assert_eq!(changed(118, b'x'), CpioError::Name(0));
        assert_eq!(changed(119, b'x'), CpioError::Padding(120));
        assert!(matches!(changed(13, b'9'), CpioError::NotCanonical(_)));
        let cut = parse(&archive[..archive.len() - 4]).unwrap_err();
        assert!(matches!(cut, CpioError::Truncated(_)));
        let longer = [&archive[..], &[0; 4]].concat();
        assert_eq!(parse(&longer), Err(CpioError::Trailing(archive.len())));
    }

    proptest! {
        #[test]
        fn a_changed_archive_is_refused_or_says_what_it_holds(at in 0usize..500, byte: u8) {
            let mut archive = write(&CONFIG);
            let at = at % archive.len();
            archive[at] = byte;
            if let Ok(entries) = parse(&archive) {
                prop_assert_eq!(write(&entries), archive);
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
            let _ = last_archive(&bytes, 4096);
        }
    }
}
