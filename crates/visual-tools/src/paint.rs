//! Rectangles on RGB pixels, as Pillow paints them.
//!
//! Source: `ImagingDrawRectangle` and `ImagingAlphaComposite` of Pillow 12 (learned, not copied).
//! * A filled rectangle holds both of its corners.
//! * An outline of width `w` is, for `i` in `0..w`, the rows `y1 + i` and `y2 − i` from `x1` to
//!   `x2`, and the columns `x2 − i` and `x1 + i` from `y1 + w` towards `y2 − w + 1`, the end left
//!   out. A rectangle lower than `2w` is therefore painted past its own edges, and so is it here.
//! * Compositing colour `s` of opacity `a` over an opaque `d` gives
//!   `(128·(s·a + d·(255 − a)) + 128·128) / 255 / 128`, with Pillow's shift for the division.

use image::{Rgb, RgbImage};

/// An inclusive rectangle in pixels with `x1 <= x2` and `y1 <= y2`; may stick out of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rectangle {
    pub x1: i64,
    pub y1: i64,
    pub x2: i64,
    pub y2: i64,
}

/// The pixels of the inclusive span `from..=to` that lie in `0..size`.
fn visible(from: i64, to: i64, size: u32) -> std::ops::Range<u32> {
    let clamp = |v: i64| u32::try_from(v.clamp(0, i64::from(size))).unwrap_or(size);
    clamp(from)..clamp(to.saturating_add(1))
}

fn paint_rows(
    image: &mut RgbImage,
    area: &Rectangle,
    paint: &mut impl FnMut(u32, u32, &mut Rgb<u8>),
) {
    for y in visible(area.y1, area.y2, image.height()) {
        for x in visible(area.x1, area.x2, image.width()) {
            paint(x, y, image.get_pixel_mut(x, y));
        }
    }
}

/// Fills `area` with `colour`.
pub(crate) fn fill(image: &mut RgbImage, area: &Rectangle, colour: [u8; 3]) {
    paint_rows(image, area, &mut |_, _, pixel| *pixel = Rgb(colour));
}

/// Outlines `area`, `width` pixels thick, inwards. A width of 0 paints as one of 1.
pub(crate) fn outline(image: &mut RgbImage, area: &Rectangle, colour: [u8; 3], width: u32) {
    let width = i64::from(width.max(1));
    // The vertical strokes run from `y1 + width` (in) to `y2 - width + 1` (out), either way round.
    let (start, end) = (area.y1 + width, area.y2 - width + 1);
    let (top, bottom) = if start <= end {
        (start, end - 1)
    } else {
        (end + 1, start)
    };
    for i in 0..width {
        for y in [area.y1 + i, area.y2 - i] {
            fill(
                image,
                &Rectangle {
                    y1: y,
                    y2: y,
                    ..*area
                },
                colour,
            );
        }
        for x in [area.x1 + i, area.x2 - i] {
            let stroke = Rectangle {
                x1: x,
                x2: x,
                y1: top,
                y2: bottom,
            };
            fill(image, &stroke, colour);
        }
    }
}

/// Lays `colour` (red, green, blue, opacity) once over the union of `areas`: ReFocus fills an
/// overlay and composites it, so regions that overlap are not tinted twice.
pub(crate) fn highlight(image: &mut RgbImage, areas: &[Rectangle], colour: [u8; 4]) {
    let [red, green, blue, opacity] = colour;
    if opacity == 0 {
        return;
    }
    let width = image.width() as usize;
    let mut tinted = vec![false; width * image.height() as usize];
    for area in areas {
        paint_rows(image, area, &mut |x, y, pixel| {
            let seen = &mut tinted[y as usize * width + x as usize];
            if !*seen {
                *seen = true;
                let Rgb([r, g, b]) = *pixel;
                *pixel = Rgb([
                    over(red, r, opacity),
                    over(green, g, opacity),
                    over(blue, b, opacity),
                ]);
            }
        });
    }
}

/// One channel of `source` at `opacity` over an opaque `below`.
fn over(source: u8, below: u8, opacity: u8) -> u8 {
    let (source, below, opacity) = (u32::from(source), u32::from(below), u32::from(opacity));
    let sum = (source * opacity + below * (255 - opacity)) * 128 + 128 * 128;
    // Pillow's division by 255, then by its 7 bits of extra precision. At most 255.
    ((((sum >> 8) + sum) >> 8) >> 7).min(255) as u8
}
