//! From questions to verdicts: the episodes of a batch, and what the scorers say of them.
//!
//! An episode that failed for a network's reason is not judged; so is an answer whose judge could
//! not be had. Neither is ever wrong.

use std::str::FromStr;

use agent::{Episode, EpisodeOptions, Policy, run_episodes};

use crate::data::AnswerRule;
use crate::judge::{Case, Judge, JudgeError};
use crate::scorers::{Answer, Crashes, ScoredSet, score};
use crate::sources::bare_question;
use crate::{Question, Verdict};

/// Who decides.
#[derive(Clone, Copy)]
pub enum Scoring<'a> {
    /// The official rule of each set. CharXiv's is a judge: without one, its answers are not
    /// judged.
    Official {
        /// The judge of CharXiv.
        charxiv: Option<&'a dyn Judge>,
    },
    /// A judge for every set.
    Judged(&'a dyn Judge),
    /// The micro world's rule for every set: the answer is the gold text.
    Exact,
}

impl<'a> Scoring<'a> {
    /// The rule of a data source, with the judge that CharXiv's rule needs, if there is one.
    pub fn of(rule: AnswerRule, charxiv: Option<&'a dyn Judge>) -> Self {
        match rule {
            AnswerRule::Exact => Scoring::Exact,
            AnswerRule::Official => Scoring::Official { charxiv },
        }
    }

    /// Who scores a set, and in which version, as records have it; `judge` is the judge's name.
    pub fn scorer(&self, set: crate::TestSet, judge: Option<&str>) -> (String, String) {
        let name = match (self, judge) {
            (Scoring::Exact, _) => "exact".to_owned(),
            (Scoring::Judged(_), judge) => format!("judge {}", judge.unwrap_or("unnamed")),
            (Scoring::Official { charxiv: Some(_) }, Some(judge))
                if set == crate::TestSet::CharXiv =>
            {
                format!("judge {judge}")
            }
            (Scoring::Official { .. }, _) => "official".to_owned(),
        };
        (name, crate::scorers::VERSION.to_string())
    }
}

/// A question, asked and scored.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The answer that was scored; `None` when the episode gave none.
    pub prediction: Option<String>,
    /// Right, wrong or not judged.
    pub verdict: Verdict,
    /// Why: the scorer's reason, the judge's words, or the error; empty where the verdict says all.
    pub reason: String,
    /// Whether the first turn called a tool.
    pub tool_called: bool,
    /// Whether the call was carried out.
    pub tool_succeeded: bool,
    /// The episode; `None` when a request of it failed, so that it should be asked again.
    pub episode: Option<Episode>,
}

/// What ends an evaluation.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError<E: std::error::Error + 'static> {
    /// The policy cannot go on.
    #[error(transparent)]
    Policy(E),
    /// The judge cannot go on.
    #[error(transparent)]
    Judge(#[from] JudgeError),
}

/// Asks `questions`, each with its seed (greedily without one), and scores the answers, in their
/// order.
///
/// # Errors
/// Only what ends the run; the failure of one episode or one verdict is in its place.
pub fn answer<P: Policy>(
    policy: &mut P,
    questions: &[(&Question, Option<u64>)],
    options: &EpisodeOptions,
    scoring: Scoring<'_>,
) -> Result<Vec<Answered>, EvaluationError<P::Error>> {
    let tasks: Vec<_> = questions
        .iter()
        .map(|(question, seed)| (&question.task, *seed))
        .collect();
    let episodes = run_episodes(policy, &tasks, options).map_err(EvaluationError::Policy)?;
    let questions: Vec<&Question> = questions.iter().map(|(question, _)| *question).collect();
    Ok(scored(&questions, episodes, scoring)?)
}

/// Scores episodes that were run already, each beside its question; an episode that failed is not
/// judged.
///
/// # Errors
/// A judge that cannot go on.
pub fn scored<E: std::error::Error>(
    questions: &[&Question],
    episodes: Vec<Result<Episode, E>>,
    scoring: Scoring<'_>,
) -> Result<Vec<Answered>, JudgeError> {
    let mut answered: Vec<Answered> = questions
        .iter()
        .zip(episodes)
        .map(|(question, episode)| match episode {
            Ok(episode) => from_rule(question, episode, scoring),
            Err(error) => Answered {
                prediction: None,
                verdict: Verdict::NotJudged,
                reason: error.to_string(),
                tool_called: false,
                tool_succeeded: false,
                episode: None,
            },
        })
        .collect();

    let judged: Vec<(usize, &dyn Judge)> = questions
        .iter()
        .enumerate()
        .filter_map(|(index, question)| {
            let judge = match scoring {
                Scoring::Judged(judge) => judge,
                Scoring::Official { charxiv } if question.set == crate::TestSet::CharXiv => {
                    charxiv?
                }
                Scoring::Official { .. } | Scoring::Exact => return None,
            };
            answered[index].episode.is_some().then_some((index, judge))
        })
        .collect();
    if let Some((_, judge)) = judged.first() {
        let indices: Vec<usize> = judged.iter().map(|(index, _)| *index).collect();
        ask_judge(*judge, questions, &indices, &mut answered)?;
    }
    Ok(answered)
}

