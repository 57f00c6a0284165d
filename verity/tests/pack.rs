//! Model volumes: what goes in, what is refused, and that names and contents alone decide.
#![allow(clippy::unwrap_used)] // helpers of tests, which clippy does not see as tests

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use verity::gpt::Table;
use verity::pack::{FolderError, ModelFolder, pack};
use verity::tree::{self, Area};
use verity::{TensorError, VolumeRef};

mod common;

/// The name of the folder that [`model`] makes.
const NAME: &str = "verity1:\
    3b2a8eb86cb36635c9a3293af526f1c19569af984b9e331d89b172440bda96fe:\
    06eec20cf991e967329ce371ac5597ab69b683e015fb7317cfa025dca8201e76:311";

fn tensors(bytes: usize) -> Vec<u8> {
    let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":"#;
    let header = format!(r#"{{"__metadata__":{{"x":"y"}},"a":{tensor}[0,{bytes}]}}}}"#);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend((0..bytes).map(|index| (index % 253) as u8));
    file
}

/// A folder that looks like a small sharded model, with things beside it that do not belong.
fn model(folder: &Path) {
    fs::create_dir_all(folder.join("onnx")).unwrap();
    let index = r#"{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 9] = [
        ("config.json", b"{\"model_type\":\"llama\"}"),
        ("tokenizer.json", b"{}"),
        ("empty.json", b""),
        ("chat_template.jinja", b"{{ messages }}"),
        ("model.safetensors.index.json", index.as_bytes()),
        ("model-1.safetensors", &tensors(10_000)),
        ("model-2.safetensors", &tensors(4096 * 300)),
        ("README.md", b"left out"),
        (".hidden.json", b"{}"),
    ];
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

fn packed(folder: &Path, image: &Path) -> VolumeRef {
    pack(&ModelFolder::open(folder).unwrap(), image, &|_| {}).unwrap()
}

#[test]
fn names_and_contents_alone_decide_the_bytes() {
    let place = tempfile::tempdir().unwrap();
    let (one, two) = (place.path().join("one"), place.path().join("another/place"));
    model(&one);
    model(&two);
    fs::write(two.join("notes.txt"), "left out").unwrap();
    let moved = two.join("blob");
    fs::rename(two.join("config.json"), &moved).unwrap();
    std::os::unix::fs::symlink(&moved, two.join("config.json")).unwrap();
    let config = File::options().write(true).open(&moved).unwrap();
    config
        .set_permissions(fs::Permissions::from_mode(0o640))
        .unwrap();
    config
        .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1))
        .unwrap();
    let images = [place.path().join("1.img"), place.path().join("2.img")];
    let volume = packed(&one, &images[0]);
    assert_eq!(volume, packed(&two, &images[1]));
    assert!(fs::read(&images[0]).unwrap() == fs::read(&images[1]).unwrap());
    // The layout is a promise: a model keeps its name from one version of the tool to the next.
    assert_eq!(
        volume.to_string(),
        NAME,
        "the same folder has another name now"
    );

    fs::write(one.join("config.json"), b"{\"model_type\":\"Llama\"}").unwrap();
    let changed = packed(&one, &images[0]);
    assert_ne!(
        (volume.root_hash(), volume.salt()),
        (changed.root_hash(), changed.salt())
    );
}

#[test]
fn an_image_holds_the_volume_that_its_name_says() {
    let place = tempfile::tempdir().unwrap();
    let (folder, image) = (place.path().join("model"), place.path().join("image"));
    model(&folder);
    let volume = packed(&folder, &image);
    let image = File::open(image).unwrap();
    let table = Table::read(&image).unwrap();
    let [data, hash] = table.entries() else {
        panic!("two partitions")
    };
    assert_eq!(
        (data.unique_guid, hash.unique_guid),
        (volume.data_guid(), volume.hash_guid())
    );
    assert_eq!(data.size_bytes(), volume.data_bytes());
    let area = |entry: &verity::gpt::Entry| Area {
        file: &image,
        offset: entry.offset_bytes(),
    };
    tree::verify(&volume, area(data), area(hash), &|_| {}).unwrap();
}

/// Has erofs-utils check the image and take the files out again.
fn extract(files: &Path, place: &Path) -> Option<PathBuf> {
    let image = place.join("image");
    pack(
        &ModelFolder::open_unchecked(files).unwrap(),
        &image,
        &|_| {},
    )
    .unwrap();
    let bytes = fs::read(&image).unwrap();
    let table = Table::parse(&bytes).unwrap();
    let data = &table.entries()[0];
    let (start, length) = (data.offset_bytes() as usize, data.size_bytes() as usize);
    let erofs = place.join("erofs");
    fs::write(&erofs, &bytes[start..start + length]).unwrap();
    let output = place.join("out");
    let mut command = common::reference("fsck.erofs")?;
    let result = command
        .arg(format!("--extract={}", output.display()))
        .arg(&erofs)
        .output();
    let result = result.unwrap();
    assert!(
        result.status.success(),
        "{}",
        String::from_utf8_lossy(&result.stderr)
    );
    Some(output)
}

