//! Why there is no picture.

use std::path::PathBuf;

/// A picture that cannot be had whole.
#[derive(Debug, thiserror::Error)]
pub enum ImageFileError {
    /// The file cannot be read.
    #[error("cannot read the image {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The file is no picture, or not a whole one.
    #[error("{}: {problem}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: Box<ImageFileError>,
    },
    /// No format that is read.
    #[error("expected a PNG, JPEG, WebP, GIF or BMP image, found {found}")]
    Format {
        /// How the bytes begin.
        found: String,
    },
    /// More bytes than a picture may have.
    #[error("the image has {bytes} bytes, at most {max} are read")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// More pixels, or more memory for them, than is allowed; known from the header.
    #[error(
        "the header tells of {width} x {height} pixels, {bytes} bytes when decoded and converted; \
         at most {max_pixels} pixels and {max_bytes} bytes are allowed: make the image smaller"
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes of the decoded picture and its conversion together.
        bytes: u64,
        /// The limit on pixels.
        max_pixels: u64,
        /// The limit on bytes.
        max_bytes: u64,
    },
    /// A picture without pixels.
    #[error("the image is {width} x {height}: it has no pixels")]
    Empty {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
    },
    /// A picture whose data are cut or damaged.
    #[error("the image is not whole: {0}")]
    Broken(String),
}
