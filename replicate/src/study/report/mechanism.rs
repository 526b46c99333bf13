//! What gains are made of: the calls' focus, kinds of question, how the signals go through training.

use std::collections::BTreeSet;
use std::fmt::Write;

use results::{UpdateMetrics, markdown_table, number};

use crate::Result;

use super::arms::{ArmRuns, divergence, mean};
use super::page::{self, Page};

fn percent(share: Option<f64>) -> String {
    number(share.map(|share| 100.0 * share), 1)
}

/// Tables of what arms' answers are made of.
pub(super) fn composition(arms: &[&ArmRuns], text: &mut String) {
    text.push_str(
        "\n### What answers are made of\n\nGreedy answers, percent. A call has the right focus when it \
         keeps what the question asks for.\n\n",
    );
    let rows: Vec<Vec<String>> = arms
        .iter()
        .map(|arm| {
            let made = &arm.composition;
            vec![
                arm.name.to_string(),
                percent(made.share_of(made.right_focus)),
                percent(made.right_focus.share()),
                percent(made.share_of(made.wrong_focus)),
                percent(made.wrong_focus.share()),
                percent(made.share_of(made.without_figure)),
                percent(made.without_figure.share()),
            ]
        })
        .collect();
    text.push_str(&markdown_table(
        &[
            "arm",
            "right focus",
            "right after it",
            "another focus",
            "right after another",
            "no edited figure",
            "right without",
        ],
        &rows,
    ));
    let kinds: BTreeSet<&String> = arms
        .iter()
        .flat_map(|arm| arm.composition.by_kind.keys())
        .collect();
    let named: BTreeSet<u32> = arms
        .iter()
        .flat_map(|arm| arm.composition.by_named.keys().copied())
        .collect();
    if kinds.is_empty() {
        text.push('\n');
        return;
    }
    text.push_str("\n\nAccuracy by kind of question and by the number of entries named.\n\n");
    let mut header = vec!["arm".to_owned()];
    header.extend(kinds.iter().map(|kind| (*kind).clone()));
    header.extend(named.iter().map(|count| format!("{count} named")));
    let rows: Vec<Vec<String>> = arms
        .iter()
        .map(|arm| {
            let made = &arm.composition;
            let mut row = vec![arm.name.to_string()];
            row.extend(
                kinds
                    .iter()
                    .map(|kind| percent(made.by_kind.get(*kind).and_then(|tally| tally.share()))),
            );
            row.extend(
                named
                    .iter()
                    .map(|count| percent(made.by_named.get(count).and_then(|t| t.share()))),
            );
            row
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    text.push_str(&markdown_table(&header, &rows));
    text.push('\n');
}

/// How the probe's divergence and the penalty's correlation with wrong calls go through training.
pub(super) fn through_training(arms: &[&ArmRuns], page: &mut Page) -> Result<()> {
    let updates: BTreeSet<u64> = arms
        .iter()
        .flat_map(|arm| arm.metrics.iter().flatten())
        .filter(|line| line.alignment.is_some())
        .map(|line| line.update)
        .collect();
    if updates.is_empty() {
        return Ok(());
    }
    let text = &mut page.text;
    text.push_str(
        "\n### Through training\n\nThe probe's divergence from the teacher after so many updates; then \
         the penalty's correlation with wrong calls within prompts and, in runs that recorded it, the \
         share of pairs of a wrong and a right call for one prompt in which the wrong one has the larger \
         penalty (AUC), each a mean over the updates since.\n\n",
    );
    let mut header = vec!["arm".to_owned()];
    header.extend(updates.iter().map(|update| format!("divergence, {update}")));
    header.extend(
        updates
            .iter()
            .map(|update| format!("correlation, {update}")),
    );
    let recorded = |line: &UpdateMetrics| line.penalty_auc.is_some();
    let with_auc = arms
        .iter()
        .any(|arm| arm.metrics.iter().flatten().any(recorded));
    if with_auc {
        header.extend(updates.iter().map(|update| format!("AUC, {update}")));
    }
    let rows: Vec<Vec<String>> = arms
        .iter()
        .map(|arm| {
            let lines = || arm.metrics.iter().flatten();
            let mut row = vec![arm.name.to_string()];
            row.extend(updates.iter().map(|update| {
                let at = lines().filter(|line| line.update == *update);
                number(mean(at.filter_map(divergence)), 4)
            }));
            let mut of_signal = |reading: fn(&UpdateMetrics) -> Option<f64>| {
                let mut from = 0;
                for &update in &updates {
                    let since = lines().filter(|line| line.update > from && line.update <= update);
                    row.push(number(mean(since.filter_map(reading)), 2));
                    from = update;
                }
            };
            of_signal(|line| line.penalty_correlation);
            if with_auc {
                of_signal(|line| line.penalty_auc);
            }
            row
        })
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    text.push_str(&markdown_table(&header, &rows));
    text.push('\n');
    let probe = ("Divergence from the teacher on the probe", "divergence");
    if let Some(svg) = page::through_training(arms, probe, divergence)? {
        page.picture(
            "divergence",
            "The probe's divergence through training, by arm",
            svg,
        );
    }
    let accuracy = ("Accuracy on validation questions, greedy", "share");
    let validation = |line: &UpdateMetrics| line.validation.map(|found| found.accuracy);
    if let Some(svg) = page::through_training(arms, accuracy, validation)? {
        page.picture(
            "validation",
            "Accuracy on validation questions through training, by arm",
            svg,
        );
    }
    Ok(())
}

/// How much of the room between the untrained student and the teacher arms close, and at what price.
pub(super) fn price(arms: &[&ArmRuns], untrained: &ArmRuns, teacher: &ArmRuns, text: &mut String) {
    let average = |arm: &ArmRuns| arm.greedy.macro_average();
    let Some((low, high)) = average(untrained).zip(average(teacher)) else {
        return;
    };
    text.push_str(
        "\n### Room and price\n\nShare of the room between the untrained student and its teachers that \
         is closed, and seconds of training a point of it.\n\n",
    );
    let rows: Vec<Vec<String>> = arms
        .iter()
        .map(|arm| {
            let gained = average(arm).map(|value| value - low);
            let seconds = arm.over_updates(|line| Some(super::tuning::training_seconds(line)));
            let seconds = seconds.map(|seconds| seconds * arm.updates as f64);
            let a_point = seconds.zip(gained.filter(|gained| *gained > 0.0));
            vec![
                arm.name.to_string(),
                percent(gained.map(|gained| gained / (high - low))),
                number(seconds, 0),
                number(
                    a_point.map(|(seconds, gained)| seconds / (100.0 * gained)),
                    2,
                ),
            ]
        })
        .collect();
    text.push_str(&markdown_table(
        &["arm", "room closed, percent", "seconds", "seconds a point"],
        &rows,
    ));
    let _ = writeln!(text);
}
