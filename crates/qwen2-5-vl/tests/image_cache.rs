//! Features of pictures that come again: the same bits, encoded once, within a limit.

#[path = "common/micro.rs"]
mod micro;

use candle_core::Tensor;
use image::{Rgb, RgbImage};
use qwen2_5_vl::{ImageCache, ImageSettings, ModelPart};

/// Bytes of the features of 64 x 48 pixels in patches of 4, merged two by two, of width 128.
const BYTES: usize = 8 * 6 * 128 * 4;

fn picture(shade: u8) -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| Rgb([shade, (x * 3) as u8, (y * 5) as u8]))
}

fn values(features: &Tensor) -> Vec<f32> {
    features.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn a_picture_that_comes_again_has_the_features_that_it_has_alone() {
    let dir = micro::student();
    let (model, processor) = (micro::load(&dir).unwrap(), micro::processor(&dir).unwrap());
    let images = processor.image_processor();
    let vision = model.vision_key(images.settings()).unwrap();
    let pictures: Vec<RgbImage> = [10, 90, 10, 200, 150].map(picture).into();
    let pictures: Vec<&RgbImage> = pictures.iter().collect();
    let alone: Vec<Vec<f32>> = pictures
        .iter()
        .map(|picture| {
            let (pixels, grids) = images.process(&[picture]).unwrap();
            values(&model.image_features(&[(pixels, grids[0])], 1).unwrap()[0])
        })
        .collect();
    assert_eq!(alone[0].len() * 4, BYTES);
    let patches = 16 * 12;
    for budget in [1, patches, 2 * patches, 3 * patches - 1, usize::MAX] {
        let mut cache = ImageCache::new(usize::MAX);
        let mut ask = |pictures: &[&RgbImage]| -> Vec<Vec<f32>> {
            let found = model.cached_image_features(&mut cache, vision, images, pictures, budget);
            found.unwrap().iter().map(values).collect()
        };
        assert_eq!(ask(&pictures), alone, "{budget}");
        assert_eq!(ask(&pictures[1..2]), alone[1..2], "{budget}");
        assert_eq!((cache.encoded(), cache.bytes()), (4, 4 * BYTES));
        cache.clear();
        assert_eq!(cache.bytes(), 0);
    }
}

#[test]
fn what_was_asked_for_longest_ago_goes_first() {
    let dir = micro::student();
    let (model, processor) = (micro::load(&dir).unwrap(), micro::processor(&dir).unwrap());
    let images = processor.image_processor();
    let vision = model.vision_key(images.settings()).unwrap();
    let mut cache = ImageCache::new(2 * BYTES + 1);
    let mut encoded = |shades: &[u8]| {
        let pictures: Vec<RgbImage> = shades.iter().copied().map(picture).collect();
        let pictures: Vec<&RgbImage> = pictures.iter().collect();
        let before = cache.encoded();
        let found = model
            .cached_image_features(&mut cache, vision, images, &pictures, usize::MAX)
            .unwrap();
        assert_eq!(found.len(), shades.len());
        assert!(cache.bytes() <= 2 * BYTES);
        cache.encoded() - before
    };
    assert_eq!(encoded(&[1, 2]), 2);
    assert_eq!(encoded(&[1]), 0);
    // 2 was asked for before 1.
    assert_eq!(encoded(&[3]), 1);
    assert_eq!(encoded(&[1, 3]), 0);
    assert_eq!(encoded(&[2]), 1);
    // More at once than there is room for.
    assert_eq!(encoded(&[4, 5, 6]), 3);
    assert_eq!(encoded(&[6, 5]), 0);
}

#[test]
fn other_weights_or_settings_have_other_features() {
    let dir = micro::student();
    let (mut model, processor) = (micro::load(&dir).unwrap(), micro::processor(&dir).unwrap());
    let images = processor.image_processor();
    let vision = model.vision_key(images.settings()).unwrap();
    model
        .freeze(&[ModelPart::Vision, ModelPart::Merger])
        .unwrap();
    let embedding = |model: &qwen2_5_vl::Model, name: &str| {
        let variable = model.parameters().get(name).unwrap().clone();
        variable
            .set(&(variable.as_tensor() * 1.5).unwrap())
            .unwrap();
    };
    // What is not the tower's changes nothing.
    embedding(&model, "model.embed_tokens.weight");
    assert_eq!(model.vision_key(images.settings()).unwrap(), vision);
    let settings = ImageSettings {
        max_pixels: images.settings().max_pixels / 2,
        ..images.settings().clone()
    };
    assert_ne!(model.vision_key(&settings).unwrap(), vision);
    embedding(&model, "visual.merger.mlp.2.bias");
    assert_ne!(model.vision_key(images.settings()).unwrap(), vision);
}
