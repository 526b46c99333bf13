//! Pictures of a run as SVG, deterministic text: learning curves, and results with intervals.
//!
//! Colours are Okabe and Ito's (2008), which the colour-blind can tell apart; an arm keeps its
//! colour in every picture.

use std::collections::BTreeMap;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};
use crate::metrics::UpdateMetrics;
use crate::record::{ArmName, SETS};
use crate::runs::Runs;
use crate::statistics::Cell;
use crate::table::Table;

/// Points of a curve at most; longer runs are averaged over blocks of updates.
const POINTS: u64 = 40;

const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn color(arm: &ArmName) -> RGBColor {
    match arm.name() {
        ArmName::UNTRAINED => RGBColor(140, 140, 140),
        ArmName::TEACHER => RGBColor(0, 0, 0),
        ArmName::VTOOL_R1 => RGBColor(230, 159, 0),
        ArmName::TORL => RGBColor(86, 180, 233),
        ArmName::TRM => RGBColor(0, 158, 115),
        ArmName::IAPO => RGBColor(213, 94, 0),
        ArmName::DISTILL => RGBColor(204, 121, 167),
        _ => RGBColor(0, 114, 178),
    }
}

fn text_style(size: i32, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    ("sans-serif", size)
        .into_font()
        .color(&INK)
        .pos(Pos::new(horizontal, vertical))
}

fn label(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    style: &TextStyle<'_>,
) -> std::result::Result<(), String> {
    area.draw_text(text, style, at)
        .map_err(|error| error.to_string())
}

fn picture(
    what: &'static str,
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> std::result::Result<(), String>,
) -> Result<String> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = area
            .fill(&WHITE)
            .map_err(|error| error.to_string())
            .and_then(|()| draw(&area))
            .and_then(|()| area.present().map_err(|error| error.to_string()));
        drawn.map_err(|reason| Error::Plot { what, reason })?;
    }
    Ok(text)
}

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

const PANELS: [Panel; 3] = [
    ("validation accuracy, greedy", |metrics| {
        metrics.validation.map(|validation| validation.accuracy)
    }),
    ("training reward", |metrics| Some(metrics.reward)),
    ("tool-call rate in training", |metrics| {
        Some(metrics.tool_call_rate)
    }),
];

