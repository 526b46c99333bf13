//! Edits of the small checkpoint that the repository ships.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qwen2_5_vl::{Model, Processor};
use serde_json::Value;

/// The folder of the shipped student.
pub fn student() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../replicate/checkpoints/micro/student")
}

/// A copy of it in a folder of its own.
pub fn copy() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(student()).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

pub fn load(dir: &Path) -> Result<Model, String> {
    Model::load(dir, &Device::Cpu, DType::F32).map_err(|error| error.to_string())
}

pub fn processor(dir: &Path) -> Result<Processor, String> {
    Processor::load(dir).map_err(|error| error.to_string())
}

pub fn edit_json(dir: &Path, name: &str, change: impl FnOnce(&mut Value)) {
    let path = dir.join(name);
    let mut value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

pub fn tensors(dir: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()
}

pub fn write_tensors(dir: &Path, file: &str, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, dir.join(file)).unwrap();
}

/// Changes the weights' names and values.
pub fn edit_tensors(dir: &Path, change: impl FnOnce(&mut HashMap<String, Tensor>)) {
    let mut all = tensors(dir);
    change(&mut all);
    write_tensors(dir, "model.safetensors", &all);
}

/// The one line that a damaged copy is refused with.
pub fn refused(damage: impl FnOnce(&Path)) -> String {
    let dir = copy();
    damage(dir.path());
    let message = load(dir.path()).unwrap_err();
    assert!(!message.contains('\n'), "{message}");
    assert!(message.len() < 1200, "{} bytes: {message}", message.len());
    message.replace(dir.path().to_str().unwrap(), "DIR")
}
