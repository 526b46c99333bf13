//! What the page says of whole arms: tables, the verdict, differences, calls, attribution.

use std::collections::BTreeMap;

use benchmarks::Verdict;
use results::statistics::{ArmScores, Cell, Estimate, compare};
use results::{
    ArmName, Paper, RunComparison, Runs, SETS, Table, TableOptions, UnfinishedRun, percent,
};
use serde_json::{Value, json};

use super::answers::{Column, short};

/// One of the runs that were given.
pub struct Source {
    /// As it was given.
    pub name: String,
    /// Its runs.
    pub runs: Runs,
    /// Training on its way.
    pub unfinished: Vec<UnfinishedRun>,
}

/// Table, verdict and differences of one source.
pub fn of_source(source: &Source, paper: &Paper, options: &TableOptions) -> anyhow::Result<Value> {
    let table = Table::new(&source.runs, paper, options);
    let arms = source.runs.arms();
    let claimed = table.claim.as_ref().map(|claim| claim.arm.clone());
    let plain: ArmName = ArmName::VTOOL_R1.parse()?;
    let mut references: Vec<ArmName> = Vec::new();
    references.extend(arms.contains(&plain).then_some(plain));
    references.extend(claimed.clone().filter(|arm| !references.contains(arm)));
    if references.is_empty() {
        references.extend(arms.first().cloned());
    }
    let differences: Vec<Value> = references
        .iter()
        .map(|reference| differences(&source.runs, reference, paper, options))
        .collect();
    let rows: Vec<Value> = table
        .rows
        .iter()
        .map(|row| {
            json!({
                "arm": row.arm,
                "label": row.label,
                "cells": row.estimates.cells.iter().map(cell).collect::<Vec<_>>(),
                "average": row.estimates.average.as_ref().map(estimate),
                "seeds": row.seeds,
                "questions": row.questions,
                "callRate": percent(row.tool_call_rate),
                "successRate": row.tool_success_rate.map(percent),
            })
        })
        .collect();
    let paper_rows: Vec<Value> = table
        .paper
        .iter()
        .map(|row| json!({"arm": row.arm, "values": row.values}))
        .collect();
    let alarms: Vec<String> = arms
        .iter()
        .flat_map(|arm| source.runs.ended_in_alarm(arm))
        .collect();
    Ok(json!({
        "name": source.name,
        "title": table.title,
        "verdict": table.claim.as_ref().map(|claim| claim.lines()),
        "decision": table.claim.as_ref().map(|claim| claim.main.decision.to_string()),
        "claimed": claimed,
        "notes": table.notes,
        "rows": rows,
        "paperRows": paper_rows,
        "differences": differences,
        "alarms": alarms,
        "unverified": source.runs.unverified().len(),
    }))
}

fn estimate(estimate: &Estimate) -> Value {
    json!([
        percent(estimate.value),
        percent(estimate.low),
        percent(estimate.high)
    ])
}

fn cell(cell: &Cell) -> Value {
    match cell {
        Cell::Missing => Value::Null,
        Cell::Invalid { not_judged, .. } => json!({"invalid": percent(*not_judged)}),
        Cell::Measured {
            estimate: found, ..
        } => estimate(found),
    }
}

/// Every arm less `reference`, in points.
fn differences(runs: &Runs, reference: &ArmName, paper: &Paper, options: &TableOptions) -> Value {
    let second = ArmScores::collect(reference, runs.records());
    let of_paper = |arm: &ArmName| paper.value(arm, "average");
    let rows = runs.arms().into_iter().filter(|arm| arm != reference);
    let rows: Vec<Value> = rows
        .map(|arm| {
            let first = ArmScores::collect(&arm, runs.records());
            let found = compare(
                &first,
                &second,
                options.not_judged_limit,
                &options.bootstrap,
            );
            // The paper's own form stands for its variants here, whose name says which they are.
            let stands_for = match arm.name().starts_with(&format!("{}-", ArmName::IAPO)) {
                true => ArmName::IAPO.parse().ok(),
                false => Some(arm.clone()),
            };
            let papers = stands_for.and_then(|arm| of_paper(&arm));
            let papers = papers.zip(of_paper(reference));
            json!({
                "arm": arm,
                "found": found.as_ref().ok().map(difference),
                "why": found.as_ref().err().map(ToString::to_string),
                "paper": papers.map(|(arm, reference)| short(arm - reference)),
            })
        })
        .collect();
    json!({"reference": reference, "rows": rows})
}

/// A paired difference in points.
fn difference(found: &results::statistics::PairedDifference) -> Value {
    let points = |share: f64| short(100.0 * share);
    let crossed = &found.crossed;
    json!({
        "value": points(crossed.value),
        "low": points(crossed.low()),
        "high": points(crossed.high()),
        "p": results::p_value(crossed.p_value()),
        "detectable": points(crossed.detectable_effect(0.05, 0.8)),
        "questions": found.questions,
        "seeds": found.by_seed.iter().map(|(seed, value)| json!([seed, points(*value)])).collect::<Vec<_>>(),
        "sets": found.sets.iter().map(|set| json!({
            "set": set.set,
            "value": points(set.difference.value),
            "low": points(set.difference.low),
            "high": points(set.difference.high),
        })).collect::<Vec<_>>(),
    })
}

