//! Gain against room: what an arm gains over plain GRPO in worlds that leave it more or less to gain.
//!
//! Room is the teacher's macro average less plain GRPO's, gain the arm's less plain GRPO's; over the
//! variants of a part the line `gain = a + b · room` is fitted by least squares. Both share plain
//! GRPO's average, so its error alone already draws `b` above 0: the interval is a description, no
//! test.

use std::fmt::Write;

use results::plot::{AxisScale, Looks, PanelGrid, PlotPanel, Series};
use results::statistics::{CrossedEstimate, LineFit};
use results::{ArmName, markdown_table, number, points};

use crate::Result;

use super::counted::{TrainedArms, paired, with_interval};
use super::page::Page;

/// The table, the fitted lines and the picture of a part with several variants.
pub(super) fn section(
    part: &str,
    variants: &[(String, TrainedArms)],
    page: &mut Page,
) -> Result<()> {
    page.text.push_str(
        "### Gain against room\n\nRoom: the teacher's macro average less plain GRPO's, points. Gains \
         over plain GRPO with 95 % intervals, not corrected for their number.\n\n",
    );
    let mut names: Vec<&ArmName> = Vec::new();
    for (_, trained) in variants {
        for arm in &trained.arms {
            if arm.name.name() != ArmName::VTOOL_R1 && !names.contains(&&arm.name) {
                names.push(&arm.name);
            }
        }
    }
    // By arm: room and gain of each variant.
    let mut gains: Vec<Vec<(f64, CrossedEstimate)>> = vec![Vec::new(); names.len()];
    let mut rows = Vec::new();
    for (label, trained) in variants {
        let Some(plain) = trained.arm(ArmName::VTOOL_R1) else {
            continue;
        };
        let average = plain.greedy.macro_average();
        let teacher = trained.teacher().and_then(|arm| arm.greedy.macro_average());
        let room = teacher
            .zip(average)
            .map(|(teacher, average)| teacher - average);
        let mut row = vec![
            label.clone(),
            number(average.map(|share| 100.0 * share), 1),
            room.map_or_else(|| results::NOT_MEASURED.to_owned(), points),
        ];
        for (place, name) in names.iter().enumerate() {
            row.push(match trained.arm(name.name()) {
                Some(arm) => {
                    let found = paired(&arm.greedy, &plain.greedy)?.crossed;
                    let text = with_interval(&found);
                    gains[place].extend(room.map(|room| (room, found)));
                    text
                }
                None => results::NOT_MEASURED.to_owned(),
            });
        }
        rows.push(row);
    }
    let mut header = vec!["variant", "vtool-r1", "room"];
    header.extend(names.iter().map(|name| name.name()));
    let text = &mut page.text;
    text.push_str(&markdown_table(&header, &rows));
    text.push('\n');
    for (name, gains) in names.iter().zip(&gains) {
        if let Some(line) = line(gains) {
            let slope = line.slope;
            let _ = write!(
                text,
                "\n{name}: {:+.2} [{:+.2}, {:+.2}] points of gain a point of room, over {} variants.\n",
                slope.value,
                slope.low(),
                slope.high(),
                gains.len()
            );
        }
    }
    let svg = picture(&names, &gains)?;
    page.picture(&format!("map-{part}"), "Gain against room, by arm", svg);
    page.text.push('\n');
    Ok(())
}

fn line(gains: &[(f64, CrossedEstimate)]) -> Option<LineFit> {
    let points: Vec<(f64, f64)> = gains
        .iter()
        .map(|(room, gain)| (*room, gain.value))
        .collect();
    LineFit::of(&points)
}

/// How finely the line's band is drawn.
const STEPS: usize = 24;

/// A panel an arm: gains with their intervals, the fitted line with its band, in points.
fn picture(names: &[&ArmName], gains: &[Vec<(f64, CrossedEstimate)>]) -> Result<String> {
    let looks = Looks::new(names.iter().copied());
    let panel = |(name, gains): (&&ArmName, &Vec<(f64, CrossedEstimate)>)| {
        let rooms = || gains.iter().map(|(room, _)| *room);
        let (low, high) = (
            rooms().fold(f64::INFINITY, f64::min),
            rooms().fold(f64::NEG_INFINITY, f64::max),
        );
        let fitted = line(gains);
        let along = |step: usize| low + (high - low) * step as f64 / STEPS as f64;
        let on_line = |fit: &LineFit| -> Vec<(f64, CrossedEstimate)> {
            (0..=STEPS)
                .map(|step| (along(step), fit.at(along(step))))
                .collect()
        };
        let fitted = fitted.as_ref().map(on_line).unwrap_or_default();
        let none = Series {
            line: vec![(100.0 * low, 0.0), (100.0 * high, 0.0)],
            ..Series::default()
        };
        let own = Series {
            look: Some(looks.of(name)),
            line: fitted
                .iter()
                .map(|(room, at)| (100.0 * room, 100.0 * at.value))
                .collect(),
            band: fitted
                .iter()
                .map(|(room, at)| (100.0 * room, 100.0 * at.low(), 100.0 * at.high()))
                .collect(),
            intervals: gains
                .iter()
                .map(|(room, gain)| {
                    let [value, low, high] =
                        [gain.value, gain.low(), gain.high()].map(|x| 100.0 * x);
                    (100.0 * room, value, low, high)
                })
                .collect(),
            ..Series::default()
        };
        PlotPanel {
            title: name.to_string(),
            x: "room, points".to_owned(),
            series: vec![none, own],
        }
    };
    let grid = PanelGrid {
        title: "Gain against room".to_owned(),
        caption:
            "gain over vtool-r1 with its 95 % interval, a point a variant; line and 95 % band: \
                  least squares; grey: no gain"
                .to_owned(),
        y: "gain, points".to_owned(),
        columns: names.len().clamp(1, 3),
        axes: (AxisScale::Linear, AxisScale::Linear),
        shared_x: true,
        panels: names.iter().zip(gains).map(panel).collect(),
    };
    Ok(grid.draw()?)
}
