//! The model against transformers' numbers in `../shared/parity`, within its `tolerances.json`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{GenerationOptions, Grid, Model, Positions, Prompt};

type Tensors = HashMap<String, Tensor>;

const CHECKPOINTS: [&str; 2] = ["student", "teacher"];

fn fixtures() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/parity");
    if !dir.is_dir() {
        println!("skipped: ../shared is absent");
        return None;
    }
    Some(dir)
}

fn load(path: &Path) -> Tensors {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn model(dir: &Path, checkpoint: &str) -> Model {
    Model::load(
        &dir.join("checkpoints").join(checkpoint),
        &Device::Cpu,
        DType::F32,
    )
    .unwrap()
}

fn flat<T: candle_core::WithDType>(tensor: &Tensor) -> Vec<T> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn ids(tensor: &Tensor) -> Vec<u32> {
    flat::<i64>(tensor)
        .iter()
        .map(|&id| u32::try_from(id).unwrap())
        .collect()
}

fn grids(tensors: &Tensors) -> Vec<Grid> {
    let Some(thw) = tensors.get("in.image_grid_thw") else {
        return vec![];
    };
    flat::<i64>(thw)
        .chunks(3)
        .map(|g| Grid {
            t: g[0] as usize,
            h: g[1] as usize,
            w: g[2] as usize,
        })
        .collect()
}

/// The largest excess over `atol + rtol |reference|`, which must not be positive.
fn close(what: &str, found: &Tensor, reference: &Tensor, atol: f32, rtol: f32) {
    let reference = reference.reshape(found.shape()).unwrap_or_else(|_| {
        panic!(
            "{what}: shape {:?} for {:?}",
            found.dims(),
            reference.dims()
        )
    });
    let (found, reference) = (flat::<f32>(found), flat::<f32>(&reference));
    let mut worst = (f32::NEG_INFINITY, 0.0);
    for (f, r) in found.iter().zip(&reference) {
        assert!(f.is_finite(), "{what} is not finite");
        let error = (f - r).abs();
        if error - atol - rtol * r.abs() > worst.0 {
            worst = (error - atol - rtol * r.abs(), error);
        }
    }
    println!("{what}: largest error {:.2e} (atol {atol:.0e})", worst.1);
    assert!(worst.0 <= 0.0, "{what}: error {:.3e}", worst.1);
}

fn pixels(dir: &Path, images: &[&str]) -> Tensor {
    let all = load(&dir.join("images/s1_tok128.torchvision.safetensors"));
    let parts: Vec<&Tensor> = images
        .iter()
        .map(|i| &all[&format!("{i}.out.pixel_values")])
        .collect();
    Tensor::cat(&parts, 0).unwrap()
}

#[test]
fn vision_tower() {
    let Some(dir) = fixtures() else { return };
    for checkpoint in CHECKPOINTS {
        let model = model(&dir, checkpoint);
        for case in ["img0", "img1", "img2", "img3", "img2+img0"] {
            let expected = load(&dir.join(format!("vision/{checkpoint}/{case}.safetensors")));
            let images: Vec<&str> = case.split('+').collect();
            let trace = model
                .trace_images(&pixels(&dir, &images), &grids(&expected))
                .unwrap();
            let what = format!("vision/{checkpoint}/{case}");
            assert_eq!(
                trace.layout.window_index,
                ids(&expected["out.window_index"]),
                "{what}"
            );
            if let Some(positions) = expected.get("out.pos_ids_hw") {
                assert_eq!(trace.layout.positions.concat(), ids(positions), "{what}");
            }
            for (key, lengths) in [
                ("out.cu_window_seqlens", &trace.layout.window_lengths),
                ("out.cu_seqlens", &trace.layout.frame_lengths),
            ] {
                let mut ends = vec![0];
                for length in lengths {
                    ends.push(ends[ends.len() - 1] + *length as i32);
                }
                assert_eq!(ends, flat::<i32>(&expected[key]), "{what} {key}");
            }
            for (index, block) in trace.blocks.iter().enumerate() {
                if let Some(reference) = expected.get(&format!("out.block.{index}")) {
                    close(
                        &format!("{what} block {index}"),
                        block,
                        reference,
                        1e-4,
                        1e-5,
                    );
                }
            }
            close(
                &format!("{what} merged"),
                &trace.merged,
                &expected["out.merged"],
                1e-4,
                1e-5,
            );
        }
    }
}

struct Case {
    prompts: Vec<Prompt>,
    expected: Tensors,
}

/// The rows of a case without their padding.
fn case(dir: &Path, model: &Model, checkpoint: &str, name: &str) -> Case {
    let text = std::fs::read_to_string(dir.join("model/cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let images: Vec<&str> = cases[name]["images"]
        .as_array()
        .map(|images| images.iter().map(|image| image.as_str().unwrap()).collect())
        .unwrap_or_default();
    let expected = load(&dir.join(format!("model/{checkpoint}/{name}.safetensors")));
    let all = grids(&expected);
    let merge = model.config().vision.spatial_merge_size;
    let (rows, length) = expected["in.input_ids"].dims2().unwrap();
    let flat_ids = ids(&expected["in.input_ids"]);
    let mask = flat::<i64>(&expected["in.attention_mask"]);
    let mut next = 0;
    let mut prompts = Vec::new();
    for row in 0..rows {
        let input_ids: Vec<u32> = (row * length..(row + 1) * length)
            .filter(|&at| mask[at] != 0)
            .map(|at| flat_ids[at])
            .collect();
        let slots = input_ids
            .iter()
            .filter(|&&id| id == model.config().image_token_id)
            .count();
        let first = next;
        let mut filled = 0;
        while filled < slots {
            filled += all[next].tokens(merge);
            next += 1;
        }
        let grids = all[first..next].to_vec();
        let image_features = (!grids.is_empty()).then(|| {
            model
                .encode_images(&pixels(dir, &images[first..next]), &grids)
                .unwrap()
        });
        prompts.push(Prompt {
            input_ids,
            image_features,
            grids,
        });
    }
    Case { prompts, expected }
}

fn run(model: &Model, prompts: &[Prompt]) -> (Tensor, Positions, AttentionLayout) {
    let embeddings: Vec<Tensor> = prompts
        .iter()
        .map(|p| {
            model
                .embed(&p.input_ids, p.image_features.as_ref())
                .unwrap()
        })
        .collect();
    let positions: Vec<Positions> = prompts
        .iter()
        .map(|p| model.positions(&p.input_ids, &p.grids).unwrap())
        .collect();
    let lengths: Vec<usize> = prompts.iter().map(|p| p.input_ids.len()).collect();
    let embeddings = Tensor::cat(&embeddings, 0).unwrap();
    (
        embeddings,
        Positions::concat(&positions),
        AttentionLayout::causal(&lengths),
    )
}

#[test]
fn hidden_states_logits_and_positions() {
    let Some(dir) = fixtures() else { return };
    for checkpoint in CHECKPOINTS {
        let model = model(&dir, checkpoint);
        for name in ["text_only", "one_image", "two_images", "multi_turn"] {
            let Case { prompts, expected } = case(&dir, &model, checkpoint, name);
            let what = |part: &str| format!("model/{checkpoint}/{name} {part}");
            let (embeddings, positions, layout) = run(&model, &prompts);
            let axes: Vec<u32> = (0..3)
                .flat_map(|axis| positions.axis(axis).to_vec())
                .collect();
            assert_eq!(
                axes,
                ids(&expected["out.position_ids"]),
                "{}",
                what("positions")
            );
            let delta = i64::from(positions.next()) - positions.len() as i64;
            assert_eq!(vec![delta], flat::<i64>(&expected["out.rope_deltas"]));
            if let Some(features) = &prompts[0].image_features {
                close(
                    &what("vision"),
                    features,
                    &expected["out.vision"],
                    1e-4,
                    1e-5,
                );
            }
            let residuals = model.residuals(&embeddings, &positions, &layout).unwrap();
            for (index, residual) in residuals.iter().enumerate() {
                let key = format!("out.hidden.{index}");
                close(&what(&key), residual, &expected[&key], 1e-3, 1e-5);
            }
            let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
            close(
                &what("final_norm"),
                &hidden,
                &expected["out.final_norm"],
                2e-4,
                1e-5,
            );
            let logits = model.logits(&hidden).unwrap();
            close(
                &what("logits"),
                &logits,
                &expected["out.logits"],
                2e-4,
                1e-5,
            );
        }
    }
}

#[test]
fn ragged_batches_are_packed() {
    let Some(dir) = fixtures() else { return };
    for checkpoint in CHECKPOINTS {
        let model = model(&dir, checkpoint);
        for name in ["batch_left", "batch_right"] {
            let Case { prompts, expected } = case(&dir, &model, checkpoint, name);
            let (embeddings, positions, layout) = run(&model, &prompts);
            let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
            let logits = model.logits(&hidden).unwrap();
            for (key, found) in [("out.final_norm", &hidden), ("out.logits", &logits)] {
                let valid = flat::<u8>(&expected[&format!("{key}.valid")]);
                let rows: Vec<u32> = (0..valid.len() as u32)
                    .filter(|&i| valid[i as usize] != 0)
                    .collect();
                let width = found.dim(1).unwrap();
                let reference = expected[key]
                    .reshape(((), width))
                    .unwrap()
                    .index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0)
                    .unwrap();
                close(
                    &format!("model/{checkpoint}/{name} {key}"),
                    found,
                    &reference,
                    2e-4,
                    1e-5,
                );
            }
        }
    }
}

#[test]
fn greedy_generation() {
    let Some(dir) = fixtures() else { return };
    for checkpoint in CHECKPOINTS {
        let model = model(&dir, checkpoint);
        for name in [
            "text_only",
            "one_image",
            "two_images",
            "multi_turn",
            "batch_left",
        ] {
            let Case { prompts, expected } = case(&dir, &model, checkpoint, name);
            for (key, penalty) in [("out.gen_ids", None), ("out.gen_rp105_ids", Some(1.05))] {
                let Some(reference) = expected.get(key) else {
                    continue;
                };
                let options = GenerationOptions {
                    max_new_tokens: 16,
                    temperature: 0.0,
                    top_p: None,
                    repetition_penalty: penalty,
                    stop_ids: vec![],
                };
                let seeds = vec![vec![0]; prompts.len()];
                let found = model.generate(&prompts, &seeds, &options).unwrap();
                let found: Vec<u32> = found.iter().flat_map(|s| s[0].token_ids.clone()).collect();
                assert_eq!(found, ids(reference), "model/{checkpoint}/{name} {key}");
            }
        }
    }
}

#[test]
fn gradients_of_every_parameter_and_of_the_embeddings() {
    let Some(dir) = fixtures() else { return };
    for checkpoint in CHECKPOINTS {
        let model = model(&dir, checkpoint);
        let expected = load(&dir.join(format!("grads/{checkpoint}.safetensors")));
        let grids = grids(&expected);
        let input_ids = ids(&expected["in.input_ids"]);
        let labels = flat::<i64>(&expected["in.labels"]);
        let (rows, targets): (Vec<u32>, Vec<u32>) = (1..labels.len())
            .filter(|&at| labels[at] >= 0)
            .map(|at| (at as u32 - 1, labels[at] as u32))
            .unzip();
        // Cross entropy over the whole vocabulary: vision tokens are not banned here.
        let loss = |hidden: &Tensor| {
            let rows = Tensor::new(rows.clone(), &Device::Cpu)?;
            let hidden = hidden.index_select(&rows, 0)?;
            let logits = model.logits(&hidden)?;
            let shifted = logits.broadcast_sub(&logits.max_keepdim(1)?.detach())?;
            let chosen = shifted.gather(
                &Tensor::new(targets.clone(), &Device::Cpu)?.unsqueeze(1)?,
                1,
            )?;
            (shifted.exp()?.sum_keepdim(1)?.log()? - chosen)?.mean_all()
        };
        // All of the reference's grads cases show one image.
        let text = std::fs::read_to_string(dir.join("grads/grads.json")).unwrap();
        let messages: serde_json::Value = serde_json::from_str(&text).unwrap();
        let images: Vec<String> = messages[checkpoint]["messages"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|m| m["content"].as_array().cloned().unwrap_or_default())
            .filter_map(|part| part["image"].as_str().map(str::to_string))
            .collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let features = model.encode_images(&pixels(&dir, &images), &grids).unwrap();
        let embeddings = model.embed(&input_ids, Some(&features)).unwrap();
        let positions = model.positions(&input_ids, &grids).unwrap();
        let layout = AttentionLayout::causal(&[input_ids.len()]);

        let plain = {
            let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
            let value = loss(&hidden).unwrap();
            close(
                &format!("grads/{checkpoint} loss"),
                &value,
                &expected["out.loss"],
                1e-5,
                1e-6,
            );
            value.backward().unwrap()
        };
        let (value, recomputed) = model
            .backward_with_recompute(&embeddings, &positions, &layout, loss)
            .unwrap();
        close(
            &format!("grads/{checkpoint} recomputed loss"),
            &value,
            &expected["out.loss"],
            1e-5,
            1e-6,
        );
        let trainable = model.trainable();
        let references = expected
            .keys()
            .filter(|k| k.starts_with("out.grad."))
            .count();
        assert_eq!(trainable.len(), references);
        for (name, variable) in &trainable {
            let gradient = plain
                .get(variable)
                .unwrap_or_else(|| panic!("{name} has no gradient"));
            let reference = &expected[&format!("out.grad.{name}")];
            close(
                &format!("grads/{checkpoint} {name}"),
                gradient,
                reference,
                5e-5,
                1e-4,
            );
            let again = recomputed
                .get(variable)
                .unwrap_or_else(|| panic!("{name}: none recomputed"));
            assert_eq!(
                flat::<f32>(gradient),
                flat::<f32>(again),
                "{name}: recompute differs"
            );
        }
        let leaf = Var::from_tensor(&embeddings.detach()).unwrap();
        let hidden = model
            .detached()
            .unwrap()
            .hidden(&leaf, &positions, &layout)
            .unwrap();
        let gradients = loss(&hidden).unwrap().backward().unwrap();
        let found = gradients.get(&leaf).unwrap();
        close(
            &format!("grads/{checkpoint} embeddings"),
            found,
            &expected["out.grad_inputs_embeds"],
            5e-5,
            1e-4,
        );
    }
}
