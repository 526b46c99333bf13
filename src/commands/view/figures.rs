//! Figures in small: distinct pictures, packed in chunks that the page opens when it needs them.
//!
//! A chunk is a row of pictures: width and height as little-endian u16, a byte for the form, then
//! - 0: number of colours (u16), their RGB bytes, a byte a pixel;
//! - 1: the same over the chunk's last picture of form 0, a byte a pixel: 0 leaves the pixel as it
//!   is, k is colour k − 1;
//! - 2: RGB bytes;
//! - 3: length (u32) and bytes of a JPEG file, of a picture that is too large to be kept whole.

use std::collections::HashMap;

use anyhow::Context;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use image::{Rgb, RgbImage};

/// Pictures with more pixels are shown scaled down.
const SMALL: u32 = 128 * 128;

/// The longer side of a picture that was scaled down, pixels.
const LONGEST: u32 = 512;

/// Bytes of scaled pictures at most: the page stays one file that opens.
const BUDGET: usize = 9 << 20;

/// Pictures of a chunk, after which the next question begins another.
const CHUNK: usize = 400;

/// All pictures of a page.
#[derive(Default)]
pub struct Figures {
    /// Finished chunks.
    chunks: Vec<Vec<u8>>,
    /// The number of the first picture of each chunk, the open one included.
    starts: Vec<usize>,
    open: Vec<u8>,
    count: usize,
    known: HashMap<[u8; 32], usize>,
    /// The last picture of form 0 in the open chunk.
    base: Option<(usize, RgbImage)>,
    scaled_bytes: usize,
    /// Pictures that were left out because the budget was spent.
    pub left_out: usize,
}

impl Figures {
    /// The number of a picture; `None` where there was no room for it.
    pub fn add(&mut self, image: &RgbImage) -> anyhow::Result<Option<usize>> {
        self.add_edited(image, None)
    }

    /// The same for what a tool made of the picture `of`.
    pub fn add_edited(
        &mut self,
        image: &RgbImage,
        of: Option<usize>,
    ) -> anyhow::Result<Option<usize>> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&image.width().to_le_bytes());
        hasher.update(image.as_raw());
        let hash = *hasher.finalize().as_bytes();
        if let Some(known) = self.known.get(&hash) {
            return Ok(Some(*known));
        }
        let number = self.count;
        let bytes = match image.width() * image.height() <= SMALL {
            true => self.small(image, number, of),
            false => {
                let bytes = scaled(image)?;
                if self.scaled_bytes + bytes.len() > BUDGET {
                    self.left_out += 1;
                    return Ok(None);
                }
                self.scaled_bytes += bytes.len();
                bytes
            }
        };
        if self.starts.len() == self.chunks.len() {
            self.starts.push(number);
        }
        self.open.extend(bytes);
        self.known.insert(hash, number);
        self.count += 1;
        Ok(Some(number))
    }

    /// Between two questions: a chunk that is full ends here, so that a figure and what tools made of
    /// it stand together.
    pub fn end_of_question(&mut self) {
        let first = self.starts.get(self.chunks.len()).copied();
        if first.is_some_and(|first| self.count - first >= CHUNK) {
            self.chunks.push(std::mem::take(&mut self.open));
            self.base = None;
        }
    }

    /// The chunks, and the number of the first picture of each.
    pub fn finish(mut self) -> (Vec<Vec<u8>>, Vec<usize>) {
        if !self.open.is_empty() {
            self.chunks.push(self.open);
        }
        (self.chunks, self.starts)
    }

    fn small(&mut self, image: &RgbImage, number: usize, of: Option<usize>) -> Vec<u8> {
        let head = |form: u8| {
            let mut bytes = Vec::new();
            bytes.extend((image.width() as u16).to_le_bytes());
            bytes.extend((image.height() as u16).to_le_bytes());
            bytes.push(form);
            bytes
        };
        if let Some((base, below)) = &self.base
            && of == Some(*base)
            && below.dimensions() == image.dimensions()
        {
            let pixels = image.pixels().zip(below.pixels());
            let changed = pixels.map(|(new, old)| (new != old).then_some(*new));
            if let Some(indexed) = indexed(changed, 255) {
                return [head(1), indexed].concat();
            }
        }
        match indexed(image.pixels().map(|pixel| Some(*pixel)), 256) {
            Some(bytes) => {
                self.base = Some((number, image.clone()));
                [head(0), bytes].concat()
            }
            None => [head(2), image.as_raw().clone()].concat(),
        }
    }
}

