//! Answers of a policy to given questions, scored; and what it does when its calls are made for it.

use agent::{
    CompletionRequest, Conversation, Policy, final_answer, first_turn, second_turn, use_tool,
};
use benchmarks::Verdict;
use benchmarks::data::{Data, Item};
use benchmarks::evaluation::{Answered, EvaluationError, Scoring, answer};
use results::Validation;

use crate::policy::LocalPolicy;
use crate::{Error, Result};

/// Questions that are asked together: their images are held at once.
pub const ASKED_TOGETHER: usize = 128;

/// Scored greedy answers, in the order of the items.
pub fn greedy_answers(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    scoring: Scoring<'_>,
) -> Result<Vec<Answered>> {
    Ok(answers(policy, data, items, scoring, None)?.0)
}

/// Scored answers, in the order of the items: greedy ones, and where `seed` gives each question the
/// seed of a sample at the policy's temperature, sampled ones. Both are asked for together, so that
/// they share a prompt's images and its forward pass.
pub fn answers(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    scoring: Scoring<'_>,
    seed: Option<&dyn Fn(&Item) -> u64>,
) -> Result<(Vec<Answered>, Vec<Answered>)> {
    let options = data.episodes();
    let (mut greedy, mut sampled) = (Vec::with_capacity(items.len()), Vec::new());
    for batch in items.chunks(ASKED_TOGETHER) {
        let once = batch.iter().map(|item| (&item.question, None));
        let again = seed.map(|seed| batch.iter().map(|item| (&item.question, Some(seed(item)))));
        let asked: Vec<_> = once.chain(again.into_iter().flatten()).collect();
        let answered = answer(policy, &asked, &options, scoring).map_err(|error| match error {
            EvaluationError::Policy(error) => error,
            EvaluationError::Judge(error) => Error::Judge(error),
        })?;
        let mut answered = answered.into_iter();
        greedy.extend(answered.by_ref().take(batch.len()));
        sampled.extend(answered);
        policy.forget();
    }
    Ok((greedy, sampled))
}

/// Greedy accuracy, call rate and success on validation questions. What has no verdict is left out
/// of the accuracy. Beside them the answers, in the order of the items.
pub fn validate(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    scoring: Scoring<'_>,
) -> Result<(Validation, Vec<Answered>)> {
    let answered = greedy_answers(policy, data, items, scoring)?;
    let share = |holds: &dyn Fn(&Answered) -> bool, among: usize| {
        let count = answered.iter().filter(|one| holds(one)).count();
        count as f64 / among.max(1) as f64
    };
    let judged = answered
        .iter()
        .filter(|one| one.verdict != Verdict::NotJudged)
        .count();
    let accuracy = share(&|one| one.verdict == Verdict::Right, judged);
    let validation = Validation {
        n: judged as u64,
        accuracy,
        reward: accuracy,
        tool_call_rate: share(&|one| one.tool_called, answered.len()),
        tool_success_rate: share(&|one| one.tool_succeeded, answered.len()),
    };
    Ok((validation, answered))
}

/// What the first turn's call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// The figure as it is, no tool.
    NoTool,
    /// The call that the question asks for.
    RightCall,
    /// A call of the same kind on other entries.
    WrongCall,
}

/// Whether each answer is right when the call is made for the policy; `None` for an item without a
/// call to force: one that does not know its truth, or has no other entries to call wrongly.
pub fn forced_answers(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    forced: Forced,
) -> Result<Vec<Option<bool>>> {
    let options = data.episodes();
    let mut asked: Vec<(usize, Conversation)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let task = &item.question.task;
        let call = match (forced, &item.truth) {
            (Forced::NoTool, _) => None,
            (Forced::RightCall, Some(truth)) => Some(truth.right_call.as_str()),
            (Forced::WrongCall, Some(truth)) => truth.wrong_call.as_deref(),
            (_, None) => None,
        };
        if call.is_none() && forced != Forced::NoTool {
            continue;
        }
        let call = call.unwrap_or_default();
        let (_, _, edited) = use_tool(task, call, &options.tools);
        let image = edited.unwrap_or_else(|| task.image.clone());
        let first = first_turn(task, options.prompt);
        let second = second_turn(
            task,
            &first,
            call,
            Ok(&image),
            options.prompt,
            options.observation,
        );
        asked.push((index, second));
    }
    let mut right = vec![None; items.len()];
    for batch in asked.chunks(ASKED_TOGETHER) {
        let requests: Vec<CompletionRequest> = batch
            .iter()
            .map(|(_, conversation)| CompletionRequest::new(conversation, None))
            .collect();
        for ((index, _), completion) in batch.iter().zip(policy.complete(&requests)?) {
            let text = completion?.text;
            let gold = items[*index].question.gold.as_str();
            right[*index] = Some(final_answer(&text) == Some(gold));
        }
        policy.forget();
    }
    Ok(right)
}

/// A mean with its 95 % interval, by the normal approximation.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct MeanInterval {
    /// Values.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// The interval's ends.
    pub interval: [f64; 2],
}

