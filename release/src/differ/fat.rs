//! EFI system partitions that boot the same program: which entry of a folder differs, and what of
//! it.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};

use fatfs::{Date, DateTime, Dir, FileSystem, FsOptions};

use super::{Cause, Difference, content};

/// Most entries, and folders in each other, that are read.
const MAX_ENTRIES: usize = 4096;
const MAX_DEPTH: usize = 16;
/// Most bytes of all files that are read.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    attributes: u8,
    created: String,
    modified: String,
    accessed: String,
    contents: Vec<u8>,
}

/// The first entry of two partitions that differs; `None` if none does, or if one of them cannot
/// be read.
pub fn compare(mut theirs: Vec<u8>, mut ours: Vec<u8>) -> Option<Difference> {
    let (left, right) = (entries(&mut theirs).ok()?, entries(&mut ours).ok()?);
    let field = |name: &str, left: &str, right: &str, cause| {
        (left != right).then(|| Difference::new(name, left, right, cause))
    };
    let mut paths: Vec<&String> = left.keys().chain(right.keys()).collect();
    paths.sort();
    paths.dedup();
    paths.into_iter().find_map(|path| {
        let found = match (left.get(path), right.get(path)) {
            (Some(one), Some(other)) => content(&one.contents, &other.contents)
                .or_else(|| {
                    let shown = |side: &Entry| format!("{:#04x}", side.attributes);
                    field("attributes", &shown(one), &shown(other), Cause::Mode)
                })
                .or_else(|| field("created", &one.created, &other.created, Cause::Timestamp))
                .or_else(|| field("modified", &one.modified, &other.modified, Cause::Timestamp))
                .or_else(|| field("accessed", &one.accessed, &other.accessed, Cause::Timestamp)),
            (one, other) => {
                let side = |there: bool| if there { "there" } else { "not there" };
                field(
                    "path",
                    side(one.is_some()),
                    side(other.is_some()),
                    Cause::Missing,
                )
            }
        };
        found.map(|found| found.within(path))
    })
}

fn entries(partition: &mut [u8]) -> io::Result<BTreeMap<String, Entry>> {
    let files = FileSystem::new(Cursor::new(partition), FsOptions::new())?;
    let mut found = BTreeMap::new();
    let mut left = MAX_BYTES;
    read(&files.root_dir(), "", 0, &mut left, &mut found)?;
    Ok(found)
}

fn read<T: fatfs::ReadWriteSeek>(
    folder: &Dir<'_, T>,
    above: &str,
    depth: usize,
    left: &mut u64,
    found: &mut BTreeMap<String, Entry>,
) -> io::Result<()> {
    for (count, entry) in folder.iter().enumerate() {
        let entry = entry?;
        let name = entry.file_name();
        if count > MAX_ENTRIES || found.len() > MAX_ENTRIES || depth > MAX_DEPTH {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let path = format!("{above}/{name}");
        let mut contents = Vec::new();
        if entry.is_file() {
            let file = entry.to_file();
            *left -= file.take(*left).read_to_end(&mut contents)? as u64;
        } else if ![".", ".."].contains(&&*name) {
            read(&entry.to_dir(), &path, depth + 1, left, found)?;
        }
        let entry = Entry {
            attributes: entry.attributes().bits(),
            created: time(entry.created()),
            modified: time(entry.modified()),
            accessed: date(entry.accessed()),
            contents,
        };
        found.insert(path, entry);
    }
    Ok(())
}

fn date(date: Date) -> String {
    format!("{:04}-{:02}-{:02}", date.year, date.month, date.day)
}

fn time(at: DateTime) -> String {
    let time = at.time;
    let (hour, minute, second) = (time.hour, time.min, time.sec);
    format!(
        "{} {hour:02}:{minute:02}:{second:02}.{:03}",
        date(at.date),
        time.millis
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_time_of_a_folder_is_a_timestamp() {
        let theirs = crate::esp::build(&[7; 1000]).unwrap();
        assert_eq!(compare(theirs.clone(), theirs.clone()), None);
        // The entry of the first folder, of 32 bytes: its day of change stands at 24.
        let name = theirs
            .windows(11)
            .position(|w| w == b"EFI        ")
            .unwrap();
        let mut ours = theirs.clone();
        ours[name + 24] = 0x22;
        let found = compare(theirs.clone(), ours).unwrap();
        assert_eq!(found.place, ["/EFI", "modified"]);
        assert_eq!(
            (&*found.theirs, found.cause),
            ("1980-01-01 00:00:00.000", Cause::Timestamp)
        );
        assert!(found.ours.starts_with("1980-01-02"), "{}", found.ours);
        let mut ours = theirs.clone();
        ours[name + 11] |= 2;
        let found = compare(theirs.clone(), ours).unwrap();
        assert_eq!((&*found.place[1], found.cause), ("attributes", Cause::Mode));
        let other = crate::esp::build(&[8; 1000]).unwrap();
        let found = compare(theirs.clone(), other).unwrap();
        assert_eq!(found.place, ["/EFI/BOOT/BOOTX64.EFI", "byte 0"]);
        assert_eq!(compare(theirs, b"no partition".to_vec()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_changed_partition_is_read_or_refused(
            changes in prop::collection::vec((0usize..700_000, any::<u8>()), 1..20),
        ) {
            let theirs = crate::esp::build(&[7; 1000]).unwrap();
            let mut ours = theirs.clone();
            for (at, byte) in changes {
                ours[at] = byte;
            }
            let _ = compare(theirs, ours);
        }
    }
}
