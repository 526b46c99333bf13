//! Shared by the tests: seeded inputs, and comparison of two versions of an operator.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(
    clippy::single_range_in_vec_init,
    reason = "a block may see one run of keys"
)]

pub mod kept_layers;

use candle_core::{Device, Result, Tensor, Var};
use fused_ops::AttentionLayout;
use seeded_random::{Draw, Stream};

/// Standard normal values of `shape`.
pub fn normal(shape: &[usize], seed: u64) -> Tensor {
    let mut generator = Stream::new(seed).purpose("test").generator();
    let values: Vec<f32> = (0..shape.iter().product::<usize>())
        .map(|_| generator.normal() as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A variable of standard normal values.
pub fn variable(shape: &[usize], seed: u64) -> Var {
    Var::from_tensor(&normal(shape, seed)).unwrap()
}

/// The values of a tensor.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// An operator on variables.
pub type Operator<'a> = &'a dyn Fn(&[Var]) -> Result<Tensor>;

/// The output, and the gradients of Σ out · r with fixed random r.
pub fn gradients(inputs: &[Var], operator: Operator) -> (Tensor, Vec<Tensor>) {
    let out = operator(inputs).unwrap();
    let weights = normal(out.dims(), 999);
    let grads = (&out * weights)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    let grads = inputs.iter().map(|input| grads.get(input).unwrap().clone());
    (out.detach(), grads.collect())
}

/// Checks that two tensors agree within `tolerance` of the larger one's scale, or of 0.1: terms of
/// that size may cancel to 0 in one order of summing and to their rounding in another, as the
/// gradient of a query does that sees a single key.
pub fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f32) {
    assert_eq!(a.dims(), b.dims(), "{what}");
    let (a, b) = (values(a), values(b));
    let scale = b.iter().fold(1e-1f32, |most, value| most.max(value.abs()));
    for (index, (a, b)) in a.iter().zip(&b).enumerate() {
        assert!(
            (a - b).abs() <= tolerance * scale,
            "{what}: value {index} is {a}, expected {b} (scale {scale})"
        );
    }
}

/// Checks values and all gradients of a fused operator against its composed version.
pub fn assert_same(inputs: &[Var], fused: Operator, composed: Operator, tolerance: f32) {
    let (out, grads) = gradients(inputs, fused);
    let (expected, expected_grads) = gradients(inputs, composed);
    assert_close("value", &out, &expected, tolerance);
    for (index, (a, b)) in grads.iter().zip(&expected_grads).enumerate() {
        assert_close(&format!("gradient {index}"), a, b, tolerance);
    }
}

/// Checks the gradient along a random direction by central differences.
pub fn assert_finite_differences(inputs: &[Var], operator: Operator, tolerance: f64) {
    let (out, grads) = gradients(inputs, operator);
    let weights = values(&normal(out.dims(), 999));
    for (index, input) in inputs.iter().enumerate() {
        let direction = normal(input.dims(), 55 + index as u64);
        let slope: f64 = values(&grads[index])
            .iter()
            .zip(values(&direction))
            .map(|(a, b)| *a as f64 * b as f64)
            .sum();
        let start = input.as_tensor().copy().unwrap();
        let step = 4e-3;
        let loss_at = |factor: f64| -> f64 {
            input
                .set(&(&start + (&direction * factor).unwrap()).unwrap())
                .unwrap();
            let out = values(&operator(inputs).unwrap());
            out.iter()
                .zip(&weights)
                .map(|(a, b)| *a as f64 * *b as f64)
                .sum()
        };
        let difference = (loss_at(step) - loss_at(-step)) / (2.0 * step);
        loss_at(0.0);
        // The slope along a random direction is of the size of the gradient's norm.
        let size: f64 = values(&grads[index])
            .iter()
            .map(|g| (*g as f64).powi(2))
            .sum();
        assert!(
            (difference - slope).abs() <= tolerance * size.sqrt().max(1e-2),
            "input {index}: difference {difference}, slope {slope}, norm {}",
            size.sqrt()
        );
    }
}

/// Checks that values and gradients have the same bits on 1, 2 and 3 threads.
pub fn assert_thread_independent(inputs: &[Var], operator: Operator<'_>) {
    // The operator is shared by reference across pools one at a time.
    struct Shared<'a>(&'a [Var], Operator<'a>);
    // SAFETY: one thread at a time runs the operator; the others of its pool run what it hands out.
    unsafe impl Sync for Shared<'_> {}
    // SAFETY: likewise.
    unsafe impl Send for Shared<'_> {}
    let shared = Shared(inputs, operator);
    let run = |threads: usize| -> Vec<Vec<u32>> {
        let shared = &shared;
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(move || {
            let shared: &Shared = shared;
            let (out, grads) = gradients(shared.0, shared.1);
            std::iter::once(&out)
                .chain(&grads)
                .map(|tensor| values(tensor).iter().map(|value| value.to_bits()).collect())
                .collect()
        })
    };
    let one = run(1);
    assert!(one == run(2), "1 and 2 threads differ");
    assert!(one == run(3), "1 and 3 threads differ");
}

/// A layout with most of what layouts can have: trees, windows and a decode block.
pub fn mixed_layout() -> AttentionLayout {
    use fused_ops::QueryBlock;
    AttentionLayout::new(
        vec![
            QueryBlock {
                queries: 0..30,
                visible: vec![],
                causal: Some(0),
            },
            QueryBlock {
                queries: 30..47,
                visible: vec![0..30],
                causal: Some(30),
            },
            QueryBlock {
                queries: 47..48,
                visible: vec![150..270, 0..30, 48..130],
                causal: None,
            },
            QueryBlock {
                queries: 48..130,
                visible: vec![48..130],
                causal: None,
            },
            QueryBlock {
                queries: 130..150,
                visible: vec![0..7],
                causal: Some(10),
            },
        ],
        150,
        275,
    )
    .unwrap()
}
