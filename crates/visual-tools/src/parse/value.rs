//! What the variables of the code can hold. Values nest at most three deep, by construction.

use std::rc::Rc;

use super::limits::{MAX_BYTES, MAX_ITEMS};
use super::refusal::RefusalReason;
use crate::boxes::PixelBox;
use crate::call::{BoxSource, BoxValue, ImageSource, Names};
use crate::tool::Axis;

/// A value; cloning is cheap, so code cannot make memory grow by repeating a list.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// `None`, `True`, `False`, and what `print` and `display` return.
    Constant,
    Number(f64),
    Text(Rc<str>),
    Image(ImageSource),
    /// A list or tuple of scalars.
    List(Rc<Vec<Value>>),
    /// Scalars, flat lists or boxes by name.
    Dict(Rc<Vec<(String, Value)>>),
    /// A bound dict of boxes.
    Boxes(Axis),
    /// Its keys.
    Keys(Axis),
    /// One of its boxes.
    Region(Axis, Rc<str>),
}

/// A reason with its detail; the caller knows the line.
pub(super) type Fault = (RefusalReason, String);

impl Value {
    /// For messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Constant => "a constant",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::Image(_) => "an image",
            Value::List(_) => "a list",
            Value::Dict(_) => "a dict",
            Value::Boxes(_) => "a dict of boxes",
            Value::Keys(_) => "the names of boxes",
            Value::Region(..) => "a box",
        }
    }

    fn is_scalar(&self) -> bool {
        matches!(
            self,
            Value::Constant | Value::Number(_) | Value::Text(_) | Value::Region(..)
        )
    }

    /// Whether the value may stand in a list.
    pub(super) fn check_item(&self) -> Result<(), Fault> {
        match self.is_scalar() {
            true => Ok(()),
            false => Err((
                RefusalReason::ArgumentKind,
                format!("{} in a list", self.kind()),
            )),
        }
    }

    /// Whether the value may stand in a dict: a scalar, a flat list, or a dict of numbers.
    pub(super) fn check_entry(&self) -> Result<(), Fault> {
        let fits = match self {
            Value::List(_) => true,
            Value::Dict(entries) => entries.iter().all(|(_, v)| matches!(v, Value::Number(_))),
            value => value.is_scalar(),
        };
        match fits {
            true => Ok(()),
            false => Err((
                RefusalReason::ArgumentKind,
                format!("{} in a dict", self.kind()),
            )),
        }
    }

    /// `left + right`.
    pub(super) fn plus(&self, right: &Value) -> Result<Value, Fault> {
        match (self, right) {
            (Value::List(a), Value::List(b)) if a.len() + b.len() <= MAX_ITEMS => Ok(Value::List(
                Rc::new(a.iter().chain(b.iter()).cloned().collect()),
            )),
            (Value::Text(a), Value::Text(b)) if a.len() + b.len() <= MAX_BYTES => {
                Ok(Value::Text(format!("{a}{b}").into()))
            }
            (Value::List(_), Value::List(_)) | (Value::Text(_), Value::Text(_)) => {
                Err((RefusalReason::TooLong, "a sum".to_owned()))
            }
            _ => Err((
                RefusalReason::Operator,
                format!("{} + {}", self.kind(), right.kind()),
            )),
        }
    }

    /// `self[index]`.
    pub(super) fn look_up(&self, index: &Value) -> Result<Value, Fault> {
        match (self, index) {
            (Value::Boxes(axis), Value::Text(name)) => Ok(Value::Region(*axis, name.clone())),
            (Value::Dict(entries), Value::Text(name)) => entries
                .iter()
                .find(|(key, _)| key.as_str() == &**name)
                .map(|(_, value)| value.clone())
                .ok_or_else(|| (RefusalReason::LookUp, format!("{name:?}"))),
            (Value::List(items), Value::Number(number)) if number.fract() == 0.0 => {
                let place = match *number < 0.0 {
                    true => number + items.len() as f64,
                    false => *number,
                };
                // A cast saturates, and then nothing stands there.
                match place >= 0.0 {
                    true => items.get(place as usize).cloned(),
                    false => None,
                }
                .ok_or_else(|| {
                    (
                        RefusalReason::LookUp,
                        format!("{number} of {}", items.len()),
                    )
                })
            }
            _ => Err((
                RefusalReason::LookUp,
                format!("{} by {}", self.kind(), index.kind()),
            )),
        }
    }

    /// `self.keys()`.
    pub(super) fn keys(&self) -> Result<Value, Fault> {
        match self {
            Value::Boxes(axis) => Ok(Value::Keys(*axis)),
            Value::Dict(entries) => Ok(key_list(entries)),
            _ => Err((RefusalReason::Attribute, format!("keys of {}", self.kind()))),
        }
    }

    /// `list(self)`.
    pub(super) fn list(&self) -> Result<Value, Fault> {
        match self {
            Value::List(_) | Value::Keys(_) => Ok(self.clone()),
            Value::Boxes(axis) => Ok(Value::Keys(*axis)),
            Value::Dict(entries) => Ok(key_list(entries)),
            Value::Text(text) if text.len() <= MAX_ITEMS => Ok(Value::List(Rc::new(
                text.chars()
                    .map(|c| Value::Text(String::from(c).into()))
                    .collect(),
            ))),
            Value::Text(_) => Err((RefusalReason::TooLong, "a list of characters".to_owned())),
            _ => Err((
                RefusalReason::ArgumentKind,
                format!("list of {}", self.kind()),
            )),
        }
    }

    /// The value as the first argument of a tool.
    pub(super) fn into_image(self) -> Result<ImageSource, Fault> {
        match self {
            Value::Image(image) => Ok(image),
            other => Err((
                RefusalReason::ArgumentKind,
                format!("expected an image, found {}", other.kind()),
            )),
        }
    }

    /// The value as the second argument of a tool.
    pub(super) fn into_names(self) -> Result<Names, Fault> {
        match self {
            Value::Text(text) => Ok(Names::Text(text.to_string())),
            Value::List(items) => items
                .iter()
                .map(|item| match item {
                    Value::Text(text) => Ok(text.to_string()),
                    other => Err((
                        RefusalReason::ArgumentKind,
                        format!("expected names, found {} among them", other.kind()),
                    )),
                })
                .collect::<Result<_, _>>()
                .map(Names::List),
            Value::Boxes(axis) | Value::Keys(axis) => Ok(Names::AllOf(BoxSource::Figure(axis))),
            Value::Dict(entries) => Ok(Names::List(
                entries.iter().map(|(key, _)| key.clone()).collect(),
            )),
            other => Err((
                RefusalReason::ArgumentKind,
                format!("expected a list of names, found {}", other.kind()),
            )),
        }
    }

    /// The value as the third argument of a tool.
    pub(super) fn into_boxes(self) -> Result<BoxSource, Fault> {
        match self {
            Value::Boxes(axis) => Ok(BoxSource::Figure(axis)),
            Value::Dict(entries) => entries
                .iter()
                .map(|(name, value)| match value {
                    Value::Region(axis, key) => {
                        Ok((name.clone(), BoxValue::Named(*axis, key.to_string())))
                    }
                    Value::Dict(corners) => pixel_box(corners)
                        .map(|region| (name.clone(), BoxValue::Given(region)))
                        .ok_or_else(|| {
                            let detail = format!("{name:?} needs numbers x1, y1, x2, y2");
                            (RefusalReason::ArgumentKind, detail)
                        }),
                    other => Err((
                        RefusalReason::ArgumentKind,
                        format!("expected a box under {name:?}, found {}", other.kind()),
                    )),
                })
                .collect::<Result<_, _>>()
                .map(BoxSource::Literal),
            other => Err((
                RefusalReason::ArgumentKind,
                format!("expected a dict of boxes, found {}", other.kind()),
            )),
        }
    }
}

fn key_list(entries: &[(String, Value)]) -> Value {
    Value::List(Rc::new(
        entries
            .iter()
            .map(|(key, _)| Value::Text(key.as_str().into()))
            .collect(),
    ))
}

fn pixel_box(corners: &[(String, Value)]) -> Option<PixelBox> {
    let corner = |wanted: &str| {
        corners.iter().find_map(|(key, value)| match value {
            Value::Number(number) if key == wanted => Some(*number),
            _ => None,
        })
    };
    Some(PixelBox {
        x1: corner("x1")?,
        y1: corner("y1")?,
        x2: corner("x2")?,
        y2: corner("y2")?,
    })
}
