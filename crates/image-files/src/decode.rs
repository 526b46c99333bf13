//! Any picture file as 8-bit RGB, as Pillow gives it.
//!
//! `open -> orientation of EXIF, else of XMP -> transparency onto white -> RGB`. Samples of 16 bits
//! in colour or with alpha keep their high byte; 16-bit grey is clipped at 255, as Pillow's
//! conversion of mode `I;16` does. Of an animation the first frame is taken. Pixels equal Pillow's
//! but for JPEG and lossy WebP, whose decoders may differ by rounding (measured in the tests).
//!
//! Deviation: transparency is composited onto white in every mode. qwen-vl-utils does so for RGBA
//! alone and lets `convert("RGB")` uncover what lies under the transparent pixels of a palette or
//! of grey with alpha.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Seek, SeekFrom};
use std::path::Path;

use image::metadata::Orientation;
use image::{
    ColorType, DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Rgb,
    RgbImage,
};

use super::error::ImageFileError;
use super::{jpeg, png};

/// Most pixels of a picture: the number above which Pillow warns of a decompression bomb.
pub const MAX_PIXELS: u64 = 89_478_485;

/// Most bytes of a decoded picture together with what its conversion needs.
pub const MAX_BYTES: u64 = 512 << 20;

/// Most bytes of a picture's file.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

const FORMATS: [ImageFormat; 5] = [
    ImageFormat::Png,
    ImageFormat::Jpeg,
    ImageFormat::WebP,
    ImageFormat::Gif,
    ImageFormat::Bmp,
];

/// Reads a picture's file.
///
/// # Errors
/// [`ImageFileError`] with the file's name.
pub fn read(path: &Path) -> Result<RgbImage, ImageFileError> {
    let failed = |source| ImageFileError::Read {
        path: path.to_owned(),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    let decoded = match bytes <= MAX_FILE_BYTES {
        true => decode(&std::fs::read(path).map_err(failed)?),
        false => Err(ImageFileError::TooLong {
            bytes,
            max: MAX_FILE_BYTES,
        }),
    };
    decoded.map_err(|problem| named(path, problem))
}

/// Decodes a picture: all of it, or an error.
///
/// # Errors
/// [`ImageFileError`]: no known format; too many pixels or bytes, checked before anything is
/// decoded; data that are cut or damaged.
pub fn decode(bytes: &[u8]) -> Result<RgbImage, ImageFileError> {
    let length = bytes.len() as u64;
    if length > MAX_FILE_BYTES {
        return Err(ImageFileError::TooLong {
            bytes: length,
            max: MAX_FILE_BYTES,
        });
    }
    let (format, mut decoder) = open(Cursor::new(bytes))?;
    check_size(&mut decoder, format)?;
    let orientation = orientation(&mut decoder);
    match format {
        // The decoder fills what is missing with grey.
        ImageFormat::Jpeg => jpeg::check_whole(bytes),
        // The decoder passes over a damaged chunk of transparency.
        ImageFormat::Png => png::check_chunks(bytes),
        // The decoder reads zeros behind the end.
        ImageFormat::WebP => check_riff(bytes),
        _ => Ok(()),
    }
    .map_err(ImageFileError::Broken)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(orientation);
    Ok(to_rgb(image))
}

/// Width and height in pixels of the picture in a file, upright, from its header.
///
/// # Errors
/// As [`read`], but for data that are cut or damaged behind the header.
pub fn dimensions(path: &Path) -> Result<(u32, u32), ImageFileError> {
    let file = File::open(path).map_err(|source| ImageFileError::Read {
        path: path.to_owned(),
        source,
    })?;
    dimensions_of(BufReader::new(file)).map_err(|problem| named(path, problem))
}

/// As [`dimensions`], of anything that can be read.
///
/// # Errors
/// As [`dimensions`].
pub fn dimensions_of(reader: impl BufRead + Seek) -> Result<(u32, u32), ImageFileError> {
    let (format, mut decoder) = open(reader)?;
    let (width, height) = check_size(&mut decoder, format)?;
    Ok(match orientation(&mut decoder) {
        Orientation::Rotate90
        | Orientation::Rotate270
        | Orientation::Rotate90FlipH
        | Orientation::Rotate270FlipH => (height, width),
        _ => (width, height),
    })
}

/// Any decoded picture as 8-bit RGB: grey is repeated, transparency is composited onto white with
/// the integer arithmetic of Pillow's `alpha_composite`.
fn to_rgb(image: DynamicImage) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let high = |value: u16| (value >> 8) as u8;
    let onto_white = |[r, g, b]: [u8; 3], alpha: u8| Rgb([r, g, b].map(|v| over_white(v, alpha)));
    match image {
        DynamicImage::ImageRgb8(image) => image,
        DynamicImage::ImageLuma16(grey) => RgbImage::from_fn(width, height, |x, y| {
            Rgb([grey.get_pixel(x, y).0[0].min(255) as u8; 3])
        }),
        DynamicImage::ImageLumaA8(grey) => RgbImage::from_fn(width, height, |x, y| {
            let [value, alpha] = grey.get_pixel(x, y).0;
            onto_white([value; 3], alpha)
        }),
        DynamicImage::ImageLumaA16(grey) => RgbImage::from_fn(width, height, |x, y| {
            let [value, alpha] = grey.get_pixel(x, y).0.map(high);
            onto_white([value; 3], alpha)
        }),
        DynamicImage::ImageRgb16(colour) => RgbImage::from_fn(width, height, |x, y| {
            Rgb(colour.get_pixel(x, y).0.map(high))
        }),
        DynamicImage::ImageRgba8(colour) => RgbImage::from_fn(width, height, |x, y| {
            let [r, g, b, alpha] = colour.get_pixel(x, y).0;
            onto_white([r, g, b], alpha)
        }),
        DynamicImage::ImageRgba16(colour) => RgbImage::from_fn(width, height, |x, y| {
            let [r, g, b, alpha] = colour.get_pixel(x, y).0.map(high);
            onto_white([r, g, b], alpha)
        }),
        other => other.into_rgb8(),
    }
}

