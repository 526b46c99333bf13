//! RMS normalisation of rows.

use super::dispatch::dispatched;
use super::elementwise::by_vector;
use super::simd::Simd;

/// 1 / sqrt(mean(x²) + eps)
#[inline(always)]
unsafe fn inverse_rms<S: Simd>(hidden: usize, x: *const f32, eps: f32) -> f32 {
    // SAFETY: x holds `hidden` values.
    unsafe {
        let mut squares = S::splat(0.0);
        by_vector!(S, hidden, [v = x] => [] {
            squares = S::fma(v, v, squares);
        });
        1.0 / (S::sum(squares) / hidden as f32 + eps).sqrt()
    }
}

#[inline(always)]
unsafe fn forward_in<S: Simd>(
    rows: usize,
    hidden: usize,
    x: *const f32,
    weight: *const f32,
    eps: f32,
    out: *mut f32,
) {
    // SAFETY: x and out hold `rows` rows of `hidden` values, the weight one.
    unsafe {
        for row in 0..rows {
            let (x, out) = (x.add(row * hidden), out.add(row * hidden));
            let inverse = S::splat(inverse_rms::<S>(hidden, x, eps));
            by_vector!(S, hidden, [v = x, w = weight] => [y = out] {
                (S::mul(S::mul(v, inverse), w),)
            });
        }
    }
}

#[inline(always)]
unsafe fn backward_in<S: Simd>(
    rows: usize,
    hidden: usize,
    x: *const f32,
    weight: *const f32,
    eps: f32,
    grad: *const f32,
    accumulate: bool,
    x_grad: *mut f32,
    weight_grad: *mut f32,
) {
    // SAFETY: x and the gradients hold `rows` rows of `hidden` values, the weight and its gradient
    // one; null pointers are not followed.
    unsafe {
        for row in 0..rows {
            let at = row * hidden;
            let (x, grad) = (x.add(at), grad.add(at));
            let inverse = inverse_rms::<S>(hidden, x, eps);
            let scale = S::splat(inverse);
            if !weight_grad.is_null() {
                by_vector!(S, hidden, [v = x, g = grad, sum = weight_grad] => [sum = weight_grad] {
                    (S::fma(S::mul(v, scale), g, sum),)
                });
            }
            if !x_grad.is_null() {
                let x_grad = x_grad.add(at);
                let mut products = S::splat(0.0);
                by_vector!(S, hidden, [v = x, w = weight, g = grad] => [] {
                    products = S::fma(S::mul(w, g), v, products);
                });
                let pull = S::sum(products) * inverse * inverse / hidden as f32;
                let pull = S::splat(-pull);
                if accumulate {
                    by_vector!(S, hidden, [v = x, w = weight, g = grad, d = x_grad] => [d = x_grad] {
                        (S::add(d, S::mul(S::fma(v, pull, S::mul(w, g)), scale)),)
                    });
                } else {
                    by_vector!(S, hidden, [v = x, w = weight, g = grad] => [d = x_grad] {
                        (S::mul(S::fma(v, pull, S::mul(w, g)), scale),)
                    });
                }
            }
        }
    }
}

dispatched! {
    /// out = x / rms(x) · weight, row by row.
    pub(crate) fn forward(
        rows: usize, hidden: usize, x: *const f32, weight: *const f32, eps: f32, out: *mut f32,
    ) = forward_in
}
dispatched! {
    /// The gradients of x (added to what is there with `accumulate`) and of the weight (always
    /// added); a null pointer says that one is not wanted.
    pub(crate) fn backward(
        rows: usize, hidden: usize, x: *const f32, weight: *const f32, eps: f32,
        grad: *const f32, accumulate: bool, x_grad: *mut f32, weight_grad: *mut f32,
    ) = backward_in
}
