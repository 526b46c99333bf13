//! One update of a policy: rollouts, rewards, loss, step.
//!
//! GRPO (arXiv 2402.03300) over the assistant tokens of both turns:
//! `A_i = r_i − mean(r)` over the G episodes of a prompt, divided by their standard deviation where
//! the profile says so, and
//! `L = −mean_t min(ρ_t A_i, clip(ρ_t, 1 − low, 1 + high) A_i) + β KL(policy ‖ reference)`, the mean
//! over all assistant tokens of the batch. The old policy is the sampler, whose own log-probabilities
//! are used, so a first ratio other than 1 shows that sampler and trainer disagree.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use agent::{Episode, Turn, run_episodes};
use baselines::{distill, group_rewards, torl, trm, vtool_r1};
use benchmarks::micro::{MicroQuestion, Split, TRAINED, is_right, question};
use fused_ops::side_by_side;
use grpo::{
    Clip, Decay, Gradients, KlEstimator, KlPenalty, LearningRateSchedule, LossAggregation,
    LossInputs, LossOptions, RatioLevel, ScaleByStd, Totals, advantages, clip_grad_norm,
    zero_variance_share,
};
use qwen2_5_vl::{Model, ModelPart};
use results::{AttributionMetrics, UpdateMetrics};
use seeded_random::{Draw, Stream};

use crate::Result;
use crate::alignment::{self, AttributedCall, attribute};
use crate::evaluation::episode_options;
use crate::packing::{Packed, Tree};
use crate::policy::{ConversationKey, EncodedPrompt, LocalPolicy, conversation_key};
use crate::profile::{Arm, Profile};
use crate::state::{Trainer, adamw};

/// Tokens of a micro-batch, at most, where a single tree is not larger. Micro-batches run side by
/// side, each on one thread: small enough for several threads, large enough for matrix products.
const MICRO_BATCH_TOKENS: usize = 2048;

/// Prompts whose calls a teacher scores in one pass.
const SCORED_PROMPTS: usize = 8;

/// A policy in training.
pub struct Training<'a> {
    profile: &'a Profile,
    stage: String,
    arm: Arm,
    stream: Stream,
    /// The policy itself.
    pub policy: LocalPolicy,
    reference: Model,
    teacher: Option<&'a Model>,
    /// Parameters and optimiser.
    pub trainer: Trainer,
    schedule: LearningRateSchedule,
}

/// The sampled tokens of one turn.
struct Branch<'a> {
    token_ids: &'a [u32],
    log_probs: &'a [f32],
    episode: usize,
}

/// A prompt with all turns that were sampled after it.
struct Group<'a> {
    prompt: Arc<EncodedPrompt>,
    branches: Vec<Branch<'a>>,
}

/// A first turn's prompt with the distinct calls that were sampled after it.
struct CalledPrompt<'e> {
    prompt: Arc<EncodedPrompt>,
    calls: Vec<DistinctCall<'e>>,
}

/// One call, and the episodes that made it.
struct DistinctCall<'e> {
    token_ids: &'e [u32],
    episodes: Vec<usize>,
}

/// The auxiliary terms of all episodes, and what their attribution gave.
struct Terms {
    /// One a episode; `None` without a call.
    values: Vec<Option<f32>>,
    attribution: Option<AttributionMetrics>,
}

impl<'a> Training<'a> {
    /// A stage of training: `policy` starts from where it is and is held near where it started. The
    /// vision tower is frozen. `stream` decides prompts and samples.
    pub fn new(
        profile: &'a Profile,
        stage: &str,
        arm: Arm,
        mut policy: LocalPolicy,
        teacher: Option<&'a Model>,
        learning_rate: f64,
        stream: Stream,
    ) -> Result<Self> {
        policy
            .model
            .freeze(&[ModelPart::Vision, ModelPart::Merger])?;
        policy.temperature = profile.grpo.temperature;
        let reference = policy.model.copy(policy.model.dtype())?.detached()?;
        let trainer = Trainer::new(policy.model.trainable(), adamw(profile.grpo.weight_decay))?;
        Ok(Training {
            profile,
            stage: stage.to_owned(),
            arm,
            stream,
            policy,
            reference,
            teacher,
            trainer,
            schedule: LearningRateSchedule {
                peak: learning_rate,
                warmup: profile.grpo.warmup,
                decay: Decay::Constant,
            },
        })
    }

