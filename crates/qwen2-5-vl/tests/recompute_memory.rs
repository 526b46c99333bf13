//! What activation recompute saves: the peak of allocated bytes with and without it.

#[path = "common/allocations.rs"]
mod allocations;

use allocations::peak_of;
use candle_core::{Device, Tensor};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{Config, Model, Positions};
use seeded_random::Stream;

#[test]
fn recompute_needs_a_fraction_of_the_memory() {
    let json = serde_json::json!({
        "model_type": "qwen2_5_vl",
        "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8,
        "num_attention_heads": 4, "num_key_value_heads": 2,
        "rope_scaling": { "type": "mrope", "mrope_section": [2, 3, 3] },
        "image_token_id": 60, "video_token_id": 61,
        "vision_start_token_id": 62, "vision_end_token_id": 63,
        "vision_config": {
            "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
            "out_hidden_size": 64, "patch_size": 4, "window_size": 16,
            "fullatt_block_indexes": [],
        },
    });
    let config = Config::parse(&json.to_string(), "test").unwrap();
    let model = Model::random(config, Stream::new(1), &Device::Cpu).unwrap();
    let lengths = [128; 16];
    let tokens: usize = lengths.iter().sum();
    let ids: Vec<u32> = (0..tokens as u32).map(|i| i * i % 59).collect();
    let positions = Positions::concat(&lengths.map(|length| Positions::text(0, length)));
    let layout = AttentionLayout::causal(&lengths);
    let head = |hidden: &Tensor| -> candle_core::Result<Tensor> {
        model
            .token_log_probs(hidden, &ids, 1.0)?
            .log_probs
            .mean_all()
    };
    let plain = || {
        let embeddings = model.embed(&ids, None).unwrap();
        let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
        head(&hidden).unwrap().backward().unwrap()
    };
    let recomputed = || {
        let embeddings = model.embed(&ids, None).unwrap();
        let found = model.backward_with_recompute(&embeddings, &positions, &layout, head);
        found.unwrap().1
    };
    // Once before measuring: thread pools and their buffers stay.
    drop(plain());
    let (expected, whole) = peak_of(plain);
    let (found, part) = peak_of(recomputed);
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    println!(
        "peak of one step, 8 layers, {tokens} tokens: {:.1} MB kept, {:.1} MB recomputed ({:.1} times less)",
        megabytes(whole),
        megabytes(part),
        whole as f64 / part as f64
    );
    assert!(part * 2 < whole, "{part} of {whole} bytes");
    for (name, variable) in model.trainable() {
        let Some(gradient) = expected.get(&variable) else {
            continue;
        };
        let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(
            values(gradient),
            values(found.get(&variable).unwrap()),
            "{name}"
        );
    }
}
