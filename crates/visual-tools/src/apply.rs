//! Carries out a parsed program on pixels, with the semantics of the chosen [`Style`].
//!
//! Source: ReFocus `src/tools.py` and VTool-R1 `recipe/vtool/refocus_tools.py`. A region of
//! corners `(x1, y1, x2, y2)` and margin `m` becomes
//! `trunc(x1 − m), trunc(y1 − m), trunc(x2 + m), trunc(y2 + m)`. As there,
//! * no boxes or no names: the image is handed back unchanged;
//! * a mask that recognises no name would hide everything: unchanged;
//! * a region that the inset turns inside out fails, as Pillow's `rectangle` does since 9.5.

use image::RgbImage;

use crate::boxes::{FigureBoxes, NamedBoxes, PixelBox};
use crate::call::{BoxSource, BoxValue, ImageSource, Names, Step, ToolCall};
use crate::nearest::nearest;
use crate::paint::{Rectangle, fill, highlight, outline};
use crate::style::{NameRule, Style};
use crate::tool::{Axis, Effect, Tool};

/// Why a call could not be carried out.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ToolError {
    /// A name that no region has, under a rule that refuses it.
    #[error("{tool}: no region is called {name:?}{}; there are: {known}", .nearest.as_ref().map(|name| format!(" (the nearest is {name:?})")).unwrap_or_default())]
    UnknownName {
        /// The tool.
        tool: Tool,
        /// The name asked for.
        name: String,
        /// The region whose name is nearest to it, if one is near.
        nearest: Option<String>,
        /// The names that exist, shortened.
        known: String,
    },
    /// The style's inset leaves nothing of a region, or the region was inverted.
    #[error(
        "{tool}: the region {name:?} from ({}, {}) to ({}, {}) has no inside once the style's margin is applied; mend the boxes first",
        region.x1, region.y1, region.x2, region.y2
    )]
    EmptyRegion {
        /// The tool.
        tool: Tool,
        /// The region's name.
        name: String,
        /// The region as annotated.
        region: PixelBox,
    },
    /// A coordinate that is no finite number.
    #[error("{tool}: the region {name:?} has a coordinate that is not a finite number")]
    NotFinite {
        /// The tool.
        tool: Tool,
        /// The region's name.
        name: String,
    },
    /// The code uses boxes of the other kind of figure: chart boxes on a table.
    #[error("{tool}: `{variable}` is not bound for this figure, which is a table")]
    Unbound {
        /// The tool.
        tool: Tool,
        /// The variable.
        variable: &'static str,
    },
    /// A step works on the result of a step that does not come before it.
    #[error("step {0} is not carried out before it is used")]
    NoSuchStep(usize),
}

/// What one step did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepOutcome {
    /// Regions were painted.
    Painted {
        /// How many.
        regions: usize,
        /// Names that were passed over.
        skipped: Vec<String>,
    },
    /// The image stayed as it was.
    Unchanged(Unchanged),
}

/// Why a step changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unchanged {
    /// The figure has no boxes of that kind.
    NoBoxes,
    /// The list of names is empty.
    NoNames,
    /// No name is a region's.
    NothingRecognised,
    /// Every region is named: a mask has nothing to hide.
    NothingToMask,
}

/// The shown image and what each step did.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The image that the code shows.
    pub image: RgbImage,
    /// One outcome a step.
    pub outcomes: Vec<StepOutcome>,
}

/// The image that `call` shows, made from `image` (unchanged itself). See [`apply_reporting`].
pub fn apply(
    image: &RgbImage,
    call: &ToolCall,
    boxes: &FigureBoxes,
    style: &Style,
) -> Result<RgbImage, ToolError> {
    apply_reporting(image, call, boxes, style).map(|applied| applied.image)
}

/// [`apply`], with what each step did.
///
/// # Errors
/// Any step that fails fails the whole program, shown or not, as an exception does in Python.
pub fn apply_reporting(
    image: &RgbImage,
    call: &ToolCall,
    boxes: &FigureBoxes,
    style: &Style,
) -> Result<Applied, ToolError> {
    // Images by identity: mask and draw paint in place, highlight makes a new one.
    let mut images = vec![image.clone()];
    let mut made: Vec<usize> = Vec::with_capacity(call.steps.len());
    let find = |made: &[usize], source| match source {
        ImageSource::Original => Ok(0),
        ImageSource::Step(index) => made.get(index).copied().ok_or(ToolError::NoSuchStep(index)),
    };
    let mut outcomes = Vec::with_capacity(call.steps.len());
    for step in &call.steps {
        let target = find(&made, step.image)?;
        let outcome = match plan(step, boxes, style, images[target].dimensions())? {
            Err(unchanged) => {
                made.push(target);
                StepOutcome::Unchanged(unchanged)
            }
            Ok(Plan { areas, skipped }) => {
                match step.tool.effect {
                    Effect::Mask => {
                        for area in &areas {
                            fill(&mut images[target], area, style.mask);
                        }
                        made.push(target);
                    }
                    Effect::Draw => {
                        for area in &areas {
                            outline(
                                &mut images[target],
                                area,
                                style.outline,
                                style.outline_width,
                            );
                        }
                        made.push(target);
                    }
                    Effect::Highlight => {
                        let mut tinted = images[target].clone();
                        highlight(&mut tinted, &areas, style.highlight);
                        made.push(images.len());
                        images.push(tinted);
                    }
                }
                StepOutcome::Painted {
                    regions: areas.len(),
                    skipped,
                }
            }
        };
        outcomes.push(outcome);
    }
    let shown = find(&made, call.shown)?;
    Ok(Applied {
        image: images.swap_remove(shown),
        outcomes,
    })
}

