//! Vectors of f32 for three instruction sets, chosen at run time.
//!
//! A kernel is written once as an `#[inline(always)]` function over [`Simd`]; [`dispatched`] makes
//! a `#[target_feature]` copy of it for each instruction set and a function that picks one. The
//! choice is the same throughout a process, so results repeat; they differ in the last bits
//! between instruction sets.

use std::sync::OnceLock;

/// The instruction set in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstructionSet {
    /// AVX-512 F, BW, DQ and VL with FMA: 16 lanes.
    Avx512,
    /// AVX2 with FMA: 8 lanes.
    Avx2,
    /// What the compilation target guarantees.
    Portable,
}

/// The instruction set that the fused kernels use here: the widest that the processor has, or
/// less where the environment variable `FUSED_OPS_SIMD` says `avx2` or `portable`.
pub fn instruction_set() -> InstructionSet {
    static CHOICE: OnceLock<InstructionSet> = OnceLock::new();
    *CHOICE.get_or_init(|| {
        let wanted = std::env::var("FUSED_OPS_SIMD").unwrap_or_default();
        if wanted == "portable" {
            return InstructionSet::Portable;
        }
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl");
            if avx2 && avx512 && wanted != "avx2" {
                return InstructionSet::Avx512;
            }
            if avx2 {
                return InstructionSet::Avx2;
            }
        }
        InstructionSet::Portable
    })
}

/// A vector of f32 lanes.
///
/// # Safety
/// Every function must be inlined into code compiled for the instruction set, on a processor
/// that has it; loads and stores touch [`Simd::LANES`] values.
pub(crate) trait Simd {
    /// The vector.
    type V: Copy;
    /// Lanes of a vector.
    const LANES: usize;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, value: Self::V);
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `value` where `x >= bound`, else 0.
    unsafe fn keep_from(x: Self::V, bound: Self::V, value: Self::V) -> Self::V;
    /// value · 2ⁿ for whole `n` in −126..=127.
    unsafe fn scale_by_power(value: Self::V, n: Self::V) -> Self::V;

    /// Asks for the cache line at `address`, which need not be valid.
    #[inline(always)]
    unsafe fn prefetch(address: *const f32) {
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(address.cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }

    /// The matrix product of a tile, see [`super::tile`]; a real call, compiled once for each
    /// instruction set.
    unsafe fn tile_product(product: super::tile::Product);

    /// e^x, within 2 units in the last place where the result is a normal number, 0 below.
    ///
    /// Cephes' `expf`: x = n ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial in r.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        unsafe {
            let lowest = Self::splat(-87.0);
            let clamped = Self::max(Self::min(x, Self::splat(88.0)), lowest);
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

    /// The sum of the lanes, always in the same order.
    #[inline(always)]
    unsafe fn sum(value: Self::V) -> f32 {
        let mut lanes = [0f32; 16];
        unsafe { Self::store(lanes.as_mut_ptr(), value) };
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
        }
        lanes[0]
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(value: Self::V) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; 16];
        unsafe { Self::store(lanes.as_mut_ptr(), value) };
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] = lanes[lane].max(lanes[lane + width]);
            }
        }
        lanes[0]
    }
}

