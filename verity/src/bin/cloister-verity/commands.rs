//! The four commands; each gives its report as text and as JSON.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde_json::{Value, json};
use verity::gpt::{Entry, Table};
use verity::pack::{self, ModelFolder};
use verity::superblock::{SUPERBLOCK_BYTES, Superblock};
use verity::tree::{self, Area};
use verity::{Guid, VolumeRef};

use crate::failure::{Failure, printable};
use crate::progress::Meter;

/// What a command has to say.
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) json: Value,
}

pub(crate) fn format(
    data: &Path,
    hash: &Path,
    salt: Option<[u8; 32]>,
    uuid: Option<Guid>,
) -> Result<Report, Failure> {
    let salt = salt.map_or_else(random_salt, Ok)?;
    let mut data_file = open(data)?;
    if std::fs::canonicalize(data).ok() == std::fs::canonicalize(hash).ok() {
        return Err(Failure::SameFile(data.to_owned()));
    }
    // Block devices have no length in their metadata, but an end.
    let data_bytes = data_file
        .seek(SeekFrom::End(0))
        .map_err(|source| cannot_open(data, source))?;
    let hash_file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(hash);
    let hash_file = hash_file.map_err(|source| Failure::Create {
        path: hash.to_owned(),
        source,
    })?;
    let meter = Meter::new(data_bytes);
    let (area, hash_area) = (Area::whole(&data_file), Area::whole(&hash_file));
    let volume = tree::format(area, data_bytes, hash_area, salt, uuid, &|n| meter.add(n));
    let volume = volume.map_err(|source| Failure::Format {
        path: data.to_owned(),
        source,
    })?;
    Ok(Report {
        text: format!("{volume}\n"),
        json: json!({ "volume": volume.to_string() }),
    })
}

pub(crate) fn verify(
    volume: &VolumeRef,
    data: &Path,
    hash: Option<&Path>,
) -> Result<Report, Failure> {
    let data_file = open(data)?;
    let hash_file = hash.map(open).transpose()?;
    let (data_area, hash_area) = match &hash_file {
        Some(hash_file) => (Area::whole(&data_file), Area::whole(hash_file)),
        None => areas_in_image(volume, data, &data_file)?,
    };
    let meter = Meter::new(volume.data_bytes());
    let verified = tree::verify(volume, data_area, hash_area, &|bytes| meter.add(bytes));
    verified.map_err(|source| Failure::Verify {
        path: data.to_owned(),
        source,
    })?;
    let blocks = volume.data_blocks();
    Ok(Report {
        text: format!(
            "verified: {blocks} blocks, root hash {}\n",
            hex(volume.root_hash())
        ),
        json: json!({ "verified": true, "volume": volume.to_string() }),
    })
}

pub(crate) fn dump(path: &Path) -> Result<Report, Failure> {
    let file = open(path)?;
    if let Some(superblock) = superblock_at(&file, 0) {
        return Ok(Report {
            text: superblock_text(&superblock),
            json: json!({ "superblock": superblock_json(&superblock) }),
        });
    }
    let Ok(table) = Table::read(&file) else {
        return Err(Failure::Unknown(path.to_owned()));
    };
    let mut text = format!("disk {}\n", table.disk_guid());
    let mut partitions = Vec::new();
    for entry in table.entries() {
        let superblock = superblock_at(&file, entry.offset_bytes());
        text.push_str(&partition_text(entry));
        text.push_str(&superblock.as_ref().map(superblock_text).unwrap_or_default());
        partitions.push(partition_json(entry, superblock.as_ref()));
    }
    Ok(Report {
        text,
        json: json!({ "disk": table.disk_guid().to_string(), "partitions": partitions }),
    })
}

pub(crate) fn pack(model_dir: &Path, output: &Path) -> Result<Report, Failure> {
    let folder = ModelFolder::open(model_dir).map_err(|source| Failure::Folder {
        path: model_dir.to_owned(),
        source,
    })?;
    let failed = |source| Failure::Pack {
        path: model_dir.to_owned(),
        source,
    };
    let meter = Meter::new(pack::work_bytes(&folder).map_err(|error| failed(error.into()))?);
    let volume = pack::pack(&folder, output, &|bytes| meter.add(bytes)).map_err(failed)?;
    drop(meter);
    if !folder.left_out().is_empty() {
        let names: Vec<String> = folder
            .left_out()
            .iter()
            .map(|name| printable(name))
            .collect();
        eprintln!("left out: {}", names.join(", "));
    }
    let files: Vec<&str> = folder
        .files()
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    Ok(Report {
        text: format!("{volume}\n"),
        json: json!({
            "volume": volume.to_string(),
            "image": output.display().to_string(),
            "files": files,
            "left_out": folder.left_out(),
        }),
    })
}

fn open(path: &Path) -> Result<File, Failure> {
    File::open(path).map_err(|source| cannot_open(path, source))
}

fn cannot_open(path: &Path, source: std::io::Error) -> Failure {
    Failure::Open {
        path: path.to_owned(),
        source,
    }
}

fn random_salt() -> Result<[u8; 32], Failure> {
    let mut salt = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut salt));
    read.map(|()| salt).map_err(Failure::Random)
}

/// The two partitions of the volume, found by the GUIDs that its root hash implies.
fn areas_in_image<'a>(
    volume: &VolumeRef,
    path: &Path,
    image: &'a File,
) -> Result<(Area<'a>, Area<'a>), Failure> {
    let table = Table::read(image).ok();
    let entries = table.as_ref().map_or(&[][..], Table::entries);
    let area = |guid, role| {
        let entry = entries.iter().find(|entry| entry.unique_guid == guid);
        let entry = entry.ok_or(Failure::NoPartition {
            path: path.to_owned(),
            role,
        })?;
        Ok(Area {
            file: image,
            offset: entry.offset_bytes(),
        })
    };
    Ok((
        area(volume.data_guid(), "data")?,
        area(volume.hash_guid(), "hash")?,
    ))
}

fn superblock_at(file: &File, offset: u64) -> Option<Superblock> {
    let mut bytes = [0; SUPERBLOCK_BYTES];
    file.read_exact_at(&mut bytes, offset).ok()?;
    Superblock::parse(&bytes).ok()
}

fn superblock_text(superblock: &Superblock) -> String {
    format!(
        "  verity superblock\n    uuid         {}\n    data blocks  {}\n    hash blocks  {}\n    \
         salt         {}\n",
        superblock.uuid,
        superblock.data_blocks,
        tree::hash_blocks(superblock.data_blocks),
        hex(&superblock.salt),
    )
}

fn superblock_json(superblock: &Superblock) -> Value {
    json!({
        "uuid": superblock.uuid.to_string(),
        "data_blocks": superblock.data_blocks,
        "hash_blocks": tree::hash_blocks(superblock.data_blocks),
        "salt": hex(&superblock.salt),
    })
}

fn partition_text(entry: &Entry) -> String {
    format!(
        "partition {}  {}\n  type    {}\n  guid    {}\n  bytes   {} from {}\n",
        entry.number,
        printable(&entry.name),
        entry.type_guid,
        entry.unique_guid,
        entry.size_bytes(),
        entry.offset_bytes(),
    )
}

fn partition_json(entry: &Entry, superblock: Option<&Superblock>) -> Value {
    json!({
        "number": entry.number,
        "name": entry.name,
        "type_guid": entry.type_guid.to_string(),
        "unique_guid": entry.unique_guid.to_string(),
        "offset_bytes": entry.offset_bytes(),
        "size_bytes": entry.size_bytes(),
        "superblock": superblock.map(superblock_json),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
