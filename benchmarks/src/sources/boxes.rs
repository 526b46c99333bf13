//! The three dialects of named boxes (ReFocus, VTool-R1), read into pixels.
//!
//! - A: parallel lists, `x_values[i]` beside `x_bboxes[i]`, in fractions of the image;
//! - B: an object from label to box, in pixels; no boxes at all is `{}` or `{"x1": "none"}`;
//! - C: parallel lists, `x_values[i]` beside `x_values_bbox[i]`, in pixels; in parquet the list of
//!   boxes is an object of four lists.
//!
//! As in the Python that made them, labels that come twice collapse to one, the last box winning.

use serde_json::Value;
use visual_tools::{NamedBoxes, PixelBox};

use super::error::SourceError;
use super::row::Row;

const SIDES: [&str; 4] = ["x1", "y1", "x2", "y2"];

/// Beyond this a coordinate cannot be a fraction of the image: the real ones stick out of it by a
/// few hundredths at most.
const LARGEST_FRACTION: f64 = 2.0;

/// The unit of a file's coordinates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Unit {
    Pixels,
    /// Fractions of an image of this many pixels.
    Fractions {
        width: u32,
        height: u32,
    },
}

/// Named boxes as read, with what was odd about their labels.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Read {
    pub boxes: NamedBoxes,
    /// Labels that came again.
    pub duplicates: usize,
    /// Labels with an HTML tag or entity in them, which are kept as they are: the tools' names
    /// are the data's names.
    pub marked_up: usize,
}

/// The boxes in field `boxes`, named by the list in field `labels` or by their own keys.
pub(super) fn read(row: &Row, labels: &str, boxes: &str, unit: Unit) -> Result<Read, SourceError> {
    let pairs = match row.fields.get(boxes) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(items)) => {
            let regions = items
                .iter()
                .enumerate()
                .map(|(index, item)| region(row, &format!("{boxes}[{index}]"), item, unit))
                .collect::<Result<Vec<_>, _>>()?;
            zip(row, labels, boxes, regions)?
        }
        Some(Value::Object(sides)) if sides.get("x1").is_some_and(Value::is_string) => Vec::new(),
        Some(Value::Object(sides)) if sides.get("x1").is_some_and(Value::is_array) => {
            let regions = columnar(row, boxes, sides, unit)?;
            zip(row, labels, boxes, regions)?
        }
        Some(Value::Object(by_label)) => by_label
            .iter()
            // Arrow gives every row the labels of all rows, null where a row has none.
            .filter(|(_, value)| !value.is_null())
            .map(|(label, value)| {
                region(row, &format!("{boxes}.{label}"), value, unit)
                    .map(|region| (label.clone(), region))
            })
            .collect::<Result<_, _>>()?,
        found => {
            return Err(row.error(
                boxes,
                "a list of boxes or an object from label to box",
                found,
            ));
        }
    };
    let marked_up = pairs
        .iter()
        .filter(|(label, _)| is_marked_up(label))
        .count();
    let given = pairs.len();
    let boxes = NamedBoxes::from_pairs(pairs);
    Ok(Read {
        duplicates: given - boxes.len(),
        marked_up,
        boxes,
    })
}

/// Names from `labels` beside `regions`; both lists are of one length.
fn zip(
    row: &Row,
    labels: &str,
    boxes: &str,
    regions: Vec<PixelBox>,
) -> Result<Vec<(String, PixelBox)>, SourceError> {
    let found = row.fields.get(labels);
    let names: &[Value] = match found {
        None | Some(Value::Null) => &[],
        Some(Value::Array(names)) => names,
        found => return Err(row.error(labels, "a list of strings", found)),
    };
    if names.len() != regions.len() {
        return Err(SourceError::Field {
            place: row.place.clone(),
            field: labels.to_owned(),
            expected: "as many labels as there are boxes",
            found: format!(
                "{} labels beside {} in `{boxes}`",
                names.len(),
                regions.len()
            ),
        });
    }
    names
        .iter()
        .zip(regions)
        .enumerate()
        .map(|(index, (name, region))| match name {
            Value::String(name) => Ok((name.clone(), region)),
            Value::Number(name) => Ok((name.to_string(), region)),
            other => Err(row.error(format!("{labels}[{index}]"), "a string", Some(other))),
        })
        .collect()
}

