//! Adapters in PEFT's layout: loaded onto their base, saved, and refused by name where they ask for more.

#[path = "common/micro.rs"]
mod micro;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use fused_ops::AttentionLayout;
use micro::{copy, edit_json, load, processor, student, write_tensors};
use qwen2_5_vl::{LoraOptions, Model, Positions, has_weights, weights_hash};
use seeded_random::{Draw, Stream};
use serde_json::json;

const TARGETS: [&str; 4] = [
    "q_proj",
    "mlp.up_proj",
    "visual.attn.qkv",
    "visual.merger.mlp.0",
];

/// A student with adapters that do something.
fn adapted() -> Model {
    let mut model = load(&student()).unwrap();
    let options = LoraOptions {
        rank: 4,
        alpha: 8.0,
        targets: TARGETS.map(str::to_string).to_vec(),
    };
    model.add_lora(&options, Stream::new(3)).unwrap();
    let mut draw = Stream::new(4).generator();
    for (name, variable) in model.trainable() {
        assert!(name.contains("lora_"));
        let count = variable.elem_count();
        let values: Vec<f32> = (0..count).map(|_| draw.normal() as f32 * 0.05).collect();
        let value = Tensor::from_vec(values, variable.dims(), &Device::Cpu).unwrap();
        variable.set(&value).unwrap();
    }
    model
}

fn logits(model: &Model) -> Vec<f32> {
    let model = model.detached().unwrap();
    let ids: Vec<u32> = (0..20).collect();
    let embeddings = model.embed(&ids, None).unwrap();
    let (positions, layout) = (Positions::text(0, 20), AttentionLayout::causal(&[20]));
    let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
    let logits = model.logits(&hidden).unwrap();
    logits.flatten_all().unwrap().to_vec1().unwrap()
}

/// A folder with the student in `base` and adapters of it in `adapter`.
fn saved() -> (tempfile::TempDir, Model) {
    let dir = tempfile::tempdir().unwrap();
    let model = adapted();
    std::fs::rename(copy().keep(), dir.path().join("base")).unwrap();
    model
        .save_adapter(&dir.path().join("adapter"), "base")
        .unwrap();
    (dir, model)
}

#[test]
fn what_is_saved_loads_with_equal_logits() {
    let (dir, model) = saved();
    let folder = dir.path().join("adapter");
    let again = load(&folder).unwrap();
    assert_eq!(logits(&again), logits(&model));
    assert_ne!(logits(&again), logits(&load(&student()).unwrap()));
    assert_eq!(again.trainable().len(), model.trainable().len());
    // The processor is the base's.
    processor(&folder).unwrap();
    assert!(has_weights(&folder));
    let hash = weights_hash(&folder).unwrap();
    edit_json(&folder, "adapter_config.json", |c| {
        c["lora_alpha"] = json!(9)
    });
    assert_ne!(weights_hash(&folder).unwrap(), hash);
    assert_ne!(logits(&load(&folder).unwrap()), logits(&model));
    // Beside a base that is named nowhere.
    edit_json(&folder, "adapter_config.json", |c| {
        c["lora_alpha"] = json!(8);
        c["base_model_name_or_path"] = json!("Qwen/Qwen2.5-VL-3B-Instruct");
    });
    let message = load(&folder).unwrap_err();
    for part in [
        "adapter of Qwen/Qwen2.5-VL-3B-Instruct",
        "base_model_name_or_path",
    ] {
        assert!(message.contains(part), "{message}");
    }
    let given = Model::load_adapter(&dir.path().join("base"), &folder, &Device::Cpu, DType::F32);
    assert_eq!(logits(&given.unwrap()), logits(&model));
}

