//! Generation's laws: a sample depends on its prompt and seed alone, its log-probabilities are those
//! of training, vision tokens never appear.

mod common;

use std::collections::BTreeSet;

use candle_core::{Device, Tensor};
use common::{largest_difference, model, options, prompt, values};
use fused_ops::{AttentionLayout, Segment};
use qwen2_5_vl::{GenerationOptions, Model, Positions, Prompt, Sampled};

#[test]
fn a_batch_generates_what_each_prompt_does_alone() {
    let model = model(true, 3);
    let prompts: Vec<Prompt> = (0..4)
        .map(|i| prompt(&model, i, 3 + 2 * i as usize))
        .collect();
    // The last sample of each is greedy beside the others.
    let seeds: Vec<Vec<Option<u64>>> = (0..4)
        .map(|i| {
            let sampled = (0..=i).map(|s| Some(100 * i + s));
            sampled.chain([None]).collect()
        })
        .collect();
    for (temperature, top_p, penalty) in [
        (1.0, None, None),
        (0.8, Some(0.9), Some(1.3)),
        (0.0, None, None),
    ] {
        let options = GenerationOptions {
            top_p,
            repetition_penalty: penalty,
            ..options(temperature)
        };
        let together = model.generate(&prompts, &seeds, &options).unwrap();
        for (index, prompt) in prompts.iter().enumerate() {
            for (sample, &seed) in seeds[index].iter().enumerate() {
                let alone = model
                    .generate(std::slice::from_ref(prompt), &[vec![seed]], &options)
                    .unwrap();
                let (found, expected) = (&together[index][sample], &alone[0][0]);
                assert_eq!(found.token_ids, expected.token_ids);
                assert_eq!(found.stopped, expected.stopped);
                if seed.is_none() {
                    let greedy = GenerationOptions {
                        temperature: 0.0,
                        ..options.clone()
                    };
                    let alone = model
                        .generate(std::slice::from_ref(prompt), &[vec![Some(1)]], &greedy)
                        .unwrap();
                    assert_eq!(found.token_ids, alone[0][0].token_ids);
                }
                assert!(largest_difference(&found.log_probs, &expected.log_probs) < 1e-4);
            }
        }
        let lengths: BTreeSet<usize> = together
            .iter()
            .flatten()
            .map(|s| s.token_ids.len())
            .collect();
        assert!(temperature == 0.0 || lengths.len() > 3, "{lengths:?}");
        for Sampled {
            token_ids, stopped, ..
        } in together.iter().flatten()
        {
            let (last, rest) = token_ids.split_last().unwrap();
            assert_eq!(*stopped, options.stop_ids.contains(last));
            assert!(rest.iter().all(|id| !options.stop_ids.contains(id)));
            assert!(*stopped || token_ids.len() == 40);
        }
    }
}

/// The samples' log-probabilities by one packed pass over the prompt and its samples, which share
/// the prompt's tokens.
fn log_probs(model: &Model, prompt: &Prompt, samples: &[Sampled], temperature: f64) -> Vec<f32> {
    let mut ids = prompt.input_ids.clone();
    let mut segments = vec![Segment {
        length: ids.len(),
        parent: None,
    }];
    let mut positions = model.positions(&ids, &prompt.grids).unwrap();
    let next = positions.next();
    let mut rows = Vec::new();
    for sample in samples {
        let shown = &sample.token_ids[..sample.token_ids.len() - 1];
        rows.push(prompt.input_ids.len() as u32 - 1);
        rows.extend((0..shown.len()).map(|i| (ids.len() + i) as u32));
        ids.extend(shown);
        if !shown.is_empty() {
            segments.push(Segment {
                length: shown.len(),
                parent: Some(0),
            });
        }
        positions.extend(&Positions::text(next, shown.len()));
    }
    let embeddings = model.embed(&ids, prompt.image_features.as_ref()).unwrap();
    let layout = AttentionLayout::tree(&segments).unwrap();
    let hidden = model.hidden(&embeddings, &positions, &layout).unwrap();
    let hidden = hidden
        .index_select(&Tensor::new(rows, &Device::Cpu).unwrap(), 0)
        .unwrap();
    let targets: Vec<u32> = samples.iter().flat_map(|s| s.token_ids.clone()).collect();
    values(
        &model
            .token_log_probs(&hidden, &targets, temperature)
            .unwrap()
            .log_probs,
    )
}

