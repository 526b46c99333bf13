//! Checkpoints of the real architecture with few, random weights, a tokenizer of bytes with Qwen's
//! special tokens, and the chat template of the released models.
//!
//! A random model writes random bytes, which call no tool. So the vocabulary also holds whole calls
//! and whole answers as single tokens, whose rows of the output projection are made larger: most
//! samples make a call or give an answer.

use std::path::Path;

use candle_core::{Device, Tensor};
use qwen2_5_vl::{Config, Model};
use seeded_random::Stream;
use serde_json::{Value, json};

/// Qwen2.5-VL's, with the ids that follow 256 bytes.
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

/// As Qwen/Qwen2.5-VL-3B-Instruct has it.
const TEMPLATE: &str = "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}{% set image_count.value = image_count.value + 1 %}{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' or 'video' in content %}{% set video_count.value = video_count.value + 1 %}{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// How a model differs from the other.
pub struct Shape {
    pub hidden: usize,
    pub layers: usize,
    /// The 3B ties its output projection, the 7B does not.
    pub tied: bool,
    pub seed: u64,
}

/// As the 3B: sixteen query heads on two pairs of keys and values, narrow.
pub const STUDENT: Shape = Shape {
    hidden: 128,
    layers: 2,
    tied: true,
    seed: 3,
};

/// As the 7B beside it: wider, its features no student's.
pub const TEACHER: Shape = Shape {
    hidden: 192,
    layers: 2,
    tied: false,
    seed: 7,
};

/// Writes a checkpoint's folder. `words` become tokens of their own.
pub fn write(folder: &Path, shape: &Shape, words: &[String]) {
    std::fs::create_dir_all(folder).unwrap();
    let vocabulary = 256 + SPECIAL.len() + words.len();
    let id = |token: &str| 256 + SPECIAL.iter().position(|known| *known == token).unwrap();
    let heads = shape.hidden / 8;
    let config = json!({
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "vocab_size": vocabulary, "hidden_size": shape.hidden, "intermediate_size": 2 * shape.hidden,
        "num_hidden_layers": shape.layers, "num_attention_heads": heads, "num_key_value_heads": 2,
        "max_position_embeddings": 128000, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "rope_scaling": { "type": "mrope", "mrope_section": [1, 1, 2] },
        "tie_word_embeddings": shape.tied, "initializer_range": 0.02,
        "bos_token_id": id("<|endoftext|>"), "eos_token_id": id("<|im_end|>"),
        "image_token_id": id("<|image_pad|>"), "video_token_id": id("<|video_pad|>"),
        "vision_start_token_id": id("<|vision_start|>"), "vision_end_token_id": id("<|vision_end|>"),
        "vision_token_id": id("<|vision_pad|>"),
        "vision_config": {
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
            "out_hidden_size": shape.hidden, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "window_size": 112, "fullatt_block_indexes": [1],
            "tokens_per_second": 2, "in_chans": 3,
        },
    });
    let config = Config::parse(&config.to_string(), "rehearsal").unwrap();
    let model = Model::random(config, Stream::new(shape.seed), &Device::Cpu).unwrap();
    model.save(folder).unwrap();
    favour_words(folder, shape.tied, words.len());
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("tokenizer.json", tokenizer(words).to_string());
    write(
        "tokenizer_config.json",
        json!({ "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>" }).to_string(),
    );
    write(
        "generation_config.json",
        json!({ "eos_token_id": [id("<|im_end|>"), id("<|endoftext|>")] }).to_string(),
    );
    write("chat_template.jinja", TEMPLATE.to_owned());
    write(
        "preprocessor_config.json",
        json!({
            "image_processor_type": "Qwen2VLImageProcessor", "patch_size": 14, "merge_size": 2,
            "temporal_patch_size": 2, "min_pixels": 3136, "max_pixels": 12845056,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
        })
        .to_string(),
    );
}

/// Makes the rows of the last tokens larger in the projection that scores tokens.
fn favour_words(folder: &Path, tied: bool, words: usize) {
    let file = folder.join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let name = match tied {
        true => "model.embed_tokens.weight",
        false => "lm_head.weight",
    };
    let rows = &tensors[name];
    let others = rows.dim(0).unwrap() - words;
    let bytes = rows.narrow(0, 0, others).unwrap();
    let words = (rows.narrow(0, others, words).unwrap() * 8.0).unwrap();
    let favoured = Tensor::cat(&[&bytes, &words], 0).unwrap();
    tensors.insert(name.to_owned(), favoured);
    candle_core::safetensors::save(&tensors, file).unwrap();
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
            char::from_u32(code).unwrap()
        })
        .collect()
}
