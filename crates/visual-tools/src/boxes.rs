//! Named pixel regions of a figure, and the mending of bad ones.
//!
//! Source of the shapes: ReFocus' annotations, `{"label": {"x1", "y1", "x2", "y2"}}`, origin top
//! left, x to the right, y down. Real annotations hold inverted boxes and boxes that stick out of
//! the image; [`FigureBoxes::repair`] mends them and counts what it did.

use std::fmt;
use std::ops::AddAssign;

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::tool::Axis;

/// A rectangle in pixels, origin top left; both corners belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PixelBox {
    /// Left edge.
    pub x1: f64,
    /// Upper edge.
    pub y1: f64,
    /// Right edge.
    pub x2: f64,
    /// Lower edge.
    pub y2: f64,
}

/// What [`PixelBox::repaired`] had to do to one box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    Inverted,
    Clipped,
}

impl PixelBox {
    /// The box of the corners `(x1, y1)` and `(x2, y2)`.
    pub fn new(x1: f64, y1: f64, x2: f64, y2: f64) -> Self {
        Self { x1, y1, x2, y2 }
    }

    /// The box in pixels of one given in fractions of an image of `width` × `height` pixels
    /// (dialect A of the ReFocus data).
    pub fn scaled(self, width: u32, height: u32) -> Self {
        let (w, h) = (f64::from(width), f64::from(height));
        Self::new(self.x1 * w, self.y1 * h, self.x2 * w, self.y2 * h)
    }

    /// Whether every coordinate is a finite number.
    pub fn is_finite(&self) -> bool {
        [self.x1, self.y1, self.x2, self.y2]
            .iter()
            .all(|v| v.is_finite())
    }

    /// The same region with `x1 <= x2` and `y1 <= y2`; a coordinate that is no number stays.
    fn ordered(self) -> Self {
        let sort = |a: f64, b: f64| if b < a { (b, a) } else { (a, b) };
        let ((x1, x2), (y1, y2)) = (sort(self.x1, self.x2), sort(self.y1, self.y2));
        Self { x1, y1, x2, y2 }
    }

    /// The box with its corners in order and inside the image, and what had to be done; `None`
    /// when nothing of it lies inside or a coordinate is not finite.
    fn repaired(self, width: u32, height: u32) -> Option<(Self, Vec<Defect>)> {
        if !self.is_finite() {
            return None;
        }
        let mut defects = Vec::new();
        let ordered = self.ordered();
        if ordered != self {
            defects.push(Defect::Inverted);
        }
        let (w, h) = (f64::from(width), f64::from(height));
        // Nothing lies within an image without pixels, whatever a corner becomes once it is cut.
        if width == 0 || height == 0 {
            return None;
        }
        if ordered.x1 >= w || ordered.y1 >= h || ordered.x2 < 0.0 || ordered.y2 < 0.0 {
            return None;
        }
        let clipped = Self::new(
            ordered.x1.max(0.0),
            ordered.y1.max(0.0),
            ordered.x2.min(w),
            ordered.y2.min(h),
        );
        if clipped != ordered {
            defects.push(Defect::Clipped);
        }
        Some((clipped, defects))
    }
}

/// How many boxes were mended, by kind. Add them up over a data set with `+=`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoxRepairs {
    /// Boxes seen.
    pub boxes: usize,
    /// Boxes whose corners were exchanged.
    pub inverted: usize,
    /// Boxes that stuck out of the image and were cut at its border.
    pub clipped: usize,
    /// Boxes dropped: nothing of them lay inside the image, or a coordinate was not finite.
    pub dropped: usize,
    /// Figures left without a single box: their tools change nothing.
    pub figures_without_boxes: usize,
}

impl AddAssign for BoxRepairs {
    fn add_assign(&mut self, other: Self) {
        self.boxes += other.boxes;
        self.inverted += other.inverted;
        self.clipped += other.clipped;
        self.dropped += other.dropped;
        self.figures_without_boxes += other.figures_without_boxes;
    }
}

/// Regions by name, in the order of the annotation. Behaves as a Python dict: a name that comes
/// again keeps its first place and takes its last box (see [`NamedBoxes::from_pairs`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NamedBoxes(pub Vec<(String, PixelBox)>);

