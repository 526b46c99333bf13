//! What a model's code asks for, as data.

use crate::boxes::{FigureBoxes, NamedBoxes, PixelBox};
use crate::tool::{Axis, Effect, Tool};

/// Where the boxes of a call come from: its third argument.
#[derive(Clone, Debug, PartialEq)]
pub enum BoxSource {
    /// One of the bound variables `columns_bbox`, `rows_bbox`, `x_values_bbox`, `y_values_bbox`.
    Figure(Axis),
    /// A dict written in the code, in its order, of equal names the last.
    Literal(Vec<(String, BoxValue)>),
}

/// One value of a dict of boxes that stands in the code.
#[derive(Clone, Debug, PartialEq)]
pub enum BoxValue {
    /// Four numbers.
    Given(PixelBox),
    /// A look-up such as `columns_bbox["Year"]`.
    Named(Axis, String),
}

/// The names of a call: its second argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Names {
    /// A list of strings.
    List(Vec<String>),
    /// A bare string. Python goes through its characters, and `in` looks for substrings.
    Text(String),
    /// All names of a dict of boxes, as in `x_values_bbox.keys()`.
    AllOf(BoxSource),
}

impl Names {
    fn is_empty(&self) -> bool {
        match self {
            Names::List(names) => names.is_empty(),
            Names::Text(text) => text.is_empty(),
            Names::AllOf(_) => false,
        }
    }
}

/// The image that a step works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// `image_1`.
    Original,
    /// The result of the step with this index.
    Step(usize),
}

/// One call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The tool.
    pub tool: Tool,
    /// The image that it edits. Mask and draw paint in place, as Pillow does: whoever holds the
    /// same image sees it. Highlight returns a new image.
    pub image: ImageSource,
    /// The names to focus on.
    pub names: Names,
    /// The regions to choose from.
    pub boxes: BoxSource,
}

/// A parsed program: the calls in order and the image that is shown.
///
/// `tool` and `names` are those of the last call that made or painted the shown image.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// The tool that counts.
    pub tool: Tool,
    /// Its names as written; of a bare string that string, of `boxes.keys()` none (use
    /// [`ToolCall::names_in`]).
    pub names: Vec<String>,
    /// All calls in the order of their execution; never empty.
    pub steps: Vec<Step>,
    /// Which image is shown.
    pub shown: ImageSource,
}

impl ToolCall {
    /// A call of one tool on `image_1` with the boxes of the tool's own kind.
    pub fn new(tool: Tool, names: Vec<String>) -> Self {
        Self {
            tool,
            names: names.clone(),
            steps: vec![Step {
                tool,
                image: ImageSource::Original,
                names: Names::List(names),
                boxes: BoxSource::Figure(tool.axis),
            }],
            shown: ImageSource::Step(0),
        }
    }

    /// A program of `steps` that shows `shown`; `None` when no step made or painted that image.
    pub fn of_steps(steps: Vec<Step>, shown: ImageSource) -> Option<Self> {
        // Mask and draw hand back the image that they were given; so does a tool without names.
        let mut identity: Vec<ImageSource> = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            let made = match step.tool.effect {
                Effect::Highlight if !step.names.is_empty() => ImageSource::Step(index),
                _ => resolve(&identity, step.image)?,
            };
            identity.push(made);
        }
        let target = resolve(&identity, shown)?;
        let last = identity.iter().rposition(|made| *made == target)?;
        let step = steps.get(last)?;
        Some(Self {
            tool: step.tool,
            names: match &step.names {
                Names::List(names) => names.clone(),
                Names::Text(text) => vec![text.clone()],
                Names::AllOf(BoxSource::Literal(boxes)) => {
                    boxes.iter().map(|(name, _)| name.clone()).collect()
                }
                Names::AllOf(BoxSource::Figure(_)) => Vec::new(),
            },
            steps,
            shown,
        })
    }

    /// The names of the call that counts, with `boxes.keys()` resolved in `boxes`.
    pub fn names_in(&self, boxes: &FigureBoxes) -> Vec<String> {
        let all_of = self.steps.iter().rev().find_map(|step| match &step.names {
            Names::AllOf(BoxSource::Figure(axis)) if step.tool == self.tool => Some(*axis),
            _ => None,
        });
        match all_of {
            Some(axis) if self.names.is_empty() => {
                boxes.bound(axis).names().map(str::to_owned).collect()
            }
            _ => self.names.clone(),
        }
    }
}

fn resolve(identity: &[ImageSource], image: ImageSource) -> Option<ImageSource> {
    match image {
        ImageSource::Original => Some(ImageSource::Original),
        ImageSource::Step(index) => identity.get(index).copied(),
    }
}

impl FigureBoxes {
    /// What the variable of `axis` holds while a model's code runs. On a chart the two table
    /// variables hold the chart's only dict, as VTool-R1 binds them.
    pub fn bound(&self, axis: Axis) -> &NamedBoxes {
        let is_chart = self.columns.is_empty() && self.rows.is_empty();
        match axis {
            Axis::Columns | Axis::Rows if is_chart && !self.x_values.is_empty() => &self.x_values,
            Axis::Columns | Axis::Rows if is_chart => &self.y_values,
            Axis::Columns => &self.columns,
            Axis::Rows => &self.rows,
            Axis::XValues => &self.x_values,
            Axis::YValues => &self.y_values,
        }
    }
}
