//! `config.json`, in both styles.
//!
//! The released checkpoints have a flat file (`rope_scaling.type = "mrope"`, text keys at the top,
//! `in_chans`); transformers 5 writes a nested one (`text_config`, `rope_parameters`,
//! `in_channels`). [`Config::to_json`] writes the flat style, which every version reads.
//! Keys that a file leaves out have the defaults of transformers' configuration classes, except
//! the vision tower's hidden size, which has that of the released models.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::config::{Config, TextConfig, VisionConfig};
use crate::error::{Error, Result};
use crate::files;

const DEFAULT_VISION_THETA: f64 = 10_000.0;

impl Config {
    /// Reads and checks `config.json`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        Self::parse_bytes(&bytes, &path.display().to_string())
    }

    /// Parses and checks the text of a `config.json`; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        Self::parse_bytes(text.as_bytes(), origin)
    }

    fn parse_bytes(bytes: &[u8], origin: &str) -> Result<Self> {
        let fail = |message: String| Error::Config {
            origin: origin.to_string(),
            message,
        };
        let value = files::json(bytes).map_err(fail)?;
        let Value::Object(top) = value else {
            return Err(fail("expected a JSON object".to_string()));
        };
        let config = read(top).map_err(fail)?;
        config.check().map_err(fail)?;
        Ok(config)
    }

    /// The `config.json` of this configuration in the hub's flat style.
    pub fn to_json(&self, dtype: &str) -> Value {
        let (text, vision) = (&self.text, &self.vision);
        let mut top = json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "initializer_range": text.initializer_range,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": text.max_position_embeddings,
            "max_window_layers": text.num_hidden_layers,
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_scaling": { "type": "mrope", "mrope_section": text.mrope_section },
            "rope_theta": text.rope_theta,
            "use_cache": true,
            "use_sliding_window": false,
            "tie_word_embeddings": self.tie_word_embeddings,
            "torch_dtype": dtype,
            "vocab_size": text.vocab_size,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "vision_config": {
                "model_type": "qwen2_5_vl",
                "depth": vision.depth,
                "fullatt_block_indexes": vision.fullatt_block_indexes,
                "hidden_act": "silu",
                "hidden_size": vision.hidden_size,
                "in_channels": vision.in_channels,
                "in_chans": vision.in_channels,
                "intermediate_size": vision.intermediate_size,
                "num_heads": vision.num_heads,
                "out_hidden_size": vision.out_hidden_size,
                "patch_size": vision.patch_size,
                "spatial_merge_size": vision.spatial_merge_size,
                "spatial_patch_size": vision.patch_size,
                "temporal_patch_size": vision.temporal_patch_size,
                "tokens_per_second": vision.tokens_per_second,
                "window_size": vision.window_size,
            },
        });
        let optional = [
            ("vision_token_id", self.vision_token_id),
            ("bos_token_id", text.bos_token_id),
            ("eos_token_id", text.eos_token_id),
        ];
        for (key, id) in optional {
            if let Some(id) = id {
                top[key] = json!(id);
            }
        }
        if vision.rope_theta != DEFAULT_VISION_THETA {
            top["vision_config"]["rope_parameters"] =
                json!({ "rope_type": "axial", "rope_theta": vision.rope_theta });
        }
        top
    }
}

/// An object's keys, read with errors that name them.
struct Keys<'a> {
    map: &'a Map<String, Value>,
    within: &'static str,
}

