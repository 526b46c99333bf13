//! The configuration of a Qwen2.5-VL model, read from both styles of `config.json`.
//!
//! The released checkpoints have a flat file (`rope_scaling.type = "mrope"`, text keys at the top,
//! `in_chans`); transformers 5 writes a nested one (`text_config`, `rope_parameters`,
//! `in_channels`). [`Config::to_json`] writes the flat style, which every version reads.
//! Keys that a file leaves out have the defaults of transformers' configuration classes.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The shape of a Qwen2.5-VL model and the ids of its vision tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// The token that stands for one merged image patch (`<|image_pad|>`).
    pub image_token_id: u32,
    /// The token that stands for one merged video patch.
    pub video_token_id: u32,
    /// The token before an image.
    pub vision_start_token_id: u32,
    /// The token after an image.
    pub vision_end_token_id: u32,
    /// A further placeholder of flat configurations (`<|vision_pad|>`).
    pub vision_token_id: Option<u32>,
    /// Whether the output projection is the token embedding.
    pub tie_word_embeddings: bool,
}

/// The shape of the language model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many rotary frequencies follow the time, height and width index.
    pub mrope_section: [usize; 3],
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
    /// The longest sequence the checkpoint was made for; not enforced.
    pub max_position_embeddings: usize,
    /// Start-of-text token, where the file names one.
    pub bos_token_id: Option<u32>,
    /// End-of-turn token, where the file names one.
    pub eos_token_id: Option<u32>,
}

/// The shape of the vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Transformer blocks.
    pub depth: usize,
    /// Width of a patch's representation.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Colour channels.
    pub in_channels: usize,
    /// Width of a merged token: the language model's hidden size.
    pub out_hidden_size: usize,
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Patches a side of a merged token.
    pub spatial_merge_size: usize,
    /// Frames in a patch; an image is repeated.
    pub temporal_patch_size: usize,
    /// Pixels a side of an attention window.
    pub window_size: usize,
    /// Blocks that see the whole image instead of their window.
    pub fullatt_block_indexes: Vec<usize>,
    /// Temporal position units a second of video.
    pub tokens_per_second: usize,
    /// Base of the two-dimensional rotary frequencies.
    pub rope_theta: f64,
}

impl TextConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

impl VisionConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Values in one row of `pixel_values`.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches in one merged token.
    pub fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }
}

