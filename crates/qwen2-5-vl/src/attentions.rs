//! What every token looks at, layer by layer: for attention rollout and for pictures.

use candle_core::{DType, Tensor};
use fused_ops::AttentionLayout;

use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::Positions;

impl Model {
    /// The attention probabilities of every decoder layer for packed tokens, averaged over the
    /// heads: one `(tokens, tokens)` matrix a layer, f32, row = query. Rows sum to 1 and are 0 where
    /// `layout` hides a key. Without a graph. Takes `heads * tokens^2` values of memory at a time,
    /// and `layers * tokens^2` for the result.
    ///
    /// Arguments and errors as for [`Model::hidden`].
    pub fn attentions(
        &self,
        embeddings: &Tensor,
        positions: &Positions,
        layout: &AttentionLayout,
    ) -> Result<Vec<Tensor>> {
        self.check_tokens(embeddings, positions)?;
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let mut x = embeddings.detach();
        let mut attentions = Vec::with_capacity(self.text.layers.len());
        for layer in &self.text.layers {
            let (q, k, v) = layer.project(&x, &rotary)?;
            let wide = |x: &Tensor| x.detach().to_dtype(DType::F32);
            let weights = layer.attention_weights(&wide(&q)?, &wide(&k)?, layout)?;
            attentions.push(weights.mean(0)?);
            let attended = layer.attend(&q, &k, &v, layout)?;
            x = layer.finish(&x, &attended)?.detach();
        }
        Ok(attentions)
    }

    /// Queries `(tokens, heads, dim)` and keys `(tokens, kv heads, dim)` of decoder layer `layer`,
    /// turned to their positions, from the residual stream before it (`layer` of
    /// [`Model::residuals`]). With a graph: for losses on what a head looks at.
    ///
    /// # Errors
    /// A layer that the model does not have, and a residual stream of another shape than
    /// `(positions, hidden)`.
    pub fn queries_and_keys(
        &self,
        layer: usize,
        residual: &Tensor,
        positions: &Positions,
    ) -> Result<(Tensor, Tensor)> {
        self.check_tokens(residual, positions)?;
        let layers = &self.text.layers;
        let Some(layer) = layers.get(layer) else {
            return Err(Error::Argument(format!(
                "layer {layer} was asked for, the decoder has {}, counted from 0",
                layers.len()
            )));
        };
        let rotary = self.text.rotary(positions, self.dtype(), self.device())?;
        let (q, k, _) = layer.project(residual, &rotary)?;
        Ok((q, k))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use fused_ops::Segment;
    use seeded_random::Stream;

    use super::*;
    use crate::config::Config;

    /// Two layers with two query heads for each key head.
    fn model() -> Model {
        let json = serde_json::json!({
            "model_type": "qwen2_5_vl",
            "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "rms_norm_eps": 1e-6,
            "initializer_range": 0.2, "tie_word_embeddings": true, "rope_theta": 10000.0,
            "rope_scaling": { "type": "mrope", "mrope_section": [1, 2, 3] },
            "image_token_id": 35, "video_token_id": 36,
            "vision_start_token_id": 37, "vision_end_token_id": 38,
            "vision_config": {
                "depth": 1, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2,
                "out_hidden_size": 24, "patch_size": 4, "window_size": 16,
                "fullatt_block_indexes": [0],
            },
        });
        let config = Config::parse(&json.to_string(), "test").unwrap();
        Model::random(config, Stream::new(1), &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// A prompt of five tokens and two continuations that are blind to each other.
    fn packed(model: &Model) -> (Tensor, Positions, AttentionLayout) {
        let ids = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        let embeddings = model.embed(&ids, None).unwrap();
        let positions = Positions::concat(&[
            Positions::text(0, 5),
            Positions::text(5, 2),
            Positions::text(5, 2),
        ]);
        let segment = |length, parent| Segment { length, parent };
        let layout =
            AttentionLayout::tree(&[segment(5, None), segment(2, Some(0)), segment(2, Some(0))])
                .unwrap();
        (embeddings, positions, layout)
    }

    #[test]
    fn rows_are_distributions_over_what_a_token_may_see() {
        let model = model();
        let (embeddings, positions, layout) = packed(&model);
        let attentions = model.attentions(&embeddings, &positions, &layout).unwrap();
        assert_eq!(attentions.len(), 2);
        let hidden: Vec<bool> = values(&layout.dense_mask(&Device::Cpu, DType::F32).unwrap())
            .iter()
            .map(|mask| *mask < 0.0)
            .collect();
        for attention in &attentions {
            assert_eq!(attention.dims(), [9, 9]);
            assert!(!attention.track_op());
            let attention = values(attention);
            for row in attention.chunks(9) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            }
            for (weight, hidden) in attention.iter().zip(&hidden) {
                assert!(*weight >= 0.0 && (*weight == 0.0) == *hidden);
            }
        }
        assert!(
            model
                .attentions(&embeddings, &Positions::text(0, 3), &layout)
                .is_err()
        );
    }

    /// Applied to a layer's values head by head, the probabilities give the layer's attention; their
    /// mean is what the model returns.
    #[test]
    fn probabilities_reproduce_each_layers_attention() {
        let model = model();
        let (embeddings, positions, layout) = packed(&model);
        let attentions = model.attentions(&embeddings, &positions, &layout).unwrap();
        let residuals = model.residuals(&embeddings, &positions, &layout).unwrap();
        let rotary = model
            .text
            .rotary(&positions, DType::F32, &Device::Cpu)
            .unwrap();
        for (index, layer) in model.text.layers.iter().enumerate() {
            let (_, _, v) = layer.project(&residuals[index], &rotary).unwrap();
            let (q, k) = model
                .queries_and_keys(index, &residuals[index], &positions)
                .unwrap();
            let weights = layer.attention_weights(&q, &k, &layout).unwrap();
            let attended = layer.attend(&q, &k, &v, &layout).unwrap();
            // Both query heads share the one head of values.
            let of_all = v.squeeze(1).unwrap().contiguous().unwrap();
            for head in 0..2 {
                let applied = weights.get(head).unwrap().matmul(&of_all).unwrap();
                let expected = attended.narrow(1, head, 1).unwrap().squeeze(1).unwrap();
                for (a, b) in values(&applied).iter().zip(values(&expected)) {
                    assert!((a - b).abs() < 1e-5, "layer {index}, head {head}: {a}, {b}");
                }
            }
            let mean = weights.mean(0).unwrap();
            for (a, b) in values(&attentions[index]).iter().zip(values(&mean)) {
                assert!((a - b).abs() < 1e-5, "layer {index}: {a}, {b}");
            }
        }
    }

    #[test]
    fn a_layer_that_is_not_there_is_named() {
        let model = model();
        let (embeddings, positions, _) = packed(&model);
        let error = model
            .queries_and_keys(2, &embeddings, &positions)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("layer 2 was asked for, the decoder has 2")
        );
    }
}
