//! Captum 0.9's numbers, from `../shared/parity/ig`: quadrature points, block masses, divergences.
//! The attribution of a whole model is checked where the model is.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use attribution::{
    BlockMass, Blocks, Distribution, Quadrature, Rule, jensen_shannon, kl, reverse_kl,
};
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

fn folder() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let folder = root.join("shared/parity/ig");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: ../shared is absent");
    None
}

fn json(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

fn tensors(folder: &Path, model: &str) -> HashMap<String, Tensor> {
    let path = folder.join(format!("{model}.safetensors"));
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect()
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor
        .flatten_all()
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap()
        .to_vec1()
        .unwrap()
}

fn labels(value: &Value) -> Blocks {
    let labels = numbers(value)
        .into_iter()
        .map(|label| label as usize)
        .collect();
    Blocks::new(labels, 4).unwrap()
}

fn rule(name: &str, nodes: usize) -> Quadrature {
    match name {
        "gausslegendre" => Quadrature::GaussLegendre { nodes },
        "riemann_middle" => Quadrature::Riemann {
            rule: Rule::Middle,
            nodes,
        },
        _ => Quadrature::Riemann {
            rule: Rule::Trapezoid,
            nodes,
        },
    }
}

#[test]
fn quadrature_points_match() {
    let Some(folder) = folder() else { return };
    let results = json(&folder, "ig.json");
    for model in ["student", "teacher"] {
        let tensors = tensors(&folder, model);
        for name in ["gausslegendre", "riemann_middle", "riemann_trapezoid"] {
            for n in [8, 32, 256] {
                let nodes = rule(name, n).nodes().unwrap();
                // At 256 the fixtures keep the sum of weights alone.
                let sum: f64 = nodes.iter().map(|node| node.weight).sum();
                let expected = &results[model]["results"][format!("{name}.{n}")]["weights_sum"];
                assert!((sum - expected.as_f64().unwrap()).abs() < 1e-13);
                let Some(alphas) = tensors.get(&format!("out.alphas.{name}.{n}")) else {
                    assert_eq!(n, 256);
                    continue;
                };
                let weights = &tensors[&format!("out.weights.{name}.{n}")];
                for (node, (alpha, weight)) in nodes
                    .iter()
                    .zip(floats(alphas).into_iter().zip(floats(weights)))
                {
                    assert!((node.alpha - alpha).abs() < 1e-7, "{name} {n}");
                    assert!((node.weight - weight).abs() < 1e-7, "{name} {n}");
                }
            }
        }
    }
}

fn near(what: &str, found: f64, expected: &Value) {
    let expected = expected.as_f64().unwrap();
    let bound = 1e-12 + 1e-10 * expected.abs();
    assert!(
        (found - expected).abs() <= bound,
        "{what}: {found} {expected}"
    );
}

#[test]
fn synthetic_blocks_match() {
    let Some(folder) = folder() else { return };
    let cases = json(&folder, "blocks_synthetic.json");
    assert_eq!(cases.as_array().unwrap().len(), 12);
    for case in cases.as_array().unwrap() {
        let note = case["note"].as_str().unwrap();
        let blocks = labels(&case["labels"]);
        let masses = |who: &str| {
            let scores: Vec<f32> = numbers(&case[format!("{who}_scores")])
                .iter()
                .map(|&s| s as f32)
                .collect();
            let masses = blocks.masses(&scores, BlockMass::Absolute, None).unwrap();
            let plain = Distribution::new(&masses, 0.0).unwrap();
            for (found, expected) in plain
                .shares()
                .iter()
                .zip(numbers(&case[format!("{who}_mass")]))
            {
                assert!((found - expected).abs() < 1e-12, "{note}");
            }
            masses
        };
        let (student, teacher) = (masses("student"), masses("teacher"));
        for (name, eps) in [("eps_1e_6", 1e-6), ("eps_1e_8", 1e-8), ("eps_1e_12", 1e-12)] {
            let p = Distribution::new(&student, eps).unwrap();
            let q = Distribution::new(&teacher, eps).unwrap();
            let expected = &case[name];
            near(note, kl(&p, &q).unwrap(), &expected["kl_student_teacher"]);
            near(
                note,
                reverse_kl(&p, &q).unwrap(),
                &expected["kl_teacher_student"],
            );
            near(note, jensen_shannon(&p, &q).unwrap(), &expected["js"]);
        }
    }
}

/// From the stored scores of both models to masses, signed sums, gaps and divergences.
#[test]
fn recorded_scores_give_the_recorded_divergences() {
    let Some(folder) = folder() else { return };
    let results = json(&folder, "ig.json");
    let eps = results["eps"].as_f64().unwrap();
    let recorded = results["divergences_student_vs_teacher"]
        .as_object()
        .unwrap();
    assert_eq!(recorded.len(), 10);
    let fixtures = ["student", "teacher"].map(|model| (model, tensors(&folder, model)));
    for (name, expected) in recorded {
        let [p, q] = fixtures.each_ref().map(|(model, tensors)| {
            let blocks = labels(&results[model]["block_labels"]);
            let scores: Vec<f32> = tensors[&format!("out.scores.{name}")].to_vec1().unwrap();
            let masses = blocks.masses(&scores, BlockMass::Absolute, None).unwrap();
            let result = &results[model]["results"][name];
            let plain = Distribution::new(&masses, 0.0).unwrap();
            // The fixtures' masses come from scores before their rounding to f32.
            for (found, expected) in plain.shares().iter().zip(numbers(&result["block_mass"])) {
                assert!((found - expected).abs() < 1e-6, "{model} {name}");
            }
            let signed = blocks.masses(&scores, BlockMass::Signed, None).unwrap();
            for (found, expected) in signed.iter().zip(numbers(&result["signed_block_sum"])) {
                assert!((found - expected.abs()).abs() <= 1e-5 + 1e-5 * expected.abs());
            }
            Distribution::new(&masses, eps).unwrap()
        });
        let close = |found: f64, key: &str| {
            let expected = expected[key].as_f64().unwrap();
            assert!(
                (found - expected).abs() < 1e-6,
                "{name} {key}: {found} {expected}"
            );
        };
        close(kl(&p, &q).unwrap(), "kl_student_teacher");
        close(reverse_kl(&p, &q).unwrap(), "kl_teacher_student");
        close(jensen_shannon(&p, &q).unwrap(), "js");
    }
}