#[test]
fn names_of_both_schemes_patterns_and_rank_stabilised_scaling_load() {
    let (dir, model) = saved();
    let folder = dir.path().join("adapter");
    let expected = logits(&model);
    // alpha / sqrt(rank) = 2 as alpha / rank = 2 was.
    edit_json(&folder, "adapter_config.json", |c| {
        c["use_rslora"] = json!(true);
        c["lora_alpha"] = json!(4);
        c["target_modules"] = json!(
            r"^(?!.*lm_head).*(?:layers\.\d+\.(?:self_attn\.q_proj|mlp\.up_proj)|attn\.qkv|merger\.mlp\.0)$"
        );
    });
    assert_eq!(logits(&load(&folder).unwrap()), expected);
    let file = folder.join("adapter_model.safetensors");
    let all = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    assert!(
        all.keys()
            .all(|name| name.starts_with("base_model.model.model."))
    );
    let older = all
        .iter()
        .map(|(name, tensor)| {
            let name = name
                .replace("model.language_model.", "model.")
                .replace("model.model.visual.", "model.visual.")
                .replace("lora_A.weight", "lora_A.default.weight");
            (name, tensor.clone())
        })
        .collect();
    write_tensors(&folder, "adapter_model.safetensors", &older);
    assert_eq!(logits(&load(&folder).unwrap()), expected);
    let refused = |change: &dyn Fn(&mut std::collections::HashMap<String, Tensor>)| {
        let mut all = all.clone();
        change(&mut all);
        write_tensors(&folder, "adapter_model.safetensors", &all);
        load(&folder).unwrap_err()
    };
    let name = "base_model.model.model.language_model.layers.1.self_attn.q_proj.lora_B.weight";
    let message = refused(&|all| drop(all.remove(name)));
    assert!(
        message.contains("missing") && message.contains("layers.1.self_attn.q_proj.lora_B"),
        "{message}"
    );
    let message = refused(&|all| {
        let other = all[name].clone();
        all.insert(name.replace("q_proj", "k_proj"), other);
    });
    assert!(message.contains("k_proj"), "{message}");
    let message = refused(&|all| {
        all.insert(
            name.into(),
            Tensor::zeros((128, 5), DType::F32, &Device::Cpu).unwrap(),
        );
    });
    assert!(message.contains("expected [128, 4]"), "{message}");
    let message = refused(&|all| {
        let broken = (all[name].clone() * f64::NAN).unwrap();
        all.insert(name.into(), broken);
    });
    assert!(message.contains("no finite number"), "{message}");
}

fn refused(change: impl FnOnce(&Path)) -> String {
    let (dir, _) = saved();
    let folder = dir.path().join("adapter");
    change(&folder);
    let message = load(&folder).unwrap_err();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn what_an_adapter_asks_beyond_plain_lora_is_refused_by_key() {
    for (key, value) in [
        ("modules_to_save", json!(["lm_head", "embed_tokens"])),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("rank_pattern", json!({"q_proj": 8})),
        ("peft_type", json!("IA3")),
        ("r", json!(0)),
        ("r", json!("four")),
        ("lora_alpha", json!(-1)),
        ("lora_alpha", json!(null)),
        ("target_modules", json!(null)),
        ("target_modules", json!("(")),
        ("use_rslora", json!("yes")),
        ("init_lora_weights", json!("pissa_niter_4")),
    ] {
        let message =
            refused(|folder| edit_json(folder, "adapter_config.json", |c| c[key] = value));
        assert!(
            message.contains("adapter_config.json") && message.contains(key),
            "{message}"
        );
    }
    let message = refused(|folder| {
        edit_json(folder, "adapter_config.json", |c| {
            c["target_modules"] = json!(["nothing"])
        });
    });
    assert!(message.contains("target_modules"), "{message}");
}

#[test]
fn damaged_adapters_are_named() {
    let message =
        refused(|folder| std::fs::write(folder.join("adapter_config.json"), "{").unwrap());
    assert!(message.contains("adapter_config.json"), "{message}");
    let message = refused(|folder| {
        std::fs::remove_file(folder.join("adapter_model.safetensors")).unwrap();
        std::fs::write(folder.join("adapter_model.bin"), "").unwrap();
    });
    assert!(message.contains("pickle"), "{message}");
    let message = refused(|folder| {
        let pointer = "version https://git-lfs.github.com/spec/v1\nsize 7\n";
        std::fs::write(folder.join("adapter_model.safetensors"), pointer).unwrap();
    });
    assert!(message.contains("Git LFS pointer"), "{message}");
    let message = refused(|folder| {
        std::fs::copy(
            student().join("model.safetensors"),
            folder.join("model.safetensors"),
        )
        .unwrap();
    });
    assert!(message.contains("whole model and an adapter"), "{message}");
    let message = refused(|folder| {
        std::fs::copy(student().join("config.json"), folder.join("config.json")).unwrap();
        edit_json(folder, "adapter_config.json", |c| {
            c["base_model_name_or_path"] = json!(".")
        });
    });
    assert!(message.contains("itself an adapter"), "{message}");
    assert!(
        load(&student())
            .unwrap()
            .save_adapter(&student(), "x")
            .is_err()
    );
}
