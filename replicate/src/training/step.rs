//! The loss over the sampled tokens, its gradients, one optimiser step.

use std::collections::BTreeMap;
use std::sync::Arc;

use agent::{ConversationId, Turn};
use candle_core::Tensor;
use fused_ops::{TokenLogProbs, side_by_side};
use grpo::{
    Clip, Gradients, KlPenalty, LossInputs, LossOptions, RatioLevel, Totals, TrainedTurns,
    clip_grad_norm,
};
use qwen2_5_vl::Model;
use results::UpdateMetrics;

use super::rollout::RolloutGroup;
use crate::packing::{Packed, Tree};
use crate::policy::{EncodedPrompt, LocalPolicy, cut};
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
    }
}

/// The sampled tokens of one turn.
struct Branch<'a> {
    token_ids: &'a [u32],
    log_probs: &'a [f32],
    /// The episode, counted through all groups.
    episode: usize,
    trained: bool,
}

/// A prompt with all turns that were sampled after it.
struct PromptBranches<'a> {
    prompt: Arc<EncodedPrompt>,
    branches: Vec<Branch<'a>>,
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
    let prompts = branches(policy, groups, settings.trained_turns)?;
    let totals = Totals {
        tokens: prompts
            .iter()
            .flat_map(|prompt| &prompt.branches)
            .filter(|branch| branch.trained)
            .map(|branch| branch.token_ids.len())
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
    let tokens = |own: &PromptBranches| {
        let sampled = own.branches.iter().map(|b| b.token_ids.len());
        own.prompt.prompt.input_ids.len() + sampled.sum::<usize>()
    };
    let batches = cut(&prompts, stepping.update_tokens, tokens);
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
    for wave in batches.chunks(at_once) {
        for part in side_by_side(device, wave.len(), |index| micro.run(wave[index])) {
            let (own, measured) = part?;
            gradients.merge(own)?;
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
    Ok(Stepped { metrics, grad_norm })
}

/// All turns by the prompt they continue.
fn branches<'e>(
    policy: &mut LocalPolicy,
    groups: &'e [RolloutGroup],
    trained_turns: TrainedTurns,
) -> Result<Vec<PromptBranches<'e>>> {
    let turns: Vec<(usize, bool, &Turn)> = groups
        .iter()
        .flat_map(|group| &group.episodes)
        .enumerate()
        .flat_map(|(index, episode)| {
            let last = episode.turns.len() - 1;
            episode.turns.iter().enumerate().map(move |(turn, own)| {
                let trained = trained_turns == TrainedTurns::All || turn == last;
                (index, trained, own)
            })
        })
        .filter(|(_, _, turn)| !turn.completion.token_ids.is_empty())
        .collect();
    let conversations: Vec<_> = turns
        .iter()
        .map(|(_, _, turn)| &turn.conversation)
        .collect();
    let prompts = policy.encode(&conversations)?;
    let mut found: Vec<PromptBranches> = Vec::new();
    let mut known: BTreeMap<ConversationId, usize> = BTreeMap::new();
    for ((episode, trained, turn), prompt) in turns.into_iter().zip(prompts) {
        let place = *known.entry(prompt.id).or_insert_with(|| {
            found.push(PromptBranches {
                prompt,
                branches: Vec::new(),
            });
            found.len() - 1
        });
        found[place].branches.push(Branch {
            token_ids: &turn.completion.token_ids,
            log_probs: &turn.completion.log_probs,
            episode,
            trained,
        });
    }
    Ok(found)
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
    /// Gradients and measurements of a part of the batch.
    fn run(&self, batch: &[PromptBranches<'_>]) -> Result<(Gradients, grpo::Metrics)> {
        let temperature = self.stepping.settings.temperature;
        let trees: Vec<Tree> = batch
            .iter()
            .map(|own| Tree {
                prompt: &own.prompt.prompt,
                branches: own.branches.iter().map(|branch| branch.token_ids).collect(),
            })
            .collect();
        let mut packed = Packed::new(self.model, &trees)?;
        let reference = self.stepping.reference;
        self.encode_images(&mut packed, reference, batch)?;
        let reference = packed
            .log_probs(reference, &packed.embed(reference)?, temperature)?
            .log_probs
            .to_vec1::<f32>()?;
        self.encode_images(&mut packed, self.model, batch)?;
        let embeddings = packed.embed(self.model)?;
        let branches = || batch.iter().flat_map(|own| &own.branches);
        let old: Vec<f32> = branches().flat_map(|b| b.log_probs.to_vec()).collect();
        let mask: Vec<bool> = branches()
            .flat_map(|b| std::iter::repeat_n(b.trained, b.token_ids.len()))
            .collect();
        // Sequences are renumbered within the batch; all turns of an episode are one sequence.
        let mut known: BTreeMap<usize, usize> = BTreeMap::new();
        let mut own_advantages = Vec::new();
        let mut sequence = Vec::with_capacity(old.len());
        for branch in branches() {
            let number = *known.entry(branch.episode).or_insert_with(|| {
                own_advantages.push(self.advantages[branch.episode]);
                own_advantages.len() - 1
            });
            sequence.extend(std::iter::repeat_n(number, branch.token_ids.len()));
        }
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
            return Ok((gradients, output.metrics));
        }
        let tokens = packed.predicting_tokens();
        let mut metrics = None;
        let (_, store) = self.model.backward_with_recompute_of(
            &tokens,
            &embeddings,
            &packed.positions,
            &packed.layout,
            |hidden| {
                let scored = packed.score_of(&tokens, self.model, hidden, temperature);
                let output = scored
                    .and_then(|scored| loss(&scored))
                    .map_err(candle_core::Error::wrap)?;
                metrics = Some(output.metrics);
                Ok(output.loss)
            },
        )?;
        gradients.accumulate(&self.trainer.parameters, &store)?;
        let metrics = metrics.ok_or_else(|| Error::Profile {
            origin: "the update".into(),
            problem: "the loss was not taken".into(),
        })?;
        Ok((gradients, metrics))
    }

    /// Has a model look at the batch's images itself, where the vision tower is trained: with a graph
    /// where the model has one. Elsewhere the features are those that were computed once.
    fn encode_images(
        &self,
        packed: &mut Packed,
        model: &Model,
        batch: &[PromptBranches<'_>],
    ) -> Result<()> {
        if !self.stepping.settings.trains_vision() {
            return Ok(());
        }
        let mut pixels = Vec::new();
        let mut grids = Vec::new();
        for own in batch {
            if let Some(values) = &own.prompt.pixel_values {
                pixels.push(values.to_device(model.device())?);
                grids.extend_from_slice(&own.prompt.prompt.grids);
            }
        }
        if !pixels.is_empty() {
            let pixels = Tensor::cat(&pixels, 0)?;
            packed.image_features = Some(model.encode_images(&pixels, &grids)?);
        }
        Ok(())
    }
}
