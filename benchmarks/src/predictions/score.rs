//! A verdict for every row of a file.

use std::io::Write;
use std::path::Path;

use rayon::prelude::*;
use serde_json::{Map, Value};

use super::error::PredictionsError;
use super::files::{each_block, write_whole};
use super::row::{Row, is_ours};
use super::summary::ScoreSummary;
use crate::foreign_json;
use crate::judge::{Case, Judge, Rubric};
use crate::scorers::{Answer, Crashes, GoldError, Reason, Scored, ScoredSet, gold, relaxed, score};
use crate::{TestSet, Verdict};

/// A set whose rule is relaxed match.
const CHARTS: ScoredSet = ScoredSet::Set(TestSet::ChartQaVertical);

/// Rows scored by one task.
const ROWS_PER_TASK: usize = 256;

/// Which rule gives the verdicts.
pub enum Scorer<'a> {
    /// The official rule of the set, and what becomes of a prediction that it cannot read. For
    /// CharXiv: the grades of an official grading file.
    Official(Crashes),
    /// ChartQA's relaxed match, for any set.
    Relaxed,
    /// A judge with a rubric, for the six sets.
    Judge(&'a (dyn Judge + Sync), Rubric),
}

/// Scores the rows of `input` into the file `output`, which appears only when every row has been
/// scored; a pipe or a device gets them as they come.
///
/// # Errors
/// A file that cannot be read or written, a row that is malformed or lacks a field, a scorer that
/// does not fit the set, a judge that fails for good.
pub fn score_file(
    set: ScoredSet,
    scorer: &Scorer<'_>,
    input: &Path,
    output: &Path,
) -> Result<ScoreSummary, PredictionsError> {
    write_whole(output, |writer| {
        score_rows(set, scorer, input, writer, output)
    })
}

/// Scores the rows of `input` and writes them to `output`, which errors call `name`, as they come.
///
/// # Errors
/// As [`score_file`]; rows of the blocks before the one at fault have been written.
pub fn score_rows(
    set: ScoredSet,
    scorer: &Scorer<'_>,
    input: &Path,
    output: &mut (dyn Write + Send),
    name: &Path,
) -> Result<ScoreSummary, PredictionsError> {
    if let (Scorer::Judge(..), ScoredSet::FinTabNetQa) = (scorer, set) {
        return Err(PredictionsError::NoScorer(
            "fintabnetqa has no judge: use the official or the relaxed scorer".to_owned(),
        ));
    }
    let mut summary = ScoreSummary::default();
    let mut lines_before = 0;
    // A block is written while the next one is scored.
    let mut scored = Vec::new();
    let ended = each_block(input, |text| {
        let block = Block {
            set,
            scorer,
            path: input,
            lines_before,
        };
        let before = std::mem::take(&mut scored);
        let (written, next) = rayon::join(
            || write_pieces(&before, output, name, &mut summary),
            || block.score(text),
        );
        written?;
        scored = next?;
        lines_before += text.lines().count();
        Ok(())
    });
    write_pieces(&scored, output, name, &mut summary)?;
    ended?;
    Ok(summary)
}

fn write_pieces(
    pieces: &[(Vec<u8>, ScoreSummary)],
    output: &mut dyn Write,
    name: &Path,
    summary: &mut ScoreSummary,
) -> Result<(), PredictionsError> {
    for (bytes, counted) in pieces {
        output
            .write_all(bytes)
            .map_err(|source| PredictionsError::Write {
                path: name.to_owned(),
                source,
            })?;
        summary.add(counted);
    }
    Ok(())
}

/// A verdict with what a row's output and the summary need.
struct Decision {
    verdict: Verdict,
    /// The verdict of ChartQA's rule with years exact.
    years_exact: Option<Verdict>,
    /// In the denominator of the accuracy.
    counts: bool,
    /// The reason under which the summary counts the row.
    group: &'static str,
    /// A judge's words, which stand in the output instead of the group.
    words: Option<String>,
}

