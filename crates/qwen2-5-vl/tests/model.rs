//! The model's own laws: what freezes, what gets gradients, what is an error.

mod common;

use std::collections::BTreeSet;

use candle_core::{DType, Device, Tensor, Var};
use common::{config, largest_difference, model, options, pixels, prompt, values};
use fused_ops::{AttentionLayout, QueryBlock, Segment};
use qwen2_5_vl::{Grid, LoraOptions, Model, ModelPart, Positions, Prompt};
use seeded_random::Stream;

/// Mean negative log-probability of a prompt's last tokens, images encoded on the way.
fn loss(model: &Model) -> Tensor {
    let grid = Grid { t: 1, h: 12, w: 6 };
    let features = model.encode_images(&pixels(&grid, 5), &[grid]).unwrap();
    let ids = prompt(model, 5, 9).input_ids;
    let embeddings = model.embed(&ids, Some(&features)).unwrap();
    let positions = model.positions(&ids, &[grid]).unwrap();
    let layout = AttentionLayout::causal(&[ids.len()]);
    let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
    let first = ids.len() - 9;
    let hidden = hidden
        .narrow(0, first - 1, 9)
        .unwrap()
        .contiguous()
        .unwrap();
    let log_probs = model
        .token_log_probs(&hidden, &ids[first..], 1.0)
        .unwrap()
        .log_probs;
    log_probs.mean_all().unwrap().neg().unwrap()
}

#[test]
fn every_parameter_gets_a_gradient() {
    for tied in [true, false] {
        let model = model(tied, 1);
        let gradients = loss(&model).backward().unwrap();
        let trainable = model.trainable();
        assert_eq!(trainable.len(), model.parameters().len());
        for (name, variable) in trainable {
            let gradient = gradients
                .get(&variable)
                .unwrap_or_else(|| panic!("{name}: none"));
            let gradient = values(gradient);
            assert!(
                gradient.iter().all(|g| g.is_finite()),
                "{name} is not finite"
            );
            assert!(gradient.iter().any(|g| *g != 0.0), "{name} is zero");
        }
    }
}

#[test]
fn a_frozen_part_gets_none_and_the_rest_stays_the_same() {
    let mut model = model(false, 1);
    let all = loss(&model).backward().unwrap();
    let parts = [
        ModelPart::Vision,
        ModelPart::Merger,
        ModelPart::Embeddings,
        ModelPart::Layer(1),
        ModelPart::FinalNorm,
        ModelPart::Head,
    ];
    for part in parts {
        model.freeze(&[part]).unwrap();
        let gradients = loss(&model).backward().unwrap();
        let trainable: BTreeSet<String> = model
            .trainable()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        for (name, variable) in model.parameters().iter() {
            let frozen = ModelPart::of(name) == Some(part);
            assert_eq!(trainable.contains(name), !frozen, "{name}");
            match gradients.get(variable) {
                Some(gradient) => {
                    assert!(!frozen, "{name} is frozen and has a gradient");
                    assert_eq!(
                        values(gradient),
                        values(all.get(variable).unwrap()),
                        "{name}"
                    );
                }
                None => assert!(frozen, "{name} lost its gradient"),
            }
        }
        model.unfreeze(&[part]).unwrap();
    }
    assert!(model.freeze(&[ModelPart::Layer(3)]).is_err());
    assert!(common::model(true, 1).freeze(&[ModelPart::Head]).is_err());
}

#[test]
fn an_update_shows_in_frozen_views_but_not_in_copies() {
    let model = model(true, 1);
    let (view, copy) = (model.detached().unwrap(), model.copy(DType::F32).unwrap());
    let before = loss(&model).to_scalar::<f32>().unwrap();
    for (_, variable) in model.trainable() {
        variable
            .set(&(variable.as_detached_tensor() * 0.9).unwrap())
            .unwrap();
    }
    let after = loss(&model).to_scalar::<f32>().unwrap();
    assert_ne!(before, after);
    assert_eq!(loss(&view).to_scalar::<f32>().unwrap(), after);
    assert_eq!(loss(&copy).to_scalar::<f32>().unwrap(), before);
    assert!(view.trainable().is_empty() && !loss(&view).track_op());
}

