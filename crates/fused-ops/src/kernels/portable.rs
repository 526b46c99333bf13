//! [`Simd`] without vector instructions of a certain processor.

use super::simd::Simd;

/// 8 lanes as an array, which every compiler turns into the target's own vectors.
pub(crate) struct Portable;

/// a · b + c, rounded once.
#[cfg(any(target_arch = "aarch64", target_feature = "fma"))]
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// a · b + c, rounded once: without the instruction `mul_add` is a call for each lane, and this is
/// plain arithmetic for several lanes at a time.
///
/// The product of two f32 is exact in f64. The sum is rounded to odd (the last bit is set where
/// bits were lost), after which rounding to f32 gives what one rounding would have given (Boldo
/// and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008). What a rounded sum lost
/// is known exactly (Knuth's TwoSum).
#[cfg(not(any(target_arch = "aarch64", target_feature = "fma")))]
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    let product = f64::from(a) * f64::from(b);
    let c = f64::from(c);
    let sum = product + c;
    let added = sum - product;
    let lost = (product - (sum - added)) + (c - added);
    let bits = sum.to_bits();
    // NaN, of infinite sums, is neither: nothing was lost.
    let (above, below) = (lost > 0.0, lost < 0.0);
    let even = bits & 1 == 0;
    let outward = (above & (sum > 0.0)) | (below & (sum < 0.0));
    let step = if outward { 1u64 } else { u64::MAX };
    let step = if even & (above | below) { step } else { 0 };
    f64::from_bits(bits.wrapping_add(step)) as f32
}

/// Functions that treat every lane alike.
macro_rules! lanewise {
    ($(fn $name:ident($($arg:ident),*) = $lane:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: Self::V),*) -> Self::V {
            let mut out = [0f32; 8];
            for lane in 0..8 {
                $(let $arg = $arg[lane];)*
                out[lane] = $lane;
            }
            out
        }
    )*};
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
        // SAFETY: the caller has 8 values to read.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, value: Self::V) {
        // SAFETY: the caller has room for 8 values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(value) }
    }
    #[inline(always)]
    unsafe fn load_part(from: *const f32, count: usize) -> Self::V {
        let mut value = [0f32; 8];
        for (lane, value) in value.iter_mut().enumerate().take(count) {
            // SAFETY: the caller has `count` values to read.
            *value = unsafe { *from.add(lane) };
        }
        value
    }
    #[inline(always)]
    unsafe fn store_part(to: *mut f32, value: Self::V, count: usize) {
        for (lane, value) in value.into_iter().enumerate().take(count) {
            // SAFETY: the caller has room for `count` values.
            unsafe { *to.add(lane) = value };
        }
    }
    lanewise! {
        fn add(a, b) = a + b;
        fn sub(a, b) = a - b;
        fn mul(a, b) = a * b;
        fn div(a, b) = a / b;
        fn fma(a, b, c) = multiply_add(a, b, c);
        fn max(a, b) = if a > b { a } else { b };
        fn min(a, b) = if a < b { a } else { b };
        fn keep_from(x, bound, value) = if x < bound { 0.0 } else { value };
        fn scale_by_power(value, n) = value * f32::from_bits((((n as i32) + 127) as u32) << 23);
    }
    #[inline(always)]
    unsafe fn sum(mut value: Self::V) -> f32 {
        for width in [4, 2, 1] {
            for lane in 0..width {
                value[lane] += value[lane + width];
            }
        }
        value[0]
    }
    #[inline(always)]
    unsafe fn largest(mut value: Self::V) -> f32 {
        for width in [4, 2, 1] {
            for lane in 0..width {
                let (a, b) = (value[lane], value[lane + width]);
                value[lane] = if a > b { a } else { b };
            }
        }
        value[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(a: f32, b: f32, c: f32) {
        let (found, expected) = (multiply_add(a, b, c), a.mul_add(b, c));
        let same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(same, "{a:e} * {b:e} + {c:e}: {found:e}, not {expected:e}");
    }

    #[test]
    fn special_values_multiply_and_add_as_the_standard_says() {
        let special = [
            0.0,
            1.0,
            1.5,
            f32::EPSILON,
            f32::MIN_POSITIVE,
            f32::from_bits(1),
            f32::from_bits(0x007f_ffff),
            f32::MAX,
            f32::INFINITY,
            f32::NAN,
            16_777_217.0,
            4097.0,
        ];
        let signed: Vec<f32> = special.iter().flat_map(|&x| [x, -x]).collect();
        for &a in &signed {
            for &b in &signed {
                for &c in &signed {
                    check(a, b, c);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn any_bits_multiply_and_add_with_one_rounding(a: u32, b: u32, c: u32) {
            check(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        }

        /// Sums of like size, sums whose halfway cases the small term decides, and cancellation.
        #[test]
        fn near_values_multiply_and_add_with_one_rounding(
            a in 0x3f80_0000u32..0x4000_0000, b in 0x3f80_0000u32..0x4000_0000, c: u32,
            power in -60i32..60, ulps in -3i32..3,
        ) {
            let (a, b) = (f32::from_bits(a), f32::from_bits(b));
            let scale = 2f32.powi(power);
            check(a, b, f32::from_bits(c & 0x807f_ffff | 0x3f80_0000) * scale);
            check(a, b, -f32::from_bits(((a * b).to_bits() as i32 + ulps) as u32));
            // Results below the normal numbers.
            check(a * 2f32.powi(-70), b * 2f32.powi(-70), f32::from_bits(c & 0x8000_ffff));
            // A product of few bits, so that ties are common.
            let (a, b) = (f32::from_bits(a.to_bits() & 0xfff0_0000), f32::from_bits(b.to_bits() & 0xfff0_0000));
            check(a * 2f32.powi(-24), b, f32::from_bits(c & 0x807f_ffff | 0x3f80_0000));
        }
    }
}
