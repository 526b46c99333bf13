//! Running softmax statistics over pieces of a row.

use super::elementwise::by_vector;
use libm::{expf, logf};

use super::dispatch::dispatched;
use super::simd::Simd;

/// Low enough for a probability of exactly 0, finite so that p · logit is 0 and not NaN.
pub(crate) const BANNED: f32 = -1e30;

/// What is known of a row of logits so far.
#[derive(Clone, Copy)]
pub(crate) struct RowState {
    /// The largest logit.
    pub(crate) peak: f32,
    /// Σ exp(logit − peak)
    pub(crate) sum: f32,
    /// Σ exp(logit − peak) · logit
    pub(crate) weighted: f32,
    /// The target's logit, once seen.
    pub(crate) target: f32,
}

impl RowState {
    pub(crate) const EMPTY: RowState = RowState {
        peak: f32::NEG_INFINITY,
        sum: 0.0,
        weighted: 0.0,
        target: 0.0,
    };

    /// log Σ exp(logit)
    pub(crate) fn log_sum(&self) -> f32 {
        self.peak + logf(self.sum)
    }

    /// The distribution's entropy in nats: log Σ exp − Σ p · logit.
    pub(crate) fn entropy(&self) -> f32 {
        (self.log_sum() - self.weighted / self.sum).max(0.0)
    }
}

#[inline(always)]
unsafe fn observe_in<S: Simd>(len: usize, row: *const f32, state: &mut RowState) {
    // SAFETY: the row holds `len` values; what is left of it after whole vectors goes through a copy.
    unsafe {
        let mut peaks = S::splat(f32::NEG_INFINITY);
        let full = len / S::LANES * S::LANES;
        for at in (0..full).step_by(S::LANES) {
            peaks = S::max(S::load(row.add(at)), peaks);
        }
        let mut peak = S::largest(peaks).max(state.peak);
        for at in full..len {
            peak = peak.max(*row.add(at));
        }
        let keep = expf(state.peak - peak);
        let shift = S::splat(peak);
        let mut sums = S::splat(0.0);
        let mut weighted = S::splat(0.0);
        for at in (0..full).step_by(S::LANES) {
            let x = S::load(row.add(at));
            let e = S::exp(S::sub(x, shift));
            sums = S::add(sums, e);
            weighted = S::fma(e, x, weighted);
        }
        if full < len {
            let mut padded = [BANNED; 16];
            std::ptr::copy_nonoverlapping(row.add(full), padded.as_mut_ptr(), len - full);
            let x = S::load(padded.as_ptr());
            let e = S::exp(S::sub(x, shift));
            sums = S::add(sums, e);
            weighted = S::fma(e, x, weighted);
        }
        state.peak = peak;
        state.sum = state.sum * keep + S::sum(sums);
        state.weighted = state.weighted * keep + S::sum(weighted);
    }
}

#[inline(always)]
unsafe fn scale_in<S: Simd>(len: usize, factor: f32, row: *mut f32) {
    // SAFETY: the row holds `len` values.
    unsafe {
        let factor = S::splat(factor);
        by_vector!(S, len, [x = row] => [y = row] {
            (S::mul(x, factor),)
        });
    }
}

#[inline(always)]
unsafe fn weigh_in<S: Simd>(len: usize, log_sum: f32, factor: f32, row: *mut f32) {
    // SAFETY: the row holds `len` values.
    unsafe {
        let shift = S::splat(log_sum);
        let factor = S::splat(factor);
        by_vector!(S, len, [x = row] => [y = row] {
            (S::mul(S::exp(S::sub(x, shift)), factor),)
        });
    }
}

dispatched! {
    /// Takes a piece of a row of logits into account.
    pub(crate) fn observe(len: usize, row: *const f32, state: &mut RowState) = observe_in
}
dispatched! {
    /// row · factor, in place.
    pub(crate) fn scale(len: usize, factor: f32, row: *mut f32) = scale_in
}
dispatched! {
    /// factor · exp(row − log_sum), in place.
    pub(crate) fn weigh(len: usize, log_sum: f32, factor: f32, row: *mut f32) = weigh_in
}