    /// The training questions of update `index`.
    fn questions(&self, index: usize) -> Vec<MicroQuestion> {
        let stream = self.stream.purpose("prompts").index(index as u64);
        (0..self.profile.grpo.prompts as u64)
            .map(|prompt| {
                let own = stream.index(prompt);
                let set = TRAINED[own.purpose("set").generator().below(TRAINED.len())];
                question(set, Split::Train, &self.profile.world.difficulty, &own, 0)
            })
            .collect()
    }

    /// Update `index`, counted from 0; `made` updates came before it in the whole run.
    pub fn update(&mut self, index: usize, made: usize) -> Result<UpdateMetrics> {
        let profile = self.profile;
        let samples = profile.grpo.samples;
        let mut seconds = BTreeMap::new();
        let mut clock = Instant::now();
        let mut lap = |name: &str| {
            seconds.insert(name.to_owned(), clock.elapsed().as_secs_f64());
            clock = Instant::now();
        };

        let questions = self.questions(index);
        let rollouts = self.stream.purpose("rollout").index(index as u64);
        let tasks: Vec<_> = questions
            .iter()
            .enumerate()
            .flat_map(|(prompt, micro)| {
                let stream = rollouts.index(prompt as u64);
                (0..samples as u64)
                    .map(move |sample| (&micro.question.task, stream.index(sample).seed()))
            })
            .collect();
        let episodes = run_episodes(&mut self.policy, &tasks, &episode_options())?
            .into_iter()
            .collect::<Result<Vec<Episode>>>()?;
        lap("rollout");

        let outcomes: Vec<f32> = episodes
            .iter()
            .enumerate()
            .map(|(index, episode)| {
                let right = is_right(&questions[index / samples], episode.answer.as_deref());
                f32::from(right)
            })
            .collect();
        let terms = self.terms(&questions, &episodes, &rollouts)?;
        let groups: Vec<usize> = (0..episodes.len()).map(|index| index / samples).collect();
        let rewards: Vec<f32> = (0..questions.len())
            .flat_map(|prompt| {
                let members = prompt * samples..(prompt + 1) * samples;
                group_rewards(
                    &outcomes[members.clone()],
                    &terms.values[members],
                    profile.rewards.without_call,
                )
            })
            .collect();
        let scale = match profile.grpo.scale_by_std {
            true => ScaleByStd::Group {
                eps: 1e-4,
                floor: 1e-3,
            },
            false => ScaleByStd::None,
        };
        let advantages = advantages(&rewards, &groups, scale)?;
        lap("reward");

        let (metrics, grad_norm) = self.step(&episodes, &advantages, index)?;
        self.policy.forget();
        lap("update");

        let count = episodes.len() as f64;
        let mean = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
        let called = episodes.iter().filter(|e| e.outcome.called()).count();
        let ran = episodes.iter().filter(|e| e.outcome.succeeded()).count();
        let auxiliary: Vec<f32> = rewards.iter().zip(&outcomes).map(|(r, o)| r - o).collect();
        let mut reward_parts = BTreeMap::from([("outcome".to_owned(), mean(&outcomes))]);
        if self.arm != Arm::VtoolR1 {
            reward_parts.insert(self.arm.name().to_owned(), mean(&auxiliary));
        }
        Ok(UpdateMetrics {
            stage: self.stage.clone(),
            update: made as u64 + 1,
            reward: mean(&rewards),
            reward_parts,
            accuracy: mean(&outcomes),
            loss: metrics.loss,
            kl: metrics.kl.unwrap_or(0.0),
            clip_fraction: metrics.clip_fraction,
            ratio: metrics.mean_ratio,
            entropy: metrics.entropy.unwrap_or(0.0),
            grad_norm,
            tool_call_rate: called as f64 / count,
            tool_success_rate: (called > 0).then(|| ran as f64 / called as f64),
            zero_variance_groups: zero_variance_share(&rewards, &groups)?,
            attribution: terms.attribution,
            validation: None,
            seconds,
        })
    }

