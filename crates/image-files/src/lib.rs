//! Pictures as the reference loader gives them to a model: whole, upright, on white, 8-bit RGB.
//!
//! The reference is Pillow 13 as transformers and qwen-vl-utils use it: `Image.open`,
//! `ImageOps.exif_transpose`, what is transparent composited onto white, `convert("RGB")`.
//! [`decode`] does that for PNG, JPEG, WebP, GIF and BMP, and refuses what is not whole: a cut or
//! damaged file is an error, never a picture with a grey rest.

mod decode;
mod error;
mod jpeg;
mod png;

pub use decode::{MAX_BYTES, MAX_FILE_BYTES, MAX_PIXELS, decode, dimensions, dimensions_of, read};
pub use error::ImageFileError;

/// The example of the README, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
