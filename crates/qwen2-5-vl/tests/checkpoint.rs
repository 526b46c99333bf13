//! Checkpoints: what is written reads back, under both naming schemes, and damage is named.

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use common::{model, values};
use qwen2_5_vl::Model;

fn load(dir: &Path) -> Result<Model, String> {
    Model::load(dir, &Device::Cpu, DType::F32).map_err(|error| error.to_string())
}

fn same(a: &Model, b: &Model) {
    assert_eq!(a.config(), b.config());
    assert_eq!(a.parameters().len(), b.parameters().len());
    for ((name, x), (other, y)) in a.parameters().iter().zip(b.parameters().iter()) {
        assert_eq!(name, other);
        assert_eq!(values(x), values(y), "{name}");
    }
}

fn tensors(dir: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap()
}

fn write(dir: &Path, file: &str, tensors: &HashMap<String, Tensor>) {
    candle_core::safetensors::save(tensors, dir.join(file)).unwrap();
}

fn saved(tied: bool) -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let model = model(tied, 1);
    model.save(dir.path()).unwrap();
    (dir, model)
}

/// Replaces the single file by two shards and their index.
fn shard(dir: &Path) {
    let (mut first, mut second, mut map) = (HashMap::new(), HashMap::new(), BTreeMap::new());
    for (index, (name, tensor)) in tensors(dir).into_iter().enumerate() {
        let (shard, file) = match index % 2 {
            0 => (&mut first, "model-00001-of-00002.safetensors"),
            _ => (&mut second, "model-00002-of-00002.safetensors"),
        };
        map.insert(name.clone(), file);
        shard.insert(name, tensor);
    }
    write(dir, "model-00001-of-00002.safetensors", &first);
    write(dir, "model-00002-of-00002.safetensors", &second);
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::remove_file(dir.join("model.safetensors")).unwrap();
}

#[test]
fn what_is_saved_reads_back() {
    for tied in [true, false] {
        let (dir, model) = saved(tied);
        same(&load(dir.path()).unwrap(), &model);
        // Nothing is left beside the two files, and saving again is byte for byte the same.
        let mut files: Vec<String> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["config.json", "model.safetensors"]);
        let read = || std::fs::read(dir.path().join("model.safetensors")).unwrap();
        let before = read();
        load(dir.path()).unwrap().save(dir.path()).unwrap();
        assert!(before == read());
    }
}

#[test]
fn shards_and_the_module_names_read_too() {
    let (dir, model) = saved(false);
    let renamed: HashMap<String, Tensor> = tensors(dir.path())
        .into_iter()
        .map(|(name, tensor)| {
            let name = match name.strip_prefix("model.") {
                Some(rest) => format!("model.language_model.{rest}"),
                None if name.starts_with("visual.") => format!("model.{name}"),
                None => name,
            };
            (name, tensor)
        })
        .collect();
    write(dir.path(), "model.safetensors", &renamed);
    same(&load(dir.path()).unwrap(), &model);
    shard(dir.path());
    same(&load(dir.path()).unwrap(), &model);
}

#[test]
fn a_tied_head_may_be_stored_if_it_is_the_embedding() {
    let (dir, model) = saved(true);
    let mut all = tensors(dir.path());
    all.insert(
        "lm_head.weight".into(),
        all["model.embed_tokens.weight"].clone(),
    );
    write(dir.path(), "model.safetensors", &all);
    same(&load(dir.path()).unwrap(), &model);
    all.insert(
        "lm_head.weight".into(),
        (all["model.embed_tokens.weight"].clone() * 2.0).unwrap(),
    );
    write(dir.path(), "model.safetensors", &all);
    assert!(
        load(dir.path())
            .unwrap_err()
            .contains("tie_word_embeddings")
    );
}

#[test]
fn every_wrong_tensor_is_named() {
    let (dir, _) = saved(false);
    let mut all = tensors(dir.path());
    all.remove("model.layers.1.mlp.up_proj.weight").unwrap();
    all.remove("visual.merger.mlp.2.bias").unwrap();
    let square = Tensor::zeros((5, 5), DType::F32, &Device::Cpu).unwrap();
    all.insert("model.norm.weight".into(), square.clone());
    all.insert("model.layers.9.mlp.up_proj.weight".into(), square.clone());
    all.insert(
        "model.language_model.layers.0.input_layernorm.weight".into(),
        all["model.layers.0.input_layernorm.weight"].clone(),
    );
    // Buffers of old versions are no fault.
    all.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        square,
    );
    write(dir.path(), "model.safetensors", &all);
    let message = load(dir.path()).unwrap_err();
    for part in [
        "5 faults",
        "missing model.layers.1.mlp.up_proj.weight",
        "missing visual.merger.mlp.2.bias",
        "model.norm.weight has shape [5, 5], expected [24]",
        "unexpected model.layers.9.mlp.up_proj.weight",
        "layers.0.input_layernorm.weight is there twice",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn damaged_files_are_named() {
    let (dir, _) = saved(true);
    let file = dir.path().join("model.safetensors");
    let whole = std::fs::read(&file).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let message = load(dir.path()).unwrap_err();
        assert!(
            message.contains("model.safetensors") && message.contains("fetch it again"),
            "{message}"
        );
    };
    for length in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..length]);
    }
    let mut longer = whole.clone();
    longer.push(0);
    refused(&longer);
    let mut header = whole.clone();
    header[20] = b'"';
    header[21] = 0xff;
    refused(&header);
    let mut huge = whole;
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused(&huge);
}

#[test]
fn missing_files_are_named() {
    let (dir, _) = saved(true);
    shard(dir.path());
    let gone = "model-00002-of-00002.safetensors";
    std::fs::remove_file(dir.path().join(gone)).unwrap();
    let message = load(dir.path()).unwrap_err();
    assert!(
        message.contains(gone) && message.contains("missing"),
        "{message}"
    );
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(
        &index,
        r#"{"weight_map": {"a": "../elsewhere.safetensors"}}"#,
    )
    .unwrap();
    assert!(load(dir.path()).unwrap_err().contains("plain file name"));
    std::fs::write(&index, "{}").unwrap();
    assert!(load(dir.path()).unwrap_err().contains("weight index"));
    std::fs::remove_file(&index).unwrap();
    assert!(load(dir.path()).unwrap_err().contains("neither"));
    std::fs::write(dir.path().join("config.json"), r#"{"hidden_size": 7}"#).unwrap();
    assert!(load(dir.path()).unwrap_err().contains("config.json"));
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(load(dir.path()).unwrap_err().contains("config.json"));
}

#[test]
fn half_precision_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let half = model(true, 1).copy(DType::BF16).unwrap();
    half.save(dir.path()).unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    assert!(config.contains("\"torch_dtype\": \"bfloat16\""));
    let found = tensors(dir.path());
    assert!(found.values().all(|tensor| tensor.dtype() == DType::BF16));
    same(&load(dir.path()).unwrap(), &half.copy(DType::F32).unwrap());
}
