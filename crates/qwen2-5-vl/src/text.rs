//! The language model: a decoder with grouped-query attention, RMS norms, SwiGLU and multimodal
//! rotary positions.
//!
//! Each layer computes `x += o(attention(q, k, v))` on `norm(x)`, then `x += mlp(norm(x))`. Of the
//! `dim / 2` rotary frequencies the first `mrope_section[0]` turn by a token's time index, the next
//! `mrope_section[1]` by its height index, the rest by its width index.
//!
//! Source: transformers' `modeling_qwen2_5_vl.py` (5.23). Deviation: sequences are packed and an
//! attention layout says who sees whom, where the reference pads and masks.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use fused_ops::{
    AttentionLayout, FeedForwardWeights, KeptLayer, PackedWeight, Projection, QueryTokens,
    SelfAttentionOptions, SelfAttentionWeights,
};

use crate::config::TextConfig;
use crate::error::{Error, Result};
use crate::layers::{FeedForward, Linear, Rotary, Source, inverse_frequencies};
use crate::positions::Positions;

#[derive(Clone, Debug)]
pub(crate) struct TextDecoder {
    pub embedding: Tensor,
    pub layers: Vec<DecoderLayer>,
    norm: Tensor,
    /// The output projection, or the embedding where the two are tied.
    pub head: Tensor,
    /// The same packed, in a model that generates.
    packed_head: Option<PackedWeight>,
    eps: f64,
    /// The axis and the inverse frequency of every rotary pair.
    frequencies: Vec<(usize, f32)>,
}

#[derive(Clone, Debug)]
pub(crate) struct DecoderLayer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    post_norm: Tensor,
    mlp: FeedForward,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    eps: f64,
}

impl TextDecoder {
    pub fn new(config: &TextConfig, tied: bool, source: &impl Source) -> Result<Self> {
        let embedding = source.tensor("model.embed_tokens.weight")?;
        let head = if tied {
            embedding.clone()
        } else {
            source.tensor("lm_head.weight")?
        };
        let layers = (0..config.num_hidden_layers)
            .map(|index| DecoderLayer::new(config, index, source))
            .collect::<Result<_>>()?;
        let axes = config
            .mrope_section
            .iter()
            .enumerate()
            .flat_map(|(axis, &count)| std::iter::repeat_n(axis, count));
        let frequencies = axes
            .zip(inverse_frequencies(config.rope_theta, config.head_dim()))
            .collect();
        Ok(TextDecoder {
            embedding,
            layers,
            norm: source.tensor("model.norm.weight")?,
            head,
            packed_head: None,
            eps: config.rms_norm_eps,
            frequencies,
        })
    }

    /// Packs the weights of all projections as they are now, for steps of few tokens.
    pub fn pack(&mut self) -> Result<()> {
        self.packed_head = PackedWeight::new(&self.head)?;
        for layer in &mut self.layers {
            let mlp = &mut layer.mlp;
            for linear in [
                &mut layer.q,
                &mut layer.k,
                &mut layer.v,
                &mut layer.o,
                &mut mlp.gate,
                &mut mlp.up,
                &mut mlp.down,
            ] {
                linear.pack()?;
            }
        }
        Ok(())
    }

    /// Scores over the vocabulary, `(tokens, vocab)` in at least f32, of `(tokens, hidden)`.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(match &self.packed_head {
            Some(packed) => packed.linear(hidden, None)?,
            None => fused_ops::logits(hidden, &self.head)?,
        })
    }

    /// The rotary tables of packed tokens, `(tokens, head dim)`.
    pub fn rotary(&self, positions: &Positions, dtype: DType, device: &Device) -> Result<Rotary> {
        // Packed sequences repeat positions: each is looked up in the tables of those that differ.
        let mut known = HashMap::new();
        let mut rows = Vec::with_capacity(positions.len());
        let mut angles = Vec::new();
        for token in 0..positions.len() {
            let place = [0, 1, 2].map(|axis| positions.axis(axis)[token]);
            let next = known.len() as u32;
            let row = *known.entry(place).or_insert(next);
            rows.push(row);
            if row == next {
                angles.extend(
                    self.frequencies
                        .iter()
                        .map(|&(axis, frequency)| place[axis] as f32 * frequency),
                );
            }
        }
        let tables = Rotary::from_angles(&angles, known.len(), dtype, device)?;
        match known.len() == positions.len() {
            true => Ok(tables),
            false => tables.rows(&Tensor::from_vec(rows, positions.len(), device)?),
        }
    }

    /// The last layer, and those before it.
    pub fn split_last(&self) -> Result<(&DecoderLayer, &[DecoderLayer])> {
        let no_layers = || Error::Argument("the decoder has no layers".into());
        self.layers.split_last().ok_or_else(no_layers)
    }

    /// The norm before the output projection.
    pub fn final_norm(&self, x: &Tensor) -> Result<Tensor> {
        Ok(fused_ops::rms_norm(x, &self.norm, self.eps)?)
    }
}

