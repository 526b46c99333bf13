//! Greedy answers to held-out questions, and what a policy does when its calls are made for it.

use agent::{
    CompletionRequest, Conversation, Episode, EpisodeOptions, ObservationMode, Policy, PromptStyle,
    final_answer, run_episodes, second_turn,
};
use baselines::trm::call_is_right;
use benchmarks::TestSet;
use benchmarks::micro::{MicroQuestion, Split, TRAINED, is_right, question};
use results::Validation;
use seeded_random::Stream;
use visual_tools::{Effect, Style};

use crate::Result;
use crate::policy::LocalPolicy;
use crate::profile::World;

/// How episodes of the micro world are run.
pub fn episode_options() -> EpisodeOptions {
    EpisodeOptions {
        prompt: PromptStyle::Micro,
        observation: ObservationMode::Replace,
        tools: Style::micro(),
    }
}

/// The questions of a split of the world: `count` of each set.
pub fn questions(
    world: &World,
    sets: &[TestSet],
    split: Split,
    count: usize,
) -> Vec<MicroQuestion> {
    let stream = Stream::new(world.seed);
    sets.iter()
        .flat_map(|set| {
            (0..count as u64).map(|index| question(*set, split, &world.difficulty, &stream, index))
        })
        .collect()
}

/// Greedy episodes, in the order of the questions.
pub fn greedy_episodes(
    policy: &mut LocalPolicy,
    questions: &[MicroQuestion],
    mut progress: impl FnMut(usize),
) -> Result<Vec<Episode>> {
    let temperature = std::mem::replace(&mut policy.temperature, 0.0);
    let mut episodes = Vec::with_capacity(questions.len());
    for batch in questions.chunks(128) {
        let tasks: Vec<_> = batch
            .iter()
            .map(|micro| (&micro.question.task, 0))
            .collect();
        for episode in run_episodes(policy, &tasks, &episode_options())? {
            episodes.push(episode?);
        }
        policy.forget();
        progress(batch.len());
    }
    policy.temperature = temperature;
    Ok(episodes)
}

/// Greedy accuracy, call rate and success on the validation questions of the trained families.
pub fn validate(policy: &mut LocalPolicy, questions: &[MicroQuestion]) -> Result<Validation> {
    let episodes = greedy_episodes(policy, questions, |_| ())?;
    let share = |holds: &dyn Fn(&MicroQuestion, &Episode) -> bool| {
        let count = questions
            .iter()
            .zip(&episodes)
            .filter(|(question, episode)| holds(question, episode))
            .count();
        count as f64 / questions.len().max(1) as f64
    };
    let accuracy = share(&|question, episode| is_right(question, episode.answer.as_deref()));
    Ok(Validation {
        n: questions.len() as u64,
        accuracy,
        reward: accuracy,
        tool_call_rate: share(&|_, episode| episode.outcome.called()),
        tool_success_rate: share(&|_, episode| episode.outcome.succeeded()),
    })
}

/// The validation questions of a world.
pub fn validation_questions(world: &World, count: usize) -> Vec<MicroQuestion> {
    questions(world, &TRAINED, Split::Validation, count)
}

/// What the first turn's call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// The figure as it is, no tool.
    NoTool,
    /// The mask that the question asks for.
    RightCall,
    /// A mask of the same kind on other entries.
    WrongCall,
}

/// Share of right answers when the call is made for the policy.
pub fn forced_accuracy(
    policy: &mut LocalPolicy,
    questions: &[MicroQuestion],
    forced: Forced,
) -> Result<f64> {
    let conversations: Vec<Conversation> = questions
        .iter()
        .map(|micro| {
            let task = &micro.question.task;
            let focus = match forced {
                Forced::NoTool => None,
                Forced::RightCall => micro.asked.right.first(),
                Forced::WrongCall => micro.asked.wrong.first(),
            };
            let call = focus
                .map(|focus| focus.call(Effect::Mask))
                .unwrap_or_default();
            let (_, _, edited) = agent::use_tool(task, &call, &Style::micro());
            let image = edited.unwrap_or_else(|| task.image.clone());
            second_turn(
                task,
                &Vec::new(),
                &call,
                Ok(&image),
                PromptStyle::Micro,
                ObservationMode::Replace,
            )
        })
        .collect();
    let temperature = std::mem::replace(&mut policy.temperature, 0.0);
    let mut right = 0;
    for (questions, conversations) in questions.chunks(128).zip(conversations.chunks(128)) {
        let requests: Vec<CompletionRequest> = conversations
            .iter()
            .map(|conversation| CompletionRequest {
                conversation,
                seed: 0,
            })
            .collect();
        for (question, completion) in questions.iter().zip(policy.complete(&requests)?) {
            right += usize::from(is_right(question, final_answer(&completion?.text)));
        }
        policy.forget();
    }
    policy.temperature = temperature;
    Ok(right as f64 / questions.len().max(1) as f64)
}

/// What a base must be for arms to be compared on it (gates 1 and 3 of the micro world).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct BaseCard {
    /// Questions of each figure below.
    pub n: usize,
    /// Accuracy on the raw figure without tools.
    pub no_tool: f64,
    /// Accuracy after the right mask.
    pub right_call: f64,
    /// Accuracy after a mask on other entries.
    pub wrong_call: f64,
    /// Accuracy of greedy episodes.
    pub own_choice: f64,
    /// Share of greedy episodes that call.
    pub calls: f64,
    /// Share of greedy episodes whose call runs.
    pub runs: f64,
    /// Share of greedy episodes whose call has a right focus.
    pub right_focus: f64,
}

/// Measures a base on given questions.
pub fn base_card(policy: &mut LocalPolicy, questions: &[MicroQuestion]) -> Result<BaseCard> {
    let episodes = greedy_episodes(policy, questions, |_| ())?;
    let share = |holds: &dyn Fn(&MicroQuestion, &Episode) -> bool| {
        let pairs = questions.iter().zip(&episodes);
        let count = pairs.filter(|(q, e)| holds(q, e)).count();
        count as f64 / questions.len().max(1) as f64
    };
    Ok(BaseCard {
        n: questions.len(),
        own_choice: share(&|q, e| is_right(q, e.answer.as_deref())),
        calls: share(&|_, e| e.outcome.called()),
        runs: share(&|_, e| e.outcome.succeeded()),
        right_focus: share(&|q, e| call_is_right(e, &q.asked.right)),
        no_tool: forced_accuracy(policy, questions, Forced::NoTool)?,
        right_call: forced_accuracy(policy, questions, Forced::RightCall)?,
        wrong_call: forced_accuracy(policy, questions, Forced::WrongCall)?,
    })
}