/// Validation accuracy, reward and tool-call rate by update; the line is the mean of the seeds,
/// the band their range. `None` when no run has metrics.
///
/// # Errors
/// [`Error::Plot`] when the drawing library fails.
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
    let height = 60 + 240 * panels.len() as u32;
    let svg = picture("the learning curves", (900, height), |area| {
        let blocks = if block > 1 {
            format!(", each point the mean of {block} updates")
        } else {
            String::new()
        };
        let title =
            format!("Learning curves: mean over seeds, band from least to greatest{blocks}");
        label(
            area,
            &title,
            (20, 14),
            &text_style(17, HPos::Left, VPos::Top),
        )?;
        let (_, below) = area.split_vertically(44);
        let (charts, legend) = below.split_horizontally(760);
        for (row, arm) in arms.iter().enumerate() {
            let y = 24 + 24 * row as i32;
            let line = PathElement::new([(8, y), (34, y)], color(arm).stroke_width(3));
            legend.draw(&line).map_err(|error| error.to_string())?;
            label(
                &legend,
                arm.name(),
                (42, y),
                &text_style(14, HPos::Left, VPos::Center),
            )?;
        }
        for ((caption, curves), part) in panels.iter().zip(charts.split_evenly((panels.len(), 1))) {
            panel(&part, caption, curves, last)?;
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

fn panel(
    area: &Area<'_>,
    caption: &str,
    curves: &[Curve],
    last: u64,
) -> std::result::Result<(), String> {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let low = points().map(|point| point.2).fold(f64::INFINITY, f64::min);
    let high = points()
        .map(|point| point.3)
        .fold(f64::NEG_INFINITY, f64::max);
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
        .y_label_formatter(&|y| format!("{y:.2}"))
        .draw()
        .map_err(|error| error.to_string())?;
    for curve in curves {
        let above = curve.points.iter().map(|point| (point.0, point.3));
        let below = curve.points.iter().rev().map(|point| (point.0, point.2));
        let band: Vec<(f64, f64)> = above.chain(below).collect();
        let band = Polygon::new(band, color(&curve.arm).mix(0.13));
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
        let line = curve.points.iter().map(|point| (point.0, point.1));
        chart
            .draw_series(LineSeries::new(line, color(&curve.arm).stroke_width(width)))
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Accuracies with their intervals: one block per set and one for the average, one line per arm.
///
/// # Errors
/// [`Error::Plot`] when the drawing library fails.
pub fn results(table: &Table) -> Result<String> {
    let estimates: Vec<(usize, usize, [f64; 3])> = table
        .rows
        .iter()
        .enumerate()
        .flat_map(|(place, row)| {
            let cells = row.estimates.cells.iter().map(|cell| match cell {
                Cell::Measured { estimate, .. } => Some(*estimate),
                _ => None,
            });
            let all: Vec<_> = cells.chain([row.estimates.average]).collect();
            all.into_iter()
                .enumerate()
                .filter_map(move |(group, estimate)| {
                    estimate.map(|one| {
                        (
                            group,
                            place,
                            [one.low, one.value, one.high].map(|share| 100.0 * share),
                        )
                    })
                })
        })
        .collect();
    let groups: Vec<&str> = SETS.into_iter().chain(["average"]).collect();
    let arms = table.rows.len() as i32;
    let (top, left, right, step) = (70, 130, 700, 13);
    let group_height = arms * step + 22;
    let bottom = top + groups.len() as i32 * group_height;
    let scale = Scale::new(&estimates, left..right);
    picture("the results", (880, bottom as u32 + 60), |area| {
        label(
            area,
            &table.title,
            (20, 16),
            &text_style(17, HPos::Left, VPos::Top),
        )?;
        let caption = "accuracy in percent, 95 % interval over figures and seeds";
        label(
            area,
            caption,
            (20, 42),
            &text_style(13, HPos::Left, VPos::Top),
        )?;
        let draw = |element: PathElement<(i32, i32)>| {
            area.draw(&element).map_err(|error| error.to_string())
        };
        for tick in scale.ticks() {
            let x = scale.pixel(tick);
            draw(PathElement::new([(x, top), (x, bottom)], FAINT))?;
            label(
                area,
                &format!("{tick:.0}"),
                (x, bottom + 8),
                &text_style(13, HPos::Center, VPos::Top),
            )?;
        }
        for (group, name) in groups.iter().enumerate() {
            let y = top + group as i32 * group_height;
            draw(PathElement::new([(left, y), (right, y)], FAINT))?;
            label(
                area,
                name,
                (left - 12, y + group_height / 2),
                &text_style(14, HPos::Right, VPos::Center),
            )?;
        }
        draw(PathElement::new([(left, bottom), (right, bottom)], INK))?;
        for (group, place, [low, value, high]) in &estimates {
            let y = top + *group as i32 * group_height + 17 + *place as i32 * step;
            let color = color(&table.rows[*place].arm);
            draw(PathElement::new(
                [(scale.pixel(*low), y), (scale.pixel(*high), y)],
                color.stroke_width(2),
            ))?;
            let dot = Circle::new((scale.pixel(*value), y), 4, color.filled());
            area.draw(&dot).map_err(|error| error.to_string())?;
        }
        for (place, row) in table.rows.iter().enumerate() {
            let y = top + 14 + 24 * place as i32;
            let x = right + 24;
            draw(PathElement::new(
                [(x, y), (x + 26, y)],
                color(&row.arm).stroke_width(2),
            ))?;
            let dot = Circle::new((x + 13, y), 4, color(&row.arm).filled());
            area.draw(&dot).map_err(|error| error.to_string())?;
            label(
                area,
                &row.label,
                (x + 34, y),
                &text_style(14, HPos::Left, VPos::Center),
            )?;
        }
        Ok(())
    })
}

/// Percent to pixels, over a range rounded to fives.
struct Scale {
    low: f64,
    high: f64,
    pixels: Range<i32>,
}

impl Scale {
    fn new(estimates: &[(usize, usize, [f64; 3])], pixels: Range<i32>) -> Self {
        let least = estimates
            .iter()
            .map(|(_, _, values)| values[0])
            .fold(100.0, f64::min);
        let greatest = estimates
            .iter()
            .map(|(_, _, values)| values[2])
            .fold(0.0, f64::max);
        let low = (least / 5.0).floor() * 5.0;
        Scale {
            low,
            high: ((greatest / 5.0).ceil() * 5.0).max(low + 5.0),
            pixels,
        }
    }

    fn pixel(&self, percent: f64) -> i32 {
        let share = (percent - self.low) / (self.high - self.low);
        self.pixels.start + (share * f64::from(self.pixels.end - self.pixels.start)).round() as i32
    }

    fn ticks(&self) -> Vec<f64> {
        let step = if self.high - self.low > 50.0 {
            10.0
        } else {
            5.0
        };
        let first = (self.low / step).ceil() as i32;
        let last = (self.high / step).floor() as i32;
        (first..=last).map(|tick| f64::from(tick) * step).collect()
    }
}
