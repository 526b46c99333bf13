//! Integrated gradients on functions whose integrals are known, and on a small network.

use attribution::{Attribution, Blocks, Error, Method, Path, Quadrature, Rule};
use candle_core::{DType, Device, Result, Tensor};
use proptest::prelude::*;

const HIDDEN: usize = 3;

fn matrix(values: &[f64]) -> Tensor {
    Tensor::from_slice(values, (values.len() / HIDDEN, HIDDEN), &Device::Cpu).unwrap()
}

fn gauss(nodes: usize) -> Quadrature {
    Quadrature::GaussLegendre { nodes }
}

/// Integrated gradients of `f`, the tokens in one block.
fn integrated_gradients(
    input: &Tensor,
    baseline: &Tensor,
    quadrature: &Quadrature,
    points_per_batch: usize,
    f: impl FnMut(&Tensor) -> Result<Tensor>,
) -> attribution::Result<Attribution> {
    let quadrature = quadrature.clone();
    let blocks = Blocks::new(vec![0; input.dim(0)?], 1)?;
    let path = Path::between(baseline, input, blocks)?;
    Method::IntegratedGradients { quadrature }.attribute_function(&path, points_per_batch, f)
}

fn scores(result: &Attribution) -> &[f32] {
    result.token_scores().unwrap()
}

fn gap(result: &Attribution) -> f64 {
    result.completeness.unwrap().gap
}

/// `Σ x³`: IG of an element is exactly `x³ − x'³`, and two Gauss-Legendre nodes reach it.
fn cubes(x: &Tensor) -> Result<Tensor> {
    x.powf(3.0)?.sum((1, 2))
}

/// A network with what makes real ones hard: tokens that mix, an RMS norm, a softmax.
fn network(x: &Tensor) -> Result<Tensor> {
    let (nodes, tokens, hidden) = x.dims3()?;
    let square = (x.sqr()?.mean_keepdim(2)? + 1e-6)?;
    let normed = x.broadcast_div(&square.sqrt()?)?;
    let scores = normed.matmul(&normed.t()?.contiguous()?)?.exp()?;
    let attention = scores.broadcast_div(&scores.sum_keepdim(2)?)?;
    let mixed = (attention.matmul(&normed)? + x)?;
    let weights: Vec<f64> = (0..tokens * hidden)
        .map(|i| (i as f64 * 0.7).sin())
        .collect();
    let weights = Tensor::from_vec(weights, (1, tokens, hidden), x.device())?;
    let value = mixed.tanh()?.broadcast_mul(&weights.to_dtype(x.dtype())?)?;
    value.reshape((nodes, tokens * hidden))?.sum(1)
}

