//! Prefixes that are run once for several continuations, with gradients.
//!
//! A continuation needs of what stands before it the keys and values of every layer, and its gradient goes
//! on through those. k continuations of C tokens after a prefix of P take the forward pass of `P + k C`
//! tokens and the backward passes of `k (P + C)`, where a sequence for each takes both of `k (P + C)`.
//!
//! Those of one pass have the keys and values as copies of their own in the layout, so that their
//! gradients are told apart; through the prefix these go back together. Where a layer is made of operators
//! (adapters, other types and devices), copies are made and gradients go back one after the other.
//! Parameters get no gradient.

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};
use fused_ops::{AttentionLayout, KeptLayer};

use crate::error::{Error, Result};
use crate::layers::Rotary;
use crate::model::Model;
use crate::positions::Positions;

/// Packed prefixes that were run.
#[derive(Debug)]
pub struct Prefix {
    tokens: usize,
    pass: PrefixPass,
}

/// How the layers were run.
#[derive(Debug)]
enum PrefixPass {
    Kept(Vec<KeptLayer>),
    /// The input embeddings, and keys and values `(tokens, kv heads, dim)` of each layer with their
    /// graph.
    Graph(Var, Vec<[Tensor; 2]>),
}

/// Continuations of packed prefixes that were run.
#[derive(Debug)]
pub struct Continuations {
    count: usize,
    hidden: Tensor,
    pass: ContinuedPass,
}

#[derive(Debug)]
enum ContinuedPass {
    /// The layers and, as a leaf, what the last one gave.
    Kept(Vec<KeptLayer>, Var),
    /// The input embeddings, and the copies of each layer's keys and values.
    Graph(Var, Vec<[Var; 2]>),
}

impl Continuations {
    /// Hidden states `(tokens, hidden)` after the final norm, whose graph ends in this pass.
    pub fn hidden(&self) -> &Tensor {
        &self.hidden
    }
}

impl Prefix {
    /// From the gradients that a backward pass from the continuations' hidden states gave: those of the
    /// prefixes' input embeddings, `(continuations, tokens, hidden)`, and of the continuations' own,
    /// `(tokens, hidden)`.
    ///
    /// # Errors
    /// When the pass did not come from these continuations, or they are not this prefix's.
    pub fn backward(&self, after: &Continuations, gradients: &GradStore) -> Result<[Tensor; 2]> {
        match (&self.pass, &after.pass) {
            (PrefixPass::Kept(layers), ContinuedPass::Kept(after, out)) => {
                let (own, of) = KeptLayer::backward(after, of_leaf(gradients, out)?)?;
                Ok([KeptLayer::backward_of_keys(layers, &of)?, own])
            }
            (PrefixPass::Graph(embeddings, layers), ContinuedPass::Graph(own, copies)) => {
                let found = (0..after.count).map(|index| {
                    let (first, count) = (index * self.tokens, self.tokens);
                    // The product with a constant has that constant as its gradient.
                    let mut products = Vec::with_capacity(2 * layers.len());
                    for (layer, copies) in layers.iter().zip(copies) {
                        for (own, copies) in layer.iter().zip(copies) {
                            let of = of_leaf(gradients, copies)?.detach();
                            products.push((own * of.narrow(0, first, count)?)?.sum_all()?);
                        }
                    }
                    let gradients = Tensor::stack(&products, 0)?.sum_all()?.backward()?;
                    Ok(of_leaf(&gradients, embeddings)?.clone())
                });
                let found = found.collect::<Result<Vec<_>>>()?;
                let own = of_leaf(gradients, own)?.clone();
                Ok([Tensor::stack(&found, 0)?, own])
            }
            _ => Err(Error::Argument(
                "the continuations are not those of this prefix".into(),
            )),
        }
    }
}

/// The gradient of a leaf.
fn of_leaf<'a>(gradients: &'a GradStore, leaf: &Var) -> Result<&'a Tensor> {
    let missing = || Error::Argument("what was differentiated is not these continuations'".into());
    gradients.get(leaf).ok_or_else(missing)
}

