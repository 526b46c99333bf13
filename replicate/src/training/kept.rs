//! A training group that is kept for people to look at: its episodes with what each was worth.

use std::collections::BTreeMap;

use baselines::Reward;
use benchmarks::TestSet;
use benchmarks::evaluation::Answered;
use results::{Decoding, EpisodeRecord, TrainingSample};

use super::evidence::GroupCalls;
use super::rewards::Valued;
use super::rollout::RolloutGroup;
use crate::records::Recorder;

/// A group with its evidence and worth.
pub struct KeptGroup {
    group: RolloutGroup,
    calls: GroupCalls,
    /// Which prompt of the update it is.
    prompt: usize,
    /// The purpose of the stream that its question follows.
    stream: String,
    /// Reward, NaN where there was no verdict, and advantage of every episode.
    worth: Vec<(f32, f32)>,
}

/// The first `count` groups of an update. Prompts are drawn at random, so the first ones are a
/// random sample.
pub(super) fn keep(
    count: usize,
    stream: &str,
    groups: Vec<RolloutGroup>,
    calls: Vec<GroupCalls>,
    valued: &Valued,
) -> Vec<KeptGroup> {
    let worth = valued.rewards.iter().zip(&valued.advantages);
    let mut worth = worth.map(|(reward, advantage)| (*reward, *advantage));
    let kept = groups.into_iter().zip(calls).enumerate().take(count);
    kept.map(|(prompt, (group, calls))| KeptGroup {
        worth: worth.by_ref().take(group.episodes.len()).collect(),
        group,
        calls,
        prompt,
        stream: stream.to_owned(),
    })
    .collect()
}

impl KeptGroup {
    /// The group's episodes, with the verdicts that their rewards were made of; update and stage are the
    /// caller's to fill in. `scorer` is who scored them, and in which version.
    pub fn episodes(
        &self,
        recorder: &Recorder,
        reward: &Reward,
        scorer: impl Fn(TestSet) -> (String, String),
    ) -> Vec<EpisodeRecord> {
        let item = &self.group.item;
        let told = self.group.answered.iter().zip(&self.worth);
        let episodes = self.group.episodes.iter().zip(told).enumerate();
        episodes
            .map(|(sample, (episode, (answered, &(worth, advantage))))| {
                let answered = Answered {
                    episode: Some(episode.clone()),
                    ..answered.clone()
                };
                let scorer = scorer(item.question.set);
                let call = self.calls.call_of.get(sample).copied().flatten();
                let evidence = call.and_then(|call| self.calls.calls.get(call));
                let shares = call.and_then(|call| self.calls.attributions.get(call).copied());
                let shares = shares.flatten();
                EpisodeRecord {
                    student: shares.map(|(student, _)| student),
                    teacher: shares.map(|(_, teacher)| teacher),
                    divergence: evidence.and_then(|evidence| evidence.divergence),
                    training: Some(TrainingSample {
                        stage: String::new(),
                        stage_update: 0,
                        stream: self.stream.clone(),
                        prompt: self.prompt as u64,
                        sample: sample as u64,
                        reward_parts: parts(reward, self.group.outcomes[sample], worth),
                        reward: (!worth.is_nan()).then_some(f64::from(worth)),
                        advantage: f64::from(advantage),
                        teacher_log_prob: evidence
                            .and_then(|evidence| evidence.teacher_log_prob)
                            .map(f64::from),
                        own_log_prob: evidence
                            .and_then(|evidence| evidence.own_log_prob)
                            .map(f64::from),
                    }),
                    ..recorder.episode(item, &answered, Decoding::Sampled, scorer)
                }
            })
            .collect()
    }
}

/// The parts of a reward, named as those of the metrics are.
fn parts(reward: &Reward, outcome: Option<f32>, worth: f32) -> BTreeMap<String, f64> {
    let Some(outcome) = outcome else {
        return BTreeMap::new();
    };
    let mut parts = BTreeMap::from([("outcome".to_owned(), f64::from(outcome))]);
    if !matches!(reward, Reward::VtoolR1(_)) && !worth.is_nan() {
        parts.insert(reward.name(), f64::from(worth - outcome));
    }
    parts
}
