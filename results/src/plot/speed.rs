//! Speed: how many times faster than another library, and how times grow with sizes.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use serde::Deserialize;

use super::panels::{AxisScale, PanelGrid, PlotPanel, Series};
use super::style::{FAINT, INK, Look, heading, label, line, picture, text_style};
use crate::error::Result;

/// Pixels of a row.
const ROW: i32 = 46;
// Pixels above the first row, and where the scale begins and ends.
const TOP: i32 = 66;
const LEFT: i32 = 400;
const RIGHT: i32 = 820;
/// Marks of the logarithmic scale.
const TICKS: [f64; 9] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// Names and places in the palette of numbers of threads: the fewest in the colour of IAPO, the most in
/// that of the baseline, which are far apart, in grey too.
const THREADS: [(&str, usize); 4] = [("orange", 5), ("blue", 2), ("green", 3), ("pink", 4)];
/// Names of the lines of instruction sets, their dash and gap.
const SETS: [(&str, Option<(u32, u32)>); 3] = [
    ("whole lines", None),
    ("dashed", Some((8, 4))),
    ("dotted", Some((2, 3))),
];

/// The same work on both sides.
#[derive(Clone, Debug, Deserialize)]
pub struct Ratio {
    /// The work.
    pub what: String,
    /// The other side.
    pub peer: String,
    /// The ratio that is wanted, as text.
    pub wanted: String,
    /// Their time over ours: of the medians, and of the pairs of runs the least and the greatest.
    pub ratio: f64,
    /// The least ratio of a pair.
    pub ratio_low: f64,
    /// The greatest.
    pub ratio_high: f64,
}

/// Bars of their time over ours, with the goals as marks and the numbers beside them.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when the drawing library fails.
pub fn ratios(rows: &[Ratio]) -> Result<String> {
    let bottom = TOP + ROW * rows.len() as i32;
    let values = rows.iter().flat_map(|row| [row.ratio_low, row.ratio_high]);
    let (least, greatest) = super::style::extent(values.chain([0.5, 2.0])).unwrap_or((0.5, 2.0));
    let (low, high) = (least.log2().floor(), greatest.log2().ceil());
    let pixel = |ratio: f64| {
        let share = (ratio.log2() - low) / (high - low);
        LEFT + (share.clamp(0.0, 1.0) * f64::from(RIGHT - LEFT)).round() as i32
    };
    let ours = Look::slot(2).color();
    let goal = Look::slot(5).color();
    picture("the ratios of speed", (920, bottom as u32 + 40), |area| {
        let caption = "their time over ours; line: pairs of runs; upright mark: the goal";
        heading(area, "Beside the reference libraries", caption)?;
        for tick in TICKS {
            if !(low..=high).contains(&tick.log2()) {
                continue;
            }
            let color = if tick == 1.0 { INK } else { FAINT };
            line(
                area,
                (pixel(tick), TOP),
                (pixel(tick), bottom),
                color.into(),
            )?;
            let style = text_style(13, HPos::Center, VPos::Top);
            label(area, &format!("{tick}"), (pixel(tick), bottom + 8), &style)?;
        }
        for (place, row) in rows.iter().enumerate() {
            let middle = TOP + ROW * place as i32 + ROW / 2;
            let style = |size| text_style(size, HPos::Right, VPos::Center);
            label(area, &row.what, (LEFT - 12, middle - 8), &style(13))?;
            label(area, &row.peer, (LEFT - 12, middle + 9), &style(11))?;
            let corners = [(pixel(1.0), middle - 9), (pixel(row.ratio), middle + 9)];
            let bar = Rectangle::new(corners, ours.filled());
            area.draw(&bar).map_err(|error| error.to_string())?;
            let ends = (pixel(row.ratio_low), pixel(row.ratio_high));
            line(
                area,
                (ends.0, middle),
                (ends.1, middle),
                INK.stroke_width(1),
            )?;
            let mut right = ends.1.max(pixel(row.ratio));
            if let Ok(wanted) = row.wanted.parse::<f64>() {
                let x = pixel(wanted);
                right = right.max(x);
                line(
                    area,
                    (x, middle - 14),
                    (x, middle + 14),
                    goal.stroke_width(3),
                )?;
            }
            let style = text_style(12, HPos::Left, VPos::Center);
            label(
                area,
                &format!("{:.1}", row.ratio),
                (right + 8, middle),
                &style,
            )?;
        }
        Ok(())
    })
}

