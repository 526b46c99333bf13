//! The twelve tools: four kinds of region, three effects.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The kind of region that a tool works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Axis {
    /// Columns of a table.
    Columns,
    /// Rows of a table.
    Rows,
    /// Labels along the x axis of a chart.
    XValues,
    /// Labels along the y axis of a chart.
    YValues,
}

impl Axis {
    /// All kinds, in the order of ReFocus' documentation.
    pub const ALL: [Axis; 4] = [Axis::Columns, Axis::Rows, Axis::XValues, Axis::YValues];

    /// The word in the tools' names: `columns`, `rows`, `x_values`, `y_values`.
    pub fn word(self) -> &'static str {
        match self {
            Axis::Columns => "columns",
            Axis::Rows => "rows",
            Axis::XValues => "x_values",
            Axis::YValues => "y_values",
        }
    }

    /// The variable that holds this kind's boxes in the code that a model writes.
    pub fn boxes_variable(self) -> &'static str {
        match self {
            Axis::Columns => "columns_bbox",
            Axis::Rows => "rows_bbox",
            Axis::XValues => "x_values_bbox",
            Axis::YValues => "y_values_bbox",
        }
    }
}

/// What a tool does with the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Paint every region that is *not* named white.
    Mask,
    /// Outline the named regions in red.
    Draw,
    /// Lay a translucent red over the named regions.
    Highlight,
}

impl Effect {
    /// All effects.
    pub const ALL: [Effect; 3] = [Effect::Mask, Effect::Draw, Effect::Highlight];

    /// The word in the tools' names: `mask`, `draw`, `highlight`.
    pub fn word(self) -> &'static str {
        match self {
            Effect::Mask => "mask",
            Effect::Draw => "draw",
            Effect::Highlight => "highlight",
        }
    }
}

/// One of the twelve tools; displayed and parsed as `focus_on_columns_with_mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tool {
    /// The kind of region.
    pub axis: Axis,
    /// The effect.
    pub effect: Effect,
}

impl Tool {
    /// The twelve tools, axis by axis.
    pub fn all() -> impl Iterator<Item = Tool> {
        Axis::ALL
            .into_iter()
            .flat_map(|axis| Effect::ALL.map(|effect| Tool { axis, effect }))
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "focus_on_{}_with_{}",
            self.axis.word(),
            self.effect.word()
        )
    }
}

/// A word that is none of the twelve tools.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a tool: expected focus_on_AXIS_with_EFFECT with AXIS one of columns, rows, x_values, y_values and EFFECT one of mask, draw, highlight"
)]
pub struct UnknownTool(pub String);

impl FromStr for Tool {
    type Err = UnknownTool;

    fn from_str(name: &str) -> Result<Self, UnknownTool> {
        name.strip_prefix("focus_on_")
            .and_then(|rest| rest.split_once("_with_"))
            .and_then(|(axis, effect)| {
                Some(Tool {
                    axis: Axis::ALL.into_iter().find(|a| a.word() == axis)?,
                    effect: Effect::ALL.into_iter().find(|e| e.word() == effect)?,
                })
            })
            .ok_or_else(|| UnknownTool(name.to_owned()))
    }
}

impl Serialize for Tool {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Tool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}
