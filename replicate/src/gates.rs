//! The three gates that a world and its base must pass before arms are compared.
//!
//! 1. A right tool call helps, a wrong one hurts, each by as much as the profile demands. Where nobody
//!    knows the right call, whether the base answers better when it is offered the tools than without
//!    them, which has no threshold.
//! 2. GRPO alone improves the student by more than the interval, and its calls do not die out.
//! 3. Without a threshold: whether the penalty sees wrong calls: for fresh samples of a policy, the area under the ROC curve of
//!    the divergence as a detector of calls that are not right, counted over pairs of calls of one
//!    prompt, because that is what group advantages compare: 0.5 sees nothing, 1 everything. The
//!    standard error is a bootstrap's over prompts. Where nobody knows the right call, a call counts
//!    as right when most of the episodes that made it answered rightly.

use std::sync::Arc;

use agent::{Episode, run_episodes};
use attribution::Method;
use baselines::Reward;
use baselines::attribution_settings::{AttributedTokens, AttributionSettings};
use benchmarks::data::{Data, Item};
use benchmarks::evaluation::{Scoring, scored};
use qwen2_5_vl::Model;
use results::Validation;
use seeded_random::{Draw, Stream};
use serde::Serialize;

use crate::Result;
use crate::alignment::{CalledPrompt, attribute};
use crate::encoding::EncodedPrompt;
use crate::evaluation::{BaseCard, MeanInterval, OwnCallsCard};
use crate::policy::LocalPolicy;
use crate::profile::{GateSettings, Profile};

/// How well a score tells wrong calls from right ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// Area under the curve over pairs within a prompt, and its standard error by a bootstrap over
    /// prompts; `None` without a pair.
    pub auc: Option<[f64; 2]>,
    /// Prompts that have right and wrong calls.
    pub prompts: usize,
    /// Pairs of a wrong and a right call.
    pub pairs: usize,
    /// Mean over prompts of the standard deviation of the score within a prompt: what a weight is
    /// multiplied with before it meets the outcome.
    pub spread: f64,
}

/// Sampled calls with whether they are right, by prompt.
pub struct SampledCalls {
    /// For each prompt its distinct calls: tokens, and whether the call is right.
    pub prompts: Vec<PromptCalls>,
}

/// The distinct calls of one prompt.
#[derive(Clone)]
pub struct PromptCalls {
    /// A first turn to take the prompt from.
    pub episode: Episode,
    /// Tokens of each distinct call.
    pub calls: Vec<Vec<u32>>,
    /// Whether it is right.
    pub right: Vec<bool>,
}

/// Samples `samples` episodes of each question and keeps the prompts with right and wrong calls: by
/// the questions' truth, and where they have none by how the episodes ended.
pub fn sample_calls(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    samples: usize,
    stream: &Stream,
    scoring: Scoring<'_>,
) -> Result<SampledCalls> {
    let tasks: Vec<_> = items
        .iter()
        .enumerate()
        .flat_map(|(index, item)| {
            let stream = stream.index(index as u64);
            (0..samples as u64)
                .map(move |sample| (&item.question.task, Some(stream.index(sample).seed())))
        })
        .collect();
    let episodes = run_episodes(policy, &tasks, &data.episodes())?;
    let asked: Vec<_> = items
        .iter()
        .flat_map(|item| std::iter::repeat_n(&item.question, samples))
        .collect();
    let answered = scored(&asked, episodes, scoring)?;
    let mut prompts = Vec::new();
    for (item, group) in items.iter().zip(answered.chunks(samples)) {
        let (mut calls, mut verdicts) = (Vec::new(), Vec::<Vec<bool>>::new());
        let mut first = None;
        for one in group {
            let Some(episode) = one.episode.as_ref().filter(|e| e.outcome.called()) else {
                continue;
            };
            let right = match &item.truth {
                Some(truth) => Some(truth.approves(episode)),
                None => one.verdict.is_right(),
            };
            let Some(right) = right else { continue };
            first.get_or_insert(episode);
            let ids = &episode.turns[0].completion.token_ids;
            match calls.iter().position(|known| known == ids) {
                Some(known) => verdicts[known].push(right),
                None => {
                    calls.push(ids.clone());
                    verdicts.push(vec![right]);
                }
            }
        }
        let most = |verdicts: &Vec<bool>| {
            2 * verdicts.iter().filter(|right| **right).count() > verdicts.len()
        };
        let right: Vec<bool> = verdicts.iter().map(most).collect();
        if let Some(episode) = first
            && right.contains(&true)
            && right.contains(&false)
        {
            prompts.push(PromptCalls {
                episode: episode.clone(),
                calls,
                right,
            });
        }
    }
    Ok(SampledCalls { prompts })
}

