//! What a training loop rests on: adapters that train alone beside a reference without a copy, and
//! activation recompute that changes no gradient.

mod common;

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use common::{model, pixels, prompt, values};
use fused_ops::AttentionLayout;
use qwen2_5_vl::{Grid, LoraOptions, Model, ModelPart, Positions};
use seeded_random::{Draw, Stream};

fn lora(targets: &[&str]) -> LoraOptions {
    LoraOptions {
        rank: 3,
        alpha: 6.0,
        targets: targets.iter().map(|target| target.to_string()).collect(),
    }
}

/// Adapters that do something: fresh ones add nothing, and half of their gradients are zero.
fn disturb(model: &Model) {
    let mut draw = Stream::new(4).generator();
    for (_, variable) in model.adapters() {
        let count = variable.elem_count();
        let noise: Vec<f32> = (0..count).map(|_| draw.normal() as f32 * 0.1).collect();
        let noise = Tensor::from_vec(noise, variable.dims(), &Device::Cpu).unwrap();
        let noise = noise.to_dtype(variable.dtype()).unwrap();
        let value = (variable.as_detached_tensor() + noise).unwrap();
        variable.set(&value).unwrap();
    }
}

/// A prompt with an image, of which the last tokens are scored.
struct Case {
    ids: Vec<u32>,
    positions: Positions,
    layout: AttentionLayout,
    features: Tensor,
    some: Vec<usize>,
    targets: Vec<u32>,
}

impl Case {
    fn new(model: &Model) -> Self {
        let grid = Grid { t: 1, h: 12, w: 6 };
        let features = model.encode_images(&pixels(&grid, 5), &[grid]).unwrap();
        let ids = prompt(model, 5, 9).input_ids;
        let some: Vec<usize> = (ids.len() - 6..ids.len()).filter(|i| i % 3 != 0).collect();
        Case {
            positions: model.positions(&ids, &[grid]).unwrap(),
            layout: AttentionLayout::causal(&[ids.len()]),
            targets: some.iter().map(|&token| ids[token] % 30).collect(),
            ids,
            features,
            some,
        }
    }

    fn head(&self, model: &Model, hidden: &Tensor) -> candle_core::Result<Tensor> {
        let scored = model.token_log_probs(hidden, &self.targets, 0.7)?;
        scored.log_probs.sqr()?.mean_all()
    }

    fn embed(&self, model: &Model) -> Tensor {
        model.embed(&self.ids, Some(&self.features)).unwrap()
    }

    fn plain(&self, model: &Model) -> (Tensor, GradStore) {
        let embeddings = self.embed(model);
        let hidden = model
            .hidden_of(&self.some, &embeddings, &self.positions, &self.layout)
            .unwrap();
        let value = self.head(model, &hidden).unwrap();
        let gradients = value.backward().unwrap();
        (value, gradients)
    }

    fn recomputed(&self, model: &Model) -> (Tensor, GradStore) {
        let embeddings = self.embed(model);
        let head = |hidden: &Tensor| self.head(model, hidden);
        model
            .backward_with_recompute_of(
                &self.some,
                &embeddings,
                &self.positions,
                &self.layout,
                head,
            )
            .unwrap()
    }
}

fn wide(tensor: &Tensor) -> Vec<f32> {
    values(&tensor.to_dtype(DType::F32).unwrap())
}

fn of_each(parameters: &[(String, Var)], gradients: &GradStore) -> BTreeMap<String, Vec<f32>> {
    let found = parameters.iter().filter_map(|(name, variable)| {
        let gradient = gradients.get(variable)?;
        Some((name.clone(), wide(gradient)))
    });
    found.collect()
}

/// Bitwise, whole or with adapters, in f32 (fused kernels) and bf16 (composed operators).
#[test]
fn recompute_of_some_tokens_gives_the_same_gradients() {
    for dtype in [DType::F32, DType::BF16] {
        for adapted in [false, true] {
            let mut model = model(false, 2).copy(dtype).unwrap();
            match adapted {
                true => {
                    let targets = ["q_proj", "v_proj", "mlp.down_proj"];
                    model.add_lora(&lora(&targets), Stream::new(9)).unwrap();
                    disturb(&model);
                }
                false => model
                    .freeze(&[ModelPart::Vision, ModelPart::Merger])
                    .unwrap(),
            }
            let case = Case::new(&model);
            let (value, expected) = case.plain(&model);
            let (again, found) = case.recomputed(&model);
            assert_eq!(wide(&value), wide(&again));
            let trained = model.trainable();
            let expected = of_each(&trained, &expected);
            assert_eq!(expected, of_each(&trained, &found));
            assert!(expected.len() > 10, "{}", expected.len());
            for (name, gradient) in &expected {
                assert!(gradient.iter().all(|value| value.is_finite()), "{name}");
                // The biases of keys shift all scores of a query alike.
                let exempt = name.ends_with("k_proj.bias");
                assert!(
                    exempt || gradient.iter().any(|&value| value != 0.0),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn the_reference_is_the_model_without_its_adapters_and_shares_its_parameters() {
    let plain = model(true, 1);
    let mut adapted = model(true, 1);
    // Everything trains: the "reference" would move.
    let refused = adapted.reference().unwrap_err().to_string();
    assert!(refused.contains("trains"), "{refused}");
    adapted
        .add_lora(&lora(&["q_proj", "mlp.up_proj"]), Stream::new(9))
        .unwrap();
    let reference = adapted.reference().unwrap();
    let case = Case::new(&plain);
    let value = |model: &Model| case.plain(model).0.to_scalar::<f32>().unwrap();
    let expected = value(&plain);
    assert_eq!(value(&adapted), expected);
    disturb(&adapted);
    assert_ne!(value(&adapted), expected);
    assert_eq!(value(&reference), expected);
    assert!(reference.trainable().is_empty() && reference.adapters().is_empty());
    for ((name, own), (_, shared)) in adapted
        .parameters()
        .iter()
        .zip(reference.parameters().iter())
    {
        assert_eq!(own.id(), shared.id(), "{name}");
    }
    let layers = adapted.config().text.num_hidden_layers;
    assert_eq!(adapted.adapters().len(), 2 * 2 * layers);
    let names = |list: Vec<(String, Var)>| list.into_iter().map(|(n, _)| n).collect::<Vec<_>>();
    assert_eq!(names(adapted.adapters()), names(adapted.trainable()));
}
