//! Check 9: how fast turns are sampled, by part, with the first turn's keys and values kept for the
//! second.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use qwen2_5_vl::{GenerationOptions, Grid, Model, Prompt, SessionPrompt};
use replicate::compute::Compute;
use seeded_random::{Draw, Stream};

use super::meter::seconds;
use super::{Compared, Figure, Found};

/// A batch of questions in tokens and patches; the profile `paper`'s, or a small one.
struct Batch {
    prompts: usize,
    samples: usize,
    /// Text of the prompt, of an observation, of a call and of an answer.
    text: usize,
    observation: usize,
    call: usize,
    answer: usize,
    /// Patches of an image by height and width.
    patches: [usize; 2],
}

impl Batch {
    fn of(short: bool) -> Self {
        match short {
            true => Batch {
                prompts: 2,
                samples: 2,
                text: 20,
                observation: 6,
                call: 5,
                answer: 4,
                patches: [4, 8],
            },
            false => Batch {
                prompts: 32,
                samples: 8,
                text: 650,
                observation: 40,
                call: 150,
                answer: 100,
                patches: [40, 70],
            },
        }
    }
}

/// Seconds and tokens a second of both turns.
pub fn check(compute: &Compute, folder: &Path, short: bool) -> anyhow::Result<Found> {
    let batch = Batch::of(short);
    let device = &compute.device;
    let model = Model::load(folder, device, compute.dtype)?.detached()?;
    let [h, w] = batch.patches;
    let grid = Grid { t: 1, h, w };
    let config = model.config();
    let slots = grid.tokens(config.vision.spatial_merge_size);
    let mut generator = Stream::new(9).generator();
    let mut image = |count: usize| -> anyhow::Result<Tensor> {
        let shape = (count * grid.patches(), config.vision.patch_values());
        let values = (0..shape.0 * shape.1).map(|_| generator.normal() as f32);
        let values = Tensor::from_vec(values.collect(), shape, &Device::Cpu)?;
        let pixels = values.to_device(device)?.to_dtype(DType::F32)?;
        Ok(model.encode_images(&pixels, &vec![grid; count])?)
    };
    // Ids of texts are all below those of the vision tokens.
    let text = |count: usize, from: usize| (0..count).map(move |i| ((from + 7 * i) % 251) as u32);
    let picture = [
        vec![config.vision_start_token_id],
        vec![config.image_token_id; slots],
        vec![config.vision_end_token_id],
    ]
    .concat();

    let (features, first_seconds) = seconds(device, || image(batch.prompts))?;
    let prompts = (0..batch.prompts)
        .map(|prompt| {
            Ok(Prompt {
                input_ids: picture
                    .iter()
                    .copied()
                    .chain(text(batch.text, prompt))
                    .collect(),
                image_features: Some(features.narrow(0, prompt * slots, slots)?),
                grids: vec![grid],
            })
        })
        .collect::<anyhow::Result<Vec<Prompt>>>()?;
    let options = |max_new_tokens| GenerationOptions {
        max_new_tokens,
        temperature: 1.0,
        top_p: None,
        repetition_penalty: None,
        // A model that was never trained ends nothing: every sample has its whole length.
        stop_ids: Vec::new(),
    };
    let mut session = model.session(batch.prompts * (batch.text + picture.len()))?;
    let requests: Vec<SessionPrompt> = prompts
        .iter()
        .enumerate()
        .map(|(index, prompt)| SessionPrompt {
            prompt,
            follows: None,
            seeds: (0..batch.samples)
                .map(|sample| Some((index * batch.samples + sample) as u64))
                .collect(),
        })
        .collect();
    // One token: the prompts alone.
    let mut prefill = model.session(batch.prompts * (batch.text + picture.len()))?;
    let (_, prompt_seconds) = seconds(device, || Ok(prefill.generate(&requests, &options(1))?))?;
    drop(prefill);
    let (called, first) = seconds(device, || {
        Ok(session.generate(&requests, &options(batch.call))?)
    })?;
    let known = session.prefilled();

    let episodes = batch.prompts * batch.samples;
    let (edited, edited_seconds) = seconds(device, || image(episodes))?;
    let mut second_prompts = Vec::with_capacity(episodes);
    for (index, (question, sample)) in called
        .iter()
        .enumerate()
        .flat_map(|(question, samples)| samples.iter().map(move |sample| (question, sample)))
        .enumerate()
    {
        let before = &prompts[question];
        let own = edited.narrow(0, index * slots, slots)?;
        let features = before.image_features.iter().chain([&own]);
        second_prompts.push((
            Prompt {
                input_ids: [&before.input_ids[..], &sample.sampled.token_ids, &picture]
                    .concat()
                    .into_iter()
                    .chain(text(batch.observation, index))
                    .collect(),
                image_features: Some(Tensor::cat(&features.collect::<Vec<_>>(), 0)?),
                grids: vec![grid; 2],
            },
            sample.id,
        ));
    }
    let requests: Vec<SessionPrompt> = second_prompts
        .iter()
        .enumerate()
        .map(|(index, (prompt, id))| SessionPrompt {
            prompt,
            follows: Some(*id),
            seeds: vec![Some(index as u64)],
        })
        .collect();
    let (answered, second) = seconds(device, || {
        Ok(session.generate(&requests, &options(batch.answer))?)
    })?;

    // The last sampled token of a call has no row: it is run with what was said since.
    let expected = episodes * (1 + picture.len() + batch.observation);
    let run_again = session.prefilled() - known;
    let sampled: usize = answered
        .iter()
        .flatten()
        .map(|own| own.sampled.token_ids.len())
        .sum();
    let differs = |name: &str, found: usize, expected: usize| Compared {
        name: format!("{name}: {found}, expected {expected}"),
        found: found.abs_diff(expected) as f64,
        allowed: 0.0,
    };
    let rate = |name, tokens: usize, taken: f64| {
        Figure::new(name, tokens as f64 / taken.max(1e-9), "tokens/s")
    };
    Ok(Found {
        compared: vec![
            differs("tokens that the second turn ran", run_again, expected),
            differs("prompts that did not go on", session.not_continued(), 0),
            differs("tokens of answers", sampled, episodes * batch.answer),
        ],
        figures: vec![
            Figure::new("first images", first_seconds, "s"),
            Figure::new("prompts", prompt_seconds, "s"),
            Figure::new("first turn, prompts included", first, "s"),
            Figure::new("edited images", edited_seconds, "s"),
            Figure::new("second turn", second, "s"),
            rate(
                "prompts",
                batch.prompts * (batch.text + picture.len()),
                prompt_seconds,
            ),
            rate("calls", episodes * batch.call, first - prompt_seconds),
            rate(
                "second turn, observations included",
                expected + sampled,
                second,
            ),
        ],
    })
}
