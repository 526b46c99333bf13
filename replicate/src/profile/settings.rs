//! The keys of a profile. `replicate/profiles/micro.toml` has the reasons of each number.

use std::collections::BTreeMap;

use baselines::Arm;
use baselines::attribution_settings::AttributionSettings;
use benchmarks::data::{TrainingFigures, World};
use grpo::{Decay, KlEstimator, LossAggregation, OptimizerPlace, ScaleByStd, TrainedTurns};
use serde::{Deserialize, Serialize};

use super::servers::{JudgeModel, ModelServer};
use crate::compute::WeightType;

/// A whole experiment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name, in records and labels.
    pub name: String,
    /// The arms that are trained when none are named, in the order of the table.
    pub trained: Vec<String>,
    /// The first seed.
    pub first_seed: u64,
    /// Number of seeds, counted from the first.
    pub seeds: u64,
    /// A generated world: this, or `data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub world: Option<World>,
    /// Questions from files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataSettings>,
    /// Who judges what no rule can score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeModel>,
    /// Who verifies calls, for arms whose verifier is an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier: Option<ModelServer>,
    /// Where the base checkpoints are.
    pub checkpoints: Checkpoints,
    /// How many updates each stage has.
    pub schedule: Schedule,
    /// Group relative policy optimisation.
    pub grpo: Grpo,
    /// How wide numbers are, and how many are held at once.
    pub compute: ComputeSettings,
    /// How trained policies are evaluated.
    pub evaluation: EvaluationSettings,
    /// What is stored for people who look at episodes later. It changes no number, so no hash
    /// covers it.
    #[serde(default, skip_serializing_if = "EpisodeSettings::is_nothing")]
    pub episodes: EpisodeSettings,
    /// What a world and its base must show.
    pub gates: GateSettings,
    /// When training has gone wrong.
    pub alarms: Alarms,
    /// The ways to train, by name.
    pub arms: BTreeMap<String, Arm>,
}

/// Questions from files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSettings {
    /// The folder with test sets and training questions.
    pub folder: String,
    /// Which figures are trained on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub training: TrainingFigures,
    /// Share of the training figures that validation questions are about, left out of training;
    /// absent: the charts' published validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<f64>,
    /// Whose description of the tools the prompt has.
    #[serde(default, skip_serializing_if = "is_default")]
    pub prompt: PromptWording,
    /// Smallest area of a figure as the model sees it, pixels; absent: the checkpoint's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_pixels: Option<usize>,
    /// Largest area, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_pixels: Option<usize>,
}

/// Whose description of the tools a prompt has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromptWording {
    /// Ours: some 400 tokens, before the image.
    #[default]
    Ours,
    /// VTool-R1's published template: some 3,800 tokens, after the question.
    VtoolR1,
}

/// Base checkpoints: folders, relative to the repository's `replicate/` folder or absolute, or
/// models of the hub, `ORG/NAME` or `ORG/NAME@REVISION`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoints {
    /// The student before reinforcement learning.
    pub student: String,
    /// The teacher before reinforcement learning.
    pub teacher: String,
}

/// Numbers of updates. Every arm has `cold_start + arm` in all, unless its own table says otherwise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// GRPO updates of the teacher.
    pub teacher: usize,
    /// Whether each seed has a teacher of its own, trained with that seed, or all share one.
    #[serde(default, skip_serializing_if = "is_false")]
    pub teacher_per_seed: bool,
    /// GRPO updates of the student before the arms part.
    pub cold_start: usize,
    /// Updates of each arm after the cold start.
    pub arm: usize,
    /// A training state is saved every so many updates.
    pub save_every: usize,
    /// The policy is validated every so many updates, greedily.
    pub validate_every: usize,
}

/// What is left out where it is false has no part in a hash that was recorded before the key was.
fn is_false(value: &bool) -> bool {
    !value
}