/// What a step will paint.
struct Plan {
    areas: Vec<Rectangle>,
    skipped: Vec<String>,
}

/// Chooses the regions of a step; the inner error says why there are none.
fn plan(
    step: &Step,
    figure: &FigureBoxes,
    style: &Style,
    size: (u32, u32),
) -> Result<Result<Plan, Unchanged>, ToolError> {
    let tool = step.tool;
    let boxes = regions(&step.boxes, figure, tool)?;
    if boxes.is_empty() {
        return Ok(Err(Unchanged::NoBoxes));
    }
    let requested = Requested::new(&step.names, figure, tool)?;
    if requested.names.is_empty() {
        return Ok(Err(Unchanged::NoNames));
    }
    match tool.effect {
        Effect::Mask => plan_mask(tool, &boxes, &requested, style, size),
        Effect::Draw | Effect::Highlight => plan_named(tool, &boxes, &requested, style, size),
    }
}

/// The names asked for, as Python would see them.
struct Requested {
    /// What a loop goes through: the names, or the characters of a bare string.
    names: Vec<String>,
    /// The bare string, in which `in` looks for substrings.
    text: Option<String>,
}

impl Requested {
    fn new(names: &Names, figure: &FigureBoxes, tool: Tool) -> Result<Self, ToolError> {
        Ok(match names {
            Names::List(names) => Self {
                names: names.clone(),
                text: None,
            },
            Names::Text(text) => Self {
                names: text.chars().map(String::from).collect(),
                text: Some(text.clone()),
            },
            Names::AllOf(source) => Self {
                names: regions(source, figure, tool)?
                    .names()
                    .map(str::to_owned)
                    .collect(),
                text: None,
            },
        })
    }

    /// Python's `name in requested`, of the bare string or of the names.
    fn contains(&self, name: &str, by_substring: bool) -> bool {
        match &self.text {
            Some(text) if by_substring => text.contains(name),
            _ => self.names.iter().any(|n| n == name),
        }
    }
}

/// Regions that a mask hides.
fn plan_mask(
    tool: Tool,
    boxes: &NamedBoxes,
    requested: &Requested,
    style: &Style,
    size: (u32, u32),
) -> Result<Result<Plan, Unchanged>, ToolError> {
    // ReFocus looks for substrings in a bare string; the others go through its characters.
    let by_substring = requested.text.is_some() && style.names == NameRule::ReFocus;
    let unknown: Vec<String> = match by_substring {
        true => Vec::new(),
        false => requested
            .names
            .iter()
            .filter(|name| boxes.get(name).is_none())
            .cloned()
            .collect(),
    };
    if style.names == NameRule::Strict
        && let Some(name) = unknown.first()
    {
        return Err(unknown_name(tool, name, boxes));
    }
    let kept = usize::from(tool.axis == Axis::Rows && style.keep_header_row);
    let candidates = &boxes.0[kept.min(boxes.len())..];
    let hidden: Vec<_> = candidates
        .iter()
        .filter(|(name, _)| !requested.contains(name, by_substring))
        .collect();
    if hidden.is_empty() {
        return Ok(Err(Unchanged::NothingToMask));
    }
    if hidden.len() == candidates.len() {
        return Ok(Err(Unchanged::NothingRecognised));
    }
    let mut areas = Vec::with_capacity(hidden.len());
    for (name, region) in hidden {
        areas.push(rectangle(tool, name, region, style, size)?);
    }
    Ok(Ok(Plan {
        areas,
        skipped: unknown,
    }))
}

