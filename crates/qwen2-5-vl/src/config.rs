//! The configuration of a Qwen2.5-VL model and what makes one impossible.

use crate::error::{Error, Result};

/// The shape of a Qwen2.5-VL model and the ids of its vision tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// The token that stands for one merged image patch (`<|image_pad|>`).
    pub image_token_id: u32,
    /// The token that stands for one merged video patch.
    pub video_token_id: u32,
    /// The token before an image.
    pub vision_start_token_id: u32,
    /// The token after an image.
    pub vision_end_token_id: u32,
    /// A further placeholder of flat configurations (`<|vision_pad|>`).
    pub vision_token_id: Option<u32>,
    /// Whether the output projection is the token embedding.
    pub tie_word_embeddings: bool,
}

/// The shape of the language model.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the token embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key-value heads; each serves `num_attention_heads / num_key_value_heads` query heads.
    pub num_key_value_heads: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How many rotary frequencies follow the time, height and width index.
    pub mrope_section: [usize; 3],
    /// Standard deviation of a random initialisation.
    pub initializer_range: f64,
    /// The longest sequence the checkpoint was made for; not enforced.
    pub max_position_embeddings: usize,
    /// Start-of-text token, where the file names one.
    pub bos_token_id: Option<u32>,
    /// End-of-turn token, where the file names one.
    pub eos_token_id: Option<u32>,
}

/// The shape of the vision tower.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Transformer blocks.
    pub depth: usize,
    /// Width of a patch's representation.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Colour channels.
    pub in_channels: usize,
    /// Width of a merged token: the language model's hidden size.
    pub out_hidden_size: usize,
    /// Pixels a side of a patch.
    pub patch_size: usize,
    /// Patches a side of a merged token.
    pub spatial_merge_size: usize,
    /// Frames in a patch; an image is repeated.
    pub temporal_patch_size: usize,
    /// Pixels a side of an attention window.
    pub window_size: usize,
    /// Blocks that see the whole image instead of their window.
    pub fullatt_block_indexes: Vec<usize>,
    /// Temporal position units a second of video.
    pub tokens_per_second: usize,
    /// Base of the two-dimensional rotary frequencies.
    pub rope_theta: f64,
}

impl TextConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

impl VisionConfig {
    /// Width of one attention head.
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_heads
    }

    /// Values in one row of `pixel_values`.
    pub fn patch_values(&self) -> usize {
        self.in_channels * self.temporal_patch_size * self.patch_size * self.patch_size
    }

    /// Patches in one merged token.
    pub fn merge_unit(&self) -> usize {
        self.spatial_merge_size * self.spatial_merge_size
    }
}

impl Config {
    /// An error that names the first thing that no model can have.
    pub fn validate(&self) -> Result<()> {
        self.check().map_err(|message| Error::Config {
            origin: "configuration".to_string(),
            message,
        })
    }