impl SampledCalls {
    /// The prompts as tokens and blocks.
    pub fn encode(&self, policy: &mut LocalPolicy) -> Result<Vec<Arc<EncodedPrompt>>> {
        let conversations: Vec<_> = self
            .prompts
            .iter()
            .map(|prompt| &prompt.episode.turns[0].conversation)
            .collect();
        policy.encode(&conversations)
    }

    /// The prompts as another model sees them.
    pub fn encode_for(
        &self,
        other: &Model,
        policy: &LocalPolicy,
    ) -> Result<Vec<Arc<EncodedPrompt>>> {
        let conversations: Vec<_> = self
            .prompts
            .iter()
            .map(|prompt| &prompt.episode.turns[0].conversation)
            .collect();
        let encoded = policy.encode_for(other, &conversations)?;
        Ok(encoded.into_iter().map(Arc::new).collect())
    }

    /// The calls as sites of attribution; `encoded` is what [`SampledCalls::encode`] gave.
    pub fn sites<'a>(
        &'a self,
        policy: &LocalPolicy,
        encoded: &'a [Arc<EncodedPrompt>],
    ) -> Result<Vec<CalledPrompt<'a>>> {
        let tokenizer = policy.processor.tokenizer();
        encoded
            .iter()
            .zip(&self.prompts)
            .map(|(prompt, own)| {
                CalledPrompt::new(prompt, own.calls.iter().map(Vec::as_slice), tokenizer)
            })
            .collect()
    }
}

/// The divergence of student from teacher of every sampled call, under attribution settings.
pub fn divergences(
    policy: &mut LocalPolicy,
    teacher: &Model,
    sampled: &SampledCalls,
    settings: &AttributionSettings,
) -> Result<Vec<Vec<f64>>> {
    let encoded = sampled.encode(policy)?;
    let sites = sampled.sites(policy, &encoded)?;
    let student = attribute(&policy.model.detached()?, &sites, settings, policy.budgets)?;
    let encoded = sampled.encode_for(teacher, policy)?;
    let sites = sampled.sites(policy, &encoded)?;
    let teacher = attribute(teacher, &sites, settings, policy.budgets)?;
    student
        .iter()
        .zip(&teacher)
        .map(|(student, teacher)| {
            student
                .iter()
                .zip(teacher)
                .map(|(s, t)| Ok(settings.divergence.between(&s.shares, &t.shares)?))
                .collect()
        })
        .collect()
}

/// Minus the teacher's log-probability of every sampled call: the control. `settings` say which
/// tokens count.
pub fn teacher_surprise(
    policy: &mut LocalPolicy,
    teacher: &Model,
    sampled: &SampledCalls,
    settings: &AttributionSettings,
) -> Result<Vec<Vec<f64>>> {
    let encoded = sampled.encode_for(teacher, policy)?;
    let sites = sampled.sites(policy, &encoded)?;
    let found = attribute(teacher, &sites, settings, policy.budgets)?;
    Ok(found
        .iter()
        .map(|calls| calls.iter().map(|call| -call.log_prob).collect())
        .collect())
}

