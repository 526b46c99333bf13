//! What the agent is asked: an image, the boxes its tools work on, and a request.

use std::sync::Arc;

use image::RgbImage;
use visual_tools::FigureBoxes;

/// One visual question, without its answer.
#[derive(Clone, Debug)]
pub struct Task {
    /// The figure, as the tools see it.
    pub image: Arc<RgbImage>,
    /// The named regions that the tools may focus on, in pixels of `image`.
    pub boxes: Arc<FigureBoxes>,
    /// The question, and nothing else: the prompt's block R.
    pub request: String,
    /// Tool definitions with worked examples, the prompt's block T, when the task brings its own
    /// (the micro world draws them per task). `None`: the prompt style's own text.
    pub tools: Option<String>,
}
