//! The feed-forward half of a kept layer.

use candle_core::Tensor;

use super::{BLOCK_ROWS, Norm, for_gradients, plain};
use crate::error::Result;
use crate::feed_forward::FeedForwardWeights;
use crate::kernels::elementwise::add_all;
use crate::kernels::gemm::{Matrix, Right, Start, gemm};
use crate::kernels::memory::{Pointer, parallel_chunks};
use crate::kernels::{norm, swiglu_slopes};
use crate::linear::forward as product;
use crate::norm::forward as norm_forward;
use crate::swiglu::forward as swiglu_forward;
use crate::values::Values;

#[derive(Debug)]
pub(super) struct KeptFeedForward {
    /// (tokens, hidden), what went in.
    x: Vec<f32>,
    norm: Norm,
    /// (inner, hidden)
    gate: Tensor,
    /// (inner, hidden)
    up: Tensor,
    /// (hidden, inner)
    down: Tensor,
    /// `up(n)` (tokens, inner).
    ups: Vec<f32>,
    /// `silu(gate(n))` (tokens, inner).
    silus: Vec<f32>,
    /// `silu'(gate(n))` (tokens, inner).
    slopes: Vec<f32>,
}

impl KeptFeedForward {
    /// Runs it on `x` (tokens, hidden); gives as much.
    pub(super) fn new(x: Vec<f32>, weights: &FeedForwardWeights<'_>) -> Result<(Self, Vec<f32>)> {
        let norm = Norm::new(weights.norm, weights.eps)?;
        let [gate, up, down] = [weights.gate, weights.up, weights.down].map(plain);
        let (gate, up, down) = (gate?, up?, down?);
        let (inner, hidden) = gate.dims2()?;
        let tokens = x.len() / hidden;
        let n = norm_forward(&x, Values::of(&norm.weight).slice()?, norm.eps);
        let inward = (tokens, inner, hidden);
        let mut gates = product(&n, Values::of(&gate).slice()?, None, inward);
        let ups = product(&n, Values::of(&up).slice()?, None, inward);
        let inside = swiglu_forward(&gates, &ups);
        let outward = (tokens, hidden, inner);
        let mut out = product(&inside, Values::of(&down).slice()?, None, outward);
        add_all(&x, &mut out);
        // The memory of what is no longer read.
        let mut slopes = inside;
        let (silus, derivatives) = (Pointer::to(&mut gates), Pointer::to(&mut slopes));
        parallel_chunks(tokens, BLOCK_ROWS, |start, end| {
            let (at, len) = (start * inner, (end - start) * inner);
            // SAFETY: all three runs hold `len` values, and each belongs to one task.
            unsafe {
                let gates = silus.at(at);
                swiglu_slopes::slopes(len, gates, gates, derivatives.at(at));
            }
        });
        let kept = KeptFeedForward {
            x,
            norm,
            gate,
            up,
            down,
            ups,
            silus: gates,
            slopes,
        };
        Ok((kept, out))
    }

    /// Makes gradients of what it gave, (gradients, tokens, hidden), those of what went in.
    pub(super) fn backward(&self, grad: &mut [f32]) -> Result<()> {
        let (inner, hidden) = self.gate.dims2()?;
        let tokens = self.x.len() / hidden;
        let gradients = grad.len() / self.x.len();
        let [gate, up, down] = [&self.gate, &self.up, &self.down].map(for_gradients);
        let (gate, up, down) = (gate?, up?, down?);
        let norm_values = Values::of(&self.norm.weight);
        let norm_weight = norm_values.slice()?;
        let grad = Pointer::to(grad);
        parallel_chunks(tokens, BLOCK_ROWS, |start, end| {
            let rows = end - start;
            let inside = start * inner..end * inner;
            let [ups, silus, slopes] =
                [&self.ups, &self.silus, &self.slopes].map(|all| &all[inside.clone()]);
            let x = &self.x[start * hidden..end * hidden];
            let mut gate_grad = vec![0f32; rows * inner];
            let mut up_grad = vec![0f32; rows * inner];
            let mut n_grad = vec![0f32; rows * hidden];
            for of in 0..gradients {
                // SAFETY: the rows lie within the gradient and belong to this task; the buffers hold
                // as many, and the packed weights have the sizes of the products.
                unsafe {
                    let own = grad.at((of * tokens + start) * hidden);
                    let own_rows = std::slice::from_raw_parts(own, rows * hidden);
                    let (to_gate, to_up) = (Pointer::to(&mut gate_grad), Pointer::to(&mut up_grad));
                    let outward = (rows, inner, hidden);
                    let left = Matrix::rows(own_rows, hidden);
                    gemm(outward, left, Right::Packed(&down), Start::Zero, to_gate);
                    let (inner_grad, len) = (to_gate.at(0), rows * inner);
                    swiglu_slopes::backward(
                        len,
                        ups.as_ptr(),
                        silus.as_ptr(),
                        slopes.as_ptr(),
                        inner_grad,
                        inner_grad,
                        to_up.at(0),
                    );
                    let (inward, to) = ((rows, hidden, inner), Pointer::to(&mut n_grad));
                    let left = Matrix::rows(&gate_grad, inner);
                    gemm(inward, left, Right::Packed(&gate), Start::Zero, to);
                    let left = Matrix::rows(&up_grad, inner);
                    gemm(inward, left, Right::Packed(&up), Start::Current, to);
                    norm::backward(
                        rows,
                        hidden,
                        x.as_ptr(),
                        norm_weight.as_ptr(),
                        self.norm.eps,
                        n_grad.as_ptr(),
                        true,
                        own,
                        std::ptr::null_mut(),
                    );
                }
            }
        });
        Ok(())
    }
}
