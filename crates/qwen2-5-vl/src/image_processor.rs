//! Images to the patch rows that the vision tower reads.
//!
//! resize (`smart_resize`, bicubic) -> `(x * rescale - mean) / std` -> patches: rows in the order
//! (grid row / m, grid column / m, row in merge block, column in merge block), columns in the order
//! (channel, time, y, x), the one frame of a still image repeated over the temporal patch.
//! Source: transformers `Qwen2VLImageProcessor` (torchvision path by default, PIL path as option).
//!
//! The input is 8-bit, so rescaling and normalising is a table of 256 values per channel, and the
//! second resize pass, normalisation and patch order are done in one sweep over the output.

use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;
use rayon::prelude::*;
use serde::Deserialize;

use crate::positions::Grid;
use crate::processor_error::ProcessorError;
use crate::resize::{Backend, Resampled, smart_resize};

/// Bytes that the patches of one picture may take: 44 million pixels of two frames, three times what the
/// released checkpoints allow.
const LARGEST_PATCHES: usize = 1 << 30;

/// Settings of the image processor, as in `preprocessor_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSettings {
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Side of the block of patches that becomes one token.
    pub merge_size: usize,
    /// Frames of a patch; a still image is repeated.
    pub temporal_patch_size: usize,
    /// Smallest area after resizing, in pixels.
    pub min_pixels: usize,
    /// Largest area after resizing, in pixels.
    pub max_pixels: usize,
    /// Mean of each channel, of values in 0..=1.
    pub mean: [f64; 3],
    /// Standard deviation of each channel, of values in 0..=1.
    pub std: [f64; 3],
    /// Factor that takes 8-bit values to 0..=1.
    pub rescale_factor: f64,
    /// Whether images are resized; if not, their sides must divide into merge blocks.
    pub do_resize: bool,
    /// Whether values are multiplied with `rescale_factor`.
    pub do_rescale: bool,
    /// Whether mean and standard deviation are applied.
    pub do_normalize: bool,
    /// Whose resampling is followed.
    pub backend: Backend,
}

impl Default for ImageSettings {
    /// The defaults of transformers' `Qwen2VLImageProcessor`.
    fn default() -> Self {
        Self {
            patch_size: 14,
            merge_size: 2,
            temporal_patch_size: 2,
            min_pixels: 56 * 56,
            max_pixels: 28 * 28 * 1280,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            rescale_factor: 1.0 / 255.0,
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            backend: Backend::default(),
        }
    }
}

/// The file's keys; those that are absent take the defaults of transformers.
#[derive(Deserialize)]
struct SettingsFile {
    patch_size: Option<usize>,
    merge_size: Option<usize>,
    temporal_patch_size: Option<usize>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
    size: Option<SizeFile>,
    image_mean: Option<[f64; 3]>,
    image_std: Option<[f64; 3]>,
    rescale_factor: Option<f64>,
    resample: Option<u8>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
}

#[derive(Deserialize)]
struct SizeFile {
    shortest_edge: usize,
    longest_edge: usize,
}