#[test]
fn adapters_start_as_nothing_train_alone_and_merge() {
    let mut model = model(true, 1);
    let before = loss(&model).to_scalar::<f32>().unwrap();
    let targets = ["q_proj", "mlp.down_proj", "visual.attn.qkv"]
        .map(String::from)
        .to_vec();
    let lora = LoraOptions {
        rank: 3,
        alpha: 6.0,
        targets,
    };
    model.add_lora(&lora, Stream::new(9)).unwrap();
    assert_eq!(loss(&model).to_scalar::<f32>().unwrap(), before);
    let adapters = model.trainable();
    assert_eq!(adapters.len(), 2 * 3 * 3);
    assert!(adapters.iter().all(|(name, _)| name.contains(".lora_")));
    // The up projections are zero at first, so only they get a gradient; one step later all do.
    for step in 0..2 {
        let gradients = loss(&model).backward().unwrap();
        for (name, variable) in &adapters {
            let gradient = gradients
                .get(variable)
                .unwrap_or_else(|| panic!("{name}: none"));
            let moves = values(gradient).iter().any(|g| *g != 0.0);
            assert_eq!(
                moves,
                step > 0 || name.contains("lora_B"),
                "{name} at step {step}"
            );
            variable
                .set(&(variable.as_detached_tensor() - (gradient * 0.1).unwrap()).unwrap())
                .unwrap();
        }
        assert!(
            model
                .parameters()
                .iter()
                .all(|(_, v)| gradients.get(v).is_none())
        );
    }
    let trained = loss(&model).to_scalar::<f32>().unwrap();
    assert!(trained < before, "{trained} is not below {before}");
    let dir = tempfile::tempdir().unwrap();
    model.save(dir.path()).unwrap();
    let merged = Model::load(dir.path(), &Device::Cpu, DType::F32).unwrap();
    assert!((loss(&merged).to_scalar::<f32>().unwrap() - trained).abs() < 1e-5);
    assert!(model.add_lora(&lora, Stream::new(9)).is_err());
    let unknown = LoraOptions {
        targets: vec!["w_proj".into()],
        ..lora
    };
    let mut fresh = common::model(true, 1);
    assert!(fresh.add_lora(&unknown, Stream::new(9)).is_err());
}

#[test]
fn recompute_gives_the_same_gradients() {
    for (tied, frozen) in [
        (true, vec![]),
        (false, vec![ModelPart::Vision, ModelPart::Merger]),
        (
            false,
            vec![
                ModelPart::Vision,
                ModelPart::Merger,
                ModelPart::Embeddings,
                ModelPart::Layer(0),
                ModelPart::Head,
            ],
        ),
    ] {
        let mut model = model(tied, 2);
        model.freeze(&frozen).unwrap();
        let grid = Grid { t: 1, h: 12, w: 6 };
        let features = model.encode_images(&pixels(&grid, 5), &[grid]).unwrap();
        let ids = prompt(&model, 5, 9).input_ids;
        let embeddings = model.embed(&ids, Some(&features)).unwrap();
        let positions = model.positions(&ids, &[grid]).unwrap();
        let layout = AttentionLayout::causal(&[ids.len()]);
        let targets: Vec<u32> = ids.iter().map(|id| id % 30).collect();
        let head = |hidden: &Tensor| -> candle_core::Result<Tensor> {
            let log_probs = model.token_log_probs(hidden, &targets, 0.7)?.log_probs;
            (log_probs.sqr()?.mean_all()? * 0.5)?.neg()
        };
        let plain = head(&model.hidden(&embeddings, &positions, &layout).unwrap()).unwrap();
        let expected = plain.backward().unwrap();
        let (value, found) = model
            .backward_with_recompute(&embeddings, &positions, &layout, head)
            .unwrap();
        assert_eq!(
            value.to_scalar::<f32>().unwrap(),
            plain.to_scalar::<f32>().unwrap()
        );
        for (name, variable) in model.parameters().iter() {
            let of =
                |gradients: &candle_core::backprop::GradStore| gradients.get(variable).map(values);
            assert_eq!(of(&found), of(&expected), "{name}");
        }
    }
}

