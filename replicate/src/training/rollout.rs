//! Rollouts: groups of episodes sampled for each training question, scored.

use agent::{Episode, run_episodes};
use benchmarks::data::{Data, Item, TrainingQuestions, Undecodable};
use benchmarks::evaluation::{Answered, Scoring, scored};
use benchmarks::{Question, Verdict};
use seeded_random::Stream;

use crate::Result;
use crate::policy::LocalPolicy;

/// The episodes of one prompt.
pub struct RolloutGroup {
    /// The question.
    pub item: Item,
    /// Its sampled episodes.
    pub episodes: Vec<Episode>,
    /// What was said of each episode's answer by who scored it; the episode itself stands above.
    pub answered: Vec<Answered>,
    /// 1 for a right answer, 0 for a wrong one; `None` where no verdict could be had, which leaves
    /// the episode out of its group.
    pub outcomes: Vec<Option<f32>>,
}

/// What one update sampled.
pub struct Rollout {
    /// The groups, one of each question that could be asked.
    pub groups: Vec<RolloutGroup>,
    /// Questions whose conversation could not be given to the model, and why.
    pub refused: Vec<Undecodable>,
    /// Why the first answer without a verdict has none.
    pub first_unjudged: Option<String>,
}

/// Samples `samples` episodes of every question. The sample's number and its question's decide its
/// randomness, nothing else. A question with an episode that cannot be run is left out whole.
pub fn sample(
    policy: &mut LocalPolicy,
    data: &Data,
    questions: TrainingQuestions,
    samples: usize,
    stream: &Stream,
    scoring: Scoring<'_>,
) -> Result<Rollout> {
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
    let episodes = run_episodes(policy, &tasks, &data.episodes())?;
    let asked: Vec<&Question> = questions
        .items
        .iter()
        .flat_map(|item| std::iter::repeat_n(&item.question, samples))
        .collect();
    let mut answered = scored(&asked, episodes, scoring)?.into_iter();
    let mut found = Rollout {
        groups: Vec::with_capacity(questions.items.len()),
        refused: Vec::new(),
        first_unjudged: None,
    };
    for item in questions.items {
        let own: Vec<Answered> = answered.by_ref().take(samples).collect();
        if let Some(failed) = own.iter().find(|one| one.episode.is_none()) {
            found.refused.push(Undecodable {
                id: item.question.id.clone(),
                reason: failed.reason.clone(),
            });
            continue;
        }
        let unjudged = |one: &&Answered| one.verdict == Verdict::NotJudged;
        if found.first_unjudged.is_none() {
            found.first_unjudged = own.iter().find(unjudged).map(|one| one.reason.clone());
        }
        let outcomes = own
            .iter()
            .map(|one| {
                one.verdict
                    .is_right()
                    .map(|right| f32::from(u8::from(right)))
            })
            .collect();
        let (episodes, answered) = own
            .into_iter()
            .filter_map(|mut one| Some((one.episode.take()?, one)))
            .unzip();
        found.groups.push(RolloutGroup {
            item,
            episodes,
            answered,
            outcomes,
        });
    }
    Ok(found)
}
