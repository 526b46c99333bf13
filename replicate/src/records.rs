//! One way from an answer to a record, for `replicate` and `eval-all` alike.

use agent::ToolOutcome;
use benchmarks::data::Truth;
use benchmarks::evaluation::Answered;
use benchmarks::sources::Listing;
use benchmarks::{Question, TestSet, Verdict};
use results::{ArmName, Record, SampledAnswer};

/// What the records of one run share.
#[derive(Clone, Debug)]
pub struct Recorder {
    /// The row of the table.
    pub arm: ArmName,
    /// The seed it was trained with.
    pub seed: u64,
    /// The hash of the weights, or the model's name at an endpoint.
    pub checkpoint: String,
}

impl Recorder {
    /// The record of a scored answer. `scorer` is who scored it, and in which version.
    pub fn answered(
        &self,
        question: &Question,
        truth: Option<&Truth>,
        answered: &Answered,
        scorer: (String, String),
    ) -> Record {
        let listing = Listing {
            id: question.id.clone(),
            image_id: question.image_id.clone(),
            gold: question.gold.clone(),
        };
        let episode = answered.episode.as_ref();
        let called = episode.filter(|episode| episode.outcome.called());
        Record {
            prediction: answered.prediction.clone().unwrap_or_default(),
            verdict: answered.verdict,
            tool_called: answered.tool_called,
            tool_succeeded: answered.tool_succeeded,
            kind: truth.map(|truth| truth.kind.to_owned()),
            named: truth.map(|truth| truth.named as u32),
            call: called
                .and_then(|episode| episode.turns.first())
                .map(|turn| turn.completion.text.clone()),
            right_focus: called.and_then(|episode| Some(truth?.approves(episode))),
            tool_reason: called.and_then(|episode| match &episode.outcome {
                ToolOutcome::Refused(why) | ToolOutcome::Failed(why) => Some(why.clone()),
                ToolOutcome::NotCalled | ToolOutcome::Succeeded => None,
            }),
            ..self.unanswered(question.set, listing, answered.reason.clone(), scorer)
        }
    }

    /// The record of a question without an answer.
    pub fn unanswered(
        &self,
        set: TestSet,
        listing: Listing,
        reason: String,
        (scorer, scorer_version): (String, String),
    ) -> Record {
        Record {
            set: set.name().to_owned(),
            qa_id: listing.id,
            image_id: listing.image_id,
            arm: self.arm.clone(),
            seed: self.seed,
            prediction: String::new(),
            gt: listing.gold,
            verdict: Verdict::NotJudged,
            reason: (!reason.is_empty()).then_some(reason),
            tool_called: false,
            tool_succeeded: false,
            attribution: None,
            kind: None,
            named: None,
            call: None,
            right_focus: None,
            tool_reason: None,
            sampled: None,
            checkpoint: self.checkpoint.clone(),
            scorer,
            scorer_version,
        }
    }
}

/// An answer sampled beside the greedy one.
pub fn sampled(answered: &Answered) -> SampledAnswer {
    SampledAnswer {
        prediction: answered.prediction.clone().unwrap_or_default(),
        verdict: answered.verdict,
    }
}