/// Two prompts, one with two continuations; the tokens are those that log-probabilities need.
#[test]
fn hidden_states_of_some_tokens_are_those_of_all() {
    let model = model(true, 2);
    let ids: Vec<u32> = (0..24).map(|token| token * 5 % 30).collect();
    let embeddings = model.embed(&ids, None).unwrap();
    let text = Positions::text;
    let positions = [text(0, 9), text(9, 4), text(9, 1), text(0, 7), text(7, 3)];
    let positions = Positions::concat(&positions);
    let segment = |length, parent| Segment { length, parent };
    let layout = AttentionLayout::tree(&[
        segment(9, None),
        segment(4, Some(0)),
        segment(1, Some(0)),
        segment(7, None),
        segment(3, Some(3)),
    ])
    .unwrap();
    let some: [usize; 10] = [8, 9, 10, 11, 12, 13, 20, 21, 22, 23];
    let index = Tensor::new(&some.map(|token| token as u32), &Device::Cpu).unwrap();
    let all = model.hidden(&embeddings, &positions, &layout).unwrap();
    let expected = all.index_select(&index, 0).unwrap();
    let found = model
        .hidden_of(&some, &embeddings, &positions, &layout)
        .unwrap();
    let close = |name: &str, found: &Tensor, expected: &Tensor| {
        for (a, b) in values(found).iter().zip(values(expected)) {
            assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{name}: {a}, {b}");
        }
    };
    close("hidden", &found, &expected);
    let gradients = |hidden: &Tensor| hidden.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let (found, expected) = (gradients(&found), gradients(&expected));
    for (name, variable) in model.parameters().iter() {
        match (found.get(variable), expected.get(variable)) {
            (Some(found), Some(expected)) => close(name, found, expected),
            (found, expected) => assert_eq!(found.is_some(), expected.is_some(), "{name}"),
        }
    }
    for wrong in [&[3, 3][..], &[24][..]] {
        assert!(
            model
                .hidden_of(wrong, &embeddings, &positions, &layout)
                .is_err()
        );
    }
}

