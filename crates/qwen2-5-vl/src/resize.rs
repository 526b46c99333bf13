//! Target sizes and bicubic resampling of 8-bit RGB images, bit by bit as the reference.
//!
//! Both reference paths are separable convolutions with Keys' cubic kernel (a = -0.5), stretched
//! by the scale when shrinking (antialias), with an 8-bit intermediate image between the passes:
//!
//! ```text
//! w_i(j) = k((j + 0.5 - c_i) / s) / sum_j k(...),  c_i = (i + 0.5) * in / out,  s = max(in / out, 1)
//! out_i  = clamp((2^(b-1) + sum_j round(w_i(j) * 2^b) * in_j) >> b, 0, 255)
//! ```
//!
//! Sources: torch `aten/src/ATen/native/cpu/UpSampleKernelAVXAntialias.h` (16-bit weights, the
//! precision `b` is the largest that holds the largest weight; horizontal pass first) and Pillow
//! `src/libImaging/Resample.c` (b = 22; which pass comes first depends on the sizes since Pillow
//! 13). `smart_resize` is that of transformers `image_processing_qwen2_vl.py`.

use rayon::prelude::*;

use crate::processor_error::ProcessorError;

/// The largest side of an image that is accepted, in pixels. The reference has no such limit; it
/// bounds memory for files whose header claims absurd sizes.
pub const MAX_SIDE: usize = 65_535;

/// The largest ratio of the longer to the shorter side, as in transformers.
pub const MAX_ASPECT_RATIO: f64 = 200.0;

/// Which library's resampling is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// torchvision on tensors, the default of transformers: 16-bit weights, horizontal first.
    #[default]
    Torchvision,
    /// Pillow 13: 22-bit weights; vertical first iff the height shrinks by more than twice as many
    /// pixels as the width.
    Pil,
    /// Pillow up to 12: 22-bit weights, horizontal first.
    Pillow12,
}

/// Height and width that an image is resized to: multiples of `factor` whose product lies within
/// `min_pixels..=max_pixels`, with the aspect ratio kept as well as possible. Halves are rounded
/// to even, as Python's `round` does.
///
/// # Errors
/// When a side is 0 or above [`MAX_SIDE`], or the aspect ratio is above [`MAX_ASPECT_RATIO`].
pub fn smart_resize(
    height: usize,
    width: usize,
    factor: usize,
    min_pixels: usize,
    max_pixels: usize,
) -> Result<(usize, usize), ProcessorError> {
    if !(1..=MAX_SIDE).contains(&height) || !(1..=MAX_SIDE).contains(&width) {
        return Err(ProcessorError::ImageSides {
            width,
            height,
            max: MAX_SIDE,
        });
    }
    let (h, w, f) = (height as f64, width as f64, factor as f64);
    let ratio = h.max(w) / h.min(w);
    if ratio > MAX_ASPECT_RATIO {
        return Err(ProcessorError::AspectRatio {
            width,
            height,
            ratio,
            max: MAX_ASPECT_RATIO,
        });
    }
    let (min, max) = (min_pixels as f64, max_pixels as f64);
    let (mut out_h, mut out_w) = ((h / f).round_ties_even() * f, (w / f).round_ties_even() * f);
    if out_h * out_w > max {
        let beta = ((h * w) / max).sqrt();
        out_h = f.max((h / beta / f).floor() * f);
        out_w = f.max((w / beta / f).floor() * f);
    } else if out_h * out_w < min {
        let beta = (min / (h * w)).sqrt();
        out_h = (h * beta / f).ceil() * f;
        out_w = (w * beta / f).ceil() * f;
    }
    Ok((out_h as usize, out_w as usize))
}

/// Resizes an interleaved 8-bit RGB image `(in_h, in_w, 3)` to `(out_h, out_w, 3)`.
///
/// `pixels` must hold `in_h * in_w * 3` bytes and no side may be 0.
pub fn resize_bicubic(
    pixels: &[u8],
    (in_h, in_w): (usize, usize),
    (out_h, out_w): (usize, usize),
    backend: Backend,
) -> Vec<u8> {
    let resampled = Resampled::new(pixels, (in_h, in_w), (out_h, out_w), backend);
    let mut out = vec![0; out_h * out_w * 3];
    out.par_chunks_exact_mut(out_w * 3)
        .enumerate()
        .for_each_init(Vec::new, |scratch, (y, row)| resampled.row(y, row, scratch));
    out
}

/// An image after the first pass of a resize; the second pass is computed row by row when asked
/// for, so that the resized image need not exist as a whole.
pub(crate) struct Resampled<'a> {
    first: std::borrow::Cow<'a, [u8]>,
    first_width: usize,
    second: Second,
}

enum Second {
    Vertical(Option<Taps>),
    Horizontal(Taps),
}

