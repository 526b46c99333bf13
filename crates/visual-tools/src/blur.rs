//! A figure without its details: where integrated gradients may start in place of a black image.
//!
//! Each channel is convolved with a Gaussian of standard deviation σ = `relative_sigma` · the longer
//! side, in pixels, cut off beyond about 3.3 σ, the border repeated. Source: Sturmfels, Lundberg and
//! Lee 2020, “Visualizing the Impact of Feature Attribution Baselines” (Distill,
//! doi 10.23915/distill.00022), who blur by a fixed σ; relative to the size, figures of all sizes
//! lose the same details.

use image::{RgbImage, imageops};

/// The σ that takes labels, ticks and the edges of bars away and leaves where something is: 40
/// pixels in a chart of 800 × 600.
pub const BLUR: f64 = 0.05;

/// `image` blurred by a Gaussian whose σ is `relative_sigma` of the longer side. A σ below a
/// hundredth of a pixel leaves it as it is.
pub fn blurred(image: &RgbImage, relative_sigma: f64) -> RgbImage {
    let sigma = (relative_sigma * f64::from(image.width().max(image.height()))) as f32;
    if sigma.is_finite() && sigma >= 0.01 {
        imageops::blur(image, sigma)
    } else {
        image.clone()
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    /// White with one black column in the middle.
    fn line(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, _| {
            Rgb([if x == width / 2 { 0 } else { 255 }; 3])
        })
    }

    #[test]
    fn one_colour_stays_and_a_line_spreads_as_the_gaussian_says() {
        let plain = RgbImage::from_pixel(30, 20, Rgb([10, 200, 70]));
        for pixel in blurred(&plain, BLUR).pixels() {
            for (found, expected) in pixel.0.iter().zip([10u8, 200, 70]) {
                assert!(found.abs_diff(expected) <= 1, "{pixel:?}");
            }
        }

        let (sigma, width) = (5.0f32, 101);
        let image = blurred(&line(width, 15), f64::from(sigma) / f64::from(width));
        assert_eq!(image.dimensions(), (width, 15));
        for x in 0..width {
            let distance = x as f32 - (width / 2) as f32;
            let density = (-0.5 * (distance / sigma).powi(2)).exp()
                / (sigma * (2.0 * std::f32::consts::PI).sqrt());
            let expected = 255.0 * (1.0 - density);
            let found = f32::from(image.get_pixel(x, 7).0[0]);
            assert!(
                (found - expected).abs() <= 1.5,
                "{x}: {found} for {expected}"
            );
        }
    }

    #[test]
    fn the_radius_grows_with_the_figure() {
        let depth = |size: u32| {
            let image = blurred(&line(size, size), BLUR);
            255 - image.get_pixel(size / 2, size / 2).0[0]
        };
        // Twice the size, twice the σ, half the depth of a line of one pixel.
        assert!((i32::from(depth(100)) - 2 * i32::from(depth(200))).abs() <= 2);
    }

    #[test]
    fn no_radius_and_no_pixels_change_nothing() {
        let image = line(9, 3);
        for sigma in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(blurred(&image, sigma), image);
        }
        let empty = RgbImage::new(0, 0);
        assert_eq!(blurred(&empty, BLUR), empty);
    }
}
