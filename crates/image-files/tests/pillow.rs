//! Every kind of picture against the pixels that Pillow gives (`golden/images/make.py`).

use std::fs;
use std::path::{Path, PathBuf};

use image::RgbImage;
use image_files::{ImageFileError, MAX_PIXELS, decode, dimensions, read};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../golden/images")
}

/// The pictures by name, each with its expected pixels.
fn pictures() -> Vec<(String, Vec<u8>, RgbImage)> {
    let mut names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let pictures: Vec<_> = names
        .iter()
        .filter_map(|name| {
            let expected = image::open(folder().join(format!("{name}.rgb.png"))).ok()?;
            let bytes = fs::read(folder().join(name)).unwrap();
            Some((name.clone(), bytes, expected.into_rgb8()))
        })
        .collect();
    assert!(pictures.len() > 40, "{} pictures", pictures.len());
    pictures
}

fn difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    let pairs = a.as_raw().iter().zip(b.as_raw());
    pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn pixels_are_pillows() {
    for (name, bytes, expected) in pictures() {
        let found = decode(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let difference = difference(&found, &expected);
        println!("{name}: {difference}");
        // Where pixels are computed and not stored, two decoders round differently: by 1 in grey,
        // by 2 in colour, by 3 where colour is interpolated.
        let allowed = if name.ends_with(".jpg") { 3 } else { 0 };
        assert!(difference <= allowed, "{name}: {difference} levels");
        let size = dimensions(&folder().join(&name)).unwrap();
        assert_eq!(size, expected.dimensions(), "{name}");
    }
}

/// A cut picture is an error, unless only what stands behind its pixels is gone.
#[test]
fn a_cut_picture_is_whole_or_an_error() {
    let mut refused = 0;
    for (name, bytes, _) in pictures() {
        let whole = decode(&bytes).unwrap();
        for end in (0..bytes.len()).step_by(7) {
            let cut = bytes[..end].to_vec();
            // The end of a JPEG marked afterwards.
            let ended = [cut.as_slice(), &[0xff, 0xd9]].concat();
            let cuts = match name.ends_with(".jpg") {
                true => vec![cut, ended],
                false => vec![cut],
            };
            for cut in cuts {
                match decode(&cut) {
                    Ok(found) => assert!(found == whole, "{name} cut at {end}"),
                    Err(_) => refused += 1,
                }
            }
        }
    }
    assert!(refused > 10_000, "{refused}");
}

/// Data in the middle that are gone, or other data in their place: never a panic, and of formats
/// with a checksum never another picture.
#[test]
fn a_damaged_picture_does_not_pass_for_another() {
    for (name, bytes, _) in pictures() {
        let whole = decode(&bytes).unwrap();
        for at in (8..bytes.len()).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let mut shorter = bytes.clone();
            shorter.drain(at..(at + 9).min(bytes.len()));
            for changed in [damaged, shorter] {
                let found = decode(&changed);
                // The only bytes of these files without a checksum: what is not about pixels.
                if name.ends_with(".png")
                    && let Ok(found) = found
                {
                    let turned = name.starts_with("turned");
                    assert!(turned || found == whole, "{name} at {at}");
                }
            }
        }
    }
}

/// Blocks, codes and scans that are missing, each told.
#[test]
fn what_a_jpeg_lacks_is_told() {
    let file = |name: &str| fs::read(folder().join(name)).unwrap();
    let told = |bytes: &[u8]| decode(bytes).unwrap_err().to_string();
    let ended = |bytes: &[u8]| [bytes, &[0xff, 0xd9]].concat();
    let scan_start = |bytes: &[u8]| {
        let starts = bytes.windows(2).enumerate();
        let starts: Vec<usize> = starts
            .filter(|(_, pair)| pair == &[0xff, 0xda])
            .map(|(at, _)| at)
            .collect();
        starts
    };

    let rgb = file("rgb.jpg");
    let most = scan_start(&rgb)[0] + (rgb.len() - scan_start(&rgb)[0]) * 6 / 10;
    let cut = told(&rgb[..most]);
    assert!(cut.contains("the JPEG data end at block"), "{cut}");
    // The end marked afterwards, as some repair tools do.
    assert_eq!(told(&ended(&rgb[..most])), cut);
    let unmarked = told(&rgb[..rgb.len() - 2]);
    assert!(
        unmarked.contains("without the marker of their end"),
        "{unmarked}"
    );

    let restarts = file("restarts.jpg");
    let marks: Vec<usize> = restarts
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0] == 0xff && (0xd0..=0xd7).contains(&pair[1]))
        .map(|(at, _)| at)
        .collect();
    // A whole interval is gone: what follows would slip into its place.
    let mut gap = restarts.clone();
    gap.drain(marks[0]..marks[1]);
    assert!(told(&gap).contains("end at block"), "{}", told(&gap));

    let progressive = file("progressive.jpg");
    let scans = scan_start(&progressive);
    assert!(scans.len() > 5);
    for &at in &scans[1..] {
        let message = told(&ended(&progressive[..at]));
        assert!(message.contains("lack scans of component"), "{message}");
    }
}

