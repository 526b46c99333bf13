//! One way from an answer to a record, for `replicate` and `eval-all` alike.

use agent::{Episode, ToolOutcome};
use benchmarks::data::{Item, Origin, Truth};
use benchmarks::evaluation::Answered;
use benchmarks::sources::Listing;
use benchmarks::{Question, TestSet, Verdict};
use image::RgbImage;
use results::{
    ArmName, CallOutcome, CallShares, Decoding, EpisodeFormat, EpisodeRecord, Record, SampledAnswer,
};

use crate::alignment::CallAttribution;

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

    /// The episode behind a scored answer, as far as it can be opened later. Attribution, update and
    /// place in a group are the caller's to add.
    pub fn episode(
        &self,
        item: &Item,
        answered: &Answered,
        decoding: Decoding,
        (scorer, version): (String, String),
    ) -> EpisodeRecord {
        let (question, task) = (&item.question, &item.question.task);
        let episode = answered.episode.as_ref();
        let said = |turn: usize| {
            let turn = episode?.turns.get(turn)?;
            Some(turn.completion.text.clone())
        };
        let called = episode.filter(|episode| episode.outcome.called());
        let call = episode.and_then(|episode| episode.call.as_ref());
        let (outcome, outcome_reason) = outcome(episode);
        let (world_seed, image) = match &item.origin {
            Origin::World(seed) => (Some(*seed), None),
            Origin::Image(name) => (None, Some(name.clone())),
        };
        let loaded = world_seed.is_none();
        EpisodeRecord {
            format: EpisodeFormat,
            arm: self.arm.clone(),
            seed: self.seed,
            update: None,
            decoding,
            set: question.set.name().to_owned(),
            qa_id: question.id.clone(),
            image_id: question.image_id.clone(),
            kind: item.truth.as_ref().map(|truth| truth.kind.to_owned()),
            world_seed,
            image,
            image_blake3: loaded.then(|| pixels_hash(&task.image)),
            boxes: loaded.then(|| (*task.boxes).clone()),
            tools: task.tools.clone().filter(|_| loaded),
            request: task.request.clone(),
            gold: question.gold.clone(),
            first_completion: said(0),
            second_completion: said(1),
            tool: call.map(|call| call.tool.to_string()),
            names: call.map_or(Vec::new(), |call| call.names_in(&task.boxes)),
            outcome,
            outcome_reason,
            right_focus: called.and_then(|episode| Some(item.truth.as_ref()?.approves(episode))),
            prediction: answered.prediction.clone().unwrap_or_default(),
            verdict: answered.verdict,
            reason: Some(answered.reason.clone()).filter(|reason| !reason.is_empty()),
            scorer: format!("{scorer} {version}"),
            student: None,
            teacher: None,
            divergence: None,
            training: None,
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

/// What became of an episode's call, and why; an episode that failed called nothing.
fn outcome(episode: Option<&Episode>) -> (CallOutcome, Option<String>) {
    match episode.map(|episode| &episode.outcome) {
        None | Some(ToolOutcome::NotCalled) => (CallOutcome::NotCalled, None),
        Some(ToolOutcome::Refused(why)) => (CallOutcome::Refused, Some(why.clone())),
        Some(ToolOutcome::Failed(why)) => (CallOutcome::Failed, Some(why.clone())),
        Some(ToolOutcome::Succeeded) => (CallOutcome::Succeeded, None),
    }
}

/// BLAKE3 of width and height as little-endian u32 and the RGB bytes by row, hex.
pub fn pixels_hash(image: &RgbImage) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&image.width().to_le_bytes());
    hasher.update(&image.height().to_le_bytes());
    hasher.update(image.as_raw());
    hasher.finalize().to_hex().to_string()
}

/// The attribution of a call as an episode holds it.
pub fn call_shares(found: &CallAttribution) -> CallShares {
    let shares = found.shares.shares();
    CallShares {
        context: shares[0],
        request: shares[1],
        image: shares[2],
        tools: shares[3],
        log_prob: found.log_prob,
        gap: found.relative_gap,
    }
}

/// An answer sampled beside the greedy one.
pub fn sampled(answered: &Answered) -> SampledAnswer {
    SampledAnswer {
        prediction: answered.prediction.clone().unwrap_or_default(),
        verdict: answered.verdict,
    }
}