/// How times grow with one instruction set.
#[derive(Clone, Debug)]
pub struct Growth {
    /// The instruction set.
    pub set: String,
    /// All measurements.
    pub points: Vec<GrowthPoint>,
}

/// One measurement.
#[derive(Clone, Debug, Deserialize)]
pub struct GrowthPoint {
    /// Which size grows, in words.
    pub what: String,
    /// Threads.
    pub threads: u64,
    /// The size.
    pub value: f64,
    /// The median, in seconds.
    pub seconds: f64,
}

/// One panel a size, both axes logarithmic; a line for each instruction set and number of threads.
///
/// # Errors
/// [`Error::Plot`](crate::Error::Plot) when the drawing library fails.
pub fn growth(sets: &[Growth]) -> Result<String> {
    let mut sizes: Vec<&str> = Vec::new();
    let mut threads: Vec<u64> = Vec::new();
    for point in sets.iter().flat_map(|found| &found.points) {
        if !sizes.contains(&point.what.as_str()) {
            sizes.push(&point.what);
        }
        if !threads.contains(&point.threads) {
            threads.push(point.threads);
        }
    }
    let colors = THREADS.iter().cycle();
    let dashes = SETS.iter().cycle();
    let panel = |size: &&str| {
        let lines = sets.iter().zip(dashes.clone()).flat_map(|(found, dash)| {
            let counts = threads.iter().zip(colors.clone());
            counts.map(move |(count, color)| {
                let own = found.points.iter();
                let line: Vec<(f64, f64)> = own
                    .filter(|point| point.what == *size && point.threads == *count)
                    .map(|point| (point.value, 1e3 * point.seconds))
                    .collect();
                Series {
                    look: Some(Look::slot(color.1)),
                    dash: dash.1,
                    dots: line.clone(),
                    line,
                    ..Series::default()
                }
            })
        });
        PlotPanel {
            title: String::new(),
            x: (*size).to_string(),
            series: lines.collect(),
        }
    };
    let colored = threads.iter().zip(colors.clone()).map(|(count, color)| {
        let plural = if *count == 1 { "" } else { "s" };
        format!("{}: {count} thread{plural}", color.0)
    });
    let dashed = sets.iter().zip(dashes.clone());
    let dashed = dashed.map(|(found, dash)| format!("{}: {}", dash.0, found.set));
    PanelGrid {
        title: "How our time grows".to_string(),
        caption: colored.chain(dashed).collect::<Vec<_>>().join(", "),
        y: "milliseconds".to_string(),
        columns: sizes.len().clamp(1, 2),
        axes: (AxisScale::Logarithmic, AxisScale::Logarithmic),
        shared_x: false,
        panels: sizes.iter().map(panel).collect(),
    }
    .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_and_number_of_threads_has_a_line_in_each_panel() {
        let point = |what: &str, threads, value: f64| GrowthPoint {
            what: what.to_string(),
            threads,
            value,
            seconds: value / threads as f64,
        };
        let points = ["tokens", "nodes"].iter().flat_map(|what| {
            [1, 2].map(|threads| [1.0, 8.0].map(|value| point(what, threads, value)))
        });
        let points: Vec<GrowthPoint> = points.flatten().collect();
        let sets = ["avx512", "avx2"].map(|set| Growth {
            set: set.to_string(),
            points: points.clone(),
        });
        let svg = growth(&sets).unwrap();
        let caption = "orange: 1 thread, blue: 2 threads, whole lines: avx512, dashed: avx2";
        for text in [caption, "tokens", "nodes"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 2 * points.len());
        let one = growth(&sets[..1]).unwrap();
        assert!(!one.contains("avx2"));
    }
}
