//! A recipe is data: every number that shapes a result stands in a profile.
//!
//! A profile is a TOML file; one that names a `parent` states only what differs from it. Unknown keys
//! are refused, values are checked before anything is trained, and what a run's numbers depend on is
//! hashed for each run apart ([`Profile::stamp`]).

mod check;
mod load;
mod servers;
mod settings;
mod stamp;

pub use servers::{JudgeModel, ModelServer, TrainingRubric};
pub use settings::{
    AlarmAction, Alarms, Checkpoints, ComputeSettings, DataSettings, EpisodeSettings,
    EvaluationSettings, GateSettings, Grpo, LoraSettings, Profile, PromptWording, Schedule,
    TeacherPlace,
};
pub use stamp::{RunRole, differing_keys};
