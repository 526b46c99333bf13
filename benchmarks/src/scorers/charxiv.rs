//! CharXiv's reasoning questions: the prompt of the question and the prompt of the grader, whose
//! reply [`crate::judge`] reads.
//!
//! Source: princeton-nlp/CharXiv, `reasoning_utils.py` and `constants.py`. The categories, rules,
//! inputs, examples' verdicts, settings and JSON keys are the source's; the wording is ours.
//! Deviations: the grader is asked for the key that the parser needs (the source asks for
//! `extract_answer` and reads `extracted_answer`); a failed grading is not judged (the source
//! writes −1).

use super::judged::{JudgeSettings, fill};

/// The source's settings; its limit on tokens doubles up to 1,024 when a reply is cut off.
pub const SETTINGS: JudgeSettings = JudgeSettings {
    model: "gpt-4o-2024-05-13",
    temperature: 0.0,
    max_tokens: Some(256),
    seed: Some(42),
    json: true,
    attempts: 10,
};

const GRADING_HEAD: &str = "\
Below are a question about a figure, its ground truth answer and the response of a model. \
Extract the final answer from the response, compare it with the ground truth, and give a score \
of 0 or 1. Do not explain. An empty response has an empty extracted answer and a score of 0.

Reply with one JSON object with the keys \"extracted_answer\" and \"score\". Follow these rules:
";

const TEXT_IN_CHART: &str = "
### Rules ###
* Score 1 only if the final answer and the ground truth name the same term. Another notation or \
form is fine (β and beta; $x_{i,j}$ and x_i,j), and so is another order where several terms are asked for.
* Score 0 if any term differs (for example F1* and F1, or B-12 and B=12).

### Example 1 ###
* Question: Which model's curve crosses the dashed line twice?
* Ground Truth: R20481
* Response: Only one curve does; it belongs to R20418.

{\"extracted_answer\": \"R20418\", \"score\": 0}

### Example 2 ###
* Question: In which subplot do all points lie under 10?
* Ground Truth: (c)
* Response: All points lie under 10 in subplot c.

{\"extracted_answer\": \"c\", \"score\": 1}
";

const TEXT_IN_GENERAL: &str = "
### Rules ###
* If the question lists options to choose from: score 1 if the final answer is exactly the ground \
truth, else 0.
* If it lists none: score 1 if the final answer means the same as the ground truth (\"rising, then \
falling\" and \"going up, then down\"), and 0 if it means something else (\"rising, then falling\" \
and \"staying the same\").

### Example 1 ###
* Question: How does the green line move from x=2 to x=6?
* Ground Truth: falling, then rising
* Response: The green line is falling.

{\"extracted_answer\": \"falling\", \"score\": 0}

### Example 2 ###
* Question: In which of the ranges [0, 5], [5, 10] and [10, 15] is the green line lowest?
* Ground Truth: [5, 10]
* Response: It is lowest in [5, 10].

{\"extracted_answer\": \"[5, 10]\", \"score\": 1}
";

const NUMBER: &str = "
### Rules ###
* Score 1 only if the two numbers are exactly equal in value. Another notation is fine (0.01 and \
10^-2; 1500 and 1.5e3). There is no tolerance.
* Score 0 if the values differ.

### Example 1 ###
* Question: What does the green line show at x=3?
* Ground Truth: 0.02
* Response: At x=3 the green line shows 0.021.

{\"extracted_answer\": \"0.021\", \"score\": 0}

### Example 2 ###
* Question: What does the blue line show at x=9?
* Ground Truth: 2500
* Response: At x=9 the blue line shows 2.5e3.

{\"extracted_answer\": \"2.5e3\", \"score\": 1}
";

const GRADING_TAIL: &str = "
### Your Turn ###
* Question: <|question|>
* Ground Truth: <|ground_truth|>
* Response: <|response|>
";

/// The instruction on decimals of a category 4 question. It depends on the gold answer: an
/// integer, or as many decimals as stand between its first point and the next.
pub fn number_instruction(gold: &str) -> String {
    match gold.split('.').nth(1) {
        None => "* The final answer has to be an integer.".to_owned(),
        Some(decimals) => format!(
            "* The final answer has to be a number with exactly {} decimal places.",
            decimals.chars().count()
        ),
    }
}

/// The question with the answering rules of its category (`inst_category`): 1 text in the chart,
/// 2 text in general, 3 number in the chart, 4 number in general. `None` for another category.
pub fn question_prompt(category: u8, question: &str, gold: &str) -> Option<String> {
    let rules = match category {
        1 => "* The final answer has to be text that is written in the chart and bears on the question.\n\
              * Separate several terms by commas.\n\
              * Give labels and names of subplots in full, unless the question asks otherwise (for example for a letter)."
            .to_owned(),
        2 => "* Where the question offers options, the final answer has to be one of them.\n\
              * Follow any further instruction in the question.\n\
              * Otherwise answer with a short phrase."
            .to_owned(),
        3 => "* The final answer has to be a number that is written in the chart and bears on the question, even an approximate one.\n\
              * The number may be taken out of a longer text."
            .to_owned(),
        4 => number_instruction(gold),
        _ => return None,
    };
    Some(format!("{question}\n{rules}\n"))
}

/// The grader's prompt for a category from 1 to 4; `None` for another. `question` is the bare
/// question, without the answering rules; `response` the model's whole response.
pub fn grading_prompt(category: u8, question: &str, gold: &str, response: &str) -> Option<String> {
    let rules = match category {
        1 => TEXT_IN_CHART,
        2 => TEXT_IN_GENERAL,
        3 | 4 => NUMBER,
        _ => return None,
    };
    let template = [GRADING_HEAD, rules, GRADING_TAIL].concat();
    let values = [
        ("<|question|>", question),
        ("<|ground_truth|>", gold),
        ("<|response|>", response),
    ];
    Some(fill(&template, &values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_follow_the_gold_answer() {
        assert!(number_instruction("12").contains("integer"));
        assert!(number_instruction("0.25").contains("exactly 2 decimal"));
        assert!(number_instruction("3.").contains("exactly 0 decimal"));
        assert!(number_instruction("1.2.345").contains("exactly 1 decimal"));
    }

    #[test]
    fn every_category_has_its_prompts() {
        for category in 1..=4 {
            let question = question_prompt(category, "how {much}?", "1.5").expect("a category");
            assert!(question.starts_with("how {much}?\n* "));
            let grading = grading_prompt(category, "how {much}?", "1.5", "2").expect("a category");
            assert!(!grading.contains("<|"), "a placeholder is left: {grading}");
            assert!(
                grading.ends_with("* Question: how {much}?\n* Ground Truth: 1.5\n* Response: 2\n")
            );
        }
        assert_eq!(question_prompt(0, "", ""), None);
        assert_eq!(grading_prompt(5, "", "", ""), None);
        assert_eq!(
            grading_prompt(3, "q", "g", "r"),
            grading_prompt(4, "q", "g", "r")
        );
    }
}
