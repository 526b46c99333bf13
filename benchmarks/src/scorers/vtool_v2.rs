//! VTool-R1 v2: the judges of its training and of its evaluation.
//!
//! Source: VTool-R1/training-v2, `recipe/vtool/reward_utils.py` and `eval/scoring.py`. Training:
//! prediction and gold without the question, the ReFocus examples, and a reply that starts with 1
//! is right. Evaluation: question, prediction and gold, three examples, and a 0 or 1 that
//! [`crate::judge`] reads (the source takes the first that stands alone). Wording ours, the rest the source's. Where the source turns a failure (a request,
//! an empty reply) into 0, the case is not judged here.

use super::judged::{JudgeSettings, fill};
use super::python::strip;
use super::refocus::{CHART_HEAD, EXAMPLES};
use crate::Verdict;

/// Settings of training. The model is the source's last resort; it takes what its server lists.
pub const SETTINGS: JudgeSettings = JudgeSettings {
    model: "default",
    temperature: 0.0,
    max_tokens: Some(10),
    seed: None,
    json: false,
    attempts: 1,
};

/// Settings of evaluation.
pub const EVAL_SETTINGS: JudgeSettings = JudgeSettings {
    model: "gpt-4o",
    temperature: 0.0,
    max_tokens: Some(2048),
    seed: None,
    json: false,
    attempts: 5,
};

const EVAL_HEAD: &str = "\
Rate a prediction for a question against the correct answer.
Ignore differences of format. Return 1 if the prediction is correct in meaning, otherwise 0. Return nothing but 0 or 1.
";

/// The prompt of training; `prediction` is what [`super::answer::vtool_v2`] extracts.
pub fn prompt(gold: &str, prediction: &str) -> String {
    let mut template = CHART_HEAD.to_owned();
    for (_, prediction, gold, score) in EXAMPLES {
        template += &format!(
            "\n# Example\n# Prediction: {prediction}\n# Correct Answer: {gold}\n# Your Response: {score}\n"
        );
    }
    template += "\n# Prediction: <answer>\n# Correct Answer: <gt>\n# Your Response:";
    fill(&template, &[("<gt>", gold), ("<answer>", prediction)])
}

/// The verdict of training: right if the stripped reply starts with 1. `None` for an empty reply.
pub fn verdict(reply: &str) -> Option<Verdict> {
    match strip(reply).chars().next()? {
        '1' => Some(Verdict::Right),
        _ => Some(Verdict::Wrong),
    }
}

/// The prompt of evaluation; `prediction` is what [`super::answer::vtool_v2_eval`] extracts.
pub fn eval_prompt(question: &str, gold: &str, prediction: &str) -> String {
    let mut text = EVAL_HEAD.to_owned();
    let examples = [
        ("What is the difference?", "69%.", "69"),
        ("How large is the increase?", "3%.", "0.03"),
        ("What is the ratio?", "1.541", "1.54"),
    ];
    for (question, prediction, gold) in examples {
        text += &format!(
            "\n# Example\n# Question: {question}\n# Prediction: {prediction}\n# Correct Answer: {gold}\n# Your Response: 1\n"
        );
    }
    text + &format!(
        "\n# Question: {question}\n# Prediction: {prediction}\n# Correct Answer: {gold}\n# Your Response:"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn training_reads_the_first_character() {
        assert!(
            prompt("G", "P").ends_with("# Prediction: P\n# Correct Answer: G\n# Your Response:")
        );
        assert!(!prompt("G", "P").contains("# Question"));
        assert_eq!(verdict(" 1\n"), Some(Verdict::Right));
        assert_eq!(verdict("10"), Some(Verdict::Right));
        assert_eq!(verdict("The answer is 1"), Some(Verdict::Wrong));
        assert_eq!(verdict(" "), None);
    }

    #[test]
    fn the_prompt_of_evaluation_carries_its_inputs() {
        assert!(
            eval_prompt("Q?", "G", "P")
                .contains("# Question: Q?\n# Prediction: P\n# Correct Answer: G\n")
        );
    }
}