impl<'a> Resampled<'a> {
    pub(crate) fn new(
        pixels: &'a [u8],
        (in_h, in_w): (usize, usize),
        (out_h, out_w): (usize, usize),
        backend: Backend,
    ) -> Self {
        let horizontal = (in_w != out_w).then(|| Taps::new(in_w, out_w, backend));
        let vertical = (in_h != out_h).then(|| Taps::new(in_h, out_h, backend));
        let vertical_first = backend == Backend::Pil && {
            let (dh, dw) = (in_h as i64 - out_h as i64, in_w as i64 - out_w as i64);
            dh > 0 && dh > 2 * dw
        };
        match (horizontal, vertical) {
            (Some(horizontal), Some(vertical)) if vertical_first => {
                let mut first = vec![0; out_h * in_w * 3];
                first
                    .par_chunks_exact_mut(in_w * 3)
                    .enumerate()
                    .for_each(|(y, row)| vertical.column_pass(pixels, in_w * 3, y, row));
                Self {
                    first: first.into(),
                    first_width: in_w,
                    second: Second::Horizontal(horizontal),
                }
            }
            (Some(horizontal), vertical) => {
                let mut first = vec![0; in_h * out_w * 3];
                first
                    .par_chunks_exact_mut(out_w * 3)
                    .zip(pixels.par_chunks_exact(in_w * 3))
                    .for_each_init(Vec::new, |wide, (out, row)| {
                        horizontal.row_pass(row, wide, out);
                    });
                Self {
                    first: first.into(),
                    first_width: out_w,
                    second: Second::Vertical(vertical),
                }
            }
            (None, vertical) => Self {
                first: pixels.into(),
                first_width: out_w,
                second: Second::Vertical(vertical),
            },
        }
    }

    /// Writes row `y` of the resized image, `(out_w, 3)` interleaved, into `out`; `scratch` is working space.
    pub(crate) fn row(&self, y: usize, out: &mut [u8], scratch: &mut Vec<[i32; 4]>) {
        let stride = self.first_width * 3;
        match &self.second {
            Second::Vertical(None) => out.copy_from_slice(&self.first[y * stride..][..stride]),
            Second::Vertical(Some(taps)) => taps.column_pass(&self.first, stride, y, out),
            Second::Horizontal(taps) => {
                taps.row_pass(&self.first[y * stride..][..stride], scratch, out);
            }
        }
    }
}

/// The fixed-point weights of one axis.
struct Taps {
    /// First input index and offset into `weights` for each output index.
    starts: Vec<(usize, usize)>,
    /// Weights of all output indices, one after the other.
    weights: Vec<i32>,
    bits: u32,
}

impl Taps {
    fn new(input: usize, output: usize, backend: Backend) -> Self {
        let scale = input as f64 / output as f64;
        let stretch = scale.max(1.0);
        let support = 2.0 * stretch;
        let mut starts = Vec::with_capacity(output + 1);
        let mut exact = Vec::new();
        for i in 0..output {
            let center = scale * (i as f64 + 0.5);
            // Truncation towards zero, as the C casts of both references.
            let begin = ((center - support + 0.5) as i64).max(0) as usize;
            let end = ((center + support + 0.5) as usize).min(input);
            let first = exact.len();
            starts.push((begin, first));
            exact.extend((begin..end).map(|j| cubic((j as f64 - center + 0.5) / stretch)));
            let total: f64 = exact[first..].iter().sum();
            if total != 0.0 {
                exact[first..].iter_mut().for_each(|w| *w /= total);
            }
        }
        starts.push((0, exact.len()));
        let bits = match backend {
            Backend::Pil | Backend::Pillow12 => 22,
            Backend::Torchvision => {
                let largest = exact.iter().copied().fold(0.0, f64::max);
                (0..22)
                    .find(|bits| (0.5 + largest * f64::from(1 << (bits + 1))) as i64 >= 1 << 15)
                    .unwrap_or(22)
            }
        };
        let one = f64::from(1 << bits);
        let weights = exact
            .into_iter()
            .map(|w| (w * one + 0.5f64.copysign(w)) as i32)
            .collect();
        Self {
            starts,
            weights,
            bits,
        }
    }

    /// First input index and weights of output index `i`.
    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (begin, first) = self.starts[i];
        (begin, &self.weights[first..self.starts[i + 1].1])
    }

    /// Horizontal pass over one RGB row. `wide` is scratch space.
    fn row_pass(&self, row: &[u8], wide: &mut Vec<[i32; 4]>, out: &mut [u8]) {
        wide.clear();
        wide.extend(
            row.chunks_exact(3)
                .map(|p| [i32::from(p[0]), i32::from(p[1]), i32::from(p[2]), 0]),
        );
        for (i, pixel) in out.chunks_exact_mut(3).enumerate() {
            let (begin, weights) = self.of(i);
            let mut sums = [1 << (self.bits - 1); 4];
            for (&weight, values) in weights.iter().zip(&wide[begin..]) {
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += weight * value;
                }
            }
            for (byte, sum) in pixel.iter_mut().zip(sums) {
                *byte = (sum >> self.bits).clamp(0, 255) as u8;
            }
        }
    }

    /// Vertical pass: row `y` of the output from an image whose rows are `stride` bytes long.
    fn column_pass(&self, image: &[u8], stride: usize, y: usize, out: &mut [u8]) {
        const LANES: usize = 64;
        let (begin, weights) = self.of(y);
        let rows = &image[begin * stride..];
        let mut at = 0;
        while at < stride {
            let lanes = LANES.min(stride - at);
            let mut sums = [1 << (self.bits - 1); LANES];
            for (&weight, row) in weights.iter().zip(rows.chunks_exact(stride)) {
                // The full-width case stands apart because a fixed length vectorises.
                if let Ok(values) = <&[u8; LANES]>::try_from(&row[at..at + lanes]) {
                    for (sum, &value) in sums.iter_mut().zip(values) {
                        *sum += weight * i32::from(value);
                    }
                } else {
                    for (sum, &value) in sums.iter_mut().zip(&row[at..at + lanes]) {
                        *sum += weight * i32::from(value);
                    }
                }
            }
            for (byte, sum) in out[at..at + lanes].iter_mut().zip(sums) {
                *byte = (sum >> self.bits).clamp(0, 255) as u8;
            }
            at += lanes;
        }
    }
}

/// Keys' cubic convolution kernel with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}
