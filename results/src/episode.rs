//! One episode, whole enough to be opened later: a line of `episodes.jsonl`, `validation.jsonl` or
//! `groups.jsonl`, which stand compressed beside the records.
//!
//! Nothing that can be made again is written: a generated question is named by its world's seed and
//! its id, the figure of any other by file and checksum. A line holds nothing that depends on the
//! clock or the machine.

use std::collections::BTreeMap;

use benchmarks::Verdict;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use visual_tools::FigureBoxes;

use crate::files::Checked;
use crate::record::{ArmName, BlockShares, Record};

/// The form of the lines that this version writes and reads, in every line.
pub const EPISODE_FORMAT: u32 = 1;

/// [`EPISODE_FORMAT`] as a line has it: reading another is an error that says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpisodeFormat;

impl Serialize for EpisodeFormat {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(EPISODE_FORMAT)
    }
}

impl<'de> Deserialize<'de> for EpisodeFormat {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        match u32::deserialize(input)? {
            EPISODE_FORMAT => Ok(EpisodeFormat),
            other => Err(D::Error::custom(format!(
                "format {other} was written by another version of iapo; this one reads {EPISODE_FORMAT}"
            ))),
        }
    }
}

/// How the answer was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decoding {
    /// The likeliest token each time.
    Greedy,
    /// Drawn at the profile's temperature.
    Sampled,
}

/// What became of the first turn's tool call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// The first turn held no call.
    NotCalled,
    /// There was code, and the parser refused it.
    Refused,
    /// The call was understood and could not be carried out.
    Failed,
    /// The edited figure went into the second turn.
    Succeeded,
}

impl CallOutcome {
    /// As far as a record tells it: a call without success and without its text was refused or
    /// failed, which of the two is not known and `Failed` stands for both.
    pub fn of(record: &Record) -> Self {
        match (record.tool_called, record.tool_succeeded) {
            (false, _) => CallOutcome::NotCalled,
            (true, true) => CallOutcome::Succeeded,
            (true, false) => CallOutcome::Failed,
        }
    }
}

/// A call's attribution over the blocks of its prompt under one model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallShares {
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
    /// Log-probability of the attributed tokens of the call, nats.
    pub log_prob: f64,
    /// Completeness error |sum − (F(1) − F(0))| / |F(1) − F(0)|; absent where the method has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap: Option<f64>,
}

impl CallShares {
    /// The shares alone: P, R, I, T.
    pub fn blocks(&self) -> BlockShares {
        [self.context, self.request, self.image, self.tools].into()
    }

    fn numbers(&self) -> [f64; 6] {
        let [p, r, i, t] = self.blocks().values();
        [p, r, i, t, self.log_prob, self.gap.unwrap_or(0.0)]
    }
}

/// What only an episode of a training group has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSample {
    /// The stage of the schedule.
    pub stage: String,
    /// The update within that stage, from 0. With `stream` and `prompt` it makes a generated
    /// question again.
    pub stage_update: u64,
    /// The purpose of the seed's random stream that the prompts come from.
    pub stream: String,
    /// Which prompt of the update, from 0: the episodes of one prompt are a group.
    pub prompt: u64,
    /// Which sample of the prompt, from 0.
    pub sample: u64,
    /// The parts of the reward by name, as they were added; empty where there was no verdict.
    pub reward_parts: BTreeMap<String, f64>,
    /// Their sum; absent where there was no verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<f64>,
    /// The advantage within the group; 0 where there was no verdict.
    pub advantage: f64,
    /// Mean log-probability of the call's tokens under the teacher, nats, where the arm asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_log_prob: Option<f64>,
    /// The same under the policy that sampled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_log_prob: Option<f64>,
}

/// An episode. Fields are written in this order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodeRecord {
    /// The form of the line.
    pub format: EpisodeFormat,
    /// The row of the table.
    pub arm: ArmName,
    /// The seed that the arm was trained with.
    pub seed: u64,
    /// Updates made when it was asked; absent for the finished policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<u64>,
    /// How it was decoded.
    pub decoding: Decoding,
    /// The set.
    pub set: String,
    /// The question's identifier within its set.
    pub qa_id: String,
    /// The figure's identifier.
    #[serde(default)]
    pub image_id: String,
    /// What kind of question it is; absent where the set has no kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Seed of the generated world, from which figure, boxes, tools' text and right call are made
    /// again; absent for other questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub world_seed: Option<u64>,
    /// Where the figure was read from, never the figure itself; absent for generated questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// BLAKE3 of the decoded figure: width and height as little-endian u32, then RGB bytes by row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_blake3: Option<String>,
    /// The named regions in pixels; absent for generated questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boxes: Option<FigureBoxes>,
    /// The tools' text, where the question brings its own and is not generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<String>,
    /// The request, the prompt's block R.
    pub request: String,
    /// The gold answer in the set's own notation.
    pub gold: String,
    /// What the policy said first; absent where the request failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_completion: Option<String>,
    /// What it said after its call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_completion: Option<String>,
    /// The tool of the call, where the parser accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The names it was pointed at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// What became of the call.
    pub outcome: CallOutcome,
    /// Why it was refused or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_reason: Option<String>,
    /// Whether the call focuses on exactly what the question names; absent without a call or where
    /// nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub right_focus: Option<bool>,
    /// The answer as it was scored.
    pub prediction: String,
    /// The scorer's verdict.
    pub verdict: Verdict,
    /// Why, in the scorer's words; absent where nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The scorer and its version, for example `exact 1`.
    pub scorer: String,
    /// The call's attribution under the policy, where it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student: Option<CallShares>,
    /// The same call on the same prompt under the teacher.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<CallShares>,
    /// The divergence of the two, as the profile's form of attribution has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<f64>,
    /// Its place and worth in a training group; absent for validation and test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingSample>,
}

