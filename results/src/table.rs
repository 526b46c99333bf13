//! The results table: one row per arm, one column per set, the average and the tool's use, beside what is
//! known of the paper's.

use std::collections::BTreeMap;

use crate::claim::Claim;
use crate::errata::Errata;
use crate::error::Result;
use crate::numbers::{NOT_MEASURED, percent, thousands};
use crate::options::TableOptions;
use crate::paper::Paper;
use crate::record::{ArmName, SETS};
use crate::runs::Runs;
use crate::statistics::{
    ArmEstimates, ArmScores, Bootstrap, Cell, CrossedEstimate, Estimate, compare, estimate,
};

/// The table of some runs and the claim's verdict.
#[derive(Clone, Debug)]
pub struct Table {
    /// What was trained or evaluated; says so where it is not what the paper's table shows.
    pub title: String,
    /// Measured rows.
    pub rows: Vec<TableRow>,
    /// The paper's rows.
    pub paper: Vec<PaperRow>,
    /// How to read it, and what was left out.
    pub notes: Vec<String>,
    /// The claim; `None` where the runs have no such arm.
    pub claim: Option<Claim>,
}

/// A measured arm.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// The arm.
    pub arm: ArmName,
    /// Its name for people.
    pub label: String,
    /// Its difference to VTool-R1, by the rule; `None` for VTool-R1 itself and where the two cannot
    /// be compared.
    pub difference: Option<CrossedEstimate>,
    /// Its accuracies.
    pub estimates: ArmEstimates,
    /// Seeds.
    pub seeds: usize,
    /// Questions over all six sets.
    pub questions: usize,
    /// Share of answers whose first turn called a tool.
    pub tool_call_rate: f64,
    /// Share of the calls that ran.
    pub tool_success_rate: Option<f64>,
}

/// An arm of the paper's table.
#[derive(Clone, Debug)]
pub struct PaperRow {
    /// The arm.
    pub arm: ArmName,
    /// Percent by set, then the average; `None` is unreported.
    pub values: Vec<Option<f64>>,
}

impl Table {
    /// The table of `runs` beside the committed numbers of the paper, with the committed errata and the
    /// default options.
    ///
    /// # Errors
    /// A committed file that cannot be read.
    pub fn committed(runs: &Runs) -> Result<Self> {
        let mut table = Table::new(runs, &Paper::committed()?, &TableOptions::default());
        let last = table.notes.len().saturating_sub(1);
        // Before the note on the paper, which is the last.
        for note in Errata::committed()?.notes(runs).into_iter().rev() {
            table.notes.insert(last, note);
        }
        Ok(table)
    }

    /// The table of `runs`.
    pub fn new(runs: &Runs, paper: &Paper, options: &TableOptions) -> Self {
        let rows: Vec<TableRow> = runs
            .arms()
            .into_iter()
            .map(|arm| {
                let scores = ArmScores::collect(&arm, runs.records());
                TableRow {
                    estimates: estimate(&scores, options.not_judged_limit, &options.bootstrap),
                    seeds: scores.seeds.len(),
                    questions: scores
                        .sets
                        .iter()
                        .flatten()
                        .map(|set| set.questions.len())
                        .sum(),
                    tool_call_rate: scores.tool_call_rate,
                    tool_success_rate: scores.tool_success_rate,
                    label: runs.label(&arm),
                    difference: difference_to_plain(runs, &scores, options),
                    arm,
                }
            })
            .collect();
        let paper_rows = paper
            .arms()
            .into_iter()
            .map(|arm| PaperRow {
                arm: arm.clone(),
                values: SETS
                    .into_iter()
                    .chain(["average"])
                    .map(|column| paper.value(arm, column))
                    .collect(),
            })
            .collect();
        // Models that were only evaluated claim nothing.
        let claimed = runs.claimed_arm(&paper.claim.arm);
        let claim = claimed.map(|arm| Claim::test(runs, &arm, paper, options));
        Table {
            title: runs.run_kind().title(),
            notes: notes(runs, &rows, paper, options),
            rows,
            paper: paper_rows,
            claim,
        }
    }
}

/// The difference of an arm to VTool-R1, GRPO with nothing added.
fn difference_to_plain(
    runs: &Runs,
    scores: &ArmScores,
    options: &TableOptions,
) -> Option<CrossedEstimate> {
    let plain: ArmName = ArmName::VTOOL_R1.parse().ok()?;
    if scores.arm == plain {
        return None;
    }
    let plain = ArmScores::collect(&plain, runs.records());
    // The rule's interval alone is wanted.
    let few = Bootstrap {
        resamples: 1,
        ..options.bootstrap
    };
    let found = compare(scores, &plain, options.not_judged_limit, &few);
    found.ok().map(|difference| difference.crossed)
}

/// In which form the claimed arm was trained in runs that were recorded before an arm's form stood
/// in its name.
fn form(runs: &Runs, arm: &ArmName) -> Option<String> {
    let manifest = runs
        .runs
        .iter()
        .filter_map(|run| run.manifest.as_ref())
        .find(|manifest| manifest.arm == *arm)?;
    let resolved = &manifest.profile.resolved;
    let settings = resolved.get("attribution")?.as_object()?;
    let told: Vec<String> = [
        "method",
        "baseline",
        "nodes",
        "masses",
        "tokens",
        "divergence",
    ]
    .into_iter()
    // Occlusion integrates along no path.
    .filter(|key| {
        settings.get("method").and_then(|method| method.as_str()) != Some("occlusion")
            || !["baseline", "nodes"].contains(key)
    })
    .filter_map(|key| {
        let value = settings.get(key)?;
        let word = value
            .as_str()
            .map_or_else(|| value.to_string(), |word| word.replace('_', " "));
        Some(format!("{key} {word}"))
    })
    .collect();
    (!told.is_empty()).then(|| {
        format!(
            "The form of '{arm}' in these runs: {}. The paper's: integrated gradients, zero baseline, absolute sums, all tokens of the call, KL.",
            told.join(", ")
        )
    })
}

