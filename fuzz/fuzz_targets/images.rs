//! Any bytes are a picture or an error, without a panic and within the limits.
//!
//! Seeds: `mkdir -p corpus/images && cp ../golden/images/*.{png,jpg,gif,webp,bmp} corpus/images` in this
//! folder.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let size = image_files::dimensions_of(std::io::Cursor::new(data));
    if let Ok(image) = image_files::decode(data) {
        assert!(size.is_ok_and(|size| size == image.dimensions()));
    }
});
