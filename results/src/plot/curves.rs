//! Learning curves.

use std::collections::BTreeMap;

use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{Area, Drawn, FAINT, INK, Looks, extent, heading, label, picture, text_style};
use crate::error::Result;
use crate::metrics::UpdateMetrics;
use crate::record::ArmName;
use crate::runs::Runs;

/// Points of a curve at most; longer runs are averaged over blocks of updates.
const POINTS: u64 = 40;

/// One arm's values over updates.
#[derive(Clone, Debug)]
pub struct Curve {
    /// The arm.
    pub arm: ArmName,
    /// Update, then mean, least and greatest over the seeds.
    pub points: Vec<(f64, f64, f64, f64)>,
}

/// A panel of the learning curves: its caption and what it takes from an update.
type Panel = (&'static str, fn(&UpdateMetrics) -> Option<f64>);

/// The reward is split, so that arms compare: the outcome is the same for all, what a method adds to it
/// is not.
const PANELS: [Panel; 4] = [
    ("validation accuracy, greedy", |metrics| {
        metrics.validation.map(|validation| validation.accuracy)
    }),
    ("outcome reward in training", |metrics| {
        metrics.reward_parts.get(OUTCOME).copied()
    }),
    ("the method's own reward", |metrics| {
        let own = metrics.reward_parts.iter();
        let own: Vec<f64> = own
            .filter(|(part, _)| *part != OUTCOME)
            .map(|(_, value)| *value)
            .collect();
        (!own.is_empty()).then(|| own.iter().sum())
    }),
    ("tool-call rate in training", |metrics| {
        Some(metrics.tool_call_rate)
    }),
];

/// The part of the reward that all arms have.
const OUTCOME: &str = "outcome";

/// Validation accuracy, outcome and other reward, and tool-call rate by update; the line is the mean of
/// the seeds, the band their range. `None` when no run has metrics.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when the drawing library fails.
pub fn learning_curves(runs: &Runs) -> Result<Option<String>> {
    let last = runs
        .runs
        .iter()
        .flat_map(|run| &run.metrics)
        .map(|metrics| metrics.update)
        .max();
    let Some(last) = last else { return Ok(None) };
    let block = last.div_ceil(POINTS).max(1);
    let panels: Vec<(&str, Vec<Curve>)> = PANELS
        .iter()
        .map(|(caption, value)| (*caption, curves(runs, value, block)))
        .filter(|(_, curves)| !curves.is_empty())
        .collect();
    let mut arms: Vec<&ArmName> = panels
        .iter()
        .flat_map(|(_, curves)| curves)
        .map(|curve| &curve.arm)
        .collect();
    arms.sort_by(|a, b| a.rank().cmp(&b.rank()));
    arms.dedup();
    let looks = Looks::new(arms.iter().copied());
    let height = 80 + 240 * panels.len() as u32;
    let svg = picture("the learning curves", (920, height), |area| {
        let blocks = if block > 1 {
            format!("; each point is the mean of {block} updates")
        } else {
            String::new()
        };
        let caption = format!("mean over seeds, band from least to greatest{blocks}");
        heading(area, "Learning curves", &caption)?;
        let (_, below) = area.split_vertically(64);
        let (charts, legend) = below.split_horizontally(720);
        for (row, arm) in arms.iter().enumerate() {
            let y = 24 + 24 * row as i32;
            let look = looks.of(arm);
            let style = look.color().stroke_width(3);
            let ends = [(8, y), (44, y)];
            let drawn = match look.dash {
                None => legend.draw(&PathElement::new(ends, style)),
                Some((dash, gap)) => legend.draw(&DashedPathElement::new(ends, dash, gap, style)),
            };
            drawn.map_err(|error| error.to_string())?;
            let style = text_style(13, HPos::Left, VPos::Center);
            label(&legend, arm.name(), (52, y), &style)?;
        }
        for ((caption, curves), part) in panels.iter().zip(charts.split_evenly((panels.len(), 1))) {
            panel(&part, caption, curves, last, &looks)?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// The curves of all arms whose metrics have `value`, in the order of the table; `block` updates are
/// averaged into a point.
pub fn curves(
    runs: &Runs,
    value: &dyn Fn(&UpdateMetrics) -> Option<f64>,
    block: u64,
) -> Vec<Curve> {
    // arm → block of updates → seed's mean
    let mut arms: BTreeMap<(usize, &ArmName), BTreeMap<u64, Vec<f64>>> = BTreeMap::new();
    for run in &runs.runs {
        let arm = run.manifest.as_ref().map(|manifest| &manifest.arm);
        let Some(arm) = arm.or_else(|| run.records.first().map(|record| &record.arm)) else {
            continue;
        };
        let mut sums: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for metrics in &run.metrics {
            if let Some(value) = value(metrics) {
                let sum = sums
                    .entry(metrics.update.saturating_sub(1) / block)
                    .or_default();
                *sum = (sum.0 + value, sum.1 + 1.0);
            }
        }
        for (at, (sum, count)) in sums {
            arms.entry((arm.rank().0, arm))
                .or_default()
                .entry(at)
                .or_default()
                .push(sum / count);
        }
    }
    let curve = |((_, arm), points): ((usize, &ArmName), BTreeMap<u64, Vec<f64>>)| Curve {
        arm: arm.clone(),
        points: points
            .into_iter()
            .map(|(at, seeds)| {
                let mean = seeds.iter().sum::<f64>() / seeds.len() as f64;
                let low = seeds.iter().copied().fold(f64::INFINITY, f64::min);
                let high = seeds.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                // The middle of the block's updates, which count from 1.
                (
                    (at * block) as f64 + (block as f64 + 1.0) / 2.0,
                    mean,
                    low,
                    high,
                )
            })
            .collect(),
    };
    arms.into_iter().map(curve).collect()
}

fn panel(area: &Area<'_>, caption: &str, curves: &[Curve], last: u64, looks: &Looks) -> Drawn {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let ends = points().flat_map(|point| [point.2, point.3]);
    let Some((low, high)) = extent(ends) else {
        return Ok(());
    };
    let room = ((high - low) * 0.08).max(0.01);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_left(14)
        .set_label_area_size(LabelAreaPosition::Left, 58)
        .set_label_area_size(LabelAreaPosition::Bottom, 40)
        .build_cartesian_2d(0.0..last as f64 + 0.5, low - room..high + room)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style(("sans-serif", 13).into_font().color(&INK))
        .x_desc("update")
        .y_desc(caption)
        .x_labels(9)
        .y_labels(6)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{:.2}", if y.abs() < 5e-3 { 0.0 } else { *y }))
        .draw()
        .map_err(|error| error.to_string())?;
    for curve in curves {
        let above = curve.points.iter().map(|point| (point.0, point.3));
        let below = curve.points.iter().rev().map(|point| (point.0, point.2));
        let band: Vec<(f64, f64)> = above.chain(below).collect();
        let band = Polygon::new(band, looks.of(&curve.arm).color().mix(0.13));
        chart
            .draw_series([band])
            .map_err(|error| error.to_string())?;
    }
    // Lines over all bands, so that no band hides one.
    for curve in curves {
        let width = if curve.arm.name() == ArmName::IAPO {
            3
        } else {
            2
        };
        let look = looks.of(&curve.arm);
        let style = look.color().stroke_width(width);
        let points: Vec<(f64, f64)> = curve.points.iter().map(|one| (one.0, one.1)).collect();
        let drawn = match look.dash {
            None => chart
                .draw_series(LineSeries::new(points, style))
                .map(|_| ()),
            Some((dash, gap)) => {
                let line = DashedLineSeries::new(points, dash, gap, style);
                chart.draw_series(line).map(|_| ())
            }
        };
        drawn.map_err(|error| error.to_string())?;
    }
    Ok(())
}