impl<'a> Keys<'a> {
    /// The value of a key; none where it is absent or null.
    fn get<T: DeserializeOwned>(&self, key: &str) -> std::result::Result<Option<T>, String> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|error| format!("{}{key}: {error}", self.within)),
        }
    }

    /// The value of a key, or a default where it is absent; null is not a number.
    fn number<T: DeserializeOwned>(&self, key: &str, default: T) -> std::result::Result<T, String> {
        match self.map.get(key) {
            Some(Value::Null) => Err(format!("{}{key} is null, expected a number", self.within)),
            _ => Ok(self.get(key)?.unwrap_or(default)),
        }
    }

    fn need<T: DeserializeOwned>(&self, key: &str) -> std::result::Result<T, String> {
        self.get(key)?
            .ok_or_else(|| format!("{}{key} is missing", self.within))
    }

    fn object(
        &self,
        key: &str,
        within: &'static str,
    ) -> std::result::Result<Option<Keys<'a>>, String> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Keys { map, within })),
            Some(_) => Err(format!("{}{key} is not an object", self.within)),
        }
    }
}

fn read(mut top: Map<String, Value>) -> std::result::Result<Config, String> {
    quantised(&top, "")?;
    for key in ["text_config", "vision_config"] {
        if let Some(Value::Object(nested)) = top.get(key) {
            quantised(nested, &format!("{key}."))?;
        }
    }
    // The nested style's text keys win over leftovers at the top, but for what belongs to both.
    match top.remove("text_config") {
        None | Some(Value::Null) => {}
        Some(Value::Object(text)) => {
            for (key, value) in text {
                let own = key == "model_type" || key == "vision_config";
                let tied =
                    key == "tie_word_embeddings" && top.get(&key).is_some_and(|own| !own.is_null());
                if !own && !tied && (!value.is_null() || !top.contains_key(&key)) {
                    top.insert(key, value);
                }
            }
        }
        Some(_) => return Err("text_config is not an object".to_string()),
    }
    let keys = Keys {
        map: &top,
        within: "",
    };
    let kind: Option<String> = keys.get("model_type")?;
    if let Some(kind) = kind.filter(|kind| kind != "qwen2_5_vl") {
        return Err(format!("model_type is {kind:?}, expected \"qwen2_5_vl\""));
    }
    let vision = keys
        .object("vision_config", "vision_config.")?
        .ok_or("vision_config is missing")?;
    Ok(Config {
        text: read_text(&keys)?,
        vision: read_vision(&vision)?,
        image_token_id: keys.number("image_token_id", 151_655)?,
        video_token_id: keys.number("video_token_id", 151_656)?,
        vision_start_token_id: keys.number("vision_start_token_id", 151_652)?,
        vision_end_token_id: keys.number("vision_end_token_id", 151_653)?,
        vision_token_id: keys.get("vision_token_id")?,
        tie_word_embeddings: keys.get("tie_word_embeddings")?.unwrap_or(false),
    })
}

/// Refuses a quantised checkpoint: its weights are not those that the configuration describes.
fn quantised(keys: &Map<String, Value>, within: &str) -> std::result::Result<(), String> {
    for key in ["quantization_config", "compression_config"] {
        let Some(settings) = keys.get(key).filter(|settings| !settings.is_null()) else {
            continue;
        };
        let method = ["quant_method", "quant_algo", "format"]
            .iter()
            .find_map(|method| settings[method].as_str());
        return Err(format!(
            "{within}{key} says that the weights are quantised{}, which is not supported: use the \
             checkpoint in bf16, f16 or f32 that they were made from",
            method.map_or(String::new(), |method| format!(" ({method})"))
        ));
    }
    Ok(())
}

/// The first of the ids where a key has a list of them.
fn first_id(keys: &Keys, key: &str) -> std::result::Result<Option<u32>, String> {
    match keys.map.get(key) {
        Some(Value::Array(_)) => Ok(keys
            .get::<Vec<u32>>(key)?
            .and_then(|ids| ids.first().copied())),
        _ => keys.get(key),
    }
}

fn activation(keys: &Keys) -> std::result::Result<(), String> {
    let act: Option<String> = keys.get("hidden_act")?;
    match act.filter(|act| act != "silu") {
        Some(act) => Err(format!(
            "{}hidden_act is {act:?}, only \"silu\" is supported",
            keys.within
        )),
        None => Ok(()),
    }
}

