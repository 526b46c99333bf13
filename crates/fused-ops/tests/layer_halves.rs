//! The halves of a decoder layer give the bits of the operators that they are made of, forward and
//! backward.

mod common;

use candle_core::{Device, Result, Tensor, Var};
use common::*;
use fused_ops::{
    AttentionLayout, FeedForwardWeights, Projection, QueryTokens, SelfAttentionOptions,
    SelfAttentionWeights, attention, feed_forward, linear, rms_norm, rotary, self_attention,
    swiglu,
};

const EPS: f64 = 1e-6;

fn assert_same_bits(what: &str, inputs: &[Var], one: Operator, several: Operator) {
    let (out, grads) = gradients(inputs, one);
    let (expected, expected_grads) = gradients(inputs, several);
    let bits = |tensor: &Tensor| -> Vec<u32> {
        let values = values(tensor);
        values.into_iter().map(f32::to_bits).collect()
    };
    assert!(bits(&out) == bits(&expected), "{what}: value");
    for (index, (grad, expected)) in grads.iter().zip(&expected_grads).enumerate() {
        assert!(bits(grad) == bits(expected), "{what}: gradient {index}");
    }
}

fn feed(v: &[Var]) -> Result<Tensor> {
    let weights = FeedForwardWeights {
        norm: &v[1],
        eps: EPS,
        gate: &v[2],
        up: &v[3],
        down: &v[4],
    };
    Ok(feed_forward(&v[0], &weights)?)
}

fn feed_by_operators(v: &[Var]) -> Result<Tensor> {
    let n = rms_norm(&v[0], &v[1], EPS)?;
    let inner = swiglu(&linear(&n, &v[2], None)?, &linear(&n, &v[3], None)?)?;
    v[0].as_tensor() + linear(&inner, &v[4], None)?
}

/// The first has so few tokens that it is run by its operators; the others are not.
#[test]
fn the_feed_forward_half() {
    for (tokens, hidden, inner) in [(1, 4, 6), (37, 20, 40), (200, 64, 48)] {
        let inputs = [
            variable(&[tokens, hidden], 1),
            variable(&[hidden], 2),
            variable(&[inner, hidden], 3),
            variable(&[inner, hidden], 4),
            variable(&[hidden, inner], 5),
        ];
        let what = format!("{tokens} tokens");
        assert_same_bits(&what, &inputs, &feed, &feed_by_operators);
        assert_thread_independent(&inputs, &feed);
    }
}

#[test]
fn frozen_weights_get_no_gradient_and_a_frozen_input_none() {
    let (tokens, hidden, inner) = (50, 8, 6);
    let (x, norm) = (variable(&[tokens, hidden], 1), normal(&[hidden], 2));
    let (gate, down) = (variable(&[inner, hidden], 3), variable(&[hidden, inner], 4));
    let frozen = gate.as_detached_tensor();
    let backward = |x: &Tensor, down: &Tensor| {
        let weights = FeedForwardWeights {
            norm: &norm,
            eps: EPS,
            gate: &frozen,
            up: &frozen,
            down,
        };
        let out = feed_forward(x, &weights).unwrap();
        out.sum_all().unwrap().backward().unwrap()
    };
    let of_input = backward(&x, &down.as_detached_tensor());
    assert!(of_input.get(&x).is_some() && of_input.get(&down).is_none());
    let of_weight = backward(&x.as_detached_tensor(), &down);
    assert!(of_weight.get(&x).is_none() && of_weight.get(&down).is_some());
    assert!(of_weight.get(&gate).is_none());
}

#[test]
fn the_attention_half_of_all_tokens_and_of_some() {
    let (hidden, heads, kv_heads, dim) = (24, 4, 2, 8);
    let lengths = [5, 30, 1];
    let tokens: usize = lengths.iter().sum();
    let full = AttentionLayout::causal(&lengths);
    let (of_heads, of_keys) = (heads * dim, kv_heads * dim);
    let inputs = [
        variable(&[tokens, hidden], 1),
        variable(&[hidden], 2),
        variable(&[of_heads, hidden], 3),
        variable(&[of_heads], 4),
        variable(&[of_keys, hidden], 5),
        variable(&[of_keys], 6),
        variable(&[of_keys, hidden], 7),
        variable(&[of_keys], 8),
        variable(&[hidden, of_heads], 9),
    ];
    let angles = normal(&[tokens, dim], 10);
    let tables = [angles.cos().unwrap(), angles.sin().unwrap()];
    let chosen = [3usize, 4, 20, 35];
    let index = Tensor::new(&chosen.map(|token| token as u32), &Device::Cpu).unwrap();
    let own = tables
        .each_ref()
        .map(|table| table.index_select(&index, 0).unwrap());
    let some = full.select(&chosen).unwrap();
    for (what, layout, queries) in [
        ("all tokens", &full, None),
        (
            "some tokens",
            &some,
            Some(QueryTokens {
                index: &index,
                rotary: own.each_ref(),
            }),
        ),
    ] {
        let one = |v: &[Var]| -> Result<Tensor> {
            let [q, k, v_projection] = [2, 4, 6].map(|at| Projection {
                weight: &v[at],
                bias: &v[at + 1],
            });
            let weights = SelfAttentionWeights {
                norm: &v[1],
                eps: EPS,
                q,
                k,
                v: v_projection,
                o: &v[8],
                heads,
                kv_heads,
            };
            let options = SelfAttentionOptions {
                rotary: tables.each_ref(),
                layout,
                scale: 0.3,
                queries,
            };
            Ok(self_attention(&v[0], &weights, &options)?)
        };
        let several = |v: &[Var]| -> Result<Tensor> {
            let n = rms_norm(&v[0], &v[1], EPS)?;
            let project = |n: &Tensor, at: usize, heads: usize| {
                linear(n, &v[at], Some(&v[at + 1]))?.reshape(((), heads, dim))
            };
            let k = rotary(&project(&n, 4, kv_heads)?, &tables[0], &tables[1])?;
            let values = project(&n, 6, kv_heads)?;
            let (x, n, [cos, sin]) = match queries {
                None => (v[0].as_tensor().clone(), n, tables.each_ref()),
                Some(_) => (
                    v[0].index_select(&index, 0)?,
                    n.index_select(&index, 0)?,
                    own.each_ref(),
                ),
            };
            let q = rotary(&project(&n, 2, heads)?, cos, sin)?;
            let attended = attention(&q, &k, &values, layout, 0.3)?.reshape(((), of_heads))?;
            x + linear(&attended, &v[8], None)?
        };
        assert_same_bits(what, &inputs, &one, &several);
        assert_thread_independent(&inputs, &one);
    }
}
