//! The three gates that a world and its base must pass before arms are compared.
//!
//! 1. A right tool call helps by ten points, a wrong one hurts by ten.
//! 2. GRPO alone improves the student by more than the interval, and its calls do not die out.
//! 3. The penalty sees wrong calls: for fresh samples of a policy, the area under the ROC curve of
//!    the divergence as a detector of calls that are not right, counted over pairs of calls of one
//!    prompt, because that is what group advantages compare: 0.5 sees nothing, 1 everything. The
//!    standard error is a bootstrap's over prompts.

use std::sync::Arc;

use agent::{Episode, run_episodes};
use attribution::{BlockMass, Divergence};
use baselines::trm::call_is_right;
use benchmarks::micro::MicroQuestion;
use qwen2_5_vl::Model;
use results::Validation;
use seeded_random::{Draw, Stream};
use serde::Serialize;

use crate::Result;
use crate::alignment::{Site, attribute};
use crate::evaluation::{BaseCard, episode_options};
use crate::policy::{EncodedPrompt, LocalPolicy};
use crate::profile::{self, Baseline, Method, Tokens};
use crate::training::content_tokens;

/// How well a score tells wrong calls from right ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// Area under the curve over pairs within a prompt.
    pub auc: f64,
    /// Its standard error by a bootstrap over prompts.
    pub standard_error: f64,
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