#[test]
fn sampled_log_probs_are_those_of_training() {
    let model = model(false, 4);
    let prompt = prompt(&model, 7, 6);
    let seeds = vec![(0..8).map(Some).collect::<Vec<Option<u64>>>()];
    for (temperature, top_p) in [(1.0, None), (0.6, Some(0.8)), (0.0, None)] {
        let options = GenerationOptions {
            top_p,
            ..options(temperature)
        };
        let samples = model
            .generate(std::slice::from_ref(&prompt), &seeds, &options)
            .unwrap();
        let found: Vec<f32> = samples[0]
            .iter()
            .flat_map(|s| s.log_probs.clone())
            .collect();
        let at = if temperature == 0.0 { 1.0 } else { temperature };
        let difference = largest_difference(&found, &log_probs(&model, &prompt, &samples[0], at));
        assert!(difference < 1e-4, "{difference}");
    }
}

#[test]
fn a_cached_prompt_is_a_fresh_one() {
    // Greedy: each token is the likeliest after the prompt and all tokens before it, run afresh.
    let model = model(true, 6);
    let prompt = prompt(&model, 8, 5);
    let options = GenerationOptions {
        stop_ids: vec![],
        ..options(0.0)
    };
    let sampled = &model
        .generate(std::slice::from_ref(&prompt), &[vec![None]], &options)
        .unwrap()[0][0];
    let banned = model.config().vision_token_ids();
    let mut ids = prompt.input_ids.clone();
    for &token in &sampled.token_ids {
        let embeddings = model.embed(&ids, prompt.image_features.as_ref()).unwrap();
        let positions = model.positions(&ids, &prompt.grids).unwrap();
        let hidden = model
            .hidden(
                &embeddings,
                &positions,
                &AttentionLayout::causal(&[ids.len()]),
            )
            .unwrap();
        let logits = values(
            &model
                .logits(
                    &hidden
                        .narrow(0, ids.len() - 1, 1)
                        .unwrap()
                        .contiguous()
                        .unwrap(),
                )
                .unwrap(),
        );
        let best = (0..logits.len())
            .filter(|&id| !banned.contains(&(id as u32)))
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        assert_eq!(token as usize, best);
        ids.push(token);
    }
}

#[test]
fn vision_tokens_are_never_sampled() {
    // Five vision-token rows of the head are made the likeliest by far.
    let model = model(false, 1);
    let head = model.parameters().get("lm_head.weight").unwrap();
    let mut rows = values(head);
    let prompt = prompt(&model, 1, 4);
    let positions = model.positions(&prompt.input_ids, &prompt.grids).unwrap();
    let embeddings = model
        .embed(&prompt.input_ids, prompt.image_features.as_ref())
        .unwrap();
    let hidden = model
        .hidden(
            &embeddings,
            &positions,
            &AttentionLayout::causal(&[positions.len()]),
        )
        .unwrap();
    let last = values(&hidden.narrow(0, positions.len() - 1, 1).unwrap());
    for id in model.config().vision_token_ids() {
        for (at, value) in last.iter().enumerate() {
            rows[id as usize * 24 + at] = 10.0 * value;
        }
    }
    head.set(&Tensor::from_vec(rows, (40, 24), &Device::Cpu).unwrap())
        .unwrap();
    for temperature in [0.0, 5.0] {
        let options = GenerationOptions {
            stop_ids: vec![],
            ..options(temperature)
        };
        let samples = model
            .generate(
                std::slice::from_ref(&prompt),
                &[(0..16).map(Some).collect()],
                &options,
            )
            .unwrap();
        assert!(
            samples[0]
                .iter()
                .flat_map(|s| &s.token_ids)
                .all(|id| !(35..39).contains(id))
        );
        assert!(
            samples[0]
                .iter()
                .flat_map(|s| &s.log_probs)
                .all(|p| p.is_finite() && *p <= 0.0)
        );
    }
}