/// Two sources side by side; the reason where they cannot be.
pub fn comparison(first: &Source, second: &Source, options: &TableOptions) -> Value {
    match RunComparison::new(&first.runs, &second.runs, options) {
        Err(error) => json!({"why": error.to_string()}),
        Ok(compared) => json!({
            "settings": compared.settings,
            "common": compared.common_questions,
            "onlyFirst": compared.only_first,
            "onlySecond": compared.only_second,
            "arms": compared.arms.iter().map(|arm| json!({
                "arm": arm.arm,
                "found": arm.difference.as_ref().ok().map(difference),
                "why": arm.difference.as_ref().err().map(ToString::to_string),
                "flips": arm.flips,
            })).collect::<Vec<_>>(),
        }),
    }
}

/// Counts, most frequent first.
fn ranked(counts: BTreeMap<String, usize>, most: usize) -> Vec<(String, usize)> {
    let mut ranked: Vec<(String, usize)> = counts.into_iter().collect();
    ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked.truncate(most);
    ranked
}

/// The calls of the columns of one arm: outcomes, tools, number of names, focus, reasons.
pub fn calls(columns: &[&Column<'_>]) -> Value {
    let (mut outcomes, mut tools, mut names, mut reasons) = (
        BTreeMap::<String, usize>::new(),
        BTreeMap::<String, usize>::new(),
        BTreeMap::<String, usize>::new(),
        BTreeMap::<String, usize>::new(),
    );
    let mut right = BTreeMap::<(char, &str), [usize; 3]>::new();
    let answers = columns.iter().flat_map(|column| column.answers.values());
    for answer in answers {
        let outcome = answer.outcome_letter();
        *outcomes.entry(outcome.to_string()).or_default() += 1;
        if let Some(tool) = &answer.tool {
            *tools.entry(tool.clone()).or_default() += 1;
            *names.entry(answer.names.len().to_string()).or_default() += 1;
        }
        if let Some(reason) = &answer.reason {
            *reasons.entry(reason.clone()).or_default() += 1;
        }
        let focus = match answer.right_focus() {
            _ if outcome == '0' => "no call",
            Some(true) => "right",
            Some(false) => "wrong",
            None => "unknown",
        };
        let counts = right.entry((outcome, focus)).or_default();
        counts[match answer.record.verdict {
            Verdict::Right => 0,
            Verdict::Wrong => 1,
            Verdict::NotJudged => 2,
        }] += 1;
    }
    let crossing: Vec<Value> = right
        .into_iter()
        .map(|((outcome, focus), counts)| json!([outcome, focus, counts]))
        .collect();
    json!({
        "outcomes": outcomes,
        "tools": ranked(tools, 20),
        "names": ranked(names, 10),
        "reasons": ranked(reasons, 30),
        "crossing": crossing,
    })
}

/// Mean attribution over the measured calls of an arm: of all sets, then of each.
pub fn attribution(columns: &[&Column<'_>]) -> Vec<Value> {
    let sets = std::iter::once(None).chain(SETS.into_iter().map(Some));
    sets.filter_map(|set| {
        let answers = columns.iter().flat_map(|column| column.answers.values());
        let of_set = answers.filter(|answer| set.is_none_or(|set| answer.record.set == set));
        let found: Vec<_> = of_set.filter_map(|answer| answer.attribution()).collect();
        // Side by side only where both were measured.
        let both = found.iter().any(|(_, teacher, _)| teacher.is_some());
        let used: Vec<_> = found
            .iter()
            .filter(|(_, teacher, _)| !both || teacher.is_some())
            .collect();
        let n = used.len();
        if n == 0 {
            return None;
        }
        let mean = |values: Vec<[f64; 4]>| {
            let sum = values.iter().fold([0.0; 4], |sum, one| {
                std::array::from_fn(|block| sum[block] + one[block])
            });
            sum.map(|sum| short(sum / values.len() as f64))
        };
        let students = used.iter().map(|(student, _, _)| student.blocks().values());
        let teachers: Vec<[f64; 4]> = used
            .iter()
            .filter_map(|(_, teacher, _)| Some(teacher.as_ref()?.blocks().values()))
            .collect();
        let divergences: Vec<f64> = used
            .iter()
            .filter_map(|(_, _, divergence)| *divergence)
            .collect();
        let mut gaps: Vec<f64> = used
            .iter()
            .filter_map(|(student, _, _)| student.gap)
            .collect();
        gaps.sort_by(f64::total_cmp);
        Some(json!({
            "set": set,
            "n": n,
            "student": mean(students.collect()),
            "teacher": (!teachers.is_empty()).then(|| mean(teachers)),
            "divergence": (!divergences.is_empty())
                .then(|| short(divergences.iter().sum::<f64>() / divergences.len() as f64)),
            "gap": gaps.get(gaps.len() / 2).map(|gap| short(*gap)),
        }))
    })
    .collect()
}
