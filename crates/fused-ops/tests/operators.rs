//! Every fused operator against its composed version and finite differences, on odd shapes, and
//! the same bits whatever the number of threads.

mod common;

use candle_core::{DType, Device, Tensor};
use common::*;
use fused_ops::{AttentionLayout, QueryBlock, Segment, composed};
use proptest::prelude::*;

const TOLERANCE: f32 = 1e-5;

fn check_all(inputs: &[candle_core::Var], fused: Operator, plain: Operator) {
    assert_same(inputs, fused, plain, TOLERANCE);
    assert_finite_differences(inputs, fused, 2e-2);
    assert_thread_independent(inputs, fused);
}

#[test]
fn rms_norm() {
    let inputs = [variable(&[300, 3, 37], 1), variable(&[37], 2)];
    check_all(
        &inputs,
        &|v| Ok(fused_ops::rms_norm(&v[0], &v[1], 1e-6)?),
        &|v| composed::rms_norm(&v[0], &v[1], 1e-6),
    );
}

#[test]
fn rotary() {
    let (cos, sin) = (normal(&[70, 20], 3), normal(&[70, 20], 4));
    check_all(
        &[variable(&[70, 3, 20], 1)],
        &|v| Ok(fused_ops::rotary(&v[0], &cos, &sin)?),
        &|v| composed::rotary(&v[0], &cos, &sin),
    );
}

#[test]
fn swiglu() {
    check_all(
        &[variable(&[301, 67], 1), variable(&[301, 67], 2)],
        &|v| Ok(fused_ops::swiglu(&v[0], &v[1])?),
        &|v| composed::swiglu(&v[0], &v[1]),
    );
}

#[test]
fn linear() {
    let inputs = [
        variable(&[530, 45], 1),
        variable(&[37, 45], 2),
        variable(&[37], 3),
    ];
    check_all(
        &inputs,
        &|v| Ok(fused_ops::linear(&v[0], &v[1], Some(&v[2]))?),
        &|v| v[0].matmul(&v[1].t()?)?.broadcast_add(&v[2]),
    );
    check_all(
        &inputs[..2],
        &|v| Ok(fused_ops::linear(&v[0], &v[1], None)?),
        &|v| v[0].matmul(&v[1].t()?),
    );
}

#[test]
fn linear_computes_only_the_gradients_that_are_needed() {
    let (x, weight) = (variable(&[5, 4], 1), variable(&[3, 4], 2));
    let frozen = weight.as_detached_tensor();
    let loss = fused_ops::linear(&x, &frozen, None)
        .unwrap()
        .sum_all()
        .unwrap();
    let grads = loss.backward().unwrap();
    assert!(grads.get(&x).is_some() && grads.get(&frozen).is_none());
    let fixed = x.as_detached_tensor();
    let loss = fused_ops::linear(&fixed, &weight, None)
        .unwrap()
        .sum_all()
        .unwrap();
    let grads = loss.backward().unwrap();
    assert!(grads.get(&fixed).is_none() && grads.get(&weight).is_some());
}

#[test]
fn a_row_of_a_product_does_not_depend_on_its_batch() {
    let (x, weight) = (normal(&[100, 700], 1), normal(&[50, 700], 2));
    let all = fused_ops::linear(&x, &weight, None).unwrap();
    for (start, rows) in [(0, 1), (17, 5), (93, 7)] {
        let some = fused_ops::linear(&x.narrow(0, start, rows).unwrap(), &weight, None).unwrap();
        assert_eq!(values(&all.narrow(0, start, rows).unwrap()), values(&some));
    }
}

#[test]
fn embedding() {
    let ids: Vec<u32> = (0..200).map(|i| (i * i) % 23).collect();
    check_all(
        &[variable(&[23, 9], 1)],
        &|v| Ok(fused_ops::embedding(&v[0], &ids)?),
        &|v| composed::embedding(&v[0], &ids),
    );
}