    /// The tokens that stand for vision input and are never sampled, ascending.
    pub fn vision_token_ids(&self) -> Vec<u32> {
        let mut ids = vec![
            self.image_token_id,
            self.video_token_id,
            self.vision_start_token_id,
            self.vision_end_token_id,
        ];
        ids.extend(self.vision_token_id);
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let (text, vision) = (&self.text, &self.vision);
        // Far above every real model, and far below what overflows once multiplied.
        const WIDTH: usize = 1 << 24;
        const SIDE: usize = 1024;
        let sizes = [
            ("vocab_size", text.vocab_size, WIDTH),
            ("hidden_size", text.hidden_size, WIDTH),
            ("intermediate_size", text.intermediate_size, WIDTH),
            ("num_hidden_layers", text.num_hidden_layers, WIDTH),
            ("num_attention_heads", text.num_attention_heads, WIDTH),
            ("num_key_value_heads", text.num_key_value_heads, WIDTH),
            (
                "max_position_embeddings",
                text.max_position_embeddings,
                1 << 30,
            ),
            ("vision_config.depth", vision.depth, WIDTH),
            ("vision_config.hidden_size", vision.hidden_size, WIDTH),
            (
                "vision_config.intermediate_size",
                vision.intermediate_size,
                WIDTH,
            ),
            ("vision_config.num_heads", vision.num_heads, WIDTH),
            ("vision_config.in_channels", vision.in_channels, 64),
            (
                "vision_config.out_hidden_size",
                vision.out_hidden_size,
                WIDTH,
            ),
            ("vision_config.patch_size", vision.patch_size, SIDE),
            (
                "vision_config.spatial_merge_size",
                vision.spatial_merge_size,
                64,
            ),
            (
                "vision_config.temporal_patch_size",
                vision.temporal_patch_size,
                64,
            ),
            ("vision_config.window_size", vision.window_size, 1 << 16),
            (
                "vision_config.tokens_per_second",
                vision.tokens_per_second,
                1 << 16,
            ),
        ];
        for (key, size, largest) in sizes {
            if size == 0 || size > largest {
                return Err(format!("{key} = {size}, expected 1 to {largest}"));
            }
        }
        let divides = |what: &str, whole: usize, by: &str, part: usize| {
            if whole.is_multiple_of(part) {
                Ok(())
            } else {
                Err(format!(
                    "{what} = {whole} is not a multiple of {by} = {part}"
                ))
            }
        };
        let (heads, kv_heads) = (text.num_attention_heads, text.num_key_value_heads);
        divides(
            "hidden_size",
            text.hidden_size,
            "num_attention_heads",
            heads,
        )?;
        divides(
            "num_attention_heads",
            heads,
            "num_key_value_heads",
            kv_heads,
        )?;
        divides(
            "vision_config.hidden_size",
            vision.hidden_size,
            "vision_config.num_heads",
            vision.num_heads,
        )?;
        divides(
            "the vision head size",
            vision.head_dim(),
            "4 (two axes, rotated halves)",
            4,
        )?;
        let merged = vision.patch_size * vision.spatial_merge_size;
        divides(
            "vision_config.window_size",
            vision.window_size,
            "merged patch",
            merged,
        )?;
        let section = text
            .mrope_section
            .iter()
            .fold(0usize, |sum, &part| sum.saturating_add(part));
        if section.saturating_mul(2) != text.head_dim() {
            return Err(format!(
                "mrope_section {:?} sums to {section}, expected half of the head size {}",
                text.mrope_section,
                text.head_dim()
            ));
        }
        if vision.out_hidden_size != text.hidden_size {
            return Err(format!(
                "vision_config.out_hidden_size = {} but hidden_size = {}",
                vision.out_hidden_size, text.hidden_size
            ));
        }
        if let Some(block) = vision
            .fullatt_block_indexes
            .iter()
            .find(|&&b| b >= vision.depth)
        {
            return Err(format!(
                "fullatt_block_indexes names block {block}, the vision tower has {}",
                vision.depth
            ));
        }
        let ranges = [
            // Below, it is zero in f32; above, norms no longer norm.
            ("rms_norm_eps", text.rms_norm_eps, 1e-30, 1.0),
            ("rope_theta", text.rope_theta, 1.0, 1e15),
            ("vision rope_theta", vision.rope_theta, 1.0, 1e15),
            ("initializer_range", text.initializer_range, 0.0, 100.0),
        ];
        for (key, value, smallest, largest) in ranges {
            // NaN is in no range.
            if !(smallest..=largest).contains(&value) {
                return Err(format!(
                    "{key} = {value}, expected {smallest:e} to {largest:e}"
                ));
            }
        }
        let images = [
            ("video_token_id", self.video_token_id),
            ("vision_start_token_id", self.vision_start_token_id),
            ("vision_end_token_id", self.vision_end_token_id),
        ];
        if let Some((key, id)) = images.iter().find(|(_, id)| *id == self.image_token_id) {
            return Err(format!("image_token_id and {key} are both {id}"));
        }
        for (key, id) in [
            ("bos_token_id", text.bos_token_id),
            ("eos_token_id", text.eos_token_id),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= text.vocab_size) {
                return Err(format!(
                    "{key} = {id}, the vocabulary has {} entries",
                    text.vocab_size
                ));
            }
        }
        if let Some(id) = self
            .vision_token_ids()
            .into_iter()
            .find(|&id| id as usize >= text.vocab_size)
        {
            return Err(format!(
                "a vision token has id {id}, the vocabulary has {} entries",
                text.vocab_size
            ));
        }
        Ok(())
    }
}

impl Config {
    /// An error for a model that no machine could make from nothing, before anything is made. One that is
    /// loaded is bounded by what its weights hold.
    pub(crate) fn check_affordable(&self) -> Result<()> {
        let (text, vision) = (&self.text, &self.vision);
        let of = |count: usize, width: usize, inner: usize| {
            let (count, width, inner) = (count as u128, width as u128, inner as u128);
            count * width * (4 * width + 3 * inner)
        };
        let parameters = of(
            text.num_hidden_layers,
            text.hidden_size,
            text.intermediate_size,
        ) + of(vision.depth, vision.hidden_size, vision.intermediate_size)
            + 2 * text.vocab_size as u128 * text.hidden_size as u128;
        for (key, layers) in [
            ("num_hidden_layers", text.num_hidden_layers),
            ("vision_config.depth", vision.depth),
        ] {
            if layers > LAYERS || parameters > PARAMETERS {
                return Err(Error::Config {
                    origin: "configuration".to_string(),
                    message: format!(
                        "{key} = {layers}, in all about {parameters} parameters: at most {LAYERS} \
                         layers and {PARAMETERS} parameters are made from nothing"
                    ),
                });
            }
        }
        Ok(())
    }
}

const LAYERS: usize = 4096;
const PARAMETERS: u128 = 1 << 38;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A configuration small enough for tests of whole models.
    pub(crate) fn tiny() -> Config {
        Config {
            text: TextConfig {
                vocab_size: 40,
                hidden_size: 24,
                intermediate_size: 40,
                num_hidden_layers: 3,
                num_attention_heads: 2,
                num_key_value_heads: 1,
                rms_norm_eps: 1e-6,
                rope_theta: 10_000.0,
                mrope_section: [2, 2, 2],
                initializer_range: 0.2,
                max_position_embeddings: 512,
                bos_token_id: None,
                eos_token_id: Some(1),
            },
            vision: VisionConfig {
                depth: 3,
                hidden_size: 16,
                intermediate_size: 20,
                num_heads: 2,
                in_channels: 3,
                out_hidden_size: 24,
                patch_size: 4,
                spatial_merge_size: 2,
                temporal_patch_size: 2,
                window_size: 16,
                fullatt_block_indexes: vec![1],
                tokens_per_second: 2,
                rope_theta: 10_000.0,
            },
            image_token_id: 35,
            video_token_id: 36,
            vision_start_token_id: 37,
            vision_end_token_id: 38,
            vision_token_id: None,
            tie_word_embeddings: true,
        }
    }
}
