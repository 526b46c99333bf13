//! What was stored of training: groups and validation answers, and curves from the metrics.

use std::collections::{BTreeMap, BTreeSet};

use results::{EpisodeRecord, GROUPS, Runs, UnfinishedRun, UpdateMetrics, VALIDATION};
use serde_json::{Value, json};

use super::answers::{Column, outcome_letter, shares, short, verdict_letter};
use super::questions::Questions;

/// Episodes with their questions, as far as these can be had again.
pub struct Stored {
    episodes: Vec<(EpisodeRecord, Option<usize>)>,
}

/// The training groups of a column, or its validation answers.
pub fn stored(
    column: &Column<'_>,
    name: &str,
    questions: &mut Questions,
) -> anyhow::Result<Option<Stored>> {
    let path = column.run.folder.join(name);
    if !results::is_stored(&path) {
        return Ok(None);
    }
    let mut episodes = Vec::new();
    let world = column.world.as_ref();
    for episode in results::read_lines::<EpisodeRecord>(&path)? {
        let question = match &episode.training {
            Some(_) => questions.of_training(&episode, world),
            None => {
                let key = super::answers::key(
                    &episode.set,
                    &episode.qa_id,
                    &episode.image_id,
                    &episode.gold,
                    world,
                );
                let kind = episode.kind.as_deref();
                Some(questions.of_answer(key, kind, world, Some(&episode)))
            }
        };
        if let (Some(question), Some(words)) = (question, &episode.first_completion) {
            questions.call(question, words);
        }
        episodes.push((episode, question));
    }
    Ok(Some(Stored { episodes }))
}

/// The training groups of a column.
pub fn groups(column: &Column<'_>, questions: &mut Questions) -> anyhow::Result<Option<Stored>> {
    stored(column, GROUPS, questions)
}

/// The validation answers of a column.
pub fn validation(
    column: &Column<'_>,
    questions: &mut Questions,
) -> anyhow::Result<Option<Stored>> {
    stored(column, VALIDATION, questions)
}

impl Stored {
    /// Groups in the order in which they were sampled.
    pub fn groups(&self, questions: &Questions) -> Value {
        let mut groups: BTreeMap<(u64, u64), Vec<_>> = BTreeMap::new();
        for row in &self.episodes {
            if let (Some(update), Some(sample)) = (row.0.update, &row.0.training) {
                groups.entry((update, sample.prompt)).or_default().push(row);
            }
        }
        let groups = groups.into_iter().map(|((update, prompt), rows)| {
            let first = rows.first().map(|row| &row.0);
            json!({
                "update": update,
                "prompt": prompt,
                "stage": first.and_then(|e| e.training.as_ref()).map(|t| &t.stage),
                "set": first.map(|e| &e.set),
                "request": first.map(|e| &e.request),
                "gold": first.map(|e| &e.gold),
                "question": rows.first().and_then(|row| row.1),
                "samples": rows.iter().map(|row| said(row, questions)).collect::<Vec<_>>(),
            })
        });
        groups.collect()
    }

    /// Answers by question, in the order of the updates.
    pub fn by_question(&self, questions: &Questions) -> Value {
        let mut all: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
        for row in &self.episodes {
            if let Some(question) = row.1 {
                all.entry(question).or_default().push(said(row, questions));
            }
        }
        let all = all
            .into_iter()
            .map(|(question, answers)| json!({"question": question, "answers": answers}));
        all.collect()
    }
}

/// One episode.
fn said((episode, question): &(EpisodeRecord, Option<usize>), questions: &Questions) -> Value {
    let words = episode.first_completion.as_deref();
    let edited = question.and_then(|question| questions.edited(question, words?));
    let sample = episode.training.as_ref();
    json!({
        "update": episode.update,
        "words": words,
        "second": episode.second_completion,
        "outcome": outcome_letter(episode.outcome),
        "why": episode.outcome_reason,
        "focus": episode.right_focus,
        "prediction": episode.prediction,
        "verdict": verdict_letter(episode.verdict),
        "reason": episode.reason,
        "edited": edited,
        "parts": sample.map(|sample| {
            let parts = sample.reward_parts.iter();
            parts.map(|(name, value)| (name.clone(), short(*value))).collect::<BTreeMap<_, _>>()
        }),
        "reward": sample.and_then(|sample| sample.reward).map(short),
        "advantage": sample.map(|sample| short(sample.advantage)),
        "teacherLogProb": sample.and_then(|sample| sample.teacher_log_prob).map(short),
        "ownLogProb": sample.and_then(|sample| sample.own_log_prob).map(short),
        "student": episode.student.as_ref().map(shares),
        "teacher": episode.teacher.as_ref().map(shares),
        "divergence": episode.divergence.map(short),
    })
}

/// What a curve shows of an update.
type Reading = Box<dyn Fn(&UpdateMetrics) -> Option<f64>>;

