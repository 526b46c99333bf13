//! Prefixes that are run once for several continuations, with gradients.
//!
//! A continuation needs of what stands before it the keys and values of every layer. They keep their
//! graph, so the gradient of a continuation goes on through its prefix, and through that of no other:
//! k continuations of C tokens after a prefix of P take the forward pass of `P + k C` tokens and the
//! backward passes of `k (P + C)`, where a sequence for each takes both of `k (P + C)`.

use candle_core::Tensor;
use fused_ops::AttentionLayout;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::Positions;

/// Packed prefixes that were run.
#[derive(Clone, Debug)]
pub struct Prefix {
    /// Keys and values of each layer, `(tokens, kv heads, dim)` each.
    layers: Vec<[Tensor; 2]>,
    tokens: usize,
}

impl Model {
    /// Runs packed prefixes, of input embeddings `(tokens, hidden)`. `layout` has one query and one key
    /// for every token.
    ///
    /// # Errors
    /// Embeddings that do not fit the positions.
    pub fn prefix(
        &self,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Prefix> {
        self.check_tokens(embeddings, positions)?;
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let (last, others) = self.text.split_last()?;
        let mut layers = Vec::with_capacity(others.len() + 1);
        let mut x = embeddings.clone();
        for layer in others {
            let (q, k, v) = layer.project(&x, &rotary)?;
            x = layer.finish(&x, &layer.attend(&q, &k, &v, layout)?)?;
            layers.push([k, v]);
        }
        // Nothing reads what the last layer would give a prefix's own tokens.
        let (k, v) = last.project_keys(&x, &rotary)?;
        layers.push([k, v]);
        Ok(Prefix {
            layers,
            tokens: positions.len(),
        })
    }

    /// Hidden states `(tokens, hidden)` after the final norm of tokens that follow packed prefixes, from
    /// their input embeddings `(tokens, hidden)`. `layout` has a query for each, and a key for each token
    /// of the prefixes and then for each of these.
    ///
    /// # Errors
    /// Embeddings that do not fit the positions, a layout of other tokens.
    pub fn hidden_after(
        &self,
        prefix: &Prefix,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Tensor> {
        self.check_tokens(embeddings, positions)?;
        let tokens = positions.len();
        if (layout.queries(), layout.keys()) != (tokens, prefix.tokens + tokens) {
            return Err(Error::Argument(format!(
                "the layout has {} queries and {} keys; {tokens} tokens after {} need {tokens} and {}",
                layout.queries(),
                layout.keys(),
                prefix.tokens,
                prefix.tokens + tokens
            )));
        }
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let mut x = embeddings.clone();
        for (layer, [keys, values]) in self.text.layers.iter().zip(&prefix.layers) {
            let (q, k, v) = layer.project(&x, &rotary)?;
            let keys = Tensor::cat(&[keys, &k], 0)?;
            let values = Tensor::cat(&[values, &v], 0)?;
            x = layer.finish(&x, &layer.attend(&q, &keys, &values, layout)?)?;
        }
        self.text.final_norm(&x)
    }
}
