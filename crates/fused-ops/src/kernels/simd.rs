//! Vectors of f32 that give the same bits on every instruction set.
//!
//! A kernel is written once as an `#[inline(always)]` function over [`Simd`], and
//! [`super::dispatch`] compiles it for each instruction set. Kernels whose sums cross lanes see 16
//! lanes on every machine, [`Pair`] joining two vectors of 8, and fold them in one order; every
//! multiply-add rounds once, and functions such as [`Simd::exp`] are made of these operations. The
//! products of [`super::tile`], where each lane is a sum of its own, take the machine's own width.

/// A vector of f32 lanes.
///
/// # Safety
/// Every function must be inlined into code compiled for the instruction set, on a processor
/// that has it; loads and stores touch [`Simd::LANES`] values, those of a part its `count`.
pub(crate) trait Simd {
    /// The vector.
    type V: Copy;
    /// Lanes of a vector, at most 16.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    /// The first `count` lanes, at most [`Simd::LANES`]; the others are 0.
    unsafe fn load_part(from: *const f32, count: usize) -> Self::V;
    /// Stores the first `count` lanes, at most [`Simd::LANES`].
    unsafe fn store_part(to: *mut f32, value: Self::V, count: usize);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger; `b` where one is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller; `b` where one is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `value` where `x >= bound` or `x` is NaN, else 0.
    unsafe fn keep_from(x: Self::V, bound: Self::V, value: Self::V) -> Self::V;
    /// value · 2ⁿ for whole `n` in −126..=127.
    unsafe fn scale_by_power(value: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes: the upper half is added to the lower until one lane is left.
    unsafe fn sum(value: Self::V) -> f32;
    /// [`Simd::sum`] of each of [`Simd::LANES`] vectors, in the lanes of one.
    #[inline(always)]
    unsafe fn sum_each(vectors: &[Self::V]) -> Self::V {
        let mut sums = [0f32; 16];
        for (sum, vector) in sums.iter_mut().zip(vectors) {
            // SAFETY: as the caller promises.
            *sum = unsafe { Self::sum(*vector) };
        }
        // SAFETY: there are as many sums as a vector has lanes, at most 16.
        unsafe { Self::load(sums.as_ptr()) }
    }
    /// The largest lane, in the order of [`Simd::sum`].
    unsafe fn largest(value: Self::V) -> f32;

    /// Asks for the cache line at `address`, which need not be valid.
    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing and faults on no address; every x86-64 has it.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// The same address, of whose origin the compiler then knows nothing: it cannot make one of several
    /// pointers a chain of additions to another.
    #[allow(
        clippy::pointers_in_nomem_asm_block,
        reason = "nothing is read through it"
    )]
    #[inline(always)]
    unsafe fn opaque(address: *const f32) -> *const f32 {
        #[cfg(target_arch = "x86_64")]
        {
            let mut address = address;
            // SAFETY: there is no instruction in it.
            unsafe {
                std::arch::asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags));
            }
            address
        }
        #[cfg(not(target_arch = "x86_64"))]
        address
    }

    /// e^x, within 2 units in the last place where the result is a normal number, 0 below; NaN
    /// of NaN.
    ///
    /// Cephes' `expf`: x = n ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial in r.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: the instruction set is the caller's promise; nothing is loaded or stored.
        unsafe {
            let lowest = Self::splat(-87.0);
            let clamped = Self::max(lowest, Self::min(Self::splat(88.0), x));
            // Adding 1.5 · 2²³ rounds to a whole number.
            let magic = Self::splat(12_582_912.0);
            let log2_e = Self::splat(std::f32::consts::LOG2_E);
            let n = Self::sub(Self::fma(clamped, log2_e, magic), magic);
            let r = Self::fma(n, Self::splat(-0.693_359_4), clamped);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.987_569_1e-4);
            for coefficient in [
                1.398_199_9e-3,
                8.333_452e-3,
                4.166_579_6e-2,
                1.666_666_5e-1,
                0.5,
            ] {
                p = Self::fma(p, r, Self::splat(coefficient));
            }
            let p = Self::add(Self::fma(Self::mul(r, r), p, r), Self::splat(1.0));
            Self::keep_from(x, lowest, Self::scale_by_power(p, n))
        }
    }
}

/// Two vectors of `H` as one of twice the lanes.
pub(crate) struct Pair<H>(std::marker::PhantomData<H>);

/// Applies a function of `H` to the lower and to the upper halves.
macro_rules! halves {
    ($(fn $name:ident($($arg:ident),*);)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: Self::V),*) -> Self::V {
            // SAFETY: as the caller promises; nothing is loaded or stored.
            unsafe { (H::$name($($arg.0),*), H::$name($($arg.1),*)) }
        }
    )*};
}

impl<H: Simd> Simd for Pair<H> {
    type V = (H::V, H::V);
    const LANES: usize = 2 * H::LANES;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        // SAFETY: as the caller promises.
        unsafe { (H::splat(value), H::splat(value)) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's values are those of both halves.
        unsafe { (H::load(from), H::load(from.add(H::LANES))) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::V) {
        // SAFETY: the caller's values are those of both halves.
        unsafe {
            H::store(to, value.0);
            H::store(to.add(H::LANES), value.1);
        }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self::V {
        let lower = count.min(H::LANES);
        // SAFETY: the caller's values are those of both halves; of none, the address is not read.
        unsafe {
            (
                H::load_part(from, lower),
                H::load_part(from.wrapping_add(H::LANES), count - lower),
            )
        }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, value: Self::V, count: usize) {
        let lower = count.min(H::LANES);
        // SAFETY: the caller's values are those of both halves; of none, the address is not written.
        unsafe {
            H::store_part(to, value.0, lower);
            H::store_part(to.wrapping_add(H::LANES), value.1, count - lower);
        }
    }
    halves! {
        fn add(a, b);
        fn sub(a, b);
        fn mul(a, b);
        fn div(a, b);
        fn fma(a, b, c);
        fn max(a, b);
        fn min(a, b);
        fn keep_from(x, bound, value);
        fn scale_by_power(value, n);
    }
    #[inline(always)]
    unsafe fn sum(value: Self::V) -> f32 {
        // SAFETY: as the caller promises; nothing is loaded or stored.
        unsafe { H::sum(H::add(value.0, value.1)) }
    }
    #[inline(always)]
    unsafe fn sum_each(vectors: &[Self::V]) -> Self::V {
        // SAFETY: as the caller promises, who passes a vector for each lane of both halves.
        unsafe {
            let mut folded = [H::splat(0.0); 16];
            for (folded, vector) in folded.iter_mut().zip(vectors) {
                *folded = H::add(vector.0, vector.1);
            }
            let (lower, upper) = folded[..Self::LANES].split_at(H::LANES);
            (H::sum_each(lower), H::sum_each(upper))
        }
    }
    #[inline(always)]
    unsafe fn largest(value: Self::V) -> f32 {
        // SAFETY: as the caller promises; nothing is loaded or stored.
        unsafe { H::largest(H::max(value.0, value.1)) }
    }
}
