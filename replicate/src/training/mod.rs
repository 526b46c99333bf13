//! One update of a policy: rollouts, evidence, rewards, loss, step.
//!
//! GRPO (arXiv 2402.03300) over the assistant tokens of an episode:
//! `A_i = r_i − mean(r)` over the G episodes of a prompt, divided as the profile says, and
//! `L = −mean_t min(ρ_t A_i, clip(ρ_t, 1 − low, 1 + high) A_i) + β KL(policy ‖ reference)`. The old
//! policy is the sampler, whose own log-probabilities are used, so a first ratio other than 1 shows
//! that sampler and trainer disagree. What the paper has otherwise, and what it does not tell, is
//! listed in every report ([`crate::deviations`]).
//!
//! The parts stand in files of their own: [`rollout`] samples and scores, [`evidence`] measures the
//! distinct calls, [`rewards`] values the episodes, [`step`] computes the loss and steps.

pub mod evidence;
pub mod kept;
pub mod rewards;
pub mod rollout;
pub mod step;

use std::collections::BTreeMap;
use std::time::Instant;

use baselines::{Evidence, Reward, TeacherRole};
use benchmarks::data::Data;
use benchmarks::evaluation::Scoring;
use benchmarks::judge::EndpointVerifier;
use chat_endpoint::Client;
use grpo::{AdamWOptions, LearningRateSchedule};
use qwen2_5_vl::{LoraOptions, Model, ModelPart};
use results::UpdateMetrics;
use seeded_random::Stream;

use crate::kept_turns::Reused;
use crate::policy::LocalPolicy;
use crate::profile::Profile;
use crate::state::Trainer;
use crate::{Error, Result};

pub use kept::KeptGroup;

/// The other models that a reward may ask.
#[derive(Clone, Copy, Default)]
pub struct Teachers<'a> {
    /// The stronger model.
    pub teacher: Option<&'a Model>,
    /// The student before any reinforcement learning.
    pub untrained: Option<&'a Model>,
}

impl<'a> Teachers<'a> {
    /// The model that a reward compares the policy with, if it does; `start` is the policy where its
    /// stage began.
    fn asked_by<'m>(&self, reward: &Reward, start: &'m Model) -> Result<Option<&'m Model>>
    where
        'a: 'm,
    {
        let missing = |whose: &str| Error::Profile {
            origin: reward.name(),
            problem: format!("it needs {whose}, and there is none in this stage"),
        };
        let teacher = || self.teacher.ok_or_else(|| missing("a teacher"));
        Ok(match reward.method().evidence() {
            Evidence::Outcome | Evidence::Truth | Evidence::Verifier | Evidence::OwnLogProb => None,
            Evidence::TeacherLogProb | Evidence::Divergence(TeacherRole::Teacher) => {
                Some(teacher()?)
            }
            Evidence::Divergence(TeacherRole::OwnStart) => Some(start),
            Evidence::Divergence(TeacherRole::Untrained) => Some(
                self.untrained
                    .ok_or_else(|| missing("the untrained student"))?,
            ),
        })
    }
}

/// Who says what an episode was worth.
#[derive(Clone, Copy)]
pub struct Graders<'a> {
    /// How an answer is compared with gold.
    pub scoring: Scoring<'a>,
    /// The server that verifies calls, for arms that ask one.
    pub verifier: Option<&'a Client>,
}

/// What an update gave.
pub struct MadeUpdate {
    /// Its line of metrics.
    pub metrics: UpdateMetrics,
    /// The groups that the profile wants kept for people to look at.
    pub kept: Vec<KeptGroup>,
}

/// A policy in training.
pub struct Training<'a> {
    profile: &'a Profile,
    data: &'a Data,
    graders: Graders<'a>,
    stage: String,
    reward: &'a Reward,
    stream: Stream,
    /// The purpose of `stream` among the seed's.
    purpose: String,
    /// The policy itself.
    pub policy: LocalPolicy,
    /// The policy where this stage began, without a graph: a copy, or, where adapters are trained, the
    /// policy without them, which takes no memory of its own.
    reference: Model,
    teachers: Teachers<'a>,
    /// Parameters and optimiser.
    pub trainer: Trainer,
    schedule: LearningRateSchedule,
}

impl<'a> Training<'a> {
    /// A stage of training: `policy` starts from where it is and is held near where it started.
    /// The `seed`'s stream of this `purpose` decides prompts and samples, and the adapters' first
    /// values.
    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own")]
    pub fn new(
        profile: &'a Profile,
        data: &'a Data,
        graders: Graders<'a>,
        stage: &str,
        reward: &'a Reward,
        mut policy: LocalPolicy,
        teachers: Teachers<'a>,
        learning_rate: f64,
        seed: u64,
        purpose: &str,
    ) -> Result<Self> {
        let grpo = &profile.grpo;
        let stream = Stream::new(seed).purpose(purpose);
        policy.temperature = grpo.temperature;
        policy.top_p = grpo.top_p;
        policy.keeps_pixels = grpo.trains_vision();
        let reference = match &grpo.lora {
            None => {
                let frozen = grpo
                    .frozen
                    .iter()
                    .map(|part| part.parse())
                    .collect::<std::result::Result<Vec<ModelPart>, _>>()?;
                policy.model.freeze(&frozen)?;
                policy.model.copy(policy.model.dtype())?.detached()?
            }
            Some(lora) => {
                let base = policy.model.detached()?;
                let options = LoraOptions {
                    rank: lora.rank,
                    alpha: lora.alpha,
                    targets: lora.targets.clone(),
                };
                policy
                    .model
                    .add_lora(&options, stream.purpose("adapters"))?;
                base
            }
        };
        let trainer = Trainer::new(
            policy.model.trainable(),
            AdamWOptions {
                beta1: grpo.beta1,
                beta2: grpo.beta2,
                eps: grpo.adam_eps,
                weight_decay: grpo.weight_decay,
            },
            profile.compute.optimizer,
        )?;
        Ok(Training {
            profile,
            data,
            graders,
            stage: stage.to_owned(),
            reward,
            stream,
            purpose: purpose.to_owned(),
            policy,
            reference,
            teachers,
            trainer,
            schedule: LearningRateSchedule {
                peak: learning_rate,
                warmup: grpo.warmup,
                decay: grpo.decay,
            },
        })
    }

