//! Pictures as SVG, deterministic text, in one palette: learning curves, accuracies and differences with
//! intervals, panels of small pictures, speed beside other libraries.
//!
//! An arm keeps its colour and its dash in every picture, so that lines can be told apart in grey. Every
//! picture has a dark variant in the same file, for readers whose system prefers it.

mod accuracies;
mod curves;
mod differences;
mod panels;
mod speed;
mod style;

pub use accuracies::accuracies;
pub use curves::{Curve, curves, learning_curves};
pub use differences::{DifferenceGroup, DifferencePlot, DifferenceRow};
pub use panels::{AxisScale, PanelGrid, PlotPanel, Series};
pub use speed::{Growth, GrowthPoint, Ratio, growth, ratios};
pub use style::{Look, Looks, SLOTS};