/// The verdict that the rule of a set gives an episode, and why. Where only a judge can tell, it is
/// not judged.
pub fn verdict_without_judge(
    question: &Question,
    episode: &Episode,
    scoring: Scoring<'_>,
) -> (Verdict, String) {
    let prediction = episode.answer.as_deref();
    match scoring {
        Scoring::Exact if prediction == Some(question.gold.as_str()) => {
            (Verdict::Right, String::new())
        }
        Scoring::Exact => (Verdict::Wrong, String::new()),
        Scoring::Official { .. } | Scoring::Judged(_) => {
            let given = prediction.map_or(Answer::Null, Answer::from);
            let gold = Answer::from(question.gold.as_str());
            let set = ScoredSet::Set(question.set);
            match score(set, &gold, &given, Crashes::NotJudged) {
                Ok(scored) => (scored.verdict, scored.reason.to_string()),
                Err(error) => (Verdict::NotJudged, error.to_string()),
            }
        }
    }
}

fn from_rule(question: &Question, episode: Episode, scoring: Scoring<'_>) -> Answered {
    let (verdict, reason) = verdict_without_judge(question, &episode, scoring);
    let prediction = episode.answer.clone();
    Answered {
        prediction,
        verdict,
        reason,
        tool_called: episode.outcome.called(),
        tool_succeeded: episode.outcome.succeeded(),
        episode: Some(episode),
    }
}

/// Replaces the verdicts of `indices` by the judge's.
fn ask_judge(
    judge: &dyn Judge,
    questions: &[&Question],
    indices: &[usize],
    answered: &mut [Answered],
) -> Result<(), JudgeError> {
    let mut open = Vec::new();
    for &index in indices {
        let rubric = judge.rubric(questions[index].set);
        let completion = answered[index]
            .episode
            .as_ref()
            .and_then(|episode| episode.turns.last())
            .map_or("", |turn| turn.completion.text.as_str());
        match rubric.prediction(completion) {
            Some(prediction) => {
                answered[index].prediction = Some(prediction.clone());
                open.push((index, prediction));
            }
            None => {
                answered[index].prediction = None;
                answered[index].verdict = Verdict::Wrong;
                answered[index].reason = "the completion has no final answer".to_owned();
            }
        }
    }
    let cases: Vec<Case<'_>> = open
        .iter()
        .map(|(index, prediction)| {
            let question = questions[*index];
            Case {
                set: question.set,
                question: bare_question(&question.task.request),
                gold: &question.gold,
                prediction,
                category: question.category,
            }
        })
        .collect();
    let judgements = judge.judge(&cases)?;
    for ((index, _), judgement) in open.iter().zip(judgements) {
        answered[*index].verdict = judgement.verdict;
        answered[*index].reason = judgement.reason;
    }
    Ok(())
}

/// One of several machines' share of a set: every `count`-th question, from `index`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    index: usize,
    count: usize,
}

impl Shard {
    /// Everything.
    pub const WHOLE: Shard = Shard { index: 0, count: 1 };

    /// Which share it is, from 1.
    pub fn number(self) -> usize {
        self.index + 1
    }

    /// How many shares there are.
    pub fn count(self) -> usize {
        self.count
    }

    /// Whether the question at `position` of its set belongs to this share.
    pub fn holds(self, position: usize) -> bool {
        position % self.count == self.index
    }
}

impl FromStr for Shard {
    type Err = String;

    /// `i/n` with `i` from 1 to `n`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split_once('/')
            .and_then(|(index, count)| Some((index.parse().ok()?, count.parse().ok()?)))
            .filter(|(index, count): &(usize, usize)| (1..=*count).contains(index))
            .map(|(index, count)| Shard {
                index: index - 1,
                count,
            })
            .ok_or_else(|| format!("expected a shard i/n with i from 1 to n, found '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_part_a_set_without_rest() {
        let shards: Vec<Shard> = ["1/3", "2/3", "3/3"]
            .iter()
            .map(|text| text.parse().unwrap())
            .collect();
        for position in 0..20 {
            let holders = shards.iter().filter(|shard| shard.holds(position)).count();
            assert_eq!(holders, 1);
            assert!(Shard::WHOLE.holds(position));
        }
        assert_eq!((shards[1].number(), shards[1].count()), (2, 3));
        for text in ["", "0/3", "4/3", "1/0", "1", "-1/3", "a/b"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
