//! Whose question a judge is asked, and how its words are read: a `match` over the official
//! judges, whose prompts and rules are in [`crate::scorers`].

use chat_endpoint::without_thinking;

use super::{Case, reply};
use crate::scorers::{JudgeSettings, answer, charxiv, refocus, vtool_v1, vtool_v2};
use crate::{TestSet, Verdict};

/// An official judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rubric {
    /// CharXiv's grading by category.
    CharXiv,
    /// ReFocus on charts: with the question.
    RefocusChart,
    /// ReFocus on tables and on CharXiv: prediction and gold alone.
    RefocusTable,
    /// VTool-R1, first version, as in training.
    VtoolV1,
    /// VTool-R1, second version, as in training.
    VtoolV2,
    /// VTool-R1, second version, as in evaluation.
    VtoolV2Eval,
}

impl Rubric {
    /// The judge of a set's authors: CharXiv's own grading, ReFocus' judges for the sets that
    /// ReFocus made or took over; any other set is judged as a table's.
    pub fn of_set(set: TestSet) -> Self {
        match set {
            TestSet::CharXiv => Rubric::CharXiv,
            TestSet::ChartQaHorizontal | TestSet::ChartQaVertical => Rubric::RefocusChart,
            _ => Rubric::RefocusTable,
        }
    }

    /// The prediction that this judge is shown of a completion; `None` where its source counts
    /// the completion as wrong without asking.
    pub fn prediction(self, completion: &str) -> Option<String> {
        match self {
            Rubric::CharXiv => Some(completion.to_owned()),
            Rubric::RefocusChart | Rubric::RefocusTable => Some(answer::refocus(completion)),
            Rubric::VtoolV1 => answer::vtool_v1(completion).map(str::to_owned),
            Rubric::VtoolV2 => Some(answer::vtool_v2(completion)),
            Rubric::VtoolV2Eval => Some(answer::vtool_v2_eval(completion)),
        }
    }

    /// How the source asks its model.
    pub fn settings(self) -> JudgeSettings {
        match self {
            Rubric::CharXiv => charxiv::SETTINGS,
            Rubric::RefocusChart | Rubric::RefocusTable => refocus::SETTINGS,
            Rubric::VtoolV1 => vtool_v1::SETTINGS,
            Rubric::VtoolV2 => vtool_v2::SETTINGS,
            Rubric::VtoolV2Eval => vtool_v2::EVAL_SETTINGS,
        }
    }

    /// The prompt for a case; `None` where CharXiv's category is missing or unknown.
    pub(super) fn prompt(self, case: &Case<'_>) -> Option<String> {
        let Case {
            question,
            gold,
            prediction,
            ..
        } = *case;
        match self {
            Rubric::CharXiv => charxiv::grading_prompt(case.category?, question, gold, prediction),
            Rubric::RefocusChart => Some(refocus::chart_prompt(question, gold, prediction)),
            Rubric::RefocusTable => Some(refocus::table_prompt(gold, prediction)),
            Rubric::VtoolV1 => Some(vtool_v1::prompt(question, gold, prediction)),
            Rubric::VtoolV2 => Some(vtool_v2::prompt(gold, prediction)),
            Rubric::VtoolV2Eval => Some(vtool_v2::eval_prompt(question, gold, prediction)),
        }
    }

    /// The verdict of a reply to `prompt`; `None` when it cannot be read as one.
    ///
    /// The judges that evaluate are read with care. The two of VTool-R1's training are read as
    /// there, since their quirks are a part of that reward, but for the judge's thoughts and for a
    /// number that is neither 0 nor 1.
    pub fn verdict(self, prompt: &str, reply: &str) -> Option<Verdict> {
        match self {
            Rubric::CharXiv => reply::graded(reply),
            Rubric::RefocusChart | Rubric::RefocusTable | Rubric::VtoolV2Eval => reply::bit(reply),
            Rubric::VtoolV1 => vtool_v1::verdict(prompt, without_thinking(reply)),
            Rubric::VtoolV2 => {
                let reply = without_thinking(reply).trim();
                match reply.parse::<f64>() {
                    Ok(_) => reply::bit(reply),
                    Err(_) => vtool_v2::verdict(reply),
                }
            }
        }
    }
}
