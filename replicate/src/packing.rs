//! Prompts with their continuations as one packed forward pass.
//!
//! A tree is a prompt and the branches that continue it; branches see the prompt and are blind to
//! each other. `G` episodes of a prompt of `P` tokens and `R` tokens each cost `P + G·R` tokens
//! instead of `G·(P + R)`.

use std::ops::Range;

use candle_core::Tensor;
use fused_ops::{AttentionLayout, Segment, TokenLogProbs};
use qwen2_5_vl::{Model, Positions, Prompt};

use crate::Result;

/// A prompt and the token sequences that continue it.
pub struct Tree<'a> {
    /// The shared prompt.
    pub prompt: &'a Prompt,
    /// Its continuations; none may be empty.
    pub branches: Vec<&'a [u32]>,
}

/// Trees laid out for one forward pass.
pub struct Packed {
    /// Token ids of all segments, one after the other.
    pub input_ids: Vec<u32>,
    /// Their rotary positions.
    pub positions: Positions,
    /// What sees what.
    pub layout: AttentionLayout,
    /// Merged image features of all prompts in order, `(merged, hidden)`.
    pub image_features: Option<Tensor>,
    /// Tokens of each prompt.
    pub prompts: Vec<Range<usize>>,
    /// For each branch of each tree in order, where its tokens stand in `targets`.
    pub branches: Vec<Range<usize>>,
    /// The branches' tokens.
    pub targets: Vec<u32>,
    /// For each target the token whose hidden state predicts it.
    pub predictors: Vec<u32>,
}

impl Packed {
    /// Lays out trees.
    pub fn new(model: &Model, trees: &[Tree<'_>]) -> Result<Self> {
        let mut input_ids = Vec::new();
        let mut positions = Vec::new();
        let mut segments = Vec::new();
        let mut features = Vec::new();
        let (mut prompts, mut branches) = (Vec::new(), Vec::new());
        let (mut targets, mut predictors) = (Vec::new(), Vec::new());
        for (index, tree) in trees.iter().enumerate() {
            let Tree {
                prompt,
                branches: continuations,
            } = tree;
            // Counted for each: prompts whose sums agree could still trade image features.
            let at_fault = qwen2_5_vl::Error::of_prompt(index);
            model
                .image_tokens(&prompt.input_ids, prompt.image_features.as_ref())
                .map_err(&at_fault)?;
            let start = input_ids.len();
            input_ids.extend_from_slice(&prompt.input_ids);
            let own = model
                .positions(&prompt.input_ids, &prompt.grids)
                .map_err(&at_fault)?;
            let next = own.next();
            positions.push(own);
            let parent = segments.len();
            segments.push(Segment {
                length: prompt.input_ids.len(),
                parent: None,
            });
            features.extend(prompt.image_features.iter().cloned());
            let end = input_ids.len();
            prompts.push(start..end);
            for continuation in continuations {
                let first = input_ids.len();
                let from = targets.len();
                for (index, token) in continuation.iter().enumerate() {
                    let predictor = if index == 0 { end } else { first + index } - 1;
                    predictors.push(predictor as u32);
                    targets.push(*token);
                }
                branches.push(from..targets.len());
                // The last token of a branch predicts nothing, so it need not be computed.
                let length = continuation.len().saturating_sub(1);
                if length > 0 {
                    input_ids.extend_from_slice(&continuation[..length]);
                    positions.push(Positions::text(next, length));
                    segments.push(Segment {
                        length,
                        parent: Some(parent),
                    });
                }
            }
        }
        Ok(Packed {
            layout: AttentionLayout::tree(&segments)?,
            positions: Positions::concat(&positions),
            image_features: match features.len() {
                0 => None,
                _ => Some(Tensor::cat(&features, 0)?),
            },
            input_ids,
            prompts,
            branches,
            targets,
            predictors,
        })
    }

    /// Input embeddings, `(tokens, hidden)`.
    pub fn embed(&self, model: &Model) -> Result<Tensor> {
        Ok(model.embed(&self.input_ids, self.image_features.as_ref())?)
    }

    /// Log-probability and entropy of every target at a temperature, from given input embeddings.
    pub fn log_probs(
        &self,
        model: &Model,
        embeddings: &Tensor,
        temperature: f64,
    ) -> Result<TokenLogProbs> {
        // Ascending, each once: branches of one prompt share the token that predicts their first.
        let mut tokens: Vec<usize> = self.predictors.iter().map(|&p| p as usize).collect();
        tokens.sort_unstable();
        tokens.dedup();
        let hidden = model.hidden_of(&tokens, embeddings, &self.positions, &self.layout)?;
        let place = |&p: &u32| tokens.partition_point(|&token| token < p as usize) as u32;
        let index: Vec<u32> = self.predictors.iter().map(place).collect();
        self.score_at(index, model, &hidden, temperature)
    }

    /// As [`Packed::log_probs`], from the hidden states of all tokens, `(tokens, hidden)`.
    pub fn score(&self, model: &Model, hidden: &Tensor, temperature: f64) -> Result<TokenLogProbs> {
        self.score_at(self.predictors.clone(), model, hidden, temperature)
    }

    fn score_at(
        &self,
        index: Vec<u32>,
        model: &Model,
        hidden: &Tensor,
        temperature: f64,
    ) -> Result<TokenLogProbs> {
        let hidden = hidden.index_select(&Tensor::new(index, hidden.device())?, 0)?;
        Ok(model.token_log_probs(&hidden, &self.targets, temperature)?)
    }
}
