//! e^x of many values with the bits of `libm::expf`.
//!
//! x = k ln 2 + r with |r| ≤ ln 2 / 2, and e^r = 1 + r c / (2 − c) for a polynomial c in r (FreeBSD's
//! `e_expf.c`, which libm translates): the same operations in the same order, but without branches, so
//! that a compiler makes vectors of them.

/// Values that are computed at a time.
const CHUNK: usize = 16;

/// Replaces each value by e to its power, bit for bit as `libm::expf` does.
pub fn exp_in_place(values: &mut [f32]) {
    let (chunks, rest) = values.as_chunks_mut::<CHUNK>();
    for chunk in chunks {
        let before = *chunk;
        for value in chunk.iter_mut() {
            *value = within(*value);
        }
        for (value, before) in chunk.iter_mut().zip(before) {
            if !(-LIMIT..=LIMIT).contains(&before) {
                *value = libm::expf(before);
            }
        }
    }
    for value in rest {
        *value = libm::expf(*value);
    }
}

/// Up to here 2^k is a normal number, and the result too.
const LIMIT: f32 = 87.0;

/// e^x for |x| up to [`LIMIT`], beyond it any value.
#[inline(always)]
fn within(x: f32) -> f32 {
    // The constants of e_expf.c.
    let ln2_high = f32::from_bits(0x3f31_7200);
    let ln2_low = f32::from_bits(0x35bf_be8e);
    let inverse_ln2 = f32::from_bits(0x3fb8_aa3b);
    let magnitude = x.abs().min(LIMIT);
    let clamped = magnitude.copysign(x);
    let nearest = inverse_ln2 * clamped + 0.5f32.copysign(x);
    // SAFETY: the value is finite and below 2^8.
    let nearest: i32 = unsafe { nearest.to_int_unchecked() };
    let one = if x < 0.0 { -1 } else { 1 };
    // Up to half of ln 2, and up to one and a half.
    let k = if magnitude > f32::from_bits(0x3f85_1592) {
        nearest
    } else {
        one
    };
    let k = if magnitude > f32::from_bits(0x3eb1_7218) {
        k
    } else {
        0
    };
    let times = k as f32;
    let high = clamped - times * ln2_high;
    let low = times * ln2_low;
    let r = high - low;
    let square = r * r;
    let c = r - square * (1.666_662_5e-1 + square * -2.766_733_3e-3);
    let y = 1.0 + (r * c / (2.0 - c) - low + high);
    let y = if magnitude > f32::from_bits(0x3900_0000) {
        y
    } else {
        1.0 + clamped
    };
    y * f32::from_bits(((k + 127) << 23) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bits_are_those_of_libm() {
        // Every 509th float, and those around every bound.
        let bounds = [
            0x3900_0000,
            0x3eb1_7218,
            0x3f85_1592,
            0x42ae_0000,
            0x42b1_7218,
            0x42cf_f1b5,
        ];
        let around = bounds.iter().flat_map(|bound| bound - 40..bound + 40u32);
        let around = around.flat_map(|bits| [bits, bits | 1 << 31]);
        let bits: Vec<u32> = (0..u32::MAX).step_by(509).chain(around).collect();
        for bits in bits.chunks(1 << 16) {
            let mut values: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
            exp_in_place(&mut values);
            for (&bits, value) in bits.iter().zip(values) {
                let wanted = libm::expf(f32::from_bits(bits));
                assert_eq!(value.to_bits(), wanted.to_bits(), "{bits:#x}");
            }
        }
    }
}