/// Colours and a byte a pixel; with `None` among the pixels, bytes count from 1 and 0 stands for
/// it. Nothing where there are more than `most` colours.
fn indexed(pixels: impl Iterator<Item = Option<Rgb<u8>>>, most: usize) -> Option<Vec<u8>> {
    let first = u8::from(most < 256);
    let mut colours: Vec<Rgb<u8>> = Vec::new();
    let mut bytes = Vec::new();
    for pixel in pixels {
        let Some(colour) = pixel else {
            bytes.push(0);
            continue;
        };
        let place = match colours.iter().position(|known| *known == colour) {
            Some(place) => place,
            None if colours.len() == most => return None,
            None => {
                colours.push(colour);
                colours.len() - 1
            }
        };
        bytes.push(place as u8 + first);
    }
    let mut found = (colours.len() as u16).to_le_bytes().to_vec();
    found.extend(colours.iter().flat_map(|colour| colour.0));
    found.extend(bytes);
    Some(found)
}

fn scaled(image: &RgbImage) -> anyhow::Result<Vec<u8>> {
    let longer = image.width().max(image.height());
    let side = |side: u32| (side * LONGEST.min(longer) / longer).max(1);
    let small = resize(
        image,
        side(image.width()),
        side(image.height()),
        FilterType::Triangle,
    );
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, 75)
        .encode_image(&small)
        .context("cannot encode a figure")?;
    let mut bytes = (small.width() as u16).to_le_bytes().to_vec();
    bytes.extend((small.height() as u16).to_le_bytes());
    bytes.push(3);
    bytes.extend((file.len() as u32).to_le_bytes());
    bytes.extend(file);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_kept_once_and_an_edited_one_as_what_changed() {
        let mut figures = Figures::default();
        let figure = RgbImage::from_fn(64, 48, |x, y| Rgb([x as u8, 0, (y / 9) as u8]));
        let mut edited = figure.clone();
        edited.put_pixel(3, 4, Rgb([255, 255, 255]));
        assert_eq!(figures.add(&figure).unwrap(), Some(0));
        // 320 colours do not fit a byte.
        assert_eq!(figures.open[4], 2);
        let plain = RgbImage::from_pixel(64, 48, Rgb([1, 2, 3]));
        edited.clone_from(&plain);
        edited.put_pixel(3, 4, Rgb([255, 255, 255]));
        let base = figures.add(&plain).unwrap();
        let before = figures.open.len();
        assert_eq!(figures.add_edited(&edited, base).unwrap(), Some(2));
        let written = &figures.open[before..];
        assert_eq!(written[..10], [64, 0, 48, 0, 1, 1, 0, 255, 255, 255]);
        assert_eq!(written[10..].iter().filter(|byte| **byte == 1).count(), 1);
        assert_eq!(figures.add(&plain).unwrap(), base);
        let (chunks, starts) = figures.finish();
        assert_eq!((chunks.len(), starts), (1, vec![0]));
    }

    #[test]
    fn a_large_picture_is_scaled_down_within_the_budget() {
        let mut figures = Figures::default();
        let large = RgbImage::from_fn(1000, 400, |x, y| Rgb([x as u8, y as u8, 0]));
        assert_eq!(figures.add(&large).unwrap(), Some(0));
        assert_eq!(figures.open[..5], [0, 2, 204, 0, 3]);
        figures.scaled_bytes = BUDGET;
        let other = RgbImage::new(1000, 400);
        assert_eq!(figures.add(&other).unwrap(), None);
        assert_eq!(figures.left_out, 1);
    }
}
