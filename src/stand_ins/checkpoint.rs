//! Checkpoints of the real architecture with few, random weights, a tokenizer of bytes with Qwen's
//! special tokens, and the chat template of the released models.
//!
//! A random model writes random bytes, which call no tool. So the vocabulary also holds whole calls
//! and whole answers as single tokens, whose rows of the output projection are made larger: most
//! samples make a call or give an answer.

use std::path::Path;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use qwen2_5_vl::{Config, Model};
use seeded_random::Stream;
use serde_json::{Value, json};

/// Qwen2.5-VL's special tokens, with the ids that follow 256 bytes.
const SPECIAL: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
];
const END_OF_TEXT: u32 = 256;
const TURN_END: u32 = 258;
const VISION_START: u32 = 259;
const VISION_END: u32 = 260;
const VISION_PAD: u32 = 261;
const IMAGE_PAD: u32 = 262;
const VIDEO_PAD: u32 = 263;

/// As Qwen/Qwen2.5-VL-3B-Instruct has it.
const TEMPLATE: &str = "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// How a model differs from the other.
pub struct StandInModel {
    /// A model on the hub whose sizes it has; else it has those that follow.
    published: Option<&'static str>,
    hidden: usize,
    layers: usize,
    /// The 3B ties its output projection, the 7B does not.
    tied: bool,
    seed: u64,
}

/// As the 3B: sixteen query heads on two pairs of keys and values, narrow.
const TINY_STUDENT: StandInModel = StandInModel {
    published: None,
    hidden: 128,
    layers: 2,
    tied: true,
    seed: 3,
};

/// As the 7B beside it: wider, its features no student's.
const TINY_TEACHER: StandInModel = StandInModel {
    published: None,
    hidden: 192,
    layers: 2,
    tied: false,
    seed: 7,
};

/// The sizes of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ModelSize {
    /// Some hundred thousand parameters each, in f32: for a processor.
    Tiny,
    /// Those of Qwen2.5-VL-3B and 7B, in bf16: 24 GB of files, for a card.
    Published,
}

impl ModelSize {
    /// Student and teacher.
    pub fn models(self) -> [StandInModel; 2] {
        match self {
            ModelSize::Tiny => [TINY_STUDENT, TINY_TEACHER],
            ModelSize::Published => [
                StandInModel {
                    published: Some("Qwen/Qwen2.5-VL-3B-Instruct"),
                    ..TINY_STUDENT
                },
                StandInModel {
                    published: Some("Qwen/Qwen2.5-VL-7B-Instruct"),
                    ..TINY_TEACHER
                },
            ],
        }
    }
}

impl StandInModel {
    /// The configuration with a vocabulary of 256 bytes, [`SPECIAL`] and some words; one of a published
    /// size keeps its own size of the vocabulary, of which most has no text.
    fn config(&self, words: usize) -> anyhow::Result<Config> {
        let mut config = match self.published {
            Some(name) => replicate::plan::published_config(name)
                .with_context(|| format!("the sizes of {name} are not known"))?,
            None => self.tiny_config(words)?,
        };
        (config.image_token_id, config.video_token_id) = (IMAGE_PAD, VIDEO_PAD);
        (config.vision_start_token_id, config.vision_end_token_id) = (VISION_START, VISION_END);
        Ok(config)
    }

    fn tiny_config(&self, words: usize) -> anyhow::Result<Config> {
        let config = json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "vocab_size": 256 + SPECIAL.len() + words, "hidden_size": self.hidden,
            "intermediate_size": 2 * self.hidden, "num_hidden_layers": self.layers,
            "num_attention_heads": self.hidden / 8, "num_key_value_heads": 2,
            "max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
            "rope_scaling": { "type": "mrope", "mrope_section": [1, 1, 2] },
            "tie_word_embeddings": self.tied, "initializer_range": 0.02,
            "bos_token_id": END_OF_TEXT, "eos_token_id": TURN_END,
            "image_token_id": IMAGE_PAD, "video_token_id": VIDEO_PAD,
            "vision_start_token_id": VISION_START,
            "vision_end_token_id": VISION_END, "vision_token_id": VISION_PAD,
            "vision_config": {
                "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                "out_hidden_size": self.hidden, "patch_size": 14, "spatial_merge_size": 2,
                "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
                "tokens_per_second": 2, "in_chans": 3,
            },
        });
        Ok(Config::parse(&config.to_string(), "stand-ins")?)
    }
}