/// One channel of a pixel over white; 7 extra bits and rounded division by 255.
fn over_white(value: u8, alpha: u8) -> u8 {
    let weight = u32::from(alpha) << 7;
    let sum = u32::from(value) * weight + 255 * ((255 << 7) - weight) + (0x80 << 7);
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}

/// A decoder with its header read.
fn open<'a>(
    mut reader: impl BufRead + Seek + 'a,
) -> Result<(ImageFormat, impl ImageDecoder + 'a), ImageFileError> {
    check_chunks_fit(&mut reader).map_err(|error| ImageFileError::Broken(error.to_string()))?;
    let mut reader = ImageReader::new(reader);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut reader = reader
        .with_guessed_format()
        .map_err(|error| ImageFileError::Broken(error.to_string()))?;
    let Some(format) = reader.format().filter(|format| FORMATS.contains(format)) else {
        return Err(unknown(reader.into_inner()));
    };
    reader.set_format(format);
    Ok((format, reader.into_decoder().map_err(broken)?))
}

/// Refuses a picture without pixels, or with more than can be afforded.
fn check_size(
    decoder: &mut impl ImageDecoder,
    format: ImageFormat,
) -> Result<(u32, u32), ImageFileError> {
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(ImageFileError::Empty { width, height });
    }
    let pixels = u64::from(width) * u64::from(height);
    let decoded = u64::from(decoder.color_type().bytes_per_pixel());
    let mut per_pixel = decoded;
    if decoder.color_type() != ColorType::Rgb8 {
        per_pixel += 3;
    }
    per_pixel += match format {
        // The coefficients that a progressive file is gathered in.
        ImageFormat::Jpeg => 2 * decoded,
        // The frame beside its canvas.
        ImageFormat::Gif | ImageFormat::WebP => 4,
        _ => 0,
    };
    let bytes = pixels.saturating_mul(per_pixel);
    if pixels > MAX_PIXELS || bytes > MAX_BYTES {
        return Err(ImageFileError::TooLarge {
            width,
            height,
            bytes,
            max_pixels: MAX_PIXELS,
            max_bytes: MAX_BYTES,
        });
    }
    Ok((width, height))
}