/// Defines a function that runs the generic kernel for the instruction set in use.
macro_rules! dispatched {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $kind:ty),* $(,)?) $(-> $out:ty)? = $generic:ident) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis unsafe fn $name($($arg: $kind),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            {
                use $crate::kernels::simd::{Avx2, Avx512, InstructionSet, instruction_set};
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx512($($arg: $kind),*) $(-> $out)? {
                    unsafe { $generic::<Avx512>($($arg),*) }
                }
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                unsafe fn avx2($($arg: $kind),*) $(-> $out)? {
                    unsafe { $generic::<Avx2>($($arg),*) }
                }
                match instruction_set() {
                    InstructionSet::Avx512 => return unsafe { avx512($($arg),*) },
                    InstructionSet::Avx2 => return unsafe { avx2($($arg),*) },
                    InstructionSet::Portable => {}
                }
            }
            unsafe { $generic::<$crate::kernels::simd::Portable>($($arg),*) }
        }
    };
}
pub(crate) use dispatched;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use crate::kernels::tile::{self, Product};
    use std::arch::x86_64::*;

    /// 16 lanes.
    pub(crate) struct Avx512;
    /// 8 lanes.
    pub(crate) struct Avx2;

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m512 {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, value: __m512) {
            unsafe { _mm512_storeu_ps(to, value) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m512, b: __m512) -> __m512 {
            unsafe { _mm512_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn keep_from(x: __m512, bound: __m512, value: __m512) -> __m512 {
            unsafe {
                // "not less than" keeps NaN, so that a NaN is never hidden.
                let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, bound);
                _mm512_maskz_mov_ps(kept, value)
            }
        }
        #[inline(always)]
        unsafe fn scale_by_power(value: __m512, n: __m512) -> __m512 {
            unsafe { _mm512_scalef_ps(value, n) }
        }
        // Halves are folded onto each other, as in the portable sum: the same bits.
        #[inline(always)]
        unsafe fn sum(value: __m512) -> f32 {
            unsafe {
                let upper = _mm512_extractf32x8_ps::<1>(value);
                Avx2::sum(_mm256_add_ps(_mm512_castps512_ps256(value), upper))
            }
        }
        #[inline(always)]
        unsafe fn largest(value: __m512) -> f32 {
            unsafe {
                let upper = _mm512_extractf32x8_ps::<1>(value);
                Avx2::largest(_mm256_max_ps(_mm512_castps512_ps256(value), upper))
            }
        }
        #[inline(always)]
        unsafe fn tile_product(product: Product) {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            #[inline(never)]
            unsafe fn compiled(product: Product) {
                unsafe { tile::product::<Avx512, 12>(product) }
            }
            unsafe { compiled(product) }
        }
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn splat(value: f32) -> __m256 {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, value: __m256) {
            unsafe { _mm256_storeu_ps(to, value) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_div_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn max(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_max_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn min(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_min_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn keep_from(x: __m256, bound: __m256, value: __m256) -> __m256 {
            unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, bound), value) }
        }
        #[inline(always)]
        unsafe fn scale_by_power(value: __m256, n: __m256) -> __m256 {
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
                _mm256_mul_ps(value, power)
            }
        }
        #[inline(always)]
        unsafe fn sum(value: __m256) -> f32 {
            unsafe {
                let upper = _mm256_extractf128_ps::<1>(value);
                let four = _mm_add_ps(_mm256_castps256_ps128(value), upper);
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn largest(value: __m256) -> f32 {
            unsafe {
                let upper = _mm256_extractf128_ps::<1>(value);
                let four = _mm_max_ps(_mm256_castps256_ps128(value), upper);
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
            }
        }
        #[inline(always)]
        unsafe fn tile_product(product: Product) {
            #[target_feature(enable = "avx2,fma")]
            #[inline(never)]
            unsafe fn compiled(product: Product) {
                unsafe { tile::product::<Avx2, 6>(product) }
            }
            unsafe { compiled(product) }
        }
    }
}

/// 8 lanes as an array, which every compiler turns into the target's own vectors.
pub(crate) struct Portable;

/// Applies `$f` lane by lane.
macro_rules! lanes {
    ($($arg:ident),* => $f:expr) => {{
        let mut out = [0f32; 8];
        for lane in 0..8 {
            $(let $arg = $arg[lane];)*
            out[lane] = $f;
        }
        out
    }};
}

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self::V {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::V) {
        unsafe { to.cast::<[f32; 8]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        lanes!(a, b => a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        lanes!(a, b => a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        lanes!(a, b => a * b)
    }
    #[inline(always)]
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V {
        lanes!(a, b => a / b)
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction it is a library call a lane.
        lanes!(a, b, c => a * b + c)
    }
    #[inline(always)]
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V {
        lanes!(a, b => if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V {
        lanes!(a, b => if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn keep_from(x: Self::V, bound: Self::V, value: Self::V) -> Self::V {
        lanes!(x, bound, value => if x < bound { 0.0 } else { value })
    }
    #[inline(always)]
    unsafe fn scale_by_power(value: Self::V, n: Self::V) -> Self::V {
        lanes!(value, n => value * f32::from_bits((((n as i32) + 127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn tile_product(product: super::tile::Product) {
        #[inline(never)]
        unsafe fn compiled(product: super::tile::Product) {
            unsafe { super::tile::product::<Portable, 4>(product) }
        }
        unsafe { compiled(product) }
    }
}
