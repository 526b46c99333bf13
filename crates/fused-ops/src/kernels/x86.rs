//! [`Simd`] by the vector instructions of x86-64.

use std::arch::x86_64::*;

use super::simd::Simd;

/// 16 lanes.
pub(crate) struct Avx512;
/// 8 lanes.
pub(crate) struct Avx2;

/// A mask of the first `count` of 16 lanes.
#[inline(always)]
fn first_lanes(count: usize) -> __mmask16 {
    ((1u32 << count) - 1) as __mmask16
}

/// The sign bits of the first `count` of 8 lanes.
///
/// # Safety
/// The caller's code is compiled for AVX2, on a processor that has it.
#[inline(always)]
unsafe fn first_of_eight(count: usize) -> __m256i {
    // SAFETY: as the caller promises; the instructions touch registers alone.
    unsafe {
        let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
    }
}

/// Functions that are one instruction.
macro_rules! instructions {
    ($vector:ty: $(fn $name:ident($($arg:ident),*) = $instruction:ident;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $vector),*) -> $vector {
            // SAFETY: the caller's code is compiled for the instruction set, on a processor that
            // has it; the instruction touches registers alone.
            unsafe { $instruction($($arg),*) }
        }
    )*};
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        // SAFETY: the caller has the instruction set and 16 values to read.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m512) {
        // SAFETY: the caller has the instruction set and room for 16 values.
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m512 {
        // SAFETY: the caller has the instruction set and `count` values; no others are read.
        unsafe { _mm512_maskz_loadu_ps(first_lanes(count), from) }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, value: __m512, count: usize) {
        // SAFETY: the caller has the instruction set and room for `count` values; no others are
        // written.
        unsafe { _mm512_mask_storeu_ps(to, first_lanes(count), value) }
    }
    instructions! {
        __m512:
        fn add(a, b) = _mm512_add_ps;
        fn sub(a, b) = _mm512_sub_ps;
        fn mul(a, b) = _mm512_mul_ps;
        fn div(a, b) = _mm512_div_ps;
        fn fma(a, b, c) = _mm512_fmadd_ps;
        fn max(a, b) = _mm512_max_ps;
        fn min(a, b) = _mm512_min_ps;
        fn scale_by_power(value, n) = _mm512_scalef_ps;
    }
    #[inline(always)]
    unsafe fn keep_from(x: __m512, bound: __m512, value: __m512) -> __m512 {
        // SAFETY: the caller has the instruction set.
        unsafe {
            // "not less than" keeps NaN, so that a NaN is never hidden.
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, bound);
            _mm512_maskz_mov_ps(kept, value)
        }
    }
    #[inline(always)]
    unsafe fn sum(value: __m512) -> f32 {
        // SAFETY: the caller has the instruction set, of which AVX2 is a part.
        unsafe {
            let upper = _mm512_extractf32x8_ps::<1>(value);
            Avx2::sum(_mm256_add_ps(_mm512_castps512_ps256(value), upper))
        }
    }
    #[inline(always)]
    unsafe fn sum_each(vectors: &[__m512]) -> __m512 {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut fours = [_mm512_setzero_ps(); 4];
            for (index, four) in fours.iter_mut().enumerate() {
                // Halves are added, two vectors at a time, and then quarters.
                let halves = |a: __m512, b: __m512| {
                    let lower = _mm512_shuffle_f32x4::<0x44>(a, b);
                    _mm512_add_ps(lower, _mm512_shuffle_f32x4::<0xee>(a, b))
                };
                let a = halves(vectors[index], vectors[index + 4]);
                let b = halves(vectors[index + 8], vectors[index + 12]);
                let lower = _mm512_shuffle_f32x4::<0x88>(a, b);
                *four = _mm512_add_ps(lower, _mm512_shuffle_f32x4::<0xdd>(a, b));
            }
            // Of four sums of each vector, the third is added to the first and the fourth to the second.
            let pairs = |a: __m512, b: __m512| {
                let lower = _mm512_shuffle_ps::<0x44>(a, b);
                _mm512_add_ps(lower, _mm512_shuffle_ps::<0xee>(a, b))
            };
            let (a, b) = (pairs(fours[0], fours[1]), pairs(fours[2], fours[3]));
            let lower = _mm512_shuffle_ps::<0x88>(a, b);
            _mm512_add_ps(lower, _mm512_shuffle_ps::<0xdd>(a, b))
        }
    }
    #[inline(always)]
    unsafe fn largest(value: __m512) -> f32 {
        // SAFETY: the caller has the instruction set, of which AVX2 is a part.
        unsafe {
            let upper = _mm512_extractf32x8_ps::<1>(value);
            Avx2::largest(_mm256_max_ps(_mm512_castps512_ps256(value), upper))
        }
    }
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m256 {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the caller has the instruction set and 8 values to read.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: __m256) {
        // SAFETY: the caller has the instruction set and room for 8 values.
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> __m256 {
        // SAFETY: the caller has the instruction set and `count` values; no others are read.
        unsafe { _mm256_maskload_ps(from, first_of_eight(count)) }
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, value: __m256, count: usize) {
        // SAFETY: the caller has the instruction set and room for `count` values; no others are
        // written.
        unsafe { _mm256_maskstore_ps(to, first_of_eight(count), value) }
    }
    instructions! {
        __m256:
        fn add(a, b) = _mm256_add_ps;
        fn sub(a, b) = _mm256_sub_ps;
        fn mul(a, b) = _mm256_mul_ps;
        fn div(a, b) = _mm256_div_ps;
        fn fma(a, b, c) = _mm256_fmadd_ps;
        fn max(a, b) = _mm256_max_ps;
        fn min(a, b) = _mm256_min_ps;
    }
    #[inline(always)]
    unsafe fn keep_from(x: __m256, bound: __m256, value: __m256) -> __m256 {
        // SAFETY: the caller has the instruction set.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x, bound), value) }
    }
    #[inline(always)]
    unsafe fn scale_by_power(value: __m256, n: __m256) -> __m256 {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent));
            _mm256_mul_ps(value, power)
        }
    }
    #[inline(always)]
    unsafe fn sum(value: __m256) -> f32 {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let upper = _mm256_extractf128_ps::<1>(value);
            let four = _mm_add_ps(_mm256_castps256_ps128(value), upper);
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    unsafe fn sum_each(vectors: &[__m256]) -> __m256 {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let mut fours = [_mm256_setzero_ps(); 4];
            for (index, four) in fours.iter_mut().enumerate() {
                let (a, b) = (vectors[index], vectors[index + 4]);
                let lower = _mm256_permute2f128_ps::<0x20>(a, b);
                *four = _mm256_add_ps(lower, _mm256_permute2f128_ps::<0x31>(a, b));
            }
            let pairs = |a: __m256, b: __m256| {
                let lower = _mm256_shuffle_ps::<0x44>(a, b);
                _mm256_add_ps(lower, _mm256_shuffle_ps::<0xee>(a, b))
            };
            let (a, b) = (pairs(fours[0], fours[1]), pairs(fours[2], fours[3]));
            let lower = _mm256_shuffle_ps::<0x88>(a, b);
            _mm256_add_ps(lower, _mm256_shuffle_ps::<0xdd>(a, b))
        }
    }
    #[inline(always)]
    unsafe fn largest(value: __m256) -> f32 {
        // SAFETY: the caller has the instruction set.
        unsafe {
            let upper = _mm256_extractf128_ps::<1>(value);
            let four = _mm_max_ps(_mm256_castps256_ps128(value), upper);
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::portable::Portable;
    use crate::kernels::simd::Pair;

    /// The sums of 16 vectors at once, and those of each.
    #[inline(always)]
    unsafe fn both<S: Simd>(values: &[[f32; 16]; 16]) -> ([f32; 16], [f32; 16]) {
        let (mut at_once, mut each) = ([0f32; 16], [0f32; 16]);
        // SAFETY: 16 values are read and written; the instruction set is the caller's promise.
        unsafe {
            let vectors = values.map(|row| S::load(row.as_ptr()));
            S::store(at_once.as_mut_ptr(), S::sum_each(&vectors));
            for (sum, vector) in each.iter_mut().zip(vectors) {
                *sum = S::sum(vector);
            }
        }
        (at_once, each)
    }

    /// What a load of the first `count` values gives, and what a store of as many lanes leaves.
    #[inline(always)]
    unsafe fn parts<S: Simd>(values: &[f32; 16], count: usize) -> ([f32; 16], [f32; 16]) {
        let (mut loaded, mut stored) = ([-1f32; 16], [-1f32; 16]);
        let exact = values[..count].to_vec();
        // SAFETY: no more than `count` of 16 values are touched, or all 16; the instruction set is the
        // caller's promise.
        unsafe {
            S::store(loaded.as_mut_ptr(), S::load_part(exact.as_ptr(), count));
            S::store_part(stored.as_mut_ptr(), S::load(values.as_ptr()), count);
        }
        (loaded, stored)
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn parts_by_avx512(values: &[f32; 16], count: usize) -> ([f32; 16], [f32; 16]) {
        // SAFETY: this code is compiled for the instruction set.
        unsafe { parts::<Avx512>(values, count) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn parts_by_avx2(values: &[f32; 16], count: usize) -> ([f32; 16], [f32; 16]) {
        // SAFETY: this code is compiled for the instruction set.
        unsafe { parts::<Pair<Avx2>>(values, count) }
    }

    #[test]
    fn a_part_is_loaded_beside_zeros_and_stored_alone() {
        let values: [f32; 16] = std::array::from_fn(|lane| lane as f32 + 1.5);
        for count in 0..=16 {
            let (mut loaded, mut stored) = ([0f32; 16], [-1f32; 16]);
            loaded[..count].copy_from_slice(&values[..count]);
            stored[..count].copy_from_slice(&values[..count]);
            let wanted = (loaded, stored);
            // SAFETY: every machine has the portable vectors.
            let portable = unsafe { parts::<Pair<Portable>>(&values, count) };
            assert_eq!(portable, wanted);
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the processor has the instruction set.
                assert_eq!(unsafe { parts_by_avx2(&values, count) }, wanted);
            }
            if is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
                // SAFETY: the processor has the instruction set.
                assert_eq!(unsafe { parts_by_avx512(&values, count) }, wanted);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn by_avx512(values: &[[f32; 16]; 16]) -> ([f32; 16], [f32; 16]) {
        // SAFETY: this code is compiled for the instruction set.
        unsafe { both::<Avx512>(values) }
    }

    #[target_feature(enable = "avx2,fma")]
    fn by_avx2(values: &[[f32; 16]; 16]) -> ([f32; 16], [f32; 16]) {
        // SAFETY: this code is compiled for the instruction set.
        unsafe { both::<Pair<Avx2>>(values) }
    }

    #[test]
    fn sums_of_sixteen_vectors_at_once_are_those_of_each() {
        let mut values = [[0f32; 16]; 16];
        for (index, value) in values.iter_mut().flatten().enumerate() {
            *value = (index as f32 * 0.37).sin() * 10f32.powi(index as i32 % 7);
        }
        // SAFETY: every machine has the portable vectors.
        let (portable, wanted) = unsafe { both::<Pair<Portable>>(&values) };
        assert_eq!(portable, wanted);
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the instruction set.
            assert_eq!(unsafe { by_avx2(&values) }, (wanted, wanted));
        }
        if is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the processor has the instruction set.
            assert_eq!(unsafe { by_avx512(&values) }, (wanted, wanted));
        }
    }
}
