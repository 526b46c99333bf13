//! One evaluated question: a line of `records.jsonl`.
//!
//! A record holds nothing that depends on the clock or the machine: the same profile and seed
//! give the same bytes.

use std::fmt;
use std::str::FromStr;

use benchmarks::{TestSet, Verdict};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::files::Checked;

/// The names of the six test sets, in the order of the paper's table: those of [`TestSet::ALL`].
/// A record may name another set; it is kept and left out of the table.
pub const SETS: [&str; TestSet::ALL.len()] = {
    let mut names = [""; TestSet::ALL.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = TestSet::ALL[index].name();
        index += 1;
    }
    names
};

/// The name of a row of the table: a way of training, or a model that was not trained here.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArmName(String);

impl ArmName {
    /// The student's base checkpoint.
    pub const UNTRAINED: &'static str = "untrained";
    /// The teacher after its own GRPO.
    pub const TEACHER: &'static str = "teacher";
    /// GRPO with the outcome reward.
    pub const VTOOL_R1: &'static str = "vtool-r1";
    /// The outcome less a penalty for calls that fail.
    pub const TORL: &'static str = "torl";
    /// The outcome and a verifier's judgement of the call.
    pub const TRM: &'static str = "trm";
    /// The outcome less the divergence from the teacher's attribution.
    pub const IAPO: &'static str = "iapo";
    /// The control: the outcome and the teacher's log-probability of the call.
    pub const DISTILL: &'static str = "distill";

    /// The known names in the order of the table; other names come after them, sorted.
    pub const KNOWN: [&'static str; 7] = [
        Self::UNTRAINED,
        Self::TEACHER,
        Self::VTOOL_R1,
        Self::TORL,
        Self::TRM,
        Self::IAPO,
        Self::DISTILL,
    ];

    /// The paper's baselines, which the claim is measured against.
    pub const BASELINES: [&'static str; 3] = [Self::VTOOL_R1, Self::TORL, Self::TRM];

    /// The name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// A key that sorts arms in the order of the table.
    pub(crate) fn rank(&self) -> (usize, &str) {
        let place = Self::KNOWN.iter().position(|known| *known == self.0);
        (place.unwrap_or(Self::KNOWN.len()), &self.0)
    }
}

impl FromStr for ArmName {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        ArmName::try_from(name.to_string())
    }
}

impl TryFrom<String> for ArmName {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        // The name is a folder's, so nothing that a path could be made of.
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(allowed) {
            return Err(Error::ArmName(name));
        }
        Ok(ArmName(name))
    }
}

impl From<ArmName> for String {
    fn from(arm: ArmName) -> String {
        arm.0
    }
}

impl fmt::Display for ArmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The answer that was sampled at temperature 1 beside the greedy one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampledAnswer {
    /// The answer taken from the completion, as it was scored.
    pub prediction: String,
    /// The scorer's verdict.
    pub verdict: Verdict,
}

/// How a tool call's attribution is spread over the prompt's blocks; sums to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockShares {
    /// Plain context.
    #[serde(rename = "P")]
    pub context: f64,
    /// The request.
    #[serde(rename = "R")]
    pub request: f64,
    /// The image.
    #[serde(rename = "I")]
    pub image: f64,
    /// Tool definitions.
    #[serde(rename = "T")]
    pub tools: f64,
}

impl BlockShares {
    /// The shares in the order in which they are written: P, R, I, T.
    pub fn values(&self) -> [f64; 4] {
        [self.context, self.request, self.image, self.tools]
    }
}

impl From<[f64; 4]> for BlockShares {
    /// From the order P, R, I, T.
    fn from([context, request, image, tools]: [f64; 4]) -> Self {
        BlockShares {
            context,
            request,
            image,
            tools,
        }
    }
}