impl Config {
    /// Reads and checks `config.json`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses and checks the text of a `config.json`; `origin` is named in errors.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let fail = |message: String| Error::Config {
            origin: origin.to_string(),
            message,
        };
        let value: Value =
            serde_json::from_str(text).map_err(|error| fail(format!("not JSON: {error}")))?;
        let Value::Object(top) = value else {
            return Err(fail("expected a JSON object".to_string()));
        };
        let config = read(top).map_err(&fail)?;
        config.check().map_err(fail)?;
        Ok(config)
    }

    /// An error that names the first thing that no model can have.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|message| Error::Config {
            origin: "configuration".to_string(),
            message,
        })
    }

    /// The tokens that stand for vision input and are never sampled, ascending.
    pub fn vision_token_ids(&self) -> Vec<u32> {
        let mut ids = vec![
            self.image_token_id,
            self.video_token_id,
            self.vision_start_token_id,
            self.vision_end_token_id,
        ];
        ids.extend(self.vision_token_id);
        ids.sort_unstable();
        ids.dedup();
        ids
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

    fn check(&self) -> std::result::Result<(), String> {
        let (text, vision) = (&self.text, &self.vision);
        let sizes = [
            ("vocab_size", text.vocab_size),
            ("hidden_size", text.hidden_size),
            ("intermediate_size", text.intermediate_size),
            ("num_hidden_layers", text.num_hidden_layers),
            ("num_attention_heads", text.num_attention_heads),
            ("num_key_value_heads", text.num_key_value_heads),
            ("vision_config.depth", vision.depth),
            ("vision_config.hidden_size", vision.hidden_size),
            ("vision_config.intermediate_size", vision.intermediate_size),
            ("vision_config.num_heads", vision.num_heads),
            ("vision_config.in_channels", vision.in_channels),
            ("vision_config.out_hidden_size", vision.out_hidden_size),
            ("vision_config.patch_size", vision.patch_size),
            (
                "vision_config.spatial_merge_size",
                vision.spatial_merge_size,
            ),
            (
                "vision_config.temporal_patch_size",
                vision.temporal_patch_size,
            ),
            ("vision_config.window_size", vision.window_size),
        ];
        for (key, size) in sizes {
            if size == 0 || size > LARGEST_SIZE {
                return Err(format!("{key} = {size}, expected 1 to {LARGEST_SIZE}"));
            }
        }
        let divides = |what: &str, whole: usize, by: &str, part: usize| {
            if whole.is_multiple_of(part) {
                Ok(())
            } else {
                Err(format!(
                    "{what} = {whole} is not a multiple of {by} = {part}"
                ))
            }
        };
        let (heads, kv_heads) = (text.num_attention_heads, text.num_key_value_heads);
        divides(
            "hidden_size",
            text.hidden_size,
            "num_attention_heads",
            heads,
        )?;
        divides(
            "num_attention_heads",
            heads,
            "num_key_value_heads",
            kv_heads,
        )?;
        divides(
            "vision_config.hidden_size",
            vision.hidden_size,
            "vision_config.num_heads",
            vision.num_heads,
        )?;
        divides(
            "the vision head size",
            vision.head_dim(),
            "4 (two axes, rotated halves)",
            4,
        )?;
        let merged = vision.patch_size * vision.spatial_merge_size;
        divides(
            "vision_config.window_size",
            vision.window_size,
            "merged patch",
            merged,
        )?;
        let section: usize = text.mrope_section.iter().sum();
        if section * 2 != text.head_dim() {
            return Err(format!(
                "mrope_section {:?} sums to {section}, expected half of the head size {}",
                text.mrope_section,
                text.head_dim()
            ));
        }
        if vision.out_hidden_size != text.hidden_size {
            return Err(format!(
                "vision_config.out_hidden_size = {} but hidden_size = {}",
                vision.out_hidden_size, text.hidden_size
            ));
        }
        if let Some(block) = vision
            .fullatt_block_indexes
            .iter()
            .find(|&&b| b >= vision.depth)
        {
            return Err(format!(
                "fullatt_block_indexes names block {block}, the vision tower has {}",
                vision.depth
            ));
        }
        let positive = [
            ("rms_norm_eps", text.rms_norm_eps),
            ("rope_theta", text.rope_theta),
            ("vision rope_theta", vision.rope_theta),
        ];
        for (key, value) in positive {
            if !(value.is_finite() && value > 0.0) {
                return Err(format!("{key} = {value}, expected a positive number"));
            }
        }
        if !(text.initializer_range.is_finite() && text.initializer_range >= 0.0) {
            return Err(format!("initializer_range = {}", text.initializer_range));
        }
        if let Some(id) = self
            .vision_token_ids()
            .into_iter()
            .find(|&id| id as usize >= text.vocab_size)
        {
            return Err(format!(
                "a vision token has id {id}, the vocabulary has {} entries",
                text.vocab_size
            ));
        }
        Ok(())
    }
}

