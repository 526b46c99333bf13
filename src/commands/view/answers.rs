//! The answers of one column of the page: an arm with a seed, on every question.

use std::collections::{BTreeMap, HashMap};

use agent::ToolOutcome;
use benchmarks::Verdict;
use benchmarks::data::World;
use results::{ArmName, CallOutcome, CallShares, Decoding, EpisodeRecord, Record, Run};
use serde_json::{Map, Value, json};

use super::questions::{Key, Questions};

/// One arm with one seed of one of the runs given.
pub struct Column<'r> {
    /// Which of the runs that were given.
    pub source: usize,
    /// The arm.
    pub arm: ArmName,
    /// The seed.
    pub seed: u64,
    /// The run that it is in.
    pub run: &'r Run,
    /// The generated world that its questions come from.
    pub world: Option<World>,
    /// Its answers, by question.
    pub answers: BTreeMap<usize, ShownAnswer<'r>>,
}

/// An answer with the episode behind it, where one was stored.
pub struct ShownAnswer<'r> {
    /// The record.
    pub record: &'r Record,
    episode: Option<EpisodeRecord>,
    sampled: Option<EpisodeRecord>,
    /// What became of the call.
    pub outcome: CallOutcome,
    /// Why it was refused or failed.
    pub reason: Option<String>,
    /// The tool, where the call was understood.
    pub tool: Option<String>,
    /// What it was pointed at.
    pub names: Vec<String>,
    right_focus: Option<bool>,
    /// Whether `outcome` is known to the letter: a record without the words of a call tells that it
    /// did not run, and not why.
    outcome_known: bool,
}

impl ShownAnswer<'_> {
    /// The words of the first turn, where they were recorded.
    pub fn words(&self) -> Option<&str> {
        let episode = self.episode.as_ref();
        let said = episode.and_then(|episode| episode.first_completion.as_deref());
        said.or(self.record.call.as_deref())
    }

    /// What became of the call, as a letter: s, f, x (refused), u (did not run, nobody knows why) or
    /// 0.
    pub fn outcome_letter(&self) -> char {
        match self.outcome_known {
            true => outcome_letter(self.outcome),
            false => 'u',
        }
    }

    /// Whether the call focuses on exactly what the question names, where that is known.
    pub fn right_focus(&self) -> Option<bool> {
        self.right_focus
    }

    /// Attribution under student and teacher, and their divergence.
    pub fn attribution(&self) -> Option<(CallShares, Option<CallShares>, Option<f64>)> {
        let episode = self.episode.as_ref();
        let measured = episode
            .and_then(|episode| Some((episode.student?, episode.teacher, episode.divergence)));
        measured.or_else(|| {
            let shares = self.record.attribution?;
            let [context, request, image, tools] = shares.values();
            let student = CallShares {
                context,
                request,
                image,
                tools,
                log_prob: f64::NAN,
                gap: None,
            };
            Some((student, None, None))
        })
    }
}

/// The key of an answer's question.
pub fn key(set: &str, id: &str, image_id: &str, gold: &str, world: Option<&World>) -> Key {
    Key {
        set: set.to_owned(),
        id: id.to_owned(),
        image_id: image_id.to_owned(),
        gold: gold.to_owned(),
        place: world.map_or(String::new(), |world| {
            serde_json::to_string(world).unwrap_or_default()
        }),
    }
}

/// The columns of a run: its records by arm and seed, which an evaluation may mix.
pub fn columns<'r>(
    source: usize,
    run: &'r Run,
    world: Option<&World>,
    questions: &mut Questions,
) -> anyhow::Result<Vec<Column<'r>>> {
    let path = run.folder.join(results::EPISODES);
    let mut episodes: HashMap<(String, String, Decoding), EpisodeRecord> = HashMap::new();
    if results::is_stored(&path) {
        for episode in results::read_lines::<EpisodeRecord>(&path)? {
            let key = (episode.set.clone(), episode.qa_id.clone(), episode.decoding);
            episodes.insert(key, episode);
        }
    }
    let mut columns: BTreeMap<(ArmName, u64), Column<'r>> = BTreeMap::new();
    for record in &run.records {
        let column = columns
            .entry((record.arm.clone(), record.seed))
            .or_insert_with(|| Column {
                source,
                arm: record.arm.clone(),
                seed: record.seed,
                run,
                world: world.cloned(),
                answers: BTreeMap::new(),
            });
        let mut take =
            |decoding| episodes.remove(&(record.set.clone(), record.qa_id.clone(), decoding));
        let (episode, sampled) = (take(Decoding::Greedy), take(Decoding::Sampled));
        let key = key(
            &record.set,
            &record.qa_id,
            &record.image_id,
            &record.gt,
            world,
        );
        let question = questions.of_answer(key, record.kind.as_deref(), world, episode.as_ref());
        let answer = answer(record, episode, sampled, question, questions);
        column.answers.insert(question, answer);
    }
    Ok(columns.into_values().collect())
}