/// Some of the packed tokens, in ascending order: what the last layer needs to be run for. Its keys
/// and values are needed of all tokens, but nothing reads the rest of the others.
pub(crate) struct SomeTokens {
    /// Their indices, u32.
    pub index: Tensor,
    /// Their rotary tables.
    pub rotary: Rotary,
    /// Their queries against the keys of all tokens.
    pub layout: AttentionLayout,
}

impl SomeTokens {
    pub fn new(
        decoder: &TextDecoder,
        tokens: &[usize],
        positions: &Positions,
        layout: &AttentionLayout,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        let index: Vec<u32> = tokens.iter().map(|&token| token as u32).collect();
        Ok(SomeTokens {
            index: Tensor::new(index, device)?,
            rotary: decoder.rotary(&positions.select(tokens)?, dtype, device)?,
            layout: layout.select(tokens)?,
        })
    }
}

impl DecoderLayer {
    fn new(config: &TextConfig, index: usize, source: &impl Source) -> Result<Self> {
        let name = |suffix: &str| format!("model.layers.{index}.{suffix}");
        Ok(DecoderLayer {
            input_norm: source.tensor(&name("input_layernorm.weight"))?,
            q: source.linear(&name("self_attn.q_proj"))?,
            k: source.linear(&name("self_attn.k_proj"))?,
            v: source.linear(&name("self_attn.v_proj"))?,
            o: source.linear_without_bias(&name("self_attn.o_proj"))?,
            post_norm: source.tensor(&name("post_attention_layernorm.weight"))?,
            mlp: FeedForward {
                gate: source.linear_without_bias(&name("mlp.gate_proj"))?,
                up: source.linear_without_bias(&name("mlp.up_proj"))?,
                down: source.linear_without_bias(&name("mlp.down_proj"))?,
            },
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim(),
            eps: config.rms_norm_eps,
        })
    }

    /// `(tokens, hidden)` to `(tokens, hidden)`.
    pub fn forward(&self, x: &Tensor, rotary: &Rotary, layout: &AttentionLayout) -> Result<Tensor> {
        if let Some(weights) = self.unadapted_attention() {
            let options = self.options(rotary, layout, None);
            return self.feed_forward(&fused_ops::self_attention(x, &weights, &options)?);
        }
        let (q, k, v) = self.project(x, rotary)?;
        let attended = self.attend(&q, &k, &v, layout)?;
        self.finish(x, &attended)
    }

    /// [`DecoderLayer::forward`] for some tokens alone, `(some, hidden)`.
    pub fn forward_some(&self, x: &Tensor, rotary: &Rotary, some: &SomeTokens) -> Result<Tensor> {
        if let Some(weights) = self.unadapted_attention() {
            let queries = QueryTokens {
                index: &some.index,
                rotary: some.rotary.tables(),
            };
            let options = self.options(rotary, &some.layout, Some(queries));
            return self.feed_forward(&fused_ops::self_attention(x, &weights, &options)?);
        }
        let (q, k, v) = self.project_some(x, rotary, some)?;
        let attended = self.attend(&q, &k, &v, &some.layout)?;
        self.finish(&x.index_select(&some.index, 0)?, &attended)
    }

    /// Queries `(tokens, heads, dim)`, keys and values `(tokens, kv heads, dim)`; queries and keys
    /// are turned to their positions.
    pub fn project(&self, x: &Tensor, rotary: &Rotary) -> Result<(Tensor, Tensor, Tensor)> {
        let x = fused_ops::rms_norm(x, &self.input_norm, self.eps)?;
        let (k, v) = self.keys_and_values(&x, rotary)?;
        Ok((self.queries(&x, rotary)?, k, v))
    }

    /// The keys and values of [`DecoderLayer::project`] alone.
    pub fn project_keys(&self, x: &Tensor, rotary: &Rotary) -> Result<(Tensor, Tensor)> {
        let x = fused_ops::rms_norm(x, &self.input_norm, self.eps)?;
        self.keys_and_values(&x, rotary)
    }

    /// As [`DecoderLayer::project`], with the queries of some tokens alone.
    pub fn project_some(
        &self,
        x: &Tensor,
        rotary: &Rotary,
        some: &SomeTokens,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let x = fused_ops::rms_norm(x, &self.input_norm, self.eps)?;
        let (k, v) = self.keys_and_values(&x, rotary)?;
        let q = self.queries(&x.index_select(&some.index, 0)?, &some.rotary)?;
        Ok((q, k, v))
    }