    /// Update `index` of this stage, counted from 0; `made` updates came before it in the whole run.
    pub fn update(&mut self, index: usize, made: usize) -> Result<MadeUpdate> {
        let mut seconds = BTreeMap::new();
        let mut clock = Instant::now();
        let mut lap = |name: &str| {
            seconds.insert(name.to_owned(), clock.elapsed().as_secs_f64());
            clock = Instant::now();
        };
        let stream = self.stream.purpose("rollout").index(index as u64);
        let mut questions = self
            .data
            .training(&self.stream, index, self.profile.grpo.prompts)?;
        let undecodable = std::mem::take(&mut questions.undecodable);
        self.policy.reused = Reused::default();
        let sampled = rollout::sample(
            &mut self.policy,
            self.data,
            questions,
            self.profile.grpo.samples,
            &stream,
            self.graders.scoring,
        )?;
        let reused = self.policy.reused;
        let mut groups = sampled.groups;
        for question in undecodable.iter().chain(&sampled.refused) {
            eprintln!(
                "{}, update {}: question {} is left out: {}",
                self.stage,
                made + 1,
                question.id,
                question.reason
            );
        }
        lap("rollout");
        let reward = self.reward.method();
        let device = self.policy.model.device();
        let compared_with = self.teachers.asked_by(self.reward, &self.reference)?;
        let compared_with = compared_with.map(|model| model.on(device)).transpose()?;
        let evidence = evidence::measure(
            &mut self.policy,
            &groups,
            &evidence::Measuring {
                wanted: reward.evidence(),
                attribution: self.reward.attribution(),
                compared_with: compared_with.as_ref(),
                verifier: self.graders.verifier.map(EndpointVerifier::new),
                scoring_tokens: self.profile.compute.scoring_tokens,
            },
        )?;
        // One that waits elsewhere leaves the room for the step.
        drop(compared_with);
        if reward.evidence() == Evidence::Verifier {
            evidence.leave_out_unverified(&mut groups);
        }
        let unjudged = self.unjudged(&groups, sampled.first_unjudged, made)?;
        lap(match self.reward.method().evidence() {
            Evidence::Divergence(_) => "attribution",
            _ => "scoring",
        });
        let valued = rewards::value(
            self.reward,
            &groups,
            &evidence,
            &stream,
            self.profile.grpo.advantage_scale,
        )?;
        lap("reward");
        let step = step::step(
            &step::Stepping {
                settings: &self.profile.grpo,
                update_tokens: self.profile.compute.update_tokens,
                recompute: self.profile.compute.recompute,
                reference: &self.reference,
                learning_rate: self.schedule.rate(index),
            },
            &mut self.policy,
            &mut self.trainer,
            &groups,
            &valued.advantages,
        )?;
        self.policy.forget();
        lap("update");
        let mut line = valued.metrics(&groups, self.reward);
        line.stage.clone_from(&self.stage);
        line.update = made as u64 + 1;
        line.attribution = evidence.attribution;
        line.unjudged = unjudged;
        line.left_out = (undecodable.len() + sampled.refused.len()) as u64;
        step.describe(&mut line);
        if let Some(tokens) = &mut line.tokens {
            (tokens.reused, tokens.run_whole) = (reused.tokens, reused.run_whole);
        }
        line.seconds = seconds;
        let count = self.profile.episodes.groups;
        Ok(MadeUpdate {
            metrics: line,
            kept: kept::keep(count, &self.purpose, groups, evidence.groups, &valued),
        })
    }

    /// How many answers of an update have no verdict.
    ///
    /// # Errors
    /// More of them than the profile allows: whoever judges is away.
    fn unjudged(
        &self,
        groups: &[rollout::RolloutGroup],
        why: Option<String>,
        made: usize,
    ) -> Result<u64> {
        let outcomes = || groups.iter().flat_map(|group| &group.outcomes);
        let (all, open) = (
            outcomes().count(),
            outcomes().filter(|outcome| outcome.is_none()).count(),
        );
        let most = self
            .profile
            .judge
            .as_ref()
            .map_or(1.0, |judge| judge.most_unjudged);
        if open > 0 && (open == all || open as f64 > most * all as f64) {
            return Err(Error::Training {
                stage: self.stage.clone(),
                update: made as u64 + 1,
                problem: format!(
                    "{open} of {all} answers have no verdict ({}); see that the judge or verifier \
                     answers, and give the same command with --resume: verdicts that were had are kept",
                    why.as_deref().unwrap_or("calls that were not verified")
                ),
            });
        }
        Ok(open as u64)
    }
}