/// How the picture must be turned to stand upright: EXIF tells, else XMP. What cannot be read as
/// either turns nothing, as in the reference.
fn orientation(decoder: &mut impl ImageDecoder) -> Orientation {
    let exif = decoder.exif_metadata().ok().flatten();
    let told = exif.and_then(|exif| {
        let bare = exif.strip_prefix(b"Exif\0\0").unwrap_or(&exif);
        Orientation::from_exif_chunk(bare)
    });
    told.or_else(|| {
        let xmp = decoder.xmp_metadata().ok().flatten()?;
        let text = String::from_utf8_lossy(&xmp);
        let (_, rest) = text.split_once("tiff:Orientation")?;
        let digit = rest
            .strip_prefix("=\"")
            .or(rest.strip_prefix('>'))?
            .chars()
            .next()?;
        Orientation::from_exif(u8::try_from(digit.to_digit(10)?).ok()?)
    })
    .unwrap_or(Orientation::NoTransforms)
}

/// Refuses a WebP file with a chunk that reaches beyond the end of the file: the decoder makes room for
/// what a chunk says it holds before it reads it.
fn check_chunks_fit(reader: &mut (impl BufRead + Seek)) -> io::Result<()> {
    let mut header = [0; 12];
    let read = reader.read_exact(&mut header);
    let is_webp = read.is_ok() && header.starts_with(b"RIFF") && header.ends_with(b"WEBP");
    if is_webp {
        let end = reader.seek(SeekFrom::End(0))?;
        let mut at = header.len() as u64;
        while at + 8 <= end {
            let mut chunk = [0; 8];
            reader.seek(SeekFrom::Start(at))?;
            reader.read_exact(&mut chunk)?;
            let [name @ .., a, b, c, d] = chunk;
            let size = u64::from(u32::from_le_bytes([a, b, c, d]));
            at += 8;
            if size > end - at {
                return Err(io::Error::other(format!(
                    "the WebP chunk '{}' says it has {size} bytes, {} are left",
                    name.escape_ascii(),
                    end - at
                )));
            }
            at += size + size % 2;
        }
    }
    reader.rewind()
}

/// Refuses a RIFF file that is shorter than its header says.
fn check_riff(bytes: &[u8]) -> Result<(), String> {
    let told = match bytes {
        [_, _, _, _, a, b, c, d, ..] => u64::from(u32::from_le_bytes([*a, *b, *c, *d])) + 8,
        _ => 8,
    };
    match bytes.len() as u64 {
        found if found < told => Err(format!("the WebP data end at byte {found} of {told}")),
        _ => Ok(()),
    }
}

fn unknown(mut reader: impl BufRead + Seek) -> ImageFileError {
    let mut start = [0; 8];
    let rewound = reader.rewind();
    let read = rewound
        .and_then(|()| reader.read(&mut start))
        .unwrap_or_default();
    let found = match &start[..read] {
        [] => "nothing: it is empty".to_owned(),
        start => format!("the bytes {}", start.escape_ascii()),
    };
    ImageFileError::Format { found }
}

fn broken(error: ImageError) -> ImageFileError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    ImageFileError::Broken(text)
}

fn named(path: &Path, problem: ImageFileError) -> ImageFileError {
    ImageFileError::File {
        path: path.to_owned(),
        problem: Box::new(problem),
    }
}