impl ImageSettings {
    /// Reads the content of a `preprocessor_config.json`, or the `image_processor` object of a
    /// `processor_config.json`. `min_pixels` and `max_pixels` win over `size`, as in transformers.
    ///
    /// # Errors
    /// Says which key cannot be used and why.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, String> {
        let file = SettingsFile::deserialize(value).map_err(|e| e.to_string())?;
        let default = Self::default();
        let size = file.size.as_ref();
        let settings = Self {
            patch_size: file.patch_size.unwrap_or(default.patch_size),
            merge_size: file.merge_size.unwrap_or(default.merge_size),
            temporal_patch_size: file
                .temporal_patch_size
                .unwrap_or(default.temporal_patch_size),
            min_pixels: file
                .min_pixels
                .or(size.map(|s| s.shortest_edge))
                .unwrap_or(default.min_pixels),
            max_pixels: file
                .max_pixels
                .or(size.map(|s| s.longest_edge))
                .unwrap_or(default.max_pixels),
            mean: file.image_mean.unwrap_or(default.mean),
            std: file.image_std.unwrap_or(default.std),
            rescale_factor: file.rescale_factor.unwrap_or(default.rescale_factor),
            do_resize: file.do_resize.unwrap_or(true),
            do_rescale: file.do_rescale.unwrap_or(true),
            do_normalize: file.do_normalize.unwrap_or(true),
            backend: default.backend,
        };
        if file.resample.is_some_and(|r| r != 3) {
            return Err(
                "resample is not 3 (bicubic), the only resampling that is supported".into(),
            );
        }
        settings.check()?;
        Ok(settings)
    }

    /// Says which setting is impossible.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, value) in [
            ("patch_size", self.patch_size),
            ("merge_size", self.merge_size),
            ("temporal_patch_size", self.temporal_patch_size),
            ("min_pixels", self.min_pixels),
            ("max_pixels", self.max_pixels),
        ] {
            let limit = if name.ends_with("pixels") {
                1 << 28
            } else {
                1024
            };
            if !(1..=limit).contains(&value) {
                return Err(format!("{name} is {value}, expected 1 to {limit}"));
            }
        }
        if self.min_pixels > self.max_pixels {
            return Err(format!(
                "min_pixels ({}) is above max_pixels ({})",
                self.min_pixels, self.max_pixels
            ));
        }
        if self.patch_bytes(self.min_pixels) > LARGEST_PATCHES {
            return Err(format!(
                "min_pixels = {} with temporal_patch_size = {} would take {} bytes for the smallest \
                 picture, at most {LARGEST_PATCHES}",
                self.min_pixels,
                self.temporal_patch_size,
                self.patch_bytes(self.min_pixels)
            ));
        }
        if self.std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return Err(format!(
                "image_std is {:?}, expected positive values",
                self.std
            ));
        }
        if !(self.mean.iter().all(|m| m.is_finite()) && self.rescale_factor.is_finite()) {
            return Err("image_mean or rescale_factor is not finite".into());
        }
        Ok(())
    }

    /// Pixels that the side of an image must be a multiple of.
    pub fn factor(&self) -> usize {
        self.patch_size * self.merge_size
    }

    /// Bytes of the patches of so many pixels.
    fn patch_bytes(&self, pixels: usize) -> usize {
        pixels
            .saturating_mul(3 * self.temporal_patch_size)
            .saturating_mul(size_of::<f32>())
    }

    /// Length of a patch row: `3 * temporal_patch_size * patch_size^2`.
    pub fn patch_len(&self) -> usize {
        3 * self.temporal_patch_size * self.patch_size * self.patch_size
    }
}

/// Turns images into patches.
#[derive(Clone, Debug)]
pub struct ImageProcessor {
    settings: ImageSettings,
    /// The normalised value of each 8-bit value, by channel.
    table: [[f32; 256]; 3],
}

impl ImageProcessor {
    /// A processor with these settings.
    ///
    /// # Errors
    /// Says which setting is impossible.
    pub fn new(settings: ImageSettings) -> Result<Self, String> {
        settings.check()?;
        let table = std::array::from_fn(|channel| normalisation(&settings, channel));
        Ok(Self { settings, table })
    }

    /// The settings.
    pub fn settings(&self) -> &ImageSettings {
        &self.settings
    }

    /// Height and width in pixels that an image of the given sides is resized to.
    ///
    /// # Errors
    /// For sides that cannot be processed, see [`smart_resize`].
    pub fn target_size(
        &self,
        height: usize,
        width: usize,
    ) -> Result<(usize, usize), ProcessorError> {
        let settings = &self.settings;
        let factor = settings.factor();
        let target = smart_resize(
            height,
            width,
            factor,
            settings.min_pixels,
            settings.max_pixels,
        )?;
        let (out_height, out_width) = match settings.do_resize {
            true => target,
            false => (height, width),
        };
        let bytes = settings.patch_bytes(out_height.saturating_mul(out_width));
        if bytes > LARGEST_PATCHES {
            return Err(ProcessorError::TooLarge {
                width,
                height,
                bytes,
                max: LARGEST_PATCHES,
            });
        }
        if settings.do_resize {
            Ok(target)
        } else if height.is_multiple_of(factor) && width.is_multiple_of(factor) {
            Ok((height, width))
        } else {
            Err(ProcessorError::Unaligned {
                width,
                height,
                factor,
            })
        }
    }

