//! Differences drawn as differences: a forest plot with seeds as dots.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{FAINT, INK, Looks, SOFT, Scale, heading, label, line, picture, text_style};
use crate::error::Result;
use crate::record::ArmName;
use crate::statistics::CrossedEstimate;

/// Pixels of a row, and of a group's title.
const ROW: i32 = 30;
const TITLE: i32 = 30;
// Pixels above the first group, and where the scale begins and ends.
const TOP: i32 = 70;
const LEFT: i32 = 330;
const RIGHT: i32 = 770;

/// A picture of differences in groups.
#[derive(Clone, Debug)]
pub struct DifferencePlot {
    /// The title.
    pub title: String,
    /// What the numbers are.
    pub caption: String,
    /// Differences below this, in points, are of no interest: a band around 0.
    pub smallest_effect: Option<f64>,
    /// The groups from above.
    pub groups: Vec<DifferenceGroup>,
}

/// Differences under one title.
#[derive(Clone, Debug)]
pub struct DifferenceGroup {
    /// The title.
    pub title: String,
    /// Its rows from above.
    pub rows: Vec<DifferenceRow>,
}

/// One difference.
#[derive(Clone, Debug)]
pub struct DifferenceRow {
    /// What is subtracted from what.
    pub label: String,
    /// Whose colour it has.
    pub arm: ArmName,
    /// The difference as a share, with its interval.
    pub difference: CrossedEstimate,
    /// The same for single seeds.
    pub by_seed: Vec<f64>,
    /// What the paper reports, in points.
    pub paper: Option<f64>,
}

impl DifferencePlot {
    /// The picture.
    ///
    /// # Errors
    /// [`Error::Plot`](crate::Error::Plot) when the drawing library fails.
    pub fn draw(&self) -> Result<String> {
        let rows = || self.groups.iter().flat_map(|group| &group.rows);
        let looks = Looks::new(rows().map(|row| &row.arm));
        let values = rows().flat_map(|row| {
            let found = &row.difference;
            let shares = row
                .by_seed
                .iter()
                .copied()
                .chain([found.low(), found.high()]);
            shares.map(|share| 100.0 * share).chain(row.paper)
        });
        let scale = Scale::new(values.chain([0.0]), LEFT..RIGHT);
        let heights = self
            .groups
            .iter()
            .map(|group| TITLE + ROW * group.rows.len() as i32);
        let bottom = TOP + heights.sum::<i32>();
        picture("the differences", (920, bottom as u32 + 52), |area| {
            heading(area, &self.title, &self.caption)?;
            if let Some(effect) = self.smallest_effect {
                let corners = [(scale.pixel(-effect), TOP), (scale.pixel(effect), bottom)];
                let band = Rectangle::new(corners, SOFT.mix(0.16).filled());
                area.draw(&band).map_err(|error| error.to_string())?;
            }
            for (tick, text) in scale.ticks() {
                let x = scale.pixel(tick);
                let color = if tick == 0.0 { INK } else { FAINT };
                line(area, (x, TOP), (x, bottom), color.into())?;
                let style = text_style(13, HPos::Center, VPos::Top);
                label(area, &text, (x, bottom + 8), &style)?;
            }
            let style = text_style(13, HPos::Center, VPos::Top);
            label(area, "points", ((LEFT + RIGHT) / 2, bottom + 28), &style)?;
            let mut y = TOP;
            for group in &self.groups {
                let style = text_style(14, HPos::Left, VPos::Center);
                label(area, &group.title, (20, y + TITLE / 2), &style)?;
                y += TITLE;
                for row in &group.rows {
                    let middle = y + ROW / 2;
                    y += ROW;
                    let color = looks.of(&row.arm).color();
                    let style = text_style(13, HPos::Right, VPos::Center);
                    label(area, &row.label, (LEFT - 12, middle), &style)?;
                    let pixel = |share: f64| scale.pixel(100.0 * share);
                    for seed in &row.by_seed {
                        let dot =
                            Circle::new((pixel(*seed), middle + 8), 2, color.mix(0.55).filled());
                        area.draw(&dot).map_err(|error| error.to_string())?;
                    }
                    let found = &row.difference;
                    let (low, high) = (pixel(found.low()), pixel(found.high()));
                    line(area, (low, middle), (high, middle), color.stroke_width(3))?;
                    for end in [low, high] {
                        line(
                            area,
                            (end, middle - 5),
                            (end, middle + 5),
                            color.stroke_width(2),
                        )?;
                    }
                    let dot = Circle::new((pixel(found.value), middle), 5, color.filled());
                    area.draw(&dot).map_err(|error| error.to_string())?;
                    if let Some(paper) = row.paper {
                        let x = scale.pixel(paper);
                        let corners = [
                            (x, middle - 7),
                            (x + 5, middle),
                            (x, middle + 7),
                            (x - 5, middle),
                        ];
                        let mark = PathElement::new(
                            [corners.as_slice(), &corners[..1]].concat(),
                            INK.stroke_width(2),
                        );
                        area.draw(&mark).map_err(|error| error.to_string())?;
                    }
                    let ends = [found.value, found.low(), found.high()].map(|share| 100.0 * share);
                    let [value, low, high] = ends;
                    let text = format!("{value:+.2} [{low:+.2}, {high:+.2}]");
                    let style = text_style(12, HPos::Left, VPos::Center);
                    label(area, &text, (RIGHT + 10, middle), &style)?;
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::over_seeds;

    #[test]
    fn every_difference_has_its_interval_its_seeds_and_its_number() {
        let by_seed = vec![-0.01, 0.02, 0.03];
        let row = DifferenceRow {
            label: "iapo − vtool-r1".to_string(),
            arm: "iapo".parse().unwrap(),
            difference: over_seeds(&by_seed).unwrap(),
            by_seed,
            paper: Some(3.0),
        };
        let plot = DifferencePlot {
            title: "Differences".to_string(),
            caption: "greedy".to_string(),
            smallest_effect: Some(1.0),
            groups: vec![DifferenceGroup {
                title: "H1".to_string(),
                rows: vec![row],
            }],
        };
        let svg = plot.draw().unwrap();
        assert_eq!(
            svg.matches("<circle").count(),
            4,
            "three seeds and the mean"
        );
        for text in ["iapo − vtool-r1", "+1.33 [", "H1", "Differences", "points"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        assert_eq!(plot.draw().unwrap(), svg);
    }
}
