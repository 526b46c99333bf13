//! The ReFocus judge: a model that answers 1 or 0.
//!
//! Source: zeyofu/ReFocus_Code, `chart_data.py`. Charts: question, prediction and gold, with four
//! examples. Tables and CharXiv: prediction and gold alone. The prediction is first cut out by
//! [`super::answer::refocus`]. Rules, inputs, order and examples' verdicts are the source's, the
//! wording is ours. A reply that is no integer is asked for again there, and after ten attempts
//! becomes the text `Failed`; here it is not judged.

use super::judged::{JudgeSettings, fill};

/// The source's settings.
pub const SETTINGS: JudgeSettings = JudgeSettings {
    model: "gpt-4o",
    temperature: 0.0,
    max_tokens: None,
    seed: None,
    json: false,
    attempts: 10,
};

/// The examples that VTool-R1 v2 takes over without their questions.
pub(super) const EXAMPLES: [(&str, &str, &str, u8); 4] = [
    (
        "How tall is the tower?",
        "ANSWER: The tower has stood for 200 years and measures 180 metres in all. TERMINATE",
        "80 metres",
        0,
    ),
    ("What is the difference?", "ANSWER: 69%. TERMINATE", "69", 1),
    (
        "How large is the increase?",
        "ANSWER: 3%. TERMINATE",
        "0.03",
        1,
    ),
    ("What is the ratio?", "ANSWER: 1.541. TERMINATE", "1.54", 1),
];

pub(super) const CHART_HEAD: &str = "\
Rate a prediction for a question, given the correct answer. Disregard the format and rate the \
content alone. If the prediction is correct, that is, the same as the correct answer, return 1, \
otherwise return 0. Return nothing but 0 or 1.
";

const TABLE: &str = "\
Rate a prediction, given the correct answer.
Prediction: <prediction>
Answer: <gold>
Return 1 if you hold the prediction to be correct, otherwise 0. Return nothing but 0 or 1.";

/// The prompt for a chart. `prediction` is the extracted answer.
pub fn chart_prompt(question: &str, gold: &str, prediction: &str) -> String {
    let mut text = CHART_HEAD.to_owned();
    for (question, prediction, gold, score) in EXAMPLES {
        text += &format!(
            "\n# Example\n# Question: {question}\n# Prediction: {prediction}\n# Correct Answer: {gold}\n# Your Response: {score}\n"
        );
    }
    text + &format!(
        "\n# Question: {question}\n# Prediction: {prediction}\n# Correct Answer: {gold}\n# Your Response:"
    )
}

/// The prompt for a table and, in ReFocus, for CharXiv: without the question.
pub fn table_prompt(gold: &str, prediction: &str) -> String {
    fill(TABLE, &[("<prediction>", prediction), ("<gold>", gold)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_carry_their_inputs() {
        let chart = chart_prompt("Q?", "G", "P");
        assert!(
            chart.ends_with(
                "# Question: Q?\n# Prediction: P\n# Correct Answer: G\n# Your Response:"
            )
        );
        assert_eq!(chart.matches("# Example").count(), 4);
        let table = table_prompt("G", "P");
        assert!(table.contains("Prediction: P\nAnswer: G\n"));
    }
}