/// Two prompts run once, with continuations of one and of four tokens together, beside each as a sequence;
/// with the layers kept, and with adapters, where they are graphs.
#[test]
fn continuations_of_a_prefix_are_those_of_sequences() {
    let mut adapted = model(true, 2);
    let options = LoraOptions {
        rank: 2,
        alpha: 4.0,
        targets: vec!["q_proj".into(), "down_proj".into()],
    };
    adapted.add_lora(&options, Stream::new(3)).unwrap();
    for (name, variable) in adapted.trainable() {
        let values = (variable.as_tensor() + 0.1).unwrap();
        variable
            .set(&values)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for model in [model(true, 2), adapted] {
        let ids: Vec<u32> = (0..19).map(|token| token * 5 % 30).collect();
        let whole = model.embed(&ids, None).unwrap().detach();
        let prompts = whole.narrow(0, 0, 13).unwrap();
        let text = Positions::text;
        let prefix = model
            .prefix(
                &prompts,
                &Positions::concat(&[text(0, 6), text(0, 7)]),
                &AttentionLayout::causal(&[6, 7]),
            )
            .unwrap();
        // By continuation: its length, its first word, its first row.
        let (calls, rows) = ([(1, 13, 0), (4, 15, 2)], 10);
        let (mut words, mut positions, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (length, from, first)) in calls.into_iter().enumerate() {
            for (prompt, range) in [0..6, 6..13].into_iter().enumerate() {
                words.push(whole.narrow(0, from, length).unwrap());
                positions.push(text(range.len() as u32, length));
                let first = first + prompt * length;
                let visible = index * 13 + range.start..index * 13 + range.end;
                blocks.push(QueryBlock {
                    queries: first..first + length,
                    visible: vec![visible],
                    causal: Some(2 * 13 + first),
                });
            }
        }
        let layout = AttentionLayout::new(blocks, rows, 2 * 13 + rows).unwrap();
        let words = Tensor::cat(&words, 0).unwrap();
        let positions = Positions::concat(&positions);
        let found = model
            .continuations(&prefix, 2, &words, &positions, &layout)
            .unwrap();
        let end = |hidden: &Tensor| hidden.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let [of_prefix, of_words] = prefix.backward(&found, &end(found.hidden())).unwrap();
        assert_eq!(of_prefix.dims(), [2, 13, whole.dim(1).unwrap()]);

        let close = |name: &str, found: Tensor, expected: Tensor| {
            let (found, expected) = (values(&found), values(&expected));
            let off = largest_difference(&found, &expected);
            let largest = expected
                .iter()
                .fold(1f32, |most, value| most.max(value.abs()));
            assert!(off < 1e-5 * largest, "{name}: {off} of {largest}");
        };
        for (index, (length, _, first)) in calls.into_iter().enumerate() {
            for (prompt, range) in [0..6, 6..13].into_iter().enumerate() {
                let first = first + prompt * length;
                let parts = [
                    prompts.narrow(0, range.start, range.len()).unwrap(),
                    words.narrow(0, first, length).unwrap(),
                ];
                let sequence = Var::from_tensor(&Tensor::cat(&parts, 0).unwrap()).unwrap();
                let tokens = range.len() + length;
                let layout = AttentionLayout::causal(&[tokens]);
                let hidden = model.hidden(&sequence, &text(0, tokens), &layout).unwrap();
                let hidden = hidden.narrow(0, range.len(), length).unwrap();
                let gradients = end(&hidden);
                let gradient = gradients.get(&sequence).unwrap();
                let own = found.hidden().narrow(0, first, length).unwrap();
                close("hidden", own, hidden);
                let own = of_words.narrow(0, first, length).unwrap();
                let expected = gradient.narrow(0, range.len(), length).unwrap();
                close("gradient of words", own, expected);
                let own = of_prefix.get(index).unwrap();
                let own = own.narrow(0, range.start, range.len()).unwrap();
                let expected = gradient.narrow(0, 0, range.len()).unwrap();
                close("gradient of a prompt", own, expected);
            }
        }
        let other = AttentionLayout::causal(&[rows]);
        let refused = model.continuations(&prefix, 2, &words, &positions, &other);
        assert!(refused.is_err());
        let elsewhere = end(&Var::from_tensor(&words).unwrap());
        assert!(prefix.backward(&found, &elsewhere).is_err());
    }
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    let model = model(true, 1);
    let prompts = [prompt(&model, 1, 4), prompt(&model, 2, 11)];
    let run = |prompts: &[Prompt]| {
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
        let layout = AttentionLayout::causal(&lengths);
        values(
            &model
                .hidden(&embeddings, &Positions::concat(&positions), &layout)
                .unwrap(),
        )
    };
    let alone: Vec<f32> = prompts
        .iter()
        .flat_map(|p| run(std::slice::from_ref(p)))
        .collect();
    assert!(largest_difference(&run(&prompts), &alone) < 1e-5);
}

#[test]
fn images_that_do_not_fit_are_errors_with_both_counts() {
    let model = model(true, 1);
    let prompt = prompt(&model, 1, 3);
    let features = prompt.image_features.clone().unwrap();
    let fewer = features.narrow(0, 0, 17).unwrap();
    let message = model
        .embed(&prompt.input_ids, Some(&fewer))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("18 image tokens") && message.contains("17 image features"),
        "{message}"
    );
    assert!(model.embed(&[1, 2], Some(&features)).is_err());
    assert!(model.embed(&prompt.input_ids, None).is_err());
    assert!(
        model
            .embed(&[40], None)
            .unwrap_err()
            .to_string()
            .contains("40 entries")
    );
    let grid = Grid { t: 1, h: 12, w: 6 };
    assert!(
        model
            .encode_images(&pixels(&grid, 1), &[grid, grid])
            .is_err()
    );
    assert!(
        model
            .encode_images(&pixels(&grid, 1), &[Grid { h: 9, w: 8, t: 1 }])
            .is_err()
    );
    let short = Prompt {
        image_features: Some(fewer),
        ..prompt.clone()
    };
    let two = [prompt.clone(), short];
    let message = model
        .generate(&two, &[vec![Some(1)], vec![Some(1)]], &options(1.0))
        .unwrap_err()
        .to_string();
    assert!(
        message.starts_with("prompt 1: the input has 18 image tokens, but there are 17"),
        "{message}"
    );
    let wrong = Prompt {
        grids: vec![],
        ..prompt.clone()
    };
    assert!(
        model
            .generate(&[wrong], &[vec![Some(1)]], &options(1.0))
            .is_err()
    );
    let empty = Prompt {
        input_ids: vec![],
        image_features: None,
        grids: vec![],
    };
    assert!(
        model
            .generate(&[empty], &[vec![Some(1)]], &options(1.0))
            .is_err()
    );
    assert!(model.generate(&[prompt], &[], &options(1.0)).is_err());
}

