//! Rollouts: groups of episodes sampled for each training question, scored.

use agent::{Episode, run_episodes};
use benchmarks::Verdict;
use benchmarks::data::{Data, Item, TrainingQuestions};
use benchmarks::evaluation::{Scoring, verdict_without_judge};
use seeded_random::Stream;

use crate::Result;
use crate::policy::LocalPolicy;

/// The episodes of one prompt.
pub struct RolloutGroup {
    /// The question.
    pub item: Item,
    /// Its sampled episodes.
    pub episodes: Vec<Episode>,
    /// 1 for a right answer, 0 for a wrong one; `None` where no verdict could be had, which leaves
    /// the episode out of its group.
    pub outcomes: Vec<Option<f32>>,
}

/// Samples `samples` episodes of every question. The sample's number and its question's decide its
/// randomness, nothing else.
pub fn sample(
    policy: &mut LocalPolicy,
    data: &Data,
    questions: TrainingQuestions,
    samples: usize,
    stream: &Stream,
) -> Result<Vec<RolloutGroup>> {
    let tasks: Vec<_> = questions
        .items
        .iter()
        .enumerate()
        .flat_map(|(prompt, item)| {
            let stream = stream.index(prompt as u64);
            (0..samples as u64)
                .map(move |sample| (&item.question.task, Some(stream.index(sample).seed())))
        })
        .collect();
    let mut episodes = run_episodes(policy, &tasks, &data.episodes())?
        .into_iter()
        .collect::<Result<Vec<Episode>>>()?
        .into_iter();
    let scoring = Scoring::of(data.rule(), None);
    Ok(questions
        .items
        .into_iter()
        .map(|item| {
            let episodes: Vec<Episode> = episodes.by_ref().take(samples).collect();
            let outcomes = episodes
                .iter()
                .map(
                    |episode| match verdict_without_judge(&item.question, episode, scoring).0 {
                        Verdict::Right => Some(1.0),
                        Verdict::Wrong => Some(0.0),
                        Verdict::NotJudged => None,
                    },
                )
                .collect();
            RolloutGroup {
                item,
                episodes,
                outcomes,
            }
        })
        .collect())
}
