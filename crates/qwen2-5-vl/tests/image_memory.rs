//! What encoding images costs in memory: with a frozen or detached tower nothing of its graph is kept.

#[path = "common/allocations.rs"]
mod allocations;

use allocations::{in_use, peak_of};
use candle_core::{Device, Tensor};
use qwen2_5_vl::{Config, Grid, Model, ModelPart};
use seeded_random::Stream;

/// 2,800 patches: what the released checkpoints make of a chart of 0.55 million pixels.
const GRID: Grid = Grid { t: 1, h: 56, w: 50 };

fn model(depth: usize) -> Model {
    let json = serde_json::json!({
        "model_type": "qwen2_5_vl",
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1,
        "rope_scaling": { "type": "mrope", "mrope_section": [2, 3, 3] },
        "image_token_id": 60, "video_token_id": 61,
        "vision_start_token_id": 62, "vision_end_token_id": 63,
        "vision_config": {
            "depth": depth, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2,
            "out_hidden_size": 32, "patch_size": 2, "window_size": 16,
            "fullatt_block_indexes": [],
        },
    });
    let config = Config::parse(&json.to_string(), "test").unwrap();
    Model::random(config, Stream::new(1), &Device::Cpu).unwrap()
}

fn pixels(of: usize) -> Tensor {
    let count = GRID.patches() * 24;
    let values = (0..count)
        .map(|i| ((i * 7 + of) % 13) as f32 / 13.0)
        .collect::<Vec<_>>();
    Tensor::from_vec(values, (GRID.patches(), 24), &Device::Cpu).unwrap()
}

/// One test, since the counters are the process's.
#[test]
fn memory_of_encoding_follows_the_token_budget() {
    let image = (pixels(0), GRID);
    let (shallow, deep) = (model(2), model(12));
    let features = GRID.tokens(2) * 32 * 4;
    // Once before measuring: thread pools and their buffers stay.
    deep.image_features(std::slice::from_ref(&image), 1)
        .unwrap();

    // The graph of a tower that trains is kept, a layer's activations a layer.
    let before = in_use();
    let kept = deep.encode_images(&image.0, &[GRID]).unwrap();
    let with_graph = in_use() - before;
    drop(kept);

    // Without one, only the features are, however deep the tower is.
    let before = in_use();
    let of_deep = deep
        .image_features(std::slice::from_ref(&image), 1)
        .unwrap();
    let without = in_use() - before;
    assert!(!of_deep[0].track_op());
    println!("one image kept by 12 blocks: {with_graph} bytes with a graph, {without} without");
    assert!(without < 2 * features + 10_000, "{without}");
    assert!(with_graph > 50 * without, "{with_graph}");
    let frozen = {
        let mut frozen = deep.detached().unwrap();
        frozen
            .freeze(&[ModelPart::Vision, ModelPart::Merger])
            .unwrap();
        frozen
    };
    let before = in_use();
    let of_frozen = frozen.encode_images(&image.0, &[GRID]).unwrap();
    assert!(in_use() - before < 2 * features + 10_000);
    let values = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&of_frozen), values(&of_deep[0]));

    let peak = |model: &Model, images: &[(Tensor, Grid)], budget| {
        peak_of(|| model.image_features(images, budget).unwrap()).1
    };
    let (two, twelve) = (
        peak(&shallow, std::slice::from_ref(&image), 1),
        peak(&deep, std::slice::from_ref(&image), 1),
    );
    println!("peak of one image: {two} bytes with 2 blocks, {twelve} with 12");
    assert!(twelve < two + two / 10, "{twelve} against {two}");

    // Ten images take what one takes and their features; two at a time about twice as much.
    let many: Vec<(Tensor, Grid)> = (0..10).map(|of| (pixels(of), GRID)).collect();
    let one_by_one = peak(&shallow, &many, 1);
    let pairs = peak(&shallow, &many, 2 * GRID.tokens(2));
    println!("peak of ten images: {one_by_one} bytes one by one, {pairs} in pairs");
    assert!(one_by_one < two + two / 10 + 12 * features, "{one_by_one}");
    assert!(
        pairs > one_by_one && pairs < 3 * two + 12 * features,
        "{pairs}"
    );
    // Features of images that went through together do not hold on to each other.
    let before = in_use();
    let kept = shallow.image_features(&many, usize::MAX).unwrap();
    let held = in_use() - before;
    assert!(held < 10 * features + 20_000, "{held}");
    drop(kept);
    let single = shallow.image_features(&many[7..8], 1).unwrap();
    let together = shallow.image_features(&many, usize::MAX).unwrap();
    let difference = values(&single[0])
        .iter()
        .zip(values(&together[7]))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
}