    /// The grid of patches of an image of the given sides in pixels.
    ///
    /// # Errors
    /// As [`Self::target_size`].
    pub fn grid(&self, height: usize, width: usize) -> Result<Grid, ProcessorError> {
        let (h, w) = self.target_size(height, width)?;
        let patch = self.settings.patch_size;
        Ok(Grid {
            t: 1,
            h: h / patch,
            w: w / patch,
        })
    }

    /// The patches of several images one after the other, `(patches, patch_len)` f32 on the CPU,
    /// and the grid of each image. At least one image must be given.
    ///
    /// # Errors
    /// For images whose sides cannot be processed.
    pub fn process(&self, images: &[&RgbImage]) -> Result<(Tensor, Vec<Grid>), ProcessorError> {
        let grids = images
            .iter()
            .map(|image| self.grid(image.height() as usize, image.width() as usize))
            .collect::<Result<Vec<_>, _>>()?;
        let columns = self.settings.patch_len();
        let rows: usize = grids.iter().map(Grid::patches).sum();
        let mut values = vec![0f32; rows * columns];
        let mut rest = values.as_mut_slice();
        for (image, grid) in images.iter().zip(&grids) {
            let (own, next) = rest.split_at_mut(grid.patches() * columns);
            self.write_patches(image, *grid, own);
            rest = next;
        }
        let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?;
        Ok((tensor, grids))
    }

    /// Fills `out`, `(grid.patches(), patch_len)`, one row of merge blocks at a time.
    fn write_patches(&self, image: &RgbImage, grid: Grid, out: &mut [f32]) {
        let ImageSettings {
            patch_size: p,
            merge_size: m,
            temporal_patch_size: frames,
            ..
        } = self.settings;
        let (in_h, in_w) = (image.height() as usize, image.width() as usize);
        let resampled = Resampled::new(
            image.as_raw(),
            (in_h, in_w),
            (grid.h * p, grid.w * p),
            self.settings.backend,
        );
        let columns = self.settings.patch_len();
        let area = p * p;
        out.par_chunks_exact_mut(grid.w * m * columns)
            .enumerate()
            .for_each_init(
                || (vec![0u8; grid.w * p * 3], Vec::new()),
                |(row, scratch), (band, patches)| {
                    for y in 0..m * p {
                        resampled.row(band * m * p + y, row, scratch);
                        for (column, pixels) in row.chunks_exact(p * 3).enumerate() {
                            let patch = (column / m * m + y / p) * m + column % m;
                            let start = patch * columns + y % p * p;
                            for (channel, table) in self.table.iter().enumerate() {
                                let at = start + channel * frames * area;
                                let line = &mut patches[at..at + p];
                                for (value, pixel) in line.iter_mut().zip(pixels.chunks_exact(3)) {
                                    *value = table[usize::from(pixel[channel])];
                                }
                            }
                        }
                    }
                    for channel in patches.chunks_exact_mut(frames * area) {
                        let (frame, repeats) = channel.split_at_mut(area);
                        for repeat in repeats.chunks_exact_mut(area) {
                            repeat.copy_from_slice(frame);
                        }
                    }
                },
            );
    }
}

/// The normalised value of each 8-bit value, with the rounding of the path that is followed:
/// torchvision folds the rescaling into mean and std in f32, PIL rescales in f64 and rounds.
fn normalisation(settings: &ImageSettings, channel: usize) -> [f32; 256] {
    let factor = if settings.do_rescale {
        settings.rescale_factor
    } else {
        1.0
    };
    let (mean, std) = (settings.mean[channel] as f32, settings.std[channel] as f32);
    std::array::from_fn(|value| match (settings.backend, settings.do_normalize) {
        (Backend::Torchvision, true) => {
            let unit = (1.0 / factor) as f32;
            (value as f32 - mean * unit) / (std * unit)
        }
        (Backend::Torchvision, false) => value as f32 * factor as f32,
        (Backend::Pil | Backend::Pillow12, true) => ((value as f64 * factor) as f32 - mean) / std,
        (Backend::Pil | Backend::Pillow12, false) => (value as f64 * factor) as f32,
    })
}

/// Reads an image file as RGB, as the reference loader gives it: see [`image_files::read`].
///
/// # Errors
/// When the file cannot be read, or not decoded whole.
pub fn read_image(path: &Path) -> Result<RgbImage, ProcessorError> {
    Ok(image_files::read(path)?)
}