/// Writes a checkpoint's folder. `words` become tokens of their own.
pub fn write(folder: &Path, own: &StandInModel, words: &[String]) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot create {}", folder.display()))?;
    let config = own.config(words.len())?;
    let model = Model::random(config, Stream::new(own.seed), &Device::Cpu)?;
    favour(&model, words.len())?;
    match own.published {
        None => model.save(folder)?,
        Some(_) => model.copy(DType::BF16)?.save(folder)?,
    }
    let write = |name: &str, value: &Value| results::write_json(&folder.join(name), value);
    write("tokenizer.json", &tokenizer(words))?;
    write(
        "tokenizer_config.json",
        &json!({ "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>" }),
    )?;
    write(
        "generation_config.json",
        &json!({ "eos_token_id": [TURN_END, END_OF_TEXT] }),
    )?;
    results::write_atomically(&folder.join("chat_template.jinja"), TEMPLATE.as_bytes())?;
    write(
        "preprocessor_config.json",
        &json!({
            "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2,
            "temporal_patch_size": 2, "min_pixels": 3136, "max_pixels": 12845056,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        }),
    )?;
    Ok(())
}

/// Makes the rows of the words larger in the projection that scores tokens.
fn favour(model: &Model, words: usize) -> anyhow::Result<()> {
    let name = match model.config().tie_word_embeddings {
        true => "model.embed_tokens.weight",
        false => "lm_head.weight",
    };
    let rows = model
        .parameters()
        .get(name)
        .context("no output projection")?;
    let first = 256 + SPECIAL.len();
    let others = rows.dim(0)? - first - words;
    let parts = [
        rows.narrow(0, 0, first)?,
        (rows.narrow(0, first, words)? * 8.0)?,
        rows.narrow(0, first + words, others)?,
    ];
    let parts: Vec<&Tensor> = parts.iter().filter(|part| part.elem_count() > 0).collect();
    Ok(rows.set(&Tensor::cat(&parts, 0)?.detach())?)
}

/// A byte-level tokenizer without merges.
fn tokenizer(words: &[String]) -> Value {
    let mut vocabulary = serde_json::Map::new();
    for (id, letter) in letters().into_iter().enumerate() {
        vocabulary.insert(letter.to_string(), json!(id));
    }
    let added: Vec<Value> = SPECIAL
        .iter()
        .map(|text| (*text, true))
        .chain(words.iter().map(|text| (text.as_str(), false)))
        .enumerate()
        .map(|(index, (content, special))| {
            json!({
                "id": 256 + index, "content": content, "special": special, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": {
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
        },
        "post_processor": null,
        "decoder": {
            "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true,
        },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocabulary, "merges": [],
        },
    })
}

/// The letter that stands for each byte in byte-level vocabularies (GPT-2).
fn letters() -> Vec<char> {
    let printable = |byte: u32| {
        (33..=126).contains(&byte) || (161..=172).contains(&byte) || (174..=255).contains(&byte)
    };
    let mut next = 256;
    (0..256)
        .map(|byte| {
            let code = match printable(byte) {
                true => byte,
                false => {
                    next += 1;
                    next - 1
                }
            };
            // 33 to 511: none of them is a surrogate.
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_their_tokens() {
        for (id, token) in [
            (END_OF_TEXT, "<|endoftext|>"),
            (TURN_END, "<|im_end|>"),
            (VISION_START, "<|vision_start|>"),
            (VISION_END, "<|vision_end|>"),
            (VISION_PAD, "<|vision_pad|>"),
            (IMAGE_PAD, "<|image_pad|>"),
            (VIDEO_PAD, "<|video_pad|>"),
        ] {
            assert_eq!(SPECIAL[id as usize - 256], token);
        }
    }
}