/// One evaluated question. Fields are written in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The test set, one of [`SETS`] or an extra.
    pub set: String,
    /// The question's identifier within its set.
    pub qa_id: String,
    /// The figure: questions that share it are resampled together. Empty: a figure of its own.
    #[serde(default)]
    pub image_id: String,
    /// What kind of question it is, for example `count` or `largest`; absent where the set has no
    /// kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// How many entries (rows, columns, bars) the question names; absent where nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub named: Option<u32>,
    /// The row of the table.
    pub arm: ArmName,
    /// The seed that the arm was trained with.
    pub seed: u64,
    /// The answer taken from the completion, as it was scored.
    pub prediction: String,
    /// The gold answer in the set's own notation.
    pub gt: String,
    /// The scorer's verdict.
    pub verdict: Verdict,
    /// Why, in the words of the scorer, the judge or the error that kept the question from a
    /// verdict; absent where nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The answer at temperature 1, where one was sampled. The fields above and below are the
    /// greedy episode's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampled: Option<SampledAnswer>,
    /// Whether the first turn called a tool, well-formed or not.
    pub tool_called: bool,
    /// Whether a called tool ran and gave an image.
    pub tool_succeeded: bool,
    /// Why a call was refused or failed, in the words of the parser or the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_reason: Option<String>,
    /// The text of the call, as the model wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<String>,
    /// Whether the call focuses on exactly what the question names; absent where no call was made
    /// or the right focus is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_focus: Option<bool>,
    /// The call's attribution over the blocks, where a tool was called and attribution was
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attribution: Option<BlockShares>,
    /// BLAKE3 of the checkpoint's weights, hex; for an endpoint the model's name.
    pub checkpoint: String,
    /// The scorer's name; a judge names its model.
    pub scorer: String,
    /// The scorer's version; a judge adds the hash of its prompt.
    pub scorer_version: String,
}

impl Record {
    /// The figure that decides which questions are resampled together.
    pub(crate) fn cluster(&self) -> &str {
        if self.image_id.is_empty() {
            &self.qa_id
        } else {
            &self.image_id
        }
    }

    /// Why a record of the same question cannot be of the same data; `None` where it can.
    pub(crate) fn other_data(&self, other: &Record) -> Option<String> {
        (self.gt != other.gt || self.image_id != other.image_id).then(|| {
            format!(
                "question {} of {} has the answer '{}' on figure '{}' and the answer '{}' on figure \
                 '{}'; these are different data",
                other.qa_id, other.set, self.gt, self.image_id, other.gt, other.image_id
            )
        })
    }
}