/// A header that promises what nobody can pay for is refused before anything is decoded.
#[test]
fn a_small_file_with_a_large_picture_is_refused_from_its_header() {
    // A PNG header of 20,000 x 20,000 one-bit pixels, which 48 kB can hold.
    let header = |width: u32, height: u32, depth: u8, colour: u8| {
        let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        bytes.extend(width.to_be_bytes());
        bytes.extend(height.to_be_bytes());
        bytes.extend([depth, colour, 0, 0, 0]);
        let crc = crc32(&bytes[12..]);
        bytes.extend(crc.to_be_bytes());
        bytes.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        bytes
    };
    for (width, height, depth, colour) in [
        (20_000, 20_000, 1, 0),
        (9_460, 9_460, 1, 0),
        (1, u32::MAX >> 1, 8, 2),
        // Few enough pixels, too many bytes of four 16-bit channels and of RGB beside them.
        (8_000, 8_000, 16, 6),
    ] {
        let error = decode(&header(width, height, depth, colour)).unwrap_err();
        let ImageFileError::TooLarge { bytes, .. } = &error else {
            panic!("{width} x {height}: {error}");
        };
        assert!(*bytes > 100_000_000, "{bytes}");
        assert!(error.to_string().contains(&format!("{width} x {height}")));
    }
    let pixels = u64::from(9_459_u32) * 9_459;
    assert!(pixels <= MAX_PIXELS);
    let error = decode(&header(9_459, 9_459, 1, 0)).unwrap_err();
    assert!(matches!(error, ImageFileError::Broken(_)), "{error}");
    let error = decode(&header(0, 5, 8, 2)).unwrap_err();
    assert!(
        matches!(
            error,
            ImageFileError::Broken(_) | ImageFileError::Empty { .. }
        ),
        "{error}"
    );
}

/// CRC-32 as PNG has it, a bit at a time.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn what_is_no_picture_is_told_by_its_file_and_how_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let told = |bytes: &[u8]| {
        // The name's ending does not decide.
        let file = folder.path().join("a.png");
        fs::write(&file, bytes).unwrap();
        let message = read(&file).unwrap_err().to_string();
        assert!(dimensions(&file).is_err());
        message.replace(&folder.path().display().to_string(), "DIR")
    };
    let expected = "DIR/a.png: expected a PNG, JPEG, WebP, GIF or BMP image, found";
    assert_eq!(told(b""), format!("{expected} nothing: it is empty"));
    assert_eq!(
        told(b"<html>no</html>"),
        format!("{expected} the bytes <html>no")
    );
    assert_eq!(
        told(b"version https://git-lfs"),
        format!("{expected} the bytes version ")
    );
    assert!(told(b"\x89PNG\r\n\x1a\nxx").starts_with("DIR/a.png: the image is not whole:"));
    // Formats that are known and not read.
    assert!(told(b"II*\0\x08\0\0\0").starts_with(expected));
    let missing = read(Path::new("no/such.png")).unwrap_err().to_string();
    assert_eq!(missing, "cannot read the image no/such.png");
    let jpeg_in_png_clothes = fs::read(self::folder().join("rgb.jpg")).unwrap();
    let file = folder.path().join("b.png");
    fs::write(&file, jpeg_in_png_clothes).unwrap();
    assert!(read(&file).is_ok());
}

/// The pictures of `../shared/cases`, where that folder is there.
#[test]
fn the_collected_cases() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/cases");
    if !cases.is_dir() {
        println!("skipped: ../shared is absent");
        return;
    }
    let transparent = cases.join("21-transparent-background");
    let expected = read(&transparent.join("expected-white.png")).unwrap();
    for name in ["in.png", "palette-trns.png"] {
        assert!(read(&transparent.join(name)).unwrap() == expected, "{name}");
    }
    let grey = read(&transparent.join("grey-alpha.png")).unwrap();
    assert_eq!(grey.get_pixel(0, 0).0, [255; 3]);
    for name in ["truncated-noise.jpg", "truncated.jpg", "truncated.png"] {
        let error = read(&cases.join("23-truncated-image").join(name)).unwrap_err();
        assert!(error.to_string().contains("not whole"), "{error}");
    }
}
