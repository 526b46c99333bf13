//! TableVQA-Bench (VWTQ, VWTQ-Syn, VTabFact): with the boxes of ReFocus (`tablevqa*_wbb.json`,
//! dialect A), or as the benchmark's own rows, which have no boxes.

use serde_json::Value;
use visual_tools::FigureBoxes;

use super::boxes::{self, Unit};
use super::error::SourceError;
use super::images::Finder;
use super::row::{Answer, Row};
use super::set::Entry;
use crate::TestSet;

/// The table question of a row.
pub(super) fn entry(row: &Row, set: TestSet, images: &Finder) -> Result<Entry, SourceError> {
    let id = row.id(&["qa_id", "figure_id"])?;
    let question = row.text(&["query", "question"])?;
    let answer = row.answer(&["gt", "answer"])?;
    let (request, answer) = if set == TestSet::VTabFact {
        (statement(question), truth(row, answer)?)
    } else {
        (question.to_owned(), denotation(answer))
    };
    let figure = figure(row).unwrap_or_else(|| id.clone());
    // The names under which the images of the public files are kept.
    let name = match set {
        TestSet::VTabFact => "vtabfact",
        TestSet::VwtqSyn => "vwtq_syn",
        _ => "vwtq",
    };
    let image = images.find(row, &[format!("images/{name}_{id}.png")]);
    let entry = Entry::new(
        row,
        id,
        request,
        answer,
        image,
        |width, height, oddities| {
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
        },
    )?;
    Ok(entry.of_figure(figure))
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

/// `true` or `false`, from 1 and 0, booleans, or the words.
fn truth(row: &Row, answer: Answer) -> Result<Answer, SourceError> {
    let text = match &answer {
        Answer::One(text) => text,
        Answer::List(items) if items.len() == 1 => &items[0],
        Answer::List(_) => "",
    };
    match text.trim().to_lowercase().as_str() {
        "1" | "true" => Ok(Answer::One("true".to_owned())),
        "0" | "false" => Ok(Answer::One("false".to_owned())),
        _ => Err(row.error(
            "gt` or `answer",
            "0, 1, true or false",
            row.first(&["gt", "answer"]),
        )),
    }
}

/// A list becomes the notation of WikiTableQuestions, items separated by `|` and escaped.
fn denotation(answer: Answer) -> Answer {
    match answer {
        Answer::List(items) => Answer::List(
            items
                .iter()
                .map(|item| {
                    item.replace('\\', "\\\\")
                        .replace('|', "\\p")
                        .replace('\n', "\\n")
                })
                .collect(),
        ),
        one => one,
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

    #[test]
    fn items_of_a_list_keep_their_bars() {
        let answer = Answer::List(vec!["a|b".into(), "c\\d\ne".into()]);
        let expected = Answer::List(vec!["a\\pb".into(), "c\\\\d\\ne".into()]);
        assert_eq!(denotation(answer), expected);
    }
}
