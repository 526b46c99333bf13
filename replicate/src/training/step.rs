//! The loss over the sampled tokens, its gradients, one optimiser step.
//!
//! The turns of a question are one tree, in which each token of its prompt, calls, observations and
//! answers is computed once ([`PackedTurns`]). A question whose tree is beyond the budget is cut between
//! episodes.

use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use fused_ops::{TokenLogProbs, side_by_side};
use grpo::{
    Clip, Gradients, KlPenalty, LossInputs, LossOptions, RatioLevel, Totals, TrainedTurns,
    clip_grad_norm,
};
use qwen2_5_vl::{Grid, Model, PackedTurns, SampledTurn};
use results::{UpdateMetrics, UpdateTokens};

use super::rollout::RolloutGroup;
use crate::encoding::EncodedPrompt;
use crate::policy::LocalPolicy;
use crate::profile::Grpo;
use crate::state::Trainer;
use crate::{Error, Result};

/// Micro-batches at once on a processor: a few for each thread, so that none waits for the largest.
const SIDE_BY_SIDE: usize = 8;

/// What a step is made with.
pub struct Stepping<'a> {
    /// The profile's settings.
    pub settings: &'a Grpo,
    /// Tokens of one forward and backward pass.
    pub update_tokens: usize,
    /// Whether decoder layers are run again for their gradients.
    pub recompute: bool,
    /// The reference policy, without a graph.
    pub reference: &'a Model,
    /// The learning rate of this update.
    pub learning_rate: f64,
}

/// What a step measured.
pub struct Stepped {
    metrics: grpo::Metrics,
    tokens: UpdateTokens,
    grad_norm: f64,
}

impl Stepped {
    /// Writes what was measured into a line of metrics.
    pub fn describe(&self, line: &mut UpdateMetrics) {
        line.loss = self.metrics.loss;
        line.kl = self.metrics.kl.unwrap_or(0.0);
        line.clip_fraction = self.metrics.clip_fraction;
        line.ratio = self.metrics.mean_ratio;
        line.entropy = self.metrics.entropy.unwrap_or(0.0);
        line.grad_norm = self.grad_norm;
        line.tokens = Some(self.tokens);
    }
}

/// A turn that the policy took.
struct Turn<'a> {
    prompt: Arc<EncodedPrompt>,
    token_ids: &'a [u32],
    log_probs: &'a [f32],
    trained: bool,
}

/// The turns of an episode, each of which follows the one before.
struct Episode<'a> {
    /// Its place among all.
    index: usize,
    question: usize,
    turns: Vec<Turn<'a>>,
}

/// One step over the episodes of `groups`, whose advantages stand one after the other.
pub fn step(
    stepping: &Stepping<'_>,
    policy: &mut LocalPolicy,
    trainer: &mut Trainer,
    groups: &[RolloutGroup],
    advantages: &[f32],
) -> Result<Stepped> {
    let settings = stepping.settings;
    let episodes = episodes(policy, groups, settings.trained_turns)?;
    let totals = Totals {
        tokens: episodes
            .iter()
            .flat_map(|episode| &episode.turns)
            .filter(|turn| turn.trained)
            .map(|turn| turn.token_ids.len())
            .sum(),
        sequences: advantages.len(),
    };
    let options = LossOptions {
        clip: Clip {
            low: settings.clip_low,
            high: settings.clip_high,
            dual: None,
        },
        ratio: RatioLevel::Token,
        kl: Some(KlPenalty {
            estimator: settings.kl_estimator,
            coefficient: settings.kl_coefficient,
        }),
        aggregation: settings.loss_aggregation,
    };
    let batches = batches(&episodes, stepping.update_tokens)?;
    let micro = MicroBatch {
        stepping,
        model: &policy.model,
        trainer,
        advantages,
        totals,
        options: &options,
    };
    // Merged in order as they come, so that the gradients of all batches are never held together.
    let device = policy.model.device();
    let at_once = if device.is_cpu() { SIDE_BY_SIDE } else { 1 };
    let mut gradients = Gradients::new();
    let mut metrics: Option<grpo::Metrics> = None;
    let mut tokens = UpdateTokens::default();
    for wave in batches.chunks(at_once) {
        for part in side_by_side(device, wave.len(), |index| micro.run(wave[index])) {
            let (own, measured, counted) = part?;
            gradients.merge(own)?;
            tokens.add(counted);
            metrics = Some(match metrics {
                Some(metrics) => metrics.merge(&measured),
                None => measured,
            });
        }
    }
    let metrics = metrics.ok_or_else(|| Error::Profile {
        origin: "the update".into(),
        problem: "no token was sampled: no question could be asked".into(),
    })?;
    let grad_norm = clip_grad_norm(&mut gradients, Some(settings.max_grad_norm))?;
    trainer
        .optimizer
        .step(&trainer.parameters, &gradients, stepping.learning_rate)?;
    Ok(Stepped {
        metrics,
        tokens,
        grad_norm,
    })
}

