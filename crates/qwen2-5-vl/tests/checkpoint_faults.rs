//! Checkpoints as people have them: what is wrong with one is said in one line that names the cause.

#[path = "common/micro.rs"]
mod micro;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use micro::{copy, edit_json, edit_tensors, load, processor, refused, student, tensors};
use qwen2_5_vl::{Config, Model, has_weights, weights_hash};
use seeded_random::Stream;
use serde_json::{Value, json};

fn config_refused(change: impl FnOnce(&mut Value)) -> String {
    refused(|dir| edit_json(dir, "config.json", change))
}

fn contains(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
    oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 2801048\n";

#[test]
fn a_git_lfs_pointer_is_called_one_wherever_a_file_belongs() {
    let message = refused(|dir| std::fs::write(dir.join("model.safetensors"), POINTER).unwrap());
    contains(
        &message,
        &[
            "DIR/model.safetensors",
            "Git LFS pointer",
            "2801048 bytes",
            "git lfs pull",
        ],
    );
    let message = refused(|dir| std::fs::write(dir.join("config.json"), POINTER).unwrap());
    contains(&message, &["DIR/config.json", "Git LFS pointer"]);
    let message = refused(|dir| {
        std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        std::fs::write(dir.join("model.safetensors.index.json"), POINTER).unwrap();
    });
    contains(&message, &["index.json", "Git LFS pointer"]);
    for name in [
        "tokenizer.json",
        "tokenizer_config.json",
        "preprocessor_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let dir = copy();
        std::fs::write(dir.path().join(name), POINTER).unwrap();
        contains(
            &processor(dir.path()).err().unwrap(),
            &[name, "Git LFS pointer"],
        );
    }
    let page = "\n<!DOCTYPE html><html>login</html>";
    let message = refused(|dir| std::fs::write(dir.join("model.safetensors"), page).unwrap());
    contains(&message, &["web page"]);
}

#[test]
fn quantised_checkpoints_are_refused_before_any_weight_is_read() {
    for (settings, within) in [
        (json!({"quant_method": "awq", "bits": 4}), ""),
        (json!({"quant_method": "fp8"}), ""),
        (json!({"load_in_4bit": true}), ""),
    ] {
        let message = refused(|dir| {
            edit_json(dir, "config.json", |c| {
                c["quantization_config"] = settings.clone()
            });
            std::fs::remove_file(dir.join("model.safetensors")).unwrap();
        });
        contains(
            &message,
            &["config.json", "quantization_config", "quantised", within],
        );
    }
    let message = config_refused(|c| c["vision_config"]["quantization_config"] = json!({}));
    contains(&message, &["vision_config.quantization_config"]);
    // Without a word in config.json the weights tell.
    let bytes = Tensor::zeros((4, 4), DType::U8, &Device::Cpu).unwrap();
    let message = refused(|dir| {
        edit_tensors(dir, |all| {
            let up = all.remove("model.layers.0.mlp.up_proj.weight").unwrap();
            all.insert("model.layers.0.mlp.up_proj.qweight".into(), bytes.clone());
            all.insert("model.layers.0.mlp.up_proj.scales".into(), up);
        });
    });
    contains(&message, &["quantised", "model.layers.0.mlp.up_proj."]);
    let message = refused(|dir| {
        edit_tensors(dir, |all| {
            let norm = Tensor::zeros(128, DType::U8, &Device::Cpu).unwrap();
            all.insert("model.norm.weight".into(), norm);
        });
    });
    contains(
        &message,
        &["model.norm.weight is stored as U8", "quantised"],
    );
}

#[test]
fn wrapped_names_are_one_line() {
    let rename = |name: &dyn Fn(&str) -> String| {
        refused(|dir| {
            edit_tensors(dir, |all| {
                *all = all
                    .drain()
                    .map(|(old, tensor)| (name(&old), tensor))
                    .collect();
            });
        })
    };
    for prefix in [
        "module.",
        "base_model.model.",
        "_orig_mod.",
        "module._orig_mod.",
        "policy.actor.",
    ] {
        let message = rename(&|name| format!("{prefix}{name}"));
        contains(&message, &["names are wrapped", prefix]);
    }
    let message = rename(&|name| name.replace("layers.1.", "layers.1._orig_mod."));
    contains(&message, &["names are wrapped", "_orig_mod"]);
    let message = rename(&|name| name.replace("q_proj.", "q_proj.base_layer."));
    contains(&message, &["names are wrapped", "base_layer"]);
    let message = refused(|dir| {
        edit_tensors(dir, |all| {
            let q = all["model.layers.0.self_attn.q_proj.weight"].clone();
            all.insert(
                "model.layers.0.self_attn.q_proj.lora_A.default.weight".into(),
                q,
            );
        });
    });
    contains(&message, &["adapters", "merge_and_unload"]);
}

#[test]
fn a_missing_or_conflicting_head_names_the_cause() {
    let message = refused(|dir| {
        edit_tensors(dir, |all| {
            let head = (all["model.embed_tokens.weight"].clone() * 2.0).unwrap();
            all.insert("lm_head.weight".into(), head);
        });
    });
    contains(
        &message,
        &["lm_head.weight differs from", "tie_word_embeddings"],
    );
    assert!(!message.contains("faults"), "{message}");
    let message = config_refused(|c| c["tie_word_embeddings"] = json!(false));
    contains(
        &message,
        &["no lm_head.weight", "set tie_word_embeddings to true"],
    );
    assert!(!message.contains("faults"), "{message}");
}

#[test]
fn numbers_of_layers_are_compared_with_the_weights_before_anything_is_made() {
    for layers in [4, 16_000_000] {
        let message = config_refused(|c| c["num_hidden_layers"] = json!(layers));
        contains(
            &message,
            &["num_hidden_layers", &layers.to_string(), "hold 3"],
        );
        let message = config_refused(|c| c["vision_config"]["depth"] = json!(layers));
        contains(
            &message,
            &["vision_config.depth", &layers.to_string(), "hold 3"],
        );
    }
    let message = config_refused(|c| c["num_hidden_layers"] = json!(2));
    contains(&message, &["num_hidden_layers = 2", "hold 3"]);
    let message = config_refused(|c| c["num_hidden_layers"] = json!(1u64 << 40));
    contains(&message, &["num_hidden_layers", "expected 1 to"]);
    // Nothing to compare with: made from nothing.
    let text = std::fs::read_to_string(student().join("config.json")).unwrap();
    let mut config = Config::parse(&text, "test").unwrap();
    config.text.num_hidden_layers = 16_000_000;
    let error = Model::random(config, Stream::new(1), &Device::Cpu).unwrap_err();
    contains(&error.to_string(), &["num_hidden_layers"]);
}

#[test]
fn numbers_out_of_range_are_refused_by_key() {
    for (key, values) in [
        (
            "rms_norm_eps",
            vec![
                json!(0),
                json!(-1e-6),
                json!(1e-60),
                json!(2),
                json!("NaN"),
                json!(null),
            ],
        ),
        (
            "rope_theta",
            vec![json!(0), json!(-1), json!(1e300), json!("x")],
        ),
        (
            "initializer_range",
            vec![json!(-0.1), json!(1e9), json!(null)],
        ),
        (
            "vocab_size",
            vec![json!(0), json!(-1), json!(1.5), json!(1u64 << 60)],
        ),
        ("hidden_size", vec![json!(0), json!(u64::MAX)]),
        ("intermediate_size", vec![json!(0)]),
        ("num_attention_heads", vec![json!(0), json!(5)]),
        ("num_key_value_heads", vec![json!(0), json!(3)]),
        ("max_position_embeddings", vec![json!(0), json!(-5)]),
        (
            "eos_token_id",
            vec![json!(-1), json!(4_000_000_000u32), json!([190])],
        ),
        ("bos_token_id", vec![json!(190)]),
        ("image_token_id", vec![json!(190), json!(183)]),
    ] {
        for value in values {
            let shown = value.to_string();
            let message = config_refused(|c| c[key] = value);
            let named = message.contains(key) || key == "image_token_id";
            assert!(
                message.contains("config.json") && named,
                "{key} = {shown}: {message}"
            );
        }
    }
    for key in [
        "in_channels",
        "patch_size",
        "spatial_merge_size",
        "temporal_patch_size",
        "window_size",
        "num_heads",
        "hidden_size",
        "tokens_per_second",
        "out_hidden_size",
        "intermediate_size",
    ] {
        for value in [json!(0), json!(-1), json!(1u64 << 40)] {
            let message = config_refused(|c| c["vision_config"][key] = value);
            contains(&message, &["config.json", key]);
        }
    }
    let message = config_refused(|c| {
        c["rope_scaling"]["mrope_section"] = json!([u64::MAX, u64::MAX, 18]);
    });
    contains(&message, &["mrope_section"]);
    // Bare words of Python's JSON.
    for word in ["NaN", "Infinity", "-Infinity"] {
        let message = refused(|dir| {
            let path = dir.join("config.json");
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(
                path,
                text.replace(
                    "\"rms_norm_eps\": 1e-6",
                    &format!("\"rms_norm_eps\": {word}"),
                ),
            )
            .unwrap();
        });
        contains(&message, &["rms_norm_eps is", word.trim_start_matches('-')]);
    }
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    for (value, dtype) in [
        (f32::NAN, DType::F32),
        (f32::INFINITY, DType::F32),
        (f32::NEG_INFINITY, DType::BF16),
        (f32::NAN, DType::F16),
    ] {
        let name = "model.layers.1.mlp.up_proj.weight";
        let message = refused(|dir| {
            edit_tensors(dir, |all| {
                let shape = all[name].dims().to_vec();
                let mut values: Vec<f32> = all[name].flatten_all().unwrap().to_vec1().unwrap();
                let last = values.len() - 1;
                values[last] = value;
                let damaged = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
                all.insert(name.into(), damaged.to_dtype(dtype).unwrap());
            });
        });
        contains(&message, &[name, "no finite number", "element 32767"]);
        assert!(!message.contains("faults"), "{message}");
    }
}

#[test]
fn many_faults_are_told_shortly() {
    let message = refused(|dir| {
        edit_tensors(dir, |all| {
            all.retain(|name, _| name.starts_with("visual.blocks") || name.contains("layers"));
            for (_, tensor) in all.iter_mut() {
                *tensor = Tensor::zeros((1, 1), DType::F32, &Device::Cpu).unwrap();
            }
        });
    });
    contains(&message, &["faults:", "more"]);
}

/// The student's configuration in the nested style of transformers 5.
fn nested(config: &mut Value) {
    let Value::Object(mut top) = config.take() else {
        unreachable!()
    };
    let vision = top.remove("vision_config").unwrap();
    let mut own = serde_json::Map::new();
    for key in [
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    ] {
        own.insert(key.into(), top.remove(key).unwrap());
    }
    own.insert("model_type".into(), "qwen2_5_vl".into());
    top.insert("model_type".into(), "qwen2_5_vl_text".into());
    let theta = top.remove("rope_theta").unwrap();
    let mut rope = top.remove("rope_scaling").unwrap();
    rope["rope_theta"] = theta;
    rope["rope_type"] = "default".into();
    top.insert("rope_parameters".into(), rope);
    own.insert("text_config".into(), Value::Object(top));
    own.insert("vision_config".into(), vision);
    *config = Value::Object(own);
}

#[test]
fn configurations_of_transformers_4_and_5_and_mixed_are_the_same_model() {
    let text = std::fs::read_to_string(student().join("config.json")).unwrap();
    let expected = Config::parse(&text, "test").unwrap();
    let flat: Value = serde_json::from_str(&text).unwrap();
    let mut five = flat.clone();
    nested(&mut five);
    let mut mixed = Vec::new();
    // Tying at either level, or both.
    let mut case = five.clone();
    case["text_config"]
        .as_object_mut()
        .unwrap()
        .remove("tie_word_embeddings");
    case["tie_word_embeddings"] = json!(true);
    mixed.push(case.clone());
    case["tie_word_embeddings"] = json!(null);
    case["text_config"]["tie_word_embeddings"] = json!(true);
    mixed.push(case);
    // Both spellings of the rotary settings, of which either may lack a part.
    let mut case = flat.clone();
    case["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 1e6});
    mixed.push(case.clone());
    case.as_object_mut().unwrap().remove("rope_theta");
    mixed.push(case);
    let mut case = five.clone();
    case["text_config"]["rope_parameters"]
        .as_object_mut()
        .unwrap()
        .remove("rope_theta");
    case["text_config"]["rope_theta"] = json!(1e6);
    case["text_config"]["rope_scaling"] = json!(null);
    mixed.push(case);
    // Nulls of a nested part do not hide what stands at the top.
    let mut case = flat.clone();
    case["text_config"] =
        json!({"hidden_size": null, "vocab_size": null, "model_type": "qwen2_5_vl_text"});
    mixed.push(case);
    for config in [flat, five].into_iter().chain(mixed) {
        let found =
            Config::parse(&config.to_string(), "test").unwrap_or_else(|e| panic!("{e}: {config}"));
        assert_eq!(found, expected, "{config}");
    }
}

#[test]
fn pickles_are_told_apart() {
    let message = refused(|dir| {
        std::fs::rename(dir.join("model.safetensors"), dir.join("pytorch_model.bin")).unwrap();
    });
    contains(&message, &["pytorch_model.bin", "safe_serialization"]);
}

fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn saves_below_the_shard_size_are_the_same_file_as_ever() {
    let model = load(&student()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let bytes = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
    assert!(bytes(dir.path()) == bytes(&student()));
    let plain = blake3::hash(&bytes(&student())).to_hex().to_string();
    assert_eq!(weights_hash(&student()).unwrap(), plain);
    // And as the safetensors library writes it, in every type.
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
        let copy = model.copy(dtype).unwrap();
        copy.save(dir.path()).unwrap();
        let tensors: std::collections::BTreeMap<&str, &Tensor> = copy
            .parameters()
            .iter()
            .map(|(name, variable)| (name, variable.as_tensor()))
            .collect();
        let format = [("format".to_string(), "pt".to_string())].into();
        assert!(bytes(dir.path()) == safetensors::serialize(tensors, Some(format)).unwrap());
    }
}

#[test]
fn shards_are_the_hubs_and_replace_what_was_there() {
    let model = load(&student()).unwrap();
    let dir = copy();
    assert!(has_weights(dir.path()));
    model.save_sharded(dir.path(), 500_000).unwrap();
    let shards = || -> Vec<String> {
        files(dir.path())
            .into_iter()
            .filter(|name| name.starts_with("model"))
            .collect()
    };
    let found = shards();
    assert!(found.len() > 4 && found.contains(&"model.safetensors.index.json".to_string()));
    assert!(!found.contains(&"model.safetensors".to_string()));
    for name in &found {
        let file = std::fs::metadata(dir.path().join(name)).unwrap();
        assert!(file.len() < 520_000, "{name}");
    }
    let index = std::fs::read_to_string(dir.path().join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(
        index["metadata"]["total_size"],
        4 * model.parameters().elements()
    );
    assert_eq!(
        index["weight_map"].as_object().unwrap().len(),
        model.parameters().len()
    );
    let again = load(dir.path()).unwrap();
    for ((name, a), (_, b)) in model.parameters().iter().zip(again.parameters().iter()) {
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(values(a), values(b), "{name}");
    }
    // Other shards, then none: nothing of the old ones stays.
    let hash = weights_hash(dir.path()).unwrap();
    model.save_sharded(dir.path(), 1_000_000).unwrap();
    assert!(shards().len() < found.len());
    assert_ne!(weights_hash(dir.path()).unwrap(), hash);
    model.save_sharded(dir.path(), 500_000).unwrap();
    assert_eq!(weights_hash(dir.path()).unwrap(), hash);
    std::fs::remove_file(dir.path().join(&found[0])).unwrap();
    assert!(!has_weights(dir.path()) && weights_hash(dir.path()).is_err());
    model.save_sharded(dir.path(), 500_000).unwrap();
    model.save(dir.path()).unwrap();
    assert_eq!(shards(), ["model.safetensors"]);
    assert_eq!(
        weights_hash(dir.path()).unwrap(),
        weights_hash(&student()).unwrap()
    );
    assert!(!has_weights(tempfile::tempdir().unwrap().path()));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_names_the_file_and_leaves_the_old_one() {
    let model = load(&student()).unwrap();
    let dir = copy();
    let before = files(dir.path());
    // What the file is written to before it is put into its place.
    let link = dir
        .path()
        .join(format!(".model.safetensors.{}", std::process::id()));
    std::os::unix::fs::symlink("/dev/full", link).unwrap();
    let error = model.save(dir.path()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    contains(&error.to_string(), &["model.safetensors"]);
    contains(&cause, &["No space left"]);
    assert_eq!(files(dir.path()), before);
    assert_eq!(tensors(dir.path()).len(), model.parameters().len());
}
