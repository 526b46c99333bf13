//! TableVQA-Bench (VWTQ, VWTQ-Syn, VTabFact): with the boxes of ReFocus (`tablevqa*_wbb.json`,
//! dialect A), or as the benchmark's own rows, which have no boxes.

use serde_json::Value;
use visual_tools::FigureBoxes;

use super::boxes::{self, Unit};
use super::charts::object;
use super::error::SourceError;
use super::images::Finder;
use super::row::Row;
use super::set::Entry;
use crate::TestSet;

/// The table question of a row.
pub(super) fn entry(row: &Row, set: TestSet, images: &Finder) -> Result<Entry, SourceError> {
    let id = row.id(&["qa_id", "figure_id"])?;
    let question = row.text(&["query", "question"])?;
    let gold = row.gold(set, &["gt", "answer"])?;
    let request = match set {
        TestSet::VTabFact => statement(question),
        _ => question.to_owned(),
    };
    let figure = figure(row).unwrap_or_else(|| id.clone());
    // The names under which the images of the public files are kept.
    let name = match set {
        TestSet::VTabFact => "vtabfact",
        TestSet::VwtqSyn => "vwtq_syn",
        _ => "vwtq",
    };
    let image = images.find(row, &[format!("images/{name}_{id}.png")]);
    let entry = Entry::new(row, id, request, gold, image, |width, height, oddities| {
        let unit = Unit::Fractions { width, height };
        let mut axis = |labels: &str, field: &str| {
            let read = boxes::read(row, labels, field, unit)?;
            oddities.count(&read);
            Ok(read.boxes)
        };
        Ok(FigureBoxes {
            columns: axis("column_headers", "columns_bbox")?,
            rows: axis("row_starters", "rows_bbox")?,
            ..FigureBoxes::default()
        })
    })?;
    Ok(entry.of_figure(figure))
}

/// The table question of a row of VTool-R1's training file: boxes in pixels, by their labels, in the
/// field `metadata`, those of the rows under `row_starters`.
pub(super) fn training_entry(
    row: &Row,
    set: TestSet,
    images: &Finder,
) -> Result<Entry, SourceError> {
    let id = row.id(&["figure_id", "qa_id"])?;
    let question = row.text(&["query", "question"])?;
    let gold = row.gold(set, &["answer", "gt"])?;
    let request = match set {
        TestSet::VTabFact => statement(question),
        _ => question.to_owned(),
    };
    let metadata = object(row, "metadata")?
        .ok_or_else(|| row.error("metadata", "an object, or one as a JSON string", None))?;
    let image = images.find(row, &[]);
    Entry::new(row, id, request, gold, image, |_, _, oddities| {
        let mut axis = |field: &str| {
            let read = boxes::read(&metadata, field, field, Unit::Pixels)?;
            oddities.count(&read);
            Ok(read.boxes)
        };
        Ok(FigureBoxes {
            columns: axis("columns_bbox")?,
            rows: axis("row_starters")?,
            ..FigureBoxes::default()
        })
    })
}

/// A statement as a request. TableVQA-Bench counts an answer only by the word "true" or "false"
/// in it, so the request asks for one of them where its text does not.
fn statement(text: &str) -> String {
    let lower = text.to_lowercase();
    if lower.contains("true") && lower.contains("false") {
        text.to_owned()
    } else {
        format!("Is this statement about the table true or false? Answer True or False.\n{text}")
    }
}

/// The table that a question is about, by its source or its content: many questions share one,
/// each with an image of its own.
fn figure(row: &Row) -> Option<String> {
    if let Some(Value::String(path)) = row.first(&["source_path"]) {
        return Some(path.clone());
    }
    let html = row.first(&["text_html_table"])?.as_str()?;
    let hash = blake3::hash(html.as_bytes()).to_hex();
    Some(format!("table-{}", &hash[..16]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_asked_for_its_truth_once() {
        assert_eq!(
            statement("there be 10 athletes"),
            "Is this statement about the table true or false? Answer True or False.\nthere be 10 athletes"
        );
        let asked = "True or False: there be 10 athletes";
        assert_eq!(statement(asked), asked);
    }
}