/// The curves that there may be, with their names for people.
fn readings(parts: &BTreeSet<String>) -> Vec<(String, String, Reading)> {
    let mut all: Vec<(String, String, Reading)> = Vec::new();
    let mut add = |key: &str, title: &str, reading: Reading| {
        all.push((key.to_owned(), title.to_owned(), reading));
    };
    add(
        "validation.accuracy",
        "validation accuracy, greedy",
        Box::new(|line| line.validation.map(|validation| validation.accuracy)),
    );
    add("reward", "reward", Box::new(|line| Some(line.reward)));
    for part in parts {
        let name = part.clone();
        add(
            &format!("reward_parts.{part}"),
            &format!("reward: the part {part}"),
            Box::new(move |line| line.reward_parts.get(&name).copied()),
        );
    }
    add(
        "tool_call_rate",
        "share of episodes that call a tool",
        Box::new(|line| Some(line.tool_call_rate)),
    );
    add(
        "tool_success_rate",
        "share of the calls that run",
        Box::new(|line| line.tool_success_rate),
    );
    add(
        "attribution.divergence",
        "divergence from the teacher's attribution, sampled calls",
        Box::new(|line| line.attribution.map(|found| found.divergence)),
    );
    add(
        "alignment.right",
        "divergence on the probe, right calls",
        Box::new(|line| line.alignment.map(|found| found.right)),
    );
    add(
        "alignment.wrong",
        "divergence on the probe, wrong calls",
        Box::new(|line| line.alignment.map(|found| found.wrong)),
    );
    add(
        "attribution.gap",
        "completeness gap of the attribution",
        Box::new(|line| line.attribution.and_then(|found| found.gap)),
    );
    add(
        "zero_variance_groups",
        "share of groups without variance",
        Box::new(|line| Some(line.zero_variance_groups)),
    );
    add(
        "penalty_alone",
        "share of groups where the auxiliary term acts alone",
        Box::new(|line| line.penalty_alone),
    );
    add(
        "penalty_correlation",
        "correlation of the penalty with a wrong call",
        Box::new(|line| line.penalty_correlation),
    );
    add(
        "penalty_auc",
        "share of pairs in which a wrong call has the larger penalty",
        Box::new(|line| line.penalty_auc),
    );
    add(
        "kl",
        "KL from the reference policy, nats a token",
        Box::new(|line| Some(line.kl)),
    );
    add(
        "entropy",
        "entropy, nats a token",
        Box::new(|line| Some(line.entropy)),
    );
    add("loss", "loss", Box::new(|line| Some(line.loss)));
    add(
        "grad_norm",
        "norm of the gradient",
        Box::new(|line| Some(line.grad_norm)),
    );
    all
}

/// Curves of every arm of the runs of one source: mean, least and greatest over the seeds.
pub fn curves(source: usize, runs: &Runs) -> Vec<Value> {
    let lines = || runs.runs.iter().flat_map(|run| &run.metrics);
    let parts: BTreeSet<String> = lines()
        .flat_map(|line| line.reward_parts.keys().cloned())
        .collect();
    let mut all = Vec::new();
    for (key, title, reading) in readings(&parts) {
        for curve in results::curves(runs, &*reading, 1) {
            let points: Vec<[f64; 4]> = curve
                .points
                .iter()
                .map(|point| {
                    let (update, mean, least, greatest) = *point;
                    [update, short(mean), short(least), short(greatest)]
                })
                .collect();
            all.push(json!({
                "source": source,
                "arm": curve.arm,
                "key": key,
                "title": title,
                "points": points,
            }));
        }
    }
    all
}

/// The curves of training on its way, each on its own, with the run's place among the unfinished.
pub fn unfinished_curves(place: usize, run: &UnfinishedRun) -> Vec<Value> {
    let parts: BTreeSet<String> = run
        .metrics
        .iter()
        .flat_map(|line| line.reward_parts.keys().cloned())
        .collect();
    let of_key = |(key, title, reading): (String, String, Reading)| {
        let points: Vec<[f64; 4]> = run
            .metrics
            .iter()
            .filter_map(|line| {
                let value = short(reading(line)?);
                Some([line.update as f64, value, value, value])
            })
            .collect();
        (!points.is_empty())
            .then(|| json!({"unfinished": place, "key": key, "title": title, "points": points}))
    };
    readings(&parts).into_iter().filter_map(of_key).collect()
}

/// What is known of training on its way at its last update.
pub fn unfinished(source: usize, slot: usize, run: &UnfinishedRun) -> Value {
    let last = run.metrics.last();
    let validation = run.metrics.iter().rev().find_map(|line| line.validation);
    json!({
        "source": source,
        "arm": run.arm,
        "seed": run.seed,
        "slot": slot,
        "stage": last.map(|line| &line.stage),
        "update": last.map(|line| line.update),
        "reward": last.map(|line| short(line.reward)),
        "calls": last.map(|line| short(line.tool_call_rate)),
        "validation": validation.map(|validation| short(validation.accuracy)),
        "seconds": last.map(|line| short(line.seconds.values().sum())),
        "alarms": last.map(|line| &line.alarms),
    })
}
