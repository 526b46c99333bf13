//! Attention layouts: what they refuse, and the mask that they stand for.

// A list of one range is meant.
#![allow(clippy::single_range_in_vec_init)]

mod common;

use candle_core::{DType, Device};
use common::{mixed_layout, values};
use fused_ops::{AttentionLayout, QueryBlock, Segment};

fn mask(layout: &AttentionLayout) -> Vec<String> {
    let mask = layout.dense_mask(&Device::Cpu, DType::F32).unwrap();
    values(&mask)
        .chunks(layout.keys())
        .map(|row| {
            row.iter()
                .map(|&v| if v == 0.0 { 'x' } else { '.' })
                .collect()
        })
        .collect()
}

#[test]
fn causal_and_bidirectional() {
    assert_eq!(
        mask(&AttentionLayout::causal(&[2, 0, 1])),
        ["x..", "xx.", "..x"]
    );
    assert_eq!(
        mask(&AttentionLayout::bidirectional(&[2, 1])),
        ["xx.", "xx.", "..x"]
    );
}

#[test]
fn tree() {
    let segment = |length, parent| Segment { length, parent };
    let layout = AttentionLayout::tree(&[
        segment(1, None),
        segment(2, Some(0)),
        segment(1, Some(0)),
        segment(1, Some(2)),
    ])
    .unwrap();
    assert_eq!(mask(&layout), ["x....", "xx...", "xxx..", "x..x.", "x..xx"]);
    assert_eq!(layout.pairs(), 1 + 2 + 3 + 2 + 3);
    let error = AttentionLayout::tree(&[segment(1, Some(0))]).unwrap_err();
    assert!(
        error.to_string().contains("segment 0 names segment 0"),
        "{error}"
    );
}

#[test]
fn pairs_count_the_mask() {
    let layout = mixed_layout();
    let seen = mask(&layout).concat().matches('x').count();
    assert_eq!(layout.pairs(), seen);
}

#[test]
fn malformed_layouts_are_refused() {
    let block = |queries, visible, causal| QueryBlock {
        queries,
        visible,
        causal,
    };
    let refused = |blocks| AttentionLayout::new(blocks, 4, 6).unwrap_err().to_string();
    assert!(refused(vec![block(0..3, vec![0..6], None)]).contains("query 3 is in no block"));
    assert!(
        refused(vec![
            block(0..3, vec![0..6], None),
            block(2..4, vec![0..1], None)
        ])
        .contains("query 2 is in two blocks")
    );
    assert!(refused(vec![block(0..4, vec![], None)]).contains("see no key"));
    assert!(refused(vec![block(0..4, vec![0..7], None)]).contains("keys 0..7"));
    assert!(refused(vec![block(0..4, vec![0..3], Some(2))]).contains("see key 2 twice"));
    assert!(refused(vec![block(0..4, vec![], Some(3))]).contains("keys 3..7"));
    assert!(refused(vec![block(0..5, vec![0..1], None)]).contains("queries 0..5"));
}
