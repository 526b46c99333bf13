//! A model small enough to test in a moment, and a prompt with an image for it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use candle_core::{Device, Tensor};
use qwen2_5_vl::{Config, GenerationOptions, Grid, Model, Prompt};
use seeded_random::{Draw, Stream};

/// A configuration with every feature of the large ones: grouped heads, unequal rotary sections,
/// window and full attention.
pub fn config(tied: bool) -> Config {
    let json = serde_json::json!({
        "model_type": "qwen2_5_vl",
        "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
        "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
        "initializer_range": 0.2, "tie_word_embeddings": tied, "rope_theta": 10000.0,
        "rope_scaling": { "type": "mrope", "mrope_section": [1, 2, 3] },
        "image_token_id": 35, "video_token_id": 36,
        "vision_start_token_id": 37, "vision_end_token_id": 38,
        "vision_config": {
            "depth": 3, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2,
            "out_hidden_size": 24, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1],
        },
    });
    Config::parse(&json.to_string(), "test").unwrap()
}

pub fn model(tied: bool, seed: u64) -> Model {
    Model::random(config(tied), Stream::new(seed), &Device::Cpu).unwrap()
}

/// Pixel values of an image of this grid.
pub fn pixels(grid: &Grid, seed: u64) -> Tensor {
    let mut generator = Stream::new(seed).purpose("pixels").generator();
    let count = grid.patches() * 96;
    let values: Vec<f32> = (0..count).map(|_| generator.normal() as f32).collect();
    Tensor::from_vec(values, (grid.patches(), 96), &Device::Cpu).unwrap()
}

/// Words, an image of 12 x 6 patches (with windows that are not full), words.
pub fn prompt(model: &Model, seed: u64, words: usize) -> Prompt {
    let grid = Grid { t: 1, h: 12, w: 6 };
    let mut generator = Stream::new(seed).purpose("words").generator();
    let mut word = || generator.below(30) as u32;
    let mut input_ids = vec![word(), word(), 37];
    input_ids.extend([35; 18]);
    input_ids.push(38);
    input_ids.extend((0..words).map(|_| word()));
    Prompt {
        input_ids,
        image_features: Some(model.encode_images(&pixels(&grid, seed), &[grid]).unwrap()),
        grids: vec![grid],
    }
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

pub fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

/// Forty tokens at most, two of the words stop.
pub fn options(temperature: f64) -> GenerationOptions {
    GenerationOptions {
        max_new_tokens: 40,
        temperature,
        top_p: None,
        repetition_penalty: None,
        stop_ids: vec![1, 2],
    }
}

/// What a second turn sees: the first turn, what was sampled, another image, words.
pub fn continued(model: &Model, first: &Prompt, seed: u64, said: &[u32]) -> Prompt {
    let grid = Grid { t: 1, h: 4, w: 6 };
    let mut input_ids = [&first.input_ids[..], said].concat();
    input_ids.extend([3, 37]);
    input_ids.extend([35; 6]);
    input_ids.extend([38, 4, 5, seed as u32 % 30]);
    let edited = model.encode_images(&pixels(&grid, seed), &[grid]).unwrap();
    let features = [first.image_features.clone().unwrap(), edited];
    Prompt {
        input_ids,
        image_features: Some(Tensor::cat(&features, 0).unwrap()),
        grids: [first.grids.clone(), vec![grid]].concat(),
    }
}