impl Model {
    /// Runs packed prefixes, of input embeddings `(tokens, hidden)`. `layout` has one query and one key
    /// for every token.
    ///
    /// # Errors
    /// Embeddings that do not fit the positions, or none.
    pub fn prefix(
        &self,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Prefix> {
        self.check_tokens(embeddings, positions)?;
        let tokens = positions.len();
        if tokens == 0 {
            return Err(Error::Argument("a prefix has at least one token".into()));
        }
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let pass = match self.kept_layers(None, embeddings, &rotary, layout)? {
            Some(layers) => PrefixPass::Kept(layers),
            None => self.prefix_graph(embeddings, &rotary, layout)?,
        };
        Ok(Prefix { tokens, pass })
    }

    /// Runs tokens that follow packed prefixes, from their input embeddings `(tokens, hidden)`, for some
    /// number of continuations. `layout` has a query for each token, and a key for each of the prefixes,
    /// for each of the continuations, and then for each of these tokens.
    ///
    /// # Errors
    /// Embeddings that do not fit the positions, a layout of other tokens.
    pub fn continuations(
        &self,
        prefix: &Prefix,
        count: usize,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Continuations> {
        self.check_tokens(embeddings, positions)?;
        let (tokens, before) = (positions.len(), count * prefix.tokens);
        if count == 0 || (layout.queries(), layout.keys()) != (tokens, before + tokens) {
            return Err(Error::Argument(format!(
                "the layout has {} queries and {} keys; {tokens} tokens of {count} continuations, at \
                 least one, after {} each need {tokens} and {}",
                layout.queries(),
                layout.keys(),
                prefix.tokens,
                before + tokens
            )));
        }
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let (pass, hidden) = match &prefix.pass {
            PrefixPass::Kept(layers) => {
                let before = Some((layers.as_slice(), count));
                let found = self.kept_layers(before, embeddings, &rotary, layout)?;
                let out = found
                    .as_ref()
                    .and_then(|found| found.last()?.out().cloned());
                let (Some(found), Some(out)) = (found, out) else {
                    let reason = "the continuations' embeddings are not of the prefix's type";
                    return Err(Error::Argument(reason.into()));
                };
                let out = Var::from_tensor(&out)?;
                let hidden = self.text.final_norm(&out)?;
                (ContinuedPass::Kept(found, out), hidden)
            }
            PrefixPass::Graph(_, layers) => {
                let copies = |own: &Tensor| -> Result<Var> {
                    let copies = vec![own.detach(); count];
                    Ok(Var::from_tensor(&Tensor::cat(&copies, 0)?)?)
                };
                let embeddings = Var::from_tensor(&embeddings.detach())?;
                let mut x = embeddings.as_tensor().clone();
                let mut leaves = Vec::with_capacity(layers.len());
                for (layer, [keys, values]) in self.text.layers.iter().zip(layers) {
                    let (keys, values) = (copies(keys)?, copies(values)?);
                    let (q, k, v) = layer.project(&x, &rotary)?;
                    let k = Tensor::cat(&[keys.as_tensor(), &k], 0)?;
                    let v = Tensor::cat(&[values.as_tensor(), &v], 0)?;
                    x = layer.finish(&x, &layer.attend(&q, &k, &v, layout)?)?;
                    leaves.push([keys, values]);
                }
                let hidden = self.text.final_norm(&x)?;
                (ContinuedPass::Graph(embeddings, leaves), hidden)
            }
        };
        Ok(Continuations {
            count,
            hidden,
            pass,
        })
    }

    /// All layers, after those of a prefix or, as a prefix, themselves: nothing reads what the last one
    /// would give a prefix's own tokens. `None` where one is made of operators.
    fn kept_layers(
        &self,
        before: Option<(&[KeptLayer], usize)>,
        embeddings: &Tensor,
        rotary: &Rotary,
        layout: &AttentionLayout,
    ) -> Result<Option<Vec<KeptLayer>>> {
        let count = self.text.layers.len();
        let mut layers = Vec::with_capacity(count);
        let mut x = embeddings.clone();
        for (index, layer) in self.text.layers.iter().enumerate() {
            let keys_alone = before.is_none() && index + 1 == count;
            let before = before.map(|(layers, copies)| (&layers[index], copies));
            let Some(kept) = layer.kept(&x, before, rotary, layout, keys_alone)? else {
                return Ok(None);
            };
            if let Some(out) = kept.out() {
                x = out.clone();
            }
            layers.push(kept);
        }
        Ok(Some(layers))
    }

    fn prefix_graph(
        &self,
        embeddings: &Tensor,
        rotary: &Rotary,
        layout: &AttentionLayout,
    ) -> Result<PrefixPass> {
        let (last, others) = self.text.split_last()?;
        let mut layers = Vec::with_capacity(others.len() + 1);
        let embeddings = Var::from_tensor(&embeddings.detach())?;
        let mut x = embeddings.as_tensor().clone();
        for layer in others {
            let (q, k, v) = layer.project(&x, rotary)?;
            x = layer.finish(&x, &layer.attend(&q, &k, &v, layout)?)?;
            layers.push([k, v]);
        }
        let (k, v) = last.project_keys(&x, rotary)?;
        layers.push([k, v]);
        Ok(PrefixPass::Graph(embeddings, layers))
    }
}
