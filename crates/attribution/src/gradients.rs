//! Integrated gradients over input embeddings.
//!
//! `IG_i = (e_i − e'_i) · ∫₀¹ ∂F/∂e_i (e' + α (e − e')) dα`, summed over the hidden dimension to one
//! score a token. Source: Sundararajan, Taly and Yan 2017 (arXiv 1703.01365); numbers as Captum
//! 0.9's `IntegratedGradients`. Deviations: the sum over nodes streams in f64, so that memory does
//! not grow with the nodes and no bit depends on how they are batched (as far as `F` itself does
//! not), and the completeness gap `Σ IG − (F(e) − F(e'))` comes with every result.

use candle_core::{Device, Tensor};

use crate::elements::host;
use crate::error::Result;
use crate::functions::{AttributedFunctions, GradientSum, checked_gradients, checked_values};
use crate::path::{Path, Point};
use crate::quadrature::{Node, Quadrature};
use crate::result::{Attribution, Completeness, Scores, narrowed};

/// Integrated gradients of every call of every path, `[path][call]`. Two values more than nodes:
/// those at both ends, for the gap.
pub(crate) fn integrated_gradients<F: AttributedFunctions>(
    paths: &[Path],
    quadrature: &Quadrature,
    functions: &mut F,
) -> std::result::Result<Vec<Vec<Attribution>>, F::Error> {
    let nodes = quadrature.nodes()?;
    let ends: Vec<Point> = (0..paths.len())
        .flat_map(|path| {
            let blocks = paths[path].blocks().count();
            [0.0, 1.0].map(|share| Point {
                path,
                shares: vec![share; blocks],
            })
        })
        .collect();
    let ends = checked_values(functions, paths, &ends)?;
    let calls: Vec<usize> = ends.chunks(2).map(|ends| ends[0].len()).collect();
    let sums = checked_gradients(functions, paths, &calls, &nodes)?;
    let mut found = Vec::with_capacity(paths.len());
    for ((path, ends), sums) in paths.iter().zip(ends.chunks(2)).zip(sums) {
        let calls = sums.iter().enumerate();
        let own = calls.map(|(call, sum)| {
            attribution(path, sum, &nodes, ends[0][call], ends[1][call]).map_err(F::Error::from)
        });
        found.push(own.collect::<std::result::Result<Vec<_>, _>>()?);
    }
    Ok(found)
}

fn attribution(
    path: &Path,
    sum: &GradientSum,
    nodes: &[Node],
    f_baseline: f64,
    f_input: f64,
) -> Result<Attribution> {
    let (tokens, hidden) = path.input().dims2()?;
    let direction = host(path.direction())?;
    let elements: Vec<f64> = sum
        .elements
        .iter()
        .zip(&direction)
        .map(|(g, d)| g * d)
        .collect();
    let scores: Vec<f64> = elements
        .chunks(hidden.max(1))
        .map(|row| row.iter().sum())
        .collect();
    let elements: Vec<f32> = elements.into_iter().map(|e| e as f32).collect();
    Ok(Attribution {
        scores: Scores::Tokens(narrowed(&scores, "token")?),
        elements: Some(Tensor::from_vec(elements, (tokens, hidden), &Device::Cpu)?),
        f_input,
        completeness: Some(Completeness::of(&scores, f_input, f_baseline)),
        forward_points: nodes.len() + 2,
        gradient_points: nodes.len(),
    })
}
