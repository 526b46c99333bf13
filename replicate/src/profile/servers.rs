//! Models behind endpoints that a profile asks while it trains and evaluates.

use benchmarks::judge::Rubric;
use serde::{Deserialize, Serialize};

/// An OpenAI-compatible server and how patiently it is asked. Its key is read from the environment.
/// None of this is in a run's hash but the model's name: an answer is the model's, wherever it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelServer {
    /// Its base address, for example `http://localhost:8000/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Seconds until one attempt counts as failed.
    pub timeout: u64,
    /// Seconds without any completion after which the server is given up.
    pub max_wait: u64,
}

/// Who judges what no rule can score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeModel {
    /// The rubric by which a judge decides the outcome of *training* episodes; absent: the official
    /// rule of each set does. The judge of evaluation is asked about CharXiv alone, by CharXiv's own
    /// rubric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<TrainingRubric>,
    /// Share of an update's answers without a verdict above which training stops: a judge that is
    /// away is no reason to learn from the few answers that it still judged.
    pub most_unjudged: f64,
    /// Where it is.
    pub server: ModelServer,
}

/// The rubrics of VTool-R1's training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainingRubric {
    /// Of its first version.
    VtoolV1,
    /// Of its second version.
    VtoolV2,
}

impl TrainingRubric {
    /// As the judges know it.
    pub fn rubric(self) -> Rubric {
        match self {
            TrainingRubric::VtoolV1 => Rubric::VtoolV1,
            TrainingRubric::VtoolV2 => Rubric::VtoolV2,
        }
    }
}