#[test]
fn bf16_trains_too() {
    let model = model(true, 1).copy(DType::BF16).unwrap();
    let exact = loss(&common::model(true, 1)).to_scalar::<f32>().unwrap();
    let value = loss(&model);
    let found = value
        .to_dtype(DType::F32)
        .unwrap()
        .to_scalar::<f32>()
        .unwrap();
    assert!(
        (found - exact).abs() < 0.05 * exact.abs(),
        "{found} for {exact}"
    );
    let gradients = value.backward().unwrap();
    for (name, variable) in model.trainable() {
        let gradient = gradients
            .get(&variable)
            .unwrap_or_else(|| panic!("{name}: none"));
        assert!(
            values(&gradient.to_dtype(DType::F32).unwrap())
                .iter()
                .all(|g| g.is_finite()),
            "{name}"
        );
    }
    let prompt = prompt(&model, 1, 3);
    let samples = model
        .generate(&[prompt], &[vec![Some(1), Some(2)]], &options(1.0))
        .unwrap();
    assert_eq!(samples[0].len(), 2);
}

#[test]
fn embedding_gradients_reach_a_variable() {
    let model = model(true, 1).detached().unwrap();
    let prompt = prompt(&model, 1, 3);
    let embeddings = model
        .embed(&prompt.input_ids, prompt.image_features.as_ref())
        .unwrap();
    let leaf = Var::from_tensor(&embeddings).unwrap();
    let positions = model.positions(&prompt.input_ids, &prompt.grids).unwrap();
    let layout = AttentionLayout::causal(&[positions.len()]);
    let hidden = model.hidden(&leaf, &positions, &layout).unwrap();
    let gradients = hidden.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    assert!(
        values(gradients.get(&leaf).unwrap())
            .iter()
            .all(|g| g.is_finite())
    );
    assert!(config(true) == *model.config());
}

#[test]
fn an_update_of_any_parameter_shows_in_a_model_that_shares_it() {
    let model = model(false, 1);
    let detached = model.detached().unwrap();
    let grid = Grid { t: 1, h: 4, w: 4 };
    let encode = |model: &Model| {
        let features = model.image_features(&[(common::pixels(&grid, 1), grid)], 4);
        common::values(&features.unwrap()[0])
    };
    for (name, variable) in model.trainable() {
        if !name.starts_with("visual.") {
            continue;
        }
        let (before, of_detached) = (encode(&model), encode(&detached));
        assert_eq!(before, of_detached);
        let value = (variable.as_detached_tensor() + 0.1).unwrap();
        variable.set(&value).unwrap();
        assert_eq!(encode(&model), encode(&detached), "{name}");
        // The bias of the keys alone shifts all scores of a query alike, but not that of queries and values.
        assert_ne!(encode(&model), before, "{name}");
    }
}
