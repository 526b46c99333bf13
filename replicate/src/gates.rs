//! Gate 3: does the penalty see wrong calls?
//!
//! For fresh samples of a policy, the area under the ROC curve of the divergence as a detector of
//! calls that are not right, counted over pairs of calls of one prompt, because that is what group
//! advantages compare: 0.5 sees nothing, 1 everything. The standard error is a bootstrap's over
//! prompts.

use agent::{Episode, run_episodes};
use baselines::trm::call_is_right;
use benchmarks::micro::MicroQuestion;
use qwen2_5_vl::Model;
use seeded_random::{Draw, Stream};
use serde::Serialize;

use crate::Result;
use crate::alignment::{Site, attribute};
use crate::evaluation::episode_options;
use crate::policy::LocalPolicy;
use crate::profile;
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
}

/// Sampled calls with whether they are right, by prompt.
pub struct SampledCalls {
    /// For each prompt its distinct calls: tokens, and whether the call is right.
    pub prompts: Vec<PromptCalls>,
}

/// The distinct calls of one prompt.
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

/// The divergence of student from teacher of every sampled call, under attribution settings.
pub fn divergences(
    policy: &mut LocalPolicy,
    teacher: &Model,
    sampled: &SampledCalls,
    settings: &profile::Attribution,
) -> Result<Vec<Vec<f64>>> {
    let conversations: Vec<_> = sampled
        .prompts
        .iter()
        .map(|prompt| &prompt.episode.turns[0].conversation)
        .collect();
    let encoded = policy.encode(&conversations)?;
    let sites: Vec<Site> = encoded
        .iter()
        .zip(&sampled.prompts)
        .map(|(prompt, calls)| Site {
            prompt,
            calls: calls.calls.iter().map(Vec::as_slice).collect(),
            content: calls
                .calls
                .iter()
                .map(|ids| content_tokens(policy, ids))
                .collect(),
        })
        .collect();
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

/// Minus the teacher's log-probability of every sampled call's attributed tokens: the control.
pub fn teacher_surprise(
    policy: &mut LocalPolicy,
    teacher: &Model,
    sampled: &SampledCalls,
    settings: &profile::Attribution,
) -> Result<Vec<Vec<f64>>> {
    let conversations: Vec<_> = sampled
        .prompts
        .iter()
        .map(|prompt| &prompt.episode.turns[0].conversation)
        .collect();
    let encoded = policy.encode(&conversations)?;
    let sites: Vec<Site> = encoded
        .iter()
        .zip(&sampled.prompts)
        .map(|(prompt, calls)| Site {
            prompt,
            calls: calls.calls.iter().map(Vec::as_slice).collect(),
            content: calls
                .calls
                .iter()
                .map(|ids| vec![true; ids.len()])
                .collect(),
        })
        .collect();
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
    }
}
