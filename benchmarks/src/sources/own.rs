//! Questions of one's own: [`OWN_QUESTIONS`] in the data folder, one JSON object a line, as `iapo world`
//! writes it.
//!
//! | field | what |
//! |---|---|
//! | `id` | the question's name |
//! | `set` | the test set whose official rule judges the answer |
//! | `image` | the picture, relative to the folder |
//! | `request` | what is asked, word for word |
//! | `gold` | the answer, as that set writes it: a string, a number, or a list |
//! | `boxes` | regions in pixels for the tools: `columns`, `rows`, `x_values`, `y_values`, each an object from a label to `{"x1", "y1", "x2", "y2"}`; none where it is not given |
//! | `tools` | the tools' text, where it is not the one that the model's way of being asked has |
//! | `figure` | the figure's name where several questions share one: they are not independent |
//!
//! What else `iapo world` writes is known and not read; any other field is refused.

use visual_tools::FigureBoxes;

use super::boxes::{self, Unit};
use super::charts::object;
use super::error::SourceError;
use super::images::Finder;
use super::row::Row;
use super::set::Entry;
use crate::TestSet;

/// The file's name.
pub const OWN_QUESTIONS: &str = "questions.jsonl";

const FIELDS: [&str; 8] = [
    "id", "set", "image", "request", "gold", "boxes", "tools", "figure",
];
/// What the micro world knows of a question beyond that.
const OF_THE_WORLD: [&str; 5] = [
    "world_seed",
    "kind",
    "entries_named",
    "right_call",
    "wrong_call",
];
const AXES: [&str; 4] = ["columns", "rows", "x_values", "y_values"];

/// The set whose rule judges a row's answer.
pub(super) fn scored_as(row: &Row) -> Result<TestSet, SourceError> {
    let found = row.first(&["set"]);
    let named = found.and_then(|name| name.as_str()?.parse().ok());
    named.ok_or_else(|| {
        row.error(
            "set",
            "one of charxiv, chartqa-h-bar, chartqa-v-bar, vwtq, vwtq-syn, vtabfact",
            found,
        )
    })
}

/// The question of a row.
pub(super) fn entry(row: &Row, images: &Finder) -> Result<Entry, SourceError> {
    let known = |field: &str| FIELDS.contains(&field) || OF_THE_WORLD.contains(&field);
    if let Some(field) = row.fields.keys().find(|field| !known(field)) {
        return Err(row.error(
            field,
            "no such field: id, set, image, request, gold, boxes, tools and figure are read",
            row.fields.get(field),
        ));
    }
    let set = scored_as(row)?;
    let id = row.id(&["id"])?;
    let request = row.text(&["request"])?.to_owned();
    let gold = row.gold(set, &["gold"])?;
    let optional = |field: &str| match row.first(&[field]) {
        None => Ok(None),
        Some(_) => row.text(&[field]).map(|text| Some(text.to_owned())),
    };
    let tools = optional("tools")?;
    let figure = optional("figure")?.unwrap_or_else(|| id.clone());
    row.text(&["image"])?;
    let given = object(row, "boxes")?;
    let image = images.find(row, &[]);
    let entry = Entry::new(row, id, request, gold, image, |_, _, oddities| {
        let Some(given) = &given else {
            return Ok(FigureBoxes::default());
        };
        let mut axes = given.fields.keys();
        if let Some(axis) = axes.find(|axis| !AXES.contains(&axis.as_str())) {
            let expected = "no such axis: columns, rows, x_values and y_values are read";
            return Err(row.error(format!("boxes.{axis}"), expected, given.fields.get(axis)));
        }
        let mut axis = |name: &str| {
            let read = boxes::read(given, name, name, Unit::Pixels)?;
            oddities.count(&read);
            Ok(read.boxes)
        };
        Ok(FigureBoxes {
            columns: axis("columns")?,
            rows: axis("rows")?,
            x_values: axis("x_values")?,
            y_values: axis("y_values")?,
        })
    })?;
    Ok(entry.of_figure(figure).with_tools(tools))
}