/// The detection of wrong calls by a score that should be larger for them.
pub fn detection(sampled: &SampledCalls, scores: &[Vec<f64>], replicates: usize) -> Detection {
    // Wins and pairs of each prompt; a tie is half a win.
    let counted: Vec<(f64, usize)> = sampled
        .prompts
        .iter()
        .zip(scores)
        .map(|(prompt, scores)| {
            let (mut wins, mut pairs) = (0.0, 0);
            for (right, score) in prompt.right.iter().zip(scores) {
                for (other, wrong) in prompt.right.iter().zip(scores) {
                    if *right && !*other {
                        pairs += 1;
                        wins += match wrong.total_cmp(score) {
                            std::cmp::Ordering::Greater => 1.0,
                            std::cmp::Ordering::Equal => 0.5,
                            std::cmp::Ordering::Less => 0.0,
                        };
                    }
                }
            }
            (wins, pairs)
        })
        .collect();
    let auc = |counted: &mut dyn Iterator<Item = &(f64, usize)>| {
        let (wins, pairs) = counted.fold((0.0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        if pairs == 0 { 0.5 } else { wins / pairs as f64 }
    };
    let mut draw = Stream::new(0).purpose("detection").generator();
    let resampled: Vec<f64> = (0..replicates)
        .map(|_| {
            let chosen: Vec<usize> = (0..counted.len())
                .map(|_| draw.below(counted.len()))
                .collect();
            auc(&mut chosen.iter().map(|&index| &counted[index]))
        })
        .collect();
    let mean = resampled.iter().sum::<f64>() / resampled.len() as f64;
    let variance = resampled
        .iter()
        .map(|a| (a - mean) * (a - mean))
        .sum::<f64>()
        / (resampled.len().max(2) - 1) as f64;
    let pairs: usize = counted.iter().map(|one| one.1).sum();
    Detection {
        auc: (pairs > 0).then(|| [auc(&mut counted.iter()), variance.sqrt()]),
        prompts: counted.len(),
        pairs,
        spread: spread(scores),
    }
}

/// Mean over prompts of the standard deviation of the scores of a prompt.
fn spread(scores: &[Vec<f64>]) -> f64 {
    let deviation = |scores: &Vec<f64>| {
        let n = scores.len() as f64;
        let mean = scores.iter().sum::<f64>() / n;
        let squares: f64 = scores.iter().map(|score| (score - mean).powi(2)).sum();
        (squares / (n - 1.0)).sqrt()
    };
    // A prompt that is kept has a right and a wrong call, so two scores at least.
    scores.iter().map(deviation).sum::<f64>() / scores.len().max(1) as f64
}

/// What the base student can do, as far as can be known.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Base {
    /// On questions that know the right call.
    KnownCalls(BaseCard),
    /// On questions that do not.
    OwnCalls(OwnCallsCard),
}

/// What a world and its base must show before arms are compared, measured after a replication.
#[derive(Clone, Debug, Serialize)]
pub struct Gates {
    /// Gate 1: the base student with no tool, the right one, a wrong one, and its own.
    pub base: Base,
    /// Gate 2: greedy validation of GRPO's students after their last update, one per seed.
    pub trained: Vec<Validation>,
    /// Gate 3: how well scores tell wrong calls from right ones, on fresh samples of the cold start.
    pub detection: Vec<(String, Detection)>,
    /// The thresholds.
    pub settings: GateSettings,
}

/// The forms of the penalty that gate 3 measures: those of the arms, and the paper's as far as known.
fn forms(profile: &Profile, arms: &[String]) -> Vec<(String, AttributionSettings)> {
    let mut found: Vec<(String, AttributionSettings)> = Vec::new();
    for name in arms {
        if let Reward::Iapo(settings) = &profile.arms[name].reward
            && !found
                .iter()
                .any(|(_, known)| *known == settings.attribution)
        {
            found.push((
                format!("the penalty of {name}"),
                settings.attribution.clone(),
            ));
        }
    }
    if !found.iter().any(|(_, known)| known.is_papers_form()) {
        found.push(("the paper's form".to_owned(), AttributionSettings::paper()));
    }
    found
}

/// Gate 3 for every form and for the control, minus the teacher's log-probability of the call.
pub fn detections(
    policy: &mut LocalPolicy,
    teacher: &Model,
    profile: &Profile,
    arms: &[String],
    data: &Data,
    items: &[Item],
    scoring: Scoring<'_>,
) -> Result<Vec<(String, Detection)>> {
    policy.temperature = profile.grpo.temperature;
    let seed = profile.world.as_ref().map_or(0, |world| world.seed);
    let stream = Stream::new(seed).purpose("gate 3");
    let samples = profile.grpo.samples;
    let sampled = sample_calls(policy, data, items, samples, &stream, scoring)?;
    let most = profile.gates.integrated_prompts;
    let few = SampledCalls {
        prompts: sampled.prompts.iter().take(most).cloned().collect(),
    };
    let replicates = profile.gates.replicates;
    let mut found = Vec::new();
    for (name, settings) in forms(profile, arms) {
        let calls = match settings.method {
            Method::IntegratedGradients { .. } => &few,
            _ => &sampled,
        };
        let scores = divergences(policy, teacher, calls, &settings)?;
        found.push((name, detection(calls, &scores, replicates)));
    }
    let control = AttributionSettings {
        method: Method::Occlusion {},
        tokens: AttributedTokens::All,
        ..profile.evaluation.attribution.clone()
    };
    let surprise = teacher_surprise(policy, teacher, &sampled, &control)?;
    found.push((
        "minus the teacher's log-probability (control)".to_owned(),
        detection(&sampled, &surprise, replicates),
    ));
    policy.forget();
    Ok(found)
}

impl Gates {
    /// The gates as lines for people: what was measured with its interval, and the threshold if
    /// there is one.
    pub fn lines(&self) -> Vec<String> {
        let (base, limits) = (&self.base, &self.settings);
        let passed = |holds: bool| if holds { "passed" } else { "not passed" };
        let points = |one: &MeanInterval| {
            let [low, high] = one.interval;
            format!(
                "{:+.1} [{:+.1}, {:+.1}]",
                100.0 * one.mean,
                100.0 * low,
                100.0 * high
            )
        };
        let (before, asked, first) = match base {
            Base::KnownCalls(base) => (
                base.own_choice,
                base.n,
                format!(
                    "gate 1, tools matter ({}): without a tool {:.1} % right; the right call gives {} points \
                     (threshold +{:.0}), a wrong one takes {} (threshold +{:.0}); n = {}; its own calls: {:.1} %",
                    passed(
                        base.right_gain.mean >= limits.right_gain
                            && base.wrong_loss.mean >= limits.wrong_loss
                    ),
                    100.0 * base.no_tool,
                    points(&base.right_gain),
                    100.0 * limits.right_gain,
                    points(&base.wrong_loss),
                    100.0 * limits.wrong_loss,
                    base.n,
                    100.0 * base.own_choice,
                ),
            ),
            Base::OwnCalls(base) => (
                base.offered,
                base.n,
                format!(
                    "gate 1, no threshold, since nobody knows the right call: offered no tool {:.1} % right, \
                     offered them {:.1} %, {} points; it calls in {:.0} %, {:.0} % run; n = {}",
                    100.0 * base.not_offered,
                    100.0 * base.offered,
                    points(&base.gain),
                    100.0 * base.calls,
                    100.0 * base.runs,
                    base.n,
                ),
            ),
        };
        let mut lines = vec![first];
        if !self.trained.is_empty() {
            let n = self.trained.len() as f64;
            let mean = self.trained.iter().map(|v| v.accuracy).sum::<f64>() / n;
            let calls = self.trained.iter().map(|v| v.tool_call_rate).sum::<f64>() / n;
            // Both are shares of the same questions; the base is one policy, the mean is of several.
            let half = |share: f64| 1.96 * (share * (1.0 - share) / asked.max(1) as f64).sqrt();
            let margin = libm::hypot(half(mean), half(before));
            let gain = mean - before;
            lines.push(format!(
                "gate 2, GRPO learns ({}): greedy validation {:.1} % before, {:.1} % after on average \
                 over {} seeds, {:+.1} [{:+.1}, {:+.1}] points (threshold: the interval above 0; \
                 unpaired), call rate {calls:.2} (threshold {})",
                passed(gain > margin && calls > limits.call_rate),
                100.0 * before,
                100.0 * mean,
                self.trained.len(),
                100.0 * gain,
                100.0 * (gain - margin),
                100.0 * (gain + margin),
                limits.call_rate,
            ));
        }
        for (name, found) in &self.detection {
            let auc = match found.auc {
                None => "–".to_owned(),
                Some([auc, error]) => {
                    format!(
                        "{auc:.2} [{:.2}, {:.2}]",
                        auc - 1.96 * error,
                        auc + 1.96 * error
                    )
                }
            };
            lines.push(format!(
                "gate 3, no threshold, AUC within prompts {auc} ({} prompts, {} pairs, spread within \
                 prompts {:.3}): {name}",
                found.prompts, found.pairs, found.spread
            ));
        }
        lines
    }
}
