//! What generation starts from and gives.

use candle_core::Tensor;

use crate::positions::Grid;

/// What generation starts from.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// The tokens, image tokens included.
    pub input_ids: Vec<u32>,
    /// `(merged, hidden)` of [`Model::encode_images`], where there are images.
    pub image_features: Option<Tensor>,
    /// The images' grids.
    pub grids: Vec<Grid>,
}

/// One generated sample.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampled {
    /// The tokens, the stop token included.
    pub token_ids: Vec<u32>,
    /// Each token's log-probability at the temperature (at 1 for greedy) in the full distribution
    /// without vision tokens: before top-p and repetition penalty.
    pub log_probs: Vec<f32>,
    /// Whether a stop token ended it, rather than `max_new_tokens`.
    pub stopped: bool,
}
