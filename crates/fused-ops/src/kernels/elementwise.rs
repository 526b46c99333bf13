//! SwiGLU, rotary positions and sums, element by element.

use super::dispatch::dispatched;
use super::memory::{Pointer, parallel_chunks};
use super::simd::Simd;

/// Runs `$body` for each vector of `0..$len`; of the last, partial one only the lanes within are
/// loaded and stored. `$body` sees the inputs as vectors and gives the outputs as a tuple of vectors.
macro_rules! by_vector {
    ($simd:ident, $len:expr, [$($in:ident = $from:expr),*] => [$($out:ident = $to:expr),*] $body:block) => {{
        let len: usize = $len;
        let mut at = 0;
        while at + $simd::LANES <= len {
            $(let $in = $simd::load($from.add(at));)*
            let ($($out,)*) = $body;
            $($simd::store($to.add(at), $out);)*
            at += $simd::LANES;
        }
        if at < len {
            let left = len - at;
            $(let $in = $simd::load_part($from.add(at), left);)*
            let ($($out,)*) = $body;
            $($simd::store_part($to.add(at), $out, left);)*
        }
    }};
}
pub(crate) use by_vector;

#[inline(always)]
unsafe fn swiglu_forward_in<S: Simd>(len: usize, gate: *const f32, up: *const f32, out: *mut f32) {
    // SAFETY: the caller's pointers hold `len` values, and the macro touches no more.
    unsafe {
        let one = S::splat(1.0);
        let zero = S::splat(0.0);
        by_vector!(S, len, [g = gate, u = up] => [y = out] {
            (S::mul(S::div(g, S::add(one, S::exp(S::sub(zero, g)))), u),)
        });
    }
}

#[inline(always)]
unsafe fn swiglu_backward_in<S: Simd>(
    len: usize,
    gate: *const f32,
    up: *const f32,
    grad: *const f32,
    gate_grad: *mut f32,
    up_grad: *mut f32,
) {
    // SAFETY: the caller's pointers hold `len` values, and the macro touches no more.
    unsafe {
        let one = S::splat(1.0);
        let zero = S::splat(0.0);
        by_vector!(S, len, [g = gate, u = up, d = grad] => [dg = gate_grad, du = up_grad] {
            let sigmoid = S::div(one, S::add(one, S::exp(S::sub(zero, g))));
            let silu = S::mul(g, sigmoid);
            let du = S::mul(d, silu);
            // silu' = σ + silu (1 − σ)
            let slope = S::fma(silu, S::sub(one, sigmoid), sigmoid);
            (S::mul(S::mul(d, u), slope), du)
        });
    }
}

/// `from` → `to` for one token: `heads` heads of `dim` values, `cos` and `sin` of `dim`. With
/// `inverse`, the transpose of that map, which is its backward.
#[inline(always)]
unsafe fn rotate_in<S: Simd>(
    heads: usize,
    dim: usize,
    cos: *const f32,
    sin: *const f32,
    inverse: bool,
    from: *const f32,
    to: *mut f32,
) {
    let half = dim / 2;
    // SAFETY: the caller's pointers hold a token's heads and tables, each read half by half.
    unsafe {
        let (cos_high, sin_high) = (cos.add(half), sin.add(half));
        let zero = S::splat(0.0);
        for head in 0..heads {
            let (low, high) = (from.add(head * dim), from.add(head * dim + half));
            let (to_low, to_high) = (to.add(head * dim), to.add(head * dim + half));
            by_vector!(S, half,
                [x = low, y = high, cx = cos, cy = cos_high, sx = sin, sy = sin_high]
                    => [a = to_low, b = to_high] {
                let (across_x, across_y) = if inverse {
                    (S::mul(y, sy), S::sub(zero, S::mul(x, sx)))
                } else {
                    (S::sub(zero, S::mul(y, sx)), S::mul(x, sy))
                };
                (S::fma(x, cx, across_x), S::fma(y, cy, across_y))
            });
        }
    }
}

#[inline(always)]
unsafe fn add_in<S: Simd>(len: usize, from: *const f32, to: *mut f32) {
    // SAFETY: the caller's pointers hold `len` values, and the macro touches no more.
    unsafe {
        by_vector!(S, len, [x = from, y = to] => [y = to] {
            (S::add(x, y),)
        });
    }
}

dispatched! {
    /// out = silu(gate) · up
    pub(crate) fn swiglu_forward(len: usize, gate: *const f32, up: *const f32, out: *mut f32)
        = swiglu_forward_in
}
dispatched! {
    /// The gradients of gate and up.
    pub(crate) fn swiglu_backward(
        len: usize, gate: *const f32, up: *const f32, grad: *const f32,
        gate_grad: *mut f32, up_grad: *mut f32,
    ) = swiglu_backward_in
}
dispatched! {
    /// Rotates one token's heads, or back.
    pub(crate) fn rotate(
        heads: usize, dim: usize, cos: *const f32, sin: *const f32, inverse: bool,
        from: *const f32, to: *mut f32,
    ) = rotate_in
}
dispatched! {
    /// to += from
    pub(crate) fn add(len: usize, from: *const f32, to: *mut f32) = add_in
}

/// to += from, split over the thread pool; the shorter length counts.
pub(crate) fn add_all(from: &[f32], to: &mut [f32]) {
    const TASK: usize = 16 * 1024;
    let len = from.len().min(to.len());
    let to = Pointer::to(to);
    parallel_chunks(len, TASK, |start, end| {
        // SAFETY: both runs hold end − start values, and each belongs to one task.
        unsafe { add(end - start, from[start..end].as_ptr(), to.at(start)) };
    });
}
