//! Parquet files as the hub has them: every field optional, a chart's boxes a struct of lists.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

/// The values of one leaf column, with their definition and repetition levels.
pub struct Leaf {
    values: Values,
    definition: Vec<i16>,
    /// Empty outside of lists.
    repetition: Vec<i16>,
}

enum Values {
    Bytes(Vec<ByteArray>),
    Numbers(Vec<i64>),
}

impl Leaf {
    /// One value per row, behind `depth` optional fields.
    pub fn of<V: AsRef<[u8]>>(depth: i16, values: &[V]) -> Self {
        Leaf {
            values: bytes(values),
            definition: vec![depth; values.len()],
            repetition: Vec::new(),
        }
    }

    /// A list of texts a row, the list behind `depth` optional fields.
    pub fn texts(depth: i16, rows: &[&[&str]]) -> Self {
        let (definition, repetition) = levels(depth, rows.iter().map(|row| row.len()));
        Leaf {
            values: bytes(&rows.concat()),
            definition,
            repetition,
        }
    }

    /// A list of numbers a row.
    pub fn numbers(depth: i16, rows: &[&[i64]]) -> Self {
        let (definition, repetition) = levels(depth, rows.iter().map(|row| row.len()));
        Leaf {
            values: Values::Numbers(rows.concat()),
            definition,
            repetition,
        }
    }

    /// A list of one struct a row, its field behind the list and `depth` optional fields in all.
    pub fn in_list_of_one<V: AsRef<[u8]>>(depth: i16, values: &[V]) -> Self {
        Leaf {
            repetition: vec![0; values.len()],
            ..Self::of(depth + 1, values)
        }
    }
}

fn bytes<V: AsRef<[u8]>>(values: &[V]) -> Values {
    let array = |value: &V| ByteArray::from(value.as_ref().to_vec());
    Values::Bytes(values.iter().map(array).collect())
}

/// An empty list is defined up to the list, an element two levels more.
fn levels(depth: i16, lengths: impl Iterator<Item = usize>) -> (Vec<i16>, Vec<i16>) {
    let (mut definition, mut repetition) = (Vec::new(), Vec::new());
    for length in lengths {
        if length == 0 {
            definition.push(depth);
            repetition.push(0);
        }
        for index in 0..length {
            definition.push(depth + 2);
            repetition.push(i16::from(index > 0));
        }
    }
    (definition, repetition)
}

/// Writes the leaves of a schema, in its order.
pub fn write(path: &Path, schema: &str, leaves: &[Leaf]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::new());
    let mut writer = SerializedFileWriter::new(file, schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for leaf in leaves {
        let mut column = group.next_column().unwrap().unwrap();
        let definition = Some(leaf.definition.as_slice());
        let repetition = (!leaf.repetition.is_empty()).then_some(leaf.repetition.as_slice());
        match (column.untyped(), &leaf.values) {
            (ColumnWriter::ByteArrayColumnWriter(typed), Values::Bytes(values)) => {
                typed.write_batch(values, definition, repetition).unwrap();
            }
            (ColumnWriter::Int64ColumnWriter(typed), Values::Numbers(values)) => {
                typed.write_batch(values, definition, repetition).unwrap();
            }
            _ => panic!("a leaf of another kind than its column"),
        }
        column.close().unwrap();
    }
    assert!(group.next_column().unwrap().is_none(), "a leaf is missing");
    group.close().unwrap();
    writer.close().unwrap();
}

/// The bytes of a PNG of one colour.
pub fn png(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(width, height, image::Rgb(colour))
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    png.into_inner()
}

const CHARTS: &str = "message schema {
    optional binary id (STRING);
    optional binary question (STRING);
    optional binary answer (STRING);
    optional group image { optional binary bytes; optional binary path (STRING); }
    optional binary source (STRING);
    optional group x_values (LIST) { repeated group list { optional binary element (STRING); } }
    optional group y_values (LIST) { repeated group list { optional binary element (STRING); } }
    optional group x_values_bbox {
        optional group x1 (LIST) { repeated group list { optional int64 element; } }
        optional group y1 (LIST) { repeated group list { optional int64 element; } }
        optional group x2 (LIST) { repeated group list { optional int64 element; } }
        optional group y2 (LIST) { repeated group list { optional int64 element; } }
    }
    optional group y_values_bbox {
        optional group x1 (LIST) { repeated group list { optional int64 element; } }
        optional group y1 (LIST) { repeated group list { optional int64 element; } }
        optional group x2 (LIST) { repeated group list { optional int64 element; } }
        optional group y2 (LIST) { repeated group list { optional int64 element; } }
    }
}";

