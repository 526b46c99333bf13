//! Pictures that commands write.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, ensure};
use image::imageops::{FilterType, resize};
use image::{ImageFormat, RgbImage};

/// How much larger than the model sees them pictures of the micro world are shown to people.
pub const READABLE: u32 = 8;

/// Refuses a path for a picture that is not named as a PNG file.
pub fn expect_png(out: &Path) -> anyhow::Result<()> {
    ensure!(
        ImageFormat::from_path(out).ok() == Some(ImageFormat::Png),
        "--out {}: expected a name that ends in .png",
        out.display()
    );
    Ok(())
}

/// Writes the picture whole or not at all.
pub fn write_png(path: &Path, image: &RgbImage) -> anyhow::Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    image
        .write_to(&mut bytes, ImageFormat::Png)
        .with_context(|| format!("cannot encode {}", path.display()))?;
    results::write_atomically(path, &bytes.into_inner())
        .with_context(|| format!("give another --out than {}", path.display()))
}

/// A picture of the micro world at a size for people: each pixel [`READABLE`] × [`READABLE`].
pub fn readable(image: &RgbImage) -> RgbImage {
    let (width, height) = (image.width() * READABLE, image.height() * READABLE);
    resize(image, width, height, FilterType::Nearest)
}