impl Checked for Record {
    fn problem(&self) -> Option<String> {
        for (name, value) in [
            ("set", &self.set),
            ("qa_id", &self.qa_id),
            ("scorer", &self.scorer),
        ] {
            if value.is_empty() {
                return Some(format!("'{name}' is empty"));
            }
        }
        if self.tool_succeeded && !self.tool_called {
            return Some("'tool_succeeded' is true where 'tool_called' is false".to_string());
        }
        if !self.tool_called {
            let stands = [
                ("attribution", self.attribution.is_some()),
                ("call", self.call.is_some()),
                ("right_focus", self.right_focus.is_some()),
                ("tool_reason", self.tool_reason.is_some()),
            ];
            if let Some((name, _)) = stands.iter().find(|(_, stands)| *stands) {
                return Some(format!("'{name}' stands where 'tool_called' is false"));
            }
        }
        if self.tool_succeeded && self.tool_reason.is_some() {
            return Some("'tool_reason' stands where 'tool_succeeded' is true".to_string());
        }
        let shares = self.attribution.as_ref()?;
        let sum: f64 = shares.values().iter().sum();
        let possible = shares
            .values()
            .iter()
            .all(|share| (-1e-6..=1.0 + 1e-6).contains(share));
        // A NaN share is not possible, so the sum is a number here.
        if !possible || (sum - 1.0).abs() >= 1e-3 {
            return Some(format!(
                "'attribution' must be four shares that sum to 1, found {:?}",
                shares.values()
            ));
        }
        None
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example() -> Record {
        Record {
            set: "vwtq".to_string(),
            qa_id: "17".to_string(),
            image_id: "table-9".to_string(),
            arm: "iapo".parse().unwrap(),
            seed: 2,
            prediction: "42".to_string(),
            gt: "42".to_string(),
            verdict: Verdict::Right,
            reason: None,
            kind: None,
            named: None,
            sampled: None,
            tool_called: true,
            tool_succeeded: true,
            tool_reason: None,
            call: None,
            right_focus: None,
            attribution: Some([0.1, 0.2, 0.3, 0.4].into()),
            checkpoint: "ab12".to_string(),
            scorer: "denotation".to_string(),
            scorer_version: "1".to_string(),
        }
    }

    #[test]
    fn the_line_is_the_contract() {
        insta::assert_snapshot!(serde_json::to_string(&example()).unwrap());
        let mut plain = example();
        plain.attribution = None;
        plain.tool_called = false;
        plain.tool_succeeded = false;
        plain.verdict = Verdict::NotJudged;
        let line = serde_json::to_string(&plain).unwrap();
        assert!(
            line.contains("\"not_judged\"") && !line.contains("attribution"),
            "{line}"
        );
        assert_eq!(serde_json::from_str::<Record>(&line).unwrap(), plain);
        plain.reason = Some("needs_judge".to_string());
        let with_reason = serde_json::to_string(&plain).unwrap();
        assert!(
            with_reason.contains("\"not_judged\",\"reason\":\"needs_judge\",\"tool_called\""),
            "{with_reason}"
        );
        // What a study asks of a record is written where it is known.
        let mut full = example();
        full.kind = Some("count".to_string());
        full.named = Some(3);
        full.sampled = Some(SampledAnswer {
            prediction: "41".to_string(),
            verdict: Verdict::Wrong,
        });
        full.tool_succeeded = false;
        full.tool_reason = Some("unknown name 'b'".to_string());
        full.call = Some("focus_on_columns(a, b)".to_string());
        full.right_focus = Some(false);
        let line_of_all = serde_json::to_string(&full).unwrap();
        insta::assert_snapshot!("every_field", line_of_all);
        assert_eq!(serde_json::from_str::<Record>(&line_of_all).unwrap(), full);
        // Records made by hand may leave out what the contract does not list.
        let by_hand = line.replace("\"image_id\":\"table-9\",", "");
        assert_eq!(
            serde_json::from_str::<Record>(&by_hand).unwrap().cluster(),
            "17"
        );
    }

    #[test]
    fn impossible_records_are_refused() {
        let mut problems = Vec::new();
        let mut check = |change: &dyn Fn(&mut Record)| {
            let mut record = example();
            change(&mut record);
            problems.push(record.problem().expect("must be refused"));
        };
        check(&|record| record.qa_id.clear());
        check(&|record| record.tool_called = false);
        check(&|record| {
            record.tool_called = false;
            record.tool_succeeded = false;
        });
        check(&|record| {
            record.tool_called = false;
            record.tool_succeeded = false;
            record.attribution = None;
            record.call = Some("focus".to_string());
        });
        check(&|record| record.tool_reason = Some("unknown name".to_string()));
        check(&|record| record.attribution = Some([0.1, 0.2, 0.3, 0.3].into()));
        check(&|record| record.attribution = Some([f64::NAN, 0.2, 0.3, 0.4].into()));
        check(&|record| record.attribution = Some([-0.5, 0.5, 0.5, 0.5].into()));
        insta::assert_snapshot!(problems.join("\n"));
        assert_eq!(example().problem(), None);
    }

    #[test]
    fn arm_names_are_folder_names() {
        for bad in ["", "..", "a/b", "IAPO", "a b"] {
            assert!(bad.parse::<ArmName>().is_err(), "{bad}");
        }
        let mut arms: Vec<ArmName> = ["zeta", "iapo", "self", "untrained"]
            .iter()
            .map(|name| name.parse().unwrap())
            .collect();
        arms.sort_by(|a, b| a.rank().cmp(&b.rank()));
        let names: Vec<&str> = arms.iter().map(ArmName::name).collect();
        assert_eq!(names, ["untrained", "iapo", "self", "zeta"]);
    }
}