#[test]
fn another_implementation_reads_the_file_system() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    model(&folder);
    let Some(output) = extract(&folder, place.path()) else {
        return;
    };
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(&output).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(fs::read(output.join(&name)).unwrap() == fs::read(folder.join(&name)).unwrap());
        names.push(name);
    }
    names.sort();
    let expected = ModelFolder::open(&folder).unwrap();
    let expected: Vec<&str> = expected
        .files()
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, expected);
}

#[test]
fn a_folder_of_many_blocks_is_read_back_whole() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("many");
    fs::create_dir(&folder).unwrap();
    for index in 0..1500 {
        // Some names sort before "." and "..", and lengths leave gaps at the ends of blocks.
        let start = ["+", "-", "A", "~"][index % 4];
        let name = format!("{start}{index:04}{}.json", "x".repeat(index % 200));
        fs::write(folder.join(name), "y".repeat(index * 7)).unwrap();
    }
    let Some(output) = extract(&folder, place.path()) else {
        return;
    };
    assert_eq!(fs::read_dir(&output).unwrap().count(), 1500);
    for entry in fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(
            fs::read(output.join(&name)).unwrap(),
            fs::read(folder.join(&name)).unwrap()
        );
    }
}

type Damage = fn(&Path);
type Check = fn(&FolderError) -> bool;

/// What is done to a good folder, and what must be said.
const DAMAGES: [(Damage, Check); 10] = [
    (
        |f| fs::remove_dir_all(f).unwrap(),
        |e| matches!(e, FolderError::List { .. }),
    ),
    (
        |f| fs::remove_file(f.join("config.json")).unwrap(),
        |e| matches!(e, FolderError::Missing("config.json")),
    ),
    (
        |f| fs::remove_file(f.join("tokenizer.json")).unwrap(),
        |e| matches!(e, FolderError::Missing("tokenizer.json")),
    ),
    (
        |f| {
            fs::remove_file(f.join("model-1.safetensors")).unwrap();
            fs::remove_file(f.join("model-2.safetensors")).unwrap();
        },
        |e| matches!(e, FolderError::NoWeights),
    ),
    (
        |f| fs::remove_file(f.join("model-2.safetensors")).unwrap(),
        |e| matches!(e, FolderError::MissingShard { shard, .. } if shard.contains("-2.")),
    ),
    (
        |f| fs::write(f.join("config.json"), "[]").unwrap(),
        |e| matches!(e, FolderError::NotJson(name) if name == "config.json"),
    ),
    (
        |f| {
            let file = File::options()
                .write(true)
                .open(f.join("model-1.safetensors"));
            file.unwrap().set_len(9_000).unwrap();
        },
        |e| {
            let length = |s: &TensorError| matches!(s, TensorError::Length { found: 9_000, .. });
            matches!(e, FolderError::Tensors { source, .. } if length(source))
        },
    ),
    (
        |f| {
            let path = f.join("model-1.safetensors");
            File::options()
                .append(true)
                .open(path)
                .unwrap()
                .write_all(b"x")
                .unwrap();
        },
        |e| {
            let length = |s: &TensorError| matches!(s, TensorError::Length { .. });
            matches!(e, FolderError::Tensors { source, .. } if length(source))
        },
    ),
    (
        |f| {
            let file = File::options()
                .write(true)
                .open(f.join("model-1.safetensors"));
            file.unwrap()
                .write_all_at(&u64::MAX.to_le_bytes(), 0)
                .unwrap();
        },
        |e| {
            matches!(
                e,
                FolderError::Tensors {
                    source: TensorError::Header,
                    ..
                }
            )
        },
    ),
    (
        |f| std::os::unix::fs::symlink("nowhere", f.join("dangling.json")).unwrap(),
        |e| matches!(e, FolderError::Read { .. }),
    ),
];

#[test]
fn a_folder_that_is_no_model_is_refused() {
    for (number, (damage, check)) in DAMAGES.into_iter().enumerate() {
        let place = tempfile::tempdir().unwrap();
        model(place.path());
        damage(place.path());
        let error = ModelFolder::open(place.path()).unwrap_err();
        assert!(check(&error), "case {number}: {error}");
        if !place.path().exists() {
            fs::create_dir(place.path()).unwrap();
        }
    }
}

#[test]
fn a_failed_pack_leaves_nothing_behind() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("model");
    model(&folder);
    let opened = ModelFolder::open(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap(); // shorter than it was
    let image = place.path().join("image");
    let error = pack(&opened, &image, &|_| {}).unwrap_err();
    assert!(
        matches!(error, verity::pack::PackError::Changed(_)),
        "{error}"
    );
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
}
