//! The ReFocus visual tools: boxes, pixels and the parser of their calls.
//!
//! A model edits the image that it is asked about by writing a short piece of code:
//! `focus_on_x_values_with_highlight(image_1, ["2005"], x_values_bbox)`. This crate reads such code
//! as data ([`parse()`]), never executes it, and paints what ReFocus (Fu et al. 2025,
//! arXiv 2501.05452) and VTool-R1 (arXiv 2505.19255) paint with Pillow ([`apply()`]), within the
//! constants of a [`Style`]. [`blurred`] takes a figure's details away, for attribution.
//!
//! ```
//! use visual_tools::{apply, parse, FigureBoxes, NamedBoxes, Parsed, PixelBox, Style};
//!
//! let image = image::RgbImage::new(64, 48);
//! let boxes = FigureBoxes::chart(
//!     NamedBoxes::from_pairs([("2005".to_owned(), PixelBox::new(8.0, 8.0, 24.0, 40.0))]),
//!     NamedBoxes::default(),
//! );
//! let completion = "```python\ndisplay(focus_on_x_values_with_draw(image_1, [\"2005\"], x_values_bbox))\n```";
//! if let Parsed::Call(call) = parse(completion) {
//!     let edited = apply(&image, &call, &boxes, &Style::refocus())?;
//!     assert_eq!(edited.get_pixel(10, 10).0, [255, 0, 0]);
//! }
//! # Ok::<(), visual_tools::ToolError>(())
//! ```

mod apply;
mod blur;
mod boxes;
mod call;
mod paint;
mod parse;
mod style;
mod tool;

pub use apply::{Applied, StepOutcome, ToolError, Unchanged, apply, apply_reporting};
pub use blur::{BLUR, blurred};
pub use boxes::{BoxRepairs, FigureBoxes, NamedBoxes, PixelBox};
pub use call::{BoxSource, BoxValue, ImageSource, Names, Step, ToolCall};
pub use parse::{Parsed, Refusal, RefusalCounts, RefusalReason, parse};
pub use style::{NameRule, Style};
pub use tool::{Axis, Effect, Tool, UnknownTool};