/// The episodes of all groups with their prompts as tokens.
fn episodes<'e>(
    policy: &mut LocalPolicy,
    groups: &'e [RolloutGroup],
    trained_turns: TrainedTurns,
) -> Result<Vec<Episode<'e>>> {
    let mut found: Vec<Episode> = Vec::new();
    for (question, group) in groups.iter().enumerate() {
        for episode in &group.episodes {
            let taken = || {
                let turns = episode.turns.iter().enumerate();
                turns.filter(|(_, turn)| !turn.completion.token_ids.is_empty())
            };
            let conversations: Vec<_> = taken().map(|(_, turn)| &turn.conversation).collect();
            let last = episode.turns.len().saturating_sub(1);
            let turns = policy.encode(&conversations)?.into_iter().zip(taken());
            found.push(Episode {
                index: found.len(),
                question,
                turns: turns
                    .map(|(prompt, (place, turn))| Turn {
                        prompt,
                        token_ids: &turn.completion.token_ids,
                        log_probs: &turn.completion.log_probs,
                        trained: trained_turns == TrainedTurns::All || place == last,
                    })
                    .collect(),
            });
        }
    }
    found.retain(|episode| !episode.turns.is_empty());
    Ok(found)
}

/// The turns of episodes as a tree takes them.
fn sampled<'a>(episodes: &'a [Episode<'_>]) -> Vec<SampledTurn<'a>> {
    let mut turns = Vec::new();
    for episode in episodes {
        for (place, turn) in episode.turns.iter().enumerate() {
            turns.push(SampledTurn {
                prompt: &turn.prompt.prompt,
                token_ids: turn.token_ids,
                follows: (place > 0).then(|| turns.len() - 1),
            });
        }
    }
    turns
}

/// Runs of episodes within a budget of tokens: whole questions, as many as fit; a question that does
/// not fit alone by its episodes, and at least one episode.
fn batches<'b, 'e>(episodes: &'b [Episode<'e>], budget: usize) -> Result<Vec<&'b [Episode<'e>]>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    // Tokens of the last part.
    let mut tokens = 0;
    let mut start = 0;
    for question in episodes.chunk_by(|a, b| a.question == b.question) {
        let own = start..start + question.len();
        start = own.end;
        let whole = PackedTurns::count(&sampled(question))?;
        match parts.last_mut() {
            Some(last) if tokens + whole <= budget => {
                last.end = own.end;
                tokens += whole;
            }
            _ if whole <= budget => {
                parts.push(own);
                tokens = whole;
            }
            _ => {
                for episode in own {
                    let grown = parts.last().map_or(0..0, |last| last.start..episode + 1);
                    let within = PackedTurns::count(&sampled(&episodes[grown.clone()]))?;
                    match parts.last_mut() {
                        Some(last) if within <= budget => *last = grown,
                        _ => parts.push(episode..episode + 1),
                    }
                }
                let last = parts.last().cloned().unwrap_or_default();
                tokens = PackedTurns::count(&sampled(&episodes[last]))?;
            }
        }
    }
    Ok(parts.into_iter().map(|part| &episodes[part]).collect())
}

/// What the micro-batches of a step share.
struct MicroBatch<'a> {
    stepping: &'a Stepping<'a>,
    model: &'a Model,
    trainer: &'a Trainer,
    advantages: &'a [f32],
    /// Of the whole batch.
    totals: Totals,
    options: &'a LossOptions,
}