/// Regions that are outlined or highlighted.
fn plan_named(
    tool: Tool,
    boxes: &NamedBoxes,
    requested: &Requested,
    style: &Style,
    size: (u32, u32),
) -> Result<Result<Plan, Unchanged>, ToolError> {
    let fuzzy = tool.axis == Axis::YValues && tool.effect == Effect::Draw;
    // The two tools of ReFocus whose loop swallows every exception.
    let forgiving = style.names == NameRule::ReFocus
        && (fuzzy || (tool.axis == Axis::XValues && tool.effect == Effect::Highlight));
    let mut areas = Vec::new();
    let mut skipped = Vec::new();
    let mut recognised = false;
    for asked in &requested.names {
        let name = match style.names {
            NameRule::ReFocus if fuzzy => last_similar(asked, boxes),
            NameRule::VtoolV2 if fuzzy => first_similar(asked, boxes),
            _ => asked.as_str(),
        };
        let Some(region) = boxes.get(name) else {
            if style.names == NameRule::VtoolV2 || forgiving {
                skipped.push(asked.clone());
                continue;
            }
            return Err(unknown_name(tool, asked, boxes));
        };
        recognised = true;
        match rectangle(tool, name, region, style, size) {
            Ok(area) => areas.push(area),
            Err(_) if forgiving => skipped.push(asked.clone()),
            Err(error) => return Err(error),
        }
    }
    if !recognised {
        return Ok(Err(Unchanged::NothingRecognised));
    }
    Ok(Ok(Plan { areas, skipped }))
}

fn similar(a: &str, b: &str) -> bool {
    a.contains(b) || b.contains(a)
}

/// ReFocus' search: every label that is similar replaces the name, and the search goes on with it.
fn last_similar<'a>(asked: &'a str, boxes: &'a NamedBoxes) -> &'a str {
    boxes
        .names()
        .fold(asked, |name, label| match similar(name, label) {
            true => label,
            false => name,
        })
}

/// VTool-R1's search: the label itself, or the first similar one.
fn first_similar<'a>(asked: &'a str, boxes: &'a NamedBoxes) -> &'a str {
    match boxes.get(asked) {
        Some(_) => asked,
        None => boxes
            .names()
            .find(|label| similar(asked, label))
            .unwrap_or(asked),
    }
}

fn unknown_name(tool: Tool, name: &str, boxes: &NamedBoxes) -> ToolError {
    const SHOWN: usize = 12;
    let mut known: Vec<String> = boxes
        .names()
        .take(SHOWN)
        .map(|n| format!("{n:?}"))
        .collect();
    if boxes.len() > SHOWN {
        known.push(format!("and {} more", boxes.len() - SHOWN));
    }
    ToolError::UnknownName {
        tool,
        name: name.to_owned(),
        nearest: nearest(name, boxes.names()).map(str::to_owned),
        known: known.join(", "),
    }
}

/// The regions that a call chooses from.
fn regions(source: &BoxSource, figure: &FigureBoxes, tool: Tool) -> Result<NamedBoxes, ToolError> {
    match source {
        BoxSource::Figure(axis) => bound(figure, *axis, tool).cloned(),
        BoxSource::Literal(entries) => {
            let mut pairs = Vec::with_capacity(entries.len());
            for (name, value) in entries {
                let region = match value {
                    BoxValue::Given(region) => *region,
                    BoxValue::Named(axis, key) => {
                        let boxes = bound(figure, *axis, tool)?;
                        *boxes
                            .get(key)
                            .ok_or_else(|| unknown_name(tool, key, boxes))?
                    }
                };
                pairs.push((name.clone(), region));
            }
            Ok(NamedBoxes::from_pairs(pairs))
        }
    }
}

fn bound(figure: &FigureBoxes, axis: Axis, tool: Tool) -> Result<&NamedBoxes, ToolError> {
    let is_table = !figure.columns.is_empty() || !figure.rows.is_empty();
    let boxes = figure.bound(axis);
    if is_table && boxes.is_empty() && matches!(axis, Axis::XValues | Axis::YValues) {
        return Err(ToolError::Unbound {
            tool,
            variable: axis.boxes_variable(),
        });
    }
    Ok(boxes)
}

/// The rectangle that is painted for a region.
fn rectangle(
    tool: Tool,
    name: &str,
    region: &PixelBox,
    style: &Style,
    (width, height): (u32, u32),
) -> Result<Rectangle, ToolError> {
    if !region.is_finite() {
        return Err(ToolError::NotFinite {
            tool,
            name: name.to_owned(),
        });
    }
    let margin = match tool.effect {
        Effect::Mask => style.mask_margin,
        Effect::Draw => style.draw_margin,
        Effect::Highlight => style.highlight_margin,
    };
    // Python's `int` truncates towards zero, and so does the cast. The bound keeps sums of
    // coordinates far from overflow and is far outside of any image.
    let whole = |v: f64| v.clamp(-1e12, 1e12) as i64;
    let mut area = Rectangle {
        x1: whole(region.x1 - margin),
        y1: whole(region.y1 - margin),
        x2: whole(region.x2 + margin),
        y2: whole(region.y2 + margin),
    };
    if style.clamp {
        area.x1 = area.x1.max(0);
        area.y1 = area.y1.max(0);
        area.x2 = area.x2.min(i64::from(width));
        area.y2 = area.y2.min(i64::from(height));
    }
    if area.x2 < area.x1 || area.y2 < area.y1 {
        return Err(ToolError::EmptyRegion {
            tool,
            name: name.to_owned(),
            region: *region,
        });
    }
    Ok(area)
}
