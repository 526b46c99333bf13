//! ChartQA's bar charts with the boxes of ReFocus: `chartQA_{h,v}_bar_wbb.json` (dialect A),
//! `chartqa_vcot/{train,val,test}.jsonl` old (B) and new (C), and the parquet files of ReFocus and
//! VTool-R1.

use serde_json::{Map, Value};
use visual_tools::FigureBoxes;

use super::boxes::{self, Unit};
use super::error::SourceError;
use super::images::Finder;
use super::row::Row;
use super::set::Entry;
use crate::TestSet;

/// A row about a chart.
pub(super) struct Chart<'a> {
    row: &'a Row,
    /// VTool-R1's second version keeps question and answer here.
    extra: Option<Row>,
    /// What VTool-R1 keeps of a chart in one field.
    metadata: Option<Row>,
    /// Which bars it shows, where the row says so.
    pub bars: Option<TestSet>,
}

impl<'a> Chart<'a> {
    pub fn of(row: &'a Row) -> Result<Self, SourceError> {
        let extra = object(row, "extra_info")?;
        let metadata = match (object(row, "metadata")?, &extra) {
            (Some(metadata), _) => Some(metadata),
            (None, Some(extra)) => match object(extra, "tools_kwargs")? {
                Some(arguments) => object(&arguments, "metadata")?,
                None => None,
            },
            (None, None) => None,
        };
        let described = metadata.as_ref().unwrap_or(row);
        let bars = match row
            .first(&["source"])
            .or(described.first(&["source", "type"]))
        {
            None => None,
            Some(source) => match source.as_str() {
                Some("h_bar" | "chartqa_h_bar") => Some(TestSet::ChartQaHorizontal),
                Some("v_bar" | "chartqa_v_bar") => Some(TestSet::ChartQaVertical),
                _ => {
                    return Err(row.error(
                        "source",
                        "'h_bar' or 'v_bar', with or without 'chartqa_'",
                        Some(source),
                    ));
                }
            },
        };
        Ok(Chart {
            row,
            extra,
            metadata,
            bars,
        })
    }

    /// Its question.
    pub fn entry(&self, images: &Finder) -> Result<Entry, SourceError> {
        let row = self.row;
        let described = self.metadata.as_ref().unwrap_or(row);
        let id = row.id(&["id", "figure_id"])?;
        let holder = |fields: &[&str]| {
            self.extra
                .as_ref()
                .filter(|_| row.first(fields).is_none())
                .unwrap_or(row)
        };
        let question = ["query", "question"];
        let request = holder(&question).text(&question)?.to_owned();
        let gold = ["ground_truth", "answer"];
        // Both kinds of bars have one notation.
        let gold = holder(&gold).gold(TestSet::ChartQaVertical, &gold)?;

        let figure = figure(&id, row);
        let image = images.find(row, &[]);
        let entry = Entry::new(row, id, request, gold, image, |width, height, oddities| {
            let fractions = Unit::Fractions { width, height };
            let mut axis = |labels: &str, of_fractions: &str, of_pixels: &str| {
                let read = if described.fields.contains_key(of_fractions) {
                    boxes::read(described, labels, of_fractions, fractions)?
                } else {
                    boxes::read(described, labels, of_pixels, Unit::Pixels)?
                };
                oddities.count(&read);
                Ok(read.boxes)
            };
            Ok(FigureBoxes {
                x_values: axis("x_values", "x_bboxes", "x_values_bbox")?,
                y_values: axis("y_values", "y_bboxes", "y_values_bbox")?,
                ..FigureBoxes::default()
            })
        })?;
        Ok(entry.of_figure(figure))
    }
}

/// The chart that a question is about: two questions share one in the test set.
fn figure(id: &str, row: &Row) -> String {
    let named = row
        .first(&["image", "figure_path"])
        .and_then(Value::as_str)
        .and_then(|path| std::path::Path::new(path).file_stem()?.to_str());
    match named {
        Some(stem) => stem.to_owned(),
        None => id.strip_suffix("_2").unwrap_or(id).to_owned(),
    }
}

/// The object in `field`, which may also be written as a JSON string.
pub(super) fn object(row: &Row, field: &str) -> Result<Option<Row>, SourceError> {
    let expected = "an object, or one as a JSON string";
    match row.first(&[field]) {
        None => Ok(None),
        Some(Value::Object(fields)) => Ok(Some(row.nested(fields.clone()))),
        Some(value @ Value::String(text)) => {
            let fields: Map<String, Value> =
                serde_json::from_str(text).map_err(|_| row.error(field, expected, Some(value)))?;
            Ok(Some(row.nested(fields)))
        }
        Some(value) => Err(row.error(field, expected, Some(value))),
    }
}
