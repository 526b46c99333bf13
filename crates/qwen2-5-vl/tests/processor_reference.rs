//! The processor against transformers' own results (`../shared/parity`, when it is there).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use qwen2_5_vl::{
    Backend, ChatMessage, ChatPart, ImageProcessor, ImageSettings, Processor, Tokenizer,
    read_image, resize_bicubic, smart_resize,
};
use serde_json::{Map, Value};

/// The folder of reference numerics beside the repository.
fn shared() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity");
    if dir.is_dir() {
        return Some(dir);
    }
    println!("skipped: ../shared is absent");
    None
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn usize_of(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn parse_messages(messages: &Value) -> Vec<ChatMessage> {
    let part = |part: &Value| match part.get("text") {
        Some(text) => ChatPart::Text(text.as_str().unwrap().to_owned()),
        None => ChatPart::Image,
    };
    let message = |message: &Value| ChatMessage {
        role: message["role"].as_str().unwrap().to_owned(),
        content: match &message["content"] {
            Value::String(text) => vec![ChatPart::Text(text.clone())],
            parts => parts.as_array().unwrap().iter().map(part).collect(),
        },
    };
    messages.as_array().unwrap().iter().map(message).collect()
}

#[test]
fn smart_resize_gives_every_row_of_the_table() {
    let Some(dir) = shared() else { return };
    let table = &json(dir.join("images/preprocess.json"))["smart_resize"]["rows"];
    let rows = table.as_array().unwrap();
    assert!(rows.len() > 500);
    for row in rows {
        let row: Vec<i64> = row
            .as_array()
            .unwrap()
            .iter()
            .map(|v| v.as_i64().unwrap())
            .collect();
        let [h, w, min, max] = std::array::from_fn(|i| row[i] as usize);
        let ours = smart_resize(h, w, 28, min, max).map_or((-1, -1), |(h, w)| (h as i64, w as i64));
        assert_eq!(ours, (row[4], row[5]), "{h}x{w} within {min}..={max}");
    }
}

#[test]
fn resized_pixels_are_the_references() {
    let Some(dir) = shared() else { return };
    let index = json(dir.join("images/preprocess.json"));
    let mut compared = 0;
    for (setting, entry) in index["settings"].as_object().unwrap() {
        for (name, backend) in [("torchvision", Backend::Torchvision), ("pil", Backend::Pil)] {
            let file = dir.join(format!("images/{setting}.{name}.safetensors"));
            let expected = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
            for image in entry["images"].as_object().unwrap().keys() {
                let pixels = read_image(&dir.join(format!("images/{image}.png"))).unwrap();
                let settings = ImageSettings {
                    min_pixels: usize_of(&entry["min_pixels"]),
                    max_pixels: usize_of(&entry["max_pixels"]),
                    backend,
                    ..Default::default()
                };
                let processor = ImageProcessor::new(settings).unwrap();
                compared += check_image(&processor, &pixels, image, &expected, backend);
            }
        }
    }
    assert!(compared > 30, "{compared}");
}

/// Compares what the file has of one image; returns the number of tensors.
fn check_image(
    processor: &ImageProcessor,
    pixels: &image::RgbImage,
    image: &str,
    expected: &HashMap<String, Tensor>,
    backend: Backend,
) -> usize {
    let (h, w) = (pixels.height() as usize, pixels.width() as usize);
    let target = processor.target_size(h, w).unwrap();
    let (values, grids) = processor.process(&[pixels]).unwrap();
    let grid = &expected[&format!("{image}.out.image_grid_thw")];
    let ours = [grids[0].t, grids[0].h, grids[0].w].map(|v| v as i64);
    assert_eq!(grid.flatten_all().unwrap().to_vec1::<i64>().unwrap(), ours);
    let mut compared = 1;
    if let Some(resized) = expected.get(&format!("{image}.out.resized_u8_hwc")) {
        let ours = resize_bicubic(pixels.as_raw(), (h, w), target, backend);
        let theirs = resized.flatten_all().unwrap().to_vec1::<u8>().unwrap();
        assert_eq!(ours.len(), theirs.len());
        let differing = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        assert_eq!(differing, 0, "{image} {backend:?} of {}", ours.len());
        compared += 1;
    }
    if let Some(theirs) = expected.get(&format!("{image}.out.pixel_values")) {
        let error = (values.to_dtype(DType::F64).unwrap() - theirs.to_dtype(DType::F64).unwrap())
            .unwrap()
            .abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!(error < 1e-6, "{image} {backend:?}: {error}");
        compared += 1;
    }
    compared
}

#[test]
fn tokenizers_agree_on_every_text() {
    let Some(dir) = shared() else { return };
    for (cases, file) in [
        (
            "tokenizer_tiny_cases.json",
            "checkpoints/student/tokenizer.json",
        ),
        ("tokenizer_real_cases.json", "tokenizer_real/tokenizer.json"),
    ] {
        let cases = json(dir.join(cases));
        let tokenizer = Tokenizer::from_bytes(&std::fs::read(dir.join(file)).unwrap()).unwrap();
        assert_eq!(tokenizer.vocab_size(), usize_of(&cases["total_size"]));
        for case in cases["cases"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
            assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
            assert_eq!(
                tokenizer.decode(&ids, false).unwrap(),
                case["decoded"],
                "{text:?}"
            );
            let skipped = tokenizer.decode(&ids, true).unwrap();
            assert_eq!(skipped, case["decoded_skip_special"], "{text:?}");
        }
    }
}

#[test]
fn templates_render_as_in_transformers() {
    let Some(dir) = shared() else { return };
    let processor = Processor::load(&dir.join("checkpoints/student")).unwrap();
    let cases = json(dir.join("chat_template_cases.json"));
    for case in cases.as_array().unwrap() {
        let mut arguments: Map<String, Value> = case["kwargs"].as_object().unwrap().clone();
        let prompt = arguments.remove("add_generation_prompt");
        let prompt = prompt.is_none_or(|value| value.as_bool().unwrap());
        let rendered = processor
            .chat_template()
            .render(&case["messages"], prompt, &arguments)
            .unwrap();
        assert_eq!(rendered, case["rendered"], "{}", case["name"]);
    }
}

#[test]
fn prompts_encode_to_the_references_ids() {
    let Some(dir) = shared() else { return };
    let cases = json(dir.join("model/cases.json"));
    for checkpoint in ["student", "teacher"] {
        let processor = Processor::load(&dir.join("checkpoints").join(checkpoint)).unwrap();
        for (name, case) in cases.as_object().unwrap() {
            if case.get("messages").is_none() {
                continue;
            }
            let images: Vec<_> = case["images"]
                .as_array()
                .unwrap()
                .iter()
                .map(|image| {
                    let file = format!("images/{}.png", image.as_str().unwrap());
                    read_image(&dir.join(file)).unwrap()
                })
                .collect();
            let encoded = processor
                .encode(
                    &parse_messages(&case["messages"]),
                    &images.iter().collect::<Vec<_>>(),
                    true,
                )
                .unwrap();
            let ids: Vec<u32> = serde_json::from_value(case["input_ids"].clone()).unwrap();
            assert_eq!(encoded.input_ids, ids, "{checkpoint} {name}");
            assert_eq!(encoded.sources.len(), ids.len());
        }
    }
}
