//! Gradients with layer-wise activation recompute.
//!
//! The forward pass keeps only each decoder layer's input. The backward pass runs one layer at a
//! time again, now with a graph, on its input as a variable, and takes the gradient of
//! `sum(layer(x) * g)`, which is the vector-Jacobian product of the incoming gradient `g`. The
//! operations and their order are those of the plain backward pass, so the gradients are the same
//! to the last bit. Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost"
//! (arXiv 1604.06174), with every layer a segment.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use fused_ops::AttentionLayout;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::parts::ModelPart;
use crate::positions::Positions;
use crate::text::{DecoderLayer, SomeTokens};

impl Model {
    /// The loss and its gradients, with the activations of one decoder layer in memory at a time.
    ///
    /// `loss` gets the hidden states `(tokens, hidden)` after the final norm and returns a scalar.
    /// The gradients are those of every trainable parameter that the loss depends on, adapters
    /// included, and of every variable that `embeddings` depends on (the token embedding, the vision
    /// tower, or the embeddings themselves when they are a variable). The vision tower's activations
    /// are not recomputed. Gradients are without a graph.
    ///
    /// # Errors
    /// When the loss does not depend on the hidden states, or shapes do not fit.
    pub fn backward_with_recompute(
        &self,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
        loss: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        self.recompute(None, embeddings, positions, layout, loss)
    }

    /// [`Model::backward_with_recompute`] of the hidden states of some tokens alone, `(some, hidden)`, as
    /// [`Model::hidden_of`] gives them: the last layer is run for them only.
    ///
    /// # Errors
    /// As there, and unless the tokens ascend.
    pub fn backward_with_recompute_of(
        &self,
        tokens: &[usize],
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
        loss: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        self.check_tokens(embeddings, positions)?;
        let some = self.some_tokens(tokens, positions, layout)?;
        self.recompute(Some(&some), embeddings, positions, layout, loss)
    }

    fn recompute(
        &self,
        some: Option<&SomeTokens>,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
        loss: impl FnOnce(&Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<(Tensor, GradStore)> {
        self.check_tokens(embeddings, positions)?;
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let count = self.text.layers.len();
        let run = |index: usize, layer: &DecoderLayer, x: &Tensor| match some {
            Some(some) if index + 1 == count => layer.forward_some(x, &rotary, some),
            _ => layer.forward(x, &rotary, layout),
        };
        let lowest = self.lowest_trained(embeddings);
        let forward = self.detached()?;
        let mut inputs = Vec::new();
        let mut x = embeddings.detach();
        for (index, layer) in forward.text.layers.iter().enumerate() {
            let next = run(index, layer, &x)?;
            if index >= lowest {
                inputs.push(x);
            }
            x = next;
        }
        let top = Var::from_tensor(&x)?;
        drop(x);
        let value = loss(&self.text.final_norm(&top)?)?;
        let mut gradients = without_graphs(value.backward()?);
        let mut incoming = take(&mut gradients, &top)?;
        drop(top);
        for (index, layer) in self.text.layers.iter().enumerate().rev() {
            let Some(input) = inputs.pop() else { break };
            let input = Var::from_tensor(&input)?;
            let output = run(index, layer, &input)?;
            let mut local = without_graphs((output * incoming)?.sum_all()?.backward()?);
            incoming = take(&mut local, &input)?;
            gradients.extend(local)?;
        }
        if embeddings.track_op() {
            let below = (embeddings * incoming)?.sum_all()?.backward()?;
            gradients.extend(without_graphs(below))?;
        }
        Ok((value.detach(), gradients))
    }

    /// The lowest layer that a gradient has to reach; the number of layers when none needs one.
    fn lowest_trained(&self, embeddings: &Tensor) -> usize {
        if embeddings.track_op() {
            return 0;
        }
        self.trainable()
            .iter()
            .filter_map(|(name, _)| match ModelPart::of(name) {
                Some(ModelPart::Layer(index)) => Some(index),
                _ => None,
            })
            .min()
            .unwrap_or(self.text.layers.len())
    }
}

/// The same gradients without their graphs: candle's hold on to the activations they came from.
fn without_graphs(gradients: GradStore) -> GradStore {
    let mut detached = GradStore::default();
    for &id in gradients.get_ids() {
        if let Some(gradient) = gradients.get_id(id) {
            detached.insert_id(id, gradient.detach());
        }
    }
    detached
}

/// Takes a variable's gradient out of a store.
fn take(gradients: &mut GradStore, of: &Var) -> Result<Tensor> {
    gradients
        .remove(of)
        .ok_or_else(|| Error::Argument("the loss does not depend on the hidden states".to_string()))
}
