//! What is attributed: for every prompt one function `F_c` of its embeddings for each call `c`.
//!
//! A method decides at which points of a prompt's path the functions are needed; whoever implements
//! [`AttributedFunctions`] decides what is evaluated together. A language model scores all calls of
//! a prompt in one pass, as branches of it, and packs points of several prompts into another.

use candle_core::{Tensor, Var};

use crate::elements::{host, vector};
use crate::error::{Error, Result, finite};
use crate::path::{Path, Point};
use crate::quadrature::Node;
use crate::rollout::Attentions;

/// The functions of several prompts, one for each call that was made on a prompt.
///
/// The order of calls is the implementor's, the same in all three. Freeze the model first: gradients
/// of its weights would be computed for nothing.
pub trait AttributedFunctions {
    /// What an evaluation can fail with.
    type Error: From<Error>;

    /// `F_c` of all calls at every point, `[point][call]`; `points[i]` lies on `paths[points[i].path]`
    /// and its embeddings are [`Path::at`] its shares.
    fn values(
        &mut self,
        paths: &[Path],
        points: &[Point],
    ) -> std::result::Result<Vec<Vec<f64>>, Self::Error>;

    /// `Σ_k w_k ∂F_c/∂e` at the nodes of every path, `[path][call]`: see [`GradientSum::add`].
    fn gradients(
        &mut self,
        paths: &[Path],
        nodes: &[Node],
    ) -> std::result::Result<Vec<Vec<GradientSum>>, Self::Error>;

    /// Attention matrices at the input of one path, followed from one call. Only rollout asks for
    /// them, one after the other: they are large.
    ///
    /// # Errors
    /// [`Error::NoAttentions`] unless implemented.
    fn attentions(
        &mut self,
        _path: usize,
        _call: usize,
    ) -> std::result::Result<Attentions, Self::Error> {
        Err(Error::NoAttentions.into())
    }
}

/// `F_c` at points, checked: one list a point, as many calls at all points of a path, all finite.
pub(crate) fn checked_values<F: AttributedFunctions>(
    functions: &mut F,
    paths: &[Path],
    points: &[Point],
) -> std::result::Result<Vec<Vec<f64>>, F::Error> {
    let values = functions.values(paths, points)?;
    expect(values.len(), points.len(), "the points that were evaluated")?;
    let mut first_of_path = vec![None; paths.len()];
    for (point, values) in points.iter().zip(&values) {
        let calls = *first_of_path[point.path].get_or_insert(values.len());
        expect(values.len(), calls, "the calls at a point")?;
        for &value in values {
            finite(|| "the function's value".to_owned(), value)?;
        }
    }
    Ok(values)
}

/// The sums of gradients, checked: as many as there are paths and, of each, calls.
pub(crate) fn checked_gradients<F: AttributedFunctions>(
    functions: &mut F,
    paths: &[Path],
    calls: &[usize],
    nodes: &[Node],
) -> std::result::Result<Vec<Vec<GradientSum>>, F::Error> {
    let sums = functions.gradients(paths, nodes)?;
    expect(sums.len(), paths.len(), "the paths with gradients")?;
    for ((sums, &calls), path) in sums.iter().zip(calls).zip(paths) {
        expect(sums.len(), calls, "the calls with a gradient")?;
        for sum in sums {
            let elements = path.input().elem_count();
            expect(sum.elements.len(), elements, "the elements of a gradient")?;
        }
    }
    Ok(sums)
}

fn expect(found: usize, expected: usize, what: &'static str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Length {
        what,
        expected,
        found,
    })
}

/// A weighted sum of gradients over the nodes of a path, streamed in f64: memory does not grow with
/// the nodes, and no bit depends on how they are batched (as far as `F` itself does not).
#[derive(Clone, Debug)]
pub struct GradientSum {
    pub(crate) elements: Vec<f64>,
}