impl MicroBatch<'_> {
    /// Gradients, measurements and tokens of a part of the batch.
    fn run(&self, batch: &[Episode<'_>]) -> Result<(Gradients, grpo::Metrics, UpdateTokens)> {
        let temperature = self.stepping.settings.temperature;
        let mut packed = PackedTurns::new(self.model, &sampled(batch))?;
        let tokens = UpdateTokens {
            computed: packed.input_ids.len() as u64,
            separate: packed.separate_tokens as u64,
            not_continued: packed.not_continued as u64,
            ..UpdateTokens::default()
        };
        let reference = self.stepping.reference;
        self.encode_images(&mut packed, reference, batch)?;
        let reference = packed
            .log_probs(reference, &packed.embed(reference)?, temperature)?
            .log_probs
            .to_vec1::<f32>()?;
        self.encode_images(&mut packed, self.model, batch)?;
        let embeddings = packed.embed(self.model)?;
        // Sequences are renumbered within the batch; all turns of an episode are one sequence.
        let (mut old, mut mask, mut sequence) = (Vec::new(), Vec::new(), Vec::new());
        for (number, episode) in batch.iter().enumerate() {
            for turn in &episode.turns {
                let count = turn.token_ids.len();
                old.extend_from_slice(turn.log_probs);
                mask.extend(std::iter::repeat_n(turn.trained, count));
                sequence.extend(std::iter::repeat_n(number, count));
            }
        }
        let own_advantages: Vec<f32> = batch
            .iter()
            .map(|episode| self.advantages[episode.index])
            .collect();
        let loss = |scored: &TokenLogProbs| -> Result<grpo::LossOutput> {
            let entropy = scored.entropy.to_vec1::<f32>()?;
            Ok(grpo::loss(
                &LossInputs {
                    log_probs: &scored.log_probs,
                    old: Some(&old),
                    reference: Some(&reference),
                    entropy: Some(&entropy),
                    sequence: &sequence,
                    advantages: &own_advantages,
                    mask: mask.contains(&false).then_some(&mask),
                    totals: Some(self.totals),
                },
                self.options,
            )?)
        };
        let mut gradients = Gradients::new();
        if !self.stepping.recompute {
            let output = loss(&packed.log_probs(self.model, &embeddings, temperature)?)?;
            gradients.accumulate(&self.trainer.parameters, &output.loss.backward()?)?;
            return Ok((gradients, output.metrics, tokens));
        }
        let mut metrics = None;
        let (_, store) = self.model.backward_with_recompute_of(
            &packed.predictors,
            &embeddings,
            &packed.positions,
            &packed.layout,
            |hidden| {
                let scored = packed
                    .score(self.model, hidden, temperature)
                    .map_err(candle_core::Error::wrap)?;
                let output = loss(&scored).map_err(candle_core::Error::wrap)?;
                metrics = Some(output.metrics);
                Ok(output.loss)
            },
        )?;
        gradients.accumulate(&self.trainer.parameters, &store)?;
        let metrics = metrics.ok_or_else(|| Error::Profile {
            origin: "the update".into(),
            problem: "the loss was not taken".into(),
        })?;
        Ok((gradients, metrics, tokens))
    }

    /// Has a model look at the batch's images itself, each once, where the vision tower is trained: with
    /// a graph where the model has one. Elsewhere the features are those that were computed once.
    fn encode_images(
        &self,
        packed: &mut PackedTurns,
        model: &Model,
        batch: &[Episode<'_>],
    ) -> Result<()> {
        if !self.stepping.settings.trains_vision() {
            return Ok(());
        }
        let turns: Vec<&Turn> = batch.iter().flat_map(|episode| &episode.turns).collect();
        let mut pixels = Vec::new();
        let mut grids = Vec::new();
        for &(turn, image) in &packed.images {
            let own = &turns[turn].prompt;
            let (before, after) = own.prompt.grids.split_at(image);
            if let (Some(values), Some(grid)) = (&own.pixel_values, after.first()) {
                let first = before.iter().map(Grid::patches).sum();
                let values = values.narrow(0, first, grid.patches())?;
                pixels.push(values.clone());
                grids.push(*grid);
            }
        }
        if !pixels.is_empty() {
            let pixels = Tensor::cat(&pixels, 0)?;
            packed.image_features = Some(model.encode_images(&pixels, &grids)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use agent::Conversation;
    use qwen2_5_vl::Prompt;

    use super::*;

    fn encoded(input_ids: Vec<u32>) -> Arc<EncodedPrompt> {
        let conversation = Conversation::new(Vec::new());
        Arc::new(EncodedPrompt {
            id: *conversation.id(),
            prompt: Prompt {
                input_ids,
                image_features: None,
                grids: Vec::new(),
            },
            blocks: Vec::new(),
            pixel_values: None,
        })
    }

    /// Sampled tokens of calls, and of answers.
    const CALLS: [[u32; 3]; 4] = [[1, 1, 9], [1, 2, 9], [1, 3, 9], [1, 4, 9]];
    const ANSWER: [u32; 2] = [5, 9];

    /// Two questions of ten tokens, each with four episodes that add nine: three of a call, five of an
    /// observation, one of an answer, whose last token is not computed.
    fn two_questions() -> Vec<Episode<'static>> {
        let turn = |prompt: &Arc<EncodedPrompt>, token_ids: &'static [u32]| Turn {
            prompt: prompt.clone(),
            token_ids,
            log_probs: &[],
            trained: true,
        };
        let mut episodes = Vec::new();
        for question in 0..2 {
            let first = encoded(vec![20 + question as u32; 10]);
            for call in &CALLS {
                let ids = [&first.prompt.input_ids[..], call, &[30; 5]].concat();
                episodes.push(Episode {
                    index: episodes.len(),
                    question,
                    turns: vec![turn(&first, call), turn(&encoded(ids), &ANSWER)],
                });
            }
        }
        episodes
    }

    #[test]
    fn questions_stay_whole_where_they_fit_and_are_cut_between_episodes() {
        let episodes = two_questions();
        let count = |part: &[Episode<'_>]| PackedTurns::count(&sampled(part)).unwrap();
        assert_eq!((count(&episodes[..1]), count(&episodes[..4])), (19, 46));
        for (budget, lengths) in [
            (92, vec![8]),
            (91, vec![4, 4]),
            (46, vec![4, 4]),
            (45, vec![3, 2, 3]),
            (28, vec![2, 2, 2, 2]),
            (1, vec![1; 8]),
        ] {
            let parts = batches(&episodes, budget).unwrap();
            let found: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(found, lengths, "{budget}");
            let order = parts.iter().copied().flatten().map(|own| own.index);
            assert!(order.eq(0..8), "{budget}");
        }
    }
}