fn elements(result: &Attribution) -> Vec<f32> {
    let elements = result.elements.as_ref().unwrap();
    elements.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn cubes_are_attributed_exactly() {
    let (input, baseline) = (
        [1.0, 2.0, -1.0, 0.5, 0.0, 3.0],
        [0.0, 1.0, 1.0, 0.0, 2.0, -1.0],
    );
    let result =
        integrated_gradients(&matrix(&input), &matrix(&baseline), &gauss(2), 1, cubes).unwrap();
    let expected: Vec<f64> = input
        .iter()
        .zip(&baseline)
        .map(|(x, b)| x.powi(3) - b.powi(3))
        .collect();
    for (found, expected) in elements(&result).iter().zip(&expected) {
        assert!((f64::from(*found) - expected).abs() < 1e-6);
    }
    let rows: Vec<f64> = expected
        .chunks(HIDDEN)
        .map(|row| row.iter().sum())
        .collect();
    for (found, expected) in scores(&result).iter().zip(rows) {
        assert!((f64::from(*found) - expected).abs() < 1e-6);
    }
    assert!(gap(&result).abs() < 1e-12);
    assert!(result.relative_gap().unwrap() < 1e-12);
    assert_eq!((result.forward_points, result.gradient_points), (4, 2));
}

/// What Captum does to `Σ x³` with its trapezoid of two nodes: `x · ½ · ½ (0 + 3 x²) = ¾ x³`.
#[test]
fn captums_trapezoid_keeps_its_bias() {
    let quadrature = Quadrature::Riemann {
        rule: Rule::Trapezoid,
        nodes: 2,
    };
    let input = matrix(&[2.0, 0.0, 0.0]);
    let baseline = input.zeros_like().unwrap();
    let result = integrated_gradients(&input, &baseline, &quadrature, 8, cubes).unwrap();
    assert!((f64::from(scores(&result)[0]) - 0.75 * 8.0).abs() < 1e-6);
    assert!((gap(&result) - (6.0 - 8.0)).abs() < 1e-12);
    assert!((result.relative_gap().unwrap() - 0.25).abs() < 1e-12);
}

#[test]
fn more_nodes_close_the_gap_of_a_network() {
    let values: Vec<f64> = (0..15).map(|i| (i as f64 * 1.3).cos()).collect();
    let input = matrix(&values);
    let baseline = input.affine(0.0, 0.3).unwrap();
    let gap = |nodes| {
        let found = integrated_gradients(&input, &baseline, &gauss(nodes), 7, network);
        gap(&found.unwrap()).abs()
    };
    assert!(gap(2) > 1e-4, "{}", gap(2));
    assert!(gap(64) < 1e-9, "{}", gap(64));
}

#[test]
fn log_nodes_resolve_a_zero_baseline_before_a_norm() {
    let values: Vec<f64> = (0..15).map(|i| (i as f64 * 1.3).cos() * 2.0).collect();
    let input = matrix(&values);
    let baseline = input.zeros_like().unwrap();
    let gap = |quadrature: &Quadrature| {
        let found = integrated_gradients(&input, &baseline, quadrature, 32, network);
        gap(&found.unwrap()).abs()
    };
    let log = Quadrature::LogGaussLegendre {
        nodes: 32,
        linear_nodes: 4,
        start: 1e-4,
    };
    assert!(gap(&log) < 1e-3, "{}", gap(&log));
    assert!(gap(&gauss(32)) > 0.1, "{}", gap(&gauss(32)));
}

/// The same bits however the nodes are batched, in f32 as a model would run.
#[test]
fn batches_of_nodes_do_not_change_a_bit() {
    let values: Vec<f64> = (0..12).map(|i| (i as f64 * 0.9).sin()).collect();
    let input = matrix(&values).to_dtype(DType::F32).unwrap();
    let baseline = input.zeros_like().unwrap();
    let mut f = |x: &Tensor| x.sqr()?.sin()?.sum((1, 2));
    let mut run = |batch| {
        let result = integrated_gradients(&input, &baseline, &gauss(13), batch, &mut f).unwrap();
        (scores(&result).to_vec(), gap(&result))
    };
    let whole = run(13);
    for batch in [1, 2, 5, 12, 100] {
        assert_eq!(run(batch), whole, "{batch}");
    }
}

#[test]
fn gradient_x_input_is_the_gradient_at_the_input() {
    let input = matrix(&[1.0, 2.0, -1.0]);
    let blocks = Blocks::new(vec![0], 1).unwrap();
    let path = Path::new(&input, attribution::Baseline::Zero, blocks).unwrap();
    let method = Method::GradientXInput {};
    let result = method.attribute_function(&path, 1, cubes).unwrap();
    assert_eq!(elements(&result), [3.0, 24.0, -3.0]);
    assert!((gap(&result) - (24.0 - 8.0)).abs() < 1e-12);
}

#[test]
fn nothing_to_explain_has_no_relative_gap() {
    let input = matrix(&[1.0, 2.0, 3.0]);
    let result = integrated_gradients(&input, &input, &gauss(3), 3, cubes).unwrap();
    assert_eq!(scores(&result), [0.0]);
    assert_eq!(gap(&result), 0.0);
    assert_eq!(result.relative_gap(), None);
}

#[test]
fn bad_input_and_values_are_errors() {
    let input = matrix(&[1.0, 2.0, 3.0]);
    let zero = input.zeros_like().unwrap();
    let run = |baseline: &Tensor, batch, f: &mut dyn FnMut(&Tensor) -> Result<Tensor>| {
        integrated_gradients(&input, baseline, &gauss(4), batch, f).unwrap_err()
    };
    let cut = &mut |x: &Tensor| x.detach().sum((1, 2));
    assert!(matches!(run(&zero, 2, cut), Error::NoGradient));
    let log = &mut |x: &Tensor| x.log()?.sum((1, 2));
    assert!(matches!(run(&zero, 2, log), Error::NonFinite { .. }));
    // Finite at both ends, infinite slope on the way.
    let middle = &mut |x: &Tensor| (x.affine(2.0, -1.0)?.abs()?.sqrt()?).sum((1, 2));
    let odd = Quadrature::GaussLegendre { nodes: 3 };
    let one = matrix(&[1.0, 1.0, 1.0]);
    assert!(integrated_gradients(&one, &zero, &odd, 3, middle).is_err());
    let total = &mut |x: &Tensor| x.sum_all();
    assert!(matches!(run(&zero, 2, total), Error::Shape { .. }));
    assert!(matches!(
        run(&matrix(&[0.0; 6]), 2, &mut cubes),
        Error::Shape { .. }
    ));
    assert!(matches!(run(&zero, 0, &mut cubes), Error::Setting { .. }));
    let failing = &mut |_: &Tensor| candle_core::bail!("the model is away");
    assert!(
        run(&zero, 2, failing)
            .to_string()
            .contains("the model is away")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Completeness for polynomials within the rule's degree; a token that `f` ignores gets 0.
    #[test]
    fn attributions_are_complete(
        values in prop::collection::vec(-2.0..2.0f64, 9),
        base in prop::collection::vec(-2.0..2.0f64, 9),
        nodes in 2..9usize,
        batch in 1..9usize,
    ) {
        let mut f = |x: &Tensor| {
            let x = x.narrow(1, 0, 2)?; // the last token does not matter
            let product = (x.narrow(1, 0, 1)? * x.narrow(1, 1, 1)?)?;
            (product * x.narrow(1, 0, 1)?)?.sum((1, 2))
        };
        let (input, baseline) = (matrix(&values), matrix(&base));
        let result = integrated_gradients(&input, &baseline, &gauss(nodes), batch, &mut f).unwrap();
        let completeness = result.completeness.unwrap();
        prop_assert!(completeness.gap.abs() < 1e-10, "{completeness:?}");
        prop_assert_eq!(scores(&result)[2], 0.0);
        let sum: f64 = scores(&result).iter().map(|&s| f64::from(s)).sum();
        prop_assert!((sum - (result.f_input - completeness.f_baseline)).abs() < 1e-4);
    }
}
