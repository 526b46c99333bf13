//! CharXiv's reasoning questions and the instructions that its authors append to them.
//!
//! Source: princeton-nlp/CharXiv (code under Apache-2.0), `REASONING_RESP_INST` of
//! `src/constants.py` and `get_number_instruction` of `src/reasoning_utils.py`; the wording below
//! is theirs, typing error included, because the prompt is part of the test.

use serde_json::Value;

use super::error::SourceError;
use super::images::Finder;
use super::row::Row;
use super::set::Entry;
use crate::TestSet;
use visual_tools::FigureBoxes;

const BULLET: &str = "\n    * ";
const END: &str = "\n    ";
const NUMBER: &str = "Your final answer must be ";
const RULES: [&[&str]; 3] = [
    &[
        "Your final answer must be grounded to some text that is explicitly written and relevant to the question in the chart.",
        "If you need to answer multiple terms, separate them with commas.",
        "Unless specified in the question (such as answering with a letter), you are required to answer the full names of subplots and/or labels by default.",
    ],
    &[
        "If there are options in the question, your final answer must conform to one of the options.",
        "If there are additional instructions in the question, follow them accordingly.",
        "If there are neither options nor additional instructions, you are allowed to respond with a short phrase only.",
    ],
    &[
        "Your final answer must be grounded to a number that is exlicitly written and relevant to the question in the chart, even if it's an approximate value.",
        "You are allowed to extract numbers within some text when needed.",
    ],
];

/// The official response prompt of a question of `category` 1 to 4. In category 4 the gold answer
/// decides how many decimals are asked for. `None` for any other category.
pub fn response_prompt(question: &str, category: u8, gold: &str) -> Option<String> {
    Some(format!("{question}{}{END}", instructions(category, gold)?))
}

fn instructions(category: u8, gold: &str) -> Option<String> {
    match category {
        1..=3 => Some(
            RULES[usize::from(category) - 1]
                .iter()
                .flat_map(|rule| [BULLET, rule])
                .collect(),
        ),
        4 => {
            let number = match gold.split('.').nth(1) {
                None => "an exact integer.".to_owned(),
                Some(decimals) => {
                    format!("a number with {} decimal places.", decimals.chars().count())
                }
            };
            Some(format!("{BULLET}{NUMBER}{number}"))
        }
        _ => None,
    }
}

/// The bare question of a response prompt: the judge is shown it without the instructions. A text
/// that is no response prompt is returned whole.
pub fn bare_question(prompt: &str) -> &str {
    let Some(asked) = prompt.strip_suffix(END) else {
        return prompt;
    };
    for category in 1..=3 {
        let bare = instructions(category, "").and_then(|rules| asked.strip_suffix(&rules));
        if let Some(bare) = bare {
            return bare;
        }
    }
    asked
        .rfind(&format!("{BULLET}{NUMBER}"))
        .map_or(prompt, |end| &asked[..end])
}

/// A record of `reasoning_val.json`, or of ReFocus' `charxiv-subfigures.json`, which has the
/// prompt ready and no category.
pub(super) fn entry(row: &Row, images: &Finder) -> Result<Entry, SourceError> {
    let id = row.id(&["figure_id"])?;
    let gold = row.gold(TestSet::CharXiv, &["answer"])?;
    let category = row.first(&["inst_category"]);
    let (request, category) = match category {
        None => (row.text(&["prompt"])?.to_owned(), None),
        Some(value) => {
            let query = row.text(&["query"])?;
            value
                .as_u64()
                .and_then(|category| u8::try_from(category).ok())
                .and_then(|category| {
                    Some((
                        response_prompt(query, category, &gold.text)?,
                        Some(category),
                    ))
                })
                .ok_or_else(|| row.error("inst_category", "1, 2, 3 or 4", Some(value)))?
        }
    };
    let figure = row
        .first(&["figure_id"])
        .map_or_else(|| id.clone(), Value::to_string);
    let image = images.find(
        row,
        &[format!("images/{figure}.jpg"), format!("{figure}.jpg")],
    );
    Entry::new(row, id, request, gold, image, |_, _, _| {
        Ok(FigureBoxes::default())
    })
    .map(|entry| entry.in_category(category).of_figure(figure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_gives_its_question_back() {
        for question in [
            "How many?",
            "Two\n    * lines {x}",
            "",
            "Your final answer must be",
        ] {
            for (category, gold) in [(1, "x"), (2, "x"), (3, "7"), (4, "12"), (4, "0.125")] {
                let prompt = response_prompt(question, category, gold).unwrap();
                assert_eq!(bare_question(&prompt), question, "{category}");
            }
        }
        assert_eq!(bare_question("Is it so?\n    "), "Is it so?\n    ");
        assert_eq!(response_prompt("How many?", 5, "1"), None);
        assert_eq!(
            response_prompt("How many?", 4, "0.125").unwrap(),
            "How many?\n    * Your final answer must be a number with 3 decimal places.\n    "
        );
    }
}