    fn queries(&self, normed: &Tensor, rotary: &Rotary) -> Result<Tensor> {
        let q = self.q.forward(normed)?;
        rotary.apply(&q.reshape(((), self.heads, self.head_dim))?)
    }

    fn keys_and_values(&self, normed: &Tensor, rotary: &Rotary) -> Result<(Tensor, Tensor)> {
        let split = |y: Tensor| y.reshape(((), self.kv_heads, self.head_dim));
        let k = split(self.k.forward(normed)?)?;
        let v = split(self.v.forward(normed)?)?;
        Ok((rotary.apply(&k)?, v))
    }

    /// `(queries, heads, dim)`.
    pub fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        layout: &AttentionLayout,
    ) -> Result<Tensor> {
        Ok(fused_ops::attention(q, k, v, layout, self.scale())?)
    }

    /// The probabilities `(heads, queries, keys)` that [`DecoderLayer::attend`] weighs values with.
    pub fn attention_weights(
        &self,
        q: &Tensor,
        k: &Tensor,
        layout: &AttentionLayout,
    ) -> Result<Tensor> {
        let scale = self.scale();
        Ok(fused_ops::composed::attention_weights(q, k, layout, scale)?)
    }

    /// What follows attention: its output projection and the feed-forward layer, both residual.
    pub fn finish(&self, x: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let tokens = x.dim(0)?;
        let attended = attended.reshape((tokens, self.heads * self.head_dim))?;
        self.feed_forward(&(x + self.o.forward(&attended)?)?)
    }

    /// The residual feed-forward layer.
    fn feed_forward(&self, x: &Tensor) -> Result<Tensor> {
        if let Some(weights) = self.unadapted_feed_forward() {
            return Ok(fused_ops::feed_forward(x, &weights)?);
        }
        let inner = fused_ops::rms_norm(x, &self.post_norm, self.eps)?;
        Ok((x + self.mlp.forward(&inner)?)?)
    }

    /// The scale of the scores.
    fn scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }

    fn options<'a>(
        &self,
        rotary: &'a Rotary,
        layout: &'a AttentionLayout,
        queries: Option<QueryTokens<'a>>,
    ) -> SelfAttentionOptions<'a> {
        SelfAttentionOptions {
            rotary: rotary.tables(),
            layout,
            scale: self.scale(),
            queries,
        }
    }

    /// Runs it on `(tokens, hidden)` for gradients that come later, or no further than its keys and
    /// values: [`KeptLayer::new`]. `None` where it is made of operators.
    pub fn kept(
        &self,
        x: &Tensor,
        before: Option<(&KeptLayer, usize)>,
        rotary: &Rotary,
        layout: &AttentionLayout,
        keys_alone: bool,
    ) -> Result<Option<KeptLayer>> {
        let (Some(attention), Some(feed_forward)) =
            (self.unadapted_attention(), self.unadapted_feed_forward())
        else {
            return Ok(None);
        };
        let feed_forward = (!keys_alone).then_some(&feed_forward);
        let options = self.options(rotary, layout, None);
        let kept = KeptLayer::new(x, before, &attention, feed_forward, &options)?;
        Ok(kept)
    }

    /// What the feed-forward layer is made of where no projection has an adapter or is packed.
    fn unadapted_feed_forward(&self) -> Option<FeedForwardWeights<'_>> {
        let FeedForward { gate, up, down } = &self.mlp;
        let alone = [gate, up, down].into_iter().all(Linear::is_weight_alone);
        alone.then_some(FeedForwardWeights {
            norm: &self.post_norm,
            eps: self.eps,
            gate: &gate.weight,
            up: &up.weight,
            down: &down.weight,
        })
    }

    /// What attention is made of where no projection has an adapter or is packed.
    fn unadapted_attention(&self) -> Option<SelfAttentionWeights<'_>> {
        let projections = [&self.q, &self.k, &self.v];
        let alone = |linear: &Linear| linear.is_weight_alone();
        if !alone(&self.o) || !projections.into_iter().all(alone) {
            return None;
        }
        fn with_bias(linear: &Linear) -> Option<Projection<'_>> {
            let bias = linear.bias.as_ref()?;
            let weight = &linear.weight;
            Some(Projection { weight, bias })
        }
        Some(SelfAttentionWeights {
            norm: &self.input_norm,
            eps: self.eps,
            q: with_bias(&self.q)?,
            k: with_bias(&self.k)?,
            v: with_bias(&self.v)?,
            o: &self.o.weight,
            heads: self.heads,
            kv_heads: self.kv_heads,
        })
    }
}
