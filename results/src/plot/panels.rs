//! Small pictures side by side on one scale: lines with bands, seeds as dots, points with intervals.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::style::{
    Area, Drawn, FAINT, INK, Look, SOFT, extent, heading, label, picture, text_style,
};
use crate::error::Result;

/// Pixels of a panel.
const WIDTH: u32 = 300;
const HEIGHT: u32 = 220;
/// Pixels of the title.
const TOP: u32 = 64;

/// How an axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AxisScale {
    /// Evenly.
    Linear,
    /// By factors; values are above 0.
    Logarithmic,
}

impl AxisScale {
    fn place(self, value: f64) -> f64 {
        match self {
            AxisScale::Linear => value,
            AxisScale::Logarithmic => value.log2(),
        }
    }

    fn text(self, place: f64) -> String {
        let value = match self {
            AxisScale::Linear => place,
            AxisScale::Logarithmic => place.exp2(),
        };
        let size = value.abs();
        match () {
            () if size >= 10.0 || value.fract().abs() < 1e-9 => format!("{value:.0}"),
            () if size >= 1.0 => format!("{value:.1}"),
            () => format!("{value:.2}"),
        }
    }
}

/// What is drawn in one look.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// Its look; `None` is the grey of what others are compared with.
    pub look: Option<Look>,
    /// A line through (x, y).
    pub line: Vec<(f64, f64)>,
    /// Dash and gap of the line in pixels; `None` is a whole line.
    pub dash: Option<(u32, u32)>,
    /// A band from low to high: (x, low, high).
    pub band: Vec<(f64, f64, f64)>,
    /// Single observations.
    pub dots: Vec<(f64, f64)>,
    /// Points with intervals: (x, y, low, high).
    pub intervals: Vec<(f64, f64, f64, f64)>,
}

impl Series {
    fn xs(&self) -> impl Iterator<Item = f64> {
        let pairs = self.line.iter().chain(&self.dots).map(|one| one.0);
        let bands = self.band.iter().map(|one| one.0);
        pairs
            .chain(bands)
            .chain(self.intervals.iter().map(|one| one.0))
    }

    fn ys(&self) -> impl Iterator<Item = f64> {
        let pairs = self.line.iter().chain(&self.dots).map(|one| one.1);
        let bands = self.band.iter().flat_map(|one| [one.1, one.2]);
        pairs
            .chain(bands)
            .chain(self.intervals.iter().flat_map(|one| [one.2, one.3]))
    }
}

/// One small picture.
#[derive(Clone, Debug)]
pub struct PlotPanel {
    /// Its title.
    pub title: String,
    /// What x is.
    pub x: String,
    /// From the back to the front.
    pub series: Vec<Series>,
}

/// Panels in rows.
#[derive(Clone, Debug)]
pub struct PanelGrid {
    /// The title.
    pub title: String,
    /// What is seen.
    pub caption: String,
    /// What y is.
    pub y: String,
    /// Panels in a row.
    pub columns: usize,
    /// How x and y run.
    pub axes: (AxisScale, AxisScale),
    /// Whether all panels have one range of x; y is always shared.
    pub shared_x: bool,
    /// The panels.
    pub panels: Vec<PlotPanel>,
}

impl PanelGrid {
    /// The picture.
    ///
    /// # Errors
    /// [`Error::Plot`](crate::Error::Plot) when the drawing library fails.
    pub fn draw(&self) -> Result<String> {
        let rows = self.panels.len().div_ceil(self.columns).max(1);
        let size = (WIDTH * self.columns as u32, TOP + HEIGHT * rows as u32);
        picture("the panels", size, |area| {
            heading(area, &self.title, &self.caption)?;
            let (_, below) = area.split_vertically(TOP);
            let places = below.split_evenly((rows, self.columns));
            for (panel, place) in self.panels.iter().zip(&places) {
                self.panel(panel, place)?;
            }
            Ok(())
        })
    }

