//! The slopes of SwiGLU, for the backward passes of several gradients.
//!
//! `∂gate = (∂ · up) · silu'(gate)`, `∂up = ∂ · silu(gate)` with `silu' = σ + silu (1 − σ)`: what does not
//! depend on the gradient is computed once. The bits are those of
//! [`super::elementwise::swiglu_backward`].

use super::dispatch::dispatched;
use super::elementwise::by_vector;
use super::simd::Simd;

#[inline(always)]
unsafe fn slopes_in<S: Simd>(len: usize, gate: *const f32, silu: *mut f32, slope: *mut f32) {
    // SAFETY: the caller's pointers hold `len` values, and the macro touches no more.
    unsafe {
        let one = S::splat(1.0);
        let zero = S::splat(0.0);
        by_vector!(S, len, [g = gate] => [value = silu, derivative = slope] {
            let sigmoid = S::div(one, S::add(one, S::exp(S::sub(zero, g))));
            let silu = S::mul(g, sigmoid);
            (silu, S::fma(silu, S::sub(one, sigmoid), sigmoid))
        });
    }
}

#[inline(always)]
unsafe fn backward_in<S: Simd>(
    len: usize,
    up: *const f32,
    silu: *const f32,
    slope: *const f32,
    grad: *const f32,
    gate_grad: *mut f32,
    up_grad: *mut f32,
) {
    // SAFETY: the caller's pointers hold `len` values, and the macro touches no more.
    unsafe {
        by_vector!(S, len, [u = up, y = silu, s = slope, d = grad] => [dg = gate_grad, du = up_grad] {
            (S::mul(S::mul(d, u), s), S::mul(d, y))
        });
    }
}

dispatched! {
    /// `silu(gate)` and its derivative; either may be written over `gate`.
    pub(crate) fn slopes(len: usize, gate: *const f32, silu: *mut f32, slope: *mut f32) = slopes_in
}
dispatched! {
    /// The gradients of gate and up; either may be written over `grad`.
    pub(crate) fn backward(
        len: usize, up: *const f32, silu: *const f32, slope: *const f32, grad: *const f32,
        gate_grad: *mut f32, up_grad: *mut f32,
    ) = backward_in
}
