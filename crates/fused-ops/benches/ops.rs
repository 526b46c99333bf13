//! Forward and backward pass of every operator, fused and composed, on the micro profile's
//! shapes: 4,096 packed tokens, hidden 128, 4 query and 2 key heads of 32, SwiGLU 256.

use std::hint::black_box;

use candle_core::{Device, Result, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use fused_ops::allocator::CachingAllocator;
use fused_ops::{AttentionLayout, FeedForwardWeights, PackedWeight, Segment, composed};
use seeded_random::{Draw, Stream};

#[global_allocator]
static ALLOCATOR: CachingAllocator = CachingAllocator;

const TOKENS: usize = 4096;
const HIDDEN: usize = 128;

fn variable(shape: &[usize], seed: u64) -> Result<Var> {
    let mut generator = Stream::new(seed).purpose("bench").generator();
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| generator.normal() as f32)
        .collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu)?)
}

fn step(criterion: &mut Criterion, name: &str, run: impl Fn() -> Result<Tensor>) {
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let gradients = run().and_then(|out| out.sum_all()?.backward());
            black_box(gradients.expect("the shapes are right"))
        })
    });
}

/// Prompts of 110 tokens with 8 suffixes of 35.
fn groups(tokens: usize) -> AttentionLayout {
    let mut segments = Vec::new();
    let mut left = tokens;
    while left > 0 {
        let prefix = segments.len();
        let mut add = |length: usize, parent| {
            let length = length.min(left);
            segments.push(Segment { length, parent });
            left -= length;
        };
        add(110, None);
        (0..8).for_each(|_| add(35, Some(prefix)));
    }
    AttentionLayout::tree(&segments).expect("parents come first")
}

fn operators(criterion: &mut Criterion) -> Result<()> {
    let x = variable(&[TOKENS, HIDDEN], 1)?;
    let weight = variable(&[HIDDEN], 2)?;
    step(criterion, "rms_norm/fused", || {
        Ok(fused_ops::rms_norm(&x, &weight, 1e-6)?)
    });
    step(criterion, "rms_norm/composed", || {
        composed::rms_norm(&x, &weight, 1e-6)
    });

    let (gate, up) = (variable(&[TOKENS, 256], 3)?, variable(&[TOKENS, 256], 4)?);
    step(criterion, "swiglu/fused", || {
        Ok(fused_ops::swiglu(&gate, &up)?)
    });
    step(criterion, "swiglu/composed", || {
        composed::swiglu(&gate, &up)
    });

    let matrix = variable(&[256, HIDDEN], 5)?;
    let bias = variable(&[256], 6)?;
    step(criterion, "linear/fused", || {
        Ok(fused_ops::linear(&x, &matrix, Some(&bias))?)
    });
    step(criterion, "linear/composed", || {
        x.matmul(&matrix.t()?)?.broadcast_add(&bias)
    });

    let q = variable(&[TOKENS, 4, 32], 7)?;
    let (cos, sin) = (variable(&[TOKENS, 32], 8)?, variable(&[TOKENS, 32], 9)?);
    step(criterion, "rotary/fused", || {
        Ok(fused_ops::rotary(&q, &cos, &sin)?)
    });
    step(criterion, "rotary/composed", || {
        composed::rotary(&q, &cos, &sin)
    });

    let (k, v) = (
        variable(&[TOKENS, 2, 32], 10)?,
        variable(&[TOKENS, 2, 32], 11)?,
    );
    let layout = groups(TOKENS);
    step(criterion, "attention/fused", || {
        Ok(fused_ops::attention(&q, &k, &v, &layout, 0.2)?)
    });
    // The composed version is quadratic in all packed tokens: an eighth of them.
    let few = TOKENS / 8;
    let (q, k, v) = (
        q.narrow(0, 0, few)?,
        k.narrow(0, 0, few)?,
        v.narrow(0, 0, few)?,
    );
    let layout = groups(few);
    step(
        criterion,
        "attention/composed, an eighth of the tokens",
        || composed::attention(&q, &k, &v, &layout, 0.2),
    );

    let (norm, up, down) = (
        variable(&[HIDDEN], 13)?,
        variable(&[256, HIDDEN], 14)?,
        variable(&[HIDDEN, 256], 15)?,
    );
    let feed_forward = FeedForwardWeights {
        norm: &norm,
        eps: 1e-6,
        gate: &matrix,
        up: &up,
        down: &down,
    };
    step(criterion, "feed_forward/one operator", || {
        Ok(fused_ops::feed_forward(&x, &feed_forward)?)
    });
    step(criterion, "feed_forward/its operators", || {
        let n = fused_ops::rms_norm(&x, &norm, 1e-6)?;
        let (gate, up) = (
            fused_ops::linear(&n, &matrix, None)?,
            fused_ops::linear(&n, &up, None)?,
        );
        let inner = fused_ops::swiglu(&gate, &up)?;
        x.as_tensor() + fused_ops::linear(&inner, &down, None)?
    });

    let packed = PackedWeight::new(&matrix)?;
    for tokens in [1, 64] {
        let x = x.narrow(0, 0, tokens)?.detach();
        criterion.bench_function(&format!("linear of {tokens}/packed each time"), |bencher| {
            bencher.iter(|| black_box(fused_ops::linear(&x, &matrix, Some(&bias))))
        });
        if let Some(packed) = &packed {
            criterion.bench_function(&format!("linear of {tokens}/packed once"), |bencher| {
                bencher.iter(|| black_box(packed.linear(&x, Some(&bias))))
            });
        }
    }

    let table = variable(&[512, HIDDEN], 12)?;
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7 % 512).collect();
    step(criterion, "embedding/fused", || {
        Ok(fused_ops::embedding(&table, &ids)?)
    });
    step(criterion, "embedding/composed", || {
        composed::embedding(&table, &ids)
    });
    step(criterion, "token_log_probs/fused", || {
        Ok(fused_ops::token_log_probs(&x, &table, &ids, 1.0, &[3])?.log_probs)
    });
    step(criterion, "token_log_probs/composed", || {
        Ok(composed::token_log_probs(&x, &table, &ids, 1.0, &[3])?.0)
    });
    Ok(())
}

fn benches(criterion: &mut Criterion) {
    operators(criterion).expect("the shapes are right");
}

criterion_group! {
    name = all;
    config = Criterion::default().sample_size(10);
    targets = benches
}
criterion_main!(all);