#[test]
fn token_log_probs() {
    let targets: Vec<u32> = (0..60).map(|i| (i * 7) % 90 + 3).collect();
    let inputs = [variable(&[60, 24], 1), variable(&[101, 24], 2)];
    check_all(
        &inputs,
        &|v| Ok(fused_ops::token_log_probs(&v[0], &v[1], &targets, 0.7, &[0, 99, 2])?.log_probs),
        &|v| Ok(composed::token_log_probs(&v[0], &v[1], &targets, 0.7, &[0, 99, 2])?.0),
    );
    let fused = fused_ops::token_log_probs(&inputs[0], &inputs[1], &targets, 0.7, &[1]).unwrap();
    let (_, entropy) =
        composed::token_log_probs(&inputs[0], &inputs[1], &targets, 0.7, &[1]).unwrap();
    assert_close("entropy", &fused.entropy, &entropy, TOLERANCE);
    assert!(!fused.entropy.track_op());
}

#[test]
fn token_log_probs_over_several_pieces_of_the_vocabulary() {
    // 9,000 tokens make pieces of 116 ids.
    let targets: Vec<u32> = (0..9000).map(|i| (i * 7) % 250).collect();
    let inputs = [variable(&[9000, 4], 1), variable(&[257, 4], 2)];
    assert_same(
        &inputs,
        &|v| Ok(fused_ops::token_log_probs(&v[0], &v[1], &targets, 1.0, &[250, 256])?.log_probs),
        &|v| Ok(composed::token_log_probs(&v[0], &v[1], &targets, 1.0, &[250, 256])?.0),
        TOLERANCE,
    );
}

fn check_attention(layout: &AttentionLayout, heads: usize, kv_heads: usize, dim: usize) {
    let (queries, keys) = (layout.queries(), layout.keys());
    let inputs = [
        variable(&[queries, heads, dim], 1),
        variable(&[keys, kv_heads, dim], 2),
        variable(&[keys, kv_heads, dim], 3),
    ];
    let scale = 1.0 / (dim as f64).sqrt();
    check_all(
        &inputs,
        &|v| Ok(fused_ops::attention(&v[0], &v[1], &v[2], layout, scale)?),
        &|v| composed::attention(&v[0], &v[1], &v[2], layout, scale),
    );
}

#[test]
fn attention_causal() {
    check_attention(&AttentionLayout::causal(&[1, 130, 0, 33]), 4, 2, 32);
}

#[test]
fn attention_windows() {
    check_attention(&AttentionLayout::bidirectional(&[16, 100, 7]), 3, 3, 20);
}

#[test]
fn attention_tree() {
    let segment = |length, parent| Segment { length, parent };
    let layout = AttentionLayout::tree(&[
        segment(40, None),
        segment(11, Some(0)),
        segment(25, Some(0)),
        segment(30, None),
        segment(13, Some(2)),
    ])
    .unwrap();
    check_attention(&layout, 6, 2, 8);
}

#[test]
fn attention_of_selected_queries() {
    let layout = mixed_layout();
    let every_third: Vec<usize> = (0..layout.queries()).filter(|q| q % 3 != 1).collect();
    let some = layout.select(&every_third).unwrap();
    check_attention(&some, 4, 2, 24);
    let rows = |layout: &AttentionLayout| -> Vec<Vec<f32>> {
        layout
            .dense_mask(&Device::Cpu, DType::F32)
            .unwrap()
            .to_vec2()
            .unwrap()
    };
    let (all, selected) = (rows(&layout), rows(&some));
    for (row, &query) in selected.iter().zip(&every_third) {
        assert_eq!(row, &all[query], "query {query}");
    }
    let everything: Vec<usize> = (0..layout.queries()).collect();
    assert_eq!(rows(&layout.select(&everything).unwrap()), all);
    assert!(layout.select(&[3, 3]).is_err());
    assert!(layout.select(&[layout.queries()]).is_err());
}

#[test]
fn attention_mixed() {
    check_attention(&mixed_layout(), 8, 1, 40);
}

