//! What attention and log-probabilities cost in memory: tiles, however many tokens there are.

#[path = "../../qwen2-5-vl/tests/common/allocations.rs"]
mod allocations;
mod common;

use allocations::peak_of;
use candle_core::Var;
use common::variable;
use fused_ops::{AttentionLayout, composed};

const HEADS: usize = 4;
const DIM: usize = 8;
/// A tile's scores.
const TILE: usize = HEADS * 512 * 512 * 4;

/// Peak bytes of the forward pass, and of both passes.
fn attention(inputs: &[Var], layout: &AttentionLayout) -> (usize, usize) {
    let forward = || composed::attention(&inputs[0], &inputs[1], &inputs[2], layout, 0.3).unwrap();
    let (_, alone) = peak_of(forward);
    let (_, both) = peak_of(|| forward().sum_all().unwrap().backward().unwrap());
    (alone, both)
}

/// One test, since the counters are the process's.
#[test]
fn peaks_are_tiles_and_what_is_as_long_as_the_inputs() {
    let inputs = |tokens: usize| {
        [
            variable(&[tokens, HEADS, DIM], 1),
            variable(&[tokens, 2, DIM], 2),
            variable(&[tokens, 2, DIM], 3),
        ]
    };
    let megabytes = |bytes: usize| bytes as f64 / 1e6;
    // Once before measuring: thread pools and their buffers stay.
    attention(&inputs(600), &AttentionLayout::causal(&[600]));
    let mut peaks = Vec::new();
    for tokens in [1024, 4096] {
        let (forward, both) = attention(&inputs(tokens), &AttentionLayout::causal(&[tokens]));
        println!(
            "attention, {tokens} tokens: {:.1} MB forward, {:.1} MB with backward; all scores are {:.1} MB",
            megabytes(forward),
            megabytes(both),
            megabytes(HEADS * tokens * tokens * 4)
        );
        peaks.push((forward, both));
    }
    // An input's bytes in f32, for each token more.
    let longer = 3072 * HEADS * DIM * 4;
    let [(forward, both), (long_forward, long_both)] = peaks[..] else {
        panic!("{peaks:?}")
    };
    assert!(forward < 6 * TILE && both < 8 * TILE, "{peaks:?}");
    assert!(long_forward < forward + 8 * longer, "{peaks:?}");
    assert!(long_both < both + 16 * longer, "{peaks:?}");
    assert!(long_both < 4096 * 4096 * HEADS * 4 / 2, "{peaks:?}");

    // Log-probabilities of 2,048 tokens over 20,000 ids: all logits would be 164 MB, and candle keeps several.
    let (hidden, weight) = (variable(&[2048, 8], 1), variable(&[20_000, 8], 2));
    let targets: Vec<u32> = (0..2048).collect();
    let scored = || {
        let (log_probs, _) =
            composed::token_log_probs(&hidden, &weight, &targets, 0.7, &[9999]).unwrap();
        log_probs
    };
    let (_, forward) = peak_of(scored);
    let (_, both) = peak_of(|| scored().sum_all().unwrap().backward().unwrap());
    println!(
        "log-probs: {:.1} MB forward, {:.1} MB with backward",
        megabytes(forward),
        megabytes(both)
    );
    let chunk = 1024 * 8192 * 4;
    assert!(forward < 5 * chunk && both < 6 * chunk, "{forward}, {both}");
}
