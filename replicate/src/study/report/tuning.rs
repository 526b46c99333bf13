//! What the tuning parts say: for every arm the values that were tried, by validation accuracy at the
//! end of training.

use std::fmt::Write;

use results::plot::{AxisScale, Looks, PanelGrid, PlotPanel, Series};
use results::{ArmName, UpdateMetrics, number};

use crate::Result;

use super::super::part::{Part, Search};
use super::MadeCells;
use super::arms::{ArmRuns, divergence, mean};
use super::page::Page;

/// The table and the picture of a part that tunes.
pub(super) fn section(made: &MadeCells<'_>, part: &Part, page: &mut Page) -> Result<()> {
    let variants = made.variants(&part.name);
    if variants.is_empty() {
        return Ok(());
    }
    let (done, all) = made.count(&part.name);
    let chosen = match part.searches.is_empty() {
        true => "",
        false => " The chosen value is the one with the best mean.",
    };
    let _ = write!(
        page.text,
        "\n## Part {}: tuning\n\nGreedy accuracy on validation questions after the last update, \
         percent, by tuning seed ({done} of {all} cells).{chosen} The probe is the divergence from the teacher on calls that are given, right and wrong \
         together. Seconds are the clock's, whatever else the machine did.\n\n",
        part.name
    );
    let header = [
        "variant",
        "mean",
        "by seed",
        "calls",
        "KL",
        "probe",
        "penalty alone",
        "correlation",
        "seconds an update",
        "of it attribution",
    ];
    let mut rows = Vec::new();
    // By label: the accuracy of each seed, percent.
    let mut found: Vec<(&str, Vec<f64>)> = Vec::new();
    for variant in &variants {
        let arms = variant.arms();
        let several = arms.len() > 1;
        for arm in arms {
            let label = match several {
                true => format!("{}, {arm}", variant.label),
                false => variant.label.to_owned(),
            };
            let arm = ArmRuns::of_cells(&variant.cells, arm, made.out)?;
            let accuracy = arm.last(|line| line.validation.as_ref().map(|found| found.accuracy));
            let known = accuracy.iter().flatten().map(|share| 100.0 * share);
            found.push((variant.label, known.collect()));
            let by_seed: Vec<String> = accuracy
                .iter()
                .map(|share| number(share.map(|share| 100.0 * share), 1))
                .collect();
            rows.push(vec![
                label,
                number(mean(accuracy.into_iter().flatten()).map(|m| 100.0 * m), 2),
                by_seed.join(" "),
                number(arm.at_the_end(|line| Some(line.tool_call_rate)), 2),
                number(arm.at_the_end(|line| Some(line.kl)), 3),
                number(arm.at_the_end(divergence), 3),
                number(arm.over_updates(|line| line.penalty_alone), 2),
                number(arm.over_updates(|line| line.penalty_correlation), 2),
                number(arm.over_updates(|line| Some(training_seconds(line))), 2),
                number(
                    arm.over_updates(|line| line.seconds.get("attribution").copied()),
                    2,
                ),
            ]);
        }
    }
    page.text.push_str(&results::markdown_table(&header, &rows));
    page.text.push('\n');
    if let Some(svg) = picture(part, &found)? {
        let what = format!(
            "Accuracy on validation questions by setting, part {}",
            part.name
        );
        page.picture(&format!("tuning-{}", part.name), &what, svg);
    }
    Ok(())
}

/// A panel a search: the accuracy of each seed and their mean by value; `None` of no search over numbers.
fn picture(part: &Part, found: &[(&str, Vec<f64>)]) -> Result<Option<String>> {
    let arms = part
        .searches
        .iter()
        .map(|search| Ok(search.arm.parse()?))
        .collect::<Result<Vec<ArmName>>>()?;
    let looks = Looks::new(&arms);
    let panel = |(search, arm): (&Search, &ArmName)| {
        let mut dots = Vec::new();
        let mut line = Vec::new();
        for value in &search.values {
            let number = value.as_float().or(value.as_integer().map(|n| n as f64))?;
            let label = search.label(value);
            let seeds = found.iter().find(|(known, _)| *known == label);
            let seeds = seeds.map_or(&[][..], |(_, seeds)| seeds);
            dots.extend(seeds.iter().map(|seed| (number, *seed)));
            line.extend(mean(seeds.iter().copied()).map(|mean| (number, mean)));
        }
        let positive = line.iter().all(|(value, _)| *value > 0.0);
        positive.then(|| PlotPanel {
            title: arm.to_string(),
            x: search.key.clone(),
            series: vec![Series {
                look: Some(looks.of(arm)),
                line,
                dots,
                ..Series::default()
            }],
        })
    };
    let panels: Vec<PlotPanel> = part.searches.iter().zip(&arms).filter_map(panel).collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let grid = PanelGrid {
        title: format!("Part {}: what was tried", part.name),
        caption: "accuracy on validation questions, percent; line: mean of the seeds".to_owned(),
        y: "percent".to_owned(),
        columns: panels.len().min(3),
        axes: (AxisScale::Logarithmic, AxisScale::Linear),
        shared_x: false,
        panels,
    };
    Ok(Some(grid.draw()?))
}

/// Seconds of an update without validation.
pub(super) fn training_seconds(line: &UpdateMetrics) -> f64 {
    let parts = line.seconds.iter();
    parts
        .filter(|(part, _)| !matches!(part.as_str(), "validation" | "probe"))
        .map(|(_, seconds)| seconds)
        .sum()
}