fn notes(runs: &Runs, rows: &[TableRow], paper: &Paper, options: &TableOptions) -> Vec<String> {
    let mut notes = vec![
        "Accuracy in percent, its 95 % interval (bootstrap over figures and seeds, 4,000 replicates), questions × seeds. \
         'average' is the unweighted mean of the six sets; 'calls' the share of answers that called a tool, 'run' the share of those calls that ran."
            .replace("4,000", &thousands(options.bootstrap.resamples)),
    ];
    notes.extend(form(runs, &paper.claim.arm));
    let single: Vec<&str> = rows
        .iter()
        .filter(|row| row.seeds == 1)
        .map(|row| row.arm.name())
        .collect();
    if !single.is_empty() {
        notes.push(format!(
            "One seed, so the interval says nothing about seeds: {}.",
            single.join(", ")
        ));
    }
    let cells = || rows.iter().flat_map(|row| &row.estimates.cells);
    if cells().any(|cell| matches!(cell, Cell::Invalid { .. })) {
        notes.push(format!(
            "invalid: more than {:.0} % of the answers have no verdict; evaluate again when the judge can be reached.",
            100.0 * options.not_judged_limit
        ));
    }
    if cells().any(|cell| matches!(cell, Cell::Missing)) {
        notes.push("–: not evaluated; an average needs all six sets.".to_string());
    }
    let mut extra: Vec<&str> = runs
        .records()
        .map(|record| record.set.as_str())
        .filter(|set| !SETS.contains(set))
        .collect();
    extra.sort_unstable();
    extra.dedup();
    if !extra.is_empty() {
        notes.push(format!(
            "Records of other sets are not in this table: {}.",
            extra.join(", ")
        ));
    }
    notes.extend(near_misses(runs));
    notes.push(format!(
        "(paper): arXiv {}, {}, as far as known; the rest is unreported.{}",
        paper.arxiv,
        paper.student,
        runs.run_kind().comparison()
    ));
    notes
}

/// How manifests name the answers without a call that came near to one, by kind.
const NEAR_MISS: &str = "tool_near_miss_";

/// Answers that count as without a call and came near to one, by arm and kind.
fn near_misses(runs: &Runs) -> Option<String> {
    let mut found: BTreeMap<(usize, &ArmName), BTreeMap<&str, u64>> = BTreeMap::new();
    for manifest in runs.runs.iter().filter_map(|run| run.manifest.as_ref()) {
        for (name, count) in &manifest.counts {
            if let Some(kind) = name.strip_prefix(NEAR_MISS) {
                let place = (manifest.arm.rank().0, &manifest.arm);
                let of_arm = found.entry(place).or_default();
                *of_arm.entry(kind).or_default() += count;
            }
        }
    }
    let arms: Vec<String> = found
        .iter()
        .map(|((_, arm), kinds)| {
            let kinds: Vec<String> = kinds
                .iter()
                .map(|(kind, count)| format!("{} {count}", kind.replace('_', " ")))
                .collect();
            format!("{arm}: {}", kinds.join(", "))
        })
        .collect();
    (!arms.is_empty()).then(|| {
        format!(
            "Answers that count as without a call and came near to one, by kind: {}.",
            arms.join("; ")
        )
    })
}

/// The lines of a cell: accuracy, interval, n × seeds; or what stands for them.
pub(crate) enum Shown {
    /// Percentages with one decimal, and the counts.
    Number {
        accuracy: String,
        low: String,
        high: String,
        count: String,
    },
    /// A word, with a remark or none.
    Word { word: String, remark: String },
}

impl TableRow {
    /// The seven accuracies: six sets and the average.
    pub(crate) fn shown(&self) -> Vec<Shown> {
        let number = |estimate: &Estimate, questions: usize, seeds: usize| Shown::Number {
            accuracy: percent(estimate.value),
            low: percent(estimate.low),
            high: percent(estimate.high),
            count: format!("{questions}×{seeds}"),
        };
        let word = |word: &str, remark: String| Shown::Word {
            word: word.to_string(),
            remark,
        };
        let mut shown: Vec<Shown> = self
            .estimates
            .cells
            .iter()
            .map(|cell| match cell {
                Cell::Missing => word(NOT_MEASURED, String::new()),
                Cell::Invalid { not_judged, .. } => {
                    word("invalid", format!("{:.0} % not judged", 100.0 * not_judged))
                }
                Cell::Measured { outcome, estimate } => {
                    number(estimate, outcome.questions, outcome.seeds)
                }
            })
            .collect();
        shown.push(match &self.estimates.average {
            Some(estimate) => number(estimate, self.questions, self.seeds),
            None => word(NOT_MEASURED, String::new()),
        });
        shown
    }

    /// The two rates, in percent.
    pub(crate) fn rates(&self) -> [String; 2] {
        [
            percent(self.tool_call_rate),
            self.tool_success_rate
                .map_or(NOT_MEASURED.to_string(), percent),
        ]
    }
}