/// No dimension of a real model comes near; larger ones are damage and would overflow.
const LARGEST_SIZE: usize = 1 << 24;
const DEFAULT_VISION_THETA: f64 = 10_000.0;

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
    // The nested style's text keys win over leftovers at the top, but for what belongs to both.
    match top.remove("text_config") {
        None | Some(Value::Null) => {}
        Some(Value::Object(text)) => {
            for (key, value) in text {
                let own = key == "model_type" || key == "vision_config";
                let tied = key == "tie_word_embeddings" && top.contains_key(&key);
                if !own && !tied && !value.is_null() {
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
        image_token_id: keys.get("image_token_id")?.unwrap_or(151_655),
        video_token_id: keys.get("video_token_id")?.unwrap_or(151_656),
        vision_start_token_id: keys.get("vision_start_token_id")?.unwrap_or(151_652),
        vision_end_token_id: keys.get("vision_end_token_id")?.unwrap_or(151_653),
        vision_token_id: keys.get("vision_token_id")?,
        tie_word_embeddings: keys.get("tie_word_embeddings")?.unwrap_or(false),
    })
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
    let rope = match keys.object("rope_parameters", "rope_parameters.")? {
        Some(rope) => rope,
        None => keys
            .object("rope_scaling", "rope_scaling.")?
            .ok_or("neither rope_parameters nor rope_scaling is there")?,
    };
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
    let theta = match rope.get("rope_theta")? {
        Some(theta) => Some(theta),
        None => keys.get("rope_theta")?,
    };
    Ok(TextConfig {
        vocab_size: keys.need("vocab_size")?,
        hidden_size,
        intermediate_size: keys.need("intermediate_size")?,
        num_hidden_layers: keys.need("num_hidden_layers")?,
        num_attention_heads,
        num_key_value_heads: keys
            .get("num_key_value_heads")?
            .unwrap_or(num_attention_heads),
        rms_norm_eps: keys.get("rms_norm_eps")?.unwrap_or(1e-5),
        rope_theta: theta.unwrap_or(1e6),
        mrope_section,
        initializer_range: keys.get("initializer_range")?.unwrap_or(0.02),
        max_position_embeddings: keys.get("max_position_embeddings")?.unwrap_or(32_768),
        bos_token_id: keys.get("bos_token_id")?,
        eos_token_id: keys.get("eos_token_id")?,
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
        depth: keys.get("depth")?.unwrap_or(32),
        hidden_size: keys.get("hidden_size")?.unwrap_or(1280),
        intermediate_size: keys.get("intermediate_size")?.unwrap_or(3420),
        num_heads: keys.get("num_heads")?.unwrap_or(16),
        in_channels: channels.unwrap_or(3),
        out_hidden_size: keys.need("out_hidden_size")?,
        patch_size: keys.get("patch_size")?.unwrap_or(14),
        spatial_merge_size: keys.get("spatial_merge_size")?.unwrap_or(2),
        temporal_patch_size: keys.get("temporal_patch_size")?.unwrap_or(2),
        window_size: keys.get("window_size")?.unwrap_or(112),
        fullatt_block_indexes: blocks.unwrap_or_else(|| vec![7, 15, 23, 31]),
        tokens_per_second: keys.get("tokens_per_second")?.unwrap_or(4),
        rope_theta: theta.unwrap_or(DEFAULT_VISION_THETA),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A configuration small enough for tests of whole models.
    pub(crate) fn tiny() -> Config {
        Config {
            text: TextConfig {
                vocab_size: 40,
                hidden_size: 24,
                intermediate_size: 40,
                num_hidden_layers: 3,
                num_attention_heads: 2,
                num_key_value_heads: 1,
                rms_norm_eps: 1e-6,
                rope_theta: 10_000.0,
                mrope_section: [2, 2, 2],
                initializer_range: 0.2,
                max_position_embeddings: 512,
                bos_token_id: None,
                eos_token_id: Some(1),
            },
            vision: VisionConfig {
                depth: 3,
                hidden_size: 16,
                intermediate_size: 20,
                num_heads: 2,
                in_channels: 3,
                out_hidden_size: 24,
                patch_size: 4,
                spatial_merge_size: 2,
                temporal_patch_size: 2,
                window_size: 16,
                fullatt_block_indexes: vec![1],
                tokens_per_second: 2,
                rope_theta: 10_000.0,
            },
            image_token_id: 35,
            video_token_id: 36,
            vision_start_token_id: 37,
            vision_end_token_id: 38,
            vision_token_id: None,
            tie_word_embeddings: true,
        }
    }

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