fn read_text(keys: &Keys) -> std::result::Result<TextConfig, String> {
    activation(keys)?;
    let layer_types: Option<Vec<String>> = keys.get("layer_types")?;
    let sliding = layer_types
        .iter()
        .flatten()
        .any(|kind| kind != "full_attention");
    if sliding || keys.get("use_sliding_window")? == Some(true) {
        return Err("sliding-window attention in the language model is not supported".into());
    }
    // Mixed files have both, of which one may lack the sections.
    let ropes = [
        keys.object("rope_parameters", "rope_parameters.")?,
        keys.object("rope_scaling", "rope_scaling.")?,
    ];
    let mut ropes: Vec<Keys> = ropes.into_iter().flatten().collect();
    ropes.sort_by_key(|rope| !rope.map.contains_key("mrope_section"));
    let rope = ropes
        .first()
        .ok_or("neither rope_parameters nor rope_scaling is there")?;
    for key in ["type", "rope_type"] {
        let kind: Option<String> = rope.get(key)?;
        if let Some(kind) = kind.filter(|kind| kind != "mrope" && kind != "default") {
            return Err(format!(
                "rotary {key} is {kind:?}, expected \"mrope\" or \"default\""
            ));
        }
    }
    let section: Vec<usize> = rope.need("mrope_section")?;
    let mrope_section: [usize; 3] = section
        .try_into()
        .map_err(|found| format!("mrope_section is {found:?}, expected three numbers"))?;
    let hidden_size: usize = keys.need("hidden_size")?;
    let num_attention_heads: usize = keys.need("num_attention_heads")?;
    let own: Option<usize> = keys.get("head_dim")?;
    let expected = hidden_size.checked_div(num_attention_heads);
    if own.is_some() && own != expected {
        return Err(format!(
            "head_dim = {own:?}, expected hidden_size / num_attention_heads = {expected:?}"
        ));
    }
    let mut theta: Option<f64> = None;
    for within in ropes.iter().chain([keys]) {
        theta = theta.or(within.get("rope_theta")?);
    }
    Ok(TextConfig {
        vocab_size: keys.need("vocab_size")?,
        hidden_size,
        intermediate_size: keys.need("intermediate_size")?,
        num_hidden_layers: keys.need("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: keys
            .get("num_key_value_heads")?
            .unwrap_or(num_attention_heads),
        rms_norm_eps: keys.number("rms_norm_eps", 1e-5)?,
        rope_theta: theta.unwrap_or(1e6),
        mrope_section,
        initializer_range: keys.number("initializer_range", 0.02)?,
        max_position_embeddings: keys.number("max_position_embeddings", 32_768)?,
        bos_token_id: first_id(keys, "bos_token_id")?,
        eos_token_id: first_id(keys, "eos_token_id")?,
    })
}

fn read_vision(keys: &Keys) -> std::result::Result<VisionConfig, String> {
    activation(keys)?;
    let channels = match keys.get("in_channels")? {
        Some(channels) => Some(channels),
        None => keys.get("in_chans")?,
    };
    let theta = match keys.object("rope_parameters", "vision_config.rope_parameters.")? {
        Some(rope) => rope.get("rope_theta")?,
        None => None,
    };
    let blocks: Option<Vec<usize>> = keys.get("fullatt_block_indexes")?;
    Ok(VisionConfig {
        depth: keys.number("depth", 32)?,
        hidden_size: keys.number("hidden_size", 1280)?,
        intermediate_size: keys.number("intermediate_size", 3420)?,
        num_heads: keys.number("num_heads", 16)?,
        in_channels: channels.unwrap_or(3),
        out_hidden_size: keys.need("out_hidden_size")?,
        patch_size: keys.number("patch_size", 14)?,
        spatial_merge_size: keys.number("spatial_merge_size", 2)?,
        temporal_patch_size: keys.number("temporal_patch_size", 2)?,
        window_size: keys.number("window_size", 112)?,
        fullatt_block_indexes: blocks.unwrap_or_else(|| vec![7, 15, 23, 31]),
        tokens_per_second: keys.number("tokens_per_second", 4)?,
        rope_theta: theta.unwrap_or(DEFAULT_VISION_THETA),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::tiny;
    use proptest::prelude::*;

    fn broken(change: impl FnOnce(&mut Value)) -> String {
        let mut value = tiny().to_json("float32");
        change(&mut value);
        Config::parse(&value.to_string(), "config.json")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = tiny().to_json("float32").to_string();
        assert_eq!(Config::parse(&text, "config.json").unwrap(), tiny());
    }

    #[test]
    fn the_nested_style_is_the_same_model() {
        let Value::Object(mut top) = tiny().to_json("float32") else {
            unreachable!()
        };
        let Value::Object(mut vision) = top.remove("vision_config").unwrap() else {
            unreachable!()
        };
        let own = [
            "image_token_id",
            "video_token_id",
            "vision_start_token_id",
            "vision_end_token_id",
            "tie_word_embeddings",
            "model_type",
        ];
        let mut nested = Map::new();
        for key in own {
            nested.insert(key.to_string(), top.remove(key).unwrap());
        }
        top.remove("rope_scaling");
        let theta = top.remove("rope_theta").unwrap();
        top.insert("model_type".into(), json!("qwen2_5_vl_text"));
        top.insert(
            "rope_parameters".into(),
            json!({ "rope_type": "default", "rope_theta": theta, "mrope_section": [2, 2, 2] }),
        );
        vision.remove("in_chans");
        nested.insert("text_config".into(), Value::Object(top));
        nested.insert("vision_config".into(), Value::Object(vision));
        let text = Value::Object(nested).to_string();
        assert_eq!(Config::parse(&text, "config.json").unwrap(), tiny());
    }

    #[test]
    fn impossible_shapes_are_named() {
        for (message, key) in [
            (
                broken(|c| c["hidden_size"] = json!(25)),
                "num_attention_heads",
            ),
            (
                broken(|c| c["num_key_value_heads"] = json!(0)),
                "num_key_value_heads",
            ),
            (broken(|c| c["vocab_size"] = json!(30)), "vocabulary"),
            (
                broken(|c| c["num_hidden_layers"] = json!(-3)),
                "num_hidden_layers: invalid value: integer `-3`",
            ),
            (
                broken(|c| c["rope_scaling"]["mrope_section"] = json!([1, 2, 2])),
                "mrope_section",
            ),
            (
                broken(|c| c["rope_scaling"] = json!({"type": "yarn"})),
                "yarn",
            ),
            (
                broken(|c| c["vision_config"]["out_hidden_size"] = json!(20)),
                "out_hidden_size",
            ),
            (
                broken(|c| c["vision_config"]["num_heads"] = json!(3)),
                "num_heads",
            ),
            (
                broken(|c| c["vision_config"]["window_size"] = json!(15)),
                "window_size",
            ),
            (
                broken(|c| c["vision_config"]["fullatt_block_indexes"] = json!([9])),
                "block 9",
            ),
            (
                broken(|c| c["vision_config"] = Value::Null),
                "vision_config",
            ),
            (broken(|c| c["rms_norm_eps"] = json!(0.0)), "rms_norm_eps"),
            (broken(|c| c["use_sliding_window"] = json!(true)), "sliding"),
            (broken(|c| c["model_type"] = json!("llama")), "llama"),
            (
                broken(|c| c["intermediate_size"] = json!(1u64 << 60)),
                "intermediate_size",
            ),
            (
                Config::parse("{", "config.json").unwrap_err().to_string(),
                "not JSON",
            ),
            (
                Config::parse("[]", "config.json").unwrap_err().to_string(),
                "object",
            ),
        ] {
            assert!(
                message.starts_with("config.json: ") && message.contains(key),
                "{message}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,200}") {
            let _ = Config::parse(&text, "config.json");
        }
    }
}