impl GradientSum {
    /// No gradient yet.
    pub fn new(path: &Path) -> Self {
        GradientSum {
            elements: vec![0.0; path.input().elem_count()],
        }
    }

    /// Adds `Σ w_k ∂F/∂e` over one batch of nodes, node by node. `points` is [`Path::along`] the
    /// nodes and `values` `(nodes)` is `F` there, each value depending on its own matrix alone.
    ///
    /// # Errors
    /// Values of another shape or not finite, or a graph that was cut between points and values.
    pub fn add(&mut self, nodes: &[Node], points: &Var, values: &Tensor) -> Result<()> {
        let gradients = values.sum_all()?.backward()?;
        let gradient = gradients.get(points).ok_or(Error::NoGradient)?;
        self.add_gradients(nodes, values, gradient)
    }

    /// As [`GradientSum::add`], of gradients that are known: those of `F` at each node, `(nodes, tokens,
    /// hidden)`.
    ///
    /// # Errors
    /// Values of another shape or not finite, gradients of another shape.
    pub fn add_gradients(
        &mut self,
        nodes: &[Node],
        values: &Tensor,
        gradients: &Tensor,
    ) -> Result<()> {
        for (value, node) in vector(values, nodes.len())?.into_iter().zip(nodes) {
            finite(|| format!("f at α = {}", node.alpha), value)?;
        }
        let length = self.elements.len();
        expect(
            gradients.elem_count(),
            nodes.len() * length,
            "the elements of the gradients",
        )?;
        if length == 0 {
            return Ok(());
        }
        for (node, gradient) in nodes.iter().zip(host(gradients)?.chunks(length)) {
            for (total, g) in self.elements.iter_mut().zip(gradient) {
                *total += node.weight * g;
            }
        }
        Ok(())
    }
}

/// One function of batches of matrices, `(points, tokens, hidden)` to `(points)`, as the only call
/// of each prompt; at most `points_per_batch` are evaluated together, which bounds memory.
pub struct BatchedFunction<F> {
    /// Points that are evaluated together, at least 1.
    pub points_per_batch: usize,
    /// The function; each value may depend on its own matrix alone.
    pub function: F,
}

impl<F> BatchedFunction<F>
where
    F: FnMut(&Tensor) -> candle_core::Result<Tensor>,
{
    fn batch(&self) -> Result<usize> {
        if self.points_per_batch > 0 {
            return Ok(self.points_per_batch);
        }
        Err(Error::Setting {
            what: "points_per_batch",
            why: "0 points a batch would never end: give at least 1".to_owned(),
        })
    }
}

impl<F> AttributedFunctions for BatchedFunction<F>
where
    F: FnMut(&Tensor) -> candle_core::Result<Tensor>,
{
    type Error = Error;

    fn values(&mut self, paths: &[Path], points: &[Point]) -> Result<Vec<Vec<f64>>> {
        let batch = self.batch()?;
        let mut values = Vec::with_capacity(points.len());
        for own in points.chunk_by(|a, b| a.path == b.path) {
            for points in own.chunks(batch) {
                let embeddings = points
                    .iter()
                    .map(|point| paths[point.path].at(&point.shares))
                    .collect::<Result<Vec<_>>>()?;
                let stacked = Tensor::stack(&embeddings, 0)?.detach();
                let found = vector(&(self.function)(&stacked)?, points.len())?;
                values.extend(found.into_iter().map(|value| vec![value]));
            }
        }
        Ok(values)
    }

    fn gradients(&mut self, paths: &[Path], nodes: &[Node]) -> Result<Vec<Vec<GradientSum>>> {
        let batch = self.batch()?;
        let mut sums = Vec::with_capacity(paths.len());
        for path in paths {
            let mut sum = GradientSum::new(path);
            for nodes in nodes.chunks(batch) {
                let points = path.along(nodes)?;
                sum.add(nodes, &points, &(self.function)(points.as_tensor())?)?;
            }
            sums.push(vec![sum]);
        }
        Ok(sums)
    }
}