    fn panel(&self, panel: &PlotPanel, area: &Area<'_>) -> Drawn {
        let (x_axis, y_axis) = self.axes;
        let all = || self.panels.iter().flat_map(|panel| &panel.series);
        let own = panel.series.iter();
        let xs: Vec<f64> = match self.shared_x {
            true => all().flat_map(Series::xs).collect(),
            false => own.flat_map(Series::xs).collect(),
        };
        let range = |values: Vec<f64>, axis: AxisScale| {
            let (low, high) = extent(values.into_iter().map(|value| axis.place(value)))?;
            let room = ((high - low) * 0.06).max(1e-6);
            Some(low - room..high + room)
        };
        let ys = all().flat_map(Series::ys).collect();
        let Some((x_range, y_range)) = range(xs, x_axis).zip(range(ys, y_axis)) else {
            return Ok(());
        };
        let (head, body) = area.split_vertically(20);
        let style = text_style(13, HPos::Left, VPos::Center);
        label(&head, &panel.title, (72, 10), &style)?;
        let failed = |error: DrawingAreaErrorKind<_>| -> String { format!("{error}") };
        let mut chart = ChartBuilder::on(&body)
            .margin_left(14)
            .margin_right(14)
            .margin_bottom(6)
            .set_label_area_size(LabelAreaPosition::Left, 54)
            .set_label_area_size(LabelAreaPosition::Bottom, 36)
            .build_cartesian_2d(x_range, y_range)
            .map_err(failed)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .label_style(("sans-serif", 11).into_font().color(&INK))
            .x_desc(&panel.x)
            .y_desc(&self.y)
            .x_labels(5)
            .y_labels(5)
            .x_label_formatter(&|place| x_axis.text(*place))
            .y_label_formatter(&|place| y_axis.text(*place))
            .draw()
            .map_err(failed)?;
        let at = |(x, y): (f64, f64)| (x_axis.place(x), y_axis.place(y));
        for series in &panel.series {
            let color = series.look.map_or(SOFT, |look| look.color());
            if !series.band.is_empty() {
                let above = series.band.iter().map(|one| at((one.0, one.2)));
                let below = series.band.iter().rev().map(|one| at((one.0, one.1)));
                let band: Vec<(f64, f64)> = above.chain(below).collect();
                let band = Polygon::new(band, color.mix(0.15));
                chart.draw_series([band]).map_err(failed)?;
            }
            let points: Vec<(f64, f64)> = series.line.iter().copied().map(at).collect();
            let style = color.stroke_width(2);
            let drawn = match series.dash {
                _ if points.is_empty() => Ok(()),
                None => chart
                    .draw_series(LineSeries::new(points, style))
                    .map(|_| ()),
                Some((dash, gap)) => {
                    let line = DashedLineSeries::new(points, dash, gap, style);
                    chart.draw_series(line).map(|_| ())
                }
            };
            drawn.map_err(failed)?;
            let dots = series.dots.iter().copied().map(at);
            chart
                .draw_series(dots.map(|dot| Circle::new(dot, 2, color.mix(0.6).filled())))
                .map_err(failed)?;
            for &(x, y, low, high) in &series.intervals {
                let ends = [at((x, low)), at((x, high))];
                let bar = PathElement::new(ends, color.stroke_width(2));
                chart.draw_series([bar]).map_err(failed)?;
                let dot = Circle::new(at((x, y)), 4, color.filled());
                chart.draw_series([dot]).map_err(failed)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> PanelGrid {
        let line: Vec<(f64, f64)> = [(1.0, 0.2), (2.0, 0.3), (4.0, 0.5)].into();
        let series = Series {
            look: Some(Look::slot(5)),
            band: line
                .iter()
                .map(|one| (one.0, one.1 - 0.1, one.1 + 0.1))
                .collect(),
            dots: line.clone(),
            intervals: vec![(3.0, 0.4, 0.35, 0.45)],
            line,
            ..Series::default()
        };
        let behind = Series {
            line: vec![(1.0, 0.1), (4.0, 0.2)],
            ..Series::default()
        };
        let panel = |title: &str| PlotPanel {
            title: title.to_string(),
            x: "update".to_string(),
            series: vec![behind.clone(), series.clone()],
        };
        PanelGrid {
            title: "Panels".to_string(),
            caption: "a test".to_string(),
            y: "share".to_string(),
            columns: 2,
            axes: (AxisScale::Linear, AxisScale::Linear),
            shared_x: true,
            panels: vec![panel("torl"), panel("trm"), panel("iapo")],
        }
    }

    #[test]
    fn every_panel_has_its_title_and_all_that_it_was_given() {
        let svg = grid().draw().unwrap();
        for text in ["torl", "trm", "iapo", "update", "share"] {
            assert!(svg.contains(text), "{text}");
        }
        assert_eq!(svg.matches("<circle").count(), 3 * 4);
        assert_eq!(svg.matches("<polygon").count(), 3);
        assert_eq!(grid().draw().unwrap(), svg);
    }

    #[test]
    fn nothing_to_draw_is_no_fault() {
        let mut empty = grid();
        empty
            .panels
            .iter_mut()
            .for_each(|panel| panel.series.clear());
        assert!(empty.draw().unwrap().contains("Panels"));
        empty.panels.clear();
        assert!(empty.draw().unwrap().contains("Panels"));
    }

    #[test]
    fn a_logarithmic_axis_writes_values() {
        assert_eq!(
            AxisScale::Logarithmic.text(AxisScale::Logarithmic.place(64.0)),
            "64"
        );
        assert_eq!(AxisScale::Linear.text(0.25), "0.25");
        assert_eq!(AxisScale::Linear.text(2.5), "2.5");
    }
}
