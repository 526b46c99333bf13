//! The curriculum's settings: `replicate/profiles/pretrain-micro.toml`.

use benchmarks::Difficulty;
use benchmarks::curriculum::{token_id, vocabulary};
use grpo::AdamWOptions;
use qwen2_5_vl::Config;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How the micro base checkpoints are made from nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Seed of the initial weights and of every figure and question.
    pub seed: u64,
    /// A resumable state is saved every so many steps.
    pub save_every: usize,
    /// Shape of the models.
    pub model: Shape,
    /// Sizes and noise of the figures.
    pub difficulty: Difficulty,
    /// How every stage is optimised.
    pub optimizer: OptimizerSettings,
    /// Stage 1: the vision tower, dense labels for every cell.
    pub vision: VisionStage,
    /// Stage 2: packed question answering.
    pub reading: ReadingStage,
    /// Stage 3, student: demonstrations, some of them wrong.
    pub student: DemonstrationStage,
    /// Stage 3, teacher: right demonstrations, after stage 2 of the same lineage.
    pub teacher: DemonstrationStage,
    /// What the model cards rest on.
    pub card: CardSettings,
}

/// What a model card rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardSettings {
    /// Validation questions of each set.
    pub questions: usize,
    /// Longest completion of a turn, tokens.
    pub max_new_tokens: usize,
}

/// Dimensions of a micro model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// Width of the decoder.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads.
    pub kv_heads: usize,
    /// Inner width of the feed-forward layers.
    pub inner: usize,
    /// Rotary frequencies of time, height and width.
    pub mrope_section: [usize; 3],
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Width of the vision tower.
    pub vision_hidden: usize,
    /// Layers of the vision tower.
    pub vision_layers: usize,
    /// Heads of the vision tower.
    pub vision_heads: usize,
    /// Inner width of the vision tower's feed-forward layers.
    pub vision_inner: usize,
    /// Vision layers with full attention.
    pub vision_full_attention: Vec<usize>,
    /// Window of the other layers, pixels.
    pub vision_window: usize,
    /// Standard deviation of the initial weights.
    pub initializer_range: f64,
}

/// AdamW with a warm-up and half a cosine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSettings {
    /// AdamW's own settings.
    pub adamw: AdamWOptions,
    /// Share of a stage's steps over which the learning rate grows.
    pub warmup_fraction: f64,
    /// Where the learning rate ends, as a fraction of its peak.
    pub final_fraction: f64,
    /// Largest norm of the gradient.
    pub max_grad_norm: f64,
}

/// Settings of stage 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionStage {
    /// Optimiser steps.
    pub steps: usize,
    /// Figures in a step.
    pub figures: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of figures that a mask has edited.
    pub focused: f64,
}

/// Settings of stage 2.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadingStage {
    /// Optimiser steps.
    pub steps: usize,
    /// Figures in a step.
    pub figures: usize,
    /// Questions about each figure.
    pub questions: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of figures that a right mask has edited.
    pub focused: f64,
    /// Steps at the beginning that only look values up.
    pub lookup_only: usize,
    /// Share of the questions about tables that are statements to be judged, after those steps.
    pub statements: f64,
    /// Weight of the loss on where the decoder looks ([`super::pointing`]); 0 leaves it out.
    pub pointing: f64,
}

/// Settings of stage 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemonstrationStage {
    /// Optimiser steps.
    pub steps: usize,
    /// Episodes in a step.
    pub episodes: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of episodes that answer without a call.
    pub direct: f64,
    /// Share of calls that copy the worked example instead of the request.
    pub copied: f64,
    /// Share of calls that name the request's entries on a habitual axis.
    pub habitual: f64,
}

impl Recipe {
    /// The recipe of the micro profile.
    pub fn micro() -> Result<Self> {
        Self::parse(include_str!("../../profiles/pretrain-micro.toml"))
    }

    /// Reads a recipe.
    ///
    /// # Errors
    /// Text that is not a recipe, and batches smaller than the parts they are cut into.
    pub fn parse(text: &str) -> Result<Self> {
        let problem = |problem: String| Error::Profile {
            origin: "pretrain".into(),
            problem,
        };
        let recipe: Recipe = toml::from_str(text).map_err(|error| problem(error.to_string()))?;
        let sizes = [
            ("vision.figures", recipe.vision.figures),
            ("reading.figures", recipe.reading.figures),
            ("student.episodes", recipe.student.episodes),
            ("teacher.episodes", recipe.teacher.episodes),
        ];
        for (key, size) in sizes {
            if size < super::PARTS {
                return Err(problem(format!(
                    "{key} is {size}: expected at least {}",
                    super::PARTS
                )));
            }
        }
        if recipe.reading.questions == 0 {
            return Err(problem(
                "reading.questions is 0: expected at least 1".into(),
            ));
        }
        Ok(recipe)
    }

    /// Hash of the recipe: a saved state belongs to one.
    pub fn hash(&self) -> String {
        let text = toml::to_string(self).expect("a recipe holds only tables and numbers");
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

impl Shape {
    /// The `config.json` of such a model over the micro vocabulary.
    pub fn config(&self) -> Result<Config> {
        let id =
            |token: &str| token_id(token).expect("Qwen's special tokens are in the vocabulary");
        let json = serde_json::json!({
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": "qwen2_5_vl",
            "vocab_size": vocabulary().len(),
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-6,
            "rope_theta": self.rope_theta,
            "rope_scaling": {"type": "mrope", "mrope_section": self.mrope_section},
            "max_position_embeddings": 4096,
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": true,
            "bos_token_id": id("<|endoftext|>"),
            "eos_token_id": id("<|im_end|>"),
            "image_token_id": id("<|image_pad|>"),
            "video_token_id": id("<|video_pad|>"),
            "vision_start_token_id": id("<|vision_start|>"),
            "vision_end_token_id": id("<|vision_end|>"),
            "vision_token_id": id("<|vision_pad|>"),
            "vision_config": {
                "depth": self.vision_layers,
                "hidden_size": self.vision_hidden,
                "intermediate_size": self.vision_inner,
                "num_heads": self.vision_heads,
                "in_channels": 3,
                "in_chans": 3,
                "out_hidden_size": self.hidden,
                "patch_size": 4,
                "spatial_patch_size": 4,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": self.vision_window,
                "fullatt_block_indexes": self.vision_full_attention,
                "tokens_per_second": 2,
                "hidden_act": "silu",
            },
        });
        Ok(Config::parse(&json.to_string(), "the micro shape")?)
    }
}
