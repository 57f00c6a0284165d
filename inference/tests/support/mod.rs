//! A copy of a fixture that a test can break.

#![allow(clippy::expect_used, dead_code)] // helpers may fail, and each test uses some of them

use std::fs;
use std::path::Path;

use inference::{Engine, EngineLimits, LoadError, Model};
use serde_json::Value;
use tempfile::TempDir;

/// A copy of a fixture that can be broken.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn copy(name: &str) -> Self {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
        let rooms = ["llama", "families", "quantised"].map(|room| fixtures.join(room));
        let mut rooms = rooms.into_iter();
        let fixtures = rooms
            .find(|room| room.join(name).exists())
            .expect("a fixture");
        let folder = tempfile::tempdir().expect("a folder");
        for entry in fs::read_dir(fixtures.join(name)).expect("a fixture") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name");
            fs::write(folder.path().join(name), fs::read(&path).expect("bytes")).expect("a copy");
        }
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.0.path().join(file)).expect("bytes")
    }

    pub(crate) fn write(&self, file: &str, bytes: &[u8]) {
        fs::write(self.0.path().join(file), bytes).expect("written");
    }

    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.0.path().join(file)).expect("removed");
    }

    pub(crate) fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut value = serde_json::from_slice(&self.read(file)).expect("JSON");
        change(&mut value);
        self.write(file, value.to_string().as_bytes());
    }

    /// Changes the header of a safetensors file and keeps its data.
    pub(crate) fn edit_header(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let bytes = self.read(file);
        let (length, rest) = bytes.split_first_chunk().expect("a length");
        let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
        let mut header = serde_json::from_slice(header).expect("JSON");
        change(&mut header);
        let header = header.to_string();
        let length = (header.len() as u64).to_le_bytes();
        self.write(file, &[&length, header.as_bytes(), data].concat());
    }

    pub(crate) fn refusal(&self) -> String {
        let limits = EngineLimits {
            context_tokens: 256,
            ..Default::default()
        };
        let refusal = Engine::open(self.0.path(), limits)
            .expect_err("a refusal")
            .to_string();
        assert!(!refusal.contains('\n') && refusal.len() < 300, "{refusal}");
        refusal
    }

    /// Overwrites the first bytes of a tensor of `model.safetensors`.
    pub(crate) fn overwrite(&self, tensor: &str, new: &[u8]) {
        let mut bytes = self.read("model.safetensors");
        let length = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..8 + length]).expect("JSON");
        let start = header[tensor]["data_offsets"][0]
            .as_u64()
            .expect("a tensor") as usize;
        bytes[8 + length + start..][..new.len()].copy_from_slice(new);
        self.write("model.safetensors", &bytes);
    }

    /// Refused without a tokenizer, by the model alone.
    pub(crate) fn model_refusal(&self) -> LoadError {
        Model::open(self.path(), None).expect_err("a refusal")
    }
}