/// Samples `samples` episodes of each question and keeps the prompts with right and wrong calls.
pub fn sample_calls(
    policy: &mut LocalPolicy,
    questions: &[MicroQuestion],
    samples: usize,
    stream: &Stream,
) -> Result<SampledCalls> {
    let tasks: Vec<_> = questions
        .iter()
        .enumerate()
        .flat_map(|(index, micro)| {
            let stream = stream.index(index as u64);
            (0..samples as u64)
                .map(move |sample| (&micro.question.task, stream.index(sample).seed()))
        })
        .collect();
    let episodes = run_episodes(policy, &tasks, &episode_options())?
        .into_iter()
        .collect::<Result<Vec<Episode>>>()?;
    let mut prompts = Vec::new();
    for (micro, group) in questions.iter().zip(episodes.chunks(samples)) {
        let (mut calls, mut right) = (Vec::new(), Vec::new());
        for episode in group.iter().filter(|episode| episode.outcome.called()) {
            let ids = &episode.turns[0].completion.token_ids;
            if !calls.contains(ids) {
                calls.push(ids.clone());
                right.push(call_is_right(episode, &micro.asked.right));
            }
        }
        if right.contains(&true) && right.contains(&false) {
            prompts.push(PromptCalls {
                episode: group[0].clone(),
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

    /// The calls as sites of attribution; `encoded` is what [`SampledCalls::encode`] gave.
    pub fn sites<'a>(
        &'a self,
        policy: &LocalPolicy,
        encoded: &'a [Arc<EncodedPrompt>],
    ) -> Vec<Site<'a>> {
        encoded
            .iter()
            .zip(&self.prompts)
            .map(|(prompt, calls)| Site {
                prompt,
                calls: calls.calls.iter().map(Vec::as_slice).collect(),
                content: calls
                    .calls
                    .iter()
                    .map(|ids| content_tokens(policy, ids))
                    .collect(),
            })
            .collect()
    }
}

/// The divergence of student from teacher of every sampled call, under attribution settings.
pub fn divergences(
    policy: &mut LocalPolicy,
    teacher: &Model,
    sampled: &SampledCalls,
    settings: &profile::Attribution,
) -> Result<Vec<Vec<f64>>> {
    let encoded = sampled.encode(policy)?;
    let sites = sampled.sites(policy, &encoded);
    let student = attribute(&policy.model.detached()?, &sites, settings)?;
    let teacher = attribute(teacher, &sites, settings)?;
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
    settings: &profile::Attribution,
) -> Result<Vec<Vec<f64>>> {
    let encoded = sampled.encode(policy)?;
    let sites = sampled.sites(policy, &encoded);
    let found = attribute(teacher, &sites, settings)?;
    Ok(found
        .iter()
        .map(|calls| calls.iter().map(|call| -call.log_prob).collect())
        .collect())
}

/// The detection of wrong calls by a score that should be larger for them.
pub fn detection(sampled: &SampledCalls, scores: &[Vec<f64>]) -> Detection {
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
    let resampled: Vec<f64> = (0..1000)
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
        / (resampled.len() - 1) as f64;
    Detection {
        auc: auc(&mut counted.iter()),
        standard_error: variance.sqrt(),
        prompts: counted.len(),
        pairs: counted.iter().map(|one| one.1).sum(),
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

/// What a world and its base must show before arms are compared, measured after a replication.
#[derive(Clone, Debug, Serialize)]
pub struct Gates {
    /// Gate 1: the base student with no tool, the right one, a wrong one, and its own.
    pub base: BaseCard,
    /// Gate 2: greedy validation of GRPO's students after their last update, one a seed.
    pub trained: Vec<Validation>,
    /// Gate 3: how well scores tell wrong calls from right ones, on fresh samples of the cold start.
    pub detection: Vec<(String, Detection)>,
}

/// Prompts at most on which integrated gradients are measured: they cost the most.
const INTEGRATED_PROMPTS: usize = 24;

/// The forms of the penalty that gate 3 measures: the profile's, and the paper's as far as known.
fn forms(profile: &profile::Profile) -> [(&'static str, profile::Attribution); 3] {
    let nodes = profile.attribution.nodes;
    let form = |method, baseline, masses, tokens, divergence| profile::Attribution {
        method,
        baseline,
        nodes,
        masses,
        tokens,
        divergence,
    };
    [
        ("the profile's penalty", profile.attribution.clone()),
        (
            "integrated gradients, zero baseline, absolute sums, KL (the paper's form)",
            form(
                Method::IntegratedGradients,
                Baseline::Zero,
                BlockMass::Absolute,
                Tokens::All,
                Divergence::Kl,
            ),
        ),
        (
            "integrated gradients, block-mean baseline, signed sums, content tokens, KL",
            form(
                Method::IntegratedGradients,
                Baseline::BlockMean,
                BlockMass::Signed,
                Tokens::Content,
                Divergence::Kl,
            ),
        ),
    ]
}

/// Gate 3 for every form and for the control, minus the teacher's log-probability of the call.
pub fn detections(
    policy: &mut LocalPolicy,
    teacher: &Model,
    profile: &profile::Profile,
    questions: &[MicroQuestion],
) -> Result<Vec<(String, Detection)>> {
    policy.temperature = profile.grpo.temperature;
    let stream = Stream::new(profile.world.seed).purpose("gate 3");
    let sampled = sample_calls(policy, questions, profile.grpo.samples, &stream)?;
    let few = SampledCalls {
        prompts: sampled
            .prompts
            .iter()
            .take(INTEGRATED_PROMPTS)
            .cloned()
            .collect(),
    };
    let mut found = Vec::new();
    for (name, settings) in forms(profile) {
        let calls = match settings.method {
            Method::Occlusion | Method::PathDifferences => &sampled,
            Method::IntegratedGradients => &few,
        };
        let scores = divergences(policy, teacher, calls, &settings)?;
        found.push((name.to_owned(), detection(calls, &scores)));
    }
    let control = profile::Attribution {
        method: Method::Occlusion,
        tokens: Tokens::All,
        ..profile.attribution.clone()
    };
    let surprise = teacher_surprise(policy, teacher, &sampled, &control)?;
    found.push((
        "minus the teacher's log-probability (control)".to_owned(),
        detection(&sampled, &surprise),
    ));
    policy.forget();
    Ok(found)
}

impl Gates {
    /// The gates as lines for people.
    pub fn lines(&self) -> Vec<String> {
        let base = &self.base;
        let passed = |holds: bool| if holds { "passed" } else { "not passed" };
        let first = base.right_call - base.no_tool >= 0.1 && base.no_tool - base.wrong_call >= 0.1;
        let mut lines = vec![format!(
            "gate 1, tools matter ({}): {:.1} % right without a tool, {:.1} % after the right mask, \
             {:.1} % after a wrong one (n = {}); its own calls: {:.1} %",
            passed(first),
            100.0 * base.no_tool,
            100.0 * base.right_call,
            100.0 * base.wrong_call,
            base.n,
            100.0 * base.own_choice,
        )];
        if !self.trained.is_empty() {
            let n = self.trained.len() as f64;
            let mean = self.trained.iter().map(|v| v.accuracy).sum::<f64>() / n;
            let calls = self.trained.iter().map(|v| v.tool_call_rate).sum::<f64>() / n;
            // Both are shares of the same questions; the base is one policy, the mean is of several.
            let half = |share: f64| 1.96 * (share * (1.0 - share) / base.n.max(1) as f64).sqrt();
            let margin = libm::hypot(half(mean), half(base.own_choice));
            lines.push(format!(
                "gate 2, GRPO learns ({}): greedy validation {:.1} % before, {:.1} % after on average \
                 over {} seeds (difference {:+.1}, unpaired 95 % margin {:.1}), call rate {:.2}",
                passed(mean - base.own_choice > margin && calls > 0.5),
                100.0 * base.own_choice,
                100.0 * mean,
                self.trained.len(),
                100.0 * (mean - base.own_choice),
                100.0 * margin,
                calls,
            ));
        }
        for (name, found) in &self.detection {
            lines.push(format!(
                "gate 3, AUC within prompts {:.2} (standard error {:.2}, {} prompts, {} pairs, spread \
                 within prompts {:.3}): {name}",
                found.auc, found.standard_error, found.prompts, found.pairs, found.spread
            ));
        }
        lines
    }
}
