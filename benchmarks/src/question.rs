//! A question of a test set, and the three states of its score.

use std::fmt;
use std::str::FromStr;

use agent::Task;
use serde::{Deserialize, Serialize};

use crate::suggestion;

/// The six test sets of the paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TestSet {
    /// CharXiv, reasoning questions, validation split (1,000).
    #[serde(rename = "charxiv")]
    CharXiv,
    /// ChartQA test, horizontal bars, as split by ReFocus (444).
    #[serde(rename = "chartqa-h-bar")]
    ChartQaHorizontal,
    /// ChartQA test, vertical bars, as split by ReFocus (382).
    #[serde(rename = "chartqa-v-bar")]
    ChartQaVertical,
    /// TableVQA-Bench VWTQ (750).
    #[serde(rename = "vwtq")]
    Vwtq,
    /// TableVQA-Bench VWTQ-Syn (250).
    #[serde(rename = "vwtq-syn")]
    VwtqSyn,
    /// TableVQA-Bench VTabFact (250).
    #[serde(rename = "vtabfact")]
    VTabFact,
}

impl TestSet {
    /// All six, in the order of the paper's table.
    pub const ALL: [TestSet; 6] = [
        TestSet::CharXiv,
        TestSet::ChartQaHorizontal,
        TestSet::ChartQaVertical,
        TestSet::Vwtq,
        TestSet::VwtqSyn,
        TestSet::VTabFact,
    ];

    /// The name on the command line and in records.
    pub const fn name(self) -> &'static str {
        match self {
            TestSet::CharXiv => "charxiv",
            TestSet::ChartQaHorizontal => "chartqa-h-bar",
            TestSet::ChartQaVertical => "chartqa-v-bar",
            TestSet::Vwtq => "vwtq",
            TestSet::VwtqSyn => "vwtq-syn",
            TestSet::VTabFact => "vtabfact",
        }
    }
}

impl TestSet {
    /// How many questions the published set has.
    pub fn published_size(self) -> usize {
        match self {
            TestSet::CharXiv => 1000,
            TestSet::ChartQaHorizontal => 444,
            TestSet::ChartQaVertical => 382,
            TestSet::Vwtq => 750,
            TestSet::VwtqSyn | TestSet::VTabFact => 250,
        }
    }
}

impl fmt::Display for TestSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for TestSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        TestSet::ALL
            .into_iter()
            .find(|set| set.name() == name)
            .ok_or_else(|| {
                let known: Vec<_> = TestSet::ALL.iter().map(|set| set.name()).collect();
                format!(
                    "unknown test set '{name}': expected one of {}{}",
                    known.join(", "),
                    suggestion(name, known.iter().copied())
                )
            })
    }
}

/// The three states of a score. A judge that cannot be reached is not a wrong answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The scorer accepts the prediction.
    Right,
    /// The scorer rejects the prediction.
    Wrong,
    /// No verdict could be had.
    NotJudged,
}

impl Verdict {
    /// Whether the prediction is right; `None` where no verdict could be had.
    pub fn is_right(self) -> Option<bool> {
        match self {
            Verdict::Right => Some(true),
            Verdict::Wrong => Some(false),
            Verdict::NotJudged => None,
        }
    }
}

/// A question with everything needed to ask and to score it.
#[derive(Clone, Debug)]
pub struct Question {
    /// The set it belongs to.
    pub set: TestSet,
    /// Its identifier within the set.
    pub id: String,
    /// What the agent sees.
    pub task: Task,
    /// The gold answer in the set's own notation: `|` separates the items of a list in VWTQ,
    /// `true`/`false` in VTabFact, `|||` separates alternatives in ChartQA.
    pub gold: String,
    /// Identifies the figure: questions that share it are not independent.
    pub image_id: String,
    /// CharXiv's `inst_category` (1 to 4), where the set has one.
    pub category: Option<u8>,
}