impl From<Scored> for Decision {
    fn from(scored: Scored) -> Self {
        Decision {
            verdict: scored.verdict,
            years_exact: None,
            counts: scored.counts(),
            group: scored.reason.name(),
            words: None,
        }
    }
}

/// Whole lines, somewhere in a file.
struct Block<'a> {
    set: ScoredSet,
    scorer: &'a Scorer<'a>,
    path: &'a Path,
    lines_before: usize,
}

impl Block<'_> {
    /// The output of the block's rows, in order, in pieces with their counts.
    fn score(&self, text: &str) -> Result<Vec<(Vec<u8>, ScoreSummary)>, PredictionsError> {
        let lines: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            .map(|(i, line)| (self.lines_before + i + 1, line.trim()))
            .filter(|(_, line)| !line.is_empty())
            .collect();
        match *self.scorer {
            Scorer::Judge(judge, rubric) => Ok(vec![self.judge(&lines, judge, rubric)?]),
            _ => lines
                .par_chunks(ROWS_PER_TASK)
                .map(|lines| {
                    let mut bytes = Vec::with_capacity(lines.len() * 256);
                    let mut counted = ScoreSummary::default();
                    for &(line, text) in lines {
                        let row = self.parse(line, text)?;
                        let decision = self.decide(line, &row)?;
                        counted.count(decision.verdict, decision.counts, decision.group);
                        if let Some(verdict) = decision.years_exact {
                            counted.count_years_exact(verdict);
                        }
                        write_row(&mut bytes, text, &row, &decision);
                    }
                    Ok((bytes, counted))
                })
                .collect(),
        }
    }

    fn problem(&self, line: usize, problem: impl Into<String>) -> PredictionsError {
        PredictionsError::Row {
            path: self.path.to_owned(),
            line,
            problem: problem.into(),
        }
    }

    fn parse<'t>(&self, line: usize, text: &'t str) -> Result<Row<'t>, PredictionsError> {
        let row: Row<'t> = serde_json::from_str(text).map_err(|error| {
            let told = foreign_json::problem(text, &error);
            self.problem(
                line,
                format!("expected a JSON object with `gt` and `pred`, found {told}"),
            )
        })?;
        if let Some(Answer::Text(name)) = &row.set
            && name.replace('_', "-") != self.set.to_string()
        {
            return Err(self.problem(
                line,
                format!(
                    "the row says that it is of the set '{name}', and it is scored as {}: give \
                     the rows of each set their own file and --set",
                    self.set
                ),
            ));
        }
        Ok(row)
    }

    /// The error of a gold that cannot be read.
    fn no_gold(&self, line: usize, error: &GoldError) -> PredictionsError {
        self.problem(
            line,
            format!("`gt`: {error}; a row without a gold cannot be scored"),
        )
    }

    fn answers<'r, 't>(
        &self,
        line: usize,
        row: &'r Row<'t>,
    ) -> Result<(&'r Answer<'t>, &'r Answer<'t>), PredictionsError> {
        let gold = row
            .gold
            .as_ref()
            .ok_or_else(|| self.problem(line, "the field `gt` is missing"))?;
        let prediction = row.prediction.as_ref();
        let prediction = prediction.ok_or_else(|| {
            self.problem(
                line,
                "the field `pred` is missing (null stands for no prediction)",
            )
        })?;
        Ok((gold, prediction))
    }

    /// The verdict of a rule that asks nobody.
    fn decide(&self, line: usize, row: &Row<'_>) -> Result<Decision, PredictionsError> {
        let charxiv = self.set == ScoredSet::Set(TestSet::CharXiv);
        let crashes = match self.scorer {
            Scorer::Official(_) if charxiv => return self.graded(line, row),
            Scorer::Official(crashes) => Some(*crashes),
            _ => None,
        };
        let (given_gold, prediction) = self.answers(line, row)?;
        if row.unanswered {
            return Ok(Scored::from(Reason::NotAnswered).into());
        }
        let (set, crashes) = match crashes {
            Some(crashes) => (self.set, crashes),
            // ChartQA's rule reads golds as ChartQA writes them, whichever set they are of.
            None => (CHARTS, Crashes::NotJudged),
        };
        let scored = score(set, given_gold, prediction, crashes)
            .map_err(|error| self.no_gold(line, &error))?;
        let mut decision = Decision::from(scored);
        if uses_relaxed_match(set) {
            let gold = gold(set, given_gold).map_err(|error| self.no_gold(line, &error))?;
            decision.years_exact = Some(match scored.reason {
                Reason::WithinTolerance if relaxed::is_about_years(&Answer::from(&*gold)) => {
                    Verdict::Wrong
                }
                _ => scored.verdict,
            });
        }
        Ok(decision)
    }

    /// The grade of a row of CharXiv's official grading file; −1 there means that grading failed.
    fn graded(&self, line: usize, row: &Row<'_>) -> Result<Decision, PredictionsError> {
        let grade = match &row.score {
            Some(Answer::Number(grade)) if row.graded => grade.as_f64(),
            _ => None,
        };
        let (verdict, group) = match grade {
            Some(1.0) => (Verdict::Right, "graded_right"),
            Some(0.0) => (Verdict::Wrong, "graded_wrong"),
            Some(-1.0) => (Verdict::NotJudged, "grading_failed"),
            _ => {
                return Err(self.problem(
                    line,
                    "CharXiv's official scorer is a judge: expected `extracted_answer` and `score` (1, 0 or -1) \
                     of its grading file; use the judge scorer to have the row graded, or the relaxed scorer",
                ));
            }
        };
        Ok(Decision {
            verdict,
            years_exact: None,
            counts: verdict != Verdict::NotJudged,
            group,
            words: None,
        })
    }

    /// The verdicts of a judge.
    fn judge(
        &self,
        lines: &[(usize, &str)],
        judge: &dyn Judge,
        rubric: Rubric,
    ) -> Result<(Vec<u8>, ScoreSummary), PredictionsError> {
        let ScoredSet::Set(set) = self.set else {
            return Err(PredictionsError::NoScorer(format!(
                "{} has no judge",
                self.set
            )));
        };
        let mut rows = Vec::with_capacity(lines.len());
        for &(line, text) in lines {
            let row = self.parse(line, text)?;
            let asked = self.asked(set, line, &row, rubric)?;
            rows.push((text, row, asked));
        }
        let cases: Vec<Case<'_>> = rows
            .iter()
            .filter_map(|(_, _, asked)| asked.as_ref().ok()?.case(set))
            .collect();
        let mut judgements = judge.judge(&cases)?.into_iter();
        let mut bytes = Vec::new();
        let mut counted = ScoreSummary::default();
        for (text, row, asked) in &rows {
            let decision = match asked {
                Err(reason) => Scored::from(*reason).into(),
                Ok(Asked {
                    prediction: None, ..
                }) => Decision {
                    verdict: Verdict::Wrong,
                    years_exact: None,
                    counts: true,
                    group: "no_final_answer",
                    words: None,
                },
                Ok(_) => match judgements.next() {
                    Some(judgement) => Decision {
                        verdict: judgement.verdict,
                        years_exact: None,
                        counts: judgement.verdict != Verdict::NotJudged,
                        group: match judgement.verdict {
                            Verdict::Right => "judged_right",
                            Verdict::Wrong => "judged_wrong",
                            Verdict::NotJudged => "not_judged",
                        },
                        words: Some(judgement.reason),
                    },
                    None => Scored::from(Reason::NeedsJudge).into(),
                },
            };
            counted.count(decision.verdict, decision.counts, decision.group);
            write_row(&mut bytes, text, row, &decision);
        }
        Ok((bytes, counted))
    }

    /// What the judge is to be asked of a row, or why it is not asked: there is no prediction, or
    /// none that can be shown.
    fn asked(
        &self,
        set: TestSet,
        line: usize,
        row: &Row<'_>,
        rubric: Rubric,
    ) -> Result<Result<Asked, Reason>, PredictionsError> {
        let (given_gold, prediction) = self.answers(line, row)?;
        let gold = gold(ScoredSet::Set(set), given_gold)
            .map_err(|error| self.no_gold(line, &error))?
            .into_owned();
        let completion = match prediction {
            _ if row.unanswered => return Ok(Err(Reason::NotAnswered)),
            Answer::Null => return Ok(Err(Reason::NoPrediction)),
            Answer::Text(text) => text,
            _ => return Ok(Err(Reason::PredictionIsNoText)),
        };
        let question = match &row.question {
            Some(Answer::Text(question)) => question.clone().into_owned(),
            _ if matches!(rubric, Rubric::RefocusTable | Rubric::VtoolV2) => String::new(),
            _ => return Err(self.problem(line, "this judge needs the field `question`")),
        };
        let category = match &row.category {
            Some(Answer::Number(n)) => n.as_u64().and_then(|n| u8::try_from(n).ok()),
            _ => None,
        };
        if rubric == Rubric::CharXiv
            && !category.is_some_and(|category| (1..=4).contains(&category))
        {
            return Err(self.problem(
                line,
                "CharXiv's judge needs the field `category`, from 1 to 4",
            ));
        }
        let prediction = rubric.prediction(completion);
        Ok(Ok(Asked {
            question,
            gold,
            prediction,
            category,
        }))
    }
}