/// A shard of `ReFocus/ReFocus_Data`: one chart of 40 x 20 with vertical bars A (its box inverted)
/// and B, one of 30 x 30 with a horizontal bar C whose box sticks out.
pub fn write_charts(path: &Path) {
    let pngs = [png(40, 20, [1, 2, 3]), png(30, 30, [4, 5, 6])];
    let numbers = |first: &[i64], second: &[i64]| Leaf::numbers(2, &[first, second]);
    write(
        path,
        CHARTS,
        &[
            Leaf::of(1, &["100", "200_2"]),
            Leaf::of(1, &["How high is A?", "How long is C?"]),
            Leaf::of(1, &["7", "8"]),
            Leaf::of(2, &pngs),
            Leaf::of(2, &["100.png", "200.png"]),
            Leaf::of(1, &["chartqa_v_bar", "chartqa_h_bar"]),
            Leaf::texts(1, &[&["A", "B"], &[]]),
            Leaf::texts(1, &[&[], &["C"]]),
            numbers(&[19, 20], &[]),
            numbers(&[0, 0], &[]),
            numbers(&[5, 39], &[]),
            numbers(&[20, 20], &[]),
            numbers(&[], &[5]),
            numbers(&[], &[10]),
            numbers(&[], &[35]),
            numbers(&[], &[20]),
        ],
    );
}

const VTOOL: &str = "message schema {
    optional binary id (STRING);
    optional binary source (STRING);
    optional group prompt (LIST) { repeated group list { optional group element {
        optional binary content (STRING); optional binary role (STRING);
    } } }
    optional group images (LIST) { repeated group list { optional group element {
        optional binary bytes; optional binary path (STRING);
    } } }
    optional group reward_model {
        optional binary ground_truth (STRING); optional binary style (STRING);
    }
    optional group extra_info {
        optional binary answer (STRING);
        optional binary question (STRING);
        optional group tools_kwargs {
            optional binary metadata (STRING); optional binary name (STRING);
        }
    }
}";

/// A file of `VTOOL/Refocus_Chart` with one chart of 40 x 20 and a vertical bar Z.
pub fn write_vtool(path: &Path) {
    let metadata = serde_json::json!({
        "source": "chartqa_v_bar", "x_values": ["Z"], "y_values": [],
        "x_values_bbox": { "Z": { "x1": 1, "y1": 2, "x2": 30, "y2": 18 } }, "y_values_bbox": {},
    });
    write(
        path,
        VTOOL,
        &[
            Leaf::of(1, &["300"]),
            Leaf::of(1, &["chartqa_v_bar"]),
            Leaf::in_list_of_one(3, &["<image> USER REQUEST: <image> Why?"]),
            Leaf::in_list_of_one(3, &["user"]),
            Leaf::in_list_of_one(3, &[png(40, 20, [1, 2, 3])]),
            Leaf::in_list_of_one(3, &["300.png"]),
            Leaf::of(2, &["so"]),
            Leaf::of(2, &["rule"]),
            Leaf::of(2, &["so"]),
            Leaf::of(2, &["Why?"]),
            Leaf::of(3, &[metadata.to_string()]),
            Leaf::of(3, &["refocus"]),
        ],
    );
}

const TABLES: &str = "message schema {
    optional binary qa_id (STRING);
    optional binary question (STRING);
    optional binary gt (STRING);
    optional group image { optional binary bytes; optional binary path (STRING); }
    optional binary text_html_table (STRING);
}";

/// A shard of `terryoo/TableVQA-Bench`: one table of 8 x 4 with two questions.
pub fn write_tables(path: &Path, gold: [&str; 2]) {
    let table = png(8, 4, [9, 9, 9]);
    write(
        path,
        TABLES,
        &[
            Leaf::of(1, &["nu-1", "nu-2"]),
            Leaf::of(1, &["which?", "how many?"]),
            Leaf::of(1, &gold),
            Leaf::of(2, &[&table, &table]),
            Leaf::of(2, &["1.png", "2.png"]),
            Leaf::of(1, &["<table>1</table>", "<table>1</table>"]),
        ],
    );
}