    /// The arm's auxiliary term of every episode.
    fn terms(
        &mut self,
        questions: &[MicroQuestion],
        episodes: &[Episode],
        rollouts: &Stream,
    ) -> Result<Terms> {
        let rewards = &self.profile.rewards;
        let samples = self.profile.grpo.samples;
        let plain = |values| Terms {
            values,
            attribution: None,
        };
        Ok(match self.arm {
            Arm::VtoolR1 => plain(episodes.iter().map(|_| vtool_r1::term()).collect()),
            Arm::Torl => plain(
                episodes
                    .iter()
                    .map(|episode| torl::term(&episode.outcome, rewards.torl_penalty))
                    .collect(),
            ),
            Arm::Trm => plain(
                episodes
                    .iter()
                    .enumerate()
                    .map(|(index, episode)| {
                        let (prompt, sample) = (index / samples, index % samples);
                        trm::term(
                            episode,
                            &questions[prompt].asked.right,
                            rewards.trm_weight,
                            rewards.trm_error_rate,
                            rollouts.index(prompt as u64).index(sample as u64),
                        )
                    })
                    .collect(),
            ),
            Arm::Distill => plain(self.distill_terms(episodes)?),
            Arm::Iapo => self.alignment_terms(episodes)?,
        })
    }

    fn teacher(&self) -> Result<&'a Model> {
        self.teacher.ok_or_else(|| crate::Error::Profile {
            origin: self.profile.name.clone(),
            problem: format!("arm '{}' needs a teacher", self.arm.name()),
        })
    }

    /// First turns that call, grouped by prompt, with the distinct calls of each.
    fn calls<'e>(&mut self, episodes: &'e [Episode]) -> Result<Vec<CalledPrompt<'e>>> {
        let mut sites: Vec<(ConversationKey, &Turn, Vec<DistinctCall>)> = Vec::new();
        for (index, episode) in episodes.iter().enumerate() {
            if !episode.outcome.called() {
                continue;
            }
            let turn = &episode.turns[0];
            let key = conversation_key(&turn.conversation);
            let site = match sites.iter().rposition(|(known, _, _)| *known == key) {
                Some(site) => site,
                None => {
                    sites.push((key, turn, Vec::new()));
                    sites.len() - 1
                }
            };
            let token_ids = turn.completion.token_ids.as_slice();
            let calls = &mut sites[site].2;
            match calls.iter_mut().find(|call| call.token_ids == token_ids) {
                Some(call) => call.episodes.push(index),
                None => calls.push(DistinctCall {
                    token_ids,
                    episodes: vec![index],
                }),
            }
        }
        let conversations: Vec<_> = sites
            .iter()
            .map(|(_, turn, _)| &turn.conversation)
            .collect();
        let prompts = self.policy.encode(&conversations)?;
        Ok(prompts
            .into_iter()
            .zip(sites)
            .map(|(prompt, (_, _, calls))| CalledPrompt { prompt, calls })
            .collect())
    }

    fn distill_terms(&mut self, episodes: &[Episode]) -> Result<Vec<Option<f32>>> {
        let teacher = self.teacher()?;
        let calls = self.calls(episodes)?;
        let mut values = vec![None; episodes.len()];
        let batches: Vec<&[CalledPrompt]> = calls.chunks(SCORED_PROMPTS).collect();
        let scored = side_by_side(teacher.device(), batches.len(), |index| -> Result<_> {
            let trees: Vec<Tree> = batches[index]
                .iter()
                .map(|site| Tree {
                    prompt: &site.prompt.prompt,
                    branches: site.calls.iter().map(|call| call.token_ids).collect(),
                })
                .collect();
            let packed = Packed::new(teacher, &trees)?;
            let embeddings = packed.embed(teacher)?;
            let scored = packed.log_probs(teacher, &embeddings, 1.0)?;
            Ok((packed.branches, scored.log_probs.to_vec1::<f32>()?))
        });
        for (batch, scored) in batches.iter().zip(scored) {
            let (branches, log_probs): (Vec<Range<usize>>, Vec<f32>) = scored?;
            let distinct = batch.iter().flat_map(|site| &site.calls);
            for (call, range) in distinct.zip(branches) {
                let term =
                    distill::term(Some(&log_probs[range]), self.profile.rewards.distill_weight);
                for &episode in &call.episodes {
                    values[episode] = term;
                }
            }
        }
        Ok(values)
    }

    fn alignment_terms(&mut self, episodes: &[Episode]) -> Result<Terms> {
        let settings = &self.profile.attribution;
        let teacher = self.teacher()?;
        let calls = self.calls(episodes)?;
        let tokenizer = self.policy.processor.tokenizer();
        let sites = calls
            .iter()
            .map(|site| {
                let calls = site.calls.iter();
                Ok(alignment::CalledPrompt {
                    prompt: &site.prompt,
                    calls: calls
                        .map(|call| AttributedCall::new(tokenizer, call.token_ids))
                        .collect::<Result<_>>()?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let student = attribute(&self.policy.model.detached()?, &sites, settings)?;
        let teacher = attribute(teacher, &sites, settings)?;
        let mut values = vec![None; episodes.len()];
        let (mut divergences, mut gaps, mut passes) = (Vec::new(), Vec::new(), 0);
        for ((site, student), teacher) in calls.iter().zip(&student).zip(&teacher) {
            for ((call, student), teacher) in site.calls.iter().zip(student).zip(teacher) {
                let divergence = settings
                    .divergence
                    .between(&student.shares, &teacher.shares)?;
                divergences.push(divergence);
                passes += student.passes + teacher.passes;
                gaps.extend(student.relative_gap);
                gaps.extend(teacher.relative_gap);
                for &episode in &call.episodes {
                    values[episode] = Some(-self.profile.rewards.iapo_weight * divergence as f32);
                }
            }
        }
        gaps.sort_by(f64::total_cmp);
        let count = divergences.len();
        Ok(Terms {
            values,
            attribution: Some(AttributionMetrics {
                calls: count as u64,
                passes: passes as u64,
                gap: gaps.get(gaps.len() / 2).copied().unwrap_or(0.0),
                divergence: divergences.iter().sum::<f64>() / count.max(1) as f64,
            }),
        })
    }

    /// Loss over the sampled tokens of both turns, gradients, one optimiser step.
    fn step(
        &mut self,
        episodes: &[Episode],
        advantages: &[f32],
        index: usize,
    ) -> Result<(grpo::Metrics, f64)> {
        let settings = &self.profile.grpo;
        let groups = self.groups(episodes)?;
        let totals = Totals {
            tokens: groups
                .iter()
                .flat_map(|group| &group.branches)
                .map(|branch| branch.token_ids.len())
                .sum(),
            sequences: episodes.len(),
        };
        let options = LossOptions {
            clip: Clip {
                low: settings.clip_low,
                high: settings.clip_high,
                dual: None,
            },
            ratio: RatioLevel::Token,
            kl: Some(KlPenalty {
                estimator: KlEstimator::K3,
                coefficient: settings.kl_coefficient,
            }),
            aggregation: LossAggregation::TokenMean,
        };
        let batches = micro_batches(&groups);
        let device = self.policy.model.device();
        let parts = side_by_side(device, batches.len(), |index| {
            self.micro_batch(batches[index], advantages, totals, &options)
        });
        // Summed in the order of the batches, whichever came first.
        let mut gradients = Gradients::new();
        let mut metrics: Option<grpo::Metrics> = None;
        for part in parts {
            let (own, measured) = part?;
            gradients.merge(own)?;
            metrics = Some(match metrics {
                Some(metrics) => metrics.merge(&measured),
                None => measured,
            });
        }
        let norm = clip_grad_norm(&mut gradients, Some(settings.max_grad_norm))?;
        self.trainer.optimizer.step(
            &self.trainer.parameters,
            &gradients,
            self.schedule.rate(index),
        )?;
        let metrics = metrics.ok_or_else(|| crate::Error::Profile {
            origin: self.profile.name.clone(),
            problem: "an update without a sampled token: grpo.prompts is 0?".into(),
        })?;
        Ok((metrics, norm))
    }

    /// Gradients and measurements of a part of the batch, whose whole has `totals`.
    fn micro_batch(
        &self,
        batch: &[Group<'_>],
        advantages: &[f32],
        totals: Totals,
        options: &LossOptions,
    ) -> Result<(Gradients, grpo::Metrics)> {
        let temperature = self.profile.grpo.temperature;
        let trees: Vec<Tree> = batch
            .iter()
            .map(|group| Tree {
                prompt: &group.prompt.prompt,
                branches: group
                    .branches
                    .iter()
                    .map(|branch| branch.token_ids)
                    .collect(),
            })
            .collect();
        let packed = Packed::new(&self.policy.model, &trees)?;
        let reference = packed
            .log_probs(
                &self.reference,
                &packed.embed(&self.reference)?,
                temperature,
            )?
            .log_probs
            .to_vec1::<f32>()?;
        let embeddings = packed.embed(&self.policy.model)?;
        let scored = packed.log_probs(&self.policy.model, &embeddings, temperature)?;
        let entropy = scored.entropy.to_vec1::<f32>()?;
        let branches = || batch.iter().flat_map(|group| &group.branches);
        let old: Vec<f32> = branches().flat_map(|b| b.log_probs.to_vec()).collect();
        // Sequences are renumbered within the batch; both turns of an episode are one sequence.
        let mut known: BTreeMap<usize, usize> = BTreeMap::new();
        let mut own_advantages = Vec::new();
        let mut sequence = Vec::with_capacity(old.len());
        for branch in branches() {
            let number = *known.entry(branch.episode).or_insert_with(|| {
                own_advantages.push(advantages[branch.episode]);
                own_advantages.len() - 1
            });
            sequence.extend(std::iter::repeat_n(number, branch.token_ids.len()));
        }
        let output = grpo::loss(
            &LossInputs {
                log_probs: &scored.log_probs,
                old: Some(&old),
                reference: Some(&reference),
                entropy: Some(&entropy),
                sequence: &sequence,
                advantages: &own_advantages,
                mask: None,
                totals: Some(totals),
            },
            options,
        )?;
        let mut gradients = Gradients::new();
        gradients.accumulate(&self.trainer.parameters, &output.loss.backward()?)?;
        Ok((gradients, output.metrics))
    }

    /// All turns by the prompt they continue.
    fn groups<'e>(&mut self, episodes: &'e [Episode]) -> Result<Vec<Group<'e>>> {
        let turns: Vec<(usize, &Turn)> = episodes
            .iter()
            .enumerate()
            .flat_map(|(index, episode)| episode.turns.iter().map(move |turn| (index, turn)))
            .filter(|(_, turn)| !turn.completion.token_ids.is_empty())
            .collect();
        let conversations: Vec<_> = turns.iter().map(|(_, turn)| &turn.conversation).collect();
        let prompts = self.policy.encode(&conversations)?;
        let mut groups: Vec<Group> = Vec::new();
        let mut known: BTreeMap<usize, usize> = BTreeMap::new();
        for ((episode, turn), prompt) in turns.into_iter().zip(prompts) {
            let address = Arc::as_ptr(&prompt) as usize;
            let group = *known.entry(address).or_insert_with(|| {
                groups.push(Group {
                    prompt,
                    branches: Vec::new(),
                });
                groups.len() - 1
            });
            groups[group].branches.push(Branch {
                token_ids: &turn.completion.token_ids,
                log_probs: &turn.completion.log_probs,
                episode,
            });
        }
        Ok(groups)
    }
}

/// Groups in order, cut where the tokens of a micro-batch would grow too many.
fn micro_batches<'g, 'e>(groups: &'g [Group<'e>]) -> Vec<&'g [Group<'e>]> {
    let mut batches = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, group) in groups.iter().enumerate() {
        let own = group.prompt.prompt.input_ids.len()
            + group
                .branches
                .iter()
                .map(|b| b.token_ids.len())
                .sum::<usize>();
        if tokens > 0 && tokens + own > MICRO_BATCH_TOKENS {
            batches.push(&groups[start..index]);
            (start, tokens) = (index, 0);
        }
        tokens += own;
    }
    if start < groups.len() {
        batches.push(&groups[start..]);
    }
    batches
}