/// Single queries, as in a step of decoding: shared rows of a prompt and rows of their own.
#[test]
fn attention_of_single_queries() {
    let block = |query: usize, visible: &[std::ops::Range<usize>], causal| QueryBlock {
        queries: query..query + 1,
        visible: visible.to_vec(),
        causal,
    };
    let blocks = vec![
        block(0, &[0..37, 60..61], None),
        block(1, &[0..37, 61..66], None),
        block(2, &[37..50, 50..60], Some(66)),
        block(3, &[], Some(67)),
    ];
    let layout = AttentionLayout::new(blocks, 4, 68).unwrap();
    for (heads, kv_heads, dim) in [
        (4, 2, 32),
        (3, 3, 20),
        (8, 1, 5),
        (2, 1, 80),
        (2, 2, 128),
        (1, 1, 64),
    ] {
        check_attention(&layout, heads, kv_heads, dim);
    }
}

#[test]
fn attention_weights_are_what_attention_weighs_with() {
    let layout = mixed_layout();
    let (queries, keys) = (layout.queries(), layout.keys());
    let (q, k) = (normal(&[queries, 6, 16], 1), normal(&[keys, 2, 16], 2));
    let v = normal(&[keys, 2, 16], 3);
    let weights = composed::attention_weights(&q, &k, &layout, 0.25).unwrap();
    assert_eq!(weights.dims(), [6, queries, keys]);
    for sum in values(&weights.sum(2).unwrap()) {
        assert!((sum - 1.0).abs() < 1e-5, "{sum}");
    }
    // Query head h weighs the values of head h / 3.
    let attended = fused_ops::attention(&q, &k, &v, &layout, 0.25).unwrap();
    for head in 0..6 {
        let of_head = v.narrow(1, head / 3, 1).unwrap().squeeze(1).unwrap();
        let applied = weights
            .get(head)
            .unwrap()
            .matmul(&of_head.contiguous().unwrap())
            .unwrap();
        let expected = attended.narrow(1, head, 1).unwrap().squeeze(1).unwrap();
        assert_close("attended", &applied, &expected, TOLERANCE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn attention_on_odd_shapes(
        lengths in prop::collection::vec(0usize..140, 1..5),
        kv_heads in 1usize..4, group in 1usize..4, dim in 1usize..70, causal: bool,
    ) {
        let layout = match causal {
            true => AttentionLayout::causal(&lengths),
            false => AttentionLayout::bidirectional(&lengths),
        };
        prop_assume!(layout.queries() > 0);
        let inputs = [
            variable(&[layout.queries(), kv_heads * group, dim], 1),
            variable(&[layout.keys(), kv_heads, dim], 2),
            variable(&[layout.keys(), kv_heads, dim], 3),
        ];
        let scale = 1.0 / (dim as f64).sqrt();
        assert_same(
            &inputs,
            &|v| Ok(fused_ops::attention(&v[0], &v[1], &v[2], &layout, scale)?),
            &|v| composed::attention(&v[0], &v[1], &v[2], &layout, scale),
            TOLERANCE,
        );
    }

    #[test]
    fn rows_on_odd_shapes(rows in 1usize..300, width in 1usize..90, outputs in 1usize..90) {
        let inputs = [variable(&[rows, width], 1), variable(&[outputs, width], 2)];
        assert_same(
            &inputs,
            &|v| Ok(fused_ops::linear(&v[0], &v[1], None)?),
            &|v| v[0].matmul(&v[1].t()?),
            TOLERANCE,
        );
        // The norm of one value is its sign: its gradient is the rounding of terms that cancel.
        let wider = width + 1;
        let inputs = [variable(&[rows, wider], 1), variable(&[wider], 2)];
        assert_same(
            &inputs,
            &|v| Ok(fused_ops::rms_norm(&v[0], &v[1], 1e-6)?),
            &|v| composed::rms_norm(&v[0], &v[1], 1e-6),
            TOLERANCE,
        );
        let inputs = [variable(&[rows, width], 1), variable(&[rows, width], 2)];
        assert_same(
            &inputs,
            &|v| Ok(fused_ops::swiglu(&v[0], &v[1])?),
            &|v| composed::swiglu(&v[0], &v[1]),
            TOLERANCE,
        );
    }
}

#[test]
fn packed_sequences_equal_separate_ones() {
    let (q, k, v) = (
        normal(&[90, 4, 16], 1),
        normal(&[90, 2, 16], 2),
        normal(&[90, 2, 16], 3),
    );
    let packed =
        fused_ops::attention(&q, &k, &v, &AttentionLayout::causal(&[50, 40]), 0.25).unwrap();
    for (start, length) in [(0, 50), (50, 40)] {
        let cut = |x: &Tensor| x.narrow(0, start, length).unwrap();
        let layout = AttentionLayout::causal(&[length]);
        let alone = fused_ops::attention(&cut(&q), &cut(&k), &cut(&v), &layout, 0.25).unwrap();
        assert_eq!(values(&cut(&packed)), values(&alone));
    }
}

#[test]
fn other_dtypes_are_composed() {
    let cast = |x: Tensor| x.to_dtype(DType::F64).unwrap();
    let (x, weight) = (cast(normal(&[6, 8], 1)), cast(normal(&[5, 8], 2)));
    let out = fused_ops::linear(&x, &weight, None).unwrap();
    assert_eq!((out.dtype(), out.dims()), (DType::F64, &[6, 5][..]));
    let norm = fused_ops::rms_norm(&x, &cast(normal(&[8], 3)), 1e-6).unwrap();
    assert_eq!(norm.dtype(), DType::F64);
    let q = cast(normal(&[6, 2, 4], 1));
    let layout = AttentionLayout::causal(&[6]);
    assert_eq!(
        fused_ops::attention(&q, &q, &q, &layout, 0.5)
            .unwrap()
            .dtype(),
        DType::F64
    );
}

#[test]
fn wrong_arguments_are_refused() {
    let x = normal(&[4, 6], 1);
    let refused = |result: fused_ops::Result<Tensor>| result.unwrap_err().to_string();
    assert_eq!(
        refused(fused_ops::linear(&x, &normal(&[3, 5], 2), None)),
        "linear: weight must have shape (out, 6), found [3, 5]"
    );
    assert_eq!(
        refused(fused_ops::embedding(&x, &[1, 4])),
        "embedding: token id 4 at position 1 is not below the vocabulary of 4"
    );
    assert_eq!(
        refused(fused_ops::swiglu(&x, &normal(&[4, 5], 1))),
        "swiglu: up must have shape [4, 6] like gate, found [4, 5]"
    );
    let ids = |temperature: f64, targets: &[u32], banned: &[u32]| {
        let hidden = normal(&[1, 6], 1);
        let result = fused_ops::token_log_probs(&hidden, &x, targets, temperature, banned);
        result.unwrap_err().to_string()
    };
    assert!(ids(0.0, &[1], &[]).contains("positive number, found 0"));
    assert!(ids(1.0, &[1], &[1]).contains("is banned"));
    assert!(ids(1.0, &[9], &[]).contains("not below the vocabulary of 4"));
    let q = normal(&[4, 3, 6], 1);
    let k = normal(&[4, 2, 6], 1);
    let layout = AttentionLayout::causal(&[4]);
    assert!(refused(fused_ops::attention(&q, &k, &k, &layout, 1.0)).contains("a divisor of 3"));
    let rotated = fused_ops::rotary(&q, &x, &normal(&[4, 5], 1));
    assert_eq!(
        refused(rotated),
        "rotary: sin must have shape (4, 6), found [4, 5]"
    );
    let error: candle_core::Error = fused_ops::linear(&x, &q, None).unwrap_err().into();
    assert!(error.to_string().contains("linear: weight"), "{error}");
    assert!(Device::Cpu.is_cpu());
}