impl Checked for EpisodeRecord {
    fn problem(&self) -> Option<String> {
        for (name, value) in [("set", &self.set), ("qa_id", &self.qa_id)] {
            if value.is_empty() {
                return Some(format!("'{name}' is empty"));
            }
        }
        let called = self.outcome != CallOutcome::NotCalled;
        if !called
            && (self.tool.is_some() || self.second_completion.is_some() || self.student.is_some())
        {
            return Some("'outcome' is not_called where a call stands".to_owned());
        }
        if self.outcome == CallOutcome::Succeeded && self.outcome_reason.is_some() {
            return Some("'outcome_reason' stands where the call succeeded".to_owned());
        }
        if self.training.is_some() && self.update.is_none() {
            return Some("'training' stands without 'update'".to_owned());
        }
        let training = self.training.iter().flat_map(|sample| {
            let parts = sample.reward_parts.values().copied();
            parts
                .chain(sample.reward)
                .chain([sample.advantage])
                .chain(sample.teacher_log_prob)
                .chain(sample.own_log_prob)
        });
        let shares = self.student.iter().chain(&self.teacher);
        // JSON has no NaN: it would be written as null and not be read again.
        shares
            .flat_map(CallShares::numbers)
            .chain(self.divergence)
            .chain(training)
            .find(|value| !value.is_finite())
            .map(|value| format!("a number is {value}: expected finite ones"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A line with every field.
    pub(crate) fn example() -> EpisodeRecord {
        let shares = CallShares {
            context: 0.1,
            request: 0.2,
            image: 0.3,
            tools: 0.4,
            log_prob: -1.5,
            gap: Some(0.02),
        };
        EpisodeRecord {
            format: EpisodeFormat,
            arm: "iapo".parse().unwrap(),
            seed: 2,
            update: Some(21),
            decoding: Decoding::Sampled,
            set: "vwtq".to_owned(),
            qa_id: "17".to_owned(),
            image_id: "table-9".to_owned(),
            kind: Some("largest".to_owned()),
            world_seed: Some(3),
            image: Some("tables/9.png".to_owned()),
            image_blake3: Some("ab12".to_owned()),
            boxes: Some(FigureBoxes::default()),
            tools: Some("focus(…)".to_owned()),
            request: "largest of row ka".to_owned(),
            gold: "42".to_owned(),
            first_completion: Some("focus_on_rows(ka)".to_owned()),
            second_completion: Some("FINAL ANSWER: 41 TERMINATE".to_owned()),
            tool: Some("focus_on_rows_with_mask".to_owned()),
            names: vec!["ka".to_owned()],
            outcome: CallOutcome::Failed,
            outcome_reason: Some("unknown name".to_owned()),
            right_focus: Some(false),
            prediction: "41".to_owned(),
            verdict: Verdict::Wrong,
            reason: Some("41 is not 42".to_owned()),
            scorer: "exact 1".to_owned(),
            student: Some(shares),
            teacher: Some(CallShares {
                gap: None,
                ..shares
            }),
            divergence: Some(0.25),
            training: Some(TrainingSample {
                stage: "iapo".to_owned(),
                stage_update: 0,
                stream: "arm".to_owned(),
                prompt: 1,
                sample: 3,
                reward_parts: BTreeMap::from([
                    ("iapo".to_owned(), -0.25),
                    ("outcome".to_owned(), 0.0),
                ]),
                reward: Some(-0.25),
                advantage: -1.5,
                teacher_log_prob: Some(-2.0),
                own_log_prob: Some(-1.0),
            }),
        }
    }

    #[test]
    fn the_line_is_the_contract() {
        let line = serde_json::to_string(&example()).unwrap();
        insta::assert_snapshot!(line);
        let back: EpisodeRecord = serde_json::from_str(&line).unwrap();
        assert_eq!(back, example());
        assert_eq!(back.problem(), None);
    }

    #[test]
    fn another_format_is_named_before_its_unknown_fields() {
        let error =
            serde_json::from_str::<EpisodeRecord>(r#"{"format":2,"novelty":1}"#).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("format 2 was written by another version of iapo"),
            "{error}"
        );
    }

    #[test]
    fn impossible_episodes_are_refused() {
        let problem = |change: &dyn Fn(&mut EpisodeRecord)| {
            let mut episode = example();
            change(&mut episode);
            episode.problem().expect("must be refused")
        };
        assert_eq!(problem(&|e| e.set.clear()), "'set' is empty");
        assert!(problem(&|e| e.outcome = CallOutcome::NotCalled).contains("not_called"));
        assert!(problem(&|e| e.outcome = CallOutcome::Succeeded).contains("outcome_reason"));
        assert!(problem(&|e| e.update = None).contains("'training'"));
        assert!(problem(&|e| e.divergence = Some(f64::NAN)).contains("NaN"));
        let worth = |e: &mut EpisodeRecord| e.training.as_mut().unwrap().advantage = f64::INFINITY;
        assert!(problem(&worth).contains("inf"));
    }
}
