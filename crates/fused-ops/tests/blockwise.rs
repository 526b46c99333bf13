//! Attention tile by tile, and log-probabilities chunk by chunk, against the plain formulas: every
//! kind of layout, shared heads, narrow inputs, and tiles that cut everything.

mod common;

use candle_core::{D, DType, Result, Tensor, Var};
use common::*;
use fused_ops::{AttentionLayout, LogitChunk, QueryBlock, Segment, composed};
use proptest::prelude::*;

const TOLERANCE: f32 = 1e-5;

/// `softmax(scale · q kᵀ + mask) v` with keys and values copied for every head.
fn dense(v: &[Var], layout: &AttentionLayout, scale: f64) -> Result<Tensor> {
    let (_, heads, _) = v[0].dims3()?;
    let (keys, kv_heads, dim) = v[2].dims3()?;
    let weights = composed::attention_weights(&v[0], &v[1], layout, scale)?;
    let values = v[2]
        .transpose(0, 1)?
        .unsqueeze(1)?
        .expand((kv_heads, heads / kv_heads, keys, dim))?
        .reshape((heads, keys, dim))?;
    fused_ops::matmul(&weights, &values)?.transpose(0, 1)
}

fn check(layout: &AttentionLayout, heads: usize, kv_heads: usize, dim: usize, sides: &[usize]) {
    let inputs = [
        variable(&[layout.queries(), heads, dim], 1),
        variable(&[layout.keys(), kv_heads, dim], 2),
        variable(&[layout.keys(), kv_heads, dim], 3),
    ];
    let scale = 1.0 / (dim as f64).sqrt();
    for &side in sides {
        assert_same(
            &inputs,
            &|v| composed::attention_in_tiles(&v[0], &v[1], &v[2], layout, scale, side),
            &|v| dense(v, layout, scale),
            TOLERANCE,
        );
    }
}

/// A prompt with branches, a branch of a branch, and a second prompt.
fn tree(lengths: &[usize]) -> AttentionLayout {
    let parents = [None, Some(0), Some(1), Some(0), None, Some(4)];
    let segments: Vec<Segment> = lengths
        .iter()
        .zip(parents)
        .map(|(&length, parent)| Segment { length, parent })
        .collect();
    AttentionLayout::tree(&segments).unwrap()
}

/// Samples of two prompts, each with rows of its own at even distances, as a cache has them.
fn decoding(prompts: [usize; 2], samples: usize, own: usize, ahead: usize) -> AttentionLayout {
    let first = prompts[0] + prompts[1];
    let blocks = (0..2 * samples)
        .map(|sample| {
            let prompt = match sample < samples {
                true => 0..prompts[0],
                false => prompts[0]..first,
            };
            let start = first + sample * ahead;
            QueryBlock {
                queries: sample..sample + 1,
                visible: vec![prompt, start..start + own.min(ahead)],
                causal: None,
            }
        })
        .collect();
    AttentionLayout::new(blocks, 2 * samples, first + 2 * samples * ahead).unwrap()
}

#[test]
fn every_kind_of_layout_is_the_dense_formula() {
    let sides = [1, 7, 32, 512];
    check(&AttentionLayout::causal(&[1, 90, 0, 33]), 4, 2, 12, &sides);
    let windows = [16, 16, 16, 5, 16, 16];
    check(&AttentionLayout::bidirectional(&windows), 3, 3, 20, &sides);
    check(&tree(&[40, 11, 9, 11, 20, 6]), 6, 2, 8, &sides);
    check(&mixed_layout(), 8, 1, 10, &sides);
    check(&decoding([37, 20], 4, 5, 8), 4, 2, 16, &sides);
    check(&decoding([3, 20], 3, 8, 8), 4, 4, 16, &sides);
}

/// The head sizes and groups of the released models' tower and decoders.
#[test]
fn sizes_of_the_released_models() {
    let windows = AttentionLayout::bidirectional(&[64, 64, 32, 64]);
    check(&windows, 16, 16, 80, &[512]);
    check(&tree(&[60, 20, 10, 20]), 16, 2, 128, &[32, 512]);
    check(&AttentionLayout::causal(&[50]), 28, 4, 128, &[512]);
}