/// Where a teacher waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TeacherPlace {
    /// Where the policy is.
    #[default]
    Device,
    /// In the host's memory.
    Host,
}

/// Likewise for other values.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Schedule {
    /// The seed of the teacher that a seed's arms learn from.
    pub fn teacher_seed(&self, seed: u64) -> u64 {
        match self.teacher_per_seed {
            true => seed,
            false => 0,
        }
    }
}

/// Settings of GRPO.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpo {
    /// Prompts in an update.
    pub prompts: usize,
    /// Episodes for each prompt.
    pub samples: usize,
    /// Sampling temperature, and the temperature of the trained log-probabilities.
    pub temperature: f64,
    /// Nucleus that training episodes are sampled from; absent: the whole distribution. The trained
    /// log-probabilities are those of the whole distribution in either case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Longest completion of a turn, tokens.
    pub max_new_tokens: usize,
    /// Low-rank adapters that are trained in place of the weights; absent: every part that is not
    /// frozen is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
    /// Parts of the model that are not trained: `vision`, `merger`, `embeddings`, `layers.N`, `norm`,
    /// `head`. Where the vision tower is among them, its features are computed once per image;
    /// otherwise again, with gradients, in every pass of an update. With `lora` the model is frozen
    /// anyway.
    pub frozen: Vec<String>,
    /// Which turns the loss covers.
    pub trained_turns: TrainedTurns,
    /// Learning rate of AdamW.
    pub learning_rate: f64,
    /// The teacher's learning rate.
    pub teacher_learning_rate: f64,
    /// Updates over which the learning rate grows from 0.
    pub warmup: usize,
    /// What follows the warm-up.
    pub decay: Decay,
    /// AdamW's decay of the first moment.
    pub beta1: f64,
    /// AdamW's decay of the second moment.
    pub beta2: f64,
    /// Added to the root of AdamW's second moment.
    pub adam_eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Largest norm of the gradient.
    pub max_grad_norm: f64,
    /// Clip range below 1.
    pub clip_low: f64,
    /// Clip range above 1.
    pub clip_high: f64,
    /// How the divergence from the reference policy is estimated.
    pub kl_estimator: KlEstimator,
    /// Its weight in the loss.
    pub kl_coefficient: f64,
    /// How token losses become one number.
    pub loss_aggregation: LossAggregation,
    /// What advantages are divided by. With `by = "group"`, a group whose outcomes are all equal
    /// gives any auxiliary term unit variance, whatever its weight; `by = "outcome"` does not.
    pub advantage_scale: ScaleByStd,
}

/// Low-rank adapters (arXiv 2106.09685).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSettings {
    /// Inner width of an adapter.
    pub rank: usize,
    /// The addition is scaled by `alpha / rank`.
    pub alpha: f64,
    /// Projections by the end of their names: of the decoder's layers, or, beginning with `visual.`,
    /// of the vision tower.
    pub targets: Vec<String>,
}

impl Grpo {
    /// Whether the vision tower or its merger gets gradients.
    pub fn trains_vision(&self) -> bool {
        let frozen = |name: &str| self.frozen.iter().any(|part| part == name);
        match &self.lora {
            Some(lora) => lora.targets.iter().any(|name| name.starts_with("visual.")),
            None => !frozen("vision") || !frozen("merger"),
        }
    }
}

