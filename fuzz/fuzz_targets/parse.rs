//! Any bytes are read without a panic, and what is accepted can be painted in every style.
//!
//! Seeds: `mkdir -p corpus/parse && csplit -z -f corpus/parse/ ../crates/visual-tools/tests/corpus/calls.txt '/^=== /' '{*}'`
//! in this folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use visual_tools::{FigureBoxes, NamedBoxes, Parsed, PixelBox, Style, apply, near_miss, parse};

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    for completion in [text.to_string(), format!("```python\nimage_1\n{text}\n```")] {
        near_miss(&completion);
        let Parsed::Call(call) = parse(&completion) else {
            continue;
        };
        let boxes = NamedBoxes::from_pairs([
            ("a".to_owned(), PixelBox::new(1.0, 1.0, 14.0, 5.0)),
            ("2005".to_owned(), PixelBox::new(-1.0, 6.0, 40.0, 11.0)),
        ]);
        let image = image::RgbImage::new(16, 12);
        for style in [Style::refocus(), Style::vtool_v2(), Style::micro()] {
            for figure in [
                FigureBoxes::table(boxes.clone(), boxes.clone()),
                FigureBoxes::chart(boxes.clone(), NamedBoxes::default()),
            ] {
                // Failing is fine, panicking is not.
                let _ = apply(&image, &call, &figure, &style);
            }
        }
    }
});