impl MeanInterval {
    /// Of values; the interval has no width where there are fewer than two.
    pub fn of(values: &[f64]) -> Self {
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n.max(1) as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let half = match n {
            0 | 1 => 0.0,
            _ => 1.96 * (squares / (n - 1) as f64 / n as f64).sqrt(),
        };
        MeanInterval {
            n,
            mean,
            interval: [mean - half, mean + half],
        }
    }
}

/// What a base can do: gate 1, and a model card's figures.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct BaseCard {
    /// Questions.
    pub n: usize,
    /// Accuracy on the raw figure without tools.
    pub no_tool: f64,
    /// Accuracy after the right call.
    pub right_call: f64,
    /// Accuracy after a call on other entries.
    pub wrong_call: f64,
    /// Accuracy after the right call less that without a tool, question by question.
    pub right_gain: MeanInterval,
    /// Accuracy without a tool less that after a wrong call, question by question.
    pub wrong_loss: MeanInterval,
    /// Accuracy of greedy episodes.
    pub own_choice: f64,
    /// Share of greedy episodes that call.
    pub calls: f64,
    /// Share of greedy episodes whose call runs.
    pub runs: f64,
    /// Share of greedy episodes whose call has a right focus.
    pub right_focus: f64,
}

/// Measures a base on given items, which must know their truth.
pub fn base_card(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    scoring: Scoring<'_>,
) -> Result<BaseCard> {
    let answered = greedy_answers(policy, data, items, scoring)?;
    let share = |holds: &dyn Fn(&Item, &Answered) -> bool| {
        let pairs = items.iter().zip(&answered);
        let count = pairs.filter(|(item, one)| holds(item, one)).count();
        count as f64 / items.len().max(1) as f64
    };
    let right_focus = |item: &Item, one: &Answered| match (&item.truth, &one.episode) {
        (Some(truth), Some(episode)) => truth.approves(episode),
        _ => false,
    };
    let no_tool = forced_answers(policy, data, items, Forced::NoTool)?;
    let right_call = forced_answers(policy, data, items, Forced::RightCall)?;
    let wrong_call = forced_answers(policy, data, items, Forced::WrongCall)?;
    let mean = |right: &[Option<bool>]| {
        let values: Vec<f64> = right.iter().flatten().map(|r| f64::from(*r)).collect();
        MeanInterval::of(&values).mean
    };
    let paired = |more: &[Option<bool>], less: &[Option<bool>]| {
        let pairs = more.iter().zip(less);
        let values: Vec<f64> = pairs
            .filter_map(|(more, less)| Some(f64::from((*more)?) - f64::from((*less)?)))
            .collect();
        MeanInterval::of(&values)
    };
    Ok(BaseCard {
        n: items.len(),
        no_tool: mean(&no_tool),
        right_call: mean(&right_call),
        wrong_call: mean(&wrong_call),
        right_gain: paired(&right_call, &no_tool),
        wrong_loss: paired(&no_tool, &wrong_call),
        own_choice: share(&|_, one| one.verdict == Verdict::Right),
        calls: share(&|_, one| one.tool_called),
        runs: share(&|_, one| one.tool_succeeded),
        right_focus: share(&right_focus),
    })
}

/// What a base can do where nobody knows the right call.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OwnCallsCard {
    /// Questions with a verdict both ways.
    pub n: usize,
    /// Accuracy of greedy answers where no tool is offered.
    pub not_offered: f64,
    /// Accuracy of greedy episodes, tools offered.
    pub offered: f64,
    /// The second less the first, question by question.
    pub gain: MeanInterval,
    /// Share of greedy episodes that call.
    pub calls: f64,
    /// Share of greedy episodes whose call runs.
    pub runs: f64,
}

/// Measures a base on given items, which need not know their truth.
pub fn own_calls_card(
    policy: &mut LocalPolicy,
    data: &Data,
    items: &[Item],
    scoring: Scoring<'_>,
) -> Result<OwnCallsCard> {
    let offered = greedy_answers(policy, data, items, scoring)?;
    let mut bare = items.to_vec();
    for item in &mut bare {
        // An empty text offers nothing.
        item.question.task.tools = Some(String::new());
    }
    let not_offered = greedy_answers(policy, data, &bare, scoring)?;
    let right = |one: &Answered| one.verdict.is_right().map(f64::from);
    let pairs: Vec<(f64, f64)> = offered
        .iter()
        .zip(&not_offered)
        .filter_map(|(with, without)| Some((right(with)?, right(without)?)))
        .collect();
    let mean = |values: Vec<f64>| MeanInterval::of(&values);
    let share = |holds: &dyn Fn(&Answered) -> bool| {
        let count = offered.iter().filter(|one| holds(one)).count();
        count as f64 / offered.len().max(1) as f64
    };
    Ok(OwnCallsCard {
        n: pairs.len(),
        not_offered: mean(pairs.iter().map(|pair| pair.1).collect()).mean,
        offered: mean(pairs.iter().map(|pair| pair.0).collect()).mean,
        gain: mean(pairs.iter().map(|pair| pair.0 - pair.1).collect()),
        calls: share(&|one| one.tool_called),
        runs: share(&|one| one.tool_succeeded),
    })
}