/// A row's question to the judge.
struct Asked {
    question: String,
    gold: String,
    /// `None` where the judge's source counts the completion as wrong without asking.
    prediction: Option<String>,
    category: Option<u8>,
}

impl Asked {
    fn case(&self, set: TestSet) -> Option<Case<'_>> {
        Some(Case {
            set,
            question: &self.question,
            gold: &self.gold,
            prediction: self.prediction.as_deref()?,
            category: self.category,
        })
    }
}

/// Whether a set's official rule is ChartQA's relaxed match.
fn uses_relaxed_match(set: ScoredSet) -> bool {
    matches!(
        set,
        ScoredSet::Set(TestSet::ChartQaHorizontal | TestSet::ChartQaVertical)
    )
}

/// Appends the row's own text with its score and reason.
fn write_row(out: &mut Vec<u8>, text: &str, row: &Row<'_>, decision: &Decision) {
    match text.strip_suffix('}') {
        Some(open) if !row.escaped_own => {
            let mut written = 0;
            for key in &row.own {
                // The keys were borrowed from this very text.
                let at = key.as_ptr().addr() - text.as_ptr().addr();
                out.extend_from_slice(&text.as_bytes()[written..at]);
                out.extend_from_slice(b"given_");
                written = at;
            }
            out.extend_from_slice(open[written..].trim_end().as_bytes());
        }
        _ => {
            let given: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
            let renamed: Map<String, Value> = given
                .into_iter()
                .map(|(name, value)| match is_ours(&name) {
                    true => (format!("given_{name}"), value),
                    false => (name, value),
                })
                .collect();
            let object = Value::Object(renamed).to_string();
            out.extend_from_slice(object.strip_suffix('}').unwrap_or(&object).as_bytes());
        }
    }
    let number = |verdict| match verdict {
        Verdict::Right => "1",
        Verdict::Wrong => "0",
        Verdict::NotJudged => "null",
    };
    let mut add = |name: &str, value: &str| {
        for part in [",\"", name, "\":", value] {
            out.extend_from_slice(part.as_bytes());
        }
    };
    add("score", number(decision.verdict));
    if let Some(verdict) = decision.years_exact {
        add("score_years_exact", number(verdict));
    }
    let reason = match &decision.words {
        Some(words) => words,
        None => decision.group,
    };
    add("reason", &Value::from(reason).to_string());
    out.extend_from_slice(b"}\n");
}
