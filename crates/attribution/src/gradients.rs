//! Integrated gradients over input embeddings.
//!
//! `IG_i = (e_i − e'_i) · ∫₀¹ ∂f/∂e_i (e' + α (e − e')) dα`, summed over the hidden dimension to one
//! score a token. Source: Sundararajan, Taly and Yan 2017 (arXiv 1703.01365); numbers as Captum
//! 0.9's `IntegratedGradients`. Deviations: the sum over nodes streams in f64, so that memory does
//! not grow with the nodes and no bit depends on how they are batched (as far as `f` itself does
//! not), and the completeness gap `Σ IG − (f(e) − f(e'))` comes with every result.

use candle_core::{DType, Device, Tensor, Var};

use crate::error::{Error, Result, finite};
use crate::method::{AttributedFunction, Attribution};
use crate::quadrature::{Node, Quadrature, Rule};

/// Integrated gradients of `f` along the straight path from `baseline` to `input`.
///
/// `input`, `baseline`: `(tokens, hidden)`, any float dtype, same device. `f` maps a batch of such
/// matrices `(nodes, tokens, hidden)` to values `(nodes)`, each depending on its own matrix alone;
/// it is called on at most `nodes_per_batch` at a time, and twice more points without a gradient
/// for `f(input)` and `f(baseline)`. Freeze the model first: gradients of its weights would be
/// computed for nothing.
///
/// # Errors
/// Shapes that do not match, a non-finite value or gradient, a graph cut inside `f`, or whatever
/// `f` returns.
pub fn integrated_gradients(
    input: &Tensor,
    baseline: &Tensor,
    quadrature: &Quadrature,
    nodes_per_batch: usize,
    f: &mut AttributedFunction<'_>,
) -> Result<Attribution> {
    let (tokens, hidden) = same_matrix(input, baseline)?;
    let nodes = quadrature.nodes()?;
    let ends = values(&[baseline.clone(), input.clone()], nodes_per_batch, f)?;

    // The points are leaves of their own: nothing upstream of the embeddings is differentiated.
    let (input, baseline) = (input.detach(), baseline.detach());
    let direction = (&input - &baseline)?;
    let mut gradient = vec![0f64; tokens * hidden];
    for batch in nodes.chunks(nodes_per_batch) {
        add_gradients(&baseline, &direction, batch, f, &mut gradient)?;
    }

    let direction = host(&direction)?;
    let elements: Vec<f64> = gradient
        .iter()
        .zip(&direction)
        .map(|(g, d)| g * d)
        .collect();
    let scores: Vec<f64> = elements
        .chunks(hidden.max(1))
        .map(|row| row.iter().sum())
        .collect();
    for (token, &score) in scores.iter().enumerate() {
        finite(|| format!("the attribution of token {token}"), score)?;
    }
    let elements: Vec<f32> = elements.into_iter().map(|e| e as f32).collect();
    let elements = Tensor::from_vec(elements, (tokens, hidden), &Device::Cpu)?;
    let mut result = Attribution::new(&scores, ends[1], ends[0]);
    result.elements = Some(elements);
    result.forward_points = nodes.len() + 2;
    result.gradient_points = nodes.len();
    Ok(result)
}

/// Gradient times input: `e_i · ∂f/∂e_i (e)`, the one-node case of integrated gradients with the
/// node at α = 1 and a zero baseline. Shapes and errors as [`integrated_gradients`].
pub fn gradient_x_input(input: &Tensor, f: &mut AttributedFunction<'_>) -> Result<Attribution> {
    let at_input = Quadrature::Riemann {
        rule: Rule::Right,
        nodes: 1,
    };
    integrated_gradients(input, &input.zeros_like()?, &at_input, 1, f)
}

/// Adds `Σ w_k ∂f/∂e` over one batch of nodes to `sum`, node by node.
fn add_gradients(
    baseline: &Tensor,
    direction: &Tensor,
    batch: &[Node],
    f: &mut AttributedFunction<'_>,
    sum: &mut [f64],
) -> Result<()> {
    let alphas: Vec<f64> = batch.iter().map(|node| node.alpha).collect();
    let alphas = Tensor::from_vec(alphas, (batch.len(), 1, 1), direction.device())?
        .to_dtype(direction.dtype())?;
    let points = direction
        .unsqueeze(0)?
        .broadcast_mul(&alphas)?
        .broadcast_add(&baseline.unsqueeze(0)?)?;
    let points = Var::from_tensor(&points)?;
    let results = f(points.as_tensor())?;
    for (value, node) in vector(&results, batch.len())?.into_iter().zip(batch) {
        finite(|| format!("f at α = {}", node.alpha), value)?;
    }
    let gradients = results.sum_all()?.backward()?;
    let gradients = host(gradients.get(&points).ok_or(Error::NoGradient)?)?;
    if sum.is_empty() {
        return Ok(());
    }
    for (node, gradient) in batch.iter().zip(gradients.chunks(sum.len())) {
        for (total, g) in sum.iter_mut().zip(gradient) {
            *total += node.weight * g;
        }
    }
    Ok(())
}

/// `f` at each of the given matrices, without gradients, in order.
pub(crate) fn values(
    points: &[Tensor],
    nodes_per_batch: usize,
    f: &mut AttributedFunction<'_>,
) -> Result<Vec<f64>> {
    if nodes_per_batch == 0 {
        return Err(Error::Setting {
            what: "nodes_per_batch",
            why: "0 points a batch would never end: give at least 1".to_owned(),
        });
    }
    let mut all = Vec::with_capacity(points.len());
    for batch in points.chunks(nodes_per_batch) {
        let stacked = Tensor::stack(batch, 0)?.detach();
        all.extend(vector(&f(&stacked)?, batch.len())?);
    }
    for &value in &all {
        finite(|| "the function's value".to_owned(), value)?;
    }
    Ok(all)
}

/// The common shape `(tokens, hidden)` of input and baseline.
pub(crate) fn same_matrix(input: &Tensor, baseline: &Tensor) -> Result<(usize, usize)> {
    let [tokens, hidden] = *input.dims() else {
        return Err(Error::Shape {
            what: "input",
            expected: "(tokens, hidden)".to_owned(),
            found: input.dims().to_vec(),
        });
    };
    if baseline.dims() != input.dims() {
        return Err(Error::Shape {
            what: "baseline",
            expected: format!("({tokens}, {hidden}), as the input"),
            found: baseline.dims().to_vec(),
        });
    }
    Ok((tokens, hidden))
}

fn vector(values: &Tensor, nodes: usize) -> Result<Vec<f64>> {
    if values.dims() != [nodes] {
        return Err(Error::Shape {
            what: "the function's result",
            expected: format!("({nodes}), one value a matrix"),
            found: values.dims().to_vec(),
        });
    }
    host(values)
}

/// A tensor's elements in row-major order, widened.
pub(crate) fn host(tensor: &Tensor) -> Result<Vec<f64>> {
    let flat = tensor.flatten_all()?.to_device(&Device::Cpu)?;
    Ok(flat.to_dtype(DType::F64)?.to_vec1::<f64>()?)
}