impl NamedBoxes {
    /// The boxes of `pairs`, as Python's `dict(pairs)`: of equal names the last box wins.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, PixelBox)>) -> Self {
        let mut boxes = Self::default();
        let mut places = std::collections::HashMap::new();
        for (name, region) in pairs {
            match places.get(&name) {
                Some(&place) => {
                    let entry: &mut (String, PixelBox) = &mut boxes.0[place];
                    entry.1 = region;
                }
                None => {
                    places.insert(name.clone(), boxes.0.len());
                    boxes.0.push((name, region));
                }
            }
        }
        boxes
    }

    /// The box called `name` (the last, should the name stand twice).
    pub fn get(&self, name: &str) -> Option<&PixelBox> {
        self.0.iter().rfind(|(n, _)| n == name).map(|(_, b)| b)
    }

    /// The names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// The number of regions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no region.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Exchanges the corners of inverted boxes, and nothing else; returns how many there were.
    pub fn order_corners(&mut self) -> usize {
        let mut inverted = 0;
        for (_, region) in &mut self.0 {
            let ordered = region.ordered();
            inverted += usize::from(ordered != *region);
            *region = ordered;
        }
        inverted
    }

    /// Mends every box for an image of `width` × `height` pixels: inverted corners are exchanged,
    /// what sticks out is cut off, what lies wholly outside is dropped.
    pub fn repair(&mut self, width: u32, height: u32) -> BoxRepairs {
        let mut repairs = BoxRepairs {
            boxes: self.0.len(),
            ..BoxRepairs::default()
        };
        self.0
            .retain_mut(|(_, region)| match region.repaired(width, height) {
                Some((mended, defects)) => {
                    *region = mended;
                    repairs.inverted += usize::from(defects.contains(&Defect::Inverted));
                    repairs.clipped += usize::from(defects.contains(&Defect::Clipped));
                    true
                }
                None => {
                    repairs.dropped += 1;
                    false
                }
            });
        repairs
    }
}

impl Serialize for NamedBoxes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, region) in &self.0 {
            map.serialize_entry(name, region)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for NamedBoxes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = NamedBoxes;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object {\"name\": {\"x1\", \"y1\", \"x2\", \"y2\"}}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NamedBoxes, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(NamedBoxes::from_pairs(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// All regions of a figure. A table has `columns` and `rows` (the first row is its header), a
/// chart `x_values` or `y_values`; the rest is empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FigureBoxes {
    /// Columns of a table, by header.
    pub columns: NamedBoxes,
    /// Rows of a table, by first cell, the header row first.
    pub rows: NamedBoxes,
    /// Bands of a vertical bar chart, by label.
    pub x_values: NamedBoxes,
    /// Bands of a horizontal bar chart, by label.
    pub y_values: NamedBoxes,
}

impl FigureBoxes {
    /// The boxes of a table.
    pub fn table(columns: NamedBoxes, rows: NamedBoxes) -> Self {
        Self {
            columns,
            rows,
            ..Self::default()
        }
    }

    /// The boxes of a chart.
    pub fn chart(x_values: NamedBoxes, y_values: NamedBoxes) -> Self {
        Self {
            x_values,
            y_values,
            ..Self::default()
        }
    }

    /// A figure with boxes of one kind.
    pub fn of(axis: Axis, boxes: NamedBoxes) -> Self {
        let mut figure = Self::default();
        match axis {
            Axis::Columns => figure.columns = boxes,
            Axis::Rows => figure.rows = boxes,
            Axis::XValues => figure.x_values = boxes,
            Axis::YValues => figure.y_values = boxes,
        }
        figure
    }

    /// Whether the figure has no box at all.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
            && self.rows.is_empty()
            && self.x_values.is_empty()
            && self.y_values.is_empty()
    }

    /// [`NamedBoxes::repair`] of all four, counted together.
    pub fn repair(&mut self, width: u32, height: u32) -> BoxRepairs {
        let mut repairs = BoxRepairs::default();
        for boxes in [
            &mut self.columns,
            &mut self.rows,
            &mut self.x_values,
            &mut self.y_values,
        ] {
            repairs += boxes.repair(width, height);
        }
        repairs.figures_without_boxes = usize::from(self.is_empty());
        repairs
    }
}