fn answer<'r>(
    record: &'r Record,
    episode: Option<EpisodeRecord>,
    sampled: Option<EpisodeRecord>,
    question: usize,
    questions: &mut Questions,
) -> ShownAnswer<'r> {
    let mut answer = ShownAnswer {
        record,
        outcome: CallOutcome::of(record),
        outcome_known: !record.tool_called || record.tool_succeeded,
        reason: record.tool_reason.clone(),
        tool: None,
        names: Vec::new(),
        right_focus: record.right_focus,
        episode: None,
        sampled,
    };
    // What is called again tells figure and tool; what was recorded holds where the two disagree.
    let words = episode.as_ref().and_then(|e| e.first_completion.as_deref());
    if let Some(text) = words.or(record.call.as_deref())
        && let Some(called) = questions.call(question, text)
    {
        answer.tool = called.tool.clone();
        answer.names = called.names.clone();
        answer.right_focus = answer.right_focus.or(called.right_focus);
        if record.tool_called && !record.tool_succeeded {
            answer.outcome_known = true;
            if let ToolOutcome::Refused(_) = called.outcome {
                answer.outcome = CallOutcome::Refused;
            }
        }
    }
    if let Some(episode) = &episode {
        answer.outcome = episode.outcome;
        answer.outcome_known = true;
        answer.reason = answer.reason.or_else(|| episode.outcome_reason.clone());
        answer.tool = answer.tool.or_else(|| episode.tool.clone());
        if answer.names.is_empty() {
            answer.names = episode.names.clone();
        }
    }
    answer.episode = episode;
    answer
}

/// Verdict, outcome of the call and rightness of its focus on every question, a letter each.
pub fn letters(column: &Column<'_>, questions: usize) -> Value {
    let (mut verdict, mut outcome, mut focus) = (String::new(), String::new(), String::new());
    for question in 0..questions {
        let answer = column.answers.get(&question);
        verdict.push(answer.map_or('-', |answer| verdict_letter(answer.record.verdict)));
        outcome.push(answer.map_or('-', ShownAnswer::outcome_letter));
        focus.push(match answer.map(|answer| answer.right_focus) {
            None => '-',
            Some(None) => '?',
            Some(Some(true)) => 'y',
            Some(Some(false)) => 'n',
        });
    }
    json!({"verdict": verdict, "outcome": outcome, "focus": focus})
}

/// r, w or n.
pub fn verdict_letter(verdict: Verdict) -> char {
    match verdict {
        Verdict::Right => 'r',
        Verdict::Wrong => 'w',
        Verdict::NotJudged => 'n',
    }
}

/// s, f, x (refused) or 0.
pub fn outcome_letter(outcome: CallOutcome) -> char {
    match outcome {
        CallOutcome::Succeeded => 's',
        CallOutcome::Failed => 'f',
        CallOutcome::Refused => 'x',
        CallOutcome::NotCalled => '0',
    }
}

/// Texts, each once.
#[derive(Default)]
pub struct Texts {
    list: Vec<String>,
    index: HashMap<String, usize>,
}

impl Texts {
    /// The number of a text; null for none.
    pub fn number(&mut self, text: Option<&str>) -> Value {
        let Some(text) = text else { return Value::Null };
        if let Some(known) = self.index.get(text) {
            return json!(known);
        }
        self.index.insert(text.to_owned(), self.list.len());
        self.list.push(text.to_owned());
        json!(self.list.len() - 1)
    }

    /// All of them.
    pub fn finish(self) -> Value {
        json!(self.list)
    }
}

/// Everything that was said, by question; the page opens it when an episode is looked at.
pub fn details(column: &Column<'_>, questions: &Questions) -> Value {
    let mut texts = Texts::default();
    let mut all = Map::new();
    for (&question, answer) in &column.answers {
        let record = answer.record;
        let episode = answer.episode.as_ref();
        let second = episode.and_then(|episode| episode.second_completion.as_deref());
        let words = answer.words();
        let edited = words.and_then(|words| questions.edited(question, words));
        let sampled = record.sampled.as_ref();
        let drawn = answer.sampled.as_ref();
        let mut row = json!([
            texts.number(Some(&record.prediction)),
            texts.number(words),
            texts.number(second),
            texts.number(answer.reason.as_deref()),
            texts.number(record.reason.as_deref()),
            edited,
        ]);
        let row_fields = row.as_array_mut();
        if let Some(fields) = row_fields {
            fields.push(match sampled {
                None => Value::Null,
                Some(sampled) => json!([
                    texts.number(Some(&sampled.prediction)),
                    verdict_letter(sampled.verdict),
                    texts.number(drawn.and_then(|drawn| drawn.first_completion.as_deref())),
                    texts.number(drawn.and_then(|drawn| drawn.second_completion.as_deref())),
                ]),
            });
            fields.push(attribution(answer));
            while fields.last() == Some(&Value::Null) {
                fields.pop();
            }
        }
        all.insert(question.to_string(), row);
    }
    let scorers: Vec<String> = {
        let mut scorers: Vec<String> = column
            .answers
            .values()
            .map(|answer| format!("{} {}", answer.record.scorer, answer.record.scorer_version))
            .collect();
        scorers.sort();
        scorers.dedup();
        scorers
    };
    let keeps_words = column
        .answers
        .values()
        .any(|answer| answer.words().is_some());
    json!({
        "answers": all,
        "texts": texts.finish(),
        "scorers": scorers,
        "keepsWords": keeps_words,
    })
}

fn attribution(answer: &ShownAnswer<'_>) -> Value {
    match answer.attribution() {
        None => Value::Null,
        Some((student, teacher, divergence)) => json!({
            "student": shares(&student),
            "teacher": teacher.as_ref().map(shares),
            "divergence": divergence.map(short),
        }),
    }
}

/// P, R, I, T, log-probability and completeness gap.
pub fn shares(shares: &CallShares) -> Value {
    let mut all: Vec<Value> = shares
        .blocks()
        .values()
        .iter()
        .map(|share| json!(short(*share)))
        .collect();
    all.push(match shares.log_prob.is_finite() {
        true => json!(short(shares.log_prob)),
        false => Value::Null,
    });
    all.push(json!(shares.gap.map(short)));
    Value::Array(all)
}

/// Five digits: what a page shows.
pub fn short(value: f64) -> f64 {
    match format!("{value:.4e}").parse() {
        Ok(rounded) => rounded,
        Err(_) => value,
    }
}