/// `{"x1": […], "y1": […], "x2": […], "y2": […]}`.
fn columnar(
    row: &Row,
    field: &str,
    sides: &serde_json::Map<String, Value>,
    unit: Unit,
) -> Result<Vec<PixelBox>, SourceError> {
    let lists = SIDES
        .iter()
        .map(|side| {
            let found = sides.get(*side);
            found
                .and_then(Value::as_array)
                .ok_or_else(|| row.error(format!("{field}.{side}"), "a list of numbers", found))
        })
        .collect::<Result<Vec<_>, _>>()?;
    (0..lists[0].len())
        .map(|index| {
            let mut numbers = [0.0; 4];
            for ((number, list), side) in numbers.iter_mut().zip(&lists).zip(SIDES) {
                *number = coordinate(
                    row,
                    &format!("{field}.{side}[{index}]"),
                    list.get(index),
                    unit,
                )?;
            }
            Ok(to_pixels(numbers, unit))
        })
        .collect()
}

fn region(row: &Row, field: &str, value: &Value, unit: Unit) -> Result<PixelBox, SourceError> {
    let Value::Object(sides) = value else {
        return Err(row.error(field, "a box {\"x1\", \"y1\", \"x2\", \"y2\"}", Some(value)));
    };
    let mut numbers = [0.0; 4];
    for (number, side) in numbers.iter_mut().zip(SIDES) {
        *number = coordinate(row, &format!("{field}.{side}"), sides.get(side), unit)?;
    }
    Ok(to_pixels(numbers, unit))
}

fn coordinate(
    row: &Row,
    field: &str,
    value: Option<&Value>,
    unit: Unit,
) -> Result<f64, SourceError> {
    let number = value
        .and_then(Value::as_f64)
        .filter(|number| number.is_finite())
        .ok_or_else(|| row.error(field, "a number", value))?;
    if unit != Unit::Pixels && number.abs() > LARGEST_FRACTION {
        return Err(row.error(field, "a fraction of the image's size", value));
    }
    Ok(number)
}

fn to_pixels([x1, y1, x2, y2]: [f64; 4], unit: Unit) -> PixelBox {
    let region = PixelBox { x1, y1, x2, y2 };
    match unit {
        Unit::Pixels => region,
        Unit::Fractions { width, height } => region.scaled(width, height),
    }
}