/// More than one tile of the default size.
#[test]
fn tiles_of_the_default_size_meet() {
    let inputs = [
        variable(&[1100, 2, 8], 1),
        variable(&[1100, 1, 8], 2),
        variable(&[1100, 1, 8], 3),
    ];
    let layout = AttentionLayout::causal(&[700, 400]);
    assert_same(
        &inputs,
        &|v| composed::attention(&v[0], &v[1], &v[2], &layout, 0.35),
        &|v| dense(v, &layout, 0.35),
        TOLERANCE,
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn attention_on_odd_shapes(
        lengths in prop::collection::vec(0usize..60, 1..7),
        kind in 0usize..3, kv_heads in 1usize..4, group in 1usize..4, dim in 1usize..40,
        side in 1usize..40,
    ) {
        let layout = match kind {
            0 => AttentionLayout::causal(&lengths),
            1 => AttentionLayout::bidirectional(&lengths),
            _ => tree(&lengths[..lengths.len().min(6)]),
        };
        prop_assume!(layout.queries() > 0);
        check(&layout, kv_heads * group, kv_heads, dim, &[side]);
        let some: Vec<usize> = (0..layout.queries()).filter(|query| query % 3 != 1).collect();
        check(&layout.select(&some).unwrap(), kv_heads * group, kv_heads, dim, &[side]);
    }

    #[test]
    fn log_probs_in_chunks_of_any_size(
        tokens in 1usize..40, vocab in 3usize..70, width in 1usize..20,
        chunk_tokens in 1usize..50, chunk_ids in 1usize..80, temperature in 0.3f64..2.0,
    ) {
        let targets: Vec<u32> = (0..tokens).map(|t| ((t * 7) % (vocab - 2)) as u32).collect();
        let banned = [vocab as u32 - 1, vocab as u32 - 2];
        let inputs = [variable(&[tokens, width], 1), variable(&[vocab, width], 2)];
        let chunk = LogitChunk { tokens: chunk_tokens, ids: chunk_ids };
        let scored = |v: &[Var]| {
            let (hidden, weight) = (&v[0], &v[1]);
            composed::token_log_probs_in_chunks(hidden, weight, &targets, temperature, &banned, chunk)
        };
        assert_same(
            &inputs,
            &|v| Ok(scored(v)?.0),
            &|v| Ok(plain_log_probs(&v[0], &v[1], &targets, temperature, &banned)?.0),
            2.0 * TOLERANCE,
        );
        let (_, expected) =
            plain_log_probs(&inputs[0], &inputs[1], &targets, temperature, &banned).unwrap();
        let (_, found) = scored(&inputs).unwrap();
        assert_close("entropy", &found, &expected, 2.0 * TOLERANCE);
        prop_assert!(!found.track_op());
    }
}

/// (log-probs, entropy) from all logits.
fn plain_log_probs(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &[u32],
    temperature: f64,
    banned: &[u32],
) -> Result<(Tensor, Tensor)> {
    let mut mask = vec![0f32; weight.dim(0)?];
    for &id in banned {
        mask[id as usize] = -1e30;
    }
    let device = hidden.device();
    let logits = (hidden.matmul(&weight.t()?)? * (1.0 / temperature))?
        .broadcast_add(&Tensor::new(mask, device)?)?;
    let peak = logits.detach().max_keepdim(D::Minus1)?;
    let total = logits.broadcast_sub(&peak)?.exp()?.sum_keepdim(D::Minus1)?;
    let all = logits.broadcast_sub(&(total.log()? + peak)?)?;
    let chosen = Tensor::from_slice(targets, (targets.len(), 1), device)?;
    let log_probs = all.gather(&chosen, D::Minus1)?.squeeze(1)?;
    let entropy = all.exp()?.mul(&all)?.sum(D::Minus1)?.neg()?;
    Ok((log_probs, entropy.detach()))
}

/// The inputs rounded to bf16, as bf16 and as f32.
fn rounded(shapes: &[&[usize]]) -> (Vec<Var>, Vec<Var>) {
    let narrow: Vec<Var> = shapes
        .iter()
        .enumerate()
        .map(|(index, shape)| {
            let values = normal(shape, index as u64).to_dtype(DType::BF16).unwrap();
            Var::from_tensor(&values).unwrap()
        })
        .collect();
    let wide = narrow
        .iter()
        .map(|var| Var::from_tensor(&var.to_dtype(DType::F32).unwrap()).unwrap())
        .collect();
    (narrow, wide)
}

/// The operator on bf16 inputs is that on the same numbers in f32, its results rounded: nothing that
/// is computed on the way is bf16.
fn check_narrow(what: &str, shapes: &[&[usize]], operator: Operator, exact: Operator) {
    let (narrow, wide) = rounded(shapes);
    let widened = |v: &[Var]| operator(v)?.to_dtype(DType::F32);
    let (found, found_grads) = gradients(&narrow, &widened);
    let (expected, grads) = gradients(&wide, exact);
    // Eight bits, and the gradient that goes in was rounded too.
    assert_close(what, &found, &expected, 4e-3);
    for (found, expected) in found_grads.iter().zip(&grads) {
        assert_eq!(found.dtype(), DType::BF16);
        let found = found.to_dtype(DType::F32).unwrap();
        assert_close(what, &found, expected, 1e-2);
    }
}

#[test]
fn bf16_is_rounded_at_the_ends_alone() {
    let layout = tree(&[70, 20, 9, 20]);
    check_narrow(
        "attention",
        &[&[119, 4, 32], &[119, 2, 32], &[119, 2, 32]],
        &|v| Ok(fused_ops::attention(&v[0], &v[1], &v[2], &layout, 0.2)?),
        &|v| dense(v, &layout, 0.2),
    );
    check_narrow(
        "rms_norm",
        &[&[40, 64], &[64]],
        &|v| Ok(fused_ops::rms_norm(&v[0], &v[1], 1e-6)?),
        &|v| Ok(fused_ops::rms_norm(&v[0], &v[1], 1e-6)?),
    );
    check_narrow(
        "swiglu",
        &[&[40, 64], &[40, 64]],
        &|v| Ok(fused_ops::swiglu(&v[0], &v[1])?),
        &|v| Ok(fused_ops::swiglu(&v[0], &v[1])?),
    );
    let (cos, sin) = (normal(&[40, 16], 8), normal(&[40, 16], 9));
    check_narrow(
        "rotary",
        &[&[40, 3, 16]],
        &|v| Ok(fused_ops::rotary(&v[0], &cos, &sin)?),
        &|v| Ok(fused_ops::rotary(&v[0], &cos, &sin)?),
    );
}

#[test]
fn log_probs_and_logits_of_bf16_are_f32() {
    let targets: Vec<u32> = (0..30).map(|i| (i * 7) % 90).collect();
    let (narrow, wide) = rounded(&[&[30, 64], &[101, 64]]);
    let scored = |v: &[Var]| fused_ops::token_log_probs(&v[0], &v[1], &targets, 0.7, &[99]);
    let (found, expected) = (scored(&narrow).unwrap(), scored(&wide).unwrap());
    assert_eq!(found.log_probs.dtype(), DType::F32);
    // Logits of this size would be off by .03 in bf16.
    assert_close("log-probs", &found.log_probs, &expected.log_probs, 1e-5);
    assert_close("entropy", &found.entropy, &expected.entropy, 1e-5);
    let logits = |v: &[Var]| fused_ops::logits(&v[0], &v[1]).unwrap();
    assert_close("logits", &logits(&narrow), &logits(&wide), 1e-5);
    let grads = |v: &[Var]| {
        let (_, grads) = gradients(v, &|v| Ok(scored(v)?.log_probs));
        let wide = grads.iter().map(|grad| grad.to_dtype(DType::F32).unwrap());
        wide.collect::<Vec<_>>()
    };
    for (found, expected) in grads(&narrow).iter().zip(&grads(&wide)) {
        assert_close("gradient", found, expected, 4e-3);
    }
}

/// A thousand equal ids: summed one by one in bf16, whose sums stand still at 256, the gradient would
/// be a quarter of what it is.
#[test]
fn embedding_gradients_are_summed_in_f32() {
    let table = Var::from_tensor(&normal(&[5, 3], 1).to_dtype(DType::BF16).unwrap()).unwrap();
    let ids: Vec<u32> = (0..1000).map(|i| if i % 10 == 0 { 3 } else { 1 }).collect();
    let out = composed::embedding(&table, &ids).unwrap();
    let grads = out.sum_all().unwrap().backward().unwrap();
    let found = grads.get(&table).unwrap().to_dtype(DType::F32).unwrap();
    let expected = [0., 900., 0., 100., 0.].map(|sum: f32| half::bf16::from_f32(sum).to_f32());
    assert_eq!(
        found.to_vec2::<f32>().unwrap(),
        expected.map(|sum| vec![sum; 3])
    );
}

/// The same operator twice gives the same bits: no order of additions is left open.
#[test]
fn composed_gradients_repeat() {
    let layout = tree(&[70, 20, 9, 20]);
    let inputs = [
        variable(&[119, 4, 32], 1),
        variable(&[119, 2, 32], 2),
        variable(&[119, 2, 32], 3),
    ];
    let run = || {
        let (out, grads) = gradients(&inputs, &|v| {
            composed::attention_in_tiles(&v[0], &v[1], &v[2], &layout, 0.2, 16)
        });
        let all: Vec<Vec<f32>> = std::iter::once(&out).chain(&grads).map(values).collect();
        all
    };
    assert_eq!(run(), run());
}

#[test]
fn only_what_is_wanted_gets_a_gradient() {
    let layout = AttentionLayout::causal(&[9]);
    let (q, k) = (variable(&[9, 2, 4], 1), variable(&[9, 1, 4], 2));
    let v = normal(&[9, 1, 4], 3);
    let out = composed::attention(&q, &k, &v, &layout, 0.5).unwrap();
    let grads = out.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&q).is_some() && grads.get(&k).is_some() && grads.get(&v).is_none());
    let plain = q.as_detached_tensor();
    let none = composed::attention(&plain, &k.as_detached_tensor(), &v, &layout, 0.5).unwrap();
    assert!(!none.track_op());
    assert_eq!(values(&none), values(&out));
}
