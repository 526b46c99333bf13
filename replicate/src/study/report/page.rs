//! The page with its pictures, and the pictures that arms make.

use std::fmt::Write;

use results::plot::{
    AxisScale, DifferenceGroup, DifferencePlot, DifferenceRow, Looks, PanelGrid, PlotPanel, Series,
};
use results::statistics::{CrossedEstimate, PairedDifference, over_seeds};
use results::{ArmName, UpdateMetrics};

use crate::Result;

use super::arms::ArmRuns;

/// What a study's records say, as Markdown with pictures beside it.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The text.
    pub text: String,
    /// Pictures as SVG, by file name, beside the text.
    pub pictures: Vec<(String, String)>,
}

impl Page {
    /// Adds a picture here.
    pub(super) fn picture(&mut self, name: &str, what: &str, svg: String) {
        let file = format!("{name}.svg");
        let _ = write!(self.text, "\n![{what}]({file})\n");
        self.pictures.push((file, svg));
    }
}

/// A row of a picture of differences.
pub(super) fn row(label: String, found: &PairedDifference) -> DifferenceRow {
    DifferenceRow {
        label,
        arm: found.first.clone(),
        difference: found.crossed.clone(),
        by_seed: found.by_seed.iter().map(|(_, value)| *value).collect(),
        paper: None,
    }
}

/// Differences in groups, with the smallest effect of interest in points.
pub(super) fn differences(
    title: &str,
    smallest_effect: f64,
    groups: Vec<DifferenceGroup>,
) -> Result<String> {
    let plot = DifferencePlot {
        title: title.to_owned(),
        caption:
            "dot and bar: crossed random effects, 95 %; small dots: seeds; band: the smallest \
                  effect of interest"
                .to_owned(),
        smallest_effect: Some(smallest_effect),
        groups,
    };
    Ok(plot.draw()?)
}

/// A value of the metrics through training, a panel an arm, with plain GRPO in grey behind it; `None`
/// where no arm has it.
pub(super) fn through_training(
    arms: &[&ArmRuns],
    (title, y): (&str, &str),
    value: impl Fn(&UpdateMetrics) -> Option<f64>,
) -> Result<Option<String>> {
    let curves: Vec<(&ArmName, Vec<(f64, CrossedEstimate)>)> = arms
        .iter()
        .map(|arm| (&arm.name, curve(arm, &value)))
        .filter(|(_, curve)| !curve.is_empty())
        .collect();
    let plain = curves
        .iter()
        .find(|(name, _)| name.name() == ArmName::VTOOL_R1);
    let plain = plain.map(|(_, curve)| curve.clone());
    if curves.is_empty() {
        return Ok(None);
    }
    let looks = Looks::new(curves.iter().map(|(name, _)| *name));
    let middle = |curve: &[(f64, CrossedEstimate)]| -> Vec<(f64, f64)> {
        curve
            .iter()
            .map(|(update, found)| (*update, found.value))
            .collect()
    };
    let panel = |(name, curve): &(&ArmName, Vec<(f64, CrossedEstimate)>)| {
        let behind = Series {
            line: plain.as_deref().map(middle).unwrap_or_default(),
            ..Series::default()
        };
        let own = Series {
            look: Some(looks.of(name)),
            line: middle(curve),
            band: curve
                .iter()
                .map(|(update, found)| (*update, found.low(), found.high()))
                .collect(),
            ..Series::default()
        };
        PlotPanel {
            title: name.to_string(),
            x: "update".to_owned(),
            series: vec![behind, own],
        }
    };
    let grid = PanelGrid {
        title: title.to_owned(),
        caption: "mean over seeds with its 95 % interval; grey: vtool-r1".to_owned(),
        y: y.to_owned(),
        columns: 4,
        axes: (AxisScale::Linear, AxisScale::Linear),
        shared_x: true,
        panels: curves.iter().map(panel).collect(),
    };
    Ok(Some(grid.draw()?))
}

/// By update: the mean over seeds with its interval. Updates that fewer than two seeds have are left out.
fn curve(
    arm: &ArmRuns,
    value: impl Fn(&UpdateMetrics) -> Option<f64>,
) -> Vec<(f64, CrossedEstimate)> {
    let mut updates: Vec<u64> = arm
        .metrics
        .iter()
        .flatten()
        .filter(|line| value(line).is_some())
        .map(|line| line.update)
        .collect();
    updates.sort_unstable();
    updates.dedup();
    let at = |update: u64| {
        let lines = arm.metrics.iter().flatten();
        let values: Vec<f64> = lines
            .filter(|line| line.update == update)
            .filter_map(&value)
            .collect();
        Some((update as f64, over_seeds(&values)?))
    };
    updates.into_iter().filter_map(at).collect()
}
