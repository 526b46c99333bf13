//! The ReFocus visual tools: boxes, pixels and the parser of their calls.
//!
//! A model edits the image that it is asked about by writing a short piece of code:
//! `focus_on_x_values_with_highlight(image_1, ["2005"], x_values_bbox)`. This crate reads such code
//! as data ([`parse()`]), never executes it, and paints what ReFocus (Fu et al. 2025,
//! arXiv 2501.05452) and VTool-R1 (arXiv 2505.19255) paint with Pillow ([`apply()`]), within the
//! constants of a [`Style`]. [`blurred`] takes a figure's details away, for attribution.

mod apply;
mod blur;
mod boxes;
mod call;
mod nearest;
mod paint;
mod parse;
mod style;
mod tool;

pub use apply::{Applied, StepOutcome, ToolError, Unchanged, apply, apply_reporting};
pub use blur::{BLUR, blurred};
pub use boxes::{BoxRepairs, FigureBoxes, NamedBoxes, PixelBox};
pub use call::{BoxSource, BoxValue, ImageSource, Names, Step, ToolCall};
pub use parse::{
    NearMiss, NearMissCounts, Parsed, Refusal, RefusalCounts, RefusalReason, near_miss, parse,
};
pub use style::{NameRule, Style};
pub use tool::{Axis, Effect, Tool, UnknownTool};

/// The example of the README, run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