/// How wide numbers are, and how many are held at once; which device they are on is the command's to
/// say. The budgets bound memory and change no result on a processor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeSettings {
    /// The type of weights and activations.
    pub weights: WeightType,
    /// Whether an update keeps each decoder layer's input alone and runs the layer again for its
    /// gradients: less memory, a third more work, the same gradients.
    #[serde(default, skip_serializing_if = "is_false")]
    pub recompute: bool,
    /// Where the optimiser keeps moments and master copies: with `host` not on a card, which then holds
    /// 12 bytes a trained parameter less and is slower by two copies of them an update.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimizer: OptimizerPlace,
    /// Where the weights of the teacher, or of another model that a reward compares with, wait until calls
    /// are measured: with `host` not on a card, which then holds them in that part of an update alone, for
    /// one copy of them an update.
    #[serde(default, skip_serializing_if = "is_default")]
    pub teacher: TeacherPlace,
    /// Tokens of one forward and backward pass of an update. Passes run side by side, each on one
    /// thread: small enough for several, large enough for matrix products.
    pub update_tokens: usize,
    /// Tokens of one forward pass that scores calls.
    pub scoring_tokens: usize,
    /// Tokens of one forward pass that attributes calls.
    pub attribution_tokens: usize,
    /// Tokens of one forward and backward pass that attributes a call.
    pub attribution_gradient_tokens: usize,
    /// Prompt tokens that are sampled from together.
    pub rollout_tokens: usize,
    /// Image patches that go through the vision tower together.
    pub vision_patches: usize,
    /// MiB of pictures' features that the stages of an experiment share on a processor, where the vision
    /// tower is frozen: all arms are asked the same questions. 0 shares none.
    #[serde(default)]
    pub image_features_mib: usize,
}

impl ComputeSettings {
    /// Bytes of images' features that stages share.
    pub fn shared_image_bytes(&self) -> usize {
        self.image_features_mib.saturating_mul(1 << 20)
    }
}

/// How trained policies are evaluated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSettings {
    /// Test questions of each generated set; loaded sets are asked whole.
    pub questions: usize,
    /// Validation questions of each family, for learning curves.
    pub validation: usize,
    /// Whether each test question is also answered by a sample at `grpo.temperature`.
    pub sampled: bool,
    /// Calls of each set whose attribution is recorded.
    pub attributed: usize,
    /// Validation questions whose right and wrong calls are attributed at every validation, under
    /// policy and teacher: whether alignment happens, in every arm alike. 0 leaves it out.
    pub probe: usize,
    /// The form of attribution of both.
    pub attribution: AttributionSettings,
}

/// What is stored beside records and metrics; METRICS.md tells of the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpisodeSettings {
    /// Whether the episode behind every record is.
    pub evaluated: bool,
    /// Whether the teacher's attribution of a call stands beside the student's, where that is
    /// recorded; the teacher is then held beside the student while it is evaluated.
    pub teacher: bool,
    /// How many validation questions are at each validation, spread evenly over all.
    pub validation: usize,
    /// How many training groups are of each update, the first ones.
    pub groups: usize,
}

impl EpisodeSettings {
    /// Whether nothing is stored, as in profiles that do not name this.
    fn is_nothing(&self) -> bool {
        *self == EpisodeSettings::default()
    }
}

/// What a world and its base must show before arms are compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    /// Least gain in accuracy of a right call over none.
    pub right_gain: f64,
    /// Least loss in accuracy of a wrong call against none.
    pub wrong_loss: f64,
    /// Least call rate after GRPO.
    pub call_rate: f64,
    /// Prompts at most on which integrated gradients are measured: they cost the most.
    pub integrated_prompts: usize,
    /// Bootstrap replicates of the intervals.
    pub replicates: usize,
}

/// When training has gone wrong. Numbers that are not finite always stop it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alarms {
    /// What an alarm does.
    pub action: AlarmAction,
    /// Largest mean KL divergence from the reference policy, nats per token.
    pub kl: f64,
    /// Largest norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Largest distance of the mean importance ratio of the first step from 1.
    pub ratio: f64,
    /// Least share of episodes that call a tool.
    pub call_rate: f64,
    /// Largest share of groups without variance, which teach nothing.
    pub zero_variance: f64,
    /// Largest fall of greedy validation accuracy below the stage's best.
    pub validation_fall: f64,
}

/// What an alarm does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlarmAction {
    /// It is said, and stands in the metrics.
    Warn,
    /// It ends the run with an error.
    Stop,
}