/// Whether a label holds an HTML tag (`<br>`) or entity (`&amp;`).
fn is_marked_up(label: &str) -> bool {
    let entity = label.split('&').skip(1).any(|rest| {
        rest.split_once(';').is_some_and(|(name, _)| {
            (2..=8).contains(&name.len())
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'#')
        })
    });
    let tag = label.split('<').skip(1).any(|rest| {
        rest.contains('>')
            && rest.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
    });
    entity || tag
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::super::error::{Place, RecordName};
    use super::*;

    fn row(fields: Value) -> Row {
        Row {
            place: Place {
                file: Path::new("a.jsonl").into(),
                record: RecordName::Line(3),
            },
            fields: fields.as_object().unwrap().clone(),
            blobs: Vec::new(),
        }
    }

    fn pixels(boxes: &NamedBoxes) -> Vec<(&str, [f64; 4])> {
        boxes
            .0
            .iter()
            .map(|(name, b)| (name.as_str(), [b.x1, b.y1, b.x2, b.y2]))
            .collect()
    }

    fn unit_box(x1: f64) -> Value {
        json!({ "x1": x1, "y1": 0.25, "x2": 1, "y2": 0.5 })
    }

    #[test]
    fn all_dialects_give_the_same_pixels() {
        let fractions = Unit::Fractions {
            width: 200,
            height: 80,
        };
        let a = row(json!({ "x_values": ["A", "B"], "x_bboxes": [unit_box(0.0), unit_box(0.5)] }));
        let of = |x1| json!({ "x1": x1, "y1": 20, "x2": 200, "y2": 40 });
        let b = row(json!({ "x_values_bbox": { "A": of(0), "other": null, "B": of(100) } }));
        let c = row(json!({ "x_values": ["A", "B"], "x_values_bbox": [of(0), of(100)] }));
        let d = row(json!({ "x_values": ["A", "B"], "x_values_bbox":
            { "x1": [0, 100], "y1": [20, 20], "x2": [200, 200], "y2": [40, 40] } }));
        let expected = vec![
            ("A", [0.0, 20.0, 200.0, 40.0]),
            ("B", [100.0, 20.0, 200.0, 40.0]),
        ];
        assert_eq!(
            pixels(&read(&a, "x_values", "x_bboxes", fractions).unwrap().boxes),
            expected
        );
        for row in [b, c, d] {
            let read = read(&row, "x_values", "x_values_bbox", Unit::Pixels).unwrap();
            assert_eq!(pixels(&read.boxes), expected);
        }
    }

    #[test]
    fn a_chart_label_called_x1_is_a_label() {
        let row = row(json!({ "b": { "x1": { "x1": 1, "y1": 2, "x2": 3, "y2": 4 } } }));
        let read = read(&row, "l", "b", Unit::Pixels).unwrap();
        assert_eq!(pixels(&read.boxes), vec![("x1", [1.0, 2.0, 3.0, 4.0])]);
    }

    #[test]
    fn no_boxes_in_every_spelling() {
        for fields in [
            json!({}),
            json!({ "b": null }),
            json!({ "b": [], "l": [] }),
            json!({ "b": {} }),
            json!({ "b": { "x1": "none" } }),
            json!({ "b": { "x1": [], "y1": [], "x2": [], "y2": [] }, "l": [] }),
        ] {
            let read = read(&row(fields.clone()), "l", "b", Unit::Pixels).unwrap();
            assert!(read.boxes.is_empty(), "{fields}");
        }
    }

    #[test]
    fn labels_that_come_again_and_labels_with_markup_are_counted() {
        let of = |x1| json!({ "x1": x1, "y1": 0, "x2": 9, "y2": 9 });
        let row = row(json!({
            "l": ["A", "R&amp;D", "A", "1 < 2 > 0", "a<br/>b", "AT&T; x"],
            "b": [of(0), of(1), of(2), of(3), of(4), of(5)],
        }));
        let read = read(&row, "l", "b", Unit::Pixels).unwrap();
        assert_eq!((read.duplicates, read.marked_up), (1, 2));
        assert_eq!(pixels(&read.boxes)[0], ("A", [2.0, 0.0, 9.0, 9.0]));
    }

    #[test]
    fn errors_name_file_line_field_expected_and_found() {
        let of = |x1| json!({ "x1": x1, "y1": 0, "x2": 9, "y2": 9 });
        let message = |fields, unit| read(&row(fields), "l", "b", unit).unwrap_err().to_string();
        let fractions = Unit::Fractions {
            width: 9,
            height: 9,
        };
        insta::assert_snapshot!(
            [
                message(json!({ "l": ["A"], "b": [of(json!("7"))] }), Unit::Pixels),
                message(json!({ "l": ["A"], "b": [{ "x1": 1 }] }), Unit::Pixels),
                message(
                    json!({ "l": ["A", "B"], "b": [of(json!(1))] }),
                    Unit::Pixels
                ),
                message(json!({ "l": [null], "b": [of(json!(1))] }), Unit::Pixels),
                message(json!({ "l": "A", "b": [of(json!(1))] }), Unit::Pixels),
                message(json!({ "b": 7 }), Unit::Pixels),
                message(
                    json!({ "b": { "x1": [1], "y1": [1], "x2": [1] } }),
                    Unit::Pixels
                ),
                message(
                    json!({ "b": { "x1": [1], "y1": [1], "x2": [], "y2": [1] } }),
                    Unit::Pixels
                ),
                message(json!({ "l": ["A"], "b": [of(json!(0))] }), fractions),
            ]
            .join("\n")
        );
    }
}
